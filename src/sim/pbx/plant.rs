//! The trunks of a simulated PBX together, and the one agenda of what happens when.
//!
//! Synchronous: it is told the time and leaves events behind, in order. One agenda for all trunks, instead of a task per
//! trunk, is what lets a test have thousands of them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
    sync::Arc,
    time::Duration,
};

use md5::{Digest as _, Md5};

use super::{
    event::{AmiEvent, Headers, event},
    feed::{Feed, Passing},
    settings::{EndpointSettings, SimTrunk, Start, Timing},
};
use crate::wire::ami::Classes;
use crate::{
    clock::Clock,
    sim::{
        dice::Dice,
        provider::{Answer, Behaviour, CallEnd, Pace, Request},
        registration::{Client, RegistrationSettings, Status},
    },
    wire::hep::HepPacket,
};

/// The trunks and their agenda. Times are durations since the PBX's epoch.
#[derive(Debug)]
pub(super) struct Plant {
    trunks: HashMap<u64, Trunk>,
    /// By name, which is the order of Asterisk's lists.
    names: BTreeMap<String, u64>,
    endpoints: HashMap<String, u64>,
    agenda: BinaryHeap<Reverse<Due>>,
    out: Vec<AmiEvent>,
    ended: Vec<(u64, bool)>,
    feed: Option<Feed>,
    packets: Vec<HepPacket>,
    timing: Timing,
    clock: Arc<dyn Clock>,
    timestamps: bool,
    dice: Dice,
    next_id: u64,
    channels: u64,
}

#[derive(Debug)]
pub(super) struct Trunk {
    pub(super) registration: Option<(RegistrationSettings, Option<Client>)>,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) behaviour: Behaviour,
    pub(super) calls: CallCount,
    /// For which time the registration is on the agenda.
    noted: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) settings: EndpointSettings,
    pub(super) contact: Contact,
}

/// What a contact answered last. Source: `res/res_pjsip/pjsip_options.c` (`status_map`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contact {
    NonQualified,
    Unknown,
    Reachable,
    Unreachable,
}

impl Contact {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::NonQualified => "NonQualified",
            Self::Unknown => "Unknown",
            Self::Reachable => "Reachable",
            Self::Unreachable => "Unreachable",
        }
    }
}

/// Calls originated on an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallCount {
    /// All of them.
    pub attempted: u64,
    /// Those that were not connected.
    pub failed: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Due {
    at: Duration,
    /// Keeps equal times in the order in which they were noted.
    order: u64,
    what: What,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    Registration(u64),
    Qualify(u64),
    QualifyEnds(u64, Contact),
    /// An un-REGISTER of a state object that is no longer in the list.
    Farewell {
        client_uri: String,
        server_uri: String,
    },
    /// A message of a trunk's registration passes; `None` of a state object that is no longer in the list.
    Passes(Option<u64>, Box<Passing>),
    CallEnds(Box<Call>),
    Hangup(Box<Call>),
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// A call being originated.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Call {
    pub(super) action_id: Option<String>,
    /// As asked for: `PJSIP/100@airtel`.
    pub(super) dial: String,
    pub(super) context: String,
    pub(super) exten: String,
    pub(super) application: String,
    pub(super) data: String,
    pub(super) caller_number: String,
    pub(super) caller_name: String,
    /// Whoever waits for it: then there is no `OriginateResponse`.
    pub(super) ticket: Option<u64>,
    pub(super) channel: Option<Channel>,
    pub(super) end: Option<(u8, &'static str, u16)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Channel {
    name: String,
    unique: String,
}

impl Plant {
    pub(super) fn new(timing: Timing, clock: Arc<dyn Clock>, timestamps: bool, seed: u64, feed: Option<Feed>) -> Self {
        Self {
            trunks: HashMap::new(),
            names: BTreeMap::new(),
            endpoints: HashMap::new(),
            agenda: BinaryHeap::new(),
            out: Vec::new(),
            ended: Vec::new(),
            feed,
            packets: Vec::new(),
            timing,
            clock,
            timestamps,
            dice: Dice::new(seed),
            next_id: 0,
            channels: 0,
        }
    }

    /// The events left behind since last asked.
    pub(super) fn take_events(&mut self) -> Vec<AmiEvent> {
        std::mem::take(&mut self.out)
    }

    /// What the feed is to be told since last asked.
    pub(super) fn take_packets(&mut self) -> Vec<HepPacket> {
        std::mem::take(&mut self.packets)
    }

    /// Calls with a ticket that were connected or not since last asked.
    pub(super) fn take_ended(&mut self) -> Vec<(u64, bool)> {
        std::mem::take(&mut self.ended)
    }

    /// When something is due next.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.agenda.peek().map(|Reverse(due)| due.at)
    }

    /// Does what is due. A registration that refreshes without a pause gets one turn per call.
    pub(super) fn run(&mut self, now: Duration) {
        let mut turn = Vec::new();
        while self.agenda.peek().is_some_and(|Reverse(due)| due.at <= now) {
            turn.extend(self.agenda.pop());
        }
        for Reverse(due) in turn {
            match due.what {
                What::Registration(id) => self.run_registration(id, due.at, now),
                What::Qualify(id) => self.qualify(id, now),
                What::QualifyEnds(id, contact) => self.qualified(id, contact),
                What::Farewell { client_uri, server_uri } => self.registry(&client_uri, &server_uri, "Unregistered"),
                What::Passes(of, passing) => self.passes(of, *passing),
                What::CallEnds(call) => self.call_ends(*call, now),
                What::Hangup(call) => self.hangup(&call),
            }
        }
    }

    // --- the trunks ---------------------------------------------------------------------------------------------

    /// Adds a trunk, replacing one of the same name: what that one had is un-REGISTERed.
    pub(super) fn add(&mut self, trunk: SimTrunk, now: Duration) {
        self.remove(&trunk.name, now);
        let id = self.next_id;
        self.next_id += 1;
        let registration = trunk.registration.map(|settings| {
            let client = match (trunk.start, trunk.behaviour.answer(register(&settings), self.pace()).0) {
                (Start::Registered, Answer::Granted(granted)) if !granted.is_zero() => {
                    let refresh = granted.saturating_sub(Duration::from_secs(10)).as_millis();
                    let wait = self.dice.roll(u64::try_from(refresh).unwrap_or(u64::MAX));
                    Client::registered(now.saturating_add(Duration::from_millis(wait)))
                }
                (Start::Registered | Start::Fresh, _) => Client::new(self.first(&settings, now)),
            };
            (settings, Some(client))
        });
        let endpoint = trunk.endpoint.map(|settings| {
            let contact = match (settings.qualify.is_zero(), trunk.start) {
                (true, _) => Contact::NonQualified,
                (false, Start::Fresh) => Contact::Unknown,
                (false, Start::Registered) if trunk.behaviour.answers_options() => Contact::Reachable,
                (false, Start::Registered) => Contact::Unreachable,
            };
            if !settings.qualify.is_zero() {
                let first = self.dice.roll(u64::try_from(settings.qualify.as_millis()).unwrap_or(u64::MAX));
                self.note(now.saturating_add(Duration::from_millis(first)), What::Qualify(id));
            }
            self.endpoints.insert(settings.name.clone(), id);
            Endpoint { settings, contact }
        });
        let calls = CallCount::default();
        self.names.insert(trunk.name, id);
        self.trunks.insert(id, Trunk { registration, endpoint, behaviour: trunk.behaviour, calls, noted: None });
        self.note_registration(id);
    }

    /// Removes a trunk. One that is registered is un-REGISTERed on its way out.
    pub(super) fn remove(&mut self, name: &str, now: Duration) -> bool {
        let Some(id) = self.names.remove(name) else { return false };
        let Some(mut trunk) = self.trunks.remove(&id) else { return false };
        if let Some(endpoint) = &trunk.endpoint {
            self.endpoints.remove(&endpoint.settings.name);
        }
        if let Some((settings, client)) = &mut trunk.registration
            && let Some(client) = client.take()
        {
            self.farewell(settings, client, trunk.behaviour, now);
        }
        true
    }

    fn farewell(&mut self, settings: &RegistrationSettings, mut client: Client, behaviour: Behaviour, now: Duration) {
        match client.status() {
            Status::Registered => {
                self.speak(None, (settings, behaviour), &mut client, Request::Unregister, now);
                let (_, after) = behaviour.answer(Request::Unregister, self.pace());
                let (client_uri, server_uri) = (settings.client_uri.clone(), settings.server_uri.clone());
                self.note(now.saturating_add(after), What::Farewell { client_uri, server_uri });
            }
            Status::Unregistered | Status::RejectedTemporary | Status::RejectedPermanent => {}
        }
    }

    pub(super) fn set_behaviour(&mut self, name: &str, behaviour: Behaviour) -> bool {
        self.by_name(name).is_some_and(|trunk| {
            trunk.behaviour = behaviour;
            true
        })
    }

    /// Every registration in the order of Asterisk's lists.
    pub(super) fn registrations(&self) -> impl Iterator<Item = (&RegistrationSettings, Option<&Client>)> {
        self.list()
            .filter_map(|trunk| trunk.registration.as_ref())
            .map(|(settings, client)| (settings, client.as_ref()))
    }

    /// Every trunk in the order of Asterisk's lists.
    pub(super) fn list(&self) -> impl Iterator<Item = &Trunk> {
        self.names.values().filter_map(|id| self.trunks.get(id))
    }

    /// The trunk of an endpoint.
    pub(super) fn of_endpoint(&self, endpoint: &str) -> Option<&Trunk> {
        self.trunks.get(self.endpoints.get(endpoint)?)
    }

    pub(super) fn trunk(&self, name: &str) -> Option<&Trunk> {
        self.trunks.get(self.names.get(name)?)
    }

    fn by_name(&mut self, name: &str) -> Option<&mut Trunk> {
        self.trunks.get_mut(self.names.get(name)?)
    }

    const fn pace(&self) -> Pace {
        self.timing.pace
    }

    /// 1 s and up to `max_random_initial_delay` more, in whole seconds.
    fn first(&mut self, settings: &RegistrationSettings, now: Duration) -> Duration {
        let spread = settings.max_random_initial_delay.as_secs();
        if spread == 0 {
            return now;
        }
        now.saturating_add(Duration::from_secs(1 + self.dice.roll(spread)))
    }

    // --- what may be done to registrations ----------------------------------------------------------------------

    /// A name, or `*all`.
    pub(super) fn register(&mut self, registration: &str, now: Duration) -> bool {
        if registration == "*all" {
            self.each_registration(|plant, settings, behaviour, client| {
                if let Some(old) = client.take() {
                    plant.farewell(settings, old, behaviour, now);
                }
                *client = Some(Client::new(plant.first(settings, now)));
            });
            return true;
        }
        self.with_client(registration, |plant, settings, behaviour, client| {
            let first = plant.first(settings, now);
            client.register(now, first, behaviour, plant.pace());
        })
    }

    /// A name, or `*all`, which takes the state objects away.
    pub(super) fn unregister(&mut self, registration: &str, now: Duration) -> bool {
        if registration == "*all" {
            self.each_registration(|plant, settings, behaviour, client| {
                if let Some(old) = client.take() {
                    plant.farewell(settings, old, behaviour, now);
                }
            });
            return true;
        }
        self.with_client(registration, |plant, _, behaviour, client| client.unregister(now, behaviour, plant.pace()))
    }

    /// `module reload res_pjsip.so`: says so, and wakes what was refused for good.
    pub(super) fn reload(&mut self, now: Duration) {
        self.emit("Reload", Classes::SYSTEM, |h| {
            h.put("Module", "res_pjsip.so").put("Status", 0);
        });
        self.each_registration(|plant, settings, _, client| {
            if let Some(client) = client {
                let first = plant.first(settings, now);
                client.reloaded(first);
            }
        });
    }

    /// The next attempt of `name`'s registration falls due now.
    pub(super) fn attempt_now(&mut self, name: &str, now: Duration) -> bool {
        let Some(&id) = self.names.get(name) else { return false };
        let Some((_, Some(client))) = self.trunks.get_mut(&id).and_then(|trunk| trunk.registration.as_mut()) else {
            return false;
        };
        client.attempt_now(now);
        self.note_registration(id);
        true
    }

    /// Asterisk ends: nothing is un-REGISTERed, nothing is remembered.
    pub(super) fn stop(&mut self) {
        self.agenda.clear();
        self.each_registration(|_, _, _, client| *client = None);
        for trunk in self.trunks.values_mut() {
            trunk.noted = None;
        }
    }

    /// Asterisk has started.
    pub(super) fn boot(&mut self, now: Duration, uptime: Duration) {
        self.emit("FullyBooted", Classes::SYSTEM, |h| {
            h.put("Status", "Fully Booted").put("Uptime", uptime.as_secs()).put("LastReload", uptime.as_secs());
        });
        self.each_registration(|plant, settings, _, client| *client = Some(Client::new(plant.first(settings, now))));
        let qualified: Vec<u64> = self.trunks.keys().copied().collect();
        for id in qualified {
            if let Some(endpoint) = self.trunks.get_mut(&id).and_then(|trunk| trunk.endpoint.as_mut())
                && !endpoint.settings.qualify.is_zero()
            {
                endpoint.contact = Contact::Unknown;
                self.note(now, What::Qualify(id));
            }
        }
    }

    /// Calls `change` for every registration, in the order of the lists, and puts the agenda right.
    fn each_registration(
        &mut self,
        mut change: impl FnMut(&mut Self, &RegistrationSettings, Behaviour, &mut Option<Client>),
    ) {
        let ids: Vec<u64> = self.names.values().copied().collect();
        for id in ids {
            let Some(trunk) = self.trunks.get_mut(&id) else { continue };
            let (behaviour, taken) = (trunk.behaviour, trunk.registration.take());
            let Some((settings, mut client)) = taken else { continue };
            change(self, &settings, behaviour, &mut client);
            if let Some(trunk) = self.trunks.get_mut(&id) {
                trunk.registration = Some((settings, client));
            }
            self.note_registration(id);
        }
    }

    fn with_client(
        &mut self,
        registration: &str,
        change: impl FnOnce(&mut Self, &RegistrationSettings, Behaviour, &mut Client),
    ) -> bool {
        let named =
            |trunk: &Trunk| trunk.registration.as_ref().is_some_and(|(settings, _)| settings.name == registration);
        // Most trunks are named as their registration; the rest is looked for.
        let id = self.names.get(registration).copied().filter(|id| self.trunks.get(id).is_some_and(named));
        let Some(id) = id.or_else(|| self.trunks.iter().find(|(_, trunk)| named(trunk)).map(|(id, _)| *id)) else {
            return false;
        };
        let Some(trunk) = self.trunks.get_mut(&id) else { return false };
        let behaviour = trunk.behaviour;
        let Some((settings, Some(mut client))) = trunk.registration.take_if(|(_, client)| client.is_some()) else {
            return false;
        };
        change(self, &settings, behaviour, &mut client);
        self.speak_sent(id, (&settings, behaviour), &mut client);
        if let Some(trunk) = self.trunks.get_mut(&id) {
            trunk.registration = Some((settings, Some(client)));
        }
        self.note_registration(id);
        true
    }

    // --- the agenda ---------------------------------------------------------------------------------------------

    fn note(&mut self, at: Duration, what: What) {
        let order = self.next_id;
        self.next_id += 1;
        self.agenda.push(Reverse(Due { at, order, what }));
    }

    /// Puts the registration's next due time on the agenda. One that is there for another time is passed over.
    fn note_registration(&mut self, id: u64) {
        let Some(trunk) = self.trunks.get_mut(&id) else { return };
        let due = trunk.registration.as_ref().and_then(|(_, client)| client.as_ref()?.due());
        if trunk.noted != due {
            trunk.noted = due;
            if let Some(at) = due {
                self.note(at, What::Registration(id));
            }
        }
    }

    fn run_registration(&mut self, id: u64, noted: Duration, now: Duration) {
        let pace = self.pace();
        let Some(trunk) = self.trunks.get_mut(&id) else { return };
        if trunk.noted != Some(noted) {
            return;
        }
        trunk.noted = None;
        let behaviour = trunk.behaviour;
        let taken = trunk.registration.take_if(|(_, client)| client.is_some());
        if let Some((settings, Some(mut client))) = taken {
            let announced = client.advance(now, &settings, behaviour, pace);
            self.speak_sent(id, (&settings, behaviour), &mut client);
            if let Some(status) = announced {
                self.registry(&settings.client_uri, &settings.server_uri, status.as_str());
            }
            if let Some(trunk) = self.trunks.get_mut(&id) {
                trunk.registration = Some((settings, Some(client)));
            }
        }
        self.note_registration(id);
    }

    // --- the feed -----------------------------------------------------------------------------------------------

    /// Notes the messages of the attempt that has begun, if one has.
    fn speak_sent(&mut self, id: u64, of: (&RegistrationSettings, Behaviour), client: &mut Client) {
        if let Some((request, at)) = client.take_sent() {
            self.speak(Some(id), of, client, request, at);
        }
    }

    fn speak(
        &mut self,
        id: Option<u64>,
        of: (&RegistrationSettings, Behaviour),
        client: &mut Client,
        request: Request,
        at: Duration,
    ) {
        let pace = self.pace();
        let Some(feed) = &mut self.feed else { return };
        for passing in feed.attempt(client, of, request, pace, self.clock.now()) {
            self.note(at.saturating_add(passing.after()), What::Passes(id, Box::new(passing)));
        }
    }

    fn passes(&mut self, of: Option<u64>, passing: Passing) {
        let registration = |id| self.trunks.get(&id)?.registration.as_ref()?.1.as_ref();
        // Of an attempt that was broken off, nothing more is heard.
        let current =
            of.is_none_or(|id| registration(id).is_some_and(|client: &Client| client.is_in(passing.exchange)));
        if let Some(feed) = self.feed.as_ref().filter(|_| current) {
            let packet = feed.packet(passing, self.clock.now());
            self.packets.push(packet);
        }
    }

    fn registry(&mut self, client_uri: &str, server_uri: &str, status: &str) {
        self.emit("Registry", Classes::SYSTEM, |h| {
            h.put("ChannelType", "PJSIP").put("Username", client_uri).put("Domain", server_uri).put("Status", status);
        });
    }

    pub(super) fn emit(&mut self, name: &str, classes: Classes, headers: impl FnOnce(&mut Headers<'_>)) {
        let at = self.timestamps.then(|| self.clock.now());
        self.out.push(event(name, classes, at, headers));
    }

    // --- contacts -----------------------------------------------------------------------------------------------

    /// `PJSIPQualify`, and the endpoint's own interval.
    fn qualify(&mut self, id: u64, now: Duration) {
        let Some(trunk) = self.trunks.get(&id) else { return };
        let Some(endpoint) = &trunk.endpoint else { return };
        let (contact, after) = if trunk.behaviour.answers_options() {
            (Contact::Reachable, self.timing.pace.round_trip)
        } else {
            (Contact::Unreachable, self.timing.qualify_timeout)
        };
        let again = endpoint.settings.qualify;
        self.note(now.saturating_add(after), What::QualifyEnds(id, contact));
        if !again.is_zero() {
            self.note(now.saturating_add(again), What::Qualify(id));
        }
    }

    /// `PJSIPQualify` for one endpoint.
    pub(super) fn qualify_endpoint(&mut self, endpoint: &str, now: Duration) -> bool {
        let Some(&id) = self.endpoints.get(endpoint) else { return false };
        let Some(trunk) = self.trunks.get(&id) else { return false };
        let (contact, after) = if trunk.behaviour.answers_options() {
            (Contact::Reachable, self.timing.pace.round_trip)
        } else {
            (Contact::Unreachable, self.timing.qualify_timeout)
        };
        self.note(now.saturating_add(after), What::QualifyEnds(id, contact));
        true
    }

    fn qualified(&mut self, id: u64, contact: Contact) {
        let Some(endpoint) = self.trunks.get_mut(&id).and_then(|trunk| trunk.endpoint.as_mut()) else { return };
        let before = std::mem::replace(&mut endpoint.contact, contact);
        if before == contact {
            return;
        }
        let (name, uri) = (endpoint.settings.name.clone(), endpoint.settings.contact.clone());
        let rtt = if contact == Contact::Reachable { self.rtt() } else { 0 };
        self.emit("PeerStatus", Classes::SYSTEM, |h| {
            let peer = format!("PJSIP/{name}");
            h.put("ChannelType", "PJSIP").put("Peer", peer).put("PeerStatus", contact.as_str());
        });
        self.emit("ContactStatus", Classes::SYSTEM, |h| {
            h.put("URI", &uri).put("ContactStatus", contact.as_str()).put("AOR", &name).put("EndpointName", &name);
            h.put("RoundtripUsec", rtt);
        });
    }

    /// Microseconds.
    pub(super) fn rtt(&self) -> u128 {
        self.timing.pace.round_trip.as_micros()
    }

    // --- calls --------------------------------------------------------------------------------------------------

    /// Originates a call; its `OriginateResponse` follows.
    pub(super) fn originate(&mut self, mut call: Call, now: Duration) {
        let endpoint = endpoint_of(&call.dial).to_owned();
        let pace = self.pace();
        let Some(trunk) = self.endpoints.get(&endpoint).and_then(|id| self.trunks.get_mut(id)) else {
            // An endpoint Asterisk does not know: no channel, no Hangup, only the response.
            self.originate_response(&call, false);
            return;
        };
        trunk.calls.attempted += 1;
        let end = trunk.behaviour.call(pace);
        if !trunk.behaviour.connects() {
            trunk.calls.failed += 1;
        }
        let number = self.channels;
        self.channels += 1;
        let unique = format!("{}.{number}", self.clock.now().as_second());
        let channel = Channel { name: format!("PJSIP/{endpoint}-{number:08x}"), unique };
        self.emit("Newchannel", Classes::CALL, |h| {
            channel_headers(h, "", &channel, 0, ["<unknown>"; 4]);
        });
        let parties = call.parties();
        let dial_string = call.dial.split_once('/').map_or("", |(_, rest)| rest).to_owned();
        self.emit("DialBegin", Classes::CALL, |h| {
            channel_headers(h, "Dest", &channel, 0, parties.each_ref().map(String::as_str));
            h.put("DialString", dial_string);
        });
        call.channel = Some(channel);
        let after = match end {
            CallEnd::Answered => self.timing.call_setup,
            CallEnd::Failed { cause, text, code, after } => {
                call.end = Some((cause, text, code));
                after
            }
        };
        self.note(now.saturating_add(after), What::CallEnds(Box::new(call)));
    }

    fn call_ends(&mut self, call: Call, now: Duration) {
        let Some(channel) = call.channel.clone() else { return };
        let parties = call.parties();
        let parties = parties.each_ref().map(String::as_str);
        match call.end {
            None => {
                self.emit("Newstate", Classes::CALL, |h| channel_headers(h, "", &channel, 6, parties));
                self.emit("DialEnd", Classes::CALL, |h| {
                    channel_headers(h, "Dest", &channel, 6, parties);
                    h.put("DialStatus", "ANSWER");
                });
                self.originate_response(&call, true);
                self.note(now.saturating_add(self.timing.call_length), What::Hangup(Box::new(call)));
            }
            Some((cause, _, code)) => {
                self.emit("HangupRequest", Classes::CALL, |h| {
                    channel_headers(h, "", &channel, 0, parties);
                    h.put("Cause", cause).put("TechCause", code);
                });
                // Lossy, as Asterisk is: main/dial.c knows busy and congestion only.
                let status = match cause {
                    17 => "BUSY",
                    34 => "CONGESTION",
                    _ => "NOANSWER",
                };
                self.emit("DialEnd", Classes::CALL, |h| {
                    channel_headers(h, "Dest", &channel, 0, parties);
                    h.put("DialStatus", status);
                });
                self.hangup(&call);
                self.originate_response(&call, false);
            }
        }
    }

    fn hangup(&mut self, call: &Call) {
        let Some(channel) = &call.channel else { return };
        let parties = call.parties();
        let (state, cause, text, code) = match call.end {
            Some((cause, text, code)) => (0, cause, text, Some(code)),
            None => (6, 16, "Normal Clearing", None),
        };
        self.emit("Hangup", Classes::CALL, |h| {
            channel_headers(h, "", channel, state, parties.each_ref().map(String::as_str));
            h.put("Cause", cause).put("Cause-txt", text);
            if let Some(code) = code {
                h.put("TechCause", code);
            }
        });
    }

    fn originate_response(&mut self, call: &Call, connected: bool) {
        if let Some(ticket) = call.ticket {
            self.ended.push((ticket, connected));
            return;
        }
        self.emit("OriginateResponse", Classes::CALL, |h| {
            if let Some(id) = &call.action_id {
                h.put("ActionID", id);
            }
            h.put("Response", if connected { "Success" } else { "Failure" });
            let channel = call.channel.as_ref().filter(|_| connected);
            h.put("Channel", channel.map_or(call.dial.as_str(), |channel| channel.name.as_str()));
            if call.application.is_empty() {
                h.put("Context", &call.context).put("Exten", &call.exten);
            } else {
                h.put("Application", &call.application).put("Data", &call.data);
            }
            h.put("Reason", if connected { 4 } else { 0 });
            h.put("Uniqueid", channel.map_or("<unknown>", |channel| channel.unique.as_str()));
            let known = |text: &str| if text.is_empty() { "<unknown>".to_owned() } else { text.to_owned() };
            h.put("CallerIDNum", known(&call.caller_number)).put("CallerIDName", known(&call.caller_name));
        });
    }
}

impl Call {
    /// Caller and connected line, number and name: both are the caller id that was asked for.
    fn parties(&self) -> [String; 4] {
        let known = |text: &str| if text.is_empty() { "<unknown>".to_owned() } else { text.to_owned() };
        let (number, name) = (known(&self.caller_number), known(&self.caller_name));
        [number.clone(), name.clone(), number, name]
    }
}

fn register(settings: &RegistrationSettings) -> Request {
    Request::Register { expiration: settings.expiration }
}

/// `airtel` of `PJSIP/100@airtel`, `PJSIP//100@airtel` and `PJSIP/airtel/sip:100@host`.
fn endpoint_of(dial: &str) -> &str {
    let (_, rest) = dial.split_once('/').unwrap_or(("", dial));
    let rest = rest.trim_start_matches('/');
    match rest.split_once('/') {
        Some((endpoint, _)) => endpoint,
        None => rest.rsplit_once('@').map_or(rest, |(_, endpoint)| endpoint),
    }
}

/// The last part of a contact's id. Source: `res/res_pjsip/location.c`: the MD5 of its URI.
pub(super) fn contact_hash(uri: &str) -> String {
    hex(&Md5::digest(uri.as_bytes()))
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn channel_headers(h: &mut Headers<'_>, side: &str, channel: &Channel, state: u8, parties: [&str; 4]) {
    let [number, name, connected_number, connected_name] = parties;
    let mut put = |key: &str, value: &str| {
        h.put(&format!("{side}{key}"), value);
    };
    put("Channel", &channel.name);
    put("ChannelState", &state.to_string());
    put("ChannelStateDesc", if state == 6 { "Up" } else { "Down" });
    put("CallerIDNum", number);
    put("CallerIDName", name);
    put("ConnectedLineNum", connected_number);
    put("ConnectedLineName", connected_name);
    put("Language", "en");
    put("AccountCode", "");
    put("Context", "from-trunk");
    put("Exten", "s");
    put("Priority", "1");
    put("Uniqueid", &channel.unique);
    put("Linkedid", &channel.unique);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn plant() -> Plant {
        let pace = Pace { round_trip: Duration::ZERO, ..Pace::default() };
        Plant::new(Timing { pace, ..Timing::default() }, Arc::new(SystemClock), false, 1, None)
    }

    fn trunk(name: &str) -> SimTrunk {
        let mut trunk = SimTrunk::named(name);
        if let Some(registration) = &mut trunk.registration {
            registration.max_random_initial_delay = s(1);
        }
        trunk
    }

    /// Runs to `until`; each event as `second name Status`.
    fn run(plant: &mut Plant, until: u64) -> Vec<String> {
        let mut seen = Vec::new();
        let mut note = |at: Duration, plant: &mut Plant| {
            for event in plant.take_events() {
                let status =
                    event.text.lines().rev().find_map(|line| line.split_once("tatus: ")).map_or("", |(_, v)| v);
                seen.push(format!("{} {} {status}", at.as_secs(), event.name).trim_end().to_owned());
            }
        };
        note(Duration::ZERO, plant);
        while let Some(due) = plant.next_due().filter(|due| *due <= s(until)) {
            plant.run(due);
            note(due, plant);
        }
        seen
    }

    #[test]
    fn a_changed_registration_whose_unregister_is_unanswered_says_so_late() {
        let mut plant = plant();
        plant.add(trunk("a"), s(0));
        assert_eq!(run(&mut plant, 5), ["1 Registry Registered"]);
        plant.set_behaviour("a", Behaviour::SilentToUnregister);
        plant.reload(s(10));
        plant.add(SimTrunk { behaviour: Behaviour::SilentToUnregister, ..trunk("a") }, s(10));
        assert_eq!(run(&mut plant, 100), ["0 Reload 0", "11 Registry Registered", "42 Registry Unregistered"]);
    }

    #[test]
    fn unregister_all_takes_the_state_away_and_only_register_all_brings_it_back() {
        let mut plant = plant();
        plant.add(trunk("a"), s(0));
        run(&mut plant, 5);
        assert!(plant.unregister("*all", s(10)));
        assert_eq!(run(&mut plant, 20), ["10 Registry Unregistered"]);
        assert!(plant.registrations().all(|(_, client)| client.is_none()));
        assert!(!plant.register("a", s(20)));
        plant.reload(s(20));
        assert!(plant.registrations().all(|(_, client)| client.is_none()));
        assert!(plant.register("*all", s(30)));
        assert_eq!(run(&mut plant, 40), ["0 Reload 0", "31 Registry Registered"]);
    }

    #[test]
    fn a_contact_speaks_only_when_its_status_changes() {
        let mut plant = plant();
        let mut quick = trunk("a");
        quick.registration = None;
        if let Some(endpoint) = &mut quick.endpoint {
            endpoint.qualify = s(5);
        }
        plant.add(quick, s(0));
        let seen = run(&mut plant, 30);
        assert_eq!(seen.len(), 2, "{seen:?}");
        plant.set_behaviour("a", Behaviour::Silent);
        let seen = run(&mut plant, 60);
        assert!(
            matches!(&seen[..], [peer, contact] if peer.contains("PeerStatus Unreachable") && contact.contains("ContactStatus"))
        );
    }

    #[test]
    fn an_endless_refresh_loop_gets_one_turn_at_a_time() {
        let mut plant = plant();
        plant.add(SimTrunk { behaviour: Behaviour::Grant(s(5)), ..trunk("a") }, s(0));
        plant.run(s(1));
        plant.run(s(1));
        assert_eq!(plant.take_events().len(), 1);
        plant.run(s(1));
        plant.run(s(1));
        assert_eq!(plant.take_events().len(), 1);
    }

    #[test]
    fn the_endpoint_of_a_channel_is_found_in_each_spelling() {
        for dial in ["PJSIP/100@airtel", "PJSIP//100@airtel", "PJSIP/airtel/sip:100@host", "PJSIP/airtel"] {
            assert_eq!(endpoint_of(dial), "airtel", "{dial}");
        }
    }

    #[test]
    fn a_contacts_id_is_the_md5_of_its_uri() {
        // From a recording: trunk-ok@@26a3684dba4df9317535b46b1a27a1f6 is sip:127.0.0.1:5080.
        assert_eq!(contact_hash("sip:127.0.0.1:5080"), "26a3684dba4df9317535b46b1a27a1f6");
    }
}
