//! `demo`: the whole story on simulated servers, with the controller that `run` starts.

use std::{
    io::{self, IsTerminal as _},
    net::SocketAddr,
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
    let store = format!("sqlite:{}", place.path().join("demo.db").display());
    let file = place.path().join("trunkwarden.toml");
    std::fs::write(&file, demo.configuration(&store, SocketAddr::from(([127, 0, 0, 1], PORT))))
        .context("the demo's configuration cannot be written")?;
    let config = Config::load(Some(&file), std::iter::empty())?;
    let mut parameters = Parameters::of(&config, &clock)?;
    if TcpListener::bind(parameters.listen).await.is_err() {
        // Another demo or a controller has it; any free port will do.
        parameters.listen.set_port(0);
    }
    if parameters.hep.as_ref().is_some_and(|hep| !is_free(hep.listen)) {
        // Somebody took it meanwhile; the story can be told without.
        parameters.hep = None;
        demo.forget_feed();
    }
    let controller = Controller::start(parameters, Arc::clone(&clock)).await?;
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
