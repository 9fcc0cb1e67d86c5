//! How Asterisk reads what a client sends: lines, limits and all.
//!
//! Source: `main/manager.c` (`get_input`, `do_message`, `__astman_get_header`), and a recording of what 22 answers to odd
//! requests. A line is at most 1024 bytes with its end; when the buffer is full without a line's end its content is
//! thrown away but for its last byte and reading goes on, so the rest of an over-long line is a line again, and memory stays bounded.

/// The buffer: `sizeof(inbuf) - 1`.
const LINE_LIMIT: usize = 1024;
/// `AST_MAX_MANHEADERS`.
const HEADER_LIMIT: usize = 128;

/// What a blank line ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Incoming {
    /// A message.
    Message(Request),
    /// A message with a line that was too long.
    LineTooLong(Request),
    /// A message with too many lines.
    TooManyLines(Request),
}

/// The lines of a message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Request(Vec<String>);

impl Request {
    /// The first header of that name, whatever its case; empty where there is none. Leading blanks are not part of a
    /// value, trailing ones are; a blank before the colon makes it another header.
    pub(super) fn header(&self, name: &str) -> &str {
        self.find(name).unwrap_or_default()
    }

    /// As [`Request::header`], telling an absent one from an empty one.
    pub(super) fn find(&self, name: &str) -> Option<&str> {
        self.0.iter().find_map(|line| {
            let value = line.get(name.len()..)?.strip_prefix(':')?;
            let same = line.as_bytes()[..name.len()].eq_ignore_ascii_case(name.as_bytes());
            same.then(|| value.trim_start_matches(|c: char| c.is_ascii() && c <= ' '))
        })
    }

    /// The lines, as they came.
    pub(super) fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

/// Collects bytes into messages.
#[derive(Debug, Default)]
pub(super) struct Reader {
    line: Vec<u8>,
    request: Request,
    line_too_long: bool,
    too_many: bool,
}

impl Reader {
    /// Takes bytes in, and tells of each message they end.
    pub(super) fn feed(&mut self, bytes: &[u8], mut ended: impl FnMut(Incoming)) {
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
            if self.request.0.len() < HEADER_LIMIT {
                self.request.0.push(String::from_utf8_lossy(&self.line).into_owned());
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
        let Incoming::Message(request) = read(b"Action:   Ping  \r\nx : y\r\n\r\n").remove(0) else { panic!() };
        assert_eq!((request.header("action"), request.find("x")), ("Ping  ", None));
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
        assert!(
            matches!(&message(1025)[..], [Incoming::LineTooLong(_), Incoming::Message(empty)] if empty.0.is_empty())
        );
        assert!(matches!(message(1026)[..], [Incoming::LineTooLong(_)]));
        assert!(matches!(message(5000)[..], [Incoming::LineTooLong(_)]));
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
        assert!(reader.line.capacity() <= 2 * LINE_LIMIT && reader.request.0.is_empty());
    }
}
