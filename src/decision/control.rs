//! What holds mean for campaigns: when a pause is sent, and when the resume that ends it.
//!
//! A pause makes a *claim*: our record that this campaign stands still because of us. Only a claim whose pause the
//! dialer took, on a campaign that was running, leads to a resume, and to exactly one. Whoever else touches the campaign
//! meanwhile ends the claim, and it is theirs.

use serde_json::{Value, json};

use super::{
    board::TrunkRecord,
    campaign::{Campaign, CampaignState, Claim, Origin, Stage},
    hold::{By, Hold},
    incidents::PACE,
    input::{CampaignReport, ReceiptOutcome},
    outcome::{MessageType, Recipient, Settled},
    policy::{CampaignSpec, DialerPolicy, HoldWhen, Mode},
    step::{Step, with_refused},
};
use crate::{
    clock::{Timestamp, after},
    health::{Health, Reason},
    ids::{CampaignKey, HoldId, MessageId, TrunkId},
};

/// A trunk that stops a campaign, and from when on that is worth a pause.
struct Blocking {
    trunk: TrunkId,
    hold: HoldId,
    reason: String,
    since: Timestamp,
    pause_at: Timestamp,
}

impl Step<'_> {
    /// Brings the board's campaigns in line with the configuration. One that is no longer configured stays while we
    /// have a claim on it: it must still be resumed.
    pub(super) fn configure_campaigns(&mut self) {
        let specs: Vec<CampaignSpec> = self.board.policy.campaigns.values().cloned().collect();
        for spec in specs {
            let at = self.at;
            let key = spec.key.clone();
            let campaign = self.board.campaigns.entry(key.clone()).or_insert_with(|| Campaign {
                spec: spec.clone(),
                origin: Origin::Configured,
                state: CampaignState::Unknown,
                since: at,
                claim: None,
            });
            campaign.spec = spec;
            campaign.origin = Origin::Configured;
            self.concerned.insert(key);
        }
        let configured = &self.board.policy.campaigns;
        for (key, campaign) in &mut self.board.campaigns {
            if campaign.origin == Origin::Configured && !configured.contains_key(key) {
                campaign.origin = Origin::Retired; // `control_all` follows, and forgets it if nothing is owed to it
                self.concerned.insert(key.clone());
            }
        }
        // A dialer that answered 410 is tried again with a new configuration, and so is a pause it did not take.
        for (key, campaign) in &mut self.board.campaigns {
            if campaign.claim.take_if(|claim| matches!(claim.stage, Stage::Failed { .. })).is_some() {
                self.concerned.insert(key.clone());
            }
        }
        let dialers = &self.board.policy.dialers;
        let gone: Vec<CampaignKey> = (self.board.campaigns.iter())
            .filter(|(key, campaign)| !dialers.contains_key(&key.dialer) && campaign.claim.is_none())
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.board.campaigns.remove(&key);
            self.concerned.insert(key);
        }
    }

    /// A dialer told something of a campaign.
    pub(super) fn campaign_reported(&mut self, report: &CampaignReport) {
        let (at, key) = (self.at, &report.key);
        let campaign = self.board.campaigns.entry(key.clone()).or_insert_with(|| Campaign {
            spec: CampaignSpec {
                key: key.clone(),
                name: None,
                trunks: Vec::new(),
                hold_when: HoldWhen::default(),
                fallback: Vec::new(),
                resume_window: None,
                resume_within: None,
            },
            origin: Origin::Told,
            state: CampaignState::Unknown,
            since: at,
            claim: None,
        });
        if campaign.origin == Origin::Retired {
            campaign.origin = Origin::Told;
        }
        if let Some(name) = &report.name {
            campaign.spec.name = Some(name.clone());
        }
        if let Some(trunks) = &report.trunks {
            campaign.spec.trunks.clone_from(trunks);
        }
        let (mut overridden, mut withdrawn) = (None, vec![]);
        if let Some(state) = report.state {
            if campaign.state != state {
                campaign.state = state;
                campaign.since = at;
            }
            let stage = campaign.claim.as_ref().map(|claim| claim.stage.clone());
            match (stage, state) {
                (
                    Some(stage @ (Stage::Paused { .. } | Stage::LeftToPerson)),
                    CampaignState::Running | CampaignState::Stopped,
                ) => {
                    overridden = Some(stage.as_str());
                    campaign.claim = campaign.claim.take().map(|claim| Claim { stage: Stage::Overridden, ..claim });
                }
                // It runs, which is all the resume was for; most likely its receipt is on the way.
                (Some(Stage::Resuming { message }), CampaignState::Running) => {
                    withdrawn.push((message, None));
                    campaign.claim = None;
                }
                // What a person stopped must not be started by a resume that waits, nor by the one that a pause would
                // lead to.
                (Some(stage @ (Stage::Pausing { .. } | Stage::Resuming { .. })), CampaignState::Stopped) => {
                    overridden = Some(stage.as_str());
                    let messages = match stage {
                        Stage::Pausing { message, behind, .. } => behind.into_iter().chain([message]).collect(),
                        Stage::Resuming { message } => vec![message],
                        Stage::Paused { .. }
                        | Stage::WasNotRunning
                        | Stage::Overridden
                        | Stage::Failed { .. }
                        | Stage::LeftToPerson => vec![],
                    };
                    let why = || Some("withdrawn: the campaign was stopped".to_owned());
                    withdrawn.extend(messages.into_iter().map(|message| (message, why())));
                    campaign.claim = None;
                }
                // It was told anew: what its receipt said then is past. If it was started during the hold, it is paused.
                (
                    Some(Stage::WasNotRunning),
                    CampaignState::Running | CampaignState::Paused | CampaignState::Stopped,
                ) => {
                    campaign.claim = None;
                }
                // "Running" may have been said before the pause arrived, "paused" is its echo.
                (
                    None
                    | Some(
                        Stage::Pausing { .. }
                        | Stage::Paused { .. }
                        | Stage::Resuming { .. }
                        | Stage::WasNotRunning
                        | Stage::Overridden
                        | Stage::Failed { .. }
                        | Stage::LeftToPerson,
                    ),
                    CampaignState::Running | CampaignState::Paused | CampaignState::Stopped | CampaignState::Unknown,
                ) => {}
            }
        }
        for (message, error) in withdrawn {
            self.out.settled.push(Settled { message, error, at });
        }
        self.concerned.insert(key.clone());
        if let Some(was) = overridden {
            let data = json!({ "dialer": key.dialer, "campaign": key.id, "was": was, "state": report.state });
            self.event("campaign.overridden", data);
        }
        self.control(key);
    }

    /// A message was delivered, or never will be.
    pub(super) fn receipt(&mut self, message: &MessageId, outcome: &ReceiptOutcome) {
        self.settle_message(message, outcome);
        let at = self.at;
        if let ReceiptOutcome::Abandoned { .. } = outcome {
            self.resume_failed(message);
        }
        let claimed = self.board.campaigns.iter_mut().find_map(|(key, campaign)| {
            let claim = campaign.claim.as_ref()?;
            let ours = match &claim.stage {
                Stage::Pausing { message: ours, .. } | Stage::Resuming { message: ours } => ours == message,
                Stage::Paused { .. }
                | Stage::WasNotRunning
                | Stage::Overridden
                | Stage::Failed { .. }
                | Stage::LeftToPerson => false,
            };
            ours.then(|| (key.clone(), campaign))
        });
        let Some((key, campaign)) = claimed else { return };
        let Some(claim) = &mut campaign.claim else { return };
        let stage = match (&claim.stage, outcome) {
            (Stage::Pausing { left: true, .. }, ReceiptOutcome::Delivered { was_running: None }) => {
                Some(Stage::LeftToPerson)
            }
            (Stage::Pausing { .. }, ReceiptOutcome::Delivered { was_running: Some(false) }) => {
                Some(Stage::WasNotRunning)
            }
            (Stage::Pausing { .. }, ReceiptOutcome::Delivered { .. }) => Some(Stage::Paused { at }),
            (Stage::Pausing { .. }, ReceiptOutcome::Abandoned { error }) => {
                Some(Stage::Failed { error: error.clone() })
            }
            (_, ReceiptOutcome::Delivered { .. }) => None,
            (_, ReceiptOutcome::Abandoned { .. }) => Some(Stage::LeftToPerson),
        };
        let state = match &stage {
            Some(Stage::Paused { .. } | Stage::LeftToPerson) => CampaignState::Paused,
            None => CampaignState::Running,
            Some(
                Stage::Pausing { .. }
                | Stage::Resuming { .. }
                | Stage::WasNotRunning
                | Stage::Overridden
                | Stage::Failed { .. },
            ) => campaign.state,
        };
        match stage {
            Some(stage) => claim.stage = stage,
            None => campaign.claim = None,
        }
        if campaign.state != state {
            campaign.state = state;
            campaign.since = at;
        }
        self.concerned.insert(key.clone());
        self.control(&key);
    }

    /// A resume that was given up while the next pause waited behind it: the campaign was not resumed, so what the
    /// dialer says of that pause is about what we stopped.
    fn resume_failed(&mut self, resume: &MessageId) {
        for (key, campaign) in &mut self.board.campaigns {
            if let Some(Stage::Pausing { left, behind, .. }) = campaign.claim.as_mut().map(|claim| &mut claim.stage)
                && behind.as_ref() == Some(resume)
            {
                (*left, *behind) = (true, None);
                self.concerned.insert(key.clone());
            }
        }
    }

    /// Decides for every campaign.
    pub(super) fn control_all(&mut self) {
        let keys: Vec<CampaignKey> = self.board.campaigns.keys().cloned().collect();
        for key in &keys {
            self.control(key);
        }
    }

    /// Decides for the campaigns that dial on `trunk`.
    pub(super) fn control_trunk(&mut self, trunk: &TrunkId) {
        let concerned: Vec<CampaignKey> = (self.board.campaigns.iter())
            .filter(|(_, campaign)| {
                campaign.spec.trunks.contains(trunk)
                    || campaign.claim.as_ref().is_some_and(|claim| claim.trunk == *trunk)
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in &concerned {
            self.control(key);
        }
    }

    /// Decides for one campaign.
    fn control(&mut self, key: &CampaignKey) {
        self.decide(key);
        let done = |campaign: &Campaign| {
            campaign.origin == Origin::Retired && !campaign.claim.as_ref().is_some_and(Claim::is_owed)
        };
        if self.board.campaigns.get(key).is_some_and(done) {
            self.board.campaigns.remove(key);
            self.concerned.insert(key.clone());
        }
    }

    fn decide(&mut self, key: &CampaignKey) {
        let Some(dialer) = self.board.policy.dialers.get(&key.dialer).cloned() else { return };
        let Some(campaign) = self.board.campaigns.get(key) else { return };
        // Observing pauses nothing; what was paused before is still ours to resume.
        let blocking = match self.board.policy.mode {
            Mode::Enforce => self.blocking(&campaign.spec, &dialer),
            Mode::Observe => None,
        };
        let retired = campaign.origin == Origin::Retired;
        let paused = matches!(&campaign.claim, Some(Claim { stage: Stage::Paused { .. }, .. }));
        match (blocking, campaign.claim.clone()) {
            // Nobody asks us to pause it any more.
            (Some(_), _) if retired && !paused => {}
            (Some(blocking), None) => {
                let runs = matches!(campaign.state, CampaignState::Running | CampaignState::Unknown);
                if runs && self.at >= blocking.pause_at {
                    self.pause(key, &blocking, false);
                }
            }
            (Some(blocking), Some(claim)) => match claim.stage {
                // The trunk fell again before the dialer took the resume: the pause queues up behind it.
                Stage::Resuming { .. } if self.at >= blocking.pause_at => self.pause(key, &blocking, false),
                // It should be paused still, by us; a person may have resumed it without telling.
                Stage::LeftToPerson if claim.hold != blocking.hold && self.at >= blocking.pause_at => {
                    self.pause(key, &blocking, true);
                }
                // The claim follows the hold that is current now.
                Stage::Paused { .. } => self.carry_over(key, &blocking),
                Stage::Pausing { .. }
                | Stage::Resuming { .. }
                | Stage::WasNotRunning
                | Stage::Overridden
                | Stage::Failed { .. }
                | Stage::LeftToPerson => {}
            },
            (None, Some(claim)) => match claim.stage {
                Stage::Paused { .. } => self.resume(key, &claim),
                Stage::WasNotRunning | Stage::Overridden | Stage::Failed { .. } => self.drop_claim(key),
                // A resume needs the pause's receipt: it says whether there is anything to resume.
                Stage::Pausing { .. } | Stage::Resuming { .. } | Stage::LeftToPerson => {}
            },
            (None, None) => {}
        }
    }

    /// What stops a campaign now, if anything does.
    fn blocking(&self, spec: &CampaignSpec, dialer: &DialerPolicy) -> Option<Blocking> {
        let of = |trunk: &TrunkId| {
            let record = self.board.trunks.get(trunk)?;
            let hold = record.hold()?;
            // What began with our own blindness is given the patience for that, until the trunk is seen to fail.
            let unseen = match (&hold.by, record.health.status, &record.health.reason) {
                (By::Policy, Health::Unknown, Reason::PbxUnheard { since } | Reason::NotListed { since }) => {
                    Some(*since)
                }
                (By::Policy, Health::Unstable, Reason::Recovering { .. }) if hold.health == Health::Unknown => {
                    Some(hold.since)
                }
                (By::Policy | By::Operator(_), _, _) => None,
            };
            Some(Blocking {
                trunk: trunk.clone(),
                hold: hold.id.clone(),
                reason: hold.reason.clone(),
                since: hold.since,
                pause_at: match unseen {
                    Some(since) => after(since, dialer.pause_unknown_after),
                    None => after(hold.since, dialer.pause_after),
                },
            })
        };
        let mut held: Vec<Blocking> = spec.trunks.iter().filter_map(of).collect();
        held.sort_by_key(|blocking| blocking.pause_at);
        match spec.hold_when {
            HoldWhen::Any => held.into_iter().next(),
            HoldWhen::All if held.len() == spec.trunks.len() => held.pop(),
            HoldWhen::All => None,
        }
    }

    fn pause(&mut self, key: &CampaignKey, blocking: &Blocking, left: bool) {
        let data = self.data(key, &blocking.hold, &blocking.reason, blocking.since);
        let message =
            self.send(Recipient::Dialer(key.dialer.clone()), Some(key.clone()), MessageType::CampaignPause, &data);
        self.event(MessageType::CampaignPause.as_str(), data);
        if let Some(campaign) = self.board.campaigns.get_mut(key) {
            let behind = match campaign.claim.take().map(|claim| claim.stage) {
                Some(Stage::Resuming { message }) => Some(message),
                None
                | Some(
                    Stage::Pausing { .. }
                    | Stage::Paused { .. }
                    | Stage::WasNotRunning
                    | Stage::Overridden
                    | Stage::Failed { .. }
                    | Stage::LeftToPerson,
                ) => None,
            };
            campaign.claim = Some(Claim {
                hold: blocking.hold.clone(),
                trunk: blocking.trunk.clone(),
                since: self.at,
                stage: Stage::Pausing { message, left, behind },
                refused_calls: 0,
            });
        }
        self.concerned.insert(key.clone());
    }

    /// A hold ended: what it refused is added up for those that stand still on its trunk, to be told when they resume.
    pub(super) fn credit(&mut self, hold: &Hold) {
        if hold.refused_calls == 0 {
            return;
        }
        for (key, campaign) in &mut self.board.campaigns {
            let dials = campaign.spec.trunks.contains(&hold.trunk);
            if let Some(claim) = campaign.claim.as_mut().filter(|claim| dials || claim.trunk == hold.trunk) {
                claim.refused_calls = claim.refused_calls.saturating_add(hold.refused_calls);
                self.concerned.insert(key.clone());
            }
        }
    }

    fn carry_over(&mut self, key: &CampaignKey, blocking: &Blocking) {
        if let Some(claim) = self.board.campaigns.get_mut(key).and_then(|campaign| campaign.claim.as_mut())
            && claim.hold != blocking.hold
        {
            claim.hold = blocking.hold.clone();
            claim.trunk = blocking.trunk.clone();
            self.concerned.insert(key.clone());
        }
    }

    fn drop_claim(&mut self, key: &CampaignKey) {
        if let Some(campaign) = self.board.campaigns.get_mut(key) {
            // A dialer that only answers pauses told us nothing that still holds: the next hold asks it again.
            if campaign.claim.take().is_some_and(|claim| claim.stage == Stage::WasNotRunning) {
                campaign.state = CampaignState::Unknown;
                campaign.since = self.at;
            }
            self.concerned.insert(key.clone());
        }
    }

    fn resume(&mut self, key: &CampaignKey, claim: &Claim) {
        let Some(campaign) = self.board.campaigns.get(key) else { return };
        let spec = &campaign.spec;
        if spec.resume_within.is_some_and(|limit| self.at > after(claim.since, limit)) {
            let data = self.data(
                key,
                &claim.hold,
                "paused for longer than resume_within: a person must resume it",
                claim.since,
            );
            self.event("campaign.left", data);
            self.set_stage(key, Stage::LeftToPerson);
            return;
        }
        let open = spec.resume_window.as_ref().is_none_or(|window| window.contains(self.at));
        if !open || !self.may_dial(spec) || !self.take_turn(claim) {
            return;
        }
        let gate = self.board.trunks.get(&claim.trunk).map(|record| record.gate.reason.as_str());
        let reason = format!("{} is {}", claim.trunk, gate.unwrap_or("not known any more"));
        let reason = with_refused(reason, claim.refused_calls);
        let mut data = self.data(key, &claim.hold, &reason, claim.since);
        data["refused_calls"] = claim.refused_calls.into();
        let message =
            self.send(Recipient::Dialer(key.dialer.clone()), Some(key.clone()), MessageType::CampaignResume, &data);
        self.event(MessageType::CampaignResume.as_str(), data);
        self.set_stage(key, Stage::Resuming { message });
    }

    /// Whether the gate lets the campaign dial: a trunk that just un-registered is not held yet, but nothing resumes on it.
    fn may_dial(&self, spec: &CampaignSpec) -> bool {
        let allows = |trunk: &TrunkId| self.board.trunks.get(trunk).is_some_and(|record| record.gate.allow);
        match spec.hold_when {
            HoldWhen::Any => spec.trunks.iter().all(allows),
            HoldWhen::All => spec.trunks.is_empty() || spec.trunks.iter().any(allows),
        }
    }

    /// Whether it is this campaign's turn: those that an incident took come back one by one.
    fn take_turn(&mut self, claim: &Claim) -> bool {
        let at = self.at;
        let Some(incident) = self.board.incidents.values_mut().find(|known| known.trunks.contains(&claim.trunk)) else {
            return true;
        };
        if incident.last_resume_at.is_some_and(|last| at < after(last, PACE)) {
            return false;
        }
        incident.last_resume_at = Some(at);
        self.shaken.insert(incident.id.clone());
        true
    }

    fn set_stage(&mut self, key: &CampaignKey, stage: Stage) {
        if let Some(claim) = self.board.campaigns.get_mut(key).and_then(|campaign| campaign.claim.as_mut()) {
            claim.stage = stage;
        }
        self.concerned.insert(key.clone());
    }

    fn data(&self, key: &CampaignKey, hold: &HoldId, reason: &str, since: Timestamp) -> Value {
        let spec = self.board.campaigns.get(key).map(|campaign| &campaign.spec);
        let held = self.board.trunks.values().filter_map(TrunkRecord::hold).find(|known| known.id == *hold);
        let diagnosis = held.and_then(|hold| hold.diagnosis.as_ref());
        json!({
            "dialer": key.dialer, "campaign": key.id, "hold": hold, "trunks": spec.map(|spec| &spec.trunks),
            "reason": reason, "since": since, "diagnosis": diagnosis, "fallback": spec.map(|spec| &spec.fallback),
        })
    }
}
