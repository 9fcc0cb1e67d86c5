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

const NAMES: [&str; 18] = [
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
];

impl Classes {
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

    /// Reads `system,call`, `all`, as in manager.conf and in `EventMask`; words it does not know count for nothing.
    #[must_use]
    pub fn read(text: &str) -> Self {
        text.split(',').map(str::trim).fold(Self::NONE, |set, word| {
            let bit = NAMES.iter().position(|name| name.eq_ignore_ascii_case(word)).map_or(0, |place| 1 << place);
            set.and(if word.eq_ignore_ascii_case("all") { Self::ALL } else { Self(bit) })
        })
    }
}

impl fmt::Display for Classes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("<none>");
        }
        for (place, name) in NAMES.iter().enumerate() {
            if self.0 & (1 << place) != 0 {
                write!(f, "{name},")?;
            }
        }
        f.write_str("all")
    }
}

impl fmt::Debug for Classes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Classes({self})")
    }
}
