//! The `trunkwarden` program: parses the command line, runs it, and turns its end into an exit code.

use std::{fmt, io::Write as _, process::ExitCode, time::Duration};

use clap::Parser as _;
use trunkwarden::cli::{Cli, FAILED, harmless_lines};

/// How long tasks that are left behind at the end may take.
const LEFT_BEHIND: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(format_args!("the runtime could not be started: {error}"));
            return ExitCode::from(FAILED);
        }
    };
    let ended = runtime.block_on(cli.run());
    // What is left behind (a file read from a pipe that nobody writes) must not keep the program from ending.
    runtime.shutdown_timeout(LEFT_BEHIND);
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            // The whole chain, once; each link says only its own part.
            say(format_args!("{:#}", failure.error));
            ExitCode::from(failure.code)
        }
    }
}

/// Says why, where anybody can read it: `eprintln!` would panic, and hide the exit code, where nobody can.
/// It may repeat other people's words, which must not steer the terminal.
fn say(why: fmt::Arguments<'_>) {
    let _unread = writeln!(std::io::stderr(), "trunkwarden: {}", harmless_lines(&why.to_string()));
}
