//! One AMI session: login, mask, filters, and the turns between actions and events.
//!
//! As in Asterisk, a session does one thing at a time: events are written only between actions, so they never stand inside
//! a list, and a slow action delays them. A reader that does not keep up is cut off.

use std::{net::SocketAddr, sync::Arc};

use md5::{Digest as _, Md5};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Link, Shared,
    actions::{self, AMI_VERSION, Scene, Then, error, message, response, success},
    event::{Headers, Outgoing},
    filter::Filters,
    plant::hex,
    request::Request,
    settings::SimUser,
};
use crate::wire::ami::{
    Classes,
    request::{Incoming, Reader},
};

/// How many bytes of events are gathered before they are written.
const BATCH: usize = 64 * 1024;

pub(super) struct Session {
    shared: Arc<Shared>,
    id: u64,
    local: SocketAddr,
    peer: SocketAddr,
    user: Option<SimUser>,
    mask: Classes,
    filters: Filters,
    challenge: Option<String>,
}

/// What becomes of the session after an action.
enum Next {
    GoOn,
    /// The answer comes when this call has ended.
    Wait(tokio::sync::oneshot::Receiver<bool>),
    /// The answer comes late, and is the last thing said.
    Refuse,
    Close,
    Restart,
}

/// Why a session ended; there is nobody to tell.
struct Ended;

impl Session {
    pub(super) fn new(shared: Arc<Shared>, id: u64, local: SocketAddr, peer: SocketAddr) -> Self {
        let (user, challenge) = (None, None);
        Self { shared, id, local, peer, user, mask: Classes::ALL, filters: Filters::default(), challenge }
    }

    /// Runs it to its end.
    pub(super) async fn serve(
        mut self,
        mut stream: TcpStream,
        mut events: mpsc::Receiver<Outgoing>,
        stop: CancellationToken,
    ) {
        let _ = stop.run_until_cancelled(self.converse(&mut stream, &mut events)).await;
        if self.user.is_none() {
            self.shared.leave_unauthenticated();
        }
        self.shared.forget(self.id);
    }

    async fn converse(&mut self, stream: &mut TcpStream, events: &mut mpsc::Receiver<Outgoing>) -> Result<(), Ended> {
        let shared = self.shared.clone();
        let mut link = shared.link.subscribe();
        let banner = format!("Asterisk Call Manager/{AMI_VERSION}\r\n");
        let deadline = tokio::time::Instant::now() + shared.settings.timing.auth_timeout;
        let mut greeted = false;
        let (mut reader, mut incoming) = (Reader::default(), Vec::new());
        let mut buffer = [0_u8; 4096];
        loop {
            if *link.borrow_and_update() == Link::Frozen {
                link.changed().await.map_err(|_| Ended)?;
                continue;
            }
            if !greeted {
                self.write(stream, banner.as_bytes()).await?;
                greeted = true;
            }
            tokio::select! {
                biased;
                changed = link.changed() => changed.map_err(|_| Ended)?,
                () = tokio::time::sleep_until(deadline), if self.user.is_none() => return Ok(()),
                event = events.recv() => {
                    let batch = self.batch(event.ok_or(Ended)?, events);
                    self.write(stream, &batch).await?;
                }
                read = stream.read(&mut buffer) => {
                    let count = read.map_err(|_| Ended)?;
                    if count == 0 {
                        return Ok(());
                    }
                    reader.feed(&buffer[..count], |message| incoming.push(message));
                    for message in incoming.drain(..) {
                        self.answer(stream, message).await?;
                    }
                }
            }
        }
    }

    /// The events that wait, as far as this session gets them.
    fn batch(&self, first: Outgoing, events: &mut mpsc::Receiver<Outgoing>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut next = Some(first);
        while let Some(outgoing) = next {
            match outgoing {
                Outgoing::Event(event) => {
                    let read = self.user.as_ref().map_or(Classes::NONE, |user| user.read);
                    if self.mask.both(read).contains(event.classes) && self.filters.pass(&event) {
                        bytes.extend_from_slice(event.text.as_bytes());
                    }
                }
                Outgoing::Raw(raw) => bytes.extend_from_slice(&raw),
            }
            next = if bytes.len() < BATCH { events.try_recv().ok() } else { None };
        }
        bytes
    }

    async fn write(&self, stream: &mut TcpStream, bytes: &[u8]) -> Result<(), Ended> {
        let allowed = self.shared.settings.timing.write_timeout;
        match timeout(allowed, stream.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Ended),
        }
    }

    async fn answer(&mut self, stream: &mut TcpStream, incoming: Incoming) -> Result<(), Ended> {
        let request = Request::from(incoming.request());
        let (text, next) = match incoming {
            Incoming::LineTooLong(_) => {
                (message("Error", &request, "Failed to parse message: line too long"), Next::GoOn)
            }
            Incoming::TooManyLines(_) => {
                (message("Error", &request, "Too many lines in message or allocation failure"), Next::GoOn)
            }
            Incoming::Message(_) => {
                let (text, next) = self.act(&request);
                if let Next::Wait(ended) = next {
                    let connected = ended.await.unwrap_or(false);
                    let answer = if connected {
                        success(&request, "Originate successfully queued")
                    } else {
                        error(&request, "Originate failed")
                    };
                    (answer.text, Next::GoOn)
                } else {
                    (text, next)
                }
            }
        };
        if matches!(next, Next::Refuse) {
            tokio::time::sleep(self.shared.settings.timing.login_penalty).await;
        }
        self.write(stream, text.as_bytes()).await?;
        match next {
            Next::GoOn | Next::Wait(_) => Ok(()),
            Next::Refuse | Next::Close => Err(Ended),
            Next::Restart => {
                self.shared.restart();
                Ok(())
            }
        }
    }

    fn act(&mut self, request: &Request) -> (String, Next) {
        let name = request.action();
        if name.is_empty() {
            return (message("Error", request, "Missing action in request"), Next::GoOn);
        }
        let own = |wanted: &str| name.eq_ignore_ascii_case(wanted);
        let Some(user) = &self.user else {
            return match () {
                () if own("Login") => self.log_in(request),
                () if own("Challenge") => self.challenge(request),
                () if own("Logoff") => log_off(request),
                () => (message("Error", request, "Permission denied"), Next::GoOn),
            };
        };
        let booted = self.shared.is_booted();
        let Some(action) = actions::find(name).filter(|action| booted || !action.module) else {
            let text = format!("Invalid/unknown command: {name}. Use Action: ListCommands to show available commands.");
            return (message("Error", request, &text), Next::GoOn);
        };
        let write = user.write;
        if !action.needs.is_empty() && !write.overlaps(action.needs) {
            return (message("Error", request, "Permission denied"), Next::GoOn);
        }
        let Some(run) = action.run else {
            return match action.name {
                "Events" => self.events(request),
                "Filter" => self.filter(request),
                "Challenge" => self.challenge(request),
                "Logoff" => log_off(request),
                _ => (message("Success", request, "Already authenticated"), Next::GoOn),
            };
        };
        let answer = self.shared.with_plant(|plant, now| {
            let (settings, started) = (&self.shared.settings, self.shared.started());
            run(&mut Scene { settings, plant, now, started, write }, request)
        });
        let next = match answer.then {
            Then::GoOn => Next::GoOn,
            Then::Restart => Next::Restart,
            Then::Wait(call) => Next::Wait(self.shared.originate(*call)),
        };
        (answer.text, next)
    }

    fn challenge(&mut self, request: &Request) -> (String, Next) {
        if !request.header("AuthType").eq_ignore_ascii_case("MD5") {
            return (message("Error", request, "Must specify AuthType"), Next::GoOn);
        }
        let number = self.challenge.get_or_insert_with(|| self.shared.roll(1_000_000_000).to_string());
        let text = response("Success", request, |h| {
            h.put("Challenge", number);
        });
        (text, Next::GoOn)
    }

    fn log_in(&mut self, request: &Request) -> (String, Next) {
        let name = request.header("Username");
        let md5 = request.header("AuthType").eq_ignore_ascii_case("MD5");
        let proven = |user: &&SimUser| {
            user.name == name
                && if md5 {
                    self.challenge.as_ref().is_some_and(|number| {
                        request.header("Key") == hex(&Md5::digest(format!("{number}{}", user.secret).as_bytes()))
                    })
                } else {
                    request.header("Secret") == user.secret
                }
        };
        let Some(user) = self.shared.settings.users.iter().find(proven).cloned() else {
            return (message("Error", request, "Authentication failed"), Next::Refuse);
        };
        if let Some(mask) = request.find("Events").and_then(mask) {
            self.mask = mask;
        }
        self.shared.leave_unauthenticated();
        let mut text = message("Success", request, "Authentication accepted");
        if user.read.both(self.mask).contains(Classes::SYSTEM) && self.shared.is_booted() {
            let uptime = self.shared.uptime().as_secs();
            let mut head = Headers(&mut text);
            head.put("Event", "FullyBooted").put("Privilege", Classes::SYSTEM);
            head.put("Uptime", uptime).put("LastReload", uptime).put("Status", "Fully Booted");
            text.push_str("\r\n");
        }
        self.shared.successful_auth(&user.name, self.id, self.local, self.peer, md5);
        self.user = Some(user);
        (text, Next::GoOn)
    }

    fn events(&mut self, request: &Request) -> (String, Next) {
        let Some(mask) = mask(request.header("EventMask")) else {
            return (message("Error", request, "Invalid event mask"), Next::GoOn);
        };
        self.mask = mask;
        let text = response("Success", request, |h| {
            h.put("Events", if mask.is_empty() { "Off" } else { "On" });
        });
        (text, Next::GoOn)
    }

    fn filter(&mut self, request: &Request) -> (String, Next) {
        let text = if request.header("Operation").eq_ignore_ascii_case("Add") {
            match self.filters.add(request.header("MatchCriteria"), request.header("Filter")) {
                // What Asterisk says besides: its message is the word again.
                Ok(()) => message("Success", request, "Success"),
                Err(text) => message("Error", request, text),
            }
        } else {
            message("Error", request, "Unknown operation")
        };
        (text, Next::GoOn)
    }
}

fn log_off(request: &Request) -> (String, Next) {
    (message("Goodbye", request, "Thanks for all the fish."), Next::Close)
}

/// `on`, `off`, or classes; `None` for an empty one.
fn mask(text: &str) -> Option<Classes> {
    let text = text.trim();
    let is = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    match text {
        "" => None,
        _ if is(&["on", "yes", "true", "1"]) => Some(Classes::ALL),
        _ if is(&["off", "no", "false", "0"]) => Some(Classes::NONE),
        _ => Some(Classes::read(text)),
    }
}
