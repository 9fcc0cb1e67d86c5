//! Datagrams that IP has split: joined again, within bounds.
//!
//! A large INVITE is split often, and a capture with the filter `port 5060` holds the first fragment only, since the others
//! have no ports. So what is there of a datagram is given out too, when it is given up.

use std::{collections::VecDeque, net::IpAddr, time::Duration};

use etherparse::{IpFragOffset, IpNumber, LaxIpSlice, defrag::IpDefragBuf};

use crate::clock::{self, Timestamp};

/// Datagrams put together at a time; each is at most 64 KiB.
const DATAGRAMS: usize = 128;
/// How long one waits for its rest: Linux's own time (`ipfrag_time`).
const PATIENCE: Duration = Duration::from_secs(30);
/// Datagrams remembered that were completed, and for how long. A number comes again no sooner than after 65536 others.
const COMPLETED: usize = 16;
const COPY: Duration = Duration::from_millis(20);

/// Which datagram a fragment is of (RFC 791 section 2.3, RFC 8200 section 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Id {
    from: IpAddr,
    to: IpAddr,
    protocol: IpNumber,
    number: u32,
}

/// A fragment, as its packet tells.
#[derive(Debug)]
pub(super) struct Fragment<'a> {
    id: Id,
    offset: IpFragOffset,
    more: bool,
    payload: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// The fragment in a packet that is one.
    pub(super) fn of(packet: &LaxIpSlice<'a>) -> Option<Self> {
        let part = packet.payload();
        let (number, offset, more) = match packet {
            LaxIpSlice::Ipv4(ip) => {
                let header = ip.header();
                (u32::from(header.identification()), header.fragments_offset(), header.more_fragments())
            }
            LaxIpSlice::Ipv6(ip) => {
                let header = ip.extensions().clone().into_iter().find_map(|extension| match extension {
                    etherparse::Ipv6ExtensionSlice::Fragment(fragment) => Some(fragment.to_header()),
                    etherparse::Ipv6ExtensionSlice::HopByHop(_)
                    | etherparse::Ipv6ExtensionSlice::Routing(_)
                    | etherparse::Ipv6ExtensionSlice::DestinationOptions(_)
                    | etherparse::Ipv6ExtensionSlice::Authentication(_) => None,
                })?;
                (header.identification, header.fragment_offset, header.more_fragments)
            }
        };
        let (from, to) = (packet.source_addr(), packet.destination_addr());
        let id = Id { from, to, protocol: part.ip_number, number };
        Some(Self { id, offset, more, payload: part.payload })
    }
}

/// A datagram, or what there is of one from its beginning on.
#[derive(Debug)]
pub(super) struct Datagram {
    /// When its first fragment was captured.
    pub(super) at: Timestamp,
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) protocol: IpNumber,
    pub(super) payload: Vec<u8>,
}

/// Datagrams of which fragments are still missing, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    waiting: VecDeque<(Id, Timestamp, IpDefragBuf)>,
    /// Those completed last: a fragment captured twice must not begin another one.
    completed: VecDeque<(Id, Timestamp)>,
    given_up: u64,
}

impl Fragments {
    /// Datagrams that were given up, so far.
    pub(super) fn given_up(&self) -> u64 {
        self.given_up
    }

    /// Takes a fragment. Returns the datagram that is complete with it, and what there is of those given up.
    pub(super) fn add(&mut self, at: Timestamp, fragment: &Fragment<'_>) -> Vec<Datagram> {
        let mut ready = self.expired(at);
        let copy = |(id, then): &(Id, Timestamp)| *id == fragment.id && clock::between(*then, at) < COPY;
        if self.completed.iter().any(copy) {
            return ready;
        }
        let index = match self.waiting.iter().position(|(id, _, _)| *id == fragment.id) {
            Some(index) => index,
            None => {
                if self.waiting.len() >= DATAGRAMS {
                    ready.extend(self.give_up());
                }
                self.waiting.push_back((
                    fragment.id,
                    at,
                    IpDefragBuf::new(fragment.id.protocol, Vec::new(), Vec::new()),
                ));
                self.waiting.len() - 1
            }
        };
        let Some((_, _, buffer)) = self.waiting.get_mut(index) else { return ready };
        // What contradicts the fragments before it is left out; if it was right and they were not, nothing gets complete.
        let taken = buffer.add(fragment.offset, fragment.more, fragment.payload).is_ok();
        if taken
            && buffer.is_complete()
            && let Some((id, first, buffer)) = self.waiting.remove(index)
        {
            ready.push(datagram(id, first, buffer.take_bufs().0));
            self.completed.truncate(COMPLETED - 1);
            self.completed.push_front((id, at));
        }
        ready
    }

    /// What there is of the datagrams that nothing more will come of.
    pub(super) fn finish(&mut self) -> Vec<Datagram> {
        std::iter::from_fn(|| (!self.waiting.is_empty()).then(|| self.give_up())).flatten().collect()
    }

    fn expired(&mut self, now: Timestamp) -> Vec<Datagram> {
        let mut ready = Vec::new();
        while self.waiting.front().is_some_and(|(_, at, _)| clock::between(*at, now) > PATIENCE) {
            ready.extend(self.give_up());
        }
        ready
    }

    fn give_up(&mut self) -> Option<Datagram> {
        let (id, at, buffer) = self.waiting.pop_front()?;
        self.given_up += 1;
        let end =
            buffer.sections().iter().find(|section| section.start == 0).map(|section| usize::from(section.end))?;
        let (mut payload, _) = buffer.take_bufs();
        payload.truncate(end);
        Some(datagram(id, at, payload))
    }
}

fn datagram(id: Id, at: Timestamp, payload: Vec<u8>) -> Datagram {
    Datagram { at, from: id.from, to: id.to, protocol: id.protocol, payload }
}
