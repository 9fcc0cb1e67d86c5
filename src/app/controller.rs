//! A running controller: everything wired together, started in order and stopped in order.
//!
//! What it is made of comes in as [`Parameters`], each room's own struct, so that the demo and the tests start the same
//! controller as `run` does, without a configuration file.

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use secrecy::ExposeSecret as _;
use tokio::{
    net::TcpListener,
    sync::{Notify, broadcast, mpsc, oneshot, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use super::{
    evidence::{Diagnostician, HepListen, Patience, PbxLine, PbxLines},
    outbox::StoredOutbox,
    pbx::{KnownTrunk, PbxHandle, PbxSettings, PbxStatus, watch_pbx},
    replay,
    steps::{self, Committer, Decider},
};
use crate::{
    api::{self, Access, ApiState, AskDiagnosis, Phase, Readiness, Submission, Token},
    clock::Clock,
    decision::{Board, ControlPolicy, Gate, Input, Outcome, PbxFact},
    effect::outbox::{Dispatcher, OutboxPolicy, Recipients},
    gateway::{Gateway, GatewaySettings, Parts, Refusals},
    ids::PbxId,
    store::{self, Retention, Store},
    wire::{
        ami::client::TcpTransport,
        hep::client::{Heard, HepHandle, HepListener, HepSettings},
    },
};

/// How many requests for a decision may wait for the loop; more are refused.
const SUBMISSIONS: usize = 256;
/// How many committed outcomes a listener may be behind.
const COMMITTED: usize = 1024;
/// HEP messages about registrations that may wait to be looked at; more are dropped and counted.
const HEARD: usize = 16_384;
/// How long a PBX that leaves the configuration is waited for.
const QUIET: Duration = Duration::from_secs(2);
/// How often what is older than the retention is deleted.
const PRUNE: Duration = Duration::from_secs(3600);
/// How long each stage of stopping may take before what still runs is named and left. Together they stay below the 20 s
/// after which a supervisor loses patience; the PBXs' stages run at once.
const GRACE: Duration = Duration::from_secs(4);
/// The same for the dispatcher: a little longer than [`OutboxPolicy::grace`], so that it cuts its attempts off itself.
const DISPATCH_GRACE: Duration = Duration::from_secs(6);
/// The same for the deciding loop and its committer, which try a failing store for a while longer.
const DECIDING_GRACE: Duration = Duration::from_secs(6);
/// The same for the store, which folds its log into the file.
const STORE_GRACE: Duration = Duration::from_secs(3);

/// What a controller is made of.
#[derive(Debug)]
pub struct Parameters {
    /// Where the store is.
    pub store_url: String,
    /// How long what is kept.
    pub retention: Retention,
    /// Where the API listens.
    pub listen: SocketAddr,
    /// Who may ask it; nobody but this machine, without any.
    pub tokens: Vec<Token>,
    /// The PBXs to watch.
    pub pbxs: Vec<PbxSettings>,
    /// What decisions are made by.
    pub policy: ControlPolicy,
    /// Whom messages go to.
    pub recipients: Recipients,
    /// How patient the dispatcher is.
    pub outbox: OutboxPolicy,
    /// The HEP feed, if one is listened to.
    pub hep: Option<HepListen>,
    /// How patient the diagnostician is.
    pub patience: Patience,
    /// The AMI gateway, if there is one.
    pub gateway: Option<GatewaySettings>,
}

/// A running controller.
#[derive(Debug)]
pub struct Controller {
    /// What it knows.
    pub board: Arc<RwLock<Board>>,
    /// What it answers.
    pub gate: Gate,
    /// What it keeps.
    pub store: Arc<dyn Store>,
    /// Where its API listens.
    pub address: SocketAddr,
    access: Access,
    clock: Arc<dyn Clock>,
    ready: Readiness,
    inputs: mpsc::Sender<Input>,
    submissions: mpsc::Sender<Submission>,
    recipients: watch::Sender<Arc<Recipients>>,
    committed: broadcast::Sender<Arc<Outcome>>,
    pbxs: tokio::sync::Mutex<Vec<Watched>>,
    lines: watch::Sender<PbxLines>,
    diagnoses: mpsc::Sender<AskDiagnosis>,
    hep: Option<HepHandle>,
    hep_listen: Option<HepListen>,
    gateway: Option<Gateway>,
    evidence: Stage,
    intake: Stage,
    dispatch: Stage,
    deciding: Stage,
}

/// A PBX that is watched, and how it was told to be.
#[derive(Debug)]
struct Watched {
    settings: PbxSettings,
    handle: PbxHandle,
    stage: Stage,
}

impl Watched {
    /// Whether `settings` want the link it has.
    fn serves(&self, settings: &PbxSettings) -> bool {
        let (mine, other) = (&self.settings.ami, &settings.ami);
        self.settings.pbx == settings.pbx
            && mine.address == other.address
            && mine.username == other.username
            && mine.secret.expose_secret() == other.secret.expose_secret()
            && mine.tls == other.tls
            && mine.plain_login == other.plain_login
    }
}

/// One stage of stopping: its tasks, and what tells them to.
#[derive(Debug, Default)]
struct Stage {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Stage {
    async fn end(&self, what: &str, grace: Duration) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            warn!(stage = what, tasks = self.tasks.len(), "still running after the grace period; left behind");
        }
    }
}

/// Listens for HEP.
fn listen(hep: HepListen, stage: &Stage) -> Result<(HepHandle, mpsc::Receiver<Heard>)> {
    let (out, heard) = mpsc::channel(HEARD);
    let address = hep.listen;
    let settings = HepSettings { password: hep.password, ..HepSettings::new(address) };
    let handle = HepListener::start(settings, &stage.tasks, stage.stop.clone(), out)
        .with_context(|| format!("HEP cannot be listened for on {address} ([hep] listen)"))?;
    Ok((handle, heard))
}

impl Controller {
    /// Starts one: store, board, deciding loop, dispatcher, API, and then the PBXs.
    ///
    /// # Errors
    /// The store cannot be opened or read, or the API cannot listen; nothing runs then.
    pub async fn start(parameters: Parameters, clock: Arc<dyn Clock>) -> Result<Self> {
        crate::telemetry::metrics::install();
        let listener = TcpListener::bind(parameters.listen)
            .await
            .with_context(|| format!("the API cannot listen on {} ([api] listen)", parameters.listen))?;
        let address = listener.local_addr().context("the API's listener has no address")?;
        let store = store::open(&parameters.store_url).await?;
        let restored = store.load().await?;
        let now = clock.now();
        let mut board = restored.board;
        if board.is_new() {
            board = Board::new(rand::random());
        }
        let unseen_since = restored.last_alive.unwrap_or(now).min(now);
        let body = serde_json::to_value(&board).context("the board cannot be written down")?;
        store.journal_append(now, replay::START, body).await?;

        let board = Arc::new(RwLock::new(board));
        let (gate_tx, gate) = Gate::new();
        let (inputs, inputs_rx) = mpsc::channel(steps::INPUTS);
        let (submissions, submissions_rx) = mpsc::channel(SUBMISSIONS);
        let (recipients, recipients_rx) = watch::channel(Arc::new(parameters.recipients));
        let (committed, _) = broadcast::channel(COMMITTED);
        let nudge = Arc::new(Notify::new());
        let ready = Readiness::new();
        let (intake, dispatch, deciding) = (Stage::default(), Stage::default(), Stage::default());
        let evidence = Stage::default();
        let (lines, lines_rx) = watch::channel(PbxLines::default());
        let (diagnoses, asks) = mpsc::channel(SUBMISSIONS);
        let hep_listen = parameters.hep.clone();
        let (hep, heard) = match parameters.hep {
            Some(hep) => {
                let (handle, heard) = listen(hep, &evidence)?;
                (Some(handle), Some(heard))
            }
            None => (None, None),
        };

        let refusals = Refusals::default();
        let gateway = match parameters.gateway {
            Some(settings) => {
                let parts = Parts {
                    gate: gate.clone(),
                    refusals: refusals.clone(),
                    clock: Arc::clone(&clock),
                    tasks: intake.tasks.clone(),
                    stop: intake.stop.child_token(),
                };
                let gateway = Gateway::start(settings, parts).await.context("[gateway] cannot be served")?;
                info!(gateway.address = %gateway.address(), "the gateway listens");
                Some(gateway)
            }
            None => None,
        };

        let decider = Decider {
            board: Arc::clone(&board),
            gate: gate_tx.clone(),
            inputs: inputs_rx,
            submissions: submissions_rx,
            refusals,
            clock: Arc::clone(&clock),
        };
        let committer = Committer {
            store: Arc::clone(&store),
            gate: gate_tx,
            nudge: Arc::clone(&nudge),
            committed: committed.clone(),
            ready: ready.clone(),
            clock: Arc::clone(&clock),
        };
        deciding.tasks.spawn(steps::run(decider, committer, deciding.stop.clone()));

        let controller = Self {
            board,
            gate,
            store,
            address,
            access: Access::new(parameters.tokens),
            clock,
            ready,
            inputs,
            submissions,
            recipients,
            committed,
            pbxs: tokio::sync::Mutex::default(),
            lines,
            diagnoses,
            hep,
            hep_listen,
            gateway,
            evidence,
            intake,
            dispatch,
            deciding,
        };
        // The gate holds for every known trunk before anybody can ask it.
        let policy = Box::new(parameters.policy);
        controller.decide(Input::Started { at: now, unseen_since }).await?;
        controller.decide(Input::Configured { at: now, policy }).await?;

        let dispatcher = Dispatcher {
            outbox: Arc::new(StoredOutbox(Arc::clone(&controller.store))),
            recipients: recipients_rx,
            nudge,
            inputs: controller.inputs.clone(),
            clock: Arc::clone(&controller.clock),
            policy: parameters.outbox,
            tasks: controller.dispatch.tasks.clone(),
        };
        controller.dispatch.tasks.spawn(dispatcher.run(controller.dispatch.stop.clone()));
        let diagnostician = Diagnostician {
            board: Arc::clone(&controller.board),
            committed: controller.committed.subscribe(),
            inputs: controller.inputs.clone(),
            submissions: controller.submissions.clone(),
            lines: lines_rx,
            heard,
            asks,
            clock: Arc::clone(&controller.clock),
            patience: parameters.patience,
            tasks: controller.evidence.tasks.clone(),
        };
        controller.evidence.tasks.spawn(diagnostician.run(controller.evidence.stop.clone()));
        for settings in parameters.pbxs {
            let watched = controller.watch(settings)?;
            controller.pbxs.lock().await.push(watched);
        }
        controller.publish_lines(&controller.pbxs.lock().await);
        controller.serve(listener);
        controller.prune(parameters.retention);
        controller.ready.set_phase(Phase::Running);
        info!(api.address = %address, "the controller runs");
        Ok(controller)
    }

    fn serve(&self, listener: TcpListener) {
        let state = ApiState {
            board: Arc::clone(&self.board),
            gate: self.gate.clone(),
            store: Arc::clone(&self.store),
            submissions: self.submissions.clone(),
            diagnoses: self.diagnoses.clone(),
            access: self.access.clone(),
            clock: Arc::clone(&self.clock),
            ready: self.ready.clone(),
            metrics: crate::telemetry::metrics::render,
            version: env!("CARGO_PKG_VERSION"),
        };
        let stop = self.intake.stop.clone();
        self.intake.tasks.spawn(async move {
            if let Err(error) = api::serve(listener, state, stop).await {
                tracing::error!(%error, "the API ended");
            }
        });
    }

    fn prune(&self, retention: Retention) {
        let (store, clock, stop) = (Arc::clone(&self.store), Arc::clone(&self.clock), self.intake.stop.clone());
        self.intake.tasks.spawn(async move {
            let mut hours = tokio::time::interval(PRUNE);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = hours.tick() => match store.prune(clock.now(), retention).await {
                        Ok(0) => {}
                        Ok(rows) => info!(rows, "deleted what is older than the retention"),
                        Err(error) => warn!(error = %crate::api::problem::chain(&error), "old history could not be deleted; next hour again"),
                    },
                }
            }
        });
    }

    fn watch(&self, mut settings: PbxSettings) -> Result<Watched> {
        let board = self.board.read().unwrap_or_else(PoisonError::into_inner);
        settings.known = (board.trunks())
            .filter(|(id, _)| id.pbx_str() == settings.pbx.as_str())
            .map(|(id, record)| KnownTrunk {
                id: id.clone(),
                registrations: record.health.registrations.keys().cloned().collect(),
                contacts: record.health.contacts.keys().cloned().collect(),
            })
            .collect();
        drop(board);
        let ami = &settings.ami;
        let transport = TcpTransport::new(ami.address.clone(), &ami.tls)
            .with_context(|| format!("pbx[{}].ami cannot be used", settings.pbx))?;
        let stage = Stage { stop: self.intake.stop.child_token(), tasks: TaskTracker::new() };
        let (clock, inputs) = (Arc::clone(&self.clock), self.inputs.clone());
        let handle = watch_pbx(settings.clone(), Arc::new(transport), clock, &stage.tasks, stage.stop.clone(), inputs);
        Ok(Watched { settings, handle, stage })
    }

    /// Tells the diagnostician which PBXs there are.
    fn publish_lines(&self, pbxs: &[Watched]) {
        let line = |one: &Watched| PbxLine {
            link: one.handle.link.clone(),
            status: one.handle.status(),
            evidence: one.settings.evidence,
        };
        self.lines.send_replace(Arc::new(pbxs.iter().map(|one| (one.settings.pbx.clone(), line(one))).collect()));
    }

    /// Waits, a moment, until nothing of ours is on in these any more.
    async fn await_quiet(&self, going: &[Watched]) {
        let on = || {
            let board = self.board.read().unwrap_or_else(PoisonError::into_inner);
            let of = |pbx: &PbxId| going.iter().any(|one| one.settings.pbx == *pbx);
            board.pbxs().any(|(pbx, record)| record.recording && of(pbx))
        };
        let mut waited = Duration::ZERO;
        while on() && waited < QUIET {
            tokio::time::sleep(QUIET / 20).await;
            waited += QUIET / 20;
        }
    }

    /// The gateway, if there is one.
    #[must_use]
    pub fn gateway(&self) -> Option<&Gateway> {
        self.gateway.as_ref()
    }

    /// What became of the HEP packets, if there is a feed.
    #[must_use]
    pub fn hep(&self) -> Option<&HepHandle> {
        self.hep.as_ref()
    }

    /// Stops watching a PBX: nobody hears it any more, so its trunks must not stay as they are.
    async fn unwatch(&self, watched: Watched, why: &str) -> Result<()> {
        watched.stage.end("a PBX", GRACE).await;
        let at = self.clock.now();
        let fact = PbxFact::Lost { last_heard: at, error: why.to_owned() };
        self.decide(Input::Pbx { pbx: watched.settings.pbx, at, fact }).await
    }

    /// How it stands with each PBX, now and from now on.
    pub async fn pbx_statuses(&self) -> Vec<(PbxId, watch::Receiver<PbxStatus>)> {
        let pbxs = self.pbxs.lock().await;
        pbxs.iter().map(|one| (one.settings.pbx.clone(), one.handle.status())).collect()
    }

    /// What is committed from now on.
    #[must_use]
    pub fn committed(&self) -> broadcast::Receiver<Arc<Outcome>> {
        self.committed.subscribe()
    }

    /// Takes a configuration that was read again: decisions, recipients and tokens from now on; PBXs whose connection
    /// changed are connected anew, the others keep their links.
    ///
    /// # Errors
    /// A PBX's TLS files cannot be read, or the controller is stopping. What was taken until then stays.
    pub async fn reconfigure(&self, parameters: Parameters) -> Result<()> {
        // First what can fail: then nothing is changed.
        match (parameters.gateway, &self.gateway) {
            (Some(settings), Some(gateway)) => gateway.configure(settings).context("[gateway] stays as it was")?,
            (None, Some(gateway)) => gateway.dismiss(),
            (Some(_) | None, None) => {}
        }
        self.access.replace(parameters.tokens);
        self.recipients.send_replace(Arc::new(parameters.recipients));
        let same = match (&parameters.hep, &self.hep_listen) {
            (Some(new), Some(old)) => new.is(old),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !same {
            warn!("[hep] was changed; it is listened to as before until the controller is started anew");
        }
        self.decide(Input::Configured { at: self.clock.now(), policy: Box::new(parameters.policy) }).await?;
        let mut pbxs = self.pbxs.lock().await;
        // What is on in an Asterisk that is left must be switched off while there is a link to it.
        let (staying, going): (Vec<Watched>, Vec<Watched>) =
            pbxs.drain(..).partition(|one| parameters.pbxs.iter().any(|settings| one.serves(settings)));
        self.publish_lines(&staying);
        self.await_quiet(&going).await;
        let mut before: Vec<Watched> = staying.into_iter().chain(going).collect();
        for settings in parameters.pbxs {
            let same = before.iter().position(|watched| watched.serves(&settings));
            if let Some(place) = same {
                let mut watched = before.swap_remove(place);
                let PbxSettings { declared, reconcile, ami, evidence, .. } = settings;
                watched.settings.evidence = evidence;
                watched.handle.declare(declared, reconcile, ami.unknown_after).await;
                pbxs.push(watched);
                continue;
            }
            // Its old link, if it has one, must be gone before a new one speaks for the PBX.
            if let Some(place) = before.iter().position(|watched| watched.settings.pbx == settings.pbx) {
                self.unwatch(before.swap_remove(place), "its connection is configured anew").await?;
            }
            pbxs.push(self.watch(settings)?);
        }
        self.publish_lines(&pbxs);
        for gone in before {
            self.unwatch(gone, "it is no longer configured").await?;
        }
        Ok(())
    }

    /// Has one input decided, and waits until it is committed.
    ///
    /// # Errors
    /// The controller is stopping, or the decision could not be stored.
    pub async fn decide(&self, input: Input) -> Result<()> {
        let (done, decided) = oneshot::channel();
        if self.submissions.send(Submission { input, done }).await.is_err() {
            bail!("the controller is stopping");
        }
        decided.await.context("the controller stopped before it answered")??;
        Ok(())
    }

    /// Stops: first what takes in, then the dispatcher, then the deciding loop once it has decided and stored what came
    /// in, then the store.
    pub async fn stop(self) {
        self.ready.set_phase(Phase::Stopping);
        info!("stopping");
        // First what has to switch something off in Asterisk.
        self.evidence.end("diagnosis", GRACE).await;
        // The PBXs' tokens are children of the intake's.
        let watched: Vec<Watched> = self.pbxs.lock().await.drain(..).collect();
        let pbxs = watched.iter().map(|one| one.stage.end(one.settings.pbx.as_str(), GRACE));
        tokio::join!(self.intake.end("intake", GRACE), futures_util::future::join_all(pbxs));
        self.dispatch.end("dispatcher", DISPATCH_GRACE).await;
        drop(self.inputs);
        self.deciding.end("deciding", DECIDING_GRACE).await;
        if tokio::time::timeout(STORE_GRACE, self.store.close()).await.is_err() {
            warn!("the store is still at work after the grace period; left behind, its log is read at the next start");
        }
        info!("stopped");
    }
}
