//! The gateway's admission beside a literal reading of Asterisk's rules, any bytes.
//!
//! Checks: the same messages and lines, whatever the pieces; what passes as no `Originate` is none in the oracle's reading, of the
//! bytes as they came and of those written in their place; no `Originate` passes that dials a trunk which holds; a refusal is
//! one short line. The oracle is compared with a real Asterisk by the lab's `gateway_parser`.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/it/gateway_compare.rs"]
mod gateway_compare;
#[path = "../../tests/it/gateway_oracle.rs"]
mod gateway_oracle;

static SCENE: LazyLock<gateway_compare::Scene> = LazyLock::new(gateway_compare::Scene::new);

fuzz_target!(|bytes: &[u8]| SCENE.compare(bytes));
