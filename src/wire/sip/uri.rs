//! SIP URIs and the name-addr form of From, To and Contact (RFC 3261 sections 19.1 and 20.10).

use super::{
    grammar::{self, Binding},
    redact,
};

/// A `sip:` or `sips:` URI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SipUri {
    /// `sip` or `sips`, lower case.
    pub scheme: String,
    /// The user part, unescaped, without a password.
    pub user: Option<String>,
    /// The host, lower case, without brackets.
    pub host: String,
    /// The port, if one is written.
    pub port: Option<u16>,
    /// The URI's parameters, names lower case, values unescaped.
    pub parameters: Vec<(String, Option<String>)>,
}

impl SipUri {
    /// Reads a URI; `None` if it is none. Headers in it (after `?`) are left out.
    ///
    /// The user part is all before the last `@`, because a user name that is a mail address is often written unescaped.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once(':')?;
        let scheme = scheme.to_ascii_lowercase();
        if scheme != "sip" && scheme != "sips" {
            return None;
        }
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, rest)) => {
                let user = user.split_once(':').map_or(user, |(user, _password)| user);
                (Some(grammar::unescape(user).into_owned()), rest)
            }
            None => (None, rest),
        };
        let rest = rest.split_once('?').map_or(rest, |(rest, _headers)| rest);
        let (address, parameters) = rest.split_once(';').unwrap_or((rest, ""));
        let (host, port) = grammar::host_port(address)?;
        let parameters = parameters.split(';').map(str::trim).filter(|part| !part.is_empty());
        let parameters = parameters
            .map(|part| match part.split_once('=') {
                Some((name, value)) => (
                    grammar::unescape(name.trim()).to_ascii_lowercase(),
                    Some(grammar::unescape(value.trim()).into_owned()),
                ),
                None => (grammar::unescape(part).to_ascii_lowercase(), None),
            })
            .collect();
        Some(Self { scheme, user, host, port, parameters })
    }

    /// A parameter's value; `Some("")` if it has none.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_deref().unwrap_or_default())
    }
}

/// A value of From, To or Contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameAddr {
    /// The name shown to people, unquoted.
    pub display: Option<String>,
    /// The URI as written, but for a password in it; the whole value where it cannot be read.
    pub text: String,
    /// The URI, if it is a SIP one.
    pub uri: Option<SipUri>,
    /// The header's parameters (`tag`, `expires`, `q`…), names lower case.
    pub parameters: Vec<(String, Option<String>)>,
}

impl NameAddr {
    /// Reads one value: `"name" <uri>;parameters`, or `uri;parameters`, whose parameters are the header's then.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let text = text.trim();
        let Some(angle) = grammar::find(text, b'<', Binding::Quotes) else {
            let end = grammar::find(text, b';', Binding::Quotes).unwrap_or(text.len());
            let (uri, parameters) = text.split_at(end);
            return Self::of(None, uri, parameters);
        };
        let (display, rest) = text.split_at(angle);
        let rest = rest.get(1..).unwrap_or_default();
        let (uri, parameters) = rest.split_once('>').unwrap_or((rest, ""));
        let display = grammar::unquote(display);
        Self::of(Some(display).filter(|name| !name.is_empty()), uri, parameters)
    }

    fn of(display: Option<String>, uri: &str, parameters: &str) -> Self {
        let uri = uri.trim();
        Self { display, text: redact::text(uri), uri: SipUri::parse(uri), parameters: grammar::parameters(parameters) }
    }

    /// Reads every value of a header's line but `*`.
    pub fn list(line: &str) -> impl Iterator<Item = Self> + '_ {
        grammar::split(line, b',', Binding::QuotesAndAngles)
            .filter(|value| !value.is_empty() && *value != "*")
            .map(Self::parse)
    }

    /// A parameter's value; `Some("")` if it has none.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> SipUri {
        SipUri::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn a_uri_is_read_in_its_parts() {
        let read = uri("SIPS:Alice%20B:s3cret@Example.COM:5071;Transport=TCP;lr?Subject=x&Route=%3Csip:y%3E");
        assert_eq!((read.scheme.as_str(), read.host.as_str(), read.port), ("sips", "example.com", Some(5071)));
        assert_eq!(read.user.as_deref(), Some("Alice B"));
        assert_eq!((read.parameter("transport"), read.parameter("LR")), (Some("TCP"), Some("")));
        assert_eq!(read.parameters.len(), 2);
        assert!(!format!("{read:?}").contains("s3cret"));
    }

    #[test]
    fn ipv6_stands_in_brackets_and_is_kept_without() {
        assert_eq!((uri("sip:[2001:DB8::1]").host.as_str(), uri("sip:[::1]:5060").port), ("2001:db8::1", Some(5060)));
        assert_eq!(uri("sip:bob@[::1]:5062;ob").user.as_deref(), Some("bob"));
    }

    #[test]
    fn a_user_part_may_hold_what_separates_elsewhere() {
        assert_eq!(uri("sip:user;par=u%40example.net@example.com").user.as_deref(), Some("user;par=u@example.net"));
        assert_eq!(uri("sip:what?,/;x@example.com").user.as_deref(), Some("what?,/;x"));
        assert_eq!(uri("sip:me@home.example@carrier.example").host, "carrier.example");
    }

    #[test]
    fn an_escape_that_is_none_stays() {
        assert_eq!(uri("sip:100%zz%4@h").user.as_deref(), Some("100%zz%4"));
        assert_eq!(uri("sip:%FF@h").user.as_deref(), Some("\u{fffd}"));
        assert_eq!(uri("sip:%+1@h").user.as_deref(), Some("%+1"));
    }

    #[test]
    fn what_is_no_sip_uri_is_none() {
        for text in
            ["tel:+1555", "sip:", "sip", "", "sip:h:99999", "sip:h:x", "sip:[::1", "sip:a b", "<sip:h>", "sip:u@"]
        {
            assert_eq!(SipUri::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_display_name_may_hold_quotes_commas_and_brackets() {
        let read = NameAddr::parse(r#""Bell, \"A\" <x>" <sip:a@h;transport=tcp>;tag=1 ; Q = "0.5""#);
        assert_eq!(read.display.as_deref(), Some(r#"Bell, "A" <x>"#));
        assert_eq!(read.text, "sip:a@h;transport=tcp");
        assert_eq!((read.parameter("tag"), read.parameter("q")), (Some("1"), Some("0.5")));
        assert_eq!(read.uri.and_then(|uri| uri.parameter("transport").map(str::to_owned)).as_deref(), Some("tcp"));
    }

    #[test]
    fn without_brackets_the_parameters_are_the_headers() {
        let read = NameAddr::parse("sip:a@h ;tag=x");
        assert_eq!((read.text.as_str(), read.parameter("tag")), ("sip:a@h", Some("x")));
        assert!(read.uri.is_some_and(|uri| uri.parameters.is_empty()));
    }

    #[test]
    fn a_line_of_contacts_is_several() {
        let line = r#""a, b" <sip:1@h>;expires=5, sip:2@h;q=1,<sip:3@h?x=a,b>, *"#;
        let texts: Vec<String> = NameAddr::list(line).map(|contact| contact.text).collect();
        assert_eq!(texts, ["sip:1@h", "sip:2@h", "sip:3@h?x=a,b"]);
    }

    #[test]
    fn a_password_is_in_no_text() {
        assert_eq!(NameAddr::parse("<sip:bob:hunter2@h>").text, "sip:bob:[redacted]@h");
    }

    #[test]
    fn what_cannot_be_read_is_kept_as_text() {
        let read = NameAddr::parse(r#""Mr. J. User <sip:j.user@example.com>"#);
        assert_eq!((read.text.as_str(), read.uri), (r#""Mr. J. User <sip:j.user@example.com>"#, None));
    }
}
