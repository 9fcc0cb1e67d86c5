//! A real Asterisk for one test: the `lab/` folder's supervisor, driven over its control socket.
//!
//! Each [`Lab`] is its own pair of Asterisks and its own registrar on its own ports, up in about a second; it ends when it is dropped, or when
//! the test process ends, however that happens. Where the lab cannot be (no root, no Debian, no python3) [`Lab::up`] says so and gives `None`:
//! the test returns, and `scripts/test` names it as left out. With `TRUNKWARDEN_REQUIRE_LAB=1` that is a failure instead.
//!
//! ```ignore
//! let Some(lab) = Lab::up() else { return };
//! lab.set("ok", Behaviour::ForbiddenAtOnce);
//! ```

#![allow(dead_code, reason = "a vocabulary for lab tests: which words are in use changes with the tests")]

mod gateway_calls;
mod gateway_check;
mod gateway_clients;
mod gateway_parser;
mod gateway_system;
mod gateway_transparent;
mod itself;
mod itself_causes;
pub(crate) mod program;
pub(crate) mod raw_ami;
pub(crate) mod relay;
mod system_causes;
mod system_configuration;
mod system_discovery;
mod system_evidence;
mod system_hold;
mod system_input;
mod system_likeness;
mod system_links;
mod system_operator;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

/// The exit code by which `lab/lab` says that it cannot run on this machine (`EX_UNAVAILABLE` of sysexits.h).
const CANNOT_RUN_HERE: i32 = 69;

/// The trunks every lab starts with that have Asterisk's own retry intervals: the first REGISTER of these comes up to 10 s after the boot.
pub(crate) const SLOW_TRUNKS: [&str; 3] = ["default-ok", "default-loop401", "default-403"];

/// What an account of the registrar does with a REGISTER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Challenge, check the digest, grant what was asked for.
    Ok,
    /// 401 with a fresh nonce, always.
    Loop401,
    /// Challenge, then 403 for right credentials.
    ForbiddenAfterCredentials,
    /// 403 without a challenge.
    ForbiddenAtOnce,
    /// 404 without a challenge.
    NotFound,
    /// 503 with Retry-After (field `retry_after`, seconds).
    Unavailable,
    /// No answer.
    Silent,
    /// Right credentials get 401 with `stale=true`, always.
    StaleNonce,
    /// As `Ok`, but offers SHA-256 only.
    Sha256Only,
    /// As `Ok`, but grants 12 s (field `short_grant`; 10 or less sends Asterisk into an endless loop).
    ShortGrant,
    /// As `Ok`, but the Contact in the 200 is another.
    ContactRewritten,
    /// 200 that grants nothing.
    ExpiresZero,
    /// 423 until the client asks for 7200 s (field `min_expires`).
    IntervalTooBrief,
    /// 500.
    ServerError,
    /// 600.
    GlobalFailure,
    /// As `Ok` for who comes through the proxy's port; anybody else is sent there with 305 (field `refusal`; 0 is silence).
    WantsProxy,
    /// As `Ok` until it has registered, then no answer.
    GoesSilent,
}

impl Behaviour {
    /// All of them.
    pub(crate) const ALL: [Self; 17] = [
        Self::Ok,
        Self::Loop401,
        Self::ForbiddenAfterCredentials,
        Self::ForbiddenAtOnce,
        Self::NotFound,
        Self::Unavailable,
        Self::Silent,
        Self::StaleNonce,
        Self::Sha256Only,
        Self::ShortGrant,
        Self::ContactRewritten,
        Self::ExpiresZero,
        Self::IntervalTooBrief,
        Self::ServerError,
        Self::GlobalFailure,
        Self::WantsProxy,
        Self::GoesSilent,
    ];

    /// The registrar's word for it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Loop401 => "loop401",
            Self::ForbiddenAfterCredentials => "403-after-credentials",
            Self::ForbiddenAtOnce => "403-at-once",
            Self::NotFound => "404",
            Self::Unavailable => "503-retry-after",
            Self::Silent => "silent",
            Self::StaleNonce => "stale-nonce",
            Self::Sha256Only => "sha256-only",
            Self::ShortGrant => "short-grant",
            Self::ContactRewritten => "contact-rewritten",
            Self::ExpiresZero => "expires-0",
            Self::IntervalTooBrief => "423",
            Self::ServerError => "500",
            Self::GlobalFailure => "600",
            Self::WantsProxy => "wants-proxy",
            Self::GoesSilent => "goes-silent",
        }
    }
}

/// One of the lab's two Asterisks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instance {
    /// The one that registers, and is watched.
    Pbx,
    /// The one at the other end of the `prov-…` trunks. Its AMI certificate bears another host's name.
    Provider,
}

impl Instance {
    const fn word(self) -> &'static str {
        match self {
            Self::Pbx => "pbx",
            Self::Provider => "provider",
        }
    }
}

/// What the registrar has seen of an account.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Account {
    /// The word of its present [`Behaviour`].
    pub(crate) behaviour: String,
    /// REGISTER requests, retransmissions not counted.
    pub(crate) registers: u64,
    /// REGISTER requests seen again.
    pub(crate) retransmissions: u64,
    /// REGISTER requests with an Authorization header.
    pub(crate) with_credentials: u64,
    /// Those whose digest was right.
    pub(crate) good_credentials: u64,
    /// REGISTER requests that asked for `Expires: 0`.
    pub(crate) unregisters: u64,
    /// OPTIONS requests.
    pub(crate) options_seen: u64,
    /// The last answer's code; 0 for none.
    pub(crate) last_code: u16,
    /// The digest's user name.
    pub(crate) last_username: String,
    /// The Contact of the last REGISTER.
    pub(crate) last_contact: String,
    /// Whether the last 200 granted anything.
    pub(crate) registered: bool,
}

#[derive(Debug, Deserialize)]
struct Card {
    control: SocketAddr,
    registrar: SocketAddr,
    ca_file: PathBuf,
    other_ca_file: PathBuf,
    ami_users: std::collections::BTreeMap<String, String>,
    instances: Instances,
    namespace: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Instances {
    pbx: Addresses,
    provider: Addresses,
}

/// Where one Asterisk listens, and where its files are.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Addresses {
    /// SIP over UDP and TCP.
    pub(crate) sip: SocketAddr,
    /// AMI, plain.
    pub(crate) ami: SocketAddr,
    /// AMI over TLS.
    pub(crate) ami_tls: SocketAddr,
    /// HTTP with ARI (user `trunkwarden`).
    pub(crate) http: SocketAddr,
    /// Its configuration folder.
    pub(crate) etc: PathBuf,
    /// Its log.
    pub(crate) log: PathBuf,
}

/// A running lab. Dropping it ends everything it started.
#[derive(Debug)]
pub(crate) struct Lab {
    supervisor: Child,
    control: Mutex<BufReader<TcpStream>>,
    card: Card,
    state: PathBuf,
}

impl Lab {
    /// A lab of the test's own, with the trunks of `lab/trunks.py`; `None` where there can be none, which is said and written down.
    pub(crate) fn up() -> Option<Self> {
        Self::start(&[])
    }

    /// As [`Lab::up`], without any trunk or account.
    pub(crate) fn bare() -> Option<Self> {
        Self::start(&["--bare"])
    }

    /// One trunk per cause of a failing registration, and some that are well (`causes` in `lab/trunks.py`). The PBX is prepared, but not
    /// started: what some of them do is done once, so the sources that are to see it are switched on before [`Lab::start_again`].
    pub(crate) fn causes() -> Option<Self> {
        Self::start(&["--set", "causes", "--pbx-later"])
    }

    /// The PBX in a network of its own, behind a router with a firewall, and the provider on public addresses beyond it
    /// (`lab/network.py`, `behind_nat` in `lab/trunks.py`). No provider Asterisk; the PBX is not started, as with [`Lab::causes`].
    pub(crate) fn behind_nat() -> Option<Self> {
        Self::start(&["--set", "nat", "--pbx-later"])
    }

    /// One lab for all tests of this process: for tests that only look. (Under nextest each test is a process.)
    pub(crate) fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Lab>> = OnceLock::new();
        SHARED.get_or_init(Self::up).as_ref()
    }

    fn start(more: &[&str]) -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let state = state_folder();
        let log = state.join("supervisor.log");
        let complaints = std::fs::File::create(&log).expect("a log for the supervisor");
        let started = Command::new("python3")
            .arg(root.join("lab/lab"))
            .args(["run", "--until-eof", "--minutes", "20", "--state"])
            .arg(&state)
            .args(more)
            .stdin(Stdio::piped()) // held open until we end; its closing ends the lab
            .stdout(Stdio::piped())
            .stderr(complaints)
            .spawn();
        let mut supervisor = match started {
            Ok(supervisor) => supervisor,
            Err(error) => return left_out(&format!("python3: {error}")),
        };
        let mut line = String::new();
        let out = supervisor.stdout.take().expect("a piped standard output");
        BufReader::new(out).read_line(&mut line).expect("a line of JSON");
        if line.is_empty() {
            let code = supervisor.wait().expect("an exit code").code();
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let _ = std::fs::remove_dir_all(&state);
            if code == Some(CANNOT_RUN_HERE) {
                return left_out(text.trim());
            }
            panic!("the lab did not come up ({code:?}):\n{text}");
        }
        let card: Card = serde_json::from_str(&line).expect("the lab's description");
        let control = TcpStream::connect(card.control).expect("the lab's control socket");
        control.set_read_timeout(Some(Duration::from_secs(120))).expect("a timeout");
        Some(Self { supervisor, control: Mutex::new(BufReader::new(control)), card, state })
    }

    // -- where things are ---------------------------------------------------------------------------------------------------------

    /// The PBX's AMI address.
    pub(crate) fn ami_address(&self) -> SocketAddr {
        self.card.instances.pbx.ami
    }

    /// The PBX's AMI address with TLS. The certificate is good for `127.0.0.1` and `localhost`.
    pub(crate) fn ami_tls_address(&self) -> SocketAddr {
        self.card.instances.pbx.ami_tls
    }

    /// All addresses of an instance.
    pub(crate) fn addresses(&self, instance: Instance) -> &Addresses {
        match instance {
            Instance::Pbx => &self.card.instances.pbx,
            Instance::Provider => &self.card.instances.provider,
        }
    }

    /// The registrar's SIP address.
    pub(crate) fn registrar_address(&self) -> SocketAddr {
        self.card.registrar
    }

    /// The authority that signed the AMI certificates, PEM.
    pub(crate) fn ca_file(&self) -> &Path {
        &self.card.ca_file
    }

    /// An authority that signed none of them, PEM.
    pub(crate) fn other_ca_file(&self) -> &Path {
        &self.card.other_ca_file
    }

    /// The secret of an AMI user: `trunkwarden`, `weak` (may only ask), `dialer`.
    pub(crate) fn secret(&self, user: &str) -> &str {
        self.card.ami_users.get(user).map_or_else(|| panic!("no AMI user {user}"), String::as_str)
    }

    // -- what is heard of it ------------------------------------------------------------------------------------------------------

    /// The PBX sends its SIP as HEP to that port of its own loopback, with Call-IDs to join by; from now on, or from its start.
    pub(crate) fn hep(&self, port: u16, capture_id: u32, password: &str) {
        self.ask("hep", json!({ "port": port, "capture_id": capture_id, "password": password }));
    }

    /// The PBX writes its SIP into this log file, from now on, or from its start.
    pub(crate) fn logger(&self) -> PathBuf {
        self.ask("logger", json!({})).as_str().expect("a file").into()
    }

    /// A capture of the lab's SIP, and of what ICMP says about it, until [`Lab::end_captures`]: of loopback, or of all the PBX's network
    /// where it has one. What was seen is in the file at once.
    pub(crate) fn capture(&self) -> PathBuf {
        self.ask("capture", json!({})).as_str().expect("a file").into()
    }

    /// Ends the captures; their files are whole then, and go with the lab.
    pub(crate) fn end_captures(&self) {
        self.ask("end-captures", json!({}));
    }

    // -- its network --------------------------------------------------------------------------------------------------------------

    /// The network of the PBX, if it has one of its own: for `nsenter --net=`.
    pub(crate) fn namespace(&self) -> Option<&Path> {
        self.card.namespace.as_deref()
    }

    /// The router treats SIP to a public address so: `open`, `drop-requests`, `drop-replies`, `reject`.
    pub(crate) fn firewall(&self, address: &str, how: &str) {
        self.ask("firewall", json!({ "address": address, "how": how }));
    }

    /// An address of ours that leads to a port of the loopback in the PBX's network.
    pub(crate) fn forward(&self, port: u16) -> SocketAddr {
        let address = self.ask("forward", json!({ "port": port }));
        address.as_str().and_then(|address| address.parse().ok()).expect("an address")
    }

    // -- the registrar ------------------------------------------------------------------------------------------------------------

    /// Switches an account, from its next REGISTER on. An account that is not there is made, with the password `pw-NAME`.
    pub(crate) fn set(&self, account: &str, behaviour: Behaviour) {
        self.set_fields(account, json!({ "behaviour": behaviour.word() }));
    }

    /// Sets any of the account's fields: `behaviour password grant short_grant retry_after min_expires options`.
    pub(crate) fn set_fields(&self, account: &str, mut fields: Value) {
        fields["account"] = account.into();
        self.ask("set", fields);
    }

    /// What the registrar has seen of an account.
    pub(crate) fn account(&self, account: &str) -> Account {
        serde_json::from_value(self.ask("account", json!({ "account": account }))).expect("an account")
    }

    /// How many REGISTERs of an account the registrar has received.
    pub(crate) fn registrar_count(&self, account: &str) -> u64 {
        self.account(account).registers
    }

    // -- the Asterisks ------------------------------------------------------------------------------------------------------------

    /// What the console prints for a command.
    pub(crate) fn cli(&self, instance: Instance, command: &str) -> String {
        let answer = self.ask("cli", json!({ "instance": instance.word(), "command": command }));
        answer.as_str().expect("console text").to_owned()
    }

    /// Reads the PBX's PJSIP configuration again (`module reload res_pjsip.so`).
    pub(crate) fn reload(&self) {
        self.ask("reload", json!({}));
    }

    /// Ends it as an operator does, and waits for its end.
    pub(crate) fn stop(&self, instance: Instance) {
        self.ask("stop", json!({ "instance": instance.word() }));
    }

    /// Starts it, and waits until it is fully booted.
    pub(crate) fn start_again(&self, instance: Instance) {
        self.ask("start", json!({ "instance": instance.word() }));
    }

    /// SIGKILL.
    pub(crate) fn kill(&self, instance: Instance) {
        self.ask("kill", json!({ "instance": instance.word() }));
    }

    /// SIGSTOP: its connections stay open, and nobody answers.
    pub(crate) fn freeze(&self, instance: Instance) {
        self.ask("freeze", json!({ "instance": instance.word() }));
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self, instance: Instance) {
        self.ask("thaw", json!({ "instance": instance.word() }));
    }

    /// The process of an instance, while it runs.
    pub(crate) fn pid(&self, instance: Instance) -> Option<u64> {
        self.ask("status", json!({}))[instance.word()]["pid"].as_u64()
    }

    /// Writes trunks (fields: `lab/trunks.py`) and reloads. Each trunk whose server is the registrar gets an `ok` account if it has none.
    pub(crate) fn write_trunks(&self, trunks: &[Value]) {
        for trunk in trunks {
            if trunk.get("server").is_none_or(|server| server == "registrar") {
                let account = trunk.get("account").or_else(|| trunk.get("name")).expect("a trunk has a name");
                self.ask("set", json!({ "account": account }));
            }
            self.ask("trunk", trunk.clone());
        }
        self.reload();
    }

    /// Removes trunks and reloads.
    pub(crate) fn drop_trunks(&self, names: &[&str]) {
        for name in names {
            self.ask("drop-trunk", json!({ "name": name }));
        }
        self.reload();
    }

    /// Makes or changes an AMI user of the PBX (its secret stays `secret-NAME`). Sessions that are logged in keep their rights.
    pub(crate) fn ami_user(&self, name: &str, read: &str, write: &str) {
        self.ask("ami-user", json!({ "name": name, "read": read, "write": write }));
    }

    /// Writes a file below an instance's configuration folder; nothing is reloaded.
    pub(crate) fn put(&self, instance: Instance, file: &str, text: &str) {
        self.ask("put", json!({ "instance": instance.word(), "file": file, "text": text }));
    }

    /// Removes such a file.
    pub(crate) fn drop_file(&self, instance: Instance, file: &str) {
        self.ask("drop", json!({ "instance": instance.word(), "file": file }));
    }

    /// One verb of the control socket (`lab/supervisor.py`). Panics if the lab refuses: a test that asks wrongly is wrong.
    pub(crate) fn ask(&self, verb: &str, mut fields: Value) -> Value {
        fields["do"] = verb.into();
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let mut line = fields.to_string();
        line.push('\n');
        control.get_mut().write_all(line.as_bytes()).expect("the lab's control socket");
        line.clear();
        control.read_line(&mut line).expect("an answer of the lab");
        let mut answer: Value = serde_json::from_str(&line).expect("an answer of the lab");
        assert_eq!(answer["ok"], true, "the lab refused {fields}: {}", answer["error"]);
        answer["result"].take()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        let _ = self.supervisor.wait();
        if std::thread::panicking() {
            eprintln!("the lab's logs: {}", self.state.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.state);
        }
    }
}

/// A new folder for one lab's description and logs.
fn state_folder() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let state = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("lab-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&state).expect("a folder for the lab");
    state
}

/// Says that this test cannot run here, and writes it where `scripts/test` reads it.
fn left_out<T>(why: &str) -> Option<T> {
    let required = std::env::var_os("TRUNKWARDEN_REQUIRE_LAB").is_some_and(|value| value == "1");
    assert!(!required, "the lab is required here, and cannot be: {why}");
    let thread = std::thread::current();
    let line = format!("{}: {why}", thread.name().unwrap_or("a lab test"));
    eprintln!("!!! LEFT OUT: {line}");
    if let Some(file) = std::env::var_os("TRUNKWARDEN_LEFT_OUT") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(file);
        let _ = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    }
    None
}

/// Asks again and again until there is an answer; panics when `within` is over. For states that another process reaches by itself.
pub(crate) fn eventually<T>(within: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    #[expect(clippy::disallowed_methods, reason = "a test's patience is measured in real time, not in the crate's")]
    let start = std::time::Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < within, "{what}: not within {within:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
