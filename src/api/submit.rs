//! How a request reaches the one loop that decides.

use std::time::Duration;

use tokio::sync::{mpsc::error::TrySendError, oneshot};

use super::{ApiState, Code, Phase, Problem};
use crate::{decision::Input, store::StoreError};

/// How long the loop may take to step and commit before the request is answered without it.
const PATIENCE: Duration = Duration::from_secs(10);

/// An input for the deciding loop, and where its result is awaited.
///
/// The loop steps the board by it, commits the outcome, and only then answers. It must not mind that nobody listens any
/// more: the input is decided all the same.
#[derive(Debug)]
pub struct Submission {
    /// What is to be decided.
    pub input: Input,
    /// Where the result goes.
    pub done: oneshot::Sender<Result<(), SubmitError>>,
}

/// Why an input was not committed.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The controller is stopping; the input was not taken.
    #[error("the controller is stopping")]
    Stopping,
    /// The input was decided, but could not be stored.
    #[error("the decision could not be stored")]
    Store(#[source] StoreError),
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Stopping => Self::new(Code::Stopping, "the controller is stopping; nothing was done"),
            SubmitError::Store(_) => Self::caused_by(
                Code::StoreUnavailable,
                "it was decided, but could not be stored; look with GET before doing it again",
                error,
            ),
        }
    }
}

/// Hands `input` to the deciding loop and waits until it is committed.
///
/// # Errors
/// A [`Problem`]: `busy` and `stopping` say that nothing was done, `timed_out` that nobody knows.
pub(super) async fn submit(state: &ApiState, input: Input) -> Result<(), Problem> {
    if state.ready.phase() == Phase::Stopping {
        return Err(SubmitError::Stopping.into());
    }
    let (done, result) = oneshot::channel();
    state.submissions.try_send(Submission { input, done }).map_err(|error| match error {
        TrySendError::Full(_) => {
            Problem::new(Code::Busy, "too much is waiting to be decided; nothing was done, try again")
        }
        TrySendError::Closed(_) => SubmitError::Stopping.into(),
    })?;
    match tokio::time::timeout(PATIENCE, result).await {
        Ok(Ok(result)) => Ok(result?),
        Ok(Err(_)) => Err(Problem::new(
            Code::TimedOut,
            "the controller stopped before it answered; look with GET whether it was done",
        )),
        Err(_) => Err(Problem::new(Code::TimedOut, "no answer in time; look with GET whether it was done")),
    }
}
