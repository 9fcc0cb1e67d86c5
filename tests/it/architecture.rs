//! Who may import whom: the table of the design, held against the source.
//!
//! A room is a top-level module of `src/`. The check reads the text: comments, strings and `#[cfg(test)]` items are blanked, then every path
//! that starts at the crate's root is looked up in the table. That catches what review misses (a `crate::config` deep inside a function) and
//! costs no dependency. It cannot see through a re-export: a room that re-exports another's type would hide the import, so do not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

/// What one room may see of the crate. A longer path admits only that part of the room.
struct Rule {
    room: &'static str,
    sees: &'static [&'static str],
    /// Parts of what `sees` admits that stay closed.
    never: &'static [&'static str],
}

const CHAIN_TO_DECISION: &[&str] = &["ids", "clock", "wire", "observation", "health", "diagnosis", "decision"];

/// The table. `app`, `cli` and the crate's own root files see everything and have no row.
const TABLE: &[Rule] = &[
    Rule { room: "ids", sees: &[], never: &[] },
    Rule { room: "clock", sees: &[], never: &[] },
    Rule { room: "telemetry", sees: &["ids", "clock"], never: &[] },
    Rule { room: "wire", sees: &["ids", "clock"], never: &[] },
    Rule { room: "observation", sees: &["ids", "clock", "wire"], never: &[] },
    Rule { room: "health", sees: &["ids", "clock", "wire", "observation"], never: &[] },
    // It reads captures and logs for the API, which sees no wire (docs/adr/0004).
    Rule {
        room: "diagnosis",
        sees: &["ids", "clock", "wire::sip", "wire::pjsip", "wire::pcap", "wire::logger", "observation"],
        never: &[],
    },
    // A diagnosis rides on the transition that decides.
    Rule { room: "decision", sees: &["ids", "clock", "wire", "observation", "health", "diagnosis"], never: &[] },
    Rule { room: "effect", sees: CHAIN_TO_DECISION, never: &[] },
    Rule { room: "gateway", sees: &["ids", "clock", "wire", "decision"], never: &[] },
    Rule { room: "store", sees: &["ids", "clock", "observation", "health", "diagnosis", "decision"], never: &[] },
    Rule {
        room: "api",
        sees: &["ids", "clock", "health", "diagnosis", "decision", "store"],
        never: &["store::sqlite", "store::postgres"], // the ports only
    },
    Rule { room: "sim", sees: &["ids", "clock", "wire", "health", "decision"], never: &[] },
    // Configuration fills each room's own parameters, so it sees the rooms; nothing but app and cli sees it.
    Rule {
        room: "config",
        sees: &[
            "ids",
            "clock",
            "telemetry",
            "wire",
            "observation",
            "health",
            "diagnosis",
            "decision",
            "effect",
            "gateway",
            "store",
            "api",
        ],
        never: &[],
    },
];
const SEE_ALL: &[&str] = &["app", "cli", "lib", "main"];

/// Rooms that compute only: no runtime, no socket, no clock of their own.
const PURE: &[&str] = &["observation", "health", "diagnosis", "decision"];
/// Words that mean a socket is opened; in `wire` they belong into a file named `client.rs`, or a folder `client`.
const SOCKETS: &[&str] = &[
    "TcpStream",
    "TcpListener",
    "TcpSocket",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "lookup_host",
];

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Violation {
    file: String,
    line: usize,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "src/{}:{}: {}", self.file, self.line, self.what)
    }
}

/// All violations in a source tree, given as path below `src/` and text.
fn check(tree: &BTreeMap<String, String>) -> Vec<Violation> {
    let mut found = Vec::new();
    for (file, text) in tree {
        if is_test_module(file) {
            continue;
        }
        let room = room_of(file);
        let bare = without_tests(&without_comments_and_strings(text));
        check_imports(file, room, &bare, &mut found);
        check_purity(file, room, &bare, &mut found);
    }
    found.sort();
    found
}

fn room_of(file: &str) -> &str {
    file.split('/').next().unwrap_or(file).trim_end_matches(".rs")
}

/// A room's tests in files of their own (`#[cfg(test)] mod tests;`) may reach across rooms like those below the code.
fn is_test_module(file: &str) -> bool {
    file.ends_with("/tests.rs") || file.contains("/tests/")
}

fn check_imports(file: &str, room: &str, bare: &str, found: &mut Vec<Violation>) {
    let mut report = |at: usize, what: String| {
        let line = 1 + bare[..at].matches('\n').count();
        found.push(Violation { file: file.to_owned(), line, what });
    };
    let rule = TABLE.iter().find(|rule| rule.room == room);
    if rule.is_none() && !SEE_ALL.contains(&room) {
        report(0, format!("room `{room}` has no row in the import table"));
        return;
    }
    for (at, path) in root_paths(file, bare) {
        let target = path.split("::").next().unwrap_or_default();
        if target == room {
            continue;
        }
        match rule {
            None if target == "sim" && !["app", "cli"].contains(&room) => {
                report(at, format!("`{room}` may not see `sim`"));
            }
            None => {}
            Some(rule) => {
                let admitted = rule.sees.iter().any(|open| covers(open, &path));
                let closed = rule.never.iter().any(|shut| covers(shut, &path));
                if !admitted || closed {
                    report(at, format!("`{room}` may not see `crate::{path}`"));
                }
            }
        }
    }
}

/// Whether `path` lies in `part`: `wire::sip` covers `wire::sip::Message`, and not `wire::ami`.
fn covers(part: &str, path: &str) -> bool {
    path == part || path.starts_with(&format!("{part}::"))
}

fn check_purity(file: &str, room: &str, bare: &str, found: &mut Vec<Violation>) {
    let mut report = |at: usize, what: String| {
        let line = 1 + bare[..at].matches('\n').count();
        found.push(Violation { file: file.to_owned(), line, what });
    };
    let pure = PURE.contains(&room);
    let codec = room == "wire" && !file.ends_with("/client.rs") && !file.contains("/client/");
    for (at, word) in words(bare) {
        if (pure || codec) && SOCKETS.contains(&word) {
            report(
                at,
                format!("`{word}`: sockets belong into a client.rs, or client/, of `wire`, or into a room that acts"),
            );
        }
        if pure && (word == "tokio" || word == "reqwest" || word == "sqlx") {
            report(at, format!("`{word}`: `{room}` computes only"));
        }
    }
}

/// Identifiers with their places.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut rest = 0;
    std::iter::from_fn(move || {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let start = rest + text[rest..].find(is_word)?;
        let length = text[start..].find(|c| !is_word(c)).unwrap_or(text.len() - start);
        rest = start + length;
        Some((start, &text[start..rest]))
    })
}

/// Every path below the crate's root that the file names, groups unfolded: `crate::{a::b, c}` gives `a::b` and `c`.
fn root_paths(file: &str, bare: &str) -> Vec<(usize, String)> {
    let depth = depth_of(file);
    let mut paths = Vec::new();
    let all: Vec<(usize, &str)> = words(bare).collect();
    for (index, &(at, word)) in all.iter().enumerate() {
        let continues_a_path = bare[..at].trim_end().ends_with("::");
        if continues_a_path {
            continue;
        }
        let end = match word {
            "crate" => Some(at + word.len()),
            // `super` up to the root of the crate; inside an inline module it may reach less far, which only makes the check stricter.
            "super" | "self" => end_of_climb(bare, &all[index..], depth),
            _other => None,
        };
        let Some(end) = end else { continue };
        let Some(tail) = bare[end..].trim_start().strip_prefix("::") else { continue };
        unfold(tail, "", &mut |path| paths.push((at, path)));
    }
    paths
}

/// How many modules a file lies below the root: `a.rs` and `a/mod.rs` 1, `a/b.rs` 2.
fn depth_of(file: &str) -> usize {
    let parts = file.split('/').count();
    if file.ends_with("/mod.rs") { parts - 1 } else { parts }
}

/// Where a chain of `super::super` ends, if it climbs to the root.
fn end_of_climb(bare: &str, chain: &[(usize, &str)], depth: usize) -> Option<usize> {
    let mut climbed = 0;
    let mut end = None;
    for (index, &(at, word)) in chain.iter().enumerate() {
        let joined = index == 0 || bare[..at].trim_end().ends_with("::");
        match word {
            "self" if index == 0 => {}
            "super" if joined => climbed += 1,
            _other => break,
        }
        end = Some(at + word.len());
    }
    if climbed >= depth { end } else { None }
}

/// The paths of a use tree that follows a `::`; stops where the path stops.
fn unfold(text: &str, prefix: &str, out: &mut dyn FnMut(String)) {
    let text = text.trim_start();
    let join = |name: &str| if prefix.is_empty() { name.to_owned() } else { format!("{prefix}::{name}") };
    if let Some(group) = text.strip_prefix('{') {
        for part in group_parts(group) {
            unfold(part, prefix, out);
        }
        return;
    }
    if text.starts_with('*') {
        out(join("*"));
        return;
    }
    let length = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    if length == 0 {
        return;
    }
    let path = join(&text[..length]);
    match text[length..].trim_start().strip_prefix("::") {
        Some(rest) if !rest.trim_start().starts_with('<') => unfold(rest, &path, out),
        Some(_) | None => out(path),
    }
}

/// The comma-separated parts of a group, up to its closing brace.
fn group_parts(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0_usize, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                parts.push(&group[start..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&group[start..at]);
                start = at + 1;
            }
            _other => {}
        }
    }
    parts
}

/// Blanks comments, strings and character literals, keeping every newline: places and line numbers stay true.
fn without_comments_and_strings(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut blank = |from: usize, to: usize| {
        for byte in &mut out[from..to] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    };
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text.as_bytes()[at..];
        let end = if rest.starts_with(b"//") {
            at + rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            at + end_of_block_comment(rest)
        } else if let Some(length) = raw_string(text, at) {
            at + length
        } else if rest[0] == b'"' {
            at + end_of_string(rest)
        } else if let Some(length) = char_literal(rest) {
            at + length
        } else {
            at += 1;
            continue;
        };
        blank(at, end);
        at = end;
    }
    // Only ASCII is written over whole literals and comments, so what is left is UTF-8 still.
    String::from_utf8(out).expect("blanked text is UTF-8")
}

fn end_of_block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn end_of_string(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _other => at += 1,
        }
    }
    rest.len()
}

/// The length of `r"…"`, `r#"…"#`, `br"…"` at this place.
fn raw_string(text: &str, at: usize) -> Option<usize> {
    let follows_a_word = text[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
    let rest = text.get(at..)?;
    let after = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    if follows_a_word {
        return None;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    let length = body.find(&close)?;
    Some(rest.len() - body.len() + length + close.len())
}

/// The length of a character literal; a lifetime is none.
fn char_literal(rest: &[u8]) -> Option<usize> {
    if rest[0] != b'\'' {
        return None;
    }
    if rest.get(1) == Some(&b'\\') {
        return rest.get(3..)?.iter().position(|&b| b == b'\'').map(|length| length + 4);
    }
    let text = std::str::from_utf8(&rest[1..]).ok()?;
    let length = text.chars().next()?.len_utf8();
    (rest.get(1 + length) == Some(&b'\'')).then_some(length + 2)
}

/// Blanks the item behind each `#[cfg(test)]`: tests may reach across rooms.
fn without_tests(bare: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = bare.to_owned();
    let mut from = 0;
    while let Some(found) = out[from..].find(MARK) {
        let start = from + found;
        let end = start + MARK.len() + end_of_item(&out[start + MARK.len()..]);
        let blanked: String = out[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        let length = blanked.len();
        out.replace_range(start..end, &blanked);
        from = start + length;
    }
    out
}

/// Where an item ends: at a `;` outside braces and brackets, or at the brace that closes its first block.
fn end_of_item(text: &str) -> usize {
    let (mut braces, mut brackets) = (0_usize, 0_usize);
    for (at, c) in text.char_indices() {
        match c {
            '{' => braces += 1,
            '}' if braces <= 1 => return at + 1,
            '}' => braces -= 1,
            '[' | '(' => brackets += 1,
            ']' | ')' => brackets = brackets.saturating_sub(1),
            ';' if braces == 0 && brackets == 0 => return at + 1,
            _other => {}
        }
    }
    text.len()
}

fn source_tree() -> BTreeMap<String, String> {
    let src = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut tree = BTreeMap::new();
    read_into(&src, &src, &mut tree);
    tree
}

fn read_into(src: &Path, folder: &Path, tree: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a folder entry").path();
        if path.is_dir() {
            read_into(src, &path, tree);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(src).expect("below src").to_string_lossy().replace('\\', "/");
            tree.insert(name, std::fs::read_to_string(&path).expect("a source file"));
        }
    }
}

#[test]
fn the_rooms_keep_to_the_import_table() {
    let violations = check(&source_tree());
    let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "imports that the design's table does not allow:\n{}", lines.join("\n"));
}

#[test]
fn every_room_of_the_source_has_a_row() {
    let rooms: BTreeSet<String> = source_tree().keys().map(|file| room_of(file).to_owned()).collect();
    let known: BTreeSet<String> =
        TABLE.iter().map(|rule| rule.room).chain(SEE_ALL.iter().copied()).map(str::to_owned).collect();
    let unknown: Vec<&String> = rooms.difference(&known).collect();
    assert!(unknown.is_empty(), "rooms without a row: {unknown:?}");
}

/// Violations of a tree of one file, as line and text.
fn planted(file: &str, text: &str) -> Vec<(usize, String)> {
    let tree = BTreeMap::from([(file.to_owned(), text.to_owned())]);
    check(&tree).into_iter().map(|violation| (violation.line, violation.what)).collect()
}

#[test]
fn a_planted_violation_is_found_where_it_stands() {
    for (file, text, line) in [
        ("health/mod.rs", "use crate::ids::TrunkId;\nuse crate::config::Config;\n", 2),
        ("health/fold.rs", "fn f() {\n    let x = crate::store::open();\n}\n", 2),
        ("health/mod.rs", "use crate::{ids::TrunkId, decision::{Hold}};", 1),
        ("health/mod.rs", "use super::effect::Outbox;", 1),
        ("health/fold.rs", "use super::super::effect::Outbox;", 1),
        ("health/fold.rs", "use crate :: effect\n    ::Outbox;", 1),
        ("wire/ami/mod.rs", "pub use crate::observation::Fact;", 1),
        ("observation/mod.rs", "use crate::*;", 1),
        ("diagnosis/mod.rs", "use crate::wire::ami::Event;", 1),
        ("api/trunks.rs", "use crate::store::sqlite::Pool;", 1),
        ("store/mod.rs", "use crate::sim::Pbx;", 1),
        ("lib.rs", "pub use crate::sim::Pbx;", 1),
        ("wire/ami/codec.rs", "use tokio::net::TcpStream;", 1),
        ("decision/mod.rs", "async fn f() { tokio::task::yield_now().await }", 1),
        ("billing/mod.rs", "", 1),
        ("ids.rs", "#[cfg(test)]\nmod tests { use crate::store::X; }\nuse crate::clock::Y;", 3),
        ("ids.rs", "const A: &str = \"// \\\" \"; use crate::clock::Y;", 1),
        ("ids.rs", "fn f<'a>(x: &'a str) -> char { '\"' }\nuse crate::clock::Y;", 2),
    ] {
        let found = planted(file, text);
        assert_eq!(found.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [line], "{file}: {text}: {found:?}");
    }
}

#[test]
fn what_the_table_allows_is_not_reported() {
    for (file, text) in [
        (
            "health/mod.rs",
            "use crate::{ids::TrunkId, observation::{Fact, Observation}};\nuse crate::health::fold::Step;",
        ),
        ("health/fold.rs", "use super::TrunkHealth; // crate::config is not seen here\n/* crate::effect */"),
        ("health/fold.rs", "const TEXT: &str = \"crate::config\"; const RAW: &str = r#\"crate::\"config\"#;"),
        ("health/mod.rs", "#[cfg(test)]\nmod tests {\n    use crate::store::Memory;\n}\n"),
        ("health/mod.rs", "#[cfg(test)]\nuse crate::store::Memory;\n"),
        ("health/mod.rs", "/// See [`crate::decision`].\npub(crate) struct Health;"),
        ("health/tests.rs", "use crate::store::Memory;"),
        ("diagnosis/mod.rs", "use crate::wire::sip::Message;"),
        ("wire/ami/client.rs", "use tokio::net::TcpStream;\nuse std::net::SocketAddr;"),
        ("api/trunks.rs", "use crate::store::HistoryPort;"),
        ("app.rs", "use crate::{api, config, sim, store::sqlite};"),
        ("cli/demo.rs", "use crate::sim::Pbx;"),
        ("config/mod.rs", "use crate::health::HealthPolicy;"),
    ] {
        assert_eq!(planted(file, text), [], "{file}: {text}");
    }
}
