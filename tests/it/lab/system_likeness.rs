//! The simulated PBX against the real one: the same scenario on both, and the events of both side by side.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::json;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use trunkwarden::sim::{Behaviour as SimBehaviour, SimPbx, SimSettings, SimTrunk};

use super::program::runtime;
use super::raw_ami::{Message, RawAmi, header};
use super::{Behaviour, Lab, eventually};

/// Longer than the second that Asterisk waits before a new REGISTER, shorter than the 5 s of the first retry.
const QUIET: Duration = Duration::from_secs(3);
const NAME: &str = "airtel";

/// One of the two, as the scenario needs it.
struct Pbx<'a> {
    ami: RawAmi<TcpStream>,
    provider: Box<dyn Fn(bool) + Send + 'a>,
}

/// An event as a client can tell it from another: its name, its status, and which headers it has.
type Trait = (String, String, BTreeSet<String>);

impl<'a> Pbx<'a> {
    fn new(address: SocketAddr, secret: &str, provider: impl Fn(bool) + Send + 'a) -> Self {
        Self { ami: RawAmi::login(address, "trunkwarden", secret), provider: Box::new(provider) }
    }

    fn state(&mut self) -> Option<Message> {
        let items = self.ami.list("Action: PJSIPShowRegistrationsOutbound\r\n", "OutboundRegistrationDetail");
        items.into_iter().find(|item| header(item, "ObjectName") == NAME)
    }

    /// Does something, and gives the events that follow until it is quiet. Of a reload, that of the one module is kept:
    /// the simulation has no others.
    fn after(&mut self, action: &str) -> Vec<Trait> {
        self.ami.patience(Duration::from_secs(10));
        let answer = self.ami.act(action);
        assert_eq!(header(&answer, "Response"), "Success", "{action}: {answer:?}");
        self.ami.patience(QUIET);
        let mut seen = Vec::new();
        let known = ["Registry", "Reload", "ContactStatus", "ContactStatusDetail"];
        for _ in 0..100 {
            let next = known_event(&mut self.ami, &known);
            let Some(event) = next else { return seen };
            let module = header(&event, "Module");
            if header(&event, "Event") == "Reload" && module != "res_pjsip.so" {
                continue;
            }
            let names = event.iter().map(|(name, _)| name.clone()).filter(|name| name != "Timestamp").collect();
            seen.push((header(&event, "Event").to_owned(), header(&event, "Status").to_owned(), names));
        }
        panic!("no end: {seen:?}");
    }
}

/// The next event with one of these names; none when it is quiet.
fn known_event(ami: &mut RawAmi<TcpStream>, known: &[&str]) -> Option<Message> {
    ami.any_event(|event| known.contains(&header(event, "Event"))).ok()
}

/// Refused, well again, un-registered, registered, and reloaded; each step with its events, and the list's item after it.
fn scenario(pbx: &mut Pbx<'_>) -> Vec<(&'static str, Vec<Trait>, String, BTreeSet<String>)> {
    let (register, unregister, reload) = (
        format!("Action: PJSIPRegister\r\nRegistration: {NAME}\r\n"),
        format!("Action: PJSIPUnregister\r\nRegistration: {NAME}\r\n"),
        "Action: Reload\r\nModule: res_pjsip.so\r\n".to_owned(),
    );
    let steps = [
        ("registered anew", true, &register),
        ("refused", false, &register),
        ("reloaded while it is refused", false, &reload),
        ("well again", true, &register),
        ("reloaded while it is well", true, &reload),
        ("un-registered", true, &unregister),
        ("reloaded while it is un-registered", true, &reload),
        ("registered from there", true, &register),
    ];
    let mut told = Vec::new();
    for (name, well, action) in steps {
        (pbx.provider)(well);
        let events = pbx.after(action);
        pbx.ami.patience(Duration::from_secs(10));
        let item = pbx.state().expect("the registration");
        let names = item.iter().map(|(name, _)| name.clone()).collect();
        told.push((name, events, header(&item, "Status").to_owned(), names));
    }
    told
}

#[test]
fn a_simulated_pbx_tells_the_same_story_as_a_real_one() {
    let Some(lab) = Lab::bare() else { return };
    // Refused for good, as Asterisk does by default, so that a reload wakes it.
    lab.write_trunks(&[json!({ "name": NAME, "settings": {
        "forbidden_retry_interval": 0, "fatal_retry_interval": 0, "auth_rejection_permanent": "yes", "max_random_initial_delay": 1 } })]);
    let mut real = Pbx::new(lab.ami_address(), lab.secret("trunkwarden"), |well| {
        lab.set(NAME, if well { Behaviour::Ok } else { Behaviour::ForbiddenAtOnce });
    });

    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let mut trunk = SimTrunk::named(NAME);
    let registration = trunk.registration.as_mut().expect("a registration");
    registration.max_random_initial_delay = Duration::from_secs(1);
    registration.expiration = Duration::from_secs(60);
    registration.retry_interval = Duration::from_secs(5);
    registration.max_retries = 10_000;
    let settings = SimSettings { trunks: vec![trunk], timestamps: false, ..SimSettings::default() };
    let sim = runtime().block_on(SimPbx::start(settings, &tracker, stop.clone())).expect("a simulated PBX");
    let mut simulated = Pbx::new(sim.address(), "sim", move |well| {
        let behaviour = if well { SimBehaviour::Ok } else { SimBehaviour::reject(403) };
        assert!(sim.set_behaviour(NAME, behaviour));
    });

    for pbx in [&mut real, &mut simulated] {
        eventually(Duration::from_secs(10), "registered", || {
            (header(&pbx.state()?, "Status") == "Registered").then_some(())
        });
        // Whether the first event came before the login is chance.
        pbx.after("Action: Ping\r\n");
    }
    let (real, simulated) = std::thread::scope(|scope| {
        let simulated = scope.spawn(|| scenario(&mut simulated));
        (scenario(&mut real), simulated.join().expect("the simulated scenario"))
    });
    for (real, simulated) in real.iter().zip(&simulated) {
        let statuses =
            |events: &[Trait]| events.iter().map(|(name, status, _)| format!("{name} {status}")).collect::<Vec<_>>();
        eprintln!("{}: {:?}, then {}", real.0, statuses(&real.1), real.2);
        assert_eq!(real, simulated);
    }
    assert_eq!(real.len(), simulated.len());
    assert!(
        real.iter().filter(|(_, events, _, _)| !events.is_empty()).count() >= 6,
        "the comparison compares something"
    );
    stop.cancel();
    tracker.close();
    runtime().block_on(tracker.wait());
}
