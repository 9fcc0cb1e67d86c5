//! What counts as stable: the parameters of the fold, with the defaults DESIGN fixes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The fold's parameters, for one trunk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HealthPolicy {
    /// How many rejections in a row make a failure; Asterisk giving up, or silence, confirms it too.
    pub confirm_failures: u32,
    /// How long a trunk must be well after a hold before it is let go.
    pub recovery: Duration,
    /// How long a PBX may be unheard before its trunks are unknown.
    pub unknown_after: Duration,
    /// How long a refresh may be overdue before that is a warning sign.
    pub refresh_grace: Duration,
    /// What the gate says while the trunk is unknown.
    pub on_unknown: OnUnknown,
    /// What the gate says while the trunk is suspect.
    pub on_suspect: OnSuspect,
    /// Which of several registrations make the trunk registered.
    pub registered_when: RegisteredWhen,
    /// Flap damping.
    pub flap: FlapPolicy,
}

impl Default for HealthPolicy {
    fn default() -> Self {
        Self {
            confirm_failures: 1,
            recovery: Duration::from_secs(30),
            unknown_after: Duration::from_secs(15),
            refresh_grace: Duration::from_secs(40),
            on_unknown: OnUnknown::Hold,
            on_suspect: OnSuspect::Allow,
            registered_when: RegisteredWhen::Any,
            flap: FlapPolicy::default(),
        }
    }
}

/// Flap damping after RFC 2439: each loss adds `penalty`, which halves every `half_life`; above `suppress` the trunk is
/// suppressed until it has fallen below `reuse`, or `max_suppress` has passed.
///
/// With the defaults two losses never suppress (at most 2 × 1000, decayed), a third within minutes does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlapPolicy {
    /// Added by one loss.
    pub penalty: f64,
    /// Above this the trunk is suppressed.
    pub suppress: f64,
    /// Below this it is let go again.
    pub reuse: f64,
    /// In this time a penalty halves.
    pub half_life: Duration,
    /// No suppression lasts longer.
    pub max_suppress: Duration,
}

impl Default for FlapPolicy {
    fn default() -> Self {
        Self {
            penalty: 1000.0,
            suppress: 2000.0,
            reuse: 750.0,
            half_life: Duration::from_secs(300),
            max_suppress: Duration::from_secs(1800),
        }
    }
}

/// What the gate says of an unknown trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnknown {
    /// Hold: nobody knows whether it works.
    Hold,
    /// Allow: dialing goes on blind.
    Allow,
}

/// What the gate says of a suspect trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnSuspect {
    /// Allow: a warning sign is no failure.
    Allow,
    /// Hold already.
    Hold,
}

/// Which of a trunk's registrations must be registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegisteredWhen {
    /// One is enough; the others failing makes it suspect.
    Any,
    /// All of them.
    All,
}
