//! HEPv3 packets, as `res_hep` sends them: the best live feed of what a PBX says and hears.
//!
//! | file | answers |
//! |---|---|
//! | here | what a packet says; where one ends and the next begins on a stream; which SIP messages it is about |
//! | [`client`] | the listener: UDP and TCP, passwords, what is dropped when the consumer is slow |
//!
//! Separate from SIP because a packet also carries what no message does: addresses, time, and which PBX it came from.
//!
//! Source: the protocol's description (HEP3 network protocol specification, rev. 26), and Asterisk's `res/res_hep.c`
//! (`hep_queue_cb`) for what it fills in. A packet is `HEP3`, its length as u16, then chunks of vendor u16, type u16,
//! length u16 (these six bytes included) and value; numbers are big-endian. Chunks of other vendors and of unknown types
//! are skipped.
//!
//! Assumes nothing of the sender: anybody may write to the port.

pub mod client;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;
use thiserror::Error;

use super::sip::{Happening, Seen, SipMessage, Source, Transport, stream};
use crate::clock::Timestamp;

/// What a packet begins with.
const MAGIC: &[u8; 4] = b"HEP3";
/// Magic and length.
const HEAD: usize = 6;
/// Vendor, type and length of a chunk.
const CHUNK_HEAD: usize = 6;
/// The longest packet: its length is a u16.
pub const MAX_PACKET: usize = 65_535;
/// The payload type of SIP.
pub const PAYLOAD_SIP: u8 = 1;

/// Chunk types of vendor 0.
mod chunk {
    pub(super) const FAMILY: u16 = 0x01;
    pub(super) const PROTOCOL: u16 = 0x02;
    pub(super) const IPV4_FROM: u16 = 0x03;
    pub(super) const IPV4_TO: u16 = 0x04;
    pub(super) const IPV6_FROM: u16 = 0x05;
    pub(super) const IPV6_TO: u16 = 0x06;
    pub(super) const PORT_FROM: u16 = 0x07;
    pub(super) const PORT_TO: u16 = 0x08;
    pub(super) const SECONDS: u16 = 0x09;
    pub(super) const MICROSECONDS: u16 = 0x0a;
    pub(super) const PAYLOAD_TYPE: u16 = 0x0b;
    pub(super) const CAPTURE_ID: u16 = 0x0c;
    pub(super) const PASSWORD: u16 = 0x0e;
    pub(super) const PAYLOAD: u16 = 0x0f;
    pub(super) const COMPRESSED: u16 = 0x10;
    pub(super) const CORRELATION: u16 = 0x11;
    pub(super) const NAME: u16 = 0x13;
}

/// Bytes that are no HEPv3 packet, and where. None of it repeats what was in them.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HepError {
    /// It does not begin with `HEP3`.
    #[error("no HEPv3 packet: byte {at} is not that of `HEP3`")]
    Magic {
        /// The first byte that differs.
        at: usize,
    },
    /// The length in the head is shorter than the head.
    #[error("the head says {length} bytes, less than the head itself")]
    PacketLength {
        /// The length in the head.
        length: usize,
    },
    /// It ends too early.
    #[error("the packet ends after {have} bytes, its head says {length}")]
    Truncated {
        /// The length in the head; of the head itself, if that is not whole.
        length: usize,
        /// What there is.
        have: usize,
    },
    /// There is more than its head says.
    #[error("{have} bytes came, the packet's head says {length}")]
    Overlong {
        /// The length in the head.
        length: usize,
        /// What there is.
        have: usize,
    },
    /// The rest is too short for another chunk.
    #[error("at byte {at}: {left} bytes are left, a chunk's head has 6")]
    ChunkHead {
        /// Where the chunk begins.
        at: usize,
        /// The bytes left.
        left: usize,
    },
    /// A chunk's length is shorter than its head.
    #[error("at byte {at}: chunk {kind:#x} claims {length} bytes, less than its head")]
    ChunkLength {
        /// Where the chunk begins.
        at: usize,
        /// Its type.
        kind: u16,
        /// Its length.
        length: usize,
    },
    /// A chunk reaches beyond the packet.
    #[error("at byte {at}: chunk {kind:#x} claims {length} bytes, {left} are left")]
    ChunkOverrun {
        /// Where the chunk begins.
        at: usize,
        /// Its type.
        kind: u16,
        /// Its length.
        length: usize,
        /// The bytes left, the chunk's head included.
        left: usize,
    },
    /// A chunk's value has another size than its type asks for.
    #[error("at byte {at}: the value of chunk {kind:#x} has {size} bytes, not {expected}")]
    ChunkSize {
        /// Where the chunk begins.
        at: usize,
        /// Its type.
        kind: u16,
        /// The bytes of its value.
        size: usize,
        /// The bytes its type asks for.
        expected: usize,
    },
    /// Neither UDP nor TCP.
    #[error("at byte {at}: transport protocol {protocol} is neither UDP nor TCP")]
    Protocol {
        /// Where the chunk begins.
        at: usize,
        /// The IP protocol number.
        protocol: u8,
    },
    /// The payload is compressed, which Asterisk never does and this does not read.
    #[error("at byte {at}: the payload is compressed")]
    Compressed {
        /// Where the chunk begins.
        at: usize,
    },
    /// The time is none.
    #[error("{seconds} seconds is no time")]
    Time {
        /// Seconds since 1970.
        seconds: u64,
    },
    /// A chunk that a packet must have is missing.
    #[error("the packet does not say {what}")]
    Missing {
        /// What is missing.
        what: &'static str,
    },
    /// To be encoded: more than a packet can hold.
    #[error("the packet would have {bytes} bytes, at most {MAX_PACKET} are possible")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
}

/// One packet.
///
/// Its `Debug` shows neither password nor payload, which may hold a digest.
#[derive(Clone)]
pub struct HepPacket {
    /// When it was sent or received, by the PBX's clock. Source: chunks 9 and 10; received ones have milliseconds only.
    pub at: Timestamp,
    /// The sender of the payload.
    pub from: SocketAddr,
    /// Its receiver.
    pub to: SocketAddr,
    /// What carried it. Asterisk says TCP of TLS and WebSocket too: [`messages`] corrects that.
    pub transport: Transport,
    /// `capture_id` of `hep.conf`: which PBX.
    pub capture_id: Option<u32>,
    /// `capture_password` of `hep.conf`, which travels in clear.
    pub password: Option<SecretString>,
    /// Chunk 0x11: the Call-ID, or the channel's name with `uuid_type=channel`.
    pub call_id: Option<String>,
    /// What the payload is: [`PAYLOAD_SIP`], 5 for RTCP…
    pub payload_type: u8,
    /// The payload. On stream transports a whole receive buffer, with several messages or a piece of one in it.
    pub payload: Bytes,
    /// `capture_name` of `hep.conf`.
    pub name: Option<String>,
}

impl fmt::Debug for HepPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HepPacket")
            .field("at", &self.at)
            .field("from", &self.from)
            .field("to", &self.to)
            .field("transport", &self.transport)
            .field("capture_id", &self.capture_id)
            .field("call_id", &self.call_id)
            .field("payload_type", &self.payload_type)
            .field("payload_bytes", &self.payload.len())
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Reads one packet, which is all of `packet`.
///
/// # Errors
/// [`HepError`], with the place.
pub fn parse(packet: &[u8]) -> Result<HepPacket, HepError> {
    View::parse(packet).map(View::to_packet)
}

/// A packet that still borrows its bytes: enough to decide whether it is worth a copy.
#[derive(Clone, Copy)]
struct View<'a> {
    at: Timestamp,
    from: SocketAddr,
    to: SocketAddr,
    transport: Transport,
    capture_id: Option<u32>,
    password: Option<&'a [u8]>,
    call_id: Option<&'a [u8]>,
    payload_type: u8,
    payload: &'a [u8],
    name: Option<&'a [u8]>,
}

impl<'a> View<'a> {
    fn parse(packet: &'a [u8]) -> Result<Self, HepError> {
        let length = claimed_length(packet)?.ok_or(HepError::Truncated { length: HEAD, have: packet.len() })?;
        if packet.len() < length {
            return Err(HepError::Truncated { length, have: packet.len() });
        }
        if packet.len() > length {
            return Err(HepError::Overlong { length, have: packet.len() });
        }
        let (mut transport, mut capture_id, mut password, mut call_id) = (None, None, None, None);
        let (mut payload_type, mut payload, mut name, mut compressed) = (None, None, None, None);
        let (mut seconds, mut micros, mut port_from, mut port_to) = (None, None, None, None);
        let (mut from4, mut to4, mut from6, mut to6) = (None, None, None, None);
        let mut at = HEAD;
        while at < length {
            let Some(&[v1, v2, k1, k2, l1, l2]) = packet.get(at..).and_then(<[u8]>::first_chunk) else {
                return Err(HepError::ChunkHead { at, left: length - at });
            };
            let (vendor, kind) = (u16::from_be_bytes([v1, v2]), u16::from_be_bytes([k1, k2]));
            let size = usize::from(u16::from_be_bytes([l1, l2]));
            if size < CHUNK_HEAD {
                return Err(HepError::ChunkLength { at, kind, length: size });
            }
            let Some(value) = packet.get(at + CHUNK_HEAD..at + size) else {
                return Err(HepError::ChunkOverrun { at, kind, length: size, left: length - at });
            };
            let place = Place { at, kind };
            if vendor == 0 {
                match kind {
                    // The addresses themselves tell their family, and the numbers of families are a system's own.
                    chunk::FAMILY => _ = place.sized::<1>(value)?,
                    chunk::PROTOCOL => {
                        let [protocol] = place.sized(value)?;
                        transport = Some(match protocol {
                            17 => Transport::Udp,
                            6 => Transport::Tcp,
                            protocol => return Err(HepError::Protocol { at, protocol }),
                        });
                    }
                    chunk::IPV4_FROM => from4 = Some(Ipv4Addr::from(place.sized::<4>(value)?)),
                    chunk::IPV4_TO => to4 = Some(Ipv4Addr::from(place.sized::<4>(value)?)),
                    chunk::IPV6_FROM => from6 = Some(Ipv6Addr::from(place.sized::<16>(value)?)),
                    chunk::IPV6_TO => to6 = Some(Ipv6Addr::from(place.sized::<16>(value)?)),
                    chunk::PORT_FROM => port_from = Some(u16::from_be_bytes(place.sized(value)?)),
                    chunk::PORT_TO => port_to = Some(u16::from_be_bytes(place.sized(value)?)),
                    chunk::SECONDS => seconds = Some(u32::from_be_bytes(place.sized(value)?)),
                    chunk::MICROSECONDS => micros = Some(u32::from_be_bytes(place.sized(value)?)),
                    chunk::PAYLOAD_TYPE => payload_type = Some(place.sized::<1>(value)?[0]),
                    chunk::CAPTURE_ID => capture_id = Some(u32::from_be_bytes(place.sized(value)?)),
                    chunk::PASSWORD => password = Some(value),
                    chunk::PAYLOAD => payload = Some(value),
                    chunk::COMPRESSED => compressed = Some(at),
                    chunk::CORRELATION => call_id = Some(value),
                    chunk::NAME => name = Some(value),
                    _ => {}
                }
            }
            at += size;
        }
        let missing = |what| HepError::Missing { what };
        let (from, to) = match (from4, to4, from6, to6) {
            (Some(from), Some(to), _, _) => (IpAddr::V4(from), IpAddr::V4(to)),
            (_, _, Some(from), Some(to)) => (IpAddr::V6(from), IpAddr::V6(to)),
            _ => return Err(missing("its addresses")),
        };
        let payload = match (payload, compressed) {
            (Some(payload), _) => payload,
            (None, Some(at)) => return Err(HepError::Compressed { at }),
            (None, None) => return Err(missing("its payload")),
        };
        Ok(Self {
            at: time(seconds.ok_or(missing("its time"))?, micros.unwrap_or_default())?,
            from: SocketAddr::new(from, port_from.ok_or(missing("its ports"))?),
            to: SocketAddr::new(to, port_to.ok_or(missing("its ports"))?),
            transport: transport.ok_or(missing("its transport"))?,
            capture_id,
            password,
            call_id,
            payload_type: payload_type.ok_or(missing("what its payload is"))?,
            payload,
            name,
        })
    }

    fn to_packet(self) -> HepPacket {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        HepPacket {
            at: self.at,
            from: self.from,
            to: self.to,
            transport: self.transport,
            capture_id: self.capture_id,
            password: self.password.map(|password| text(password).into()),
            call_id: self.call_id.map(text),
            payload_type: self.payload_type,
            payload: Bytes::copy_from_slice(self.payload),
            name: self.name.map(text),
        }
    }

    /// Whether the packet has this password. How long it takes tells the password's length at most.
    fn has_password(&self, password: &SecretString) -> bool {
        self.password.is_some_and(|sent| sent.ct_eq(password.expose_secret().as_bytes()).into())
    }
}

#[derive(Clone, Copy)]
struct Place {
    at: usize,
    kind: u16,
}

impl Place {
    fn sized<const N: usize>(self, value: &[u8]) -> Result<[u8; N], HepError> {
        let Self { at, kind } = self;
        value.try_into().map_err(|_| HepError::ChunkSize { at, kind, size: value.len(), expected: N })
    }
}

/// The length a packet's head claims; `None` until the head is whole. A wrong beginning is told at the first wrong byte.
fn claimed_length(bytes: &[u8]) -> Result<Option<usize>, HepError> {
    if let Some(at) = bytes.iter().zip(MAGIC).position(|(byte, magic)| byte != magic) {
        return Err(HepError::Magic { at });
    }
    let Some(&[_, _, _, _, high, low]) = bytes.first_chunk::<HEAD>() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length < HEAD { Err(HepError::PacketLength { length }) } else { Ok(Some(length)) }
}

fn time(seconds: u32, micros: u32) -> Result<Timestamp, HepError> {
    // Some senders let the microseconds run over.
    let seconds = u64::from(seconds) + u64::from(micros / 1_000_000);
    let nanos = i32::try_from(micros % 1_000_000 * 1000).unwrap_or_default();
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::new(seconds, nanos).ok())
        .ok_or(HepError::Time { seconds })
}

impl HepPacket {
    /// The packet as `res_hep` would write it, chunks in its order: for tests and simulators.
    ///
    /// # Errors
    /// [`HepError::TooLong`], and [`HepError::Time`] for a time that does not fit into 32 bits of seconds.
    pub fn encode(&self) -> Result<Vec<u8>, HepError> {
        let seconds = self.at.as_second();
        let seconds =
            u32::try_from(seconds).map_err(|_| HepError::Time { seconds: u64::try_from(seconds).unwrap_or(0) })?;
        let micros = u32::try_from(self.at.subsec_microsecond()).unwrap_or_default();
        let protocol = match self.transport {
            Transport::Udp => 17,
            Transport::Tcp | Transport::Tls | Transport::Ws => 6,
        };
        let mut bytes = Vec::with_capacity(256 + self.payload.len());
        bytes.put_slice(MAGIC);
        bytes.put_u16(0); // the length, once it is known
        // Linux's AF_INET and AF_INET6, which Asterisk writes as they are.
        put(&mut bytes, chunk::FAMILY, &[if self.from.is_ipv4() { 2 } else { 10 }])?;
        put(&mut bytes, chunk::PROTOCOL, &[protocol])?;
        put(&mut bytes, chunk::PORT_FROM, &self.from.port().to_be_bytes())?;
        put(&mut bytes, chunk::PORT_TO, &self.to.port().to_be_bytes())?;
        put(&mut bytes, chunk::SECONDS, &seconds.to_be_bytes())?;
        put(&mut bytes, chunk::MICROSECONDS, &micros.to_be_bytes())?;
        put(&mut bytes, chunk::PAYLOAD_TYPE, &[self.payload_type])?;
        if let Some(id) = self.capture_id {
            put(&mut bytes, chunk::CAPTURE_ID, &id.to_be_bytes())?;
        }
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                put(&mut bytes, chunk::IPV4_FROM, &from.octets())?;
                put(&mut bytes, chunk::IPV4_TO, &to.octets())?;
            }
            (from, to) => {
                let octets = |ip| match ip {
                    IpAddr::V4(ip) => Ipv4Addr::to_ipv6_mapped(&ip).octets(),
                    IpAddr::V6(ip) => ip.octets(),
                };
                put(&mut bytes, chunk::IPV6_FROM, &octets(from))?;
                put(&mut bytes, chunk::IPV6_TO, &octets(to))?;
            }
        }
        if let Some(password) = &self.password {
            put(&mut bytes, chunk::PASSWORD, password.expose_secret().as_bytes())?;
        }
        if let Some(call_id) = &self.call_id {
            put(&mut bytes, chunk::CORRELATION, call_id.as_bytes())?;
        }
        if let Some(name) = &self.name {
            put(&mut bytes, chunk::NAME, name.as_bytes())?;
        }
        put(&mut bytes, chunk::PAYLOAD, &self.payload)?;
        let length = u16::try_from(bytes.len()).map_err(|_| HepError::TooLong { bytes: bytes.len() })?;
        bytes[4..HEAD].copy_from_slice(&length.to_be_bytes());
        Ok(bytes)
    }
}

fn put(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) -> Result<(), HepError> {
    let length = CHUNK_HEAD + value.len();
    let size = u16::try_from(length).map_err(|_| HepError::TooLong { bytes: bytes.len() + length })?;
    bytes.put_u16(0);
    bytes.put_u16(kind);
    bytes.put_u16(size);
    bytes.put_slice(value);
    Ok(())
}

/// HEP over TCP: packets one after the other.
///
/// There is no way to find the next packet after a broken one, so an error is the end of the connection. Holds what was
/// pushed and not yet taken: whoever takes all packets after each push holds less than one packet and one push.
#[derive(Debug, Default)]
pub struct HepStream {
    buffer: BytesMut,
}

impl HepStream {
    /// Takes bytes in.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The bytes of the next whole packet, for [`parse`]; `None` until there is one.
    ///
    /// # Errors
    /// [`HepError::Magic`] or [`HepError::PacketLength`]: this is no HEP, or no longer.
    pub fn next_packet(&mut self) -> Result<Option<Bytes>, HepError> {
        match claimed_length(&self.buffer)? {
            Some(length) if length <= self.buffer.len() => Ok(Some(self.buffer.split_to(length).freeze())),
            Some(_) | None => Ok(None),
        }
    }

    /// Bytes held.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.buffer.remaining()
    }
}

/// The SIP messages a packet is about.
///
/// A packet about a message that came over a stream holds the whole receive buffer, and each message in that buffer has a
/// packet of its own (`res/res_hep_pjsip.c` with pjproject's `pjsip_tpmgr_receive_packet`). So of several messages only those
/// with the Call-ID of chunk 0x11 are meant; if none has it (`uuid_type=channel`), all are given, since losing one is worse
/// than having it twice.
#[must_use]
pub fn messages(packet: &HepPacket) -> Vec<Seen> {
    if packet.payload_type != PAYLOAD_SIP {
        return Vec::new();
    }
    let mut messages = match packet.transport {
        // A datagram is one message, whatever its Content-Length says (RFC 3261 section 18.3).
        Transport::Udp => SipMessage::parse(packet.payload.clone()).into_iter().collect(),
        Transport::Tcp | Transport::Tls | Transport::Ws => stream::split(&packet.payload),
    };
    if messages.len() > 1
        && let Some(wanted) = packet.call_id.as_deref()
    {
        let is_meant = |message: &SipMessage| message.call_id().is_some_and(|call_id| call_id == wanted);
        if messages.iter().any(is_meant) {
            messages.retain(is_meant);
        }
    }
    let seen = |message: SipMessage| Seen {
        at: packet.at,
        source: Source::Hep,
        direction: None,
        transport: Some(transport_of(&message, packet.transport)),
        from: Some(packet.from),
        to: Some(packet.to),
        what: Happening::Sip(Box::new(message)),
    };
    messages.into_iter().map(seen).collect()
}

/// Asterisk reports every stream as TCP; the topmost Via knows better.
fn transport_of(message: &SipMessage, reported: Transport) -> Transport {
    match reported {
        Transport::Udp => Transport::Udp,
        Transport::Tcp | Transport::Tls | Transport::Ws => match message.via().map(|via| via.transport).as_deref() {
            Some("TLS") => Transport::Tls,
            Some("WS" | "WSS") => Transport::Ws,
            Some(_) | None => reported,
        },
    }
}

/// Whether a payload has to do with a registration: a REGISTER, or a response to one, in any of its messages.
///
/// A cheap look at the lines, for a PBX that sends thousands of INVITEs a second: it may say yes of what is none (a body
/// that quotes a REGISTER), never no of what is one by its CSeq.
#[must_use]
pub fn is_about_register(payload: &[u8]) -> bool {
    let mut rest = payload;
    while !rest.is_empty() {
        let (line, tail) = match memchr::memchr(b'\n', rest) {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None => (rest, &rest[rest.len()..]),
        };
        match line.first() {
            Some(b'R' | b'r') if starts_with(line, b"REGISTER ") => return true,
            // A folded header goes on in the next line.
            Some(b'C' | b'c') if starts_with(line, b"CSeq") && cseq_names_register(&rest[4..]) => return true,
            Some(_) | None => {}
        }
        rest = tail;
    }
    false
}

fn starts_with(bytes: &[u8], word: &[u8]) -> bool {
    bytes.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}

/// `: 17 REGISTER`, with blanks, also folded ones, between the parts.
fn cseq_names_register(after_name: &[u8]) -> bool {
    let value = skip_blanks(after_name).strip_prefix(b":").map(skip_blanks).unwrap_or_default();
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    digits > 0 && starts_with(skip_blanks(&value[digits..]), b"REGISTER")
}

fn skip_blanks(mut bytes: &[u8]) -> &[u8] {
    loop {
        bytes = match bytes {
            [b' ' | b'\t', rest @ ..] => rest,
            [b'\r', b'\n', b' ' | b'\t', rest @ ..] | [b'\n', b' ' | b'\t', rest @ ..] => rest,
            _ => return bytes,
        }
    }
}

#[cfg(test)]
pub(in crate::wire) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Recorded datagrams, each after its length as u32.
    pub(in crate::wire) fn frames(mut recorded: &'static [u8]) -> Vec<&'static [u8]> {
        let mut frames = Vec::new();
        while let Some((length, rest)) = recorded.split_first_chunk::<4>() {
            let (frame, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
            frames.push(frame);
            recorded = rest;
        }
        frames
    }

    const RECORDED: &[u8] = include_bytes!("../../../tests/fixtures/hep3-frames.bin");
    const COALESCED: &[u8] = include_bytes!("../../../tests/fixtures/hep3-tcp-coalesced.bin");

    fn register(call_id: &str, transport: Transport) -> HepPacket {
        let via = match transport {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
            Transport::Tls => "TLS",
            Transport::Ws => "WSS",
        };
        HepPacket {
            at: "2026-11-22T18:32:21.413414Z".parse().unwrap(),
            from: "192.0.2.1:5060".parse().unwrap(),
            to: "198.51.100.7:5061".parse().unwrap(),
            transport,
            capture_id: Some(1234),
            password: Some("hep secret".to_owned().into()),
            call_id: Some(call_id.to_owned()),
            payload_type: PAYLOAD_SIP,
            payload: sip_register(call_id, via).into(),
            name: Some("pbx1".to_owned()),
        }
    }

    pub(in crate::wire) fn sip_register(call_id: &str, via: &str) -> String {
        format!(
            "REGISTER sip:reg.example SIP/2.0\r\nVia: SIP/2.0/{via} 192.0.2.1:5060;branch=z9hG4bK1\r\n\
             From: <sip:u@reg.example>;tag=1\r\nTo: <sip:u@reg.example>\r\nCall-ID: {call_id}\r\n\
             CSeq: 1 REGISTER\r\nContent-Length: 0\r\n\r\n"
        )
    }

    #[test]
    fn every_recorded_packet_is_read_and_is_one_message() {
        let packets: Vec<_> = frames(RECORDED).into_iter().map(|frame| parse(frame).unwrap()).collect();
        assert_eq!(packets.len(), 352);
        assert!(packets.iter().all(|packet| packet.capture_id == Some(1234) && packet.password.is_none()));
        assert!(packets.iter().all(|packet| packet.payload_type == PAYLOAD_SIP && packet.name.is_none()));
        let first = &packets[0];
        assert_eq!(first.at, "2026-11-22T18:32:21.413414Z".parse::<Timestamp>().unwrap());
        assert_eq!((first.from.to_string(), first.to.to_string()), ("127.0.0.1:5060".into(), "127.0.0.1:5093".into()));
        assert_eq!((first.transport, first.payload.len()), (Transport::Udp, 570));
        assert_eq!(first.call_id.as_deref(), Some("5c3c0524-ec34-4e67-b6c4-c5d1e9c8a1a8"));
        for packet in &packets {
            let seen = messages(packet);
            assert_eq!(seen.len(), 1);
            assert_eq!((seen[0].at, seen[0].source, seen[0].direction), (packet.at, Source::Hep, None));
            assert_eq!((seen[0].from, seen[0].to), (Some(packet.from), Some(packet.to)));
            assert_eq!(seen[0].sip().unwrap().call_id().as_deref(), packet.call_id.as_deref());
        }
    }

    #[test]
    fn the_filter_takes_the_registers_and_their_responses_and_nothing_else() {
        let (mut wanted, mut requests) = (0, 0);
        for frame in frames(RECORDED) {
            let packet = parse(frame).unwrap();
            let seen = messages(&packet);
            let message = seen[0].sip().unwrap();
            let is_register = message.cseq().is_some_and(|(_, method)| method == "REGISTER");
            assert_eq!(is_about_register(&packet.payload), is_register, "{message:?}");
            wanted += u32::from(is_register);
            requests += u32::from(message.method() == Some("REGISTER"));
        }
        assert_eq!((wanted, requests), (99, 59));
    }

    #[test]
    fn the_filter_reads_any_case_folded_lines_and_streams() {
        for yes in [
            "SIP/2.0 200 OK\r\ncseq:7 register\r\n\r\n",
            "SIP/2.0 200 OK\nCSEQ \t: 7\tREGISTER\n\n",
            "SIP/2.0 401 No\r\nCSeq:\r\n 7\r\n\tREGISTER\r\n",
            "\r\n\r\nREGISTER sip:x SIP/2.0\r\n",
            "OPTIONS sip:x SIP/2.0\r\nCSeq: 1 OPTIONS\r\n\r\nSIP/2.0 200 OK\r\nCSeq: 2 REGISTER\r\n\r\n",
        ] {
            assert!(is_about_register(yes.as_bytes()), "{yes:?}");
        }
        for no in [
            "",
            "\r\n\r\n",
            "INVITE sip:x SIP/2.0\r\nAllow: INVITE, REGISTER\r\nCSeq: 1 INVITE\r\n\r\n",
            "SIP/2.0 200 OK\r\nCSeq: 7 OPTIONS\r\nX: 1 REGISTER\r\n\r\n",
            "SIP/2.0 200 OK\r\nCSeq: 7",
            "SIP/2.0 200 OK\r\nCSeq",
            "REGISTE",
        ] {
            assert!(!is_about_register(no.as_bytes()), "{no:?}");
        }
    }

    #[test]
    fn each_of_two_requests_in_one_tcp_write_is_counted_once() {
        let packets: Vec<_> = frames(COALESCED).into_iter().map(|frame| parse(frame).unwrap()).collect();
        assert_eq!(packets.len(), 6);
        assert_eq!(stream::split(&packets[0].payload).len(), 2, "both requests are in the packet");
        let mut seen: Vec<_> = packets
            .iter()
            .flat_map(messages)
            .map(|seen| {
                let sip = seen.sip().unwrap();
                (sip.call_id().unwrap().into_owned(), sip.status())
            })
            .collect();
        seen.sort();
        let expected: Vec<_> = ["coal1-15021", "coal2-15021", "coal3-15021"]
            .iter()
            .flat_map(|id| [((*id).to_owned(), None), ((*id).to_owned(), Some(401))])
            .collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn without_a_call_id_that_fits_all_messages_of_the_buffer_are_given() {
        let mut packet = register("a", Transport::Tcp);
        packet.payload = (sip_register("a", "TCP") + &sip_register("b", "TCP")).into();
        assert_eq!(messages(&packet).len(), 1);
        packet.call_id = Some("PJSIP/trunk-00000001".to_owned());
        assert_eq!(messages(&packet).len(), 2);
        packet.call_id = None;
        assert_eq!(messages(&packet).len(), 2);
        packet.payload_type = 5;
        assert!(messages(&packet).is_empty(), "RTCP is no SIP");
    }

    #[test]
    fn the_topmost_via_tells_tls_from_tcp() {
        for (transport, reported) in [
            (Transport::Udp, Transport::Udp),
            (Transport::Tcp, Transport::Tcp),
            (Transport::Tls, Transport::Tcp),
            (Transport::Ws, Transport::Tcp),
        ] {
            let packet = parse(&register("a", transport).encode().unwrap()).unwrap();
            assert_eq!(packet.transport, reported);
            assert_eq!(messages(&packet)[0].transport, Some(transport));
        }
    }

    #[test]
    fn recorded_packets_are_written_as_asterisk_wrote_them() {
        for frame in frames(RECORDED).into_iter().chain(frames(COALESCED)) {
            assert_eq!(parse(frame).unwrap().encode().unwrap(), frame);
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut packet = register("a", Transport::Udp);
        let again = |packet: &HepPacket| {
            let again = parse(&packet.encode().unwrap()).unwrap();
            assert_eq!((again.at, again.from, again.to), (packet.at, packet.from, packet.to));
            assert_eq!((again.call_id, again.capture_id), (packet.call_id.clone(), packet.capture_id));
            assert_eq!((again.name, again.payload), (packet.name.clone(), packet.payload.clone()));
            let secret = |secret: &Option<SecretString>| secret.as_ref().map(|text| text.expose_secret().to_owned());
            assert_eq!(secret(&again.password), secret(&packet.password));
        };
        again(&packet);
        packet.from = "[2001:db8::1]:5060".parse().unwrap();
        packet.to = "[2001:db8::2]:5060".parse().unwrap();
        (packet.password, packet.name, packet.capture_id, packet.call_id) = (None, None, None, None);
        again(&packet);
        packet.payload = vec![b'x'; MAX_PACKET].into();
        assert!(matches!(packet.encode(), Err(HepError::TooLong { .. })));
    }

    #[test]
    fn neither_password_nor_payload_is_printed() {
        let printed = format!("{:?}", register("a", Transport::Udp));
        assert!(!printed.contains("secret") && !printed.contains("REGISTER"), "{printed}");
    }

    #[test]
    fn a_packet_cut_anywhere_is_refused_with_the_place() {
        let whole = register("a", Transport::Udp).encode().unwrap();
        for length in 0..whole.len() {
            let cut = &whole[..length];
            let said = HepError::Truncated { length: if length < HEAD { HEAD } else { whole.len() }, have: length };
            assert_eq!(parse(cut).unwrap_err(), said);
            // The same with a head that says so: then a chunk is cut, or one is missing.
            if length >= HEAD {
                let mut cut = cut.to_vec();
                cut[4..HEAD].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
                let error = parse(&cut).unwrap_err();
                assert!(
                    matches!(
                        error,
                        HepError::ChunkHead { .. } | HepError::ChunkOverrun { .. } | HepError::Missing { .. }
                    ),
                    "{error}"
                );
            }
        }
        let mut long = whole.clone();
        long.push(0);
        assert_eq!(parse(&long).unwrap_err(), HepError::Overlong { length: whole.len(), have: long.len() });
    }

    /// A packet of the chunks of vendor 0 given.
    fn of_chunks(chunks: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = b"HEP3\0\0".to_vec();
        for (kind, value) in chunks {
            put(&mut bytes, *kind, value).unwrap();
        }
        let length = u16::try_from(bytes.len()).unwrap();
        bytes[4..6].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    #[test]
    fn errors_say_where_and_what() {
        let said = |bytes: &[u8]| parse(bytes).unwrap_err().to_string();
        assert_eq!(said(b"HEP2\0\x06"), "no HEPv3 packet: byte 3 is not that of `HEP3`");
        assert_eq!(said(b"HEP3\0\x05"), "the head says 5 bytes, less than the head itself");
        assert_eq!(said(b"HEP3\0\x08\0\0"), "at byte 6: 2 bytes are left, a chunk's head has 6");
        for length in 0..6 {
            let bytes = [b"HEP3\0\x0c\0\0\0\x0f\0".as_slice(), &[length]].concat();
            assert_eq!(said(&bytes), format!("at byte 6: chunk 0xf claims {length} bytes, less than its head"));
        }
        assert_eq!(said(b"HEP3\0\x0c\0\0\0\x0f\xff\xff"), "at byte 6: chunk 0xf claims 65535 bytes, 6 are left");
        assert_eq!(said(&of_chunks(&[(0x02, &[])])), "at byte 6: the value of chunk 0x2 has 0 bytes, not 1");
        assert_eq!(said(&of_chunks(&[(0x03, &[1; 16])])), "at byte 6: the value of chunk 0x3 has 16 bytes, not 4");
        assert_eq!(said(&of_chunks(&[(0x02, &[132])])), "at byte 6: transport protocol 132 is neither UDP nor TCP");
        assert_eq!(said(b"HEP3\0\x06"), "the packet does not say its addresses");
        let addresses: [(u16, &[u8]); 2] = [(0x03, &[1; 4]), (0x04, &[1; 4])];
        assert_eq!(
            said(&of_chunks(&[addresses[0], addresses[1], (0x10, b"zip")])),
            "at byte 26: the payload is compressed"
        );
    }

    #[test]
    fn chunks_of_other_vendors_and_unknown_types_are_skipped() {
        let known = register("a", Transport::Udp).encode().unwrap();
        let mut bytes = b"HEP3\0\0".to_vec();
        bytes.extend_from_slice(&[0, 0, 0x7f, 0xff, 0, 8, 1, 2]); // an unknown type
        bytes.extend_from_slice(&[0, 3, 0, 0x02, 0, 9, 1, 2, 3]); // another vendor's chunk 2, of another size
        bytes.extend_from_slice(&[0, 0, 0, 0x0d, 0, 6]); // a known one that is not needed, empty
        bytes.extend_from_slice(&known[HEAD..]);
        let length = u16::try_from(bytes.len()).unwrap();
        bytes[4..6].copy_from_slice(&length.to_be_bytes());
        assert_eq!(parse(&bytes).unwrap().encode().unwrap(), known);
    }

    #[test]
    fn a_stream_gives_the_packets_whatever_the_pieces_and_ends_at_the_first_wrong_byte() {
        let bytes: Vec<u8> = frames(RECORDED).concat();
        for size in [1, 7, 1000, bytes.len()] {
            let mut stream = HepStream::default();
            let mut found = Vec::new();
            for piece in bytes.chunks(size) {
                stream.push(piece);
                while let Some(packet) = stream.next_packet().unwrap() {
                    found.push(packet);
                }
                assert!(size > 1000 || stream.pending_bytes() < 2000);
            }
            assert_eq!((found.concat() == bytes, found.len(), stream.pending_bytes()), (true, 352, 0));
        }
        let mut stream = HepStream::default();
        stream.push(b"HE");
        assert_eq!(stream.next_packet().unwrap(), None);
        stream.push(b"LO");
        assert_eq!(stream.next_packet().unwrap_err(), HepError::Magic { at: 2 });
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
            let _ = is_about_register(&bytes);
            let headed = of_chunks(&[(0x0f, &bytes)]);
            let _ = parse(&headed);
        }

        #[test]
        fn flipped_bits_never_panic(frame in 0..307_usize, flips in proptest::collection::vec((0..600_usize, 0..8_u32), 1..6)) {
            let mut bytes = frames(RECORDED)[frame].to_vec();
            for (at, bit) in flips {
                let at = at % bytes.len();
                bytes[at] ^= 1 << bit;
            }
            if let Ok(packet) = parse(&bytes) {
                let _ = messages(&packet);
            }
        }
    }
}
