//! What can be wrong with a configuration, and where.
//!
//! All that is wrong is said at once. A value is repeated only where it cannot be a secret.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::check::ValueError;

/// Why there is no configuration. All of it is the operator's to mend: exit code 64.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration {} cannot be read", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what a configuration is.
    #[error("the configuration {} is longer than {limit} bytes", path.display())]
    TooLong {
        /// Which file.
        path: PathBuf,
        /// How long it may be.
        limit: u64,
    },
    /// The layers cannot be laid over each other.
    #[error("the configuration's layers cannot be merged")]
    Layers(#[source] config::ConfigError),
    /// Something in it is wrong.
    #[error("{}", list(.0))]
    Wrong(Vec<Problem>),
}

impl ConfigError {
    /// Each single thing that is wrong in it.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        if let Self::Wrong(problems) = self { problems } else { &[] }
    }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// One thing that is wrong.
#[derive(Debug)]
pub struct Problem {
    /// The key's whole path, such as `pbx[pbx1].ami.secret`.
    pub key: String,
    /// Where it was given.
    pub place: Place,
    /// What is wrong.
    pub fault: Fault,
}

impl Problem {
    /// The known name that was meant, perhaps.
    #[must_use]
    pub fn nearest(&self) -> Option<&str> {
        match &self.fault {
            Fault::UnknownKey { nearest, .. }
            | Fault::UnknownVariable { nearest }
            | Fault::NoSuch { nearest, .. }
            | Fault::NoEntry { nearest, .. } => nearest.as_deref(),
            Fault::Value(error) | Fault::SecretFileValue { error, .. } => error.nearest(),
            Fault::Syntax { .. }
            | Fault::Missing { .. }
            | Fault::Type { .. }
            | Fault::NotYet { .. }
            | Fault::Twice { .. }
            | Fault::SecretFile { .. }
            | Fault::SecretFileTooLong { .. }
            | Fault::File { .. }
            | Fault::Duplicate { .. }
            | Fault::Claimed { .. }
            | Fault::Exposed
            | Fault::ReuseNotBelowSuppress { .. }
            | Fault::NoneGiven
            | Fault::OtherKind { .. }
            | Fault::NeedsTls
            | Fault::ForeignTrunk { .. }
            | Fault::OnlyWith { .. }
            | Fault::Above { .. }
            | Fault::OneOf { .. }
            | Fault::SamePort { .. }
            | Fault::NotByVariable { .. }
            | Fault::Ambiguous { .. }
            | Fault::NoFile
            | Fault::Incomplete => None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File { .. } | Place::Variable(_) => write!(f, "{}: ", self.place)?,
            Place::Nowhere => {}
        }
        if self.key.is_empty() { write!(f, "{}", self.fault) } else { write!(f, "{}: {}", self.key, self.fault) }
    }
}

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Not at all, or by default.
    Nowhere,
    /// In the operator's file.
    File {
        /// Which file, as it was named.
        path: Arc<Path>,
        /// Its line, counted from 1.
        line: usize,
    },
    /// In a variable of the environment.
    Variable(String),
}

impl Place {
    /// The line, if it was given in the file.
    #[must_use]
    pub const fn line(&self) -> Option<usize> {
        match self {
            Self::File { line, .. } => Some(*line),
            Self::Nowhere | Self::Variable(_) => None,
        }
    }

    /// The variable, if it was given by one.
    #[must_use]
    pub const fn variable(&self) -> Option<&str> {
        match self {
            Self::Variable(name) => Some(name.as_str()),
            Self::Nowhere | Self::File { .. } => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nowhere => f.write_str("nowhere"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
        }
    }
}

/// What is wrong at a place.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The file is not TOML here.
    #[error("{message}")]
    Syntax {
        /// What the parser says.
        message: String,
    },
    /// There is no such key.
    #[error("unknown key{}", meant(nearest, known))]
    UnknownKey {
        /// Which was meant, perhaps.
        nearest: Option<String>,
        /// Which there are in its place.
        known: Vec<String>,
    },
    /// The variable means no key.
    #[error("no key is set by this variable{}", meant(nearest, &[]))]
    UnknownVariable {
        /// Which was meant, perhaps.
        nearest: Option<String>,
    },
    /// It must be given.
    #[error("missing{hint}")]
    Missing {
        /// How to give it.
        hint: String,
    },
    /// It is of another type.
    #[error("expected {expected}, found {found}")]
    Type {
        /// What it takes.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// The value is not one it takes.
    #[error("{error}{hint}", error = .0, hint = meant(&.0.nearest().map(ToOwned::to_owned), &[]))]
    Value(ValueError),
    /// A later release brings it.
    #[error("not yet: {what} comes with a later release{}", off.map_or_else(String::new, |off| format!("; until then {off}")))]
    NotYet {
        /// The key, with the value where others are taken.
        what: String,
        /// How to do without.
        off: Option<&'static str>,
    },
    /// A secret and its file were both given.
    #[error("{other} is given too, at {at}: give one of them")]
    Twice {
        /// The other key.
        other: String,
        /// Where.
        at: Place,
    },
    /// A secret's file cannot be read.
    #[error("the file {} cannot be read: {error}", file.display())]
    SecretFile {
        /// Which file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A secret's file is no secret's file.
    #[error("the file {} is too long to be a secret, or no text", file.display())]
    SecretFileTooLong {
        /// Which file.
        file: PathBuf,
    },
    /// What a secret's file holds is not what it takes.
    #[error("in the file {}: {error}", file.display())]
    SecretFileValue {
        /// Which file.
        file: PathBuf,
        /// What is wrong.
        error: ValueError,
    },
    /// Another file cannot be read.
    #[error("the file {} cannot be read: {error}", file.display())]
    File {
        /// Which file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Two entries of one name.
    #[error("{name:?} is already there, at {first}")]
    Duplicate {
        /// The name.
        name: String,
        /// Where it stands first.
        first: Place,
    },
    /// Two trunks want the same object.
    #[error("{name:?} already belongs to {trunk}, at {first}")]
    Claimed {
        /// The registration's or endpoint's name.
        name: String,
        /// Whose it is.
        trunk: String,
        /// Where it was said.
        first: Place,
    },
    /// It names something that is not there.
    #[error("there is no {what} {name:?}{}", meant(nearest, known))]
    NoSuch {
        /// What should be there.
        what: &'static str,
        /// Its name.
        name: String,
        /// Which was meant, perhaps.
        nearest: Option<String>,
        /// Which there are.
        known: Vec<String>,
    },
    /// The variable names an entry that is not there.
    #[error("there is no {list} for this variable{}", meant(nearest, &[]))]
    NoEntry {
        /// The list.
        list: String,
        /// Which variable was meant, perhaps.
        nearest: Option<String>,
    },
    /// The API is reachable by others and asks nobody for a token.
    #[error("an address that is not loopback needs tokens: add an [[api.token]] (`trunkwarden token new` prints one)")]
    Exposed,
    /// A suppressed trunk could never be let go, or would be at once.
    #[error("reuse ({reuse}) must be below suppress ({suppress})")]
    ReuseNotBelowSuppress {
        /// As given.
        reuse: f64,
        /// As given.
        suppress: f64,
    },
    /// A list that must have entries.
    #[error("needs at least one entry")]
    NoneGiven,
    /// The key is another kind's.
    #[error("only a dialer of kind \"{kind}\" has it")]
    OtherKind {
        /// Whose it is.
        kind: &'static str,
    },
    /// It says something about TLS, which is off.
    #[error("has no meaning without tls = true")]
    NeedsTls,
    /// The trunk is not the gateway's PBX's, so no call on it could come through.
    #[error("{trunk:?} is no trunk of the gateway's PBX: it must begin with \"{pbx}/\"")]
    ForeignTrunk {
        /// As given.
        trunk: String,
        /// The gateway's PBX.
        pbx: String,
    },
    /// It means nothing as the other keys are.
    #[error("has no meaning without {what}")]
    OnlyWith {
        /// What is missing.
        what: &'static str,
    },
    /// A duration above what it may be.
    #[error("is too long: at most {}", humantime::format_duration(*.most))]
    Above {
        /// How long it may be.
        most: std::time::Duration,
    },
    /// Neither was given.
    #[error("give one of {} at least", keys.join(" and "))]
    OneOf {
        /// Which.
        keys: &'static [&'static str],
    },
    /// Two that would listen at one place, or Asterisk does there.
    #[error("{what} is at that address{}", if *.at == Place::Nowhere { String::new() } else { format!(", see {}", .at) })]
    SamePort {
        /// What is there.
        what: String,
        /// Where it was said.
        at: Place,
    },
    /// Variables cannot set it.
    #[error("{what} cannot be set by a variable: write it in the file")]
    NotByVariable {
        /// What it is.
        what: &'static str,
    },
    /// No file was named, and none is where it is looked for.
    #[error("no configuration was named, and there is none at {}", super::DEFAULT_PATHS.join(" or "))]
    NoFile,
    /// Nothing is wrong with it that we can name: ours to mend, not the operator's.
    #[error("the configuration was accepted but cannot be used; this is a defect of the program")]
    Incomplete,
    /// A variable may mean several entries.
    #[error("may mean {}: write it in the file", names.join(" or "))]
    Ambiguous {
        /// Which.
        names: Vec<String>,
    },
}

fn meant(nearest: &Option<String>, known: &[String]) -> String {
    match nearest {
        Some(nearest) => format!("; did you mean {nearest:?}?"),
        None if known.is_empty() => String::new(),
        None => format!("; there are: {}", known.join(", ")),
    }
}
