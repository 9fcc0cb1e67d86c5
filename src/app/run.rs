//! `run`: a controller until a signal stops it, which reads its configuration again on SIGHUP.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use super::{Controller, Parameters};
use crate::{
    api::problem::chain,
    clock::{Clock, SteadyClock, SystemClock},
    config::Config,
};

/// Runs `config`'s controller until SIGTERM or SIGINT. On SIGHUP the configuration at `file` is read again; a wrong one
/// changes nothing.
///
/// # Errors
/// It cannot be started.
pub async fn run(config: Config, file: Option<&Path>) -> Result<()> {
    let mut stop = StopSignals::new()?;
    let mut hang_up = signal(SignalKind::hangup()).context("SIGHUP cannot be listened for")?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let steady: Arc<dyn Clock> = Arc::new(SteadyClock::default());
    // Starting waits for the store, and reading again for files and the store: neither may keep a signal waiting.
    let controller = tokio::select! {
        started = Controller::start(Parameters::of(&config, &clock)?, steady) => started?,
        () = stop.recv() => {
            info!("stopped before everything had started");
            return Ok(());
        }
    };
    let mut config = config;
    loop {
        tokio::select! {
            () = stop.recv() => break,
            _ = hang_up.recv() => tokio::select! {
                () = stop.recv() => break,
                read = read_again(&config, file, &clock, &controller) => match read {
                    Ok(read) => config = read,
                    Err(error) => {
                        error!(error = %chain(&*error), "the configuration was not taken; the old one stays in force");
                    }
                },
            },
        }
    }
    controller.stop().await;
    Ok(())
}

/// The signals that end it.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("SIGTERM cannot be listened for")?,
            interrupt: signal(SignalKind::interrupt()).context("SIGINT cannot be listened for")?,
        })
    }

    /// Waits for one of them. Cancel safe: a signal that was not seen is seen the next time.
    pub(super) async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The process's environment, without what is not text: no key of ours is.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

async fn read_again(
    before: &Config,
    file: Option<&Path>,
    clock: &Arc<dyn Clock>,
    controller: &Controller,
) -> Result<Config> {
    // The file may be a pipe, or lie on a disk that does not answer.
    let path = file.map(Path::to_owned);
    let reading = tokio::task::spawn_blocking(move || Config::load(path.as_deref(), environment()));
    let config = reading.await.context("the configuration could not be read")??;
    for key in Config::restart_needed(before, &config) {
        warn!(key, "changed in the configuration, but takes effect only after a restart");
    }
    controller.reconfigure(Parameters::of(&config, clock)?).await?;
    info!("the configuration was read again");
    Ok(config)
}
