//! Where one AMI message ends and the next begins.
//!
//! Separate from the meaning of messages because this is the part that faces hostile or broken peers: it looks at no byte
//! again because more came, holds no more than its limits allow, and gives the same messages (and the same error)
//! however the bytes were cut on their way.
//!
//! Most messages are so short that they cannot pass a limit whatever their lines are; of those only the end is looked
//! for. One that grows beyond that is looked at once more from its beginning, line by line.
//!
//! Assumes what Asterisk does: headers are lines, a blank line ends a message. Lines end in LF with any number of CR
//! before it (some error texts of Asterisk carry an LF of their own before the CRLF, so a blank line may come twice;
//! empty messages are therefore skipped). The server's first line is a banner without a blank line after it.

use bytes::{Buf as _, BytesMut};
use memchr::memchr;
use thiserror::Error;

use super::message::Message;

/// What a peer may make us hold.
///
/// Asterisk itself has no limit towards its clients: `Command` output is one message with a header per printed line.
/// Memory in use is at most `message` plus what one [`Decoder::feed`] adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Bytes of one line, its LF not counted.
    pub line: usize,
    /// Bytes of one message with the blank line that ends it.
    pub message: usize,
    /// Lines of one message.
    pub headers: usize,
}

impl Default for DecodeLimits {
    /// 64 KiB a line, 8 MiB and 100 000 lines a message: more than `pjsip show history` of a minute at 300 calls prints,
    /// and little enough that a peer without end is cut in the first second.
    fn default() -> Self {
        Self { line: 64 << 10, message: 8 << 20, headers: 100_000 }
    }
}

/// Bytes that cannot be AMI, or too many of them. The connection is of no use afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// A line outgrew [`DecodeLimits::line`].
    #[error("a line is longer than {limit} bytes")]
    LineTooLong {
        /// The limit it passed.
        limit: usize,
    },
    /// A message outgrew [`DecodeLimits::message`].
    #[error("a message is longer than {limit} bytes")]
    MessageTooLong {
        /// The limit it passed.
        limit: usize,
    },
    /// A message has more lines than [`DecodeLimits::headers`].
    #[error("a message has more than {limit} headers")]
    TooManyHeaders {
        /// The limit it passed.
        limit: usize,
    },
    /// What greeted us is no manager interface: another service listens there.
    #[error("the greeting is not that of an Asterisk manager: {seen:?}")]
    NotAManager {
        /// The beginning of what was sent instead, unprintable bytes escaped.
        seen: String,
    },
}

/// What a decoder hands out.
#[derive(Debug, Clone)]
pub enum Frame {
    /// The server's greeting; comes once, first, and only from [`Decoder::expecting_banner`].
    Banner(Banner),
    /// One message.
    Message(Message),
}

/// The line an AMI server greets with, such as `Asterisk Call Manager/11.0.0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Banner {
    line: String,
}

/// An empty buffer larger than this is given back.
const KEPT_CAPACITY: usize = 256 << 10;
/// The longest greeting looked at. Asterisk's has 28 bytes.
const BANNER_LIMIT: usize = 256;
/// What every greeting of Asterisk, and of the proxies in front of it, begins with.
const BANNER_PREFIX: &[u8] = b"Asterisk Call Manager";

impl Banner {
    fn parse(line: &[u8]) -> Result<Self, DecodeError> {
        if line.starts_with(BANNER_PREFIX) {
            Ok(Self { line: String::from_utf8_lossy(line).into_owned() })
        } else {
            let seen = line.get(..64).unwrap_or(line).escape_ascii().to_string();
            Err(DecodeError::NotAManager { seen })
        }
    }

    /// The greeting as it was sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.line
    }

    /// The protocol version it names; none behind a proxy that writes a word there (`…/Proxy`).
    #[must_use]
    pub fn version(&self) -> Option<AmiVersion> {
        let (_, version) = self.line.rsplit_once('/')?;
        let mut parts = version.trim().split('.').map(|part| part.parse::<u16>().ok());
        let major = parts.next()??;
        let minor = parts.next().flatten().unwrap_or(0);
        let patch = parts.next().flatten().unwrap_or(0);
        Some(AmiVersion { major, minor, patch })
    }
}

/// The version of the manager protocol, not of Asterisk.
///
/// Source: `include/asterisk/manager.h` on each branch: Asterisk 16 says 5.0, 18 7.0, 20 9.0, 21 10.0, 22 11.0, 23 12.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AmiVersion {
    /// Grows with each branch of Asterisk.
    pub major: u16,
    /// Grows when something is added.
    pub minor: u16,
    /// Grows with repairs.
    pub patch: u16,
}

impl std::fmt::Display for AmiVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[derive(Debug, Clone)]
enum State {
    Banner,
    Messages,
    Failed(DecodeError),
}

/// The incremental decoder: feed it bytes as they come, take frames until there is none.
///
/// Guarantees: work grows with the bytes, not with the reads they come in; the frames do not depend on how the bytes
/// were split; after an error it stays failed and has let go of its memory; it never panics.
#[derive(Debug)]
pub struct Decoder {
    /// The message being collected starts at 0.
    buffer: BytesMut,
    /// The line being collected starts here.
    line_start: usize,
    /// Nothing before this needs to be searched again.
    searched: usize,
    lines: usize,
    /// The message being collected is looked at line by line.
    by_line: bool,
    limits: DecodeLimits,
    state: State,
}

impl Decoder {
    /// A decoder for a stream that starts with messages: a recording, or what a client sends to a server.
    #[must_use]
    pub fn new(limits: DecodeLimits) -> Self {
        Self {
            buffer: BytesMut::new(),
            line_start: 0,
            searched: 0,
            lines: 0,
            by_line: false,
            limits,
            state: State::Messages,
        }
    }

    /// A decoder for what a server sends on a fresh connection: a banner first.
    #[must_use]
    pub fn expecting_banner(limits: DecodeLimits) -> Self {
        Self { state: State::Banner, ..Self::new(limits) }
    }

    /// Adds bytes. Take all frames before adding more, or the limits bound nothing.
    pub fn feed(&mut self, bytes: &[u8]) {
        if !matches!(self.state, State::Failed(_)) {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The buffer itself, with room for at least `room` bytes, for reading a socket without a copy. Only append to it.
    pub fn buffer_mut(&mut self, room: usize) -> &mut BytesMut {
        // One long answer must not be paid for by every later hour.
        if self.buffer.is_empty() && self.buffer.capacity() > KEPT_CAPACITY.max(room) {
            self.buffer = BytesMut::new();
        }
        self.buffer.reserve(room);
        &mut self.buffer
    }

    /// The bytes that are not yet part of a frame handed out.
    #[must_use]
    pub fn into_rest(self) -> BytesMut {
        self.buffer
    }

    /// Bytes held that are not yet part of a frame handed out.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The next frame, or `None` until more bytes are fed.
    ///
    /// # Errors
    /// [`DecodeError`]; the same one on every later call.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, DecodeError> {
        let frame = match &self.state {
            State::Messages => self.next_message().map(|message| message.map(Frame::Message)),
            State::Banner => self.banner().map(|banner| banner.map(Frame::Banner)),
            State::Failed(error) => return Err(error.clone()),
        };
        if let Err(error) = &frame {
            self.state = State::Failed(error.clone());
            self.buffer = BytesMut::new();
        }
        frame
    }

    fn banner(&mut self) -> Result<Option<Banner>, DecodeError> {
        let end =
            memchr(b'\n', self.buffer.get(self.searched..).unwrap_or_default()).map(|found| found + self.searched);
        match end {
            Some(end) if end <= BANNER_LIMIT => {
                let banner = Banner::parse(without_trailing_cr(&self.buffer[..end]))?;
                self.buffer.advance(end + 1);
                self.searched = 0;
                self.state = State::Messages;
                Ok(Some(banner))
            }
            None if self.buffer.len() <= BANNER_LIMIT => {
                self.searched = self.buffer.len();
                Ok(None)
            }
            // Only the part that every split has seen by now decides, so that the error does not depend on the split.
            Some(_) | None => match Banner::parse(&self.buffer[..BANNER_LIMIT]) {
                Ok(_) => Err(DecodeError::LineTooLong { limit: BANNER_LIMIT }),
                Err(error) => Err(error),
            },
        }
    }

    fn next_message(&mut self) -> Result<Option<Message>, DecodeError> {
        // A message no longer than this keeps every limit, whatever its lines: only its end needs to be found.
        let short = self.limits.line.min(self.limits.message).min(self.limits.headers);
        loop {
            if self.by_line {
                return self.next_message_by_line();
            }
            let reach = self.buffer.len().min(short);
            match find_end(&self.buffer[..reach], self.searched) {
                End::Blank { end } => {
                    self.buffer.advance(end);
                    self.searched = 0;
                }
                End::Message { lines, end } => {
                    let mut message = self.buffer.split_to(end);
                    message.truncate(lines);
                    self.searched = 0;
                    return Ok(Some(Message::from_lines(message.freeze())));
                }
                End::NotYet { searched } if self.buffer.len() <= short => {
                    self.searched = searched;
                    return Ok(None);
                }
                End::NotYet { .. } | End::Odd => {
                    self.searched = 0;
                    self.by_line = true;
                }
            }
        }
    }

    /// The same with every line looked at, for messages that may pass a limit.
    fn next_message_by_line(&mut self) -> Result<Option<Message>, DecodeError> {
        loop {
            let bytes = self.buffer.as_ref();
            let Some(found) = memchr(b'\n', &bytes[self.searched..]) else {
                self.searched = bytes.len();
                self.check_line(bytes.len(), bytes.len())?;
                return Ok(None);
            };
            let end = self.searched + found;
            self.check_line(end, end + 1)?;
            let line = &bytes[self.line_start..end];
            if !line.iter().all(|byte| *byte == b'\r') {
                self.lines += 1;
                if self.lines > self.limits.headers {
                    return Err(DecodeError::TooManyHeaders { limit: self.limits.headers });
                }
                self.line_start = end + 1;
                self.searched = end + 1;
                continue;
            }
            let message = (self.lines > 0).then(|| {
                let mut lines = self.buffer.split_to(end + 1);
                lines.truncate(self.line_start);
                Message::from_lines(lines.freeze())
            });
            (self.line_start, self.searched, self.lines) = (0, 0, 0);
            if message.is_some() {
                self.by_line = false;
                return Ok(message);
            }
            self.buffer.advance(end + 1);
        }
    }

    /// Checks the line that reaches to `line_end` in a message that so far reaches to `message_end`.
    ///
    /// Where both limits are passed, the one passed at the earlier byte is reported: a peer's bytes decide it, not reads.
    fn check_line(&self, line_end: usize, message_end: usize) -> Result<(), DecodeError> {
        let line_cut = self.line_start.saturating_add(self.limits.line);
        let message_cut = self.limits.message;
        let too_long_line = line_end > line_cut;
        let too_long_message = message_end > message_cut;
        if too_long_line && (!too_long_message || line_cut <= message_cut) {
            Err(DecodeError::LineTooLong { limit: self.limits.line })
        } else if too_long_message {
            Err(DecodeError::MessageTooLong { limit: self.limits.message })
        } else {
            Ok(())
        }
    }
}

/// What a message's bytes say about its end.
enum End {
    /// They begin with an empty line, which ends before `end`.
    Blank { end: usize },
    /// Its lines end before `lines`, and the empty line after them before `end`.
    Message { lines: usize, end: usize },
    /// More bytes are needed; nothing before `searched` needs to be looked at again.
    NotYet { searched: usize },
    /// Nothing that Asterisk sends: look line by line.
    Odd,
}

/// CRs in a row after which bytes are [`End::Odd`]: they are looked at again with each read.
const FEW_CR: usize = 4;

/// Finds the end of a message: an LF, then any number of CR, then an LF. Nothing before `searched` is looked at.
fn find_end(bytes: &[u8], searched: usize) -> End {
    if searched == 0 {
        let crs = leading_crs(bytes);
        match bytes.get(crs) {
            Some(b'\n') => return End::Blank { end: crs + 1 },
            _ if crs > FEW_CR => return End::Odd,
            None => return End::NotYet { searched: 0 },
            Some(_) => {}
        }
    }
    let mut at = searched;
    while let Some(found) = find_line_end_before_lf_or_cr(&bytes[at..]) {
        let lines = at + found + 1;
        let crs = leading_crs(&bytes[lines..]);
        match bytes.get(lines + crs) {
            Some(b'\n') => return End::Message { lines, end: lines + crs + 1 },
            _ if crs > FEW_CR => return End::Odd,
            None => return End::NotYet { searched: lines - 1 },
            Some(_) => at = lines + crs,
        }
    }
    // The last byte may be the LF, and its neighbour comes later.
    End::NotYet { searched: bytes.len().saturating_sub(1).max(at) }
}

fn leading_crs(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| **byte == b'\r').count()
}

/// The first LF whose next byte is LF or CR.
///
/// Written in blocks without branches inside, which the compiler turns into vector instructions: lines are short, and a
/// search that stops at each of them costs more than one that passes over them.
fn find_line_end_before_lf_or_cr(bytes: &[u8]) -> Option<usize> {
    const BLOCK: usize = 32;
    let ends = |this: u8, next: u8| (this == b'\n') & ((next == b'\n') | (next == b'\r'));
    let next_bytes = bytes.get(1..)?;
    let (blocks, _) = bytes[..next_bytes.len()].as_chunks::<BLOCK>();
    let (next_blocks, _) = next_bytes.as_chunks::<BLOCK>();
    let mut at = 0;
    for (block, next_block) in blocks.iter().zip(next_blocks) {
        let mut any = false;
        for (this, next) in block.iter().zip(next_block) {
            any |= ends(*this, *next);
        }
        if any {
            break;
        }
        at += BLOCK;
    }
    let rest = bytes[at..].iter().zip(&next_bytes[at..]).position(|(this, next)| ends(*this, *next))?;
    Some(at + rest)
}

/// Strips every CR at the end of a line.
pub(super) fn without_trailing_cr(line: &[u8]) -> &[u8] {
    let mut line = line;
    while let [rest @ .., b'\r'] = line {
        line = rest;
    }
    line
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    const BUSY: &[u8] = include_bytes!("../../../tests/fixtures/ami-busy.ami");

    /// The messages of a recording in text form: notes of the recorder and the banner's line left out.
    pub(in crate::wire::ami) fn recorded(text: &str) -> Vec<Message> {
        let wire: String = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.starts_with("b'"))
            .map(|line| format!("{line}\r\n"))
            .collect();
        let mut decoder = Decoder::new(DecodeLimits::default());
        decoder.feed(wire.as_bytes());
        decoder.feed(b"\r\n");
        messages(&mut decoder).unwrap()
    }

    fn messages(decoder: &mut Decoder) -> Result<Vec<Message>, DecodeError> {
        let mut all = Vec::new();
        while let Some(frame) = decoder.next_frame()? {
            if let Frame::Message(message) = frame {
                all.push(message);
            }
        }
        Ok(all)
    }

    /// Everything a decoder says about these bytes, fed in pieces of the given sizes (the last size repeats).
    fn outcome(
        bytes: &[u8],
        sizes: &[usize],
        limits: DecodeLimits,
        banner: bool,
    ) -> (Vec<String>, Option<DecodeError>) {
        let mut decoder = if banner { Decoder::expecting_banner(limits) } else { Decoder::new(limits) };
        let mut seen = Vec::new();
        let (mut rest, mut turn) = (bytes, 0);
        while !rest.is_empty() {
            let size = sizes.get(turn).or(sizes.last()).copied().unwrap_or(1).clamp(1, rest.len());
            turn += 1;
            let (piece, tail) = rest.split_at(size);
            rest = tail;
            decoder.feed(piece);
            loop {
                match decoder.next_frame() {
                    Ok(Some(Frame::Message(message))) => seen.push(message.expose_wire().escape_ascii().to_string()),
                    Ok(Some(Frame::Banner(banner))) => seen.push(format!("banner {}", banner.as_str())),
                    Ok(None) => break,
                    Err(error) => return (seen, Some(error)),
                }
            }
        }
        (seen, None)
    }

    fn decode(bytes: &[u8]) -> Vec<Message> {
        let mut decoder = Decoder::new(DecodeLimits::default());
        decoder.feed(bytes);
        messages(&mut decoder).unwrap()
    }

    #[test]
    fn the_busy_minute_has_its_messages_whole() {
        let all = decode(BUSY);
        // Counted in the recording by another program: lines that begin a message.
        let starts = BUSY
            .split(|byte| *byte == b'\n')
            .filter(|line| line.starts_with(b"Event: ") || line.starts_with(b"Response: "))
            .count();
        let started = all.iter().filter(|message| message.event().is_some() || message.response().is_some()).count();
        // `OriginateResponse` has a `Response:` header inside.
        assert_eq!(started, starts - all.iter().filter(|message| message.is_event("OriginateResponse")).count());
        assert_eq!(all.len(), started, "no message begins with anything else");
        assert_eq!(all.iter().filter(|message| message.is_event("Registry")).count(), 42);
    }

    #[test]
    fn line_ends_may_be_lf_or_any_number_of_cr_and_lf() {
        for wire in ["A: 1\nB: 2\n\n", "A: 1\r\nB: 2\r\n\r\n", "A: 1\r\r\nB: 2\r\n\r\r\n", "A: 1\nB: 2\r\n\n"] {
            let all = decode(wire.as_bytes());
            assert_eq!(all.len(), 1, "{wire:?}");
            assert_eq!(format!("{:?}", all[0]), r#"[A: "1", B: "2"]"#, "{wire:?}");
        }
    }

    #[test]
    fn a_line_feed_inside_an_error_text_leaves_no_empty_message() {
        let all = decode(b"Response: Error\r\nMessage: Unable to retrieve\n\r\n\r\nEvent: X\r\n\r\n");
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].get("Message").unwrap(), "Unable to retrieve");
        assert!(all[1].is_event("X"));
    }

    #[test]
    fn an_unfinished_message_waits() {
        let mut decoder = Decoder::new(DecodeLimits::default());
        decoder.feed(b"Event: X\r\nA: 1\r\n");
        assert!(decoder.next_frame().unwrap().is_none());
        decoder.feed(b"\r\n");
        assert!(matches!(decoder.next_frame(), Ok(Some(Frame::Message(_)))));
        assert_eq!(decoder.pending_bytes(), 0);
    }

    #[test]
    fn banners_of_asterisk_and_of_proxies_are_read() {
        let banner = |line: &str| Banner::parse(line.as_bytes()).map(|banner| banner.version());
        let version = |major, minor, patch| Some(AmiVersion { major, minor, patch });
        assert_eq!(banner("Asterisk Call Manager/11.0.0"), Ok(version(11, 0, 0)));
        assert_eq!(banner("Asterisk Call Manager/5.0"), Ok(version(5, 0, 0)));
        assert_eq!(banner("Asterisk Call Manager Proxy/1.22"), Ok(version(1, 22, 0)));
        assert_eq!(banner("Asterisk Call Manager/Proxy"), Ok(None));
        assert!(
            matches!(banner("SSH-2.0-OpenSSH_9.2"), Err(DecodeError::NotAManager { seen }) if seen == "SSH-2.0-OpenSSH_9.2")
        );
    }

    #[test]
    fn a_greeting_without_end_is_cut_and_the_memory_given_back() {
        let mut decoder = Decoder::expecting_banner(DecodeLimits::default());
        decoder.feed(&[b'x'; 300]);
        assert!(matches!(decoder.next_frame(), Err(DecodeError::NotAManager { .. })));
        decoder.feed(&[b'x'; 300]);
        assert!(matches!(decoder.next_frame(), Err(DecodeError::NotAManager { .. })), "it stays failed");
        assert_eq!(decoder.pending_bytes(), 0);
        let (_, error) = outcome(
            &[b"Asterisk Call Manager/".as_slice(), &[b'1'; 300]].concat(),
            &[7],
            DecodeLimits::default(),
            true,
        );
        assert_eq!(error, Some(DecodeError::LineTooLong { limit: BANNER_LIMIT }));
    }

    #[test]
    fn a_gibibyte_without_a_line_end_is_cut_at_the_limit() {
        let mut decoder = Decoder::new(DecodeLimits::default());
        let chunk = [b'x'; 16 << 10];
        let mut fed = 0_usize;
        let error = loop {
            decoder.feed(&chunk);
            fed += chunk.len();
            assert!(fed <= 1 << 30, "it would have held a gibibyte");
            if let Err(error) = decoder.next_frame() {
                break error;
            }
        };
        assert_eq!(error, DecodeError::LineTooLong { limit: 64 << 10 });
        assert!(fed <= (64 << 10) + chunk.len());
    }

    #[test]
    fn a_message_without_end_is_cut_at_the_limit() {
        let limits = DecodeLimits { line: 100, message: 1000, headers: 1_000_000 };
        let (seen, error) = outcome(&b"A: 1\r\n".repeat(1000), &[64], limits, false);
        assert_eq!((seen.len(), error), (0, Some(DecodeError::MessageTooLong { limit: 1000 })));
        let limits = DecodeLimits { line: 100, message: 1 << 20, headers: 10 };
        let (_, error) = outcome(&b"A: 1\r\n".repeat(1000), &[64], limits, false);
        assert_eq!(error, Some(DecodeError::TooManyHeaders { limit: 10 }));
    }

    #[test]
    fn what_is_exactly_at_the_limits_passes() {
        let limits = DecodeLimits { line: 6, message: 18, headers: 2 };
        // 5 bytes and CR are 6; two lines of 7 and a blank line of 2 are 16.
        let (seen, error) = outcome(b"A: 12\r\nB: 34\r\n\r\n", &[1], limits, false);
        assert_eq!((seen.len(), error), (1, None));
        let (_, error) = outcome(b"A: 123\r\n\r\n", &[1], limits, false);
        assert_eq!(error, Some(DecodeError::LineTooLong { limit: 6 }));
    }

    #[test]
    fn byte_by_byte_costs_no_rescans() {
        // 8 MiB of one message, fed in pieces of 64 bytes: quadratic work would take minutes.
        let limits = DecodeLimits { message: 16 << 20, headers: 10_000_000, ..DecodeLimits::default() };
        let mut decoder = Decoder::new(limits);
        for _ in 0..(8 << 20) / 64 {
            decoder.feed(&[b'x'; 63]);
            decoder.feed(b"\n");
            assert!(decoder.next_frame().unwrap().is_none());
        }
        decoder.feed(b"\n");
        assert!(decoder.next_frame().unwrap().is_some());
    }

    #[test]
    fn the_recording_comes_out_the_same_whatever_the_reads() {
        let whole = outcome(BUSY, &[BUSY.len()], DecodeLimits::default(), false);
        assert!(whole.0.len() > 2000 && whole.1.is_none());
        for size in [1, 2, 3, 7, 1448, 16 << 10] {
            assert!(outcome(BUSY, &[size], DecodeLimits::default(), false) == whole, "pieces of {size}");
        }
    }

    /// The rule in its plainest form, without limits: lines end in LF, CRs before it do not count, an empty line ends a message.
    fn by_the_book(bytes: &[u8]) -> Vec<Vec<Vec<u8>>> {
        let (mut all, mut lines) = (Vec::new(), Vec::new());
        let (ended, _unfinished) =
            bytes.split_at(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1));
        for line in ended.split_inclusive(|byte| *byte == b'\n') {
            let line = without_trailing_cr(&line[..line.len() - 1]);
            if !line.is_empty() {
                lines.push(line.to_vec());
            } else if !lines.is_empty() {
                all.push(std::mem::take(&mut lines));
            }
        }
        all
    }

    fn lines_of(message: &Message) -> Vec<Vec<u8>> {
        let lines = message.expose_wire().strip_suffix(b"\n").unwrap();
        lines.split(|byte| *byte == b'\n').map(|line| without_trailing_cr(line).to_vec()).collect()
    }

    #[test]
    fn rows_of_cr_are_no_way_around_the_rules() {
        for crs in 0..12 {
            let cr = "\r".repeat(crs);
            for wire in [format!("{cr}\nA: 1{cr}\n{cr}\n{cr}\nB: 2{cr}\n{cr}\n"), format!("{cr}A: 1\n{cr}B: 2\n\n")] {
                for size in [1, 2, 1000] {
                    let mut decoder = Decoder::new(DecodeLimits::default());
                    let mut all = Vec::new();
                    for piece in wire.as_bytes().chunks(size) {
                        decoder.feed(piece);
                        all.extend(messages(&mut decoder).unwrap().iter().map(lines_of));
                    }
                    assert_eq!(all, by_the_book(wire.as_bytes()), "{wire:?} in pieces of {size}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_within_the_limits_is_read_by_the_book(
            bytes in prop::collection::vec(prop_oneof![3 => Just(b'\n'), 3 => Just(b'\r'), 4 => Just(b'a')], 0..200),
            sizes in prop::collection::vec(1_usize..40, 1..40), line in 200_usize..400,
        ) {
            let limits = DecodeLimits { line, message: 400, headers: 400 };
            let mut decoder = Decoder::new(limits);
            let (mut all, mut rest, mut turn) = (Vec::new(), bytes.as_slice(), 0);
            while !rest.is_empty() {
                let (piece, tail) = rest.split_at(sizes[turn % sizes.len()].min(rest.len()));
                (rest, turn) = (tail, turn + 1);
                decoder.feed(piece);
                all.extend(messages(&mut decoder).unwrap().iter().map(lines_of));
            }
            prop_assert_eq!(all, by_the_book(&bytes));
        }

        #[test]
        fn any_split_gives_the_same_messages_and_the_same_error(
            // Mostly what the syntax is made of, so that ends and limits meet.
            bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b':'), Just(b'a'), any::<u8>()], 0..400),
            sizes in prop::collection::vec(1_usize..40, 1..40),
            line in 1_usize..40, message in 1_usize..120, headers in 1_usize..8, banner: bool,
        ) {
            let limits = DecodeLimits { line, message, headers };
            let prefix: &[u8] = if banner { b"Asterisk Call Manager/11.0.0\r\n" } else { b"" };
            let bytes = [prefix, &bytes].concat();
            let whole = outcome(&bytes, &[bytes.len().max(1)], limits, banner);
            prop_assert_eq!(&outcome(&bytes, &sizes, limits, banner), &whole);
            prop_assert_eq!(&outcome(&bytes, &[1], limits, banner), &whole);
        }

        #[test]
        fn any_split_of_the_recording_gives_the_same_messages(
            start in 0..BUSY.len() - 20_000, sizes in prop::collection::vec(1_usize..3000, 1..40),
        ) {
            let part = &BUSY[start..start + 20_000];
            let whole = outcome(part, &[part.len()], DecodeLimits::default(), false);
            prop_assert_eq!(outcome(part, &sizes, DecodeLimits::default(), false), whole);
        }

        #[test]
        fn garbage_instead_of_a_banner_never_panics_and_does_not_depend_on_the_split(
            bytes in prop::collection::vec(any::<u8>(), 0..600), sizes in prop::collection::vec(1_usize..40, 1..40),
        ) {
            let whole = outcome(&bytes, &[bytes.len().max(1)], DecodeLimits::default(), true);
            prop_assert_eq!(outcome(&bytes, &sizes, DecodeLimits::default(), true), whole);
        }

        #[test]
        fn no_headers_of_a_message_are_lost(lines in prop::collection::vec("[A-Za-z]{1,8}: [ -~]{0,30}", 1..20)) {
            let wire = format!("{}\r\n\r\n", lines.join("\r\n"));
            let all = decode(wire.as_bytes());
            prop_assert_eq!(all.len(), 1);
            let read: Vec<_> = all[0].headers().map(|header| format!("{}: {}", header.name(), secrecy::ExposeSecret::expose_secret(&header.secret()))).collect();
            prop_assert_eq!(read, lines);
        }
    }
}
