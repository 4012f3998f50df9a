//! The pretended accelerator: batches take turns at its slots and hold one for their service time.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;

use super::Options;
use super::journal::Journal;
use super::settings::{FaultStatus, Switches};
use super::statistics::{Counters, Seen};
use super::timer::Timer;
use super::witness::{Arrival, Witness};

/// What all protocols share.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) models: Vec<String>,
    pub(super) embedding_dimensions: usize,
    pub(super) switches: Arc<Switches>,
    pub(super) counters: Arc<Counters>,
    pub(super) journal: Arc<Journal>,
    /// Fair: batches execute in the order of their arrival.
    slots: Semaphore,
    timer: Timer,
    witness: Option<Witness>,
}

/// How an execution has to be answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Executed {
    /// Leave the last row out of every output.
    pub(super) wrong_rows: bool,
}

impl Engine {
    pub(super) fn new(options: &Options) -> std::io::Result<Self> {
        Ok(Self {
            models: options.models.clone(),
            embedding_dimensions: options.embedding_dimensions,
            switches: Arc::new(Switches::new(options.settings.clone())),
            counters: Arc::default(),
            journal: Arc::default(),
            slots: Semaphore::new(options.parallelism.max(1)),
            timer: Timer::start(options.clock)?,
            witness: options.witness.clone(),
        })
    }

    /// Refuses a model that is not served here. An empty version and `1` are the same.
    pub(super) fn find(&self, model: &str, version: &str) -> Result<(), FaultStatus> {
        if !self.models.iter().any(|known| known == model) {
            return Err(FaultStatus::not_found(format!("unknown model '{model}'")));
        }
        if !matches!(version, "" | "1") {
            let message = format!("unknown version '{version}' of model '{model}'");
            return Err(FaultStatus::not_found(message));
        }
        Ok(())
    }

    /// Whether executions are to be described for [`Statistics::seen`](super::Statistics::seen).
    pub(super) fn records(&self) -> bool {
        self.switches.read(|settings| settings.record > 0)
    }

    /// Tells whoever watches of a batch that has come.
    pub(super) fn tell(&self, model: &str, elements: impl FnOnce() -> Vec<String>) {
        if let Some(witness) = &self.witness {
            witness.tell(&Arrival::Batch { model: model.to_owned(), elements: elements() });
        }
    }

    /// Tells whoever watches of a call that a fault strikes.
    pub(super) fn tell_struck(&self, path: &str, fault: &'static str) {
        if let Some(witness) = &self.witness {
            witness.tell(&Arrival::Struck { path: path.to_owned(), fault });
        }
    }

    /// Takes a turn at a slot and holds it for the service time of `rows`.
    ///
    /// Dropping the future gives the turn or the slot back at once.
    ///
    /// # Errors
    /// More rows than the largest batch allowed (before the turn); `poisoned` while poison is on
    /// (after the service time).
    pub(super) async fn execute(
        &self,
        rows: usize,
        poisoned: bool,
        seen: Option<Seen>,
    ) -> Result<Executed, FaultStatus> {
        let limit = self.switches.read(|settings| settings.max_batch_size);
        if limit > 0 && rows as u64 > u64::from(limit) {
            let message = format!("batch size {rows} is larger than max_batch_size {limit}");
            return Err(FaultStatus::invalid(message));
        }
        let Ok(_slot) = self.slots.acquire().await else {
            return Err(FaultStatus::unavailable("the server is shutting down"));
        };
        let keep = self.switches.read(|settings| settings.record);
        let seen = seen.filter(|_| keep > 0).map(|seen| (seen, keep));
        self.counters.execution_began(rows, seen);
        let time = self.switches.service_time(rows);
        if !time.is_zero() {
            let began = Instant::now();
            self.timer.exactly_after(time).await;
            self.counters.execution_ended(rows, began.elapsed());
        }
        self.switches.while_hanging().await;
        let wrong_rows = self.switches.draw_wrong_rows();
        if poisoned {
            return Err(self.switches.read(|settings| settings.poison_with.clone()));
        }
        Ok(Executed { wrong_rows })
    }

    /// What makes an element poisonous now; `None` while poison is off.
    pub(super) fn poison(&self) -> Option<Poison> {
        self.switches.read(|settings| {
            settings.poison.then(|| Poison {
                number: settings.poison_number,
                text: settings.poison_text.clone(),
            })
        })
    }

    /// Which number ends the process now; `None` while nothing does.
    pub(super) fn lethal_number(&self) -> Option<f64> {
        self.switches.read(|settings| settings.lethal.then_some(settings.lethal_number))
    }

    /// Returns after the time between two pieces of a stream; at once when that is zero.
    pub(super) async fn token_interval(&self) {
        let interval = self.switches.read(|settings| settings.token_interval);
        if !interval.is_zero() {
            self.timer.after(interval).await;
        }
    }
}

/// What makes an element poisonous.
#[derive(Clone, Debug)]
pub(super) struct Poison {
    pub(super) number: f64,
    pub(super) text: String,
}
