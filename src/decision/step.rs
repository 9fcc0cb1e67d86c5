//! One step of the board: an input comes in, the board changes, and what follows from it comes out.
//!
//! The order within a step is the flow's: facts into health, health into holds and the gate, holds into campaigns. What
//! is about campaigns is in `control`, what is about many trunks failing together in `incidents`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::Duration,
};

use serde_json::{Value, json};
use ulid::Ulid;

use super::{
    board::{Board, Override, PbxRecord, TrunkRecord},
    diagnosed::{explained, explanation},
    gate::GateState,
    hold::{By, Hold},
    incidents::was_well,
    input::{Act, CampaignReport, Input, ReceiptOutcome},
    outcome::{EntryKind, Event, Message, MessageType, Outcome, Recipient, Record, Scope, Settled},
    policy::{ControlPolicy, Mode},
};
use crate::{
    clock::{Timestamp, after},
    health::{Health, Reason, Standing, TrunkHealth, View, due, fold},
    ids::{CampaignKey, HoldId, IncidentId, MessageId, PbxId, TrunkId},
    observation::{Fact, ListedTrunk, Observation, PbxFact, RegistrationState, Source},
};

/// How long a release overrides the policy when nobody says.
pub const OVERRIDE: Duration = Duration::from_secs(15 * 60);
/// How long a trunk may be gone from its PBX before it is forgotten: longer than a night, or a move to another name.
pub const FORGET_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);
/// With more trunks than this, those that are gone are forgotten at once: a PBX whose names change all the time must not
/// fill the memory. A single list brings no more than the link's limit of items.
pub const MOST_TRUNKS: usize = 20_000;
/// The longest an override may last: after a day a person should look again.
pub const LONGEST_OVERRIDE: Duration = Duration::from_secs(24 * 3600);

impl Board {
    /// One step: takes the input in, changes the board, and says what follows.
    pub fn step(&mut self, input: &Input) -> Outcome {
        let minted = self.minted;
        let mut step = Step {
            board: self,
            at: input.at(),
            out: Outcome::default(),
            touched: BTreeSet::new(),
            concerned: BTreeSet::new(),
            failed: Vec::new(),
            lifted: false,
            notices: Vec::new(),
            shaken: BTreeSet::new(),
            forgot: false,
            saved: BTreeMap::new(),
        };
        match input {
            Input::Configured { policy, .. } => step.configured(policy),
            Input::Started { unseen_since, .. } => step.started(*unseen_since),
            Input::Seen(observation) => {
                step.record_fact(observation);
                step.see(&observation.trunk, observation.fact.clone());
                if let Fact::Registration { registration, state: RegistrationState::Registered, .. } = &observation.fact
                {
                    step.registered_again(&observation.trunk, registration);
                }
                if let Fact::RegistrationRemoved { registration } = &observation.fact {
                    step.registered_again(&observation.trunk, registration);
                }
                step.control_trunk(&observation.trunk);
            }
            Input::Pbx { pbx, fact, .. } => step.pbx(pbx, fact),
            Input::Diagnosed { trunk, diagnosis, .. } => step.diagnosed(trunk, diagnosis.as_deref()),
            Input::Healed { trunk, registration, cause, error, .. } => {
                let outcome = if error.is_some() { "heal_refused" } else { "healed" };
                let detail = json!({ "cause": cause, "error": error, "action": "PJSIPRegister" });
                let scope = Scope::Trunk(trunk.clone());
                // Among the diagnoses: after it the next one is a new entry, even if it says the same.
                step.record(scope, EntryKind::Diagnosis, registration.as_str(), outcome, step.at, detail);
            }
            Input::Operator { name, trunks, act, .. } => {
                for trunk in trunks {
                    step.operate(name, trunk, act);
                    step.control_trunk(trunk);
                }
            }
            Input::Campaign { report, .. } => step.reported(report),
            Input::Receipt { message, outcome, .. } => step.receipt(message, outcome),
            Input::Refused { calls, .. } => step.refused(calls),
            Input::Tick { .. } => step.tick(),
        }
        let ticks = matches!(input, Input::Tick { .. });
        step.conclude(ticks);
        // Whatever changes what is decided later must be replayed; most ticks do not.
        let notable = !ticks
            || step.out != Outcome::default()
            || !step.touched.is_empty()
            || !step.concerned.is_empty()
            || step.forgot;
        let Step { mut out, touched, concerned, .. } = step;
        for id in touched {
            let record = self.trunks.get(&id).cloned();
            out.trunks.insert(id, record);
        }
        for key in concerned {
            let campaign = self.campaigns.get(&key).cloned();
            out.campaigns.insert(key, campaign);
        }
        out.minted = (self.minted != minted).then_some((self.seed, self.minted));
        out.input = notable.then(|| input.clone());
        out
    }
}

/// A step in the making.
pub(super) struct Step<'a> {
    pub(super) board: &'a mut Board,
    pub(super) at: Timestamp,
    pub(super) out: Outcome,
    /// Trunks whose record changed.
    pub(super) touched: BTreeSet<TrunkId>,
    /// Campaigns that changed.
    pub(super) concerned: BTreeSet<CampaignKey>,
    /// Trunks on which a hold of the policy began.
    pub(super) failed: Vec<TrunkId>,
    /// A hold ended.
    pub(super) lifted: bool,
    /// What people may be told of trunks' health.
    pub(super) notices: Vec<(TrunkId, Value)>,
    /// Incidents that changed.
    pub(super) shaken: BTreeSet<IncidentId>,
    /// Incidents were forgotten.
    pub(super) forgot: bool,
    /// Trunks whose gate opened after it had refused so many calls, which no notice says yet.
    pub(super) saved: BTreeMap<TrunkId, u64>,
}

impl Step<'_> {
    fn configured(&mut self, policy: &ControlPolicy) {
        self.board.policy = policy.clone();
        let named = policy.campaigns.values().flat_map(|campaign| campaign.trunks.iter());
        let named: Vec<TrunkId> = policy.declared.iter().chain(named).cloned().collect();
        for trunk in named {
            self.ensure(&trunk);
        }
        let trunks: Vec<TrunkId> = self.board.trunks.keys().cloned().collect();
        for trunk in &trunks {
            if let Some(record) = self.board.trunks.get_mut(trunk) {
                record.health.declared = policy.declared.contains(trunk);
            }
            self.see(trunk, Fact::Tick);
        }
        self.configure_campaigns();
        self.control_all();
    }

    fn started(&mut self, unseen_since: Timestamp) {
        let pbxs: Vec<PbxId> = self.board.pbxs.keys().cloned().collect();
        for pbx in pbxs {
            self.record(Scope::Pbx(pbx.clone()), EntryKind::Pbx, "link", "controller_down", unseen_since, Value::Null);
            self.pbx_state(&pbx, "connecting", None);
        }
        let trunks: Vec<TrunkId> = self.board.trunks.keys().cloned().collect();
        for trunk in &trunks {
            self.see(trunk, Fact::Started { unseen_since });
        }
        self.control_all();
    }

    fn tick(&mut self) {
        let now = self.at;
        let due: Vec<TrunkId> =
            self.board.trunks.iter().filter(|(_, record)| record.is_due(now)).map(|(id, _)| id.clone()).collect();
        for trunk in &due {
            self.see(trunk, Fact::Tick);
        }
        self.forget_absent();
        self.control_all();
    }

    /// Forgets trunks that are long gone from their PBX, and that neither the configuration, nor a campaign, nor a person's
    /// hold names: else every name that ever was would stay. Above [`MOST_TRUNKS`] the absent are not waited for.
    fn forget_absent(&mut self) {
        let crowded = self.board.trunks.len() > MOST_TRUNKS;
        let patience = if crowded { Duration::ZERO } else { FORGET_AFTER };
        let gone = |record: &TrunkRecord| match record.health.view {
            View::Absent { since } => self.at >= after(since, patience),
            View::Listed | View::Lost { .. } | View::Unlisted { .. } => false,
        };
        let unnamed = |record: &TrunkRecord| {
            !record.health.declared && record.operator_hold.is_none() && record.override_.is_none()
        };
        let candidates = self.board.trunks.iter().filter(|(_, record)| gone(record) && unnamed(record));
        let campaigns = &self.board.campaigns;
        let named = |id: &TrunkId| {
            campaigns.values().any(|campaign| {
                campaign.spec.trunks.contains(id) || campaign.claim.as_ref().is_some_and(|claim| claim.trunk == *id)
            })
        };
        let forgotten: Vec<TrunkId> = candidates.map(|(id, _)| id).filter(|id| !named(id)).cloned().collect();
        for trunk in forgotten {
            let hold = self.board.trunks.get_mut(&trunk).and_then(|record| record.policy_hold.take());
            if let Some(hold) = hold {
                self.end_hold(hold, By::Policy, Some("the trunk is gone from its PBX, and forgotten".to_owned()));
            }
            self.out.gate.remove(&trunk);
            self.board.trunks.remove(&trunk);
            self.touched.insert(trunk);
        }
    }

    fn pbx(&mut self, pbx: &PbxId, fact: &PbxFact) {
        let scope = Scope::Pbx(pbx.clone());
        let at = self.at;
        match fact {
            PbxFact::Connected { version } => {
                self.pbx_state(pbx, "connected", None);
                if let Some(record) = self.board.pbxs.get_mut(pbx) {
                    record.version = Some(version.clone());
                    self.out.pbxs.insert(pbx.clone(), record.clone());
                }
            }
            PbxFact::Lost { last_heard, error } => {
                self.record(scope, EntryKind::Pbx, "link", "lost", *last_heard, json!({ "error": error }));
                self.pbx_state(pbx, "lost", Some(error));
                self.see_all_of(pbx, &Fact::LinkLost { last_heard: *last_heard });
            }
            PbxFact::Unreachable { error } => {
                self.record(scope, EntryKind::Pbx, "link", "lost", at, json!({ "error": error }));
                self.pbx_state(pbx, "lost", Some(error));
            }
            PbxFact::Refused { error } => {
                self.record(scope, EntryKind::Pbx, "link", "refused", at, json!({ "error": error }));
                self.pbx_state(pbx, "refused", Some(error));
            }
            PbxFact::Listed { trunks } => self.listed(pbx, trunks),
            PbxFact::Reloaded => self.record(scope, EntryKind::Pbx, "asterisk", "reloaded", at, Value::Null),
            PbxFact::ShutDown { restart } => {
                self.record(scope, EntryKind::Pbx, "asterisk", "shut_down", at, json!({ "restart": restart }));
            }
            PbxFact::Recording { on } => {
                let word = if *on { "on" } else { "off" };
                self.record(scope, EntryKind::Pbx, "sip_history", word, at, Value::Null);
                if let Some(record) = self.board.pbxs.get_mut(pbx) {
                    record.recording = *on;
                    self.out.pbxs.insert(pbx.clone(), record.clone());
                }
            }
            PbxFact::Deaf { missed } => {
                self.record(scope, EntryKind::Pbx, "events", "deaf", at, json!({ "missed": missed }));
            }
        }
    }

    fn listed(&mut self, pbx: &PbxId, listed: &[ListedTrunk]) {
        if self.board.pbxs.get(pbx).is_none_or(|known| known.state != "listed") {
            let scope = Scope::Pbx(pbx.clone());
            self.record(scope, EntryKind::Pbx, "link", "connected", self.at, Value::Null);
        }
        self.pbx_state(pbx, "listed", None);
        for trunk in listed {
            let record = self.ensure(&trunk.id);
            record.endpoints.clone_from(&trunk.endpoints);
            record.registrations.clone_from(&trunk.registrations);
        }
        let present: BTreeSet<&TrunkId> = listed.iter().map(|trunk| &trunk.id).collect();
        for id in &self.trunks_of(pbx) {
            self.see(id, Fact::Listed { present: present.contains(id) });
        }
        self.control_all();
    }

    fn see_all_of(&mut self, pbx: &PbxId, fact: &Fact) {
        for trunk in self.trunks_of(pbx) {
            self.see(&trunk, fact.clone());
        }
        self.control_all();
    }

    pub(super) fn trunks_of(&self, pbx: &PbxId) -> Vec<TrunkId> {
        self.board.trunks.keys().filter(|id| id.pbx_str() == pbx.as_str()).cloned().collect()
    }

    fn pbx_state(&mut self, pbx: &PbxId, state: &str, error: Option<&str>) {
        let at = self.at;
        let known = self.board.pbxs.entry(pbx.clone()).or_insert_with(|| PbxRecord {
            state: state.to_owned(),
            since: at,
            version: None,
            error: None,
            recording: false,
        });
        if known.state != state {
            state.clone_into(&mut known.state);
            known.since = at;
        }
        known.error = error.map(ToOwned::to_owned);
        self.out.pbxs.insert(pbx.clone(), known.clone());
    }

    /// The trunk, which is made if it is new: unknown, and held by the gate until something is known of it.
    fn ensure(&mut self, trunk: &TrunkId) -> &mut TrunkRecord {
        let (at, out, touched) = (self.at, &mut self.out, &mut self.touched);
        self.board.trunks.entry(trunk.clone()).or_insert_with(|| {
            let gate = GateState {
                allow: false,
                reason: "unknown: not listed by its PBX yet".to_owned(),
                since: at,
                health: Health::Unknown,
                until: None,
                released: None,
                cause: None,
            };
            touched.insert(trunk.clone());
            out.gate.insert(trunk.clone(), gate.clone());
            TrunkRecord {
                health: TrunkHealth::new(at),
                endpoints: Vec::new(),
                registrations: Vec::new(),
                policy_hold: None,
                operator_hold: None,
                override_: None,
                diagnosis: None,
                gate,
                refused_calls: 0,
                refused_without_hold: 0,
                last_ended: None,
                held: false,
                due: None,
            }
        })
    }

    /// Folds a fact into a trunk's health, and lets its hold and gate follow.
    fn see(&mut self, trunk: &TrunkId, fact: Fact) {
        let at = self.at;
        let policy = self.board.policy.health_of(trunk).clone();
        let tick = matches!(fact, Fact::Tick);
        let record = self.ensure(trunk);
        let before = (record.health.status, record.health.reason.clone(), record.health.standing);
        let since = record.health.since;
        record.health = fold(record.health.clone(), &Observation { trunk: trunk.clone(), at, fact }, &policy);
        record.due = due(&record.health, &policy);
        let (status, reason) = (record.health.status, record.health.reason.clone());
        if !tick || before != (status, reason.clone(), record.health.standing) {
            self.touched.insert(trunk.clone());
        }
        if before.0 != status {
            let detail = json!({ "reason": reason.to_string(), "after_seconds": seconds_between(since, at) });
            self.record(Scope::Trunk(trunk.clone()), EntryKind::Health, "", status.as_str(), at, detail);
        }
        self.settle_hold(trunk);
        self.publish_gate(trunk);
        if before.0 != status {
            // Only where this is what let calls through again: later changes must not tell of the same calls twice.
            let refused = self.saved.remove(trunk).unwrap_or(0);
            self.tell_health(trunk, before.0, &reason.to_string(), refused);
        }
    }

    /// Tells of a trunk's health, and of the calls that its gate refused until now.
    fn tell_health(&mut self, trunk: &TrunkId, from: Health, reason: &str, refused: u64) {
        let at = self.at;
        let Some(record) = self.board.trunks.get(trunk) else { return };
        let data = json!({
            "dialer": null, "campaign": null, "hold": record.hold().map(|hold| &hold.id), "trunks": [trunk],
            "reason": with_refused(reason.to_owned(), refused), "refused_calls": refused, "since": at,
            "diagnosis": explanation(record), "fallback": [],
            "trunk": trunk, "from": from, "to": record.health.status, "gate": { "allow": record.gate.allow },
        });
        if self.board.policy.notify.iter().any(|target| target.types.contains(&MessageType::TrunkHealth)) {
            self.notices.push((trunk.clone(), data.clone()));
        }
        self.event(MessageType::TrunkHealth.as_str(), data);
    }

    /// A gate that opens without a change of health (a person's release, the end of their hold, observing only) has its calls
    /// told all the same.
    pub(super) fn tell_saved(&mut self) {
        for (trunk, refused) in std::mem::take(&mut self.saved) {
            let Some(record) = self.board.trunks.get(&trunk) else { continue };
            let (health, reason) = (record.health.status, record.gate.reason.clone());
            self.tell_health(&trunk, health, &reason, refused);
        }
    }

    /// Begins and ends the policy's hold, the override and an operator's hold that has an end.
    fn settle_hold(&mut self, trunk: &TrunkId) {
        let at = self.at;
        let Some(record) = self.board.trunks.get_mut(trunk) else { return };
        let (status, standing) = (record.health.status, record.health.standing);
        let expired = record.override_.take_if(|over| over.until <= at || status == Health::Stable);
        if expired.is_some() {
            self.touched.insert(trunk.clone());
        }
        let ended = record.operator_hold.take_if(|hold| hold.until.is_some_and(|until| until <= at));
        let begins = standing == Standing::Hold && record.policy_hold.is_none() && record.override_.is_none();
        let lifted = if standing == Standing::Clear { record.policy_hold.take() } else { None };
        let reason = explained(&record.health.reason.to_string(), explanation(record));
        let known_well = was_well(&record.health);
        if let Some(hold) = ended {
            self.end_hold(hold, By::Policy, Some("its time is over".to_owned()));
        }
        if let Some(hold) = lifted {
            self.end_hold(hold, By::Policy, None);
        }
        if begins {
            let hold = self.begin_hold(trunk, By::Policy, reason, None);
            if let Some(record) = self.board.trunks.get_mut(trunk) {
                record.policy_hold = Some(hold);
            }
            if known_well {
                self.failed.push(trunk.clone());
            }
        }
    }

    fn begin_hold(&mut self, trunk: &TrunkId, by: By, reason: String, until: Option<Timestamp>) -> Hold {
        let record = self.board.trunks.get(trunk);
        let health = record.map_or(Health::Unknown, |record| record.health.status);
        let diagnosis = record.filter(|_| by == By::Policy).and_then(explanation).cloned();
        let hold = Hold {
            id: self.mint("hold", HoldId::try_from),
            trunk: trunk.clone(),
            since: self.at,
            until,
            by,
            reason,
            health,
            diagnosis,
            observed_only: self.board.policy.mode == Mode::Observe,
            released_at: None,
            released_by: None,
            release_reason: None,
            refused_calls: 0,
        };
        let detail = json!({ "id": hold.id, "by": hold.by, "reason": hold.reason, "health": health, "until": until });
        self.record(Scope::Trunk(trunk.clone()), EntryKind::Hold, owner(&hold), "held", self.at, detail);
        self.event(
            "hold.begun",
            json!({ "hold": hold.id, "trunk": trunk, "by": hold.by, "reason": hold.reason,
            "health": health, "since": hold.since, "until": until, "observed_only": hold.observed_only }),
        );
        self.touched.insert(trunk.clone());
        self.out.holds.push(hold.clone());
        hold
    }

    fn end_hold(&mut self, mut hold: Hold, by: By, reason: Option<String>) {
        self.lifted = true;
        hold.released_at = Some(self.at);
        hold.released_by = Some(by.clone());
        hold.release_reason.clone_from(&reason);
        let held_for = seconds_between(hold.since, self.at);
        let detail = json!({ "id": hold.id, "by": by, "reason": reason, "held_seconds": held_for,
            "refused_calls": hold.refused_calls });
        let scope = Scope::Trunk(hold.trunk.clone());
        self.record(scope, EntryKind::Hold, owner(&hold), "released", self.at, detail);
        self.event(
            "hold.ended",
            json!({ "hold": hold.id, "trunk": hold.trunk, "by": by, "reason": reason,
            "since": hold.since, "held_seconds": held_for, "refused_calls": hold.refused_calls }),
        );
        self.touched.insert(hold.trunk.clone());
        self.credit(&hold);
        if let Some(record) = self.board.trunks.get_mut(&hold.trunk) {
            record.last_ended = Some((hold.id.clone(), hold.refused_calls));
        }
        self.out.holds.push(hold);
    }

    fn operate(&mut self, name: &str, trunk: &TrunkId, act: &Act) {
        let at = self.at;
        let by = By::Operator(name.to_owned());
        let Some(record) = self.board.trunks.get_mut(trunk) else { return };
        match act {
            Act::Hold { reason, lasting } => {
                let before = record.operator_hold.take();
                record.override_ = None;
                if let Some(before) = before {
                    self.end_hold(before, by.clone(), Some("replaced by a new one".to_owned()));
                }
                let hold = self.begin_hold(trunk, by, reason.clone(), lasting.map(|lasting| after(at, lasting)));
                if let Some(record) = self.board.trunks.get_mut(trunk) {
                    record.operator_hold = Some(hold);
                }
            }
            Act::Release { reason, lasting } => {
                if let Some(hold) = record.operator_hold.take() {
                    self.end_hold(hold, by, Some(reason.clone()));
                } else if let Some(hold) = record.policy_hold.take() {
                    let until = after(at, lasting.unwrap_or(OVERRIDE).min(LONGEST_OVERRIDE));
                    record.override_ = Some(Override { by: name.to_owned(), reason: reason.clone(), since: at, until });
                    self.end_hold(hold, by, Some(reason.clone()));
                }
            }
        }
        // An operator's hold that is released leaves the policy's, and a policy hold may be due that an override hid.
        self.settle_hold(trunk);
        self.publish_gate(trunk);
    }

    /// Says anew what the gate says of a trunk, if it changed.
    pub(super) fn publish_gate(&mut self, trunk: &TrunkId) {
        let (at, mode) = (self.at, self.board.policy.mode);
        let Some(record) = self.board.trunks.get_mut(trunk) else { return };
        let mut state = answer(record, mode);
        state.since = if state.allow == record.gate.allow { record.gate.since } else { at };
        // A gate that closed without a hold (a reload, a restart of ours) and opens again released nothing.
        let held = !state.allow && (record.held || record.hold().is_some());
        state.released = match (state.allow, record.held) {
            // Observing only, nothing was released: there is nothing to go easy on.
            (true, true) => Some(at).filter(|_| mode == Mode::Enforce),
            (true, false) => record.gate.released,
            (false, _) => record.gate.released.filter(|_| !held),
        };
        if record.held != held {
            record.held = held;
            self.touched.insert(trunk.clone());
        }
        if state == record.gate {
            return;
        }
        let turned = state.allow != record.gate.allow;
        record.gate = state.clone();
        self.touched.insert(trunk.clone());
        if turned {
            let to = if state.allow { "allow" } else { "hold" };
            let mut detail = json!({ "reason": state.reason });
            let unheld = std::mem::take(&mut record.refused_without_hold);
            if state.allow {
                if record.refused_calls > 0 {
                    self.saved.insert(trunk.clone(), record.refused_calls);
                }
                detail["refused_calls"] = record.refused_calls.into();
                detail["refused_without_hold"] = unheld.into();
            } else {
                // Heard of after the gate had opened.
                if unheld > 0 {
                    detail["refused_without_hold"] = unheld.into();
                }
                record.refused_calls = 0;
            }
            self.record(Scope::Trunk(trunk.clone()), EntryKind::Gate, "", to, at, detail);
            self.event("gate", json!({ "trunk": trunk, "allow": state.allow, "reason": state.reason }));
        }
        self.out.gate.insert(trunk.clone(), state);
    }

    fn record_fact(&mut self, seen: &Observation) {
        let (kind, subject, to, detail) = match &seen.fact {
            Fact::Registration { registration, state, source } => {
                let source = match source {
                    Source::Event => "event",
                    Source::List => "list",
                };
                (EntryKind::Registration, registration.to_string(), state.as_str(), json!({ "source": source }))
            }
            Fact::RegistrationRemoved { registration } => {
                (EntryKind::Registration, registration.to_string(), "removed", Value::Null)
            }
            Fact::Contact { contact, status, rtt } => {
                let rtt = rtt.map(|rtt| rtt.as_secs_f64() * 1000.0);
                (EntryKind::Contact, contact.to_string(), status.as_str(), json!({ "rtt_ms": rtt }))
            }
            Fact::ContactRemoved { contact } => (EntryKind::Contact, contact.to_string(), "removed", Value::Null),
            Fact::Declared
            | Fact::Started { .. }
            | Fact::LinkLost { .. }
            | Fact::Listed { .. }
            | Fact::Parameters { .. }
            | Fact::NextAttempt { .. }
            | Fact::Tick => return,
        };
        self.record(Scope::Trunk(seen.trunk.clone()), kind, &subject, to, seen.at, detail);
    }

    pub(super) fn record(
        &mut self,
        scope: Scope,
        kind: EntryKind,
        subject: &str,
        to: &str,
        at: Timestamp,
        detail: Value,
    ) {
        let (subject, to) = (subject.to_owned(), to.to_owned());
        self.out.records.push(Record { scope, kind, subject, to, at, detail });
    }

    pub(super) fn event(&mut self, kind: &str, data: Value) {
        self.out.events.push(Event { kind: kind.to_owned(), at: self.at, data });
    }

    /// Tells the people who want to hear of `kind`.
    pub(super) fn notify(&mut self, kind: MessageType, data: &Value) {
        let targets: Vec<String> = (self.board.policy.notify.iter())
            .filter(|target| target.types.contains(&kind))
            .map(|target| target.name.clone())
            .collect();
        for target in targets {
            self.send(Recipient::Notify(target), None, kind, data);
        }
    }

    pub(super) fn send(
        &mut self,
        to: Recipient,
        campaign: Option<CampaignKey>,
        kind: MessageType,
        data: &Value,
    ) -> MessageId {
        let id = self.mint("msg", MessageId::try_from);
        let body = json!({ "type": kind, "timestamp": self.at, "data": data });
        self.out.messages.push(Message { id: id.clone(), to, campaign, kind, body, at: self.at });
        id
    }

    pub(super) fn settle_message(&mut self, message: &MessageId, outcome: &ReceiptOutcome) {
        let error = match outcome {
            ReceiptOutcome::Delivered { .. } => None,
            ReceiptOutcome::Abandoned { error } => Some(error.clone()),
        };
        self.out.settled.push(Settled { message: message.clone(), error, at: self.at });
    }

    pub(super) fn mint_incident(&mut self) -> IncidentId {
        self.mint("incident", IncidentId::try_from)
    }

    /// The next id: a ULID of the step's time, the board's seed and a count, so that a replay makes the same ones.
    fn mint<T, E: std::fmt::Debug>(&mut self, prefix: &str, parse: impl Fn(String) -> Result<T, E>) -> T {
        self.board.minted = self.board.minted.wrapping_add(1);
        // SplitMix64 (Steele et al. 2014) spreads seed and count over the random part; nothing here need be secret.
        let mut mixed = self.board.seed ^ self.board.minted.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        let random = (u128::from(self.board.minted & 0xFFFF) << 64) | u128::from(mixed);
        let millis = u64::try_from(self.at.as_millisecond()).unwrap_or(0);
        let mut text = String::with_capacity(prefix.len() + 27);
        let _ = write!(text, "{prefix}_{}", Ulid::from_parts(millis, random));
        #[expect(clippy::expect_used, reason = "a prefix and a ULID are letters, digits and one underscore")]
        parse(text).expect("a minted id is a valid name")
    }

    /// The gateway refused calls on these trunks.
    ///
    /// Each call counts once: for the hold that counts ([`TrunkRecord::hold`]: an operator's before the policy's), or for
    /// none where there is none. What was refused before a hold ended and is told after it is not that hold's any more: an
    /// ended hold is not on the board. A trunk that is not known keeps no count: a dialer that makes names up must not
    /// fill the memory.
    fn refused(&mut self, calls: &BTreeMap<TrunkId, u64>) {
        for (trunk, &count) in calls.iter().filter(|&(_, &count)| count > 0) {
            let Some(record) = self.board.trunks.get_mut(trunk) else { continue };
            record.refused_calls = record.refused_calls.saturating_add(count);
            match record.operator_hold.as_mut().or(record.policy_hold.as_mut()) {
                Some(hold) => {
                    hold.refused_calls = hold.refused_calls.saturating_add(count);
                    self.out.holds.push(hold.clone());
                }
                None => record.refused_without_hold = record.refused_without_hold.saturating_add(count),
            }
            self.touched.insert(trunk.clone());
        }
    }

    fn reported(&mut self, report: &CampaignReport) {
        for trunk in report.trunks.iter().flatten() {
            self.ensure(trunk);
        }
        self.campaign_reported(report);
    }
}

/// A reason, with what the time that is over spared: `airtel-reg registered; 1,204 calls not burned`.
pub(super) fn with_refused(reason: String, calls: u64) -> String {
    match calls {
        0 => reason,
        1 => format!("{reason}; 1 call not burned"),
        _ => format!("{reason}; {} calls not burned", thousands(calls)),
    }
}

/// `1204` as `1,204`.
fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut said = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in (0..digits.len()).rev().zip(digits.chars()) {
        said.push(digit);
        if place > 0 && place % 3 == 0 {
            said.push(',');
        }
    }
    said
}

/// Whose holds a hold is one of: a trunk has at most one active of each, so their history is two series.
const fn owner(hold: &Hold) -> &'static str {
    match hold.by {
        By::Policy => "policy",
        By::Operator(_) => "operator",
    }
}

/// What the gate says of a trunk; `since` is the caller's to set.
fn answer(record: &TrunkRecord, mode: Mode) -> GateState {
    let health = &record.health;
    let said = format!("{}: {}", health.status, explained(&health.reason.to_string(), explanation(record)));
    let (allow, reason, until) = if let Some(hold) = &record.operator_hold {
        (false, format!("held by {}: {}", hold.by, hold.reason), hold.until)
    } else if let Some(over) = &record.override_ {
        let (by, why, until) = (&over.by, &over.reason, over.until);
        (true, format!("released by operator:{by} until {until:.0} ({why}) although {said}"), Some(until))
    } else {
        let until = match health.reason {
            Reason::Recovering { .. } | Reason::Suppressed { .. } | Reason::Unregistered { .. } => record.due,
            Reason::Registered
            | Reason::Reachable
            | Reason::Declared
            | Reason::Rejected { .. }
            | Reason::GaveUp { .. }
            | Reason::Unconfirmed { .. }
            | Reason::Removed { .. }
            | Reason::PartFailed { .. }
            | Reason::RefreshOverdue { .. }
            | Reason::ContactUnreachable { .. }
            | Reason::ContactSlow { .. }
            | Reason::PbxUnheard { .. }
            | Reason::NotListed { .. } => None,
        };
        (health.standing == Standing::Clear, said, until)
    };
    let (since, health) = (record.gate.since, health.status);
    let cause = explanation(record).map(|brief| brief.cause);
    let said = |allow, reason| GateState { allow, reason, since, health, until, released: None, cause };
    match mode {
        Mode::Enforce => said(allow, reason),
        Mode::Observe if allow => said(allow, reason),
        Mode::Observe => said(true, format!("observing only, would hold: {reason}")),
    }
}

pub(super) fn seconds_between(from: Timestamp, to: Timestamp) -> f64 {
    crate::clock::between(from, to).as_secs_f64()
}
