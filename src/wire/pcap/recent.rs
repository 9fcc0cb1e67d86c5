//! A map that forgets: bounded memory for what a capture mentions, however much that is.

use std::{collections::HashMap, hash::Hash};

/// Keeps the entries used last, at least `half` and at most twice as many.
///
/// Two generations instead of a list by use: new and used entries are in the young one; once that is full, the old one is
/// given up and the young one is the old. That is least-recently-used in effect, at the price of a hash.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    half: usize,
}

impl<K: Hash + Eq + Clone, V> Recent<K, V> {
    /// One that keeps at least `half` entries.
    pub(super) fn new(half: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), half }
    }

    /// An entry, which is thereby used.
    pub(super) fn get(&mut self, key: &K) -> Option<&mut V> {
        if !self.young.contains_key(key) {
            let (key, value) = self.old.remove_entry(key)?;
            self.young.insert(key, value);
        }
        self.young.get_mut(key)
    }

    /// Whether there is such an entry, without using it.
    pub(super) fn contains(&self, key: &K) -> bool {
        self.young.contains_key(key) || self.old.contains_key(key)
    }

    /// Sets an entry. Returns what was given up for it.
    pub(super) fn insert(&mut self, key: K, value: V) -> HashMap<K, V> {
        self.old.remove(&key);
        self.young.insert(key, value);
        if self.young.len() > self.half { self.age() } else { HashMap::new() }
    }

    /// Gives up the old generation, and the young one is the old. Returns what was given up.
    pub(super) fn age(&mut self) -> HashMap<K, V> {
        std::mem::replace(&mut self.old, std::mem::take(&mut self.young))
    }

    /// All entries, in no order.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (K, V)> + '_ {
        self.old.drain().chain(self.young.drain())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_is_bounded() {
        let mut recent = Recent::new(10);
        recent.insert(0, ());
        let mut given_up = 0;
        for key in 1..10_000 {
            given_up += recent.insert(key, ()).len();
            assert!(recent.get(&0).is_some(), "at {key}");
        }
        let kept = recent.drain().count();
        assert!((10..=21).contains(&kept), "{kept}");
        assert_eq!(kept + given_up, 10_000);
    }
}
