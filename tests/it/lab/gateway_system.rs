//! The whole gateway on a real Asterisk: a dialer that speaks plain AMI to the program, and a trunk that fails under it.
//!
//! The trunk `airtel` registers at the lab's registrar, so that its account can be switched, and its calls go to the
//! provider, where they are answered and stay up.

use std::net::{SocketAddr, TcpListener, TcpStream};

use serde_json::{Value, json};
use trunkwarden::clock::Timestamp;

use super::program::{Dialer, Program, SOON, campaign, for_lab};
use super::raw_ami::{Message, RawAmi, header};
use super::{Behaviour, Instance, Lab, eventually};

type Ami = RawAmi<TcpStream>;

const QUICK: &str = "[health]\nrecovery = \"2s\"\n";
const AIRTEL: &str = "PJSIP/100@airtel";
/// The secrets of the gateway's users, and of the gateway's own.
const SECRETS: [&str; 4] = ["crm-knows", "second-knows", "secret-gate", "secret-trunkwarden"];

/// A port that nobody listens on.
fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

/// A `[[gateway.user]]` who may do everything that is not closed.
fn user(name: &str, more: &str) -> String {
    format!(
        "[[gateway.user]]\nname = \"{name}\"\nsecret = \"{name}-knows\"\nread = [\"all\"]\nwrite = [\"all\", \"command\"]\n{more}"
    )
}

/// A `[gateway]` with the user `crm`; `more` are keys of its own, `tables` what follows.
fn gateway(listen: SocketAddr, more: &str, tables: &str) -> String {
    format!(
        "{QUICK}[gateway]\npbx = \"pbx1\"\nlisten = \"{listen}\"\nupstream = {{ username = \"gate\", secret = \"secret-gate\" }}\n{more}{}{tables}",
        user("crm", "")
    )
}

/// A lab with the trunks `airtel` and `tata`, a phone `200`, and the gateway's user at Asterisk.
fn prepared() -> Option<Lab> {
    let lab = Lab::bare()?;
    let (registrar, provider) = (lab.registrar_address(), lab.addresses(Instance::Provider).sip);
    let airtel = format!(
        "[airtel-auth]\ntype=auth\nauth_type=userpass\nusername=airtel\npassword=pw-airtel\n\
         [airtel]\ntype=endpoint\ntransport=udp\ncontext=default\ndisallow=all\nallow=ulaw\naors=airtel\nfrom_user=caller\n\
         [airtel]\ntype=aor\ncontact=sip:caller@{provider}\n\
         [airtel]\ntype=registration\ntransport=udp\noutbound_auth=airtel-auth\nserver_uri=sip:{registrar}\nclient_uri=sip:airtel@{registrar}\n\
         contact_user=airtel\nendpoint=airtel\nline=yes\nretry_interval=5\nforbidden_retry_interval=20\nfatal_retry_interval=20\nmax_retries=10000\n\
         auth_rejection_permanent=no\nexpiration=60\nmax_random_initial_delay=1\n"
    );
    lab.put(Instance::Pbx, "pjsip.d/airtel.conf", &airtel);
    let answering = "[caller]\ntype=endpoint\ntransport=udp\ncontext=answering\ndisallow=all\nallow=ulaw\naors=caller\n[caller]\ntype=aor\n";
    lab.put(Instance::Provider, "pjsip.d/caller.conf", answering);
    lab.cli(Instance::Provider, "module reload res_pjsip.so");
    let phone = "[200]\ntype=endpoint\ntransport=udp\ncontext=default\ndisallow=all\nallow=ulaw\naors=200\n[200]\ntype=aor\nmax_contacts=1\n";
    lab.put(Instance::Pbx, "pjsip.d/phone.conf", phone);
    let dialplan = "[default]\n[through]\nexten = _X.,1,Dial(PJSIP/${EXTEN}@airtel)\n[either]\nexten = _X.,1,Dial(PJSIP/${EXTEN}@tata)\n\
                    [phones]\nexten = _X.,1,Wait(600)\n[unheard]\nexten = _X.,1,Wait(600)\n";
    lab.put(Instance::Pbx, "extensions.conf", dialplan);
    lab.cli(Instance::Pbx, "dialplan reload");
    lab.ami_user("gate", "all", "all");
    lab.cli(Instance::Pbx, "manager reload");
    lab.set("airtel", Behaviour::Ok);
    lab.write_trunks(&[json!({ "name": "tata" })]);
    Some(lab)
}

fn register(lab: &Lab) {
    let mut ami = RawAmi::login(lab.ami_address(), "trunkwarden", lab.secret("trunkwarden"));
    let answer = ami.act("Action: PJSIPRegister\r\nRegistration: airtel\r\n");
    assert_eq!(header(&answer, "Response"), "Success", "{answer:?}");
}

/// Logs in at the gateway, which may not listen yet.
fn log_in(address: SocketAddr, user: &str) -> Ami {
    eventually(SOON, "the gateway listens", || TcpStream::connect(address).ok());
    RawAmi::login(address, user, &format!("{user}-knows"))
}

fn ready(program: &Program) {
    for trunk in ["pbx1/airtel", "pbx1/tata"] {
        program.wait_for(trunk, "stable", true, SOON);
    }
}

/// Originates a call that stays up once it is answered.
fn originate(ami: &mut Ami, channel: &str) -> Message {
    ami.act(&format!(
        "Action: Originate\r\nActionID: 4711_12#ACME\r\nChannel: {channel}\r\nApplication: Wait\r\nData: 600\r\nAsync: true\r\nTimeout: 20000\r\n"
    ))
}

fn passes(answer: &Message) {
    assert_eq!(header(answer, "Response"), "Success", "{answer:?}");
}

/// The words of a refusal, which bears the whole id.
fn refused(answer: &Message) -> String {
    assert_eq!((header(answer, "Response"), header(answer, "ActionID")), ("Error", "4711_12#ACME"), "{answer:?}");
    let words = header(answer, "Message").strip_prefix("trunkwarden: ");
    words.unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

fn is_held(answer: &Message) -> String {
    let words = refused(answer);
    assert!(words.starts_with("trunk pbx1/airtel is held (") && words.ends_with(')'), "{words}");
    words
}

/// Live channels of `airtel`.
fn channels(lab: &Lab) -> usize {
    let text = lab.cli(Instance::Pbx, "core show channels concise");
    text.lines().filter(|line| line.starts_with("PJSIP/airtel-")).count()
}

fn hang_up_all(lab: &Lab) {
    eventually(SOON, "the end of all calls", || {
        lab.cli(Instance::Pbx, "channel request hangup all");
        (channels(lab) == 0).then_some(())
    });
}

fn counted(program: &Program) -> u64 {
    let hold = program.holds("pbx1/airtel").pop().expect("a hold");
    hold["refused_calls"].as_u64().expect("a figure")
}

fn waits_for_count(program: &Program, calls: u64) {
    let mut last = 0;
    let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually(SOON, "the count", || {
            last = counted(program);
            (last == calls).then_some(())
        });
    }));
    assert!(waited.is_ok(), "{calls} refused calls expected, {last} counted");
}

#[test]
fn calls_on_a_trunk_that_fails_are_refused_at_once_counted_through_a_crash_and_told_at_its_release() {
    let Some(lab) = prepared() else { return };
    let (dialer, listen, feed) = (Dialer::start(), free(), free());
    let rules = "[[gateway.rule]]\ncontext = \"through\"\ntrunks = [\"pbx1/airtel\"]\n\
                 [[gateway.rule]]\ncontext = \"either\"\nexten = \"_X.\"\ntrunks = [\"pbx1/airtel\", \"pbx1/tata\"]\nhold_when = \"all\"\n\
                 [[gateway.rule]]\ncontext = \"phones\"\ntrunks = []\n";
    let people = dialer.configuration("").replacen("[[dialer]]\nid = \"crm\"\nkind = \"webhook\"\n", "[[notify]]\n", 1);
    let more = [
        gateway(listen, "", rules),
        dialer.configuration(""),
        campaign("7", "pbx1/airtel", ""),
        format!("{people}types = [\"trunk.health\"]\n"),
        format!("[hep]\nlisten = \"{feed}\"\npassword = \"feed-knows\"\n"),
    ];
    let mut program = Program::start(&for_lab(&lab, &more.concat()));
    lab.hep(feed.port(), 1, "feed-knows");
    ready(&program);
    let mut ami = log_in(listen, "crm");

    // -- well: it passes, reaches the provider and is answered there
    passes(&originate(&mut ami, AIRTEL));
    let made = ami.event("OriginateResponse", |_| true).expect("an answer");
    let (response, id) = (header(&made, "Response"), header(&made, "ActionID"));
    assert_eq!((response, id, header(&made, "Reason")), ("Success", "4711_12#ACME", "4"), "{made:?}");
    hang_up_all(&lab);

    // -- it fails: whoever has read of it is refused with the very next call
    lab.set("airtel", Behaviour::ForbiddenAfterCredentials);
    register(&lab);
    let rejected = ami.event("Registry", |seen| {
        header(seen, "Username").starts_with("sip:airtel@") && header(seen, "Status") == "Rejected"
    });
    rejected.expect("the rejection passes too");
    let words = is_held(&originate(&mut ami, AIRTEL));
    let since = words.split_once("down since ").and_then(|(_, rest)| rest.split_once("Z: ")).map(|(time, _)| time);
    assert!(since.is_some_and(|time| format!("{time}Z").parse::<Timestamp>().is_ok()), "{words}");
    let mut calls = 1;
    let words = eventually(SOON, "the cause", || {
        calls += 1;
        let words = is_held(&originate(&mut ami, AIRTEL));
        words.contains("account_forbidden").then_some(words)
    });
    assert!(words.contains("403"), "{words}");

    // -- in every form; others pass
    for form in [
        "Action: Originate\r\nActionID: 4711_12#ACME\r\nChannel: PJSIP//100@airtel\r\nApplication: Wait\r\nData: 1\r\n",
        "Action:Originate\r\nActionID:4711_12#ACME\r\nChannel:PJSIP/airtel/sip:100@127.0.0.1\r\nApplication:Wait\r\n",
        "action: originate\nactionid: 4711_12#ACME\nchannel: pjsip/100@AIRTEL\napplication: wait\ndata: 1\n",
        "Action: Originate\r\nActionID: 4711_12#ACME\r\nChannel: PJSIP/200\r\nApplication: Dial\r\nData: PJSIP/100@airtel,30,g\r\n",
        "Action: Originate\r\nActionID: 4711_12#ACME\r\nChannel: PJSIP/200&PJSIP/1@airtel\r\nApplication: Wait\r\nData: 1\r\n",
        "Action: Originate\r\nActionID: 4711_12#ACME\r\nChannel: Local/100@through/n\r\nApplication: Wait\r\nData: 1\r\n",
        "Action: Originate\r\nActionID: 4711_12#ACME\r\nChannel: PJSIP/200\r\nContext: through\r\nExten: 100\r\nPriority: 1\r\n",
    ] {
        let answer = ami.act(form);
        is_held(&answer);
        calls += 1;
    }
    let unresolved = refused(&originate(&mut ami, "Local/100@unheard"));
    assert!(
        unresolved.starts_with("Local/100@unheard may lead to any trunk, and trunk pbx1/airtel is held"),
        "{unresolved}"
    );
    for other in ["PJSIP/100@tata", "PJSIP/200", "Local/100@either", "Local/100@phones"] {
        passes(&originate(&mut ami, other));
    }
    assert_eq!(channels(&lab), 0, "nothing was dialed on the trunk");
    hang_up_all(&lab);

    // -- counted, and through a crash: what was counted is there again, and the gate holds from the first call on
    waits_for_count(&program, calls);
    let hold = program.holds("pbx1/airtel").pop().expect("a hold");
    program.kill();
    assert!(ami.try_act("Action: Ping\r\n").is_err(), "dialers are cut off with the controller");
    program.start_again();
    let mut ami = log_in(listen, "crm");
    is_held(&originate(&mut ami, AIRTEL));
    calls += 1;
    program.wait_for("pbx1/tata", "stable", true, SOON);
    let before = calls;
    while calls < 25 {
        is_held(&originate(&mut ami, AIRTEL));
        calls += 1;
    }
    waits_for_count(&program, 25);
    assert_eq!(program.holds("pbx1/airtel").pop().expect("a hold")["id"], hold["id"]);
    let since_start = calls - before + 1;
    let metrics = program.get("/metrics");
    let metrics = metrics.as_str().expect("text");
    let line = |words: &[&str]| {
        let found = metrics.lines().find(|line| !line.starts_with('#') && words.iter().all(|word| line.contains(word)));
        let figure = found.and_then(|line| line.rsplit_once(' ')).map(|(_, figure)| figure.to_owned());
        figure.unwrap_or_else(|| panic!("no {words:?}: {metrics}"))
    };
    let originates = ["trunkwarden_gateway_originates_total{", "pbx1/airtel", "outcome=\"refused\""];
    assert_eq!(line(&originates), since_start.to_string(), "counted since the start");
    assert_eq!(line(&["trunkwarden_hold_refused_calls{", "pbx1/airtel"]), "25");
    assert_eq!(line(&["trunkwarden_gateway_clients "]), "1");

    // -- well again: who is told, is told what it saved
    lab.set("airtel", Behaviour::Ok);
    register(&lab);
    program.wait_for("pbx1/airtel", "stable", true, SOON);
    passes(&originate(&mut ami, AIRTEL));
    hang_up_all(&lab);
    let resume = dialer.wait_for("7", &["campaign.pause", "campaign.resume"], SOON);
    let says = |data: &Value| {
        assert_eq!(data["refused_calls"], 25, "{data:#}");
        assert!(data["reason"].as_str().is_some_and(|reason| reason.ends_with("25 calls not burned")), "{data:#}");
    };
    says(&resume.data);
    let notice = eventually(SOON, "the notice", || {
        dialer.messages().into_iter().find(|one| {
            one.kind == "trunk.health"
                && one.data["trunk"] == "pbx1/airtel"
                && one.data["to"] == "stable"
                && one.data["refused_calls"] != 0
        })
    });
    says(&notice.data);
    let ended = program.holds("pbx1/airtel").pop().expect("a hold");
    assert!(ended["released_at"].is_string() && ended["refused_calls"] == 25, "{ended:#}");
    let last = |kind: &str| program.history("pbx1/airtel", kind).pop().expect("an entry");
    for kind in ["hold", "gate"] {
        let entry = last(kind);
        assert_eq!(entry["detail"]["refused_calls"], 25, "{entry:#}");
    }
    let availability = program.get("/api/v1/trunks/pbx1/airtel/availability?since=1h");
    assert_eq!(availability["calls_refused"], 25, "{availability:#}");
    program.end(&[&SECRETS[..], &["feed-knows"]].concat());
}

#[test]
fn closed_ways_to_dial_are_answered_with_the_word_that_opens_them_and_a_person_opens_and_closes_the_gate() {
    let Some(lab) = prepared() else { return };
    lab.put(Instance::Pbx, "cli_aliases.conf", "[general]\ntemplate = own\n[own]\nring up = channel originate\n");
    lab.cli(Instance::Pbx, "module load res_clialiases.so");
    assert!(lab.cli(Instance::Pbx, "cli show aliases").contains("ring up"), "the alias is there");
    let listen = free();
    let program = Program::start(&for_lab(&lab, &gateway(listen, "", "")));
    ready(&program);
    let mut ami = log_in(listen, "crm");
    for (action, word) in [
        ("Action: Command\r\nCommand: channel originate PJSIP/100@airtel application Wait 1\r\n", "command"),
        ("Action: Command\r\nCommand: chan\\nel  \"originate\" PJSIP/100@airtel application Wait 1\r\n", "command"),
        ("Action: Command\r\nCommand: ring up PJSIP/100@airtel application Wait 1\r\n", "command"),
        ("Action: Command\r\nCommand: dialplan add extension 1,1,Dial,PJSIP/100@airtel into default\r\n", "command"),
        ("Action: Redirect\r\nChannel: PJSIP/200-1\r\nContext: through\r\nExten: 100\r\nPriority: 1\r\n", "redirect"),
        ("Action: AGI\r\nChannel: PJSIP/200-1\r\nCommand: EXEC Dial PJSIP/100@airtel\r\n", "agi"),
        ("Action: Setvar\r\nChannel: PJSIP/200-1\r\nVariable: BLINDTRANSFER\r\nValue: 100\r\n", "setvar"),
        ("Action: Originate\r\nChannel: PJSIP/200\r\nApplication: Gosub\r\nData: through,100,1\r\n", "application"),
    ] {
        let words = refused(&ami.act(&format!("{action}ActionID: 4711_12#ACME\r\n")));
        assert!(
            words.contains(&format!("is closed, as it can dial past the gate; unguarded = [\"{word}\"]")),
            "{words}"
        );
    }
    let answer = ami.act("Action: Command\r\nCommand: core show channels count\r\n");
    passes(&answer);
    passes(&ami.act("Action: Setvar\r\nVariable: HARMLESS\r\nValue: 1\r\n"));
    assert_eq!(channels(&lab), 0);

    // -- a person holds and releases: the very next call is judged so
    for _ in 0..3 {
        let said = program.run(&["hold", "pbx1/airtel", "--reason", "SIM swap"]);
        assert_eq!(said.code, 0, "{said:?}");
        let words = is_held(&originate(&mut ami, AIRTEL));
        assert!(words.contains("SIM swap") && words.contains("health stable"), "{words}");
        passes(&originate(&mut ami, "PJSIP/100@tata"));
        let said = program.run(&["release", "pbx1/airtel", "--reason", "swapped"]);
        assert_eq!(said.code, 0, "{said:?}");
        passes(&originate(&mut ami, AIRTEL));
    }
    let holds = program.holds("pbx1/airtel");
    let counts: Vec<&Value> = holds.iter().map(|hold| &hold["refused_calls"]).collect();
    assert_eq!(counts, [1, 1, 1], "{holds:#?}");
    hang_up_all(&lab);
    program.end(&SECRETS);
}

#[test]
fn before_the_trunks_are_listed_no_call_passes_that_may_be_on_one() {
    let Some(lab) = prepared() else { return };
    // A user who logs in and may list nothing.
    lab.ami_user("blind", "system,call", "");
    lab.cli(Instance::Pbx, "manager reload");
    let listen = free();
    let rules = "[[gateway.rule]]\ncontext = \"phones\"\ntrunks = []\n";
    let configuration =
        super::program::configuration(lab.ami_address(), "blind", "secret-blind", &gateway(listen, "", rules));
    let program = Program::start(&configuration);
    let mut ami = log_in(listen, "crm");
    let words = refused(&originate(&mut ami, AIRTEL));
    assert_eq!(words, "the trunks of pbx1 are not listed yet, airtel may be one");
    let words = refused(&originate(&mut ami, "Local/100@unheard"));
    assert!(words.starts_with("Local/100@unheard may lead to any trunk, and the trunks are not listed yet"), "{words}");
    passes(&originate(&mut ami, "Local/100@phones"));
    assert_eq!(channels(&lab), 0);
    hang_up_all(&lab);
    program.end(&[&SECRETS[..3], &["secret-blind"]].concat());
}

#[test]
fn limits_hold_over_what_asterisk_has_and_a_call_that_never_was_gives_its_place_back() {
    let Some(lab) = prepared() else { return };
    let listen = free();
    let two = "[gateway.limits]\ncalls = 2\n";
    let program = Program::start(&for_lab(&lab, &gateway(listen, "", two)));
    ready(&program);
    let mut ami = log_in(listen, "crm");

    // -- two places: calls that made no channel give theirs back
    for _ in 0..5 {
        // To Asterisk neither an AOR nor a URI.
        passes(&originate(&mut ami, "PJSIP/airtel/nonsense"));
        let response = ami.event("OriginateResponse", |_| true).expect("an answer");
        assert_eq!((header(&response, "Response"), header(&response, "Reason")), ("Failure", "0"), "{response:?}");
    }
    assert_eq!(channels(&lab), 0);
    for _ in 0..2 {
        passes(&originate(&mut ami, AIRTEL));
    }
    let words = refused(&originate(&mut ami, AIRTEL));
    assert_eq!(words, "trunk pbx1/airtel takes no more now: 2 calls at once");
    eventually(SOON, "two calls", || (channels(&lab) == 2).then_some(()));
    let words = refused(&originate(&mut ami, AIRTEL));
    assert_eq!(words, "trunk pbx1/airtel takes no more now: 2 calls at once");
    let text = lab.cli(Instance::Pbx, "core show channels concise");
    let channel = text.split('!').next().expect("a channel").to_owned();
    lab.cli(Instance::Pbx, &format!("channel request hangup {channel}"));
    eventually(SOON, "a free place", || (header(&originate(&mut ami, AIRTEL), "Response") == "Success").then_some(()));
    eventually(SOON, "two calls", || (channels(&lab) == 2).then_some(()));

    // -- over = "wait": the third passes when one hangs up, and is refused when none does
    let waiting = "[gateway.limits]\ncalls = 2\nover = \"wait\"\nwait = \"3s\"\n";
    program.configure(&for_lab(&lab, &gateway(listen, "", waiting)));
    program.hang_up();
    program.wait_for_log(&["the configuration was read again"]);
    let (words, freed) = std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let answer = originate(&mut ami, AIRTEL);
            (header(&answer, "Response").to_owned(), trunkwarden::clock::Clock::now(&trunkwarden::clock::SystemClock))
        });
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert!(!waits.is_finished(), "it waits");
        let text = lab.cli(Instance::Pbx, "core show channels concise");
        let channel = text.split('!').next().expect("a channel").to_owned();
        let freed = super::program::now();
        lab.cli(Instance::Pbx, &format!("channel request hangup {channel}"));
        (waits.join().expect("the dialer"), freed)
    });
    assert_eq!(words.0, "Success");
    assert!(super::program::seconds(freed, words.1) < 1.0, "it passes when there is room");
    eventually(SOON, "two calls", || (channels(&lab) == 2).then_some(()));
    let began = super::program::now();
    let refusal = refused(&originate(&mut ami, AIRTEL));
    assert_eq!(refusal, "trunk pbx1/airtel takes no more now: 2 calls at once");
    let waited = super::program::seconds(began, super::program::now());
    assert!((2.9..4.0).contains(&waited), "{waited}");
    hang_up_all(&lab);

    // -- originates a second, and less of them after a hold
    let rate = "[gateway.limits]\nper_second = 3\nramp = { per_second = 1, lasting = \"60s\" }\n";
    program.configure(&for_lab(&lab, &gateway(listen, "", rate)));
    program.hang_up();
    eventually(SOON, "the reload", || {
        (program.log().matches("the configuration was read again").count() == 2).then_some(())
    });
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let said: Vec<String> = (0..5).map(|_| header(&originate(&mut ami, AIRTEL), "Response").to_owned()).collect();
    assert_eq!(said, ["Success", "Success", "Success", "Error", "Error"]);
    for args in [&["hold", "pbx1/airtel", "--reason", "x"][..], &["release", "pbx1/airtel", "--reason", "y"]] {
        let said = program.run(args);
        assert_eq!(said.code, 0, "{said:?}");
    }
    std::thread::sleep(std::time::Duration::from_millis(1100));
    passes(&originate(&mut ami, AIRTEL));
    let words = refused(&originate(&mut ami, AIRTEL));
    assert!(
        words.starts_with("trunk pbx1/airtel takes no more now: 1") && words.contains(" s after its hold ended"),
        "{words}"
    );
    let metrics = program.get("/metrics");
    assert!(metrics.as_str().is_some_and(|text| text.contains("outcome=\"limited\"")), "{metrics}");
    hang_up_all(&lab);
    program.end(&SECRETS);
}

#[test]
fn a_configuration_read_again_counts_for_the_gateway_and_observing_refuses_nothing() {
    let Some(lab) = prepared() else { return };
    let listen = free();
    let program = Program::start(&for_lab(&lab, &gateway(listen, "", "")));
    ready(&program);
    let mut ami = log_in(listen, "crm");
    let said = program.run(&["hold", "pbx1/airtel", "--reason", "x"]);
    assert_eq!(said.code, 0, "{said:?}");
    is_held(&originate(&mut ami, AIRTEL));
    let reload = |text: &str| {
        let before = program.log().matches("the configuration was read again").count();
        program.configure(&for_lab(&lab, text));
        program.hang_up();
        eventually(SOON, "the reload", || {
            (program.log().matches("the configuration was read again").count() > before).then_some(())
        });
    };

    // -- a second user; the first stays connected
    let strange = RawAmi::over(TcpStream::connect(listen).expect("the gateway"))
        .act("Action: Login\r\nUsername: second\r\nSecret: second-knows\r\n");
    assert_eq!(header(&strange, "Message"), "Authentication failed");
    reload(&gateway(listen, "", &user("second", "trunks = [\"pbx1/tata\"]\n")));
    let mut second = log_in(listen, "second");
    passes(&originate(&mut second, "PJSIP/100@tata"));
    let words = refused(&originate(&mut second, AIRTEL));
    assert_eq!(words, "trunk pbx1/airtel is not among those this user may dial on");
    passes(&ami.act("Action: Ping\r\n"));

    // -- the first is removed: cut off, and may not come again; the second stays
    let only = gateway(listen, "", "")
        .replace("name = \"crm\"\nsecret = \"crm-knows\"", "name = \"second\"\nsecret = \"second-knows\"");
    reload(&only);
    eventually(SOON, "the end of the first", || ami.try_act("Action: Ping\r\n").is_err().then_some(()));
    let answer = RawAmi::over(TcpStream::connect(listen).expect("the gateway"))
        .act("Action: Login\r\nUsername: crm\r\nSecret: crm-knows\r\n");
    assert_eq!(header(&answer, "Message"), "Authentication failed");
    is_held(&originate(&mut second, AIRTEL));

    // -- observing
    reload(&format!("[control]\nmode = \"observe\"\n{only}"));
    eventually(SOON, "the gate allows", || (program.gate("pbx1/airtel")["allow"] == true).then_some(()));
    passes(&originate(&mut second, AIRTEL));
    passes(&originate(&mut second, "Local/100@through"));
    hang_up_all(&lab);
    program.end(&SECRETS);
}
