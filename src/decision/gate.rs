//! The gate: the answer to "may I dial on this trunk now?", from memory, for whoever asks.
//!
//! It is split in two: [`GateTx`] is held by the one loop that decides, [`Gate`] by everybody who asks. Those who ask
//! see answers, never the reasons' machinery. A trunk nobody has said anything about holds: a gate that does not know
//! must not wave calls through.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    diagnosis::Cause,
    health::Health,
    ids::{EndpointName, PbxId, TrunkId},
};

/// The gate's answer for one trunk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateState {
    /// Whether a call may be originated.
    pub allow: bool,
    /// Why, in words a person can act on.
    pub reason: String,
    /// Since when the answer is this one.
    pub since: Timestamp,
    /// The trunk's health.
    pub health: Health,
    /// When the answer may change by itself (a recovery, an override, a hold with an end), as far as is known.
    pub until: Option<Timestamp>,
    /// When the last hold on it ended, if it allows since: calls may be let through by and by.
    #[serde(default)]
    pub released: Option<Timestamp>,
    /// What was diagnosed, in one word; the reason has it in a sentence.
    #[serde(default)]
    pub cause: Option<Cause>,
}

impl GateState {
    /// Health, since when, and the reason, with the cause unless the reason names it: `down since …: 403: account_forbidden`.
    #[must_use]
    pub fn in_short(&self) -> String {
        // A hold is not always the health's: an operator may hold a trunk that is well.
        let mut text = match self.health {
            Health::Down | Health::Unstable | Health::Suspect => format!("{} since {:.0}", self.health, self.since),
            Health::Stable | Health::Unknown => format!("held since {:.0}, health {}", self.since, self.health),
        };
        // The reason begins with the health, which was said.
        let said = format!("{}: ", self.health);
        let reason = self.reason.strip_prefix(&said).unwrap_or(&self.reason);
        if !reason.is_empty() {
            text.push_str(": ");
            text.push_str(reason);
        }
        if let Some(cause) = self.cause.map(|cause| cause.to_string()).filter(|cause| !self.reason.contains(cause)) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        text
    }
}

/// The asking side.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<RwLock<Said>>);

/// What was published.
#[derive(Debug, Default)]
struct Said {
    states: HashMap<TrunkId, Published>,
    /// Under which names each PBX's trunks are dialed; a PBX is here once it was listed.
    names: HashMap<PbxId, Names>,
    /// Nothing is held, whatever is not known.
    observing: bool,
}

/// The names of one PBX's trunks: endpoints, and the trunks' own.
#[derive(Debug, Default)]
struct Names {
    listed: bool,
    exact: HashMap<String, TrunkId>,
    /// In lower case: a PBX that keeps its endpoints in a database may not tell the cases apart.
    folded: HashMap<String, TrunkId>,
    of: HashMap<TrunkId, Vec<String>>,
}

impl Names {
    /// Whether `trunk` is called by these endpoints already, and by its own name unless another trunk is.
    fn has(&self, trunk: &TrunkId, endpoints: &[EndpointName]) -> bool {
        let Some(names) = self.of.get(trunk) else { return false };
        let own = trunk.name();
        let Some((known, rest)) = names.split_at_checked(endpoints.len()) else { return false };
        known.iter().map(String::as_str).eq(endpoints.iter().map(EndpointName::as_str))
            && rest.iter().all(|name| name == own)
            && (names.iter().any(|name| name == own) || self.exact.get(own).is_some_and(|by| by != trunk))
    }

    fn set(&mut self, trunk: &TrunkId, endpoints: &[EndpointName]) {
        self.unset(trunk);
        // An endpoint of that name belongs to another trunk where one claims it: the trunk's own name comes last.
        let own = (!self.exact.contains_key(trunk.name())).then(|| trunk.name().to_owned());
        let names: Vec<String> = endpoints.iter().map(ToString::to_string).chain(own).collect();
        for name in &names {
            self.exact.insert(name.clone(), trunk.clone());
            self.folded.insert(name.to_lowercase(), trunk.clone());
        }
        self.of.insert(trunk.clone(), names);
    }

    fn unset(&mut self, trunk: &TrunkId) {
        let gone = self.of.remove(trunk).unwrap_or_default();
        for name in &gone {
            // Another trunk may be called so too, and was outshone.
            let other = |same: &dyn Fn(&str) -> bool| {
                let called =
                    |(id, names): &(&TrunkId, &Vec<String>)| same(id.name()) || names.iter().any(|name| same(name));
                self.of.iter().find(called).map(|(id, _)| id.clone())
            };
            let folded = name.to_lowercase();
            let (exact, alike) = (other(&|known| known == name), other(&|known| known.to_lowercase() == folded));
            if self.exact.get(name) == Some(trunk) {
                replace(&mut self.exact, name, exact);
            }
            if self.folded.get(&folded) == Some(trunk) {
                replace(&mut self.folded, &folded, alike);
            }
        }
    }
}

fn replace(names: &mut HashMap<String, TrunkId>, name: &str, by: Option<TrunkId>) {
    match by {
        Some(trunk) => names.insert(name.to_owned(), trunk),
        None => names.remove(name),
    };
}

#[derive(Debug)]
struct Published {
    state: GateState,
    /// The step it comes from.
    step: u64,
}

impl Gate {
    /// What is said of `trunk`; `None` for one never heard of, which holds.
    #[must_use]
    pub fn state(&self, trunk: &TrunkId) -> Option<GateState> {
        self.read().states.get(trunk).map(|published| published.state.clone())
    }

    /// The trunk of `pbx` that is dialed as `name`: an endpoint, or the trunk's own name. Where none is called exactly so,
    /// one that differs in case only.
    #[must_use]
    pub fn trunk_named(&self, pbx: &PbxId, name: &str) -> Option<TrunkId> {
        let said = self.read();
        let names = said.names.get(pbx)?;
        names.exact.get(name).or_else(|| names.folded.get(&name.to_lowercase())).cloned()
    }

    /// Whether the trunks of `pbx` are known: before its first list, a name that is no trunk's may yet be one's.
    #[must_use]
    pub fn is_listed(&self, pbx: &PbxId) -> bool {
        self.read().names.get(pbx).is_some_and(|names| names.listed)
    }

    /// Whether nothing is ever held (`mode = "observe"`).
    #[must_use]
    pub fn is_observing(&self) -> bool {
        self.read().observing
    }

    /// A trunk of `pbx` that holds, if one does: the first by name.
    #[must_use]
    pub fn any_held(&self, pbx: &PbxId) -> Option<(TrunkId, GateState)> {
        let said = self.read();
        let held = said.states.iter().filter(|(id, known)| id.pbx_str() == pbx.as_str() && !known.state.allow);
        held.min_by(|one, other| one.0.cmp(other.0)).map(|(id, known)| (id.clone(), known.state.clone()))
    }

    fn read(&self) -> RwLockReadGuard<'_, Said> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Said> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The two sides of a new gate.
    #[must_use]
    pub fn new() -> (GateTx, Self) {
        let gate = Self::default();
        (GateTx(gate.clone()), gate)
    }
}

/// The deciding side. Its clones serve one decider: steps are numbered, and what an earlier step says never replaces
/// what a later one said. So an opening that waited for the store cannot undo a closing that did not wait.
#[derive(Debug, Clone)]
pub struct GateTx(Gate);

impl GateTx {
    /// Publishes those of `changes` that hold: to be called before anything is awaited.
    pub fn close(&self, step: u64, changes: &BTreeMap<TrunkId, GateState>) {
        self.publish(step, changes.iter().filter(|&(_, state)| !state.allow));
    }

    /// Publishes those of `changes` that allow: to be called once the store has them.
    pub fn open(&self, step: u64, changes: &BTreeMap<TrunkId, GateState>) {
        self.publish(step, changes.iter().filter(|&(_, state)| state.allow));
    }

    /// Forgets the answers for `trunks`: they hold, like any trunk nobody knows.
    pub fn forget<'a>(&self, trunks: impl Iterator<Item = &'a TrunkId>) {
        let mut trunks = trunks.peekable();
        if trunks.peek().is_some() {
            let mut said = self.0.write();
            for trunk in trunks {
                said.states.remove(trunk);
                if let Some(names) = said.names.get_mut(&trunk.pbx()) {
                    names.unset(trunk);
                }
            }
        }
    }

    /// Publishes under which names trunks are dialed. To be called before their answers are. Most steps change none.
    pub fn name<'a>(&self, trunks: impl Iterator<Item = (&'a TrunkId, &'a [EndpointName])>) {
        let said = self.0.read();
        let known = |trunk: &TrunkId, endpoints: &[EndpointName]| {
            said.names.get(&trunk.pbx()).is_some_and(|names| names.has(trunk, endpoints))
        };
        let anew: Vec<_> = trunks.filter(|(trunk, endpoints)| !known(trunk, endpoints)).collect();
        drop(said);
        if !anew.is_empty() {
            let mut said = self.0.write();
            for (trunk, endpoints) in anew {
                said.names.entry(trunk.pbx()).or_default().set(trunk, endpoints);
            }
        }
    }

    /// Publishes that the trunks of `pbx` are known.
    pub fn listed(&self, pbx: &PbxId) {
        if !self.0.is_listed(pbx) {
            self.0.write().names.entry(pbx.clone()).or_default().listed = true;
        }
    }

    /// Publishes whether nothing is ever held.
    pub fn observing(&self, observing: bool) {
        if self.0.is_observing() != observing {
            self.0.write().observing = observing;
        }
    }

    /// Forgets every answer, so that all hold: nobody decides any more. The names stay, so that it is known what holds.
    pub fn shut(&self) {
        let mut said = self.0.write();
        said.states.clear();
        said.observing = false;
        for names in said.names.values_mut() {
            names.listed = false;
        }
    }

    fn publish<'a>(&self, step: u64, changes: impl Iterator<Item = (&'a TrunkId, &'a GateState)>) {
        let mut changes = changes.peekable();
        if changes.peek().is_none() {
            return;
        }
        let states = &mut self.0.write().states;
        for (trunk, state) in changes {
            match states.get_mut(trunk) {
                Some(known) if known.step > step => {}
                Some(known) => *known = Published { state: state.clone(), step },
                None => {
                    states.insert(trunk.clone(), Published { state: state.clone(), step });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(allow: bool) -> GateState {
        let since = Timestamp::UNIX_EPOCH;
        GateState {
            allow,
            reason: String::new(),
            since,
            health: Health::Stable,
            until: None,
            released: None,
            cause: None,
        }
    }

    #[test]
    fn an_opening_that_waited_for_the_store_does_not_undo_a_later_closing() {
        let (tx, gate) = Gate::new();
        let trunk = TrunkId::try_from("pbx1/airtel").unwrap();
        let (opened, closed) = ([(trunk.clone(), state(true))].into(), [(trunk.clone(), state(false))].into());
        tx.open(1, &opened);
        assert!(gate.state(&trunk).unwrap().allow);
        tx.close(3, &closed);
        tx.open(2, &opened);
        assert!(!gate.state(&trunk).unwrap().allow, "step 2's commit ended after step 3 closed");
        tx.open(4, &opened);
        assert!(gate.state(&trunk).unwrap().allow);
    }

    #[test]
    fn each_side_publishes_only_its_own_half() {
        let (tx, gate) = Gate::new();
        let trunk = TrunkId::try_from("pbx1/airtel").unwrap();
        tx.close(1, &[(trunk.clone(), state(true))].into());
        assert_eq!(gate.state(&trunk), None);
        tx.open(1, &[(trunk.clone(), state(false))].into());
        assert_eq!(gate.state(&trunk), None);
    }

    #[test]
    fn a_name_that_two_trunks_have_stays_with_the_one_that_is_left() {
        let (tx, gate) = Gate::new();
        let pbx = PbxId::try_from("pbx1").unwrap();
        let (one, other) = (TrunkId::try_from("pbx1/x").unwrap(), TrunkId::try_from("pbx1/y").unwrap());
        let endpoints = [EndpointName::try_from("x").unwrap()];
        tx.name([(&one, &[][..]), (&other, &endpoints[..])].into_iter());
        assert_eq!(gate.trunk_named(&pbx, "x").as_ref(), Some(&other));
        tx.forget([&other].into_iter());
        assert_eq!(gate.trunk_named(&pbx, "x").as_ref(), Some(&one));
        assert_eq!(gate.trunk_named(&pbx, "X").as_ref(), Some(&one));
        // Said again it stays, and goes with its trunk.
        tx.name([(&one, &[][..])].into_iter());
        assert_eq!(gate.trunk_named(&pbx, "x").as_ref(), Some(&one));
        tx.forget([&one].into_iter());
        assert_eq!(gate.trunk_named(&pbx, "x"), None);
    }

    #[test]
    fn endpoints_that_come_and_go_are_names_as_long_as_they_are_there() {
        let (tx, gate) = Gate::new();
        let (trunk, pbx) = (TrunkId::try_from("pbx1/airtel").unwrap(), PbxId::try_from("pbx1").unwrap());
        let endpoint = |name: &str| EndpointName::try_from(name).unwrap();
        for names in [&["a", "b"][..], &["a"], &["a", "airtel"], &["airtel"], &[], &["b"]] {
            let endpoints: Vec<_> = names.iter().map(|name| endpoint(name)).collect();
            for _ in 0..2 {
                tx.name([(&trunk, &endpoints[..])].into_iter());
                for name in ["a", "b", "airtel"] {
                    let known = name == "airtel" || names.contains(&name);
                    assert_eq!(gate.trunk_named(&pbx, name).is_some(), known, "{name} of {names:?}");
                }
            }
        }
    }

    #[test]
    fn a_trunk_is_found_by_its_endpoints_and_its_own_name_whatever_the_case_and_no_longer_once_forgotten() {
        let (tx, gate) = Gate::new();
        let (trunk, pbx) = (TrunkId::try_from("pbx1/airtel").unwrap(), PbxId::try_from("pbx1").unwrap());
        let endpoints = [EndpointName::try_from("airtel-out").unwrap()];
        tx.name([(&trunk, &endpoints[..])].into_iter());
        for name in ["airtel", "airtel-out", "AIRTEL-Out"] {
            assert_eq!(gate.trunk_named(&pbx, name).as_ref(), Some(&trunk), "{name}");
        }
        assert!(!gate.is_listed(&pbx));
        tx.listed(&pbx);
        assert!(gate.is_listed(&pbx));
        tx.name([(&trunk, &[][..])].into_iter());
        assert_eq!(gate.trunk_named(&pbx, "airtel-out"), None);
        tx.forget([&trunk].into_iter());
        assert_eq!(gate.trunk_named(&pbx, "airtel"), None);
        tx.shut();
        assert!(!gate.is_listed(&pbx));
    }
}
