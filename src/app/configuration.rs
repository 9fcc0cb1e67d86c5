//! What a PBX's own configuration says of some registrations, read over AMI: once, when one of them fails.
//!
//! Separate from the watcher, which reads lists often and keeps no option; this is read rarely and kept for one
//! diagnosis, since it contains secrets. It asks for as little as answers the question: the registrations with their
//! auths (one list), the endpoints, and the transports the registrations leave by, which AMI has no list of, so the
//! console is asked.
//!
//! Nothing here fails: what Asterisk refuses, or does not answer in time, becomes a [`Gap`] that says what to do about
//! it, and a diagnosis is made of the rest.

use std::{collections::BTreeSet, fmt, future::Future};

use super::pbx::{Permission, Rights};
use crate::{
    api::problem::chain,
    ids::{EndpointName, RegistrationName},
    wire::{
        ami::{
            Action, Message,
            client::{CallError, LinkHandle, Reply},
        },
        pjsip::{
            Kind, Objects,
            ami::{Printed, SHOW_TRANSPORTS, show},
        },
    },
};

/// The most endpoints, and the most transports, that are read at once.
const MOST: usize = 64;

/// What could not be read, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigurationGaps(Vec<Gap>);

impl ConfigurationGaps {
    /// Whether all that was wanted was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each gap once, in the order they were met.
    pub fn iter(&self) -> impl Iterator<Item = &Gap> {
        self.0.iter()
    }

    /// The rights whose lack made gaps, as to be added to the user in `manager.conf`.
    #[must_use]
    pub fn rights(&self) -> Vec<&'static str> {
        let rights: BTreeSet<_> = self.0.iter().filter_map(|gap| gap.because.right()).collect();
        rights.into_iter().collect()
    }

    fn add(&mut self, unknown: impl Into<String>, because: Because) {
        let gap = Gap { unknown: unknown.into(), because };
        if !self.0.contains(&gap) {
            self.0.push(gap);
        }
    }
}

/// One thing that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// What is not known for that, as `endpoint airtel`.
    pub unknown: String,
    /// Why.
    pub because: Because,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} unknown: {}", self.unknown, self.because)
    }
}

/// Why something could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Because {
    /// The AMI user may not ask: the right to add.
    RightMissing(&'static str),
    /// Asterisk does not know the action: `res_pjsip` and its modules are not loaded.
    ModuleMissing,
    /// Asterisk refused, in its words.
    Refused(String),
    /// No answer in time, no link, or an answer too large.
    NoAnswer(String),
    /// The answer is not as known, or not whole.
    NotUnderstood,
    /// There are more than are read at once.
    TooMany,
}

impl Because {
    /// The right to add, if that is it.
    #[must_use]
    pub const fn right(&self) -> Option<&'static str> {
        match self {
            Self::RightMissing(right) => Some(right),
            Self::ModuleMissing | Self::Refused(_) | Self::NoAnswer(_) | Self::NotUnderstood | Self::TooMany => None,
        }
    }
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RightMissing(right) => {
                write!(f, "the AMI user may not ask for it; add {right} to its section in manager.conf")
            }
            Self::ModuleMissing => f.write_str("Asterisk does not know the action; is res_pjsip loaded?"),
            Self::Refused(text) => write!(f, "Asterisk refused: {text}"),
            Self::NoAnswer(error) => write!(f, "no answer: {error}"),
            Self::NotUnderstood => f.write_str("the answer is not as known, or not whole"),
            Self::TooMany => write!(f, "no more than {MOST} are read at once"),
        }
    }
}

const SYSTEM: &str = "write=system";
const REPORTING: &str = "write=reporting";
const COMMAND: &str = "write=command";

/// Reads what concerns some registrations.
///
/// `endpoints` are those that are known to belong to them; without any they are looked for by the registrations'
/// `endpoint=` and names. What `rights` says is denied on this connection is not tried again. Each action has the
/// link's own deadline; after the first that gets no answer nothing more is asked.
///
/// The objects contain secrets of the wanted registrations' auths only; other auths are there without theirs. With none wanted
/// they contain those of all, and neither endpoints nor transports: what each registers with can be remembered by that.
///
/// Cancel safety: only questions are asked, so it may be dropped at any time.
pub async fn read_configuration(
    link: &LinkHandle,
    wanted: &[RegistrationName],
    endpoints: &[EndpointName],
    rights: Rights,
) -> (Objects, ConfigurationGaps) {
    let ask = |action: Action| async move { link.call(&action).await };
    let wanted: Vec<&str> = wanted.iter().map(RegistrationName::as_str).collect();
    let endpoints: Vec<&str> = endpoints.iter().map(EndpointName::as_str).collect();
    read_with(ask, &wanted, &endpoints, rights).await
}

async fn read_with<A, F>(ask: A, wanted: &[&str], endpoints: &[&str], rights: Rights) -> (Objects, ConfigurationGaps)
where
    A: Fn(Action) -> F,
    F: Future<Output = Result<Reply, CallError>>,
{
    let mut reading =
        Reading { ask, rights, objects: Objects::default(), gaps: ConfigurationGaps::default(), silent: false };
    reading.registrations().await;
    reading.endpoints(wanted, endpoints).await;
    reading.transports(wanted).await;
    reading.auths(wanted).await;
    let Reading { mut objects, gaps, .. } = reading;
    if !wanted.is_empty() {
        forget_other_secrets(&mut objects, wanted);
    }
    (objects, gaps)
}

struct Reading<A> {
    ask: A,
    rights: Rights,
    objects: Objects,
    gaps: ConfigurationGaps,
    /// An action got no answer: more of them would only wait as long.
    silent: bool,
}

impl<A, F> Reading<A>
where
    A: Fn(Action) -> F,
    F: Future<Output = Result<Reply, CallError>>,
{
    async fn registrations(&mut self) {
        let right = self.rights.registrations;
        let action = Action::show_registrations_outbound();
        let Some(reply) = self.asked(action, "the registrations and their auths", REPORTING, right).await else {
            return;
        };
        let whole = is_whole(&reply);
        self.objects.take_registrations(&reply.items, whole);
        if !whole {
            self.gaps.add("some registrations", Because::NotUnderstood);
        }
    }

    async fn endpoints(&mut self, wanted: &[&str], known: &[&str]) {
        let mut asked = BTreeSet::new();
        let named = |objects: &Objects, wanted: &&str| objects.registrations.get(*wanted)?.endpoint.clone();
        let mut names: Vec<String> = known.iter().map(|&name| name.to_owned()).collect();
        names.extend(wanted.iter().filter_map(|wanted| named(&self.objects, wanted)));
        for name in names {
            self.endpoint(&name, &mut asked).await;
        }
        if !known.is_empty() {
            return;
        }
        // As the observer does: the endpoint of the registration's name, or of the name the wizard made it from.
        for wanted in wanted {
            if named(&self.objects, wanted).is_some() {
                continue;
            }
            self.endpoint(wanted, &mut asked).await;
            if self.objects.endpoint_of(wanted).is_none()
                && let Some((base, _)) = wanted.rsplit_once("-reg-")
            {
                self.endpoint(base, &mut asked).await;
            }
        }
    }

    async fn endpoint(&mut self, name: &str, asked: &mut BTreeSet<String>) {
        if !asked.insert(name.to_owned()) {
            return;
        }
        if asked.len() > MOST {
            self.gaps.add("some endpoints", Because::TooMany);
            return;
        }
        let unknown = format!("endpoint {name}, its AORs and identifies");
        let Ok(action) = Action::show_endpoint(name) else {
            self.gaps.add(unknown, Because::NotUnderstood);
            return;
        };
        let right = self.rights.contacts;
        let Some(reply) = self.asked(action, &unknown, SYSTEM, right).await else { return };
        self.objects.take_endpoint(&reply.items, &reply.injected, is_whole(&reply));
    }

    async fn transports(&mut self, wanted: &[&str]) {
        let mut listed = false;
        let detailed: BTreeSet<String> = self.objects.transports.keys().cloned().collect();
        let mut done = detailed;
        for wanted in wanted {
            let Some(registration) = self.objects.registrations.get(*wanted) else { continue };
            let name = match registration.transport.clone() {
                Some(name) => Some(name),
                None => {
                    self.all_transports(&mut listed).await;
                    self.objects.transport_of(wanted).map(|(name, _)| name.to_owned())
                }
            };
            let Some(name) = name else { continue };
            if !done.insert(name.clone()) {
                continue;
            }
            if done.len() > MOST {
                self.gaps.add("some transports", Because::TooMany);
                return;
            }
            self.transport(&name).await;
            if self.objects.is_missing(Kind::Transport, &name) {
                // The names there are, one of which was meant.
                self.all_transports(&mut listed).await;
            }
        }
    }

    async fn transport(&mut self, name: &str) {
        let unknown = format!("transport {name}");
        let Some(action) = show(Kind::Transport, name).and_then(|line| Action::command(&line).ok()) else {
            self.gaps.add(unknown, Because::Refused("its name cannot be given to the console".to_owned()));
            return;
        };
        let Some(reply) = self.asked(action, &unknown, COMMAND, self.rights.command).await else { return };
        match self.objects.take_printed(Kind::Transport, name, &reply.response) {
            Printed::Read | Printed::Absent => {}
            Printed::NotUnderstood => self.gaps.add(unknown, Because::NotUnderstood),
        }
    }

    async fn all_transports(&mut self, listed: &mut bool) {
        if std::mem::replace(listed, true) {
            return;
        }
        let Ok(action) = Action::command(SHOW_TRANSPORTS) else { return };
        let right = self.rights.command;
        let Some(reply) = self.asked(action, "the transports", COMMAND, right).await else { return };
        if !self.objects.take_transports(&reply.response) {
            self.gaps.add("the transports", Because::NotUnderstood);
        }
    }

    /// Only where one that is wanted does not exist: of the others the names are of use, one of which was meant.
    async fn auths(&mut self, wanted: &[&str]) {
        let objects = &self.objects;
        let is_missing = |wanted: &&str| objects.auths_of(wanted).iter().any(|(_, auth)| auth.is_none());
        if !wanted.iter().any(is_missing) {
            return;
        }
        let Ok(action) = Action::new("PJSIPShowAuths") else { return };
        let right = self.rights.contacts;
        let Some(reply) = self.asked(action, "the names of other auths", SYSTEM, right).await else { return };
        for item in &reply.items {
            self.objects.take(item);
        }
        self.objects.complete.auths = is_whole(&reply);
    }

    /// Asks, and notes why there is no answer. `right` is what was learned of the action before.
    async fn asked(&mut self, action: Action, unknown: &str, hint: &'static str, right: Permission) -> Option<Reply> {
        let because = match right {
            _ if self.silent => return None,
            Permission::Denied => Because::RightMissing(hint),
            Permission::Absent => Because::ModuleMissing,
            Permission::Untried | Permission::Granted => match (self.ask)(action).await {
                Ok(reply) => return Some(reply),
                // What does not exist is an answer.
                Err(CallError::Refused(response)) if self.objects.take_error(&response) => return None,
                Err(error) if error.is_permission_denied() => {
                    self.denied(hint);
                    Because::RightMissing(hint)
                }
                Err(error) if error.is_unknown_action() => Because::ModuleMissing,
                Err(CallError::Refused(response)) => {
                    Because::Refused(response.get("Message").unwrap_or_default().trim().to_owned())
                }
                Err(error @ CallError::TooLarge { .. }) => Because::NoAnswer(chain(&error)),
                Err(error @ (CallError::NotSent(_) | CallError::OutcomeUnknown(_))) => {
                    self.silent = true;
                    Because::NoAnswer(chain(&error))
                }
            },
        };
        self.gaps.add(unknown, because);
        None
    }

    /// Asterisk copies the rights at login, so it would say the same again.
    fn denied(&mut self, hint: &'static str) {
        match hint {
            SYSTEM => self.rights.contacts = Permission::Denied,
            COMMAND => self.rights.command = Permission::Denied,
            _ => {}
        }
    }
}

/// Whether a list came to its end, with as many items as Asterisk counted where it counts them all.
fn is_whole(reply: &Reply) -> bool {
    let Some(end) = &reply.complete else { return false };
    let ended = end.get("EventList").is_some_and(|word| word.eq_ignore_ascii_case("Complete"));
    let counted = end.get("ListItems").and_then(|count| count.trim().parse::<usize>().ok());
    // Registrations are counted without their auths, and endpoints with what belongs to them: the kinds differ, so that
    // fewer than counted is all that can be told.
    let items = reply.items.iter().filter(|item| Message::event(item).is_some()).count();
    ended && counted.is_none_or(|counted| items >= counted)
}

/// A secret that the question does not need is not kept while it is answered.
fn forget_other_secrets(objects: &mut Objects, wanted: &[&str]) {
    let needed: BTreeSet<String> = wanted
        .iter()
        .filter_map(|wanted| objects.registrations.get(*wanted))
        .flat_map(|registration| registration.outbound_auth.iter().cloned())
        .collect();
    for (name, auth) in &mut objects.auths {
        if !needed.contains(name) {
            auth.secrets.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::{Mutex, PoisonError},
    };

    use futures_util::FutureExt as _;

    use super::*;
    use crate::wire::ami::{
        client::{NotSent, OutcomeUnknown},
        codec::{DecodeLimits, Decoder, Frame},
    };

    /// Answers by what is asked for: the recordings of one Asterisk.
    struct Recorded {
        answers: BTreeMap<&'static str, Result<Reply, CallError>>,
        asked: Mutex<Vec<String>>,
    }

    fn messages(text: &str) -> Vec<Message> {
        let mut decoder = Decoder::new(DecodeLimits::default());
        for line in text.lines().filter(|line| !line.starts_with("##")) {
            decoder.feed(line.trim_end_matches('\r').as_bytes());
            decoder.feed(b"\r\n");
        }
        decoder.feed(b"\r\n");
        let next = || match decoder.next_frame().unwrap() {
            Some(Frame::Message(message)) => Some(message),
            Some(Frame::Banner(_)) | None => None,
        };
        std::iter::from_fn(next).collect()
    }

    /// The answer to the action of this id, taken apart as the session does.
    fn answer(text: &str, id: &str) -> Result<Reply, CallError> {
        let its = messages(text).into_iter().filter(|message| message.action_id().is_some_and(|own| own == id));
        let (mut responses, mut events): (Vec<_>, Vec<_>) = its.partition(|message| message.event().is_none());
        let response = responses.remove(0);
        if response.is_error() {
            return Err(CallError::Refused(Box::new(response)));
        }
        let complete = events.pop_if(|last| last.get("EventList").is_some());
        Ok(Reply { response, items: events, injected: responses, complete })
    }

    fn refused(text: &str) -> Result<Reply, CallError> {
        Err(CallError::Refused(Box::new(Message::from_text(&format!("Response: Error\nMessage: {text}\n")))))
    }

    fn recorded() -> Recorded {
        let registrations = include_str!("../../tests/fixtures/pjsip/ami-show-registrations-outbound.txt");
        let endpoint = include_str!("../../tests/fixtures/pjsip/ami-show-endpoint.txt");
        let without = include_str!("../../tests/fixtures/pjsip/ami-show-endpoint-without-transport.txt");
        let transport = include_str!("../../tests/fixtures/pjsip/ami-command-show-transport.txt");
        let transports = include_str!("../../tests/fixtures/pjsip/ami-command-show-transports.txt");
        let auths = include_str!("../../tests/fixtures/pjsip/ami-show-auths.txt");
        let answers = [
            ("PJSIPShowRegistrationsOutbound", answer(registrations, "1")),
            ("PJSIPShowEndpoint odd", answer(endpoint, "2")),
            ("PJSIPShowEndpoint gone", answer(without, "3")),
            ("PJSIPShowEndpoint", answer(without, "5")),
            ("PJSIPShowAuths", answer(auths, "6")),
            ("Command pjsip show transport nat", answer(transport, "7")),
            ("Command pjsip show transport udp", answer(&transport.replace("nat ", "udp "), "7")),
            ("Command pjsip show transport \"name with space\"", answer(transport, "9")),
            ("Command pjsip show transport nope", answer(transport, "10")),
            ("Command pjsip show transports", answer(transports, "12")),
        ];
        Recorded { answers: answers.into(), asked: Mutex::default() }
    }

    impl Recorded {
        fn with(mut self, action: &'static str, answer: Result<Reply, CallError>) -> Self {
            self.answers.retain(|known, _| !known.starts_with(action));
            self.answers.insert(action, answer);
            self
        }

        fn ask(&self, action: &Action) -> Result<Reply, CallError> {
            let wire = action.encode("id").unwrap();
            let sent = Message::from_text(std::str::from_utf8(&wire).unwrap());
            let about = sent.get("Endpoint").or_else(|| sent.get("Command")).unwrap_or_default();
            let asked = format!("{} {about}", action.name()).trim_end().to_owned();
            self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked.clone());
            let found = self.answers.get(asked.as_str()).or_else(|| self.answers.get(action.name()));
            found.cloned().unwrap_or_else(|| panic!("{asked} is not expected"))
        }

        fn read(&self, wanted: &[&str], endpoints: &[&str], rights: Rights) -> (Objects, ConfigurationGaps) {
            let ask = |action: Action| std::future::ready(self.ask(&action));
            read_with(ask, wanted, endpoints, rights).now_or_never().expect("answers are there")
        }

        fn asked(&self) -> Vec<String> {
            self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }
    }

    #[test]
    fn all_that_concerns_a_registration_is_read_with_as_few_questions_as_can_be() {
        let pbx = recorded();
        let (objects, gaps) = pbx.read(&["odd2-reg"], &["odd"], Rights::default());
        assert!(gaps.is_empty(), "{gaps:?}");
        let asked = ["PJSIPShowRegistrationsOutbound", "PJSIPShowEndpoint odd", "Command pjsip show transport udp"];
        assert_eq!(pbx.asked(), asked);
        assert!(objects.transport_of("odd2-reg").is_some_and(|(name, it)| name == "udp" && it.bind.is_some()));
        assert_eq!(objects.identifies_of("odd").len(), 2);
        assert_eq!(objects.auths_of("odd2-reg").len(), 2);
        // Of the wanted one only; `odd-auth` is another registration's.
        let kept: Vec<_> =
            objects.auths.iter().filter(|(_, auth)| !auth.secrets.is_empty()).map(|(name, _)| name.as_str()).collect();
        assert_eq!(kept, ["both", "both2"]);
    }

    #[test]
    fn the_endpoint_is_looked_for_by_what_the_registration_names_and_by_its_name() {
        let pbx = recorded();
        let (objects, gaps) = pbx.read(&["odd-reg"], &[], Rights::default());
        assert!(gaps.is_empty(), "{gaps:?}");
        assert_eq!(objects.endpoint_of("odd-reg").map(|(name, _)| name), Some("odd"));
        assert_eq!(pbx.asked()[1], "PJSIPShowEndpoint odd");

        let pbx = recorded();
        let (objects, gaps) = pbx.read(&["odd2-reg"], &[], Rights::default());
        assert_eq!(pbx.asked()[1], "PJSIPShowEndpoint odd2-reg");
        // It does not exist, which is an answer and no gap.
        assert!(objects.endpoint_of("odd2-reg").is_none() && gaps.is_empty(), "{gaps:?}");
    }

    #[test]
    fn an_auth_that_does_not_exist_is_told_and_the_names_of_the_others_with_it() {
        let pbx = recorded();
        let (objects, gaps) = pbx.read(&["odd-reg"], &["odd"], Rights::default());
        assert_eq!(pbx.asked().last().map(String::as_str), Some("PJSIPShowAuths"));
        assert!(gaps.is_empty() && objects.complete.auths, "{gaps:?}");
        assert!(objects.is_missing(Kind::Auth, "missing-auth"));
        assert!(objects.auths.contains_key("two-digests") && objects.auths["two-digests"].secrets.is_empty());
        assert!(!objects.auths["odd-auth"].secrets.is_empty());
    }

    #[test]
    fn each_right_that_is_missing_leaves_a_gap_that_names_it_and_the_rest_is_read() {
        let weak = include_str!("../../tests/fixtures/pjsip/ami-refusals.txt");
        let pbx = recorded()
            .with("PJSIPShowEndpoint", answer(weak, "15"))
            .with("Command", answer(weak, "16"))
            .with("PJSIPShowAuths", answer(weak, "17"));
        let (objects, gaps) = pbx.read(&["odd-reg", "odd2-reg"], &["odd", "other"], Rights::default());
        assert_eq!(gaps.rights(), ["write=command", "write=system"]);
        assert_eq!(objects.registrations.len(), 3);
        assert!(objects.is_missing(Kind::Auth, "missing-auth"), "the registrations' list tells it alone");
        let asked = pbx.asked();
        let expected = ["PJSIPShowRegistrationsOutbound", "PJSIPShowEndpoint odd", "Command pjsip show transport udp"];
        assert_eq!(asked, expected, "a right that is denied is not tried again");
        let said: Vec<_> = gaps.iter().map(ToString::to_string).collect();
        assert!(said[0].starts_with("endpoint odd, its AORs and identifies unknown:"), "{said:?}");
        assert!(said[0].ends_with("add write=system to its section in manager.conf"), "{said:?}");

        let denied = Rights { registrations: Permission::Denied, ..Rights::default() };
        let pbx = recorded();
        let (objects, gaps) = pbx.read(&["odd-reg"], &["odd"], denied);
        assert_eq!((gaps.rights(), objects.registrations.len()), (vec!["write=reporting"], 0));
        assert_eq!(pbx.asked(), ["PJSIPShowEndpoint odd"]);
    }

    #[test]
    fn what_is_not_answered_is_a_gap_and_nothing_more_is_asked() {
        for error in [CallError::OutcomeUnknown(OutcomeUnknown::Deadline), CallError::NotSent(NotSent::NotReady)] {
            let pbx = recorded().with("PJSIPShowEndpoint", Err(error));
            let (objects, gaps) = pbx.read(&["odd-reg"], &[], Rights::default());
            assert_eq!((pbx.asked().len(), gaps.iter().count()), (2, 1));
            assert!(gaps.iter().all(|gap| matches!(gap.because, Because::NoAnswer(_))), "{gaps:?}");
            assert!(objects.registrations.contains_key("odd-reg"));
        }
    }

    #[test]
    fn a_missing_module_a_refusal_and_odd_text_are_gaps() {
        let because = |action, answer| {
            let (_, gaps) = recorded().with(action, answer).read(&["odd2-reg"], &["odd"], Rights::default());
            gaps.iter().map(|gap| gap.because.clone()).collect::<Vec<_>>()
        };
        let unknown = refused("Invalid/unknown command: PJSIPShowEndpoint. Use Action: ListCommands");
        assert_eq!(because("PJSIPShowEndpoint", unknown), [Because::ModuleMissing]);
        assert_eq!(because("PJSIPShowEndpoint", refused("No.")), [Because::Refused("No.".to_owned())]);
        let odd = Reply {
            response: Message::from_text("Response: Success\nOutput: something else\n"),
            items: Vec::new(),
            injected: Vec::new(),
            complete: None,
        };
        assert_eq!(because("Command", Ok(odd.clone())), [Because::NotUnderstood]);
        assert_eq!(because("PJSIPShowRegistrationsOutbound", Ok(odd)), [Because::NotUnderstood]);
    }

    #[test]
    fn without_a_transport_of_its_own_the_first_of_its_protocol_is_read() {
        let list = include_str!("../../tests/fixtures/pjsip/ami-show-registrations-outbound.txt");
        let pbx = recorded()
            .with("PJSIPShowRegistrationsOutbound", answer(&list.replace("Transport: udp", "Transport: "), "1"));
        let (objects, gaps) = pbx.read(&["odd2-reg"], &["gone"], Rights::default());
        let asked = pbx.asked();
        assert_eq!(asked[2], "Command pjsip show transports");
        assert_eq!(asked[3], "Command pjsip show transport \"name with space\"");
        assert!(objects.complete.transports && objects.is_missing(Kind::Transport, "not-there"), "{gaps:?}");
    }

    #[test]
    fn a_transport_that_does_not_exist_is_told_with_the_names_of_those_that_do() {
        let list = include_str!("../../tests/fixtures/pjsip/ami-show-registrations-outbound.txt");
        let with = |transport: &str| {
            let list = list.replace("Transport: udp", &format!("Transport: {transport}"));
            recorded().with("PJSIPShowRegistrationsOutbound", answer(&list, "1"))
        };
        let (objects, gaps) = with("nope").read(&["odd2-reg"], &["odd"], Rights::default());
        assert!(objects.is_missing(Kind::Transport, "nope") && gaps.is_empty(), "{gaps:?}");
        assert!(objects.complete.transports && objects.transports.len() == 7);

        let pbx = with("x\" y");
        let (_, gaps) = pbx.read(&["odd2-reg"], &["odd"], Rights::default());
        assert_eq!(pbx.asked().len(), 2, "the console was not asked");
        assert_eq!(gaps.iter().count(), 1);
    }
}
