//! A recipient that is told by webhook: Standard Webhooks 1.0.0, <https://www.standardwebhooks.com>.
//!
//! Both the `webhook` dialer and a `[[notify]]` are this; a `[[notify]]` may do without a secret, as chat services
//! cannot check a signature.
//!
//! Flow: the body is written as JSON, signed together with the message's id and the time of this attempt, and sent with
//! `POST`. The answer's status is all that counts; only a pause's receipt is read further.
//!
//! | answer | what it means |
//! |---|---|
//! | 2xx | taken |
//! | 410 | the recipient wants no messages any more |
//! | 429, 503 | to be sent again, not before their `Retry-After` |
//! | anything else, redirects too; no answer | to be sent again |
//!
//! Guarantees: every attempt of a message has the same `webhook-id` and the same body; the URL, the secret and the
//! answer's body never reach a log or an error; at most 64 KiB of an answer are read.
//!
//! Assumption: the recipient answers a `webhook-id` it has seen before as it answered it the first time. For a pause
//! this matters: a recipient that took it, whose answer was lost, and that then says `{"was_running":false}` to the
//! repeated one because *we* stopped the campaign, will get no resume.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use reqwest::{Client, StatusCode, Url, header::CONTENT_TYPE};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use standardwebhooks::{HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP};

use super::{AttemptError, Delivery, Dialer, http};
use crate::{
    clock::Clock,
    decision::{Message, MessageType},
};

/// How long an attempt may take, if the configuration does not say: the specification recommends 15 to 30 s.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
/// How much of a receipt is read, in bytes: a thousand times the receipt we look for.
const LONGEST_RECEIPT: usize = 64 * 1024;
/// What a secret begins with (specification, "Signature scheme").
const SECRET_PREFIX: &str = "whsec_";
/// How long a key may be, in bytes (specification, "Signature scheme": 192 to 512 bits).
const KEY_LENGTH: std::ops::RangeInclusive<usize> = 24..=64;

/// Where a webhook goes, as the configuration gives it.
#[derive(Debug, Clone)]
pub struct WebhookTarget {
    /// `http://` or `https://`. All of it may be secret: chat services put the secret into the path.
    pub url: SecretString,
    /// `whsec_` and the key in base64; without one nothing is signed.
    pub secret: Option<SecretString>,
    /// How long an attempt may take, from connecting to the end of the receipt.
    pub timeout: Duration,
}

/// Why a target cannot be used. It does not say the URL or the secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The URL cannot be read.
    #[error("the url cannot be read: {reason}")]
    Url {
        /// What is wrong with it.
        reason: String,
    },
    /// Neither `http` nor `https`, or no host.
    #[error("the url must begin with http:// or https:// and a host")]
    Scheme,
    /// The secret does not begin with `whsec_`.
    #[error("the secret must begin with {SECRET_PREFIX}")]
    Prefix,
    /// What follows is not base64.
    #[error("the secret must be {SECRET_PREFIX} and a key in base64")]
    Base64,
    /// The key is too short to be safe, or longer than the specification allows.
    #[error("the secret's key is {length} bytes long; it must have {} to {}", KEY_LENGTH.start(), KEY_LENGTH.end())]
    KeyLength {
        /// How long it is, in bytes.
        length: usize,
    },
}

impl WebhookTarget {
    /// Whether it can be used, without a client: for the configuration's check.
    ///
    /// # Errors
    /// [`TargetError`]: the URL or the secret.
    pub fn check(&self) -> Result<(), TargetError> {
        self.parse().map(drop)
    }

    fn parse(&self) -> Result<(Url, Option<standardwebhooks::Webhook>), TargetError> {
        let url =
            Url::parse(self.url.expose_secret()).map_err(|error| TargetError::Url { reason: error.to_string() })?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(TargetError::Scheme);
        }
        let signer = self.secret.as_ref().map(signer).transpose()?;
        Ok((url, signer))
    }
}

fn signer(secret: &SecretString) -> Result<standardwebhooks::Webhook, TargetError> {
    let secret = secret.expose_secret();
    let key = secret.strip_prefix(SECRET_PREFIX).ok_or(TargetError::Prefix)?;
    // The crate takes any key, an empty one too. Base64 holds three bytes in four characters, less its padding.
    let length = key.trim_end_matches('=').len() * 3 / 4;
    let signer = standardwebhooks::Webhook::new(secret).map_err(|_| TargetError::Base64)?;
    if !KEY_LENGTH.contains(&length) {
        return Err(TargetError::KeyLength { length });
    }
    Ok(signer)
}

/// A recipient told by webhook.
pub struct Webhook {
    url: Url,
    signer: Option<standardwebhooks::Webhook>,
    timeout: Duration,
    client: Client,
    clock: Arc<dyn Clock>,
}

/// A pause's receipt, as far as we read it.
#[derive(Deserialize)]
struct PauseReceipt {
    was_running: Option<bool>,
}

impl Webhook {
    /// A recipient at `target`, spoken to through `client` (see [`http::client`]).
    ///
    /// # Errors
    /// [`TargetError`]: the URL or the secret.
    pub fn new(target: &WebhookTarget, client: Client, clock: Arc<dyn Clock>) -> Result<Self, TargetError> {
        let (url, signer) = target.parse()?;
        Ok(Self { url, signer, timeout: target.timeout, client, clock })
    }

    async fn attempt(&self, message: &Message) -> Result<Delivery, AttemptError> {
        let body = serde_json::to_vec(&message.body).map_err(AttemptError::Unwritten)?;
        let sent_at = self.clock.now().as_second();
        let mut request = self
            .client
            .post(self.url.clone())
            .timeout(self.timeout)
            .header(CONTENT_TYPE, "application/json")
            .header(HEADER_WEBHOOK_ID, message.id.as_str())
            .header(HEADER_WEBHOOK_TIMESTAMP, sent_at);
        if let Some(signer) = &self.signer {
            let signature = signer.sign(message.id.as_str(), sent_at, &body).map_err(AttemptError::Unsigned)?;
            request = request.header(HEADER_WEBHOOK_SIGNATURE, signature);
        }
        let answer = request.body(body).send().await.map_err(|error| self.unanswered(error))?;
        let status = answer.status();
        if status.is_success() {
            let was_running = match message.kind {
                MessageType::CampaignPause => was_running(answer).await,
                MessageType::CampaignResume
                | MessageType::TrunkHealth
                | MessageType::TrunkDiagnosis
                | MessageType::Incident => None,
            };
            return Ok(Delivery::Delivered { was_running });
        }
        let error = AttemptError::Status { status };
        Ok(match status {
            StatusCode::GONE => Delivery::Gone { error },
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Delivery::Retry { error, after: http::retry_after(&answer, self.clock.now()) }
            }
            _ => Delivery::Retry { error, after: None },
        })
    }

    fn unanswered(&self, error: reqwest::Error) -> AttemptError {
        let error = error.without_url(); // its path and query may be secret
        if error.is_connect() {
            AttemptError::Unreachable(error)
        } else if error.is_timeout() {
            AttemptError::TimedOut { limit: self.timeout }
        } else {
            AttemptError::Exchange(error)
        }
    }
}

/// What a pause's receipt says. The status was the receipt: a body that is cut, slow, long or no JSON says nothing.
async fn was_running(answer: reqwest::Response) -> Option<bool> {
    let body = http::read_bounded(answer, LONGEST_RECEIPT).await?;
    serde_json::from_slice::<PauseReceipt>(&body).ok()?.was_running
}

impl Dialer for Webhook {
    fn deliver<'a>(&'a self, message: &'a Message, _attempt: u32) -> BoxFuture<'a, Delivery> {
        self.attempt(message)
            .map(|outcome| outcome.unwrap_or_else(|error| Delivery::Retry { error, after: None }))
            .boxed()
    }
}

impl fmt::Debug for Webhook {
    /// Only where it goes: the rest may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("scheme", &self.url.scheme())
            .field("host", &self.url.host_str())
            .field("port", &self.url.port_or_known_default())
            .field("signed", &self.signer.is_some())
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str, secret: Option<&str>) -> WebhookTarget {
        WebhookTarget { url: url.into(), secret: secret.map(Into::into), timeout: DEFAULT_TIMEOUT }
    }

    /// The vectors of the specification's own libraries (`libraries/go/webhook_test.go`, `libraries/rust/src/lib.rs`).
    #[test]
    fn the_signature_is_the_specifications() {
        for (secret, id, at, body, signature) in [
            (
                "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                1_614_265_330,
                r#"{"test": 2432232314}"#,
                "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ),
            (
                "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
                "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
                1_649_367_553,
                r#"{"email":"test@example.com","username":"test_user"}"#,
                "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
            ),
        ] {
            let signer = signer(&secret.into()).unwrap();
            assert_eq!(signer.sign(id, at, body.as_bytes()).unwrap(), signature);
        }
    }

    #[test]
    fn a_target_that_cannot_work_is_refused() {
        let key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let refused = |url, secret| target(url, secret).check().unwrap_err();
        target("https://crm.example/hooks", Some(key)).check().unwrap();
        target("http://127.0.0.1:9000/hooks", None).check().unwrap();
        assert!(matches!(refused("crm.example/hooks", None), TargetError::Url { .. }));
        assert_eq!(refused("ftp://crm.example/", None), TargetError::Scheme);
        assert_eq!(refused("http://c/", Some("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")), TargetError::Prefix);
        assert_eq!(refused("http://c/", Some("whsec_not base64")), TargetError::Base64);
        assert_eq!(refused("http://c/", Some("whsec_")), TargetError::KeyLength { length: 0 });
        assert_eq!(refused("http://c/", Some("whsec_c2hvcnQ=")), TargetError::KeyLength { length: 5 });
    }

    #[test]
    fn nothing_secret_is_printed() {
        let target = target(
            "https://user:hunter2@chat.example/T0PS3CR3T?token=T0PS3CR3T",
            Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        );
        let webhook = Webhook::new(&target, http::client().unwrap(), Arc::new(crate::clock::SystemClock)).unwrap();
        for printed in [format!("{target:?}"), format!("{webhook:?}")] {
            for secret in ["hunter2", "T0PS3CR3T", "MfKQ9r8G"] {
                assert!(!printed.contains(secret), "{printed}");
            }
        }
    }
}
