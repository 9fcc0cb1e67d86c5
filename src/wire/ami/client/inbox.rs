//! What waits for the consumer of a link.
//!
//! Separate because two rules live here that are easily broken elsewhere. Reading the socket must never wait for the
//! consumer (Asterisk cuts off a client that does not read), so events are bounded and what finds no room is counted.
//! And a signal (connected, lost, overflow) must reach the consumer even if events have filled the queue, so signals are
//! never refused. Both kinds stay in one order: `Lost` comes after the events that were read before it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::clock::Timestamp;

use super::{
    link::{FilterState, Identity, MissingRight},
    session::{Refusal, SessionError},
};
use crate::wire::ami::{codec::Banner, event::FullyBooted, message::Message};

/// What a link has to say.
#[derive(Debug, Clone)]
pub enum LinkEvent {
    /// Both sessions are logged in. Asterisk may still be booting: nothing may be concluded yet.
    Connected {
        /// When.
        at: Timestamp,
        /// Its greeting, with the protocol's version.
        banner: Banner,
        /// Its address.
        peer: String,
    },
    /// Actions are answered and events flow: **everything known about the PBX must be read again now**.
    ///
    /// Comes after each connect, after each boot, and after the filters were dropped. Events may have come before it; what
    /// the lists say from now on is newer.
    Ready {
        /// When.
        at: Timestamp,
        /// The boot it reported; none when it never did (see [`MissingRight`]).
        booted: Option<FullyBooted>,
        /// What it sends.
        filters: FilterState,
        /// Who it is, as far as the user may ask.
        identity: Identity,
    },
    /// The user lacks a right without which part of the picture stays dark. Said once per connection.
    RightMissing {
        /// When.
        at: Timestamp,
        /// Which.
        right: MissingRight,
    },
    /// An event.
    Event {
        /// When it was read, by our clock.
        at: Timestamp,
        /// The same on the monotonic clock, for measuring lag.
        heard: Instant,
        /// The event, in memory of its own.
        message: Message,
    },
    /// Events found no room and were dropped here in the order: read everything again.
    Overflow {
        /// How many.
        lost: u64,
    },
    /// The link is lost; a new attempt follows. Said for each loss after `Connected`.
    Lost {
        /// When it was noticed.
        at: Timestamp,
        /// The last byte heard on the event session: from here on events may be missing.
        since: Timestamp,
        /// Why.
        error: Arc<SessionError>,
    },
    /// No connection came about. Said when the reason is another one than the last time.
    ConnectFailed {
        /// When.
        at: Timestamp,
        /// Why.
        error: Arc<SessionError>,
        /// When the next attempt is made.
        retry_in: Duration,
    },
    /// Asterisk refuses the login. Said once per reason, while attempts go on slowly.
    LoginRefused {
        /// When.
        at: Timestamp,
        /// Why, in Asterisk's word.
        refusal: Refusal,
        /// When the next attempt is made.
        retry_in: Duration,
    },
}

impl LinkEvent {
    fn is_signal(&self) -> bool {
        match self {
            Self::Event { .. } => false,
            Self::Connected { .. }
            | Self::Ready { .. }
            | Self::RightMissing { .. }
            | Self::Overflow { .. }
            | Self::Lost { .. }
            | Self::ConnectFailed { .. }
            | Self::LoginRefused { .. } => true,
        }
    }
}

/// Signals beyond this many are a consumer that has not looked for hours; the oldest go, and an overflow says so.
const SIGNAL_LIMIT: usize = 1024;

#[derive(Debug)]
struct Queue {
    waiting: VecDeque<LinkEvent>,
    events: usize,
    closed: bool,
}

/// The writing end.
#[derive(Debug, Clone)]
pub(super) struct Inbox {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    arrived: Notify,
    event_limit: usize,
}

impl Shared {
    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        // Nothing here panics while it holds the lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The consumer's end.
#[derive(Debug)]
pub struct LinkEvents {
    shared: Arc<Shared>,
}

pub(super) fn inbox(event_limit: usize) -> (Inbox, LinkEvents) {
    let queue = Mutex::new(Queue { waiting: VecDeque::new(), events: 0, closed: false });
    let shared = Arc::new(Shared { queue, arrived: Notify::new(), event_limit });
    (Inbox { shared: Arc::clone(&shared) }, LinkEvents { shared })
}

impl Inbox {
    /// Adds an event, or counts it as lost.
    pub(super) fn event(&self, at: Timestamp, heard: Instant, message: &Message) {
        let mut queue = self.shared.queue();
        if queue.events < self.shared.event_limit {
            queue.events += 1;
            queue.waiting.push_back(LinkEvent::Event { at, heard, message: message.compact() });
        } else if let Some(LinkEvent::Overflow { lost }) = queue.waiting.back_mut() {
            *lost += 1;
        } else {
            queue.waiting.push_back(LinkEvent::Overflow { lost: 1 });
        }
        drop(queue);
        self.shared.arrived.notify_one();
    }

    /// Adds a signal; it is never refused.
    pub(super) fn signal(&self, signal: LinkEvent) {
        let mut queue = self.shared.queue();
        if queue.waiting.len() - queue.events >= SIGNAL_LIMIT {
            let mut lost = 0;
            for dropped in queue.waiting.drain(..) {
                lost += if let LinkEvent::Overflow { lost } = dropped { lost } else { u64::from(!dropped.is_signal()) };
            }
            queue.events = 0;
            queue.waiting.push_back(LinkEvent::Overflow { lost });
        }
        queue.waiting.push_back(signal);
        drop(queue);
        self.shared.arrived.notify_one();
    }

    /// Says that nothing more will come.
    pub(super) fn close(&self) {
        self.shared.queue().closed = true;
        self.shared.arrived.notify_one();
    }
}

impl LinkEvents {
    /// What comes next; `None` once the link has stopped and everything was taken.
    ///
    /// Cancel safety: nothing is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<LinkEvent> {
        loop {
            {
                let mut queue = self.shared.queue();
                if let Some(next) = queue.waiting.pop_front() {
                    if !next.is_signal() {
                        queue.events -= 1;
                    }
                    return Some(next);
                }
                if queue.closed {
                    return None;
                }
            }
            self.shared.arrived.notified().await;
        }
    }

    /// Events waiting now: the depth to watch.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.shared.queue().events
    }
}
