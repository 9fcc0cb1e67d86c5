//! The judgement: one case, one diagnosis.
//!
//! The last finished attempt decides; earlier ones, other registrations and the configuration corroborate. How sure a
//! verdict is, and why, is in `docs/diagnosis.md`: the numbers here and the table there are one thing.
//!
//! `refused` judges an attempt that got an answer, `silent` one that got none, `registered` a trunk that is registered,
//! `calls` its INVITEs, `told` what AMI alone can tell, `logged` what log lines prove. All of them return a `Finding`; `mend` writes the fixes.

mod calls;
mod finding;
#[cfg(test)]
mod histories;
mod logged;
mod mend;
mod refused;
mod registered;
mod scene;
mod silent;
mod told;

use finding::Finding;
use scene::{Scene, Standing};
pub(super) use scene::{credentials, granted, identity};

use super::{
    attempt::{Attempt, Outcome},
    case::Case,
    neighbours::Neighbours,
    verdict::Diagnosis,
};

/// Says why the case's registration fares as it does; `None` if nothing is wrong with it, or nothing is known of it.
///
/// Total: any sequence of sightings, in any order, cut anywhere, gives an answer, and a bounded one.
#[must_use]
pub fn diagnose(case: &Case<'_>) -> Option<Diagnosis> {
    judge(case, &Neighbours::of(case.seen))
}

/// As [`diagnose`], with what others of the same trace tell: a capture is summed up while it is read.
pub(super) fn judge(case: &Case<'_>, neighbours: &Neighbours) -> Option<Diagnosis> {
    let scene = Scene::of(case, neighbours);
    let finding = find(&scene)?;
    Some(finding.told(&scene))
}

/// Why an attempt did not succeed; `None` of one that did, or whose end was not seen.
fn unsuccessful<'a>(scene: &Scene<'a>, attempt: &Attempt<'a>) -> Option<Finding<'a>> {
    match attempt.outcome {
        Outcome::Refused(status) => Some(refused::refused(scene, attempt, status)),
        Outcome::Unanswered => Some(refused::unanswered(scene, attempt)),
        Outcome::Silent | Outcome::SilentSoFar | Outcome::Astray | Outcome::Undelivered => {
            Some(silent::silent(scene, attempt))
        }
        Outcome::Granted | Outcome::Unseen | Outcome::Open => None,
    }
}

fn find<'a>(scene: &Scene<'a>) -> Option<Finding<'a>> {
    match scene.standing() {
        Standing::Failed(at) => {
            let attempt = scene.attempts.get(at)?;
            let granted = || (attempt.outcome == Outcome::Granted).then(|| registered::nothing_granted(scene, attempt));
            Some(unsuccessful(scene, attempt).or_else(granted)?.of_attempt(at))
        }
        Standing::Stale(at) => {
            let attempt = scene.attempts.get(at)?;
            match unsuccessful(scene, attempt) {
                Some(found) => Some(found.of_attempt(at).seen_before_only()),
                None => told::rejected(scene),
            }
        }
        Standing::Registered(at) => {
            let attempt = at.and_then(|at| scene.attempts.get(at));
            let found = registered::registered(scene, attempt)?;
            Some(match at {
                Some(at) => found.of_attempt(at),
                None => found,
            })
        }
        Standing::Unregistered(at) => Some(told::unregistered(scene, at)),
        Standing::Unseen => told::rejected(scene),
        Standing::Unknown => logged::only(scene).or_else(|| silent::before_any(scene)).or_else(|| calls::calls(scene)),
    }
}
