//! How fast it decides: fold steps and board steps a second, and how long it takes from a failing event on the wire to a
//! gate that holds.
//!
//! `cargo bench --bench decide`; with `-- gate` only the last. That is measured through everything that is between: a simulated PBX writes a
//! `Registry` event to a loopback socket, the real client reads it, the observer, the deciding loop and the gate follow,
//! while the store commits to a file with `synchronous = full`. So the figure is an upper bound of "event read to gate
//! closed". Quiet, and with other trunks' refreshes coming at a fixed rate beside it.

#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a benchmark prints what its clock says")]

use std::{
    collections::BTreeMap,
    error::Error,
    hint::black_box,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use secrecy::SecretString;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use trunkwarden::{
    app::{Controller, Parameters, pbx::PbxSettings},
    clock::{Clock, SystemClock, Timestamp, after},
    decision::{Board, ControlPolicy, Input, ListedTrunk, PbxFact},
    effect::outbox::OutboxPolicy,
    health::{HealthPolicy, TrunkHealth, fold},
    ids::{EndpointName, PbxId, RegistrationName, TrunkId},
    observation::{Fact, Observation, RegistrationState, Source},
    sim::{Classes, SimPbx, SimSettings, SimTrunk, Start},
    store::Retention,
    wire::ami::client::AmiSettings,
};

/// How often the gate is looked at: the figure's grain, with the kernel's own 50 us.
const LOOK: Duration = Duration::from_micros(20);

fn main() -> Result<(), Box<dyn Error>> {
    // `cargo test --benches` runs this too: then a taste is enough.
    let quick = !std::env::args().any(|arg| arg == "--bench");
    if std::env::args().any(|arg| arg == "gate") {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        for refreshes in [0, 2_000] {
            runtime.block_on(gate(2_000, refreshes))?;
        }
        return Ok(());
    }
    folds(if quick { 1_000 } else { 2_000_000 })?;
    for trunks in [50, 5_000] {
        boards(trunks, if quick { 1_000 } else { 400_000 })?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let samples = if quick { 20 } else { 2_000 };
    for refreshes in [0, 2_000] {
        runtime.block_on(gate(samples, refreshes))?;
    }
    Ok(())
}

fn registration(at: Timestamp, trunk: &TrunkId, state: RegistrationState) -> Result<Observation, Box<dyn Error>> {
    let registration = RegistrationName::try_from(trunk.name())?;
    Ok(Observation {
        trunk: trunk.clone(),
        at,
        fact: Fact::Registration { registration, state, source: Source::Event },
    })
}

/// Heartbeats, a failure and a recovery in turn: what a day is made of.
fn folds(steps: u32) -> Result<(), Box<dyn Error>> {
    let policy = HealthPolicy::default();
    let trunk = TrunkId::try_from("pbx1/airtel")?;
    let begin = Timestamp::from_second(1_800_000_000)?;
    let mut seen = Vec::new();
    for n in 0..100_u32 {
        let at = after(begin, Duration::from_secs(u64::from(n) * 50));
        let state = if n % 20 == 19 { RegistrationState::Rejected } else { RegistrationState::Registered };
        seen.push(registration(at, &trunk, state)?);
    }
    let start = Instant::now();
    let mut done = 0;
    while done < steps {
        let mut health = TrunkHealth::new(begin);
        for observation in &seen {
            health = fold(health, observation, &policy);
        }
        black_box(health);
        done += 100;
    }
    let rate = f64::from(done) / start.elapsed().as_secs_f64();
    println!("fold                                 {rate:>12.0} steps/s");
    Ok(())
}

fn boards(trunks: u32, steps: u32) -> Result<(), Box<dyn Error>> {
    let begin = Timestamp::from_second(1_800_000_000)?;
    let pbx = PbxId::try_from("pbx1")?;
    let ids = (0..trunks).map(|n| TrunkId::new(&pbx, &format!("trunk{n}"))).collect::<Result<Vec<_>, _>>()?;
    let mut board = Board::new(1);
    board.step(&Input::Started { at: begin, unseen_since: begin });
    board.step(&Input::Configured { at: begin, policy: Box::default() });
    let mut listed = Vec::new();
    for id in &ids {
        board.step(&Input::Seen(registration(begin, id, RegistrationState::Registered)?));
        let endpoints = vec![EndpointName::try_from(id.name())?];
        listed.push(ListedTrunk { id: id.clone(), endpoints, registrations: Vec::new() });
    }
    board.step(&Input::Pbx { pbx: pbx.clone(), at: begin, fact: PbxFact::Listed { trunks: listed } });
    let mut inputs = Vec::new();
    for id in &ids {
        inputs.push(Input::Seen(registration(
            after(begin, Duration::from_secs(50)),
            id,
            RegistrationState::Registered,
        )?));
    }
    let start = Instant::now();
    for (input, _) in inputs.iter().cycle().zip(0..steps) {
        black_box(board.step(input));
    }
    let rate = f64::from(steps) / start.elapsed().as_secs_f64();
    println!("board, {trunks:>5} trunks, refreshes        {rate:>12.0} steps/s");
    let at = after(begin, Duration::from_secs(60));
    let start = Instant::now();
    black_box(board.step(&Input::Tick { at }));
    println!("board, {trunks:>5} trunks, an idle tick     {:>12.3} ms", start.elapsed().as_secs_f64() * 1e3);
    let start = Instant::now();
    let fact = PbxFact::Lost { last_heard: at, error: "end of stream".to_owned() };
    black_box(board.step(&Input::Pbx { pbx, at: after(at, Duration::from_secs(20)), fact }));
    println!("board, {trunks:>5} trunks, the PBX is lost  {:>12.3} ms", start.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

/// From the event being written to the gate saying hold, `samples` times, each on a trunk of its own.
async fn gate(samples: u32, refreshes: u32) -> Result<(), Box<dyn Error>> {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let name = |n: u32| format!("trunk{n}");
    let spare = 200;
    let trunks = (0..samples + spare)
        .map(|n| SimTrunk { start: Start::Registered, ..SimTrunk::named(&name(n)) })
        .collect::<Vec<_>>();
    let sim = SimPbx::start(SimSettings { trunks, ..SimSettings::default() }, &tasks, stop.clone()).await?;
    let place = tempfile::tempdir()?;
    let pbx = PbxId::try_from("pbx1")?;
    let ami = AmiSettings::new("pbx1", sim.address().to_string(), "trunkwarden", SecretString::from("sim"));
    let day = Duration::from_secs(86_400);
    let parameters = Parameters {
        store_url: format!("sqlite:{}", place.path().join("bench.db").display()),
        retention: Retention { history: day, journal: day },
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        tokens: Vec::new(),
        pbxs: vec![PbxSettings {
            pbx: pbx.clone(),
            ami,
            declared: Vec::new(),
            reconcile: day,
            known: Vec::new(),
            evidence: Default::default(),
        }],
        policy: ControlPolicy::default(),
        recipients: BTreeMap::new(),
        outbox: OutboxPolicy::default(),
        hep: None,
        patience: Default::default(),
        gateway: None,
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let controller = Controller::start(parameters, clock).await?;
    let id = |n: u32| TrunkId::new(&pbx, &name(n));
    let allows = |id: &TrunkId| controller.gate.state(id).is_some_and(|state| state.allow);
    let last = id(samples + spare - 1)?;
    let begun = Instant::now();
    while !allows(&last) && begun.elapsed() < Duration::from_secs(60) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut uris = BTreeMap::new();
    for (id, record) in controller.board.read().map_err(|_| "the board is poisoned")?.trunks() {
        let listed = record.registrations.first().ok_or("a trunk without a registration")?;
        uris.insert(id.name().to_owned(), (listed.client_uri.clone(), listed.server_uri.clone()));
    }
    let registry = |n: u32, status: &str| {
        let Some((client, server)) = uris.get(&name(n)) else { return };
        let headers = [("ChannelType", "PJSIP"), ("Username", client), ("Domain", server), ("Status", status)];
        sim.emit_raw("Registry", Classes::SYSTEM, &headers);
    };
    let mut took = Vec::new();
    for n in 0..samples {
        // Beside it, other trunks refresh: so many before each sample that the wanted rate comes about at 100 samples/s.
        for beside in 0..refreshes / 100 {
            registry(samples + beside % spare, "Registered");
        }
        let trunk = id(n)?;
        let start = Instant::now();
        registry(n, "Rejected");
        while allows(&trunk) {
            if start.elapsed() > Duration::from_secs(5) {
                return Err(format!("{trunk} was not held within 5 s").into());
            }
            // Not a spin: on two cores that would take one from those who are measured.
            std::thread::sleep(LOOK);
        }
        took.push(start.elapsed());
        tokio::time::sleep(Duration::from_millis(10).saturating_sub(start.elapsed())).await;
    }
    took.sort();
    let at = |share: usize| took.get((took.len() * share / 1000).min(took.len() - 1)).copied().unwrap_or_default();
    println!(
        "event written to gate closed, {refreshes:>4} refreshes/s beside it: p50 {:>6.0} us  p99 {:>6.0} us  p99.9 {:>6.0} us",
        at(500).as_secs_f64() * 1e6,
        at(990).as_secs_f64() * 1e6,
        at(999).as_secs_f64() * 1e6
    );
    controller.stop().await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(())
}
