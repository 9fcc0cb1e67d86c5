//! A simulated Asterisk: its registrations, and real AMI in front of them, on loopback.
//!
//! What a client of Asterisk can tell apart is alike: framing and its limits, login, rights, masks and filters, the texts
//! of errors, the header sets of lists and events, and when a `Registry` event comes. The tests compare with recordings of
//! Asterisk 22.10.1.
//!
//! Knowingly different
//! - Its HEP feed has the REGISTERs and their answers only; see [`sip`](super::sip) for how they differ from real ones.
//! - A subset of the actions; any other is the unknown command Asterisk would say it is without the module. No AMI over
//!   HTTP, no TLS. `EndpointDetail` has some of its hundred headers, there is one
//!   transport, and no identify. Contacts are of the configured kind only.
//! - A dialplan is not looked at: Asterisk refuses an `Originate` to an extension it does not have.
//! - Of security events only `SuccessfulAuth`.
//! - `Filter` knows plain text and `(one|other)` instead of all regular expressions.
//! - A call is Newchannel, DialBegin, Newstate, DialEnd, Hangup and `OriginateResponse` only.
//! - Text that is not UTF-8 comes back altered. A session's queue of events is bounded; Asterisk's is not.
//! - The order of a list is by name. `core restart gracefully` is not there.

mod actions;
mod event;
mod feed;
mod filter;
mod plant;
mod request;
mod session;
mod settings;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use crate::wire::ami::Classes;
pub use plant::CallCount;
pub use settings::{EndpointSettings, HepFeed, SimSettings, SimTrunk, SimUser, Start, Timing};

use self::{
    event::{AmiEvent, Outgoing},
    feed::{Feed, Outlet},
    plant::{Call, Plant},
    session::Session,
};
use super::{dice::Dice, provider::Behaviour, registration::Status};

/// Events that may wait for one session. One that lags further is cut off, as Asterisk cuts off a slow reader.
const QUEUE: usize = 65_536;
/// `authlimit`: sessions that have not logged in.
const UNAUTHENTICATED: usize = 50;

/// Why a simulation does not start.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// Its address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no way out for its HEP feed.
    #[error("no socket for a HEP feed to {to}")]
    Feed {
        /// Where it was to go.
        to: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The webhook secret is none.
    #[error("the webhook secret is not base64")]
    Secret(#[source] standardwebhooks::WebhookError),
}

/// Whether the network between PBX and clients is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// It is.
    Up,
    /// Connections stand, and nothing moves on them.
    Frozen,
    /// Nobody listens: connecting is refused.
    Cut,
}

/// A simulated PBX; clones are the same one. It ends with the token it was started with.
#[derive(Debug, Clone)]
pub struct SimPbx {
    shared: Arc<Shared>,
    address: SocketAddr,
}

#[derive(Debug)]
struct Shared {
    settings: SimSettings,
    plant: Mutex<Plant>,
    feed: Option<Outlet>,
    /// Those who wait for the end of a call they originated, by ticket.
    waiting: Mutex<HashMap<u64, oneshot::Sender<bool>>>,
    sessions: Mutex<HashMap<u64, Handle>>,
    dice: Mutex<Dice>,
    wake: Notify,
    link: watch::Sender<Link>,
    /// Asterisk runs and listens; apart from the link.
    running: watch::Sender<bool>,
    booted: AtomicBool,
    restarting: AtomicBool,
    epoch: Instant,
    started_ms: AtomicU64,
    next_session: AtomicU64,
    unauthenticated: AtomicUsize,
    tracker: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Handle {
    events: mpsc::Sender<Outgoing>,
    stop: CancellationToken,
}

impl SimPbx {
    /// Starts one that is booted; its tasks run in `tracker` until `stop`.
    ///
    /// # Errors
    /// [`SimError::Listen`] when its address is taken, [`SimError::Feed`] when there is no UDP port for its feed.
    pub async fn start(
        settings: SimSettings,
        tracker: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Self, SimError> {
        let wanted = settings.listen;
        let refused = |source| SimError::Listen { address: wanted, source };
        let listener = TcpListener::bind(wanted).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let open = |hep: &HepFeed| Outlet::open(hep.to).map_err(|source| SimError::Feed { to: hep.to, source });
        let outlet = settings.hep.as_ref().map(open).transpose()?;
        let feed = settings.hep.clone().map(|hep| Feed::new(hep, settings.seed.wrapping_add(2)));
        let mut plant = Plant::new(settings.timing, settings.clock.clone(), settings.timestamps, settings.seed, feed);
        for trunk in &settings.trunks {
            plant.add(trunk.clone(), Duration::ZERO);
        }
        let shared = Arc::new(Shared {
            dice: Mutex::new(Dice::new(settings.seed.wrapping_add(1))),
            settings,
            plant: Mutex::new(plant),
            feed: outlet,
            waiting: Mutex::default(),
            sessions: Mutex::default(),
            wake: Notify::new(),
            link: watch::Sender::new(Link::Up),
            running: watch::Sender::new(true),
            booted: AtomicBool::new(true),
            restarting: AtomicBool::new(false),
            epoch: Instant::now(),
            started_ms: AtomicU64::new(0),
            next_session: AtomicU64::new(0),
            unauthenticated: AtomicUsize::new(0),
            tracker: tracker.clone(),
            stop: stop.clone(),
        });
        tracker.spawn(stop.clone().run_until_cancelled_owned(run_plant(shared.clone())));
        tracker.spawn(stop.run_until_cancelled_owned(listen(shared.clone(), address, listener)));
        Ok(Self { shared, address })
    }

    /// Where its AMI listens; it stays the same through restarts.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes how the provider of `trunk` behaves from its next attempt on; whether there is such a trunk.
    pub fn set_behaviour(&self, trunk: &str, behaviour: Behaviour) -> bool {
        self.shared.with_plant(|plant, _| plant.set_behaviour(trunk, behaviour))
    }

    /// Makes the registration's next attempt fall due now, as if its timer had run out. Not something Asterisk can be
    /// asked for, but what a test wants instead of waiting for a refresh; an attempt in flight is forgotten. Whether there is such a registration.
    pub fn attempt_now(&self, trunk: &str) -> bool {
        self.shared.with_plant(|plant, now| plant.attempt_now(trunk, now))
    }

    /// Adds a trunk to the configuration, or changes the one of that name, and reloads.
    pub fn add_registration(&self, trunk: SimTrunk) {
        self.shared.with_plant(|plant, now| {
            plant.reload(now);
            plant.add(trunk, now);
        });
    }

    /// Removes a trunk from the configuration, and reloads; whether there was one.
    pub fn remove_registration(&self, trunk: &str) -> bool {
        self.shared.with_plant(|plant, now| {
            plant.reload(now);
            plant.remove(trunk, now)
        })
    }

    /// Reloads an unchanged configuration.
    pub fn reload(&self) {
        self.shared.with_plant(Plant::reload);
    }

    /// The registrations by name, with AMI's word for their state; `None` for one that `PJSIPUnregister *all` has taken.
    #[must_use]
    pub fn registrations(&self) -> Vec<(String, Option<&'static str>)> {
        let shown = |client: &super::registration::Client| client.status().as_str();
        let plant = self.shared.plant();
        plant.registrations().map(|(settings, client)| (settings.name.clone(), client.map(shown))).collect()
    }

    /// Whether a call originated on `endpoint` now would be connected.
    #[must_use]
    pub fn would_connect(&self, endpoint: &str) -> bool {
        self.shared.plant().of_endpoint(endpoint).is_some_and(|trunk| trunk.behaviour.connects())
    }

    /// Whether `trunk` is registered.
    #[must_use]
    pub fn is_registered(&self, trunk: &str) -> bool {
        let plant = self.shared.plant();
        let client = plant.trunk(trunk).and_then(|trunk| trunk.registration.as_ref()?.1.as_ref());
        client.is_some_and(|client| client.status() == Status::Registered)
    }

    /// Calls originated on `endpoint` so far.
    #[must_use]
    pub fn calls(&self, endpoint: &str) -> CallCount {
        self.shared.plant().of_endpoint(endpoint).map(|trunk| trunk.calls).unwrap_or_default()
    }

    /// How many sessions stand.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.shared.sessions().len()
    }

    /// Ends every connection without a word, as a broken network does; new ones are taken.
    pub fn drop_connections(&self) {
        self.shared.drop_connections();
    }

    /// Ends every connection and refuses new ones, until [`SimPbx::mend`].
    pub fn cut(&self) {
        self.shared.link.send_replace(Link::Cut);
        self.shared.drop_connections();
    }

    /// Ends a [`SimPbx::cut`].
    pub fn mend(&self) {
        self.shared.link.send_replace(Link::Up);
    }

    /// Lets every connection stand and moves nothing on it, until [`SimPbx::thaw`].
    pub fn freeze(&self) {
        self.shared.link.send_replace(Link::Frozen);
    }

    /// Ends a [`SimPbx::freeze`]; what happened meanwhile is said now.
    pub fn thaw(&self) {
        self.shared.link.send_replace(Link::Up);
    }

    /// `core restart now`: `Shutdown`, the end of the connections, a while without listening, a login without
    /// `FullyBooted`, `FullyBooted`, then the first REGISTERs. Nothing is un-REGISTERed.
    pub fn restart(&self) {
        self.shared.restart();
    }

    /// Sends an event of the caller's making to the sessions that may and want to have it.
    pub fn emit_raw(&self, name: &str, classes: Classes, headers: &[(&str, &str)]) {
        self.shared.with_plant(|plant, _| {
            plant.emit(name, classes, |h| {
                for (key, value) in headers {
                    h.put(key, value);
                }
            });
        });
    }

    /// Sends bytes as they are to every session, between messages: to see how a client bears them.
    pub fn send_bytes(&self, bytes: impl Into<Arc<[u8]>>) {
        self.shared.send(&Outgoing::Raw(bytes.into()));
    }
}

impl Shared {
    fn plant(&self) -> MutexGuard<'_, Plant> {
        self.plant.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<u64, Handle>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since the epoch.
    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn started(&self) -> Duration {
        Duration::from_millis(self.started_ms.load(Ordering::Relaxed))
    }

    fn uptime(&self) -> Duration {
        self.now().saturating_sub(self.started())
    }

    fn is_booted(&self) -> bool {
        self.booted.load(Ordering::Relaxed)
    }

    fn roll(&self, below: u64) -> u64 {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner).roll(below)
    }

    /// Changes the plant, and sends the events that makes while nobody else can change it: so their order is the plant's.
    fn with_plant<T>(&self, change: impl FnOnce(&mut Plant, Duration) -> T) -> T {
        let mut plant = self.plant();
        let result = change(&mut plant, self.now());
        // What the wire shows comes before what Asterisk says of it.
        let packets = plant.take_packets();
        if let Some(feed) = self.feed.as_ref().filter(|_| *self.link.borrow() == Link::Up) {
            feed.send(&packets);
        }
        self.publish(plant.take_events());
        let ended = plant.take_ended();
        drop(plant);
        for (ticket, connected) in ended {
            let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&ticket);
            if let Some(waiting) = waiting {
                // Its session may have ended; then nobody wants to know.
                let _ = waiting.send(connected);
            }
        }
        self.wake.notify_one();
        result
    }

    fn publish(&self, events: Vec<AmiEvent>) {
        for event in events {
            self.send(&Outgoing::Event(event));
        }
    }

    fn send(&self, outgoing: &Outgoing) {
        for handle in self.sessions().values() {
            if handle.events.try_send(outgoing.clone()).is_err() {
                handle.stop.cancel();
            }
        }
    }

    fn drop_connections(&self) {
        for handle in self.sessions().values() {
            handle.stop.cancel();
        }
    }

    fn forget(&self, session: u64) {
        self.sessions().remove(&session);
    }

    fn leave_unauthenticated(&self) {
        self.unauthenticated.fetch_sub(1, Ordering::Relaxed);
    }

    /// Originates a call and tells when it is up or has failed, instead of sending an `OriginateResponse`.
    fn originate(&self, mut call: Call) -> oneshot::Receiver<bool> {
        let (told, wait) = oneshot::channel();
        let ticket = self.next_session.fetch_add(1, Ordering::Relaxed);
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(ticket, told);
        call.ticket = Some(ticket);
        self.with_plant(|plant, now| plant.originate(call, now));
        wait
    }

    fn successful_auth(&self, user: &str, session: u64, local: SocketAddr, peer: SocketAddr, md5: bool) {
        let address = |address: SocketAddr| {
            let family = if address.is_ipv4() { "IPV4" } else { "IPV6" };
            format!("{family}/TCP/{}/{}", address.ip(), address.port())
        };
        self.with_plant(|plant, _| {
            let at = self.settings.clock.now().strftime("%Y-%m-%dT%H:%M:%S.%3f+0000").to_string();
            plant.emit("SuccessfulAuth", Classes::SECURITY, |h| {
                h.put("EventTV", &at).put("Severity", "Informational").put("Service", "AMI").put("EventVersion", 1);
                h.put("AccountID", user).put("SessionID", format_args!("{:#x}", 0x7f00_0000_0000 + session));
                h.put("LocalAddress", address(local)).put("RemoteAddress", address(peer));
                h.put("UsingPassword", u8::from(!md5)).put("SessionTV", &at);
            });
        });
    }

    fn restart(self: &Arc<Self>) {
        if self.restarting.swap(true, Ordering::Relaxed) {
            return;
        }
        let shared = self.clone();
        self.tracker.spawn(self.stop.clone().run_until_cancelled_owned(async move {
            let timing = shared.settings.timing;
            shared.with_plant(|plant, _| {
                plant.emit("Shutdown", Classes::SYSTEM, |h| {
                    h.put("Shutdown", "Cleanly").put("Restart", "True");
                });
                plant.stop();
            });
            tokio::time::sleep(timing.shutdown).await;
            shared.booted.store(false, Ordering::Relaxed);
            shared.running.send_replace(false);
            shared.drop_connections();
            tokio::time::sleep(timing.down).await;
            let started = u64::try_from(shared.now().as_millis()).unwrap_or(u64::MAX);
            shared.started_ms.store(started, Ordering::Relaxed);
            shared.running.send_replace(true);
            tokio::time::sleep(timing.boot).await;
            shared.booted.store(true, Ordering::Relaxed);
            let uptime = shared.uptime();
            shared.with_plant(|plant, now| plant.boot(now, uptime));
            shared.restarting.store(false, Ordering::Relaxed);
        }));
    }
}

/// Does what is due, when it is due.
async fn run_plant(shared: Arc<Shared>) {
    loop {
        let due = shared.plant().next_due();
        let sleep = async {
            match due {
                Some(due) => tokio::time::sleep_until(shared.epoch + due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.wake.notified() => continue,
            () = sleep => {}
        }
        shared.with_plant(Plant::run);
    }
}

/// Takes connections while Asterisk runs and the link is not cut.
async fn listen(shared: Arc<Shared>, address: SocketAddr, listener: TcpListener) {
    let (mut link, mut running) = (shared.link.subscribe(), shared.running.subscribe());
    let mut listener = Some(listener);
    loop {
        let open = *running.borrow_and_update() && *link.borrow_and_update() != Link::Cut;
        if !open {
            listener = None;
        } else if listener.is_none() {
            listener = TcpListener::bind(address).await.ok();
        }
        let accept = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None if open => {
                    // Somebody else has the port for the moment.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Err(io::ErrorKind::AddrInUse.into())
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = link.changed() => if changed.is_err() { return },
            changed = running.changed() => if changed.is_err() { return },
            accepted = accept => if let Ok((stream, peer)) = accepted {
                welcome(&shared, stream, address, peer);
            },
        }
    }
}

fn welcome(shared: &Arc<Shared>, stream: tokio::net::TcpStream, local: SocketAddr, peer: SocketAddr) {
    if shared.unauthenticated.fetch_add(1, Ordering::Relaxed) >= UNAUTHENTICATED {
        shared.leave_unauthenticated();
        return; // no banner, as with Asterisk's authlimit
    }
    // Small messages must not wait for each other; where it cannot be set, they do.
    let _ = stream.set_nodelay(true);
    let id = shared.next_session.fetch_add(1, Ordering::Relaxed);
    let (events, queue) = mpsc::channel(QUEUE);
    let stop = shared.stop.child_token();
    shared.sessions().insert(id, Handle { events, stop: stop.clone() });
    shared.tracker.spawn(Session::new(shared.clone(), id, local, peer).serve(stream, queue, stop));
}
