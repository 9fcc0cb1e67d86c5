//! `Filter`: which events a session gets beyond its mask.
//!
//! Source: `main/manager.c` (`manager_add_filter` and around), and a recording of which filters 22 takes and what came
//! afterwards. Includes are an OR, then excludes; a filter that matches nothing is accepted and silences the session.
//!
//! Knowingly less than Asterisk: of regular expressions only plain text and `(one|or another)` are understood; any other is
//! refused with the error Asterisk has for one that does not compile.

use super::event::AmiEvent;

/// The two errors of a filter.
pub(super) const BAD_FORM: &str = "Filter was formatted incorrectly.  Check the syntax of the filter given.";
pub(super) const BAD_EXPRESSION: &str = "Filter did not compile.  Check the syntax of the filter given.";

/// The most filters a session may add; Asterisk has no limit.
const LIMIT: usize = 1000;

/// A session's filters.
#[derive(Debug, Default)]
pub(super) struct Filters {
    include: Vec<Filter>,
    exclude: Vec<Filter>,
}

#[derive(Debug)]
struct Filter {
    name: Option<String>,
    header: Option<String>,
    how: How,
}

#[derive(Debug)]
enum How {
    Any,
    Exact(String),
    StartsWith(String),
    EndsWith(String),
    Contains(Vec<String>),
}

impl Filters {
    /// Adds one, as `Filter` with `Operation: Add`.
    pub(super) fn add(&mut self, criteria: &str, expression: &str) -> Result<(), &'static str> {
        let (filter, excludes) = if criteria.is_empty() { old(expression)? } else { advanced(criteria, expression)? };
        let filters = if excludes { &mut self.exclude } else { &mut self.include };
        if filters.len() >= LIMIT {
            return Err(BAD_FORM);
        }
        filters.push(filter);
        Ok(())
    }

    /// Whether the session gets `event`.
    pub(super) fn pass(&self, event: &AmiEvent) -> bool {
        (self.include.is_empty() || self.include.iter().any(|filter| filter.matches(event)))
            && !self.exclude.iter().any(|filter| filter.matches(event))
    }
}

impl Filter {
    fn matches(&self, event: &AmiEvent) -> bool {
        if self.name.as_ref().is_some_and(|name| **name != *event.name) {
            return false;
        }
        match &self.header {
            None => self.how.matches(&event.text),
            Some(header) => event
                .text
                .lines()
                .filter_map(|line| line.strip_prefix(header.as_str())?.strip_prefix(": "))
                .any(|value| self.how.matches(value)),
        }
    }
}

impl How {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(wanted) => text == wanted,
            Self::StartsWith(wanted) => text.starts_with(wanted),
            Self::EndsWith(wanted) => text.ends_with(wanted),
            Self::Contains(wanted) => wanted.iter().any(|wanted| text.contains(wanted)),
        }
    }
}

/// Without criteria: an expression over the whole event, `!` in front excludes.
fn old(expression: &str) -> Result<(Filter, bool), &'static str> {
    let (expression, excludes) = match expression.strip_prefix('!') {
        Some(rest) => (rest, true),
        None => (expression, false),
    };
    if expression.is_empty() {
        return Err(BAD_FORM);
    }
    Ok((Filter { name: None, header: None, how: How::Contains(alternatives(expression)?) }, excludes))
}

fn advanced(criteria: &str, expression: &str) -> Result<(Filter, bool), &'static str> {
    let (mut name, mut header, mut method, mut excludes) = (None, None, None, false);
    let mut rest = criteria;
    while !rest.is_empty() {
        let (key, after) = rest.split_once('(').ok_or(BAD_FORM)?;
        let (value, after) = after.split_once(')').ok_or(BAD_FORM)?;
        if value.is_empty() {
            return Err(BAD_FORM);
        }
        // A comma is customary between them; 22 takes blanks, and nothing at all, as well.
        match key.trim_matches([',', ' ']) {
            "name" => name = Some(value.to_owned()),
            "header" => header = Some(value.to_owned()),
            "method" => method = Some(value),
            "action" => {
                excludes = match value {
                    "include" => false,
                    "exclude" => true,
                    _ => return Err(BAD_FORM),
                }
            }
            _ => return Err(BAD_FORM),
        }
        rest = after;
    }
    let wanted = expression.to_owned();
    let how = match (method, expression.is_empty()) {
        (None | Some("none"), true) => How::Any,
        (None | Some("none"), false) | (Some(_), true) => return Err(BAD_FORM),
        (Some("exact"), false) => How::Exact(wanted),
        (Some("starts_with"), false) => How::StartsWith(wanted),
        (Some("ends_with"), false) => How::EndsWith(wanted),
        (Some("contains"), false) => How::Contains(vec![wanted]),
        (Some("regex"), false) => How::Contains(alternatives(expression)?),
        (Some(_), false) => return Err(BAD_FORM),
    };
    Ok((Filter { name, header, how }, excludes))
}

/// `abc` or `a(b|c)d` as the texts it stands for.
fn alternatives(expression: &str) -> Result<Vec<String>, &'static str> {
    let plain = |text: &str| !text.contains(['(', ')', '|', '[', ']', '*', '+', '?', '{', '}', '^', '$', '\\', '.']);
    match expression.split_once('(') {
        None if plain(expression) => Ok(vec![expression.to_owned()]),
        None => Err(BAD_EXPRESSION),
        Some((before, rest)) => {
            let (inner, after) = rest.split_once(')').ok_or(BAD_EXPRESSION)?;
            let choices: Vec<String> = inner.split('|').map(|choice| format!("{before}{choice}{after}")).collect();
            if choices.iter().all(|choice| plain(choice)) { Ok(choices) } else { Err(BAD_EXPRESSION) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::event::event, *};
    use crate::wire::ami::Classes;

    fn registry(status: &str) -> AmiEvent {
        event("Registry", Classes::SYSTEM, None, |h| {
            h.put("ChannelType", "PJSIP").put("Status", status);
        })
    }

    fn hangup(name: &str) -> AmiEvent {
        event(name, Classes::CALL, None, |_| {})
    }

    /// The recording of which filters Asterisk 22 takes, one after the other on a fresh session each.
    #[test]
    fn what_asterisk_takes_and_refuses_is_taken_and_refused() {
        let cases: [(&str, &str, Result<(), &str>); 19] = [
            ("name(Registry)", "", Ok(())),
            ("name(Registry),method(none)", "", Ok(())),
            ("name(Registry)", "Registry", Err(BAD_FORM)),
            ("name(NoSuchEvent),method(none)", "", Ok(())),
            ("name(Registry),header(Status),method(exact)", "Rejected", Ok(())),
            ("", "Event: Registry", Ok(())),
            ("", "!Event: DeviceStateChange", Ok(())),
            ("method(regex)", "Event: (Registry|Hangup)", Ok(())),
            ("name()", "x", Err(BAD_FORM)),
            ("nam(Registry)", "x", Err(BAD_FORM)),
            ("name(Registry)method(none)", "", Ok(())),
            ("name(Registry), method(none)", "", Ok(())),
            ("name(Registry),method(bogus)", "x", Err(BAD_FORM)),
            ("name(Registry),action(drop)", "x", Err(BAD_FORM)),
            ("header(Status),method(regex)", "(", Err(BAD_EXPRESSION)),
            ("", "(", Err(BAD_EXPRESSION)),
            ("", "", Err(BAD_FORM)),
            ("name(Registry),method(none)", "x", Err(BAD_FORM)),
            ("name(Registry),name(Hangup),method(none)", "", Ok(())),
        ];
        for (criteria, expression, expected) in cases {
            assert_eq!(Filters::default().add(criteria, expression), expected, "{criteria} {expression}");
        }
    }

    #[test]
    fn includes_are_an_or_and_excludes_come_after() {
        let mut filters = Filters::default();
        assert!(filters.pass(&hangup("Hangup")));
        filters.add("name(Registry),method(none)", "").unwrap();
        assert!(filters.pass(&registry("Rejected")) && !filters.pass(&hangup("Hangup")));
        filters.add("name(Hangup)", "").unwrap();
        assert!(filters.pass(&hangup("Hangup")) && !filters.pass(&hangup("HangupRequest")));
        filters.add("header(Status),action(exclude),method(exact)", "Rejected").unwrap();
        assert!(!filters.pass(&registry("Rejected")) && filters.pass(&registry("Registered")));
    }

    #[test]
    fn a_wrong_name_is_accepted_and_silences_the_session() {
        let mut filters = Filters::default();
        filters.add("name(registry),method(none)", "").unwrap();
        assert!(!filters.pass(&registry("Rejected")));
    }

    #[test]
    fn the_old_form_also_lets_longer_names_through() {
        let mut filters = Filters::default();
        filters.add("", "Event: Hangup").unwrap();
        assert!(filters.pass(&hangup("HangupRequest")) && !filters.pass(&registry("Rejected")));
    }
}
