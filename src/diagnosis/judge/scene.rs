//! Everything that a verdict may look at, found once.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use super::{
    super::{
        address,
        attempt::{self, Attempt, Horizon, Outcome, TIMER_B},
        case::Case,
        neighbours::Neighbours,
        tell,
        verdict::Subject,
        who::{self, Wanted, Who},
    },
    finding::More,
    logged,
};
use crate::{
    clock::{Timestamp, after},
    observation::RegistrationState,
    wire::{
        logger::LogFact,
        pjsip::{Auth, Endpoint, Place, Registration, Transport},
        sip::{Credentials, Direction, Happening, Seen, SipMessage, SipUri, Source},
    },
};

/// What the registration is to be judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// This attempt failed, and nothing later is known.
    Failed(usize),
    /// A later attempt is known to have failed, and was not seen; this is the last that was.
    Stale(usize),
    /// It is registered, by this attempt if it was seen.
    Registered(Option<usize>),
    /// It is not registered, and not because it was rejected.
    Unregistered(Option<usize>),
    /// Its failure was reported, and nothing of it was seen.
    Unseen,
    /// Neither attempts nor facts.
    Unknown,
}

/// What is known of the account from earlier successes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// It registered with the same credentials.
    Same,
    /// It registered, and the secret has been changed since.
    OtherSecret,
    /// It registered; with what is not known.
    Some,
    /// Not known to have registered.
    Unknown,
}

/// One case with its attempts.
#[derive(Debug)]
pub(super) struct Scene<'a> {
    pub(super) case: &'a Case<'a>,
    pub(super) neighbours: &'a Neighbours,
    pub(super) wanted: Option<Wanted>,
    /// The registration's section.
    pub(super) name: Option<&'a str>,
    /// Its options.
    pub(super) registration: Option<&'a Registration>,
    /// Its attempts in order.
    pub(super) attempts: Vec<Attempt<'a>>,
    /// It is at least this late.
    pub(super) now: Timestamp,
}

impl<'a> Scene<'a> {
    /// Looks at a case.
    pub(super) fn of(case: &'a Case<'a>, neighbours: &'a Neighbours) -> Self {
        let (name, wanted) = identity(case);
        let registration = name.and_then(|name| case.objects?.registrations.get(name));
        let seen_last = case.seen.iter().map(|seen| seen.at).max();
        let now = case.now.max(seen_last).or_else(|| case.facts.as_ref().map(|facts| facts.since));
        let now = now.unwrap_or(Timestamp::UNIX_EPOCH);
        let rejected_at = case.facts.as_ref().filter(|facts| facts.state == Some(RegistrationState::Rejected));
        let logged = wanted.as_ref().and_then(|wanted| {
            let ends = |fact: &&LogFact| logged::ends(&fact.kind) && of_registration(fact, wanted);
            case.log.iter().filter(ends).map(|fact| fact.at).max()
        });
        let rejected_at = rejected_at.and_then(|facts| facts.last_event_at).max(logged);
        let horizon = Horizon { now, rejected_at };
        let attempts = wanted.as_ref().map(|wanted| attempt::attempts(case.seen, wanted, horizon)).unwrap_or_default();
        Self { case, neighbours, wanted, name, registration, attempts, now }
    }

    /// By what to judge.
    pub(super) fn standing(&self) -> Standing {
        let last = |unregister: bool| {
            self.attempts.iter().rposition(|one| one.unregister == unregister && one.outcome.decides())
        };
        let register = last(false);
        let Some(facts) = &self.case.facts else {
            return match register.or_else(|| last(true).filter(|&at| self.outcome(at) != Some(Outcome::Granted))) {
                Some(at) if self.holds_binding(at) => Standing::Registered(Some(at)),
                Some(at) => Standing::Failed(at),
                None => Standing::Unknown,
            };
        };
        let told_at = facts.last_event_at.unwrap_or(facts.since);
        match facts.state {
            Some(RegistrationState::Registered) => {
                // A failure after the last word of AMI is the newer one: a refresh that fails right now.
                let newer = register.filter(|&at| {
                    !self.holds_binding(at)
                        && self.attempts.get(at).is_some_and(|one| one.ended() > after(told_at, attempt_slack()))
                });
                let granted = self.attempts.iter().rposition(|one| !one.unregister && one.outcome == Outcome::Granted);
                newer.map_or(Standing::Registered(granted), Standing::Failed)
            }
            Some(RegistrationState::Rejected) => {
                // What AMI rejects may be an un-REGISTER (`PJSIPRegister` begins with one): it fails as a REGISTER does.
                let failed = |at: &usize| !self.holds_binding(*at);
                let Some(at) = register.filter(failed).max(last(true).filter(failed)).or(register) else {
                    return Standing::Unseen;
                };
                let Some(attempt) = self.attempts.get(at) else { return Standing::Unseen };
                let covers = told_at <= after(attempt.ended(), TIMER_B + attempt_slack());
                match (covers, self.holds_binding(at)) {
                    (true, false) => Standing::Failed(at),
                    (false, false) if !self.watched_alone(told_at) => Standing::Stale(at),
                    (true | false, _) => Standing::Unseen,
                }
            }
            Some(RegistrationState::Unregistered) => {
                let at = self.attempts.iter().rposition(|one| one.outcome == Outcome::Granted);
                let refused = at.filter(|&at| self.attempts.get(at).is_some_and(|one| !one.unregister));
                match (refused, register) {
                    (Some(at), _) if !self.holds_binding(at) => Standing::Failed(at),
                    (_, Some(at)) if !self.holds_binding(at) && self.outcome(at) != Some(Outcome::Granted) => {
                        Standing::Failed(at)
                    }
                    (_, _) => Standing::Unregistered(at),
                }
            }
            None => match register {
                Some(at) if self.holds_binding(at) => Standing::Registered(Some(at)),
                Some(at) => Standing::Failed(at),
                None => Standing::Unknown,
            },
        }
    }

    fn outcome(&self, at: usize) -> Option<Outcome> {
        self.attempts.get(at).map(|one| one.outcome)
    }

    /// Whether this attempt left a binding.
    fn holds_binding(&self, at: usize) -> bool {
        self.attempts.get(at).is_some_and(|one| one.outcome == Outcome::Granted && granted(one) != Some(0))
    }

    /// Whether some source listened around `at`, so that what it did not show was not on the wire.
    pub(super) fn watched_alone(&self, at: Timestamp) -> bool {
        self.case.watched.iter().any(|one| match one.source {
            Source::Hep | Source::Capture | Source::History | Source::Logger => {
                after(one.since, TIMER_B + attempt_slack()) <= at
            }
            Source::Ami | Source::Configuration => false,
        })
    }

    /// An attempt that was under way when `at` came, and whose end was not seen.
    pub(super) fn unseen_end(&self, at: Timestamp) -> Option<usize> {
        let under_way = |one: &Attempt<'_>| {
            one.began() <= after(at, attempt_slack())
                && at <= after(one.began(), TIMER_B * 2)
                && one.outcome != Outcome::Granted
        };
        self.attempts.iter().rposition(under_way)
    }

    /// Whether Asterisk has stopped trying.
    pub(super) fn gave_up(&self) -> bool {
        self.case.facts.as_ref().is_some_and(|facts| {
            facts.gave_up
                && match facts.state {
                    Some(RegistrationState::Rejected | RegistrationState::Unregistered) | None => true,
                    Some(RegistrationState::Registered) => false,
                }
        })
    }

    /// What is to be said of the attempts besides the deciding one.
    pub(super) fn afterword(&self, deciding: Option<usize>) -> Option<String> {
        let mut words = String::new();
        if let Some(at) = deciding {
            let granted = |one: &&Attempt<'_>| !one.unregister && one.outcome == Outcome::Granted;
            // Of a capture only some are kept, and counted when they were taken in.
            let (failures, successes) = self.case.tally.unwrap_or_else(|| {
                let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
                (
                    count(self.attempts.iter().filter(|one| failed(one)).count()),
                    count(self.attempts.iter().filter(granted).count()),
                )
            });
            let this_failed = self.attempts.get(at).is_some_and(failed);
            if this_failed && failures > 1 {
                words.push_str(&format!("; {failures} attempts in this trace failed"));
            }
            if this_failed && successes > 0 {
                let attempts = if successes == 1 { "attempt" } else { "attempts" };
                words.push_str(&format!("; {successes} {attempts} before it or between succeeded"));
            }
            if self.attempts.get(at).is_some_and(|one| one.unregister && failed(one)) {
                words.push_str("; it was an un-REGISTER, and a REGISTER would fare alike");
            }
        }
        if self.gave_up() {
            words.push_str("; Asterisk has stopped trying");
        }
        (!words.is_empty()).then_some(words)
    }

    /// What the diagnosis is about.
    pub(super) fn subject(&self) -> Subject {
        let client = self.registration.map(|own| own.client_uri.as_str()).or(self.case.client_uri.as_deref());
        let server = self.registration.map(|own| own.server_uri.as_str()).or(self.case.server_uri.as_deref());
        let who = self.wanted.as_ref().map(|wanted| &wanted.who);
        Subject {
            registration: self
                .name
                .map(str::to_owned)
                .or_else(|| self.case.registration.as_ref().map(|own| own.to_string())),
            client_uri: client.map(tell::uri).or_else(|| who.map(Who::aor)),
            server_uri: server.map(tell::uri).or_else(|| who.map(|who| format!("sip:{}", who.registrar()))),
        }
    }

    /// Which way a sighting of the REGISTER exchange went.
    pub(super) fn direction(&self, seen: &Seen) -> Option<Direction> {
        match &seen.what {
            Happening::Sip(message) if message.status().is_some() => Some(Direction::In),
            Happening::Sip(_) => Some(Direction::Out),
            // A notice about what we sent comes back to us.
            Happening::Unreachable { .. } | Happening::Refused | Happening::NameError { .. } => Some(Direction::In),
            Happening::Unanswered => Some(Direction::Out),
            Happening::TlsAlert { .. } => None,
        }
    }

    /// Who registers, in words.
    pub(super) fn account(&self) -> String {
        self.wanted.as_ref().map_or_else(|| "the account".to_owned(), |wanted| tell::value(&wanted.who.aor()))
    }

    /// The registrar in words: as it is asked for, and the address that it is.
    pub(super) fn registrar(&self) -> String {
        let named = self.wanted.as_ref().map(|wanted| wanted.who.registrar());
        let address = self.registrar_address();
        match (named, address) {
            (Some(named), Some(address)) if !same_place(&named, address) => {
                format!("{} ({address})", tell::value(&named))
            }
            (Some(named), _) => tell::value(&named),
            (None, Some(address)) => address.to_string(),
            (None, None) => "the registrar".to_owned(),
        }
    }

    /// Where the last REGISTER went to.
    pub(super) fn registrar_address(&self) -> Option<SocketAddr> {
        self.attempts.iter().rev().find_map(|one| one.legs.iter().rev().find_map(|leg| leg.request?.to))
    }

    /// All addresses this trunk's provider is known by.
    pub(super) fn provider_addresses(&self) -> BTreeSet<SocketAddr> {
        let mut all: BTreeSet<SocketAddr> =
            self.attempts.iter().flat_map(|one| one.legs.iter().filter_map(|leg| leg.request?.to)).collect();
        let uris = [
            self.registration.map(|own| own.server_uri.as_str()).or(self.case.server_uri.as_deref()),
            self.registration.and_then(|own| own.outbound_proxy.as_deref()),
        ];
        for uri in uris.into_iter().flatten().filter_map(SipUri::parse) {
            all.extend(address::literal(&uri.host).map(|ip| SocketAddr::new(ip, who::port(&uri))));
        }
        all
    }

    /// The addresses Asterisk sent its REGISTERs from.
    pub(super) fn own_addresses(&self) -> BTreeSet<SocketAddr> {
        self.attempts.iter().flat_map(|one| one.legs.iter().filter_map(|leg| leg.request?.from)).collect()
    }

    /// The registrar's address as far as "private or public" goes.
    pub(super) fn registrar_ip(&self) -> Option<IpAddr> {
        let literal = self.wanted.as_ref().and_then(|wanted| address::literal(&wanted.who.registrar));
        self.registrar_address().map(|address| address.ip()).or(literal)
    }

    /// The auth sections that the registration names, each with its options where it is known.
    pub(super) fn auths(&self) -> Vec<(&'a str, Option<&'a Auth>)> {
        let objects = self.case.objects;
        let names = self.registration.map(|own| own.outbound_auth.as_slice()).unwrap_or_default();
        names.iter().map(|name| (name.as_str(), objects.and_then(|all| all.auths.get(name)))).collect()
    }

    /// The transport that the registration uses; without its options where only its name is known.
    pub(super) fn transport(&self) -> Option<(&'a str, Option<&'a Transport>)> {
        let named = self.registration?.transport.as_deref().filter(|name| !name.is_empty());
        match self.case.objects?.transport_of(self.name?) {
            Some((name, transport)) => Some((name, Some(transport))),
            None => named.map(|name| (name, None)),
        }
    }

    /// The endpoint that the registration is for.
    pub(super) fn endpoint(&self) -> Option<(&'a str, &'a Endpoint)> {
        self.case.objects?.endpoint_of(self.name?)
    }

    /// The log lines about this registration, in order.
    pub(super) fn log(&self) -> Vec<&'a LogFact> {
        let Some(wanted) = &self.wanted else { return Vec::new() };
        let mut all: Vec<&'a LogFact> = self.case.log.iter().filter(|fact| of_registration(fact, wanted)).collect();
        all.sort_by_key(|fact| fact.at);
        all
    }

    /// Whether the registration goes over TLS, TCP or UDP, as far as the configuration tells.
    pub(super) fn protocol(&self) -> Option<String> {
        let server = self.registration.map(|own| own.server_uri.as_str()).or(self.case.server_uri.as_deref());
        if let Some(uri) = server.and_then(SipUri::parse) {
            if uri.scheme == "sips" {
                return Some("tls".to_owned());
            }
            if let Some(own) = uri.parameter("transport") {
                return Some(own.to_ascii_lowercase());
            }
        }
        let seen = self.attempts.iter().rev().find_map(|one| one.legs.iter().find_map(|leg| leg.request));
        let by_wire = seen.and_then(attempt::transport).map(|own| {
            match own {
                crate::wire::sip::Transport::Udp => "udp",
                crate::wire::sip::Transport::Tcp => "tcp",
                crate::wire::sip::Transport::Tls => "tls",
                crate::wire::sip::Transport::Ws => "ws",
            }
            .to_owned()
        });
        by_wire.or_else(|| self.transport()?.1?.protocol.clone())
    }

    /// What is known of the account from before `attempt`.
    pub(super) fn before(&self, attempt: &Attempt<'a>) -> Before {
        let facts = self.case.facts.as_ref();
        match facts.and_then(|facts| facts.same_secret_registered) {
            Some(true) => return Before::Same,
            Some(false) => return Before::OtherSecret,
            None => {}
        }
        let Some(now) = credentials(attempt) else { return self.ever() };
        let same = self.earlier(attempt).any(|one| {
            one.outcome == Outcome::Granted
                && credentials(one).is_some_and(|then| then.username == now.username && then.realm == now.realm)
        });
        if same { Before::Same } else { self.ever() }
    }

    fn ever(&self) -> Before {
        let ever = self.case.facts.as_ref().is_some_and(|facts| facts.ever_registered)
            || self.attempts.iter().any(|one| !one.unregister && one.outcome == Outcome::Granted);
        if ever { Before::Some } else { Before::Unknown }
    }

    /// The attempts before one.
    pub(super) fn earlier<'s>(&'s self, attempt: &Attempt<'a>) -> impl Iterator<Item = &'s Attempt<'a>> + use<'s, 'a> {
        let began = attempt.began();
        self.attempts.iter().take_while(move |one| one.began() < began)
    }

    /// Network happenings that are about this registrar, whether or not a SIP message ever got out.
    pub(super) fn network(&self) -> Vec<&'a Seen> {
        let addresses = self.provider_addresses();
        let proxy = self.registration.and_then(|own| own.outbound_proxy.as_deref()).and_then(SipUri::parse);
        let names: Vec<String> = self
            .wanted
            .iter()
            .map(|wanted| wanted.who.registrar.clone())
            .chain(proxy.map(|proxy| who::host(&proxy.host)))
            .collect();
        let asked_for = |name: &str| {
            let name = who::host(name);
            names.iter().any(|own| *own == name || name.strip_suffix(own.as_str()).is_some_and(is_service))
        };
        self.case
            .seen
            .iter()
            .filter(|seen| match &seen.what {
                Happening::Sip(_) | Happening::Unreachable { .. } => false,
                Happening::Refused | Happening::Unanswered => seen.to.is_some_and(|to| addresses.contains(&to)),
                Happening::TlsAlert { .. } => {
                    [seen.from, seen.to].into_iter().flatten().any(|end| addresses.contains(&end))
                }
                Happening::NameError { name, .. } => asked_for(name),
            })
            .collect()
    }

    /// The place of a section, in words: ` (pjsip.conf line 42)`.
    pub(super) fn place(place: Option<&Place>) -> String {
        place.map(|place| format!(" ({} line {})", tell::value(&place.file), place.line)).unwrap_or_default()
    }

    /// What to switch on.
    pub(super) fn how_to_know(&self, more: More) -> Vec<String> {
        let watched = |source: Source| {
            self.case.watched.iter().any(|one| one.source == source)
                || self.case.seen.iter().any(|seen| seen.source == source)
        };
        let host = self.registrar_address().map_or_else(
            || self.wanted.as_ref().map_or_else(|| "REGISTRAR".to_owned(), |wanted| tell::value(&wanted.who.registrar)),
            |address| address.ip().to_string(),
        );
        match more {
            More::Trace if watched(Source::Hep) || watched(Source::Capture) => Vec::new(),
            More::Trace => vec![
                "the SIP exchange itself: in hep.conf `[general] enabled=yes`, `capture_address=CONTROLLER:9060`, `uuid_type=call-id`, then `module load res_hep_pjsip.so`; here `[hep] listen`".to_owned(),
                "or Asterisk's own SIP history: `[pbx.evidence] history = \"auto\"`, with `command` in the AMI user's write= and res_pjsip_history.so loaded".to_owned(),
                format!("or the SIP logger: `pjsip set logger host {host}` (not `method`, which shows requests only), then `diagnose --log FILE`"),
            ],
            More::Capture if watched(Source::Capture) => Vec::new(),
            More::Capture => vec![format!(
                "whether the network says anything (ICMP, TCP, TLS): `tcpdump -i any -w FILE host {host}`, then `diagnose --pcap FILE`"
            )],
            More::Configuration if self.registration.is_some() => Vec::new(),
            More::Configuration => vec![
                "the configured realm, user and secret: `--pjsip-conf FILE`, or `system` in the AMI user's write=, so that the registration's objects can be read".to_owned(),
            ],
        }
    }
}

/// A second: events and messages of one happening come within it.
const fn attempt_slack() -> std::time::Duration {
    std::time::Duration::from_secs(1)
}

/// Whether a log line is about this registration.
fn of_registration(fact: &LogFact, wanted: &Wanted) -> bool {
    fact.client_uri
        .as_deref()
        .zip(fact.server_uri.as_deref())
        .is_some_and(|(client, server)| Who::of_uris(client, server).as_ref() == Some(&wanted.who))
}

/// Whether it failed.
pub(super) fn failed(attempt: &Attempt<'_>) -> bool {
    attempt.outcome.decides() && attempt.outcome != Outcome::Granted
}

/// The seconds that a success granted to our Contact; `None` where the answer does not say.
pub(in super::super) fn granted(attempt: &Attempt<'_>) -> Option<u32> {
    let leg = attempt.last()?;
    let answer = leg.answered()?;
    let contacts = answer.contacts();
    let own = leg.asked().map(SipMessage::contacts).unwrap_or_default();
    let ours = contacts.iter().find(|there| own.iter().any(|here| same_contact(here, there)));
    let of =
        |contact: &crate::wire::sip::NameAddr| contact.parameter("expires").and_then(|seconds| seconds.parse().ok());
    ours.and_then(of).or_else(|| answer.expires()).or_else(|| match contacts.as_slice() {
        [only] => of(only),
        [] | [..] => None,
    })
}

/// Whether two Contacts are the same binding: user, host and port.
pub(super) fn same_contact(one: &crate::wire::sip::NameAddr, other: &crate::wire::sip::NameAddr) -> bool {
    let (Some(one), Some(other)) = (&one.uri, &other.uri) else { return one.text == other.text };
    one.user == other.user && who::host(&one.host) == who::host(&other.host) && who::port(one) == who::port(other)
}

/// The digest credentials that an attempt sent last.
pub(in super::super) fn credentials(attempt: &Attempt<'_>) -> Option<Credentials> {
    let message = attempt.with_credentials()?.asked()?;
    let mut all = message.credentials();
    let digest = all.iter().position(|one| one.scheme.eq_ignore_ascii_case("digest")).unwrap_or(0);
    (digest < all.len()).then(|| all.swap_remove(digest))
}

/// Which registration the case is about: the named one, the one with its URIs, else the last one in the trace.
pub(in super::super) fn identity<'a>(case: &'a Case<'a>) -> (Option<&'a str>, Option<Wanted>) {
    if let (Some(objects), Some(name)) = (case.objects, &case.registration)
        && let Some((name, _)) = objects.registrations.get_key_value(name.as_str())
        && let Some(wanted) = Wanted::configured(objects, name)
    {
        return (Some(name), Some(wanted));
    }
    let by_uris = case.client_uri.as_deref().zip(case.server_uri.as_deref());
    let who = by_uris.and_then(|(client, server)| Who::of_uris(client, server)).or_else(|| {
        let requests = case.seen.iter().filter(|seen| seen.direction != Some(Direction::In));
        let mut last: Option<(Timestamp, Who)> = None;
        for (at, who) in requests.filter_map(|seen| Some((seen.at, Who::of_request(seen.sip()?)?))) {
            if last.as_ref().is_none_or(|(known, _)| *known <= at) {
                last = Some((at, who));
            }
        }
        last.map(|(_, who)| who)
    });
    let Some(who) = who else { return (None, None) };
    let same = |registration: &Registration| {
        Who::of_uris(&registration.client_uri, &registration.server_uri).as_ref() == Some(&who)
    };
    let named = case.objects.into_iter().flat_map(|objects| {
        objects.registrations.iter().filter(|(_, registration)| same(registration)).map(|(name, _)| name.as_str())
    });
    // With a twin there is no telling which; then its own name is not claimed.
    let names: Vec<&str> = named.take(2).collect();
    let contact_user = case.contact_user.clone();
    match (names.as_slice(), case.objects) {
        ([only], Some(objects)) if contact_user.is_none() => (Some(only), Wanted::configured(objects, only)),
        ([only], _) => (Some(only), Some(Wanted { who, contact_user })),
        (_, _) => (None, Some(Wanted { who, contact_user })),
    }
}

/// Whether what stands before a domain makes it the name of a service: `_sip._udp.`.
fn is_service(prefix: &str) -> bool {
    prefix.starts_with('_') && prefix.ends_with('.')
}

fn same_place(named: &str, address: SocketAddr) -> bool {
    let bare = if address.port() == 5060 { address.ip().to_string() } else { address.to_string() };
    named == bare || named == address.to_string()
}
