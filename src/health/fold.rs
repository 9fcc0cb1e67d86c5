//! The fold.

use super::{policy::HealthPolicy, state::TrunkHealth};
use crate::{clock::Timestamp, observation::Observation};

/// Takes one observation in.
#[must_use]
pub fn fold(health: TrunkHealth, seen: &Observation, policy: &HealthPolicy) -> TrunkHealth {
    let _ = (seen, policy);
    health
}

/// The next instant at which the health changes by itself, if any.
#[must_use]
pub fn due(health: &TrunkHealth, policy: &HealthPolicy) -> Option<Timestamp> {
    let _ = (health, policy);
    None
}
