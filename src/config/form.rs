//! The merged layers, key by key: is it known, is it of the right type, is its value one it takes, does it work yet.
//!
//! What comes out is a tree of typed values that still know their places. What cannot be typed is left out of it and
//! reported, so that everything else can be looked at too.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use config::{Map, Value, ValueKind};
use secrecy::SecretString;

use super::{
    check::{self, ValueError},
    layers::{self, Merged, entry_name, place_of},
    problem::{Fault, Place, Problem},
    schema::{self, Check, Key, Later, Need, Shape},
};

/// A typed value and where it was given.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) item: Item,
}

/// A typed value.
#[derive(Debug, Clone)]
pub(super) enum Item {
    Table(Table),
    List(Vec<Node>),
    Text(String),
    Secret(SecretString, Option<PathBuf>),
    Flag(bool),
    Count(u32),
    Number(f64),
    /// With its text, which says what the operator meant better than any rendering of a number of seconds.
    Span(Duration, String),
    Texts(Vec<(String, Place)>),
    Map(BTreeMap<String, String>),
    /// It was given, and is not what it should be: reported already.
    Wrong,
}

/// A table's values, by the schema's names.
#[derive(Debug, Clone, Default)]
pub(super) struct Table(pub(super) BTreeMap<&'static str, Node>);

/// Longer than any secret, in bytes: a file that is longer is not one.
const LONGEST_SECRET_FILE: u64 = 64 * 1024;
/// The longest duration: a hundred years, so that no sum of instants leaves representable time.
const LONGEST_SPAN: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

/// Types the merged layers.
pub(super) fn form(merged: Merged) -> (Table, Vec<Problem>) {
    let mut form = Form { tables: merged.tables, problems: merged.problems };
    let examples = layers::examples();
    let table = form.table("", schema::ROOT, &merged.root, &Place::Nowhere, Examples::Below(&examples));
    (table, form.problems)
}

struct Form {
    tables: HashMap<String, Place>,
    problems: Vec<Problem>,
}

/// Where the values come from that a table leaves out.
#[derive(Debug, Clone, Copy)]
enum Examples<'a> {
    /// From nowhere: they were merged in, or none are wanted.
    None,
    /// This table's were merged in, those of the lists in it are here.
    Below(&'a Map<String, Value>),
    /// From here.
    Here(&'a Map<String, Value>),
}

impl<'a> Examples<'a> {
    fn value(self, name: &str) -> Option<&'a Value> {
        match self {
            Self::Here(table) => table.get(name),
            Self::None | Self::Below(_) => None,
        }
    }

    fn table(self, key: &Key) -> Self {
        match self {
            Self::None => Self::None,
            // What may be left out as a whole has no defaults in it: `[trunk.health]` says what differs.
            Self::Here(_) if key.need == Need::May => Self::None,
            Self::Here(table) => inner(table, key.name).map_or(Self::None, Self::Here),
            // It was not merged in, since that would have switched it on: `[gateway]`.
            Self::Below(table) if key.need == Need::May => inner(table, key.name).map_or(Self::None, Self::Here),
            Self::Below(table) => inner(table, key.name).map_or(Self::None, Self::Below),
        }
    }

    /// The list's first example.
    fn entry(self, name: &str) -> Self {
        let (Self::Below(table) | Self::Here(table)) = self else { return Self::None };
        match table.get(name).map(|value| &value.kind) {
            Some(ValueKind::Array(entries)) => match entries.first().map(|entry| &entry.kind) {
                Some(ValueKind::Table(entry)) => Self::Here(entry),
                Some(_) | None => Self::None,
            },
            Some(_) | None => Self::None,
        }
    }
}

fn inner<'a>(table: &'a Map<String, Value>, name: &str) -> Option<&'a Map<String, Value>> {
    match table.get(name).map(|value| &value.kind) {
        Some(ValueKind::Table(inner)) => Some(inner),
        Some(_) | None => None,
    }
}

impl Form {
    /// Where `value` was given; the merging forgets it of tables.
    fn place(&self, path: &str, value: &Value) -> Place {
        let of_table = self.tables.get(path).filter(|_| matches!(value.kind, ValueKind::Table(_)));
        of_table.cloned().unwrap_or_else(|| place_of(value))
    }

    fn say(&mut self, key: &str, place: &Place, fault: Fault) {
        self.problems.push(Problem { key: key.to_owned(), place: place.clone(), fault });
    }

    fn table(
        &mut self,
        path: &str,
        keys: &'static [Key],
        given: &Map<String, Value>,
        place: &Place,
        examples: Examples<'_>,
    ) -> Table {
        let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let mut table = Table::default();
        // One slip of the pen is one problem: what was meant by an unknown key is not called missing as well.
        let mut meant = Vec::new();
        for (name, value) in given {
            if !schema::names(keys).any(|known| known == *name) {
                let fault = layers::unknown_key(name, keys);
                if let Fault::UnknownKey { nearest: Some(nearest), .. } = &fault {
                    meant.push(nearest.clone());
                }
                let path = join(name);
                self.say(&path, &self.place(&path, value), fault);
            }
        }
        for key in keys {
            let path = join(key.name);
            let key_meant = || meant.iter().any(|name| *name == key.name || Some(name) == key.file_name().as_ref());
            let value = given.get(key.name);
            if let Shape::Secret(check, _) = key.shape {
                let file = key.file_name().and_then(|name| given.get(&name).map(|file| (join(&name), file)));
                if let Some(node) = self.secret(&path, check, value, file) {
                    table.0.insert(key.name, node);
                    continue;
                }
                if value.is_some() || file_given(key, given) {
                    table.0.insert(key.name, Node { place: place.clone(), item: Item::Wrong });
                    continue;
                }
            } else if let Some(value) = value.or_else(|| match key.need {
                // A table that is left out has defaults in it, but is not one.
                Need::Default if !matches!(key.shape, Shape::Table(_)) => examples.value(key.name),
                Need::Default | Need::Must | Need::May => None,
            }) {
                let node = self.value(&path, key, value, examples);
                if let Some(node) = &node {
                    self.later(&path, key, node);
                }
                let node = node.unwrap_or_else(|| Node { place: self.place(&path, value), item: Item::Wrong });
                table.0.insert(key.name, node);
                continue;
            }
            match (key.need, key.shape) {
                (Need::Must, _) if key_meant() => {}
                // Its values have defaults of their own.
                (Need::Default, Shape::Table(inner)) => {
                    let item = self.table(&path, inner, &Map::new(), place, examples.table(key));
                    table.0.insert(key.name, Node { place: place.clone(), item: Item::Table(item) });
                }
                (Need::Must, Shape::Table(_)) => {
                    let hint = format!(": add a table [{}]", path_of_table(&path));
                    self.say(&path, place, Fault::Missing { hint });
                }
                (Need::Must, Shape::List(..)) => {
                    self.say(&path, place, Fault::Missing { hint: format!(": add at least one [[{path}]]") });
                }
                (Need::Must, Shape::Secret(..)) => {
                    let hint = key.file_name().map_or_else(String::new, |file| format!(": give it, or {file}"));
                    self.say(&path, place, Fault::Missing { hint });
                }
                (
                    Need::Must,
                    Shape::Text(_)
                    | Shape::Url
                    | Shape::Word(_)
                    | Shape::Flag
                    | Shape::Count(_)
                    | Shape::Positive
                    | Shape::Share
                    | Shape::Span(_)
                    | Shape::Texts(_)
                    | Shape::Map(_),
                ) => self.say(&path, place, Fault::Missing { hint: String::new() }),
                (Need::May | Need::Default, _) => {}
            }
        }
        table
    }

    fn value(&mut self, path: &str, key: &Key, value: &Value, examples: Examples<'_>) -> Option<Node> {
        let place = self.place(path, value);
        let typed = match key.shape {
            Shape::Table(keys) => {
                let ValueKind::Table(given) = &value.kind else {
                    return self.wrong_type(path, &place, "a table", value);
                };
                Ok(Item::Table(self.table(path, keys, given, &place, examples.table(key))))
            }
            Shape::List(keys, identity) => {
                let ValueKind::Array(entries) = &value.kind else {
                    return self.wrong_type(path, &place, "a list of tables, each begun by [[...]]", value);
                };
                let mut nodes = Vec::new();
                for (number, entry) in entries.iter().enumerate() {
                    let place = place_of(entry);
                    let ValueKind::Table(given) = &entry.kind else {
                        self.wrong_type(path, &place, "a table", entry);
                        continue;
                    };
                    let path = format!("{path}[{}]", entry_name(identity, number, given));
                    let item = Item::Table(self.table(&path, keys, given, &place, examples.entry(key.name)));
                    nodes.push(Node { place, item });
                }
                Ok(Item::List(nodes))
            }
            Shape::Text(check) => {
                let ValueKind::String(text) = &value.kind else {
                    return self.wrong_type(path, &place, "a text", value);
                };
                check(text).map(|()| Item::Text(text.clone()))
            }
            Shape::Url => {
                let ValueKind::String(text) = &value.kind else {
                    return self.wrong_type(path, &place, "a text", value);
                };
                check::http_url(text).map(|()| Item::Secret(text.clone().into(), None))
            }
            // Handled with its file, by `table`.
            Shape::Secret(..) => return None,
            Shape::Word(words) => {
                let ValueKind::String(text) = &value.kind else {
                    return self.wrong_type(path, &place, "a text", value);
                };
                check::word(text, words).map(|()| Item::Text(text.clone()))
            }
            Shape::Flag => match (&value.kind, &place) {
                (ValueKind::Boolean(flag), _) => Ok(Item::Flag(*flag)),
                (ValueKind::String(text), Place::Variable(_)) => {
                    check::word(text, &["true", "false"]).map(|()| Item::Flag(text == "true"))
                }
                _ => return self.wrong_type(path, &place, "true or false", value),
            },
            Shape::Count(at_least) => {
                let number = match (&value.kind, &place) {
                    (ValueKind::I64(number), _) => u32::try_from(*number).ok(),
                    (ValueKind::U128(_), _) => None,
                    (ValueKind::String(text), Place::Variable(_)) => text.parse().ok(),
                    _ => return self.wrong_type(path, &place, "a whole number", value),
                };
                number.filter(|&number| number >= at_least).map(Item::Count).ok_or(ValueError::Count { at_least })
            }
            Shape::Positive | Shape::Share => {
                let number = match (&value.kind, &place) {
                    // Greater whole numbers would lose digits, and are greater than any penalty.
                    (ValueKind::I64(number), _) => i32::try_from(*number).ok().map(f64::from),
                    (ValueKind::U128(_), _) => None,
                    (ValueKind::Float(number), _) => Some(*number),
                    (ValueKind::String(text), Place::Variable(_)) => text.parse().ok(),
                    _ => return self.wrong_type(path, &place, "a number", value),
                };
                let number = number.filter(|number| number.is_finite());
                if matches!(key.shape, Shape::Positive) {
                    number.filter(|&number| number > 0.0).map(Item::Number).ok_or(ValueError::Positive)
                } else {
                    number.filter(|number| (0.0..=1.0).contains(number)).map(Item::Number).ok_or(ValueError::Share)
                }
            }
            Shape::Span(at_least_ms) => {
                let ValueKind::String(text) = &value.kind else {
                    return self.wrong_type(path, &place, "a duration such as \"30s\"", value);
                };
                span(text, at_least_ms).map(|span| Item::Span(span, text.clone()))
            }
            Shape::Texts(check) => {
                let ValueKind::Array(entries) = &value.kind else {
                    return self.wrong_type(path, &place, "a list of texts, such as [\"a\", \"b\"]", value);
                };
                if entries.is_empty() && key.need == Need::Must {
                    self.say(path, &place, Fault::NoneGiven);
                    return None;
                }
                Ok(Item::Texts(self.texts(path, check, entries)))
            }
            Shape::Map(check) => {
                let ValueKind::Table(entries) = &value.kind else {
                    return self.wrong_type(path, &place, "a table of texts", value);
                };
                let mut map = BTreeMap::new();
                for (name, entry) in entries {
                    for (text, _) in self.texts(&format!("{path}.{name}"), check, std::slice::from_ref(entry)) {
                        map.insert(name.clone(), text);
                    }
                }
                Ok(Item::Map(map))
            }
        };
        match typed {
            Ok(item) => Some(Node { place, item }),
            Err(error) => {
                self.say(path, &place, Fault::Value(error));
                None
            }
        }
    }

    fn texts(&mut self, path: &str, check: Check, entries: &[Value]) -> Vec<(String, Place)> {
        let mut texts = Vec::new();
        for entry in entries {
            let place = place_of(entry);
            let ValueKind::String(text) = &entry.kind else {
                self.wrong_type(path, &place, "a text", entry);
                continue;
            };
            match check(text) {
                Ok(()) => texts.push((text.clone(), place)),
                Err(error) => self.say(path, &place, Fault::Value(error)),
            }
        }
        texts
    }

    fn secret(
        &mut self,
        path: &str,
        check: Check,
        value: Option<&Value>,
        file: Option<(String, &Value)>,
    ) -> Option<Node> {
        let (value, file) = match (value, file) {
            (Some(value), Some((name, file))) => {
                let (at, file_at) = (place_of(value), place_of(file));
                match (at.variable(), file_at.variable()) {
                    // The environment wins over the file, whichever form each uses.
                    (Some(_), None) => (Some(value), None),
                    (None, Some(_)) => (None, Some((name, file))),
                    (Some(_), Some(_)) | (None, None) => {
                        self.say(path, &at, Fault::Twice { other: name, at: file_at });
                        return None;
                    }
                }
            }
            (value, file) => (value, file),
        };
        if let Some((name, file)) = file {
            let place = place_of(file);
            let ValueKind::String(file) = &file.kind else {
                return self.wrong_type(&name, &place, "a file's path", file);
            };
            if let Err(error) = check::text(file) {
                self.say(&name, &place, Fault::Value(error));
                return None;
            }
            let file = PathBuf::from(file);
            return match secret_in(&file, check) {
                Ok(secret) => Some(Node { place, item: Item::Secret(secret, Some(file)) }),
                Err(fault) => {
                    self.say(&name, &place, fault);
                    None
                }
            };
        }
        let value = value?;
        let place = place_of(value);
        let ValueKind::String(text) = &value.kind else {
            return self.wrong_type(path, &place, "a text", value);
        };
        if let Err(error) = check(text) {
            self.say(path, &place, Fault::Value(error));
            return None;
        }
        Some(Node { place, item: Item::Secret(text.clone().into(), None) })
    }

    fn wrong_type(&mut self, path: &str, place: &Place, expected: &'static str, found: &Value) -> Option<Node> {
        let found = match &found.kind {
            ValueKind::Nil => "a date or time",
            ValueKind::Boolean(_) => "true or false",
            ValueKind::I64(_) | ValueKind::I128(_) | ValueKind::U64(_) | ValueKind::U128(_) => "a whole number",
            ValueKind::Float(_) => "a number",
            ValueKind::String(_) => "a text",
            ValueKind::Table(_) => "a table",
            ValueKind::Array(_) => "a list",
        };
        self.say(path, place, Fault::Type { expected, found });
        None
    }

    /// Says so if a later release is needed for it.
    fn later(&mut self, path: &str, key: &Key, node: &Node) {
        let word = |text: &str| format!("{} = {text:?}", key.name);
        let (what, off) = match (key.later, &node.item) {
            (Later::Everything, Item::Table(_)) => (format!("[{}]", path_of_table(path)), None),
            (Later::Everything, _) => (key.name.to_owned(), None),
            (Later::True, Item::Flag(true)) => (format!("{} = true", key.name), Some("leave it false")),
            (Later::Words(words), Item::Text(text)) if words.contains(&text.as_str()) => (word(text), None),
            (Later::Prefixes(prefixes), Item::Text(text)) => {
                // Only the prefix: the rest may hold a password.
                let Some(prefix) = prefixes.iter().find(|&&prefix| text.starts_with(prefix)) else { return };
                (word(&format!("{prefix}...")), None)
            }
            (Later::Entries, Item::Texts(texts)) if !texts.is_empty() => (key.name.to_owned(), None),
            (Later::Nothing | Later::True | Later::Words(_) | Later::Entries, _) | (Later::Prefixes(_), _) => return,
        };
        self.say(path, &node.place, Fault::NotYet { what, off });
    }
}

fn file_given(key: &Key, given: &Map<String, Value>) -> bool {
    key.file_name().is_some_and(|name| given.contains_key(&name))
}

/// `pbx[pbx1].ami` is begun by `[pbx.ami]`.
fn path_of_table(path: &str) -> String {
    let mut outside = true;
    let keep = |c: &char| {
        match c {
            '[' => outside = false,
            ']' => {
                outside = true;
                return false;
            }
            _ => {}
        }
        outside
    };
    path.chars().filter(keep).collect()
}

fn span(text: &str, at_least_ms: u64) -> Result<Duration, ValueError> {
    let given = || text.to_owned();
    let span = humantime::parse_duration(text).map_err(|_| ValueError::Span { given: given() })?;
    if span < Duration::from_millis(at_least_ms) {
        Err(ValueError::ShortSpan { given: given(), at_least_ms })
    } else if span > LONGEST_SPAN {
        Err(ValueError::LongSpan { given: given() })
    } else {
        Ok(span)
    }
}

/// The secret that `file` holds, without the line break at its end.
fn secret_in(file: &Path, check: Check) -> Result<SecretString, Fault> {
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|opened| opened.take(LONGEST_SECRET_FILE + 1).read_to_end(&mut bytes))
        .map_err(|error| Fault::SecretFile { file: file.to_owned(), error })?;
    let too_long = u64::try_from(bytes.len()).map_or(true, |length| length > LONGEST_SECRET_FILE);
    let text = match String::from_utf8(bytes) {
        Ok(text) if !too_long => text,
        Ok(_) | Err(_) => return Err(Fault::SecretFileTooLong { file: file.to_owned() }),
    };
    let secret = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    check(secret).map_err(|error| Fault::SecretFileValue { file: file.to_owned(), error })?;
    Ok(secret.to_owned().into())
}

impl Table {
    pub(super) fn place(&self, key: &str) -> Place {
        self.0.get(key).map_or(Place::Nowhere, |node| node.place.clone())
    }

    pub(super) fn table(&self, key: &str) -> Option<&Self> {
        if let Item::Table(table) = &self.0.get(key)?.item { Some(table) } else { None }
    }

    /// The entries of a list; none, if it was not given.
    pub(super) fn entries(&self, key: &str) -> impl Iterator<Item = (&Self, &Place)> {
        let nodes: &[Node] = match self.0.get(key).map(|node| &node.item) {
            Some(Item::List(nodes)) => nodes,
            Some(_) | None => &[],
        };
        nodes
            .iter()
            .filter_map(|node| if let Item::Table(table) = &node.item { Some((table, &node.place)) } else { None })
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        if let Item::Text(text) = &self.0.get(key)?.item { Some(text) } else { None }
    }

    pub(super) fn secret(&self, key: &str) -> Option<&SecretString> {
        if let Item::Secret(secret, _) = &self.0.get(key)?.item { Some(secret) } else { None }
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        if let Item::Flag(flag) = self.0.get(key)?.item { Some(flag) } else { None }
    }

    pub(super) fn count(&self, key: &str) -> Option<u32> {
        if let Item::Count(count) = self.0.get(key)?.item { Some(count) } else { None }
    }

    pub(super) fn number(&self, key: &str) -> Option<f64> {
        if let Item::Number(number) = self.0.get(key)?.item { Some(number) } else { None }
    }

    pub(super) fn span(&self, key: &str) -> Option<Duration> {
        if let Item::Span(span, _) = self.0.get(key)?.item { Some(span) } else { None }
    }

    /// The texts of a list; none, if it was not given.
    pub(super) fn texts(&self, key: &str) -> &[(String, Place)] {
        match self.0.get(key).map(|node| &node.item) {
            Some(Item::Texts(texts)) => texts,
            Some(_) | None => &[],
        }
    }
}
