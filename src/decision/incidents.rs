//! Many trunks of one PBX failing together: one incident instead of many notices.
//!
//! Nothing is held less for it. It changes two things: people are told once, and the campaigns it took come back one
//! by one, so that a provider or a network that just came back is not hit by everything at once.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Duration,
};

use serde_json::json;

use super::{
    campaign::Campaign,
    hold::Incident,
    outcome::{Event, MessageType},
    step::{Step, with_refused},
};
use crate::{
    clock::{after, before},
    health::TrunkHealth,
    ids::{PbxId, TrunkId},
};

/// Failures this close together belong together.
const WINDOW: Duration = Duration::from_secs(60);
/// Fewer trunks than this are no incident, whatever share of the PBX they are.
const FEWEST: usize = 3;
/// When nothing joined an incident for so long, it is over; what is held still is held for itself.
const SETTLED: Duration = Duration::from_secs(600);
/// One resume in this time, for campaigns that an incident took.
pub(super) const PACE: Duration = Duration::from_secs(5);

impl Step<'_> {
    /// Ends a step: what failed in it is counted, people are told, and incidents begin, end and are forgotten.
    ///
    /// Once for all trunks of the step, since a lost link makes thousands of them unknown at one instant. An incident
    /// that only grows is written with the next tick: a provider's thousand trunks fail one by one, within a second.
    pub(super) fn conclude(&mut self, ticks: bool) {
        let mut failed: BTreeMap<PbxId, Vec<TrunkId>> = BTreeMap::new();
        for trunk in std::mem::take(&mut self.failed) {
            failed.entry(trunk.pbx()).or_default().push(trunk);
        }
        for (pbx, trunks) in failed {
            self.count_failures(pbx, trunks);
        }
        self.tell_saved();
        self.tell_people();
        if self.lifted || ticks {
            self.end_incidents();
        }
        if ticks {
            self.shaken.append(&mut self.board.grown);
        }
        for id in std::mem::take(&mut self.shaken) {
            self.out.incidents.extend(self.board.incidents.get(&id).cloned());
        }
        self.forget_incidents();
    }

    /// Holds of the policy just began on `trunks`.
    fn count_failures(&mut self, pbx: PbxId, trunks: Vec<TrunkId>) {
        let unheard = self.board.pbxs.get(&pbx).is_some_and(|known| known.state != "listed");
        let is_open = |known: &&mut Incident| known.pbx == pbx && known.ended_at.is_none();
        if let Some(open) = self.board.incidents.values_mut().find(is_open) {
            let known: HashSet<&TrunkId> = if trunks.len() > 1 { open.trunks.iter().collect() } else { HashSet::new() };
            let one =
                |trunk: &TrunkId| if trunks.len() > 1 { known.contains(trunk) } else { open.trunks.contains(trunk) };
            let more: Vec<TrunkId> = trunks.iter().filter(|trunk| !one(trunk)).cloned().collect();
            if !more.is_empty() {
                open.trunks.extend(more);
                open.last_at = self.at;
                open.summary = summary(&pbx, open.trunks.len(), unheard);
                self.board.grown.insert(open.id.clone());
            }
            return;
        }
        let earliest = before(self.at, WINDOW);
        let on_pbx = self.board.trunks.iter().filter(|(id, _)| id.pbx_str() == pbx.as_str());
        let all = on_pbx.clone().count();
        let failed = on_pbx
            .filter(|(_, record)| was_well(&record.health))
            .filter_map(|(id, record)| Some((record.policy_hold.as_ref()?.since, id)))
            .filter(|(since, _)| *since >= earliest);
        let count = failed.clone().count();
        if count < FEWEST || count * 2 < all {
            return;
        }
        let mut failed: Vec<_> = failed.collect();
        failed.sort();
        let since = failed.first().map_or(self.at, |(since, _)| *since);
        let trunks: Vec<TrunkId> = failed.into_iter().map(|(_, id)| id.clone()).collect();
        let incident = Incident {
            refused_calls: 0,
            id: self.mint_incident(),
            summary: summary(&pbx, trunks.len(), unheard),
            pbx,
            since,
            last_at: self.at,
            ended_at: None,
            trunks,
            last_resume_at: None,
        };
        self.tell(&incident);
        self.board.incidents.insert(incident.id.clone(), incident);
    }

    /// Tells people of each trunk's health, but for those they were told of by an incident.
    fn tell_people(&mut self) {
        let notices = std::mem::take(&mut self.notices);
        let open = || self.board.incidents.values().filter(|known| known.ended_at.is_none());
        let told: BTreeSet<TrunkId> = match notices.as_slice() {
            [] => return,
            [(one, _)] => open().filter(|known| known.trunks.contains(one)).map(|_| one.clone()).collect(),
            _ => open().flat_map(|known| known.trunks.iter().cloned()).collect(),
        };
        for (trunk, data) in notices {
            if !told.contains(&trunk) {
                self.notify(MessageType::TrunkHealth, &data);
                continue;
            }
            // Told by the incident, once it is over.
            let refused = data.get("refused_calls").and_then(serde_json::Value::as_u64).unwrap_or(0);
            let takes = |known: &&mut Incident| known.ended_at.is_none() && known.trunks.contains(&trunk);
            if refused > 0
                && let Some(incident) = self.board.incidents.values_mut().find(takes)
            {
                incident.refused_calls = incident.refused_calls.saturating_add(refused);
                self.shaken.insert(incident.id.clone());
            }
        }
    }

    /// Holds may just have ended: an incident ends with the last of its trunks, or when none joined it for
    /// [`SETTLED`]: one trunk that is dead for good must not keep the others' news from people.
    fn end_incidents(&mut self) {
        let held = |id: &TrunkId| self.board.trunks.get(id).is_some_and(|record| record.policy_hold.is_some());
        let over: Vec<_> = (self.board.incidents.values())
            .filter(|known| known.ended_at.is_none())
            .filter(|known| self.at >= after(known.last_at, SETTLED) || !known.trunks.iter().any(held))
            .map(|known| known.id.clone())
            .collect();
        for id in over {
            if let Some(incident) = self.board.incidents.get_mut(&id) {
                incident.ended_at = Some(self.at);
                let incident = incident.clone();
                self.tell(&incident);
            }
        }
    }

    /// Forgets incidents that are over and that no campaign of ours waits for.
    fn forget_incidents(&mut self) {
        let waits = |incident: &Incident, campaign: &Campaign| {
            campaign.claim.as_ref().is_some_and(|claim| claim.is_owed() && incident.trunks.contains(&claim.trunk))
        };
        let campaigns = &self.board.campaigns;
        let before = self.board.incidents.len();
        self.board.incidents.retain(|_, incident| {
            incident.ended_at.is_none() || campaigns.values().any(|campaign| waits(incident, campaign))
        });
        self.forgot = self.board.incidents.len() != before;
    }

    fn tell(&mut self, incident: &Incident) {
        let data = json!({
            "dialer": null, "campaign": null, "hold": null, "trunks": incident.trunks,
            "reason": with_refused(incident.summary.clone(), incident.refused_calls), "refused_calls": incident.refused_calls,
            "since": incident.since, "diagnosis": null, "fallback": [],
            "incident": incident.id, "pbx": incident.pbx, "ended_at": incident.ended_at,
        });
        self.notify(MessageType::Incident, &data);
        self.out.events.push(Event { kind: MessageType::Incident.as_str().to_owned(), at: self.at, data });
        self.shaken.insert(incident.id.clone());
    }
}

fn summary(pbx: &PbxId, count: usize, unheard: bool) -> String {
    if unheard {
        format!("{pbx} is not heard: nobody can tell how {count} of its trunks are")
    } else {
        format!("{count} trunks of {pbx} failed within a minute of each other")
    }
}

/// Whether a trunk was well at some time: what is found dead at first sight did not fail now.
pub(super) fn was_well(health: &TrunkHealth) -> bool {
    health.ever_registered
        || health.contacts.values().any(|contact| contact.ever_reachable)
        || (health.declared && health.registrations.is_empty())
}
