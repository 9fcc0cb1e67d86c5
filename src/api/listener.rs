//! The listening socket with its bounds: how many connections at once, and how long one may be silent.
//!
//! A server without these can be stopped by anyone who opens connections and says nothing: each keeps a task and a
//! descriptor. Here a connection over the bound waits in the kernel's backlog, and a silent one is closed, which frees
//! its place; so is one that keeps sending but never comes to the end of its request. When the server stops and its grace is over, those that still say nothing are cut.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// How many connections are served at once. Dialers keep one or a few open each; the rest is people.
const CONNECTIONS: usize = 512;
/// How long a connection may wait for its next request, and then how long from the first byte of a request to the first
/// byte of its answer. Longer than a request may take once it is read ([`super::REQUEST_LIMIT`]), so that it cuts none short.
const SILENCE: Duration = Duration::from_secs(45);

/// A listener with a bound on its connections.
#[derive(Debug)]
pub(super) struct Bounded {
    inner: TcpListener,
    places: Arc<Semaphore>,
    cut: CancellationToken,
}

impl Bounded {
    /// `cut` ends every connection that waits for its client.
    pub(super) fn new(inner: TcpListener, cut: CancellationToken) -> Self {
        Self { inner, places: Arc::new(Semaphore::new(CONNECTIONS)), cut }
    }
}

impl axum::serve::Listener for Bounded {
    type Io = Guarded;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guarded, SocketAddr) {
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
            return std::future::pending().await; // the semaphore is never closed
        };
        let (stream, from) = axum::serve::Listener::accept(&mut self.inner).await;
        // Small answers to a waiting dialer: a delayed segment would cost more than the answer.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::trace!(%error, "TCP_NODELAY was not taken");
        }
        let cut = Box::pin(self.cut.clone().cancelled_owned());
        (Guarded { stream, heard: false, silent: Box::pin(sleep(SILENCE)), cut, _place: place }, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// A connection that ends when it has been silent for too long, and gives its place back when it ends.
#[derive(Debug)]
pub(super) struct Guarded {
    stream: TcpStream,
    /// A byte came since the last one went: further ones put the end off no more, or a byte now and then would keep the
    /// place for ever.
    heard: bool,
    silent: Pin<Box<Sleep>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: OwnedSemaphorePermit,
}

impl Guarded {
    /// Puts the end off after progress; without any, says whether the end has come.
    fn watch<T>(&mut self, cx: &mut Context<'_>, progress: Poll<io::Result<T>>, puts_off: bool) -> Poll<io::Result<T>> {
        if progress.is_ready() && puts_off {
            self.silent.as_mut().reset(Instant::now() + SILENCE);
            return progress;
        }
        if self.silent.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if progress.is_ready() {
            return progress;
        }
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Poll::Pending
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.stream).poll_read(cx, buf);
        let puts_off = !self.heard;
        self.heard |= progress.is_ready();
        self.watch(cx, progress, puts_off)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.heard &= progress.is_pending();
        self.watch(cx, progress, true)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.heard &= progress.is_pending();
        self.watch(cx, progress, true)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use axum::serve::Listener as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn pair() -> (TcpStream, Guarded) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut bounded = Bounded::new(listener, CancellationToken::new());
        let (client, (guarded, _)) = tokio::join!(TcpStream::connect(address), bounded.accept());
        (client.unwrap(), guarded)
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_does_not_keep_a_place() {
        let (mut client, mut guarded) = pair().await;
        let step = SILENCE * 2 / 5;
        for _ in 0..3 {
            client.write_all(b"x").await.unwrap();
            guarded.read_u8().await.unwrap();
            tokio::time::advance(step).await;
        }
        client.write_all(b"x").await.unwrap();
        assert_eq!(guarded.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_are_answered_keep_their_connection() {
        let (mut client, mut guarded) = pair().await;
        let step = SILENCE * 2 / 5;
        for _ in 0..5 {
            tokio::time::advance(step).await;
            client.write_all(b"x").await.unwrap();
            guarded.read_u8().await.unwrap();
            tokio::time::advance(step).await;
            guarded.write_all(b"y").await.unwrap();
            client.read_u8().await.unwrap();
        }
    }
}
