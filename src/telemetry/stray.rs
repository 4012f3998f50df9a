//! Calls that end before their model is known.

use std::fmt;
use std::sync::OnceLock;

use metrics::{Counter, Label};

use super::model::outcome_index;
use super::{Metric, OUTCOMES, Telemetry, Via};

/// Counts calls whose model is not known, under an empty label `model`: a name that no model has is
/// the caller's to choose, and so no label.
pub struct StrayMetrics {
    telemetry: Telemetry,
    requests: [[OnceLock<Counter>; OUTCOMES.len()]; Via::COUNT],
}

impl fmt::Debug for StrayMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StrayMetrics").finish_non_exhaustive()
    }
}

impl StrayMetrics {
    /// Nothing counted yet.
    pub fn new(telemetry: &Telemetry) -> Self {
        Self { telemetry: telemetry.clone(), requests: Default::default() }
    }

    /// A call ended before its model was known.
    pub fn ended(&self, via: Via, outcome: &'static str) {
        let cells = self.requests.get(via as usize);
        let Some(cell) = cells.and_then(|cells| cells.get(outcome_index(outcome))) else { return };
        cell.get_or_init(|| {
            let labels = vec![
                Label::new("model", ""),
                Label::new("protocol", via.label()),
                Label::new("priority", ""),
                Label::new("outcome", outcome),
            ];
            self.telemetry.counter(Metric::Requests, labels)
        })
        .increment(1);
    }
}
