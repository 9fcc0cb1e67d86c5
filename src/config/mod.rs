//! The operator's file and the environment, turned into each room's own parameter struct.
//!
//! Three layers lie over each other (`layers`): the embedded `config.default.toml`, which documents every key, the
//! operator's file, and variables like `TRUNKWARDEN__STORE__URL`. The `schema` says which keys there are; `form` types
//! and checks each of them, `meaning` checks them against each other. All that is wrong is reported at once, each with
//! its key, its line or variable, and what was meant, perhaps ([`Problem`]).
//!
//! Rooms do not import this one. What a room takes, this room fills; what no room defines yet has a plain struct here.
//! Nothing here reads the process's environment: it is given as data, so that tests do not share it.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};

use crate::{
    decision::{CampaignSpec, ControlPolicy, DialerPolicy, HoldWhen, MessageType, Mode, NotifyTarget, Window},
    gateway::{
        AddressRange, DialRule, GatewayUser, Limits, LocalPolicy, Over, Ramp, TlsListen, TrunkLimits, Unguarded,
        settings::DEFAULT_WAIT,
    },
    health::{FlapPolicy, HealthPolicy, OnSuspect, OnUnknown, RegisteredWhen},
    ids::{CampaignId, CampaignKey, DialerId, EndpointName, PbxId, RegistrationName, TrunkId},
    store::Retention,
    telemetry::{LogFormat, LogSettings},
    wire::ami::Classes,
};

mod check;
mod form;
mod layers;
mod meaning;
mod problem;
mod render;
mod schema;

use form::Table;

pub use check::ValueError;
pub use problem::{ConfigError, Fault, Place, Problem};

/// Where the configuration is looked for when no file is named: the first that exists.
pub const DEFAULT_PATHS: [&str; 2] = ["trunkwarden.toml", "/etc/trunkwarden/trunkwarden.toml"];

/// The embedded defaults, which document every key: what `init` writes.
pub const DOCUMENTED_DEFAULTS: &str = layers::DEFAULTS;

/// A whole configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it is from; `None` when there was none.
    pub file: Option<PathBuf>,
    /// `[control] mode`.
    pub mode: Mode,
    /// `[store]`.
    pub store: StoreSettings,
    /// `[api]`.
    pub api: ApiSettings,
    /// `[log]`, as the configuration has it: `TRUNKWARDEN_LOG` is not in it.
    pub log: LogSettings,
    /// `[health]`.
    pub health: HealthPolicy,
    /// `[[pbx]]`.
    pub pbxs: Vec<PbxSettings>,
    /// `[[trunk]]`.
    pub trunks: Vec<DeclaredTrunk>,
    /// `[[dialer]]`.
    pub dialers: Vec<WebhookDialer>,
    /// `[[campaign]]`.
    pub campaigns: Vec<CampaignSpec>,
    /// `[[notify]]`.
    pub notify: Vec<NotifySettings>,
    /// `[hep]`.
    pub hep: Option<HepSettings>,
    /// `[gateway]`.
    pub gateway: Option<GatewayConfig>,
    /// What it was made from, for showing it.
    tree: Table,
}

/// Where things are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSettings {
    /// `sqlite:FILE`.
    pub url: String,
    /// For how long.
    pub retention: Retention,
}

/// How the API is reached, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiSettings {
    /// Loopback, or there are tokens.
    pub listen: SocketAddr,
    /// Who may ask; on loopback everybody, if there are none.
    pub tokens: Vec<TokenSettings>,
}

/// A token of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSettings {
    /// Its name, which appears as `operator:NAME`.
    pub name: String,
    /// What it is for.
    pub role: TokenRole,
    /// The SHA-256 of the token.
    pub sha256: [u8; 32],
}

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenRole {
    /// To look.
    Viewer,
    /// To hold and release too.
    Operator,
    /// Everything.
    Admin,
    /// To ask the gate.
    Gate,
}

impl TokenRole {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Operator, Self::Admin, Self::Gate];

    /// The word of the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::Gate => "gate",
        }
    }
}

/// One PBX.
#[derive(Debug, Clone)]
pub struct PbxSettings {
    /// Its id.
    pub id: PbxId,
    /// How often its lists are compared with what its events said.
    pub reconcile: Duration,
    /// After how long a silence its link is lost: the least of `[health]` and of its trunks' own.
    pub unknown_after: Duration,
    /// How its AMI is reached.
    pub ami: AmiAccess,
    /// `[pbx.evidence]`.
    pub evidence: EvidenceSettings,
}

/// How it is found out why a PBX's registrations fail, and what is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvidenceSettings {
    /// Asterisk's own SIP history is read around a failure.
    pub history: bool,
    /// By what its HEP packets are known.
    pub capture_id: Option<u32>,
    /// What Asterisk gave up is tried once more.
    pub heal: bool,
}

/// The HEP feed.
#[derive(Debug, Clone)]
pub struct HepSettings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What packets must bear.
    pub password: Option<SecretString>,
}

/// The AMI gateway, without what is the PBX's: how Asterisk is reached.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The PBX behind it.
    pub pbx: PbxId,
    /// Where it listens in clear.
    pub listen: SocketAddr,
    /// Where it listens with TLS, if anywhere.
    pub tls: Option<TlsListen>,
    /// From where one may connect at all; empty: from everywhere.
    pub allow: Vec<AddressRange>,
    /// How many connections may be without a login at once.
    pub auth_limit: usize,
    /// How long a connection may be without a login.
    pub auth_timeout: Duration,
    /// As whom it logs in at Asterisk; `None`: as the PBX's own AMI user.
    pub upstream: Option<UpstreamUser>,
    /// Who may log in.
    pub users: Vec<GatewayUser>,
    /// Whether calls pass whose `Local/…` channel no rule resolves.
    pub local: LocalPolicy,
    /// Where the dialplan leads.
    pub rules: Vec<DialRule>,
    /// What a trunk takes.
    pub limits: Limits,
}

/// Whom the gateway logs in as at Asterisk.
#[derive(Debug, Clone)]
pub struct UpstreamUser {
    /// The user of `manager.conf`.
    pub username: String,
    /// Its secret.
    pub secret: SecretString,
}

/// How an AMI is reached.
#[derive(Debug, Clone)]
pub struct AmiAccess {
    /// Its host, an IPv6 address without brackets.
    pub host: String,
    /// Its port; 5038, or 5039 with TLS, if none was given.
    pub port: u16,
    /// The user.
    pub username: String,
    /// The user's secret.
    pub secret: SecretString,
    /// How the connection is encrypted; not at all, if `None`.
    pub tls: Option<TlsAccess>,
    /// The secret itself may be sent over a connection that is neither encrypted nor loopback.
    pub plain_login: bool,
}

impl AmiAccess {
    /// `host:port`, an IPv6 address in brackets.
    #[must_use]
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// How an encrypted connection is checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsAccess {
    /// The CA to trust instead of the system's: a PEM file.
    pub ca_file: Option<PathBuf>,
    /// The name the certificate must have, if it is not the host's.
    pub server_name: Option<String>,
}

/// A trunk the configuration names.
#[derive(Debug, Clone, PartialEq)]
pub struct DeclaredTrunk {
    /// Its id.
    pub id: TrunkId,
    /// Its registrations.
    pub registrations: Vec<RegistrationName>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointName>,
    /// Its health policy: `[health]` with `[trunk.health]` and `registered_when` laid over it.
    pub health: HealthPolicy,
}

/// A dialer that is told by webhook.
#[derive(Debug, Clone)]
pub struct WebhookDialer {
    /// Its id.
    pub id: DialerId,
    /// Where to; it may hold a secret.
    pub url: SecretString,
    /// What messages are signed with: `whsec_…`.
    pub secret: SecretString,
    /// How patient we are with it.
    pub policy: DialerPolicy,
}

/// People to be told.
#[derive(Debug, Clone)]
pub struct NotifySettings {
    /// Its name in the outbox: where it goes, and a digest of the URL, which may hold a secret. It stays the same when
    /// the file's order changes, so that what waits in the outbox finds its way.
    pub name: String,
    /// Where to; it may hold a secret.
    pub url: SecretString,
    /// What messages are signed with; not signed, if `None`.
    pub secret: Option<SecretString>,
    /// What it is told of.
    pub types: BTreeSet<MessageType>,
}

impl Config {
    /// Reads the configuration at `path`, or the first of [`DEFAULT_PATHS`] that exists, with `env` laid over it.
    ///
    /// Of `env` only the variables that begin with `TRUNKWARDEN__` are looked at.
    ///
    /// # Errors
    /// [`ConfigError`]: the file cannot be read, or something in it is wrong. All that is wrong is in it.
    pub fn load(path: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let file =
            path.map(Path::to_owned).or_else(|| DEFAULT_PATHS.iter().map(PathBuf::from).find(|path| path.exists()));
        let (tree, mut problems) = form::form(layers::merge(file.as_deref(), env)?);
        problems.extend(meaning::problems(&tree));
        if problems.is_empty() {
            // Whatever must be there is there by now.
            if let Some(config) = build(file.clone(), tree) {
                return Ok(config);
            }
            problems.push(Problem { key: String::new(), place: Place::Nowhere, fault: Fault::Incomplete });
        }
        if file.is_none() {
            problems.push(Problem { key: String::new(), place: Place::Nowhere, fault: Fault::NoFile });
        }
        // By line; what stands nowhere first, what variables say last.
        problems.sort_by(|a, b| (&a.place, &a.key).cmp(&(&b.place, &b.key)));
        Err(ConfigError::Wrong(problems))
    }

    /// Everything the decisions are made by.
    #[must_use]
    pub fn control_policy(&self) -> ControlPolicy {
        ControlPolicy {
            mode: self.mode,
            health: self.health.clone(),
            trunk_health: self
                .trunks
                .iter()
                .filter(|trunk| trunk.health != self.health)
                .map(|trunk| (trunk.id.clone(), trunk.health.clone()))
                .collect(),
            declared: self.trunks.iter().map(|trunk| trunk.id.clone()).collect(),
            dialers: self.dialers.iter().map(|dialer| (dialer.id.clone(), dialer.policy.clone())).collect(),
            campaigns: self.campaigns.iter().map(|campaign| (campaign.key.clone(), campaign.clone())).collect(),
            notify: self
                .notify
                .iter()
                .map(|notify| NotifyTarget { name: notify.name.clone(), types: notify.types.clone() })
                .collect(),
        }
    }

    /// The effective configuration as TOML, with its secrets masked. It can be read again.
    #[must_use]
    pub fn render_masked(&self) -> String {
        render::render(&self.tree)
    }

    /// The keys that differ and take effect only when the controller is started again. Everything else may change while
    /// it runs.
    #[must_use]
    pub fn restart_needed(old: &Self, new: &Self) -> Vec<&'static str> {
        let both = |of: &dyn Fn(&GatewayConfig) -> String| match (&old.gateway, &new.gateway) {
            (Some(old), Some(new)) => of(old) != of(new),
            (None, _) | (_, None) => false,
        };
        let differs = [
            ("store.url", old.store.url != new.store.url),
            ("store.retention", old.store.retention != new.store.retention),
            ("api.listen", old.api.listen != new.api.listen),
            ("log.level", old.log.filter != new.log.filter),
            ("log.format", old.log.format != new.log.format),
            ("gateway", old.gateway.is_some() != new.gateway.is_some()),
            ("gateway.pbx", both(&|gateway| gateway.pbx.as_str().to_owned())),
            ("gateway.listen", both(&|gateway| gateway.listen.to_string())),
            ("gateway.tls.listen", both(&|gateway| format!("{:?}", gateway.tls.as_ref().map(|tls| tls.listen)))),
        ];
        differs.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
    }
}

/// `None` when something is missing that was found to be there.
fn build(file: Option<PathBuf>, tree: Table) -> Option<Config> {
    let store = tree.table("store")?;
    let retention = store.table("retention")?;
    let log = tree.table("log")?;
    let health = health_policy(tree.table("health")?, &HealthPolicy::default())?;
    let trunks: Vec<DeclaredTrunk> =
        tree.entries("trunk").map(|(trunk, _)| declared(trunk, &health)).collect::<Option<_>>()?;
    Some(Config {
        mode: match tree.table("control")?.text("mode")? {
            "observe" => Mode::Observe,
            _ => Mode::Enforce,
        },
        store: StoreSettings {
            url: store.text("url")?.to_owned(),
            retention: Retention { history: retention.span("history")?, journal: retention.span("journal")? },
        },
        api: api(tree.table("api")?)?,
        log: LogSettings {
            filter: log.text("level")?.to_owned(),
            format: match log.text("format")? {
                "json" => LogFormat::Json,
                _ => LogFormat::Text,
            },
        },
        pbxs: tree.entries("pbx").map(|(entry, _)| pbx(entry, &health, &trunks)).collect::<Option<_>>()?,
        dialers: tree.entries("dialer").map(|(entry, _)| dialer(entry)).collect::<Option<_>>()?,
        campaigns: tree.entries("campaign").map(|(entry, _)| campaign(entry)).collect::<Option<_>>()?,
        notify: tree.entries("notify").map(|(entry, _)| notify(entry)).collect::<Option<_>>()?,
        hep: match tree.table("hep") {
            Some(table) => Some(hep(table)?),
            None => None,
        },
        gateway: match tree.table("gateway") {
            Some(table) => Some(gateway(table)?),
            None => None,
        },
        file,
        health,
        trunks,
        tree,
    })
}

fn api(api: &Table) -> Option<ApiSettings> {
    let token = |token: &Table| {
        let role = token.text("role")?;
        Some(TokenSettings {
            name: token.text("name")?.to_owned(),
            role: TokenRole::ALL.into_iter().find(|known| known.as_str() == role)?,
            sha256: check::hash(token.secret("sha256")?.expose_secret())?,
        })
    };
    let tokens = api.entries("token").map(|(entry, _)| token(entry)).collect::<Option<_>>()?;
    Some(ApiSettings { listen: api.text("listen")?.parse().ok()?, tokens })
}

/// `general` with what `own` says laid over it.
fn health_policy(own: &Table, general: &HealthPolicy) -> Option<HealthPolicy> {
    let flap = own.table("flap");
    let number = |key, general| flap.and_then(|flap| flap.number(key)).unwrap_or(general);
    let flap_span = |key, general| flap.and_then(|flap| flap.span(key)).unwrap_or(general);
    Some(HealthPolicy {
        confirm_failures: own.count("confirm_failures").unwrap_or(general.confirm_failures),
        recovery: own.span("recovery").unwrap_or(general.recovery),
        unknown_after: own.span("unknown_after").unwrap_or(general.unknown_after),
        refresh_grace: own.span("refresh_grace").unwrap_or(general.refresh_grace),
        on_unknown: match own.text("on_unknown") {
            None => general.on_unknown,
            Some("hold") => OnUnknown::Hold,
            Some("allow") => OnUnknown::Allow,
            Some(_) => return None,
        },
        on_suspect: match own.text("on_suspect") {
            None => general.on_suspect,
            Some("hold") => OnSuspect::Hold,
            Some("allow") => OnSuspect::Allow,
            Some(_) => return None,
        },
        registered_when: general.registered_when,
        flap: FlapPolicy {
            penalty: number("penalty", general.flap.penalty),
            suppress: number("suppress", general.flap.suppress),
            reuse: number("reuse", general.flap.reuse),
            half_life: flap_span("half_life", general.flap.half_life),
            max_suppress: flap_span("max_suppress", general.flap.max_suppress),
        },
    })
}

fn declared(trunk: &Table, general: &HealthPolicy) -> Option<DeclaredTrunk> {
    let mut health = match trunk.table("health") {
        Some(own) => health_policy(own, general)?,
        None => general.clone(),
    };
    health.registered_when = match trunk.text("registered_when")? {
        "any" => RegisteredWhen::Any,
        "all" => RegisteredWhen::All,
        _ => return None,
    };
    Some(DeclaredTrunk {
        id: TrunkId::new(&trunk.text("pbx")?.parse().ok()?, trunk.text("name")?).ok()?,
        registrations: names(trunk, "registrations")?,
        endpoints: names(trunk, "endpoints")?,
        health,
    })
}

fn names<T: for<'a> TryFrom<&'a str>>(table: &Table, key: &str) -> Option<Vec<T>> {
    table.texts(key).iter().map(|(text, _)| T::try_from(text).ok()).collect()
}

fn pbx(pbx: &Table, health: &HealthPolicy, trunks: &[DeclaredTrunk]) -> Option<PbxSettings> {
    let id: PbxId = pbx.text("id")?.parse().ok()?;
    let ami = pbx.table("ami")?;
    let tls = ami.flag("tls")?.then(|| TlsAccess {
        ca_file: ami.text("ca_file").map(PathBuf::from),
        server_name: ami.text("server_name").map(ToOwned::to_owned),
    });
    let (host, port) = check::split_host_port(ami.text("address")?)?;
    let own = trunks.iter().filter(|trunk| trunk.id.pbx_str() == id.as_str()).map(|trunk| trunk.health.unknown_after);
    Some(PbxSettings {
        reconcile: pbx.span("reconcile")?,
        unknown_after: own.chain([health.unknown_after]).min()?,
        ami: AmiAccess {
            host: host.to_owned(),
            // Asterisk's own defaults (`manager.conf`: port, tlsbindaddr).
            port: port.unwrap_or(if tls.is_some() { 5039 } else { 5038 }),
            username: ami.text("username")?.to_owned(),
            secret: ami.secret("secret")?.clone(),
            tls,
            plain_login: ami.flag("plain_login")?,
        },
        evidence: evidence(pbx.table("evidence")?)?,
        id,
    })
}

fn evidence(evidence: &Table) -> Option<EvidenceSettings> {
    Some(EvidenceSettings {
        history: evidence.text("history")? == "auto",
        capture_id: evidence.count("capture_id"),
        heal: evidence.text("heal")? == "once",
    })
}

fn hep(hep: &Table) -> Option<HepSettings> {
    Some(HepSettings { listen: hep.text("listen")?.parse().ok()?, password: hep.secret("password").cloned() })
}

fn gateway(gateway: &Table) -> Option<GatewayConfig> {
    let tls = match gateway.table("tls") {
        None => None,
        Some(tls) => Some(TlsListen {
            listen: tls.text("listen")?.parse().ok()?,
            certificate: PathBuf::from(tls.text("certificate")?),
            key: PathBuf::from(tls.text("key")?),
        }),
    };
    let upstream = match gateway.table("upstream") {
        None => None,
        Some(user) => {
            Some(UpstreamUser { username: user.text("username")?.to_owned(), secret: user.secret("secret")?.clone() })
        }
    };
    let every = match gateway.table("limits") {
        Some(limits) => trunk_limits(limits, &TrunkLimits::default())?,
        None => TrunkLimits::default(),
    };
    let own = |limit: &Table| Some((limit.text("trunk")?.try_into().ok()?, trunk_limits(limit, &every)?));
    let trunks = gateway.entries("limit").map(|(limit, _)| own(limit)).collect::<Option<_>>()?;
    Some(GatewayConfig {
        pbx: gateway.text("pbx")?.parse().ok()?,
        listen: gateway.text("listen")?.parse().ok()?,
        tls,
        allow: ranges(gateway)?,
        auth_limit: usize::try_from(gateway.count("auth_limit")?).ok()?,
        auth_timeout: gateway.span("auth_timeout")?,
        upstream,
        users: gateway.entries("user").map(|(user, _)| gateway_user(user)).collect::<Option<_>>()?,
        local: match gateway.text("local")? {
            "allow" => LocalPolicy::Allow,
            _ => LocalPolicy::HoldWhenAnyHeld,
        },
        rules: gateway.entries("rule").map(|(rule, _)| dial_rule(rule)).collect::<Option<_>>()?,
        limits: Limits { every, trunks },
    })
}

fn ranges(table: &Table) -> Option<Vec<AddressRange>> {
    table.texts("allow").iter().map(|(text, _)| text.parse().ok()).collect()
}

fn classes(table: &Table, key: &str) -> Option<Classes> {
    let mut words = table.texts(key).iter();
    words.try_fold(Classes::NONE, |set, (word, _)| Some(set.and(Classes::named(word)?)))
}

fn gateway_user(user: &Table) -> Option<GatewayUser> {
    let given = |key| user.0.contains_key(key);
    let says = |word: &str| user.texts("write").iter().any(|(given, _)| given.eq_ignore_ascii_case(word));
    let write = classes(user, "write")?;
    let actions = || user.texts("actions").iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    let opened = |way: &Unguarded| user.texts("unguarded").iter().any(|(word, _)| word == way.as_str());
    Some(GatewayUser {
        name: user.text("name")?.to_owned(),
        secret: user.secret("secret")?.clone(),
        allow: ranges(user)?,
        read: classes(user, "read")?,
        // Whoever runs commands can dial by them, so it is meant only where it is said.
        write: if says("command") { write } else { write.without(Classes::COMMAND) },
        write_all: says("all"),
        actions: given("actions").then(actions),
        trunks: if given("trunks") { Some(names::<TrunkId>(user, "trunks")?.into_iter().collect()) } else { None },
        unguarded: Unguarded::ALL.into_iter().filter(opened).collect(),
    })
}

fn dial_rule(rule: &Table) -> Option<DialRule> {
    Some(DialRule {
        context: rule.text("context")?.to_owned(),
        exten: rule.text("exten").map(ToOwned::to_owned),
        trunks: names(rule, "trunks")?,
        hold_when_all: rule.text("hold_when")? == "all",
    })
}

/// `general` with what `own` says laid over it.
fn trunk_limits(own: &Table, general: &TrunkLimits) -> Option<TrunkLimits> {
    let ramp = match own.table("ramp") {
        None => general.ramp.clone(),
        Some(ramp) => Some(Ramp {
            calls: ramp.count("calls"),
            per_second: ramp.number("per_second"),
            lasting: ramp.span("lasting")?,
        }),
    };
    let general_wait = match general.over {
        Over::Error => DEFAULT_WAIT,
        Over::Wait(wait) => wait,
    };
    let wait = own.span("wait").unwrap_or(general_wait);
    Some(TrunkLimits {
        calls: own.count("calls").or(general.calls),
        per_second: own.number("per_second").or(general.per_second),
        ramp,
        over: match own.text("over") {
            Some("wait") => Over::Wait(wait),
            Some(_) => Over::Error,
            None => match general.over {
                Over::Error => Over::Error,
                Over::Wait(_) => Over::Wait(wait),
            },
        },
    })
}

fn dialer(dialer: &Table) -> Option<WebhookDialer> {
    Some(WebhookDialer {
        id: dialer.text("id")?.parse().ok()?,
        url: dialer.secret("url")?.clone(),
        secret: dialer.secret("secret")?.clone(),
        policy: DialerPolicy {
            pause_after: dialer.span("pause_after")?,
            pause_unknown_after: dialer.span("pause_unknown_after")?,
        },
    })
}

fn campaign(campaign: &Table) -> Option<CampaignSpec> {
    let id: CampaignId = campaign.text("id")?.parse().ok()?;
    Some(CampaignSpec {
        key: CampaignKey { dialer: campaign.text("dialer")?.parse().ok()?, id },
        name: campaign.text("name").map(ToOwned::to_owned),
        trunks: names(campaign, "trunks")?,
        hold_when: match campaign.text("hold_when")? {
            "any" => HoldWhen::Any,
            "all" => HoldWhen::All,
            _ => return None,
        },
        fallback: names(campaign, "fallback")?,
        resume_window: match campaign.text("resume_window") {
            None => None,
            Some(text) => Some(Window::parse(text, campaign.text("timezone")?).ok()?),
        },
        resume_within: campaign.span("resume_within"),
    })
}

fn notify(notify: &Table) -> Option<NotifySettings> {
    let url = notify.secret("url")?;
    let wanted = |kind: &MessageType| notify.texts("types").iter().any(|(text, _)| text == kind.as_str());
    Some(NotifySettings {
        name: format!("{} ({})", render::origin(url.expose_secret())?, render::digest(url.expose_secret())),
        url: url.clone(),
        secret: notify.secret("secret").cloned(),
        types: check::NOTIFY_TYPES.into_iter().filter(wanted).collect(),
    })
}
