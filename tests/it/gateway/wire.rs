//! That nothing can be told from a direct connection: the same conversation, once with the PBX and once through the gateway.

use std::time::Duration;

use tokio::time::timeout;
use trunkwarden::wire::ami::Classes;

use super::{Client, PATIENCE, World, quick};

/// What may differ: times, and what is made up anew for each connection.
fn masked(message: &str) -> String {
    let hidden =
        ["Timestamp: ", "Uptime: ", "LastReload: ", "Uniqueid: ", "Linkedid: ", "DestUniqueid: ", "DestLinkedid: "];
    let mask = |line: &str| match hidden.iter().find(|name| line.starts_with(*name)) {
        Some(name) => format!("{name}*"),
        None => line.to_owned(),
    };
    message.split("\r\n").map(mask).collect::<Vec<_>>().join("\r\n")
}

/// Odd and ordinary requests, each with one answer.
const REQUESTS: [&str; 16] = [
    "Action: Ping\r\nActionID: a1\r\n\r\n",
    "action:ping\nactionid: lower and LF\n\n",
    "ActionID: not first\r\nAction: CoreSettings\r\n\r\n",
    "Action: Ping  \r\nActionID: blanks\r\n\r\n",
    "Action : Ping\r\nActionID: space before colon\r\n\r\n",
    "Action: NoSuchThing\r\nActionID: unknown\r\n\r\n",
    "Action: PJSIPQualify\r\nActionID: q\r\nEndpoint: nobody\r\n\r\n",
    "Action: Events\r\nActionID: e1\r\nEventMask: call\r\n\r\n",
    "Action: Events\r\nActionID: e2\r\nEventMask: off\r\n\r\n",
    "Action: Events\r\nActionID: e3\r\n\r\n",
    "Action: Events\r\nActionID: e4\r\nEventMask: on\r\n\r\n",
    "Action: Filter\r\nActionID: f1\r\nOperation: Add\r\nMatchCriteria: name(Hangup)\r\nFilter: x\r\n\r\n",
    "Action: ModuleCheck\r\nActionID: m\r\nModule: res_pjsip\r\n\r\n",
    "Action: Challenge\r\nActionID: c\r\n\r\n",
    "Action: Originate\r\nActionID: o\r\n\r\n",
    "\r\n",
];

async fn conversation(client: &mut Client) -> Vec<String> {
    let mut said = Vec::new();
    for request in REQUESTS {
        said.push(masked(&client.ask(request).await));
    }
    for action in ["PJSIPShowRegistrationsOutbound", "PJSIPShowEndpoints", "PJSIPShowContacts"] {
        client.send(format!("Action: {action}\r\nActionID: list\r\n\r\n")).await;
        loop {
            let message = client.message().await;
            // Events of the PBX come when they come.
            if message.contains("ActionID: list") {
                said.push(masked(&message));
            }
            if message.contains("EventList: Complete") || message.starts_with("Response: Error") {
                break;
            }
        }
    }
    said
}

#[tokio::test]
async fn a_conversation_through_the_gateway_is_the_one_with_the_pbx() {
    let world = World::new(quick(), |settings| {
        settings.users[0].write = Classes::ALL;
    })
    .await;
    let mut direct = Client::connect(world.pbx.address()).await;
    direct.send("Action: Login\r\nUsername: trunkwarden\r\nSecret: sim\r\n\r\n").await;
    direct.skip_to("FullyBooted").await;
    let mut through = world.dialer().await;
    let (one, other) = (conversation(&mut direct).await, conversation(&mut through).await);
    for (one, other) in one.iter().zip(&other) {
        assert_eq!(one, other);
    }
    assert_eq!(one.len(), other.len());
    world.end().await;
}

#[tokio::test]
async fn events_come_as_they_are_and_only_those_the_user_may_read_and_asked_for() {
    let world = World::new(quick(), |_| {}).await;
    let mut dialer = world.dialer().await;
    let mut watcher = world.client().await;
    watcher.log_in("watcher").await;
    // The watcher reads calls only, whatever it asks for.
    let answer = watcher.ask("Action: Events\r\nActionID: w\r\nEventMask: on\r\n\r\n").await;
    assert_eq!(answer, "Response: Success\r\nActionID: w\r\nEvents: On\r\n\r\n");
    world.pbx.emit_raw("Load", Classes::SYSTEM, &[("Module", "x"), ("Module", "y")]);
    world.pbx.emit_raw("Hangup", Classes::CALL, &[("Channel", "PJSIP/a-1")]);
    let load = dialer.skip_to("Load").await;
    assert!(load.contains("Module: x\r\nModule: y\r\n"), "{load}");
    dialer.skip_to("Hangup").await;
    let first = watcher.message().await;
    assert!(first.starts_with("Event: Hangup\r\nPrivilege: call,all\r\n"), "{first}");
    // What it may not read it cannot have by asking for it, and is told what Asterisk would tell it.
    let answer = watcher.ask("Action: Events\r\nActionID: w2\r\nEventMask: system\r\n\r\n").await;
    assert_eq!(answer, "Response: Success\r\nActionID: w2\r\nEvents: On\r\n\r\n");
    world.pbx.emit_raw("Load", Classes::SYSTEM, &[("Module", "z")]);
    world.pbx.emit_raw("Hangup", Classes::CALL, &[("Channel", "PJSIP/a-2")]);
    assert!(watcher.is_quiet().await);
    world.end().await;
}

#[tokio::test]
async fn a_user_may_run_what_its_classes_allow_and_sees_no_more_listed() {
    let world = World::new(quick(), |_| {}).await;
    let mut watcher = world.client().await;
    watcher.log_in("watcher").await;
    let denied = "Response: Error\r\nActionID: 1\r\nMessage: Permission denied\r\n\r\n";
    for action in ["Originate", "Command", "PJSIPShowEndpoints", "Reload"] {
        assert_eq!(watcher.ask(format!("Action: {action}\r\nActionID: 1\r\n\r\n")).await, denied, "{action}");
    }
    assert!(watcher.ask("Action: CoreStatus\r\n\r\n").await.starts_with("Response: Success"));
    let list = watcher.ask("Action: ListCommands\r\nActionID: 2\r\n\r\n").await;
    assert!(list.contains("\r\nPing: ") && list.contains("CoreStatus: "), "{list}");
    assert!(!list.contains("Originate") && !list.contains("Reload"), "{list}");
    // `all` does not mean the CLI.
    let mut dialer = world.dialer().await;
    assert_eq!(dialer.ask("Action: Command\r\nActionID: 1\r\nCommand: core show version\r\n\r\n").await, denied);
    world.end().await;
}

#[tokio::test]
async fn too_long_lines_and_too_many_are_answered_as_asterisk_does_and_the_session_goes_on() {
    let world = World::new(quick(), |_| {}).await;
    let mut dialer = world.dialer().await;
    let mut direct = Client::connect(world.pbx.address()).await;
    direct.send("Action: Login\r\nUsername: trunkwarden\r\nSecret: sim\r\n\r\n").await;
    direct.skip_to("FullyBooted").await;
    let long = format!("Action: Ping\r\nActionID: l\r\nX: {}\r\n\r\n", "x".repeat(2000));
    let many = format!("Action: Ping\r\nActionID: m\r\n{}\r\n", "A: b\r\n".repeat(200));
    for request in [&long, &many] {
        assert_eq!(dialer.ask(request).await, direct.ask(request).await);
    }
    assert!(dialer.ask("Action: Ping\r\nActionID: p\r\n\r\n").await.contains("Pong"));
    world.end().await;
}

#[tokio::test]
async fn hundreds_of_actions_in_one_write_are_all_answered_in_order() {
    let world = World::new(quick(), |_| {}).await;
    let mut dialer = world.dialer().await;
    let text: String = (0..3000).map(|id| format!("Action: Ping\r\nActionID: {id}\r\n\r\n")).collect();
    let (sent, read) = tokio::join!(tokio::time::sleep(Duration::ZERO), async {
        dialer.send(text).await;
        for id in 0..3000 {
            let answer = timeout(PATIENCE, dialer.response()).await.unwrap();
            assert!(answer.contains(&format!("ActionID: {id}\r\n")), "{id}: {answer}");
        }
    });
    let ((), ()) = (sent, read);
    world.end().await;
}

#[tokio::test]
async fn without_ids_answers_come_in_the_order_of_the_questions() {
    let world = World::new(quick(), |_| {}).await;
    let mut dialer = world.dialer().await;
    dialer.send("Action: Ping\r\n\r\nAction: NoSuch\r\n\r\n\r\nAction: Ping\r\n\r\nAction: Command\r\n\r\n").await;
    let mut answers = Vec::new();
    for _ in 0..5 {
        answers.push(dialer.response().await);
    }
    let says = |at: usize, text: &str| assert!(answers[at].contains(text), "{at}: {answers:?}");
    says(0, "Pong");
    says(1, "Invalid/unknown command: NoSuch");
    says(2, "Missing action");
    says(3, "Pong");
    says(4, "Permission denied");
    world.end().await;
}

#[tokio::test]
async fn an_id_with_blanks_around_it_is_answered_and_keeps_nobody_waiting() {
    let world = World::new(quick(), |_| {}).await;
    let mut dialer = world.dialer().await;
    assert!(dialer.ask("Action: Ping\r\nActionID: 1 \r\n\r\n").await.contains("ActionID: 1 \r\n"));
    let call =
        "Action: Originate\r\nActionID: 2\t\r\nChannel: PJSIP/1@airtel\r\nApplication: Wait\r\nAsync: true\r\n\r\n";
    for _ in 0..3 {
        let answer = timeout(Duration::from_secs(1), dialer.ask(call)).await.expect("at once");
        assert!(answer.starts_with("Response: Success"), "{answer}");
    }
    world.end().await;
}

#[tokio::test]
async fn without_ids_a_call_that_is_refused_is_answered_before_what_was_asked_after_it() {
    let mut world = World::new(quick(), |settings| {
        settings.limits.every = trunkwarden::gateway::TrunkLimits { per_second: Some(0.1), ..Default::default() };
    })
    .await;
    let mut dialer = world.dialer().await;
    let call = "Action: Originate\r\nChannel: PJSIP/1@airtel\r\nApplication: Wait\r\nAsync: true\r\n\r\n";
    dialer.send(format!("{call}{call}Action: Ping\r\n\r\n")).await;
    assert!(dialer.response().await.contains("queued"));
    assert!(dialer.response().await.contains("takes no more now"));
    assert!(dialer.response().await.contains("Pong"));
    world.hold("airtel");
    dialer.send(format!("{call}Action: Ping\r\n\r\n")).await;
    assert!(dialer.response().await.contains("is held"));
    assert!(dialer.response().await.contains("Pong"));
    world.end().await;
}

#[tokio::test]
async fn what_was_asked_before_the_client_ended_its_half_is_done_and_answered() {
    let world = World::new(quick(), |_| {}).await;
    let mut client = world.client().await;
    let call =
        "Action: Originate\r\nActionID: o\r\nChannel: PJSIP/1@airtel\r\nApplication: Wait\r\nAsync: true\r\n\r\n";
    client.send(format!("Action: Login\r\nUsername: dialer\r\nSecret: dialer-secret\r\n\r\n{call}")).await;
    client.end_half().await;
    assert!(client.response().await.contains("accepted"));
    assert!(client.response().await.contains("ActionID: o\r\nMessage: Originate successfully queued"));
    assert!(client.is_closed().await);
    assert_eq!(world.pbx.calls("airtel").attempted, 1);
    world.end().await;
}
