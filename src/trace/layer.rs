//! The span of a request at the node that answers it: from its arrival to the last byte that was taken of its answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use futures::future::{BoxFuture, Either};
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Method, Request, Response};
use tower::{Layer, Service};
use tracing::{Instrument, Span};

use super::{CARRIED, TraceContext, answered, code_name, failed, is_on};

/// What clients ask; it begins a trace where they have begun none.
const BEGINS: [&str; 16] = [
    "/overlay.v1.Overlay/Query",
    "/overlay.v1.Overlay/GetChunk",
    "/overlay.v1.Overlay/StreamChunks",
    "/overlay.v1.Overlay/Explain",
    "/OverlayNode/Query",
    "/OverlayNode/GetChunk",
    "/arrow.flight.protocol.FlightService/GetFlightInfo",
    "/arrow.flight.protocol.FlightService/DoGet",
    "/api/v1/query",
    "/api/v1/aggregate",
    "/api/v1/explain",
    "/api/v1/coverage",
    "/api/v1/coverage.svg",
    "/api/v1/map.svg",
    "/api/v1/hours",
    "/api/v1/series.svg",
];

/// What neighbours ask, and clients beside queries; a part of its caller's trace, else of none.
const CONTINUES: [&str; 8] = [
    "/overlay.v1.Peer/Inventory",
    "/overlay.v1.Peer/Count",
    "/overlay.v1.Peer/Read",
    "/overlay.v1.Overlay/Cancel",
    "/overlay.v1.Overlay/GetQueryStatus",
    "/overlay.v1.Overlay/GetMetrics",
    "/OverlayNode/GetMetrics",
    "/arrow.flight.protocol.FlightService/ListFlights",
];

/// Puts the answering of each request into its trace.
#[derive(Clone)]
pub struct TraceLayer {
    /// The node that answers.
    pub node: Arc<str>,
}

/// A service whose requests are traced.
#[derive(Clone)]
pub struct Traced<S> {
    layer: TraceLayer,
    service: S,
}

impl<S> Layer<S> for TraceLayer {
    type Service = Traced<S>;

    fn layer(&self, service: S) -> Traced<S> {
        Traced { layer: self.clone(), service }
    }
}

impl<S, B> Service<Request<B>> for Traced<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let context = TraceContext::of(request.headers());
        let span = self.layer.span(&request, context.as_ref());
        if span.is_none() && context.is_none() {
            return Either::Left(self.service.call(request));
        }
        let carried = context.filter(|_| span.is_none()).map(Arc::new);
        let is_head = request.method() == Method::HEAD;
        let answering = span.in_scope(|| self.service.call(request)).instrument(span.clone());
        let answering = CARRIED.scope(carried.clone(), answering);
        Either::Right(Box::pin(async move {
            let response = answering.await?;
            Ok(TracedBody::around(response, span, carried, is_head))
        }))
    }
}

/// The span of an answer: what every one has, and fields of its own.
macro_rules! answer {
    ($node:expr, $name:expr, $($own:tt)*) => {
        tracing::info_span!(
            target: "overlay::trace",
            parent: None,
            "answer",
            otel.name = $name,
            otel.kind = "server",
            otel.status_code = tracing::field::Empty,
            $($own)*,
            "error.type" = tracing::field::Empty,
            overlay.node = $node,
            overlay.kind = tracing::field::Empty,
            overlay.cached = tracing::field::Empty,
            overlay.rows = tracing::field::Empty,
            overlay.chunks = tracing::field::Empty,
            overlay.outcome = tracing::field::Empty,
        )
    };
}

impl TraceLayer {
    /// The span of a request; none if traces are off, or nobody traces what has this path.
    fn span<B>(&self, request: &Request<B>, parent: Option<&TraceContext>) -> Span {
        if !is_on() {
            return Span::none();
        }
        let path = request.uri().path();
        let is = |known: &&&str| **known == path;
        let begins = BEGINS.iter().find(is);
        let Some(path) = begins.or_else(|| CONTINUES.iter().find(is).filter(|_| parent.is_some())) else {
            return Span::none();
        };
        let span = match path.starts_with("/api/") {
            true => self.http(request.method().as_str(), path),
            false => self.grpc(&path[1..]),
        };
        #[cfg(feature = "otlp")]
        if let Some(parent) = parent {
            super::export::continue_from(&span, parent);
        }
        span
    }

    fn grpc(&self, method: &str) -> Span {
        answer!(
            &*self.node,
            method,
            rpc.system.name = "grpc",
            rpc.method = method,
            rpc.response.status_code = tracing::field::Empty
        )
    }

    fn http(&self, method: &str, route: &str) -> Span {
        let method = if matches!(method, "GET" | "HEAD" | "OPTIONS") { method } else { "_OTHER" };
        answer!(
            &*self.node,
            format!("{method} {route}"),
            http.request.method = method,
            http.route = route,
            http.response.status_code = tracing::field::Empty
        )
    }
}

/// An answer that is on its way. What is done while it is read belongs to its request.
struct TracedBody {
    inner: Body,
    span: Span,
    /// From the answer's head to its end.
    transfer: Span,
    bytes: u64,
    carried: Option<Arc<TraceContext>>,
}

impl TracedBody {
    fn around(
        response: Response<Body>,
        span: Span,
        carried: Option<Arc<TraceContext>>,
        is_head: bool,
    ) -> Response<Body> {
        let http = response.status();
        span.record("http.response.status_code", i64::from(http.as_u16()));
        if http.is_server_error() {
            failed(&span, http.as_str());
        }
        note_status(&span, response.headers());
        let transfer = span.in_scope(|| super::step!("transfer", overlay.bytes = tracing::field::Empty));
        response.map(|inner| {
            let mut body = TracedBody { inner, span, transfer, bytes: 0, carried };
            // Nobody takes what is empty, or what was asked for its head alone.
            if is_head || http_body::Body::is_end_stream(&body.inner) {
                body.end();
            }
            Body::new(body)
        })
    }

    /// Ends the spans with the last byte, and not with whenever the connection forgets about the answer.
    fn end(&mut self) {
        self.transfer.record("overlay.bytes", self.bytes as i64);
        drop(std::mem::replace(&mut self.transfer, Span::none()));
    }
}

/// Whoever stops before the end has gone away.
impl Drop for TracedBody {
    fn drop(&mut self) {
        if !self.transfer.is_none() {
            answered(&self.span, tonic::Code::Cancelled);
            self.span.record("error.type", code_name(tonic::Code::Cancelled));
            self.end();
        }
    }
}

impl http_body::Body for TracedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let me = &mut *self;
        let span = me.span.clone();
        let _entered = span.enter();
        let inner = Pin::new(&mut me.inner);
        let polled = CARRIED.sync_scope(me.carried.clone(), || inner.poll_frame(context));
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                me.bytes += frame.data_ref().map_or(0, |data| data.remaining() as u64);
                if let Some(trailers) = frame.trailers_ref() {
                    note_status(&span, trailers);
                }
                if me.inner.is_end_stream() || frame.is_trailers() {
                    me.end();
                }
            }
            Poll::Ready(None) => me.end(),
            Poll::Ready(Some(Err(status))) => {
                answered(&span, status.code());
                me.end();
            }
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What an answer of gRPC says at its end, or in its head if that is all of it.
fn note_status(span: &Span, headers: &HeaderMap) {
    if let Some(status) = headers.get("grpc-status") {
        answered(span, tonic::Code::from_bytes(status.as_bytes()));
    }
}
