//! A TCP link that a test can cut: it stands between a client and a server on loopback, and does to their connection what networks do.
//!
//! Freezing the server stops its world too; this stops only the link, so that what happened meanwhile can be asked for afterwards.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a relay thread may take to notice that it is over.
const PULSE: Duration = Duration::from_millis(20);

const PASSING: u8 = 0;
const CUT: u8 = 1;
const REFUSING: u8 = 2;
const OVER: u8 = 3;

#[derive(Debug, Default)]
struct State {
    mode: AtomicU8,
    accepted: AtomicUsize,
    open: Mutex<Vec<TcpStream>>,
}

impl State {
    fn mode(&self) -> u8 {
        self.mode.load(Ordering::SeqCst)
    }
}

/// A link to one server. Dropping it closes every connection.
#[derive(Debug)]
pub(crate) struct Relay {
    address: SocketAddr,
    state: Arc<State>,
}

impl Relay {
    /// A link to `server`, passing.
    pub(crate) fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port for the relay");
        listener.set_nonblocking(true).expect("a listener that can be asked");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || accept(&listener, server, &shared));
        Self { address, state }
    }

    /// Where the client connects.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections were made so far.
    pub(crate) fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Nothing passes any more, either way, and nobody is told. New connections are taken and lead nowhere.
    pub(crate) fn cut(&self) {
        self.state.mode.store(CUT, Ordering::SeqCst);
    }

    /// What was held back passes, and all that follows.
    pub(crate) fn mend(&self) {
        self.state.mode.store(PASSING, Ordering::SeqCst);
    }

    /// Every connection ends now, and new ones end at once, until [`Relay::mend`].
    pub(crate) fn refuse(&self) {
        self.state.mode.store(REFUSING, Ordering::SeqCst);
        self.hang_up();
    }

    /// Every connection ends now; new ones are taken.
    pub(crate) fn hang_up(&self) {
        for stream in self.state.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.mode.store(OVER, Ordering::SeqCst);
        self.hang_up();
    }
}

fn accept(listener: &TcpListener, server: SocketAddr, state: &Arc<State>) {
    while state.mode() != OVER {
        let Ok((client, _)) = listener.accept() else {
            std::thread::sleep(PULSE);
            continue;
        };
        state.accepted.fetch_add(1, Ordering::SeqCst);
        let Ok(upstream) = TcpStream::connect(server) else { continue };
        let copies = (client.try_clone(), client.try_clone(), upstream.try_clone(), upstream.try_clone());
        let (Ok(client_in), Ok(client_kept), Ok(upstream_in), Ok(upstream_kept)) = copies else { continue };
        // The mode is read under the lock: a connection is either hung up by `refuse`, or sees it.
        let mut open = state.open.lock().unwrap_or_else(PoisonError::into_inner);
        if state.mode() == REFUSING || state.mode() == OVER {
            continue;
        }
        open.extend([client_kept, upstream_kept]);
        for (from, to) in [(client_in, upstream), (upstream_in, client)] {
            let state = Arc::clone(state);
            std::thread::spawn(move || pass(from, to, &state));
        }
    }
}

/// One direction: bytes are read only while the link passes, so that a cut holds them back as an unanswered network would.
fn pass(mut from: TcpStream, mut to: TcpStream, state: &State) {
    let mut bytes = vec![0; 16 * 1024];
    if from.set_nonblocking(false).and_then(|()| from.set_read_timeout(Some(PULSE))).is_err() {
        return;
    }
    while state.mode() != OVER {
        if state.mode() == CUT {
            std::thread::sleep(PULSE);
            continue;
        }
        let length = match from.read(&mut bytes) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(_) => 0,
        };
        // Read just before a cut: held like the rest.
        while state.mode() == CUT {
            std::thread::sleep(PULSE);
        }
        if length == 0 || to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
