//! The sockets of one client: its own, and that of its session at Asterisk.
//!
//! One task moves the bytes of both. It never waits for the one before it reads the other: what Asterisk sends is read at
//! once whatever the client does (Asterisk cuts off who does not read), and is kept for the client up to a bound. A client
//! beyond it is cut off, and what it did not get is counted; nobody else notices.

use std::{
    future::{Future, pending, poll_fn},
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadHalf, WriteHalf, split},
    net::TcpStream,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use super::{
    server::{Shared, Unauthenticated},
    session::{Ending, LOGIN_PENALTY, Session, Upstream},
};
use crate::wire::ami::{
    client::{BoxedIo, Delays, Line, Security, SessionError, log_in},
    frames::Frames,
    request::Reader,
};

/// What may wait for one client.
/// More than the longest message, so that nobody is cut off for one answer.
const BACKLOG: usize = 12 << 20;
/// The same for one that has not logged in.
const STRANGERS_BACKLOG: usize = 64 << 10;
/// Room for one read of a client.
const ROOM: usize = 16 << 10;
/// What Asterisk has not taken yet; more is not read of the client.
const UP_BACKLOG: usize = 256 << 10;
/// A client that takes nothing for so long is gone.
const STALLED: Duration = Duration::from_secs(60);
/// An empty buffer larger than this is given back.
const KEPT_CAPACITY: usize = 256 << 10;
/// Over TLS Asterisk reads a record once, and no more of it than fits its buffer of 1024 bytes: what is left waits until more
/// comes (`main/manager.c`, `get_input`; seen on 22). So it gets whole lines, in records no longer than this.
const TLS_PIECE: usize = 900;

/// Serves one client to its end.
pub(super) async fn serve(
    shared: Arc<Shared>,
    stream: TcpStream,
    peer: IpAddr,
    tls: Option<TlsAcceptor>,
    place: Unauthenticated,
) {
    let until = Instant::now() + shared.settings().auth_timeout;
    match tls {
        None => Connection::new(shared, peer, place, until, stream).run().await,
        Some(tls) => match timeout_at(until, tls.accept(stream)).await {
            Ok(Ok(stream)) => Connection::new(shared, peer, place, until, stream).run().await,
            Ok(Err(error)) => debug!(%error, "no TLS"),
            Err(_) => debug!("no TLS in time"),
        },
    }
}

/// A client that is logged in, and counts until it is dropped.
struct Present(Arc<Shared>);

impl Present {
    fn count(shared: &Arc<Shared>) -> Self {
        shared.figures.client_came();
        Self(Arc::clone(shared))
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.figures.client_left();
    }
}

struct Connection<S> {
    shared: Arc<Shared>,
    session: Session,
    place: Option<Unauthenticated>,
    present: Option<Present>,
    until: Instant,
    reader: Reader,
    input: BytesMut,
    client: (ReadHalf<S>, WriteHalf<S>),
    flushed: bool,
    /// When the client last took something, or there was nothing to take.
    moved: Instant,
    heard: Option<Heard>,
    asterisk: Option<Asterisk>,
    penalized: bool,
    hung_up: bool,
    dialing: Option<Dialing>,
    delays: Delays,
    /// When the last session at Asterisk was lost, or was not to be had.
    lost_at: Instant,
    retry_at: Option<Instant>,
}

/// A login at Asterisk on its way.
type Dialing = Pin<Box<dyn Future<Output = Result<Line, SessionError>> + Send>>;

/// What comes of the session at Asterisk.
struct Heard {
    io: ReadHalf<BoxedIo>,
    frames: Frames,
}

/// The session at Asterisk, and what goes to it.
struct Asterisk {
    io: WriteHalf<BoxedIo>,
    out: BytesMut,
    piecemeal: bool,
    flushed: bool,
    since: Instant,
}

/// Why a client is served no longer.
enum Ended {
    ByClient,
    ByLogin,
    TooSlow,
    Unwelcome,
    Io(io::Error),
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    fn new(shared: Arc<Shared>, peer: IpAddr, place: Unauthenticated, until: Instant, stream: S) -> Self {
        let delays = Delays::new(shared.settings().upstream.backoff);
        Self {
            session: Session::new(Arc::clone(&shared), peer),
            shared,
            place: Some(place),
            present: None,
            until,
            reader: Reader::default(),
            input: BytesMut::new(),
            client: split(stream),
            flushed: true,
            moved: Instant::now(),
            heard: None,
            asterisk: None,
            penalized: false,
            hung_up: false,
            dialing: None,
            delays,
            lost_at: Instant::now(),
            retry_at: None,
        }
    }

    async fn run(mut self) {
        let ended = self.converse().await;
        let user = self.session.user_name().to_owned();
        match ended {
            Ended::ByClient => debug!(user.id = user, "the client left"),
            Ended::ByLogin => debug!("the client did not log in"),
            Ended::Unwelcome => info!(user.id = user, "cut off: the configuration has this user no longer"),
            Ended::Io(error) => debug!(user.id = user, %error, "the client's connection broke"),
            Ended::TooSlow => {
                let lost = memchr::memmem::find_iter(&self.session.out, b"\n\r\n").count() as u64;
                self.shared.figures.client_cut(lost);
                warn!(user.id = user, messages = lost, "cut off: the client does not read");
            }
        }
    }

    async fn converse(&mut self) -> Ended {
        let mut settings = self.shared.settings_changed();
        let mut reached = self.shared.reached.subscribe();
        let mut room = self.shared.limiter.changes();
        loop {
            let now = Instant::now();
            let look_again = self.session.pump(now);
            self.hand_over();
            if self.session.is_logged_in() && self.place.take().is_some() {
                self.present = Some(Present::count(&self.shared));
            }
            if self.session.out.is_empty() {
                self.moved = now;
                if self.session.out.capacity() > KEPT_CAPACITY {
                    self.session.out = BytesMut::new();
                }
            } else if self.session.out.len() > self.backlog() || now > self.moved + STALLED {
                return Ended::TooSlow;
            }
            if self.flushed && self.session.out.is_empty() {
                match self.session.ending() {
                    Ending::GoOn => {}
                    Ending::AfterOut => return Ended::ByClient,
                    Ending::Penalty => return Ended::ByLogin,
                }
            }
            self.dial(now);
            let deadline = [
                look_again,
                self.place.is_some().then_some(self.until),
                self.retry_at,
                (!self.session.out.is_empty()).then(|| self.moved + STALLED),
            ];
            let deadline = deadline.into_iter().flatten().min();
            // The failed login is answered late, as Asterisk does, and nothing else of the client is looked at meanwhile.
            if self.session.ending() == Ending::Penalty && !self.penalized {
                self.penalized = true;
                tokio::time::sleep(LOGIN_PENALTY).await;
            }
            self.input.reserve(ROOM);
            let asterisk_reads = self.heard.is_some();
            let asterisk_writes = self.asterisk.as_ref().is_some_and(|asterisk| !asterisk.is_written());
            let client_writes = !self.session.out.is_empty() || !self.flushed;
            let client_reads = !self.hung_up
                && self.session.takes_more()
                && self.asterisk.as_ref().is_none_or(|asterisk| asterisk.out.len() < UP_BACKLOG);
            tokio::select! {
                read = read_asterisk(&mut self.heard), if asterisk_reads => {
                    if let Err(why) = read.and_then(|()| self.hand_back()) {
                        self.lost(&why);
                    }
                }
                wrote = write_asterisk(&mut self.asterisk), if asterisk_writes => {
                    if let Err(error) = wrote {
                        self.lost(&error.to_string());
                    }
                }
                wrote = write_some(&mut self.client.1, &mut self.session.out, &mut self.flushed), if client_writes => {
                    match wrote {
                        Ok(()) => self.moved = Instant::now(),
                        Err(error) => return Ended::Io(error),
                    }
                }
                read = self.client.0.read_buf(&mut self.input), if client_reads => match read {
                    Ok(0) => {
                        // It may only have ended its half: what it asked is still done and answered.
                        self.hung_up = true;
                        self.session.hung_up(now);
                    }
                    Ok(_) => self.take_in(),
                    Err(error) => return Ended::Io(error),
                },
                line = dialed(&mut self.dialing), if self.dialing.is_some() => self.dialed(line),
                () = sleep_until(deadline.unwrap_or(now)), if deadline.is_some() => {
                    if self.place.is_some() && Instant::now() >= self.until {
                        return Ended::ByLogin;
                    }
                }
                Ok(()) = reached.changed(), if self.retry_at.is_some() => {
                    // Somebody got through. Never at once, or sessions that die young would chase each other.
                    let soonest = self.lost_at + self.shared.settings().upstream.backoff.first;
                    self.retry_at = self.retry_at.map(|at| at.min(soonest));
                }
                Ok(()) = settings.changed() => {
                    if !self.session.is_still_welcome() {
                        return Ended::Unwelcome;
                    }
                }
                Ok(()) = room.changed(), if self.session.waits_for_room() => {}
            }
        }
    }

    /// What may wait for this client: somebody who has not logged in is owed a few answers only.
    const fn backlog(&self) -> usize {
        if self.place.is_some() { STRANGERS_BACKLOG } else { BACKLOG }
    }

    fn take_in(&mut self) {
        let now = Instant::now();
        let (reader, session) = (&mut self.reader, &mut self.session);
        reader.feed(&self.input, |incoming| session.take(incoming, now));
        self.input.clear();
    }

    fn hand_back(&mut self) -> Result<(), String> {
        let Some(heard) = &mut self.heard else { return Ok(()) };
        let session = &mut self.session;
        heard.frames.each(|message| session.hand_on(message)).map_err(|error| error.to_string())
    }

    /// Gives Asterisk what the session has for it.
    fn hand_over(&mut self) {
        if let Some(asterisk) = &mut self.asterisk
            && !self.session.up_out.is_empty()
        {
            asterisk.out.extend_from_slice(&self.session.up_out);
            self.session.up_out.clear();
        }
    }

    /// Begins a login at Asterisk if one is due.
    fn dial(&mut self, now: Instant) {
        let due = self.retry_at.is_none_or(|at| at <= now);
        if !self.session.is_logged_in() || self.asterisk.is_some() || self.dialing.is_some() || !due {
            return;
        }
        self.retry_at = None;
        let (shared, mask) = (Arc::clone(&self.shared), self.session.login_mask());
        self.dialing = Some(Box::pin(async move {
            let _one_of_few = shared.logins.acquire().await;
            log_in(shared.transport().as_ref(), &shared.settings().upstream, &mask).await
        }));
    }

    fn dialed(&mut self, line: Result<Line, SessionError>) {
        self.dialing = None;
        match line {
            Ok(line) => {
                let now = Instant::now();
                self.shared.set_banner(line.banner.as_str());
                self.shared.figures.asterisk_is(true);
                self.shared.reached.send_modify(|count| *count += 1);
                if *self.session.upstream() != Upstream::Coming {
                    self.shared.ask_catalogue_again();
                }
                let (reading, writing) = split(line.io);
                self.heard = Some(Heard { io: reading, frames: Frames::new(line.read) });
                self.asterisk = Some(Asterisk {
                    io: writing,
                    out: BytesMut::new(),
                    piecemeal: line.security == Security::Tls,
                    flushed: true,
                    since: now,
                });
                self.session.connected();
                // What came with the answer to the login.
                if let Err(why) = self.hand_back() {
                    self.lost(&why);
                }
            }
            Err(error) => {
                self.shared.figures.asterisk_is(false);
                let refused = matches!(error, SessionError::Refused(_));
                let delay = self.delays.next(refused);
                if *self.session.upstream() == Upstream::Coming {
                    info!(%error, retry_in = ?delay, "no session at Asterisk for this client");
                }
                self.session.away(&error.to_string());
                self.lost_at = Instant::now();
                self.retry_at = Some(self.lost_at + delay);
            }
        }
    }

    /// The session at Asterisk is gone.
    fn lost(&mut self, why: &str) {
        self.heard = None;
        let Some(asterisk) = self.asterisk.take() else { return };
        info!(
            user.id = self.session.user_name(),
            error = why,
            "this client's session at Asterisk is lost; the client stays"
        );
        if asterisk.since.elapsed() >= self.shared.settings().upstream.backoff.stable_after {
            self.delays = Delays::new(self.shared.settings().upstream.backoff);
        }
        self.session.away(why);
        self.lost_at = Instant::now();
        self.retry_at = Some(self.lost_at + self.delays.next(false));
    }
}

impl Asterisk {
    fn is_written(&self) -> bool {
        self.flushed && self.out.is_empty()
    }
}

/// Cancel safety: nothing is lost; what was read is in the buffer.
async fn read_asterisk(heard: &mut Option<Heard>) -> Result<(), String> {
    let Some(heard) = heard else { return pending().await };
    match heard.io.read_buf(heard.frames.buffer_mut()).await {
        Ok(0) => Err("Asterisk closed the connection".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Cancel safety: what was written is taken from the buffer.
async fn write_asterisk(asterisk: &mut Option<Asterisk>) -> io::Result<()> {
    let Some(asterisk) = asterisk else { return pending().await };
    let Asterisk { io, out, piecemeal, flushed, .. } = asterisk;
    poll_fn(|context| {
        // A piece ends with a line, so that no line is cut in two records.
        let most = if *piecemeal { piece(out) } else { out.len() };
        poll_write(io, out, most, flushed, context)
    })
    .await
}

/// How many bytes of whole lines fit into one record; at least one line.
fn piece(out: &[u8]) -> usize {
    let fits = memchr::memrchr(b'\n', &out[..out.len().min(TLS_PIECE)]);
    fits.or_else(|| memchr::memchr(b'\n', out)).map_or(out.len(), |end| end + 1)
}

/// Cancel safety: what was written is taken from the buffer.
async fn write_some<W: AsyncWrite + Unpin>(to: &mut W, out: &mut BytesMut, flushed: &mut bool) -> io::Result<()> {
    poll_fn(|context| {
        let most = out.len();
        poll_write(to, out, most, flushed, context)
    })
    .await
}

fn poll_write<W: AsyncWrite + Unpin>(
    to: &mut W,
    out: &mut BytesMut,
    most: usize,
    flushed: &mut bool,
    context: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    if out.is_empty() {
        return Pin::new(to).poll_flush(context).map_ok(|()| *flushed = true);
    }
    match Pin::new(to).poll_write(context, &out[..most]) {
        Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        Poll::Ready(Ok(written)) => {
            out.advance(written);
            *flushed = false;
            Poll::Ready(Ok(()))
        }
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Pending => Poll::Pending,
    }
}

async fn dialed(dialing: &mut Option<Dialing>) -> Result<Line, SessionError> {
    match dialing {
        Some(dialing) => dialing.await,
        None => pending().await,
    }
}
