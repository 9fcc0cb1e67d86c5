//! How many AMI messages a second the codec frames, beside a plain framing loop in the same run.
//!
//! `cargo bench --bench ami_codec`. The input is the recorded busy minute, repeated to about 90 MB, fed in reads of 16 KiB.
//! Each way is run several times and its best run counts, since other programs can only make a run slower. A driver of
//! its own instead of a framework: it prints one line per way and needs nothing else.

#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a benchmark prints what its clock says")]

use std::{hint::black_box, time::Instant};

use trunkwarden::wire::ami::{AmiEvent, DecodeLimits, Decoder, Frame, Message};

const BUSY: &[u8] = include_bytes!("../tests/fixtures/ami-busy.ami");
const REPEAT: usize = 100;
const READ: usize = 16 << 10;
const RUNS: usize = 7;

fn main() {
    // `cargo test --benches` runs this too: then once over the recording is enough.
    let quick = !std::env::args().any(|arg| arg == "--bench");
    let input = BUSY.repeat(if quick { 1 } else { REPEAT });
    let runs = if quick { 1 } else { RUNS };

    let plain = measure("plain memmem framing, borrowed headers", runs, || plain_framing(&input));
    let framed = measure("codec, framing alone", runs, || codec(&input, |_| 0));
    let headers = measure("codec, framing and borrowed headers", runs, || codec(&input, headers_of));
    let values = measure("codec, headers with redaction looked up", runs, || codec(&input, values_of));
    let typed = measure("codec, typed events", runs, || codec(&input, typed_of));
    for (name, rate) in [("framing", framed), ("headers", headers), ("redacted values", values), ("typed", typed)] {
        println!("{name:>16}: {:.2} of the plain loop", rate / plain);
    }
}

/// Runs a way several times; gives messages per second of its best run.
fn measure(name: &str, runs: usize, mut way: impl FnMut() -> (usize, usize)) -> f64 {
    let (mut best, mut counted) = (f64::INFINITY, (0, 0));
    for _ in 0..runs {
        let start = Instant::now();
        counted = black_box(way());
        best = best.min(start.elapsed().as_secs_f64());
    }
    let messages = u32::try_from(counted.0).map_or(f64::NAN, f64::from);
    let rate = messages / best;
    println!("{name:<42} {:>7.2} M messages/s  ({} messages, {} headers)", rate / 1e6, counted.0, counted.1);
    rate
}

/// The least a reader can do: find the blank line, split lines at the colon. No limits, no LF-only peers, and everything at hand
/// at once.
fn plain_framing(input: &[u8]) -> (usize, usize) {
    let blank = memchr::memmem::Finder::new(b"\r\n\r\n");
    let (mut rest, mut messages, mut headers) = (input, 0, 0);
    while let Some(end) = blank.find(rest) {
        let mut lines = &rest[..end + 2];
        rest = &rest[end + 4..];
        while let Some(end) = memchr::memchr(b'\n', lines) {
            let line = &lines[..end - 1];
            lines = &lines[end + 1..];
            if let Some(colon) = memchr::memchr(b':', line) {
                black_box((&line[..colon], &line[colon + 1..]));
                headers += 1;
            }
        }
        messages += 1;
    }
    (messages, headers)
}

fn codec(input: &[u8], mut read: impl FnMut(&Message) -> usize) -> (usize, usize) {
    let mut decoder = Decoder::new(DecodeLimits::default());
    let (mut messages, mut headers) = (0, 0);
    for chunk in input.chunks(READ) {
        decoder.feed(chunk);
        while let Ok(Some(frame)) = decoder.next_frame() {
            if let Frame::Message(message) = black_box(frame) {
                headers += read(&message);
                messages += 1;
            }
        }
    }
    (messages, headers)
}

fn headers_of(message: &Message) -> usize {
    message.headers().fold(0, |count, header| {
        black_box(header);
        count + 1
    })
}

fn values_of(message: &Message) -> usize {
    message.headers().fold(0, |count, header| {
        black_box((header.name_bytes(), header.value_bytes()));
        count + 1
    })
}

fn typed_of(message: &Message) -> usize {
    usize::from(black_box(AmiEvent::try_from(message)).is_ok())
}
