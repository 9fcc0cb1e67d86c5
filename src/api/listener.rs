//! The listening socket with its bounds: how many connections at once, and how long one may be silent.
//!
//! A server without these can be stopped by anyone who opens connections and says nothing: each keeps a task and a
//! descriptor. Here a connection over the bound waits in the kernel's backlog, and a silent one is closed, which frees
//! its place. When the server stops and its grace is over, those that still say nothing are cut.

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
/// How long neither a byte may come nor go. Longer than a request may take, so that it never cuts one short.
const SILENCE: Duration = Duration::from_secs(75);

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
        (Guarded { stream, silent: Box::pin(sleep(SILENCE)), cut, _place: place }, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// A connection that ends when it has been silent for too long, and gives its place back when it ends.
#[derive(Debug)]
pub(super) struct Guarded {
    stream: TcpStream,
    silent: Pin<Box<Sleep>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: OwnedSemaphorePermit,
}

impl Guarded {
    /// Puts the end off after progress; without any, says whether the end has come.
    fn watch<T>(&mut self, cx: &mut Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.silent.as_mut().reset(Instant::now() + SILENCE);
            return progress;
        }
        if self.silent.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
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
        self.watch(cx, progress)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, progress)
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
