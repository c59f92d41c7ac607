//! Between trace contexts and the spans of OpenTelemetry.

use opentelemetry::trace::{SpanContext, TraceContextExt};
use opentelemetry::{Context, SpanId, TraceFlags, TraceId};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::TraceContext;

/// The context that requests made under a span carry; `None` if it is no span of a trace.
pub(super) fn context_of(span: &Span) -> Option<TraceContext> {
    let context = span.context();
    let of_span = context.span();
    let of_span = of_span.span_context();
    of_span.is_valid().then(|| TraceContext {
        trace_id: u128::from_be_bytes(of_span.trace_id().to_bytes()),
        span_id: u64::from_be_bytes(of_span.span_id().to_bytes()),
        flags: of_span.trace_flags().to_u8(),
        state: of_span.trace_state().header(),
    })
}

/// Makes a span that was not entered yet a part of a caller's.
pub(super) fn continue_from(span: &Span, parent: &TraceContext) {
    let parent = SpanContext::new(
        TraceId::from(parent.trace_id),
        SpanId::from(parent.span_id),
        TraceFlags::new(parent.flags),
        true,
        parent.state.parse().unwrap_or_default(),
    );
    // It fails where nobody takes the span, or a subscriber that does not know of traces does.
    let _ = span.set_parent(Context::new().with_remote_span_context(parent));
}
