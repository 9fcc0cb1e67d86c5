//! What the calls of a trunk show: inbound ones that match no endpoint, outbound ones that are rejected, and media that
//! nobody can send to.
//!
//! A call belongs to this registration if its far end is this registrar and its user is this account, or if no other
//! registration of the trace is at that registrar: a PBX often has several accounts at one provider.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::{
    super::{
        address, tell,
        verdict::{Cause, Fault},
        who::Who,
    },
    finding::{Finding, More},
    mend,
    scene::Scene,
};
use crate::wire::{
    logger::LogFactKind,
    sip::{Direction, Seen, SipMessage, Source},
};
use Cause::{CallsRejected, IdentifyMissing, MediaBlocked, NatContact};

/// One INVITE and how it ended.
#[derive(Debug, Clone)]
struct Call<'a> {
    direction: Direction,
    /// The last INVITE: with credentials, if it came to that.
    invite: &'a Seen,
    /// Any INVITE of it carried credentials.
    credentials: bool,
    /// Its last final answer.
    end: Option<&'a Seen>,
    /// It rang, or more.
    progress: bool,
}

impl Call<'_> {
    fn status(&self) -> Option<u16> {
        self.end.and_then(Seen::sip).and_then(SipMessage::status)
    }
}

/// What is wrong with its calls.
pub(super) fn calls<'a>(scene: &Scene<'a>) -> Option<Finding<'a>> {
    let calls = of_trunk(scene);
    unidentified(scene, &calls).or_else(|| logged(scene)).or_else(|| rejected(scene, &calls))
}

/// Log lines on INVITEs from the provider that match no endpoint.
fn logged<'a>(scene: &Scene<'a>) -> Option<Finding<'a>> {
    let peers = scene.provider_addresses();
    let own: BTreeSet<IpAddr> = scene.own_addresses().iter().map(SocketAddr::ip).collect();
    let (fact, peer) = scene
        .case
        .log
        .iter()
        .filter_map(|fact| {
            let LogFactKind::Unidentified { method, remote: Some(remote), .. } = &fact.kind else { return None };
            let known = peers.contains(remote)
                || (!own.contains(&remote.ip()) && peers.iter().any(|peer| peer.ip() == remote.ip()));
            (method == "INVITE" && known).then_some((fact, *remote))
        })
        .max_by_key(|(fact, _)| fact.at)?;
    let summary = format!(
        "Asterisk's log says that a call from {peer}, the provider of {}, matches no endpoint",
        scene.account(),
    );
    let found =
        Finding::new(&[(IdentifyMissing, 0.9)], Fault::Configuration, summary, mend::identify(scene, peer.ip()));
    Some(found.line_at(fact.at, Source::Logger, super::logged::words(&fact.kind)))
}

/// Inbound INVITEs that we challenge.
fn unidentified<'a>(scene: &Scene<'a>, calls: &[Call<'a>]) -> Option<Finding<'a>> {
    let inbound = |call: &&Call<'a>| call.direction == Direction::In;
    let challenged = |call: &&Call<'a>| inbound(call) && !call.credentials && matches!(call.status(), Some(401 | 407));
    let last = calls.iter().filter(challenged).max_by_key(|call| call.invite.at)?;
    // Since then one came through: it is mended.
    let mended = calls.iter().filter(inbound).any(|call| {
        call.invite.at > last.invite.at
            && !call.credentials
            && (call.progress || matches!(call.status(), Some(200..=299)))
    });
    if mended {
        return None;
    }
    let count = calls.iter().filter(challenged).count();
    let peer = last.invite.from?;
    let seen = evidence(last);
    let told = format!(
        "{count} call{} from {peer}, the provider of {}, {} answered with {} by Asterisk, and the provider has no credentials for us",
        if count == 1 { "" } else { "s" },
        scene.account(),
        if count == 1 { "was" } else { "were" },
        last.status().unwrap_or_default(),
    );
    let objects = scene.case.objects;
    let endpoint = scene.endpoint();
    let endpoint_name = endpoint.map(|(name, _)| name);
    let admitted = objects.and_then(|objects| {
        objects.identifies.iter().find(|(_, identify)| {
            identify.admits(peer.ip()) && (endpoint_name.is_none() || identify.endpoint.as_deref() == endpoint_name)
        })
    });
    if let (Some((identify, _)), Some((name, endpoint))) = (admitted, endpoint)
        && !endpoint.auth.is_empty()
    {
        let name = tell::value(name);
        let summary = format!(
            "{told}: [{}] matches it, but [{name}] has auth= set and so asks for a password",
            tell::value(identify)
        );
        return Some(
            Finding::new(
                &[(CallsRejected, 0.7), (IdentifyMissing, 0.2)],
                Fault::Configuration,
                summary,
                mend::inbound_auth(scene),
            )
            .settings([format!("[{name}] auth={}", tell::value(&endpoint.auth.join(",")))])
            .seen(seen),
        );
    }
    let known = objects.is_some_and(|objects| objects.complete.endpoints);
    let sure = match (known, admitted.is_some()) {
        (true, false) => 0.95,
        (false, _) => 0.85,
        // An identify matches: read since, or never loaded.
        (true, true) => 0.5,
    };
    let summary = format!("{told}: no identify section matches that address");
    let found =
        Finding::new(&[(IdentifyMissing, sure)], Fault::Configuration, summary, mend::identify(scene, peer.ip()));
    Some(found.seen(seen).more((!known).then_some(More::Configuration)))
}

/// Outbound INVITEs that the provider refuses.
fn rejected<'a>(scene: &Scene<'a>, calls: &[Call<'a>]) -> Option<Finding<'a>> {
    let outbound = |call: &&Call<'a>| call.direction == Direction::Out;
    let refused = |call: &&Call<'a>| {
        outbound(call)
            && !call.progress
            && match call.status() {
                Some(401 | 402 | 403 | 407 | 503) => true,
                Some(_) | None => false,
            }
    };
    let last = calls.iter().filter(refused).max_by_key(|call| call.invite.at)?;
    // A call that came through since, or as many before, means that the trunk carries calls: a 403 is often one
    // destination's, and nothing is said of a trunk for that.
    let good = |call: &&Call<'a>| outbound(call) && (call.progress || matches!(call.status(), Some(200..=299)));
    let count = calls.iter().filter(refused).count();
    if calls.iter().any(|call| good(&call) && call.invite.at > last.invite.at)
        || calls.iter().filter(good).count() >= count
    {
        return None;
    }
    let destinations: BTreeSet<String> = calls.iter().filter(refused).filter_map(|call| called(call.invite)).collect();
    let status = last.status().unwrap_or_default();
    let answer = last.end.and_then(Seen::sip).map(tell::answer).unwrap_or_default();
    let told = format!(
        "{} is registered, and {} rejects its calls with {answer}: {count} call{} to {} number{}",
        scene.account(),
        scene.registrar(),
        if count == 1 { "" } else { "s" },
        destinations.len(),
        if destinations.len() == 1 { "" } else { "s" },
    );
    let challenged = matches!(status, 401 | 407);
    let (sure, why): (f64, &str) = if challenged && !last.credentials {
        (0.85, "; Asterisk does not answer its challenge, since the endpoint has no outbound_auth that fits")
    } else if challenged {
        (0.85, "; it refuses the endpoint's credentials, which are not those of the registration, or its from_user")
    } else if destinations.len() >= 3 {
        (0.85, "")
    } else {
        (0.6, "; it may be these numbers only")
    };
    let fault = if challenged { Fault::Configuration } else { Fault::Provider };
    let summary = format!("{told}{why}");
    Some(Finding::new(&[(CallsRejected, sure)], fault, summary, mend::calls(scene, status)).seen(evidence(last)))
}

/// SDP of ours that names a private address to a public peer.
pub(super) fn media<'a>(scene: &Scene<'a>) -> Option<Finding<'a>> {
    let calls = of_trunk(scene);
    let last = calls
        .iter()
        .filter_map(|call| {
            let (ours, peer) = match call.direction {
                Direction::Out => (call.invite, call.invite.to?),
                Direction::In => (call.end?, call.invite.from?),
            };
            let connection = connection(ours.sip()?.body())?;
            let blocked = address::is_private(connection) && !address::is_private(peer.ip());
            // A call that was refused has no media to lose.
            let answered = matches!(call.status(), Some(200..=299));
            (blocked && answered).then_some((call, connection, peer))
        })
        .max_by_key(|(call, _, _)| call.invite.at)?;
    let (call, connection, peer) = last;
    let summary = format!(
        "the calls of {} name the private address {connection} in their SDP to {peer}: media to it is lost, unless the provider sends to where ours comes from",
        scene.account(),
    );
    let fix = mend::external(scene, None);
    Some(
        Finding::new(&[(MediaBlocked, 0.7), (NatContact, 0.2)], Fault::Configuration, summary, fix)
            .seen(evidence(call)),
    )
}

fn evidence<'a>(call: &Call<'a>) -> Vec<(&'a Seen, Option<Direction>)> {
    let back = match call.direction {
        Direction::In => Direction::Out,
        Direction::Out => Direction::In,
    };
    let mut all = vec![(call.invite, Some(call.direction))];
    all.extend(call.end.map(|end| (end, Some(back))));
    all
}

/// The calls of this trunk, in order of appearance.
fn of_trunk<'a>(scene: &Scene<'a>) -> Vec<Call<'a>> {
    let peers = scene.provider_addresses();
    if peers.is_empty() {
        return Vec::new();
    }
    let own = scene.own_addresses();
    let alone = !others_there(scene, &peers);
    let mut all: BTreeMap<String, Call<'a>> = BTreeMap::new();
    for seen in scene.case.seen {
        let Some(message) = seen.sip() else { continue };
        let Some((_, method)) = message.cseq() else { continue };
        if method != "INVITE" {
            continue;
        }
        let Some(id) = message.call_id() else { continue };
        if message.method() == Some("INVITE") {
            let Some(direction) = direction(seen, &peers, &own) else { continue };
            if !alone && !is_ours(scene, message, direction) {
                continue;
            }
            let credentials = !message.credentials().is_empty();
            // A re-INVITE within the call says nothing of whether calls come about.
            let within = message.to().is_some_and(|to| to.parameter("tag").is_some());
            let call = all.entry(id.into_owned()).or_insert(Call {
                direction,
                invite: seen,
                credentials,
                end: None,
                progress: false,
            });
            if !within && seen.at >= call.invite.at {
                call.invite = seen;
            }
            call.credentials |= credentials;
        }
    }
    for seen in scene.case.seen {
        let Some(message) = seen.sip() else { continue };
        let (Some(status), Some((cseq, method))) = (message.status(), message.cseq()) else { continue };
        if method != "INVITE" {
            continue;
        }
        let Some(call) = message.call_id().and_then(|id| all.get_mut(&*id)) else { continue };
        match status {
            100 => {}
            101..=199 => call.progress = true,
            _ => {
                let later =
                    |known: &Seen| known.sip().and_then(SipMessage::cseq).is_none_or(|(number, _)| number <= cseq);
                if call.end.is_none_or(later) {
                    call.end = Some(seen);
                }
            }
        }
    }
    all.into_values().collect()
}

fn direction(seen: &Seen, peers: &BTreeSet<SocketAddr>, own: &BTreeSet<SocketAddr>) -> Option<Direction> {
    // By address and port first: in a laboratory everybody is 127.0.0.1.
    let own_ip = |address: &SocketAddr| own.iter().any(|known| known.ip() == address.ip());
    let at_peer = |address: Option<SocketAddr>| {
        address.is_some_and(|address| {
            peers.contains(&address) || (!own_ip(&address) && peers.iter().any(|known| known.ip() == address.ip()))
        })
    };
    match seen.direction {
        Some(Direction::Out) => at_peer(seen.to).then_some(Direction::Out),
        Some(Direction::In) => at_peer(seen.from).then_some(Direction::In),
        None if at_peer(seen.to) && !own.contains(&seen.to?) => Some(Direction::Out),
        None if at_peer(seen.from) => Some(Direction::In),
        None => None,
    }
}

/// Whether another registration of the trace, or of the configuration, is at the same registrar.
fn others_there(scene: &Scene<'_>, peers: &BTreeSet<SocketAddr>) -> bool {
    let Some(wanted) = &scene.wanted else { return false };
    let in_trace = scene.case.seen.iter().any(|seen| {
        seen.to.is_some_and(|to| peers.contains(&to))
            && seen.sip().and_then(Who::of_request).is_some_and(|who| who != wanted.who)
    });
    let configured = scene.case.objects.is_some_and(|objects| {
        objects.registrations.values().any(|other| {
            Who::of_uris(&other.client_uri, &other.server_uri).is_some_and(|who| {
                who != wanted.who && who.registrar == wanted.who.registrar && who.port == wanted.who.port
            })
        })
    });
    in_trace || configured
}

/// Whether the INVITE names this account.
fn is_ours(scene: &Scene<'_>, message: &SipMessage, direction: Direction) -> bool {
    let Some(wanted) = &scene.wanted else { return false };
    let mut names: BTreeSet<String> = BTreeSet::from([wanted.who.user.clone()]);
    names.extend(scene.registration.and_then(|own| own.contact_user.clone()));
    names.extend(scene.auths().into_iter().filter_map(|(_, auth)| auth?.username.clone()));
    names.extend(scene.endpoint().and_then(|(_, endpoint)| endpoint.from_user.clone()));
    names.remove("");
    let user_is_ours = |user: Option<String>| user.is_some_and(|user| names.contains(&user));
    match direction {
        Direction::Out => {
            let from = message.from().and_then(|from| from.uri).and_then(|uri| uri.user);
            let contact = message.contacts().into_iter().find_map(|contact| contact.uri).and_then(|uri| uri.user);
            user_is_ours(from) || user_is_ours(contact)
        }
        Direction::In => {
            let target = message.target();
            let line = scene.attempts.iter().rev().find_map(|one| {
                let contacts = one.last()?.asked()?.contacts();
                contacts.first()?.uri.as_ref()?.parameter("line").map(str::to_owned)
            });
            let by_line = line.is_some() && target.as_ref().and_then(|uri| uri.parameter("line")) == line.as_deref();
            by_line
                || user_is_ours(target.and_then(|uri| uri.user))
                || user_is_ours(message.to().and_then(|to| to.uri).and_then(|uri| uri.user))
        }
    }
}

fn called(invite: &Seen) -> Option<String> {
    invite.sip()?.to()?.uri?.user
}

/// The address of the SDP's first `c=` line (RFC 4566 section 5.7).
fn connection(body: &[u8]) -> Option<std::net::IpAddr> {
    let text = String::from_utf8_lossy(body);
    let line = text.lines().find_map(|line| line.trim_end().strip_prefix("c=IN IP"))?;
    let host = line.split_whitespace().nth(1)?;
    let bare = host.split_once('/').map_or(host, |(host, _ttl)| host);
    // A media hold of the old kind names 0.0.0.0; it is no address.
    address::literal(bare).filter(|ip| !ip.is_unspecified())
}
