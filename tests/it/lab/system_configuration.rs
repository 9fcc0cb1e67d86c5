//! The PBX's configuration, read over AMI and read from its files, says the same; and says what is wrong with it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use tokio::runtime::Runtime;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use trunkwarden::app::configuration::{ConfigurationGaps, read_configuration};
use trunkwarden::app::pbx::Rights;
use trunkwarden::clock::{SystemClock, between};
use trunkwarden::ids::{EndpointName, RegistrationName};
use trunkwarden::wire::ami::client::{AmiLink, AmiSettings, LinkEvents, LinkHandle, LinkPhase, TcpTransport};
use trunkwarden::wire::pjsip::{Auth, Kind, Objects, conf};
use trunkwarden::wire::sip::digest::Secret;

use super::program::now;
use super::{Instance, Lab};

/// A link of the test's own to the PBX; it ends when it is dropped.
struct Asking {
    runtime: Runtime,
    link: LinkHandle,
    tracker: TaskTracker,
    stop: CancellationToken,
    _events: LinkEvents,
}

impl Asking {
    fn start(lab: &Lab, user: &str) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let address = lab.ami_address().to_string();
        let settings = AmiSettings::new("pbx1", address.clone(), user, lab.secret(user).into());
        let transport = Arc::new(TcpTransport::new(address, &settings.tls).expect("a transport"));
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let entered = runtime.enter();
        let (link, events) = AmiLink::start(settings, transport, Arc::new(SystemClock), &tracker, stop.clone());
        drop(entered);
        let mut phase = link.phase();
        let ready = phase.wait_for(|phase| *phase == LinkPhase::Ready);
        let waited = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), ready).await.map(|_| ()) });
        waited.expect("a link");
        Self { runtime, link, tracker, stop, _events: events }
    }

    fn read(&self, registrations: &[&str], endpoints: &[&str]) -> (Objects, ConfigurationGaps) {
        let wanted: Vec<_> = registrations.iter().map(|&it| RegistrationName::try_from(it).expect("a name")).collect();
        let endpoints: Vec<_> = endpoints.iter().map(|&it| EndpointName::try_from(it).expect("a name")).collect();
        self.runtime.block_on(read_configuration(&self.link, &wanted, &endpoints, Rights::default()))
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.stop.cancel();
        self.tracker.close();
        self.runtime.block_on(self.tracker.wait());
    }
}

/// The objects of an instance's own files; no problem is expected of them.
fn from_files(etc: &Path) -> Objects {
    let mut all = Objects::default();
    for name in ["pjsip.conf", "pjsip_wizard.conf"] {
        let (objects, problems) = with_includes(etc, name);
        assert!(problems.is_empty(), "{problems:#?}");
        all.registrations.extend(objects.registrations);
        all.auths.extend(objects.auths);
        all.endpoints.extend(objects.endpoints);
        all.aors.extend(objects.aors);
        all.transports.extend(objects.transports);
    }
    all
}

fn with_includes(etc: &Path, name: &str) -> (Objects, Vec<conf::ConfProblem>) {
    let text = std::fs::read(etc.join(name)).expect("a file of the lab");
    let mut include = |path: &str| {
        let folder = path.strip_suffix("/*.conf").ok_or("the lab writes no other pattern")?;
        let entries = std::fs::read_dir(etc.join(folder)).map_err(|error| error.to_string())?;
        let mut names: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        names.retain(|path| path.extension().is_some_and(|end| end == "conf"));
        names.sort();
        let read = |path: &std::path::PathBuf| Some((path.display().to_string(), std::fs::read(path).ok()?));
        Ok(names.iter().filter_map(read).collect())
    };
    conf::read(name, &text, &mut include)
}

fn secrets(auth: &Auth) -> Vec<String> {
    let plain = |secret: &Secret| match secret {
        Secret::Password(word) => word.expose_secret().to_owned(),
        Secret::Ha1(algorithm, hash) => format!("{algorithm:?} {}", hash.expose_secret()),
    };
    auth.secrets.iter().map(plain).collect()
}

#[test]
fn the_labs_files_say_what_its_asterisk_says_of_each_registration() {
    let Some(lab) = Lab::shared() else { return };
    let files = from_files(&lab.addresses(Instance::Pbx).etc);
    let asking = Asking::start(lab, "trunkwarden");
    let names: Vec<&str> = files.registrations.keys().map(String::as_str).collect();
    let began = now();
    let (asterisk, gaps) = asking.read(&names, &[]);
    eprintln!("MEASURED the configuration of {} registrations in {:?}", names.len(), between(began, now()));
    assert!(gaps.is_empty(), "{gaps:?}");
    assert!(asterisk.remarks.is_empty(), "{:?}", asterisk.remarks);
    assert!(asterisk.complete.registrations && names.len() > 25);

    assert!(files.registrations.keys().eq(asterisk.registrations.keys()));
    for (name, own) in &files.registrations {
        let its = &asterisk.registrations[name];
        assert_eq!((&own.client_uri, &own.server_uri), (&its.client_uri, &its.server_uri), "{name}");
        assert_eq!((&own.transport, &own.outbound_auth), (&its.transport, &its.outbound_auth), "{name}");
        assert_eq!((&own.contact_user, &own.endpoint), (&its.contact_user, &its.endpoint), "{name}");
        assert_eq!(own.line.unwrap_or(false), its.line.expect("a word"), "{name}");
        assert!(own.retry_interval.is_none_or(|own| Some(own) == its.retry_interval), "{name}");
        assert!(own.max_retries.is_none_or(|own| Some(own) == its.max_retries), "{name}");
        let same = |objects: &Objects| objects.registration_by_uris(&its.client_uri, &its.server_uri).len();
        assert!(same(&files) >= 1 && same(&files) == same(&asterisk), "{name}");
        let endpoint = |objects: &Objects| objects.endpoint_of(name).map(|(name, _)| name.to_owned());
        // That an endpoint shares an auth is not asked for, one by one.
        if name != "shared-out" {
            assert_eq!(endpoint(&files), endpoint(&asterisk), "{name}");
        }
        let leaves_by =
            |objects: &Objects| objects.transport_of(name).map(|(name, it)| (name.to_owned(), it.bind.clone()));
        assert!(leaves_by(&files).is_some() && leaves_by(&files) == leaves_by(&asterisk), "{name}");
    }
    // All but that of an endpoint which no registration is for.
    let unasked: Vec<_> = files.auths.keys().filter(|name| !asterisk.auths.contains_key(*name)).collect();
    assert_eq!(unasked, ["unregistered-auth"]);
    for (name, its) in &asterisk.auths {
        let own = &files.auths[name];
        assert_eq!((&own.username, &own.realm), (&its.username, &its.realm), "{name}");
        assert!(!own.secrets.is_empty() && secrets(own) == secrets(its), "{name}");
    }
    assert!(asterisk.endpoints.len() > 20);
    for (name, its) in &asterisk.endpoints {
        let own = &files.endpoints[name];
        assert_eq!((&own.aors, &own.outbound_auth), (&its.aors, &its.outbound_auth), "{name}");
        assert_eq!((&own.transport, &own.from_user), (&its.transport, &its.from_user), "{name}");
    }
    for (name, its) in &asterisk.aors {
        assert_eq!(files.aors[name].contacts, its.contacts, "{name}");
    }
    let (shared, gaps) = asking.read(&["shared-out"], &["shared-auth"]);
    assert!(gaps.is_empty() && shared.endpoint_of("shared-out").is_some_and(|(name, _)| name == "shared-auth"));
}

#[test]
fn a_user_who_may_only_ask_for_registrations_gets_them_and_is_told_the_rest() {
    let Some(lab) = Lab::shared() else { return };
    let asking = Asking::start(lab, "weak");
    let (objects, gaps) = asking.read(&["ok", "over-tcp"], &[]);
    assert_eq!(gaps.rights(), ["write=command", "write=system"]);
    assert!(objects.complete.registrations && objects.endpoints.is_empty() && objects.transports.is_empty());
    assert_eq!(objects.auths_of("ok").len(), 1);
    let kept = objects.auths.values().filter(|auth| !auth.secrets.is_empty()).count();
    assert_eq!(kept, 2, "no secret but those of the registrations asked for");
}

/// What is wrong on purpose; each was found to be taken this way by Asterisk 22.10.1.
const ODD: &str = "\
[odd](!)
type=registration
retry_interval=600
[odd-typo](odd)
client_uri=sip:odd-typo@127.0.0.1:9
server_uri=sip:127.0.0.1:9;transport=tcp
outbound_auth=odd-auht
[odd-transport](odd)
client_uri=sip:odd-transport@127.0.0.1:9
server_uri=sip:127.0.0.1:9
transport=upd
outbound_auth=odd-auth
[odd-lost](odd)
client_uri=sip:odd-lost@127.0.0.1:9
server_url=sip:127.0.0.1:9
[odd-auth]
type=auth
auth_type=userpass
username=odd
password=odd-first;odd-second
[odd-auth-2]
type=auth
username=odd
pasword=odd-third
";

#[test]
fn what_is_wrong_with_a_configuration_is_found_over_ami_and_in_the_file() {
    let Some(lab) = Lab::bare() else { return };
    lab.put(Instance::Pbx, "pjsip.d/odd.conf", ODD);
    lab.stop(Instance::Pbx);
    lab.start_again(Instance::Pbx);
    let asking = Asking::start(&lab, "trunkwarden");
    let (asterisk, gaps) = asking.read(&["odd-typo", "odd-transport", "odd-lost"], &[]);
    assert!(gaps.is_empty(), "{gaps:?}");
    let (files, problems) = with_includes(&lab.addresses(Instance::Pbx).etc, "pjsip.conf");

    for objects in [&asterisk, &files] {
        assert!(objects.is_missing(Kind::Auth, "odd-auht") && !objects.is_missing(Kind::Auth, "odd-auth"));
        assert!(objects.is_missing(Kind::Transport, "upd") && objects.transports.contains_key("udp"));
        assert!(objects.transport_of("odd-transport").is_none());
        assert_eq!(objects.registrations["odd-typo"].server_uri, "sip:127.0.0.1:9");
        assert_eq!(secrets(objects.auths_of("odd-transport")[0].1.expect("its auth")), ["odd-first"]);
        let shown = format!("{objects:?} {problems:?}");
        assert!(!["odd-first", "odd-second", "odd-third"].iter().any(|secret| shown.contains(secret)), "{shown}");
    }
    // The names that were meant.
    assert!(asterisk.auths.contains_key("odd-auth"));
    // Asterisk leaves out what it does not understand; the file's reader says so and where.
    assert!(asterisk.is_missing(Kind::Registration, "odd-lost") && asterisk.is_missing(Kind::Auth, "odd-auth-2"));
    let said: Vec<_> = problems.iter().map(ToString::to_string).collect();
    for wanted in [
        "odd.conf line 6: the \";\" in server_uri",
        "odd.conf line 15: server_url is no option of type=registration in Asterisk 22 (is server_uri meant?)",
        "odd.conf line 20: the \";\" in password",
        "odd.conf line 24: pasword is no option of type=auth in Asterisk 22 (is password meant?)",
    ] {
        assert!(said.iter().any(|problem| problem.contains(wanted)), "{wanted}: {said:#?}");
    }
}
