//! How values stand in columns: times as milliseconds, enums as their words, the rest as JSON.

use std::error::Error;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    clock::Timestamp,
    decision::{EntryKind, MessageType, Scope},
    ids::{PbxId, TrunkId},
    store::StoreError,
};

/// Rows given at one time at most, whatever was asked for: an answer is bounded wherever the question came from.
pub(super) const PAGE: u32 = 10_000;

/// Names the step a statement failed at.
pub(super) trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, StoreError>;
}

impl<T> Step<T> for Result<T, sqlx::Error> {
    fn step(self, step: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Statement { step, source })
    }
}

/// Names the stored value that cannot be read.
pub(super) trait Readable<T> {
    fn readable(self, what: impl FnOnce() -> String) -> Result<T, StoreError>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> Readable<T> for Result<T, E> {
    fn readable(self, what: impl FnOnce() -> String) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Corrupt { what: what(), source: source.into() })
    }
}

/// Whole milliseconds, rounded towards the past.
pub(super) fn ms(at: Timestamp) -> i64 {
    at.as_nanosecond().div_euclid(1_000_000).try_into().unwrap_or(i64::MAX)
}

/// Whole milliseconds, rounded towards the future: for the end of a span, which is not in it.
pub(super) fn ms_up(at: Timestamp) -> i64 {
    ms(at).saturating_add(i64::from(at.as_nanosecond().rem_euclid(1_000_000) != 0))
}

pub(super) fn time(ms: i64) -> Result<Timestamp, StoreError> {
    Timestamp::from_millisecond(ms).readable(|| format!("the time {ms} ms"))
}

pub(super) fn json<T: Serialize + ?Sized>(value: &T, what: &'static str) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|source| StoreError::Unstorable { what, source })
}

pub(super) fn from_json<T: DeserializeOwned>(text: &str, what: impl FnOnce() -> String) -> Result<T, StoreError> {
    serde_json::from_str(text).readable(what)
}

/// What is kept as a word and is none of those we know.
#[derive(Debug, thiserror::Error)]
#[error("{word:?} is no known {of}")]
pub(super) struct UnknownWord {
    word: String,
    of: &'static str,
}

fn unknown(word: &str, of: &'static str) -> StoreError {
    StoreError::Corrupt { what: format!("a {of}"), source: Box::new(UnknownWord { word: word.to_owned(), of }) }
}

pub(super) fn entry_kind(word: &str) -> Result<EntryKind, StoreError> {
    EntryKind::ALL.into_iter().find(|kind| kind.as_str() == word).ok_or_else(|| unknown(word, "kind of entry"))
}

pub(super) fn message_type(word: &str) -> Result<MessageType, StoreError> {
    MessageType::ALL.into_iter().find(|kind| kind.as_str() == word).ok_or_else(|| unknown(word, "type of message"))
}

/// `trunk` or `pbx`, and which one.
pub(super) fn scope_columns(scope: &Scope) -> (&'static str, &str) {
    match scope {
        Scope::Trunk(trunk) => ("trunk", trunk.as_str()),
        Scope::Pbx(pbx) => ("pbx", pbx.as_str()),
    }
}

pub(super) fn scope(kind: &str, id: &str) -> Result<Scope, StoreError> {
    let named = || format!("the scope {kind} {id:?}");
    match kind {
        "trunk" => TrunkId::try_from(id).map(Scope::Trunk).readable(named),
        "pbx" => PbxId::try_from(id).map(Scope::Pbx).readable(named),
        _ => Err(unknown(kind, "scope")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_penalty_survives_storage_to_the_last_bit() {
        for step in 0..10_000_u32 {
            let penalty = 3000.0 * (-f64::from(step) / 731.0).exp2();
            let read: f64 = from_json(&json(&penalty, "a penalty").unwrap(), String::new).unwrap();
            assert_eq!(read.to_bits(), penalty.to_bits(), "{penalty}");
        }
    }

    #[test]
    fn a_span_is_rounded_outwards_at_its_end_and_times_towards_the_past() {
        let at = Timestamp::from_nanosecond(1_000_000_000_400_001).unwrap();
        assert_eq!((ms(at), ms_up(at)), (1_000_000_000, 1_000_000_001));
        let whole = Timestamp::from_millisecond(5).unwrap();
        assert_eq!((ms(whole), ms_up(whole)), (5, 5));
        assert_eq!(ms(Timestamp::from_nanosecond(-1).unwrap()), -1);
        assert_eq!((ms(Timestamp::MIN) < 0, ms(Timestamp::MAX) > 0), (true, true));
    }
}
