//! Tracing: how the log is written. What is counted: [`metrics`].
//!
//! It goes to standard error, as text or as a JSON object a line; standard output is the commands' own. The filter and
//! the format come from the configuration, and from `TRUNKWARDEN_LOG` and `TRUNKWARDEN_LOG_FORMAT`, which win: they can
//! be set where the configuration cannot be read, and apply to commands that have none.
//!
//! The log carries other people's words: a PBX's refusal, a provider's cause, a name somebody chose. What of them would
//! steer a terminal or begin a line of its own is written out (`Tame`). And a log that cannot be written (a full disk,
//! a pipe whose reader has gone) or is not read (a stalled one) must neither end nor stall a controller that holds
//! campaigns: what does not fit is lost.

pub mod metrics;

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tracing::Subscriber;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter, util::SubscriberInitExt};

/// The variable with the filter.
pub const FILTER_VARIABLE: &str = "TRUNKWARDEN_LOG";
/// The variable with the format.
pub const FORMAT_VARIABLE: &str = "TRUNKWARDEN_LOG_FORMAT";

/// Why the log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("{name}: {filter:?} is no log filter: use a level like \"info\", or \"info,trunkwarden::wire=debug\"")]
    Filter {
        /// Where it is from: the variable's or the key's name.
        name: &'static str,
        /// As given.
        filter: String,
    },
    /// There is no such format.
    #[error("{FORMAT_VARIABLE}: {format:?} is no log format: use text or json")]
    Format {
        /// As given.
        format: String,
    },
    /// The system has no thread to give for writing it.
    #[error("the log's thread could not be started")]
    Thread(#[source] io::Error),
    /// Something else already writes a log.
    #[error("the log is set up already")]
    AlreadySet(#[from] tracing_subscriber::util::TryInitError),
}

/// How an entry of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// A JSON object on a line, for machines.
    Json,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// A level, or a filter of several: the grammar of `tracing_subscriber::EnvFilter`.
    pub filter: String,
    /// Text or JSON.
    pub format: LogFormat,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Text }
    }
}

impl LogSettings {
    /// These settings, with what the environment says laid over them. Empty variables are as if not set.
    ///
    /// # Errors
    /// [`TelemetryError::Filter`] and [`TelemetryError::Format`] name the variable that cannot be understood.
    pub fn with_variables(mut self, env: impl Iterator<Item = (String, String)>) -> Result<Self, TelemetryError> {
        for (name, value) in env.filter(|(_, value)| !value.is_empty()) {
            match name.as_str() {
                FILTER_VARIABLE => {
                    filter(FILTER_VARIABLE, &value)?;
                    self.filter = value;
                }
                FORMAT_VARIABLE => {
                    self.format = match value.as_str() {
                        "text" => LogFormat::Text,
                        "json" => LogFormat::Json,
                        _ => return Err(TelemetryError::Format { format: value }),
                    };
                }
                _ => {}
            }
        }
        Ok(self)
    }
}

fn filter(name: &'static str, text: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder().parse(text).map_err(|_| TelemetryError::Filter { name, filter: text.to_owned() })
}

/// Begins to write the log to standard error, in colour where that is a terminal and `NO_COLOR` does not forbid it.
///
/// Entries are written by a thread of their own: a reader of the log that stalls must not stall whoever logs. Dropping
/// what this returns waits a moment for the last entries.
///
/// # Errors
/// [`TelemetryError::Filter`] when the filter cannot be read, [`TelemetryError::AlreadySet`] when called twice,
/// [`TelemetryError::Thread`] when the system has no thread to give.
pub fn init(settings: &LogSettings) -> Result<LastEntries, TelemetryError> {
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    let (behind, last) = behind(io::stderr())?;
    subscriber(settings, behind, colour)?.try_init()?;
    Ok(last)
}

/// How many entries may wait for a reader that is slow; what comes then is lost, and its number said.
const WAITING: usize = 4096;
/// How long the last entries are waited for.
const LAST: Duration = Duration::from_millis(500);
/// How often in that time it is looked whether a full queue moves.
const TRIES: u32 = 50;

/// Takes entries for a thread that writes them.
#[derive(Debug, Clone)]
struct Behind {
    entries: SyncSender<Vec<u8>>,
    lost: Arc<AtomicU64>,
}

/// Waits, when dropped, until what was logged before is written, but not for long.
#[derive(Debug)]
#[must_use = "the last entries are lost without it"]
pub struct LastEntries {
    entries: SyncSender<Vec<u8>>,
    written: Receiver<()>,
}

impl Drop for LastEntries {
    fn drop(&mut self) {
        // An empty entry asks for a sign.
        for _ in 0..TRIES {
            match self.entries.try_send(Vec::new()) {
                Ok(()) => {
                    let _too_slow = self.written.recv_timeout(LAST);
                    return;
                }
                Err(TrySendError::Full(_)) => std::thread::sleep(LAST / TRIES),
                Err(TrySendError::Disconnected(_)) => return,
            }
        }
    }
}

fn behind(mut to: impl Write + Send + 'static) -> Result<(Behind, LastEntries), TelemetryError> {
    let (entries, waiting) = sync_channel::<Vec<u8>>(WAITING);
    let (sign, written) = sync_channel(1);
    let lost = Arc::new(AtomicU64::new(0));
    let behind = Behind { entries: entries.clone(), lost: Arc::clone(&lost) };
    let write = move || {
        while let Ok(entry) = waiting.recv() {
            // What cannot be written is lost: there is nowhere to say so.
            let _unwritten = to.write_all(&entry);
            let missing = lost.swap(0, Ordering::Relaxed);
            if missing > 0 {
                let _unwritten =
                    writeln!(to, "trunkwarden: {missing} entries of the log were not read in time and are lost");
            }
            if entry.is_empty() {
                let _nobody_waits = sign.try_send(());
            }
        }
    };
    std::thread::Builder::new().name("log".to_owned()).spawn(write).map_err(TelemetryError::Thread)?;
    Ok((behind, LastEntries { entries, written }))
}

impl Write for Behind {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        if self.entries.try_send(entry.to_vec()).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(entry.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Behind {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// What writes the log to `writer`.
///
/// # Errors
/// [`TelemetryError::Filter`] when the filter cannot be read.
pub fn subscriber<W>(
    settings: &LogSettings,
    writer: W,
    colour: bool,
) -> Result<Box<dyn Subscriber + Send + Sync>, TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter("log.level", &settings.filter)?)
        .with_writer(Taming { inner: writer, colour })
        // It would say so on standard error, which panics where that is what cannot be written.
        .log_internal_errors(false)
        .with_ansi(colour);
    Ok(match settings.format {
        LogFormat::Text => Box::new(builder.finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
    })
}

/// Makes [`Tame`] writers.
struct Taming<M> {
    inner: M,
    colour: bool,
}

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Taming<M> {
    type Writer = Tame<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Tame { inner: self.inner.make_writer(), colour: self.colour }
    }
}

/// Writes entries, one with each call as `tracing_subscriber` does, without what a terminal or a reader of lines would
/// obey: control characters but the last line feed are written out, as `\\n` or `\\u{1b}`. In colour, sequences that only
/// set a colour pass: they are the subscriber's own.
struct Tame<W> {
    inner: W,
    colour: bool,
}

impl<W: Write> Write for Tame<W> {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(entry);
        let (line, end) = text.strip_suffix('\n').map_or((&*text, ""), |line| (line, "\n"));
        if line.contains(char::is_control) {
            let tamed = tame(line, self.colour) + end;
            self.inner.write_all(tamed.as_bytes())?;
        } else {
            self.inner.write_all(entry)?;
        }
        Ok(entry.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn tame(line: &str, colour: bool) -> String {
    let mut tamed = String::with_capacity(line.len() + 16);
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let length = match colour_sequence(rest) {
            Some(length) if colour => length,
            Some(_) | None => c.len_utf8(),
        };
        let (taken, behind) = rest.split_at(length);
        if c.is_control() && length == c.len_utf8() {
            tamed.extend(c.escape_default());
        } else {
            tamed.push_str(taken);
        }
        rest = behind;
    }
    tamed
}

/// The length of the sequence that sets a colour (SGR, ECMA-48 section 8.3.117) at the beginning of `text`.
fn colour_sequence(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\u{1b}[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    parameters[end..].starts_with('m').then_some(2 + end + 1)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(settings: &LogSettings, log: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = subscriber(settings, move || writer.clone(), false).unwrap();
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    fn env(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn json_is_an_object_a_line_with_the_fields_in_it() {
        let settings = LogSettings { format: LogFormat::Json, ..LogSettings::default() };
        let text = logged(&settings, || tracing::info!(trunk.id = "pbx1/airtel", "trunk health changed"));
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!((&line["trunk.id"], &line["level"]), (&"pbx1/airtel".into(), &"INFO".into()));
        assert_eq!(line["message"], "trunk health changed");
    }

    #[test]
    fn the_filter_decides_what_is_written() {
        let text = logged(&LogSettings::default(), || tracing::debug!("a frame"));
        assert_eq!(text, "");
        let settings = LogSettings { filter: "debug".into(), ..LogSettings::default() };
        assert!(logged(&settings, || tracing::debug!("a frame")).contains("a frame"));
    }

    #[test]
    fn variables_win_over_the_configuration() {
        let set = env(&[("TRUNKWARDEN_LOG", "warn"), ("TRUNKWARDEN_LOG_FORMAT", "json"), ("PATH", "/bin")]);
        let settings = LogSettings::default().with_variables(set).unwrap();
        assert_eq!(settings, LogSettings { filter: "warn".into(), format: LogFormat::Json });
        let empty = env(&[("TRUNKWARDEN_LOG", "")]);
        assert_eq!(LogSettings::default().with_variables(empty).unwrap(), LogSettings::default());
    }

    #[test]
    fn a_wrong_variable_is_named() {
        let error = LogSettings::default().with_variables(env(&[("TRUNKWARDEN_LOG_FORMAT", "xml")])).unwrap_err();
        assert_eq!(error.to_string(), "TRUNKWARDEN_LOG_FORMAT: \"xml\" is no log format: use text or json");
        let error = LogSettings::default().with_variables(env(&[("TRUNKWARDEN_LOG", "a=loud")])).unwrap_err();
        assert!(error.to_string().starts_with("TRUNKWARDEN_LOG: "), "{error}");
    }

    #[test]
    fn what_others_say_cannot_steer_a_terminal_or_begin_a_line() {
        let words = "403\u{1b}[2J\u{1b}]0;x\u{7}\u{9b}1m\r\n2026-01-01 INFO forged";
        let text = logged(&LogSettings::default(), || tracing::warn!(error = %words, "{words}"));
        assert_eq!(text.lines().count(), 1, "{text:?}");
        assert!(!text.trim_end_matches('\n').contains(char::is_control), "{text:?}");
        assert!(text.contains(r"error=403\u{1b}[2J\u{1b}]0;x\u{7}\u{9b}1m\r\n2026-01-01 INFO forged"), "{text:?}");
    }

    #[test]
    fn in_colour_only_colours_pass() {
        assert_eq!(
            tame("\u{1b}[2m10:00\u{1b}[0m \u{1b}[2J\u{1b}[", true),
            "\u{1b}[2m10:00\u{1b}[0m \\u{1b}[2J\\u{1b}["
        );
        assert_eq!(tame("\u{1b}[2m10:00", false), "\\u{1b}[2m10:00");
    }

    #[test]
    fn a_reader_that_stalls_stalls_nobody_and_what_was_read_is_whole() {
        struct Slow(Receiver<()>, Kept);
        impl io::Write for Slow {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _released = self.0.recv();
                self.1.write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (release, stalled) = sync_channel::<()>(0);
        let kept = Kept::default();
        let (mut behind, last) = behind(Slow(stalled, kept.clone())).unwrap();
        for number in 0..WAITING + 10 {
            behind.write_all(format!("{number}\n").as_bytes()).unwrap();
        }
        drop(release);
        // The queue was full; the thread makes room now.
        while behind.entries.try_send(b"last\n".to_vec()).is_err() {
            std::thread::yield_now();
        }
        drop(last);
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert!(text.starts_with("0\n") && text.contains("entries of the log were not read in time"), "{text}");
        assert!(text.contains(&format!("\n{}\n", WAITING - 1)) && text.contains("\nlast\n"));
    }

    #[test]
    fn a_log_that_cannot_be_written_ends_nothing() {
        struct Full;
        impl io::Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::StorageFull.into())
            }
        }
        let subscriber = subscriber(&LogSettings::default(), || Full, false).unwrap();
        tracing::subscriber::with_default(subscriber, || tracing::error!("said to nobody"));
    }
}
