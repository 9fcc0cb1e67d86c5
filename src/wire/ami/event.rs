//! What the events and list items we read mean.
//!
//! Separate from [`message`](super::message) because here labels get their meaning, with their source in Asterisk. An
//! unknown label is kept as `Other`, an unknown event as [`AmiEvent::Other`]; neither is an error. Only what an
//! observation cannot do without is mandatory. An optional field that is there but cannot be read is listed in `unread`
//! where the struct has such a list: one odd number must not make a trunk vanish from a list.

use std::time::Duration;

use jiff::Timestamp;
use thiserror::Error;

use super::message::Message;

/// An event that lacks what it is for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EventError {
    /// The message is a response, or has no `Event` header first.
    #[error("the message is no event")]
    NotAnEvent,
    /// The event is another one than the view asked for.
    #[error("the event is {found}, not {expected}")]
    WrongEvent {
        /// What the view reads.
        expected: &'static str,
        /// What the message is.
        found: String,
    },
    /// A mandatory field is missing or empty.
    #[error("the event {event} has no {field}")]
    MissingField {
        /// The event.
        event: &'static str,
        /// The header.
        field: &'static str,
    },
}

/// Makes an enum of wire labels: exact match, everything else kept as `Other`.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $label:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
            /// A label this program does not know, as it was sent.
            Other(String),
        }

        impl From<&str> for $name {
            fn from(label: &str) -> Self {
                match label {
                    $($label => Self::$variant,)+
                    other => Self::Other(other.to_owned()),
                }
            }
        }

        impl $name {
            /// The label on the wire.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $label,)+
                    Self::Other(label) => label,
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

labels! {
    /// The state of an outbound registration.
    ///
    /// Source: `res/res_pjsip_outbound_registration.c` (`sip_outbound_registration_status_str`): three labels for seven
    /// states; temporary and permanent rejection look the same. IAX2 uses the first and the last.
    RegistrationStatus {
        /// A registrar granted a binding, and it has not been refreshed unsuccessfully since.
        Registered = "Registered",
        /// Not yet tried, un-registered, or stopped.
        Unregistered = "Unregistered",
        /// The last attempt failed, for whatever reason, silence included.
        Rejected = "Rejected",
    }
}

labels! {
    /// What a contact answered to its last qualify.
    ///
    /// Source: `res/res_pjsip/pjsip_options.c` (`status_map`); `main/stasis_endpoints.c` documents other words.
    ContactState {
        /// It answered, with whatever code (unless `qualify_2xx_only`).
        Reachable = "Reachable",
        /// It did not answer in time.
        Unreachable = "Unreachable",
        /// Not asked yet.
        Unknown = "Unknown",
        /// It is never asked (`qualify_frequency=0`).
        NonQualified = "NonQualified",
        /// It is gone.
        Removed = "Removed",
    }
}

labels! {
    /// What became of a peer, on change.
    ///
    /// Source: `main/stasis_endpoints.c`; PJSIP sends `Reachable` and `Unreachable` only
    /// (`res/res_pjsip/pjsip_configuration.c`).
    PeerState {
        /// At least one contact can be reached.
        Reachable = "Reachable",
        /// No contact can be reached.
        Unreachable = "Unreachable",
        /// The peer registered here.
        Registered = "Registered",
        /// The peer's registration here ended.
        Unregistered = "Unregistered",
        /// The peer was refused here.
        Rejected = "Rejected",
        /// It answers too slowly.
        Lagged = "Lagged",
    }
}

labels! {
    /// How far an IAX2 registration is.
    ///
    /// Source: `channels/chan_iax2.c` (`regstate2str`).
    IaxRegistrationState {
        /// Not tried.
        Unregistered = "Unregistered",
        /// REGREQ sent.
        RequestSent = "Request Sent",
        /// Credentials sent.
        AuthSent = "Auth. Sent",
        /// Registered.
        Registered = "Registered",
        /// REGREJ received.
        Rejected = "Rejected",
        /// No answer; of this IAX2 sends no event.
        Timeout = "Timeout",
        /// The peer wants authentication we cannot give; of this IAX2 sends no event.
        NoAuthentication = "No Authentication",
        /// Asterisk does not know either.
        Unknown = "Unknown",
    }
}

labels! {
    /// How a reload ended.
    ///
    /// Source: `main/loader.c` (`ast_module_reload` and its documentation of the `Reload` event).
    ReloadStatus {
        /// Done.
        Success = "0",
        /// Will be done later.
        Queued = "1",
        /// There is no such module.
        ModuleNotFound = "2",
        /// It failed.
        Error = "3",
        /// Another reload is running.
        InProgress = "4",
        /// The module is not initialized.
        Uninitialized = "5",
        /// The module cannot be reloaded.
        NotSupported = "6",
    }
}

/// The events and list items this program reads.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AmiEvent {
    /// `Registry`.
    Registry(Registry),
    /// `OutboundRegistrationDetail`, an item of `PJSIPShowRegistrationsOutbound`.
    OutboundRegistrationDetail(Box<OutboundRegistrationDetail>),
    /// `OutboundRegistrationDetailComplete`.
    OutboundRegistrationDetailComplete(OutboundRegistrationDetailComplete),
    /// `EndpointList`, an item of `PJSIPShowEndpoints`.
    EndpointList(EndpointList),
    /// `EndpointListComplete`.
    EndpointListComplete(ListComplete),
    /// `ContactList`, an item of `PJSIPShowContacts`.
    ContactList(ContactList),
    /// `ContactListComplete`.
    ContactListComplete(ListComplete),
    /// `ContactStatus`.
    ContactStatus(ContactStatus),
    /// `PeerStatus`.
    PeerStatus(PeerStatus),
    /// `FullyBooted`.
    FullyBooted(FullyBooted),
    /// `Reload`.
    Reload(Reload),
    /// `Shutdown`.
    Shutdown(Shutdown),
    /// `RegistryEntry`, an item of `IAXregistry`.
    RegistryEntry(RegistryEntry),
    /// `RegistrationsComplete`, the end of `IAXregistry`.
    RegistrationsComplete(ListComplete),
    /// An event that is not read: its name.
    Other(String),
}

impl TryFrom<&Message> for AmiEvent {
    type Error = EventError;

    fn try_from(message: &Message) -> Result<Self, EventError> {
        let name = message.event().ok_or(EventError::NotAnEvent)?;
        Ok(match name.as_ref() {
            Registry::EVENT => Self::Registry(Registry::read(message)?),
            OutboundRegistrationDetail::EVENT => {
                Self::OutboundRegistrationDetail(Box::new(OutboundRegistrationDetail::read(message)?))
            }
            OutboundRegistrationDetailComplete::EVENT => {
                Self::OutboundRegistrationDetailComplete(OutboundRegistrationDetailComplete::read(message)?)
            }
            EndpointList::EVENT => Self::EndpointList(EndpointList::read(message)?),
            "EndpointListComplete" => Self::EndpointListComplete(ListComplete::read(message)),
            ContactList::EVENT => Self::ContactList(ContactList::read(message)?),
            "ContactListComplete" => Self::ContactListComplete(ListComplete::read(message)),
            ContactStatus::EVENT => Self::ContactStatus(ContactStatus::read(message)?),
            PeerStatus::EVENT => Self::PeerStatus(PeerStatus::read(message)?),
            FullyBooted::EVENT => Self::FullyBooted(FullyBooted::read(message)?),
            Reload::EVENT => Self::Reload(Reload::read(message)?),
            Shutdown::EVENT => Self::Shutdown(Shutdown::read(message)?),
            RegistryEntry::EVENT => Self::RegistryEntry(RegistryEntry::read(message)?),
            "RegistrationsComplete" => Self::RegistrationsComplete(ListComplete::read(message)),
            other => Self::Other(other.to_owned()),
        })
    }
}

/// Reads the fields of one event, so that errors can name it.
struct Fields<'a> {
    message: &'a Message,
    event: &'static str,
    unread: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    fn of(message: &'a Message, event: &'static str) -> Result<Self, EventError> {
        if message.is_event(event) {
            Ok(Self { message, event, unread: Vec::new() })
        } else {
            let found = message.event().ok_or(EventError::NotAnEvent)?.into_owned();
            Err(EventError::WrongEvent { expected: event, found })
        }
    }

    fn text(&self, field: &'static str) -> Result<String, EventError> {
        self.optional(field).ok_or(EventError::MissingField { event: self.event, field })
    }

    fn optional(&self, field: &'static str) -> Option<String> {
        self.message.get_filled(field).map(std::borrow::Cow::into_owned)
    }

    fn number(&mut self, field: &'static str) -> Option<u64> {
        let value = self.message.get_filled(field)?;
        let number = value.trim().parse().ok();
        if number.is_none() {
            self.unread.push(field);
        }
        number
    }

    fn seconds(&mut self, field: &'static str) -> Option<Duration> {
        self.number(field).map(Duration::from_secs)
    }

    /// Asterisk prints booleans as `true|false` or `yes|no`, by the option's type.
    fn boolean(&mut self, field: &'static str) -> Option<bool> {
        let value = self.message.get_filled(field)?;
        match value.trim().to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Some(true),
            "false" | "no" | "off" | "0" => Some(false),
            _ => {
                self.unread.push(field);
                None
            }
        }
    }

    /// A round trip in microseconds; `N/A` where there was none.
    fn micros(&mut self, field: &'static str) -> Option<Duration> {
        if self.message.get(field).is_some_and(|value| value == "N/A") {
            return None;
        }
        self.number(field).map(Duration::from_micros)
    }

    fn list(&self, field: &'static str) -> Vec<String> {
        let parts =
            |value: std::borrow::Cow<'_, str>| value.split(',').map(|part| part.trim().to_owned()).collect::<Vec<_>>();
        self.message.get_all(field).flat_map(parts).filter(|part| !part.is_empty()).collect()
    }
}

/// A finished registration attempt: each refresh, each failed try, each un-REGISTER.
///
/// Source: `main/stasis_system.c`. For PJSIP `username` and `domain` are the whole client and server URI as configured,
/// there is never a cause, and the object's name is not told. For IAX2 they are the login and the resolved address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// `PJSIP` or `IAX2`.
    pub channel_type: String,
    /// PJSIP: the client URI. IAX2: the login. Empty where an IAX2 peer has none.
    pub username: String,
    /// PJSIP: the server URI. IAX2: address and port.
    pub domain: String,
    /// The outcome.
    pub status: RegistrationStatus,
    /// IAX2 only: the peer's text.
    pub cause: Option<String>,
    /// When, by Asterisk's clock, if it says so.
    pub at: Option<Timestamp>,
}

impl Registry {
    /// The event's name.
    pub const EVENT: &'static str = "Registry";

    /// Reads the event.
    ///
    /// # Errors
    /// [`EventError::MissingField`] without `ChannelType`, `Domain` or `Status`.
    pub fn read(message: &Message) -> Result<Self, EventError> {
        let fields = Fields::of(message, Self::EVENT)?;
        Ok(Self {
            channel_type: fields.text("ChannelType")?,
            username: fields.optional("Username").unwrap_or_default(),
            domain: fields.text("Domain")?,
            status: fields.text("Status")?.as_str().into(),
            cause: fields.optional("Cause"),
            at: message.timestamp(),
        })
    }
}

/// One outbound registration: what is configured, and its state.
///
/// Source: sorcery fields of `res/res_pjsip_outbound_registration.c`, names camel-cased. `NextReg` is left out: it is
/// always 0 (see [`registrations_cli`](super::registrations_cli) for the next attempt).
/// Units: intervals are seconds on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundRegistrationDetail {
    /// The section's name.
    pub object_name: String,
    /// Who we register as.
    pub client_uri: String,
    /// Where we register.
    pub server_uri: String,
    /// The endpoint it says it belongs to (`endpoint=`).
    pub endpoint: Option<String>,
    /// The auth sections, in order.
    pub outbound_auth: Vec<String>,
    /// The expiry we ask for.
    pub expiration: Option<Duration>,
    /// The first REGISTER leaves up to this much after the start.
    pub max_random_initial_delay: Option<Duration>,
    /// Wait after a temporary failure; zero means no retry.
    pub retry_interval: Option<Duration>,
    /// Wait after a 403; zero means that a 403 is final.
    pub forbidden_retry_interval: Option<Duration>,
    /// Wait after another fatal code; zero means that it is final.
    pub fatal_retry_interval: Option<Duration>,
    /// Retries before Asterisk gives up.
    pub max_retries: Option<u64>,
    /// Whether a 401 to our credentials is final.
    pub auth_rejection_permanent: Option<bool>,
    /// The transport section.
    pub transport: Option<String>,
    /// The proxy REGISTERs go through.
    pub outbound_proxy: Option<String>,
    /// The user part of our Contact.
    pub contact_user: Option<String>,
    /// Whether inbound calls are matched by a `line` parameter.
    pub line: Option<bool>,
    /// The state; none after `PJSIPUnregister: *all`, which destroys the state object.
    pub status: Option<RegistrationStatus>,
    /// Fields that were there but could not be read.
    pub unread: Vec<&'static str>,
}

impl OutboundRegistrationDetail {
    /// The event's name.
    pub const EVENT: &'static str = "OutboundRegistrationDetail";

    /// Reads the list item.
    ///
    /// # Errors
    /// [`EventError::MissingField`] without `ObjectName`, `ClientUri` or `ServerUri`.
    pub fn read(message: &Message) -> Result<Self, EventError> {
        let mut fields = Fields::of(message, Self::EVENT)?;
        let mut detail = Self {
            object_name: fields.text("ObjectName")?,
            client_uri: fields.text("ClientUri")?,
            server_uri: fields.text("ServerUri")?,
            endpoint: fields.optional("Endpoint"),
            outbound_auth: fields.list("OutboundAuth"),
            expiration: fields.seconds("Expiration"),
            max_random_initial_delay: fields.seconds("MaxRandomInitialDelay"),
            retry_interval: fields.seconds("RetryInterval"),
            forbidden_retry_interval: fields.seconds("ForbiddenRetryInterval"),
            fatal_retry_interval: fields.seconds("FatalRetryInterval"),
            max_retries: fields.number("MaxRetries"),
            auth_rejection_permanent: fields.boolean("AuthRejectionPermanent"),
            transport: fields.optional("Transport"),
            outbound_proxy: fields.optional("OutboundProxy"),
            contact_user: fields.optional("ContactUser"),
            line: fields.boolean("Line"),
            status: fields.optional("Status").map(|label| label.as_str().into()),
            unread: Vec::new(),
        };
        detail.unread = fields.unread;
        Ok(detail)
    }
}

/// The end of `PJSIPShowRegistrationsOutbound`. Registrations without a state are counted in neither number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundRegistrationDetailComplete {
    /// Registered ones.
    pub registered: Option<u64>,
    /// The others that have a state.
    pub not_registered: Option<u64>,
}

impl OutboundRegistrationDetailComplete {
    /// The event's name.
    pub const EVENT: &'static str = "OutboundRegistrationDetailComplete";

    /// Reads the end of the list.
    ///
    /// # Errors
    /// [`EventError::WrongEvent`] or [`EventError::NotAnEvent`].
    pub fn read(message: &Message) -> Result<Self, EventError> {
        let mut fields = Fields::of(message, Self::EVENT)?;
        Ok(Self { registered: fields.number("Registered"), not_registered: fields.number("NotRegistered") })
    }
}

/// The end of another list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListComplete {
    /// Items Asterisk says it sent.
    pub items: Option<u64>,
    /// Whether the list was broken off (`EventList: cancelled`).
    pub cancelled: bool,
}

impl ListComplete {
    /// Reads the end of any list.
    #[must_use]
    pub fn read(message: &Message) -> Self {
        Self {
            items: message.get("ListItems").and_then(|value| value.trim().parse().ok()),
            cancelled: message.get("EventList").is_some_and(|value| value.eq_ignore_ascii_case("cancelled")),
        }
    }
}

/// One endpoint in the list of all.
///
/// Source: `res/res_pjsip/pjsip_configuration.c`. `Contacts` comes once per AOR, each a comma-separated list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointList {
    /// The section's name.
    pub object_name: String,
    /// The transport section.
    pub transport: Option<String>,
    /// The AORs' names.
    pub aors: Vec<String>,
    /// Auths for what comes in.
    pub auths: Vec<String>,
    /// Auths for what goes out.
    pub outbound_auths: Vec<String>,
    /// `aor/uri` of each contact.
    pub contacts: Vec<String>,
    /// Asterisk's word for the device's state. It says nothing about outbound registration.
    pub device_state: Option<String>,
    /// How many channels it has now.
    pub active_channels: Option<u64>,
    /// Fields that were there but could not be read.
    pub unread: Vec<&'static str>,
}

impl EndpointList {
    /// The event's name.
    pub const EVENT: &'static str = "EndpointList";

    /// Reads the list item.
    ///
    /// # Errors
    /// [`EventError::MissingField`] without `ObjectName`.
    pub fn read(message: &Message) -> Result<Self, EventError> {
        let mut fields = Fields::of(message, Self::EVENT)?;
        let mut endpoint = Self {
            object_name: fields.text("ObjectName")?,
            transport: fields.optional("Transport"),
            aors: fields.list("Aor"),
            auths: fields.list("Auths"),
            outbound_auths: fields.list("OutboundAuths"),
            contacts: fields.list("Contacts"),
            device_state: fields.optional("DeviceState"),
            active_channels: fields.number("ActiveChannels"),
            unread: Vec::new(),
        };
        endpoint.unread = fields.unread;
        Ok(endpoint)
    }
}

/// One contact in the list of all.
///
/// Source: sorcery fields of a contact and `res/res_pjsip/pjsip_options.c`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContactList {
    /// `aor;@hash` for a registered contact, `aor@@hash` for one from the configuration.
    pub object_name: String,
    /// Its address.
    pub uri: String,
    /// The endpoint, where Asterisk knows it.
    pub endpoint: Option<String>,
    /// What it answered last.
    pub status: Option<ContactState>,
    /// How long that took; none without an answer (`N/A`).
    pub rtt: Option<Duration>,
    /// How often it is asked; zero is never.
    pub qualify_frequency: Option<Duration>,
    /// The proxy it is reached by.
    pub outbound_proxy: Option<String>,
    /// Fields that were there but could not be read.
    pub unread: Vec<&'static str>,
}

impl ContactList {
    /// The event's name.
    pub const EVENT: &'static str = "ContactList";

    /// Reads the list item.
    ///
    /// # Errors
    /// [`EventError::MissingField`] without `ObjectName` or `Uri`.
    pub fn read(message: &Message) -> Result<Self, EventError> {
        let mut fields = Fields::of(message, Self::EVENT)?;
        let mut contact = Self {
            object_name: fields.text("ObjectName")?,
            uri: fields.text("Uri")?,
            endpoint: fields.optional("Endpoint"),
            status: fields.optional("Status").map(|label| label.as_str().into()),
            rtt: fields.micros("RoundtripUsec"),
            qualify_frequency: fields.seconds("QualifyFrequency"),
            outbound_proxy: fields.optional("OutboundProxy"),
            unread: Vec::new(),
        };
        contact.unread = fields.unread;
        Ok(contact)
    }

    /// The AOR's name, which the contact's name begins with.
    #[must_use]
    pub fn aor(&self) -> &str {
        let name = self.object_name.as_str();
        name.split_once("@@").or_else(|| name.split_once(";@")).map_or(name, |(aor, _)| aor)
    }
}

/// A contact changed its state.
///
/// Source: `main/stasis_endpoints.c`.
/// Units: `RoundtripUsec` is microseconds on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContactStatus {
    /// The contact's address.
    pub uri: String,
    /// Its AOR.
    pub aor: String,
    /// The endpoint, where Asterisk tells it.
    pub endpoint: Option<String>,
    /// The new state.
    pub status: ContactState,
    /// How long the answer took; meaningful when reachable.
    pub rtt: Option<Duration>,
    /// When, by Asterisk's clock, if it says so.
    pub at: Option<Timestamp>,
}

impl ContactStatus {
    /// The event's name.
    pub const EVENT: &'static str = "ContactStatus";

    /// Reads the event.
    ///
    /// # Errors
    /// [`EventError::MissingField`] without `URI`, `AOR` or `ContactStatus`.
    pub fn read(message: &Message) -> Result<Self, EventError> {
        let mut fields = Fields::of(message, Self::EVENT)?;
        Ok(Self {
            uri: fields.text("URI")?,
            aor: fields.text("AOR")?,
            endpoint: fields.optional("EndpointName"),
            status: fields.text("ContactStatus")?.as_str().into(),
            rtt: fields.micros("RoundtripUsec"),
            at: message.timestamp(),
        })
    }
}

/// A peer or endpoint changed its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// `PJSIP`, `IAX2`, …
    pub channel_type: Option<String>,
    /// Technology and name, as `PJSIP/airtel`.
    pub peer: String,
    /// The new state.
    pub status: PeerState,
    /// A reason, where the channel driver gives one.
    pub cause: Option<String>,
    /// When, by Asterisk's clock, if it says so.
    pub at: Option<Timestamp>,
}

impl PeerStatus {
    /// The event's name.
    pub const EVENT: &'static str = "PeerStatus";

    /// Reads the event.
    ///
    /// # Errors
    /// [`EventError::MissingField`] without `Peer` or `PeerStatus`.
    pub fn read(message: &Message) -> Result<Self, EventError> {
        let fields = Fields::of(message, Self::EVENT)?;
        Ok(Self {
            channel_type: fields.optional("ChannelType"),
            peer: fields.text("Peer")?,
            status: fields.text("PeerStatus")?.as_str().into(),
            cause: fields.optional("Cause"),
            at: message.timestamp(),
        })
    }

    /// The name without its technology.
    #[must_use]
    pub fn name(&self) -> &str {
        self.peer.split_once('/').map_or(self.peer.as_str(), |(_, name)| name)
    }
}

/// All modules are loaded. Comes at boot, and again to each session with `read=system` at its login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FullyBooted {
    /// Since Asterisk started.
    pub uptime: Option<Duration>,
    /// Since the last reload.
    pub last_reload: Option<Duration>,
}

impl FullyBooted {
    /// The event's name.
    pub const EVENT: &'static str = "FullyBooted";

    /// Reads the event.
    ///
    /// # Errors
    /// [`EventError::WrongEvent`] or [`EventError::NotAnEvent`].
    pub fn read(message: &Message) -> Result<Self, EventError> {
        let mut fields = Fields::of(message, Self::EVENT)?;
        Ok(Self { uptime: fields.seconds("Uptime"), last_reload: fields.seconds("LastReload") })
    }
}

/// A module, or everything, was reloaded: lists must be read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reload {
    /// The module; `All` for everything.
    pub module: String,
    /// How it ended.
    pub status: ReloadStatus,
}

impl Reload {
    /// The event's name.
    pub const EVENT: &'static str = "Reload";

    /// Reads the event.
    ///
    /// # Errors
    /// [`EventError::MissingField`] without `Status`.
    pub fn read(message: &Message) -> Result<Self, EventError> {
        let fields = Fields::of(message, Self::EVENT)?;
        Ok(Self {
            module: fields.optional("Module").unwrap_or_else(|| "All".to_owned()),
            status: fields.text("Status")?.as_str().into(),
        })
    }
}

/// Asterisk is about to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shutdown {
    /// Whether channels were let go of first (`Cleanly`).
    pub clean: bool,
    /// Whether it comes back by itself.
    pub restart: bool,
}

impl Shutdown {
    /// The event's name.
    pub const EVENT: &'static str = "Shutdown";

    /// Reads the event.
    ///
    /// # Errors
    /// [`EventError::WrongEvent`] or [`EventError::NotAnEvent`].
    pub fn read(message: &Message) -> Result<Self, EventError> {
        let mut fields = Fields::of(message, Self::EVENT)?;
        Ok(Self {
            clean: fields.optional("Shutdown").is_some_and(|word| word == "Cleanly"),
            restart: fields.boolean("Restart").unwrap_or(false),
        })
    }
}

/// One IAX2 registration.
///
/// Source: `channels/chan_iax2.c` (`manager_iax2_show_registry`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryEntry {
    /// The registrar.
    pub host: String,
    /// The login.
    pub username: String,
    /// How the registrar sees our address.
    pub perceived: Option<String>,
    /// The refresh interval.
    pub refresh: Option<Duration>,
    /// How far it is.
    pub state: IaxRegistrationState,
}

impl RegistryEntry {
    /// The event's name.
    pub const EVENT: &'static str = "RegistryEntry";

    /// Reads the list item.
    ///
    /// # Errors
    /// [`EventError::MissingField`] without `Host` or `State`.
    pub fn read(message: &Message) -> Result<Self, EventError> {
        let mut fields = Fields::of(message, Self::EVENT)?;
        Ok(Self {
            host: fields.text("Host")?,
            username: fields.optional("Username").unwrap_or_default(),
            perceived: fields.optional("Perceived").filter(|seen| seen != "<Unregistered>"),
            refresh: fields.seconds("Refresh"),
            state: fields.text("State")?.as_str().into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::codec::tests::recorded;
    use super::*;

    fn events(recording: &str) -> Vec<AmiEvent> {
        let all = recorded(recording);
        all.iter()
            .filter(|message| message.event().is_some())
            .map(|message| AmiEvent::try_from(message).unwrap())
            .collect()
    }

    #[test]
    fn every_event_of_every_recording_is_read() {
        let (mut registries, mut recorded) = (0, 0);
        for recording in [
            include_str!("../../../tests/fixtures/ami-registrations.txt"),
            include_str!("../../../tests/fixtures/ami-endpoint.txt"),
            include_str!("../../../tests/fixtures/ami-pjsipregister.txt"),
            include_str!("../../../tests/fixtures/ami-reload.txt"),
            include_str!("../../../tests/fixtures/ami-restart.txt"),
            include_str!("../../../tests/fixtures/ami-busy.ami"),
        ] {
            recorded += recording.lines().filter(|line| *line == "Event: Registry").count();
            for event in events(recording) {
                if let AmiEvent::Registry(registry) = event {
                    assert_eq!(registry.cause, None, "PJSIP sends none");
                    assert!(!matches!(registry.status, RegistrationStatus::Other(_)));
                    assert!(registry.at.is_some() && registry.username.starts_with("sip:"));
                    registries += 1;
                }
            }
        }
        assert!(registries > 100 && registries == recorded, "{registries} of {recorded}");
    }

    #[test]
    fn a_listed_registration_has_all_its_parameters() {
        let all = events(include_str!("../../../tests/fixtures/ami-registrations.txt"));
        let details: Vec<_> = all
            .iter()
            .filter_map(
                |event| if let AmiEvent::OutboundRegistrationDetail(detail) = event { Some(detail) } else { None },
            )
            .collect();
        assert_eq!(details.len(), 10);
        assert_eq!(
            **details[0],
            OutboundRegistrationDetail {
                object_name: "trunk-403".to_owned(),
                client_uri: "sip:u403@127.0.0.1:5091".to_owned(),
                server_uri: "sip:127.0.0.1:5091".to_owned(),
                endpoint: Some("trunk-403".to_owned()),
                outbound_auth: vec!["trunk-403".to_owned()],
                expiration: Some(Duration::from_secs(60)),
                max_random_initial_delay: Some(Duration::from_secs(10)),
                retry_interval: Some(Duration::from_secs(5)),
                forbidden_retry_interval: Some(Duration::from_secs(20)),
                fatal_retry_interval: Some(Duration::from_secs(20)),
                max_retries: Some(10_000),
                auth_rejection_permanent: Some(false),
                transport: Some("t".to_owned()),
                outbound_proxy: None,
                contact_user: Some("u403".to_owned()),
                line: Some(true),
                status: Some(RegistrationStatus::Rejected),
                unread: vec![],
            }
        );
        let complete = all.iter().find_map(|event| {
            if let AmiEvent::OutboundRegistrationDetailComplete(complete) = event {
                Some(complete.clone())
            } else {
                None
            }
        });
        let complete = complete.unwrap();
        assert_eq!(complete.registered.unwrap() + complete.not_registered.unwrap(), 10);
    }

    #[test]
    fn one_odd_number_does_not_hide_a_trunk() {
        let message = Message::from_text(
            "Event: OutboundRegistrationDetail\nObjectName: a\nClientUri: sip:a@b\nServerUri: sip:b\nMaxRetries: forever\nOutboundAuth: x, y\nLine: perhaps\n",
        );
        let detail = OutboundRegistrationDetail::read(&message).unwrap();
        assert_eq!((detail.max_retries, detail.line, detail.status), (None, None, None));
        assert_eq!(detail.unread, ["MaxRetries", "Line"]);
        assert_eq!(detail.outbound_auth, ["x", "y"]);
    }

    #[test]
    fn what_an_event_is_for_must_be_there() {
        let read = |text: &str| AmiEvent::try_from(&Message::from_text(text));
        let missing = |event, field| Err(EventError::MissingField { event, field });
        assert_eq!(read("Event: Registry\nChannelType: PJSIP\nDomain: sip:b\n"), missing("Registry", "Status"));
        assert_eq!(
            read("Event: Registry\nChannelType: PJSIP\nDomain:\nStatus: Registered\n"),
            missing("Registry", "Domain")
        );
        assert_eq!(read("Event: ContactStatus\nURI: sip:b\nAOR: a\n"), missing("ContactStatus", "ContactStatus"));
        assert_eq!(
            read("Event: OutboundRegistrationDetail\nObjectName: a\nServerUri: sip:b\n"),
            missing("OutboundRegistrationDetail", "ClientUri")
        );
        assert_eq!(read("Response: Success\nEvent: Registry\n"), Err(EventError::NotAnEvent));
        let wrong = Registry::read(&Message::from_text("Event: Hangup\n"));
        assert_eq!(wrong, Err(EventError::WrongEvent { expected: "Registry", found: "Hangup".to_owned() }));
        assert_eq!(read("Event: Confetti\n"), Ok(AmiEvent::Other("Confetti".to_owned())));
    }

    #[test]
    fn labels_that_are_not_known_are_kept() {
        let message = Message::from_text(
            "Event: Registry\nChannelType: IAX2\nDomain: 1.2.3.4:4569\nStatus: Sulking\nCause: no\n",
        );
        let registry = Registry::read(&message).unwrap();
        assert_eq!(registry.status, RegistrationStatus::Other("Sulking".to_owned()));
        assert_eq!((registry.status.as_str(), registry.cause.as_deref()), ("Sulking", Some("no")));
    }

    #[test]
    fn endpoints_and_contacts_are_read_with_their_repetitions() {
        let endpoint = Message::from_text(
            "Event: EndpointList\nObjectName: airtel\nTransport:\nAor: a,b\nAuths:\nOutboundAuths: x\nContacts: a/sip:1,a/sip:2\nContacts: b/sip:3,\nDeviceState: Not in use\nActiveChannels: 2\n",
        );
        let endpoint = EndpointList::read(&endpoint).unwrap();
        assert_eq!(endpoint.contacts, ["a/sip:1", "a/sip:2", "b/sip:3"]);
        assert_eq!((endpoint.aors.len(), endpoint.transport, endpoint.active_channels), (2, None, Some(2)));
        let contact = |status: &str, rtt: &str| {
            let text = format!(
                "Event: ContactList\nObjectName: air;@0f\nUri: sip:1\nStatus: {status}\nRoundtripUsec: {rtt}\n"
            );
            ContactList::read(&Message::from_text(&text)).unwrap()
        };
        let reachable = contact("Reachable", "1433");
        assert_eq!((reachable.aor(), reachable.rtt), ("air", Some(Duration::from_micros(1433))));
        let silent = contact("NonQualified", "N/A");
        assert_eq!((silent.status, silent.rtt, silent.unread.len()), (Some(ContactState::NonQualified), None, 0));
    }

    #[test]
    fn the_end_of_asterisk_says_whether_it_comes_back() {
        let all = events(include_str!("../../../tests/fixtures/ami-restart.txt"));
        let ends: Vec<_> = all
            .iter()
            .filter_map(|event| if let AmiEvent::Shutdown(end) = event { Some(end.restart) } else { None })
            .collect();
        assert!(ends.contains(&true) && ends.contains(&false), "{ends:?}");
        let reload = events(include_str!("../../../tests/fixtures/ami-reload.txt"));
        assert!(reload.iter().any(|event| matches!(event, AmiEvent::Reload(reload) if reload.status == ReloadStatus::Success && reload.module == "res_pjsip.so")));
    }

    #[test]
    fn an_iax_registration_is_read() {
        let message = Message::from_text(
            "Event: RegistryEntry\nHost: 1.2.3.4:4569\nDNSmanager: N\nUsername: u\nPerceived: 9.9.9.9:4569\nRefresh: 60\nState: Auth. Sent\n",
        );
        let entry = RegistryEntry::read(&message).unwrap();
        assert_eq!((entry.state, entry.refresh), (IaxRegistrationState::AuthSent, Some(Duration::from_secs(60))));
    }
}
