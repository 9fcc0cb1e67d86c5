//! Privilege classes: which events a user gets, and which actions it may run.
//!
//! Separate because three sides must agree on them: what a user of the gateway may do, what Asterisk says an action needs,
//! and what the simulated PBX grants.

use std::fmt;

/// A set of privilege classes.
///
/// Source: `main/manager.c`, the table of permissions; its order is the order in `Privilege:`.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Classes(u32);

/// Their names. `message` is there from Asterisk 17 on.
const NAMES: [&str; 19] = [
    "system",
    "call",
    "log",
    "verbose",
    "command",
    "agent",
    "user",
    "config",
    "dtmf",
    "reporting",
    "cdr",
    "dialplan",
    "originate",
    "agi",
    "cc",
    "aoc",
    "test",
    "security",
    "message",
];

impl Classes {
    /// The names of all classes, in Asterisk's order; `all` is none of them.
    pub const NAMES: [&'static str; 19] = NAMES;
    /// None.
    pub const NONE: Self = Self(0);
    /// `system`: registrations, contacts, Asterisk itself.
    pub const SYSTEM: Self = Self(1);
    /// `call`.
    pub const CALL: Self = Self(1 << 1);
    /// `command`.
    pub const COMMAND: Self = Self(1 << 4);
    /// `user`.
    pub const USER: Self = Self(1 << 6);
    /// `config`.
    pub const CONFIG: Self = Self(1 << 7);
    /// `reporting`.
    pub const REPORTING: Self = Self(1 << 9);
    /// `originate`.
    pub const ORIGINATE: Self = Self(1 << 12);
    /// `security`.
    pub const SECURITY: Self = Self(1 << 17);
    /// All of them.
    pub const ALL: Self = Self(u32::MAX);

    /// Both sets together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both sets.
    #[must_use]
    pub const fn both(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in this set and not in the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The class of this name, in any case, or `all`; `None` if there is no such class.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("all") {
            return Some(Self::ALL);
        }
        NAMES.iter().position(|known| known.eq_ignore_ascii_case(name)).map(|place| Self(1 << place))
    }

    /// The names of the classes that are in it.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.into_iter().enumerate().filter(move |(place, _)| self.0 & (1 << place) != 0).map(|(_, name)| name)
    }

    /// Whether no class is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of `other` is in it: what an event needs of the mask and of the user's `read`.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether one of `other` is in it: what an action needs of the user's `write`.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Reads an event mask as `Events` and `Login` take it; `None` where there is none: the mask stays then.
    ///
    /// Source: `main/manager.c` (`strings_to_mask`): digits are the bits themselves, `on` and `off` in their many forms are
    /// all and none, else class names.
    #[must_use]
    pub fn of_mask(text: &str) -> Option<Self> {
        const ON: [&str; 6] = ["yes", "true", "y", "t", "1", "on"];
        const OFF: [&str; 6] = ["no", "false", "n", "f", "0", "off"];
        let is = |words: [&str; 6]| words.iter().any(|word| word.eq_ignore_ascii_case(text));
        if text.is_empty() {
            return None;
        }
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Some(Self::of_bits(text.parse().unwrap_or(u32::MAX)));
        }
        Some(if is(OFF) {
            Self::NONE
        } else if is(ON) {
            Self::ALL
        } else {
            Self::read(text)
        })
    }

    /// From Asterisk's own bits (`include/asterisk/manager.h`, `EVENT_FLAG_…`).
    fn of_bits(bits: u32) -> Self {
        let set = (0..14).filter(|bit| bits & (1 << bit) != 0).fold(Self::NONE, |set, bit| set.and(Self(1 << bit)));
        let later = [(15, "cc"), (16, "aoc"), (17, "test"), (18, "security"), (30, "message")];
        later.iter().filter(|(bit, _)| bits & (1 << bit) != 0).fold(set, |set, (_, name)| set.and(Self::read(name)))
    }

    /// As an event mask: `on`, `off`, or the classes' names.
    #[must_use]
    pub fn to_mask(self) -> String {
        if self == Self::ALL {
            return "on".to_owned();
        }
        let names: Vec<&str> = self.names().collect();
        if names.is_empty() { "off".to_owned() } else { names.join(",") }
    }

    /// Reads `system,call`, `all`, as in manager.conf and in `EventMask`; words it does not know count for nothing.
    #[must_use]
    pub fn read(text: &str) -> Self {
        text.split(',').map(str::trim).filter_map(Self::named).fold(Self::NONE, Self::and)
    }
}

impl fmt::Display for Classes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("<none>");
        }
        for name in self.names() {
            write!(f, "{name},")?;
        }
        f.write_str("all")
    }
}

impl fmt::Debug for Classes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Classes({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_read_as_asterisk_reads_it_and_written_so_that_it_reads_the_same() {
        let call_and_system = Classes::SYSTEM.and(Classes::CALL);
        for (text, expected) in [
            ("on", Some(Classes::ALL)),
            ("TRUE", Some(Classes::ALL)),
            ("off", Some(Classes::NONE)),
            ("", None),
            ("0", Some(Classes::NONE)),
            ("1", Some(Classes::SYSTEM)), // digits are bits before they are words
            ("3", Some(call_and_system)),
            ("262144", Some(Classes::SECURITY)),
            ("call, SYSTEM", Some(call_and_system)),
            ("call,nonsense", Some(Classes::CALL)),
            ("all", Some(Classes::ALL)),
        ] {
            assert_eq!(Classes::of_mask(text), expected, "{text}");
        }
        for set in [Classes::ALL, Classes::NONE, call_and_system, Classes::read("message,cc")] {
            assert_eq!(Classes::of_mask(&set.to_mask()), Some(set));
        }
        assert_eq!(call_and_system.to_mask(), "system,call", "and no `all`, which would be everything");
    }

    #[test]
    fn a_class_is_known_by_its_name_and_taken_out_of_all() {
        assert_eq!(Classes::named("Originate"), Some(Classes::ORIGINATE));
        assert_eq!(Classes::named("orignate"), None);
        let rest = Classes::ALL.without(Classes::COMMAND);
        assert!(!rest.overlaps(Classes::COMMAND) && rest.contains(Classes::SYSTEM));
        assert_eq!(rest.names().count(), Classes::NAMES.len() - 1);
        assert_eq!(Classes::read("system,call,nonsense").names().collect::<Vec<_>>(), ["system", "call"]);
    }
}
