//! TLS below the connections: who connects is checked before a byte of a request is read.
//!
//! Nodes show certificates to each other, clients need none. A certificate is for the host that it is shown at, and for
//! the node that it names ([`NODE_NAME`]). Nodes speak HTTP/2; a client may speak HTTP/1.1.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, InvalidMessage, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use webpki::EndEntityCert;

use super::{SecurityError, read, warn_if_others_can_read};
use crate::config::{NodeId, Process, TlsFiles};
use crate::outside::{Accepted, Connect, Incoming, Peer, Stream};

/// What precedes a node's id in the URI that its certificate names it by, as a subject alternative name.
pub const NODE_NAME: &str = "overlay:node:";

/// What is spoken above, by names that both sides agree on.
const HTTP_2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";

/// Certificates, ready for use.
pub struct Tls {
    client: Arc<ClientConfig>,
    /// Only of a node.
    server: Option<Arc<ServerConfig>>,
}

impl Tls {
    /// Serves and connects with a certificate; others are checked against the CA.
    pub(super) fn of_node(files: &TlsFiles, id: &NodeId) -> Result<Self, SecurityError> {
        let (ca, [certificate, key]) = (&*files.ca, &files.files_of(id));
        let roots = roots(ca)?;
        let chain = certificates(certificate)?;
        let key_text = read(key)?;
        warn_if_others_can_read(key);
        let private = || {
            PrivateKeyDer::from_pem_slice(key_text.as_bytes())
                .map_err(|_| SecurityError::new(key, "holds no private key in PEM format"))
        };
        let unusable =
            |error: rustls::Error| SecurityError::new(certificate, format!("cannot be used: {error}"));
        let verifier = verifier(roots.clone(), ca)?;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), private()?)
            .map_err(unusable)?;
        server.alpn_protocols = vec![HTTP_2.to_vec(), HTTP_1.to_vec()];
        // Every handshake checks the certificate: a session that is taken up again would outlive it.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, private()?)
            .map_err(unusable)?;
        client.alpn_protocols = vec![HTTP_2.to_vec()];
        Ok(Tls { client: Arc::new(client), server: Some(Arc::new(server)) })
    }

    /// Whether other nodes will take the certificate of a process for what it is.
    pub(super) fn check_own(files: &TlsFiles, process: &Process) -> Result<(), SecurityError> {
        let [certificate, _] = files.files_of(&process.id);
        let refused = |why: String| SecurityError::new(&certificate, why);
        let unusable = |error: rustls::Error| refused(error.to_string());
        Self::of_node(files, &process.id)?;
        let (roots, chain) = (roots(&files.ca)?, certificates(&certificate)?);
        let host = server_name(&process.address()).map_err(|error| refused(error.to_string()))?;
        let as_server = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider())
            .build()
            .map_err(|error| refused(error.to_string()))?;
        let now = UnixTime::now();
        as_server.verify_server_cert(&chain[0], &chain[1..], &host, &[], now).map_err(unusable)?;
        verifier(roots, &files.ca)?.verify_client_cert(&chain[0], &chain[1..], now).map_err(unusable)?;
        check_names(&chain[0], &process.id).map_err(refused)
    }

    /// Connects without a certificate of its own.
    pub(super) fn of_client(ca: &Path) -> Result<Self, SecurityError> {
        let unusable = |error: rustls::Error| SecurityError::new(ca, format!("cannot be used: {error}"));
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_root_certificates(roots(ca)?)
            .with_no_client_auth();
        client.alpn_protocols = vec![HTTP_2.to_vec()];
        Ok(Tls { client: Arc::new(client), server: None })
    }

    /// Connections on which the other side has shown a certificate for the host, and for `node`, if one is named.
    pub(super) fn connect(
        tls: &Arc<Tls>,
        connect: Arc<dyn Connect>,
        node: Option<NodeId>,
    ) -> Arc<dyn Connect> {
        Arc::new(ConnectTls { connector: TlsConnector::from(tls.client.clone()), connect, node })
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Whoever connects need not show a certificate; one that it shows must be good.
fn verifier(roots: Arc<RootCertStore>, ca: &Path) -> Result<Arc<dyn ClientCertVerifier>, SecurityError> {
    let built =
        WebPkiClientVerifier::builder_with_provider(roots, provider()).allow_unauthenticated().build();
    built.map_err(|error| SecurityError::new(ca, format!("cannot be used: {error}")))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, SecurityError> {
    let text = read(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(SecurityError::new(file, "holds no certificate in PEM format")),
    }
}

pub(super) fn roots(ca: &Path) -> Result<Arc<RootCertStore>, SecurityError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        let added = roots.add(certificate);
        added.map_err(|error| SecurityError::new(ca, format!("cannot be used: {error}")))?;
    }
    Ok(Arc::new(roots))
}

struct ConnectTls {
    connect: Arc<dyn Connect>,
    connector: TlsConnector,
    node: Option<NodeId>,
}

impl Connect for ConnectTls {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let (connecting, connector) = (self.connect.connect(address), self.connector.clone());
        let (name, node) = (server_name(address), self.node.clone());
        async move {
            let stream = connector.connect(name?, connecting.await?).await.map_err(in_words)?;
            if let Some(expected) = node {
                let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
                let shown = certificates.first().expect("who serves TLS shows a certificate");
                let checked = check_names(shown, &expected);
                checked.map_err(|why| io::Error::new(io::ErrorKind::PermissionDenied, why))?;
            }
            Ok(Box::new(stream) as Box<dyn Stream>)
        }
        .boxed()
    }

    fn resolve(&self, host: &str) -> BoxFuture<'static, Vec<IpAddr>> {
        self.connect.resolve(host)
    }
}

/// Whoever was connected to answered, and not in TLS.
#[derive(Debug, thiserror::Error)]
#[error("the other end speaks no TLS")]
pub struct SpeaksNoTls;

/// What answers in another protocol is called a corrupt message by the TLS library.
fn in_words(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|cause| cause.downcast_ref()) {
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            io::Error::new(error.kind(), SpeaksNoTls)
        }
        _ => error,
    }
}

/// The host of `HOST:PORT`, as certificates name it.
fn server_name(address: &str) -> io::Result<ServerName<'static>> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let invalid =
        |_| io::Error::new(io::ErrorKind::InvalidInput, format!("no certificate can be for `{host}`"));
    ServerName::try_from(host.to_owned()).map_err(invalid)
}

fn check_names(certificate: &CertificateDer<'_>, expected: &NodeId) -> Result<(), String> {
    let found = node_of(certificate);
    if found.as_deref() == Some(&**expected) {
        return Ok(());
    }
    let found = found.map_or_else(|| "no node".to_owned(), |node| format!("node `{node}`"));
    Err(format!("its certificate names {found}, not node `{expected}`"))
}

/// The node that a certificate names.
fn node_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    certificate.valid_uri_names().find_map(|uri| uri.strip_prefix(NODE_NAME).map(str::to_owned))
}

/// Lets those connections in whose handshake succeeds within `within`; others are closed, and say why in the log.
///
/// # Panics
/// If `tls` is a client's.
pub fn accept_tls(incoming: Incoming, tls: &Tls, within: Duration) -> Incoming {
    let server = tls.server.clone().expect("a node's own certificate");
    let acceptor = TlsAcceptor::from(server);
    let handshakes = incoming.map(move |accepted| {
        let acceptor = acceptor.clone();
        async move {
            let accepted = match accepted {
                Ok(accepted) => accepted,
                Err(error) => return Some(Err(error)),
            };
            let address = accepted.peer().address;
            match tokio::time::timeout(within, acceptor.accept(accepted)).await {
                Ok(Ok(stream)) => {
                    let certificates = stream.get_ref().1.peer_certificates();
                    let node = certificates.and_then(|chain| node_of(chain.first()?));
                    let peer = Peer { address, node: node.map(Arc::from) };
                    Some(Ok(Accepted::certified(Box::new(stream), peer)))
                }
                Ok(Err(error)) => {
                    tracing::debug!(?address, %error, "a handshake failed");
                    None
                }
                Err(_) => {
                    tracing::debug!(?address, "a handshake took too long");
                    None
                }
            }
        }
    });
    // Each has a place among the connections: there are never more than those.
    handshakes.buffer_unordered(usize::MAX).filter_map(futures::future::ready).boxed()
}
