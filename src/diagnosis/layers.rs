//! The operator's own layers, one line each: is it registered, does anything come back, what was answered, does the
//! digest fit, is NAT in the way, would the provider's calls be recognised?
//!
//! Separate from the judgement, which names one cause: here every layer says what was seen of it, also what is well, and
//! where nothing could be seen, what would show it. Nothing in it is secret.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    address,
    attempt::{Attempt, Horizon, Leg, Outcome, TIMER_B, attempts},
    case::Case,
    judge::{credentials, granted, identity},
    tell,
    verdict::{Cause, Diagnosis, Evidence, Subject},
    who::{self, Who},
};
use crate::{
    clock::{Timestamp, between},
    ids::TrunkId,
    observation::RegistrationState,
    wire::{
        pjsip::{Auth, Identify, Net, Registration, Transport},
        sip::{Challenge, Credentials, Direction, Happening, SipMessage, Source, Unreachable, digest::Match},
    },
};

/// A layer, in the order in which an operator goes through them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerName {
    /// What Asterisk says of the registration.
    Registration,
    /// Name, route and firewall: whether anything comes back.
    Reachability,
    /// The messages: which final answer there was.
    SipTrace,
    /// Challenge and answer.
    Digest,
    /// The addresses we give to the other side.
    Nat,
    /// Whether the provider's requests are recognised.
    Identify,
}

impl LayerName {
    /// All of them, in order.
    pub const ALL: [Self; 6] =
        [Self::Registration, Self::Reachability, Self::SipTrace, Self::Digest, Self::Nat, Self::Identify];

    /// The word of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registration => "registration",
            Self::Reachability => "reachability",
            Self::SipTrace => "sip_trace",
            Self::Digest => "digest",
            Self::Nat => "nat",
            Self::Identify => "identify",
        }
    }
}

/// What was found in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// It is well.
    Ok,
    /// It is not.
    Problem,
    /// It could not be seen.
    Unknown,
    /// The exchange did not get so far.
    NotReached,
}

impl Finding {
    /// The word of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Problem => "problem",
            Self::Unknown => "unknown",
            Self::NotReached => "not_reached",
        }
    }
}

/// One layer's line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Which.
    pub name: LayerName,
    /// How it is.
    pub finding: Finding,
    /// Why, with the values that show it; of what could not be seen, what would show it.
    pub line: String,
}

/// The answer to "examine it now": the diagnosis, or that nothing is wrong, and the layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Examination {
    /// The diagnosis' own fields, or those of [`Well`].
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Every layer, in order.
    pub layers: Vec<Layer>,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Verdict {
    /// Something is wrong.
    Wrong(Box<Diagnosis>),
    /// Nothing is, as far as could be seen.
    Well(Box<Well>),
}

/// Nothing wrong was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Well {
    /// The trunk.
    pub trunk: Option<TrunkId>,
    /// Which registration.
    pub subject: Subject,
    /// When the last thing of it was seen; `None` if nothing was.
    pub at: Option<Timestamp>,
    /// `null`, so that whoever asks for the cause gets an answer.
    pub cause: (),
    /// One sentence for people.
    pub summary: String,
    /// The last exchange, where one was seen.
    #[serde(default)]
    pub evidence: Vec<Evidence>,
}

impl Examination {
    /// The answer for `case`, whose diagnosis was `diagnosis`.
    #[must_use]
    pub fn new(case: &Case<'_>, diagnosis: Option<Diagnosis>) -> Self {
        let layers = layers(case, diagnosis.as_ref());
        let open = layers.iter().any(|layer| layer.finding == Finding::Problem);
        let verdict = match diagnosis {
            Some(diagnosis) => Verdict::Wrong(Box::new(diagnosis)),
            None => Verdict::Well(Box::new(Well::of(case, open))),
        };
        Self { verdict, layers }
    }

    /// The diagnosis, if something is wrong.
    #[must_use]
    pub fn diagnosis(&self) -> Option<&Diagnosis> {
        match &self.verdict {
            Verdict::Wrong(diagnosis) => Some(diagnosis),
            Verdict::Well(_) => None,
        }
    }
}

impl Well {
    /// What is known of it; `open` where a layer is not well all the same.
    fn of(case: &Case<'_>, open: bool) -> Self {
        let sight = Sight::of(case);
        let registered = case.facts.as_ref().filter(|facts| facts.state == Some(RegistrationState::Registered));
        let summary = match (&sight.attempt, registered) {
            _ if open => "No cause was found, though not every layer is well.".to_owned(),
            (_, Some(facts)) => format!("Registered since {:.0}; nothing is wrong with it.", facts.since),
            (Some(attempt), None) if attempt.outcome == Outcome::Granted => {
                "The last REGISTER was accepted; nothing is wrong with it.".to_owned()
            }
            (_, None) if case.facts.is_some() => "It is not registered, and nothing of it was seen to fail.".to_owned(),
            (_, None) => "Nothing of it was seen to fail.".to_owned(),
        };
        let own = sight.configured;
        let client = own.map(|own| own.client_uri.as_str()).or(case.client_uri.as_deref());
        let server = own.map(|own| own.server_uri.as_str()).or(case.server_uri.as_deref());
        let subject = Subject {
            registration: sight.name.map(str::to_owned).or_else(|| case.registration.as_ref().map(ToString::to_string)),
            client_uri: client.map(tell::uri).or_else(|| sight.who.as_ref().map(Who::aor)),
            server_uri: server
                .map(tell::uri)
                .or_else(|| sight.who.as_ref().map(|who| format!("sip:{}", who.registrar()))),
        };
        let last_event = case.facts.as_ref().and_then(|facts| facts.last_event_at);
        let at = sight.attempt.as_ref().map(Attempt::ended).max(last_event);
        let exchange = sight.attempt.as_ref().map(Attempt::exchange).unwrap_or_default();
        let evidence = exchange.into_iter().map(|(seen, repeats, until)| {
            let asked = seen.sip().is_some_and(|message| message.status().is_none());
            let direction = if asked { Direction::Out } else { Direction::In };
            Evidence { until: until.filter(|_| repeats > 0), ..tell::evidence(seen, Some(direction), repeats) }
        });
        let evidence = evidence.collect();
        Self { trunk: case.trunk.clone(), subject, at, cause: (), summary, evidence }
    }
}

/// Every layer of `case`, in order. What the diagnosis has found is a problem of its layer, whatever else is seen there.
#[must_use]
pub fn layers(case: &Case<'_>, diagnosis: Option<&Diagnosis>) -> Vec<Layer> {
    let sight = Sight::of(case);
    let concerned = diagnosis.and_then(|found| layer_of(found.cause).map(|name| (name, found)));
    let layer = |name: LayerName| {
        let (finding, line) = match name {
            LayerName::Registration => sight.registration_layer(),
            LayerName::Reachability => sight.reachability(),
            LayerName::SipTrace => sight.sip_trace(),
            LayerName::Digest => sight.digest(),
            LayerName::Nat => sight.nat(),
            LayerName::Identify => sight.identify(),
        };
        match concerned {
            Some((own, found)) if own == name && finding != Finding::Problem => {
                Layer { name, finding: Finding::Problem, line: format!("{}: {line}", found.cause) }
            }
            Some(_) | None => Layer { name, finding, line },
        }
    };
    LayerName::ALL.into_iter().map(layer).collect()
}

/// In which layer a cause lies.
const fn layer_of(cause: Cause) -> Option<LayerName> {
    match cause {
        Cause::WrongPassword
        | Cause::WrongAuthUsername
        | Cause::RealmMismatch
        | Cause::AlgorithmNotEnabled
        | Cause::NoCredentialsConfigured => Some(LayerName::Digest),
        Cause::AccountForbidden | Cause::AddressForbidden | Cause::ProviderUnavailable | Cause::BindingRefused => {
            Some(LayerName::SipTrace)
        }
        Cause::NoResponse | Cause::PortClosed | Cause::DnsFailure | Cause::TlsFailure => Some(LayerName::Reachability),
        Cause::NatContact | Cause::BindingLost => Some(LayerName::Nat),
        Cause::IdentifyMissing => Some(LayerName::Identify),
        Cause::RefreshOverdue | Cause::GaveUp | Cause::ExpiryTooShort => Some(LayerName::Registration),
        // Of calls, or told by two layers together.
        Cause::OutboundProxyRequired | Cause::CallsRejected | Cause::MediaBlocked | Cause::Unknown => None,
    }
}

/// What would show the messages, where nothing did.
const SWITCH_ON: &str = "not seen: switch on HEP (hep.conf, and [hep] here)";

/// A case, looked at.
struct Sight<'a> {
    case: &'a Case<'a>,
    name: Option<&'a str>,
    configured: Option<&'a Registration>,
    who: Option<Who>,
    /// The last attempt that tells something, else the last.
    attempt: Option<Attempt<'a>>,
}

type Found = (Finding, String);

impl<'a> Sight<'a> {
    fn of(case: &'a Case<'a>) -> Self {
        let (name, wanted) = identity(case);
        let configured = name.and_then(|name| case.objects?.registrations.get(name));
        let last = case.seen.iter().map(|seen| seen.at).max();
        let rejected_at = case.facts.as_ref().and_then(|facts| match facts.state {
            Some(RegistrationState::Rejected) => facts.last_event_at,
            Some(RegistrationState::Registered | RegistrationState::Unregistered) | None => None,
        });
        let attempt = wanted.as_ref().zip(case.now.max(last)).and_then(|(wanted, now)| {
            let mut all = attempts(case.seen, wanted, Horizon { now, rejected_at });
            all.retain(|attempt| !attempt.unregister);
            let telling = all.iter().rposition(|attempt| attempt.outcome.decides());
            let at = telling.or_else(|| all.len().checked_sub(1))?;
            Some(all.swap_remove(at))
        });
        Self { case, name, configured, who: wanted.map(|wanted| wanted.who), attempt }
    }

    fn last_leg(&self) -> Option<&Leg<'a>> {
        self.attempt.as_ref().and_then(Attempt::last)
    }

    /// The registrar's address, as it was seen or as it is written.
    fn registrar(&self) -> Option<IpAddr> {
        let leg = self.last_leg();
        let seen = leg.and_then(|leg| leg.request.and_then(|seen| seen.to).or(leg.answer.and_then(|seen| seen.from)));
        let seen = seen.map(|address| address.ip().to_canonical());
        seen.or_else(|| address::literal(&self.who.as_ref()?.registrar))
    }

    fn registration_layer(&self) -> Found {
        let Some(facts) = &self.case.facts else {
            return match &self.attempt {
                Some(attempt) if attempt.outcome == Outcome::Granted => {
                    (Finding::Ok, "the last REGISTER that was seen was accepted".to_owned())
                }
                Some(attempt) if attempt.outcome.decides() => {
                    (Finding::Problem, "the last REGISTER that was seen failed".to_owned())
                }
                Some(_) | None => (Finding::Unknown, "not asked: there is no AMI here".to_owned()),
            };
        };
        let (since, failures) = (facts.since, facts.failures);
        let last = match facts.last_event_at {
            Some(at) if at != since => format!(", last at {at:.0}"),
            Some(_) | None => String::new(),
        };
        match facts.state {
            Some(RegistrationState::Registered) => {
                if let Some(due) = facts.refresh_overdue_since {
                    let line =
                        format!("registered since {since:.0}, but the refresh that was due at {due:.0} did not come");
                    return (Finding::Problem, line);
                }
                if facts.registered_in_10s > 5 {
                    let times = facts.registered_in_10s;
                    return (Finding::Problem, format!("registered {times} times in the last 10 s, without end"));
                }
                (Finding::Ok, format!("registered since {since:.0}{last}"))
            }
            Some(RegistrationState::Rejected) => {
                let gave_up = if facts.gave_up { "; Asterisk gave up and will not try again by itself" } else { "" };
                let count = if failures > 1 { format!(", {failures} failed attempts") } else { String::new() };
                (Finding::Problem, format!("rejected since {since:.0}{count}{last}{gave_up}"))
            }
            Some(RegistrationState::Unregistered) => (
                Finding::Problem,
                format!("unregistered since {since:.0}: not tried yet, given up on purpose, or granted no time"),
            ),
            None => (Finding::Unknown, "not in the PBX's list of registrations".to_owned()),
        }
    }

    fn reachability(&self) -> Found {
        if let Some(trouble) = self.trouble() {
            return (Finding::Problem, trouble);
        }
        let facts = self.case.facts.as_ref();
        if let Some(leg) = self.last_leg() {
            let to =
                leg.request.and_then(|seen| seen.to).map_or_else(|| "the registrar".to_owned(), |to| to.to_string());
            let again = leg.sent.saturating_sub(1);
            let span = leg.request.zip(leg.last_sent).map(|(first, last)| between(first.at, last).as_secs_f64());
            if self.attempt.as_ref().is_some_and(|attempt| attempt.outcome == Outcome::Astray) {
                let line = format!("{to} answers, but its answers do not arrive: Asterisk asked {again} times again");
                return (Finding::Problem, line);
            }
            if let Some(answer) = leg.answer {
                let quick = leg
                    .request
                    .filter(|asked| asked.source == answer.source && again == 0 && is_precise(answer.source));
                let took = quick.map_or_else(String::new, |asked| {
                    format!(" within {} ms", between(asked.at, answer.at).as_millis().max(1))
                });
                let sent =
                    if again > 0 { format!(", after the request was sent {again} times again") } else { String::new() };
                let from = answer.from.map_or(to, |from| from.to_string());
                return (Finding::Ok, format!("{from} answers{took}{sent}"));
            }
            let silence = match span {
                Some(span) if again > 0 => format!("REGISTER to {to} sent {} times over {span:.1} s", leg.sent),
                Some(_) | None => format!("REGISTER sent to {to}"),
            };
            return match self.attempt.as_ref().map(|attempt| attempt.outcome) {
                Some(Outcome::Silent | Outcome::SilentSoFar | Outcome::Undelivered) => {
                    (Finding::Problem, format!("{silence}, and nothing came back, no ICMP either"))
                }
                Some(Outcome::Open) => (Finding::Unknown, format!("{silence}; its answer may still come")),
                Some(
                    Outcome::Granted | Outcome::Refused(_) | Outcome::Unanswered | Outcome::Astray | Outcome::Unseen,
                )
                | None => (Finding::Unknown, format!("{silence}; the source does not show what came back")),
            };
        }
        match facts.and_then(|facts| facts.state.zip(Some(facts))) {
            Some((RegistrationState::Registered, facts)) if facts.refresh_overdue_since.is_none() => {
                (Finding::Ok, "the provider accepted the last refresh".to_owned())
            }
            Some((RegistrationState::Rejected, facts)) => match facts.last_attempt_took {
                Some(took) if took >= TIMER_B - Duration::from_secs(2) => {
                    (Finding::Problem, format!("the last attempt took {} s to fail, as with silence", took.as_secs()))
                }
                Some(took) if took < Duration::from_secs(2) => {
                    let line = "the last attempt failed at once: answered, or never sent (name, TCP or TLS)";
                    (Finding::Unknown, format!("{line}; {SWITCH_ON}"))
                }
                Some(_) | None => (Finding::Unknown, SWITCH_ON.to_owned()),
            },
            Some((RegistrationState::Registered | RegistrationState::Unregistered, _)) | None => {
                (Finding::Unknown, SWITCH_ON.to_owned())
            }
        }
    }

    /// What the network itself said against it.
    fn trouble(&self) -> Option<String> {
        let registrar = self.registrar();
        let of_attempt = self.last_leg().into_iter().flat_map(|leg| leg.trouble.iter().copied());
        let began = self.attempt.as_ref().map(Attempt::began);
        let name = self.who.as_ref().map(|who| who.registrar.as_str());
        let of_connections = self.case.seen.iter().filter(|seen| {
            // Older than what was answered since: over.
            if self.attempt.as_ref().is_some_and(|attempt| attempt.answer().is_some()) && Some(seen.at) < began {
                return false;
            }
            let to_registrar = seen.to.is_some_and(|to| Some(to.ip().to_canonical()) == registrar);
            match &seen.what {
                Happening::Refused | Happening::Unanswered => to_registrar,
                Happening::TlsAlert { .. } => {
                    to_registrar || seen.from.is_some_and(|from| Some(from.ip().to_canonical()) == registrar)
                }
                Happening::NameError { name: asked, .. } => {
                    let asked = who::host(asked);
                    name.is_some_and(|name| asked == name || asked.ends_with(&format!(".{name}")))
                }
                Happening::Sip(_) | Happening::Unreachable { .. } => false,
            }
        });
        let last = of_attempt.chain(of_connections).max_by_key(|seen| seen.at)?;
        let to = last.to.map_or_else(|| "the registrar".to_owned(), |to| to.to_string());
        Some(match &last.what {
            Happening::Unreachable { why, .. } => {
                let hint = match why {
                    Unreachable::Port => ", so nothing listens there",
                    Unreachable::Prohibited => ", by a firewall",
                    Unreachable::Host | Unreachable::Network | Unreachable::Other => "",
                };
                format!("ICMP says of {to}: {}{hint}", tell::unreachable(*why))
            }
            Happening::Refused => format!("{to} refuses the TCP connection"),
            Happening::Unanswered => format!("{to} does not answer the TCP connection"),
            Happening::TlsAlert { description } => {
                let by = last.from.map_or_else(|| "one side".to_owned(), |from| from.to_string());
                format!("the TLS handshake with {to} was ended by {by}: {}", tell::alert(*description))
            }
            Happening::NameError { name, rcode } => {
                format!("{} does not resolve: {}", tell::value(name), tell::code_of_dns(*rcode))
            }
            Happening::Sip(_) => return None,
        })
    }

    fn sip_trace(&self) -> Found {
        let Some(attempt) = &self.attempt else {
            return match self.case.facts.as_ref().and_then(|facts| facts.state) {
                Some(RegistrationState::Registered) => (Finding::Unknown, format!("the last 200 OK was {SWITCH_ON}")),
                Some(RegistrationState::Rejected | RegistrationState::Unregistered) | None => {
                    (Finding::Unknown, SWITCH_ON.to_owned())
                }
            };
        };
        let mut steps = Vec::new();
        for leg in &attempt.legs {
            let credentials = if leg.has_credentials() { " with credentials" } else { "" };
            if leg.request.is_some() {
                steps.push(format!("REGISTER{credentials}"));
            }
            steps.extend(leg.answered().map(tell::answer));
        }
        let steps = steps.join(", ");
        match attempt.outcome {
            Outcome::Granted => match granted(attempt) {
                Some(0) => (Finding::Problem, format!("{steps}: granted 0 s, which is no registration")),
                Some(seconds) if seconds <= 10 => {
                    (Finding::Problem, format!("{steps}: granted {seconds} s, which Asterisk refreshes without end"))
                }
                Some(seconds) => (Finding::Ok, format!("{steps}: granted {seconds} s")),
                None => (Finding::Ok, steps),
            },
            Outcome::Refused(_) => {
                let after = attempt.answer().and_then(SipMessage::retry_after);
                let after = after.map_or_else(String::new, |seconds| format!(", Retry-After {seconds} s"));
                (Finding::Problem, format!("{steps}{after}"))
            }
            Outcome::Unanswered => (Finding::Problem, format!("{steps}, and Asterisk did not answer the challenge")),
            Outcome::Astray => (Finding::Problem, format!("{steps}, which did not arrive")),
            Outcome::Silent | Outcome::SilentSoFar | Outcome::Undelivered => {
                (Finding::NotReached, format!("{steps}, and no answer"))
            }
            Outcome::Unseen => (Finding::Unknown, format!("{steps}; how it ended was not seen")),
            Outcome::Open => (Finding::Unknown, format!("{steps}; it goes on")),
        }
    }

    fn digest(&self) -> Found {
        let Some(attempt) = &self.attempt else {
            return match self.case.facts.as_ref().and_then(|facts| facts.state) {
                Some(RegistrationState::Registered) => {
                    (Finding::Ok, "the provider accepts the configured credentials, or asks for none".to_owned())
                }
                Some(RegistrationState::Rejected | RegistrationState::Unregistered) | None => {
                    (Finding::Unknown, SWITCH_ON.to_owned())
                }
            };
        };
        let challenges = |message: &SipMessage| message.challenges();
        let offered: Vec<Challenge> = attempt
            .legs
            .iter()
            .filter_map(Leg::answered)
            .map(challenges)
            .find(|all| !all.is_empty())
            .unwrap_or_default();
        let Some(leg) = attempt.with_credentials() else {
            if offered.is_empty() {
                return match attempt.outcome {
                    Outcome::Granted => (Finding::Ok, "no challenge: the provider asks for no password".to_owned()),
                    Outcome::Refused(code) => {
                        (Finding::NotReached, format!("refused with {code} before any challenge"))
                    }
                    Outcome::Unanswered
                    | Outcome::Silent
                    | Outcome::SilentSoFar
                    | Outcome::Astray
                    | Outcome::Undelivered
                    | Outcome::Unseen
                    | Outcome::Open => (Finding::NotReached, "no challenge was seen".to_owned()),
                };
            }
            let asked = asked_for(&offered);
            let mismatch = self.mismatch(&offered);
            return match attempt.outcome {
                Outcome::Open | Outcome::Unseen => (Finding::Unknown, format!("asked for {asked}; not answered yet")),
                Outcome::Granted
                | Outcome::Refused(_)
                | Outcome::Unanswered
                | Outcome::Silent
                | Outcome::SilentSoFar
                | Outcome::Astray
                | Outcome::Undelivered => (Finding::Problem, format!("asked for {asked}, not answered: {mismatch}")),
            };
        };
        let Some((message, sent)) = leg.asked().zip(credentials(attempt)) else {
            return (Finding::Unknown, "credentials were sent that cannot be read".to_owned());
        };
        let username = tell::value(sent.username.as_deref().unwrap_or("(none)"));
        let realm = tell::value(sent.realm.as_deref().unwrap_or("(none)"));
        let who =
            format!("username \"{username}\", realm \"{realm}\", {}", tell::value(tell::algorithm(&sent.algorithm)));
        let made = match self.made_of_configured(message, &sent) {
            Match::Yes => "made of the configured password",
            Match::No => {
                "not made of the configured password: Asterisk still has another one, or a stored hash is for another realm"
            }
            Match::Unknown => "not checked, as the password is not known here",
        };
        let stale = leg.answered().is_some_and(|answer| answer.challenges().iter().any(|challenge| challenge.stale));
        match leg.status() {
            Some(200..=299) => (Finding::Ok, format!("{who}: accepted")),
            Some(401 | 407) if stale => {
                (Finding::Problem, format!("{who}: right, but its nonce was refused as stale; {made}"))
            }
            Some(code @ (401 | 407)) => (Finding::Problem, format!("{who}: refused with {code}; {made}")),
            Some(code @ (403 | 404)) => {
                (Finding::Unknown, format!("{who}: answered with {code}, which may mean the account; {made}"))
            }
            Some(code) => (Finding::Unknown, format!("{who}: answered with {code}, which says nothing of it; {made}")),
            None => (Finding::Unknown, format!("{who}: not answered; {made}")),
        }
    }

    /// The auth sections that the registration names, and are there.
    fn auths(&self) -> Vec<(&'a str, &'a Auth)> {
        let names = self.configured.map(|own| own.outbound_auth.as_slice()).unwrap_or_default();
        let known = |name: &'a String| Some((name.as_str(), self.case.objects?.auths.get(name)?));
        names.iter().filter_map(known).collect()
    }

    /// Why no auth section fits what is asked for.
    fn mismatch(&self, offered: &[Challenge]) -> String {
        let (Some(objects), Some(configured)) = (self.case.objects, self.configured) else {
            return "compare with the auth section, which is not known here".to_owned();
        };
        if configured.outbound_auth.is_empty() {
            return "the registration has no outbound_auth".to_owned();
        }
        let missing = configured.outbound_auth.iter().find(|name| !objects.auths.contains_key(*name));
        if let Some(missing) = missing.filter(|_| objects.complete.auths) {
            return format!("outbound_auth={missing} names no section");
        }
        let realms: Vec<&str> = offered.iter().filter_map(|challenge| challenge.realm.as_deref()).collect();
        let auths = self.auths();
        if let Some((name, auth)) = auths.iter().find(|(_, auth)| !realms.iter().any(|realm| auth.answers(realm))) {
            return format!("[{name}] answers realm \"{}\" only", auth.realm.as_deref().unwrap_or_default());
        }
        match auths.first() {
            Some((name, auth)) if auth.supported_algorithms_uac.is_empty() => {
                format!("[{name}] answers the default algorithms only, which is MD5")
            }
            Some((name, auth)) => {
                format!("[{name}] answers {} only", auth.supported_algorithms_uac.join(", "))
            }
            None => "the auth section is not known here".to_owned(),
        }
    }

    fn made_of_configured(&self, message: &SipMessage, sent: &Credentials) -> Match {
        let mut best = Match::Unknown;
        // Of a registration that is not configured here a secret may be known all the same, by its user.
        let given =
            self.case.objects.filter(|_| self.configured.is_none()).into_iter().flat_map(|all| all.auths.values());
        let given = given.filter(|auth| auth.username.is_some() && auth.username == sent.username);
        for auth in self.auths().into_iter().map(|(_, auth)| auth).chain(given) {
            let username = auth.username.as_deref().unwrap_or_default();
            for secret in &auth.secrets {
                match sent.made_of(secret, username, "REGISTER", message.body()) {
                    Match::Yes => return Match::Yes,
                    Match::No => best = Match::No,
                    Match::Unknown => {}
                }
            }
        }
        best
    }

    fn nat(&self) -> Found {
        let own_transport = self.transport();
        let external = own_transport.and_then(|(_, transport)| transport.external_signaling_address.as_deref());
        let configured = match (own_transport, external) {
            (Some((name, _)), Some(address)) => format!("[{name}] external_signaling_address={address}"),
            (Some((name, _)), None) => format!("[{name}] sets no external_signaling_address"),
            (None, _) => String::new(),
        };
        let leg = self.last_leg();
        let Some(request) = leg.and_then(Leg::asked) else {
            let hint = if configured.is_empty() { String::new() } else { format!("; {configured}") };
            return (Finding::Unknown, format!("Contact and Via {SWITCH_ON}{hint}"));
        };
        let contact = request.contacts().into_iter().find_map(|contact| contact.uri);
        let Some(contact) = contact else {
            return (Finding::Unknown, "the REGISTER has no Contact that can be read".to_owned());
        };
        let place = |host: &str, port: Option<u16>| {
            let host = address::in_uri(host);
            port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"))
        };
        let shown = place(&contact.host, contact.port);
        let settings = if configured.is_empty() { String::new() } else { format!("; {configured}") };
        let public_registrar = self.registrar().is_some_and(|address| !address::is_private(address));
        let ours = address::literal(&contact.host);
        if public_registrar && ours.is_some_and(address::is_private) {
            let registrar = self.registrar().map(|address| address.to_string()).unwrap_or_default();
            let line = format!("Contact {shown} is private, and {registrar} cannot send to it{settings}");
            return (Finding::Problem, line);
        }
        let answered = leg.and_then(Leg::answered).and_then(SipMessage::via);
        let sent = request.via();
        let seen_as = answered.as_ref().and_then(|via| {
            let host = via.received.clone().or_else(|| via.rport.map(|_| via.host.clone()))?;
            Some((host, via.rport.or(via.port)))
        });
        let (Some((host, port)), Some(via)) = (seen_as, sent) else {
            return (Finding::Ok, format!("Contact {shown}; the provider does not tell how it sees us{settings}"));
        };
        let seen_as = place(&host, port);
        let same_host = address::literal(&host) == address::literal(&via.host);
        let same_port = port.is_none() || port.unwrap_or(5060) == via.port.unwrap_or(5060);
        if same_host && same_port {
            return (Finding::Ok, format!("Contact {shown}; the provider sees us as {seen_as}, as our Via says"));
        }
        let via = place(&via.host, via.port);
        if address::literal(&host) == ours && (port.is_none() || port.unwrap_or(5060) == contact.port.unwrap_or(5060)) {
            return (
                Finding::Ok,
                format!("Contact {shown} is what the provider sees us as, though our Via says {via}"),
            );
        }
        (
            Finding::Problem,
            format!("our Via says {via}, Contact {shown}, and the provider sees us as {seen_as}{settings}"),
        )
    }

    fn transport(&self) -> Option<(&'a str, &'a Transport)> {
        let objects = self.case.objects?;
        let name = self.configured?.transport.as_deref()?;
        objects.transports.get_key_value(name).map(|(name, transport)| (name.as_str(), transport))
    }

    fn identify(&self) -> Found {
        let Some(objects) = self.case.objects else {
            return (Finding::Unknown, "the configuration is not known here".to_owned());
        };
        if self.configured.is_some_and(|own| own.line == Some(true)) {
            let line = "line=yes: calls are recognised by the token in our Contact, if the provider sends it back";
            return (Finding::Ok, line.to_owned());
        }
        let host = self.who.as_ref().map(|who| who.registrar.as_str());
        let Some(registrar) = self.registrar() else {
            let named = host.and_then(|host| {
                let by_name =
                    |(_, identify): &(&String, &Identify)| identify.matches.iter().any(|net| who::host(net) == host);
                objects.identifies.iter().find(by_name)
            });
            return match named {
                Some((name, identify)) => (
                    Finding::Ok,
                    format!(
                        "[{name}] match={} is the registrar's name{}",
                        host.unwrap_or_default(),
                        for_endpoint(identify)
                    ),
                ),
                None => (Finding::Unknown, "the registrar's address was not seen".to_owned()),
            };
        };
        let mut names = Vec::new();
        for (name, identify) in &objects.identifies {
            for net in &identify.matches {
                match covers(net, registrar) {
                    Some(true) => {
                        return (
                            Finding::Ok,
                            format!("[{name}] match={net} covers {registrar}{}", for_endpoint(identify)),
                        );
                    }
                    Some(false) => {}
                    None if host == Some(who::host(net).as_str()) => {
                        return (
                            Finding::Ok,
                            format!("[{name}] match={net} is the registrar's name{}", for_endpoint(identify)),
                        );
                    }
                    None => names.push(net.as_str()),
                }
            }
        }
        if !objects.complete.endpoints {
            return (
                Finding::Unknown,
                format!("not all identify sections are known here; none seen covers {registrar}"),
            );
        }
        let by_name =
            if names.is_empty() { String::new() } else { format!("; {} may, once resolved", names.join(", ")) };
        let line =
            format!("no identify covers {registrar}{by_name}: calls from there would be refused, if any are to come");
        (Finding::Unknown, line)
    }
}

fn for_endpoint(identify: &Identify) -> String {
    identify.endpoint.as_deref().map_or_else(String::new, |endpoint| format!(", endpoint {endpoint}"))
}

/// Whether a source's times tell milliseconds.
const fn is_precise(source: Source) -> bool {
    match source {
        Source::Hep | Source::Capture => true,
        Source::History | Source::Logger | Source::Ami | Source::Configuration => false,
    }
}

/// `realm "a" with MD5 or realm "a" with SHA-256`.
fn asked_for(offered: &[Challenge]) -> String {
    let one = |challenge: &Challenge| {
        let realm = tell::value(challenge.realm.as_deref().unwrap_or("(none)"));
        format!("realm \"{realm}\" with {}", tell::value(tell::algorithm(&challenge.algorithm)))
    };
    offered.iter().map(one).collect::<Vec<_>>().join(" or ")
}

/// Whether an identify's `match` covers `address`; `None` if it is a name. What it takes out it does not cover.
fn covers(net: &str, address: IpAddr) -> Option<bool> {
    Net::parse(net).map(|net| net.contains(address) && !net.is_negated())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use md5::{Digest as _, Md5};
    use serde_json::json;

    use super::*;
    use crate::{
        diagnosis::{
            RegistrationFacts,
            verdict::{Fault, Fix},
        },
        wire::{
            pjsip::Objects,
            sip::{Seen, digest::Secret},
        },
    };

    const PASSWORD: &str = "hunter2-made-up";
    const NONCE: &str = "5f1c-nonce";

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_795_372_340_000 + millis).unwrap()
    }

    fn hex(text: &str) -> String {
        Md5::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn sip(millis: i64, direction: Direction, head: &str, cseq: u32, rest: &str) -> Seen {
        let text = format!(
            "{head}\r\nVia: SIP/2.0/UDP 10.0.0.5:5060;branch=z9hG4bK{cseq}{}\r\nFrom: <sip:acct1@sip.provider.example>;tag=1\r\n\
             To: <sip:acct1@sip.provider.example>\r\nCall-ID: c1\r\nCSeq: {cseq} REGISTER\r\n{rest}Content-Length: 0\r\n\r\n",
            if direction == Direction::In { ";received=198.51.100.9;rport=5060" } else { "" },
        );
        let (near, far) = ("10.0.0.5:5060".parse().unwrap(), "203.0.113.7:5060".parse().unwrap());
        let (from, to) = if direction == Direction::Out { (near, far) } else { (far, near) };
        Seen {
            at: at(millis),
            source: Source::Hep,
            direction: None,
            transport: None,
            from: Some(from),
            to: Some(to),
            what: Happening::Sip(Box::new(SipMessage::parse(Bytes::from(text)).unwrap())),
        }
    }

    fn register(millis: i64, cseq: u32, password: Option<&str>) -> Seen {
        let uri = "sip:sip.provider.example";
        let contact = "Contact: <sip:s@198.51.100.9:5060>\r\n";
        let rest = match password {
            Some(password) => {
                let ha1 = hex(&format!("acct1:provider:{password}"));
                let response = hex(&format!("{ha1}:{NONCE}:{}", hex(&format!("REGISTER:{uri}"))));
                format!(
                    "{contact}Authorization: Digest username=\"acct1\", realm=\"provider\", nonce=\"{NONCE}\", uri=\"{uri}\", \
                     response=\"{response}\"\r\n"
                )
            }
            None => contact.to_owned(),
        };
        sip(millis, Direction::Out, &format!("REGISTER {uri} SIP/2.0"), cseq, &rest)
    }

    fn challenge(millis: i64, cseq: u32) -> Seen {
        let rest = format!("WWW-Authenticate: Digest realm=\"provider\", nonce=\"{NONCE}\"\r\n");
        sip(millis, Direction::In, "SIP/2.0 401 Unauthorized", cseq, &rest)
    }

    fn objects() -> Objects {
        let mut objects = Objects::default();
        objects.registrations.insert(
            "airtel-reg".to_owned(),
            Registration {
                client_uri: "sip:acct1@sip.provider.example".to_owned(),
                server_uri: "sip:sip.provider.example".to_owned(),
                outbound_auth: vec!["airtel-auth".to_owned()],
                transport: Some("udp".to_owned()),
                ..Registration::default()
            },
        );
        objects.auths.insert(
            "airtel-auth".to_owned(),
            Auth {
                username: Some("acct1".to_owned()),
                secrets: vec![Secret::Password(PASSWORD.into())],
                ..Auth::default()
            },
        );
        objects.transports.insert("udp".to_owned(), Transport::default());
        objects.identifies.insert(
            "airtel-id".to_owned(),
            Identify {
                endpoint: Some("airtel".to_owned()),
                matches: vec!["sip.other.example".to_owned(), "203.0.113.0/255.255.255.0".to_owned()],
                ..Identify::default()
            },
        );
        objects.complete.endpoints = true;
        objects.complete.auths = true;
        objects
    }

    fn facts(state: RegistrationState) -> RegistrationFacts {
        RegistrationFacts {
            state: Some(state),
            since: at(-60_000),
            last_event_at: Some(at(100)),
            last_attempt_took: None,
            failures: 3,
            gave_up: false,
            refresh_overdue_since: None,
            ever_registered: true,
            same_secret_registered: None,
            registered_in_10s: 0,
        }
    }

    fn case<'a>(objects: &'a Objects, seen: &'a [Seen], facts: Option<RegistrationFacts>) -> Case<'a> {
        Case {
            trunk: Some("pbx1/airtel".try_into().unwrap()),
            registration: Some("airtel-reg".try_into().unwrap()),
            objects: Some(objects),
            seen,
            facts,
            now: Some(at(60_000)),
            ..Case::default()
        }
    }

    fn told(case: &Case<'_>) -> Vec<String> {
        layers(case, None)
            .iter()
            .map(|layer| format!("{} {}: {}", layer.name.as_str(), layer.finding.as_str(), layer.line))
            .collect()
    }

    #[test]
    fn a_refused_digest_is_a_problem_of_its_layer_only() {
        let objects = objects();
        let seen = [register(0, 1, None), challenge(5, 1), register(6, 2, Some(PASSWORD)), challenge(11, 2)];
        let case = case(&objects, &seen, Some(facts(RegistrationState::Rejected)));
        assert_eq!(
            told(&case),
            [
                "registration problem: rejected since 2026-11-22T18:31:20Z, 3 failed attempts, last at 2026-11-22T18:32:20Z",
                "reachability ok: 203.0.113.7:5060 answers within 5 ms",
                "sip_trace problem: REGISTER, 401 Unauthorized, REGISTER with credentials, 401 Unauthorized",
                "digest problem: username \"acct1\", realm \"provider\", MD5: refused with 401; made of the configured password",
                "nat ok: Contact 198.51.100.9:5060 is what the provider sees us as, though our Via says 10.0.0.5:5060",
                "identify ok: [airtel-id] match=203.0.113.0/255.255.255.0 covers 203.0.113.7, endpoint airtel",
            ]
        );
    }

    #[test]
    fn another_password_than_the_configured_one_is_told() {
        let objects = objects();
        let seen = [register(0, 1, None), challenge(5, 1), register(6, 2, Some("other")), challenge(11, 2)];
        let all = told(&case(&objects, &seen, None));
        assert!(all[3].contains("refused with 401; not made of the configured password"), "{all:?}");
        assert_eq!(all[0], "registration problem: the last REGISTER that was seen failed");
    }

    #[test]
    fn a_challenge_left_alone_names_what_does_not_fit() {
        let mut objects = objects();
        let seen = [register(0, 1, None), challenge(5, 1)];
        let digest = |objects: &Objects| told(&case(objects, &seen, None)).swap_remove(3);
        assert_eq!(
            digest(&objects),
            "digest problem: asked for realm \"provider\" with MD5, not answered: [airtel-auth] answers the default algorithms \
             only, which is MD5"
        );
        objects.auths.get_mut("airtel-auth").unwrap().realm = Some("elsewhere".to_owned());
        assert!(digest(&objects).ends_with("not answered: [airtel-auth] answers realm \"elsewhere\" only"));
        objects.auths.clear();
        assert!(digest(&objects).ends_with("not answered: outbound_auth=airtel-auth names no section"));
        objects.registrations.get_mut("airtel-reg").unwrap().outbound_auth.clear();
        assert!(digest(&objects).ends_with("not answered: the registration has no outbound_auth"));
    }

    #[test]
    fn silence_ends_at_reachability() {
        let objects = objects();
        let seen: Vec<Seen> =
            [0, 500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500].map(|at| register(at, 1, None)).into();
        let all = told(&case(&objects, &seen, None));
        assert_eq!(
            all[1],
            "reachability problem: REGISTER to 203.0.113.7:5060 sent 11 times over 31.5 s, and nothing came back, no ICMP either"
        );
        assert_eq!(all[2], "sip_trace not_reached: REGISTER, and no answer");
        assert_eq!(all[3], "digest not_reached: no challenge was seen");
    }

    #[test]
    fn the_networks_own_word_is_told() {
        let objects = objects();
        let mut seen: Vec<Seen> = (0..8).map(|n| register(n * 4000, 1, None)).collect();
        let what = Happening::Unreachable { why: Unreachable::Port, call_id: Some("c1".to_owned()) };
        seen.push(Seen { at: at(1), what, ..seen[0].clone() });
        let all = told(&case(&objects, &seen, None));
        assert_eq!(
            all[1],
            "reachability problem: ICMP says of 203.0.113.7:5060: port unreachable, so nothing listens there"
        );
        let name = Happening::NameError { name: "_sip._udp.sip.provider.example.".to_owned(), rcode: 3 };
        let seen = [Seen { at: at(1), what: name, ..seen[0].clone() }];
        let all = told(&case(&objects, &seen, None));
        assert!(
            all[1].starts_with("reachability problem: _sip._udp.sip.provider.example. does not resolve: "),
            "{all:?}"
        );
    }

    #[test]
    fn what_was_not_seen_is_unknown_and_says_what_would_show_it() {
        let objects = objects();
        let silent = RegistrationFacts {
            last_attempt_took: Some(Duration::from_secs(32)),
            gave_up: true,
            ..facts(RegistrationState::Rejected)
        };
        assert_eq!(
            told(&case(&objects, &[], Some(silent))),
            [
                "registration problem: rejected since 2026-11-22T18:31:20Z, 3 failed attempts, last at 2026-11-22T18:32:20Z; \
                 Asterisk gave up and will not try again by itself",
                "reachability problem: the last attempt took 32 s to fail, as with silence",
                "sip_trace unknown: not seen: switch on HEP (hep.conf, and [hep] here)",
                "digest unknown: not seen: switch on HEP (hep.conf, and [hep] here)",
                "nat unknown: Contact and Via not seen: switch on HEP (hep.conf, and [hep] here); [udp] sets no \
                 external_signaling_address",
                "identify unknown: the registrar's address was not seen",
            ]
        );
        let registered = told(&case(&objects, &[], Some(facts(RegistrationState::Registered))));
        assert_eq!(
            registered[0],
            "registration ok: registered since 2026-11-22T18:31:20Z, last at 2026-11-22T18:32:20Z"
        );
        assert_eq!(registered[1], "reachability ok: the provider accepted the last refresh");
        let nothing = told(&Case::default());
        assert!(nothing.iter().all(|line| line.contains(" unknown: ")), "{nothing:?}");
    }

    #[test]
    fn a_private_contact_towards_a_public_registrar_is_a_problem() {
        let objects = objects();
        let contact = "Contact: <sip:s:secret@10.0.0.5:5060>\r\n";
        let seen = [
            sip(0, Direction::Out, "REGISTER sip:sip.provider.example SIP/2.0", 1, contact),
            sip(5, Direction::In, "SIP/2.0 200 OK", 1, "Contact: <sip:s@10.0.0.5:5060>;expires=60\r\n"),
        ];
        let all = told(&case(&objects, &seen, None));
        assert_eq!(
            all[4],
            "nat problem: Contact 10.0.0.5:5060 is private, and 203.0.113.7 cannot send to it; [udp] sets no \
             external_signaling_address"
        );
        assert_eq!(all[2], "sip_trace ok: REGISTER, 200 OK: granted 60 s");
        assert_eq!(all[3], "digest ok: no challenge: the provider asks for no password");
        assert_eq!(all[0], "registration ok: the last REGISTER that was seen was accepted");
    }

    #[test]
    fn a_match_covers_its_net_and_a_name_is_neither() {
        let four = "203.0.113.7".parse().unwrap();
        let six = "2001:db8::7".parse().unwrap();
        for (net, address, covered) in [
            ("203.0.113.7", four, Some(true)),
            ("203.0.113.7/32", four, Some(true)),
            ("203.0.113.0/24", four, Some(true)),
            ("203.0.113.0/255.255.255.0", four, Some(true)),
            ("0.0.0.0/0", four, Some(true)),
            ("203.0.113.8/32", four, Some(false)),
            ("!203.0.113.0/24", four, Some(false)),
            ("203.0.113.0/33", four, None),
            ("2001:db8::/32", six, Some(true)),
            ("::/0", six, Some(true)),
            ("2001:db9::/32", six, Some(false)),
            ("203.0.113.0/24", six, Some(false)),
            ("sip.provider.example", four, None),
            ("", four, None),
        ] {
            assert_eq!(covers(net, address), covered, "{net}");
        }
    }

    fn diagnosis(cause: Cause) -> Diagnosis {
        Diagnosis {
            trunk: None,
            subject: Subject::default(),
            at: at(0),
            cause,
            confidence: 0.7,
            fault: Fault::Network,
            summary: "x".to_owned(),
            alternatives: Vec::new(),
            sources: Vec::new(),
            evidence: Vec::new(),
            fix: Fix::default(),
            to_know_more: Vec::new(),
        }
    }

    #[test]
    fn the_layer_of_the_cause_is_never_well() {
        for cause in Cause::ALL {
            let all = layers(&Case::default(), Some(&diagnosis(cause)));
            let problems: Vec<LayerName> =
                all.iter().filter(|layer| layer.finding == Finding::Problem).map(|layer| layer.name).collect();
            assert_eq!(problems, layer_of(cause).into_iter().collect::<Vec<_>>(), "{cause}");
        }
    }

    #[test]
    fn an_examination_is_a_diagnosis_with_layers_or_says_that_nothing_is_wrong() {
        let wrong = Examination::new(&Case::default(), Some(diagnosis(Cause::NoResponse)));
        let written = serde_json::to_value(&wrong).unwrap();
        assert_eq!(written["cause"], "no_response");
        assert_eq!(written["layers"][1]["name"], "reachability");
        assert_eq!(serde_json::from_value::<Examination>(written.clone()).unwrap(), wrong);
        assert_eq!(serde_json::from_value::<Diagnosis>(written).unwrap(), diagnosis(Cause::NoResponse));

        let objects = objects();
        let seen = [register(0, 1, None), sip(5, Direction::In, "SIP/2.0 200 OK", 1, "Expires: 60\r\n")];
        let well = Examination::new(&case(&objects, &seen, Some(facts(RegistrationState::Registered))), None);
        let written = serde_json::to_value(&well).unwrap();
        assert_eq!(written["cause"], json!(null));
        assert_eq!(written["summary"], "Registered since 2026-11-22T18:31:20Z; nothing is wrong with it.");
        assert_eq!(written["subject"]["client_uri"], "sip:acct1@sip.provider.example");
        assert_eq!(written["evidence"].as_array().unwrap().len(), 2);
        assert_eq!(serde_json::from_value::<Examination>(written).unwrap(), well);
    }

    #[test]
    fn no_secret_is_told() {
        let objects = objects();
        let contact = format!("Contact: <sip:s:{PASSWORD}@10.0.0.5:5060>\r\n");
        let with_password = sip(20, Direction::Out, "REGISTER sip:sip.provider.example SIP/2.0", 3, &contact);
        let answered = register(6, 2, Some(PASSWORD));
        let digest = answered.sip().unwrap().header("Authorization").unwrap().into_owned();
        let digest = digest.split("response=\"").nth(1).unwrap().trim_end_matches('"').to_owned();
        let rounds = [vec![register(0, 1, None), challenge(5, 1), answered, challenge(11, 2)], vec![with_password]];
        for seen in rounds {
            let all = Examination::new(&case(&objects, &seen, None), None);
            let text = serde_json::to_string(&all).unwrap();
            for secret in [PASSWORD, &digest] {
                assert!(!text.contains(secret), "{secret} in {text}");
            }
        }
    }
}
