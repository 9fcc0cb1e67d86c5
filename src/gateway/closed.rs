//! Ways to dial past the gate that are no `Originate`: which they are, and what opens them.
//!
//! Separate from `originate`, which reads where a call goes: here that cannot be read, because another channel, the
//! dialplan or a program outside decides. So these are closed unless the user has the word for it.
//!
//! The lists are of Asterisk 22 with all its modules, with the names that older versions had. What is on none of them
//! passes: a list of what is harmless would stop whatever module comes next. `Queue` and `QueueAdd` pass: a dialer's agents
//! are called that way, and on phones. What only files or the database can change (`UpdateConfig`, `DBPut`) passes too, if
//! the user's classes allow it: it is no call yet.

use super::settings::Unguarded;
use crate::wire::{ami::request::Request, dial};

/// How often an alias may stand for an alias.
const ALIAS_DEPTH: usize = 4;

/// Actions that send a channel elsewhere, or add to the dialplan where that is.
const REDIRECTING: [&[u8]; 9] = [
    b"Redirect",
    b"Atxfer",
    b"BlindTransfer",
    b"DAHDITransfer",
    b"DAHDIDialOffhook",
    b"ZapTransfer",
    b"ZapDialOffhook",
    b"DialplanExtensionAdd",
    b"CallCompletionRequest",
];

/// Applications that dial, send the channel into the dialplan, or run something that may.
const APPLICATIONS: [&str; 40] = [
    "AELSub",
    "AGI",
    "AttendedTransfer",
    "BlindTransfer",
    "CallCompletionRequest",
    "ChannelRedirect",
    "DBdeltree",
    "DeadAGI",
    "Directory",
    "DISA",
    "EAGI",
    "Exec",
    "ExecIf",
    "ExecIfTime",
    "ExternalIVR",
    "FastAGI",
    "FollowMe",
    "Gosub",
    "GosubIf",
    "Goto",
    "GotoIf",
    "GotoIfTime",
    "If",
    "Lua",
    "Macro",
    "MacroExclusive",
    "MacroIf",
    "MixMonitor",
    "MSet",
    "Originate",
    "ParkAndAnnounce",
    "Perl",
    "Reload",
    "Set",
    "SLAStation",
    "SLATrunk",
    "System",
    "Transfer",
    "TryExec",
    "TrySystem",
];

/// Names that make Asterisk transfer, dial or run dialplan when they are set: variables, and what `CHANNEL(…)` and others
/// call by name.
const VARIABLES: [&[u8]; 28] = [
    b"ATTENDEDTRANSFER",
    b"BLINDTRANSFER",
    b"BRIDGEPEER",
    b"TRANSFER_CONTEXT",
    b"FORWARD_CONTEXT",
    b"GOTO_ON_BLINDXFR",
    b"DYNAMIC_FEATURES",
    b"DYNAMIC_PEERNAME",
    b"FEATURE",
    b"FEATUREMAP",
    b"DIALGROUP",
    b"PERIODIC_HOOK",
    b"AFTER_BRIDGE_GOTO",
    b"HANGUP_HANDLER_PUSH",
    b"HANGUP_HANDLER_WIPE",
    b"CONNECTED_LINE_SEND_SUB",
    b"CONNECTED_LINE_CALLEE_SEND_MACRO",
    b"CONNECTED_LINE_CALLER_SEND_MACRO",
    b"REDIRECTING_SEND_SUB",
    b"REDIRECTING_CALLEE_SEND_MACRO",
    b"REDIRECTING_CALLER_SEND_MACRO",
    b"CC_CALLBACK_SUB",
    b"CC_CALLBACK_MACRO",
    b"CALLCOMPLETION",
    b"PARKINGDYNCONTEXT",
    b"EVAL",
    // What they are set to is a program, or is written to a file of Asterisk's.
    b"MONITOR_EXEC",
    b"FILE",
];

/// Commands, by their first words.
const COMMANDS: [&[&str]; 22] = [
    &["!"],
    &["add", "extension"],
    &["agi", "exec"],
    &["channel", "originate"],
    &["channel", "redirect"],
    &["channel", "transfer"],
    &["console", "answer"],
    &["console", "dial"],
    &["console", "flash"],
    &["console", "transfer"],
    &["core", "set", "chanvar"],
    &["core", "set", "global"],
    &["dahdi", "dial"],
    &["dial"],
    &["include", "context"],
    &["misdn", "send", "calldeflect"],
    &["mixmonitor", "start"],
    &["originate"],
    &["redirect"],
    &["set", "global"],
    &["skinny", "message"],
    &["transfer"],
];

/// Commands that begin with `dialplan` and change nothing in it.
const DIALPLAN: [&str; 4] = ["show", "reload", "debug", "locks"];

/// What is closed, and the word that opens it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Closed {
    /// What was asked for, as it came.
    pub(super) what: String,
    /// What opens it.
    pub(super) by: Unguarded,
}

/// Whether an action that is no `Originate` is closed.
pub(super) fn action(name: &[u8], request: &Request, aliases: &[(String, String)]) -> Option<Closed> {
    let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
    let closed = |by| Some(Closed { what: lossy(name), by });
    let filled = |header| request.values(header).any(|value| !value.is_empty());
    match name.first().map(u8::to_ascii_lowercase) {
        Some(b'c') if is(b"Command") => command(request, aliases),
        Some(b's') if is(b"Setvar") => {
            let variable = request.values("Variable").find(|name| dials_when_set(name))?;
            Some(Closed { what: format!("Setvar of {}", lossy(variable)), by: Unguarded::Setvar })
        }
        Some(b'a') if is(b"AGI") => closed(Unguarded::Agi),
        // It runs a program when the recording ends, and a program can dial.
        Some(b'm') if is(b"MixMonitor") && filled("Command") => closed(Unguarded::Command),
        // What was parked too long is dialed.
        Some(b'p') if is(b"Park") && (filled("TimeoutChannel") || filled("Channel2")) => closed(Unguarded::Redirect),
        Some(b'a' | b'b' | b'c' | b'd' | b'r' | b'z') if REDIRECTING.iter().any(|known| is(known)) => {
            closed(Unguarded::Redirect)
        }
        Some(_) | None => None,
    }
}

/// Options of applications that lead into the dialplan, or run something there: `G(context^exten^1)`, `F`, `U`, `b`, `B`,
/// `M`, and `c` of `Park`.
const JUMPS: [&str; 7] = ["F(", "G(", "U(", "b(", "B(", "M(", "c("];

/// Whether an application's arguments behind its first lead into the dialplan.
pub(super) fn jumps(application: &str, data: &str) -> bool {
    let has_them = ["Dial", "RetryDial", "Page", "Queue", "Park", "Bridge"];
    let behind = data.split_once(',').map_or("", |(_, behind)| behind);
    has_them.iter().any(|known| known.eq_ignore_ascii_case(application))
        && JUMPS.iter().any(|option| behind.contains(option))
}

/// Whether Asterisk refuses it to whoever has not the class `system`: the gateway's own user there has it.
///
/// Source: `main/manager.c` (`action_originate`).
pub(super) fn is_blacklisted(application: &str, data: &str) -> bool {
    let names = ["system", "exec", "agi", "mixmonitor", "externalivr", "originate", "dbdeltree", "reload"];
    let functions = ["EVAL", "SHELL", "CURL", "DB", "FILE", "ODBC", "REALTIME"];
    let application = application.to_ascii_lowercase();
    names.iter().any(|name| application.contains(name)) || functions.iter().any(|name| data.contains(name))
}

/// Whether an `Originate`'s application is closed.
pub(super) fn is_application(name: &str) -> bool {
    APPLICATIONS.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// The first variable an `Originate` sets that is closed, as it came.
///
/// Source: `main/manager.c` (`man_do_variable_value`): each header is split at commas like an application's arguments, each
/// of these at its first `=`.
pub(super) fn variable(request: &Request) -> Option<String> {
    request.values("Variable").find_map(|line| {
        let line = String::from_utf8_lossy(line);
        let names = dial::arguments(&line, usize::MAX).filter_map(|pair| pair.split_once('=').map(|(name, _)| name));
        names.map(str::to_owned).find(|name| dials_when_set(name.as_bytes()))
    })
}

/// Whether a name, or one inside it (`GLOBAL(…)`, `EXPORT(channel,…)`, `ARRAY(…,…)`), is closed; `_` and `__` before it
/// only say who inherits it. Quotes and backslashes are gone when Asterisk sets it.
fn dials_when_set(name: &[u8]) -> bool {
    let cleaned: Vec<u8>;
    let name = if memchr::memchr2(b'"', b'\\', name).is_some() {
        cleaned = name.iter().copied().filter(|byte| !matches!(byte, b'"' | b'\\')).collect();
        &cleaned
    } else {
        name
    };
    name.split(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_').any(|word| {
        let plain = word.iter().position(|&byte| byte != b'_').map_or(&[][..], |start| &word[start..]);
        VARIABLES.iter().any(|known| plain.eq_ignore_ascii_case(known))
    })
}

/// Asterisk takes words apart at blanks and drops quotes and backslashes: `chan\nel "originate"` is the command too.
fn command(request: &Request, aliases: &[(String, String)]) -> Option<Closed> {
    let line = String::from_utf8_lossy(request.values("Command").next()?);
    let words = words(&line);
    let closed = is_command(&words, aliases, ALIAS_DEPTH);
    closed.then(|| Closed { what: format!("the command {line}"), by: Unguarded::Command })
}

fn words(line: &str) -> Vec<String> {
    let line: String = line.chars().filter(|c| !matches!(c, '"' | '\\')).collect();
    line.split(|c: char| c <= ' ').filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

fn is_command(said: &[String], aliases: &[(String, String)], depth: usize) -> bool {
    let begins =
        |prefix: &[&str]| said.len() >= prefix.len() && said.iter().zip(prefix).all(|(word, known)| word == known);
    if said.first().is_some_and(|word| word.starts_with('!')) || COMMANDS.iter().any(|known| begins(known)) {
        return true;
    }
    if begins(&["dialplan"]) && !said.get(1).is_some_and(|word| DIALPLAN.contains(&word.as_str())) {
        return said.len() > 1;
    }
    aliases.iter().any(|(alias, real)| {
        let alias = words(alias);
        if alias.is_empty() || said.len() < alias.len() || said[..alias.len()] != alias {
            return false;
        }
        // An alias of an alias of an alias … is nothing that anybody reads.
        let Some(depth) = depth.checked_sub(1) else { return true };
        let mut real = words(real);
        real.extend_from_slice(&said[alias.len()..]);
        real != said && is_command(&real, aliases, depth)
    })
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(lines: &[&str]) -> Request {
        let mut request = Request::default();
        for line in lines {
            request.push(line.as_bytes());
        }
        request
    }

    fn by(lines: &[&str]) -> Option<Unguarded> {
        let aliases = [("go", "channel originate"), ("hop", "go"), ("ring", "ring"), ("up", "core show uptime")];
        let aliases = aliases.map(|(alias, real)| (alias.to_owned(), real.to_owned()));
        let request = request(lines);
        let name = request.action().into_owned();
        action(name.as_bytes(), &request, &aliases).map(|closed| closed.by)
    }

    #[test]
    fn commands_that_dial_are_closed_however_they_are_written() {
        for command in [
            "channel originate PJSIP/1@a application Wait 1",
            "CHANNEL  originate",
            "chan\\nel \"originate\" x",
            "channel redirect x y",
            "console dial 1",
            "agi exec x y",
            "dialplan add extension 1,1,Dial,PJSIP/1@a into x",
            "dialplan set global X y",
            "mixmonitor start x y",
            "!asterisk",
            "! ls",
            "originate x",
            "go PJSIP/1@a application Wait",
            "HOP PJSIP/1@a",
        ] {
            assert_eq!(by(&["Action: Command", &format!("Command: {command}")]), Some(Unguarded::Command), "{command}");
        }
        for command in [
            "core show uptime",
            "channel request hangup x",
            "dialplan show",
            "dialplan reload",
            "up",
            "ring",
            "",
            "dialplan",
        ] {
            assert_eq!(by(&["Action: Command", &format!("Command: {command}")]), None, "{command}");
        }
        assert_eq!(by(&["Action: Command"]), None);
    }

    #[test]
    fn actions_that_send_a_channel_elsewhere_are_closed_and_their_neighbours_pass() {
        for name in ["redirect", "ATXFER", "BlindTransfer", "DAHDIDialOffhook", "DialplanExtensionAdd"] {
            assert_eq!(by(&[&format!("Action: {name}")]), Some(Unguarded::Redirect), "{name}");
        }
        assert_eq!(by(&["Action: agi", "Channel: x", "Command: EXEC Dial PJSIP/1@a"]), Some(Unguarded::Agi));
        assert_eq!(by(&["Action: Park", "Channel: x", "TimeoutChannel: PJSIP/a"]), Some(Unguarded::Redirect));
        assert_eq!(by(&["Action: MixMonitor", "Command: asterisk -rx x"]), Some(Unguarded::Command));
        for name in ["Hangup", "Ping", "Bridge", "QueueAdd", "Park", "MixMonitor", "CancelAtxfer", "Redirect "] {
            assert_eq!(by(&[&format!("Action: {name}")]), None, "{name}");
        }
    }

    #[test]
    fn variables_that_transfer_are_closed_and_all_others_may_be_set() {
        for name in ["BLINDTRANSFER", "__TRANSFER_CONTEXT", "GLOBAL(FORWARD_CONTEXT)", "CHANNEL(hangup_handler_push)"] {
            assert_eq!(
                by(&["Action: Setvar", &format!("Variable: {name}"), "Value: x"]),
                Some(Unguarded::Setvar),
                "{name}"
            );
        }
        for name in
            ["X", "CALLERID(num)", "PJSIP_HEADER(add,X-Y)", "CDR(userfield)", "CHANNEL(language)", "BLINDTRANSFERS"]
        {
            assert_eq!(by(&["Action: Setvar", &format!("Variable: {name}"), "Value: x"]), None, "{name}");
        }
        let set = |line: &str| variable(&request(&["Action: Originate", line]));
        assert_eq!(set("Variable: a=b,__BLINDTRANSFER=PJSIP/1@a").as_deref(), Some("__BLINDTRANSFER"));
        assert_eq!(set("variable:a=\"b,BLINDTRANSFER=1\",\"BLIND\"TRANSFER=2").as_deref(), Some("\"BLIND\"TRANSFER"));
        assert_eq!(set("Variable: a=\"b,BLINDTRANSFER=1\",PJSIP_HEADER(add,X)=BLINDTRANSFER,BLINDTRANSFER"), None);
    }

    #[test]
    fn options_that_lead_into_the_dialplan_are_seen_and_ordinary_ones_are_none() {
        assert!(jumps("dial", "PJSIP/100,30,tG(out^9711^1)") && jumps("Queue", "q,F(out^1^1)"));
        assert!(jumps("Park", "lot,c(out,1,1)"));
        for data in ["PJSIP/9711761156@airtel,60", "PJSIP/1,30,tTL(60000:1000)m(quiet)", "PJSIP/G(x)"] {
            assert!(!jumps("Dial", data), "{data}");
        }
        assert!(!jumps("Stasis", "app,G(x)"));
    }

    #[test]
    fn what_asterisk_keeps_from_those_without_system_is_kept_from_them() {
        assert!(is_blacklisted("TryExec", "") && is_blacklisted("Playback", "x${SHELL(ls)}"));
        assert!(!is_blacklisted("Stasis", "app,dialAutomateCall-ch-1,ORG, ,1,Outbound"));
    }

    #[test]
    fn applications_that_dial_or_jump_are_closed_and_those_that_answer_pass() {
        for name in
            ["agi", "Originate", "EXEC", "set", "Gosub", "GotoIf", "Transfer", "System", "FollowMe", "ParkAndAnnounce"]
        {
            assert!(is_application(name), "{name}");
        }
        for name in ["Stasis", "Playback", "Wait", "Echo", "ConfBridge", "Queue", "AMD", "Dial"] {
            assert!(!is_application(name), "{name}");
        }
    }
}
