//! What every store must do, as facts about the port. A back end is a way to open one store again and again; the suite
//! is called once for each (`contract!` at the end), with real files and real time.
#![expect(clippy::unwrap_used, reason = "a test's helpers may panic as the test may")]

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use trunkwarden::{
    clock::Timestamp,
    decision::{
        Board, By, EntryKind, Event, Hold, Incident, Input, Message, MessageType, Outcome, Recipient, Record, Scope,
        Settled,
    },
    health::{Health, RegisteredWhen},
    ids::{CampaignId, CampaignKey, DialerId, HoldId, IncidentId, MessageId, PbxId, TrunkId},
    store::{self, Entry, HistoryQuery, Order, OutboxState, Page, Retention, Store, StoreError},
};

/// One store that can be opened again after its last handle was dropped, as after a crash.
pub(crate) trait Backend {
    /// Opens it.
    fn open(&self) -> impl Future<Output = Arc<dyn Store>>;
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn trunk(id: &str) -> TrunkId {
    TrunkId::try_from(id).unwrap()
}

fn airtel() -> TrunkId {
    trunk("pbx1/airtel")
}

fn pbx(id: &str) -> PbxId {
    PbxId::try_from(id).unwrap()
}

fn key(dialer: &str, id: &str) -> CampaignKey {
    CampaignKey { dialer: DialerId::try_from(dialer).unwrap(), id: CampaignId::try_from(id).unwrap() }
}

fn message_id(name: &str) -> MessageId {
    MessageId::try_from(format!("msg_{name}")).unwrap()
}

fn record(scope: &Scope, kind: EntryKind, subject: &str, to: &str, second: i64) -> Record {
    Record {
        scope: scope.clone(),
        kind,
        subject: subject.to_owned(),
        to: to.to_owned(),
        at: at(second),
        detail: Value::Null,
    }
}

fn registration(to: &str, second: i64) -> Record {
    record(&Scope::Trunk(airtel()), EntryKind::Registration, "airtel-reg", to, second)
}

fn link(to: &str, second: i64) -> Record {
    record(&Scope::Pbx(pbx("pbx1")), EntryKind::Pbx, "link", to, second)
}

fn records(records: Vec<Record>) -> Outcome {
    Outcome { records, ..Outcome::default() }
}

fn message(name: &str, dialer: &str, campaign: Option<&str>, second: i64) -> Message {
    Message {
        id: message_id(name),
        to: Recipient::Dialer(DialerId::try_from(dialer).unwrap()),
        campaign: campaign.map(|id| key(dialer, id)),
        kind: MessageType::CampaignPause,
        body: json!({"type": "campaign.pause", "data": {"campaign": campaign}}),
        at: at(second),
    }
}

fn messages(messages: Vec<Message>) -> Outcome {
    Outcome { messages, ..Outcome::default() }
}

fn settled(name: &str, error: Option<&str>, second: i64) -> Outcome {
    let settled = Settled { message: message_id(name), error: error.map(str::to_owned), at: at(second) };
    Outcome { settled: vec![settled], ..Outcome::default() }
}

fn hold(name: &str, since: i64, released: Option<i64>) -> Hold {
    Hold {
        id: HoldId::try_from(format!("hold_{name}")).unwrap(),
        trunk: airtel(),
        since: at(since),
        until: None,
        by: By::Operator("asha".to_owned()),
        reason: "maintenance".to_owned(),
        health: Health::Down,
        diagnosis: None,
        observed_only: false,
        released_at: released.map(at),
        released_by: released.map(|_| By::Policy),
        release_reason: None,
        refused_calls: 3,
    }
}

fn incident(name: &str, since: i64, ended: Option<i64>) -> Incident {
    Incident {
        refused_calls: 0,
        id: IncidentId::try_from(format!("incident_{name}")).unwrap(),
        pbx: pbx("pbx1"),
        since: at(since),
        last_at: at(since),
        ended_at: ended.map(at),
        trunks: vec![airtel()],
        last_resume_at: None,
        summary: "two trunks failed together".to_owned(),
    }
}

/// A board as a controller would have it: made as a journal's `start` row is read, since only a step changes one.
fn board(trunks: &[&str], campaigns: &[&str], minted: u64) -> Board {
    let trunks: Vec<Value> = trunks.iter().map(|id| json!([id, trunk_record(id)])).collect();
    let campaigns: Vec<Value> = campaigns
        .iter()
        .map(|id| {
            json!([{"dialer": "crm", "id": id}, {
                "spec": {"key": {"dialer": "crm", "id": id}, "name": null, "trunks": ["pbx1/airtel"],
                         "hold_when": "any", "fallback": [], "resume_window": null, "resume_within": null},
                "state": "running", "since": "2026-01-05T10:00:00.123456789Z",
                "claim": {"hold": "hold_1", "trunk": "pbx1/airtel", "since": "2026-01-05T10:00:01Z",
                          "stage": {"stage": "pausing", "message": "msg_1", "left": false}}}])
        })
        .collect();
    serde_json::from_value(json!({
        "trunks": trunks,
        "campaigns": campaigns,
        "pbxs": {"pbx1": {"state": "listed", "since": "2026-01-05T10:00:00Z", "version": "9.0.0", "error": null}},
        "incidents": {},
        "seed": 17_446_744_073_709_551_557_u64,
        "minted": minted,
    }))
    .unwrap()
}

fn trunk_record(id: &str) -> Value {
    json!({
        "health": {
            "status": "down", "since": "2026-01-05T10:00:00.123456789Z",
            "reason": {"why": "rejected", "registration": "airtel-reg", "since": "2026-01-05T10:00:00.123456789Z"},
            "standing": "hold", "at": "2026-01-05T10:00:02.000000001Z", "registrations": {}, "contacts": {},
            "declared": true, "view": {"view": "listed"}, "lost": true, "ever_registered": true, "losses": 2,
            "penalty_value": 1912.5, "penalty_at": "2026-01-05T10:00:00Z", "suppressed_since": null,
            "held": true, "recovering_since": null},
        "endpoints": ["airtel"], "registrations": [],
        "policy_hold": Value::Null, "operator_hold": serde_json::to_value(hold(&id.replace('/', "_"), 5, None)).unwrap(),
        "override_": null,
        "gate": {"allow": false, "reason": "maintenance", "since": "2026-01-05T10:00:00Z", "health": "down", "until": null},
    })
}

fn everything() -> HistoryQuery {
    HistoryQuery {
        trunk: airtel(),
        since: None,
        until: None,
        kinds: Vec::new(),
        order: Order::OldestFirst,
        limit: 1000,
        after: None,
    }
}

/// An outcome that changed everything `board` holds.
fn all_of(board: &Board) -> Outcome {
    Outcome {
        trunks: board.trunks().map(|(id, record)| (id.clone(), Some(record.clone()))).collect(),
        campaigns: board.campaigns().map(|(key, campaign)| (key.clone(), Some(campaign.clone()))).collect(),
        pbxs: board.pbxs().map(|(id, record)| (id.clone(), record.clone())).collect(),
        ..Outcome::default()
    }
}

async fn commit(store: &dyn Store, outcomes: &[Outcome]) {
    store.commit(outcomes, at(1)).await.unwrap();
}

async fn lease(store: &dyn Store, now: i64) -> Vec<String> {
    let leased = store.lease_due(at(now), 10, Duration::from_secs(30)).await.unwrap();
    leased.iter().map(|leased| leased.message.id.as_str().trim_start_matches("msg_").to_owned()).collect()
}

/// Outcome, count, first and last second.
fn runs(entries: &[Entry]) -> Vec<(&str, u64, i64, i64)> {
    entries
        .iter()
        .map(|entry| (entry.to.as_str(), entry.count, entry.first_at.as_second(), entry.last_at.as_second()))
        .collect()
}

fn seqs(page: &Page) -> Vec<i64> {
    page.items.iter().map(|entry| entry.seq).collect()
}

pub(crate) async fn a_first_start_finds_nothing(backend: &impl Backend) {
    let restored = backend.open().await.load().await.unwrap();
    assert_eq!(restored.board, Board::default());
    assert_eq!(restored.last_alive, None);
}

pub(crate) async fn a_restart_goes_on_from_the_last_commit(backend: &impl Backend) {
    let store = backend.open().await;
    let before = board(&["pbx1/airtel", "pbx1/tata"], &["7", "8"], 3);
    let first = Outcome {
        incidents: vec![incident("1", 5, None), incident("2", 6, None)],
        minted: Some((17_446_744_073_709_551_557, 3)),
        ..all_of(&before)
    };
    store.commit(&[first], at(10)).await.unwrap();
    // A campaign and a trunk go, an incident ends; of two outcomes in one commit the later one counts.
    let after = board(&["pbx1/airtel"], &["8"], 4);
    let second = Outcome {
        trunks: BTreeMap::from([(trunk("pbx1/tata"), None)]),
        campaigns: BTreeMap::from([(key("crm", "7"), None)]),
        incidents: vec![incident("1", 5, Some(20))],
        minted: Some((17_446_744_073_709_551_557, 4)),
        ..Outcome::default()
    };
    let nothing = Outcome::default();
    store.commit(&[second, nothing], at(20)).await.unwrap();
    drop(store);

    let restored = backend.open().await.load().await.unwrap();
    assert_eq!(restored.last_alive, Some(at(20)));
    assert_eq!(restored.board.trunks().collect::<Vec<_>>(), after.trunks().collect::<Vec<_>>());
    assert_eq!(restored.board.campaigns().collect::<Vec<_>>(), after.campaigns().collect::<Vec<_>>());
    assert_eq!(restored.board.pbxs().collect::<Vec<_>>(), after.pbxs().collect::<Vec<_>>());
    assert_eq!(restored.board.incidents().collect::<Vec<_>>(), [&incident("2", 6, None)]);
    let ids = |board: &Board| {
        let json = serde_json::to_value(board).unwrap();
        (json["seed"].clone(), json["minted"].clone())
    };
    assert_eq!(ids(&restored.board), (json!(17_446_744_073_709_551_557_u64), json!(4)));
}

pub(crate) async fn a_restart_leases_anew_what_a_crash_had_leased(backend: &impl Backend) {
    let store = backend.open().await;
    commit(&*store, &[messages(vec![message("pause", "crm", Some("7"), 0)])]).await;
    assert_eq!(lease(&*store, 1).await, ["pause"]);
    assert_eq!(lease(&*store, 2).await, [""; 0], "leased until 31");
    drop(store);
    let store = backend.open().await;
    store.load().await.unwrap();
    assert_eq!(lease(&*store, 3).await, ["pause"], "whoever had it is gone");
}

pub(crate) async fn equal_outcomes_are_one_entry(backend: &impl Backend) {
    let store = backend.open().await;
    // The same run grows within an outcome, over outcomes, over commits and over restarts.
    commit(&*store, &[records(vec![registration("rejected", 0), registration("rejected", 5)])]).await;
    commit(&*store, &[records(vec![registration("rejected", 10)]), records(vec![registration("rejected", 15)])]).await;
    drop(store);
    let store = backend.open().await;
    commit(&*store, &[records(vec![registration("rejected", 20), registration("registered", 25)])]).await;

    let page = store.history(&everything()).await.unwrap();
    assert_eq!(runs(&page.items), [("rejected", 5, 0, 20), ("registered", 1, 25, 25)]);
    assert_eq!(page.items[0].from, None);
    assert_eq!(page.items[1].from.as_deref(), Some("rejected"));
    assert_eq!(page.items[1].at, page.items[1].first_at);
    assert_eq!(page.next, None);
}

pub(crate) async fn an_entry_keeps_the_detail_of_its_first_time(backend: &impl Backend) {
    let store = backend.open().await;
    let with = |detail, second| Record { detail, ..registration("rejected", second) };
    commit(&*store, &[records(vec![with(json!({"code": 403}), 0), with(json!({"code": 503}), 5)])]).await;
    assert_eq!(store.history(&everything()).await.unwrap().items[0].detail, json!({"code": 403}));
}

pub(crate) async fn series_do_not_mix(backend: &impl Backend) {
    let store = backend.open().await;
    let other_trunk = Scope::Trunk(trunk("pbx1/tata"));
    let own = Scope::Trunk(airtel());
    commit(
        &*store,
        &[records(vec![
            record(&own, EntryKind::Registration, "a", "registered", 0),
            record(&own, EntryKind::Registration, "b", "registered", 1),
            record(&own, EntryKind::Health, "", "registered", 2),
            record(&other_trunk, EntryKind::Registration, "a", "registered", 3),
            record(&own, EntryKind::Registration, "a", "registered", 4),
        ])],
    )
    .await;
    let page = store.history(&everything()).await.unwrap();
    assert_eq!(runs(&page.items), [("registered", 2, 0, 4), ("registered", 1, 1, 1), ("registered", 1, 2, 2)]);
    assert!(page.items.iter().all(|entry| entry.scope == own));
}

pub(crate) async fn a_pbx_entry_is_in_each_of_its_trunks_histories(backend: &impl Backend) {
    let store = backend.open().await;
    commit(&*store, &[records(vec![link("connected", 0), registration("registered", 1), link("lost", 9)])]).await;
    for name in ["pbx1/airtel", "pbx1/tata"] {
        let page = store.history(&HistoryQuery { trunk: trunk(name), ..everything() }).await.unwrap();
        let links: Vec<_> = page.items.iter().filter(|entry| entry.kind == EntryKind::Pbx).collect();
        assert_eq!(links.iter().map(|entry| entry.to.as_str()).collect::<Vec<_>>(), ["connected", "lost"]);
    }
    let elsewhere = store.history(&HistoryQuery { trunk: trunk("pbx2/airtel"), ..everything() }).await.unwrap();
    assert!(elsewhere.items.is_empty());
}

pub(crate) async fn a_page_goes_on_where_the_last_one_ended(backend: &impl Backend) {
    let store = backend.open().await;
    let all: Vec<Record> = (0..50)
        .map(|n| match n % 3 {
            0 => registration(&format!("r{n}"), n),
            1 => link(&format!("l{n}"), n),
            _ => record(&Scope::Trunk(airtel()), EntryKind::Health, "", &format!("h{n}"), n),
        })
        .collect();
    commit(&*store, &[records(all)]).await;
    for order in [Order::OldestFirst, Order::NewestFirst] {
        let whole = store.history(&HistoryQuery { order, ..everything() }).await.unwrap();
        assert_eq!(whole.items.len(), 50);
        let mut pages = Vec::new();
        let mut after = None;
        loop {
            let page = store.history(&HistoryQuery { order, limit: 7, after, ..everything() }).await.unwrap();
            assert!(page.items.len() <= 7);
            pages.extend(page.items);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(pages, whole.items, "{order:?}");
        assert!(whole.items.is_sorted_by_key(|entry| match order {
            Order::OldestFirst => entry.seq,
            Order::NewestFirst => -entry.seq,
        }));
    }
}

pub(crate) async fn a_page_that_is_just_full_is_the_last(backend: &impl Backend) {
    let store = backend.open().await;
    commit(&*store, &[records(vec![registration("rejected", 0), registration("registered", 1)])]).await;
    let page = store.history(&HistoryQuery { limit: 2, ..everything() }).await.unwrap();
    assert_eq!((page.items.len(), page.next), (2, None));
}

pub(crate) async fn a_span_has_the_runs_that_overlap_it(backend: &impl Backend) {
    let store = backend.open().await;
    commit(
        &*store,
        &[records(vec![
            registration("rejected", 0),
            registration("rejected", 10),
            registration("registered", 20),
            registration("registered", 100),
            registration("rejected", 110),
            link("connected", 5),
        ])],
    )
    .await;
    let span = async |since: Option<i64>, until: Option<i64>, kinds: &[EntryKind]| {
        let query = HistoryQuery { since: since.map(at), until: until.map(at), kinds: kinds.to_vec(), ..everything() };
        let page = store.history(&query).await.unwrap();
        page.items.iter().map(|entry| entry.first_at.as_second()).collect::<Vec<_>>()
    };
    // The run 20..=100 reaches into a span between its ends, the one 0..=10 touches its own last second.
    assert_eq!(span(Some(50), Some(60), &[]).await, [20]);
    assert_eq!(span(Some(10), Some(20), &[]).await, [0]);
    assert_eq!(span(Some(11), Some(20), &[]).await, [0_i64; 0]);
    assert_eq!(span(Some(10), Some(21), &[]).await, [0, 20]);
    assert_eq!(span(None, Some(20), &[]).await, [0, 5]);
    assert_eq!(span(Some(101), None, &[]).await, [110]);
    assert_eq!(span(None, None, &[EntryKind::Pbx]).await, [5]);
    assert_eq!(span(None, None, &[EntryKind::Pbx, EntryKind::Registration]).await, [0, 20, 110, 5]);
    assert_eq!(span(None, None, &[EntryKind::Health]).await, [0_i64; 0]);
}

pub(crate) async fn a_late_or_backward_time_never_makes_runs_overlap(backend: &impl Backend) {
    let store = backend.open().await;
    commit(
        &*store,
        &[records(vec![registration("registered", 100), registration("rejected", 90), registration("registered", 80)])],
    )
    .await;
    let page = store.history(&everything()).await.unwrap();
    assert_eq!(
        runs(&page.items),
        [("registered", 1, 100, 100), ("rejected", 1, 100, 100), ("registered", 1, 100, 100)]
    );
}

pub(crate) async fn a_trunk_as_it_was_has_what_was_current(backend: &impl Backend) {
    let store = backend.open().await;
    commit(
        &*store,
        &[records(vec![
            link("connected", 0),
            registration("registered", 1),
            record(&Scope::Trunk(airtel()), EntryKind::Health, "", "stable", 2),
            registration("rejected", 50),
            record(&Scope::Trunk(airtel()), EntryKind::Health, "", "down", 50),
            link("lost", 60),
            link("connected", 70),
        ])],
    )
    .await;
    let was = async |second| {
        let was = store.at(&airtel(), at(second)).await.unwrap();
        let mut said: Vec<String> = was.entries.into_iter().map(|entry| entry.to).collect();
        said.sort();
        (was.observed, said)
    };
    assert_eq!(was(-1).await, (false, vec![]));
    assert_eq!(was(0).await, (true, vec!["connected".to_owned()]));
    assert_eq!(was(49).await, (true, vec!["connected".to_owned(), "registered".to_owned(), "stable".to_owned()]));
    assert_eq!(was(65).await, (false, vec!["down".to_owned(), "lost".to_owned(), "rejected".to_owned()]));
    assert!(was(70).await.0);
}

pub(crate) async fn availability_is_that_of_the_runs(backend: &impl Backend) {
    let store = backend.open().await;
    commit(
        &*store,
        &[records(vec![
            link("connected", 0),
            registration("registered", 10),
            registration("rejected", 100),
            registration("registered", 130),
            link("lost", 200),
            link("connected", 260),
            registration("registered", 261),
            registration("unregistered", 400),
        ])],
    )
    .await;
    let of =
        async |since, until| store.availability(&airtel(), at(since), at(until), RegisteredWhen::Any).await.unwrap();
    // 0-10 unknown, 10-100 up, 100-130 down, 130-200 up, 200-260 unknown, 260-400 up, 400-500 down.
    let whole = of(0, 500).await;
    assert_eq!((whole.registered_seconds, whole.down_seconds, whole.unknown_seconds), (300.0, 130.0, 70.0));
    assert_eq!((whole.outages, whole.longest_outage_seconds), (2, 100.0));
    assert_eq!((whole.mtbf_seconds, whole.mttr_seconds), (Some(150.0), Some(30.0)));
    assert_eq!((whole.since, whole.until), (Some(at(0)), Some(at(500))));
    // A span goes on from what was before it.
    let inner = of(110, 210).await;
    assert_eq!((inner.registered_seconds, inner.down_seconds, inner.unknown_seconds), (70.0, 20.0, 10.0));
    assert_eq!(inner.outages, 0);
    let blind = of(210, 250).await;
    assert_eq!((blind.unknown_seconds, blind.ratio), (40.0, None));
    // Two halves are the whole.
    let halves = [of(0, 250).await, of(250, 500).await];
    assert_eq!(halves.iter().map(|half| half.outages).sum::<u64>(), 2);
    assert!((halves.iter().map(|half| half.registered_seconds).sum::<f64>() - 300.0).abs() < 1e-9);
}

pub(crate) async fn down_time_is_the_fault_of_the_diagnosis_of_its_outage(backend: &impl Backend) {
    let store = backend.open().await;
    let diagnosed = |to, fault, second| {
        let detail = serde_json::json!({ "cause": to, "fault": fault });
        Record { detail, ..record(&Scope::Trunk(airtel()), EntryKind::Diagnosis, "airtel-reg", to, second) }
    };
    commit(
        &*store,
        &[records(vec![
            registration("registered", 0),
            registration("rejected", 100),
            diagnosed("no_response", "network", 110),
            registration("unregistered", 120),
            registration("rejected", 121),
            diagnosed("provider_unavailable", "provider", 150),
            registration("registered", 200),
            diagnosed("nat_contact", "network", 205),
            registration("rejected", 300),
            registration("registered", 310),
            registration("rejected", 400),
            // The same as the run before, in a later outage: one run of two.
            diagnosed("nat_contact", "network", 401),
            diagnosed("wrong_password", "configuration", 410),
            registration("registered", 420),
            registration("rejected", 500),
            diagnosed("wrong_password", "configuration", 503),
            registration("registered", 510),
        ])],
    )
    .await;
    let of = async |since, until| {
        let got = store.availability(&airtel(), at(since), at(until), RegisteredWhen::Any).await.unwrap();
        assert!((got.by_fault.values().sum::<f64>() - got.down_seconds).abs() < 1e-6, "{got:?}");
        let whole = got.by_fault.into_iter().map(|(fault, seconds)| format!("{fault} {seconds}"));
        whole.collect::<Vec<_>>().join(", ")
    };
    assert_eq!(of(0, 600).await, "configuration 30, network 50, provider 50, unknown 10");
    // The outage began, and was diagnosed, before the span; the newest run before the span is not the first of its outage.
    assert_eq!(of(130, 250).await, "network 20, provider 50");
    assert_eq!(of(160, 250).await, "provider 40");
    // Diagnosed just after the span.
    assert_eq!(of(0, 105).await, "network 5");
    assert_eq!(of(290, 405).await, "configuration 5, unknown 10");
    assert_eq!(of(450, 502).await, "configuration 2");
    assert_eq!(of(205, 300).await, "");
}

pub(crate) async fn without_a_registration_health_tells_availability(backend: &impl Backend) {
    let store = backend.open().await;
    let health = |to, second| record(&Scope::Trunk(airtel()), EntryKind::Health, "", to, second);
    commit(
        &*store,
        &[records(vec![
            health("stable", 0),
            health("suspect", 10),
            health("down", 20),
            health("unstable", 30),
            health("unknown", 40),
        ])],
    )
    .await;
    let got = store.availability(&airtel(), at(0), at(50), RegisteredWhen::All).await.unwrap();
    assert_eq!((got.registered_seconds, got.down_seconds, got.unknown_seconds, got.outages), (30.0, 10.0, 10.0, 1));
}

pub(crate) async fn calls_refused_are_those_of_holds_in_the_span(backend: &impl Backend) {
    let store = backend.open().await;
    let holds = vec![hold("before", 0, Some(10)), hold("in", 20, Some(30)), hold("open", 40, None)];
    commit(&*store, &[Outcome { holds, ..Outcome::default() }]).await;
    let of = async |since, until| {
        store.availability(&airtel(), at(since), at(until), RegisteredWhen::Any).await.unwrap().calls_refused
    };
    assert_eq!((of(10, 50).await, of(0, 50).await, of(10, 40).await), (6, 9, 3));
}

pub(crate) async fn calls_refused_without_a_hold_are_those_of_the_gate(backend: &impl Backend) {
    let store = backend.open().await;
    let gate =
        |to, second, detail| Record { detail, ..record(&Scope::Trunk(airtel()), EntryKind::Gate, "", to, second) };
    let mut current = trunk_record("pbx1/airtel");
    current["refused_without_hold"] = 7.into();
    current["gate"]["since"] = serde_json::to_value(at(60)).unwrap();
    let outcome = |current: &Value| Outcome {
        trunks: BTreeMap::from([(airtel(), Some(serde_json::from_value(current.clone()).unwrap()))]),
        ..Outcome::default()
    };
    let told = vec![
        gate("hold", 10, json!({"reason": "x"})),
        gate("allow", 20, json!({"reason": "x", "refused_calls": 9, "refused_without_hold": 4})),
        gate("hold", 30, json!({"reason": "x", "refused_without_hold": 1})),
        gate("allow", 40, json!({"reason": "x", "refused_calls": 3, "refused_without_hold": 0})),
        gate("hold", 60, Value::Null),
    ];
    commit(&*store, &[Outcome { holds: vec![hold("in", 32, Some(40))], ..records(told) }, outcome(&current)]).await;
    let of = async |since, until| {
        store.availability(&airtel(), at(since), at(until), RegisteredWhen::Any).await.unwrap().calls_refused
    };
    assert_eq!(of(0, 50).await, 4 + 1 + 3);
    assert_eq!(of(20, 30).await, 4, "each turn of the gate is in one of two adjacent spans");
    assert_eq!((of(30, 50).await, of(45, 50).await), (1 + 3, 0));
    assert_eq!((of(45, 70).await, of(65, 70).await), (7, 7), "it holds since 60, and nobody wrote an entry yet");
    // The gate opened at 60, and they were heard of after.
    current["gate"]["allow"] = true.into();
    commit(&*store, &[outcome(&current)]).await;
    assert_eq!((of(45, 70).await, of(65, 70).await), (7, 0));
    let nobody = store.availability(&trunk("pbx1/nobody"), at(0), at(70), RegisteredWhen::Any).await.unwrap();
    assert_eq!(nobody.calls_refused, 0);
}

pub(crate) async fn holds_and_incidents_are_listed_newest_first(backend: &impl Backend) {
    let store = backend.open().await;
    commit(
        &*store,
        &[Outcome {
            holds: vec![hold("1", 10, None), hold("2", 20, None)],
            incidents: vec![incident("1", 10, None), incident("2", 20, None)],
            ..Outcome::default()
        }],
    )
    .await;
    let ended = hold("1", 10, Some(30));
    commit(&*store, &[Outcome { holds: vec![ended.clone()], ..Outcome::default() }]).await;
    assert_eq!(store.holds(None, 10).await.unwrap(), [hold("2", 20, None), ended.clone()]);
    assert_eq!(store.holds(Some(true), 10).await.unwrap(), [hold("2", 20, None)]);
    assert_eq!(store.holds(Some(false), 10).await.unwrap(), [ended]);
    assert_eq!(store.holds(None, 1).await.unwrap().len(), 1);
    assert_eq!(store.incidents(10).await.unwrap(), [incident("2", 20, None), incident("1", 10, None)]);
}

pub(crate) async fn a_campaigns_messages_are_leased_in_order(backend: &impl Backend) {
    let store = backend.open().await;
    commit(
        &*store,
        &[messages(vec![
            message("pause7", "crm", Some("7"), 0),
            message("resume7", "crm", Some("7"), 1),
            message("pause8", "crm", Some("8"), 2),
            message("later", "crm", Some("9"), 50),
        ])],
    )
    .await;
    assert_eq!(lease(&*store, 10).await, ["pause7", "pause8"]);
    // Leased ones are not given again, and what is behind one waits although it is due.
    assert_eq!(lease(&*store, 11).await, [""; 0]);
    commit(&*store, &[settled("pause7", None, 12)]).await;
    assert_eq!(lease(&*store, 12).await, ["resume7"]);
}

pub(crate) async fn a_postponed_message_keeps_those_behind_it_waiting(backend: &impl Backend) {
    let store = backend.open().await;
    commit(&*store, &[messages(vec![message("pause", "crm", Some("7"), 0), message("resume", "crm", Some("7"), 0)])])
        .await;
    assert_eq!(lease(&*store, 0).await, ["pause"]);
    store.postpone(&message_id("pause"), at(20), "connection refused").await.unwrap();
    assert_eq!(store.next_due().await.unwrap(), Some(at(20)));
    assert_eq!(lease(&*store, 19).await, [""; 0]);
    let again = store.lease_due(at(20), 10, Duration::from_secs(30)).await.unwrap();
    assert_eq!((again.len(), again[0].attempts), (1, 1));
    assert_eq!(again[0].message, message("pause", "crm", Some("7"), 0));
}

pub(crate) async fn a_lane_is_one_recipients(backend: &impl Backend) {
    let store = backend.open().await;
    let notify = |name: &str, to: &str, campaign: Option<CampaignKey>| Message {
        to: Recipient::Notify(to.to_owned()),
        campaign,
        ..message(name, "crm", None, 0)
    };
    commit(
        &*store,
        &[messages(vec![
            notify("people", "chat", Some(key("crm", "7"))),
            notify("people2", "chat", None),
            notify("people3", "chat", None),
            notify("dialer_named_alike", "crm", None),
            message("pause", "crm", Some("7"), 0),
            message("uncampaigned", "crm", None, 0),
        ])],
    )
    .await;
    // Chat that is down must not hold up a pause about the same campaign.
    assert_eq!(lease(&*store, 0).await, ["people", "people2", "dialer_named_alike", "pause", "uncampaigned"]);
}

pub(crate) async fn a_crashed_dispatchers_lease_ends(backend: &impl Backend) {
    let store = backend.open().await;
    commit(&*store, &[messages(vec![message("pause", "crm", Some("7"), 0)])]).await;
    assert_eq!(lease(&*store, 0).await, ["pause"]);
    drop(store);
    let store = backend.open().await;
    assert_eq!(lease(&*store, 29).await, [""; 0]);
    assert_eq!(store.next_due().await.unwrap(), Some(at(30)));
    assert_eq!(lease(&*store, 30).await, ["pause"]);
}

pub(crate) async fn a_settled_message_stays_settled(backend: &impl Backend) {
    let store = backend.open().await;
    commit(&*store, &[messages(vec![message("a", "crm", Some("7"), 0), message("b", "crm", Some("8"), 0)])]).await;
    assert_eq!(lease(&*store, 0).await, ["a", "b"]);
    commit(&*store, &[settled("a", None, 1), settled("b", Some("410 Gone"), 1)]).await;
    store.postpone(&message_id("a"), at(5), "late failure").await.unwrap();
    commit(&*store, &[settled("a", Some("too late"), 2)]).await;
    assert_eq!(lease(&*store, 100).await, [""; 0]);
    assert_eq!(store.next_due().await.unwrap(), None);
    let items = store.outbox(None, 10).await.unwrap();
    let seen: Vec<_> = items
        .iter()
        .map(|item| (item.message.id.as_str(), item.state, item.attempts, item.next_at, item.last_error.as_deref()))
        .collect();
    assert_eq!(
        seen,
        [
            ("msg_b", OutboxState::Abandoned, 1, None, Some("410 Gone")),
            ("msg_a", OutboxState::Delivered, 1, None, None),
        ]
    );
}

pub(crate) async fn a_message_may_be_settled_before_it_was_ever_sent(backend: &impl Backend) {
    let store = backend.open().await;
    let mut outcome = settled("pause", Some("the trunk is back"), 1);
    outcome.messages = vec![message("pause", "crm", Some("7"), 0)];
    commit(&*store, &[outcome]).await;
    assert_eq!(lease(&*store, 10).await, [""; 0]);
    let items = store.outbox(Some(OutboxState::Abandoned), 10).await.unwrap();
    assert_eq!((items.len(), items[0].attempts), (1, 0));
    assert!(store.outbox(Some(OutboxState::Pending), 10).await.unwrap().is_empty());
}

pub(crate) async fn the_journal_is_in_order_and_its_numbers_are_never_used_again(backend: &impl Backend) {
    let store = backend.open().await;
    let start = store.journal_append(at(0), "start", json!({"seed": 1})).await.unwrap();
    let tick = Input::Tick { at: at(1) };
    let event = Event { kind: "gate".to_owned(), at: at(1), data: json!({"allow": false}) };
    commit(&*store, &[Outcome { input: Some(tick.clone()), events: vec![event], ..Outcome::default() }]).await;
    let rows = store.journal(0, 10).await.unwrap();
    let kinds: Vec<_> = rows.iter().map(|row| row.kind.as_str()).collect();
    assert_eq!(kinds, ["start", "input", "gate"]);
    assert_eq!(rows[0].seq, start);
    assert_eq!(serde_json::from_value::<Input>(rows[1].body.clone()).unwrap(), tick);
    assert_eq!(store.journal(start, 1).await.unwrap(), [rows[1].clone()]);
    let newest = rows[2].seq;
    let keep = Retention { history: Duration::from_secs(10), journal: Duration::from_secs(10) };
    assert_eq!(store.prune(at(1000), keep).await.unwrap(), 3);
    drop(store);
    let store = backend.open().await;
    assert!(store.journal_append(at(1000), "start", Value::Null).await.unwrap() > newest);
}

pub(crate) async fn retention_takes_what_is_over_and_nothing_else(backend: &impl Backend) {
    let store = backend.open().await;
    let health = |to, second| record(&Scope::Trunk(airtel()), EntryKind::Health, "", to, second);
    commit(
        &*store,
        &[
            records(vec![
                registration("rejected", 0),
                registration("registered", 10),
                registration("rejected", 20),
                // Current when the retention begins at 100, though last seen long before.
                registration("registered", 30),
                registration("rejected", 150),
                // The newest of its series.
                health("stable", 5),
            ]),
            Outcome {
                holds: vec![hold("old", 0, Some(50)), hold("ended", 0, Some(150)), hold("active", 0, None)],
                incidents: vec![incident("old", 0, Some(50)), incident("open", 0, None)],
                messages: vec![
                    message("old", "crm", Some("1"), 0),
                    message("new", "crm", Some("2"), 0),
                    message("pending", "crm", Some("3"), 0),
                ],
                ..Outcome::default()
            },
            settled("old", None, 50),
            settled("new", None, 150),
        ],
    )
    .await;
    for second in [50, 150] {
        store.journal_append(at(second), "start", Value::Null).await.unwrap();
    }
    let before = store.availability(&airtel(), at(100), at(200), RegisteredWhen::Any).await.unwrap();
    let keep = Retention { history: Duration::from_secs(100), journal: Duration::from_secs(100) };
    // Three runs, a hold, an incident, a message, a journal row.
    assert_eq!(store.prune(at(200), keep).await.unwrap(), 7);
    assert_eq!(store.prune(at(200), keep).await.unwrap(), 0);

    let page = store.history(&everything()).await.unwrap();
    assert_eq!(runs(&page.items), [("registered", 1, 30, 30), ("rejected", 1, 150, 150), ("stable", 1, 5, 5)]);
    assert_eq!(store.availability(&airtel(), at(100), at(200), RegisteredWhen::Any).await.unwrap(), before);
    assert_eq!(store.holds(None, 10).await.unwrap().len(), 2);
    assert_eq!(store.incidents(10).await.unwrap(), [incident("open", 0, None)]);
    assert_eq!(store.outbox(None, 10).await.unwrap().len(), 2);
    assert_eq!(store.journal(0, 10).await.unwrap().len(), 1);
    // The newest run goes on as if nothing had been taken away.
    commit(&*store, &[records(vec![health("stable", 300)])]).await;
    let page = store.history(&HistoryQuery { kinds: vec![EntryKind::Health], ..everything() }).await.unwrap();
    assert_eq!(runs(&page.items), [("stable", 2, 5, 300)]);
}

pub(crate) async fn retention_works_through_more_than_one_batch(backend: &impl Backend) {
    let store = backend.open().await;
    let flaps = (0..5000).map(|n| registration(if n % 2 == 0 { "registered" } else { "rejected" }, n)).collect();
    commit(&*store, &[records(flaps)]).await;
    let keep = Retention { history: Duration::from_secs(1000), journal: Duration::ZERO };
    assert_eq!(store.prune(at(5000), keep).await.unwrap(), 4000);
    assert_eq!(store.history(&HistoryQuery { limit: 2000, ..everything() }).await.unwrap().items.len(), 1000);
}

pub(crate) async fn every_commit_that_returned_is_there_after_a_crash(backend: &impl Backend) {
    for round in 0..5 {
        let store = backend.open().await;
        assert_eq!(store.journal(0, 100).await.unwrap().len(), round * 3);
        for _ in 0..3 {
            let tick = Input::Tick { at: at(1) };
            commit(&*store, &[Outcome { input: Some(tick), ..records(vec![registration("rejected", 1)]) }]).await;
        }
        // Dropped, not closed: nothing gets to tidy up.
        drop(store);
    }
    let page = backend.open().await.history(&everything()).await.unwrap();
    assert_eq!(runs(&page.items), [("rejected", 15, 1, 1)]);
}

pub(crate) async fn a_commit_dropped_on_the_way_leaves_whole_runs(backend: &impl Backend) {
    let store = backend.open().await;
    commit(&*store, &[records(vec![registration("registered", 0)])]).await;
    let outcomes = [
        records((0..20).map(|n| registration("rejected", n)).collect()),
        records((0..5).map(|n| registration(&format!("odd{n}"), 200)).collect()),
    ];
    // Dropped after one look, two, four... until one is left to its end.
    let mut ended = false;
    for looks in (0..30).map(|power| 1_u64 << power) {
        let mut commit = store.commit(&outcomes, at(1));
        for _ in 0..looks {
            let look = std::future::poll_fn(|context| std::task::Poll::Ready(commit.as_mut().poll(context)));
            if let std::task::Poll::Ready(result) = look.await {
                result.unwrap();
                ended = true;
                break;
            }
            tokio::task::yield_now().await;
        }
        if ended {
            break;
        }
    }
    assert!(ended);
    commit(&*store, &[records(vec![registration("registered", 300)])]).await;
    let page = store.history(&everything()).await.unwrap();
    let whole = page.items.iter().filter(|entry| entry.to == "rejected" && entry.count == 20).count();
    assert!(whole >= 1);
    assert_eq!(page.items.len(), 1 + whole * 6 + 1);
    for pair in page.items.windows(2) {
        assert_eq!(pair[1].from.as_deref(), Some(pair[0].to.as_str()));
        assert!(pair[0].last_at <= pair[1].first_at && pair[0].to != pair[1].to);
    }
}

pub(crate) async fn reports_do_not_wait_for_commits(backend: &impl Backend) {
    let store = backend.open().await;
    let flaps = |from: i64| {
        let flap = |n| registration(if n % 2 == 0 { "registered" } else { "rejected" }, from + n);
        records((0..500).map(flap).collect())
    };
    let outcomes: Vec<Outcome> = (0..4).map(|n| flaps(n * 500)).collect();
    let (committed, query) = (store.commit(&outcomes, at(1)), everything());
    let read = async {
        for _ in 0..20 {
            let page = store.history(&query).await.unwrap();
            assert!(page.items.is_empty() || page.items.len() == 1000, "a commit is seen whole or not at all");
        }
    };
    let (committed, ()) = tokio::join!(committed, read);
    committed.unwrap();
}

/// Records of one commit each, as (series, outcome, seconds since the one before).
fn any_commits() -> impl Strategy<Value = Vec<Vec<(usize, usize, i64)>>> {
    let record = (0..3_usize, 0..3_usize, -5..20_i64);
    proptest::collection::vec(proptest::collection::vec(record, 0..12), 1..6)
}

/// Runs as a straightforward reader would make them: (outcome before, outcome, count).
fn expected_runs(outcomes: &[&str]) -> Vec<(Option<String>, String, u64)> {
    let mut runs: Vec<(Option<String>, String, u64)> = Vec::new();
    for to in outcomes {
        match runs.last_mut() {
            Some((_, last, count)) if last == to => *count += 1,
            Some(_) | None => {
                let from = runs.last().map(|(_, last, _)| last.clone());
                runs.push((from, (*to).to_owned(), 1));
            }
        }
    }
    runs
}

async fn check_commits<B: Backend>(backend: &B, commits: &[Vec<(usize, usize, i64)>], reopen: bool) {
    const OUTCOMES: [&str; 3] = ["registered", "rejected", "unregistered"];
    const SERIES: [&str; 3] = ["a", "b", "c"];
    let mut store = backend.open().await;
    let mut second = 1000;
    let mut told: [Vec<&str>; 3] = Default::default();
    for taken in commits {
        let mut all = Vec::new();
        for &(series, to, step) in taken {
            second += step;
            told[series].push(OUTCOMES[to]);
            all.push(record(&Scope::Trunk(airtel()), EntryKind::Registration, SERIES[series], OUTCOMES[to], second));
        }
        commit(&*store, &[records(all)]).await;
        if reopen {
            drop(store);
            store = backend.open().await;
        }
    }
    let page = store.history(&everything()).await.unwrap();
    for (subject, told) in SERIES.iter().zip(&told) {
        let kept: Vec<&Entry> = page.items.iter().filter(|entry| entry.subject == *subject).collect();
        let seen: Vec<_> = kept.iter().map(|entry| (entry.from.clone(), entry.to.clone(), entry.count)).collect();
        assert_eq!(seen, expected_runs(told), "{subject}");
        assert!(kept.windows(2).all(|pair| pair[0].last_at <= pair[1].first_at));
        assert!(kept.iter().all(|entry| entry.first_at <= entry.last_at));
    }
    // Any span gives what its definition says, of all entries.
    for since in (990..second + 20).step_by(7) {
        let (since, until) = (at(since), at(since + 15));
        let query = HistoryQuery { since: Some(since), until: Some(until), ..everything() };
        let expected: Vec<i64> = page
            .items
            .iter()
            .filter(|entry| entry.last_at >= since && entry.first_at < until)
            .map(|entry| entry.seq)
            .collect();
        assert_eq!(seqs(&store.history(&query).await.unwrap()), expected);
    }
}

pub(crate) fn any_records_expand_to_the_same_runs<B: Backend>(make: impl Fn() -> B) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases: 24, ..ProptestConfig::default() });
    let cases = (any_commits(), any::<bool>());
    runner
        .run(&cases, |(commits, reopen)| {
            runtime.block_on(check_commits(&make(), &commits, reopen));
            Ok(())
        })
        .unwrap();
}

/// Calls the suite for a back end; `$make` gives one with an empty store.
macro_rules! contract {
    ($backend:ident, $make:expr, [$($fact:ident),* $(,)?]) => {
        mod $backend {
            use super::*;

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $fact() {
                    super::$fact(&$make).await;
                }
            )*

            #[test]
            fn any_records_expand_to_the_same_runs() {
                super::any_records_expand_to_the_same_runs(|| $make);
            }
        }
    };
    ($backend:ident, $make:expr) => {
        contract!($backend, $make, [
            a_first_start_finds_nothing,
            a_restart_goes_on_from_the_last_commit,
        a_restart_leases_anew_what_a_crash_had_leased,
            equal_outcomes_are_one_entry,
            an_entry_keeps_the_detail_of_its_first_time,
            series_do_not_mix,
            a_pbx_entry_is_in_each_of_its_trunks_histories,
            a_page_goes_on_where_the_last_one_ended,
            a_page_that_is_just_full_is_the_last,
            a_span_has_the_runs_that_overlap_it,
            a_late_or_backward_time_never_makes_runs_overlap,
            a_trunk_as_it_was_has_what_was_current,
            availability_is_that_of_the_runs,
            down_time_is_the_fault_of_the_diagnosis_of_its_outage,
            without_a_registration_health_tells_availability,
            calls_refused_are_those_of_holds_in_the_span,
            calls_refused_without_a_hold_are_those_of_the_gate,
            holds_and_incidents_are_listed_newest_first,
            a_campaigns_messages_are_leased_in_order,
            a_postponed_message_keeps_those_behind_it_waiting,
            a_lane_is_one_recipients,
            a_crashed_dispatchers_lease_ends,
            a_settled_message_stays_settled,
            a_message_may_be_settled_before_it_was_ever_sent,
            the_journal_is_in_order_and_its_numbers_are_never_used_again,
            retention_takes_what_is_over_and_nothing_else,
            retention_works_through_more_than_one_batch,
            every_commit_that_returned_is_there_after_a_crash,
            a_commit_dropped_on_the_way_leaves_whole_runs,
            reports_do_not_wait_for_commits,
        ]);
    };
}

contract!(sqlite, SqliteFile::new());

/// A file in a directory of its own.
#[derive(Debug)]
struct SqliteFile {
    directory: TempDir,
}

impl SqliteFile {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("trunkwarden.db")
    }

    fn url(&self) -> String {
        format!("sqlite:{}", self.path().display())
    }
}

impl Backend for SqliteFile {
    async fn open(&self) -> Arc<dyn Store> {
        store::open(&self.url()).await.unwrap()
    }
}

/// What only a file can get wrong.
mod sqlite_file {
    use super::*;

    async fn refusal(url: &str) -> (StoreError, String) {
        let error = store::open(url).await.expect_err("it must not open");
        let said = error.to_string();
        (error, said)
    }

    #[tokio::test]
    async fn a_new_file_is_its_owners_only() {
        use std::os::unix::fs::PermissionsExt;
        let file = SqliteFile::new();
        let store = file.open().await;
        commit(&*store, &[records(vec![registration("rejected", 0)])]).await;
        for suffix in ["", "-wal", "-shm", ".lock"] {
            let path = format!("{}{suffix}", file.path().display());
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{path}");
        }
    }

    #[tokio::test]
    async fn a_closed_store_is_one_file_with_nothing_left_in_the_log() {
        let file = SqliteFile::new();
        let store = file.open().await;
        commit(&*store, &[records(vec![registration("rejected", 0)])]).await;
        store.close().await;
        assert!(!file.directory.path().join("trunkwarden.db-wal").exists());
        // Its lock is gone although the handle is not.
        assert_eq!(file.open().await.history(&everything()).await.unwrap().items.len(), 1);
    }

    #[tokio::test]
    async fn a_second_controller_is_kept_out() {
        let file = SqliteFile::new();
        let _first = file.open().await;
        let (error, said) = refusal(&file.url()).await;
        assert!(matches!(error, StoreError::InUse { .. }) && said.contains("trunkwarden.db"), "{said}");
    }

    #[tokio::test]
    async fn a_missing_directory_is_named() {
        let file = SqliteFile::new();
        let (error, said) = refusal(&format!("sqlite:{}/not/there/t.db", file.directory.path().display())).await;
        assert!(matches!(error, StoreError::NoDirectory { .. }) && said.contains("/not/there"), "{said}");
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_written_is_named() {
        // /proc refuses new files to everybody, root too.
        for url in ["sqlite:/proc/t.db", "sqlite:/tmp"] {
            let (error, said) = refusal(url).await;
            assert!(matches!(error, StoreError::Unwritable { .. }) && said.starts_with(&url[7..]), "{said}");
            assert!(!error.is_retryable());
        }
    }

    #[tokio::test]
    async fn a_file_that_is_no_database_is_left_as_it_is() {
        let file = SqliteFile::new();
        let text = "these are somebody's notes, and not for overwriting\n".repeat(200);
        std::fs::write(file.path(), &text).unwrap();
        let (error, said) = refusal(&file.url()).await;
        assert!(matches!(error, StoreError::Foreign { .. }) && said.contains("trunkwarden.db"), "{said}");
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), text);
    }

    #[tokio::test]
    async fn another_programs_database_is_left_as_it_is() {
        let file = SqliteFile::new();
        let other = sqlx::sqlite::SqliteConnectOptions::new().filename(file.path()).create_if_missing(true);
        let pool = sqlx::SqlitePool::connect_with(other).await.unwrap();
        sqlx::query("create table recording (id integer)").execute(&pool).await.unwrap();
        pool.close().await;
        let (error, _) = refusal(&file.url()).await;
        assert!(matches!(error, StoreError::Foreign { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_damaged_file_is_named() {
        let file = SqliteFile::new();
        let store = file.open().await;
        let flaps = (0..5000).map(|n| registration(if n % 2 == 0 { "registered" } else { "rejected" }, n)).collect();
        commit(&*store, &[records(flaps)]).await;
        store.close().await;
        drop(store);
        let mut bytes = std::fs::read(file.path()).unwrap();
        assert!(bytes.len() > 100_000);
        bytes[4096..].fill(0x5a);
        std::fs::write(file.path(), &bytes).unwrap();
        // Where the damage is found depends on which page is read first.
        let error = match store::open(&file.url()).await {
            Err(error) => error,
            Ok(store) => store.history(&everything()).await.unwrap_err(),
        };
        let said = error.to_string();
        assert!(matches!(error, StoreError::Damaged { .. }) && said.contains("trunkwarden.db"), "{said}");
        assert!(!error.is_retryable());
    }

    #[tokio::test]
    async fn a_newer_versions_file_is_refused() {
        let file = SqliteFile::new();
        file.open().await.close().await;
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file.path());
        let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
        sqlx::query(
            "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
             values (9999, 'future', true, x'00', 0)",
        )
        .execute(&pool)
        .await
        .unwrap();
        pool.close().await;
        let (error, said) = refusal(&file.url()).await;
        assert!(matches!(error, StoreError::Newer { version: 9999, .. }) && said.contains("trunkwarden.db"), "{said}");
    }

    #[tokio::test]
    async fn migrate_says_from_where_to_where() {
        let file = SqliteFile::new();
        let first = store::migrate(&file.url()).await.unwrap();
        assert_eq!(first.from, None);
        let again = store::migrate(&file.url()).await.unwrap();
        assert_eq!((again.from, again.to), (Some(first.to), first.to));
    }

    #[tokio::test]
    async fn a_store_in_memory_works_while_it_is_open() {
        let store = store::open("sqlite::memory:").await.unwrap();
        commit(&*store, &[records(vec![registration("rejected", 0)])]).await;
        assert_eq!(store.history(&everything()).await.unwrap().items.len(), 1);
    }

    #[tokio::test]
    async fn a_refused_commit_leaves_no_trace_in_memory() {
        let file = SqliteFile::new();
        let store = file.open().await;
        commit(&*store, &[records(vec![registration("rejected", 0)])]).await;
        // Another process makes the outbox refuse, after the records of the same commit were taken in.
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file.path());
        let other = sqlx::SqlitePool::connect_with(options).await.unwrap();
        sqlx::query("create trigger refuse before insert on outbox begin select raise(abort, 'no'); end")
            .execute(&other)
            .await
            .unwrap();
        let mut outcome = records(vec![registration("rejected", 5), registration("registered", 6)]);
        outcome.messages = vec![message("pause", "crm", Some("7"), 6)];
        let refused = store.commit(&[outcome.clone()], at(1)).await;
        assert!(matches!(refused, Err(StoreError::Statement { step: "writing a message", .. })), "{refused:?}");
        assert_eq!(runs(&store.history(&everything()).await.unwrap().items), [("rejected", 1, 0, 0)]);
        sqlx::query("drop trigger refuse").execute(&other).await.unwrap();
        other.close().await;
        commit(&*store, &[outcome]).await;
        let page = store.history(&everything()).await.unwrap();
        assert_eq!(runs(&page.items), [("rejected", 2, 0, 5), ("registered", 1, 6, 6)]);
    }

    #[tokio::test]
    async fn a_lock_held_by_another_process_is_worth_trying_again() {
        let file = SqliteFile::new();
        let store = file.open().await;
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file.path());
        let other = sqlx::SqlitePool::connect_with(options).await.unwrap();
        let blocking = other.begin_with("begin exclusive").await.unwrap();
        let refused = store.commit(&[], at(1)).await.unwrap_err();
        assert!(refused.is_retryable(), "{refused:?}");
        blocking.rollback().await.unwrap();
        other.close().await;
        store.commit(&[], at(1)).await.unwrap();
    }
}
