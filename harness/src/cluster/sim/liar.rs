//! A node that lies to its neighbours: a proxy before the true one, which changes what peers are answered.
//!
//! Everything else passes as it is, whoever asks, from the address that asked. So the node's own work stays
//! right, and clients that ask it get what it knows.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use overlay::outside::{self, Accepted, Connect, Incoming, Peer, Stream};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tonic::transport::{Channel, Endpoint, Server};

use super::forge;
use crate::fault::Lie;

/// How long connecting to the node behind may take; it takes no time.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// Bytes between the proxy and the node, in each direction.
const PIPE_BYTES: usize = 64 << 10;

/// Where a node takes its connections from.
pub(super) type Listener = mpsc::Sender<io::Result<Accepted>>;

/// A proxy that lies. Dropping it ends it.
pub(super) struct Liar {
    pub(super) lie: Lie,
    /// The node behind it.
    pub(super) node: Listener,
    told: Told,
    _serving: AbortOnDropHandle<()>,
}

/// How many lies were told, by who asked.
pub(super) type Told = Arc<Mutex<BTreeMap<IpAddr, u64>>>;

impl Liar {
    /// Takes the connections of `node`, and adds to `told`.
    pub(super) fn start(lie: Lie, incoming: Incoming, node: Listener, told: Told) -> Self {
        let proxy = Proxy { lie, node: node.clone(), told: told.clone(), channels: Arc::default() };
        let serving = async move {
            let served = Server::builder().serve_with_incoming(proxy, incoming).await;
            served.expect("connections of the simulation do not fail");
        };
        Liar { lie, node, told, _serving: AbortOnDropHandle::new(tokio::spawn(serving)) }
    }

    pub(super) fn told(&self) -> &Told {
        &self.told
    }
}

#[derive(Clone)]
struct Proxy {
    lie: Lie,
    node: Listener,
    told: Told,
    /// A connection to the node for each to the proxy.
    channels: Arc<Mutex<BTreeMap<Option<SocketAddr>, Channel>>>,
}

impl Service<Request<Body>> for Proxy {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let proxy = self.clone();
        async move { Ok(proxy.pass(request).await.unwrap_or_else(Status::into_http)) }.boxed()
    }
}

impl Proxy {
    async fn pass(self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let peer = request.extensions().get::<Peer>().and_then(|peer| peer.address);
        let path = request.uri().path().to_owned();
        let failed = |error: tonic::transport::Error| Status::unavailable(error.to_string());
        let mut channel = self.channel(peer);
        futures::future::poll_fn(|context| channel.poll_ready(context)).await.map_err(failed)?;
        let (head, body) = channel.call(request).await.map_err(failed)?.into_parts();
        let Some(verb) = path.strip_prefix("/overlay.v1.Peer/") else {
            return Ok(Response::from_parts(head, body));
        };
        let answer = body.collect().await?;
        let trailers = answer.trailers().cloned().map(Ok);
        let true_bytes = answer.to_bytes();
        let bytes = match forge::forge(self.lie, verb, &true_bytes) {
            Some(forged) => {
                let mut told = self.told.lock().expect("counting does not panic");
                *told.entry(peer.map_or(IpAddr::from([0; 4]), |peer| peer.ip())).or_default() += 1;
                forged.into()
            }
            None => true_bytes,
        };
        let body = Full::new(bytes).map_err(|never| match never {}).with_trailers(async { trailers });
        Ok(Response::from_parts(head, Body::new(body)))
    }

    fn channel(&self, peer: Option<SocketAddr>) -> Channel {
        let mut channels = self.channels.lock().expect("opening a channel does not panic");
        let open = || {
            let connect = Arc::new(Onward { node: self.node.clone(), peer });
            outside::channel(Endpoint::from_static("http://node"), connect, "node", CONNECT_WITHIN)
        };
        channels.entry(peer).or_insert_with(open).clone()
    }
}

/// Connects to the node, as if it was whoever asked.
struct Onward {
    node: Listener,
    peer: Option<SocketAddr>,
}

impl Connect for Onward {
    fn connect(&self, _address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let accepted = self.node.try_send(Ok(Accepted::new(Box::new(far), self.peer)));
        let connected = match accepted {
            Ok(()) => Ok(Box::new(near) as Box<dyn Stream>),
            Err(_) => Err(io::Error::new(ErrorKind::ConnectionRefused, "the node behind is gone")),
        };
        Box::pin(std::future::ready(connected))
    }
}
