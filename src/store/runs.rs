//! Run-length history: what one more outcome makes of the newest run of its series.
//!
//! It is apart from the back ends because it is the same for all of them, and because the queries rest on the order it
//! keeps: within a series a run begins no earlier than the one before was last seen, whatever a clock did.

/// The newest run of a series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// The outcome.
    pub(crate) to: String,
    /// How often it was seen in a row.
    pub(crate) count: u64,
    /// The first time, in milliseconds.
    pub(crate) first_ms: i64,
    /// The last time, in milliseconds.
    pub(crate) last_ms: i64,
}

/// What an outcome did to its series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Taken {
    /// The newest run grew.
    Extended,
    /// A new one began.
    Begun {
        /// The outcome of the run before.
        from: Option<String>,
    },
}

/// Takes the outcome `to`, seen at `at_ms`, into the series whose newest run is `newest`.
///
/// A time before the newest run was last seen (a link found lost later than it was; a clock set back) is moved up to
/// it: runs of one series never overlap.
pub(crate) fn take(newest: &mut Option<Run>, to: &str, at_ms: i64) -> Taken {
    match newest {
        Some(run) if run.to == to => {
            run.count = run.count.saturating_add(1);
            run.last_ms = run.last_ms.max(at_ms);
            Taken::Extended
        }
        Some(_) | None => {
            let before = newest.take();
            let at_ms = before.as_ref().map_or(at_ms, |run| at_ms.max(run.last_ms));
            *newest = Some(Run { to: to.to_owned(), count: 1, first_ms: at_ms, last_ms: at_ms });
            Taken::Begun { from: before.map(|run| run.to) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_equal_outcome_extends_and_another_begins() {
        let mut newest = None;
        assert_eq!(take(&mut newest, "rejected", 10), Taken::Begun { from: None });
        assert_eq!(take(&mut newest, "rejected", 20), Taken::Extended);
        assert_eq!(newest, Some(Run { to: "rejected".into(), count: 2, first_ms: 10, last_ms: 20 }));
        assert_eq!(take(&mut newest, "registered", 30), Taken::Begun { from: Some("rejected".into()) });
        assert_eq!(newest, Some(Run { to: "registered".into(), count: 1, first_ms: 30, last_ms: 30 }));
    }

    #[test]
    fn a_clock_set_back_makes_no_run_overlap_another() {
        let mut newest = None;
        take(&mut newest, "registered", 50);
        take(&mut newest, "registered", 40);
        take(&mut newest, "rejected", 45);
        assert_eq!(newest, Some(Run { to: "rejected".into(), count: 1, first_ms: 50, last_ms: 50 }));
    }
}
