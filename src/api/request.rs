//! What every request gets: an id, a log line, a time limit, and an answer even when a handler panics.

use std::any::Any;

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::Instrument;

use super::{ApiState, Code, DIAGNOSE_LIMIT, Problem, REQUEST_LIMIT};
use crate::clock::{Timestamp, between};

/// The header that carries the request's id back.
pub(super) const ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

tokio::task_local! {
    static ID: String;
}

/// The id of the request this task answers; `None` outside of one.
pub(super) fn current_id() -> Option<String> {
    ID.try_with(Clone::clone).ok()
}

fn new_id(at: Timestamp) -> String {
    let millis = u64::try_from(at.as_millisecond()).unwrap_or_default();
    format!("req_{}", ulid::Ulid::from_parts(millis, rand::random()))
}

/// Gives the request its id and the answer its common headers, and writes the log line. The query is left out of the
/// log: it may hold a number that was dialed.
pub(super) async fn identify(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    let begun = state.now();
    let id = new_id(begun);
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("(none)", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!("api.request", request.id = %id, http.method = %method, http.route = %route);
    let mut response = ID.scope(id.clone(), next.run(request)).instrument(span.clone()).await;
    let _in_span = span.enter();
    let status = response.status().as_u16();
    let took_ms = u64::try_from(between(begun, state.now()).as_millis()).unwrap_or(u64::MAX);
    if method == Method::GET || method == Method::HEAD {
        tracing::debug!(http.status = status, took_ms, "API request answered");
    } else {
        tracing::info!(http.status = status, took_ms, "API request answered");
    }
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(ID_HEADER, id);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Ends a request that takes too long.
pub(super) async fn limit_time(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let limit = if path.ends_with("/diagnose") { DIAGNOSE_LIMIT } else { REQUEST_LIMIT };
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(Code::TimedOut, "the request took too long; ask for less, or later").into_response(),
    }
}

/// Answers for a handler that panicked. What it said goes to the log.
pub(super) fn panicked(payload: Box<dyn Any + Send + 'static>) -> Response {
    let said = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&'static str>().copied())
        .unwrap_or("(no message)")
        .to_owned();
    Problem::caused_by(Code::Internal, "a fault of the controller; the log says more under this request's id", said)
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_panic_says_stays_inside() {
        for payload in [Box::new("secret") as Box<dyn Any + Send>, Box::new("secret".to_owned()), Box::new(7)] {
            let response = panicked(payload);
            assert_eq!(response.status(), 500);
            let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
            let body = String::from_utf8(body.to_vec()).unwrap();
            assert!(body.contains("\"internal\"") && !body.contains("secret"), "{body}");
        }
    }

    #[test]
    fn ids_of_requests_differ_within_an_instant() {
        assert_ne!(new_id(Timestamp::UNIX_EPOCH), new_id(Timestamp::UNIX_EPOCH));
        assert!(new_id(Timestamp::MIN).starts_with("req_"));
    }
}
