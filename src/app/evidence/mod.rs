//! How it is found out, by itself, why a registration fails: the sources that are listened to, and who judges what they show.
//!
//! ```text
//! HEP feed ──────────┐
//! AMI history ───────┤  hub: what was seen of each registration
//! configuration ─────┤        └─> diagnostician ─> diagnosis::diagnose ─> Input::Diagnosed
//! board, events ─────┘                        └─> heal: one PJSIPRegister, where that is wanted
//! ```
//! Separate from watching because nothing here may delay it: a hold is decided without any of this, and is explained when
//! this has its word. If it fails altogether, trunks are held and released as ever, and are said to be `rejected`.

mod diagnostician;
mod heal;
mod history;
mod hub;
mod patient;

use std::{net::SocketAddr, time::Duration};

use secrecy::{ExposeSecret as _, SecretString};

pub use diagnostician::{Diagnostician, PbxLine, PbxLines};

/// How a PBX's failures are looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PbxEvidence {
    /// Asterisk's own SIP history is read around a failure, where there is no HEP feed.
    pub history: bool,
    /// By what its HEP packets are known; with one PBX they are all its.
    pub capture_id: Option<u32>,
    /// What Asterisk gave up is tried once more, where the cause passes by itself.
    pub heal: bool,
}

/// The HEP feed, as it is listened to.
#[derive(Debug, Clone)]
pub struct HepListen {
    /// Where.
    pub listen: SocketAddr,
    /// What packets must bear.
    pub password: Option<SecretString>,
}

impl HepListen {
    /// Whether it is the same.
    pub(super) fn is(&self, other: &Self) -> bool {
        let secret = |one: &Self| one.password.as_ref().map(|password| password.expose_secret().to_owned());
        self.listen == other.listen && secret(self) == secret(other)
    }
}

/// How patient the diagnostician is. The defaults are the product's; tests and the demo hurry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How long after a failure "unknown" is not said yet, because a better source may still speak.
    pub before_unknown: Duration,
    /// The first wait before a registration that Asterisk gave up is tried again; each next one is twice as long.
    pub heal_first: Duration,
    /// The longest.
    pub heal_most: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            before_unknown: Duration::from_secs(3),
            heal_first: Duration::from_secs(600),
            heal_most: Duration::from_secs(6 * 3600),
        }
    }
}
