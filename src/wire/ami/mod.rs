//! The Asterisk Manager Interface: framing, messages, typed events, actions, and the client that holds the two connections.
//!
//! | file | answers |
//! |---|---|
//! | [`codec`] | where one message ends and the next begins, whatever way the bytes arrive |
//! | [`message`] | which headers a message has; what in it is secret and cannot be printed |
//! | [`action`] | how a request is written so that nothing can be smuggled into it |
//! | [`event`] | what the events and lists we read mean |
//! | [`registrations_cli`] | what `pjsip show registrations` says beyond the event list: the next attempt |
//! | [`frames`] | where a message ends, for whoever hands it on byte for byte |
//! | [`request`] | what Asterisk reads in what a client sends |
//! | [`classes`] | which privilege classes there are |
//! | [`client`] | sessions and links: login, keepalive, correlation, reconnect. The sockets are here |
//!
//! All but [`client`] is pure and takes its time as data.

pub mod action;
pub mod classes;
pub mod client;
pub mod codec;
pub mod event;
pub mod frames;
pub mod message;
pub mod registrations_cli;
pub mod request;

pub use action::{Action, ActionError};
pub use classes::Classes;
pub use codec::{AmiVersion, Banner, DecodeError, DecodeLimits, Decoder, Frame};
pub use event::{AmiEvent, EventError};
pub use message::{Header, Headers, Message};
