//! The observer told as histories: recorded ones, and those that pin its rules down.

use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;

use super::{
    ContactStatus, DeclaredTrunk, Fact, ListedContact, Lists, NextAttempt, Observation, Observer, PbxFact,
    RegistrationState, Request, Sighting, Source, Ticket, Told,
};
use crate::{
    clock::Timestamp,
    ids::{PbxId, TrunkId},
    wire::ami::{AmiEvent, Message, event::OutboundRegistrationDetail, registrations_cli},
};

use RegistrationState::{Registered, Rejected, Unregistered};

fn t(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(1_800_000_000_000 + millis).unwrap()
}

fn event(text: &str) -> AmiEvent {
    AmiEvent::try_from(&Message::from_text(text)).unwrap()
}

fn registry(client: &str, server: &str, status: &str) -> AmiEvent {
    let text = format!("Event: Registry\nChannelType: PJSIP\nUsername: {client}\nDomain: {server}\nStatus: {status}\n");
    event(&text)
}

/// The event of the registration `name` as [`detail`] makes it.
fn attempt(name: &str, status: &str) -> AmiEvent {
    registry(&format!("sip:{name}@carrier"), "sip:carrier", status)
}

fn detail_text(name: &str, client: &str, server: &str, status: &str) -> OutboundRegistrationDetail {
    let text = format!(
        "Event: OutboundRegistrationDetail\nObjectName: {name}\nClientUri: {client}\nServerUri: {server}\n\
         Expiration: 60\nRetryInterval: 5\nEndpoint: {name}\nStatus: {status}\n"
    );
    OutboundRegistrationDetail::read(&Message::from_text(&text)).unwrap()
}

fn detail(name: &str, status: &str) -> OutboundRegistrationDetail {
    detail_text(name, &format!("sip:{name}@carrier"), "sip:carrier", status)
}

fn endpoint(name: &str) -> crate::wire::ami::event::EndpointList {
    let text = format!("Event: EndpointList\nObjectName: {name}\nAor: {name}\n");
    crate::wire::ami::event::EndpointList::read(&Message::from_text(&text)).unwrap()
}

fn contact(aor: &str, status: &str, rtt: &str) -> ListedContact {
    let text = format!(
        "Event: ContactStatusDetail\nAOR: {aor}\nURI: sip:{aor}:5060\nStatus: {status}\nRoundtripUsec: {rtt}\n"
    );
    ListedContact::read(&aor.try_into().unwrap(), &Message::from_text(&text)).unwrap()
}

/// With these contacts, each of the endpoint of its AOR's name.
fn with_contacts(mut lists: Lists, contacts: &[ListedContact]) -> Lists {
    let of = lists.endpoints.iter().flatten().map(|one| one.object_name.as_str().try_into().unwrap());
    lists.contacts_of = of.collect();
    lists.contacts = contacts.to_vec();
    lists
}

fn contact_event(aor: &str, status: &str, rtt: &str) -> AmiEvent {
    event(&format!(
        "Event: ContactStatus\nURI: sip:{aor}:5060\nContactStatus: {status}\nAOR: {aor}\nEndpointName: {aor}\n\
         RoundtripUsec: {rtt}\n"
    ))
}

/// Lists of registrations, each with an endpoint of its name.
fn lists(registrations: &[(&str, &str)]) -> Lists {
    Lists {
        registrations: registrations.iter().map(|(name, status)| detail(name, status)).collect(),
        endpoints: Some(registrations.iter().map(|(name, _)| endpoint(name)).collect()),
        ..Lists::default()
    }
}

fn observer() -> Observer {
    Observer::new(PbxId::try_from("pbx1").unwrap(), Vec::new(), Duration::from_secs(30))
}

/// An observer that is connected and has read these lists; the time is 0.
fn listed(first: &Lists) -> Observer {
    let mut observer = observer();
    let _ = observer.connected(t(0), "11.0.0");
    let ticket = resync(&observer.ready(t(0)));
    let _ = observer.listed(t(0), ticket, first);
    observer
}

fn resync(told: &Told) -> Ticket {
    match told.requests.as_slice() {
        [Request::Resync(ticket)] => *ticket,
        other => panic!("wanted a resync, got {other:?}"),
    }
}

fn list(told: &Told) -> Ticket {
    match told.requests.as_slice() {
        [Request::List(ticket)] => *ticket,
        other => panic!("wanted a list, got {other:?}"),
    }
}

/// Ticks every 100 ms until something is wanted.
fn wait_for_request(observer: &mut Observer, from: i64, until: i64) -> (i64, Told) {
    for now in (from..=until).step_by(100) {
        let told = observer.tick(t(now));
        if !told.requests.is_empty() {
            return (now, told);
        }
        assert_eq!(told.sightings, [], "at {now}");
    }
    panic!("nothing was wanted until {until}");
}

/// Facts in a word each.
fn said(told: &Told) -> Vec<String> {
    let word = |sighting: &Sighting| match sighting {
        Sighting::Pbx { fact, .. } => match fact {
            PbxFact::Connected { version } => format!("connected {version}"),
            PbxFact::Lost { .. } => "lost".to_owned(),
            PbxFact::Unreachable { error } => format!("unreachable: {error}"),
            PbxFact::Refused { .. } => "refused".to_owned(),
            PbxFact::Listed { trunks } => {
                format!("listed {}", trunks.iter().map(|one| one.id.name()).collect::<Vec<_>>().join(" "))
            }
            PbxFact::Reloaded => "reloaded".to_owned(),
            PbxFact::ShutDown { restart } => format!("shutdown restart={restart}"),
            PbxFact::Deaf { missed } => format!("deaf: {missed}"),
            PbxFact::Recording { on } => format!("recording: {on}"),
        },
        Sighting::Seen(Observation { trunk, fact, .. }) => {
            let trunk = trunk.name();
            match fact {
                Fact::Registration { registration, state, source } => {
                    let source = match source {
                        Source::Event => "event",
                        Source::List => "list",
                    };
                    assert_eq!(registration.as_str().split("-reg").next(), Some(trunk));
                    format!("{trunk} {} {source}", state.as_str())
                }
                Fact::Parameters { parameters, .. } => format!(
                    "{trunk} parameters {}{}",
                    parameters.expiration.as_secs(),
                    if parameters.heartbeat { "" } else { " no heartbeat" }
                ),
                Fact::NextAttempt { state, next, .. } => match next {
                    NextAttempt::In(time) => format!("{trunk} {} next in {}", state.as_str(), time.as_secs()),
                    NextAttempt::Ago(time) => format!("{trunk} {} overdue {}", state.as_str(), time.as_secs()),
                },
                Fact::RegistrationRemoved { registration } => format!("{trunk} removed {registration}"),
                Fact::Contact { contact, status, .. } => format!("{trunk} contact {contact} {}", status.as_str()),
                Fact::ContactRemoved { contact } => format!("{trunk} contact removed {contact}"),
                Fact::Declared | Fact::Started { .. } | Fact::LinkLost { .. } | Fact::Listed { .. } | Fact::Tick => {
                    panic!("not the observer's to say: {fact:?}")
                }
            }
        }
    };
    told.sightings.iter().map(word).collect()
}

/// A recorded session: the messages, each with the last `## time` before it, in milliseconds of its own.
fn recorded(text: &str) -> Vec<(Option<i64>, Message)> {
    let mut at = None;
    let mut messages = Vec::new();
    for block in text.split("\n\n") {
        let mut lines = String::new();
        for line in block.lines() {
            if let Some(time) = line.strip_prefix("## ") {
                at = time.split_whitespace().find_map(|word| word.parse::<f64>().ok()).map(|s| (s * 1000.0) as i64);
            } else if !line.starts_with('#') && !line.starts_with("Asterisk Call") && !line.starts_with("b'") {
                lines.push_str(line);
                lines.push('\n');
            }
        }
        if !lines.trim().is_empty() {
            messages.push((at, Message::from_text(&lines)));
        }
    }
    messages
}

fn fixture(name: &str) -> String {
    let path = format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap().replace("\r\n", "\n")
}

#[test]
fn the_recorded_list_gives_ten_trunks_and_their_events_find_them() {
    let messages = recorded(&fixture("ami-registrations.txt"));
    let details: Vec<_> =
        messages.iter().filter_map(|(_, message)| OutboundRegistrationDetail::read(message).ok()).collect();
    assert_eq!(details.len(), 10);
    let endpoints = details.iter().map(|detail| endpoint(&detail.object_name)).collect();
    let cli = recorded(&fixture("ami-command-show-registrations.txt"));
    let table = cli.iter().find(|(_, message)| message.get("Output").is_some()).unwrap();
    let first = Lists {
        registrations: details,
        endpoints: Some(endpoints),
        cli: Some(registrations_cli::parse(&table.1)),
        ..Lists::default()
    };
    let mut observer = observer();
    let _ = observer.connected(t(0), "11.0.0");
    let ticket = resync(&observer.ready(t(0)));
    let told = observer.listed(t(40), ticket, &first);
    let words = said(&told);
    assert_eq!(words.len(), 31, "{words:#?}");
    assert_eq!(words.iter().filter(|word| word.ends_with("rejected list")).count(), 8);
    assert!(words.contains(&"trunk-ok registered next in 49".to_owned()), "{words:#?}");
    assert!(words.contains(&"trunk-refused rejected overdue 7".to_owned()), "{words:#?}");
    assert!(words[30].starts_with("listed trunk-403 trunk-503"), "{words:#?}");
    assert_eq!(observer.findings(), []);

    let after = messages.iter().skip_while(|(_, message)| !message.is_event("OutboundRegistrationDetailComplete"));
    let mut heard = Vec::new();
    for (_, message) in after {
        heard.extend(said(&observer.heard(t(100), &AmiEvent::try_from(message).unwrap())));
    }
    let rejected = ["trunk-realm", "trunk-baduser", "trunk-badpass", "trunk-403"];
    assert_eq!(heard, rejected.map(|trunk| format!("{trunk} rejected event")));
}

#[test]
fn after_a_connection_everything_is_said_then_that_it_was_listed() {
    let mut observer = observer();
    assert_eq!(said(&observer.connected(t(0), "11.0.0")), ["connected 11.0.0"]);
    let ticket = resync(&observer.ready(t(10)));
    let first = with_contacts(
        lists(&[("a", "Registered"), ("b", "Rejected")]),
        &[contact("a", "Reachable", "1200"), contact("phone", "Reachable", "1200")],
    );
    let told = observer.listed(t(20), ticket, &first);
    let all = [
        "a parameters 60",
        "a registered list",
        "b parameters 60",
        "b rejected list",
        "a contact sip:a:5060 reachable",
        "listed a b",
    ];
    assert_eq!(said(&told), all);
    // The same again after a loss; and nothing at all where nothing changed.
    assert_eq!(said(&observer.lost(t(1000), t(900), "closed")), ["lost"]);
    let _ = observer.connected(t(2000), "11.0.0");
    let ticket = resync(&observer.ready(t(2100)));
    assert_eq!(said(&observer.listed(t(2200), ticket, &first)), all);
    let (now, told) = wait_for_request(&mut observer, 2300, 40_000);
    assert_eq!(now, 32_100);
    assert_eq!(said(&observer.listed(t(now), resync(&told), &first)), Vec::<String>::new());
}

#[test]
fn an_unregistered_event_has_the_list_read_within_a_second() {
    let mut observer = listed(&lists(&[("a", "Registered")]));
    let told = observer.heard(t(5000), &attempt("a", "Unregistered"));
    assert_eq!(said(&told), ["a unregistered event"]);
    let (now, told) = wait_for_request(&mut observer, 5000, 6000);
    assert!(now <= 6000);
    // As it is after PJSIPRegister: the list agrees, nothing to add.
    let told = observer.states(t(now), list(&told), &[detail("a", "Unregistered")]);
    assert_eq!(told, Told::default());
}

#[test]
fn a_replaced_objects_late_unregistered_is_corrected_by_the_list() {
    // The recording's third part: the trunk is up since 31 s when its predecessor's un-REGISTER times out.
    let uri = "sip:nounreg@127.0.0.1:6091";
    let server = "sip:127.0.0.1:6091";
    let now = detail_text("nounreg", uri, server, "Registered");
    let first =
        Lists { registrations: vec![now.clone()], endpoints: Some(vec![endpoint("nounreg")]), ..Lists::default() };
    let mut observer = observer();
    let messages = recorded(&fixture("ami-reload.txt"));
    let part: Vec<_> = messages.iter().filter(|(at, _)| at.is_some_and(|at| at >= 1_795_374_868_000)).collect();
    let zero = part[0].0.unwrap();
    let _ = observer.connected(t(0), "11.0.0");
    let mut ticket = Some(resync(&observer.ready(t(0))));
    let mut words = Vec::new();
    let mut events = part.iter().peekable();
    for millis in (0..40_000).step_by(50) {
        let mut told = Vec::new();
        while let Some((at, message)) = events.next_if(|(at, _)| at.unwrap() - zero <= millis) {
            let _ = at;
            told.push(observer.heard(t(millis), &AmiEvent::try_from(message).unwrap()));
        }
        told.push(observer.tick(t(millis)));
        if let Some(ticket) = ticket.take() {
            told.push(observer.listed(t(millis), ticket, &first));
        }
        for one in &told {
            words.extend(said(one).into_iter().map(|word| format!("{:.1} {word}", millis as f64 / 1000.0)));
        }
        for request in told.iter().flat_map(|one| &one.requests) {
            match request {
                Request::Resync(asked) => ticket = Some(*asked),
                Request::List(asked) => {
                    let told = observer.states(t(millis), *asked, std::slice::from_ref(&now));
                    words.extend(said(&told).into_iter().map(|word| format!("{:.1} {word}", millis as f64 / 1000.0)));
                }
                Request::Qualify(_) | Request::DropFilters => panic!("{request:?}"),
            }
        }
    }
    assert_eq!(
        words,
        [
            "0.0 nounreg parameters 60",
            "0.0 nounreg registered list",
            "0.0 listed nounreg",
            "0.0 nounreg registered event",
            "3.2 reloaded",
            "3.5 listed nounreg",
            "4.2 nounreg registered event",
            "35.2 nounreg unregistered event",
            "35.5 nounreg registered list",
        ]
    );
}

#[test]
fn what_a_reload_removes_is_said_to_be_gone() {
    let first = with_contacts(lists(&[("a", "Registered"), ("b", "Registered")]), &[contact("b", "Reachable", "900")]);
    let mut observer = listed(&first);
    let reload = event("Event: Reload\nModule: res_pjsip.so\nStatus: 0\n");
    assert_eq!(said(&observer.heard(t(1000), &reload)), ["reloaded"]);
    assert_eq!(said(&observer.heard(t(1001), &attempt("b", "Unregistered"))), ["b unregistered event"]);
    let (now, told) = wait_for_request(&mut observer, 1000, 2200);
    let told = observer.listed(t(now), resync(&told), &lists(&[("a", "Registered")]));
    assert_eq!(said(&told), ["b removed b", "b contact removed sip:b:5060", "listed a"]);
    // Its late word is a stranger's: one more reading, and no more of them for the next.
    let told = observer.heard(t(30_000), &attempt("b", "Unregistered"));
    assert_eq!(said(&told), Vec::<String>::new());
    let (now, told) = wait_for_request(&mut observer, 30_000, 31_100);
    let _ = observer.listed(t(now), resync(&told), &lists(&[("a", "Registered")]));
    let told = observer.heard(t(33_000), &attempt("b", "Unregistered"));
    assert_eq!(told, Told::default());
    assert_eq!(observer.tick(t(34_000)), Told::default());
}

#[test]
fn what_vanished_while_nobody_watched_is_said_to_be_gone() {
    let mut observer = observer();
    let trunk = TrunkId::try_from("pbx1/old").unwrap();
    observer.recall(&trunk, ["old".try_into().unwrap()], ["sip:old:5060".try_into().unwrap()]);
    let _ = observer.connected(t(0), "11.0.0");
    let ticket = resync(&observer.ready(t(0)));
    let told = observer.listed(t(10), ticket, &lists(&[("a", "Registered")]));
    let words =
        ["old removed old", "a parameters 60", "a registered list", "old contact removed sip:old:5060", "listed a"];
    assert_eq!(said(&told), words);
}

#[test]
fn a_partial_list_removes_nothing() {
    let mut observer = listed(&lists(&[("a", "Registered"), ("b", "Registered")]));
    let (now, told) = wait_for_request(&mut observer, 100, 31_000);
    let partial = Lists { partial: true, endpoints: None, ..lists(&[("a", "Registered")]) };
    assert_eq!(said(&observer.listed(t(now), resync(&told), &partial)), Vec::<String>::new());
    assert_eq!(said(&observer.heard(t(32_000), &attempt("b", "Rejected"))), ["b rejected event"]);
}

#[test]
fn an_event_outranks_a_list_that_was_asked_for_before_it() {
    let mut observer = listed(&lists(&[("a", "Registered")]));
    let (now, told) = wait_for_request(&mut observer, 100, 31_000);
    let ticket = resync(&told);
    assert_eq!(said(&observer.heard(t(now + 5), &attempt("a", "Rejected"))), ["a rejected event"]);
    // The snapshot was taken before: it must not open the gate again.
    let told = observer.listed(t(now + 10), ticket, &lists(&[("a", "Registered")]));
    assert_eq!(said(&told), Vec::<String>::new());
    let (later, told) = wait_for_request(&mut observer, now + 100, now + 1200);
    let told = observer.states(t(later), list(&told), &[detail("a", "Registered")]);
    assert_eq!(said(&told), ["a registered list"]);
}

#[test]
fn an_event_that_came_before_the_first_list_is_not_lost() {
    let mut observer = observer();
    let _ = observer.connected(t(0), "11.0.0");
    let ticket = resync(&observer.ready(t(0)));
    assert_eq!(said(&observer.heard(t(5), &attempt("a", "Rejected"))), Vec::<String>::new());
    let told = observer.listed(t(10), ticket, &lists(&[("a", "Registered")]));
    assert_eq!(said(&told), ["a parameters 60", "a registered list", "listed a", "a rejected event"]);
}

#[test]
fn ambiguous_events_are_not_attributed_but_looked_up() {
    let twin = |name: &str, status: &str| detail_text(name, "sip:us@carrier", "sip:carrier", status);
    let both = |a: &str, b: &str| vec![twin("a", a), twin("b", b)];
    let first = Lists {
        registrations: both("Registered", "Registered"),
        endpoints: Some(vec![endpoint("a"), endpoint("b")]),
        ..Lists::default()
    };
    let mut observer = observer();
    let _ = observer.connected(t(0), "11.0.0");
    let ticket = resync(&observer.ready(t(0)));
    let told = observer.listed(t(0), ticket, &first);
    let words = [
        "a parameters 60 no heartbeat",
        "a registered list",
        "b parameters 60 no heartbeat",
        "b registered list",
        "listed a b",
    ];
    assert_eq!(said(&told), words);
    let ours = |status| registry("sip:us@carrier", "sip:carrier", status);
    // A refresh of either teaches nothing.
    assert_eq!(observer.heard(t(5000), &ours("Registered")), Told::default());
    let told = observer.heard(t(6000), &ours("Rejected"));
    assert_eq!(said(&told), Vec::<String>::new());
    let told = observer.states(t(6010), list(&told), &both("Registered", "Rejected"));
    assert_eq!(said(&told), ["b rejected list"]);
    // Nor can their changes prove that an event was missed.
    assert_eq!(observer.tick(t(9000)), Told::default());
}

#[test]
fn an_event_of_unknown_uris_has_everything_read() {
    let mut observer = listed(&lists(&[("a", "Registered")]));
    assert_eq!(observer.heard(t(5000), &attempt("new", "Registered")), Told::default());
    let (now, told) = wait_for_request(&mut observer, 5100, 6000);
    let told = observer.listed(t(now), resync(&told), &lists(&[("a", "Registered"), ("new", "Registered")]));
    assert_eq!(said(&told), ["new parameters 60", "new registered list", "listed a new"]);
    assert_eq!(said(&observer.heard(t(50_000), &attempt("new", "Registered"))), ["new registered event"]);
}

#[test]
fn a_short_list_that_shows_something_new_has_everything_read() {
    let mut observer = listed(&lists(&[("a", "Registered")]));
    let _ = observer.heard(t(5000), &attempt("a", "Unregistered"));
    let (now, told) = wait_for_request(&mut observer, 5100, 6000);
    let told = observer.states(t(now), list(&told), &[detail("a", "Unregistered"), detail("b-reg-0", "Registered")]);
    assert_eq!(said(&told), Vec::<String>::new());
    let (_, told) = wait_for_request(&mut observer, now, now + 1000);
    let _ = resync(&told);
}

#[test]
fn a_change_in_a_list_without_its_event_means_a_deaf_session() {
    let mut observer = listed(&lists(&[("a", "Registered"), ("b", "Registered")]));
    let (now, told) = wait_for_request(&mut observer, 100, 31_000);
    let told = observer.listed(t(now), resync(&told), &lists(&[("a", "Rejected"), ("b", "Rejected")]));
    // The state is said at once, the verdict waits: b's event is only late.
    assert_eq!(said(&told), ["a rejected list", "b rejected list"]);
    assert_eq!(said(&observer.heard(t(now + 300), &attempt("b", "Rejected"))), ["b rejected event"]);
    assert_eq!(observer.tick(t(now + 1900)), Told::default());
    let told = observer.tick(t(now + 2000));
    assert_eq!(said(&told), ["deaf: a: registered to rejected"]);
    assert_eq!(told.requests, [Request::DropFilters]);
    // Said once per connection.
    let (now, told) = wait_for_request(&mut observer, now + 2100, now + 31_000);
    let _ = observer.listed(t(now), resync(&told), &lists(&[("a", "Registered"), ("b", "Rejected")]));
    assert_eq!(observer.tick(t(now + 5000)), Told::default());
}

#[test]
fn a_change_behind_a_loss_an_overflow_or_a_reload_is_no_deafness() {
    let up = lists(&[("a", "Registered")]);
    let down = lists(&[("a", "Rejected")]);
    // A loss.
    let mut observer = listed(&up);
    let _ = observer.lost(t(1000), t(900), "closed");
    let _ = observer.connected(t(2000), "11.0.0");
    let ticket = resync(&observer.ready(t(2000)));
    let _ = observer.listed(t(2000), ticket, &down);
    assert_eq!(observer.tick(t(9000)), Told::default());
    // An overflow of our own queue.
    let mut observer = listed(&up);
    let ticket = resync(&observer.overflowed(t(5000)));
    assert_eq!(said(&observer.listed(t(5000), ticket, &down)), ["a parameters 60", "a rejected list", "listed a"]);
    assert_eq!(observer.tick(t(9000)), Told::default());
    // An object that starts anew is unregistered without an event.
    let mut observer = listed(&up);
    let (now, told) = wait_for_request(&mut observer, 100, 31_000);
    let told = observer.listed(t(now), resync(&told), &lists(&[("a", "Unregistered")]));
    assert_eq!(said(&told), ["a unregistered list"]);
    assert_eq!(observer.tick(t(now + 5000)), Told::default());
}

#[test]
fn a_shutdown_is_told_and_nothing_is_asked_of_what_is_ending() {
    let mut observer = listed(&lists(&[("a", "Registered")]));
    let _ = observer.heard(t(5000), &attempt("a", "Unregistered"));
    let told = observer.heard(t(5010), &event("Event: Shutdown\nShutdown: Cleanly\nRestart: True\n"));
    assert_eq!(said(&told), ["shutdown restart=true"]);
    assert_eq!(observer.tick(t(7000)), Told::default());
    assert_eq!(said(&observer.lost(t(7100), t(7000), "Asterisk closed the connection")), ["lost"]);
}

#[test]
fn the_recorded_restarts_lose_no_event_of_a_known_trunk() {
    let messages = recorded(&fixture("ami-restart.txt"));
    let events: Vec<_> = messages.iter().filter_map(|(_, message)| AmiEvent::try_from(message).ok()).collect();
    let pairs: BTreeSet<_> = events
        .iter()
        .filter_map(|event| {
            if let AmiEvent::Registry(one) = event { Some((one.username.clone(), one.domain.clone())) } else { None }
        })
        .collect();
    let registrations: Vec<_> = pairs
        .iter()
        .enumerate()
        .map(|(index, (client, server))| detail_text(&format!("r{index}"), client, server, "Registered"))
        .collect();
    let first = Lists {
        endpoints: Some(registrations.iter().map(|one| endpoint(&one.object_name)).collect()),
        registrations,
        ..Lists::default()
    };
    let mut observer = listed(&first);
    let mut words = Vec::new();
    for (index, event) in events.iter().enumerate() {
        let at = t(1000 + index as i64);
        words.extend(said(&observer.heard(at, event)));
        if matches!(event, AmiEvent::Shutdown(_)) {
            words.extend(said(&observer.lost(at, at, "closed")));
            words.extend(said(&observer.connected(at, "11.0.0")));
            let ticket = resync(&observer.ready(at));
            let _ = observer.listed(at, ticket, &first);
        }
    }
    let attempts = events.iter().filter(|event| matches!(event, AmiEvent::Registry(_))).count();
    assert_eq!(words.iter().filter(|word| word.ends_with(" event")).count(), attempts);
    let ends: Vec<_> = words.iter().filter(|word| word.starts_with("shutdown")).collect();
    assert_eq!(ends, ["shutdown restart=true", "shutdown restart=true", "shutdown restart=false"]);
}

#[test]
fn contacts_are_said_on_change_and_confirmed_once_when_lost() {
    let first = with_contacts(lists(&[("a", "Registered")]), &[contact("a", "Reachable", "20000")]);
    let mut observer = listed(&first);
    // A round trip that stays in its class is noise; crossing 1.5 s is not.
    let (now, told) = wait_for_request(&mut observer, 100, 31_000);
    let first = with_contacts(first, &[contact("a", "Reachable", "90000")]);
    assert_eq!(said(&observer.listed(t(now), resync(&told), &first)), Vec::<String>::new());
    let told = observer.heard(t(now + 100), &contact_event("a", "Reachable", "1600000"));
    assert_eq!(said(&told), ["a contact sip:a:5060 reachable"]);
    let told = observer.heard(t(now + 200), &contact_event("a", "Unreachable", "0"));
    assert_eq!(said(&told), ["a contact sip:a:5060 unreachable"]);
    assert_eq!(told.requests, [Request::Qualify("a".try_into().unwrap())]);
    assert_eq!(observer.heard(t(now + 300), &contact_event("a", "Unreachable", "0")), Told::default());
    assert_eq!(
        said(&observer.heard(t(now + 400), &contact_event("a", "Removed", "0"))),
        ["a contact removed sip:a:5060"]
    );
    // Phones are none of our business.
    assert_eq!(observer.heard(t(now + 500), &contact_event("phone", "Unreachable", "0")), Told::default());
}

#[test]
fn the_recorded_endpoint_has_one_reachable_contact() {
    let messages = recorded(&fixture("ami-endpoint.txt"));
    let trunk = "trunk-ok".try_into().unwrap();
    let mut details = messages.iter().filter(|(_, message)| message.is_event(ListedContact::EVENT));
    let contact = ListedContact::read(&trunk, &details.next().unwrap().1).unwrap();
    assert_eq!((contact.aor.as_str(), contact.uri.as_str()), ("trunk-ok", "sip:127.0.0.1:5080"));
    assert_eq!(contact.status, crate::wire::ami::event::ContactState::Reachable);
    assert_eq!(contact.rtt, Some(Duration::from_micros(1433)));
    assert!(details.next().is_none());
}

#[test]
fn contacts_are_read_for_trunks_and_only_when_they_look_different() {
    let endpoint = |name: &str, device: &str| {
        let text = format!("Event: EndpointList\nObjectName: {name}\nAor: {name}\nDeviceState: {device}\n");
        crate::wire::ami::event::EndpointList::read(&Message::from_text(&text)).unwrap()
    };
    let of = |a: &str| Lists {
        registrations: vec![detail("a", "Registered")],
        endpoints: Some(vec![endpoint("a", a), endpoint("phone", "Unavailable")]),
        ..Lists::default()
    };
    let a = [crate::ids::EndpointName::try_from("a").unwrap()];
    let mut observer = observer();
    let _ = observer.connected(t(0), "11.0.0");
    let ticket = resync(&observer.ready(t(0)));
    assert_eq!(observer.wanted_contacts(&of("Not in use")), a);
    let first = with_contacts(of("Not in use"), &[contact("a", "Reachable", "900")]);
    assert_eq!(said(&observer.listed(t(0), ticket, &first)).len(), 4);
    // A call changes nothing; what is not read again stays as it was.
    let (now, told) = wait_for_request(&mut observer, 100, 31_000);
    assert_eq!(observer.wanted_contacts(&of("In use")), []);
    assert_eq!(observer.listed(t(now), resync(&told), &of("In use")), Told::default());
    let (now, told) = wait_for_request(&mut observer, now + 100, now + 31_000);
    assert_eq!(observer.wanted_contacts(&of("Unavailable")), a);
    let lost = with_contacts(of("Unavailable"), &[contact("a", "Unreachable", "0")]);
    assert_eq!(said(&observer.listed(t(now), resync(&told), &lost)), ["a contact sip:a:5060 unreachable"]);
    // After a reload nothing is taken for granted.
    let _ = observer.heard(t(now + 100), &event("Event: Reload\nModule: All\nStatus: 0\n"));
    assert_eq!(observer.wanted_contacts(&of("Unavailable")), a);
}

#[test]
fn a_contact_never_seen_reachable_is_not_qualified_again() {
    let first = with_contacts(lists(&[("a", "Registered")]), &[contact("a", "Unreachable", "N/A")]);
    let mut observer = observer();
    let _ = observer.connected(t(0), "11.0.0");
    let ticket = resync(&observer.ready(t(0)));
    assert_eq!(observer.listed(t(0), ticket, &first).requests, []);
}

#[test]
fn a_contact_event_outranks_an_older_list() {
    let first = with_contacts(lists(&[("a", "Registered")]), &[contact("a", "Reachable", "20000")]);
    let mut observer = listed(&first);
    let (now, told) = wait_for_request(&mut observer, 100, 31_000);
    let _ = observer.heard(t(now + 5), &contact_event("a", "Unreachable", "0"));
    let told = observer.listed(t(now + 10), resync(&told), &first);
    assert_eq!(said(&told), Vec::<String>::new());
    let (_, told) = wait_for_request(&mut observer, now + 100, now + 1500);
    let _ = resync(&told);
}

#[test]
fn the_next_attempt_is_said_once_per_attempt_and_while_one_is_in_flight() {
    let with = |status: &str, column: &str| Lists {
        cli: Some(registrations_cli::parse_text(&format!(
            " a/sip:carrier           auth     {status}        (exp. {column})\nObjects found: 1\n"
        ))),
        ..lists(&[("a", status)])
    };
    let mut observer = listed(&with("Registered", "45s"));
    let mut read = |lists: &Lists, attempted: Option<&str>| {
        let from = observer_time(&observer);
        if let Some(status) = attempted {
            let _ = observer.heard(t(from + 50), &attempt("a", status));
        }
        let (now, told) = wait_for_request(&mut observer, from + 100, from + 32_000);
        said(&observer.listed(t(now), resync(&told), lists))
    };
    let none = Vec::<String>::new();
    assert_eq!(read(&with("Registered", "15s"), None), none);
    assert_eq!(read(&with("Registered", "40s"), Some("Registered")), ["a registered next in 40"]);
    assert_eq!(read(&with("Registered", "5s ago"), None), ["a registered overdue 5"]);
    assert_eq!(read(&with("Registered", "31s ago"), None), ["a registered overdue 31"]);
    assert_eq!(read(&with("Rejected", "3s ago"), Some("Rejected")), ["a rejected overdue 3"]);
    assert_eq!(read(&with("Rejected", "40s ago"), None), ["a rejected overdue 40"]);
    assert_eq!(read(&with("Rejected", "70s ago"), None), none);
    assert_eq!(read(&with("Rejected", "100s ago"), None), none);
    assert_eq!(read(&with("Rejected", "20s"), None), ["a rejected next in 20"]);
}

/// The observer's last time, in the histories' milliseconds.
fn observer_time(observer: &Observer) -> i64 {
    observer.now().as_millisecond() - 1_800_000_000_000
}

#[test]
fn time_never_steps_back_and_waiting_goes_on() {
    let mut observer = listed(&lists(&[("a", "Registered")]));
    let _ = observer.tick(t(10_000));
    // The clock is set back by an hour.
    let hour = 3_600_000;
    let told = observer.heard(t(10_500 - hour), &attempt("a", "Unregistered"));
    assert_eq!(told.sightings.len(), 1);
    let Sighting::Seen(seen) = &told.sightings[0] else { panic!() };
    assert_eq!(seen.at, t(10_000));
    let (now, told) = wait_for_request(&mut observer, 10_600 - hour, 11_600 - hour);
    let told = observer.states(t(now), list(&told), &[detail("a", "Registered")]);
    let Sighting::Seen(seen) = &told.sightings[0] else { panic!() };
    assert_eq!(seen.at, t(10_000));
}

#[test]
fn a_list_that_fails_is_asked_for_again_ever_later() {
    let mut observer = observer();
    let _ = observer.connected(t(0), "11.0.0");
    let mut told = observer.ready(t(0));
    let mut waits = Vec::new();
    let mut now = 0;
    for _ in 0..7 {
        let ticket = resync(&told);
        let _ = observer.list_failed(t(now), ticket);
        let (then, next) = wait_for_request(&mut observer, now + 100, now + 20_000);
        waits.push(then - now);
        (now, told) = (then, next);
    }
    assert_eq!(waits, [1000, 1000, 2000, 4000, 8000, 10_000, 10_000]);
    // What was asked on an earlier connection is not answered on this one.
    let old = resync(&told);
    let _ = observer.lost(t(now), t(now), "closed");
    let _ = observer.connected(t(now), "11.0.0");
    let new = resync(&observer.ready(t(now)));
    assert_eq!(observer.listed(t(now), old, &lists(&[("a", "Registered")])), Told::default());
    assert_eq!(said(&observer.listed(t(now), new, &lists(&[("a", "Registered")]))).len(), 3);
}

#[test]
fn a_refused_login_is_said_once() {
    let mut observer = observer();
    assert_eq!(said(&observer.refused(t(0), "Authentication failed")), ["refused"]);
    assert_eq!(observer.refused(t(10_000), "Authentication failed"), Told::default());
    let _ = observer.connected(t(20_000), "11.0.0");
    assert_eq!(said(&observer.refused(t(30_000), "Authentication failed")), ["refused"]);
}

#[test]
fn without_the_right_to_list_endpoints_events_still_find_their_trunk() {
    let mut observer = observer();
    let _ = observer.connected(t(0), "11.0.0");
    let ticket = resync(&observer.ready(t(0)));
    let bare = Lists { registrations: vec![detail("a", "Registered")], ..Lists::default() };
    let _ = observer.listed(t(0), ticket, &bare);
    let told = observer.heard(t(100), &contact_event("a", "Reachable", "300"));
    assert_eq!(said(&told), ["a contact sip:a:5060 reachable"]);
    assert_eq!(observer.findings(), [super::Finding::EndpointsUnknown]);
}

#[test]
fn a_declared_endpoint_nobody_asks_is_reported() {
    let declared = DeclaredTrunk {
        id: TrunkId::try_from("pbx1/peer").unwrap(),
        registrations: Vec::new(),
        endpoints: vec!["peer".try_into().unwrap()],
    };
    let mut observer = Observer::new(PbxId::try_from("pbx1").unwrap(), vec![declared], Duration::from_secs(30));
    let _ = observer.connected(t(0), "11.0.0");
    let ticket = resync(&observer.ready(t(0)));
    let all = |status: &str| {
        let lists = Lists { endpoints: Some(vec![endpoint("peer")]), ..Lists::default() };
        with_contacts(lists, &[contact("peer", status, "N/A")])
    };
    let told = observer.listed(t(0), ticket, &all("NonQualified"));
    assert_eq!(said(&told), ["peer contact sip:peer:5060 non_qualified", "listed peer"]);
    assert!(matches!(observer.findings().as_slice(), [super::Finding::NothingToSee { .. }]));
    let (now, told) = wait_for_request(&mut observer, 100, 31_000);
    let _ = observer.listed(t(now), resync(&told), &all("Reachable"));
    assert_eq!(observer.findings(), []);
}

#[test]
fn a_registration_that_moves_leaves_its_old_trunk() {
    let moved = |to: &str| {
        let text = format!(
            "Event: OutboundRegistrationDetail\nObjectName: a-reg-0\nClientUri: sip:us@x\nServerUri: sip:x\n\
             Endpoint: {to}\nStatus: Registered\n"
        );
        Lists {
            registrations: vec![OutboundRegistrationDetail::read(&Message::from_text(&text)).unwrap()],
            endpoints: Some(vec![endpoint("a"), endpoint("b")]),
            ..Lists::default()
        }
    };
    let mut observer = listed(&moved("b"));
    let (now, told) = wait_for_request(&mut observer, 100, 31_000);
    let told = observer.listed(t(now), resync(&told), &moved("a"));
    assert_eq!(said(&told), ["b removed a-reg-0", "a parameters 3600", "a registered list", "listed a"]);
}

/// Anything that can happen to an observer.
#[derive(Debug, Clone)]
enum Step {
    Heard(AmiEvent),
    Tick,
    Connected,
    Ready,
    Lost,
    Overflowed,
    Answer(Vec<(usize, usize)>, bool),
    Fail,
    Back,
}

const NAMES: [&str; 4] = ["a", "b", "c-reg-0", "twin"];
const STATES: [&str; 4] = ["Registered", "Rejected", "Unregistered", "Stopped"];

fn any_detail((name, state): &(usize, usize)) -> OutboundRegistrationDetail {
    let name = NAMES[*name];
    // `twin` has the URIs of `a`.
    let client = if name == "twin" { "sip:a@carrier".to_owned() } else { format!("sip:{name}@carrier") };
    let mut detail = detail_text(name, &client, "sip:carrier", STATES[*state]);
    detail.endpoint = None;
    detail
}

fn step() -> impl Strategy<Value = Step> {
    let names = 0..NAMES.len();
    let states = 0..STATES.len();
    prop_oneof![
        4 => (names.clone(), states.clone()).prop_map(|(name, state)| Step::Heard(attempt(NAMES[name], STATES[state]))),
        2 => (names.clone(), prop::sample::select(vec!["Reachable", "Unreachable", "Removed", "Odd"]))
            .prop_map(|(name, status)| Step::Heard(contact_event(NAMES[name], status, "12"))),
        1 => Just(Step::Heard(event("Event: Reload\nModule: res_pjsip.so\nStatus: 0\n"))),
        1 => Just(Step::Heard(event("Event: FullyBooted\nUptime: 0\n"))),
        1 => Just(Step::Heard(event("Event: Shutdown\nShutdown: Cleanly\nRestart: False\n"))),
        4 => Just(Step::Tick),
        1 => Just(Step::Connected),
        2 => Just(Step::Ready),
        1 => Just(Step::Lost),
        1 => Just(Step::Overflowed),
        6 => (prop::collection::vec((names, states), 0..5), any::<bool>())
            .prop_map(|(details, rights)| Step::Answer(details, rights)),
        1 => Just(Step::Fail),
        1 => Just(Step::Back),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_interleaving_says_a_word_of_a_trunk_that_is_not_there(steps in prop::collection::vec(step(), 1..120)) {
        let mut observer = observer();
        let mut now = 0;
        let mut asked: Vec<Request> = Vec::new();
        let mut last = Timestamp::MIN;
        for step in steps {
            now += 170;
            let before: BTreeSet<TrunkId> = observer.directory().trunks().iter().map(|one| one.id.clone()).collect();
            let told = match step {
                Step::Heard(event) => observer.heard(t(now), &event),
                Step::Tick => observer.tick(t(now)),
                Step::Connected => observer.connected(t(now), "11.0.0"),
                Step::Ready => observer.ready(t(now)),
                Step::Lost => observer.lost(t(now), t(now), "closed"),
                Step::Overflowed => observer.overflowed(t(now)),
                Step::Answer(details, rights) => {
                    let details: Vec<_> = details.iter().map(any_detail).collect();
                    match asked.pop() {
                        Some(Request::Resync(ticket)) => {
                            let mut lists = Lists {
                                registrations: details,
                                endpoints: rights.then(|| ["a", "c", "twin"].map(endpoint).to_vec()),
                                ..Lists::default()
                            };
                            for endpoint in observer.wanted_contacts(&lists) {
                                lists.contacts.push(contact(endpoint.as_str(), "Reachable", "700"));
                                lists.contacts_of.insert(endpoint);
                            }
                            observer.listed(t(now), ticket, &lists)
                        }
                        Some(Request::List(ticket)) => observer.states(t(now), ticket, &details),
                        Some(Request::Qualify(_) | Request::DropFilters) | None => Told::default(),
                    }
                }
                Step::Fail => match asked.pop() {
                    Some(Request::Resync(ticket) | Request::List(ticket)) => observer.list_failed(t(now), ticket),
                    Some(Request::Qualify(_) | Request::DropFilters) | None => Told::default(),
                },
                Step::Back => {
                    now -= 2000;
                    observer.tick(t(now))
                }
            };
            let after: BTreeSet<TrunkId> = observer.directory().trunks().iter().map(|one| one.id.clone()).collect();
            for sighting in &told.sightings {
                let at = match sighting {
                    Sighting::Seen(seen) => {
                        let gone = matches!(seen.fact, Fact::RegistrationRemoved { .. } | Fact::ContactRemoved { .. });
                        prop_assert!(after.contains(&seen.trunk) || (gone && before.contains(&seen.trunk)), "{seen:?}");
                        seen.at
                    }
                    Sighting::Pbx { at, .. } => *at,
                };
                prop_assert!(at >= last);
                last = at;
            }
            let lists = |requests: &[Request]| {
                requests.iter().filter(|one| matches!(one, Request::Resync(_) | Request::List(_))).count()
            };
            prop_assert!(lists(&told.requests) <= 1);
            asked.extend(told.requests);
        }
    }

    /// Whatever was lost or came out of order: once the link is up and quiet, the last word about each registration is
    /// what the list says.
    #[test]
    fn the_last_word_is_the_lists(steps in prop::collection::vec(step(), 1..60), truth in prop::collection::vec(0..3_usize, 3)) {
        let mut observer = observer();
        let mut now = 0;
        let mut words = std::collections::BTreeMap::new();
        let lists = Lists {
            registrations: truth.iter().enumerate().map(|(name, state)| any_detail(&(name, *state))).collect(),
            endpoints: Some(Vec::new()),
            ..Lists::default()
        };
        let mut take = |told: Told| {
            for sighting in told.sightings {
                let Sighting::Seen(seen) = sighting else { continue };
                match seen.fact {
                    Fact::Registration { registration, state, .. } => {
                        words.insert(registration.to_string(), state);
                    }
                    Fact::RegistrationRemoved { registration } => {
                        words.remove(registration.as_str());
                    }
                    Fact::Declared
                    | Fact::Started { .. }
                    | Fact::LinkLost { .. }
                    | Fact::Listed { .. }
                    | Fact::Parameters { .. }
                    | Fact::NextAttempt { .. }
                    | Fact::Contact { .. }
                    | Fact::ContactRemoved { .. }
                    | Fact::Tick => {}
                }
            }
            told.requests
        };
        let mut asked = Vec::new();
        for step in steps {
            now += 170;
            let told = match step {
                Step::Heard(event) => observer.heard(t(now), &event),
                Step::Connected => observer.connected(t(now), "11.0.0"),
                Step::Ready => observer.ready(t(now)),
                Step::Lost => observer.lost(t(now), t(now), "closed"),
                Step::Overflowed => observer.overflowed(t(now)),
                Step::Tick | Step::Back | Step::Fail | Step::Answer(..) => observer.tick(t(now)),
            };
            asked.extend(take(told));
        }
        let _ = take(observer.connected(t(now), "11.0.0"));
        asked = take(observer.ready(t(now)));
        for _ in 0..100 {
            now += 400;
            for request in std::mem::take(&mut asked) {
                let told = match request {
                    Request::Resync(ticket) => observer.listed(t(now), ticket, &lists),
                    Request::List(ticket) => observer.states(t(now), ticket, &lists.registrations),
                    Request::Qualify(_) | Request::DropFilters => Told::default(),
                };
                asked.extend(take(told));
            }
            asked.extend(take(observer.tick(t(now))));
        }
        let states = [Registered, Rejected, Unregistered];
        for (name, state) in truth.iter().enumerate() {
            prop_assert_eq!(words.get(NAMES[name]), Some(&states[*state]));
        }
        prop_assert_eq!(words.len(), 3);
    }
}

#[test]
fn contact_status_is_kept_apart_from_registration() {
    let first = with_contacts(lists(&[("a", "Rejected")]), &[contact("a", "Reachable", "20000")]);
    let mut observer = observer();
    let _ = observer.connected(t(0), "11.0.0");
    let ticket = resync(&observer.ready(t(0)));
    let told = observer.listed(t(0), ticket, &first);
    let has = |fact: &dyn Fn(&Fact) -> bool| {
        told.sightings.iter().any(|one| matches!(one, Sighting::Seen(seen) if fact(&seen.fact)))
    };
    assert!(has(&|fact| matches!(fact, Fact::Registration { state: Rejected, .. })));
    assert!(has(&|fact| matches!(fact, Fact::Contact { status: ContactStatus::Reachable, .. })));
}

#[test]
fn a_refresh_that_only_the_list_shows_is_said() {
    let with = |column: &str| Lists {
        cli: Some(registrations_cli::parse_text(&format!(
            " a/sip:carrier           auth     Registered        (exp. {column})\nObjects found: 1\n"
        ))),
        ..lists(&[("a", "Registered")])
    };
    let mut observer = listed(&with("45s"));
    let mut read = |column: &str| {
        let from = observer_time(&observer);
        let (now, told) = wait_for_request(&mut observer, from + 100, from + 32_000);
        said(&observer.listed(t(now), resync(&told), &with(column)))
    };
    let none = Vec::<String>::new();
    assert_eq!(read("15s"), none);
    assert_eq!(read("35s"), ["a registered next in 35"], "it was refreshed, and no event said so");
    assert_eq!(read("5s"), none);
}

#[test]
fn without_events_of_registrations_no_heartbeat_is_expected() {
    let heartbeats = |told: &Told| -> Vec<bool> {
        let one = |sighting: &Sighting| match sighting {
            Sighting::Seen(Observation { fact: Fact::Parameters { parameters, .. }, .. }) => Some(parameters.heartbeat),
            Sighting::Seen(_) | Sighting::Pbx { .. } => None,
        };
        told.sightings.iter().filter_map(one).collect()
    };
    let mut observer = observer();
    let _ = observer.connected(t(0), "11.0.0");
    observer.without_events();
    let ticket = resync(&observer.ready(t(0)));
    assert_eq!(heartbeats(&observer.listed(t(0), ticket, &lists(&[("a", "Registered")]))), [false]);
    let _ = observer.lost(t(10), t(10), "reset");
    let _ = observer.connected(t(20), "11.0.0");
    let ticket = resync(&observer.ready(t(20)));
    assert_eq!(
        heartbeats(&observer.listed(t(20), ticket, &lists(&[("a", "Registered")]))),
        [true],
        "the right came back"
    );
}
