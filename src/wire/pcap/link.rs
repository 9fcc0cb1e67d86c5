//! From a captured frame to its IP packet: one small header per link type, VLAN tags and PPPoE skipped.
//!
//! By hand, because the cooked captures' second version and the BSD loopback are in no parser at hand, and because this is
//! done for each packet of a capture, most of which are nobody's concern.

/// What a packet's first header is. The numbers are those of the registry at tcpdump's site ("link-layer header types").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkType {
    /// 1.
    Ethernet,
    /// 113: Linux "any", version 1.
    Cooked,
    /// 276: Linux "any", version 2.
    Cooked2,
    /// 0 and 108: four bytes of address family.
    Loopback,
    /// 101, 228, 229; 12 and 14 in some systems' files: IP at once.
    Raw,
    /// Any other.
    Unknown(u32),
}

/// The link types that can be read, in words, for errors.
pub(super) const ACCEPTED: &str =
    "Ethernet (1), Linux cooked (113, 276), raw IP (101, 228, 229), BSD loopback (0, 108)";

impl From<u32> for LinkType {
    fn from(number: u32) -> Self {
        match number {
            1 => Self::Ethernet,
            113 => Self::Cooked,
            276 => Self::Cooked2,
            0 | 108 => Self::Loopback,
            12 | 14 | 101 | 228 | 229 => Self::Raw,
            other => Self::Unknown(other),
        }
    }
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const VLAN_PROVIDER: u16 = 0x88a8;
const VLAN_OLD: u16 = 0x9100;
const PPPOE: u16 = 0x8864;
const PPP_IPV4: u16 = 0x0021;
const PPP_IPV6: u16 = 0x0057;
/// Tags in a row; providers stack two.
const MAX_TAGS: usize = 4;

/// The IP packet in a frame, padding maybe behind it; `None` if it holds another protocol, or is cut before it.
pub(super) fn ip(link: LinkType, frame: &[u8]) -> Option<&[u8]> {
    match link {
        LinkType::Ethernet => tagged(u16_at(frame, 12)?, frame.get(14..)?),
        LinkType::Cooked => tagged(u16_at(frame, 14)?, frame.get(16..)?),
        LinkType::Cooked2 => tagged(u16_at(frame, 0)?, frame.get(20..)?),
        // The family's number differs between systems, and IP tells its version itself.
        LinkType::Loopback => frame.get(4..),
        LinkType::Raw => Some(frame),
        LinkType::Unknown(_) => None,
    }
}

fn tagged(mut ether_type: u16, mut rest: &[u8]) -> Option<&[u8]> {
    for _ in 0..=MAX_TAGS {
        match ether_type {
            IPV4 | IPV6 => return Some(rest),
            VLAN | VLAN_PROVIDER | VLAN_OLD => {
                ether_type = u16_at(rest, 2)?;
                rest = rest.get(4..)?;
            }
            PPPOE => {
                ether_type = match u16_at(rest, 6)? {
                    PPP_IPV4 => IPV4,
                    PPP_IPV6 => IPV6,
                    _ => return None,
                };
                rest = rest.get(8..)?;
            }
            _ => return None,
        }
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|field| u16::from_be_bytes(*field))
}
