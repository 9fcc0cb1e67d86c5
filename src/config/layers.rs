//! The three layers: the defaults, the operator's file, the environment. Each value keeps where it came from.
//!
//! The `config` crate lays the layers over each other; what it is fed carries its place as the value's origin, so that
//! whatever is wrong later can be said with its line or its variable.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::Read,
    path::Path,
    sync::Arc,
};

use config::{Map, Source, Value, ValueKind};
use toml::de::{DeTable, DeValue};

use super::{
    check,
    problem::{ConfigError, Fault, Place, Problem},
    schema::{self, Identity, Key, Shape},
};

/// The defaults and the documentation of every key.
pub(super) const DEFAULTS: &str = include_str!("config.default.toml");

/// Larger than any configuration, small enough to be read at once, in bytes.
const LONGEST_FILE: u64 = 4 * 1024 * 1024;

/// What a variable must begin with to be ours.
const PREFIX: &str = "TRUNKWARDEN__";

/// All layers, laid over each other.
pub(super) struct Merged {
    pub(super) root: Map<String, Value>,
    /// Where the file's tables begin, which merging forgets.
    pub(super) tables: HashMap<String, Place>,
    pub(super) problems: Vec<Problem>,
}

/// Lays the environment over the file over the defaults.
///
/// # Errors
/// [`ConfigError`] where nothing can be said about single keys: the file cannot be read.
pub(super) fn merge(file: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Merged, ConfigError> {
    let defaults = Layer::read(DEFAULTS, &|_| Place::Nowhere);
    let mut problems = Vec::new();
    let mut tables = HashMap::new();
    let mut operator = Map::new();
    if let Some(path) = file {
        let text = read_file(path)?;
        let lines = Lines::new(&text);
        let shared: Arc<Path> = Arc::from(path);
        let layer =
            Layer::read(&text, &|offset| Place::File { path: Arc::clone(&shared), line: lines.line_at(offset) });
        // Half a file is no configuration: what is missing from it would be reported as missing.
        if !layer.syntax.is_empty() {
            return Err(ConfigError::Wrong(
                layer.syntax.into_iter().map(|wrong| lines.problem(&shared, &wrong)).collect(),
            ));
        }
        tables = layer.tables;
        operator = layer.root;
    }
    // The crate reads dots and brackets in top-level keys as paths; a known name has neither.
    operator.retain(|name, value| {
        let known = schema::ROOT.iter().any(|key| key.name == name);
        if !known {
            problems.push(Problem {
                key: name.clone(),
                place: place_of(value),
                fault: unknown_key(name, schema::ROOT),
            });
        }
        known
    });
    let builder = config::Config::builder().add_source(Flat(defaults.root)).add_source(Flat(operator));
    let mut merged = builder.build_cloned().map_err(ConfigError::Layers)?;
    let variables: BTreeMap<String, String> = env.filter(|(name, _)| name.starts_with(PREFIX)).collect();
    if !variables.is_empty() {
        let root = table_of(&merged.cache);
        let mut overrides = Map::new();
        for (name, text) in variables {
            let place = Place::Variable(name.clone());
            match resolve(&name, &root) {
                Ok(path) => {
                    overrides.insert(path, Value::new(Some(&encode(&place)), ValueKind::String(text)));
                }
                Err((key, fault)) => problems.push(Problem { key, place, fault }),
            }
        }
        merged = builder.add_source(Flat(overrides)).build().map_err(ConfigError::Layers)?;
    }
    Ok(Merged { root: table_of(&merged.cache), tables, problems })
}

fn read_file(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST_FILE + 1).read_to_string(&mut text));
    let length = read.map_err(unreadable)?;
    if u64::try_from(length).is_ok_and(|length| length > LONGEST_FILE) {
        return Err(ConfigError::TooLong { path: path.to_owned(), limit: LONGEST_FILE });
    }
    Ok(text)
}

fn table_of(value: &Value) -> Map<String, Value> {
    match &value.kind {
        ValueKind::Table(table) => table.clone(),
        ValueKind::Nil
        | ValueKind::Boolean(_)
        | ValueKind::I64(_)
        | ValueKind::I128(_)
        | ValueKind::U64(_)
        | ValueKind::U128(_)
        | ValueKind::Float(_)
        | ValueKind::String(_)
        | ValueKind::Array(_) => Map::new(),
    }
}

/// The examples of `config.default.toml` taken in: whatever a list's entry does not say is as it is there.
pub(super) fn examples() -> Map<String, Value> {
    Layer::read(&uncommented(), &|_| Place::Nowhere).root
}

/// `config.default.toml` with its examples taken in.
pub(super) fn uncommented() -> String {
    let taken_in = DEFAULTS.lines().map(|line| match line.strip_prefix('#') {
        Some(example) if !example.is_empty() && !example.starts_with(' ') => example,
        Some(_) | None => line,
    });
    taken_in.collect::<Vec<_>>().join("\n")
}

/// What is said of a key that is not among `keys`.
pub(super) fn unknown_key(given: &str, keys: &'static [Key]) -> Fault {
    let known: Vec<String> = schema::names(keys).collect();
    let nearest = check::nearest(given, known.iter().map(String::as_str)).map(ToOwned::to_owned).or_else(|| {
        // Right, but in the wrong table: said only where there is one right table.
        match schema::paths_to(given).as_slice() {
            [path] => Some(path.clone()),
            [] | [_, ..] => None,
        }
    });
    Fault::UnknownKey { nearest, known }
}

/// A layer as the `config` crate wants it.
#[derive(Debug, Clone)]
struct Flat(Map<String, Value>);

impl Source for Flat {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

/// A TOML document with the places of its values.
struct Layer {
    root: Map<String, Value>,
    tables: HashMap<String, Place>,
    syntax: Vec<toml::de::Error>,
}

impl Layer {
    fn read(text: &str, place: &dyn Fn(usize) -> Place) -> Self {
        let (root, syntax) = DeTable::parse_recoverable(text);
        let mut tables = HashMap::new();
        let root = table(root.get_ref(), "", place, &mut tables);
        Self { root, tables, syntax }
    }
}

fn table(
    from: &DeTable<'_>,
    path: &str,
    place: &dyn Fn(usize) -> Place,
    tables: &mut HashMap<String, Place>,
) -> Map<String, Value> {
    let mut into = Map::new();
    for (name, given) in from {
        let at = place(name.span().start);
        let path = if path.is_empty() { name.get_ref().to_string() } else { format!("{path}.{}", name.get_ref()) };
        // In a list the merging keeps it, and the path would not say which entry's it is.
        if given.get_ref().is_table() && !path.contains('[') {
            tables.insert(path.clone(), at.clone());
        }
        into.insert(name.get_ref().to_string(), value(given.get_ref(), &path, &at, place, tables));
    }
    into
}

fn value(
    from: &DeValue<'_>,
    path: &str,
    at: &Place,
    place: &dyn Fn(usize) -> Place,
    tables: &mut HashMap<String, Place>,
) -> Value {
    let kind = match from {
        DeValue::String(text) => ValueKind::String(text.to_string()),
        // A number too great for us is still a number: it will be found out of its bounds.
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or(ValueKind::U128(u128::MAX), ValueKind::I64)
        }
        DeValue::Float(number) => ValueKind::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(flag) => ValueKind::Boolean(*flag),
        // No key takes a date; nothing else becomes `Nil`.
        DeValue::Datetime(_) => ValueKind::Nil,
        DeValue::Array(entries) => {
            let entry = |(number, entry): (usize, &toml::Spanned<DeValue<'_>>)| {
                value(entry.get_ref(), &format!("{path}[{number}]"), &place(entry.span().start), place, tables)
            };
            ValueKind::Array(entries.iter().enumerate().map(entry).collect())
        }
        DeValue::Table(inner) => ValueKind::Table(table(inner, path, place, tables)),
    };
    Value::new(Some(&encode(at)), kind)
}

/// Places travel through the `config` crate as text.
fn encode(place: &Place) -> String {
    match place {
        Place::Nowhere => String::new(),
        Place::File { path, line } => format!("{line}\n{}", path.display()),
        Place::Variable(name) => format!("\n{name}"),
    }
}

/// Where a merged value was given.
pub(super) fn place_of(value: &Value) -> Place {
    match value.origin().and_then(|origin| origin.split_once('\n')) {
        None => Place::Nowhere,
        Some(("", name)) => Place::Variable(name.to_owned()),
        Some((line, path)) => Place::File { path: Arc::from(Path::new(path)), line: line.parse().unwrap_or_default() },
    }
}

/// Which line an offset is in.
struct Lines<'a> {
    text: &'a str,
    /// Where each line begins.
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        let after_breaks = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n').map(|(at, _)| at + 1);
        Self { text, starts: std::iter::once(0).chain(after_breaks).collect() }
    }

    fn line_at(&self, offset: usize) -> usize {
        self.starts.partition_point(|&start| start <= offset)
    }

    /// A syntax error, without the line's text, which may hold a secret; with the key, as far as it can be made out.
    fn problem(&self, path: &Arc<Path>, error: &toml::de::Error) -> Problem {
        let line = self.line_at(error.span().map_or(0, |span| span.start));
        // An error found at the end of a line is reported at the beginning of the next by some.
        let before: Vec<&str> = self.text.lines().take(line).collect();
        let plain = |name: &str| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
        };
        let name = before.last().and_then(|line| line.split_once('=')).map(|(name, _)| name.trim());
        let header = before.iter().rev().find_map(|line| {
            let inner = line.trim().strip_prefix('[')?.split(']').next()?;
            Some(inner.trim_start_matches('[').trim())
        });
        let key: Vec<&str> = [header, name].into_iter().flatten().filter(|name| plain(name)).collect();
        let fault = Fault::Syntax { message: error.message().replace('\n', ", ") };
        Problem { key: key.join("."), place: Place::File { path: Arc::clone(path), line }, fault }
    }
}

/// The path that the variable `name` sets, as the `config` crate writes paths.
fn resolve(name: &str, root: &Map<String, Value>) -> Result<String, (String, Fault)> {
    let rest = name.strip_prefix(PREFIX).unwrap_or(name);
    let segments: Vec<&str> = rest.split("__").collect();
    let at = Position { prefix: PREFIX.to_owned(), path: String::new(), shown: String::new() };
    at.table(&segments, schema::ROOT, Some(root))
}

/// How far a variable's name is understood.
struct Position {
    /// The variable's name so far.
    prefix: String,
    /// The path so far, for the `config` crate.
    path: String,
    /// The path so far, for people.
    shown: String,
}

impl Position {
    fn join(base: &str, name: &str) -> String {
        if base.is_empty() { name.to_owned() } else { format!("{base}.{name}") }
    }

    fn table(
        self,
        segments: &[&str],
        keys: &'static [Key],
        given: Option<&Map<String, Value>>,
    ) -> Result<String, (String, Fault)> {
        let Some((segment, rest)) = segments.split_first() else {
            return Err((self.shown, Fault::NotByVariable { what: "a whole table" }));
        };
        let names = || schema::names(keys).map(|name| (variable_form(&name), name));
        let Some((_, name)) = names().find(|(form, _)| *form == segment.to_ascii_uppercase()) else {
            let forms: Vec<String> = names().map(|(form, _)| form).collect();
            let nearest = check::nearest(segment, forms.iter().map(String::as_str));
            let nearest = nearest.map(|near| format!("{}{}", self.prefix, [&[near], rest].concat().join("__")));
            return Err((self.shown, Fault::UnknownVariable { nearest }));
        };
        let next = Self {
            prefix: format!("{}{}__", self.prefix, variable_form(&name)),
            path: Self::join(&self.path, &name),
            shown: Self::join(&self.shown, &name),
        };
        // A secret's file is a path: a single value.
        let Some(key) = keys.iter().find(|key| key.name == name) else {
            return next.single(rest);
        };
        match key.shape {
            Shape::Table(inner) => {
                let given = given.and_then(|given| given.get(&name)).map(table_of);
                next.table(rest, inner, given.as_ref())
            }
            Shape::List(inner, identity) => {
                let entries = given.and_then(|given| given.get(&name)).map(entries_of).unwrap_or_default();
                next.entry(rest, inner, identity, &entries)
            }
            Shape::Texts(_) | Shape::Map(_) => Err((next.shown, Fault::NotByVariable { what: "a list of values" })),
            Shape::Text(_)
            | Shape::Url
            | Shape::Secret(..)
            | Shape::Word(_)
            | Shape::Flag
            | Shape::Count(_)
            | Shape::Positive
            | Shape::Share
            | Shape::Span(_) => next.single(rest),
        }
    }

    fn single(self, rest: &[&str]) -> Result<String, (String, Fault)> {
        if rest.is_empty() {
            return Ok(self.path);
        }
        let nearest = self.prefix.strip_suffix("__").map(ToOwned::to_owned);
        Err((self.shown, Fault::UnknownVariable { nearest }))
    }

    fn entry(
        self,
        segments: &[&str],
        keys: &'static [Key],
        identity: Identity,
        entries: &[Map<String, Value>],
    ) -> Result<String, (String, Fault)> {
        // An id may hold `__` itself, so as many segments are taken as the longest id that fits has.
        let forms: Vec<Option<String>> =
            entries.iter().enumerate().map(|(place, entry)| entry_form(identity, place, entry)).collect();
        let wanted = segments.join("__").to_ascii_uppercase();
        let fits = |form: &&String| {
            wanted.strip_prefix(form.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with("__"))
        };
        let Some(form) = forms.iter().flatten().filter(fits).max_by_key(|form| form.len()) else {
            let first = segments.first().copied().unwrap_or_default();
            let known = forms.iter().flatten().map(String::as_str);
            let nearest = check::nearest(first, known).map(|near| format!("{}{near}__", self.prefix));
            let nearest = nearest.map(|start| format!("{start}{}", segments.get(1..).unwrap_or_default().join("__")));
            let nearest = nearest.map(|name| name.trim_end_matches('_').to_owned());
            return Err((self.shown.clone(), Fault::NoEntry { list: format!("[[{}]]", self.shown), nearest }));
        };
        let same: Vec<usize> =
            (0..forms.len()).filter(|&place| forms.get(place) == Some(&Some(form.clone()))).collect();
        let (Some(&place), true) = (same.first(), same.len() == 1) else {
            let names = same.iter().filter_map(|&place| entries.get(place)).zip(&same);
            let names = names.map(|(entry, &place)| format!("{}[{}]", self.shown, entry_name(identity, place, entry)));
            return Err((self.shown.clone(), Fault::Ambiguous { names: names.collect() }));
        };
        let entry = entries.get(place);
        let taken = form.split("__").count();
        let rest = segments.get(taken..).unwrap_or_default();
        let label = entry.map(|entry| entry_name(identity, place, entry)).unwrap_or_default();
        let next = Self {
            prefix: format!("{}{form}__", self.prefix),
            path: format!("{}[{place}]", self.path),
            shown: format!("{}[{label}]", self.shown),
        };
        if let (Identity::Keys(ids), [only]) = (identity, rest)
            && let Some(id) = ids.iter().find(|id| variable_form(id) == only.to_ascii_uppercase())
        {
            return Err((Self::join(&next.shown, id), Fault::NotByVariable { what: "the name of an entry" }));
        }
        next.table(rest, keys, entry)
    }
}

fn entries_of(value: &Value) -> Vec<Map<String, Value>> {
    match &value.kind {
        ValueKind::Array(entries) => entries.iter().map(table_of).collect(),
        ValueKind::Nil
        | ValueKind::Boolean(_)
        | ValueKind::I64(_)
        | ValueKind::I128(_)
        | ValueKind::U64(_)
        | ValueKind::U128(_)
        | ValueKind::Float(_)
        | ValueKind::String(_)
        | ValueKind::Table(_) => Vec::new(),
    }
}

/// What an entry is called in a key's path: its id, or its place.
pub(super) fn entry_name(identity: Identity, place: usize, entry: &Map<String, Value>) -> String {
    let by_place = || format!("#{}", place + 1);
    match identity {
        Identity::Place => by_place(),
        Identity::Keys(ids) => {
            let parts: Option<Vec<&str>> = ids.iter().map(|&id| entry.get(id).and_then(text_of)).collect();
            parts.map_or_else(by_place, |parts| parts.join("/"))
        }
    }
}

/// What an entry is called in a variable's name.
fn entry_form(identity: Identity, place: usize, entry: &Map<String, Value>) -> Option<String> {
    match identity {
        Identity::Place => Some((place + 1).to_string()),
        Identity::Keys(ids) => {
            let parts: Option<Vec<String>> =
                ids.iter().map(|&id| entry.get(id).and_then(text_of).map(variable_form)).collect();
            parts.map(|parts| parts.join("__"))
        }
    }
}

fn text_of(value: &Value) -> Option<&str> {
    if let ValueKind::String(text) = &value.kind { Some(text) } else { None }
}

fn variable_form(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::schema::{Need, ROOT};

    /// The paths of the keys in `table`, lists written without their entries.
    fn paths(table: &Map<String, Value>, prefix: &str, into: &mut BTreeSet<String>) {
        for (name, value) in table {
            let path = Position::join(prefix, name);
            into.insert(path.clone());
            // What is in a map are not keys of ours.
            if path == "dialer.trunk_aliases" {
                continue;
            }
            paths(&table_of(value), &path, into);
            for entry in entries_of(value) {
                paths(&entry, &path, into);
            }
        }
    }

    #[test]
    fn every_key_is_documented_and_every_documented_key_is_known() {
        let text = uncommented();
        let layer = Layer::read(&text, &|_| Place::Nowhere);
        assert!(layer.syntax.is_empty(), "{:?}", layer.syntax);
        let mut documented = BTreeSet::new();
        paths(&layer.root, "", &mut documented);
        let known: BTreeSet<String> = schema::all_paths().into_iter().collect();
        let missing: Vec<_> = known.difference(&documented).collect();
        let unknown: Vec<_> = documented.difference(&known).collect();
        assert!(missing.is_empty() && unknown.is_empty(), "not documented: {missing:?}; not known: {unknown:?}");
    }

    /// Every key that has a default has it where it is read from: outside lists as it stands, in lists as an example.
    #[test]
    fn every_default_is_there() {
        fn walk(keys: &'static [Key], prefix: &str, given: &Map<String, Value>, missing: &mut Vec<String>) {
            for key in keys {
                let path = Position::join(prefix, key.name);
                let value = given.get(key.name);
                match key.shape {
                    Shape::Table(inner) if key.need != Need::May => {
                        walk(inner, &path, &value.map(table_of).unwrap_or_default(), missing);
                    }
                    Shape::List(inner, _) => {
                        // The examples, since no list is filled by default.
                        let all = examples();
                        let parent = prefix.split('.').filter(|part| !part.is_empty());
                        let parent = parent.fold(all, |table, part| table.get(part).map(table_of).unwrap_or_default());
                        let entries = parent.get(key.name).map(entries_of).unwrap_or_default();
                        if let Some(first) = entries.first() {
                            walk(inner, &path, first, missing);
                        } else {
                            missing.push(path);
                        }
                    }
                    Shape::Table(_) => {}
                    Shape::Text(_)
                    | Shape::Url
                    | Shape::Secret(..)
                    | Shape::Word(_)
                    | Shape::Flag
                    | Shape::Count(_)
                    | Shape::Positive
                    | Shape::Share
                    | Shape::Span(_)
                    | Shape::Texts(_)
                    | Shape::Map(_) => {
                        if key.need == Need::Default && value.is_none() {
                            missing.push(path);
                        }
                    }
                }
            }
        }
        let mut missing = Vec::new();
        walk(ROOT, "", &Layer::read(DEFAULTS, &|_| Place::Nowhere).root, &mut missing);
        assert!(missing.is_empty(), "no default: {missing:?}");
    }

    #[test]
    fn a_line_is_counted_from_one() {
        let lines = Lines::new("a\nb\n\nc");
        assert_eq!([0, 1, 2, 4, 5].map(|offset| lines.line_at(offset)), [1, 1, 2, 3, 4]);
    }

    #[test]
    fn a_place_survives_the_merging() {
        for place in [
            Place::Nowhere,
            Place::Variable("TRUNKWARDEN__STORE__URL".into()),
            Place::File { path: Arc::from(Path::new("a b/c.toml")), line: 7 },
        ] {
            assert_eq!(place_of(&Value::new(Some(&encode(&place)), ValueKind::Nil)), place);
        }
    }
}
