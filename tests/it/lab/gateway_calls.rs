//! The calls that the gateway counts are the channels that Asterisk has: begun by whom it may be, over a cut link and a restart.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use trunkwarden::clock::{Clock as _, SystemClock};
use trunkwarden::decision::{Gate, GateTx};
use trunkwarden::gateway::{Calls, Limiter, Limits, TrunkLimits};
use trunkwarden::ids::{PbxId, TrunkId};
use trunkwarden::wire::ami::client::{AmiSettings, TcpTransport};

use super::raw_ami::{RawAmi, header};
use super::relay::Relay;
use super::{Instance, Lab, eventually};

const SOON: Duration = Duration::from_secs(15);

/// A counter of the test's own; it ends when it is dropped.
struct Counting {
    runtime: Runtime,
    limiter: Limiter,
    tracker: TaskTracker,
    stop: CancellationToken,
    trunk: TrunkId,
    _names: GateTx,
}

impl Counting {
    fn start(address: SocketAddr, user: &str, secret: &str, most: u32) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let trunk = TrunkId::try_from("pbx1/prov-ok").expect("a trunk");
        let (names, gate) = Gate::new();
        names.name([(&trunk, &[][..])].into_iter());
        let every = TrunkLimits { calls: Some(most), ..TrunkLimits::default() };
        let limiter = Limiter::new(Limits { every, trunks: BTreeMap::new() });
        let address = address.to_string();
        let mut settings = AmiSettings::new("pbx1", address.clone(), user, secret.into());
        settings.unknown_after = Duration::from_secs(3);
        settings.backoff.max = Duration::from_secs(1);
        let transport = Arc::new(TcpTransport::new(address, &settings.tls).expect("a transport"));
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let pbx = PbxId::try_from("pbx1").expect("a PBX");
        let entered = runtime.enter();
        Calls::start(settings, transport, gate, pbx, limiter.clone(), Arc::new(SystemClock), &tracker, stop.clone());
        drop(entered);
        Self { runtime, limiter, tracker, stop, trunk, _names: names }
    }

    fn counts(&self) -> (u32, u32) {
        self.limiter.in_flight(&self.trunk, SystemClock.now())
    }

    fn wait_for(&self, live: u32, what: &str) {
        let mut last = (0, 0);
        let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(SOON, what, || {
                last = self.counts();
                (last.0 == live).then_some(())
            });
        }));
        assert!(waited.is_ok(), "{what}: {live} live calls expected, {last:?} counted");
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.stop.cancel();
        self.tracker.close();
        self.runtime.block_on(self.tracker.wait());
    }
}

fn originate(ami: &mut RawAmi<std::net::TcpStream>, channel: &str) {
    let answer = ami.act(&format!(
        "Action: Originate\r\nChannel: {channel}\r\nApplication: Wait\r\nData: 600\r\nAsync: true\r\nTimeout: 20000\r\n"
    ));
    assert_eq!(header(&answer, "Response"), "Success", "{answer:?}");
}

/// The channels of the trunk, as the console lists them.
fn listed(lab: &Lab) -> u32 {
    let text = lab.cli(Instance::Pbx, "core show channels concise");
    let on_trunk = text.lines().filter(|line| line.starts_with("PJSIP/prov-ok-")).count();
    u32::try_from(on_trunk).expect("a few")
}

#[test]
fn the_calls_counted_are_the_channels_there_are() {
    let Some(lab) = Lab::up() else { return };
    let mut ami = RawAmi::login(lab.ami_address(), "dialer", lab.secret("dialer"));
    // One that began before anybody counted.
    originate(&mut ami, "PJSIP/100@prov-ok");
    eventually(SOON, "a first channel", || (listed(&lab) == 1).then_some(()));
    let link = Relay::to(lab.ami_address());
    let counting = Counting::start(link.address(), "trunkwarden", lab.secret("trunkwarden"), 4);
    counting.wait_for(1, "the call that was there");

    // -- begun by others: each is counted, what fails at once (a silent trunk's channel is another's) is not
    for _ in 0..2 {
        originate(&mut ami, "PJSIP/100@prov-ok");
    }
    originate(&mut ami, "PJSIP/100@loop401");
    counting.wait_for(3, "two more");
    assert_eq!(listed(&lab), 3);

    // -- one that is admitted: its place becomes its channel's, and there is no more room then
    let now = SystemClock.now();
    let _ticket =
        counting.limiter.take(std::slice::from_ref(&counting.trunk), |_| None, now).expect("room for a fourth");
    assert_eq!(counting.counts(), (3, 1));
    originate(&mut ami, "PJSIP/100@prov-ok");
    counting.wait_for(4, "the fourth");
    assert_eq!(counting.counts(), (4, 0));
    let refused = counting.limiter.take(std::slice::from_ref(&counting.trunk), |_| None, SystemClock.now());
    assert_eq!(refused.expect_err("no room").why, "4 calls at once");

    // -- a hangup frees one
    let channels = lab.cli(Instance::Pbx, "core show channels concise");
    let first =
        channels.lines().find_map(|line| line.split('!').next().filter(|name| name.starts_with("PJSIP/prov-ok-")));
    lab.cli(Instance::Pbx, &format!("channel request hangup {}", first.expect("a channel")));
    counting.wait_for(3, "one is hung up");
    assert_eq!(listed(&lab), 3);

    // -- a link that is cut, while two calls end and none is heard of
    link.refuse();
    eventually(SOON, "no link", || {
        lab.cli(Instance::Pbx, "channel request hangup all");
        (listed(&lab) == 0).then_some(())
    });
    assert_eq!(counting.counts().0, 3, "nobody told it");
    originate(&mut ami, "PJSIP/100@prov-ok");
    eventually(SOON, "one new call", || (listed(&lab) == 1).then_some(()));
    link.mend();
    counting.wait_for(1, "the list after the cut");

    // -- a restart takes every call with it
    originate(&mut ami, "PJSIP/100@prov-ok");
    counting.wait_for(2, "two before the restart");
    lab.cli(Instance::Pbx, "core restart now");
    counting.wait_for(0, "none after it");
}

#[test]
fn a_redirect_and_a_pickup_lose_and_invent_no_call() {
    let Some(lab) = Lab::up() else { return };
    let counting = Counting::start(lab.ami_address(), "trunkwarden", lab.secret("trunkwarden"), 9);
    let mut ami = RawAmi::login(lab.ami_address(), "dialer", lab.secret("dialer"));
    lab.put(
        Instance::Pbx,
        "extensions.conf",
        "[default]\n[through]\nexten = _X.,1,Dial(PJSIP/${EXTEN}@prov-ok)\n[parked]\nexten = s,1,Wait(600)\n",
    );
    lab.cli(Instance::Pbx, "dialplan reload");
    originate(&mut ami, "PJSIP/100@prov-ok");
    originate(&mut ami, "Local/100@through");
    eventually(SOON, "two channels", || (listed(&lab) == 2).then_some(()));
    counting.wait_for(2, "both counted");
    let bridged = eventually(SOON, "an answered channel", || {
        let text = lab.cli(Instance::Pbx, "core show channels concise");
        let up = |line: &&str| line.starts_with("PJSIP/prov-ok-") && line.contains("AppDial") && line.contains("!Up!");
        text.lines().find(up).and_then(|line| line.split('!').next()).map(ToOwned::to_owned)
    });
    let answer = lab.cli(Instance::Pbx, &format!("channel redirect {bridged} parked,s,1"));
    assert!(answer.contains("successfully redirected"), "{answer}");
    eventually(SOON, "the dialplan runs on the redirected channel", || {
        lab.cli(Instance::Pbx, "core show channels concise").contains("!parked!s!").then_some(())
    });
    counting.wait_for(listed(&lab), "as many as are listed");
    lab.cli(Instance::Pbx, "channel request hangup all");
    counting.wait_for(0, "none is left over");

    // -- a pickup masquerades: the channel that picks up takes the place of the one that rings, which ends
    lab.put(
        Instance::Provider,
        "extensions.conf",
        "[answering]\nexten = _1X.,1,Answer()\nsame = n,Wait(600)\nexten = _9X.,1,Ringing()\nsame = n,Wait(600)\n",
    );
    lab.cli(Instance::Provider, "dialplan reload");
    originate(&mut ami, "Local/900@through");
    let ringing = eventually(SOON, "a ringing channel", || {
        let text = lab.cli(Instance::Pbx, "core show channels concise");
        let rings = |line: &&str| line.starts_with("PJSIP/prov-ok-") && line.contains("!Ringing!");
        text.lines().find(rings).and_then(|line| line.split('!').next()).map(ToOwned::to_owned)
    });
    counting.wait_for(1, "the one that rings");
    let answer = ami.act(&format!(
        "Action: Originate\r\nChannel: PJSIP/100@prov-ok\r\nApplication: PickupChan\r\nData: {ringing}\r\nAsync: true\r\nTimeout: 20000\r\n"
    ));
    assert_eq!(header(&answer, "Response"), "Success", "{answer:?}");
    eventually(SOON, "the pickup", || {
        let text = lab.cli(Instance::Pbx, "core show channels concise");
        (listed(&lab) == 1 && !text.contains(&ringing)).then_some(())
    });
    counting.wait_for(1, "the one that picked up");
    lab.cli(Instance::Pbx, "channel request hangup all");
    counting.wait_for(0, "none is left over after the pickup");
}

#[test]
fn a_user_who_may_not_list_still_has_the_calls_counted_that_begin_from_then_on() {
    let Some(lab) = Lab::up() else { return };
    lab.ami_user("watcher", "system,call", "call");
    lab.cli(Instance::Pbx, "manager reload");
    let counting = Counting::start(lab.ami_address(), "watcher", "secret-watcher", 9);
    let mut ami = RawAmi::login(lab.ami_address(), "dialer", lab.secret("dialer"));
    // The counter says nothing of its being ready: calls go on until it has heard one.
    eventually(SOON, "a call that is counted", || {
        originate(&mut ami, "PJSIP/100@prov-ok");
        std::thread::sleep(Duration::from_millis(500));
        (counting.counts().0 > 0).then_some(())
    });
    eventually(SOON, "the end of all calls", || {
        lab.cli(Instance::Pbx, "channel request hangup all");
        (listed(&lab) == 0).then_some(())
    });
    counting.wait_for(0, "their ends");
}
