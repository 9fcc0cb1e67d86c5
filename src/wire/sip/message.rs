//! SIP messages, kept as they came (RFC 3261 section 7).

use std::{borrow::Cow, fmt};

use bytes::Bytes;

use super::{
    digest::{Challenge, Credentials},
    uri::{NameAddr, SipUri},
};

/// A SIP message. It keeps its bytes; what of it cannot be read is kept and said by [`SipMessage::defects`].
///
/// `Debug` shows the redacted form: the bytes may hold a digest.
#[derive(Clone)]
pub struct SipMessage {
    raw: Bytes,
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

impl SipMessage {
    /// Reads one message, which is all of `raw` (a datagram). Leading blank lines are skipped (RFC 3261 section 7.5).
    ///
    /// # Errors
    /// [`SipError`] if it is no SIP message at all.
    pub fn parse(raw: Bytes) -> Result<Self, SipError> {
        Ok(Self { raw })
    }

    /// The method of a request.
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        None
    }

    /// The Request-URI, as written.
    #[must_use]
    pub fn request_uri(&self) -> Option<&str> {
        None
    }

    /// The status code of a response.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        None
    }

    /// The reason phrase of a response.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        None
    }

    /// The first line, redacted, lossy.
    #[must_use]
    pub fn start_line(&self) -> Cow<'_, str> {
        Cow::Borrowed("")
    }

    /// The first header of that name, unfolded and trimmed. Any case; the compact forms are the same header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        self.headers(name).next()
    }

    /// All headers of that name, in order; a line with several values is one item.
    pub fn headers<'a>(&'a self, name: &str) -> impl Iterator<Item = Cow<'a, str>> + use<'a> {
        let _ = name;
        std::iter::empty()
    }

    /// Call-ID.
    #[must_use]
    pub fn call_id(&self) -> Option<Cow<'_, str>> {
        self.header("Call-ID")
    }

    /// CSeq: number and method. The method also tells which request a response answers.
    #[must_use]
    pub fn cseq(&self) -> Option<(u32, Cow<'_, str>)> {
        None
    }

    /// From.
    #[must_use]
    pub fn from(&self) -> Option<NameAddr> {
        None
    }

    /// To.
    #[must_use]
    pub fn to(&self) -> Option<NameAddr> {
        None
    }

    /// The topmost Via: sent-by and parameters.
    #[must_use]
    pub fn via(&self) -> Option<Via> {
        None
    }

    /// Every Contact, over all lines, without `*`.
    #[must_use]
    pub fn contacts(&self) -> Vec<NameAddr> {
        Vec::new()
    }

    /// The Expires header.
    #[must_use]
    pub fn expires(&self) -> Option<u32> {
        None
    }

    /// Retry-After in seconds (RFC 3261 section 20.33), without comment and parameters.
    #[must_use]
    pub fn retry_after(&self) -> Option<u32> {
        None
    }

    /// The challenges of WWW-Authenticate and Proxy-Authenticate, in order, several on a line as well.
    #[must_use]
    pub fn challenges(&self) -> Vec<Challenge> {
        Vec::new()
    }

    /// The credentials of Authorization and Proxy-Authorization.
    #[must_use]
    pub fn credentials(&self) -> Vec<Credentials> {
        Vec::new()
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &[]
    }

    /// What of it cannot be read, in words.
    #[must_use]
    pub fn defects(&self) -> Vec<String> {
        Vec::new()
    }

    /// The bytes as they came: they may hold a digest, so they go nowhere but into a parser.
    #[must_use]
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The whole message as text that may be shown: no digest, no password, no key of media. Lines end with `\n`.
    #[must_use]
    pub fn redacted(&self) -> String {
        String::new()
    }
}

impl fmt::Debug for SipMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
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

/// So that a URI's type is used by this room's front door.
impl SipMessage {
    /// The Request-URI, read.
    #[must_use]
    pub fn target(&self) -> Option<SipUri> {
        self.request_uri().and_then(SipUri::parse)
    }
}
