//! Errors as people and programs get them: RFC 9457 `application/problem+json` with a stable `code`.
//!
//! A program decides by `code`, a person reads `detail`. What happened inside goes to the log under the request's id,
//! which the answer carries too; it never goes into the answer.

use std::fmt;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::request;
use crate::store::StoreError;

/// What went wrong, in a word that stays. Part of the public contract: a word is never reused for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// A query parameter is missing, unknown or not understood.
    InvalidQuery,
    /// A cursor that was not given out by this route, or not for this order.
    InvalidCursor,
    /// A part of the path is no such name.
    InvalidPath,
    /// The body is not what the route takes.
    InvalidBody,
    /// The body is not JSON by its `Content-Type`.
    UnsupportedMediaType,
    /// The body is too large.
    TooLarge,
    /// A bulk request or a dialer's campaigns are too many.
    TooMany,
    /// No token, or one that is not known.
    Unauthorized,
    /// The token's role does not allow it.
    Forbidden,
    /// Without tokens, only requests to a loopback name or an address are answered.
    HostNotAllowed,
    /// No such route.
    UnknownRoute,
    /// The route does not answer this method.
    MethodNotAllowed,
    /// No such trunk.
    UnknownTrunk,
    /// No such dialer in the configuration.
    UnknownDialer,
    /// There is no hold to release.
    NotHeld,
    /// The trunk was never diagnosed.
    NoDiagnosis,
    /// An attempt would interrupt a trunk that is registered.
    Registered,
    /// The PBX cannot be asked now.
    PbxUnreachable,
    /// The body is neither a capture nor a log with SIP in it.
    NotACapture,
    /// Part of the contract, not of this version.
    NotYet,
    /// Too much is waiting for the deciding loop; nothing was done.
    Busy,
    /// The controller is stopping; nothing was done.
    Stopping,
    /// No answer in time; it may or may not have been done.
    TimedOut,
    /// The store does not answer.
    StoreUnavailable,
    /// A fault of this program.
    Internal,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 25] = [
        Self::InvalidQuery,
        Self::InvalidCursor,
        Self::InvalidPath,
        Self::InvalidBody,
        Self::UnsupportedMediaType,
        Self::TooLarge,
        Self::TooMany,
        Self::Unauthorized,
        Self::Forbidden,
        Self::HostNotAllowed,
        Self::UnknownRoute,
        Self::MethodNotAllowed,
        Self::UnknownTrunk,
        Self::UnknownDialer,
        Self::NotHeld,
        Self::NoDiagnosis,
        Self::Registered,
        Self::PbxUnreachable,
        Self::NotACapture,
        Self::NotYet,
        Self::Busy,
        Self::Stopping,
        Self::TimedOut,
        Self::StoreUnavailable,
        Self::Internal,
    ];

    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.parts().0
    }

    /// The HTTP status it goes with.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        self.parts().1
    }

    /// The same in a few words for people, equal for every occurrence.
    #[must_use]
    pub const fn title(self) -> &'static str {
        self.parts().2
    }

    const fn parts(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::InvalidQuery => ("invalid_query", StatusCode::BAD_REQUEST, "The query is not understood"),
            Self::InvalidCursor => ("invalid_cursor", StatusCode::BAD_REQUEST, "The cursor is not valid here"),
            Self::InvalidPath => ("invalid_path", StatusCode::BAD_REQUEST, "The path is not understood"),
            Self::InvalidBody => ("invalid_body", StatusCode::BAD_REQUEST, "The body is not understood"),
            Self::UnsupportedMediaType => {
                ("unsupported_media_type", StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body must be JSON")
            }
            Self::TooLarge => ("too_large", StatusCode::PAYLOAD_TOO_LARGE, "The body is too large"),
            Self::TooMany => ("too_many", StatusCode::UNPROCESSABLE_ENTITY, "There are too many of them"),
            Self::Unauthorized => ("unauthorized", StatusCode::UNAUTHORIZED, "A token is needed"),
            Self::Forbidden => ("forbidden", StatusCode::FORBIDDEN, "The token does not allow this"),
            Self::HostNotAllowed => ("host_not_allowed", StatusCode::FORBIDDEN, "The request is not for this host"),
            Self::UnknownRoute => ("unknown_route", StatusCode::NOT_FOUND, "There is no such route"),
            Self::MethodNotAllowed => {
                ("method_not_allowed", StatusCode::METHOD_NOT_ALLOWED, "The route does not answer this method")
            }
            Self::UnknownTrunk => ("unknown_trunk", StatusCode::NOT_FOUND, "There is no such trunk"),
            Self::UnknownDialer => ("unknown_dialer", StatusCode::NOT_FOUND, "There is no such dialer"),
            Self::NotHeld => ("not_held", StatusCode::CONFLICT, "There is no hold to release"),
            Self::NoDiagnosis => ("no_diagnosis", StatusCode::NOT_FOUND, "The trunk was never diagnosed"),
            Self::Registered => ("registered", StatusCode::CONFLICT, "The trunk is registered"),
            Self::PbxUnreachable => ("pbx_unreachable", StatusCode::SERVICE_UNAVAILABLE, "The PBX is not connected"),
            Self::NotACapture => ("not_a_capture", StatusCode::UNPROCESSABLE_ENTITY, "The body has no SIP to read"),
            Self::NotYet => ("not_yet", StatusCode::NOT_IMPLEMENTED, "This version does not do this yet"),
            Self::Busy => ("busy", StatusCode::SERVICE_UNAVAILABLE, "Too much is waiting"),
            Self::Stopping => ("stopping", StatusCode::SERVICE_UNAVAILABLE, "The controller is stopping"),
            Self::TimedOut => ("timed_out", StatusCode::SERVICE_UNAVAILABLE, "There was no answer in time"),
            Self::StoreUnavailable => {
                ("store_unavailable", StatusCode::SERVICE_UNAVAILABLE, "The store does not answer")
            }
            Self::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR, "The controller failed"),
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The media type of problems.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// An error on its way out.
#[derive(Debug)]
pub struct Problem {
    code: Code,
    detail: String,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// A problem as it stands in the body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemBody {
    /// A URI for the kind of problem.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in a few words.
    pub title: String,
    /// The HTTP status, again.
    pub status: u16,
    /// This occurrence, in words.
    pub detail: String,
    /// The stable word.
    pub code: Code,
    /// The id under which the log knows the request.
    pub request_id: Option<String>,
}

impl Problem {
    /// A problem whose cause is the request; `detail` says what to do about it.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), cause: None }
    }

    /// A problem of ours: `cause` goes to the log, not to the answer.
    pub fn caused_by(
        code: Code,
        detail: impl Into<String>,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { code, detail: detail.into(), cause: Some(cause.into()) }
    }

    /// Its word.
    #[must_use]
    pub const fn code(&self) -> Code {
        self.code
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Corrupt { .. } | StoreError::Unstorable { .. } => {
                Self::caused_by(Code::Internal, "the store's content could not be read; the log says more", error)
            }
            StoreError::Url { .. }
            | StoreError::NotYet { .. }
            | StoreError::NoDirectory { .. }
            | StoreError::Unwritable { .. }
            | StoreError::InUse { .. }
            | StoreError::Foreign { .. }
            | StoreError::Damaged { .. }
            | StoreError::Open { .. }
            | StoreError::Newer { .. }
            | StoreError::Migrate { .. }
            | StoreError::Statement { .. } => {
                Self::caused_by(Code::StoreUnavailable, "the store does not answer; gate and trunks still do", error)
            }
        }
    }
}

/// An error and its sources, as one line for the log.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.code.status();
        if let Some(cause) = &self.cause {
            let cause: &(dyn std::error::Error + 'static) = cause.as_ref();
            tracing::error!(code = self.code.as_str(), cause = %chain(cause), "an API request failed");
        }
        let body = ProblemBody {
            kind: format!("urn:trunkwarden:problem:{}", self.code),
            title: self.code.title().to_owned(),
            status: status.as_u16(),
            detail: self.detail,
            code: self.code,
            request_id: request::current_id(),
        };
        let mut response = (status, axum::Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        match self.code {
            Code::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"trunkwarden\""));
            }
            Code::Busy => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Code::StoreUnavailable => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            }
            Code::InvalidQuery
            | Code::InvalidCursor
            | Code::InvalidPath
            | Code::InvalidBody
            | Code::UnsupportedMediaType
            | Code::TooLarge
            | Code::TooMany
            | Code::Forbidden
            | Code::HostNotAllowed
            | Code::UnknownRoute
            | Code::MethodNotAllowed
            | Code::UnknownTrunk
            | Code::UnknownDialer
            | Code::NotHeld
            | Code::NoDiagnosis
            | Code::Registered
            | Code::PbxUnreachable
            | Code::NotACapture
            | Code::NotYet
            | Code::Stopping
            | Code::TimedOut
            | Code::Internal => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_has_its_own_word_and_json_writes_the_same() {
        let words: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(words.len(), Code::ALL.len());
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
            assert!(code.status().is_client_error() || code.status().is_server_error());
        }
    }
}
