//! SIP over a stream: several messages in one buffer, one message in several (RFC 3261 section 18.3).
//!
//! A stream is framed by Content-Length alone, so one wrong length spoils all that follows. Hence the search for the next
//! start line wherever one should be and is not.

use bytes::{Buf as _, Bytes, BytesMut};
use memchr::{memchr, memchr_iter, memmem};

use super::{
    head::{Head, Start},
    message::{Length, SipMessage, content_length, holds_messages},
};

/// The largest message kept; Asterisk's own limit is 64 kB (`PJSIP_MAX_PKT_LEN` is less).
pub const MAX_MESSAGE: usize = 65_535;

/// So much of a line without an end is kept when it is given up: its end may be the beginning of a start line.
const KEPT: usize = 1024;

/// Splits a byte stream of one direction of one connection into messages.
///
/// The messages do not depend on how the bytes were cut. Once [`SipStream::next_message`] has said `None`, no more than
/// [`MAX_MESSAGE`] bytes are held.
#[derive(Debug, Default)]
pub struct SipStream {
    buffer: BytesMut,
    /// Up to here the buffer has been searched for the end of its head.
    searched: usize,
    /// The buffer begins with a head, and its message is so long.
    waiting: Option<(Head, usize)>,
    skipped: u64,
}

impl SipStream {
    /// Takes bytes in.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message; `None` until there is one. What is no SIP is skipped to the next start line and counted.
    ///
    /// Without Content-Length a message has no body: what follows it is skipped if it is no start line. A message whose
    /// head does not end within [`MAX_MESSAGE`], or is broken off by another start line, is given as far as it goes; one
    /// whose body would be longer is given without.
    pub fn next_message(&mut self) -> Option<SipMessage> {
        loop {
            if let Some((head, length)) = self.waiting.take() {
                if self.buffer.len() < length {
                    self.waiting = Some((head, length));
                    return None;
                }
                return Some(self.take(head, length));
            }
            if self.searched == 0 {
                self.begin()?;
            }
            match self.find_head() {
                Some(end) => {
                    // `begin` has seen the start line, so there is a head.
                    let head = Head::read(self.buffer.get(..end)?)?;
                    let length = match content_length(&self.buffer, &head) {
                        Length::Bytes(length) => {
                            head.body.checked_add(length).filter(|length| head.complete && *length <= MAX_MESSAGE)
                        }
                        Length::Absent | Length::Unreadable => None,
                    };
                    let length = length.unwrap_or(end);
                    self.waiting = Some((head, length));
                }
                None if self.buffer.len() >= MAX_MESSAGE => {
                    let head = Head::read(self.buffer.get(..MAX_MESSAGE)?)?;
                    return Some(self.take(head, MAX_MESSAGE));
                }
                None => return None,
            }
        }
    }

    /// What is left when the stream has ended: the beginning of a message.
    pub fn finish(&mut self) -> Option<SipMessage> {
        if let Some(message) = self.next_message() {
            return Some(message);
        }
        let left = self.buffer.len();
        match self.waiting.take().map(|(head, _)| head).or_else(|| Head::read(&self.buffer)) {
            Some(head) => Some(self.take(head, left)),
            None => {
                self.skip(left);
                None
            }
        }
    }

    /// Bytes skipped because they were no SIP. Blank lines between messages (keep-alives) are not counted.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Brings a start line to the front of the buffer, and says where it ends; `None` until there is one.
    fn begin(&mut self) -> Option<()> {
        loop {
            let blank = self.buffer.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            self.buffer.advance(blank);
            let window = self.buffer.get(..MAX_MESSAGE).unwrap_or(&self.buffer);
            let Some(end) = memchr(b'\n', window) else {
                if self.buffer.len() < MAX_MESSAGE {
                    return None;
                }
                self.skip(MAX_MESSAGE - KEPT);
                continue;
            };
            let line = window.get(..end).unwrap_or_default().trim_ascii_end();
            match start_in(line) {
                Some(0) => {
                    self.searched = end;
                    return Some(());
                }
                Some(at) => self.skip(at),
                None => self.skip(end + 1),
            }
        }
    }

    /// Where the head that the buffer begins with ends: behind its blank line, or before another start line.
    fn find_head(&mut self) -> Option<usize> {
        let window = self.buffer.get(..MAX_MESSAGE).unwrap_or(&self.buffer);
        let from = self.searched;
        for newline in memchr_iter(b'\n', window.get(from..)?).map(|at| from + at) {
            let line = window.get(newline + 1..)?;
            if let [b'\n', ..] = line {
                return Some(newline + 2);
            }
            if let [b'\r', b'\n', ..] = line {
                return Some(newline + 3);
            }
            // Its line must be whole to be looked at; and only then the next one is.
            let Some(length) = memchr(b'\n', line) else {
                self.searched = newline;
                return None;
            };
            let line = line.get(..length)?;
            if is_break(line) {
                return Some(newline + 1);
            }
        }
        None
    }

    fn take(&mut self, head: Head, length: usize) -> SipMessage {
        // A copy: a message may be kept for long, and must not keep a whole stream's buffer with it.
        let raw = Bytes::copy_from_slice(self.buffer.get(..length).unwrap_or(&self.buffer));
        self.buffer.advance(raw.len());
        self.searched = 0;
        SipMessage::of(raw, head)
    }

    fn skip(&mut self, count: usize) {
        self.skipped = self.skipped.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        self.buffer.advance(count.min(self.buffer.len()));
    }
}

/// Whether a line among headers is the start of another message: what came before it was cut off.
fn is_break(line: &[u8]) -> bool {
    let line = line.trim_ascii_end();
    let version = line.len().checked_sub(7).and_then(|at| line.get(at..));
    let maybe = line.get(..4) == Some(b"SIP/") || version == Some(b"SIP/2.0");
    maybe && !line.starts_with(b" ") && !line.starts_with(b"\t") && Start::is(line)
}

/// Where in a line a start line begins: at its beginning, or behind rubbish that did not end with a line.
fn start_in(line: &[u8]) -> Option<usize> {
    if Start::is(line) {
        return Some(0);
    }
    let status = memmem::find_iter(line, b"SIP/2.0 ").find(|at| line.get(*at..).is_some_and(Start::is));
    if status.is_some() {
        return status;
    }
    if !line.ends_with(b" SIP/2.0") {
        return None;
    }
    METHODS
        .iter()
        .filter_map(|method| memmem::rfind(line, method))
        .max()
        .filter(|at| line.get(*at..).is_some_and(Start::is))
}

/// Requests whose method is known can be found behind rubbish (IANA's registry of methods).
const METHODS: [&[u8]; 14] = [
    b"ACK ",
    b"BYE ",
    b"CANCEL ",
    b"INFO ",
    b"INVITE ",
    b"MESSAGE ",
    b"NOTIFY ",
    b"OPTIONS ",
    b"PRACK ",
    b"PUBLISH ",
    b"REFER ",
    b"REGISTER ",
    b"SUBSCRIBE ",
    b"UPDATE ",
];

/// All messages of one buffer, such as a HEP payload: a whole receive buffer of a stream may be in it.
///
/// Without Content-Length a body ends before the next start line, or with the buffer. The last message may be cut off;
/// what is no SIP is left out.
#[must_use]
pub fn split(buffer: &Bytes) -> Vec<SipMessage> {
    let mut messages = Vec::new();
    let mut rest = buffer.clone();
    while let Some(begin) = next_start(&rest, 0) {
        rest.advance(begin);
        let head_end = broken_off(&rest);
        let Some(head) = Head::read(rest.get(..head_end).unwrap_or(&rest)) else { break };
        let length = if !head.complete {
            head_end
        } else {
            match content_length(&rest, &head) {
                Length::Bytes(length) => head.body.saturating_add(length).min(rest.len()),
                Length::Absent | Length::Unreadable if holds_messages(&rest, &head) => rest.len(),
                Length::Absent | Length::Unreadable => next_start(&rest, head.body).unwrap_or(rest.len()),
            }
        };
        messages.push(SipMessage::of(rest.split_to(length), head));
    }
    messages
}

/// The first start line at or behind `from`, where a line begins.
fn next_start(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let end = memchr(b'\n', rest);
        let line = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default().trim_ascii_end();
        if let Some(inside) = start_in(line) {
            return Some(at + inside);
        }
        at += end? + 1;
    }
    None
}

/// Where another message's start line breaks a head off; the end if none does.
fn broken_off(bytes: &[u8]) -> usize {
    let mut at = memchr(b'\n', bytes).map_or(bytes.len(), |end| end + 1);
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let end = memchr(b'\n', rest);
        let line = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        match line {
            [] | [b'\r'] => return bytes.len(),
            _ if is_break(line) => return at,
            _ => at += end.map_or(rest.len(), |end| end + 1),
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(call: &str, body: &str) -> String {
        format!(
            "OPTIONS sip:h SIP/2.0\r\nVia: SIP/2.0/TCP h;branch=z9hG4bK{call}\r\nCall-ID: {call}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    fn calls(messages: &[SipMessage]) -> Vec<String> {
        messages.iter().map(|message| message.call_id().unwrap_or_default().into_owned()).collect()
    }

    /// What comes of `bytes` in pieces of `size`.
    fn streamed(bytes: &[u8], size: usize) -> (Vec<SipMessage>, u64) {
        let mut stream = SipStream::default();
        let mut messages = Vec::new();
        for piece in bytes.chunks(size) {
            stream.push(piece);
            while let Some(message) = stream.next_message() {
                messages.push(message);
            }
            assert!(stream.buffer.len() <= MAX_MESSAGE);
        }
        while let Some(message) = stream.finish() {
            messages.push(message);
        }
        (messages, stream.skipped())
    }

    #[test]
    fn messages_come_out_however_the_bytes_were_cut() {
        let text = format!(
            "\r\n\r\n{}{}\r\n\r\nrubbish\r\n and <more>{}SIP/2.0 200 OK\nl : 3\ni: d\n\nabcx:y\r\n{}REGISTER sip:h SIP/2.0\r\nCall-ID: f",
            message("a", ""),
            message("b", "SIP/2.0 200 OK\r\nCall-ID: inner\r\n\r\n"),
            message("c", "one"),
            message("e", "")
        );
        let (whole, skipped) = streamed(text.as_bytes(), text.len());
        assert_eq!(calls(&whole), ["a", "b", "c", "d", "e", "f"]);
        assert_eq!(skipped, 9 + 11 + 5);
        for size in 1..60 {
            let (pieces, again) = streamed(text.as_bytes(), size);
            let same = pieces.iter().map(SipMessage::raw).eq(whole.iter().map(SipMessage::raw));
            assert!(same && again == skipped, "{size}");
        }
    }

    #[test]
    fn without_content_length_there_is_no_body_in_a_stream() {
        let text = "SIP/2.0 200 OK\r\nCall-ID: a\r\n\r\nv=0\r\no=x\r\nSIP/2.0 200 OK\r\nCall-ID: b\r\n\r\n";
        let (messages, skipped) = streamed(text.as_bytes(), 1);
        assert_eq!((calls(&messages), skipped), (vec!["a".to_owned(), "b".to_owned()], 10));
        let messages = split(&Bytes::from(text));
        assert_eq!(
            (calls(&messages), messages[0].body()),
            (vec!["a".to_owned(), "b".to_owned()], b"v=0\r\no=x\r\n".as_slice())
        );
    }

    #[test]
    fn a_head_that_another_start_line_breaks_off_is_kept() {
        let text = format!("REGISTER sip:h SIP/2.0\r\nCall-ID: a\r\nVia: SIP/2.0/UDP h\r\n{}", message("b", "x"));
        for messages in [streamed(text.as_bytes(), 7).0, split(&Bytes::from(text.clone()))] {
            assert_eq!(calls(&messages), ["a", "b"]);
            assert!(messages[0].defects().iter().any(|defect| defect.contains("ends within")));
        }
    }

    #[test]
    fn no_more_than_a_message_is_held() {
        let endless = format!("REGISTER sip:h SIP/2.0\r\nCall-ID: a\r\n{}", "X: y\r\n".repeat(40_000));
        let (messages, skipped) = streamed(format!("{endless}\r\n{}", message("b", "")).as_bytes(), 1000);
        assert_eq!((calls(&messages), messages[0].raw().len()), (vec!["a".to_owned(), "b".to_owned()], MAX_MESSAGE));
        assert!(skipped > 100_000);
        let long = format!("REGISTER sip:h SIP/2.0\r\nCall-ID: a\r\nl: 4000000000\r\n\r\n{}", message("b", ""));
        assert_eq!(calls(&streamed(long.as_bytes(), 100).0), ["a", "b"]);
        let line = format!("{}SIP/2.0 200 OK\r\nCall-ID: a\r\n\r\n", "z".repeat(200_000));
        let (messages, skipped) = streamed(line.as_bytes(), 999);
        assert_eq!((calls(&messages), skipped), (vec!["a".to_owned()], 200_000));
    }

    #[test]
    fn a_receive_buffer_is_split_into_its_messages() {
        let buffer = Bytes::from(format!("\r\n{}{}", message("a", "x"), message("b", "")));
        assert_eq!(calls(&split(&buffer)), ["a", "b"]);
        assert_eq!(calls(&split(&buffer.slice(..buffer.len() - 9))), ["a", "b"]);
        assert!(split(&Bytes::from_static(b"\r\n\r\n")).is_empty());
        assert!(split(&Bytes::from_static(b"\0\0\0\0")).is_empty());
        assert!(split(&Bytes::new()).is_empty());
    }

    #[test]
    fn a_body_that_holds_a_message_is_not_split() {
        let buffer = Bytes::from_static(
            b"NOTIFY sip:h SIP/2.0\r\nCall-ID: a\r\nc: message/sipfrag;version=2.0\r\n\r\nSIP/2.0 100 Trying\r\n",
        );
        let messages = split(&buffer);
        assert_eq!((messages.len(), messages[0].body()), (1, b"SIP/2.0 100 Trying\r\n".as_slice()));
    }

    #[test]
    fn a_buffer_cut_anywhere_is_split_without_losing_its_first_message() {
        let buffer = Bytes::from(format!("{}{}", message("a", "one"), message("b", "two")));
        let first = message("a", "one").len();
        for cut in first..buffer.len() {
            let messages = split(&buffer.slice(..cut));
            assert_eq!(messages[0].raw().len(), first, "{cut}");
        }
    }
}
