//! The SIP logger's text inside Asterisk's log files, and the log lines that themselves prove a cause.
//!
//! Separate from the other sources because it is text among other text: a message is many lines below a head, its end is nowhere
//! marked, and the time is local, mostly without a year.
//!
//! Source: `res/res_pjsip_logger.c` (`<--- Transmitting SIP request (557 bytes) to UDP:192.0.2.1:5060 --->`, then the message and
//! a line end), `main/logger.c` (`[date] LEVEL[thread][call] file: text`, or JSON, or syslog), and the warnings of
//! `res/res_pjsip_outbound_registration.c` and `res/res_pjsip_outbound_authenticator_digest.c`. The format is read the same with
//! or without date, thread and file (a copy of the console), with colour codes, CR LF or LF.
//!
//! Where a message ends: where the bytes named in its head are there, each line counted with CR LF; else, when lines are
//! missing or cut, at the next head of a log line. Another thread's line within a message is taken out of it, and so is a whole other
//! message; where lines of two messages alternate, nothing in the file tells whose they are.
//!
//! Assumes no more than that: anybody who can send SIP to the PBX can write lines into this file that look like the log's own.

use std::{
    borrow::Cow,
    io::{self, BufRead},
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
    time::Duration,
};

use bytes::Bytes;
use jiff::{
    civil::{Date, DateTime, Time},
    tz::{Offset, TimeZone},
};
use serde::Deserialize;
use thiserror::Error;

use super::sip::{Direction, Happening, Seen, SipMessage, Source, Transport, stream::MAX_MESSAGE};
use crate::clock::{Timestamp, after};

/// What is kept of one line: a whole message in one line of JSON. The rest of a longer line is skipped.
const LINE_LIMIT: usize = 256 << 10;
/// How often the progress is told.
const PROGRESS_EVERY: u64 = 1 << 20;
/// What is kept of a log line's text.
const DETAIL_LIMIT: usize = 500;
/// Facts that wait to learn which registration they belong to.
const MAX_HELD: usize = 16;
/// Log lines that a fact waits for the next one of its thread.
const HELD_FOR: u32 = 64;

/// How the times of a log are to be read.
#[derive(Debug, Clone)]
pub struct LoggerOptions {
    /// The PBX's time zone: log lines are in local time.
    pub zone: TimeZone,
    /// The year of the first line, where the format has none; it goes on at New Year. Without it the latest year is taken that
    /// keeps a line before [`LoggerOptions::not_after`].
    pub year: Option<i16>,
    /// No line is later than this (and a day, for clocks that differ): the time at which the file was changed last, or now.
    pub not_after: Option<Timestamp>,
}

impl Default for LoggerOptions {
    /// UTC. Without year or bound, lines without a year are of 1970.
    fn default() -> Self {
        Self { zone: TimeZone::UTC, year: None, not_after: None }
    }
}

/// Something found in the log.
#[derive(Debug, Clone)]
pub enum LogItem {
    /// A SIP message.
    Seen(Seen),
    /// A line that says something about a registration.
    Fact(LogFact),
}

/// A log line that says something about a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFact {
    /// When, by the PBX's clock; whole seconds unless `dateformat` says otherwise.
    pub at: Timestamp,
    /// What it says.
    pub kind: LogFactKind,
    /// `server_uri` of the registration, where the line, or the next one of its thread, tells it.
    pub server_uri: Option<String>,
    /// `client_uri`, likewise.
    pub client_uri: Option<String>,
    /// The line's text, without date, level, thread and file.
    pub detail: String,
}

/// What a log line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogFactKind {
    /// `Temporal response '503' received …, retrying in '60'`.
    Temporary {
        /// The code.
        code: u16,
        /// Until the next attempt.
        retry_in: Option<Duration>,
    },
    /// `No response received …`: silence, a name that does not resolve, a refused connection. Without a retry it has stopped.
    NoResponse {
        /// Until the next attempt; none when it has stopped.
        retry_in: Option<Duration>,
    },
    /// `'404' fatal response received …, retrying in '30' seconds`.
    FatalRetrying {
        /// The code.
        code: u16,
        /// Until the next attempt.
        retry_in: Option<Duration>,
    },
    /// `Fatal response '403' received …, stopping outbound registration`.
    FatalStopped {
        /// The code.
        code: u16,
    },
    /// `Maximum retries reached …, stopping registration attempt`.
    GaveUp,
    /// `Failed to create authenticated REGISTER request …`: a challenge could not be answered; a line before it says why.
    NotAnswered,
    /// `No auth objects matching realm/algorithm(s) 'realm/MD5, …'`.
    NoMatchingAuth {
        /// Realm and algorithm of each challenge. Empty where the build knows none of the algorithms.
        offered: Vec<(String, String)>,
    },
    /// `There were no auth ids available`: the registration names no `outbound_auth`.
    NoAuth,
    /// `Couldn't find auth 'x'`, `Auth object 'x' could not be found`: `outbound_auth` names a section that does not exist.
    AuthNotFound {
        /// The name.
        name: String,
    },
    /// `Failed to set initial authentication credentials`.
    CredentialsNotSet,
    /// `No SIP outbound authenticator registered`: the module is missing.
    NoAuthenticator,
    /// `Authentication credentials not accepted by server`: said of calls and qualifies too.
    CredentialsRefused,
    /// `Request 'INVITE' from … failed for '…' … - No matching endpoint found`.
    Unidentified {
        /// The method.
        method: String,
        /// Who sent it.
        remote: Option<SocketAddr>,
        /// Its Call-ID.
        call_id: Option<String>,
    },
    /// `Received REGISTER response 503(Connection refused)` (a debug line): the reason tells silence from a refused connection.
    Outcome {
        /// The code, which may be one that was never on the wire.
        code: u16,
        /// The reason.
        reason: String,
    },
}

impl LogFactKind {
    /// Whether it says why a challenge was not answered. Such a line comes before the one that names the registration.
    #[must_use]
    pub const fn says_why(&self) -> bool {
        match self {
            Self::NoMatchingAuth { .. }
            | Self::NoAuth
            | Self::AuthNotFound { .. }
            | Self::CredentialsNotSet
            | Self::NoAuthenticator => true,
            Self::Temporary { .. }
            | Self::NoResponse { .. }
            | Self::FatalRetrying { .. }
            | Self::FatalStopped { .. }
            | Self::GaveUp
            | Self::NotAnswered
            | Self::CredentialsRefused
            | Self::Unidentified { .. }
            | Self::Outcome { .. } => false,
        }
    }
}

/// What was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoggerReport {
    /// Bytes read.
    pub bytes: u64,
    /// Lines read.
    pub lines: u64,
    /// Messages found.
    pub messages: u64,
    /// Of these: shorter than their head says, since lines are missing or were cut.
    pub cut: u64,
    /// Heads below which there was no SIP.
    pub not_sip: u64,
    /// Log lines that say something about a registration.
    pub facts: u64,
    /// Messages and facts before any date: they are given the beginning of 1970.
    pub undated: u64,
    /// Lines longer than what is kept of them.
    pub long_lines: u64,
    /// The earliest date seen.
    pub first: Option<Timestamp>,
    /// The latest date seen.
    pub last: Option<Timestamp>,
    /// Whether the reader of the items wanted no more.
    pub stopped: bool,
}

/// A log that cannot be read.
#[derive(Debug, Error)]
pub enum LoggerError {
    /// The file, or what it comes through, failed.
    #[error("reading the log failed after {at} bytes")]
    Read {
        /// Bytes read before.
        at: u64,
        /// What failed.
        #[source]
        source: io::Error,
    },
}

/// Reads a log to its end, or until `each` wants no more. `progress` is told the bytes read, once a MiB and at the end.
///
/// Holds one line and two messages, whatever the input.
///
/// # Errors
/// [`LoggerError::Read`]. A file without any SIP is none: the report says so.
pub fn read(
    mut input: impl BufRead,
    each: &mut dyn FnMut(LogItem) -> ControlFlow<()>,
    options: LoggerOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<LoggerReport, LoggerError> {
    let mut reader = Reader::new(each, options);
    let mut line = Vec::new();
    let mut told = 0;
    loop {
        let at = reader.report.bytes;
        let Some(length) = next_line(&mut input, &mut line).map_err(|source| LoggerError::Read { at, source })? else {
            break;
        };
        reader.report.bytes += length;
        reader.report.lines += 1;
        reader.report.long_lines += u64::from(u64::try_from(line.len()).is_ok_and(|kept| kept < length));
        if reader.report.bytes - told >= PROGRESS_EVERY {
            told = reader.report.bytes;
            progress(told);
        }
        reader.line(&line);
        if reader.report.stopped {
            break;
        }
    }
    reader.end();
    progress(reader.report.bytes);
    Ok(reader.report)
}

/// The next line with its line end, of which at most [`LINE_LIMIT`] bytes are kept; how long it was; `None` at the end.
fn next_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<u64>> {
    line.clear();
    let mut length = 0_u64;
    loop {
        let available = match input.fill_buf() {
            Ok(available) => available,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if available.is_empty() {
            return Ok((length > 0).then_some(length));
        }
        let end = memchr::memchr(b'\n', available);
        let taken = end.map_or(available.len(), |end| end + 1);
        let room = LINE_LIMIT - line.len();
        line.extend_from_slice(&available[..taken.min(room)]);
        length += u64::try_from(taken).unwrap_or_default();
        input.consume(taken);
        if end.is_some() {
            return Ok(Some(length));
        }
    }
}

/// A message whose lines are being gathered.
struct Open {
    at: Timestamp,
    direction: Direction,
    transport: Option<Transport>,
    remote: Option<SocketAddr>,
    /// The bytes its head names.
    wanted: usize,
    /// Its lines, each with CR LF.
    raw: Vec<u8>,
    /// Where its body begins.
    body_at: Option<usize>,
    body_lines: usize,
}

impl Open {
    fn push(&mut self, line: &[u8]) {
        // A message that is longer than any has lost its end.
        if self.raw.len() <= MAX_MESSAGE {
            self.raw.extend_from_slice(line);
            self.raw.extend_from_slice(b"\r\n");
        }
        match self.body_at {
            Some(_) => self.body_lines += 1,
            None if line.is_empty() => self.body_at = Some(self.raw.len()),
            None => {}
        }
    }

    /// Whether the bytes named in the head are there.
    fn is_whole(&self) -> bool {
        let length = self.raw.len();
        // The last line of a body may have no line end. One with bare LF is counted too long, a byte for each line.
        length == self.wanted
            || self.body_lines > 0 && length == self.wanted + 2
            || length.saturating_sub(self.body_lines) >= self.wanted
            || length > MAX_MESSAGE
    }

    /// Whether a line may go on with this message, after something else stood between.
    fn goes_on_with(&self, line: &[u8]) -> bool {
        if self.raw.is_empty() {
            return memchr::memmem::find(line, b"SIP/2.0").is_some();
        }
        if self.body_at.is_some() {
            return !line.is_empty();
        }
        let name = line.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'-').count();
        line.is_empty() || name > 0 && line.get(name..).is_some_and(|rest| rest.trim_ascii_start().starts_with(b":"))
    }

    /// The bytes of the message, and whether some are missing.
    fn into_raw(mut self) -> (Bytes, bool) {
        if self.raw.len() > self.wanted.saturating_add(2)
            && let Some(body_at) = self.body_at
        {
            let body = String::from_utf8_lossy(self.raw.get(body_at..).unwrap_or_default()).replace("\r\n", "\n");
            // The lines of the body ended with LF alone: so counted, it is as long as it should be.
            if (self.wanted..=self.wanted + 1).contains(&(body_at + body.len())) {
                self.raw.truncate(body_at);
                self.raw.extend_from_slice(body.as_bytes());
            }
        }
        let cut = self.raw.len() < self.wanted;
        if cut && let Some(body_at) = self.body_at {
            // Blank lines that the log ends a message with.
            let body = self.raw.get(body_at..).unwrap_or_default();
            let printed = body.iter().rposition(|byte| !byte.is_ascii_whitespace()).map_or(0, |last| last + 1);
            self.raw.truncate(body_at + printed);
        }
        self.raw.truncate(self.wanted);
        (self.raw.into(), cut)
    }
}

/// The head of a log line.
struct Head<'a> {
    at: Option<Timestamp>,
    thread: Option<&'a str>,
    /// What follows date, level and thread: the file, and the text.
    rest: &'a str,
}

struct Held {
    thread: String,
    waited: u32,
    fact: LogFact,
}

struct Reader<'a> {
    each: &'a mut dyn FnMut(LogItem) -> ControlFlow<()>,
    dates: Dates,
    report: LoggerReport,
    now: Option<Timestamp>,
    open: Option<Open>,
    /// A message within which another began.
    suspended: Option<Open>,
    /// That other message, whole: it waits for the first, so that they are given in their order.
    waiting: Option<Open>,
    /// A log line stood in the open message.
    interrupted: bool,
    /// The last message is whole: the blank line after it is the log's.
    just_ended: bool,
    held: Vec<Held>,
}

impl<'a> Reader<'a> {
    fn new(each: &'a mut dyn FnMut(LogItem) -> ControlFlow<()>, options: LoggerOptions) -> Self {
        Self {
            each,
            dates: Dates::new(options),
            report: LoggerReport::default(),
            now: None,
            open: None,
            suspended: None,
            waiting: None,
            interrupted: false,
            just_ended: false,
            held: Vec::new(),
        }
    }

    fn line(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = without_colours(line);
        if line.starts_with(b"{")
            && let Some(json) = json(&line)
        {
            self.date(&json.timestamp);
            let thread = json.identifiers.lwp.map(|lwp| lwp.to_string());
            return self.whole(&json.logmsg.message, thread.as_deref());
        }
        if !may_be_head(&line) {
            return self.content(&line);
        }
        let text = String::from_utf8_lossy(&line);
        let Some(head) = self.head(&text) else {
            return self.content(&line);
        };
        if let Some(at) = head.at {
            self.dated(at);
        }
        // Syslog writes a line end as #012 and CR as #015.
        if head.rest.contains("--->#0") {
            let text = head.rest.replace("#015", "").replace("#012", "\n");
            return self.whole(&text, head.thread);
        }
        self.begin(head.rest, head.thread);
    }

    /// A log entry that came in one piece.
    fn whole(&mut self, text: &str, thread: Option<&str>) {
        let mut lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
        self.begin(lines.next().unwrap_or_default(), thread);
        for line in lines {
            self.content(line.as_bytes());
        }
        self.close();
    }

    /// The first line of a log entry.
    fn begin(&mut self, rest: &str, thread: Option<&str>) {
        self.just_ended = false;
        if let Some(mut open) = marker(rest) {
            let unfinished = self.open.take();
            self.flush_suspended();
            if self.waiting.is_none() {
                // A message within a message: should the first go on, it will after this one.
                self.suspended = unfinished;
            } else if let Some(unfinished) = unfinished {
                self.give(unfinished);
                self.flush_waiting();
            }
            open.at = self.at();
            self.open = Some(open);
            self.interrupted = false;
            return;
        }
        if self.open.is_some() {
            self.interrupted = true;
        } else {
            self.flush_suspended();
        }
        self.age_held();
        let fact = fact(rest, self.now.unwrap_or_default());
        self.settle_held(thread, fact.as_ref());
        match fact {
            Some(fact) if fact.kind.says_why() && thread.is_some() => {
                if self.held.len() == MAX_HELD {
                    let oldest = self.held.remove(0);
                    self.give_fact(oldest.fact);
                }
                let thread = thread.unwrap_or_default().to_owned();
                self.held.push(Held { thread, waited: 0, fact });
            }
            Some(fact) => self.give_fact(fact),
            None => {}
        }
    }

    /// A line that is no head: part of a message, or of nothing.
    fn content(&mut self, line: &[u8]) {
        if self.interrupted {
            self.interrupted = false;
            if self.open.as_ref().is_some_and(|open| !open.goes_on_with(line) && !line.is_empty()) {
                // More of the log line that stood between.
                self.interrupted = true;
                return;
            }
        }
        if self.open.is_none() {
            if std::mem::take(&mut self.just_ended) && line.is_empty() {
                return;
            }
            match self.suspended.take() {
                Some(first) if first.goes_on_with(line) => self.open = Some(first),
                Some(first) => {
                    self.suspended = Some(first);
                    self.flush_suspended();
                }
                None => {}
            }
        }
        let Some(open) = self.open.as_mut() else {
            return;
        };
        if open.raw.is_empty() && line.is_empty() {
            return;
        }
        open.push(line);
        if open.is_whole() {
            self.close();
            self.just_ended = true;
        }
    }

    fn close(&mut self) {
        self.interrupted = false;
        if let Some(open) = self.open.take() {
            if self.suspended.is_some() {
                self.waiting = Some(open);
            } else {
                self.give(open);
                self.flush_waiting();
            }
        }
    }

    fn flush_suspended(&mut self) {
        if let Some(first) = self.suspended.take() {
            self.give(first);
            self.flush_waiting();
        }
    }

    fn flush_waiting(&mut self) {
        if let Some(second) = self.waiting.take() {
            self.give(second);
        }
    }

    fn end(&mut self) {
        self.flush_suspended();
        self.close();
        for held in std::mem::take(&mut self.held) {
            self.give_fact(held.fact);
        }
    }

    fn give(&mut self, open: Open) {
        let (at, direction, transport, remote) = (open.at, open.direction, open.transport, open.remote);
        let (raw, cut) = open.into_raw();
        let Ok(message) = SipMessage::parse(raw) else {
            self.report.not_sip += 1;
            return;
        };
        self.report.messages += 1;
        self.report.cut += u64::from(cut);
        let (from, to) = match direction {
            Direction::Out => (None, remote),
            Direction::In => (remote, None),
        };
        self.item(LogItem::Seen(Seen {
            at,
            source: Source::Logger,
            direction: Some(direction),
            transport,
            from,
            to,
            what: Happening::Sip(Box::new(message)),
        }));
    }

    fn give_fact(&mut self, fact: LogFact) {
        self.report.facts += 1;
        self.item(LogItem::Fact(fact));
    }

    fn item(&mut self, item: LogItem) {
        self.report.undated += u64::from(self.now.is_none());
        if !self.report.stopped && (self.each)(item).is_break() {
            self.report.stopped = true;
        }
    }

    fn at(&self) -> Timestamp {
        self.now.unwrap_or_default()
    }

    fn date(&mut self, text: &str) {
        if let Some((at, _)) = self.dates.read(text) {
            self.dated(at);
        }
    }

    fn dated(&mut self, at: Timestamp) {
        self.now = Some(at);
        self.report.first = Some(self.report.first.map_or(at, |first| first.min(at)));
        self.report.last = self.report.last.max(Some(at));
    }

    fn age_held(&mut self) {
        for held in &mut self.held {
            held.waited += 1;
        }
        while self.held.first().is_some_and(|held| held.waited > HELD_FOR) {
            let held = self.held.remove(0);
            self.give_fact(held.fact);
        }
    }

    /// The next such line of a thread tells whether what it said before was about a registration, and which.
    fn settle_held(&mut self, thread: Option<&str>, next: Option<&LogFact>) {
        let Some(next) = next.filter(|next| !next.kind.says_why() || starts_anew(&next.kind)) else {
            return;
        };
        let (settled, waiting) =
            std::mem::take(&mut self.held).into_iter().partition(|held| Some(held.thread.as_str()) == thread);
        self.held = waiting;
        let settled: Vec<Held> = settled;
        for mut held in settled {
            if next.kind == LogFactKind::NotAnswered {
                held.fact.server_uri.clone_from(&next.server_uri);
                held.fact.client_uri.clone_from(&next.client_uri);
            }
            self.give_fact(held.fact);
        }
    }

    /// Date, level and thread of a log line; `None` if it is not the first line of an entry.
    fn head<'t>(&mut self, text: &'t str) -> Option<Head<'t>> {
        let (at, rest) = if let Some(dated) = text.strip_prefix('[') {
            let (at, rest) = self.dates.read(dated)?;
            (Some(at), rest.strip_prefix(']')?.trim_start())
        } else if text.starts_with("<--- ") || starts_with_level(text) {
            (None, text)
        } else {
            // Syslog: date, host, program.
            let (at, rest) = self.dates.read(text)?;
            let (_, rest) = rest.trim_start().split_once(": ").filter(|(tag, _)| tag.contains("asterisk"))?;
            (Some(at), rest)
        };
        let (thread, rest) = match starts_with_level(rest) {
            true => {
                let (_, after_level) = rest.split_once('[')?;
                let (thread, rest) = after_level.split_once(']')?;
                // `[C-0000001a]`, the call.
                let rest =
                    rest.strip_prefix("[C-").and_then(|call| call.split_once(']')).map_or(rest, |(_, rest)| rest);
                (Some(thread), rest.trim_start_matches([':', ' ']))
            }
            false => (None, rest),
        };
        Some(Head { at, thread, rest })
    }
}

/// A quick look: log lines begin with a date, a level or a marker, and hardly a line of SIP does.
fn may_be_head(line: &[u8]) -> bool {
    match line.first() {
        Some(b'[' | b'<' | b'0'..=b'9') => true,
        // Months, and the levels.
        Some(b'A' | b'D' | b'E' | b'F' | b'J' | b'M' | b'N' | b'O' | b'S' | b'T' | b'V' | b'W') => {
            matches!(line.get(3), Some(b' ')) && line.get(6) == Some(&b' ')
                || line.iter().take(12).any(|byte| *byte == b'[')
        }
        Some(_) | None => false,
    }
}

fn starts_with_level(text: &str) -> bool {
    const LEVELS: [&str; 10] =
        ["VERBOSE[", "WARNING[", "NOTICE[", "ERROR[", "DEBUG[", "DTMF[", "SECURITY[", "FAX[", "TRACE[", "EVENT["];
    LEVELS.iter().any(|level| text.starts_with(level))
}

/// The line without terminal control sequences, and without what a console draws over.
fn without_colours(line: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr2(0x1b, b'\r', line).is_none() {
        return Cow::Borrowed(line);
    }
    let mut plain = Vec::with_capacity(line.len());
    let mut rest = line;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match (byte, tail) {
            (0x1b, [b'[', parameters @ ..]) => {
                let end = parameters.iter().position(|byte| (0x40..=0x7e).contains(byte));
                rest = end.and_then(|end| parameters.get(end + 1..)).unwrap_or_default();
            }
            (0x1b | b'\r', _) => {}
            (byte, _) => plain.push(byte),
        }
    }
    Cow::Owned(plain)
}

/// `<--- Transmitting SIP request (557 bytes) to UDP:192.0.2.1:5060 --->`
fn marker(rest: &str) -> Option<Open> {
    let at = rest.find("<--- ")?;
    let rest = rest.get(at + 5..)?;
    let (direction, rest) = match (rest.strip_prefix("Transmitting SIP "), rest.strip_prefix("Received SIP ")) {
        (Some(rest), _) => (Direction::Out, rest),
        (None, Some(rest)) => (Direction::In, rest),
        (None, None) => return None,
    };
    let (_, rest) = rest.split_once('(')?;
    let (bytes, rest) = rest.split_once(" bytes)")?;
    let wanted = bytes.parse().ok()?;
    let rest = rest.trim_start();
    let rest = rest.strip_prefix("to ").or_else(|| rest.strip_prefix("from "))?;
    let peer = rest.split_once(" --->").map_or(rest, |(peer, _)| peer).trim();
    let (transport, address) = peer.split_once(':')?;
    let transport = match transport.trim_end_matches('6').to_ascii_uppercase().as_str() {
        "UDP" => Some(Transport::Udp),
        "TCP" => Some(Transport::Tcp),
        "TLS" => Some(Transport::Tls),
        "WS" | "WSS" => Some(Transport::Ws),
        _ => None,
    };
    let remote = socket_address(address);
    let at = Timestamp::UNIX_EPOCH;
    Some(Open { at, direction, transport, remote, wanted, raw: Vec::new(), body_at: None, body_lines: 0 })
}

/// `192.0.2.1:5060`, `[2001:db8::1]:5060`, and IPv6 without brackets.
fn socket_address(text: &str) -> Option<SocketAddr> {
    text.parse().ok().or_else(|| {
        let (host, port) = text.rsplit_once(':')?;
        Some(SocketAddr::new(host.trim_matches(['[', ']']).parse::<IpAddr>().ok()?, port.parse().ok()?))
    })
}

/// One line of Asterisk's JSON log format (`main/logger.c`, `format_log_json`).
#[derive(Deserialize)]
struct Json {
    timestamp: String,
    identifiers: JsonIdentifiers,
    logmsg: JsonMessage,
}

#[derive(Deserialize)]
struct JsonIdentifiers {
    lwp: Option<i64>,
}

#[derive(Deserialize)]
struct JsonMessage {
    message: String,
}

fn json(line: &[u8]) -> Option<Json> {
    serde_json::from_slice(line).ok()
}

/// Of these one comes per challenge: what waits before it is about another.
fn starts_anew(kind: &LogFactKind) -> bool {
    matches!(kind, LogFactKind::NoMatchingAuth { .. } | LogFactKind::NoAuth | LogFactKind::NoAuthenticator)
}

/// What a log line's text says.
fn fact(rest: &str, at: Timestamp) -> Option<LogFact> {
    // Every one of these is of a file of this name; the rest of the log need not be searched.
    if !rest.contains("pjsip") {
        return None;
    }
    let from = |phrase: &str| rest.find(phrase).and_then(|at| rest.get(at..));
    let made = |kind, text: &str, server: Option<&str>, client: Option<&str>| {
        let uri = |uri: Option<&str>| uri.map(str::to_owned);
        Some(LogFact { at, kind, server_uri: uri(server), client_uri: uri(client), detail: shortened(text) })
    };
    if let Some(text) = from("Temporal response '") {
        let [code, server, client, retry] = quoted(text);
        return made(LogFactKind::Temporary { code: number(code)?, retry_in: seconds(retry) }, text, server, client);
    }
    if let Some(text) = from("No response received from '") {
        let [server, client, retry] = quoted(text);
        return made(LogFactKind::NoResponse { retry_in: seconds(retry) }, text, server, client);
    }
    if let Some(text) = from("403 Forbidden fatal response received from '") {
        let [server, client, retry] = quoted(text);
        return made(LogFactKind::FatalRetrying { code: 403, retry_in: seconds(retry) }, text, server, client);
    }
    if let Some(text) = from("Fatal response '") {
        let [code, server, client] = quoted(text);
        return made(LogFactKind::FatalStopped { code: number(code)? }, text, server, client);
    }
    if let Some(end) = rest.find(" fatal response received from '") {
        let text = rest.get(..end).and_then(|before| before.strip_suffix('\'')).and_then(|code| code.rfind('\''));
        let text = rest.get(text?..)?;
        let [code, server, client, retry] = quoted(text);
        return made(
            LogFactKind::FatalRetrying { code: number(code)?, retry_in: seconds(retry) },
            text,
            server,
            client,
        );
    }
    if let Some(text) = from("Maximum retries reached when attempting outbound registration to '") {
        let [server, client] = quoted(text);
        return made(LogFactKind::GaveUp, text, server, client);
    }
    if let Some(text) = from("Failed to create authenticated REGISTER request to server '") {
        let [server, client] = quoted(text);
        return made(LogFactKind::NotAnswered, text, server, client);
    }
    if let Some(text) = from("No auth objects matching realm/algorithm(s) '") {
        // A realm is any text of the provider's, quotes and commas included.
        let (_, offered) = text.split_once('\'')?;
        let offered = offered.rsplit_once("' from challenge").map_or(offered, |(offered, _)| offered);
        let offered = offered.split(", ").filter(|pair| !pair.is_empty()).map(|pair| {
            let (realm, algorithm) = pair.rsplit_once('/').unwrap_or((pair, ""));
            (realm.to_owned(), algorithm.to_owned())
        });
        return made(LogFactKind::NoMatchingAuth { offered: offered.collect() }, text, None, None);
    }
    if let Some(text) = from("There were no auth ids available") {
        return made(LogFactKind::NoAuth, text, None, None);
    }
    if let Some(text) = from("Couldn't find auth '").or_else(|| from("Auth object '")) {
        let (_, name) = text.split_once(" '")?;
        let (name, _) = name.split_once('\'')?;
        return made(LogFactKind::AuthNotFound { name: name.to_owned() }, text, None, None);
    }
    if let Some(text) = from("Failed to set initial authentication credentials") {
        return made(LogFactKind::CredentialsNotSet, text, None, None);
    }
    if let Some(text) = from("No SIP outbound authenticator registered") {
        return made(LogFactKind::NoAuthenticator, text, None, None);
    }
    if let Some(text) = from("Authentication credentials not accepted by server") {
        return made(LogFactKind::CredentialsRefused, text, None, None);
    }
    if let Some(text) = from("Request '").filter(|text| text.ends_with("No matching endpoint found")) {
        let [method] = quoted(text);
        let remote = text.rsplit_once(" failed for '").and_then(|(_, rest)| rest.split_once('\''));
        let call_id = text.rsplit_once("(callid: ").and_then(|(_, rest)| rest.split_once(')'));
        let kind = LogFactKind::Unidentified {
            method: method?.to_owned(),
            remote: remote.and_then(|(remote, _)| socket_address(remote)),
            call_id: call_id.map(|(call_id, _)| call_id.to_owned()),
        };
        return made(kind, text, None, None);
    }
    if let Some(text) = from("Received REGISTER response ") {
        let (_, outcome) = text.split_once("response ")?;
        let (code, reason) = outcome.split_once('(')?;
        let reason = reason.rsplit_once(')').map_or(reason, |(reason, _)| reason).to_owned();
        return made(LogFactKind::Outcome { code: code.trim().parse().ok()?, reason }, text, None, None);
    }
    None
}

/// The texts between single quotes, in order.
fn quoted<const N: usize>(text: &str) -> [Option<&str>; N] {
    let mut parts = text.split('\'').skip(1).step_by(2);
    std::array::from_fn(|_| parts.next())
}

fn number(text: Option<&str>) -> Option<u16> {
    text?.parse().ok()
}

fn seconds(text: Option<&str>) -> Option<Duration> {
    text?.parse().ok().map(Duration::from_secs)
}

fn shortened(text: &str) -> String {
    let end = (0..=DETAIL_LIMIT.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    text.get(..end).unwrap_or_default().to_owned()
}

/// Reads the dates of one log.
struct Dates {
    options: LoggerOptions,
    /// The year and month of the last line without a year.
    last: Option<(i16, i8)>,
    /// The last date without its fraction and what it is: most lines of a busy log share their second.
    cached: Option<(DateTime, Timestamp)>,
}

impl Dates {
    fn new(options: LoggerOptions) -> Self {
        Self { options, last: None, cached: None }
    }

    /// A date at the beginning of a text, and what follows it: `Nov 22 18:32:21`, `2026-11-22 18:32:21.123`,
    /// `2026-11-22T18:32:21.123+0100`.
    fn read<'t>(&mut self, text: &'t str) -> Option<(Timestamp, &'t str)> {
        let bytes = text.as_bytes();
        let (year, month, day, rest) = if bytes.first()?.is_ascii_digit() {
            let (year, rest) = digits(text, 4)?;
            let (month, rest) = digits(rest.strip_prefix('-')?, 2)?;
            let (day, rest) = digits(rest.strip_prefix('-')?, 2)?;
            (Some(year), i8::try_from(month).ok()?, day, rest.strip_prefix([' ', 'T'])?)
        } else {
            const MONTHS: [&str; 12] =
                ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
            let name = text.get(..3)?;
            let month = MONTHS.iter().position(|month| *month == name)?;
            let rest = text.get(3..)?.strip_prefix(' ')?.trim_start();
            let width = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (day, rest) = digits(rest, width.clamp(1, 2))?;
            (None, i8::try_from(month + 1).ok()?, day, rest.strip_prefix(' ')?)
        };
        let (hour, rest) = digits(rest, 2)?;
        let (minute, rest) = digits(rest.strip_prefix(':')?, 2)?;
        let (second, rest) = digits(rest.strip_prefix(':')?, 2)?;
        let small = |number: i16| i8::try_from(number).ok();
        // A leap second is the second before it.
        let time = Time::new(small(hour)?, small(minute)?, small(second)?.min(59), 0).ok()?;
        let (nanos, rest) = fraction(rest);
        let (offset, rest) = offset(rest);
        let date = |year| Some(Date::new(year, month, small(day)?).ok()?.to_datetime(time));
        let at = match (year, offset) {
            (Some(year), Some(offset)) => offset.to_timestamp(date(year)?).ok()?,
            (Some(year), None) => self.local(date(year)?)?,
            (None, _) => self.without_year(month, date)?,
        };
        Some((after(at, Duration::from_nanos(nanos)), rest))
    }

    fn local(&mut self, local: DateTime) -> Option<Timestamp> {
        if let Some((known, at)) = self.cached
            && known == local
        {
            return Some(at);
        }
        // An hour that comes twice is taken for the first, one that never comes for the one after it.
        let at = self.options.zone.to_timestamp(local).ok()?;
        self.cached = Some((local, at));
        Some(at)
    }

    fn without_year(&mut self, month: i8, date: impl Fn(i16) -> Option<DateTime>) -> Option<Timestamp> {
        if self.options.year.is_none()
            && let Some(bound) = self.options.not_after
        {
            let bound = after(bound, Duration::from_secs(86_400));
            let latest = bound.to_zoned(self.options.zone.clone()).year();
            // Eight years back there was a 29 February.
            return (0..=8).find_map(|back| {
                let at = self.local(date(latest - back)?)?;
                (at <= bound).then_some(at)
            });
        }
        let (year, last) = self.last.unwrap_or((self.options.year.unwrap_or(1970), month));
        if last >= 11 && month <= 2 {
            let at = self.local(date(year.checked_add(1)?)?)?;
            self.last = Some((year + 1, month));
            return Some(at);
        }
        if last <= 2 && month >= 11 {
            // A thread that was late at New Year.
            return self.local(date(year.checked_sub(1)?)?);
        }
        let at = self.local(date(year)?)?;
        self.last = Some((year, month));
        Some(at)
    }
}

/// A number of exactly so many digits.
fn digits(text: &str, width: usize) -> Option<(i16, &str)> {
    let number = text.get(..width).filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))?;
    Some((number.parse().ok()?, text.get(width..)?))
}

/// `.123`, in nanoseconds.
fn fraction(text: &str) -> (u64, &str) {
    let Some(rest) = text.strip_prefix(['.', ',']) else {
        return (0, text);
    };
    let width = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = rest.split_at(width);
    let nanos = digits
        .bytes()
        .chain(std::iter::repeat(b'0'))
        .take(9)
        .fold(0, |nanos, digit| nanos * 10 + u64::from(digit - b'0'));
    (nanos, rest)
}

/// `Z`, `+0100`, `+01:00`.
fn offset(text: &str) -> (Option<Offset>, &str) {
    let read = || {
        if let Some(rest) = text.strip_prefix('Z') {
            return Some((Offset::UTC, rest));
        }
        let sign = match text.bytes().next()? {
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        let (hours, rest) = digits(text.get(1..)?, 2)?;
        let (minutes, rest) = digits(rest.strip_prefix(':').unwrap_or(rest), 2)?;
        let seconds = (i32::from(hours) * 60 + i32::from(minutes)) * 60 * sign;
        Some((Offset::from_seconds(seconds).ok()?, rest))
    };
    read().map_or((None, text), |(offset, rest)| (Some(offset), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RECORDED: &[u8] = include_bytes!("../../tests/fixtures/sip-logger.log");

    fn options() -> LoggerOptions {
        LoggerOptions { year: Some(2026), ..LoggerOptions::default() }
    }

    fn items(log: &[u8], options: LoggerOptions) -> (Vec<LogItem>, LoggerReport) {
        let mut items = Vec::new();
        let mut keep = |item| {
            items.push(item);
            ControlFlow::Continue(())
        };
        let report = read(log, &mut keep, options, &mut |_| {}).unwrap();
        (items, report)
    }

    fn seen(items: &[LogItem]) -> Vec<&Seen> {
        let only = items.iter().filter_map(|item| match item {
            LogItem::Seen(seen) => Some(seen),
            LogItem::Fact(_) => None,
        });
        only.collect()
    }

    fn facts(items: &[LogItem]) -> Vec<&LogFact> {
        let only = items.iter().filter_map(|item| match item {
            LogItem::Fact(fact) => Some(fact),
            LogItem::Seen(_) => None,
        });
        only.collect()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// The texts of the messages of a log.
    fn texts(log: &str) -> Vec<String> {
        let (items, _) = items(log.as_bytes(), options());
        seen(&items).iter().map(|seen| String::from_utf8(seen.sip().unwrap().raw().to_vec()).unwrap()).collect()
    }

    fn sip(call_id: &str, body: &str) -> String {
        format!(
            "REGISTER sip:reg.example SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1\r\nCall-ID: {call_id}\r\nCSeq: 1 REGISTER\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    fn logged(head: &str, message: &str) -> String {
        format!(
            "{head}<--- Transmitting SIP request ({} bytes) to UDP:192.0.2.7:5060 --->\n{}\n",
            message.len(),
            message.replace('\r', "")
        )
    }

    const HEAD: &str = "[Nov 22 18:32:21] VERBOSE[20927] res_pjsip_logger.c: ";
    const OTHER: &str = "[Nov 22 18:32:22] NOTICE[3] chan_pjsip.c: something else\n";

    #[test]
    fn every_message_of_the_recording_is_whole_but_the_last() {
        let (items, report) = items(RECORDED, options());
        let seen = seen(&items);
        assert_eq!((report.messages, report.cut, report.not_sip, report.undated), (279, 1, 0, 0));
        assert_eq!((report.bytes, report.lines), (182_000, 3699));
        assert_eq!(seen.iter().filter(|seen| seen.direction == Some(Direction::Out)).count(), 201);
        let first = seen[0];
        assert_eq!((first.at, first.source), (at("2026-11-22T18:32:21Z"), Source::Logger));
        assert_eq!((first.transport, first.from), (Some(Transport::Udp), None));
        assert_eq!(first.to, Some("127.0.0.1:5093".parse().unwrap()));
        let sip = first.sip().unwrap();
        assert_eq!((sip.method(), sip.raw().len()), (Some("REGISTER"), 570));
        let answer = seen.iter().find(|seen| seen.direction == Some(Direction::In)).unwrap();
        assert_eq!((answer.sip().unwrap().status(), answer.to), (Some(401), None));
        assert_eq!(answer.from, Some("127.0.0.1:5080".parse().unwrap()));
        for seen in &seen[..278] {
            let sip = seen.sip().unwrap();
            assert!(sip.defects().is_empty() && sip.call_id().is_some(), "{sip:?}");
        }
        assert_eq!(report.last, Some(at("2026-11-22T18:32:45Z")));
    }

    #[test]
    fn the_lines_of_the_recording_that_prove_a_cause_are_found() {
        let (items, report) = items(RECORDED, options());
        let facts = facts(&items);
        assert_eq!((facts.len(), report.facts), (57, 57));
        let count = |wanted: &dyn Fn(&LogFactKind) -> bool| facts.iter().filter(|fact| wanted(&fact.kind)).count();
        assert_eq!(count(&|kind| matches!(kind, LogFactKind::Temporary { code: 401, .. })), 16);
        assert_eq!(count(&|kind| matches!(kind, LogFactKind::Temporary { code: 503, .. })), 4);
        assert_eq!(count(&|kind| matches!(kind, LogFactKind::NoResponse { .. })), 8);
        assert_eq!(count(&|kind| matches!(kind, LogFactKind::FatalRetrying { code: 403, .. })), 1);
        assert_eq!(count(&|kind| *kind == LogFactKind::NotAnswered), 6);
        assert_eq!(count(&|kind| *kind == LogFactKind::CredentialsRefused), 10);
        let offered = LogFactKind::NoMatchingAuth { offered: vec![("provider.example".into(), "MD5".into())] };
        let unmatched: Vec<_> = facts.iter().filter(|fact| fact.kind == offered).collect();
        // Half of them are qualifies', which no line names.
        let of_register = unmatched.iter().filter(|fact| fact.client_uri.is_some()).count();
        assert_eq!((unmatched.len(), of_register), (12, 6));
        let named = unmatched.iter().find(|fact| fact.client_uri.is_some()).unwrap();
        assert_eq!(named.server_uri.as_deref(), Some("sip:127.0.0.1:5080"));
        assert_eq!(named.client_uri.as_deref(), Some("sip:acct3@127.0.0.1:5080"));
        let dns = facts.iter().find(|fact| matches!(fact.kind, LogFactKind::NoResponse { .. })).unwrap();
        assert_eq!(dns.kind, LogFactKind::NoResponse { retry_in: Some(Duration::from_secs(5)) });
        assert_eq!(dns.server_uri.as_deref(), Some("sip:nosuchhost.invalid"));
        assert!(dns.detail.starts_with("No response received"), "{}", dns.detail);
    }

    fn one_fact(text: &str) -> LogFact {
        let (items, _) = items(format!("[Nov 22 18:32:21] WARNING[7]{text}\n").as_bytes(), options());
        let facts = facts(&items);
        assert_eq!(facts.len(), 1, "{text}");
        facts[0].clone()
    }

    #[test]
    fn each_line_that_proves_a_cause_is_read() {
        const OR: &str = " res_pjsip_outbound_registration.c: ";
        let kind = |text: &str| one_fact(&format!("{OR}{text}")).kind;
        let in_s = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(
            kind("'404' fatal response received from 's' on registration attempt to 'c', retrying in '30' seconds"),
            LogFactKind::FatalRetrying { code: 404, retry_in: in_s(30) }
        );
        let fact = one_fact(&format!(
            "{OR}Fatal response '403' received from 'sip:s' on registration attempt to 'sip:c', stopping outbound registration"
        ));
        assert_eq!(fact.kind, LogFactKind::FatalStopped { code: 403 });
        assert_eq!((fact.server_uri.as_deref(), fact.client_uri.as_deref()), (Some("sip:s"), Some("sip:c")));
        assert_eq!(
            kind("No response received from 's' on registration attempt to 'c', stopping outbound registration"),
            LogFactKind::NoResponse { retry_in: None }
        );
        let fact = one_fact(&format!(
            "{OR}Maximum retries reached when attempting outbound registration to 'sip:s' with client 'sip:c', stopping registration attempt"
        ));
        assert_eq!((fact.kind, fact.client_uri.as_deref()), (LogFactKind::GaveUp, Some("sip:c")));
        const DG: &str = " res_pjsip_outbound_authenticator_digest.c: noendpoint:192.0.2.1: ";
        let kind = |text: &str| one_fact(&format!("{DG}{text}")).kind;
        assert_eq!(
            kind("No auth objects matching realm/algorithm(s) 'it's a/realm/SHA-256, b/' from challenge found."),
            LogFactKind::NoMatchingAuth {
                offered: vec![("it's a/realm".into(), "SHA-256".into()), ("b".into(), String::new())]
            }
        );
        assert_eq!(
            kind("No auth objects matching realm/algorithm(s) '' from challenge found."),
            LogFactKind::NoMatchingAuth { offered: Vec::new() }
        );
        assert_eq!(kind("There were no auth ids available"), LogFactKind::NoAuth);
        assert_eq!(
            kind("Couldn't find auth 'my-auht'. Cannot authenticate"),
            LogFactKind::AuthNotFound { name: "my-auht".into() }
        );
        assert_eq!(kind("Failed to set initial authentication credentials"), LogFactKind::CredentialsNotSet);
        let file = |file: &str, text: &str| one_fact(&format!(" {file}: {text}")).kind;
        assert_eq!(
            file("res_pjsip/pjsip_configuration.c", "Auth object 'x' could not be found"),
            LogFactKind::AuthNotFound { name: "x".into() }
        );
        assert_eq!(
            file("res_pjsip.c", "No SIP outbound authenticator registered. Assuming authentication is not required"),
            LogFactKind::NoAuthenticator
        );
        assert_eq!(
            file(
                "res_pjsip/pjsip_distributor.c",
                "Request 'INVITE' from '\"it's' <sip:1@x>' failed for '192.0.2.9:5060' (callid: 9a66@x) - No matching endpoint found"
            ),
            LogFactKind::Unidentified {
                method: "INVITE".into(),
                remote: Some("192.0.2.9:5060".parse().unwrap()),
                call_id: Some("9a66@x".into()),
            }
        );
        assert_eq!(
            file("res_pjsip_outbound_registration.c", "Received REGISTER response 503(Connection refused)"),
            LogFactKind::Outcome { code: 503, reason: "Connection refused".into() }
        );
    }

    #[test]
    fn an_unanswered_challenge_names_its_registration_through_the_next_line_of_its_thread() {
        let log = "\
            [Nov 22 18:32:21] NOTICE[7] res_pjsip/x.c: Couldn't find auth 'typo'. Cannot authenticate\n\
            [Nov 22 18:32:21] WARNING[7] res_pjsip/x.c: Failed to set initial authentication credentials\n\
            [Nov 22 18:32:21] ERROR[8] res_pjsip_outbound_authenticator_digest.c: There were no auth ids available\n\
            [Nov 22 18:32:21] WARNING[8] res_pjsip_outbound_registration.c: Temporal response '503' received from 's1' on registration attempt to 'c1', retrying in '7'\n\
            [Nov 22 18:32:21] DEBUG[7] res_pjsip/x.c: of no interest\n\
            [Nov 22 18:32:21] WARNING[7] res_pjsip_outbound_registration.c: Failed to create authenticated REGISTER request to server 's2' from client 'c2'\n";
        let (items, _) = items(log.as_bytes(), options());
        let read: Vec<_> = facts(&items)
            .iter()
            .map(|fact| (fact.detail.split(' ').next().unwrap(), fact.client_uri.as_deref()))
            .collect();
        assert_eq!(
            read,
            [
                ("There", None),
                ("Temporal", Some("c1")),
                ("Couldn't", Some("c2")),
                ("Failed", Some("c2")),
                ("Failed", Some("c2"))
            ]
        );
    }

    #[test]
    fn messages_are_read_whatever_stands_before_them() {
        let message = sip("a", "");
        for (head, date) in [
            (HEAD, "2026-11-22T18:32:21Z"),
            ("[Nov  2 18:32:21.25] VERBOSE[1][C-0000001a] res_pjsip_logger.c: ", "2026-11-02T18:32:21.25Z"),
            ("[2025-01-02 03:04:05.678] VERBOSE[1] res_pjsip_logger.c: ", "2025-01-02T03:04:05.678Z"),
            ("[2025-01-02T03:04:05.678+0530] VERBOSE[1]: res_pjsip_logger.c:329 in f: ", "2025-01-01T21:34:05.678Z"),
            ("[2025-01-02 03:04:05] ", "2025-01-02T03:04:05Z"),
            ("\x1b[0K[Nov 22 18:32:21] \x1b[1;32mVERBOSE\x1b[0m[1]: ", "2026-11-22T18:32:21Z"),
            ("", "1970-01-01T00:00:00Z"),
            ("VERBOSE[1]: ", "1970-01-01T00:00:00Z"),
            ("Nov 22 18:32:21 pbx1 asterisk[99]: VERBOSE[1]: res_pjsip_logger.c:329 in f: ", "2026-11-22T18:32:21Z"),
            ("2025-01-02T03:04:05.5+00:00 pbx1 asterisk[99]: VERBOSE[1]: x: ", "2025-01-02T03:04:05.5Z"),
        ] {
            let log = format!("{}{OTHER}", logged(head, &message));
            for log in [log.clone(), log.replace('\n', "\r\n")] {
                let (items, report) = items(log.as_bytes(), options());
                let seen = seen(&items);
                assert_eq!((seen.len(), report.cut), (1, 0), "{head:?}");
                assert_eq!(seen[0].sip().unwrap().raw(), message.as_bytes(), "{head:?}");
                assert_eq!(seen[0].at, at(date), "{head:?}");
            }
        }
    }

    #[test]
    fn a_message_in_one_line_of_json_or_syslog_is_read() {
        let message = sip("a", "body\r\n");
        let text = format!(
            "<--- Received SIP request ({} bytes) from TLS:[2001:db8::1]:5061 --->\n{message}\n",
            message.len()
        );
        let json = serde_json::json!({
            "hostname": "pbx1",
            "timestamp": "2025-01-02 03:04:05.678",
            "identifiers": { "lwp": 12, "callid": "" },
            "logmsg": {
                "location": { "filename": "res_pjsip_logger.c", "function": "f", "line": 1 },
                "level": "VERBOSE", "message": text
            }
        });
        let syslog = format!(
            "Jan  2 03:04:05 pbx1 asterisk[99]: VERBOSE[1]: res_pjsip_logger.c:1 in f: {}",
            text.replace('\r', "#015").replace('\n', "#012")
        );
        for log in [json.to_string(), syslog] {
            let (items, _) = items(format!("{log}\n").as_bytes(), options());
            let seen = seen(&items);
            assert_eq!(seen[0].sip().unwrap().raw(), message.as_bytes(), "{log}");
            assert_eq!((seen[0].transport, seen[0].direction), (Some(Transport::Tls), Some(Direction::In)));
            assert_eq!((seen[0].from, seen[0].to), (Some("[2001:db8::1]:5061".parse().unwrap()), None));
        }
    }

    #[test]
    fn the_bytes_named_in_the_head_end_a_message() {
        for body in ["", "v=0\r\no=-\r\n", "no line end", "a\r\n\r\nb\r\n", "bare\nline\nends\n", "[1, 2]\r\n"] {
            let message = sip("a", body);
            let log = format!("{}{OTHER}{}", logged(HEAD, &message), logged(HEAD, &sip("b", "")));
            assert_eq!(texts(&log), [message.clone(), sip("b", "")], "{body:?}");
            assert_eq!(texts(&logged(HEAD, &message)), [message], "{body:?} at the end of the file");
        }
    }

    #[test]
    fn a_message_cut_short_ends_at_the_next_log_line() {
        let message = sip("a", "v=0\r\n");
        let whole = logged(HEAD, &message);
        let head = whole.find('\n').unwrap() + 1;
        for length in head..whole.len() - 1 {
            let log = format!("{}\n{OTHER}{}", &whole[..length], logged(HEAD, &sip("b", "")));
            let (items, report) = items(log.as_bytes(), options());
            let seen = seen(&items);
            let last = seen.last().unwrap().sip().unwrap();
            assert_eq!((last.call_id().as_deref(), last.raw().len()), (Some("b"), sip("b", "").len()), "{length}");
            assert!(seen.len() == 2 || report.not_sip == 1 || length < head + 10, "{length}: {report:?}");
            if seen.len() == 2 {
                let cut = seen[0].sip().unwrap().raw();
                assert!(message.as_bytes().starts_with(cut.trim_ascii_end()), "{length}: {cut:?}");
            }
        }
    }

    #[test]
    fn lines_cut_to_a_width_cost_the_ends_of_the_lines_only() {
        let message = sip("a", "").replace(
            "Call-ID",
            "X-Long: 0123456789012345678901234567890123456789012345678901234567890123456789\r\nCall-ID",
        );
        let cut: String = logged(HEAD, &message)
            .lines()
            .enumerate()
            .map(|(at, line)| if at == 0 { format!("{line}\n") } else { format!("{}\n", &line[..line.len().min(40)]) })
            .collect();
        let (items, report) = items(format!("{cut}{OTHER}{}", logged(HEAD, &sip("b", ""))).as_bytes(), options());
        let ids: Vec<_> = seen(&items).iter().map(|seen| seen.sip().unwrap().call_id().unwrap().into_owned()).collect();
        assert_eq!((ids, report.cut), (vec!["a".to_owned(), "b".to_owned()], 1));
    }

    #[test]
    fn what_stands_within_a_message_is_taken_out_of_it() {
        let (a, b) = (sip("a", "v=0\r\no=-\r\n"), sip("b", ""));
        let whole = logged(HEAD, &a);
        let lines: Vec<&str> = whole.lines().collect();
        for at in 1..7 {
            for between in [OTHER.to_owned(), format!("{OTHER}  more of it\n"), logged(HEAD, &b)] {
                let (before, after) = lines.split_at(at);
                let log = format!("{}\n{between}{}\n", before.join("\n"), after.join("\n"));
                let mut read = texts(&log);
                read.sort();
                assert!(read.contains(&a), "after line {at}, {between:?}: {read:?}");
                assert_eq!(read.contains(&b), between.contains("Call-ID: b"), "after line {at}");
            }
        }
    }

    #[test]
    fn a_year_that_is_not_written_is_the_latest_possible_or_counted_on() {
        let log = format!(
            "[Dec 31 23:59:59] x\n{}[Jan  1 00:00:00] x\n{}[Dec 31 23:59:59] x\n{}[Jan  1 00:00:01] x\n{}",
            logged("", &sip("a", "")),
            logged("", &sip("b", "")),
            logged("", &sip("c", "")),
            logged("", &sip("d", "")),
        );
        let years = |options| {
            let (items, _) = items(log.as_bytes(), options);
            seen(&items).iter().map(|seen| seen.at.strftime("%Y").to_string()).collect::<Vec<_>>()
        };
        assert_eq!(years(LoggerOptions { year: Some(2025), ..options() }), ["2025", "2026", "2025", "2026"]);
        let bound = LoggerOptions { year: None, not_after: Some(at("2026-01-05T00:00:00Z")), ..options() };
        assert_eq!(years(bound), ["2025", "2026", "2025", "2026"]);
        assert_eq!(years(LoggerOptions { year: None, ..options() }), ["1970", "1971", "1970", "1971"]);
        let leap = LoggerOptions { year: None, not_after: Some(at("2026-01-05T00:00:00Z")), ..options() };
        let (items, _) = items(logged("[Feb 29 12:00:00] ", &sip("a", "")).as_bytes(), leap);
        assert_eq!(seen(&items)[0].at, at("2024-02-29T12:00:00Z"));
    }

    #[test]
    fn times_are_those_of_the_zone() {
        let zone = TimeZone::get("Asia/Kolkata").unwrap();
        let (items, report) = items(logged(HEAD, &sip("a", "")).as_bytes(), LoggerOptions { zone, ..options() });
        assert_eq!(seen(&items)[0].at, at("2026-11-22T13:02:21Z"));
        assert_eq!((report.first, report.last), (Some(at("2026-11-22T13:02:21Z")), report.first));
    }

    #[test]
    fn a_log_without_sip_is_read_and_a_reader_can_stop() {
        let (none, report) = items(b"nothing\nof the sort", options());
        assert!(none.is_empty());
        assert_eq!(report, LoggerReport { bytes: 19, lines: 2, ..LoggerReport::default() });
        let mut seen = 0;
        let mut stop = |_| {
            seen += 1;
            ControlFlow::Break(())
        };
        let mut told = Vec::new();
        let report = read(RECORDED, &mut stop, options(), &mut |bytes| told.push(bytes)).unwrap();
        assert_eq!((seen, report.stopped, told), (1, true, vec![report.bytes]));
        assert!(report.bytes < 10_000);
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let long = vec![b'x'; LINE_LIMIT * 3];
        let mut log = logged(HEAD, &sip("a", "")).into_bytes();
        log.extend_from_slice(&long);
        log.push(b'\n');
        log.extend_from_slice(logged(HEAD, &sip("b", "")).as_bytes());
        let (items, report) = items(&log, options());
        assert_eq!((seen(&items).len(), report.long_lines), (2, 1));
        assert_eq!(report.bytes, u64::try_from(log.len()).unwrap());
    }

    #[test]
    fn a_failing_file_says_how_far_it_was_read() {
        struct Failing(&'static [u8]);
        impl io::Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        impl BufRead for Failing {
            fn fill_buf(&mut self) -> io::Result<&[u8]> {
                if self.0.is_empty() { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(self.0) }
            }
            fn consume(&mut self, amount: usize) {
                self.0 = &self.0[amount..];
            }
        }
        let error =
            read(Failing(b"one\ntwo\n"), &mut |_| ControlFlow::Continue(()), options(), &mut |_| {}).unwrap_err();
        assert_eq!(error.to_string(), "reading the log failed after 8 bytes");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(
            pieces in proptest::collection::vec((0..12_usize, proptest::collection::vec(any::<u8>(), 0..30)), 0..30),
        ) {
            const PIECES: [&str; 12] = [
                "[Nov 22 18:32:21] ", "<--- Transmitting SIP request (", " bytes) to UDP:", " --->", "\n", "VERBOSE[1]",
                "REGISTER sip:x SIP/2.0\n", "Call-ID: x\n", "res_pjsip 'x' fatal response received from '", "[C-",
                "No auth objects matching realm/algorithm(s) '", "99999999999999999999",
            ];
            let mut log = Vec::new();
            for (piece, bytes) in &pieces {
                log.extend_from_slice(PIECES[*piece].as_bytes());
                log.extend_from_slice(bytes);
            }
            let (_, report) = items(&log, options());
            prop_assert_eq!(report.bytes, u64::try_from(log.len()).unwrap());
        }

        #[test]
        fn flipped_bits_in_the_recording_cost_what_they_hit_only(
            flips in proptest::collection::vec((0..20_000_usize, 0..8_u32), 1..5),
        ) {
            let mut log = RECORDED[..20_000].to_vec();
            let before = items(&log, options()).1.messages;
            for (at, bit) in &flips {
                log[*at] ^= 1 << bit;
            }
            let after = items(&log, options()).1.messages;
            prop_assert!(after + 2 * u64::try_from(flips.len()).unwrap() >= before, "{after} of {before}");
        }
    }
}
