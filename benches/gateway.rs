//! What the gateway costs a dialer, and how quickly it refuses: beside direct access, in one run.
//!
//! `cargo bench --bench gateway`. A simulated PBX, the gateway and the clients share this machine's cores, so every figure
//! is an upper bound of the cost. Pairs are taken alternately. `-- clients` runs only the part with fifty clients.

#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a benchmark prints what its clock says")]

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    hint::black_box,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{io::AsyncReadExt as _, runtime::Runtime};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use trunkwarden::{
    app::{Controller, Parameters, pbx::PbxSettings},
    clock::{SystemClock, Timestamp},
    decision::{ControlPolicy, Gate, GateState, GateTx},
    effect::outbox::OutboxPolicy,
    gateway::{
        Gateway, GatewaySettings, GatewayUser, Limits, LocalPolicy, Parts, Refusals,
        admission::{Rules, admit},
    },
    health::Health,
    ids::{EndpointName, PbxId, TrunkId},
    sim::{Classes, SimPbx, SimSettings, SimTrunk, Start, Timing},
    store::Retention,
    wire::ami::{client::AmiSettings, request::Request},
};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const CALL: &str = "Action: Originate\r\nActionID: 4711_12#ACME\r\nChannel: PJSIP/9711761156@airtel\r\n\
    Context: from-internal\r\nExten: 204\r\nPriority: 1\r\nTimeout: 30000\r\nAsync: true\r\n\
    CallerID: Ravi <9711761156>\r\nAccount: ACME\r\n\r\n";
const PING: &str = "Action: Ping\r\nActionID: 4711_12#ACME\r\n\r\n";
const BLANK: &[u8] = b"\r\n\r\n";

fn main() -> Outcome {
    // `cargo test --benches` runs this too: then a taste is enough.
    let quick = !std::env::args().any(|arg| arg == "--bench");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if !std::env::args().any(|arg| arg == "clients") {
        verdicts(if quick { 1_000 } else { 2_000_000 })?;
        let mut world = runtime.block_on(World::new())?;
        latency(&world, if quick { 50 } else { 20_000 })?;
        events(&world, if quick { 1_000 } else { 400_000 }, if quick { 1 } else { 5 })?;
        refusals(&mut world, if quick { 1_000 } else { 200_000 })?;
        runtime.block_on(world.end());
        for refreshes in [0, 2_000] {
            first_refusal(&runtime, if quick { 20 } else { 1_000 }, refreshes)?;
        }
    }
    let (clients, rate, seconds) = if quick { (5, 200, 1) } else { (50, 20_000, 10) };
    for rate in [rate / 10, rate / 2, rate] {
        fifty(&runtime, clients, rate, seconds)?;
    }
    Ok(())
}

struct World {
    pbx: SimPbx,
    gateway: Gateway,
    gate: GateTx,
    tasks: TaskTracker,
    stop: CancellationToken,
}

fn user() -> GatewayUser {
    GatewayUser {
        name: "dialer".to_owned(),
        secret: "x".into(),
        allow: Vec::new(),
        read: Classes::ALL,
        write: Classes::ALL,
        write_all: true,
        actions: None,
        trunks: None,
        unguarded: BTreeSet::new(),
    }
}

fn settings(pbx: SocketAddr) -> Outcome<GatewaySettings> {
    Ok(GatewaySettings {
        pbx: PbxId::try_from("pbx1")?,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        tls: None,
        allow: Vec::new(),
        auth_limit: 100,
        auth_timeout: Duration::from_secs(30),
        users: vec![user()],
        local: LocalPolicy::HoldWhenAnyHeld,
        rules: Vec::new(),
        limits: Limits::default(),
        upstream: AmiSettings::new("pbx1", pbx.to_string(), "trunkwarden", "sim".into()),
    })
}

/// Calls end at once, so that they do not pile up.
fn sim(trunks: Vec<SimTrunk>) -> SimSettings {
    let timing = Timing {
        call_setup: Duration::ZERO,
        call_length: Duration::ZERO,
        // As `writetimeout` is recommended: a reader that finds no core for a moment is no slow one.
        write_timeout: Duration::from_secs(5),
        ..Timing::default()
    };
    SimSettings { trunks, timing, ..SimSettings::default() }
}

fn said(allow: bool) -> GateState {
    GateState {
        allow,
        reason: "down: airtel rejected since 2026-01-01T00:00:00Z".to_owned(),
        since: Timestamp::UNIX_EPOCH,
        health: if allow { Health::Stable } else { Health::Down },
        until: None,
        released: None,
        cause: None,
    }
}

impl World {
    async fn new() -> Outcome<Self> {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let pbx = SimPbx::start(sim(vec![SimTrunk::named("airtel")]), &tasks, stop.clone()).await?;
        let (gate_tx, gate) = Gate::new();
        open(&gate_tx)?;
        let parts = Parts {
            gate,
            refusals: Refusals::default(),
            clock: Arc::new(SystemClock),
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let gateway = Gateway::start(settings(pbx.address())?, parts).await?;
        Ok(Self { pbx, gateway, gate: gate_tx, tasks, stop })
    }

    fn client(&self) -> Outcome<Wire> {
        Wire::new(self.gateway.address(), "dialer", "x")
    }

    fn direct(&self) -> Outcome<Wire> {
        Wire::new(self.pbx.address(), "trunkwarden", "sim")
    }

    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn open(gate: &GateTx) -> Outcome {
    let trunk = TrunkId::try_from("pbx1/airtel")?;
    let endpoints = [EndpointName::try_from("airtel")?];
    gate.name([(&trunk, &endpoints[..])].into_iter());
    gate.listed(&trunk.pbx());
    gate.open(1, &[(trunk, said(true))].into());
    Ok(())
}

/// A client on a thread of its own: nothing but a socket.
struct Wire {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Wire {
    fn new(address: SocketAddr, user: &str, secret: &str) -> Outcome<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut wire = Self { stream, bytes: Vec::new() };
        wire.ask(&format!("Action: Login\r\nUsername: {user}\r\nSecret: {secret}\r\n\r\n"))?;
        // The session at Asterisk stands once something is answered there.
        wire.ask(PING)?;
        Ok(wire)
    }

    /// Sends an action and gives its response; events are left out.
    fn ask(&mut self, text: &str) -> Outcome<Vec<u8>> {
        self.stream.write_all(text.as_bytes())?;
        loop {
            while let Some(end) = memchr::memmem::find(&self.bytes, BLANK) {
                let message: Vec<u8> = self.bytes.drain(..end + BLANK.len()).collect();
                if memchr::memmem::find(&message, b"Response:").is_some_and(|at| at == 0 || message[at - 1] == b'\n')
                    && !message.starts_with(b"Event:")
                {
                    return Ok(message);
                }
            }
            self.more()?;
        }
    }

    fn more(&mut self) -> Outcome<usize> {
        let mut buffer = [0; 65_536];
        let read = self.stream.read(&mut buffer)?;
        if read == 0 {
            return Err("the connection ended".into());
        }
        self.bytes.extend_from_slice(&buffer[..read]);
        Ok(read)
    }
}

fn at(sorted: &[Duration], share: usize) -> f64 {
    let place = (sorted.len() * share / 1000).min(sorted.len().saturating_sub(1));
    sorted.get(place).copied().unwrap_or_default().as_secs_f64() * 1e6
}

/// The verdict alone.
fn verdicts(count: u32) -> Outcome {
    let (gate_tx, gate) = Gate::new();
    open(&gate_tx)?;
    let (pbx, user) = (PbxId::try_from("pbx1")?, user());
    let rules = Rules { pbx: &pbx, user: &user, local: LocalPolicy::Allow, dialplan: &[], aliases: &[] };
    for (name, text) in [("an action that is no call", PING), ("an Originate", CALL)] {
        let mut request = Request::default();
        text.lines().filter(|line| !line.is_empty()).for_each(|line| request.push(line.as_bytes()));
        let began = Instant::now();
        for _ in 0..count {
            black_box(admit(black_box(&request), &rules, &gate));
        }
        println!("verdict, {name}: {:.0} ns", began.elapsed().as_secs_f64() * 1e9 / f64::from(count));
    }
    Ok(())
}

/// What an action takes, directly and through the gateway, one after the other.
fn latency(world: &World, count: u32) -> Outcome {
    let (mut direct, mut through) = (world.direct()?, world.client()?);
    for (name, action) in [("Ping", PING), ("async Originate", CALL)] {
        let (mut one, mut other) = (Vec::new(), Vec::new());
        for _ in 0..count {
            for (wire, took) in [(&mut direct, &mut one), (&mut through, &mut other)] {
                let began = Instant::now();
                wire.ask(action)?;
                took.push(began.elapsed());
            }
        }
        one.sort();
        other.sort();
        println!(
            "{name}: direct p50 {:.0} us p99 {:.0} us, through p50 {:.0} us p99 {:.0} us, added p50 {:.0} us p99 {:.0} us",
            at(&one, 500),
            at(&one, 990),
            at(&other, 500),
            at(&other, 990),
            at(&other, 500) - at(&one, 500),
            at(&other, 990) - at(&one, 990),
        );
    }
    Ok(())
}

fn emit(pbx: &SimPbx, number: u64) {
    let number = number.to_string();
    pbx.emit_raw(
        "VarSet",
        Classes::CALL,
        &[
            ("Bench", &number),
            ("Channel", "PJSIP/airtel-00000012"),
            ("ChannelState", "6"),
            ("ChannelStateDesc", "Up"),
            ("CallerIDNum", "9711761156"),
            ("Context", "from-internal"),
            ("Uniqueid", "1795408510.5"),
            ("Linkedid", "1795408510.4"),
        ],
    );
}

/// How many events a second arrive, directly and through the gateway.
fn events(world: &World, count: u64, rounds: u32) -> Outcome {
    let (mut direct, mut through) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        // One after the other: nobody reads for the client that is not measured.
        direct.push(drink(&world.pbx, world.direct()?, count)?);
        through.push(drink(&world.pbx, world.client()?, count)?);
    }
    let best = |rates: &[f64]| rates.iter().copied().fold(0.0, f64::max);
    let mean = |rates: &[f64]| rates.iter().sum::<f64>() / f64::from(rounds);
    println!(
        "events to one client: direct {:.0}/s, through {:.0}/s: {:.0} % (best round {:.0} %)",
        mean(&direct),
        mean(&through),
        100.0 * mean(&through) / mean(&direct),
        100.0 * best(&through) / best(&direct),
    );
    Ok(())
}

fn drink(pbx: &SimPbx, mut wire: Wire, count: u64) -> Outcome<f64> {
    let seen = AtomicU64::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| -> Outcome {
        let reader = scope.spawn(|| -> Result<(), String> {
            let mut buffer = vec![0; 256 << 10];
            let mut kept = 0;
            while seen.load(Ordering::Relaxed) < count {
                let read = wire.stream.read(&mut buffer[kept..]).map_err(|error| error.to_string())?;
                if read == 0 {
                    return Err("the connection ended".to_owned());
                }
                let all = &buffer[..kept + read];
                let found = memchr::memmem::find_iter(all, b"\r\nBench: ").count() as u64;
                seen.fetch_add(found, Ordering::Relaxed);
                // What may be the beginning of the next.
                let tail = all.len().min(8);
                buffer.copy_within(kept + read - tail..kept + read, 0);
                kept = tail;
            }
            Ok(())
        });
        for number in 0..count {
            // A window, as TCP has one: the simulated PBX cuts off whoever is 65,536 behind.
            while number.saturating_sub(seen.load(Ordering::Relaxed)) > 30_000 && !reader.is_finished() {
                std::thread::sleep(Duration::from_micros(50));
            }
            emit(pbx, number);
        }
        reader.join().map_err(|_| "the reader panicked")??;
        Ok(())
    })?;
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

/// Processor time of this process.
fn spent() -> Outcome<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let rest = stat.rsplit_once(')').ok_or("/proc/self/stat has another form")?.1;
    let ticks: u64 = rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10)) // USER_HZ is 100 on Linux
}

/// Refused calls a second: the client writes without waiting.
fn refusals(world: &mut World, count: usize) -> Outcome {
    let trunk = TrunkId::try_from("pbx1/airtel")?;
    world.gate.close(2, &[(trunk, said(false))].into());
    let mut wire = world.client()?;
    let mut out = wire.stream.try_clone()?;
    let (before, began) = (spent()?, Instant::now());
    let writer = std::thread::spawn(move || -> Result<(), String> {
        let batch = CALL.repeat(100);
        for _ in 0..count / 100 {
            out.write_all(batch.as_bytes()).map_err(|error| error.to_string())?;
        }
        Ok(())
    });
    let mut refused = 0;
    while refused < count {
        wire.more()?;
        refused += memchr::memmem::find_iter(&wire.bytes, b" is held (").count();
        let tail = wire.bytes.len().min(9);
        wire.bytes.drain(..wire.bytes.len() - tail);
    }
    let (took, used) = (began.elapsed(), spent()?.saturating_sub(before));
    writer.join().map_err(|_| "the writer panicked")??;
    println!(
        "Originates refused: {:.0}/s; {:.0} a second of processor time, the client's included",
        count as f64 / took.as_secs_f64(),
        count as f64 / used.as_secs_f64().max(0.001)
    );
    Ok(())
}

/// From a failing event on the wire to the first call that is refused, through a whole controller.
fn first_refusal(runtime: &Runtime, samples: u32, refreshes: u32) -> Outcome {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let name = |n: u32| format!("trunk{n}");
    let spare = 200;
    let registered = |n| SimTrunk { start: Start::Registered, ..SimTrunk::named(&name(n)) };
    let pbx =
        runtime.block_on(SimPbx::start(sim((0..samples + spare).map(registered).collect()), &tasks, stop.clone()))?;
    let place = tempfile::tempdir()?;
    let id = PbxId::try_from("pbx1")?;
    let day = Duration::from_secs(86_400);
    let parameters = Parameters {
        store_url: format!("sqlite:{}", place.path().join("bench.db").display()),
        retention: Retention { history: day, journal: day },
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        tokens: Vec::new(),
        pbxs: vec![PbxSettings {
            pbx: id.clone(),
            ami: AmiSettings::new("pbx1", pbx.address().to_string(), "trunkwarden", "sim".into()),
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
        gateway: Some(settings(pbx.address())?),
    };
    let controller = runtime.block_on(Controller::start(parameters, Arc::new(SystemClock)))?;
    let last = TrunkId::new(&id, &name(samples + spare - 1))?;
    let begun = Instant::now();
    while !controller.gate.state(&last).is_some_and(|state| state.allow) {
        if begun.elapsed() > Duration::from_secs(60) {
            return Err("the trunks were not listed in time".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut uris = BTreeMap::new();
    for (id, record) in controller.board.read().map_err(|_| "the board is poisoned")?.trunks() {
        let listed = record.registrations.first().ok_or("a trunk without a registration")?;
        uris.insert(id.name().to_owned(), (listed.client_uri.clone(), listed.server_uri.clone()));
    }
    let registry = |n: u32, status: &str| {
        let Some((client, server)) = uris.get(&name(n)) else { return };
        let headers = [("ChannelType", "PJSIP"), ("Username", client), ("Domain", server), ("Status", status)];
        pbx.emit_raw("Registry", Classes::SYSTEM, &headers);
    };
    let gateway = controller.gateway().ok_or("there is no gateway")?;
    let mut wire = Wire::new(gateway.address(), "dialer", "x")?;
    // Its own events would only be read past.
    wire.ask("Action: Events\r\nEventMask: off\r\n\r\n")?;
    let (mut took, mut passed) = (Vec::new(), 0);
    for n in 0..samples {
        for beside in 0..refreshes / 100 {
            registry(samples + beside % spare, "Registered");
        }
        let call = CALL.replace("@airtel", &format!("@{}", name(n)));
        let began = Instant::now();
        registry(n, "Rejected");
        while !wire.ask(&call)?.starts_with(b"Response: Error") {
            passed += 1;
            if began.elapsed() > Duration::from_secs(5) {
                return Err("no call was refused within 5 s".into());
            }
        }
        took.push(began.elapsed());
        std::thread::sleep(Duration::from_millis(10).saturating_sub(began.elapsed()));
    }
    took.sort();
    println!(
        "failing event written to first call refused, {refreshes:>4} refreshes/s beside it: p50 {:.0} us p99 {:.0} us ({passed} calls before)",
        at(&took, 500),
        at(&took, 990)
    );
    runtime.block_on(async {
        controller.stop().await;
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    });
    Ok(())
}

fn resident() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).unwrap_or(0) / 1024)
}

/// Many clients that read everything, and one that reads nothing.
fn fifty(runtime: &Runtime, clients: u64, rate: u64, seconds: u64) -> Outcome {
    let world = runtime.block_on(World::new())?;
    let before = resident()?;
    let stalled = world.client()?;
    let seen: Vec<Arc<AtomicU64>> = (1..clients).map(|_| Arc::default()).collect();
    for count in &seen {
        let wire = world.client()?;
        wire.stream.set_nonblocking(true)?;
        let count = Arc::clone(count);
        let stop = world.stop.clone();
        runtime.spawn(async move {
            let Ok(mut stream) = tokio::net::TcpStream::from_std(wire.stream) else { return };
            let (mut buffer, mut kept) = (vec![0; 64 << 10], 0);
            while let Some(Ok(read)) = stop.run_until_cancelled(stream.read(&mut buffer[kept..])).await {
                if read == 0 {
                    return;
                }
                let all = kept + read;
                count.fetch_add(
                    memchr::memmem::find_iter(&buffer[..all], b"\r\nBench: ").count() as u64,
                    Ordering::Relaxed,
                );
                kept = all.min(8);
                buffer.copy_within(all - kept..all, 0);
            }
        });
    }
    let (total, began) = (rate * seconds, Instant::now());
    let mut most = before;
    for number in 0..total {
        let due = Duration::from_secs_f64(number as f64 / rate as f64);
        if let Some(early) = due.checked_sub(began.elapsed()).filter(|early| *early > Duration::from_millis(1)) {
            std::thread::sleep(early);
        }
        emit(&world.pbx, number);
        if number % 5_000 == 0 {
            most = most.max(resident()?);
        }
    }
    let sent = began.elapsed();
    let arrived = || seen.iter().map(|count| count.load(Ordering::Relaxed)).min().unwrap_or(0);
    while arrived() < total && began.elapsed() < sent + Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let lost: u64 = seen.iter().map(|count| total - count.load(Ordering::Relaxed).min(total)).sum();
    println!(
        "{clients} clients, one stalled, {rate} events/s for {seconds} s: written in {:.1} s, all there after {:.1} s, {lost} lost by the {} others, {} cut off; resident {before} MB before, {most} MB at most",
        sent.as_secs_f64(),
        began.elapsed().as_secs_f64(),
        clients - 1,
        world.gateway.figures().cut(),
    );
    drop(stalled);
    runtime.block_on(world.end());
    Ok(())
}
