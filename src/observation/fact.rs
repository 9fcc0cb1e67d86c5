//! What can be observed of a trunk, or of its PBX: the one vocabulary between Asterisk's words and the health fold.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    ids::{ContactUri, EndpointName, RegistrationName, TrunkId},
};

/// One fact about one trunk, and when it was so.
///
/// `at` is our own receive time, not Asterisk's `Timestamp` header: several PBXs' clocks would not agree, and a wall
/// clock that steps back is clamped per PBX before it gets here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// Whose fact.
    pub trunk: TrunkId,
    /// When it was received.
    pub at: Timestamp,
    /// What was seen.
    pub fact: Fact,
}

/// How it was learned, which decides what may be concluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// An AMI event: an attempt that just ended, so also a heartbeat.
    Event,
    /// A list that was asked for: how it stands, but no attempt and no heartbeat.
    List,
}

/// A registration as Asterisk words it. `Stopped` and `Failed`, which its documentation names, are never sent by PJSIP
/// (`res/res_pjsip_outbound_registration.c`, `sip_outbound_registration_status_str`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegistrationState {
    /// The registrar accepted the binding.
    Registered,
    /// The last attempt failed, for whatever reason.
    Rejected,
    /// Not tried yet, un-registered on purpose, or refused with `Expires: 0`.
    Unregistered,
}

impl RegistrationState {
    /// The word of the API and the history.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Rejected => "rejected",
            Self::Unregistered => "unregistered",
        }
    }
}

/// A contact's answer to its last qualify.
///
/// Source: labels in Asterisk `res/res_pjsip/pjsip_options.c`; the documentation's `Unqualified` and `Updated` are stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContactStatus {
    /// It answered, with any SIP response at all.
    Reachable,
    /// It did not.
    Unreachable,
    /// It is qualified, but was not asked yet.
    Unknown,
    /// It is not qualified, so nothing can be said.
    NonQualified,
}

impl ContactStatus {
    /// The word of the API and the history.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reachable => "reachable",
            Self::Unreachable => "unreachable",
            Self::Unknown => "unknown",
            Self::NonQualified => "non_qualified",
        }
    }
}

/// A registration's own timing, as configured in Asterisk.
///
/// Units: seconds on the wire (`OutboundRegistrationDetail`), [`Duration`] here. The defaults are Asterisk's
/// (`res/res_pjsip_outbound_registration.c`, `ast_sorcery_object_field_register`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationParameters {
    /// `expiration`: what is asked for, not what was granted.
    pub expiration: Duration,
    /// `retry_interval`: after a temporary failure.
    pub retry_interval: Duration,
    /// `forbidden_retry_interval`: after a 403; zero is never.
    pub forbidden_retry_interval: Duration,
    /// `fatal_retry_interval`: after any other final refusal; zero is never.
    pub fatal_retry_interval: Duration,
    /// `max_random_initial_delay`: how long Asterisk may wait before the first REGISTER.
    pub max_random_initial_delay: Duration,
    /// Whether it announces each refresh. PJSIP does; IAX2 speaks only when something changed.
    pub heartbeat: bool,
}

impl Default for RegistrationParameters {
    fn default() -> Self {
        Self {
            expiration: Duration::from_secs(3600),
            retry_interval: Duration::from_secs(60),
            forbidden_retry_interval: Duration::ZERO,
            fatal_retry_interval: Duration::ZERO,
            max_random_initial_delay: Duration::from_secs(10),
            heartbeat: true,
        }
    }
}

/// The `(exp. …)` column of `pjsip show registrations`: when the next attempt is scheduled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NextAttempt {
    /// It will be made in this long.
    In(Duration),
    /// It was due this long ago. Up to about 32 s an unanswered attempt may still be in flight; above 35 s Asterisk has
    /// stopped trying.
    Ago(Duration),
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum Fact {
    /// The configuration names this trunk.
    Declared,
    /// This controller starts (again); nobody watched since `unseen_since`.
    Started {
        /// When this controller last knew anything; its start, if it never did.
        unseen_since: Timestamp,
    },
    /// The PBX's AMI link is lost.
    LinkLost {
        /// The last byte that was received.
        last_heard: Timestamp,
    },
    /// The PBX's lists were read to their end: what follows from them has been said before this.
    Listed {
        /// Whether anything of this trunk (registration or endpoint) was in them.
        present: bool,
    },
    /// A registration's timing was read.
    Parameters {
        /// Which one.
        registration: RegistrationName,
        /// Its timing.
        parameters: RegistrationParameters,
    },
    /// A registration's state.
    Registration {
        /// Which one.
        registration: RegistrationName,
        /// Its state.
        state: RegistrationState,
        /// An attempt that just ended, or a list.
        source: Source,
    },
    /// When Asterisk will try next, or should have.
    NextAttempt {
        /// Which registration.
        registration: RegistrationName,
        /// The state printed beside it.
        state: RegistrationState,
        /// The column's value.
        next: NextAttempt,
    },
    /// The registration is no longer configured in Asterisk.
    RegistrationRemoved {
        /// Which one.
        registration: RegistrationName,
    },
    /// A contact's status.
    Contact {
        /// Which one.
        contact: ContactUri,
        /// Its status.
        status: ContactStatus,
        /// The last round trip, only when reachable.
        rtt: Option<Duration>,
    },
    /// The contact is gone.
    ContactRemoved {
        /// Which one.
        contact: ContactUri,
    },
    /// Time passed.
    Tick,
}

/// A fact about a PBX, which concerns each of its trunks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum PbxFact {
    /// The link is up; its lists are not read yet.
    Connected {
        /// AMI's version, from its greeting.
        version: String,
    },
    /// The link is lost.
    Lost {
        /// The last byte heard.
        last_heard: Timestamp,
        /// Why, in words.
        error: String,
    },
    /// No connection comes about. Said for each new reason.
    Unreachable {
        /// Why, in words.
        error: String,
    },
    /// The login was refused; said once, until the link is up.
    Refused {
        /// What Asterisk answered.
        error: String,
    },
    /// Its lists were read to their end.
    Listed {
        /// Every trunk found in them, with what is configured for it there.
        trunks: Vec<ListedTrunk>,
    },
    /// Asterisk re-read its configuration.
    Reloaded,
    /// Asterisk says goodbye.
    ShutDown {
        /// Whether it will be back by itself.
        restart: bool,
    },
    /// Our recording of Asterisk's own SIP history begins, or has ended.
    Recording {
        /// Whether it is on from now on.
        on: bool,
    },
    /// A change was found in a list without its event: the event session does not hear everything.
    Deaf {
        /// What was missed, in words.
        missed: String,
    },
}

/// A trunk as a PBX lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedTrunk {
    /// The trunk.
    pub id: TrunkId,
    /// Its endpoints.
    pub endpoints: Vec<EndpointName>,
    /// Its registrations.
    pub registrations: Vec<ListedRegistration>,
}

/// A registration as a PBX lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedRegistration {
    /// Its object's name.
    pub name: RegistrationName,
    /// `client_uri`: who we say we are.
    pub client_uri: String,
    /// `server_uri`: where we register.
    pub server_uri: String,
    /// Another registration has the same two URIs, so their events cannot be told apart.
    pub ambiguous: bool,
}
