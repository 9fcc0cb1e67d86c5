//! Is this SIP? Asked of each datagram and of each stream's first bytes, whatever the port.
//!
//! The first byte settles it for nearly everything else: RTP and RTCP begin with 0x80 to 0xbf, STUN with 0 or 1.

/// The longest first line looked at; a longer one is no request we know of.
const MAX_LINE: usize = 4096;
/// The methods of RFC 3261 and its extensions. Others are known by the version at the end of the line.
const METHODS: [&[u8]; 14] = [
    b"REGISTER",
    b"OPTIONS",
    b"INVITE",
    b"ACK",
    b"BYE",
    b"CANCEL",
    b"SUBSCRIBE",
    b"NOTIFY",
    b"PUBLISH",
    b"MESSAGE",
    b"INFO",
    b"UPDATE",
    b"REFER",
    b"PRACK",
];
const SCHEMES: [&[u8]; 3] = [b"sip:", b"sips:", b"tel:"];

/// What the first bytes of a message tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sip {
    /// It is SIP, a request or a response.
    Request,
    /// It is SIP, a response.
    Response,
    /// It is not.
    No,
}

/// Whether a message begins here. Blank lines may come first (RFC 3261 section 7.5).
///
/// A line that is cut (by the capture's snapshot length, or by ICMP's short quote) counts if what is there of it is right.
pub(super) fn sip(bytes: &[u8]) -> Sip {
    let Some(begin) = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')) else { return Sip::No };
    if !bytes[begin].is_ascii_alphabetic() {
        return Sip::No;
    }
    let window = &bytes[begin..bytes.len().min(begin + MAX_LINE)];
    if starts(window, b"SIP/") {
        return Sip::Response;
    }
    let (line, cut) = match memchr::memchr(b'\n', window) {
        Some(end) => (window[..end].trim_ascii_end(), false),
        None => (window, true),
    };
    // A request line ends in the version.
    let version = memchr::memrchr(b' ', line).map(|space| &line[space + 1..]);
    if version.is_some_and(|version| starts(version, b"SIP/")) {
        return Sip::Request;
    }
    if !cut {
        return Sip::No;
    }
    match memchr::memchr(b' ', line) {
        Some(space) if METHODS.contains(&&line[..space]) => {
            let target = &line[space + 1..];
            let fits = |scheme: &&[u8]| starts(target, scheme) || starts(scheme, target);
            if SCHEMES.iter().any(fits) { Sip::Request } else { Sip::No }
        }
        // A few letters of a method: too few say nothing.
        None if line.len() >= 4 && METHODS.iter().any(|method| method.starts_with(line)) => Sip::Request,
        Some(_) | None => Sip::No,
    }
}

fn starts(text: &[u8], with: &[u8]) -> bool {
    text.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_responses_are_known_by_their_first_line() {
        for request in [
            "REGISTER sip:a SIP/2.0\r\n",
            "\r\n\r\nOPTIONS sip:a SIP/2.0\r\nVia:",
            "NEWMETHOD urn:x SIP/2.0 \r\n",
            "INVITE sip:a SIP/7.0\n",
            "REGISTER sip:a",
            "REGISTER si",
            "REGISTER ",
            "REGI",
        ] {
            assert_eq!(sip(request.as_bytes()), Sip::Request, "{request:?}");
        }
        for response in ["SIP/2.0 200 OK\r\n", "SIP/2.0", "\r\nSIP/2.0 100 Trying\r\n"] {
            assert_eq!(sip(response.as_bytes()), Sip::Response, "{response:?}");
        }
    }

    #[test]
    fn what_is_no_sip_is_not_taken_for_it() {
        for other in [
            "",
            "\r\n\r\n",
            "\0",
            "\u{80}SIP/2.0",
            "GET / HTTP/1.1\r\n",
            "GET /SIP/2.0",
            "REG",
            "REGX",
            "SIP",
            "INVITE x",
            "HEP3\0\0",
            "NOTIFY * HTTP/1.1\r\nHOST: SIP/2.0\r\n",
        ] {
            assert_eq!(sip(other.as_bytes()), Sip::No, "{other:?}");
        }
    }
}
