//! SIP against any bytes.
//!
//! Checks what the reader promises: no panic whatever is asked; no byte of a message lost; a stream gives the same messages
//! however it was cut, and holds no more than one; and a digest that stands in credentials is shown nowhere.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use secrecy::SecretString;
use trunkwarden::wire::sip::{
    SipMessage,
    digest::{Algorithm, Secret},
    redact,
    stream::{self, SipStream},
};

const PLANTED: &str = "0123456789abcdef0123456789abcdef";

fuzz_target!(|input: &[u8]| {
    let bytes = Bytes::copy_from_slice(input);
    if let Ok(message) = SipMessage::parse(bytes.clone()) {
        assert!(bytes.ends_with(message.raw()));
        look(&message);
    }
    for message in stream::split(&bytes) {
        look(&message);
    }
    let whole = streamed(input, usize::MAX);
    assert_eq!(streamed(input, 1), whole, "byte by byte");
    assert_eq!(streamed(input, 1 + input.len() % 61), whole, "in pieces");

    // Whatever comes before: a planted answer behind it is not shown, as long as it is one.
    let mut planted = String::from_utf8_lossy(input).replace(['\r', '\n', '"'], " ");
    planted.truncate(planted.char_indices().nth(200).map_or(planted.len(), |(at, _)| at));
    for line in [
        format!("Authorization: Digest {planted}, response=\"{PLANTED}\""),
        format!("Authorization: {planted} response={PLANTED}"),
        format!("{planted}, response=\"{PLANTED}\""),
    ] {
        let shown = redact::text(&line);
        assert!(
            input.windows(8).any(|piece| PLANTED.as_bytes().starts_with(piece)) || !shown.contains(PLANTED),
            "{shown}"
        );
    }
});

fn look(message: &SipMessage) {
    let _start = (message.method(), message.request_uri(), message.target(), message.status(), message.reason());
    let _who = (message.from(), message.to(), message.via(), message.contacts(), message.call_id(), message.cseq());
    let _times = (message.expires(), message.retry_after(), message.body().len(), message.challenges());
    let _lines = (message.all_headers().count(), message.header("i"), message.headers("X-Other").count());
    let shown = format!("{}{message:?}{}", message.redacted(), message.start_line());
    assert!(!shown.contains('\r') && !shown.contains('\u{1b}') && !shown.contains('\0'));
    assert!(message.defects().len() <= message.raw().len() + 20);
    for credentials in message.credentials() {
        let method = message.method().unwrap_or_default();
        for secret in
            [Secret::Password(SecretString::from("x")), Secret::Ha1(Algorithm::Md5, SecretString::from(PLANTED))]
        {
            let _made = credentials.made_of(&secret, "user", method, message.body());
        }
        let _shown = format!("{credentials:?}");
    }
}

fn streamed(input: &[u8], size: usize) -> (Vec<Bytes>, u64) {
    let (mut stream, mut messages) = (SipStream::default(), Vec::new());
    for piece in input.chunks(size.max(1)) {
        stream.push(piece);
        messages.extend(std::iter::from_fn(|| stream.next_message()).map(|message| message.raw().clone()));
    }
    messages.extend(std::iter::from_fn(|| stream.finish()).map(|message| message.raw().clone()));
    (messages, stream.skipped())
}
