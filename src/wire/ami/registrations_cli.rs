//! What `pjsip show registrations` prints: the only place where Asterisk tells when it will try again.
//!
//! Separate from the events because it is text for people, with its own traps. Source:
//! `res/res_pjsip_outbound_registration.c` (`cli_print_body`): the name is printed whole, the server URI is cut to what is
//! left of 53 characters, the auth's name is printed whole or as `n/a`. `(exp. Ns)` is the time to the next attempt,
//! `(exp. Ns ago)` that the attempt is overdue: in flight up to about 32 s, given up beyond that. Versions before 2022
//! print no such column.

use std::time::Duration;

use super::{event::RegistrationStatus, message::Message};
use secrecy::ExposeSecret as _;

/// The command to send.
pub const COMMAND: &str = "pjsip show registrations";

/// What was printed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegistrationsCli {
    /// A row per registration, in the order printed.
    pub rows: Vec<RegistrationRow>,
    /// The count below the table; it should equal the number of rows.
    pub found: Option<usize>,
    /// Lines between head and count that are no rows: a changed format, which must not pass unnoticed.
    pub unread: Vec<String>,
}

impl RegistrationsCli {
    /// Whether every row the command counted was read.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.found == Some(self.rows.len()) && self.unread.is_empty()
    }
}

/// One registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrationRow {
    /// The section's name.
    pub name: String,
    /// The beginning of the server URI: long ones are cut.
    pub server_uri_start: String,
    /// The first auth section; none for `n/a`.
    pub auth: Option<String>,
    /// The state.
    pub status: RegistrationStatus,
    /// The next attempt, where the version prints it.
    pub next_attempt: Option<NextAttempt>,
}

/// When Asterisk tries next.
///
/// Units: whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextAttempt {
    /// `(exp. Ns)`.
    In(Duration),
    /// `(exp. Ns ago)`: under way, or given up.
    Overdue(Duration),
}

/// Reads the response to [`COMMAND`].
#[must_use]
pub fn parse(response: &Message) -> RegistrationsCli {
    // The redacted lines would hide a trunk named "secret-trunk"; the table itself holds no secrets.
    parse_text(response.expose_output().expose_secret())
}

/// Reads the printed text.
#[must_use]
pub fn parse_text(text: &str) -> RegistrationsCli {
    let mut table = RegistrationsCli::default();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    for line in lines {
        if let Some(count) = line.strip_prefix("Objects found:") {
            table.found = count.trim().parse().ok();
        } else if line.starts_with("No objects found") {
            table.found = Some(0);
        } else if let Some(row) = parse_row(line) {
            table.rows.push(row);
        } else if !line.starts_with('<') && !line.starts_with("====") {
            table.unread.push(line.to_owned());
        }
    }
    table
}

fn parse_row(line: &str) -> Option<RegistrationRow> {
    if line.starts_with('<') {
        return None;
    }
    // From the right: names and URIs may contain blanks, the columns there cannot.
    let (rest, next_attempt) = match line.rsplit_once("(exp. ") {
        Some((rest, tail)) => (rest.trim_end(), Some(parse_next_attempt(tail)?)),
        None => (without_bare_number(line), None),
    };
    let (rest, status) = rest.rsplit_once(char::is_whitespace)?;
    let rest = rest.trim_end();
    let slash = rest.find("/sip:").or_else(|| rest.find("/sips:")).or_else(|| rest.find('/'))?;
    let (name, rest) = (&rest[..slash], &rest[slash + 1..]);
    // Two blanks stand between the columns; a URI cut to nothing leaves the auth alone.
    let (uri, auth) = rest.split_once("  ").unwrap_or(("", rest));
    let auth = auth.trim();
    Some(RegistrationRow {
        name: name.to_owned(),
        server_uri_start: uri.trim().to_owned(),
        auth: (auth != "n/a" && !auth.is_empty()).then(|| auth.to_owned()),
        status: status.into(),
        next_attempt,
    })
}

/// `16s)` or `7s ago)`.
fn parse_next_attempt(tail: &str) -> Option<NextAttempt> {
    let tail = tail.strip_suffix(')')?;
    let seconds = |text: &str| text.strip_suffix('s')?.parse().ok().map(Duration::from_secs);
    match tail.strip_suffix(" ago") {
        Some(ago) => seconds(ago).map(NextAttempt::Overdue),
        None => seconds(tail).map(NextAttempt::In),
    }
}

/// A registration without a state object prints a lone `0` after its status.
fn without_bare_number(line: &str) -> &str {
    match line.rsplit_once(char::is_whitespace) {
        Some((rest, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => rest.trim_end(),
        Some(_) | None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::super::codec::tests::recorded;
    use super::*;

    #[test]
    fn the_recorded_table_is_read_to_the_last_row() {
        let all = recorded(include_str!("../../../tests/fixtures/ami-command-show-registrations.txt"));
        let response = all.iter().find(|message| message.get("Output").is_some()).unwrap();
        let table = parse(response);
        assert!(table.is_complete() && table.rows.len() == 10, "{table:?}");
        assert_eq!(
            table.rows[0],
            RegistrationRow {
                name: "trunk-403".to_owned(),
                server_uri_start: "sip:127.0.0.1:5091".to_owned(),
                auth: Some("trunk-403".to_owned()),
                status: RegistrationStatus::Rejected,
                next_attempt: Some(NextAttempt::In(Duration::from_secs(16))),
            }
        );
        let ago = |name: &str| table.rows.iter().find(|row| row.name == name).and_then(|row| row.next_attempt);
        assert_eq!(ago("trunk-refused"), Some(NextAttempt::Overdue(Duration::from_secs(7))));
        assert_eq!(ago("trunk-ok"), Some(NextAttempt::In(Duration::from_secs(49))));
    }

    fn row(line: &str) -> RegistrationRow {
        let table = parse_text(&format!("{line}\n\nObjects found: 1\n"));
        assert!(table.is_complete(), "{table:?}");
        table.rows[0].clone()
    }

    #[test]
    fn names_with_blanks_long_names_and_missing_columns_are_read() {
        let blank = row(
            " my trunk/sip:reg.example                              my auth                     Registered        (exp. 5s ago)",
        );
        assert_eq!((blank.name.as_str(), blank.auth.as_deref()), ("my trunk", Some("my auth")));
        let long = "t".repeat(60);
        let long = row(&format!(
            " {long}/sip:reg.example:5060;transport=tls  n/a                         Rejected          (exp. 300s ago)"
        ));
        assert_eq!((long.name.len(), long.auth), (60, None));
        assert_eq!(long.next_attempt, Some(NextAttempt::Overdue(Duration::from_secs(300))));
        let cut = row(&format!(" {}/  auth                        Registered        (exp. 1s)", "n".repeat(53)));
        assert_eq!((cut.server_uri_start.as_str(), cut.auth.as_deref()), ("", Some("auth")));
        let stateless = row(
            " a/sip:b                                               a                           Unregistered     0",
        );
        assert_eq!((stateless.status, stateless.next_attempt), (RegistrationStatus::Unregistered, None));
        let old = row(" a/sip:b                                               a                           Registered");
        assert_eq!((old.status, old.next_attempt), (RegistrationStatus::Registered, None));
        assert_eq!(row(" a/sip:b   a   Parked   (exp. 1s)").status, RegistrationStatus::Other("Parked".to_owned()));
    }

    #[test]
    fn a_trunk_called_password_is_no_secret_here() {
        let response = Message::from_text(
            "Response: Success\nOutput:  password/sip:b   a   Registered   (exp. 1s)\nOutput: Objects found: 1\n",
        );
        assert_eq!(parse(&response).rows[0].name, "password");
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let table = parse_text("No such command 'pjsip show registrations' (type 'core show help')");
        assert!(!table.is_complete() && table.unread.len() == 1);
        assert!(parse_text("No objects found.\n").is_complete());
        assert!(!parse_text(" a/sip:b  a  Registered  (exp. soon)\nObjects found: 1").is_complete());
    }
}
