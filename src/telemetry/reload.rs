//! The metrics of reloads.

use std::fmt;

use metrics::{Counter, Gauge, Label};

use super::{Metric, Telemetry};

/// Counts reloads and shows whether the last one succeeded.
pub struct ReloadMetrics {
    ok: Counter,
    refused: Counter,
    last_success: Gauge,
}

impl fmt::Debug for ReloadMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReloadMetrics").finish_non_exhaustive()
    }
}

impl ReloadMetrics {
    /// Registers the metrics of a process that has read its configuration.
    pub fn new(telemetry: &Telemetry) -> Self {
        let counter = |outcome: &'static str| {
            telemetry.counter(Metric::Reloads, vec![Label::new("outcome", outcome)])
        };
        let last_success = telemetry.gauge(Metric::LastReloadSuccess, vec![]);
        last_success.set(1.0);
        Self { ok: counter("ok"), refused: counter("refused"), last_success }
    }

    /// The configuration was read again: it was taken over, or refused.
    pub fn reloaded(&self, ok: bool) {
        let counter = if ok { &self.ok } else { &self.refused };
        counter.increment(1);
        self.last_success.set(f64::from(u8::from(ok)));
    }
}
