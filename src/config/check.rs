//! What single values must look like, whatever stands beside them.
//!
//! What is wrong is said without the value wherever the value may be a secret, or may have one in it.

use std::net::SocketAddr;

use jiff::tz::TimeZone;
use reqwest::Url;
use tracing_subscriber::EnvFilter;

use crate::{
    decision::{MessageType, Window, WindowError},
    gateway::{AddressRange, Unguarded},
    ids::{CampaignId, DialerId, EndpointName, NameError, PbxId, RegistrationName, TrunkId},
    wire::ami::Classes,
};

/// What is wrong with a single value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Nothing in it.
    #[error("must not be empty")]
    Empty,
    /// Longer than anything sensible.
    #[error("is longer than {LONGEST_TEXT} bytes")]
    TooLong,
    /// It would break an AMI header or a log line.
    #[error("has a line break or another control character in it")]
    Control,
    /// No such name.
    #[error("{0}")]
    Name(NameError),
    /// No such window or zone.
    #[error("{0}")]
    Window(WindowError),
    /// Not `http(s)://host`.
    #[error("is no URL that begins with http:// or https:// and a host")]
    HttpUrl,
    /// Not `sqlite:` or `postgres://`.
    #[error("is no store: write sqlite:FILE")]
    StoreUrl,
    /// Not an IP address and a port.
    #[error("{0:?} is no IP address with a port: write it like \"127.0.0.1:8480\" or \"[::1]:8480\"")]
    Socket(String),
    /// Not `host` or `host:port`.
    #[error("{0:?} is no host with a port: write it like \"10.0.0.5:5038\", \"pbx.example\" or \"[::1]:5038\"")]
    HostPort(String),
    /// Not 64 hex digits.
    #[error("is no SHA-256: it has 64 hex digits; `trunkwarden token new` prints one")]
    Sha256,
    /// Not `whsec_` and base64.
    #[error("is no signing secret: write whsec_ and 24 to 64 bytes in base64")]
    Whsec,
    /// Not a filter of the log.
    #[error(
        "{0:?} is no log level: use error, warn, info, debug, trace or off, or a filter like \"info,trunkwarden::wire=debug\""
    )]
    LogFilter(String),
    /// None of the words.
    #[error("{given:?} is not known; use {}", or(words))]
    Word {
        /// As given.
        given: String,
        /// What there is.
        words: Vec<&'static str>,
        /// Which of them was meant, perhaps.
        nearest: Option<String>,
    },
    /// A duration that cannot be read.
    #[error(
        "{given:?} is no duration: write a number and its unit, like \"500ms\", \"30s\", \"5m\", \"4h\" or \"400d\""
    )]
    Span {
        /// As given.
        given: String,
    },
    /// A duration that is too short.
    #[error("{given:?} is too short: at least {at_least_ms} ms")]
    ShortSpan {
        /// As given.
        given: String,
        /// How long it must be.
        at_least_ms: u64,
    },
    /// A duration beyond all use.
    #[error("{given:?} is too long: at most 100 years")]
    LongSpan {
        /// As given.
        given: String,
    },
    /// A whole number out of its bounds.
    #[error("must be a whole number from {at_least} to {}", u32::MAX)]
    Count {
        /// The least.
        at_least: u32,
    },
    /// A number that is not above zero.
    #[error("must be a number above 0")]
    Positive,
    /// A number that is no share.
    #[error("must be a number from 0 to 1")]
    Share,
    /// Neither an address nor a range of them.
    #[error("{0:?} is no address and no range of addresses: write it like \"192.0.2.7\" or \"10.0.0.0/8\"")]
    Range(String),
    /// Not the name of an AMI action.
    #[error("{0:?} is no name of an AMI action: letters and digits only, like \"Originate\"")]
    ActionName(String),
    /// Blanks around a name are not sent on the wire, so nobody could log in by it.
    #[error("has blanks around it, which nobody can send")]
    Blanks,
    /// No context of a dialplan.
    #[error("{0:?} is no context: neither blanks nor any of @,/&[]|\"")]
    Context(String),
    /// No extension, and no pattern of extensions.
    #[error("{given:?} is no extension or pattern: {why}")]
    Exten {
        /// As given.
        given: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl ValueError {
    /// The known word that was meant, perhaps.
    #[must_use]
    pub fn nearest(&self) -> Option<&str> {
        if let Self::Word { nearest, .. } = self { nearest.as_deref() } else { None }
    }
}

/// Longer than any name, address, path or secret needs to be, in bytes.
const LONGEST_TEXT: usize = 4096;

/// `a, b or c`.
fn or(words: &[&str]) -> String {
    match words {
        [] => "nothing".to_owned(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// The one of `known` that `given` was meant to be, if one is near enough: a third of its letters may be wrong.
pub(super) fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let given = given.to_lowercase();
    known
        .map(|word| (strsim::damerau_levenshtein(&given, &word.to_lowercase()), word))
        .filter(|&(distance, word)| distance <= 1.max(word.chars().count().min(given.chars().count()) / 3))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, word)| word)
}

pub(super) fn word(given: &str, words: &'static [&'static str]) -> Result<(), ValueError> {
    if words.contains(&given) {
        return Ok(());
    }
    let nearest = nearest(given, words.iter().copied()).map(ToOwned::to_owned);
    Err(ValueError::Word { given: given.to_owned(), words: words.to_vec(), nearest })
}

pub(super) fn text(text: &str) -> Result<(), ValueError> {
    if text.is_empty() {
        Err(ValueError::Empty)
    } else if text.len() > LONGEST_TEXT {
        Err(ValueError::TooLong)
    } else if text.chars().any(char::is_control) {
        Err(ValueError::Control)
    } else {
        Ok(())
    }
}

pub(super) fn secret(secret: &str) -> Result<(), ValueError> {
    text(secret)
}

fn name<T>(made: Result<T, NameError>) -> Result<(), ValueError> {
    made.map(drop).map_err(ValueError::Name)
}

pub(super) fn pbx_id(text: &str) -> Result<(), ValueError> {
    name(PbxId::try_from(text))
}

pub(super) fn dialer_id(text: &str) -> Result<(), ValueError> {
    name(DialerId::try_from(text))
}

pub(super) fn campaign_id(text: &str) -> Result<(), ValueError> {
    name(CampaignId::try_from(text))
}

pub(super) fn trunk_id(text: &str) -> Result<(), ValueError> {
    name(TrunkId::try_from(text))
}

pub(super) fn trunk_name(text: &str) -> Result<(), ValueError> {
    name(PbxId::try_from("pbx").and_then(|pbx| TrunkId::new(&pbx, text)))
}

pub(super) fn registration(text: &str) -> Result<(), ValueError> {
    name(RegistrationName::try_from(text))
}

pub(super) fn endpoint(text: &str) -> Result<(), ValueError> {
    name(EndpointName::try_from(text))
}

pub(super) fn http_url(given: &str) -> Result<(), ValueError> {
    text(given)?;
    match Url::parse(given) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(()),
        Ok(_) | Err(_) => Err(ValueError::HttpUrl),
    }
}

pub(super) fn store_url(given: &str) -> Result<(), ValueError> {
    text(given)?;
    let known = ["sqlite:", "postgres://", "postgresql://"];
    let rest = known.iter().find_map(|scheme| given.strip_prefix(scheme));
    if rest.is_some_and(|rest| !rest.trim_start_matches('/').is_empty()) { Ok(()) } else { Err(ValueError::StoreUrl) }
}

pub(super) fn socket(given: &str) -> Result<(), ValueError> {
    given.parse::<SocketAddr>().map(drop).map_err(|_| ValueError::Socket(given.to_owned()))
}

/// The host, without the brackets of an IPv6 address, and the port, if there is one.
pub(super) fn split_host_port(given: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = if let Some(bracketed) = given.strip_prefix('[') {
        let (host, rest) = bracketed.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
    } else {
        match given.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (given, None),
        }
    };
    let in_a_host = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
    if host.is_empty() || !host.chars().all(in_a_host) {
        return None;
    }
    match port {
        None => Some((host, None)),
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().ok().filter(|&port| port > 0).map(|port| (host, Some(port)))
        }
        Some(_) => None,
    }
}

pub(super) fn host_port(given: &str) -> Result<(), ValueError> {
    split_host_port(given).map(drop).ok_or_else(|| ValueError::HostPort(given.to_owned()))
}

pub(super) fn sha256(given: &str) -> Result<(), ValueError> {
    hash(given).map(drop).ok_or(ValueError::Sha256)
}

/// The 32 bytes that 64 hex digits write.
pub(super) fn hash(given: &str) -> Option<[u8; 32]> {
    let digits = given.as_bytes();
    let mut bytes = [0; 32];
    if digits.len() != 2 * bytes.len() {
        return None;
    }
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = value(*high)? << 4 | value(*low)?;
    }
    Some(bytes)
}

/// The key's length is the specification's (Standard Webhooks, "Signature scheme": 192 to 512 bits).
pub(super) fn whsec(given: &str) -> Result<(), ValueError> {
    let key = given.strip_prefix("whsec_").ok_or(ValueError::Whsec)?;
    standardwebhooks::Webhook::new(given).map_err(|_| ValueError::Whsec)?;
    // Base64 holds three bytes in four characters, less its padding.
    let length = key.trim_end_matches('=').len() * 3 / 4;
    if (24..=64).contains(&length) { Ok(()) } else { Err(ValueError::Whsec) }
}

pub(super) fn window(given: &str) -> Result<(), ValueError> {
    Window::parse(given, "UTC").map(drop).map_err(ValueError::Window)
}

pub(super) fn zone(given: &str) -> Result<(), ValueError> {
    match TimeZone::get(given) {
        Ok(_) => Ok(()),
        Err(_) => Err(ValueError::Window(WindowError::Zone(given.to_owned()))),
    }
}

/// A lone word must be a level: the filter's own grammar would take `inof` for the name of a module, and log nothing.
pub(super) fn log_filter(given: &str) -> Result<(), ValueError> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let error = || ValueError::LogFilter(given.to_owned());
    let unknown = |part: &str| !part.contains(['=', ':', '[']) && !LEVELS.contains(&part.to_lowercase().as_str());
    if given.split(',').any(|part| unknown(part.trim())) {
        return Err(error());
    }
    EnvFilter::builder().parse(given).map(drop).map_err(|_| error())
}

/// What people may be told of. The campaigns' messages are their dialers'.
pub(super) const NOTIFY_TYPES: [MessageType; 3] =
    [MessageType::TrunkHealth, MessageType::TrunkDiagnosis, MessageType::Incident];

pub(super) fn notify_type(given: &str) -> Result<(), ValueError> {
    const WORDS: &[&str] = &[NOTIFY_TYPES[0].as_str(), NOTIFY_TYPES[1].as_str(), NOTIFY_TYPES[2].as_str()];
    word(given, WORDS)
}

pub(super) fn range(given: &str) -> Result<(), ValueError> {
    given.parse::<AddressRange>().map(drop).map_err(|_| ValueError::Range(given.to_owned()))
}

pub(super) fn class(given: &str) -> Result<(), ValueError> {
    if Classes::named(given).is_some() {
        return Ok(());
    }
    let words: Vec<&'static str> = Classes::NAMES.into_iter().chain(["all"]).collect();
    let nearest = nearest(given, words.iter().copied()).map(ToOwned::to_owned);
    Err(ValueError::Word { given: given.to_owned(), words, nearest })
}

pub(super) fn unguarded(given: &str) -> Result<(), ValueError> {
    const WORDS: &[&str] = &[
        Unguarded::ALL[0].as_str(),
        Unguarded::ALL[1].as_str(),
        Unguarded::ALL[2].as_str(),
        Unguarded::ALL[3].as_str(),
        Unguarded::ALL[4].as_str(),
    ];
    word(given, WORDS)
}

pub(super) fn action(given: &str) -> Result<(), ValueError> {
    text(given)?;
    let fits = given.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if fits { Ok(()) } else { Err(ValueError::ActionName(given.to_owned())) }
}

pub(super) fn ami_user(given: &str) -> Result<(), ValueError> {
    text(given)?;
    if given.trim() == given { Ok(()) } else { Err(ValueError::Blanks) }
}

pub(super) fn context(given: &str) -> Result<(), ValueError> {
    text(given)?;
    // `pbx.c`: a context has 79 bytes at most.
    let fits = given.len() < 80 && !given.contains(['@', ',', '/', '&', '[', ']', '|', '"', ' ']);
    if fits { Ok(()) } else { Err(ValueError::Context(given.to_owned())) }
}

/// An extension, or a pattern: `_`, then digits, `X`, `Z`, `N`, `[...]`, and at its end `.` or `!`
/// (`main/pbx.c`, the matching of extensions).
pub(super) fn exten(given: &str) -> Result<(), ValueError> {
    text(given)?;
    let wrong = |why| Err(ValueError::Exten { given: given.to_owned(), why });
    if given.len() >= 80 {
        return wrong("it has 79 bytes at most");
    }
    if given.contains(['@', ',', '/', '&', '|', '"', ' ']) {
        return wrong("neither blanks nor any of @,/&|\" can be in it");
    }
    let Some(pattern) = given.strip_prefix('_') else { return Ok(()) };
    if pattern.is_empty() {
        return wrong("nothing follows the _");
    }
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        match c {
            '[' => match rest.as_str().split_once(']') {
                Some(("", _)) => return wrong("[] matches nothing"),
                Some((_, after)) => rest = after.chars(),
                None => return wrong("a [ is never closed"),
            },
            ']' => return wrong("a ] was never opened"),
            '.' | '!' if !rest.as_str().is_empty() => return wrong("nothing can follow a . or !"),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_may_come_with_or_without_its_port() {
        assert_eq!(split_host_port("pbx.example"), Some(("pbx.example", None)));
        assert_eq!(split_host_port("10.0.0.5:5038"), Some(("10.0.0.5", Some(5038))));
        assert_eq!(split_host_port("[::1]"), Some(("::1", None)));
        assert_eq!(split_host_port("[::1]:5038"), Some(("::1", Some(5038))));
        for wrong in
            ["", ":5038", "::1", "host:", "host:0", "host:65536", "host:+1", "[::1", "[x]:1", "[::1]5038", "a b"]
        {
            assert_eq!(split_host_port(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_lone_word_is_a_level_not_a_module() {
        assert_eq!(log_filter("info"), Ok(()));
        assert_eq!(log_filter("WARN,trunkwarden::wire=debug"), Ok(()));
        assert!(log_filter("inof").is_err());
        assert!(log_filter("info,wire=loud").is_err());
    }

    #[test]
    fn a_signing_secret_is_base64_of_the_right_length() {
        assert_eq!(whsec("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), Ok(()));
        for wrong in
            ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_short", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa!!"]
        {
            assert_eq!(whsec(wrong), Err(ValueError::Whsec), "{wrong}");
        }
    }

    #[test]
    fn a_hash_is_64_hex_digits() {
        assert_eq!(hash(&"aF".repeat(32)), Some([0xaf; 32]));
        assert_eq!(hash(&"a".repeat(63)), None);
        assert_eq!(hash(&"g".repeat(64)), None);
        assert_eq!(hash(&"é".repeat(32)), None);
    }

    #[test]
    fn the_nearest_word_is_near() {
        let known = ["address", "username", "secret"];
        assert_eq!(nearest("adress", known.into_iter()), Some("address"));
        assert_eq!(nearest("sceret", known.into_iter()), Some("secret"));
        assert_eq!(nearest("port", known.into_iter()), None);
    }

    #[test]
    fn a_pattern_of_extensions_is_one_asterisk_takes() {
        for right in ["_9X.", "_0ZXXXX.", "_[2-9]N!", "100", "s", "_X", "_+91XXXXXXXXXX", "_[a-z]-X"] {
            assert_eq!(exten(right), Ok(()), "{right}");
        }
        for wrong in ["", "_", "_[12", "_]", "_[]X", "_9.X", "_!9", "_9X./100", "100@a", "1,2", "1 2"] {
            assert!(exten(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_class_that_is_none_names_the_nearest() {
        assert_eq!(class("originate"), Ok(()));
        assert_eq!(class("all"), Ok(()));
        assert_eq!(class("orignate").unwrap_err().nearest(), Some("originate"));
    }
}
