//! How Asterisk reads what a client sends: lines, limits and all.
//!
//! Separate from the codec, which reads what Asterisk sends: there anything goes, here Asterisk has limits, and whoever
//! stands in front of it must see exactly the requests it would see, no more and no fewer. The gateway judges what this
//! reads and writes it anew from it ([`Request::write`]), so that Asterisk cannot read anything else in it.
//!
//! Source: `main/manager.c` (`get_input`, `do_message`, `__astman_get_header`), and a recording of what 22 answers to odd
//! requests. A line is at most 1024 bytes with its end; when the buffer is full without a line's end its content is
//! thrown away but for its last byte and reading goes on, so the rest of an over-long line is a line again, and memory
//! stays bounded.

use std::borrow::Cow;

use super::action::{HEADER_LIMIT, LINE_LIMIT};

/// What a blank line ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A message.
    Message(Request),
    /// A message with a line that was too long. Asterisk answers an error.
    LineTooLong(Request),
    /// A message with too many lines. Asterisk answers an error.
    TooManyLines(Request),
}

impl Incoming {
    /// The lines, whatever is wrong with them.
    #[must_use]
    pub const fn request(&self) -> &Request {
        match self {
            Self::Message(request) | Self::LineTooLong(request) | Self::TooManyLines(request) => request,
        }
    }
}

/// The lines of a message, in order, as bytes: Asterisk asks for no encoding.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Request {
    text: Vec<u8>,
    /// Where each line ends in `text`.
    ends: Vec<usize>,
}

impl Request {
    /// The lines, as they came, without their ends.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.text[start..end])
    }

    /// The values of each header of that name, whatever its case, in order. Leading blanks are not part of a value,
    /// trailing ones are; a blank before the colon makes it another header. A blank is any byte up to 0x20.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.lines().filter_map(move |line| {
            let (own, rest) = line.split_at_checked(name.len())?;
            let value = rest.strip_prefix(b":")?;
            let blanks = value.iter().take_while(|&&byte| byte <= b' ').count();
            own.eq_ignore_ascii_case(name.as_bytes()).then(|| &value[blanks..])
        })
    }

    /// The first header of that name; empty where there is none.
    #[must_use]
    pub fn header<'a>(&'a self, name: &'a str) -> Cow<'a, str> {
        String::from_utf8_lossy(self.values(name).next().unwrap_or_default())
    }

    /// The action's name: of `Action` headers the first that is not empty (`process_message`).
    #[must_use]
    pub fn action(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.values("Action").find(|value| !value.is_empty()).unwrap_or_default())
    }

    /// Whether it has no line at all: a blank line of its own. Asterisk answers `Missing action in request`.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// How many bytes its lines have.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.text.len()
    }

    /// How many lines it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Adds a line, without its end.
    pub fn push(&mut self, line: &[u8]) {
        self.text.extend_from_slice(line);
        self.ends.push(self.text.len());
    }

    /// Writes it anew: each line with CRLF, and the blank line. A line that came with LF alone, and would be too long with
    /// CRLF, keeps its LF.
    pub fn write(&self, into: &mut Vec<u8>) {
        for line in self.lines() {
            into.extend_from_slice(line);
            into.extend_from_slice(if line.len() + 2 > LINE_LIMIT { b"\n" } else { b"\r\n" });
        }
        into.extend_from_slice(b"\r\n");
    }
}

impl std::fmt::Debug for Request {
    /// The headers' names only: a login's secret is in the values.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = |line: &[u8]| {
            let end = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
            String::from_utf8_lossy(&line[..end]).into_owned()
        };
        f.debug_list().entries(self.lines().map(name)).finish()
    }
}

/// Collects bytes into messages.
#[derive(Debug, Default)]
pub struct Reader {
    line: Vec<u8>,
    request: Request,
    line_too_long: bool,
    too_many: bool,
}

impl Reader {
    /// Takes bytes in, and tells of each message they end.
    pub fn feed(&mut self, bytes: &[u8], mut ended: impl FnMut(Incoming)) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = (LINE_LIMIT - self.line.len()).min(rest.len());
            if let Some(end) = memchr::memchr(b'\n', &rest[..room]) {
                self.line.extend_from_slice(&rest[..end]);
                rest = &rest[end + 1..];
                if self.line.last() == Some(&b'\r') {
                    self.line.pop();
                }
                if let Some(message) = self.take_line() {
                    ended(message);
                }
                self.line.clear();
            } else {
                self.line.extend_from_slice(&rest[..room]);
                rest = &rest[room..];
                if self.line.len() == LINE_LIMIT {
                    // The last byte stays: it may be the CR of a CRLF.
                    self.line.drain(..LINE_LIMIT - 1);
                    self.line_too_long = true;
                }
            }
        }
    }

    fn take_line(&mut self) -> Option<Incoming> {
        if !self.line.is_empty() {
            if self.request.len() < HEADER_LIMIT {
                self.request.push(&self.line);
            } else {
                self.too_many = true;
            }
            return None;
        }
        let request = std::mem::take(&mut self.request);
        if std::mem::take(&mut self.too_many) {
            return Some(Incoming::TooManyLines(request));
        }
        if std::mem::take(&mut self.line_too_long) {
            return Some(Incoming::LineTooLong(request));
        }
        Some(Incoming::Message(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Vec<Incoming> {
        let mut seen = Vec::new();
        Reader::default().feed(bytes, |message| seen.push(message));
        seen
    }

    #[test]
    fn any_split_of_the_bytes_gives_the_same_messages() {
        let bytes = b"action:Ping\nActionID:  1 \r\n\r\n\r\nAction : Ping\r\nno colon\r\n\r\n";
        let whole = read(bytes);
        assert_eq!(whole.len(), 3);
        for at in 0..bytes.len() {
            let (mut reader, mut seen) = (Reader::default(), Vec::new());
            for part in [&bytes[..at], &bytes[at..]] {
                reader.feed(part, |message| seen.push(message));
            }
            assert_eq!(seen, whole, "split at {at}");
        }
    }

    #[test]
    fn values_keep_trailing_blanks_and_a_blank_before_the_colon_is_another_header() {
        let messages = read(b"Action:   Ping  \r\nx : y\r\n\r\n");
        let request = messages[0].request();
        assert_eq!((request.header("action").as_ref(), request.values("x").next()), ("Ping  ", None));
    }

    #[test]
    fn of_repeated_headers_the_first_counts_and_an_empty_action_does_not() {
        let messages = read(b"Action:\r\nACTION: \x01 Originate\r\nChannel:\r\nChannel: PJSIP/x\r\n\r\n");
        let request = messages[0].request();
        assert_eq!((request.action().as_ref(), request.header("Channel").as_ref()), ("Originate", ""));
    }

    #[test]
    fn what_is_written_anew_is_read_the_same() {
        let bytes = b"action:Originate\nChannel: PJSIP/1@a\xff\rb\nno colon\n : x\n\n";
        let first = read(bytes);
        let mut written = Vec::new();
        first[0].request().write(&mut written);
        assert_eq!(read(&written), first);
        assert!(written.ends_with(b" : x\r\n\r\n"));
    }

    #[test]
    fn a_line_of_1024_bytes_passes_and_one_more_leaves_an_empty_message_behind() {
        let message = |length: usize| {
            let line = format!("X: {}\r\n", "x".repeat(length - 5));
            assert_eq!(line.len(), length);
            read(format!("Action: Ping\r\n{line}\r\n").as_bytes())
        };
        assert!(matches!(message(1024)[..], [Incoming::Message(_)]));
        // The buffer is full at the CR: what stays is a blank line, and the real one is a second.
        assert!(matches!(&message(1025)[..], [Incoming::LineTooLong(_), Incoming::Message(empty)] if empty.is_empty()));
        assert!(matches!(message(1026)[..], [Incoming::LineTooLong(_)]));
        assert!(matches!(message(5000)[..], [Incoming::LineTooLong(_)]));
    }

    #[test]
    fn a_line_that_fits_with_lf_alone_still_fits_when_written_anew() {
        let message = format!("Action: Ping\nX: {}\n\n", "x".repeat(1020));
        let first = read(message.as_bytes());
        assert!(matches!(first[..], [Incoming::Message(_)]));
        let mut written = Vec::new();
        first[0].request().write(&mut written);
        assert_eq!(read(&written), first);
    }

    #[test]
    fn a_hundred_and_twenty_eight_lines_pass() {
        let message = |lines: usize| read(format!("{}\r\n", "A: b\r\n".repeat(lines)).as_bytes());
        assert!(matches!(message(128)[..], [Incoming::Message(_)]));
        assert!(matches!(message(129)[..], [Incoming::TooManyLines(_)]));
    }

    #[test]
    fn a_line_without_end_takes_no_more_than_the_buffer() {
        let mut reader = Reader::default();
        for _ in 0..1024 {
            reader.feed(&[b'x'; 1024], |_| panic!("no message ended"));
        }
        assert!(reader.line.capacity() <= 2 * LINE_LIMIT && reader.request.is_empty());
    }

    #[test]
    fn a_request_is_not_printed_with_its_values() {
        let messages = read(b"Action: Login\r\nSecret: hush\r\n\r\n");
        assert_eq!(format!("{:?}", messages[0].request()), r#"["Action", "Secret"]"#);
    }
}
