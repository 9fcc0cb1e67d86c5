//! `/healthz`, `/readyz` and the page at `/`: for load balancers, supervisors and lost people. No token is needed, so
//! nothing is told that helps an attacker.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::{ApiState, Phase};

/// `/healthz` and `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// `ok` or `failing`; `ready` or `not_ready`.
    pub status: String,
    /// What was looked at.
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What.
    pub name: String,
    /// Whether it is well.
    pub ok: bool,
    /// Whether the status depends on it. A PBX that cannot be reached is no reason to take the API away from those who
    /// ask about the others.
    pub required: bool,
    /// How it is.
    pub state: String,
}

/// `GET /healthz`: 200 while the deciding loop can still be reached; 503 asks the supervisor to start it again.
pub(super) async fn healthz(State(state): State<ApiState>) -> Response {
    let phase = state.ready.phase();
    let deciding = !state.submissions.is_closed() || phase == Phase::Stopping;
    let check = Check {
        name: "deciding_loop".to_owned(),
        ok: deciding,
        required: true,
        state: if deciding { phase.as_str() } else { "ended" }.to_owned(),
    };
    answer(deciding, ["ok", "failing"], vec![check])
}

/// `GET /readyz`: 200 once the controller decides and stores what it decided.
pub(super) async fn readyz(State(state): State<ApiState>) -> Response {
    let phase = state.ready.phase();
    let running = phase == Phase::Running && !state.submissions.is_closed();
    let stored = state.ready.store_answers();
    let mut checks = vec![
        Check { name: "deciding_loop".to_owned(), ok: running, required: true, state: phase.as_str().to_owned() },
        Check {
            name: "store".to_owned(),
            ok: stored,
            required: true,
            state: if stored { "answering" } else { "failing" }.to_owned(),
        },
    ];
    // How many, not which: whoever has no token need not know the names.
    let board = state.board();
    let (all, listed) = board
        .pbxs()
        .fold((0_u32, 0_u32), |(all, listed), (_, record)| (all + 1, listed + u32::from(record.state == "listed")));
    checks.push(Check {
        name: "pbxs".to_owned(),
        ok: listed == all,
        required: false,
        state: format!("{listed} of {all} listed"),
    });
    answer(running && stored, ["ready", "not_ready"], checks)
}

fn answer(well: bool, words: [&str; 2], checks: Vec<Check>) -> Response {
    let (status, word) = if well { (StatusCode::OK, words[0]) } else { (StatusCode::SERVICE_UNAVAILABLE, words[1]) };
    (status, Json(Condition { status: word.to_owned(), checks })).into_response()
}

/// `GET /`
pub(super) async fn index(State(state): State<ApiState>) -> String {
    format!(
        "trunkwarden {version}: no campaign dials into a dead trunk\n\
         \n\
         GET  /api/v1/trunks                         the trunks, their health, and what the gate says\n\
         GET  /api/v1/trunks/PBX/TRUNK               one of them\n\
         GET  /api/v1/trunks/PBX/TRUNK/history       what happened to it; Accept: text/csv too\n\
         GET  /api/v1/trunks/PBX/TRUNK/at?time=      how it was\n\
         GET  /api/v1/trunks/PBX/TRUNK/availability  how much of the time it was registered\n\
         POST /api/v1/trunks/PBX/TRUNK/hold          {{\"reason\":\"\",\"for\":\"1h\"}}; release likewise\n\
         POST /api/v1/holds                          {{\"trunks\":[\"PBX/*\"],\"reason\":\"\"}}; /holds/release likewise\n\
         GET  /api/v1/gate?trunk=PBX/TRUNK           may I dial on it now?\n\
         GET  /api/v1/holds  /campaigns  /pbxs  /outbox  /incidents\n\
         PUT  /api/v1/campaigns/DIALER/ID            {{\"trunks\":[],\"state\":\"running\"}}\n\
         GET  /healthz  /readyz  /metrics\n\
         \n\
         In a terminal: trunkwarden trunks\n",
        version = state.version
    )
}
