//! The commands that work on this machine: they start the controller, read its configuration, or need nothing at all.

use std::{
    fmt::Write as _,
    io::{BufRead as _, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use serde_json::json;

use super::{CONFIGURATION, FAILED, Failure, OK, print, table::harmless};
use crate::{
    api::{Role, auth},
    app::{self, check::Level, check_gateway::Outside, replay::Replay, run::environment},
    clock::{Clock, SystemClock},
    config::Config,
    store::{self, JournalRow},
    telemetry::{self, LogSettings},
};

/// How long the demo takes when nobody says.
const DEMO: Duration = Duration::from_secs(40);
/// How a SQLite file begins.
const SQLITE: [u8; 16] = *b"SQLite format 3\0";
/// Journal rows read at once.
const JOURNAL_PAGE: u32 = 1000;
/// The longest line of a journal that is read, in bytes: the board of some ten thousand trunks.
const LONGEST_ROW: u64 = 256 * 1024 * 1024;

/// The configuration, or why it cannot be used: exit code 64, before any port or store is opened.
fn load(file: Option<&Path>) -> Result<Config, Failure> {
    Config::load(file, environment()).map_err(|error| Failure::new(CONFIGURATION, error))
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

/// `run`: until a signal stops it.
pub(super) async fn run(file: Option<&Path>) -> Result<u8, Failure> {
    let config = load(file)?;
    let log = config.log.clone().with_variables(environment());
    let _last_entries = telemetry::init(&log.map_err(|error| Failure::new(CONFIGURATION, error))?)?;
    app::run::run(config, file).await?;
    Ok(OK)
}

/// `demo`: the whole story, in so long.
pub(super) async fn demo(lasting: Option<Duration>) -> Result<u8, Failure> {
    // The story is told on standard output, broken network and all; the log would tell it twice.
    let log = LogSettings { filter: "error".to_owned(), ..LogSettings::default() };
    let _last_entries = telemetry::init(&log.with_variables(environment())?)?;
    app::demo::demo(lasting.unwrap_or(DEMO)).await?;
    Ok(OK)
}

/// `check`: the configuration, the links, and what is missing on the other side.
///
/// With `outside` the gateway is looked at from outside instead; then a warning is a failure too, since it is by warnings
/// that one goes around it.
pub(super) async fn check(file: Option<&Path>, outside: Option<&Outside>, json: bool) -> Result<u8, Failure> {
    let config = load(file)?;
    let checks = match outside {
        Some(asked) => app::check_gateway::outside(&config, asked).await,
        None => app::check::check(&config, &clock()).await,
    };
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&checks)?))?;
    } else {
        print("ok       configuration  every key is known and fits\n")?;
        for check in &checks {
            print(&format!("{:<8} {:<14} {}\n", check.level, check.of, harmless(&check.found)))?;
            for line in check.fix.lines() {
                print(&format!("{:24}{}\n", "", harmless(line)))?;
            }
        }
    }
    let most = if outside.is_some() { Level::Note } else { Level::Warning };
    let bad = checks.iter().any(|check| check.level > most);
    Ok(if bad { FAILED } else { OK })
}

/// `config`: what is in force, masked.
pub(super) fn config(file: Option<&Path>, json: bool) -> Result<u8, Failure> {
    let text = load(file)?.render_masked();
    if json {
        let tree: toml::Value = toml::from_str(&text)?;
        print(&format!("{}\n", serde_json::to_string_pretty(&tree)?))?;
    } else {
        print(&text)?;
    }
    Ok(OK)
}

/// `migrate`: the store's schema.
pub(super) async fn migrate(file: Option<&Path>) -> Result<u8, Failure> {
    let config = load(file)?;
    let migrated = store::migrate(&config.store.url).await?;
    let before = migrated.from.map_or_else(|| "nothing".to_owned(), |version| format!("version {version}"));
    if migrated.from == Some(migrated.to) {
        print(&format!("the store's schema is up to date: version {}\n", migrated.to))?;
    } else {
        print(&format!("the store's schema was brought from {before} to version {}\n", migrated.to))?;
    }
    Ok(OK)
}

/// `replay`: a journal, decided again. The journal is a store's file, or lines of JSON.
pub(super) async fn replay(file: &Path, json: bool) -> Result<u8, Failure> {
    let mut replay = Replay::default();
    let head = read_head(file).with_context(|| format!("{} cannot be read", file.display()))?;
    if head == SQLITE {
        // Looking at a journal must not change it: what is replayed is a copy.
        let place = tempfile::tempdir()?;
        let copy = place.path().join("journal.db");
        for suffix in ["", "-wal"] {
            let from = PathBuf::from(format!("{}{suffix}", file.display()));
            if from.exists() {
                std::fs::copy(&from, format!("{}{suffix}", copy.display()))
                    .with_context(|| format!("{} cannot be copied", from.display()))?;
            }
        }
        let store = store::open(&format!("sqlite:{}", copy.display())).await?;
        let mut after = 0;
        loop {
            let rows = store.journal(after, JOURNAL_PAGE).await?;
            let Some(last) = rows.last() else { break };
            after = last.seq;
            for row in &rows {
                told(&mut replay, row, json)?;
            }
        }
        store.close().await;
    } else {
        let mut rows = std::io::BufReader::new(std::fs::File::open(file)?);
        let mut line = Vec::new();
        for number in 1_u64.. {
            let named = || format!("line {number} of {} is no journal row", file.display());
            line.clear();
            let read = (&mut rows).take(LONGEST_ROW + 1).read_until(b'\n', &mut line).with_context(named)?;
            if read == 0 {
                break;
            }
            if u64::try_from(read).is_ok_and(|read| read > LONGEST_ROW) {
                return Err(anyhow::anyhow!("{}: it is longer than {LONGEST_ROW} bytes", named()).into());
            }
            if !line.trim_ascii().is_empty() {
                let row: JournalRow = serde_json::from_slice(&line).with_context(named)?;
                told(&mut replay, &row, json)?;
            }
        }
    }
    replay.end();
    let differences = replay.differences.len();
    for difference in &replay.differences {
        print(&format!("DIFFERENT  {}\n", harmless(&difference.to_string())))?;
    }
    if !json {
        print(&format!(
            "{} inputs of {} runs replayed, {differences} decisions came out differently{}\n",
            replay.inputs,
            replay.starts,
            if replay.skipped > 0 {
                format!("; {} rows before the first start were skipped", replay.skipped)
            } else {
                String::new()
            },
        ))?;
    }
    if replay.starts == 0 {
        return Err(anyhow::anyhow!("{} has no start row, so there is nothing to replay from", file.display()).into());
    }
    Ok(if differences == 0 { OK } else { FAILED })
}

fn told(replay: &mut Replay, row: &JournalRow, json: bool) -> Result<(), Failure> {
    for event in replay.row(row)? {
        if json {
            print(&format!("{}\n", serde_json::to_string(&event)?))?;
        } else {
            print(&format!("{:.3}  {:<16} {}\n", event.at, event.kind, harmless(&event.data.to_string())))?;
        }
    }
    Ok(())
}

fn read_head(file: &Path) -> std::io::Result<[u8; 16]> {
    let mut head = [0; 16];
    let mut file = std::fs::File::open(file)?;
    let mut filled = 0;
    while filled < head.len() {
        match file.read(&mut head[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(head)
}

/// `token new`: 256 random bits, and the lines that let them in.
pub(super) fn token_new(name: &str, role: Role, json: bool) -> Result<u8, Failure> {
    let token = format!("tw_{}", hex(&rand::random::<[u8; 32]>()));
    let sha256 = hex(&auth::hash(&token));
    if json {
        print(&format!("{}\n", json!({ "name": name, "role": role, "token": token, "sha256": sha256 })))?;
        return Ok(OK);
    }
    print(&format!(
        "token   {token}\n\
         sha256  {sha256}\n\
         \n\
         Keep the token: it is not shown again. Give it to commands in TRUNKWARDEN_TOKEN, to programs as\n\
         `Authorization: Bearer …`. Only its hash goes into trunkwarden.toml:\n\
         \n\
         [[api.token]]\n\
         name = \"{name}\"\n\
         role = \"{role}\"\n\
         sha256 = \"{sha256}\"\n"
    ))?;
    Ok(OK)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
