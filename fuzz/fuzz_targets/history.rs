//! Answers of any bytes to the commands of a fetch of the SIP history.
//!
//! Checks: no panic; a fetch ends within its commands whatever it is told; commands fit AMI's line and cannot become two.

#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkwarden::wire::{
    ami::{Action, Message},
    history_cli::{HistoryFetch, HistoryMark, HistoryWanted, MAX_COMMANDS, parse, parse_switch},
};

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    // Each answer after a NUL; they are given round and round.
    let answers: Vec<Message> = text.split('\0').map(answer).collect();
    for message in &answers {
        let _switch = parse_switch(message);
        let _answer = parse(message);
    }
    let mut fetch = HistoryFetch::new(HistoryMark::default(), HistoryWanted::everything());
    for message in answers.iter().cycle().take(MAX_COMMANDS + 1) {
        let Some(command) = fetch.next_command() else {
            break;
        };
        let _action = Action::command(&command).expect("a command is one line, and not too long");
        if fetch.take(message).is_err() {
            break;
        }
    }
    assert!(fetch.finish().commands <= MAX_COMMANDS);
});

/// Output as AMI writes it, or the whole answer as it is.
fn answer(text: &str) -> Message {
    if text.starts_with("Response:") {
        return Message::from_text(text);
    }
    let lines: String = text.split('\n').map(|line| format!("Output: {line}\r\n")).collect();
    Message::from_text(&format!("Response: Success\r\n{lines}"))
}
