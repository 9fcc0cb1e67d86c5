//! The AMI gateway: a manager interface in front of Asterisk's own that refuses calls on held trunks, and changes nothing
//! else.
//!
//! A dialer that points at it instead of at Asterisk is protected at once, without a word of its code changed. So it must
//! be as transparent as a wire and as sure as a lock: whatever it lets through as "no call" must be none to Asterisk
//! either, and whatever it holds back must be answered as Asterisk answers an error.
//!
//! | file | answers |
//! |---|---|
//! | [`settings`] | who may connect, what they may do, how dial strings and limits are to be read |
//! | [`admission`] | may this action pass? Pure: the action and the gate go in, a verdict comes out |
//! | `originate` | which ways out an `Originate` takes |
//! | `closed` | which other actions dial, and are closed |
//! | [`limits`] | how many calls, and how many a second, a trunk takes |
//! | [`rights`] | what a user may run |
//! | [`server`] | the listeners, and what all clients share |
//! | `session`, `connection` | one client: what it is answered and what goes on; its sockets |
//! | `control` | the gateway's own session, which asks what actions there are |
//! | [`calls`] | which channels are on which trunk now |
//! | [`figures`], [`refusals`] | what was done, in figures; how many calls were refused on which trunk |
//!
//! Each client has a session of its own at Asterisk (docs/adr/0006): masks, filters, lists and the order of everything are
//! then Asterisk's own work, and no client can be slowed by another. What is originated over ARI does not pass here.

pub mod admission;
mod answer;
pub mod calls;
mod closed;
mod connection;
mod control;
pub mod figures;
pub mod limits;
mod originate;
pub mod refusals;
pub mod rights;
pub mod server;
mod session;
pub mod settings;
#[cfg(test)]
mod tests;

pub use admission::{Refusal, Verdict, admit};
pub use calls::Calls;
pub use figures::Figures;
pub use limits::{Limiter, NoRoom, Ticket};
pub use refusals::Refusals;
pub use server::{Gateway, GatewayError, Parts};
pub use settings::{
    AddressRange, DialRule, GatewaySettings, GatewayUser, Limits, LocalPolicy, Over, Ramp, TlsListen, TrunkLimits,
    Unguarded,
};
