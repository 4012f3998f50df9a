//! The metrics of the Batch API.

use std::fmt;

use metrics::{Counter, Gauge, Label};

use super::{Metric, Telemetry};

/// Counts batches by their status, and their lines by what became of them.
pub struct BatchApiMetrics {
    telemetry: Telemetry,
    /// Lines that were answered with success.
    pub completed: Counter,
    /// Lines that ended in an error.
    pub failed: Counter,
    /// Lines whose batch ran out of time.
    pub expired: Counter,
    /// Calls for lines that were not answered and are made again.
    pub retried: Counter,
}

impl fmt::Debug for BatchApiMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchApiMetrics").finish_non_exhaustive()
    }
}

impl BatchApiMetrics {
    /// Registers the metrics; nothing is counted yet.
    pub fn new(telemetry: &Telemetry) -> Self {
        let lines = |outcome: &'static str| {
            telemetry.counter(Metric::BatchApiLines, vec![Label::new("outcome", outcome)])
        };
        Self {
            completed: lines("completed"),
            failed: lines("failed"),
            expired: lines("expired"),
            retried: lines("retried"),
            telemetry: telemetry.clone(),
        }
    }

    /// One batch more has this status.
    pub fn entered(&self, status: &'static str) {
        self.batches(status).increment(1.0);
    }

    /// One batch less has this status.
    pub fn left(&self, status: &'static str) {
        self.batches(status).decrement(1.0);
    }

    fn batches(&self, status: &'static str) -> Gauge {
        self.telemetry.gauge(Metric::BatchApiBatches, vec![Label::new("status", status)])
    }
}
