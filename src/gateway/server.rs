//! The listeners, and what all clients share.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use secrecy::ExposeSecret as _;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore, watch},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument as _, debug, info_span, warn};

use super::{
    calls::Calls,
    connection, control,
    figures::Figures,
    limits::Limiter,
    refusals::Refusals,
    rights::Catalogue,
    settings::{AddressRange, GatewaySettings, TlsListen},
};
use crate::{
    clock::Clock,
    decision::Gate,
    wire::ami::client::{AmiSettings, Security, TcpTransport, Transport, TransportError},
};

/// What is greeted with until Asterisk's own greeting is known: that of Asterisk 22.
const BANNER: &str = "Asterisk Call Manager/11.0.0";
/// How many logins at Asterisk may be on their way: it takes 50 at once from everybody (`authlimit`).
const LOGINS: usize = 8;
/// After a failed accept (no more descriptors), nothing is accepted for so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A silent client is asked by its kernel after so long whether it is still there: nobody else would notice.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Its address cannot be listened on.
    #[error("the gateway cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A PEM file cannot be read.
    #[error("{} cannot be read as PEM", path.display())]
    Pem {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// Certificate and key do not go together, or are of no use.
    #[error("the gateway's certificate cannot be used")]
    Certificate(#[source] rustls::Error),
    /// Asterisk cannot be reached the way it is configured.
    #[error("the gateway's way to Asterisk cannot be used")]
    Upstream(#[source] TransportError),
}

/// A running gateway; it ends with the token it was started with.
#[derive(Debug, Clone)]
pub struct Gateway {
    shared: Arc<Shared>,
    address: SocketAddr,
    tls_address: Option<SocketAddr>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Ends the counting of calls.
    counting: Arc<Mutex<CancellationToken>>,
}

/// What a gateway works with.
#[derive(Debug, Clone)]
pub struct Parts {
    /// What it asks before each call.
    pub gate: Gate,
    /// Where it counts what it refuses.
    pub refusals: Refusals,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where its tasks run.
    pub tasks: TaskTracker,
    /// What ends them.
    pub stop: CancellationToken,
}

impl Gateway {
    /// Starts listening.
    ///
    /// # Errors
    /// [`GatewayError`] when an address is taken, or a certificate is of no use.
    pub async fn start(settings: GatewaySettings, parts: Parts) -> Result<Self, GatewayError> {
        let Parts { gate, refusals, clock, tasks, stop } = parts;
        let listener = bind(settings.listen).await?;
        let address =
            listener.local_addr().map_err(|source| GatewayError::Listen { address: settings.listen, source })?;
        let (tls, certified) = match &settings.tls {
            Some(tls) => (Some(bind(tls.listen).await?), Some(certified(tls)?)),
            None => (None, None),
        };
        let tls_address = tls.as_ref().and_then(|listener| listener.local_addr().ok());
        let transport = transport(&settings)?;
        let limiter = Limiter::new(settings.limits.clone());
        let shared = Arc::new(Shared {
            settings: watch::Sender::new(Arc::new(settings)),
            transport: RwLock::new(transport),
            certified: RwLock::new(certified),
            gate,
            limiter,
            refusals,
            figures: Arc::default(),
            clock,
            catalogue: RwLock::default(),
            ask_catalogue: Notify::new(),
            banner: RwLock::new(BANNER.to_owned()),
            logins: Semaphore::new(LOGINS),
            reached: watch::Sender::new(0),
            unauthenticated: Mutex::new(0),
        });
        let (own, tracker, until) = (Arc::clone(&shared), tasks.clone(), stop.clone());
        tasks.spawn(listen(own, listener, Security::Clear, tracker, until));
        if let Some(listener) = tls {
            let (own, tracker, until) = (Arc::clone(&shared), tasks.clone(), stop.clone());
            tasks.spawn(listen(own, listener, Security::Tls, tracker, until));
        }
        tasks.spawn(control::run(Arc::clone(&shared), stop.clone()));
        let counting = Arc::new(Mutex::new(CancellationToken::new()));
        let gateway = Self { shared, address, tls_address, tasks, stop, counting };
        gateway.count_calls();
        Ok(gateway)
    }

    /// Where it listens in clear.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens with TLS.
    #[must_use]
    pub const fn tls_address(&self) -> Option<SocketAddr> {
        self.tls_address
    }

    /// What it has done so far.
    #[must_use]
    pub fn figures(&self) -> &Figures {
        &self.shared.figures
    }

    /// It is no longer configured: nobody may use it any more.
    pub fn dismiss(&self) {
        let known = self.shared.settings();
        let settings = GatewaySettings { users: Vec::new(), ..GatewaySettings::clone(&known) };
        self.shared.settings.send_replace(Arc::new(settings));
    }

    /// Counts the calls on the trunks, anew if they were counted.
    fn count_calls(&self) {
        let stop = self.stop.child_token();
        let mut counting = self.counting.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *counting, stop.clone()).cancel();
        let settings = self.shared.settings();
        Calls::start(
            settings.upstream.clone(),
            self.shared.transport(),
            self.shared.gate.clone(),
            settings.pbx.clone(),
            self.shared.limiter.clone(),
            Arc::clone(&self.shared.clock),
            &self.tasks,
            stop,
        );
    }

    /// Takes over a configuration read anew. Where it listens, and which PBX is behind it, stays as it is; a certificate is
    /// read again. Users that are gone, or have another secret, are cut off; for the others the new rights count from their
    /// next action on.
    ///
    /// # Errors
    /// [`GatewayError`] when the certificate is of no use or Asterisk cannot be reached so; the old settings stay in force.
    pub fn configure(&self, settings: GatewaySettings) -> Result<(), GatewayError> {
        let known = self.shared.settings();
        if settings.pbx != known.pbx {
            // Its rules, users and way to Asterisk are another PBX's: judged by this one's gate they would be a way around it.
            warn!(
                "[gateway] pbx was changed; everything of the gateway stays as it was until the controller is started anew"
            );
            return Ok(());
        }
        let transport = transport(&settings)?;
        let tls = match (&known.tls, settings.tls) {
            (Some(known), Some(new)) => {
                let renewed = TlsListen { listen: known.listen, ..new };
                let certified = certified(&renewed)?;
                *self.shared.certified.write().unwrap_or_else(PoisonError::into_inner) = Some(certified);
                Some(renewed)
            }
            (known, _) => known.clone(),
        };
        let settings = GatewaySettings { listen: known.listen, tls, ..settings };
        let elsewhere = !leads_as(&known.upstream, &settings.upstream);
        *self.shared.transport.write().unwrap_or_else(PoisonError::into_inner) = transport;
        self.shared.limiter.set(settings.limits.clone());
        self.shared.settings.send_replace(Arc::new(settings));
        if elsewhere {
            self.count_calls();
        }
        // A user may run commands now, and aliases were not asked for.
        self.shared.ask_catalogue_again();
        Ok(())
    }
}

/// Whether these lead to the same Asterisk as the same user.
fn leads_as(one: &AmiSettings, other: &AmiSettings) -> bool {
    one.address == other.address
        && one.username == other.username
        && one.secret.expose_secret() == other.secret.expose_secret()
        && one.tls == other.tls
}

fn transport(settings: &GatewaySettings) -> Result<Arc<dyn Transport>, GatewayError> {
    let upstream = &settings.upstream;
    let transport = TcpTransport::new(upstream.address.clone(), &upstream.tls).map_err(GatewayError::Upstream)?;
    Ok(Arc::new(transport))
}

async fn bind(address: SocketAddr) -> Result<TcpListener, GatewayError> {
    TcpListener::bind(address).await.map_err(|source| GatewayError::Listen { address, source })
}

/// Reads certificate and key.
pub(crate) fn certified(tls: &TlsListen) -> Result<Arc<ServerConfig>, GatewayError> {
    let unreadable = |path: &std::path::PathBuf| {
        let path = path.clone();
        move |source| GatewayError::Pem { path, source }
    };
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(&tls.certificate).map_err(unreadable(&tls.certificate))?.collect();
    let chain = chain.map_err(unreadable(&tls.certificate))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(unreadable(&tls.key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(GatewayError::Certificate)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(GatewayError::Certificate)?;
    Ok(Arc::new(config))
}

/// What all clients share.
#[derive(Debug)]
pub(super) struct Shared {
    settings: watch::Sender<Arc<GatewaySettings>>,
    transport: RwLock<Arc<dyn Transport>>,
    certified: RwLock<Option<Arc<ServerConfig>>>,
    pub(super) gate: Gate,
    pub(super) limiter: Limiter,
    pub(super) refusals: Refusals,
    pub(super) figures: Arc<Figures>,
    pub(super) clock: Arc<dyn Clock>,
    catalogue: RwLock<Arc<Catalogue>>,
    pub(super) ask_catalogue: Notify,
    banner: RwLock<String>,
    /// Logins at Asterisk that may be on their way.
    pub(super) logins: Semaphore,
    /// Counts logins that succeeded: whoever waits to try again need not wait any longer.
    pub(super) reached: watch::Sender<u64>,
    unauthenticated: Mutex<usize>,
}

#[cfg(test)]
impl Shared {
    /// What sessions share that no gateway has started.
    pub(super) fn alone(settings: GatewaySettings, gate: Gate, catalogue: Catalogue, clock: Arc<dyn Clock>) -> Self {
        let upstream = &settings.upstream;
        let transport = TcpTransport::new(upstream.address.clone(), &upstream.tls).unwrap();
        Self {
            certified: RwLock::default(),
            transport: RwLock::new(Arc::new(transport)),
            gate,
            limiter: Limiter::new(settings.limits.clone()),
            refusals: Refusals::default(),
            figures: Arc::default(),
            clock,
            catalogue: RwLock::new(Arc::new(catalogue)),
            ask_catalogue: Notify::new(),
            banner: RwLock::new(BANNER.to_owned()),
            logins: Semaphore::new(LOGINS),
            reached: watch::Sender::new(0),
            unauthenticated: Mutex::new(0),
            settings: watch::Sender::new(Arc::new(settings)),
        }
    }
}

impl Shared {
    pub(super) fn settings(&self) -> Arc<GatewaySettings> {
        Arc::clone(&self.settings.borrow())
    }

    pub(super) fn settings_changed(&self) -> watch::Receiver<Arc<GatewaySettings>> {
        self.settings.subscribe()
    }

    pub(super) fn transport(&self) -> Arc<dyn Transport> {
        Arc::clone(&self.transport.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn acceptor(&self) -> Option<TlsAcceptor> {
        self.certified.read().unwrap_or_else(PoisonError::into_inner).clone().map(TlsAcceptor::from)
    }

    pub(super) fn catalogue(&self) -> Arc<Catalogue> {
        Arc::clone(&self.catalogue.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_catalogue(&self, catalogue: Catalogue) {
        *self.catalogue.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(catalogue);
    }

    /// Asterisk may have other actions by now: it was away, or one was asked for that it did not list.
    pub(super) fn ask_catalogue_again(&self) {
        self.ask_catalogue.notify_one();
    }

    pub(super) fn banner(&self) -> String {
        self.banner.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_banner(&self, banner: &str) {
        let mut known = self.banner.write().unwrap_or_else(PoisonError::into_inner);
        if *known != banner {
            banner.clone_into(&mut known);
        }
    }
}

/// A connection that has not logged in, and counts as such until it is dropped.
#[derive(Debug)]
pub(super) struct Unauthenticated(Arc<Shared>);

impl Unauthenticated {
    /// `None` when there are too many.
    fn count(shared: &Arc<Shared>) -> Option<Self> {
        let limit = shared.settings().auth_limit;
        let mut count = shared.unauthenticated.lock().unwrap_or_else(PoisonError::into_inner);
        (*count < limit).then(|| {
            *count += 1;
            Self(Arc::clone(shared))
        })
    }
}

impl Drop for Unauthenticated {
    fn drop(&mut self) {
        let mut count = self.0.unauthenticated.lock().unwrap_or_else(PoisonError::into_inner);
        *count = count.saturating_sub(1);
    }
}

async fn listen(
    shared: Arc<Shared>,
    listener: TcpListener,
    security: Security,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "the gateway could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let address: IpAddr = peer.ip().to_canonical();
        if !AddressRange::allows(&shared.settings().allow, address) {
            warn!(peer.addr = %peer, "connection refused: the address is not in [gateway] allow");
            continue;
        }
        // As Asterisk does: over the limit there is not even a greeting.
        let Some(place) = Unauthenticated::count(&shared) else {
            warn!(peer.addr = %peer, "connection refused: too many that have not logged in ([gateway] auth_limit)");
            continue;
        };
        if let Err(error) = set_up(&stream) {
            debug!(peer.addr = %peer, %error, "the connection is gone already");
            continue;
        }
        let span = info_span!("gateway.client", peer.addr = %peer);
        let tls = if security == Security::Tls { shared.acceptor() } else { None };
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        tasks.spawn(
            async move {
                stop.run_until_cancelled(connection::serve(shared, stream, address, tls, place)).await;
            }
            .instrument(span),
        );
    }
}

fn set_up(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))
}
