//! `check`'s questions about the AMI gateway: whether it can be what the configuration promises, and, with `--gateway`,
//! whether its path works and nobody can go around it.
//!
//! Separate from `check`, since the second half looks from outside, as a dialer does, and may run on a dialer's machine:
//! it needs no controller, no store and no rights but the dialers' own. Nothing is dialed: an `Originate` without a
//! channel is refused by Asterisk itself, which proves that it got there.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use rustls::CertificateError;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    time::{Instant, timeout},
};

use super::{
    check::{Check, Level},
    parameters,
};
use crate::{
    api::problem::chain,
    config::Config,
    gateway::{GatewaySettings, GatewayUser, LocalPolicy, server::certified},
    wire::ami::{
        Action, Classes, DecodeLimits, Decoder, Frame, Message,
        client::{BoxedIo, ConnectError, TcpTransport, Tls, Transport as _, session::md5_key},
    },
};

/// How long a connection or an answer may take: the longest a dialer waits.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a port may be silent before it is taken for closed by a firewall.
const PORT_PATIENCE: Duration = Duration::from_secs(3);
/// How long `FullyBooted` may take after a login; Asterisk sends it at once.
const BOOT_PATIENCE: Duration = Duration::from_secs(2);
/// How many round trips are measured.
const PINGS: u32 = 5;
/// Logins that may be refused at Asterisk's own port in one run: intrusion guards count them.
const DIRECT_LOGINS: usize = 2;
/// How the gateway begins what it refuses, and Asterisk does not.
const OWN_WORDS: &str = "trunkwarden: ";
/// Asterisk's own port, unless told otherwise.
const AMI_PORT: u16 = 5038;
/// Room for what is read at once.
const CHUNK: usize = 16 * 1024;

/// What `check --gateway` was asked on the command line.
#[derive(Debug, Clone, Default)]
pub struct Outside {
    /// As which of the gateway's users; all, if `None`.
    pub user: Option<String>,
    /// Where the gateway is, instead of where the configuration says it listens.
    pub gateway: Option<String>,
    /// Whether that is reached by TLS.
    pub tls: bool,
    /// The CA to trust there instead of the system's.
    pub ca_file: Option<std::path::PathBuf>,
    /// Where Asterisk's own AMI is, instead of `[pbx.ami] address`.
    pub pbx: Option<String>,
}

fn say(level: Level, of: &str, found: impl Into<String>, fix: impl Into<String>) -> Check {
    Check { level, of: of.to_owned(), found: found.into(), fix: fix.into() }
}

// -- inside: what `check` asks ----------------------------------------------------------------------------------------

/// Whether the gateway of `config` can be what it promises; nothing, if there is none.
pub async fn inside(config: &Config) -> Vec<Check> {
    let Some(settings) = parameters::gateway(config) else { return Vec::new() };
    let mut checks = Vec::new();
    checks.extend(listen(&settings, settings.listen, "gateway.listen").await);
    if !settings.listen.ip().to_canonical().is_loopback() {
        checks.push(say(
            Level::Warning,
            "gateway",
            format!("{} is in clear: what dialers say and hear there can be read on the way", settings.listen),
            "use [gateway.tls] where the dialer can, or a network nobody else is on; narrow `allow`",
        ));
    }
    if let Some(tls) = &settings.tls {
        checks.push(match certified(tls) {
            Ok(_) => say(Level::Good, "gateway", "the certificate and its key can be read and belong together", ""),
            Err(error) => say(Level::Problem, "gateway", chain(&error), "[gateway.tls] certificate and key: PEM files"),
        });
        checks.extend(listen(&settings, tls.listen, "gateway.tls.listen").await);
    }
    if settings.rules.is_empty() {
        let local = match settings.local {
            LocalPolicy::HoldWhenAnyHeld => "is refused while any trunk is held",
            LocalPolicy::Allow => "passes",
        };
        let found =
            format!("there is no [[gateway.rule]]: Local/… {local}, and Exten and Context of an Originate pass");
        let fix = "where these lead to trunks, say so by a rule for the context (docs/operations.md, The AMI gateway)";
        checks.push(say(Level::Note, "gateway", found, fix));
    }
    let shared = config.gateway.as_ref().is_some_and(|gateway| gateway.upstream.is_none());
    checks.extend(upstream(&settings, shared).await);
    checks
}

/// Whether `address` can be listened at, or the gateway listens there already.
async fn listen(settings: &GatewaySettings, address: SocketAddr, key: &str) -> Option<Check> {
    let error = match TcpListener::bind(address).await {
        Ok(_) => return None,
        Err(error) => error,
    };
    if error.kind() == io::ErrorKind::AddrInUse {
        let own = settings.tls.as_ref().is_some_and(|tls| tls.listen == address) || greets(reachable(address)).await;
        if own {
            return Some(say(
                Level::Note,
                "gateway",
                format!("{address} is in use, it seems by the running gateway"),
                "",
            ));
        }
    }
    let found = format!("{address} cannot be listened at: {error}");
    Some(say(Level::Problem, "gateway", found, format!("another {key}, or end what listens there (`ss -ltnp`)")))
}

async fn greets(address: SocketAddr) -> bool {
    let io = timeout(PORT_PATIENCE, TcpStream::connect(address)).await;
    match io {
        Ok(Ok(io)) => Talk::over(Box::new(io)).await.is_ok(),
        Ok(Err(_)) | Err(_) => false,
    }
}

/// What the gateway's users were promised: the classes of events, and of actions.
fn promised(settings: &GatewaySettings) -> (Classes, Classes) {
    let both = |(read, write): (Classes, Classes), user: &GatewayUser| (read.and(user.read), write.and(user.write));
    let (mut read, write) = settings.users.iter().fold((Classes::SYSTEM, Classes::NONE), both);
    if settings.limits.count_calls() {
        read = read.and(Classes::CALL);
    }
    (read, write)
}

/// Any of these may list the calls (`CoreShowChannels`), which limits count.
const LISTS_CALLS: Classes = Classes::SYSTEM.and(Classes::REPORTING);

/// Classes that show in `ListCommands`: each has an action in Asterisk's core that needs it and nothing else will do.
const SHOWN: [&str; 6] = ["system", "call", "command", "user", "config", "originate"];

/// Which of the classes of `write` nothing in a `ListCommands` bears out.
fn not_granted(write: Classes, commands: &Message) -> Classes {
    let mut granted = Classes::NONE;
    for header in commands.headers() {
        let value = header.value();
        let Some((_, classes)) = value.rsplit_once("(Priv: ") else { continue };
        let names: Vec<&str> = classes.trim_end_matches(')').split(',').filter(|name| *name != "all").collect();
        match names[..] {
            [only] => granted = granted.and(Classes::named(only).unwrap_or_default()),
            // Every action of `reporting` may be run by others too.
            _ if names.contains(&"reporting") => granted = granted.and(Classes::REPORTING),
            _ => {}
        }
    }
    let judged = SHOWN.into_iter().filter_map(Classes::named).fold(Classes::REPORTING, Classes::and);
    write.both(judged).without(granted)
}

/// What `manager show user` says after `name:`.
fn shown_of<'a>(shown: &'a [String], name: &str) -> Option<&'a str> {
    shown.iter().find_map(|line| line.trim().strip_prefix(name)).map(str::trim)
}

/// `shared`: the user is the controller's own as well, and needs what the controller needs.
async fn upstream(settings: &GatewaySettings, shared: bool) -> Vec<Check> {
    const OF: &str = "gateway";
    let user = settings.upstream.username.as_str();
    let (read, write) = promised(settings);
    let lines = if shared {
        let own =
            "\n(it is the controller's own user too; a user of the gateway's own, in [gateway.upstream], needs less)";
        section(user, read, write.and(Classes::SYSTEM).and(Classes::COMMAND)) + own
    } else if settings.limits.count_calls() && !write.overlaps(LISTS_CALLS) {
        section(user, read, write.and(Classes::REPORTING))
    } else {
        section(user, read, write)
    };
    let at = &settings.upstream.address;
    let reach = Reach { address: at.clone(), tls: settings.upstream.tls.clone() };
    let mut talk = match reach.connect().await {
        Ok(talk) => talk,
        Err(error) => return vec![say(Level::Problem, OF, format!("Asterisk at {at}: {error}"), "")],
    };
    if let Err(error) = talk.login(user, &settings.upstream.secret, true).await {
        let found = format!("Asterisk does not take the gateway's own user {user:?}: {error}");
        return vec![say(Level::Problem, OF, found, lines)];
    }
    let mut checks = Vec::new();
    let mut lacking = false;
    if talk.booted().await.is_none() {
        lacking = true;
        let found = format!("{user:?} gets no FullyBooted: it lacks `read = system`, or Asterisk is still booting");
        checks.push(say(Level::Problem, OF, found, ""));
    }
    // A session for each client: a second login must do while the first lives.
    if let Ok(mut second) = reach.connect().await {
        match second.login(user, &settings.upstream.secret, false).await {
            Ok(()) => second.leave().await,
            Err(error) => {
                lacking = true;
                let found = format!("{user:?} cannot log in twice, which it does once for each client: {error}");
                checks.push(say(Level::Problem, OF, found, "allowmultiplelogin = yes, in its section"));
            }
        }
    }
    let shown = match Action::command(&format!("manager show user {user}")) {
        Ok(action) if !user.contains(char::is_whitespace) => talk.ask(&action).await.ok(),
        Ok(_) | Err(_) => None,
    };
    let shown: Vec<String> =
        shown.as_ref().map(|answer| answer.output().map(std::borrow::Cow::into_owned).collect()).unwrap_or_default();
    let has = |name| shown_of(&shown, name).map(Classes::read);
    let missing_read = has("read perm:").map(|has| read.without(has));
    let mut counts = true;
    let missing_write = match has("write perm:") {
        Some(has) => {
            counts = has.overlaps(LISTS_CALLS);
            write.without(has)
        }
        None => match talk.ask(&Action::list_commands()).await {
            Ok(answer) => {
                // It lists what this user may run, and nothing else.
                counts = answer.get("CoreShowChannels").is_some();
                not_granted(write, &answer)
            }
            Err(error) => {
                checks.push(say(Level::Warning, OF, format!("{user:?}: ListCommands: {error}"), ""));
                Classes::NONE
            }
        },
    };
    talk.leave().await;
    for (right, missing) in [("read", missing_read.unwrap_or_default()), ("write", missing_write)] {
        // Classes that this Asterisk does not have are promised by `all` only.
        let names: Vec<&str> = missing.names().collect();
        if names.is_empty() {
            continue;
        }
        lacking = true;
        let bad = missing.overlaps(Classes::ORIGINATE) && right == "write";
        let level = if bad { Level::Problem } else { Level::Warning };
        let found = format!("the gateway's users were promised `{right} = {}`, which {user:?} lacks", names.join(","));
        checks.push(say(level, OF, found, ""));
    }
    if settings.limits.count_calls() && !counts {
        lacking = true;
        let found = format!(
            "[gateway.limits] count calls by CoreShowChannels, for which {user:?} lacks `write = reporting` or `system`"
        );
        checks.push(say(Level::Warning, OF, found, ""));
    }
    if lacking {
        checks.push(say(Level::Warning, OF, format!("{user:?} lacks rights at Asterisk"), lines));
    } else {
        let unseen = if missing_read.is_none() {
            format!("; its `read` cannot be asked for and should be {}", list(read))
        } else {
            String::new()
        };
        let found = format!("{user:?} at {at} may do what the gateway's users were promised{unseen}");
        checks.push(say(Level::Good, OF, found, ""));
    }
    checks
}

/// As in manager.conf.
fn list(classes: Classes) -> String {
    let names: Vec<&str> = classes.names().collect();
    if names.len() == Classes::NAMES.len() { "all".to_owned() } else { names.join(",") }
}

/// The section of the gateway's user with the least that will do.
fn section(user: &str, read: Classes, write: Classes) -> String {
    format!(
        "manager.conf, the gateway's user should have:\n    [{user}]\n    secret = (as in [gateway.upstream], or [pbx.ami])\n    \
         deny = 0.0.0.0/0.0.0.0\n    permit = (the controller's address)/255.255.255.255\n    read = {}\n    write = {}\n    \
         writetimeout = 5000\n    allowmultiplelogin = yes\nthen: asterisk -rx \"manager reload\", which counts for \
         connections made after it",
        list(read),
        list(write)
    )
}

// -- outside: what `check --gateway` asks -----------------------------------------------------------------------------

/// Whether the path through the gateway works, and whether one can go around it.
pub async fn outside(config: &Config, asked: &Outside) -> Vec<Check> {
    let Some(settings) = parameters::gateway(config) else {
        return vec![say(Level::Problem, "gateway", "there is no [gateway] in the configuration", "")];
    };
    let users: Vec<&GatewayUser> =
        settings.users.iter().filter(|user| asked.user.as_ref().is_none_or(|name| *name == user.name)).collect();
    if users.is_empty() {
        let known: Vec<&str> = settings.users.iter().map(|user| user.name.as_str()).collect();
        let found = format!("there is no [[gateway.user]] {:?}", asked.user.as_deref().unwrap_or_default());
        return vec![say(Level::Problem, "gateway", found, format!("there are: {}", known.join(", ")))];
    }
    let mut checks = Vec::new();
    let mut reaches = Vec::new();
    if let Some(address) = &asked.gateway {
        let tls = if asked.tls { Tls::On { ca_file: asked.ca_file.clone(), server_name: None } } else { Tls::Off };
        reaches.push(Reach { address: address.clone(), tls });
    } else {
        reaches.push(Reach { address: reachable(settings.listen).to_string(), tls: Tls::Off });
        if let Some(tls) = &settings.tls {
            // What is listened with is what must be shown there.
            let ca_file = Some(asked.ca_file.clone().unwrap_or_else(|| tls.certificate.clone()));
            let address = reachable(tls.listen).to_string();
            reaches.push(Reach { address, tls: Tls::On { ca_file, server_name: None } });
        }
    }
    for reach in &reaches {
        for user in &users {
            checks.push(path(reach, user).await);
        }
    }
    checks.extend(around(&settings, &reaches, &users, asked).await);
    checks.push(say(
        Level::Note,
        "not covered",
        "what is originated over ARI, AMI over HTTP (manager.conf webenabled), call files, and calls that queues and the \
         dialplan begin by themselves do not pass the gateway",
        "",
    ));
    checks
}

/// Where one connects to for what listens at `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = match address {
        _ if !address.ip().is_unspecified() => address.ip(),
        SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

/// One user's way through the gateway.
async fn path(reach: &Reach, user: &GatewayUser) -> Check {
    let mut notes = Vec::new();
    let of = format!("as {}", user.name);
    let at = format!("{}{}", reach.address, if reach.tls == Tls::Off { "" } else { " (TLS)" });
    match walk(reach, user, &mut notes).await {
        Ok(times) => {
            let notes: String = notes.iter().fold(String::new(), |all, note| format!("{all}; {note}"));
            say(Level::Good, &of, format!("path works at {at}: {times}{notes}"), "")
        }
        Err(error) => {
            let mut fix = String::new();
            match error {
                Wrong::Connect(ConnectError::Tls { .. }) => fix.push_str(
                    "does TLS listen there, and is its certificate's CA known here? Name it with --ca-file FILE",
                ),
                Wrong::Connect(ConnectError::Tcp { .. }) => fix.push_str(
                    "is the controller running with this [gateway]? Is there a firewall, or an `allow` that leaves this \
                     machine out? See its log",
                ),
                Wrong::Refused(_) => {
                    fix.push_str("the name and secret of [[gateway.user]] there, its `allow`, and the controller's log");
                }
                Wrong::Silent | Wrong::NoAmi(_) => fix.push_str("does something else listen there? See the controller's log"),
                Wrong::Asterisk(_) => {
                    fix.push_str("the gateway answers, Asterisk behind it does not: `trunkwarden check` on its machine");
                }
            }
            say(Level::Problem, &of, format!("no path at {at}: {error}"), fix)
        }
    }
}

/// Does what a dialer does at first, and says how long it took.
async fn walk(reach: &Reach, user: &GatewayUser, notes: &mut Vec<String>) -> Result<String, Wrong> {
    let mut times = String::new();
    let mut note = |what: &str, took: Duration| {
        let comma = if times.is_empty() { "" } else { ", " };
        // Writing to a String does not fail.
        let _ = write!(times, "{comma}{what} {:.1} ms", took.as_secs_f64() * 1000.0);
    };
    let began = Instant::now();
    let mut talk = match reach.connect().await {
        Err(Wrong::Connect(error)) => match name_shown(&error) {
            Some(name) => {
                notes.push(format!("its certificate is good for {name:?} only, if the dialer checks names"));
                reach.named(name).connect().await?
            }
            None => return Err(Wrong::Connect(error)),
        },
        other => other?,
    };
    note("connect", began.elapsed());
    let began = Instant::now();
    talk.login(&user.name, &user.secret, false).await?;
    note("login", began.elapsed());
    let began = Instant::now();
    match talk.ask(&Action::core_settings()).await {
        Ok(_) => note("CoreSettings", began.elapsed()),
        Err(Wrong::Refused(why)) if is_denied(&why) => notes.push("it may not ask CoreSettings".to_owned()),
        Err(Wrong::Refused(why)) => return Err(Wrong::Asterisk(format!("CoreSettings: {why}"))),
        Err(error) => return Err(error),
    }
    let mut pings = Vec::new();
    for _ in 0..PINGS {
        let began = Instant::now();
        match talk.ask(&Action::ping()).await {
            Ok(_) => pings.push(began.elapsed()),
            Err(Wrong::Refused(why)) if is_denied(&why) => break,
            Err(Wrong::Refused(why)) => return Err(Wrong::Asterisk(format!("Ping: {why}"))),
            Err(error) => return Err(error),
        }
    }
    pings.sort();
    match pings.get(pings.len() / 2) {
        Some(median) => note("Ping", *median),
        None => notes.push("it may not Ping".to_owned()),
    }
    let originate = Action::new("Originate").map_err(|error| Wrong::NoAmi(error.to_string()))?;
    let began = Instant::now();
    match talk.ask(&originate).await {
        // `manager.c` says so before it looks at anything else.
        Err(Wrong::Refused(why)) if why.eq_ignore_ascii_case("Channel not specified") => {
            note("Originate answered by Asterisk in", began.elapsed());
        }
        Err(Wrong::Refused(why)) if is_denied(&why) => notes.push("it may not Originate".to_owned()),
        Err(Wrong::Refused(why)) => return Err(Wrong::Asterisk(format!("Originate: {why}"))),
        Ok(_) => return Err(Wrong::NoAmi("an Originate without a channel was accepted".to_owned())),
        Err(error) => return Err(error),
    }
    talk.leave().await;
    Ok(times)
}

fn is_denied(why: &str) -> bool {
    why.eq_ignore_ascii_case("Permission denied")
}

/// Whether Asterisk's own port can be reached from here, and takes what the dialers know.
async fn around(settings: &GatewaySettings, reaches: &[Reach], users: &[&GatewayUser], asked: &Outside) -> Vec<Check> {
    const OF: &str = "around it";
    let mut checks = Vec::new();
    let gateways: Vec<SocketAddr> = {
        let mut all = Vec::new();
        for reach in reaches {
            all.extend(reach.resolved().await);
        }
        all
    };
    let here = match gateways.first() {
        Some(gateway) => is_here(gateway.ip()).await,
        None => true,
    };
    // A PBX on the controller's own loopback is, seen from elsewhere, where the gateway is.
    let told = asked.pbx.clone().unwrap_or_else(|| settings.upstream.address.clone());
    let configured = Reach { address: with_port(&told), tls: Tls::Off };
    let Some(mut pbx) = configured.resolved().await.into_iter().next() else {
        let found = format!("{told} cannot be resolved here, so whether it can be reached was not tested");
        checks.push(say(Level::Warning, OF, found, "name Asterisk's AMI with --pbx-address HOST:PORT"));
        return checks;
    };
    let beside = pbx.ip().to_canonical().is_loopback();
    if beside && !here && asked.pbx.is_none() {
        pbx.set_ip(gateways.first().map_or(pbx.ip(), SocketAddr::ip));
    }
    let controller = if beside { None } else { controller(&gateways, here, pbx).await };
    let tls = settings.upstream.tls.clone();
    let mut targets: Vec<(SocketAddr, Tls)> = vec![(pbx, if asked.pbx.is_some() { Tls::Off } else { tls })];
    if pbx.port() != AMI_PORT {
        targets.push((SocketAddr::new(pbx.ip(), AMI_PORT), Tls::Off));
    }
    let mut open = None;
    // Logins that Asterisk was asked for.
    let mut asked = 0;
    for (address, tls) in targets {
        if gateways.contains(&address) {
            let found = format!("{address} is the gateway itself, so Asterisk cannot be there");
            checks.push(say(Level::Note, OF, found, ""));
            continue;
        }
        match timeout(PORT_PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                checks.push(say(Level::Good, OF, format!("{address}: cannot be reached from here ({error})"), ""));
                continue;
            }
            Err(_) => {
                let found =
                    format!("{address}: cannot be reached from here (no answer in {} s)", PORT_PATIENCE.as_secs());
                checks.push(say(Level::Good, OF, found, ""));
                continue;
            }
        }
        let reach = Reach { address: address.to_string(), tls };
        let mut knocked = None;
        if asked < DIRECT_LOGINS
            && let Some(user) = users.first()
        {
            let taken = knock(&reach, user).await;
            if matches!(taken, Ok(Behind::Gateway)) {
                let found = format!("{address}: this address leads to the gateway: closed");
                checks.push(say(Level::Good, OF, found, ""));
                continue;
            }
            asked += 1;
            knocked = Some(judge_knock(address, user, taken, controller));
        }
        checks.push(if here {
            let found = format!(
                "{address}: Asterisk's own port can be reached, but this is the controller's machine, which needs it; \
                 the check counts when it is run on the dialer's machine"
            );
            say(Level::Note, OF, found, "")
        } else {
            let found = format!(
                "{address}: Asterisk's own port can be reached from here; whoever knows a user of manager.conf can dial \
                 past the gateway"
            );
            say(Level::Warning, OF, found, close_port(address, controller))
        });
        checks.extend(knocked);
        open.get_or_insert((address, reach));
    }
    let Some((address, reach)) = open else { return checks };
    let mut tried = 1;
    for user in users.iter().skip(1) {
        if asked >= DIRECT_LOGINS {
            break;
        }
        asked += 1;
        tried += 1;
        checks.push(judge_knock(address, user, knock(&reach, user).await, controller));
    }
    let found = format!(
        "one login each was tried there for {tried} of {} users, and may stand in Asterisk's security log: intrusion guards \
         such as fail2ban count them",
        users.len()
    );
    let fix = if tried < users.len() { "the others: --as NAME, one at a time" } else { "" };
    checks.push(say(Level::Note, OF, found, fix));
    checks
}

/// What took a login.
enum Behind {
    /// The gateway: the address is redirected to it.
    Gateway,
    /// Asterisk, as far as can be told.
    Asterisk,
}

/// Logs in at what may be Asterisk or the gateway, and finds out which it is.
async fn knock(reach: &Reach, user: &GatewayUser) -> Result<Behind, Wrong> {
    let mut talk = reach.connect().await?;
    talk.login(&user.name, &user.secret, false).await?;
    let mut behind = Behind::Asterisk;
    // One of them may be closed to this user. Without a channel Asterisk dials nothing.
    for action in ["Ping", "Originate"] {
        match talk.probe(action).await {
            Err(Wrong::Refused(why)) if why.starts_with(OWN_WORDS) => {
                behind = Behind::Gateway;
                break;
            }
            Err(Wrong::Refused(why)) if is_denied(&why) => {}
            Ok(_) | Err(_) => break,
        }
    }
    talk.leave().await;
    Ok(behind)
}

/// What a login at Asterisk's own port means.
fn judge_knock(
    address: SocketAddr,
    user: &GatewayUser,
    taken: Result<Behind, Wrong>,
    controller: Option<IpAddr>,
) -> Check {
    const OF: &str = "around it";
    let name = &user.name;
    match taken {
        Ok(Behind::Gateway) => say(Level::Good, OF, format!("{address}: {name:?} gets to the gateway there"), ""),
        Ok(Behind::Asterisk) => {
            let found = format!("{address}: Asterisk takes {name:?} and its secret: it can dial past the gateway");
            say(Level::Warning, OF, found, close_user(name, controller))
        }
        Err(Wrong::Refused(why)) => {
            say(Level::Good, OF, format!("{address}: Asterisk does not take {name:?} and its secret ({why})"), "")
        }
        Err(error) => {
            let found = format!("{address}: whether it takes {name:?} could not be told: {error}");
            say(Level::Warning, OF, found, "")
        }
    }
}

/// `host` with Asterisk's own port, unless it has one.
fn with_port(given: &str) -> String {
    let after = given.rsplit_once(']').map_or(given, |(_, after)| after);
    if after.contains(':') { given.to_owned() } else { format!("{given}:{AMI_PORT}") }
}

/// Whether an address is this machine's: whether one can be bound to it.
async fn is_here(ip: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(ip, 0)).await.is_ok()
}

/// By which address the PBX sees the controller: of the gateway, or, on its machine, of the way to the PBX.
async fn controller(gateways: &[SocketAddr], here: bool, pbx: SocketAddr) -> Option<IpAddr> {
    if !here {
        return gateways.first().map(SocketAddr::ip);
    }
    let any: IpAddr =
        if pbx.is_ipv4() { std::net::Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    // Connecting a datagram socket sends nothing; it only looks the way up.
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await.ok()?;
    socket.connect(pbx).await.ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// What none of the lines that close a port can be relied on for.
const STAYS: &str = "who is connected already may stay so, since most of these judge new connections only: restart the dialer, \
                     or on Asterisk `manager show connected` and `manager kick session`";

/// Lines that leave Asterisk's port to the controller. Without an address it is on Asterisk's own machine.
fn close_port(address: SocketAddr, controller: Option<IpAddr>) -> String {
    let port = address.port();
    let Some(ip) = controller else {
        return format!(
            "the controller is on Asterisk's machine, so AMI need not be reached from elsewhere. manager.conf:\n    \
             [general]\n    bindaddr = 127.0.0.1\nthen: asterisk -rx \"manager reload\". Or the firewall there, one of:\n    \
             nft insert rule inet filter input iifname != \"lo\" tcp dport {port} drop\n    \
             ufw prepend deny {port}/tcp\n    \
             iptables -I INPUT ! -i lo -p tcp --dport {port} -j DROP && ip6tables -I INPUT ! -i lo -p tcp --dport {port} \
             -j DROP\n{STAYS}"
        );
    };
    // The other family has no controller in it, so nobody is let in by it.
    let (family, other, tables, other_tables) =
        if ip.is_ipv4() { ("ip", "ipv6", "iptables", "ip6tables") } else { ("ip6", "ipv4", "ip6tables", "iptables") };
    format!(
        "on Asterisk's machine let only the controller ({ip}) in; one of:\n    \
         nft insert rule inet filter input iifname != \"lo\" tcp dport {port} {family} saddr != {ip} drop && nft insert \
         rule inet filter input iifname != \"lo\" meta nfproto {other} tcp dport {port} drop\n    \
         ufw prepend deny {port}/tcp && ufw prepend allow from {ip} to any port {port} proto tcp\n    \
         {tables} -I INPUT ! -i lo -p tcp --dport {port} ! -s {ip} -j DROP && {other_tables} -I INPUT ! -i lo -p tcp \
         --dport {port} -j DROP\n\
         (AMI over TLS and over HTTP have ports of their own.) And in manager.conf, in every section:\n    \
         deny = 0.0.0.0/0.0.0.0\n    permit = {}\n{STAYS}",
        permit(ip)
    )
}

/// Lines that take a dialer's own way to Asterisk.
fn close_user(name: &str, controller: Option<IpAddr>) -> String {
    let ip = controller.unwrap_or(std::net::Ipv4Addr::LOCALHOST.into());
    format!(
        "manager.conf: remove the section [{name}], since the gateway logs in for it; or give it another secret, or:\n    \
         [{name}]\n    deny = 0.0.0.0/0.0.0.0\n    permit = {}\nthen: asterisk -rx \"manager reload\"; who is connected \
         stays so: `manager show connected`, `manager kick session`",
        permit(ip)
    )
}

fn permit(ip: IpAddr) -> String {
    if ip.is_ipv4() { format!("{ip}/255.255.255.255") } else { format!("{ip}/128") }
}

// -- one connection ---------------------------------------------------------------------------------------------------

/// Why there is no path.
#[derive(Debug, thiserror::Error)]
enum Wrong {
    /// No connection.
    #[error("{}", chain(.0))]
    Connect(ConnectError),
    /// Refused, in the other side's words.
    #[error("{0}")]
    Refused(String),
    /// The gateway answers, and what is behind it does not as it should.
    #[error("{0}")]
    Asterisk(String),
    /// Nothing came in time.
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Silent,
    /// What came is not what a manager interface sends, or it ended.
    #[error("{0}")]
    NoAmi(String),
}

/// How something is reached.
#[derive(Debug, Clone)]
struct Reach {
    address: String,
    tls: Tls,
}

impl Reach {
    async fn connect(&self) -> Result<Talk, Wrong> {
        let transport =
            TcpTransport::new(self.address.clone(), &self.tls).map_err(|error| Wrong::NoAmi(chain(&error)))?;
        let opened = timeout(PATIENCE, transport.connect()).await.map_err(|_| Wrong::Silent)?;
        Talk::over(opened.map_err(Wrong::Connect)?.io).await
    }

    /// The same, with another name to check.
    fn named(&self, name: String) -> Self {
        let ca_file = match &self.tls {
            Tls::Off => None,
            Tls::On { ca_file, .. } => ca_file.clone(),
        };
        Self { address: self.address.clone(), tls: Tls::On { ca_file, server_name: Some(name) } }
    }

    async fn resolved(&self) -> Vec<SocketAddr> {
        let looked_up = timeout(PATIENCE, tokio::net::lookup_host(&self.address)).await;
        looked_up.ok().and_then(Result::ok).map(Iterator::collect).unwrap_or_default()
    }
}

/// The name a certificate bears, when it was refused for not bearing the one that was looked for.
fn name_shown(error: &ConnectError) -> Option<String> {
    let ConnectError::Tls { source, .. } = error else { return None };
    let rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) =
        source.get_ref()?.downcast_ref()?
    else {
        return None;
    };
    // It writes them as `DnsName("pbx.example")`.
    presented.iter().find_map(|name| Some(name.split_once('"')?.1.split_once('"')?.0.to_owned()))
}

/// One connection, an action at a time.
struct Talk {
    io: BoxedIo,
    decoder: Decoder,
    sent: u32,
    /// What came unasked, by event.
    events: BTreeMap<String, u32>,
}

impl Talk {
    /// Reads the greeting.
    async fn over(io: BoxedIo) -> Result<Self, Wrong> {
        let decoder = Decoder::expecting_banner(DecodeLimits::default());
        let mut talk = Self { io, decoder, sent: 0, events: BTreeMap::new() };
        match timeout(PATIENCE, talk.frame()).await.map_err(|_| Wrong::Silent)?? {
            Frame::Banner(banner) if banner.as_str().starts_with("Asterisk Call Manager/") => Ok(talk),
            Frame::Banner(_) | Frame::Message(_) => Err(Wrong::NoAmi("what greets there is no AMI".to_owned())),
        }
    }

    /// Cancel safe: what was read stays in the decoder.
    async fn frame(&mut self) -> Result<Frame, Wrong> {
        let mut chunk = vec![0; CHUNK];
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(|error| Wrong::NoAmi(chain(&error)))? {
                return Ok(frame);
            }
            let read = self.io.read(&mut chunk).await.map_err(|error| Wrong::NoAmi(error.to_string()))?;
            if read == 0 {
                return Err(Wrong::NoAmi("the connection was closed".to_owned()));
            }
            self.decoder.feed(chunk.get(..read).unwrap_or_default());
        }
    }

    /// The answer to `action`; an `Error` is [`Wrong::Refused`].
    async fn ask(&mut self, action: &Action) -> Result<Message, Wrong> {
        self.sent += 1;
        let id = format!("check-{}", self.sent);
        let bytes = action.encode(&id).map_err(|error| Wrong::NoAmi(error.to_string()))?;
        self.exchange(&id, &bytes).await
    }

    /// The answer to `action` with a NUL in a header: the gateway refuses it in words of its own, and Asterisk, to which
    /// the line ends there, does not notice.
    async fn probe(&mut self, action: &str) -> Result<Message, Wrong> {
        self.sent += 1;
        let id = format!("check-{}", self.sent);
        let bytes = format!("Action: {action}\r\nActionID: {id}\r\nX-Gateway: \0\r\n\r\n");
        self.exchange(&id, bytes.as_bytes()).await
    }

    async fn exchange(&mut self, id: &str, bytes: &[u8]) -> Result<Message, Wrong> {
        let answered = async {
            self.io.write_all(bytes).await.map_err(|error| Wrong::NoAmi(error.to_string()))?;
            self.io.flush().await.map_err(|error| Wrong::NoAmi(error.to_string()))?;
            loop {
                match self.frame().await? {
                    Frame::Message(message) if message.response().is_some() => {
                        if message.action_id().is_some_and(|own| own == id) {
                            return Ok(message);
                        }
                    }
                    Frame::Message(message) => self.keep(&message),
                    Frame::Banner(_) => {}
                }
            }
        };
        let answer = timeout(PATIENCE, answered).await.map_err(|_| Wrong::Silent)??;
        if answer.is_error() {
            let why = answer.get("Message").unwrap_or_default().trim().to_owned();
            return Err(Wrong::Refused(why));
        }
        Ok(answer)
    }

    fn keep(&mut self, message: &Message) {
        if let Some(event) = message.event() {
            *self.events.entry(event.into_owned()).or_default() += 1;
        }
    }

    /// Logs in by the challenge, so that the secret itself is never sent.
    async fn login(&mut self, user: &str, secret: &SecretString, events: bool) -> Result<(), Wrong> {
        let challenge = self.ask(&Action::challenge()).await?;
        let number = challenge.get("Challenge").unwrap_or_default().trim().to_owned();
        if number.is_empty() {
            return Err(Wrong::NoAmi("the challenge is empty".to_owned()));
        }
        let login = Action::new("Login")
            .and_then(|login| login.with("AuthType", "MD5"))
            .and_then(|login| login.with("Username", user))
            .and_then(|login| login.with_secret("Key", &md5_key(&number, secret)))
            .and_then(|login| login.with("Events", if events { "system" } else { "off" }))
            .map_err(|error| Wrong::NoAmi(error.to_string()))?;
        match self.ask(&login).await {
            // Nothing that is said in answer may repeat what was sent.
            Err(Wrong::Refused(why)) if why.contains(secret.expose_secret()) => {
                Err(Wrong::Refused("the login was refused".to_owned()))
            }
            other => other.map(drop),
        }
    }

    /// Waits for `FullyBooted`.
    async fn booted(&mut self) -> Option<()> {
        let told = async {
            while !self.events.contains_key("FullyBooted") {
                if let Ok(Frame::Message(message)) = self.frame().await {
                    self.keep(&message);
                } else {
                    return None;
                }
            }
            Some(())
        };
        timeout(BOOT_PATIENCE, told).await.ok().flatten()
    }

    /// Logs off, so that nobody wonders where the connection went.
    async fn leave(mut self) {
        let _answered_or_not = self.ask(&Action::logoff()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_asterisk_lists_is_what_it_grants() {
        let text = "Response: Success\nOriginate: Originate Call.  (Priv: originate,all)\nSetvar: Sets a channel variable.  \
                    (Priv: call,all)\nStatus: Lists channel status.  (Priv: system,call,reporting,all)\nPing: Keepalive command. \
                    (Priv: <none>)\n";
        let lacking =
            |write: &str| not_granted(Classes::read(write), &Message::from_text(text)).names().collect::<Vec<_>>();
        assert_eq!(lacking("originate,call,reporting"), Vec::<&str>::new());
        assert_eq!(lacking("originate,system,command,user"), ["system", "command", "user"]);
        assert_eq!(lacking("agent,cdr"), Vec::<&str>::new(), "these show in no action of the core");
    }

    #[test]
    fn a_host_gets_asterisks_port() {
        assert_eq!(with_port("10.0.0.5"), "10.0.0.5:5038");
        assert_eq!(with_port("10.0.0.5:5039"), "10.0.0.5:5039");
        assert_eq!(with_port("[::1]"), "[::1]:5038");
        assert_eq!(with_port("[::1]:1"), "[::1]:1");
    }

    #[test]
    fn the_lines_that_close_the_port_name_the_controller() {
        let address: SocketAddr = "10.0.0.9:5038".parse().unwrap();
        let lines = close_port(address, Some("10.0.0.5".parse().unwrap()));
        for words in [
            "nft insert rule inet filter input iifname != \"lo\" tcp dport 5038 ip saddr != 10.0.0.5 drop",
            "meta nfproto ipv6 tcp dport 5038 drop",
            "ufw prepend allow from 10.0.0.5",
            "&& ip6tables -I INPUT ! -i lo -p tcp --dport 5038 -j DROP",
            "permit = 10.0.0.5/255.255.255.255",
            "who is connected already may stay so",
        ] {
            assert!(lines.contains(words), "{lines}");
        }
        let lines = close_port(address, Some("2001:db8::5".parse().unwrap()));
        for words in ["ip6 saddr != 2001:db8::5 drop", "meta nfproto ipv4 tcp", "&& iptables -I INPUT ! -i lo -p tcp"] {
            assert!(lines.contains(words), "{lines}");
        }
        assert!(close_port(address, None).contains("bindaddr = 127.0.0.1"));
    }
}
