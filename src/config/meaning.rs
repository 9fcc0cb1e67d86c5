//! What keys mean together: names are unique, whatever is named is there, and no combination is senseless.

use std::{collections::BTreeMap, fs::File, net::SocketAddr, path::PathBuf, time::Duration};

use secrecy::ExposeSecret;

use super::{
    check,
    form::Table,
    problem::{Fault, Place, Problem},
    schema,
};
use crate::gateway::settings::LONGEST_WAIT;

/// A connection without a login costs: an hour of it is longer than any dialer needs.
const LONGEST_AUTH: Duration = Duration::from_secs(3600);

/// Everything that is wrong between keys. What could not be typed is left out, since it was reported.
pub(super) fn problems(root: &Table) -> Vec<Problem> {
    let mut meaning = Meaning { problems: Vec::new() };
    meaning.root(root);
    meaning.problems
}

struct Meaning {
    problems: Vec<Problem>,
}

/// The names of a list's entries and where each stands first.
type Names = BTreeMap<String, Place>;

impl Meaning {
    fn say(&mut self, key: impl Into<String>, place: Place, fault: Fault) {
        self.problems.push(Problem { key: key.into(), place, fault });
    }

    fn root(&mut self, root: &Table) {
        let pbxs = self.unique(root, "pbx", &["id"]);
        let dialers = self.unique(root, "dialer", &["id"]);
        self.unique(root, "trunk", &["pbx", "name"]);
        self.unique(root, "campaign", &["dialer", "id"]);
        if let Some(api) = root.table("api") {
            self.api(api);
        }
        if let Some(health) = root.table("health") {
            self.flap("health", health, None);
        }
        if root.0.contains_key("pbx") && root.entries("pbx").next().is_none() {
            self.say("pbx", root.place("pbx"), Fault::NoneGiven);
        }
        let mut captures: BTreeMap<u32, Place> = BTreeMap::new();
        for (pbx, _) in root.entries("pbx") {
            self.ami(pbx);
            self.capture(pbx, &mut captures);
        }
        self.trunks(root, &pbxs);
        for (dialer, place) in root.entries("dialer") {
            self.dialer(dialer, place);
        }
        for (campaign, _) in root.entries("campaign") {
            self.campaign(campaign, &dialers, &pbxs);
        }
        let mut urls: BTreeMap<&str, Place> = BTreeMap::new();
        for (number, (notify, _)) in root.entries("notify").enumerate() {
            let path = format!("notify[#{}]", number + 1);
            // It is by its URL that what waits in the outbox finds its way after a restart.
            if let Some(url) = notify.secret("url") {
                let place = notify.place("url");
                match urls.get(url.expose_secret()) {
                    Some(first) => {
                        let name = super::render::origin(url.expose_secret()).unwrap_or_default();
                        self.say(format!("{path}.url"), place, Fault::Duplicate { name, first: first.clone() });
                    }
                    None => {
                        urls.insert(url.expose_secret(), place);
                    }
                }
            }
        }
        if let Some(gateway) = root.table("gateway") {
            self.gateway(root, gateway, &pbxs);
        }
    }

    /// The entries' names; those that were there before are reported. `path` ends in the list's own key.
    fn unique(&mut self, table: &Table, path: &str, ids: &[&str]) -> Names {
        let mut names = Names::new();
        let list = path.rsplit('.').next().unwrap_or(path);
        for (entry, _) in table.entries(list) {
            let parts: Option<Vec<&str>> = ids.iter().map(|id| entry.text(id)).collect();
            let (Some(parts), Some(last)) = (parts, ids.last()) else { continue };
            let name = parts.join("/");
            let place = entry.place(last);
            match names.get(&name) {
                Some(first) => {
                    let fault = Fault::Duplicate { name: name.clone(), first: first.clone() };
                    self.say(format!("{path}[{name}].{last}"), place, fault);
                }
                None => {
                    names.insert(name, place);
                }
            }
        }
        names
    }

    fn known(&mut self, key: &str, what: &'static str, name: Option<&str>, place: Place, names: &Names) {
        let Some(name) = name else { return };
        // Without any there is another problem to be mended first.
        if names.is_empty() && what == "[[pbx]]" || names.contains_key(name) {
            return;
        }
        let nearest = check::nearest(name, names.keys().map(String::as_str)).map(ToOwned::to_owned);
        let fault = Fault::NoSuch { what, name: name.to_owned(), nearest, known: names.keys().cloned().collect() };
        self.say(key, place, fault);
    }

    fn api(&mut self, api: &Table) {
        let names = self.unique(api, "api.token", &["name"]);
        let loopback = api
            .text("listen")
            .and_then(|listen| listen.parse::<SocketAddr>().ok())
            .is_none_or(|at| at.ip().is_loopback());
        if !loopback && names.is_empty() {
            self.say("api.listen", api.place("listen"), Fault::Exposed);
        }
    }

    /// `[trunk.health]` may set one of the two only; the other is the general one.
    fn flap(&mut self, path: &str, health: &Table, general: Option<&Table>) {
        let value = |key| {
            let own = health.table("flap").and_then(|flap| flap.number(key));
            own.or_else(|| general?.table("flap")?.number(key))
        };
        let (Some(reuse), Some(suppress)) = (value("reuse"), value("suppress")) else { return };
        let Some(flap) = health.table("flap") else { return };
        let (key, place) = match flap.place("reuse") {
            Place::Nowhere => ("suppress", flap.place("suppress")),
            place @ (Place::File { .. } | Place::Variable(_)) => ("reuse", place),
        };
        // What the trunk does not set is reported where it is set.
        let own = general.is_none() || flap.0.contains_key("reuse") || flap.0.contains_key("suppress");
        if own && reuse >= suppress {
            self.say(format!("{path}.flap.{key}"), place, Fault::ReuseNotBelowSuppress { reuse, suppress });
        }
    }

    fn ami(&mut self, pbx: &Table) {
        let Some(ami) = pbx.table("ami") else { return };
        let path = format!("pbx[{}].ami", pbx.text("id").unwrap_or("?"));
        if ami.flag("tls") == Some(false) {
            for key in ["ca_file", "server_name"] {
                if ami.0.contains_key(key) {
                    self.say(format!("{path}.{key}"), ami.place(key), Fault::NeedsTls);
                }
            }
        } else if let Some(file) = ami.text("ca_file")
            && let Err(error) = File::open(file)
        {
            self.say(format!("{path}.ca_file"), ami.place("ca_file"), Fault::File { file: PathBuf::from(file), error });
        }
    }

    /// Two PBXs of one capture id could not be told apart in the HEP feed.
    fn capture(&mut self, pbx: &Table, seen: &mut BTreeMap<u32, Place>) {
        let Some(evidence) = pbx.table("evidence") else { return };
        let Some(id) = evidence.count("capture_id") else { return };
        let place = evidence.place("capture_id");
        match seen.get(&id) {
            Some(first) => {
                let key = format!("pbx[{}].evidence.capture_id", pbx.text("id").unwrap_or("?"));
                self.say(key, place, Fault::Duplicate { name: id.to_string(), first: first.clone() });
            }
            None => {
                seen.insert(id, place);
            }
        }
    }

    fn trunks(&mut self, root: &Table, pbxs: &Names) {
        let mut claimed: BTreeMap<(&str, &str, &str), (String, Place)> = BTreeMap::new();
        for (trunk, _) in root.entries("trunk") {
            let (Some(pbx), Some(name)) = (trunk.text("pbx"), trunk.text("name")) else { continue };
            let id = format!("{pbx}/{name}");
            let path = format!("trunk[{id}]");
            self.known(&format!("{path}.pbx"), "[[pbx]]", Some(pbx), trunk.place("pbx"), pbxs);
            for key in ["registrations", "endpoints"] {
                for (object, place) in trunk.texts(key) {
                    match claimed.get(&(pbx, key, object.as_str())) {
                        Some((other, first)) => {
                            let fault =
                                Fault::Claimed { name: object.clone(), trunk: other.clone(), first: first.clone() };
                            self.say(format!("{path}.{key}"), place.clone(), fault);
                        }
                        None => {
                            claimed.insert((pbx, key, object), (id.clone(), place.clone()));
                        }
                    }
                }
            }
            if let Some(health) = trunk.table("health") {
                self.flap(&format!("{path}.health"), health, root.table("health"));
            }
        }
    }

    fn dialer(&mut self, dialer: &Table, place: &Place) {
        let path = format!("dialer[{}]", dialer.text("id").unwrap_or("?"));
        let (own, foreign, kind, needed): (_, _, _, &[&str]) = match dialer.text("kind") {
            Some("webhook") => ("webhook", schema::MYLINEHUB_ONLY, "mylinehub", &["secret"]),
            Some("mylinehub") => ("mylinehub", schema::WEBHOOK_ONLY, "webhook", &["username", "password"]),
            Some(_) | None => return,
        };
        for key in foreign.iter().filter(|key| dialer.0.contains_key(**key)) {
            self.say(format!("{path}.{key}"), dialer.place(key), Fault::OtherKind { kind });
        }
        for key in needed.iter().filter(|key| !dialer.0.contains_key(**key)) {
            let hint = format!(": a dialer of kind \"{own}\" needs it");
            self.say(format!("{path}.{key}"), place.clone(), Fault::Missing { hint });
        }
    }

    fn campaign(&mut self, campaign: &Table, dialers: &Names, pbxs: &Names) {
        let (Some(dialer), Some(id)) = (campaign.text("dialer"), campaign.text("id")) else { return };
        let path = format!("campaign[{dialer}/{id}]");
        self.known(&format!("{path}.dialer"), "[[dialer]]", Some(dialer), campaign.place("dialer"), dialers);
        for key in ["trunks", "fallback", "needs_trunks"] {
            for (trunk, place) in campaign.texts(key) {
                let pbx = trunk.split_once('/').map(|(pbx, _)| pbx);
                self.known(&format!("{path}.{key}"), "[[pbx]]", pbx, place.clone(), pbxs);
            }
        }
    }

    fn gateway(&mut self, root: &Table, gateway: &Table, pbxs: &Names) {
        let users = self.unique(gateway, "gateway.user", &["name"]);
        if gateway.0.contains_key("user") && users.is_empty() && gateway.entries("user").next().is_none() {
            self.say("gateway.user", gateway.place("user"), Fault::NoneGiven);
        }
        self.unique(gateway, "gateway.limit", &["trunk"]);
        self.known("gateway.pbx", "[[pbx]]", gateway.text("pbx"), gateway.place("pbx"), pbxs);
        if gateway.span("auth_timeout").is_some_and(|span| span > LONGEST_AUTH) {
            self.say("gateway.auth_timeout", gateway.place("auth_timeout"), Fault::Above { most: LONGEST_AUTH });
        }
        self.gateway_listens(root, gateway);
        if let Some(tls) = gateway.table("tls") {
            for key in ["certificate", "key"] {
                if let Some(file) = tls.text(key)
                    && let Err(error) = File::open(file)
                {
                    let file = PathBuf::from(file);
                    self.say(format!("gateway.tls.{key}"), tls.place(key), Fault::File { file, error });
                }
            }
        }
        let general = gateway.table("limits");
        if let Some(limits) = general {
            self.limits("gateway.limits", limits, None);
        }
        let pbx = gateway.text("pbx").filter(|pbx| pbxs.contains_key(*pbx)).unwrap_or_default();
        for (limit, place) in gateway.entries("limit") {
            let trunk = limit.text("trunk");
            let path = format!("gateway.limit[{}]", trunk.unwrap_or("?"));
            self.limits(&path, limit, general);
            if let Some(trunk) = trunk {
                self.own_trunk(&format!("{path}.trunk"), pbx, trunk, limit.place("trunk"));
            }
            if ["calls", "per_second", "ramp", "over"].iter().all(|key| !limit.0.contains_key(*key)) {
                let keys = &["calls", "per_second", "ramp", "over"];
                self.say(path, place.clone(), Fault::OneOf { keys });
            }
        }
        let mut rules: BTreeMap<(&str, Option<&str>), Place> = BTreeMap::new();
        for (number, (rule, place)) in gateway.entries("rule").enumerate() {
            let path = format!("gateway.rule[#{}]", number + 1);
            if !rule.0.contains_key("trunks") {
                let hint = ": name them, or write [] if it dials on none".to_owned();
                self.say(format!("{path}.trunks"), place.clone(), Fault::Missing { hint });
            }
            self.own_trunks(&format!("{path}.trunks"), pbx, rule);
            if let Some(context) = rule.text("context") {
                let exten = rule.text("exten");
                if exten.is_none() && rule.0.contains_key("exten") {
                    // It could not be read, which was reported.
                } else if let Some(first) = rules.get(&(context, exten)) {
                    let name = format!("{}@{context}", exten.unwrap_or("(every extension)"));
                    self.say(&*path, place.clone(), Fault::Duplicate { name, first: first.clone() });
                } else {
                    rules.insert((context, exten), place.clone());
                }
            }
        }
        for (user, _) in gateway.entries("user") {
            let path = format!("gateway.user[{}].trunks", user.text("name").unwrap_or("?"));
            self.own_trunks(&path, pbx, user);
        }
    }

    fn own_trunks(&mut self, key: &str, pbx: &str, table: &Table) {
        for (trunk, place) in table.texts("trunks") {
            self.own_trunk(key, pbx, trunk, place.clone());
        }
    }

    /// The gateway serves one PBX: another's trunk is a slip of the pen.
    fn own_trunk(&mut self, key: &str, pbx: &str, trunk: &str, place: Place) {
        // Without the PBX there is another problem to be mended first.
        if !pbx.is_empty() && trunk.split_once('/').is_some_and(|(of, _)| of != pbx) {
            self.say(key, place, Fault::ForeignTrunk { trunk: trunk.to_owned(), pbx: pbx.to_owned() });
        }
    }

    /// `general` is what a trunk's own limits are laid over.
    fn limits(&mut self, path: &str, limits: &Table, general: Option<&Table>) {
        let over = limits.text("over").or_else(|| general.and_then(|general| general.text("over")));
        if let Some(wait) = limits.span("wait") {
            if over != Some("wait") {
                self.say(format!("{path}.wait"), limits.place("wait"), Fault::OnlyWith { what: "over = \"wait\"" });
            } else if wait > LONGEST_WAIT {
                self.say(format!("{path}.wait"), limits.place("wait"), Fault::Above { most: LONGEST_WAIT });
            }
        }
        if let Some(ramp) = limits.table("ramp")
            && !ramp.0.contains_key("calls")
            && !ramp.0.contains_key("per_second")
        {
            let keys = &["calls", "per_second"];
            self.say(format!("{path}.ramp"), limits.place("ramp"), Fault::OneOf { keys });
        }
    }

    /// Nothing may listen where something else does, nor the gateway where it would find itself instead of Asterisk.
    fn gateway_listens(&mut self, root: &Table, gateway: &Table) {
        let at = |table: Option<&Table>| -> Option<(SocketAddr, Place)> {
            let table = table?;
            Some((table.text("listen")?.parse().ok()?, table.place("listen")))
        };
        let clear = at(Some(gateway));
        let mut taken: Vec<(String, SocketAddr, Place)> = Vec::new();
        for (what, table) in [("api.listen", root.table("api")), ("hep.listen", root.table("hep"))] {
            taken.extend(at(table).map(|(address, place)| (what.to_owned(), address, place)));
        }
        for (pbx, _) in root.entries("pbx") {
            let Some(ami) = pbx.table("ami") else { continue };
            let given = ami.text("address").and_then(check::split_host_port);
            let Some((host, port)) = given else { continue };
            let host = if host == "localhost" { "127.0.0.1" } else { host };
            let Ok(ip) = host.parse() else { continue };
            let port = port.unwrap_or(if ami.flag("tls") == Some(true) { 5039 } else { 5038 });
            let name = format!("pbx[{}].ami.address", pbx.text("id").unwrap_or("?"));
            taken.push((name, SocketAddr::new(ip, port), ami.place("address")));
        }
        for (key, listens) in [("gateway.listen", clear), ("gateway.tls.listen", at(gateway.table("tls")))] {
            let Some((address, place)) = listens else { continue };
            if let Some((what, _, at)) = taken.iter().find(|(_, other, _)| collide(address, *other)) {
                self.say(key, place.clone(), Fault::SamePort { what: what.clone(), at: at.clone() });
            }
            taken.push((key.to_owned(), address, place));
        }
    }
}

/// Whether two cannot listen at these addresses on one machine. An unspecified IPv6 address takes IPv4 too.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |all: SocketAddr, of: SocketAddr| all.ip().is_unspecified() && (all.is_ipv6() || of.is_ipv4());
    // What is elsewhere cannot be listened at, so an unspecified address collides with loopback only.
    let here = |at: SocketAddr| at.ip().is_loopback() || at.ip().is_unspecified();
    one.port() == other.port()
        && one.port() != 0
        && (one.ip() == other.ip() || (covers(one, other) && here(other)) || (covers(other, one) && here(one)))
}
