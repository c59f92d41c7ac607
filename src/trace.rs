//! One trace over all hops: the spans of a query, and the context that requests carry from hop to hop.
//!
//! A span is made by `step!` for what a node does, by `calls` for a request to another node, and by [`TraceLayer`] for one that
//! is answered. It costs a look at a cached flag unless the command has switched traces on (`cli/telemetry.rs`), which makes
//! it a span of OpenTelemetry. Ids are the exporter's: a node makes none by itself, and under simulation there are none.
//!
//! Whose work something is follows from the current span: work that goes on elsewhere is taken `along`. A node without
//! traces passes on the context that a request came with, so that it is no gap in anybody's trace.
//!
//! Only requests of clients begin a trace; what neighbours ask of each other, and every step, belongs to one or is in none.
//! Names are few; attributes hold numbers, nodes and verbs, never a uid, a token, a client's id or what it asks for. Those
//! with a convention have its name.
//!
//! Source: OpenTelemetry semantic conventions, RPC and HTTP spans (gRPC: release candidate, `rpc.method` in full).

mod context;
#[cfg(feature = "otlp")]
mod export;
mod layer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tonic::Code;
use tonic::metadata::MetadataMap;
use tracing::{Instrument, Span};

pub use context::{TRACEPARENT, TRACESTATE, TraceContext};
pub use layer::TraceLayer;

/// The target of every span here, by which subscribers tell them from what is logged.
pub const TARGET: &str = "overlay::trace";

/// The codes that say that the node that answers has failed, and not who asks.
const OWN_FAILURES: [Code; 6] = [
    Code::Unknown,
    Code::DeadlineExceeded,
    Code::Unimplemented,
    Code::Internal,
    Code::Unavailable,
    Code::DataLoss,
];

tokio::task_local! {
    /// What the request that is answered came with, at a node without traces.
    static CARRIED: Option<Arc<TraceContext>>;
}

/// A span of what is done for the current one; none if there is none.
///
/// Units: numbers are `i64`, else they are exported as text.
macro_rules! step {
    ($name:literal $(, $($fields:tt)*)?) => {
        match $crate::trace::is_traced() {
            true => tracing::info_span!(target: "overlay::trace", $name $(, $($fields)*)?),
            false => tracing::Span::none(),
        }
    };
}
pub(crate) use step;

/// Whether somebody takes spans. `tracing` cannot be asked (`span_enabled!`): where its layers have filters of their own the
/// answer stays behind on the thread, and the next line of the log would be taken for filtered out, too.
static ON: AtomicBool = AtomicBool::new(false);

/// Switches traces on, for as long as the process lives.
pub(crate) fn switch_on() {
    ON.store(true, Ordering::Relaxed);
}

fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Whether what is done now belongs to a trace.
pub(crate) fn is_traced() -> bool {
    is_on() && !Span::current().is_none()
}

/// What a command does, with a trace of its own.
pub(crate) async fn command<T, E>(
    name: &'static str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let status = tracing::field::Empty;
    let span =
        tracing::info_span!(target: "overlay::trace", "command", otel.name = name, otel.status_code = status);
    let done = work.instrument(span.clone()).await;
    if done.is_err() {
        span.record("otel.status_code", "ERROR");
    }
    done
}

/// The span of a request to another node: from sending it to having read its answer, so that what is beyond the other node's
/// span of it is the way there and back.
pub(crate) fn calls(method: &'static str, address: &str) -> Span {
    if !is_traced() {
        return Span::none();
    }
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    tracing::info_span!(
        target: "overlay::trace",
        "call",
        otel.name = method,
        otel.kind = "client",
        otel.status_code = tracing::field::Empty,
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.response.status_code = tracing::field::Empty,
        server.address = host,
        server.port = port.parse::<i64>().ok(),
        "error.type" = tracing::field::Empty,
        overlay.neighbour = tracing::field::Empty,
        overlay.items = tracing::field::Empty,
        overlay.retry = tracing::field::Empty,
    )
}

/// Says something of the request that is answered, where its span is the current one.
pub(crate) fn note(field: &'static str, value: impl tracing::Value) {
    if is_on() {
        Span::current().record(field, value);
    }
}

/// Says on a span how it failed, in a word of few.
pub(crate) fn failed(span: &Span, how: &str) {
    span.record("error.type", how);
    span.record("otel.status_code", "ERROR");
}

/// Says how a request to another node ended.
pub(crate) fn ended(span: &Span, code: Code) {
    let name = code_name(code);
    span.record("rpc.response.status_code", name);
    if code != Code::Ok {
        failed(span, name);
    }
}

/// Says how a request was answered; a mistake of who asks is no failure of this node.
fn answered(span: &Span, code: Code) {
    let name = code_name(code);
    span.record("rpc.response.status_code", name);
    if OWN_FAILURES.contains(&code) {
        failed(span, name);
    }
}

/// Puts the trace that is current into a request, if there is one.
pub(crate) fn carry(metadata: &mut MetadataMap) {
    let Some(context) = current() else { return };
    if let Ok(parent) = context.to_string().parse() {
        metadata.insert(TRACEPARENT, parent);
    }
    if let Ok(state) = context.state.parse()
        && !context.state.is_empty()
    {
        metadata.insert(TRACESTATE, state);
    }
}

/// A future that belongs to the current trace wherever it runs.
pub(crate) fn along<F: Future>(future: F) -> impl Future<Output = F::Output> {
    CARRIED.scope(carried(), future.instrument(Span::current()))
}

fn carried() -> Option<Arc<TraceContext>> {
    CARRIED.try_with(Clone::clone).ok().flatten()
}

fn current() -> Option<TraceContext> {
    #[cfg(feature = "otlp")]
    if is_on()
        && let Some(context) = export::context_of(&Span::current())
    {
        return Some(context);
    }
    carried().map(Arc::unwrap_or_clone)
}

/// As the standard writes it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
