//! What a diagnosis changes: words. The reason of a hold, what the gate says, what people are told; never whether.
//!
//! It comes after the failure it explains, by milliseconds or by seconds, and now and then just before it: the feed that
//! shows the final response and the event that says `Rejected` travel on different ways.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    board::TrunkRecord,
    outcome::{EntryKind, MessageType, Scope},
    step::Step,
};
use crate::{
    diagnosis::{Brief, Diagnosis},
    health::{Reason, TrunkHealth},
    ids::{RegistrationName, TrunkId},
    observation::RegistrationState,
};

/// The outcome in history that ends a diagnosis: the registration is well again.
pub const CLEARED: &str = "cleared";

/// The latest diagnosis of a trunk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Diagnosed {
    /// What it says, without the evidence: that is in the history.
    pub brief: Brief,
    /// It is about how the trunk is now, and not about how it was.
    pub current: bool,
}

impl Step<'_> {
    /// A trunk was diagnosed, or nothing is wrong with it any more.
    pub(super) fn diagnosed(&mut self, trunk: &TrunkId, diagnosis: Option<&Diagnosis>) {
        let Some(diagnosis) = diagnosis else {
            self.clear_diagnosis(trunk, |brief| brief.cause.concerns_registered());
            return;
        };
        let at = self.at;
        let Some(record) = self.board.trunks.get_mut(trunk) else { return };
        let brief = Brief::from(diagnosis);
        let current = brief.cause.concerns_registered() || !recovered_since(&record.health, &brief);
        let before = record.diagnosis.replace(Diagnosed { brief: brief.clone(), current });
        let repeated = before.is_some_and(|before| before.current == current && before.brief.says_the_same(&brief));
        self.touched.insert(trunk.clone());
        let detail = serde_json::to_value(diagnosis).unwrap_or(Value::Null);
        self.record_diagnosis(trunk, &brief, brief.cause.as_str(), detail);
        if !current {
            self.record_diagnosis(trunk, &brief, CLEARED, Value::Null);
        }
        if repeated {
            return;
        }
        self.explain_hold(trunk);
        self.publish_gate(trunk);
        let Some(record) = self.board.trunks.get(trunk) else { return };
        let data = json!({
            "dialer": null, "campaign": null, "hold": record.hold().map(|hold| &hold.id), "trunks": [trunk],
            "reason": brief.summary, "since": at, "diagnosis": without_messages(diagnosis), "fallback": [],
            "trunk": trunk,
        });
        self.notify(MessageType::TrunkDiagnosis, &data);
        self.event(MessageType::TrunkDiagnosis.as_str(), data);
    }

    /// A registration is well: what was wrong with it is past.
    pub(super) fn registered_again(&mut self, trunk: &TrunkId, registration: &RegistrationName) {
        self.clear_diagnosis(trunk, |brief| {
            let own = brief.subject.registration.as_deref().is_none_or(|name| name == registration.as_str());
            own && !brief.cause.concerns_registered()
        });
    }

    fn clear_diagnosis(&mut self, trunk: &TrunkId, of: impl Fn(&Brief) -> bool) {
        let Some(record) = self.board.trunks.get_mut(trunk) else { return };
        let Some(diagnosed) = record.diagnosis.as_mut().filter(|known| known.current && of(&known.brief)) else {
            return;
        };
        diagnosed.current = false;
        let brief = diagnosed.brief.clone();
        self.touched.insert(trunk.clone());
        self.record_diagnosis(trunk, &brief, CLEARED, Value::Null);
        self.publish_gate(trunk);
    }

    fn record_diagnosis(&mut self, trunk: &TrunkId, brief: &Brief, to: &str, detail: Value) {
        let subject = brief.subject.registration.clone().unwrap_or_default();
        self.record(Scope::Trunk(trunk.clone()), EntryKind::Diagnosis, &subject, to, self.at, detail);
    }

    /// The policy's hold says why from now on.
    fn explain_hold(&mut self, trunk: &TrunkId) {
        let Some(record) = self.board.trunks.get_mut(trunk) else { return };
        let Some(brief) = explanation(record).cloned() else { return };
        let plain = record.health.reason.to_string();
        let Some(hold) = record.policy_hold.as_mut() else { return };
        hold.reason = explained(&plain, Some(&brief));
        hold.diagnosis = Some(brief);
        let hold = hold.clone();
        self.out.holds.push(hold);
    }
}

/// A reason with its cause: `airtel-reg rejected since …: wrong_password: the provider refuses …`.
pub(super) fn explained(reason: &str, brief: Option<&Brief>) -> String {
    match brief {
        Some(brief) => format!("{reason}: {}: {}", brief.cause, brief.summary),
        None => reason.to_owned(),
    }
}

/// The diagnosis that explains why the trunk is not well; none where its health has another reason, such as a PBX that is
/// not heard, and none of those that a registered trunk may have.
pub(super) fn explanation(record: &TrunkRecord) -> Option<&Brief> {
    let failing = match &record.health.reason {
        Reason::Rejected { registration, .. }
        | Reason::GaveUp { registration, .. }
        | Reason::Unregistered { registration, .. }
        | Reason::Unconfirmed { registration, .. }
        | Reason::PartFailed { registration }
        | Reason::RefreshOverdue { registration, .. } => Some(registration),
        Reason::Registered
        | Reason::Reachable
        | Reason::Declared
        | Reason::Removed { .. }
        | Reason::ContactUnreachable { .. }
        | Reason::ContactSlow { .. }
        | Reason::Recovering { .. }
        | Reason::Suppressed { .. }
        | Reason::PbxUnheard { .. }
        | Reason::NotListed { .. } => None,
    }?;
    let known = record.diagnosis.as_ref().filter(|known| known.current)?;
    let own = |brief: &&Brief| brief.subject.registration.as_deref().is_none_or(|name| name == failing.as_str());
    Some(&known.brief).filter(own).filter(|brief| !brief.cause.concerns_registered())
}

/// Whether the registration was heard to be well after the failure that was diagnosed.
fn recovered_since(health: &TrunkHealth, brief: &Brief) -> bool {
    let own = |name: &RegistrationName| brief.subject.registration.as_deref().is_none_or(|own| own == name.as_str());
    health.registrations.iter().filter(|(name, _)| own(name)).any(|(_, registration)| {
        let registered = registration.state == Some(RegistrationState::Registered);
        registered && registration.last_registered_at.is_some_and(|at| at > brief.at)
    })
}

/// For those who are told: the lines of the evidence, without the whole messages.
fn without_messages(diagnosis: &Diagnosis) -> Value {
    let mut said = diagnosis.clone();
    said.evidence.iter_mut().for_each(|evidence| evidence.message = None);
    serde_json::to_value(said).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        clock::Timestamp,
        decision::{
            Board, CampaignSpec, ControlPolicy, DialerPolicy, HoldWhen, Input, ListedRegistration, ListedTrunk,
            NotifyTarget, Outcome, PbxFact, Record,
        },
        diagnosis::{Cause, Evidence, Fault, Fix, Subject},
        ids::{CampaignKey, PbxId},
        observation::{Fact, Observation, Source},
        wire::sip::trace,
    };
    use RegistrationState::{Registered, Rejected};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn trunk() -> TrunkId {
        TrunkId::try_from("pbx1/airtel").unwrap()
    }

    fn registration() -> RegistrationName {
        RegistrationName::try_from("airtel-reg").unwrap()
    }

    fn diagnosis(cause: Cause, seconds: i64) -> Diagnosis {
        let evidence = Evidence {
            at: at(seconds),
            direction: None,
            source: trace::Source::Hep,
            line: "403 Forbidden".to_owned(),
            from: None,
            to: None,
            repeats: 0,
            until: None,
            message: Some("SIP/2.0 403 Forbidden\n".to_owned()),
        };
        Diagnosis {
            trunk: Some(trunk()),
            subject: Subject { registration: Some("airtel-reg".to_owned()), client_uri: None, server_uri: None },
            at: at(seconds),
            cause,
            confidence: 0.8,
            fault: Fault::Provider,
            summary: "the provider answers 403".to_owned(),
            alternatives: Vec::new(),
            sources: vec![trace::Source::Hep],
            evidence: vec![evidence],
            fix: Fix { text: "call the provider".to_owned(), config: String::new() },
            to_know_more: Vec::new(),
        }
    }

    fn diagnosed(cause: Cause, seconds: i64) -> Input {
        let diagnosis = Some(Box::new(diagnosis(cause, seconds)));
        Input::Diagnosed { at: at(seconds), trunk: trunk(), diagnosis }
    }

    fn event(state: RegistrationState, seconds: i64) -> Input {
        let fact = Fact::Registration { registration: registration(), state, source: Source::Event };
        Input::Seen(Observation { trunk: trunk(), at: at(seconds), fact })
    }

    /// A board with the trunk stable at 0, and a campaign on it that is paused at once.
    fn board() -> Board {
        let key = CampaignKey { dialer: "crm".parse().unwrap(), id: "7".try_into().unwrap() };
        let spec = CampaignSpec {
            key: key.clone(),
            name: None,
            trunks: vec![trunk()],
            hold_when: HoldWhen::Any,
            fallback: vec![],
            resume_window: None,
            resume_within: None,
        };
        let patience =
            DialerPolicy { pause_after: std::time::Duration::ZERO, pause_unknown_after: std::time::Duration::ZERO };
        let policy = ControlPolicy {
            dialers: [(key.dialer.clone(), patience)].into(),
            campaigns: [(key, spec)].into(),
            notify: vec![NotifyTarget {
                name: "people".to_owned(),
                types: BTreeSet::from([MessageType::TrunkDiagnosis, MessageType::TrunkHealth]),
            }],
            ..ControlPolicy::default()
        };
        let listed = ListedTrunk {
            id: trunk(),
            endpoints: vec![],
            registrations: vec![ListedRegistration {
                name: registration(),
                client_uri: "sip:airtel@carrier".to_owned(),
                server_uri: "sip:carrier".to_owned(),
                ambiguous: false,
            }],
        };
        let pbx = PbxId::try_from("pbx1").unwrap();
        let mut board = Board::new(7);
        board.step(&Input::Started { at: at(-60), unseen_since: at(-60) });
        board.step(&Input::Configured { at: at(-60), policy: Box::new(policy) });
        board.step(&event(Registered, -59));
        board.step(&Input::Pbx { pbx, at: at(-59), fact: PbxFact::Listed { trunks: vec![listed] } });
        board
    }

    fn entries(out: &Outcome) -> Vec<&str> {
        let of = |record: &&Record| record.kind == EntryKind::Diagnosis;
        out.records.iter().filter(of).map(|record| record.to.as_str()).collect()
    }

    fn told<'a>(out: &'a Outcome, kind: &str) -> Vec<&'a Value> {
        out.events.iter().filter(|event| event.kind == kind).map(|event| &event.data).collect()
    }

    #[test]
    fn a_diagnosis_that_follows_explains_the_hold_the_gate_and_people() {
        let mut board = board();
        let failed = board.step(&event(Rejected, 0));
        assert!(told(&failed, "trunk.health")[0]["diagnosis"].is_null());
        let out = board.step(&diagnosed(Cause::AccountForbidden, 1));
        let record = board.trunk(&trunk()).unwrap();
        let hold = record.policy_hold.as_ref().unwrap();
        assert!(hold.reason.ends_with(": account_forbidden: the provider answers 403"), "{}", hold.reason);
        assert_eq!(hold.diagnosis.as_ref().unwrap().cause, Cause::AccountForbidden);
        assert_eq!(out.holds, std::slice::from_ref(hold), "it is stored");
        assert!(out.gate[&trunk()].reason.contains("account_forbidden"), "{}", out.gate[&trunk()].reason);
        assert!(!out.gate[&trunk()].allow);
        assert_eq!(entries(&out), ["account_forbidden"]);
        assert_eq!(out.records[0].subject, "airtel-reg");
        let [message] = out.messages.as_slice() else { panic!("{:?}", out.messages) };
        assert_eq!(message.kind, MessageType::TrunkDiagnosis);
        let said = &message.body["data"]["diagnosis"];
        assert_eq!(
            (said["cause"].as_str(), said["fix"]["text"].as_str()),
            (Some("account_forbidden"), Some("call the provider"))
        );
        assert_eq!(said["evidence"][0]["line"], "403 Forbidden");
        assert!(said["evidence"][0].get("message").is_none(), "whole messages are for who asks");
        assert_eq!(told(&out, "trunk.diagnosis").len(), 1);
    }

    #[test]
    fn a_diagnosis_just_before_the_event_rides_on_the_pause() {
        let mut board = board();
        let early = board.step(&diagnosed(Cause::AccountForbidden, 0));
        assert!(early.holds.is_empty() && early.gate.is_empty(), "it decides nothing");
        let out = board.step(&event(Rejected, 0));
        assert_eq!(told(&out, "trunk.health")[0]["diagnosis"]["cause"], "account_forbidden");
        let pause = out.messages.iter().find(|message| message.kind == MessageType::CampaignPause).unwrap();
        assert_eq!(pause.body["data"]["diagnosis"]["cause"], "account_forbidden");
        assert!(pause.body["data"]["reason"].as_str().unwrap().contains("account_forbidden"));
    }

    #[test]
    fn the_same_again_is_counted_and_not_told() {
        let mut board = board();
        board.step(&event(Rejected, 0));
        board.step(&diagnosed(Cause::AccountForbidden, 1));
        let out = board.step(&diagnosed(Cause::AccountForbidden, 61));
        assert_eq!(entries(&out), ["account_forbidden"]);
        assert!(out.events.is_empty() && out.messages.is_empty() && out.holds.is_empty());
        let other = board.step(&diagnosed(Cause::ProviderUnavailable, 121));
        assert_eq!(told(&other, "trunk.diagnosis").len(), 1);
    }

    #[test]
    fn it_is_past_once_the_registration_is_well() {
        let mut board = board();
        board.step(&event(Rejected, 0));
        board.step(&diagnosed(Cause::AccountForbidden, 1));
        let well = board.step(&event(Registered, 30));
        assert_eq!(entries(&well), [CLEARED]);
        assert!(!board.trunk(&trunk()).unwrap().diagnosis.as_ref().unwrap().current);
        assert!(!well.gate[&trunk()].reason.contains("account_forbidden"), "{}", well.gate[&trunk()].reason);
        assert!(entries(&board.step(&event(Registered, 60))).is_empty(), "once");
        let again = board.step(&event(Rejected, 90));
        assert!(told(&again, "trunk.health")[0]["diagnosis"].is_null(), "the old cause explains nothing new");
        assert!(entries(&board.step(&diagnosed(Cause::AccountForbidden, 91))) == ["account_forbidden"]);
    }

    #[test]
    fn one_that_comes_when_it_is_well_again_is_history() {
        let mut board = board();
        board.step(&event(Rejected, 0));
        board.step(&event(Registered, 10));
        let mut late = diagnosis(Cause::AccountForbidden, 0);
        late.at = at(0);
        let input = Input::Diagnosed { at: at(11), trunk: trunk(), diagnosis: Some(Box::new(late)) };
        let out = board.step(&input);
        assert_eq!(entries(&out), ["account_forbidden", CLEARED]);
        assert!(!board.trunk(&trunk()).unwrap().diagnosis.as_ref().unwrap().current);
        let hold = board.trunk(&trunk()).unwrap().policy_hold.as_ref().unwrap();
        assert!(!hold.reason.contains("account_forbidden"), "{}", hold.reason);
    }

    #[test]
    fn what_a_registered_trunk_has_is_said_and_holds_nothing() {
        let mut board = board();
        let out = board.step(&diagnosed(Cause::NatContact, 0));
        assert!(out.gate.is_empty() && out.holds.is_empty());
        assert!(board.trunk(&trunk()).unwrap().gate.allow);
        assert!(board.step(&event(Registered, 50)).records.iter().all(|record| record.to != CLEARED));
        let gone = board.step(&Input::Diagnosed { at: at(100), trunk: trunk(), diagnosis: None });
        assert_eq!(entries(&gone), [CLEARED]);
        // And it does not explain a failure.
        board.step(&diagnosed(Cause::NatContact, 110));
        let failed = board.step(&event(Rejected, 120));
        assert!(told(&failed, "trunk.health")[0]["diagnosis"].is_null());
    }

    #[test]
    fn another_registrations_cause_explains_nothing_and_its_flaw_clears_nothing() {
        let mut board = board();
        board.step(&event(Rejected, 0));
        let mut other = diagnosis(Cause::NoResponse, 1);
        other.subject.registration = Some("airtel-backup".to_owned());
        board.step(&Input::Diagnosed { at: at(1), trunk: trunk(), diagnosis: Some(Box::new(other)) });
        let hold = board.trunk(&trunk()).unwrap().policy_hold.as_ref().unwrap();
        assert!(!hold.reason.contains("no_response"), "{}", hold.reason);
        board.step(&diagnosed(Cause::AccountForbidden, 2));
        board.step(&Input::Diagnosed { at: at(3), trunk: trunk(), diagnosis: None });
        assert!(board.trunk(&trunk()).unwrap().diagnosis.as_ref().unwrap().current);
    }

    #[test]
    fn no_diagnosis_changes_whether_the_gate_allows() {
        for cause in Cause::ALL {
            for state in [Registered, Rejected] {
                let mut board = board();
                board.step(&event(state, 0));
                let before = board.trunk(&trunk()).unwrap().gate.allow;
                board.step(&diagnosed(cause, 1));
                assert_eq!(board.trunk(&trunk()).unwrap().gate.allow, before, "{cause} {state:?}");
            }
        }
    }
}
