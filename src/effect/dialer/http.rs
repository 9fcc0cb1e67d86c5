//! What dialers that speak HTTP share: the client, `Retry-After`, and a bounded read.
//!
//! Separate from the webhook because the next kind of dialer needs the same care, and there is to be one client for
//! all of them: it holds the connections and the root certificates.

use std::{sync::Arc, time::Duration};

use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::{Client, Response, header::RETRY_AFTER, redirect::Policy, retry};

use crate::clock::{Timestamp, between};

/// How long a connection may take to be made, TLS included: a recipient on the same continent needs a tenth of it.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an idle connection is kept: less than the usual servers do (60 s or more), so that they seldom close it
/// under a message.
const IDLE: Duration = Duration::from_secs(30);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// TLS could not be set up.
    #[error("TLS could not be set up")]
    Tls(#[source] rustls::Error),
    /// The client could not be made.
    #[error("the HTTP client could not be made")]
    Client(#[source] reqwest::Error),
}

/// The client all dialers share; it is cheap to clone.
///
/// It follows no redirect (Standard Webhooks: a redirect is a failure; and a signed pause must not be sent to whoever
/// an answer names), repeats nothing by itself, and asks no proxy of the environment, which would take messages for a
/// dialer on the loopback elsewhere. Root certificates are the system's; a machine without any can still speak plain
/// HTTP. Its TLS provider is ring, whatever the process has installed.
///
/// # Errors
/// [`ClientError`] when TLS or the client could not be set up.
pub fn client() -> Result<Client, ClientError> {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (_, unreadable) = roots.add_parsable_certificates(found.certs);
    if roots.is_empty() || unreadable > 0 || !found.errors.is_empty() {
        tracing::warn!(
            usable = roots.len(),
            unreadable,
            errors = found.errors.len(),
            "not all root certificates of the system could be read"
        );
    }
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(ClientError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(concat!("trunkwarden/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .retry(retry::never())
        .no_proxy()
        .referer(false)
        .connect_timeout(CONNECT)
        .pool_idle_timeout(IDLE)
        .build()
        .map_err(ClientError::Client)
}

/// How long an answer's `Retry-After` asks to wait, given as seconds or as a date (RFC 9110 section 10.2.3).
/// `None` without one, or with one nobody can read.
pub(crate) fn retry_after(answer: &Response, now: Timestamp) -> Option<Duration> {
    let value = answer.headers().get(RETRY_AFTER)?.to_str().ok()?;
    parse_retry_after(value, now)
}

fn parse_retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = DateTimeParser::new().parse_timestamp(value).ok()?;
    Some(between(now, date))
}

/// The answer's body, if all of it comes and it is no longer than `limit` bytes; never more than that and one chunk is
/// held.
pub(crate) async fn read_bounded(mut answer: Response, limit: usize) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.ok()? {
        if body.len() + chunk.len() > limit {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    Some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = "1994-11-06T08:49:00Z".parse().unwrap();
        let after = |value| parse_retry_after(value, now);
        assert_eq!(after("120"), Some(Duration::from_secs(120)));
        assert_eq!(after(" 0 "), Some(Duration::ZERO));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(37)));
        assert_eq!(after("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
    }

    #[test]
    fn a_retry_after_nobody_can_read_is_none() {
        for value in ["", "-1", "1.5", "soon", "99999999999999999999999", "Sun, 06 Nov"] {
            assert_eq!(parse_retry_after(value, Timestamp::UNIX_EPOCH), None, "{value:?}");
        }
    }

    #[test]
    fn the_client_needs_nothing_installed_before_it() {
        client().unwrap();
    }
}
