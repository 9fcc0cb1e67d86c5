//! 1. Bytes to protocol values and back. Pure, but for the files named `client.rs`.

pub mod ami;
pub mod dial;
pub mod exten;
pub mod hep;
pub mod history_cli;
pub mod logger;
pub mod pcap;
pub mod pjsip;
pub mod sip;
