//! Messages on their way: a request's has to arrive in time, an answer's is given in pieces, and each has to be taken.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{Body as HttpBody, StdError};
use tower::{Layer, Service};

use super::watch::{Answer, Connection};

/// The HTTP library takes a piece whole, whether there is room for it or not, and keeps what does not fit.
const PIECE_BYTES: usize = 16 << 10;

type Frame = http_body::Frame<Bytes>;

/// Stands before every service of a node, next to the connection; puts the [`Peer`](crate::outside::Peer) into the
/// extensions of every request.
#[derive(Clone)]
pub struct BodiesLayer {
    /// How long the message of a request may take.
    pub request: Duration,
}

/// A service whose messages are watched.
#[derive(Clone)]
pub struct Bodies<S> {
    request: Duration,
    service: S,
}

impl<S> Layer<S> for BodiesLayer {
    type Service = Bodies<S>;

    fn layer(&self, service: S) -> Bodies<S> {
        Bodies { request: self.request, service }
    }
}

impl<S> Service<Request<Body>> for Bodies<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let connection = request.extensions().get::<Connection>().cloned();
        if let Some(connection) = &connection {
            request.extensions_mut().insert(connection.peer.clone());
        }
        let within = self.request;
        let request = request.map(|body| Body::new(Arriving { body, within, ends: None }));
        let answering = self.service.call(request);
        let given = move |response: Response<Body>| match connection {
            Some(connection) => response
                .map(|body| Body::new(Given { body, piece: Bytes::new(), answer: connection.answer() })),
            None => response,
        };
        answering.map_ok(given).boxed()
    }
}

/// The message of a request; it fails if it has not arrived in time.
struct Arriving {
    body: Body,
    within: Duration,
    /// When time is up; most messages are there at once, and need no timer.
    ends: Option<Pin<Box<Sleep>>>,
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StdError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(StdError::from)));
        }
        let within = self.within;
        let ends = self.ends.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + within)));
        ready!(ends.as_mut().poll(cx));
        let why = format!(
            "the request's message did not arrive within {} ms (limits.request_ms)",
            within.as_millis()
        );
        Poll::Ready(Some(Err(Status::deadline_exceeded(why).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// The message of an answer, piece by piece, so that what is not taken is known.
struct Given {
    body: Body,
    /// What is left of the message's part at hand.
    piece: Bytes,
    answer: Answer,
}

impl HttpBody for Given {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StdError>>> {
        self.answer.goes_on();
        if self.piece.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.piece = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return Poll::Ready(other.map(|frame| frame.map_err(StdError::from))),
            }
        }
        let bytes = self.piece.len().min(PIECE_BYTES);
        let piece = self.piece.split_to(bytes);
        self.answer.waits();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.piece.is_empty() && self.body.is_end_stream()
    }
}
