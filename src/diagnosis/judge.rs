//! The judgement: one case, one diagnosis.

use super::{case::Case, verdict::Diagnosis};

/// Says why the case's registration fares as it does; `None` if nothing is wrong with it.
#[must_use]
pub fn diagnose(case: &Case<'_>) -> Option<Diagnosis> {
    let _ = case;
    None
}
