//! 1. Bytes to protocol values and back. Pure, but for the files named `client.rs`.

pub mod ami;
