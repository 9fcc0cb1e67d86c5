//! Asterisk's PJSIP objects, as far as a registration's fate hangs on them.
//!
//! One shape for three readers: AMI lists, CLI text, and a `pjsip.conf`. Values are kept as written where they are
//! shown to people or looked for in the file; a missing option is `None`, and its default is the reader's knowledge,
//! not ours.
//!
//! Secrets are here in memory and leave it for a digest's check only.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use secrecy::SecretString;

use super::sip::digest::Secret;

pub mod ami;
pub mod conf;
mod fields;
mod net;
mod queries;
mod uris;

pub use net::Net;
pub use uris::{protocol_of, same_uri};

/// The kinds of objects read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `type=registration`.
    Registration,
    /// `type=auth`.
    Auth,
    /// `type=endpoint`.
    Endpoint,
    /// `type=aor`.
    Aor,
    /// `type=identify`.
    Identify,
    /// `type=transport`.
    Transport,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Registration, Self::Auth, Self::Endpoint, Self::Aor, Self::Identify, Self::Transport];

    /// The word after `type=`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registration => "registration",
            Self::Auth => "auth",
            Self::Endpoint => "endpoint",
            Self::Aor => "aor",
            Self::Identify => "identify",
            Self::Transport => "transport",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The objects of one PBX, by name.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    /// `type=registration`.
    pub registrations: BTreeMap<String, Registration>,
    /// `type=auth`.
    pub auths: BTreeMap<String, Auth>,
    /// `type=endpoint`.
    pub endpoints: BTreeMap<String, Endpoint>,
    /// `type=aor`.
    pub aors: BTreeMap<String, Aor>,
    /// `type=identify`.
    pub identifies: BTreeMap<String, Identify>,
    /// `type=transport`. Over AMI only those that an endpoint names, and those asked for by name.
    pub transports: BTreeMap<String, Transport>,
    /// Whether these are all there are: a file, or lists read to their end. Only then a name that is missing is a typo.
    pub complete: Completeness,
    /// Objects that something names, or that were asked for, and that Asterisk said it does not have.
    pub absent: BTreeSet<(Kind, String)>,
    /// What could not be read, or is not as it seems, in words; never a secret.
    pub remarks: Vec<String>,
    /// Where each option of a file stands: by kind, object, and option as Asterisk spells it.
    lines: BTreeMap<(Kind, String, String), Place>,
}

/// Which kinds of objects were read whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Completeness {
    /// All registrations.
    pub registrations: bool,
    /// All auths, so one that is not here does not exist.
    pub auths: bool,
    /// All endpoints, AORs and identifies.
    pub endpoints: bool,
    /// All transports.
    pub transports: bool,
}

/// Where an object stands in the file, so that a fix can name the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was given or included.
    pub file: String,
    /// The line of its section's head, from 1.
    pub line: u32,
}

impl fmt::Display for Place {
    /// As `pjsip.conf line 42`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} line {}", self.file, self.line)
    }
}

/// `type=registration`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registration {
    /// `client_uri`.
    pub client_uri: String,
    /// `server_uri`.
    pub server_uri: String,
    /// `contact_user`; Asterisk sends `s` without.
    pub contact_user: Option<String>,
    /// `transport`.
    pub transport: Option<String>,
    /// `outbound_proxy`.
    pub outbound_proxy: Option<String>,
    /// `outbound_auth`: names, in order.
    pub outbound_auth: Vec<String>,
    /// `endpoint`.
    pub endpoint: Option<String>,
    /// `line`.
    pub line: Option<bool>,
    /// `expiration`, seconds.
    pub expiration: Option<u32>,
    /// `retry_interval`, seconds.
    pub retry_interval: Option<u32>,
    /// `forbidden_retry_interval`, seconds.
    pub forbidden_retry_interval: Option<u32>,
    /// `fatal_retry_interval`, seconds.
    pub fatal_retry_interval: Option<u32>,
    /// `max_retries`.
    pub max_retries: Option<u32>,
    /// `auth_rejection_permanent`.
    pub auth_rejection_permanent: Option<bool>,
    /// Where it stands.
    pub place: Option<Place>,
}

/// `type=auth`.
#[derive(Debug, Clone, Default)]
pub struct Auth {
    /// `auth_type`, as written.
    pub auth_type: Option<String>,
    /// `username`.
    pub username: Option<String>,
    /// `realm`; `None`, empty and `*` match any.
    pub realm: Option<String>,
    /// `password_digest`, `md5_cred`, `password`: what there is, in Asterisk's order of use. Asterisk 22 takes a hash
    /// made for the algorithm asked for, even with `auth_type=userpass`, and the password if there is none.
    pub secrets: Vec<Secret>,
    /// `supported_algorithms_uac`, as written; empty is the global default, which is MD5.
    pub supported_algorithms_uac: Vec<String>,
    /// Where it stands.
    pub place: Option<Place>,
}

impl Auth {
    /// Whether its realm, if it names one, answers `realm` (`res_pjsip_outbound_authenticator_digest.c`: any case).
    #[must_use]
    pub fn answers(&self, realm: &str) -> bool {
        match self.realm.as_deref() {
            None | Some("" | "*") => true,
            Some(own) => own.eq_ignore_ascii_case(realm),
        }
    }

    /// The password in clear, if it has one.
    #[must_use]
    pub fn password(&self) -> Option<&SecretString> {
        self.secrets.iter().find_map(|secret| match secret {
            Secret::Password(password) => Some(password),
            Secret::Ha1(..) => None,
        })
    }
}

/// `type=endpoint`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// `transport`.
    pub transport: Option<String>,
    /// `aors`.
    pub aors: Vec<String>,
    /// `auth`.
    pub auth: Vec<String>,
    /// `outbound_auth`.
    pub outbound_auth: Vec<String>,
    /// `outbound_proxy`.
    pub outbound_proxy: Option<String>,
    /// `from_user`.
    pub from_user: Option<String>,
    /// `from_domain`.
    pub from_domain: Option<String>,
    /// `identify_by`, as written.
    pub identify_by: Option<String>,
    /// `media_address`.
    pub media_address: Option<String>,
    /// `rewrite_contact`.
    pub rewrite_contact: Option<bool>,
    /// `force_rport`.
    pub force_rport: Option<bool>,
    /// `rtp_symmetric`.
    pub rtp_symmetric: Option<bool>,
    /// `direct_media`.
    pub direct_media: Option<bool>,
    /// Where it stands.
    pub place: Option<Place>,
}

/// `type=aor`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aor {
    /// `contact`, each.
    pub contacts: Vec<String>,
    /// `qualify_frequency`, seconds; 0 is off.
    pub qualify_frequency: Option<u32>,
    /// Where it stands.
    pub place: Option<Place>,
}

/// `type=identify`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identify {
    /// `endpoint`.
    pub endpoint: Option<String>,
    /// `match`, each as written in the file, or as resolved over AMI: `203.0.113.7/32`, `2001:db8::/64`, or a name.
    pub matches: Vec<String>,
    /// `match_header`.
    pub match_header: Option<String>,
    /// Where it stands.
    pub place: Option<Place>,
}

/// `type=transport`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transport {
    /// `protocol`: `udp`, `tcp`, `tls`, `ws`, `wss`, lower case.
    pub protocol: Option<String>,
    /// `bind`.
    pub bind: Option<String>,
    /// `local_net`, each.
    pub local_net: Vec<String>,
    /// `external_signaling_address`.
    pub external_signaling_address: Option<String>,
    /// `external_signaling_port`.
    pub external_signaling_port: Option<u16>,
    /// `external_media_address`.
    pub external_media_address: Option<String>,
    /// `verify_server` (TLS).
    pub verify_server: Option<bool>,
    /// `ca_list_file` or `ca_list_path` is set (TLS).
    pub has_ca_list: Option<bool>,
    /// Where it stands.
    pub place: Option<Place>,
}
