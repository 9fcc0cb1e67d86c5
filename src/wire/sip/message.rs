//! SIP messages, kept as they came (RFC 3261 section 7).
//!
//! A message is its bytes and the places of its lines in them. Headers are read when they are asked for, so that a large
//! capture costs no more than finding its lines.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use memchr::memchr;

use super::{
    digest::{Challenge, Credentials},
    grammar::{self, Binding},
    head::{Head, Header, Start},
    redact,
    uri::{NameAddr, SipUri},
};

/// A SIP message. It keeps its bytes; what of it cannot be read is kept and said by [`SipMessage::defects`].
///
/// `Debug` shows the redacted form: the bytes may hold a digest.
#[derive(Clone)]
pub struct SipMessage {
    raw: Bytes,
    head: Head,
    body: Body,
}

/// How long the body is, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Body {
    end: usize,
    said: Length,
}

/// What Content-Length says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    /// Nothing.
    Absent,
    /// So many bytes.
    Bytes(usize),
    /// No number, or several that differ.
    Unreadable,
}

/// Why bytes are no SIP message at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SipError {
    /// The first line is neither a request line nor a status line.
    #[error("not SIP: the first line is {0:?}")]
    StartLine(String),
    /// Nothing but blank lines (a keep-alive).
    #[error("no message: blank lines only")]
    Blank,
}

/// So much of a line that is no SIP is quoted.
const QUOTED: usize = 64;

impl SipMessage {
    /// Reads one message, which is all of `raw` (a datagram). Leading blank lines are skipped (RFC 3261 section 7.5).
    ///
    /// The body is as long as Content-Length says, and ends with `raw` at the latest; without Content-Length it is all
    /// that is left (RFC 3261 section 18.3).
    ///
    /// # Errors
    /// [`SipError`] if it is no SIP message at all.
    pub fn parse(raw: Bytes) -> Result<Self, SipError> {
        let blank = raw.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let raw = if blank == 0 { raw } else { raw.slice(blank..) };
        if raw.is_empty() {
            return Err(SipError::Blank);
        }
        match Head::read(&raw) {
            Some(head) => Ok(Self::of(raw, head)),
            None => {
                let line = raw.get(..memchr(b'\n', &raw).unwrap_or(raw.len())).unwrap_or_default();
                let line = redact::text(String::from_utf8_lossy(line).trim_end());
                Err(SipError::StartLine(line.chars().take(QUOTED).collect()))
            }
        }
    }

    /// A message whose places are known.
    pub(super) fn of(raw: Bytes, head: Head) -> Self {
        let said = content_length(&raw, &head);
        let end = match said {
            Length::Bytes(length) => head.body.saturating_add(length).min(raw.len()),
            Length::Absent | Length::Unreadable => raw.len(),
        };
        Self { raw, head, body: Body { end, said } }
    }

    /// The method of a request.
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        match self.head.start {
            Start::Request { method, .. } => std::str::from_utf8(method.of(&self.raw)).ok(),
            Start::Response { .. } => None,
        }
    }

    /// The Request-URI, as written. `None` too if it is no UTF-8.
    #[must_use]
    pub fn request_uri(&self) -> Option<&str> {
        match self.head.start {
            Start::Request { uri, .. } => std::str::from_utf8(uri.of(&self.raw)).ok(),
            Start::Response { .. } => None,
        }
    }

    /// The Request-URI, read.
    #[must_use]
    pub fn target(&self) -> Option<SipUri> {
        self.request_uri().and_then(SipUri::parse)
    }

    /// Whether it is a response, of whatever code.
    #[must_use]
    pub fn is_response(&self) -> bool {
        match self.head.start {
            Start::Request { .. } => false,
            Start::Response { .. } => true,
        }
    }

    /// The status code of a response; `None` too if it is not of three digits.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self.head.start {
            Start::Response { code, .. } => {
                let code = std::str::from_utf8(code.of(&self.raw)).ok()?;
                if code.len() == 3 { code.parse().ok() } else { None }
            }
            Start::Request { .. } => None,
        }
    }

    /// The reason phrase of a response, which may be empty. `None` too if it is no UTF-8.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self.head.start {
            Start::Response { reason, .. } => std::str::from_utf8(reason.of(&self.raw)).ok(),
            Start::Request { .. } => None,
        }
    }

    /// The first line, redacted, lossy.
    #[must_use]
    pub fn start_line(&self) -> Cow<'_, str> {
        match String::from_utf8_lossy(self.head.line.of(&self.raw)) {
            Cow::Borrowed(line) => redact::line(line),
            Cow::Owned(line) => Cow::Owned(redact::line(&line).into_owned()),
        }
    }

    /// The first header of that name, unfolded and trimmed. Any case; the compact forms are the same header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        let wanted = Compact::of(name);
        self.find(|given| wanted.is(name.as_bytes(), given))
    }

    /// All headers of that name, in order; a line with several values is one item.
    pub fn headers<'a>(&'a self, name: &str) -> impl Iterator<Item = Cow<'a, str>> + use<'a> {
        // The iterator may outlive the name, so it keeps one of its own, unless it is one that is asked for all the time.
        let wanted = Compact::of(name);
        let name: Cow<'static, str> = match wanted.full {
            Some(full) => Cow::Borrowed(full),
            None => Cow::Owned(name.to_owned()),
        };
        self.head
            .headers
            .iter()
            .filter(move |header| wanted.is(name.as_bytes(), header.name.of(&self.raw)))
            .map(|header| self.value(*header))
    }

    /// Every header in order: its name as written, and its value, unfolded and trimmed. A line among the headers that is
    /// none has an empty name. Nothing of it is redacted.
    pub fn all_headers(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        self.head.headers.iter().map(|header| (String::from_utf8_lossy(header.name.of(&self.raw)), self.value(*header)))
    }

    /// Call-ID.
    #[must_use]
    pub fn call_id(&self) -> Option<Cow<'_, str>> {
        self.find(|name| named(name, "Call-ID", b'i'))
    }

    /// CSeq: number and method. The method also tells which request a response answers.
    #[must_use]
    pub fn cseq(&self) -> Option<(u32, Cow<'_, str>)> {
        let value = self.find(|name| name.eq_ignore_ascii_case(b"CSeq"))?;
        let (number, method) = read_cseq(&value)?;
        let method = match &value {
            // The method is the end of the value.
            Cow::Borrowed(value) => Cow::Borrowed(value.get(value.len() - method.len()..)?),
            Cow::Owned(_) => Cow::Owned(method.to_owned()),
        };
        Some((number, method))
    }

    /// From.
    #[must_use]
    pub fn from(&self) -> Option<NameAddr> {
        self.find(|name| named(name, "From", b'f')).map(|value| NameAddr::parse(&value))
    }

    /// To.
    #[must_use]
    pub fn to(&self) -> Option<NameAddr> {
        self.find(|name| named(name, "To", b't')).map(|value| NameAddr::parse(&value))
    }

    /// The topmost Via: sent-by and parameters.
    #[must_use]
    pub fn via(&self) -> Option<Via> {
        let value = self.find(|name| named(name, "Via", b'v'))?;
        grammar::split(&value, b',', Binding::Quotes).next().and_then(Via::parse)
    }

    /// Every Contact, over all lines, without `*`.
    #[must_use]
    pub fn contacts(&self) -> Vec<NameAddr> {
        self.headers("Contact").flat_map(|line| NameAddr::list(&line).collect::<Vec<_>>()).collect()
    }

    /// The Expires header, in seconds.
    #[must_use]
    pub fn expires(&self) -> Option<u32> {
        self.header("Expires").and_then(|value| grammar::digits(&value))
    }

    /// Retry-After in seconds (RFC 3261 section 20.33), without comment and parameters.
    #[must_use]
    pub fn retry_after(&self) -> Option<u32> {
        self.header("Retry-After").and_then(|value| read_retry_after(&value))
    }

    /// The challenges of WWW-Authenticate and Proxy-Authenticate, in order, several on a line as well.
    #[must_use]
    pub fn challenges(&self) -> Vec<Challenge> {
        let mut challenges = Vec::new();
        self.each(&["WWW-Authenticate", "Proxy-Authenticate"], |line| challenges.extend(Challenge::list(line)));
        challenges
    }

    /// The credentials of Authorization and Proxy-Authorization.
    #[must_use]
    pub fn credentials(&self) -> Vec<Credentials> {
        let mut credentials = Vec::new();
        self.each(&["Authorization", "Proxy-Authorization"], |line| credentials.extend(Credentials::list(line)));
        credentials
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.raw.get(self.head.body..self.body.end).unwrap_or_default()
    }

    /// What of it cannot be read, in words. They quote nothing of it but numbers and names.
    #[must_use]
    pub fn defects(&self) -> Vec<String> {
        let mut defects = Defects { message: self, found: Vec::new() };
        defects.start_line();
        defects.lines();
        defects.mandatory();
        defects.values();
        defects.length();
        defects.found
    }

    /// The bytes as they came: they may hold a digest, so they go nowhere but into a parser.
    #[must_use]
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The whole message as text that may be shown: no digest, no password, no key of media. Lines end with `\n`.
    ///
    /// What is no UTF-8 is replaced, and control characters are written out.
    #[must_use]
    pub fn redacted(&self) -> String {
        redact::shown(&String::from_utf8_lossy(&self.raw))
    }

    fn find(&self, wanted: impl Fn(&[u8]) -> bool) -> Option<Cow<'_, str>> {
        let header = self.head.headers.iter().find(|header| wanted(header.name.of(&self.raw)))?;
        Some(self.value(*header))
    }

    fn each(&self, names: &[&str], mut look: impl FnMut(&str)) {
        for header in &self.head.headers {
            let name = header.name.of(&self.raw);
            if names.iter().any(|wanted| name.eq_ignore_ascii_case(wanted.as_bytes())) {
                look(&self.value(*header));
            }
        }
    }

    fn value(&self, header: Header) -> Cow<'_, str> {
        read_value(header.value.of(&self.raw))
    }
}

impl fmt::Debug for SipMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

/// A header's value on one line, trimmed, as text.
fn read_value(bytes: &[u8]) -> Cow<'_, str> {
    let bytes = bytes.trim_ascii();
    if memchr(b'\n', bytes).is_none() {
        return String::from_utf8_lossy(bytes);
    }
    // A fold is one blank (RFC 3261 section 7.3.1).
    let mut line = Vec::with_capacity(bytes.len());
    for piece in bytes.split(|byte| *byte == b'\n') {
        if !line.is_empty() {
            line.push(b' ');
        }
        line.extend_from_slice(piece.trim_ascii());
    }
    Cow::Owned(String::from_utf8_lossy(&line).into_owned())
}

fn read_cseq(value: &str) -> Option<(u32, &str)> {
    let (number, method) = value.split_once(|c: char| c.is_ascii_whitespace())?;
    let method = method.trim();
    let one_token = !method.is_empty() && method.bytes().all(grammar::is_token);
    Some((grammar::digits(number)?, method)).filter(|_| one_token)
}

fn read_retry_after(value: &str) -> Option<u32> {
    grammar::digits(value.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default())
}

/// How long the head says that its body is.
pub(super) fn content_length(bytes: &[u8], head: &Head) -> Length {
    let mut said = Length::Absent;
    for header in head.headers.iter().filter(|header| named(header.name.of(bytes), "Content-Length", b'l')) {
        let length = grammar::digits(&read_value(header.value.of(bytes))).map_or(Length::Unreadable, Length::Bytes);
        said = if said == Length::Absent || said == length { length } else { Length::Unreadable };
    }
    said
}

/// Whether the head says that its body holds messages of its own, whose start lines are none of ours.
pub(super) fn holds_messages(bytes: &[u8], head: &Head) -> bool {
    let types = head.headers.iter().filter(|header| named(header.name.of(bytes), "Content-Type", b'c'));
    types
        .map(|header| read_value(header.value.of(bytes)).to_ascii_lowercase())
        .any(|said| said.starts_with("message/") || said.starts_with("multipart/"))
}

fn named(given: &[u8], full: &str, compact: u8) -> bool {
    match given {
        [only] => only.eq_ignore_ascii_case(&compact),
        _ => given.eq_ignore_ascii_case(full.as_bytes()),
    }
}

/// The compact form of a header's name (RFC 3261 section 7.3.3, and the registry of header fields of IANA).
#[derive(Debug, Clone, Copy)]
struct Compact {
    full: Option<&'static str>,
    letter: Option<u8>,
}

const COMPACT: [(&str, u8); 21] = [
    ("Accept-Contact", b'a'),
    ("Allow-Events", b'u'),
    ("Call-ID", b'i'),
    ("Contact", b'm'),
    ("Content-Encoding", b'e'),
    ("Content-Length", b'l'),
    ("Content-Type", b'c'),
    ("Event", b'o'),
    ("From", b'f'),
    ("Identity", b'y'),
    ("Identity-Info", b'n'),
    ("Refer-To", b'r'),
    ("Referred-By", b'b'),
    ("Reject-Contact", b'j'),
    ("Request-Disposition", b'd'),
    ("Session-Expires", b'x'),
    ("Subject", b's'),
    ("Supported", b'k'),
    ("To", b't'),
    ("Via", b'v'),
    ("CSeq", 0),
];

impl Compact {
    fn of(name: &str) -> Self {
        let given = name.as_bytes();
        match COMPACT.iter().find(|(full, letter)| named(given, full, *letter)) {
            Some((full, 0)) => Self { full: Some(full), letter: None },
            Some((full, letter)) => Self { full: Some(full), letter: Some(*letter) },
            None => Self { full: None, letter: None },
        }
    }

    fn is(self, name: &[u8], given: &[u8]) -> bool {
        match (given, self.letter) {
            ([only], Some(letter)) => only.eq_ignore_ascii_case(&letter),
            _ => given.eq_ignore_ascii_case(self.full.map_or(name, str::as_bytes)),
        }
    }
}

/// A Via (RFC 3261 section 20.42).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via {
    /// `UDP`, `TCP`, `TLS`, `WS`, `WSS`, upper case.
    pub transport: String,
    /// sent-by's host, without brackets.
    pub host: String,
    /// sent-by's port.
    pub port: Option<u16>,
    /// `branch`.
    pub branch: Option<String>,
    /// `received`: where the request came from, as the other side saw it.
    pub received: Option<String>,
    /// `rport`, filled in by the other side.
    pub rport: Option<u16>,
}

impl Via {
    /// Reads one Via; `None` if it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (sent, parameters) = text.split_once(';').unwrap_or((text, ""));
        let mut parts = sent.splitn(3, '/');
        let (protocol, _version, rest) = (parts.next()?, parts.next()?, parts.next()?.trim());
        if !protocol.trim().eq_ignore_ascii_case("SIP") {
            return None;
        }
        let (transport, sent_by) = rest.split_once(|c: char| c.is_ascii_whitespace())?;
        let (host, port) = grammar::host_port(sent_by)?;
        let (mut branch, mut received, mut rport) = (None, None, None);
        for (name, value) in grammar::parameters(parameters) {
            match name.as_str() {
                "branch" => branch = branch.or(value),
                "received" => {
                    let value = value.map(|value| value.trim_matches(['[', ']']).to_owned());
                    received = received.or(value);
                }
                "rport" => rport = rport.or(value.as_deref().and_then(grammar::digits)),
                _ => {}
            }
        }
        Some(Self { transport: transport.to_ascii_uppercase(), host, port, branch, received, rport })
    }
}

/// The search for defects.
struct Defects<'a> {
    message: &'a SipMessage,
    found: Vec<String>,
}

impl Defects<'_> {
    fn say(&mut self, defect: impl Into<String>) {
        self.found.push(defect.into());
    }

    fn start_line(&mut self) {
        let message = self.message;
        let raw = &message.raw;
        let line = message.head.line.of(raw);
        match message.head.start {
            Start::Request { method, uri, version } => {
                if version.of(raw) != b"SIP/2.0" {
                    self.say("the version is not SIP/2.0");
                }
                let blanks = line.iter().filter(|byte| byte.is_ascii_whitespace()).count();
                if blanks != 2 {
                    self.say("the request line has more blanks than two");
                }
                match std::str::from_utf8(uri.of(raw)) {
                    Err(_) => self.say("the Request-URI is not UTF-8"),
                    Ok(uri) => {
                        let scheme = uri.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
                        let sip = matches!(scheme.as_deref(), Some("sip" | "sips"));
                        if scheme.is_none() || uri.starts_with('<') || (sip && SipUri::parse(uri).is_none()) {
                            self.say("the Request-URI cannot be read");
                        }
                    }
                }
                let own = method.of(raw);
                if let Some((_, method)) = message.cseq()
                    && method.as_bytes() != own
                {
                    self.say("the CSeq names another method than the request line");
                }
            }
            Start::Response { version, code, reason } => {
                if version.of(raw) != b"SIP/2.0" {
                    self.say("the version is not SIP/2.0");
                }
                if !message.status().is_some_and(|status| (100..700).contains(&status)) {
                    self.say(format!("the status code, of {} digits, is none of 100 to 699", code.of(raw).len()));
                }
                if std::str::from_utf8(reason.of(raw)).is_err() {
                    self.say("the reason is not UTF-8");
                }
            }
        }
    }

    fn lines(&mut self) {
        let message = self.message;
        let mut number = 1;
        let mut counted = 0;
        for header in &message.head.headers {
            let (name, value) = (header.name.of(&message.raw), header.value.of(&message.raw));
            let before = message.raw.get(counted..header.name.start()).unwrap_or_default();
            number += memchr::memchr_iter(b'\n', before).count();
            counted = header.name.start();
            if name.is_empty() {
                self.say(format!("line {number} is no header"));
            } else if !name.iter().copied().all(grammar::is_token) {
                self.say(format!("the name of the header in line {number} cannot be read"));
            }
            if std::str::from_utf8(value).is_err() {
                self.say(format!("the header in line {number} is not UTF-8"));
            }
            if value.contains(&0) {
                self.say(format!("the header in line {number} holds a NUL"));
            }
        }
        if !message.head.complete {
            self.say("it ends within its headers");
        }
    }

    fn mandatory(&mut self) {
        let message = self.message;
        for (full, compact, only) in
            [("Via", b'v', false), ("From", b'f', true), ("To", b't', true), ("Call-ID", b'i', true), ("CSeq", 0, true)]
        {
            let names = message.head.headers.iter().map(|header| header.name.of(&message.raw));
            match names.filter(|name| named(name, full, compact)).count() {
                0 => self.say(format!("there is no {full}")),
                1 => {}
                count if only => self.say(format!("there are {count} of {full}")),
                _ => {}
            }
        }
        for name in ["Max-Forwards", "Content-Length", "Content-Type", "Expires"] {
            let count = message.headers(name).count();
            if count > 1 {
                self.say(format!("there are {count} of {name}"));
            }
        }
    }

    fn values(&mut self) {
        let message = self.message;
        let unreadable = |name: &str| format!("{name} cannot be read");
        if message.header("CSeq").is_some() && message.cseq().is_none() {
            self.say(unreadable("CSeq"));
        }
        let unread = |line: &str| grammar::split(line, b',', Binding::Quotes).any(|via| Via::parse(via).is_none());
        if message.headers("Via").any(|line| unread(&line)) {
            self.say(unreadable("a Via"));
        }
        let cookie_only = |branch: String| branch.eq_ignore_ascii_case("z9hG4bK");
        if message.via().and_then(|via| via.branch).is_some_and(cookie_only) {
            self.say("the branch of the topmost Via is its magic cookie only");
        }
        for (name, address) in [("From", message.from()), ("To", message.to())] {
            if address.is_some_and(|address| !is_address(&address)) {
                self.say(unreadable(name));
            }
        }
        if message.contacts().iter().any(|contact| !is_address(contact)) {
            self.say(unreadable("Contact"));
        }
        if message.header("Expires").is_some() && message.expires().is_none() {
            self.say(unreadable("Expires"));
        }
        if message.header("Retry-After").is_some() && message.retry_after().is_none() {
            self.say(unreadable("Retry-After"));
        }
        if message.header("Max-Forwards").is_some_and(|hops| grammar::digits::<u8>(&hops).is_none()) {
            self.say(unreadable("Max-Forwards"));
        }
    }

    fn length(&mut self) {
        let message = self.message;
        let here = message.raw.len().saturating_sub(message.head.body);
        match message.body.said {
            Length::Absent => {}
            Length::Unreadable => self.say("Content-Length cannot be read"),
            Length::Bytes(said) if said > here => {
                self.say(format!("Content-Length says {said} bytes of body, {here} are here"));
            }
            Length::Bytes(said) if said < here => {
                self.say(format!("{} bytes follow the body of {said} bytes", here - said));
            }
            Length::Bytes(_) => {}
        }
    }
}

/// A URI of whatever scheme.
fn is_address(address: &NameAddr) -> bool {
    let Some((scheme, _)) = address.text.split_once(':') else { return false };
    let known = scheme.eq_ignore_ascii_case("sip") || scheme.eq_ignore_ascii_case("sips");
    let named = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    if known { address.uri.is_some() } else { named }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> SipMessage {
        SipMessage::parse(Bytes::from(text.replace('\n', "\r\n"))).expect("a message")
    }

    const REGISTER: &str = "\
REGISTER sip:127.0.0.1:5080 SIP/2.0
v: SIP / 2.0 / udp 10.0.0.2:5060 ;rport=7001; branch = z9hG4bK1 ;received=192.0.2.7, SIP/2.0/TCP [::1]
f: \"Bell, A\" <sip:alice:pw@example.com>;tag=1
t: <sip:alice@example.com>
i: a1@h
CSeq: 7 REGISTER
m: <sip:s@10.0.0.2:5060;line=x>;expires=60, \"b,c\" <sip:s@h>
Contact: *
Expires: 3600
X-Long:  one
  two
\tthree
l: 3

abc";

    #[test]
    fn a_request_is_read() {
        let read = message(REGISTER);
        assert_eq!((read.method(), read.request_uri()), (Some("REGISTER"), Some("sip:127.0.0.1:5080")));
        assert_eq!((read.status(), read.reason(), read.is_response()), (None, None, false));
        assert_eq!(read.target().and_then(|uri| uri.port), Some(5080));
        assert_eq!(read.call_id().as_deref(), Some("a1@h"));
        assert_eq!(read.cseq(), Some((7, "REGISTER".into())));
        assert_eq!(read.from().and_then(|from| from.parameter("tag").map(str::to_owned)).as_deref(), Some("1"));
        assert_eq!(read.to().map(|to| to.text).as_deref(), Some("sip:alice@example.com"));
        assert_eq!(read.contacts().len(), 2);
        assert_eq!(read.expires(), Some(3600));
        assert_eq!(read.body(), b"abc");
        assert_eq!(read.defects(), Vec::<String>::new());
    }

    #[test]
    fn the_topmost_via_is_read_whatever_its_blanks() {
        let via = message(REGISTER).via().expect("a Via");
        let read = (via.transport.as_str(), via.host.as_str(), via.port, via.branch.as_deref(), via.rport);
        assert_eq!(read, ("UDP", "10.0.0.2", Some(5060), Some("z9hG4bK1"), Some(7001)));
        assert_eq!(via.received.as_deref(), Some("192.0.2.7"));
        let via = Via::parse("SIP/2.0/TLS [2001:db8::9:1]:5061;received=[2001:db8::9:255];rport").expect("a Via");
        assert_eq!((via.host.as_str(), via.port, via.rport), ("2001:db8::9:1", Some(5061), None));
        assert_eq!(via.received.as_deref(), Some("2001:db8::9:255"));
    }

    #[test]
    fn a_response_is_read() {
        let read =
            message("SIP/2.0 503 Service Unavailable\nCSeq: 1 REGISTER\nRetry-After: 18000 (busy);duration=3600\n\n");
        assert_eq!((read.status(), read.reason(), read.method()), (Some(503), Some("Service Unavailable"), None));
        assert_eq!(read.retry_after(), Some(18000));
    }

    #[test]
    fn compact_and_long_names_are_one_in_any_case() {
        let read = message(REGISTER);
        for name in ["Call-ID", "call-id", "i", "I"] {
            assert_eq!(read.header(name).as_deref(), Some("a1@h"), "{name}");
            assert_eq!(read.headers(name).count(), 1, "{name}");
        }
        assert_eq!(read.headers("contact").count(), 2);
        assert_eq!(read.header("x-LONG").as_deref(), Some("one two three"));
        assert_eq!(read.header("x"), None);
        assert_eq!(read.all_headers().count(), 10);
    }

    #[test]
    fn lines_may_end_with_lf_only() {
        let read = SipMessage::parse(Bytes::from(REGISTER)).expect("a message");
        assert_eq!((read.call_id().as_deref(), read.body()), (Some("a1@h"), b"abc".as_slice()));
        assert_eq!(read.header("X-Long").as_deref(), Some("one two three"));
    }

    #[test]
    fn blank_lines_before_a_message_are_skipped() {
        let read = message("\n\nSIP/2.0 200 OK\nCall-ID: x\n\n");
        assert_eq!(read.call_id().as_deref(), Some("x"));
        assert_eq!(SipMessage::parse(Bytes::from_static(b"\r\n\r\n")).err(), Some(SipError::Blank));
        assert_eq!(SipMessage::parse(Bytes::new()).err(), Some(SipError::Blank));
    }

    #[test]
    fn what_is_no_message_is_refused_without_its_secrets() {
        for text in
            ["GET / HTTP/1.1\r\n", "SIP/2.0 OK\r\n", "REGISTER sip:x\r\n", "SIP/2.0 2x0 OK", "a: b\r\n", "\0\0\0\0"]
        {
            let error = SipMessage::parse(Bytes::from(text)).expect_err(text);
            assert!(matches!(error, SipError::StartLine(_)), "{error}");
        }
        let error = SipMessage::parse(Bytes::from_static(b"Authorization: Digest response=\"0123456789\"\r\n"));
        assert!(!error.expect_err("none").to_string().contains("0123456789"));
    }

    #[test]
    fn a_message_cut_anywhere_keeps_what_is_left_of_it() {
        let whole = REGISTER.replace('\n', "\r\n");
        // A version of one digit is one too.
        let first = whole.find(".0\r\n").expect("a line");
        for cut in 0..whole.len() {
            match SipMessage::parse(Bytes::copy_from_slice(&whole.as_bytes()[..cut])) {
                Ok(read) => {
                    assert!(cut >= first, "{cut}");
                    assert!(!read.defects().is_empty(), "{cut}");
                    assert_eq!(read.raw().len(), cut);
                    let _ = (read.via(), read.from(), read.to(), read.contacts(), read.cseq(), read.redacted());
                }
                Err(_) => assert!(cut < first, "{cut}"),
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_said_and_kept() {
        let read = message(
            "OPTIONS sip:h SIP/2.0\nVia: none\nno header\nFrom: x\nTo: <sip:h>\nCSeq: 99999999999 OPTIONS\nl: 9\n\nab",
        );
        let defects = read.defects();
        for part in ["line 3 is no header", "a Via cannot", "From cannot", "no Call-ID", "CSeq cannot", "says 9 bytes"]
        {
            assert!(defects.iter().any(|defect| defect.contains(part)), "{part}: {defects:?}");
        }
        assert_eq!(defects.len(), 6, "{defects:?}");
        assert!(read.redacted().contains("no header"));
        assert_eq!(read.body(), b"ab");
    }

    #[test]
    fn what_is_no_utf8_is_shown_and_said() {
        let read =
            SipMessage::parse(Bytes::from_static(b"SIP/2.0 200 \xff\r\nSubject: a\xfeb\x1b[2J\r\n\r\n")).expect("one");
        assert_eq!((read.status(), read.reason()), (Some(200), None));
        assert_eq!(read.start_line(), "SIP/2.0 200 \u{fffd}");
        assert_eq!(read.header("s").as_deref(), Some("a\u{fffd}b\u{1b}[2J"));
        assert!(read.redacted().contains("a\u{fffd}b\\u{1b}[2J"));
        assert!(read.defects().iter().any(|defect| defect == "the header in line 2 is not UTF-8"));
    }

    #[test]
    fn several_content_lengths_are_none_unless_they_agree() {
        assert_eq!(message("SIP/2.0 200 OK\nl: 1\nContent-Length: 1\n\nabc").body(), b"a");
        assert_eq!(message("SIP/2.0 200 OK\nl: 1\nContent-Length: 2\n\nabc").body(), b"abc");
        assert_eq!(message("SIP/2.0 200 OK\nl: -1\n\nabc").body(), b"abc");
        assert_eq!(message("SIP/2.0 200 OK\n\nabc").body(), b"abc");
    }
}
