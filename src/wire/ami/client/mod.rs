//! The client's side of AMI: authenticated sessions, and the link of two sessions a PBX is watched by.
//!
//! | file | answers |
//! |---|---|
//! | [`transport`] | how bytes reach Asterisk: TCP or TLS. The only file of this room with sockets |
//! | [`session`] | one authenticated connection: login, keepalive, one action at a time, what became of it |
//! | [`inbox`] | what waits for the consumer, bounded, signals apart from events |
//! | [`link`] | both sessions of a PBX: start, loss, reconnect |
//!
//! Two connections because Asterisk runs the actions of a session one after the other and sends its events only between
//! them (`main/manager.c`): a slow action would make the events late. Sessions run over any byte stream, so that tests
//! run them in memory and with paused time.

pub mod inbox;
pub mod link;
pub mod session;
pub mod transport;

#[cfg(test)]
mod tests;

use std::{path::PathBuf, time::Duration};

use secrecy::SecretString;

use super::codec::DecodeLimits;

pub use inbox::{LinkEvent, LinkEvents};
pub use link::{AmiLink, Delays, FilterState, Identity, LinkHandle, LinkPhase, MissingRight};
pub use session::{CallError, Line, NotSent, OutcomeUnknown, Refusal, Reply, SessionError, log_in, md5_key};
pub use transport::{BoxedIo, ConnectError, Connection, Security, TcpTransport, Transport, TransportError};

/// How to reach and watch one PBX.
#[derive(Debug, Clone)]
pub struct AmiSettings {
    /// What the PBX is called in spans.
    pub pbx: String,
    /// `host:port`.
    pub address: String,
    /// The user of `manager.conf`.
    pub username: String,
    /// Its secret.
    pub secret: SecretString,
    /// Whether and how the connection is encrypted.
    pub tls: Tls,
    /// When the secret itself may be sent, should Asterisk refuse the challenge login.
    pub plain_login: PlainLogin,
    /// A session from which no byte came for this long is lost. It is asked (`Ping`) after a third of it.
    pub unknown_after: Duration,
    /// The events to receive; see [`WatchedEvent::HEALTH`].
    pub events: Vec<WatchedEvent>,
    /// Whether Asterisk is asked to send only those (`Filter`, class system). Without, it sends all of their classes.
    pub filter: bool,
    /// How long each step may take.
    pub timeouts: Timeouts,
    /// What the PBX and the consumer may make us hold.
    pub limits: Limits,
    /// Waits between connections.
    pub backoff: Backoff,
}

impl AmiSettings {
    /// Settings with the defaults of DESIGN section 4.
    #[must_use]
    pub fn new(
        pbx: impl Into<String>,
        address: impl Into<String>,
        username: impl Into<String>,
        secret: SecretString,
    ) -> Self {
        Self {
            pbx: pbx.into(),
            address: address.into(),
            username: username.into(),
            secret,
            tls: Tls::Off,
            plain_login: PlainLogin::WhereSafe,
            unknown_after: Duration::from_secs(15),
            events: WatchedEvent::HEALTH.to_vec(),
            filter: true,
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            backoff: Backoff::default(),
        }
    }

    /// The event mask: the classes of the wanted events, and system, which the boot and the end are told in.
    pub(super) fn event_mask(&self) -> String {
        let mut classes = vec!["system"];
        for event in &self.events {
            if !classes.contains(&event.class()) {
                classes.push(event.class());
            }
        }
        classes.join(",")
    }

    /// The names to ask for when filtering: the wanted ones, and what the link itself needs.
    pub(super) fn filter_names(&self) -> Vec<&'static str> {
        let own = [WatchedEvent::FullyBooted, WatchedEvent::Shutdown, WatchedEvent::Reload];
        let mut names: Vec<_> = own.iter().map(|event| event.name()).collect();
        for event in &self.events {
            if !names.contains(&event.name()) {
                names.push(event.name());
            }
        }
        names
    }
}

/// Encryption of the connection. Asterisk accepts no client certificates on AMI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// Plain TCP, by default port 5038.
    Off,
    /// TLS, by default port 5039. Chain and name are checked.
    On {
        /// PEM file of the CA to trust instead of the system's.
        ca_file: Option<PathBuf>,
        /// The name the certificate must have, if it is not the address's host.
        server_name: Option<String>,
    },
}

/// When the secret may be sent as it is. A challenge login is always tried first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainLogin {
    /// Over TLS, or to a loopback address.
    WhereSafe,
    /// Never.
    Never,
    /// Over whatever connection: the operator says that the network is trusted.
    Anywhere,
}

/// How long each step may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Name resolution, TCP and TLS together.
    pub connect: Duration,
    /// The banner, and then each step of the login. A wrong secret takes Asterisk one second to say.
    pub login: Duration,
    /// How long `FullyBooted` may keep us waiting after the login before the link asks why, and then once more.
    pub boot: Duration,
    /// An action for which the caller names no deadline.
    pub action: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            login: Duration::from_secs(5),
            boot: Duration::from_secs(5),
            action: Duration::from_secs(10),
        }
    }
}

/// What the PBX and the consumer may make us hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// One message.
    pub decode: DecodeLimits,
    /// Items of one list.
    pub list_items: usize,
    /// Bytes of one list.
    pub list_bytes: usize,
    /// Actions waiting for their turn, per session.
    pub queued_actions: usize,
    /// Events waiting for the consumer.
    pub queued_events: usize,
}

impl Default for Limits {
    /// 20 000 items: ten times the trunks and endpoints of a large PBX. 8192 events: about 3 MB, some seconds of a busy PBX.
    fn default() -> Self {
        Self {
            decode: DecodeLimits::default(),
            list_items: 20_000,
            list_bytes: 32 << 20,
            queued_actions: 64,
            queued_events: 8192,
        }
    }
}

/// Waits between connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first wait after a loss.
    pub first: Duration,
    /// It doubles up to this.
    pub max: Duration,
    /// The first wait after a refused login: hosts ban addresses that keep trying.
    pub refused_first: Duration,
    /// It doubles up to this.
    pub refused_max: Duration,
    /// The waits start anew only after a link was ready for this long.
    pub stable_after: Duration,
    /// Whether waits are spread, so that many controllers do not come back at one moment.
    pub jitter: bool,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            max: Duration::from_secs(10),
            refused_first: Duration::from_secs(10),
            refused_max: Duration::from_secs(300),
            stable_after: Duration::from_secs(30),
            jitter: true,
        }
    }
}

/// Declares the events that can be asked for. An enum, since Asterisk accepts a filter on a mistyped name and then sends
/// nothing at all.
macro_rules! watched {
    ($($(#[$doc:meta])* $name:ident in $class:literal,)+) => {
        /// An event that can be asked for, by Asterisk's exact name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum WatchedEvent {
            $($(#[$doc])* $name,)+
        }

        impl WatchedEvent {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The name on the wire.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }

            /// The class a user needs to be allowed to read.
            #[must_use]
            pub const fn class(self) -> &'static str {
                match self { $(Self::$name => $class,)+ }
            }
        }
    };
}

watched! {
    /// A registration attempt ended (`main/stasis_system.c`).
    Registry in "system",
    /// A contact's qualify state changed (`main/stasis_endpoints.c`).
    ContactStatus in "system",
    /// An endpoint's state changed (`main/stasis_endpoints.c`).
    PeerStatus in "system",
    /// All modules are loaded (`main/asterisk.c`).
    FullyBooted in "system",
    /// A module was reloaded (`main/loader.c`).
    Reload in "system",
    /// Asterisk ends (`main/asterisk.c`).
    Shutdown in "system",
    /// An asynchronous `Originate` ended (`main/manager.c`).
    OriginateResponse in "call",
    /// A dialled leg ended its ringing (`main/dial.c`).
    DialEnd in "call",
    /// A channel began (`main/manager_channels.c`).
    Newchannel in "call",
    /// A channel got another name: a masquerade exchanges them (`main/channel.c`).
    Rename in "call",
    /// A channel ended (`main/manager_channels.c`).
    Hangup in "call",
    /// A device's state changed (`main/devicestate.c`).
    DeviceStateChange in "call",
    /// Somebody was challenged (`main/security_events.c`).
    ChallengeSent in "security",
    /// Somebody's credentials failed (`main/security_events.c`).
    ChallengeResponseFailed in "security",
    /// Somebody unknown called (`main/security_events.c`).
    InvalidAccountID in "security",
    /// Somebody's password was wrong (`main/security_events.c`).
    InvalidPassword in "security",
}

impl WatchedEvent {
    /// What the health of trunks is made of.
    pub const HEALTH: &'static [Self] =
        &[Self::Registry, Self::ContactStatus, Self::PeerStatus, Self::FullyBooted, Self::Reload, Self::Shutdown];
}
