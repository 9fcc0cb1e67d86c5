//! The HTTP edge: how people, dialers and load balancers ask, and how an operator or a dialer says something.
//!
//! A file per resource. Reads are answered from memory (the board, the gate) or from the store's queries; what changes
//! a decision is never done here: it is handed to the one deciding loop as a [`Submission`], and the answer is given
//! once that loop has committed it. So the API can be slow, wrong or attacked without a decision being made twice.
//!
//! # What a request passes, from the outside in
//! 1. `listener`: at most so many connections, none of them silent for ever.
//! 2. A request id, the log line, and the headers every answer has (`request`).
//! 3. A caught panic, a time limit: both answer as problems.
//! 4. Who is asking, and may they ([`auth`]).
//! 5. The resource's own file; its errors are [`problem::Problem`]s.

pub mod auth;
pub mod availability;
pub mod campaigns;
pub mod diagnose;
pub mod extract;
pub mod gate;
pub mod health;
pub mod history;
pub mod holds;
pub mod incidents;
mod listener;
pub mod metrics;
pub mod outbox;
pub mod pbxs;
pub mod problem;
pub mod ready;
mod request;
mod submit;
pub mod trunks;

use std::{
    io,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{get, post, put},
};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

pub use auth::{Access, Role, Token};
pub use diagnose::{AskDiagnosis, NoExamination};
pub use problem::{Code, Problem};
pub use ready::{Phase, Readiness};
pub use submit::{Submission, SubmitError};

use crate::{
    clock::{Clock, Timestamp},
    decision::{Board, Gate},
    store::Store,
};

/// The largest body taken: a bulk hold over a thousand trunks fits, a flood does not.
pub const BODY_LIMIT: usize = 64 * 1024;
/// How long a request may take; a store that does not answer must not collect waiting requests.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// The same for a diagnosis: an attempt that is watched takes up to 80 s, and a capture must be sent first.
const DIAGNOSE_LIMIT: Duration = Duration::from_secs(120);
/// How long requests under way may go on once the listener is told to stop.
const GRACE: Duration = Duration::from_secs(3);

/// What the handlers work with.
///
/// The board is read only: it belongs to the deciding loop, and readers must hold its lock for no longer than it takes
/// to copy what they answer.
#[derive(Debug, Clone)]
pub struct ApiState {
    /// What the controller knows, and what it decides by.
    pub board: Arc<RwLock<Board>>,
    /// The gate, which is ahead of the board towards hold and behind it towards release.
    pub gate: Gate,
    /// What survives: history, ended holds, the outbox.
    pub store: Arc<dyn Store>,
    /// To the deciding loop. Bounded: when it is full the request is refused, not queued.
    pub submissions: mpsc::Sender<Submission>,
    /// To whoever diagnoses. Bounded, as the submissions.
    pub diagnoses: mpsc::Sender<AskDiagnosis>,
    /// Who may ask.
    pub access: Access,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Says what was counted elsewhere, as `/metrics` answers it.
    pub metrics: fn() -> String,
    /// Whether the controller has started, and whether its store answers.
    pub ready: Readiness,
    /// This program's version.
    pub version: &'static str,
}

impl ApiState {
    /// The board, for as long as it takes to copy from it. Never held over an await.
    pub(crate) fn board(&self) -> RwLockReadGuard<'_, Board> {
        self.board.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What time it is.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// A list as every list route answers it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Items<T> {
    /// What was found.
    pub items: Vec<T>,
}

/// All routes, with everything a request passes.
pub fn router(state: ApiState) -> Router {
    let v1 = Router::new()
        .route("/trunks", get(trunks::list))
        .route("/trunks/{pbx}/{trunk}", get(trunks::one))
        .route("/trunks/{pbx}/{trunk}/history", get(history::page))
        .route("/trunks/{pbx}/{trunk}/at", get(history::at))
        .route("/trunks/{pbx}/{trunk}/availability", get(availability::availability))
        .route("/trunks/{pbx}/{trunk}/diagnosis", get(diagnose::latest))
        .route("/trunks/{pbx}/{trunk}/diagnose", post(diagnose::now))
        .route("/trunks/{pbx}/{trunk}/hold", post(holds::hold_one))
        .route("/trunks/{pbx}/{trunk}/release", post(holds::release_one))
        .route("/diagnose", post(diagnose::capture).layer(DefaultBodyLimit::disable()))
        .route("/holds", get(holds::list).post(holds::hold_many))
        .route("/holds/release", post(holds::release_many))
        .route("/campaigns", get(campaigns::list))
        .route("/campaigns/{dialer}/{id}", put(campaigns::tell))
        .route("/pbxs", get(pbxs::list))
        .route("/outbox", get(outbox::list))
        .route("/incidents", get(incidents::list))
        .route("/gate", get(gate::ask))
        .route("/events", get(not_yet))
        .route("/openapi.json", get(not_yet));
    Router::new()
        .nest("/api/v1", v1)
        .route("/metrics", get(metrics::metrics))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/", get(health::index))
        .fallback(unknown_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn_with_state(state.clone(), auth::admit))
        .layer(middleware::from_fn(request::limit_time))
        .layer(CatchPanicLayer::custom(request::panicked))
        .layer(middleware::from_fn_with_state(state.clone(), request::identify))
        .with_state(state)
}

/// Answers on `listener` until `stop`, then for a short grace what is under way; what is silent after that is cut.
///
/// # Errors
/// The listener's own, which end it.
///
/// # Cancel safety
/// Dropping it stops accepting; connections under way end with the runtime.
pub async fn serve(listener: TcpListener, state: ApiState, stop: CancellationToken) -> io::Result<()> {
    let cut = CancellationToken::new();
    let listener = listener::Bounded::new(listener, cut.clone());
    let serving = axum::serve(listener, router(state)).with_graceful_shutdown(stop.clone().cancelled_owned());
    let mut serving = std::pin::pin!(serving.into_future());
    let too_late = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        ended = &mut serving => return ended,
        () = too_late => tracing::info!("API connections that were still open after the grace period are cut"),
    }
    cut.cancel();
    serving.await
}

/// A route whose answer a later version brings.
async fn not_yet() -> Problem {
    Problem::new(Code::NotYet, "this route is part of the contract, but this version does not answer it yet")
}

async fn unknown_route(uri: axum::http::Uri) -> Problem {
    Problem::new(Code::UnknownRoute, format!("there is no {}; GET / lists the routes", uri.path()))
}

async fn method_not_allowed(method: axum::http::Method) -> Problem {
    Problem::new(Code::MethodNotAllowed, format!("{method} is not answered here; see the Allow header"))
}
