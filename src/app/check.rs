//! `check`: connects as `run` would, and says what is missing on the other side and which lines to add.
//!
//! Nothing is changed and nothing is sent to a dialer. What the AMI user may do is learned by doing what the controller
//! does; so what `check` finds is what `run` will find.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    evidence::PbxEvidence,
    parameters,
    pbx::{PbxSettings, PbxStatus, Permission, watch_pbx},
};
use crate::{
    clock::Clock,
    config::Config,
    ids::TrunkId,
    wire::ami::{
        action::Action,
        client::{CallError, FilterState, LinkPhase, TcpTransport, Tls},
    },
};

/// How long a PBX may take to be listed. A booting Asterisk is ready in half of it.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a connection may fail before it is given up; the link tries three or four times in it.
const TRIES: Duration = Duration::from_secs(4);
/// How often it is looked at.
const GLANCE: Duration = Duration::from_millis(200);
/// How long a question about a module may take.
const MODULE_PATIENCE: Duration = Duration::from_secs(5);
/// Modules without which there is nothing to watch.
const MODULES: [&str; 2] = ["res_pjsip.so", "res_pjsip_outbound_registration.so"];
/// What the HEP feed comes from.
const HEP_MODULE: &str = "res_hep_pjsip.so";
/// What Asterisk's SIP history is kept by.
const HISTORY_MODULE: &str = "res_pjsip_history.so";

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Good,
    /// Worth knowing, and nobody's fault.
    Note,
    /// It works, with less to see.
    Warning,
    /// It does not work.
    Problem,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Good => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "PROBLEM",
        })
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// How it is.
    pub level: Level,
    /// What was looked at: a PBX, a campaign, the API.
    pub of: String,
    /// What was found.
    pub found: String,
    /// What to change, with the lines to add; empty where nothing need be.
    pub fix: String,
}

/// Looks at everything `config` names.
pub async fn check(config: &Config, clock: &Arc<dyn Clock>) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut known = BTreeSet::new();
    let mut blind = BTreeSet::new();
    for settings in parameters::pbxs(config) {
        let name = settings.pbx.as_str().to_owned();
        let evidence = settings.evidence;
        match connect(settings, clock).await {
            Connected::Status(status, modules) => {
                known.extend(status.directory.trunks().iter().map(|trunk| trunk.id.clone()));
                checks.extend(judge(&name, &status, &modules));
                checks.extend(judge_evidence(&name, config, evidence, &status, &modules));
            }
            Connected::Failed(found) => {
                blind.insert(name.clone());
                let fix = manager_lines(&name, config);
                checks.push(Check { level: Level::Problem, of: name, found, fix });
            }
        }
    }
    checks.extend(super::check_gateway::inside(config).await);
    let seen = |trunk: &TrunkId| known.contains(trunk) || blind.contains(trunk.pbx_str());
    for campaign in &config.campaigns {
        for trunk in campaign.trunks.iter().filter(|trunk| !seen(trunk)) {
            checks.push(Check {
                level: Level::Problem,
                of: format!("campaign {}", campaign.key),
                found: format!("{trunk} is not known on its PBX, so the campaign is held"),
                fix: format!("correct campaign.trunks; known there: {}", near(trunk, &known)),
            });
        }
    }
    if let Some(gateway) = &config.gateway {
        let limits = gateway.limits.trunks.keys().map(|trunk| ("gateway.limit", trunk));
        let rules = gateway.rules.iter().flat_map(|rule| rule.trunks.iter().map(|trunk| ("gateway.rule", trunk)));
        let users = gateway.users.iter().filter_map(|user| user.trunks.as_ref());
        let users = users.flatten().map(|trunk| ("gateway.user", trunk));
        let named: BTreeSet<(&str, &TrunkId)> = limits.chain(rules).chain(users).collect();
        for (key, trunk) in named.into_iter().filter(|(_, trunk)| !seen(trunk)) {
            checks.push(Check {
                level: Level::Warning,
                of: "gateway".to_owned(),
                found: format!("{key} names {trunk}, which is not known on its PBX"),
                fix: format!("correct it; known there: {}", near(trunk, &known)),
            });
        }
    }
    checks
}

fn near(trunk: &TrunkId, known: &BTreeSet<TrunkId>) -> String {
    let mut there: Vec<&TrunkId> = known.iter().filter(|other| other.pbx_str() == trunk.pbx_str()).collect();
    there.sort_by(|a, b| {
        let like = |id: &TrunkId| strsim::jaro_winkler(id.name(), trunk.name());
        like(b).total_cmp(&like(a))
    });
    let names: Vec<&str> = there.iter().take(5).map(|id| id.as_str()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

enum Connected {
    Status(Box<PbxStatus>, Vec<&'static str>),
    Failed(String),
}

/// Watches the PBX until it was listed once, and asks for the modules.
async fn connect(settings: PbxSettings, clock: &Arc<dyn Clock>) -> Connected {
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let (address, tls) = (settings.ami.address.clone(), settings.ami.tls.clone());
    let transport = match TcpTransport::new(address.clone(), &tls) {
        Ok(transport) => Arc::new(transport),
        Err(error) => return Connected::Failed(crate::api::problem::chain(&error)),
    };
    let (facts, mut sink) = mpsc::channel(1024);
    let handle = watch_pbx(settings, transport, Arc::clone(clock), &tracker, stop.clone(), facts);
    tracker.spawn(async move { while sink.recv().await.is_some() {} });
    let mut status = handle.status();
    // A connection that fails may be a restart, so it gets a few tries; a refusal does not pass within our patience.
    let answered = tokio::time::timeout(PATIENCE, async {
        let mut failing_since = None;
        loop {
            let now = status.borrow_and_update().clone();
            let phase = *handle.link.phase().borrow();
            let answered = now.listed || now.rights.registrations == Permission::Denied;
            if answered || phase == LinkPhase::Refused {
                return answered;
            }
            let failing = phase == LinkPhase::Connecting && now.error.is_some();
            let since = *failing_since.get_or_insert_with(tokio::time::Instant::now);
            if !failing {
                failing_since = None;
            } else if since.elapsed() >= TRIES {
                return false;
            }
            // The phase changes without the status now and then.
            if let Ok(Err(_)) = tokio::time::timeout(GLANCE, status.changed()).await {
                return false;
            }
        }
    });
    let connected = if answered.await.unwrap_or(false) {
        let mut missing = Vec::new();
        for module in MODULES.into_iter().chain([HEP_MODULE, HISTORY_MODULE]) {
            let Ok(action) = Action::module_check(module) else { continue };
            if let Err(error @ CallError::Refused(_)) = handle.link.call_within(&action, MODULE_PATIENCE).await
                && !error.is_permission_denied()
            {
                missing.push(module);
            }
        }
        let status = status.borrow().clone();
        Connected::Status(Box::new(status), missing)
    } else {
        let error = status.borrow().error.clone();
        let error = error.unwrap_or_else(|| format!("nothing answered within {} s", PATIENCE.as_secs()));
        let hint = match tls {
            Tls::Off => "",
            Tls::On { .. } => " (with TLS)",
        };
        Connected::Failed(format!("AMI at {address}{hint}: {error}"))
    };
    stop.cancel();
    tracker.close();
    tracker.wait().await;
    connected
}

fn judge(pbx: &str, status: &PbxStatus, modules: &[&'static str]) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut say = |level, found: String, fix: &str| {
        checks.push(Check { level, of: pbx.to_owned(), found, fix: fix.to_owned() });
    };
    let version = status.identity.asterisk_version.as_deref().unwrap_or("(version not told)");
    let ami = status.version.as_deref().unwrap_or("?");
    let trunks = status.directory.trunks().len();
    let noun = if trunks == 1 { "trunk" } else { "trunks" };
    say(Level::Good, format!("connected: Asterisk {version}, AMI {ami}, {trunks} {noun}"), "");
    for module in modules.iter().filter(|module| MODULES.contains(module)) {
        let fix = format!("asterisk -rx \"module load {module}\", and load = {module} in modules.conf");
        say(Level::Problem, format!("{module} is not loaded"), &fix);
    }
    let rights = &status.rights;
    let lacks = |permission: Permission| matches!(permission, Permission::Denied | Permission::Absent);
    let needs = [
        (
            rights.events,
            Level::Problem,
            "no events: changes are seen in lists only, up to `reconcile` late",
            "read = system",
        ),
        (
            rights.registrations,
            Level::Problem,
            "no PJSIPShowRegistrationsOutbound (Permission denied): nothing can be watched",
            "write = reporting",
        ),
        (rights.endpoints, Level::Warning, "no PJSIPShowEndpoints: endpoints are guessed from names", "write = system"),
        (
            rights.contacts,
            Level::Warning,
            "no PJSIPShowEndpoint: contacts are known once they change",
            "write = system",
        ),
        (rights.filter, Level::Warning, "no Filter: a busy PBX sends more than is read", "write = system"),
        (
            rights.command,
            Level::Warning,
            "no Command: that Asterisk gave up is known by its silence only",
            "write = command",
        ),
    ];
    let mut missing = BTreeSet::new();
    for (permission, level, without, right) in needs {
        if lacks(permission) {
            say(
                level,
                format!("the AMI user lacks `{right}`: {without}"),
                &format!("add `{right}` to the user in manager.conf"),
            );
            missing.insert(right);
        }
    }
    if !missing.is_empty() {
        let lines = "manager.conf, the user's section should have at least:\n    read = system\n    \
                     write = system,command\n    writetimeout = 5000\nthen: asterisk -rx \"manager reload\", \
                     which counts for connections made after it";
        say(Level::Warning, "some rights are missing".to_owned(), lines);
    }
    if status.filters == Some(FilterState::Off) {
        say(
            Level::Warning,
            "this Asterisk does not know event filters: all events of the classes are sent".to_owned(),
            "",
        );
    }
    for finding in &status.findings {
        say(Level::Warning, finding.to_string(), "");
    }
    checks
}

/// Whether anything shows why a registration fails.
fn judge_evidence(
    pbx: &str,
    config: &Config,
    evidence: PbxEvidence,
    status: &PbxStatus,
    missing: &[&'static str],
) -> Option<Check> {
    let has = |module| !missing.contains(&module);
    let history = evidence.history && status.rights.command == Permission::Granted && has(HISTORY_MODULE);
    let several = config.pbxs.len() > 1;
    let listen = config.hep.as_ref().map(|hep| hep.listen.to_string());
    let warn = |found: &str, fix: String| {
        Some(Check { level: Level::Warning, of: pbx.to_owned(), found: found.to_owned(), fix })
    };
    let lines = |listen: &str| {
        let id = evidence.capture_id.map_or_else(String::new, |id| format!("\n    capture_id = {id}"));
        format!(
            "hep.conf on that Asterisk:\n    [general]\n    enabled = yes\n    capture_address = {listen}{id}\n    \
             uuid_type = call-id\nthen: asterisk -rx \"module load res_hep.so\" and \"module load {HEP_MODULE}\""
        )
    };
    match listen {
        Some(listen) if !has(HEP_MODULE) => {
            let rest = if history { "; until then its SIP history is read around failures" } else { "" };
            warn(&format!("no HEP feed: {HEP_MODULE} is not loaded{rest}"), lines(&listen))
        }
        Some(_) if several && evidence.capture_id.is_none() => warn(
            "its HEP packets cannot be told from the other PBXs'",
            format!("set capture_id in the [pbx.evidence] of {pbx}, and the same in its hep.conf"),
        ),
        Some(_) => None,
        None if history => None,
        None => warn(
            "why a registration fails cannot be seen: there is neither a HEP feed nor Asterisk's SIP history",
            format!(
                "the feed: [hep] listen = \"127.0.0.1:9060\" here, and {}\nor the history: history = \"auto\" in \
                 [pbx.evidence], `write = command` in manager.conf, and {HISTORY_MODULE} loaded",
                lines("127.0.0.1:9060")
            ),
        ),
    }
}

/// The section an AMI user needs, for a PBX that cannot be reached or refuses the login.
fn manager_lines(pbx: &str, config: &Config) -> String {
    let user =
        config.pbxs.iter().find(|known| known.id.as_str() == pbx).map_or("trunkwarden", |known| &known.ami.username);
    format!(
        "is Asterisk running, and does manager.conf have this?\n    [general]\n    enabled = yes\n    bindaddr = 127.0.0.1\n    \
         [{user}]\n    secret = (the same as in pbx[{pbx}].ami.secret)\n    read = system\n    \
         write = system,command\n    writetimeout = 5000\nthen: asterisk -rx \"manager reload\""
    )
}
