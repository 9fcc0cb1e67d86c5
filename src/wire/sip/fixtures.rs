//! The messages of `tests/fixtures/sip`, and what is read of each of them.
//!
//! One line says what is read of a message: its start line, then `|`-separated Call-ID, CSeq, Via, From, To, Contacts,
//! and the defects. The lines were looked at one by one beside RFC 4475 when they were written.

use std::{fmt::Write as _, fs, path::PathBuf};

use bytes::Bytes;
use proptest::prelude::*;
use secrecy::SecretString;

use super::{
    digest::{Match, Secret},
    message::SipMessage,
    redact, stream,
    uri::NameAddr,
};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sip")
}

/// Name and bytes of each message of RFC 4475, by name.
fn torture() -> Vec<(String, Bytes)> {
    let files = fs::read_dir(directory().join("torture")).expect("the directory");
    let mut found: Vec<(String, Bytes)> = files
        .map(|file| file.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "dat"))
        .map(|path| {
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            (name, Bytes::from(fs::read(path).expect("its bytes")))
        })
        .collect();
    found.sort();
    found
}

/// One message of each shape of the recordings.
fn recorded() -> Vec<SipMessage> {
    let all = fs::read(directory().join("recorded.sip")).expect("the file");
    stream::split(&Bytes::from(all))
}

fn shown(address: &NameAddr) -> String {
    match &address.uri {
        Some(uri) => {
            let user = uri.user.as_deref().unwrap_or_default().escape_default();
            let port = uri.port.map(|port| format!(":{port}")).unwrap_or_default();
            format!("{user}@{}{port}", uri.host)
        }
        None => format!("({})", address.text.escape_default()),
    }
}

fn summary(bytes: &Bytes) -> String {
    let message = match SipMessage::parse(bytes.clone()) {
        Ok(message) => message,
        Err(error) => return error.to_string(),
    };
    let mut line = String::new();
    match (message.method(), message.request_uri(), message.status()) {
        (Some(method), uri, _) => {
            let _ = write!(line, "{method} {}", uri.unwrap_or_default());
        }
        (None, _, status) => {
            let _ = write!(line, "{status:?} {}", message.reason().unwrap_or_default());
        }
    }
    let _ = write!(line, " | {}", message.call_id().unwrap_or_default());
    let _ = match message.cseq() {
        Some((number, method)) => write!(line, " | {number} {method}"),
        None => write!(line, " | -"),
    };
    let _ = match message.via() {
        Some(via) => {
            let port = via.port.map(|port| format!(":{port}")).unwrap_or_default();
            write!(line, " | {} {}{port} {}", via.transport, via.host, via.branch.as_deref().unwrap_or("-"))
        }
        None => write!(line, " | -"),
    };
    for address in [message.from(), message.to()] {
        let _ = write!(line, " | {}", address.as_ref().map(shown).unwrap_or_default());
    }
    let contacts: Vec<String> = message.contacts().iter().map(shown).collect();
    let _ = write!(line, " | {} | {}", contacts.join(", "), message.defects().join("; "));
    line
}

#[test]
fn every_message_of_rfc_4475_is_read_as_far_as_it_can_be_or_refused_with_its_reason() {
    let read: String = torture().iter().map(|(name, bytes)| format!("{name}: {}\n", summary(bytes))).collect();
    let wanted = fs::read_to_string(directory().join("torture.txt")).expect("what is to be read");
    for (read, wanted) in read.lines().zip(wanted.lines()) {
        assert_eq!(read, wanted);
    }
    assert_eq!((read.lines().count(), wanted.lines().count()), (50, 50));
}

#[test]
fn what_rfc_4475_hides_in_single_messages_is_found() {
    let all = torture();
    let one = |name: &str| {
        let (_, bytes) = all.iter().find(|(known, _)| known == name).expect(name);
        SipMessage::parse(bytes.clone()).expect(name)
    };
    let short = one("wsinv");
    assert_eq!(short.from().and_then(|from| from.display).as_deref(), Some("J Rosenberg \\\""));
    assert_eq!(short.to().and_then(|to| to.parameter("tag").map(str::to_owned)).as_deref(), Some("1918181833n"));
    assert_eq!(short.header("NewFangledHeader").as_deref(), Some("newfangled value continued newfangled value"));
    assert_eq!((short.headers("Via").count(), short.header("Subject").as_deref()), (2, Some("")));
    assert_eq!(short.contacts()[0].parameter("newparam"), Some("newvalue"));
    assert_eq!((short.body().len(), short.defects().len()), (150, 0));

    let dialog = one("intmeth").from().expect("From");
    assert_eq!(dialog.display.as_deref(), Some("token1~` token2'+_ token3*%!.-"));
    assert_eq!(dialog.parameter("tag"), Some("_token~1'+`*%!-."));
    assert_eq!(one("esc01").target().and_then(|uri| uri.user).as_deref(), Some("sips:user@example.com"));
    assert_eq!(one("semiuri").target().and_then(|uri| uri.user).as_deref(), Some("user;par=u@example.net"));
    assert_eq!(one("cparam01").contacts()[0].parameter("unknownparam"), Some(""));
    assert_eq!(one("cparam02").contacts()[0].uri.as_ref().and_then(|uri| uri.parameter("unknownparam")), Some(""));
    assert_eq!(one("escruri").target().map(|uri| (uri.host, uri.parameters.len())), Some(("example.com".into(), 0)));
    let unknown = &one("regaut01").credentials()[0];
    assert_eq!((unknown.scheme.as_str(), &unknown.username), ("NoOneKnowsThisScheme", &None));
    assert_eq!(one("multi01").call_id().as_deref(), Some("multi01.98asdh@192.0.2.1"));
    assert_eq!(one("clerr").body().len(), 154);
    assert!(one("mpart01").body().windows(3).any(|bytes| bytes == [0x30, 0x82, 0x01]));
    assert_eq!(one("transports").headers("Via").count(), 5);

    let (_, twice) = all.iter().find(|(name, _)| name == "dblreq").expect("it");
    let two: Vec<Option<String>> =
        stream::split(twice).iter().map(|message| message.method().map(str::to_owned)).collect();
    assert_eq!(two, [Some("REGISTER".to_owned()), Some("INVITE".to_owned())]);
}

#[test]
fn every_recorded_message_is_read_without_a_defect() {
    let all = recorded();
    assert_eq!(all.len(), 68);
    for message in &all {
        assert_eq!(message.defects(), Vec::<String>::new(), "{message:?}");
        assert!(message.call_id().is_some() && message.cseq().is_some() && message.via().is_some());
    }
    let challenges: Vec<String> =
        all.iter().flat_map(SipMessage::challenges).map(|challenge| challenge.algorithm.to_string()).collect();
    for algorithm in ["MD5", "SHA-256", "SHA-999"] {
        assert!(challenges.iter().any(|known| known == algorithm), "{algorithm}: {challenges:?}");
    }
    assert!(all.iter().flat_map(SipMessage::challenges).any(|challenge| challenge.stale));
    assert!(all.iter().any(|message| message.status() == Some(503) && message.retry_after() == Some(7)));
}

/// The passwords that Asterisk had when it was recorded: that of acct2 is not the provider's.
fn password(user: &str) -> String {
    match user {
        "acct1" => "secret-acct1".into(),
        "acct2" => "wrongpass".into(),
        "nosuch" => "whatever".into(),
        "u403" => "p403".into(),
        "uflap" => "pflap".into(),
        _ => format!("pw-{user}"),
    }
}

#[test]
fn every_recorded_answer_is_made_of_the_configured_password_and_of_no_other() {
    let mut algorithms = Vec::new();
    for message in recorded() {
        for credentials in message.credentials() {
            let user = credentials.username.clone().expect("a user");
            let method = message.method().expect("a request");
            let made = |secret: &str| {
                credentials.made_of(&Secret::Password(SecretString::from(secret)), &user, method, message.body())
            };
            assert_eq!(made(&password(&user)), Match::Yes, "{user}");
            assert_eq!(made("secret-acct2"), Match::No, "{user}");
            algorithms.push(credentials.algorithm.to_string());
        }
    }
    let of = |name: &str| algorithms.iter().filter(|known| *known == name).count();
    assert!(of("MD5") >= 8 && of("SHA-256") >= 3, "{algorithms:?}");
}

#[test]
fn no_answer_survives_in_anything_that_is_shown() {
    let torture = torture().into_iter().filter_map(|(_, bytes)| SipMessage::parse(bytes).ok());
    let mut answers = 0;
    for message in recorded().into_iter().chain(torture) {
        let shown = format!("{}{message:?}{:?}", message.redacted(), message.credentials());
        for credentials in message.credentials() {
            for secret in [&credentials.response, &credentials.cnonce].into_iter().flatten() {
                assert!(!shown.contains(secret), "{shown}");
                answers += 1;
            }
            for kept in
                [&credentials.username, &credentials.realm, &credentials.nonce, &credentials.uri, &credentials.nc]
            {
                assert!(kept.as_ref().is_none_or(|kept| shown.contains(kept)), "{kept:?} {shown}");
            }
        }
    }
    assert!(answers > 20, "{answers}");
    let shown: String =
        self::torture().iter().map(|(_, bytes)| redact::text(&String::from_utf8_lossy(bytes))).collect();
    assert!(!shown.contains("opaque-data=here"), "regaut01");
}

const PLANTED: &str = "0123456789abcdef0123456789abcdef";

/// Where `X` is the planted digest: the ways in which credentials were, or might be, written.
const ODD: [&str; 36] = [
    "response=\"X\"",
    "RESPONSE=X",
    "Response = \"X\"",
    "response='X'",
    "response=\"X",
    "response=\\\"X\\\"",
    "response=\r\n \"X\"",
    "response\r\n\t=\r\n\t\"X\"",
    "response=\r\n\"X\"",
    "response=\"a\", \"X\"",
    "response=\"a\" X",
    "response=X;nc=1",
    "cnonce=\"X\"",
    "rspauth=X",
    "auts=\"X\"",
    "unknown=\"X\"",
    "X",
    "\"X\"",
    "X=1",
    "X 1",
    "nc=X",
    "qop=X",
    "algorithm=X",
    "userhash=\"X\"",
    "username=\"bob, response=\"X\"",
    "username=\"bob\\\", response=\"X\"",
    "username=bob response=\"X\"",
    "username=\"bob\";response=\"X\"",
    "realm=\", response=\",X",
    "nonce=\"n\"response=X",
    "uri=\"sip:h;response=X\"",
    "uri=\"sip:u:X@h\"",
    "opaque=\"response%3DX\"",
    "Basic X",
    "Digest X",
    "Digest Digest response=X",
];

const USUAL: [&str; 12] = [
    "username=\"bob\"",
    "username=\"b\\\"o,b\"",
    "realm=\"a, b\"",
    "nonce=\"n=,\"",
    "uri=\"sip:h\"",
    "algorithm=MD5",
    "qop=auth",
    "nc=00000001",
    "opaque=\"\"",
    "realm=\"open",
    "",
    "Digest username=\"x\"",
];

proptest! {
    /// In a message, in a line of it, and in a line of AMI's output.
    #[test]
    fn no_planted_answer_is_ever_shown(
        name in prop::sample::select(vec![
            "Authorization:", "Proxy-Authorization: ", "AUTHORIZATION :", "Authorization\t: ", "Output: Authorization: ",
            "Proxy-Authorization:\r\n ", "Authentication-Info: ", "X-Authorization: ",
        ]),
        scheme in prop::sample::select(vec!["Digest ", "DIGEST\t", "Digest\r\n  ", "Basic ", "Bearer ", "Odd-1 ", "", "Digest,"]),
        before in prop::collection::vec(prop::sample::select(USUAL.to_vec()), 0..4),
        odd in prop::collection::vec(prop::sample::select(ODD.to_vec()), 1..3),
        after in prop::collection::vec(prop::sample::select(USUAL.to_vec()), 0..3),
        separator in prop::sample::select(vec![", ", ",", ",\r\n ", " ,\r\n\t", ",,", ",\n "]),
        cut in 0_usize..40,
    ) {
        let planted = odd.into_iter().map(|odd| odd.replace('X', PLANTED));
        let usual = |parts: Vec<&str>| parts.into_iter().map(str::to_owned).collect::<Vec<String>>();
        let parts: Vec<String> = usual(before).into_iter().chain(planted).chain(usual(after)).collect();
        let line = format!("{name}{scheme}{}", parts.join(separator));
        let text = format!("REGISTER sip:h SIP/2.0\r\nCall-ID: a\r\n{line}\r\nExpires: 60\r\nContent-Length: 0\r\n\r\n");
        let end = text.len() - cut.min(text.len());
        let text = text.get(..end).unwrap_or(&text);
        prop_assert!(!redact::text(&line).contains(PLANTED), "{}", redact::text(&line));
        prop_assert!(!redact::text(text).contains(PLANTED));
        if let Ok(message) = SipMessage::parse(Bytes::from(text.to_owned())) {
            let shown = format!("{}{message:?}{}", message.redacted(), message.start_line());
            prop_assert!(!shown.contains(PLANTED), "{shown}");
            prop_assert!(!message.defects().join("").contains(PLANTED));
        }
    }

    /// Fixtures with some of their bytes changed, left out, or put in twice.
    #[test]
    fn no_broken_message_panics_or_is_lost(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..4), 1..6),
        piece in 1_usize..200,
    ) {
        let mut all: Vec<Bytes> = torture().into_iter().map(|(_, bytes)| bytes).collect();
        all.extend(recorded().iter().map(|message| message.raw().clone()));
        let mut bytes = which.get(&all).to_vec();
        for (at, byte, how) in changes {
            let at = at.index(bytes.len().max(1)).min(bytes.len().saturating_sub(1));
            match how {
                0 => bytes[at] = byte,
                1 => bytes.truncate(at.max(1)),
                2 => bytes.insert(at, byte),
                _ => bytes.extend_from_within(at..),
            }
        }
        prop_assert!(exercise(&Bytes::from(bytes), piece).is_ok());
    }
}

/// Everything that can be asked of bytes; fails if a message lost some of them, or shows an answer.
fn exercise(bytes: &Bytes, piece: usize) -> Result<(), String> {
    let mut read = stream::split(bytes);
    let mut stream = stream::SipStream::default();
    for piece in bytes.chunks(piece) {
        stream.push(piece);
        read.extend(std::iter::from_fn(|| stream.next_message()));
    }
    read.extend(std::iter::from_fn(|| stream.finish()));
    if let Ok(message) = SipMessage::parse(bytes.clone()) {
        if !bytes.ends_with(message.raw()) {
            return Err("bytes were lost".into());
        }
        read.push(message);
    }
    for message in read {
        let shown = format!("{} {message:?} {} {:?}", message.redacted(), message.start_line(), message.defects());
        let _ = (message.from(), message.to(), message.via(), message.contacts(), message.cseq(), message.expires());
        let _ = (message.retry_after(), message.challenges(), message.target(), message.all_headers().count());
        for credentials in message.credentials() {
            let secret = Secret::Password(SecretString::from("x"));
            let _ = credentials.made_of(&secret, "u", message.method().unwrap_or_default(), message.body());
            // A whole answer only: of a broken one a piece may stand elsewhere too.
            let answer = credentials
                .response
                .filter(|answer| answer.len() >= 32 && answer.bytes().all(|digit| digit.is_ascii_hexdigit()));
            let elsewhere = |answer: &str| String::from_utf8_lossy(message.raw()).matches(answer).count() > 1;
            if answer.as_ref().is_some_and(|answer| shown.contains(answer.as_str()) && !elsewhere(answer)) {
                return Err(shown);
            }
        }
    }
    Ok(())
}
