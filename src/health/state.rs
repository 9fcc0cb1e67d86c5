//! What is known of a trunk: the value the fold carries from one observation to the next.
//!
//! It is plain data and is stored as it is, so that a controller that starts again goes on from it.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::policy::RegisteredWhen;
use crate::{
    clock::{Timestamp, between},
    ids::{ContactUri, RegistrationName},
    observation::{ContactStatus, RegistrationParameters, RegistrationState},
};

/// How a trunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Registered (or reachable) for long enough.
    Stable,
    /// Usable, with a warning sign.
    Suspect,
    /// Registered, but not to be trusted yet, or not any more.
    Unstable,
    /// Not registered.
    Down,
    /// Nobody can tell.
    Unknown,
}

impl Health {
    /// All of them, the best first.
    pub const ALL: [Self; 5] = [Self::Stable, Self::Suspect, Self::Unstable, Self::Down, Self::Unknown];

    /// The word of the API, the history and the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Suspect => "suspect",
            Self::Unstable => "unstable",
            Self::Down => "down",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What follows from a trunk's health for dialing on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Dial.
    Clear,
    /// Do not dial, but it may pass by itself in seconds: no hold is recorded, nothing is paused.
    Wait,
    /// Do not dial; this is a hold.
    Hold,
}

/// Why the trunk's health is what it is. One reason is given: the worst.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Reason {
    /// Registered, and long enough.
    Registered,
    /// No registration, but its contact answers.
    Reachable,
    /// Neither registered nor qualified: taken for usable because the configuration declares it.
    Declared,
    /// The last attempt was refused or unanswered.
    Rejected {
        /// Which registration.
        registration: RegistrationName,
        /// Since when.
        since: Timestamp,
    },
    /// Rejected, and Asterisk has stopped trying.
    GaveUp {
        /// Which registration.
        registration: RegistrationName,
        /// Since when it is rejected.
        since: Timestamp,
    },
    /// Un-registered, or not registered yet.
    Unregistered {
        /// Which registration.
        registration: RegistrationName,
        /// Since when.
        since: Timestamp,
    },
    /// Rejected, but not often enough to count yet.
    Unconfirmed {
        /// Which registration.
        registration: RegistrationName,
        /// Rejections so far.
        failures: u32,
    },
    /// The registration is no longer in Asterisk's configuration.
    Removed {
        /// Which registration.
        registration: RegistrationName,
    },
    /// One of several registrations fails.
    PartFailed {
        /// Which one.
        registration: RegistrationName,
    },
    /// A refresh is overdue.
    RefreshOverdue {
        /// Which registration.
        registration: RegistrationName,
        /// When it was expected.
        expected: Timestamp,
    },
    /// A contact that was reachable does not answer.
    ContactUnreachable {
        /// Which contact.
        contact: ContactUri,
        /// Since when.
        since: Timestamp,
    },
    /// A contact answers slowly.
    ContactSlow {
        /// Which contact.
        contact: ContactUri,
        /// Its last round trip.
        rtt: Duration,
    },
    /// It is well again, but not for long enough.
    Recovering {
        /// Since when it is well.
        since: Timestamp,
    },
    /// It came and went too often.
    Suppressed {
        /// Since when.
        since: Timestamp,
    },
    /// The PBX is not heard.
    PbxUnheard {
        /// When it was last heard.
        since: Timestamp,
    },
    /// It is not in the PBX's lists.
    NotListed {
        /// Since when.
        since: Timestamp,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registered => f.write_str("registered"),
            Self::Reachable => f.write_str("reachable"),
            Self::Declared => f.write_str("declared; it neither registers nor is qualified"),
            Self::Rejected { registration, since } => write!(f, "{registration} rejected since {since:.0}"),
            Self::GaveUp { registration, since } => {
                write!(f, "{registration} rejected since {since:.0}, and Asterisk gave up")
            }
            Self::Unregistered { registration, since } => write!(f, "{registration} unregistered since {since:.0}"),
            Self::Unconfirmed { registration, failures } => {
                write!(f, "{registration} rejected {failures} times, not confirmed yet")
            }
            Self::Removed { registration } => write!(f, "{registration} is no longer configured in Asterisk"),
            Self::PartFailed { registration } => write!(f, "{registration} is not registered, another is"),
            Self::RefreshOverdue { registration, expected } => {
                write!(f, "{registration}: no refresh since it was due at {expected:.0}")
            }
            Self::ContactUnreachable { contact, since } => write!(f, "{contact} unreachable since {since:.0}"),
            Self::ContactSlow { contact, rtt } => write!(f, "{contact} answers slowly ({} ms)", rtt.as_millis()),
            Self::Recovering { since } => write!(f, "well again since {since:.0}, in recovery"),
            Self::Suppressed { since } => write!(f, "flapping, suppressed since {since:.0}"),
            Self::PbxUnheard { since } => write!(f, "the PBX is not heard since {since:.0}"),
            Self::NotListed { since } => write!(f, "not in the PBX's lists since {since:.0}"),
        }
    }
}

/// Everything the fold knows of a trunk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrunkHealth {
    /// How it is.
    pub status: Health,
    /// Since when it is so.
    pub since: Timestamp,
    /// Why.
    pub reason: Reason,
    /// What follows for dialing.
    pub standing: Standing,
    /// The last instant this value is true of; it never steps back.
    pub at: Timestamp,
    /// Its registrations, by name.
    pub registrations: BTreeMap<RegistrationName, Registration>,
    /// Its contacts, by URI.
    pub contacts: BTreeMap<ContactUri, Contact>,
    /// The configuration names it.
    pub declared: bool,
    /// What can be seen of it at all.
    pub view: View,
    /// Whether, by the last confirmed word, it has left "registered".
    pub lost: bool,
    /// It was registered at some time: only what was registered can be lost.
    pub ever_registered: bool,
    /// Losses so far.
    pub losses: u64,
    /// The penalty as it was at `penalty_at`; [`TrunkHealth::penalty`] lets it decay.
    pub penalty_value: f64,
    /// When `penalty_value` was so.
    pub penalty_at: Timestamp,
    /// Since when it is suppressed.
    pub suppressed_since: Option<Timestamp>,
    /// A hold is due or recorded and was not followed by a recovery yet.
    pub held: bool,
    /// Since when it is well again, while `held`.
    pub recovering_since: Option<Timestamp>,
}

impl TrunkHealth {
    /// A trunk nothing is known of yet.
    #[must_use]
    pub fn new(at: Timestamp) -> Self {
        Self {
            status: Health::Unknown,
            since: at,
            reason: Reason::NotListed { since: at },
            standing: Standing::Wait,
            at,
            registrations: BTreeMap::new(),
            contacts: BTreeMap::new(),
            declared: false,
            view: View::Unlisted { since: at, started: at },
            lost: false,
            ever_registered: false,
            losses: 0,
            penalty_value: 0.0,
            penalty_at: at,
            suppressed_since: None,
            held: false,
            recovering_since: None,
        }
    }

    /// The penalty at `at`, decayed with `half_life`.
    #[must_use]
    pub fn penalty(&self, at: Timestamp, half_life: Duration) -> f64 {
        if half_life.is_zero() {
            return 0.0;
        }
        let halvings = between(self.penalty_at, at).as_secs_f64() / half_life.as_secs_f64();
        self.penalty_value * (-halvings).exp2()
    }

    /// The registration that speaks for the trunk: the best under `any`, the worst under `all`; `None` without any.
    #[must_use]
    pub fn speaking_registration(&self, when: RegisteredWhen) -> Option<(&RegistrationName, &Registration)> {
        let rank = |registration: &Registration| match registration.state {
            Some(RegistrationState::Registered) => 0,
            Some(RegistrationState::Unregistered) => 1,
            Some(RegistrationState::Rejected) => 2,
            None => 3,
        };
        match when {
            RegisteredWhen::Any => self.registrations.iter().min_by_key(|(_, registration)| rank(registration)),
            RegisteredWhen::All => self.registrations.iter().max_by_key(|(_, registration)| rank(registration)),
        }
    }
}

/// Whether the trunk can be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "view", rename_all = "snake_case")]
pub enum View {
    /// Its PBX is heard and lists it.
    Listed,
    /// Its PBX is heard and does not list it.
    Absent {
        /// Since when.
        since: Timestamp,
    },
    /// Its PBX was lost, but was listed by this controller since it started: it may be back in a moment.
    Lost {
        /// The last byte heard.
        since: Timestamp,
    },
    /// Not listed since this controller started.
    Unlisted {
        /// Since when nobody watched.
        since: Timestamp,
        /// When this controller started.
        started: Timestamp,
    },
}

/// One registration of a trunk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    /// Its state, by the last event or list; `None` once it was removed from Asterisk's configuration.
    pub state: Option<RegistrationState>,
    /// Since when it is in that state.
    pub since: Timestamp,
    /// The last attempt that ended, whatever its end.
    pub last_event_at: Option<Timestamp>,
    /// Since when it is not registered.
    pub left_at: Option<Timestamp>,
    /// Its failure counts as confirmed, until it is registered again.
    pub lost: bool,
    /// The last refresh that was seen, or the first list that said so: what the next refresh is reckoned from.
    pub last_registered_at: Option<Timestamp>,
    /// The last refresh that was seen with nothing missed since: what an interval may be learned from.
    pub last_heartbeat_at: Option<Timestamp>,
    /// Rejections since it was last registered.
    pub failures: u32,
    /// Asterisk said, by its CLI, that it stopped trying.
    pub gave_up: bool,
    /// Asterisk's CLI said that a refresh is unanswered, since then.
    pub unanswered_since: Option<Timestamp>,
    /// When the next attempt is due, as the CLI said.
    pub next_attempt_at: Option<Timestamp>,
    /// The last refresh intervals seen, at most [`Registration::INTERVALS`], the newest last.
    pub intervals: Vec<Duration>,
    /// Its timing, as configured.
    pub parameters: RegistrationParameters,
}

impl Registration {
    /// How many refresh intervals are remembered.
    pub const INTERVALS: usize = 3;

    /// A registration just heard of, whose state was not said yet.
    #[must_use]
    pub fn new(at: Timestamp) -> Self {
        Self {
            state: Some(RegistrationState::Unregistered),
            since: at,
            last_event_at: None,
            left_at: None,
            lost: false,
            last_registered_at: None,
            last_heartbeat_at: None,
            failures: 0,
            gave_up: false,
            unanswered_since: None,
            next_attempt_at: None,
            intervals: Vec::new(),
            parameters: RegistrationParameters::default(),
        }
    }

    /// How long from one refresh to the next: the longest of the last ones seen, else what Asterisk asks for. The longest,
    /// because a re-registration by hand makes a short one now and then, and a false alarm is worse than a late one.
    #[must_use]
    pub fn refresh_interval(&self) -> Duration {
        self.intervals.iter().copied().max().unwrap_or(self.parameters.expiration)
    }
}

/// One contact of a trunk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contact {
    /// Its status.
    pub status: ContactStatus,
    /// Since when.
    pub since: Timestamp,
    /// Its last round trip.
    pub rtt: Option<Duration>,
    /// It answered at some time: only then is its silence a sign.
    pub ever_reachable: bool,
}
