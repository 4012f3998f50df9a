//! What `/api/status` shows.

use std::collections::BTreeMap;

use serde::Serialize;

use super::model::Model;
use super::statistics::ModelStatistics;
use crate::lane::{BreakerState, LearnedCurve, Snapshot};

/// A model at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct ModelStatus {
    /// The name that callers use.
    pub name: String,
    /// What its instances speak.
    pub protocol: &'static str,
    /// Whether an instance is usable.
    pub ready: bool,
    /// Whether calls share batches. `false` also when that was found out.
    pub batchable: bool,
    /// The most rows that the next batch may have.
    pub batch_cap: u32,
    /// Calls that wait, by priority; the first is priority 1.
    pub waiting: Vec<u32>,
    /// Rows that wait.
    pub waiting_rows: u64,
    /// Bytes that wait.
    pub waiting_bytes: u64,
    /// The instances.
    pub instances: Vec<InstanceStatus>,
    /// Batches cut, by why they were cut when they were.
    pub batches_by_reason: BTreeMap<&'static str, u64>,
    /// What the batcher has learned and goes by.
    pub learned: LearnedStatus,
    /// What it has done.
    pub statistics: ModelStatistics,
}

/// What the batcher of a model has learned.
#[derive(Clone, Debug, Serialize)]
pub struct LearnedStatus {
    /// Rows that arrive in a second.
    pub rows_per_second: f64,
    /// Service times, one curve for each kind of batch, the most frequent first.
    pub curves: Vec<CurveStatus>,
}

/// How long a kind of batch takes: about `base_ms + per_row_ms * rows`.
#[derive(Clone, Debug, Serialize)]
pub struct CurveStatus {
    /// Batches that it was learned from.
    pub batches: u64,
    /// Milliseconds that every batch costs.
    pub base_ms: f64,
    /// Milliseconds that every row costs.
    pub per_row_ms: f64,
    /// The spread of times about their mean, as a share of it.
    pub noise: f64,
    /// The size, up to the largest seen, that serves most rows a second.
    pub most_efficient_rows: u32,
    /// Rows and milliseconds: where the curve leaves the line.
    pub points: Vec<(u32, f64)>,
    /// How much longer than most each instance takes.
    pub instance_factors: Vec<f64>,
}

impl From<LearnedCurve> for CurveStatus {
    fn from(curve: LearnedCurve) -> Self {
        Self {
            batches: curve.batches,
            base_ms: curve.base_ms,
            per_row_ms: curve.per_row_ms,
            noise: curve.noise,
            most_efficient_rows: curve.most_efficient_rows,
            points: curve.points,
            instance_factors: curve.factors,
        }
    }
}

/// An instance at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct InstanceStatus {
    /// Its label.
    pub name: String,
    /// Whether it passes its health checks.
    pub healthy: bool,
    /// Why the last probe failed.
    pub trouble: Option<String>,
    /// Its circuit breaker: `closed`, `half-open` or `open`.
    pub breaker: &'static str,
    /// Batches and streams on their way to it.
    pub in_flight: u32,
    /// Batches that it may run at once.
    pub batch_slots: u32,
    /// Streams that it may run at once.
    pub stream_slots: u32,
    /// Sequences that it works on, where it says so.
    pub engine_running: Option<u32>,
    /// Requests that wait inside it, where it says so.
    pub engine_waiting: Option<u32>,
    /// The most rows that its next batch may have.
    pub batch_cap: u32,
    /// Whether an operator has taken it out.
    pub drained: bool,
    /// Whether it does not answer a batch that is long overdue, and gets nothing meanwhile.
    pub stalled: bool,
}

impl Model {
    /// The model at this moment; `None` once its engine has ended.
    pub async fn status(&self) -> Option<ModelStatus> {
        let snapshot = self.snapshot().await?;
        let Snapshot { waiting, waiting_rows, waiting_bytes, batch_cap, batchable, .. } = snapshot;
        let Snapshot { instances, cuts, learned, .. } = snapshot;
        let instances = self
            .instances
            .iter()
            .zip(instances)
            .map(|(state, view)| InstanceStatus {
                name: state.name.to_string(),
                healthy: view.health == crate::lane::Health::Up,
                trouble: state.trouble(),
                breaker: match view.breaker {
                    BreakerState::Closed => "closed",
                    BreakerState::HalfOpen => "half-open",
                    BreakerState::Open => "open",
                },
                in_flight: view.in_flight,
                batch_slots: view.batch_slots,
                stream_slots: view.stream_slots,
                engine_running: view.load.map(|load| load.running),
                engine_waiting: view.load.map(|load| load.waiting),
                batch_cap: view.batch_cap,
                drained: view.drained,
                stalled: view.stalled,
            })
            .collect();
        Some(ModelStatus {
            name: self.plan.name.clone(),
            protocol: self.plan.protocol.name(),
            ready: self.is_ready(),
            batchable,
            batch_cap,
            waiting,
            waiting_rows,
            waiting_bytes,
            instances,
            batches_by_reason: cuts
                .into_iter()
                .map(|(cause, count)| (cause.label(), count))
                .collect(),
            learned: LearnedStatus {
                rows_per_second: learned.rows_per_second,
                curves: learned.curves.into_iter().map(Into::into).collect(),
            },
            statistics: self.statistics(),
        })
    }
}
