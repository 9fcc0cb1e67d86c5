//! What must survive a restart, behind ports; `sqlite/` implements them.
//!
//! One port a need: [`Store::commit`] is what the deciding loop needs, the outbox methods what the dispatcher needs,
//! the queries what people need. A back end implements all of them and passes one contract suite.

pub mod history;
pub mod port;
pub mod sqlite;

pub use history::{At, Availability, Entry, HistoryQuery, Order, Page};
pub use port::{JournalRow, Leased, OutboxItem, OutboxState, Restored, Retention, Store, StoreError};
