//! An AMI event as it goes out.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
};

use crate::{clock::Timestamp, wire::ami::Classes};

/// What goes to the sessions.
#[derive(Debug, Clone)]
pub(super) enum Outgoing {
    /// An event, if the session may have it and wants it.
    Event(AmiEvent),
    /// Bytes as they are: for tests of a client's manners.
    Raw(Arc<[u8]>),
}

/// An event, written once for all sessions.
#[derive(Debug, Clone)]
pub(super) struct AmiEvent {
    /// The classes it needs.
    pub(super) classes: Classes,
    /// Its name.
    pub(super) name: Arc<str>,
    /// The whole message, its blank line included.
    pub(super) text: Arc<str>,
}

/// Writes an event. `at` is its `Timestamp`, which comes with `timestampevents=yes` only.
pub(super) fn event(
    name: &str,
    classes: Classes,
    at: Option<Timestamp>,
    headers: impl FnOnce(&mut Headers<'_>),
) -> AmiEvent {
    let mut text = String::with_capacity(256);
    let mut head = Headers(&mut text);
    head.put("Event", name);
    head.put("Privilege", classes);
    if let Some(at) = at {
        head.put("Timestamp", stamp(at));
    }
    headers(&mut head);
    text.push_str("\r\n");
    AmiEvent { classes, name: name.into(), text: text.into() }
}

/// Writes headers.
pub(super) struct Headers<'a>(pub(super) &'a mut String);

impl Headers<'_> {
    /// One line. A line break in a value would be a second header: it is replaced.
    pub(super) fn put(&mut self, name: &str, value: impl fmt::Display) -> &mut Self {
        let start = self.0.len();
        // Writing to a String does not fail.
        let _ = write!(self.0, "{name}: {value}");
        if self.0[start..].contains(['\r', '\n', '\0']) {
            let line = self.0.split_off(start).replace(['\r', '\n', '\0'], " ");
            self.0.push_str(&line);
        }
        self.0.push_str("\r\n");
        self
    }
}

/// Seconds and microseconds, as in `Timestamp` headers.
pub(super) fn stamp(at: Timestamp) -> String {
    let micros = at.as_microsecond();
    format!("{}.{:06}", micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_written_as_asterisk_writes_them() {
        assert_eq!(Classes::SYSTEM.to_string(), "system,all");
        assert_eq!(Classes::REPORTING.and(Classes::SYSTEM).to_string(), "system,reporting,all");
        assert_eq!(Classes::NONE.to_string(), "<none>");
        assert_eq!(Classes::read("reporting, system"), Classes::SYSTEM.and(Classes::REPORTING));
        assert!(Classes::read("all").contains(Classes::SECURITY));
        assert!(Classes::read("nonsense").is_empty());
    }

    #[test]
    fn a_value_cannot_smuggle_a_header() {
        let event = event("UserEvent", Classes::USER, None, |h| {
            h.put("X", "a\r\nEvent: Fake");
        });
        assert_eq!(&*event.text, "Event: UserEvent\r\nPrivilege: user,all\r\nX: a  Event: Fake\r\n\r\n");
    }
}
