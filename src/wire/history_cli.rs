//! What `pjsip show history` prints, over AMI `Command`: SIP evidence from a PBX without HEP.
//!
//! Separate from [`super::ami`] because it is text for people with a whole SIP message in it, and because getting the messages
//! of one registration out of it is a plan of many commands.
//!
//! Source: `res/res_pjsip_history.c`, and answers of Asterisk 22.10. Its traps, which shape this file:
//!
//! - A result of exactly one row is printed as that entry, whole; so every answer may be either ([`HistoryAnswer`]).
//! - A response has no method: `where sip.msg.request.method = …` finds requests only, and the Call-ID stands in entries only.
//!   Hence the plan of [`HistoryFetch`]: the rows of REGISTERs → one entry of each dialog → its Call-ID → `where
//!   sip.msg.call-id = …` → the entries of those rows.
//! - `entry N` takes an index, which is mostly, not always, the number shown. `where number = N` takes the number.
//! - `like` forgets the last character, and `addr` compared with what is no address matches everything: neither is used.
//! - The CLI takes quotes away before the expression is read, so a quoted word can still be an operator: only Call-IDs of
//!   harmless characters are asked for ([`of_dialog`]).
//! - It records everything of everybody, without bound, in memory: on for moments only, then off and cleared.
//! - A received message is not printed as it came but as Asterisk understood it, with a Content-Length of Asterisk's own beside
//!   the sender's.
//! - Times have no fraction; the order is that of the numbers.
//!
//! Assumes that lines of a message end with CR LF. Over AMI the CR of each line is inside of the value (`Output: Via: …\r`
//! and then AMI's own CR LF), from the CLI it is not, and both are read.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    net::SocketAddr,
};

use bytes::Bytes;
use thiserror::Error;

use super::{
    ami::{Message, action::LINE_LIMIT},
    sip::{Direction, Happening, Seen, SipError, SipMessage, Source, Transport},
};
use crate::clock::Timestamp;

/// Switches the recording on.
pub const ON: &str = "pjsip set history on";
/// Switches it off; what was recorded stays.
pub const OFF: &str = "pjsip set history off";
/// Forgets what was recorded; numbers begin anew.
pub const CLEAR: &str = "pjsip set history clear";

/// The most commands of one fetch: each is a round trip, and Asterisk answers them one after the other.
pub const MAX_COMMANDS: usize = 64;
/// The most messages fetched of one dialog: a whole unanswered REGISTER with its ten repetitions, or three challenged attempts.
const MAX_OF_A_DIALOG: usize = 12;
/// The most dialogs that are asked after again: each costs a command every time.
const MAX_FOLLOWED: usize = 16;
/// What is left of AMI's line for the CLI's.
const COMMAND_LIMIT: usize = LINE_LIMIT - "Command: \r\n".len();

/// An answer that gives no rows and no entry.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HistoryError {
    /// `res_pjsip_history.so` is not loaded.
    #[error("Asterisk has no SIP history: res_pjsip_history.so is not loaded")]
    NotLoaded,
    /// The expression was refused.
    #[error("Asterisk did not understand the command")]
    NotUnderstood,
    /// No such entry: cleared meanwhile.
    #[error("there is no such entry")]
    NoSuchEntry,
    /// AMI refused the command itself, such as for a missing right.
    #[error("Asterisk refused the command: {0}")]
    Refused(String),
    /// Output of another form. The text is not repeated: it may hold a digest.
    #[error("line {line} of the output is not understood")]
    Unreadable {
        /// Which line, from 1.
        line: usize,
    },
    /// The entry's message is no SIP.
    #[error("the entry holds no SIP message")]
    Sip(#[source] SipError),
}

/// A command that would not be safe.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HistoryCommandError {
    /// The Call-ID has characters, or is a word, that the expression could take for something else.
    #[error("the Call-ID cannot be asked for: it has characters or is a word of the expression's own")]
    CallId,
    /// AMI reads lines of 1024 bytes.
    #[error("the command has {0} bytes, AMI takes {COMMAND_LIMIT}")]
    TooLong(usize),
}

/// What a `pjsip set history …` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistorySwitch {
    /// It records.
    Enabled,
    /// It does not.
    Disabled,
    /// It has forgotten.
    Cleared,
}

/// One row of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRow {
    /// `No.`
    pub number: u64,
    /// Seconds since 1970.
    pub at_epoch: i64,
    /// `==>` out, `<==` in.
    pub direction: Direction,
    /// The far end as printed: cut at 24 characters, which a long IPv6 address and its port are not.
    pub address: String,
    /// The message's first line; the row is cut at 255 bytes.
    pub first_line: String,
}

impl HistoryRow {
    /// The Request-URI of a request of this method.
    #[must_use]
    pub fn request_uri(&self, method: &str) -> Option<&str> {
        let mut words = self.first_line.split(' ');
        (words.next() == Some(method)).then(|| words.next()).flatten()
    }
}

/// One entry: a whole message.
#[derive(Debug, Clone)]
pub struct HistoryEntry {
    /// Its number, or with `entry N` its index.
    pub number: u64,
    /// Which way.
    pub direction: Direction,
    /// The far end.
    pub remote: SocketAddr,
    /// When, to the second.
    pub at: Timestamp,
    /// The message.
    pub message: SipMessage,
}

impl HistoryEntry {
    /// The entry as evidence. Its time has no fraction: entries of one second are in order by their number only.
    #[must_use]
    pub fn into_seen(self) -> Seen {
        let transport = match self.message.via().map(|via| via.transport).as_deref() {
            Some("UDP") => Some(Transport::Udp),
            Some("TCP") => Some(Transport::Tcp),
            Some("TLS") => Some(Transport::Tls),
            Some("WS" | "WSS") => Some(Transport::Ws),
            Some(_) | None => None,
        };
        let (from, to) = match self.direction {
            Direction::Out => (None, Some(self.remote)),
            Direction::In => (Some(self.remote), None),
        };
        Seen {
            at: self.at,
            source: Source::History,
            direction: Some(self.direction),
            transport,
            from,
            to,
            what: Happening::Sip(Box::new(self.message)),
        }
    }
}

/// What a `pjsip show history …` printed: whichever was asked for, one row comes as an entry.
#[derive(Debug, Clone)]
pub enum HistoryAnswer {
    /// Any number of rows but one.
    Rows(Vec<HistoryRow>),
    /// One entry.
    Entry(Box<HistoryEntry>),
}

/// Reads the answer to [`ON`], [`OFF`] or [`CLEAR`].
///
/// # Errors
/// [`HistoryError`].
pub fn parse_switch(response: &Message) -> Result<HistorySwitch, HistoryError> {
    let lines = Lines::of(response)?;
    for line in lines.texts() {
        match line.trim().strip_prefix("PJSIP History ") {
            Some("enabled") => return Ok(HistorySwitch::Enabled),
            Some("disabled") => return Ok(HistorySwitch::Disabled),
            Some("cleared") => return Ok(HistorySwitch::Cleared),
            Some(_) | None => {}
        }
    }
    Err(HistoryError::Unreadable { line: 1 })
}

/// Reads the answer to [`all`], [`registers`], [`of_dialog`], [`entry`] or any other `pjsip show history`.
///
/// # Errors
/// [`HistoryError`].
pub fn parse(response: &Message) -> Result<HistoryAnswer, HistoryError> {
    let lines = Lines::of(response)?;
    let Some((at, first)) = lines.0.iter().enumerate().find(|(_, line)| !is_blank(line)) else {
        return Err(HistoryError::Unreadable { line: 1 });
    };
    if first.starts_with(b"<---") {
        let head = entry_head(&String::from_utf8_lossy(first)).ok_or(HistoryError::Unreadable { line: at + 1 })?;
        let message = SipMessage::parse(message_of(&lines.0[at + 1..])).map_err(HistoryError::Sip)?;
        let (number, direction, remote, at) = head;
        return Ok(HistoryAnswer::Entry(Box::new(HistoryEntry { number, direction, remote, at, message })));
    }
    let mut rows = Vec::new();
    for (at, line) in lines.texts().enumerate() {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with("No.") || line.starts_with("=====") {
            continue;
        }
        rows.push(row(line).ok_or(HistoryError::Unreadable { line: at + 1 })?);
    }
    Ok(HistoryAnswer::Rows(rows))
}

/// The values of the `Output` headers as they are, CR at the end included.
struct Lines<'a>(Vec<&'a [u8]>);

impl<'a> Lines<'a> {
    /// From the wire and not through [`Message::output`]: that hides what looks like a secret, and a trailing CR.
    fn of(response: &'a Message) -> Result<Self, HistoryError> {
        let lines: Vec<&[u8]> = response
            .expose_wire()
            .split(|byte| *byte == b'\n')
            .filter_map(|line| {
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                let name = line.get(..7)?;
                let value = line.get(7..)?;
                name.eq_ignore_ascii_case(b"Output:").then(|| value.strip_prefix(b" ").unwrap_or(value))
            })
            .collect();
        let lines = Self(lines);
        let first = lines.texts().map(|line| line.trim().to_owned()).find(|line| !line.is_empty());
        if let Some(first) = first.as_deref().filter(|line| !line.starts_with("<---")) {
            if first.starts_with("No such command") {
                return Err(HistoryError::NotLoaded);
            }
            if first.starts_with("Entry '") && first.ends_with("does not exist") {
                return Err(HistoryError::NoSuchEntry);
            }
            if first.starts_with("Command '") && first.ends_with("failed.") {
                return Err(HistoryError::NotUnderstood);
            }
        }
        if response.is_error() {
            let said = response.get("Message").unwrap_or_default().into_owned();
            return Err(HistoryError::Refused(said));
        }
        Ok(lines)
    }

    fn texts(&self) -> impl Iterator<Item = std::borrow::Cow<'a, str>> {
        self.0.iter().map(|line| String::from_utf8_lossy(line))
    }
}

fn is_blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}

/// `00002 1795374875 * <== 127.0.0.1:6080           SIP/2.0 401 Unauthorized`
fn row(line: &str) -> Option<HistoryRow> {
    let (number, rest) = line.trim_start().split_once(' ')?;
    let (at, rest) = rest.trim_start().split_once(' ')?;
    let rest = rest.trim_start().strip_prefix('*').unwrap_or(rest).trim_start();
    let (arrow, rest) = rest.split_once(' ')?;
    let direction = match arrow {
        "==>" => Direction::Out,
        "<==" => Direction::In,
        _ => return None,
    };
    let (address, first_line) = rest.trim_start().split_once(' ')?;
    Some(HistoryRow {
        number: number.parse().ok()?,
        at_epoch: at.parse().ok()?,
        direction,
        address: address.to_owned(),
        first_line: first_line.trim().to_owned(),
    })
}

/// `<--- History Entry 2 Received from 127.0.0.1:6080 at 1795374875 --->`
fn entry_head(line: &str) -> Option<(u64, Direction, SocketAddr, Timestamp)> {
    let rest = line.trim().strip_prefix("<--- History Entry ")?.strip_suffix("--->")?.trim_end();
    let (number, rest) = rest.split_once(' ')?;
    let (direction, rest) = match (rest.strip_prefix("Sent to "), rest.strip_prefix("Received from ")) {
        (Some(rest), _) => (Direction::Out, rest),
        (None, Some(rest)) => (Direction::In, rest),
        (None, None) => return None,
    };
    let (remote, at) = rest.split_once(" at ")?;
    let at = at.trim().split('.').next()?.parse().ok()?;
    Some((number.parse().ok()?, direction, remote.parse().ok()?, Timestamp::from_second(at).ok()?))
}

/// The message as it was sent, from its lines, less the line ends the CLI adds.
fn message_of(lines: &[&[u8]]) -> Bytes {
    let head = lines.iter().take_while(|line| !is_blank(line));
    // Over AMI the lines have kept their CR; from elsewhere they have not.
    let end: &[u8] = if head.clone().any(|line| line.ends_with(b"\r")) { b"\n" } else { b"\r\n" };
    let mut raw = Vec::with_capacity(lines.iter().map(|line| line.len() + 2).sum());
    let mut body_at = None;
    for line in lines {
        raw.extend_from_slice(line);
        raw.extend_from_slice(end);
        if body_at.is_none() && is_blank(line) {
            body_at = Some(raw.len());
        }
    }
    if let Some(body_at) = body_at {
        // What follows is the body and then blank lines of the CLI's.
        let body = raw.get(body_at..).unwrap_or_default();
        let printed = body.iter().rposition(|byte| !byte.is_ascii_whitespace()).map_or(0, |last| last + 1);
        let with_line_end = body.get(printed..).is_some_and(|rest| rest.starts_with(b"\r\n"));
        raw.truncate(body_at + printed + if printed > 0 && with_line_end { 2 } else { 0 });
    }
    raw.into()
}

/// Everything newer than a number.
#[must_use]
pub fn all(newer_than: Option<u64>) -> String {
    match newer_than {
        Some(number) => format!("pjsip show history where number > {number}"),
        None => "pjsip show history".to_owned(),
    }
}

/// The REGISTER requests newer than a number, of us and of phones.
#[must_use]
pub fn registers(newer_than: Option<u64>) -> String {
    match newer_than {
        Some(number) => {
            format!("pjsip show history where number > {number} and sip.msg.request.method = \"REGISTER\"")
        }
        None => "pjsip show history where sip.msg.request.method = \"REGISTER\"".to_owned(),
    }
}

/// The requests and responses of one Call-ID, newer than a number.
///
/// # Errors
/// [`HistoryCommandError`]: Asterisk's own Call-IDs, which are UUIDs, always pass; those of strangers may not.
pub fn of_dialog(call_id: &str, newer_than: Option<u64>) -> Result<String, HistoryCommandError> {
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"-._@:+~%[]*".contains(&byte);
    let is_word = ["and", "or", "not", "like"].iter().any(|word| call_id.eq_ignore_ascii_case(word));
    if call_id.is_empty() || is_word || !call_id.bytes().all(harmless) {
        return Err(HistoryCommandError::CallId);
    }
    let command = match newer_than {
        Some(number) => format!("pjsip show history where number > {number} and sip.msg.call-id = \"{call_id}\""),
        None => format!("pjsip show history where sip.msg.call-id = \"{call_id}\""),
    };
    if command.len() > COMMAND_LIMIT { Err(HistoryCommandError::TooLong(command.len())) } else { Ok(command) }
}

/// One entry, by the number shown.
#[must_use]
pub fn entry(number: u64) -> String {
    format!("pjsip show history where number = {number}")
}

type Predicate<T> = Box<dyn Fn(&T) -> bool + Send + Sync>;

/// Which of our REGISTERs are wanted.
pub struct HistoryWanted {
    request_uri: Predicate<str>,
    message: Predicate<SipMessage>,
}

impl fmt::Debug for HistoryWanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HistoryWanted").finish_non_exhaustive()
    }
}

impl HistoryWanted {
    /// Every REGISTER that Asterisk sends.
    #[must_use]
    pub fn everything() -> Self {
        Self { request_uri: Box::new(|_| true), message: Box::new(|_| true) }
    }

    /// What these two say: of a Request-URI, before anything is fetched, and then of a fetched REGISTER.
    #[must_use]
    pub fn when(
        request_uri: impl Fn(&str) -> bool + Send + Sync + 'static,
        message: impl Fn(&SipMessage) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { request_uri: Box::new(request_uri), message: Box::new(message) }
    }

    /// The registrations with these `server_uri` and `client_uri`, as configured.
    ///
    /// Compared are user, host and port of the Request-URI, and user and host of From, where a URI has no port (RFC 3261
    /// section 19.1.1) and Asterisk writes none.
    #[must_use]
    pub fn registrations(uris: impl IntoIterator<Item = (String, String)>) -> Self {
        let uris: Vec<_> = uris.into_iter().collect();
        let servers: BTreeSet<_> = uris.iter().map(|(server, _)| address_of(server).to_ascii_lowercase()).collect();
        let clients: BTreeSet<_> =
            uris.iter().map(|(_, client)| without_port(address_of(client)).to_ascii_lowercase()).collect();
        Self::when(
            move |uri| servers.contains(&address_of(uri).to_ascii_lowercase()),
            move |message| {
                message.header("From").is_some_and(|from| {
                    let uri = from.split_once('<').map_or(&*from, |(_, uri)| uri);
                    clients.contains(&without_port(address_of(uri)).to_ascii_lowercase())
                })
            },
        )
    }
}

/// `user@host:port` of a URI.
fn address_of(uri: &str) -> &str {
    let uri = uri.trim();
    let rest = ["sip:", "sips:"].iter().find_map(|scheme| {
        uri.get(..scheme.len()).filter(|start| start.eq_ignore_ascii_case(scheme)).and(uri.get(scheme.len()..))
    });
    let rest = rest.unwrap_or(uri);
    rest.split([';', '?', '>', ' ']).next().unwrap_or(rest)
}

fn without_port(address: &str) -> &str {
    match address.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) | None => address,
    }
}

/// How far the history was read, between fetches. New after [`CLEAR`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryMark {
    /// REGISTERs up to this number are known.
    number: Option<u64>,
    /// Dialogs whose responses may still come, the latest last.
    dialogs: VecDeque<String>,
    /// Numbers above the mark that were fetched already.
    had: BTreeSet<u64>,
}

impl HistoryMark {
    /// The highest number up to which all REGISTERs are known.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        self.number
    }
}

/// What a fetch brought.
#[derive(Debug, Clone)]
pub struct HistoryHaul {
    /// The messages, in the order of their numbers.
    pub entries: Vec<HistoryEntry>,
    /// Where the next fetch goes on.
    pub mark: HistoryMark,
    /// Commands spent.
    pub commands: usize,
    /// Whether everything wanted was fetched. If not, older attempts or older messages of an attempt are missing.
    pub complete: bool,
}

/// Fetches the messages of our registrations that are newer than a mark: says which command to send, takes its answer, and so on.
///
/// Guarantees: at most [`MAX_COMMANDS`] commands, and the newest attempts first. Dialogs of earlier fetches are asked after
/// again, since a response may come after its request was fetched.
///
/// Assumes that one person records: should somebody clear the history between two fetches, the mark is too high and nothing is
/// found until the numbers have passed it.
#[derive(Debug)]
pub struct HistoryFetch {
    wanted: HistoryWanted,
    before: HistoryMark,
    steps: VecDeque<Step>,
    /// What the command sent last was for.
    pending: Option<Step>,
    /// Rows of our REGISTERs of which it is not known yet which dialog they belong to; taken from the end, the newest.
    candidates: BTreeSet<u64>,
    dialogs: VecDeque<String>,
    unwanted: BTreeSet<String>,
    had: BTreeSet<u64>,
    entries: BTreeMap<u64, HistoryEntry>,
    highest: Option<u64>,
    commands: usize,
    complete: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// The rows of REGISTERs.
    Registers,
    /// The rows of a dialog: wanted ones are fetched, those of an unwanted one are only ruled out.
    Dialog { call_id: String, wanted: bool },
    /// One entry of a wanted dialog.
    Message(u64),
    /// One REGISTER, to see whose it is.
    Candidate(u64),
}

impl HistoryFetch {
    /// A fetch of what is newer than `mark`.
    #[must_use]
    pub fn new(mark: HistoryMark, wanted: HistoryWanted) -> Self {
        let mut steps = VecDeque::from([Step::Registers]);
        let follow = |call_id: &String| Step::Dialog { call_id: call_id.clone(), wanted: true };
        steps.extend(mark.dialogs.iter().rev().map(follow));
        Self {
            wanted,
            dialogs: mark.dialogs.clone(),
            had: mark.had.clone(),
            highest: mark.number,
            before: mark,
            steps,
            pending: None,
            candidates: BTreeSet::new(),
            unwanted: BTreeSet::new(),
            entries: BTreeMap::new(),
            commands: 0,
            complete: true,
        }
    }

    /// The next command to send, whose answer [`HistoryFetch::take`] wants; `None` when all is fetched.
    pub fn next_command(&mut self) -> Option<String> {
        loop {
            let newest = |candidates: &mut BTreeSet<u64>| candidates.pop_last().map(Step::Candidate);
            let step = self.steps.pop_front().or_else(|| newest(&mut self.candidates))?;
            let command = match &step {
                Step::Registers => Ok(registers(self.before.number)),
                Step::Dialog { call_id, .. } => of_dialog(call_id, self.before.number),
                Step::Message(number) | Step::Candidate(number) if self.had.contains(number) => continue,
                Step::Message(number) | Step::Candidate(number) => Ok(entry(*number)),
            };
            let Ok(command) = command else {
                self.complete = false;
                continue;
            };
            if self.commands == MAX_COMMANDS {
                self.complete = false;
                self.steps.clear();
                self.candidates.clear();
                return None;
            }
            self.commands += 1;
            self.pending = Some(step);
            return Some(command);
        }
    }

    /// Takes the answer to the last command.
    ///
    /// # Errors
    /// [`HistoryError`] where going on is of no use: the module is not loaded, the command refused or not understood. An entry
    /// that is gone or cannot be read is left out, and the haul is then not complete.
    pub fn take(&mut self, answer: &Message) -> Result<(), HistoryError> {
        let Some(step) = self.pending.take() else {
            return Ok(());
        };
        match parse(answer) {
            Ok(HistoryAnswer::Rows(rows)) => self.rows(&step, &rows),
            Ok(HistoryAnswer::Entry(entry)) => self.entry(&step, *entry),
            Err(HistoryError::NoSuchEntry | HistoryError::Unreadable { .. } | HistoryError::Sip(_)) => {
                self.complete = false;
            }
            Err(error @ (HistoryError::NotLoaded | HistoryError::NotUnderstood | HistoryError::Refused(_))) => {
                return Err(error);
            }
        }
        Ok(())
    }

    /// What was fetched.
    #[must_use]
    pub fn finish(self) -> HistoryHaul {
        let Self { mut dialogs, mut had, highest, entries, commands, complete, .. } = self;
        while dialogs.len() > MAX_FOLLOWED {
            dialogs.pop_front();
        }
        had.retain(|number| highest.is_none_or(|highest| *number > highest));
        HistoryHaul {
            entries: entries.into_values().collect(),
            mark: HistoryMark { number: highest, dialogs, had },
            commands,
            complete,
        }
    }

    fn rows(&mut self, step: &Step, rows: &[HistoryRow]) {
        match step {
            Step::Registers => {
                for row in rows {
                    self.highest = self.highest.max(Some(row.number));
                    let uri = row.request_uri("REGISTER");
                    // Those that come in are phones'.
                    if row.direction == Direction::Out && uri.is_some_and(|uri| (self.wanted.request_uri)(uri)) {
                        self.candidates.insert(row.number);
                    }
                }
            }
            Step::Dialog { wanted, .. } => {
                for row in rows {
                    self.candidates.remove(&row.number);
                }
                if *wanted {
                    let missing: BTreeSet<u64> =
                        rows.iter().map(|row| row.number).filter(|number| !self.had.contains(number)).collect();
                    self.complete &= missing.len() <= MAX_OF_A_DIALOG;
                    self.steps.extend(missing.iter().rev().take(MAX_OF_A_DIALOG).copied().map(Step::Message));
                }
            }
            // Gone, since it was listed.
            Step::Message(_) | Step::Candidate(_) => self.complete = false,
        }
    }

    fn entry(&mut self, step: &Step, entry: HistoryEntry) {
        match step {
            // The one REGISTER there is.
            Step::Registers => {
                self.highest = self.highest.max(Some(entry.number));
                let uri = entry.message.request_uri();
                if entry.direction == Direction::Out && uri.is_some_and(|uri| (self.wanted.request_uri)(uri)) {
                    self.candidate(entry);
                }
            }
            Step::Candidate(_) => self.candidate(entry),
            Step::Dialog { wanted, .. } => {
                self.candidates.remove(&entry.number);
                if *wanted {
                    self.keep(entry);
                }
            }
            Step::Message(_) => self.keep(entry),
        }
    }

    /// A REGISTER of ours: whose, and what else belongs to it?
    fn candidate(&mut self, entry: HistoryEntry) {
        let Some(call_id) = entry.message.call_id().map(std::borrow::Cow::into_owned) else {
            return;
        };
        self.candidates.remove(&entry.number);
        let wanted = (self.wanted.message)(&entry.message);
        let can_be_asked_for = of_dialog(&call_id, None).is_ok();
        if wanted {
            self.keep(entry);
            if let Some(at) = self.dialogs.iter().position(|known| *known == call_id) {
                self.dialogs.remove(at);
                self.dialogs.push_back(call_id);
            } else if can_be_asked_for {
                self.dialogs.push_back(call_id.clone());
                self.steps.push_back(Step::Dialog { call_id, wanted });
            } else {
                // Its requests are found one by one, its responses are not.
                self.complete = false;
            }
        } else if self.unwanted.insert(call_id.clone()) && self.candidates.len() > 1 && can_be_asked_for {
            // One command rules out all of its rows.
            self.steps.push_back(Step::Dialog { call_id, wanted });
        }
    }

    fn keep(&mut self, entry: HistoryEntry) {
        if self.had.insert(entry.number) {
            self.entries.insert(entry.number, entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RECORDED: &str = include_str!("../../tests/fixtures/history-output.txt");

    /// The answer over AMI to text the CLI printed.
    fn over_ami(printed: &str, word: &str) -> Message {
        let lines: String = printed.split('\n').map(|line| format!("Output: {line}\r\n")).collect();
        Message::from_text(&format!("Response: {word}\r\nMessage: Command output follows\r\n{lines}"))
    }

    /// The recorded answer to a command.
    fn recorded(command: &str) -> Message {
        let at = RECORDED.find(&format!("$ {command}\n")).unwrap_or_else(|| panic!("{command} was not recorded"));
        let rest = RECORDED[at..].split_once('\n').unwrap().1;
        let printed = rest.split("\n$ ").next().unwrap();
        over_ami(printed, if printed.contains("failed.") { "Error" } else { "Success" })
    }

    fn rows(answer: Result<HistoryAnswer, HistoryError>) -> Vec<HistoryRow> {
        match answer.unwrap() {
            HistoryAnswer::Rows(rows) => rows,
            HistoryAnswer::Entry(entry) => panic!("{entry:?}"),
        }
    }

    fn one(answer: Result<HistoryAnswer, HistoryError>) -> HistoryEntry {
        match answer.unwrap() {
            HistoryAnswer::Entry(entry) => *entry,
            HistoryAnswer::Rows(rows) => panic!("{rows:?}"),
        }
    }

    #[test]
    fn the_recorded_list_is_read_to_the_last_row() {
        let listed = rows(parse(&recorded("pjsip show history where sip.msg.request.method = \"REGISTER\"")));
        assert_eq!(listed.iter().map(|row| row.number).collect::<Vec<_>>(), [0, 5, 6, 9, 11, 12]);
        assert_eq!(
            listed[5],
            HistoryRow {
                number: 12,
                at_epoch: 1_795_374_875,
                direction: Direction::Out,
                address: "127.0.0.1:6092".to_owned(),
                first_line: "REGISTER sip:127.0.0.1:6092 SIP/2.0".to_owned(),
            }
        );
        assert_eq!(listed[5].request_uri("REGISTER"), Some("sip:127.0.0.1:6092"));
        let few = rows(parse(&recorded("pjsip show history where number < 3")));
        assert_eq!((few.len(), few[2].direction), (3, Direction::In));
        assert_eq!((few[2].first_line.as_str(), few[2].request_uri("REGISTER")), ("SIP/2.0 401 Unauthorized", None));
        assert!(rows(parse(&recorded("pjsip show history where number = 99999"))).is_empty());
    }

    #[test]
    fn a_single_row_comes_as_an_entry() {
        let entry = one(parse(&recorded("pjsip show history where number = 2")));
        assert_eq!((entry.number, entry.direction), (2, Direction::In));
        assert_eq!((entry.remote, entry.at.as_second()), ("127.0.0.1:6080".parse().unwrap(), 1_795_374_875));
        assert_eq!(entry.message.status(), Some(401));
        let entry = one(parse(&recorded("pjsip show history entry 1")));
        assert_eq!((entry.message.method(), entry.direction), (Some("OPTIONS"), Direction::Out));
        let seen = entry.into_seen();
        assert_eq!((seen.source, seen.transport), (Source::History, Some(Transport::Udp)));
        assert_eq!((seen.from, seen.to), (None, Some("127.0.0.1:6080".parse().unwrap())));
        let raw = seen.sip().unwrap().raw();
        assert!(raw.ends_with(b"Content-Length:  0\r\n\r\n"), "the CLI's own line ends are not the message's");
    }

    #[test]
    fn errors_are_told_apart() {
        let error = |answer| parse(&answer).unwrap_err();
        assert_eq!(error(recorded("pjsip show history where bogus = 1")), HistoryError::NotUnderstood);
        assert_eq!(error(recorded("pjsip show history entry 99999")), HistoryError::NoSuchEntry);
        let unknown =
            "No such command 'pjsip show history' (type 'core show help pjsip show' for other possible commands)";
        assert_eq!(error(over_ami(unknown, "Success")), HistoryError::NotLoaded);
        assert_eq!(error(over_ami(unknown, "Error")), HistoryError::NotLoaded);
        assert_eq!(parse_switch(&over_ami(unknown, "Error")), Err(HistoryError::NotLoaded));
        let denied = Message::from_text("Response: Error\r\nMessage: Permission denied\r\n");
        assert_eq!(error(denied), HistoryError::Refused("Permission denied".to_owned()));
        assert_eq!(error(over_ami("", "Success")), HistoryError::Unreadable { line: 1 });
        assert_eq!(error(over_ami("No. Timestamp\nsomething new", "Success")), HistoryError::Unreadable { line: 2 });
        assert_eq!(
            error(over_ami("<--- History Entry 1 Seen at nowhere --->\n", "Success")),
            HistoryError::Unreadable { line: 1 }
        );
    }

    /// The recorded answer over AMI, byte for byte, to the command.
    fn recorded_ami(command: &str) -> Message {
        let recorded = include_str!("../../tests/fixtures/history-ami.txt");
        let at = recorded.rfind(&format!("## {command}\n")).unwrap_or_else(|| panic!("{command} was not recorded"));
        let answer = recorded[at..].split_once('\n').unwrap().1.split("\r\n\r\n").next().unwrap();
        Message::from_text(&format!("{answer}\r\n"))
    }

    #[test]
    fn answers_recorded_over_ami_are_read() {
        let listed = rows(parse(&recorded_ami(&registers(None))));
        assert!(listed.len() > 20 && listed.iter().all(|row| row.request_uri("REGISTER").is_some()));
        let call_id = "aded1489-b3fe-4fa4-ac20-e43793d54879";
        let dialog = rows(parse(&recorded_ami(&of_dialog(call_id, None).unwrap())));
        assert_eq!(dialog.iter().map(|row| row.number).take(4).collect::<Vec<_>>(), [34, 36, 37, 38]);
        let entries: Vec<_> = dialog[..4].iter().map(|row| one(parse(&recorded_ami(&entry(row.number))))).collect();
        let statuses: Vec<_> = entries.iter().map(|entry| entry.message.status()).collect();
        assert_eq!(statuses, [None, Some(401), None, Some(401)]);
        for (entry, row) in entries.iter().zip(&dialog) {
            assert_eq!((entry.number, entry.direction), (row.number, row.direction));
            assert_eq!(entry.message.call_id().as_deref(), Some(call_id));
            assert!(entry.message.raw().ends_with(b"Content-Length:  0\r\n\r\n"));
        }
        let credentials = entries[2].message.credentials();
        assert_eq!(credentials[0].username.as_deref(), Some("prov-wrong-password"));
        assert!(rows(parse(&recorded_ami(&entry(99999)))).is_empty());
        assert_eq!(parse(&recorded_ami("pjsip show history entry 99999")).unwrap_err(), HistoryError::NoSuchEntry);
        assert_eq!(
            parse(&recorded_ami("pjsip show history where bogus = 1")).unwrap_err(),
            HistoryError::NotUnderstood
        );
        assert_eq!(parse_switch(&recorded_ami(CLEAR)), Ok(HistorySwitch::Cleared));
        assert_eq!(parse_switch(&recorded_ami(OFF)), Ok(HistorySwitch::Disabled));
        assert_eq!(parse_switch(&recorded_ami(ON)), Ok(HistorySwitch::Enabled));
        // As without the module: a command that nobody has.
        assert_eq!(parse(&recorded_ami("pjsip show histori")).unwrap_err(), HistoryError::NotLoaded);
    }

    #[test]
    fn what_a_switch_did_is_read() {
        assert_eq!(parse_switch(&recorded(ON)), Ok(HistorySwitch::Enabled));
        assert_eq!(parse_switch(&recorded(OFF)), Ok(HistorySwitch::Disabled));
        assert_eq!(parse_switch(&over_ami("PJSIP History cleared", "Success")), Ok(HistorySwitch::Cleared));
        assert_eq!(parse_switch(&over_ami("PJSIP History", "Success")), Err(HistoryError::Unreadable { line: 1 }));
    }

    #[test]
    fn a_message_over_ami_is_the_message_that_was_sent() {
        let sip = "SIP/2.0 200 OK\r\nVia: SIP/2.0/TLS 192.0.2.1\r\nCall-ID: a\r\nContent-Length: 11\r\n\r\nv=0\r\n\r\no=x\r\n";
        let printed = format!("<--- History Entry 12345 Received from [2001:db8::1]:5061 at 1795374875 --->\n{sip}\n");
        let entry = one(parse(&over_ami(&printed, "Success")));
        assert_eq!(entry.message.raw(), sip.as_bytes());
        assert_eq!((entry.number, entry.remote), (12345, "[2001:db8::1]:5061".parse().unwrap()));
        assert_eq!(entry.into_seen().transport, Some(Transport::Tls));
        // As the CLI prints it to a terminal that drops CR.
        let entry = one(parse(&over_ami(&printed.replace('\r', ""), "Success")));
        assert_eq!(entry.message.raw(), sip.as_bytes());
    }

    #[test]
    fn a_password_in_a_message_is_still_evidence() {
        let sip = "REGISTER sip:secret SIP/2.0\r\nCall-ID: password\r\nAuthorization: Digest username=\"u\"\r\n\r\n";
        let printed = format!("<--- History Entry 1 Sent to 127.0.0.1:1 at 1 --->\n{sip}\n");
        assert_eq!(one(parse(&over_ami(&printed, "Success"))).message.raw(), sip.as_bytes());
    }

    #[test]
    fn no_call_id_can_change_the_command() {
        assert_eq!(
            of_dialog("65e8296b-bb9e-4b99-ba3e-f483b259974d@[2001:db8::1]", Some(7)).unwrap(),
            "pjsip show history where number > 7 and sip.msg.call-id = \"65e8296b-bb9e-4b99-ba3e-f483b259974d@[2001:db8::1]\""
        );
        for bad in [
            "",
            "a\"b",
            "a b",
            "a\\",
            "a\r\nAction: x",
            "a=b",
            "(a)",
            "a|b",
            "!a",
            "and",
            "NOT",
            "a\u{e9}",
            "a;b",
            "a>b",
        ] {
            assert_eq!(of_dialog(bad, None), Err(HistoryCommandError::CallId), "{bad:?}");
        }
        let longest = COMMAND_LIMIT - of_dialog("x", None).unwrap().len() + 1;
        assert_eq!(of_dialog(&"x".repeat(longest), None).unwrap().len(), COMMAND_LIMIT);
        assert_eq!(of_dialog(&"x".repeat(longest + 1), None), Err(HistoryCommandError::TooLong(COMMAND_LIMIT + 1)));
        crate::wire::ami::Action::command(&of_dialog(&"x".repeat(longest), None).unwrap()).expect("it fits AMI's line");
    }

    /// Asterisk's history, as far as our commands need it.
    #[derive(Default)]
    struct Recorder {
        messages: Vec<(Direction, String)>,
        asked: usize,
    }

    impl Recorder {
        fn register(&mut self, user: &str, host: &str, call_id: &str, direction: Direction) {
            self.messages.push((
                direction,
                format!(
                    "REGISTER sip:{host} SIP/2.0\r\nFrom: <sip:{user}@{host}>;tag=1\r\nCall-ID: {call_id}\r\nCSeq: 1 REGISTER\r\n\r\n"
                ),
            ));
        }

        fn response(&mut self, code: u16, call_id: &str) {
            self.messages
                .push((Direction::In, format!("SIP/2.0 {code} No\r\nCall-ID: {call_id}\r\nCSeq: 1 REGISTER\r\n\r\n")));
        }

        fn attempt(&mut self, user: &str, call_id: &str, codes: &[u16]) {
            for code in codes {
                self.register(user, "reg.example", call_id, Direction::Out);
                self.response(*code, call_id);
            }
        }

        fn answer(&mut self, command: &str) -> Message {
            self.asked += 1;
            let mut rest = command.strip_prefix("pjsip show history").unwrap().trim_start();
            rest = rest.strip_prefix("where ").unwrap_or(rest);
            let conditions: Vec<_> = rest.split(" and ").filter(|condition| !condition.is_empty()).collect();
            let found: Vec<_> = self
                .messages
                .iter()
                .enumerate()
                .filter(|(number, (_, text))| {
                    conditions.iter().all(|condition| {
                        let words: Vec<_> = condition.split(' ').collect();
                        let value = words[2].trim_matches('"');
                        match (words[0], words[1]) {
                            ("number", ">") => *number > value.parse().unwrap(),
                            ("number", "=") => *number == value.parse::<usize>().unwrap(),
                            ("sip.msg.request.method", "=") => text.starts_with(value),
                            ("sip.msg.call-id", "=") => text.contains(&format!("Call-ID: {value}\r\n")),
                            other => panic!("{other:?}"),
                        }
                    })
                })
                .collect();
            let mut printed = String::new();
            if let [(number, (direction, text))] = found.as_slice() {
                let way = if *direction == Direction::Out { "Sent to" } else { "Received from" };
                printed = format!("<--- History Entry {number} {way} 192.0.2.1:5060 at 17 --->\n{text}\n");
            } else {
                printed.push_str("No.   Timestamp  (Dir) Address                  SIP Message\n=====\n");
                for (number, (direction, text)) in found {
                    let arrow = if *direction == Direction::Out { "==>" } else { "<==" };
                    let first = text.lines().next().unwrap();
                    printed.push_str(&format!("{number:05} 17         * {arrow} 192.0.2.1:5060           {first}\n"));
                }
            }
            over_ami(&printed, "Success")
        }

        fn fetch(&mut self, mark: HistoryMark, wanted: HistoryWanted) -> HistoryHaul {
            self.asked = 0;
            let mut fetch = HistoryFetch::new(mark, wanted);
            while let Some(command) = fetch.next_command() {
                let answer = self.answer(&command);
                fetch.take(&answer).unwrap();
            }
            let haul = fetch.finish();
            assert_eq!(haul.commands, self.asked);
            haul
        }
    }

    fn numbers(haul: &HistoryHaul) -> Vec<u64> {
        haul.entries.iter().map(|entry| entry.number).collect()
    }

    #[test]
    fn all_messages_of_our_registers_are_fetched_responses_too() {
        let mut asterisk = Recorder::default();
        asterisk.attempt("a", "id-a", &[401, 401]);
        asterisk.register("phone", "reg.example", "id-phone", Direction::In);
        asterisk.attempt("b", "id-b", &[403]);
        let haul = asterisk.fetch(HistoryMark::default(), HistoryWanted::everything());
        assert_eq!(numbers(&haul), [0, 1, 2, 3, 5, 6]);
        assert!(haul.complete && haul.commands == 9, "{}", haul.commands);
        assert_eq!(haul.mark.number(), Some(5));
    }

    #[test]
    fn a_response_that_comes_after_its_request_was_fetched_is_fetched_next_time_and_nothing_twice() {
        let mut asterisk = Recorder::default();
        asterisk.register("a", "reg.example", "id-a", Direction::Out);
        let first = asterisk.fetch(HistoryMark::default(), HistoryWanted::everything());
        assert_eq!(numbers(&first), [0], "one row, printed as an entry");
        asterisk.response(401, "id-a");
        let second = asterisk.fetch(first.mark, HistoryWanted::everything());
        assert_eq!(numbers(&second), [1]);
        asterisk.register("a", "reg.example", "id-a", Direction::Out);
        asterisk.register("b", "reg.example", "id-b", Direction::Out);
        asterisk.response(403, "id-a");
        let third = asterisk.fetch(second.mark, HistoryWanted::everything());
        assert_eq!(numbers(&third), [2, 3, 4]);
        let fourth = asterisk.fetch(third.mark, HistoryWanted::everything());
        assert_eq!((numbers(&fourth), fourth.commands), (vec![], 3));
    }

    #[test]
    fn five_thousand_phones_cost_nothing() {
        let mut asterisk = Recorder::default();
        for phone in 0..5000 {
            asterisk.register(&format!("p{phone}"), "pbx.example", &format!("id-{phone}"), Direction::In);
        }
        asterisk.attempt("a", "id-a", &[401, 401]);
        let haul = asterisk.fetch(HistoryMark::default(), HistoryWanted::everything());
        assert_eq!((haul.entries.len(), haul.complete), (4, true));
        assert!(haul.commands <= 6, "{}", haul.commands);
    }

    #[test]
    fn only_the_wanted_registrations_are_fetched() {
        let mut asterisk = Recorder::default();
        for _ in 0..10 {
            asterisk.attempt("other", "id-other", &[401]);
        }
        asterisk.attempt("a", "id-a", &[401, 403]);
        for _ in 0..10 {
            asterisk.attempt("other", "id-other", &[401]);
            asterisk.register("a", "elsewhere.example", "id-else", Direction::Out);
        }
        let uris = ("sip:reg.example;transport=tcp".to_owned(), "sip:a@REG.example:5060".to_owned());
        let haul = asterisk.fetch(HistoryMark::default(), HistoryWanted::registrations([uris]));
        assert_eq!(numbers(&haul), [20, 21, 22, 23]);
        assert!(haul.commands <= 8, "{}", haul.commands);
    }

    #[test]
    fn the_newest_come_first_and_the_commands_are_bounded() {
        let mut asterisk = Recorder::default();
        for trunk in 0..100 {
            asterisk.attempt(&format!("t{trunk}"), &format!("id-{trunk}"), &[401, 401]);
        }
        let haul = asterisk.fetch(HistoryMark::default(), HistoryWanted::everything());
        assert_eq!((haul.commands, haul.complete), (MAX_COMMANDS, false));
        assert_eq!(haul.entries.last().unwrap().number, 399);
        assert!(haul.entries.len() > 40 && haul.entries[0].number > 340, "{:?}", numbers(&haul));
        assert_eq!(haul.mark.dialogs.len(), 13);
    }

    #[test]
    fn a_dialog_that_goes_on_for_ever_gives_its_newest_messages() {
        let mut asterisk = Recorder::default();
        asterisk.attempt("a", "id-a", &[401; 50]);
        let haul = asterisk.fetch(HistoryMark::default(), HistoryWanted::everything());
        assert_eq!((haul.entries.len(), haul.complete), (MAX_OF_A_DIALOG + 1, false));
        assert_eq!(haul.entries.last().unwrap().number, 99);
    }

    #[test]
    fn a_call_id_that_cannot_be_asked_for_costs_its_responses_only() {
        let mut asterisk = Recorder::default();
        asterisk.attempt("a", "id (a)", &[401, 403]);
        let haul = asterisk.fetch(HistoryMark::default(), HistoryWanted::everything());
        assert_eq!((numbers(&haul), haul.complete), (vec![0, 2], false));
    }

    #[test]
    fn without_the_module_the_fetch_ends_at_once() {
        let mut fetch = HistoryFetch::new(HistoryMark::default(), HistoryWanted::everything());
        assert_eq!(
            fetch.next_command().as_deref(),
            Some("pjsip show history where sip.msg.request.method = \"REGISTER\"")
        );
        let answer = over_ami("No such command 'pjsip show history'", "Success");
        assert_eq!(fetch.take(&answer), Err(HistoryError::NotLoaded));
    }

    proptest! {
        #[test]
        fn any_output_is_read_without_a_panic(text in "(No\\.|<--- History Entry|[0-9]{1,5}|Sent to|at|==>|--->|Via: x|[ -~]|\r|\n| ){0,60}") {
            let _ = parse(&over_ami(&text, "Success"));
            let _ = parse_switch(&over_ami(&text, "Error"));
        }

        #[test]
        fn whatever_is_recorded_the_fetch_ends_within_its_bounds(
            messages in proptest::collection::vec((0..6_u8, any::<bool>(), 0..3_u8), 0..200),
        ) {
            let mut asterisk = Recorder::default();
            let mut mark = HistoryMark::default();
            let mut fetched = Vec::new();
            for round in messages.chunks(40) {
                for (dialog, out, kind) in round {
                    let (user, id) = (format!("u{dialog}"), format!("id-{dialog}"));
                    let direction = if *out { Direction::Out } else { Direction::In };
                    if *kind == 0 { asterisk.response(401, &id) } else { asterisk.register(&user, "h", &id, direction) }
                }
                let haul = asterisk.fetch(mark, HistoryWanted::everything());
                prop_assert!(haul.commands <= MAX_COMMANDS);
                fetched.extend(numbers(&haul));
                mark = haul.mark;
            }
            let once: BTreeSet<_> = fetched.iter().copied().collect();
            prop_assert_eq!(once.len(), fetched.len(), "nothing is fetched twice");
        }
    }
}
