//! A verdict in the making, and how it becomes a [`Diagnosis`].

use std::collections::BTreeSet;

use super::{
    super::{
        attempt::{Attempt, Outcome},
        tell,
        verdict::{Alternative, Cause, Diagnosis, Evidence, Fault, Fix},
    },
    scene::Scene,
};
use crate::{
    clock::Timestamp,
    wire::sip::{Direction, Seen, Source},
};

/// The most evidence lines of one diagnosis.
const MOST_EVIDENCE: usize = 24;
/// Lines of configuration among them.
const MOST_SETTINGS: usize = 6;
/// The most alternatives.
const MOST_ALTERNATIVES: usize = 5;

/// What would tell more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum More {
    /// The SIP exchange.
    Trace,
    /// ICMP, TCP, TLS and DNS, which only a capture shows.
    Capture,
    /// `pjsip.conf`, or AMI rights to read its objects.
    Configuration,
}

/// A verdict in the making.
#[derive(Debug, Clone)]
pub(super) struct Finding<'a> {
    ranked: Vec<(Cause, f64)>,
    fault: Fault,
    summary: String,
    fix: Fix,
    attempt: Option<usize>,
    settings: Vec<String>,
    others: Vec<(&'a Seen, Option<Direction>)>,
    told: Vec<(Timestamp, Source, String)>,
    more: BTreeSet<More>,
}

impl<'a> Finding<'a> {
    /// A finding: its causes with how sure each is, in any order, and whose fault the first is.
    pub(super) fn new(ranked: &[(Cause, f64)], fault: Fault, summary: String, fix: Fix) -> Self {
        let mut ranked = ranked.to_vec();
        // Stable, so that of two that are equally sure the one named first stands first.
        ranked.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        let mut known = BTreeSet::new();
        ranked.retain(|&(cause, sure)| sure > 0.0 && known.insert(cause));
        Self {
            ranked,
            fault,
            summary,
            fix,
            attempt: None,
            settings: Vec::new(),
            others: Vec::new(),
            told: Vec::new(),
            more: BTreeSet::new(),
        }
    }

    /// What is known not to be known: `unknown`, with what it may be. Its own figure only ranks it.
    pub(super) fn unknown(sure: f64, perhaps: &[(Cause, f64)], fault: Fault, summary: String, fix: Fix) -> Self {
        let mut found = Self::new(perhaps, fault, summary, fix);
        found.ranked.insert(0, (Cause::Unknown, sure));
        found
    }

    /// It rests on this attempt.
    pub(super) fn of_attempt(mut self, at: usize) -> Self {
        self.attempt = Some(at);
        self
    }

    /// Lines of the configuration that bear it out.
    pub(super) fn settings(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.settings.extend(lines);
        self
    }

    /// Sightings that are in no attempt.
    pub(super) fn seen(mut self, seen: impl IntoIterator<Item = (&'a Seen, Option<Direction>)>) -> Self {
        self.others.extend(seen);
        self
    }

    /// What AMI told.
    pub(super) fn told_at(self, at: Timestamp, line: String) -> Self {
        self.line_at(at, Source::Ami, line)
    }

    /// What somebody else told.
    pub(super) fn line_at(mut self, at: Timestamp, source: Source, line: String) -> Self {
        self.told.push((at, source, line));
        self
    }

    /// The lines that another finding rests on.
    pub(super) fn with_lines_of(mut self, other: Self) -> Self {
        self.told.extend(other.told);
        self
    }

    /// What would tell more.
    pub(super) fn more(mut self, more: impl IntoIterator<Item = More>) -> Self {
        self.more.extend(more);
        self
    }

    /// Another cause besides.
    pub(super) fn or(mut self, cause: Cause, sure: f64) -> Self {
        if self.ranked.iter().all(|&(known, _)| known != cause) {
            self.ranked.push((cause, sure));
            if let Some((first, rest)) = self.ranked.split_first_mut() {
                rest.sort_by(|(_, one), (_, other)| other.total_cmp(one));
                let _ = first;
            }
        }
        self
    }

    /// How sure it is.
    pub(super) fn confidence(&self) -> f64 {
        self.ranked.first().map_or(0.0, |&(_, sure)| sure)
    }

    /// The cause.
    pub(super) fn cause(&self) -> Cause {
        self.ranked.first().map_or(Cause::Unknown, |&(cause, _)| cause)
    }

    /// Multiplies how sure everything is.
    pub(super) fn less_sure(mut self, factor: f64) -> Self {
        for (_, sure) in &mut self.ranked {
            *sure *= factor;
        }
        self
    }

    /// Adds to the sentence.
    pub(super) fn also(mut self, more: &str) -> Self {
        self.summary.push_str(more);
        self
    }

    /// Its attempt is an earlier one than the one that was reported: it is likely the same, and not proven to be.
    pub(super) fn seen_before_only(self) -> Self {
        self.less_sure(0.8)
            .also("; the attempt reported last was not seen itself, this is the one before")
            .more([More::Trace])
    }

    /// The diagnosis.
    pub(super) fn told(self, scene: &Scene<'a>) -> Diagnosis {
        let mut evidence = self.evidence(scene);
        let at = evidence.iter().filter(|one| one.direction.is_some()).map(|one| one.at).max();
        let at = at.or_else(|| evidence.iter().map(|one| one.at).max()).unwrap_or(scene.now);
        // Configuration does not happen; it stands where the verdict does.
        evidence.extend(self.settings.iter().take(MOST_SETTINGS).map(|line| Evidence {
            at,
            direction: None,
            source: Source::Configuration,
            line: tell::line(line),
            from: None,
            to: None,
            repeats: 0,
            until: None,
            message: None,
        }));
        let cause = self.cause();
        let confidence = round(self.confidence());
        let alternatives = self.ranked.iter().skip(1).filter(|&&(other, _)| other != cause).take(MOST_ALTERNATIVES);
        let alternatives =
            alternatives.map(|&(cause, sure)| Alternative { cause, confidence: round(sure.min(confidence)) }).collect();
        let mut summary = self.summary.clone();
        if let Some(more) = scene.afterword(self.attempt) {
            summary.push_str(&more);
        }
        if !summary.ends_with('.') {
            summary.push('.');
        }
        let mut fix = self.fix.clone();
        if scene.gave_up() {
            let again = format!("pjsip send register {}", scene.name.unwrap_or("REGISTRATION"));
            fix.text.push_str(&format!(
                " Asterisk has stopped trying: once the cause is gone, `{again}` (or AMI PJSIPRegister), once."
            ));
        }
        Diagnosis {
            trunk: scene.case.trunk.clone(),
            subject: scene.subject(),
            at,
            cause,
            confidence,
            fault: self.fault,
            summary,
            alternatives,
            sources: sources(&evidence),
            evidence,
            fix,
            to_know_more: self.more.iter().flat_map(|&more| scene.how_to_know(more)).collect(),
        }
    }

    /// The deciding attempt whole, what corroborates it in a line each, what else was seen; in order of time.
    fn evidence(&self, scene: &Scene<'a>) -> Vec<Evidence> {
        let room = MOST_EVIDENCE - self.settings.len().min(MOST_SETTINGS);
        let mut all: Vec<Evidence> = Vec::new();
        let deciding = self.attempt.and_then(|at| scene.attempts.get(at));
        if let Some(attempt) = deciding {
            let whole = attempt.exchange();
            // Longer ones than this do not occur; if one does, its beginning and its end tell most.
            let skipped = whole.len().saturating_sub(room);
            let head = whole.len().min(room / 2);
            for (place, (seen, repeats, until)) in whole.iter().enumerate() {
                if place < head || place >= head + skipped {
                    all.push(Evidence { until: until.filter(|_| *repeats > 0), ..told(scene, seen, *repeats) });
                }
            }
        }
        for (at, source, line) in self.told.iter().take(room - all.len()) {
            all.push(Evidence {
                at: *at,
                direction: None,
                source: *source,
                line: tell::line(line),
                from: None,
                to: None,
                repeats: 0,
                until: None,
                message: None,
            });
        }
        for &(seen, direction) in self.others.iter().take(room - all.len()) {
            all.push(tell::evidence(seen, direction, 0));
        }
        let earlier = self.attempt.and_then(|at| corroborating(scene, at));
        if let Some(answer) = earlier.and_then(|attempt| attempt.last()).and_then(|leg| leg.answer)
            && all.len() < room
        {
            all.push(told(scene, answer, 0));
        }
        all.sort_by_key(|one| one.at);
        all
    }
}

/// The last success before the deciding attempt.
fn corroborating<'s, 'a>(scene: &'s Scene<'a>, at: usize) -> Option<&'s Attempt<'a>> {
    scene.attempts.iter().take(at).rev().find(|one| one.outcome == Outcome::Granted && !one.unregister)
}

fn told(scene: &Scene<'_>, seen: &Seen, repeats: u32) -> Evidence {
    tell::evidence(seen, scene.direction(seen), repeats)
}

/// Which sources are in it, the strongest first.
fn sources(evidence: &[Evidence]) -> Vec<Source> {
    const STRONGEST_FIRST: [Source; 6] =
        [Source::Capture, Source::Hep, Source::Logger, Source::History, Source::Ami, Source::Configuration];
    STRONGEST_FIRST.into_iter().filter(|source| evidence.iter().any(|one| one.source == *source)).collect()
}

/// Two places: more would claim to know more.
fn round(sure: f64) -> f64 {
    (sure.clamp(0.0, 1.0) * 100.0).round() / 100.0
}
