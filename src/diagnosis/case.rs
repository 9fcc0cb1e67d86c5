//! What a diagnosis is made from.

use std::time::Duration;

use crate::{
    clock::Timestamp,
    ids::{RegistrationName, TrunkId},
    observation::RegistrationState,
    wire::{
        logger::LogFact,
        pjsip::Objects,
        sip::trace::{Seen, Source},
    },
};

/// One registration, and all that is known of why it fares as it does.
#[derive(Debug, Clone, Default)]
pub struct Case<'a> {
    /// The trunk, where it is one.
    pub trunk: Option<TrunkId>,
    /// The registration's section, where known.
    pub registration: Option<RegistrationName>,
    /// Its `client_uri`, where known: AMI tells it even where the configuration could not be read.
    pub client_uri: Option<String>,
    /// Its `server_uri`, where known.
    pub server_uri: Option<String>,
    /// The user of its Contact, where a twin with the same URIs makes it matter and no configuration tells it.
    pub contact_user: Option<String>,
    /// Its PBX's configuration, where it could be read.
    pub objects: Option<&'a Objects>,
    /// What was seen, of this registration and maybe of others, in any order. Duplicates by several sources may be in it.
    pub seen: &'a [Seen],
    /// Which sources watched, and since when: only where one watched, its silence says anything.
    pub watched: Vec<Watched>,
    /// Log lines, of this registration and maybe of others.
    pub log: &'a [LogFact],
    /// What AMI told of it.
    pub facts: Option<RegistrationFacts>,
    /// How many attempts failed and how many succeeded, where `seen` holds only some of them.
    pub tally: Option<(u64, u64)>,
    /// It is now; `None` of a capture, where the last thing seen is.
    pub now: Option<Timestamp>,
}

/// A source that was listened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watched {
    /// Which.
    pub source: Source,
    /// From when on it would have shown everything of this registration.
    pub since: Timestamp,
}

/// What AMI told of a registration.
#[derive(Debug, Clone, PartialEq)]
pub struct RegistrationFacts {
    /// Its state.
    pub state: Option<RegistrationState>,
    /// Since when.
    pub since: Timestamp,
    /// When its last attempt ended.
    pub last_event_at: Option<Timestamp>,
    /// How long before `last_event_at` the attempt was due to begin, where known: about zero is an answer or a local
    /// failure at once, 32 s is silence.
    pub last_attempt_took: Option<Duration>,
    /// Failed attempts since it was last registered.
    pub failures: u32,
    /// Asterisk has stopped trying.
    pub gave_up: bool,
    /// Its refresh was due then and has not come.
    pub refresh_overdue_since: Option<Timestamp>,
    /// It was registered before.
    pub ever_registered: bool,
    /// It was registered before, and whether with the secret that is configured now; `None` when that is not known.
    pub same_secret_registered: Option<bool>,
    /// `Registered` events in the last ten seconds.
    pub registered_in_10s: u32,
}
