//! When a registration that Asterisk gave up is tried once more.
//!
//! Pure. It is for causes that pass by themselves and that nothing gets worse by: a provider that was away, a name that did
//! not resolve. What a provider refuses is never tried again by us: bans grow.

use std::{collections::BTreeMap, time::Duration};

use super::{Patience, hub::Key};
use crate::{
    clock::{Timestamp, after},
    diagnosis::Cause,
};

/// Whether a failure of this cause may be tried again.
pub(super) const fn heals(cause: Cause) -> bool {
    match cause {
        Cause::NoResponse
        | Cause::ProviderUnavailable
        | Cause::DnsFailure
        | Cause::PortClosed
        | Cause::TlsFailure
        | Cause::BindingRefused => true,
        Cause::WrongPassword
        | Cause::WrongAuthUsername
        | Cause::RealmMismatch
        | Cause::AlgorithmNotEnabled
        | Cause::NoCredentialsConfigured
        | Cause::AccountForbidden
        | Cause::AddressForbidden
        | Cause::OutboundProxyRequired
        | Cause::NatContact
        | Cause::IdentifyMissing
        | Cause::BindingLost
        | Cause::RefreshOverdue
        | Cause::GaveUp
        | Cause::ExpiryTooShort
        | Cause::CallsRejected
        | Cause::MediaBlocked
        | Cause::Unknown => false,
    }
}

/// What is planned for one registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    next_at: Timestamp,
    wait: Duration,
}

/// The plans of all registrations that Asterisk gave up.
#[derive(Debug, Default)]
pub(super) struct Heals(BTreeMap<Key, Plan>);

impl Heals {
    /// It was given up, for a cause that heals: says whether it is to be tried now.
    pub(super) fn is_due(&mut self, key: &Key, now: Timestamp, patience: &Patience) -> bool {
        let first = || Plan { next_at: after(now, patience.heal_first), wait: patience.heal_first };
        let plan = self.0.entry(key.clone()).or_insert_with(first);
        if now < plan.next_at {
            return false;
        }
        plan.wait = plan.wait.saturating_mul(2).min(patience.heal_most);
        plan.next_at = after(now, plan.wait);
        true
    }

    /// It is registered again, or fails for another cause: what was waited counts no more.
    pub(super) fn forget(&mut self, key: &Key) {
        self.0.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    #[test]
    fn it_waits_ten_minutes_and_then_twice_as_long_each_time_up_to_six_hours() {
        let mut heals = Heals::default();
        let key = ("pbx1".parse().unwrap(), "airtel".try_into().unwrap());
        let patience = Patience::default();
        let mut tried = Vec::new();
        for minute in 0..(60 * 24 * 2) {
            if heals.is_due(&key, at(minute * 60), &patience) {
                tried.push(minute);
            }
        }
        assert_eq!(tried[..7], [10, 30, 70, 150, 310, 630, 990]);
        assert!(tried[6..].windows(2).all(|pair| pair[1] - pair[0] == 360));
        heals.forget(&key);
        assert!(!heals.is_due(&key, at(1_000_000), &patience));
        assert!(heals.is_due(&key, at(1_000_600), &patience));
    }

    #[test]
    fn a_failed_try_does_not_begin_the_waits_anew() {
        let mut heals = Heals::default();
        let key = ("pbx1".parse().unwrap(), "airtel".try_into().unwrap());
        let patience = Patience::default();
        assert!(!heals.is_due(&key, at(0), &patience));
        assert!(heals.is_due(&key, at(600), &patience));
        // It fails again, is not given up for 35 s, and is then; nobody asks meanwhile.
        assert!(!heals.is_due(&key, at(640), &patience));
        assert!(!heals.is_due(&key, at(1700), &patience));
        assert!(heals.is_due(&key, at(1800), &patience), "20 minutes after the first");
    }

    #[test]
    fn what_a_provider_refuses_is_never_tried_again() {
        let tried: Vec<&str> = Cause::ALL.into_iter().filter(|cause| heals(*cause)).map(Cause::as_str).collect();
        let listed =
            ["no_response", "port_closed", "dns_failure", "provider_unavailable", "binding_refused", "tls_failure"];
        assert_eq!(tried, listed);
    }
}
