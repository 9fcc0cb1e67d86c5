//! Capture files: pcap and pcapng, down to what was seen of SIP.
//!
//! ```text
//! file -> link -> IP (fragments joined) -> UDP | TCP (segments in order) -> SIP | TLS alert
//!                                       -> ICMP, DNS, TCP handshakes that fail
//! ```
//!
//! A pass over a stream, in memory that the input cannot enlarge: each table has a bound, and what a bound costs is
//! counted in the [`CaptureReport`]. SIP is known by its first line, on any port; all else is passed over as early as
//! possible. Checksums are not looked at: captures of a machine's own traffic are full of ones that its network card
//! fills in later.

mod file;
mod icmp;
mod link;
mod recent;
mod sniff;

use std::{
    io::{self, Read},
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
};

use bytes::Bytes;
use etherparse::{IpNumber, LaxIpSlice, UdpSlice};

use self::{
    file::{CaptureFile, Next, Packet},
    recent::Recent,
    sniff::Sip,
};
use super::sip::{Happening, Seen, SipMessage, Source, Transport};
use crate::clock::Timestamp;

/// Pairs of addresses that SIP went between, remembered for ICMP that quotes too little.
const FLOWS: usize = 8192;

/// What a caller wants beyond the rule.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// TCP ports whose failing connections are reported, besides 5060 to 5099 and those that SIP or TLS is seen on.
    pub ports: Vec<u16>,
}

/// What was in a capture, and what of it was passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaptureReport {
    /// Bytes read.
    pub bytes: u64,
    /// Packets, of any kind.
    pub packets: u64,
    /// When the first packet was captured, and the last one.
    pub span: Option<(Timestamp, Timestamp)>,
    /// SIP messages.
    pub sip: u64,
    /// ICMP messages that say "unreachable", about whatever.
    pub icmp: u64,
    /// What could not be used, by reason.
    pub skipped: Skipped,
    /// The capture ends amid a packet, or goes on with what is none: where that is, in bytes, and what is wrong. That a
    /// capture's last packet is cut is usual: tcpdump was killed. What was before it was read.
    pub ended_early: Option<(u64, String)>,
}

/// What of a capture could not be used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Packets of an interface whose link type is not known, or that nobody described.
    pub link: u64,
    /// Packets without IP: ARP, spanning tree, what is encrypted below IP.
    pub no_ip: u64,
    /// Packets whose IP, UDP or TCP header makes no sense or is cut.
    pub malformed: u64,
    /// Packets of which the capture holds the beginning only (`tcpdump -s`). They are used as far as they go.
    pub truncated: u64,
    /// Datagrams that looked like SIP and cannot be read as such.
    pub no_sip: u64,
}

/// Why a capture cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// It is no capture at all.
    #[error("not a pcap or pcapng capture: byte 0 begins {looks_like}")]
    NotACapture {
        /// What it looks like instead.
        looks_like: String,
    },
    /// It ends within its own header.
    #[error("the capture's header is cut: there are {length} bytes, and 24 are needed")]
    HeaderCut {
        /// Its length.
        length: u64,
    },
    /// None of its packets can be read, since of their link type nothing is known.
    #[error("link type {number} (at byte {offset}) cannot be read; those that can are {}", link::ACCEPTED)]
    LinkType {
        /// Its number in tcpdump's registry.
        number: u32,
        /// Where it is named.
        offset: u64,
    },
    /// Reading failed.
    #[error("reading failed at byte {offset}")]
    Read {
        /// How much was read before.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Reads a capture: `each` is given what was seen, `progress` the bytes read so far, after each piece of about 600 kB.
///
/// What is seen comes in the order of the capture, but for what is known only later: see [`Seen::at`], which is always the
/// time it happened. `each` may end the reading; the report is then of what was read.
///
/// # Errors
/// [`CaptureError`] if it is no capture, or none that can be read, or reading fails. A capture that ends amid a packet is
/// no error: see [`CaptureReport::ended_early`].
pub fn read(
    input: impl Read,
    each: &mut dyn FnMut(Seen) -> ControlFlow<()>,
    progress: &mut dyn FnMut(u64),
) -> Result<CaptureReport, CaptureError> {
    read_with(&Options::default(), input, each, progress)
}

/// As [`read`], with options.
///
/// # Errors
/// As [`read`].
pub fn read_with(
    options: &Options,
    input: impl Read,
    each: &mut dyn FnMut(Seen) -> ControlFlow<()>,
    progress: &mut dyn FnMut(u64),
) -> Result<CaptureReport, CaptureError> {
    let mut file = CaptureFile::open(input)?;
    let mut dissector = Dissector::new(options);
    let mut told = 0;
    let mut flow = ControlFlow::Continue(());
    while flow.is_continue() {
        match file.next()? {
            Next::Packet(packet) => dissector.packet(&packet),
            Next::Orphan => dissector.orphan(),
            Next::End => break,
            Next::Broken { offset, what } => {
                dissector.report.ended_early = Some((offset, what));
                break;
            }
        }
        if !dissector.out.is_empty() {
            flow = dissector.out.drain(..).try_for_each(&mut *each);
        }
        let bytes = file.bytes();
        if bytes != told {
            told = bytes;
            progress(bytes);
        }
    }
    dissector.report.bytes = file.bytes();
    if let Some((number, offset)) = file.unknown_link().filter(|_| dissector.nothing_known()) {
        return Err(CaptureError::LinkType { number, offset });
    }
    Ok(dissector.report)
}

/// Packets in, what was seen out.
#[derive(Debug)]
struct Dissector {
    out: Vec<Seen>,
    report: CaptureReport,
    /// Who sent SIP to whom: UDP or not, from, to.
    flows: Recent<(bool, SocketAddr, SocketAddr), ()>,
}

/// Where a packet's payload comes from and goes to.
#[derive(Debug, Clone, Copy)]
struct Route {
    at: Timestamp,
    from: IpAddr,
    to: IpAddr,
}

impl Dissector {
    fn new(_options: &Options) -> Self {
        Self { out: Vec::new(), report: CaptureReport::default(), flows: Recent::new(FLOWS) }
    }

    /// There were packets, and nothing is known of any's link type.
    fn nothing_known(&self) -> bool {
        self.report.packets > 0 && self.report.packets == self.report.skipped.link
    }

    fn orphan(&mut self) {
        self.report.packets += 1;
        self.report.skipped.link += 1;
    }

    fn packet(&mut self, packet: &Packet<'_>) {
        self.report.packets += 1;
        self.report.skipped.truncated += u64::from(packet.cut);
        self.report.span = Some(match self.report.span {
            Some((first, last)) => (first.min(packet.at), last.max(packet.at)),
            None => (packet.at, packet.at),
        });
        if matches!(packet.link, link::LinkType::Unknown(_)) {
            self.report.skipped.link += 1;
            return;
        }
        let Some(packet_ip) = link::ip(packet.link, packet.data) else {
            self.report.skipped.no_ip += 1;
            return;
        };
        let Ok((ip, _)) = LaxIpSlice::from_slice(packet_ip) else {
            self.report.skipped.malformed += 1;
            return;
        };
        let route = Route { at: packet.at, from: ip.source_addr(), to: ip.destination_addr() };
        let part = ip.payload();
        if part.fragmented {
            return;
        }
        self.transport(route, part.ip_number, part.payload);
    }

    fn transport(&mut self, route: Route, protocol: IpNumber, payload: &[u8]) {
        match protocol {
            IpNumber::UDP => self.udp(route, payload),
            IpNumber::ICMP => self.icmp(route, icmp::v4(payload)),
            IpNumber::IPV6_ICMP => self.icmp(route, icmp::v6(payload)),
            _ => {}
        }
    }

    fn udp(&mut self, route: Route, segment: &[u8]) {
        let Ok(udp) = UdpSlice::from_slice_lax(segment) else {
            self.report.skipped.malformed += 1;
            return;
        };
        let payload = udp.payload();
        if sniff::sip(payload) == Sip::No {
            return;
        }
        let from = SocketAddr::new(route.from, udp.source_port());
        let to = SocketAddr::new(route.to, udp.destination_port());
        match SipMessage::parse(Bytes::copy_from_slice(payload)) {
            Ok(message) => {
                self.flows.insert((true, from, to), ());
                self.report.sip += 1;
                self.saw(route.at, Transport::Udp, from, to, Happening::Sip(Box::new(message)));
            }
            Err(_) => self.report.skipped.no_sip += 1,
        }
    }

    fn icmp(&mut self, route: Route, notice: Option<icmp::Notice>) {
        let Some(notice) = notice else { return };
        self.report.icmp += 1;
        if notice.sip || self.flows.contains(&(notice.udp, notice.from, notice.to)) {
            let transport = if notice.udp { Transport::Udp } else { Transport::Tcp };
            let what = Happening::Unreachable { why: notice.why, call_id: notice.call_id };
            self.saw(route.at, transport, notice.from, notice.to, what);
        }
    }

    fn saw(&mut self, at: Timestamp, transport: Transport, from: SocketAddr, to: SocketAddr, what: Happening) {
        self.out.push(Seen {
            at,
            source: Source::Capture,
            direction: None,
            transport: Some(transport),
            from: Some(from),
            to: Some(to),
            what,
        });
    }
}
