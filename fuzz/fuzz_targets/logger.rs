//! Log files of any bytes.
//!
//! Checks: no panic; every byte is read; the counts are those of the items; the same items whatever the reader's buffer.

#![no_main]

use std::{io::BufReader, ops::ControlFlow};

use libfuzzer_sys::fuzz_target;
use trunkwarden::wire::{
    logger::{LogItem, LoggerOptions, LoggerReport, read},
    sip::stream::MAX_MESSAGE,
};

fuzz_target!(|bytes: &[u8]| {
    for options in [LoggerOptions::default(), LoggerOptions { year: Some(2026), ..LoggerOptions::default() }] {
        let (items, report) = items(bytes, 64 << 10, &options);
        assert_eq!(report.bytes, u64::try_from(bytes.len()).expect("small"));
        assert_eq!(u64::try_from(items.len()).expect("few"), report.messages + report.facts);
        assert_eq!(self::items(bytes, 3, &options), (items, report));
    }
});

fn items(bytes: &[u8], buffer: usize, options: &LoggerOptions) -> (Vec<String>, LoggerReport) {
    let mut items = Vec::new();
    let mut keep = |item: LogItem| {
        if let LogItem::Seen(seen) = &item {
            assert!(seen.sip().is_some_and(|sip| sip.raw().len() <= MAX_MESSAGE + (256 << 10)));
        }
        items.push(format!("{item:?}"));
        ControlFlow::Continue(())
    };
    let report = read(BufReader::with_capacity(buffer, bytes), &mut keep, options.clone(), &mut |_| {});
    (items, report.expect("memory can be read"))
}
