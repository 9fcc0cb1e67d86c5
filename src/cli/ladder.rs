//! An exchange as a ladder: Asterisk on the left, the provider on the right, an arrow for each message between them.
//!
//! It draws the evidence of a diagnosis, whose lines were made elsewhere and hold no secret. Other people's words are in
//! them, so they are made harmless first. No line is wider than the page: what is long goes on below its arrow.

use std::{env, io::IsTerminal as _, net::SocketAddr};

use console::measure_text_width;

use super::table::{Style, harmless};
use crate::{
    clock::between,
    diagnosis::Evidence,
    wire::sip::{Direction, Source},
};

/// The widest a page gets: wider lines are harder to follow, and do not fit into a mail or a ticket.
pub(super) const WIDEST: usize = 100;
/// The narrowest that is kept to; on less, the terminal folds.
const NARROWEST: usize = 60;
/// What stands before the lane: indent, time, space.
const BEFORE: usize = 15;
/// What an arrow needs beside its label: `── LABEL ─▶`.
const ARROW: usize = 6;
/// Sent again so often, a request was not answered in 3.5 s (RFC 3261 section 17.1.2.2: after 0.5, 1 and 2 s).
const SILENT: u32 = 3;
/// The lines that one message may take.
const MOST_LINES: usize = 5;

/// How wide to write, and with which signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    /// The columns to use.
    pub(super) width: usize,
    /// Whether signs beyond ASCII may be drawn.
    pub(super) signs: bool,
}

impl Page {
    /// That of standard output: as wide as the terminal, within reason, and plain where there is none.
    pub(super) fn of_stdout() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let columns = if terminal { console::Term::stdout().size_checked().map(|(_, columns)| columns) } else { None };
        let width = columns.map_or(WIDEST, usize::from).clamp(NARROWEST, WIDEST);
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(env::var_os).find(|set| !set.is_empty());
        Self { width, signs: terminal && locale.is_some_and(|set| speaks_utf8(&set.to_string_lossy())) }
    }

    /// Text with the signs that this page can show in place of ours.
    pub(super) fn spell(self, text: &str) -> String {
        let text = harmless(text);
        if self.signs || text.is_ascii() {
            return text;
        }
        let mut plain = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                '×' => plain.push('x'),
                '…' => plain.push_str("..."),
                '→' => plain.push_str("->"),
                '←' => plain.push_str("<-"),
                '·' | '•' => plain.push('-'),
                '–' | '—' => plain.push('-'),
                '‘' | '’' => plain.push('\''),
                '“' | '”' => plain.push('"'),
                '≥' => plain.push_str(">="),
                '≤' => plain.push_str("<="),
                '§' => plain.push_str("section "),
                // Not ours, and nobody knows better than its sender what it should look like.
                other => plain.push(other),
            }
        }
        plain
    }
}

fn speaks_utf8(locale: &str) -> bool {
    let lower = locale.to_ascii_lowercase();
    lower.contains("utf-8") || lower.contains("utf8")
}

/// The signs of a ladder.
struct Signs {
    rail: char,
    line: char,
    right: char,
    left: char,
    more: &'static str,
    times: char,
}

const DRAWN: Signs = Signs { rail: '│', line: '─', right: '▶', left: '◀', more: "…", times: '×' };
const PLAIN: Signs = Signs { rail: '|', line: '-', right: '>', left: '<', more: "...", times: 'x' };

/// Draws `evidence`, which is in order of time; what is configuration is left out. `registrar` is what to call the far
/// side where no address of it was seen. Empty if nothing travelled and nothing was waited for.
pub(super) fn ladder(style: &Style, page: Page, evidence: &[Evidence], registrar: Option<&str>) -> String {
    let steps: Vec<&Evidence> = evidence.iter().filter(|seen| seen.source != Source::Configuration).collect();
    if steps.is_empty() {
        return String::new();
    }
    let mut drawing = Drawing {
        style,
        page,
        signs: if page.signs { &DRAWN } else { &PLAIN },
        lane: page.width.saturating_sub(BEFORE + 2),
        text: String::new(),
    };
    let near = steps.iter().find_map(|seen| match seen.direction {
        Some(Direction::Out) => seen.from,
        Some(Direction::In) => seen.to,
        None => None,
    });
    let mut far = steps.iter().find_map(|seen| far_of(seen, near));
    let mut day = steps.first().map(|seen| style.day(seen.at)).unwrap_or_default();
    let left = near.map_or_else(|| "Asterisk".to_owned(), |near| format!("Asterisk {near}"));
    let right = far.map_or_else(|| page.spell(registrar.unwrap_or("registrar")), |far| far.to_string());
    drawing.heads(&day, &left, &right);
    for &seen in &steps {
        let today = style.day(seen.at);
        if today != day {
            drawing.row(&today, "", "2");
            day = today;
        }
        let now_far = far_of(seen, near);
        if now_far.is_some() && now_far != far {
            far = now_far;
            drawing.beside_right(&far.map(|far| far.to_string()).unwrap_or_default());
        }
        drawing.step(seen);
    }
    // Sent again and again, and nothing after it: that is what is to be seen, so it gets its line.
    if steps.last().is_some_and(|last| last.direction == Some(Direction::Out) && last.repeats >= SILENT) {
        drawing.row("", "   nothing came back", "31");
    }
    drawing.text
}

/// The address that is not ours.
fn far_of(seen: &Evidence, near: Option<SocketAddr>) -> Option<SocketAddr> {
    let (first, second) = match seen.direction? {
        Direction::Out => (seen.to, seen.from),
        Direction::In => (seen.from, seen.to),
    };
    // A notice by ICMP may bear the addresses of what it is about.
    if first.is_some() && first == near { second } else { first }
}

struct Drawing<'a> {
    style: &'a Style,
    page: Page,
    signs: &'a Signs,
    /// Columns between the rails.
    lane: usize,
    text: String,
}

impl Drawing<'_> {
    /// The names of the two sides, each above its rail.
    fn heads(&mut self, day: &str, left: &str, right: &str) {
        let room = self.lane + 2;
        let (left, right) = (clip(left, room, self.signs.more), clip(right, room, self.signs.more));
        let (wide, narrow) = (measure_text_width(&left), measure_text_width(&right));
        let day = self.style.paint("2", &format!("  {day:<12} "));
        if wide + narrow + 3 <= room {
            let gap = " ".repeat(room - wide - narrow);
            self.line(&format!("{day}{}{gap}{}", self.style.paint("1", &left), self.style.paint("1", &right)));
        } else {
            self.line(&format!("{day}{}", self.style.paint("1", &left)));
            let indent = " ".repeat(BEFORE + room - narrow);
            self.line(&format!("{indent}{}", self.style.paint("1", &right)));
        }
    }

    /// Another address on the far side, from here on.
    fn beside_right(&mut self, name: &str) {
        let name = clip(name, self.lane, self.signs.more);
        let indent = " ".repeat(self.lane.saturating_sub(measure_text_width(&name)));
        self.row("", &format!("{indent}{name}"), "1");
    }

    fn step(&mut self, seen: &Evidence) {
        let mut label = self.page.spell(&seen.line);
        if seen.repeats > 0 {
            label.push_str(&format!(" ({}{}{})", self.signs.times, seen.repeats, over(seen)));
        }
        let time = self.style.time_of_day(seen.at);
        let sgr = colour_of(seen);
        let mut lines = wrap(&label, self.lane - ARROW, self.lane - 4);
        if lines.len() > MOST_LINES {
            lines.truncate(MOST_LINES);
            if let Some(last) = lines.last_mut() {
                *last = format!("{}{}", clip(last, self.lane - 8, ""), self.signs.more);
            }
        }
        let mut lines = lines.into_iter();
        let first = lines.next().unwrap_or_default();
        let fill = self.lane.saturating_sub(measure_text_width(&first) + 5);
        let stretch = |count: usize| String::from(self.signs.line).repeat(count);
        let arrow = match seen.direction {
            Some(Direction::Out) => format!("{} {first} {}{}", stretch(2), stretch(fill), self.signs.right),
            Some(Direction::In) => format!("{}{} {first} {}", self.signs.left, stretch(1), stretch(fill + 1)),
            None => format!("   {first}"),
        };
        self.row(&time, &arrow, sgr);
        for more in lines {
            self.row("", &format!("   {more}"), sgr);
        }
    }

    /// One line: what stands before, and the lane between its rails.
    fn row(&mut self, before: &str, lane: &str, sgr: &str) {
        let rail = self.style.paint("2", &self.signs.rail.to_string());
        let pad = " ".repeat(self.lane.saturating_sub(measure_text_width(lane)));
        let before = self.style.paint("2", &format!("  {before:<12} "));
        self.line(&format!("{before}{rail}{}{pad}{rail}", self.style.paint(sgr, lane)));
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }
}

/// ` over 31.5 s`, where it is known.
fn over(seen: &Evidence) -> String {
    let lasted = seen.until.map(|until| between(seen.at, until).as_secs_f64()).filter(|seconds| *seconds >= 0.05);
    lasted.map(|seconds| format!(" over {seconds:.1} s")).unwrap_or_default()
}

/// Good news green, what is to be expected plain, what is not red.
fn colour_of(seen: &Evidence) -> &'static str {
    let status = seen.line.get(..3).filter(|_| !seen.line.get(3..4).is_some_and(|next| next != " " && next != ","));
    match (seen.direction, status.and_then(|digits| digits.parse::<u16>().ok())) {
        (None, _) => "31",
        (Some(_), Some(100..=199)) => "",
        (Some(_), Some(200..=299)) => "32",
        // A challenge, a detour, or a hint to do better: part of many an exchange that ends well.
        (Some(_), Some(300..=399 | 401 | 407 | 423)) => "33",
        (Some(_), Some(_)) => "31",
        (Some(Direction::Out), None) => "",
        (Some(Direction::In), None) => {
            if ["ICMP", "TCP", "TLS", "DNS"].iter().any(|kind| seen.line.starts_with(kind)) {
                "31"
            } else {
                ""
            }
        }
    }
}

/// Lines of `text`, the first at most `first` columns wide, the others `others`. Breaks at blanks, and inside a word only
/// where it does not fit alone.
pub(super) fn wrap(text: &str, first: usize, others: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    let mut used = 0;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let mut word = word;
        loop {
            let room = if lines.len() == 1 { first } else { others }.max(1);
            let gap = usize::from(used > 0);
            let wide = measure_text_width(word);
            let Some(line) = lines.last_mut() else { break };
            if used + gap + wide <= room {
                if gap == 1 {
                    line.push(' ');
                }
                line.push_str(word);
                used += gap + wide;
                break;
            }
            // A word that is longer than any line begins where there is still some room.
            let breakable = wide > others && room.saturating_sub(used + gap) >= 12;
            if used == 0 || breakable {
                let (head, rest) = split_at_width(word, room - used - gap);
                if gap == 1 {
                    line.push(' ');
                }
                line.push_str(head);
                word = rest;
            }
            lines.push(String::new());
            used = 0;
            if word.is_empty() {
                break;
            }
        }
    }
    lines.retain(|line| !line.is_empty());
    lines
}

/// The longest beginning that is at most `width` columns wide, of one character at least, and the rest.
fn split_at_width(text: &str, width: usize) -> (&str, &str) {
    let mut used = 0;
    let mut buffer = [0; 4];
    for (at, c) in text.char_indices() {
        used += measure_text_width(c.encode_utf8(&mut buffer));
        if used > width && at > 0 {
            return text.split_at(at);
        }
    }
    (text, "")
}

/// The text, cut to `width` columns with `more` at its end if it is wider.
fn clip(text: &str, width: usize, more: &str) -> String {
    if measure_text_width(text) <= width {
        return text.to_owned();
    }
    let (head, _) = split_at_width(text, width.saturating_sub(measure_text_width(more)));
    format!("{head}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: Page = Page { width: 80, signs: false };
    const DRAWN: Page = Page { width: 80, signs: true };

    fn style(colour: bool) -> Style {
        Style::new(true, colour, "2026-11-22T19:00:00Z".parse().unwrap())
    }

    fn seen(at: &str, direction: Option<Direction>, line: &str) -> Evidence {
        let (near, far): (SocketAddr, SocketAddr) =
            ("10.0.0.5:5060".parse().unwrap(), "203.0.113.7:5060".parse().unwrap());
        let (from, to) = match direction {
            Some(Direction::Out) => (Some(near), Some(far)),
            Some(Direction::In) => (Some(far), Some(near)),
            None => (None, None),
        };
        Evidence {
            at: format!("2026-11-22T{at}Z").parse().unwrap(),
            direction,
            source: Source::Hep,
            line: line.to_owned(),
            from,
            to,
            repeats: 0,
            until: None,
            message: None,
        }
    }

    fn out(at: &str, line: &str) -> Evidence {
        seen(at, Some(Direction::Out), line)
    }

    fn back(at: &str, line: &str) -> Evidence {
        seen(at, Some(Direction::In), line)
    }

    fn refused() -> Vec<Evidence> {
        let configuration = Evidence { source: Source::Configuration, ..seen("18:32:21", None, "[airtel-auth]") };
        vec![
            out("18:32:20.991", "REGISTER sip:203.0.113.7"),
            back("18:32:20.996", "401 Unauthorized, Digest realm=\"asterisk\", algorithm=MD5"),
            out("18:32:20.997", "REGISTER sip:203.0.113.7, Digest username=\"acct1\", realm=\"asterisk\""),
            back("18:32:21.002", "401 Unauthorized, Digest realm=\"asterisk\", algorithm=MD5"),
            configuration,
        ]
    }

    fn columns(drawing: &str) -> usize {
        drawing.lines().map(measure_text_width).max().unwrap_or_default()
    }

    #[test]
    fn an_exchange_is_arrows_between_two_rails() {
        assert_eq!(
            ladder(&style(false), DRAWN, &refused(), None),
            "  2026-11-22   Asterisk 10.0.0.5:5060                           203.0.113.7:5060
  18:32:20.991 │── REGISTER sip:203.0.113.7 ──────────────────────────────────▶│
  18:32:20.996 │◀─ 401 Unauthorized, Digest realm=\"asterisk\", algorithm=MD5 ───│
  18:32:20.997 │── REGISTER sip:203.0.113.7, Digest username=\"acct1\", ────────▶│
               │   realm=\"asterisk\"                                            │
  18:32:21.002 │◀─ 401 Unauthorized, Digest realm=\"asterisk\", algorithm=MD5 ───│
"
        );
        assert_eq!(
            ladder(&style(false), ALONE, &refused(), None),
            "  2026-11-22   Asterisk 10.0.0.5:5060                           203.0.113.7:5060
  18:32:20.991 |-- REGISTER sip:203.0.113.7 ---------------------------------->|
  18:32:20.996 |<- 401 Unauthorized, Digest realm=\"asterisk\", algorithm=MD5 ---|
  18:32:20.997 |-- REGISTER sip:203.0.113.7, Digest username=\"acct1\", -------->|
               |   realm=\"asterisk\"                                            |
  18:32:21.002 |<- 401 Unauthorized, Digest realm=\"asterisk\", algorithm=MD5 ---|
"
        );
    }

    #[test]
    fn silence_and_an_icmp_notice_have_their_lines() {
        let until = Some("2026-11-23T00:00:29.5Z".parse().unwrap());
        let again = Evidence { repeats: 10, until, ..out("23:59:58", "REGISTER sip:203.0.113.7") };
        let mut icmp = back("23:59:58.001", "ICMP port unreachable");
        // Its addresses may be those of the packet that it quotes.
        (icmp.from, icmp.to) = (icmp.to, icmp.from);
        let mut nothing = seen("23:59:59", None, "nothing came back in 32 s");
        nothing.at = "2026-11-23T00:00:30.5Z".parse().unwrap();
        assert_eq!(
            ladder(&style(false), ALONE, &[again, icmp, nothing], None),
            "  2026-11-22   Asterisk 10.0.0.5:5060                           203.0.113.7:5060
  23:59:58.000 |-- REGISTER sip:203.0.113.7 (x10 over 31.5 s) ---------------->|
  23:59:58.001 |<- ICMP port unreachable --------------------------------------|
  2026-11-23   |                                                               |
  00:00:30.500 |   nothing came back in 32 s                                   |
"
        );
    }

    #[test]
    fn silence_is_drawn_too() {
        let again = Evidence { repeats: 10, ..out("23:59:58", "REGISTER sip:203.0.113.7") };
        let drawing = ladder(&style(false), ALONE, std::slice::from_ref(&again), None);
        assert!(
            drawing.ends_with("|\n               |   nothing came back                                           |\n"),
            "{drawing}"
        );
        let drawing = ladder(&style(false), ALONE, &[again, back("23:59:59", "200 OK")], None);
        assert!(!drawing.contains("nothing came back"), "{drawing}");
    }

    #[test]
    fn another_address_on_the_far_side_is_named_where_it_begins() {
        let mut second = out("18:32:52.5", "REGISTER sip:sip.provider.example");
        second.to = Some("203.0.113.8:5061".parse().unwrap());
        assert_eq!(
            ladder(&style(false), ALONE, &[out("18:32:20.5", "REGISTER sip:sip.provider.example"), second], None),
            "  2026-11-22   Asterisk 10.0.0.5:5060                           203.0.113.7:5060
  18:32:20.500 |-- REGISTER sip:sip.provider.example ------------------------->|
               |                                               203.0.113.8:5061|
  18:32:52.500 |-- REGISTER sip:sip.provider.example ------------------------->|
"
        );
    }

    #[test]
    fn without_addresses_the_sides_have_names() {
        let mut only = out("18:32:20.5", "REGISTER sip:sip.provider.example");
        (only.from, only.to) = (None, None);
        let drawing = ladder(&style(false), ALONE, &[only], Some("sip:sip.provider.example"));
        assert_eq!(
            drawing.lines().next().unwrap(),
            "  2026-11-22   Asterisk                                 sip:sip.provider.example"
        );
    }

    #[test]
    fn nothing_is_wider_than_the_page() {
        let long = "a".repeat(90);
        let wide = "登録".repeat(60);
        let many = "nine words of it are said again and again ".repeat(20);
        let mut six = out("18:32:20.5", &format!("REGISTER sip:{long}@[2001:db8:85a3:1111:2222:8a2e:370:7334]:5060"));
        six.from = Some("[2001:db8:85a3:1111:2222:8a2e:1111:1111]:5060".parse().unwrap());
        six.to = Some("[2001:db8:85a3:1111:2222:8a2e:370:7334]:65060".parse().unwrap());
        let mut other = six.clone();
        other.to = Some("[2001:db8:85a3:1111:2222:8a2e:370:1111]:65060".parse().unwrap());
        let evidence = [six, other, back("18:32:21", &format!("486 {wide}")), back("18:32:22", &format!("403 {many}"))];
        for width in [60, 80, 100] {
            for signs in [true, false] {
                let drawing = ladder(&style(false), Page { width, signs }, &evidence, Some(&long));
                assert_eq!(columns(&drawing), width, "{drawing}");
                assert!(drawing.contains(if signs { "…" } else { "..." }), "{drawing}");
            }
        }
    }

    #[test]
    fn without_signs_everything_of_ours_is_ascii() {
        let notes = [out("18:32:20.5", "REGISTER … → “x” × 3 – ≥ 2"), seen("18:32:21", None, "‘quiet’ · still")];
        let drawing = ladder(&style(false), ALONE, &notes, None);
        assert!(drawing.is_ascii(), "{drawing}");
        assert!(drawing.contains("REGISTER ... -> \"x\" x 3 - >= 2 -"), "{drawing}");
    }

    #[test]
    fn words_of_others_cannot_steer_the_terminal() {
        let drawing = ladder(&style(false), DRAWN, &[back("18:32:20.5", "403 \u{1b}[2Jno\r\nmore")], None);
        assert!(!drawing.contains(['\u{1b}', '\r']), "{drawing}");
    }

    #[test]
    fn colours_do_not_move_anything() {
        let plain = ladder(&style(false), DRAWN, &refused(), None);
        let coloured = ladder(&style(true), DRAWN, &refused(), None);
        assert!(coloured.contains("\u{1b}[33m◀─ 401"), "{coloured}");
        let mut bare = String::new();
        for (at, part) in coloured.split('\u{1b}').enumerate() {
            bare.push_str(if at == 0 { part } else { part.split_once('m').unwrap().1 });
        }
        assert_eq!(bare, plain);
    }

    #[test]
    fn only_configuration_is_no_exchange() {
        let configuration = Evidence { source: Source::Configuration, ..seen("18:32:21", None, "[airtel-auth]") };
        assert_eq!(ladder(&style(false), DRAWN, &[configuration], None), "");
    }

    #[test]
    fn a_locale_says_whether_it_speaks_utf_8() {
        assert!(speaks_utf8("en_IN.UTF-8") && speaks_utf8("C.utf8"));
        assert!(!speaks_utf8("C") && !speaks_utf8("de_DE.ISO-8859-1"));
    }

    #[test]
    fn words_are_broken_only_where_they_fit_nowhere() {
        assert_eq!(wrap("one two three", 7, 7), ["one two", "three"]);
        assert_eq!(wrap("one abcdefghijklmnopqrstuvwxyz two", 20, 20), ["one abcdefghijklmnop", "qrstuvwxyz two"]);
        assert_eq!(wrap("", 7, 7), [] as [&str; 0]);
    }
}
