//! What was seen on the wire, by whichever means: the one vocabulary between the sources and the diagnosis.

use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Serialize};

use super::message::SipMessage;
use crate::clock::Timestamp;

/// By which means something was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The HEP feed of `res_hep_pjsip`.
    Hep,
    /// `pjsip show history` over AMI.
    History,
    /// A capture file.
    Capture,
    /// SIP logger text in one of Asterisk's log files.
    Logger,
    /// An AMI event or list.
    Ami,
    /// Asterisk's configuration.
    Configuration,
}

impl Source {
    /// The word of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hep => "hep",
            Self::History => "history",
            Self::Capture => "capture",
            Self::Logger => "logger",
            Self::Ami => "ami",
            Self::Configuration => "configuration",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Which way, as seen from Asterisk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Asterisk sent it.
    Out,
    /// Asterisk received it.
    In,
}

/// What carried it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP; HEP says so of TLS too, which the topmost Via corrects.
    Tcp,
    /// TLS.
    Tls,
    /// WebSocket, plain or not.
    Ws,
}

/// One thing seen.
#[derive(Debug, Clone)]
pub struct Seen {
    /// When, by the clock of whoever saw it: the PBX's (HEP, logger, history) or the capturing machine's.
    pub at: Timestamp,
    /// By which means.
    pub source: Source,
    /// Which way, where the source says so (history, logger). HEP and captures give two addresses instead.
    pub direction: Option<Direction>,
    /// What carried it, where the source says so.
    pub transport: Option<Transport>,
    /// The sender, where the source says so: history and logger know the far end only.
    pub from: Option<SocketAddr>,
    /// The receiver, where the source says so.
    pub to: Option<SocketAddr>,
    /// What it was.
    pub what: Happening,
}

/// What was seen.
#[derive(Debug, Clone)]
pub enum Happening {
    /// A SIP message. A retransmission is another one.
    Sip(Box<SipMessage>),
    /// ICMP: what `from` sent to `to` did not arrive. `from` and `to` are those of the packet that ICMP quotes, so the
    /// notice itself travelled the other way.
    Unreachable {
        /// Why not.
        why: Unreachable,
        /// The Call-ID of the quoted message, where enough of it was quoted.
        call_id: Option<String>,
    },
    /// TCP: `from` wanted a connection to `to`, and it was reset.
    Refused,
    /// TCP: `from` wanted a connection to `to`; no answer was seen to this attempt (a SYN repeated is another one).
    Unanswered,
    /// TLS: `from` ended a handshake, or a connection, with an alert.
    TlsAlert {
        /// The alert's description (RFC 8446 section 6), such as 48 `unknown_ca`.
        description: u8,
    },
    /// DNS: a name was asked for and cannot be resolved. `from` is who answered.
    NameError {
        /// The name.
        name: String,
        /// The response code (RFC 1035 section 4.1.1): 3 is NXDOMAIN, 2 SERVFAIL; 0 with no answer is `NODATA`.
        rcode: u8,
    },
}

/// Why ICMP says that something did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unreachable {
    /// Nothing listens on the port.
    Port,
    /// No such host, or it is down.
    Host,
    /// No route.
    Network,
    /// A firewall says no.
    Prohibited,
    /// Another code of "destination unreachable".
    Other,
}

impl Seen {
    /// The SIP message, if it is one.
    #[must_use]
    pub fn sip(&self) -> Option<&SipMessage> {
        match &self.what {
            Happening::Sip(message) => Some(message),
            Happening::Unreachable { .. }
            | Happening::Refused
            | Happening::Unanswered
            | Happening::TlsAlert { .. }
            | Happening::NameError { .. } => None,
        }
    }
}
