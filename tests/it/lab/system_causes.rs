//! Every cause of a failing registration on a real Asterisk, as each source of evidence tells it: the table of cause by source.
//!
//! HEP and Asterisk's own history are what the running program hears; a capture and a log file are read afterwards, as on another machine.
//! All of them watch the same Asterisks from the first REGISTER on, so that nothing but the source differs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use trunkwarden::diagnosis::Cause;
use trunkwarden::wire::sip::Source;

use super::program::{Program, for_lab, now, seconds};
use super::{Instance, Lab, eventually};

const SOURCES: [Source; 4] = [Source::Hep, Source::History, Source::Capture, Source::Logger];
/// The slowest of them: registered, a refresh after 10 s, and 32 s of silence.
const AT_LEAST: f64 = 46.0;
const AT_MOST: Duration = Duration::from_secs(90);

/// What a trunk of the lab must come to.
struct Row {
    /// Its name in `lab/trunks.py`.
    trunk: &'static str,
    /// The right cause, then what the messages do not tell from it, so that it may stand first if the right one stands beside it as an
    /// alternative; empty where nothing is wrong with it.
    right: &'static [Cause],
    /// What these sources cannot tell: this will do as well. With `unknown`, saying nothing will too.
    but: &'static [(Source, &'static [Cause])],
}

const fn row(trunk: &'static str, right: &'static [Cause]) -> Row {
    Row { trunk, right, but: &[] }
}

/// Only packets show that a port is closed: an ICMP error is not passed on to any of these (over UDP it is silence to Asterisk too).
const NO_ICMP: &[(Source, &[Cause])] = &[
    (Source::Hep, &[Cause::NoResponse]),
    (Source::History, &[Cause::NoResponse]),
    (Source::Logger, &[Cause::NoResponse]),
];

/// The message is shown though the connection for it was never made, and the capture has a connection that no message went over.
const NO_CONNECTION: &[(Source, &[Cause])] = &[
    (Source::Hep, &[Cause::Unknown]),
    (Source::History, &[Cause::Unknown]),
    (Source::Capture, &[Cause::Unknown]),
    (Source::Logger, &[Cause::Unknown]),
];

/// The PBX's own history is switched on around a failure, and here is none.
const NO_FAILURE: &[(Source, &[Cause])] = &[(Source::History, &[Cause::Unknown])];

/// It is done once, in the first second, and nobody could know that the history would be needed.
const ONCE: &[(Source, &[Cause])] = NO_FAILURE;

const SILENT_FILE: &[(Source, &[Cause])] =
    &[(Source::Capture, &[Cause::NoResponse]), (Source::Logger, &[Cause::NoResponse])];

const CAUSES: &[Row] = &[
    row("wrong-password", &[Cause::WrongPassword]),
    // Their user name is the DID; so is many a right one's.
    row("wrong-auth-username", &[Cause::WrongAuthUsername, Cause::WrongPassword]),
    row("prov-wrong-password", &[Cause::WrongPassword]),
    row("prov-wrong-auth-username", &[Cause::WrongAuthUsername, Cause::WrongPassword]),
    // Its user name is not the DID, and Asterisk as a provider answers strangers as it answers a wrong password.
    row("prov-unknown-user", &[Cause::WrongAuthUsername, Cause::WrongPassword]),
    row("realm", &[Cause::RealmMismatch]),
    // A hash does not say what it is of.
    row("realm-md5-cred", &[Cause::RealmMismatch, Cause::WrongPassword]),
    row("realm-digest", &[Cause::RealmMismatch, Cause::WrongPassword]),
    row("sha256-only", &[Cause::AlgorithmNotEnabled]),
    row("no-auth", &[Cause::NoCredentialsConfigured]),
    row("auth-typo", &[Cause::NoCredentialsConfigured]),
    row("403-after-credentials", &[Cause::AccountForbidden]),
    row("403-at-once", &[Cause::AddressForbidden]),
    row("silent", &[Cause::NoResponse]),
    Row { trunk: "closed-udp", right: &[Cause::PortClosed], but: NO_ICMP },
    Row { trunk: "closed-tcp", right: &[Cause::PortClosed], but: NO_CONNECTION },
    Row { trunk: "no-dns", right: &[Cause::DnsFailure], but: NO_CONNECTION },
    row("proxy-305", &[Cause::OutboundProxyRequired]),
    row("proxy-403", &[Cause::OutboundProxyRequired, Cause::AddressForbidden]),
    // Told from other silence by what else is silent: a file does not say what should have answered.
    Row { trunk: "proxy-silent", right: &[Cause::OutboundProxyRequired, Cause::NoResponse], but: SILENT_FILE },
    Row { trunk: "contact-rewritten", right: &[Cause::BindingLost], but: NO_FAILURE },
    row("503-retry-after", &[Cause::ProviderUnavailable]),
    row("500", &[Cause::ProviderUnavailable]),
    row("600", &[Cause::ProviderUnavailable]),
    // Overdue while Asterisk still waits for an answer (see `overdue_was_said`); then it has none.
    row("goes-silent", &[Cause::NoResponse]),
    row("gave-up", &[Cause::ProviderUnavailable, Cause::GaveUp]),
    row("grants-10-seconds", &[Cause::ExpiryTooShort]),
    Row { trunk: "expires-0", right: &[Cause::BindingRefused], but: ONCE },
    Row { trunk: "tls-untrusted", right: &[Cause::TlsFailure], but: NO_CONNECTION },
    Row { trunk: "tls-misnamed", right: &[Cause::TlsFailure], but: NO_CONNECTION },
    Row { trunk: "tls-to-plain", right: &[Cause::TlsFailure], but: NO_CONNECTION },
    row("good", &[]),
    row("good-prov", &[]),
    row("good-sha256", &[]),
    row("good-md5-cred", &[]),
    row("good-digest", &[]),
    row("good-tcp", &[]),
    row("good-tls", &[]),
    row("good-proxy", &[]),
    row("good-423", &[]),
];

const BEHIND_NAT: &[Row] = &[
    Row { trunk: "nat", right: &[Cause::NatContact], but: NO_FAILURE },
    row("good-nat", &[]),
    row("firewall-requests", &[Cause::NoResponse]),
    row("firewall-replies", &[Cause::NoResponse]),
    Row { trunk: "firewall-reject", right: &[Cause::PortClosed, Cause::NoResponse], but: NO_ICMP },
    Row { trunk: "closed-far", right: &[Cause::PortClosed], but: NO_ICMP },
];

/// A cell of the table.
enum Cell {
    Right(String),
    Blind(&'static str),
    Wrong(String),
}

impl Row {
    /// Whether the right cause is among the alternatives.
    fn stands_beside(&self, said: Option<&Value>) -> bool {
        let alternatives = said.and_then(|said| said["alternatives"].as_array()).into_iter().flatten();
        let right = self.right.first().map(|cause| cause.as_str());
        alternatives.into_iter().any(|alternative| alternative["cause"].as_str() == right)
    }

    fn judge(&self, source: Source, said: Option<&Value>) -> Cell {
        let also = self.but.iter().find(|(of, _)| *of == source).map_or(&[][..], |(_, causes)| *causes);
        let word = said.map(|said| said["cause"].as_str().expect("a cause"));
        let confidence = said.and_then(|said| said["confidence"].as_f64()).unwrap_or_default();
        let is = |cause: &Cause| word == Some(cause.as_str());
        match word {
            None if self.right.is_empty() => Cell::Right("✓".to_owned()),
            None if also.contains(&Cause::Unknown) => Cell::Blind("–"),
            None => Cell::Wrong("nothing".to_owned()),
            Some(_) if self.right.first().is_some_and(is) => Cell::Right(format!("✓ {confidence:.2}")),
            Some("unknown") if also.contains(&Cause::Unknown) => Cell::Blind("unknown"),
            Some(word) if also.iter().any(is) || (self.right.iter().any(is) && self.stands_beside(said)) => {
                Cell::Right(format!("✓ {confidence:.2} {word}"))
            }
            Some(word) => Cell::Wrong(format!("{word} {confidence:.2}")),
        }
    }
}

/// One lab with everything that watches it.
struct Watched {
    lab: Lab,
    rows: &'static [Row],
    live: [(Source, Program); 2],
    files: [(Source, PathBuf); 2],
}

impl Watched {
    fn start(lab: Lab, rows: &'static [Row]) -> Self {
        // The PBX's own loopback may be another one than ours: then the usual port is free for certain.
        let free = || UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        let port = if lab.namespace().is_some() { 9060 } else { free() };
        lab.hep(port, 7, "hep-secret");
        let files = [(Source::Capture, lab.capture()), (Source::Logger, lab.logger())];
        let hep = format!(
            "[pbx.evidence]\nhistory = \"off\"\ncapture_id = 7\n[hep]\nlisten = \"127.0.0.1:{port}\"\npassword = \"hep-secret\"\n"
        );
        let start = |more: &str| Program::start_beside(&lab, &for_lab(&lab, more));
        let live = [(Source::Hep, start(&hep)), (Source::History, start("[pbx.evidence]\nhistory = \"auto\"\n"))];
        lab.start_again(Instance::Pbx);
        Self { lab, rows, live, files }
    }

    /// What the program says by itself.
    fn said_live(program: &Program, trunk: &str) -> Option<Value> {
        match program.try_get(&format!("/api/v1/trunks/pbx1/{trunk}/diagnosis"))? {
            (200, diagnosis) => Some(diagnosis),
            (404, _) => None,
            other => panic!("{trunk}: {other:?}"),
        }
    }

    /// What the command says of a file, by the user part of the client URI, which is the trunk's name here.
    fn said_of_file(&self, source: Source, file: &Path) -> BTreeMap<String, Value> {
        let option = if source == Source::Capture { "--pcap" } else { "--log" };
        let conf = self.lab.addresses(Instance::Pbx).etc.join("pjsip.conf");
        let mut command = Command::new(env!("CARGO_BIN_EXE_trunkwarden"));
        command.args(["diagnose", "--json", option]).arg(file).arg("--pjsip-conf").arg(conf);
        let output = command.output().expect("the command");
        let said = String::from_utf8_lossy(&output.stdout);
        let said: Value = serde_json::from_str(&said)
            .unwrap_or_else(|error| panic!("{error}: {said}{}", String::from_utf8_lossy(&output.stderr)));
        let mut by_trunk = BTreeMap::new();
        for item in said["items"].as_array().expect("items") {
            let subject = &item["subject"];
            let user = subject["client_uri"].as_str().and_then(|uri| uri.strip_prefix("sip:")?.split('@').next());
            let name = user.or_else(|| subject["registration"].as_str());
            let name = name.unwrap_or_else(|| panic!("whose is it? {item:#}")).to_owned();
            if let Some(before) = by_trunk.insert(name, item.clone()) {
                panic!("two diagnoses of one registration: {before:#} {item:#}");
            }
        }
        by_trunk
    }

    /// Whether everything that is heard live is said already.
    fn all_said(&self) -> bool {
        self.live.iter().all(|(source, program)| {
            self.rows
                .iter()
                .all(|row| !matches!(row.judge(*source, Self::said_live(program, row.trunk).as_ref()), Cell::Wrong(_)))
        })
    }

    /// While Asterisk waits 32 s for an answer it still says `Registered`: the program must have said then that the refresh is overdue.
    fn overdue_was_said(&self, wrong: &mut String) {
        for (source, program) in &self.live {
            let words = program.words("pbx1/goes-silent", "diagnosis");
            let both = [Cause::RefreshOverdue.as_str(), Cause::NoResponse.as_str()];
            // The feed shows the refresh going unanswered before the console calls it overdue.
            let right = words == both || (*source == Source::Hep && words == both[1..]);
            if !right {
                let _ = writeln!(wrong, "goes-silent by {source}: said {words:?}");
            }
        }
    }

    /// A line per trunk; what is wrong goes to `wrong`.
    fn table(&self, wrong: &mut String) -> String {
        self.lab.end_captures();
        let files = self.files.each_ref().map(|(source, file)| (*source, self.said_of_file(*source, file)));
        let mut table = String::new();
        for row in self.rows {
            let name = row.right.first().map_or("(well)", |cause| cause.as_str());
            let _ = write!(table, "{:<24}{name:<26}", row.trunk);
            for source in SOURCES {
                let said = match files.iter().find(|(of, _)| *of == source) {
                    Some((_, said)) => said.get(row.trunk).cloned(),
                    None => {
                        let (_, program) = self.live.iter().find(|(of, _)| *of == source).expect("a program");
                        Self::said_live(program, row.trunk)
                    }
                };
                let cell = match row.judge(source, said.as_ref()) {
                    Cell::Right(text) => text,
                    Cell::Blind(text) => text.to_owned(),
                    Cell::Wrong(text) => {
                        let _ = writeln!(wrong, "{} by {source}: {text}: {:#}", row.trunk, said.unwrap_or_default());
                        format!("WRONG {text}")
                    }
                };
                let _ = write!(table, "{cell:<28}");
            }
            table.truncate(table.trim_end().len());
            table.push('\n');
        }
        table
    }

    /// Every secret and every digest that went over the wire: none may be kept or said.
    fn secrets(&self) -> Vec<String> {
        let mut secrets =
            vec!["not-this".to_owned(), "hep-secret".to_owned(), self.lab.secret("trunkwarden").to_owned()];
        let log = self.files.iter().find(|(source, _)| *source == Source::Logger).map(|(_, log)| log).expect("a log");
        let log = std::fs::read(log).expect("the log");
        let log = String::from_utf8_lossy(&log);
        let responses = log.split("response=\"").skip(1).filter_map(|rest| rest.split('"').next());
        secrets.extend(responses.map(str::to_owned));
        assert!(secrets.len() > 3, "no digest in the log");
        let trunks = self.lab.addresses(Instance::Pbx).etc.join("pjsip.d");
        for file in std::fs::read_dir(trunks).expect("its configuration").flatten() {
            let text = std::fs::read_to_string(file.path()).expect("a file");
            let hashes = text.lines().filter_map(|line| {
                line.strip_prefix("md5_cred = ").or_else(|| line.strip_prefix("password_digest = MD5:"))
            });
            secrets.extend(hashes.map(str::to_owned));
        }
        secrets
    }
}

#[test]
fn each_cause_is_told_by_each_source_that_can_show_it() {
    let (Some(causes), Some(nat)) = (Lab::causes(), Lab::behind_nat()) else { return };
    let watched = [Watched::start(causes, CAUSES), Watched::start(nat, BEHIND_NAT)];
    let began = now();
    // What is not said by then is judged as it is.
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually(AT_MOST, "everything said", || {
            std::thread::sleep(Duration::from_millis(500));
            (seconds(began, now()) > AT_LEAST && watched.iter().all(Watched::all_said)).then_some(())
        });
    }));
    let (mut table, mut wrong) = (format!("{:<24}{:<26}", "trunk", "cause"), String::new());
    SOURCES.iter().for_each(|source| table.push_str(&format!("{:<28}", source.as_str())));
    table.truncate(table.trim_end().len());
    table.push('\n');
    watched.iter().for_each(|one| table.push_str(&one.table(&mut wrong)));
    eprintln!("MEASURED cause by source, with its confidence, {:.0} s after the start\n{table}", seconds(began, now()));
    watched[0].overdue_was_said(&mut wrong);
    assert!(wrong.is_empty(), "{table}\n{wrong}");
    for one in watched {
        let secrets = one.secrets();
        let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
        one.live.into_iter().for_each(|(_, program)| program.end(&secrets));
    }
}
