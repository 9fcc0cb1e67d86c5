//! How messages leave: the [`Dispatcher`], the port it takes them from, and how patient it is.

pub mod dispatcher;
pub mod policy;
pub mod port;

pub use dispatcher::{Dispatcher, Recipients};
pub use policy::OutboxPolicy;
pub use port::{Leased, Outbox, OutboxError};
