//! Calls: refused on a held trunk, let through on others, within the limits.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use trunkwarden::gateway::{Over, TrunkLimits};

use super::{World, quick, trunk};

fn originate(id: &str, trunk: &str) -> String {
    format!(
        "action: Originate\r\nactionid: {id}\r\nchannel: PJSIP/9711761156@{trunk}\r\ncontext: from-internal\r\n\
         exten: 204\r\npriority: 1\r\nasync: true\r\n\r\n"
    )
}

#[tokio::test]
async fn a_call_on_a_held_trunk_is_refused_with_its_id_and_reaches_nobody() {
    let mut world = World::new(quick(), |_| {}).await;
    let mut dialer = world.dialer().await;
    let passed = dialer.ask(originate("77_1#ACME", "airtel")).await;
    assert_eq!(passed, "Response: Success\r\nActionID: 77_1#ACME\r\nMessage: Originate successfully queued\r\n\r\n");
    world.hold("airtel");
    let refused = dialer.ask(originate("77_2#ACME", "airtel")).await;
    assert_eq!(
        refused,
        "Response: Error\r\nActionID: 77_2#ACME\r\n\
         Message: trunkwarden: trunk pbx1/airtel is held (down since 2026-11-23T02:13:20Z: rejected)\r\n\r\n"
    );
    assert!(dialer.ask(originate("77_3#ACME", "tata")).await.starts_with("Response: Success"), "the other trunk");
    world.allow("airtel");
    assert!(dialer.ask(originate("77_4#ACME", "airtel")).await.starts_with("Response: Success"));
    assert!(dialer.ask("Action: Ping\r\n\r\n").await.contains("Pong"));
    assert_eq!((world.pbx.calls("airtel").attempted, world.pbx.calls("tata").attempted), (2, 1));
    assert_eq!(world.refusals.take(), [(trunk("airtel"), 1)].into());
    let figures = world.gateway.figures();
    assert_eq!((figures.passed(), figures.refused(), figures.clients()), (3, 1, 1));
    world.end().await;
}

#[tokio::test]
async fn a_call_behind_a_slow_one_is_judged_when_its_turn_comes() {
    let mut sim = quick();
    sim.timing.call_setup = Duration::from_millis(1500);
    let mut world = World::new(sim, |_| {}).await;
    let mut dialer = world.dialer().await;
    // Synchronous: Asterisk does nothing else for this client until it is up.
    dialer.send("Action: Originate\r\nActionID: slow\r\nChannel: PJSIP/1@tata\r\nApplication: Wait\r\n\r\n").await;
    dialer.send(originate("late", "airtel")).await;
    sleep(Duration::from_millis(200)).await;
    assert_eq!(world.pbx.calls("airtel").attempted, 0, "allowed, but not its turn");
    world.hold("airtel");
    let refused = dialer.response().await;
    assert!(refused.contains("ActionID: late\r\n") && refused.contains("is held"), "{refused}");
    assert!(dialer.response().await.contains("ActionID: slow\r\n"));
    assert_eq!(world.pbx.calls("airtel").attempted, 0);
    world.end().await;
}

#[tokio::test]
async fn over_the_rate_a_call_is_refused_or_waits_as_configured() {
    let limits = |over| TrunkLimits { per_second: Some(2.0), over, ..TrunkLimits::default() };
    let world = World::new(quick(), |settings| {
        settings.limits.trunks =
            [(trunk("airtel"), limits(Over::Error)), (trunk("tata"), limits(Over::Wait(Duration::from_secs(2))))]
                .into();
    })
    .await;
    let mut dialer = world.dialer().await;
    for id in ["1", "2"] {
        assert!(dialer.ask(originate(id, "airtel")).await.starts_with("Response: Success"));
    }
    let over = dialer.ask(originate("3", "airtel")).await;
    let text = "Message: trunkwarden: trunk pbx1/airtel takes no more now: 2 originates a second";
    assert!(over.starts_with("Response: Error\r\nActionID: 3\r\n") && over.contains(text), "{over}");
    let began = Instant::now();
    for id in ["1", "2", "3"] {
        dialer.send(originate(id, "tata")).await;
    }
    // Whoever waits keeps nobody else waiting.
    dialer.send("Action: Ping\r\nActionID: p\r\n\r\n").await;
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(dialer.response().await);
    }
    assert!(
        answers[2].contains("Pong") && answers[3].contains("ActionID: 3\r\nMessage: Originate successfully"),
        "{answers:?}"
    );
    assert!(began.elapsed() >= Duration::from_millis(900));
    assert!(world.refusals.take().is_empty(), "nothing was held");
    world.end().await;
}

#[tokio::test]
async fn a_call_that_waits_for_room_is_refused_once_its_trunk_holds_or_its_patience_ends() {
    let mut world = World::new(quick(), |settings| {
        settings.limits.every =
            TrunkLimits { per_second: Some(0.1), over: Over::Wait(Duration::from_secs(1)), ..TrunkLimits::default() };
    })
    .await;
    let mut dialer = world.dialer().await;
    assert!(dialer.ask(originate("1", "airtel")).await.starts_with("Response: Success"));
    assert!(dialer.ask(originate("1", "tata")).await.starts_with("Response: Success"));
    let began = Instant::now();
    dialer.send(originate("2", "airtel")).await;
    dialer.send(originate("2", "tata")).await;
    sleep(Duration::from_millis(100)).await;
    world.hold("airtel");
    assert!(dialer.response().await.contains("pbx1/airtel is held"));
    assert!(began.elapsed() < Duration::from_millis(900));
    assert!(dialer.response().await.contains("pbx1/tata takes no more now"));
    assert!(began.elapsed() >= Duration::from_millis(900));
    world.end().await;
}

#[tokio::test]
async fn other_ways_to_dial_are_closed_and_named() {
    let world = World::new(quick(), |settings| {
        settings.users[0].write = trunkwarden::wire::ami::Classes::ALL;
        // The simulated PBX lists only a few actions; these go to Asterisk to be judged there.
        settings.users[0].write_all = true;
    })
    .await;
    let mut dialer = world.dialer().await;
    for action in [
        "Command\r\nCommand: channel originate PJSIP/1@tata application Wait",
        "command\r\ncommand:  CHANNEL  \"originate\" PJSIP/1@tata application Wait",
        "Redirect\r\nChannel: PJSIP/1\r\nContext: out\r\nExten: 1\r\nPriority: 1",
        "AGI\r\nChannel: PJSIP/1\r\nCommand: EXEC Dial PJSIP/1@tata",
        "Originate\r\nChannel: PJSIP/1@tata\r\nApplication: Exec\r\nData: Dial(PJSIP/1@airtel)",
    ] {
        let answer = dialer.ask(format!("Action: {action}\r\nActionID: w\r\n\r\n")).await;
        assert!(answer.starts_with("Response: Error\r\nActionID: w\r\nMessage: trunkwarden: "), "{action}: {answer}");
        assert!(answer.contains("unguarded = ["), "{answer}");
    }
    assert_eq!(world.pbx.calls("tata").attempted, 0);
    world.end().await;
}

#[tokio::test]
async fn a_call_behind_a_slow_one_waits_five_seconds_at_most_and_what_follows_spins_nothing() {
    let mut sim = quick();
    sim.timing.call_setup = Duration::from_secs(7);
    let world = World::new(sim, |_| {}).await;
    let mut dialer = world.dialer().await;
    let began = Instant::now();
    dialer.send("Action: Originate\r\nActionID: slow\r\nChannel: PJSIP/1@tata\r\nApplication: Wait\r\n\r\n").await;
    dialer.send(originate("late", "airtel")).await;
    dialer.send("Action: Ping\r\nActionID: p\r\n\r\n").await;
    let refused = dialer.response().await;
    assert!(refused.contains("ActionID: late\r\n") && refused.contains("still at an earlier action"), "{refused}");
    assert!(began.elapsed() >= Duration::from_millis(4900) && began.elapsed() < Duration::from_secs(6));
    assert!(dialer.response().await.contains("ActionID: slow\r\n"));
    assert!(dialer.response().await.contains("ActionID: p\r\n"), "and no answer to what the client never asked");
    assert!(dialer.ask(originate("next", "airtel")).await.starts_with("Response: Success"));
    assert_eq!(world.pbx.calls("airtel").attempted, 1);
    world.end().await;
}
