//! What the SQLite store costs: commits a second with the disk waited for, bytes an entry, and the time of each query
//! on a long history. `cargo bench --bench store [ENTRIES]`; 200 000 if not said. The store stands under `target/`, so
//! that the figures are of a disk and not of a memory file system.
#![expect(clippy::unwrap_used, reason = "a bench may panic")]
#![expect(clippy::print_stdout, reason = "its figures are its output")]
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::time::{Duration, Instant};

use serde_json::json;
use trunkwarden::{
    clock::Timestamp,
    decision::{EntryKind, Event, Input, Outcome, Record, Scope},
    health::RegisteredWhen,
    ids::TrunkId,
    store::{self, HistoryQuery, Order, Retention, Store},
};

const TRUNKS: i64 = 20;
const SERIES: [(EntryKind, &str); 4] = [
    (EntryKind::Registration, "airtel-reg"),
    (EntryKind::Contact, "sip:airtel.example:5060"),
    (EntryKind::Health, ""),
    (EntryKind::Gate, ""),
];

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn trunk(n: i64) -> TrunkId {
    TrunkId::try_from(format!("pbx1/trunk{n}")).unwrap()
}

/// The `n`th change: a second apart, over trunks and series, each different from the one before of its series.
fn record(n: i64) -> Record {
    let series = usize::try_from((n / TRUNKS) % 4).unwrap();
    let turn = (n / TRUNKS / 4) % 2;
    let words = [["registered", "rejected"], ["reachable", "unreachable"], ["stable", "down"], ["allow", "hold"]];
    Record {
        scope: Scope::Trunk(trunk(n % TRUNKS)),
        kind: SERIES[series].0,
        subject: SERIES[series].1.to_owned(),
        to: words[series][usize::try_from(turn).unwrap()].to_owned(),
        at: at(n),
        detail: if turn == 1 { json!({"reason": "airtel-reg rejected since 02:13"}) } else { json!(null) },
    }
}

fn per_second(count: u32, took: Duration) -> f64 {
    f64::from(count) / took.as_secs_f64()
}

async fn timed<T>(what: &str, call: impl AsyncFn() -> T) {
    call().await;
    let rounds = 20;
    let began = Instant::now();
    for _ in 0..rounds {
        call().await;
    }
    println!("{what:<46} {:>9.3} ms", began.elapsed().as_secs_f64() * 1000.0 / f64::from(rounds));
}

async fn commits(store: &dyn Store) {
    let heartbeat = Outcome { records: vec![Record { to: "registered".into(), ..record(0) }], ..Outcome::default() };
    let step = Outcome {
        input: Some(Input::Tick { at: at(0) }),
        events: vec![Event { kind: "gate".into(), at: at(0), data: json!({"trunk": "pbx1/trunk0", "allow": false}) }],
        records: (0..80).step_by(20).map(record).collect(),
        ..Outcome::default()
    };
    for (what, outcome, times, of) in [
        ("commits/s, one heartbeat each", &heartbeat, 500, 1),
        ("commits/s, a step with journal and 4 records", &step, 500, 1),
        ("outcomes/s, such steps, 200 in a commit", &step, 25, 200),
    ] {
        let outcomes = vec![outcome.clone(); of];
        let began = Instant::now();
        for _ in 0..times {
            store.commit(&outcomes, at(0)).await.unwrap();
        }
        let all = times * u32::try_from(of).unwrap();
        println!("{what:<46} {:>9.0}", per_second(all, began.elapsed()));
    }
}

async fn queries(store: &dyn Store, entries: i64) {
    let query = HistoryQuery {
        trunk: trunk(7),
        since: None,
        until: None,
        kinds: Vec::new(),
        order: Order::NewestFirst,
        limit: 100,
        after: None,
    };
    let page = async |query: HistoryQuery| assert!(store.history(&query).await.unwrap().items.len() <= 100);
    timed("page: newest 100", async || page(query.clone()).await).await;
    timed("page: oldest 100", async || page(HistoryQuery { order: Order::OldestFirst, ..query.clone() }).await).await;
    timed("page: from the middle on", async || {
        page(HistoryQuery { after: Some(entries / 2), ..query.clone() }).await;
    })
    .await;
    timed("page: one kind", async || {
        page(HistoryQuery { kinds: vec![EntryKind::Health], ..query.clone() }).await;
    })
    .await;
    timed("page: a span in the middle, 100 at most", async || {
        let (since, until) = (Some(at(entries / 2)), Some(at(entries / 2 + 20_000)));
        page(HistoryQuery { since, until, ..query.clone() }).await;
    })
    .await;
    timed("page: the last minute", async || page(HistoryQuery { since: Some(at(entries)), ..query.clone() }).await)
        .await;
    timed("as it was in the middle", async || {
        store.at(&trunk(7), at(entries / 2)).await.unwrap();
    })
    .await;
    timed("availability of all of it", async || {
        store.availability(&trunk(7), at(0), at(entries), RegisteredWhen::Any).await.unwrap();
    })
    .await;
    timed("availability of a day", async || {
        store.availability(&trunk(7), at(entries / 2), at(entries / 2 + 86_400), RegisteredWhen::Any).await.unwrap();
    })
    .await;
}

#[tokio::main]
async fn main() {
    let entries: i64 = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(200_000);
    let directory = tempfile::tempdir_in(concat!(env!("CARGO_MANIFEST_DIR"), "/target")).unwrap();
    let file = directory.path().join("bench.db");
    let url = format!("sqlite:{}", file.display());

    let store = store::open(&url).await.unwrap();
    commits(&*store).await;
    store.close().await;
    for suffix in ["", ".lock"] {
        std::fs::remove_file(format!("{}{suffix}", file.display())).unwrap();
    }

    let store = store::open(&url).await.unwrap();
    let began = Instant::now();
    for from in (0..entries).step_by(5_000) {
        let records = (from..entries.min(from + 5_000)).map(record).collect();
        store.commit(&[Outcome { records, ..Outcome::default() }], at(0)).await.unwrap();
    }
    let count = u32::try_from(entries).unwrap();
    println!("{:<46} {:>9.0}", format!("entries/s, {entries} in commits of 5000"), per_second(count, began.elapsed()));
    store.close().await;
    let bytes = u32::try_from(std::fs::metadata(&file).unwrap().len()).unwrap();
    println!("{:<46} {:>9.0}", "bytes/entry, indexes and all", f64::from(bytes) / f64::from(count));

    let began = Instant::now();
    let store = store::open(&url).await.unwrap();
    println!("{:<46} {:>9.3} ms", "open", began.elapsed().as_secs_f64() * 1000.0);
    queries(&*store, entries).await;
    let began = Instant::now();
    let keep = Retention { history: Duration::from_secs(u64::from(count) / 2), journal: Duration::ZERO };
    let gone = store.prune(at(entries), keep).await.unwrap();
    println!("{:<46} {:>9.0}", "rows pruned/s", per_second(u32::try_from(gone).unwrap(), began.elapsed()));
    store.close().await;
}
