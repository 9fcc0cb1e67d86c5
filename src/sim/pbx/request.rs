//! A client's request as the simulated PBX looks at it: text, since its answers are text.

use crate::wire::ami::request;

/// The lines of a message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Request {
    lines: Vec<String>,
    action: String,
}

impl From<&request::Request> for Request {
    fn from(read: &request::Request) -> Self {
        let lines = read.lines().map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        Self { lines, action: read.action().into_owned() }
    }
}

impl Request {
    /// The action's name; empty where there is none.
    pub(super) fn action(&self) -> &str {
        &self.action
    }

    /// The first header of that name, whatever its case; empty where there is none. Leading blanks are not part of a
    /// value, trailing ones are; a blank before the colon makes it another header.
    pub(super) fn header(&self, name: &str) -> &str {
        self.find(name).unwrap_or_default()
    }

    /// As [`Request::header`], telling an absent one from an empty one.
    pub(super) fn find(&self, name: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| {
            let value = line.get(name.len()..)?.strip_prefix(':')?;
            let same = line.as_bytes()[..name.len()].eq_ignore_ascii_case(name.as_bytes());
            same.then(|| value.trim_start_matches(|c: char| c.is_ascii() && c <= ' '))
        })
    }

    /// The lines, as they came.
    pub(super) fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}
