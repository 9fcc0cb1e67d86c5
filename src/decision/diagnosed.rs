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
            self.clear_diagnosis(trunk, |_| true);
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
    let explains = match record.health.reason {
        Reason::Rejected { .. }
        | Reason::GaveUp { .. }
        | Reason::Unregistered { .. }
        | Reason::Unconfirmed { .. }
        | Reason::PartFailed { .. }
        | Reason::RefreshOverdue { .. } => true,
        Reason::Registered
        | Reason::Reachable
        | Reason::Declared
        | Reason::Removed { .. }
        | Reason::ContactUnreachable { .. }
        | Reason::ContactSlow { .. }
        | Reason::Recovering { .. }
        | Reason::Suppressed { .. }
        | Reason::PbxUnheard { .. }
        | Reason::NotListed { .. } => false,
    };
    let known = record.diagnosis.as_ref().filter(|known| explains && known.current)?;
    Some(&known.brief).filter(|brief| !brief.cause.concerns_registered())
}

/// Whether the registration was heard to be well after the failure that was diagnosed.
fn recovered_since(health: &TrunkHealth, brief: &Brief) -> bool {
    let own = |name: &RegistrationName| brief.subject.registration.as_deref().is_none_or(|own| own == name.as_str());
    health.registrations.iter().filter(|(name, _)| own(name)).any(|(_, registration)| {
        registration.state == Some(RegistrationState::Registered) && registration.since > brief.at
    })
}

/// For those who are told: the lines of the evidence, without the whole messages.
fn without_messages(diagnosis: &Diagnosis) -> Value {
    let mut said = diagnosis.clone();
    said.evidence.iter_mut().for_each(|evidence| evidence.message = None);
    serde_json::to_value(said).unwrap_or(Value::Null)
}
