//! TLS as far as it is in clear: record by record (RFC 8446 section 5.1), for the alerts that end a handshake.
//!
//! An alert is two bytes as long as nothing is encrypted, and longer, or within a record of another type, afterwards; so
//! nothing encrypted is taken for one.

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const HEADER: usize = 5;
/// 2^14 and what encryption may add (RFC 5246 section 6.2.3).
const MAX_RECORD: u16 = (1 << 14) + 2048;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;

/// Whether a record begins here, of a kind that comes before anything is encrypted; `None` if it is too early to say.
pub(super) fn begins(bytes: &[u8]) -> Option<bool> {
    match bytes {
        [ALERT | HANDSHAKE, 3, 0..=4, high, low, ..] => Some(fits(*high, *low)),
        []
        | [ALERT | HANDSHAKE]
        | [ALERT | HANDSHAKE, 3]
        | [ALERT | HANDSHAKE, 3, 0..=4]
        | [ALERT | HANDSHAKE, 3, 0..=4, _] => None,
        _ => Some(false),
    }
}

/// Who the server is, if these first bytes tell: the sender of them, or the receiver.
pub(super) fn sent_by_server(bytes: &[u8]) -> Option<bool> {
    match bytes.get(HEADER) {
        Some(&SERVER_HELLO) => Some(true),
        Some(&CLIENT_HELLO) => Some(false),
        Some(_) | None => None,
    }
}

fn fits(high: u8, low: u8) -> bool {
    (1..=MAX_RECORD).contains(&u16::from_be_bytes([high, low]))
}

/// The records of one direction.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// A record's header and, of an alert, its two bytes, as far as they have come.
    head: [u8; HEADER + 2],
    have: usize,
    /// Bytes of the current record still to skip.
    skip: usize,
}

/// What comes of more bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// More may come.
    On,
    /// All that follows is encrypted, or this is no TLS.
    Done,
}

impl Records {
    /// Walks over more bytes; `alert` is given each alert's description.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut alert: impl FnMut(u8)) -> Walk {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let wanted = if self.have >= HEADER { HEADER + 2 } else { HEADER };
            let taken = (wanted - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have < wanted {
                break; // All of them are used.
            }
            let [kind, major, _, high, low, level, description] = self.head;
            let length = usize::from(u16::from_be_bytes([high, low]));
            if wanted > HEADER {
                self.have = 0;
                // Warnings that end nothing (RFC 6066 section 3: unrecognized_name) are left out.
                if level == 2 || (level == 1 && matches!(description, CLOSE_NOTIFY | USER_CANCELED)) {
                    alert(description);
                }
            } else if !(20..=24).contains(&kind) || major != 3 || !fits(high, low) || kind == APPLICATION_DATA {
                return Walk::Done;
            } else if kind != ALERT || length != 2 {
                self.have = 0;
                self.skip = length;
            }
        }
        Walk::On
    }
}

const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_in_clear_is_an_alert_whatever_the_split() {
        let hello = [&[HANDSHAKE, 3, 1, 0, 4, CLIENT_HELLO, 0, 0, 0][..], &[20, 3, 3, 0, 1, 1]].concat();
        let encrypted_alert = [&[ALERT, 3, 3, 0, 26][..], &[2; 26]].concat();
        let all = [&hello[..], &[ALERT, 3, 3, 0, 2, 1, 112], &[ALERT, 3, 3, 0, 2, 2, 48], &encrypted_alert].concat();
        for size in 1..all.len() {
            let (mut records, mut alerts) = (Records::default(), Vec::new());
            for piece in all.chunks(size) {
                assert_eq!(records.push(piece, |alert| alerts.push(alert)), Walk::On);
            }
            assert_eq!(alerts, [48], "in pieces of {size}");
        }
        assert_eq!(Records::default().push(&[APPLICATION_DATA, 3, 3, 0, 9], |_| ()), Walk::Done);
        assert_eq!(Records::default().push(b"HTTP/1.1 200", |_| ()), Walk::Done);
    }

    #[test]
    fn the_first_bytes_tell_tls() {
        assert_eq!(begins(&[HANDSHAKE, 3, 1, 2, 0, 1]), Some(true));
        assert_eq!(begins(&[HANDSHAKE, 3, 1]), None);
        assert_eq!(begins(&[HANDSHAKE, 3, 1, 0xff, 0xff]), Some(false));
        assert_eq!(begins(b"GET"), Some(false));
    }
}
