//! Where the lines of a message are: its start line, its headers, the beginning of its body.
//!
//! Only places are noted, once; what a header says is read when it is asked for. Lines end with LF, with or without CR
//! before it; a line that begins with a blank continues the one before (RFC 3261 section 7.3.1).

use memchr::memchr;

use super::grammar::is_token;

/// A piece of a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    fn new(start: usize, end: usize) -> Self {
        let short = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self { start: short(start), end: short(end) }
    }

    /// Its bytes.
    pub(super) fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.start()..self.end()).unwrap_or_default()
    }

    pub(super) fn start(self) -> usize {
        usize::try_from(self.start).unwrap_or(usize::MAX)
    }

    pub(super) fn end(self) -> usize {
        usize::try_from(self.end).unwrap_or(usize::MAX)
    }
}

/// The first line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// `METHOD URI SIP/2.0`
    Request {
        /// The method.
        method: Span,
        /// The Request-URI; blanks in it are kept.
        uri: Span,
        /// What follows it.
        version: Span,
    },
    /// `SIP/2.0 CODE REASON`
    Response {
        /// What precedes the code.
        version: Span,
        /// The code: digits, any number of them.
        code: Span,
        /// The reason.
        reason: Span,
    },
}

/// A header, or (without a name) a line among the headers that is none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    /// Its name.
    pub(super) name: Span,
    /// What comes after the colon, its continuation lines included, not trimmed.
    pub(super) value: Span,
}

/// The places in a message.
#[derive(Debug, Clone)]
pub(super) struct Head {
    /// The first line, whole.
    pub(super) line: Span,
    /// The first line, read.
    pub(super) start: Start,
    /// The headers.
    pub(super) headers: Vec<Header>,
    /// Where the body begins: behind the blank line, or at the end if there is no blank line.
    pub(super) body: usize,
    /// There is a blank line.
    pub(super) complete: bool,
}

/// Most messages have fewer headers.
const USUAL_HEADERS: usize = 16;

impl Head {
    /// Notes the places in a message that begins at the first byte.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let end = memchr(b'\n', bytes);
        let line = without_cr(bytes, 0, end.unwrap_or(bytes.len()));
        let start = Start::read(bytes, line)?;
        let mut headers: Vec<Header> = Vec::with_capacity(USUAL_HEADERS);
        let mut at = end.map_or(bytes.len(), |end| end + 1);
        let mut complete = false;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let newline = memchr(b'\n', rest);
            let next = newline.map_or(bytes.len(), |length| at + length + 1);
            let line = without_cr(bytes, at, newline.map_or(bytes.len(), |length| at + length));
            let text = line.of(bytes);
            match (text.first(), headers.last_mut()) {
                (None, _) => {
                    at = next;
                    if newline.is_some() {
                        complete = true;
                        break;
                    }
                }
                (Some(b' ' | b'\t'), Some(last)) => {
                    last.value = Span { start: last.value.start, end: line.end };
                    at = next;
                }
                (Some(_), _) => {
                    headers.push(header(line, text));
                    at = next;
                }
            }
        }
        Some(Self { line, start, headers, body: at, complete })
    }
}

fn header(line: Span, text: &[u8]) -> Header {
    match memchr(b':', text) {
        Some(colon) => {
            let name = text.get(..colon).unwrap_or_default().trim_ascii_end();
            Header {
                name: Span::new(line.start(), line.start() + name.len()),
                value: Span::new(line.start() + colon + 1, line.end()),
            }
        }
        None => Header { name: Span { start: line.start, end: line.start }, value: line },
    }
}

fn without_cr(bytes: &[u8], start: usize, mut end: usize) -> Span {
    while end > start && bytes.get(end - 1) == Some(&b'\r') {
        end -= 1;
    }
    Span::new(start, end)
}

impl Start {
    /// Reads a first line; `None` if it is no such line.
    ///
    /// More blanks than one, blanks in the Request-URI, other versions and long codes are let through: such a message
    /// was sent, so it is evidence.
    pub(super) fn read(bytes: &[u8], line: Span) -> Option<Self> {
        let text = line.of(bytes);
        let at = |start: usize, length: usize| Span::new(line.start() + start, line.start() + start + length);
        if is_version(text) {
            let version = text.iter().position(|byte| is_blank(*byte))?;
            let after = text.get(version..)?;
            let code_at = version + after.iter().take_while(|byte| is_blank(**byte)).count();
            let code = text.get(code_at..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let reason = text.get(code_at + code..)?;
            if code == 0 || reason.first().is_some_and(|byte| !is_blank(*byte)) {
                return None;
            }
            let trimmed = reason.trim_ascii_start();
            let reason = at(code_at + code + reason.len() - trimmed.len(), trimmed.trim_ascii_end().len());
            return Some(Self::Response { version: at(0, version), code: at(code_at, code), reason });
        }
        let method = text.iter().take_while(|byte| is_token(**byte)).count();
        let trimmed = text.trim_ascii_end();
        let last = trimmed.iter().rposition(|byte| is_blank(*byte))? + 1;
        if method == 0 || !text.get(method).is_some_and(|byte| is_blank(*byte)) || !is_version(trimmed.get(last..)?) {
            return None;
        }
        let between = text.get(method..last)?;
        let uri = between.trim_ascii_start();
        let uri_at = method + between.len() - uri.len();
        let uri = uri.trim_ascii_end();
        if uri.is_empty() {
            return None;
        }
        Some(Self::Request {
            method: at(0, method),
            uri: at(uri_at, uri.len()),
            version: at(last, trimmed.len() - last),
        })
    }

    /// Whether `line`, without its end, is a first line.
    pub(super) fn is(line: &[u8]) -> bool {
        Self::read(line, Span::new(0, line.len())).is_some()
    }
}

fn is_version(text: &[u8]) -> bool {
    text.get(..4).is_some_and(|name| name.eq_ignore_ascii_case(b"SIP/")) && text.get(4).is_some_and(u8::is_ascii_digit)
}

const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}
