//! When Asterisk goes away and comes back, and when a client does not read.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use trunkwarden::wire::ami::{Classes, request::Reader};

use super::{PATIENCE, World, quick};

#[tokio::test]
async fn a_restart_of_asterisk_drops_nobody_and_the_events_go_on_with_fully_booted() {
    let world = World::new(quick(), |_| {}).await;
    let mut dialer = world.dialer().await;
    let filter = "Action: Filter\r\nActionID: f\r\nOperation: Add\r\nMatchCriteria: action(exclude),name(Load)\r\nFilter: \r\n\r\n";
    assert!(dialer.ask(filter).await.starts_with("Response: Success"));
    assert!(dialer.ask("Action: Events\r\nEventMask: system,call\r\n\r\n").await.contains("Events: On"));
    world.pbx.restart();
    dialer.skip_to("FullyBooted").await;
    // The new session there has the client's mask and filters.
    world.pbx.emit_raw("Load", Classes::SYSTEM, &[]);
    world.pbx.emit_raw("UserEvent", Classes::USER, &[]);
    world.pbx.emit_raw("Hangup", Classes::CALL, &[("Channel", "PJSIP/after-1")]);
    loop {
        let message = dialer.message().await;
        assert!(!message.starts_with("Event: Load") && !message.starts_with("Event: UserEvent"), "{message}");
        assert!(!message.starts_with("Response:"), "answers to what the client never asked: {message}");
        if message.contains("PJSIP/after-1") {
            break;
        }
    }
    assert!(dialer.ask("Action: Ping\r\nActionID: 1\r\n\r\n").await.contains("Pong"));
    world.end().await;
}

#[tokio::test]
async fn while_asterisk_is_away_calls_are_refused_at_once_and_other_actions_after_a_moment() {
    let world = World::new(quick(), |_| {}).await;
    let mut dialer = world.dialer().await;
    world.pbx.cut();
    // The loss is noticed by the first thing that is not answered, or by the end of the connection.
    let began = Instant::now();
    let call = "Action: Originate\r\nActionID: 77_1#ACME\r\nChannel: PJSIP/1@airtel\r\nApplication: Wait\r\nAsync: true\r\n\r\n";
    let answer = dialer.ask(call).await;
    assert!(
        answer.starts_with("Response: Error\r\nActionID: 77_1#ACME\r\nMessage: trunkwarden: Asterisk is away"),
        "{answer}"
    );
    let answer = dialer.ask(call).await;
    assert!(answer.ends_with("the call was not started\r\n\r\n"), "{answer}");
    assert!(began.elapsed() < Duration::from_secs(1), "at once");
    let began = Instant::now();
    let answer = dialer.ask("Action: CoreStatus\r\nActionID: s\r\n\r\n").await;
    assert!(answer.contains("nothing was done") && began.elapsed() >= Duration::from_secs(1), "{answer}");
    assert!(dialer.ask("Action: Ping\r\nActionID: p\r\n\r\n").await.contains("Ping: Pong"), "the connection lives");
    // Whoever comes meanwhile gets in.
    let mut late = world.client().await;
    late.log_in("dialer").await;
    world.pbx.mend();
    dialer.skip_to("FullyBooted").await;
    late.skip_to("FullyBooted").await;
    assert!(dialer.ask("Action: CoreStatus\r\nActionID: s\r\n\r\n").await.starts_with("Response: Success"));
    world.end().await;
}

#[tokio::test]
async fn an_action_in_flight_when_asterisk_goes_is_answered_and_never_sent_again() {
    let mut sim = quick();
    sim.timing.call_setup = Duration::from_secs(5);
    let world = World::new(sim, |_| {}).await;
    let mut dialer = world.dialer().await;
    let call = "Action: Originate\r\nActionID: flight\r\nChannel: PJSIP/1@airtel\r\nApplication: Wait\r\n\r\n";
    dialer.send(call).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    world.pbx.drop_connections();
    let answer = dialer.response().await;
    assert!(
        answer.contains("ActionID: flight") && answer.contains("whether the call was started is not known"),
        "{answer}"
    );
    dialer.skip_to("FullyBooted").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(world.pbx.calls("airtel").attempted, 1, "once");
    assert!(dialer.ask("Action: Ping\r\nActionID: 2\r\n\r\n").await.contains("ActionID: 2"));
    world.end().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off_counted_and_felt_by_nobody() {
    let world = World::new(quick(), |_| {}).await;
    let (mut stalled, mut other) = (world.dialer().await, world.dialer().await);
    let filler = "x".repeat(900);
    let mut seen = 0;
    let began = Instant::now();
    let mut sent = 0;
    while world.gateway.figures().cut() == 0 {
        assert!(began.elapsed() < PATIENCE * 3, "never cut off");
        for _ in 0..500 {
            world.pbx.emit_raw("UserEvent", Classes::USER, &[("Filler", &filler)]);
        }
        sent += 500;
        while seen < sent {
            let message = timeout(PATIENCE, other.message()).await.unwrap();
            seen += u32::from(message.starts_with("Event: UserEvent"));
        }
    }
    assert!(world.gateway.figures().events_lost() > 0);
    assert!(other.ask("Action: Ping\r\nActionID: 2\r\n\r\n").await.contains("ActionID: 2"));
    assert!(stalled.is_closed().await);
    world.end().await;
}

/// An Asterisk that ends each connection in the middle of a list.
async fn breaks_off(listener: TcpListener, stop: CancellationToken, tasks: TaskTracker) {
    while let Some(Ok((mut stream, _))) = stop.run_until_cancelled(listener.accept()).await {
        let serve = async move {
            stream.write_all(b"Asterisk Call Manager/11.0.0\r\n").await?;
            let (mut reader, mut buffer) = (Reader::default(), [0; 4096]);
            loop {
                let read = stream.read(&mut buffer).await?;
                if read == 0 {
                    return Ok(());
                }
                let mut requests = Vec::new();
                reader.feed(&buffer[..read], |incoming| requests.push(incoming.request().clone()));
                for request in requests {
                    let id = request.header("ActionID");
                    let more = match request.action().as_ref() {
                        "Challenge" => "Challenge: 1",
                        "ListCommands" => "ShowThings: x (Priv: <none>)",
                        "ShowThings" => {
                            "EventList: start\r\nMessage: x\r\n\r\nEvent: Thing\r\nActionID: l\r\n\r\nEvent: Thi"
                        }
                        _ => "Message: yes",
                    };
                    let end = if more.starts_with("EventList") { "" } else { "\r\n\r\n" };
                    stream.write_all(format!("Response: Success\r\nActionID: {id}\r\n{more}{end}").as_bytes()).await?;
                    if more.starts_with("EventList") {
                        return std::io::Result::Ok(());
                    }
                }
            }
        };
        tasks.spawn(serve);
    }
}

#[tokio::test]
async fn a_list_that_asterisk_does_not_finish_is_ended_and_half_a_message_is_not_handed_on() {
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tasks.spawn(breaks_off(listener, stop.clone(), tasks.clone()));
    let world = World::new(quick(), |settings| settings.upstream.address = address).await;
    let mut dialer = world.client().await;
    dialer.log_in("dialer").await;
    assert!(dialer.ask("Action: ShowThings\r\nActionID: l\r\n\r\n").await.contains("EventList: start"));
    assert_eq!(dialer.message().await, "Event: Thing\r\nActionID: l\r\n\r\n");
    let end = "Event: ShowThingsComplete\r\nActionID: l\r\nEventList: Cancelled\r\nListItems: 0\r\n\r\n";
    assert_eq!(dialer.message().await, end);
    world.end().await;
    stop.cancel();
    tasks.close();
    timeout(PATIENCE, tasks.wait()).await.unwrap();
}
