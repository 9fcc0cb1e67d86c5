//! How bytes reach Asterisk: TCP or TLS.
//!
//! The only file of this room with sockets. Everything above takes a [`Transport`], so that tests hand in pipes.
//!
//! Assumes of Asterisk that its TLS input stalls when one TLS record carries more than about 1 kB (seen on 22.10: it reads
//! 1024 bytes, then waits for the socket although decrypted bytes are left). Records are therefore kept below that.

use std::{fmt, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, InvalidDnsNameError, ServerName, pem::PemObject as _},
};
use socket2::{SockRef, TcpKeepalive};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::Tls;

/// What was written and not acknowledged for so long ends the connection; after as long without a word the kernel asks.
const SILENCE: Duration = Duration::from_secs(10);
/// The most bytes in one TLS record we send, its own overhead included.
const TLS_RECORD: usize = 1000;

/// A byte stream in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Any byte stream.
pub type BoxedIo = Box<dyn Io>;

/// How well a connection is protected against listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Encrypted, the peer's certificate checked.
    Tls,
    /// It does not leave this machine.
    Loopback,
    /// Anybody on the way can read it.
    Clear,
}

/// An open connection, before login.
pub struct Connection {
    /// The bytes.
    pub io: BoxedIo,
    /// Who is at the other end, for spans.
    pub peer: String,
    /// Whether a secret may be sent over it.
    pub security: Security,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).field("security", &self.security).finish_non_exhaustive()
    }
}

/// Something that opens connections to one PBX.
pub trait Transport: Send + Sync + fmt::Debug {
    /// Opens a connection. Cancel safety: dropping the future drops the half-open connection.
    fn connect(&self) -> BoxFuture<'_, Result<Connection, ConnectError>>;
}

/// A connection that could not be opened.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// Name resolution or TCP failed.
    #[error("cannot connect to {address}")]
    Tcp {
        /// The address as configured.
        address: String,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// The TLS handshake failed: no TLS there, or a certificate that is not trusted for that name.
    #[error("no TLS with {address}")]
    Tls {
        /// The address as configured.
        address: String,
        /// What failed.
        #[source]
        source: io::Error,
    },
}

/// Settings a transport cannot be made from.
#[derive(Debug, Error)]
pub enum TransportError {
    /// The CA file cannot be read.
    #[error("cannot read the CA file {}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What failed.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The CA file holds no certificate.
    #[error("the CA file {} holds no certificate", path.display())]
    EmptyCaFile {
        /// The file.
        path: PathBuf,
    },
    /// A certificate of the CA file cannot be used.
    #[error("a certificate in {} cannot be used", path.display())]
    BadCa {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: rustls::Error,
    },
    /// The system has no trusted certificates; name a CA file.
    #[error("the system offers no trusted certificates; set the CA file")]
    NoSystemRoots,
    /// The name to check is no host name or address.
    #[error("{name:?} is no name a certificate can have")]
    ServerName {
        /// The name.
        name: String,
        /// What is wrong with it.
        #[source]
        source: InvalidDnsNameError,
    },
    /// The TLS library refuses the settings.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

/// TCP, with TLS over it if so configured.
#[derive(Clone)]
pub struct TcpTransport {
    address: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl fmt::Debug for TcpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.tls.as_ref().map(|(_, name)| name);
        f.debug_struct("TcpTransport").field("address", &self.address).field("tls", &name).finish()
    }
}

impl TcpTransport {
    /// Reads the certificates (blocking) and makes a transport; connects to nobody.
    ///
    /// # Errors
    /// [`TransportError`] when the CA file or the name to check is of no use.
    pub fn new(address: impl Into<String>, tls: &Tls) -> Result<Self, TransportError> {
        let address = address.into();
        let tls = match tls {
            Tls::Off => None,
            Tls::On { ca_file, server_name } => {
                let name = server_name.clone().unwrap_or_else(|| host_of(&address).to_owned());
                let checked =
                    ServerName::try_from(name.clone()).map_err(|source| TransportError::ServerName { name, source })?;
                let roots = match ca_file {
                    Some(path) => roots_from(path.clone())?,
                    None => system_roots()?,
                };
                Some((TlsConnector::from(Arc::new(tls_config(roots)?)), checked))
            }
        };
        Ok(Self { address, tls })
    }

    async fn open(&self) -> Result<Connection, ConnectError> {
        let failed = |source| ConnectError::Tcp { address: self.address.clone(), source };
        let tcp = TcpStream::connect(&self.address).await.map_err(failed)?;
        // Actions are small and waited for.
        tcp.set_nodelay(true).map_err(failed)?;
        // A host that is gone without a word must not hold what was written to it until it is back.
        let alive = TcpKeepalive::new().with_time(SILENCE).with_interval(SILENCE / 2);
        SockRef::from(&tcp).set_tcp_keepalive(&alive).map_err(failed)?;
        #[cfg(target_os = "linux")]
        SockRef::from(&tcp).set_tcp_user_timeout(Some(SILENCE)).map_err(failed)?;
        let peer = tcp.peer_addr().map_err(failed)?;
        match &self.tls {
            None => {
                let security = if is_loopback(peer) { Security::Loopback } else { Security::Clear };
                Ok(Connection { io: Box::new(tcp), peer: peer.to_string(), security })
            }
            Some((connector, name)) => {
                let tls = connector
                    .connect(name.clone(), tcp)
                    .await
                    .map_err(|source| ConnectError::Tls { address: self.address.clone(), source })?;
                Ok(Connection { io: Box::new(tls), peer: peer.to_string(), security: Security::Tls })
            }
        }
    }
}

impl Transport for TcpTransport {
    fn connect(&self) -> BoxFuture<'_, Result<Connection, ConnectError>> {
        Box::pin(self.open())
    }
}

fn tls_config(roots: RootCertStore) -> Result<ClientConfig, TransportError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TransportError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.max_fragment_size = Some(TLS_RECORD);
    Ok(config)
}

fn roots_from(path: PathBuf) -> Result<RootCertStore, TransportError> {
    let unreadable = |source| TransportError::CaFile { path: path.clone(), source };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&path).map_err(unreadable)? {
        let certificate = certificate.map_err(unreadable)?;
        roots.add(certificate).map_err(|source| TransportError::BadCa { path: path.clone(), source })?;
    }
    if roots.is_empty() { Err(TransportError::EmptyCaFile { path }) } else { Ok(roots) }
}

fn system_roots() -> Result<RootCertStore, TransportError> {
    let mut roots = RootCertStore::empty();
    // Systems carry certificates that no library takes; what is left must be something.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TransportError::NoSystemRoots) } else { Ok(roots) }
}

/// The host of `host:port`, an IPv6 address without its brackets.
fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

fn is_loopback(peer: SocketAddr) -> bool {
    peer.ip().to_canonical().is_loopback()
}
