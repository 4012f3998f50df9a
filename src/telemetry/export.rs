//! Spans on their way to a collector of OpenTelemetry.

use std::env;
use std::time::Duration;

use opentelemetry::trace::{
    Link, SpanKind, TraceContextExt as _, TraceId, TraceState, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    Config, Sampler, SamplingDecision, SamplingResult, SdkTracer, SdkTracerProvider, ShouldSample,
};

/// How long the last spans may take to leave at the end.
const FLUSH_TIME: Duration = Duration::from_secs(1);

const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The environment asks for a protocol that is not spoken.
    #[error(
        "{variable} is {found:?}, but spans are sent by gRPC only; set it to \"grpc\", and the endpoint to the \
             collector's port for gRPC, which usually is 4317"
    )]
    Protocol {
        /// The variable of the environment.
        variable: &'static str,
        /// What it says.
        found: String,
    },
    /// The collector's address is none.
    #[error("spans cannot be sent to {endpoint:?}: {source}")]
    Endpoint {
        /// The address.
        endpoint: String,
        /// What is wrong with it.
        source: ExporterBuildError,
    },
}

/// Where spans are recorded; the default records none.
#[derive(Clone, Debug, Default)]
pub struct Spans {
    tracer: Option<SdkTracer>,
}

/// What carries recorded spans to a collector.
#[derive(Debug)]
pub struct SpanExport {
    provider: SdkTracerProvider,
}

impl SpanExport {
    /// Sends spans to the collector at `endpoint` or, without one, to the one that the environment names as
    /// OpenTelemetry has it; `None` where that names none, or switches tracing off. `sample_ratio`: the
    /// share that is recorded of the traces that begin here; without it the environment says so, else all
    /// are. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the endpoint, or what the environment says of it, cannot be used.
    pub fn begin(
        endpoint: Option<&str>,
        sample_ratio: Option<f64>,
    ) -> Result<Option<Self>, ExportError> {
        let named = |names: [&'static str; 2]| {
            let value = |name| Some((name, env::var(name).ok().filter(|it| !it.is_empty())?));
            names.into_iter().find_map(value)
        };
        let is = |name: &str, value: &str| {
            env::var(name).is_ok_and(|found| found.eq_ignore_ascii_case(value))
        };
        let endpoint = match endpoint {
            Some(endpoint) => endpoint.to_owned(),
            None if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") => {
                return Ok(None);
            }
            None => {
                let Some((_, endpoint)) = named(ENDPOINTS) else { return Ok(None) };
                if let Some((variable, found)) = named(PROTOCOLS).filter(|(_, it)| it != "grpc") {
                    return Err(ExportError::Protocol { variable, found });
                }
                endpoint
            }
        };
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(&endpoint).build();
        let exporter = exporter.map_err(|source| ExportError::Endpoint { endpoint, source })?;
        let begun_here: Box<dyn ShouldSample> = match sample_ratio {
            Some(ratio) => {
                let share = Sampler::TraceIdRatioBased(ratio);
                Box::new(Sampler::ParentBased(Box::new(share)))
            }
            None => Config::default().sampler,
        };
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(WithItsCalls(begun_here))
            .with_resource(resource())
            .build();
        Ok(Some(Self { provider }))
    }

    /// Where the spans are recorded that it sends.
    pub fn spans(&self) -> Spans {
        Spans { tracer: Some(self.provider.tracer("batchwise")) }
    }

    /// Sends what is left, and ends. It does not wait for long for a collector that does not take it.
    pub async fn end(self) {
        let ended = move || self.provider.shutdown_with_timeout(FLUSH_TIME);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(ended).await {
            tracing::warn!(%error, "the last spans may not have reached the collector");
        }
    }
}

impl Spans {
    /// What makes spans; `None` where nothing is traced.
    pub fn tracer(&self) -> Option<&SdkTracer> {
        self.tracer.as_ref()
    }
}

/// What the environment says of this process; its name is `batchwise` unless that says another.
fn resource() -> Resource {
    let is_named = env::var("OTEL_SERVICE_NAME").is_ok_and(|name| !name.is_empty())
        || env::var("OTEL_RESOURCE_ATTRIBUTES").is_ok_and(|all| all.contains("service.name="));
    let resource = Resource::builder()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if is_named { resource } else { resource.with_service_name("batchwise") }.build()
}

/// A span of its own trace that links to others, as a batch does to its calls, is recorded if one of them
/// is; everything else as the other sampler says.
#[derive(Clone, Debug)]
struct WithItsCalls(Box<dyn ShouldSample>);

impl ShouldSample for WithItsCalls {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        if links.is_empty() || parent.is_some_and(Context::has_active_span) {
            return self.0.should_sample(parent, trace_id, name, kind, attributes, links);
        }
        let decision = match links.iter().any(|link| link.span_context.is_sampled()) {
            true => SamplingDecision::RecordAndSample,
            false => SamplingDecision::Drop,
        };
        SamplingResult { decision, attributes: Vec::new(), trace_state: TraceState::default() }
    }
}
