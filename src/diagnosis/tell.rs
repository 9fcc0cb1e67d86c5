//! Saying what was seen: evidence lines, and values fit for a sentence or for a configuration file.
//!
//! Everything that leaves the room passes here, so that nothing secret, no control character and nothing endless does.
//! Digests and nonces are never told; user names, realms and addresses are.

use std::borrow::Cow;

use super::verdict::Evidence;
use crate::wire::sip::{
    Algorithm, Challenge, Credentials, Direction, Happening, Seen, SipMessage, SipUri, Unreachable,
};

/// The longest evidence line ([`Evidence::line`]).
const LINE: usize = 200;
/// The longest message kept ([`Evidence::message`]).
const MESSAGE: usize = 4_096;
/// The longest value within a sentence.
const VALUE: usize = 80;

/// A value from the wire or a file, as it may stand in a sentence.
pub(super) fn value(text: &str) -> String {
    clip(&clean(text), VALUE)
}

/// A value as it may stand in `pjsip.conf`: `;` begins a comment there.
pub(super) fn setting(text: &str) -> String {
    clean(text).chars().take(VALUE * 2).collect::<String>().replace(';', "\\;")
}

/// A URI without the password that it may hold.
pub(super) fn uri(text: &str) -> String {
    let Some(parsed) = SipUri::parse(text) else {
        // Not readable, so the password, if there is one, cannot be told from the rest.
        return if text.contains('@') { "(a URI that cannot be read)".to_owned() } else { value(text) };
    };
    let mut out = format!("{}:", parsed.scheme);
    if let Some(user) = &parsed.user {
        out.push_str(user);
        out.push('@');
    }
    out.push_str(&super::address::in_uri(&parsed.host));
    if let Some(port) = parsed.port {
        out.push_str(&format!(":{port}"));
    }
    for (name, own) in &parsed.parameters {
        out.push(';');
        out.push_str(name);
        if let Some(own) = own {
            out.push('=');
            out.push_str(own);
        }
    }
    value(&out)
}

/// An algorithm as SIP writes it.
pub(super) fn algorithm(algorithm: &Algorithm) -> &str {
    match algorithm {
        Algorithm::Md5 => "MD5",
        Algorithm::Md5Sess => "MD5-sess",
        Algorithm::Sha256 => "SHA-256",
        Algorithm::Sha256Sess => "SHA-256-sess",
        Algorithm::Sha512256 => "SHA-512-256",
        Algorithm::Sha512256Sess => "SHA-512-256-sess",
        Algorithm::Other(name) => name,
    }
}

/// A code with its reason phrase: `403 Forbidden`.
pub(super) fn answer(message: &SipMessage) -> String {
    let code = message.status().unwrap_or_default();
    match message.reason().map(str::trim).filter(|reason| !reason.is_empty()) {
        Some(reason) => value(&format!("{code} {reason}")),
        None => code.to_string(),
    }
}

/// What ICMP said, in words.
pub(super) const fn unreachable(why: Unreachable) -> &'static str {
    match why {
        Unreachable::Port => "port unreachable",
        Unreachable::Host => "host unreachable",
        Unreachable::Network => "network unreachable",
        Unreachable::Prohibited => "communication prohibited",
        Unreachable::Other => "destination unreachable",
    }
}

/// A TLS alert by its number (RFC 8446 section 6).
pub(super) const fn alert(description: u8) -> &'static str {
    match description {
        0 => "close_notify",
        10 => "unexpected_message",
        40 => "handshake_failure",
        42 => "bad_certificate",
        43 => "unsupported_certificate",
        44 => "certificate_revoked",
        45 => "certificate_expired",
        46 => "certificate_unknown",
        47 => "illegal_parameter",
        48 => "unknown_ca",
        49 => "access_denied",
        50 => "decode_error",
        51 => "decrypt_error",
        70 => "protocol_version",
        71 => "insufficient_security",
        80 => "internal_error",
        112 => "unrecognized_name",
        116 => "certificate_required",
        120 => "no_application_protocol",
        _ => "an alert",
    }
}

/// A sighting as evidence.
pub(super) fn evidence(seen: &Seen, direction: Option<Direction>, repeats: u32) -> Evidence {
    let message = seen.sip().map(|message| clip(&message.redacted(), MESSAGE));
    Evidence {
        at: seen.at,
        direction: seen.direction.or(direction),
        source: seen.source,
        line: line(&happening(&seen.what)),
        from: seen.from,
        to: seen.to,
        repeats,
        until: None,
        message,
    }
}

/// One line of evidence.
pub(super) fn line(text: &str) -> String {
    clip(&clean(text), LINE)
}

fn happening(what: &Happening) -> String {
    match what {
        Happening::Sip(message) if message.status().is_some() => response(message),
        Happening::Sip(message) => request(message),
        Happening::Unreachable { why, .. } => format!("ICMP: {}", unreachable(*why)),
        Happening::Refused => "TCP: connection refused".to_owned(),
        Happening::Unanswered => "TCP: no answer to the connection attempt".to_owned(),
        Happening::TlsAlert { description } => format!("TLS: alert {description} ({})", alert(*description)),
        Happening::NameError { name, rcode } => format!("DNS: {} for {}", code_of_dns(*rcode), value(name)),
    }
}

/// A DNS answer in words.
pub(super) const fn code_of_dns(rcode: u8) -> &'static str {
    match rcode {
        0 => "no such record (NODATA)",
        2 => "server failure (SERVFAIL)",
        3 => "no such name (NXDOMAIN)",
        5 => "refused (REFUSED)",
        _ => "an error",
    }
}

fn request(message: &SipMessage) -> String {
    let start = message.start_line();
    let mut parts = vec![start.strip_suffix(" SIP/2.0").unwrap_or(&start).to_owned()];
    parts.extend(message.credentials().iter().map(credentials));
    parts.extend(message.header("Contact").map(|contact| format!("Contact {}", contact_of(message, &contact))));
    parts.extend(message.expires().map(|seconds| format!("Expires {seconds}")));
    parts.join(", ")
}

fn response(message: &SipMessage) -> String {
    let mut parts = vec![answer(message)];
    parts.extend(message.challenges().iter().map(challenge));
    parts.extend(message.retry_after().map(|seconds| format!("Retry-After {seconds}")));
    for name in ["Warning", "Reason", "Min-Expires"] {
        parts.extend(message.header(name).map(|text| format!("{name}: {}", value(&text))));
    }
    if message.status().is_some_and(|status| (200..400).contains(&status)) {
        parts.extend(message.header("Contact").map(|contact| format!("Contact {}", contact_of(message, &contact))));
    }
    parts.extend(message.expires().map(|seconds| format!("Expires {seconds}")));
    if let Some(via) = message.via()
        && let Some(received) = via.received.filter(|received| *received != via.host)
    {
        let port = via.rport.map(|port| format!(":{port}")).unwrap_or_default();
        parts.push(format!("received={received}{port}"));
    }
    parts.join(", ")
}

/// The contacts, without a password that a URI may hold.
fn contact_of<'a>(message: &SipMessage, written: &'a str) -> Cow<'a, str> {
    let contacts = message.contacts();
    if contacts.is_empty() {
        return Cow::Borrowed(if written.trim() == "*" { "*" } else { "(unreadable)" });
    }
    let told = contacts.iter().map(|contact| {
        let uri = contact.uri.as_ref().map_or_else(|| "(unreadable)".to_owned(), |_| uri(&contact.text));
        match contact.parameter("expires") {
            Some(seconds) => format!("<{uri}>;expires={}", value(seconds)),
            None => format!("<{uri}>"),
        }
    });
    Cow::Owned(told.take(6).collect::<Vec<_>>().join(", "))
}

fn challenge(challenge: &Challenge) -> String {
    let realm = challenge.realm.as_deref().map(|realm| format!(" realm=\"{}\"", value(realm))).unwrap_or_default();
    let stale = if challenge.stale { ", stale=true" } else { "" };
    format!("{}{realm}, algorithm={}{stale}", value(&challenge.scheme), value(algorithm(&challenge.algorithm)))
}

fn credentials(credentials: &Credentials) -> String {
    let part = |name: &str, own: Option<&str>| own.map(|own| format!("{name}=\"{}\"", value(own)));
    let mut parts: Vec<String> = Vec::new();
    parts.extend(part("username", credentials.username.as_deref()));
    parts.extend(part("realm", credentials.realm.as_deref()));
    parts.push(format!("algorithm={}", value(algorithm(&credentials.algorithm))));
    format!("Authorization {} {}", value(&credentials.scheme), parts.join(", "))
}

fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// At most `most` bytes, cut between characters.
fn clip(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let mut end = most.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}
