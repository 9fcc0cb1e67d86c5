//! What each AMI action answers.
//!
//! Source: the header sets and texts are those of recordings of Asterisk 22.10.1, or were seen on it side by side; the rest is
//! from its C sources
//! (`main/manager.c`, `res/res_pjsip/pjsip_configuration.c`, `res/res_pjsip/pjsip_options.c`,
//! `res/res_pjsip_outbound_registration.c`). Some texts end in a line feed there, which makes an extra blank line on the
//! wire; it is kept.

use std::{collections::BTreeSet, fmt::Display, time::Duration};

use super::{
    event::{Headers, stamp},
    plant::{Call, Contact, Plant, contact_hash},
    request::Request,
    settings::SimSettings,
};
use crate::sim::{
    registration::{RegistrationSettings, Status},
    sip::PBX_ADDRESS,
};
use crate::wire::ami::Classes;

/// What a handler may see.
pub(super) struct Scene<'a> {
    pub(super) settings: &'a SimSettings,
    pub(super) plant: &'a mut Plant,
    /// Since the PBX's epoch.
    pub(super) now: Duration,
    /// Since when Asterisk runs, on the same scale.
    pub(super) started: Duration,
    /// What the user may write.
    pub(super) write: Classes,
}

/// An answer: what is written now, and what must happen besides.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) then: Then,
}

/// What must happen after an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Then {
    /// Nothing.
    #[default]
    GoOn,
    /// An `Originate` without `Async`: the answer comes when the call is up or has failed.
    Wait(Box<Call>),
    /// `core restart now`.
    Restart,
}

type Handler = fn(&mut Scene<'_>, &Request) -> Answer;

/// An action. `Challenge`, `Events`, `Filter`, `Login` and `Logoff` are the session's own.
pub(super) struct Action {
    pub(super) name: &'static str,
    about: &'static str,
    /// One of these is needed; none for everybody.
    pub(super) needs: Classes,
    /// Needs the PJSIP modules, which are there once Asterisk has booted.
    pub(super) module: bool,
    pub(super) run: Option<Handler>,
}

const fn action(name: &'static str, about: &'static str, needs: Classes, run: Handler) -> Action {
    Action { name, about, needs, module: false, run: Some(run) }
}

const fn pjsip(name: &'static str, about: &'static str, needs: Classes, run: Handler) -> Action {
    Action { name, about, needs, module: true, run: Some(run) }
}

const fn of_session(name: &'static str, about: &'static str, needs: Classes) -> Action {
    Action { name, about, needs, module: false, run: None }
}

const READ_OR_REPORT: Classes = Classes::SYSTEM.and(Classes::REPORTING);

/// The actions, in the order of `ListCommands`.
pub(super) const ACTIONS: [Action; 22] = [
    of_session("Challenge", "A number for an MD5 login", Classes::NONE),
    action("Command", "Run a line of the CLI", Classes::COMMAND, command),
    action("CoreSettings", "Versions and settings", READ_OR_REPORT, core_settings),
    action("CoreStatus", "When it was started and reloaded", READ_OR_REPORT, core_status),
    of_session("Events", "Choose which events come", Classes::NONE),
    of_session("Filter", "Choose among them further", Classes::SYSTEM),
    action("ListCommands", "The actions this user may run", Classes::NONE, list_commands),
    of_session("Login", "Log in", Classes::NONE),
    of_session("Logoff", "Log off", Classes::NONE),
    action("ModuleCheck", "Whether a module is loaded", Classes::SYSTEM, module_check),
    action("Originate", "Start a call", Classes::ORIGINATE, originate),
    action("Ping", "Sign of life", Classes::NONE, ping),
    pjsip("PJSIPQualify", "Ask an endpoint's contacts", READ_OR_REPORT, qualify),
    pjsip("PJSIPRegister", "Register anew", READ_OR_REPORT, register),
    pjsip("PJSIPShowAuths", "The auths", Classes::SYSTEM, show_auths),
    pjsip("PJSIPShowContacts", "The contacts", Classes::SYSTEM, show_contacts),
    pjsip("PJSIPShowEndpoint", "One endpoint", Classes::SYSTEM, show_endpoint),
    pjsip("PJSIPShowEndpoints", "The endpoints", Classes::SYSTEM, show_endpoints),
    pjsip("PJSIPShowRegistrationsOutbound", "The outbound registrations", READ_OR_REPORT, show_registrations),
    pjsip("PJSIPUnregister", "Unregister", READ_OR_REPORT, unregister),
    action("Reload", "Reload a module", Classes::SYSTEM.and(Classes::CONFIG), reload),
    action("UserEvent", "Send an event to the others", Classes::USER, user_event),
];

/// The action of that name, whatever its case.
pub(super) fn find(name: &str) -> Option<&'static Action> {
    ACTIONS.iter().find(|action| action.name.eq_ignore_ascii_case(name))
}

// --- the forms of an answer ----------------------------------------------------------------------------------------

/// `Response`, the request's `ActionID`, and what else there is.
pub(super) fn response(kind: &str, request: &Request, headers: impl FnOnce(&mut Headers<'_>)) -> String {
    let mut text = String::new();
    let mut head = Headers(&mut text);
    head.put("Response", kind);
    let id = request.header("ActionID");
    if !id.is_empty() {
        head.put("ActionID", id);
    }
    headers(&mut head);
    text.push_str("\r\n");
    text
}

/// A response with a message. A line feed at its end is kept, as Asterisk keeps it.
pub(super) fn message(kind: &str, request: &Request, message: &str) -> String {
    let trimmed = message.trim_end_matches('\n');
    let mut text = response(kind, request, |h| {
        h.put("Message", trimmed);
    });
    if trimmed.len() < message.len() {
        text.insert(text.len() - 4, '\n');
    }
    text
}

pub(super) fn success(request: &Request, text: &str) -> Answer {
    Answer { text: message("Success", request, text), then: Then::GoOn }
}

pub(super) fn error(request: &Request, text: &str) -> Answer {
    Answer { text: message("Error", request, text), then: Then::GoOn }
}

/// An event list in the making.
struct List<'a> {
    text: String,
    request: &'a Request,
}

impl<'a> List<'a> {
    fn start(request: &'a Request, message: &str) -> Self {
        let text = response("Success", request, |h| {
            h.put("EventList", "start").put("Message", message);
        });
        Self { text, request }
    }

    fn item(&mut self, event: &str, headers: impl FnOnce(&mut Headers<'_>)) {
        let mut head = Headers(&mut self.text);
        head.put("Event", event);
        let id = self.request.header("ActionID");
        if !id.is_empty() {
            head.put("ActionID", id);
        }
        headers(&mut head);
        self.text.push_str("\r\n");
    }

    fn end(mut self, event: &str, items: usize, headers: impl FnOnce(&mut Headers<'_>)) -> Answer {
        self.item(event, |h| {
            h.put("EventList", "Complete").put("ListItems", items);
            headers(h);
        });
        Answer { text: self.text, then: Then::GoOn }
    }
}

// --- the actions ---------------------------------------------------------------------------------------------------

fn ping(scene: &mut Scene<'_>, request: &Request) -> Answer {
    let at = scene.settings.clock.now();
    let text = response("Success", request, |h| {
        h.put("Ping", "Pong").put("Timestamp", stamp(at));
    });
    Answer { text, then: Then::GoOn }
}

fn list_commands(scene: &mut Scene<'_>, request: &Request) -> Answer {
    let text = response("Success", request, |h| {
        for action in ACTIONS.iter().filter(|action| action.needs.is_empty() || scene.write.overlaps(action.needs)) {
            h.put(action.name, format_args!("{} (Priv: {})", action.about, action.needs));
        }
    });
    Answer { text, then: Then::GoOn }
}

fn core_settings(_: &mut Scene<'_>, request: &Request) -> Answer {
    let text = response("Success", request, |h| {
        h.put("AMIversion", AMI_VERSION).put("AsteriskVersion", ASTERISK_VERSION).put("SystemName", "");
        h.put("CoreMaxCalls", 0).put("CoreMaxLoadAvg", "0.000000").put("CoreRunUser", "").put("CoreRunGroup", "");
        h.put("CoreMaxFilehandles", 0).put("CoreRealTimeEnabled", "No").put("CoreCDRenabled", "No");
        h.put("CoreHTTPenabled", "No").put("SoundsSearchCustomDir", "No");
    });
    Answer { text, then: Then::GoOn }
}

/// `AMI_VERSION` of the branch that is simulated.
pub(super) const AMI_VERSION: &str = "11.0.0";
/// The release that was recorded.
const ASTERISK_VERSION: &str = "22.10.1";

fn core_status(scene: &mut Scene<'_>, request: &Request) -> Answer {
    let since = scene.now.saturating_sub(scene.started);
    let started = crate::clock::before(scene.settings.clock.now(), since);
    let (date, time) = (started.strftime("%Y-%m-%d").to_string(), started.strftime("%H:%M:%S").to_string());
    let text = response("Success", request, |h| {
        h.put("CoreStartupDate", &date).put("CoreStartupTime", &time);
        h.put("CoreReloadDate", &date)
            .put("CoreReloadTime", &time)
            .put("CoreCurrentCalls", 0)
            .put("CoreProcessedCalls", 0);
    });
    Answer { text, then: Then::GoOn }
}

fn module_check(scene: &mut Scene<'_>, request: &Request) -> Answer {
    let asked = request.header("Module");
    let asked = asked.strip_suffix(".so").unwrap_or(asked);
    if !scene.settings.modules.iter().any(|module| module == asked) {
        return error(request, "Module not loaded");
    }
    let text = response("Success", request, |h| {
        h.put("Version", "");
    });
    Answer { text, then: Then::GoOn }
}

fn reload(scene: &mut Scene<'_>, request: &Request) -> Answer {
    match request.header("Module") {
        "" | "res_pjsip.so" => {
            scene.plant.reload(scene.now);
            success(request, "Module Reloaded")
        }
        _ => error(request, "No such module"),
    }
}

fn user_event(scene: &mut Scene<'_>, request: &Request) -> Answer {
    let name = request.header("UserEvent").to_owned();
    scene.plant.emit("UserEvent", Classes::USER, |h| {
        h.put("UserEvent", name);
        let own = |key: &str| ["Action", "UserEvent"].iter().any(|own| own.eq_ignore_ascii_case(key));
        for (key, value) in request.lines().filter_map(|line| line.split_once(": ")).filter(|(key, _)| !own(key)) {
            h.put(key, value);
        }
    });
    success(request, "Event Sent")
}

fn register(scene: &mut Scene<'_>, request: &Request) -> Answer {
    let registration = request.header("Registration");
    match registration {
        "" => error(request, "Registration parameter missing."),
        _ if !scene.plant.register(registration, scene.now) => error(request, NO_SUCH_REGISTRATION),
        "*all" => success(request, "Reregistrations queued."),
        _ => success(request, "Reregistration sent"),
    }
}

fn unregister(scene: &mut Scene<'_>, request: &Request) -> Answer {
    let registration = request.header("Registration");
    match registration {
        "" => error(request, "Registration parameter missing."),
        _ if !scene.plant.unregister(registration, scene.now) => error(request, NO_SUCH_REGISTRATION),
        "*all" => success(request, "Unregistrations queued."),
        _ => success(request, "Unregistration sent"),
    }
}

/// With the line feed that makes a blank line on the wire.
const NO_SUCH_REGISTRATION: &str = "Unable to retrieve registration entry\n";

fn qualify(scene: &mut Scene<'_>, request: &Request) -> Answer {
    let endpoint = request.header("Endpoint");
    if endpoint.is_empty() {
        return error(request, "Endpoint parameter missing.");
    }
    if scene.plant.qualify_endpoint(endpoint, scene.now) {
        success(request, "Endpoint found, will qualify")
    } else {
        error(request, "Unable to retrieve endpoint\n")
    }
}

fn show_registrations(scene: &mut Scene<'_>, request: &Request) -> Answer {
    let mut list = List::start(request, "Following are Events for each Outbound registration");
    let (mut registered, mut others) = (0, 0);
    for (r, client) in scene.plant.registrations() {
        list.item("OutboundRegistrationDetail", |h| {
            h.put("ObjectType", "registration").put("ObjectName", &r.name).put("MaxRetries", r.max_retries);
            h.put("ClientUri", &r.client_uri).put("SecurityNegotiation", "no");
            h.put("AuthRejectionPermanent", r.auth_rejection_permanent).put("ServerUri", &r.server_uri);
            h.put("MaxRandomInitialDelay", r.max_random_initial_delay.as_secs()).put("SupportPath", false);
            h.put("RetryInterval", r.retry_interval.as_secs()).put("ContactHeaderParams", "");
            h.put("Expiration", r.expiration.as_secs()).put("Transport", "");
            h.put("Line", !r.endpoint.is_empty()).put("ContactUser", &r.contact_user).put("Endpoint", &r.endpoint);
            h.put("UserAgent", "").put("ForbiddenRetryInterval", r.forbidden_retry_interval.as_secs());
            h.put("OutboundAuth", &r.outbound_auth).put("OutboundProxy", "");
            h.put("FatalRetryInterval", r.fatal_retry_interval.as_secs()).put("SupportOutbound", "no");
            if let Some(client) = client {
                h.put("Status", client.status().as_str()).put("NextReg", 0);
                match client.status() {
                    Status::Registered => registered += 1,
                    Status::Unregistered | Status::RejectedTemporary | Status::RejectedPermanent => others += 1,
                }
            }
        });
        if !r.outbound_auth.is_empty() {
            list.item("AuthDetail", |h| auth(h, r));
        }
    }
    list.end("OutboundRegistrationDetailComplete", registered + others, |h| {
        h.put("Registered", registered).put("NotRegistered", others);
    })
}

fn show_endpoints(scene: &mut Scene<'_>, request: &Request) -> Answer {
    let mut list = List::start(request, "A listing of Endpoints follows, presented as EndpointList events");
    let mut count = 0;
    for endpoint in scene.plant.list().filter_map(|trunk| trunk.endpoint.as_ref()) {
        count += 1;
        let e = &endpoint.settings;
        list.item("EndpointList", |h| {
            h.put("ObjectType", "endpoint").put("ObjectName", &e.name).put("Transport", "").put("Aor", &e.name);
            h.put("Auths", "").put("OutboundAuths", &e.outbound_auth);
            h.put("Contacts", format_args!("{}/{},", e.name, e.contact));
            h.put("DeviceState", device_state(endpoint.contact)).put("ActiveChannels", 0);
        });
    }
    if count == 0 {
        return error(request, "No endpoints found\n");
    }
    list.end("EndpointListComplete", count, |_| {})
}

/// Every auth once, in the order of their trunks.
fn show_auths(scene: &mut Scene<'_>, request: &Request) -> Answer {
    let mut list = List::start(request, "A listing of Auths follows, presented as AuthList events");
    let mut listed = BTreeSet::new();
    for (r, _) in scene.plant.registrations().filter(|(r, _)| !r.outbound_auth.is_empty()) {
        if listed.insert(&r.outbound_auth) {
            list.item("AuthList", |h| auth(h, r));
        }
    }
    if listed.is_empty() {
        return error(request, "No Auths found\n");
    }
    let count = listed.len();
    list.end("AuthListComplete", count, |_| {})
}

/// The contacts here are all configured in their AORs, and those are not in this list: only registered ones are. Seen
/// on 22.10.1, whose CLI (`pjsip show contacts`) shows both.
fn show_contacts(_: &mut Scene<'_>, request: &Request) -> Answer {
    error(request, "No Contacts found\n")
}

/// Of `EndpointDetail` only what tells one endpoint from another, and what bears on its messages.
fn show_endpoint(scene: &mut Scene<'_>, request: &Request) -> Answer {
    let asked = request.header("Endpoint");
    if asked.is_empty() {
        return error(request, "PJSIPShowEndpoint requires an endpoint name\n");
    }
    let name = asked.strip_prefix("PJSIP/").unwrap_or(asked);
    let rtt = scene.plant.rtt();
    let trunk = scene.plant.of_endpoint(name);
    let Some((trunk, endpoint)) = trunk.and_then(|trunk| Some((trunk, trunk.endpoint.as_ref()?))) else {
        return error(request, &format!("Unable to retrieve endpoint {name}\n"));
    };
    let e = &endpoint.settings;
    let mut list = List::start(request, "Following are Events for each object associated with the Endpoint");
    let mut items = 3;
    list.item("EndpointDetail", |h| {
        h.put("ObjectType", "endpoint").put("ObjectName", name).put("FromDomain", "").put("Aors", name);
        h.put("IdentifyBy", "username,ip").put("Context", "from-trunk").put("RtpSymmetric", false);
        h.put("Transport", "").put("ForceRport", true).put("MediaAddress", "").put("FromUser", "");
        h.put("RewriteContact", false).put("Auth", "").put("OutboundAuth", &e.outbound_auth);
        h.put("DirectMedia", true).put("OutboundProxy", "");
        h.put("DeviceState", device_state(endpoint.contact)).put("ActiveChannels", 0);
    });
    if let Some((r, _)) = trunk.registration.as_ref().filter(|(r, _)| r.outbound_auth == e.outbound_auth) {
        items += 1;
        list.item("AuthDetail", |h| {
            auth(h, r);
            h.put("EndpointName", name);
        });
    }
    let seconds = e.qualify.as_secs();
    list.item("AorDetail", |h| {
        h.put("ObjectType", "aor").put("ObjectName", name).put("MinimumExpiration", 60);
        h.put("DefaultExpiration", 3600).put("QualifyTimeout", "3.000000").put("Qualify2xxOnly", false);
        h.put("Mailboxes", "").put("SupportPath", false).put("RemoveUnavailable", false).put("VoicemailExtension", "");
        h.put("MaxContacts", 0).put("AuthenticateQualify", false).put("Contacts", format_args!("{name}/{}", e.contact));
        h.put("MaximumExpiration", 7200).put("QualifyFrequency", seconds).put("RemoveExisting", false);
        h.put("OutboundProxy", "").put("TotalContacts", 1).put("ContactsRegistered", 0).put("EndpointName", name);
    });
    list.item("ContactStatusDetail", |h| {
        h.put("AOR", name).put("URI", &e.contact).put("UserAgent", "").put("RegExpire", 0);
        h.put("Status", endpoint.contact.as_str());
        match endpoint.contact {
            Contact::Reachable => h.put("RoundtripUsec", rtt),
            Contact::NonQualified | Contact::Unknown | Contact::Unreachable => h.put("RoundtripUsec", "N/A"),
        };
        h.put("EndpointName", name).put("ID", format_args!("{name}@@{}", contact_hash(&e.contact)));
        h.put("AuthenticateQualify", 0).put("OutboundProxy", "").put("Path", "").put("QualifyFrequency", 0);
        h.put("QualifyTimeout", "3.000").put("Qualify2xxOnly", 0);
    });
    list.end("EndpointDetailComplete", items, |_| {})
}

const fn device_state(contact: Contact) -> &'static str {
    match contact {
        Contact::Reachable | Contact::NonQualified => "Not in use",
        Contact::Unknown | Contact::Unreachable => "Unavailable",
    }
}

/// The auth section, its password in clear.
fn auth(h: &mut Headers<'_>, r: &RegistrationSettings) {
    h.put("ObjectType", "auth").put("ObjectName", &r.outbound_auth).put("OauthSecret", "");
    h.put("PasswordDigest", "").put("SupportedAlgorithmsUas", "MD5").put("RefreshToken", "");
    h.put("Username", &r.username).put("Md5Cred", "").put("Realm", "").put("AuthType", "userpass");
    h.put("Password", &r.password).put("SupportedAlgorithmsUac", "MD5").put("NonceLifetime", 32);
    h.put("OauthClientid", "");
}

fn originate(scene: &mut Scene<'_>, request: &Request) -> Answer {
    let dial = request.header("Channel");
    if dial.is_empty() {
        return error(request, "Channel not specified");
    }
    let priority = request.header("Priority");
    let numeric = |text: &str| text.is_empty() || text.trim().parse::<u32>().is_ok();
    if !numeric(priority) {
        return error(request, "Invalid priority");
    }
    if !numeric(request.header("Timeout")) {
        return error(request, "Invalid timeout");
    }
    if !dial.contains('/') {
        return error(request, "Invalid channel");
    }
    let (context, exten) = (request.header("Context"), request.header("Exten"));
    let application = request.header("Application");
    if application.is_empty() && (context.is_empty() || exten.is_empty() || priority.is_empty()) {
        return error(request, "Originate with 'Exten' requires 'Context' and 'Priority'");
    }
    let (name, number) = caller_id(request.header("CallerID"));
    let call = Call {
        action_id: request.find("ActionID").filter(|id| !id.is_empty()).map(str::to_owned),
        dial: dial.to_owned(),
        context: context.to_owned(),
        exten: exten.to_owned(),
        application: application.to_owned(),
        data: request.header("Data").to_owned(),
        caller_number: number,
        caller_name: name,
        ..Call::default()
    };
    let truth = ["yes", "true", "y", "t", "1", "on"];
    if truth.iter().any(|yes| request.header("Async").eq_ignore_ascii_case(yes)) {
        scene.plant.originate(call, scene.now);
        success(request, "Originate successfully queued")
    } else {
        Answer { text: String::new(), then: Then::Wait(Box::new(call)) }
    }
}

/// `Name <number>`, or either.
fn caller_id(text: &str) -> (String, String) {
    match text.split_once('<') {
        Some((name, rest)) => {
            (name.trim().trim_matches('"').to_owned(), rest.split('>').next().unwrap_or_default().to_owned())
        }
        None if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '+') => {
            (String::new(), text.to_owned())
        }
        None => (text.to_owned(), String::new()),
    }
}

// --- the CLI -------------------------------------------------------------------------------------------------------

fn command(scene: &mut Scene<'_>, request: &Request) -> Answer {
    let line = request.header("Command").trim();
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let mut then = Then::GoOn;
    let printed = match words[..] {
        [] => return error(request, "No command provided"),
        ["module", "load" | "unload", ..] | ["restart", "gracefully", ..] => {
            return error(request, "Command blacklisted");
        }
        ["pjsip", "show", "registrations"] => Ok(registrations_table(scene.plant, scene.now)),
        ["pjsip", "show", "transports"] => {
            Ok(format!("{TRANSPORT_HEAD}{}\nObjects found: 1\n\n", transport_row(TRANSPORT)))
        }
        ["pjsip", "show", "transport", name] if name == TRANSPORT => Ok(transport()),
        ["pjsip", "show", "transport", name] => Ok(format!("Unable to find object {name}.\n\n")),
        ["module", "reload", "res_pjsip.so"] => {
            scene.plant.reload(scene.now);
            Ok("Module 'res_pjsip.so' reloaded successfully.\n".to_owned())
        }
        ["core", "restart", "now"] => {
            then = Then::Restart;
            Ok(String::new())
        }
        _ => {
            let known = known_part(&words);
            Err(format!("No such command '{line}' (type 'core show help {known}' for other possible commands)\n"))
        }
    };
    let (kind, printed) = match printed {
        Ok(printed) => ("Success", printed),
        Err(printed) => ("Error", printed),
    };
    let text = response(kind, request, |h| {
        h.put("Message", "Command output follows");
        for line in printed.strip_suffix('\n').unwrap_or(&printed).split('\n') {
            h.put("Output", line);
        }
    });
    Answer { text, then }
}

/// Beginnings of commands, as far as somebody may look for one here that a module would bring.
const BEGINNINGS: [[&str; 2]; 6] = [
    ["core", "show"],
    ["core", "restart"],
    ["module", "reload"],
    ["module", "show"],
    ["pjsip", "set"],
    ["pjsip", "show"],
];

/// The words that begin a command there is, as many as do (`main/cli.c`, `find_best`).
fn known_part(words: &[&str]) -> String {
    let known = |count: &usize| BEGINNINGS.iter().any(|one| one.get(..*count) == words.get(..*count));
    let count = [2, 1].into_iter().find(known).unwrap_or(0);
    words.iter().take(count).copied().collect::<Vec<_>>().join(" ")
}

/// The one transport.
const TRANSPORT: &str = "transport-udp";

const TRANSPORT_HEAD: &str = "
Transport:  <TransportId........>  <Type>  <cos>  <tos>  <BindAddress....................>
==========================================================================================

";

fn transport_row(name: &str) -> String {
    format!("Transport:  {name:<21}  {:>6}  {:>5}  {:>5}  {PBX_ADDRESS}\n", "udp", 0, 0)
}

/// `pjsip show transport`: every option, in the order of their names, with Asterisk's defaults.
fn transport() -> String {
    use std::fmt::Write as _;

    let bind = PBX_ADDRESS.to_string();
    let options = [
        ("allow_reload", "false"),
        ("allow_wildcard_certs", "No"),
        ("async_operations", "1"),
        ("bind", bind.as_str()),
        ("ca_list_file", ""),
        ("ca_list_path", ""),
        ("cert_file", ""),
        ("cipher", ""),
        ("cos", "0"),
        ("domain", ""),
        ("external_media_address", ""),
        ("external_signaling_address", ""),
        ("external_signaling_port", "0"),
        ("local_net", ""),
        ("method", "unspecified"),
        ("password", ""),
        ("priv_key_file", ""),
        ("protocol", "udp"),
        ("require_client_cert", "No"),
        ("symmetric_transport", "false"),
        ("tcp_keepalive_enable", "false"),
        ("tcp_keepalive_idle_time", "30"),
        ("tcp_keepalive_interval_time", "1"),
        ("tcp_keepalive_probe_count", "5"),
        ("tos", "0"),
        ("verify_client", "No"),
        ("verify_server", "No"),
        ("websocket_write_timeout", "100"),
    ];
    let wide = |of: fn(&(&str, &str)) -> usize| options.iter().map(of).max().unwrap_or_default();
    let (name, value) = (wide(|(name, _)| name.len()), wide(|(_, value)| value.len()));
    let mut text = format!("{TRANSPORT_HEAD}{}\n", transport_row(TRANSPORT));
    let _ = writeln!(text, " {:<name$} : ParameterValue\n {}", "ParameterName", "=".repeat(name + 3 + value));
    for (option, set) in options {
        let _ = writeln!(text, " {option:<name$} : {set}");
    }
    text.push('\n');
    text
}

/// The table of `pjsip show registrations`, as in the recording: name and server URI share 53 characters and a slash.
fn registrations_table(plant: &Plant, now: Duration) -> String {
    use std::fmt::Write as _;

    let mut text = String::from(
        "\n <Registration/ServerURI..............................>  <Auth....................>  <Status.......>\n",
    );
    let mut count = 0_usize;
    let mut rows = String::new();
    for (r, client) in plant.registrations() {
        count += 1;
        let status = client.map_or("Unregistered", |client| client.status().as_str());
        let expires = client.map_or_else(|| "0".to_owned(), |client| expires(client.expires_in(now)));
        let auth = if r.outbound_auth.is_empty() { "n/a" } else { &r.outbound_auth };
        let _ = writeln!(rows, "{}", registration_row(&r.name, &r.server_uri, auth, status, &expires));
    }
    if count == 0 {
        return "No objects found.\n\n".to_owned();
    }
    let _ = write!(text, "{}\n\n{rows}\nObjects found: {count}\n\n", "=".repeat(90));
    text
}

pub(super) fn registration_row(
    name: &str,
    server_uri: &str,
    auth: &str,
    status: &str,
    expires: impl Display,
) -> String {
    let room = 53_usize.saturating_sub(name.len());
    let uri: String = server_uri.chars().take(room).collect();
    format!(" {name}/{uri:<room$}  {auth:<26}  {status:<16} {expires}")
}

pub(super) fn expires(seconds: i64) -> String {
    format!(" (exp. {}s{})", seconds.unsigned_abs(), if seconds < 0 { " ago" } else { "" })
}
