//! 4. What is to be done about it: holds, the gate, pauses and resumes. Pure.
//!
//! [`Board`] is everything the controller knows at one instant; [`Board::step`] takes one [`Input`] and says what
//! changed and what must be done ([`Outcome`]). It reads no clock and waits for nothing: the shell closes the gate,
//! commits the outcome in one transaction, opens the gate, and sends what the outbox holds.

pub mod board;
pub mod campaign;
pub mod channel;
mod control;
pub mod diagnosed;
pub mod gate;
#[cfg(test)]
mod histories;
pub mod hold;
mod incidents;
pub mod input;
pub mod outcome;
pub mod policy;
#[cfg(test)]
mod properties;
pub mod step;
pub mod window;

pub use board::{Board, TrunkRecord};
pub use campaign::{Campaign, CampaignState, Claim, Origin, Stage};
pub use channel::{Ways, trunks_of_channel};
pub use diagnosed::Diagnosed;
pub use gate::{Gate, GateState, GateTx};
pub use hold::{By, Hold, Incident};
pub use input::{Act, CampaignReport, Input, ReceiptOutcome};
pub use outcome::{EntryKind, Event, Message, MessageType, Outcome, Recipient, Record, Scope, Settled};
pub use policy::{CampaignSpec, ControlPolicy, DialerPolicy, HoldWhen, Mode, NotifyTarget};
pub use window::{Window, WindowError};

pub use crate::observation::{ListedRegistration, ListedTrunk, PbxFact};
