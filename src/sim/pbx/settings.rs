//! What a simulated PBX is made of.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use secrecy::SecretString;

use crate::wire::ami::Classes;
use crate::{
    clock::{Clock, SystemClock},
    sim::{
        provider::{Behaviour, Pace},
        registration::RegistrationSettings,
    },
};

/// A simulated PBX.
#[derive(Debug, Clone)]
pub struct SimSettings {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Who may log in.
    pub users: Vec<SimUser>,
    /// Its trunks at the start.
    pub trunks: Vec<SimTrunk>,
    /// How fast everything is.
    pub timing: Timing,
    /// `timestampevents`.
    pub timestamps: bool,
    /// Where `Timestamp` headers come from.
    pub clock: Arc<dyn Clock>,
    /// What the random delays are made of: the same seed, the same delays.
    pub seed: u64,
    /// Modules that `ModuleCheck` finds.
    pub modules: Vec<String>,
    /// `hep.conf`: who is told of the registrations' messages; nobody by default.
    pub hep: Option<HepFeed>,
}

/// A HEP feed, as `hep.conf` describes it.
#[derive(Debug, Clone)]
pub struct HepFeed {
    /// `capture_address`.
    pub to: SocketAddr,
    /// `capture_id`.
    pub capture_id: u32,
    /// `capture_password`.
    pub password: Option<SecretString>,
}

impl HepFeed {
    /// One to `to`, with Asterisk's defaults.
    #[must_use]
    pub const fn new(to: SocketAddr) -> Self {
        Self { to, capture_id: 0, password: None }
    }
}

impl Default for SimSettings {
    fn default() -> Self {
        // Without res_pjsip_history: the console has no command of it.
        let modules = ["res_pjsip", "res_pjsip_outbound_registration", "res_hep_pjsip", "chan_pjsip"];
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            users: vec![SimUser::all("trunkwarden", "sim")],
            trunks: Vec::new(),
            timing: Timing::default(),
            timestamps: true,
            clock: Arc::new(SystemClock),
            seed: 1,
            modules: modules.map(str::to_owned).to_vec(),
            hep: None,
        }
    }
}

/// A manager user.
#[derive(Debug, Clone)]
pub struct SimUser {
    /// Its name.
    pub name: String,
    /// Its secret.
    pub secret: String,
    /// Classes of the events it may read.
    pub read: Classes,
    /// Classes of the actions it may run.
    pub write: Classes,
}

impl SimUser {
    /// One who may do everything.
    #[must_use]
    pub fn all(name: &str, secret: &str) -> Self {
        Self { name: name.to_owned(), secret: secret.to_owned(), read: Classes::ALL, write: Classes::ALL }
    }
}

/// A trunk: a registration, an endpoint, or both, at one provider.
#[derive(Debug, Clone)]
pub struct SimTrunk {
    /// What it is called in this simulation; Asterisk's objects have their own names.
    pub name: String,
    /// Its registration.
    pub registration: Option<RegistrationSettings>,
    /// Its endpoint.
    pub endpoint: Option<EndpointSettings>,
    /// How its provider behaves at first.
    pub behaviour: Behaviour,
    /// Where it stands when the simulation begins.
    pub start: Start,
}

impl SimTrunk {
    /// A trunk whose registration, endpoint and AOR are called alike, with Asterisk's defaults, freshly started.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            registration: Some(RegistrationSettings::named(name)),
            endpoint: Some(EndpointSettings::named(name)),
            behaviour: Behaviour::Ok,
            start: Start::Fresh,
        }
    }
}

/// Where a trunk stands when the simulation begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Not tried yet, as after a start of Asterisk.
    Fresh,
    /// Registered for a while, if its provider grants that; its refresh is due within the interval.
    Registered,
}

/// An endpoint with an AOR of the same name and one contact.
#[derive(Debug, Clone)]
pub struct EndpointSettings {
    /// Its name.
    pub name: String,
    /// The contact's URI.
    pub contact: String,
    /// `outbound_auth`.
    pub outbound_auth: String,
    /// `qualify_frequency`; zero is never.
    pub qualify: Duration,
}

impl EndpointSettings {
    /// The endpoint `name` at a made-up provider, not qualified.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            contact: format!("sip:sip.{name}.example"),
            outbound_auth: name.to_owned(),
            qualify: Duration::ZERO,
        }
    }
}

/// How long things take. The defaults are Asterisk's, and what was measured on one.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// The providers.
    pub pace: Pace,
    /// `qualify_timeout`.
    pub qualify_timeout: Duration,
    /// From dialing to the answer of a call that is answered.
    pub call_setup: Duration,
    /// How long an answered call lasts.
    pub call_length: Duration,
    /// From `Shutdown` to the end of the connections.
    pub shutdown: Duration,
    /// From there until AMI listens again.
    pub down: Duration,
    /// From there to `FullyBooted`.
    pub boot: Duration,
    /// How long a refused login is kept waiting.
    pub login_penalty: Duration,
    /// `authtimeout`.
    pub auth_timeout: Duration,
    /// `writetimeout`: how long one message may take to be written before the session is ended.
    pub write_timeout: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            pace: Pace::default(),
            qualify_timeout: Duration::from_secs(3),
            call_setup: Duration::from_millis(100),
            call_length: Duration::from_secs(2),
            shutdown: Duration::from_millis(50),
            down: Duration::from_millis(600),
            boot: Duration::from_millis(500),
            login_penalty: Duration::from_secs(1),
            auth_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(5),
        }
    }
}
