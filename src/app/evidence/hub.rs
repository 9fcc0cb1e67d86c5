//! What was lately seen of each registration, from whichever live source, and which registration a message belongs to.
//!
//! Pure, and bounded: of each registration the last messages are kept, for a while. A busy PBX sends the REGISTERs of its
//! phones too; what is about no trunk's registration is dropped at its first look.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use crate::{
    clock::{Timestamp, between},
    ids::{PbxId, RegistrationName, TrunkId},
    wire::sip::{Seen, SipMessage, SipUri, trace::Source},
};

/// Messages kept of one registration: some twenty attempts with a challenge each, or two that nobody answered.
const KEPT: usize = 96;
/// How long they are kept: longer than any retry interval that still says something.
const KEPT_FOR: Duration = Duration::from_secs(15 * 60);
/// Call-IDs known at a time, over all PBXs. Asterisk keeps a registration's as long as it runs.
const CALLS: usize = 65_536;

/// After so long a silence nobody knows whether the feed was there.
const GAP: Duration = Duration::from_secs(900);

/// A registration as it is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interest {
    /// Its trunk.
    pub(super) trunk: TrunkId,
    /// Its section.
    pub(super) registration: RegistrationName,
    /// `client_uri`.
    pub(super) client_uri: String,
    /// `server_uri`.
    pub(super) server_uri: String,
}

/// A registration of a PBX.
pub(super) type Key = (PbxId, RegistrationName);

/// How an attempt that was seen ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// With a final refusal.
    Refused,
    /// With 2xx.
    Accepted,
}

/// One registration's messages.
#[derive(Debug, Default)]
struct Trail {
    seen: VecDeque<Seen>,
    /// Counts what came, so that whoever judged knows whether there is more.
    revision: u64,
}

/// Everything seen.
#[derive(Debug, Default)]
pub(super) struct Hub {
    interests: HashMap<PbxId, Vec<Interest>>,
    /// By PBX and `user@host` of the client URI: which of its interests.
    by_client: HashMap<(PbxId, String), Vec<usize>>,
    by_call: HashMap<(PbxId, String), Vec<RegistrationName>>,
    trails: HashMap<Key, Trail>,
    /// Since when a PBX's HEP feed is heard, and when it last was.
    hep: BTreeMap<PbxId, (Timestamp, Timestamp)>,
}

impl Hub {
    /// Takes the registrations of a PBX that are of interest, and forgets the others.
    pub(super) fn listed(&mut self, pbx: &PbxId, interests: Vec<Interest>) {
        if self.interests.get(pbx).is_some_and(|known| *known == interests) {
            return;
        }
        self.by_client.retain(|(known, _), _| known != pbx);
        for (place, interest) in interests.iter().enumerate() {
            if let Some(client) = SipUri::parse(&interest.client_uri).map(|uri| address(&uri)) {
                self.by_client.entry((pbx.clone(), client)).or_default().push(place);
            }
        }
        let named = |name: &RegistrationName| interests.iter().any(|interest| interest.registration == *name);
        self.trails.retain(|(known, name), _| known != pbx || named(name));
        self.by_call.retain(|(known, _), names| known != pbx || names.iter().all(named));
        self.interests.insert(pbx.clone(), interests);
    }

    /// Forgets the PBXs that are not watched any more.
    pub(super) fn keep(&mut self, watched: impl Fn(&PbxId) -> bool) {
        self.interests.retain(|pbx, _| watched(pbx));
        self.by_client.retain(|(pbx, _), _| watched(pbx));
        self.by_call.retain(|(pbx, _), _| watched(pbx));
        self.trails.retain(|(pbx, _), _| watched(pbx));
        self.hep.retain(|pbx, _| watched(pbx));
    }

    /// The interest of that name.
    pub(super) fn interest(&self, (pbx, registration): &Key) -> Option<&Interest> {
        self.interests.get(pbx)?.iter().find(|interest| interest.registration == *registration)
    }

    /// All interests of a PBX.
    pub(super) fn interests(&self, pbx: &PbxId) -> &[Interest] {
        self.interests.get(pbx).map_or(&[], Vec::as_slice)
    }

    /// Notes that something came by a PBX's HEP feed.
    pub(super) fn hep_heard(&mut self, pbx: &PbxId, at: Timestamp) {
        let (since, last) = self.hep.entry(pbx.clone()).or_insert((at, at));
        if between(*last, at) > GAP {
            *since = at;
        }
        *last = at;
    }

    /// Since when the PBX's HEP feed is heard; `None` if it never was, or was silent for `within`.
    pub(super) fn hep_since(&self, pbx: &PbxId, now: Timestamp, within: Duration) -> Option<Timestamp> {
        self.hep.get(pbx).filter(|(_, last)| between(*last, now) <= within).map(|(since, _)| *since)
    }

    /// Takes a message in; says which registrations it is about, and what attempt of theirs it ends.
    pub(super) fn take(&mut self, pbx: &PbxId, seen: Seen) -> Vec<(RegistrationName, Option<Ended>)> {
        let Some(message) = seen.sip() else { return Vec::new() };
        let Some(call) = message.call_id().map(|call| (pbx.clone(), call.into_owned())) else { return Vec::new() };
        let names = if message.method().is_some() {
            let names = self.about(pbx, message);
            if !names.is_empty() {
                if self.by_call.len() >= CALLS {
                    self.by_call.clear(); // the next request of each makes it known again
                }
                self.by_call.insert(call, names.clone());
            }
            names
        } else {
            self.by_call.get(&call).cloned().unwrap_or_default()
        };
        let mut told = Vec::new();
        for name in names {
            let trail = self.trails.entry((pbx.clone(), name.clone())).or_default();
            let ended = ended(trail, message);
            trail.revision += 1;
            trail.seen.push_back(seen.clone());
            let old = |first: &Seen| between(first.at, seen.at) > KEPT_FOR;
            while trail.seen.len() > KEPT || trail.seen.front().is_some_and(old) {
                trail.seen.pop_front();
            }
            told.push((name, ended));
        }
        told
    }

    /// The registrations a REGISTER is about: those of its client URI, whose registrar it goes to.
    fn about(&self, pbx: &PbxId, request: &SipMessage) -> Vec<RegistrationName> {
        let Some(client) = request.to().and_then(|to| to.uri).map(|uri| address(&uri)) else { return Vec::new() };
        let Some(places) = self.by_client.get(&(pbx.clone(), client)) else { return Vec::new() };
        let target = request.target();
        let interests = self.interests(pbx);
        let goes_there = |interest: &&Interest| match (&target, SipUri::parse(&interest.server_uri)) {
            (Some(target), Some(server)) => target.host == server.host && same_port(target.port, server.port),
            (None, _) | (_, None) => true,
        };
        places
            .iter()
            .filter_map(|place| interests.get(*place))
            .filter(goes_there)
            .map(|i| i.registration.clone())
            .collect()
    }

    /// What was seen of a registration, and a number that grows with it.
    pub(super) fn trail(&self, key: &Key) -> (Vec<Seen>, u64) {
        self.trails.get(key).map_or((Vec::new(), 0), |trail| (trail.seen.iter().cloned().collect(), trail.revision))
    }

    /// How much was seen of a registration so far.
    pub(super) fn revision(&self, key: &Key) -> u64 {
        self.trails.get(key).map_or(0, |trail| trail.revision)
    }

    /// Which sources showed something of a registration.
    pub(super) fn has(&self, key: &Key, source: Source) -> bool {
        self.trails.get(key).is_some_and(|trail| trail.seen.iter().any(|seen| seen.source == source))
    }
}

/// Whether a response ends an attempt. A challenge does only if what it answers bore credentials: Asterisk goes on otherwise,
/// or says in its event that it cannot.
fn ended(trail: &Trail, message: &SipMessage) -> Option<Ended> {
    let status = message.status().filter(|status| *status >= 200)?;
    if status < 300 {
        return Some(Ended::Accepted);
    }
    if status == 401 || status == 407 {
        let cseq = message.cseq().map(|(number, _)| number);
        let answered = trail
            .seen
            .iter()
            .rev()
            .filter_map(Seen::sip)
            .find(|request| request.method().is_some() && request.cseq().map(|(number, _)| number) == cseq);
        return answered.filter(|request| !request.credentials().is_empty()).map(|_| Ended::Refused);
    }
    // 423 is answered by asking for longer, 494 by a security agreement.
    (status != 423 && status != 494).then_some(Ended::Refused)
}

/// `user@host`, to find a client URI by.
fn address(uri: &SipUri) -> String {
    format!("{}@{}", uri.user.as_deref().unwrap_or_default(), uri.host)
}

/// Whether two ports are the same, where one may be left out: then any of the defaults.
fn same_port(one: Option<u16>, other: Option<u16>) -> bool {
    let default = |port: u16| port == 5060 || port == 5061;
    match (one, other) {
        (Some(one), Some(other)) => one == other,
        (Some(port), None) | (None, Some(port)) => default(port),
        (None, None) => true,
    }
}
