//! Paths, queries and bodies as typed values, whose errors are problems like all others.

use axum::{
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{StatusCode, request::Parts},
};
use serde::de::DeserializeOwned;

use super::{Code, Problem};
use crate::{
    clock::{Timestamp, before},
    ids::{PbxId, TrunkId},
};

/// A query string.
#[derive(Debug)]
pub struct ApiQuery<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for ApiQuery<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(Problem::new(Code::InvalidQuery, rejection.body_text())),
        }
    }
}

/// A JSON body.
#[derive(Debug)]
pub struct ApiJson<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for ApiJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match axum::Json::<T>::from_request(request, state).await {
            Ok(axum::Json(body)) => Ok(Self(body)),
            Err(rejection) => {
                let code = match rejection.status() {
                    StatusCode::UNSUPPORTED_MEDIA_TYPE => Code::UnsupportedMediaType,
                    StatusCode::PAYLOAD_TOO_LARGE => Code::TooLarge,
                    _ => Code::InvalidBody,
                };
                let detail = if code == Code::UnsupportedMediaType {
                    "send `Content-Type: application/json`".to_owned()
                } else if code == Code::TooLarge {
                    format!("the limit is {} bytes", super::BODY_LIMIT)
                } else {
                    rejection.body_text()
                };
                Err(Problem::new(code, detail))
            }
        }
    }
}

/// The trunk a path names: `/trunks/{pbx}/{trunk}`, each percent-decoded, so a `/` in a trunk's name comes as `%2F`.
#[derive(Debug, Clone)]
pub struct TrunkPath(pub TrunkId);

impl<S: Send + Sync> FromRequestParts<S> for TrunkPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let ApiPath((pbx, name)) = ApiPath::<(String, String)>::from_request_parts(parts, state).await?;
        let invalid = |error: crate::ids::NameError| Problem::new(Code::InvalidPath, error.to_string());
        let pbx = PbxId::try_from(pbx).map_err(invalid)?;
        Ok(Self(TrunkId::new(&pbx, &name).map_err(invalid)?))
    }
}

/// The parts of a path.
#[derive(Debug)]
pub struct ApiPath<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for ApiPath<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(path)) => Ok(Self(path)),
            Err(rejection) => Err(Problem::new(Code::InvalidPath, rejection.body_text())),
        }
    }
}

/// An instant as people ask for it: RFC 3339, or so long before `now` (`24h`, `7d`).
///
/// A `+` that was not percent-encoded arrives as a space; an offset written that way is understood all the same.
///
/// # Errors
/// [`Code::InvalidQuery`], naming the parameter.
pub fn instant(parameter: &str, text: &str, now: Timestamp) -> Result<Timestamp, Problem> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(before(now, ago));
    }
    let mended = match text.rsplit_once(' ') {
        Some((time, offset)) if time.contains('T') => format!("{time}+{offset}"),
        Some(_) | None => text.to_owned(),
    };
    mended.parse().map_err(|_| {
        Problem::new(
            Code::InvalidQuery,
            format!(
                "{parameter}={text:?} is no time: use RFC 3339 (2026-08-01T02:13:00Z) or a span before now (24h, 7d)"
            ),
        )
    })
}

/// A page's length as asked for: 100 without a word, 1000 at most.
///
/// # Errors
/// [`Code::InvalidQuery`] outside of 1 to 1000.
pub fn limit(asked: Option<u32>) -> Result<u32, Problem> {
    match asked {
        None => Ok(100),
        Some(limit @ 1..=1000) => Ok(limit),
        Some(limit) => Err(Problem::new(Code::InvalidQuery, format!("limit={limit} is not from 1 to 1000"))),
    }
}

/// The ones of `all` that a comma-separated parameter names.
///
/// # Errors
/// [`Code::InvalidQuery`], listing the words there are.
pub fn words<T: Copy>(
    parameter: &str,
    text: &str,
    all: &[T],
    word: impl Fn(T) -> &'static str,
) -> Result<Vec<T>, Problem> {
    text.split(',')
        .map(|wanted| {
            all.iter().copied().find(|&one| word(one) == wanted).ok_or_else(|| {
                let known: Vec<_> = all.iter().map(|&one| word(one)).collect();
                Problem::new(
                    Code::InvalidQuery,
                    format!("{parameter}={wanted:?} is not known: use {}", known.join(", ")),
                )
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_absolute_or_relative() {
        let now: Timestamp = "2026-08-01T12:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("2026-08-01T02:13:00Z", "2026-08-01T02:13:00Z"),
            ("2026-08-01T07:43:00+05:30", "2026-08-01T02:13:00Z"),
            ("2026-08-01T07:43:00 05:30", "2026-08-01T02:13:00Z"),
            ("24h", "2026-07-31T12:00:00Z"),
            ("7d", "2026-07-25T12:00:00Z"),
        ] {
            assert_eq!(instant("since", text, now).unwrap(), expected.parse().unwrap(), "{text}");
        }
        for text in ["", "yesterday", "-1h", "2026-08-01", "24"] {
            assert_eq!(instant("since", text, now).unwrap_err().code(), Code::InvalidQuery, "{text}");
        }
    }

    #[test]
    fn a_limit_has_limits() {
        assert_eq!(limit(None).unwrap(), 100);
        assert_eq!(limit(Some(1000)).unwrap(), 1000);
        assert!(limit(Some(0)).is_err());
        assert!(limit(Some(1001)).is_err());
    }
}
