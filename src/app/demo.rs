//! `demo`: the whole story on simulated servers, with the controller that `run` starts.

use std::{
    io::{self, IsTerminal as _},
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Controller, Parameters, run::StopSignals};
use crate::{
    clock::{Clock, SystemClock},
    config::Config,
    sim::{
        demo::{Demo, Seen},
        narrate::Style,
    },
};

/// Where the API listens, if nothing else does.
const PORT: u16 = 8480;
/// How long the simulated PBX may take to be listed; it takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// Decisions that may wait to be printed.
const LINES: usize = 1024;

/// Tells the story in `lasting`.
///
/// # Errors
/// Something cannot be started, or standard output is closed.
pub async fn demo(lasting: Duration) -> Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut stop_signals = StopSignals::new()?;
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let mut demo = Demo::start(lasting, &tracker, stop.clone()).await.context("the simulated servers cannot start")?;
    let place = tempfile::tempdir().context("no temporary directory can be made")?;
    let controller = controller_of(&mut demo, place.path(), &clock).await?;
    let (lines, seen) = mpsc::channel(LINES);
    tracker.spawn(forward(controller.committed(), lines, stop.clone()));
    listed(&controller).await?;

    let interrupted = CancellationToken::new();
    let api = format!("http://{}/api/v1/trunks", controller.address);
    let story = async {
        let terminal = io::stdout().is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
        let style = Style { colour, signs: terminal };
        demo.run(seen, &api, style, &*clock, &mut io::stdout(), &interrupted).await
    };
    // Who stops it early gets the account so far.
    let mut story = std::pin::pin!(story);
    let told = tokio::select! {
        told = &mut story => told.map(|_| ()),
        () = stop_signals.recv() => {
            interrupted.cancel();
            story.await.map(|_| ())
        }
    };
    controller.stop().await;
    stop.cancel();
    tracker.close();
    tracker.wait().await;
    // Who closes the pipe has seen enough.
    match told {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("the story could not be printed"),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The controller that `run` would start with the demo's configuration, its store in `place`.
async fn controller_of(demo: &mut Demo, place: &Path, clock: &Arc<dyn Clock>) -> Result<Controller> {
    let store = format!("sqlite:{}", place.join("demo.db").display());
    let file = place.join("trunkwarden.toml");
    std::fs::write(&file, demo.configuration(&store, SocketAddr::from(([127, 0, 0, 1], PORT))))
        .context("the demo's configuration cannot be written")?;
    let config = Config::load(Some(&file), std::iter::empty())?;
    let mut parameters = Parameters::of(&config, clock)?;
    if TcpListener::bind(parameters.listen).await.is_err() {
        // Another demo or a controller has it; any free port will do.
        parameters.listen.set_port(0);
    }
    if parameters.hep.as_ref().is_some_and(|hep| !is_free(hep.listen)) {
        // Somebody took it meanwhile; the story can be told without.
        parameters.hep = None;
        demo.forget_feed();
    }
    Controller::start(parameters, Arc::clone(clock)).await
}

/// Whether HEP can be listened for there.
fn is_free(address: SocketAddr) -> bool {
    std::net::UdpSocket::bind(address).is_ok() && std::net::TcpListener::bind(address).is_ok()
}

/// Hands committed decisions to the narrator. When it is too slow some are left out, which a demo can bear.
async fn forward(
    mut committed: tokio::sync::broadcast::Receiver<Arc<crate::decision::Outcome>>,
    lines: mpsc::Sender<Seen>,
    stop: CancellationToken,
) {
    use tokio::sync::broadcast::error::RecvError;
    loop {
        let outcome = tokio::select! {
            () = stop.cancelled() => return,
            outcome = committed.recv() => match outcome {
                Ok(outcome) => outcome,
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            },
        };
        for seen in Seen::of(&outcome) {
            if lines.send(seen).await.is_err() {
                return;
            }
        }
    }
}

async fn listed(controller: &Controller) -> Result<()> {
    for (pbx, mut status) in controller.pbx_statuses().await {
        let wait = tokio::time::timeout(PATIENCE, status.wait_for(|status| status.listed));
        if wait.await.is_err() {
            bail!("{pbx} was not listed within {PATIENCE:?}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        decision::EntryKind,
        ids::TrunkId,
        sim::{Behaviour, demo::PBX, story::SHORTEST},
        store::history::{HistoryQuery, Order},
    };

    /// The causes in a trunk's history, oldest first.
    async fn causes(controller: &Controller, trunk: &str) -> Vec<String> {
        let query = HistoryQuery {
            trunk: TrunkId::try_from(format!("{PBX}/{trunk}").as_str()).unwrap(),
            since: None,
            until: None,
            kinds: vec![EntryKind::Diagnosis],
            order: Order::OldestFirst,
            limit: 100,
            after: None,
        };
        controller.store.history(&query).await.unwrap().items.into_iter().map(|entry| entry.to).collect()
    }

    #[tokio::test]
    async fn every_failure_of_the_story_is_stored_with_its_cause() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let mut demo = Demo::start(SHORTEST, &tracker, stop.clone()).await.unwrap();
        let place = tempfile::tempdir().unwrap();
        let controller = controller_of(&mut demo, place.path(), &clock).await.unwrap();
        listed(&controller).await.unwrap();
        let overloaded = Behaviour::Reject { code: 503, retry_after: Some(Duration::from_secs(1)) };
        let failures = [
            ("north", Behaviour::reject(403), "account_forbidden"),
            ("south", overloaded, "provider_unavailable"),
            ("west", Behaviour::Silent, "no_response"),
        ];
        for (trunk, behaviour, _) in failures {
            demo.pbx().set_behaviour(trunk, behaviour);
            demo.pbx().attempt_now(trunk);
        }
        let told = tokio::time::timeout(PATIENCE, async {
            for (trunk, _, cause) in failures {
                while causes(&controller, trunk).await.last().is_none_or(|last| last != cause) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        });
        let told = told.await;
        for (trunk, _, cause) in failures {
            let causes = causes(&controller, trunk).await;
            // What is late may be said to be late until it is known to be unanswered.
            let others = causes.iter().filter(|other| *other != cause && *other != "refresh_overdue").count();
            assert_eq!((causes.last().map(String::as_str), others), (Some(cause), 0), "{trunk}: {causes:?}, {told:?}");
        }
        // What was held for them says so.
        let reasons: Vec<String> = {
            let board = controller.board.read().unwrap();
            board.trunks().filter_map(|(_, record)| Some(record.hold()?.reason.clone())).collect()
        };
        for (trunk, _, cause) in failures {
            assert!(reasons.iter().any(|why| why.starts_with(trunk) && why.contains(cause)), "{trunk}: {reasons:?}");
        }
        controller.stop().await;
        stop.cancel();
        tracker.close();
        tracker.wait().await;
    }

    #[tokio::test]
    async fn without_its_port_the_feed_is_left_out_and_the_rest_runs() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let mut demo = Demo::start(SHORTEST, &tracker, stop.clone()).await.unwrap();
        let taken = std::net::UdpSocket::bind(demo.hep().unwrap()).unwrap();
        let place = tempfile::tempdir().unwrap();
        let controller = controller_of(&mut demo, place.path(), &clock).await.unwrap();
        assert_eq!(demo.hep(), None);
        listed(&controller).await.unwrap();
        controller.stop().await;
        drop(taken);
        stop.cancel();
        tracker.close();
        tracker.wait().await;
    }
}
