//! Messages on their way: a request's has to arrive in time, an answer's is given in pieces, and each has to be taken in
//! time. What a request and its answer hold until then is counted in bytes, for the address that asked.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use http_body::SizeHint;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::header::CONTENT_LENGTH;
use tonic::codegen::http::{HeaderMap, Method, Request, Response, Version};
use tonic::codegen::{Body as HttpBody, StdError};
use tower::{Layer, Service};

use super::watch::{Connection, Waiting};
use crate::admission::{InFlight, InFlightPermit, Overloaded};
use crate::error::{Language, Problem, QueryError};
use crate::outside;

/// The HTTP library takes a piece whole, whether there is room for it or not, and keeps what does not fit.
const PIECE_BYTES: usize = outside::HTTP2_FRAME_BYTES as usize;

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
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match *request.method() {
            Method::HEAD => self.answer(request).map_ok(head).boxed(),
            _ => self.answer(request),
        }
    }
}

impl<S> Bodies<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    fn answer(&mut self, mut request: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, S::Error>> {
        let Some(connection) = request.extensions().get::<Connection>().cloned() else {
            return self.service.call(request).boxed();
        };
        request.extensions_mut().insert(connection.peer.clone());
        let (language, version) = (Language::of(request.headers()), request.version());
        if language == Language::Grpc && version < Version::HTTP_2 {
            return async { Ok(Problem::grpc_over_http1().into_response()) }.boxed();
        }
        // It ends a body by closing: one that breaks off would look whole.
        if version < Version::HTTP_11 {
            return async { Ok(Problem::http_1_0().into_response()) }.boxed();
        }
        let BodiesLayer { request: within, transit, header_bytes } = &self.layer;
        let held = match transit.try_acquire_for(connection.counted_for.clone(), *header_bytes) {
            Ok(held) => Arc::new(held),
            Err(full) => return async move { Ok(language.answer(&full.into())) }.boxed(),
        };
        let (within, arriving) = (*within, held.clone());
        let request = request.map(|body| Body::new(Arriving { body, within, ends: None, held: arriving }));
        let answering = self.service.call(request);
        async move { Ok(given(answering.await?, version, held, connection).await) }.boxed()
    }
}

/// An answer, with its first part counted, or why there is no room for it.
async fn given(
    response: Response<Body>,
    version: Version,
    held: Arc<InFlightPermit>,
    connection: Connection,
) -> Response<Body> {
    let (head, body) = response.into_parts();
    let language = Language::of(&head.headers);
    let has_status = language == Language::Grpc && version >= Version::HTTP_2;
    let mut given = Given { body, part: None, trailers: None, has_status, held, connection };
    // Most answers are one part that is there at once. Of a stream the first may come later.
    match poll_fn(|cx| Poll::Ready(given.poll_part(cx))).await {
        Poll::Ready(Some(Err(unsent))) => unsent.into_response(language),
        Poll::Ready(_) | Poll::Pending => Response::from_parts(head, Body::new(given)),
    }
}

/// An answer to HEAD: that to GET without what is behind its headers, and with its length where that is known at once.
///
/// Source: RFC 9110, section 9.3.2.
fn head(response: Response<Body>) -> Response<Body> {
    let length = response.body().size_hint().exact();
    let mut head = response.map(|_| Body::empty());
    if let Some(length) = length {
        head.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    head
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

/// The message of an answer, piece by piece.
struct Given {
    body: Body,
    /// What is left of the part at hand.
    part: Option<Part>,
    trailers: Option<Frame>,
    /// Whether a failure is said behind what was sent; else it ends the answer in the middle.
    has_status: bool,
    held: Arc<InFlightPermit>,
    connection: Connection,
}

/// A part of an answer, whose bytes count, and whose time runs, until the last of its pieces is written.
struct Part {
    left: Bytes,
    counted: Arc<Counted>,
}

struct Counted {
    bytes: usize,
    held: Arc<InFlightPermit>,
    _waiting: Waiting,
}

/// What the HTTP library keeps until it is written.
struct Piece {
    bytes: Bytes,
    _counted: Arc<Counted>,
}

/// Why a part of an answer is not sent.
enum Unsent {
    NoRoom(Overloaded),
    Failed(StdError),
}

impl Unsent {
    fn into_status(self) -> Status {
        match self {
            Unsent::NoRoom(full) => refusal(full),
            Unsent::Failed(error) => Status::internal(format!("the answer failed: {error}")),
        }
    }

    fn into_response(self, language: Language) -> Response<Body> {
        match self {
            Unsent::NoRoom(full) => language.answer(&full.into()),
            Unsent::Failed(error) => {
                let why = format!("the answer failed: {error}");
                language.refusal(Status::internal(&why), Problem::internal(why))
            }
        }
    }
}

impl Given {
    /// Waits for the next part, and counts it; `None` at the end, and where trailers came instead.
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<(), Unsent>>> {
        let part = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => frame.into_data(),
            Some(Err(error)) => return Poll::Ready(Some(Err(Unsent::Failed(error.into())))),
            None => return Poll::Ready(None),
        };
        match part {
            Ok(left) => {
                let bytes = left.len();
                if let Err(full) = self.held.take(bytes) {
                    return Poll::Ready(Some(Err(Unsent::NoRoom(full))));
                }
                let (held, waiting) = (self.held.clone(), self.connection.part());
                self.part =
                    Some(Part { left, counted: Arc::new(Counted { bytes, held, _waiting: waiting }) });
                Poll::Ready(Some(Ok(())))
            }
            Err(trailers) => {
                self.trailers = Some(trailers);
                Poll::Ready(None)
            }
        }
    }

    /// The next piece of the part at hand.
    fn piece(&mut self) -> Option<Bytes> {
        let mut part = self.part.take()?;
        let bytes = part.left.split_to(part.left.len().min(PIECE_BYTES));
        let piece = Bytes::from_owner(Piece { bytes, _counted: part.counted.clone() });
        self.part = Some(part).filter(|part| !part.left.is_empty());
        Some(piece)
    }
}

impl HttpBody for Given {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StdError>>> {
        if self.part.is_none()
            && self.trailers.is_none()
            && let Some(Err(unsent)) = ready!(self.poll_part(cx))
        {
            self.body = Body::empty();
            if !self.has_status {
                return Poll::Ready(Some(Err(unsent.into_status().into())));
            }
            let mut trailers = HeaderMap::new();
            let written = unsent.into_status().add_header(&mut trailers);
            return Poll::Ready(Some(written.map(|()| Frame::trailers(trailers)).map_err(StdError::from)));
        }
        if let Some(piece) = self.piece() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        Poll::Ready(self.trailers.take().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.part.is_none() && self.trailers.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.part.as_ref().map_or(0, |part| part.left.len() as u64);
        let behind = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(left + behind.lower());
        if let Some(upper) = behind.upper() {
            hint.set_upper(left + upper);
        }
        hint
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.held.give_back(self.bytes);
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
