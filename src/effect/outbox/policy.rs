//! How patient the dispatcher is.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// How often, how long and how many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxPolicy {
    /// The longest wait after the first failed attempt; it doubles with each further one.
    pub first_delay: Duration,
    /// The longest wait of all.
    pub longest_delay: Duration,
    /// How much of a recipient's `Retry-After` is honoured.
    pub longest_retry_after: Duration,
    /// How long after it was decided a message is given up.
    pub give_up_after: Duration,
    /// How long one attempt may take, whatever its dialer allows itself; at most half a lease.
    pub attempt: Duration,
    /// How long a message is leased. After a crash it is the longest wait before a message is sent again.
    pub lease: Duration,
    /// Attempts at once to one recipient. There is no bound over all of them: their number is the configuration's, and
    /// a common bound would let some dead recipients hold up the others.
    pub at_once: usize,
    /// Messages held in memory; more stay in the store until some are settled.
    pub in_hand: usize,
    /// How long at most until the outbox is looked at again, with or without a nudge.
    pub recheck: Duration,
    /// How long attempts under way may go on after a stop.
    pub grace: Duration,
}

impl Default for OutboxPolicy {
    /// 1 s doubling to 5 min, for 24 h (DESIGN section 4, "Webhooks out").
    fn default() -> Self {
        Self {
            first_delay: Duration::from_secs(1),
            longest_delay: Duration::from_secs(5 * 60),
            longest_retry_after: Duration::from_secs(15 * 60),
            give_up_after: Duration::from_secs(24 * 60 * 60),
            attempt: Duration::from_secs(30),
            lease: Duration::from_secs(60),
            at_once: 8,
            in_hand: 4096,
            recheck: Duration::from_secs(30),
            grace: Duration::from_secs(5),
        }
    }
}

impl OutboxPolicy {
    /// How long to wait after an attempt failed that had `attempts` before it, and whose recipient asked for
    /// `retry_after`: between half of the doubled delay and all of it, at random, so that what failed together does not
    /// come back together; and not less than what was asked for, within bounds.
    #[must_use]
    pub fn delay(&self, attempts: u32, retry_after: Option<Duration>) -> Duration {
        let attempts = usize::try_from(attempts.min(64)).unwrap_or(64);
        let delay = ExponentialBuilder::new()
            .with_min_delay(self.first_delay / 2)
            .with_max_delay(self.longest_delay / 2)
            .without_max_times()
            .with_jitter() // adds up to as much again
            .with_jitter_seed(rand::random()) // its own seed is a constant without its `std` feature
            .build()
            .nth(attempts)
            .unwrap_or(self.longest_delay);
        delay.max(retry_after.unwrap_or(Duration::ZERO).min(self.longest_retry_after))
    }

    /// How long one attempt may take: so long that it ends well before the lease does.
    pub(super) fn attempt_limit(&self) -> Duration {
        self.attempt.min(self.lease / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_and_end_at_the_longest() {
        let policy = OutboxPolicy::default();
        for (attempts, longest) in [(0, 1), (1, 2), (2, 4), (3, 8), (8, 256), (9, 300), (40, 300), (u32::MAX, 300)] {
            let longest = Duration::from_secs(longest);
            for _ in 0..200 {
                let delay = policy.delay(attempts, None);
                assert!(delay >= longest / 2 && delay <= longest, "after {attempts}: {delay:?}");
            }
        }
    }

    #[test]
    fn what_failed_together_does_not_come_back_together() {
        let policy = OutboxPolicy::default();
        let delays: std::collections::BTreeSet<_> = (0..50).map(|_| policy.delay(9, None)).collect();
        assert!(delays.len() > 25, "{delays:?}");
    }

    #[test]
    fn retry_after_lengthens_a_delay_within_bounds_and_never_shortens_it() {
        let policy = OutboxPolicy::default();
        assert_eq!(policy.delay(0, Some(Duration::from_secs(90))), Duration::from_secs(90));
        assert_eq!(policy.delay(0, Some(Duration::MAX)), policy.longest_retry_after);
        assert!(policy.delay(20, Some(Duration::ZERO)) >= policy.longest_delay / 2);
    }
}
