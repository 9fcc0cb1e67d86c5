//! Questions a diagnosis asks the objects of a PBX.
//!
//! Pure, and separate from the readers: the same question to a file and to a running Asterisk has the same answer.

use std::net::IpAddr;

use super::{
    Auth, Endpoint, Identify, Kind, Net, Objects, Place, Registration, Transport,
    uris::{protocol_of, same_uri},
};

impl Objects {
    /// The registrations with these URIs, by name. AMI's `Registry` event names the URIs only, and two registrations
    /// may have the same.
    #[must_use]
    pub fn registration_by_uris(&self, client_uri: &str, server_uri: &str) -> Vec<&str> {
        let same = |registration: &Registration| {
            same_uri(&registration.client_uri, client_uri) && same_uri(&registration.server_uri, server_uri)
        };
        self.registrations.iter().filter(|(_, it)| same(it)).map(|(name, _)| name.as_str()).collect()
    }

    /// The transport a registration leaves by: its own; without one, the first in the file (else by name) of the
    /// protocol and address family its next hop asks for, which is a guess where there are several. `None` if it names
    /// one that is not here. The transport of its endpoint has no say.
    #[must_use]
    pub fn transport_of(&self, registration: &str) -> Option<(&str, &Transport)> {
        let registration = self.registrations.get(registration)?;
        if let Some(own) = &registration.transport {
            return self.transports.get_key_value(own).map(|(name, transport)| (name.as_str(), transport));
        }
        let next_hop = registration.outbound_proxy.as_ref().unwrap_or(&registration.server_uri);
        let (protocol, to_ipv6) = (protocol_of(next_hop), next_hop.contains('['));
        let fits = |transport: &Transport| transport.protocol.as_ref().is_none_or(|own| *own == protocol);
        let is_ipv6 = |transport: &Transport| transport.bind.as_ref().is_some_and(|bind| bind.matches(':').count() > 1);
        // One of the other family comes last.
        let order =
            |transport: &Transport| (is_ipv6(transport) != to_ipv6, transport.place.as_ref().map(|place| place.line));
        let fitting = self.transports.iter().filter(|(_, transport)| fits(transport));
        fitting.min_by_key(|(_, transport)| order(transport)).map(|(name, transport)| (name.as_str(), transport))
    }

    /// The auths a registration names, in its order, each with what is known of it.
    #[must_use]
    pub fn auths_of(&self, registration: &str) -> Vec<(&str, Option<&Auth>)> {
        let names = self.registrations.get(registration).map(|it| it.outbound_auth.as_slice()).unwrap_or_default();
        names.iter().map(|name| (name.as_str(), self.auths.get(name))).collect()
    }

    /// The identifies that lead to an endpoint.
    #[must_use]
    pub fn identifies_of(&self, endpoint: &str) -> Vec<(&str, &Identify)> {
        let its = |identify: &Identify| identify.endpoint.as_deref() == Some(endpoint);
        self.identifies.iter().filter(|(_, it)| its(it)).map(|(name, it)| (name.as_str(), it)).collect()
    }

    /// The endpoint a registration is for: the one it names; else that of its name; else of its name less `-reg-N`;
    /// else the one that shares its first auth, if it is one only.
    #[must_use]
    pub fn endpoint_of(&self, registration: &str) -> Option<(&str, &Endpoint)> {
        let known = |name: &str| self.endpoints.get_key_value(name).map(|(name, it)| (name.as_str(), it));
        let object = self.registrations.get(registration);
        if let Some(named) = object.and_then(|it| it.endpoint.as_deref()) {
            return known(named);
        }
        if let Some(found) = known(registration).or_else(|| known(without_wizard_suffix(registration)?)) {
            return Some(found);
        }
        let auth = object?.outbound_auth.first()?;
        let mut sharing = self.endpoints.iter().filter(|(_, it)| it.outbound_auth.contains(auth));
        match (sharing.next(), sharing.next()) {
            (Some((name, it)), None) => Some((name.as_str(), it)),
            (Some(_), Some(_)) | (None, _) => None,
        }
    }

    /// Whether an object of that name is known not to exist: Asterisk said so, or all of its kind were read.
    #[must_use]
    pub fn is_missing(&self, kind: Kind, name: &str) -> bool {
        let (here, complete) = match kind {
            Kind::Registration => (self.registrations.contains_key(name), self.complete.registrations),
            Kind::Auth => (self.auths.contains_key(name), self.complete.auths),
            Kind::Endpoint => (self.endpoints.contains_key(name), self.complete.endpoints),
            Kind::Aor => (self.aors.contains_key(name), self.complete.endpoints),
            Kind::Identify => (self.identifies.contains_key(name), self.complete.endpoints),
            Kind::Transport => (self.transports.contains_key(name), self.complete.transports),
        };
        !here && (complete || self.absent.iter().any(|(absent, its)| *absent == kind && its == name))
    }

    /// The line of an option, as it takes effect: the last where it is repeated, the template's where it is inherited.
    /// `None` for what is not set, and for what was not read from a file.
    #[must_use]
    pub fn line_of(&self, kind: Kind, name: &str, option: &str) -> Option<&Place> {
        self.lines.get(&(kind, name.to_owned(), option.to_ascii_lowercase()))
    }

    /// Where an object's section begins, if it was read from a file.
    #[must_use]
    pub fn place_of(&self, kind: Kind, name: &str) -> Option<&Place> {
        match kind {
            Kind::Registration => self.registrations.get(name)?.place.as_ref(),
            Kind::Auth => self.auths.get(name)?.place.as_ref(),
            Kind::Endpoint => self.endpoints.get(name)?.place.as_ref(),
            Kind::Aor => self.aors.get(name)?.place.as_ref(),
            Kind::Identify => self.identifies.get(name)?.place.as_ref(),
            Kind::Transport => self.transports.get(name)?.place.as_ref(),
        }
    }
}

/// `airtel` of `airtel-reg-0`, as `res_pjsip_config_wizard` names registrations.
fn without_wizard_suffix(name: &str) -> Option<&str> {
    let (endpoint, number) = name.rsplit_once("-reg-")?;
    (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(endpoint)
}

impl Identify {
    /// Whether a request from this address is matched by one of its addresses and networks. Names are not looked at:
    /// see [`Identify::names`].
    #[must_use]
    pub fn admits(&self, ip: IpAddr) -> bool {
        Net::last_word(self.matches.iter(), ip)
    }

    /// What it matches by name; Asterisk resolves these when it reads its configuration.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.matches.iter().filter(|text| Net::parse(text).is_none()).map(String::as_str)
    }
}

impl Transport {
    /// Whether the address is in `local_net`, so that `external_signaling_address` is not used towards it. Without any
    /// `local_net` nothing is local.
    #[must_use]
    pub fn is_local(&self, ip: IpAddr) -> bool {
        Net::last_word(self.local_net.iter(), ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration(server_uri: &str) -> Registration {
        Registration {
            client_uri: "sip:me@reg.example".to_owned(),
            server_uri: server_uri.to_owned(),
            ..Registration::default()
        }
    }

    fn with_registration(registration: Registration) -> Objects {
        let mut objects = Objects::default();
        objects.registrations.insert("trunk".to_owned(), registration);
        objects
    }

    fn transport(protocol: &str, line: u32) -> Transport {
        let place = Some(Place { file: "pjsip.conf".to_owned(), line });
        Transport { protocol: Some(protocol.to_owned()), place, ..Transport::default() }
    }

    #[test]
    fn registrations_are_found_by_their_uris_however_those_are_written() {
        let mut objects = with_registration(registration("sip:reg.example\\;transport=tcp"));
        objects.registrations.insert("twin".to_owned(), registration("SIP:REG.EXAMPLE:5060;transport=TCP"));
        objects.registrations.insert("other".to_owned(), registration("sip:reg.example"));
        let found = objects.registration_by_uris("sip:me@reg.example:5060", "sip:reg.example;transport=tcp");
        assert_eq!(found, ["trunk", "twin"]);
        assert!(objects.registration_by_uris("sip:you@reg.example", "sip:reg.example").is_empty());
    }

    #[test]
    fn a_registration_leaves_by_its_own_transport_or_by_the_first_of_its_protocol() {
        let mut objects = with_registration(registration("sip:reg.example"));
        for (name, of) in
            [("a-tcp", transport("tcp", 3)), ("b-udp", transport("udp", 9)), ("c-udp", transport("udp", 5))]
        {
            objects.transports.insert(name.to_owned(), of);
        }
        let leaves_by = |objects: &Objects| objects.transport_of("trunk").map(|(name, _)| name.to_owned());
        assert_eq!(leaves_by(&objects).as_deref(), Some("c-udp"), "the first in the file");
        objects.transports.get_mut("c-udp").unwrap().bind = Some("[::]:5060".to_owned());
        assert_eq!(leaves_by(&objects).as_deref(), Some("b-udp"), "the first of the family");
        objects.transports.get_mut("c-udp").unwrap().bind = Some("0.0.0.0:5060".to_owned());
        let set = |objects: &mut Objects, change: fn(&mut Registration)| {
            change(objects.registrations.get_mut("trunk").unwrap());
        };
        set(&mut objects, |it| it.outbound_proxy = Some("sip:proxy.example\\;lr\\;transport=tcp".to_owned()));
        assert_eq!(leaves_by(&objects).as_deref(), Some("a-tcp"), "the next hop's");
        set(&mut objects, |it| it.transport = Some("b-udp".to_owned()));
        assert_eq!(leaves_by(&objects).as_deref(), Some("b-udp"), "its own");
        set(&mut objects, |it| it.transport = Some("gone".to_owned()));
        assert_eq!(leaves_by(&objects), None, "no other stands in for one that is missing");
        set(&mut objects, |it| {
            it.transport = None;
            it.outbound_proxy = None;
            it.server_uri = "sips:reg.example".to_owned();
        });
        assert_eq!(leaves_by(&objects), None, "there is no TLS transport");
    }

    #[test]
    fn auths_come_in_the_registrations_order_and_missing_ones_with_them() {
        let mut objects = with_registration(Registration {
            outbound_auth: vec!["z".to_owned(), "typo".to_owned(), "a".to_owned()],
            ..registration("sip:reg.example")
        });
        for name in ["a", "z"] {
            objects.auths.insert(name.to_owned(), Auth { username: Some(name.to_owned()), ..Auth::default() });
        }
        let auths = objects.auths_of("trunk");
        let names: Vec<_> = auths.iter().map(|(name, auth)| (*name, auth.is_some())).collect();
        assert_eq!(names, [("z", true), ("typo", false), ("a", true)]);
        assert!(objects.auths_of("unknown").is_empty());
    }

    #[test]
    fn the_endpoint_is_found_by_name_by_the_wizards_name_and_by_a_shared_auth() {
        let auth = || vec!["auth".to_owned()];
        let mut objects = with_registration(Registration { outbound_auth: auth(), ..registration("sip:reg.example") });
        let again = objects.registrations["trunk"].clone();
        objects.registrations.insert("wizard-reg-0".to_owned(), again);
        let found = |objects: &Objects, name: &str| objects.endpoint_of(name).map(|(name, _)| name.to_owned());
        assert_eq!(found(&objects, "trunk"), None);
        objects.endpoints.insert("sharing".to_owned(), Endpoint { outbound_auth: auth(), ..Endpoint::default() });
        assert_eq!(found(&objects, "trunk").as_deref(), Some("sharing"));
        objects.endpoints.insert("sharing-2".to_owned(), Endpoint { outbound_auth: auth(), ..Endpoint::default() });
        assert_eq!(found(&objects, "trunk"), None, "two share it");
        objects.endpoints.insert("wizard".to_owned(), Endpoint::default());
        objects.endpoints.insert("trunk".to_owned(), Endpoint::default());
        assert_eq!(found(&objects, "wizard-reg-0").as_deref(), Some("wizard"));
        assert_eq!(found(&objects, "trunk").as_deref(), Some("trunk"));
        objects.registrations.get_mut("trunk").unwrap().endpoint = Some("sharing".to_owned());
        assert_eq!(found(&objects, "trunk").as_deref(), Some("sharing"));
        objects.registrations.get_mut("trunk").unwrap().endpoint = Some("gone".to_owned());
        assert_eq!(found(&objects, "trunk"), None, "the one it names is missing");
        assert_eq!(without_wizard_suffix("a-reg-x"), None);
    }

    #[test]
    fn an_identify_admits_its_networks_and_says_which_names_it_leaves_open() {
        let identify = Identify {
            endpoint: Some("trunk".to_owned()),
            matches: ["203.0.113.0/24", "2001:db8::/32", "sip.example"].map(str::to_owned).to_vec(),
            ..Identify::default()
        };
        assert!(identify.admits("203.0.113.77".parse().unwrap()) && identify.admits("2001:db8::5".parse().unwrap()));
        assert!(!identify.admits("203.0.114.1".parse().unwrap()));
        assert_eq!(identify.names().collect::<Vec<_>>(), ["sip.example"]);
        let mut objects = Objects::default();
        objects.identifies.insert("id".to_owned(), identify);
        assert_eq!(objects.identifies_of("trunk").len(), 1);
        assert!(objects.identifies_of("other").is_empty());
    }

    #[test]
    fn local_is_what_the_last_fitting_local_net_says() {
        let nets = |nets: &[&str]| Transport {
            local_net: nets.iter().map(|&net| net.to_owned()).collect(),
            ..Transport::default()
        };
        let with_hole = nets(&["10.0.0.0/8", "!10.1.0.0/16", "10.1.2.0/24"]);
        for (ip, local) in [("10.9.0.1", true), ("10.1.0.1", false), ("10.1.2.1", true), ("192.0.2.1", false)] {
            assert_eq!(with_hole.is_local(ip.parse().unwrap()), local, "{ip}");
        }
        assert!(!nets(&[]).is_local("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_name_is_missing_only_if_all_were_read_or_asterisk_said_so() {
        let mut objects = with_registration(registration("sip:reg.example"));
        assert!(!objects.is_missing(Kind::Transport, "gone"), "nobody knows");
        objects.absent.insert((Kind::Transport, "gone".to_owned()));
        assert!(objects.is_missing(Kind::Transport, "gone") && !objects.is_missing(Kind::Auth, "gone"));
        objects.complete.auths = true;
        assert!(objects.is_missing(Kind::Auth, "gone"));
        objects.complete.registrations = true;
        assert!(!objects.is_missing(Kind::Registration, "trunk"));
    }
}
