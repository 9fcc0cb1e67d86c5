//! Which trunk is it? The directory of one PBX, made of its lists and of what the configuration declares.
//!
//! Separate from the observer because it is a function of its inputs alone: the same lists and the same configuration
//! always give the same trunks under the same ids, and `check` can show how each one was found. The order of the rules:
//!
//! 1. `[[trunk]]` in the configuration decides;
//! 2. else the registration's `endpoint=`;
//! 3. else the endpoint of the same object name;
//! 4. else that of the name less `-reg-N`, as `pjsip_wizard.conf` names them;
//! 5. else the one endpoint that shares an `outbound_auth` with it;
//! 6. else the registration alone, which `check` reports.
//!
//! The id is the endpoint's name if there is exactly one, else the registration's. An endpoint without a registration
//! (a phone, or a trunk known by address) is a trunk only when the configuration names it. An endpoint belongs to one
//! trunk at most, so that a channel's name leads to one gate.
//!
//! `PJSIPShowEndpoints` needs more rights than the registrations do (`write=system`). Where it is refused, the rules 3
//! and 4 are taken for true without having seen the endpoint, so that a trunk's id does not depend on a right; a name
//! that no endpoint has is never dialed.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use super::fact::{ListedRegistration, ListedTrunk, RegistrationParameters};
use crate::{
    ids::{EndpointName, NameError, PbxId, RegistrationName, TrunkId},
    wire::ami::event::{EndpointList, OutboundRegistrationDetail, RegistryEntry},
};

/// A trunk as the configuration declares it (`[[trunk]]`).
///
/// With neither registrations nor endpoints it stands for whatever its name finds: the endpoint of that name with its
/// registrations, or the registration of that name. With registrations only, their endpoints are found by the rules;
/// with endpoints only, the registrations that belong to them join; with both, it is exactly what is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredTrunk {
    /// Its id.
    pub id: TrunkId,
    /// Its registrations.
    pub registrations: Vec<RegistrationName>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointName>,
}

impl DeclaredTrunk {
    /// Declared by its name alone.
    fn is_bare(&self) -> bool {
        self.registrations.is_empty() && self.endpoints.is_empty()
    }
}

/// Which channel driver registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Technology {
    /// `res_pjsip_outbound_registration`.
    Pjsip,
    /// `chan_iax2`.
    Iax2,
}

/// What a `Registry` event gives in place of a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// Which driver's.
    pub technology: Technology,
    /// PJSIP: `client_uri`. IAX2: the login.
    pub client: String,
    /// PJSIP: `server_uri`. IAX2: the registrar's resolved address and port.
    pub server: String,
}

/// An outbound registration, as far as it decides about trunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrationObject {
    /// The section's name; for IAX2, which has none, `iax2:LOGIN@ADDRESS`.
    pub name: RegistrationName,
    /// Who registers where.
    pub pair: Pair,
    /// `endpoint=`.
    pub endpoint: Option<String>,
    /// `outbound_auth=`, in order.
    pub outbound_auth: Vec<String>,
    /// Its timing.
    pub parameters: RegistrationParameters,
}

impl RegistrationObject {
    /// From an item of `PJSIPShowRegistrationsOutbound`. What it does not say has Asterisk's default.
    ///
    /// # Errors
    /// [`NameError`] when the name is none we could carry.
    pub fn pjsip(detail: &OutboundRegistrationDetail) -> Result<Self, NameError> {
        let default = RegistrationParameters::default();
        Ok(Self {
            name: detail.object_name.as_str().try_into()?,
            pair: Pair {
                technology: Technology::Pjsip,
                client: detail.client_uri.clone(),
                server: detail.server_uri.clone(),
            },
            endpoint: detail.endpoint.clone(),
            outbound_auth: detail.outbound_auth.clone(),
            parameters: RegistrationParameters {
                expiration: detail.expiration.unwrap_or(default.expiration),
                retry_interval: detail.retry_interval.unwrap_or(default.retry_interval),
                forbidden_retry_interval: detail.forbidden_retry_interval.unwrap_or(default.forbidden_retry_interval),
                fatal_retry_interval: detail.fatal_retry_interval.unwrap_or(default.fatal_retry_interval),
                max_random_initial_delay: detail.max_random_initial_delay.unwrap_or(default.max_random_initial_delay),
                heartbeat: true,
            },
        })
    }

    /// From an item of `IAXregistry`. IAX2 announces changes only (`channels/chan_iax2.c`), hence no heartbeat.
    ///
    /// # Errors
    /// [`NameError`] when login and address make no name we could carry.
    pub fn iax2(entry: &RegistryEntry) -> Result<Self, NameError> {
        Ok(Self {
            name: format!("iax2:{}@{}", entry.username, entry.host).try_into()?,
            pair: Pair { technology: Technology::Iax2, client: entry.username.clone(), server: entry.host.clone() },
            endpoint: None,
            outbound_auth: Vec::new(),
            parameters: RegistrationParameters {
                expiration: entry.refresh.unwrap_or(RegistrationParameters::default().expiration),
                heartbeat: false,
                ..RegistrationParameters::default()
            },
        })
    }
}

/// An endpoint, as far as it decides about trunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointObject {
    /// The section's name.
    pub name: EndpointName,
    /// The names of its AORs.
    pub aors: Vec<String>,
    /// `outbound_auth=`.
    pub outbound_auths: Vec<String>,
}

impl EndpointObject {
    /// From an item of `PJSIPShowEndpoints`.
    ///
    /// # Errors
    /// [`NameError`] when the name is none we could carry.
    pub fn pjsip(item: &EndpointList) -> Result<Self, NameError> {
        Ok(Self {
            name: item.object_name.as_str().try_into()?,
            aors: item.aors.clone(),
            outbound_auths: item.outbound_auths.clone(),
        })
    }
}

/// What a PBX has, as last listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Its outbound registrations.
    pub registrations: Vec<RegistrationObject>,
    /// Its endpoints; `None` while they could never be listed.
    pub endpoints: Option<Vec<EndpointObject>>,
}

/// By which rule a registration came to its trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The configuration names it.
    Declared,
    /// Its `endpoint=`.
    EndpointOption,
    /// The endpoint has its name.
    SameName,
    /// The endpoint has its name less `-reg-N`.
    Wizard,
    /// One endpoint shares its `outbound_auth`.
    SharedAuth,
    /// By none: it is alone.
    Alone,
}

impl Rule {
    /// How `check` says it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Declared => "declared in the configuration",
            Self::EndpointOption => "its endpoint=",
            Self::SameName => "the endpoint has the same name",
            Self::Wizard => "the endpoint has its name less -reg-N",
            Self::SharedAuth => "one endpoint shares its outbound_auth",
            Self::Alone => "no endpoint belongs to it",
        }
    }
}

/// Something an operator should know of a PBX's trunks, for `check`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Finding {
    /// No endpoint was found for it, so no channel can be told to go out on it.
    #[error(
        "{trunk}: no endpoint belongs to the registration {registration}, so dialing cannot be matched to it; \
         set endpoint= on it, or declare it in a [[trunk]]"
    )]
    RegistrationAlone {
        /// Its trunk.
        trunk: TrunkId,
        /// Which one.
        registration: RegistrationName,
    },
    /// Asterisk's events name only the two URIs.
    #[error(
        "the registrations {} have the same client_uri {client} and server_uri {server}: their events cannot be told \
         apart, so their states are read from the list and a late refresh is not noticed", joined(.registrations)
    )]
    Ambiguous {
        /// Which ones.
        registrations: Vec<RegistrationName>,
        /// Their client URI.
        client: String,
        /// Their server URI.
        server: String,
    },
    /// The configuration names a registration the PBX does not have.
    #[error("{trunk}: the PBX has no registration {registration}")]
    DeclaredRegistrationMissing {
        /// The trunk.
        trunk: TrunkId,
        /// What it names.
        registration: RegistrationName,
    },
    /// The configuration names an endpoint the PBX does not have.
    #[error("{trunk}: the PBX has no endpoint {endpoint}")]
    DeclaredEndpointMissing {
        /// The trunk.
        trunk: TrunkId,
        /// What it names.
        endpoint: EndpointName,
    },
    /// A `[[trunk]]` that names neither, and whose own name finds nothing.
    #[error("{trunk}: the PBX has neither an endpoint nor a registration of that name")]
    DeclaredNotFound {
        /// The trunk.
        trunk: TrunkId,
    },
    /// Two `[[trunk]]` name the same object; the first has it.
    #[error("{object} is declared for {first} and for {second}; it is taken for {first}")]
    DeclaredTwice {
        /// `registration NAME` or `endpoint NAME`.
        object: String,
        /// Who has it.
        first: TrunkId,
        /// Who does not.
        second: TrunkId,
    },
    /// A registration's `endpoint=` is no endpoint.
    #[error("the registration {registration} has endpoint={endpoint}, which the PBX does not have")]
    EndpointOptionMissing {
        /// Which registration.
        registration: RegistrationName,
        /// What it names.
        endpoint: String,
    },
    /// It belongs to an endpoint of a declared trunk that lists its registrations without it.
    #[error(
        "the registration {registration} belongs to the endpoint {endpoint} of {trunk}, whose registrations do not list \
         it; it is watched as a trunk of its own"
    )]
    EndpointTaken {
        /// Which registration.
        registration: RegistrationName,
        /// Its endpoint.
        endpoint: EndpointName,
        /// The declared trunk.
        trunk: TrunkId,
    },
    /// The id it would have is another trunk's.
    #[error("{trunk} would be called {wanted}, but that is another trunk; declare it in a [[trunk]]")]
    NameTaken {
        /// What it is called now.
        trunk: TrunkId,
        /// What it would be called.
        wanted: String,
    },
    /// Neither a registration nor a qualified contact: its health is a belief.
    #[error(
        "{trunk} has no registration and no contact of it is qualified, so nothing shows whether it works; set \
         qualify_frequency= on its AOR"
    )]
    NothingToSee {
        /// The trunk.
        trunk: TrunkId,
    },
    /// `PJSIPShowEndpoints` was refused.
    #[error("the endpoints cannot be listed (write=system), so they are guessed from the registrations' names")]
    EndpointsUnknown,
    /// A name from Asterisk that cannot be carried.
    #[error("{what} is left out")]
    Unnamable {
        /// `a registration` or `an endpoint`, and its name, escaped.
        what: String,
        /// Why.
        #[source]
        error: NameError,
    },
}

fn joined(names: &[RegistrationName]) -> String {
    names.iter().map(RegistrationName::as_str).collect::<Vec<_>>().join(", ")
}

/// The trunks of one PBX, and what leads to them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directory {
    trunks: Vec<ListedTrunk>,
    pairs: BTreeMap<Pair, Vec<RegistrationName>>,
    registrations: BTreeMap<RegistrationName, (TrunkId, Rule)>,
    endpoints: BTreeMap<EndpointName, TrunkId>,
    aors: BTreeMap<String, Vec<EndpointName>>,
    findings: Vec<Finding>,
}

impl Directory {
    /// Applies the rules. Declared trunks of other PBXs are passed over.
    #[must_use]
    pub fn build(pbx: &PbxId, declared: &[DeclaredTrunk], inventory: &Inventory) -> Self {
        let mut builder = Builder::new(pbx, declared, inventory);
        builder.claim();
        builder.assign();
        builder.finish()
    }

    /// The trunks that were found, by id.
    #[must_use]
    pub fn trunks(&self) -> &[ListedTrunk] {
        &self.trunks
    }

    /// One of them.
    #[must_use]
    pub fn trunk(&self, id: &TrunkId) -> Option<&ListedTrunk> {
        self.trunks.binary_search_by(|trunk| trunk.id.cmp(id)).ok().map(|at| &self.trunks[at])
    }

    /// What `check` should tell.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The registrations a `Registry` event may be about: more than one are ambiguous.
    #[must_use]
    pub fn registrations_of(&self, pair: &Pair) -> &[RegistrationName] {
        self.pairs.get(pair).map_or(&[], Vec::as_slice)
    }

    /// The trunk of a registration.
    #[must_use]
    pub fn trunk_of_registration(&self, name: &RegistrationName) -> Option<&TrunkId> {
        self.registrations.get(name).map(|(trunk, _)| trunk)
    }

    /// By which rule it came to it.
    #[must_use]
    pub fn rule_of(&self, name: &RegistrationName) -> Option<Rule> {
        self.registrations.get(name).map(|(_, rule)| *rule)
    }

    /// The trunk of an endpoint.
    #[must_use]
    pub fn trunk_of_endpoint(&self, name: &EndpointName) -> Option<&TrunkId> {
        self.endpoints.get(name)
    }

    /// The trunks' endpoints a contact belongs to: those that use its AOR, and the one Asterisk named with it.
    ///
    /// An AOR may serve several endpoints; the name alone is all there is where the endpoints cannot be listed.
    #[must_use]
    pub fn endpoints_of_contact(&self, aor: &str, endpoint: Option<&EndpointName>) -> BTreeSet<&EndpointName> {
        let by_aor = self.aors.get(aor).into_iter().flatten();
        let named = endpoint.and_then(|name| self.endpoints.get_key_value(name)).map(|(name, _)| name);
        by_aor.chain(named).collect()
    }
}

/// A name less the suffix `res_pjsip_config_wizard` gives its registrations.
fn without_wizard_suffix(name: &str) -> Option<&str> {
    let (stem, number) = name.rsplit_once("-reg-")?;
    (!stem.is_empty() && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(stem)
}

/// A trunk in the making.
#[derive(Default)]
struct Group {
    endpoints: BTreeSet<EndpointName>,
    registrations: BTreeSet<RegistrationName>,
}

struct Builder<'a> {
    pbx: &'a PbxId,
    declared: Vec<&'a DeclaredTrunk>,
    registrations: BTreeMap<&'a RegistrationName, &'a RegistrationObject>,
    endpoints: Option<BTreeMap<&'a EndpointName, &'a EndpointObject>>,
    /// Registrations the configuration names, by declared trunk.
    claimed_registrations: BTreeMap<&'a RegistrationName, usize>,
    /// Endpoints the configuration names or implies, by declared trunk.
    claimed_endpoints: BTreeMap<EndpointName, usize>,
    declared_groups: Vec<Group>,
    endpoint_groups: BTreeMap<EndpointName, Group>,
    alone: BTreeSet<&'a RegistrationName>,
    rules: BTreeMap<&'a RegistrationName, Rule>,
    findings: Vec<Finding>,
}

impl<'a> Builder<'a> {
    fn new(pbx: &'a PbxId, declared: &'a [DeclaredTrunk], inventory: &'a Inventory) -> Self {
        let declared: Vec<_> = declared.iter().filter(|trunk| trunk.id.pbx_str() == pbx.as_str()).collect();
        let mut registrations = BTreeMap::new();
        for registration in &inventory.registrations {
            // A name comes twice only for IAX2 lines that register the same login at the same address.
            registrations.entry(&registration.name).or_insert(registration);
        }
        let by_name = |endpoints: &'a Vec<EndpointObject>| endpoints.iter().map(|one| (&one.name, one)).collect();
        Self {
            pbx,
            declared_groups: declared.iter().map(|_| Group::default()).collect(),
            declared,
            registrations,
            endpoints: inventory.endpoints.as_ref().map(by_name),
            claimed_registrations: BTreeMap::new(),
            claimed_endpoints: BTreeMap::new(),
            endpoint_groups: BTreeMap::new(),
            alone: BTreeSet::new(),
            rules: BTreeMap::new(),
            findings: Vec::new(),
        }
    }

    /// Whether the endpoint exists, as far as can be told.
    fn may_exist(&self, name: &EndpointName) -> bool {
        self.endpoints.as_ref().is_none_or(|known| known.contains_key(name))
    }

    /// What the configuration names, in its order: who comes first has it.
    fn claim(&mut self) {
        for (index, trunk) in self.declared.clone().into_iter().enumerate() {
            for name in &trunk.registrations {
                if !self.registrations.contains_key(name) {
                    let missing =
                        Finding::DeclaredRegistrationMissing { trunk: trunk.id.clone(), registration: name.clone() };
                    self.findings.push(missing);
                }
                self.claim_registration(index, name);
            }
            for name in &trunk.endpoints {
                if !self.may_exist(name) {
                    let missing = Finding::DeclaredEndpointMissing { trunk: trunk.id.clone(), endpoint: name.clone() };
                    self.findings.push(missing);
                }
                self.claim_endpoint(index, name);
            }
        }
        // What is implied comes after all that is said.
        for (index, trunk) in self.declared.clone().into_iter().enumerate() {
            if trunk.is_bare() {
                self.claim_by_name(index, trunk);
            } else if trunk.endpoints.is_empty() {
                for name in &trunk.registrations {
                    let Some(registration) = self.registrations.get(name).copied() else { continue };
                    let (endpoint, _) = self.resolve(registration);
                    if let Some(endpoint) = endpoint {
                        self.claimed_endpoints.entry(endpoint).or_insert(index);
                    }
                }
            }
        }
    }

    fn claim_registration(&mut self, index: usize, name: &'a RegistrationName) {
        let holder = *self.claimed_registrations.entry(name).or_insert(index);
        self.say_if_twice(holder, index, || format!("the registration {name}"));
    }

    fn claim_endpoint(&mut self, index: usize, name: &EndpointName) {
        let holder = *self.claimed_endpoints.entry(name.clone()).or_insert(index);
        self.say_if_twice(holder, index, || format!("the endpoint {name}"));
    }

    fn say_if_twice(&mut self, holder: usize, index: usize, object: impl FnOnce() -> String) {
        if holder != index {
            let (first, second) = (self.declared[holder].id.clone(), self.declared[index].id.clone());
            self.findings.push(Finding::DeclaredTwice { object: object(), first, second });
        }
    }

    /// A trunk declared by its name alone: the endpoint, the registration, or both of that name. Where only the
    /// registration has it, the registration's endpoint comes with it.
    fn claim_by_name(&mut self, index: usize, trunk: &'a DeclaredTrunk) {
        let name = trunk.id.name();
        let mut endpoint = EndpointName::try_from(name).ok().filter(|endpoint| self.may_exist(endpoint));
        let found = self.registrations.iter().find(|(known, _)| known.as_str() == name);
        if let Some((registration, object)) = found.map(|(name, object)| (*name, *object)) {
            self.claimed_registrations.entry(registration).or_insert(index);
            endpoint = endpoint.or_else(|| self.resolve(object).0);
        }
        if let Some(endpoint) = endpoint {
            self.claimed_endpoints.entry(endpoint).or_insert(index);
        }
    }

    /// The endpoint a registration belongs to by the rules 2 to 5.
    fn resolve(&self, registration: &RegistrationObject) -> (Option<EndpointName>, Rule) {
        if registration.pair.technology == Technology::Iax2 {
            return (None, Rule::Alone);
        }
        let name = registration.name.as_str();
        if let Some(endpoint) = self.endpoint_option(registration)
            && self.may_exist(&endpoint)
        {
            return (Some(endpoint), Rule::EndpointOption);
        }
        let wizard = without_wizard_suffix(name).and_then(|stem| EndpointName::try_from(stem).ok());
        let same = EndpointName::try_from(name).ok();
        let Some(known) = &self.endpoints else {
            return match (wizard, same) {
                (Some(stem), _) => (Some(stem), Rule::Wizard),
                (None, Some(same)) => (Some(same), Rule::SameName),
                (None, None) => (None, Rule::Alone),
            };
        };
        if let Some(same) = same.filter(|name| known.contains_key(name)) {
            return (Some(same), Rule::SameName);
        }
        if let Some(stem) = wizard.filter(|name| known.contains_key(name)) {
            return (Some(stem), Rule::Wizard);
        }
        let shares = |endpoint: &&&EndpointObject| {
            endpoint.outbound_auths.iter().any(|auth| registration.outbound_auth.contains(auth))
        };
        let mut sharing = known.values().filter(shares);
        match (sharing.next(), sharing.next()) {
            (Some(only), None) => (Some(only.name.clone()), Rule::SharedAuth),
            (None, _) | (Some(_), Some(_)) => (None, Rule::Alone),
        }
    }

    fn endpoint_option(&self, registration: &RegistrationObject) -> Option<EndpointName> {
        EndpointName::try_from(registration.endpoint.as_deref()?).ok()
    }

    fn assign(&mut self) {
        for (name, registration) in self.registrations.clone() {
            if let Some(endpoint) = &registration.endpoint
                && !EndpointName::try_from(endpoint.as_str()).is_ok_and(|endpoint| self.may_exist(&endpoint))
            {
                let missing = Finding::EndpointOptionMissing { registration: name.clone(), endpoint: endpoint.clone() };
                self.findings.push(missing);
            }
            let (endpoint, rule) = self.resolve(registration);
            if let Some(&index) = self.claimed_registrations.get(name) {
                self.declared_groups[index].registrations.insert(name.clone());
                self.rules.insert(name, Rule::Declared);
                continue;
            }
            match endpoint {
                Some(endpoint) => match self.claimed_endpoints.get(&endpoint) {
                    Some(&index) if self.declared[index].registrations.is_empty() => {
                        self.declared_groups[index].registrations.insert(name.clone());
                        self.rules.insert(name, rule);
                    }
                    Some(&index) => {
                        let trunk = self.declared[index].id.clone();
                        self.findings.push(Finding::EndpointTaken { registration: name.clone(), endpoint, trunk });
                        self.alone.insert(name);
                        self.rules.insert(name, Rule::Alone);
                    }
                    None => {
                        let group = self.endpoint_groups.entry(endpoint.clone()).or_default();
                        group.endpoints.insert(endpoint);
                        group.registrations.insert(name.clone());
                        self.rules.insert(name, rule);
                    }
                },
                None => {
                    self.alone.insert(name);
                    self.rules.insert(name, Rule::Alone);
                }
            }
        }
        for (endpoint, &index) in &self.claimed_endpoints {
            if self.may_exist(endpoint) {
                self.declared_groups[index].endpoints.insert(endpoint.clone());
            }
        }
    }

    fn finish(mut self) -> Directory {
        let mut named: BTreeMap<TrunkId, Group> = BTreeMap::new();
        // A declared id is taken even while nothing of it is found: nobody else may appear under it.
        let reserved: BTreeSet<TrunkId> = self.declared.iter().map(|trunk| trunk.id.clone()).collect();
        for (trunk, group) in self.declared.iter().zip(std::mem::take(&mut self.declared_groups)) {
            if !group.registrations.is_empty() || !group.endpoints.is_empty() {
                let whole = named.entry(trunk.id.clone()).or_default();
                whole.endpoints.extend(group.endpoints);
                whole.registrations.extend(group.registrations);
            } else if trunk.is_bare() {
                self.findings.push(Finding::DeclaredNotFound { trunk: trunk.id.clone() });
            }
        }
        for (endpoint, group) in std::mem::take(&mut self.endpoint_groups) {
            let fallback = group.registrations.first().map(ToString::to_string);
            if let Some(id) = self.id(endpoint.as_str(), fallback.as_deref(), &named, &reserved) {
                named.insert(id, group);
            }
        }
        for name in std::mem::take(&mut self.alone) {
            let Some(id) = self.id(name.as_str(), None, &named, &reserved) else { continue };
            let taken = |finding: &Finding| matches!(finding, Finding::EndpointTaken { registration, .. } if registration == name);
            if !self.findings.iter().any(taken) {
                let alone = Finding::RegistrationAlone { trunk: id.clone(), registration: name.clone() };
                self.findings.push(alone);
            }
            let group = Group { registrations: BTreeSet::from([name.clone()]), endpoints: BTreeSet::new() };
            named.insert(id, group);
        }
        self.directory(named)
    }

    /// The first free name of those it may have.
    fn id(
        &mut self,
        wanted: &str,
        second: Option<&str>,
        named: &BTreeMap<TrunkId, Group>,
        reserved: &BTreeSet<TrunkId>,
    ) -> Option<TrunkId> {
        let last = format!("registration:{}", second.unwrap_or(wanted));
        for name in [Some(wanted), second, Some(last.as_str())].into_iter().flatten() {
            let id = match TrunkId::new(self.pbx, name) {
                Ok(id) => id,
                Err(error) => {
                    let what = format!("a trunk named {}", name.escape_debug());
                    self.findings.push(Finding::Unnamable { what, error });
                    return None;
                }
            };
            if !named.contains_key(&id) && !reserved.contains(&id) {
                if name != wanted {
                    self.findings.push(Finding::NameTaken { trunk: id.clone(), wanted: wanted.to_owned() });
                }
                return Some(id);
            }
        }
        None
    }

    fn directory(mut self, named: BTreeMap<TrunkId, Group>) -> Directory {
        let mut pairs: BTreeMap<Pair, Vec<RegistrationName>> = BTreeMap::new();
        for (name, registration) in &self.registrations {
            pairs.entry(registration.pair.clone()).or_default().push((*name).clone());
        }
        for (pair, names) in pairs.iter().filter(|(_, names)| names.len() > 1) {
            self.findings.push(Finding::Ambiguous {
                registrations: names.clone(),
                client: pair.client.clone(),
                server: pair.server.clone(),
            });
        }
        if self.endpoints.is_none() && !self.registrations.is_empty() {
            self.findings.push(Finding::EndpointsUnknown);
        }
        let mut directory = Directory { pairs, findings: self.findings, ..Directory::default() };
        for (id, group) in named {
            let listed = |name: &RegistrationName| {
                let pair = &self.registrations.get(name)?.pair;
                Some(ListedRegistration {
                    name: name.clone(),
                    client_uri: pair.client.clone(),
                    server_uri: pair.server.clone(),
                    ambiguous: directory.pairs.get(pair).is_some_and(|names| names.len() > 1),
                })
            };
            let registrations = group.registrations.iter().filter_map(listed).collect();
            for name in group.registrations {
                let rule = self.rules.get(&name).copied().unwrap_or(Rule::Alone);
                directory.registrations.insert(name, (id.clone(), rule));
            }
            for name in &group.endpoints {
                let known = self.endpoints.as_ref().and_then(|known| known.get(name));
                for aor in known.into_iter().flat_map(|endpoint| &endpoint.aors) {
                    directory.aors.entry(aor.clone()).or_default().push(name.clone());
                }
                directory.endpoints.insert(name.clone(), id.clone());
            }
            directory.trunks.push(ListedTrunk { id, endpoints: group.endpoints.into_iter().collect(), registrations });
        }
        directory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pbx() -> PbxId {
        PbxId::try_from("pbx1").unwrap()
    }

    fn registration(name: &str) -> RegistrationObject {
        RegistrationObject {
            name: name.try_into().unwrap(),
            pair: Pair {
                technology: Technology::Pjsip,
                client: format!("sip:{name}@carrier"),
                server: "sip:carrier".to_owned(),
            },
            endpoint: None,
            outbound_auth: Vec::new(),
            parameters: RegistrationParameters::default(),
        }
    }

    fn at_endpoint(name: &str, endpoint: &str) -> RegistrationObject {
        RegistrationObject { endpoint: Some(endpoint.to_owned()), ..registration(name) }
    }

    fn with_auth(name: &str, auth: &str) -> RegistrationObject {
        RegistrationObject { outbound_auth: vec![auth.to_owned()], ..registration(name) }
    }

    fn endpoint(name: &str, auths: &[&str]) -> EndpointObject {
        EndpointObject {
            name: name.try_into().unwrap(),
            aors: vec![format!("{name}-aor")],
            outbound_auths: auths.iter().map(ToString::to_string).collect(),
        }
    }

    fn declared(name: &str, registrations: &[&str], endpoints: &[&str]) -> DeclaredTrunk {
        DeclaredTrunk {
            id: TrunkId::new(&pbx(), name).unwrap(),
            registrations: registrations.iter().map(|&name| name.try_into().unwrap()).collect(),
            endpoints: endpoints.iter().map(|&name| name.try_into().unwrap()).collect(),
        }
    }

    fn build(
        declared: &[DeclaredTrunk],
        registrations: Vec<RegistrationObject>,
        endpoints: Option<Vec<EndpointObject>>,
    ) -> Directory {
        Directory::build(&pbx(), declared, &Inventory { registrations, endpoints })
    }

    /// `trunk: registrations | endpoints`, a line per trunk.
    fn shown(directory: &Directory) -> Vec<String> {
        let line = |trunk: &ListedTrunk| {
            let registrations: Vec<_> = trunk.registrations.iter().map(|one| one.name.as_str()).collect();
            let endpoints: Vec<_> = trunk.endpoints.iter().map(EndpointName::as_str).collect();
            format!("{}: {} | {}", trunk.id, registrations.join(" "), endpoints.join(" "))
        };
        directory.trunks().iter().map(line).collect()
    }

    fn findings(directory: &Directory) -> Vec<String> {
        directory.findings().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_endpoint_option_comes_before_the_same_name() {
        let known = Some(vec![endpoint("airtel", &[]), endpoint("other", &[])]);
        let directory = build(&[], vec![at_endpoint("airtel", "other")], known);
        assert_eq!(shown(&directory), ["pbx1/other: airtel | other"]);
        assert_eq!(directory.rule_of(&"airtel".try_into().unwrap()), Some(Rule::EndpointOption));
        assert_eq!(directory.findings(), []);
    }

    #[test]
    fn the_same_name_comes_before_a_shared_auth() {
        let known = Some(vec![endpoint("airtel", &[]), endpoint("other", &["a"])]);
        let directory = build(&[], vec![with_auth("airtel", "a")], known);
        assert_eq!(shown(&directory), ["pbx1/airtel: airtel | airtel"]);
    }

    #[test]
    fn a_wizards_registrations_belong_to_its_endpoint() {
        let known = Some(vec![endpoint("airtel", &[]), endpoint("tata-reg-x", &[])]);
        let registrations = vec![
            registration("airtel-reg-0"),
            registration("airtel-reg-1"),
            registration("tata-reg-"),
            registration("tata-reg-x"),
        ];
        let directory = build(&[], registrations, known);
        assert_eq!(
            shown(&directory),
            [
                "pbx1/airtel: airtel-reg-0 airtel-reg-1 | airtel",
                "pbx1/tata-reg-: tata-reg- | ",
                "pbx1/tata-reg-x: tata-reg-x | tata-reg-x"
            ]
        );
    }

    #[test]
    fn one_shared_outbound_auth_joins_and_two_do_not() {
        let known = Some(vec![endpoint("airtel", &["a"]), endpoint("x", &["b"]), endpoint("y", &["b"])]);
        let directory = build(&[], vec![with_auth("reg-a", "a"), with_auth("reg-b", "b")], known);
        assert_eq!(shown(&directory), ["pbx1/airtel: reg-a | airtel", "pbx1/reg-b: reg-b | "]);
        assert_eq!(directory.rule_of(&"reg-a".try_into().unwrap()), Some(Rule::SharedAuth));
        assert!(matches!(directory.findings(), [Finding::RegistrationAlone { .. }]), "{:?}", findings(&directory));
    }

    #[test]
    fn several_registrations_on_one_endpoint_are_one_trunk() {
        let known = Some(vec![endpoint("airtel", &[])]);
        let directory = build(&[], vec![at_endpoint("b", "airtel"), at_endpoint("a", "airtel")], known);
        assert_eq!(shown(&directory), ["pbx1/airtel: a b | airtel"]);
    }

    #[test]
    fn an_endpoint_without_registration_is_a_trunk_only_when_configured() {
        let known = || Some(vec![endpoint("phone", &[]), endpoint("peer", &[])]);
        assert_eq!(shown(&build(&[], vec![], known())), Vec::<String>::new());
        assert_eq!(shown(&build(&[declared("peer", &[], &["peer"])], vec![], known())), ["pbx1/peer:  | peer"]);
        assert_eq!(shown(&build(&[declared("peer", &[], &[])], vec![], known())), ["pbx1/peer:  | peer"]);
    }

    #[test]
    fn the_configuration_decides() {
        let known = || Some(vec![endpoint("airtel", &[]), endpoint("tata", &[])]);
        let registrations = || vec![registration("airtel"), registration("tata")];
        let both = [declared("main", &["airtel", "tata"], &["airtel", "tata"])];
        assert_eq!(shown(&build(&both, registrations(), known())), ["pbx1/main: airtel tata | airtel tata"]);
        // Registrations only: their endpoints are found. Endpoints only: their registrations join.
        let half = [declared("main", &["airtel"], &[]), declared("second", &[], &["tata"])];
        assert_eq!(
            shown(&build(&half, registrations(), known())),
            ["pbx1/main: airtel | airtel", "pbx1/second: tata | tata"]
        );
    }

    #[test]
    fn a_trunk_declared_by_name_is_what_the_rules_find_under_it() {
        let known = Some(vec![endpoint("airtel", &[]), endpoint("e", &[])]);
        let registrations = vec![registration("airtel-reg-0"), at_endpoint("tata", "e")];
        let bare = [declared("airtel", &[], &[]), declared("tata", &[], &[]), declared("gone", &[], &[])];
        let directory = build(&bare, registrations, known);
        assert_eq!(shown(&directory), ["pbx1/airtel: airtel-reg-0 | airtel", "pbx1/tata: tata | e"]);
        assert_eq!(directory.findings(), [Finding::DeclaredNotFound { trunk: bare[2].id.clone() }]);
    }

    #[test]
    fn a_registration_left_out_of_an_explicit_list_is_a_trunk_of_its_own() {
        let known = Some(vec![endpoint("airtel", &[])]);
        let one = [declared("airtel", &["a"], &["airtel"])];
        let directory = build(&one, vec![at_endpoint("a", "airtel"), at_endpoint("b", "airtel")], known);
        assert_eq!(shown(&directory), ["pbx1/airtel: a | airtel", "pbx1/b: b | "]);
        assert!(matches!(directory.findings(), [Finding::EndpointTaken { .. }]), "{:?}", findings(&directory));
    }

    #[test]
    fn what_is_declared_and_does_not_exist_is_reported() {
        let directory = build(&[declared("t", &["r"], &["e"])], vec![], Some(vec![]));
        assert_eq!(shown(&directory), Vec::<String>::new());
        assert!(matches!(
            directory.findings(),
            [Finding::DeclaredRegistrationMissing { .. }, Finding::DeclaredEndpointMissing { .. }]
        ));
    }

    #[test]
    fn an_object_declared_twice_is_the_firsts() {
        let two = [declared("one", &["r"], &["e"]), declared("two", &["r"], &["e"])];
        let directory = build(&two, vec![registration("r")], Some(vec![endpoint("e", &[])]));
        assert_eq!(shown(&directory), ["pbx1/one: r | e"]);
        assert!(matches!(directory.findings(), [Finding::DeclaredTwice { .. }, Finding::DeclaredTwice { .. }]));
    }

    #[test]
    fn nobody_else_appears_under_a_declared_id() {
        // "a" is declared as something else, and a registration of that name stands alone.
        let directory = build(&[declared("a", &["x"], &[])], vec![registration("a"), registration("x")], Some(vec![]));
        assert_eq!(shown(&directory), ["pbx1/a: x | ", "pbx1/registration:a: a | "]);
        assert!(directory.findings().iter().any(|one| matches!(one, Finding::NameTaken { .. })));
    }

    #[test]
    fn ids_do_not_depend_on_the_right_to_list_endpoints() {
        let registrations = || vec![registration("airtel"), registration("tata-reg-0"), at_endpoint("x", "vodafone")];
        let known = vec![endpoint("airtel", &[]), endpoint("tata", &[]), endpoint("vodafone", &[])];
        let with = build(&[], registrations(), Some(known));
        let without = build(&[], registrations(), None);
        assert_eq!(shown(&with), shown(&without));
        assert_eq!(without.findings(), [Finding::EndpointsUnknown]);
    }

    #[test]
    fn an_endpoint_option_that_names_nothing_is_reported_and_passed_over() {
        let directory = build(&[], vec![at_endpoint("airtel", "typo")], Some(vec![endpoint("airtel", &[])]));
        assert_eq!(shown(&directory), ["pbx1/airtel: airtel | airtel"]);
        assert!(matches!(directory.findings(), [Finding::EndpointOptionMissing { .. }]));
    }

    #[test]
    fn two_registrations_with_the_same_uris_are_ambiguous() {
        let second = RegistrationObject { pair: registration("a").pair, ..registration("b") };
        let directory = build(&[], vec![registration("a"), second, registration("c")], Some(vec![]));
        let ambiguous: Vec<_> =
            directory.trunks().iter().flat_map(|one| &one.registrations).map(|one| one.ambiguous).collect();
        assert_eq!(ambiguous, [true, true, false]);
        assert_eq!(directory.registrations_of(&registration("a").pair).len(), 2);
        assert!(directory.findings().iter().any(|one| matches!(one, Finding::Ambiguous { .. })));
    }

    #[test]
    fn a_contact_leads_to_its_trunk_by_aor_or_by_endpoint() {
        let directory =
            build(&[], vec![registration("airtel")], Some(vec![endpoint("airtel", &[]), endpoint("phone", &[])]));
        let airtel = EndpointName::try_from("airtel").unwrap();
        assert_eq!(directory.endpoints_of_contact("airtel-aor", None), BTreeSet::from([&airtel]));
        assert_eq!(directory.endpoints_of_contact("unheard-of", Some(&airtel)), BTreeSet::from([&airtel]));
        let phone = EndpointName::try_from("phone").unwrap();
        assert!(directory.endpoints_of_contact("phone-aor", Some(&phone)).is_empty());
    }

    #[test]
    fn an_iax2_registration_is_a_trunk_without_heartbeat() {
        let entry = RegistryEntry {
            host: "192.0.2.1:4569".to_owned(),
            username: "us".to_owned(),
            perceived: None,
            refresh: Some(std::time::Duration::from_secs(60)),
            state: crate::wire::ami::event::IaxRegistrationState::Registered,
        };
        let object = RegistrationObject::iax2(&entry).unwrap();
        assert!(!object.parameters.heartbeat);
        let directory = build(&[], vec![object], Some(vec![]));
        assert_eq!(shown(&directory), ["pbx1/iax2:us@192.0.2.1:4569: iax2:us@192.0.2.1:4569 | "]);
    }
}
