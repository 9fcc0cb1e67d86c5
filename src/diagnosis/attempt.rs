//! The attempts of one registration, put together from what was seen.
//!
//! Apart from the judgement, because putting together is arithmetic and judging is opinion. Order comes from the protocol
//! (Call-ID, CSeq), not from the clocks: Asterisk's history knows whole seconds only, two sources' clocks differ, and a
//! message may be seen twice. An attempt is what ends in one `Registry` event: the REGISTER, its challenge, the REGISTER
//! with credentials, also a 423 in between.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use super::who::Wanted;
use crate::{
    clock::{Timestamp, after, between},
    wire::sip::{Direction, Happening, Seen, SipMessage, Source, Transport},
};

/// Asterisk's timer B: how long an unanswered request lives (`res/res_pjsip/pjsip_config.xml`, `timer_b`, 32 s).
pub(super) const TIMER_B: Duration = Duration::from_secs(32);
/// Two equal messages within it were seen twice: T1 is 500 ms, so no retransmission comes sooner.
const SEEN_TWICE: Duration = Duration::from_millis(150);
/// A challenge that was not answered within it will not be: Asterisk answers within milliseconds.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
/// So many transmissions of 11 mean that nothing came for 15 s and more: it ended in silence, or will.
const MANY: u32 = 7;
/// So many transmissions (3 repeats, 3.5 s) mean silence so far.
const SOME: u32 = 4;
/// So many of an attempt that is over mean it too: its beginning was not captured.
const FEW: u32 = 3;

/// One request with its answer.
#[derive(Debug, Clone)]
pub(super) struct Leg<'a> {
    /// The request as first seen by the source that saw it most often; `None` if only its answer was.
    pub(super) request: Option<&'a Seen>,
    /// How often it was sent.
    pub(super) sent: u32,
    /// When it was sent last.
    pub(super) last_sent: Option<Timestamp>,
    /// How often it was sent again after its final answer had been seen on the wire.
    pub(super) sent_after_answer: u32,
    /// Its first final answer.
    pub(super) answer: Option<&'a Seen>,
    /// How often that came again.
    pub(super) answer_repeats: u32,
    /// A provisional answer was seen.
    pub(super) provisional: bool,
    /// What the network said of it.
    pub(super) trouble: Vec<&'a Seen>,
    cseq: u32,
}

impl<'a> Leg<'a> {
    /// The request's message.
    pub(super) fn asked(&self) -> Option<&'a SipMessage> {
        self.request.and_then(Seen::sip)
    }

    /// The answer's message.
    pub(super) fn answered(&self) -> Option<&'a SipMessage> {
        self.answer.and_then(Seen::sip)
    }

    /// The answer's code.
    pub(super) fn status(&self) -> Option<u16> {
        self.answered().and_then(SipMessage::status)
    }

    /// The request carries credentials.
    pub(super) fn has_credentials(&self) -> bool {
        self.asked().is_some_and(|message| !message.credentials().is_empty())
    }

    fn began(&self) -> Option<Timestamp> {
        self.request.or(self.answer).map(|seen| seen.at)
    }

    fn challenged(&self) -> bool {
        matches!(self.status(), Some(401 | 407))
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// 2xx.
    Granted,
    /// A final answer that is no challenge, or a challenge to credentials.
    Refused(u16),
    /// A challenge that Asterisk did not answer.
    Unanswered,
    /// Nothing came back, to the end.
    Silent,
    /// Nothing came back so far; it goes on.
    SilentSoFar,
    /// An answer was on the wire, and Asterisk went on asking: it did not arrive.
    Astray,
    /// The network said that it did not arrive, or the connection failed.
    Undelivered,
    /// It is not known: the source did not show its end.
    Unseen,
    /// It goes on.
    Open,
}

impl Outcome {
    /// Whether it is the end of an attempt, or as good as one.
    pub(super) const fn decides(self) -> bool {
        match self {
            Self::Granted
            | Self::Refused(_)
            | Self::Unanswered
            | Self::Silent
            | Self::SilentSoFar
            | Self::Astray
            | Self::Undelivered => true,
            Self::Unseen | Self::Open => false,
        }
    }
}

/// What leads to one `Registry` event.
#[derive(Debug, Clone)]
pub(super) struct Attempt<'a> {
    /// Its requests in order, at least one.
    pub(super) legs: Vec<Leg<'a>>,
    /// It gives the binding up instead of asking for it.
    pub(super) unregister: bool,
    /// How it ended.
    pub(super) outcome: Outcome,
    began: Timestamp,
}

impl<'a> Attempt<'a> {
    /// When it began.
    pub(super) const fn began(&self) -> Timestamp {
        self.began
    }

    /// When the last thing of it was seen.
    pub(super) fn ended(&self) -> Timestamp {
        let of_leg = |leg: &Leg<'_>| {
            let answered = leg.answer.map(|seen| seen.at);
            let troubled = leg.trouble.iter().map(|seen| seen.at).max();
            answered.max(leg.last_sent).max(troubled)
        };
        self.legs.iter().filter_map(of_leg).max().unwrap_or(self.began).max(self.began)
    }

    /// Its last request.
    pub(super) fn last(&self) -> Option<&Leg<'a>> {
        self.legs.last()
    }

    /// The last request that carried credentials.
    pub(super) fn with_credentials(&self) -> Option<&Leg<'a>> {
        self.legs.iter().rev().find(|leg| leg.has_credentials())
    }

    /// Its last answer.
    pub(super) fn answer(&self) -> Option<&'a SipMessage> {
        self.last().and_then(Leg::answered)
    }

    /// Everything that was seen of it, with how often it came again, and when last.
    pub(super) fn exchange(&self) -> Vec<(&'a Seen, u32, Option<Timestamp>)> {
        let mut all = Vec::new();
        for leg in &self.legs {
            all.extend(leg.request.map(|seen| (seen, leg.sent.saturating_sub(1), leg.last_sent)));
            // Of many equal notices the first says it, and how often it came.
            if let Some(&first) = leg.trouble.first() {
                let again = u32::try_from(leg.trouble.len() - 1).unwrap_or(u32::MAX);
                all.push((first, again, leg.trouble.iter().map(|seen| seen.at).max()));
            }
            all.extend(leg.answer.map(|seen| (seen, leg.answer_repeats, None)));
        }
        all
    }
}

/// What is known of time besides the messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Horizon {
    /// It is at least this late.
    pub(super) now: Timestamp,
    /// Asterisk said then that an attempt has failed.
    pub(super) rejected_at: Option<Timestamp>,
}

/// The attempts of the wanted registration, in order.
pub(super) fn attempts<'a>(seen: &'a [Seen], wanted: &Wanted, horizon: Horizon) -> Vec<Attempt<'a>> {
    let calls = calls_of(seen, wanted);
    let mut legs: BTreeMap<(usize, u32), Gathered<'a>> = BTreeMap::new();
    let mut loose = Vec::new();
    let mut answers_in: HashSet<Source> = HashSet::new();
    for one in seen {
        match &one.what {
            Happening::Sip(message) => {
                if message.status().is_some() && one.direction != Some(Direction::Out) {
                    answers_in.insert(one.source);
                }
                let Some(&call) = message.call_id().and_then(|id| calls.get(&*id)) else { continue };
                let Some((cseq, method)) = message.cseq() else { continue };
                if method != "REGISTER" {
                    continue;
                }
                let gathered = legs.entry((call, cseq)).or_default();
                match message.status() {
                    None => gathered.requests.push(one),
                    Some(100..=199) => gathered.provisional = true,
                    Some(_) => gathered.finals.push(one),
                }
            }
            Happening::Unreachable { .. } => loose.push(one),
            Happening::Refused | Happening::Unanswered | Happening::TlsAlert { .. } | Happening::NameError { .. } => {}
        }
    }

    let mut by_call: BTreeMap<usize, Vec<Leg<'a>>> = BTreeMap::new();
    for ((call, cseq), gathered) in legs {
        by_call.entry(call).or_default().push(gathered.leg(cseq));
    }
    for notice in loose {
        attach(notice, &calls, &mut by_call);
    }

    let mut all: Vec<(Timestamp, usize, Attempt<'a>)> = Vec::new();
    for (call, legs) in by_call {
        all.extend(join(legs).into_iter().map(|attempt| (attempt.began, call, attempt)));
    }
    all.sort_by_key(|&(began, call, _)| (began, call));
    let count = all.len();
    let two_way = |leg: &Leg<'_>| leg.request.is_some_and(|seen| answers_in.contains(&seen.source));
    all.into_iter()
        .enumerate()
        .map(|(place, (_, _, mut attempt))| {
            attempt.outcome = outcome(&attempt, place + 1 < count, horizon, two_way);
            attempt
        })
        .collect()
}

/// The Call-IDs of the wanted registration, with a number in order of appearance.
fn calls_of(seen: &[Seen], wanted: &Wanted) -> HashMap<String, usize> {
    let mut calls = HashMap::new();
    let mut foreign = HashSet::new();
    for one in seen {
        let Some(message) = one.sip().filter(|message| message.method() == Some("REGISTER")) else { continue };
        let Some(id) = message.call_id() else { continue };
        // A phone that registers with us.
        if one.direction == Some(Direction::In) {
            foreign.insert(id.into_owned());
        } else if wanted.is(message) {
            let number = calls.len();
            calls.entry(id.into_owned()).or_insert(number);
        }
    }
    calls.retain(|id, _| !foreign.contains(id));
    calls
}

#[derive(Default)]
struct Gathered<'a> {
    requests: Vec<&'a Seen>,
    finals: Vec<&'a Seen>,
    provisional: bool,
}

impl<'a> Gathered<'a> {
    fn leg(mut self, cseq: u32) -> Leg<'a> {
        self.requests.sort_by_key(|seen| seen.at);
        self.finals.sort_by_key(|seen| seen.at);
        let requests = counted(&self.requests);
        let first = self.finals.first().copied();
        let status = first.and_then(Seen::sip).and_then(SipMessage::status);
        let same: Vec<&'a Seen> =
            self.finals.into_iter().filter(|seen| seen.sip().and_then(SipMessage::status) == status).collect();
        let answers = counted(&same);
        let answer = answers.first().copied();
        let sent_after_answer = answer.map_or(0, |answer| {
            // Only where the same clock saw both.
            let late = |seen: &&&Seen| seen.source == answer.source && seen.at > after(answer.at, SEEN_TWICE);
            u32::try_from(requests.iter().filter(late).count()).unwrap_or(u32::MAX)
        });
        Leg {
            request: requests.first().copied(),
            sent: u32::try_from(requests.len()).unwrap_or(u32::MAX),
            last_sent: requests.last().map(|seen| seen.at),
            sent_after_answer,
            answer,
            answer_repeats: u32::try_from(answers.len().saturating_sub(1)).unwrap_or(u32::MAX),
            provisional: self.provisional,
            trouble: Vec::new(),
            cseq,
        }
    }
}

/// The sightings of one message by the source that saw it most often, each once. Other sources saw the same.
fn counted<'a>(sightings: &[&'a Seen]) -> Vec<&'a Seen> {
    let mut by_source: BTreeMap<Source, Vec<&'a Seen>> = BTreeMap::new();
    for &one in sightings {
        let kept = by_source.entry(one.source).or_default();
        // The history's clock knows seconds only, and neither it nor the logger sees anything twice.
        let twice = match one.source {
            Source::Hep | Source::Capture => kept.last().is_some_and(|last| {
                between(last.at, one.at) < SEEN_TWICE
                    && last.sip().map(SipMessage::raw) == one.sip().map(SipMessage::raw)
            }),
            Source::History | Source::Logger | Source::Ami | Source::Configuration => false,
        };
        if !twice {
            kept.push(one);
        }
    }
    let mut best: Vec<&'a Seen> = Vec::new();
    for (_, kept) in by_source {
        if kept.len() > best.len() {
            best = kept;
        }
    }
    best
}

/// Gives an ICMP notice to the request it is about.
fn attach<'a>(notice: &'a Seen, calls: &HashMap<String, usize>, by_call: &mut BTreeMap<usize, Vec<Leg<'a>>>) {
    let Happening::Unreachable { call_id, .. } = &notice.what else { return };
    let of_call = match call_id {
        Some(id) => match calls.get(id) {
            Some(&call) => Some(call),
            None => return, // another's
        },
        None => None,
    };
    let fits = |leg: &Leg<'_>| {
        leg.request.is_some_and(|request| {
            let addressed = of_call.is_some()
                || (notice.to.is_some()
                    && notice.to == request.to
                    && notice.from == request.from
                    && leg.answer.is_none());
            addressed && request.at <= after(notice.at, SEEN_TWICE)
        })
    };
    let mut best: Option<&mut Leg<'a>> = None;
    for (call, legs) in by_call.iter_mut() {
        if of_call.is_some_and(|wanted| wanted != *call) {
            continue;
        }
        for leg in legs.iter_mut().filter(|leg| fits(leg)) {
            if best.as_ref().is_none_or(|known| known.began() <= leg.began()) {
                best = Some(leg);
            }
        }
    }
    if let Some(leg) = best {
        leg.trouble.push(notice);
    }
}

/// Joins one Call-ID's legs, in order of CSeq, to attempts.
fn join(legs: Vec<Leg<'_>>) -> Vec<Attempt<'_>> {
    let mut attempts: Vec<Attempt<'_>> = Vec::new();
    for leg in legs {
        let Some(began) = leg.began() else { continue };
        if let Some(attempt) = attempts.last_mut()
            && attempt.legs.last().is_some_and(|before| continues(before, &leg))
        {
            attempt.legs.push(leg);
            continue;
        }
        let unregister = leg.asked().is_some_and(gives_up);
        attempts.push(Attempt { legs: vec![leg], unregister, outcome: Outcome::Open, began });
    }
    attempts
}

/// Whether `next` is what `before` led to.
fn continues(before: &Leg<'_>, next: &Leg<'_>) -> bool {
    let (Some(then), Some(now)) = (before.began(), next.began()) else { return false };
    if between(then, now) > TIMER_B * 2 {
        return false;
    }
    let same_purpose = match (before.asked(), next.asked()) {
        (Some(before), Some(next)) => gives_up(before) == gives_up(next),
        (None, _) | (_, None) => true,
    };
    same_purpose
        && match before.status() {
            Some(401 | 407) => next.has_credentials() || next.request.is_none(),
            Some(423 | 494) => true,
            Some(_) => false,
            // Its answer was not seen, but the next request shows that it was a challenge.
            None => {
                next.has_credentials() && !before.has_credentials() && before.cseq.checked_add(1) == Some(next.cseq)
            }
        }
}

/// Whether a REGISTER gives a binding up (RFC 3261 section 10.2.2).
pub(super) fn gives_up(message: &SipMessage) -> bool {
    if message.header("Contact").is_some_and(|contact| contact.trim() == "*") {
        return true;
    }
    let contacts = message.contacts();
    if !contacts.is_empty() && contacts.iter().all(|contact| contact.parameter("expires") == Some("0")) {
        return true;
    }
    message.expires() == Some(0) && contacts.iter().all(|contact| contact.parameter("expires").is_none())
}

fn outcome<'a>(attempt: &Attempt<'a>, later: bool, horizon: Horizon, two_way: impl Fn(&Leg<'a>) -> bool) -> Outcome {
    let Some(last) = attempt.legs.last() else { return Outcome::Open };
    if last.sent_after_answer >= 3 {
        return Outcome::Astray;
    }
    if let (Some(answer), Some(status)) = (last.answer, last.status()) {
        let goes_on = (last.challenged() && !last.has_credentials()) || matches!(status, 423 | 494);
        let seconds_only = answer.source == Source::History || answer.source == Source::Logger;
        let patience = if seconds_only { ANSWERS_WITHIN * 2 } else { ANSWERS_WITHIN };
        let ended = later
            || horizon.now >= after(answer.at, patience)
            || horizon.rejected_at.is_some_and(|at| after(at, patience) >= answer.at);
        return match status {
            200..=299 => Outcome::Granted,
            // A cut trace: the challenge's request was not seen, so whether it had credentials is not known.
            401 | 407 if last.request.is_none() => Outcome::Unseen,
            _ if !goes_on => Outcome::Refused(status),
            _ if !ended => Outcome::Open,
            401 | 407 => Outcome::Unanswered,
            _ => Outcome::Refused(status),
        };
    }
    if !last.trouble.is_empty() {
        return Outcome::Undelivered;
    }
    let Some(request) = last.request else { return Outcome::Open };
    // Asterisk's own word ends it earlier, where its `timer_b` is shorter.
    let rejected = horizon.rejected_at.is_some_and(|at| at >= last.last_sent.unwrap_or(request.at));
    let over = horizon.now >= after(request.at, TIMER_B) || later || rejected;
    if last.sent >= MANY || (last.sent >= FEW && over) {
        return Outcome::Silent;
    }
    if last.sent >= SOME {
        return Outcome::SilentSoFar;
    }
    if !over {
        return Outcome::Open;
    }
    // Over UDP what is not answered is sent again; what was sent once was answered, and the source did not show it (or
    // shows requests only). A stream does not send again.
    let stream = match transport(request) {
        Some(Transport::Tcp | Transport::Tls | Transport::Ws) => true,
        Some(Transport::Udp) | None => false,
    };
    if stream && two_way(last) { Outcome::Silent } else { Outcome::Unseen }
}

/// What carries a message: the topmost Via says it best, since HEP calls TLS TCP.
pub(super) fn transport(seen: &Seen) -> Option<Transport> {
    let by_via = seen.sip().and_then(SipMessage::via).and_then(|via| match via.transport.as_str() {
        "UDP" => Some(Transport::Udp),
        "TCP" => Some(Transport::Tcp),
        "TLS" => Some(Transport::Tls),
        "WS" | "WSS" => Some(Transport::Ws),
        _ => None,
    });
    by_via.or(seen.transport)
}
