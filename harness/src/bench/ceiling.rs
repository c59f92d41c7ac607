//! The most that a server can do on this machine: a bare one that answers with bytes which it has at hand.
//!
//! What it is asked for the first time it asks a node for; from then on it answers the same request with the same messages.
//! It has threads of its own, as a process would.

use std::collections::HashMap;
use std::convert::Infallible;
use std::marker::PhantomData;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt, stream};
use overlay::proto::legacy::overlay_node_server::OverlayNodeServer;
use overlay::proto::v1::overlay_server::OverlayServer;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::server::{Grpc, NamedService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::BenchError;
use super::raw::{RawClient, RawCodec};

/// A bare server. Dropping it ends it.
pub(super) struct Ceiling {
    pub(super) address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Ceiling {
    /// Starts a server for what the node at `address` answers.
    pub(super) async fn before(address: SocketAddr) -> Result<Self, BenchError> {
        let node = RawClient::connect(address).await?;
        let answers = Arc::new(Answers { node, known: Mutex::default() });
        let runtime = Runtime::new().map_err(BenchError::Io)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(BenchError::Io)?;
        let address = listener.local_addr().map_err(BenchError::Io)?;
        // Its listener has to belong to its own threads.
        let listener = listener.into_std().map_err(BenchError::Io)?;
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener)?;
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let server = Server::builder()
                .add_service(Replay::<OverlayServer<()>>::of(&answers))
                .add_service(Replay::<OverlayNodeServer<()>>::of(&answers));
            server.serve_with_incoming(incoming).await.map_err(std::io::Error::other)
        });
        Ok(Ceiling { address, runtime: Some(runtime) })
    }
}

impl Drop for Ceiling {
    fn drop(&mut self) {
        // A runtime must not wait for its threads inside another one.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Answers {
    node: RawClient,
    known: Mutex<HashMap<(PathAndQuery, Bytes), Vec<Bytes>>>,
}

impl Answers {
    async fn to(&self, path: PathAndQuery, request: Bytes) -> Result<Vec<Bytes>, Status> {
        let key = (path, request);
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = known().get(&key) {
            return Ok(answer.clone());
        }
        let messages = self.node.clone().streaming(&key.0, key.1.clone()).await?;
        let messages: Vec<Bytes> = messages.try_collect().await?;
        known().insert(key, messages.clone());
        Ok(messages)
    }
}

/// Answers for the service `N`, whatever the method: on the wire a call with one answer is a stream of one message.
struct Replay<N> {
    answers: Arc<Answers>,
    of: PhantomData<fn() -> N>,
}

impl<N> Replay<N> {
    fn of(answers: &Arc<Answers>) -> Self {
        Replay { answers: answers.clone(), of: PhantomData }
    }
}

impl<N> Clone for Replay<N> {
    fn clone(&self) -> Self {
        Self::of(&self.answers)
    }
}

impl<N: NamedService> NamedService for Replay<N> {
    const NAME: &'static str = N::NAME;
}

impl<N> tower::Service<http::Request<Body>> for Replay<N> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answers = self.answers.clone();
        Box::pin(async move {
            let path = request.uri().path_and_query().cloned();
            let answer = tower::service_fn(|request: Request<Bytes>| {
                let (answers, path) = (answers.clone(), path.clone());
                async move {
                    let path = path.ok_or_else(|| Status::unimplemented("no path"))?;
                    let messages = answers.to(path, request.into_inner()).await?;
                    Ok(Response::new(stream::iter(messages).map(Ok)))
                }
            });
            Ok(Grpc::new(RawCodec).server_streaming(answer, request).await)
        })
    }
}
