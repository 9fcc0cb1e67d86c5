//! `run`: a controller until a signal stops it, which reads its configuration again on SIGHUP.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use super::{Controller, Parameters, steps::chain};
use crate::{
    clock::{Clock, SystemClock},
    config::Config,
};

/// Runs `config`'s controller until SIGTERM or SIGINT. On SIGHUP the configuration at `file` is read again; a wrong one
/// changes nothing.
///
/// # Errors
/// It cannot be started.
pub async fn run(config: Config, file: Option<&Path>) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be listened for")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be listened for")?;
    let mut hang_up = signal(SignalKind::hangup()).context("SIGHUP cannot be listened for")?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let controller = Controller::start(Parameters::of(&config, &clock)?, Arc::clone(&clock)).await?;
    let mut config = config;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => match read_again(&config, file, &clock, &controller).await {
                Ok(read) => config = read,
                Err(error) => error!(error = %chain(&*error), "the configuration was not taken; the old one stays in force"),
            },
        }
    }
    controller.stop().await;
    Ok(())
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
    let config = Config::load(file, environment())?;
    for key in Config::restart_needed(before, &config) {
        warn!(key, "changed in the configuration, but takes effect only after a restart");
    }
    controller.reconfigure(Parameters::of(&config, clock)?).await?;
    info!("the configuration was read again");
    Ok(config)
}
