//! How many AMI messages a second the codec frames, beside a plain framing loop in the same run.
//!
//! `cargo bench --bench ami_codec`. The input is the recorded busy minute, repeated to about 9 MB, fed in reads of 16 KiB.
//! Each way is run several times and its best run counts, since other programs can only make a run slower. A driver of
//! its own instead of a framework: it prints one line per way and needs nothing else.

#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a benchmark prints what its clock says")]

use std::{hint::black_box, time::Instant};

use trunkwarden::wire::ami::{AmiEvent, DecodeLimits, Decoder, Frame, Message};

const BUSY: &[u8] = include_bytes!("../tests/fixtures/ami-busy.ami");
const REPEAT: usize = 10;
const READ: usize = 16 << 10;
const RUNS: usize = 50;

fn main() {
    // `cargo test --benches` runs this too: then once over the recording is enough.
    let quick = !std::env::args().any(|arg| arg == "--bench");
    let input = BUSY.repeat(if quick { 1 } else { REPEAT });
    let runs = if quick { 1 } else { RUNS };

    // Each way, with how many messages and headers it saw.
    type Way<'a> = (&'a str, Box<dyn Fn() -> (usize, usize) + 'a>);
    let ways: [Way<'_>; 5] = [
        ("plain memmem loop, headers", Box::new(|| plain_framing(&input))),
        ("codec, framing", Box::new(|| codec(&input, |_| 0))),
        ("codec, headers", Box::new(|| codec(&input, headers_of))),
        ("codec, headers, redaction", Box::new(|| codec(&input, values_of))),
        ("codec, typed events", Box::new(|| codec(&input, typed_of))),
    ];
    let mut best = [f64::INFINITY; 5];
    // In turns, so that a busy moment of the machine does not fall on one way alone.
    for _ in 0..runs {
        for ((_, way), best) in ways.iter().zip(&mut best) {
            let start = Instant::now();
            black_box(way());
            *best = best.min(start.elapsed().as_secs_f64());
        }
    }
    for ((name, way), seconds) in ways.iter().zip(best) {
        let (messages, headers) = way();
        let rate = u32::try_from(messages).map_or(f64::NAN, f64::from) / seconds;
        let ratio = best[0] / seconds;
        println!(
            "{name:<28} {:>6.2} M messages/s, {ratio:.2} of the plain loop ({messages} messages, {headers} headers)",
            rate / 1e6
        );
    }
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

fn codec(input: &[u8], read: impl Fn(&Message) -> usize) -> (usize, usize) {
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
