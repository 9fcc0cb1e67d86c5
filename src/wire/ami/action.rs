//! Requests to Asterisk, written so that no value can become a header or a second request.
//!
//! Separate from the client so that what is sent can be tested without a connection. AMI has no escaping, so CR, LF and
//! NUL are refused, as is what Asterisk would not read: its limits are a line of 1024 bytes and 128 headers
//! (`main/manager.c`, `include/asterisk/manager.h`; seen on 22.10: 1024 and 128 pass, 1025 and 129 do not).

use std::fmt;

use bytes::{BufMut as _, BytesMut};
use secrecy::{ExposeSecret as _, SecretString};
use thiserror::Error;

use super::message::{REDACTED, is_secret_name};

/// The longest line Asterisk reads, its CRLF included.
pub const LINE_LIMIT: usize = 1024;
/// The most headers Asterisk reads, `Action` and `ActionID` included.
pub const HEADER_LIMIT: usize = 128;
/// The longest `ActionID` we use: handlers in Asterisk copy it through buffers of 150 to 256 bytes.
pub const ACTION_ID_LIMIT: usize = 63;

/// A request that cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ActionError {
    /// CR, LF or NUL: it would end the header and begin another.
    #[error("the value of {field} contains {byte:#04x}, which would end the header")]
    ForbiddenByte {
        /// The header.
        field: String,
        /// The byte.
        byte: u8,
    },
    /// Not a name Asterisk would take for the same header.
    #[error("{field:?} is no header name")]
    BadName {
        /// The name, escaped.
        field: String,
    },
    /// `Action` and `ActionID` are written by [`Action::new`] and the session.
    #[error("{field} is set by the client itself")]
    Reserved {
        /// The name.
        field: String,
    },
    /// Asterisk reads lines of 1024 bytes at most.
    #[error("the line of {field} would have {bytes} bytes, Asterisk reads {LINE_LIMIT}")]
    LineTooLong {
        /// The header.
        field: String,
        /// Its length with CRLF.
        bytes: usize,
    },
    /// Asterisk reads 128 headers at most.
    #[error("an action has at most {HEADER_LIMIT} headers")]
    TooManyHeaders,
    /// An `ActionID` longer than [`ACTION_ID_LIMIT`].
    #[error("an ActionID has at most {ACTION_ID_LIMIT} bytes")]
    ActionIdTooLong,
}

/// A request, checked header by header. The session adds the `ActionID`.
#[derive(Clone)]
pub struct Action {
    name: String,
    headers: Vec<Field>,
}

#[derive(Clone)]
struct Field {
    name: String,
    value: SecretString,
    hidden: bool,
}

impl Action {
    /// A request without headers.
    ///
    /// # Errors
    /// [`ActionError`] when the name contains what would end the header, or is empty.
    pub fn new(name: &str) -> Result<Self, ActionError> {
        if name.is_empty() || name.trim() != name {
            return Err(ActionError::BadName { field: name.escape_default().to_string() });
        }
        check_line("Action", name)?;
        Ok(Self { name: name.to_owned(), headers: Vec::new() })
    }

    /// Adds a header; repeating a name is allowed.
    ///
    /// # Errors
    /// [`ActionError`], naming the header.
    pub fn with(self, name: &str, value: &str) -> Result<Self, ActionError> {
        self.with_field(name, &SecretString::from(value), is_secret_name(name.as_bytes()))
    }

    /// Adds a header whose value must not be printed.
    ///
    /// Values of headers with a secret name (`Secret`, `Key`, `Password`, …) are never printed, whichever way they came.
    ///
    /// # Errors
    /// [`ActionError`], naming the header.
    pub fn with_secret(self, name: &str, value: &SecretString) -> Result<Self, ActionError> {
        self.with_field(name, value, true)
    }

    fn with_field(mut self, name: &str, value: &SecretString, hidden: bool) -> Result<Self, ActionError> {
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':') {
            return Err(ActionError::BadName { field: name.escape_default().to_string() });
        }
        if name.eq_ignore_ascii_case("Action") || name.eq_ignore_ascii_case("ActionID") {
            return Err(ActionError::Reserved { field: name.to_owned() });
        }
        check_line(name, value.expose_secret())?;
        // Two are taken: Action and ActionID.
        if self.headers.len() + 2 >= HEADER_LIMIT {
            return Err(ActionError::TooManyHeaders);
        }
        self.headers.push(Field { name: name.to_owned(), value: value.clone(), hidden });
        Ok(self)
    }

    /// The action's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bytes to send, the blank line at the end included.
    ///
    /// # Errors
    /// [`ActionError`] if the id cannot be written.
    pub fn encode(&self, action_id: &str) -> Result<BytesMut, ActionError> {
        check_line("ActionID", action_id)?;
        if action_id.len() > ACTION_ID_LIMIT {
            return Err(ActionError::ActionIdTooLong);
        }
        let mut bytes = BytesMut::with_capacity(128);
        put(&mut bytes, "Action", &self.name);
        put(&mut bytes, "ActionID", action_id);
        for field in &self.headers {
            put(&mut bytes, &field.name, field.value.expose_secret());
        }
        bytes.put_slice(b"\r\n");
        Ok(bytes)
    }

    /// `Ping`: answered at once by a session that lives.
    #[must_use]
    pub fn ping() -> Self {
        Self::plain("Ping", &[])
    }

    /// `Challenge`: asks for the number an MD5 login is made with.
    #[must_use]
    pub fn challenge() -> Self {
        Self::plain("Challenge", &[("AuthType", "MD5")])
    }

    /// `CoreSettings`: versions and the system's name. Class system or reporting.
    #[must_use]
    pub fn core_settings() -> Self {
        Self::plain("CoreSettings", &[])
    }

    /// `CoreStatus`: when Asterisk was started and reloaded. Class system or reporting.
    #[must_use]
    pub fn core_status() -> Self {
        Self::plain("CoreStatus", &[])
    }

    /// `ListCommands`: the actions this user may run.
    #[must_use]
    pub fn list_commands() -> Self {
        Self::plain("ListCommands", &[])
    }

    /// `Logoff`.
    #[must_use]
    pub fn logoff() -> Self {
        Self::plain("Logoff", &[])
    }

    /// `PJSIPShowRegistrationsOutbound`: a list of `OutboundRegistrationDetail` and `AuthDetail`. Class system or reporting.
    #[must_use]
    pub fn show_registrations_outbound() -> Self {
        Self::plain("PJSIPShowRegistrationsOutbound", &[])
    }

    /// `PJSIPShowEndpoints`: a list of `EndpointList`; without any endpoint, an error. Class system.
    #[must_use]
    pub fn show_endpoints() -> Self {
        Self::plain("PJSIPShowEndpoints", &[])
    }

    /// `PJSIPShowContacts`: a list of `ContactList`; without any contact, an error. Class system.
    #[must_use]
    pub fn show_contacts() -> Self {
        Self::plain("PJSIPShowContacts", &[])
    }

    /// `IAXregistry`: a list of `RegistryEntry`. Class system or reporting.
    #[must_use]
    pub fn iax_registry() -> Self {
        Self::plain("IAXregistry", &[])
    }

    /// `PJSIPShowEndpoint`: one endpoint with its auths, AORs, contacts, identifies. Class system.
    ///
    /// # Errors
    /// [`ActionError`] when the name cannot be written.
    pub fn show_endpoint(endpoint: &str) -> Result<Self, ActionError> {
        Self::new("PJSIPShowEndpoint")?.with("Endpoint", endpoint)
    }

    /// `PJSIPRegister`: an un-REGISTER, then a REGISTER; success means "queued". Class system or reporting.
    ///
    /// # Errors
    /// [`ActionError`] when the name cannot be written.
    pub fn pjsip_register(registration: &str) -> Result<Self, ActionError> {
        Self::new("PJSIPRegister")?.with("Registration", registration)
    }

    /// `PJSIPQualify`: an OPTIONS to every contact of the endpoint. Class system or reporting.
    ///
    /// # Errors
    /// [`ActionError`] when the name cannot be written.
    pub fn pjsip_qualify(endpoint: &str) -> Result<Self, ActionError> {
        Self::new("PJSIPQualify")?.with("Endpoint", endpoint)
    }

    /// `Command`: a line for the CLI. Class command.
    ///
    /// # Errors
    /// [`ActionError`] when the line cannot be written.
    pub fn command(line: &str) -> Result<Self, ActionError> {
        Self::new("Command")?.with("Command", line)
    }

    /// `ModuleCheck`: whether a module is loaded. Class system.
    ///
    /// # Errors
    /// [`ActionError`] when the name cannot be written.
    pub fn module_check(module: &str) -> Result<Self, ActionError> {
        Self::new("ModuleCheck")?.with("Module", module)
    }

    /// `DBPut`: an entry of AstDB, which survives a restart. Class system.
    ///
    /// # Errors
    /// [`ActionError`] when a part cannot be written.
    pub fn db_put(family: &str, key: &str, value: &str) -> Result<Self, ActionError> {
        Self::new("DBPut")?.with("Family", family)?.with("Key", key)?.with("Val", value)
    }

    /// `DBDel`: removes an entry of AstDB. Class system.
    ///
    /// # Errors
    /// [`ActionError`] when a part cannot be written.
    pub fn db_del(family: &str, key: &str) -> Result<Self, ActionError> {
        Self::new("DBDel")?.with("Family", family)?.with("Key", key)
    }

    /// `Setvar` without a channel: a global variable or a function such as `DEVICE_STATE(Custom:x)`. Class call.
    ///
    /// # Errors
    /// [`ActionError`] when a part cannot be written.
    pub fn set_global(variable: &str, value: &str) -> Result<Self, ActionError> {
        Self::new("Setvar")?.with("Variable", variable)?.with("Value", value)
    }

    /// An action of constants known to be writable.
    pub(super) fn plain(name: &'static str, headers: &[(&'static str, &'static str)]) -> Self {
        let field =
            |(name, value): &(&str, &str)| Field { name: (*name).to_owned(), value: (*value).into(), hidden: false };
        Self { name: name.to_owned(), headers: headers.iter().map(field).collect() }
    }
}

impl fmt::Debug for Action {
    /// Values of headers with a secret name are replaced.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Action");
        shown.field("Action", &self.name);
        for field in &self.headers {
            let value = if field.hidden { REDACTED } else { field.value.expose_secret() };
            shown.field(&field.name, &value);
        }
        shown.finish()
    }
}

fn put(bytes: &mut BytesMut, name: &str, value: &str) {
    bytes.put_slice(name.as_bytes());
    bytes.put_slice(b": ");
    bytes.put_slice(value.as_bytes());
    bytes.put_slice(b"\r\n");
}

fn check_line(field: &str, value: &str) -> Result<(), ActionError> {
    if let Some(byte) = value.bytes().find(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        return Err(ActionError::ForbiddenByte { field: field.to_owned(), byte });
    }
    let bytes = field.len() + ": ".len() + value.len() + "\r\n".len();
    if bytes > LINE_LIMIT {
        return Err(ActionError::LineTooLong { field: field.to_owned(), bytes });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::codec::{DecodeLimits, Decoder, Frame};
    use super::*;

    fn wire(action: &Action) -> String {
        String::from_utf8(action.encode("id").unwrap().to_vec()).unwrap()
    }

    #[test]
    fn an_action_is_written_with_its_id_first() {
        let action = Action::pjsip_qualify("airtel").unwrap();
        assert_eq!(wire(&action), "Action: PJSIPQualify\r\nActionID: id\r\nEndpoint: airtel\r\n\r\n");
    }

    #[test]
    fn what_would_end_a_header_is_refused_by_name() {
        for (byte, text) in [(b'\r', "a\rb"), (b'\n', "a\nAction: Originate"), (0, "a\0b")] {
            let refused = |field: &str| ActionError::ForbiddenByte { field: field.to_owned(), byte };
            assert_eq!(Action::pjsip_register(text).unwrap_err(), refused("Registration"));
            assert_eq!(Action::ping().encode(text).unwrap_err(), refused("ActionID"));
            assert_eq!(Action::new(text).unwrap_err(), refused("Action"));
        }
    }

    #[test]
    fn names_that_would_be_another_header_are_refused() {
        for name in ["", "A b", "A:", "A\r\nB", "\u{e9}", " A"] {
            assert!(matches!(Action::ping().with(name, "x"), Err(ActionError::BadName { .. })), "{name:?}");
        }
        assert!(matches!(Action::ping().with("actionid", "x"), Err(ActionError::Reserved { .. })));
        assert!(matches!(Action::new("Ping "), Err(ActionError::BadName { .. })), "blanks become part of the action");
    }

    #[test]
    fn lines_and_headers_end_where_asterisk_stops_reading() {
        let line = |bytes: usize| Action::command(&"x".repeat(bytes - "Command: \r\n".len()));
        assert!(line(1024).is_ok());
        assert_eq!(line(1025).unwrap_err(), ActionError::LineTooLong { field: "Command".to_owned(), bytes: 1025 });
        let many = |count: usize| (2..count).try_fold(Action::ping(), |action, _| action.with("Variable", "a=b"));
        assert_eq!(wire(&many(128).unwrap()).lines().count(), 129, "128 headers and the blank line");
        assert_eq!(many(129).unwrap_err(), ActionError::TooManyHeaders);
        assert_eq!(Action::ping().encode(&"x".repeat(64)).unwrap_err(), ActionError::ActionIdTooLong);
    }

    #[test]
    fn secrets_are_written_but_never_printed() {
        let action = Action::new("Login").unwrap().with("Secret", "hush").unwrap();
        let action = action.with_secret("Other", &"hush".into()).unwrap().with("Username", "u").unwrap();
        assert!(wire(&action).contains("Secret: hush\r\nOther: hush\r\n"));
        let printed = format!("{action:?}");
        assert!(!printed.contains("hush") && printed.contains("\"u\""), "{printed}");
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(
            headers in prop::collection::vec(("[A-Za-z][A-Za-z0-9-]{0,12}", "[ -~\u{e9}\u{4e2d}]{0,60}"), 0..20),
        ) {
            let mut action = Action::new("Test").unwrap();
            let mut expected = vec![("Action".to_owned(), "Test".to_owned()), ("ActionID".to_owned(), "id".to_owned())];
            for (name, value) in headers {
                if name.eq_ignore_ascii_case("Action") || name.eq_ignore_ascii_case("ActionID") { continue; }
                action = action.with(&name, &value).unwrap();
                expected.push((name, value));
            }
            let mut decoder = Decoder::new(DecodeLimits::default());
            decoder.feed(&action.encode("id").unwrap());
            let Ok(Some(Frame::Message(message))) = decoder.next_frame() else { panic!("one message") };
            let read: Vec<_> = message
                .headers()
                .map(|header| (header.name().into_owned(), header.secret().expose_secret().to_owned()))
                .collect();
            prop_assert_eq!(read, expected);
            prop_assert_eq!(decoder.pending_bytes(), 0);
        }

        #[test]
        fn whatever_the_value_there_is_one_message_or_an_error(value in any::<String>()) {
            if let Ok(action) = Action::command(&value) {
                let bytes = action.encode("id").unwrap();
                let text = String::from_utf8(bytes.to_vec()).unwrap();
                prop_assert_eq!(text.matches("\r\n").count(), 4);
                prop_assert_eq!(text.matches('\n').count(), 4);
            }
        }
    }
}
