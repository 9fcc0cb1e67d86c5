//! SIP URIs and the name-addr form of From, To and Contact (RFC 3261 sections 19.1 and 20.10).

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
    /// The URI's parameters, names lower case.
    pub parameters: Vec<(String, Option<String>)>,
}

impl SipUri {
    /// Reads a URI; `None` if it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let _ = text;
        None
    }

    /// A parameter's value; `Some("")` if it has none.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_deref().unwrap_or_default())
    }
}

/// A value of From, To or Contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameAddr {
    /// The URI as written.
    pub text: String,
    /// The URI, if it is a SIP one.
    pub uri: Option<SipUri>,
    /// The header's parameters (`tag`, `expires`, `q`…), names lower case.
    pub parameters: Vec<(String, Option<String>)>,
}

impl NameAddr {
    /// A parameter's value; `Some("")` if it has none.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_deref().unwrap_or_default())
    }
}
