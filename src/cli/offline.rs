//! `diagnose` of a file: a capture or a log of Asterisk's, with neither controller nor configuration of ours.
//!
//! Separate from what asks a controller because it reads other people's files: what cannot be opened, what is no such file
//! and what is cut are told apart, by words and by exit code.

use std::{
    fs::{File, Metadata},
    io::{self, IsTerminal as _, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::tz::TimeZone;
use secrecy::SecretString;

use super::{BAD_DATA, Failure, NO_INPUT, table::harmless};
use crate::{
    clock::{Clock as _, SystemClock, Timestamp},
    diagnosis::capture::{AnalyseError, Format, Reading, Report, analyse_with},
    wire::{
        pjsip::{Auth, Objects, conf},
        sip::digest::Secret,
    },
};

/// Files smaller than this are read before anybody has seen a bar.
const WORTH_A_BAR: u64 = 32 * 1024 * 1024;
/// The largest file of secrets.
const LARGEST_SECRETS: u64 = 1024 * 1024;
/// The most that is read of one file of a configuration; the reader has a bound of its own for all.
const LARGEST_CONFIGURATION: u64 = 32 * 1024 * 1024;
/// The most remarks on a configuration that are told.
const MOST_PROBLEMS: usize = 10;
/// The most files of one include.
const MOST_INCLUDED: usize = 10_000;
/// Where Asterisk has its configuration.
const ASTERISK: &str = "/etc/asterisk";

/// What is to be read.
#[derive(Debug)]
pub(super) struct Files {
    /// The capture or the log; `-` is standard input.
    pub(super) input: PathBuf,
    /// What it is said to be.
    pub(super) format: Format,
    /// A `pjsip.conf` to hold it against.
    pub(super) pjsip_conf: Option<PathBuf>,
    /// Passwords by user.
    pub(super) secrets: Option<PathBuf>,
    /// The zone of a log's times.
    pub(super) zone: TimeZone,
}

/// What came out, and what is to be said to the person at the terminal besides.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) report: Report,
    pub(super) warnings: Vec<String>,
}

/// Reads and judges.
///
/// # Errors
/// [`NO_INPUT`] where a file cannot be read, [`BAD_DATA`] where it is not what it is said to be.
pub(super) fn judge(files: &Files) -> Result<Judged, Failure> {
    let mut warnings = Vec::new();
    let objects = objects(files, &mut warnings)?;
    let (input, about) = open(&files.input)?;
    let named = shown(&files.input);
    // A log's lines have no year, mostly; they are not of the time after it was written.
    let not_after = about.as_ref().and_then(changed_at).unwrap_or_else(|| SystemClock.now());
    let reading = Reading { zone: files.zone.clone(), not_after: Some(not_after) };
    let bar = bar(about.as_ref().filter(|about| about.is_file()).map(Metadata::len));
    let analysed = analyse_with(&reading, input, objects.as_ref(), &[], &mut |bytes| bar.set_position(bytes));
    bar.finish_and_clear();
    let report = analysed.map_err(|error| unreadable(&named, files.format, error))?;
    if report.format != files.format && report.messages == 0 {
        let what = match report.format {
            Format::Capture => "a capture without SIP",
            Format::Logger => "text without SIP",
        };
        return Err(Failure::new(BAD_DATA, anyhow!("{named} is {what}; {}", accepted(files.format))));
    }
    if report.format != files.format {
        warnings.push(match report.format {
            Format::Capture => format!("{named} is a capture, and was read as one: --pcap says so"),
            Format::Logger => format!("{named} is text, and was read as a log: --log says so"),
        });
    }
    warnings.extend(report.remarks.iter().map(|remark| format!("{named}: {remark}")));
    Ok(Judged { report, warnings })
}

/// The file as it may be shown.
fn shown(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { harmless(&path.to_string_lossy()) }
}

fn open(path: &Path) -> Result<(Box<dyn Read>, Option<Metadata>), Failure> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin().lock()), None));
    }
    let opened = File::open(path).and_then(|file| file.metadata().map(|about| (file, about)));
    let (file, about) = opened.map_err(|error| no_input(&shown(path), error))?;
    if about.is_dir() {
        return Err(Failure::new(NO_INPUT, anyhow!("{} is a directory: name the file in it", shown(path))));
    }
    Ok((Box::new(io::BufReader::with_capacity(1 << 18, file)), Some(about)))
}

fn no_input(named: &str, error: io::Error) -> Failure {
    Failure::new(NO_INPUT, anyhow::Error::new(error).context(format!("{named} cannot be read")))
}

fn changed_at(about: &Metadata) -> Option<Timestamp> {
    Timestamp::try_from(about.modified().ok()?).ok()
}

/// What a file should be.
const fn accepted(format: Format) -> &'static str {
    match format {
        Format::Capture => "--pcap takes what tcpdump, dumpcap and Wireshark write: pcap or pcapng",
        Format::Logger => "--log takes Asterisk's own log files, written while `pjsip set logger on` is in force",
    }
}

/// What is wrong with the file, and what would be right.
fn unreadable(named: &str, format: Format, error: AnalyseError) -> Failure {
    let accepted = accepted(format);
    let code = match &error {
        AnalyseError::Read(_) => NO_INPUT,
        AnalyseError::Empty
        | AnalyseError::Compressed(_)
        | AnalyseError::Capture(_)
        | AnalyseError::Log(_)
        | AnalyseError::Neither(_) => BAD_DATA,
    };
    Failure::new(code, anyhow!("{named}: {:#}; {accepted}", anyhow::Error::new(error)))
}

/// A bar on a terminal, for what takes a while.
fn bar(length: Option<u64>) -> ProgressBar {
    let worth = length.is_none_or(|length| length >= WORTH_A_BAR);
    // A person who types into a pipe is not to be spun at.
    if !worth || !io::stderr().is_terminal() || (length.is_none() && io::stdin().is_terminal()) {
        return ProgressBar::hidden();
    }
    let (bar, template) = match length {
        Some(length) => (ProgressBar::new(length), "{bar:32} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} to go"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes}, {bytes_per_sec}"),
    };
    if let Ok(shape) = ProgressStyle::with_template(template) {
        bar.set_style(shape.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// What is known of the configuration; `None` if nothing is.
fn objects(files: &Files, warnings: &mut Vec<String>) -> Result<Option<Objects>, Failure> {
    let mut objects = match &files.pjsip_conf {
        Some(path) => Some(configuration(path, warnings)?),
        None => None,
    };
    if let Some(path) = &files.secrets {
        let named = shown(path);
        let text = secrets_of(path, warnings)?;
        let given = secrets(&text).with_context(|| named.clone()).map_err(|error| Failure::new(BAD_DATA, error))?;
        add_secrets(objects.get_or_insert_default(), given, &named);
    }
    Ok(objects)
}

fn secrets_of(path: &Path, warnings: &mut Vec<String>) -> Result<String, Failure> {
    let (input, about) = open(path)?;
    if about.as_ref().is_some_and(is_open_to_all) {
        let named = shown(path);
        warnings.push(format!("{named} can be read by everybody on this machine: chmod 600 {named}"));
    }
    let mut text = String::new();
    input.take(LARGEST_SECRETS + 1).read_to_string(&mut text).map_err(|error| no_input(&shown(path), error))?;
    if u64::try_from(text.len()).is_ok_and(|length| length > LARGEST_SECRETS) {
        let error = anyhow!("{} is too large to be a list of passwords", shown(path));
        return Err(Failure::new(BAD_DATA, error));
    }
    Ok(text)
}

#[cfg(unix)]
fn is_open_to_all(about: &Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    about.is_file() && about.permissions().mode() & 0o004 != 0
}

#[cfg(not(unix))]
fn is_open_to_all(_about: &Metadata) -> bool {
    false
}

/// One line of a file of secrets.
struct Given {
    line: usize,
    username: String,
    password: SecretString,
}

/// `username:password` a line. A digest's user name cannot hold a colon (RFC 7616 section 3.4.2), a password may.
fn secrets(text: &str) -> anyhow::Result<Vec<Given>> {
    let mut all = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (line, written) in text.lines().enumerate().map(|(line, written)| (line + 1, written)) {
        if written.trim().is_empty() || written.starts_with('#') {
            continue;
        }
        // What the line says is not repeated: it may be a password.
        match written.split_once(':') {
            Some((username, password)) if !username.trim().is_empty() && !password.is_empty() => {
                all.push(Given { line, username: username.trim().to_owned(), password: password.into() });
            }
            Some(_) | None => bail!("line {line} is not username:password"),
        }
    }
    Ok(all)
}

/// Gives each auth section of that user the password if it has no secret, and keeps the password for registrations that
/// are not configured.
fn add_secrets(objects: &mut Objects, given: Vec<Given>, named: &str) {
    for Given { line, username, password } in given {
        let of_user = |auth: &&mut Auth| auth.username.as_deref() == Some(username.as_str()) && auth.secrets.is_empty();
        for auth in objects.auths.values_mut().filter(of_user) {
            auth.secrets.push(Secret::Password(password.clone()));
        }
        let auth = Auth { username: Some(username), secrets: vec![Secret::Password(password)], ..Auth::default() };
        objects.auths.insert(format!("{named} line {line}"), auth);
    }
}

/// Reads a `pjsip.conf` and what it includes.
fn configuration(path: &Path, warnings: &mut Vec<String>) -> Result<Objects, Failure> {
    let named = shown(path);
    let (input, _) = open(path)?;
    let mut text = Vec::new();
    input.take(LARGEST_CONFIGURATION).read_to_end(&mut text).map_err(|error| no_input(&named, error))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (objects, problems) = conf::read(&named, &text, &mut |written| included(folder, written));
    // The first ones lead to the others, mostly.
    warnings.extend(problems.iter().take(MOST_PROBLEMS).map(ToString::to_string));
    if problems.len() > MOST_PROBLEMS {
        warnings.push(format!("{named}: {} more such remarks", problems.len() - MOST_PROBLEMS));
    }
    if objects.registrations.is_empty() {
        warnings.push(format!("{named} has no section with type=registration"));
    }
    Ok(objects)
}

/// The files that an include names. What is said to be in Asterisk's own folder is looked for beside the file first: it
/// was copied together with it from another machine.
fn included(folder: &Path, written: &str) -> Result<Vec<(String, Vec<u8>)>, String> {
    let own = Path::new(ASTERISK);
    let places = match Path::new(written).strip_prefix(own) {
        Ok(inside) => vec![folder.join(inside), PathBuf::from(written)],
        // Joining an absolute path gives that path.
        Err(_) => vec![folder.join(written)],
    };
    for place in &places {
        let found = matching(place);
        if !found.is_empty() {
            return found.iter().map(|file| contents(file)).collect();
        }
    }
    if written.contains(['*', '?']) {
        return Ok(Vec::new());
    }
    let looked: Vec<String> = places.iter().map(|place| shown(place)).collect();
    Err(format!("no such file: {}", looked.join(", nor ")))
}

fn contents(file: &Path) -> Result<(String, Vec<u8>), String> {
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|opened| opened.take(LARGEST_CONFIGURATION).read_to_end(&mut bytes));
    read.map(|_| (shown(file), bytes)).map_err(|error| format!("{} cannot be read: {error}", shown(file)))
}

/// The files that a path with `*` and `?` in it names, sorted, as the shell and Asterisk have them.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let wanted = part.as_os_str().to_string_lossy();
        if !wanted.contains(['*', '?']) {
            for path in &mut found {
                path.push(part);
            }
            continue;
        }
        let wanted: Vec<char> = wanted.chars().collect();
        let mut next = Vec::new();
        for folder in found {
            let listed = std::fs::read_dir(if folder.as_os_str().is_empty() { Path::new(".") } else { &folder });
            for entry in listed.into_iter().flatten().flatten() {
                let name: Vec<char> = entry.file_name().to_string_lossy().chars().collect();
                if (name.first() != Some(&'.') || wanted.first() == Some(&'.')) && fits(&wanted, &name) {
                    next.push(folder.join(entry.file_name()));
                }
            }
        }
        next.sort();
        next.truncate(MOST_INCLUDED);
        found = next;
    }
    found.retain(|path| path.is_file());
    found
}

/// Whether a name fits a pattern of `*` and `?`, in time that grows with the product of their lengths at most.
fn fits(pattern: &[char], name: &[char]) -> bool {
    let (mut at, mut seen, mut star) = (0, 0, None);
    while seen < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, seen));
                at += 1;
            }
            Some(&c) if c == '?' || name.get(seen) == Some(&c) => {
                at += 1;
                seen += 1;
            }
            Some(_) | None => match star {
                Some((before, taken)) => {
                    star = Some((before, taken + 1));
                    at = before + 1;
                    seen = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern.get(at..).unwrap_or_default().iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn a_secret_is_what_follows_the_first_colon() {
        let text = "\u{feff}# accounts\n\nacct1:pass word: with # all;of it \r\n  acct2 :x\n";
        let given = secrets(text).unwrap();
        let told: Vec<(usize, &str, &str)> =
            given.iter().map(|one| (one.line, one.username.as_str(), one.password.expose_secret())).collect();
        assert_eq!(told, [(3, "acct1", "pass word: with # all;of it "), (4, "acct2", "x")]);
    }

    #[test]
    fn a_line_that_is_no_secret_is_named_and_not_repeated() {
        for text in ["acct1:x\nhunter2", "acct1:x\n:hunter2", "acct1:x\nhunter2:"] {
            let Err(error) = secrets(text) else { panic!("{text}") };
            assert_eq!(error.to_string(), "line 2 is not username:password");
        }
    }

    #[test]
    fn a_given_secret_is_the_users_and_does_not_replace_a_configured_one() {
        let mut objects = Objects::default();
        for (name, secrets) in [("with", vec![Secret::Password("old".into())]), ("without", Vec::new())] {
            let auth = Auth { username: Some("acct1".to_owned()), secrets, ..Auth::default() };
            objects.auths.insert(name.to_owned(), auth);
        }
        add_secrets(&mut objects, secrets("acct1:new\n").unwrap(), "s.txt");
        let password = |name: &str| objects.auths[name].password().unwrap().expose_secret().to_owned();
        assert_eq!([password("with"), password("without"), password("s.txt line 1")], ["old", "new", "new"]);
    }

    #[test]
    fn patterns_fit_as_in_a_shell() {
        let fits =
            |pattern: &str, name: &str| fits(&pattern.chars().collect::<Vec<_>>(), &name.chars().collect::<Vec<_>>());
        assert!(fits("*.conf", "a.conf") && fits("a*b*c", "axxbyyc") && fits("?", "x") && fits("*", ""));
        assert!(!fits("*.conf", "a.config") && !fits("a*b*c", "axxbyy") && !fits("?", "") && !fits("a", "ab"));
        let long = "a".repeat(2000);
        assert!(!fits(&format!("{}b", "a*".repeat(500)), &long));
    }

    #[test]
    fn includes_are_looked_for_beside_the_file() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path();
        std::fs::create_dir(folder.join("trunks.d")).unwrap();
        for (name, text) in [("b.conf", "b"), ("a.conf", "a"), (".hidden.conf", "h"), ("a.bak", "n")] {
            std::fs::write(folder.join("trunks.d").join(name), text).unwrap();
        }
        let texts = |written: &str| {
            let found = included(folder, written)?;
            Ok::<_, String>(found.into_iter().map(|(_, text)| String::from_utf8(text).unwrap()).collect::<String>())
        };
        assert_eq!(texts("trunks.d/*.conf").unwrap(), "ab");
        assert_eq!(texts("/etc/asterisk/trunks.d/b.conf").unwrap(), "b");
        assert_eq!(texts("none.d/*.conf").unwrap(), "");
        let error = texts("/etc/asterisk/none.conf").unwrap_err();
        assert!(error.starts_with("no such file: ") && error.ends_with("nor /etc/asterisk/none.conf"), "{error}");
        assert!(texts("trunks.d").is_err());
    }
}
