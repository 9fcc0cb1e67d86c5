//! A simulated PBX, provider and dialer that speak the real protocols on loopback: for the demo, for tests and for load.
//!
//! What the simulated PBX says must be what Asterisk says: its unit tests compare it with recordings of Asterisk 22, and
//! where it knowingly does less it says so ([`pbx`]). Nothing of the controller is used to make its answers, so that a
//! mistake in our reading of the protocol is not made twice.
//!
//! | file | plays |
//! |---|---|
//! | [`provider`] | the other end of a trunk: what it answers to a REGISTER and to a call |
//! | [`registration`] | one outbound registration as Asterisk drives it; pure |
//! | [`sip`] | the messages of its attempts, for those who watch the wire; pure |
//! | [`dice`] | chance that is the same on every machine |
//! | [`pbx`] | Asterisk: the registrations together, and the AMI in front of them |
//! | [`dialer`] | a dialer: campaigns, a webhook receiver, calls over AMI |
//! | [`story`] | the demo's scenario as data |
//! | [`narrate`] | decisions as lines a person can read |
//! | [`demo`] | the demo, but for the controller itself |

pub mod demo;
pub mod dialer;
pub mod dice;
pub mod narrate;
pub mod pbx;
pub mod provider;
pub mod registration;
pub mod sip;
pub mod story;

pub use dialer::{SimCampaign, SimDialer, SimDialerSettings};
pub use pbx::{Classes, HepFeed, SimError, SimPbx, SimSettings, SimTrunk, SimUser, Start, Timing};
pub use provider::Behaviour;
pub use registration::RegistrationSettings;
