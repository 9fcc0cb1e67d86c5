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

use super::{attempt::Outcome, case::Case, neighbours::Neighbours, verdict::Diagnosis};

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

fn find<'a>(scene: &Scene<'a>) -> Option<Finding<'a>> {
    match scene.standing() {
        Standing::Failed(at) => {
            let attempt = scene.attempts.get(at)?;
            let found = match attempt.outcome {
                Outcome::Refused(status) => refused::refused(scene, attempt, status),
                Outcome::Unanswered => refused::unanswered(scene, attempt),
                Outcome::Silent | Outcome::SilentSoFar | Outcome::Astray | Outcome::Undelivered => {
                    silent::silent(scene, attempt)
                }
                Outcome::Granted => registered::nothing_granted(scene, attempt),
                Outcome::Unseen | Outcome::Open => return None,
            };
            Some(found.of_attempt(at))
        }
        Standing::Stale(at) => {
            let attempt = scene.attempts.get(at)?;
            let found = match attempt.outcome {
                Outcome::Refused(status) => refused::refused(scene, attempt, status),
                Outcome::Unanswered => refused::unanswered(scene, attempt),
                Outcome::Silent | Outcome::SilentSoFar | Outcome::Astray | Outcome::Undelivered => {
                    silent::silent(scene, attempt)
                }
                Outcome::Granted | Outcome::Unseen | Outcome::Open => return told::rejected(scene),
            };
            Some(found.of_attempt(at).seen_before_only())
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
