//! The program as an operator runs it: the built binary with a configuration file, its commands, its API, and a dialer
//! that its webhooks go to.
//!
//! What it ever says is kept, so that the end of each test can look for what must never be in it: [`Program::end`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use trunkwarden::clock::{Clock as _, SystemClock, Timestamp};

use super::{Lab, eventually};

/// Longer than anything here takes when nothing is waited for on purpose.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// What the webhooks are signed with.
const SIGNING: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// How every trunk password of the lab begins.
const PASSWORDS: &str = "pw-";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time that the program's own times can be compared with.
pub(crate) fn now() -> Timestamp {
    SystemClock.now()
}

/// A time as the API writes it.
pub(crate) fn time(value: &Value) -> Timestamp {
    let text = value.as_str().unwrap_or_else(|| panic!("a time: {value}"));
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// From one time to another, in seconds; negative when the second came first.
pub(crate) fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

/// What the test's own sockets run on, for as long as its process.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let build = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    RUNTIME.get_or_init(|| build().expect("a runtime for the test's own sockets"))
}

/// A configuration with one PBX, on a free port, with a store beside the file, and a log that tells much.
pub(crate) fn configuration(ami: SocketAddr, user: &str, secret: &str, more: &str) -> String {
    format!(
        "[api]\nlisten = \"127.0.0.1:0\"\n[log]\nlevel = \"info,trunkwarden=debug,trunkwarden::api::request=info\"\n[store]\nurl = \"sqlite:trunkwarden.db\"\n{}{more}",
        pbx("pbx1", ami, user, secret)
    )
}

/// A `[[pbx]]`, asked more often than by default.
pub(crate) fn pbx(id: &str, ami: SocketAddr, user: &str, secret: &str) -> String {
    format!(
        "[[pbx]]\nid = \"{id}\"\nreconcile = \"5s\"\n[pbx.ami]\naddress = \"{ami}\"\nusername = \"{user}\"\nsecret = \"{secret}\"\n"
    )
}

/// As [`configuration`], for the PBX of a lab and the user who may do all that is needed.
pub(crate) fn for_lab(lab: &Lab, more: &str) -> String {
    configuration(lab.ami_address(), "trunkwarden", lab.secret("trunkwarden"), more)
}

/// What a command ended with.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// One installation: a folder with a configuration and a store, and the process while it runs.
#[derive(Debug)]
pub(crate) struct Program {
    folder: tempfile::TempDir,
    child: Option<Child>,
    /// The network it runs in, if not ours.
    namespace: Option<PathBuf>,
    /// Its API as it says it.
    api: String,
    /// Its API as this process reaches it.
    api_from_here: String,
    /// What was said outside of the log.
    said: Mutex<String>,
    /// How long the log was when the present process started.
    log_before: usize,
}

impl Program {
    /// A folder with a configuration; nothing runs yet.
    pub(crate) fn install(configuration: &str) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let program = Self {
            folder,
            child: None,
            namespace: None,
            api: String::new(),
            api_from_here: String::new(),
            said: Mutex::default(),
            log_before: 0,
        };
        program.configure(configuration);
        program
    }

    /// Installs and starts in the network of the lab's PBX, with everything it is asked by commands; its API is reached from here too.
    pub(crate) fn start_beside(lab: &Lab, configuration: &str) -> Self {
        let mut program = Self::install(configuration);
        program.namespace = lab.namespace().map(Path::to_path_buf);
        program.start_again();
        if program.namespace.is_some() {
            let (_, port) = program.api.rsplit_once(':').expect("a port");
            program.api_from_here = format!("http://{}", lab.forward(port.parse().expect("a port")));
        }
        program
    }

    /// Installs and starts.
    pub(crate) fn start(configuration: &str) -> Self {
        let mut program = Self::install(configuration);
        program.start_again();
        program
    }

    /// Starts it, and waits until its API answers.
    pub(crate) fn start_again(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        self.log_before = self.log().len();
        let log = File::options().create(true).append(true).open(self.path("log")).expect("a log file");
        let child = self.command(&["run", "--config", "trunkwarden.toml"]).stderr(log).spawn().expect("the program");
        self.child = Some(child);
        self.api = eventually(SOON, "the program's API", || {
            let log = self.log_of_this_run();
            let (_, rest) = log.split_once("api.address=")?;
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                panic!("it ended with {status}: {log}");
            }
            Some(format!("http://{}", rest.split_whitespace().next()?))
        });
        self.api_from_here.clone_from(&self.api);
    }

    fn command(&self, args: &[&str]) -> Command {
        let program = env!("CARGO_BIN_EXE_trunkwarden");
        let mut command = Command::new(if self.namespace.is_some() { "nsenter" } else { program });
        if let Some(namespace) = &self.namespace {
            command.arg(format!("--net={}", namespace.display())).arg(program);
        }
        let own = std::env::vars().filter(|(name, _)| name.starts_with("TRUNKWARDEN"));
        own.for_each(|(name, _)| {
            command.env_remove(name);
        });
        command.args(args).current_dir(&self.folder).env("RUST_BACKTRACE", "1").env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Writes the configuration; [`Program::hang_up`] has it read.
    pub(crate) fn configure(&self, text: &str) {
        std::fs::write(self.path("trunkwarden.toml"), text).expect("a configuration file");
    }

    /// A file of this installation.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// All that was logged, by every run.
    pub(crate) fn log(&self) -> String {
        let bytes = std::fs::read(self.path("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What the present process logged.
    pub(crate) fn log_of_this_run(&self) -> String {
        self.log().split_off(self.log_before)
    }

    /// Waits for a line of this run's log with all of these words.
    pub(crate) fn wait_for_log(&self, words: &[&str]) -> String {
        eventually(SOON, &format!("a log line with {words:?}"), || {
            let log = self.log_of_this_run();
            log.lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned)
        })
    }

    // -- its process --------------------------------------------------------------------------------------------------------------

    fn id(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.id().to_string()]).status();
        assert!(sent.expect("kill").success());
    }

    /// SIGHUP.
    pub(crate) fn hang_up(&self) {
        self.signal("HUP");
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().and_then(|()| child.wait()).expect("its end");
    }

    /// SIGTERM, and its end.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        let mut child = self.child.take().expect("it runs");
        eventually(SOON, "the end of the program", || child.try_wait().expect("a child"))
    }

    /// Memory in use now and at most, in KiB.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("a process");
        let line = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).expect("a figure");
            line.split_whitespace().nth(1).and_then(|figure| figure.parse().ok()).expect("a figure")
        };
        (line("VmRSS:"), line("VmHWM:"))
    }

    // -- what it answers ----------------------------------------------------------------------------------------------------------

    /// Runs a command against this program; `--config` is the installation's.
    pub(crate) fn run(&self, args: &[&str]) -> Said {
        let mut command = self.command(args);
        if !self.api.is_empty() {
            command.env("TRUNKWARDEN_API", &self.api);
        }
        let output = command.stdout(Stdio::piped()).output().expect("the program");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = Said {
            code: output.status.code().expect("an exit code"),
            out: text(&output.stdout),
            err: text(&output.stderr),
        };
        let _ = writeln!(lock(&self.said), "$ {args:?}\n{}{}", said.out, said.err);
        said
    }

    /// `GET`; none while it does not answer.
    pub(crate) fn try_get(&self, path: &str) -> Option<(u16, Value)> {
        static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
        let client = CLIENT.get_or_init(|| trunkwarden::effect::dialer::http::client().expect("a client"));
        let answer = runtime().block_on(async {
            let answer = client.get(format!("{}{path}", self.api_from_here)).timeout(SOON).send().await.ok()?;
            Some((answer.status().as_u16(), answer.text().await.ok()?))
        });
        let (code, text) = answer?;
        let _ = writeln!(lock(&self.said), "{path} {text}");
        Some((code, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// `GET`, answered with 200.
    pub(crate) fn get(&self, path: &str) -> Value {
        match self.try_get(path) {
            Some((200, value)) => value,
            other => panic!("{path}: {other:?}"),
        }
    }

    /// The items of a list.
    pub(crate) fn items(&self, path: &str) -> Vec<Value> {
        self.get(path)["items"].as_array().expect("items").clone()
    }

    /// All trunks by id.
    pub(crate) fn trunks(&self) -> BTreeMap<String, Value> {
        let trunks = self.items("/api/v1/trunks").into_iter();
        trunks.map(|trunk| (trunk["id"].as_str().expect("an id").to_owned(), trunk)).collect()
    }

    /// One trunk; none while it is not known.
    pub(crate) fn trunk(&self, id: &str) -> Option<Value> {
        self.try_get(&format!("/api/v1/trunks/{id}")).filter(|(code, _)| *code == 200).map(|(_, trunk)| trunk)
    }

    /// The gate's answer.
    pub(crate) fn gate(&self, id: &str) -> Value {
        self.get(&format!("/api/v1/gate?trunk={id}"))
    }

    /// Waits until the trunk's health is this, and its gate as said.
    pub(crate) fn wait_for(&self, id: &str, health: &str, allow: bool, within: Duration) -> Value {
        let mut last = None;
        let what = format!("{id} is {health}, gate allows: {allow}");
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(within, &what, || {
                last = self.trunk(id);
                last.clone().filter(|trunk| trunk["health"] == health && trunk["gate"]["allow"] == allow)
            })
        }));
        found.unwrap_or_else(|_| panic!("{what}: not within {within:?}; last {last:#?}"))
    }

    /// A trunk's history, oldest first; `kinds` separated by commas, or empty for all.
    pub(crate) fn history(&self, id: &str, kinds: &str) -> Vec<Value> {
        let kinds = if kinds.is_empty() { String::new() } else { format!("&kind={kinds}") };
        self.items(&format!("/api/v1/trunks/{id}/history?order=asc&limit=1000{kinds}"))
    }

    /// The words a trunk's history has come to, of one kind, oldest first.
    pub(crate) fn words(&self, id: &str, kind: &str) -> Vec<String> {
        let entries = self.history(id, kind);
        entries.iter().map(|entry| entry["to"].as_str().expect("a word").to_owned()).collect()
    }

    /// The holds of a trunk, oldest first.
    pub(crate) fn holds(&self, id: &str) -> Vec<Value> {
        let mut holds = self.items("/api/v1/holds?limit=1000");
        holds.retain(|hold| hold["trunk"] == id);
        holds.reverse();
        holds
    }

    // -- its end ------------------------------------------------------------------------------------------------------------------

    /// Ends it as a supervisor does, and looks at what it leaves: a clean exit, a log without a panic, a journal that
    /// replays to the same decisions, and no secret anywhere.
    pub(crate) fn end(mut self, secrets: &[&str]) {
        if self.child.is_some() {
            let status = self.terminate();
            assert!(status.success(), "{status}: {}", self.log());
        }
        if self.path("trunkwarden.db").exists() {
            let replay = self.run(&["replay", "trunkwarden.db"]);
            assert_eq!(replay.code, 0, "{}{}", replay.out, replay.err);
            assert!(replay.out.contains(" 0 decisions came out differently"), "{}", replay.out);
        }
        let log = self.log();
        assert!(!log.contains("panicked"), "{log}");
        let mut places = vec![("the log".to_owned(), log.into_bytes())];
        places.push(("what it answered".to_owned(), std::mem::take(&mut *lock(&self.said)).into_bytes()));
        for file in std::fs::read_dir(&self.folder).expect("its folder").flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            if name.starts_with("trunkwarden.db") {
                places.push((name, std::fs::read(file.path()).expect("a file")));
            }
        }
        let signing = SIGNING.trim_start_matches("whsec_");
        for secret in secrets.iter().copied().chain([signing, PASSWORDS]) {
            for (place, bytes) in &places {
                let found = bytes.windows(secret.len()).position(|window| window == secret.as_bytes());
                if let Some(at) = found {
                    let around = &bytes[at.saturating_sub(200)..bytes.len().min(at + 100)];
                    panic!("{secret} is in {place}: …{}…", String::from_utf8_lossy(around));
                }
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let name = self.folder.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("log{name}"));
            let mut log = self.log();
            log.truncate(log.floor_char_boundary(1 << 20));
            let _ = std::fs::write(&kept, log);
            eprintln!("the program's log: {}", kept.display());
        }
    }
}

/// A message that a dialer received: once, however often it was sent.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// `webhook-id`.
    pub(crate) id: String,
    /// When it first came.
    pub(crate) at: Timestamp,
    /// `campaign.pause`, …
    pub(crate) kind: String,
    /// The dialer's word for the campaign.
    pub(crate) campaign: String,
    /// Its `data`.
    pub(crate) data: Value,
    /// How often it came.
    pub(crate) attempts: usize,
}

#[derive(Debug, Default)]
struct Inbox {
    messages: Vec<Message>,
    wrong: Vec<String>,
    /// So many of the next are answered 503.
    failing: usize,
}

/// A dialer: receives webhooks, and believes only those whose signature is right.
#[derive(Debug)]
pub(crate) struct Dialer {
    address: SocketAddr,
    inbox: Arc<Mutex<Inbox>>,
    stop: CancellationToken,
}

impl Dialer {
    /// One that takes everything.
    pub(crate) fn start() -> Self {
        let (inbox, stop) = (Arc::<Mutex<Inbox>>::default(), CancellationToken::new());
        let router = Router::new().fallback(receive).with_state(Arc::clone(&inbox));
        let listener = runtime().block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("an address");
        let serving = async move { axum::serve(listener, router).await };
        runtime().spawn(stop.clone().run_until_cancelled_owned(serving));
        Self { address, inbox, stop }
    }

    /// A `[[dialer]]` named `crm` that sends its webhooks here.
    pub(crate) fn configuration(&self, more: &str) -> String {
        format!(
            "[[dialer]]\nid = \"crm\"\nkind = \"webhook\"\nurl = \"http://{}/hooks\"\nsecret = \"{SIGNING}\"\n{more}",
            self.address
        )
    }

    /// Answers 503 to so many deliveries from now on.
    pub(crate) fn fail(&self, next: usize) {
        lock(&self.inbox).failing = next;
    }

    /// What has come, in order. Panics if anything came that is not signed as it must be.
    pub(crate) fn messages(&self) -> Vec<Message> {
        let inbox = lock(&self.inbox);
        assert_eq!(inbox.wrong, Vec::<String>::new());
        inbox.messages.clone()
    }

    /// The types that have come for a campaign, in order.
    pub(crate) fn told(&self, campaign: &str) -> Vec<String> {
        let messages = self.messages().into_iter().filter(|message| message.campaign == campaign);
        messages.map(|message| message.kind).collect()
    }

    /// Waits until exactly these have come for a campaign, and gives the last.
    pub(crate) fn wait_for(&self, campaign: &str, told: &[&str], within: Duration) -> Message {
        eventually(within, &format!("campaign {campaign} is told {told:?}"), || {
            let now = self.told(campaign);
            assert!(now.len() <= told.len(), "campaign {campaign} was told {now:?}, not {told:?}");
            (now == told).then_some(())
        });
        self.messages().into_iter().rev().find(|message| message.campaign == campaign).expect("a message")
    }
}

impl Drop for Dialer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A `[[campaign]]` of `crm`.
pub(crate) fn campaign(id: &str, trunk: &str, more: &str) -> String {
    format!("[[campaign]]\ndialer = \"crm\"\nid = \"{id}\"\ntrunks = [\"{trunk}\"]\n{more}\n")
}

async fn receive(State(inbox): State<Arc<Mutex<Inbox>>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mut inbox = lock(&inbox);
    if inbox.failing > 0 {
        inbox.failing -= 1;
        note(&mut inbox, &headers, &body);
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    note(&mut inbox, &headers, &body);
    StatusCode::NO_CONTENT
}

fn note(inbox: &mut Inbox, headers: &HeaderMap, body: &[u8]) {
    let signed = standardwebhooks::Webhook::new(SIGNING).and_then(|key| key.verify(body, headers));
    let read = serde_json::from_slice::<Value>(body);
    let (Ok(()), Ok(body)) = (signed, read) else {
        inbox.wrong.push(format!("{headers:?} {}", String::from_utf8_lossy(body)));
        return;
    };
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let id = headers.get("webhook-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
    if let Some(known) = inbox.messages.iter_mut().find(|message| message.id == id) {
        known.attempts += 1;
        if known.data != body["data"] {
            let complaint = format!("{id} came with another body: {body}");
            inbox.wrong.push(complaint);
        }
        return;
    }
    let data = body["data"].clone();
    let (kind, campaign) = (word(&body["type"]), word(&data["campaign"]));
    inbox.messages.push(Message { id, at: now(), kind, campaign, data, attempts: 1 });
}
