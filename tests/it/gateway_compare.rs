//! The crate's admission beside the oracle's reading: what passes as no `Originate` is none to Asterisk, and no `Originate`
//! passes that dials a trunk which holds. On the bytes as they came, and on those that are written in their place.
//!
//! Included by the fuzz target `gateway_admission` and by a property test; the oracle is the module beside it.

use std::collections::BTreeSet;

use trunkwarden::{
    decision::Gate,
    gateway::{GatewayUser, LocalPolicy, Verdict, admission::Rules, admit},
    ids::{PbxId, TrunkId},
    wire::ami::{
        Classes,
        request::{Incoming, Reader},
    },
};

use super::gateway_oracle::{Heard, dialed, hear, is_originate};

/// The trunk that is held.
pub(crate) const HELD: &str = "airtel";

/// A gate with one trunk that holds, and who asks it.
pub(crate) struct Scene {
    gate: Gate,
    pbx: PbxId,
    user: GatewayUser,
}

impl Scene {
    /// The scene. The trunk was never heard of but by name, so it holds.
    pub(crate) fn new() -> Self {
        let (tx, gate) = Gate::new();
        let pbx = PbxId::try_from("pbx1").expect("a name");
        let trunk = TrunkId::try_from("pbx1/airtel").expect("a trunk");
        tx.name([(&trunk, &[][..])].into_iter());
        tx.listed(&pbx);
        let user = GatewayUser {
            name: "fuzz".to_owned(),
            secret: "x".into(),
            allow: Vec::new(),
            read: Classes::default(),
            write: Classes::default(),
            write_all: true,
            actions: None,
            trunks: None,
            unguarded: BTreeSet::new(),
        };
        Self { gate, pbx, user }
    }

    /// Compares both readings of a stream; panics where they differ in what matters.
    pub(crate) fn compare(&self, bytes: &[u8]) {
        let mut read = Vec::new();
        Reader::default().feed(bytes, |message| read.push(message));
        let mut split = Vec::new();
        let mut reader = Reader::default();
        bytes.iter().for_each(|&byte| reader.feed(&[byte], |message| split.push(message)));
        assert_eq!(read, split, "byte by byte");
        // A line that begins with NUL is a blank one to Asterisk, so from there on the two count differently; the message
        // with the NUL in it is refused and nothing of it is sent.
        if !bytes.contains(&0) {
            let heard = hear(bytes);
            assert_eq!(read.len(), heard.len(), "as many messages");
            for (message, heard) in read.iter().zip(&heard) {
                match (message, heard) {
                    (Incoming::Message(request), Heard::Message(lines)) => {
                        assert!(request.lines().eq(lines.iter().map(Vec::as_slice)), "the same lines");
                    }
                    (Incoming::LineTooLong(_), Heard::LineTooLong)
                    | (Incoming::TooManyLines(_), Heard::TooManyLines) => {}
                    (message, heard) => panic!("{message:?} is {heard:?} to Asterisk"),
                }
            }
        }
        let rules = Rules { pbx: &self.pbx, user: &self.user, local: LocalPolicy::Allow, dialplan: &[], aliases: &[] };
        for message in &read {
            let Incoming::Message(request) = message else { continue };
            let verdict = admit(request, &rules, &self.gate);
            if let Verdict::Refuse(refusal) = &verdict {
                let text = refusal.to_string();
                assert!(text.len() <= 300 && !text.chars().any(char::is_control), "{text:?}");
                continue;
            }
            let mut written = Vec::new();
            request.write(&mut written);
            let again = hear(&written);
            let [Heard::Message(lines)] = &again[..] else { panic!("one message was written, {again:?} is read") };
            assert!(request.lines().eq(lines.iter().map(Vec::as_slice)), "written anew it is the same");
            match verdict {
                Verdict::Pass => assert!(!is_originate(lines), "an Originate passed as none: {lines:?}"),
                Verdict::Dial(trunks) => {
                    assert!(is_originate(lines), "taken for an Originate: {lines:?}");
                    assert!(trunks.is_empty(), "the only trunk holds");
                    let past = dialed(lines).into_iter().any(|name| name.eq_ignore_ascii_case(HELD.as_bytes()));
                    assert!(!past, "a call on the held trunk passed: {lines:?}");
                }
                Verdict::Refuse(_) => unreachable!("refused above"),
            }
        }
    }
}
