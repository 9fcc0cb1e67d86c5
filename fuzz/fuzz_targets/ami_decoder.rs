//! The AMI decoder against any bytes.
//!
//! Checks what the codec promises: no panic; the same messages and the same error whatever the split (here: at once, byte
//! by byte, and at places drawn from the input itself); limits kept; and that what is secret is not printed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkwarden::wire::ami::{
    AmiEvent, DecodeError, DecodeLimits, Decoder, Frame, Message, message::REDACTED, registrations_cli,
};

const SMALL: DecodeLimits = DecodeLimits { line: 40, message: 300, headers: 8 };

fuzz_target!(|bytes: &[u8]| {
    for limits in [SMALL, DecodeLimits::default()] {
        for banner in [false, true] {
            let whole = outcome(bytes, limits, banner, || usize::MAX, |message| check(message, limits));
            assert_eq!(outcome(bytes, limits, banner, || 1, |_| {}), whole, "byte by byte");
            let mut state = seed(bytes);
            let drawn = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                usize::try_from(state >> 59).unwrap_or(1)
            };
            assert_eq!(outcome(bytes, limits, banner, drawn, |_| {}), whole, "drawn split");
        }
    }
});

fn outcome(
    bytes: &[u8],
    limits: DecodeLimits,
    banner: bool,
    mut size: impl FnMut() -> usize,
    look: impl Fn(&Message),
) -> (Vec<Vec<u8>>, Option<DecodeError>) {
    let mut decoder = if banner { Decoder::expecting_banner(limits) } else { Decoder::new(limits) };
    let (mut seen, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at(size().clamp(1, rest.len()));
        rest = tail;
        decoder.feed(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(Frame::Message(message))) => {
                    look(&message);
                    seen.push(message.expose_wire().to_vec());
                }
                Ok(Some(Frame::Banner(banner))) => {
                    let _version = banner.version();
                    seen.push(banner.as_str().as_bytes().to_vec());
                }
                Ok(None) => break,
                Err(error) => return (seen, Some(error)),
            }
        }
        assert!(decoder.pending_bytes() <= limits.message.max(300));
    }
    (seen, None)
}

fn check(message: &Message, limits: DecodeLimits) {
    assert!(message.wire_len() <= limits.message);
    assert!(message.headers().count() <= limits.headers);
    let _read = AmiEvent::try_from(message);
    let _at = message.timestamp();
    let _table = registrations_cli::parse(message);
    let json = serde_json::to_string(message).expect("any message can be written as JSON");
    let secrets = message.headers().filter(|header| header.is_secret()).count();
    for printed in [json, message.to_string(), format!("{message:?}")] {
        assert!(printed.matches(REDACTED).count() >= secrets);
    }
}

/// FNV-1a.
fn seed(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
