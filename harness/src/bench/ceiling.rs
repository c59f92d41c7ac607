//! The most that a server can do on this machine: a bare one that answers with bytes which it has at hand.
//!
//! What it is asked for the first time it asks a node for; from then on it answers the same request with the same messages.
//! Once it is sealed it asks nobody any more, and refuses what it does not know. What a node refuses it never knows.
//! It has threads of its own, as a process would.

use std::collections::HashMap;
use std::convert::Infallible;
use std::marker::PhantomData;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt, stream};
use overlay::proto::legacy;
use overlay::proto::legacy::overlay_node_server::OverlayNodeServer;
use overlay::proto::v1::overlay_server::OverlayServer;
use prost::{DecodeError, Message};
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
    answers: Arc<Answers>,
    runtime: Option<Runtime>,
}

impl Ceiling {
    /// Starts a server for what the node at `address` answers.
    pub(super) async fn before(address: SocketAddr) -> Result<Self, BenchError> {
        let node = RawClient::connect(address).await?;
        let answers = Arc::new(Answers { node, known: Mutex::default(), is_sealed: AtomicBool::new(false) });
        let answering = answers.clone();
        let runtime = Runtime::new().map_err(BenchError::Io)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(BenchError::Io)?;
        let address = listener.local_addr().map_err(BenchError::Io)?;
        // Its listener has to belong to its own threads.
        let listener = listener.into_std().map_err(BenchError::Io)?;
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener)?;
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let server = Server::builder()
                .add_service(Replay::<OverlayServer<()>>::of(&answering))
                .add_service(Replay::<OverlayNodeServer<()>>::of(&answering));
            server.serve_with_incoming(incoming).await.map_err(std::io::Error::other)
        });
        Ok(Ceiling { address, answers, runtime: Some(runtime) })
    }

    /// From now on it learns nothing more.
    pub(super) fn seal(&self) {
        self.answers.is_sealed.store(true, Ordering::Relaxed);
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
    is_sealed: AtomicBool,
}

impl Answers {
    async fn to(&self, path: PathAndQuery, request: Bytes) -> Result<Vec<Bytes>, Status> {
        let key = (path, request);
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = known().get(&key) {
            return Ok(answer.clone());
        }
        if self.is_sealed.load(Ordering::Relaxed) {
            let path = &key.0;
            return Err(Status::failed_precondition(format!("the bare server does not know this {path}")));
        }
        let messages = self.node.clone().streaming(&key.0, key.1.clone()).await?;
        let messages: Vec<Bytes> = messages.try_collect().await?;
        check(key.0.path(), &messages)?;
        known().insert(key, messages.clone());
        Ok(messages)
    }
}

/// Refuses what the old contract refuses, whose gRPC code is OK whatever happened.
fn check(path: &str, messages: &[Bytes]) -> Result<(), Status> {
    let message = messages.first().cloned().unwrap_or_default();
    let (status, wanted) = match path {
        "/OverlayNode/Query" => (legacy::QueryResponse::decode(message).map(|answer| answer.status), "ready"),
        "/OverlayNode/GetChunk" => {
            (legacy::ChunkResponse::decode(message).map(|answer| answer.status), "success")
        }
        _ => return Ok(()),
    };
    match status.map_err(|error: DecodeError| Status::internal(error.to_string()))? {
        status if status == wanted => Ok(()),
        status => Err(Status::failed_precondition(format!("the node answered `{status}`"))),
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::rates::{Asker, Contract, Filters, Questions, rate};
    use super::*;
    use crate::cluster::{ClusterSpec, InProcessCluster};

    const QUESTIONS: Questions =
        Questions { contract: Contract::Old, filters: Filters::Same, matching: 1802 };

    async fn bare_server() -> (InProcessCluster, Ceiling) {
        let cluster = InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap();
        let node = cluster.address("A").parse().unwrap();
        (cluster, Ceiling::before(node).await.unwrap())
    }

    /// Goal: no refusal passes for an answer, whose gRPC code is OK; what is refused once is asked for again.
    #[tokio::test(flavor = "multi_thread")]
    async fn refusals_are_neither_answers_nor_known() {
        let (_cluster, ceiling) = bare_server().await;
        for contract in [Contract::Old, Contract::Ours] {
            let questions = Questions { contract, ..QUESTIONS };
            let asker = Asker::connect(ceiling.address, questions, 0).await.unwrap();
            asker.ask("no number").await.unwrap_err();
            assert!(ceiling.answers.known.lock().unwrap().is_empty());
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn sealed_server_answers_what_it_knows_and_nothing_else() {
        let (_cluster, ceiling) = bare_server().await;
        let asker = Asker::connect(ceiling.address, QUESTIONS, 0).await.unwrap();
        asker.ask("5").await.unwrap();
        ceiling.seal();
        asker.ask("5").await.unwrap();
        let refused = asker.ask("6").await.unwrap_err().to_string();
        assert!(refused.contains("the bare server does not know this /OverlayNode/Query"), "{refused}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn answers_have_as_many_rows_as_match() {
        let (cluster, _ceiling) = bare_server().await;
        for contract in [Contract::Old, Contract::Ours] {
            let questions = Questions { contract, matching: 99, ..QUESTIONS };
            let asker = Asker::connect(cluster.address("A").parse().unwrap(), questions, 0).await.unwrap();
            let error = asker.ask("5").await.unwrap_err().to_string();
            assert_eq!(error, "the answer to a query for 99 rows has 100 in its first chunk");
        }
    }

    /// Goal: connections that wait for all others before time is taken are not left waiting for one that failed.
    #[tokio::test(flavor = "multi_thread")]
    async fn rate_ends_in_an_error_when_a_first_question_fails() {
        let (_cluster, ceiling) = bare_server().await;
        ceiling.seal();
        let rate = rate(ceiling.address, QUESTIONS, Duration::ZERO).await;
        assert!(matches!(rate, Err(BenchError::Status(_))));
    }
}
