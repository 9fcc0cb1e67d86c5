//! 5. How a decision reaches a dialer: at least once, and in order for each campaign.
//!
//! [`outbox`] takes messages from the store's outbox and sees each through to its receipt; [`dialer`] holds one file
//! per kind of recipient. Nothing is decided here: what became of a message goes back to the deciding loop as an
//! [`Input::Receipt`](crate::decision::Input::Receipt), and only its commit settles the message.

pub mod dialer;
pub mod outbox;

pub use dialer::{AttemptError, Delivery, Dialer, http::ClientError};
pub use outbox::{Dispatcher, Leased, Outbox, OutboxError, OutboxPolicy, Recipients};

/// The longest error kept with a message, in bytes: enough for a chain of causes, too little to fill a table.
const LONGEST_ERROR: usize = 512;

/// An error and its causes in one line, as the outbox keeps it.
fn reasons(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let reason = error.to_string();
        // Some layers of HTTP clients repeat the cause below them.
        if !text.ends_with(&reason) {
            text.push_str(": ");
            text.push_str(&reason);
        }
        cause = error.source();
    }
    text.truncate(text.floor_char_boundary(LONGEST_ERROR));
    text
}
