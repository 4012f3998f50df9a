//! What `/api/status` shows.

use serde::Serialize;

use super::model::Model;
use super::statistics::ModelStatistics;
use crate::lane::{BreakerState, Snapshot};

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
    /// What it has done.
    pub statistics: ModelStatistics,
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
    /// Whether an operator has taken it out.
    pub drained: bool,
}

impl Model {
    /// The model at this moment; `None` once its engine has ended.
    pub async fn status(&self) -> Option<ModelStatus> {
        let Snapshot { waiting, waiting_rows, waiting_bytes, batch_cap, batchable, instances } =
            self.snapshot().await?;
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
                drained: view.drained,
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
            statistics: self.statistics(),
        })
    }
}
