//! `trunkwarden diagnose`, the program itself: files in, an account and an exit code out.
//!
//! What the verdicts should be is tested where they are made; here, that they come out of the command, fit the page, keep
//! secrets, and that whatever is not a capture is refused with words that help.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use axum::{
    Json, Router,
    http::{StatusCode, header},
    response::IntoResponse as _,
    routing::{get, post},
};
use serde_json::{Value, json};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn capture(name: &str) -> PathBuf {
    fixture("captures").join(name)
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trunkwarden"));
    command.arg("diagnose").env_remove("TRUNKWARDEN_API").env_remove("TRUNKWARDEN_TOKEN").env("TZ", "Asia/Kolkata");
    command
}

fn of(flag: &str, file: &Path, more: &[&str]) -> Output {
    command().arg(flag).arg(file).args(more).stdin(Stdio::null()).output().expect("the program runs")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

fn items(output: &Output) -> Vec<Value> {
    assert_eq!(output.status.code(), Some(0), "{}", err(output));
    let answer: Value = serde_json::from_str(&out(output)).expect("JSON");
    answer["items"].as_array().expect("items").clone()
}

/// `client URI: cause` of each.
fn causes(items: &[Value]) -> Vec<String> {
    let said = |item: &Value| {
        let who = item["subject"]["client_uri"].as_str().expect("who");
        format!("{who}: {}", item["cause"].as_str().expect("cause"))
    };
    let mut all: Vec<String> = items.iter().map(said).collect();
    all.sort();
    all
}

#[test]
fn each_failing_registration_of_a_capture_is_diagnosed() {
    let found = items(&of("--pcap", &capture("provider-401-and-ok.pcap"), &["--json"]));
    assert_eq!(
        causes(&found),
        [
            "sip:acct2@127.0.0.1: wrong_password",
            "sip:acct3@127.0.0.1: realm_mismatch",
            "sip:nosuch@127.0.0.1: wrong_auth_username",
        ]
    );
    assert!(found.iter().all(|item| item["sources"] == json!(["capture"])), "{found:?}");
}

#[test]
fn a_silent_registrar_is_drawn_as_silence() {
    let told = out(&of("--pcap", &capture("no-response.pcap"), &[]));
    let exchange = told.split("EXCHANGE, times +05:30\n").nth(1).and_then(|rest| rest.split("\n\n").next());
    let Some(exchange) = exchange else { panic!("{told}") };
    assert_eq!(
        exchange,
        "  2026-11-23   Asterisk 127.0.0.1:5060                                                127.0.0.1:5093\n  \
           00:02:34.913 |-- REGISTER sip:127.0.0.1:5093, Contact <sip:usil@127.0.0.1:5060;line=ntgyavu>, -->|\n               \
                        |   Expires 60 (x6 over 15.5 s)                                                     |\n               \
                        |   nothing came back                                                               |"
    );
    assert!(told.starts_with("sip:usil@127.0.0.1  no_response "), "{told}");
    assert!(told.ends_with("\n1 diagnosis; 78 SIP messages read\n"), "{told}");
}

#[test]
fn into_a_pipe_goes_plain_text_of_a_hundred_columns() {
    for file in fs::read_dir(fixture("captures")).expect("captures") {
        let file = file.expect("a file").path();
        if file.extension().is_some_and(|extension| extension == "py") {
            continue;
        }
        let output = of("--pcap", &file, &["--utc"]);
        assert_eq!(output.status.code(), Some(0), "{}: {}", file.display(), err(&output));
        let told = out(&output);
        // Lines to be copied are four columns in, and whole.
        for line in told.lines().filter(|line| !line.starts_with("    ")) {
            assert!(line.len() <= 100 && line.is_ascii() && !line.contains('\u{1b}'), "{}: {line}", file.display());
        }
    }
}

#[test]
fn a_configuration_names_the_sections_and_checks_the_digest() {
    let configuration = fixture("pjsip-recorded/pjsip.conf");
    let with = ["--pjsip-conf", configuration.to_str().expect("UTF-8"), "--json"];
    let found = items(&of("--pcap", &capture("provider-401-and-ok.pcap"), &with));
    let of_registration = |name: &str| {
        let found = found.iter().find(|item| item["subject"]["registration"] == name);
        found.unwrap_or_else(|| panic!("{name} in {found:?}")).clone()
    };
    let realm = of_registration("trunk-realm");
    assert_eq!(realm["cause"], "realm_mismatch");
    assert!(realm["confidence"].as_f64().expect("a number") > 0.9, "{realm}");
    assert!(realm["fix"]["config"].as_str().expect("text").contains("[trunk-realm]"), "{realm}");
    let badpass = of_registration("trunk-badpass");
    assert_eq!(badpass["cause"], "wrong_password");
    assert!(badpass["summary"].as_str().expect("text").contains("the digest is the right one"), "{badpass}");
    let all = json!(found).to_string();
    assert!(!all.contains("wrongpass") && !all.contains("secret-acct3"), "{all}");
}

#[test]
fn passwords_from_a_file_check_digests_and_are_not_told() {
    let place = tempfile::tempdir().expect("a folder");
    let secrets = place.path().join("secrets");
    fs::write(&secrets, "# of the recording\nacct2:wrongpass\nnosuch:hunter2-made-up\n").expect("written");
    open_to(&secrets, 0o600);
    let with = ["--secret-file", secrets.to_str().expect("UTF-8")];
    let output = of("--pcap", &capture("provider-401-and-ok.pcap"), &with);
    let told = out(&output);
    let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(told.contains("line 2] username=acct2: its password gives the digest that was sent"), "{told}");
    assert!(told.contains("line 3] username=nosuch: its secret gives another digest than was sent"), "{told}");
    assert!(!told.contains("wrongpass") && !told.contains("hunter2"), "{told}");
    assert_eq!(err(&output), "");

    open_to(&secrets, 0o644);
    let warned = err(&of("--pcap", &capture("provider-401-and-ok.pcap"), &with));
    assert!(warned.contains("can be read by everybody on this machine: chmod 600 "), "{warned}");

    fs::write(&secrets, "acct2:wrongpass\nhunter2\n").expect("written");
    let refused = of("--pcap", &capture("provider-401-and-ok.pcap"), &with);
    assert_eq!(refused.status.code(), Some(65));
    assert!(err(&refused).contains("line 2 is not username:password") && !err(&refused).contains("hunter2"));
}

#[cfg(unix)]
fn open_to(file: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).expect("chmod");
}

#[test]
fn standard_input_is_read_and_a_cut_capture_is_judged_up_to_its_end() {
    let whole = fs::read(capture("rejected-403.pcap")).expect("the capture");
    let mut child = command()
        .args(["--pcap", "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let cut = &whole[..whole.len() - 7];
    child.stdin.take().expect("a pipe").write_all(cut).expect("written");
    let output = child.wait_with_output().expect("it ends");
    let found = items(&output);
    assert!(causes(&found).iter().any(|cause| cause.ends_with("@127.0.0.1: account_forbidden")), "{found:?}");
    let warned = err(&output);
    assert!(warned.starts_with("trunkwarden: standard input: the capture ends early, at byte "), "{warned}");
}

#[test]
fn what_cannot_be_judged_is_refused_with_what_would_be_right() {
    let place = tempfile::tempdir().expect("a folder");
    let file = |name: &str, bytes: &[u8]| {
        let file = place.path().join(name);
        fs::write(&file, bytes).expect("written");
        file
    };
    let cases = [
        (place.path().join("none.pcap"), 66, "none.pcap cannot be read: No such file"),
        (place.path().to_owned(), 66, "is a directory: name the file in it"),
        (file("empty", b""), 65, "empty: the file is empty; --pcap takes what tcpdump"),
        (file("packed", b"\x1f\x8b\x08\x00\x00\x00\x00\x00"), 65, "compressed (gzip): unpack it first; --pcap takes"),
        (file("binary", b"\x7fELF\x02\x01\x01\x00"), 65, "it begins with 7f 45 4c 46"),
        (file("text", b"Dear diary,\nnothing registered today.\n"), 65, "text is text without SIP; --pcap takes"),
    ];
    for (file, code, words) in cases {
        let output = of("--pcap", &file, &[]);
        assert_eq!(output.status.code(), Some(code), "{}: {}", file.display(), err(&output));
        assert!(err(&output).contains(words), "{}", err(&output));
        assert_eq!(out(&output), "");
    }
    let conf = place.path().join("none.conf");
    let output = of("--pcap", &capture("no-response.pcap"), &["--pjsip-conf", conf.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(66), "{}", err(&output));
}

#[test]
fn a_command_line_that_makes_no_sense_is_one() {
    for line in [
        "",
        "pbx1/airtel --pcap x",
        "--pcap x --log y",
        "--pcap x --zone UTC",
        "--log x --zone Atlantis/Lost",
        "--pcap x --attempt",
        "pbx1/airtel --secret-file x",
    ] {
        let output = command().args(line.split_whitespace()).output().expect("the program runs");
        assert_eq!(output.status.code(), Some(2), "{line}: {}", err(&output));
    }
}

#[test]
fn a_log_of_asterisks_is_read_in_its_zone() {
    let log = fixture("sip-logger.log");
    let found = items(&of("--log", &log, &["--json", "--zone", "UTC"]));
    assert!(!found.is_empty());
    assert!(found.iter().all(|item| item["sources"][0] == "logger"), "{found:?}");
    let later = items(&of("--log", &log, &["--json", "--zone", "America/New_York"]));
    let at = |items: &[Value]| items[0]["at"].as_str().expect("a time").parse::<jiff::Timestamp>().expect("a time");
    assert_eq!(at(&later).duration_since(at(&found)).as_hours(), 5);
}

/// An API that answers `post` and `get`, and its address.
async fn api(post_answer: (StatusCode, Value), get_answer: (StatusCode, Value)) -> String {
    let answer = |(status, body): (StatusCode, Value)| {
        let kind = if status.is_success() { "application/json" } else { "application/problem+json" };
        (status, [(header::CONTENT_TYPE, kind)], Json(body)).into_response()
    };
    let app = Router::new()
        .route("/api/v1/trunks/pbx1/airtel/diagnose", post(async move || answer(post_answer.clone())))
        .route("/api/v1/trunks/pbx1/airtel/diagnosis", get(async move || answer(get_answer.clone())));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    // It ends with the test's runtime.
    #[expect(clippy::disallowed_methods, reason = "a fake that lives as long as the test")]
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

async fn ask(api: &str, more: &[&str]) -> Output {
    let mut command = tokio::process::Command::from(command());
    command.args(["pbx1/airtel", "--utc", "--api", api]).args(more).output().await.expect("the program runs")
}

fn problem(status: u16, code: &str) -> (StatusCode, Value) {
    let body = json!({"type": "about:blank", "title": "No", "status": status, "detail": "it is not so", "code": code});
    (StatusCode::from_u16(status).expect("a status"), body)
}

fn diagnosis() -> Value {
    json!({
        "trunk": "pbx1/airtel", "subject": {"registration": "airtel-reg", "client_uri": null, "server_uri": null},
        "at": "2026-11-22T18:32:21Z", "cause": "no_response", "confidence": 0.85, "fault": "network", "summary": "Silence.",
        "alternatives": [], "sources": ["hep"], "evidence": [], "fix": {"text": "Look at the firewall.", "config": ""},
        "to_know_more": [],
    })
}

#[tokio::test]
async fn a_trunk_is_examined_by_the_controller() {
    let mut examination = diagnosis();
    examination["layers"] = json!([{"name": "nat", "finding": "not_reached", "line": "no Contact was seen"}]);
    let api = api((StatusCode::OK, examination.clone()), problem(500, "internal")).await;
    let told = out(&ask(&api, &[]).await);
    assert!(told.starts_with("pbx1/airtel  no_response 85%, fault: network\nSilence.\n"), "{told}");
    assert!(told.contains("\nLAYERS\n  not reached  nat           no Contact was seen\n"), "{told}");
    let answer: Value = serde_json::from_str(&out(&ask(&api, &["--json"]).await)).expect("JSON");
    assert_eq!(answer, examination);
}

#[tokio::test]
async fn who_may_only_look_gets_what_is_stored() {
    let stored = api(problem(403, "forbidden"), (StatusCode::OK, diagnosis())).await;
    let output = ask(&stored, &[]).await;
    let told = out(&output);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(told.contains("no_response") && told.contains("This is what was stored"), "{told}");
    // An attempt that was asked for is not replaced by something else.
    let output = ask(&stored, &["--attempt"]).await;
    assert_eq!((output.status.code(), out(&output)), (Some(1), String::new()));
    assert!(err(&output).contains("forbidden"), "{}", err(&output));

    let nothing = api(problem(403, "forbidden"), problem(404, "no_diagnosis")).await;
    let output = ask(&nothing, &[]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("this token may only look, and there is nothing to look at"), "{}", err(&output));
}
