//! Both sessions of a PBX: start, loss, reconnect.
//!
//! Separate from the session because this is what outlives connections. Its rules:
//!
//! - A link is lost when **either** session is: without events it is deaf, without actions it cannot tell what it missed.
//!   The other session is closed too and both are opened anew, so that every [`LinkEvent::Ready`] means the same: a
//!   fresh event stream, before which anything may have been missed.
//! - Nothing is sent again after a reconnect. A call during the gap answers [`NotSent::NotReady`].
//! - Waits grow with each attempt and start anew only after a link has been ready for a while: a PBX that accepts and
//!   drops us must not be hammered. A refused login waits longer, since hosts ban addresses that keep trying.
//! - Without `read=system` Asterisk never says that it has booted, nor anything about registrations. The link waits for
//!   a moment, asks `CoreStatus`, waits once more, and then says which right is missing and goes on: lists still work. Should
//!   the boot be told later after all, [`LinkEvent::Ready`] comes again.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tracing::{Instrument as _, debug, info, info_span, warn};

use super::{
    AmiSettings, Backoff, Transport,
    inbox::{Inbox, LinkEvent, LinkEvents, inbox},
    session::{CallError, Events, LoggedIn, NotSent, Refusal, Reply, Requests, Role, SessionError, SessionParts, open},
};
use crate::{
    clock::{Clock, Timestamp},
    wire::ami::{
        action::Action,
        codec::{AmiVersion, Banner},
        event::FullyBooted,
    },
};

/// What is asked of Asterisk to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterState {
    /// Only the wanted events. Should lists ever show a change without its event, call [`LinkHandle::drop_filters`].
    Active,
    /// All events of the wanted classes: filters are not configured, or not understood by what is there.
    Off,
    /// All events of the wanted classes: the user lacks `write=system`.
    NotPermitted,
    /// All events of the wanted classes: filters were in doubt and are left out since.
    Dropped,
}

/// A right the user lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingRight {
    /// `read=system`: neither boots nor registrations are told; only lists show them.
    ReadSystem,
    /// `write=system` or `write=reporting`: registrations cannot be listed.
    WriteReporting,
}

impl MissingRight {
    /// What to add to the user in `manager.conf`.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        match self {
            Self::ReadSystem => "read=system",
            Self::WriteReporting => "write=reporting",
        }
    }
}

/// Who answered. Each field is there only if the user may ask for it.
///
/// Source: `CoreSettings` and `CoreStatus` (`main/manager.c`). A changed `started` means another process: everything
/// it knew is new.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// As `22.10.1`.
    pub asterisk_version: Option<String>,
    /// `systemname` of `asterisk.conf`.
    pub system_name: Option<String>,
    /// Date and time of its start, in its own time zone, as it prints them.
    pub started: Option<String>,
}

/// Where a link stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkPhase {
    /// No connection; attempts go on.
    Connecting,
    /// No connection; Asterisk refuses the login, attempts go on slowly.
    Refused,
    /// Logged in; Asterisk boots, or filters are being set.
    Preparing,
    /// Actions are answered, events flow.
    Ready,
    /// Stopped for good.
    Stopped,
}

#[derive(Debug)]
struct Shared {
    actions: Mutex<Option<Requests>>,
    phase: watch::Sender<LinkPhase>,
    heard: watch::Sender<Option<Timestamp>>,
    drop_filters: Notify,
    unknown_after: watch::Sender<Duration>,
    default_deadline: Duration,
}

impl Shared {
    fn set_actions(&self, requests: Option<Requests>) {
        *self.actions.lock().unwrap_or_else(PoisonError::into_inner) = requests;
    }
}

/// Asks a PBX things. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LinkHandle {
    shared: Arc<Shared>,
}

impl LinkHandle {
    /// Runs an action with the default deadline.
    ///
    /// # Errors
    /// As [`LinkHandle::call_within`].
    pub async fn call(&self, action: &Action) -> Result<Reply, CallError> {
        self.call_within(action, self.shared.default_deadline).await
    }

    /// Runs an action; the deadline covers waiting for its turn, sending, and the whole answer, lists included.
    ///
    /// Cancel safety: an action that has not been sent when the future is dropped will not be sent; one that has may run.
    ///
    /// # Errors
    /// [`CallError::NotSent`] when Asterisk has certainly not seen it, [`CallError::OutcomeUnknown`] when it may have run,
    /// [`CallError::Refused`] when Asterisk says so, [`CallError::TooLarge`] when the answer is.
    pub async fn call_within(&self, action: &Action, within: Duration) -> Result<Reply, CallError> {
        let requests = self.shared.actions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match requests {
            Some(requests) => requests.call(action, within).await,
            None => Err(CallError::NotSent(NotSent::NotReady)),
        }
    }

    /// Changes after how long a silence a session is lost: for the sessions there are from their next look at the clock,
    /// and for those to come.
    pub fn set_unknown_after(&self, unknown_after: Duration) {
        self.shared.unknown_after.send_replace(unknown_after);
    }

    /// Opens the event session anew without filters, for this and all later connections: for a consumer that saw a change in
    /// a list whose event never came. [`LinkEvent::Ready`] follows. Actions are not disturbed.
    pub fn drop_filters(&self) {
        self.shared.drop_filters.notify_one();
    }

    /// Where the link stands, now and from now on: a way past the events that wait.
    #[must_use]
    pub fn phase(&self) -> watch::Receiver<LinkPhase> {
        self.shared.phase.subscribe()
    }

    /// When the last byte came on either session.
    #[must_use]
    pub fn last_heard(&self) -> Option<Timestamp> {
        *self.shared.heard.borrow()
    }
}

/// The two sessions of one PBX, kept up until stopped.
#[derive(Debug)]
pub struct AmiLink {
    settings: AmiSettings,
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    tracker: TaskTracker,
    inbox: Inbox,
    shared: Arc<Shared>,
    filters_dropped: bool,
}

impl Drop for AmiLink {
    /// However it ends, by a panic too, its consumer learns that nothing more comes.
    fn drop(&mut self) {
        self.inbox.close();
    }
}

impl AmiLink {
    /// Starts a link. It ends when `stop` is cancelled; the tracker then waits for its tasks.
    #[must_use]
    pub fn start(
        settings: AmiSettings,
        transport: Arc<dyn Transport>,
        clock: Arc<dyn Clock>,
        tracker: &TaskTracker,
        stop: CancellationToken,
    ) -> (LinkHandle, LinkEvents) {
        let (inbox, events) = inbox(settings.limits.queued_events);
        let shared = Arc::new(Shared {
            actions: Mutex::new(None),
            phase: watch::Sender::new(LinkPhase::Connecting),
            heard: watch::Sender::new(None),
            drop_filters: Notify::new(),
            unknown_after: watch::Sender::new(settings.unknown_after),
            default_deadline: settings.timeouts.action,
        });
        let handle = LinkHandle { shared: Arc::clone(&shared) };
        let link = Self { settings, transport, clock, tracker: tracker.clone(), inbox, shared, filters_dropped: false };
        let span = info_span!("ami.link", pbx.id = %link.settings.pbx, peer.addr = %link.settings.address);
        tracker.spawn(link.run(stop).instrument(span));
        (handle, events)
    }

    async fn run(mut self, stop: CancellationToken) {
        let mut delays = Delays::new(self.settings.backoff);
        let mut said: Option<String> = None;
        loop {
            let session_stop = stop.child_token();
            let ended = tokio::select! {
                () = stop.cancelled() => break,
                ended = self.one_connection(session_stop.clone()) => ended,
            };
            session_stop.cancel();
            self.shared.set_actions(None);
            if stop.is_cancelled() {
                break;
            }
            if ended.ready_since.is_some_and(|since| since.elapsed() >= self.settings.backoff.stable_after) {
                delays = Delays::new(self.settings.backoff);
            }
            let at = self.clock.now();
            let error = Arc::new(ended.error);
            self.filters_dropped |= matches!(*error, SessionError::FiltersIncomplete);
            let refusal =
                if let SessionError::Refused(refusal) = error.as_ref() { Some(refusal.clone()) } else { None };
            if let Some(since) = ended.lost_since {
                said = None;
                warn!(error = %chain(&error), "AMI link lost");
                self.inbox.signal(LinkEvent::Lost { at, since, error: Arc::clone(&error) });
            }
            let retry_in = delays.next(refusal.is_some());
            self.shared.phase.send_replace(match &refusal {
                Some(_) => LinkPhase::Refused,
                None => LinkPhase::Connecting,
            });
            let text = chain(&error);
            if ended.lost_since.is_none() && said.as_ref() != Some(&text) {
                self.say_failed(at, &error, refusal, &text, retry_in);
                said = Some(text);
            } else {
                debug!(error = %text, retry_in = ?retry_in, "AMI connection not up");
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(retry_in) => {}
            }
        }
        self.shared.set_actions(None);
        self.shared.phase.send_replace(LinkPhase::Stopped);
        // Dropping the link closes its inbox.
    }

    fn say_failed(
        &self,
        at: Timestamp,
        error: &Arc<SessionError>,
        refusal: Option<Refusal>,
        text: &str,
        retry_in: Duration,
    ) {
        match refusal {
            Some(refusal) => {
                warn!(error = %text, retry_in = ?retry_in, "AMI login refused");
                self.inbox.signal(LinkEvent::LoginRefused { at, refusal, retry_in });
            }
            None => {
                warn!(error = %text, retry_in = ?retry_in, "AMI connection failed");
                self.inbox.signal(LinkEvent::ConnectFailed { at, error: Arc::clone(error), retry_in });
            }
        }
    }

    /// From the first connect to the loss.
    async fn one_connection(&mut self, stop: CancellationToken) -> Ended {
        let mut ended = Ended { error: SessionError::Stopped, lost_since: None, ready_since: None };
        match self.connected(&stop, &mut ended).await {
            Ok(never) => match never {},
            Err(error) => ended.error = error,
        }
        ended
    }

    async fn connected(
        &mut self,
        stop: &CancellationToken,
        ended: &mut Ended,
    ) -> Result<std::convert::Infallible, SessionError> {
        let actions = open(self.transport.as_ref(), &self.settings, Role::Actions).await?;
        let mut actions = self.spawn(actions, Role::Actions, stop);
        let events = tokio::select! {
            error = ended_session(&mut actions.task) => return Err(error),
            events = open(self.transport.as_ref(), &self.settings, Role::Events) => events?,
        };
        let banner = events.banner.clone();
        ended.lost_since = Some(self.clock.now());
        self.shared.phase.send_replace(LinkPhase::Preparing);
        info!(version = banner.as_str(), peer.addr = %events.peer, "AMI link connected");
        let (at, peer) = (self.clock.now(), events.peer.clone());
        self.inbox.signal(LinkEvent::Connected { at, banner: banner.clone(), peer });
        let mut events = self.spawn(events, Role::Events, stop);
        let mut rights_said = Vec::new();
        loop {
            let prepare =
                self.prepare(&banner, actions.requests.clone(), events.requests.clone(), events.booted.clone());
            let prepared = tokio::select! {
                error = ended_session(&mut actions.task) => return Err(ended.lost(error, &events)),
                error = ended_session(&mut events.task) => return Err(ended.lost(error, &events)),
                prepared = prepare => prepared?,
            };
            self.shared.set_actions(Some(actions.requests.clone()));
            ended.ready_since.get_or_insert_with(Instant::now);
            for right in prepared.missing {
                if !rights_said.contains(&right) {
                    rights_said.push(right);
                    warn!(right = right.hint(), "the AMI user lacks a right");
                    self.inbox.signal(LinkEvent::RightMissing { at: self.clock.now(), right });
                }
            }
            info!(filters = ?prepared.filters, "AMI link ready");
            let booted = events.booted.borrow_and_update().clone();
            self.say_ready(booted, prepared.filters, prepared.identity);
            self.shared.phase.send_replace(LinkPhase::Ready);
            loop {
                tokio::select! {
                    error = ended_session(&mut actions.task) => return Err(ended.lost(error, &events)),
                    error = ended_session(&mut events.task) => return Err(ended.lost(error, &events)),
                    Ok(()) = events.booted.changed() => {
                        let booted = events.booted.borrow_and_update().clone();
                        let identity = tokio::select! {
                            error = ended_session(&mut actions.task) => return Err(ended.lost(error, &events)),
                            error = ended_session(&mut events.task) => return Err(ended.lost(error, &events)),
                            (identity, _) = identify(&actions.requests, self.settings.timeouts.action) => identity,
                        };
                        self.say_ready(booted, prepared.filters, identity);
                    }
                    () = self.shared.drop_filters.notified() => match prepared.filters {
                        FilterState::Active => break,
                        FilterState::Off | FilterState::NotPermitted | FilterState::Dropped => {}
                    },
                }
            }
            warn!("the event session is opened anew without filters");
            self.filters_dropped = true;
            ended.lost_since = Some(*events.heard.borrow());
            let Session { task, stop: stop_session, .. } = events;
            drop(stop_session);
            let _ended = task.await;
            let anew = tokio::select! {
                error = ended_session(&mut actions.task) => return Err(error),
                anew = open(self.transport.as_ref(), &self.settings, Role::Events) => anew?,
            };
            events = self.spawn(anew, Role::Events, stop);
        }
    }

    fn say_ready(&self, booted: Option<FullyBooted>, filters: FilterState, identity: Identity) {
        self.inbox.signal(LinkEvent::Ready { at: self.clock.now(), booted, filters, identity });
    }

    fn spawn(&self, session: LoggedIn, role: Role, stop: &CancellationToken) -> Session {
        let stop = stop.child_token();
        let heard = watch::Sender::new(self.clock.now());
        let booted = watch::Sender::new(None);
        let boots = booted.subscribe();
        let events = match role {
            Role::Events => Events::Link { inbox: self.inbox.clone(), booted },
            Role::Actions => Events::Ignored,
        };
        let span = info_span!("ami.session", role = role.as_str(), peer.addr = %session.peer);
        let parts = SessionParts {
            events,
            limits: self.settings.limits,
            unknown_after: self.shared.unknown_after.subscribe(),
            clock: Arc::clone(&self.clock),
            link_heard: self.shared.heard.clone(),
            heard: heard.clone(),
            stop: stop.clone(),
        };
        let (requests, task) = session.start(parts);
        let task = self.tracker.spawn(task.instrument(span));
        Session { requests, task, booted: boots, heard: heard.subscribe(), stop: stop.drop_guard() }
    }

    /// Sets filters, waits for the boot, asks who it is.
    async fn prepare(
        &self,
        banner: &Banner,
        actions: Requests,
        events: Requests,
        mut booted: watch::Receiver<Option<FullyBooted>>,
    ) -> Result<Prepared, SessionError> {
        let within = self.settings.timeouts.action;
        let filters = if self.filters_dropped {
            FilterState::Dropped
        } else if self.settings.filter {
            set_filters(&events, &self.settings.filter_names(), banner.version(), within).await?
        } else {
            FilterState::Off
        };
        let mut missing = Vec::new();
        if !wait_for_boot(&mut booted, self.settings.timeouts.boot).await {
            // Is it still booting, or are we not told? An answer says that at least its core is up.
            match actions.call(&Action::core_status(), within).await {
                Err(error) if error.is_shutting_down() => return Err(SessionError::ShuttingDown),
                Ok(_) | Err(_) => {}
            }
            if !wait_for_boot(&mut booted, self.settings.timeouts.boot).await {
                missing.push(MissingRight::ReadSystem);
            }
        }
        let (identity, denied) = identify(&actions, within).await;
        if denied {
            missing.push(MissingRight::WriteReporting);
        }
        Ok(Prepared { filters, identity, missing })
    }
}

/// A spawned session. Dropping it stops its task.
struct Session {
    requests: Requests,
    task: JoinHandle<SessionError>,
    booted: watch::Receiver<Option<FullyBooted>>,
    heard: watch::Receiver<Timestamp>,
    stop: DropGuard,
}

/// Waits for the task. Cancel safe: a task that has ended is found so the next time.
async fn ended_session(task: &mut JoinHandle<SessionError>) -> SessionError {
    task.await.unwrap_or(SessionError::TaskFailed)
}

/// What is known of a connection after its end.
struct Ended {
    error: SessionError,
    /// The last byte of the event session; none if it was never connected.
    lost_since: Option<Timestamp>,
    ready_since: Option<Instant>,
}

impl Ended {
    /// Either session is lost: what happened since the last byte of the event session may have been missed.
    fn lost(&mut self, error: SessionError, events: &Session) -> SessionError {
        self.lost_since = Some(*events.heard.borrow());
        error
    }
}

struct Prepared {
    filters: FilterState,
    identity: Identity,
    missing: Vec<MissingRight>,
}

async fn wait_for_boot(booted: &mut watch::Receiver<Option<FullyBooted>>, within: Duration) -> bool {
    matches!(timeout(within, booted.wait_for(Option::is_some)).await, Ok(Ok(_)))
}

/// From this version of the protocol on (Asterisk 22) every build has filters by event name. Asterisk 20 and 21 got them
/// without a change of their number.
const CRITERIA_SINCE: AmiVersion = AmiVersion { major: 11, minor: 0, patch: 0 };

/// Asks Asterisk to send only these events.
///
/// Asterisk before 22 may ignore `MatchCriteria`, so it gets the older form, a regular expression over the whole event,
/// which every version understands (it lets a few more events through, as it is not anchored).
async fn set_filters(
    events: &Requests,
    names: &[&'static str],
    version: Option<AmiVersion>,
    within: Duration,
) -> Result<FilterState, SessionError> {
    // Behind a proxy that hides the version nothing is certain, and a wrong guess makes us deaf.
    let Some(version) = version else { return Ok(FilterState::Off) };
    for (done, name) in names.iter().enumerate() {
        let action = Action::new("Filter").and_then(|action| action.with("Operation", "Add"));
        let action = if version >= CRITERIA_SINCE {
            action.and_then(|action| action.with("MatchCriteria", &format!("name({name}),method(none)")))
        } else {
            action.and_then(|action| action.with("Filter", &format!("Event: {name}")))
        };
        match events.call(&action.map_err(SessionError::Login)?, within).await {
            Ok(_) => {}
            Err(error) if error.is_shutting_down() => return Err(SessionError::ShuttingDown),
            Err(error) if done == 0 && error.is_permission_denied() => return Ok(FilterState::NotPermitted),
            Err(CallError::Refused(_)) if done == 0 => return Ok(FilterState::Off),
            // One include filter hides everything else: half a set is worse than none.
            Err(_) => return Err(SessionError::FiltersIncomplete),
        }
    }
    Ok(FilterState::Active)
}

/// Asks who it is; also whether the user may not even ask that.
async fn identify(actions: &Requests, within: Duration) -> (Identity, bool) {
    let mut identity = Identity::default();
    let mut denied = false;
    match actions.call(&Action::core_settings(), within).await {
        Ok(reply) => {
            let text = |name| reply.response.get_filled(name).map(std::borrow::Cow::into_owned);
            identity.asterisk_version = text("AsteriskVersion");
            identity.system_name = text("SystemName");
        }
        Err(error) => denied |= error.is_permission_denied(),
    }
    match actions.call(&Action::core_status(), within).await {
        Ok(reply) => {
            let date = reply.response.get_filled("CoreStartupDate");
            let time = reply.response.get_filled("CoreStartupTime");
            identity.started = date.zip(time).map(|(date, time)| format!("{date} {time}"));
        }
        Err(error) => denied |= error.is_permission_denied(),
    }
    (identity, denied)
}

/// The waits of one run of failures.
#[derive(Debug)]
pub struct Delays {
    ordinary: ExponentialBackoff,
    refused: ExponentialBackoff,
    limits: Backoff,
}

impl Delays {
    /// A run that begins.
    #[must_use]
    pub fn new(limits: Backoff) -> Self {
        let doubling = |first, max| {
            ExponentialBuilder::new()
                .with_factor(2.0)
                .with_min_delay(first)
                .with_max_delay(max)
                .without_max_times()
                .build()
        };
        Self {
            ordinary: doubling(limits.first, limits.max),
            refused: doubling(limits.refused_first, limits.refused_max),
            limits,
        }
    }

    /// The next wait. Jitter spreads an ordinary one by a quarter either way; it never shortens the wait after a refusal.
    pub fn next(&mut self, refused: bool) -> Duration {
        let (delay, least) = if refused {
            (self.refused.next().unwrap_or(self.limits.refused_max), 1.0)
        } else {
            (self.ordinary.next().unwrap_or(self.limits.max), 0.75)
        };
        if self.limits.jitter { delay.mul_f64(rand::random_range(least..=1.25)) } else { delay }
    }
}

/// An error with its causes, on one line.
fn chain(error: &SessionError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
