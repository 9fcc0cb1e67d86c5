//! HEP packets and streams of them, any bytes.
//!
//! Checks: no panic; what can be read can be written and read again; a stream gives the same packets whatever the pieces, and
//! holds no more than one packet and one piece; the filter never says no of what is
//! about a REGISTER by its CSeq.

#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkwarden::wire::hep::{HepError, HepStream, MAX_PACKET, is_about_register, messages, parse};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(packet) = parse(bytes) {
        for seen in messages(&packet) {
            let sip = seen.sip().expect("HEP carries SIP");
            // One without CSeq, behind a body without a line end, is a REGISTER to the parser alone.
            let is_register = sip.cseq().is_some_and(|(_, method)| method == "REGISTER");
            assert!(!is_register || is_about_register(&packet.payload), "{sip:?}");
        }
        match packet.encode() {
            Ok(written) => {
                let again = parse(&written).expect("what was written can be read");
                assert_eq!((again.at, again.from, again.to), (packet.at, packet.from, packet.to));
                assert_eq!((again.call_id, again.payload), (packet.call_id, packet.payload));
            }
            // Text that was no UTF-8 grows, and microseconds may carry the seconds over 32 bits.
            Err(HepError::TooLong { .. } | HepError::Time { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    let whole = packets(bytes, usize::MAX);
    assert_eq!(packets(bytes, 1), whole);
    assert_eq!(packets(bytes, 7), whole);
    let _wanted = is_about_register(bytes);
});

fn packets(bytes: &[u8], size: usize) -> (Vec<Vec<u8>>, Option<HepError>) {
    let (mut stream, mut found) = (HepStream::default(), Vec::new());
    for piece in bytes.chunks(size) {
        stream.push(piece);
        loop {
            match stream.next_packet() {
                Ok(Some(packet)) => found.push(packet.to_vec()),
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
        assert!(stream.pending_bytes() < MAX_PACKET);
    }
    (found, None)
}
