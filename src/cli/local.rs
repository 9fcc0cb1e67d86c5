//! The commands that work on this machine: they start the controller, read its configuration, or need nothing at all.

use std::{fmt::Write as _, path::Path, time::Duration};

use serde_json::json;

use super::{FAILED, Failure, OK, print};
use crate::api::{Role, auth};

fn not_wired(command: &str) -> Failure {
    Failure::new(FAILED, anyhow::anyhow!("`{command}` is not wired"))
}

/// `run`: until a signal stops it.
pub(super) async fn run(_config: Option<&Path>) -> Result<u8, Failure> {
    Err(not_wired("run"))
}

/// `demo`: the whole story, in so long.
pub(super) async fn demo(_lasting: Option<Duration>) -> Result<u8, Failure> {
    Err(not_wired("demo"))
}

/// `check`: the configuration, the links, and what is missing on the other side.
pub(super) async fn check(_config: Option<&Path>, _json: bool) -> Result<u8, Failure> {
    Err(not_wired("check"))
}

/// `config`: what is in force, masked.
pub(super) fn config(_config: Option<&Path>, _json: bool) -> Result<u8, Failure> {
    Err(not_wired("config"))
}

/// `migrate`: the store's schema.
pub(super) async fn migrate(_config: Option<&Path>) -> Result<u8, Failure> {
    Err(not_wired("migrate"))
}

/// `replay`: a journal, decided again.
pub(super) async fn replay(_file: &Path, _json: bool) -> Result<u8, Failure> {
    Err(not_wired("replay"))
}

/// `token new`: 256 random bits, and the lines that let them in.
pub(super) fn token_new(name: &str, role: Role, json: bool) -> Result<u8, Failure> {
    let token = format!("tw_{}", hex(&rand::random::<[u8; 32]>()));
    let sha256 = hex(&auth::hash(&token));
    if json {
        print(&format!("{}\n", json!({ "name": name, "role": role, "token": token, "sha256": sha256 })))?;
        return Ok(OK);
    }
    print(&format!(
        "token   {token}\n\
         sha256  {sha256}\n\
         \n\
         Keep the token: it is not shown again. Give it to commands in TRUNKWARDEN_TOKEN, to programs as\n\
         `Authorization: Bearer …`. Only its hash goes into trunkwarden.toml:\n\
         \n\
         [[api.token]]\n\
         name = \"{name}\"\n\
         role = \"{role}\"\n\
         sha256 = \"{sha256}\"\n"
    ))?;
    Ok(OK)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
