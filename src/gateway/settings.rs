//! What the gateway is told: who may connect, what they may do, how dial strings are read, what a trunk takes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use secrecy::SecretString;

use crate::{
    ids::{PbxId, TrunkId},
    wire::ami::{Classes, client::AmiSettings},
};

/// The longest an `Originate` over a limit is kept waiting: dialers take longer silence for a dead link.
pub const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How long it is when nobody says.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(2);

/// One gateway.
#[derive(Debug, Clone)]
pub struct GatewaySettings {
    /// The PBX behind it.
    pub pbx: PbxId,
    /// Where it listens in clear.
    pub listen: SocketAddr,
    /// Where it listens with TLS, if anywhere.
    pub tls: Option<TlsListen>,
    /// From where one may connect at all; empty: from everywhere.
    pub allow: Vec<AddressRange>,
    /// How many connections may be without a login at once (`authlimit`; Asterisk's default is 50).
    pub auth_limit: usize,
    /// How long a connection may be without a login (`authtimeout`; Asterisk's default is 30 s).
    pub auth_timeout: Duration,
    /// Who may log in.
    pub users: Vec<GatewayUser>,
    /// Whether calls pass whose `Local/…` channel no rule resolves.
    pub local: LocalPolicy,
    /// Where the dialplan leads, for what the dial string does not say.
    pub rules: Vec<DialRule>,
    /// What a trunk takes.
    pub limits: Limits,
    /// How Asterisk is reached, and as whom; its user's rights bound everybody's.
    pub upstream: AmiSettings,
}

/// Where TLS is listened for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsListen {
    /// The address.
    pub listen: SocketAddr,
    /// The certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

/// Somebody who may log in: a dialer.
#[derive(Debug, Clone)]
pub struct GatewayUser {
    /// The name.
    pub name: String,
    /// The secret.
    pub secret: SecretString,
    /// From where; empty: from wherever one may connect.
    pub allow: Vec<AddressRange>,
    /// Classes of the events they get.
    pub read: Classes,
    /// Classes of the actions they may run. `command` is in it only where it was named: `all` leaves it out.
    pub write: Classes,
    /// `write` said `all`: actions Asterisk does not list pass too, for Asterisk to answer.
    pub write_all: bool,
    /// The only actions they may run, in lower case; `None`: all that `write` allows.
    pub actions: Option<BTreeSet<String>>,
    /// The only trunks they may dial on; `None`: all.
    pub trunks: Option<BTreeSet<TrunkId>>,
    /// Ways to dial past the gate that are open to them all the same.
    pub unguarded: BTreeSet<Unguarded>,
}

/// A way to dial that the gateway cannot judge, and so closes unless told otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unguarded {
    /// CLI commands that dial or send a channel elsewhere (`channel originate`, `dialplan …`, `console dial`, `agi exec`).
    Command,
    /// Actions that send a channel elsewhere in the dialplan: `Redirect`, `Atxfer`, `BlindTransfer` and their like.
    Redirect,
    /// `AGI`: it runs applications, `Dial` among them.
    Agi,
    /// `Setvar` of what makes Asterisk transfer or dial.
    Setvar,
    /// `Originate` with an application that dials in a way of its own (`Originate`, `Exec`, `Gosub`, …). `Queue` is none of
    /// them: it passes on purpose, since agents are called by it.
    Application,
}

impl Unguarded {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Command, Self::Redirect, Self::Agi, Self::Setvar, Self::Application];

    /// The word of the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Redirect => "redirect",
            Self::Agi => "agi",
            Self::Setvar => "setvar",
            Self::Application => "application",
        }
    }
}

/// Addresses: `10.0.0.0/8`, `2001:db8::/32`, or one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    base: IpAddr,
    bits: u8,
}

/// A text that is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no address or range of addresses; write 192.0.2.7 or 192.0.2.0/24")]
pub struct NoRange {
    text: String,
}

impl AddressRange {
    /// Whether `address` is in it; an IPv4 address in IPv6 clothes counts as itself.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        fn same<const N: usize>(one: [u8; N], other: [u8; N], bits: u8) -> bool {
            let (whole, rest) = (usize::from(bits / 8), bits % 8);
            let mask = !(0xFF_u8.checked_shr(rest.into()).unwrap_or(0));
            one[..whole] == other[..whole] && (rest == 0 || (one[whole] & mask) == (other[whole] & mask))
        }
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => same(base.octets(), address.octets(), self.bits),
            (IpAddr::V6(base), IpAddr::V6(address)) => same(base.octets(), address.octets(), self.bits),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    /// Whether `address` is in one of `ranges`, or there is none to be in.
    #[must_use]
    pub fn allows(ranges: &[Self], address: IpAddr) -> bool {
        ranges.is_empty() || ranges.iter().any(|range| range.contains(address))
    }
}

impl std::str::FromStr for AddressRange {
    type Err = NoRange;

    fn from_str(text: &str) -> Result<Self, NoRange> {
        let none = || NoRange { text: text.to_owned() };
        let (base, bits) = match text.split_once('/') {
            Some((base, bits)) => (base, Some(bits.parse::<u8>().map_err(|_| none())?)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().map_err(|_| none())?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        if bits > most {
            return Err(none());
        }
        // An IPv4 range in IPv6 clothes means the IPv4 addresses, as whoever comes from there does.
        match (base, base.to_canonical()) {
            (IpAddr::V6(_), canonical @ IpAddr::V4(_)) if bits >= 96 => Ok(Self { base: canonical, bits: bits - 96 }),
            _ => Ok(Self { base, bits }),
        }
    }
}

/// What becomes of calls whose `Local/…` channel no rule resolves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LocalPolicy {
    /// They pass.
    Allow,
    /// They are refused while any trunk of the PBX is held.
    #[default]
    HoldWhenAnyHeld,
}

/// Where a place in the dialplan leads: `Local/EXTEN@CONTEXT`, or the `Exten` and `Context` of an `Originate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialRule {
    /// The context.
    pub context: String,
    /// An extension or a pattern as in extensions.conf (`_0ZXXXX.`); `None`: every extension.
    pub exten: Option<String>,
    /// The trunks the dialplan dials on from there; none: it dials on none.
    pub trunks: Vec<TrunkId>,
    /// All of them must be held for the call to be refused, not any: the dialplan tries one after the other.
    pub hold_when_all: bool,
}

/// What trunks take.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Limits {
    /// Those without an entry of their own.
    pub every: TrunkLimits,
    /// By trunk.
    pub trunks: BTreeMap<TrunkId, TrunkLimits>,
}

impl Limits {
    /// What `trunk` takes.
    #[must_use]
    pub fn of(&self, trunk: &TrunkId) -> &TrunkLimits {
        self.trunks.get(trunk).unwrap_or(&self.every)
    }

    /// Whether calls must be counted for them.
    #[must_use]
    pub fn count_calls(&self) -> bool {
        let counts = |limits: &TrunkLimits| {
            limits.calls.is_some() || limits.ramp.as_ref().is_some_and(|ramp| ramp.calls.is_some())
        };
        counts(&self.every) || self.trunks.values().any(counts)
    }
}

/// What one trunk takes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TrunkLimits {
    /// Calls at once, those that others began included.
    pub calls: Option<u32>,
    /// Originates a second.
    pub per_second: Option<f64>,
    /// Less than that for a while after a hold ended.
    pub ramp: Option<Ramp>,
    /// What becomes of a call that finds no room.
    pub over: Over,
}

/// What a trunk takes when a hold on it has just ended; from there it grows evenly to what it takes otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct Ramp {
    /// Calls at once.
    pub calls: Option<u32>,
    /// Originates a second.
    pub per_second: Option<f64>,
    /// For how long.
    pub lasting: Duration,
}

/// What becomes of a call that finds no room on its trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Over {
    /// It is refused at once.
    #[default]
    Error,
    /// It waits for so long at most ([`LONGEST_WAIT`]), and is refused then.
    Wait(Duration),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_what_its_bits_say() {
        let range = |text: &str| text.parse::<AddressRange>().expect("a range");
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        for (text, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("192.0.2.128/25", "192.0.2.128", "192.0.2.127"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1"),
            ("::ffff:10.0.0.0/104", "10.1.2.3", "11.1.2.3"),
            ("0.0.0.0/0", "203.0.113.1", "::1"),
        ] {
            assert!(range(text).contains(address(inside)), "{text} {inside}");
            assert!(!range(text).contains(address(outside)), "{text} {outside}");
        }
        assert!(range("10.0.0.0/8").contains(address("::ffff:10.1.2.3")));
        assert!(AddressRange::allows(&[], address("10.0.0.1")));
        for text in ["10.0.0.0/33", "10.0.0", "::/129", "ten/8", "10.0.0.0/", ""] {
            assert!(text.parse::<AddressRange>().is_err(), "{text}");
        }
    }
}
