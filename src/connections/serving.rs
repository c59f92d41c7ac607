//! Serves what connections ask, in HTTP/1.1 and HTTP/2 alike.
//!
//! A server of our own, since that of the gRPC library takes no bounds for HTTP/1.1.

use std::convert::Infallible;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Service, ServiceExt};

use super::{Watched, watched};
use crate::config::Limits;
use crate::outside::{CONNECTION_WINDOW_BYTES, Incoming, STREAM_WINDOW_BYTES};

/// The HTTP library takes no smaller buffer for the head of a request.
const LEAST_HEAD_BYTES: usize = 8192;

/// Serves every connection until `closing`; then takes no more, and lets the requests of those that are open end.
///
/// # Cancel safety
/// Dropping the future closes every connection.
pub async fn serve<S>(service: S, incoming: Incoming, limits: &Limits, closing: CancellationToken)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let builder = builder(limits);
    let mut connections = watched(incoming, limits);
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = closing.cancelled() => break,
            Some(_) = open.join_next(), if !open.is_empty() => {}
            accepted = connections.next() => match accepted {
                Some(Ok(connection)) => {
                    open.spawn(one(builder.clone(), connection, service.clone(), closing.clone()));
                }
                Some(Err(error)) => tracing::debug!(%error, "a connection is not accepted"),
                None => break,
            }
        }
    }
    // Whoever connects now is refused, and does not wait in vain.
    drop(connections);
    while open.join_next().await.is_some() {}
}

fn builder(limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http2()
        .auto_date_header(false)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(limits.connection_requests)
        .max_header_list_size(limits.header_bytes)
        .keep_alive_interval(limits.ping())
        .keep_alive_timeout(limits.ping());
    builder
        .http1()
        .auto_date_header(false)
        .timer(TokioTimer::new())
        .max_buf_size(LEAST_HEAD_BYTES.max(limits.header_bytes as usize))
        .header_read_timeout(limits.ping());
    builder
}

async fn one<S>(builder: Builder<TokioExecutor>, stream: Watched, service: S, closing: CancellationToken)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let connection = stream.connection().clone();
    let service = service.map_request(move |mut request: Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(connection.clone());
        request.map(Body::new)
    });
    let serving = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(serving);
    let ended = tokio::select! {
        biased;
        ended = &mut serving => ended,
        () = closing.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "a connection ends");
    }
}
