//! Many trunks of one PBX failing together: one incident instead of many notices.
//!
//! Nothing is held less for it. It changes two things: people are told once, and the campaigns it took come back one
//! by one, so that a provider or a network that just came back is not hit by everything at once.

use std::time::Duration;

use serde_json::json;

use super::{
    hold::Incident,
    outcome::{Event, MessageType},
    step::Step,
};
use crate::{
    clock::before,
    ids::{PbxId, TrunkId},
};

/// Failures this close together belong together.
const WINDOW: Duration = Duration::from_secs(60);
/// Fewer trunks than this are no incident, whatever share of the PBX they are.
const FEWEST: usize = 3;
/// One resume in this time, for campaigns that an incident took.
pub(super) const PACE: Duration = Duration::from_secs(5);

impl Step<'_> {
    /// A hold of the policy just began on `trunk`.
    pub(super) fn count_failure(&mut self, trunk: &TrunkId) {
        let pbx = trunk.pbx();
        if let Some(open) = self.board.incidents.values_mut().find(|known| known.pbx == pbx && known.ended_at.is_none())
        {
            if !open.trunks.contains(trunk) {
                open.trunks.push(trunk.clone());
                open.summary = summary(&pbx, open.trunks.len());
                self.out.incidents.push(open.clone());
            }
            return;
        }
        let earliest = before(self.at, WINDOW);
        let on_pbx = self.board.trunks.iter().filter(|(id, _)| id.pbx_str() == pbx.as_str());
        let all = on_pbx.clone().count();
        let mut failed: Vec<_> = on_pbx
            .filter_map(|(id, record)| Some((record.policy_hold.as_ref()?.since, id.clone())))
            .filter(|(since, _)| *since >= earliest)
            .collect();
        if failed.len() < FEWEST || failed.len() * 2 < all {
            return;
        }
        failed.sort();
        let since = failed.first().map_or(self.at, |(since, _)| *since);
        let trunks: Vec<TrunkId> = failed.into_iter().map(|(_, id)| id).collect();
        let incident = Incident {
            id: self.mint_incident(),
            summary: summary(&pbx, trunks.len()),
            pbx,
            since,
            ended_at: None,
            trunks,
            last_resume_at: None,
        };
        self.tell(&incident);
        self.board.incidents.insert(incident.id.clone(), incident);
    }

    /// `trunk` may just have become clear: an incident ends with the last of its trunks, and is forgotten once no
    /// campaign waits for it any more.
    pub(super) fn end_incidents(&mut self, trunk: &TrunkId) {
        let held = |id: &TrunkId| self.board.trunks.get(id).is_some_and(|record| record.policy_hold.is_some());
        if self.board.incidents.is_empty() || held(trunk) {
            return;
        }
        let over: Vec<_> = (self.board.incidents.values())
            .filter(|known| known.ended_at.is_none() && known.trunks.contains(trunk) && !known.trunks.iter().any(held))
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

    /// Whether people were told of `trunk` by an incident already.
    pub(super) fn is_in_open_incident(&self, trunk: &TrunkId) -> bool {
        self.board.incidents.values().any(|known| known.ended_at.is_none() && known.trunks.contains(trunk))
    }

    /// Forgets incidents that are over and that no campaign of ours waits for.
    pub(super) fn forget_incidents(&mut self) {
        let campaigns = &self.board.campaigns;
        self.board.incidents.retain(|_, incident| {
            incident.ended_at.is_none()
                || campaigns
                    .values()
                    .any(|campaign| campaign.claim.as_ref().is_some_and(|claim| incident.trunks.contains(&claim.trunk)))
        });
    }

    fn tell(&mut self, incident: &Incident) {
        let data = json!({
            "dialer": null, "campaign": null, "hold": null, "trunks": incident.trunks, "reason": incident.summary,
            "since": incident.since, "diagnosis": null, "fallback": [],
            "incident": incident.id, "pbx": incident.pbx, "ended_at": incident.ended_at,
        });
        self.notify(MessageType::Incident, &data);
        self.out.events.push(Event { kind: MessageType::Incident.as_str().to_owned(), at: self.at, data });
        self.out.incidents.push(incident.clone());
    }
}

fn summary(pbx: &PbxId, count: usize) -> String {
    format!("{count} trunks of {pbx} failed within a minute of each other")
}
