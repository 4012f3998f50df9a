//! The handles of one model, registered once.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Counter, Histogram, Label};

use super::shown::Shown;
use super::{Metric, OwnedGauge, SharedGauge, Spans, Telemetry};
use crate::lane::Cause;

/// The way by which a call came in: the label `protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// KServe v2 over gRPC.
    Grpc,
    /// KServe v2 over HTTP.
    Http,
    /// KServe v1.
    V1,
    /// OpenAI.
    OpenAi,
    /// A line of a batch of OpenAI's Batch API.
    BatchApi,
}

impl Via {
    pub(super) const COUNT: usize = 5;

    /// Its label.
    pub const fn label(self) -> &'static str {
        match self {
            Via::Grpc => "kserve-grpc",
            Via::Http => "kserve-http",
            Via::V1 => "kserve-v1",
            Via::OpenAi => "openai",
            Via::BatchApi => "openai-batch",
        }
    }
}

/// What may become of a call: `ok`, `cancelled`, or the reason of its fault.
pub const OUTCOMES: [&str; 19] = [
    "ok",
    "cancelled",
    "invalid_request",
    "unknown_model",
    "unknown_object",
    "unknown_route",
    "method_not_allowed",
    "unsupported",
    "too_large",
    "buffers_full",
    "queue_full",
    "shed",
    "draining",
    "no_instance",
    "upstream_error",
    "upstream_overloaded",
    "upstream_refused",
    "deadline",
    "internal",
];

/// Where an outcome stands among them.
pub(super) fn outcome_index(outcome: &'static str) -> usize {
    OUTCOMES.iter().position(|&known| known == outcome).unwrap_or(0)
}

/// The metrics of one model.
pub struct ModelMetrics {
    telemetry: Telemetry,
    model: String,
    levels: usize,
    requests: Vec<OnceLock<Counter>>,
    request_duration: Vec<Histogram>,
    queue_duration: Vec<Histogram>,
    overhead: Vec<Histogram>,
    queue_depth: Vec<SharedGauge>,
    batches: [OnceLock<Counter>; Cause::ALL.len()],
    tokens: [OnceLock<Counter>; 3],
    /// Rows of the batches sent.
    pub batch_size: Histogram,
    /// From a stream's acceptance until its first event.
    pub time_to_first_token: Histogram,
    /// Between two events of a stream.
    pub inter_token: Histogram,
    /// Those of each instance, in the order of the plan.
    pub instances: Vec<InstanceMetrics>,
}

impl fmt::Debug for ModelMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelMetrics").field("model", &self.model).finish_non_exhaustive()
    }
}

/// The metrics of one instance.
pub struct InstanceMetrics {
    model: String,
    name: String,
    shown: Shown,
    labels: Vec<Label>,
    /// From a batch's cut until its answer.
    pub batch_duration: Histogram,
    /// 1 when it passes its health checks.
    pub healthy: OwnedGauge,
    /// 0 closed, 1 half-open, 2 open.
    pub breaker_state: OwnedGauge,
    /// Batches and streams on their way to it.
    pub inflight: SharedGauge,
}

impl fmt::Debug for InstanceMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InstanceMetrics").field("labels", &self.labels).finish_non_exhaustive()
    }
}

impl ModelMetrics {
    /// Registers the metrics of a model with `levels` priorities.
    pub fn new(telemetry: &Telemetry, model: &str, levels: u8, instances: &[String]) -> Self {
        let levels = usize::from(levels.max(1));
        let label = || Label::new("model", model.to_owned());
        let per_priority = |metric| {
            (1..=levels)
                .map(|level| {
                    telemetry
                        .histogram(metric, vec![label(), Label::new("priority", level.to_string())])
                })
                .collect()
        };
        Self {
            telemetry: telemetry.clone(),
            model: model.to_owned(),
            levels,
            requests: (0..Via::COUNT * levels * OUTCOMES.len()).map(|_| OnceLock::new()).collect(),
            request_duration: per_priority(Metric::RequestDuration),
            queue_duration: per_priority(Metric::QueueDuration),
            overhead: per_priority(Metric::Overhead),
            queue_depth: (1..=levels)
                .map(|level| {
                    let labels = vec![label(), Label::new("priority", level.to_string())];
                    SharedGauge::new(telemetry.gauge(Metric::QueueDepth, labels))
                })
                .collect(),
            batches: Default::default(),
            tokens: Default::default(),
            batch_size: telemetry.histogram(Metric::BatchSize, vec![label()]),
            time_to_first_token: telemetry.histogram(Metric::TimeToFirstToken, vec![label()]),
            inter_token: telemetry.histogram(Metric::InterToken, vec![label()]),
            instances: instances
                .iter()
                .map(|instance| InstanceMetrics::new(telemetry, model, instance))
                .collect(),
        }
    }

    /// Where the model's spans are recorded.
    pub fn spans(&self) -> &Spans {
        &self.telemetry.spans
    }

    /// A call was answered, or given up.
    pub fn answered(&self, via: Via, priority: u8, outcome: &'static str, took: Duration) {
        let level = self.level(priority);
        let index = (via as usize * self.levels + level) * OUTCOMES.len() + outcome_index(outcome);
        if let Some(cell) = self.requests.get(index) {
            cell.get_or_init(|| {
                let labels = vec![
                    Label::new("model", self.model.clone()),
                    Label::new("protocol", via.label()),
                    Label::new("priority", (level + 1).to_string()),
                    Label::new("outcome", outcome),
                ];
                self.telemetry.counter(Metric::Requests, labels)
            })
            .increment(1);
        }
        if let Some(histogram) = self.request_duration.get(level) {
            histogram.record(took.as_secs_f64());
        }
    }

    /// A call's batch was cut.
    pub fn queued(&self, priority: u8, waited: Duration) {
        if let Some(histogram) = self.queue_duration.get(self.level(priority)) {
            histogram.record(waited.as_secs_f64());
        }
    }

    /// An answered call took so long besides waiting for its batch and for the batch's answer.
    pub fn overhead(&self, priority: u8, took: Duration) {
        if let Some(histogram) = self.overhead.get(self.level(priority)) {
            histogram.record(took.as_secs_f64());
        }
    }

    /// A batch was cut, for one of the causes.
    pub fn batch_cut(&self, cause: Cause) {
        if let Some(cell) = self.batches.get(cause as usize) {
            cell.get_or_init(|| {
                let model = Label::new("model", self.model.clone());
                let labels = vec![model, Label::new("reason", cause.label())];
                self.telemetry.counter(Metric::Batches, labels)
            })
            .increment(1);
        }
    }

    /// An instance told what a call cost.
    pub fn count_tokens(&self, prompt: u64, completion: u64) {
        self.count(0, "prompt", prompt);
        self.count(1, "completion", completion);
    }

    /// A stream ended whose instance has not told what it cost: each of its events was about a token.
    pub fn count_events(&self, events: u64) {
        self.count(2, "completion_events", events);
    }

    fn count(&self, index: usize, direction: &'static str, tokens: u64) {
        let Some(cell) = self.tokens.get(index).filter(|_| tokens > 0) else { return };
        let counter = cell.get_or_init(|| {
            let model = Label::new("model", self.model.clone());
            let labels = vec![model, Label::new("direction", direction)];
            self.telemetry.counter(Metric::Tokens, labels)
        });
        counter.increment(tokens);
    }

    /// From now on `successor` says how instances are that it has, too.
    pub fn hand_over_to(&self, successor: &Self) {
        for instance in &self.instances {
            let same = |other: &&InstanceMetrics| other.name == instance.name;
            if let Some(other) = successor.instances.iter().find(same) {
                instance.healthy.hand_over();
                instance.breaker_state.hand_over();
                other.breaker_state.set(0.0);
            }
        }
    }

    /// Calls that wait, by priority; index 0 is priority 1.
    pub fn set_queue_depth(&self, waiting: &[u32]) {
        for (index, gauge) in self.queue_depth.iter().enumerate() {
            gauge.set(waiting.get(index).copied().unwrap_or(0));
        }
    }

    /// A call was refused for overload.
    pub fn shed(&self, priority: u8, reason: &'static str) {
        let labels = vec![
            Label::new("model", self.model.clone()),
            Label::new("priority", (self.level(priority) + 1).to_string()),
            Label::new("reason", reason),
        ];
        self.telemetry.counter(Metric::Shed, labels).increment(1);
    }

    /// A call was put into a second batch.
    pub fn retried(&self, reason: &'static str) {
        let labels = vec![Label::new("model", self.model.clone()), Label::new("reason", reason)];
        self.telemetry.counter(Metric::Retries, labels).increment(1);
    }

    /// An instance did not answer a batch.
    pub fn batch_failed(&self, instance: usize, reason: &'static str) {
        if let Some(instance) = self.instances.get(instance) {
            let mut labels = instance.labels.clone();
            labels.push(Label::new("reason", reason));
            self.telemetry.counter(Metric::BatchFailures, labels).increment(1);
        }
    }

    fn level(&self, priority: u8) -> usize {
        usize::from(priority.max(1)).min(self.levels) - 1
    }
}

impl InstanceMetrics {
    fn new(telemetry: &Telemetry, model: &str, instance: &str) -> Self {
        let labels = vec![
            Label::new("model", model.to_owned()),
            Label::new("instance", instance.to_owned()),
        ];
        let owned = |metric| OwnedGauge::new(telemetry.gauge(metric, labels.clone()));
        let (healthy, breaker_state) =
            (owned(Metric::InstanceHealthy), owned(Metric::BreakerState));
        if telemetry.shown.enter(model, instance) {
            // What is left of an earlier life.
            healthy.set(0.0);
            breaker_state.set(0.0);
        }
        Self {
            model: model.to_owned(),
            name: instance.to_owned(),
            shown: telemetry.shown.clone(),
            batch_duration: telemetry.histogram(Metric::BatchDuration, labels.clone()),
            healthy,
            breaker_state,
            inflight: SharedGauge::new(telemetry.gauge(Metric::InstanceInflight, labels.clone())),
            labels,
        }
    }
}

impl Drop for InstanceMetrics {
    fn drop(&mut self) {
        self.shown.leave(&self.model, &self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_counted_by_itself() {
        let telemetry = Telemetry::new().unwrap();
        let metrics = ModelMetrics::new(&telemetry, "m", 1, &[]);
        for (number, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, number);
            metrics.batch_cut(cause);
        }
        let page = telemetry.render();
        for cause in Cause::ALL {
            let line = format!("reason=\"{}\"}} 1", cause.label());
            assert!(page.lines().any(|shown| shown.ends_with(&line)), "{line}\n{page}");
        }
    }
}
