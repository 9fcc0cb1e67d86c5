//! What a message is delivered by: one file per kind of recipient.
//!
//! A [`Dialer`] makes one attempt and says what came of it. It keeps no state between attempts and decides nothing:
//! when to try again, when to give up and what a receipt means are the outbox's and the board's.

pub mod http;
pub mod webhook;

use std::{fmt::Debug, time::Duration};

use futures_util::future::BoxFuture;
use reqwest::StatusCode;

use crate::decision::Message;

pub use webhook::{TargetError, Webhook, WebhookTarget};

/// A recipient of messages: a dialer, or the people behind a `[[notify]]`.
pub trait Dialer: Send + Sync + Debug {
    /// Makes one attempt, the `attempt`th, counted from 1.
    ///
    /// Assumptions on whoever implements it: it ends within its own time limit, and what it says holds no secret.
    ///
    /// Cancel safety: dropping it abandons the attempt; the recipient may or may not have got the message, so it must
    /// be sent again.
    fn deliver<'a>(&'a self, message: &'a Message, attempt: u32) -> BoxFuture<'a, Delivery>;
}

/// What came of one attempt.
#[derive(Debug)]
pub enum Delivery {
    /// The recipient took the message.
    Delivered {
        /// Whether the campaign was running, where a pause's receipt says so.
        was_running: Option<bool>,
    },
    /// The recipient wants no messages any more, this one and all others.
    Gone {
        /// How it said so.
        error: AttemptError,
    },
    /// It is to be sent again.
    Retry {
        /// What went wrong.
        error: AttemptError,
        /// How long the recipient asked us to wait.
        after: Option<Duration>,
    },
}

/// Why an attempt failed. Neither it nor its causes hold the URL, a header or a byte of the answer's body.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// No connection: refused, no route, no such name, no TLS.
    #[error("the recipient cannot be reached")]
    Unreachable(#[source] reqwest::Error),
    /// The connection broke before there was an answer. The recipient may have got the message.
    #[error("the recipient did not answer")]
    Exchange(#[source] reqwest::Error),
    /// No answer in time. The recipient may have got the message.
    #[error("no answer within {}", humantime::format_duration(*limit))]
    TimedOut {
        /// The limit.
        limit: Duration,
    },
    /// An answer that is no receipt.
    #[error("the recipient answered {status}{}", if status.is_redirection() { ", and redirects are not followed" } else { "" })]
    Status {
        /// What it answered.
        status: StatusCode,
    },
    /// The message could not be made ready for sending.
    #[error("the message could not be signed")]
    Unsigned(#[source] standardwebhooks::WebhookError),
    /// The message is no JSON.
    #[error("the message could not be written as JSON")]
    Unwritten(#[source] serde_json::Error),
}
