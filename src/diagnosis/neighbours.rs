//! What the rest of the trace tells of a registrar: how it speaks to others, and whether it speaks at all.
//!
//! A registrar that answers nine trunks and not the tenth is no firewall; one that challenges nine users in its own realm and
//! the tenth in another does not know the tenth. Kept apart from the attempts because it is about others, and small, so
//! that a capture of any size can be summed up while it is read.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
};

use super::who;
use crate::wire::sip::{Direction, Seen, SipMessage};

/// Registrars kept; a capture that names more is a scan.
const MOST_PEERS: usize = 4_096;
/// Realms of one registrar, users of one realm, addresses of one domain: enough to compare with.
const MOST_EACH: usize = 16;

/// How registrars answered.
#[derive(Debug, Clone, Default)]
pub(super) struct Neighbours {
    peers: HashMap<SocketAddr, Peer>,
    /// Which addresses took REGISTERs of a domain seriously: challenged or accepted them.
    domains: HashMap<String, BTreeSet<SocketAddr>>,
}

#[derive(Debug, Clone, Default)]
struct Peer {
    /// The users it answered at all.
    answered: BTreeSet<String>,
    /// The realms it asked for, and whom.
    realms: BTreeMap<String, BTreeSet<String>>,
    /// The users it accepted.
    accepted: BTreeSet<String>,
}

impl Neighbours {
    /// All that one trace tells.
    pub(super) fn of(seen: &[Seen]) -> Self {
        let mut all = Self::default();
        for one in seen {
            all.note(one);
        }
        all
    }

    /// Takes one sighting in.
    pub(super) fn note(&mut self, seen: &Seen) {
        if seen.direction == Some(Direction::Out) {
            return;
        }
        let (Some(message), Some(peer)) = (seen.sip(), seen.from) else { return };
        let (Some(status), Some((_, method))) = (message.status(), message.cseq()) else { return };
        if method != "REGISTER" && method != "OPTIONS" {
            return;
        }
        let Some(user) = message.from().and_then(|from| from.uri).and_then(|uri| uri.user) else { return };
        if self.peers.len() >= MOST_PEERS && !self.peers.contains_key(&peer) {
            return;
        }
        let known = self.peers.entry(peer).or_default();
        add(&mut known.answered, &user);
        if (200..=299).contains(&status) {
            add(&mut known.accepted, &user);
        }
        for realm in message.challenges().into_iter().filter_map(|challenge| challenge.realm) {
            if known.realms.len() < MOST_EACH || known.realms.contains_key(&realm) {
                add(known.realms.entry(realm).or_default(), &user);
            }
        }
        if method == "REGISTER" && matches!(status, 200..=299 | 401 | 407) {
            self.note_domain(message, peer);
        }
    }

    fn note_domain(&mut self, message: &SipMessage, peer: SocketAddr) {
        let Some(uri) = message.to().and_then(|to| to.uri) else { return };
        let domain = who::host(&uri.host);
        if self.domains.len() >= MOST_PEERS && !self.domains.contains_key(&domain) {
            return;
        }
        let addresses = self.domains.entry(domain).or_default();
        if addresses.len() < MOST_EACH {
            addresses.insert(peer);
        }
    }

    /// The realm that this registrar asks its other users for, if it never asks them for `realm`. Theirs it is only if it
    /// accepted one of them, or asked two: of two users with a realm each, nobody knows which is the stranger.
    pub(super) fn realm_of_others(&self, registrar: Option<SocketAddr>, user: &str, realm: &str) -> Option<&str> {
        let peer = self.peers.get(&registrar?)?;
        let others = |users: &BTreeSet<String>| users.iter().any(|other| other != user);
        if peer.realms.get(realm).is_some_and(others) {
            return None;
        }
        let usual = |users: &BTreeSet<String>| {
            users.iter().filter(|other| *other != user).count() >= 2
                || users.iter().any(|other| other != user && peer.accepted.contains(other))
        };
        peer.realms
            .iter()
            .find(|(other, users)| other.as_str() != realm && usual(users))
            .map(|(other, _)| other.as_str())
    }

    /// Whether this registrar answers somebody else.
    pub(super) fn answers_others(&self, registrar: Option<SocketAddr>, user: &str) -> bool {
        registrar
            .and_then(|registrar| self.peers.get(&registrar))
            .is_some_and(|peer| peer.answered.iter().any(|other| other != user))
    }

    /// Another address that takes REGISTERs of this domain, maybe its proxy.
    pub(super) fn other_way_to(&self, domain: &str, not: Option<SocketAddr>) -> Option<SocketAddr> {
        self.domains.get(domain)?.iter().copied().find(|&address| Some(address) != not)
    }
}

fn add(set: &mut BTreeSet<String>, user: &str) {
    if set.len() < MOST_EACH && !set.contains(user) {
        set.insert(user.to_owned());
    }
}
