//! How fast a capture is read, beside tshark and sngrep on the same file in the same run.
//!
//! `cargo bench --bench capture`. The recordings' SIP packets are repeated to about 200 MB, once alone and once with nine
//! packets like RTP for each. Ours is run several times and its best run counts, since other programs can only make a run
//! slower; the others take long enough to be run once or twice. Each reads the file from the page cache. What is not installed
//! is named as left out. A driver of its own: the figures are ratios between programs.

#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a benchmark prints what its clock says")]

use std::{
    fs::File,
    hint::black_box,
    io::{BufWriter, Read as _, Write as _},
    ops::ControlFlow,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use trunkwarden::wire::pcap;

const RECORDINGS: [&[u8]; 2] = [
    include_bytes!("../tests/fixtures/captures/short-expiry.pcap"),
    include_bytes!("../tests/fixtures/captures/provider-401-and-ok.pcap"),
];
const SIZE: u64 = 200_000_000;
const RUNS: usize = 7;
const RUNS_OF_OTHERS: usize = 2;
/// The ports of the recordings, which tshark does not know as SIP's.
const PORTS: &str = "5080-5099,6080-6099";

fn main() {
    // `cargo test --benches` runs this too: then a small file, and only ours, is enough.
    let quick = !std::env::args().any(|arg| arg == "--bench");
    let directory = tempfile::tempdir().expect("a directory");
    for (name, rtp) in [("SIP only", 0), ("1 SIP : 9 RTP", 9)] {
        let path = directory.path().join("capture.pcap");
        let size = write(&path, if quick { 1_000_000 } else { SIZE }, rtp);
        let megabytes = size as f64 / 1e6;
        let (ours, report) = best(if quick { 1 } else { RUNS }, || ours(&path));
        println!(
            "{name}: {megabytes:.0} MB, {} packets, {} SIP messages, {} ICMP",
            report.packets, report.sip, report.icmp
        );
        println!("  trunkwarden  {ours:8.3} s {:8.0} MB/s", megabytes / ours);
        let (plain, _) = best(if quick { 1 } else { RUNS }, || read_only(&path));
        println!("  read() alone {plain:8.3} s {:8.0} MB/s", megabytes / plain);
        if quick {
            continue;
        }
        for (program, command) in [("tshark", tshark as fn(&Path) -> Command), ("sngrep", sngrep)] {
            let installed = Command::new(program).arg("--version").output().is_ok();
            if !installed {
                println!("  {program:<12} left out: not installed");
                continue;
            }
            let (seconds, good) = best(RUNS_OF_OTHERS, || run(command(&path)));
            let failed = if good { "" } else { " (it failed)" };
            println!(
                "  {program:<12} {seconds:8.3} s {:8.0} MB/s, {:.0} times ours{failed}",
                megabytes / seconds,
                seconds / ours
            );
        }
    }
}

/// The best time of some runs, and what the last one gave.
fn best<T>(runs: usize, way: impl Fn() -> T) -> (f64, T) {
    let timed = |_| {
        let start = Instant::now();
        let outcome = black_box(way());
        (start.elapsed().as_secs_f64(), outcome)
    };
    let (mut least, mut last) = timed(0);
    for run in 1..runs {
        let (seconds, outcome) = timed(run);
        least = least.min(seconds);
        last = outcome;
    }
    (least, last)
}

fn ours(path: &Path) -> pcap::CaptureReport {
    let mut each = |seen| {
        black_box(seen);
        ControlFlow::Continue(())
    };
    pcap::read(File::open(path).expect("it was written"), &mut each, &mut |_| ()).expect("a capture")
}

fn read_only(path: &Path) {
    let mut file = File::open(path).expect("it was written");
    let mut buffer = vec![0; 640 << 10];
    while file.read(&mut buffer).expect("it can be read") > 0 {
        black_box(&buffer);
    }
}

/// Every SIP message's method and status, as a diagnosis by hand would ask for.
fn tshark(path: &Path) -> Command {
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(path).args([
        "-Y",
        "sip",
        "-T",
        "fields",
        "-e",
        "sip.Method",
        "-e",
        "sip.Status-Code",
    ]);
    for ports in PORTS.split(',') {
        command.arg("-d").arg(format!("udp.port=={ports},sip"));
    }
    command
}

/// Reads all and ends, without a terminal: `-N` is no interface, `-q` no count of dialogs printed meanwhile.
fn sngrep(path: &Path) -> Command {
    let mut command = Command::new("sngrep");
    command.args(["-N", "-q", "-I"]).arg(path).env("TERM", "xterm");
    command
}

fn run(mut command: Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Writes a capture of about `size` bytes; its size. Time goes on by a millisecond a packet, so that nothing is a copy.
fn write(path: &Path, size: u64, rtp: u32) -> u64 {
    let mut file = BufWriter::new(File::create(path).expect("a file"));
    let mut written = 24;
    file.write_all(&RECORDINGS[0][..24]).expect("room");
    let packets: Vec<&[u8]> = RECORDINGS.iter().flat_map(|recording| packets(&recording[24..])).collect();
    let mut ticks = 0_u32;
    let voice = voice();
    let mut put = |packet: &[u8], written: &mut u64| {
        let length = u32::try_from(packet.len()).expect("a packet").to_le_bytes();
        let at = [1_700_000_000 + ticks / 1000, ticks % 1000 * 1000].map(u32::to_le_bytes);
        ticks += 1;
        for piece in [&at[0][..], &at[1], &length, &length, packet] {
            file.write_all(piece).expect("room");
        }
        *written += 16 + packet.len() as u64;
    };
    'all: loop {
        for packet in &packets {
            put(packet, &mut written);
            for _ in 0..rtp {
                put(&voice, &mut written);
            }
            if written >= size {
                break 'all;
            }
        }
    }
    file.flush().expect("room");
    written
}

fn packets(mut records: &[u8]) -> Vec<&[u8]> {
    let mut packets = Vec::new();
    while let Some(length) = records.get(8..12).and_then(|field| field.first_chunk()) {
        let length = usize::try_from(u32::from_le_bytes(*length)).expect("a packet");
        let (packet, rest) = records[16..].split_at(length);
        packets.push(packet);
        records = rest;
    }
    packets
}

/// 20 ms of G.711 in RTP.
fn voice() -> Vec<u8> {
    let mut packet = Vec::new();
    let rtp = [&[0x80, 0, 0, 1, 0, 0, 0, 160, 1, 2, 3, 4][..], &[0xd5; 160]].concat();
    etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
        .udp(10_000, 12_000)
        .write(&mut packet, &rtp)
        .expect("a packet");
    packet
}
