//! Spans on their way to a collector of OpenTelemetry.

use std::env;
use std::time::Duration;

use http::Uri;
use opentelemetry::trace::{
    Link, SpanKind, TraceContextExt as _, TraceId, TraceState, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{
    ExporterBuildError, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    Config, Sampler, SamplingDecision, SamplingResult, SdkTracer, SdkTracerProvider, ShouldSample,
};

use super::export_http::HttpExport;

/// How long the last spans may take to leave at the end.
const FLUSH_TIME: Duration = Duration::from_secs(1);

/// Collectors take OTLP over HTTP there.
const HTTP_PORT: u16 = 4318;

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
    /// The collector's address is none, or something else of the environment has no sense.
    #[error("spans cannot be sent to the collector: {0}")]
    Exporter(#[from] ExporterBuildError),
}

/// How a collector is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Grpc,
    Http,
}

impl Protocol {
    /// By the port that collectors have for it; gRPC on any other.
    fn by_port(endpoint: &str) -> Self {
        let port = endpoint.parse::<Uri>().ok().and_then(|url| url.port_u16());
        if port == Some(HTTP_PORT) { Self::Http } else { Self::Grpc }
    }

    /// What sends spans to the endpoint, or to the one that the environment names.
    fn exporter(self, endpoint: Option<String>) -> Result<SpanExporter, ExporterBuildError> {
        match self {
            Self::Grpc => {
                let builder = SpanExporter::builder().with_tonic();
                match endpoint {
                    Some(endpoint) => builder.with_endpoint(endpoint),
                    None => builder,
                }
                .build()
            }
            Self::Http => {
                let builder = SpanExporter::builder().with_http();
                let builder = builder.with_http_client(HttpExport::new());
                let builder = builder.with_protocol(opentelemetry_otlp::Protocol::HttpBinary);
                match endpoint {
                    Some(endpoint) => builder.with_endpoint(endpoint),
                    None => builder,
                }
                .build()
            }
        }
    }
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
    /// Sends spans to the collector at `endpoint`, over HTTP to port 4318 and else by gRPC, or, without one, to the one that the environment names as
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
        let exporter = match endpoint {
            Some(endpoint) => {
                let protocol = Protocol::by_port(endpoint);
                let path = if protocol == Protocol::Http { "/v1/traces" } else { "" };
                protocol.exporter(Some(format!("{}{path}", endpoint.trim_end_matches('/'))))
            }
            None if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") => {
                return Ok(None);
            }
            None => {
                let Some((_, endpoint)) = named(ENDPOINTS) else { return Ok(None) };
                let protocol = match named(PROTOCOLS) {
                    Some((_, found)) if found == "grpc" => Protocol::Grpc,
                    Some((_, found)) if found == "http/protobuf" => Protocol::Http,
                    Some((variable, found)) => {
                        return Err(ExportError::Protocol { variable, found });
                    }
                    None => Protocol::by_port(&endpoint),
                };
                // It reads the environment by itself.
                protocol.exporter(None)
            }
        }?;
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
