//! What ICMP says of a packet that did not arrive, and which packet that was.

use std::net::SocketAddr;

use bytes::Bytes;
use etherparse::{IpNumber, LaxIpSlice};

use super::sniff::{self, Sip};
use crate::wire::sip::{SipMessage, Unreachable};

/// What a "destination unreachable" says.
#[derive(Debug)]
pub(super) struct Notice {
    /// Why.
    pub(super) why: Unreachable,
    /// UDP, or else TCP.
    pub(super) udp: bool,
    /// The sender of the packet that is quoted.
    pub(super) from: SocketAddr,
    /// Where it did not arrive.
    pub(super) to: SocketAddr,
    /// The quoted packet begins like SIP.
    pub(super) sip: bool,
    /// The Call-ID, where it is quoted in full.
    pub(super) call_id: Option<String>,
}

/// Reads an ICMP message of IP version 4.
///
/// Codes: RFC 792, RFC 1122 section 3.2.2.1, RFC 1812 section 5.2.7.1. "Fragmentation needed" (4) is among them: with
/// that the packet did not arrive either.
pub(super) fn v4(message: &[u8]) -> Option<Notice> {
    let [3, code, ..] = message else { return None };
    let why = match code {
        0 | 6 | 11 => Unreachable::Network,
        1 | 7 | 8 | 12 => Unreachable::Host,
        3 => Unreachable::Port,
        9 | 10 | 13 => Unreachable::Prohibited,
        _ => Unreachable::Other,
    };
    quoted(why, message.get(8..)?)
}

/// Reads an ICMP message of IP version 6 (RFC 4443 sections 3.1 and 3.2).
pub(super) fn v6(message: &[u8]) -> Option<Notice> {
    let why = match message {
        [1, 0, ..] => Unreachable::Network,
        [1, 1 | 5 | 6, ..] => Unreachable::Prohibited,
        [1, 3, ..] => Unreachable::Host,
        [1, 4, ..] => Unreachable::Port,
        [1 | 2, ..] => Unreachable::Other,
        _ => return None,
    };
    quoted(why, message.get(8..)?)
}

fn quoted(why: Unreachable, packet: &[u8]) -> Option<Notice> {
    let (ip, _) = LaxIpSlice::from_slice(packet).ok()?;
    let part = ip.payload();
    let later = match &ip {
        LaxIpSlice::Ipv4(ip) => ip.header().fragments_offset().value() != 0,
        LaxIpSlice::Ipv6(_) => false, // What is quoted of one has no ports that make sense, so nobody knows it.
    };
    let ports = part.payload.first_chunk::<4>()?;
    let (udp, header) = match part.ip_number {
        IpNumber::UDP => (true, 8),
        IpNumber::TCP => (false, part.payload.get(12).map_or(20, |offset| usize::from(offset >> 4) * 4).max(20)),
        _ => return None,
    };
    if later {
        return None;
    }
    let [from, to] = [[ports[0], ports[1]], [ports[2], ports[3]]].map(u16::from_be_bytes);
    let payload = part.payload.get(header..).unwrap_or_default();
    let sip = sniff::sip(payload) != Sip::No;
    Some(Notice {
        why,
        udp,
        from: SocketAddr::new(ip.source_addr(), from),
        to: SocketAddr::new(ip.destination_addr(), to),
        sip,
        call_id: if sip { call_id(payload) } else { None },
    })
}

/// The Call-ID of a message of which only the beginning is there: of its whole lines, since half an id is another one.
fn call_id(quoted: &[u8]) -> Option<String> {
    let lines = memchr::memrchr(b'\n', quoted)? + 1;
    let message = SipMessage::parse(Bytes::copy_from_slice(&quoted[..lines])).ok()?;
    message.call_id().map(std::borrow::Cow::into_owned)
}
