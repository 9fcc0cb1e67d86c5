//! What the gateway's admission takes for granted about Asterisk, asked of a real one: how it reads odd messages, and which
//! endpoint odd dial strings reach.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use trunkwarden::wire::dial::Leg;

use super::raw_ami::{RawAmi, header};
use super::{Instance, Lab};
use crate::gateway_oracle::{Heard, hear, is_originate};

/// How Asterisk answered a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// `Channel not specified`: it ran `Originate`.
    Originate,
    /// `Missing action in request`.
    MissingAction,
    /// Some other action, known or not.
    Other,
    LineTooLong,
    TooManyLines,
}

impl Answer {
    fn of(response: &str) -> Self {
        let says = |text: &str| response.contains(text);
        if says("Channel not specified") {
            Self::Originate
        } else if says("Missing action") {
            Self::MissingAction
        } else if says("line too long") {
            Self::LineTooLong
        } else if says("Too many lines") {
            Self::TooManyLines
        } else {
            Self::Other
        }
    }

    fn expected(heard: &Heard) -> Self {
        match heard {
            Heard::LineTooLong => Self::LineTooLong,
            Heard::TooManyLines => Self::TooManyLines,
            Heard::Message(lines) if is_originate(lines) => Self::Originate,
            Heard::Message(lines) => {
                let action = crate::gateway_oracle::header(lines, "Action", true);
                if action.is_empty() { Self::MissingAction } else { Self::Other }
            }
        }
    }
}

/// Streams of messages, none of which names a channel: so an `Originate` tells of itself and dials nothing.
fn corpus() -> Vec<Vec<u8>> {
    let line = |length: usize, end: &str| format!("X: {}{end}", "x".repeat(length - 3 - end.len()));
    let mut corpus: Vec<Vec<u8>> = [
        "Action: Originate\r\n\r\n",
        "action:originate\n\n",
        "ACTION:\t \x01ORIGINATE\r\n\r\n",
        "Action: Originate \r\n\r\n",
        "Action: Originate\t\r\n\r\n",
        "Action: Originat\r\n\r\n",
        "Action: Originate2\r\n\r\n",
        "Action : Originate\r\n\r\n",
        " Action: Originate\r\n\r\n",
        "Action\r\n\r\n",
        "Action Originate\r\n\r\n",
        "Action:\r\nAction: Originate\r\n\r\n",
        "Action: \t \r\naction: Originate\r\n\r\n",
        "Action: Ping\r\nAction: Originate\r\n\r\n",
        "Action: Originate\r\nAction: Ping\r\n\r\n",
        "X: y\r\nno colon\r\n: z\r\nAction: Originate\r\n\r\n",
        "X: y\n\rAction: Ping\nAction: Originate\n\n",
        "Action: Origi\rnate\r\n\r\n",
        "Action: Ping\rAction: Originate\r\n\r\n",
        "Action: Originate\r\r\n\r\n",
        "\rAction: Originate\r\n\r\n",
        "Action: Originate\r\n\r\r\n\r\n",
        "\r\n\n\r\n",
        "Action: Originate\r\nChannel:\r\nChannel: PJSIP/1@ok\r\n\r\n",
        "Action: Originate\0Ping\r\n\r\n",
        "Action: Origi\0nate\r\n\r\n",
        "Action: \0Originate\r\n\r\n",
        "Action: Ping\r\n\0Action: Originate\r\nAction: Originate\r\n\r\n",
        "Action: Origin\u{e4}te\r\n\r\n",
        "\u{feff}Action: Originate\r\n\r\n",
        "Aktion: Ping\r\n\r\nAction: Originate\r\n\r\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    for (length, end) in [(1024, "\r\n"), (1025, "\r\n"), (1026, "\r\n"), (2100, "\r\n"), (1024, "\n"), (1025, "\n")] {
        corpus.push(format!("Action: Originate\r\n{}\r\n", line(length, end)).into_bytes());
    }
    for filler in 1020..1028 {
        // What follows an over-long part is a line again.
        corpus.push(format!("Action: Ping\r\n{}Action: Originate\r\n\r\n", "x".repeat(filler)).into_bytes());
        corpus.push(format!("{}Action: Originate\r\n\r\n", "x".repeat(filler)).into_bytes());
    }
    for lines in [127, 128, 129] {
        corpus.push(format!("Action: Originate\r\n{}\r\n", "A: b\r\n".repeat(lines - 1)).into_bytes());
        corpus.push(format!("{}Action: Originate\r\n\r\n", "A: b\r\n".repeat(lines - 1)).into_bytes());
    }
    // Too many lines and one too long: the next message pays for the second.
    let both = format!("Action: Ping\r\n{}{}\r\nAction: Originate\r\n\r\n", line(1100, "\r\n"), "A: b\r\n".repeat(130));
    corpus.push(both.into_bytes());
    corpus.push(b"Action: Originate\r\nX: \xff\xfe\r\n\r\nAction: \xffOriginate\r\n\r\n".to_vec());
    corpus
}

/// Sends a stream and gives the answers to it, up to that of a `Ping` behind it.
fn answers(stream: &mut TcpStream, bytes: &[u8]) -> Vec<Answer> {
    stream
        .write_all(bytes)
        .and_then(|()| stream.write_all(b"Action: Ping\r\nActionID: the-end\r\n\r\n"))
        .expect("sent");
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while !(text.contains("ActionID: the-end\r\n") && text.ends_with("\r\n\r\n")) {
        let read = stream.read(&mut buffer).expect("an answer to the ping");
        assert_ne!(read, 0, "Asterisk closed the connection after {:?}", String::from_utf8_lossy(bytes));
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    let responses = text.split("\r\n\r\n").filter(|message| message.contains("Response:"));
    responses.filter(|message| !message.contains("ActionID: the-end")).map(Answer::of).collect()
}

#[test]
fn asterisk_reads_odd_messages_as_the_oracle_does() {
    let Some(lab) = Lab::up() else { return };
    let mut stream = TcpStream::connect(lab.ami_address()).expect("the AMI port");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let secret = lab.secret("dialer");
    let login = format!("Action: Login\r\nUsername: dialer\r\nSecret: {secret}\r\nEvents: off\r\n\r\n");
    assert_eq!(answers(&mut stream, login.as_bytes()), [Answer::Other]);
    let mut differ = Vec::new();
    for bytes in corpus() {
        let expected: Vec<_> = hear(&bytes).iter().map(Answer::expected).collect();
        let seen = answers(&mut stream, &bytes);
        if seen != expected {
            let start = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned();
            differ.push(format!("{start:?}, {} bytes: Asterisk {seen:?}, the oracle {expected:?}", bytes.len()));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    assert!(lab.cli(Instance::Pbx, "core show channels count").contains("0 calls processed"), "nothing was dialed");
}

#[test]
fn the_endpoint_asterisk_dials_is_among_the_names_that_are_read() {
    let Some(lab) = Lab::up() else { return };
    let mut session = RawAmi::login(lab.ami_address(), "dialer", lab.secret("dialer"));
    let forms = [
        ("PJSIP/9@ok", Some("ok")),
        ("pjsip/9@ok", Some("ok")),
        ("PJSIP/ok/sip:9@127.0.0.1:9", Some("ok")),
        ("PJSIP/9@ok/sip:x@127.0.0.1:9", Some("ok")),
        ("PJSIP/9@ok/", Some("ok")),
        ("PJSIP/ok/default-ok", Some("ok")),
        ("PJSIP/9@o\\k", Some("ok")),
        ("PJSIP/9@\"ok\"", Some("ok")),
        ("PJSIP/\"9/8\"@ok", Some("ok")),
        ("PJSIP/(a/b)@ok", Some("ok")),
        ("PJSIP/(9@ok", Some("ok")),
        // These reach nothing on 22; were it otherwise, the names must still have it.
        ("PJSIP//9@ok", None),
        ("PJSIP/9@ok/anything@x", None),
        ("PJSIP/a@b@ok", None),
        ("PJSIP/a@ok@b", None),
        ("PJSIP/9@OK", None),
        ("PJSIP/9@ok:5060", None),
        ("PJSIP/9@ok;x", None),
        ("PJSIP/9@ok&PJSIP/9@default-ok", None),
        ("PJSIP\\/9@ok", None),
        ("\"PJSIP\"/9@ok", None),
    ];
    for (at, (channel, expected)) in forms.into_iter().enumerate() {
        let originate = format!(
            "Action: Originate\r\nActionID: form-{at}\r\nChannel: {channel}\r\nApplication: Wait\r\nData: 1\r\nTimeout: 700\r\n\
             Async: true\r\n"
        );
        session.act(&originate);
        let mut reached = None;
        loop {
            let event = session.any_event(|_| true).expect("an OriginateResponse");
            match header(&event, "Event") {
                "Newchannel" => {
                    let name = header(&event, "Channel");
                    reached = name
                        .strip_prefix("PJSIP/")
                        .and_then(|name| name.rsplit_once('-'))
                        .map(|(name, _)| name.to_owned());
                }
                "OriginateResponse" if header(&event, "ActionID") == format!("form-{at}") => break,
                _ => {}
            }
        }
        assert_eq!(reached.as_deref(), expected, "{channel}");
        if let Some(reached) = reached {
            let leg = Leg::read(channel).expect("a channel");
            assert!(leg.readings().names.iter().any(|name| *name == reached), "{channel} reached {reached}");
        }
    }
}
