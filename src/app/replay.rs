//! Replays a journal: the same inputs must give the same decisions.
//!
//! A journal row is a `start` (the board as a run found it), an `input`, or an event that followed from the input
//! before it. Replaying needs no clock and no ticks but those that were journaled.

use std::fmt;

use crate::{
    clock::Timestamp,
    decision::{Board, Event, Input},
    store::JournalRow,
};

/// The type of the row a run begins with; its body is the board it was restored from.
pub const START: &str = "start";
/// The type of an input's row.
pub const INPUT: &str = "input";

/// Why a journal cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A row's body is not what its type says.
    #[error("row {seq} of the journal ({kind}) cannot be read")]
    Row {
        /// Which row.
        seq: i64,
        /// Its type.
        kind: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// A decision that came out differently.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The journal row at which it was found.
    pub seq: i64,
    /// When.
    pub at: Timestamp,
    /// What the journal says was decided; nothing, if the replay decided something more.
    pub journaled: Option<String>,
    /// What the replay decided; nothing, if it decided less.
    pub replayed: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_nothing = |said: &Option<String>| said.clone().unwrap_or_else(|| "nothing".to_owned());
        let (journaled, replayed) = (or_nothing(&self.journaled), or_nothing(&self.replayed));
        write!(f, "row {} at {:.3}: the journal has {journaled}, the replay {replayed}", self.seq, self.at)
    }
}

/// A replay under way: rows go in, in order.
#[derive(Debug, Default)]
pub struct Replay {
    board: Option<Board>,
    expected: std::collections::VecDeque<Event>,
    /// Runs begun.
    pub starts: u64,
    /// Inputs stepped.
    pub inputs: u64,
    /// Rows before the first start, which nothing can be done with.
    pub skipped: u64,
    /// What came out differently.
    pub differences: Vec<Difference>,
}

impl Replay {
    /// Takes the next row in, and gives the decisions that follow from it.
    ///
    /// # Errors
    /// [`ReplayError::Row`] when the row is not readable; the replay can go on with the next.
    pub fn row(&mut self, row: &JournalRow) -> Result<Vec<Event>, ReplayError> {
        let unreadable = |source| ReplayError::Row { seq: row.seq, kind: row.kind.clone(), source };
        match row.kind.as_str() {
            START => {
                self.settle(row.seq);
                self.board = Some(serde_json::from_value(row.body.clone()).map_err(unreadable)?);
                self.starts += 1;
                Ok(vec![])
            }
            INPUT => {
                self.settle(row.seq);
                let input: Input = serde_json::from_value(row.body.clone()).map_err(unreadable)?;
                let Some(board) = &mut self.board else {
                    self.skipped += 1;
                    return Ok(vec![]);
                };
                self.inputs += 1;
                let events = board.step(&input).events;
                self.expected.extend(events.iter().cloned());
                Ok(events)
            }
            kind => {
                if self.board.is_none() {
                    self.skipped += 1;
                    return Ok(vec![]);
                }
                let journaled = Event { kind: kind.to_owned(), at: row.at, data: row.body.clone() };
                let replayed = self.expected.pop_front();
                if !replayed.as_ref().is_some_and(|replayed| same(replayed, &journaled)) {
                    let said = |event: &Event| format!("{} {}", event.kind, event.data);
                    self.differences.push(Difference {
                        seq: row.seq,
                        at: row.at,
                        journaled: Some(said(&journaled)),
                        replayed: replayed.as_ref().map(said),
                    });
                }
                Ok(vec![])
            }
        }
    }

    /// The journal is at its end.
    pub fn end(&mut self) {
        self.settle(i64::MAX);
    }

    /// What the replay decided and the journal does not have.
    fn settle(&mut self, seq: i64) {
        for event in self.expected.drain(..) {
            let replayed = Some(format!("{} {}", event.kind, event.data));
            self.differences.push(Difference { seq, at: event.at, journaled: None, replayed });
        }
    }
}

/// The journal keeps times to the millisecond, so that is what is compared; the decision itself must be equal.
fn same(replayed: &Event, journaled: &Event) -> bool {
    replayed.kind == journaled.kind
        && replayed.at.as_millisecond() == journaled.at.as_millisecond()
        && replayed.data == journaled.data
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::{RegistrationName, TrunkId},
        observation::{Fact, Observation, RegistrationState, Source},
    };

    fn rows() -> Vec<JournalRow> {
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        let trunk = TrunkId::try_from("pbx1/airtel").unwrap();
        let seen = |second, state| {
            let registration = RegistrationName::try_from("airtel").unwrap();
            let fact = Fact::Registration { registration, state, source: Source::Event };
            Input::Seen(Observation { trunk: trunk.clone(), at: at(second), fact })
        };
        let trunks = vec![crate::decision::ListedTrunk { id: trunk.clone(), endpoints: vec![], registrations: vec![] }];
        let pbx = trunk.pbx();
        let inputs = [
            Input::Started { at: at(0), unseen_since: at(0) },
            seen(1, RegistrationState::Registered),
            Input::Pbx { pbx, at: at(1), fact: crate::decision::PbxFact::Listed { trunks } },
            seen(10, RegistrationState::Rejected),
            seen(20, RegistrationState::Registered),
            Input::Tick { at: at(50) },
        ];
        let mut board = Board::new(3);
        let row = |kind: &str, at, body| JournalRow { seq: 0, at, kind: kind.to_owned(), body };
        let mut rows = vec![row(START, at(0), serde_json::to_value(&board).unwrap())];
        for input in inputs {
            let out = board.step(&input);
            rows.push(row(INPUT, input.at(), serde_json::to_value(&input).unwrap()));
            rows.extend(out.events.into_iter().map(|event| row(&event.kind, event.at, event.data)));
        }
        for (seq, row) in (1..).zip(&mut rows) {
            row.seq = seq;
        }
        rows
    }

    fn replayed(rows: &[JournalRow]) -> Replay {
        let mut replay = Replay::default();
        for row in rows {
            replay.row(row).unwrap();
        }
        replay.end();
        replay
    }

    #[test]
    fn a_journal_replays_to_the_decisions_it_holds() {
        let replay = replayed(&rows());
        assert_eq!((replay.starts, replay.inputs, replay.differences), (1, 6, vec![]));
    }

    #[test]
    fn a_decision_that_was_changed_added_or_lost_is_found() {
        let rows = rows();
        let hold = rows.iter().position(|row| row.kind == "hold.begun").unwrap();
        let mut changed = rows.clone();
        changed[hold].body["trunk"] = "pbx1/tata".into();
        assert_eq!(replayed(&changed).differences.len(), 1);
        let mut lost = rows.clone();
        lost.retain(|row| row.kind != "hold.ended");
        assert!(!replayed(&lost).differences.is_empty());
        let mut added = rows.clone();
        added.push(rows[hold].clone());
        assert_eq!(replayed(&added).differences.last().unwrap().replayed, None);
    }

    #[test]
    fn what_stands_before_the_first_start_is_counted_not_guessed() {
        let replay = replayed(&rows()[1..]);
        assert_eq!((replay.inputs, replay.differences.len()), (0, 0));
        assert!(replay.skipped > 6);
    }
}
