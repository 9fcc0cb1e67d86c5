//! Which registration a REGISTER belongs to.
//!
//! Apart, because everything else hangs on it: a message that is taken for another trunk's makes a wrong verdict with good
//! evidence. Asterisk writes From and To from `client_uri` and drops its port, and the Request-URI from `server_uri`; the
//! Contact's user is `contact_user`, or `s`.

use crate::wire::{
    pjsip::Objects,
    sip::{SipMessage, SipUri},
};

/// Who registers where. Two registrations with the same are twins, and only what is in their Contacts tells them apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Who {
    /// The user part of the address of record; empty if there is none.
    pub(super) user: String,
    /// Its host, lower case.
    pub(super) host: String,
    /// The registrar's host as it is asked for, lower case.
    pub(super) registrar: String,
    /// Its port, the default one where none is written.
    pub(super) port: u16,
}

impl Who {
    /// Whom a REGISTER, or no other request, is about.
    pub(super) fn of_request(message: &SipMessage) -> Option<Self> {
        if message.method() != Some("REGISTER") {
            return None;
        }
        let target = message.target()?;
        let aor = message.to().or_else(|| message.from())?.uri?;
        Some(Self::new(&aor, &target))
    }

    /// From configured URIs.
    pub(super) fn of_uris(client: &str, server: &str) -> Option<Self> {
        Some(Self::new(&SipUri::parse(client)?, &SipUri::parse(server)?))
    }

    fn new(aor: &SipUri, target: &SipUri) -> Self {
        Self {
            user: aor.user.clone().unwrap_or_default(),
            host: host(&aor.host),
            registrar: host(&target.host),
            port: port(target),
        }
    }

    /// The address of record, without anything secret that a URI may hold.
    pub(super) fn aor(&self) -> String {
        let host = super::address::in_uri(&self.host);
        if self.user.is_empty() { format!("sip:{host}") } else { format!("sip:{}@{host}", self.user) }
    }

    /// The registrar, as host and port.
    pub(super) fn registrar(&self) -> String {
        let host = super::address::in_uri(&self.registrar);
        if self.port == 5060 { host } else { format!("{host}:{}", self.port) }
    }
}

/// A host in one way of writing.
pub(super) fn host(text: &str) -> String {
    text.trim_end_matches('.').to_ascii_lowercase()
}

/// A URI's port, or the default one of its scheme and transport (RFC 3261 section 19.1.2).
pub(super) fn port(uri: &SipUri) -> u16 {
    let tls = uri.scheme == "sips" || uri.parameter("transport").is_some_and(|own| own.eq_ignore_ascii_case("tls"));
    uri.port.unwrap_or(if tls { 5061 } else { 5060 })
}

/// The registration that is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Who.
    pub(super) who: Who,
    /// The Contact's user, only where a twin makes it matter.
    pub(super) contact_user: Option<String>,
}

impl Wanted {
    /// A configured registration, told from its twins as well as the configuration allows.
    pub(super) fn configured(objects: &Objects, name: &str) -> Option<Self> {
        let own = objects.registrations.get(name)?;
        let who = Who::of_uris(&own.client_uri, &own.server_uri)?;
        let twins = objects.registrations.iter().any(|(other, registration)| {
            other != name
                && Who::of_uris(&registration.client_uri, &registration.server_uri).as_ref() == Some(&who)
                && contact_user(registration.contact_user.as_deref()) != contact_user(own.contact_user.as_deref())
        });
        let contact_user = twins.then(|| contact_user(own.contact_user.as_deref()).to_owned());
        Some(Self { who, contact_user })
    }

    /// Whether this REGISTER is one of its.
    pub(super) fn is(&self, message: &SipMessage) -> bool {
        if Who::of_request(message).as_ref() != Some(&self.who) {
            return false;
        }
        // `Contact: *` and a missing Contact tell nothing, and so exclude nothing.
        match (&self.contact_user, own_contact_user(message)) {
            (Some(wanted), Some(user)) => *wanted == user,
            (Some(_), None) | (None, _) => true,
        }
    }
}

/// The user part of the first Contact.
pub(super) fn own_contact_user(message: &SipMessage) -> Option<String> {
    message.contacts().into_iter().find_map(|contact| contact.uri).map(|uri| uri.user.unwrap_or_default())
}

/// `contact_user` as Asterisk sends it (`res_pjsip_outbound_registration.c`: `s` where none is set).
fn contact_user(configured: Option<&str>) -> &str {
    configured.filter(|user| !user.is_empty()).unwrap_or("s")
}
