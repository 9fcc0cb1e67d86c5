//! The configuration as an operator meets it: files, variables, and what is said of mistakes.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use secrecy::ExposeSecret;
use trunkwarden::{
    config::{Config, ConfigError, Problem},
    decision::{HoldWhen, MessageType, Mode},
    gateway::{LocalPolicy, Over, Unguarded},
    health::{FlapPolicy, HealthPolicy, RegisteredWhen},
    ids::TrunkId,
    telemetry::LogSettings,
    wire::ami::Classes,
};

const MINIMAL: &str = include_str!("../fixtures/config/minimal.toml");
const DESIGN: &str = include_str!("../fixtures/config/design.toml");

/// A file that is gone when it is dropped.
fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().prefix("trunkwarden").suffix(".toml").tempfile().expect("a file");
    std::fs::write(file.path(), text).expect("its text");
    file
}

fn load_with(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let file = file(text);
    Config::load(Some(file.path()), env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())))
}

#[track_caller]
fn accepted_with(text: &str, env: &[(&str, &str)]) -> Config {
    load_with(text, env).unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn accepted(text: &str) -> Config {
    accepted_with(text, &[])
}

#[track_caller]
fn refused_with(text: &str, env: &[(&str, &str)]) -> ConfigError {
    load_with(text, env).expect_err("it must be refused")
}

/// The one problem of `text`, which `MINIMAL` is put before.
#[track_caller]
fn refused(text: &str) -> (Problem, String) {
    only(refused_with(&format!("{MINIMAL}{text}"), &[]))
}

#[track_caller]
fn only(error: ConfigError) -> (Problem, String) {
    let said = error.to_string();
    let ConfigError::Wrong(mut problems) = error else { panic!("{said}") };
    assert_eq!(problems.len(), 1, "{said}");
    (problems.remove(0), said)
}

/// The line of `MINIMAL` followed by `text` on which `needle` stands.
fn line_of(text: &str, needle: &str) -> Option<usize> {
    format!("{MINIMAL}{text}").lines().position(|line| line.contains(needle)).map(|at| at + 1)
}

#[test]
fn with_everything_but_a_pbx_left_out_it_runs() {
    let config = accepted(MINIMAL);
    assert_eq!(config.mode, Mode::Enforce);
    assert_eq!(config.store.url, "sqlite:trunkwarden.db");
    assert_eq!(config.store.retention.history, Duration::from_secs(400 * 86_400));
    assert_eq!(config.store.retention.journal, Duration::from_secs(14 * 86_400));
    assert_eq!(config.api.listen, "127.0.0.1:8480".parse().unwrap());
    assert!(config.api.tokens.is_empty());
    assert_eq!(config.log, LogSettings::default());
    let [pbx] = config.pbxs.as_slice() else { panic!("one pbx") };
    assert_eq!((pbx.id.as_str(), pbx.ami.address().as_str()), ("pbx1", "127.0.0.1:5038"));
    assert_eq!((pbx.reconcile, pbx.unknown_after), (Duration::from_secs(30), Duration::from_secs(15)));
    assert_eq!((pbx.ami.username.as_str(), pbx.ami.secret.expose_secret()), ("trunkwarden", "asterisk-knows"));
    assert!(pbx.ami.tls.is_none() && !pbx.ami.plain_login);
    let policy = config.control_policy();
    assert_eq!(policy, trunkwarden::decision::ControlPolicy::default(), "the documented defaults are the rooms' own");
}

#[test]
fn the_designs_example_is_understood() {
    let config = accepted(DESIGN);
    let trunk = TrunkId::try_from("pbx1/airtel").unwrap();
    let policy = config.control_policy();
    let general = HealthPolicy::default();
    assert_eq!(policy.health, general);
    assert_eq!(
        *policy.health_of(&trunk),
        HealthPolicy {
            recovery: Duration::from_secs(60),
            flap: FlapPolicy { suppress: 3000.0, ..general.flap.clone() },
            ..general
        },
        "what the trunk does not say is as in [health]"
    );
    assert_eq!(policy.declared, BTreeSet::from([trunk.clone()]));
    let [declared] = config.trunks.as_slice() else { panic!("one trunk") };
    assert_eq!((declared.registrations[0].as_str(), declared.endpoints[0].as_str()), ("airtel-reg", "airtel"));
    let [(key, campaign)] = policy.campaigns.iter().collect::<Vec<_>>()[..] else { panic!("one campaign") };
    assert_eq!(key.to_string(), "crm/7");
    assert_eq!((campaign.trunks.as_slice(), campaign.hold_when), (&[trunk][..], HoldWhen::Any));
    assert_eq!(campaign.resume_within, Some(Duration::from_secs(4 * 3600)));
    let window = campaign.resume_window.as_ref().unwrap();
    assert_eq!((window.text(), window.zone()), ("Mon-Sat 09:30-18:30", "Asia/Kolkata"));
    let [(dialer, patience)] = policy.dialers.iter().collect::<Vec<_>>()[..] else { panic!("one dialer") };
    assert_eq!(dialer.as_str(), "crm");
    assert_eq!((patience.pause_after, patience.pause_unknown_after), (Duration::ZERO, Duration::from_secs(60)));
    let [notify] = policy.notify.as_slice() else { panic!("one notify") };
    assert!(notify.name.starts_with("https://chat.example (") && !notify.name.contains("hook"), "{}", notify.name);
    let types = [MessageType::TrunkHealth, MessageType::TrunkDiagnosis, MessageType::Incident];
    assert_eq!(notify.types, BTreeSet::from(types));
    assert!(config.notify[0].secret.is_none(), "a chat service checks no signature");
    let [token] = config.api.tokens.as_slice() else { panic!("one token") };
    assert_eq!((token.name.as_str(), token.role.as_str(), token.sha256[0]), ("ops", "operator", 0x9f));
}

#[test]
fn what_a_later_release_brings_is_refused_and_said_all_at_once() {
    let all = include_str!("../fixtures/config/design-all.toml");
    let error = refused_with(all, &[]);
    let said: Vec<(String, usize)> =
        error.problems().iter().map(|problem| (problem.key.clone(), problem.place.line().unwrap())).collect();
    let line = |needle: &str| all.lines().position(|line| line.starts_with(needle)).unwrap() + 1;
    let expected = [
        ("pbx[pbx1].ari", line("[pbx.ari]")),
        ("pbx[pbx1].evidence.asterisk_effects", line("asterisk_effects")),
        ("health.on_suspect", line("on_suspect")),
        ("health.call_faults", line("call_faults")),
        ("dialer[mylinehub].kind", line("kind = \"mylinehub\"")),
        ("campaign[crm/7].needs_app", line("needs_app")),
        ("campaign[crm/7].needs_trunks", line("needs_trunks")),
    ];
    assert_eq!(said, expected.map(|(key, line)| (key.to_owned(), line)), "{error}");
    for problem in error.problems() {
        assert!(problem.to_string().contains("not yet: "), "{problem}");
    }
}

#[test]
fn later_keys_are_refused_wherever_they_stand() {
    for (text, key, needle) in [
        ("[store]\nurl = \"postgres://u:hunter2@db/tw\"\n", "store.url", "url"),
        ("[api]\ntls = true\n", "api.tls", "tls"),
        (
            "[[trunk]]\npbx = \"pbx1\"\nname = \"a\"\n[trunk.health]\non_suspect = \"throttle\"\n",
            "trunk[pbx1/a].health.on_suspect",
            "on_suspect",
        ),
    ] {
        let (problem, said) = refused(text);
        assert_eq!((problem.key.as_str(), problem.place.line()), (key, line_of(text, needle)), "{said}");
        assert!(said.contains("not yet: ") && !said.contains("hunter2"), "{said}");
    }
    // They are looked at all the same.
    let ari = "[pbx.ari]\nurl = \"nowhere\"\nusername = \"tw\"\npassword = \"hunter2\"\n";
    let error = refused_with(&format!("{MINIMAL}{ari}"), &[]);
    let keys: Vec<&str> = error.problems().iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["pbx[pbx1].ari", "pbx[pbx1].ari.url"], "{error}");
}

#[test]
fn two_pbxs_cannot_have_one_capture_id() {
    let second = "[[pbx]]\nid = \"pbx2\"\n[pbx.ami]\naddress = \"127.0.0.2\"\nusername = \"tw\"\nsecret = \"s\"\n";
    let text = format!("{MINIMAL}[pbx.evidence]\ncapture_id = 7\n{second}[pbx.evidence]\ncapture_id = 7\n");
    let error = refused_with(&text, &[]);
    let [problem] = error.problems() else { panic!("{error}") };
    assert_eq!(problem.key, "pbx[pbx2].evidence.capture_id", "{error}");
    assert_eq!(problem.place.line(), Some(text.lines().count()), "{error}");
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_what_was_meant() {
    for (text, key, needle, nearest) in [
        ("[heath]\nrecovery = \"30s\"\n", "heath", "[heath]", Some("health")),
        ("[health]\nrecvery = \"30s\"\n", "health.recvery", "recvery", Some("recovery")),
        ("[health.flap]\nhalflife = \"30s\"\n", "health.flap.halflife", "halflife", Some("half_life")),
        ("[health.flop]\npenalty = 1\n", "health.flop", "[health.flop]", Some("flap")),
        ("port = 5038\n", "pbx[pbx1].ami.port", "port = 5038", None),
        ("[health]\nfrobnicate = 1\n", "health.frobnicate", "frobnicate", None),
        // Right, but elsewhere.
        ("[store]\nreconcile = \"10s\"\n", "store.reconcile", "reconcile", Some("pbx.reconcile")),
        ("[\"store.url\"]\n", "store.url", "store.url", None),
        ("[\"pbx[7]\"]\n", "pbx[7]", "pbx[7]", None),
        (
            "[[campaign]]\ndialer = \"crm\"\nid = \"7\"\ntrunks = [\"pbx1/a\"]\ntrunk = \"b\"\n[[dialer]]\nid = \"crm\"\n\
             kind = \"webhook\"\nurl = \"http://127.0.0.1/\"\nsecret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\n",
            "campaign[crm/7].trunk",
            "trunk = ",
            Some("trunks"),
        ),
    ] {
        let (problem, said) = refused(text);
        assert_eq!((problem.key.as_str(), problem.place.line()), (key, line_of(text, needle)), "{said}");
        assert_eq!(problem.nearest(), nearest, "{said}");
        let line = problem.place.line().unwrap();
        assert!(said.contains(&format!(".toml:{line}: {key}: unknown key")), "{said}");
    }
    let (_, said) = refused("port = 5038\n");
    assert!(said.contains("there are: address, username, secret"), "without a near one all are said: {said}");
}

const DIALER: &str = "[[dialer]]\nid = \"crm\"\nkind = \"webhook\"\nurl = \"http://127.0.0.1:9000/\"\nsecret = \
                      \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\n";

fn campaign(lines: &str) -> String {
    format!("{DIALER}[[campaign]]\ndialer = \"crm\"\nid = \"7\"\ntrunks = [\"pbx1/a\"]\n{lines}\n")
}

fn trunk(lines: &str) -> String {
    format!("[[trunk]]\npbx = \"pbx1\"\nname = \"a\"\n{lines}\n")
}

#[track_caller]
fn refused_as(text: &str, key: &str, needle: &str, words: &str) {
    let (problem, said) = refused(text);
    assert_eq!((problem.key.as_str(), problem.place.line()), (key, line_of(text, needle)), "{said}");
    assert!(said.contains(words), "{said} does not say {words:?}");
}

#[test]
fn a_value_must_be_one_the_key_takes() {
    refused_as("[control]\nmode = \"enforec\"\n", "control.mode", "mode", "did you mean \"enforce\"?");
    refused_as("[control]\nmode = true\n", "control.mode", "mode", "expected a text, found true or false");
    refused_as("[health]\nrecovery = 30\n", "health.recovery", "recovery", "expected a duration such as \"30s\"");
    refused_as("[health]\nrecovery = \"30\"\n", "health.recovery", "recovery", "\"30\" is no duration");
    refused_as(
        "[health]\nunknown_after = \"0s\"\n",
        "health.unknown_after",
        "unknown_after",
        "too short: at least 100 ms",
    );
    refused_as("[health]\nrecovery = \"900years\"\n", "health.recovery", "recovery", "too long");
    refused_as("[health]\nconfirm_failures = 0\n", "health.confirm_failures", "confirm", "from 1 to");
    refused_as(
        "[health]\nconfirm_failures = 99999999999999999999999\n",
        "health.confirm_failures",
        "confirm",
        "from 1 to",
    );
    refused_as(
        "[health]\nconfirm_failures = 1.5\n",
        "health.confirm_failures",
        "confirm",
        "a whole number, found a number",
    );
    refused_as("[health.flap]\npenalty = 0\n", "health.flap.penalty", "penalty", "a number above 0");
    refused_as("[health.flap]\npenalty = inf\n", "health.flap.penalty", "penalty", "a number above 0");
    refused_as("[health.flap]\nsuppress = nan\n", "health.flap.suppress", "suppress", "a number above 0");
    refused_as("[health.flap]\nhalf_life = \"0s\"\n", "health.flap.half_life", "half_life", "too short");
    refused_as("[store]\nretention = { history = \"0d\" }\n", "store.retention.history", "retention", "too short");
    refused_as("[store]\nurl = \"mysql://x\"\n", "store.url", "url", "write sqlite:FILE");
    refused_as("[api]\nlisten = \"localhost:8480\"\n", "api.listen", "listen", "is no IP address with a port");
    refused_as("[log]\nlevel = \"inof\"\n", "log.level", "level", "\"inof\" is no log level");
    refused_as("[log]\nlevel = 2026-01-01\n", "log.level", "level", "found a date or time");
    refused_as("plain_login = \"yes\"\n", "pbx[pbx1].ami.plain_login", "plain_login", "expected true or false");
    refused_as("[api]\ntoken = { name = \"a\" }\n", "api.token", "token", "a list of tables, each begun by [[...]]");
    refused_as("[store]\nretention = \"400d\"\n", "store.retention", "retention", "expected a table, found a text");
    refused_as(&trunk("endpoints = \"a\""), "trunk[pbx1/a].endpoints", "endpoints", "expected a list of texts");
    refused_as(&trunk("endpoints = [1]"), "trunk[pbx1/a].endpoints", "endpoints", "expected a text, found a whole");
    refused_as(&trunk("registered_when = \"some\""), "trunk[pbx1/a].registered_when", "registered", "use any or all");
    refused_as(&campaign("resume_window = \"Mon 9-5\""), "campaign[crm/7].resume_window", "window", "\"9\" is no time");
    refused_as(&campaign("timezone = \"Asia/Kolkatta\""), "campaign[crm/7].timezone", "timezone", "is no time zone");
    refused_as(&campaign("resume_within = \"0s\""), "campaign[crm/7].resume_within", "resume_within", "too short");
    refused_as(&campaign("fallback = [\"tata\"]"), "campaign[crm/7].fallback", "fallback", "write it as pbx/trunk");
}

#[test]
fn what_must_be_there_is_asked_for() {
    let (problem, said) = only(refused_with("[control]\nmode = \"observe\"\n", &[]));
    assert_eq!((problem.key.as_str(), said.contains("add at least one [[pbx]]")), ("pbx", true), "{said}");
    let (problem, said) = only(refused_with("pbx = []\n", &[]));
    assert_eq!((problem.key.as_str(), problem.place.line()), ("pbx", Some(1)), "{said}");
    let (problem, said) = only(refused_with("[[pbx]]\nid = \"pbx1\"\n", &[]));
    assert_eq!((problem.key.as_str(), problem.place.line()), ("pbx[pbx1].ami", Some(1)), "{said}");
    assert!(said.contains("add a table [pbx.ami]"), "{said}");
    refused_as("[[api.token]]\nname = \"a\"\nrole = \"gate\"\n", "api.token[a].sha256", "[[api.token]]", "missing");
    refused_as("[[trunk]]\npbx = \"pbx1\"\n", "trunk[#1].name", "[[trunk]]", "missing");
    let unsigned = DIALER.lines().filter(|line| !line.starts_with("secret")).collect::<Vec<_>>().join("\n");
    refused_as(&unsigned, "dialer[crm].secret", "[[dialer]]", "missing: a dialer of kind \"webhook\" needs it");
    refused_as("[[notify]]\nurl = \"http://127.0.0.1/\"\ntypes = []\n", "notify[#1].types", "types", "at least one");
}

#[test]
fn keys_must_agree_with_each_other() {
    refused_as("[api]\nlisten = \"0.0.0.0:8480\"\n", "api.listen", "listen", "needs tokens");
    refused_as("[api]\nlisten = \"[::]:8480\"\n", "api.listen", "listen", "needs tokens");
    accepted(&format!("{MINIMAL}[api]\nlisten = \"[::1]:8480\"\n"));
    let token = |name: &str| format!("[[api.token]]\nname = \"{name}\"\nrole = \"gate\"\nsha256 = \"{:0>64}\"\n", "a");
    accepted(&format!("{MINIMAL}[api]\nlisten = \"0.0.0.0:8480\"\n{}", token("a")));
    let twice = format!("{}{}", token("a"), token("a"));
    let (problem, said) = refused(&twice);
    assert_eq!(problem.key, "api.token[a].name");
    assert_eq!(problem.place.line(), Some(line_of(&twice, "name = \"a\"").unwrap() + 4), "the second one: {said}");
    let second = "[[pbx]]\nid = \"pbx1\"\nami = { address = \"a\", username = \"u\", secret = \"s\" }\n";
    let (problem, said) = refused(second);
    assert_eq!((problem.key.as_str(), problem.place.line()), ("pbx[pbx1].id", Some(8)), "{said}");
    assert!(said.contains("already there, at ") && said.contains(".toml:2"), "{said}");
    refused_as(
        "[health.flap]\nreuse = 2000\n",
        "health.flap.reuse",
        "reuse",
        "reuse (2000) must be below suppress (2000)",
    );
    refused_as("[health.flap]\nsuppress = 700\n", "health.flap.suppress", "suppress", "must be below");
    refused_as(
        &trunk("[trunk.health.flap]\nsuppress = 500"),
        "trunk[pbx1/a].health.flap.suppress",
        "suppress",
        "below",
    );
    refused_as("ca_file = \"ca.pem\"\n", "pbx[pbx1].ami.ca_file", "ca_file", "without tls = true");
    refused_as(
        "tls = true\nca_file = \"/nowhere/ca.pem\"\n",
        "pbx[pbx1].ami.ca_file",
        "ca_file",
        "/nowhere/ca.pem cannot be read",
    );
    refused_as("[[trunk]]\npbx = \"pbx2\"\nname = \"a\"\n", "trunk[pbx2/a].pbx", "pbx2", "did you mean \"pbx1\"?");
    refused_as(
        &format!(
            "{}{}",
            trunk("endpoints = [\"x\"]"),
            "[[trunk]]\npbx = \"pbx1\"\nname = \"b\"\nendpoints = [\"y\", \"x\"]\n"
        ),
        "trunk[pbx1/b].endpoints",
        "\"y\"",
        "already belongs to pbx1/a",
    );
    refused_as(
        &campaign("").replace("dialer = \"crm\"", "dialer = \"crn\""),
        "campaign[crn/7].dialer",
        "crn",
        "\"crm\"?",
    );
    refused_as(&campaign("fallback = [\"pbx9/b\"]"), "campaign[crm/7].fallback", "fallback", "no [[pbx]] \"pbx9\"");
    refused_as(&campaign("").replace("[\"pbx1/a\"]", "[]"), "campaign[crm/7].trunks", "trunks", "at least one");
    refused_as(
        &format!("{DIALER}organizations = [\"A\"]\n"),
        "dialer[crm].organizations",
        "organizations",
        "\"mylinehub\"",
    );
    let notify = "[[notify]]\nurl = \"http://127.0.0.1/x\"\ntypes = [\"incident\"]\n";
    let (problem, said) = refused(&format!("{notify}{notify}"));
    assert_eq!((problem.key.as_str(), said.contains("already there")), ("notify[#2].url", true), "{said}");
    refused_as(
        &notify.replace("incident", "campaign.pause"),
        "notify[#1].types",
        "types",
        "use trunk.health, trunk.diagnosis or incident",
    );
}

#[test]
fn everything_wrong_is_said_at_once_in_the_files_order() {
    let text = format!(
        "{MINIMAL}port = 1\n[heath]\n[health]\nrecovery = 30\non_unknown = \"halt\"\n[[campaign]]\ndialer = \"x\"\nid = \"1\"\ntrunks = [\"a\"]\n"
    );
    let error = refused_with(&text, &[("TRUNKWARDEN__API__LISTEN", "x")]);
    let keys: Vec<&str> = error.problems().iter().map(|problem| problem.key.as_str()).collect();
    let expected = [
        "pbx[pbx1].ami.port",
        "heath",
        "health.recovery",
        "health.on_unknown",
        "campaign[x/1].dialer",
        "campaign[x/1].trunks",
        "api.listen",
    ];
    assert_eq!(keys, expected, "{error}");
    assert_eq!(error.to_string().lines().count(), expected.len());
}

#[test]
fn what_is_no_toml_is_said_with_its_line_and_without_its_text() {
    let error = refused_with("[[pbx]]\nid = \"pbx1\"\n[pbx.ami]\nsecret = \"hunter2\nusername = hunter3\n", &[]);
    let said = error.to_string();
    let found: Vec<(&str, Option<usize>)> =
        error.problems().iter().map(|problem| (problem.key.as_str(), problem.place.line())).collect();
    assert_eq!(found, [("pbx.ami.secret", Some(4)), ("pbx.ami.username", Some(5))], "{said}");
    assert!(!said.contains("hunter"), "{said}");
    let error = refused_with(&format!("{MINIMAL}username = \"again\"\n"), &[]);
    assert_eq!(error.problems()[0].place.line(), Some(7), "{error}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = Config::load(Some(&PathBuf::from("/nowhere/tw.toml")), std::iter::empty()).unwrap_err();
    assert!(matches!(error, ConfigError::Unreadable { .. }));
    assert_eq!(error.to_string(), "the configuration /nowhere/tw.toml cannot be read");
    let error = Config::load(Some(&PathBuf::from("/dev/zero")), std::iter::empty()).unwrap_err();
    assert!(matches!(error, ConfigError::TooLong { .. }), "{error}");
}

#[test]
fn a_variable_wins_over_the_file() {
    let config = accepted_with(
        DESIGN,
        &[
            ("TRUNKWARDEN__STORE__URL", "sqlite:/var/lib/tw.db"),
            ("TRUNKWARDEN__STORE__RETENTION__JOURNAL", "7d"),
            ("TRUNKWARDEN__CONTROL__MODE", "observe"),
            ("TRUNKWARDEN__HEALTH__CONFIRM_FAILURES", "2"),
            ("TRUNKWARDEN__HEALTH__FLAP__PENALTY", "1200.5"),
            ("TRUNKWARDEN__PBX__PBX1__AMI__SECRET", "from the environment"),
            ("TRUNKWARDEN__PBX__PBX1__AMI__PLAIN_LOGIN", "true"),
            ("TRUNKWARDEN__API__TOKEN__OPS__ROLE", "viewer"),
            ("TRUNKWARDEN__TRUNK__PBX1__AIRTEL__REGISTERED_WHEN", "all"),
            ("TRUNKWARDEN__TRUNK__PBX1__AIRTEL__HEALTH__RECOVERY", "90s"),
            ("TRUNKWARDEN__DIALER__CRM__PAUSE_AFTER", "2s"),
            ("TRUNKWARDEN__CAMPAIGN__CRM__7__HOLD_WHEN", "all"),
            ("TRUNKWARDEN__NOTIFY__1__URL", "https://other.example/"),
            // Not ours.
            ("TRUNKWARDEN_LOG", "whatever=?"),
            ("TRUNKWARDEN", "x"),
        ],
    );
    assert_eq!(config.store.url, "sqlite:/var/lib/tw.db");
    assert_eq!(config.store.retention.journal, Duration::from_secs(7 * 86_400));
    assert_eq!(config.store.retention.history, Duration::from_secs(400 * 86_400), "the rest of the table stays");
    assert_eq!(config.mode, Mode::Observe);
    assert_eq!((config.health.confirm_failures, config.health.flap.penalty), (2, 1200.5));
    assert_eq!(config.pbxs[0].ami.secret.expose_secret(), "from the environment");
    assert_eq!((config.pbxs[0].ami.username.as_str(), config.pbxs[0].ami.plain_login), ("trunkwarden", true));
    assert_eq!(config.api.tokens[0].role.as_str(), "viewer");
    assert_eq!(config.trunks[0].health.registered_when, RegisteredWhen::All);
    assert_eq!(config.trunks[0].health.recovery, Duration::from_secs(90));
    assert_eq!(config.dialers[0].policy.pause_after, Duration::from_secs(2));
    assert_eq!(config.campaigns[0].hold_when, HoldWhen::All);
    assert!(config.notify[0].name.starts_with("https://other.example ("));
}

#[test]
fn an_entry_is_found_by_its_id_however_that_is_written() {
    let text = MINIMAL.replace("pbx1", "Pbx-1.north");
    let config = accepted_with(&text, &[("TRUNKWARDEN__PBX__PBX_1_NORTH__AMI__USERNAME", "tw")]);
    assert_eq!(config.pbxs[0].ami.username, "tw");
    let config = accepted_with(&text, &[("TRUNKWARDEN__PBX__pbx_1_north__ami__username", "tw")]);
    assert_eq!(config.pbxs[0].ami.username, "tw");
    // An id with `__` in it, beside one it begins with.
    let text = format!("{}{}", MINIMAL.replace("pbx1", "a"), MINIMAL.replace("pbx1", "a--ami"));
    let env = [("TRUNKWARDEN__PBX__A__AMI__USERNAME", "one"), ("TRUNKWARDEN__PBX__A__AMI__AMI__USERNAME", "two")];
    let error = refused_with(&text, &env[..1]);
    assert_eq!(error.problems()[0].place.variable(), Some(env[0].0), "the longest id is meant: {error}");
    assert_eq!(accepted_with(&text, &env[1..]).pbxs[1].ami.username, "two");
    // Two that cannot be told apart.
    let text = format!("{}{}", MINIMAL.replace("pbx1", "a-b"), MINIMAL.replace("pbx1", "a.b"));
    let (problem, said) = only(refused_with(&text, &[("TRUNKWARDEN__PBX__A_B__AMI__USERNAME", "x")]));
    assert_eq!(problem.place.variable(), Some("TRUNKWARDEN__PBX__A_B__AMI__USERNAME"));
    assert!(said.contains("may mean pbx[a-b] or pbx[a.b]"), "{said}");
}

#[test]
fn a_wrong_variable_is_named_and_its_value_is_not_said() {
    for (name, nearest) in [
        ("TRUNKWARDEN__STOER__URL", Some("TRUNKWARDEN__STORE__URL")),
        ("TRUNKWARDEN__STORE__ULR", Some("TRUNKWARDEN__STORE__URL")),
        ("TRUNKWARDEN__STORE__URL__X", Some("TRUNKWARDEN__STORE__URL")),
        ("TRUNKWARDEN__PBX__PBX2__AMI__SECRET", Some("TRUNKWARDEN__PBX__PBX1__AMI__SECRET")),
        ("TRUNKWARDEN__PBX__PBX1__AMI__SECERT", Some("TRUNKWARDEN__PBX__PBX1__AMI__SECRET")),
        ("TRUNKWARDEN__PBX__PBX1", None),
        ("TRUNKWARDEN__PBX__PBX1__ID", None),
        ("TRUNKWARDEN__PBX", None),
        ("TRUNKWARDEN__STORE", None),
        ("TRUNKWARDEN__", None),
        ("TRUNKWARDEN__TRUNK__PBX1__AIRTEL__ENDPOINTS", None),
        ("TRUNKWARDEN__NOTIFY__2__URL", Some("TRUNKWARDEN__NOTIFY__1__URL")),
    ] {
        let (problem, said) = only(refused_with(DESIGN, &[(name, "hunter2")]));
        assert_eq!((problem.place.variable(), problem.nearest()), (Some(name), nearest), "{said}");
        assert!(said.starts_with(&format!("{name}: ")) && !said.contains("hunter2"), "{said}");
    }
    let (problem, said) = only(refused_with(MINIMAL, &[("TRUNKWARDEN__CONTROL__MODE", "enforec")]));
    assert_eq!((problem.key.as_str(), problem.nearest()), ("control.mode", Some("enforce")));
    assert!(said.starts_with("TRUNKWARDEN__CONTROL__MODE: control.mode: "), "{said}");
    for (name, value) in
        [("PBX__PBX1__AMI__TLS", "yes"), ("HEALTH__CONFIRM_FAILURES", "one"), ("HEALTH__FLAP__REUSE", "x")]
    {
        let name = format!("TRUNKWARDEN__{name}");
        let (problem, said) = only(refused_with(MINIMAL, &[(&name, value)]));
        assert_eq!(problem.place.variable(), Some(name.as_str()), "{said}");
    }
}

#[test]
fn a_secret_may_stand_in_a_file() {
    let secret = file("asterisk-knows-too\n");
    let path = secret.path().display().to_string();
    let text = MINIMAL.replace("secret = \"asterisk-knows\"", &format!("secret_file = \"{path}\""));
    assert_eq!(accepted(&text).pbxs[0].ami.secret.expose_secret(), "asterisk-knows-too");
    std::fs::write(secret.path(), " with\ttabs ").unwrap();
    let (_, said) = only(refused_with(&text, &[]));
    assert!(said.contains(&path) && !said.contains("tabs"), "{said}");
    std::fs::write(secret.path(), " blanks are kept \r\n").unwrap();
    assert_eq!(accepted(&text).pbxs[0].ami.secret.expose_secret(), " blanks are kept ");
    let variable = "TRUNKWARDEN__PBX__PBX1__AMI__SECRET_FILE";
    assert_eq!(
        accepted_with(MINIMAL, &[(variable, &path)]).pbxs[0].ami.secret.expose_secret(),
        " blanks are kept ",
        "the environment's form replaces the file's"
    );
    let config = accepted_with(&text, &[("TRUNKWARDEN__PBX__PBX1__AMI__SECRET", "x")]);
    assert_eq!(config.pbxs[0].ami.secret.expose_secret(), "x");
}

#[test]
fn a_secret_is_given_once_and_its_file_can_be_read() {
    let both = "secret_file = \"/run/secrets/ami\"\n";
    let (problem, said) = refused(both);
    assert_eq!((problem.key.as_str(), problem.place.line()), ("pbx[pbx1].ami.secret", Some(6)), "{said}");
    assert!(said.contains("pbx[pbx1].ami.secret_file is given too, at") && said.contains(".toml:7"), "{said}");
    let pair = [("TRUNKWARDEN__PBX__PBX1__AMI__SECRET", "x"), ("TRUNKWARDEN__PBX__PBX1__AMI__SECRET_FILE", "/x")];
    let (_, said) = only(refused_with(MINIMAL, &pair));
    assert!(said.contains("give one of them"), "{said}");
    for (path, words) in [
        ("/nowhere/ami", "the file /nowhere/ami cannot be read: No such file"),
        ("/", "the file / cannot be read: "),
        ("/dev/null", "in the file /dev/null: must not be empty"),
        ("/dev/zero", "the file /dev/zero is too long"),
        ("", "must not be empty"),
    ] {
        let text = MINIMAL.replace("secret = \"asterisk-knows\"", &format!("secret_file = \"{path}\""));
        let (problem, said) = only(refused_with(&text, &[]));
        assert_eq!((problem.key.as_str(), problem.place.line()), ("pbx[pbx1].ami.secret_file", Some(6)), "{said}");
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn no_secret_is_in_an_error() {
    for (text, key) in [
        (MINIMAL.replace("\"asterisk-knows\"", "\"hunter2\\r\\nAction: Command\""), "pbx[pbx1].ami.secret"),
        (MINIMAL.replace("\"asterisk-knows\"", "[\"hunter2\"]"), "pbx[pbx1].ami.secret"),
        (MINIMAL.replace("secret =", "secert ="), "pbx[pbx1].ami.secert"),
        (MINIMAL.replace("secret =", "password ="), "pbx[pbx1].ami.password"),
        (
            format!("{MINIMAL}{}", DIALER.replace("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "hunter2")),
            "dialer[crm].secret",
        ),
        (format!("{MINIMAL}{}", DIALER.replace("http://", "ftp://x:hunter2@")), "dialer[crm].url"),
        (format!("{MINIMAL}[[notify]]\nurl = \"hunter2\"\ntypes = [\"incident\"]\n"), "notify[#1].url"),
        (
            format!("{MINIMAL}[[api.token]]\nname = \"a\"\nrole = \"gate\"\nsha256 = \"hunter2\"\n"),
            "api.token[a].sha256",
        ),
        (format!("{MINIMAL}[store]\nurl = \"mysql://x:hunter2@db\"\n"), "store.url"),
    ] {
        let error = refused_with(&text.replace("asterisk-knows", "hunter2"), &[]);
        assert!(error.problems().iter().any(|problem| problem.key == key), "{error}");
        // The key that is far from any is one problem, the secret that is missing another.
        assert_eq!(error.problems().len(), if text.contains("password =") { 2 } else { 1 }, "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
}

const SECRETS: [&str; 5] = ["asterisk-knows", "MfKQ9r8G", "T0PS3CR3T", "81884c7d659a2feaa0c55ad0", "hunter2"];

fn with_many_secrets() -> String {
    let hooks = "[[notify]]\nurl = \"https://bob:hunter2@chat.example/T0PS3CR3T?key=T0PS3CR3T\"\ntypes = [\"incident\"]\n\
                 secret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\n";
    DESIGN.replace("http://127.0.0.1:9000/hooks", "http://bob:hunter2@127.0.0.1:9000/hooks?key=T0PS3CR3T") + hooks
}

#[test]
fn no_secret_is_in_debug_nor_in_what_is_shown() {
    let config = accepted(&with_many_secrets());
    let shown = config.render_masked();
    let policy = format!("{:?}", config.control_policy());
    for secret in SECRETS {
        assert!(!shown.contains(secret), "{secret} in {shown}");
        assert!(!policy.contains(secret), "{secret} in {policy}");
    }
    let debug = format!("{config:?}");
    for secret in SECRETS {
        assert!(!debug.contains(secret), "{secret} in {debug}");
    }
    assert!(shown.contains("http://********:********@127.0.0.1:9000/hooks?********"), "{shown}");
}

#[test]
fn what_is_shown_can_be_read_again_and_is_the_same() {
    for text in [MINIMAL.to_owned(), DESIGN.to_owned(), with_many_secrets()] {
        let config = accepted(&text);
        let shown = config.render_masked();
        let again = accepted(&shown);
        // The digits that tell hooks apart are made of the URLs, which are masked.
        let without_hooks = |shown: &str| -> Vec<String> {
            shown.lines().filter(|line| !line.contains("https://chat.example")).map(ToOwned::to_owned).collect()
        };
        assert_eq!(without_hooks(&again.render_masked()), without_hooks(&shown));
        assert_eq!(again.render_masked().len(), shown.len());
        let without_names = |config: &Config| {
            let mut policy = config.control_policy();
            policy.notify.iter_mut().for_each(|notify| notify.name.clear());
            policy
        };
        assert_eq!(without_names(&again), without_names(&config));
        assert_eq!((again.api.listen, again.store), (config.api.listen, config.store));
    }
    let secret = file("asterisk-knows");
    let path = secret.path().display().to_string();
    let text = MINIMAL.replace("secret = \"asterisk-knows\"", &format!("secret_file = \"{path}\""));
    let shown = accepted(&text).render_masked();
    assert!(shown.contains(&format!("secret_file = \"{path}\"")) && !shown.contains("\nsecret ="), "{shown}");
}

#[test]
fn tls_has_its_own_port_and_its_own_keys() {
    let ca = file("-----BEGIN CERTIFICATE-----\n");
    let path = ca.path().display().to_string();
    let config = accepted(&format!("{MINIMAL}tls = true\nca_file = \"{path}\"\nserver_name = \"pbx1.example\"\n"));
    let ami = &config.pbxs[0].ami;
    assert_eq!(ami.address(), "127.0.0.1:5039");
    let tls = ami.tls.as_ref().unwrap();
    assert_eq!((tls.ca_file.as_deref(), tls.server_name.as_deref()), (Some(ca.path()), Some("pbx1.example")));
    let config = accepted(&format!("{}tls = true\n", MINIMAL.replace("127.0.0.1", "[::1]:5099")));
    assert_eq!(config.pbxs[0].ami.address(), "[::1]:5099");
}

#[test]
fn a_link_is_lost_when_the_first_of_its_trunks_says_so() {
    let text = format!("{MINIMAL}{}", trunk("[trunk.health]\nunknown_after = \"5s\""));
    let config = accepted(&text);
    assert_eq!(config.pbxs[0].unknown_after, Duration::from_secs(5));
    assert_eq!(config.health.unknown_after, Duration::from_secs(15));
}

#[test]
fn only_what_cannot_change_while_it_runs_needs_a_restart() {
    let old = accepted(DESIGN);
    let restart = |env: &[(&str, &str)]| Config::restart_needed(&old, &accepted_with(DESIGN, env));
    assert!(restart(&[("TRUNKWARDEN__HEALTH__RECOVERY", "45s"), ("TRUNKWARDEN__CONTROL__MODE", "observe")]).is_empty());
    assert_eq!(
        restart(&[
            ("TRUNKWARDEN__STORE__URL", "sqlite:other.db"),
            ("TRUNKWARDEN__STORE__RETENTION__JOURNAL", "1d"),
            ("TRUNKWARDEN__API__LISTEN", "127.0.0.1:1"),
            ("TRUNKWARDEN__LOG__LEVEL", "debug"),
            ("TRUNKWARDEN__LOG__FORMAT", "json"),
        ]),
        ["store.url", "store.retention", "api.listen", "log.level", "log.format"]
    );
}

#[test]
fn the_documented_defaults_are_a_configuration_once_a_pbx_is_added() {
    let text = format!("{}\n{MINIMAL}", trunkwarden::config::DOCUMENTED_DEFAULTS);
    assert_eq!(accepted(&text).render_masked(), accepted(MINIMAL).render_masked());
}

const GATEWAY: &str = r#"
[gateway]
pbx = "pbx1"
[[gateway.user]]
name = "dialer"
secret = "gateway-knows"
write = ["originate"]
"#;

const WHOLE_GATEWAY: &str = r#"
[gateway]
listen = "10.0.0.5:5038"
pbx = "pbx1"
local = "allow"
allow = ["10.0.0.0/8", "::1"]
auth_limit = 7
auth_timeout = "10s"
upstream = { username = "gateway", secret = "upstream-knows" }
[gateway.tls]
listen = "0.0.0.0:5040"
certificate = "Cargo.toml"
key = "Cargo.toml"
[gateway.limits]
calls = 30
per_second = 5
over = "wait"
wait = "3s"
ramp = { calls = 2, per_second = 0.5, lasting = "60s" }
[[gateway.limit]]
trunk = "pbx1/airtel"
calls = 10
[[gateway.limit]]
trunk = "pbx1/tata"
over = "error"
ramp = { calls = 1, lasting = "5s" }
[[gateway.rule]]
context = "from-internal"
exten = "_9X."
trunks = ["pbx1/airtel", "pbx1/tata"]
hold_when = "all"
[[gateway.rule]]
context = "from-internal"
trunks = []
[[gateway.user]]
name = "dialer"
secret = "gateway-knows"
allow = ["10.1.2.3"]
read = ["all"]
write = ["all"]
actions = ["Originate", "Ping"]
trunks = ["pbx1/airtel"]
unguarded = ["redirect"]
[[gateway.user]]
name = "ops"
secret = "ops-knows"
write = ["system", "command"]
"#;

#[test]
fn a_gateway_needs_a_pbx_and_a_user_and_has_asterisks_defaults() {
    let config = accepted(&format!("{MINIMAL}{GATEWAY}"));
    let gateway = config.gateway.as_ref().expect("a gateway");
    assert_eq!(gateway.listen.to_string(), "127.0.0.1:5039");
    assert_eq!((gateway.auth_limit, gateway.auth_timeout), (50, Duration::from_secs(30)));
    assert_eq!((gateway.local, gateway.limits.count_calls()), (LocalPolicy::HoldWhenAnyHeld, false));
    assert!(
        gateway.tls.is_none() && gateway.upstream.is_none() && gateway.allow.is_empty() && gateway.rules.is_empty()
    );
    let [user] = gateway.users.as_slice() else { panic!("one user") };
    assert_eq!((user.read, user.write, user.write_all), (Classes::NONE, Classes::ORIGINATE, false));
    assert!(user.actions.is_none() && user.trunks.is_none() && user.unguarded.is_empty() && user.allow.is_empty());
    let settings = trunkwarden::app::parameters::gateway(&config).expect("settings");
    assert_eq!(
        (settings.upstream.username.as_str(), settings.upstream.address.as_str()),
        ("trunkwarden", "127.0.0.1:5038")
    );
    assert!(accepted(MINIMAL).gateway.is_none());
}

#[test]
fn every_key_of_a_gateway_is_understood() {
    let config = accepted(&format!("{MINIMAL}{WHOLE_GATEWAY}"));
    let gateway = config.gateway.as_ref().expect("a gateway");
    let airtel: TrunkId = "pbx1/airtel".parse().unwrap();
    let tata: TrunkId = "pbx1/tata".parse().unwrap();
    assert_eq!(gateway.tls.as_ref().map(|tls| tls.listen.to_string()).as_deref(), Some("0.0.0.0:5040"));
    let (limits, every) = (&gateway.limits, &gateway.limits.every);
    assert_eq!((every.calls, every.per_second, every.over), (Some(30), Some(5.0), Over::Wait(Duration::from_secs(3))));
    // What a trunk does not say is as for every trunk.
    let (one, other) = (limits.of(&airtel), limits.of(&tata));
    assert_eq!((one.calls, one.per_second, one.over, &one.ramp), (Some(10), Some(5.0), every.over, &every.ramp));
    assert_eq!((other.calls, other.over), (Some(30), Over::Error));
    let ramp = other.ramp.as_ref().expect("a ramp");
    assert_eq!((ramp.calls, ramp.per_second, ramp.lasting), (Some(1), None, Duration::from_secs(5)));
    let [first, second] = gateway.rules.as_slice() else { panic!("two rules") };
    assert_eq!((first.exten.as_deref(), first.trunks.len(), first.hold_when_all), (Some("_9X."), 2, true));
    assert_eq!((second.exten.as_deref(), second.trunks.len(), second.hold_when_all), (None, 0, false));
    let [dialer, ops] = gateway.users.as_slice() else { panic!("two users") };
    assert!(dialer.write_all && !dialer.write.overlaps(Classes::COMMAND), "all does not include command");
    assert!(dialer.write.contains(Classes::ORIGINATE) && dialer.read.contains(Classes::COMMAND));
    assert!(ops.write.contains(Classes::COMMAND) && !ops.write_all);
    let actions = dialer.actions.as_ref().expect("actions");
    assert!(actions.contains("originate") && actions.len() == 2, "{actions:?}");
    assert_eq!(dialer.trunks.as_ref().map(|trunks| trunks.contains(&airtel)), Some(true));
    assert_eq!(dialer.unguarded.iter().copied().collect::<Vec<_>>(), [Unguarded::Redirect]);
    let settings = trunkwarden::app::parameters::gateway(&config).expect("settings");
    assert_eq!((settings.upstream.username.as_str(), settings.auth_limit), ("gateway", 7));
    // What is shown holds no secret, and means the same.
    let shown = config.render_masked();
    for secret in ["gateway-knows", "ops-knows", "upstream-knows"] {
        assert!(!shown.contains(secret) && !format!("{config:?}").contains(secret), "{shown}");
    }
    let again = accepted(&shown);
    assert_eq!(again.render_masked(), shown);
    let again = again.gateway.expect("a gateway");
    assert_eq!((again.limits, again.rules), (gateway.limits.clone(), gateway.rules.clone()));
}

#[test]
fn a_mistake_in_a_gateway_is_named_with_its_line() {
    let refused_in = |change: (&str, &str), key: &str, needle: &str, words: &str| {
        let text = WHOLE_GATEWAY.replacen(change.0, change.1, 1);
        assert_ne!(text, WHOLE_GATEWAY, "{change:?} changes nothing");
        let (problem, said) = refused(&text);
        let whole = format!("{MINIMAL}{text}");
        let line = whole.lines().enumerate().filter(|(_, line)| line.contains(needle)).last().map(|(at, _)| at + 1);
        assert_eq!((problem.key.as_str(), problem.place.line()), (key, line), "{said}");
        assert!(said.contains(words), "{said} does not say {words:?}");
    };
    let user = "gateway.user[dialer]";
    refused_in(("pbx = \"pbx1\"", "pbx = \"pbx9\""), "gateway.pbx", "pbx = \"pbx9\"", "there is no [[pbx]] \"pbx9\"");
    refused_in(("local = \"allow\"", "local = \"hold\""), "gateway.local", "local", "hold-when-any-held");
    refused_in(("\"10.0.0.0/8\"", "\"10.0.0.0/40\""), "gateway.allow", "10.0.0.0/40", "no range of addresses");
    refused_in(("auth_limit = 7", "auth_limit = 0"), "gateway.auth_limit", "auth_limit", "from 1 to");
    refused_in(("\"10s\"", "\"2h\""), "gateway.auth_timeout", "auth_timeout", "at most 1h");
    refused_in(("wait = \"3s\"", "wait = \"6s\""), "gateway.limits.wait", "wait = \"6s\"", "at most 5s");
    refused_in(
        ("over = \"wait\"\nwait = \"3s\"", "wait = \"3s\""),
        "gateway.limits.wait",
        "wait = \"3s\"",
        "without over = \"wait\"",
    );
    refused_in(("calls = 30", "calls = 0"), "gateway.limits.calls", "calls = 0", "from 1 to");
    refused_in(("per_second = 5", "per_second = -5"), "gateway.limits.per_second", "per_second = -5", "above 0");
    refused_in(("calls = 30", "call = 30"), "gateway.limits.call", "call = 30", "did you mean \"calls\"?");
    refused_in(
        ("ramp = { calls = 1, lasting = \"5s\" }", "ramp = { lasting = \"5s\" }"),
        "gateway.limit[pbx1/tata].ramp",
        "ramp = { lasting",
        "calls and per_second",
    );
    refused_in(
        ("trunk = \"pbx1/tata\"", "trunk = \"pbx2/tata\""),
        "gateway.limit[pbx2/tata].trunk",
        "trunk = \"pbx2/tata\"",
        "must begin with \"pbx1/\"",
    );
    refused_in(("exten = \"_9X.\"", "exten = \"_9[.\""), "gateway.rule[#1].exten", "exten", "never closed");
    refused_in(("trunks = []", "hold_when = \"any\""), "gateway.rule[#2].trunks", "[[gateway.rule]]", "write []");
    refused_in(
        ("name = \"ops\"", "name = \"dialer\""),
        "gateway.user[dialer].name",
        "name = \"dialer\"",
        "already there",
    );
    refused_in(("name = \"ops\"", "name = \"\""), "gateway.user[].name", "name = \"\"", "must not be empty");
    refused_in(("name = \"ops\"", "name = \"o\\nps\""), "gateway.user[o\nps].name", "name = \"o\\nps", "control");
    refused_in(("read = [\"all\"]", "read = [\"cal\"]"), &format!("{user}.read"), "read", "did you mean");
    refused_in(("[\"redirect\"]", "[\"redirct\"]"), &format!("{user}.unguarded"), "unguarded", "\"redirect\"?");
    refused_in(("\"Ping\"]", "\"Pi ng\"]"), &format!("{user}.actions"), "actions", "no name of an AMI action");
    refused_in(
        ("certificate = \"Cargo.toml\"", "certificate = \"no\""),
        "gateway.tls.certificate",
        "cert",
        "cannot be read",
    );
    refused_in(("0.0.0.0:5040", "10.0.0.5:5038"), "gateway.tls.listen", "listen = \"10", "gateway.listen");
    refused_in(("10.0.0.5:5038", "127.0.0.1:5038"), "gateway.listen", "listen = \"127", "pbx[pbx1].ami.address");
    refused_in(("10.0.0.5:5038", "0.0.0.0:8480"), "gateway.listen", "listen = \"0.0.0.0:8480", "api.listen");
    let (problem, said) = refused("[gateway]\npbx = \"pbx1\"\n");
    assert!(problem.key == "gateway.user" && said.contains("[[gateway.user]]"), "{said}");
}

#[test]
fn a_gateways_secrets_may_stand_in_files_and_variables() {
    let secret = file("from-a-file\n");
    let path = secret.path().display();
    let text = GATEWAY.replace("secret = \"gateway-knows\"", &format!("secret_file = \"{path}\""));
    let text = format!("{MINIMAL}{text}[gateway.upstream]\nusername = \"gateway\"\nsecret_file = \"{path}\"\n");
    let gateway = accepted(&text).gateway.expect("a gateway");
    assert_eq!(gateway.users[0].secret.expose_secret(), "from-a-file");
    assert_eq!(gateway.upstream.expect("a user").secret.expose_secret(), "from-a-file");
    let env =
        [("TRUNKWARDEN__GATEWAY__USER__DIALER__SECRET", "from-env"), ("TRUNKWARDEN__GATEWAY__LISTEN", "[::1]:5039")];
    let gateway = accepted_with(&text, &env).gateway.expect("a gateway");
    assert_eq!(gateway.users[0].secret.expose_secret(), "from-env");
    assert_eq!(gateway.listen.to_string(), "[::1]:5039");
}

#[test]
fn a_gateways_addresses_need_a_restart_and_its_users_do_not() {
    let before = accepted(&format!("{MINIMAL}{WHOLE_GATEWAY}"));
    let after = |from: &str, to: &str| {
        Config::restart_needed(&before, &accepted(&format!("{MINIMAL}{}", WHOLE_GATEWAY.replace(from, to))))
    };
    assert_eq!(after("10.0.0.5:5038", "10.0.0.6:5038"), ["gateway.listen"]);
    assert_eq!(after("0.0.0.0:5040", "0.0.0.0:5041"), ["gateway.tls.listen"]);
    for (from, to) in
        [("gateway-knows", "new"), ("calls = 30", "calls = 3"), ("10.1.2.3", "10.1.2.4"), ("_9X.", "_8X.")]
    {
        assert_eq!(after(from, to), Vec::<&str>::new(), "{from}");
    }
    assert_eq!(Config::restart_needed(&before, &accepted(MINIMAL)), ["gateway"]);
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { failure_persistence: None, ..Default::default() })]

    /// Any damage to a file is an error with a place, or none; never a panic.
    #[test]
    fn a_damaged_file_is_refused_or_understood(
        from in 0_usize..3000, length in 0_usize..40, with in "[\\[\\]a-z=\"\\n{}.#0-9 ]{0,6}",
    ) {
        let all = include_str!("../fixtures/config/design-all.toml");
        let from = from.min(all.len());
        let to = (from + length).min(all.len());
        let text = format!("{}{with}{}", &all[..from], &all[to..]);
        if let Err(error) = load_with(&text, &[]) {
            for problem in error.problems() {
                proptest::prop_assert!(problem.place.line().is_some() || problem.key == "pbx", "{problem}");
            }
        }
    }

    /// Any variable means a key or is refused by its name.
    #[test]
    fn any_variable_is_understood_or_named(
        name in "(PBX|API|STORE|TRUNK|NOTIFY|HEALTH|AMI|TOKEN|OPS|PBX1|URL|SECRET|_|1|\\PC){0,6}", value in "\\PC{0,12}",
    ) {
        let name = format!("TRUNKWARDEN__{name}");
        if let Err(error) = load_with(DESIGN, &[(&name, &value)]) {
            proptest::prop_assert!(error.problems().iter().any(|problem| problem.place.variable() == Some(&name)), "{error}");
        }
    }
}
