//! Digest authentication (RFC 7616, RFC 3261 section 22, RFC 8760): reading challenges and answers, and checking an answer
//! against a secret.

use std::{borrow::Cow, fmt};

use md5::Md5;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256, Sha512_256};

use super::{
    grammar::{self, Binding},
    redact,
};

/// A digest algorithm.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// `MD5`, also where none is named.
    Md5,
    /// `MD5-sess`.
    Md5Sess,
    /// `SHA-256`.
    Sha256,
    /// `SHA-256-sess`.
    Sha256Sess,
    /// `SHA-512-256`.
    Sha512256,
    /// `SHA-512-256-sess`.
    Sha512256Sess,
    /// Any other, as written.
    Other(String),
}

/// A hash function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Md5,
    Sha256,
    Sha512256,
}

impl Algorithm {
    /// The algorithm of that name, in any case (RFC 7616 section 3.3; RFC 8760 section 2).
    #[must_use]
    pub fn of(name: &str) -> Self {
        let known = [Self::Md5, Self::Md5Sess, Self::Sha256, Self::Sha256Sess, Self::Sha512256, Self::Sha512256Sess];
        let found = known.into_iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(name));
        found.unwrap_or_else(|| Self::Other(name.to_owned()))
    }

    /// Its name in the RFCs, which is also the one in `supported_algorithms_uac` of Asterisk (`config_auth.c`).
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Md5 => "MD5",
            Self::Md5Sess => "MD5-sess",
            Self::Sha256 => "SHA-256",
            Self::Sha256Sess => "SHA-256-sess",
            Self::Sha512256 => "SHA-512-256",
            Self::Sha512256Sess => "SHA-512-256-sess",
            Self::Other(name) => name,
        }
    }

    /// Whether an HA1 made for one is good for the other: the same hash, with or without `-sess`.
    #[must_use]
    pub fn same_hash_family(&self, other: &Self) -> bool {
        match (self.hash(), other.hash()) {
            (Some(hash), Some(other)) => hash == other,
            (None, _) | (_, None) => self == other,
        }
    }

    const fn hash(&self) -> Option<Hash> {
        match self {
            Self::Md5 | Self::Md5Sess => Some(Hash::Md5),
            Self::Sha256 | Self::Sha256Sess => Some(Hash::Sha256),
            Self::Sha512256 | Self::Sha512256Sess => Some(Hash::Sha512256),
            Self::Other(_) => None,
        }
    }

    const fn is_session(&self) -> bool {
        match self {
            Self::Md5Sess | Self::Sha256Sess | Self::Sha512256Sess => true,
            Self::Md5 | Self::Sha256 | Self::Sha512256 | Self::Other(_) => false,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Hash {
    /// The hash of the parts with colons between them, in lower-case hexadecimal.
    fn of(self, parts: &[&[u8]]) -> String {
        let joined = parts.join(&b':');
        match self {
            Self::Md5 => hex(&Md5::digest(&joined)),
            Self::Sha256 => hex(&Sha256::digest(&joined)),
            Self::Sha512256 => hex(&Sha512_256::digest(&joined)),
        }
    }

    /// How many hexadecimal digits it has.
    const fn digits(self) -> usize {
        match self {
            Self::Md5 => 32,
            Self::Sha256 | Self::Sha512256 => 64,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// One challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// `Digest`, `Bearer`, `Basic`…, as written.
    pub scheme: String,
    /// The realm.
    pub realm: Option<String>,
    /// The nonce.
    pub nonce: Option<String>,
    /// opaque.
    pub opaque: Option<String>,
    /// `stale=true`: the answer was right but for its old nonce.
    pub stale: bool,
    /// The algorithm; MD5 where none is named.
    pub algorithm: Algorithm,
    /// The qops offered.
    pub qop: Vec<String>,
    /// The user name is wanted hashed.
    pub userhash: bool,
}

impl Challenge {
    /// The challenges of one line of WWW-Authenticate or Proxy-Authenticate.
    #[must_use]
    pub fn list(line: &str) -> Vec<Self> {
        scheme_groups(line).into_iter().map(Self::read).collect()
    }

    /// Whether it wants a digest.
    #[must_use]
    pub fn is_digest(&self) -> bool {
        self.scheme.eq_ignore_ascii_case("Digest")
    }

    fn read(group: Group<'_>) -> Self {
        let qop = group.get("qop").unwrap_or_default();
        Self {
            scheme: group.scheme.to_owned(),
            realm: group.get("realm"),
            nonce: group.get("nonce"),
            opaque: group.get("opaque"),
            stale: group.is_true("stale"),
            algorithm: group.algorithm(),
            qop: qop.split(',').map(str::trim).filter(|qop| !qop.is_empty()).map(str::to_owned).collect(),
            userhash: group.is_true("userhash"),
        }
    }
}

/// An answer to a challenge. Its `Debug` shows neither response nor cnonce.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// `Digest`, `Bearer`, `Basic`…, as written.
    pub scheme: String,
    /// The user name (or its hash, with `userhash=true`).
    pub username: Option<String>,
    /// The realm it answers.
    pub realm: Option<String>,
    /// The nonce it answers.
    pub nonce: Option<String>,
    /// The URI it is made for.
    pub uri: Option<String>,
    /// The algorithm; MD5 where none is named.
    pub algorithm: Algorithm,
    /// The qop chosen.
    pub qop: Option<String>,
    /// The nonce count, as written.
    pub nc: Option<String>,
    /// The user name is hashed.
    pub userhash: bool,
    pub(crate) cnonce: Option<String>,
    pub(crate) response: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, username, realm, nonce, uri, algorithm, qop, nc, userhash, cnonce: _, response: _ } = self;
        let shown = |value: &Option<String>| value.as_deref().map(redact::text);
        f.debug_struct("Credentials")
            .field("scheme", scheme)
            .field("username", &shown(username))
            .field("realm", &shown(realm))
            .field("nonce", &shown(nonce))
            .field("uri", &shown(uri))
            .field("algorithm", &algorithm.name())
            .field("qop", qop)
            .field("nc", nc)
            .field("userhash", userhash)
            .finish_non_exhaustive()
    }
}

/// What is known of a secret.
#[derive(Debug, Clone)]
pub enum Secret {
    /// The password in clear.
    Password(SecretString),
    /// HA1 in hexadecimal: the hash of `user:realm:password` (Asterisk's `md5_cred` and `password_digest`). It is good for
    /// the user and the realm it was made for only.
    Ha1(Algorithm, SecretString),
}

/// Whether an answer was made of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// It was.
    Yes,
    /// It was not.
    No,
    /// It cannot be told: another algorithm, a field is missing, or `auth-int` without the body.
    Unknown,
}

impl Credentials {
    /// The credentials of one line of Authorization or Proxy-Authorization. Of other schemes than Digest only the scheme
    /// and a user name and realm given as parameters are read.
    #[must_use]
    pub fn list(line: &str) -> Vec<Self> {
        scheme_groups(line).into_iter().map(Self::read).collect()
    }

    fn read(group: Group<'_>) -> Self {
        Self {
            scheme: group.scheme.to_owned(),
            username: group.get("username").or_else(|| group.get("username*").map(|coded| extended(&coded))),
            realm: group.get("realm"),
            nonce: group.get("nonce"),
            uri: group.get("uri"),
            algorithm: group.algorithm(),
            qop: group.get("qop").filter(|qop| !qop.is_empty()),
            nc: group.get("nc"),
            userhash: group.is_true("userhash"),
            cnonce: group.get("cnonce"),
            response: group.get("response"),
        }
    }

    /// Whether they are a digest.
    #[must_use]
    pub fn is_digest(&self) -> bool {
        self.scheme.eq_ignore_ascii_case("Digest")
    }

    /// Whether this answer, in a request of `method` with `body`, was made of `secret` for `username`.
    ///
    /// `username` is the configured one, needed with `userhash=true`, where the message does not tell it.
    ///
    /// RFC 7616 section 3.4, and RFC 2069 without qop. What a session algorithm hashes is known of its first request only
    /// (`nc=00000001`); of a later one a mismatch says nothing.
    #[must_use]
    pub fn made_of(&self, secret: &Secret, username: &str, method: &str, body: &[u8]) -> Match {
        let Some(hash) = self.algorithm.hash().filter(|_| self.is_digest()) else { return Match::Unknown };
        let (Some(realm), Some(nonce), Some(uri), Some(response)) =
            (&self.realm, &self.nonce, &self.uri, &self.response)
        else {
            return Match::Unknown;
        };
        if let Secret::Ha1(made_for, _) = secret
            && !made_for.same_hash_family(&self.algorithm)
        {
            return Match::Unknown;
        }
        let user = match &self.username {
            Some(own) if !self.userhash => own,
            Some(_) | None => username,
        };
        let qop = self.qop.as_deref();
        let integrity = qop.is_some_and(|qop| qop.eq_ignore_ascii_case("auth-int"));
        if !integrity && !qop.is_none_or(|qop| qop.eq_ignore_ascii_case("auth")) {
            return Match::Unknown;
        }
        if (qop.is_some() && (self.nc.is_none() || self.cnonce.is_none()))
            || (self.algorithm.is_session() && self.cnonce.is_none())
        {
            return Match::Unknown;
        }
        let answer = |[user, realm, nonce, uri]: [&str; 4]| {
            let cnonce = self.cnonce.as_deref().unwrap_or_default();
            let mut ha1 = match secret {
                Secret::Password(password) => {
                    hash.of(&[user.as_bytes(), realm.as_bytes(), password.expose_secret().as_bytes()])
                }
                Secret::Ha1(_, ha1) => ha1.expose_secret().trim().to_ascii_lowercase(),
            };
            if self.algorithm.is_session() {
                ha1 = hash.of(&[ha1.as_bytes(), nonce.as_bytes(), cnonce.as_bytes()]);
            }
            let ha2 = if integrity {
                hash.of(&[method.as_bytes(), uri.as_bytes(), hash.of(&[body]).as_bytes()])
            } else {
                hash.of(&[method.as_bytes(), uri.as_bytes()])
            };
            match (qop, &self.nc) {
                (Some(qop), Some(nc)) => {
                    let parts = [ha1.as_str(), nonce, nc, cnonce, qop, &ha2];
                    hash.of(&parts.map(str::as_bytes))
                }
                (None, _) | (_, None) => hash.of(&[ha1.as_bytes(), nonce.as_bytes(), ha2.as_bytes()]),
            }
        };
        let read = [user, realm, nonce, uri];
        let is = |fields: [&str; 4]| answer(fields).eq_ignore_ascii_case(response);
        if is(read) {
            return Match::Yes;
        }
        // Some hash a quoted string as it is written, with its escapes, and not what it says.
        let written = read.map(written);
        if written.iter().any(|field| matches!(field, Cow::Owned(_))) && is(written.each_ref().map(|field| &**field)) {
            return Match::Yes;
        }
        let cut = response.len() < hash.digits();
        let lost = read.iter().any(|field| field.contains('\u{fffd}'));
        let later =
            self.algorithm.is_session() && self.nc.as_deref().is_some_and(|nc| nc.trim_start_matches('0') != "1");
        let bodiless = matches!(method, "REGISTER" | "OPTIONS" | "ACK" | "BYE" | "CANCEL" | "SUBSCRIBE");
        let unseen = integrity && body.is_empty() && !bodiless;
        if cut || lost || later || unseen { Match::Unknown } else { Match::No }
    }
}

/// The text of `UTF-8''J%C3%A4s%C3%B8n` (RFC 8187 section 3.2.1).
fn extended(coded: &str) -> String {
    let text = coded.splitn(3, '\'').nth(2).unwrap_or(coded);
    grammar::unescape(text).into_owned()
}

/// A quoted string's inside as it is written.
fn written(said: &str) -> Cow<'_, str> {
    if said.contains(['"', '\\']) {
        Cow::Owned(said.replace('\\', r"\\").replace('"', "\\\""))
    } else {
        Cow::Borrowed(said)
    }
}

/// A scheme and its parameters.
struct Group<'a> {
    scheme: &'a str,
    /// Names as written, values unquoted.
    parameters: Vec<(&'a str, String)>,
}

impl Group<'_> {
    fn get(&self, name: &str) -> Option<String> {
        let found = self.parameters.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone())
    }

    fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    fn algorithm(&self) -> Algorithm {
        self.get("algorithm").map_or(Algorithm::Md5, |name| Algorithm::of(&name))
    }
}

/// The challenges or credentials of one line: where an item of the list begins with two words, the first is a scheme
/// (RFC 9110 section 11.6.1).
fn scheme_groups(line: &str) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for item in grammar::split(line, b',', Binding::Quotes) {
        let word = item.bytes().take_while(|byte| grammar::is_token(*byte)).count();
        let (first, rest) = item.split_at(word);
        if first.is_empty() {
            continue;
        }
        if let Some(value) = rest.trim_start().strip_prefix('=') {
            if let Some(group) = groups.last_mut() {
                group.parameters.push((first, grammar::unquote(value)));
            }
            continue;
        }
        let mut group = Group { scheme: first, parameters: Vec::new() };
        if let Some((name, value)) = rest.split_once('=') {
            group.parameters.push((name.trim(), grammar::unquote(value)));
        }
        groups.push(group);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Credentials {
        Credentials::list(line).pop().expect("credentials")
    }

    fn password(secret: &str) -> Secret {
        Secret::Password(SecretString::from(secret))
    }

    /// RFC 7616 section 3.9.1.
    const MUFASA: &str = r#"Digest username="Mufasa", realm="http-auth@example.org", uri="/dir/index.html", algorithm=ALGORITHM,
       nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", nc=00000001,
       cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", qop=auth, response="RESPONSE",
       opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS""#;

    fn mufasa(algorithm: &str, response: &str) -> Credentials {
        one(&MUFASA.replace("ALGORITHM", algorithm).replace("RESPONSE", response))
    }

    #[test]
    fn the_examples_of_rfc_7616_are_made_of_their_password() {
        let md5 = mufasa("MD5", "8ca523f5e9506fed4657c9700eebdbec");
        let sha = mufasa("\"SHA-256\"", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1");
        for credentials in [md5, sha] {
            assert_eq!(credentials.made_of(&password("Circle of Life"), "", "GET", b""), Match::Yes);
            assert_eq!(credentials.made_of(&password("Circle of Lies"), "", "GET", b""), Match::No);
            assert_eq!(credentials.made_of(&password("Circle of Life"), "", "PUT", b""), Match::No);
        }
    }

    /// RFC 7616 section 3.9.2, with the figures of its erratum 4897: the RFC's own were made with another hash.
    #[test]
    fn a_hashed_user_name_is_read_as_the_configured_one() {
        let credentials = one(r#"Digest
            username="793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b", realm="api@example.org",
            uri="/doe.json", algorithm=SHA-512-256,
            nonce="5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK", nc=00000001,
            cnonce="NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v", qop=auth,
            response="3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5",
            opaque="HRPCssKJSGjCrkzDg8OhwpzCiGPChXYjwrI2QmXDnsOS", userhash=true"#);
        assert!(credentials.userhash);
        let secret = password("Secret, or not?");
        assert_eq!(credentials.made_of(&secret, "J\u{e4}s\u{f8}n Doe", "GET", b""), Match::Yes);
        assert_eq!(credentials.made_of(&secret, "Jason Doe", "GET", b""), Match::No);
        let extended = one("Digest username*=UTF-8''J%C3%A4s%C3%B8n%20Doe, realm=x");
        assert_eq!(extended.username.as_deref(), Some("J\u{e4}s\u{f8}n Doe"));
    }

    /// RFC 2617 section 3.5, and the same without qop as RFC 2069 has it.
    #[test]
    fn the_older_forms_are_made_of_their_password_too() {
        let line = r#"digest USERNAME="Mufasa",Realm="testrealm@host.com",nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093",uri="/dir/index.html",qop=auth,nc=00000001,cnonce="0a4f113b",response="6629fae49393a05397450978507c4ef1",opaque="5ccc069c403ebaf9f0171e9517f40e41""#;
        assert_eq!(one(line).made_of(&password("Circle Of Life"), "", "GET", b""), Match::Yes);
        assert_eq!(one(line).algorithm, Algorithm::Md5);
        let old = r#"Digest username="Mufasa", realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", uri="/dir/index.html", response="670fd8c2df070c60b045671b8b24ff02""#;
        assert_eq!(one(old).made_of(&password("Circle Of Life"), "", "GET", b""), Match::Yes);
        let ha1 = Secret::Ha1(Algorithm::Md5, SecretString::from("939E7578ED9E3C518A452ACEE763BCE9"));
        assert_eq!(one(old).made_of(&ha1, "", "GET", b""), Match::Yes);
        let other = Secret::Ha1(Algorithm::Sha256, SecretString::from("939e7578ed9e3c518a452acee763bce9"));
        assert_eq!(one(old).made_of(&other, "", "GET", b""), Match::Unknown);
    }

    #[test]
    fn several_challenges_come_in_one_line() {
        let line = r#"Digest realm="a, \"b\"", nonce="n1,", Stale=TRUE, algorithm=sha-256, qop="auth, auth-int", Digest realm=plain ,nonce="n2",algorithm="MD5-sess",userhash=true, Bearer authz_server="x", Negotiate, Digest nonce="n3", algorithm=AKAv1-MD5, opaque="""#;
        let read = Challenge::list(line);
        let schemes: Vec<&str> = read.iter().map(|challenge| challenge.scheme.as_str()).collect();
        assert_eq!(schemes, ["Digest", "Digest", "Bearer", "Negotiate", "Digest"]);
        assert_eq!((read[0].realm.as_deref(), read[0].nonce.as_deref()), (Some("a, \"b\""), Some("n1,")));
        assert_eq!(
            (read[0].stale, read[0].qop.as_slice()),
            (true, ["auth".to_owned(), "auth-int".to_owned()].as_slice())
        );
        assert_eq!((read[1].realm.as_deref(), read[1].userhash, read[1].stale), (Some("plain"), true, false));
        let algorithms: Vec<&str> = read.iter().map(|challenge| challenge.algorithm.name()).collect();
        assert_eq!(algorithms, ["SHA-256", "MD5-sess", "MD5", "MD5", "AKAv1-MD5"]);
        assert_eq!((read[4].opaque.as_deref(), &read[4].realm), (Some(""), &None));
    }

    #[test]
    fn what_cannot_be_told_is_not_told() {
        let whole = mufasa("MD5", "8ca523f5e9506fed4657c9700eebdbec");
        let secret = password("wrong");
        let told = |change: &dyn Fn(&mut Credentials)| {
            let mut credentials = whole.clone();
            change(&mut credentials);
            credentials.made_of(&secret, "", "GET", b"")
        };
        assert_eq!(told(&|_| {}), Match::No);
        assert_eq!(told(&|credentials| credentials.response = None), Match::Unknown);
        assert_eq!(told(&|credentials| credentials.response = Some("8ca5".into())), Match::Unknown);
        assert_eq!(told(&|credentials| credentials.realm = None), Match::Unknown);
        assert_eq!(told(&|credentials| credentials.nonce = Some("\u{fffd}".into())), Match::Unknown);
        assert_eq!(told(&|credentials| credentials.nc = None), Match::Unknown);
        assert_eq!(told(&|credentials| credentials.algorithm = Algorithm::of("AKAv1-MD5")), Match::Unknown);
        assert_eq!(told(&|credentials| credentials.qop = Some("auth-conf".into())), Match::Unknown);
        assert_eq!(told(&|credentials| credentials.qop = Some("auth-int".into())), Match::Unknown);
        assert_eq!(told(&|credentials| credentials.scheme = "Basic".into()), Match::Unknown);
        let session = |credentials: &mut Credentials| {
            credentials.algorithm = Algorithm::Md5Sess;
            credentials.nc = Some("00000002".into());
        };
        assert_eq!(told(&session), Match::Unknown);
    }

    /// Figures of Python's hashlib.
    #[test]
    fn session_algorithms_and_body_integrity_are_checked() {
        let line = |algorithm: &str, qop: &str, response: &str| {
            one(&format!(
                r#"Digest username="u", realm="r", nonce="n", uri="sip:h", algorithm={algorithm}, qop={qop}, nc=00000001, cnonce="c", response="{response}""#
            ))
        };
        for (algorithm, qop, response) in SESSION {
            let credentials = line(algorithm, qop, response);
            assert_eq!(credentials.made_of(&password("p"), "", "MESSAGE", b"hello"), Match::Yes, "{algorithm} {qop}");
            assert_eq!(credentials.made_of(&password("q"), "", "MESSAGE", b"hello"), Match::No, "{algorithm} {qop}");
        }
        let integrity = line("MD5", "auth-int", SESSION[3].2);
        assert_eq!(integrity.made_of(&password("p"), "", "MESSAGE", b"hullo"), Match::No);
        assert_eq!(integrity.made_of(&password("p"), "", "MESSAGE", b""), Match::Unknown);
        assert_eq!(integrity.made_of(&password("p"), "", "REGISTER", b""), Match::No);
    }

    const SESSION: [(&str, &str, &str); 5] = [
        ("MD5-sess", "auth", "fb8bccf8d3918dccddaba586b323c4c9"),
        ("SHA-256-sess", "auth", "d66cb039e407c8c17335597939c884d88b0ae5f658ea94198ec3d7c57dfe3db1"),
        ("SHA-512-256-sess", "auth", "8b4e1f7117697af369ff147f547d97c12c3b7bec7b18d12ef06a55c926780500"),
        ("MD5", "auth-int", "56bb055480a7c5ac8632f34c1127f801"),
        ("SHA-256-sess", "auth-int", "936a2fb5b37fd92ff821e0a27d0bafad50cff6cadb08fa5e8b44e81d883475a8"),
    ];

    #[test]
    fn a_quoted_string_may_have_been_hashed_as_it_is_written() {
        for response in ["c17fcc153d34c2d93fdbfc46b2b6d208", "ce82bab8515da7c1fb669fd0a89d7e41"] {
            let line = format!(r#"Digest username="a\"b", realm="r", nonce="n", uri="sip:h", response="{response}""#);
            assert_eq!(one(&line).made_of(&password("p"), "", "REGISTER", b""), Match::Yes, "{response}");
            assert_eq!(one(&line).made_of(&password("q"), "", "REGISTER", b""), Match::No, "{response}");
        }
    }

    #[test]
    fn names_of_algorithms_are_those_of_the_rfcs() {
        for name in ["MD5", "MD5-sess", "SHA-256", "SHA-256-sess", "SHA-512-256", "SHA-512-256-sess", "x"] {
            assert_eq!(Algorithm::of(name).to_string(), name);
        }
        assert_eq!(Algorithm::of("md5-SESS"), Algorithm::Md5Sess);
        assert!(Algorithm::Md5.same_hash_family(&Algorithm::Md5Sess));
        assert!(!Algorithm::Sha256.same_hash_family(&Algorithm::Sha512256));
        assert!(!Algorithm::of("x").same_hash_family(&Algorithm::of("y")));
    }

    #[test]
    fn debug_shows_neither_response_nor_cnonce_nor_what_follows_basic() {
        let shown = format!("{:?}", mufasa("MD5", "8ca523f5e9506fed4657c9700eebdbec"));
        assert!(shown.contains("Mufasa") && shown.contains("7ypf/xlj9XXwfDPEoM4URrv"), "{shown}");
        assert!(!shown.contains("8ca523f5") && !shown.contains("f2/wE4q7"), "{shown}");
        let basic = format!("{:?}", Credentials::list("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="));
        assert!(basic.contains("Basic") && !basic.contains("QWxh"), "{basic}");
    }
}
