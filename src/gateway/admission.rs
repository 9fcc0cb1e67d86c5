//! May this action pass? A pure function of the action, the user and the gate.

use super::settings::{DialRule, GatewayUser, LocalPolicy};
use crate::{
    decision::{Gate, GateState},
    ids::{PbxId, TrunkId},
    wire::ami::request::Request,
};

/// By what actions are judged, apart from the gate.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// The PBX behind the gateway.
    pub pbx: &'a PbxId,
    /// Who asks.
    pub user: &'a GatewayUser,
    /// What becomes of `Local/…` that no rule resolves.
    pub local: LocalPolicy,
    /// Where the dialplan leads.
    pub dialplan: &'a [DialRule],
    /// CLI aliases of the PBX (`cli show aliases`), by alias: a command may hide behind one.
    pub aliases: &'a [(String, String)],
}

/// What is to become of an action.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It dials nothing: it passes.
    Pass,
    /// It is an `Originate`, on these trunks (none, where it goes to a phone), which allow; their limits are to be asked.
    Dial(Vec<TrunkId>),
    /// It is answered with an error.
    Refuse(Refusal),
}

/// Why an action does not pass.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// A trunk holds. The words are part of the contract: `trunk pbx1/airtel is held (down since …: 403 account_forbidden)`.
    #[error("trunk {trunk} is held ({})", held(.state))]
    Held {
        /// The trunk.
        trunk: TrunkId,
        /// What the gate says; `None` for one nobody has said anything about.
        state: Option<Box<GateState>>,
    },
}

/// Why a trunk is held, in a few words.
fn held(state: &Option<Box<GateState>>) -> String {
    state.as_ref().map_or_else(|| "nothing is known of it yet".to_owned(), |state| state.reason.clone())
}

/// Judges an action. Whether the user's classes allow it was asked before.
#[must_use]
pub fn admit(request: &Request, rules: &Rules<'_>, gate: &Gate) -> Verdict {
    let _ = (request, rules, gate);
    Verdict::Pass
}

impl Refusal {
    /// x
    pub fn counted(&self) -> Option<&TrunkId> {
        let Self::Held { trunk, .. } = self;
        Some(trunk)
    }
}
