//! The `trunkwarden` program: parses the command line, runs it, and turns its end into an exit code.

use std::process::ExitCode;

use clap::Parser as _;
use trunkwarden::cli::{Cli, FAILED};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("trunkwarden: the runtime could not be started: {error}");
            return ExitCode::from(FAILED);
        }
    };
    match runtime.block_on(cli.run()) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            // The whole chain, once; each link says only its own part.
            eprintln!("trunkwarden: {:#}", failure.error);
            ExitCode::from(failure.code)
        }
    }
}
