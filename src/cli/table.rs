//! How things look in a terminal: aligned tables, times in the reader's zone, colour where there is a terminal.
//!
//! What came from outside is made harmless first: a control character in a provider's words must not steer a terminal.

use std::fmt::Write as _;

use comfy_table::{Table, presets::NOTHING};
use jiff::{civil::DateTime, tz::TimeZone};

use crate::{
    clock::{Timestamp, between},
    sim::narrate::spoken,
};

/// How to show things.
#[derive(Debug, Clone)]
pub(super) struct Style {
    zone: TimeZone,
    utc: bool,
    colour: bool,
    now: Timestamp,
}

impl Style {
    pub(super) fn new(utc: bool, colour: bool, now: Timestamp) -> Self {
        let zone = if utc { TimeZone::UTC } else { TimeZone::system() };
        Self { zone, utc, colour, now }
    }

    /// The same, at another time.
    pub(super) fn now(&self, now: Timestamp) -> Self {
        Self { now, ..self.clone() }
    }

    /// `2026-08-01 14:02:11+05:30`, or with a `Z` in UTC.
    pub(super) fn time(&self, at: Timestamp) -> String {
        let format = if self.utc { "%Y-%m-%d %H:%M:%SZ" } else { "%Y-%m-%d %H:%M:%S%:z" };
        at.to_zoned(self.zone.clone()).strftime(format).to_string()
    }

    /// `2026-08-01`, in the zone that times are shown in.
    pub(super) fn day(&self, at: Timestamp) -> String {
        at.to_zoned(self.zone.clone()).strftime("%Y-%m-%d").to_string()
    }

    /// `14:02:11.503`.
    pub(super) fn time_of_day(&self, at: Timestamp) -> String {
        at.to_zoned(self.zone.clone()).strftime("%H:%M:%S.%3f").to_string()
    }

    /// `+05:30`, or `UTC`.
    pub(super) fn offset(&self, at: Timestamp) -> String {
        if self.utc { "UTC".to_owned() } else { at.to_zoned(self.zone.clone()).strftime("%:z").to_string() }
    }

    /// The same, or nothing.
    pub(super) fn maybe_time(&self, at: Option<Timestamp>) -> String {
        at.map(|at| self.time(at)).unwrap_or_default()
    }

    /// How long ago: `12s`, `3m`, `5h`, `12d`; of what is to come, `in 3m`.
    pub(super) fn age(&self, at: Timestamp) -> String {
        if at > self.now {
            return format!("in {}", rough(between(self.now, at).as_secs()));
        }
        rough(between(at, self.now).as_secs())
    }

    /// A reason with its instants said as spans, as they are now.
    pub(super) fn reason(&self, text: &str) -> String {
        self.reason_at(text, self.now)
    }

    /// A reason as it sounded at `at`.
    pub(super) fn reason_at(&self, text: &str, at: Timestamp) -> String {
        spoken(text, at, rough)
    }

    /// An instant as people write it: a span before now or RFC 3339 are left to the API; a date, or a date and time
    /// without an offset, is in the zone that times are shown in.
    pub(super) fn instant(&self, text: &str) -> anyhow::Result<String> {
        if humantime::parse_duration(text).is_ok() || text.parse::<Timestamp>().is_ok() {
            return Ok(text.to_owned());
        }
        if let Ok(local) = text.parse::<DateTime>()
            && let Ok(zoned) = self.zone.to_ambiguous_zoned(local).compatible()
        {
            return Ok(zoned.timestamp().to_string());
        }
        anyhow::bail!("{text:?} is no time: write 24h, 7d, 2026-08-01, \"2026-08-01 02:13\" or 2026-08-01T02:13:00Z")
    }

    /// A table with `header`, its lines without spaces at their ends. Words that are good or bad news in the columns
    /// named in `coloured` get their colour.
    pub(super) fn table(&self, header: &[&str], rows: Vec<Vec<String>>, coloured: &[&str]) -> String {
        let mut table = Table::new();
        table.load_style(NOTHING).set_header(header.iter().copied());
        for row in rows {
            table.add_row(row.iter().map(|cell| harmless(cell)));
        }
        let last = header.len().saturating_sub(1);
        for (at, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, if at == last { 0 } else { 2 }));
        }
        let mut text = String::new();
        let mut offsets: Vec<usize> = Vec::new();
        for line in table.lines() {
            let line = line.trim_end();
            if offsets.is_empty() {
                offsets = coloured.iter().filter_map(|name| offset_of(line, name)).collect();
            }
            text.push_str(&self.painted(line, &offsets));
            text.push('\n');
        }
        text
    }

    /// `text` in the colour of the news it is.
    pub(super) fn word(&self, text: &str) -> String {
        match colour_of(text) {
            Some(colour) if self.colour => format!("\u{1b}[{colour}m{text}\u{1b}[0m"),
            Some(_) | None => text.to_owned(),
        }
    }

    /// `text` with SGR attributes (`1;31` is bold red), where there are colours.
    pub(super) fn paint(&self, sgr: &str, text: &str) -> String {
        if self.colour && !sgr.is_empty() { format!("\u{1b}[{sgr}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// The line with the words that begin at `offsets` (counted in characters) coloured. The table is laid out before,
    /// since escape sequences have no width but would be counted.
    fn painted(&self, line: &str, offsets: &[usize]) -> String {
        if !self.colour {
            return line.to_owned();
        }
        let mut painted = String::new();
        let mut rest = line;
        let mut passed = 0;
        for &offset in offsets {
            let Some((at, _)) = rest.char_indices().nth(offset.saturating_sub(passed)) else { break };
            let (before, after) = rest.split_at(at);
            let word = after.split(' ').next().unwrap_or_default();
            painted.push_str(before);
            painted.push_str(&self.word(word));
            rest = &after[word.len()..];
            passed = offset + word.chars().count();
        }
        painted + rest
    }
}

fn offset_of(line: &str, name: &str) -> Option<usize> {
    let at = line.find(name)?;
    Some(line[..at].chars().count())
}

/// SGR codes: green for good, yellow for wait, red for bad.
fn colour_of(word: &str) -> Option<u8> {
    match word {
        "stable" | "allow" | "registered" | "delivered" | "running" => Some(32),
        "suspect" | "unstable" | "unknown" | "paused" | "pending" | "unregistered" => Some(33),
        "down" | "hold" | "rejected" | "abandoned" => Some(31),
        _ => None,
    }
}

fn rough(seconds: u64) -> String {
    match seconds {
        0..=59 => format!("{seconds}s"),
        60..=3599 => format!("{}m", seconds / 60),
        3600..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// The text with control characters written out.
pub(super) fn harmless(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    text.chars().fold(String::with_capacity(text.len()), |mut safe, c| {
        if c.is_control() {
            // Writing to a String cannot fail.
            let _ = write!(safe, "{}", c.escape_default());
        } else {
            safe.push(c);
        }
        safe
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn style(colour: bool) -> Style {
        let now = "2026-08-01T12:00:00Z".parse().unwrap();
        Style { zone: TimeZone::get("Asia/Kolkata").unwrap(), utc: false, colour, now }
    }

    #[test]
    fn times_are_local_with_their_offset() {
        let at = "2026-08-01T02:13:00Z".parse().unwrap();
        assert_eq!(style(false).time(at), "2026-08-01 07:43:00+05:30");
        assert_eq!(Style::new(true, false, at).time(at), "2026-08-01 02:13:00Z");
    }

    #[test]
    fn ages_are_rough() {
        let style = style(false);
        for (at, age) in [
            ("2026-08-01T11:59:48Z", "12s"),
            ("2026-08-01T11:57:00Z", "3m"),
            ("2026-07-31T12:00:00Z", "24h"),
            ("2026-07-20T12:00:00Z", "12d"),
            ("2026-08-01T12:30:00Z", "in 30m"),
        ] {
            assert_eq!(style.age(at.parse().unwrap()), age);
        }
    }

    #[test]
    fn a_reasons_instants_are_ages() {
        let style = style(false);
        assert_eq!(style.reason("north rejected since 2026-08-01T11:57:00Z"), "north rejected for 3m");
        assert_eq!(style.reason("well again since 2026-08-01T12:00:00Z, in recovery"), "well again, in recovery");
    }

    #[test]
    fn a_date_without_an_offset_is_local() {
        let style = style(false);
        assert_eq!(style.instant("24h").unwrap(), "24h");
        assert_eq!(style.instant("2026-08-01T02:13:00Z").unwrap(), "2026-08-01T02:13:00Z");
        assert_eq!(style.instant("2026-08-01 07:43").unwrap(), "2026-08-01T02:13:00Z");
        assert_eq!(style.instant("2026-08-01").unwrap(), "2026-07-31T18:30:00Z");
        assert!(style.instant("yesterday").is_err());
    }

    #[test]
    fn columns_line_up_and_only_the_named_ones_are_coloured() {
        let rows = || {
            vec![
                vec!["pbx1/ätna".to_owned(), "down".to_owned(), "down the line".to_owned()],
                vec!["x".to_owned(), "stable".to_owned(), "ok\u{1b}[2J".to_owned()],
            ]
        };
        let header = ["TRUNK", "HEALTH", "REASON"];
        assert_eq!(
            style(false).table(&header, rows(), &["HEALTH"]),
            "TRUNK      HEALTH  REASON\npbx1/ätna  down    down the line\nx          stable  ok\\u{1b}[2J\n"
        );
        assert_eq!(
            style(true).table(&header, rows(), &["HEALTH"]),
            "TRUNK      HEALTH  REASON\npbx1/ätna  \u{1b}[31mdown\u{1b}[0m    down the line\n\
             x          \u{1b}[32mstable\u{1b}[0m  ok\\u{1b}[2J\n"
        );
    }
}
