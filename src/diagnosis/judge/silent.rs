//! An attempt that got no answer, or could not be made.

use std::time::Duration;

use super::{
    super::{
        address,
        attempt::{Attempt, Leg, Outcome},
        tell,
        verdict::{Cause, Fault},
    },
    finding::{Finding, More},
    mend,
    scene::{Before, Scene},
};
use crate::{
    clock::{Timestamp, between},
    wire::sip::{Direction, Happening, Seen, SipMessage, Source, Transport, Unreachable},
};
use Cause::{
    DnsFailure, NatContact, NoResponse, OutboundProxyRequired, PortClosed, ProviderUnavailable, TlsFailure,
    WrongPassword,
};

/// What ends so soon did not end in silence.
const AT_ONCE: Duration = Duration::from_secs(3);

/// No answer arrived.
pub(super) fn silent<'a>(scene: &Scene<'a>, attempt: &Attempt<'a>) -> Finding<'a> {
    let Some(leg) = attempt.last() else { return nothing_sent(scene, scene.now) };
    if attempt.outcome == Outcome::Undelivered
        && let Some(found) = notified(scene, attempt, leg)
    {
        return found;
    }
    if attempt.outcome == Outcome::Astray {
        return astray(scene, leg);
    }
    let finished = attempt.outcome == Outcome::Silent;
    let span = leg.request.map(|seen| between(seen.at, leg.last_sent.unwrap_or(seen.at))).unwrap_or_default();
    let sent = leg.sent;
    let told = format!(
        "{} does not answer: the REGISTER of {} was sent {sent} times in {:.1} s",
        scene.registrar(),
        scene.account(),
        span.as_secs_f64(),
    );
    let so_far = if finished { "" } else { " so far" };
    let found = if leg.provisional {
        let summary = format!(
            "{told}{so_far}, and got a provisional answer only: it arrives, and whoever is behind does not answer"
        );
        let ranked = [(ProviderUnavailable, 0.75), (NoResponse, 0.2)];
        Finding::new(&ranked, Fault::Provider, summary, mend::wait(scene, None))
    } else if leg.has_credentials() && attempt.legs.len() > 1 {
        let size = leg.asked().map_or(0, |message| message.raw().len());
        let large = size > 1_300;
        let why = if large {
            format!("; with {size} bytes it is fragmented on the way, and fragments are often dropped")
        } else {
            String::new()
        };
        let summary =
            format!("{told}{so_far} with credentials, though the first one without them was challenged at once{why}");
        let ranked = [(NoResponse, 0.7), (WrongPassword, 0.12), (ProviderUnavailable, 0.1)];
        Finding::new(&ranked, if large { Fault::Network } else { Fault::Unknown }, summary, mend::silence(scene))
    } else {
        plain_silence(scene, attempt, leg, &format!("{told}{so_far}"))
    };
    let found = found.more([More::Capture]);
    if finished { found } else { found.less_sure(0.7) }
}

fn plain_silence<'a>(scene: &Scene<'a>, attempt: &Attempt<'a>, leg: &Leg<'a>, told: &str) -> Finding<'a> {
    let registrar = leg.request.and_then(|seen| seen.to);
    let user = scene.wanted.as_ref().map(|wanted| wanted.who.user.as_str()).unwrap_or_default();
    let answers_others = scene.neighbours.answers_others(registrar, user);
    let shows_icmp = leg.request.is_some_and(|seen| seen.source == Source::Capture);
    // A closed port is silence to whoever cannot see ICMP.
    let closed = if shows_icmp { 0.05 } else { 0.15 };
    let astray = leg.asked().is_some_and(|message| is_private_via(scene, message));
    let mut ranked = vec![(PortClosed, closed), (OutboundProxyRequired, 0.08)];
    let mut summary = told.to_owned();
    let mut fault = Fault::Network;
    let before = scene.before(attempt);
    let mut sure: f64 = if shows_icmp { 0.85 } else { 0.75 };
    if answers_others {
        summary.push_str(", while it answers others: the way is open, and it ignores this one");
        fault = Fault::Provider;
        ranked = vec![(ProviderUnavailable, 0.15), (PortClosed, 0.03)];
        sure = 0.8;
    } else if astray {
        summary.push_str("; its Via names a private address, without rport, so an answer would go there");
        ranked.push((NatContact, 0.3));
        sure = 0.7;
    } else if matches!(before, Before::Same | Before::Some) {
        summary.push_str("; it answered before");
        ranked.push((ProviderUnavailable, 0.2));
    }
    ranked.insert(0, (NoResponse, sure));
    Finding::new(&ranked, fault, summary, mend::silence(scene))
}

/// ICMP said why.
fn notified<'a>(scene: &Scene<'a>, attempt: &Attempt<'a>, leg: &Leg<'a>) -> Option<Finding<'a>> {
    let why = leg.trouble.iter().find_map(|seen| match seen.what {
        Happening::Unreachable { why, .. } => Some(why),
        Happening::Sip(_)
        | Happening::Refused
        | Happening::Unanswered
        | Happening::TlsAlert { .. }
        | Happening::NameError { .. } => None,
    })?;
    let told = format!(
        "ICMP answers the REGISTER of {} to {}: {}",
        scene.account(),
        scene.registrar(),
        tell::unreachable(why)
    );
    let before = matches!(scene.before(attempt), Before::Same | Before::Some);
    Some(match why {
        Unreachable::Port => {
            let fault = if before { Fault::Provider } else { Fault::Configuration };
            let why = if before { "; something listened there before" } else { ": nothing listens there" };
            let ranked = [(PortClosed, 0.95), (OutboundProxyRequired, 0.03)];
            Finding::new(&ranked, fault, format!("{told}{why}"), mend::port(scene))
        }
        Unreachable::Prohibited => {
            let ranked = [(NoResponse, 0.95), (PortClosed, 0.03)];
            Finding::new(&ranked, Fault::Network, format!("{told}: a firewall forbids it"), mend::silence(scene))
        }
        Unreachable::Host | Unreachable::Network | Unreachable::Other => {
            let ranked = [(NoResponse, 0.9), (ProviderUnavailable, 0.05)];
            Finding::new(&ranked, Fault::Network, format!("{told}: there is no way there"), mend::silence(scene))
        }
    })
}

/// An answer was on the wire, and Asterisk went on asking.
fn astray<'a>(scene: &Scene<'a>, leg: &Leg<'a>) -> Finding<'a> {
    let answer = leg.answered().map(tell::answer).unwrap_or_default();
    let sent_from = leg.request.and_then(|seen| seen.from);
    let sent_to = leg.answer.and_then(|seen| seen.to);
    let elsewhere = match (sent_from, sent_to) {
        (Some(from), Some(to)) if from != to => format!(", to {to} instead of {from}, where it was asked from"),
        (_, _) => String::new(),
    };
    let summary = format!(
        "{} answers {answer}{elsewhere}, and Asterisk asked {} times more: the answer does not reach it",
        scene.registrar(),
        leg.sent_after_answer,
    );
    let nat = if elsewhere.is_empty() { 0.1 } else { 0.25 };
    Finding::new(&[(NoResponse, 0.75), (NatContact, nat)], Fault::Network, summary, mend::silence(scene))
}

/// The Via that answers are sent to is private, the registrar is not, and no rport asks for better (RFC 3581).
fn is_private_via(scene: &Scene<'_>, message: &SipMessage) -> bool {
    let Some(via) = message.via() else { return false };
    let private = address::literal(&via.host).is_some_and(address::is_private);
    let public = scene.registrar_ip().is_some_and(|ip| !address::is_private(ip));
    let asks = message
        .header("Via")
        .is_some_and(|text| text.split(',').next().is_some_and(|first| first.to_ascii_lowercase().contains(";rport")));
    private && public && !asks
}

/// An attempt is known to have failed, a source listened, and nothing was on the wire: it failed before SIP.
pub(super) fn nothing_sent<'a>(scene: &Scene<'a>, at: Timestamp) -> Finding<'a> {
    if let Some(found) = before_any(scene) {
        return found;
    }
    let registrar = scene.registrar();
    let named = scene.wanted.as_ref().is_some_and(|wanted| address::literal(&wanted.who.registrar).is_none());
    let took = scene.case.facts.as_ref().and_then(|facts| facts.last_attempt_took);
    let slow = took.is_some_and(|took| took.as_secs() >= 25);
    let told = format!("Asterisk reported a failed attempt at {registrar}, and no REGISTER was on the wire");
    let protocol = scene.protocol();
    let stream = protocol.as_deref().is_some_and(|own| own != "udp");
    let tls = matches!(protocol.as_deref(), Some("tls" | "wss"));
    let by_ami = scene.case.facts.is_some();
    let line = |found: Finding<'a>| {
        if by_ami { found.told_at(at, "Registry: Rejected, with no REGISTER seen".to_owned()) } else { found }
    };
    let found = if slow && stream {
        let summary = format!("{told}: the connection was not answered");
        Finding::new(
            &[(NoResponse, 0.75), (PortClosed, 0.1), (TlsFailure, if tls { 0.1 } else { 0.0 })],
            Fault::Network,
            summary,
            mend::silence(scene),
        )
    } else if tls {
        let summary = format!("{told}: the connection, its TLS handshake, or the name failed");
        let dns = if named { 0.2 } else { 0.0 };
        Finding::new(
            &[(TlsFailure, 0.5), (PortClosed, 0.3), (DnsFailure, dns)],
            Fault::Unknown,
            summary,
            mend::tls(scene, None),
        )
    } else if stream {
        let summary = format!("{told}: the connection was refused, or the name does not resolve");
        if named {
            Finding::new(&[(PortClosed, 0.45), (DnsFailure, 0.45)], Fault::Unknown, summary, mend::port(scene))
        } else {
            Finding::new(&[(PortClosed, 0.8), (NoResponse, 0.1)], Fault::Configuration, summary, mend::port(scene))
        }
    } else if named {
        let summary = format!("{told}: its name does not resolve");
        Finding::new(&[(DnsFailure, 0.75), (NoResponse, 0.1)], Fault::Network, summary, mend::name(scene))
    } else {
        let summary = format!("{told}: it could not be sent, for want of a route or of a transport");
        Finding::unknown(0.5, &[(NoResponse, 0.3), (PortClosed, 0.1)], Fault::Pbx, summary, mend::silence(scene))
    };
    line(found).more([More::Capture])
}

/// Over a stream Asterisk's sources show a request before there is a connection. Silence takes 32 s: an attempt that Asterisk
/// ends at once, at `at`, is a connection, or a handshake, that failed.
pub(super) fn failed_at_once<'a>(scene: &Scene<'a>, at: Timestamp, told: &str) -> Option<Finding<'a>> {
    let leg = scene.attempts.last()?.last().filter(|leg| leg.answer.is_none())?;
    let sent = leg.request?;
    // Not of the attempt before it; but a log knows whole seconds.
    let quick = between(sent.at, at) <= AT_ONCE && between(at, sent.at) <= Duration::from_secs(1);
    let place = scene.attempts.len() - 1;
    let found = match sent.transport.filter(|_| quick)? {
        Transport::Udp => return None,
        Transport::Tls => {
            let summary = format!("{told}, at once, over TLS: the handshake or the connection failed");
            let ranked = [(TlsFailure, 0.6), (PortClosed, 0.25), (NoResponse, 0.05)];
            Finding::new(&ranked, Fault::Unknown, summary, mend::tls(scene, None))
        }
        Transport::Tcp | Transport::Ws => {
            let summary = format!("{told}, at once, over TCP: the connection was refused");
            let ranked = [(PortClosed, 0.8), (NoResponse, 0.1)];
            Finding::new(&ranked, Fault::Configuration, summary, mend::port(scene))
        }
    };
    Some(found.of_attempt(place).more([More::Capture]))
}

/// What the network says of this registrar before any SIP: DNS, TCP, TLS.
pub(super) fn before_any<'a>(scene: &Scene<'a>) -> Option<Finding<'a>> {
    let all = scene.network();
    let last = all.iter().copied().max_by_key(|seen| seen.at)?;
    // What came after it stands: a connection that was refused once and then served is no news.
    if scene.attempts.iter().any(|one| one.outcome == Outcome::Granted && one.ended() > last.at) {
        return None;
    }
    let registrar = scene.registrar();
    let registered_before = scene.case.facts.as_ref().is_some_and(|facts| facts.ever_registered)
        || scene.attempts.iter().any(|one| one.outcome == Outcome::Granted);
    let seen: Vec<(&'a Seen, Option<Direction>)> =
        all.iter().rev().take(4).rev().map(|&seen| (seen, scene.direction(seen))).collect();
    let count = all.len();
    let times = if count > 1 { format!(", {count} times") } else { String::new() };
    let found = match &last.what {
        Happening::NameError { name, rcode } => {
            let summary =
                format!("the name {} does not resolve: {}{times}", tell::value(name), tell::code_of_dns(*rcode));
            let fault = if *rcode == 3 && !registered_before { Fault::Configuration } else { Fault::Network };
            // An SRV or NAPTR record that is missing is normal; only an address that is missing is a failure.
            let service = name.starts_with('_');
            let sure = if service { 0.5 } else { 0.95 };
            Finding::new(&[(DnsFailure, sure)], fault, summary, mend::name(scene))
        }
        Happening::Refused => {
            let summary = format!("{registrar} refuses the connection{times}: nothing listens there");
            let fault = if registered_before { Fault::Provider } else { Fault::Configuration };
            Finding::new(&[(PortClosed, 0.95)], fault, summary, mend::port(scene))
        }
        Happening::Unanswered => {
            let summary = format!("{registrar} does not answer the connection attempt{times}");
            Finding::new(&[(NoResponse, 0.9), (PortClosed, 0.05)], Fault::Network, summary, mend::silence(scene))
        }
        Happening::TlsAlert { description } => {
            // close_notify ends a connection in order.
            if *description == 0 {
                return None;
            }
            let word = tell::alert(*description);
            let ours = last.to.is_some_and(|to| scene.provider_addresses().contains(&to));
            let by = if ours { "Asterisk" } else { registrar.as_str() };
            let summary =
                format!("the TLS handshake with {registrar} fails: {by} sends alert {description} ({word}){times}");
            Finding::new(
                &[(TlsFailure, 0.95)],
                Fault::Configuration,
                summary,
                mend::tls(scene, Some((ours, *description))),
            )
        }
        Happening::Sip(_) | Happening::Unreachable { .. } => return None,
    };
    Some(found.seen(seen))
}
