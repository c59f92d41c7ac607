//! Messages on their way: a request's has to arrive in time, an answer's is given in pieces, and each has to be taken in
//! time. What a request and its answer hold until then is counted in bytes, for the address that asked.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::codegen::{Body as HttpBody, StdError};
use tower::{Layer, Service};

use super::watch::{Answer, Connection};
use crate::admission::{InFlight, InFlightPermit, Overloaded};
use crate::error::QueryError;

/// The HTTP library takes a piece whole, whether there is room for it or not, and keeps what does not fit.
const PIECE_BYTES: usize = 16 << 10;

type Frame = http_body::Frame<Bytes>;

/// Stands before every service of a node, next to the connection; puts the [`Peer`](crate::outside::Peer) into the
/// extensions of every request.
#[derive(Clone)]
pub struct BodiesLayer {
    /// How long the message of a request may take.
    pub request: Duration,
    /// Bounds the bytes of messages on their way.
    pub transit: InFlight,
    /// What a request is counted with beside its messages: the bytes that its headers may have.
    pub header_bytes: usize,
}

/// A service whose messages are watched.
#[derive(Clone)]
pub struct Bodies<S> {
    layer: BodiesLayer,
    service: S,
}

impl<S> Layer<S> for BodiesLayer {
    type Service = Bodies<S>;

    fn layer(&self, service: S) -> Bodies<S> {
        Bodies { layer: self.clone(), service }
    }
}

impl<S> Service<Request<Body>> for Bodies<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Some(connection) = request.extensions().get::<Connection>().cloned() else {
            return self.service.call(request).boxed();
        };
        request.extensions_mut().insert(connection.peer.clone());
        let BodiesLayer { request: within, transit, header_bytes } = &self.layer;
        let held = match transit.try_acquire_for(connection.address.clone(), *header_bytes) {
            Ok(held) => Arc::new(held),
            Err(full) => return async { Ok(refusal(full).into_http()) }.boxed(),
        };
        let (within, arriving) = (*within, held.clone());
        let request = request.map(|body| Body::new(Arriving { body, within, ends: None, held: arriving }));
        let answering = self.service.call(request);
        async move { Ok(given(answering.await?, held, &connection).await) }.boxed()
    }
}

/// An answer, with the bytes of its first part counted, or why there is no room for them.
async fn given(
    response: Response<Body>,
    held: Arc<InFlightPermit>,
    connection: &Connection,
) -> Response<Body> {
    let (head, body) = response.into_parts();
    let mut given =
        Given { body, part: Bytes::new(), part_bytes: 0, trailers: None, held, answer: connection.answer() };
    // Not when the other end has room for it: it is there now, as all of an answer's message mostly is.
    let first = poll_fn(|cx| Poll::Ready(given.poll_part(cx))).await;
    match first {
        Poll::Ready(Some(Err(Unsent::NoRoom(full)))) => refusal(full).into_http(),
        Poll::Ready(Some(Err(Unsent::Failed(error)))) => {
            Status::internal(format!("the answer failed: {error}")).into_http()
        }
        Poll::Ready(_) | Poll::Pending => Response::from_parts(head, Body::new(given)),
    }
}

fn refusal(full: Overloaded) -> Status {
    QueryError::from(full).to_status()
}

/// The message of a request; it fails if it has not arrived in time.
struct Arriving {
    body: Body,
    within: Duration,
    /// When time is up; most messages are there at once, and need no timer.
    ends: Option<Pin<Box<Sleep>>>,
    /// Until it is answered, its message is there in one form or another.
    held: Arc<InFlightPermit>,
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StdError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            let bytes =
                frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()).map_or(0, Bytes::len);
            if let Err(full) = self.held.take(bytes) {
                return Poll::Ready(Some(Err(refusal(full).into())));
            }
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
    part: Bytes,
    /// What all of it is counted with.
    part_bytes: usize,
    trailers: Option<Frame>,
    held: Arc<InFlightPermit>,
    answer: Answer,
}

/// Why a part of an answer is not sent.
enum Unsent {
    NoRoom(Overloaded),
    Failed(StdError),
}

impl Given {
    /// Waits for the next part, and counts its bytes; `None` at the end, and where trailers came instead.
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<(), Unsent>>> {
        let part = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => frame.into_data(),
            Some(Err(error)) => return Poll::Ready(Some(Err(Unsent::Failed(error.into())))),
            None => return Poll::Ready(None),
        };
        match part {
            Ok(part) => {
                self.held.give_back(std::mem::take(&mut self.part_bytes));
                let bytes = part.len();
                if let Err(full) = self.held.take(bytes) {
                    return Poll::Ready(Some(Err(Unsent::NoRoom(full))));
                }
                (self.part, self.part_bytes) = (part, bytes);
                Poll::Ready(Some(Ok(())))
            }
            Err(trailers) => {
                self.trailers = Some(trailers);
                Poll::Ready(None)
            }
        }
    }
}

impl HttpBody for Given {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StdError>>> {
        if self.part.is_empty() && self.trailers.is_none() {
            self.answer.goes_on();
            match ready!(self.poll_part(cx)) {
                Some(Ok(())) => self.answer.waits(),
                Some(Err(Unsent::NoRoom(full))) => {
                    self.body = Body::empty();
                    let mut trailers = HeaderMap::new();
                    let written = refusal(full).add_header(&mut trailers);
                    return Poll::Ready(Some(
                        written.map(|()| Frame::trailers(trailers)).map_err(StdError::from),
                    ));
                }
                Some(Err(Unsent::Failed(error))) => return Poll::Ready(Some(Err(error))),
                None => {}
            }
        }
        if !self.part.is_empty() {
            let bytes = self.part.len().min(PIECE_BYTES);
            return Poll::Ready(Some(Ok(Frame::data(self.part.split_to(bytes)))));
        }
        Poll::Ready(self.trailers.take().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.part.is_empty() && self.trailers.is_none() && self.body.is_end_stream()
    }
}
