//! `GET /metrics`: what a Prometheus server reads.
//!
//! What the board knows is read from it here, at the moment it is asked for: a trunk that is gone is gone from here too.
//! What is counted elsewhere comes as text from whoever counts it ([`ApiState::metrics`]).

use std::fmt::Write as _;

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use super::ApiState;
use crate::{
    decision::{Board, Gate},
    health::Health,
};

/// Prometheus' text format.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A trunk's health: 1 for the one it has, 0 for the others.
pub const TRUNK_HEALTH: &str = "trunkwarden_trunk_health";
/// What the gate says of a trunk: 1 it allows, 0 it holds.
pub const TRUNK_GATE_ALLOW: &str = "trunkwarden_trunk_gate_allow";
/// Active holds, of the policy and of people.
pub const HOLDS_ACTIVE: &str = "trunkwarden_holds_active";
/// Calls that a trunk's active holds refused so far.
pub const HOLD_REFUSED_CALLS: &str = "trunkwarden_hold_refused_calls";
/// All of them.
pub const NAMES: [&str; 4] = [TRUNK_HEALTH, TRUNK_GATE_ALLOW, HOLDS_ACTIVE, HOLD_REFUSED_CALLS];

/// `GET /metrics`
pub(super) async fn metrics(State(state): State<ApiState>) -> Response {
    let mut text = of_board(&state.board(), &state.gate);
    text.push_str(&(state.metrics)());
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}

fn of_board(board: &Board, gate: &Gate) -> String {
    let mut text = String::new();
    family(&mut text, TRUNK_HEALTH, "A trunk's health: 1 for the one it has.");
    for (id, record) in board.trunks() {
        let id = escaped(id.as_str());
        for health in Health::ALL {
            let is = u8::from(record.health.status == health);
            line(&mut text, format_args!("{TRUNK_HEALTH}{{trunk=\"{id}\",health=\"{health}\"}} {is}"));
        }
    }
    family(&mut text, TRUNK_GATE_ALLOW, "Whether calls may be originated on a trunk: 1 or 0.");
    for (id, _) in board.trunks() {
        let allow = u8::from(gate.state(id).is_some_and(|said| said.allow));
        line(&mut text, format_args!("{TRUNK_GATE_ALLOW}{{trunk=\"{}\"}} {allow}", escaped(id.as_str())));
    }
    let holds = |record| {
        let record: &crate::decision::TrunkRecord = record;
        let holds = record.operator_hold.iter().chain(&record.policy_hold);
        holds.fold((0_usize, 0_u64), |(count, calls), hold| (count + 1, calls.saturating_add(hold.refused_calls)))
    };
    family(&mut text, HOLDS_ACTIVE, "Active holds, of the policy and of people.");
    let active: usize = board.trunks().map(|(_, record)| holds(record).0).sum();
    line(&mut text, format_args!("{HOLDS_ACTIVE} {active}"));
    family(&mut text, HOLD_REFUSED_CALLS, "Calls that the gateway refused for a trunk's active holds so far.");
    for (id, record) in board.trunks() {
        let (count, calls) = holds(record);
        if count > 0 {
            line(&mut text, format_args!("{HOLD_REFUSED_CALLS}{{trunk=\"{}\"}} {calls}", escaped(id.as_str())));
        }
    }
    text
}

fn family(text: &mut String, name: &str, help: &str) {
    line(text, format_args!("# HELP {name} {help}\n# TYPE {name} gauge"));
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    let _infallible = writeln!(text, "{line}");
}

/// A label's value, as the format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
