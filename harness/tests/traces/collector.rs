//! A collector of traces: takes what exporters send over OTLP, and keeps it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// A span as it was exported.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) trace_id: String,
    pub(crate) span_id: String,
    /// Empty for the first span of a trace.
    pub(crate) parent_id: String,
    pub(crate) name: String,
    /// The `service.instance.id` of who made it; empty for commands.
    pub(crate) node: String,
    /// The `service.name`.
    pub(crate) service: String,
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
    pub(crate) attributes: BTreeMap<String, String>,
}

/// The spans of one trace.
pub(crate) struct Trace(pub(crate) Vec<Span>);

/// A collector on loopback, until it is dropped.
pub(crate) struct Collector {
    pub(crate) endpoint: String,
    spans: Arc<Mutex<Vec<Span>>>,
    _serving: AbortOnDropHandle<()>,
}

struct Collecting(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collecting {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = self.0.lock().unwrap();
        for exported in request.into_inner().resource_spans {
            let resource = texts(&exported.resource.unwrap_or_default().attributes);
            let of = |name: &str| resource.get(name).cloned().unwrap_or_default();
            spans.extend(exported.scope_spans.into_iter().flat_map(|scope| scope.spans).map(|span| Span {
                trace_id: hex(&span.trace_id),
                span_id: hex(&span.span_id),
                parent_id: hex(&span.parent_span_id),
                name: span.name,
                node: of("service.instance.id"),
                service: of("service.name"),
                start_ns: span.start_time_unix_nano,
                end_ns: span.end_time_unix_nano,
                attributes: texts(&span.attributes),
            }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let spans = Arc::default();
        let service = TraceServiceServer::new(Collecting(Arc::clone(&spans)));
        let serving = Server::builder().add_service(service);
        let serving = serving.serve_with_incoming(TcpListenerStream::new(listener));
        let serving = AbortOnDropHandle::new(tokio::spawn(async { serving.await.unwrap() }));
        Collector { endpoint, spans, _serving: serving }
    }

    /// Every span that came.
    pub(crate) fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap().clone()
    }

    /// The spans of one trace, in order.
    pub(crate) fn trace(&self, trace_id: &str) -> Trace {
        let mut spans = self.spans();
        spans.retain(|span| span.trace_id == trace_id);
        spans.sort_by_key(|span| (span.start_ns, span.span_id.clone()));
        Trace(spans)
    }
}

impl Trace {
    /// Spans whose parent is neither among them nor `root`.
    pub(crate) fn strays(&self, root: &str) -> Vec<&Span> {
        let known: BTreeSet<&str> = self.0.iter().map(|span| &*span.span_id).chain([root]).collect();
        self.0.iter().filter(|span| !known.contains(&*span.parent_id)).collect()
    }

    pub(crate) fn parent(&self, of: &Span) -> Option<&Span> {
        self.0.iter().find(|span| span.span_id == of.parent_id)
    }

    pub(crate) fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Span> {
        self.0.iter().filter(move |span| span.name == name)
    }

    /// Who made spans of this name.
    pub(crate) fn nodes_with(&self, name: &str) -> BTreeSet<String> {
        self.named(name).map(|span| span.node.clone()).collect()
    }

    fn write(&self, formatter: &mut fmt::Formatter<'_>, span: &Span, depth: usize) -> fmt::Result {
        let who = if span.node.is_empty() { "client" } else { &span.node };
        let ms = (span.end_ns - span.start_ns) as f64 / 1e6;
        writeln!(formatter, "{:indent$}{who} {} {ms:.2} ms", "", span.name, indent = 2 * depth)?;
        let children = self.0.iter().filter(|child| child.parent_id == span.span_id);
        children.into_iter().try_for_each(|child| self.write(formatter, child, depth + 1))
    }
}

impl fmt::Display for Trace {
    /// As a tree.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roots = self.0.iter().filter(|span| self.parent(span).is_none());
        roots.into_iter().try_for_each(|root| self.write(formatter, root, 0))
    }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|value| value.value.clone()) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(truth)) => truth.to_string(),
        other => format!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
