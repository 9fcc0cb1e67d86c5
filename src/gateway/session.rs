//! One client, without its sockets: what it asks, what it is answered, what goes on to Asterisk.
//!
//! Everything here is a function of bytes and time; [`connection`](super::connection) moves the bytes. Towards Asterisk the
//! client's actions go on in their order, each one written anew from what was read of it. From Asterisk everything comes
//! back as it is, but for the three answers that speak of rights (`Events`, `ListCommands`, and the replies to what we
//! asked ourselves).
//!
//! **An `Originate` is never left waiting inside Asterisk.** A session there does one action after the other, so behind a slow
//! one it might be run half a minute after it was judged. It goes on only when nothing before it is unanswered, and is
//! judged again then.
//!
//! What we answer ourselves is said at once if it bears an `ActionID`; without one a client can only count answers, so then it
//! waits for its turn.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::BytesMut;
use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{
    admission::{Refusal, Rules, Verdict, admit},
    answer::{self, header, id_of},
    limits::{PENDING, Ticket},
    rights::Permit,
    server::Shared,
    settings::{AddressRange, GatewaySettings, GatewayUser, LONGEST_WAIT},
};
use crate::{
    ids::TrunkId,
    wire::ami::{
        Classes,
        client::md5_key,
        request::{Incoming, Request},
    },
};

/// How long an action that is no call waits for Asterisk to be there: a reconnect takes milliseconds.
const SHORT_WAIT: Duration = Duration::from_secs(2);
/// How often calls that wait are judged again, whatever wakes them besides.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Actions that may wait or be unanswered before no more are read.
const UNANSWERED: usize = 1000;
/// Bytes of actions that may wait before no more are read.
const UNSENT: usize = 256 << 10;
/// How long a call waits behind an unanswered action before Asterisk is asked whether it is still at it: some actions are
/// never answered (`Queues` prints text only).
const PROBE_AFTER: Duration = Duration::from_millis(200);
/// Calls queued at Asterisk that are remembered, to give their room back should no channel be made.
const REMEMBERED: usize = 1000;
/// What it is asked by.
const PROBE: &[u8] = b"trunkwarden-probe";
/// How long a `Logoff` waits for what was asked before it.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// Asterisk waits as long before it says so (`main/manager.c`, `session_do`).
pub(super) const LOGIN_PENALTY: Duration = Duration::from_secs(1);

/// One client.
#[derive(Debug)]
pub(super) struct Session {
    shared: Arc<Shared>,
    peer: std::net::IpAddr,
    user: Option<User>,
    challenge: Option<String>,
    /// What goes to the client.
    pub(super) out: BytesMut,
    /// What goes to Asterisk.
    pub(super) up_out: Vec<u8>,
    upstream: Upstream,
    /// Actions that wait to go on, in their order.
    queue: VecDeque<Waiting>,
    /// Calls that wait for room on their trunk.
    parked: Vec<Waiting>,
    /// When the calls that wait for their turn were last looked at.
    looked: Instant,
    /// What is to be answered, in its order.
    pending: VecDeque<Pending>,
    /// Calls queued at Asterisk that have room on a trunk, the oldest first.
    queued: VecDeque<Queued>,
    /// The event mask the client asked for.
    mask: Classes,
    /// The filters Asterisk took: a new session there is given them again.
    filters: Vec<Request>,
    /// The list that is being sent.
    list: Option<List>,
    /// `FullyBooted`, until the filters are in place.
    booted: Vec<u8>,
    ending: Ending,
}

/// Who logged in, and with which secret: a configuration read anew may have removed either.
#[derive(Debug)]
struct User {
    name: String,
    secret: SecretString,
}

/// How it stands with Asterisk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Upstream {
    /// There is no session yet, and none has failed.
    Coming,
    /// There is one.
    Up,
    /// There is none.
    Away {
        /// Why, for the client.
        why: String,
    },
}

/// How the session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It does not.
    GoOn,
    /// When all was written.
    AfterOut,
    /// Nothing more is read; when all was written, a second later.
    Penalty,
}

/// An action that goes on later.
#[derive(Debug)]
struct Waiting {
    request: Request,
    arrived: Instant,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    /// Not judged yet: what Asterisk's actions need is not known yet.
    Unjudged,
    /// It passes.
    Action,
    /// A call that may be made now.
    Call,
    /// It was answered by us; the answer has no id, and so must come in its turn.
    Said(Vec<u8>),
    /// `Logoff`.
    Logoff,
}

/// What is to be answered.
#[derive(Debug)]
struct Pending {
    id: Option<Vec<u8>>,
    action: String,
    then: Then,
}

impl Pending {
    /// Its id as it is found in an answer: blanks around it are lost.
    fn own_id(&self) -> Option<&[u8]> {
        self.id.as_deref().map(<[u8]>::trim_ascii)
    }
}

/// What its answer is good for.
#[derive(Debug)]
enum Then {
    /// It is handed on.
    HandOn,
    /// It answers something of ours.
    Swallow,
    /// It says that Asterisk is done with all that was asked before.
    Probe,
    /// Our own answer, whose turn has not come.
    Say(Vec<u8>),
    /// `Events`: the mask that is asked for, as it was asked for.
    Mask(Classes),
    /// `Filter`.
    Filter(Request),
    /// `ListCommands`: lines of actions the user may not run are left out.
    Commands,
    /// A call.
    Call(Ticket),
}

/// A call that Asterisk took, and whose `OriginateResponse` (if it is `Async`) has not passed by.
#[derive(Debug)]
struct Queued {
    id: Vec<u8>,
    since: Instant,
    ticket: Ticket,
}

/// An event list that began.
#[derive(Debug)]
struct List {
    id: Option<Vec<u8>>,
    action: String,
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>, peer: std::net::IpAddr) -> Self {
        let mut out = BytesMut::with_capacity(1024);
        out.extend_from_slice(shared.banner().as_bytes());
        out.extend_from_slice(b"\r\n");
        Self {
            shared,
            peer,
            user: None,
            challenge: None,
            out,
            up_out: Vec::new(),
            upstream: Upstream::Coming,
            queue: VecDeque::new(),
            parked: Vec::new(),
            looked: Instant::now(),
            pending: VecDeque::new(),
            queued: VecDeque::new(),
            mask: Classes::ALL,
            filters: Vec::new(),
            list: None,
            booted: Vec::new(),
            ending: Ending::GoOn,
        }
    }

    /// Whether somebody is logged in.
    pub(super) const fn is_logged_in(&self) -> bool {
        self.user.is_some()
    }

    /// The user's name.
    pub(super) fn user_name(&self) -> &str {
        self.user.as_ref().map_or("", |user| &user.name)
    }

    pub(super) const fn ending(&self) -> Ending {
        self.ending
    }

    pub(super) const fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// Whether more may be read of the client.
    pub(super) fn takes_more(&self) -> bool {
        let waiting: usize = self.queue.iter().chain(&self.parked).map(|waiting| waiting.request.size()).sum();
        self.ending == Ending::GoOn
            && waiting < UNSENT
            && self.queue.len() + self.parked.len() + self.pending.len() < UNANSWERED
    }

    /// Whether calls wait for room.
    pub(super) fn waits_for_room(&self) -> bool {
        !self.parked.is_empty()
    }

    // --- from the client -------------------------------------------------------------------------------------------

    /// Takes a message of the client.
    pub(super) fn take(&mut self, incoming: Incoming, now: Instant) {
        if self.ending != Ending::GoOn {
            return;
        }
        match incoming {
            Incoming::LineTooLong(request) => self.refuse(&request, "Failed to parse message: line too long"),
            Incoming::TooManyLines(request) => {
                self.refuse(&request, "Too many lines in message or allocation failure");
            }
            Incoming::Message(request) => self.act(request, now),
        }
    }

    fn act(&mut self, request: Request, now: Instant) {
        let action = request.action();
        let is = |name: &str| action.eq_ignore_ascii_case(name);
        if action.is_empty() {
            return self.refuse(&request, "Missing action in request");
        }
        if is("Challenge") {
            return self.challenge(&request);
        }
        if is("Logoff") {
            return self.queue.push_back(Waiting { request, arrived: now, what: What::Logoff });
        }
        let Some(user) = &self.user else {
            if is("Login") {
                return self.log_in(&request);
            }
            return self.refuse(&request, "Permission denied");
        };
        if is("Login") {
            return self.say(&request, "Success", &[("Message", "Already authenticated")]);
        }
        let settings = self.shared.settings();
        // A user that was removed is cut off by the connection; until then nothing is theirs any more.
        let Some(user) = settings.users.iter().find(|known| known.name == user.name) else {
            return self.refuse(&request, "Permission denied");
        };
        match self.judge(&request, user, &settings) {
            Judged::Answered => {}
            Judged::Goes(what) => self.queue.push_back(Waiting { request, arrived: now, what }),
        }
    }

    /// Judges an action; what is refused is answered.
    fn judge(&mut self, request: &Request, user: &GatewayUser, settings: &GatewaySettings) -> Judged {
        let catalogue = self.shared.catalogue();
        let action = request.action();
        match catalogue.permits(user, &action) {
            Permit::Granted => {}
            Permit::NotYet => return Judged::Goes(What::Unjudged),
            Permit::Denied => {
                self.refuse(request, "Permission denied");
                return Judged::Answered;
            }
            Permit::Unknown => {
                self.shared.ask_catalogue_again();
                // As it came: it need not be UTF-8.
                let name = request.values("Action").find(|value| !value.is_empty()).unwrap_or_default();
                let end = b". Use Action: ListCommands to show available commands.";
                self.refuse(request, &[b"Invalid/unknown command: ", name, end].concat());
                return Judged::Answered;
            }
        }
        match admit(request, &rules(settings, user, &catalogue.aliases), &self.shared.gate) {
            Verdict::Pass => Judged::Goes(What::Action),
            Verdict::Dial(_) => Judged::Goes(What::Call),
            Verdict::Refuse(refusal) => {
                self.hold_back(request, &refusal);
                Judged::Answered
            }
        }
    }

    /// A call, or another way to dial, is refused.
    fn hold_back(&mut self, request: &Request, refusal: &Refusal) {
        if let Some(trunk) = refusal.counted() {
            self.shared.refusals.count(trunk);
            self.shared.figures.call_refused(trunk);
        }
        debug!(user.id = self.user_name(), action.id = %request.header("ActionID").escape_debug(), reason = %refusal, "refused");
        let text = format!("trunkwarden: {refusal}");
        if refusal.counted().is_some() {
            self.say(request, "Error", &[("Message", &text)]);
        } else {
            self.refuse(request, &text);
        }
    }

    fn refuse<V: AsRef<[u8]> + ?Sized>(&mut self, request: &Request, message: &V) {
        self.shared.figures.action("refused");
        self.say(request, "Error", &[("Message", message)]);
    }

    /// Answers by ourselves: at once if the answer can be told by its id, else in its turn.
    fn say<V: AsRef<[u8]> + ?Sized>(&mut self, request: &Request, word: &str, headers: &[(&str, &V)]) {
        let id = id_of(request);
        if id.is_some() || (self.pending.is_empty() && self.queue.is_empty()) {
            answer::response(&mut self.out, word, id, headers);
        } else {
            let mut text = Vec::new();
            answer::response(&mut text, word, None, headers);
            let (request, arrived) = (Request::default(), Instant::now());
            self.queue.push_back(Waiting { request, arrived, what: What::Said(text) });
        }
    }

    // --- logging in ------------------------------------------------------------------------------------------------

    fn challenge(&mut self, request: &Request) {
        if !request.header("AuthType").eq_ignore_ascii_case("MD5") {
            return self.refuse(request, "Must specify AuthType");
        }
        let number = self.challenge.get_or_insert_with(|| rand::random_range(0..1_000_000_000_u32).to_string()).clone();
        self.say(request, "Success", &[("Challenge", &number)]);
    }

    fn log_in(&mut self, request: &Request) {
        let settings = self.shared.settings();
        let name = request.header("Username");
        // As in Asterisk, whatever the case.
        let known = settings.users.iter().find(|user| user.name.eq_ignore_ascii_case(&name));
        let Some(user) = known.filter(|user| self.is_proven(request, user)) else {
            warn!(user.id = %name.escape_debug(), "login refused");
            self.refuse(request, "Authentication failed");
            self.ending = Ending::Penalty;
            return;
        };
        if let Some(mask) = Classes::of_mask(&request.header("Events")) {
            self.mask = mask;
        }
        self.user = Some(User { name: user.name.clone(), secret: user.secret.clone() });
        self.say(request, "Success", &[("Message", "Authentication accepted")]);
    }

    fn is_proven(&self, request: &Request, user: &GatewayUser) -> bool {
        let same = |one: &[u8], other: &SecretString| bool::from(one.ct_eq(other.expose_secret().as_bytes()));
        let given = |name: &'static str| request.values(name).next().unwrap_or_default();
        AddressRange::allows(&user.allow, self.peer)
            && if request.header("AuthType").eq_ignore_ascii_case("MD5") {
                (self.challenge.as_ref()).is_some_and(|number| same(given("Key"), &md5_key(number, &user.secret)))
            } else {
                same(given("Secret"), &user.secret)
            }
    }

    /// Whether the configuration still has the user, with the secret they came with.
    pub(super) fn is_still_welcome(&self) -> bool {
        let settings = self.shared.settings();
        self.user.as_ref().is_none_or(|user| {
            settings.users.iter().any(|known| {
                known.name == user.name
                    && known.secret.expose_secret() == user.secret.expose_secret()
                    && AddressRange::allows(&known.allow, self.peer)
            })
        })
    }

    /// The events the user may read.
    fn reads(&self) -> Classes {
        let settings = self.shared.settings();
        let known = settings.users.iter().find(|known| known.name == self.user_name());
        known.map_or(Classes::NONE, |user| user.read)
    }

    // --- the session at Asterisk -----------------------------------------------------------------------------------

    /// The mask to log in with.
    pub(super) fn login_mask(&self) -> String {
        self.mask.both(self.reads()).to_mask()
    }

    /// There is a session at Asterisk.
    pub(super) fn connected(&mut self) {
        self.upstream = Upstream::Up;
        self.up_out.clear();
        // Before our own answers that wait for their turn.
        for (place, request) in self.filters.iter().enumerate() {
            request.write(&mut self.up_out);
            let (id, action) = (id_of(request).map(<[u8]>::to_vec), request.action().into_owned());
            self.pending.insert(place, Pending { id, action, then: Then::Swallow });
        }
    }

    /// There is none any more, or none could be had.
    pub(super) fn away(&mut self, why: &str) {
        let lost = self.upstream == Upstream::Up;
        self.upstream = Upstream::Away { why: why.to_owned() };
        self.up_out.clear();
        self.queued.clear();
        if lost && let Some(list) = self.list.take() {
            // The client waits for the end of its list.
            let mut text = format!("Event: {}\r\n", end_of_list(&list.action)).into_bytes();
            if let Some(id) = &list.id {
                text.extend_from_slice(b"ActionID: ");
                text.extend_from_slice(id);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"EventList: Cancelled\r\nListItems: 0\r\n\r\n");
            self.out.extend_from_slice(&text);
        }
        for pending in std::mem::take(&mut self.pending) {
            let what = match pending.then {
                Then::Swallow | Then::Probe => continue,
                Then::Say(text) => {
                    self.out.extend_from_slice(&text);
                    continue;
                }
                Then::Call(_) => "whether the call was started is not known",
                Then::HandOn | Then::Mask(_) | Then::Filter(_) | Then::Commands => "whether it was done is not known",
            };
            let text = format!("trunkwarden: Asterisk is away ({why}); {what}");
            answer::error(&mut self.out, pending.id.as_deref(), &text);
        }
    }

    /// Takes a message of Asterisk.
    pub(super) fn hand_on(&mut self, message: &[u8]) {
        let text = message.trim_ascii_start();
        if text.first() == Some(&b'R') && text.starts_with(b"Response:") {
            self.answered(message, text);
        } else if self.is_restoring() {
            // Events begin with FullyBooted, once the client's filters are all in place; that itself no filter stops, as
            // with whoever logs in.
            if text.starts_with(b"Event: FullyBooted") {
                self.booted = message.to_vec();
            }
        } else {
            if self.list.is_some()
                && header(text, "EventList").is_some_and(|word| word.eq_ignore_ascii_case(b"Complete"))
            {
                self.list = None;
            }
            if !self.queued.is_empty() {
                self.originated(text);
            }
            self.out.extend_from_slice(message);
        }
    }

    /// Keeps the room of a call that Asterisk took, until [`Session::originated`] hears what became of it.
    fn keep(&mut self, id: Vec<u8>, ticket: Ticket) {
        let now = Instant::now();
        // Its places end by themselves then: there is nothing left to give back.
        while self.queued.pop_front_if(|one| now >= one.since + PENDING).is_some() {}
        if self.queued.len() < REMEMBERED {
            self.queued.push_back(Queued { id, since: now, ticket });
        }
    }

    /// Gives the room of a call back that failed without a channel: an unknown endpoint, an extension that is not there.
    ///
    /// `Reason: 0` may also be said of a channel that began and failed. Its place is that channel's by then; were it not
    /// yet, one call more could pass until the channel's end is heard.
    fn originated(&mut self, text: &[u8]) {
        if !text.starts_with(b"Event: OriginateResponse") {
            return;
        }
        let Some(id) = header(text, "ActionID") else { return };
        let Some(place) = self.queued.iter().position(|one| one.id == id) else { return };
        let Some(call) = self.queued.remove(place) else { return };
        if header(text, "Response") == Some(b"Failure") && header(text, "Reason") == Some(b"0") {
            call.ticket.failed();
        }
    }

    fn answered(&mut self, message: &[u8], text: &[u8]) {
        let id = header(text, "ActionID");
        // Asterisk answers in the order it was asked, so whatever stands before this was never answered. What has no id is
        // the answer to the first without one, or, where there is none, to whatever is next. Blanks around an id are lost
        // here, and Asterisk cuts a long one.
        let owed = |one: &Pending| !matches!(one.then, Then::Say(_));
        let same = self.pending.iter().position(|one| owed(one) && one.own_id() == id);
        let next = || self.pending.iter().position(owed);
        let place = same.or_else(|| match id {
            None => next(),
            Some(id) => {
                next().filter(|&at| id.len() > 64 && self.pending[at].own_id().is_some_and(|own| own.starts_with(id)))
            }
        });
        let Some(place) = place else {
            self.out.extend_from_slice(message);
            return;
        };
        // A list before it is over.
        self.list = None;
        let mut settled: Vec<Pending> = self.pending.drain(..=place).collect();
        let Some(pending) = settled.pop() else { return };
        for early in settled {
            if let Then::Say(words) = early.then {
                self.out.extend_from_slice(&words);
            }
        }
        let well = text.starts_with(b"Response: Success");
        if well && header(text, "EventList").is_some_and(|word| word.eq_ignore_ascii_case(b"start")) {
            self.list = Some(List { id: pending.id.clone(), action: pending.action.clone() });
        }
        match pending.then {
            Then::Swallow | Then::Probe | Then::Say(_) => {}
            Then::HandOn => self.out.extend_from_slice(message),
            Then::Filter(request) => {
                if well {
                    self.filters.push(request);
                }
                self.out.extend_from_slice(message);
            }
            Then::Mask(mask) => {
                if well {
                    self.mask = mask;
                }
                // What is left of the mask may be nothing, which is not what was asked for.
                match memchr::memmem::find(message, b"Events: Off") {
                    Some(at) if well && mask != Classes::NONE => {
                        self.out.extend_from_slice(&message[..at]);
                        self.out.extend_from_slice(b"Events: On");
                        self.out.extend_from_slice(&message[at + b"Events: Off".len()..]);
                    }
                    Some(_) | None => self.out.extend_from_slice(message),
                }
            }
            Then::Commands => self.list_commands(message),
            Then::Call(ticket) => {
                if text.starts_with(b"Response: Error") {
                    ticket.failed();
                } else if well
                    && ticket.holds_room()
                    && let Some(id) = pending.id
                {
                    self.keep(id, ticket);
                }
                self.out.extend_from_slice(message);
            }
        }
        if !self.booted.is_empty() && !self.is_restoring() {
            self.out.extend_from_slice(&std::mem::take(&mut self.booted));
        }
        while let Some(Pending { then: Then::Say(_), .. }) = self.pending.front() {
            if let Some(Pending { then: Then::Say(words), .. }) = self.pending.pop_front() {
                self.out.extend_from_slice(&words);
            }
        }
    }

    /// Whether filters of the session before are being set.
    fn is_restoring(&self) -> bool {
        matches!(self.pending.front(), Some(Pending { then: Then::Swallow, .. }))
    }

    /// The list of actions without those the user may not run.
    fn list_commands(&mut self, message: &[u8]) {
        let settings = self.shared.settings();
        let catalogue = self.shared.catalogue();
        let Some(user) = settings.users.iter().find(|known| known.name == self.user_name()) else { return };
        for line in message.split_inclusive(|&byte| byte == b'\n') {
            let listed = line.windows(7).any(|part| part == b"(Priv: ");
            let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
            let denied = || catalogue.permits(user, &String::from_utf8_lossy(name)) == Permit::Denied;
            if !(listed && denied()) {
                self.out.extend_from_slice(line);
            }
        }
    }

    // --- onwards ---------------------------------------------------------------------------------------------------

    /// Moves on what can be moved on, and says when to be asked again at the latest.
    pub(super) fn pump(&mut self, now: Instant) -> Option<Instant> {
        if self.ending != Ending::GoOn {
            return None;
        }
        if !self.parked.is_empty() {
            self.pump_parked(now);
        }
        while let Some(front) = self.queue.front() {
            match (&self.upstream, &front.what) {
                (_, What::Said(_)) => self.say_in_turn(),
                (_, What::Logoff) => {
                    let owes = !self.pending.is_empty() || !self.parked.is_empty();
                    if owes && now < front.arrived + LAST_ANSWERS {
                        break;
                    }
                    self.leave();
                    return None;
                }
                (Upstream::Up, What::Unjudged) if self.shared.catalogue().is_empty() => {
                    if !self.expire(now) {
                        break;
                    }
                }
                (Upstream::Up, What::Unjudged) => self.judge_front(),
                (Upstream::Up, What::Action) => {
                    if let Some(waiting) = self.queue.pop_front() {
                        self.send(waiting.request, None);
                    }
                }
                (Upstream::Up, What::Call) => {
                    // Behind an unanswered action it might be run much later than it is judged.
                    if self.is_waited_for() {
                        self.refuse_waiting(now);
                        break;
                    }
                    let Some(waiting) = self.queue.pop_front() else { break };
                    let Some(waiting) = self.ahead(|session| session.place(waiting, now)) else { continue };
                    // Without an id its answer must come in its turn.
                    if id_of(&waiting.request).is_none() {
                        self.queue.push_front(waiting);
                        break;
                    }
                    self.parked.push(waiting);
                }
                (Upstream::Coming | Upstream::Away { .. }, What::Unjudged | What::Action | What::Call) => {
                    if matches!(self.upstream, Upstream::Away { .. }) {
                        self.refuse_calls();
                    }
                    if !self.queue.is_empty() && !self.expire(now) {
                        break;
                    }
                }
            }
        }
        // What stands behind the first waits for it.
        let soon = |waiting: &Waiting| match waiting.what {
            What::Said(_) | What::Call => now + LOOK_AGAIN,
            What::Unjudged => (now + LOOK_AGAIN).min(waiting.arrived + SHORT_WAIT),
            What::Action => waiting.arrived + SHORT_WAIT,
            What::Logoff => waiting.arrived + LAST_ANSWERS,
        };
        self.queue.front().into_iter().chain(&self.parked).map(soon).min()
    }

    /// The client leaves, or has left: what still waits is answered.
    fn leave(&mut self) {
        let Some(logoff) = self.queue.pop_front() else { return };
        for waiting in std::mem::take(&mut self.parked) {
            self.refuse(&waiting.request, "trunkwarden: the connection ends; the call was not started");
        }
        // At the end of its words nothing is said to who has hung up.
        if !logoff.request.is_empty() {
            let farewell = [("Message", "Thanks for all the fish.")];
            answer::response(&mut self.out, "Goodbye", id_of(&logoff.request), &farewell);
        }
        self.queue.clear();
        self.ending = Ending::AfterOut;
    }

    /// The client says no more: what it has asked is still done.
    pub(super) fn hung_up(&mut self, now: Instant) {
        self.queue.push_back(Waiting { request: Request::default(), arrived: now, what: What::Logoff });
    }

    /// Does something for the action that was first in the queue: what is answered there comes before what waits.
    fn ahead<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> T {
        let rest = std::mem::take(&mut self.queue);
        let done = act(self);
        self.queue.extend(rest);
        done
    }

    /// Calls that wait behind an unanswered action: refused once their trunk holds, or they have waited for too long. Looked
    /// at now and then.
    fn refuse_waiting(&mut self, now: Instant) {
        if now < self.looked + LOOK_AGAIN {
            return;
        }
        self.looked = now;
        let settings = self.shared.settings();
        let catalogue = self.shared.catalogue();
        let Some(user) = settings.users.iter().find(|known| known.name == self.user_name()) else { return };
        let mut longest = Duration::ZERO;
        let mut look = |session: &mut Self, waiting: Waiting| {
            if waiting.what != What::Call {
                return Some(waiting);
            }
            let waited = now.duration_since(waiting.arrived);
            let verdict = admit(&waiting.request, &rules(&settings, user, &catalogue.aliases), &session.shared.gate);
            if let Verdict::Refuse(refusal) = verdict {
                session.hold_back(&waiting.request, &refusal);
            } else if waited >= LONGEST_WAIT {
                let text =
                    "trunkwarden: Asterisk is still at an earlier action of this connection; the call was not started";
                session.shared.figures.call_lost();
                session.say(&waiting.request, "Error", &[("Message", text)]);
            } else {
                longest = longest.max(waited);
                return Some(waiting);
            }
            None
        };
        for waiting in std::mem::take(&mut self.queue) {
            let kept = look(self, waiting);
            self.queue.extend(kept);
        }
        for waiting in std::mem::take(&mut self.parked) {
            let kept = look(self, waiting);
            self.parked.extend(kept);
        }
        let asked = self.pending.iter().any(|one| matches!(one.then, Then::Probe));
        if longest >= PROBE_AFTER && !asked && self.upstream == Upstream::Up {
            let mut ping = Request::default();
            ping.push(b"Action: Ping");
            ping.push(&[b"ActionID: ", PROBE].concat());
            ping.write(&mut self.up_out);
            self.pending.push_back(Pending { id: Some(PROBE.to_vec()), action: String::new(), then: Then::Probe });
        }
    }

    /// Our own answer, behind those that Asterisk owes.
    fn say_in_turn(&mut self) {
        let Some(Waiting { what: What::Said(text), .. }) = self.queue.pop_front() else { return };
        if self.pending.is_empty() {
            self.out.extend_from_slice(&text);
        } else {
            self.pending.push_back(Pending { id: None, action: String::new(), then: Then::Say(text) });
        }
    }

    /// Whether Asterisk is still at something.
    fn is_waited_for(&self) -> bool {
        self.list.is_some() || self.pending.iter().any(|one| !matches!(one.then, Then::Say(_)))
    }

    fn judge_front(&mut self) {
        let settings = self.shared.settings();
        let Some(mut waiting) = self.queue.pop_front() else { return };
        let Some(user) = settings.users.iter().find(|known| known.name == self.user_name()) else {
            return self.ahead(|session| session.refuse(&waiting.request, "Permission denied"));
        };
        match self.ahead(|session| session.judge(&waiting.request, user, &settings)) {
            Judged::Answered => {}
            Judged::Goes(what) => {
                waiting.what = what;
                self.queue.push_front(waiting);
            }
        }
    }

    /// Sends a call on if it may be made now; gives it back if it may wait for room.
    fn place(&mut self, waiting: Waiting, now: Instant) -> Option<Waiting> {
        let settings = self.shared.settings();
        let catalogue = self.shared.catalogue();
        let Some(user) = settings.users.iter().find(|known| known.name == self.user_name()) else {
            self.refuse(&waiting.request, "Permission denied");
            return None;
        };
        let gate = &self.shared.gate;
        let trunks: Vec<TrunkId> = match admit(&waiting.request, &rules(&settings, user, &catalogue.aliases), gate) {
            Verdict::Pass => Vec::new(),
            Verdict::Dial(trunks) => trunks,
            Verdict::Refuse(refusal) => {
                self.hold_back(&waiting.request, &refusal);
                return None;
            }
        };
        let released = |trunk: &TrunkId| gate.state(trunk).and_then(|state| state.released);
        match self.shared.limiter.take(&trunks, released, self.shared.clock.now()) {
            Ok(ticket) => {
                self.shared.figures.call_passed(&trunks);
                self.send(waiting.request, Some(ticket));
                None
            }
            Err(full) => {
                let patience = full.patience.map(|patience| patience.min(LONGEST_WAIT));
                if patience.is_some_and(|patience| now < waiting.arrived + patience) {
                    return Some(waiting);
                }
                self.shared.figures.call_limited(&full.trunk);
                self.say(&waiting.request, "Error", &[("Message", &format!("trunkwarden: {full}"))]);
                None
            }
        }
    }

    /// Calls that wait for room: those that find some, or wait no longer, leave.
    fn pump_parked(&mut self, now: Instant) {
        if self.upstream != Upstream::Up {
            return self.refuse_calls();
        }
        if self.is_waited_for() {
            return self.refuse_waiting(now);
        }
        for waiting in std::mem::take(&mut self.parked) {
            // One that goes on is behind nothing that those after it could wait for: they are placed next time.
            let kept = if self.is_waited_for() { Some(waiting) } else { self.place(waiting, now) };
            self.parked.extend(kept);
        }
    }

    /// No call waits for Asterisk: whoever dials should know at once.
    fn refuse_calls(&mut self) {
        let Upstream::Away { why } = &self.upstream else { return };
        let text = format!("trunkwarden: Asterisk is away ({why}); the call was not started");
        let is_call = |waiting: &Waiting| {
            waiting.what == What::Call
                || (waiting.what == What::Unjudged && waiting.request.action().eq_ignore_ascii_case("Originate"))
        };
        let parked = std::mem::take(&mut self.parked);
        for waiting in std::mem::take(&mut self.queue).into_iter().chain(parked) {
            if is_call(&waiting) {
                self.shared.figures.call_lost();
                self.say(&waiting.request, "Error", &[("Message", &text)]);
            } else {
                self.queue.push_back(waiting);
            }
        }
    }

    /// Answers the first that waits, if it has waited long enough for Asterisk; says whether it did.
    fn expire(&mut self, now: Instant) -> bool {
        let Some(waiting) = self.queue.pop_front_if(|waiting| now >= waiting.arrived + SHORT_WAIT) else {
            return false;
        };
        if waiting.request.action().eq_ignore_ascii_case("Ping") {
            // The question is whether the connection lives, and this one does.
            let time = self.shared.clock.now();
            let stamp = format!("{}.{:06}", time.as_second(), time.subsec_microsecond());
            self.ahead(|session| {
                session.say(&waiting.request, "Success", &[("Ping", "Pong"), ("Timestamp", &stamp)]);
            });
            return true;
        }
        let why = match &self.upstream {
            Upstream::Away { why } => why.as_str(),
            Upstream::Coming | Upstream::Up => "it has not answered yet",
        };
        let text = format!("trunkwarden: Asterisk is away ({why}); nothing was done");
        self.ahead(|session| session.refuse(&waiting.request, &text));
        true
    }

    /// Sends an action on.
    fn send(&mut self, request: Request, ticket: Option<Ticket>) {
        let id = id_of(&request).map(<[u8]>::to_vec);
        let action = request.action().into_owned();
        let is = |name: &str| action.eq_ignore_ascii_case(name);
        let then = if let Some(ticket) = ticket {
            request.write(&mut self.up_out);
            Then::Call(ticket)
        } else if is("Events")
            && let Some(mask) = Classes::of_mask(&request.header("EventMask"))
        {
            self.mask_on(&request, mask);
            Then::Mask(mask)
        } else {
            request.write(&mut self.up_out);
            self.shared.figures.action("passed");
            if is("Filter") {
                Then::Filter(request)
            } else if is("ListCommands") {
                Then::Commands
            } else {
                Then::HandOn
            }
        };
        self.pending.push_back(Pending { id, action, then });
    }

    /// Asks for the events of `mask` that the user may read: Asterisk knows only what our own user may.
    fn mask_on(&mut self, request: &Request, mask: Classes) {
        let effective = mask.both(self.reads()).to_mask();
        let mut anew = Request::default();
        for line in request.lines() {
            let is_mask = line.get(..10).is_some_and(|name| name.eq_ignore_ascii_case(b"EventMask:"));
            if is_mask {
                anew.push(format!("EventMask: {effective}").as_bytes());
            } else {
                anew.push(line);
            }
        }
        anew.write(&mut self.up_out);
    }
}

/// What becomes of an action that was judged.
enum Judged {
    Answered,
    Goes(What),
}

fn rules<'a>(settings: &'a GatewaySettings, user: &'a GatewayUser, aliases: &'a [(String, String)]) -> Rules<'a> {
    Rules { pbx: &settings.pbx, user, local: settings.local, dialplan: &settings.rules, aliases }
}

/// How a list's end is called. Most are called as their action; those of PJSIP after what they list.
fn end_of_list(action: &str) -> String {
    let listed = match action.to_ascii_lowercase().as_str() {
        "pjsipshowendpoints" => "EndpointList",
        "pjsipshowendpoint" => "EndpointDetail",
        "pjsipshowaors" => "AorList",
        "pjsipshowauths" => "AuthList",
        "pjsipshowcontacts" => "ContactList",
        "pjsipshowregistrationsoutbound" => "OutboundRegistrationDetail",
        "pjsipshowregistrationsinbound" => "InboundRegistrationDetail",
        _ => action,
    };
    format!("{listed}Complete")
}
