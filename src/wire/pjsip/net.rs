//! Addresses and networks as `local_net` and `match` write them.
//!
//! Asterisk takes `address`, `address/bits` and `address/mask`, and prints masks (`main/acl.c`). Names are not resolved
//! here.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// A network, or one address; perhaps of one port, perhaps excluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Net {
    address: IpAddr,
    /// Bits that count, from the left of the address's own 32 or 128 bits.
    mask: u128,
    port: Option<u16>,
    negated: bool,
}

impl Net {
    /// Reads one entry; `None` for a name, or a mask that is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (negated, text) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
        let (address, mask) = match text.split_once('/') {
            Some((address, mask)) => (address, Some(mask.trim())),
            None => (text, None),
        };
        let (address, port) = parse_address(address.trim())?;
        let width = if address.is_ipv4() { 32_u32 } else { 128 };
        let all = u128::MAX >> (128 - width);
        let mask = match mask {
            None => all,
            Some(bits) => match bits.parse::<u32>() {
                Ok(bits) if bits > width => return None,
                Ok(0) => 0,
                Ok(bits) => (all >> (width - bits)) << (width - bits),
                Err(_) => match bits.parse::<IpAddr>().ok()? {
                    mask if mask.is_ipv4() == address.is_ipv4() => number(mask),
                    IpAddr::V4(_) | IpAddr::V6(_) => return None,
                },
            },
        };
        Some(Self { address, mask, port, negated })
    }

    /// Whether the address is in it, whatever the port. An IPv4 address written as IPv6 (`::ffff:…`) is IPv4.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_ipv4() == self.address.is_ipv4() && number(ip) & self.mask == number(self.address) & self.mask
    }

    /// Whether it is written with a `!`: what is in it is excluded.
    #[must_use]
    pub const fn is_negated(&self) -> bool {
        self.negated
    }

    /// The port, if only one is meant.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        self.port
    }

    /// What the last entry that contains the address says (`main/acl.c`, `ast_apply_ha`); `false` without any.
    pub(super) fn last_word<'a>(nets: impl Iterator<Item = &'a String>, ip: IpAddr) -> bool {
        nets.filter_map(|text| Self::parse(text))
            .filter(|net| net.contains(ip))
            .last()
            .is_some_and(|net| !net.is_negated())
    }
}

impl fmt::Display for Net {
    /// With the number of bits where the mask has no holes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.negated {
            f.write_str("!")?;
        }
        match self.port {
            Some(port) => write!(f, "{}", SocketAddr::new(self.address, port))?,
            None => write!(f, "{}", self.address)?,
        }
        let width = if self.address.is_ipv4() { 32 } else { 128 };
        let bits = (self.mask << (128 - width)).leading_ones();
        if self.mask.count_ones() == bits {
            write!(f, "/{bits}")
        } else if let (true, Ok(mask)) = (self.address.is_ipv4(), u32::try_from(self.mask)) {
            write!(f, "/{}", Ipv4Addr::from(mask))
        } else {
            write!(f, "/{}", Ipv6Addr::from(self.mask))
        }
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

/// `192.0.2.1`, `192.0.2.1:5060`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:5060`.
fn parse_address(text: &str) -> Option<(IpAddr, Option<u16>)> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Some((address.to_canonical(), None));
    }
    let socket = text.parse::<SocketAddr>().ok()?;
    Some((socket.ip().to_canonical(), Some(socket.port())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holds(net: &str, ip: &str) -> bool {
        Net::parse(net).unwrap().contains(ip.parse().unwrap())
    }

    #[test]
    fn bits_masks_and_bare_addresses_say_what_is_in_them() {
        for (net, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("192.168.0.0/255.255.0.0", "192.168.7.9", "192.169.0.1"),
            ("203.0.113.7", "203.0.113.7", "203.0.113.8"),
            ("203.0.113.7/32", "203.0.113.7", "203.0.113.6"),
            ("203.0.113.7:5070", "203.0.113.7", "203.0.113.6"),
            ("127.0.0.1:20001/255.255.255.255", "127.0.0.1", "127.0.0.2"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
            ("2001:db8::/ffff:ffff::", "2001:db8:1::1", "2001:db7::1"),
            ("[2001:db8::1]:5060", "2001:db8::1", "2001:db8::2"),
            ("2001:db8::1/128", "2001:db8::1", "2001:db8::3"),
            // Bits beyond the mask do not count.
            ("10.20.30.40/8", "10.1.1.1", "9.1.1.1"),
        ] {
            assert!(holds(net, inside), "{net} {inside}");
            assert!(!holds(net, outside), "{net} {outside}");
        }
        assert!(holds("0.0.0.0/0", "8.8.8.8") && holds("::/0", "2001:db8::1"));
        assert!(!holds("0.0.0.0/0", "2001:db8::1") && !holds("::/0", "8.8.8.8"), "another family");
        assert!(holds("10.0.0.0/8", "::ffff:10.1.2.3"), "mapped");
    }

    #[test]
    fn names_and_masks_that_are_none_are_not_taken() {
        for text in
            ["sip.example", "localhost", "", "/", "10.0.0.0/33", "2001:db8::/129", "10.0.0.0/ffff::", "::/255.0.0.0"]
        {
            assert_eq!(Net::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_mask_as_asterisk_prints_it_becomes_bits() {
        let shown = |text: &str| Net::parse(text).unwrap().to_string();
        assert_eq!(shown("203.0.113.7/255.255.255.255"), "203.0.113.7/32");
        assert_eq!(shown("2001:db8::/ffff:ffff::"), "2001:db8::/32");
        assert_eq!(shown("127.0.0.1:20001/255.255.255.255"), "127.0.0.1:20001/32");
        assert_eq!(shown("!10.1.0.0/255.255.0.0"), "!10.1.0.0/16");
        assert_eq!(shown("10.0.0.0/255.0.255.0"), "10.0.0.0/255.0.255.0");
        assert_eq!(shown("0.0.0.0/0"), "0.0.0.0/0");
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_printed_so_that_it_is_read_again(text in "[!0-9a-f:./\\[\\]]{0,24}") {
            if let Some(net) = Net::parse(&text) {
                prop_assert_eq!(Net::parse(&net.to_string()), Some(net), "{}", net);
            }
        }

        #[test]
        fn an_address_is_in_every_net_around_it(address: u32, bits in 0_u32..=32) {
            let ip = IpAddr::from(Ipv4Addr::from(address));
            let net = Net::parse(&format!("{ip}/{bits}")).unwrap();
            prop_assert!(net.contains(ip));
            // The bit just inside the mask, turned over, is outside.
            if bits > 0 {
                let other = IpAddr::from(Ipv4Addr::from(address ^ (1 << (32 - bits))));
                prop_assert!(!net.contains(other));
            }
        }
    }
}
