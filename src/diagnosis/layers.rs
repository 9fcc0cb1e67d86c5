//! The operator's own layers, one line each: is it registered, does anything come back, what was answered, does the
//! digest fit, is NAT in the way, would the provider's calls be recognised?
//!
//! Separate from the judgement, which names one cause: here every layer says what was seen of it, also what is well, and
//! where nothing could be seen, what would show it. Nothing in it is secret.

use serde::{Deserialize, Serialize};

use super::{
    case::Case,
    verdict::{Diagnosis, Evidence, Subject},
};
use crate::{clock::Timestamp, ids::TrunkId};

/// A layer, in the order in which an operator goes through them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerName {
    /// What Asterisk says of the registration.
    Registration,
    /// Name, route and firewall: whether anything comes back.
    Reachability,
    /// The messages: which final answer there was.
    SipTrace,
    /// Challenge and answer.
    Digest,
    /// The addresses we give to the other side.
    Nat,
    /// Whether the provider's requests are recognised.
    Identify,
}

impl LayerName {
    /// All of them, in order.
    pub const ALL: [Self; 6] =
        [Self::Registration, Self::Reachability, Self::SipTrace, Self::Digest, Self::Nat, Self::Identify];

    /// The word of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registration => "registration",
            Self::Reachability => "reachability",
            Self::SipTrace => "sip_trace",
            Self::Digest => "digest",
            Self::Nat => "nat",
            Self::Identify => "identify",
        }
    }
}

/// What was found in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// It is well.
    Ok,
    /// It is not.
    Problem,
    /// It could not be seen.
    Unknown,
    /// The exchange did not get so far.
    NotReached,
}

impl Finding {
    /// The word of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Problem => "problem",
            Self::Unknown => "unknown",
            Self::NotReached => "not_reached",
        }
    }
}

/// One layer's line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Which.
    pub name: LayerName,
    /// How it is.
    pub finding: Finding,
    /// Why, with the values that show it; of what could not be seen, what would show it.
    pub line: String,
}

/// The answer to "examine it now": the diagnosis, or that nothing is wrong, and the layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Examination {
    /// The diagnosis' own fields, or those of [`Well`].
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Every layer, in order.
    pub layers: Vec<Layer>,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Verdict {
    /// Something is wrong.
    Wrong(Box<Diagnosis>),
    /// Nothing is, as far as could be seen.
    Well(Box<Well>),
}

/// Nothing wrong was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Well {
    /// The trunk.
    pub trunk: Option<TrunkId>,
    /// Which registration.
    pub subject: Subject,
    /// When the last thing of it was seen; `None` if nothing was.
    pub at: Option<Timestamp>,
    /// `null`, so that whoever asks for the cause gets an answer.
    pub cause: (),
    /// One sentence for people.
    pub summary: String,
    /// The last exchange, where one was seen.
    #[serde(default)]
    pub evidence: Vec<Evidence>,
}

/// Placeholder.
pub fn layers(_case: &super::case::Case<'_>, _diagnosis: Option<&Diagnosis>) -> Vec<Layer> {
    Vec::new()
}
