//! 2. Protocol values to facts about trunks; which trunk a fact belongs to; resync after a reconnect.
//!
//! Synchronous and total: values and times come in, facts come out, and what should be asked of the PBX next is itself
//! a value (`observer::Request`), so that whoever holds the sockets can be told without this room knowing them.

pub mod directory;
pub mod fact;
#[cfg(test)]
mod histories;
pub mod observer;

pub use directory::{DeclaredTrunk, Directory, Finding, Inventory};
pub use fact::{
    ContactStatus, Fact, ListedRegistration, ListedTrunk, NextAttempt, Observation, PbxFact, RegistrationParameters,
    RegistrationState, Source,
};
pub use observer::{ListedContact, Lists, Observer, Request, Sighting, Ticket, Told};
