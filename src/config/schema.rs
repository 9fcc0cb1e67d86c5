//! Which keys there are, what each takes, and which of them a later release brings.
//!
//! One table answers for everything that must agree: which keys are unknown and what is nearest to them, which variable
//! means which key, what `config.default.toml` must document, and in which order the effective configuration is shown.

use super::check;

/// A key of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    pub(super) need: Need,
    pub(super) later: Later,
}

/// Whether a key must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// It must be given.
    Must,
    /// It may be left out, and means nothing then.
    May,
    /// Left out, it has the value `config.default.toml` shows.
    Default,
}

/// Which values a later release brings.
#[derive(Debug, Clone, Copy)]
pub(super) enum Later {
    /// None: all of it works.
    Nothing,
    /// All of them: the key itself is for later.
    Everything,
    /// `true`.
    True,
    /// These words.
    Words(&'static [&'static str]),
    /// Text that begins so.
    Prefixes(&'static [&'static str]),
    /// Any list but an empty one.
    Entries,
}

/// Says what is wrong with a text, if something is.
pub(super) type Check = fn(&str) -> Result<(), check::ValueError>;

/// What a key takes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    /// A table with these keys.
    Table(&'static [Key]),
    /// A list of tables with these keys.
    List(&'static [Key], Identity),
    /// A text.
    Text(Check),
    /// A text that may hold a secret in some of its parts: a URL.
    Url,
    /// A secret, which may stand in a file named by `KEY_file`.
    Secret(Check, Mask),
    /// One of these words.
    Word(&'static [&'static str]),
    /// True or false.
    Flag,
    /// A whole number, at least so much.
    Count(u32),
    /// A number above zero.
    Positive,
    /// A number from 0 to 1.
    Share,
    /// A duration, at least so many milliseconds.
    Span(u64),
    /// A list of texts.
    Texts(Check),
    /// A table of names and texts.
    Map(Check),
}

/// What is shown in place of a secret. Each is again valid where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mask {
    /// Anything goes.
    Stars,
    /// A `whsec_` secret.
    Whsec,
    /// A URL whose path and query are secret.
    Url,
    /// A token's hash: its first digits help to tell which token it is.
    Hash,
}

/// By what an entry of a list is named.
#[derive(Debug, Clone, Copy)]
pub(super) enum Identity {
    /// By the values of these keys.
    Keys(&'static [&'static str]),
    /// By its place, counted from 1.
    Place,
}

impl Key {
    const fn new(name: &'static str, shape: Shape) -> Self {
        Self { name, shape, need: Need::May, later: Later::Nothing }
    }

    const fn must(self) -> Self {
        Self { need: Need::Must, ..self }
    }

    const fn default(self) -> Self {
        Self { need: Need::Default, ..self }
    }

    const fn later(self, later: Later) -> Self {
        Self { later, ..self }
    }

    /// The name of the key that names a file instead, for a secret.
    pub(super) fn file_name(&self) -> Option<String> {
        match self.shape {
            Shape::Secret(_, Mask::Hash) => None,
            Shape::Secret(_, Mask::Stars | Mask::Whsec | Mask::Url) => Some(format!("{}_file", self.name)),
            Shape::Table(_)
            | Shape::List(..)
            | Shape::Text(_)
            | Shape::Url
            | Shape::Word(_)
            | Shape::Flag
            | Shape::Count(_)
            | Shape::Positive
            | Shape::Share
            | Shape::Span(_)
            | Shape::Texts(_)
            | Shape::Map(_) => None,
        }
    }
}

/// The names that may stand in a table of `keys`, those of secrets' files among them.
pub(super) fn names(keys: &'static [Key]) -> impl Iterator<Item = String> {
    keys.iter().flat_map(|key| std::iter::once(key.name.to_owned()).chain(key.file_name()))
}

/// Every path that leads to `name`, lists written without their entries: `pbx.ami.secret`.
pub(super) fn paths_to(name: &str) -> Vec<String> {
    all_paths().into_iter().filter(|path| path.rsplit('.').next() == Some(name)).collect()
}

/// Every path there is.
pub(super) fn all_paths() -> Vec<String> {
    fn walk(keys: &'static [Key], prefix: &str, into: &mut Vec<String>) {
        for key in keys {
            let path = if prefix.is_empty() { key.name.to_owned() } else { format!("{prefix}.{}", key.name) };
            into.extend(key.file_name().map(|_| format!("{path}_file")));
            if let Shape::Table(inner) | Shape::List(inner, _) = key.shape {
                walk(inner, &path, into);
            }
            into.push(path);
        }
    }
    let mut paths = Vec::new();
    walk(ROOT, "", &mut paths);
    paths
}

const fn text(name: &'static str) -> Key {
    Key::new(name, Shape::Text(check::text))
}

const fn secret(name: &'static str) -> Key {
    Key::new(name, Shape::Secret(check::secret, Mask::Stars))
}

const fn whsec(name: &'static str) -> Key {
    Key::new(name, Shape::Secret(check::whsec, Mask::Whsec))
}

const fn table(name: &'static str, keys: &'static [Key]) -> Key {
    Key::new(name, Shape::Table(keys))
}

const fn list(name: &'static str, keys: &'static [Key], identity: Identity) -> Key {
    Key::new(name, Shape::List(keys, identity))
}

const fn word(name: &'static str, words: &'static [&'static str]) -> Key {
    Key::new(name, Shape::Word(words))
}

const fn span(name: &'static str, at_least_ms: u64) -> Key {
    Key::new(name, Shape::Span(at_least_ms))
}

const fn texts(name: &'static str, check: Check) -> Key {
    Key::new(name, Shape::Texts(check))
}

const ANY_ALL: &[&str] = &["any", "all"];

/// The top.
pub(super) const ROOT: &[Key] = &[
    table("control", &[word("mode", &["enforce", "observe"]).default()]).default(),
    table("store", STORE).default(),
    table("api", API).default(),
    table(
        "log",
        &[Key::new("level", Shape::Text(check::log_filter)).default(), word("format", &["text", "json"]).default()],
    )
    .default(),
    table("health", HEALTH).default(),
    list("pbx", PBX, Identity::Keys(&["id"])).must(),
    list("trunk", TRUNK, Identity::Keys(&["pbx", "name"])),
    list("dialer", DIALER, Identity::Keys(&["id"])),
    list("campaign", CAMPAIGN, Identity::Keys(&["dialer", "id"])),
    list("notify", NOTIFY, Identity::Place),
    table("hep", &[Key::new("listen", Shape::Text(check::socket)).must(), secret("password")]),
    table("gateway", GATEWAY),
];

const STORE: &[Key] = &[
    Key::new("url", Shape::Text(check::store_url)).default().later(Later::Prefixes(&["postgres://", "postgresql://"])),
    table("retention", &[span("history", 1).default(), span("journal", 1).default()]).default(),
];

const API: &[Key] = &[
    Key::new("listen", Shape::Text(check::socket)).default(),
    Key::new("tls", Shape::Flag).default().later(Later::True),
    list(
        "token",
        &[
            text("name").must(),
            word("role", &["viewer", "operator", "admin", "gate"]).must(),
            Key::new("sha256", Shape::Secret(check::sha256, Mask::Hash)).must(),
        ],
        Identity::Keys(&["name"]),
    ),
];

/// A third of `unknown_after` is how often a PBX is asked: less than this would be a flood.
const LEAST_UNKNOWN_AFTER_MS: u64 = 100;
/// Each reconciliation reads whole lists.
const LEAST_RECONCILE_MS: u64 = 1000;

const HEALTH: &[Key] = &[
    Key::new("confirm_failures", Shape::Count(1)).default(),
    span("recovery", 0).default(),
    span("unknown_after", LEAST_UNKNOWN_AFTER_MS).default(),
    span("refresh_grace", 0).default(),
    word("on_unknown", &["hold", "allow"]).default(),
    word("on_suspect", &["allow", "hold", "throttle"]).default().later(Later::Words(&["throttle"])),
    table(
        "flap",
        &[
            Key::new("penalty", Shape::Positive).default(),
            Key::new("suppress", Shape::Positive).default(),
            Key::new("reuse", Shape::Positive).default(),
            span("half_life", 1).default(),
            span("max_suppress", 1).default(),
        ],
    )
    .default(),
    table(
        "call_faults",
        &[
            span("window", 1).must(),
            Key::new("min_calls", Shape::Count(1)).must(),
            Key::new("warn", Shape::Share).must(),
            Key::new("trip", Shape::Share).must(),
        ],
    )
    .later(Later::Everything),
];

const PBX: &[Key] = &[
    Key::new("id", Shape::Text(check::pbx_id)).must(),
    span("reconcile", LEAST_RECONCILE_MS).default(),
    table(
        "ami",
        &[
            Key::new("address", Shape::Text(check::host_port)).must(),
            text("username").must(),
            secret("secret").must(),
            Key::new("tls", Shape::Flag).default(),
            text("ca_file"),
            text("server_name"),
            Key::new("plain_login", Shape::Flag).default(),
        ],
    )
    .must(),
    table("ari", &[Key::new("url", Shape::Url).must(), text("username").must(), secret("password").must()])
        .later(Later::Everything),
    table(
        "evidence",
        &[
            word("history", &["off", "auto"]).default(),
            Key::new("capture_id", Shape::Count(0)),
            Key::new("asterisk_effects", Shape::Flag).default().later(Later::True),
            word("heal", &["off", "once"]).default(),
        ],
    )
    .default(),
];

const TRUNK: &[Key] = &[
    Key::new("pbx", Shape::Text(check::pbx_id)).must(),
    Key::new("name", Shape::Text(check::trunk_name)).must(),
    texts("registrations", check::registration),
    texts("endpoints", check::endpoint),
    word("registered_when", ANY_ALL).default(),
    table("health", HEALTH),
];

const DIALER: &[Key] = &[
    Key::new("id", Shape::Text(check::dialer_id)).must(),
    word("kind", &["webhook", "mylinehub"]).must().later(Later::Words(&["mylinehub"])),
    Key::new("url", Shape::Url).must(),
    whsec("secret"),
    span("pause_after", 0).default(),
    span("pause_unknown_after", 0).default(),
    text("username"),
    secret("password"),
    texts("organizations", check::text),
    Key::new("trunk_aliases", Shape::Map(check::trunk_id)),
];

/// The keys of `[[dialer]]` that only `webhook` has.
pub(super) const WEBHOOK_ONLY: &[&str] = &["secret"];
/// The keys of `[[dialer]]` that only `mylinehub` has.
pub(super) const MYLINEHUB_ONLY: &[&str] = &["username", "password", "organizations", "trunk_aliases"];

const CAMPAIGN: &[Key] = &[
    Key::new("dialer", Shape::Text(check::dialer_id)).must(),
    Key::new("id", Shape::Text(check::campaign_id)).must(),
    text("name"),
    texts("trunks", check::trunk_id).must(),
    word("hold_when", ANY_ALL).default(),
    texts("fallback", check::trunk_id),
    text("needs_app").later(Later::Everything),
    texts("needs_trunks", check::trunk_id).later(Later::Entries),
    Key::new("resume_window", Shape::Text(check::window)),
    Key::new("timezone", Shape::Text(check::zone)).default(),
    span("resume_within", 1),
];

const NOTIFY: &[Key] = &[
    Key::new("url", Shape::Secret(check::http_url, Mask::Url)).must(),
    texts("types", check::notify_type).must(),
    whsec("secret"),
];

const LIMITS: &[Key] = &[
    Key::new("calls", Shape::Count(1)),
    Key::new("per_second", Shape::Positive),
    word("over", &["error", "wait"]),
    span("wait", 0),
    table("ramp", RAMP),
];

const LIMIT: &[Key] = &[
    Key::new("trunk", Shape::Text(check::trunk_id)).must(),
    Key::new("calls", Shape::Count(1)),
    Key::new("per_second", Shape::Positive),
    word("over", &["error", "wait"]),
    span("wait", 0),
    table("ramp", RAMP),
];

const RAMP: &[Key] =
    &[Key::new("calls", Shape::Count(1)), Key::new("per_second", Shape::Positive), span("lasting", 1000).must()];

const GATEWAY: &[Key] = &[
    Key::new("listen", Shape::Text(check::socket)).default(),
    Key::new("pbx", Shape::Text(check::pbx_id)).must(),
    word("local", &["hold-when-any-held", "allow"]).default(),
    texts("allow", check::range),
    Key::new("auth_limit", Shape::Count(1)).default(),
    span("auth_timeout", 1000).default(),
    table("upstream", &[Key::new("username", Shape::Text(check::ami_user)).must(), secret("secret").must()]),
    table(
        "tls",
        &[Key::new("listen", Shape::Text(check::socket)).must(), text("certificate").must(), text("key").must()],
    ),
    table("limits", LIMITS),
    list("limit", LIMIT, Identity::Keys(&["trunk"])),
    list(
        "rule",
        &[
            Key::new("context", Shape::Text(check::context)).must(),
            Key::new("exten", Shape::Text(check::exten)),
            // It may be empty, which says that nothing is dialed from there; so `meaning` asks for it.
            texts("trunks", check::trunk_id),
            word("hold_when", ANY_ALL).default(),
        ],
        Identity::Place,
    ),
    list(
        "user",
        &[
            Key::new("name", Shape::Text(check::ami_user)).must(),
            secret("secret").must(),
            texts("allow", check::range),
            texts("read", check::class),
            texts("write", check::class).must(),
            texts("actions", check::action),
            texts("trunks", check::trunk_id),
            texts("unguarded", check::unguarded),
        ],
        Identity::Keys(&["name"]),
    )
    .must(),
];
