//! Whether the controller has started, as those who run it must know.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU8, Ordering},
};

/// Where in its life the controller is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The board is being restored, or the deciding loop does not run yet.
    Starting,
    /// It decides.
    Running,
    /// It was told to stop.
    Stopping,
}

impl Phase {
    /// The word of `/readyz`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
        }
    }
}

/// The controller's state of readiness: `app` sets it, `/readyz` tells it.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    phase: AtomicU8,
    store_failing: AtomicBool,
}

impl Readiness {
    /// Starting, with a store that is taken to answer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes the phase.
    pub fn set_phase(&self, phase: Phase) {
        let value = match phase {
            Phase::Starting => 0,
            Phase::Running => 1,
            Phase::Stopping => 2,
        };
        self.0.phase.store(value, Ordering::SeqCst);
    }

    /// The phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.0.phase.load(Ordering::SeqCst) {
            0 => Phase::Starting,
            1 => Phase::Running,
            _ => Phase::Stopping,
        }
    }

    /// Notes whether the store takes commits; while it does not, the spool does.
    pub fn set_store(&self, answers: bool) {
        self.0.store_failing.store(!answers, Ordering::SeqCst);
    }

    /// Whether the store takes commits.
    #[must_use]
    pub fn store_answers(&self) -> bool {
        !self.0.store_failing.load(Ordering::SeqCst)
    }
}
