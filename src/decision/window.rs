//! The hours in which a resume may be sent: `Mon-Sat 09:30-18:30` in a time zone.
//!
//! Days are a name, a range or a comma-separated list of both; several windows are divided by `;`. A range of hours
//! that ends before it begins runs over midnight and belongs to the day it begins on. A range of days may run over the
//! week's end (`Sat-Mon`). Hours are `HH:MM`, the end exclusive; `24:00` is the day's end.
//!
//! # What the wall clock means when it jumps
//! A window is about what a clock on the wall shows. Where the clock jumps forward over a window's beginning, the window
//! begins at the jump; where it jumps over the whole window, there is none that day; where it jumps back, an hour that
//! is shown twice is inside twice.

use std::fmt;

use jiff::{
    Timestamp, ToSpan,
    civil::{Date, DateTime, Time, Weekday},
    tz::{AmbiguousOffset, TimeZone},
};
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
    /// It ends when it begins, which may mean nothing or everything.
    #[error("{0:?} ends when it begins: write 00:00-24:00 for the whole day")]
    Empty(String),
    /// No such time zone.
    #[error("{0:?} is no time zone: use a name like \"Asia/Kolkata\"")]
    Zone(String),
}

/// A window, as it was written, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Window {
    written: Written,
    zone: TimeZone,
    ranges: Vec<Range>,
}

/// A window's text, which is all of it that is stored: what is read back is checked again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    text: String,
    zone: String,
}

/// Minutes in a day, which is also what `24:00` is.
const DAY: u16 = 24 * 60;

/// How far ahead the next opening is looked for. A week has every range once; a jump of the clock can swallow one, and
/// the week after has it again.
const HORIZON_DAYS: i64 = 22;

/// The same hours on some days of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    /// By `Weekday::to_monday_zero_offset`, a bit each.
    days: u8,
    /// Minutes since midnight.
    from: u16,
    /// Minutes since midnight, exclusive; not after `from` when it runs over midnight.
    to: u16,
}

impl Range {
    fn on(self, day: Weekday) -> bool {
        self.days & bit(day) != 0
    }

    /// Whether a clock that shows `day` and `minute` is inside.
    fn contains(self, day: Weekday, minute: u16) -> bool {
        if self.from < self.to {
            self.on(day) && (self.from..self.to).contains(&minute)
        } else {
            (self.on(day) && minute >= self.from) || (self.on(day.previous()) && minute < self.to)
        }
    }
}

impl Window {
    /// Reads `text` in `zone`, an IANA name.
    ///
    /// # Errors
    /// [`WindowError`] says which part is not understood.
    pub fn parse(text: &str, zone: &str) -> Result<Self, WindowError> {
        let ranges = text.split(';').map(range).collect::<Result<_, _>>()?;
        let written = Written { text: text.to_owned(), zone: zone.to_owned() };
        Ok(Self { written, zone: time_zone(zone)?, ranges })
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.written.text
    }

    /// The name of its time zone, as it was written.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.written.zone
    }

    /// Whether `at` is within it.
    #[must_use]
    pub fn contains(&self, at: Timestamp) -> bool {
        let shown = self.zone.to_datetime(at);
        let minute = minute_of(shown.time());
        self.ranges.iter().any(|range| range.contains(shown.weekday(), minute))
    }

    /// The first instant from `at` on that is within it; `None` only where representable time ends before.
    #[must_use]
    pub fn next_open(&self, at: Timestamp) -> Option<Timestamp> {
        if self.contains(at) {
            return Some(at);
        }
        // What the clock shows enters a range only where it shows the range's beginning, or where it jumps.
        let today = self.zone.to_datetime(at).date();
        let horizon = crate::clock::after(at, std::time::Duration::from_secs(60 * 60 * 24 * 30));
        let jumps = self.zone.following(at).map(|jump| jump.timestamp()).take_while(|&jump| jump <= horizon);
        let beginnings = (0..=HORIZON_DAYS)
            .map_while(|days| today.checked_add(days.days()).ok())
            .flat_map(|day| self.ranges.iter().filter(move |range| range.on(day.weekday())).map(move |r| (day, r.from)))
            .flat_map(|(day, from)| self.instants(day, from));
        jumps.chain(beginnings).filter(|&instant| instant > at && self.contains(instant)).min()
    }

    /// The instants at which the clock shows `minute` on `day`: one, two where it jumps back, none where it jumps over.
    fn instants(&self, day: Date, minute: u16) -> impl Iterator<Item = Timestamp> + use<> {
        let shown = datetime(day, minute);
        let offsets = match self.zone.to_ambiguous_timestamp(shown).offset() {
            AmbiguousOffset::Unambiguous { offset } => [Some(offset), None],
            AmbiguousOffset::Gap { .. } => [None, None],
            AmbiguousOffset::Fold { before, after } => [Some(before), Some(after)],
        };
        offsets.into_iter().flatten().filter_map(move |offset| offset.to_timestamp(shown).ok())
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.written.text, self.written.zone)
    }
}

impl TryFrom<Written> for Window {
    type Error = WindowError;
    fn try_from(written: Written) -> Result<Self, WindowError> {
        Self::parse(&written.text, &written.zone)
    }
}

impl From<Window> for Written {
    fn from(window: Window) -> Self {
        window.written
    }
}

/// The time zone called `name`.
///
/// # Errors
/// [`WindowError::Zone`] when there is none.
fn time_zone(name: &str) -> Result<TimeZone, WindowError> {
    TimeZone::get(name).map_err(|_| WindowError::Zone(name.to_owned()))
}

fn range(text: &str) -> Result<Range, WindowError> {
    let text = text.trim();
    let form = || WindowError::Form(text.to_owned());
    // The last blank divides, so that `Mon-Fri, Sun 10:00-12:00` may have blanks in its days.
    let (days, hours) = text.rsplit_once(char::is_whitespace).ok_or_else(form)?;
    let (from, to) = hours.split_once('-').ok_or_else(form)?;
    let (from_minute, to_minute) = (minute(from)?, minute(to)?);
    if from_minute == DAY {
        return Err(WindowError::Time(from.to_owned()));
    }
    if from_minute == to_minute {
        return Err(WindowError::Empty(hours.to_owned()));
    }
    let days = days.split(',').try_fold(0, |sum, part| days_of(part.trim()).map(|days| sum | days))?;
    Ok(Range { days, from: from_minute, to: to_minute })
}

fn days_of(text: &str) -> Result<u8, WindowError> {
    let Some((first, last)) = text.split_once('-') else {
        return day(text).map(bit);
    };
    let (mut current, last) = (day(first.trim())?, day(last.trim())?);
    let mut days = bit(current);
    while current != last {
        current = current.next();
        days |= bit(current);
    }
    Ok(days)
}

fn day(text: &str) -> Result<Weekday, WindowError> {
    const NAMES: [(&str, Weekday); 7] = [
        ("mon", Weekday::Monday),
        ("tue", Weekday::Tuesday),
        ("wed", Weekday::Wednesday),
        ("thu", Weekday::Thursday),
        ("fri", Weekday::Friday),
        ("sat", Weekday::Saturday),
        ("sun", Weekday::Sunday),
    ];
    let known = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
    known.map(|&(_, day)| day).ok_or_else(|| WindowError::Day(text.to_owned()))
}

fn bit(day: Weekday) -> u8 {
    1 << day.to_monday_zero_offset()
}

fn minute(text: &str) -> Result<u16, WindowError> {
    let error = || WindowError::Time(text.to_owned());
    let (hours, minutes) = text.split_once(':').ok_or_else(error)?;
    if !matches!((hours.len(), minutes.len()), (1 | 2, 2)) || text.bytes().any(|b| !b.is_ascii_digit() && b != b':') {
        return Err(error());
    }
    let number = |digits: &str| digits.parse::<u16>().map_err(|_| error());
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let sum = hours * 60 + minutes;
    if minutes < 60 && sum <= DAY { Ok(sum) } else { Err(error()) }
}

fn minute_of(time: Time) -> u16 {
    u16::from(time.hour().unsigned_abs()) * 60 + u16::from(time.minute().unsigned_abs())
}

fn datetime(day: Date, minute: u16) -> DateTime {
    let part = |value: u16| i8::try_from(value).unwrap_or_default();
    day.at(part(minute / 60), part(minute % 60), 0, 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn window(text: &str, zone: &str) -> Window {
        Window::parse(text, zone).unwrap()
    }

    #[test]
    fn the_end_is_outside() {
        let hours = window("Mon-Sat 09:30-18:30", "Asia/Kolkata");
        // 2026-06-01 is a Monday.
        assert!(!hours.contains(at("2026-06-01T09:29:59+05:30")));
        assert!(hours.contains(at("2026-06-01T09:30:00+05:30")));
        assert!(hours.contains(at("2026-06-01T18:29:59+05:30")));
        assert!(!hours.contains(at("2026-06-01T18:30:00+05:30")));
        assert!(!hours.contains(at("2026-06-07T12:00:00+05:30")), "a Sunday");
    }

    #[test]
    fn the_day_is_the_zones_day() {
        let monday = window("Mon 00:00-24:00", "Asia/Kolkata");
        assert!(monday.contains(at("2026-05-31T18:30:00Z")), "already Monday there");
        assert!(!monday.contains(at("2026-05-31T18:29:59Z")));
        assert!(!monday.contains(at("2026-06-01T18:30:00Z")), "already Tuesday there");
    }

    #[test]
    fn a_night_belongs_to_the_day_it_begins_on() {
        let night = window("Fri 22:00-02:00", "UTC");
        assert!(!night.contains(at("2026-06-05T01:00:00Z")), "Friday's early hours are Thursday's night");
        assert!(night.contains(at("2026-06-05T22:00:00Z")));
        assert!(night.contains(at("2026-06-06T01:59:59Z")));
        assert!(!night.contains(at("2026-06-06T02:00:00Z")));
        assert!(!night.contains(at("2026-06-06T22:00:00Z")));
        assert!(window("Sun 22:00-02:00", "UTC").contains(at("2026-06-08T01:00:00Z")), "over the week's end");
    }

    #[test]
    fn lists_and_ranges_of_days_and_several_windows() {
        let hours = window("Mon-Wed, fri 09:00-12:00; Sat-Mon 20:00-21:00", "UTC");
        let open = |text: &str| hours.contains(at(text));
        assert!(open("2026-06-03T09:00:00Z") && !open("2026-06-04T09:00:00Z") && open("2026-06-05T09:00:00Z"));
        assert!(open("2026-06-06T20:00:00Z") && open("2026-06-07T20:00:00Z") && open("2026-06-08T20:00:00Z"));
        assert!(!open("2026-06-09T20:00:00Z"));
        assert!(open("2026-06-08T09:00:00Z"), "Monday is in both");
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let error = |text: &str| Window::parse(text, "UTC").unwrap_err();
        assert_eq!(error(""), WindowError::Form(String::new()));
        assert_eq!(error("09:30-18:30"), WindowError::Form("09:30-18:30".into()));
        assert_eq!(error("Mon 09:30"), WindowError::Form("Mon 09:30".into()));
        assert_eq!(error("Mon 09:00-10:00;"), WindowError::Form(String::new()));
        assert_eq!(error("Mom 09:00-10:00"), WindowError::Day("Mom".into()));
        assert_eq!(error("Mon-Fry 09:00-10:00"), WindowError::Day("Fry".into()));
        assert_eq!(error("Mon, 09:00-10:00"), WindowError::Day(String::new()));
        for wrong in ["9", "24:01", "25:00", "09:60", "09:5", "+9:00", "1::0", "009:00", "9.30"] {
            assert_eq!(error(&format!("Mon 08:00-{wrong}")), WindowError::Time(wrong.into()));
        }
        assert_eq!(error("Mon 24:00-08:00"), WindowError::Time("24:00".into()));
        assert_eq!(error("Mon 08:00-8:00"), WindowError::Empty("08:00-8:00".into()));
        assert_eq!(Window::parse("Mon 08:00-09:00", "Mars/Base"), Err(WindowError::Zone("Mars/Base".into())));
    }

    #[test]
    fn a_clock_that_jumps_over_the_beginning_opens_at_the_jump() {
        // Berlin, Sunday 2026-03-29: 01:00Z the clock goes from 02:00 to 03:00.
        let hours = window("Sun 02:30-04:00", "Europe/Berlin");
        assert_eq!(hours.next_open(at("2026-03-29T00:00:00Z")), Some(at("2026-03-29T01:00:00Z")));
        assert!(!hours.contains(at("2026-03-29T00:59:59Z")) && hours.contains(at("2026-03-29T01:59:59Z")));
        assert!(!hours.contains(at("2026-03-29T02:00:00Z")));
    }

    #[test]
    fn a_window_that_was_jumped_over_opens_a_week_later() {
        let hours = window("Sun 02:10-02:50", "Europe/Berlin");
        assert_eq!(hours.next_open(at("2026-03-29T00:00:00Z")), Some(at("2026-04-05T00:10:00Z")));
    }

    #[test]
    fn an_hour_shown_twice_is_inside_twice() {
        // Berlin, Sunday 2026-10-25: 01:00Z the clock goes from 03:00 back to 02:00.
        let hours = window("Sun 02:15-02:30", "Europe/Berlin");
        let first = at("2026-10-25T00:15:00Z");
        let second = at("2026-10-25T01:15:00Z");
        assert!(hours.contains(first) && hours.contains(second));
        assert_eq!(hours.next_open(at("2026-10-25T00:00:00Z")), Some(first));
        assert_eq!(hours.next_open(at("2026-10-25T00:30:00Z")), Some(second));
        // A window that began before the jump: it closes at 02:30 and the jump opens it again.
        let hours = window("Sun 01:00-02:30", "Europe/Berlin");
        assert_eq!(hours.next_open(at("2026-10-25T00:40:00Z")), Some(at("2026-10-25T01:00:00Z")));
    }

    #[test]
    fn an_open_window_opens_now_and_a_closed_one_at_its_next_beginning() {
        let hours = window("Mon-Fri 09:00-17:00", "America/New_York");
        let noon = at("2026-06-05T12:00:00-04:00");
        assert_eq!(hours.next_open(noon), Some(noon));
        assert_eq!(hours.next_open(at("2026-06-05T17:00:00-04:00")), Some(at("2026-06-08T09:00:00-04:00")));
        assert_eq!(window("Mon 09:00-17:00", "UTC").next_open(Timestamp::MAX), None, "time ends on a Friday");
    }

    #[test]
    fn a_stored_window_is_checked_when_it_is_read() {
        let hours = window("Mon-Sat 09:30-18:30", "Asia/Kolkata");
        let json = serde_json::to_string(&hours).unwrap();
        assert_eq!(json, r#"{"text":"Mon-Sat 09:30-18:30","zone":"Asia/Kolkata"}"#);
        assert_eq!(serde_json::from_str::<Window>(&json).unwrap(), hours);
        let error = serde_json::from_str::<Window>(r#"{"text":"Mon 9-5","zone":"UTC"}"#).unwrap_err();
        assert!(error.to_string().contains("\"9\" is no time of day"), "{error}");
        assert!(serde_json::from_str::<Window>(r#"{"text":"Mon 09:00-17:00","zone":"Nowhere"}"#).is_err());
    }

    fn any_text() -> impl Strategy<Value = String> {
        let day = prop::sample::select(vec!["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]);
        let days = prop_oneof![
            day.clone().prop_map(str::to_owned),
            (day.clone(), day).prop_map(|(first, last)| format!("{first}-{last}")),
        ];
        let one = (prop::collection::vec(days, 1..3), 0u16..DAY, 0u16..=DAY).prop_map(|(days, from, to)| {
            let to = if from == to { to + 1 } else { to };
            format!("{} {:02}:{:02}-{:02}:{:02}", days.join(","), from / 60, from % 60, to / 60, to % 60)
        });
        prop::collection::vec(one, 1..4).prop_map(|windows| windows.join("; "))
    }

    fn any_zone() -> impl Strategy<Value = &'static str> {
        // Lord Howe jumps by half an hour, Apia once by a day, Kolkata never.
        prop::sample::select(vec![
            "UTC",
            "Asia/Kolkata",
            "Europe/Berlin",
            "America/New_York",
            "Australia/Lord_Howe",
            "Pacific/Apia",
        ])
    }

    proptest! {
        #[test]
        fn nothing_is_open_before_the_next_opening(
            text in any_text(), zone in any_zone(), second in 1_262_304_000_i64..1_893_456_000,
        ) {
            let window = window(&text, zone);
            let from = Timestamp::from_second(second).unwrap();
            let next = window.next_open(from).unwrap();
            prop_assert!(next >= from && window.contains(next));
            // Beginnings and jumps lie on whole minutes: what is between is covered by looking once a minute.
            let mut look = from;
            while look < next {
                prop_assert!(!window.contains(look), "{look} is inside, before {next}");
                look = Timestamp::from_second((look.as_second() / 60 + 1) * 60).unwrap();
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}", zone in "\\PC{0,12}") {
            let _ = Window::parse(&text, &zone);
            let _ = Window::parse(&text, "UTC");
        }

        #[test]
        fn what_was_parsed_survives_json(text in any_text(), zone in any_zone()) {
            let window = window(&text, zone);
            let json = serde_json::to_string(&window).unwrap();
            prop_assert_eq!(serde_json::from_str::<Window>(&json).unwrap(), window);
        }
    }
}
