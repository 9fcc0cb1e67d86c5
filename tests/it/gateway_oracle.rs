//! A second, literal reading of what Asterisk makes of a client's bytes: an oracle for the gateway's admission.
//!
//! Written from the rules of `main/manager.c` and `main/utils.c` as a machine of buffers and C strings, sharing no code with
//! the crate's own reading. The fuzz target `gateway_admission`, a property test and the lab's `gateway_parser` include this
//! file: the first two compare the crate with it, the third compares it with a real Asterisk.

#![allow(dead_code, reason = "the fuzz target, the property and the lab each use a part")]

/// The size of a session's input buffer (`inbuf[1025]`, less the NUL).
const BUFFER: usize = 1024;

/// `AST_MAX_MANHEADERS`.
const HEADERS: usize = 128;

/// `tmp[256]` in `action_originate`, less the NUL.
const CHANNEL: usize = 255;

/// What a blank line ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It goes to an action, if one is called so.
    Message(Vec<Vec<u8>>),
    /// It is answered with an error: a line was too long.
    LineTooLong,
    /// It is answered with an error: too many lines.
    TooManyLines,
}

/// Reads a whole stream.
pub(crate) fn hear(bytes: &[u8]) -> Vec<Heard> {
    let mut buffer: Vec<u8> = Vec::new();
    let (mut heard, mut headers) = (Vec::new(), Vec::new());
    let (mut long, mut many) = (false, false);
    for &byte in bytes {
        buffer.push(byte);
        if byte != b'\n' {
            if buffer.len() == BUFFER {
                // Full and no line's end: all but the last byte is thrown away.
                buffer = vec![byte];
                long = true;
            }
            continue;
        }
        let mut end = buffer.len() - 1;
        if end > 0 && buffer[end - 1] == b'\r' {
            end -= 1;
        }
        let line = buffer[..end].to_vec();
        buffer.clear();
        if !line.is_empty() && line[0] != 0 {
            if headers.len() < HEADERS {
                headers.push(c_string(&line).to_vec());
            } else {
                many = true;
            }
            continue;
        }
        let message = std::mem::take(&mut headers);
        heard.push(match (std::mem::take(&mut many), long) {
            (true, _) => Heard::TooManyLines,
            (false, true) => {
                long = false;
                Heard::LineTooLong
            }
            (false, false) => Heard::Message(message),
        });
    }
    heard
}

/// All up to the first NUL.
fn c_string(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// `__astman_get_header`: the first of that name, or the first that is not empty.
pub(crate) fn header<'a>(message: &'a [Vec<u8>], name: &str, skip_empty: bool) -> &'a [u8] {
    for line in message {
        let same =
            |at: usize| line.get(at).map(u8::to_ascii_lowercase) == Some(name.as_bytes()[at].to_ascii_lowercase());
        if !(0..name.len()).all(same) || line.get(name.len()) != Some(&b':') {
            continue;
        }
        let mut start = name.len() + 1;
        while start < line.len() && line[start] <= 32 {
            start += 1;
        }
        if start < line.len() || !skip_empty {
            return &line[start..];
        }
    }
    &[]
}

/// Whether `process_message` runs `action_originate`.
pub(crate) fn is_originate(message: &[Vec<u8>]) -> bool {
    header(message, "Action", true).eq_ignore_ascii_case(b"originate")
}

/// The channel an `Originate` asks for: technology and what is dialed with it.
pub(crate) fn channel(message: &[Vec<u8>]) -> Option<(Vec<u8>, Vec<u8>)> {
    let whole = header(message, "Channel", false);
    let kept = &whole[..whole.len().min(CHANNEL)];
    let slash = kept.iter().position(|&byte| byte == b'/')?;
    Some((kept[..slash].to_ascii_uppercase(), kept[slash + 1..].to_vec()))
}

/// `__ast_app_separate_args` with its quotes and backslashes removed: the first argument.
pub(crate) fn first_argument(text: &[u8], delimiter: u8) -> Vec<u8> {
    let (mut parens, mut brackets, mut quoted, mut kept) = (0_u32, 0_u32, false, Vec::new());
    let mut at = 0;
    while at < text.len() {
        let byte = text[at];
        match byte {
            b'(' => parens += 1,
            b')' => parens = parens.saturating_sub(1),
            b'[' => brackets += 1,
            b']' => brackets = brackets.saturating_sub(1),
            b'"' => {
                quoted = !quoted;
                at += 1;
                continue;
            }
            b'\\' => {
                kept.extend(text.get(at + 1));
                at += 2;
                continue;
            }
            _ if byte == delimiter && parens == 0 && brackets == 0 && !quoted => return kept,
            _ => {}
        }
        kept.push(byte);
        at += 1;
    }
    kept
}

/// The endpoints chan_pjsip looks for, in its order: the first that exists is dialed.
pub(crate) fn pjsip_endpoints(destination: &[u8]) -> Vec<Vec<u8>> {
    let first = first_argument(destination, b'/');
    let behind = first.iter().position(|&byte| byte == b'@').map(|at| first[at + 1..].to_vec());
    std::iter::once(first).chain(behind).filter(|name| !name.is_empty()).collect()
}

/// Every endpoint of chan_pjsip an `Originate` may dial, by its channel and by a `Dial` it goes to.
pub(crate) fn dialed(message: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    if let Some((technology, destination)) = channel(message)
        && technology == b"PJSIP"
    {
        found.extend(pjsip_endpoints(&destination));
    }
    if header(message, "Application", false).eq_ignore_ascii_case(b"dial") {
        let legs = first_argument(header(message, "Data", false), b',');
        for leg in legs.split(|&byte| byte == b'&') {
            let leg = leg.trim_ascii();
            if let Some(slash) = leg.iter().position(|&byte| byte == b'/')
                && leg[..slash].eq_ignore_ascii_case(b"pjsip")
            {
                found.extend(pjsip_endpoints(&leg[slash + 1..]));
            }
        }
    }
    found
}
