//! The lab, tested: what other tests take from it as given. Asterisk's states are those of its documentation and source, seen through raw AMI.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;

use super::raw_ami::{RawAmi, header};
use super::relay::Relay;
use super::{Behaviour, Instance, Lab, SLOW_TRUNKS, eventually};

const SOON: Duration = Duration::from_secs(8);

fn login(lab: &Lab) -> RawAmi<TcpStream> {
    RawAmi::login(lab.ami_address(), "trunkwarden", lab.secret("trunkwarden"))
}

/// Every registration of the PBX by name, with its state.
fn states(ami: &mut RawAmi<TcpStream>) -> BTreeMap<String, String> {
    ami.list("Action: PJSIPShowRegistrationsOutbound\r\n", "OutboundRegistrationDetail")
        .iter()
        .map(|item| (header(item, "ObjectName").to_owned(), header(item, "Status").to_owned()))
        .collect()
}

/// What each registration of `lab/trunks.py` comes to. In the first 32 s silence is still `Unregistered`.
fn documented() -> BTreeMap<String, String> {
    let registered = [
        "ok",
        "sha256-able",
        "short-grant",
        "contact-rewritten",
        "423",
        "named-out",
        "unlinked",
        "shared-out",
        "alone",
        "double-a",
        "double-b",
        "twin-1",
        "twin-2",
        "wizard-reg-0",
        "over-tcp",
        "prov-ok",
    ];
    let rejected = [
        "loop401",
        "403-after-credentials",
        "403-at-once",
        "404",
        "503-retry-after",
        "stale-nonce",
        "sha256-only",
        "closed-tcp",
        "no-dns",
        "prov-wrong-password",
        "prov-unknown-user",
        "prov-realm",
    ];
    let unregistered = ["silent", "closed-udp", "expires-0"];
    let all = registered.map(|name| (name, "Registered")).into_iter();
    let all = all.chain(rejected.map(|name| (name, "Rejected"))).chain(unregistered.map(|name| (name, "Unregistered")));
    all.map(|(name, state)| (name.to_owned(), state.to_owned())).collect()
}

#[test]
fn every_behaviour_comes_to_the_state_asterisk_documents() {
    let Some(lab) = Lab::up() else { return };
    let mut ami = login(&lab);
    assert!(ami.greeting.starts_with("Asterisk Call Manager/11."), "Asterisk 22 says 11.x: {}", ami.greeting);

    let mut last = BTreeMap::new();
    let wanted = documented();
    let reached = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually(SOON, "the documented states", || {
            last = states(&mut ami);
            last.retain(|name, _| !SLOW_TRUNKS.contains(&name.as_str()));
            (last == wanted).then_some(())
        });
    }));
    assert!(
        reached.is_ok(),
        "differs: {:#?}",
        last.iter().filter(|(name, state)| wanted.get(*name) != Some(state)).collect::<Vec<_>>()
    );

    // The registrar's side of the same story.
    let seen = |name: &str| lab.account(name);
    assert_eq!((seen("ok").last_code, seen("ok").good_credentials > 0), (200, true));
    assert_eq!((seen("loop401").last_code, seen("loop401").good_credentials > 0), (401, true));
    assert_eq!(
        (seen("403-after-credentials").last_code, seen("403-after-credentials").good_credentials > 0),
        (403, true)
    );
    assert_eq!((seen("403-at-once").last_code, seen("403-at-once").with_credentials), (403, 0));
    assert_eq!(
        (seen("sha256-only").last_code, seen("sha256-only").with_credentials),
        (401, 0),
        "MD5 only is Asterisk's default"
    );
    assert!(seen("sha256-able").good_credentials > 0);
    eventually(SOON, "a retransmission into the silence", || (seen("silent").retransmissions > 0).then_some(()));
    assert_eq!(seen("silent").last_code, 0);
    eventually(SOON, "OPTIONS to the trunk without a registration", || {
        (seen("unregistered").options_seen > 0).then_some(())
    });
    assert_eq!(seen("unregistered").registers, 0);

    // Asterisk's own intervals: it tries once, and gives up.
    eventually(Duration::from_secs(15), "the slow trunks' first attempt", || {
        let states = states(&mut ami);
        let slow = SLOW_TRUNKS.map(|name| states.get(name).map_or("", String::as_str).to_owned());
        (slow == ["Registered", "Rejected", "Rejected"]).then_some(())
    });
    let tried = (lab.registrar_count("default-403"), lab.registrar_count("default-loop401"));
    assert_eq!(tried, (1, 2), "one REGISTER, and one with its answer to the challenge");
}

#[test]
fn a_digest_is_really_checked() {
    let Some(lab) = Lab::bare() else { return };
    lab.write_trunks(&[
        json!({ "name": "right" }),
        json!({ "name": "wrong", "password": "not-this" }),
        json!({ "name": "stranger", "username": "somebody-else" }),
        json!({ "name": "other-realm", "realm": "elsewhere.lab.example" }),
    ]);
    let mut ami = login(&lab);
    eventually(SOON, "one registered, three rejected", || {
        let states = states(&mut ami);
        let word = |name: &str| states.get(name).map(String::as_str);
        let rejected = ["wrong", "stranger", "other-realm"].iter().all(|name| word(name) == Some("Rejected"));
        (word("right") == Some("Registered") && rejected).then_some(())
    });
    let seen = |name: &str| (lab.account(name).with_credentials > 0, lab.account(name).good_credentials > 0);
    assert_eq!(seen("right"), (true, true));
    assert_eq!(seen("wrong"), (true, false));
    assert_eq!(seen("stranger"), (true, false));
    assert_eq!(seen("other-realm"), (false, false), "no second REGISTER where the realm differs");
    assert_eq!(lab.account("stranger").last_username, "somebody-else");
}

#[test]
fn a_switch_to_403_and_back_is_seen_as_registry_events() {
    let Some(lab) = Lab::bare() else { return };
    let mut ami = login(&lab);
    lab.write_trunks(&[json!({ "name": "airtel" })]);
    assert_eq!(ami.registry("airtel", 1), ["Registered"]);

    // PJSIPRegister is an un-REGISTER and a REGISTER a second later; each outcome is an event.
    let register = "Action: PJSIPRegister\r\nRegistration: airtel\r\n";
    lab.set("airtel", Behaviour::ForbiddenAtOnce);
    assert_eq!(header(&ami.act(register), "Response"), "Success");
    assert_eq!(ami.registry("airtel", 1), ["Rejected"]);
    eventually(SOON, "the state in the list", || (states(&mut ami).get("airtel")? == "Rejected").then_some(()));

    lab.set("airtel", Behaviour::Ok);
    assert_eq!(header(&ami.act(register), "Response"), "Success");
    let mut after = ami.registry("airtel", 1);
    while after.last().is_none_or(|status| status != "Registered") {
        after.extend(ami.registry("airtel", 1));
        assert!(after.len() < 6, "{after:?}");
    }
    assert!(lab.account("airtel").registered);

    // By itself, without PJSIPRegister: a short grant is refreshed 10 s early, and each refresh is an event.
    lab.set_fields("airtel", json!({ "behaviour": "short-grant", "short_grant": 11 }));
    ami.act(register);
    while ami.registry("airtel", 1) != ["Registered"] {}
    assert_eq!(ami.registry("airtel", 2), ["Registered", "Registered"], "heartbeats");
    lab.set("airtel", Behaviour::ForbiddenAfterCredentials);
    while ami.registry("airtel", 1) != ["Rejected"] {}
}

#[test]
fn an_instance_is_stopped_started_frozen_and_changed_while_it_runs() {
    let Some(lab) = Lab::bare() else { return };
    let mut ami = login(&lab);

    // Trunks come and go by a reload.
    lab.write_trunks(&[json!({ "name": "one" }), json!({ "name": "two", "registration": "two-out", "qualify": 5 })]);
    eventually(SOON, "both registered", || {
        let both = states(&mut ami);
        (both.len() == 2 && both.values().all(|state| state == "Registered")).then_some(())
    });
    lab.drop_trunks(&["one"]);
    eventually(SOON, "one is gone", || {
        (states(&mut ami).keys().map(String::as_str).collect::<Vec<_>>() == ["two-out"]).then_some(())
    });
    eventually(SOON, "its un-REGISTER", || (lab.account("one").unregisters > 0).then_some(()));

    // Rights: `weak` may ask, hears no events, and runs no command; a change counts from the next login.
    let mut weak = RawAmi::login(lab.ami_address(), "weak", lab.secret("weak"));
    assert_eq!(states(&mut weak).len(), 1);
    let ping = "Action: Command\r\nCommand: core show uptime\r\n";
    assert_eq!(header(&weak.act(ping), "Message"), "Permission denied");
    lab.ami_user("weak", "", "reporting,command");
    assert_eq!(header(&weak.act(ping), "Message"), "Permission denied");
    let mut stronger = RawAmi::login(lab.ami_address(), "weak", lab.secret("weak"));
    assert_eq!(header(&stronger.act(ping), "Response"), "Success");

    // Frozen: the connection stays, nobody answers, even to a new one. Thawed: it goes on.
    lab.freeze(Instance::Pbx);
    ami.patience(Duration::from_millis(500));
    let silence = ami.try_act("Action: Ping\r\n").expect_err("no answer from a frozen process");
    assert!(matches!(silence.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silence}");
    assert!(TcpStream::connect(lab.ami_address()).is_ok(), "the kernel still accepts");
    lab.thaw(Instance::Pbx);
    ami.patience(Duration::from_secs(10));
    assert_eq!(header(&ami.act("Action: Ping\r\n"), "Ping"), "Pong");

    // Stopped, started, killed: the sockets tell.
    lab.stop(Instance::Pbx);
    assert_eq!(
        ami.event("Shutdown", |_| true).map(|event| header(&event, "Restart").to_owned()).ok().as_deref(),
        Some("False")
    );
    assert!(TcpStream::connect(lab.ami_address()).is_err());
    lab.start_again(Instance::Pbx);
    let mut ami = login(&lab);
    ami.event("FullyBooted", |_| true).expect("FullyBooted after the login");
    assert!(lab.cli(Instance::Pbx, "core show version").starts_with("Asterisk 22."));
    lab.kill(Instance::Pbx);
    assert!(ami.try_act("Action: Ping\r\n").is_err());
    lab.start_again(Instance::Pbx);
    eventually(SOON, "registered again", || (states(&mut login(&lab)).get("two-out")? == "Registered").then_some(()));
}

#[test]
fn a_cut_link_is_silent_and_gives_what_it_held_back_when_mended() {
    let Some(lab) = Lab::bare() else { return };
    let relay = Relay::to(lab.ami_address());
    let mut ami = RawAmi::login(relay.address(), "trunkwarden", lab.secret("trunkwarden"));
    relay.cut();
    ami.patience(Duration::from_millis(300));
    let silence = ami.try_act("Action: Ping\r\nActionID: held\r\n").expect_err("nothing passes");
    assert!(matches!(silence.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silence}");
    lab.write_trunks(&[json!({ "name": "meanwhile" })]);
    eventually(SOON, "what happens behind the cut", || lab.account("meanwhile").registered.then_some(()));

    relay.mend();
    ami.patience(SOON);
    assert_eq!(ami.registry("meanwhile", 1), ["Registered"], "the event came late, and came");

    relay.refuse();
    assert!(ami.try_act("Action: Ping\r\n").is_err());
    let mut byte = [0];
    let mut refused = TcpStream::connect(relay.address()).expect("the listener stands");
    assert!(matches!(std::io::Read::read(&mut refused, &mut byte), Ok(0) | Err(_)), "ended without a greeting");
    relay.mend();
    let mut ami = RawAmi::login(relay.address(), "trunkwarden", lab.secret("trunkwarden"));
    relay.hang_up();
    assert!(ami.try_act("Action: Ping\r\n").is_err());
    assert_eq!(relay.accepted(), 3);
}

fn tls(lab: &Lab, instance: Instance, authority: &Path) -> std::io::Result<String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).expect("a PEM file")).expect("an authority");
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).expect("a connection");
    let mut stream = TcpStream::connect(lab.addresses(instance).ami_tls)?;
    stream.set_read_timeout(Some(SOON))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    let mut ami = RawAmi::over(rustls::StreamOwned::new(connection, stream));
    let secret = lab.secret("trunkwarden");
    let answer =
        ami.try_act(&format!("Action: Login\r\nUsername: trunkwarden\r\nSecret: {secret}\r\nEvents: off\r\n"))?;
    Ok(header(&answer, "Response").to_owned())
}

#[test]
fn ami_over_tls_shows_a_certificate_that_can_be_checked() {
    let Some(lab) = Lab::bare() else { return };
    assert_eq!(tls(&lab, Instance::Pbx, lab.ca_file()).expect("a login over TLS"), "Success");
    let stranger = tls(&lab, Instance::Pbx, lab.other_ca_file()).expect_err("another authority");
    assert!(stranger.to_string().contains("UnknownIssuer"), "{stranger}");
    let misnamed = tls(&lab, Instance::Provider, lab.ca_file()).expect_err("another name");
    assert!(misnamed.to_string().contains("not valid for name"), "{misnamed}");
}

#[test]
fn labs_stand_side_by_side_and_leave_nothing_behind() {
    let Some(mut one) = Lab::bare() else { return };
    let Some(two) = Lab::bare() else { return };
    assert_ne!(one.ami_address(), two.ami_address());
    drop((login(&one), login(&two)));
    let process = |pid: u64| Path::new("/proc").join(pid.to_string());
    let of_two = process(two.pid(Instance::Pbx).expect("a process"));
    let (etc, address, state) = (two.addresses(Instance::Pbx).etc.clone(), two.ami_address(), two.state.clone());
    assert!(of_two.exists() && etc.exists());
    drop(two);
    assert!(!of_two.exists() && !etc.exists() && !state.exists());
    assert!(TcpStream::connect(address).is_err());

    // The worst end: the supervisor is killed and can tidy nothing up. The kernel ends its Asterisks.
    let of_one = process(one.pid(Instance::Pbx).expect("a process"));
    one.supervisor.kill().expect("a running supervisor");
    eventually(SOON, "the end of the orphan", || (!of_one.exists()).then_some(()));
}
