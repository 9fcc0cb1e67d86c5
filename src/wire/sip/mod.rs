//! SIP as it is needed to say why a registration fails: messages, digests, and what was seen of them where.
//!
//! Not a stack: nothing here sends, and what cannot be parsed is kept, because a broken message is evidence too.

pub mod digest;
#[cfg(test)]
mod fixtures;
mod grammar;
mod head;
pub mod message;
pub mod redact;
pub mod stream;
pub mod trace;
pub mod uri;

pub use digest::{Algorithm, Challenge, Credentials};
pub use message::{SipError, SipMessage};
pub use trace::{Direction, Happening, Seen, Source, Transport, Unreachable};
pub use uri::{NameAddr, SipUri};
