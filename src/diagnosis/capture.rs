//! Diagnoses of a capture or a log file: every registration in it, each judged for itself.
//!
//! A capture may be larger than memory, and a loop in it may hold a million attempts of one trunk. So it is taken in as a
//! stream, and of each registration only what can decide is kept: its first attempt, its last failures, and the successes
//! around them. What was thrown away is counted.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    io::{self, Read},
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
};

use jiff::tz::TimeZone;

use super::{
    address,
    attempt::gives_up,
    case::Case,
    judge,
    neighbours::Neighbours,
    verdict::Diagnosis,
    who::{self, Wanted, Who},
};
use crate::{
    clock::Timestamp,
    ids::{RegistrationName, TrunkId},
    wire::{
        logger::{self, LogFact, LogItem, LoggerError, LoggerOptions},
        pcap::{self, CaptureError},
        pjsip::Objects,
        sip::{Direction, Happening, Seen, SipMessage, SipUri, Source},
    },
};

/// Registrations kept at once; beyond it those not heard of for longest go.
const MOST_REGISTRATIONS: usize = 10_000;
/// So many go at a time, so that going through all of them is paid rarely.
const DROPPED_AT_ONCE: usize = 500;
/// Failures kept of one registration, and of one among many.
const FAILURES: usize = 8;
const FAILURES_AMONG_MANY: usize = 3;
const MANY: usize = 1_000;
/// Sightings kept of one attempt: eleven transmissions of two requests, seen twice, and their answers.
const MOST_OF_ATTEMPT: usize = 64;
/// Calls kept: the last ones, and a few per provider that went wrong.
const MOST_CALLS: usize = 1_000;
const MOST_OF_CALL: usize = 12;
const WRONG_CALLS_EACH: usize = 4;
const WRONG_CALL_PEERS: usize = 1_000;
/// Notices of the network kept, by what they are about, and of each.
const MOST_NOTICES: usize = 2_048;
const NOTICES_EACH: usize = 12;
/// Notices and calls that one registration is judged with.
const MOST_SHARED: usize = 256;
const MOST_SHARED_CALLS: usize = 64;
/// Log lines kept of one registration, and of none in particular.
const LINES_EACH: usize = 8;
const LINES_OF_NONE: usize = 64;

/// A registration that is known from elsewhere, so that a capture's can be given its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownRegistration {
    /// The trunk it belongs to.
    pub trunk: Option<TrunkId>,
    /// Its section.
    pub registration: RegistrationName,
    /// Its `client_uri`.
    pub client_uri: String,
    /// Its `server_uri`.
    pub server_uri: String,
}

/// What kind of file it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// pcap or pcapng.
    Capture,
    /// An Asterisk log with SIP logger text.
    Logger,
}

/// What a file says.
#[derive(Debug, Clone)]
pub struct Report {
    /// What is wrong, the worst first: what fails at the end of the file, then what failed and is well again, then what is
    /// registered and has a flaw.
    pub diagnoses: Vec<Diagnosis>,
    /// Registrations with nothing wrong.
    pub healthy: usize,
    /// Registrations of which too little was seen to say anything.
    pub undecided: usize,
    /// SIP messages read.
    pub messages: u64,
    /// What kind of file it was.
    pub format: Format,
    /// What could not be read or was left out, in words.
    pub remarks: Vec<String>,
}

/// Why a file says nothing.
#[derive(Debug, thiserror::Error)]
pub enum AnalyseError {
    /// It cannot be read.
    #[error("reading the file failed at its beginning")]
    Read(#[source] io::Error),
    /// It is empty.
    #[error("the file is empty")]
    Empty,
    /// It is compressed.
    #[error("the file is compressed ({0}): unpack it first")]
    Compressed(&'static str),
    /// It is a capture, and a broken one.
    #[error("the capture cannot be read")]
    Capture(#[source] CaptureError),
    /// It is a log, and reading it failed.
    #[error("the log cannot be read")]
    Log(#[source] LoggerError),
    /// It is neither a capture nor text.
    #[error("neither a capture (pcap, pcapng) nor a log: it begins with {0}")]
    Neither(String),
}

/// Says of every registration in a capture, or in an Asterisk log with SIP logger text, why it fails.
///
/// Which of the two it is, its first bytes tell. `objects` and `known` name the registrations, and let digests be checked;
/// `progress` is given the bytes read so far. Memory is bounded, whatever the file's size.
///
/// # Errors
/// [`AnalyseError`] if it is neither, or cannot be read. A capture that is cut is no error: the report says where.
pub fn analyse(
    input: impl Read,
    objects: Option<&Objects>,
    known: &[KnownRegistration],
    progress: &mut dyn FnMut(u64),
) -> Result<Report, AnalyseError> {
    analyse_with(&Reading::default(), input, objects, known, progress)
}

/// How a file's times are to be read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// A log's time zone: that of the PBX. A capture has none.
    pub zone: TimeZone,
    /// A log's lines are mostly without a year: they are of the latest year that keeps them before this.
    pub not_after: Option<Timestamp>,
}

impl Default for Reading {
    fn default() -> Self {
        Self { zone: TimeZone::UTC, not_after: None }
    }
}

/// As [`analyse`], with what a log does not say of its times.
///
/// # Errors
/// As [`analyse`].
pub fn analyse_with(
    reading: &Reading,
    mut input: impl Read,
    objects: Option<&Objects>,
    known: &[KnownRegistration],
    progress: &mut dyn FnMut(u64),
) -> Result<Report, AnalyseError> {
    let mut head = Vec::new();
    input.by_ref().take(HEAD).read_to_end(&mut head).map_err(AnalyseError::Read)?;
    let format = format_of(&head)?;
    let whole = io::Cursor::new(head).chain(input);
    let mut analysis = Analysis::default();
    let mut remarks = Vec::new();
    match format {
        Format::Capture => {
            let mut each = |seen: Seen| {
                analysis.take(seen);
                ControlFlow::Continue(())
            };
            let read = pcap::read(whole, &mut each, progress).map_err(AnalyseError::Capture)?;
            remarks.extend(remarks_of(&read));
        }
        Format::Logger => {
            let mut each = |item: LogItem| {
                match item {
                    LogItem::Seen(seen) => analysis.take(seen),
                    LogItem::Fact(fact) => analysis.take_fact(fact),
                }
                ControlFlow::Continue(())
            };
            let log = LoggerOptions { zone: reading.zone.clone(), year: None, not_after: reading.not_after };
            let read = logger::read(io::BufReader::new(whole), &mut each, log, progress).map_err(AnalyseError::Log)?;
            remarks.extend(remarks_of_log(&read));
        }
    }
    let mut report = analysis.report(objects, known, format);
    remarks.append(&mut report.remarks);
    report.remarks = remarks;
    Ok(report)
}

/// Enough to tell what a file is.
const HEAD: u64 = 512;

fn format_of(head: &[u8]) -> Result<Format, AnalyseError> {
    const CAPTURES: [[u8; 4]; 6] = [
        [0xa1, 0xb2, 0xc3, 0xd4],
        [0xd4, 0xc3, 0xb2, 0xa1],
        [0xa1, 0xb2, 0x3c, 0x4d],
        [0x4d, 0x3c, 0xb2, 0xa1],
        [0x0a, 0x0d, 0x0d, 0x0a],
        [0x34, 0xcd, 0xb2, 0xa1],
    ];
    if head.is_empty() {
        return Err(AnalyseError::Empty);
    }
    if CAPTURES.iter().any(|magic| head.starts_with(magic)) {
        return Ok(Format::Capture);
    }
    let packed: [(&[u8], &'static str); 4] =
        [(b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz"), (b"\x28\xb5\x2f\xfd", "zstd")];
    if let Some((_, name)) = packed.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(AnalyseError::Compressed(name));
    }
    // Text has no NUL and hardly a control character; a log may be in any encoding.
    let odd = head.iter().filter(|&&byte| byte < 0x20 && !matches!(byte, b'\t' | b'\r' | b'\n' | 0x1b)).count();
    if odd * 20 > head.len() || head.contains(&0) {
        let shown: Vec<String> = head.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        return Err(AnalyseError::Neither(shown.join(" ")));
    }
    Ok(Format::Logger)
}

fn remarks_of(read: &pcap::CaptureReport) -> Vec<String> {
    let mut remarks = Vec::new();
    if let Some((offset, what)) = &read.ended_early {
        remarks.push(format!("the capture ends early, at byte {offset}: {what}"));
    }
    let skipped = &read.skipped;
    let counted = [
        (skipped.link, "packets of an unknown link type"),
        (skipped.malformed, "malformed packets"),
        (skipped.truncated, "packets cut by the capture's snapshot length (tcpdump -s 0 avoids it)"),
        (skipped.no_sip, "datagrams that look like SIP and cannot be read"),
        (skipped.fragments, "datagrams with missing fragments"),
        (skipped.tcp_gaps, "gaps in TCP streams"),
        (skipped.connections, "TCP connections given up"),
    ];
    remarks.extend(counted.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")));
    if read.sip == 0 {
        remarks.push(
            "there is no SIP in it: was it taken at the right interface, with port 5060 in its filter?".to_owned(),
        );
    }
    remarks
}

fn remarks_of_log(read: &logger::LoggerReport) -> Vec<String> {
    let mut remarks = Vec::new();
    if read.messages == 0 {
        remarks.push(
            "there is no SIP in it: was `pjsip set logger on` given, and does this file get VERBOSE lines?".to_owned(),
        );
    }
    let counted = [
        (read.cut, "messages with lines missing"),
        (read.undated, "lines without a date before them"),
        (read.long_lines, "lines too long to be read whole"),
    ];
    remarks.extend(counted.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")));
    remarks
}

/// A trace taken in piece by piece, in memory that does not grow with it.
#[derive(Debug, Default)]
pub struct Analysis {
    groups: HashMap<Key, Group>,
    /// Which registration a Call-ID is of.
    calls_of: HashMap<String, Key>,
    neighbours: Neighbours,
    calls: Calls,
    notices: BTreeMap<(Option<SocketAddr>, Option<SocketAddr>, String), VecDeque<Seen>>,
    /// Log lines by the registration they name.
    log: HashMap<Option<Who>, VecDeque<LogFact>>,
    messages: u64,
    /// Sightings so far, which is the order of things.
    count: u64,
    last: Option<Timestamp>,
    dropped: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    who: Who,
    contact_user: Option<String>,
}

/// One registration.
#[derive(Debug, Default)]
struct Group {
    first: Option<Chunk>,
    failures: VecDeque<Chunk>,
    /// The last success before the last failure, and the last of all.
    before: Option<Chunk>,
    success: Option<Chunk>,
    given_up: Option<Chunk>,
    open: Option<Chunk>,
    failed: u64,
    succeeded: u64,
    /// The first success since the last failure, and how many there were.
    well_since: Option<(Timestamp, u64)>,
    touched: u64,
}

/// One attempt, as it is seen.
#[derive(Debug, Clone)]
struct Chunk {
    order: u64,
    call: String,
    /// The legs' CSeq numbers, each with its final answer.
    legs: Vec<(u32, Option<u16>)>,
    unregister: bool,
    seen: Vec<Seen>,
}

impl Chunk {
    fn has(&self, call: &str, cseq: u32) -> bool {
        self.call == call && self.legs.iter().any(|&(known, _)| known == cseq)
    }

    fn add(&mut self, seen: Seen, cseq: u32, status: Option<u16>) {
        match self.legs.iter_mut().find(|(known, _)| *known == cseq) {
            Some((_, answer)) => *answer = answer.or(status.filter(|status| *status >= 200)),
            None => self.legs.push((cseq, status.filter(|status| *status >= 200))),
        }
        if self.seen.len() < MOST_OF_ATTEMPT {
            self.seen.push(seen);
        }
    }

    fn succeeded(&self) -> bool {
        self.legs.last().is_some_and(|&(_, status)| matches!(status, Some(200..=299)))
    }

    /// Whether a request is the next one of this attempt.
    fn goes_on_with(&self, call: &str, credentials: bool) -> bool {
        self.call == call
            && self.legs.last().is_some_and(|&(_, status)| match status {
                Some(401 | 407) | None => credentials,
                Some(423 | 494) => true,
                Some(_) => false,
            })
    }
}

impl Group {
    /// Takes in a message of this registration.
    fn take(&mut self, seen: Seen, order: u64, keep: usize) {
        self.touched = order;
        let Some(message) = seen.sip() else { return };
        let Some((cseq, _)) = message.cseq() else { return };
        let Some(call) = message.call_id().map(std::borrow::Cow::into_owned) else { return };
        let status = message.status();
        if let Some(open) = self.open.as_mut().filter(|open| open.has(&call, cseq)) {
            open.add(seen, cseq, status);
            return;
        }
        if let Some(late) = self.kept_mut().find(|chunk| chunk.has(&call, cseq)) {
            late.add(seen, cseq, status);
            return;
        }
        // An answer to what was not seen, or was thrown away.
        if status.is_some() {
            return;
        }
        let credentials = !message.credentials().is_empty();
        if let Some(open) = self.open.as_mut().filter(|open| open.goes_on_with(&call, credentials)) {
            open.add(seen, cseq, None);
            return;
        }
        let unregister = gives_up(message);
        self.close(keep);
        let mut chunk = Chunk { order, call, legs: Vec::new(), unregister, seen: Vec::new() };
        chunk.add(seen, cseq, None);
        self.open = Some(chunk);
    }

    fn kept_mut(&mut self) -> impl Iterator<Item = &mut Chunk> {
        let single = [&mut self.first, &mut self.before, &mut self.success, &mut self.given_up];
        single.into_iter().flatten().chain(self.failures.iter_mut())
    }

    /// The open attempt is over: it is kept where it may decide.
    fn close(&mut self, keep: usize) {
        let Some(chunk) = self.open.take() else { return };
        let at = chunk.seen.last().map(|seen| seen.at);
        let success = chunk.succeeded();
        if chunk.unregister && success {
            self.given_up = Some(chunk);
            return;
        }
        if success {
            self.succeeded += 1;
            self.well_since = match (self.well_since, at) {
                (Some((since, count)), _) => Some((since, count + 1)),
                (None, Some(at)) => Some((at, 1)),
                (None, None) => None,
            };
        } else {
            self.failed += 1;
            self.well_since = None;
            if let Some(success) = self.success.take() {
                self.before = Some(success);
            }
        }
        if self.first.is_none() {
            // The first tells how it began; it is also whatever else it is.
            self.first = Some(chunk);
        } else if success {
            self.success = Some(chunk);
        } else {
            self.failures.push_back(chunk);
            while self.failures.len() > keep {
                self.failures.pop_front();
            }
        }
    }

    /// Where its REGISTERs went.
    fn registrars(&self) -> BTreeSet<SocketAddr> {
        let asked = |seen: &&Seen| seen.sip().is_some_and(|message| message.method().is_some());
        self.chunks().iter().flat_map(|chunk| chunk.seen.iter().filter(asked)).filter_map(|seen| seen.to).collect()
    }

    /// A message of it that a log shows.
    fn logged(&self) -> impl Iterator<Item = &Seen> {
        let first = self.first.iter().flat_map(|chunk| &chunk.seen);
        first.filter(|seen| seen.source == Source::Logger)
    }

    /// What is kept, in order; the open attempt is closed before.
    fn chunks(&self) -> Vec<&Chunk> {
        let single = [&self.first, &self.before, &self.success, &self.given_up];
        let mut all: Vec<&Chunk> = single.into_iter().flatten().chain(&self.failures).collect();
        all.sort_by_key(|chunk| chunk.order);
        all
    }
}

impl Analysis {
    /// Takes one sighting in.
    pub fn take(&mut self, seen: Seen) {
        self.count += 1;
        self.last = self.last.max(Some(seen.at));
        self.neighbours.note(&seen);
        match &seen.what {
            Happening::Sip(message) => {
                self.messages += 1;
                match message.cseq().map(|(_, method)| method.into_owned()).as_deref() {
                    Some("REGISTER") => self.register(seen),
                    Some("INVITE") => self.calls.take(seen),
                    Some(_) | None => {}
                }
            }
            Happening::Unreachable { call_id, why } => {
                // About something else of ours, such as a qualify.
                if call_id.as_ref().is_some_and(|id| !self.calls_of.contains_key(id)) {
                    return;
                }
                let what = format!("{why:?} {}", call_id.as_deref().unwrap_or_default());
                self.notice(what, seen);
            }
            Happening::Refused => self.notice("refused".to_owned(), seen),
            Happening::Unanswered => self.notice("unanswered".to_owned(), seen),
            Happening::TlsAlert { description } => {
                let what = format!("alert {description}");
                self.notice(what, seen);
            }
            Happening::NameError { name, .. } => {
                let what = format!("name {}", name.to_ascii_lowercase());
                self.notice(what, seen);
            }
        }
    }

    /// Takes a log line in.
    pub fn take_fact(&mut self, fact: LogFact) {
        self.last = self.last.max(Some(fact.at));
        let who = fact
            .client_uri
            .as_deref()
            .zip(fact.server_uri.as_deref())
            .and_then(|(client, server)| Who::of_uris(client, server));
        let most = if who.is_some() { LINES_EACH } else { LINES_OF_NONE };
        if self.log.len() >= MOST_REGISTRATIONS && !self.log.contains_key(&who) {
            return;
        }
        let kept = self.log.entry(who).or_default();
        kept.push_back(fact);
        while kept.len() > most {
            kept.pop_front();
        }
    }

    fn notice(&mut self, what: String, seen: Seen) {
        let key = (seen.from, seen.to, what);
        if self.notices.len() >= MOST_NOTICES && !self.notices.contains_key(&key) {
            return;
        }
        let kept = self.notices.entry(key).or_default();
        kept.push_back(seen);
        while kept.len() > NOTICES_EACH {
            kept.pop_front();
        }
    }

    fn register(&mut self, seen: Seen) {
        let Some(message) = seen.sip() else { return };
        let Some(call) = message.call_id() else { return };
        let key = match self.calls_of.get(&*call) {
            Some(key) => key.clone(),
            None => {
                // A phone that registers with us is no trunk; an answer to what was not seen is nobody's.
                if message.status().is_some() || seen.direction == Some(Direction::In) {
                    return;
                }
                let Some(who) = Who::of_request(message) else { return };
                let key = Key { who, contact_user: who::own_contact_user(message) };
                self.calls_of.insert(call.into_owned(), key.clone());
                key
            }
        };
        if !self.groups.contains_key(&key) && self.groups.len() >= MOST_REGISTRATIONS {
            self.make_room();
        }
        let keep = if self.groups.len() > MANY { FAILURES_AMONG_MANY } else { FAILURES };
        let order = self.count;
        self.groups.entry(key).or_default().take(seen, order, keep);
        if self.calls_of.len() > MOST_REGISTRATIONS * 4 {
            self.forget_calls();
        }
    }

    /// Lets those go that were not heard of for longest.
    fn make_room(&mut self) {
        let mut ages: Vec<(u64, Key)> = self.groups.iter().map(|(key, group)| (group.touched, key.clone())).collect();
        ages.sort_unstable();
        for (_, key) in ages.into_iter().take(DROPPED_AT_ONCE) {
            self.groups.remove(&key);
            self.dropped += 1;
        }
        self.forget_calls();
    }

    /// Forgets the Call-IDs that no kept attempt has.
    fn forget_calls(&mut self) {
        let groups = &self.groups;
        self.calls_of.retain(|call, key| {
            groups.get(key).is_some_and(|group| {
                group.open.as_ref().is_some_and(|open| open.call == *call)
                    || group.chunks().iter().any(|chunk| chunk.call == *call)
            })
        });
    }

    /// What is wrong, the worst first. See [`Report::diagnoses`].
    #[must_use]
    pub fn finish(self, objects: Option<&Objects>, known: &[KnownRegistration]) -> Vec<Diagnosis> {
        self.report(objects, known, Format::Capture).diagnoses
    }

    fn report(mut self, objects: Option<&Objects>, known: &[KnownRegistration], format: Format) -> Report {
        let mut groups: Vec<(Key, Group)> = self.groups.drain().collect();
        groups.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (_, group) in &mut groups {
            group.close(usize::MAX);
        }
        let shared = Shared::of(&mut self, &groups);
        let court = Court { objects, known, neighbours: &self.neighbours, shared: &shared, now: self.last };
        let mut ranked: Vec<(Rank, Diagnosis)> = Vec::new();
        let mut healthy = 0;
        let mut undecided = 0;
        for (key, group) in &groups {
            let found = court.judge(key, group);
            if found.is_empty() {
                if group.well_since.is_some() { healthy += 1 } else { undecided += 1 }
            }
            ranked.extend(found);
        }
        ranked.extend(court.judge_others(&groups));
        ranked.sort_by(|(one_rank, one), (other_rank, other)| {
            one_rank
                .cmp(other_rank)
                .then(other.confidence.total_cmp(&one.confidence))
                .then_with(|| one.subject.client_uri.cmp(&other.subject.client_uri))
        });
        let mut remarks = Vec::new();
        if self.dropped > 0 {
            remarks.push(format!(
                "more than {MOST_REGISTRATIONS} registrations: the {} heard of longest ago were left out",
                self.dropped
            ));
        }
        Report {
            diagnoses: ranked.into_iter().map(|(_, diagnosis)| diagnosis).collect(),
            healthy,
            undecided,
            messages: self.messages,
            format,
            remarks,
        }
    }
}

/// What several registrations may have to do with.
#[derive(Debug, Default)]
struct Shared {
    notices: Vec<Seen>,
    calls: Vec<CallOf>,
    /// How many registrations are at a registrar.
    at: HashMap<SocketAddr, usize>,
    log: HashMap<Option<Who>, Vec<LogFact>>,
}

/// A call, with what tells whose it is.
#[derive(Debug)]
struct CallOf {
    ends: BTreeSet<SocketAddr>,
    users: BTreeSet<String>,
    seen: Vec<Seen>,
}

impl Shared {
    fn of(analysis: &mut Analysis, groups: &[(Key, Group)]) -> Self {
        let mut at: HashMap<SocketAddr, usize> = HashMap::new();
        for (_, group) in groups {
            for registrar in group.registrars() {
                *at.entry(registrar).or_default() += 1;
            }
        }
        let calls = std::mem::take(&mut analysis.calls).kept().into_iter().map(CallOf::of).collect();
        let log = analysis.log.drain().map(|(who, lines)| (who, lines.into_iter().collect())).collect();
        Self { notices: std::mem::take(&mut analysis.notices).into_values().flatten().collect(), calls, at, log }
    }

    /// What of it may be about a registration at these addresses. Its judge looks closer; this bounds what it looks at.
    fn about(&self, addresses: &BTreeSet<SocketAddr>, users: &[&str]) -> Vec<Seen> {
        let ips: BTreeSet<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
        let near = |end: Option<SocketAddr>| end.is_some_and(|end| ips.contains(&end.ip()));
        let notices = self.notices.iter().rev().filter(|seen| match &seen.what {
            Happening::NameError { .. } => true,
            Happening::Sip(_)
            | Happening::Unreachable { .. }
            | Happening::Refused
            | Happening::Unanswered
            | Happening::TlsAlert { .. } => near(seen.from) || near(seen.to),
        });
        let mut all: Vec<Seen> = notices.take(MOST_SHARED).cloned().collect();
        let alone = addresses.iter().all(|address| self.at.get(address).copied().unwrap_or_default() <= 1);
        let calls = self.calls.iter().rev().filter(|call| {
            call.ends.iter().any(|end| ips.contains(&end.ip()))
                && (alone || users.iter().any(|user| call.users.contains(*user)))
        });
        all.extend(calls.take(MOST_SHARED_CALLS).flat_map(|call| call.seen.iter().cloned()));
        all
    }

    /// The log lines about a registration, and those that name none.
    fn log_of(&self, who: &Who) -> Vec<LogFact> {
        let own = self.log.get(&Some(who.clone()));
        own.into_iter().chain(self.log.get(&None)).flatten().cloned().collect()
    }
}

impl CallOf {
    fn of(seen: Vec<Seen>) -> Self {
        let ends = seen.iter().flat_map(|one| [one.from, one.to]).flatten().collect();
        let mut users = BTreeSet::new();
        if let Some(invite) = seen.first().and_then(Seen::sip) {
            let named = [invite.from(), invite.to()].into_iter().flatten().chain(invite.contacts());
            users.extend(named.filter_map(|one| one.uri?.user));
            users.extend(invite.target().and_then(|uri| uri.user));
        }
        Self { ends, users, seen }
    }
}

/// How bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Failing,
    Recovered,
    Flawed,
}

/// What registrations are judged with.
struct Court<'a> {
    objects: Option<&'a Objects>,
    known: &'a [KnownRegistration],
    neighbours: &'a Neighbours,
    shared: &'a Shared,
    now: Option<Timestamp>,
}

impl Court<'_> {
    fn judge(&self, key: &Key, group: &Group) -> Vec<(Rank, Diagnosis)> {
        let chunks = group.chunks();
        let users = [key.who.user.as_str(), key.contact_user.as_deref().unwrap_or_default()];
        let shared = self.shared.about(&group.registrars(), &users);
        let log = self.shared.log_of(&key.who);
        let tally = (group.failed, group.succeeded);
        let all = chunks.iter().flat_map(|chunk| chunk.seen.iter()).chain(&shared).cloned().collect::<Vec<Seen>>();
        let now = self.verdict(key, &all, &log, tally);
        let Some((since, count)) = group.well_since else {
            return now.map(|now| (rank(&now), now)).into_iter().collect();
        };
        // It is well at the end. Whoever took a capture of it wants to know why it was not.
        let last_failure = chunks.iter().rev().filter(|chunk| !chunk.succeeded()).find_map(|failed| {
            let until: Vec<Seen> = chunks
                .iter()
                .filter(|chunk| chunk.order <= failed.order)
                .flat_map(|chunk| chunk.seen.iter())
                .chain(shared.iter().filter(|seen| seen.sip().is_none() && seen.at < since))
                .cloned()
                .collect();
            let found = self.verdict(key, &until, &log, (group.failed, group.succeeded.saturating_sub(count)));
            found.filter(|diagnosis| !diagnosis.cause.concerns_registered())
        });
        let mut found = Vec::new();
        if let Some(mut diagnosis) = last_failure {
            let times = if count == 1 { "once".to_owned() } else { format!("{count} times") };
            if diagnosis.summary.ends_with('.') {
                diagnosis.summary.pop();
            }
            diagnosis.summary.push_str(&format!("; it is well again since {since:.0}, registered {times}."));
            found.push((Rank::Recovered, diagnosis));
        }
        // A failure after the last success, of which nothing more than a log line is known, was found twice.
        found
            .extend(now.filter(|now| found.iter().all(|(_, one)| one.cause != now.cause)).map(|now| (rank(&now), now)));
        found
    }

    /// Registrations that are known from elsewhere, of which no REGISTER was seen: the name did not resolve, the connection
    /// failed, or only calls or log lines are in the trace.
    fn judge_others(&self, groups: &[(Key, Group)]) -> Vec<(Rank, Diagnosis)> {
        let met: HashSet<&Who> = groups.iter().map(|(key, _)| &key.who).collect();
        let mut others: BTreeMap<Who, Option<(RegistrationName, String, String)>> = BTreeMap::new();
        let configured =
            self.objects.into_iter().flat_map(|objects| &objects.registrations).filter_map(|(name, own)| {
                Some((RegistrationName::try_from(name.clone()).ok()?, own.client_uri.clone(), own.server_uri.clone()))
            });
        let known =
            self.known.iter().map(|own| (own.registration.clone(), own.client_uri.clone(), own.server_uri.clone()));
        for (name, client, server) in configured.chain(known) {
            if let Some(who) = Who::of_uris(&client, &server) {
                others.entry(who).or_insert(Some((name, client, server)));
            }
        }
        for who in self.shared.log.keys().flatten() {
            others.entry(who.clone()).or_insert(None);
        }
        others.retain(|who, _| !met.contains(who));
        let judge = |(who, named): (Who, Option<(RegistrationName, String, String)>)| {
            let key = Key { who, contact_user: None };
            let addresses = self.configured_addresses(named.as_ref(), &key.who);
            let seen = self.shared.about(&addresses, &[key.who.user.as_str()]);
            let log = self.shared.log_of(&key.who);
            if seen.is_empty() && log.is_empty() {
                return None;
            }
            let mut case = self.case(&key, &seen, &log);
            if let Some((name, client, server)) = named {
                case.registration = Some(name);
                case.client_uri = Some(client);
                case.server_uri = Some(server);
            }
            // That the log shows others' SIP, and none of this one, tells that it sent none.
            let shown: Vec<Seen> = groups
                .iter()
                .flat_map(|(_, group)| group.logged().cloned())
                .take(1)
                .chain(seen.iter().cloned())
                .collect();
            case.seen = &shown;
            let found = judge::judge(&case, self.neighbours)?;
            Some((rank(&found), found))
        };
        others.into_iter().filter_map(judge).collect()
    }

    fn configured_addresses(
        &self,
        named: Option<&(RegistrationName, String, String)>,
        who: &Who,
    ) -> BTreeSet<SocketAddr> {
        let mut all: BTreeSet<SocketAddr> =
            address::literal(&who.registrar).map(|ip| SocketAddr::new(ip, who.port)).into_iter().collect();
        let proxy = named
            .and_then(|(name, _, _)| self.objects?.registrations.get(name.as_str())?.outbound_proxy.as_deref())
            .and_then(SipUri::parse);
        all.extend(proxy.and_then(|uri| Some(SocketAddr::new(address::literal(&uri.host)?, who::port(&uri)))));
        all
    }

    fn case<'c>(&'c self, key: &Key, seen: &'c [Seen], log: &'c [LogFact]) -> Case<'c> {
        let mut case = Case { seen, log, objects: self.objects, now: self.now, ..Case::default() };
        name(&mut case, key, self.known);
        case
    }

    fn verdict(&self, key: &Key, seen: &[Seen], log: &[LogFact], tally: (u64, u64)) -> Option<Diagnosis> {
        let case = Case { tally: Some(tally), ..self.case(key, seen, log) };
        judge::judge(&case, self.neighbours)
    }
}

fn rank(diagnosis: &Diagnosis) -> Rank {
    if diagnosis.cause.concerns_registered() { Rank::Flawed } else { Rank::Failing }
}

/// Gives a trace's registration its name, from the configuration or from what is known.
fn name(case: &mut Case<'_>, key: &Key, known: &[KnownRegistration]) {
    let Who { user, host, registrar, port } = &key.who;
    let (host, registrar) = (address::in_uri(host), address::in_uri(registrar));
    let at = if user.is_empty() { String::new() } else { format!("{}@", escape(user)) };
    case.client_uri = Some(format!("sip:{at}{host}"));
    case.server_uri = Some(format!("sip:{registrar}:{port}"));
    case.contact_user = key.contact_user.clone();
    // Of twins, the one whose Contact it is.
    let configured = case.objects.and_then(|objects| {
        let mut fitting = objects.registrations.keys().filter(|name| {
            Wanted::configured(objects, name).is_some_and(|wanted| {
                wanted.who == key.who
                    && (wanted.contact_user.is_none()
                        || key.contact_user.is_none()
                        || wanted.contact_user == key.contact_user)
            })
        });
        match (fitting.next(), fitting.next()) {
            (Some(only), None) => Some(only.clone()),
            (_, _) => None,
        }
    });
    let mut fitting = known.iter().filter(|one| match &configured {
        Some(configured) => one.registration.as_str() == configured.as_str(),
        None => Who::of_uris(&one.client_uri, &one.server_uri).as_ref() == Some(&key.who),
    });
    let one = match (fitting.next(), fitting.next()) {
        (Some(only), None) => Some(only),
        (_, _) => None,
    };
    case.trunk = one.and_then(|one| one.trunk.clone());
    case.registration = configured
        .and_then(|name| RegistrationName::try_from(name).ok())
        .or_else(|| one.map(|one| one.registration.clone()));
}

/// The user part as it goes into a URI (RFC 3261 section 25.1), so that it is read back as it was.
fn escape(user: &str) -> String {
    let mut out = String::new();
    for byte in user.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/".contains(&byte);
        if plain { out.push(char::from(byte)) } else { out.push_str(&format!("%{byte:02X}")) }
    }
    out
}

/// The calls of a trace: the last ones, and of those that went wrong a few per peer.
#[derive(Debug, Default)]
struct Calls {
    order: VecDeque<String>,
    by_id: HashMap<String, Vec<Seen>>,
    wrong: HashMap<IpAddr, VecDeque<Vec<Seen>>>,
}

impl Calls {
    fn take(&mut self, seen: Seen) {
        let Some(message) = seen.sip() else { return };
        // What tells nothing about how a call came about.
        if matches!(message.method(), Some(method) if method != "INVITE") || message.status() == Some(100) {
            return;
        }
        let Some(id) = message.call_id().map(std::borrow::Cow::into_owned) else { return };
        if let Some(known) = self.by_id.get_mut(&id) {
            if known.len() < MOST_OF_CALL {
                known.push(seen);
            }
            return;
        }
        if message.status().is_some() {
            return;
        }
        self.by_id.insert(id.clone(), vec![seen]);
        self.order.push_back(id);
        while self.order.len() > MOST_CALLS {
            let Some(oldest) = self.order.pop_front() else { return };
            if let Some(call) = self.by_id.remove(&oldest) {
                self.keep_if_wrong(call);
            }
        }
    }

    fn keep_if_wrong(&mut self, call: Vec<Seen>) {
        let last = call.iter().rev().filter_map(Seen::sip).find_map(SipMessage::status);
        if !matches!(last, Some(401 | 402 | 403 | 407 | 503)) {
            return;
        }
        let Some(peer) = call.first().and_then(|seen| seen.to.or(seen.from)) else { return };
        if self.wrong.len() >= WRONG_CALL_PEERS && !self.wrong.contains_key(&peer.ip()) {
            return;
        }
        let kept = self.wrong.entry(peer.ip()).or_default();
        kept.push_back(call);
        while kept.len() > WRONG_CALLS_EACH {
            kept.pop_front();
        }
    }

    /// What is kept, the newest last.
    fn kept(mut self) -> Vec<Vec<Seen>> {
        let mut all: Vec<Vec<Seen>> = self.wrong.into_values().flatten().collect();
        all.extend(self.order.iter().filter_map(|id| self.by_id.remove(id)));
        all
    }
}
