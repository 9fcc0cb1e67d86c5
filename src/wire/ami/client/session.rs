//! One authenticated connection: login, keepalive, one action at a time, and what became of it.
//!
//! Separate from the link because everything here ends with the connection: nothing is remembered, and above all nothing is
//! sent again. An action whose bytes may have left and whose answer did not come has an *unknown outcome*, and only the
//! caller can know what to do about that.
//!
//! Assumes what `main/manager.c` does: actions of a session run one after the other. So one is sent at a time, which
//! costs nothing and makes that all others are certainly not sent when the connection breaks.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use md5::{Digest as _, Md5};
use secrecy::{ExposeSecret as _, SecretString};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, trace};

use super::{AmiSettings, ConnectError, Limits, PlainLogin, Security, Transport, inbox::Inbox, transport::BoxedIo};
use crate::{
    clock::{Clock, Timestamp},
    wire::ami::{
        action::{Action, ActionError},
        codec::{Banner, DecodeError, Decoder, Frame},
        event::FullyBooted,
        message::Message,
    },
};

/// Room made for one read.
const READ_ROOM: usize = 16 << 10;

/// The answer to an action.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The response.
    pub response: Message,
    /// The list's items, if it was a list; its end left out.
    pub items: Vec<Message>,
    /// Errors Asterisk put into the list (a missing transport does that); the list went on after them.
    pub injected: Vec<Message>,
    /// The event that ended the list.
    pub complete: Option<Message>,
}

/// An action that did not succeed.
#[derive(Debug, Clone, Error)]
pub enum CallError {
    /// Asterisk has certainly not seen it.
    #[error("the action was not sent")]
    NotSent(#[source] NotSent),
    /// Asterisk may have run it, or may yet run it. It is never sent again by itself.
    #[error("the action's outcome is unknown")]
    OutcomeUnknown(#[source] OutcomeUnknown),
    /// Asterisk answered `Response: Error`.
    #[error("Asterisk refused the action: {}", refusal_text(.0))]
    Refused(Box<Message>),
    /// The answer is larger than [`Limits`] allow; the action ran.
    #[error("the answer has more than {items} items or {bytes} bytes")]
    TooLarge {
        /// [`Limits::list_items`].
        items: usize,
        /// [`Limits::list_bytes`].
        bytes: usize,
    },
}

impl CallError {
    /// Whether the user lacks the class for this action.
    #[must_use]
    pub fn is_permission_denied(&self) -> bool {
        self.says("Permission denied")
    }

    /// Whether Asterisk does not know the action: its module is not loaded, or not yet.
    #[must_use]
    pub fn is_unknown_action(&self) -> bool {
        self.says("Invalid/unknown command")
    }

    /// Whether Asterisk is on its way down and answers nothing else.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.says(SHUTTING_DOWN)
    }

    fn says(&self, start: &str) -> bool {
        match self {
            Self::Refused(response) => refusal_text(response).starts_with(start),
            Self::NotSent(_) | Self::OutcomeUnknown(_) | Self::TooLarge { .. } => false,
        }
    }
}

/// Why an action was not sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotSent {
    /// It cannot be written.
    #[error(transparent)]
    Invalid(#[from] ActionError),
    /// There is no session, or Asterisk has not booted.
    #[error("the link is not ready")]
    NotReady,
    /// Too many are waiting.
    #[error("{limit} actions are waiting")]
    QueueFull {
        /// [`Limits::queued_actions`].
        limit: usize,
    },
    /// Its time ran out before its turn came.
    #[error("the deadline passed before its turn came")]
    Deadline,
    /// The connection broke before its turn came.
    #[error("the connection was lost before its turn came")]
    ConnectionLost,
}

/// Why an outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OutcomeUnknown {
    /// No answer within the deadline.
    #[error("no answer within the deadline")]
    Deadline,
    /// The connection broke before the answer came.
    #[error("the connection was lost before the answer came")]
    ConnectionLost,
}

/// Why a login was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// User, secret, or our address (`permit`/`deny`): Asterisk does not tell which.
    #[error("Asterisk refuses user, secret or our address: {message}")]
    Credentials {
        /// Asterisk's words.
        message: String,
    },
    /// `allowmultiplelogin=no`: the link needs two sessions.
    #[error("the user may log in only once (allowmultiplelogin), but two sessions are needed: {message}")]
    AlreadyInUse {
        /// Asterisk's words.
        message: String,
    },
    /// There is no challenge login, and the secret may not be sent over this connection.
    #[error("Asterisk offers no challenge login ({message}), and the secret is not sent in clear over this connection")]
    PlainForbidden {
        /// Asterisk's words.
        message: String,
    },
}

/// Why a session ended, or did not begin.
#[derive(Debug, Error)]
pub enum SessionError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A step of the beginning took too long.
    #[error("no {step} within {} ms", after.as_millis())]
    Timeout {
        /// Which step.
        step: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// What came is not AMI, or too much.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The login was refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Asterisk is on its way down; it refuses even logins then.
    #[error("Asterisk is shutting down")]
    ShuttingDown,
    /// The peer does not behave like Asterisk.
    #[error("unexpected answer during login: {what}")]
    Protocol {
        /// What was missing.
        what: &'static str,
    },
    /// The settings cannot be sent.
    #[error("the login cannot be written")]
    Login(#[source] ActionError),
    /// Some filters were set and one failed: the session would hide events.
    #[error("a filter was refused after others were set")]
    FiltersIncomplete,
    /// The peer closed the connection.
    #[error("Asterisk closed the connection")]
    Closed,
    /// No byte for `unknown_after`, not even to a `Ping`.
    #[error("nothing heard for {} ms", after.as_millis())]
    Silent {
        /// How long.
        after: Duration,
    },
    /// Reading or writing failed.
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// The program is stopping.
    #[error("stopped")]
    Stopped,
    /// The session's task ended without a word: a fault of ours.
    #[error("the session's task failed")]
    TaskFailed,
}

impl From<io::Error> for SessionError {
    fn from(error: io::Error) -> Self {
        // Asterisk ends TLS connections without a close_notify.
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Closed } else { Self::Io(error) }
    }
}

const SHUTTING_DOWN: &str = "Asterisk is shutting down";

/// The most of a refusal that is repeated, in characters. Asterisk's longest is a third of it.
const LONGEST_REFUSAL: usize = 300;

fn refusal_text(response: &Message) -> String {
    response.get("Message").map_or_else(
        || "no message".to_owned(),
        |text| {
            let text = text.trim();
            match text.char_indices().nth(LONGEST_REFUSAL) {
                Some((end, _)) => format!("{}...", &text[..end]),
                None => text.to_owned(),
            }
        },
    )
}

/// A refusal without what we logged in with, should the peer repeat it: its words go into logs, answers and the history.
fn without_ours(response: &Message, ours: &[&SecretString]) -> Message {
    ours.iter().fold(response.clone(), |response, secret| response.without(secret.expose_secret()))
}

/// The key of a challenge login: lower-case hex of MD5 over challenge and secret.
///
/// Source: `main/manager.c` (`authenticate`).
#[must_use]
pub fn md5_key(challenge: &str, secret: &SecretString) -> SecretString {
    let mut md5 = Md5::new();
    md5.update(challenge.as_bytes());
    md5.update(secret.expose_secret().as_bytes());
    format!("{:x}", md5.finalize()).into()
}

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Receives events.
    Events,
    /// Runs actions; asks for no events.
    Actions,
}

impl Role {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Actions => "actions",
        }
    }
}

/// A connection that is logged in and not yet read from.
pub(super) struct LoggedIn {
    io: BoxedIo,
    decoder: Decoder,
    ids: Ids,
    heard: Instant,
    secret: SecretString,
    pub(super) banner: Banner,
    pub(super) peer: String,
    security: Security,
}

/// Makes ids that no other session, process or client uses: events carry the ids of everybody's actions.
#[derive(Debug)]
struct Ids {
    session: u32,
    next: AtomicU64,
}

impl Ids {
    fn new() -> Self {
        Self { session: rand::random(), next: AtomicU64::new(1) }
    }

    fn next(&self) -> String {
        format!("tw-{:08x}-{}", self.session, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// A connection that is logged in, as bytes: for whoever hands them on.
pub struct Line {
    /// The stream.
    pub io: BoxedIo,
    /// What was read beyond the login.
    pub read: BytesMut,
    /// Asterisk's greeting.
    pub banner: Banner,
    /// Whether it is encrypted: then Asterisk wants to be written to in small pieces.
    pub security: Security,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("banner", &self.banner).field("security", &self.security).finish_non_exhaustive()
    }
}

/// Connects, and logs in with an event mask (`on`, `off`, or classes).
///
/// # Errors
/// [`SessionError`] with the step that failed.
pub async fn log_in(transport: &dyn Transport, settings: &AmiSettings, mask: &str) -> Result<Line, SessionError> {
    let LoggedIn { io, decoder, banner, security, .. } = open_with(transport, settings, mask, "gateway").await?;
    Ok(Line { io, read: decoder.into_rest(), banner, security })
}

/// Connects and logs in.
pub(super) async fn open(
    transport: &dyn Transport,
    settings: &AmiSettings,
    role: Role,
) -> Result<LoggedIn, SessionError> {
    let mask = match role {
        Role::Events => settings.event_mask(),
        Role::Actions => "off".to_owned(),
    };
    open_with(transport, settings, &mask, role.as_str()).await
}

async fn open_with(
    transport: &dyn Transport,
    settings: &AmiSettings,
    mask: &str,
    role: &'static str,
) -> Result<LoggedIn, SessionError> {
    let step = settings.timeouts.connect;
    let connection = timeout(step, transport.connect())
        .await
        .map_err(|_| SessionError::Timeout { step: "connection", after: step })??;
    let mut login = Login {
        io: connection.io,
        decoder: Decoder::expecting_banner(settings.limits.decode),
        ids: Ids::new(),
        step: settings.timeouts.login,
    };
    let banner = match login.frame("banner").await? {
        Frame::Banner(banner) => banner,
        Frame::Message(_) => return Err(SessionError::Protocol { what: "a banner" }),
    };
    let challenge = login.ask(&Action::challenge(), "challenge").await?;
    let (action, key) = if challenge.is_error() {
        let message = refusal_text(&without_ours(&challenge, &[&settings.secret]));
        if message.starts_with(SHUTTING_DOWN) {
            return Err(SessionError::ShuttingDown);
        }
        let allowed = match settings.plain_login {
            PlainLogin::WhereSafe => connection.security != Security::Clear,
            PlainLogin::Never => false,
            PlainLogin::Anywhere => true,
        };
        if !allowed {
            return Err(Refusal::PlainForbidden { message }.into());
        }
        (login_action(&settings.username, mask, "Secret", &settings.secret, None), None)
    } else {
        let challenge = challenge.get_filled("Challenge").ok_or(SessionError::Protocol { what: "a challenge" })?;
        let key = md5_key(&challenge, &settings.secret);
        (login_action(&settings.username, mask, "Key", &key, Some("MD5")), Some(key))
    };
    let response = login.ask(&action.map_err(SessionError::Login)?, "answer to the login").await?;
    if response.is_error() {
        let ours: Vec<&SecretString> = [Some(&settings.secret), key.as_ref()].into_iter().flatten().collect();
        let message = refusal_text(&without_ours(&response, &ours));
        return Err(if message.starts_with(SHUTTING_DOWN) {
            SessionError::ShuttingDown
        } else if message.to_ascii_lowercase().contains("already in use") {
            Refusal::AlreadyInUse { message }.into()
        } else {
            Refusal::Credentials { message }.into()
        });
    }
    debug!(role, peer.addr = %connection.peer, "logged in");
    Ok(LoggedIn {
        io: login.io,
        decoder: login.decoder,
        ids: login.ids,
        heard: Instant::now(),
        secret: settings.secret.clone(),
        banner,
        peer: connection.peer,
        security: connection.security,
    })
}

fn login_action(
    username: &str,
    mask: &str,
    field: &str,
    value: &SecretString,
    auth_type: Option<&str>,
) -> Result<Action, ActionError> {
    let mut action = Action::new("Login")?.with("Username", username)?;
    if let Some(auth_type) = auth_type {
        action = action.with("AuthType", auth_type)?;
    }
    action.with_secret(field, value)?.with("Events", mask)
}

/// A connection on its way through the login: one step after the other, each with its time.
struct Login {
    io: BoxedIo,
    decoder: Decoder,
    ids: Ids,
    step: Duration,
}

impl Login {
    async fn frame(&mut self, step: &'static str) -> Result<Frame, SessionError> {
        let after = self.step;
        timeout(after, self.read_frame()).await.map_err(|_| SessionError::Timeout { step, after })?
    }

    async fn read_frame(&mut self) -> Result<Frame, SessionError> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(frame);
            }
            if self.io.read_buf(self.decoder.buffer_mut(READ_ROOM)).await? == 0 {
                return Err(SessionError::Closed);
            }
        }
    }

    /// Sends an action and waits for its response, all within one step's time.
    async fn ask(&mut self, action: &Action, step: &'static str) -> Result<Message, SessionError> {
        let id = self.ids.next();
        let mut bytes = action.encode(&id).map_err(SessionError::Login)?;
        let after = self.step;
        let exchange = async {
            self.io.write_all_buf(&mut bytes).await?;
            self.io.flush().await?;
            loop {
                let Frame::Message(message) = self.read_frame().await? else { continue };
                // Errors that come before the action is parsed carry no id; nothing else is under way.
                let ours = message.action_id().is_none_or(|of| of == id);
                if ours && message.response().is_some() {
                    return Ok(message);
                }
            }
        };
        timeout(after, exchange).await.map_err(|_| SessionError::Timeout { step, after })?
    }
}

/// An action on its way to the session's task.
struct Request {
    id: String,
    bytes: BytesMut,
    deadline: Instant,
    stage: Arc<Stage>,
    reply: oneshot::Sender<Result<Reply, CallError>>,
}

/// How far an action is; decides between "not sent" and "unknown" when caller and session part.
#[derive(Debug, Default)]
struct Stage(AtomicU8);

impl Stage {
    const WAITING: u8 = 0;
    const SENT: u8 = 1;
    const WITHDRAWN: u8 = 2;

    /// The session is about to send it. False if the caller has withdrawn it.
    fn send(&self) -> bool {
        self.0.compare_exchange(Self::WAITING, Self::SENT, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The caller no longer waits. True if it will certainly not be sent.
    fn withdraw(&self) -> bool {
        match self.0.compare_exchange(Self::WAITING, Self::WITHDRAWN, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(stage) => stage == Self::WITHDRAWN,
        }
    }
}

/// Withdraws an action whose caller has gone, so that nothing is sent that nobody waits for.
struct WithdrawOnDrop(Arc<Stage>);

impl Drop for WithdrawOnDrop {
    fn drop(&mut self) {
        self.0.withdraw();
    }
}

/// Hands actions to a session's task.
#[derive(Debug, Clone)]
pub(super) struct Requests {
    queue: mpsc::Sender<Request>,
    ids: Arc<Ids>,
}

impl Requests {
    /// Runs an action. See [`super::LinkHandle::call`].
    pub(super) async fn call(&self, action: &Action, within: Duration) -> Result<Reply, CallError> {
        let not_sent = |why| Err(CallError::NotSent(why));
        let id = self.ids.next();
        let bytes = match action.encode(&id) {
            Ok(bytes) => bytes,
            Err(error) => return not_sent(error.into()),
        };
        trace!(action.id = %id, action = action.name(), "action queued");
        let deadline = later(Instant::now(), within);
        let stage = Arc::new(Stage::default());
        let withdraw = WithdrawOnDrop(Arc::clone(&stage));
        let (reply, answer) = oneshot::channel();
        match self.queue.try_send(Request { id, bytes, deadline, stage: Arc::clone(&stage), reply }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                return not_sent(NotSent::QueueFull { limit: self.queue.max_capacity() });
            }
            Err(mpsc::error::TrySendError::Closed(_)) => return not_sent(NotSent::ConnectionLost),
        }
        let outcome = timeout_at(deadline, answer).await;
        let certainly_not_sent = stage.withdraw();
        drop(withdraw);
        match outcome {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) if certainly_not_sent => not_sent(NotSent::ConnectionLost),
            Ok(Err(_)) => Err(CallError::OutcomeUnknown(OutcomeUnknown::ConnectionLost)),
            Err(_) if certainly_not_sent => not_sent(NotSent::Deadline),
            Err(_) => Err(CallError::OutcomeUnknown(OutcomeUnknown::Deadline)),
        }
    }
}

/// Where a session's events go.
#[derive(Debug)]
pub(super) enum Events {
    /// Nowhere: a session for actions.
    Ignored,
    /// To the link.
    Link {
        /// The consumer's queue.
        inbox: Inbox,
        /// Counts the boots told on this session, with the last one.
        booted: watch::Sender<Option<FullyBooted>>,
    },
}

/// What the task of a session needs beside its connection.
pub(super) struct SessionParts {
    pub(super) events: Events,
    pub(super) limits: Limits,
    pub(super) unknown_after: watch::Receiver<Duration>,
    pub(super) clock: Arc<dyn Clock>,
    /// Told of each read on any session, for whoever shows when the PBX was last heard.
    pub(super) link_heard: watch::Sender<Option<Timestamp>>,
    /// Told of each read on this session.
    pub(super) heard: watch::Sender<Timestamp>,
    pub(super) stop: CancellationToken,
}

impl LoggedIn {
    /// Splits into the task to spawn and the handle to call.
    pub(super) fn start(self, parts: SessionParts) -> (Requests, impl Future<Output = SessionError> + Send + 'static) {
        let (queue, requests) = mpsc::channel(parts.limits.queued_actions.max(1));
        let ids = Arc::new(self.ids);
        let last_heard = parts.clock.now();
        let task = Task {
            decoder: self.decoder,
            requests: Some(requests),
            ids: Arc::clone(&ids),
            current: None,
            outgoing: BytesMut::new(),
            unflushed: false,
            heard: self.heard,
            last_heard,
            asked: self.heard,
            secret: self.secret,
            parts,
        };
        (Requests { queue, ids }, task.run(self.io))
    }
}

/// The action under way.
struct Current {
    id: String,
    deadline: Instant,
    /// None for our own `Ping`.
    reply: Option<oneshot::Sender<Result<Reply, CallError>>>,
    response: Option<Message>,
    items: Vec<Message>,
    injected: Vec<Message>,
    bytes: usize,
    too_large: bool,
}

struct Task {
    decoder: Decoder,
    /// None once every handle is gone.
    requests: Option<mpsc::Receiver<Request>>,
    ids: Arc<Ids>,
    current: Option<Current>,
    outgoing: BytesMut,
    unflushed: bool,
    heard: Instant,
    last_heard: Timestamp,
    /// When the last `Ping` was sent.
    asked: Instant,
    /// What we logged in with, which no refusal may repeat.
    secret: SecretString,
    parts: SessionParts,
}

impl Task {
    async fn run(mut self, io: BoxedIo) -> SessionError {
        match self.serve(io).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn serve(&mut self, io: BoxedIo) -> Result<std::convert::Infallible, SessionError> {
        let (mut reader, mut writer) = tokio::io::split(io);
        let stop = self.parts.stop.clone();
        // What came with the answer to the login.
        self.drain()?;
        let timer = sleep_until(self.next_look());
        tokio::pin!(timer);
        loop {
            let idle = self.current.is_none() && self.outgoing.is_empty() && !self.unflushed;
            if timer.deadline() > self.next_look() {
                timer.as_mut().reset(self.next_look());
            }
            tokio::select! {
                () = stop.cancelled() => return Err(SessionError::Stopped),
                read = reader.read_buf(self.decoder.buffer_mut(READ_ROOM)) => {
                    if read? == 0 {
                        return Err(SessionError::Closed);
                    }
                    self.heard = Instant::now();
                    self.last_heard = self.parts.clock.now();
                    self.parts.heard.send_replace(self.last_heard);
                    self.parts.link_heard.send_replace(Some(self.last_heard));
                    self.drain()?;
                }
                sent = send(&mut writer, &mut self.outgoing, &mut self.unflushed), if !self.outgoing.is_empty() || self.unflushed => {
                    sent?;
                }
                request = next_request(&mut self.requests), if idle && self.requests.is_some() => {
                    match request {
                        Some(request) => self.begin(request),
                        None => self.requests = None,
                    }
                }
                () = &mut timer => {
                    self.look()?;
                    timer.as_mut().reset(self.next_look());
                }
            }
        }
    }

    fn begin(&mut self, request: Request) {
        if request.deadline <= Instant::now() || !request.stage.send() {
            return; // The caller has gone, or finds its deadline passed.
        }
        self.outgoing = request.bytes;
        self.current = Some(Current::new(request.id, request.deadline, Some(request.reply)));
    }

    fn unknown_after(&self) -> Duration {
        *self.parts.unknown_after.borrow()
    }

    /// When silence or a deadline wants attention next.
    fn next_look(&self) -> Instant {
        let lost = later(self.heard, self.unknown_after());
        match &self.current {
            Some(current) => lost.min(current.deadline),
            // With bytes of a given-up action still in the way there is nothing to do but to wait for them to leave.
            None if !self.outgoing.is_empty() || self.unflushed => lost,
            None => lost.min(self.ping_due()),
        }
    }

    fn ping_due(&self) -> Instant {
        later(self.heard.max(self.asked), self.unknown_after() / 3)
    }

    fn look(&mut self) -> Result<(), SessionError> {
        let now = Instant::now();
        if now >= later(self.heard, self.unknown_after()) {
            return Err(SessionError::Silent { after: self.unknown_after() });
        }
        if let Some(current) = self.current.take_if(|current| current.deadline <= now)
            && let Some(reply) = current.reply
        {
            // What still comes of it finds no owner and is dropped.
            let _gone = reply.send(Err(CallError::OutcomeUnknown(OutcomeUnknown::Deadline)));
        }
        if self.current.is_none() && self.outgoing.is_empty() && !self.unflushed && now >= self.ping_due() {
            let id = self.ids.next();
            // A ping's id is ours and always fits.
            if let Ok(bytes) = Action::ping().encode(&id) {
                self.outgoing = bytes;
                self.asked = now;
                let deadline = later(now, self.unknown_after() / 3);
                self.current = Some(Current::new(id, deadline, None));
            }
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), SessionError> {
        while let Some(frame) = self.decoder.next_frame()? {
            if let Frame::Message(message) = frame {
                self.receive(message);
            }
        }
        Ok(())
    }

    fn receive(&mut self, message: Message) {
        let limits = self.parts.limits;
        if let Some(current) = self.current.as_mut()
            && message.action_id().is_some_and(|id| id == current.id)
        {
            if let Some(complete) = current.receive(&message, limits)
                && let Some(current) = self.current.take()
            {
                current.finish(complete, limits, &self.secret);
            }
            return;
        }
        match &self.parts.events {
            Events::Link { inbox, booted } if message.event().is_some() => {
                if let Ok(boot) = FullyBooted::read(&message) {
                    booted.send_replace(Some(boot));
                } else {
                    inbox.event(self.last_heard, self.heard, &message);
                }
            }
            Events::Link { .. } | Events::Ignored => trace!("message without an owner dropped"),
        }
    }
}

/// `at + by`; a duration beyond the clock's range (a configuration may say anything) is as good as a year.
fn later(at: Instant, by: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    at.checked_add(by).unwrap_or(at + YEAR)
}

/// One write, or the flush after the last one.
///
/// Cancel safety: as `write_buf` and `flush`, whose progress is recorded before this returns.
async fn send<W: AsyncWrite + Unpin>(writer: &mut W, outgoing: &mut BytesMut, unflushed: &mut bool) -> io::Result<()> {
    if outgoing.is_empty() {
        writer.flush().await?;
        *unflushed = false;
    } else {
        if writer.write_buf(outgoing).await? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        *unflushed = true;
    }
    Ok(())
}

async fn next_request(requests: &mut Option<mpsc::Receiver<Request>>) -> Option<Request> {
    requests.as_mut()?.recv().await
}

/// How an answer ended.
enum Complete {
    /// By the response alone.
    Response(Message),
    /// By the list's last event.
    List(Message),
}

impl Current {
    fn new(id: String, deadline: Instant, reply: Option<oneshot::Sender<Result<Reply, CallError>>>) -> Self {
        Self {
            id,
            deadline,
            reply,
            response: None,
            items: Vec::new(),
            injected: Vec::new(),
            bytes: 0,
            too_large: false,
        }
    }

    /// Takes a message with this action's id; says when the answer is complete.
    fn receive(&mut self, message: &Message, limits: Limits) -> Option<Complete> {
        let list = message.get("EventList");
        let list_is = |word: &str| list.as_ref().is_some_and(|value| value.trim().eq_ignore_ascii_case(word));
        if message.response().is_some() {
            if self.response.is_some() {
                // An error inside an open list; the list goes on.
                self.keep(message, limits, true);
                return None;
            }
            if list_is("start") {
                self.response = Some(message.compact());
                return None;
            }
            return Some(Complete::Response(message.compact()));
        }
        if list_is("Complete") || list_is("cancelled") {
            return Some(Complete::List(message.compact()));
        }
        self.keep(message, limits, false);
        None
    }

    fn keep(&mut self, message: &Message, limits: Limits, injected: bool) {
        self.bytes = self.bytes.saturating_add(message.wire_len());
        let items = self.items.len() + self.injected.len();
        if self.too_large || items >= limits.list_items || self.bytes > limits.list_bytes {
            // The rest of the list must still be waited for, but is not kept.
            self.too_large = true;
            self.items = Vec::new();
            self.injected = Vec::new();
        } else if injected {
            self.injected.push(message.compact());
        } else {
            self.items.push(message.compact());
        }
    }

    fn finish(self, complete: Complete, limits: Limits, secret: &SecretString) {
        let Some(reply) = self.reply else { return };
        let answer = if self.too_large {
            Err(CallError::TooLarge { items: limits.list_items, bytes: limits.list_bytes })
        } else {
            let (response, complete) = match complete {
                Complete::Response(response) => (response, None),
                Complete::List(complete) => (self.response.unwrap_or_else(|| complete.clone()), Some(complete)),
            };
            if response.is_error() {
                Err(CallError::Refused(Box::new(without_ours(&response, &[secret]))))
            } else {
                Ok(Reply { response, items: self.items, injected: self.injected, complete })
            }
        };
        // A caller that has gone does not want it.
        let _gone = reply.send(answer);
    }
}
