//! What a PBX said, as facts about trunks: the state behind one AMI link.
//!
//! Separate from the task that holds the link so that it can be tested as a history: events, lists and times come in,
//! facts and requests come out, nothing waits. The task's part is small: it reads a list when told to and reports how
//! that went.
//!
//! # How nothing is missed
//! - A list is read whole, and what was known and is not in it is said to be gone. It is read again after each
//!   (re)connection, when Asterisk has booted, after a reload of what registers, and every `reconcile`.
//! - After a reconnect everything is said again, as read from the list. Otherwise only what differs from our last word
//!   is said: a list is no attempt and no heartbeat.
//! - **An event outranks a list that was asked for before it.** Both travel on connections of their own, so the list's
//!   snapshot may be older. Where such a list disagrees, it is not believed and asked for again. A [`Ticket`] carries
//!   the order: it counts events and does not depend on a clock.
//! - `Unregistered` may be the late word of an object that was replaced (up to 32 s after the new one registered), so
//!   the list is read again at once. So it is for an event of unknown or ambiguous URIs, once for each.
//! - Asterisk sends an event for every finished attempt. A registration that is found `Registered` or `Rejected` in a
//!   list, was not before, and whose event does not come within [`DEAF_AFTER`], was finished unheard: the event session
//!   does not hear everything. (`Unregistered` proves nothing: a replaced object starts so, silently.)
//!
//! # Time
//! The wall clock may step back. Facts then carry the latest time seen so far; waiting is done by the sum of the
//! forward steps alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    directory::{DeclaredTrunk, Directory, EndpointObject, Finding, Inventory, Pair, RegistrationObject, Technology},
    fact::{ContactStatus, Fact, NextAttempt, Observation, PbxFact, RegistrationParameters, RegistrationState, Source},
};
use crate::{
    clock::{Timestamp, after, between},
    ids::{ContactUri, EndpointName, NameError, PbxId, RegistrationName, TrunkId},
    wire::ami::{
        EventError, Message,
        event::{
            AmiEvent, ContactState, ContactStatus as ContactStatusEvent, EndpointList, IaxRegistrationState,
            OutboundRegistrationDetail, RegistrationStatus, Registry, RegistryEntry, Reload,
        },
        registrations_cli::{NextAttempt as PrintedNextAttempt, RegistrationsCli},
    },
};

/// How long to let a burst pass before the list is read: a reload's `Unregistered` comes 1-2 ms after it, a graceful
/// stop un-registers every trunk within milliseconds.
pub const SETTLE: Duration = Duration::from_millis(250);
/// Lists that events give rise to are at least this far apart: a registrar granting 10 s or less makes Asterisk send
/// over 100 events a second.
pub const LIST_SPACING: Duration = Duration::from_secs(1);
/// An event may come this long after the list that already shows its outcome.
pub const DEAF_AFTER: Duration = Duration::from_secs(2);
/// An attempt overdue by more than this is not in flight any more: an unanswered one ends after 32 s
/// (`pjsip_config.xml`, `timer_b`), and the column shows whole seconds.
pub const GAVE_UP_AFTER: Duration = Duration::from_secs(35);
/// The column shows whole seconds, and a table may be read a few seconds late: a schedule this close is the same one.
const SAME_ATTEMPT: Duration = Duration::from_secs(5);
/// A round trip of this and more counts as slow, here as in the health fold; only crossing it is worth a fact.
pub const SLOW_ROUND_TRIP: Duration = Duration::from_millis(1500);
/// The first wait after a list could not be read; it doubles up to [`RETRY_AT_MOST`].
pub const RETRY_FIRST: Duration = Duration::from_millis(500);
/// The longest wait after a list could not be read.
pub const RETRY_AT_MOST: Duration = Duration::from_secs(10);
/// How many unknown URI pairs are remembered, so that each asks for one list only.
const STRANGERS: usize = 256;

/// The order of a list among the events: to be handed back with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// Which reading; answers to others are not taken.
    serial: u64,
    /// How many events had been heard when the list was asked for.
    heard: u64,
}

/// What should be asked of the PBX. At most one list is asked for at a time; it must be answered by
/// [`Observer::listed`], [`Observer::states`] or [`Observer::list_failed`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Read all lists; answer with [`Observer::listed`].
    Resync(Ticket),
    /// Read the registrations only; answer with [`Observer::states`].
    List(Ticket),
    /// Send one `PJSIPQualify`: the result comes as an event, if it changes anything.
    Qualify(EndpointName),
    /// The event session misses events: read without filters.
    DropFilters,
}

/// A fact, and whose.
#[derive(Debug, Clone, PartialEq)]
pub enum Sighting {
    /// About one trunk.
    Seen(Observation),
    /// About the PBX.
    Pbx {
        /// When.
        at: Timestamp,
        /// What.
        fact: PbxFact,
    },
}

/// What follows from one thing heard: facts, in order, and requests.
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use = "facts that are dropped are facts nobody knows"]
pub struct Told {
    /// The facts.
    pub sightings: Vec<Sighting>,
    /// What to do.
    pub requests: Vec<Request>,
}

/// The lists of a PBX, each read to its end. `None` is a list that could not be read: what it said last stays true.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lists {
    /// `PJSIPShowRegistrationsOutbound`.
    pub registrations: Vec<OutboundRegistrationDetail>,
    /// An item of it could not be read, so what is missing is not gone.
    pub partial: bool,
    /// `IAXregistry`.
    pub iax: Option<Vec<RegistryEntry>>,
    /// `PJSIPShowEndpoints`.
    pub endpoints: Option<Vec<EndpointList>>,
    /// The contacts of the endpoints in `contacts_of`.
    pub contacts: Vec<ListedContact>,
    /// The endpoints whose contacts were read; see [`Observer::wanted_contacts`].
    pub contacts_of: BTreeSet<EndpointName>,
    /// `pjsip show registrations`.
    pub cli: Option<RegistrationsCli>,
}

/// A contact of an endpoint, with its status.
///
/// Source: `ContactStatusDetail`, an item of `PJSIPShowEndpoint` (`res/res_pjsip/pjsip_options.c`). `PJSIPShowContacts`
/// will not do: it knows the contacts that registered with us, and not those of the configuration (seen on 22.10), which
/// are the ones trunks have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedContact {
    /// The endpoint it was asked for by.
    pub endpoint: EndpointName,
    /// Its AOR.
    pub aor: String,
    /// Its address.
    pub uri: String,
    /// What it answered last.
    pub status: ContactState,
    /// How long that took.
    pub rtt: Option<Duration>,
}

impl ListedContact {
    /// The event's name.
    pub const EVENT: &'static str = "ContactStatusDetail";

    /// Reads the list item.
    ///
    /// # Errors
    /// [`EventError::MissingField`] without `AOR`, `URI` or `Status`.
    pub fn read(endpoint: &EndpointName, message: &Message) -> Result<Self, EventError> {
        let text = |field: &'static str| {
            let value = message.get_filled(field).ok_or(EventError::MissingField { event: Self::EVENT, field })?;
            Ok::<String, EventError>(value.into_owned())
        };
        let rtt = message.get("RoundtripUsec").and_then(|value| value.trim().parse().ok()).map(Duration::from_micros);
        Ok(Self {
            endpoint: endpoint.clone(),
            aor: text("AOR")?,
            uri: text("URI")?,
            status: text("Status")?.as_str().into(),
            rtt,
        })
    }
}

/// Our last word about a registration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct SaidRegistration {
    parameters: Option<RegistrationParameters>,
    state: Option<RegistrationState>,
    /// The state was told by an event.
    by_event: bool,
    /// The count of events when its last own one was heard.
    heard: u64,
    next: Option<SaidNext>,
}

/// Our last word about the next attempt, and how many events had been heard then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SaidNext {
    stage: NextStage,
    state: RegistrationState,
    heard: u64,
    /// When it is to be made.
    due: Option<Timestamp>,
}

impl SaidNext {
    /// Whether this is about the same attempt. One that moved on was made, even if no event said so.
    fn is(&self, other: &Self) -> bool {
        let same_time = match (self.due, other.due) {
            (Some(one), Some(two)) => between(one, two).max(between(two, one)) <= SAME_ATTEMPT,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        (self.stage, self.state, self.heard) == (other.stage, other.state, other.heard) && same_time
    }
}

/// What the column means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NextStage {
    Scheduled,
    InFlight,
    GivenUp,
}

/// What Asterisk said last of a contact.
#[derive(Debug, Clone, PartialEq, Eq)]
struct HeardContact {
    /// As Asterisk named it with the contact.
    endpoint: Option<EndpointName>,
    status: ContactStatus,
    rtt: Option<Duration>,
    heard: u64,
}

/// A contact of a trunk, and an endpoint to qualify it by.
#[derive(Debug, Clone, PartialEq, Eq)]
struct KnownContact {
    status: ContactStatus,
    rtt: Option<Duration>,
    endpoint: EndpointName,
}

impl KnownContact {
    /// Two AORs of a trunk may hold the same address: what tells more counts, and what is better.
    fn telling_more(one: Option<Self>, other: Self) -> Option<Self> {
        let rank = |contact: &Self| match contact.status {
            ContactStatus::Reachable => 0,
            ContactStatus::Unreachable => 1,
            ContactStatus::Unknown => 2,
            ContactStatus::NonQualified => 3,
        };
        Some(match one {
            Some(one) if rank(&one) <= rank(&other) => one,
            Some(_) | None => other,
        })
    }
}

/// Our last word about a contact; `None` if it was only recalled from an earlier run.
type SaidContact = Option<(ContactStatus, Option<Duration>)>;

/// What the list of endpoints says of an endpoint's contacts: while it stays the same, they need not be read again.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Portrait {
    contacts: Vec<String>,
    /// Its device is `Unavailable`: none of its contacts can be reached (`main/endpoints.c`, `chan_pjsip_devicestate`).
    unavailable: bool,
}

impl Portrait {
    fn of(item: &EndpointList) -> Self {
        Self {
            contacts: item.contacts.clone(),
            unavailable: item.device_state.as_deref().is_some_and(|state| state.eq_ignore_ascii_case("Unavailable")),
        }
    }
}

/// What is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reading {
    States,
    Everything,
}

/// A change found in a list, whose event is still to come.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unheard {
    since: Duration,
    from: RegistrationState,
    to: RegistrationState,
}

/// An event of URIs that no listed registration has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stranger {
    state: RegistrationState,
    heard: u64,
}

/// The observer of one PBX.
#[derive(Debug)]
pub struct Observer {
    pbx: PbxId,
    declared: Vec<DeclaredTrunk>,
    reconcile: Duration,

    /// The latest wall time, which facts carry.
    latest: Option<Timestamp>,
    /// The wall time as it was given last.
    given: Option<Timestamp>,
    /// The sum of its forward steps.
    elapsed: Duration,

    up: bool,
    refusal_said: bool,
    /// The user may not hear of registrations.
    unheard_of: bool,
    /// Events heard, over all connections.
    heard: u64,
    /// Everything is to be said with the next lists.
    full: bool,
    /// The next lists are to be followed by [`PbxFact::Listed`] even if nothing changed.
    announce: bool,
    /// The event session was found deaf on this connection.
    deaf: bool,

    reading: Option<(u64, Reading)>,
    readings: u64,
    due: Option<(Duration, Reading)>,
    reconcile_at: Duration,
    last_reading: Option<Duration>,
    failures: u32,

    inventory: Inventory,
    directory: Directory,
    unnamable: Vec<Finding>,
    registrations: BTreeMap<(TrunkId, RegistrationName), SaidRegistration>,
    contacts: BTreeMap<(String, ContactUri), HeardContact>,
    /// How each trunk's endpoint was listed when its contacts were read.
    portraits: BTreeMap<EndpointName, Portrait>,
    said_contacts: BTreeMap<(TrunkId, ContactUri), SaidContact>,
    strangers: BTreeMap<Pair, Stranger>,
    unheard: BTreeMap<RegistrationName, Unheard>,
}

impl Observer {
    /// An observer that has seen nothing yet.
    #[must_use]
    pub fn new(pbx: PbxId, declared: Vec<DeclaredTrunk>, reconcile: Duration) -> Self {
        Self {
            pbx,
            declared,
            reconcile,
            latest: None,
            given: None,
            elapsed: Duration::ZERO,
            up: false,
            refusal_said: false,
            unheard_of: false,
            heard: 0,
            full: true,
            announce: true,
            deaf: false,
            reading: None,
            readings: 0,
            due: None,
            reconcile_at: Duration::ZERO,
            last_reading: None,
            failures: 0,
            inventory: Inventory::default(),
            directory: Directory::default(),
            unnamable: Vec::new(),
            registrations: BTreeMap::new(),
            contacts: BTreeMap::new(),
            portraits: BTreeMap::new(),
            said_contacts: BTreeMap::new(),
            strangers: BTreeMap::new(),
            unheard: BTreeMap::new(),
        }
    }

    /// What an earlier run knew of a trunk, so that what has vanished since is said to be gone. To be called before the
    /// first list.
    pub fn recall(
        &mut self,
        trunk: &TrunkId,
        registrations: impl IntoIterator<Item = RegistrationName>,
        contacts: impl IntoIterator<Item = ContactUri>,
    ) {
        for name in registrations {
            self.registrations.entry((trunk.clone(), name)).or_default();
        }
        for uri in contacts {
            self.said_contacts.entry((trunk.clone(), uri)).or_default();
        }
    }

    /// The PBX.
    #[must_use]
    pub fn pbx(&self) -> &PbxId {
        &self.pbx
    }

    /// The latest time it was told of, which facts carry.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.latest.unwrap_or(Timestamp::MIN)
    }

    /// The trunks, as last listed.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// What an operator should know, for `check`.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let blind = |id: &TrunkId| {
            let mut contacts = self.said_contacts.iter().filter(|((trunk, _), _)| trunk == id);
            contacts.all(|(_, said)| !matches!(said, Some((status, _)) if *status != ContactStatus::NonQualified))
        };
        let trunks = self.directory.trunks().iter().filter(|trunk| trunk.registrations.is_empty());
        let nothing =
            trunks.filter(|trunk| blind(&trunk.id)).map(|one| Finding::NothingToSee { trunk: one.id.clone() });
        self.directory.findings().iter().chain(&self.unnamable).cloned().chain(nothing).collect()
    }

    /// The configuration was read again: the next lists are read with it.
    pub fn declare(&mut self, at: Timestamp, declared: Vec<DeclaredTrunk>, reconcile: Duration) -> Told {
        self.reconcile = reconcile;
        let mut told = Told::default();
        self.pass(at);
        self.declared = declared;
        self.announce = true;
        self.ask(Reading::Everything, Duration::ZERO);
        self.pump(&mut told);
        told
    }

    /// The link is up (again); nothing can be asked yet.
    pub fn connected(&mut self, at: Timestamp, version: &str) -> Told {
        let at = self.pass(at);
        self.up = false;
        self.refusal_said = false;
        self.unheard_of = false;
        self.deaf = false;
        self.forget_waiting();
        let mut told = Told::default();
        told.pbx(at, PbxFact::Connected { version: version.to_owned() });
        told
    }

    /// The user may not read events of class system: changes are seen in the lists only, and no refresh is announced. To be
    /// called between [`Observer::connected`] and [`Observer::ready`].
    pub fn without_events(&mut self) {
        self.unheard_of = true;
    }

    /// Actions are answered and events flow: after a connect, a boot, or a new event session. What came before may have
    /// been missed, so all is read and said again.
    pub fn ready(&mut self, at: Timestamp) -> Told {
        self.pass(at);
        self.up = true;
        self.last_reading = None;
        self.start_over()
    }

    /// Events were dropped before they came here.
    pub fn overflowed(&mut self, at: Timestamp) -> Told {
        self.pass(at);
        self.start_over()
    }

    fn start_over(&mut self) -> Told {
        let mut told = Told::default();
        self.full = true;
        self.unheard.clear();
        self.ask(Reading::Everything, Duration::ZERO);
        self.pump(&mut told);
        told
    }

    /// The link is lost.
    pub fn lost(&mut self, at: Timestamp, last_heard: Timestamp, error: &str) -> Told {
        let at = self.pass(at);
        self.up = false;
        self.forget_waiting();
        let mut told = Told::default();
        told.pbx(at, PbxFact::Lost { last_heard: last_heard.min(at), error: error.to_owned() });
        told
    }

    /// No connection comes about.
    pub fn unreachable(&mut self, at: Timestamp, error: &str) -> Told {
        let at = self.pass(at);
        let mut told = Told::default();
        told.pbx(at, PbxFact::Unreachable { error: error.to_owned() });
        told
    }

    /// The login was refused. Said once, until the link is up.
    pub fn refused(&mut self, at: Timestamp, error: &str) -> Told {
        let at = self.pass(at);
        let mut told = Told::default();
        if !std::mem::replace(&mut self.refusal_said, true) {
            told.pbx(at, PbxFact::Refused { error: error.to_owned() });
        }
        told
    }

    /// Time passed. To be called a few times a second.
    pub fn tick(&mut self, at: Timestamp) -> Told {
        let at = self.pass(at);
        let mut told = Told::default();
        self.conclude_deafness(at, &mut told);
        self.pump(&mut told);
        told
    }

    /// An event came.
    pub fn heard(&mut self, at: Timestamp, event: &AmiEvent) -> Told {
        let at = self.pass(at);
        self.heard += 1;
        let mut told = Told::default();
        match event {
            AmiEvent::Registry(registry) => self.heard_registry(at, registry, &mut told),
            AmiEvent::ContactStatus(status) => self.heard_contact(at, status, &mut told),
            AmiEvent::FullyBooted(_) => {
                // What was listed before may have been half of it, and nothing from before the boot stands.
                self.full = true;
                self.strangers.clear();
                self.unheard.clear();
                self.ask(Reading::Everything, Duration::ZERO);
            }
            AmiEvent::Reload(reload) => self.heard_reload(at, reload, &mut told),
            AmiEvent::Shutdown(shutdown) => {
                told.pbx(at, PbxFact::ShutDown { restart: shutdown.restart });
                // The link ends within milliseconds; what is asked now is answered by an error at best.
                self.forget_waiting();
                self.up = false;
            }
            // List items come with the lists; that a peer is reachable says nothing a contact does not.
            AmiEvent::OutboundRegistrationDetail(_)
            | AmiEvent::OutboundRegistrationDetailComplete(_)
            | AmiEvent::EndpointList(_)
            | AmiEvent::EndpointListComplete(_)
            | AmiEvent::ContactList(_)
            | AmiEvent::ContactListComplete(_)
            | AmiEvent::PeerStatus(_)
            | AmiEvent::RegistryEntry(_)
            | AmiEvent::RegistrationsComplete(_)
            | AmiEvent::Other(_) => {}
        }
        self.pump(&mut told);
        told
    }

    /// The list of `ticket` could not be read: it is asked for again, later each time.
    pub fn list_failed(&mut self, at: Timestamp, ticket: Ticket) -> Told {
        self.pass(at);
        let mut told = Told::default();
        if let Some(reading) = self.answered(ticket) {
            let wait = RETRY_FIRST.saturating_mul(1 << self.failures.min(5)).min(RETRY_AT_MOST);
            self.failures = self.failures.saturating_add(1);
            self.ask(reading, wait);
            self.pump(&mut told);
        }
        told
    }

    /// The endpoints whose contacts should be read too before [`Observer::listed`]: those of trunks, after a connection,
    /// a boot or a reload all of them, else those whose contacts look different from the last time. There is an action for
    /// one endpoint only, so asking for all of them each time would be much.
    #[must_use]
    pub fn wanted_contacts(&self, lists: &Lists) -> Vec<EndpointName> {
        let TakenIn { inventory, .. } = self.inventory(lists);
        let directory = Directory::build(&self.pbx, &self.declared, &inventory);
        let wanted = |item: &&EndpointList| {
            let name = EndpointName::try_from(item.object_name.as_str()).ok()?;
            directory.trunk_of_endpoint(&name)?;
            let same = !self.full && !self.announce && self.portraits.get(&name) == Some(&Portrait::of(item));
            (!same).then_some(name)
        };
        lists.endpoints.iter().flatten().filter_map(|item| wanted(&item)).collect()
    }

    /// All lists were read, for a [`Request::Resync`].
    pub fn listed(&mut self, at: Timestamp, ticket: Ticket, lists: &Lists) -> Told {
        let at = self.pass(at);
        let mut told = Told::default();
        if self.answered(ticket).is_none() {
            return told;
        }
        self.failures = 0;
        let before = self.take_in(lists);
        let full = std::mem::take(&mut self.full);
        if full {
            self.unheard.clear();
        }
        let changed = before.trunks() != self.directory.trunks();
        let announce = std::mem::take(&mut self.announce) || full || changed;

        self.say_vanished_registrations(at, &mut told);
        let mut words = BTreeMap::new();
        for detail in &lists.registrations {
            if let Some(state) =
                detail.status.as_ref().map_or(Some(RegistrationState::Unregistered), |s| Some(state(s)))
            {
                words.insert(detail.object_name.as_str(), state);
            }
        }
        let objects: Vec<_> = self.inventory.registrations.clone();
        for object in &objects {
            let same = before.registrations_of(&object.pair).contains(&object.name);
            let word = match object.pair.technology {
                Technology::Pjsip => words.get(object.name.as_str()).copied(),
                Technology::Iax2 => lists.iax.iter().flatten().find_map(|entry| iax_word(entry, &object.pair)),
            };
            self.say_parameters(at, object, full, &mut told);
            self.say_listed_state(at, object, word, ticket, Repeat { full, same_object: same }, &mut told);
        }
        self.take_in_contacts(lists, ticket);
        self.say_contacts(at, full, &mut told);
        if let Some(cli) = &lists.cli {
            self.say_next_attempts(at, cli, &mut told);
        }
        if announce {
            told.pbx(at, PbxFact::Listed { trunks: self.directory.trunks().to_vec() });
        }
        self.hear_strangers(at, ticket, &mut told);
        self.pump(&mut told);
        told
    }

    /// The registrations were read, for a [`Request::List`]. What is new, changed or gone among them is left to the
    /// whole lists, which are asked for then: a trunk is not told by its registration alone.
    pub fn states(&mut self, at: Timestamp, ticket: Ticket, details: &[OutboundRegistrationDetail]) -> Told {
        let at = self.pass(at);
        let mut told = Told::default();
        if self.answered(ticket).is_none() {
            return told;
        }
        self.failures = 0;
        let mut known: BTreeMap<RegistrationName, RegistrationObject> = self
            .inventory
            .registrations
            .iter()
            .filter(|object| object.pair.technology == Technology::Pjsip)
            .map(|object| (object.name.clone(), object.clone()))
            .collect();
        let mut differs = false;
        for detail in details {
            let Ok(object) = RegistrationObject::pjsip(detail) else { continue };
            if known.remove(&object.name).as_ref() == Some(&object) {
                let word = detail.status.as_ref().map_or(RegistrationState::Unregistered, state);
                let repeat = Repeat { full: false, same_object: true };
                self.say_listed_state(at, &object, Some(word), ticket, repeat, &mut told);
            } else {
                differs = true;
            }
        }
        if differs || !known.is_empty() {
            self.ask(Reading::Everything, Duration::ZERO);
        }
        self.pump(&mut told);
        told
    }

    fn heard_registry(&mut self, at: Timestamp, registry: &Registry, told: &mut Told) {
        let technology = match registry.channel_type.as_str() {
            "PJSIP" => Technology::Pjsip,
            "IAX2" => Technology::Iax2,
            _ => return,
        };
        let pair = Pair { technology, client: registry.username.clone(), server: registry.domain.clone() };
        let state = state(&registry.status);
        self.unheard_of = false; // the right was not missing after all
        match self.directory.registrations_of(&pair) {
            [] => self.heard_stranger(pair, state),
            [only] => {
                let name = only.clone();
                self.say_event(at, &name, state, told);
            }
            several => {
                // Asterisk does not tell whose it was. If all of them are so already, it teaches nothing.
                let several: BTreeSet<_> = several.iter().cloned().collect();
                let says_so = |((_, name), said): (&(TrunkId, RegistrationName), &SaidRegistration)| {
                    !several.contains(name) || said.state == Some(state)
                };
                if !self.registrations.iter().all(says_so) {
                    self.ask(Reading::States, Duration::ZERO);
                }
            }
        }
    }

    fn say_event(&mut self, at: Timestamp, name: &RegistrationName, state: RegistrationState, told: &mut Told) {
        let Some(trunk) = self.directory.trunk_of_registration(name) else { return };
        let said = self.registrations.entry((trunk.clone(), name.clone())).or_default();
        said.state = Some(state);
        said.by_event = true;
        said.heard = self.heard;
        self.unheard.remove(name);
        let fact = Fact::Registration { registration: name.clone(), state, source: Source::Event };
        told.seen(at, trunk, fact);
        match state {
            RegistrationState::Unregistered => self.ask(Reading::States, SETTLE),
            RegistrationState::Registered | RegistrationState::Rejected => {}
        }
    }

    /// An event of a registration that is not in the lists: it is new, or was removed, or the lists were not read yet.
    fn heard_stranger(&mut self, pair: Pair, state: RegistrationState) {
        let stranger = Stranger { state, heard: self.heard };
        let known = self.strangers.contains_key(&pair);
        if known || self.strangers.len() < STRANGERS {
            self.strangers.insert(pair, stranger);
        }
        if !known {
            self.ask(Reading::Everything, SETTLE);
        }
    }

    /// Those who turned out to be known, and spoke after the list was asked for, are heard now.
    fn hear_strangers(&mut self, at: Timestamp, ticket: Ticket, told: &mut Told) {
        let known = |pair: &Pair| !self.directory.registrations_of(pair).is_empty();
        let (arrived, away): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.strangers).into_iter().partition(|(pair, _)| known(pair));
        self.strangers = away;
        for (pair, stranger) in arrived {
            if stranger.heard <= ticket.heard {
                continue;
            }
            if let [only] = self.directory.registrations_of(&pair) {
                let name = only.clone();
                self.say_event(at, &name, stranger.state, told);
            }
            self.ask(Reading::States, SETTLE);
        }
    }

    fn heard_reload(&mut self, at: Timestamp, reload: &Reload, told: &mut Told) {
        let module = reload.module.as_str();
        if module == "All" || module.starts_with("res_pjsip") || module.starts_with("chan_iax2") {
            told.pbx(at, PbxFact::Reloaded);
            self.announce = true;
            self.strangers.clear();
            // What a reload replaces starts anew: changes without an event are to be expected.
            self.unheard.clear();
        }
        self.ask(Reading::Everything, SETTLE);
    }

    fn heard_contact(&mut self, at: Timestamp, event: &ContactStatusEvent, told: &mut Told) {
        let Ok(uri) = ContactUri::try_from(event.uri.as_str()) else { return };
        let endpoint = event.endpoint.as_deref().and_then(|name| EndpointName::try_from(name).ok());
        let owners = self.owners(&event.aor, endpoint.as_ref());
        if owners.is_empty() {
            return;
        }
        let key = (event.aor.clone(), uri.clone());
        match contact_status(&event.status) {
            Some(status) => {
                let rtt = event.rtt.filter(|_| status == ContactStatus::Reachable);
                let contact = HeardContact { endpoint, status, rtt, heard: self.heard };
                self.contacts.insert(key, contact);
            }
            None if event.status == ContactState::Removed => {
                self.contacts.remove(&key);
            }
            None => return,
        }
        for trunk in owners.into_keys() {
            let known = self.known_contact(&trunk, &uri);
            self.say_contact(at, &trunk, &uri, known, false, told);
        }
    }

    /// The trunks a contact belongs to, each with one endpoint by which it does.
    fn owners(&self, aor: &str, endpoint: Option<&EndpointName>) -> BTreeMap<TrunkId, EndpointName> {
        let endpoints = self.directory.endpoints_of_contact(aor, endpoint);
        let with_trunk = |name: &EndpointName| Some((self.directory.trunk_of_endpoint(name)?.clone(), name.clone()));
        endpoints.into_iter().filter_map(with_trunk).collect()
    }

    /// What the lists make of the inventory.
    fn inventory(&self, lists: &Lists) -> TakenIn {
        let mut unnamable = Vec::new();
        let mut leave_out = |kind: &str, name: &str, error: NameError| {
            let what = format!("{kind} {}", name.escape_debug());
            unnamable.push(Finding::Unnamable { what, error });
        };
        let mut registrations = Vec::with_capacity(lists.registrations.len());
        for detail in &lists.registrations {
            match RegistrationObject::pjsip(detail) {
                Ok(object) => registrations.push(object),
                Err(error) => leave_out("the registration", &detail.object_name, error),
            }
        }
        let listed: BTreeSet<_> = registrations.iter().map(|object| object.name.clone()).collect();
        if lists.partial {
            let missing = |object: &&RegistrationObject| {
                object.pair.technology == Technology::Pjsip && !listed.contains(&object.name)
            };
            registrations.extend(self.inventory.registrations.iter().filter(missing).cloned());
        }
        match &lists.iax {
            Some(entries) => {
                for entry in entries {
                    match RegistrationObject::iax2(entry) {
                        Ok(object) if listed.contains(&object.name) => {}
                        Ok(object) => registrations.push(object),
                        Err(error) => leave_out("the IAX2 registration at", &entry.host, error),
                    }
                }
            }
            None => {
                let iax = |object: &&RegistrationObject| object.pair.technology == Technology::Iax2;
                registrations.extend(self.inventory.registrations.iter().filter(iax).cloned());
            }
        }
        let endpoints = match &lists.endpoints {
            Some(items) => {
                let mut endpoints = Vec::with_capacity(items.len());
                for item in items {
                    match EndpointObject::pjsip(item) {
                        Ok(object) => endpoints.push(object),
                        Err(error) => leave_out("the endpoint", &item.object_name, error),
                    }
                }
                Some(endpoints)
            }
            None => self.inventory.endpoints.clone(),
        };
        TakenIn { inventory: Inventory { registrations, endpoints }, unnamable }
    }

    /// Takes lists in as the new inventory and directory; gives the directory as it was.
    fn take_in(&mut self, lists: &Lists) -> Directory {
        let TakenIn { inventory, unnamable } = self.inventory(lists);
        self.inventory = inventory;
        self.unnamable = unnamable;
        let directory = Directory::build(&self.pbx, &self.declared, &self.inventory);
        std::mem::replace(&mut self.directory, directory)
    }

    fn say_vanished_registrations(&mut self, at: Timestamp, told: &mut Told) {
        let directory = &self.directory;
        self.registrations.retain(|(trunk, name), _| {
            let there = directory.trunk_of_registration(name) == Some(trunk);
            if !there {
                told.seen(at, trunk, Fact::RegistrationRemoved { registration: name.clone() });
                self.unheard.remove(name);
            }
            there
        });
    }

    fn is_ambiguous(&self, object: &RegistrationObject) -> bool {
        self.directory.registrations_of(&object.pair).len() > 1
    }

    fn say_parameters(&mut self, at: Timestamp, object: &RegistrationObject, full: bool, told: &mut Told) {
        let Some(trunk) = self.directory.trunk_of_registration(&object.name) else { return };
        // Where events cannot be told apart, none of them is a heartbeat.
        let heartbeat = object.parameters.heartbeat && !self.unheard_of && !self.is_ambiguous(object);
        let parameters = RegistrationParameters { heartbeat, ..object.parameters.clone() };
        let said = self.registrations.entry((trunk.clone(), object.name.clone())).or_default();
        if full || said.parameters.as_ref() != Some(&parameters) {
            said.parameters = Some(parameters.clone());
            told.seen(at, trunk, Fact::Parameters { registration: object.name.clone(), parameters });
        }
    }

    fn say_listed_state(
        &mut self,
        at: Timestamp,
        object: &RegistrationObject,
        word: Option<RegistrationState>,
        ticket: Ticket,
        repeat: Repeat,
        told: &mut Told,
    ) {
        let ambiguous = self.is_ambiguous(object);
        let Some(trunk) = self.directory.trunk_of_registration(&object.name) else { return };
        let said = self.registrations.entry((trunk.clone(), object.name.clone())).or_default();
        let Some(mut state) = word.or(said.state) else { return };
        let mut again = false;
        if let Some(last) = said.state
            && last != state
            && said.heard > ticket.heard
        {
            // The event came after the list was asked for: the list may be the older word.
            (state, again) = (last, true);
        }
        let before = said.state.replace(state);
        // A late `Unregistered` was another object's word; that this one is registered needs no event now.
        let foreign = said.by_event && before == Some(RegistrationState::Unregistered);
        said.by_event &= again;
        if repeat.full {
            said.next = None;
        }
        if repeat.full || before != Some(state) {
            let fact = Fact::Registration { registration: object.name.clone(), state, source: Source::List };
            told.seen(at, trunk, fact);
        }
        if let Some(from) = before
            && from != state
            && state != RegistrationState::Unregistered
            && repeat.same_object
            && !repeat.full
            && !ambiguous
            && !foreign
            && object.pair.technology == Technology::Pjsip
        {
            self.unheard.insert(object.name.clone(), Unheard { since: self.elapsed, from, to: state });
        }
        if again {
            self.ask(Reading::States, SETTLE);
        }
    }

    fn take_in_contacts(&mut self, lists: &Lists, ticket: Ticket) {
        let mut listed = BTreeMap::new();
        for item in &lists.contacts {
            let Ok(uri) = ContactUri::try_from(item.uri.as_str()) else { continue };
            let Some(status) = contact_status(&item.status) else { continue };
            let rtt = item.rtt.filter(|_| status == ContactStatus::Reachable);
            let contact = HeardContact { endpoint: Some(item.endpoint.clone()), status, rtt, heard: 0 };
            listed.insert((item.aor.clone(), uri), contact);
        }
        let mut again = false;
        for (key, contact) in std::mem::take(&mut self.contacts) {
            let newer = contact.heard > ticket.heard;
            let endpoints = self.directory.endpoints_of_contact(&key.0, contact.endpoint.as_ref());
            let read = endpoints.into_iter().any(|endpoint| lists.contacts_of.contains(endpoint));
            if newer && read {
                again |= listed.get(&key).is_none_or(|item| item.status != contact.status);
            }
            if newer || (!read && !listed.contains_key(&key)) {
                listed.insert(key, contact);
            }
        }
        listed.retain(|(aor, _), contact| !self.owners(aor, contact.endpoint.as_ref()).is_empty());
        self.contacts = listed;

        let directory = &self.directory;
        self.portraits.retain(|name, _| directory.trunk_of_endpoint(name).is_some());
        for item in lists.endpoints.iter().flatten() {
            if let Ok(name) = EndpointName::try_from(item.object_name.as_str())
                && lists.contacts_of.contains(&name)
            {
                self.portraits.insert(name, Portrait::of(item));
            }
        }
        if again {
            // Their portraits are in doubt: they are to be read again.
            self.portraits.clear();
            self.ask(Reading::Everything, LIST_SPACING);
        }
    }

    /// Says every contact of every trunk that differs from our last word, and those that are gone.
    fn say_contacts(&mut self, at: Timestamp, full: bool, told: &mut Told) {
        let mut now: BTreeMap<(TrunkId, ContactUri), Option<KnownContact>> =
            self.said_contacts.keys().map(|key| (key.clone(), None)).collect();
        for ((aor, uri), contact) in &self.contacts {
            for (trunk, endpoint) in self.owners(aor, contact.endpoint.as_ref()) {
                let known = KnownContact { status: contact.status, rtt: contact.rtt, endpoint };
                let entry = now.entry((trunk, uri.clone())).or_default();
                *entry = KnownContact::telling_more(entry.take(), known);
            }
        }
        for ((trunk, uri), known) in now {
            self.say_contact(at, &trunk, &uri, known, full, told);
        }
    }

    /// What is known of a trunk's contact.
    fn known_contact(&self, trunk: &TrunkId, uri: &ContactUri) -> Option<KnownContact> {
        let mut known = None;
        for ((aor, _), contact) in self.contacts.iter().filter(|((_, other), _)| other == uri) {
            if let Some(endpoint) = self.owners(aor, contact.endpoint.as_ref()).remove(trunk) {
                let one = KnownContact { status: contact.status, rtt: contact.rtt, endpoint };
                known = KnownContact::telling_more(known, one);
            }
        }
        known
    }

    fn say_contact(
        &mut self,
        at: Timestamp,
        trunk: &TrunkId,
        uri: &ContactUri,
        known: Option<KnownContact>,
        full: bool,
        told: &mut Told,
    ) {
        let key = (trunk.clone(), uri.clone());
        let Some(KnownContact { status, rtt, endpoint }) = known else {
            if self.said_contacts.remove(&key).is_some() {
                told.seen(at, trunk, Fact::ContactRemoved { contact: uri.clone() });
            }
            return;
        };
        let before = self.said_contacts.get(&key).copied().flatten();
        let slow = |rtt: Option<Duration>| rtt.is_some_and(|rtt| rtt >= SLOW_ROUND_TRIP);
        let differs = before.is_none_or(|(last, took)| last != status || slow(took) != slow(rtt));
        if !differs && !full {
            return;
        }
        self.said_contacts.insert(key, Some((status, rtt)));
        told.seen(at, trunk, Fact::Contact { contact: uri.clone(), status, rtt });
        let was_reachable = matches!(before, Some((ContactStatus::Reachable, _)));
        if status == ContactStatus::Unreachable && was_reachable {
            told.requests.push(Request::Qualify(endpoint));
        }
    }

    fn say_next_attempts(&mut self, at: Timestamp, cli: &RegistrationsCli, told: &mut Told) {
        for row in &cli.rows {
            let Ok(name) = RegistrationName::try_from(row.name.as_str()) else { continue };
            let Some(trunk) = self.directory.trunk_of_registration(&name) else { continue };
            let Some(said) = self.registrations.get_mut(&(trunk.clone(), name.clone())) else { continue };
            let Some(printed) = row.next_attempt else { continue };
            let row_state = state(&row.status);
            if said.state != Some(row_state) {
                // It was printed before or after a change the lists show: the next reading will agree.
                continue;
            }
            let (next, stage) = match printed {
                PrintedNextAttempt::In(time) => (NextAttempt::In(time), NextStage::Scheduled),
                PrintedNextAttempt::Overdue(time) if time > GAVE_UP_AFTER => {
                    (NextAttempt::Ago(time), NextStage::GivenUp)
                }
                PrintedNextAttempt::Overdue(time) => (NextAttempt::Ago(time), NextStage::InFlight),
            };
            let due = match next {
                NextAttempt::In(wait) => Some(after(at, wait)),
                NextAttempt::Ago(_) => None,
            };
            let now = SaidNext { stage, state: row_state, heard: said.heard, due };
            // Once per attempt; what is in flight is worth saying each time, as it grows older.
            if !said.next.is_some_and(|last| last.is(&now)) || stage == NextStage::InFlight {
                said.next = Some(now);
                let fact = Fact::NextAttempt { registration: name.clone(), state: row_state, next };
                told.seen(at, trunk, fact);
            }
        }
    }

    fn conclude_deafness(&mut self, at: Timestamp, told: &mut Told) {
        let late = |one: &Unheard| self.elapsed.saturating_sub(one.since) >= DEAF_AFTER;
        let (late, waiting): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.unheard).into_iter().partition(|(_, one)| late(one));
        self.unheard = waiting;
        if late.is_empty() || std::mem::replace(&mut self.deaf, true) {
            return;
        }
        let one = |(name, one): (&RegistrationName, &Unheard)| {
            format!("{name}: {} to {}", one.from.as_str(), one.to.as_str())
        };
        let missed = late.iter().map(one).collect::<Vec<_>>().join(", ");
        told.pbx(at, PbxFact::Deaf { missed });
        told.requests.push(Request::DropFilters);
    }

    /// Takes the time in: gives what facts shall carry.
    fn pass(&mut self, at: Timestamp) -> Timestamp {
        if let Some(given) = self.given {
            self.elapsed = self.elapsed.saturating_add(between(given, at));
        }
        self.given = Some(at);
        let latest = self.latest.map_or(at, |latest| latest.max(at));
        self.latest = Some(latest);
        latest
    }

    fn forget_waiting(&mut self) {
        self.reading = None;
        self.due = None;
        self.failures = 0;
        self.unheard.clear();
        self.strangers.clear();
    }

    /// Whether the answer is to the question that was asked, and what that was.
    fn answered(&mut self, ticket: Ticket) -> Option<Reading> {
        let (_, reading) = self.reading.take_if(|(serial, _)| *serial == ticket.serial)?;
        Some(reading)
    }

    /// Wants a reading in so long; the wider and the earlier one of two counts.
    fn ask(&mut self, reading: Reading, delay: Duration) {
        if !self.up {
            return;
        }
        let mut at = self.elapsed.saturating_add(delay);
        if let Some(last) = self.last_reading {
            at = at.max(last.saturating_add(LIST_SPACING));
        }
        self.due = Some(match self.due {
            Some((earlier, wider)) => (earlier.min(at), wider.max(reading)),
            None => (at, reading),
        });
    }

    /// Sends off what is due.
    fn pump(&mut self, told: &mut Told) {
        if !self.up || self.reading.is_some() {
            return;
        }
        let reading = match self.due {
            Some((at, reading)) if at <= self.elapsed => reading,
            Some(_) | None if self.failures == 0 && self.reconcile_at <= self.elapsed => Reading::Everything,
            Some(_) | None => return,
        };
        self.due = None;
        self.readings += 1;
        self.reading = Some((self.readings, reading));
        self.last_reading = Some(self.elapsed);
        let ticket = Ticket { serial: self.readings, heard: self.heard };
        told.requests.push(match reading {
            Reading::Everything => {
                self.reconcile_at = self.elapsed.saturating_add(self.reconcile);
                Request::Resync(ticket)
            }
            Reading::States => Request::List(ticket),
        });
    }
}

/// Lists as an inventory, and what had to be left out of it.
struct TakenIn {
    inventory: Inventory,
    unnamable: Vec<Finding>,
}

/// How a listed state is to be said.
#[derive(Debug, Clone, Copy)]
struct Repeat {
    /// Even if it did not change.
    full: bool,
    /// It is the same object as before: its changes come with events.
    same_object: bool,
}

impl Told {
    fn seen(&mut self, at: Timestamp, trunk: &TrunkId, fact: Fact) {
        self.sightings.push(Sighting::Seen(Observation { trunk: trunk.clone(), at, fact }));
    }

    fn pbx(&mut self, at: Timestamp, fact: PbxFact) {
        self.sightings.push(Sighting::Pbx { at, fact });
    }
}

/// Whatever is not `Registered` or `Rejected`, a label of a later Asterisk too, is not registered.
fn state(status: &RegistrationStatus) -> RegistrationState {
    match status {
        RegistrationStatus::Registered => RegistrationState::Registered,
        RegistrationStatus::Rejected => RegistrationState::Rejected,
        RegistrationStatus::Unregistered | RegistrationStatus::Other(_) => RegistrationState::Unregistered,
    }
}

/// The state of an IAX2 registration, if the entry is its; while an attempt is under way there is no new word.
fn iax_word(entry: &RegistryEntry, pair: &Pair) -> Option<RegistrationState> {
    if entry.username != pair.client || entry.host != pair.server {
        return None;
    }
    match entry.state {
        IaxRegistrationState::Registered => Some(RegistrationState::Registered),
        IaxRegistrationState::Rejected | IaxRegistrationState::Timeout | IaxRegistrationState::NoAuthentication => {
            Some(RegistrationState::Rejected)
        }
        IaxRegistrationState::Unregistered => Some(RegistrationState::Unregistered),
        IaxRegistrationState::RequestSent
        | IaxRegistrationState::AuthSent
        | IaxRegistrationState::Unknown
        | IaxRegistrationState::Other(_) => None,
    }
}

/// `None` where it is gone, or where the label is unknown.
fn contact_status(state: &ContactState) -> Option<ContactStatus> {
    match state {
        ContactState::Reachable => Some(ContactStatus::Reachable),
        ContactState::Unreachable => Some(ContactStatus::Unreachable),
        ContactState::Unknown => Some(ContactStatus::Unknown),
        ContactState::NonQualified => Some(ContactStatus::NonQualified),
        ContactState::Removed | ContactState::Other(_) => None,
    }
}
