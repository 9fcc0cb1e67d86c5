//! The SIP messages of a simulated registration, as Asterisk 22 and a provider write them, for those who watch the wire.
//!
//! Pure: an attempt becomes a list of messages with their times; nothing is sent to anybody but the HEP feed. How it ends is
//! decided by the provider's [`Behaviour`], of which AMI is told the same.
//!
//! Source: recordings of Asterisk 22.10.1 and of a registrar that answers it, for the headers, their order and what stays
//! the same from attempt to attempt (Call-ID, From tag, `line`; every refresh begins without credentials and is challenged).
//!
//! Knowingly different: UDP only, whatever the URIs say; one `local` address, without NAT; MD5 with `qop=auth` is all that a
//! provider asks for, in the realm of its own name. The digest is computed here by RFC 7616 and not by
//! [`wire::sip`](crate::wire::sip), which is checked against it.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use md5::{Digest as _, Md5};

use super::{
    dice::Dice,
    provider::{Answer, Behaviour, Pace, Request, Shown},
    registration::RegistrationSettings,
};
use crate::wire::sip::Direction;

/// Where the simulated Asterisk sends from: an address for documentation (RFC 5737), as a public one would look.
pub const PBX_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10)), SIP_PORT);
const SIP_PORT: u16 = 5060;
/// pjproject's T2: a request is not repeated more slowly.
const SLOWEST_REPEAT: Duration = Duration::from_secs(4);
/// What Asterisk allows in every REGISTER for a binding.
const ALLOW: &str =
    "OPTIONS, REGISTER, SUBSCRIBE, NOTIFY, PUBLISH, INVITE, ACK, BYE, CANCEL, UPDATE, PRACK, MESSAGE, INFO, REFER";
const USER_AGENT: &str = "Asterisk PBX 22.10.1";

/// A message on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spoken {
    /// How long after the attempt began.
    pub after: Duration,
    /// Which way.
    pub direction: Direction,
    /// The whole of it.
    pub text: String,
}

/// What stays the same of a registration's messages as long as its state object lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    call_id: String,
    from_tag: String,
    line: String,
    cseq: u32,
    registrar: SocketAddr,
    exchange: Option<u64>,
}

impl Conversation {
    /// A new one with the registrar of `settings`. A name has an address for documentation, always the same.
    #[must_use]
    pub fn new(settings: &RegistrationSettings, dice: &mut Dice) -> Self {
        Self {
            call_id: dice.uuid(),
            from_tag: dice.uuid(),
            line: dice.letters(7),
            cseq: u32::try_from(dice.roll(65_536)).unwrap_or(1),
            registrar: address_of(&settings.server_uri),
            exchange: None,
        }
    }

    /// Its Call-ID.
    #[must_use]
    pub fn call_id(&self) -> &str {
        &self.call_id
    }

    /// Where the registrar is.
    #[must_use]
    pub const fn registrar(&self) -> SocketAddr {
        self.registrar
    }

    /// Whether `exchange` is the one under way, or was the last.
    #[must_use]
    pub fn is_in(&self, exchange: u64) -> bool {
        self.exchange == Some(exchange)
    }

    /// What is not said yet is not said any more.
    pub const fn break_off(&mut self) {
        self.exchange = None;
    }

    /// Everything said in an attempt, in order; `now` is in seconds since 1970. What was said in `exchange` is known by it.
    pub fn speak(&mut self, attempt: &Attempt<'_>, exchange: u64, now: i64, dice: &mut Dice) -> Vec<Spoken> {
        self.exchange = Some(exchange);
        let Attempt { settings, request, behaviour, pace } = attempt;
        let (answer, ends) = behaviour.answer(*request, *pace);
        match behaviour.shown(*request) {
            Shown::Nothing => Vec::new(),
            Shown::Silence => {
                let (_, text) = self.request(settings, *request, None, dice);
                let sent = |after| Spoken { after, direction: Direction::Out, text: text.clone() };
                repeats(*pace).map(sent).collect()
            }
            Shown::Answer { challenged } => {
                let (branch, text) = self.request(settings, *request, None, dice);
                let mut said = vec![Spoken { after: Duration::ZERO, direction: Direction::Out, text }];
                let mut last = branch;
                if challenged && !settings.outbound_auth.is_empty() {
                    let challenge = Challenge::new(settings, now, dice);
                    let half = ends * 4 / 9;
                    let text = self.response(settings, 401, &last, &challenge.header("WWW-Authenticate"), dice);
                    said.push(Spoken { after: half, direction: Direction::In, text });
                    let (branch, text) = self.request(settings, *request, Some(&challenge), dice);
                    said.push(Spoken { after: ends * 5 / 9, direction: Direction::Out, text });
                    last = branch;
                }
                let (status, more) = self.outcome(settings, *request, answer, now, dice);
                let text = self.response(settings, status, &last, &more, dice);
                said.push(Spoken { after: ends, direction: Direction::In, text });
                said
            }
        }
    }

    /// The status of the final answer, and the headers that are its own.
    fn outcome(
        &self,
        settings: &RegistrationSettings,
        request: Request,
        answer: Answer,
        now: i64,
        dice: &mut Dice,
    ) -> (u16, String) {
        match answer {
            Answer::Granted(granted) => {
                let seconds = granted.as_secs();
                let bound = match request {
                    Request::Register { .. } if seconds > 0 => {
                        format!("Contact: <{}>;expires={seconds}\r\n", self.contact(settings))
                    }
                    Request::Register { .. } | Request::Unregister => String::new(),
                };
                (200, format!("{bound}Expires: {seconds}\r\n"))
            }
            Answer::Refused { code, retry_after } => {
                let mut more = match code {
                    401 => Challenge::new(settings, now, dice).header("WWW-Authenticate"),
                    407 => Challenge::new(settings, now, dice).header("Proxy-Authenticate"),
                    _ => String::new(),
                };
                if let Some(wait) = retry_after {
                    // Writing to a String does not fail.
                    let _ = write!(more, "Retry-After: {}\r\n", wait.as_secs());
                }
                (code, more)
            }
        }
    }

    fn contact(&self, settings: &RegistrationSettings) -> String {
        // Asterisk's default, `contact_user` being empty.
        let user = if settings.contact_user.is_empty() { "s" } else { &settings.contact_user };
        let line = if settings.endpoint.is_empty() { String::new() } else { format!(";line={}", self.line) };
        format!("sip:{user}@{PBX_ADDRESS}{line}")
    }

    /// The next REGISTER and its branch.
    fn request(
        &mut self,
        settings: &RegistrationSettings,
        request: Request,
        challenge: Option<&Challenge>,
        dice: &mut Dice,
    ) -> (String, String) {
        self.cseq = self.cseq.wrapping_add(1) & 0x7fff_ffff; // RFC 3261 section 8.1.1.5
        let branch = format!("z9hG4bKPj{}", dice.uuid());
        let mut text = format!("REGISTER {} SIP/2.0\r\n", settings.server_uri);
        let _ = write!(
            text,
            "Via: SIP/2.0/UDP {PBX_ADDRESS};rport;branch={branch}\r\nFrom: <{uri}>;tag={tag}\r\nTo: <{uri}>\r\nCall-ID: \
             {call}\r\nCSeq: {cseq} REGISTER\r\nContact: <{contact}>\r\n",
            uri = settings.client_uri,
            tag = self.from_tag,
            call = self.call_id,
            cseq = self.cseq,
            contact = self.contact(settings),
        );
        let _ = match request {
            Request::Register { expiration } => {
                write!(text, "Expires: {}\r\nAllow: {ALLOW}\r\n", expiration.as_secs())
            }
            Request::Unregister => write!(text, "Expires: 0\r\n"),
        };
        let _ = write!(text, "Max-Forwards: 70\r\nUser-Agent: {USER_AGENT}\r\n");
        if let Some(challenge) = challenge {
            text.push_str(&challenge.answered(settings, dice));
        }
        text.push_str("Content-Length:  0\r\n\r\n");
        (branch, text)
    }

    /// What the provider says to the request of that branch.
    fn response(
        &self,
        settings: &RegistrationSettings,
        status: u16,
        branch: &str,
        more: &str,
        dice: &mut Dice,
    ) -> String {
        let (ip, port) = (PBX_ADDRESS.ip(), PBX_ADDRESS.port());
        format!(
            "SIP/2.0 {status} {reason}\r\nVia: SIP/2.0/UDP {PBX_ADDRESS};rport={port};received={ip};branch={branch}\r\nFrom: \
             <{uri}>;tag={tag}\r\nTo: <{uri}>;tag={to}\r\nCall-ID: {call}\r\nCSeq: {cseq} REGISTER\r\n{more}Server: {server}\r\n\
             Content-Length: 0\r\n\r\n",
            reason = reason(status),
            uri = settings.client_uri,
            tag = self.from_tag,
            to = &dice.hex()[..8],
            call = self.call_id,
            cseq = self.cseq,
            server = "simulated registrar",
        )
    }
}

/// One attempt of a registration.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// Whose.
    pub settings: &'a RegistrationSettings,
    /// What is asked for.
    pub request: Request,
    /// How the provider takes it.
    pub behaviour: Behaviour,
    /// How fast.
    pub pace: Pace,
}

/// When an unanswered request is sent (RFC 3261 section 17.1.2.2, timers E and F).
fn repeats(pace: Pace) -> impl Iterator<Item = Duration> {
    let mut next = Duration::ZERO;
    let mut wait = pace.timer_t1.max(Duration::from_millis(1));
    std::iter::from_fn(move || {
        let at = next;
        next = next.saturating_add(wait);
        wait = wait.saturating_mul(2).min(SLOWEST_REPEAT);
        (at < pace.timer_b).then_some(at)
    })
}

/// What a provider asks for.
#[derive(Debug)]
struct Challenge {
    realm: String,
    nonce: String,
    opaque: String,
}

impl Challenge {
    fn new(settings: &RegistrationSettings, now: i64, dice: &mut Dice) -> Self {
        let nonce = format!("{now}/{}{}", dice.hex(), dice.hex());
        Self { realm: host_of(&settings.server_uri).0, nonce, opaque: dice.hex() }
    }

    fn header(&self, name: &str) -> String {
        let Self { realm, nonce, opaque } = self;
        format!("{name}: Digest realm=\"{realm}\",nonce=\"{nonce}\",opaque=\"{opaque}\",algorithm=MD5,qop=\"auth\"\r\n")
    }

    /// The Authorization that Asterisk makes of the configured secret (RFC 7616 section 3.4.1).
    fn answered(&self, settings: &RegistrationSettings, dice: &mut Dice) -> String {
        let Self { realm, nonce, opaque } = self;
        let (user, uri) = (&settings.username, &settings.server_uri);
        let (nc, cnonce) = ("00000001", format!("{}{}", dice.hex(), dice.hex()));
        let ha1 = hashed(&format!("{user}:{realm}:{}", settings.password));
        let ha2 = hashed(&format!("REGISTER:{uri}"));
        let response = hashed(&format!("{ha1}:{nonce}:{nc}:{cnonce}:auth:{ha2}"));
        format!(
            "Authorization: Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", \
             response=\"{response}\", algorithm=MD5, cnonce=\"{cnonce}\", opaque=\"{opaque}\", qop=auth, nc={nc}\r\n"
        )
    }
}

fn hashed(text: &str) -> String {
    Md5::digest(text.as_bytes()).iter().fold(String::with_capacity(32), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Host and port of a SIP URI.
fn host_of(uri: &str) -> (String, u16) {
    let rest = uri.split_once(':').map_or(uri, |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    let rest = rest.split([';', '?', '\\']).next().unwrap_or(rest);
    if let Ok(address) = rest.parse::<SocketAddr>() {
        return (address.ip().to_string(), address.port());
    }
    match rest.rsplit_once(':') {
        Some((host, port)) if !rest.ends_with(']') => (host.to_owned(), port.parse().unwrap_or(SIP_PORT)),
        Some(_) | None => (rest.trim_matches(['[', ']']).to_owned(), SIP_PORT),
    }
}

/// Where the host of a URI is; names are in TEST-NET-3 (RFC 5737).
fn address_of(uri: &str) -> SocketAddr {
    let (host, port) = host_of(uri);
    let named = || {
        let last = Md5::digest(host.as_bytes()).first().copied().unwrap_or_default();
        IpAddr::V4(Ipv4Addr::new(203, 0, 113, last.clamp(1, 254)))
    };
    SocketAddr::new(host.parse().unwrap_or_else(|_| named()), port)
}

/// The usual words of RFC 3261 section 21.
const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        480 => "Temporarily Unavailable",
        486 => "Busy Here",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        600 => "Busy Everywhere",
        603 => "Decline",
        604 => "Does Not Exist Anywhere",
        606 => "Not Acceptable",
        _ => "Refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::sip::{
        SipMessage,
        digest::{Match, Secret},
    };

    const NOW: i64 = 1_795_372_345;

    fn settings() -> RegistrationSettings {
        RegistrationSettings { expiration: Duration::from_secs(60), ..RegistrationSettings::named("airtel") }
    }

    const REGISTER: Request = Request::Register { expiration: Duration::from_secs(60) };

    /// Everything said in each of the attempts, as `wire::sip` reads it.
    fn said(
        settings: &RegistrationSettings,
        attempts: &[(Request, Behaviour)],
    ) -> Vec<(Duration, Direction, SipMessage)> {
        let mut dice = Dice::new(3);
        let mut conversation = Conversation::new(settings, &mut dice);
        let mut all = Vec::new();
        for (number, (request, behaviour)) in (0..).zip(attempts) {
            let attempt = Attempt { settings, request: *request, behaviour: *behaviour, pace: Pace::default() };
            for Spoken { after, direction, text } in conversation.speak(&attempt, number, NOW, &mut dice) {
                let message = SipMessage::parse(text.into_bytes().into()).unwrap();
                assert_eq!(message.defects(), Vec::<String>::new(), "{message:?}");
                assert_eq!(message.call_id().as_deref(), Some(conversation.call_id()));
                all.push((after, direction, message));
            }
        }
        all
    }

    fn lines(said: &[(Duration, Direction, SipMessage)]) -> Vec<String> {
        said.iter().map(|(_, _, message)| message.start_line().into_owned()).collect()
    }

    #[test]
    fn a_refresh_is_challenged_answered_with_the_configured_secret_and_granted() {
        let said = said(&settings(), &[(REGISTER, Behaviour::Ok)]);
        let register = "REGISTER sip:sip.airtel.example SIP/2.0";
        assert_eq!(lines(&said), [register, "SIP/2.0 401 Unauthorized", register, "SIP/2.0 200 OK"]);
        let cseqs: Vec<u32> = said.iter().map(|(_, _, message)| message.cseq().unwrap().0).collect();
        assert!(cseqs[0] == cseqs[1] && cseqs[2] == cseqs[3] && cseqs[2] == cseqs[0] + 1, "{cseqs:?}");
        let [(_, _, first), (_, _, challenge), (_, _, second), (_, _, granted)] = &said[..] else { panic!() };
        assert!(first.credentials().is_empty());
        let challenge = &challenge.challenges()[0];
        assert_eq!(challenge.realm.as_deref(), Some("sip.airtel.example"));
        let sent = &second.credentials()[0];
        assert_eq!((&sent.nonce, sent.nc.as_deref()), (&challenge.nonce, Some("00000001")));
        let secret = |text: &str| Secret::Password(text.to_owned().into());
        assert_eq!(sent.made_of(&secret("made-up-airtel"), "airtel", "REGISTER", b""), Match::Yes);
        assert_eq!(sent.made_of(&secret("another"), "airtel", "REGISTER", b""), Match::No);
        assert_eq!(granted.contacts()[0].uri, first.contacts()[0].uri, "our own binding");
        assert_eq!(granted.contacts()[0].parameter("expires"), Some("60"));
        for (answer, asked) in [(&said[1].2, first), (granted, second)] {
            assert_eq!(answer.via().unwrap().branch, asked.via().unwrap().branch);
        }
        assert_eq!(said[3].0, Pace::default().round_trip, "when AMI is told");
    }

    #[test]
    fn the_headers_of_a_request_are_the_recorded_ones_in_their_order() {
        let names = |message: &SipMessage| -> Vec<String> {
            message.all_headers().map(|(name, _)| name.into_owned()).collect()
        };
        let said = said(&settings(), &[(REGISTER, Behaviour::Ok), (Request::Unregister, Behaviour::Ok)]);
        // hep3-frames, flapping-403
        let plain = "Via From To Call-ID CSeq Contact Expires Allow Max-Forwards User-Agent Content-Length";
        assert_eq!(names(&said[0].2).join(" "), plain);
        assert_eq!(names(&said[2].2).join(" "), plain.replace("Content", "Authorization Content"));
        assert_eq!(names(&said[4].2).join(" "), plain.replace("Allow ", ""));
        assert_eq!((said[4].2.expires(), said[7].2.expires()), (Some(0), Some(0)));
        let tags: Vec<_> = said.iter().map(|(_, _, message)| message.header("From").unwrap().into_owned()).collect();
        assert!(tags.iter().all(|from| *from == tags[0]), "one registration, one tag");
    }

    #[test]
    fn refusals_come_where_providers_say_them() {
        let kinds = |behaviour| {
            let said = said(&settings(), &[(REGISTER, behaviour)]);
            said.iter().map(|(_, _, message)| message.status().unwrap_or(0)).collect::<Vec<_>>()
        };
        assert_eq!(kinds(Behaviour::reject(403)), [0, 401, 0, 403]);
        assert_eq!(kinds(Behaviour::reject(401)), [0, 401, 0, 401]);
        assert_eq!(kinds(Behaviour::Bar { code: 403 }), [0, 403]);
        assert_eq!(kinds(Behaviour::reject(503)), [0, 503]);
        assert!(kinds(Behaviour::Unreachable).is_empty());
        let busy = Behaviour::Reject { code: 503, retry_after: Some(Duration::from_secs(7)) };
        assert_eq!(said(&settings(), &[(REGISTER, busy)])[1].2.retry_after(), Some(7));
        let refused = said(&settings(), &[(REGISTER, Behaviour::reject(401))]);
        let nonce = |at: usize| refused[at].2.challenges()[0].nonce.clone();
        assert_ne!(nonce(1), nonce(3), "a fresh nonce, so the password is wrong and not the nonce");
        let open = RegistrationSettings { outbound_auth: String::new(), ..settings() };
        assert_eq!(said(&open, &[(REGISTER, Behaviour::reject(401))]).len(), 2, "no credentials, no second REGISTER");
    }

    #[test]
    fn silence_is_eleven_transmissions_of_one_request_in_thirty_two_seconds() {
        let said = said(&settings(), &[(REGISTER, Behaviour::Silent)]);
        let at: Vec<u128> = said.iter().map(|(after, _, _)| after.as_millis()).collect();
        assert_eq!(at, [0, 500, 1500, 3500, 7500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500]);
        assert!(said.iter().all(|(_, way, message)| *way == Direction::Out && message.raw() == said[0].2.raw()));
    }

    #[test]
    fn a_name_has_one_address_and_an_address_is_its_own() {
        assert_eq!(address_of("sip:192.0.2.7:5080;transport=udp"), "192.0.2.7:5080".parse().unwrap());
        assert_eq!(address_of("sip:[2001:db8::7]"), "[2001:db8::7]:5060".parse().unwrap());
        assert_eq!(address_of("sip:a@sip.airtel.example"), address_of("sip:sip.airtel.example:5060"));
        assert_ne!(address_of("sip:sip.north.example"), address_of("sip:sip.south.example"));
        assert_eq!(host_of("sips:sip.airtel.example:5061;lr"), ("sip.airtel.example".to_owned(), 5061));
    }
}
