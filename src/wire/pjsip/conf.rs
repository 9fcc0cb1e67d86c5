//! PJSIP objects as a `pjsip.conf` writes them, and a `pjsip_wizard.conf`.
//!
//! For a capture or a log that is looked at away from its Asterisk. It reads what Asterisk would (`main/config.c`,
//! `res/res_sorcery_config.c`, `res/res_pjsip_config_wizard.c`; each rule was tried on 22.10.1) and goes on where
//! Asterisk would give up, since half a file is better than none: what Asterisk makes of such a place is said in a
//! [`ConfProblem`].
//!
//! Rules that surprise: an unescaped `;` begins a comment also within a word, so a password or a URI ends there; quotes
//! and a byte order mark are part of the text; `type`'s value is in lower case, its first occurrence counts, of other
//! options the last; `(+)` adds to the first section of the name; a section with an option its type does not know is
//! left out as a whole; and with two sections of one name and one type, *all* objects of that type are left out.
//!
//! Files are handed in: nothing here opens one. Nothing is executed.

use std::{collections::BTreeMap, fmt};

use super::{
    Completeness, Kind, Objects, Place,
    fields::{Taken, Wanted, known, set, yes_or_no},
};

/// How deep includes may be nested: Asterisk's own limit.
const DEPTH: usize = 10;
/// The most bytes read of all files together.
const BYTES: usize = 16 << 20;
/// The most files read.
const FILES: usize = 10_000;
/// The most bytes that options inherited from templates may take.
const INHERITED: usize = 64 << 20;
/// The most problems told.
const PROBLEMS: usize = 1000;

/// Something in a file that Asterisk reads in another way than its author may have meant, or that was not read here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfProblem {
    /// Where.
    pub place: Place,
    /// What, and what to change; never a secret.
    pub text: String,
}

impl fmt::Display for ConfProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// Gives the files a path names, as written (it may be a pattern, and is relative to Asterisk's folder of
/// configurations), each with its name and contents, in their order.
///
/// # Errors
/// Why it cannot be read, in words.
pub type Include<'a> = dyn FnMut(&str) -> Result<Vec<(String, Vec<u8>)>, String> + 'a;

/// Reads a file and what it includes. `name` is what problems call it.
///
/// The objects are complete unless an include could not be read, or there was too much.
pub fn read(name: &str, text: &[u8], include: &mut Include<'_>) -> (Objects, Vec<ConfProblem>) {
    let mut reader = Reader {
        include,
        files: Vec::new(),
        sections: Vec::new(),
        first: BTreeMap::new(),
        current: None,
        stack: Vec::new(),
        bytes: 0,
        inherited: 0,
        partial: false,
        problems: Vec::new(),
    };
    reader.file(name, text);
    let Reader { files, sections, partial, problems, .. } = reader;
    let mut builder = Builder { files, objects: Objects::default(), problems };
    for section in sections.iter().filter(|section| !section.template) {
        builder.section(section);
    }
    builder.check();
    let Builder { mut objects, problems, .. } = builder;
    let all = !partial;
    objects.complete = Completeness { registrations: all, auths: all, endpoints: all, transports: all };
    (objects, problems)
}

/// A line of a file, by the file's index.
#[derive(Debug, Clone, Copy)]
struct At {
    file: usize,
    line: u32,
}

#[derive(Debug, Clone)]
struct Variable {
    key: String,
    value: String,
    at: At,
}

#[derive(Debug)]
struct Section {
    name: String,
    template: bool,
    variables: Vec<Variable>,
    at: At,
}

impl Section {
    /// The last value of an option.
    fn last(&self, key: &str) -> Option<&Variable> {
        self.variables.iter().rev().find(|variable| variable.key.eq_ignore_ascii_case(key))
    }

    fn is_true(&self, key: &str) -> bool {
        self.last(key).is_some_and(|variable| yes_or_no(&variable.value) == Some(true))
    }
}

/// What an error makes Asterisk do, for the end of a problem's text.
const STOPS: &str = "Asterisk stops reading here, and without a whole pjsip.conf it has no PJSIP objects";

struct Reader<'a, 'b> {
    include: &'a mut Include<'b>,
    files: Vec<String>,
    sections: Vec<Section>,
    /// The first section of each name.
    first: BTreeMap<String, usize>,
    current: Option<usize>,
    /// The files being read, the innermost last.
    stack: Vec<String>,
    bytes: usize,
    inherited: usize,
    partial: bool,
    problems: Vec<ConfProblem>,
}

impl Reader<'_, '_> {
    fn problem(&mut self, at: At, text: impl Into<String>) {
        push_problem(&mut self.problems, &self.files, at, text.into());
    }

    fn file(&mut self, name: &str, text: &[u8]) {
        self.files.push(name.to_owned());
        let file = self.files.len() - 1;
        self.stack.push(name.to_owned());
        let room = BYTES - self.bytes;
        let mut text = text;
        if text.len() > room {
            text = &text[..room];
            self.partial = true;
            self.problem(At { file, line: 1 }, format!("not read to its end: only {BYTES} bytes are read in all"));
        }
        self.bytes += text.len();
        if let Some(rest) = text.strip_prefix(b"\xef\xbb\xbf") {
            text = rest;
            let said =
                "the file begins with a byte order mark, which makes Asterisk miss its first line; save it without";
            self.problem(At { file, line: 1 }, said);
        }
        let (mut nest, mut began, mut decoded) = (0_i32, 0, true);
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
            let at = At { file, line: u32::try_from(index + 1).unwrap_or(u32::MAX) };
            let before = nest;
            let stripped = strip_comments(line, &mut nest);
            if before == 0 && nest > 0 {
                began = at.line;
            }
            if before >= 0 && nest < 0 {
                self.problem(
                    at,
                    "\"--;\" ends a comment, and none was begun: Asterisk takes what follows for a comment, up to the next \";--\"",
                );
            }
            let Some((kept, cut)) = stripped else { continue };
            let kept = trim(&kept);
            if kept.is_empty() {
                continue;
            }
            let text = String::from_utf8_lossy(kept);
            if decoded && matches!(text, std::borrow::Cow::Owned(_)) {
                decoded = false;
                self.problem(at, "not UTF-8; characters that cannot be read are replaced, also in names and passwords");
            }
            self.line(at, &text, cut);
        }
        if nest > 0 {
            self.problem(
                At { file, line: began },
                format!("the comment that begins here has no end (\"--;\"); {STOPS}"),
            );
        }
        self.stack.pop();
    }

    /// One line without its comments, not empty. `cut` says that a comment began within a word.
    fn line(&mut self, at: At, line: &str, cut: bool) {
        if let Some(rest) = line.strip_prefix('[') {
            self.head(at, rest);
        } else if let Some(directive) = line.strip_prefix('#') {
            self.directive(at, directive);
        } else {
            self.option(at, line, cut);
        }
    }

    /// `name](options) anything`.
    fn head(&mut self, at: At, rest: &str) {
        let Some((name, rest)) = rest.split_once(']') else {
            // Its options would go to the section before.
            self.open(at, rest.to_owned());
            self.problem(at, format!("the section's head has no \"]\"; {STOPS}"));
            return;
        };
        let options = match rest.strip_prefix('(') {
            None => {
                if !rest.trim().is_empty() {
                    self.problem(at, "what follows \"]\" is ignored; a template stands in \"(…)\" right behind it");
                }
                ""
            }
            Some(options) => match options.split_once(')') {
                Some((options, _)) => options,
                None => {
                    self.problem(at, format!("the section's head has no \")\"; {STOPS}"));
                    options
                }
            },
        };
        if name.trim() != name {
            self.problem(at, "blanks within \"[ ]\" are part of the name");
        }
        let addition = options.split(',').find_map(|option| option.strip_prefix('+'));
        match addition {
            Some(filter) => match self.find(name, filter) {
                Some(found) => self.current = Some(found),
                None => {
                    self.problem(at, format!("there is no section [{name}] before this to add to; {STOPS}"));
                    self.open(at, name.to_owned());
                }
            },
            None => self.open(at, name.to_owned()),
        }
        for option in options.split(',').filter(|option| !option.starts_with('+')) {
            if option == "!" {
                if let Some(section) = self.current.and_then(|current| self.sections.get_mut(current)) {
                    section.template = true;
                }
            } else if !options.is_empty() {
                self.inherit(at, option);
            }
        }
    }

    fn open(&mut self, at: At, name: String) {
        self.current = Some(self.sections.len());
        self.first.entry(name.clone()).or_insert(self.sections.len());
        self.sections.push(Section { name, template: false, variables: Vec::new(), at });
    }

    /// The first section of the name whose options have all of `a=b&c=d`.
    fn find(&self, name: &str, filter: &str) -> Option<usize> {
        let start = *self.first.get(name)?;
        let wanted: Vec<_> = filter.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let fits = |section: &Section| {
            let has = |(key, value): &(&str, &str)| {
                section.variables.iter().any(|variable| variable.key == *key && variable.value == *value)
            };
            section.name == name && wanted.iter().all(has)
        };
        if wanted.is_empty() {
            return Some(start);
        }
        (start..self.sections.len()).find(|&index| fits(&self.sections[index]))
    }

    fn inherit(&mut self, at: At, base: &str) {
        let Some(current) = self.current else { return };
        let Some(&from) = self.first.get(base).filter(|&&from| from != current) else {
            let said = format!("there is no template [{base}] before this (blanks count); {STOPS}");
            self.problem(at, said);
            return;
        };
        let variables = self.sections[from].variables.clone();
        let size: usize = variables.iter().map(|it| it.key.len() + it.value.len() + size_of::<Variable>()).sum();
        if self.inherited.saturating_add(size) > INHERITED {
            self.partial = true;
            self.problem(at, format!("not inherited: templates would take more than {INHERITED} bytes"));
            return;
        }
        self.inherited += size;
        self.sections[current].variables.extend(variables);
    }

    fn directive(&mut self, at: At, text: &str) {
        let (word, argument) = text.split_once(|c: char| c <= ' ').unwrap_or((text, ""));
        let argument = argument.trim();
        let path = argument.strip_prefix(['"', '<']).unwrap_or(argument);
        let path = if path.len() < argument.len() { path.strip_suffix(['"', '>']).unwrap_or(path) } else { path };
        let must = match word.to_ascii_lowercase().as_str() {
            "include" => true,
            "tryinclude" => false,
            "exec" => {
                self.partial = true;
                self.problem(at, "#exec is not run here, so what it would print is missing");
                return;
            }
            _ => {
                self.problem(at, "Asterisk does not know this directive, and ignores it; a comment begins with \";\"");
                return;
            }
        };
        if path.is_empty() {
            self.problem(at, format!("#{word} names no file, and is ignored"));
            return;
        }
        if self.stack.len() >= DEPTH {
            self.partial = true;
            self.problem(at, format!("files are included more than {DEPTH} deep; Asterisk stops there too"));
            return;
        }
        let found = match (self.include)(path) {
            Ok(found) if found.is_empty() && must => Err("no such file".to_owned()),
            found => found,
        };
        match found {
            Ok(found) => {
                let current = self.current;
                for (name, text) in found {
                    self.included(at, &name, &text);
                    // What follows the directive goes on with the section it stands in.
                    self.current = current.or(self.current);
                }
            }
            Err(error) if must => {
                self.partial = true;
                self.problem(at, format!("{path} is not read: {error}. Were it missing there too: {STOPS}"));
            }
            Err(_) => {}
        }
    }

    fn included(&mut self, at: At, name: &str, text: &[u8]) {
        if self.stack.iter().any(|open| open == name) {
            self.problem(at, format!("{name} includes itself; the inner one is not read. Remove the #include"));
        } else if self.files.len() >= FILES || self.bytes >= BYTES {
            self.partial = true;
            self.problem(at, format!("{name} is not read: {FILES} files or {BYTES} bytes are read in all"));
        } else {
            self.file(name, text);
        }
    }

    fn option(&mut self, at: At, line: &str, cut: bool) {
        let Some((key, value)) = line.split_once('=') else {
            self.problem(at, "neither a section, nor an option: there is no \"=\"; Asterisk ignores the line");
            return;
        };
        let (key, appends) = key.strip_suffix('+').map_or((key, false), |key| (key, true));
        let key = trim_text(key);
        let value = value.strip_prefix('>').unwrap_or(value);
        if key.is_empty() {
            self.problem(at, "there is no name before \"=\"; Asterisk ignores the line");
            return;
        }
        let Some(section) = self.current.and_then(|current| self.sections.get_mut(current)) else {
            self.problem(at, format!("an option before the first section; {STOPS}"));
            return;
        };
        let last = section.variables.iter_mut().rev().find(|it| it.key.eq_ignore_ascii_case(key));
        if let (true, Some(last)) = (appends, last) {
            // As it stands there: Asterisk keeps the blank behind "+=".
            last.value.push_str(value);
            last.at = at;
        } else {
            let value = trim_text(value);
            section.variables.push(Variable { key: key.to_owned(), value: value.to_owned(), at });
            if cut && is_cut_by_mistake(key, value) {
                let said = format!(
                    "the \";\" in {key} begins a comment, so its value ends there; write \"\\;\" if it belongs to the value"
                );
                self.problem(at, said);
            }
        }
    }
}

/// Whether a `;` right behind this value was hardly meant to begin a comment.
fn is_cut_by_mistake(key: &str, value: &str) -> bool {
    let option = key.rsplit('/').next().unwrap_or(key);
    let is = |words: &[&str]| words.iter().any(|word| option.eq_ignore_ascii_case(word));
    is(&["password", "username", "realm"]) || value.contains("sip:") || value.contains("sips:")
}

fn push_problem(problems: &mut Vec<ConfProblem>, files: &[String], at: At, text: String) {
    let place = Place { file: files.get(at.file).cloned().unwrap_or_default(), line: at.line };
    match problems.len() {
        0..PROBLEMS => problems.push(ConfProblem { place, text }),
        PROBLEMS => problems.push(ConfProblem { place, text: format!("and more; {PROBLEMS} problems are told") }),
        _ => {}
    }
}

/// A line without its comments, and whether one began right behind a word; `None` if all of it is within a comment
/// begun before. `nest` counts the open `;--`; below zero, after a `--;` too many, everything is a comment too.
fn strip_comments(line: &[u8], nest: &mut i32) -> Option<(Vec<u8>, bool)> {
    let mut kept = (*nest == 0).then(Vec::new);
    // Whether text is kept at this point.
    let (mut open, mut cut) = (kept.is_some(), false);
    let mut rest = line;
    while let Some(at) = memchr::memchr(b';', rest) {
        let (before, after) = (&rest[..at], &rest[at + 1..]);
        let mut keep = |text: &[u8]| {
            if let (true, Some(kept)) = (open, kept.as_mut()) {
                kept.extend_from_slice(text);
            }
        };
        if let Some(before) = before.strip_suffix(b"\\") {
            keep(before);
            keep(b";");
            rest = after;
        } else if after.starts_with(b"--") && after.get(2) != Some(&b'-') {
            keep(before);
            open = false;
            *nest = nest.saturating_add(1);
            rest = &after[2..];
        } else if before.ends_with(b"--") {
            keep(&rest[..=at]);
            *nest = nest.saturating_sub(1);
            if *nest == 0 {
                open = true;
                kept.get_or_insert_default();
            }
            rest = after;
        } else if *nest == 0 {
            keep(before);
            cut = before.last().is_some_and(|byte| *byte > b' ');
            open = false;
            break;
        } else {
            keep(&rest[..=at]);
            rest = after;
        }
    }
    if let (true, Some(kept)) = (open, kept.as_mut()) {
        kept.extend_from_slice(rest);
    }
    kept.map(|kept| (kept, cut))
}

/// Asterisk's blanks: everything up to and with the space.
fn trim(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| *byte > b' ').unwrap_or(text.len());
    let end = text.iter().rposition(|byte| *byte > b' ').map_or(start, |last| last + 1);
    &text[start..end]
}

fn trim_text(text: &str) -> &str {
    text.trim_matches(|c: char| c <= ' ')
}

/// Makes objects of sections.
struct Builder {
    files: Vec<String>,
    objects: Objects,
    problems: Vec<ConfProblem>,
}

impl Builder {
    fn problem(&mut self, at: At, text: impl Into<String>) {
        push_problem(&mut self.problems, &self.files, at, text.into());
    }

    fn place(&self, at: At) -> Place {
        Place { file: self.files.get(at.file).cloned().unwrap_or_default(), line: at.line }
    }

    fn section(&mut self, section: &Section) {
        let Some(kind) = section.variables.iter().find(|variable| variable.key.eq_ignore_ascii_case("type")) else {
            self.problem(section.at, format!("[{}] has no type=, so Asterisk ignores it", section.name));
            return;
        };
        if kind.value == "wizard" {
            self.wizard(section);
            return;
        }
        let Some(known) = Kind::ALL.into_iter().find(|known| known.as_str() == kind.value) else {
            let near = |known: &Kind| strsim::jaro_winkler(known.as_str(), &kind.value.to_ascii_lowercase()) > 0.93;
            if let Some(near) = Kind::ALL.into_iter().find(near) {
                let at = kind.at;
                let said =
                    format!("[{}] has a type Asterisk does not know, and is ignored; write type={near}", section.name);
                self.problem(at, said);
            }
            return;
        };
        if self.begin(known, &section.name, section.at) {
            for variable in &section.variables {
                self.set(known, &section.name, &variable.key, &variable.value, variable.at);
            }
            self.repeated(section);
        }
    }

    /// Makes an object; `false` if there is one.
    fn begin(&mut self, kind: Kind, name: &str, at: At) -> bool {
        if let Some(other) = self.objects.place_of(kind, name) {
            let said = format!(
                "[{name}] of type={kind} is there already ({other}); Asterisk then leaves out every object of type={kind}. \
                 Remove or rename one"
            );
            self.problem(at, said);
            return false;
        }
        let place = Some(self.place(at));
        let (objects, name) = (&mut self.objects, name.to_owned());
        match kind {
            Kind::Registration => objects.registrations.entry(name).or_default().place = place,
            Kind::Auth => objects.auths.entry(name).or_default().place = place,
            Kind::Endpoint => objects.endpoints.entry(name).or_default().place = place,
            Kind::Aor => objects.aors.entry(name).or_default().place = place,
            Kind::Identify => objects.identifies.entry(name).or_default().place = place,
            Kind::Transport => {
                let transport = objects.transports.entry(name).or_default();
                transport.place = place;
                transport.has_ca_list = Some(false);
            }
        }
        true
    }

    fn set(&mut self, kind: Kind, name: &str, key: &str, value: &str, at: At) {
        let option = key.to_ascii_lowercase();
        if option == "type" || option.starts_with('@') {
            return;
        }
        let place = self.place(at);
        self.objects.lines.insert((kind, name.to_owned(), option.clone()), place);
        let leaves_out = format!("Asterisk leaves [{name}] of type={kind} out as a whole");
        match set(&mut self.objects, kind, name, &option, value) {
            Taken::Yes => {}
            Taken::Ignored => {
                let Some(options) = known(kind).filter(|options| !options.contains(&option.as_str())) else { return };
                let near = |option: &&&str| strsim::jaro_winkler(option, key) > 0.85;
                let nearest = options.iter().filter(near).max_by(|one, other| {
                    strsim::jaro_winkler(one, &option).total_cmp(&strsim::jaro_winkler(other, &option))
                });
                let meant = nearest.map(|nearest| format!(" (is {nearest} meant?)")).unwrap_or_default();
                self.problem(
                    at,
                    format!("{key} is no option of type={kind} in Asterisk 22{meant}; where it is none, {leaves_out}"),
                );
            }
            Taken::Unreadable(Wanted::YesOrNo) => {
                // Whatever is not a spelling of yes.
                set(&mut self.objects, kind, name, &option, "no");
                self.problem(at, format!("{key} is neither yes nor no, and Asterisk takes it for no"));
            }
            Taken::Unreadable(wanted @ (Wanted::Number | Wanted::Md5 | Wanted::Digest)) => {
                self.problem(at, format!("{key} is not {}; {leaves_out}", wanted.as_str()));
            }
        }
    }

    /// Lists of names do not add up.
    fn repeated(&mut self, section: &Section) {
        for list in ["outbound_auth", "auth", "aors"] {
            let mut its = section.variables.iter().filter(|variable| variable.key.eq_ignore_ascii_case(list));
            let (first, last) = (its.next(), its.next_back());
            if let (Some(first), Some(last)) = (first, last)
                && first.at.file == last.at.file
                && first.at.line >= section.at.line
                && section.at.file == first.at.file
            {
                let at = last.at;
                self.problem(
                    at,
                    format!("{list} is set again: only this line counts; write all names into one, with commas"),
                );
            }
        }
    }

    /// What Asterisk asks of an object before it takes it.
    fn check(&mut self) {
        let mut found: Vec<(Place, String)> = Vec::new();
        let mut say = |place: &Option<Place>, kind: Kind, name: &str, text: &str| {
            if let Some(place) = place {
                found.push((place.clone(), format!("[{name}] of type={kind} {text}; Asterisk leaves it out")));
            }
        };
        for (name, it) in &self.objects.registrations {
            let mut say = |text| say(&it.place, Kind::Registration, name, text);
            if it.client_uri.is_empty() {
                say("has no client_uri");
            }
            if it.server_uri.is_empty() {
                say("has no server_uri");
            }
            match (it.line, &it.endpoint) {
                (Some(true), None) => say("has line=yes without endpoint="),
                (None | Some(false), Some(_)) => say("has endpoint= without line=yes"),
                (Some(true), Some(_)) | (None | Some(false), None) => {}
            }
        }
        for (name, it) in &self.objects.auths {
            // Others need neither: `google_oauth` has a token, and it is not for registrars.
            let digest = it.auth_type.as_deref().is_none_or(|word| ["userpass", "md5", "digest"].contains(&word));
            if digest && it.username.is_none() {
                say(&it.place, Kind::Auth, name, "has no username");
            }
            if digest && it.secrets.is_empty() {
                say(&it.place, Kind::Auth, name, "has no password that can be read");
            }
        }
        for (name, it) in &self.objects.transports {
            if it.bind.is_none() {
                say(&it.place, Kind::Transport, name, "has no bind");
            }
        }
        for (place, text) in found {
            if self.problems.len() < PROBLEMS {
                self.problems.push(ConfProblem { place, text });
            }
        }
    }

    /// The objects that `res_pjsip_config_wizard` makes of a section.
    fn wizard(&mut self, wizard: &Section) {
        let name = wizard.name.as_str();
        let sends_auth = wizard.is_true("sends_auth");
        let accepts_auth = wizard.is_true("accepts_auth");
        let accepts_registrations = wizard.is_true("accepts_registrations");
        let (oauth, iauth) = (format!("{name}-oauth"), format!("{name}-iauth"));
        let hosts = wizard.last("remote_hosts");
        let hosts_at = hosts.map_or(wizard.at, |hosts| hosts.at);
        let hosts: Vec<&str> = hosts.map(|hosts| hosts.value.split(',').map(trim_text)).into_iter().flatten().collect();
        let hosts: Vec<&str> = hosts.into_iter().filter(|host| !host.is_empty()).collect();
        let username = wizard.last("outbound_auth/username").filter(|_| sends_auth).map_or(name, |it| &it.value);
        let pattern = |option: &str, default: &str, host: &str| {
            let (text, at) = wizard.last(option).map_or((default, hosts_at), |it| (it.value.as_str(), it.at));
            (text.replace("${REMOTE_HOST}", host).replace("${USERNAME}", username), at)
        };

        if sends_auth && self.begin(Kind::Auth, &oauth, wizard.at) {
            self.prefixed(wizard, "outbound_auth/", Kind::Auth, &oauth);
        }
        if accepts_auth && self.begin(Kind::Auth, &iauth, wizard.at) {
            self.prefixed(wizard, "inbound_auth/", Kind::Auth, &iauth);
        }
        if self.begin(Kind::Aor, name, wizard.at) {
            self.prefixed(wizard, "aor/", Kind::Aor, name);
            for host in hosts.iter().filter(|_| !accepts_registrations) {
                let (contact, at) = pattern("contact_pattern", "sip:${REMOTE_HOST}", host);
                self.set(Kind::Aor, name, "contact", &contact, at);
            }
        }
        if self.begin(Kind::Endpoint, name, wizard.at) {
            self.shared(wizard, Kind::Endpoint, name);
            self.prefixed(wizard, "endpoint/", Kind::Endpoint, name);
            self.set(Kind::Endpoint, name, "aors", name, wizard.at);
            if sends_auth {
                self.set(Kind::Endpoint, name, "outbound_auth", &oauth, wizard.at);
            }
            if accepts_auth {
                self.set(Kind::Endpoint, name, "auth", &iauth, wizard.at);
            }
        }
        let identify = format!("{name}-identify");
        let matches = wizard.last("identify/match").is_some();
        if !accepts_registrations && (matches || !hosts.is_empty()) && self.begin(Kind::Identify, &identify, wizard.at)
        {
            self.set(Kind::Identify, &identify, "endpoint", name, wizard.at);
            if !matches {
                self.set(Kind::Identify, &identify, "match", &hosts.join(","), hosts_at);
            }
            self.prefixed(wizard, "identify/", Kind::Identify, &identify);
        }
        if !wizard.is_true("sends_registrations") {
            return;
        }
        for (number, host) in hosts.iter().enumerate() {
            let registration = format!("{name}-reg-{number}");
            if !self.begin(Kind::Registration, &registration, wizard.at) {
                continue;
            }
            self.shared(wizard, Kind::Registration, &registration);
            for (option, default) in
                [("server_uri", "sip:${REMOTE_HOST}"), ("client_uri", "sip:${USERNAME}@${REMOTE_HOST}")]
            {
                let (uri, at) = pattern(&format!("{option}_pattern"), default, host);
                self.set(Kind::Registration, &registration, option, &uri, at);
            }
            if sends_auth {
                self.set(Kind::Registration, &registration, "outbound_auth", &oauth, wizard.at);
            }
            if let Some(line) =
                wizard.last("sends_line_with_registrations").filter(|it| yes_or_no(&it.value) == Some(true))
            {
                self.set(Kind::Registration, &registration, "line", "yes", line.at);
                self.set(Kind::Registration, &registration, "endpoint", name, line.at);
            }
            self.prefixed(wizard, "registration/", Kind::Registration, &registration);
        }
    }

    /// `transport` and `outbound_proxy` of a wizard are its endpoint's and its registrations'.
    fn shared(&mut self, wizard: &Section, kind: Kind, name: &str) {
        for option in ["transport", "outbound_proxy"] {
            if let Some(variable) = wizard.last(option) {
                self.set(kind, name, option, &variable.value, variable.at);
            }
        }
    }

    fn prefixed(&mut self, wizard: &Section, prefix: &str, kind: Kind, name: &str) {
        for variable in &wizard.variables {
            let key = variable.key.as_str();
            if let Some((start, option)) = key.split_at_checked(prefix.len())
                && start.eq_ignore_ascii_case(prefix)
            {
                self.set(kind, name, option, &variable.value, variable.at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::wire::{
        ami::{
            Message,
            codec::{DecodeLimits, Decoder, Frame},
        },
        sip::digest::Secret,
    };

    /// The objects of a text that includes nothing, and its problems as printed.
    fn reading(text: &str) -> (Objects, Vec<String>) {
        let (objects, problems) = read("pjsip.conf", text.as_bytes(), &mut |_| Err("not here".to_owned()));
        (objects, problems.iter().map(ToString::to_string).collect())
    }

    /// The username, realm and password of an auth.
    fn auth(objects: &Objects, name: &str) -> [String; 3] {
        let auth = objects.auths.get(name).unwrap_or_else(|| panic!("no auth {name:?}"));
        let password = auth.password().map(|word| word.expose_secret().to_owned());
        [auth.username.clone(), auth.realm.clone(), password].map(Option::unwrap_or_default)
    }

    fn one_auth(options: &str) -> ([String; 3], Vec<String>) {
        let (objects, problems) = reading(&format!("[a]\ntype=auth\n{options}\n"));
        (auth(&objects, "a"), problems)
    }

    /// What Asterisk said of it over AMI is in the recordings beside it.
    #[test]
    fn the_recorded_file_says_what_asterisk_said_of_it() {
        let file = include_bytes!("../../../tests/fixtures/pjsip/odd.conf");
        let (mut read, problems) = read("odd.conf", file, &mut |_| Err("none".to_owned()));
        let mut listed = Objects::default();
        for recording in [
            include_str!("../../../tests/fixtures/pjsip/ami-show-registrations-outbound.txt"),
            include_str!("../../../tests/fixtures/pjsip/ami-show-auths.txt"),
            include_str!("../../../tests/fixtures/pjsip/ami-show-endpoint.txt"),
        ] {
            let mut decoder = Decoder::new(DecodeLimits::default());
            for line in recording.lines().filter(|line| !line.starts_with("##")) {
                decoder.feed(format!("{}\r\n", line.trim_end_matches('\r')).as_bytes());
            }
            while let Some(Frame::Message(message)) = decoder.next_frame().unwrap() {
                listed.take(&message);
            }
        }
        let printed = include_str!("../../../tests/fixtures/pjsip/ami-command-show-transport.txt");
        let printed: Vec<&str> = printed.split("## ").collect();
        for (name, part) in [("nat", 1), ("tls-b", 2), ("name with space", 3)] {
            listed.take_printed(Kind::Transport, name, &Message::from_text(printed[part].split_once('\n').unwrap().1));
        }

        // What it names is what Asterisk has, less what it said to leave out.
        let lost: Vec<_> = problems.iter().filter(|problem| problem.text.contains("leaves")).collect();
        assert_eq!(lost.len(), 3, "{problems:#?}");
        assert!(lost.iter().all(|problem| problem.text.contains("[no-secret]") || problem.text.contains("[typo]")));
        for name in ["no-secret", "typo"] {
            assert!(read.auths.remove(name).is_some() && !listed.auths.contains_key(name));
        }
        assert!(read.registrations.keys().eq(listed.registrations.keys()));
        assert!(read.auths.keys().eq(listed.auths.keys()));
        for (name, its) in &listed.registrations {
            let own = &read.registrations[name];
            assert_eq!((&own.client_uri, &own.server_uri), (&its.client_uri, &its.server_uri), "{name}");
            assert_eq!((&own.transport, &own.outbound_auth), (&its.transport, &its.outbound_auth), "{name}");
            assert_eq!((&own.contact_user, &own.outbound_proxy), (&its.contact_user, &its.outbound_proxy), "{name}");
            assert_eq!((&own.endpoint, own.line.unwrap_or(false)), (&its.endpoint, its.line.unwrap()), "{name}");
            assert_eq!(own.retry_interval, its.retry_interval, "{name}");
            assert!(read.registration_by_uris(&its.client_uri, &its.server_uri).contains(&name.as_str()));
        }
        let secrets = |objects: &Objects, name: &str| {
            let shown = |secret: &Secret| match secret {
                Secret::Password(word) => word.expose_secret().to_owned(),
                Secret::Ha1(algorithm, hash) => format!("{algorithm:?} {}", hash.expose_secret()),
            };
            objects.auths[name].secrets.iter().map(shown).collect::<Vec<_>>()
        };
        for (name, its) in &listed.auths {
            assert_eq!(auth(&read, name), auth(&listed, name));
            assert_eq!((secrets(&read, name), &read.auths[name].auth_type), (secrets(&listed, name), &its.auth_type));
        }
        let (own, its) = (&read.endpoints["odd"], &listed.endpoints["odd"]);
        assert_eq!((&own.aors, &own.auth, &own.outbound_auth), (&its.aors, &its.auth, &its.outbound_auth));
        assert_eq!((own.rewrite_contact, own.force_rport), (its.rewrite_contact, its.force_rport));
        assert_eq!((&own.media_address, &own.from_domain), (&its.media_address, &its.from_domain));
        assert_eq!(read.aors["odd"].contacts.len(), listed.aors["odd"].contacts.len());
        for name in ["nat", "tls-b", "name with space"] {
            let (own, its) = (&read.transports[name], &listed.transports[name]);
            assert_eq!((&own.protocol, &own.bind), (&its.protocol, &its.bind), "{name}");
            assert_eq!(own.external_signaling_address, its.external_signaling_address);
            assert_eq!((own.external_signaling_port, own.has_ca_list), (its.external_signaling_port, its.has_ca_list));
            assert_eq!(
                (own.local_net.len(), own.verify_server.unwrap_or(false)),
                (its.local_net.len(), its.verify_server.unwrap())
            );
        }
        for ip in ["203.0.113.7", "203.0.113.8", "198.51.100.200", "2001:db8::1", "127.0.0.1", "192.0.2.1"] {
            let admits = |objects: &Objects| {
                let ip = ip.parse().unwrap();
                objects
                    .identifies_of("odd")
                    .iter()
                    .map(|(name, it)| format!("{name} {}", it.admits(ip)))
                    .collect::<Vec<_>>()
            };
            assert_eq!(admits(&read), admits(&listed), "{ip}");
        }
    }

    #[test]
    fn each_object_and_option_has_its_line_also_one_from_a_template() {
        let text = "[tpl](!)\ntype=registration\ntransport=udp\n\n[r](tpl)\nclient_uri=sip:a@b\n; no\nserver_uri=sip:b\n[r](+)\nTransport=tcp\n";
        let (objects, problems) = reading(text);
        let line = |option: &str| objects.line_of(Kind::Registration, "r", option).map(|place| place.line);
        assert_eq!(
            (line("client_uri"), line("server_uri"), line("TRANSPORT"), line("line")),
            (Some(6), Some(8), Some(10), None)
        );
        assert_eq!(objects.place_of(Kind::Registration, "r").unwrap().to_string(), "pjsip.conf line 5");
        assert_eq!(objects.registrations["r"].transport.as_deref(), Some("tcp"));
        assert!(!objects.registrations.contains_key("tpl") && problems.is_empty(), "{problems:?}");
        let (objects, _) = reading("[t](!)\ntype=aor\nqualify_frequency=7\n[a](t)\n");
        assert_eq!(objects.line_of(Kind::Aor, "a", "qualify_frequency").map(|place| place.line), Some(3));
    }

    #[test]
    fn templates_add_up_in_their_order_and_other_sections_can_be_templates() {
        let text = "[t](!)\ntype=auth\nusername=u\nrealm=t\npassword=p\n[t2](!,t)\nrealm=t2\n[a](t,t2)\n[b](t2,t)\n[c](t2)\nusername=own\n\
                    [d](a)\nrealm=d\n[e](t,!)\nusername=e\n[f](e)\n[a](+)\nusername=added\n";
        let (objects, problems) = reading(text);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(objects.auths.keys().collect::<Vec<_>>(), ["a", "b", "c", "d", "f"]);
        assert_eq!(auth(&objects, "a"), ["added", "t2", "p"]);
        assert_eq!(auth(&objects, "b"), ["u", "t", "p"]);
        assert_eq!(auth(&objects, "c"), ["own", "t2", "p"]);
        assert_eq!(auth(&objects, "d"), ["u", "d", "p"], "it has what [a] had before it was added to");
        assert_eq!(auth(&objects, "f"), ["e", "t", "p"]);
    }

    #[test]
    fn an_addition_is_to_the_first_of_the_name_or_to_the_one_its_filter_finds() {
        let text = "[x]\ntype=auth\nusername=u\npassword=p\n[x]\ntype=aor\n[x](+)\nrealm=r\n[x](+type=aor)\nqualify_frequency=31\n";
        let (objects, problems) = reading(text);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(auth(&objects, "x"), ["u", "r", "p"]);
        assert_eq!(objects.aors["x"].qualify_frequency, Some(31));
    }

    /// Each line was given to Asterisk 22.10.1, and this is what `PJSIPShowAuths` said.
    #[test]
    fn options_are_read_as_asterisk_reads_them() {
        for (options, expected) in [
            ("AUTH_TYPE=userpass\nUserName=case\nPassword=p", ["case", "", "p"]),
            (" username=>six\n\tpassword\t=\tp 6\t ", ["six", "", "p 6"]),
            ("username = u ; trailing\npassword => p", ["u", "", "p"]),
            ("username=\"quoted\"\npassword=a\\\\;b", ["\"quoted\"", "", "a\\;b"]),
            ("username=bs\\x\npassword=a\\\\\\;b;c", ["bs\\x", "", "a\\\\;b"]),
            ("username=a=b\npassword=x => y", ["a=b", "", "x => y"]),
            ("username=multi\nusername=last\npassword=p", ["last", "", "p"]),
            ("username=u\nusername+=61\npassword = p\npassword += 61", ["u61", "", "p 61"]),
            (
                "username=nine\n;-- a block\npassword=hidden\n--; password=after\n;--- no block\nrealm=nine ;-- within --; rest",
                ["nine", "nine  rest", "after"],
            ),
            ("username=u\npassword=p ;-- c1 ;-- nested\n--; still ; comment --; realm=r", ["u", "r", "p"]),
            ("username=u\npassword=p\nrealm=x ;-- a \\; --; y", ["u", "x  y", "p"]),
            ("username=u\npassword=p\nrealm=", ["u", "", "p"]),
            // The file beyond is a comment.
            ("username=u\npassword=abc--;def\nrealm=r", ["u", "", "abc--;def"]),
        ] {
            assert_eq!(one_auth(options).0, expected, "{options}");
        }
    }

    #[test]
    fn a_semicolon_within_a_password_or_a_uri_is_told_without_showing_it() {
        let (read, problems) = one_auth("username=u\npassword=hush;hush");
        assert_eq!(read[2], "hush");
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("pjsip.conf line 4: the \";\" in password begins a comment"), "{problems:?}");
        assert!(!problems[0].contains("hush"));
        let (_, problems) = reading("[r]\ntype=registration\nclient_uri=sip:a@b\nserver_uri=sip:b;transport=tls\n");
        assert!(problems[0].starts_with("pjsip.conf line 4: the \";\" in server_uri"), "{problems:?}");
        let (_, problems) = one_auth("username=u\npassword=p ; a comment\nrealm=r\\;s");
        assert!(problems.is_empty(), "{problems:?}");
    }

    #[test]
    fn what_makes_asterisk_leave_objects_out_is_told_with_its_line() {
        for (text, line, says) in [
            ("[a]\ntype=auth\nusernmae=u\nusername=u\npassword=p", 3, "is username meant?"),
            ("[a]\ntype=auth\npassword=p", 1, "no username"),
            ("[a]\ntype=auth\nusername=u", 1, "no password"),
            ("[a]\ntype=auth\nusername=u\nmd5_cred=hush", 4, "32 hexadecimal digits"),
            ("[a]\ntype=Auth\nusername=u", 2, "type=auth"),
            ("[a]\nusername=u", 1, "no type="),
            ("[a]\ntype=aor\n[a]\ntype=aor", 3, "every object of type=aor"),
            ("[r]\ntype=registration\nclient_uri=sip:a@b", 1, "no server_uri"),
            ("[r]\ntype=registration\nclient_uri=sip:a@b\nserver_uri=sip:b\nmax_retries=", 5, "a whole number"),
            ("[r]\ntype=registration\nclient_uri=sip:a@b\nserver_uri=sip:b\nline=yes", 1, "line=yes without endpoint="),
            (
                "[r]\ntype=registration\nclient_uri=sip:a@b\nserver_uri=sip:b\nauth_rejection_permanent=maybe",
                5,
                "takes it for no",
            ),
            (
                "[r]\ntype=registration\nclient_uri=sip:a@b\nserver_uri=sip:b\noutbound_auth=a\noutbound_auth=b",
                6,
                "only this line counts",
            ),
            ("[t]\ntype=transport\nprotocol=udp", 1, "no bind"),
            ("[a\ntype=aor", 1, "no \"]\""),
            ("[a](b\ntype=aor", 1, "no \")\""),
            ("[a](nope)\ntype=aor", 1, "no template [nope]"),
            ("[a](+)\ntype=aor", 1, "no section [a] before"),
            ("[ a ]\ntype=aor", 1, "part of the name"),
            ("[a] (t)\ntype=aor", 1, "what follows"),
            ("x=y", 1, "before the first section"),
            ("[a]\ntype=aor\nhush", 3, "no \"=\""),
            ("[a]\ntype=aor\n=hush", 3, "no name before"),
            ("#hush hush", 1, "does not know this directive"),
            ("#include", 1, "names no file"),
            ("#exec \"rm -rf /\"", 1, "not run here"),
            ("[a]\ntype=aor\n;-- hush", 3, "has no end"),
            ("[a]\ntype=aor\n--; hush", 3, "none was begun"),
            ("\u{feff}[a]\ntype=aor", 1, "byte order mark"),
        ] {
            let (_, problems) = reading(text);
            let wanted =
                |problem: &String| problem.starts_with(&format!("pjsip.conf line {line}: ")) && problem.contains(says);
            assert!(problems.iter().any(wanted), "{text}: {problems:?}");
            assert!(!problems.concat().contains("hush"), "{problems:?}");
        }
        // Whatever they are, the reading goes on.
        let (objects, _) = reading("x=y\n[a\n]\n#bad\n[a](nope,+)\n[b](\n[ok]\ntype=aor\nqualify_frequency=3\n");
        assert_eq!(objects.aors["ok"].qualify_frequency, Some(3));
    }

    #[test]
    fn text_that_is_not_utf8_is_read_and_told_once() {
        let text = b"[a]\ntype=auth\nusername=jos\xe9\npassword=\xff\n";
        let (objects, problems) = read("pjsip.conf", text, &mut |_| Err("none".to_owned()));
        assert_eq!(auth(&objects, "a")[0], "jos\u{fffd}");
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(objects.complete.auths, "all of it was read");
    }

    /// Files by name; a path that ends in `*` is a pattern.
    fn with_files<'a>(
        files: &'a [(&'a str, &'a str)],
    ) -> impl FnMut(&str) -> Result<Vec<(String, Vec<u8>)>, String> + 'a {
        |path| {
            let fits = |name: &str| match path.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => name == path,
            };
            let found = files.iter().filter(|(name, _)| fits(name));
            Ok(found.map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect())
        }
    }

    #[test]
    fn includes_are_read_where_they_stand_and_options_behind_them_go_on_with_their_section() {
        let files = [
            ("d/b.conf", "realm=from-b\n[b]\ntype=auth\nusername=ub\npassword=pb\n"),
            ("d/a.conf", "[a]\ntype=auth\nusername=ua\npassword=pa\n"),
            ("one.conf", "[one]\ntype=aor\n"),
        ];
        let text = "[m]\ntype=auth\nusername=um\n#include \"d/b.conf\" ; said\npassword=pm\n#include <d/a.conf>\n#tryinclude nothing.conf\n#INCLUDE one.conf\n";
        let (objects, problems) = read("pjsip.conf", text.as_bytes(), &mut with_files(&files));
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(auth(&objects, "m"), ["um", "from-b", "pm"]);
        assert_eq!((auth(&objects, "a")[0].as_str(), auth(&objects, "b")[0].as_str()), ("ua", "ub"));
        let place = |kind, name| objects.place_of(kind, name).unwrap().to_string();
        assert_eq!(place(Kind::Auth, "b"), "d/b.conf line 2");
        assert_eq!(objects.line_of(Kind::Auth, "m", "realm").unwrap().to_string(), "d/b.conf line 1");
        assert_eq!(objects.line_of(Kind::Auth, "m", "password").unwrap().to_string(), "pjsip.conf line 5");
        assert!(objects.complete.auths && objects.complete.transports && objects.aors.contains_key("one"));
        let (objects, problems) = read("pjsip.conf", b"#include d/*\n", &mut with_files(&files));
        assert!(problems.iter().all(|problem| problem.text.contains("before the first section")), "{problems:?}");
        assert_eq!(objects.auths.len(), 2);
    }

    #[test]
    fn an_include_that_is_not_there_is_told_and_a_name_may_then_stand_in_it() {
        let (objects, problems) = reading("[a]\ntype=aor\n#include \"gone.conf\"\n[b]\ntype=aor\n");
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("pjsip.conf line 3: gone.conf is not read: not here"), "{problems:?}");
        assert_eq!(objects.complete, Completeness::default());
        assert_eq!(objects.aors.len(), 2);
        let (_, problems) = read("pjsip.conf", b"#include none*\n", &mut with_files(&[]));
        assert!(problems[0].text.contains("no such file"));
    }

    #[test]
    fn circles_and_depths_end() {
        let files = [
            ("a.conf", "[a]\ntype=aor\n#include b.conf\n"),
            ("b.conf", "#include a.conf\n#include pjsip.conf\n[b]\ntype=aor\n"),
        ];
        let (objects, problems) = read("pjsip.conf", b"#include a.conf\n", &mut with_files(&files));
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].to_string().starts_with("b.conf line 1: a.conf includes itself"));
        assert_eq!(objects.aors.len(), 2);
        // Each time another name.
        let mut number = 0;
        let mut endless = |_: &str| {
            number += 1;
            Ok(vec![(format!("{number}.conf"), b"#include again\n#include again\n".to_vec())])
        };
        let (objects, problems) = read("pjsip.conf", b"#include again\n", &mut endless);
        assert!(problems.iter().all(|problem| problem.text.contains("deep")), "{problems:?}");
        assert!(!objects.complete.auths);
        assert_eq!(number, 511, "two at each of nine depths below the first");
    }

    #[test]
    fn templates_that_double_and_files_without_end_are_cut_off() {
        let mut text = format!("[t0](!)\ntype=auth\nusername={}\n", "u".repeat(1000));
        for level in 1..60 {
            text.push_str(&format!("[t{level}](!,t{},t{})\n", level - 1, level - 1));
        }
        let (objects, problems) = reading(&text);
        assert!(problems.iter().any(|problem| problem.contains("not inherited")), "{problems:?}");
        assert!(!objects.complete.auths);
        let large = "; a comment\n".repeat(BYTES / 12 + 10);
        let (objects, problems) = reading(&large);
        assert!(problems[0].contains("not read to its end") && !objects.complete.auths);
        let (_, problems) = reading(&"[]\n".repeat(5000));
        assert_eq!(problems.len(), PROBLEMS + 1);
    }

    /// Each was given to Asterisk 22.10.1, and this is what AMI said.
    #[test]
    fn a_wizard_makes_the_objects_that_asterisk_makes_of_it() {
        let text = "[t](!)\ntype=wizard\nsends_auth=yes\nsends_registrations=yes\n\
            [w](t)\nremote_hosts=127.0.0.1:20001,127.0.0.2:5070\ntransport=tcp\noutbound_auth/username=w2\noutbound_auth/password=w2pw\n\
            endpoint/from_user=w2\naor/qualify_frequency=33\nidentify/match=192.0.2.3\nregistration/retry_interval=44\n\
            outbound_proxy=sip:proxy.example\\;lr\naccepts_auth=yes\ninbound_auth/username=in\ninbound_auth/password=inpw\n\
            [v]\ntype=wizard\nsends_auth=no\nsends_registrations=yes\nsends_line_with_registrations=yes\nremote_hosts=v.example:5080\n\
            outbound_auth/username=vu\nregistration/contact_user=vcu\nendpoint/aors=other\ncontact_pattern=sip:${REMOTE_HOST}\\;transport=tcp\n\
            [in]\ntype=wizard\naccepts_registrations=yes\nremote_hosts=in.example\n";
        let (objects, problems) = reading(text);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(objects.registrations.keys().collect::<Vec<_>>(), ["v-reg-0", "w-reg-0", "w-reg-1"]);
        let second = &objects.registrations["w-reg-1"];
        assert_eq!(
            (second.client_uri.as_str(), second.server_uri.as_str()),
            ("sip:w2@127.0.0.2:5070", "sip:127.0.0.2:5070")
        );
        assert_eq!(
            (second.transport.as_deref(), second.outbound_proxy.as_deref()),
            (Some("tcp"), Some("sip:proxy.example;lr"))
        );
        assert_eq!(
            (second.retry_interval, &second.outbound_auth[..], second.line),
            (Some(44), &["w-oauth".to_owned()][..], None)
        );
        assert_eq!(auth(&objects, "w-oauth"), ["w2", "", "w2pw"]);
        assert_eq!(auth(&objects, "w-iauth"), ["in", "", "inpw"]);
        let (endpoint, aor) = (&objects.endpoints["w"], &objects.aors["w"]);
        assert_eq!((&endpoint.aors[..], endpoint.from_user.as_deref()), (&["w".to_owned()][..], Some("w2")));
        assert_eq!(
            (&endpoint.auth[..], &endpoint.outbound_auth[..]),
            (&["w-iauth".to_owned()][..], &["w-oauth".to_owned()][..])
        );
        assert_eq!(aor.contacts, ["sip:127.0.0.1:20001", "sip:127.0.0.2:5070"]);
        assert_eq!(aor.qualify_frequency, Some(33));
        assert_eq!(objects.identifies["w-identify"].matches, ["192.0.2.3"]);
        assert_eq!(objects.endpoint_of("w-reg-0").map(|(name, _)| name), Some("w"));

        let plain = &objects.registrations["v-reg-0"];
        assert_eq!((plain.client_uri.as_str(), plain.contact_user.as_deref()), ("sip:v@v.example:5080", Some("vcu")));
        assert_eq!((plain.line, plain.endpoint.as_deref(), plain.outbound_auth.len()), (Some(true), Some("v"), 0));
        assert_eq!(objects.endpoints["v"].aors, ["v"]);
        assert_eq!(objects.aors["v"].contacts, ["sip:v.example:5080;transport=tcp"]);
        assert_eq!(objects.identifies["v-identify"].matches, ["v.example:5080"]);
        assert!(!objects.identifies.contains_key("in-identify") && objects.aors["in"].contacts.is_empty());
        assert_eq!(objects.line_of(Kind::Auth, "w-oauth", "password").map(|place| place.line), Some(9));
        assert_eq!(objects.line_of(Kind::Registration, "w-reg-0", "server_uri").map(|place| place.line), Some(6));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_and_no_secret_is_told(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let (_, problems) = read("x", &bytes, &mut |_| Ok(vec![("x".to_owned(), bytes.clone())]));
            prop_assert!(problems.len() <= PROBLEMS + 1);
        }

        #[test]
        fn any_lines_of_a_file_are_read(
            lines in prop::collection::vec(
                prop::sample::select(vec![
                    "[a]", "[a](!)", "[b](a)", "[a](+)", "[c](a,b)", "[a](+type=auth)", "type=auth", "type=wizard", "type=registration",
                    "type=transport", "password=zzsecretzz", "password=zzsecretzz;zzsecretzz", "password+=zzsecretzz", "md5_cred=zzsecretzz",
                    "outbound_auth/password=zzsecretzz", "password_digest=MD5:zzsecretzz", "sends_auth=yes", "sends_registrations=1",
                    "remote_hosts=a,b,", "username=u", "line=zz", "max_retries=x", "client_uri=sip:a;b", ";--", "--;", ";", "#include x", "#include y",
                    "#exec x", "zzsecretzz", "[", "[a](", "=", "key", "oauth_secret=zzsecretzz", "refresh_token=zzsecretzz",
                ]),
                0..40,
            ),
        ) {
            let text = lines.join("\n");
            let mut depth = 0;
            let (objects, problems) = read("x", text.as_bytes(), &mut |path| {
                depth += 1;
                if path == "y" && depth < 20 { Ok(vec![(format!("y{depth}"), text.clone().into_bytes())]) } else { Err("no".to_owned()) }
            });
            let shown = format!("{objects:?} {problems:?}");
            prop_assert!(!shown.contains("zzsecretzz"), "{}", shown);
        }
    }
}
