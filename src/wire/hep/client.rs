//! The HEP listener: UDP and TCP on one address, from any number of PBXs.
//!
//! Separate from the packets because this is where sockets are, and where a sender can be too fast. Its rules:
//!
//! - It never waits for its consumer: what finds the channel full is dropped and counted. A feed that waits would fill the
//!   kernel's buffer, and the losses would go uncounted.
//! - What is not wanted is not copied: a PBX sends every message of every call, of which [`HepSettings::wants`] takes the few.
//! - Anybody can write to the port. A wrong or missing password, a malformed packet, one connection too many are counted by
//!   sender, logged once a minute at most, and never repeated in the log.
//!
//! Assumes that packets come in clear, as HEP has it: the port belongs on a network that is trusted.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use secrecy::SecretString;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument as _, debug, info, info_span, warn};

use super::{HepError, HepPacket, HepStream, MAX_PACKET, PAYLOAD_SIP, View, is_about_register, messages};
use crate::wire::sip::Seen;

/// How many senders are counted each for itself; the port is open to anybody, so there is a bound.
const SENDERS: usize = 256;
/// How often the same thing is logged.
const LOG_EVERY: Duration = Duration::from_secs(60);
/// The wait after an error of the socket itself, so that one that lasts does not take a core.
const AFTER_ERROR: Duration = Duration::from_millis(100);
/// Packets taken off the socket before other tasks get their turn.
const BATCH: usize = 64;
/// How many of the last packets with several messages are remembered, to tell a repeated one.
const REMEMBERED: usize = 16;

/// What of the SIP payload is worth reading: given its bytes, says whether it is.
pub type Wants = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// Where to listen and what to take.
#[derive(Clone)]
pub struct HepSettings {
    /// UDP and TCP alike. With port 0 the system chooses one.
    pub listen: SocketAddr,
    /// `capture_password` of `hep.conf`: when set, packets with another one or none are dropped.
    pub password: Option<SecretString>,
    /// TCP connections at a time; further ones are closed at once.
    pub max_tcp_connections: usize,
    /// A TCP connection that completes no packet for this long is closed.
    pub tcp_idle: Duration,
    /// The kernel's receive buffer asked for, in bytes; it gives `net.core.rmem_max` at most.
    pub receive_buffer: usize,
    /// Which payloads are read. [`is_about_register`] unless set.
    pub wants: Wants,
}

impl HepSettings {
    /// Settings for an address: no password, 32 connections, idle for 5 minutes, a receive buffer of 8 MiB (some seconds of a
    /// busy PBX), registrations only.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            password: None,
            max_tcp_connections: 32,
            tcp_idle: Duration::from_secs(300),
            receive_buffer: 8 << 20,
            wants: Arc::new(is_about_register),
        }
    }
}

impl fmt::Debug for HepSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HepSettings")
            .field("listen", &self.listen)
            .field("password", &self.password)
            .field("max_tcp_connections", &self.max_tcp_connections)
            .field("tcp_idle", &self.tcp_idle)
            .field("receive_buffer", &self.receive_buffer)
            .finish_non_exhaustive()
    }
}

/// One message heard.
#[derive(Debug, Clone)]
pub struct Heard {
    /// Who sent the packet.
    pub peer: SocketAddr,
    /// The packet's capture id: which PBX.
    pub capture_id: Option<u32>,
    /// The message.
    pub seen: Seen,
}

/// What became of the packets, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HepCounts {
    /// Packets received.
    pub received: u64,
    /// Of these: no HEPv3.
    pub malformed: u64,
    /// Of these: another password, or none.
    pub wrong_password: u64,
    /// Of these: not wanted, or no SIP.
    pub unwanted: u64,
    /// Of these: wanted, but without a SIP message in them.
    pub unreadable: u64,
    /// Of these: said again for another message of the same receive buffer, whose messages were all given already.
    pub repeated: u64,
    /// Messages given to the consumer.
    pub messages: u64,
    /// Messages dropped because the consumer was slow, or gone.
    pub dropped: u64,
    /// TCP connections closed at once because there were too many.
    pub refused_connections: u64,
}

/// Counts by sender.
#[derive(Debug, Clone, Default)]
pub struct HepSenders {
    /// Of all senders together.
    pub total: HepCounts,
    /// Each sender's, in no order. Bounded: see [`HepSenders::others`].
    pub by_sender: Vec<(IpAddr, HepCounts)>,
    /// Of the senders that came when 256 others were known already.
    pub others: HepCounts,
}

/// A running listener. Dropping it stops nothing: its token does.
#[derive(Debug, Clone)]
pub struct HepHandle {
    local: SocketAddr,
    receive_buffer: usize,
    counts: Arc<Mutex<Table>>,
}

impl HepHandle {
    /// The address listened on, UDP and TCP.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The receive buffer the kernel gave, in bytes as it counts them (Linux doubles what was asked, for its own use).
    #[must_use]
    pub fn receive_buffer(&self) -> usize {
        self.receive_buffer
    }

    /// What became of the packets so far.
    #[must_use]
    pub fn counts(&self) -> HepSenders {
        let table = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        HepSenders {
            total: table.total,
            by_sender: table.by_sender.iter().map(|(sender, counts)| (*sender, *counts)).collect(),
            others: table.others,
        }
    }
}

#[derive(Debug, Default)]
struct Table {
    total: HepCounts,
    by_sender: HashMap<IpAddr, HepCounts>,
    others: HepCounts,
}

impl Table {
    fn count(&mut self, sender: IpAddr, what: impl Fn(&mut HepCounts)) {
        what(&mut self.total);
        if let Some(counts) = self.by_sender.get_mut(&sender) {
            what(counts);
        } else if self.by_sender.len() < SENDERS {
            what(self.by_sender.entry(sender).or_default());
        } else {
            what(&mut self.others);
        }
    }
}

/// The listener.
#[derive(Debug)]
pub struct HepListener;

impl HepListener {
    /// Binds both sockets and starts listening in tasks of `tracker`, until `stop`.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub fn start(
        settings: HepSettings,
        tracker: &TaskTracker,
        stop: CancellationToken,
        out: mpsc::Sender<Heard>,
    ) -> io::Result<HepHandle> {
        let (udp, tcp) = bind(settings.listen, settings.receive_buffer)?;
        let receive_buffer = udp.recv_buffer_size()?;
        let udp = UdpSocket::from_std(udp.into())?;
        let tcp = TcpListener::from_std(tcp.into())?;
        let local = udp.local_addr()?;
        let connections = Arc::new(Semaphore::new(settings.max_tcp_connections.min(Semaphore::MAX_PERMITS)));
        let shared = Arc::new(Shared {
            settings,
            out,
            counts: Arc::default(),
            warned: Warned::default(),
            recent: Mutex::default(),
        });
        let handle = HepHandle { local, receive_buffer, counts: Arc::clone(&shared.counts) };
        let span = info_span!("hep.listener", hep.listen = %local);
        info!(parent: &span, hep.receive_buffer = receive_buffer, "listening for HEP");
        tracker.spawn(receive(udp, Arc::clone(&shared), stop.clone()).instrument(span.clone()));
        tracker.spawn(accept(tcp, shared, connections, tracker.clone(), stop).instrument(span));
        Ok(handle)
    }
}

/// Both sockets on one port. Where the system chooses it for UDP, it may be taken for TCP: then another.
fn bind(listen: SocketAddr, receive_buffer: usize) -> io::Result<(Socket, Socket)> {
    let mut tries = if listen.port() == 0 { 16 } else { 1 };
    loop {
        tries -= 1;
        let udp = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
        // As much as the kernel will give; what it gave is told by the handle.
        let _ = udp.set_recv_buffer_size(receive_buffer);
        udp.bind(&listen.into())?;
        udp.set_nonblocking(true)?;
        let bound = udp.local_addr()?.as_socket().unwrap_or(listen);
        let tcp = Socket::new(Domain::for_address(listen), Type::STREAM, Some(Protocol::TCP))?;
        tcp.set_reuse_address(true)?;
        tcp.set_nonblocking(true)?;
        match tcp.bind(&bound.into()).and_then(|()| tcp.listen(128)) {
            Ok(()) => return Ok((udp, tcp)),
            Err(error) if tries > 0 => debug!(%error, "a port that is taken for TCP"),
            Err(error) => return Err(error),
        }
    }
}

struct Shared {
    settings: HepSettings,
    out: mpsc::Sender<Heard>,
    counts: Arc<Mutex<Table>>,
    warned: Warned,
    /// Hashes of the last packets that gave several messages.
    recent: Mutex<VecDeque<u64>>,
}

#[derive(Default)]
struct Warned {
    malformed: OnceAMinute,
    password: OnceAMinute,
    slow: OnceAMinute,
    connections: OnceAMinute,
    socket: OnceAMinute,
}

#[derive(Default)]
struct OnceAMinute(Mutex<Option<Instant>>);

impl OnceAMinute {
    fn is_due(&self) -> bool {
        let now = Instant::now();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| now.duration_since(last) >= LOG_EVERY);
        if due {
            *last = Some(now);
        }
        due
    }
}

impl Shared {
    fn count(&self, peer: SocketAddr, what: impl Fn(&mut HepCounts)) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).count(peer.ip().to_canonical(), what);
    }

    fn take(&self, bytes: &[u8], peer: SocketAddr) {
        let packet = match View::parse(bytes) {
            Ok(packet) => packet,
            Err(error) => return self.malformed(&error, peer),
        };
        if self.settings.password.as_ref().is_some_and(|password| !packet.has_password(password)) {
            self.count(peer, |counts| (counts.received += 1, counts.wrong_password += 1).1);
            if self.warned.password.is_due() {
                warn!(peer.addr = %peer, capture.id = ?packet.capture_id, "a HEP packet with another password, or none; dropped");
            }
            return;
        }
        if packet.payload_type != PAYLOAD_SIP || !(self.settings.wants)(packet.payload) {
            return self.count(peer, |counts| (counts.received += 1, counts.unwanted += 1).1);
        }
        let packet = packet.to_packet();
        let seen = messages(&packet);
        if seen.is_empty() {
            return self.count(peer, |counts| (counts.received += 1, counts.unreadable += 1).1);
        }
        if seen.len() > 1 && self.is_repeated(&packet, &seen) {
            return self.count(peer, |counts| (counts.received += 1, counts.repeated += 1).1);
        }
        let (mut given, mut dropped) = (0, 0);
        for seen in seen {
            match self.out.try_send(Heard { peer, capture_id: packet.capture_id, seen }) {
                Ok(()) => given += 1,
                Err(_) => dropped += 1,
            }
        }
        self.count(peer, |counts| {
            counts.received += 1;
            counts.messages += given;
            counts.dropped += dropped;
        });
        if dropped > 0 && self.warned.slow.is_due() {
            warn!(peer.addr = %peer, "HEP messages are dropped: they come faster than they are read");
        }
    }

    fn malformed(&self, error: &HepError, peer: SocketAddr) {
        self.count(peer, |counts| (counts.received += 1, counts.malformed += 1).1);
        if self.warned.malformed.is_due() {
            warn!(peer.addr = %peer, %error, "a malformed HEP packet; dropped");
        }
    }

    /// Whether the same messages of the same receive buffer were given before: each message of the buffer has a packet with all
    /// of them, and with the time of the buffer. Two in it with one Call-ID are thus said twice.
    fn is_repeated(&self, packet: &HepPacket, seen: &[Seen]) -> bool {
        let mut hash = DefaultHasher::new();
        (packet.capture_id, packet.at, packet.from, packet.to, &packet.payload).hash(&mut hash);
        // Those of another Call-ID are another part of the buffer, unless chunk 0x11 is no Call-ID and all were given.
        let is_named = |seen: &Seen| seen.sip().and_then(|sip| sip.call_id()).as_deref() == packet.call_id.as_deref();
        if seen.iter().all(is_named) {
            packet.call_id.hash(&mut hash);
        }
        let hash = hash.finish();
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let repeated = recent.contains(&hash);
        if !repeated {
            if recent.len() == REMEMBERED {
                recent.pop_front();
            }
            recent.push_back(hash);
        }
        repeated
    }
}

/// Cancel safety: it is stopped between packets only.
async fn receive(socket: UdpSocket, shared: Arc<Shared>, stop: CancellationToken) {
    let mut buffer = vec![0; MAX_PACKET + 1];
    loop {
        let received = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        match received {
            Ok((length, peer)) => shared.take(buffer.get(..length).unwrap_or_default(), peer),
            Err(error) => {
                if shared.warned.socket.is_due() {
                    warn!(%error, "HEP over UDP cannot be received");
                }
                sleep(AFTER_ERROR).await;
            }
        }
        for _ in 1..BATCH {
            match socket.try_recv_from(&mut buffer) {
                Ok((length, peer)) => shared.take(buffer.get(..length).unwrap_or_default(), peer),
                Err(_) => break,
            }
        }
    }
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    connections: Arc<Semaphore>,
    tracker: TaskTracker,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Ok(permit) = Arc::clone(&connections).try_acquire_owned() {
                    let span = info_span!("hep.connection", peer.addr = %peer);
                    let task = serve(stream, peer, Arc::clone(&shared), stop.clone(), permit);
                    tracker.spawn(task.instrument(span));
                } else {
                    shared.count(peer, |counts| counts.refused_connections += 1);
                    if shared.warned.connections.is_due() {
                        warn!(peer.addr = %peer, "too many HEP connections; this one is closed");
                    }
                }
            }
            Err(error) => {
                if shared.warned.socket.is_due() {
                    warn!(%error, "HEP over TCP cannot be accepted");
                }
                sleep(AFTER_ERROR).await;
            }
        }
    }
}

async fn serve(
    mut stream: TcpStream,
    peer: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    permit: OwnedSemaphorePermit,
) {
    let mut packets = HepStream::default();
    let mut buffer = vec![0; 16 << 10];
    let mut idle_until = Instant::now() + shared.settings.tcp_idle;
    loop {
        let read = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            read = timeout_at(idle_until, stream.read(&mut buffer)) => read,
        };
        match read {
            Ok(Ok(0)) => break,
            Ok(Ok(length)) => packets.push(buffer.get(..length).unwrap_or_default()),
            Ok(Err(error)) => {
                debug!(%error, "a HEP connection broke");
                break;
            }
            Err(_) => {
                debug!("a HEP connection without a packet for too long; closed");
                break;
            }
        }
        let end = loop {
            match packets.next_packet() {
                Ok(Some(packet)) => {
                    // Whole packets count, not bytes: a connection must not be kept by trickling.
                    idle_until = Instant::now() + shared.settings.tcp_idle;
                    shared.take(&packet, peer);
                }
                Ok(None) => break false,
                Err(error) => {
                    shared.malformed(&error, peer);
                    break true;
                }
            }
        };
        if end {
            break;
        }
    }
    drop(permit);
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt as _, time::timeout};

    use super::*;
    use crate::wire::{
        hep::tests::{frames, sip_register},
        sip::Transport,
    };

    const RECORDED: &[u8] = include_bytes!("../../../tests/fixtures/hep3-frames.bin");
    const COALESCED: &[u8] = include_bytes!("../../../tests/fixtures/hep3-tcp-coalesced.bin");
    const LONG: Duration = Duration::from_secs(20);

    struct Running {
        handle: HepHandle,
        heard: mpsc::Receiver<Heard>,
        tracker: TaskTracker,
        stop: CancellationToken,
    }

    impl Running {
        fn start(room: usize, change: impl FnOnce(&mut HepSettings)) -> Self {
            let mut settings = HepSettings::new("127.0.0.1:0".parse().unwrap());
            change(&mut settings);
            let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
            let (out, heard) = mpsc::channel(room);
            let handle = HepListener::start(settings, &tracker, stop.clone(), out).unwrap();
            Self { handle, heard, tracker, stop }
        }

        async fn udp(&self) -> UdpSocket {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            socket.connect(self.handle.local_addr()).await.unwrap();
            socket
        }

        /// Waits until the counts are as wanted.
        async fn until(&self, wanted: impl Fn(&HepCounts) -> bool) -> HepCounts {
            timeout(LONG, async {
                loop {
                    let counts = self.handle.counts().total;
                    if wanted(&counts) {
                        return counts;
                    }
                    sleep(Duration::from_millis(2)).await;
                }
            })
            .await
            .unwrap_or_else(|_| panic!("{:?}", self.handle.counts()))
        }

        async fn stop(self) {
            self.stop.cancel();
            self.tracker.close();
            timeout(LONG, self.tracker.wait()).await.expect("every task ends");
        }
    }

    fn packet(call_id: &str) -> HepPacket {
        HepPacket {
            at: "2026-11-22T18:32:21Z".parse().unwrap(),
            from: "192.0.2.1:5060".parse().unwrap(),
            to: "198.51.100.7:5060".parse().unwrap(),
            transport: Transport::Udp,
            capture_id: Some(7),
            password: None,
            call_id: Some(call_id.to_owned()),
            payload_type: PAYLOAD_SIP,
            payload: sip_register(call_id, "UDP").into(),
            name: None,
        }
    }

    #[tokio::test]
    async fn over_udp_only_what_is_wanted_comes_through_in_order() {
        let mut running = Running::start(1000, |_| {});
        let socket = running.udp().await;
        let mut sent = Vec::new();
        for frame in frames(RECORDED) {
            let packet = super::super::parse(frame).unwrap();
            if is_about_register(&packet.payload) {
                sent.push(packet.payload);
            }
            socket.send(frame).await.unwrap();
        }
        let counts = running.until(|counts| counts.received == 352).await;
        assert_eq!(counts, HepCounts { received: 352, unwanted: 253, messages: 99, ..HepCounts::default() });
        for payload in sent {
            let heard = running.heard.recv().await.unwrap();
            assert_eq!((heard.peer, heard.capture_id), (socket.local_addr().unwrap(), Some(1234)));
            assert_eq!(heard.seen.sip().unwrap().raw(), &payload);
        }
        let senders = running.handle.counts();
        assert_eq!(senders.by_sender, [("127.0.0.1".parse().unwrap(), counts)]);
        assert!(running.handle.receive_buffer() > 0);
        running.stop().await;
    }

    #[tokio::test]
    async fn over_tcp_the_same_packets_come_and_a_broken_one_ends_the_connection() {
        let mut running = Running::start(1000, |settings| settings.wants = Arc::new(|_| true));
        let mut stream = TcpStream::connect(running.handle.local_addr()).await.unwrap();
        for piece in frames(COALESCED).concat().chunks(100) {
            stream.write_all(piece).await.unwrap();
        }
        let counts = running.until(|counts| counts.received == 6).await;
        assert_eq!(counts, HepCounts { received: 6, messages: 6, ..HepCounts::default() });
        let mut ids = Vec::new();
        for _ in 0..6 {
            ids.push(running.heard.recv().await.unwrap().seen.sip().unwrap().call_id().unwrap().into_owned());
        }
        ids.sort();
        assert_eq!(ids, ["coal1-15021", "coal1-15021", "coal2-15021", "coal2-15021", "coal3-15021", "coal3-15021"]);
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let end = timeout(LONG, stream.read(&mut [0; 8])).await.unwrap();
        assert!(matches!(end, Ok(0) | Err(_)));
        assert_eq!(running.until(|counts| counts.received == 7).await.malformed, 1);
        running.stop().await;
    }

    #[tokio::test]
    async fn a_wrong_or_missing_password_gets_nothing_through() {
        let mut running = Running::start(10, |settings| settings.password = Some("right".to_owned().into()));
        let socket = running.udp().await;
        for password in [None, Some(""), Some("wrong"), Some("righ"), Some("right0"), Some("right")] {
            let mut packet = packet(password.unwrap_or("none"));
            packet.password = password.map(|password| password.to_owned().into());
            socket.send(&packet.encode().unwrap()).await.unwrap();
        }
        let counts = running.until(|counts| counts.received == 6).await;
        assert_eq!((counts.wrong_password, counts.messages), (5, 1));
        let heard = running.heard.recv().await.unwrap();
        assert_eq!(heard.seen.sip().unwrap().call_id().unwrap(), "right");
        running.stop().await;
    }

    #[tokio::test]
    async fn a_slow_consumer_loses_messages_and_the_loss_is_counted() {
        let mut running = Running::start(2, |_| {});
        let socket = running.udp().await;
        for call in 0..5 {
            socket.send(&packet(&call.to_string()).encode().unwrap()).await.unwrap();
        }
        let counts = running.until(|counts| counts.received == 5).await;
        assert_eq!((counts.messages, counts.dropped), (2, 3));
        assert_eq!(running.heard.recv().await.unwrap().seen.sip().unwrap().call_id().unwrap(), "0");
        running.stop().await;
    }

    #[tokio::test]
    async fn malformed_packets_unwanted_types_and_keep_alives_are_counted_each_for_itself() {
        let running = Running::start(2, |settings| settings.wants = Arc::new(|_| true));
        let socket = running.udp().await;
        socket.send(b"HEP3").await.unwrap();
        socket.send(b"").await.unwrap();
        socket.send(b"\x02\x10\x02\x11old version").await.unwrap();
        let mut other = packet("a");
        other.payload_type = 5;
        socket.send(&other.encode().unwrap()).await.unwrap();
        other.payload_type = PAYLOAD_SIP;
        other.payload = b"\r\n\r\n".as_slice().into();
        socket.send(&other.encode().unwrap()).await.unwrap();
        let counts = running.until(|counts| counts.received == 5).await;
        assert_eq!(counts, HepCounts { received: 5, malformed: 3, unwanted: 1, unreadable: 1, ..HepCounts::default() });
        running.stop().await;
    }

    #[tokio::test]
    async fn two_messages_of_one_dialog_in_one_buffer_are_given_once_each() {
        let running = Running::start(20, |_| {});
        let socket = running.udp().await;
        let mut both = packet("same");
        both.transport = Transport::Tcp;
        both.payload = (sip_register("same", "TCP") + &sip_register("same", "TCP")).into();
        // Each of the two has its packet, and both packets have both.
        socket.send(&both.encode().unwrap()).await.unwrap();
        socket.send(&both.encode().unwrap()).await.unwrap();
        both.at = "2026-11-22T18:32:22Z".parse().unwrap();
        socket.send(&both.encode().unwrap()).await.unwrap();
        // Named by channel, the packets differ in that name only.
        both.at = "2026-11-22T18:32:23Z".parse().unwrap();
        for name in ["PJSIP/a-1", "PJSIP/a-2"] {
            both.call_id = Some(name.to_owned());
            socket.send(&both.encode().unwrap()).await.unwrap();
        }
        let counts = running.until(|counts| counts.received == 5).await;
        assert_eq!((counts.messages, counts.repeated), (6, 2));
        running.stop().await;
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_and_idle_ones_are_closed() {
        let running = Running::start(2, |settings| {
            settings.max_tcp_connections = 1;
            settings.tcp_idle = Duration::from_millis(300);
        });
        let mut first = TcpStream::connect(running.handle.local_addr()).await.unwrap();
        let mut second = TcpStream::connect(running.handle.local_addr()).await.unwrap();
        let closed = |read: io::Result<usize>| matches!(read, Ok(0) | Err(_));
        assert!(closed(timeout(LONG, second.read(&mut [0; 8])).await.unwrap()));
        assert_eq!(running.until(|counts| counts.refused_connections == 1).await.received, 0);
        // Bytes that complete no packet keep nothing open.
        first.write_all(b"HEP3").await.unwrap();
        assert!(closed(timeout(LONG, first.read(&mut [0; 8])).await.unwrap()));
        running.stop().await;
    }

    #[tokio::test]
    async fn stopping_ends_open_connections_and_a_taken_port_is_an_error() {
        let running = Running::start(2, |_| {});
        let mut stream = TcpStream::connect(running.handle.local_addr()).await.unwrap();
        stream.write_all(&packet("a").encode().unwrap()).await.unwrap();
        running.until(|counts| counts.messages == 1).await;
        let again = HepListener::start(
            HepSettings::new(running.handle.local_addr()),
            &running.tracker,
            running.stop.clone(),
            mpsc::channel(1).0,
        );
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        running.stop().await;
        assert!(matches!(timeout(LONG, stream.read(&mut [0; 8])).await.unwrap(), Ok(0) | Err(_)));
    }

    #[test]
    fn senders_are_counted_up_to_a_bound_and_the_rest_together() {
        let mut table = Table::default();
        for last in 0..300_u32 {
            table.count(IpAddr::V4(last.into()), |counts| counts.received += 1);
        }
        assert_eq!((table.by_sender.len(), table.others.received, table.total.received), (256, 44, 300));
    }
}
