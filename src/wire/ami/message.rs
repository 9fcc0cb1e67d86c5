//! One AMI message: its headers, in order, and the rule that what is secret in it cannot be printed.
//!
//! Separate from the codec because this is where redaction lives: Asterisk sends trunk passwords in clear to any user
//! with `write=reporting` (`AuthDetail`), digests in security events, and whole REGISTERs in `Command` output. A
//! [`Message`] therefore shows such values only through accessors named for it ([`Header::secret`],
//! [`Message::expose_output`], [`Message::expose_wire`]); `Debug`, `Display` and `Serialize` print `[redacted]`.
//!
//! Assumes nothing about encoding: values are bytes, and are read as UTF-8 with replacement characters. Header names
//! match without regard to case, headers may repeat, and a line without a colon is kept, as a header without a name.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use jiff::Timestamp;
use memchr::memchr;
use secrecy::SecretString;
use serde::ser::{Serialize, SerializeSeq as _, Serializer};

use super::codec::without_trailing_cr;

/// What is printed in place of a secret.
pub const REDACTED: &str = "[redacted]";

/// One message: a cheap slice of the receive buffer, with borrowed access to its headers.
///
/// A clone shares the bytes. A message that is kept should be [compacted](Message::compact): a slice holds on to the whole
/// buffer it was read into.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Lines, each with its LF (the last may lack it), without the blank line.
    lines: Bytes,
}

impl Message {
    /// A message from its lines, the closing blank line left out.
    pub(super) fn from_lines(lines: Bytes) -> Self {
        Self { lines }
    }

    /// A message from text as Asterisk would send it: for tests, simulators and replays. Blank lines are ignored.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        Self { lines: Bytes::copy_from_slice(text.as_bytes()) }
    }

    /// The same message in memory of its own, so that keeping it does not keep its neighbours.
    #[must_use]
    pub fn compact(&self) -> Self {
        Self { lines: Bytes::copy_from_slice(&self.lines) }
    }

    /// The same message with [`REDACTED`] wherever it says `secret`, if that is not empty.
    #[must_use]
    pub(super) fn without(self, secret: &str) -> Self {
        let found = |lines: &[u8]| memchr::memmem::find(lines, secret.as_bytes());
        if secret.is_empty() || found(&self.lines).is_none() {
            return self;
        }
        let mut lines = Vec::with_capacity(self.lines.len());
        let mut rest: &[u8] = &self.lines;
        while let Some(at) = found(rest) {
            lines.extend_from_slice(&rest[..at]);
            lines.extend_from_slice(REDACTED.as_bytes());
            rest = &rest[at + secret.len()..];
        }
        lines.extend_from_slice(rest);
        Self { lines: lines.into() }
    }

    /// Bytes on the wire, the closing blank line left out.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        self.lines.len()
    }

    /// The lines as they came, **secrets included**: for a proxy that hands them on. Never log this.
    #[must_use]
    pub fn expose_wire(&self) -> &[u8] {
        &self.lines
    }

    /// All headers in the order they came.
    #[must_use]
    pub fn headers(&self) -> Headers<'_> {
        Headers { rest: &self.lines, context: Context::of(&self.lines) }
    }

    /// The first header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<Header<'_>> {
        self.headers().find(|header| header.is(name))
    }

    /// The first value of that name, [`REDACTED`] if it is secret.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        self.header(name).map(|header| header.value())
    }

    /// The first value of that name, unless it is missing or empty: Asterisk writes unset options as empty values.
    #[must_use]
    pub fn get_filled(&self, name: &str) -> Option<Cow<'_, str>> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// Every value of a repeated header, in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Cow<'a, str>> + 'a {
        self.headers().filter(move |header| header.is(name)).map(|header| header.value())
    }

    /// The first value of that name, secret or not, as a secret.
    #[must_use]
    pub fn secret(&self, name: &str) -> Option<SecretString> {
        self.header(name).map(|header| header.secret())
    }

    /// The event's name, if this is an event: the message's first header is `Event`.
    #[must_use]
    pub fn event(&self) -> Option<Cow<'_, str>> {
        self.first("Event")
    }

    /// Whether this is the event of that name. Asterisk's names are compared as they are.
    #[must_use]
    pub fn is_event(&self, name: &str) -> bool {
        self.headers().next().is_some_and(|first| first.is("Event") && first.value == name.as_bytes())
    }

    /// The response's word (`Success`, `Error`, `Goodbye`), if this is a response: the first header is `Response`.
    #[must_use]
    pub fn response(&self) -> Option<Cow<'_, str>> {
        self.first("Response")
    }

    /// Whether this is a `Response: Error`.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.response().is_some_and(|word| word.eq_ignore_ascii_case("Error"))
    }

    /// The id of the action this answers, or that its event names.
    #[must_use]
    pub fn action_id(&self) -> Option<Cow<'_, str>> {
        self.get("ActionID")
    }

    /// When Asterisk says it happened: `Timestamp: seconds.microseconds`, there with `timestampevents=yes`.
    #[must_use]
    pub fn timestamp(&self) -> Option<Timestamp> {
        let value = self.get("Timestamp")?;
        let (seconds, fraction) = value.trim().split_once('.').unwrap_or((value.trim(), "0"));
        let micros: i32 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
        Timestamp::new(seconds.parse().ok()?, micros.checked_mul(1000)?).ok()
    }

    /// The printed lines of a `Command` response, those with secrets replaced.
    pub fn output(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.get_all("Output")
    }

    /// The printed lines of a `Command` response as they are, joined by LF: SIP history contains digests.
    #[must_use]
    pub fn expose_output(&self) -> SecretString {
        let mut text = String::new();
        for header in self.headers().filter(|header| header.is("Output")) {
            text.push_str(&String::from_utf8_lossy(header.value));
            text.push('\n');
        }
        text.into()
    }

    fn first(&self, name: &str) -> Option<Cow<'_, str>> {
        self.headers().next().filter(|first| first.is(name)).map(|first| first.value())
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.headers()).finish()
    }
}

impl fmt::Display for Message {
    /// The headers as lines, secrets replaced.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for header in self.headers() {
            if header.name.is_empty() {
                writeln!(f, "{}", header.value())?;
            } else {
                writeln!(f, "{}: {}", header.name(), header.value())?;
            }
        }
        Ok(())
    }
}

impl Serialize for Message {
    /// A list of `[name, value]` pairs, since names repeat and order matters; secrets replaced.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut pairs = serializer.serialize_seq(None)?;
        for header in self.headers() {
            pairs.serialize_element(&(header.name(), header.value()))?;
        }
        pairs.end()
    }
}

/// The headers of a message, borrowed, in order. See [`Message::headers`].
#[derive(Clone)]
pub struct Headers<'a> {
    rest: &'a [u8],
    context: Context,
}

impl fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

/// What reads every byte of every message is inlined where it is used: that is worth a third of its speed
/// (`benches/ami_codec.rs`).
impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<Header<'a>> {
        loop {
            if self.rest.is_empty() {
                return None;
            }
            let (end, colon) = split_line(self.rest);
            let line = without_trailing_cr(&self.rest[..end]);
            self.rest = self.rest.get(end + 1..).unwrap_or_default();
            if line.is_empty() {
                continue;
            }
            let header = Header::parse(line, colon, self.context);
            if self.context == Context::VarSet && header.is("Variable") {
                self.context = if says_a_secret(header.value) { Context::SecretVariable } else { Context::Plain };
            }
            return Some(header);
        }
    }
}

/// Where the first line ends (its LF, or the end of the bytes), and its first colon.
///
/// Both in one pass, eight bytes at a time: header lines are so short that two calls of `memchr` cost more than they look at.
#[inline(always)]
fn split_line(bytes: &[u8]) -> (usize, Option<usize>) {
    const LOW: u64 = 0x0101_0101_0101_0101;
    // The lowest set bit is in the first byte that equals `byte`; higher ones may be wrong and are not looked at.
    let equals = |word: u64, byte: u8| {
        let differs = word ^ (LOW * u64::from(byte));
        differs.wrapping_sub(LOW) & !differs & (LOW << 7)
    };
    let first = |found: u64| (found.trailing_zeros() / 8) as usize;
    let mut colon = None;
    let mut at = 0;
    let (words, _) = bytes.as_chunks::<8>();
    for word in words {
        let word = u64::from_le_bytes(*word);
        let ends = equals(word, b'\n');
        if colon.is_none() {
            let colons = equals(word, b':');
            if colons != 0 && (ends == 0 || first(colons) < first(ends)) {
                colon = Some(at + first(colons));
            }
        }
        if ends != 0 {
            return (at + first(ends), colon);
        }
        at += 8;
        if at >= 128 {
            break; // A long value: from here on memchr is quicker.
        }
    }
    let end = memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |found| at + found);
    (end, colon.or_else(|| memchr(b':', &bytes[at..end]).map(|found| at + found)))
}

/// One header, borrowed from its message.
#[derive(Clone, Copy)]
pub struct Header<'a> {
    name: &'a [u8],
    value: &'a [u8],
    context: Context,
}

impl<'a> Header<'a> {
    /// One blank after the colon belongs to the syntax; further ones are part of the value, as `Output` needs them.
    #[inline(always)]
    fn parse(line: &'a [u8], colon: Option<usize>, context: Context) -> Self {
        match colon {
            Some(colon) => {
                let value = &line[colon + 1..];
                Self { name: &line[..colon], value: value.strip_prefix(b" ").unwrap_or(value), context }
            }
            None => Self { name: &[], value: line, context },
        }
    }

    /// The name as written; empty for a line without a colon.
    #[must_use]
    pub fn name(&self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.name)
    }

    /// The name's bytes.
    #[must_use]
    #[inline]
    pub fn name_bytes(&self) -> &'a [u8] {
        self.name
    }

    /// Whether the header has this name, whatever the case.
    #[must_use]
    #[inline]
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// The value, or [`REDACTED`] if it is secret. Bytes that are not UTF-8 become replacement characters.
    #[must_use]
    pub fn value(&self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.value_bytes())
    }

    /// The value's bytes, or [`REDACTED`] if it is secret.
    #[must_use]
    #[inline]
    pub fn value_bytes(&self) -> &'a [u8] {
        if self.is_secret() { REDACTED.as_bytes() } else { self.value }
    }

    /// The value as a secret, whether it is one or not.
    #[must_use]
    pub fn secret(&self) -> SecretString {
        String::from_utf8_lossy(self.value).into_owned().into()
    }

    /// Whether the value is a secret by its name, its message, or what it says. An empty value is none.
    #[must_use]
    #[inline]
    pub fn is_secret(&self) -> bool {
        if self.value.is_empty() {
            return false;
        }
        match self.context {
            Context::Plain => {}
            Context::Auth => return !AUTH_PUBLIC.iter().any(|name| self.is(name)),
            Context::Security => {
                if SECURITY_SECRET.iter().any(|name| self.is(name)) {
                    return true;
                }
            }
            Context::AstDb => {
                if self.is("Key") {
                    return false;
                }
            }
            Context::VarSet | Context::SecretVariable => {
                if self.is("Value") {
                    return true;
                }
            }
        }
        match telling_name(self.name) {
            Telling::Nothing => false,
            Telling::Secret => true,
            Telling::FreeText => says_a_secret(self.value),
        }
    }
}

impl fmt::Debug for Header<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.name(), self.value())
    }
}

/// What the message is, as far as it decides which of its headers are secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Context {
    Plain,
    /// `AuthDetail`, `AuthList`: every field of an auth object (`res/res_pjsip/config_auth.c`).
    Auth,
    /// Security events that carry a digest (`main/security_events.c`).
    Security,
    /// `DBGetResponse`: its `Key` is the name of an entry.
    AstDb,
    /// `VarSet` before its variable's name was seen: its value is hidden, should it ever come first.
    VarSet,
    /// `VarSet` of a variable whose name says that its value is secret.
    SecretVariable,
}

/// What of an auth object may be shown: it is listed here, so that a field added by a later Asterisk is hidden at first.
const AUTH_PUBLIC: [&str; 14] = [
    "Event",
    "ActionID",
    "Privilege",
    "Timestamp",
    "SystemName",
    "ObjectType",
    "ObjectName",
    "Username",
    "Realm",
    "AuthType",
    "SupportedAlgorithmsUac",
    "SupportedAlgorithmsUas",
    "NonceLifetime",
    "EndpointName",
];

/// Digests in `ChallengeResponseFailed` and `InvalidPassword`: a password can be guessed from them offline.
const SECURITY_SECRET: [&str; 4] = ["Response", "ExpectedResponse", "ReceivedHash", "ReceivedChallenge"];

impl Context {
    #[inline]
    fn of(lines: &[u8]) -> Self {
        // Events only, and of those few: this runs for every message.
        let Some(rest) = lines.get(..7).filter(|start| start.eq_ignore_ascii_case(b"event: ")).map(|_| &lines[7..])
        else {
            return Self::of_unusual(lines);
        };
        match rest.first() {
            Some(b'A') if is_line(rest, b"AuthDetail") || is_line(rest, b"AuthList") => Self::Auth,
            Some(b'C') if is_line(rest, b"ChallengeResponseFailed") => Self::Security,
            Some(b'I') if is_line(rest, b"InvalidPassword") => Self::Security,
            Some(b'D') if is_line(rest, b"DBGetResponse") || is_line(rest, b"DBGetTreeResponse") => Self::AstDb,
            Some(b'V') if is_line(rest, b"VarSet") => Self::VarSet,
            Some(_) | None => Self::Plain,
        }
    }

    /// The same for a message whose first line is not `Event: …` to the letter.
    fn of_unusual(lines: &[u8]) -> Self {
        // A response is no event, and `Command` output may have very many lines.
        if lines.get(..9).is_some_and(|start| start.eq_ignore_ascii_case(b"response:")) {
            return Self::Plain;
        }
        let event = Headers { rest: lines, context: Self::Plain }.find(|header| header.is("Event"));
        match event.map(|header| header.value.trim_ascii()) {
            Some(b"AuthDetail" | b"AuthList") => Self::Auth,
            Some(b"ChallengeResponseFailed" | b"InvalidPassword") => Self::Security,
            Some(_) | None => Self::Plain,
        }
    }
}

fn is_line(lines: &[u8], word: &[u8]) -> bool {
    lines.strip_prefix(word).is_some_and(|rest| matches!(rest.first(), None | Some(b'\r' | b'\n')))
}

/// Names whose value is secret in whatever message: what AMI logins, auth objects and SIP carry.
#[inline]
pub(super) fn is_secret_name(name: &[u8]) -> bool {
    matches!(telling_name(name), Telling::Secret)
}

/// What a header's name says about its value, in whatever message.
enum Telling {
    /// The value is secret.
    Secret,
    /// The value repeats what people, dialplans and SIP peers wrote, and may contain a secret.
    FreeText,
    Nothing,
}

#[inline]
fn telling_name(name: &[u8]) -> Telling {
    let Some(first) = name.first() else { return Telling::FreeText };
    // Length and first letter tell nearly all names apart, and this is asked for every value.
    let (telling, whole): (Telling, &[u8]) = match (name.len(), first | 0x20) {
        (3, b'k') => (Telling::Secret, b"Key"),
        (5, b'v') => (Telling::FreeText, b"Value"),
        (6, b's') => (Telling::Secret, b"Secret"),
        (6, b'o') => (Telling::FreeText, b"Output"),
        (7, b'm') => (Telling::Secret, b"Md5Cred"),
        (7, b'a') => (Telling::FreeText, b"AppData"),
        (7, b'c') => (Telling::FreeText, b"Command"),
        (8, b'p') => (Telling::Secret, b"Password"),
        (8, b'v') => (Telling::FreeText, b"Variable"),
        (10, b'p') => (Telling::Secret, b"Passphrase"),
        (11, b'o') => (Telling::Secret, b"OauthSecret"),
        (12, b'r') => (Telling::Secret, b"RefreshToken"),
        (13, b'a') => (Telling::Secret, b"Authorization"),
        (14, b'p') => (Telling::Secret, b"PasswordDigest"),
        (16, b'e') => (Telling::Secret, b"ExpectedResponse"),
        (19, b'p') => (Telling::Secret, b"Proxy-Authorization"),
        // `ChanVariable(channel)`.
        (12.., b'c') => {
            let start = name.get(..12).unwrap_or_default();
            return if start.eq_ignore_ascii_case(b"ChanVariable") { Telling::FreeText } else { Telling::Nothing };
        }
        _ => return Telling::Nothing,
    };
    if name.eq_ignore_ascii_case(whole) { telling } else { Telling::Nothing }
}

/// Whether a line of free text names something secret: an `Authorization` header, a password column, a key setting.
///
/// It rather hides a harmless line than shows a password: parsers that need the line read it through
/// [`Message::expose_output`].
fn says_a_secret(text: &[u8]) -> bool {
    const WORDS: [&[u8]; 9] = [
        b"authorization",
        b"password",
        b"passwd",
        b"secret",
        b"md5_cred",
        b"md5cred",
        b"refresh_token",
        b"refreshtoken",
        b"digest username=",
    ];
    (0..text.len()).any(|at| {
        // Every word begins with one of these.
        matches!(text[at] | 0x20, b'a' | b'p' | b's' | b'm' | b'r' | b'd')
            && WORDS.iter().any(|word| text[at..].get(..word.len()).is_some_and(|part| part.eq_ignore_ascii_case(word)))
    })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::super::codec::tests::recorded;
    use super::*;

    #[test]
    fn what_is_to_be_left_out_is_left_out_everywhere() {
        let message = Message::from_text("Response: Error\r\nMessage: hunter2 is not hunter2hunter2\r\n");
        let left = message.clone().without("hunter2");
        assert_eq!(left.get("Message").unwrap(), "[redacted] is not [redacted][redacted]");
        assert_eq!(message.clone().without("hunter3"), message);
        assert_eq!(message.clone().without(""), message);
    }

    const REGISTRATIONS: &str = include_str!("../../../tests/fixtures/ami-registrations.txt");
    const ENDPOINT: &str = include_str!("../../../tests/fixtures/ami-endpoint.txt");
    const SECURITY: &str = include_str!("../../../tests/fixtures/ami-security-unidentified.txt");

    /// Every way a message can be printed.
    fn printed(message: &Message) -> String {
        let json = serde_json::to_string(message).unwrap();
        let headers: Vec<_> = message.headers().collect();
        let values: Vec<_> = message.headers().map(|header| header.value().into_owned()).collect();
        format!("{message:?}\n{message}\n{json}\n{headers:?}\n{values:?}\n{:?}", message.headers())
    }

    #[test]
    fn no_password_of_the_recordings_can_be_printed() {
        let mut passwords = 0;
        for message in recorded(REGISTRATIONS).iter().chain(&recorded(ENDPOINT)) {
            let text = printed(message);
            if message.is_event("AuthDetail") {
                let password = message.secret("Password").unwrap();
                let password = password.expose_secret();
                assert!(
                    password.len() > 3
                        && !text.contains(&format!(": {password}"))
                        && !text.contains(&format!("\"{password}\"")),
                    "{text}"
                );
                assert!(message.get("Username").is_some_and(|name| !name.is_empty() && name != REDACTED));
                assert_eq!(message.get("Password").unwrap(), REDACTED);
                assert_eq!(message.get("AuthType").unwrap(), "userpass");
                passwords += 1;
            }
        }
        assert_eq!(passwords, 11);
    }

    #[test]
    fn a_field_that_a_later_asterisk_adds_to_an_auth_is_hidden() {
        let message = Message::from_text("Event: AuthList\nObjectName: a\nShinyNewKey: abc\nUsername: u\n");
        assert_eq!(
            format!("{message:?}"),
            r#"[Event: "AuthList", ObjectName: "a", ShinyNewKey: "[redacted]", Username: "u"]"#
        );
    }

    #[test]
    fn secret_names_are_secret_in_any_message_and_any_case() {
        for name in [
            "Authorization",
            "proxy-authorization",
            "SECRET",
            "key",
            "Password",
            "Md5Cred",
            "passworddigest",
            "RefreshToken",
            "OAuthSecret",
        ] {
            let message = Message::from_text(&format!("Response: Success\r\n{name}: hush\r\n"));
            assert!(!printed(&message).contains("hush"), "{name}");
            assert_eq!(message.secret(name).unwrap().expose_secret(), "hush");
        }
    }

    #[test]
    fn printed_lines_with_credentials_are_hidden() {
        for line in [
            "Authorization: Digest username=\"u\", response=\"hush\"",
            "  Proxy-Authorization: Digest response=hush",
            "<--- AUTHORIZATION: hush",
            " password             : hush",
            " md5_cred : hush",
            " refresh_token  : hush",
            "remotesecret = hush",
        ] {
            let message =
                Message::from_text(&format!("Response: Success\r\nOutput: {line}\r\nOutput: Via: SIP/2.0/UDP\r\n"));
            assert!(!printed(&message).contains("hush"), "{line}");
            assert_eq!(message.output().collect::<Vec<_>>(), [REDACTED, "Via: SIP/2.0/UDP"]);
            assert_eq!(message.expose_output().expose_secret(), format!("{line}\nVia: SIP/2.0/UDP\n"));
        }
        let bare = Message::from_text("Response: Follows\nAuthorization Digest hush\n");
        assert!(!printed(&bare).contains("hush"), "a line without a colon");
    }

    #[test]
    fn variables_that_carry_credentials_are_hidden() {
        let set = "Event: VarSet\nChannel: PJSIP/a\nVariable: SIP_AUTH_PASSWORD\nValue: hush\n";
        let header = "Event: VarSet\nVariable: X\nValue: Authorization: hush\n";
        let dialplan = "Event: Newexten\nApplication: Set\nAppData: PJSIP_HEADER(add,Authorization)=hush\n";
        for text in [set, header, dialplan] {
            assert!(!printed(&Message::from_text(text)).contains("hush"), "{text}");
        }
        let harmless = Message::from_text("Event: VarSet\nVariable: DIALSTATUS\nValue: ANSWER\n");
        assert_eq!(harmless.get("Value").unwrap(), "ANSWER");
    }

    #[test]
    fn digests_of_security_events_are_hidden_and_their_addresses_are_not() {
        let all = recorded(SECURITY);
        let failed = all.iter().find(|message| message.is_event("ChallengeResponseFailed")).unwrap();
        assert_eq!(failed.get("Response").unwrap(), REDACTED);
        assert_eq!(failed.get("RemoteAddress").unwrap(), "IPV4/UDP/127.0.0.9/7001");
        let originate = Message::from_text("Event: OriginateResponse\nResponse: Failure\n");
        assert_eq!(originate.get("Response").unwrap(), "Failure");
        let entry = Message::from_text("Event: DBGetResponse\nFamily: trunk\nKey: airtel\nVal: down\n");
        assert_eq!(entry.get("Key").unwrap(), "airtel");
    }

    #[test]
    fn an_event_header_in_an_odd_place_or_case_still_hides_its_auth() {
        let message = Message::from_text("SystemName: x\nevent:AuthDetail\nOauthClientid: hush\n");
        assert!(!printed(&message).contains("hush"));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_kept_and_shown_with_replacements() {
        let message = Message::from_lines(Bytes::from_static(b"Event: X\r\nName: Jos\xe9\r\n"));
        assert_eq!(message.get("Name").unwrap(), "Jos\u{fffd}");
        assert_eq!(message.header("Name").unwrap().value_bytes(), b"Jos\xe9");
    }

    #[test]
    fn repeated_headers_keep_their_order_and_only_one_blank_is_syntax() {
        let message = Message::from_text("Response: Success\nOutput: a\nOutput:  b \nOutput:\nOutput: c: d\n");
        assert_eq!(message.output().collect::<Vec<_>>(), ["a", " b ", "", "c: d"]);
        assert_eq!(message.compact(), message);
    }

    #[test]
    fn asterisks_timestamp_is_read_to_the_microsecond() {
        let at = |text: &str| Message::from_text(&format!("Event: X\nTimestamp: {text}\n")).timestamp();
        assert_eq!(at("1795372920.552046"), Timestamp::new(1_795_372_920, 552_046_000).ok());
        assert_eq!(at("1795372920.5"), Timestamp::new(1_795_372_920, 500_000_000).ok());
        assert_eq!(at("1795372920"), Timestamp::from_second(1_795_372_920).ok());
        assert_eq!(at("soon"), None);
        assert_eq!(at("99999999999999999.0"), None);
        assert_eq!(at("1.\u{e9}\u{e9}\u{e9}\u{e9}"), None);
    }
}
