//! DNS answers that say: this name does not resolve (RFC 1035).
//!
//! NXDOMAIN, SERVFAIL and REFUSED are told as they come, for the types a SIP client asks for. That there is no record of a
//! type is usual for NAPTR, SRV and AAAA, and so is told only of a name that has neither A nor AAAA: once both are known
//! to be empty, or at the end if only one was asked for.

use std::net::SocketAddr;

use super::recent::Recent;
use crate::clock::Timestamp;

/// Names remembered.
const NAMES: usize = 256;
const MAX_NAME: usize = 255;
const A: u16 = 1;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const NAPTR: u16 = 35;
const NO_ERROR: u8 = 0;
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;
const REFUSED: u8 = 5;

/// An answer.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    name: String,
    asked: u16,
    rcode: u8,
    /// It holds a record of the type asked for.
    found: bool,
}

/// A name that does not resolve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unresolved {
    pub(super) at: Timestamp,
    /// Who answered.
    pub(super) from: SocketAddr,
    /// Who asked.
    pub(super) to: SocketAddr,
    pub(super) name: String,
    pub(super) rcode: u8,
}

/// What is known of a name's addresses.
#[derive(Debug)]
enum Known {
    /// It has one.
    Address,
    /// It has none of that type; of the other nobody knows.
    NoneOf(u16, Unresolved),
    /// It has none, and that has been told.
    Told,
}

/// What was said of names.
#[derive(Debug)]
pub(super) struct Names {
    known: Recent<String, Known>,
}

impl Names {
    pub(super) fn new() -> Self {
        Self { known: Recent::new(NAMES) }
    }

    /// An answer of `from` to `to`. Returns what it says, if that is that a name does not resolve.
    pub(super) fn answer(
        &mut self,
        at: Timestamp,
        from: SocketAddr,
        to: SocketAddr,
        message: &[u8],
    ) -> Option<Unresolved> {
        let Answer { name, asked, rcode, found } = read(message)?;
        let unresolved = Unresolved { at, from, to, name: name.clone(), rcode };
        match rcode {
            NXDOMAIN | SERVFAIL | REFUSED => {
                self.known.insert(name, Known::Told);
                Some(unresolved)
            }
            NO_ERROR if asked == A || asked == AAAA => {
                let (now, told) = match (found, self.known.get(&name)) {
                    (true, _) | (false, Some(Known::Address)) => (Known::Address, false),
                    (false, Some(Known::NoneOf(other, _))) if *other != asked => (Known::Told, true),
                    (false, Some(Known::Told)) => (Known::Told, false),
                    (false, Some(Known::NoneOf(..)) | None) => (Known::NoneOf(asked, unresolved.clone()), false),
                };
                self.known.insert(name, now);
                told.then_some(unresolved)
            }
            _ => None,
        }
    }

    /// The names of which only one type was asked for, and that have none of it.
    pub(super) fn finish(&mut self) -> Vec<Unresolved> {
        let left = self.known.drain().filter_map(|(_, known)| match known {
            Known::NoneOf(_, unresolved) => Some(unresolved),
            Known::Address | Known::Told => None,
        });
        let mut left: Vec<_> = left.collect();
        left.sort_by(|one, other| one.name.cmp(&other.name));
        left
    }
}

fn read(message: &[u8]) -> Option<Answer> {
    let field = |at: usize| message.get(at..)?.first_chunk().map(|field| u16::from_be_bytes(*field));
    let flags = field(2)?;
    // An answer to an ordinary query, of one question.
    if flags & 0xf800 != 0x8000 || field(4)? != 1 {
        return None;
    }
    let (name, mut at) = read_name(message, 12)?;
    let asked = field(at)?;
    if !matches!(asked, A | AAAA | SRV | NAPTR) {
        return None;
    }
    at += 4;
    let mut found = false;
    for _ in 0..field(6)? {
        // Cut answers are answers too: the client asks again over TCP, which says nothing of the name.
        let Some(record) = skip_name(message, at) else { break };
        let (Some(kind), Some(length)) = (field(record), field(record + 8)) else { break };
        found |= kind == asked;
        at = record + 10 + usize::from(length);
    }
    let cut = flags & 0x0200 != 0;
    Some(Answer { name, asked, rcode: (flags & 0xf) as u8, found: found || cut })
}

/// The name of the question, which is never compressed, and where it ends.
fn read_name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        match length {
            0 => return Some((name, at)),
            1..=63 => {
                if !name.is_empty() {
                    name.push('.');
                }
                for byte in message.get(at..at + length)? {
                    // A name goes to terminals and files.
                    let printable = byte.is_ascii_graphic() && !matches!(byte, b'.' | b'\\');
                    name.push(if printable { char::from(byte.to_ascii_lowercase()) } else { '?' });
                }
                at += length;
                if name.len() > MAX_NAME {
                    return None;
                }
            }
            _ => return None,
        }
    }
}

/// Where a name ends that may be compressed (RFC 1035 section 4.1.4).
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = *message.get(at)?;
        match length {
            0 => return Some(at + 1),
            1..=63 => at += 1 + usize::from(length),
            192.. => return Some(at + 2),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(asked: u16, rcode: u8, answers: &[u16]) -> Vec<u8> {
        let mut message = vec![0, 7, 0x81, 0x80 | rcode, 0, 1, 0, answers.len().try_into().unwrap(), 0, 0, 0, 0];
        message.extend(b"\x03sip\x08Provider\x07example\0");
        message.extend([asked.to_be_bytes(), [0, 1]].concat());
        for kind in answers {
            message.extend([&[0xc0, 12][..], &kind.to_be_bytes(), &[0, 1, 0, 0, 0, 60, 0, 4, 1, 2, 3, 4]].concat());
        }
        message
    }

    fn after(messages: &[Vec<u8>]) -> (Vec<u8>, usize) {
        let mut names = Names::new();
        let address = "192.0.2.1:53".parse().unwrap();
        let told = messages.iter().filter_map(|message| {
            let said = names.answer(Timestamp::UNIX_EPOCH, address, address, message)?;
            assert_eq!(said.name, "sip.provider.example");
            Some(said.rcode)
        });
        (told.collect(), names.finish().len())
    }

    #[test]
    fn errors_are_told_as_they_come() {
        assert_eq!(after(&[message(A, 3, &[]), message(SRV, 2, &[]), message(NAPTR, 5, &[])]), (vec![3, 2, 5], 0));
        assert_eq!(after(&[message(12, 3, &[]), message(A, 1, &[])]), (vec![], 0), "PTR; FORMERR is about the query");
    }

    #[test]
    fn no_record_is_told_of_names_without_any_address_only() {
        const CNAME: u16 = 5;
        assert_eq!(after(&[message(A, 0, &[CNAME, A]), message(AAAA, 0, &[CNAME])]), (vec![], 0));
        assert_eq!(after(&[message(AAAA, 0, &[]), message(A, 0, &[A])]), (vec![], 0));
        assert_eq!(after(&[message(AAAA, 0, &[]), message(A, 0, &[CNAME])]), (vec![0], 0));
        assert_eq!(after(&[message(A, 0, &[])]), (vec![], 1), "at the end");
        assert_eq!(after(&[message(SRV, 0, &[]), message(NAPTR, 0, &[])]), (vec![], 0));
    }

    #[test]
    fn a_name_that_does_not_exist_is_told_once() {
        assert_eq!(after(&[message(AAAA, 0, &[]), message(A, 3, &[]), message(AAAA, 0, &[])]), (vec![3], 0));
    }

    #[test]
    fn a_query_and_a_cut_message_say_nothing() {
        let whole = message(A, 3, &[]);
        for end in 0..whole.len() - 4 {
            assert_eq!(after(&[whole[..end].to_vec()]), (vec![], 0), "cut at {end}");
        }
        let mut query = whole;
        query[2] = 1;
        assert_eq!(after(&[query]), (vec![], 0));
    }
}
