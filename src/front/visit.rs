//! A call on its way in, until its model has it: counted if it does not get there.

use std::sync::Arc;

use tokio::time::Instant;

use super::Front;
use crate::call::Fault;
use crate::engine::Model;
use crate::telemetry::{StrayMetrics, Via};
use crate::wire::status;

/// A call from its first line until it is handed to its model, which counts it from there on. Until
/// then it is counted here when it is refused, or when its caller goes, which drops it.
#[derive(Debug)]
pub(super) struct Visit {
    strays: Arc<StrayMetrics>,
    via: Via,
    arrived: Instant,
    model: Option<Arc<Model>>,
    open: bool,
}

impl Visit {
    /// A call that comes in now.
    pub(super) fn new(front: &Front, via: Via) -> Self {
        let strays = Arc::clone(&front.strays);
        Self { strays, via, arrived: Instant::now(), model: None, open: true }
    }

    /// When it came in.
    pub(super) fn arrived(&self) -> Instant {
        self.arrived
    }

    /// From now on its model is known.
    pub(super) fn is_for(&mut self, model: &Arc<Model>) {
        self.model = Some(Arc::clone(model));
    }

    /// The end of the visit: the call can be made, or the fault is counted.
    pub(super) fn end<T>(mut self, outcome: Result<T, Fault>) -> Result<T, Fault> {
        match outcome {
            Err(fault) => Err(self.refused(fault)),
            Ok(ready) => {
                self.open = false;
                Ok(ready)
            }
        }
    }

    /// The end of the visit: it cannot be made, because of a fault, which is counted.
    pub(super) fn refused(mut self, fault: Fault) -> Fault {
        self.open = false;
        self.count(status::of_kind(fault.kind).reason);
        fault
    }

    fn count(&self, outcome: &'static str) {
        match &self.model {
            Some(model) => model.count_uncalled(self.via, outcome, self.arrived.elapsed()),
            None => self.strays.ended(self.via, outcome),
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if self.open {
            self.count("cancelled");
        }
    }
}
