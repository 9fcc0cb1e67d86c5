//! PJSIP objects as AMI lists and the CLI print them.
//!
//! AMI writes every option of an object, also those nobody set, with Asterisk's default; an empty value is an unset
//! one. Names of headers are the options' names in camel case (`res/res_pjsip/pjsip_configuration.c`,
//! `sip_sorcery_object_to_ami`). The order of objects and headers is not defined.
//!
//! Traps: an endpoint's list has `Response: Error` *inside* it for a transport that does not exist, leaves out what
//! would follow, and ends normally; an auth or an AOR that does not exist is left out without a word; one that Asterisk
//! rejected (a typo in it, no password) is as absent as one nobody wrote; the password of an auth comes in clear, that
//! of a TLS key too. What is secret goes into [`Secret`](crate::wire::sip::digest::Secret)s and nowhere else.

use secrecy::ExposeSecret as _;

use super::{
    Kind, Net, Objects,
    fields::{Taken, Wanted, set},
};
use crate::wire::ami::{Message, message::Header};

/// What the console said of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Printed {
    /// It was read.
    Read,
    /// There is none of that name.
    Absent,
    /// The text is another than known.
    NotUnderstood,
}

/// The command that prints all transports, a line each.
pub const SHOW_TRANSPORTS: &str = "pjsip show transports";

/// The command that prints one object of a kind; `None` for a name the console cannot be given.
///
/// A name may have blanks, since the console knows quotes; it may not have what ends those, or a line.
#[must_use]
pub fn show(kind: Kind, name: &str) -> Option<String> {
    let fit = |c: char| !c.is_control() && !matches!(c, '"' | '\'' | '\\');
    if name.is_empty() || name.len() > 255 || name.trim() != name || !name.chars().all(fit) {
        return None;
    }
    Some(if name.contains(char::is_whitespace) {
        format!("pjsip show {kind} \"{name}\"")
    } else {
        format!("pjsip show {kind} {name}")
    })
}

impl Objects {
    /// Takes an item of a list, or an error that came within one; `false` if it is none that is read here.
    ///
    /// An object that comes again replaces the one before.
    pub fn take(&mut self, message: &Message) -> bool {
        let Some(event) = message.event() else { return self.take_error(message) };
        let kind = match event.as_ref() {
            "OutboundRegistrationDetail" => Kind::Registration,
            "AuthDetail" | "AuthList" => Kind::Auth,
            "EndpointDetail" => Kind::Endpoint,
            "AorDetail" | "AorList" => Kind::Aor,
            "IdentifyDetail" => Kind::Identify,
            "TransportDetail" => Kind::Transport,
            _ => return false,
        };
        let Some(name) = message.get_filled("ObjectName") else {
            self.remark(format!("an {event} without ObjectName was left out"));
            return true;
        };
        let options: Vec<_> = message.headers().filter_map(|header| option(kind, &name, &header)).collect();
        self.put(kind, &name, options);
        true
    }

    /// Takes the answer to `PJSIPShowRegistrationsOutbound`: the registrations, and the auths each names.
    ///
    /// `whole` is whether all of it came: only then are the registrations complete, and an auth that one names and that
    /// did not come with it is absent.
    pub fn take_registrations(&mut self, items: &[Message], whole: bool) {
        self.complete.registrations |= whole;
        let names = self.take_all(items, Kind::Registration);
        for name in names.iter().filter(|_| whole) {
            let auths = self.registrations.get(name).map(|it| it.outbound_auth.clone()).unwrap_or_default();
            self.note_absent(Kind::Auth, auths);
        }
    }

    /// Takes the answer to `PJSIPShowEndpoint`: the endpoint, and the objects it names. `injected` are the errors
    /// within it.
    ///
    /// `whole` is whether all of it came. An auth or AOR that did not come with it is absent then, unless an error
    /// within the list had ended it early.
    pub fn take_endpoint(&mut self, items: &[Message], injected: &[Message], whole: bool) {
        let names = self.take_all(items, Kind::Endpoint);
        for error in injected {
            self.take_error(error);
        }
        for name in names.iter().filter(|_| whole && injected.is_empty()) {
            let Some(endpoint) = self.endpoints.get(name).cloned() else { continue };
            self.note_absent(Kind::Auth, [endpoint.auth, endpoint.outbound_auth].concat());
            self.note_absent(Kind::Aor, endpoint.aors);
        }
    }

    /// Takes all items, and gives the names of those of one kind.
    fn take_all(&mut self, items: &[Message], kind: Kind) -> Vec<String> {
        let event = if kind == Kind::Registration { "OutboundRegistrationDetail" } else { "EndpointDetail" };
        for item in items {
            self.take(item);
        }
        let of_kind = items.iter().filter(|item| item.is_event(event));
        of_kind.filter_map(|item| item.get_filled("ObjectName").map(|name| name.into_owned())).collect()
    }

    fn note_absent(&mut self, kind: Kind, names: Vec<String>) {
        for name in names {
            let here = match kind {
                Kind::Auth => self.auths.contains_key(&name),
                Kind::Aor => self.aors.contains_key(&name),
                Kind::Registration | Kind::Endpoint | Kind::Identify | Kind::Transport => true,
            };
            if !here {
                self.absent.insert((kind, name));
            }
        }
    }

    /// Takes an error that names an object Asterisk does not have: `Unable to retrieve transport t`, `… endpoint e`.
    /// `false` if it is another.
    pub fn take_error(&mut self, message: &Message) -> bool {
        if !message.is_error() {
            return false;
        }
        let Some(text) = message.get("Message") else { return false };
        let Some((kind, name)) = text.trim().strip_prefix("Unable to retrieve ").and_then(|rest| rest.split_once(' '))
        else {
            return false;
        };
        let Some(kind) = Kind::ALL.into_iter().find(|known| known.as_str() == kind) else { return false };
        self.absent.insert((kind, name.to_owned()));
        true
    }

    /// Takes what [`show`] printed of one object (`Command`'s response).
    pub fn take_printed(&mut self, kind: Kind, name: &str, response: &Message) -> Printed {
        // Redaction would hide lines that a name like "secret-trunk" is in. What is kept is decided option by option.
        let text = response.expose_output();
        let text = text.expose_secret();
        if text.lines().any(|line| line.trim_start().starts_with("Unable to find object ")) {
            self.absent.insert((kind, name.to_owned()));
            return Printed::Absent;
        }
        let mut lines = text.lines().map(str::trim).skip_while(|line| !line.starts_with("ParameterName")).skip(1);
        let mut options: Vec<(String, String)> = Vec::new();
        for (option, value) in lines.by_ref().filter_map(|line| line.split_once(':')) {
            let (option, value) = (option.trim(), value.trim());
            // A list has a line per item.
            match options.last_mut().filter(|(last, _)| last == option) {
                Some((_, values)) => {
                    values.push(',');
                    values.push_str(value);
                }
                None => options.push((option.to_owned(), value.to_owned())),
            }
        }
        if options.is_empty() {
            return Printed::NotUnderstood;
        }
        self.put(kind, name, options.into_iter().filter(|(_, value)| !value.is_empty()).collect());
        Printed::Read
    }

    /// Takes what [`SHOW_TRANSPORTS`] printed: name, protocol and address of each. `false` if it was not read whole.
    pub fn take_transports(&mut self, response: &Message) -> bool {
        let text = response.expose_output();
        let (mut found, mut rows) = (None, 0_usize);
        for line in text.expose_secret().lines().map(str::trim) {
            if let Some(count) = line.strip_prefix("Objects found:") {
                found = count.trim().parse().ok();
            } else if line.starts_with("No objects found") {
                found = Some(0);
            } else if let Some((name, protocol, bind)) = line.strip_prefix("Transport:").and_then(transport_row) {
                rows += 1;
                let transport = self.transports.entry(name.to_owned()).or_default();
                transport.protocol.get_or_insert_with(|| protocol.to_ascii_lowercase());
                transport.bind.get_or_insert_with(|| bind.to_owned());
                self.absent.remove(&(Kind::Transport, name.to_owned()));
            }
        }
        let whole = found == Some(rows);
        self.complete.transports |= whole;
        whole
    }

    /// Puts an object in the place of the one of its name.
    fn put(&mut self, kind: Kind, name: &str, options: Vec<(String, String)>) {
        self.empty(kind, name);
        self.absent.remove(&(kind, name.to_owned()));
        for (option, value) in &options {
            match set(self, kind, name, option, value) {
                Taken::Yes | Taken::Ignored => {}
                Taken::Unreadable(wanted @ (Wanted::YesOrNo | Wanted::Number)) => self.remark(format!(
                    "{kind} {name}: Asterisk says {option}={value:?}, which is not {}",
                    wanted.as_str()
                )),
                Taken::Unreadable(wanted @ (Wanted::Md5 | Wanted::Digest)) => {
                    self.remark(format!("{kind} {name}: {option} is not {}", wanted.as_str()));
                }
            }
        }
        if kind == Kind::Transport
            && let Some(transport) = self.transports.get_mut(name)
        {
            transport.has_ca_list.get_or_insert(false);
        }
    }

    fn remark(&mut self, remark: String) {
        if !self.remarks.contains(&remark) {
            self.remarks.push(remark);
        }
    }

    /// Puts an empty object in the place of the one of its name.
    fn empty(&mut self, kind: Kind, name: &str) {
        match kind {
            Kind::Registration => drop(self.registrations.insert(name.to_owned(), Default::default())),
            Kind::Auth => drop(self.auths.insert(name.to_owned(), Default::default())),
            Kind::Endpoint => drop(self.endpoints.insert(name.to_owned(), Default::default())),
            Kind::Aor => drop(self.aors.insert(name.to_owned(), Default::default())),
            Kind::Identify => drop(self.identifies.insert(name.to_owned(), Default::default())),
            Kind::Transport => drop(self.transports.insert(name.to_owned(), Default::default())),
        }
    }
}

/// `nat                       udp      0      0  127.0.0.1:20150`: names may have blanks, the columns right of them
/// cannot.
fn transport_row(row: &str) -> Option<(&str, &str, &str)> {
    let column = |rest: &'_ str| rest.trim_end().rfind(char::is_whitespace);
    let mut rest = row.trim();
    let mut columns = [""; 4];
    for slot in columns.iter_mut().rev() {
        let at = column(rest)?;
        (rest, *slot) = (rest[..at].trim_end(), rest[at..].trim());
    }
    let [protocol, cos, tos, bind] = columns;
    // The table's head is `<TransportId…> <Type> <cos> <tos> <BindAddress…>`.
    let numbers = cos.parse::<u32>().is_ok() && tos.parse::<u32>().is_ok();
    (numbers && !rest.is_empty()).then_some((rest, protocol, bind))
}

/// The option a header sets, and its value; `None` for an empty one.
fn option(kind: Kind, name: &str, header: &Header<'_>) -> Option<(String, String)> {
    let mut option = String::new();
    for c in header.name().chars() {
        if c.is_ascii_uppercase() && !option.is_empty() {
            option.push('_');
        }
        option.push(c.to_ascii_lowercase());
    }
    let value = match kind {
        Kind::Auth => header.secret().expose_secret().to_owned(),
        Kind::Registration | Kind::Endpoint | Kind::Aor | Kind::Identify | Kind::Transport => {
            header.value().into_owned()
        }
    };
    let value = match (kind, option.as_str()) {
        // `aor/uri` each; with those that registered themselves.
        (Kind::Aor, "contacts") => {
            let prefix = format!("{name}/");
            option = "contact".to_owned();
            value.strip_prefix(&prefix).unwrap_or(&value).replace(&format!(",{prefix}"), ",")
        }
        (Kind::Identify, "match") | (Kind::Transport, "local_net") => {
            let nets =
                value.split(',').map(|text| Net::parse(text).map_or_else(|| text.to_owned(), |net| net.to_string()));
            nets.collect::<Vec<_>>().join(",")
        }
        (Kind::Registration | Kind::Auth | Kind::Endpoint | Kind::Aor | Kind::Identify | Kind::Transport, _) => value,
    };
    (!value.trim().is_empty()).then_some((option, value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{
        ami::codec::{DecodeLimits, Decoder, Frame},
        pjsip::{Auth, Identify, Transport},
        sip::digest::{Algorithm, Secret},
    };

    const REGISTRATIONS: &str = include_str!("../../../tests/fixtures/pjsip/ami-show-registrations-outbound.txt");
    const ENDPOINT: &str = include_str!("../../../tests/fixtures/pjsip/ami-show-endpoint.txt");
    const WITHOUT: &str = include_str!("../../../tests/fixtures/pjsip/ami-show-endpoint-without-transport.txt");
    const AUTHS: &str = include_str!("../../../tests/fixtures/pjsip/ami-show-auths.txt");
    const TRANSPORT: &str = include_str!("../../../tests/fixtures/pjsip/ami-command-show-transport.txt");
    const TRANSPORTS: &str = include_str!("../../../tests/fixtures/pjsip/ami-command-show-transports.txt");
    const REGISTRATION: &str = include_str!("../../../tests/fixtures/pjsip/ami-command-show-registration.txt");

    /// The messages of a recording, its notes left out.
    fn recorded(text: &str) -> Vec<Message> {
        let mut decoder = Decoder::new(DecodeLimits::default());
        for line in text.lines().filter(|line| !line.starts_with("##")) {
            decoder.feed(line.trim_end_matches('\r').as_bytes());
            decoder.feed(b"\r\n");
        }
        decoder.feed(b"\r\n");
        let mut all = Vec::new();
        while let Some(Frame::Message(message)) = decoder.next_frame().unwrap() {
            all.push(message);
        }
        all
    }

    fn secrets(auth: &Auth) -> Vec<(String, String)> {
        let shown = |secret: &Secret| match secret {
            Secret::Password(word) => ("password".to_owned(), word.expose_secret().to_owned()),
            Secret::Ha1(algorithm, hash) => (format!("{algorithm:?}"), hash.expose_secret().to_owned()),
        };
        auth.secrets.iter().map(shown).collect()
    }

    #[test]
    fn the_recorded_registrations_are_read_with_their_auths() {
        let mut objects = Objects::default();
        objects.take_registrations(&recorded(REGISTRATIONS), true);
        assert_eq!(objects.registrations.keys().collect::<Vec<_>>(), ["odd-reg", "odd2-reg", "odd3-reg"]);
        let odd = &objects.registrations["odd-reg"];
        assert_eq!(odd.client_uri, "sip:odd@127.0.0.1:20201;transport=UDP");
        assert_eq!(odd.server_uri, "sip:127.0.0.1:20201");
        assert_eq!((odd.contact_user.as_deref(), odd.endpoint.as_deref()), (Some("odd2"), Some("odd")));
        assert_eq!(odd.outbound_proxy.as_deref(), Some("sip:127.0.0.1:20201;lr"));
        assert_eq!((odd.line, odd.auth_rejection_permanent), (Some(true), Some(true)));
        assert_eq!((odd.retry_interval, odd.forbidden_retry_interval, odd.max_retries), (Some(20), Some(0), Some(10)));
        assert_eq!((odd.expiration, odd.fatal_retry_interval), (Some(3600), Some(0)));
        let auths: Vec<_> =
            objects.auths_of("odd-reg").into_iter().map(|(name, auth)| (name, auth.is_some())).collect();
        assert_eq!(auths, [("odd-auth", true), ("missing-auth", false)]);
        assert!(objects.is_missing(Kind::Auth, "missing-auth") && !objects.is_missing(Kind::Auth, "odd-auth"));
        let own = &objects.registrations["odd2-reg"];
        assert_eq!((own.contact_user.as_deref(), own.endpoint.as_deref(), own.line), (None, None, Some(false)));
        assert!(objects.complete.registrations && objects.remarks.is_empty(), "{:?}", objects.remarks);

        let mut part = Objects::default();
        part.take_registrations(&recorded(REGISTRATIONS), false);
        assert!(!part.is_missing(Kind::Auth, "missing-auth") && !part.complete.registrations);
    }

    #[test]
    fn the_recorded_auths_have_their_secrets_in_order_and_none_can_be_printed() {
        let mut objects = Objects::default();
        for item in recorded(AUTHS) {
            objects.take(&item);
        }
        let md5 = |hash: &str| ("Md5".to_owned(), hash.to_owned());
        let known = secrets(&objects.auths["both"]);
        assert_eq!(known, [md5("00112233445566778899aabbccddeeff"), ("password".to_owned(), "a-password".to_owned())]);
        assert_eq!(secrets(&objects.auths["both2"]), [("password".to_owned(), "semi;colon".to_owned())]);
        assert_eq!(objects.auths["both2"].username.as_deref(), Some("both;2"));
        assert_eq!(secrets(&objects.auths["md5-auth"]), [md5("0123456789abcdef0123456789abcdef")]);
        let two = &objects.auths["two-digests"];
        let algorithms =
            |auth: &Auth| auth.secrets.iter().filter(|it| matches!(it, Secret::Ha1(Algorithm::Sha256, _))).count();
        assert_eq!((algorithms(two), two.secrets.len()), (1, 2));
        assert_eq!(two.supported_algorithms_uac, ["SHA-256", "MD5"]);
        assert_eq!((two.realm.as_deref(), objects.auths["odd-auth"].realm.as_deref()), (None, Some("lab.example")));
        let shown = format!("{objects:?}");
        for secret in ["a-password", "semi;colon", "00112233", "01234567"] {
            assert!(!shown.contains(secret), "{secret}: {shown}");
        }
    }

    #[test]
    fn the_recorded_endpoint_is_read_with_all_that_belongs_to_it() {
        let mut objects = Objects::default();
        objects.take_endpoint(&recorded(ENDPOINT), &[], true);
        let odd = &objects.endpoints["odd"];
        assert_eq!((odd.transport.as_deref(), odd.from_domain.as_deref()), (Some("nat"), Some("x.example")));
        assert_eq!(
            (&odd.aors[..], &odd.auth[..], &odd.outbound_auth[..]),
            (&["odd".to_owned()][..], &["md5-auth".to_owned()][..], &["odd-auth".to_owned()][..])
        );
        assert_eq!((odd.rewrite_contact, odd.force_rport), (Some(true), Some(false)));
        assert_eq!((odd.rtp_symmetric, odd.direct_media), (Some(false), Some(true)));
        assert_eq!(
            (odd.media_address.as_deref(), odd.identify_by.as_deref()),
            (Some("192.0.2.9"), Some("username,ip"))
        );
        assert_eq!((odd.from_user.as_deref(), odd.outbound_proxy.as_deref()), (None, None));
        let mut contacts = objects.aors["odd"].contacts.clone();
        contacts.sort();
        assert_eq!(contacts, ["sip:127.0.0.1:20201", "sip:127.0.0.2:20201"]);
        assert_eq!(objects.aors["odd"].qualify_frequency, Some(30));
        let identify = &objects.identifies["odd-identify"];
        assert_eq!(identify.matches, ["203.0.113.7/32", "198.51.100.0/24", "2001:db8::/32", "127.0.0.1/32"]);
        assert_eq!(identify.match_header.as_deref(), Some("X-Trunk: odd"));
        assert!(identify.admits("2001:db8::7".parse().unwrap()) && !identify.admits("192.0.2.1".parse().unwrap()));
        assert_eq!(objects.identifies_of("odd").len(), 2);
        assert_nat(&objects.transports["nat"]);
        assert!(objects.remarks.is_empty(), "{:?}", objects.remarks);
        assert!(objects.auths.contains_key("md5-auth") && objects.auths.contains_key("odd-auth"));
        assert!(objects.absent.is_empty(), "{:?}", objects.absent);
    }

    fn assert_nat(nat: &Transport) {
        assert_eq!((nat.protocol.as_deref(), nat.bind.as_deref()), (Some("udp"), Some("127.0.0.1:20350")));
        assert_eq!(nat.external_signaling_address.as_deref(), Some("198.51.100.7"));
        assert_eq!(
            (nat.external_signaling_port, nat.external_media_address.as_deref()),
            (Some(5099), Some("198.51.100.8"))
        );
        assert_eq!((nat.verify_server, nat.has_ca_list), (Some(false), Some(false)));
        assert!(nat.is_local("192.168.3.4".parse().unwrap()) && !nat.is_local("198.51.100.9".parse().unwrap()));
    }

    #[test]
    fn a_transport_that_does_not_exist_ends_the_list_early_and_proves_nothing_of_the_rest() {
        let all = recorded(WITHOUT);
        let of = |id: &str| {
            let (items, injected): (Vec<_>, Vec<_>) = all
                .iter()
                .filter(|message| message.action_id().is_some_and(|own| own == id))
                .cloned()
                .partition(|message| message.event().is_some());
            (items, injected.into_iter().filter(Message::is_error).collect::<Vec<_>>())
        };
        let mut objects = Objects::default();
        let (items, injected) = of("3");
        assert_eq!(injected.len(), 2);
        objects.take_endpoint(&items, &injected, true);
        assert_eq!(objects.endpoints["gone"].transport.as_deref(), Some("not-there"));
        let absent = |objects: &Objects| objects.absent.iter().cloned().collect::<Vec<_>>();
        assert_eq!(absent(&objects), [(Kind::Transport, "not-there".to_owned())]);

        let mut objects = Objects::default();
        let (items, injected) = of("4");
        objects.take_endpoint(&items, &injected, true);
        assert_eq!(absent(&objects), [(Kind::Auth, "gone-auth".to_owned()), (Kind::Aor, "gone-aor".to_owned())]);

        let (_, refusal) = of("5");
        assert!(objects.take_error(&refusal[0]) && objects.is_missing(Kind::Endpoint, "nowhere"));
        assert!(!objects.take(&Message::from_text("Response: Error\nMessage: Permission denied\n")));
    }

    #[test]
    fn printed_transports_are_read_to_the_last_option() {
        let all = recorded(TRANSPORT);
        let mut objects = Objects::default();
        assert_eq!(objects.take_printed(Kind::Transport, "nat", &all[0]), Printed::Read);
        assert_nat(&objects.transports["nat"]);
        assert_eq!(objects.transports["nat"].local_net, ["10.0.0.0/255.0.0.0", "192.168.0.0/255.255.0.0"]);
        assert_eq!(objects.take_printed(Kind::Transport, "tls-b", &all[1]), Printed::Read);
        let tls = &objects.transports["tls-b"];
        assert_eq!((tls.verify_server, tls.has_ca_list, tls.external_signaling_port), (Some(true), Some(true), None));
        assert_eq!(objects.take_printed(Kind::Transport, "name with space", &all[2]), Printed::Read);
        assert_eq!(objects.take_printed(Kind::Transport, "nope", &all[3]), Printed::Absent);
        assert!(objects.is_missing(Kind::Transport, "nope"));
        let long = "a-very-long-transport-name-that-does-not-fit-the-column";
        assert_eq!(objects.take_printed(Kind::Transport, long, &all[4]), Printed::Read);
        assert_eq!(objects.transports[long].bind.as_deref(), Some("[::1]:20361"));
        let other = Message::from_text("Response: Error\nOutput: No such command\n");
        assert_eq!(objects.take_printed(Kind::Transport, "x", &other), Printed::NotUnderstood);
        assert!(objects.remarks.is_empty(), "{:?}", objects.remarks);
    }

    #[test]
    fn the_password_of_a_tls_key_goes_nowhere() {
        let printed = "Response: Success\nOutput:  ParameterName : ParameterValue\nOutput:  =====\nOutput:  password : hush\nOutput:  protocol : tls\n";
        let mut objects = Objects::default();
        objects.take_printed(Kind::Transport, "t", &Message::from_text(printed));
        objects
            .take(&Message::from_text("Event: TransportDetail\nObjectName: u\nPassword: hush\nVerifyServer: hush\n"));
        assert_eq!(objects.transports.len(), 2);
        assert!(!format!("{:?}", objects.transports).contains("hush"));
    }

    #[test]
    fn the_table_of_transports_is_read_whole_whatever_their_names() {
        let all = recorded(TRANSPORTS);
        let mut objects = Objects::default();
        assert!(objects.take_transports(&all[0]) && objects.complete.transports);
        let rows: Vec<_> =
            objects.transports.iter().map(|(name, it)| (name.as_str(), it.protocol.as_deref())).collect();
        assert_eq!(
            rows,
            [
                ("a-very-long-transport-name-that-does-not-fit-the-column", Some("udp")),
                ("name with space", Some("udp")),
                ("nat", Some("udp")),
                ("tcp", Some("tcp")),
                ("tls", Some("tls")),
                ("tls-b", Some("tls")),
                ("udp", Some("udp")),
            ]
        );
        let mut short = Objects::default();
        let cut = Message::from_text(
            "Response: Success\nOutput: Transport:  udp   udp   0   0  127.0.0.1:5060\nOutput: Objects found: 2\n",
        );
        assert!(!short.take_transports(&cut) && !short.complete.transports && short.transports.len() == 1);
        let none = Message::from_text("Response: Success\nOutput: No objects found.\n");
        assert!(Objects::default().take_transports(&none));
    }

    #[test]
    fn the_printed_registration_is_the_listed_one() {
        let (mut listed, mut printed) = (Objects::default(), Objects::default());
        listed.take_registrations(&recorded(REGISTRATIONS), true);
        let all = recorded(REGISTRATION);
        assert_eq!(printed.take_printed(Kind::Registration, "odd-reg", &all[0]), Printed::Read);
        assert_eq!(printed.registrations["odd-reg"], listed.registrations["odd-reg"]);
        assert_eq!(printed.take_printed(Kind::Registration, "nope", &all[1]), Printed::Absent);
    }

    #[test]
    fn an_odd_value_is_left_out_with_a_remark_that_shows_no_secret() {
        let mut objects = Objects::default();
        let text =
            "Event: OutboundRegistrationDetail\nObjectName: r\nLine: perhaps\nMaxRetries: many\nClientUri: sip:a@b\n";
        assert!(objects.take(&Message::from_text(text)));
        let auth = "Event: AuthDetail\nObjectName: a\nMd5Cred: hush\nPasswordDigest: MD5-hush\nPassword: hush\n";
        assert!(objects.take(&Message::from_text(auth)));
        assert!(objects.take(&Message::from_text("Event: AorDetail\n")), "without a name");
        assert_eq!((objects.registrations["r"].line, objects.registrations["r"].max_retries), (None, None));
        assert_eq!(objects.remarks.len(), 5, "{:?}", objects.remarks);
        assert!(objects.remarks[0].contains("yes or no") && objects.remarks[0].contains("perhaps"));
        assert!(!format!("{objects:?}").contains("hush"), "{:?}", objects.remarks);
        assert!(!objects.take(&Message::from_text("Event: ContactStatusDetail\nURI: sip:a\n")));
    }

    #[test]
    fn an_object_that_comes_again_replaces_the_one_before() {
        let mut objects = Objects::default();
        let item = |nets: &str| Message::from_text(&format!("Event: IdentifyDetail\nObjectName: i\nMatch: {nets}\n"));
        objects.take(&item("192.0.2.1/255.255.255.255"));
        objects.take(&item("192.0.2.2/255.255.255.255,sip.example"));
        let matches = ["192.0.2.2/32", "sip.example"].map(str::to_owned).to_vec();
        assert_eq!(objects.identifies["i"], Identify { matches, ..Identify::default() });
    }

    #[test]
    fn no_name_gives_the_console_another_command() {
        assert_eq!(show(Kind::Transport, "udp").as_deref(), Some("pjsip show transport udp"));
        assert_eq!(show(Kind::Registration, "my trunk").as_deref(), Some("pjsip show registration \"my trunk\""));
        let long = "x".repeat(256);
        for name in ["", " ", " a", "a\nAction: Originate", "a\r", "a\0", "a\"b", "a\\", "'a'", "a\u{85}b", &long] {
            assert_eq!(show(Kind::Transport, name), None, "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn any_message_is_taken_or_not_and_no_secret_is_printed(
            event in prop::sample::select(vec!["AuthDetail", "AuthList", "TransportDetail", "AorDetail", "IdentifyDetail", "EndpointDetail", "OutboundRegistrationDetail"]),
            fields in prop::collection::vec(("[A-Z][a-z]{0,9}([A-Z][a-z]{0,9}){0,2}|Password|Md5Cred|PasswordDigest|Match|Contacts|LocalNet", "[ -~]{0,30}"), 0..8),
        ) {
            let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
            let mut objects = Objects::default();
            let secret = "PasswordDigest: MD5:zzsecretzz\nPassword: zzsecretzz\n";
            let message = Message::from_text(&format!("Event: {event}\nObjectName: x\n{secret}{lines}"));
            prop_assert!(objects.take(&message));
            let shown = format!("{objects:?}");
            prop_assert!(!shown.contains("zzsecretzz"));
        }

        #[test]
        fn any_text_of_the_console_is_read_or_not_understood(text in "[ -~\n]{0,200}") {
            let lines: String = text.lines().map(|line| format!("Output: {line}\n")).collect();
            let message = Message::from_text(&format!("Response: Success\n{lines}"));
            let mut objects = Objects::default();
            for kind in Kind::ALL {
                let _ = objects.take_printed(kind, "x", &message);
            }
            let _ = objects.take_transports(&message);
        }
    }
}
