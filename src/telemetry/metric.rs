//! The metrics that batchwise exports: the one list of names.

use std::fmt;
use std::sync::Arc;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use super::Spans;
use super::shown::Shown;

/// A metric that batchwise exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is described by `describe`, which the metrics page shows")]
pub enum Metric {
    Requests,
    RequestDuration,
    QueueDuration,
    Overhead,
    QueueDepth,
    Batches,
    BatchSize,
    BatchDuration,
    BatchFailures,
    Shed,
    Retries,
    InstanceHealthy,
    BreakerState,
    InstanceInflight,
    TimeToFirstToken,
    InterToken,
    Tokens,
    Reloads,
    LastReloadSuccess,
    BufferedBytes,
    GivenUp,
    BatchApiBatches,
    BatchApiLines,
    BuildInfo,
}

impl Metric {
    /// Every metric.
    pub const ALL: [Metric; 24] = [
        Metric::Requests,
        Metric::RequestDuration,
        Metric::QueueDuration,
        Metric::Overhead,
        Metric::QueueDepth,
        Metric::Batches,
        Metric::BatchSize,
        Metric::BatchDuration,
        Metric::BatchFailures,
        Metric::Shed,
        Metric::Retries,
        Metric::InstanceHealthy,
        Metric::BreakerState,
        Metric::InstanceInflight,
        Metric::TimeToFirstToken,
        Metric::InterToken,
        Metric::Tokens,
        Metric::Reloads,
        Metric::LastReloadSuccess,
        Metric::BufferedBytes,
        Metric::GivenUp,
        Metric::BatchApiBatches,
        Metric::BatchApiLines,
        Metric::BuildInfo,
    ];

    /// Its name on the metrics page.
    pub const fn name(self) -> &'static str {
        self.describe().0
    }

    /// Its name and what it counts.
    pub const fn describe(self) -> (&'static str, &'static str) {
        match self {
            Metric::Requests => ("batchwise_requests_total", "Calls answered, by outcome"),
            Metric::RequestDuration => (
                "batchwise_request_duration_seconds",
                "From a call's acceptance until its answer was ready",
            ),
            Metric::QueueDuration => (
                "batchwise_queue_duration_seconds",
                "From a call's acceptance until its batch was cut",
            ),
            Metric::Overhead => (
                "batchwise_overhead_seconds",
                "What an answered call took besides waiting for its batch and for the batch's answer",
            ),
            Metric::QueueDepth => ("batchwise_queue_depth", "Calls that wait"),
            Metric::Batches => ("batchwise_batches_total", "Batches sent, by why they were cut"),
            Metric::BatchSize => ("batchwise_batch_size", "Rows of the batches sent"),
            Metric::BatchDuration => {
                ("batchwise_batch_duration_seconds", "From a batch's cut until its answer")
            }
            Metric::BatchFailures => {
                ("batchwise_batch_failures_total", "Batches that an instance did not answer")
            }
            Metric::Shed => ("batchwise_shed_total", "Calls refused for overload"),
            Metric::Retries => {
                ("batchwise_retries_total", "Calls that were put into a second batch")
            }
            Metric::InstanceHealthy => {
                ("batchwise_instance_healthy", "Whether an instance passes its health checks")
            }
            Metric::BreakerState => ("batchwise_breaker_state", "0 closed, 1 half-open, 2 open"),
            Metric::InstanceInflight => {
                ("batchwise_instance_inflight", "Batches and streams on their way to an instance")
            }
            Metric::TimeToFirstToken => (
                "batchwise_time_to_first_token_seconds",
                "From a stream's acceptance until its first event",
            ),
            Metric::InterToken => {
                ("batchwise_inter_token_seconds", "Between two events of a stream")
            }
            Metric::Tokens => {
                ("batchwise_tokens_total", "Tokens read and written, as instances tell")
            }
            Metric::Reloads => {
                ("batchwise_reloads_total", "Times that the configuration was read again")
            }
            Metric::LastReloadSuccess => (
                "batchwise_config_last_reload_success",
                "Whether the configuration that was read last is the one that runs",
            ),
            Metric::BufferedBytes => {
                ("batchwise_buffered_bytes", "Bytes of requests in memory, unanswered")
            }
            Metric::GivenUp => (
                "batchwise_given_up_total",
                "Connections and streams that were ended because the caller did nothing",
            ),
            Metric::BatchApiBatches => {
                ("batchwise_batch_api_batches", "Batches of the Batch API that are kept")
            }
            Metric::BatchApiLines => {
                ("batchwise_batch_api_lines_total", "Requests of batches, by what became of them")
            }
            Metric::BuildInfo => ("batchwise_build_info", "1, with the version as a label"),
        }
    }
}

const DURATION_BUCKETS: [f64; 20] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.075,
    0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
];
const SIZE_BUCKETS: [f64; 13] =
    [1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 128.0, 256.0, 1024.0];

/// The registry of one process: hands out handles and writes the metrics page.
#[derive(Clone)]
pub struct Telemetry {
    recorder: Arc<PrometheusRecorder>,
    page: PrometheusHandle,
    pub(super) shown: Shown,
    pub(super) spans: Spans,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

impl Telemetry {
    /// An empty registry; nothing is global, so one process can have several.
    ///
    /// # Errors
    /// None with the bucket bounds as they are.
    pub fn new() -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new()
            .set_buckets(&DURATION_BUCKETS)?
            .set_buckets_for_metric(
                Matcher::Full(Metric::BatchSize.name().to_owned()),
                &SIZE_BUCKETS,
            )?
            .build_recorder();
        let (page, recorder, shown) = (recorder.handle(), Arc::new(recorder), Shown::default());
        let telemetry = Self { recorder, page, shown, spans: Spans::default() };
        telemetry.describe();
        let version = Label::new("version", env!("CARGO_PKG_VERSION"));
        telemetry.gauge(Metric::BuildInfo, vec![version]).set(1.0);
        Ok(telemetry)
    }

    /// The same, with spans besides.
    #[must_use]
    pub fn with_spans(self, spans: Spans) -> Self {
        Self { spans, ..self }
    }

    fn describe(&self) {
        for metric in Metric::ALL {
            let (name, text) = metric.describe();
            let (name, text) = (name.into(), text.into());
            match metric {
                Metric::Requests
                | Metric::BatchFailures
                | Metric::Shed
                | Metric::Retries
                | Metric::Tokens
                | Metric::Reloads
                | Metric::GivenUp
                | Metric::BatchApiLines => {
                    self.recorder.describe_counter(name, Some(Unit::Count), text);
                }
                Metric::QueueDepth
                | Metric::InstanceHealthy
                | Metric::BreakerState
                | Metric::InstanceInflight
                | Metric::LastReloadSuccess
                | Metric::BufferedBytes
                | Metric::BatchApiBatches
                | Metric::BuildInfo => self.recorder.describe_gauge(name, None, text),
                _ => self.recorder.describe_histogram(name, None, text),
            }
        }
    }

    /// The metrics page, in Prometheus' text format.
    pub fn render(&self) -> String {
        self.shown.leave_out(self.page.render())
    }

    /// Moves what histograms have recorded into their buckets. To be called every few seconds, or
    /// what was recorded piles up.
    pub fn upkeep(&self) {
        self.page.run_upkeep();
    }

    /// Bytes of requests in memory.
    pub fn buffered_bytes(&self) -> Gauge {
        self.gauge(Metric::BufferedBytes, Vec::new())
    }

    /// Connections and streams that were ended because the caller did nothing.
    pub fn given_up(&self) -> GivenUp {
        let counter = |reason| self.counter(Metric::GivenUp, vec![Label::new("reason", reason)]);
        GivenUp {
            silent: counter("silent"),
            not_reading: counter("not_reading"),
            stream_not_reading: counter("stream_not_reading"),
        }
    }

    pub(super) fn counter(&self, metric: Metric, labels: Vec<Label>) -> Counter {
        self.recorder.register_counter(&Key::from_parts(metric.name(), labels), &METADATA)
    }

    pub(super) fn gauge(&self, metric: Metric, labels: Vec<Label>) -> Gauge {
        self.recorder.register_gauge(&Key::from_parts(metric.name(), labels), &METADATA)
    }

    pub(super) fn histogram(&self, metric: Metric, labels: Vec<Label>) -> Histogram {
        self.recorder.register_histogram(&Key::from_parts(metric.name(), labels), &METADATA)
    }
}

/// Counts what was ended because the caller did nothing.
#[derive(Clone)]
pub struct GivenUp {
    /// Connections on which nobody said which protocol is spoken.
    pub silent: Counter,
    /// Connections whose peer did not take what there was for it.
    pub not_reading: Counter,
    /// Streams of HTTP/2 whose caller did not take its answer.
    pub stream_not_reading: Counter,
}

impl fmt::Debug for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GivenUp").finish_non_exhaustive()
    }
}

const METADATA: Metadata<'static> = Metadata::new("batchwise", Level::INFO, None);
