//! Clients as they are, through the gateway to the lab's Asterisk: panoramisk, asterisk-rs-ami, and the sequence of asterisk-java.
//!
//! The first two are the published packages (`lab/clients/`), so that what a client takes for granted is not what we think it does.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::gateway_transparent::{Front, Wire, secret, trunk};
use super::{Instance, Lab, eventually, left_out};

/// While Asterisk boots, everything takes its time.
const BOOT: Duration = Duration::from_secs(40);
/// "At once" for a client.
const AT_ONCE: Duration = Duration::from_secs(1);

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/clients")
}

/// Runs a client with the port, the user, and a call on a trunk that allows and on one that is held; gives what it printed.
fn run(mut client: Command, front: &mut Front) -> String {
    front.hold("ok");
    let done = client
        .arg(front.address().port().to_string())
        .args(["everything", &secret("everything"), "PJSIP/100@prov-ok", "PJSIP/100@ok"])
        .stdin(Stdio::null())
        .output()
        .expect("a client that can be run");
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{out}{err}");
    assert_eq!(front.refusals.take(), [(trunk("ok"), 1)].into(), "the refused call is counted once");
    out.into_owned()
}

/// The interpreter with panoramisk; made once, and kept beside the lab's root.
fn python() -> Option<PathBuf> {
    let named = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = named("TRUNKWARDEN_LAB_CACHE")
        .or_else(|| named("XDG_CACHE_HOME").map(|cache| cache.join("trunkwarden-lab")))
        .or_else(|| named("HOME").map(|home| home.join(".cache/trunkwarden-lab")))?;
    let made =
        Command::new("bash").arg(clients().join("python")).arg(&cache).stdin(Stdio::null()).output().expect("bash");
    let out = String::from_utf8_lossy(&made.stdout);
    if made.status.success() {
        return Some(out.trim().into());
    }
    left_out(&format!("panoramisk: {out}{}", String::from_utf8_lossy(&made.stderr)))
}

#[test]
fn panoramisk_asks_lists_commands_and_dials_and_is_refused_on_a_held_trunk() {
    let Some(lab) = Lab::up() else { return };
    let Some(python) = python() else { return };
    let mut front = Front::to(&lab, lab.ami_address(), |_| {});
    let mut client = Command::new(python);
    client.arg(clients().join("panoramisk_client.py"));
    let said: serde_json::Value = serde_json::from_str(&run(client, &mut front)).expect("JSON");
    assert_eq!(said["authenticated"], true);
    assert_eq!(said["ping"], "Pong");
    assert!(said["endpoints"].as_u64().is_some_and(|count| count > 10), "{said}");
    assert!(said["command"][0] == "Success" && said["command"].to_string().contains("Asterisk"), "{said}");
    assert_eq!(
        said["allowed"],
        serde_json::json!(["Success", "Originate successfully queued", "OriginateResponse"]),
        "{said}"
    );
    assert_eq!(said["held"][0], "Error");
    let message = said["held"][1].as_str().expect("a message");
    assert!(message.starts_with("trunkwarden: trunk pbx1/ok is held (down since "), "{message}");
    for event in ["FullyBooted", "Newchannel", "Hangup"] {
        assert!(said["events"].as_array().is_some_and(|seen| seen.iter().any(|one| one == event)), "{event}: {said}");
    }
}

#[test]
fn asterisk_rs_ami_asks_lists_and_dials_and_is_refused_on_a_held_trunk() {
    let Some(lab) = Lab::up() else { return };
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("asterisk-rs-ami");
    let built = Command::new(option_env!("CARGO").unwrap_or("cargo"))
        .args(["build", "--quiet", "--locked", "--manifest-path"])
        .arg(clients().join("asterisk-rs-ami/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .stdin(Stdio::null())
        .output()
        .expect("cargo");
    if !built.status.success() {
        let _none: Option<()> = left_out(&format!("asterisk-rs-ami: {}", String::from_utf8_lossy(&built.stderr)));
        return;
    }
    let mut front = Front::to(&lab, lab.ami_address(), |_| {});
    let said = run(Command::new(target.join("debug/lab-client-asterisk-rs-ami")), &mut front);
    let lines: Vec<&str> = said.lines().collect();
    let [ping, endpoints, allowed, held, event] = lines.as_slice() else { panic!("{said}") };
    assert_eq!(*ping, "ping: Pong");
    let count = endpoints.strip_prefix("endpoints: ").and_then(|count| count.parse::<u32>().ok());
    assert!(count.is_some_and(|count| count > 10), "{said}");
    assert_eq!(*allowed, "originate: Success Originate successfully queued");
    assert!(held.starts_with("originate: Error trunkwarden: trunk pbx1/ok is held (down since "), "{held}");
    assert!(event.contains("OriginateResponse"), "{event}");
}

fn call(number: u32) -> String {
    format!(
        "action: Originate\r\nactionid: 4711_{number}#ACME\r\nasync: true\r\nchannel: PJSIP/100@prov-ok\r\napplication: Wait\r\n\
         data: 600\r\ntimeout: 20000\r\n\r\n"
    )
}

fn channels(lab: &Lab) -> usize {
    let text = lab.cli(Instance::Pbx, "core show channels concise");
    text.lines().filter(|line| line.starts_with("PJSIP/prov-ok-")).count()
}

/// How Asterisk goes away and comes back.
#[derive(Debug, Clone, Copy)]
enum Leave {
    Restart,
    Kill,
}

#[test]
fn a_client_of_asterisk_java_stays_over_restarts_and_kills_and_nothing_is_sent_twice() {
    let Some(lab) = Lab::up() else { return };
    let front = Front::to(&lab, lab.ami_address(), |_| {});
    let mut java = Wire::connect(front.address());
    java.md5_login("everything");
    assert!(java.ask("action: CoreSettings\r\nactionid: 1_3#\r\n\r\n").contains("AMIversion"));
    // In force before, in force after.
    let filter = "action: Filter\r\noperation: Add\r\nmatchcriteria: action(exclude),name(VarSet)\r\n\r\n";
    assert!(java.ask(filter).starts_with("Response: Success"));
    assert!(java.ask("action: Events\r\neventmask: system,call,dialplan\r\n\r\n").contains("Events: On"));
    // This one reads no `system`: directly, it is never told of a boot.
    let mut unbooted = Wire::login(front.address(), "unbooted", "");
    let mut number = 0;
    for leave in [Leave::Restart, Leave::Kill] {
        number += 1;
        assert!(java.ask(&call(number)).contains("Success"), "{leave:?}: a call before");
        eventually(BOOT, "a channel", || (channels(&lab) == 1).then_some(()));
        match leave {
            Leave::Restart => drop(lab.cli(Instance::Pbx, "core restart now")),
            Leave::Kill => lab.kill(Instance::Pbx),
        }
        let mut refused = 0;
        if matches!(leave, Leave::Kill) {
            for _ in 0..50 {
                number += 1;
                let (answer, took) = java.timed(&call(number));
                assert!(took < AT_ONCE, "{took:?}: {answer}");
                assert!(
                    answer.starts_with(&format!(
                        "Response: Error\r\nActionID: 4711_{number}#ACME\r\nMessage: trunkwarden: Asterisk is away"
                    )),
                    "{answer}"
                );
                refused += 1;
            }
            lab.start_again(Instance::Pbx);
        }
        let boot = java.event("FullyBooted");
        assert!(boot.contains("Status: Fully Booted"), "{boot}");
        eventually(BOOT, "no channel yet, whatever was asked meanwhile", || {
            lab.cli(Instance::Pbx, "core waitfullybooted").contains("fully booted").then_some(())
        });
        assert_eq!(channels(&lab), 0, "{leave:?}: {refused} refused calls were not kept");
        // Dials again, and mask and filter are in force.
        number += 1;
        java.settle();
        unbooted.settle();
        java.send(call(number));
        eventually(BOOT, "its channel", || (channels(&lab) >= 1).then_some(()));
        let mut other = Wire::login(lab.ami_address(), "everything", "Events: off\r\n");
        lab.cli(Instance::Pbx, "channel request hangup all");
        assert!(other.ask("Action: UserEvent\r\nUserEvent: Masked\r\n\r\n").contains("Success"));
        let seen = java.seen_until("Hangup");
        assert!(seen.contains("Event: Newchannel") && seen.contains("Event: Newexten"), "{leave:?}: {seen}");
        assert!(seen.contains("Response: Success"), "{leave:?}: {seen}");
        assert!(!seen.contains("Event: VarSet") && !seen.contains("Event: UserEvent"), "{leave:?}: {seen}");
        let seen = unbooted.seen_until("Hangup");
        assert!(seen.contains("Event: Newchannel") && !seen.contains("Event: FullyBooted"), "{leave:?}: {seen}");
        eventually(BOOT, "all calls have ended", || (channels(&lab) == 0).then_some(()));
        java.settle();
        unbooted.settle();
    }
}

#[test]
fn while_asterisk_is_frozen_nobody_is_dropped_and_what_waits_is_judged_when_it_goes_on() {
    let Some(lab) = Lab::up() else { return };
    let mut front = Front::to(&lab, lab.ami_address(), |_| {});
    let mut java = Wire::connect(front.address());
    java.md5_login("everything");
    java.settle();
    lab.freeze(Instance::Pbx);
    // Nobody can know yet that it is frozen, as without a gateway: the first is on its way, the others wait for its answer.
    for number in 1..=3 {
        java.send(call(number));
    }
    let unheard = Duration::from_secs(3);
    assert!(java.is_quiet_for(unheard), "an answer from a frozen Asterisk");
    // What waits behind it is refused like what comes now: nobody waits for a refusal.
    front.hold("prov-ok");
    java.send(call(4));
    let mut refused = vec![2, 3, 4];
    while !refused.is_empty() {
        let answer = java.next(|message| message.starts_with("Response:"));
        assert!(answer.contains("trunk pbx1/prov-ok is held"), "{answer}");
        refused.retain(|number| !answer.contains(&format!("ActionID: 4711_{number}#ACME\r\n")));
    }
    lab.thaw(Instance::Pbx);
    let answer = java.next(|message| message.starts_with("Response:") && message.contains("ActionID: 4711_1#ACME\r\n"));
    assert!(answer.starts_with("Response: Success"), "{answer}");
    eventually(BOOT, "the one channel", || (channels(&lab) == 1).then_some(()));
    java.settle();
    assert_eq!(channels(&lab), 1, "none twice");
}
