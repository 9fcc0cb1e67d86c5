//! What a diagnosis says.

use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    ids::TrunkId,
    wire::sip::trace::{Direction, Source},
};

/// Why it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The provider refuses the digest, and it was made of the configured password.
    WrongPassword,
    /// The provider knows no such authentication user.
    WrongAuthUsername,
    /// The auth section is made for another realm.
    RealmMismatch,
    /// The provider asks for a digest algorithm that is not enabled.
    AlgorithmNotEnabled,
    /// No `outbound_auth`, or it names nothing.
    NoCredentialsConfigured,
    /// The account is refused, with credentials.
    AccountForbidden,
    /// The address is refused, before any credentials.
    AddressForbidden,
    /// Nothing comes back.
    NoResponse,
    /// Nothing listens there.
    PortClosed,
    /// The provider's name does not resolve.
    DnsFailure,
    /// The provider wants to be spoken to through its proxy.
    OutboundProxyRequired,
    /// Registered with a private address.
    NatContact,
    /// Inbound requests match no endpoint.
    IdentifyMissing,
    /// The binding was taken by, or rewritten for, another.
    BindingLost,
    /// The provider is out of order or overloaded.
    ProviderUnavailable,
    /// A refresh is late.
    RefreshOverdue,
    /// Asterisk has stopped trying, and why is not known.
    GaveUp,
    /// The provider grants so little time that Asterisk registers without end.
    ExpiryTooShort,
    /// The provider accepted the request and granted nothing.
    BindingRefused,
    /// Calls are rejected on a registered trunk.
    CallsRejected,
    /// Calls have no audio.
    MediaBlocked,
    /// The TLS handshake fails.
    TlsFailure,
    /// The evidence does not say.
    Unknown,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 23] = [
        Self::WrongPassword,
        Self::WrongAuthUsername,
        Self::RealmMismatch,
        Self::AlgorithmNotEnabled,
        Self::NoCredentialsConfigured,
        Self::AccountForbidden,
        Self::AddressForbidden,
        Self::NoResponse,
        Self::PortClosed,
        Self::DnsFailure,
        Self::OutboundProxyRequired,
        Self::NatContact,
        Self::IdentifyMissing,
        Self::BindingLost,
        Self::ProviderUnavailable,
        Self::RefreshOverdue,
        Self::GaveUp,
        Self::ExpiryTooShort,
        Self::BindingRefused,
        Self::CallsRejected,
        Self::MediaBlocked,
        Self::TlsFailure,
        Self::Unknown,
    ];

    /// The word of the API, the history and the webhooks.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WrongPassword => "wrong_password",
            Self::WrongAuthUsername => "wrong_auth_username",
            Self::RealmMismatch => "realm_mismatch",
            Self::AlgorithmNotEnabled => "algorithm_not_enabled",
            Self::NoCredentialsConfigured => "no_credentials_configured",
            Self::AccountForbidden => "account_forbidden",
            Self::AddressForbidden => "address_forbidden",
            Self::NoResponse => "no_response",
            Self::PortClosed => "port_closed",
            Self::DnsFailure => "dns_failure",
            Self::OutboundProxyRequired => "outbound_proxy_required",
            Self::NatContact => "nat_contact",
            Self::IdentifyMissing => "identify_missing",
            Self::BindingLost => "binding_lost",
            Self::ProviderUnavailable => "provider_unavailable",
            Self::RefreshOverdue => "refresh_overdue",
            Self::GaveUp => "gave_up",
            Self::ExpiryTooShort => "expiry_too_short",
            Self::BindingRefused => "binding_refused",
            Self::CallsRejected => "calls_rejected",
            Self::MediaBlocked => "media_blocked",
            Self::TlsFailure => "tls_failure",
            Self::Unknown => "unknown",
        }
    }

    /// Whether a registration that succeeds may have it all the same: a warning, not a reason for being down.
    #[must_use]
    pub const fn concerns_registered(self) -> bool {
        match self {
            Self::NatContact
            | Self::IdentifyMissing
            | Self::BindingLost
            | Self::ExpiryTooShort
            | Self::CallsRejected
            | Self::MediaBlocked => true,
            Self::WrongPassword
            | Self::WrongAuthUsername
            | Self::RealmMismatch
            | Self::AlgorithmNotEnabled
            | Self::NoCredentialsConfigured
            | Self::AccountForbidden
            | Self::AddressForbidden
            | Self::NoResponse
            | Self::PortClosed
            | Self::DnsFailure
            | Self::OutboundProxyRequired
            | Self::ProviderUnavailable
            | Self::RefreshOverdue
            | Self::GaveUp
            | Self::BindingRefused
            | Self::TlsFailure
            | Self::Unknown => false,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// On whose side it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The provider's.
    Provider,
    /// Between us and the provider.
    Network,
    /// Our configuration's.
    Configuration,
    /// Our Asterisk's.
    Pbx,
    /// It cannot be told.
    Unknown,
}

impl Fault {
    /// The word of the API and the history.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Network => "network",
            Self::Configuration => "configuration",
            Self::Pbx => "pbx",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a trunk's registration fails, what proves it, and what mends it. Nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// The trunk; `None` of a capture whose registration is not known as one.
    pub trunk: Option<TrunkId>,
    /// Which registration, or what else it is about.
    pub subject: Subject,
    /// When the last thing it rests on was seen.
    pub at: Timestamp,
    /// Why.
    pub cause: Cause,
    /// How sure, 0 to 1.
    pub confidence: f64,
    /// On whose side.
    pub fault: Fault,
    /// One sentence for people.
    pub summary: String,
    /// What else it may be, the likelier first; never the cause itself.
    pub alternatives: Vec<Alternative>,
    /// The sources it rests on, the strongest first.
    pub sources: Vec<Source>,
    /// What was seen, in order of time: the exchange itself, and the configuration lines that matter.
    pub evidence: Vec<Evidence>,
    /// What mends it.
    pub fix: Fix,
    /// What to switch on in order to know more; empty when nothing would help.
    pub to_know_more: Vec<String>,
}

/// What a diagnosis is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The registration's section, where known.
    pub registration: Option<String>,
    /// Who registers: `sip:user@host`.
    pub client_uri: Option<String>,
    /// Where.
    pub server_uri: Option<String>,
}

/// Another cause that the evidence leaves open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alternative {
    /// Which.
    pub cause: Cause,
    /// How sure, 0 to 1; never more than the diagnosis' own.
    pub confidence: f64,
}

/// One thing seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// When.
    pub at: Timestamp,
    /// Which way, seen from Asterisk; `None` of what did not travel (a configuration line).
    pub direction: Option<Direction>,
    /// By which means it was seen.
    pub source: Source,
    /// It in one line, at most 200 characters: `401 Unauthorized, Digest realm="asterisk", algorithm=MD5`.
    pub line: String,
    /// The sender, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<SocketAddr>,
    /// The receiver, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<SocketAddr>,
    /// How often it was sent again.
    #[serde(default)]
    pub repeats: u32,
    /// When it was sent last, if it was sent again and that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// The message, redacted, at most 4,096 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What mends it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fix {
    /// What to do, for people.
    pub text: String,
    /// What to write where: section and lines of `pjsip.conf`, or a command; empty if nothing on this side helps.
    pub config: String,
}
