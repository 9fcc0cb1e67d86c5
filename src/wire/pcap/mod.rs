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

mod connect;
mod defragment;
mod dns;
mod file;
mod icmp;
mod link;
mod ports;
mod recent;
mod sniff;
mod tcp;
mod tls;

use std::{
    collections::VecDeque,
    io::{self, Read},
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
    time::Duration,
};

use bytes::Bytes;
use etherparse::{IpNumber, LaxIpSlice, TcpSlice, UdpSlice};

use self::{
    connect::{Attempts, Unanswered},
    defragment::{Datagram, Fragment, Fragments},
    dns::{Names, Unresolved},
    file::{CaptureFile, Next, Packet},
    icmp::Notice,
    ports::Ports,
    recent::Recent,
    sniff::Sip,
    tcp::{Connections, Heard, Segment, What},
};
use super::sip::{Happening, Seen, SipMessage, Source, Transport};
use crate::clock::{self, Timestamp};

/// Pairs of addresses that SIP went between, remembered for ICMP that quotes too little.
const FLOWS: usize = 8192;
const DNS: u16 = 53;
/// A datagram again within that time is the same one, captured at two places.
const COPY: Duration = Duration::from_millis(20);
/// Datagrams remembered for that.
const COPIES: usize = 32;

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
    /// SIP datagrams captured twice within 20 ms, at two interfaces. (A retransmission is not among them.)
    pub copies: u64,
    /// Datagrams of which a fragment was missing. What there was of them from the beginning on was used.
    pub fragments: u64,
    /// Places in a SIP or TLS stream over TCP at which bytes are missing.
    pub tcp_gaps: u64,
    /// TCP connections given up amid a message, because there were too many at a time.
    pub connections: u64,
    /// Attempts to connect of which nothing is said, because there were too many at a time.
    pub attempts: u64,
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
    loop {
        match file.next()? {
            Next::Packet(packet) => dissector.packet(&packet),
            Next::Orphan => dissector.orphan(),
            Next::End => break,
            Next::Broken { offset, what } => {
                dissector.sink.report.ended_early = Some((offset, what));
                break;
            }
        }
        let bytes = file.bytes();
        dissector.sink.report.bytes = bytes;
        if !dissector.sink.out.is_empty() && dissector.sink.out.drain(..).try_for_each(&mut *each).is_break() {
            return Ok(dissector.report());
        }
        if bytes != told {
            told = bytes;
            progress(bytes);
        }
    }
    dissector.sink.report.bytes = file.bytes();
    if let Some((number, offset)) = file.unknown_link().filter(|_| dissector.nothing_known()) {
        return Err(CaptureError::LinkType { number, offset });
    }
    dissector.finish();
    // Whether `each` wants more makes no difference any more.
    let _enough = dissector.sink.out.drain(..).try_for_each(each);
    Ok(dissector.report())
}

/// Packets in, what was seen out.
#[derive(Debug)]
struct Dissector {
    sink: Sink,
    fragments: Fragments,
    connections: Connections,
    attempts: Attempts,
    names: Names,
    copies: Copies,
}

/// What came of the packets so far.
#[derive(Debug)]
struct Sink {
    out: Vec<Seen>,
    report: CaptureReport,
    ports: Ports,
    /// Who sent SIP to whom.
    flows: Recent<(Transport, SocketAddr, SocketAddr), ()>,
}

/// Where a packet's payload comes from and goes to.
#[derive(Debug, Clone, Copy)]
struct Route {
    at: Timestamp,
    from: IpAddr,
    to: IpAddr,
}

impl Dissector {
    fn new(options: &Options) -> Self {
        let sink = Sink {
            out: Vec::new(),
            report: CaptureReport::default(),
            ports: Ports::new(&options.ports),
            flows: Recent::new(FLOWS),
        };
        Self {
            sink,
            fragments: Fragments::default(),
            connections: Connections::new(),
            attempts: Attempts::default(),
            names: Names::new(),
            copies: Copies::default(),
        }
    }

    /// There were packets, and nothing is known of any's link type.
    fn nothing_known(&self) -> bool {
        self.sink.report.packets > 0 && self.sink.report.packets == self.sink.report.skipped.link
    }

    fn orphan(&mut self) {
        self.sink.report.packets += 1;
        self.sink.report.skipped.link += 1;
    }

    fn packet(&mut self, packet: &Packet<'_>) {
        let report = &mut self.sink.report;
        report.packets += 1;
        report.skipped.truncated += u64::from(packet.cut);
        report.span = Some(match report.span {
            Some((first, last)) => (first.min(packet.at), last.max(packet.at)),
            None => (packet.at, packet.at),
        });
        while let Some(attempt) = self.attempts.expired(packet.at) {
            self.sink.unanswered(attempt);
        }
        let skipped = &mut self.sink.report.skipped;
        if matches!(packet.link, link::LinkType::Unknown(_)) {
            skipped.link += 1;
            return;
        }
        let Some(ip) = link::ip(packet.link, packet.data) else {
            skipped.no_ip += 1;
            return;
        };
        let Ok((ip, _)) = LaxIpSlice::from_slice(ip) else {
            skipped.malformed += 1;
            return;
        };
        let part = ip.payload();
        if part.fragmented {
            if let Some(fragment) = Fragment::of(&ip) {
                for datagram in self.fragments.add(packet.at, &fragment) {
                    self.datagram(&datagram);
                }
            }
            return;
        }
        let route = Route { at: packet.at, from: ip.source_addr(), to: ip.destination_addr() };
        let missing = if part.incomplete { missing(&ip) } else { 0 };
        self.transport(route, part.ip_number, part.payload, missing);
    }

    fn datagram(&mut self, datagram: &Datagram) {
        let Datagram { at, from, to, protocol, ref payload } = *datagram;
        self.transport(Route { at, from, to }, protocol, payload, 0);
    }

    fn transport(&mut self, route: Route, protocol: IpNumber, payload: &[u8], missing: u32) {
        match protocol {
            IpNumber::UDP => self.udp(route, payload),
            IpNumber::TCP => self.tcp(route, payload, missing),
            IpNumber::ICMP => self.icmp(route, icmp::v4(payload)),
            IpNumber::IPV6_ICMP => self.icmp(route, icmp::v6(payload)),
            _ => {}
        }
    }

    fn udp(&mut self, route: Route, segment: &[u8]) {
        let Ok(udp) = UdpSlice::from_slice_lax(segment) else {
            self.sink.report.skipped.malformed += 1;
            return;
        };
        let payload = udp.payload();
        let from = SocketAddr::new(route.from, udp.source_port());
        let to = SocketAddr::new(route.to, udp.destination_port());
        if sniff::sip(payload) == Sip::No {
            if from.port() == DNS {
                self.dns(route.at, from, to, payload);
            }
            return;
        }
        let payload = Bytes::copy_from_slice(payload);
        if self.copies.is_one(route.at, from, to, &payload) {
            self.sink.report.skipped.copies += 1;
            return;
        }
        match SipMessage::parse(payload) {
            Ok(message) => self.sink.sip(route.at, Transport::Udp, from, to, message),
            Err(_) => self.sink.report.skipped.no_sip += 1,
        }
    }

    fn dns(&mut self, at: Timestamp, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        if let Some(Unresolved { at, from, to, name, rcode }) = self.names.answer(at, from, to, payload) {
            self.sink.saw(at, Transport::Udp, from, to, Happening::NameError { name, rcode });
        }
    }

    fn tcp(&mut self, route: Route, segment: &[u8], missing: u32) {
        let Ok(tcp) = TcpSlice::from_slice(segment) else {
            self.sink.report.skipped.malformed += 1;
            return;
        };
        let from = SocketAddr::new(route.from, tcp.source_port());
        let to = SocketAddr::new(route.to, tcp.destination_port());
        let (at, syn, ack) = (route.at, tcp.syn(), tcp.ack());
        match (syn, ack, tcp.rst()) {
            (_, _, true) => {
                if self.attempts.answered(to, from) && self.sink.ports.matters(from.port()) {
                    self.sink.saw(at, Transport::Tcp, to, from, Happening::Refused);
                }
                return;
            }
            (true, false, false) => {
                if let Some(attempt) = self.attempts.asked(at, from, to) {
                    self.sink.unanswered(attempt);
                }
            }
            (true, true, false) => {
                self.attempts.answered(to, from);
            }
            (false, true, false) => {
                // Whoever acknowledges has had an answer, even if the capture lacks it.
                self.attempts.answered(from, to);
            }
            (false, false, false) => {}
        }
        let segment = Segment { at, from, to, syn, ack, sequence: tcp.sequence_number(), data: tcp.payload(), missing };
        let mut heard = Vec::new();
        self.connections.segment(&segment, &self.sink.ports, &mut |one| heard.push(one));
        for one in heard {
            self.sink.heard(one);
        }
    }

    fn icmp(&mut self, route: Route, notice: Option<Notice>) {
        let Some(Notice { why, udp, from, to, sip, call_id }) = notice else { return };
        let sink = &mut self.sink;
        sink.report.icmp += 1;
        let transport = if udp { Transport::Udp } else { Transport::Tcp };
        let attempt = !udp && self.attempts.answered(from, to) && sink.ports.matters(to.port());
        if sip || attempt || sink.flows.contains(&(transport, from, to)) {
            sink.saw(route.at, transport, from, to, Happening::Unreachable { why, call_id });
        }
    }

    /// The capture ends: what waited for more waits no longer.
    fn finish(&mut self) {
        for datagram in self.fragments.finish() {
            self.datagram(&datagram);
        }
        let mut heard = Vec::new();
        self.connections.finish(&mut |one| heard.push(one));
        for one in heard {
            self.sink.heard(one);
        }
        for attempt in self.attempts.finish() {
            self.sink.unanswered(attempt);
        }
        for Unresolved { at, from, to, name, rcode } in self.names.finish() {
            self.sink.saw(at, Transport::Udp, from, to, Happening::NameError { name, rcode });
        }
        // The tables have no order: the same capture must give the same each time.
        self.sink.out.sort_by_key(|seen| (seen.at, seen.from, seen.to));
    }

    fn report(mut self) -> CaptureReport {
        let skipped = &mut self.sink.report.skipped;
        skipped.fragments = self.fragments.given_up();
        skipped.tcp_gaps = self.connections.gaps();
        skipped.connections = self.connections.given_up();
        skipped.attempts = self.attempts.given_up();
        self.sink.report
    }
}

impl Sink {
    fn sip(&mut self, at: Timestamp, transport: Transport, from: SocketAddr, to: SocketAddr, message: SipMessage) {
        let server = if sniff::sip(message.raw()) == Sip::Response { from } else { to };
        self.ports.saw_sip(server.port());
        if self.flows.get(&(transport, from, to)).is_none() {
            self.flows.insert((transport, from, to), ());
        }
        self.report.sip += 1;
        self.saw(at, transport, from, to, Happening::Sip(Box::new(message)));
    }

    fn heard(&mut self, Heard { at, from, to, what }: Heard) {
        match what {
            What::Sip(message) => self.sip(at, Transport::Tcp, from, to, message),
            What::Alert(description) => self.saw(at, Transport::Tls, from, to, Happening::TlsAlert { description }),
            What::Tls(by_server) => self.ports.saw_tls(if by_server { from } else { to }.port()),
        }
    }

    fn unanswered(&mut self, Unanswered { at, from, to }: Unanswered) {
        if self.ports.matters(to.port()) {
            self.saw(at, Transport::Tcp, from, to, Happening::Unanswered);
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

/// How many bytes of an IP packet were not captured.
fn missing(ip: &LaxIpSlice<'_>) -> u32 {
    let (whole, headers) = match ip {
        LaxIpSlice::Ipv4(ip) => (usize::from(ip.header().total_len()), ip.header().slice().len()),
        LaxIpSlice::Ipv6(ip) => (usize::from(ip.header().payload_length()), ip.extensions().slice().len()),
    };
    u32::try_from(whole.saturating_sub(headers + ip.payload().payload.len())).unwrap_or(0)
}

/// The same datagram captured twice, at several interfaces of one machine (`tcpdump -i any` with a bridge) or of a switch:
/// that is no retransmission, which comes no sooner than after 500 ms (RFC 3261 section 17.1.1.1).
#[derive(Debug, Default)]
struct Copies {
    last: VecDeque<(Timestamp, SocketAddr, SocketAddr, Bytes)>,
}

impl Copies {
    fn is_one(&mut self, at: Timestamp, from: SocketAddr, to: SocketAddr, payload: &Bytes) -> bool {
        let copy = |(then, its_from, its_to, known): &(Timestamp, SocketAddr, SocketAddr, Bytes)| {
            clock::between(*then, at) < COPY && (*its_from, *its_to) == (from, to) && known == payload
        };
        let is_one = self.last.iter().any(copy);
        if !is_one {
            self.last.truncate(COPIES - 1);
            self.last.push_front((at, from, to, payload.clone()));
        }
        is_one
    }
}
