//! Making SIP text fit to be shown: digests, passwords and media keys are blanked, everything else stays.
//!
//! Apart from the parser, and not built on it, because it must also hold for text that no parser understands: it works
//! on lines and on words, and in doubt it blanks. Of credentials only what is known to be harmless is shown; everywhere
//! else what is known to be harmful is blanked.

use std::{borrow::Cow, ops::Range};

use memchr::{memchr, memchr_iter, memchr2, memchr2_iter, memmem};

use super::grammar::{self, Binding};

/// What stands where something was blanked.
pub const REDACTED: &str = "[redacted]";

/// SIP text, or a line of it, without its secrets. Also for what contains such text, as the answer to an AMI `Command`.
///
/// Line ends stay as they are, but a header of credentials is unfolded.
#[must_use]
pub fn text(input: &str) -> String {
    let mut out = String::with_capacity(input.len() + REDACTED.len());
    let mut rest = input;
    while !rest.is_empty() {
        let first = rest.split_at(line_length(rest)).0;
        let kind = Kind::of(first);
        let mut length = first.len();
        while let Some(next) = rest.get(length..).filter(|next| continues(next, &kind)) {
            length += line_length(next);
        }
        let (line, after) = rest.split_at(length);
        rest = after;
        let content = line.trim_end_matches(['\r', '\n']);
        kind.blank(content, &mut out);
        out.push_str(line.get(content.len()..).unwrap_or_default());
    }
    out
}

/// A start line, fit to be shown on one line.
pub(super) fn line(line: &str) -> Cow<'_, str> {
    match fragment(line) {
        Cow::Borrowed(line) => grammar::printable(line),
        Cow::Owned(line) => Cow::Owned(grammar::printable(&line).into_owned()),
    }
}

/// A whole message, fit to be shown: lines end with LF only, control characters are written out.
pub(super) fn shown(message: &str) -> String {
    let redacted = text(message).replace("\r\n", "\n");
    match grammar::printable(&redacted) {
        Cow::Borrowed(_) => redacted,
        Cow::Owned(printable) => printable,
    }
}

fn line_length(text: &str) -> usize {
    memchr(b'\n', text.as_bytes()).map_or(text.len(), |end| end + 1)
}

/// Whether the line at the beginning of `next` belongs to the one before.
fn continues(next: &str, kind: &Kind) -> bool {
    match next.as_bytes().first() {
        None | Some(b'\n') => false,
        Some(b' ' | b'\t') => true,
        Some(_) => match kind {
            Kind::Plain | Kind::MediaKey(_) => false,
            // A fold that lost its blank: what is no header belongs to the secret before it.
            Kind::Credentials(_) | Kind::Info(_) | Kind::Secret(_) => {
                let line = next.split_at(line_length(next)).0.trim_end();
                !line.is_empty() && name_of(line).is_none()
            }
        },
    }
}

/// What a line holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing in particular.
    Plain,
    /// Credentials, from there.
    Credentials(usize),
    /// What the server answers to credentials, from there.
    Info(usize),
    /// Nothing but a secret, from there.
    Secret(usize),
    /// A key of media, from there.
    MediaKey(usize),
}

impl Kind {
    fn of(line: &str) -> Self {
        let bytes = line.as_bytes();
        for colon in memchr_iter(b':', bytes) {
            let (_, word) = word_before(line, colon);
            if ends_with(word, "authorization") {
                return Self::Credentials(colon + 1);
            }
            if ends_with(word, "authentication-info") {
                return Self::Info(colon + 1);
            }
        }
        let begin = match line.get(..7) {
            // A line of a CLI's output in AMI.
            Some(prefix) if prefix.eq_ignore_ascii_case("Output:") => {
                let said = line.get(7..).unwrap_or_default();
                line.len() - said.trim_start().len()
            }
            Some(_) | None => 0,
        };
        let own = line.get(begin..).unwrap_or_default();
        for media in ["a=crypto:", "a=key-mgmt:", "a=ice-pwd:", "k="] {
            if own.get(..media.len()).is_some_and(|start| start.eq_ignore_ascii_case(media)) {
                return Self::MediaKey(begin + media.len());
            }
        }
        match name_of(own) {
            Some(name) => {
                let value = begin + memchr(b':', own.as_bytes()).unwrap_or_default() + 1;
                let said = line.get(value..).unwrap_or_default().trim();
                let digest = said.len() >= 32 && said.bytes().all(|digit| digit.is_ascii_hexdigit());
                let secret = SECRET_NAMES.iter().any(|part| find(name.as_bytes(), part).is_some());
                let answer = digest && ANSWER_NAMES.iter().any(|known| ends_with(name, known));
                if secret || answer { Self::Secret(value) } else { Self::Plain }
            }
            None => Self::Plain,
        }
    }

    fn blank(self, line: &str, out: &mut String) {
        match self {
            Self::Plain => out.push_str(&fragment(line)),
            Self::Credentials(at) => {
                let (before, value) = line.split_at(at);
                out.push_str(&fragment(before));
                credentials(&flat(value), None, &CREDENTIALS, out);
            }
            Self::Info(at) => {
                let (before, value) = line.split_at(at);
                out.push_str(&fragment(before));
                credentials(&flat(value), Some("Digest"), &INFO, out);
            }
            Self::Secret(at) => {
                let (before, value) = line.split_at(at);
                out.push_str(&fragment(before));
                if !value.trim().is_empty() {
                    out.push(' ');
                    out.push_str(REDACTED);
                }
            }
            Self::MediaKey(at) => {
                let kept = find(line.as_bytes(), b"inline:").map_or_else(|| media_kept(line, at), |key| key + 7);
                out.push_str(&fragment(line.get(..kept).unwrap_or_default()));
                out.push_str(REDACTED);
            }
        }
    }
}

/// Of `a=crypto:1 SUITE key` the tag and the suite are no secret (RFC 4568 section 9.1).
fn media_kept(line: &str, at: usize) -> usize {
    if !ends_with(line.get(..at).unwrap_or_default(), "crypto:") {
        return at;
    }
    let mut blanks = memchr2_iter(b' ', b'\t', line.as_bytes());
    let suite = blanks.nth(1);
    suite.map_or(at, |blank| blank + 1)
}

/// Headers whose name has one of these hold a secret. AMI's too.
const SECRET_NAMES: [&[u8]; 7] = [b"password", b"passwd", b"passphrase", b"secret", b"token", b"cred", b"api-key"];

/// Headers of AMI that hold a digest if it looks like one: security events and the challenge login.
const ANSWER_NAMES: [&str; 3] = ["response", "hash", "key"];

/// Words before a `=` whose value is a secret, by their end. `d-ver` is RFC 3329's, `auts` RFC 3310's.
const SECRET_KEYS: [&str; 17] = [
    "response",
    "cnonce",
    "rspauth",
    "auts",
    "d-ver",
    "authorization",
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "cred",
    "password_digest",
    "apikey",
    "api_key",
    "api-key",
];

/// What may be shown of credentials, and of what shape it must be.
const CREDENTIALS: [(&str, Shape); 10] = [
    ("username", Shape::Text),
    ("username*", Shape::Text),
    ("realm", Shape::Text),
    ("nonce", Shape::Text),
    ("uri", Shape::Text),
    ("opaque", Shape::Text),
    ("algorithm", Shape::Word),
    ("qop", Shape::Word),
    ("nc", Shape::Count),
    ("userhash", Shape::Word),
];

/// What may be shown of Authentication-Info.
const INFO: [(&str, Shape); 3] = [("nextnonce", Shape::Text), ("qop", Shape::Word), ("nc", Shape::Count)];

/// Parameters that are named though their value is blanked.
const NAMED: [&str; 6] = ["response", "cnonce", "rspauth", "auts", "password", "token"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Anything.
    Text,
    /// A word, too short for a digest.
    Word,
    /// Eight hexadecimal digits at most.
    Count,
}

impl Shape {
    /// Whether `value` is all of one quoted string or token, and of this shape.
    fn fits(self, value: &str) -> bool {
        let inside = if value.starts_with('"') {
            let (said, after) = grammar::quoted(value);
            if after != Some("") {
                return false;
            }
            Cow::Owned(said)
        } else if value.contains(|c: char| c.is_whitespace() || c == '"' || c == '\'') {
            return false;
        } else {
            Cow::Borrowed(value)
        };
        match self {
            // `"a, name="` is what an unclosed quote makes of the parameters behind it.
            Self::Text => !(inside.trim_end().ends_with('=') && inside.contains([',', ' '])),
            Self::Word => inside.len() <= 20,
            Self::Count => inside.len() <= 8 && inside.bytes().all(|digit| digit.is_ascii_hexdigit()),
        }
    }
}

/// Writes credentials without what is secret in them. `scheme` is the one that they begin in.
fn credentials<'a>(value: &'a str, mut scheme: Option<&'a str>, allowed: &[(&str, Shape)], out: &mut String) {
    let mut separator = " ";
    for item in grammar::split(value, b',', Binding::Quotes).filter(|item| !item.is_empty()) {
        let word = item.bytes().take_while(|byte| grammar::is_token(*byte)).count();
        let (first, rest) = item.split_at(word);
        let rest = rest.trim_start();
        let mut put = |piece: &str| {
            out.push_str(separator);
            out.push_str(piece);
            separator = ", ";
        };
        if let Some(value) = rest.strip_prefix('=') {
            if scheme.is_none_or(|scheme| scheme.eq_ignore_ascii_case("Digest")) {
                put(&parameter(first, value, allowed));
            }
        } else if first.eq_ignore_ascii_case("Digest") && !rest.is_empty() {
            scheme = Some(first);
            let (name, value) = rest.split_once('=').unwrap_or((rest, ""));
            put(&format!("{first} {}", parameter(name.trim(), value, allowed)));
        } else if first.eq_ignore_ascii_case("Digest") {
            scheme = Some(first);
            put(first);
        } else if scheme.is_none_or(|scheme| rest.is_empty() && !scheme.eq_ignore_ascii_case("Digest"))
            && is_scheme(first)
        {
            scheme = Some(first);
            put(&format!("{first} {REDACTED}"));
        } else {
            put(REDACTED);
        }
    }
}

/// Whether a word is a scheme's name and no secret: letters only, and few.
fn is_scheme(word: &str) -> bool {
    (1..=16).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-')
}

fn parameter(name: &str, value: &str, allowed: &[(&str, Shape)]) -> String {
    let value = value.trim();
    let known = allowed.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    match known {
        Some((_, shape)) if shape.fits(value) => format!("{name}={}", fragment(value)),
        Some((known, _)) => format!("{known}={REDACTED}"),
        None => match NAMED.iter().find(|known| known.eq_ignore_ascii_case(name)) {
            Some(known) => format!("{known}={REDACTED}"),
            None => REDACTED.to_owned(),
        },
    }
}

/// A value on one line.
fn flat(value: &str) -> Cow<'_, str> {
    if value.contains(['\r', '\n']) { Cow::Owned(value.replace(['\r', '\n'], " ")) } else { Cow::Borrowed(value) }
}

/// Text that is no header of credentials, without the secrets that give themselves away: `response=…`, `password=…`,
/// `sip:user:password@`, `inline:…`.
pub(super) fn fragment(text: &str) -> Cow<'_, str> {
    let mut cuts = keyed(text);
    cuts.extend(user_infos(text, false));
    cuts.extend(user_infos(text, true));
    cuts.extend(inline_keys(text));
    if cuts.is_empty() {
        return Cow::Borrowed(text);
    }
    cuts.sort_by_key(|cut| (cut.start, cut.end));
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for cut in cuts {
        if cut.start >= at {
            out.push_str(text.get(at..cut.start).unwrap_or_default());
            out.push_str(REDACTED);
        }
        at = at.max(cut.end);
    }
    out.push_str(text.get(at..).unwrap_or_default());
    Cow::Owned(out)
}

/// Values of [`SECRET_KEYS`], also with an escaped `=`.
fn keyed(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let mut cuts: Vec<Range<usize>> = Vec::new();
    for at in memchr2_iter(b'=', b'%', bytes) {
        if cuts.last().is_some_and(|cut| at < cut.end) {
            continue;
        }
        let value = match bytes.get(at..) {
            Some([b'=', ..]) => at + 1,
            Some([b'%', b'3', b'd' | b'D', ..]) => at + 3,
            Some(_) | None => continue,
        };
        let (word_at, word) = word_before(text, at);
        let Some(key) = SECRET_KEYS.iter().find(|key| ends_with(word, key)) else { continue };
        let configured = *key == word.to_ascii_lowercase() && matches!(*key, "password" | "secret");
        let cut =
            if configured && begins_line(bytes, word_at) { line_at(bytes, value) } else { value_at(bytes, value) };
        if !cut.is_empty() {
            cuts.push(cut);
        }
    }
    cuts
}

/// `password = …` in a configuration file is all of its line.
fn line_at(bytes: &[u8], from: usize) -> Range<usize> {
    let rest = bytes.get(from..).unwrap_or_default();
    let line = rest.get(..memchr2(b'\r', b'\n', rest).unwrap_or(rest.len())).unwrap_or_default();
    let begin = line.len() - line.trim_ascii_start().len();
    from + begin..from + line.trim_ascii_end().len().max(begin)
}

fn begins_line(bytes: &[u8], at: usize) -> bool {
    let before = bytes.get(..at).unwrap_or_default();
    matches!(before.iter().rev().find(|byte| !matches!(byte, b' ' | b'\t')), None | Some(b'\n'))
}

/// A value, quoted or not, without its quotes: as far as it may reach.
fn value_at(bytes: &[u8], from: usize) -> Range<usize> {
    let byte = |at: usize| bytes.get(at).copied();
    let mut begin = from;
    loop {
        match byte(begin) {
            Some(b' ' | b'\t' | b'\r' | b'\n') => begin += 1,
            Some(b'%') if bytes.get(begin..begin + 3) == Some(b"%20") => begin += 3,
            _ => break,
        }
    }
    let mut end = begin;
    let quote = byte(begin).filter(|byte| matches!(byte, b'"' | b'\''));
    if let Some(quote) = quote {
        begin += 1;
        end = begin;
        loop {
            match byte(end) {
                None => return begin..bytes.len(),
                Some(b'\\') => end = (end + 2).min(bytes.len()),
                Some(byte) if byte == quote => break,
                Some(_) => end += 1,
            }
        }
        // Whatever clings to the closing quote is taken too.
        let tail = run(bytes, end + 1);
        return begin..if tail > end + 1 { tail } else { end };
    }
    while matches!(byte(end), Some(b'\\' | b'"')) {
        end += 1;
    }
    let begin = end;
    begin..run(bytes, begin)
}

/// Where the word that begins at `from` ends.
fn run(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    let ends = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b',' | b';' | b'<' | b'>' | b'&');
    from + rest.iter().position(ends).unwrap_or(rest.len())
}

/// The word that ends before `at`, blanks between left out, and where it begins.
fn word_before(text: &str, at: usize) -> (usize, &str) {
    let mut before = text.get(..at).unwrap_or_default().trim_end_matches([' ', '\t', '\r', '\n']);
    while let Some(shorter) = before.strip_suffix("%20") {
        before = shorter;
    }
    let of_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let begin = before.len() - before.bytes().rev().take_while(of_word).count();
    (begin, before.get(begin..).unwrap_or_default())
}

/// The passwords of `sip:user:password@` and `scheme://user:password@`; with `escaped`, of the former in escapes.
fn user_infos(text: &str, escaped: bool) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let (colon, sign): (&[u8], &[u8]) = if escaped { (b"%3a", b"%40") } else { (b":", b"@") };
    let mut cuts = Vec::new();
    let mut done = 0;
    for at in memchr_iter(*colon.first().unwrap_or(&b':'), bytes) {
        if at < done || !bytes.get(at..at + colon.len()).is_some_and(|here| here.eq_ignore_ascii_case(colon)) {
            continue;
        }
        let slashes = !escaped && bytes.get(at + 1..at + 3) == Some(b"//");
        let (_, scheme) = word_before(text, at);
        if !slashes && !ends_with(scheme, "sip") && !ends_with(scheme, "sips") {
            continue;
        }
        let begin = at + colon.len() + if slashes { 2 } else { 0 };
        let ends = |byte: &u8| {
            byte.is_ascii_whitespace() || matches!(byte, b'<' | b'>' | b'"') || (slashes && matches!(byte, b'/' | b'?'))
        };
        let rest = bytes.get(begin..).unwrap_or_default();
        let run = rest.get(..rest.iter().position(ends).unwrap_or(rest.len())).unwrap_or_default();
        done = begin + run.len();
        let Some(user_info) = memmem::rfind(run, sign) else { continue };
        done = begin + user_info;
        let info = run.get(..user_info).unwrap_or_default();
        if let Some(user) = find(info, colon)
            && user + colon.len() < info.len()
        {
            cuts.push(begin + user + colon.len()..begin + user_info);
        }
    }
    cuts
}

/// Keys of SDES (RFC 4568 section 9.2), wherever they stand.
fn inline_keys(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let mut cuts: Vec<Range<usize>> = Vec::new();
    for at in memchr_iter(b':', bytes) {
        let known = cuts.last().is_some_and(|cut| at < cut.end);
        if !known && ends_with(word_before(text, at).1, "inline") {
            cuts.push(at + 1..run(bytes, at + 1));
        }
    }
    cuts.retain(|cut| !cut.is_empty());
    cuts
}

/// The name of the header that a line begins with, if it begins with one.
fn name_of(line: &str) -> Option<&str> {
    let (name, _) = line.split_once(':')?;
    let name = name.trim_end_matches([' ', '\t']);
    Some(name).filter(|name| !name.is_empty() && name.bytes().all(grammar::is_token))
}

/// Whether a word ends so, in any case.
fn ends_with(word: &str, end: &str) -> bool {
    let tail = word.len().checked_sub(end.len()).and_then(|at| word.get(at..));
    tail.is_some_and(|tail| tail.eq_ignore_ascii_case(end))
}

/// Where `wanted`, which is in lower case, first stands in any case.
fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let first = *wanted.first()?;
    memchr2_iter(first, first.to_ascii_uppercase(), bytes)
        .find(|at| bytes.get(*at..*at + wanted.len()).is_some_and(|here| here.eq_ignore_ascii_case(wanted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_digest_all_is_shown_but_response_and_cnonce() {
        let line = "Authorization: Digest username=\"bob\", realm=\"a, b\", nonce=\"n/1==\", uri=\"sip:h;transport=tcp\", response=\"0123\", cnonce=\"4567\", qop=auth, nc=00000001, algorithm=SHA-256, opaque=\"o\", userhash=false\r\n";
        let shown = text(line);
        assert_eq!(
            shown,
            "Authorization: Digest username=\"bob\", realm=\"a, b\", nonce=\"n/1==\", uri=\"sip:h;transport=tcp\", response=[redacted], cnonce=[redacted], qop=auth, nc=00000001, algorithm=SHA-256, opaque=\"o\", userhash=false\r\n"
        );
    }

    #[test]
    fn credentials_of_other_schemes_are_shown_by_their_scheme_only() {
        for (line, wanted) in [
            ("Authorization: Basic QWxhZGRpbg==", "Authorization: Basic [redacted]"),
            ("Proxy-Authorization: bearer a.b.c", "Proxy-Authorization: bearer [redacted]"),
            (
                "Authorization: Odd username=bob, x=1, Digest realm=r, response=2",
                "Authorization: Odd [redacted], Digest realm=r, response=[redacted]",
            ),
            (
                "authorization:Digest\r\n username=\"b\",\r\n\tresponse=\"0\"",
                "authorization: Digest username=\"b\", response=[redacted]",
            ),
            (
                "Output: Authorization: Digest nc=1, response=\"0\"",
                "Output: Authorization: Digest nc=1, response=[redacted]",
            ),
            (
                "Authentication-Info: rspauth=\"0\", nc=1, nextnonce=\"n\"",
                "Authentication-Info: rspauth=[redacted], nc=1, nextnonce=\"n\"",
            ),
        ] {
            assert_eq!(text(line), wanted);
        }
    }

    #[test]
    fn passwords_of_uris_are_blanked_wherever_they_stand() {
        for (line, wanted) in [
            ("INVITE sip:bob:pw@h SIP/2.0", "INVITE sip:bob:[redacted]@h SIP/2.0"),
            (
                "m: \"a: b@c\" <SIPS:bob:p:w@h:5061>, <sip:x@h:5060>",
                "m: \"a: b@c\" <SIPS:bob:[redacted]@h:5061>, <sip:x@h:5060>",
            ),
            (
                "Route: <sip:[::1]:5060;lr>, <sip:p:q@[::1]:5060>",
                "Route: <sip:[::1]:5060;lr>, <sip:p:[redacted]@[::1]:5060>",
            ),
            ("Alert-Info: <http://me:pw@h/a@b>", "Alert-Info: <http://me:[redacted]@h/a@b>"),
            ("Refer-To: <sip:h?To=sip%3Abob%3apw%40h>", "Refer-To: <sip:h?To=sip%3Abob%3a[redacted]%40h>"),
            ("To: <sip:bob@h:5060;a=b:c>", "To: <sip:bob@h:5060;a=b:c>"),
            ("To: <sip:bob:@h>", "To: <sip:bob:@h>"),
        ] {
            assert_eq!(text(line), wanted);
        }
    }

    #[test]
    fn keys_of_media_are_blanked() {
        let sdp = "v=0\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj|2^20\r\nA=CRYPTO:2 X key\r\nk=clear:pw\r\na=ice-pwd:abc\r\na=key-mgmt:mikey AQ\r\na=fingerprint:sha-1 4A\r\nm=audio 1\r\n";
        assert_eq!(
            text(sdp),
            "v=0\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:[redacted]\r\nA=CRYPTO:2 X [redacted]\r\nk=[redacted]\r\na=ice-pwd:[redacted]\r\na=key-mgmt:[redacted]\r\na=fingerprint:sha-1 4A\r\nm=audio 1\r\n"
        );
    }

    #[test]
    fn headers_that_are_named_for_a_secret_are_blanked() {
        for (line, wanted) in [
            ("X-Secret-Word: open sesame", "X-Secret-Word: [redacted]"),
            ("x-user-PASSWORD:\r\n  a\r\n  b\r\nTo: c", "x-user-PASSWORD: [redacted]\r\nTo: c"),
            ("Password: p403", "Password: [redacted]"),
            ("Md5Cred: 0123", "Md5Cred: [redacted]"),
            ("PasswordDigest: ", "PasswordDigest: "),
            ("Response: Success", "Response: Success"),
            ("Response: 0123456789abcdef0123456789abcdef", "Response: [redacted]"),
            ("Key: 0123456789abcdef0123456789abcdef", "Key: [redacted]"),
            ("Output: X-Token: t", "Output: X-Token: [redacted]"),
        ] {
            assert_eq!(text(line).replace("PasswordDigest:", "PasswordDigest: ").replace("  ", " "), wanted);
        }
    }

    #[test]
    fn what_gives_itself_away_is_blanked_in_any_line() {
        for (line, wanted) in [
            (" response = \"0\", nc=1", " response = \"[redacted]\", nc=1"),
            ("x: d-ver=\"0\";q=1", "x: d-ver=\"[redacted]\";q=1"),
            ("<sip:h?Authorization=Digest%20response%3D%220%22>", "<sip:h?Authorization=[redacted]>"),
            ("cnonce%3D%220123%22&a=1", "cnonce%3D[redacted]&a=1"),
            ("Contact: <sip:h;access_token=abc>;q=1", "Contact: <sip:h;access_token=[redacted]>;q=1"),
            ("password = two words\nusername = bob", "password = [redacted]\nusername = bob"),
            ("x password=\"cut", "x password=\"[redacted]"),
            ("branch=z9hG4bKresponse;tag=x", "branch=z9hG4bKresponse;tag=x"),
        ] {
            assert_eq!(text(line), wanted);
        }
    }

    #[test]
    fn what_holds_no_secret_stays_as_it_is() {
        let line = "Via: SIP/2.0/UDP h:5060;branch=z9hG4bK0123456789abcdef0123456789abcdef;rport\r\n\r\nWWW-Authenticate: Digest realm=\"r\", nonce=\"n\", opaque=\"o\", qop=\"auth\"\n";
        assert_eq!(text(line), line);
        assert!(matches!(fragment(line), Cow::Borrowed(_)));
        assert_eq!(text(""), "");
    }

    #[test]
    fn text_that_is_all_signs_takes_no_longer_than_its_length() {
        for sign in [
            "=",
            ":",
            "%3d",
            "sip:",
            "sip:a@",
            "response=",
            "\"",
            "a=b,",
            "%20",
            " ",
            "inline:",
            "Digest ",
            "Authorization:",
        ] {
            let long = format!("Authorization: Digest {}", sign.repeat(200_000 / sign.len()));
            let _ = (text(&long), text(&long.replace("Authorization: ", "To: ")), text(&sign.repeat(50_000)));
        }
    }
}
