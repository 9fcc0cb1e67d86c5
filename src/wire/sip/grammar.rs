//! The pieces that several headers share: lists, quoted strings, parameters, escapes (RFC 3261 section 25).
//!
//! Apart from the headers because each of them is read from hostile text: all of it is total, linear in its input, and
//! takes an unclosed quote or bracket to run to the end.

use std::borrow::Cow;

/// What keeps a separator from separating.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binding {
    /// Quotes.
    Quotes,
    /// Quotes and angle brackets.
    QuotesAndAngles,
}

/// The parts of `text` between separators, trimmed; empty ones too.
pub(super) fn split(text: &str, separator: u8, binding: Binding) -> Split<'_> {
    Split { rest: Some(text), separator, binding }
}

/// See [`split`].
#[derive(Debug, Clone)]
pub(super) struct Split<'a> {
    rest: Option<&'a str>,
    separator: u8,
    binding: Binding,
}

impl<'a> Iterator for Split<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.rest.take()?;
        let Some(at) = find(rest, self.separator, self.binding) else { return Some(rest.trim()) };
        let (part, tail) = rest.split_at(at);
        self.rest = tail.get(1..);
        Some(part.trim())
    }
}

/// Where `wanted`, an ASCII byte, first stands free.
pub(super) fn find(text: &str, wanted: u8, binding: Binding) -> Option<usize> {
    let (mut quoted, mut escaped, mut angle) = (false, false, false);
    for (at, byte) in text.bytes().enumerate() {
        if quoted {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => quoted = false,
                _ => {}
            }
        } else if byte == wanted && !angle {
            return Some(at);
        } else if byte == b'"' {
            quoted = true;
        } else if binding == Binding::QuotesAndAngles {
            match byte {
                b'<' => angle = true,
                b'>' => angle = false,
                _ => {}
            }
        }
    }
    None
}

/// A quoted string at the start of `text`, which begins with its quote: what it says, and what comes after it. Without a
/// closing quote it runs to the end, and nothing (`None`) comes after it.
pub(super) fn quoted(text: &str) -> (String, Option<&str>) {
    let mut said = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => said.extend(characters.next().map(|(_, escaped)| escaped)),
            '"' => return (said, text.get(at + 1..)),
            _ => said.push(character),
        }
    }
    (said, None)
}

/// A value that may be quoted, without its quotes.
pub(super) fn unquote(text: &str) -> String {
    let text = text.trim();
    if text.starts_with('"') { quoted(text).0 } else { text.to_owned() }
}

/// `;name=value;name…`, names in lower case. A quoted value is unquoted.
pub(super) fn parameters(text: &str) -> Vec<(String, Option<String>)> {
    let named = split(text, b';', Binding::Quotes).filter(|part| !part.is_empty());
    named
        .map(|part| match part.split_once('=') {
            Some((name, value)) => (name.trim().to_ascii_lowercase(), Some(unquote(value))),
            None => (part.to_ascii_lowercase(), None),
        })
        .collect()
}

/// `%41` is `A` (RFC 3261 section 19.1.2). What is no escape stays; what is no UTF-8 afterwards is replaced.
pub(super) fn unescape(text: &str) -> Cow<'_, str> {
    if memchr::memchr(b'%', text.as_bytes()).is_none() {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let pair = tail.get(..2).filter(|_| *first == b'%').and_then(|pair| std::str::from_utf8(pair).ok());
        let escaped = pair
            .filter(|pair| pair.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|pair| u8::from_str_radix(pair, 16).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`; the host in lower case and without brackets. `None` if it is none of these.
pub(super) fn host_port(text: &str) -> Option<(String, Option<u16>)> {
    let text = text.trim();
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            let after = after.trim();
            let port = if after.is_empty() { None } else { Some(after.strip_prefix(':')?) };
            (host, port)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host.trim_end(), Some(port)),
            None => (text, None),
        },
    };
    let strange = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '<' | '>' | '"' | '@' | ',' | '[' | ']');
    if host.is_empty() || host.contains(strange) {
        return None;
    }
    let port = match port.map(str::trim) {
        None => None,
        Some(port) => Some(digits(port)?),
    };
    Some((host.to_ascii_lowercase(), port))
}

/// A number in decimal digits only, which may be too large.
pub(super) fn digits<N: std::str::FromStr>(text: &str) -> Option<N> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Whether `byte` may stand in a token, such as a method or a header's name.
pub(super) const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~')
}

/// A copy whose control characters cannot steer a terminal: they are written out. Tabs and line ends stay.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if steers(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}
