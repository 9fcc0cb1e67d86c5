//! What is remembered of one registration between two looks at it.

use std::{collections::VecDeque, time::Duration};

use crate::{
    clock::{Timestamp, after, between},
    diagnosis::{Brief, Cause, Diagnosis, RegistrationFacts},
    health::{Reason, TrunkHealth, state::Registration},
    ids::RegistrationName,
    observation::RegistrationState,
};

/// `Registered` events counted: an endless loop makes hundreds, a healthy trunk one in minutes.
const COUNTED: usize = 64;
/// In how long.
const COUNTED_IN: Duration = Duration::from_secs(10);

/// What the board says of a registration, as far as a look at it may find something new in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signs {
    pub(super) state: Option<RegistrationState>,
    pub(super) last_event_at: Option<Timestamp>,
    pub(super) gave_up: bool,
    pub(super) overdue_since: Option<Timestamp>,
}

impl Signs {
    /// Of a registration of a trunk whose health is so.
    pub(super) fn of(health: &TrunkHealth, name: &RegistrationName, known: &Registration) -> Self {
        let overdue_since = if let Reason::RefreshOverdue { registration, expected } = &health.reason
            && registration == name
        {
            Some(*expected)
        } else {
            known.unanswered_since
        };
        let gave_up =
            known.gave_up || matches!(&health.reason, Reason::GaveUp { registration, .. } if registration == name);
        Self { state: known.state, last_event_at: known.last_event_at, gave_up, overdue_since }
    }
}

/// One registration.
#[derive(Debug, Default)]
pub(super) struct Patient {
    /// What was said of it last, while that is true.
    pub(super) said: Option<Brief>,
    /// What the last look was at: the hub's revision and the board's signs.
    pub(super) looked_at: Option<(u64, Signs)>,
    /// When it is to be looked at again.
    pub(super) due: Option<Timestamp>,
    /// Since when it fails with nothing said of it.
    pub(super) failing_since: Option<Timestamp>,
    /// When its history was last wanted in vain, and how often in a row.
    pub(super) fruitless: u32,
    /// No history before this.
    pub(super) history_after: Option<Timestamp>,
    /// The secret it last registered with, as a keyed hash.
    pub(super) registered_with: Option<[u8; 32]>,
    registered: VecDeque<Timestamp>,
    /// When its last attempts ended, the newest last, and how.
    ended: VecDeque<(Timestamp, RegistrationState)>,
}

impl Patient {
    /// An attempt of it ended.
    pub(super) fn attempt(&mut self, at: Timestamp, state: RegistrationState) {
        self.ended.push_back((at, state));
        while self.ended.len() > 2 {
            self.ended.pop_front();
        }
        if state == RegistrationState::Registered {
            self.registered.push_back(at);
            while self.registered.len() > COUNTED {
                self.registered.pop_front();
            }
        } else if self.failing_since.is_none() {
            self.failing_since = Some(at);
        }
    }

    /// It is registered: what was said of its failure is past, and its next one is another.
    pub(super) fn well(&mut self) {
        self.failing_since = None;
        self.fruitless = 0;
        self.history_after = None;
        self.said.take_if(|said| !said.cause.concerns_registered());
    }

    /// It is to be looked at by `at` at the latest.
    pub(super) fn look_by(&mut self, at: Timestamp) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// How many attempts succeeded lately.
    pub(super) fn registered_lately(&self, now: Timestamp) -> u32 {
        let lately = self.registered.iter().filter(|at| between(**at, now) <= COUNTED_IN).count();
        u32::try_from(lately).unwrap_or(u32::MAX)
    }

    /// How long the last attempt took, by when it was due and when it ended; `None` where that cannot be told.
    fn last_took(&self, known: &Registration) -> Option<Duration> {
        let (before, state) = *self.ended.front().filter(|_| self.ended.len() == 2)?;
        let (ended, _) = *self.ended.back()?;
        let wait = match state {
            RegistrationState::Registered => known.intervals.last().copied()?,
            RegistrationState::Rejected => known.parameters.retry_interval,
            RegistrationState::Unregistered => return None,
        };
        let due = after(before, wait);
        // Earlier than due: it was asked for, or Retry-After said so.
        (due <= ended).then(|| between(due, ended))
    }

    /// What AMI told of it.
    pub(super) fn facts(
        &self,
        known: &Registration,
        signs: &Signs,
        same_secret: Option<bool>,
        now: Timestamp,
    ) -> RegistrationFacts {
        RegistrationFacts {
            state: known.state,
            since: known.since,
            last_event_at: known.last_event_at,
            last_attempt_took: self.last_took(known),
            failures: known.failures,
            gave_up: signs.gave_up,
            refresh_overdue_since: signs.overdue_since,
            ever_registered: known.last_registered_at.is_some(),
            same_secret_registered: same_secret,
            registered_in_10s: self.registered_lately(now),
        }
    }

    /// Whether a diagnosis is news: what is known is not replaced by less within one run of failures. An attempt in flight
    /// shows less than the one before it, which has ended.
    pub(super) fn is_news(&self, diagnosis: &Diagnosis) -> bool {
        let brief = Brief::from(diagnosis);
        match &self.said {
            None => true,
            Some(said) if said.says_the_same(&brief) => false,
            Some(said) if (said.cause, said.fault) == (brief.cause, brief.fault) => brief.confidence >= said.confidence,
            Some(said) => rank(brief.cause) >= rank(said.cause) || brief.cause.concerns_registered(),
        }
    }
}

/// How much a cause says: the root cause, what follows from it, nothing.
const fn rank(cause: Cause) -> u8 {
    match cause {
        Cause::Unknown => 0,
        Cause::GaveUp | Cause::RefreshOverdue => 1,
        Cause::WrongPassword
        | Cause::WrongAuthUsername
        | Cause::RealmMismatch
        | Cause::AlgorithmNotEnabled
        | Cause::NoCredentialsConfigured
        | Cause::AccountForbidden
        | Cause::AddressForbidden
        | Cause::NoResponse
        | Cause::PortClosed
        | Cause::DnsFailure
        | Cause::OutboundProxyRequired
        | Cause::NatContact
        | Cause::IdentifyMissing
        | Cause::BindingLost
        | Cause::ProviderUnavailable
        | Cause::ExpiryTooShort
        | Cause::BindingRefused
        | Cause::CallsRejected
        | Cause::MediaBlocked
        | Cause::TlsFailure => 2,
    }
}
