//! Asterisk's own SIP history, switched on around an attempt and off again.
//!
//! It records everything of everybody, in memory and without bound, so it is on for moments: from shortly before the next
//! attempt of a registration that fails, until that attempt has ended, and never longer than [`LONGEST`]. That it is on is
//! stored before it is switched on: a controller that crashed meanwhile switches it off when it is back.
//!
//! A history in which there is something already is a person's: then it is read, and neither switched nor cleared.

use std::{collections::BTreeSet, future::Future, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use super::hub::Key;
use crate::{
    api::{Submission, problem::chain},
    clock::{Clock, Timestamp, after},
    decision::{Input, PbxFact},
    health::state::Registration,
    ids::PbxId,
    wire::{
        ami::{
            Action, Message,
            client::{CallError, LinkHandle},
        },
        history_cli::{self, HistoryAnswer, HistoryError, HistoryFetch, HistoryMark, HistoryWanted},
        sip::Seen,
    },
};

/// The longest it is on: an unanswered attempt takes 32 s, and some seconds go before it.
pub(super) const LONGEST: Duration = Duration::from_secs(40);
/// How long before the next attempt it is switched on.
pub(super) const AHEAD: Duration = Duration::from_secs(3);
/// How long switching it on takes at most, for an attempt that is asked for.
pub(super) const SET_UP: Duration = Duration::from_secs(1);
/// How often it is read.
const POLL: Duration = Duration::from_millis(700);
/// How long switching it off may take when the controller stops.
const LAST_WORD: Duration = Duration::from_secs(2);
/// How long a registration of a known cause is left alone.
const KNOWN: Duration = Duration::from_secs(15 * 60);

/// What a collection brings.
#[derive(Debug)]
pub(super) enum Collected {
    /// Messages, in order.
    Seen(Vec<Seen>),
    /// It is over.
    Ended,
}

/// A collection under way.
#[derive(Debug)]
pub(super) struct Collecting {
    /// Since when.
    pub(super) since: Timestamp,
    /// For which registrations.
    pub(super) wanted: BTreeSet<Key>,
    stop: CancellationToken,
    over: CancellationToken,
}

/// Whom it is collected for.
pub(super) struct Purpose {
    pub(super) pbx: PbxId,
    pub(super) link: LinkHandle,
    /// `server_uri` and `client_uri` of each registration.
    pub(super) uris: Vec<(String, String)>,
    pub(super) wanted: BTreeSet<Key>,
}

impl Collecting {
    /// Starts one.
    pub(super) fn start<F: Future<Output = bool> + Send>(
        purpose: Purpose,
        clock: Arc<dyn Clock>,
        submissions: mpsc::Sender<Submission>,
        tasks: &TaskTracker,
        report: impl Fn(Collected) -> F + Send + Sync + 'static,
    ) -> Self {
        let Purpose { pbx, link, uris, wanted } = purpose;
        let (stop, over) = (CancellationToken::new(), CancellationToken::new());
        let collecting = Self { since: clock.now(), wanted, stop: stop.clone(), over: over.clone() };
        let recorder = Recorder { pbx, link, clock, submissions };
        tasks.spawn(async move {
            let ended = over.drop_guard();
            if let Err(error) = recorder.collect(&uris, &stop, &report).await {
                debug!(pbx.id = %recorder.pbx, %error, "Asterisk's SIP history cannot be read");
            }
            drop(ended);
            report(Collected::Ended).await;
        });
        collecting
    }

    /// What was wanted is there.
    pub(super) fn enough(&self) {
        self.stop.cancel();
    }

    /// The controller stops: it is switched off, if that takes no longer than a moment.
    pub(super) async fn end(self, pbx: &PbxId) {
        self.stop.cancel();
        if tokio::time::timeout(LAST_WORD, self.over.cancelled()).await.is_err() {
            warn!(pbx.id = %pbx, "Asterisk's SIP history could not be switched off in time; the next start does it");
        }
    }
}

/// Switches, reads, and switches off.
#[derive(Debug)]
struct Recorder {
    pbx: PbxId,
    link: LinkHandle,
    clock: Arc<dyn Clock>,
    submissions: mpsc::Sender<Submission>,
}

/// Why a history was not read.
#[derive(Debug, thiserror::Error)]
enum CollectError {
    #[error("{}", chain(.0))]
    Call(#[source] CallError),
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error("the command cannot be sent: {0}")]
    Command(String),
    #[error("that it is on could not be stored, so it was left off")]
    Unstored,
}

impl Recorder {
    async fn collect<F: Future<Output = bool> + Send>(
        &self,
        uris: &[(String, String)],
        stop: &CancellationToken,
        report: &(impl Fn(Collected) -> F + Send + Sync),
    ) -> Result<(), CollectError> {
        let foreign = self.is_in_use().await?;
        if !foreign {
            self.note(true).await?;
            self.switch(history_cli::ON).await?;
            info!(pbx.id = %self.pbx, "Asterisk's SIP history is on, to see why registrations fail");
        }
        // Each command may take long on a busy PBX; the bound and the stop count all the same.
        let read = tokio::select! {
            read = self.read(uris, report) => read,
            () = stop.cancelled() => Ok(()),
            () = sleep(LONGEST) => Ok(()),
        };
        if !foreign {
            switch_off(&self.link).await?;
            self.note(false).await?;
            info!(pbx.id = %self.pbx, "Asterisk's SIP history is off and cleared");
        }
        read
    }

    async fn read<F: Future<Output = bool> + Send>(
        &self,
        uris: &[(String, String)],
        report: &(impl Fn(Collected) -> F + Send + Sync),
    ) -> Result<(), CollectError> {
        let mut mark = HistoryMark::default();
        loop {
            sleep(POLL).await;
            let mut fetch = HistoryFetch::new(mark, HistoryWanted::registrations(uris.iter().cloned()));
            while let Some(command) = fetch.next_command() {
                fetch.take(&self.run(&command).await?)?;
            }
            let haul = fetch.finish();
            mark = haul.mark;
            let seen: Vec<Seen> = haul.entries.into_iter().map(history_cli::HistoryEntry::into_seen).collect();
            if !seen.is_empty() && !report(Collected::Seen(seen)).await {
                return Ok(());
            }
        }
    }

    /// Whether somebody records already.
    async fn is_in_use(&self) -> Result<bool, CollectError> {
        let first = self.run(&history_cli::entry(0)).await?;
        match history_cli::parse(&first) {
            Ok(HistoryAnswer::Entry(_)) | Err(HistoryError::Unreadable { .. } | HistoryError::Sip(_)) => Ok(true),
            Ok(HistoryAnswer::Rows(rows)) => Ok(!rows.is_empty()),
            Err(HistoryError::NoSuchEntry) => Ok(false),
            Err(error @ (HistoryError::NotLoaded | HistoryError::NotUnderstood | HistoryError::Refused(_))) => {
                Err(error.into())
            }
        }
    }

    async fn switch(&self, command: &str) -> Result<(), CollectError> {
        history_cli::parse_switch(&self.run(command).await?)?;
        Ok(())
    }

    async fn run(&self, command: &str) -> Result<Message, CollectError> {
        run(&self.link, command).await
    }

    /// Notes that it is on, or off again, and waits until that is stored.
    async fn note(&self, on: bool) -> Result<(), CollectError> {
        let (done, stored) = tokio::sync::oneshot::channel();
        let fact = PbxFact::Recording { on };
        let input = Input::Pbx { pbx: self.pbx.clone(), at: self.clock.now(), fact };
        let sent = self.submissions.send(Submission { input, done }).await;
        if sent.is_err() || !matches!(stored.await, Ok(Ok(()))) {
            return Err(CollectError::Unstored);
        }
        Ok(())
    }
}

/// Switches a history off and clears it.
async fn switch_off(link: &LinkHandle) -> Result<(), CollectError> {
    for command in [history_cli::OFF, history_cli::CLEAR] {
        history_cli::parse_switch(&run(link, command).await?)?;
    }
    Ok(())
}

/// An earlier run left it on: switches it off.
///
/// # Errors
/// Why it could not be done, in words.
pub(super) async fn clean_up(link: &LinkHandle) -> Result<(), String> {
    match switch_off(link).await {
        // Without the module there is no history.
        Ok(()) | Err(CollectError::History(HistoryError::NotLoaded)) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

async fn run(link: &LinkHandle, command: &str) -> Result<Message, CollectError> {
    let action = Action::command(command).map_err(|error| CollectError::Command(error.to_string()))?;
    match link.call(&action).await {
        Ok(reply) => Ok(reply.response),
        Err(CallError::Refused(answer)) => Ok(*answer),
        Err(error) => Err(CollectError::Call(error)),
    }
}

/// When a registration's next attempt is due, as far as that is known.
pub(super) fn next_attempt(one: &Registration) -> Option<Timestamp> {
    let retry = one.parameters.retry_interval;
    let by_interval = one.last_event_at.filter(|_| !retry.is_zero()).map(|last| after(last, retry));
    one.next_attempt_at.or(by_interval)
}

/// How long a registration is left alone after a collection for it: longer each time nothing was learned.
pub(super) fn pause(fruitless: u32, known: bool) -> Duration {
    if known {
        return KNOWN;
    }
    Duration::from_secs(5).saturating_mul(1 << fruitless.min(8)).min(KNOWN)
}
