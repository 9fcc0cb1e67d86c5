//! The only reader of a clock.
//!
//! Everything else takes the time as data: a `now: Timestamp`, or the `at` of what it was given. That is what makes a
//! journal replayable, and what lets the tests of the folds be written as histories.

use std::{fmt::Debug, sync::Mutex, time::Duration};

pub use jiff::Timestamp;

/// Where "now" comes from.
pub trait Clock: Send + Sync + Debug {
    /// The wall time, UTC, to the nanosecond. It may step back; whoever orders by it clamps it.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads it")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// The machine's clock, less its steps back: what is decided by waits and deadlines, and these must not stand still for as
/// long as somebody has set the clock back.
///
/// Where the wall clock falls behind what was given last, time goes on from there by the monotonic clock, a sixteenth
/// slower, until the wall clock has caught up. A step forward is followed at once: a machine that slept has missed that
/// time. What strangers compare with their own clocks, such as a signature's time, is [`SystemClock`]'s.
#[derive(Debug, Default)]
pub struct SteadyClock(Mutex<Option<(Timestamp, std::time::Instant)>>);

impl SteadyClock {
    fn give(&self, wall: Timestamp, monotonic: std::time::Instant) -> Timestamp {
        let mut last = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = match *last {
            Some((given, read)) if wall < given => {
                let elapsed = monotonic.saturating_duration_since(read);
                after(given, elapsed.saturating_sub(elapsed / 16))
            }
            Some(_) | None => wall,
        };
        *last = Some((now, monotonic));
        now
    }
}

impl Clock for SteadyClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads it")]
    fn now(&self) -> Timestamp {
        self.give(Timestamp::now(), std::time::Instant::now())
    }
}

/// A clock that stands still until it is told to move: for tests and replays.
#[derive(Debug)]
pub struct ManualClock(Mutex<Timestamp>);

impl ManualClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self(Mutex::new(now))
    }

    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *now = after(*now, by);
    }

    /// Sets the clock, backwards too.
    pub fn set(&self, to: Timestamp) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = to;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// `at + by`; at the end of representable time it stays there, so that a wild duration in a configuration cannot panic.
#[must_use]
pub fn after(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// `at - by`, with the same care at the beginning of time.
#[must_use]
pub fn before(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_sub(by).unwrap_or(Timestamp::MIN)
}

/// How long from `from` to `to`; zero when `to` is not later.
#[must_use]
pub fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_back_is_no_time_at_all() {
        let noon = Timestamp::from_second(43_200).unwrap();
        assert_eq!(between(noon, before(noon, Duration::from_secs(5))), Duration::ZERO);
        assert_eq!(between(before(noon, Duration::from_secs(5)), noon), Duration::from_secs(5));
    }

    #[test]
    fn a_clock_that_is_set_back_goes_on_steadily_and_is_caught_up_with() {
        #[expect(clippy::disallowed_methods, reason = "any instant to begin with")]
        let began = std::time::Instant::now();
        let noon = Timestamp::from_second(43_200).unwrap();
        let clock = SteadyClock::default();
        let mut given = Vec::new();
        for (elapsed, stepped) in [(0_i32, 0), (16, 0), (32, -60), (48, -60), (1200, -60), (1216, 100)] {
            let wall = noon.checked_add(jiff::SignedDuration::from_secs(i64::from(elapsed) + stepped)).unwrap();
            let now = clock.give(wall, began + Duration::from_secs(u64::from(elapsed.unsigned_abs())));
            given.push(now.duration_since(noon).as_secs());
        }
        assert_eq!(given, [0, 16, 31, 46, 1140, 1316]);
    }

    #[test]
    fn a_wild_duration_does_not_panic() {
        assert_eq!(after(Timestamp::UNIX_EPOCH, Duration::MAX), Timestamp::MAX);
        assert_eq!(before(Timestamp::UNIX_EPOCH, Duration::MAX), Timestamp::MIN);
    }
}
