//! The hours in which a resume may be sent: `Mon-Sat 09:30-18:30` in a time zone.
//!
//! Days are a name, a range or a comma-separated list of both; several windows are divided by `;`. A range of hours
//! that ends before it begins runs over midnight and belongs to the day it begins on.

use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

/// Why a text is no window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// Not of the form `DAYS HH:MM-HH:MM`.
    #[error("{0:?} is no window: write it like \"Mon-Sat 09:30-18:30\"")]
    Form(String),
    /// No such day.
    #[error("{0:?} is no day: use Mon, Tue, Wed, Thu, Fri, Sat or Sun")]
    Day(String),
    /// No such time.
    #[error("{0:?} is no time of day: use 00:00 to 24:00")]
    Time(String),
    /// No such time zone.
    #[error("{0:?} is no time zone: use a name like \"Asia/Kolkata\"")]
    Zone(String),
}

/// A window, as it was written, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    text: String,
    zone: String,
}

impl Window {
    /// Reads `text` in `zone`, an IANA name.
    ///
    /// # Errors
    /// [`WindowError`] says which part is not understood.
    pub fn parse(text: &str, zone: &str) -> Result<Self, WindowError> {
        let _ = TimeZone::get(zone).map_err(|_| WindowError::Zone(zone.to_owned()))?;
        Ok(Self { text: text.to_owned(), zone: zone.to_owned() })
    }

    /// Whether `at` is within it.
    #[must_use]
    pub fn contains(&self, at: Timestamp) -> bool {
        let _ = at;
        todo!()
    }
}
