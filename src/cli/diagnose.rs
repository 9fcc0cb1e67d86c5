//! `diagnose`: why a registration fails, as an account that can be read top down at night: cause, layers, the exchange
//! itself, what to write where.
//!
//! Of a trunk it asks the controller; of a capture or a log file it needs neither controller nor configuration, so that it
//! works afterwards and for a machine that cannot be reached.

use std::{io::IsTerminal as _, path::PathBuf, time::Duration};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{
    Common, Failure, OK,
    client::{Client, Refusal},
    ladder::{Page, ladder, wrap},
    print,
    show::print_json,
    table::{Style, harmless},
};
use crate::{
    api::problem::Code,
    clock::Timestamp,
    diagnosis::{
        Diagnosis, Evidence, Subject,
        layers::{Examination, Finding, Layer, Verdict, Well},
    },
    ids::TrunkId,
    wire::sip::Source,
};

/// What is to be diagnosed.
#[derive(Debug, Args)]
pub(super) struct Asked {
    /// The trunk, as pbx/trunk
    #[arg(required_unless_present_any = ["pcap", "log"], conflicts_with_all = ["pcap", "log"])]
    trunk: Option<TrunkId>,
    /// Send one REGISTER now and watch it (PJSIPRegister); refused while the trunk is registered
    #[arg(long, requires = "trunk")]
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
    #[arg(long, value_name = "ZONE", requires = "log")]
    zone: Option<String>,
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
        None => Ok(OK),
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
    let answer = client.post(&["trunks", pbx, name, "diagnose"], &Body { attempt }).await;
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
    text.paragraph(&diagnosis.summary);
    if !diagnosis.alternatives.is_empty() {
        let others = diagnosis.alternatives.iter();
        let others = others.map(|other| format!("{} {}", other.cause, percent(other.confidence)));
        text.hanging("or else  ", "", &others.collect::<Vec<_>>().join(", "));
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
    text.paragraph(&well.summary);
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
    let percent = (confidence * 100.0).clamp(0.0, 100.0);
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
            let head = format!("  {:<13}{word:<12} ", layer.name.as_str().replace('_', " "));
            self.hanging(&head, sgr, &layer.line);
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
