//! The names everything else is keyed by.
//!
//! Each kind of name is its own type, so that a registration's name cannot be passed where an endpoint's is wanted:
//! under PJSIP they are often equal, and the day they differ is the day it matters. A name is checked when it is made
//! and valid from then on.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why a text is no such name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("{kind} must not be empty")]
    Empty {
        /// Which kind of name.
        kind: &'static str,
    },
    /// Longer than any Asterisk object's name can be.
    #[error("{kind} is {length} bytes long, more than {limit}")]
    TooLong {
        /// Which kind of name.
        kind: &'static str,
        /// How long the text is, in bytes.
        length: usize,
        /// How long it may be, in bytes.
        limit: usize,
    },
    /// A character that has no place in it.
    #[error("{kind} {text:?} contains {found:?}, which is not allowed in it")]
    Character {
        /// Which kind of name.
        kind: &'static str,
        /// The text as given.
        text: String,
        /// The first offending character.
        found: char,
    },
    /// A trunk's id without its PBX.
    #[error("{text:?} is not a trunk: write it as pbx/trunk")]
    NotATrunk {
        /// The text as given.
        text: String,
    },
}

/// The longest name accepted, in bytes. Asterisk's URIs are limited to 256, with some builds to 512 (`PJSIP_MAX_URL_SIZE`
/// in `config_site.h`); object names are section names of a configuration file, which stay well below.
const LONGEST: usize = 512;

/// Control characters would break a log line or an AMI header; anything else may be in an Asterisk object's name.
fn check(kind: &'static str, text: &str, allowed: impl Fn(char) -> bool) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { kind });
    }
    if text.len() > LONGEST {
        return Err(NameError::TooLong { kind, length: text.len(), limit: LONGEST });
    }
    match text.chars().find(|&c| !allowed(c)) {
        Some(found) => Err(NameError::Character { kind, text: text.to_owned(), found }),
        None => Ok(()),
    }
}

fn plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

fn printable(c: char) -> bool {
    !c.is_control()
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<&str> for $name {
            type Error = NameError;
            fn try_from(text: &str) -> Result<Self, NameError> {
                check($kind, text, $allowed)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                check($kind, &text, $allowed)?;
                Ok(Self(text))
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::try_from(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// One Asterisk server, as the operator calls it: letters, digits, `-`, `_`, `.`.
    PbxId, "a PBX's id", plain
);
name!(
    /// A `type=endpoint` section's name.
    EndpointName, "an endpoint's name", printable
);
name!(
    /// A `type=registration` section's name. Never to be taken for the endpoint's, though they are often equal.
    RegistrationName, "a registration's name", printable
);
name!(
    /// A contact's URI, as `ContactStatus` and `ContactList` give it.
    ContactUri, "a contact's URI", printable
);
name!(
    /// A dialer, as the operator calls it: letters, digits, `-`, `_`, `.`.
    DialerId, "a dialer's id", plain
);
name!(
    /// A campaign, as its dialer calls it.
    CampaignId, "a campaign's id", printable
);
name!(
    /// A recorded hold: `hold_` and a ULID.
    HoldId, "a hold's id", plain
);
name!(
    /// An outbox item, which is also the `webhook-id` of every attempt: `msg_` and a ULID.
    MessageId, "a message's id", plain
);
name!(
    /// An incident: `incident_` and a ULID.
    IncidentId, "an incident's id", plain
);

/// A trunk: one provider leg on one PBX, written `pbx/trunk`.
///
/// The trunk's part may hold any printable character, a `/` too: the first `/` is the divider.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrunkId {
    text: String,
    divider: usize,
}

impl TrunkId {
    /// The trunk `name` on `pbx`.
    ///
    /// # Errors
    /// [`NameError`] when `name` is empty, too long or holds a control character.
    pub fn new(pbx: &PbxId, name: &str) -> Result<Self, NameError> {
        check("a trunk's name", name, printable)?;
        Ok(Self { text: format!("{pbx}/{name}"), divider: pbx.as_str().len() })
    }

    /// `pbx/trunk`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The PBX it is on.
    #[must_use]
    pub fn pbx(&self) -> PbxId {
        PbxId(self.text[..self.divider].to_owned())
    }

    /// The PBX it is on, as text.
    #[must_use]
    pub fn pbx_str(&self) -> &str {
        &self.text[..self.divider]
    }

    /// Its own name on that PBX.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.text[self.divider + 1..]
    }
}

impl TryFrom<&str> for TrunkId {
    type Error = NameError;
    fn try_from(text: &str) -> Result<Self, NameError> {
        let Some((pbx, name)) = text.split_once('/') else {
            return Err(NameError::NotATrunk { text: text.to_owned() });
        };
        Self::new(&PbxId::try_from(pbx)?, name)
    }
}

impl TryFrom<String> for TrunkId {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::try_from(text.as_str())
    }
}

impl FromStr for TrunkId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::try_from(text)
    }
}

impl From<TrunkId> for String {
    fn from(id: TrunkId) -> Self {
        id.text
    }
}

impl fmt::Display for TrunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

/// A campaign of a dialer, written `dialer/id`: two dialers may both have a campaign `7`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CampaignKey {
    /// Whose campaign.
    pub dialer: DialerId,
    /// Which one.
    pub id: CampaignId,
}

impl fmt::Display for CampaignKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.dialer, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trunk_is_written_with_its_pbx() {
        let id = TrunkId::try_from("pbx1/airtel/mumbai").unwrap();
        assert_eq!((id.pbx_str(), id.name()), ("pbx1", "airtel/mumbai"));
        assert_eq!(id.to_string(), "pbx1/airtel/mumbai");
        assert!(matches!(TrunkId::try_from("airtel"), Err(NameError::NotATrunk { .. })));
        assert!(matches!(TrunkId::try_from("pbx1/"), Err(NameError::Empty { .. })));
    }

    #[test]
    fn a_control_character_is_never_part_of_a_name() {
        assert!(matches!(TrunkId::try_from("pbx1/a\r\nAction: x"), Err(NameError::Character { found: '\r', .. })));
        assert!(PbxId::try_from("p/1").is_err());
        assert!(RegistrationName::try_from("").is_err());
        assert!(EndpointName::try_from("x".repeat(513).as_str()).is_err());
    }

    #[test]
    fn a_name_survives_json_only_if_it_is_valid() {
        let id: TrunkId = serde_json::from_str("\"pbx1/airtel\"").unwrap();
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"pbx1/airtel\"");
        assert!(serde_json::from_str::<TrunkId>("\"airtel\"").is_err());
    }
}
