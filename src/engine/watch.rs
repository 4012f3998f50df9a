//! Watching one instance: is it up, and what does it say of the model?

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_channel::WeakSender;
use tokio::sync::Notify;

use super::run::Message;
use crate::config::HealthPlan;
use crate::instance::{BatchLimit, Description, Instance, LoadGauges, NotUp};
use crate::lane::{EngineLoad, Event, Health, InstanceChange, InstanceId};
use crate::telemetry::ModelMetrics;

/// How often an instance that has something to do is asked how much.
const LOAD_PAUSE: Duration = Duration::from_millis(250);
/// And one that has nothing to do, or cannot be asked just now.
const LOAD_PAUSE_IDLE: Duration = Duration::from_secs(1);
/// And one that is to have more than a second without a question.
const LOAD_PAUSE_QUIET: Duration = Duration::from_millis(1250);
/// And one that does not say.
const LOAD_PAUSE_SILENT: Duration = Duration::from_secs(30);

/// What is known of an instance outside the lane.
#[derive(Debug)]
pub(super) struct InstanceState {
    pub(super) name: Arc<str>,
    healthy: AtomicBool,
    drained: AtomicBool,
    /// Why the last probe failed.
    trouble: Mutex<Option<String>>,
    /// Told when an instance of the model comes up.
    comes_up: Arc<Notify>,
}

impl InstanceState {
    pub(super) fn new(name: Arc<str>, drained: bool, comes_up: Arc<Notify>) -> Self {
        Self {
            name,
            healthy: AtomicBool::new(false),
            drained: AtomicBool::new(drained),
            trouble: Mutex::new(None),
            comes_up,
        }
    }

    pub(super) fn is_usable(&self) -> bool {
        self.healthy.load(Ordering::Relaxed) && !self.drained.load(Ordering::Relaxed)
    }

    fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::Relaxed);
        if healthy {
            self.comes_up.notify_waiters();
        }
    }

    pub(super) fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Relaxed)
    }

    pub(super) fn set_drained(&self, drained: bool) {
        self.drained.store(drained, Ordering::Relaxed);
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

/// What the instances of a model say of it, and what follows from all they say.
#[derive(Debug)]
pub(super) struct Descriptions {
    said: Mutex<Vec<Option<Description>>>,
    merged: Arc<ArcSwap<Description>>,
}

impl Descriptions {
    pub(super) fn new(instances: usize, merged: Arc<ArcSwap<Description>>) -> Self {
        Self { said: Mutex::new(vec![None; instances]), merged }
    }

    /// Takes in what one instance says; returns what all of them say together: the first one's
    /// tensors, and the least of their limits.
    fn learn(&self, index: usize, description: Description) -> Arc<Description> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = said.get_mut(index) {
            *slot = Some(description);
        }
        let mut all = said.iter().flatten();
        let mut merged = all.next().cloned().unwrap_or_default();
        for other in all {
            merged.batch_limit = match (merged.batch_limit, other.batch_limit) {
                (BatchLimit::NotBatchable, _) | (_, BatchLimit::NotBatchable) => {
                    BatchLimit::NotBatchable
                }
                (BatchLimit::Unknown, limit) | (limit, BatchLimit::Unknown) => limit,
                (BatchLimit::Rows(one), BatchLimit::Rows(two)) => BatchLimit::Rows(one.min(two)),
            };
        }
        let merged = Arc::new(merged);
        self.merged.store(Arc::clone(&merged));
        merged
    }
}

/// Watches one instance until its model is gone.
pub(super) struct Watch {
    pub(super) model: Arc<str>,
    pub(super) index: usize,
    pub(super) plan: HealthPlan,
    /// Whether the user left the number of batches in flight to us.
    pub(super) auto_slots: bool,
    pub(super) instance: Arc<dyn Instance>,
    pub(super) state: Arc<InstanceState>,
    pub(super) descriptions: Arc<Descriptions>,
    pub(super) metrics: Arc<ModelMetrics>,
    pub(super) inbox: WeakSender<Message>,
}

impl Watch {
    /// Looks after its instance until the model is gone.
    pub(super) async fn run(self) {
        tokio::join!(self.watch_health(), self.watch_load());
    }

    /// Asks how much the instance has to do: often while that is anything, rarely where it does not
    /// say.
    async fn watch_load(&self) {
        while self.inbox.upgrade().is_some() {
            let asked = tokio::time::timeout(self.plan.timeout, self.instance.load()).await;
            let pause = match asked {
                Ok(Ok(Some(gauges))) => {
                    let LoadGauges { running, waiting, .. } = gauges;
                    let load = InstanceChange::Load(EngineLoad { running, waiting });
                    self.tell(Event::Instance(self.id(), load)).await;
                    match gauges {
                        // How many fit is about to be learned.
                        LoadGauges { waiting: 1.., .. } => LOAD_PAUSE,
                        LoadGauges { wants_quiet: true, .. } => LOAD_PAUSE_QUIET,
                        LoadGauges { running: 0, .. } => LOAD_PAUSE_IDLE,
                        _ => LOAD_PAUSE,
                    }
                }
                Ok(Ok(None)) => LOAD_PAUSE_SILENT,
                Ok(Err(_)) | Err(_) => LOAD_PAUSE_IDLE,
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn watch_health(&self) {
        let mut run = Run::default();
        let mut described = false;
        let mut told = Health::Unknown;
        while self.inbox.upgrade().is_some() {
            let probe = tokio::time::timeout(self.plan.timeout, self.instance.probe()).await;
            let silent = || NotUp::Down("no reply within the time-out".to_owned());
            let outcome = probe.unwrap_or_else(|_| Err(silent()));
            let health = run.note(&self.plan, &outcome);
            self.state.set_trouble(outcome.err().map(|trouble| trouble.to_string()));
            let is_up = health == Health::Up;
            // What an instance says is asked again whenever it comes back: it may be another.
            described &= is_up && told == health;
            if is_up && !described {
                described = self.describe().await;
            }
            if std::mem::replace(&mut told, health) != health {
                self.tell_health(health).await;
            }
            let pause = if is_up { self.plan.interval } else { self.retry_pause() };
            tokio::time::sleep(pause).await;
        }
    }

    /// An instance that is not up yet is looked at more often: it is about to matter.
    fn retry_pause(&self) -> Duration {
        (self.plan.interval / 4).max(Duration::from_millis(50)).min(self.plan.interval)
    }

    async fn tell_health(&self, health: Health) {
        let up = health == Health::Up;
        self.state.set_healthy(up);
        if let Some(metrics) = self.metrics.instances.get(self.index) {
            metrics.healthy.set(f64::from(u8::from(up)));
        }
        let (model, instance) = (&*self.model, &*self.state.name);
        let trouble = || self.state.trouble().unwrap_or_default();
        match health {
            Health::Up => tracing::info!(model, instance, "instance is up"),
            Health::Loading => {
                tracing::info!(model, instance, trouble = trouble(), "instance is not ready yet");
            }
            _ => tracing::warn!(model, instance, trouble = trouble(), "instance is down"),
        }
        self.tell(Event::Instance(self.id(), InstanceChange::Health(health))).await;
    }

    async fn describe(&self) -> bool {
        let asked = tokio::time::timeout(self.plan.timeout, self.instance.describe()).await;
        let description = match asked {
            Ok(Ok(description)) => description,
            Ok(Err(trouble)) => {
                let (model, instance) = (&*self.model, &*self.state.name);
                tracing::debug!(
                    model,
                    instance,
                    trouble,
                    "the instance did not describe the model"
                );
                return false;
            }
            Err(_) => return false,
        };
        if let (true, Some(slots)) = (self.auto_slots, description.parallel_batches) {
            self.tell(Event::Instance(self.id(), InstanceChange::BatchSlots(slots))).await;
        }
        match self.descriptions.learn(self.index, description).batch_limit {
            BatchLimit::Unknown => self.tell(Event::LimitTold(None)).await,
            BatchLimit::Rows(rows) => self.tell(Event::LimitTold(Some(rows))).await,
            BatchLimit::NotBatchable => self.tell(Event::NotBatchable).await,
        }
        true
    }

    async fn tell(&self, event: Event<crate::call::Call>) {
        if let Some(inbox) = self.inbox.upgrade() {
            drop(inbox.send(Message::Event(event)).await);
        }
    }

    fn id(&self) -> InstanceId {
        InstanceId(u32::try_from(self.index).unwrap_or(u32::MAX))
    }
}

/// Probes in a row.
#[derive(Debug, Default)]
struct Run {
    up: bool,
    known: bool,
    good: u32,
    bad: u32,
}

impl Run {
    /// Returns how the instance is. The very first failure counts at once: nobody has relied on the
    /// instance yet.
    fn note(&mut self, plan: &HealthPlan, outcome: &Result<(), NotUp>) -> Health {
        let good = outcome.is_ok();
        if good {
            (self.good, self.bad) = (self.good.saturating_add(1), 0);
        } else {
            (self.good, self.bad) = (0, self.bad.saturating_add(1));
        }
        self.up = match (self.known, good) {
            (false, _) => good,
            (true, true) => self.up || self.good >= plan.healthy_after,
            (true, false) => self.up && self.bad < plan.unhealthy_after,
        };
        self.known = true;
        match outcome {
            _ if self.up => Health::Up,
            // One that is ready, but not for long enough yet, is about to be up.
            Ok(()) | Err(NotUp::Loading(_)) => Health::Loading,
            Err(NotUp::Down(_)) => Health::Down,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down() -> NotUp {
        NotUp::Down("gone".to_owned())
    }

    #[test]
    fn health_takes_runs_of_probes() {
        let plan = HealthPlan { unhealthy_after: 2, healthy_after: 2, ..HealthPlan::default() };
        let mut run = Run::default();
        let verdicts: Vec<_> = [true, false, true, false, false, true, false, true, true]
            .map(|good| run.note(&plan, &good.then_some(()).ok_or_else(down)))
            .into();
        use Health::{Down, Loading, Up};
        assert_eq!(verdicts, [Up, Up, Up, Up, Down, Loading, Down, Loading, Up]);
    }

    #[test]
    fn the_first_probe_counts_at_once() {
        let plan = HealthPlan::default();
        assert_eq!(Run::default().note(&plan, &Err(down())), Health::Down);
        let loading = NotUp::Loading("not yet".to_owned());
        assert_eq!(Run::default().note(&plan, &Err(loading)), Health::Loading);
    }
}
