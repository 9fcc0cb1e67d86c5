//! The reader of captures against any bytes.
//!
//! Checks what it promises: no panic; the same outcome however the file is read (here: at once, and byte by byte); nothing
//! read twice; what is seen has its addresses; and whoever has seen enough gets no more.

#![no_main]

use std::{io::Read, ops::ControlFlow};

use libfuzzer_sys::fuzz_target;
use trunkwarden::wire::{
    pcap::{self, CaptureReport},
    sip::Source,
};

fuzz_target!(|bytes: &[u8]| {
    let whole = outcome(bytes, u32::MAX);
    // How far it has read ahead is the one difference.
    let read = |outcome: Result<(Vec<String>, CaptureReport), String>| {
        outcome.map(|(seen, report)| (seen, CaptureReport { bytes: 0, ..report }))
    };
    assert_eq!(read(outcome(ByteByByte(bytes), u32::MAX)), read(whole.clone()));
    let Ok((seen, report)) = whole else { return };
    assert!(report.bytes <= bytes.len() as u64);
    assert!(report.ended_early.is_none_or(|(offset, _)| offset <= bytes.len() as u64));
    assert!(report.sip <= seen.len() as u64);
    if let Ok((first, _)) = outcome(bytes, 1) {
        assert_eq!(first.as_slice(), &seen[..seen.len().min(1)]);
    }
});

/// What was seen, at most `most`, and the report; or the error.
fn outcome(input: impl Read, most: u32) -> Result<(Vec<String>, CaptureReport), String> {
    let mut shown = Vec::new();
    let mut left = most;
    let report = pcap::read(
        input,
        &mut |seen| {
            assert!(left > 0, "it goes on after its end");
            assert!(seen.source == Source::Capture && seen.from.is_some() && seen.to.is_some());
            shown.push(format!("{seen:?}"));
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        },
        &mut |_| (),
    );
    report.map(|report| (shown, report)).map_err(|error| error.to_string())
}

struct ByteByByte<'a>(&'a [u8]);

impl Read for ByteByByte<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = buffer.len().min(1);
        self.0.read(&mut buffer[..most])
    }
}
