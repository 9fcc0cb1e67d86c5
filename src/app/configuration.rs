//! Placeholder until branch conf lands.
use crate::{
    ids::RegistrationName,
    wire::{ami::client::LinkHandle, pjsip::Objects},
};
/// Gaps.
#[derive(Debug, Clone, Default)]
pub struct ConfigurationGaps;
/// Reads.
pub async fn read_configuration(_link: &LinkHandle, _wanted: &[RegistrationName]) -> (Objects, ConfigurationGaps) {
    (Objects::default(), ConfigurationGaps)
}
