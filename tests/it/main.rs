//! The integration tests: one binary, so that linking is paid once.

mod api;
mod architecture;
mod capture;
mod cli_diagnose;
mod config;
mod dependencies;
mod diagnosis;
mod gateway;
mod gateway_admission;
mod gateway_compare;
mod gateway_oracle;
mod lab;
mod robust;
mod store_contract;
mod webhook;
