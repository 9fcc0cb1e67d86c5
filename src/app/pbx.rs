//! One PBX, watched: the task that holds its AMI link, reads its lists when the observer wants them, and passes the facts on.
//!
//! Separate from the observer because everything that waits is here, and nothing that decides. It never waits for an answer
//! while an event waits for it: a reading is a future polled beside the events. When the consumer of the facts is slow,
//! this task waits for it; meanwhile the link's own queue fills, and what it has to drop is counted and read again.
//!
//! What the user of `manager.conf` may not do is learned from Asterisk's refusals, once per connection, since Asterisk
//! copies the rights at login. Only the registrations must be readable; everything else is done without.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument as _, debug, error, info, info_span, warn};

use super::evidence::PbxEvidence;
use crate::{
    api::problem::chain,
    clock::{Clock, Timestamp, between},
    decision::{Input, PbxFact},
    ids::{ContactUri, EndpointName, PbxId, RegistrationName, TrunkId},
    observation::{DeclaredTrunk, Directory, Finding, ListedContact, Lists, Observer, Request, Sighting, Ticket, Told},
    wire::ami::{
        Action, AmiEvent, EventError, Message,
        client::{
            AmiLink, AmiSettings, CallError, FilterState, Identity, LinkEvent, LinkEvents, LinkHandle, MissingRight,
            Reply, Transport,
        },
        event::{
            ContactState, EndpointList, OutboundRegistrationDetail, OutboundRegistrationDetailComplete, RegistryEntry,
        },
        registrations_cli,
    },
};

/// How often the observer is told that time passed.
const TICK: Duration = Duration::from_millis(250);
/// After so many answers in a row that Asterisk does not know `PJSIPShowRegistrationsOutbound`, the module is taken to be
/// absent and not merely late: the observer's waits make it some 15 s.
const ABSENT_AFTER: u32 = 6;
/// Contacts waiting to be asked once more.
const QUALIFY_LIMIT: usize = 64;
/// How often at most it is logged that events were lost.
const OVERFLOW_SAID: Duration = Duration::from_secs(60);

/// How one PBX is watched.
#[derive(Debug, Clone)]
pub struct PbxSettings {
    /// Its name.
    pub pbx: PbxId,
    /// Its link.
    pub ami: AmiSettings,
    /// The trunks the configuration declares on it.
    pub declared: Vec<DeclaredTrunk>,
    /// How often its lists are compared with what was heard.
    pub reconcile: Duration,
    /// What an earlier run knew of it.
    pub known: Vec<KnownTrunk>,
    /// How its failures are looked into.
    pub evidence: PbxEvidence,
}

/// What an earlier run knew of a trunk: what has vanished since is said to be gone.
#[derive(Debug, Clone)]
pub struct KnownTrunk {
    /// The trunk.
    pub id: TrunkId,
    /// Its registrations.
    pub registrations: Vec<RegistrationName>,
    /// Its contacts.
    pub contacts: Vec<ContactUri>,
}

/// Whether the AMI user may do something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Permission {
    /// It was not tried on this connection.
    #[default]
    Untried,
    /// It was done.
    Granted,
    /// Asterisk answered `Permission denied`.
    Denied,
    /// Asterisk does not know the action: the module is not loaded.
    Absent,
}

/// What the AMI user may do, as far as this connection has shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rights {
    /// Events of class system. Without, changes are seen in the lists only.
    pub events: Permission,
    /// `PJSIPShowRegistrationsOutbound`: `write=system` or `write=reporting`. Nothing works without.
    pub registrations: Permission,
    /// `PJSIPShowEndpoints`: `write=system`. Without, endpoints are guessed.
    pub endpoints: Permission,
    /// `PJSIPShowEndpoint`: `write=system`. Without, contacts are known once they change.
    pub contacts: Permission,
    /// `PJSIPQualify`: `write=system` or `write=reporting`.
    pub qualify: Permission,
    /// `Command`: `write=command`. Without, that Asterisk gave up is known by its silence only.
    pub command: Permission,
    /// `Filter`: `write=system`. Without, a busy PBX sends more than is read.
    pub filter: Permission,
    /// `IAXregistry`: `write=system` or `write=reporting`.
    pub iax: Permission,
}

/// How it stands with a PBX: for `check`, the API and `readyz`.
#[derive(Debug, Clone, Default)]
pub struct PbxStatus {
    /// Whether its lists were read since the link is up.
    pub listed: bool,
    /// When they were last read.
    pub listed_at: Option<Timestamp>,
    /// Why there is no link, or why the lists cannot be read; none while all is well.
    pub error: Option<String>,
    /// AMI's version.
    pub version: Option<String>,
    /// Who it is.
    pub identity: Identity,
    /// What it sends.
    pub filters: Option<FilterState>,
    /// What the user may do.
    pub rights: Rights,
    /// Its trunks.
    pub directory: Arc<Directory>,
    /// What an operator should know of them.
    pub findings: Vec<Finding>,
    /// Events dropped because they were not taken in time, since the start.
    pub overflowed: u64,
    /// Events that could not be read, since the start.
    pub unread: u64,
}

/// A watched PBX, for the others.
#[derive(Debug, Clone)]
pub struct PbxHandle {
    /// Asks it things.
    pub link: LinkHandle,
    status: watch::Receiver<PbxStatus>,
    declare: mpsc::Sender<(Vec<DeclaredTrunk>, Duration)>,
}

impl PbxHandle {
    /// How it stands, now and from now on.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<PbxStatus> {
        self.status.clone()
    }

    /// Takes the trunks of a configuration that was read again.
    ///
    /// Cancel safety: the trunks are taken or not, never in part.
    pub async fn declare(&self, declared: Vec<DeclaredTrunk>, reconcile: Duration, unknown_after: Duration) {
        self.link.set_unknown_after(unknown_after);
        // A task that has ended has no use for them.
        let _ended = self.declare.send((declared, reconcile)).await;
    }
}

/// Starts to watch a PBX. It ends when `stop` is cancelled or nobody takes the facts any more; the tracker waits for it.
#[must_use]
pub fn watch_pbx(
    settings: PbxSettings,
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    tracker: &TaskTracker,
    stop: CancellationToken,
    facts: mpsc::Sender<Input>,
) -> PbxHandle {
    let PbxSettings { pbx, ami, declared, reconcile, known, evidence: _ } = settings;
    // The link ends with the watcher, whatever ended it.
    let (stopped, stop) = (stop.clone(), stop.child_token());
    let (last_word, last_clock, name) = (facts.clone(), Arc::clone(&clock), pbx.clone());
    let (link, events) = AmiLink::start(ami, transport, Arc::clone(&clock), tracker, stop.clone());
    let mut observer = Observer::new(pbx.clone(), declared, reconcile);
    for trunk in known {
        observer.recall(&trunk.id, trunk.registrations, trunk.contacts);
    }
    let (status, watched) = watch::channel(PbxStatus::default());
    let (declare, declarations) = mpsc::channel(1);
    let span = info_span!("pbx", pbx.id = %pbx);
    let watcher = Watcher {
        pbx,
        observer,
        link: link.clone(),
        clock,
        facts,
        status,
        reading: None,
        qualifying: None,
        to_qualify: VecDeque::new(),
        absent: 0,
        error_said: None,
        overflow_said: None,
        overflow_unsaid: 0,
    };
    let watching = async move {
        let ended = AssertUnwindSafe(watcher.run(events, declarations, stop)).catch_unwind().await;
        if !stopped.is_cancelled() {
            // A trunk that nobody watches must not stay as it was.
            error!(panicked = ended.is_err(), "the PBX is not watched any more; restart the controller");
            let at = last_clock.now();
            let fact = PbxFact::Lost { last_heard: at, error: "watching it ended by a fault of ours".to_owned() };
            // Nobody decides any more: then the gate holds anyway.
            last_word.send(Input::Pbx { pbx: name, at, fact }).await.ok();
        }
    };
    tracker.spawn(watching.instrument(span));
    PbxHandle { link, status: watched, declare }
}

type Running<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A reading that ended.
struct Read {
    ticket: Ticket,
    rights: Rights,
    outcome: Result<Outcome, Unread>,
}

enum Outcome {
    /// All but the contacts.
    Lists(Box<Lists>),
    /// All.
    All(Box<Lists>),
    /// The registrations alone.
    States(Vec<OutboundRegistrationDetail>),
}

/// A list that could not be read.
#[derive(Debug)]
struct Unread {
    action: &'static str,
    error: CallError,
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.action, chain(&self.error))
    }
}

/// Nobody takes the facts any more.
struct Ended;

struct Watcher {
    pbx: PbxId,
    observer: Observer,
    link: LinkHandle,
    clock: Arc<dyn Clock>,
    facts: mpsc::Sender<Input>,
    status: watch::Sender<PbxStatus>,
    reading: Option<Running<Read>>,
    qualifying: Option<Running<Permission>>,
    to_qualify: VecDeque<EndpointName>,
    /// How often in a row the action for registrations was unknown.
    absent: u32,
    /// The last failure of a list, so that it is logged once.
    error_said: Option<String>,
    /// When lost events were last logged.
    overflow_said: Option<Timestamp>,
    /// How many were lost since.
    overflow_unsaid: u64,
}

/// What the task waits for.
enum Next {
    Stop,
    Link(Option<LinkEvent>),
    Read(Read),
    Qualified(Permission),
    Declared((Vec<DeclaredTrunk>, Duration)),
    Tick,
}

impl Watcher {
    async fn run(
        mut self,
        mut events: LinkEvents,
        mut declarations: mpsc::Receiver<(Vec<DeclaredTrunk>, Duration)>,
        stop: CancellationToken,
    ) {
        let _end_link = stop.clone().drop_guard();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Events come before the readings: what was heard first is said first. The declarations and ticks come last.
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => Next::Stop,
                event = events.recv() => Next::Link(event),
                read = ended(&mut self.reading) => Next::Read(read),
                permission = ended(&mut self.qualifying) => Next::Qualified(permission),
                Some(declared) = declarations.recv() => Next::Declared(declared),
                _ = ticks.tick() => Next::Tick,
            };
            let told = match next {
                Next::Stop | Next::Link(None) => return,
                Next::Link(Some(event)) => self.linked(event),
                Next::Read(read) => self.read(read),
                Next::Qualified(permission) => {
                    self.status.send_modify(|status| status.rights.qualify = permission);
                    Told::default()
                }
                Next::Declared((declared, reconcile)) => self.observer.declare(self.clock.now(), declared, reconcile),
                Next::Tick => self.observer.tick(self.clock.now()),
            };
            let passed = tokio::select! {
                () = stop.cancelled() => return,
                passed = self.pass_on(told) => passed,
            };
            if let Err(Ended) = passed {
                return;
            }
        }
    }

    fn linked(&mut self, event: LinkEvent) -> Told {
        match event {
            LinkEvent::Connected { at, banner, .. } => {
                let version =
                    banner.version().map_or_else(|| banner.as_str().to_owned(), |version| version.to_string());
                self.reading = None;
                self.qualifying = None;
                self.to_qualify.clear();
                self.absent = 0;
                self.error_said = None;
                self.status.send_modify(|status| {
                    status.listed = false;
                    status.error = None;
                    status.version = Some(version.clone());
                    status.rights = Rights::default();
                });
                self.observer.connected(at, &version)
            }
            LinkEvent::Ready { at, booted, filters, identity } => {
                self.status.send_modify(|status| {
                    if booted.is_some() {
                        status.rights.events = Permission::Granted;
                    }
                    status.rights.filter = match filters {
                        FilterState::Active => Permission::Granted,
                        FilterState::NotPermitted => Permission::Denied,
                        FilterState::Off | FilterState::Dropped => status.rights.filter,
                    };
                    status.filters = Some(filters);
                    status.identity = identity;
                });
                self.observer.ready(at)
            }
            LinkEvent::RightMissing { right, .. } => {
                if right == MissingRight::ReadSystem {
                    self.observer.without_events();
                }
                self.status.send_modify(|status| match right {
                    MissingRight::ReadSystem => status.rights.events = Permission::Denied,
                    MissingRight::WriteReporting => status.rights.registrations = Permission::Denied,
                });
                Told::default()
            }
            LinkEvent::Event { at, message, .. } => match AmiEvent::try_from(&message) {
                Ok(event) => self.observer.heard(at, &event),
                Err(error) => {
                    // Once: it may come with every refresh.
                    if self.status.borrow().unread == 0 {
                        warn!(%error, "an event cannot be read");
                    }
                    self.status.send_modify(|status| status.unread += 1);
                    debug!(%error, "an event cannot be read");
                    Told::default()
                }
            },
            LinkEvent::Overflow { lost } => {
                self.status.send_modify(|status| status.overflowed += lost);
                let now = self.clock.now();
                self.overflow_unsaid += lost;
                // A PBX that sends more than can be taken would fill the log with it, too.
                if self.overflow_said.is_none_or(|said| between(said, now) >= OVERFLOW_SAID) {
                    let lost = std::mem::take(&mut self.overflow_unsaid);
                    warn!(lost, "events were not taken in time and are lost; the lists are read again");
                    self.overflow_said = Some(now);
                }
                self.observer.overflowed(now)
            }
            LinkEvent::Lost { at, since, error } => {
                let error = chain(error.as_ref());
                self.down(&error);
                self.observer.lost(at, since, &error)
            }
            LinkEvent::ConnectFailed { at, error, .. } => {
                let error = chain(error.as_ref());
                self.down(&error);
                self.observer.unreachable(at, &error)
            }
            LinkEvent::LoginRefused { at, refusal, .. } => {
                let error = refusal.to_string();
                self.down(&error);
                self.observer.refused(at, &error)
            }
        }
    }

    fn down(&mut self, error: &str) {
        self.reading = None;
        self.qualifying = None;
        self.to_qualify.clear();
        self.status.send_modify(|status| {
            status.listed = false;
            status.error = Some(error.to_owned());
        });
    }

    fn read(&mut self, read: Read) -> Told {
        let at = self.clock.now();
        let Read { ticket, rights, outcome } = read;
        self.status.send_modify(|status| {
            // The others may have changed while it was read.
            let Rights { events, qualify, filter, .. } = status.rights;
            status.rights = Rights { events, qualify, filter, ..rights };
        });
        let told = match outcome {
            Ok(Outcome::Lists(lists)) => {
                // Which endpoints are trunks is known now; their contacts belong to the same answer.
                let wanted = self.observer.wanted_contacts(&lists);
                self.reading = Some(Box::pin(read_contacts(self.link.clone(), rights, ticket, lists, wanted)));
                return Told::default();
            }
            Ok(Outcome::All(lists)) => {
                self.absent = 0;
                let told = self.observer.listed(at, ticket, &lists);
                self.listed(at);
                told
            }
            Ok(Outcome::States(details)) => {
                self.absent = 0;
                self.observer.states(at, ticket, &details)
            }
            Err(unread) => {
                self.absent = if unread.error.is_unknown_action() { self.absent.saturating_add(1) } else { 0 };
                let error = unread.to_string();
                if self.error_said.as_ref() != Some(&error) {
                    warn!(%error, "a list cannot be read");
                    self.error_said = Some(error.clone());
                }
                self.status.send_modify(|status| status.error = Some(error));
                return self.observer.list_failed(at, ticket);
            }
        };
        if self.error_said.take().is_some() {
            info!("the lists can be read");
        }
        self.status.send_modify(|status| status.error = None);
        told
    }

    fn listed(&self, at: Timestamp) {
        let findings = self.observer.findings();
        self.status.send_modify(|status| {
            status.listed = true;
            status.listed_at = Some(at);
            status.findings = findings;
            if *status.directory != *self.observer.directory() {
                status.directory = Arc::new(self.observer.directory().clone());
            }
        });
    }

    /// Says what was told, and does what is wanted.
    async fn pass_on(&mut self, told: Told) -> Result<(), Ended> {
        // Requests first: starting them takes no time, and they need not wait for whoever takes the facts.
        for request in told.requests {
            match request {
                Request::Resync(ticket) => {
                    let (link, rights) = (self.link.clone(), self.status.borrow().rights);
                    let absent = self.absent >= ABSENT_AFTER;
                    self.reading = Some(Box::pin(read_all(link, rights, ticket, absent)));
                }
                Request::List(ticket) => {
                    let (link, rights) = (self.link.clone(), self.status.borrow().rights);
                    self.reading = Some(Box::pin(read_states(link, rights, ticket)));
                }
                Request::Qualify(endpoint) => {
                    if self.to_qualify.len() < QUALIFY_LIMIT && !self.to_qualify.contains(&endpoint) {
                        self.to_qualify.push_back(endpoint);
                    }
                }
                Request::DropFilters => {
                    if self.status.borrow().filters == Some(FilterState::Active) {
                        self.link.drop_filters();
                    }
                }
            }
        }
        if self.qualifying.is_none()
            && let Some(endpoint) = self.to_qualify.pop_front()
        {
            self.qualifying = Some(Box::pin(qualify(self.link.clone(), endpoint)));
        }
        for sighting in told.sightings {
            let input = match sighting {
                Sighting::Seen(observation) => Input::Seen(observation),
                Sighting::Pbx { at, fact } => Input::Pbx { pbx: self.pbx.clone(), at, fact },
            };
            self.facts.send(input).await.map_err(|_| Ended)?;
        }
        Ok(())
    }
}

/// Waits for what is running, and takes it out; for ever, if nothing is. Cancel safe: what runs stays where it is.
async fn ended<T>(slot: &mut Option<Running<T>>) -> T {
    match slot {
        Some(running) => {
            let done = running.await;
            *slot = None;
            done
        }
        None => std::future::pending().await,
    }
}

async fn qualify(link: LinkHandle, endpoint: EndpointName) -> Permission {
    let action = match Action::pjsip_qualify(endpoint.as_str()) {
        Ok(action) => action,
        Err(error) => {
            debug!(%error, "an endpoint cannot be qualified");
            return Permission::Untried;
        }
    };
    let answer = link.call(&action).await;
    if let Err(error) = &answer {
        debug!(error = %chain(error), "an endpoint was not qualified");
    }
    permission(&answer)
}

async fn read_states(link: LinkHandle, mut rights: Rights, ticket: Ticket) -> Read {
    let outcome = read_registrations(&link, &mut rights).await.map(|(details, _)| Outcome::States(details));
    Read { ticket, rights, outcome }
}

async fn read_all(link: LinkHandle, mut rights: Rights, ticket: Ticket, absent: bool) -> Read {
    let outcome = read_lists(&link, &mut rights, absent).await.map(|lists| Outcome::Lists(Box::new(lists)));
    Read { ticket, rights, outcome }
}

/// Asterisk says `NonQualified` of a contact until its first OPTIONS was answered or not, even where its AOR is
/// qualified; that is no word on it yet, rather than the word that there will be none.
fn await_first_qualify(items: &[Message], contacts: &mut [ListedContact]) {
    let is_qualified = |aor: &str| {
        items.iter().filter(|item| item.is_event("AorDetail")).any(|item| {
            let every = item.get("QualifyFrequency").and_then(|value| value.trim().parse::<f64>().ok());
            item.get("ObjectName").is_some_and(|name| name == aor) && every.is_some_and(|seconds| seconds > 0.0)
        })
    };
    for contact in contacts {
        if contact.status == ContactState::NonQualified && is_qualified(&contact.aor) {
            contact.status = ContactState::Unknown;
        }
    }
}

async fn read_contacts(
    link: LinkHandle,
    mut rights: Rights,
    ticket: Ticket,
    mut lists: Box<Lists>,
    wanted: Vec<EndpointName>,
) -> Read {
    for endpoint in wanted {
        let Ok(action) = Action::show_endpoint(endpoint.as_str()) else { continue };
        match optional_list("PJSIPShowEndpoint", &action, &link, &mut rights.contacts).await {
            Ok(Some(items)) => {
                let read = |item: &Message| ListedContact::read(&endpoint, item);
                let mut contacts = items_of(&items, ListedContact::EVENT, read);
                await_first_qualify(&items, &mut contacts);
                lists.contacts.extend(contacts);
                lists.contacts_of.insert(endpoint);
            }
            // It went away in between; or nobody answers for any.
            Ok(None) if matches!(rights.contacts, Permission::Denied | Permission::Absent) => break,
            Ok(None) => {}
            Err(unread) => return Read { ticket, rights, outcome: Err(unread) },
        }
    }
    Read { ticket, rights, outcome: Ok(Outcome::All(lists)) }
}

async fn read_lists(link: &LinkHandle, rights: &mut Rights, absent: bool) -> Result<Lists, Unread> {
    let (registrations, partial) = match read_registrations(link, rights).await {
        Err(unread) if absent && unread.error.is_unknown_action() => (Vec::new(), false),
        read => read?,
    };
    // Right behind them, so that it tells of the same moment.
    let cli = match Action::command(registrations_cli::COMMAND) {
        Ok(action) if rights.command != Permission::Denied => {
            let answer = link.call(&action).await;
            rights.command = permission(&answer);
            let table = optional("Command", answer)?.map(|reply| registrations_cli::parse(&reply.response));
            if let Some(table) = table.as_ref().filter(|table| !table.is_complete()) {
                debug!(rows = table.rows.len(), unread = table.unread.len(), "the CLI's table was not read whole");
            }
            table
        }
        Ok(_) | Err(_) => None,
    };
    let endpoints = optional_list("PJSIPShowEndpoints", &Action::show_endpoints(), link, &mut rights.endpoints).await?;
    let iax = match rights.iax {
        Permission::Untried | Permission::Granted => {
            optional_list("IAXregistry", &Action::iax_registry(), link, &mut rights.iax).await?
        }
        Permission::Denied | Permission::Absent => None,
    };
    Ok(Lists {
        registrations,
        partial,
        iax: iax.map(|items| items_of(&items, RegistryEntry::EVENT, RegistryEntry::read)),
        endpoints: endpoints.map(|items| items_of(&items, EndpointList::EVENT, EndpointList::read)),
        contacts: Vec::new(),
        contacts_of: BTreeSet::new(),
        cli,
    })
}

/// The registrations, and whether some of them could not be read.
async fn read_registrations(
    link: &LinkHandle,
    rights: &mut Rights,
) -> Result<(Vec<OutboundRegistrationDetail>, bool), Unread> {
    let answer = link.call(&Action::show_registrations_outbound()).await;
    rights.registrations = permission(&answer);
    let reply = answer.map_err(|error| Unread { action: "PJSIPShowRegistrationsOutbound", error })?;
    let sent = reply.items.iter().filter(|item| item.is_event(OutboundRegistrationDetail::EVENT)).count();
    let details = items_of(&reply.items, OutboundRegistrationDetail::EVENT, OutboundRegistrationDetail::read);
    // Asterisk counts those that have a state.
    let counted = reply.complete.as_ref().and_then(|end| OutboundRegistrationDetailComplete::read(end).ok());
    let counted = counted.and_then(|end| Some(end.registered?.saturating_add(end.not_registered?)));
    let stateful = details.iter().filter(|detail| detail.status.is_some()).count();
    let short = counted.is_some_and(|counted| u64::try_from(stateful).unwrap_or(u64::MAX) < counted);
    let partial = details.len() < sent || short;
    if partial {
        warn!(sent, read = details.len(), "not all registrations of the list could be read");
    }
    Ok((details, partial))
}

/// A list that is done without where it is refused; none then. Without any endpoint Asterisk answers an error that says so
/// (`No endpoints found`).
async fn optional_list(
    name: &'static str,
    action: &Action,
    link: &LinkHandle,
    right: &mut Permission,
) -> Result<Option<Vec<Message>>, Unread> {
    if *right == Permission::Denied {
        return Ok(None);
    }
    let answer = link.call(action).await;
    *right = permission(&answer);
    if let Err(CallError::Refused(response)) = &answer
        && response.get("Message").is_some_and(|text| text.trim_start().starts_with("No "))
    {
        return Ok(Some(Vec::new()));
    }
    Ok(optional(name, answer)?.map(|reply| reply.items))
}

/// What Asterisk refuses, or what is too much, is done without; what may succeed the next time fails the reading.
fn optional(action: &'static str, answer: Result<Reply, CallError>) -> Result<Option<Reply>, Unread> {
    match answer {
        Ok(reply) => Ok(Some(reply)),
        Err(error) if error.is_shutting_down() => Err(Unread { action, error }),
        Err(error @ (CallError::Refused(_) | CallError::TooLarge { .. })) => {
            debug!(action, error = %chain(&error), "a list is done without");
            Ok(None)
        }
        Err(error @ (CallError::NotSent(_) | CallError::OutcomeUnknown(_))) => Err(Unread { action, error }),
    }
}

fn permission(answer: &Result<Reply, CallError>) -> Permission {
    match answer {
        Err(error) if error.is_permission_denied() => Permission::Denied,
        Err(error) if error.is_unknown_action() => Permission::Absent,
        Err(error) if error.is_shutting_down() => Permission::Untried,
        // Whatever else it refuses, it has let us ask.
        Ok(_) | Err(CallError::Refused(_) | CallError::TooLarge { .. }) => Permission::Granted,
        Err(CallError::NotSent(_) | CallError::OutcomeUnknown(_)) => Permission::Untried,
    }
}

/// The items of one kind; those that cannot be read are left out, and the log says how many and why the first could not.
fn items_of<T>(items: &[Message], event: &str, read: impl Fn(&Message) -> Result<T, EventError>) -> Vec<T> {
    let mut found = Vec::with_capacity(items.len());
    let mut first_error = None;
    let mut unread = 0_usize;
    for item in items.iter().filter(|item| item.is_event(event)) {
        match read(item) {
            Ok(item) => found.push(item),
            Err(error) => {
                unread += 1;
                first_error.get_or_insert(error);
            }
        }
    }
    if let Some(error) = first_error {
        warn!(%error, unread, event, "items of a list cannot be read");
    }
    found
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Mutex};

    use futures_util::future::BoxFuture;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
        sync::broadcast,
        time::{Instant, timeout},
    };

    use super::*;
    use crate::{
        observation::{Fact, Observation, RegistrationState, Source},
        wire::ami::{
            client::{ConnectError, Connection, Security},
            codec::{DecodeLimits, Decoder, Frame},
        },
    };

    /// A clock that follows the runtime's, paused time included.
    #[derive(Debug)]
    struct RuntimeClock(Instant);

    impl Clock for RuntimeClock {
        fn now(&self) -> Timestamp {
            crate::clock::after(Timestamp::UNIX_EPOCH, self.0.elapsed())
        }
    }

    #[derive(Debug, Default)]
    struct Asterisk {
        /// Name and state of each registration; each has an endpoint of its name.
        registrations: BTreeMap<&'static str, &'static str>,
        denied: BTreeSet<&'static str>,
        unknown: BTreeSet<&'static str>,
        /// Actions that are never answered.
        stalled: BTreeSet<&'static str>,
        asked: Vec<String>,
    }

    /// A small Asterisk in memory.
    #[derive(Debug, Clone)]
    struct Fake {
        state: Arc<Mutex<Asterisk>>,
        events: broadcast::Sender<String>,
        tracker: TaskTracker,
        stop: CancellationToken,
    }

    impl Transport for Fake {
        fn connect(&self) -> BoxFuture<'_, Result<Connection, ConnectError>> {
            Box::pin(async {
                let (ours, theirs) = duplex(1 << 16);
                let (fake, stop) = (self.clone(), self.stop.clone());
                self.tracker.spawn(async move {
                    tokio::select! { () = stop.cancelled() => {}, () = fake.serve(theirs) => {} }
                });
                Ok(Connection { io: Box::new(ours), peer: "memory".to_owned(), security: Security::Loopback })
            })
        }
    }

    impl Fake {
        fn state(&self) -> std::sync::MutexGuard<'_, Asterisk> {
            self.state.lock().unwrap()
        }

        fn asked(&self, action: &str) -> usize {
            self.state().asked.iter().filter(|asked| *asked == action).count()
        }

        async fn serve(self, mut io: DuplexStream) {
            let mut decoder = Decoder::new(DecodeLimits::default());
            let mut events: Option<broadcast::Receiver<String>> = None;
            io.write_all(b"Asterisk Call Manager/11.0.0\r\n").await.unwrap();
            loop {
                while let Some(Frame::Message(message)) = decoder.next_frame().unwrap() {
                    let name = message.get("Action").unwrap().into_owned();
                    if name == "Login" && message.get("Events").unwrap() != "off" {
                        events = Some(self.events.subscribe());
                    }
                    let Some(answer) = self.answer(&name, &message) else { continue };
                    io.write_all(answer.replace('\n', "\r\n").as_bytes()).await.unwrap();
                }
                tokio::select! {
                    read = io.read_buf(decoder.buffer_mut(4096)) => {
                        if read.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    event = async {
                        match &mut events {
                            Some(events) => events.recv().await.unwrap(),
                            None => std::future::pending().await,
                        }
                    } => io.write_all(event.replace('\n', "\r\n").as_bytes()).await.unwrap(),
                }
            }
        }

        fn answer(&self, name: &str, message: &Message) -> Option<String> {
            let mut state = self.state();
            state.asked.push(name.to_owned());
            let id = message.action_id().unwrap().into_owned();
            let list = |items: Vec<String>, end: &str| {
                let start = format!("Response: Success\nActionID: {id}\nEventList: start\n\n");
                let items: String = items.iter().map(|item| format!("{item}\nActionID: {id}\n\n")).collect();
                let count = items.matches("Event: ").count();
                format!("{start}{items}Event: {end}\nActionID: {id}\nEventList: Complete\nListItems: {count}\n\n")
            };
            let error = |text: &str| format!("Response: Error\nActionID: {id}\nMessage: {text}\n\n");
            let known = |set: &BTreeSet<&'static str>| set.iter().any(|one| *one == name);
            if known(&state.stalled) {
                return None;
            }
            if known(&state.denied) {
                return Some(error("Permission denied"));
            }
            if known(&state.unknown) {
                return Some(error(
                    "Invalid/unknown command: it. Use Action: ListCommands to show available commands.",
                ));
            }
            Some(match name {
                "Challenge" => format!("Response: Success\nActionID: {id}\nChallenge: 1\n\n"),
                "Login" if message.get("Events").unwrap() != "off" => {
                    let booted = "Event: FullyBooted\nPrivilege: system,all\nUptime: 9\nStatus: Fully Booted\n\n";
                    format!("Response: Success\nActionID: {id}\nMessage: Authentication accepted\n\n{booted}")
                }
                "PJSIPShowRegistrationsOutbound" => {
                    let item = |(name, status): (&&str, &&str)| {
                        format!(
                            "Event: OutboundRegistrationDetail\nObjectName: {name}\nClientUri: sip:{name}@carrier\n\
                             ServerUri: sip:carrier\nStatus: {status}"
                        )
                    };
                    list(state.registrations.iter().map(item).collect(), "OutboundRegistrationDetailComplete")
                }
                "PJSIPShowEndpoints" if state.registrations.is_empty() => error("No endpoints found"),
                "PJSIPShowEndpoints" => {
                    let item = |name: &&str| format!("Event: EndpointList\nObjectName: {name}\nAor: {name}");
                    list(state.registrations.keys().map(item).collect(), "EndpointListComplete")
                }
                "PJSIPShowEndpoint" => {
                    let name = message.get("Endpoint").unwrap();
                    let detail = format!("Event: EndpointDetail\nObjectName: {name}");
                    let contact = format!(
                        "Event: ContactStatusDetail\nAOR: {name}\nURI: sip:{name}\nStatus: Reachable\n\
                         RoundtripUsec: 900\nEndpointName: {name}"
                    );
                    list(vec![detail, contact], "EndpointDetailComplete")
                }
                "IAXregistry" => error("Invalid/unknown command: IAXregistry."),
                _ => format!("Response: Success\nActionID: {id}\nPing: Pong\n\n"),
            })
        }

        fn registry(&self, name: &str, status: &str) {
            let text = format!(
                "Event: Registry\nPrivilege: system,all\nChannelType: PJSIP\nUsername: sip:{name}@carrier\n\
                 Domain: sip:carrier\nStatus: {status}\n\n"
            );
            self.events.send(text).unwrap();
        }
    }

    struct Bench {
        fake: Fake,
        facts: mpsc::Receiver<Input>,
        handle: PbxHandle,
        tracker: TaskTracker,
        stop: CancellationToken,
    }

    impl Bench {
        fn start(state: Asterisk) -> Self {
            Self::with_room(state, 256)
        }

        fn with_room(state: Asterisk, room: usize) -> Self {
            let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
            let fake = Fake {
                state: Arc::new(Mutex::new(state)),
                events: broadcast::channel(64).0,
                tracker: tracker.clone(),
                stop: stop.clone(),
            };
            let settings = PbxSettings {
                pbx: PbxId::try_from("pbx1").unwrap(),
                ami: AmiSettings::new("pbx1", "memory", "tw", "hush".into()),
                declared: Vec::new(),
                reconcile: Duration::from_secs(30),
                known: Vec::new(),
                evidence: PbxEvidence::default(),
            };
            let (sender, facts) = mpsc::channel(room);
            let clock: Arc<dyn Clock> = Arc::new(RuntimeClock(Instant::now()));
            let handle = watch_pbx(settings, Arc::new(fake.clone()), clock, &tracker, stop.clone(), sender);
            Self { fake, facts, handle, tracker, stop }
        }

        async fn next(&mut self) -> Input {
            timeout(Duration::from_secs(60), self.facts.recv()).await.expect("a fact").expect("the watcher runs")
        }

        /// The facts up to and with the first one that fits.
        async fn until(&mut self, fits: impl Fn(&Input) -> bool) -> Vec<Input> {
            let mut seen = Vec::new();
            loop {
                seen.push(self.next().await);
                if seen.last().is_some_and(&fits) {
                    return seen;
                }
            }
        }

        async fn listed(&mut self) -> Vec<Input> {
            self.until(|input| matches!(input, Input::Pbx { fact: PbxFact::Listed { .. }, .. })).await
        }

        async fn finish(self) {
            self.stop.cancel();
            self.tracker.close();
            timeout(Duration::from_secs(5), self.tracker.wait()).await.expect("all tasks ended");
        }
    }

    fn asterisk(registrations: &[(&'static str, &'static str)]) -> Asterisk {
        Asterisk { registrations: registrations.iter().copied().collect(), ..Asterisk::default() }
    }

    fn is_state(input: &Input, name: &str, wanted: RegistrationState, from: Source) -> bool {
        matches!(
            input,
            Input::Seen(Observation { trunk, fact: Fact::Registration { state, source, .. }, .. })
                if trunk.name() == name && *state == wanted && *source == from
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_pbx_is_listed_as_soon_as_it_is_ready() {
        let mut bench = Bench::start(asterisk(&[("a", "Registered"), ("b", "Rejected")]));
        let began = Instant::now();
        let facts = bench.listed().await;
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert!(matches!(&facts[0], Input::Pbx { fact: PbxFact::Connected { version }, .. } if version == "11.0.0"));
        let Some(Input::Pbx { fact: PbxFact::Listed { trunks }, .. }) = facts.last() else { panic!() };
        assert_eq!(trunks.iter().map(|trunk| trunk.id.to_string()).collect::<Vec<_>>(), ["pbx1/a", "pbx1/b"]);
        assert!(facts.iter().any(|fact| is_state(fact, "b", RegistrationState::Rejected, Source::List)));
        let status = bench.handle.status().borrow().clone();
        assert!(status.listed && status.error.is_none());
        assert_eq!(status.rights.registrations, Permission::Granted);
        assert_eq!(status.rights.events, Permission::Granted);
        assert_eq!(status.rights.iax, Permission::Absent);
        assert_eq!(bench.fake.asked("PJSIPShowEndpoint"), 2);
        let contact = |fact: &&Input| matches!(fact, Input::Seen(seen) if matches!(seen.fact, Fact::Contact { .. }));
        assert_eq!(facts.iter().filter(contact).count(), 2);
        // Nothing changed: they are not asked for again.
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(bench.fake.asked("PJSIPShowEndpoints"), 4);
        assert_eq!(bench.fake.asked("PJSIPShowEndpoint"), 2);
        bench.finish().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_user_may_not_do_is_learned_once_and_done_without() {
        let denied = BTreeSet::from(["PJSIPShowEndpoints", "PJSIPShowEndpoint", "Command"]);
        let mut bench = Bench::start(Asterisk { denied, ..asterisk(&[("a", "Registered")]) });
        bench.listed().await;
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(bench.fake.asked("PJSIPShowEndpoints"), 1);
        assert_eq!(bench.fake.asked("Command"), 1);
        assert_eq!(bench.fake.asked("PJSIPShowRegistrationsOutbound"), 4);
        let status = bench.handle.status().borrow().clone();
        assert_eq!(status.rights.endpoints, Permission::Denied);
        // Without endpoints there is nothing to ask for.
        assert_eq!(status.rights.contacts, Permission::Untried);
        assert_eq!(status.rights.command, Permission::Denied);
        assert_eq!(status.findings, [Finding::EndpointsUnknown]);
        bench.finish().await;
    }

    #[tokio::test(start_paused = true)]
    async fn registrations_that_may_not_be_listed_are_asked_for_ever_later_and_said() {
        let denied = BTreeSet::from(["PJSIPShowRegistrationsOutbound"]);
        let mut bench = Bench::start(Asterisk { denied, ..asterisk(&[("a", "Registered")]) });
        assert!(matches!(bench.next().await, Input::Pbx { fact: PbxFact::Connected { .. }, .. }));
        tokio::time::sleep(Duration::from_secs(60)).await;
        let asked = bench.fake.asked("PJSIPShowRegistrationsOutbound");
        assert!((6..=12).contains(&asked), "{asked}");
        let status = bench.handle.status().borrow().clone();
        assert_eq!(status.rights.registrations, Permission::Denied);
        assert!(status.error.unwrap().contains("Permission denied"));
        assert!(bench.facts.try_recv().is_err());
        // The right comes back with a new manager.conf and login; here the same action is simply allowed.
        bench.fake.state().denied.clear();
        bench.listed().await;
        assert_eq!(bench.handle.status().borrow().error, None);
        bench.finish().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_module_that_stays_absent_is_an_empty_list() {
        let unknown = BTreeSet::from(["PJSIPShowRegistrationsOutbound"]);
        let mut bench = Bench::start(Asterisk { unknown, ..asterisk(&[]) });
        let began = Instant::now();
        let facts = bench.listed().await;
        assert!(began.elapsed() > Duration::from_secs(10), "{:?}", began.elapsed());
        let Some(Input::Pbx { fact: PbxFact::Listed { trunks }, .. }) = facts.last() else { panic!() };
        assert!(trunks.is_empty());
        bench.finish().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_unregistered_is_corrected_within_a_second() {
        let mut bench = Bench::start(asterisk(&[("a", "Registered")]));
        bench.listed().await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        bench.fake.registry("a", "Unregistered");
        let began = Instant::now();
        let event = bench.next().await;
        assert!(is_state(&event, "a", RegistrationState::Unregistered, Source::Event), "{event:?}");
        let correction = bench.next().await;
        assert!(is_state(&correction, "a", RegistrationState::Registered, Source::List), "{correction:?}");
        assert!(began.elapsed() <= Duration::from_secs(1), "{:?}", began.elapsed());
        bench.finish().await;
    }

    #[tokio::test(start_paused = true)]
    async fn events_do_not_wait_for_a_list_that_hangs() {
        let mut bench = Bench::start(asterisk(&[("a", "Registered")]));
        bench.listed().await;
        bench.fake.state().stalled.insert("PJSIPShowEndpoints");
        // The reconciliation hangs from here on, for 10 s.
        tokio::time::sleep(Duration::from_secs(32)).await;
        assert_eq!(bench.fake.asked("PJSIPShowEndpoints"), 2);
        let began = Instant::now();
        bench.fake.registry("a", "Rejected");
        let event = bench.next().await;
        assert!(is_state(&event, "a", RegistrationState::Rejected, Source::Event), "{event:?}");
        assert!(began.elapsed() < Duration::from_millis(10), "{:?}", began.elapsed());
        bench.finish().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_consumer_is_waited_for_and_loses_nothing_in_order() {
        let mut bench = Bench::with_room(asterisk(&[("a", "Registered")]), 1);
        bench.listed().await;
        for turn in 0..50 {
            bench.fake.registry("a", if turn % 2 == 0 { "Rejected" } else { "Registered" });
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for turn in 0..50 {
            let wanted = if turn % 2 == 0 { RegistrationState::Rejected } else { RegistrationState::Registered };
            let event = bench.next().await;
            assert!(is_state(&event, "a", wanted, Source::Event), "{turn}: {event:?}");
        }
        bench.finish().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_declaration_is_taken_without_dropping_the_link() {
        let mut bench = Bench::start(asterisk(&[("a", "Registered"), ("b", "Registered")]));
        bench.listed().await;
        let both = DeclaredTrunk {
            id: TrunkId::try_from("pbx1/main").unwrap(),
            registrations: vec!["a".try_into().unwrap(), "b".try_into().unwrap()],
            endpoints: Vec::new(),
        };
        bench.handle.declare(vec![both], Duration::from_secs(30), Duration::from_secs(15)).await;
        let facts = bench.listed().await;
        let Some(Input::Pbx { fact: PbxFact::Listed { trunks }, .. }) = facts.last() else { panic!() };
        assert_eq!(trunks.len(), 1);
        assert_eq!(trunks[0].endpoints.len(), 2);
        assert_eq!(bench.fake.asked("Login"), 2);
        bench.finish().await;
    }

    #[derive(Debug)]
    struct Broken;

    impl Transport for Broken {
        fn connect(&self) -> BoxFuture<'_, Result<Connection, ConnectError>> {
            panic!("a fault of ours")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pbx_whose_watching_broke_is_said_to_be_lost() {
        let settings = PbxSettings {
            pbx: PbxId::try_from("pbx1").unwrap(),
            ami: AmiSettings::new("pbx1", "memory", "tw", "hush".into()),
            declared: Vec::new(),
            reconcile: Duration::from_secs(30),
            known: Vec::new(),
            evidence: PbxEvidence::default(),
        };
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let (sender, mut facts) = mpsc::channel(8);
        let clock: Arc<dyn Clock> = Arc::new(RuntimeClock(Instant::now()));
        let _handle = watch_pbx(settings, Arc::new(Broken), clock, &tracker, stop, sender);
        let said = timeout(Duration::from_secs(60), facts.recv()).await.expect("a fact");
        assert!(matches!(said, Some(Input::Pbx { fact: PbxFact::Lost { .. }, .. })), "{said:?}");
        tracker.close();
        timeout(Duration::from_secs(5), tracker.wait()).await.expect("all tasks ended");
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_nobody_takes_the_facts() {
        let Bench { fake, facts, handle, tracker, stop } = Bench::start(asterisk(&[("a", "Registered")]));
        drop(facts);
        let mut phase = handle.link.phase();
        let stopped = phase.wait_for(|phase| *phase == crate::wire::ami::client::LinkPhase::Stopped);
        timeout(Duration::from_secs(60), stopped).await.expect("the link ended").unwrap();
        assert!(!stop.is_cancelled());
        stop.cancel();
        drop(fake);
        tracker.close();
        timeout(Duration::from_secs(5), tracker.wait()).await.expect("all tasks ended");
    }
}
