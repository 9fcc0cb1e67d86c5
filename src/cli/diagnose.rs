//! `diagnose`: why a registration fails, as an account that can be read top down at night: cause, layers, the exchange
//! itself, what to write where.
//!
//! Of a trunk it asks the controller; of a capture or a log file it needs neither controller nor configuration, so that it
//! works afterwards and for a machine that cannot be reached.

use std::{io::IsTerminal as _, path::PathBuf, time::Duration};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::tz::TimeZone;
use serde::Serialize;

use super::{
    Common, Failure, OK,
    client::{Client, Refusal},
    ladder::{Page, ladder, wrap},
    offline::{self, Files, Judged},
    print,
    show::print_json,
    table::{Style, harmless},
};
use crate::{
    api::{Items, problem::Code},
    clock::{Clock as _, SystemClock, Timestamp},
    diagnosis::{
        Diagnosis, Evidence, Subject,
        capture::{Format, Report},
        layers::{Examination, Finding, Layer, Verdict, Well},
    },
    ids::TrunkId,
    wire::sip::Source,
};

/// How long an examination of what is known may take.
const EXAMINATION: Duration = Duration::from_secs(40);
/// How long an attempt may: Asterisk waits 32 s for an answer, and may have to un-register first, which may be as silent.
const ATTEMPT: Duration = Duration::from_secs(100);

/// What is to be diagnosed.
#[derive(Debug, Args)]
pub(super) struct Asked {
    /// The trunk, as pbx/trunk
    #[arg(required_unless_present_any = ["pcap", "log"], conflicts_with_all = ["pcap", "log"])]
    trunk: Option<TrunkId>,
    /// Send one REGISTER now and watch it (PJSIPRegister); refused while the trunk is registered
    #[arg(long, conflicts_with_all = ["pcap", "log"])]
    attempt: bool,
    /// A capture file instead, pcap or pcapng; - is standard input. Asks no controller
    #[arg(long, value_name = "FILE", conflicts_with = "log")]
    pcap: Option<PathBuf>,
    /// A log file of Asterisk's instead, written with `pjsip set logger on`; - is standard input. Asks no controller
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// With --pcap or --log: the configuration to hold it against; what it includes is read too
    #[arg(long, value_name = "FILE", conflicts_with = "trunk")]
    pjsip_conf: Option<PathBuf>,
    /// With --pcap or --log: passwords to check digests with, without a pjsip.conf. A line each, `username:password`: the
    /// auth username, a colon, and the password up to the end of the line; blank lines and lines that begin with # are
    /// passed over
    #[arg(long, value_name = "FILE", conflicts_with = "trunk")]
    secret_file: Option<PathBuf>,
    /// With --log: the time zone it was written in, such as Asia/Kolkata [default: that of this machine]
    #[arg(long, value_name = "ZONE", conflicts_with_all = ["trunk", "pcap"], value_parser = zone)]
    zone: Option<TimeZone>,
}

#[derive(Serialize)]
struct Body {
    attempt: bool,
}

/// `diagnose`
pub(super) async fn diagnose(common: &Common, style: &Style, asked: Asked) -> Result<u8, Failure> {
    let page = Page::of_stdout();
    match asked.trunk {
        Some(trunk) => of_trunk(&Client::new(&common.api)?, common, style, page, &trunk, asked.attempt).await,
        None => {
            let (input, format) = match (asked.pcap, asked.log) {
                (Some(capture), _) => (capture, Format::Capture),
                (None, Some(log)) => (log, Format::Logger),
                (None, None) => return Err(anyhow::anyhow!("name a trunk, or a file with --pcap or --log").into()),
            };
            let zone = asked.zone.unwrap_or_else(TimeZone::system);
            let Asked { pjsip_conf, secret_file: secrets, .. } = asked;
            of_file(common, style, page, &Files { input, format, pjsip_conf, secrets, zone })
        }
    }
}

fn zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|_| "use a name such as Asia/Kolkata, Europe/Berlin or UTC".to_owned())
}

/// Judges a file.
fn of_file(common: &Common, style: &Style, page: Page, files: &Files) -> Result<u8, Failure> {
    let Judged { report: found, warnings } = offline::judge(files)?;
    for warning in &warnings {
        // Beside the account, which may go to another place.
        eprintln!("trunkwarden: {}", harmless(warning));
    }
    if common.json {
        print(&format!("{}\n", serde_json::to_string(&Items { items: found.diagnoses })?))?;
        return Ok(OK);
    }
    let mut text = String::new();
    for diagnosis in &found.diagnoses {
        text.push_str(&report(style, page, diagnosis, &[], When::Bare));
        let line = if page.signs { "─" } else { "-" };
        text.push_str(&format!("\n{}\n\n", style.paint("2", &line.repeat(page.width))));
    }
    text.push_str(&tally(&found));
    print(&text)?;
    Ok(OK)
}

/// What there was besides.
fn tally(found: &Report) -> String {
    let count = |number: usize, one: &str, many: &str| match number {
        0 => None,
        1 => Some(format!("1 {one}")),
        number => Some(format!("{number} {many}")),
    };
    let parts = [
        count(found.diagnoses.len(), "diagnosis", "diagnoses, the worst first"),
        count(found.healthy, "registration with nothing wrong", "registrations with nothing wrong"),
        count(found.undecided, "registration seen too little of", "registrations seen too little of"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    match (parts.as_slice(), found.messages) {
        ([], 0) => "no SIP message in it\n".to_owned(),
        ([], messages) => format!("no registration in it, among {messages} SIP messages\n"),
        (parts, messages) => format!("{}; {messages} SIP messages read\n", parts.join(", ")),
    }
}

/// Asks the controller to examine the trunk; whoever may only look gets the diagnosis that is stored.
async fn of_trunk(
    client: &Client,
    common: &Common,
    style: &Style,
    page: Page,
    trunk: &TrunkId,
    attempt: bool,
) -> Result<u8, Failure> {
    let (pbx, name) = (trunk.pbx_str(), trunk.name());
    let waiting = waiting(if attempt { "one REGISTER is sent and watched" } else { "examining" });
    let patience = if attempt { ATTEMPT } else { EXAMINATION };
    let answer = client.post_patiently(&["trunks", pbx, name, "diagnose"], &Body { attempt }, patience).await;
    waiting.finish_and_clear();
    let answer = match answer {
        Err(refused) if !attempt && is_refused(&refused, Code::Forbidden) => {
            let stored = client.get(&["trunks", pbx, name, "diagnosis"], &[]).await;
            let stored = stored.map_err(|error| {
                let none = is_refused(&error, Code::NoDiagnosis);
                error.context(if none {
                    "this token may only look, and there is nothing to look at: one of role operator can have the trunk \
                     examined now"
                } else {
                    "this token may only look at what is stored"
                })
            })?;
            if !common.json {
                let why = "This is what was stored; a token of role operator can have the trunk examined now.\n";
                print(&format!("{}{why}", report(style, page, &stored.read::<Diagnosis>()?, &[], When::Age)))?;
                return Ok(OK);
            }
            stored
        }
        answer => answer?,
    };
    if common.json {
        return print_json(&answer);
    }
    // It may have taken a while.
    let style = &Style::now(style, SystemClock.now());
    let Examination { verdict, layers } = answer.read()?;
    print(&match verdict {
        Verdict::Wrong(diagnosis) => report(style, page, &diagnosis, &layers, When::Age),
        Verdict::Well(well) => report_well(style, page, &well, &layers),
    })?;
    Ok(OK)
}

fn is_refused(error: &anyhow::Error, code: Code) -> bool {
    error.downcast_ref::<Refusal>().is_some_and(|refusal| refusal.code == code)
}

/// A sign of life on a terminal, for what may take a while.
fn waiting(what: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner().with_message(what);
    if let Ok(shape) = ProgressStyle::with_template("{spinner} {msg}, {elapsed}") {
        bar.set_style(shape);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Whether a time is said with its age, which means little for a file from another day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Age,
    Bare,
}

/// A diagnosis for people.
fn report(style: &Style, page: Page, diagnosis: &Diagnosis, layers: &[Layer], when: When) -> String {
    let mut text = Text { style, page, out: String::new() };
    let name = name_of(diagnosis.trunk.as_ref(), &diagnosis.subject);
    let cause = style.paint("1;31", diagnosis.cause.as_str());
    let sure = percent(diagnosis.confidence);
    text.line(&format!("{}  {cause} {sure}, fault: {}", style.paint("1", &page.spell(&name)), diagnosis.fault));
    text.paragraph(&match when {
        When::Age => style.reason(&diagnosis.summary),
        When::Bare => diagnosis.summary.clone(),
    });
    if !diagnosis.alternatives.is_empty() {
        let others = diagnosis.alternatives.iter();
        let others = others.map(|other| format!("{} {}", other.cause, percent(other.confidence)));
        text.hanging("or else    ", "", &others.collect::<Vec<_>>().join(", "));
    }
    text.subject(&diagnosis.subject, &name);
    text.seen(diagnosis.at, &diagnosis.sources, when);
    text.layers(layers);
    text.exchange(&diagnosis.evidence, &diagnosis.subject);
    text.configuration(&diagnosis.evidence);
    text.heading("FIX");
    text.indented(&diagnosis.fix.text);
    if !diagnosis.fix.config.is_empty() {
        text.out.push('\n');
        // To be copied, so as they are: neither broken nor cut.
        for line in diagnosis.fix.config.lines() {
            let line = harmless(line);
            text.line(&format!("    {}", style.paint("36", &line)));
        }
    }
    if !diagnosis.to_know_more.is_empty() {
        text.heading("TO KNOW MORE");
        for hint in &diagnosis.to_know_more {
            text.hanging("  - ", "", hint);
        }
    }
    text.out
}

/// The same where nothing is wrong.
fn report_well(style: &Style, page: Page, well: &Well, layers: &[Layer]) -> String {
    let mut text = Text { style, page, out: String::new() };
    let name = name_of(well.trunk.as_ref(), &well.subject);
    text.line(&format!("{}  {}", style.paint("1", &page.spell(&name)), style.paint("1;32", "nothing wrong found")));
    text.paragraph(&style.reason(&well.summary));
    text.subject(&well.subject, &name);
    text.layers(layers);
    text.exchange(&well.evidence, &well.subject);
    text.out
}

/// What people call it.
fn name_of(trunk: Option<&TrunkId>, subject: &Subject) -> String {
    let names = [trunk.map(|trunk| trunk.as_str()), subject.registration.as_deref(), subject.client_uri.as_deref()];
    names.into_iter().flatten().next().unwrap_or("a registration").to_owned()
}

/// `80%`; never 100% of what is not quite sure, nor 0% of what may be.
fn percent(confidence: f64) -> String {
    let percent = if confidence.is_finite() { (confidence * 100.0).clamp(0.0, 100.0) } else { 0.0 };
    let whole = if percent < 100.0 { percent.round().min(99.0) } else { percent };
    format!("{:.0}%", if percent > 0.0 { whole.max(1.0) } else { whole })
}

/// An account that grows line by line, none wider than the page but for what is to be copied.
struct Text<'a> {
    style: &'a Style,
    page: Page,
    out: String,
}

impl Text<'_> {
    fn line(&mut self, line: &str) {
        self.out.push_str(line.trim_end());
        self.out.push('\n');
    }

    fn heading(&mut self, heading: &str) {
        self.out.push('\n');
        self.line(&self.style.paint("1", heading));
    }

    /// Text from the margin on.
    fn paragraph(&mut self, text: &str) {
        for paragraph in text.lines() {
            for line in wrap(&self.page.spell(paragraph), self.page.width, self.page.width) {
                self.line(&line);
            }
        }
    }

    /// Text two columns in.
    fn indented(&mut self, text: &str) {
        for paragraph in text.lines() {
            self.hanging("  ", "", paragraph);
        }
    }

    /// `head`, in colour, then `text`, whose further lines begin where its first does.
    fn hanging(&mut self, head: &str, sgr: &str, text: &str) {
        let indent = head.chars().count();
        let room = self.page.width.saturating_sub(indent);
        let mut before = self.style.paint(sgr, head);
        for line in wrap(&self.page.spell(text), room, room) {
            self.line(&format!("{before}{line}"));
            before = " ".repeat(indent);
        }
    }

    /// Who registers where, as far as the name has not said it.
    fn subject(&mut self, subject: &Subject, name: &str) {
        let registration = subject.registration.as_deref().filter(|registration| *registration != name);
        let client = subject.client_uri.as_deref().filter(|client| *client != name);
        let mut parts: Vec<&str> = registration.into_iter().collect();
        parts.extend(client);
        let server = subject.server_uri.as_ref().map(|server| format!("at {server}"));
        parts.extend(server.as_deref());
        if !parts.is_empty() {
            self.hanging("registers  ", "2", &parts.join(" "));
        }
    }

    fn seen(&mut self, at: Timestamp, sources: &[Source], when: When) {
        let age = match when {
            When::Age => format!(", {} ago", self.style.age(at)),
            When::Bare => String::new(),
        };
        let by: Vec<&str> = sources.iter().map(|source| told_by(*source)).collect();
        let by = if by.is_empty() { String::new() } else { format!(", by {}", by.join(", ")) };
        self.hanging("last seen  ", "2", &format!("{}{age}{by}", self.style.time(at)));
    }

    fn layers(&mut self, layers: &[Layer]) {
        if layers.is_empty() {
            return;
        }
        self.heading("LAYERS");
        for layer in layers {
            let (word, sgr) = match layer.finding {
                Finding::Ok => ("ok", "32"),
                Finding::Problem => ("problem", "1;31"),
                Finding::Unknown => ("unknown", "33"),
                Finding::NotReached => ("not reached", "2"),
            };
            let head = format!("  {word:<13}{:<14}", layer.name.as_str().replace('_', " "));
            self.hanging(&head, sgr, &self.style.reason(&layer.line));
        }
    }

    fn exchange(&mut self, evidence: &[Evidence], subject: &Subject) {
        let seen: Vec<&Evidence> = evidence.iter().filter(|seen| seen.source != Source::Configuration).collect();
        let Some(first) = seen.first() else { return };
        if seen.iter().any(|seen| seen.direction.is_some()) {
            self.heading(&format!("EXCHANGE, times {}", self.style.offset(first.at)));
            let ladder = ladder(self.style, self.page, evidence, subject.server_uri.as_deref());
            self.out.push_str(&ladder);
            return;
        }
        // Nothing that travelled was seen: there is nothing to draw.
        self.heading("SEEN");
        for seen in seen {
            let head = format!("  {}  ", self.style.time(seen.at));
            self.hanging(&head, "2", &format!("{}: {}", told_by(seen.source), seen.line));
        }
    }

    fn configuration(&mut self, evidence: &[Evidence]) {
        let lines: Vec<&Evidence> = evidence.iter().filter(|seen| seen.source == Source::Configuration).collect();
        if lines.is_empty() {
            return;
        }
        self.heading("CONFIGURATION");
        for line in lines {
            self.indented(&line.line);
        }
    }
}

/// The means, as people call it.
const fn told_by(source: Source) -> &'static str {
    match source {
        Source::Hep => "HEP",
        Source::History => "Asterisk's SIP history",
        Source::Capture => "the capture",
        Source::Logger => "the SIP logger",
        Source::Ami => "AMI",
        Source::Configuration => "the configuration",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn page(width: usize) -> Page {
        Page { width, signs: false }
    }

    fn style() -> Style {
        Style::new(true, false, "2026-11-22T18:35:21Z".parse().unwrap())
    }

    fn evidence(at: &str, direction: Option<&str>, source: &str, line: &str) -> serde_json::Value {
        let (from, to) = match direction {
            Some("out") => (Some("10.0.0.5:5060"), Some("203.0.113.7:5060")),
            Some(_) => (Some("203.0.113.7:5060"), Some("10.0.0.5:5060")),
            None => (None, None),
        };
        json!({"at": at, "direction": direction, "source": source, "line": line, "from": from, "to": to})
    }

    fn examination() -> serde_json::Value {
        json!({
            "trunk": "pbx1/airtel",
            "subject": {
                "registration": "airtel-reg",
                "client_uri": "sip:acct1@sip.provider.example",
                "server_uri": "sip:sip.provider.example",
            },
            "at": "2026-11-22T18:32:21.002Z",
            "cause": "wrong_password",
            "confidence": 0.796,
            "fault": "configuration",
            "summary": "The provider refuses the digest, and it was made of the configured password.",
            "alternatives": [{"cause": "wrong_auth_username", "confidence": 0.2}],
            "sources": ["hep", "configuration"],
            "evidence": [
                evidence("2026-11-22T18:32:20.991Z", Some("out"), "hep", "REGISTER sip:sip.provider.example"),
                evidence("2026-11-22T18:32:20.996Z", Some("in"), "hep", "401 Unauthorized, Digest realm=\"asterisk\""),
                evidence("2026-11-22T18:32:20.997Z", Some("out"), "hep",
                    "REGISTER sip:sip.provider.example, Authorization Digest username=\"acct1\", realm=\"asterisk\""),
                evidence("2026-11-22T18:32:21.002Z", Some("in"), "hep", "401 Unauthorized, Digest realm=\"asterisk\""),
                evidence("2026-11-22T18:32:21.002Z", None, "configuration", "pjsip.conf:12 [airtel-auth] username=acct1"),
            ],
            "fix": {
                "text": "Correct `password`, or ask the provider to reset it.",
                "config": "[airtel-auth]\npassword=THE-PASSWORD-OF-THE-PROVIDER   ; a line that is longer than the page is wide, and is not broken",
            },
            "to_know_more": ["Nothing of the provider's side can be seen from here, so ask it what it has for this account."],
            "layers": [
                {"name": "registration", "finding": "problem", "line": "rejected since 2026-11-22T18:31:21Z, 3 failed attempts"},
                {"name": "reachability", "finding": "ok", "line": "203.0.113.7:5060 answers within 5 ms"},
                {"name": "sip_trace", "finding": "problem",
                    "line": "REGISTER, 401 Unauthorized, REGISTER with credentials, 401 Unauthorized"},
                {"name": "nat", "finding": "not_reached", "line": "x"},
            ],
        })
    }

    fn told(examination: serde_json::Value, width: usize) -> String {
        let Examination { verdict, layers } = serde_json::from_value(examination).unwrap();
        match verdict {
            Verdict::Wrong(diagnosis) => report(&style(), page(width), &diagnosis, &layers, When::Age),
            Verdict::Well(well) => report_well(&style(), page(width), &well, &layers),
        }
    }

    #[test]
    fn the_account_begins_with_the_cause_and_ends_with_what_to_do() {
        assert_eq!(
            told(examination(), 80),
            r#"pbx1/airtel  wrong_password 80%, fault: configuration
The provider refuses the digest, and it was made of the configured password.
or else    wrong_auth_username 20%
registers  airtel-reg sip:acct1@sip.provider.example at sip:sip.provider.example
last seen  2026-11-22 18:32:21Z, 2m ago, by HEP, the configuration

LAYERS
  problem      registration  rejected for 4m, 3 failed attempts
  ok           reachability  203.0.113.7:5060 answers within 5 ms
  problem      sip trace     REGISTER, 401 Unauthorized, REGISTER with
                             credentials, 401 Unauthorized
  not reached  nat           x

EXCHANGE, times UTC
  2026-11-22   Asterisk 10.0.0.5:5060                           203.0.113.7:5060
  18:32:20.991 |-- REGISTER sip:sip.provider.example ------------------------->|
  18:32:20.996 |<- 401 Unauthorized, Digest realm="asterisk" ------------------|
  18:32:20.997 |-- REGISTER sip:sip.provider.example, Authorization Digest --->|
               |   username="acct1", realm="asterisk"                          |
  18:32:21.002 |<- 401 Unauthorized, Digest realm="asterisk" ------------------|

CONFIGURATION
  pjsip.conf:12 [airtel-auth] username=acct1

FIX
  Correct `password`, or ask the provider to reset it.

    [airtel-auth]
    password=THE-PASSWORD-OF-THE-PROVIDER   ; a line that is longer than the page is wide, and is not broken

TO KNOW MORE
  - Nothing of the provider's side can be seen from here, so ask it what it has
    for this account.
"#
        );
    }

    #[test]
    fn only_what_is_to_be_copied_is_wider_than_the_page() {
        for width in [60, 80, 100] {
            for line in told(examination(), width).lines() {
                assert!(line.chars().count() <= width || line.contains("is not broken"), "{line}");
            }
        }
    }

    #[test]
    fn nothing_wrong_is_said_first() {
        let told = told(
            json!({
                "trunk": "pbx1/airtel", "subject": {}, "at": null, "cause": null, "summary": "Registered since 2026-11-22T18:31:21Z; nothing is wrong with it.",
                "layers": [{"name": "identify", "finding": "unknown", "line": "the configuration is not known here"}],
            }),
            80,
        );
        assert_eq!(
            told,
            "pbx1/airtel  nothing wrong found\nRegistered for 4m; nothing is wrong with it.\n\nLAYERS\n  unknown      identify      the configuration is \
             not known here\n"
        );
    }

    #[test]
    fn without_messages_what_was_seen_is_a_list() {
        let mut one = examination();
        one["evidence"] = json!([evidence("2026-11-22T18:32:21Z", None, "ami", "Rejected, and silence since")]);
        let told = told(one, 80);
        assert!(told.contains("\nSEEN\n  2026-11-22 18:32:21Z  AMI: Rejected, and silence since\n"), "{told}");
        assert!(!told.contains("EXCHANGE"), "{told}");
    }

    #[test]
    fn nobody_is_quite_sure_who_is_not() {
        assert_eq!([1.0, 0.998, 0.8, 0.001, 0.0, f64::NAN].map(percent), ["100%", "99%", "80%", "1%", "0%", "0%"]);
    }
}
