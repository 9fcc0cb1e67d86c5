//! Which ports matter: a capture of a busy machine is full of connections that fail and are nobody's concern.

/// The ports that SIP is at home on: 5060, 5061, and those that providers and Asterisk's own examples use beside them.
const HOME: std::ops::RangeInclusive<u16> = 5060..=5099;

/// A set of ports.
#[derive(Debug)]
struct Set(Box<[u64; 1024]>);

impl Set {
    fn new() -> Self {
        Self(Box::new([0; 1024]))
    }

    fn insert(&mut self, port: u16) {
        self.0[usize::from(port >> 6)] |= 1 << (port & 63);
    }

    fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port >> 6)] >> (port & 63) & 1 == 1
    }
}

/// The ports of servers, as far as a capture has shown them.
#[derive(Debug)]
pub(super) struct Ports {
    sip: Set,
    tls: Set,
    wanted: Set,
}

impl Ports {
    /// Those known from the beginning: SIP's, and `wanted`.
    pub(super) fn new(wanted: &[u16]) -> Self {
        let mut ports = Self { sip: Set::new(), tls: Set::new(), wanted: Set::new() };
        HOME.for_each(|port| ports.sip.insert(port));
        wanted.iter().for_each(|port| ports.wanted.insert(*port));
        ports
    }

    /// A server of SIP is there.
    pub(super) fn saw_sip(&mut self, port: u16) {
        self.sip.insert(port);
    }

    /// A server of TLS is there.
    pub(super) fn saw_tls(&mut self, port: u16) {
        self.tls.insert(port);
    }

    /// SIP is to be expected.
    pub(super) fn is_sip(&self, port: u16) -> bool {
        self.sip.contains(port)
    }

    /// A connection to it that fails is worth telling.
    pub(super) fn matters(&self, port: u16) -> bool {
        self.sip.contains(port) || self.tls.contains(port) || self.wanted.contains(port)
    }
}
