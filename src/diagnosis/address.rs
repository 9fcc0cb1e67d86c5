//! Addresses: which of them the other side of a NAT could reach.
//!
//! Apart, because a wrong answer here makes a wrong verdict: "private" is what no provider in the Internet can send to, and
//! nothing else. The documentation networks (RFC 5737) count as public: examples and laboratories stand for the Internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IP address written as a host, with or without brackets; `None` for a name.
pub(super) fn literal(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let bare = bare.split_once('%').map_or(bare, |(address, _zone)| address);
    bare.parse().ok()
}

/// Whether a provider in the Internet cannot send to it: RFC 1918, RFC 6598 (carrier NAT), loopback, link local, unique
/// local (RFC 4193), and "any".
pub(super) fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_private_v4(address),
        IpAddr::V6(address) => is_private_v6(address),
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_unspecified()
        || (first == 100 && (64..128).contains(&second))
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return is_private_v4(mapped);
    }
    let head = address.segments()[0];
    address.is_loopback() || address.is_unspecified() || head & 0xfe00 == 0xfc00 || head & 0xffc0 == 0xfe80
}

/// A host as it goes into a URI: IPv6 in brackets.
pub(super) fn in_uri(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_internet_cannot_send_to_is_private_and_nothing_else() {
        for private in [
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.1.1",
            "0.0.0.0",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "fc00::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(is_private(private.parse().unwrap()), "{private}");
        }
        for public in [
            "203.0.113.5",
            "198.51.100.7",
            "192.0.2.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "8.8.8.8",
            "2001:db8::1",
            "::ffff:203.0.113.1",
        ] {
            assert!(!is_private(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn a_bracketed_or_zoned_address_is_a_literal_and_a_name_is_none() {
        assert_eq!(literal("[2001:db8::1]"), Some("2001:db8::1".parse().unwrap()));
        assert_eq!(literal("fe80::1%eth0"), Some("fe80::1".parse().unwrap()));
        assert_eq!(literal("sip.provider.example"), None);
    }
}
