//! Whether two SIP URIs of a configuration mean the same, and which protocol one asks for.
//!
//! Separate from the parser of URIs in messages because these come from people and events: with `\;` as a file writes
//! it, perhaps in angle brackets, and one that cannot be read still equals itself. Parameters that differ make a
//! difference, also one that is there and one that is left out: what Asterisk does with them differs.

/// Whether both are the same URI, written twice: the case of scheme, host and parameters, a default port, the order of
/// parameters, `\;` and angle brackets do not count.
#[must_use]
pub fn same_uri(one: &str, other: &str) -> bool {
    one == other || normal(one) == normal(other)
}

/// The protocol a URI asks for: `udp`, `tcp`, `tls`, `ws`, `wss`, or what its `transport` says, lower case. Without a
/// `transport`, `sips:` is `tls` and `sip:` is `udp`.
#[must_use]
pub fn protocol_of(uri: &str) -> String {
    let parts = Parts::of(uri);
    match parts.parameters.iter().find_map(|parameter| parameter.strip_prefix("transport=")) {
        Some(transport) => transport.to_owned(),
        None if parts.scheme == "sips" => "tls".to_owned(),
        None => "udp".to_owned(),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Parts {
    scheme: String,
    user: Option<String>,
    host: String,
    port: Option<String>,
    /// Lower case, sorted.
    parameters: Vec<String>,
    headers: Option<String>,
}

impl Parts {
    fn of(text: &str) -> Self {
        let text = text.trim().replace("\\;", ";");
        let text = match text.split_once('<') {
            Some((_, rest)) => rest.split_once('>').map_or(rest, |(uri, _)| uri),
            None => text.as_str(),
        };
        let (scheme, rest) = text.split_once(':').unwrap_or(("", text));
        // The user may contain `;` and `?`, the host cannot contain `@`.
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, rest)) => (Some(user.to_owned()), rest),
            None => (None, rest),
        };
        let (rest, headers) = match rest.split_once('?') {
            Some((rest, headers)) => (rest, Some(headers.to_owned())),
            None => (rest, None),
        };
        let mut pieces = rest.split(';');
        let host = pieces.next().unwrap_or_default().trim().to_ascii_lowercase();
        let mut parameters: Vec<String> =
            pieces.map(|piece| piece.trim().to_ascii_lowercase()).filter(|piece| !piece.is_empty()).collect();
        parameters.sort();
        // An IPv6 address has its colons within brackets.
        let name_end = host.rfind(']').unwrap_or(0);
        let (host, port) = match host[name_end..].find(':') {
            Some(colon) => (host[..name_end + colon].to_owned(), Some(host[name_end + colon + 1..].to_owned())),
            None => (host, None),
        };
        let host = host.strip_suffix('.').map(str::to_owned).unwrap_or(host);
        Self { scheme: scheme.trim().to_ascii_lowercase(), user, host, port, parameters, headers }
    }
}

fn normal(text: &str) -> Parts {
    let mut parts = Parts::of(text);
    let tls = parts.scheme == "sips" || parts.parameters.iter().any(|parameter| parameter == "transport=tls");
    if parts.port.as_deref() == Some(if tls { "5061" } else { "5060" }) {
        parts.port = None;
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_means_the_same_is_the_same() {
        for (one, other) in [
            ("sip:a@reg.example", "SIP:a@REG.example:5060"),
            ("sips:a@reg.example", "sips:a@reg.example:5061"),
            ("sip:reg.example\\;transport=tls", "sip:reg.example:5061;transport=TLS"),
            ("sip:reg.example;lr;transport=tcp", "sip:reg.example;Transport=tcp;lr"),
            ("<sip:reg.example;lr>", "sip:reg.example\\;lr"),
            ("\"Name\" <sip:a@b>", "sip:a@b"),
            ("sip:[2001:DB8::1]:5060", "sip:[2001:db8::1]"),
            ("sip:a@reg.example.", "sip:a@reg.example"),
            ("no uri at all", "no uri at all"),
        ] {
            assert!(same_uri(one, other), "{one} {other}");
        }
    }

    #[test]
    fn what_means_another_is_another() {
        for (one, other) in [
            ("sip:a@reg.example", "sip:A@reg.example"),
            ("sip:a@reg.example", "sip:b@reg.example"),
            ("sip:a@reg.example", "sip:reg.example"),
            ("sip:a@reg.example", "sips:a@reg.example"),
            ("sip:reg.example", "sip:reg.example:5061"),
            ("sip:reg.example;transport=tls", "sip:reg.example:5060;transport=tls"),
            ("sip:reg.example", "sip:reg.example;transport=tcp"),
            ("sip:[2001:db8::1]", "sip:[2001:db8::2]"),
            ("", "sip:"),
        ] {
            assert!(!same_uri(one, other), "{one} {other}");
        }
    }

    #[test]
    fn the_protocol_is_that_of_the_parameter_or_the_scheme() {
        for (uri, protocol) in [
            ("sip:reg.example", "udp"),
            ("sips:reg.example", "tls"),
            ("sip:a@reg.example:5061\\;transport=TLS", "tls"),
            ("sip:reg.example;lr;transport=tcp", "tcp"),
            ("<sip:reg.example;transport=wss>", "wss"),
            ("", "udp"),
        ] {
            assert_eq!(protocol_of(uri), protocol, "{uri}");
        }
    }

    proptest! {
        #[test]
        fn any_text_equals_itself_and_the_order_asked_in_does_not_matter(one: String, other: String) {
            prop_assert!(same_uri(&one, &one));
            prop_assert_eq!(same_uri(&one, &other), same_uri(&other, &one));
            let _ = protocol_of(&one);
        }
    }
}
