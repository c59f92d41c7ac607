//! Traces to a collector, over OTLP, where the environment names one; else nothing.
//!
//! The environment variables are those of OpenTelemetry: `OTEL_EXPORTER_OTLP_ENDPOINT` (or `..._TRACES_ENDPOINT`) switches
//! traces on; the SDK reads the others, such as `OTEL_TRACES_SAMPLER` and `OTEL_BSP_...`. A collector that is out of reach
//! is told of once and costs spans, no query: a thread of its own sends what a bounded queue holds.

use tracing_subscriber::{Layer, Registry};

/// The variables that switch traces on.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// What makes spans of a process into traces.
pub(super) type TraceLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// What exports the traces of this process until it ends.
pub(super) struct Telemetry {
    #[cfg(feature = "otlp")]
    exporting: Option<exporting::Exporting>,
}

impl Telemetry {
    /// Starts to export if the environment says so. `instance` is the node that this process is.
    ///
    /// Gives the layer that takes spans. What keeps traces from being exported is said in words: no command fails for it.
    pub(super) fn start(instance: Option<&str>) -> (Self, Option<TraceLayer>) {
        #[cfg(feature = "otlp")]
        {
            let started = is_wanted().then(|| exporting::Exporting::start(instance));
            match started {
                Some(Ok((exporting, layer))) => {
                    let protocol = variable("OTEL_EXPORTER_OTLP_PROTOCOL");
                    if !matches!(&*protocol, "" | "grpc") {
                        super::tell("warning: OTEL_EXPORTER_OTLP_PROTOCOL: only grpc is spoken");
                    }
                    (Telemetry { exporting: Some(exporting) }, Some(layer))
                }
                Some(Err(why)) => {
                    super::tell(format!("warning: traces are not exported: {why}"));
                    (Telemetry { exporting: None }, None)
                }
                None => (Telemetry { exporting: None }, None),
            }
        }
        #[cfg(not(feature = "otlp"))]
        {
            let _ = instance;
            if is_wanted() {
                super::tell("warning: traces are not exported: built without the feature `otlp`");
            }
            (Telemetry {}, None)
        }
    }

    /// Sends what there is to send, within a bounded time.
    pub(super) fn end(self) {
        #[cfg(feature = "otlp")]
        if let Some(exporting) = self.exporting {
            exporting.end();
        }
    }
}

fn is_wanted() -> bool {
    let is_off = variable("OTEL_SDK_DISABLED").eq_ignore_ascii_case("true")
        || variable("OTEL_TRACES_EXPORTER") == "none";
    !is_off && endpoint().is_some()
}

/// The variable that says where the collector is.
fn endpoint() -> Option<&'static str> {
    ENDPOINTS.into_iter().find(|name| !variable(name).is_empty())
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

#[cfg(feature = "otlp")]
mod exporting {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use opentelemetry::KeyValue;
    use opentelemetry::trace::TracerProvider;
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
    use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
    use tokio::runtime::{Builder, Runtime};
    use tracing_subscriber::Layer;
    use tracing_subscriber::filter::{LevelFilter, filter_fn};

    use super::{TraceLayer, endpoint, variable};
    use crate::trace::TARGET;

    /// How long the end of a process waits for the collector to take the last spans.
    const FLUSH_WITHIN: Duration = Duration::from_secs(2);

    /// The name of the service, unless the environment has another one.
    const SERVICE: &str = "overlay";

    /// The exporter, and a runtime of its own: it lasts until the command's runtime has ended.
    pub(super) struct Exporting {
        provider: SdkTracerProvider,
        runtime: Runtime,
        failing: Arc<Failing>,
    }

    impl Exporting {
        pub(super) fn start(instance: Option<&str>) -> Result<(Self, TraceLayer), String> {
            // What the library says of others names its own features.
            if let Some(name) = endpoint()
                && !variable(name).to_ascii_lowercase().starts_with("http://")
            {
                return Err(format!(
                    "{name} does not start with http://: collectors are spoken to without TLS, so name one on this host that passes traces on, such as http://127.0.0.1:4317"
                ));
            }
            let words = |error: &dyn std::error::Error| error.to_string();
            let mut threads = Builder::new_multi_thread();
            let runtime = threads.worker_threads(1).thread_name("traces").enable_all().build();
            let runtime = runtime.map_err(|error| words(&error))?;
            let entered = runtime.enter();
            let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().build();
            let failing = Arc::default();
            let exporter =
                Told { inner: exporter.map_err(|error| words(&error))?, failing: Arc::clone(&failing) };
            let provider = SdkTracerProvider::builder()
                .with_batch_exporter(exporter)
                .with_resource(resource(instance))
                .build();
            drop(entered);
            let layer = tracing_opentelemetry::layer()
                .with_tracer(provider.tracer(SERVICE))
                .with_location(false)
                .with_threads(false)
                .with_target(false)
                .with_tracked_inactivity(false)
                .with_context_activation(false)
                // What is logged is no part of a trace.
                .with_filter(
                    filter_fn(|metadata| metadata.is_span() && metadata.target() == TARGET)
                        .with_max_level_hint(LevelFilter::INFO),
                );
            Ok((Exporting { provider, runtime, failing }, layer.boxed()))
        }

        pub(super) fn end(self) {
            if let Err(error) = self.provider.shutdown_with_timeout(FLUSH_WITHIN) {
                self.failing.note(&error);
            }
            self.runtime.shutdown_background();
        }
    }

    /// Who makes the spans.
    fn resource(instance: Option<&str>) -> Resource {
        let detected = Resource::builder().build();
        let name = detected.get(&"service.name".into()).map(|name| name.to_string());
        let mut resource = Resource::builder()
            .with_attribute(KeyValue::new("service.version", env!("OVERLAY_VERSION")))
            .with_attributes(instance.map(|node| KeyValue::new("service.instance.id", node.to_owned())));
        // What the SDK calls a service without a name.
        if name.is_none_or(|name| name.starts_with("unknown_service")) {
            resource = resource.with_service_name(SERVICE);
        }
        resource.build()
    }

    /// An exporter whose failing is told of when it begins.
    #[derive(Debug)]
    struct Told {
        inner: opentelemetry_otlp::SpanExporter,
        failing: Arc<Failing>,
    }

    /// Whether the collector takes nothing at present, which was told then.
    #[derive(Debug, Default)]
    struct Failing(AtomicBool);

    impl Failing {
        fn note(&self, error: &OTelSdkError) {
            if !self.0.swap(true, Ordering::Relaxed) {
                tracing::warn!(%error, "traces are not exported");
            }
        }

        fn ends(&self) {
            if self.0.swap(false, Ordering::Relaxed) {
                tracing::warn!("traces are exported again");
            }
        }
    }

    impl SpanExporter for Told {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            let exported = self.inner.export(batch).await;
            match &exported {
                Ok(()) => self.failing.ends(),
                Err(error) => self.failing.note(error),
            }
            exported
        }

        fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
            self.inner.shutdown_with_timeout(timeout)
        }

        fn set_resource(&mut self, resource: &Resource) {
            self.inner.set_resource(resource);
        }
    }
}
