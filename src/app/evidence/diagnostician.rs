//! The task that has failures explained: it gathers what the sources show, has each failing registration judged, and says
//! what is new.
//!
//! It is told of every attempt that ended by what was committed, looks over the board once a second for what has no event
//! (a refresh that is late, an Asterisk that gave up), and hears the HEP feed. A look costs a fraction of a millisecond; it
//! is made when there is something new to look at, a moment after it came, so that one attempt's messages are seen together.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use super::{
    Patience, PbxEvidence, heal,
    history::{self, Collected, Collecting, Purpose},
    hub::{Ended, Hub, Interest, Key},
    patient::{Patient, Signs},
};
use crate::{
    api::{AskDiagnosis, NoExamination, Submission},
    app::{
        configuration::{ConfigurationGaps, read_configuration},
        pbx::{PbxStatus, Permission},
    },
    clock::{Clock, Timestamp, after, between},
    decision::{Board, Input, Outcome, PbxFact, TrunkRecord},
    diagnosis::{
        Brief, Case, Cause, Watched,
        judge::diagnose,
        layers::{Examination, Verdict},
    },
    ids::{EndpointName, PbxId, RegistrationName, TrunkId},
    observation::{Fact, Observation, RegistrationState},
    wire::{
        ami::{Action, client::LinkHandle},
        hep::client::Heard,
        pjsip::Objects,
        sip::{digest::Secret, trace::Source},
    },
};

/// How often what is due is looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often the board is looked over.
const ROUND: Duration = Duration::from_secs(1);
/// How long after the last sign a look is taken: the feed and the event of one response are milliseconds apart.
const SETTLE: Duration = Duration::from_millis(60);
/// How often at most a registration that is well is looked at.
const WELL: Duration = Duration::from_secs(10);
/// After so long a silence of the HEP feed the history is used instead; refreshes may be an hour apart, failures are not.
const HEP_SILENT: Duration = Duration::from_secs(900);
/// How often it is read without need, so that it is known with which secret a registration was accepted.
const REREAD: Duration = Duration::from_secs(600);
/// How long after the start a HEP feed that is listened to is waited for, before the history is used instead.
const HEP_EXPECTED: Duration = Duration::from_secs(60);
/// A HEP feed that was heard within this shows what there is, and what there is not.
const HEP_HEARD: Duration = Duration::from_secs(120);
/// So many registrations that are gone may be remembered.
const GONE: usize = 1024;
/// How long an attempt that is asked for waits for the history to be on.
const HISTORY_PATIENCE: Duration = Duration::from_secs(6);
/// How long a look waits for the configuration.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Registrations whose endpoint and transport are read at a time; of all others the lists say enough.
const DETAILED: usize = 32;
/// Requests for a diagnosis that wait.
const ASKED: usize = 64;
/// How often it is tried to switch off a history that was left on, and how long between.
const CLEAN_UPS: u32 = 6;
const BETWEEN_CLEAN_UPS: Duration = Duration::from_secs(5);
/// How long an attempt that was asked for is waited for: 32 s of silence, twice, and the delay between.
const ATTEMPT: Duration = Duration::from_secs(80);

/// What the diagnostician knows of a PBX's line.
#[derive(Debug, Clone)]
pub struct PbxLine {
    /// Asks it things.
    pub link: LinkHandle,
    /// How it stands.
    pub status: watch::Receiver<PbxStatus>,
    /// How its failures are looked into.
    pub evidence: PbxEvidence,
}

/// The PBXs that are watched.
pub type PbxLines = Arc<BTreeMap<PbxId, PbxLine>>;

/// What it is made of.
#[derive(Debug)]
pub struct Diagnostician {
    /// What the controller knows.
    pub board: Arc<RwLock<Board>>,
    /// What was committed.
    pub committed: broadcast::Receiver<Arc<Outcome>>,
    /// Where what it finds goes.
    pub inputs: mpsc::Sender<Input>,
    /// Where what must be stored before it is done goes.
    pub submissions: mpsc::Sender<Submission>,
    /// The PBXs.
    pub lines: watch::Receiver<PbxLines>,
    /// The HEP feed.
    pub heard: Option<mpsc::Receiver<Heard>>,
    /// Who asks.
    pub asks: mpsc::Receiver<AskDiagnosis>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// How patient it is.
    pub patience: Patience,
    /// Its own tasks: readings.
    pub tasks: TaskTracker,
}

/// The configuration of a PBX, as it was read last.
#[derive(Debug, Default)]
struct Known {
    objects: Arc<Objects>,
    gaps: ConfigurationGaps,
    read_at: Option<Timestamp>,
    /// It was reloaded since the last reading began.
    stale: bool,
    /// When it was reloaded last.
    reloaded_at: Option<Timestamp>,
    /// Somebody asks, and wants it as it is now.
    again: bool,
    reading: bool,
    wanted: BTreeSet<RegistrationName>,
    /// Of which of them endpoint and transport were read too.
    detailed: BTreeSet<RegistrationName>,
}

impl Known {
    /// Takes what was read in: what was read of others before stays true until a reload.
    fn take(
        &mut self,
        names: BTreeSet<RegistrationName>,
        objects: Objects,
        gaps: ConfigurationGaps,
        fresh: bool,
        at: Timestamp,
    ) {
        let before = if fresh { Objects::default() } else { Objects::clone(&self.objects) };
        self.objects = Arc::new(laid_over(before, objects));
        if fresh {
            self.detailed.clear();
        }
        self.detailed.extend(names);
        self.gaps = gaps;
        self.read_at = Some(at);
        self.reading = false;
    }
}

/// What a task brought.
#[derive(Debug)]
enum Brought {
    Configuration {
        pbx: PbxId,
        names: BTreeSet<RegistrationName>,
        objects: Box<Objects>,
        gaps: ConfigurationGaps,
        /// It was reloaded before: nothing read earlier counts any more.
        fresh: bool,
    },
    /// A history that was left on could not be switched off.
    CleanUpFailed(PbxId),
    Collected(PbxId, Collected),
}

/// An attempt that was asked for.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    asked_at: Timestamp,
    /// When Asterisk was told to make it: once whatever is to show it is on.
    sent_at: Option<Timestamp>,
}

/// Somebody waits for a diagnosis.
#[derive(Debug)]
struct Asked {
    trunk: TrunkId,
    /// An attempt was asked for too.
    attempt: Option<Attempt>,
    until: Timestamp,
    answer: oneshot::Sender<Result<Examination, NoExamination>>,
}

/// The state of the task.
struct Round {
    hub: Hub,
    patients: HashMap<Key, Patient>,
    known: BTreeMap<PbxId, Known>,
    collecting: BTreeMap<PbxId, Collecting>,
    heals: heal::Heals,
    asked: Vec<Asked>,
    brought: mpsc::Sender<Brought>,
    /// What hashes of secrets are keyed with: they mean nothing outside this run.
    salt: [u8; 32],
    /// HEP packets of a capture id that is no PBX's.
    strangers: BTreeSet<Option<u32>>,
    /// PBXs whose history an earlier run left on, and that were told to switch it off.
    cleaning: BTreeSet<PbxId>,
    started: Timestamp,
    looked_over: Option<Timestamp>,
}

impl Diagnostician {
    /// Works until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let (brought, mut bringing) = mpsc::channel(16);
        let mut round = Round {
            hub: Hub::default(),
            patients: HashMap::new(),
            known: BTreeMap::new(),
            collecting: BTreeMap::new(),
            heals: heal::Heals::default(),
            asked: Vec::new(),
            brought,
            salt: rand::random(),
            strangers: BTreeSet::new(),
            cleaning: BTreeSet::new(),
            started: self.clock.now(),
            looked_over: None,
        };
        self.recall(&mut round);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                // Ten times a second at most, so nothing starves behind it; the feed comes last, whoever floods it.
                _ = ticks.tick() => self.tick(&mut round).await,
                Some(brought) = bringing.recv() => self.brought(&mut round, brought),
                Some(ask) = self.asks.recv() => self.asked(&mut round, ask),
                outcome = self.committed.recv() => match outcome {
                    Ok(outcome) => self.committed(&mut round, &outcome),
                    // What was missed is found on the board.
                    Err(broadcast::error::RecvError::Lagged(missed)) => debug!(missed, "outcomes were not looked at"),
                    Err(broadcast::error::RecvError::Closed) => break,
                },
                Some(heard) = hear(&mut self.heard) => self.heard(&mut round, heard),
            }
        }
        let ending = round.collecting.into_iter().map(|(pbx, collecting)| async move { collecting.end(&pbx).await });
        futures_util::future::join_all(ending).await;
    }

    fn board(&self) -> std::sync::RwLockReadGuard<'_, Board> {
        self.board.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was said before a restart is not said again.
    fn recall(&self, round: &mut Round) {
        for (id, record) in self.board().trunks() {
            let Some(known) = record.diagnosis.as_ref().filter(|known| known.current) else { continue };
            let Some(name) = known.brief.subject.registration.as_deref() else { continue };
            let Ok(name) = RegistrationName::try_from(name) else { continue };
            round.patients.entry((id.pbx(), name)).or_default().said = Some(known.brief.clone());
        }
    }

    fn committed(&self, round: &mut Round, outcome: &Outcome) {
        match &outcome.input {
            Some(Input::Seen(Observation { trunk, at, fact: Fact::Registration { registration, state, source } })) => {
                let key = (trunk.pbx(), registration.clone());
                let patient = round.patients.entry(key).or_default();
                if *source == crate::observation::Source::Event {
                    patient.attempt(*at, *state);
                }
                if *state == RegistrationState::Registered {
                    // A list may say so too, after a restart or a lost link: what was said is past.
                    patient.well();
                    round.heals.forget(&(trunk.pbx(), registration.clone()));
                    if patient.said.is_some() || patient.registered_lately(*at) > 3 {
                        patient.look_by(after(*at, WELL));
                    }
                } else {
                    patient.look_by(after(*at, SETTLE));
                }
            }
            Some(Input::Pbx { pbx, fact: PbxFact::Listed { .. } | PbxFact::Connected { .. }, .. }) => {
                self.listed(round, pbx);
            }
            Some(Input::Pbx { pbx, fact: PbxFact::Reloaded, .. }) => {
                let known = round.known.entry(pbx.clone()).or_default();
                known.stale = true;
                known.reloaded_at = Some(self.clock.now());
            }
            Some(_) | None => {}
        }
    }

    /// Which registrations there are.
    fn listed(&self, round: &mut Round, pbx: &PbxId) {
        let board = self.board();
        let of = |(id, record): (&TrunkId, &TrunkRecord)| {
            let id = id.clone();
            let interest = move |listed: &crate::observation::ListedRegistration| Interest {
                trunk: id.clone(),
                registration: listed.name.clone(),
                client_uri: listed.client_uri.clone(),
                server_uri: listed.server_uri.clone(),
            };
            record.registrations.iter().map(interest).collect::<Vec<_>>()
        };
        let interests = board.trunks().filter(|(id, _)| id.pbx_str() == pbx.as_str()).flat_map(of).collect();
        drop(board);
        round.hub.listed(pbx, interests);
    }

    fn heard(&self, round: &mut Round, heard: Heard) {
        let lines = self.lines.borrow().clone();
        let only = if lines.len() == 1 { lines.keys().next() } else { None };
        let own = |line: &PbxLine| heard.capture_id.is_some() && line.evidence.capture_id == heard.capture_id;
        let Some(pbx) = lines.iter().find(|(_, line)| own(line)).map(|(pbx, _)| pbx).or(only) else {
            if round.strangers.len() < 64 && round.strangers.insert(heard.capture_id) {
                warn!(
                    hep.capture_id = heard.capture_id, peer.addr = %heard.peer,
                    "HEP packets of a capture id that no PBX has: set capture_id in its [pbx.evidence]"
                );
            }
            return;
        };
        let now = self.clock.now();
        round.hub.hep_heard(pbx, now);
        let mut seen = heard.seen;
        // By our own clock, as all that AMI tells: several PBXs' clocks would not agree.
        seen.at = now;
        for (name, ended) in round.hub.take(pbx, seen) {
            let patient = round.patients.entry((pbx.clone(), name)).or_default();
            match ended {
                // At once: the event that follows from it is on its way.
                Some(Ended::Refused) => patient.look_by(now),
                Some(Ended::Accepted) => patient.look_by(after(now, SETTLE)),
                None => {}
            }
        }
    }

    fn brought(&self, round: &mut Round, brought: Brought) {
        let now = self.clock.now();
        match brought {
            Brought::CleanUpFailed(pbx) => {
                round.cleaning.remove(&pbx);
            }
            Brought::Configuration { pbx, names, objects, gaps, fresh } => {
                for name in &names {
                    round.patients.entry((pbx.clone(), name.clone())).or_default().look_by(now);
                }
                round.known.entry(pbx.clone()).or_default().take(names, *objects, gaps, fresh, now);
                self.remember_secrets(round, &pbx);
            }
            Brought::Collected(pbx, collected) => match collected {
                Collected::Seen(seen) => {
                    for (name, _) in seen.into_iter().flat_map(|seen| round.hub.take(&pbx, seen)) {
                        round.patients.entry((pbx.clone(), name)).or_default().look_by(now);
                    }
                }
                Collected::Ended => {
                    if let Some(collecting) = round.collecting.remove(&pbx) {
                        for key in collecting.wanted {
                            let patient = round.patients.entry(key).or_default();
                            let known = patient.said.as_ref().is_some_and(|said| said.cause != Cause::Unknown);
                            patient.fruitless = if known { 0 } else { patient.fruitless.saturating_add(1) };
                            patient.history_after = Some(after(now, history::pause(patient.fruitless, known)));
                        }
                    }
                }
            },
        }
    }

    /// Notes with which secret each registration is registered: a refusal later on means something else then.
    fn remember_secrets(&self, round: &mut Round, pbx: &PbxId) {
        let Some(known) = round.known.get(pbx) else { return };
        let (objects, reloaded_at) = (Arc::clone(&known.objects), known.reloaded_at);
        let board = self.board();
        for interest in round.hub.interests(pbx) {
            let record = board.trunk(&interest.trunk);
            let one = record.and_then(|record| record.health.registrations.get(&interest.registration));
            if one.is_some_and(|one| one.state == Some(RegistrationState::Registered)) {
                // What was changed by a reload since the last refresh has not been accepted yet.
                let accepted = one.and_then(|one| one.last_registered_at);
                let proven = reloaded_at.is_none_or(|reloaded| accepted.is_some_and(|at| at > reloaded));
                if let Some(print) = fingerprint(&round.salt, &objects, &interest.registration).filter(|_| proven) {
                    let patient = round.patients.entry((pbx.clone(), interest.registration.clone())).or_default();
                    patient.registered_with = Some(print);
                }
            }
        }
    }

    async fn tick(&mut self, round: &mut Round) {
        let now = self.clock.now();
        if round.looked_over.is_none_or(|last| between(last, now) >= ROUND || last > now) {
            round.looked_over = Some(now);
            self.look_over(round, now);
            self.heal(round, now);
        }
        let due: Vec<Key> = (round.patients.iter())
            .filter(|(_, patient)| patient.due.is_some_and(|due| due <= now))
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            self.look(round, &key, now).await;
        }
        self.read(round, now);
        self.collect(round, now);
        self.begin_attempts(round, now);
        self.answer(round, now);
    }

    /// Looks over the board for what came without an event.
    fn look_over(&self, round: &mut Round, now: Timestamp) {
        let lines = self.lines.borrow().clone();
        for pbx in lines.keys() {
            self.listed(round, pbx);
        }
        round.known.retain(|pbx, _| lines.contains_key(pbx));
        round.hub.keep(|pbx| lines.contains_key(pbx));
        let board = self.board();
        let known: usize = board.trunks().map(|(_, record)| record.health.registrations.len()).sum();
        if round.patients.len() > known + GONE {
            let of = |(id, record): (&TrunkId, &TrunkRecord)| {
                let pbx = id.pbx();
                record.health.registrations.keys().map(|name| (pbx.clone(), name.clone())).collect::<Vec<Key>>()
            };
            let there: HashSet<Key> = board.trunks().flat_map(of).collect();
            round.patients.retain(|key, _| there.contains(key));
        }
        for (id, record) in board.trunks() {
            let pbx = id.pbx();
            if !lines.contains_key(&pbx) {
                continue;
            }
            for (name, one) in &record.health.registrations {
                let signs = Signs::of(&record.health, name, one);
                let well = signs.state == Some(RegistrationState::Registered) && signs.overdue_since.is_none();
                if well || one.state.is_none() {
                    continue;
                }
                let key = (pbx.clone(), name.clone());
                let revision = round.hub.revision(&key);
                let patient = round.patients.entry(key).or_default();
                patient.failing_since.get_or_insert(one.since.max(round.started));
                // What the board does not know any more is said again.
                let told = record.diagnosis.as_ref().is_some_and(|known| known.current);
                if !told && patient.said.take_if(|said| !said.cause.concerns_registered()).is_some() {
                    patient.look_by(now);
                }
                if patient.looked_at.as_ref() != Some(&(revision, signs)) {
                    patient.look_by(now);
                }
            }
        }
    }

    /// Looks at one registration, and says what is new.
    async fn look(&mut self, round: &mut Round, key: &Key, now: Timestamp) {
        let Some(interest) = round.hub.interest(key).cloned() else {
            // It is not there any more, or not listed yet.
            if let Some(patient) = round.patients.get_mut(key) {
                patient.due = None;
            }
            return;
        };
        let known = round.known.entry(key.0.clone()).or_default();
        if !known.detailed.contains(&key.1) || known.stale {
            known.wanted.insert(key.1.clone());
        }
        let unread = known.stale || (known.reading && known.reloaded_at > known.read_at);
        if known.read_at.is_none() || unread {
            // What is configured decides between causes: it is waited for, a moment.
            let patient = round.patients.entry(key.clone()).or_default();
            let waited = patient.due.map_or(Duration::ZERO, |due| between(due, now));
            if waited < PATIENCE && self.can_read(&key.0) {
                return;
            }
        }
        let Some(Examined { said, revision, signs, was_seen }) = self.examine(round, &interest, now, diagnose) else {
            // Listed, and nothing said of it yet: what comes next has it looked at again.
            if let Some(patient) = round.patients.get_mut(key) {
                patient.due = None;
            }
            return;
        };
        let Some(patient) = round.patients.get_mut(key) else { return };
        patient.due = None;
        patient.looked_at = Some((revision, signs));
        let finding = match said {
            Some(diagnosis) => {
                let since = patient.failing_since.unwrap_or(now);
                let waits = diagnosis.cause == Cause::Unknown && between(since, now) < self.patience.before_unknown;
                if waits {
                    patient.looked_at = None;
                    patient.due = Some(after(since, self.patience.before_unknown));
                    return;
                }
                if !patient.is_news(&diagnosis) {
                    return;
                }
                patient.said = Some(Brief::from(&diagnosis));
                Some(Box::new(diagnosis))
            }
            None => {
                // That it is well the board knows by itself; what a registered one had must be seen to be gone.
                let said = patient.said.take_if(|said| said.cause.concerns_registered() && was_seen);
                if said.is_none() {
                    return;
                }
                None
            }
        };
        if let Some(diagnosis) = &finding {
            info!(
                trunk.id = %interest.trunk, cause = %diagnosis.cause, confidence = diagnosis.confidence,
                fault = %diagnosis.fault, "trunk diagnosed"
            );
        }
        let input = Input::Diagnosed { at: now, trunk: interest.trunk, diagnosis: finding };
        // The deciding loop ends after this task.
        let _ended = self.inputs.send(input).await;
    }

    /// Has `say` look at all that is known of one registration.
    fn examine<T>(
        &self,
        round: &Round,
        interest: &Interest,
        now: Timestamp,
        say: impl FnOnce(&Case<'_>) -> T,
    ) -> Option<Examined<T>> {
        let key = (interest.trunk.pbx(), interest.registration.clone());
        let (seen, revision) = round.hub.trail(&key);
        let known = round.known.get(&key.0);
        let objects = known.filter(|known| known.read_at.is_some()).map(|known| Arc::clone(&known.objects));
        let patient = round.patients.get(&key);
        let secret = objects.as_ref().and_then(|objects| fingerprint(&round.salt, objects, &interest.registration));
        let before = patient.and_then(|patient| patient.registered_with);
        let same_secret = before.map(|before| Some(before) == secret);
        let (facts, signs) = {
            let board = self.board();
            let record = board.trunk(&interest.trunk)?;
            let one = record.health.registrations.get(&interest.registration)?;
            let signs = Signs::of(&record.health, &interest.registration, one);
            let fresh = Patient::default();
            (patient.unwrap_or(&fresh).facts(one, &signs, same_secret, now), signs)
        };
        let mut watched: Vec<Watched> = Vec::new();
        // That nothing was on the wire may be said only by a feed that was just heard.
        if let Some(since) = round.hub.hep_since(&key.0, now, HEP_HEARD) {
            watched.push(Watched { source: Source::Hep, since });
        }
        if let Some(collecting) = round.collecting.get(&key.0) {
            watched.push(Watched { source: Source::History, since: collecting.since });
        }
        let was_seen = !seen.is_empty();
        let case = Case {
            trunk: Some(interest.trunk.clone()),
            registration: Some(interest.registration.clone()),
            client_uri: Some(interest.client_uri.clone()),
            server_uri: Some(interest.server_uri.clone()),
            contact_user: None,
            objects: objects.as_deref(),
            seen: &seen,
            watched,
            facts: Some(facts),
            now: Some(now),
            ..Case::default()
        };
        Some(Examined { said: say(&case), revision, signs, was_seen })
    }

    fn can_read(&self, pbx: &PbxId) -> bool {
        self.lines.borrow().get(pbx).is_some_and(|line| line.status.borrow().listed)
    }

    /// Reads the configurations that are wanted.
    fn read(&self, round: &mut Round, now: Timestamp) {
        let lines = self.lines.borrow().clone();
        for (pbx, line) in lines.iter() {
            let known = round.known.entry(pbx.clone()).or_default();
            let aged = known.read_at.is_none_or(|read| between(read, now) >= REREAD) || known.stale || known.again;
            let nothing_new = !aged && known.wanted.is_empty();
            if known.reading || nothing_new || !line.status.borrow().listed {
                continue;
            }
            known.reading = true;
            known.again = false;
            let fresh = std::mem::take(&mut known.stale);
            // Those that fail now, before those that did.
            // At first the lists of all: with which secret each is registered now is known only now.
            let mut names = if known.read_at.is_none() { BTreeSet::new() } else { std::mem::take(&mut known.wanted) };
            while names.len() > DETAILED {
                known.wanted.extend(names.pop_last());
            }
            let (link, brought, pbx) = (line.link.clone(), round.brought.clone(), pbx.clone());
            let rights = line.status.borrow().rights;
            let endpoints = self.endpoints_of(round.hub.interests(&pbx), &names);
            self.tasks.spawn(async move {
                let wanted: Vec<RegistrationName> = names.iter().cloned().collect();
                let (objects, gaps) = read_configuration(&link, &wanted, &endpoints, rights).await;
                let _ended =
                    brought.send(Brought::Configuration { pbx, names, objects: Box::new(objects), gaps, fresh }).await;
            });
        }
    }

    /// The endpoints of the trunks these registrations belong to.
    fn endpoints_of(&self, interests: &[Interest], names: &BTreeSet<RegistrationName>) -> Vec<EndpointName> {
        let board = self.board();
        let of_these = interests.iter().filter(|interest| names.contains(&interest.registration));
        let records = of_these.filter_map(|interest| board.trunk(&interest.trunk));
        let endpoints: BTreeSet<EndpointName> = records.flat_map(|record| record.endpoints.iter().cloned()).collect();
        endpoints.into_iter().collect()
    }

    /// Has Asterisk's own history read, where that may tell more.
    fn collect(&self, round: &mut Round, now: Timestamp) {
        let lines = self.lines.borrow().clone();
        // Of a PBX that leaves the configuration, while its link is still there.
        for (_, collecting) in round.collecting.iter().filter(|(pbx, _)| !lines.contains_key(*pbx)) {
            collecting.enough();
        }
        for (pbx, line) in lines.iter() {
            if self.clean_up(round, pbx, line) {
                continue;
            }
            let may = |permission: Permission| matches!(permission, Permission::Granted | Permission::Untried);
            let ready = line.status.borrow().listed && may(line.status.borrow().rights.command);
            let hep = round.hub.hep_since(pbx, now, HEP_SILENT).is_some();
            if hep && let Some(collecting) = round.collecting.get(pbx) {
                collecting.enough();
            }
            // A feed that is listened to is given a while to be heard.
            let hep = hep || (self.heard.is_some() && between(round.started, now) < HEP_EXPECTED);
            if !line.evidence.history || !ready || hep {
                continue;
            }
            if let Some(collecting) = round.collecting.get(pbx) {
                let told = |key: &Key| {
                    let said = round.patients.get(key).and_then(|patient| patient.said.as_ref());
                    said.is_some_and(|said| said.cause != Cause::Unknown) && round.hub.has(key, Source::History)
                };
                if collecting.wanted.iter().all(told) && round.asked.is_empty() {
                    collecting.enough();
                }
                continue;
            }
            let wanted = self.history_wanted(round, pbx, now);
            if wanted.is_empty() {
                continue;
            }
            // Those that nothing is known of; one that is known to register without end would fill every reading.
            let unknown = |one: &&Interest| {
                let key = (pbx.clone(), one.registration.clone());
                let patient = round.patients.get(&key);
                let known = patient.and_then(|patient| patient.said.as_ref());
                let fails = patient.is_some_and(|patient| patient.failing_since.is_some());
                wanted.contains(&key) || (fails && known.is_none_or(|said| said.cause == Cause::Unknown))
            };
            let of_interest = round.hub.interests(pbx).iter().filter(unknown);
            let uris = of_interest.map(|one| (one.server_uri.clone(), one.client_uri.clone())).collect();
            let (brought, name) = (round.brought.clone(), pbx.clone());
            let report = move |collected| {
                let (brought, name) = (brought.clone(), name.clone());
                async move { brought.send(Brought::Collected(name, collected)).await.is_ok() }
            };
            let purpose = Purpose { pbx: pbx.clone(), link: line.link.clone(), uris, wanted };
            let (clock, submissions) = (Arc::clone(&self.clock), self.submissions.clone());
            let collecting = Collecting::start(purpose, clock, submissions, &self.tasks, report);
            round.collecting.insert(pbx.clone(), collecting);
        }
    }

    /// Has a history switched off that an earlier run left on; whether that is still to be done.
    fn clean_up(&self, round: &mut Round, pbx: &PbxId, line: &PbxLine) -> bool {
        let left_on = self.board().pbxs().any(|(id, record)| id == pbx && record.recording);
        if !left_on || round.collecting.contains_key(pbx) {
            round.cleaning.remove(pbx);
            return false;
        }
        if line.status.borrow().listed && round.cleaning.insert(pbx.clone()) {
            let (link, inputs, clock, pbx) =
                (line.link.clone(), self.inputs.clone(), Arc::clone(&self.clock), pbx.clone());
            let brought = round.brought.clone();
            self.tasks.spawn(async move {
                for attempt in 1..=CLEAN_UPS {
                    match history::clean_up(&link).await {
                        Ok(()) => {
                            info!(pbx.id = %pbx, "Asterisk's SIP history, left on by an earlier run, is off and cleared");
                            let input =
                                Input::Pbx { pbx, at: clock.now(), fact: PbxFact::Recording { on: false } };
                            let _ended = inputs.send(input).await;
                            return;
                        }
                        Err(error) => {
                            warn!(pbx.id = %pbx, attempt, error, "Asterisk's SIP history, left on by an earlier run, could not be switched off");
                        }
                    }
                    tokio::time::sleep(BETWEEN_CLEAN_UPS).await;
                }
                // It is tried again as long as it is on.
                let _ended = brought.send(Brought::CleanUpFailed(pbx)).await;
            });
        }
        true
    }

    /// The registrations that fail, that nothing is known of, and whose next attempt is near.
    fn history_wanted(&self, round: &Round, pbx: &PbxId, now: Timestamp) -> BTreeSet<Key> {
        let board = self.board();
        let mut wanted = BTreeSet::new();
        for interest in round.hub.interests(pbx) {
            let key = (pbx.clone(), interest.registration.clone());
            let Some(patient) = round.patients.get(&key) else { continue };
            let Some(record) = board.trunk(&interest.trunk) else { continue };
            let Some(one) = record.health.registrations.get(&interest.registration) else { continue };
            let asked = round.asked.iter().any(|asked| asked.trunk == interest.trunk && asked.attempt.is_some());
            let failing = one.state == Some(RegistrationState::Rejected) || one.unanswered_since.is_some();
            let allowed = patient.history_after.is_none_or(|after| after <= now);
            let near = history::next_attempt(one).is_some_and(|next| between(now, next) <= history::AHEAD);
            if asked || (failing && allowed && near && !one.gave_up) {
                wanted.insert(key);
            }
        }
        wanted
    }

    /// Tries once more what Asterisk gave up, where that is wanted and may help.
    fn heal(&self, round: &mut Round, now: Timestamp) {
        let lines = self.lines.borrow().clone();
        let board = self.board();
        for (pbx, line) in lines.iter().filter(|(_, line)| line.evidence.heal && line.status.borrow().listed) {
            for interest in round.hub.interests(pbx) {
                let key = (pbx.clone(), interest.registration.clone());
                let Some(record) = board.trunk(&interest.trunk) else { continue };
                // One that just failed again is not given up yet; its plan stays. What succeeded is forgotten elsewhere.
                let Some(cause) = given_up(record, &interest.registration, now) else { continue };
                if !heal::heals(cause) {
                    round.heals.forget(&key);
                    continue;
                }
                let asked = round.asked.iter().any(|asked| asked.trunk == interest.trunk);
                if !asked && round.heals.is_due(&key, now, &self.patience) {
                    self.try_again(line, interest.clone(), cause);
                }
            }
        }
    }

    /// Asks for one attempt, without waiting for it here; not if it is not given up any more by then.
    fn try_again(&self, line: &PbxLine, interest: Interest, cause: Cause) {
        let (link, board, inputs, clock) =
            (line.link.clone(), Arc::clone(&self.board), self.inputs.clone(), Arc::clone(&self.clock));
        self.tasks.spawn(async move {
            let Interest { trunk, registration, .. } = interest;
            let still = {
                let board = board.read().unwrap_or_else(PoisonError::into_inner);
                board.trunk(&trunk).and_then(|record| given_up(record, &registration, clock.now())).is_some()
            };
            if !still {
                return;
            }
            let error = register(&link, &registration).await.err();
            info!(trunk.id = %trunk, %cause, error, "what Asterisk gave up was tried once more");
            let healed = Input::Healed { at: clock.now(), trunk, registration, cause, error };
            let _ended = inputs.send(healed).await;
        });
    }

    /// Somebody asks for a diagnosis.
    fn asked(&self, round: &mut Round, ask: AskDiagnosis) {
        let now = self.clock.now();
        let AskDiagnosis { trunk, attempt, answer } = ask;
        let refuse = |answer: oneshot::Sender<_>, why| {
            let _gone = answer.send(Err(why));
        };
        if round.asked.len() >= ASKED {
            return refuse(answer, NoExamination::Busy);
        }
        let registrations: Vec<RegistrationName> = {
            let board = self.board();
            let Some(record) = board.trunk(&trunk) else { return refuse(answer, NoExamination::UnknownTrunk) };
            let registered =
                |one: &crate::health::state::Registration| one.state == Some(RegistrationState::Registered);
            if attempt && record.health.registrations.values().any(registered) {
                return refuse(answer, NoExamination::Registered);
            }
            record.registrations.iter().map(|listed| listed.name.clone()).collect()
        };
        if registrations.is_empty() {
            return refuse(answer, NoExamination::NoRegistration);
        }
        let pbx = trunk.pbx();
        let Some(line) = self.lines.borrow().get(&pbx).cloned() else {
            return refuse(answer, NoExamination::UnknownTrunk);
        };
        if attempt && !line.status.borrow().listed {
            return refuse(answer, NoExamination::NoLink);
        }
        let known = round.known.entry(pbx).or_default();
        known.again = true;
        known.wanted.extend(registrations.iter().cloned());
        let until = after(now, if attempt { ATTEMPT } else { PATIENCE });
        let attempt = attempt.then_some(Attempt { asked_at: now, sent_at: None });
        round.asked.push(Asked { trunk, attempt, until, answer });
    }

    /// Makes the attempts that were asked for, each once what is to show it is on.
    fn begin_attempts(&self, round: &mut Round, now: Timestamp) {
        let lines = self.lines.borrow().clone();
        for asked in &mut round.asked {
            let Some(attempt) = asked.attempt.as_mut().filter(|attempt| attempt.sent_at.is_none()) else { continue };
            let pbx = asked.trunk.pbx();
            let Some(line) = lines.get(&pbx) else { continue };
            let own = round.hub.interests(&pbx).iter().filter(|interest| interest.trunk == asked.trunk);
            let keys: Vec<Key> = own.map(|interest| (pbx.clone(), interest.registration.clone())).collect();
            let hep = round.hub.hep_since(&pbx, now, HEP_SILENT).is_some();
            let may = line.status.borrow().rights.command != Permission::Denied;
            let recording = round.collecting.get(&pbx);
            let on = recording.is_some_and(|one| {
                keys.iter().all(|key| one.wanted.contains(key)) && between(one.since, now) >= history::SET_UP
            });
            let waited = between(attempt.asked_at, now) >= HISTORY_PATIENCE;
            if !hep && line.evidence.history && may && !on && !waited {
                // One for others makes way for one that has this, too.
                if let Some(one) = recording.filter(|one| !keys.iter().all(|key| one.wanted.contains(key))) {
                    one.enough();
                }
                continue;
            }
            attempt.sent_at = Some(now);
            let link = line.link.clone();
            self.tasks.spawn(async move {
                for (_, registration) in keys {
                    if let Err(error) = register(&link, &registration).await {
                        warn!(%registration, error, "an attempt was asked for, and Asterisk did not make it");
                    }
                }
            });
        }
    }

    /// Answers those who asked and whose answer is ready.
    fn answer(&self, round: &mut Round, now: Timestamp) {
        let mut waiting = Vec::new();
        for asked in std::mem::take(&mut round.asked) {
            if asked.answer.is_closed() {
                continue;
            }
            if now < asked.until && !self.is_ready(round, &asked, now) {
                waiting.push(asked);
                continue;
            }
            let examination = self.examination(round, &asked.trunk, now).ok_or(NoExamination::UnknownTrunk);
            let _gone = asked.answer.send(examination);
        }
        round.asked = waiting;
    }

    fn is_ready(&self, round: &Round, asked: &Asked, now: Timestamp) -> bool {
        let pbx = asked.trunk.pbx();
        if round.known.get(&pbx).is_some_and(|known| known.stale || known.again || known.reading) {
            return false;
        }
        let Some(attempt) = asked.attempt else { return true };
        let Some(since) = attempt.sent_at else { return false };
        let board = self.board();
        let Some(record) = board.trunk(&asked.trunk) else { return true };
        // The un-REGISTER ends first, then the REGISTER; both say something, the second more.
        record.health.registrations.iter().all(|(name, one)| {
            let ended = one.last_event_at.is_some_and(|ended| ended > after(since, Duration::from_secs(1)));
            let registered = one.state == Some(RegistrationState::Registered);
            let collecting =
                round.collecting.get(&pbx).is_some_and(|one| one.wanted.contains(&(pbx.clone(), name.clone())));
            let quiet = one.last_event_at.is_some_and(|ended| between(ended, now) > Duration::from_secs(2));
            registered
                || (ended && quiet && (!collecting || round.hub.has(&(pbx.clone(), name.clone()), Source::History)))
        })
    }

    /// All that is known of a trunk now: of several registrations, the one that fares worst.
    fn examination(&self, round: &Round, trunk: &TrunkId, now: Timestamp) -> Option<Examination> {
        let pbx = trunk.pbx();
        let own = round.hub.interests(&pbx).iter().filter(|interest| interest.trunk == *trunk);
        let say = |case: &Case<'_>| Examination::new(case, diagnose(case));
        let examined = own.filter_map(|interest| self.examine(round, interest, now, say)).map(|examined| examined.said);
        let badness = |one: &Examination| one.diagnosis().map_or(-1.0, |diagnosis| diagnosis.confidence);
        let mut examination = examined.reduce(|a, b| if badness(&b) > badness(&a) { b } else { a })?;
        if let (Verdict::Wrong(diagnosis), Some(known)) = (&mut examination.verdict, round.known.get(&pbx)) {
            diagnosis.to_know_more.extend(known.gaps.iter().map(ToString::to_string));
        }
        Some(examination)
    }
}

/// Objects read before, with those that were read now laid over them.
fn laid_over(mut before: Objects, now: Objects) -> Objects {
    before.registrations = now.registrations;
    for (name, mut auth) in now.auths {
        // Those of others come without their secrets.
        if let Some(known) = before.auths.remove(&name).filter(|_| auth.secrets.is_empty()) {
            auth.secrets = known.secrets;
        }
        before.auths.insert(name, auth);
    }
    before.endpoints.extend(now.endpoints);
    before.aors.extend(now.aors);
    before.identifies.extend(now.identifies);
    before.transports.extend(now.transports);
    before.complete = now.complete;
    before.remarks = now.remarks;
    before
}

/// What one look found.
struct Examined<T> {
    said: T,
    revision: u64,
    signs: Signs,
    was_seen: bool,
}

async fn hear(heard: &mut Option<mpsc::Receiver<Heard>>) -> Option<Heard> {
    match heard {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

/// Asks for one attempt; what Asterisk answered otherwise.
async fn register(link: &LinkHandle, registration: &RegistrationName) -> Result<(), String> {
    let action = Action::pjsip_register(registration.as_str()).map_err(|error| error.to_string())?;
    link.call(&action).await.map(drop).map_err(|error| crate::api::problem::chain(&error))
}

/// The cause for which a registration was given up by Asterisk, if it was and no attempt of it is in flight.
fn given_up(record: &TrunkRecord, name: &RegistrationName, now: Timestamp) -> Option<Cause> {
    let one = record.health.registrations.get(name)?;
    let known = record.diagnosis.as_ref().filter(|known| known.current)?;
    let own = known.brief.subject.registration.as_deref().is_none_or(|own| own == name.as_str());
    let signs = Signs::of(&record.health, name, one);
    let stopped = match signs.state {
        Some(RegistrationState::Rejected) => signs.gave_up,
        // A 200 OK that granted nothing: Asterisk says so once, and never tries again.
        Some(RegistrationState::Unregistered) => {
            let rest = one.parameters.max_random_initial_delay + Duration::from_secs(35);
            known.brief.cause == Cause::BindingRefused && one.last_event_at.is_some_and(|at| between(at, now) > rest)
        }
        Some(RegistrationState::Registered) | None => false,
    };
    (own && stopped).then_some(known.brief.cause)
}

/// The secrets of a registration as one keyed hash, to tell whether they are the same: nothing can be learned from it.
fn fingerprint(salt: &[u8; 32], objects: &Objects, registration: &RegistrationName) -> Option<[u8; 32]> {
    let one = objects.registrations.get(registration.as_str())?;
    let mut hash = Sha256::new();
    hash.update(salt);
    let mut any = false;
    for auth in one.outbound_auth.iter().filter_map(|name| objects.auths.get(name)) {
        for part in [auth.username.as_deref(), auth.realm.as_deref()] {
            hash.update(part.unwrap_or_default());
            hash.update([0]);
        }
        for secret in &auth.secrets {
            any = true;
            match secret {
                Secret::Password(password) => hash.update(password.expose_secret()),
                Secret::Ha1(_, ha1) => hash.update(ha1.expose_secret()),
            }
            hash.update([0]);
        }
    }
    any.then(|| hash.finalize().into())
}
