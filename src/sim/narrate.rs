//! Decisions as lines a person can read: when, about what, what happened, what was held, and why.
//!
//! It reads the events and records of [`decision`](crate::decision) by their names, and passes over what it does not know:
//! a narrator must not be what stops the show. Every line fits 100 columns.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use serde_json::Value;

use crate::{
    clock::{Timestamp, between},
    decision::{EntryKind, Event, Hold, Record, Scope},
    health::Reason,
};

/// The widest line.
pub const WIDTH: usize = 100;
/// Where the text of a line begins: time, mark, word, subject.
const INDENT: usize = 34;
/// Room for the subject.
const SUBJECT: usize = 14;

/// How lines may look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    /// Colours, for a terminal that has them.
    pub colour: bool,
    /// Signs beyond ASCII.
    pub signs: bool,
}

/// What a line is about, which decides its word, mark and colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tone {
    Story,
    Fact,
    Good,
    Doubt,
    Bad,
    Cause,
    Hold,
    Release,
    Pause,
    Resume,
}

impl Tone {
    const fn marks(self) -> (&'static str, &'static str, &'static str) {
        // sign, its plain form, colour
        match self {
            Self::Story => ("»", ">", "\x1b[1m"),
            Self::Fact => ("·", ".", "\x1b[2m"),
            Self::Good => ("✓", "+", "\x1b[32m"),
            Self::Doubt => ("~", "~", "\x1b[33m"),
            Self::Bad => ("✗", "x", "\x1b[31m"),
            Self::Cause => ("◆", "*", "\x1b[33m"),
            Self::Hold => ("■", "#", "\x1b[31m"),
            Self::Release => ("□", "o", "\x1b[32m"),
            Self::Pause => ("‖", "=", "\x1b[35m"),
            Self::Resume => ("▶", ">", "\x1b[36m"),
        }
    }
}

/// Tells a story in lines; each answer is one line or several, without the last line's end.
#[derive(Debug)]
pub struct Narrator {
    style: Style,
    began: Timestamp,
    /// The last line's time: what is told later never stands before it, though it may have begun before.
    latest: Cell<Timestamp>,
    /// The last outcome of each history, so that a run is told once.
    last: BTreeMap<(Scope, EntryKind, String), String>,
    /// The last cause of each trunk, so that its reasons and its remedy are told once.
    causes: RefCell<BTreeMap<String, String>>,
}

impl Narrator {
    /// One whose times are seconds since `began`.
    #[must_use]
    pub fn new(began: Timestamp, style: Style) -> Self {
        Self { style, began, latest: Cell::new(began), last: BTreeMap::new(), causes: RefCell::default() }
    }

    /// Something the story does.
    #[must_use]
    pub fn say(&self, at: Timestamp, text: &str) -> String {
        self.line(at, Tone::Story, "story", "", text)
    }

    /// A decision; `None` for one that needs no line of its own.
    #[must_use]
    pub fn event(&self, event: &Event) -> Option<String> {
        let data = &event.data;
        let text = |key: &str| data[key].as_str().unwrap_or_default();
        let reason = reason(&data["reason"], event.at);
        let because = |text: String| if reason.is_empty() { text } else { format!("{text}: {reason}") };
        let line = |tone, word, subject: &str, text: String| Some(self.line(event.at, tone, word, subject, &text));
        match event.kind.as_str() {
            "trunk.health" => {
                let (from, to) = (text("from"), text("to"));
                let tone = match to {
                    "stable" => Tone::Good,
                    "down" => Tone::Bad,
                    _ => Tone::Doubt,
                };
                let from = if from.is_empty() { String::new() } else { format!("{from} -> ") };
                line(tone, "health", text("trunk"), because(format!("{from}{to}")))
            }
            "trunk.diagnosis" => Some(self.diagnosis(event)),
            "hold.begun" => {
                let by = match text("by") {
                    "" | "policy" => String::new(),
                    by => format!(" by {by}"),
                };
                line(Tone::Hold, "hold", text("trunk"), because(format!("held{by}, no call may go out")))
            }
            "hold.ended" => {
                let lasted =
                    data["held_seconds"].as_f64().map_or_else(String::new, |held| format!(" after {held:.0}s"));
                let by = match text("by") {
                    "" | "policy" => String::new(),
                    by => format!(", released by {by}"),
                };
                line(Tone::Release, "release", text("trunk"), because(format!("the hold is over{lasted}{by}")))
            }
            "campaign.pause" => {
                let told = format!("told {} to pause it{}", text("dialer"), fallback(data));
                line(Tone::Pause, "pause", &campaign(data), because(told))
            }
            "campaign.resume" => {
                line(Tone::Resume, "resume", &campaign(data), because(format!("told {} to go on", text("dialer"))))
            }
            "campaign.left" => line(
                Tone::Pause,
                "left",
                &campaign(data),
                because("paused for too long: a person must resume it".to_owned()),
            ),
            "incident" => {
                let trunks = data["trunks"].as_array().map_or(0, Vec::len);
                let summary = [text("summary"), reason.as_str()].into_iter().find(|text| !text.is_empty());
                let subject =
                    [text("pbx"), text("trunk")].into_iter().find(|text| !text.is_empty()).unwrap_or_default();
                let since = text("since").parse::<Timestamp>().ok();
                match text("ended_at").parse::<Timestamp>() {
                    Ok(ended) => {
                        let lasted =
                            since.map_or_else(String::new, |since| format!(" after {}s", seconds(since, ended)));
                        let told = format!("over{lasted}: none of its {trunks} trunks is held any more");
                        line(Tone::Good, "incident", subject, told)
                    }
                    Err(_) => {
                        let told = summary.map_or_else(|| format!("{trunks} trunks failed together"), str::to_owned);
                        line(Tone::Bad, "incident", subject, told)
                    }
                }
            }
            // The gate's answers follow from health and holds, which have their lines.
            _ => None,
        }
    }

    /// Why it fails, as far as is known, and what mends it; or what would tell more.
    fn diagnosis(&self, event: &Event) -> String {
        let diagnosis = &event.data["diagnosis"];
        let text = |key: &str| diagnosis[key].as_str().unwrap_or_default();
        let summary = event.data["reason"].as_str().unwrap_or_default();
        // What follows is of interest to whoever asks for all of it.
        let summary = clause(summary);
        let trunk = event.data["trunk"].as_str().unwrap_or_default();
        let before = self.causes.borrow_mut().insert(trunk.to_owned(), text("cause").to_owned());
        let again = before.is_some_and(|before| before == text("cause"));
        let (tone, told, then) = if matches!(text("cause"), "unknown" | "") {
            let more = diagnosis["to_know_more"][0].as_str().map(|more| format!("to know more: {}", sentence(more)));
            (Tone::Doubt, format!("not diagnosed yet: {summary}"), more)
        } else {
            let sure = (diagnosis["confidence"].as_f64().unwrap_or_default() * 100.0).round();
            let told = format!("{} {sure} %, fault {}", text("cause"), text("fault"));
            if again {
                return self.line(event.at, Tone::Cause, "cause", trunk, &format!("diagnosed again: {told}"));
            }
            let told = format!("diagnosed: {told}: {summary}");
            let fix = diagnosis["fix"]["text"].as_str().filter(|fix| !fix.is_empty());
            (Tone::Cause, told, fix.map(|fix| format!("fix: {}", sentence(fix))))
        };
        let texts: Vec<&str> = [Some(told.as_str()), then.as_deref()].into_iter().flatten().collect();
        self.lines(event.at, tone, "cause", trunk, &texts)
    }

    /// A hold that says since `at` why it is there.
    #[must_use]
    pub fn explained(&self, hold: &Hold, at: Timestamp) -> String {
        let why = spoken(shortened(&hold.reason), at, |seconds| format!("{seconds}s"));
        self.line(at, Tone::Hold, "hold", &hold.trunk.to_string(), &format!("the hold says why: {why}"))
    }

    /// A new outcome in a history: what Asterisk said of a registration, how the link to the PBX is. `None` for the rest,
    /// and for a run that goes on.
    #[must_use]
    pub fn record(&mut self, record: &Record) -> Option<String> {
        let key = (record.scope.clone(), record.kind, record.subject.clone());
        let before = self.last.insert(key, record.to.clone());
        if before.as_ref() == Some(&record.to) {
            return None;
        }
        let subject = match &record.scope {
            Scope::Trunk(trunk) => trunk.to_string(),
            Scope::Pbx(pbx) => pbx.to_string(),
        };
        let (word, text) = match record.kind {
            // What was registered at the start is no news.
            EntryKind::Registration if before.is_none() && record.to == "registered" => return None,
            EntryKind::Registration => ("asterisk", format!("says \"{}\", and gives no cause", record.to)),
            // Dated by the last byte heard, which is before it was noticed.
            EntryKind::Pbx if record.to == "lost" => {
                ("link", format!("lost, last heard at {:.1}s", self.offset(record.at)))
            }
            EntryKind::Pbx => ("link", record.to.clone()),
            EntryKind::Contact
            | EntryKind::Health
            | EntryKind::Diagnosis
            | EntryKind::Hold
            | EntryKind::Gate
            | EntryKind::CallWindow => return None,
        };
        let text = if record.to == "registered" { text.replace(", and gives no cause", "") } else { text };
        Some(self.line(record.at, Tone::Fact, word, &subject, &text))
    }

    fn line(&self, at: Timestamp, tone: Tone, word: &str, subject: &str, text: &str) -> String {
        self.lines(at, tone, word, subject, &[text])
    }

    /// One entry, whose texts each begin a line.
    fn lines(&self, at: Timestamp, tone: Tone, word: &str, subject: &str, texts: &[&str]) -> String {
        let seconds = self.offset(self.latest.get().max(at));
        self.latest.set(self.latest.get().max(at));
        let (sign, plain, colour) = tone.marks();
        let mark = if self.style.signs { sign } else { plain };
        let subject = if subject.is_empty() && tone == Tone::Story {
            String::new()
        } else {
            format!("{:<SUBJECT$} ", clip(subject, SUBJECT))
        };
        let head = format!("{seconds:6.1}s {mark} {word:<8} {subject}");
        let indent = if subject.is_empty() { head.chars().count() } else { INDENT };
        let wrapped: Vec<String> = texts.iter().map(|text| wrap(&clean(text), WIDTH - indent, indent)).collect();
        let body = wrapped.join(&format!("\n{}", " ".repeat(indent)));
        let pad = " ".repeat(indent.saturating_sub(head.chars().count()));
        if self.style.colour { format!("{colour}{head}{pad}{body}\x1b[0m") } else { format!("{head}{pad}{body}") }
    }

    fn offset(&self, at: Timestamp) -> f64 {
        between(self.began, at).as_secs_f64()
    }
}

/// A reason, which is a text or a [`Reason`], as it sounds at `at`.
fn reason(reason: &Value, at: Timestamp) -> String {
    let text = match (reason.as_str(), serde_json::from_value::<Reason>(reason.clone())) {
        (Some(text), _) => text.to_owned(),
        (None, Ok(reason)) => reason.to_string(),
        (None, Err(_)) if reason.is_null() => String::new(),
        (None, Err(_)) => reason.to_string(),
    };
    spoken(shortened(&text), at, |seconds| format!("{seconds}s"))
}

/// A reason without what its cause's own line says: `north rejected: no_response: sip.north.example does not …` ends with
/// the cause's word. Only a sentence is left out.
fn shortened(reason: &str) -> &str {
    let is_cause = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let mut begin = 0;
    while let Some(length) = reason[begin..].find(": ") {
        let (word, after) = (&reason[begin..begin + length], &reason[begin + length + 2..]);
        if begin > 0 && is_cause(word) && after.contains(' ') {
            return &reason[..begin + length];
        }
        begin += length + 2;
    }
    reason
}

/// The first clause of a summary.
fn clause(summary: &str) -> &str {
    summary.split_once("; ").map_or(summary, |(first, _)| first).trim_end_matches('.')
}

/// The first sentence of an advice.
fn sentence(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default();
    line.split_once(". ").map_or(line, |(first, _)| first).trim_end_matches('.')
}

fn seconds(from: Timestamp, to: Timestamp) -> i64 {
    to.as_second().saturating_sub(from.as_second())
}

/// A text with its instants said as one says them at `now`: `since 2026-11-22T18:00:00Z` as `for 3m`, or not at all when
/// that is just now; `until …` as `for another 3m`; any other as `3m ago` or `in 3m`. `age` writes a number of seconds.
///
/// Texts give whole seconds, cut off, so `now` is taken the same way.
#[must_use]
pub fn spoken(text: &str, now: Timestamp, age: impl Fn(u64) -> String) -> String {
    let mut said: Vec<String> = Vec::new();
    for word in text.split(' ') {
        let bare = word.trim_end_matches([',', ';', ':', ')']);
        let Ok(at) = bare.parse::<Timestamp>() else {
            said.push(word.to_owned());
            continue;
        };
        let past = seconds(at, now);
        let (span, end) = (age(past.unsigned_abs()), &word[bare.len()..]);
        let before = said.last().map_or("", String::as_str);
        let phrase = match before {
            "since" if past <= 1 => String::new(),
            "since" => format!("for {span}"),
            "until" if past <= 0 => format!("for another {span}"),
            _ if past < 0 => format!("in {span}"),
            _ => format!("{span} ago"),
        };
        if matches!(before, "since" | "at") || before == "until" && past <= 0 {
            said.pop();
        }
        match said.last_mut() {
            Some(last) if phrase.is_empty() => last.push_str(end),
            Some(_) | None => said.push(format!("{phrase}{end}")),
        }
    }
    said.join(" ")
}

fn campaign(data: &Value) -> String {
    format!("campaign {}", data["campaign"].as_str().unwrap_or("?"))
}

fn fallback(data: &Value) -> String {
    let trunks: Vec<&str> = data["fallback"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if trunks.is_empty() { String::new() } else { format!(" or use {}", trunks.join(", ")) }
}

/// What comes from outside must not steer the terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn clip(text: &str, room: usize) -> String {
    let text = clean(text);
    if text.chars().count() <= room { text } else { text.chars().take(room - 1).chain(['.']).collect() }
}

/// Breaks `text` at blanks into lines of `room` columns, indented but for the first. A longer word is cut.
pub(super) fn wrap(text: &str, room: usize, indent: usize) -> String {
    let mut lines: Vec<String> = vec![String::new()];
    let mut used = 0;
    for word in text.split_whitespace() {
        let word = clip(word, room);
        let length = word.chars().count();
        if used > 0 && used + 1 + length > room {
            lines.push(String::new());
            used = 0;
        }
        if let Some(line) = lines.last_mut() {
            if used > 0 {
                line.push(' ');
                used += 1;
            }
            line.push_str(&word);
            used += length;
        }
    }
    lines.join(&format!("\n{}", " ".repeat(indent)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::clock::after;

    fn began() -> Timestamp {
        "2026-11-22T18:00:00Z".parse().unwrap()
    }

    fn event(kind: &str, data: Value) -> Event {
        Event { kind: kind.to_owned(), at: after(began(), std::time::Duration::from_millis(4200)), data }
    }

    #[test]
    fn an_event_is_one_readable_line() {
        let narrator = Narrator::new(began(), Style::default());
        let health = event(
            "trunk.health",
            json!({"trunk": "pbx1/north", "from": "stable", "to": "down", "gate": {"allow": false},
                   "reason": {"why": "rejected", "registration": "north", "since": "2026-11-22T18:00:04.2Z"}}),
        );
        assert_eq!(
            narrator.event(&health).unwrap(),
            "   4.2s x health   pbx1/north     stable -> down: north rejected"
        );
        let pause = event(
            "campaign.pause",
            json!({"dialer": "crm", "campaign": "7", "hold": "hold_1", "trunks": ["pbx1/north"], "reason": "north is down",
                   "fallback": ["pbx1/south"], "diagnosis": null}),
        );
        assert_eq!(
            narrator.event(&pause).unwrap(),
            "   4.2s = pause    campaign 7     told crm to pause it or use pbx1/south: north is down"
        );
        let left = event(
            "campaign.resume",
            json!({"dialer": "crm", "campaign": "7", "reason": "well since 2026-11-22T18:00:02Z, now"}),
        );
        assert!(narrator.event(&left).unwrap().ends_with("told crm to go on: well for 2s, now"));
        assert_eq!(narrator.event(&event("gate", json!({"trunk": "pbx1/north"}))), None);
        assert_eq!(narrator.event(&event("hold.begun", json!(null))).unwrap().lines().count(), 1);
    }

    #[test]
    fn a_diagnosis_is_a_line_with_its_fix_and_the_reason_after_it_has_the_cause_only() {
        let narrator = Narrator::new(began(), Style::default());
        let diagnosis = |cause: &str| {
            event(
                "trunk.diagnosis",
                json!({"trunk": "pbx1/north", "hold": "hold_1", "reason": "it answers with 403; seen 3 times.", "diagnosis": {
                    "cause": cause, "confidence": 0.85, "fault": "provider", "to_know_more": ["Switch HEP on. Then wait."],
                    "fix": {"text": "Call the provider. Do not retry.", "config": ""}}}),
            )
        };
        assert_eq!(
            narrator.event(&diagnosis("account_forbidden")).unwrap(),
            "   4.2s * cause    pbx1/north     diagnosed: account_forbidden 85 %, fault provider: it answers with\n\
             \x20                                 403\n\
             \x20                                 fix: Call the provider"
        );
        let again = narrator.event(&diagnosis("account_forbidden")).unwrap();
        assert_eq!(again, "   4.2s * cause    pbx1/north     diagnosed again: account_forbidden 85 %, fault provider");
        let unknown = narrator.event(&diagnosis("unknown")).unwrap();
        assert!(unknown.contains("~ cause    pbx1/north     not diagnosed yet: it answers with 403\n"), "{unknown}");
        assert!(unknown.ends_with("to know more: Switch HEP on") && !unknown.contains("fix"), "{unknown}");
        for (reason, said) in [
            ("north rejected: account_forbidden: it answers with 403", "north rejected: account_forbidden"),
            ("down: north rejected: unknown: no one: knows", "down: north rejected: unknown"),
            ("north rejected", "north rejected"),
            ("rejected: by operator", "rejected: by operator"),
            ("a: b: c", "a: b: c"),
        ] {
            assert_eq!(shortened(reason), said);
        }
    }

    #[test]
    fn instants_are_said_as_spans() {
        let now = "2026-11-22T18:10:00.9Z".parse().unwrap();
        let spoken = |text| spoken(text, now, |seconds| format!("{seconds}s"));
        for (text, said) in [
            ("north rejected since 2026-11-22T18:09:00Z", "north rejected for 60s"),
            ("well again since 2026-11-22T18:10:00Z, in recovery", "well again, in recovery"),
            ("no refresh since it was due at 2026-11-22T18:09:58Z", "no refresh since it was due 2s ago"),
            (
                "released by operator:ops until 2026-11-22T18:25:00Z (ok)",
                "released by operator:ops for another 900s (ok)",
            ),
            ("released until 2026-11-22T18:09:00Z", "released until 60s ago"),
            ("since then", "since then"),
            ("2026-11-22T18:10:05Z", "in 5s"),
            ("since 2026-11-22T18:10:00Z", ""),
            ("", ""),
        ] {
            assert_eq!(spoken(text), said);
        }
    }

    #[test]
    fn an_incident_ends_as_an_end() {
        let narrator = Narrator::new(began(), Style::default());
        let incident = |ended: Value| {
            event(
                "incident",
                json!({"pbx": "pbx1", "trunks": ["pbx1/a", "pbx1/b", "pbx1/c"], "reason": "3 trunks of pbx1 failed",
                       "since": "2026-11-22T18:00:00Z", "ended_at": ended}),
            )
        };
        let said = narrator.event(&incident(Value::Null)).unwrap();
        assert!(said.ends_with("x incident pbx1           3 trunks of pbx1 failed"), "{said}");
        let said = narrator.event(&incident(json!("2026-11-22T18:00:12Z"))).unwrap();
        assert!(said.ends_with("over after 12s: none of its 3 trunks is held any more"), "{said}");
    }

    #[test]
    fn time_does_not_run_backwards_in_the_story() {
        let mut narrator = Narrator::new(began(), Style::default());
        let _ = narrator.say(after(began(), std::time::Duration::from_secs(3)), "the network breaks");
        let lost = Record {
            scope: Scope::Pbx("pbx1".parse().unwrap()),
            kind: EntryKind::Pbx,
            subject: "link".to_owned(),
            to: "lost".to_owned(),
            at: after(began(), std::time::Duration::from_secs(2)),
            detail: Value::Null,
        };
        assert_eq!(narrator.record(&lost).unwrap(), "   3.0s . link     pbx1           lost, last heard at 2.0s");
    }

    #[test]
    fn a_run_of_equal_outcomes_is_told_once() {
        let mut narrator = Narrator::new(began(), Style::default());
        let record = |to: &str| Record {
            scope: Scope::Trunk("pbx1/north".parse().unwrap()),
            kind: EntryKind::Registration,
            subject: "north".to_owned(),
            to: to.to_owned(),
            at: began(),
            detail: Value::Null,
        };
        assert_eq!(narrator.record(&record("registered")), None);
        assert!(narrator.record(&record("rejected")).is_some());
        assert_eq!(narrator.record(&record("rejected")), None);
        assert!(narrator.record(&record("registered")).is_some());
    }

    #[test]
    fn no_line_is_wider_than_it_may_be_and_none_steers_the_terminal() {
        let narrator = Narrator::new(began(), Style { colour: false, signs: true });
        let reason = format!("{} \x1b[2J\r\nfake {}", "long words ".repeat(30), "x".repeat(300));
        let line = narrator
            .event(&event(
                "hold.begun",
                json!({"trunk": "pbx1/a-trunk-with-a-long-name", "reason": reason, "by": "policy"}),
            ))
            .unwrap();
        assert!(line.lines().all(|line| line.chars().count() <= WIDTH), "{line}");
        assert!(!line.contains(['\x1b', '\r']) && line.lines().count() > 3);
        assert!(narrator.say(began(), &"word ".repeat(60)).lines().all(|line| line.chars().count() <= WIDTH));
    }

    #[test]
    fn colour_is_there_only_when_wanted() {
        let say = |colour| Narrator::new(began(), Style { colour, signs: false }).say(began(), "x");
        assert!(say(true).contains("\x1b[") && !say(false).contains('\x1b'));
    }
}
