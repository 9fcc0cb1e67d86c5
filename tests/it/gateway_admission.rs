//! The gateway's admission beside a literal reading of Asterisk's rules, on drawn streams (the fuzz target of the same name
//! goes on from here) and on the streams the fuzz target starts from.

use proptest::prelude::*;

use super::gateway_compare::Scene;

/// Pieces that streams are made of: those that matter to a parser, and those that nearly do.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: &[&[u8]] = &[
        b"Action",
        b"action",
        b"ACTION",
        b"Originate",
        b"oRIGINATE",
        b"Ping",
        b"Channel",
        b"Application",
        b"Data",
        b"Dial",
        b"dial",
        b"PJSIP",
        b"pjsip",
        b"/",
        b"//",
        b"@",
        b"airtel",
        b"AIRTEL",
        b"air",
        b"tel",
        b"100",
        b"sip:x@h",
        b"&",
        b",",
        b"\\",
        b"\"",
        b"(",
        b")",
        b"[",
        b"]",
        b":",
        b": ",
        b":\t",
        b":\x01",
        b" :",
        b" ",
        b"\t",
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\n\n",
        b"\r\r\n",
        b"\0",
        b"\xff",
        b"\xc3\xa9",
        b"!",
        b";",
        b"Local/1@x",
        b"Variable: ",
        b"x=y",
        b"Action: Originate\r\n",
        b"Channel: PJSIP/1@airtel\r\n",
        b"Channel: PJSIP/1@",
        b"Application: Dial\r\nData: ",
        b"Action:\r\n",
        b"Channel:\r\n",
        b"Async: true\r\n",
    ];
    prop_oneof![
        20 => prop::sample::select(PIECES).prop_map(<[u8]>::to_vec),
        1 => (1000_usize..1040).prop_map(|length| vec![b'x'; length]),
        1 => (100_usize..140).prop_map(|lines| b"A: b\r\n".repeat(lines)),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_passes_as_no_originate_is_none_to_asterisk_and_no_call_passes_on_a_held_trunk(
        pieces in prop::collection::vec(piece(), 0..40),
    ) {
        Scene::new().compare(&pieces.concat());
    }
}

#[test]
fn the_seeds_of_the_fuzz_target_are_read_the_same() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/gateway_admission");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("the seeds") {
        Scene::new().compare(&std::fs::read(entry.expect("a seed").path()).expect("a file"));
        seen += 1;
    }
    assert!(seen >= 5, "{seen} seeds");
}
