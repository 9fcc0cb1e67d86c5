//! The commands.
//!
//! Most ask a running controller by its API and show the answer (`client`, `show`, `act`); `--json` prints what
//! the API said. A few work on this machine's files and start things (`local`). No command decides anything itself.
//!
//! Exit codes: 0 well, 1 failed (of `gate`: hold), 2 cannot tell (and a mistyped command line), 64 configuration, and
//! commands of a later version, 65 and 66 files that are not what they should be, or cannot be read.

mod act;
mod client;
mod diagnose;
mod ladder;
mod local;
mod offline;
mod show;
mod table;

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    api::Role,
    app::check_gateway::Outside,
    clock::{Clock as _, SystemClock},
    ids::{PbxId, TrunkId},
};
use client::Client;
use table::Style;

/// All is well; of `gate`: allow.
pub const OK: u8 = 0;
/// It failed; of `gate`: hold.
pub const FAILED: u8 = 1;
/// Of `gate`: cannot tell.
pub const CANNOT_TELL: u8 = 2;
/// The configuration is wrong, or the command is one of a later version.
pub const CONFIGURATION: u8 = 64;

/// Of `diagnose`: the file is not what it is said to be (`EX_DATAERR` of sysexits).
pub const BAD_DATA: u8 = 65;
/// Of `diagnose`: the file cannot be read (`EX_NOINPUT`).
pub const NO_INPUT: u8 = 66;

/// Why a command ended badly, and with which exit code.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// What to print.
    pub error: anyhow::Error,
}

impl Failure {
    /// A failure with its own exit code.
    pub fn new(code: u8, error: impl Into<anyhow::Error>) -> Self {
        Self { code, error: error.into() }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(FAILED, error)
    }
}

/// What `--help` ends with.
const AFTER_HELP: &str = "Begin with `trunkwarden demo`; on your own Asterisk, with `trunkwarden check`.\n\
    Exit codes: 0 well, 1 failed (of gate: hold), 2 cannot tell, or a mistyped command line, 64 configuration,\n\
    65 and 66 (of diagnose) a file that is no capture or log, or cannot be read.";

/// Watches the SIP trunks of Asterisk, and holds dialer campaigns while a trunk is not stable.
#[derive(Debug, Parser)]
#[command(name = "trunkwarden", version, propagate_version = true, max_term_width = 120, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
struct Common {
    /// The controller's API; its token comes from TRUNKWARDEN_TOKEN
    #[arg(long, global = true, env = "TRUNKWARDEN_API", value_name = "URL", default_value = "http://127.0.0.1:8480")]
    api: String,
    /// Print what the API answered instead of a table
    #[arg(long, global = true)]
    json: bool,
    /// Show times in UTC instead of local time
    #[arg(long, global = true)]
    utc: bool,
}

/// Where the configuration is.
#[derive(Debug, Clone, Args)]
struct ConfigFile {
    /// The configuration file [default: trunkwarden.toml here, else /etc/trunkwarden/trunkwarden.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What is checked.
#[derive(Debug, Args)]
struct Checked {
    #[command(flatten)]
    file: ConfigFile,
    /// The AMI gateway from outside: does its path work, and can one go around it? To be run on the dialer's machine
    #[arg(long)]
    gateway: bool,
    /// As this [[gateway.user]] only
    #[arg(long = "as", value_name = "NAME", requires = "gateway")]
    user: Option<String>,
    /// Where the gateway is, seen from here [default: where [gateway] listens]
    #[arg(long, value_name = "HOST:PORT", requires = "gateway")]
    gateway_address: Option<String>,
    /// It is reached by TLS at --gateway-address
    #[arg(long, requires = "gateway_address")]
    tls: bool,
    /// The CA to trust there instead of the system's, a PEM file
    #[arg(long, value_name = "FILE", requires = "gateway")]
    ca_file: Option<PathBuf>,
    /// Where Asterisk's own AMI is, seen from here [default: [pbx.ami] address]
    #[arg(long, value_name = "HOST[:PORT]", requires = "gateway")]
    pbx_address: Option<String>,
}

/// The commands.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the controller
    Run(ConfigFile),
    /// Show the whole story on simulated servers: nothing needs to be installed
    Demo {
        /// How long, at least 20s
        #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
        lasting: Option<Duration>,
    },
    /// Check the configuration, connect, and say what is missing and how to add it
    Check(Checked),
    /// List the trunks
    Trunks {
        /// Only those of this PBX
        #[arg(long)]
        pbx: Option<PbxId>,
        /// Only those of this health: stable, suspect, unstable, down, unknown
        #[arg(long)]
        health: Option<String>,
    },
    /// Show what happened to a trunk
    History {
        /// The trunk, as pbx/trunk
        trunk: TrunkId,
        /// From when: 24h, 7d, or a date and time
        #[arg(long, default_value = "24h")]
        since: String,
        /// Until when
        #[arg(long)]
        until: Option<String>,
        /// Only these kinds, comma-separated: registration, contact, health, diagnosis, hold, gate, call_window, pbx
        #[arg(long)]
        kind: Option<String>,
        /// How many entries at most
        #[arg(long, default_value_t = 10_000)]
        limit: usize,
        /// How to print it
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Show how much of the time a trunk was registered
    Availability {
        /// The trunk, as pbx/trunk
        trunk: TrunkId,
        /// From when: 24h, 7d, or a date and time
        #[arg(long, default_value = "30d")]
        since: String,
        /// Until when
        #[arg(long)]
        until: Option<String>,
    },
    /// Hold trunks: nothing is dialed on them, campaigns on them are paused
    Hold(Target),
    /// Release held trunks; a hold of the policy is overridden for 15m, or as long as --for says
    Release(Target),
    /// May I dial on this trunk now? Exit code 0: yes, 1: no, 2: cannot tell
    Gate {
        /// The trunk, as pbx/trunk
        #[arg(required_unless_present = "channel", conflicts_with_all = ["pbx", "channel"])]
        trunk: Option<TrunkId>,
        /// The PBX of --channel
        #[arg(long, requires = "channel")]
        pbx: Option<PbxId>,
        /// A channel to be dialed, like PJSIP/100@airtel
        #[arg(long, requires = "pbx")]
        channel: Option<String>,
        /// The campaign that asks
        #[arg(long)]
        campaign: Option<String>,
    },
    /// List the active holds
    Holds {
        /// The ended ones too
        #[arg(long)]
        all: bool,
    },
    /// List the campaigns
    Campaigns,
    /// List what is sent to dialers and people
    Outbox {
        /// Only those in this state: pending, delivered, abandoned
        #[arg(long)]
        state: Option<String>,
    },
    /// Print the configuration in force, without secrets
    Config(ConfigFile),
    /// Make tokens for the API
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Bring the store's schema up to date
    Migrate(ConfigFile),
    /// Decide a stored journal again, and compare
    Replay {
        /// The journal
        file: PathBuf,
    },
    /// Say why a trunk's registration fails, what proves it and what mends it; also of a capture or a log file
    Diagnose(diagnose::Asked),
    /// Follow what happens (a later version)
    Events(Later),
    /// Write a first configuration (a later version)
    Init(Later),
}

/// The arguments of a command that a later version brings.
#[derive(Debug, Args)]
struct Later {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<String>,
}

/// Which trunks are to be held or released, why and for how long.
#[derive(Debug, Args)]
struct Target {
    /// pbx/trunk, or pbx/* for all of a PBX
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    trunk: Vec<String>,
    /// All trunks of all PBXs
    #[arg(long)]
    all: bool,
    /// Why; it is shown wherever the hold is
    #[arg(long)]
    reason: String,
    /// For how long: 30m, 2h
    #[arg(long = "for", value_name = "DURATION")]
    lasting: Option<String>,
}

/// How history is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// For programs
    Json,
    /// For spreadsheets
    Csv,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token: prints it once, its hash, and the lines for the configuration
    New {
        /// Its name, which stands in the holds it makes
        #[arg(long, default_value = "ops", value_parser = token_name)]
        name: String,
        /// What it may: viewer, operator, admin, gate
        #[arg(long, default_value = "operator", value_parser = role)]
        role: Role,
    },
}

fn role(text: &str) -> Result<Role, String> {
    let known = || Role::ALL.map(Role::as_str).join(", ");
    Role::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| format!("use {}", known()))
}

fn token_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > 64 || !text.chars().all(plain) {
        return Err("use up to 64 letters, digits, `-`, `_` and `.`".to_owned());
    }
    Ok(text.to_owned())
}

impl Cli {
    /// Runs the command and gives its exit code.
    ///
    /// # Errors
    /// [`Failure`], with the exit code and what to print.
    pub async fn run(self) -> Result<u8, Failure> {
        let Self { common, command } = self;
        let now = SystemClock.now();
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let style = Style::new(common.utc, colour, now);
        let client = || Client::new(&common.api);
        match command {
            Command::Run(file) => local::run(file.config.as_deref()).await,
            Command::Demo { lasting } => local::demo(lasting).await,
            Command::Check(asked) => {
                let outside = asked.gateway.then_some(Outside {
                    user: asked.user,
                    gateway: asked.gateway_address,
                    tls: asked.tls,
                    ca_file: asked.ca_file,
                    pbx: asked.pbx_address,
                });
                local::check(asked.file.config.as_deref(), outside.as_ref(), common.json).await
            }
            Command::Config(file) => local::config(file.config.as_deref(), common.json),
            Command::Migrate(file) => local::migrate(file.config.as_deref()).await,
            Command::Replay { file } => local::replay(&file, common.json).await,
            Command::Token { command: TokenCommand::New { name, role } } => local::token_new(&name, role, common.json),
            Command::Trunks { pbx, health } => show::trunks(&client()?, &common, &style, pbx, health).await,
            Command::History { trunk, since, until, kind, limit, format } => {
                let format = if common.json { Format::Json } else { format };
                let asked = show::HistoryAsked { trunk, since, until, kind, limit, format };
                show::history(&client()?, &style, asked).await
            }
            Command::Availability { trunk, since, until } => {
                show::availability(&client()?, &common, &style, &trunk, &since, until.as_deref()).await
            }
            Command::Hold(target) => act::hold(&client()?, &common, &style, target).await,
            Command::Release(target) => act::release(&client()?, &common, &style, target).await,
            Command::Gate { trunk, pbx, channel, campaign } => {
                let asked = show::GateAsked { trunk, pbx, channel, campaign };
                // Whoever asks must be able to tell "no" from "nobody answered".
                let answer = async { show::gate(&client()?, &common, &style, asked).await };
                answer.await.map_err(|failure| Failure { code: CANNOT_TELL, ..failure })
            }
            Command::Holds { all } => show::holds(&client()?, &common, &style, all).await,
            Command::Campaigns => show::campaigns(&client()?, &common, &style).await,
            Command::Outbox { state } => show::outbox(&client()?, &common, &style, state).await,
            Command::Diagnose(asked) => diagnose::diagnose(&common, &style, asked).await,
            Command::Events(_) => Err(not_yet("events")),
            Command::Init(_) => Err(not_yet("init")),
        }
    }
}

fn not_yet(command: &str) -> Failure {
    Failure::new(CONFIGURATION, anyhow::anyhow!("not yet: `{command}` comes with a later version"))
}

/// Lines with the control characters in them written out: other people's words must not steer a terminal.
#[must_use]
pub fn harmless_lines(text: &str) -> String {
    text.split('\n').map(table::harmless).collect::<Vec<_>>().join("\n")
}

/// Prints to standard output. A reader that has seen enough (`| head`) is no failure.
///
/// # Errors
/// Whatever else the output says, such as a full disk.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_hold_needs_a_target_and_a_reason() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map(|_| ());
        assert!(parse("trunkwarden hold pbx1/airtel --reason works").is_ok());
        assert!(parse("trunkwarden hold pbx1/* pbx2/* --reason works --for 1h").is_ok());
        assert!(parse("trunkwarden hold --all --reason works").is_ok());
        assert!(parse("trunkwarden hold --reason works").is_err());
        assert!(parse("trunkwarden hold pbx1/airtel").is_err());
        assert!(parse("trunkwarden hold pbx1/airtel --all --reason works").is_err());
        assert!(parse("trunkwarden gate").is_err());
        assert!(parse("trunkwarden gate --pbx pbx1 --channel PJSIP/1@airtel").is_ok());
        assert!(parse("trunkwarden gate --channel PJSIP/1@airtel").is_err());
        assert!(parse("trunkwarden gate airtel").is_err());
        assert!(parse("trunkwarden diagnose --pcap x.pcap --pjsip-conf y").is_ok());
    }
}
