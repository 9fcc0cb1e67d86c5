//! Capture files: which packets these bytes hold.
//!
//! pcap (micro- and nanoseconds, both byte orders, the "modified" record of old Red Hat kernels) and pcapng (several
//! sections, several interfaces, each with its own clock resolution). The framing is a few fixed fields, read by hand:
//! that way a length is checked before anything is made of it, memory is one buffer whatever a header claims, an error
//! says at which byte, and a block that nobody needs is skipped without being held.
//!
//! Sources: `pcap-savefile(5)`; IETF draft-ietf-opsawg-pcapng.

use std::io::{ErrorKind, Read};

use super::{CaptureError, link::LinkType};
use crate::clock::Timestamp;

/// The largest packet accepted: libpcap's own largest snapshot length (`MAXIMUM_SNAPLEN`).
const MAX_PACKET: usize = 262_144;
/// The largest block kept: a packet and what stands around it. Larger ones that hold no packet are skipped.
const MAX_BLOCK: usize = MAX_PACKET + 65_536;
/// The buffer: two packets of the largest size, so that one read brings many of the usual size.
const BUFFER: usize = 2 * MAX_BLOCK;
/// Interfaces kept per section; a capture on every interface of a large router has a few hundred.
const MAX_INTERFACES: usize = 4096;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const PACKET: u32 = 2; // Obsolete, still found in old captures.
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const OPTION_END: u16 = 0;
const OPTION_RESOLUTION: u16 = 9;
const OPTION_OFFSET: u16 = 14;

/// One packet.
#[derive(Debug)]
pub(super) struct Packet<'a> {
    /// When it was captured.
    pub(super) at: Timestamp,
    /// What its first header is.
    pub(super) link: LinkType,
    /// What was captured of it.
    pub(super) data: &'a [u8],
    /// It was longer on the wire than what was captured.
    pub(super) cut: bool,
}

/// What comes next in a file.
#[derive(Debug)]
pub(super) enum Next<'a> {
    /// A packet.
    Packet(Packet<'a>),
    /// A packet of an interface that nobody described, or that has no clock (a simple packet before any description).
    Orphan,
    /// The end, where one is expected.
    End,
    /// The end, where none is expected, or nonsense: nothing after it can be read.
    Broken {
        /// Where the record begins that cannot be read.
        offset: u64,
        /// What is wrong with it.
        what: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn u16(self, bytes: &[u8], at: usize) -> u16 {
        let field = bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default();
        match self {
            Self::Little => u16::from_le_bytes(field),
            Self::Big => u16::from_be_bytes(field),
        }
    }

    fn u32(self, bytes: &[u8], at: usize) -> u32 {
        let field = bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default();
        match self {
            Self::Little => u32::from_le_bytes(field),
            Self::Big => u32::from_be_bytes(field),
        }
    }

    fn i64(self, bytes: &[u8], at: usize) -> i64 {
        let field = bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default();
        match self {
            Self::Little => i64::from_le_bytes(field),
            Self::Big => i64::from_be_bytes(field),
        }
    }
}

#[derive(Debug)]
enum Format {
    Pcap { order: Order, nanoseconds: bool, link: LinkType, record_header: usize },
    Pcapng { order: Order, interfaces: Vec<Interface>, unknown: Option<(u32, u64)> },
}

#[derive(Debug, Clone, Copy)]
struct Interface {
    link: LinkType,
    /// Ticks a second.
    resolution: u128,
    /// Seconds to add.
    offset: i64,
    /// The most that was captured of a packet; 0 is no limit.
    snaplen: u32,
}

/// A capture being read.
pub(super) struct CaptureFile<R> {
    input: Input<R>,
    format: Format,
}

/// The bytes of a capture: one buffer, and where in the file it stands.
struct Input<R> {
    reader: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Offset in the file of `buffer[start]`.
    offset: u64,
}

impl<R: Read> Input<R> {
    /// Makes at least `wanted` bytes available, `wanted <= BUFFER`; fewer only at the end of the file.
    fn fill(&mut self, wanted: usize) -> Result<&[u8], CaptureError> {
        if self.end - self.start < wanted {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            while self.end < wanted {
                match self.reader.read(&mut self.buffer[self.end..]) {
                    Ok(0) => break,
                    Ok(read) => self.end += read.min(self.buffer.len() - self.end),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(source) => return Err(CaptureError::Read { offset: self.read(), source }),
                }
            }
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
        self.offset += count as u64;
    }

    /// Skips `count` bytes; `false` if the file ends before.
    fn skip(&mut self, mut count: u64) -> Result<bool, CaptureError> {
        while count > 0 {
            let available = self.fill(1)?.len();
            if available == 0 {
                return Ok(false);
            }
            let step = usize::try_from(count).unwrap_or(usize::MAX).min(available);
            self.consume(step);
            count -= step as u64;
        }
        Ok(true)
    }

    fn read(&self) -> u64 {
        self.offset + (self.end - self.start) as u64
    }
}

impl<R: Read> CaptureFile<R> {
    /// Reads the file's header.
    pub(super) fn open(reader: R) -> Result<Self, CaptureError> {
        let buffer = vec![0; BUFFER].into_boxed_slice();
        let mut input = Input { reader, buffer, start: 0, end: 0, offset: 0 };
        let head = input.fill(24)?;
        let head = &head[..head.len().min(24)]; // A read may have brought more, such as a line without an end.
        let Some(magic) = head.first_chunk::<4>() else {
            return Err(CaptureError::NotACapture { looks_like: looks_like(head) });
        };
        let (order, nanoseconds, record_header) = match magic {
            [0xd4, 0xc3, 0xb2, 0xa1] => (Order::Little, false, 16),
            [0xa1, 0xb2, 0xc3, 0xd4] => (Order::Big, false, 16),
            [0x4d, 0x3c, 0xb2, 0xa1] => (Order::Little, true, 16),
            [0xa1, 0xb2, 0x3c, 0x4d] => (Order::Big, true, 16),
            [0x34, 0xcd, 0xb2, 0xa1] => (Order::Little, false, 24),
            [0xa1, 0xb2, 0xcd, 0x34] => (Order::Big, false, 24),
            [0x0a, 0x0d, 0x0d, 0x0a] => {
                let Some(order) = byte_order(head) else {
                    return Err(CaptureError::NotACapture { looks_like: looks_like(head) });
                };
                return Ok(Self { input, format: Format::Pcapng { order, interfaces: Vec::new(), unknown: None } });
            }
            _ => return Err(CaptureError::NotACapture { looks_like: looks_like(head) }),
        };
        if head.len() < 24 {
            return Err(CaptureError::HeaderCut { length: head.len() as u64 });
        }
        // The upper bits tell about a frame check sequence.
        let number = order.u32(head, 20) & 0x03ff_ffff;
        let link = LinkType::from(number);
        if let LinkType::Unknown(number) = link {
            return Err(CaptureError::LinkType { number, offset: 20 });
        }
        input.consume(24);
        Ok(Self { input, format: Format::Pcap { order, nanoseconds, link, record_header } })
    }

    /// How many bytes were read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.input.read()
    }

    /// The first link type, and where it is named, of which nothing is known.
    pub(super) fn unknown_link(&self) -> Option<(u32, u64)> {
        match &self.format {
            Format::Pcap { .. } => None, // It has but one, and is refused with it.
            Format::Pcapng { unknown, .. } => *unknown,
        }
    }

    /// The next packet.
    pub(super) fn next(&mut self) -> Result<Next<'_>, CaptureError> {
        let Self { input, format } = self;
        match format {
            Format::Pcap { order, nanoseconds, link, record_header } => {
                next_record(input, *order, *nanoseconds, *link, *record_header)
            }
            Format::Pcapng { order, interfaces, unknown } => next_block(input, order, interfaces, unknown),
        }
    }
}

fn next_record<R: Read>(
    input: &mut Input<R>,
    order: Order,
    nanoseconds: bool,
    link: LinkType,
    header: usize,
) -> Result<Next<'_>, CaptureError> {
    let offset = input.offset;
    let head = input.fill(header)?;
    if head.is_empty() {
        return Ok(Next::End);
    }
    if head.len() < header {
        return Ok(Next::Broken { offset, what: format!("its header is cut after {} of {header} bytes", head.len()) });
    }
    let (seconds, fraction) = (order.u32(head, 0), order.u32(head, 4));
    let (captured, original) = (order.u32(head, 8), order.u32(head, 12));
    let Some(length) = usize::try_from(captured).ok().filter(|length| *length <= MAX_PACKET) else {
        return Ok(Next::Broken { offset, what: too_long(captured) });
    };
    let available = input.fill(header + length)?.len();
    if available < header + length {
        return Ok(Next::Broken { offset, what: cut(available - header, length) });
    }
    let at = if nanoseconds {
        time(i64::from(seconds) + i64::from(fraction / 1_000_000_000), fraction % 1_000_000_000)
    } else {
        time(i64::from(seconds) + i64::from(fraction / 1_000_000), fraction % 1_000_000 * 1000)
    };
    input.consume(header + length);
    let data = &input.buffer[input.start - length..input.start];
    Ok(Next::Packet(Packet { at, link, data, cut: captured < original }))
}

fn next_block<'a, R: Read>(
    input: &'a mut Input<R>,
    order: &mut Order,
    interfaces: &mut Vec<Interface>,
    unknown: &mut Option<(u32, u64)>,
) -> Result<Next<'a>, CaptureError> {
    loop {
        let offset = input.offset;
        let broken = |what: String| Ok(Next::Broken { offset, what });
        let head = input.fill(12)?;
        if head.is_empty() {
            return Ok(Next::End);
        }
        if head.len() < 12 {
            return broken(format!("a block is cut after {} bytes", head.len()));
        }
        let kind = order.u32(head, 0);
        if kind == SECTION_HEADER {
            // Each section has its own byte order; its type reads the same in both.
            let Some(said) = byte_order(head) else {
                return broken("a section header without its byte order mark".to_owned());
            };
            *order = said;
            interfaces.clear();
        }
        let total = order.u32(head, 4);
        if total < 12 || !total.is_multiple_of(4) {
            return broken(format!("a block claims a length of {total} bytes"));
        }
        let known = match kind {
            INTERFACE_DESCRIPTION | PACKET | SIMPLE_PACKET | ENHANCED_PACKET => true,
            _ => false, // Statistics, names, secrets, what is to come, and a section's header, which is read above.
        };
        if !known {
            if !input.skip(u64::from(total))? {
                return broken(format!("the file ends inside a block of {total} bytes"));
            }
            continue;
        }
        let Some(total) = usize::try_from(total).ok().filter(|total| *total <= MAX_BLOCK) else {
            return broken(too_long(total));
        };
        let available = input.fill(total)?.len();
        if available < total {
            return broken(cut(available, total));
        }
        input.consume(total);
        let block = &input.buffer[input.start - total..input.start];
        if order.u32(block, total - 4) as usize != total {
            return broken("the two lengths of a block differ".to_owned());
        }
        let body = &block[8..total - 4];
        let (interface, ticks, captured, original, data) = match kind {
            INTERFACE_DESCRIPTION => {
                let interface = describe(*order, body);
                if let LinkType::Unknown(number) = interface.link {
                    unknown.get_or_insert((number, offset + 8));
                }
                if interfaces.len() < MAX_INTERFACES {
                    interfaces.push(interface);
                }
                continue;
            }
            SIMPLE_PACKET => {
                let original = order.u32(body, 0);
                let snaplen = interfaces.first().map_or(0, |interface| interface.snaplen);
                let captured = if snaplen == 0 { original } else { original.min(snaplen) };
                (0, 0, captured, original, body.get(4..))
            }
            PACKET | ENHANCED_PACKET => {
                let interface = if kind == PACKET { u32::from(order.u16(body, 0)) } else { order.u32(body, 0) };
                let ticks = u64::from(order.u32(body, 4)) << 32 | u64::from(order.u32(body, 8));
                (interface, ticks, order.u32(body, 12), order.u32(body, 16), body.get(20..))
            }
            _ => continue,
        };
        let data = data.and_then(|data| data.get(..usize::try_from(captured).ok()?));
        // Borrowed anew from the buffer: what is returned must not keep the loop's borrow.
        let Some(length) = data.map(<[u8]>::len) else {
            return broken(format!("a packet of {captured} bytes does not fit its block of {total}"));
        };
        let Some(interface) = usize::try_from(interface).ok().and_then(|index| interfaces.get(index)) else {
            return Ok(Next::Orphan);
        };
        let at = interface.time(ticks);
        let from = input.start - total + 8 + if kind == SIMPLE_PACKET { 4 } else { 20 };
        let data = &input.buffer[from..from + length];
        return Ok(Next::Packet(Packet { at, link: interface.link, data, cut: captured < original }));
    }
}

/// The byte order of a section header, by its mark.
fn byte_order(head: &[u8]) -> Option<Order> {
    [Order::Little, Order::Big].into_iter().find(|order| order.u32(head, 8) == BYTE_ORDER)
}

fn describe(order: Order, body: &[u8]) -> Interface {
    let link = LinkType::from(u32::from(order.u16(body, 0)));
    let mut interface = Interface { link, resolution: 1_000_000, offset: 0, snaplen: order.u32(body, 4) };
    let mut options = body.get(8..).unwrap_or_default();
    while options.len() >= 4 {
        let (code, length) = (order.u16(options, 0), usize::from(order.u16(options, 2)));
        let Some(value) = options.get(4..4 + length) else { break };
        match (code, value) {
            (OPTION_END, _) => break,
            (OPTION_RESOLUTION, [exponent, ..]) => {
                let base: u128 = if exponent & 0x80 == 0 { 10 } else { 2 };
                interface.resolution = base.checked_pow(u32::from(exponent & 0x7f)).unwrap_or(u128::MAX);
            }
            (OPTION_OFFSET, value) if value.len() == 8 => interface.offset = order.i64(value, 0),
            _ => {}
        }
        options = options.get(4 + length.next_multiple_of(4)..).unwrap_or_default();
    }
    interface
}

impl Interface {
    fn time(&self, ticks: u64) -> Timestamp {
        // The two resolutions in use, without a division of 128 bits.
        let (seconds, nanoseconds) = match self.resolution {
            1_000_000 => (ticks / 1_000_000, ticks % 1_000_000 * 1000),
            1_000_000_000 => (ticks / 1_000_000_000, ticks % 1_000_000_000),
            resolution => {
                let (ticks, resolution) = (u128::from(ticks), resolution.max(1));
                let fraction = (ticks % resolution).checked_mul(1_000_000_000).map_or(0, |scaled| scaled / resolution);
                (u64::try_from(ticks / resolution).unwrap_or(u64::MAX), u64::try_from(fraction).unwrap_or(0))
            }
        };
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_add(self.offset);
        time(seconds, u32::try_from(nanoseconds).unwrap_or(0))
    }
}

/// A time; one that no calendar has is the first or the last that one has.
fn time(seconds: i64, nanoseconds: u32) -> Timestamp {
    let end = if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
    i32::try_from(nanoseconds).ok().and_then(|fraction| Timestamp::new(seconds, fraction).ok()).unwrap_or(end)
}

fn too_long(length: u32) -> String {
    format!("it claims {length} bytes, and no packet is longer than {MAX_PACKET}")
}

fn cut(available: usize, length: usize) -> String {
    format!("the file ends after {available} of its {length} bytes")
}

/// What a file is that is no capture, by its first bytes.
fn looks_like(head: &[u8]) -> String {
    let what = match head {
        [] => "nothing: it is empty",
        [0x1f, 0x8b, ..] => "gzip: unpack it first",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd: unpack it first",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz: unpack it first",
        [b'B', b'Z', b'h', ..] => "bzip2: unpack it first",
        [b'P', b'K', 3, 4, ..] => "a zip archive: unpack it first",
        [b's', b'n', b'o', b'o', b'p', ..] => "a snoop capture: convert it with editcap",
        [b'H', b'E', b'P', b'3', ..] => "HEP packets",
        [b'G', b'M', b'B', b'U', ..] => "a Network Monitor capture: convert it with editcap",
        text if text.iter().all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~')) => {
            let line = String::from_utf8_lossy(text.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or(text));
            return format!("text ({line:?}); a log of Asterisk's is read as a log");
        }
        other => {
            let hex: Vec<String> = other.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
            return format!("something unknown (first bytes {})", hex.join(" "));
        }
    };
    what.to_owned()
}
