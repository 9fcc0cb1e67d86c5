//! TCP: each direction's bytes in order, and the SIP messages and TLS alerts in them.
//!
//! A capture may begin amid a connection, lack segments, and hold others twice or too early. What is missing is waited for a
//! little and then skipped: the message it was part of is lost, the next one is not. Most connections carry something
//! else; of these nothing is kept but that they do.

use std::{net::SocketAddr, time::Duration};

use super::{
    ports::Ports,
    recent::Recent,
    sniff::{self, Sip},
    tls::{self, Records, Walk},
};
use crate::{
    clock::{self, Timestamp},
    wire::sip::{SipMessage, stream::SipStream},
};

/// Connections remembered at least; twice as many at most.
const CONNECTIONS: usize = 4096;
/// All that is kept of their bytes. Beyond it, the connections used least recently are given up.
const BUFFERED: usize = 32 << 20;
/// What one direction may keep while a segment is missing: the largest window without scaling, twice.
const HELD: usize = 128 << 10;
/// How many segments that may be.
const HELD_SEGMENTS: usize = 256;
/// How long a missing segment is waited for: several times the usual delay of a retransmission (RFC 6298 section 2.4).
const PATIENCE: Duration = Duration::from_secs(3);
/// A segment that far away is of another connection between the same ports, whose SYN the capture lacks.
const FAR: i32 = 1 << 24;
/// The first bytes looked at; a request line that is longer is none we know of.
const START: usize = 512;
/// Segments of a connection that the capture begins amid, looked at for the beginning of a message.
const MISSES: u8 = 16;
/// Bytes without any message after which a stream that was taken for SIP is not.
const NONSENSE: u64 = 256 << 10;

/// A segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment<'a> {
    pub(super) at: Timestamp,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) syn: bool,
    pub(super) ack: bool,
    pub(super) sequence: u32,
    pub(super) data: &'a [u8],
    /// Bytes of it that were not captured.
    pub(super) missing: u32,
}

/// What was heard in a stream.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) at: Timestamp,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Sip(SipMessage),
    Alert(u8),
    /// TLS begins; whether it is the server that says so.
    Tls(bool),
}

/// The connections of a capture.
#[derive(Debug)]
pub(super) struct Connections {
    recent: Recent<(SocketAddr, SocketAddr), Connection>,
    buffered: usize,
    gaps: u64,
    given_up: u64,
}

/// Both directions of a connection; the first is from the lower address.
#[derive(Debug, Default)]
struct Connection {
    halves: [Half; 2],
}

#[derive(Debug, Default)]
struct Half {
    /// The sequence number expected next.
    next: Option<u32>,
    /// The capture has it from its first byte on.
    from_start: bool,
    content: Content,
    /// Segments that came too early, in order.
    held: Vec<Held>,
}

#[derive(Debug)]
struct Held {
    at: Timestamp,
    sequence: u32,
    data: Vec<u8>,
    missing: u32,
}

#[derive(Debug)]
enum Content {
    /// Its first bytes; how many segments were no beginning.
    Unknown {
        start: Vec<u8>,
        misses: u8,
    },
    /// SIP.
    Sip {
        stream: SipStream,
        /// When its last bytes came.
        at: Timestamp,
        /// Bytes that went in.
        pushed: u64,
        /// Bytes that came out as messages.
        taken: u64,
        /// Bytes that had been skipped at the last message.
        skipped: u64,
    },
    Tls(Records),
    Other,
}

impl Default for Content {
    fn default() -> Self {
        Self::Unknown { start: Vec::new(), misses: 0 }
    }
}

impl Connections {
    pub(super) fn new() -> Self {
        Self { recent: Recent::new(CONNECTIONS), buffered: 0, gaps: 0, given_up: 0 }
    }

    /// Places in streams of SIP or TLS at which bytes are missing, so far.
    pub(super) fn gaps(&self) -> u64 {
        self.gaps
    }

    /// Connections given up with something of a message kept, so far.
    pub(super) fn given_up(&self) -> u64 {
        self.given_up
    }

    /// Takes a segment; `heard` is given what is complete with it.
    pub(super) fn segment(&mut self, segment: &Segment<'_>, ports: &Ports, heard: &mut dyn FnMut(Heard)) {
        if segment.data.is_empty() && !segment.syn && segment.missing == 0 {
            return;
        }
        let (key, side) =
            if segment.from <= segment.to { ((segment.from, segment.to), 0) } else { ((segment.to, segment.from), 1) };
        if self.recent.get(&key).is_none() {
            let given_up = self.recent.insert(key, Connection::default());
            self.forget(given_up.into_values());
        }
        let Some(connection) = self.recent.get(&key) else { return };
        if segment.syn {
            let next = Some(segment.sequence.wrapping_add(1));
            if connection.halves[side].next != next || !connection.halves[side].from_start {
                self.buffered -= connection.weight();
                for (half, (from, to)) in connection.halves.iter_mut().zip([key, (key.1, key.0)]) {
                    half.end(&mut |at, what| heard(Heard { at, from, to, what }));
                }
                if !segment.ack {
                    *connection = Connection::default();
                }
                connection.halves[side] = Half { next, from_start: true, ..Half::default() };
                self.buffered += connection.weight();
            }
            return; // Data in a SYN (RFC 7413) comes again if it was not taken; SIP does not use it.
        }
        let half = &mut connection.halves[side];
        if matches!(half.content, Content::Other) && !half.is_far(segment.sequence) {
            half.next = Some(segment.sequence);
            return;
        }
        let before = half.weight();
        let mut tell = |at, what| heard(Heard { at, from: segment.from, to: segment.to, what });
        let text = ports.is_sip(segment.from.port()) || ports.is_sip(segment.to.port());
        half.segment(segment, text, &mut tell, &mut self.gaps);
        self.buffered = self.buffered + half.weight() - before;
        // The old generation first; if that was not enough, all.
        for _ in 0..2 {
            if self.buffered > BUFFERED {
                let given_up = self.recent.age();
                self.forget(given_up.into_values());
            }
        }
    }

    /// Gives out what waited for missing segments, at the end of the capture.
    pub(super) fn finish(&mut self, heard: &mut dyn FnMut(Heard)) {
        for ((low, high), mut connection) in self.recent.drain() {
            for (half, (from, to)) in connection.halves.iter_mut().zip([(low, high), (high, low)]) {
                let mut tell = |at, what| heard(Heard { at, from, to, what });
                while half.skip_gap(&mut tell, &mut self.gaps) {}
                half.end(&mut tell);
            }
        }
        self.buffered = 0;
    }

    fn forget(&mut self, connections: impl Iterator<Item = Connection>) {
        for connection in connections {
            let weight = connection.weight();
            self.buffered -= weight;
            self.given_up += u64::from(weight > 0);
        }
    }
}

impl Connection {
    fn weight(&self) -> usize {
        self.halves.iter().map(Half::weight).sum()
    }
}

type Tell<'a> = dyn FnMut(Timestamp, What) + 'a;

impl Half {
    fn weight(&self) -> usize {
        let held: usize = self.held.iter().map(|held| held.data.len()).sum();
        held + match &self.content {
            Content::Unknown { start, .. } => start.len(),
            Content::Sip { stream, pushed, taken, .. } => {
                // Blank lines between messages are in neither, so that this is an upper bound.
                let kept = pushed.saturating_sub(*taken).saturating_sub(stream.skipped());
                usize::try_from(kept).unwrap_or(usize::MAX).min(HELD)
            }
            Content::Tls(_) | Content::Other => 0,
        }
    }

    /// Whether a segment is of another connection.
    fn is_far(&self, sequence: u32) -> bool {
        self.next.is_some_and(|next| sequence.wrapping_sub(next).cast_signed().unsigned_abs() > FAR.unsigned_abs())
    }

    fn segment(&mut self, segment: &Segment<'_>, text: bool, tell: &mut Tell<'_>, gaps: &mut u64) {
        if self.is_far(segment.sequence) {
            *self = Self::default();
        }
        let next = *self.next.get_or_insert(segment.sequence);
        if segment.sequence.wrapping_sub(next).cast_signed() > 0 {
            self.hold(segment);
        } else {
            self.deliver(segment.at, segment.sequence, segment.data, segment.missing, text, tell, gaps);
        }
        self.release(text, tell, gaps);
        let held: usize = self.held.iter().map(|held| held.data.len()).sum();
        let waited = self.held.first().is_some_and(|held| clock::between(held.at, segment.at) > PATIENCE);
        if waited || held > HELD || self.held.len() > HELD_SEGMENTS {
            self.skip_gap(tell, gaps);
        }
    }

    fn hold(&mut self, segment: &Segment<'_>) {
        let distance = |sequence: u32| sequence.wrapping_sub(segment.sequence).cast_signed();
        let place = self.held.partition_point(|held| distance(held.sequence) < 0);
        let again = self
            .held
            .get(place)
            .is_some_and(|held| held.sequence == segment.sequence && held.data.len() >= segment.data.len());
        if !again {
            let Segment { at, sequence, missing, .. } = *segment;
            self.held.insert(place, Held { at, sequence, data: segment.data.to_vec(), missing });
        }
    }

    /// Delivers the held segments whose turn it is.
    fn release(&mut self, text: bool, tell: &mut Tell<'_>, gaps: &mut u64) {
        let mut due = 0;
        while let (Some(next), Some(held)) = (self.next, self.held.get_mut(due)) {
            if held.sequence.wrapping_sub(next).cast_signed() > 0 {
                break;
            }
            let (at, sequence, missing) = (held.at, held.sequence, held.missing);
            let data = std::mem::take(&mut held.data);
            self.deliver(at, sequence, &data, missing, text, tell, gaps);
            due += 1;
        }
        self.held.drain(..due);
    }

    /// Goes on behind what is missing. `false` if nothing is held.
    fn skip_gap(&mut self, tell: &mut Tell<'_>, gaps: &mut u64) -> bool {
        let Some(first) = self.held.first() else { return false };
        self.next = Some(first.sequence);
        self.lose(tell, gaps);
        self.release(false, tell, gaps);
        true
    }

    /// Nothing more comes of the message that has begun: what there is of it is evidence too.
    fn end(&mut self, tell: &mut Tell<'_>) {
        if let Content::Sip { stream, at, .. } = &mut self.content
            && let Some(message) = stream.finish()
        {
            tell(*at, What::Sip(message));
        }
    }

    /// Bytes are missing here.
    fn lose(&mut self, tell: &mut Tell<'_>, gaps: &mut u64) {
        self.from_start = false;
        self.end(tell);
        match &mut self.content {
            Content::Unknown { start, .. } => start.clear(),
            Content::Sip { .. } => {
                *gaps += 1;
                self.content = Content::sip(Timestamp::MIN);
            }
            Content::Tls(_) => {
                *gaps += 1;
                self.content = Content::Other; // Where its next record begins cannot be known.
            }
            Content::Other => {}
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a segment, and where its outcome goes")]
    fn deliver(
        &mut self,
        at: Timestamp,
        sequence: u32,
        data: &[u8],
        missing: u32,
        text: bool,
        tell: &mut Tell<'_>,
        gaps: &mut u64,
    ) {
        let next = self.next.unwrap_or(sequence);
        let known = usize::try_from(next.wrapping_sub(sequence)).unwrap_or(usize::MAX);
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let end = sequence.wrapping_add(length).wrapping_add(missing);
        if end.wrapping_sub(next).cast_signed() <= 0 {
            return; // All of it is known: a retransmission, or a keep-alive.
        }
        self.next = Some(end);
        if let Some(fresh) = data.get(known..) {
            self.read(at, fresh, text, tell);
        }
        if missing > 0 {
            self.lose(tell, gaps);
        }
    }

    fn read(&mut self, at: Timestamp, bytes: &[u8], text: bool, tell: &mut Tell<'_>) {
        if bytes.is_empty() {
            return;
        }
        match &mut self.content {
            Content::Other => {}
            Content::Tls(records) => {
                if records.push(bytes, |alert| tell(at, What::Alert(alert))) == Walk::Done {
                    self.content = Content::Other;
                }
            }
            Content::Sip { stream, at: last, pushed, taken, skipped } => {
                *last = at;
                stream.push(bytes);
                *pushed += bytes.len() as u64;
                while let Some(message) = stream.next_message() {
                    *taken += message.raw().len() as u64;
                    *skipped = stream.skipped();
                    tell(at, What::Sip(message));
                }
                if stream.skipped().saturating_sub(*skipped) > NONSENSE {
                    self.content = Content::Other;
                }
            }
            Content::Unknown { start, misses } => {
                start.extend_from_slice(bytes);
                let begun = match begins(start) {
                    None => return,
                    Some(Begin::Sip) => Some(Content::sip(at)),
                    Some(Begin::Tls) => {
                        if let Some(server) = tls::sent_by_server(start) {
                            tell(at, What::Tls(server));
                        }
                        Some(Content::Tls(Records::default()))
                    }
                    // Amid a message, on a port where SIP is at home: the stream finds the next one.
                    Some(Begin::Text) if text && !self.from_start => Some(Content::sip(at)),
                    Some(Begin::Text | Begin::Other) => None,
                };
                let Some(begun) = begun else {
                    *misses += 1;
                    start.clear();
                    if self.from_start || *misses >= MISSES {
                        self.content = Content::Other;
                    }
                    return;
                };
                let start = std::mem::take(start);
                self.content = begun;
                self.read(at, &start, text, tell);
            }
        }
    }
}

impl Content {
    fn sip(at: Timestamp) -> Self {
        Self::Sip { stream: SipStream::default(), at, pushed: 0, taken: 0, skipped: 0 }
    }
}

/// What a stream begins with.
#[derive(Debug, Clone, Copy)]
enum Begin {
    Sip,
    Tls,
    /// Neither, and text.
    Text,
    Other,
}

/// What these first bytes are; `None` if it is too early to say.
fn begins(start: &[u8]) -> Option<Begin> {
    match tls::begins(start) {
        None => return None,
        Some(true) => return Some(Begin::Tls),
        Some(false) => {}
    }
    let Some(begin) = start.iter().position(|byte| !matches!(byte, b'\r' | b'\n')) else {
        // Keep-alives only (RFC 5626 section 3.5.1).
        return (start.len() >= START).then_some(Begin::Other);
    };
    if sniff::sip(start) != Sip::No {
        return Some(Begin::Sip);
    }
    let text = start[begin].is_ascii_graphic();
    let line_may_go_on = text && start.len() < START && !start[begin..].contains(&b'\n');
    if line_may_go_on {
        return None;
    }
    Some(if text { Begin::Text } else { Begin::Other })
}
