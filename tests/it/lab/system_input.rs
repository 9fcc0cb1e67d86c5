//! What it does with bad input: a configuration with mistakes, a PBX that is not there, and a port that speaks no AMI.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::program::{Dialer, Program, SOON, configuration, now, seconds};
use super::{Lab, eventually};

/// What a process may need at most while a server sends it without end.
const MOST_KIB: u64 = 100_000;
const SECRET: &str = "a-secret-that-nobody-is-told";

#[test]
fn a_configuration_with_a_mistake_is_refused_with_key_and_line_before_anything_is_opened() {
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    let good = configuration(address, "trunkwarden", SECRET, "");
    let line_after = good.lines().count() + 1;
    let unknown = format!("{good}[health]\nrecovry = \"3s\"\n");
    let unfit = format!("{good}[health]\nrecovery = \"three\"\n");
    let later =
        format!("{good}[pbx.ari]\nurl = \"http://127.0.0.1:8088/ari\"\nusername = \"tw\"\npassword = \"{SECRET}\"\n");
    let open = good.replace("127.0.0.1:0", "0.0.0.0:0");
    let unnamed = good.replace("[[pbx]]\nid = \"pbx1\"\n", "[[pbx]]\n");
    let dialer = Dialer::start();
    let no_dialer = format!("{good}[[campaign]]\ndialer = \"crm\"\nid = \"7\"\ntrunks = [\"pbx1/airtel\"]\n");
    let no_pbx = format!(
        "{good}{}[[campaign]]\ndialer = \"crm\"\nid = \"7\"\ntrunks = [\"pbx9/airtel\"]\n",
        dialer.configuration("")
    );
    let broken = format!("{good}[health\n");
    let (second, third) = (format!("{}", line_after + 1), format!("{line_after}"));
    for (text, words) in [
        (unknown, vec!["health.recovry", "did you mean \"recovery\"", second.as_str()]),
        (unfit, vec!["health.recovery", "three", second.as_str()]),
        (later, vec!["pbx.ari", "not yet", third.as_str()]),
        (open, vec!["api.listen", "token"]),
        (unnamed, vec!["pbx", "id"]),
        (no_dialer, vec!["crm"]),
        (no_pbx, vec!["pbx9"]),
        (broken, vec![third.as_str()]),
        (String::new(), vec!["pbx"]),
    ] {
        let program = Program::install(&text);
        for command in ["run", "check", "config"] {
            let said = program.run(&[command, "--config", "trunkwarden.toml"]);
            assert_eq!(said.code, 64, "{command}: {}{}", said.out, said.err);
            for word in &words {
                assert!(said.err.to_lowercase().contains(&word.to_lowercase()), "{word} is not in\n{}", said.err);
            }
            assert!(!said.err.contains(SECRET) && said.out.is_empty(), "{}{}", said.out, said.err);
        }
        assert!(!program.path("trunkwarden.db").exists(), "no store is opened");
        program.end(&[SECRET]);
    }
    let program = Program::install(&good);
    let said = program.run(&["run", "--config", "nowhere.toml"]);
    assert!(said.code == 64 && said.err.contains("nowhere.toml"), "{said:?}");
    let said = program.run(&["config", "--config", "trunkwarden.toml"]);
    assert!(said.code == 0 && !said.out.contains(SECRET), "{said:?}");
    program.end(&[SECRET]);
}

#[test]
fn a_pbx_that_is_not_there_is_said_to_be_and_waited_for() {
    let Some(lab) = Lab::bare() else { return };
    lab.write_trunks(&[serde_json::json!({ "name": "airtel" })]);
    lab.stop(super::Instance::Pbx);
    let secret = lab.secret("trunkwarden");
    let program =
        Program::start(&configuration(lab.ami_address(), "trunkwarden", secret, "[health]\nrecovery = \"1s\"\n"));
    program.wait_for_log(&["WARN", "refused"]);
    let ready = program.get("/readyz");
    let checks = ready["checks"].as_array().expect("checks");
    let pbx = checks.iter().find(|check| check["name"] == "pbxs").expect("a check of the PBXs");
    assert!(pbx["ok"] == false && pbx["state"] == "0 of 1 listed" && ready["status"] == "ready", "{ready:#}");
    let pbxs = program.items("/api/v1/pbxs");
    assert!(pbxs.len() == 1 && pbxs[0]["ami"]["state"] == "lost", "a PBX that never answered is listed too: {pbxs:#?}");
    let gate = program.gate("pbx1/airtel");
    assert!(gate["allow"] == false && gate["health"] == "unknown", "{gate}");
    let began = now();
    let said = program.run(&["check", "--config", "trunkwarden.toml"]);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    let address = lab.ami_address().to_string();
    assert!(
        said.out.contains("PROBLEM") && said.out.contains(&address) && said.out.contains("refused"),
        "{}",
        said.out
    );
    assert!(said.out.contains("bindaddr"), "{}", said.out);
    assert!(seconds(began, now()) < 30.0);
    let said = program.run(&["trunks"]);
    assert!(said.code == 0 && said.out.contains("check"), "{}{}", said.out, said.err);
    lab.start_again(super::Instance::Pbx);
    program.wait_for("pbx1/airtel", "stable", true, SOON);
    program.end(&[secret]);
}

/// What a server says to everybody who connects, before it is over.
type Talk = fn(&mut TcpStream, &Sent) -> std::io::Result<()>;

#[derive(Debug, Default)]
struct Sent {
    bytes: AtomicU64,
    connections: AtomicU64,
    over: AtomicBool,
}

impl Sent {
    /// Sends a piece again and again, up to so many bytes.
    fn again(&self, stream: &mut TcpStream, piece: &[u8], bytes: u64) -> std::io::Result<()> {
        let mut left = bytes;
        while left > 0 && !self.over.load(Ordering::SeqCst) {
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
            let sent = stream.write(&piece[..length])?;
            left = left.saturating_sub(u64::try_from(sent).unwrap_or(left));
            self.bytes.fetch_add(u64::try_from(sent).unwrap_or(0), Ordering::SeqCst);
        }
        Ok(())
    }
}

/// Listens, and talks to whoever comes; ends with the flag.
fn serve(talk: Talk) -> (SocketAddr, Arc<Sent>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    listener.set_nonblocking(true).expect("a listener that can be asked");
    let sent = Arc::<Sent>::default();
    let shared = Arc::clone(&sent);
    std::thread::spawn(move || {
        while !shared.over.load(Ordering::SeqCst) {
            let Ok((mut stream, _)) = listener.accept() else {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            };
            shared.connections.fetch_add(1, Ordering::SeqCst);
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                let quiet = stream.set_nonblocking(false).and_then(|()| stream.set_write_timeout(Some(SOON)));
                let _ended = quiet.and_then(|()| talk(&mut stream, &shared));
            });
        }
    });
    (address, sent)
}

/// Greets, and lets the login through.
fn let_in(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"Asterisk Call Manager/11.0.0\r\n")?;
    for answer in ["Challenge: 123456789", "Message: Authentication accepted"] {
        let (_, id) = action(stream)?;
        stream.write_all(format!("Response: Success\r\nActionID: {id}\r\n{answer}\r\n\r\n").as_bytes())?;
    }
    Ok(())
}

/// The next action's name and id.
fn action(stream: &mut TcpStream) -> std::io::Result<(String, String)> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&request).into_owned();
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
    Ok((value("Action: "), value("ActionID: ")))
}

const GIB: u64 = 1 << 30;

fn garbage(stream: &mut TcpStream, sent: &Sent) -> std::io::Result<()> {
    // Neither text nor lines of a sensible length, and zero bytes in it.
    let piece: Vec<u8> =
        (0..16_384_u32).map(|n| u8::try_from(n.wrapping_mul(2_654_435_761) >> 24).unwrap_or(0)).collect();
    sent.again(stream, &piece, 4 << 20)
}

fn endless_greeting(stream: &mut TcpStream, sent: &Sent) -> std::io::Result<()> {
    sent.again(stream, &[b'A'; 65_536], GIB)
}

fn endless_line(stream: &mut TcpStream, sent: &Sent) -> std::io::Result<()> {
    let_in(stream)?;
    stream.write_all(b"Event: FullyBooted\r\nStatus: ")?;
    sent.again(stream, &[b'A'; 65_536], GIB)
}

fn endless_message(stream: &mut TcpStream, sent: &Sent) -> std::io::Result<()> {
    let_in(stream)?;
    stream.write_all(b"Event: FullyBooted\r\n")?;
    sent.again(stream, &b"Header: a value of some length\r\n".repeat(2_000), GIB)
}

fn endless_list(stream: &mut TcpStream, sent: &Sent) -> std::io::Result<()> {
    let_in(stream)?;
    stream.write_all(b"Event: FullyBooted\r\nPrivilege: system,all\r\nStatus: Fully Booted\r\n\r\n")?;
    loop {
        let (action, id) = action(stream)?;
        let head = format!("Response: Success\r\nActionID: {id}\r\n");
        if action != "PJSIPShowRegistrationsOutbound" {
            stream.write_all(format!("{head}Message: Done\r\n\r\n").as_bytes())?;
            continue;
        }
        stream.write_all(format!("{head}EventList: start\r\nMessage: Following\r\n\r\n").as_bytes())?;
        let item = format!(
            "Event: OutboundRegistrationDetail\r\nActionID: {id}\r\nObjectName: x\r\nClientUri: sip:x@x.example\r\n\
             ServerUri: sip:x.example\r\nStatus: Registered\r\n\r\n"
        );
        sent.again(stream, item.repeat(500).as_bytes(), GIB)?;
    }
}

fn silence(stream: &mut TcpStream, sent: &Sent) -> std::io::Result<()> {
    let _none = sent;
    let mut byte = [0];
    stream.read_exact(&mut byte)
}

#[test]
fn a_port_that_speaks_no_ami_costs_neither_memory_nor_a_panic() {
    let cases: [(&str, Talk, u64); 6] = [
        ("garbage", garbage, 1),
        ("a greeting without an end", endless_greeting, 1),
        ("a line without an end", endless_line, 1),
        ("a message without an end", endless_message, 1),
        ("a list without an end", endless_list, 10 << 20),
        ("silence", silence, 0),
    ];
    // Side by side: most of the time is waiting for the next attempt.
    std::thread::scope(|scope| {
        for (name, talk, bytes) in cases {
            scope.spawn(move || bear(name, talk, bytes));
        }
    });
}

/// Runs the program against a server that talks like this, until it has taken so many bytes and tried again.
fn bear(name: &str, talk: Talk, bytes: u64) {
    let (address, sent) = serve(talk);
    let text = configuration(address, "trunkwarden", SECRET, "[health]\nunknown_after = \"6s\"\n");
    let program = Program::start(&text.replace("info,trunkwarden=debug", "info"));
    // It is left, and tried again.
    let wanted = if name.contains("list") { 2 } else { 3 };
    eventually(Duration::from_secs(60), &format!("{name}: it is left and tried again"), || {
        let (rss, most) = program.memory();
        assert!(most < MOST_KIB, "{name}: {rss} KiB, at most {most} KiB");
        (sent.connections.load(Ordering::SeqCst) >= wanted && sent.bytes.load(Ordering::SeqCst) >= bytes).then_some(())
    });
    assert_eq!(program.get("/healthz")["status"], "ok");
    let state = program.items("/api/v1/pbxs").first().map(|pbx| pbx["ami"]["state"].clone());
    let said = program.run(&["check", "--config", "trunkwarden.toml"]);
    assert_eq!(said.code, 1, "{name}: {}{}", said.out, said.err);
    assert!(said.out.lines().all(|line| line.len() < 2_000), "{name}: a line of what was sent is printed whole");
    let log = program.log();
    assert!(log.lines().any(|line| line.contains("WARN")), "{name} is not said:\n{log}");
    assert!(log.len() < 200_000 && log.lines().all(|line| line.len() < 4_000), "{name}: {} bytes of log", log.len());
    let (rss, most) = program.memory();
    let (taken, made) = (sent.bytes.load(Ordering::SeqCst) >> 20, sent.connections.load(Ordering::SeqCst));
    eprintln!(
        "MEASURED {name}: {taken} MiB in {made} connections; memory {rss} KiB, at most {most} KiB; state {state:?}; check: {}",
        said.out.lines().nth(1).unwrap_or_default()
    );
    program.end(&[SECRET]);
    sent.over.store(true, Ordering::SeqCst);
}
