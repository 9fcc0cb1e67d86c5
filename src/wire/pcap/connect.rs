//! TCP connections that were wanted and did not come about: refused, or not answered.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use crate::clock::{self, Timestamp};

/// Attempts waited for at a time.
const ATTEMPTS: usize = 8192;
/// How long an answer may take: after that most systems have asked twice (RFC 6298 section 2: 1 s, then doubling).
const PATIENCE: Duration = Duration::from_secs(3);
/// A SYN again within that time is the same packet, captured at two interfaces.
const COPY: Duration = Duration::from_millis(20);

/// An attempt, by who wants to connect to whom.
type Pair = (SocketAddr, SocketAddr);

/// One that nobody answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unanswered {
    /// When it was made.
    pub(super) at: Timestamp,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
}

/// The attempts that wait for an answer.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    waiting: HashMap<Pair, Timestamp>,
    /// All of them in the order they were made, and some that have been answered since.
    order: VecDeque<(Timestamp, Pair)>,
    given_up: u64,
}

impl Attempts {
    /// Attempts that nothing is said of because there were too many at a time.
    pub(super) fn given_up(&self) -> u64 {
        self.given_up
    }

    /// A SYN. Returns the earlier attempt, if it is there because that one was not answered.
    pub(super) fn asked(&mut self, at: Timestamp, from: SocketAddr, to: SocketAddr) -> Option<Unanswered> {
        let earlier = self.waiting.get(&(from, to)).copied();
        if earlier.is_some_and(|earlier| clock::between(earlier, at) < COPY) {
            return None;
        }
        while self.order.len() >= ATTEMPTS {
            let Some((at, pair)) = self.order.pop_front() else { break };
            self.given_up += u64::from(self.forget(at, pair));
        }
        self.waiting.insert((from, to), at);
        self.order.push_back((at, (from, to)));
        earlier.map(|at| Unanswered { at, from, to })
    }

    /// An answer of `to` to `from`. Whether there was an attempt for it.
    pub(super) fn answered(&mut self, from: SocketAddr, to: SocketAddr) -> bool {
        !self.waiting.is_empty() && self.waiting.remove(&(from, to)).is_some()
    }

    /// The next attempt that nobody answered in time.
    pub(super) fn expired(&mut self, now: Timestamp) -> Option<Unanswered> {
        while let Some((at, pair)) = self.order.front().copied() {
            if clock::between(at, now) <= PATIENCE {
                break;
            }
            self.order.pop_front();
            if self.forget(at, pair) {
                return Some(Unanswered { at, from: pair.0, to: pair.1 });
            }
        }
        None
    }

    /// The attempts that nobody answered by the capture's end.
    pub(super) fn finish(&mut self) -> Vec<Unanswered> {
        let order = std::mem::take(&mut self.order);
        let left = order.into_iter().filter(|(at, pair)| self.forget(*at, *pair));
        left.map(|(at, (from, to))| Unanswered { at, from, to }).collect()
    }

    /// Forgets the attempt made then; `false` if it was answered, or repeated, since.
    fn forget(&mut self, at: Timestamp, pair: Pair) -> bool {
        let waits = self.waiting.get(&pair) == Some(&at);
        if waits {
            self.waiting.remove(&pair);
        }
        waits
    }
}
