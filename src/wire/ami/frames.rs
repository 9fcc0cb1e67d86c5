//! Where one of Asterisk's messages ends, for whoever hands it on byte for byte.
//!
//! Separate from the [codec](super::codec), which leaves blank lines and line ends out of what it hands over: a client
//! behind the gateway is to get every byte Asterisk wrote, the odd blank line after some error texts included. It is also
//! the only thing the gateway does to most bytes, so it does little.

use bytes::{Buf as _, BytesMut};
use memchr::memmem::Finder;

use super::codec::DecodeError;

/// The most one message may have: more than `pjsip show history` of a busy minute prints.
pub const MESSAGE_LIMIT: usize = 8 << 20;
/// An empty buffer larger than this is given back.
const KEPT_CAPACITY: usize = 256 << 10;
/// Room for one read.
const ROOM: usize = 64 << 10;

/// Cuts a stream into whole messages.
#[derive(Debug)]
pub struct Frames {
    buffer: BytesMut,
    /// Nothing before this needs to be searched again.
    searched: usize,
    /// The end of a line, and a blank one. Asterisk always ends the blank line so, whatever stands before it.
    end: Finder<'static>,
}

impl Frames {
    /// For a stream of which `read` was read already.
    #[must_use]
    pub fn new(read: BytesMut) -> Self {
        Self { buffer: read, searched: 0, end: Finder::new(b"\n\r\n") }
    }

    /// The buffer, with room for a read. Only append to it.
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        if self.buffer.is_empty() && self.buffer.capacity() > KEPT_CAPACITY {
            self.buffer = BytesMut::new();
        }
        self.buffer.reserve(ROOM);
        &mut self.buffer
    }

    /// Hands over each whole message, with the blank line that ends it. What blank lines stand before a message belong to it.
    ///
    /// # Errors
    /// [`DecodeError::MessageTooLong`] when what is left has no end and is longer than [`MESSAGE_LIMIT`].
    pub fn each(&mut self, mut message: impl FnMut(&[u8])) -> Result<(), DecodeError> {
        let mut start = 0;
        let mut from = self.searched;
        while let Some(found) = self.end.find(&self.buffer[from..]) {
            let end = from + found + 3;
            message(&self.buffer[start..end]);
            (start, from) = (end, end);
        }
        self.buffer.advance(start);
        // The last two bytes may be the beginning of an end.
        self.searched = self.buffer.len().saturating_sub(2);
        if self.buffer.len() > MESSAGE_LIMIT {
            return Err(DecodeError::MessageTooLong { limit: MESSAGE_LIMIT });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut frames, mut seen) = (Frames::new(BytesMut::new()), Vec::new());
        for chunk in chunks {
            frames.buffer_mut().extend_from_slice(chunk);
            frames.each(|message| seen.push(message.to_vec())).unwrap();
        }
        seen
    }

    #[test]
    fn every_byte_is_handed_over_once_however_they_come() {
        let text: &[u8] = b"Event: A\r\nB: c\r\n\r\nResponse: Error\r\nMessage: odd\n\r\n\r\nEvent: D\r\n\r\nEvent: E";
        let whole = cut(&[text]);
        assert_eq!(whole.concat(), text[..text.len() - b"Event: E".len()]);
        assert_eq!(whole[2], b"\r\nEvent: D\r\n\r\n", "the extra blank line goes with what follows");
        for at in 0..text.len() {
            assert_eq!(cut(&[&text[..at], &text[at..]]), whole, "split at {at}");
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(cut(&bytes), whole);
    }

    #[test]
    fn a_message_without_end_is_not_held_for_ever() {
        let mut frames = Frames::new(BytesMut::new());
        frames.buffer_mut().extend_from_slice(&vec![b'x'; MESSAGE_LIMIT + 1]);
        assert_eq!(frames.each(|_| {}), Err(DecodeError::MessageTooLong { limit: MESSAGE_LIMIT }));
    }
}
