//! The program against bad luck and bad manners: a log nobody can write, peers that are no PBX, signals at a bad time.
//!
//! The real binary is run, on loopback and in a directory of its own. What it needs of a PBX is played here, no better
//! than each test needs it.

use std::{
    fs::File,
    net::SocketAddr,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

const SECRET: &str = "s3cr3t-of-ours";
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A controller's place, its configuration, and the addresses in it.
struct Place {
    directory: tempfile::TempDir,
    api: SocketAddr,
}

impl Place {
    /// A place for a controller of the PBX at `ami`, with `more` in its configuration.
    async fn new(ami: SocketAddr, more: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let api = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("its address");
        let store = directory.path().join("store.db");
        let text = format!(
            "[store]\nurl = \"sqlite:{}\"\n[api]\nlisten = \"{api}\"\n[[pbx]]\nid = \"pbx1\"\n[pbx.ami]\n\
             address = \"{ami}\"\nusername = \"tw\"\nsecret = \"{SECRET}\"\n{more}",
            store.display()
        );
        std::fs::write(directory.path().join("trunkwarden.toml"), text).expect("the configuration");
        Self { directory, api }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trunkwarden"));
        command.arg(name).arg("--config").arg(self.file("trunkwarden.toml"));
        command.env_clear().stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Starts the controller, its log in `log`.
    fn run(&self, log: impl Into<Stdio>) -> Child {
        self.command("run").stderr(log).spawn().expect("the program")
    }

    /// The controller's log, in a file that [`Place::log`] reads.
    fn log_file(&self) -> File {
        File::create(self.file("log")).expect("a log")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.file("log")).expect("the log")
    }

    /// Asks the API until it answers, and then until the answer contains `wanted`.
    async fn answers(&self, path: &str, wanted: &str) -> String {
        let mut last = String::new();
        let asked = timeout(PATIENCE, async {
            loop {
                if let Ok(answer) = get(self.api, path).await {
                    if answer.contains(wanted) {
                        return answer;
                    }
                    last = answer;
                }
                sleep(Duration::from_millis(50)).await;
            }
        });
        let answer = asked.await;
        answer.unwrap_or_else(|_| panic!("{path} never said {wanted:?}, last {last:?}"))
    }
}

async fn get(api: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(api).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {api}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

async fn ends(child: &mut Child, within: Duration) -> ExitStatus {
    timeout(within, child.wait()).await.expect("it ends in time").expect("its status")
}

async fn signal(child: &Child, name: &str) {
    let process = child.id().expect("it runs").to_string();
    assert!(Command::new("kill").args(["-s", name, &process]).status().await.expect("kill").success());
}

/// A port at which nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("its address")
}

/// A PBX whose every answer is `answer`'s, given the action's headers, until nothing comes.
async fn pbx(answer: fn(&[(String, String)]) -> String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, answer));
        }
    });
    address
}

async fn serve(stream: TcpStream, answer: fn(&[(String, String)]) -> String) {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    let mut said = "Asterisk Call Manager/11.0.0\r\n".to_owned();
    let mut headers = Vec::new();
    while writer.write_all(said.as_bytes()).await.is_ok() {
        said.clear();
        let Ok(Some(line)) = lines.next_line().await else { return };
        match line.split_once(": ") {
            Some((name, value)) => headers.push((name.to_owned(), value.to_owned())),
            None => said = answer(&std::mem::take(&mut headers)),
        }
    }
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> &'a str {
    headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
}

#[tokio::test]
async fn a_log_that_cannot_be_written_ends_nothing() {
    let place = Place::new(nobody().await, "").await;
    let full = File::options().write(true).open("/dev/full").expect("Linux has it");
    let mut controller = place.run(full);
    place.answers("/readyz", "200 OK").await;
    place.answers("/api/v1/pbxs", "lost").await; // Which is logged.
    signal(&controller, "TERM").await;
    assert!(ends(&mut controller, PATIENCE).await.success());
}

#[tokio::test]
async fn a_log_that_nobody_reads_stalls_nothing() {
    let place = Place::new(pbx(repeats).await, "").await;
    let mut controller =
        place.command("run").env("TRUNKWARDEN_LOG", "trace").stderr(Stdio::piped()).spawn().expect("it");
    place.answers("/api/v1/pbxs", "refused").await;
    // Each request is more than a hundred bytes of log; a pipe holds 64 KiB.
    for _ in 0..1000 {
        get(place.api, "/api/v1/pbxs").await.expect("an answer");
    }
    signal(&controller, "TERM").await;
    assert!(ends(&mut controller, PATIENCE).await.success());
}

#[tokio::test]
async fn a_failure_nobody_can_read_has_its_exit_code_all_the_same() {
    let place = Place::new(nobody().await, "[nonsense]\n").await;
    let full = || File::options().write(true).open("/dev/full").expect("Linux has it");
    let status = place.command("run").stderr(full()).status().await.expect("the program");
    assert_eq!(status.code(), Some(64));
}

/// Repeats whatever it was sent to log in with, and more.
fn repeats(headers: &[(String, String)]) -> String {
    let id = header(headers, "ActionID");
    let (secret, key) = (header(headers, "Secret"), header(headers, "Key"));
    format!(
        "Response: Error\r\nActionID: {id}\r\nMessage: {secret} {key} \u{1b}[31m\u{9b}2J{}\r\n\r\n",
        "M".repeat(50_000)
    )
}

#[tokio::test]
async fn a_pbx_that_repeats_our_secret_does_not_get_it_into_log_answer_or_store() {
    let place = Place::new(pbx(repeats).await, "").await;
    let mut controller = place.run(place.log_file());
    let answer = place.answers("/api/v1/pbxs", "refused").await;
    signal(&controller, "TERM").await;
    assert!(ends(&mut controller, PATIENCE).await.success());
    let log = place.log();
    assert!(log.contains("[redacted]"), "{log}");
    let everything =
        [log.as_bytes(), answer.as_bytes(), &std::fs::read(place.file("store.db")).expect("the store")].concat();
    assert!(!everything.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()));
    assert!(!log.contains(|c: char| c.is_control() && c != '\n') && log.len() < 5000, "{log:?}");
}

#[tokio::test]
async fn check_prints_nothing_that_steers_a_terminal() {
    let place = Place::new(pbx(repeats).await, "").await;
    let output = place.command("check").output().await.expect("the program");
    let said = String::from_utf8(output.stdout).expect("text");
    assert!(said.contains("PROBLEM") && said.contains("[redacted]"), "{said}");
    assert!(!said.contains(|c: char| c.is_control() && c != '\n') && !said.contains(SECRET), "{said:?}");
}

#[tokio::test]
async fn a_configuration_that_is_never_read_to_its_end_keeps_no_signal_waiting() {
    let place = Place::new(nobody().await, "").await;
    let mut controller = place.run(place.log_file());
    place.answers("/readyz", "200 OK").await;
    let file = place.file("trunkwarden.toml");
    std::fs::remove_file(&file).expect("gone");
    assert!(Command::new("mkfifo").arg(&file).status().await.expect("mkfifo").success());
    signal(&controller, "HUP").await;
    sleep(Duration::from_millis(300)).await; // Nothing tells that it has begun to read.
    let asked = Instant::now();
    signal(&controller, "TERM").await;
    assert!(ends(&mut controller, PATIENCE).await.success());
    assert!(asked.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_journal_without_an_end_is_refused_in_bounded_memory() {
    let mut replay = Command::new(env!("CARGO_BIN_EXE_trunkwarden"));
    let output =
        timeout(PATIENCE, replay.args(["replay", "/dev/zero"]).output()).await.expect("it ends").expect("the program");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("longer than"), "{said}");
    assert_eq!(output.status.code(), Some(1));
}
