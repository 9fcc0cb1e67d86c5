//! Many clients, a PBX that dies again and again, and clients that do what no client should. Bounded samples: the long
//! runs are in `benches/gateway.rs`.

use std::{collections::HashMap, time::Duration};

use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use trunkwarden::wire::ami::Classes;

use super::{Client, PATIENCE, World, quick};

fn originate(id: &str, trunk: &str) -> String {
    format!(
        "Action: Originate\r\nActionID: {id}\r\nChannel: PJSIP/1@{trunk}\r\nApplication: Wait\r\nData: 1\r\nAsync: true\r\n\r\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_clients_get_every_event_in_order_while_one_of_them_reads_nothing() {
    const EVENTS: usize = 2_000;
    let world = World::new(quick(), |settings| settings.auth_limit = 100).await;
    let stalled = world.dialer().await;
    let mut readers = Vec::new();
    for _ in 0..49 {
        let mut client = world.dialer().await;
        readers.push(TaskTracker::new().spawn(async move {
            for expected in 0..EVENTS {
                let event = client.skip_to("Numbered").await;
                assert!(event.contains(&format!("\r\nNumber: {expected}\r\n")), "{expected}: {event}");
            }
        }));
    }
    for number in 0..EVENTS {
        world.pbx.emit_raw("Numbered", Classes::CALL, &[("Number", &number.to_string()), ("Filler", &"x".repeat(200))]);
        if number % 100 == 0 {
            sleep(Duration::from_millis(20)).await;
        }
    }
    for reader in readers {
        timeout(PATIENCE * 6, reader).await.expect("all of it comes").unwrap();
    }
    assert_eq!(world.gateway.figures().cut(), 0, "what waits for the one is within its bound");
    drop(stalled);
    world.end().await;
}

/// What one client's calls were answered with.
#[derive(Default)]
struct Answers {
    queued: u64,
    away: u64,
    unknown: u64,
    held: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pbx_killed_a_hundred_times_drops_no_client_doubles_no_call_and_gets_none_on_a_held_trunk() {
    let mut world = World::new(quick(), |_| {}).await;
    world.hold("tata");
    let done = CancellationToken::new();
    let mut dialers = Vec::new();
    for dialer in 0..4 {
        let mut client = world.dialer().await;
        let done = done.clone();
        dialers.push(TaskTracker::new().spawn(async move {
            let mut answers = Answers::default();
            let mut answered: HashMap<String, u32> = HashMap::new();
            let mut number = 0;
            while !done.is_cancelled() {
                number += 1;
                for trunk in ["airtel", "tata"] {
                    let id = format!("{dialer}-{number}-{trunk}");
                    let answer = client.ask(originate(&id, trunk)).await;
                    assert!(answer.contains(&format!("ActionID: {id}\r\n")), "an answer to something else: {answer}");
                    *answered.entry(id).or_default() += 1;
                    match () {
                        () if answer.starts_with("Response: Success") => answers.queued += 1,
                        () if answer.contains("is held") => answers.held += 1,
                        () if answer.contains("the call was not started") => answers.away += 1,
                        () if answer.contains("is not known") => answers.unknown += 1,
                        () => panic!("{answer}"),
                    }
                }
                tokio::task::yield_now().await;
            }
            assert!(answered.values().all(|count| *count == 1));
            answers
        }));
    }
    for kill in 0..100 {
        sleep(Duration::from_millis(25)).await;
        if kill % 10 == 9 {
            world.pbx.cut();
            sleep(Duration::from_millis(30)).await;
            world.pbx.mend();
        } else {
            world.pbx.drop_connections();
        }
    }
    sleep(Duration::from_millis(500)).await;
    done.cancel();
    let mut all = Answers::default();
    for dialer in dialers {
        let one = timeout(PATIENCE, dialer).await.expect("each is answered").expect("no client was dropped");
        all.queued += one.queued;
        all.away += one.away;
        all.unknown += one.unknown;
        all.held += one.held;
    }
    assert!(all.queued > 100 && all.away > 0 && all.held > 100, "{} {} {}", all.queued, all.away, all.held);
    assert_eq!(world.pbx.calls("tata").attempted, 0, "none on the held trunk");
    let attempted = world.pbx.calls("airtel").attempted;
    assert!(
        (all.queued..=all.queued + all.unknown).contains(&attempted),
        "{attempted} calls for {} that were queued and {} of which nobody knows",
        all.queued,
        all.unknown
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_the_gate_has_closed_no_further_call_reaches_the_pbx() {
    let mut world = World::new(quick(), |_| {}).await;
    let done = CancellationToken::new();
    let mut dialers = Vec::new();
    for dialer in 0..4 {
        let (mut client, done) = (world.dialer().await, done.clone());
        dialers.push(TaskTracker::new().spawn(async move {
            let mut number = 0;
            while !done.is_cancelled() {
                number += 1;
                client.ask(originate(&format!("{dialer}-{number}"), "airtel")).await;
            }
        }));
    }
    for _ in 0..10 {
        world.allow("airtel");
        sleep(Duration::from_millis(50)).await;
        world.hold("airtel");
        // What was written before it closed is with the PBX by now.
        sleep(Duration::from_millis(30)).await;
        let before = world.pbx.calls("airtel").attempted;
        sleep(Duration::from_millis(100)).await;
        assert_eq!(world.pbx.calls("airtel").attempted, before);
    }
    assert!(world.pbx.calls("airtel").attempted > 0);
    done.cancel();
    for dialer in dialers {
        timeout(PATIENCE, dialer).await.unwrap().unwrap();
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_vanish_babble_or_never_end_a_line_are_felt_by_nobody() {
    let world = World::new(quick(), |settings| settings.auth_timeout = Duration::from_secs(2)).await;
    let mut dialer = world.dialer().await;
    let address = world.gateway.address();
    for at in 0..300_usize {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let login = b"Action: Login\r\nUsername: dialer\r\nSecret: dialer-secret\r\n\r\nAction: Ping\r\n\r\n";
        let mut bytes = login[..at % login.len()].to_vec();
        bytes.extend((0..at % 50).map(|byte| u8::try_from((byte * 37 + at) % 256).unwrap_or(0)));
        // It may be gone already: over the limit of strangers it is not even greeted.
        let _ = stream.write_all(&bytes).await;
    }
    let endless = TaskTracker::new().spawn(async move {
        let Ok(mut stream) = TcpStream::connect(address).await else { return };
        for _ in 0..200 {
            if stream.write_all(&[b'x'; 64 << 10]).await.is_err() {
                return;
            }
        }
    });
    for number in 0..50 {
        let answer = timeout(Duration::from_secs(2), dialer.ask(format!("Action: Ping\r\nActionID: {number}\r\n\r\n")));
        assert!(answer.await.expect("nobody else waits").contains(&format!("ActionID: {number}\r\n")));
    }
    timeout(PATIENCE, endless).await.expect("it is cut off").unwrap();
    let began = Instant::now();
    while world.gateway.figures().clients() > 1 {
        assert!(began.elapsed() < PATIENCE, "they are counted as gone");
        sleep(Duration::from_millis(20)).await;
    }
    world.end().await;
}

#[tokio::test]
async fn thousands_of_actions_while_asterisk_is_away_are_all_answered() {
    let world = World::new(quick(), |_| {}).await;
    let mut dialer: Client = world.dialer().await;
    world.pbx.cut();
    assert!(dialer.ask(originate("first", "airtel")).await.starts_with("Response: Error"));
    let text: String = (0..3_000).map(|id| originate(&format!("c{id}"), "airtel")).collect();
    dialer.send(text).await;
    for id in 0..3_000 {
        let answer = dialer.response().await;
        assert!(answer.contains(&format!("ActionID: c{id}\r\n")) && answer.contains("not started"), "{id}: {answer}");
    }
    world.pbx.mend();
    dialer.skip_to("FullyBooted").await;
    assert!(dialer.ask("Action: Ping\r\nActionID: p\r\n\r\n").await.contains("Pong"));
    assert_eq!(world.pbx.calls("airtel").attempted, 0);
    world.end().await;
}
