//! The models that are served, and everything that runs for them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::alarm::Alarm;
use super::clock::Clock;
use super::model::Model;
use super::run::{DrainRate, Engine, Message};
use super::statistics::ModelStatistics;
use super::status::ModelStatus;
use super::watch::{Descriptions, InstanceState, Watch};
use crate::config::{self, ModelPlan, Protocol};
use crate::instance::{Description, Instance};
use crate::lane::{Adaptive, BreakerPlan, Event, FixedDelay, Lane, LanePlan, Objective, Policy};
use crate::telemetry::{ModelMetrics, Telemetry};

/// Calls in flight to an instance whose model shares no batches: waiting for an answer gains
/// nothing there.
const ALONE_SLOTS: u32 = 16;
/// Streams in flight to an instance: engines that stream batch by themselves.
const STREAM_SLOTS: u32 = 256;

/// A model and whoever answers its batches.
#[derive(Debug)]
pub struct ModelSetup {
    /// How it is configured.
    pub plan: ModelPlan,
    /// Its instances, in the order of the plan.
    pub instances: Vec<Arc<dyn Instance>>,
}

/// The models that are served, and everything that runs for them.
#[derive(Debug)]
pub struct Models {
    by_name: BTreeMap<String, Arc<Model>>,
    tasks: TaskTracker,
    watches: Vec<AbortHandle>,
    draining: AtomicBool,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Everything that was accepted is answered.
    Clean,
    /// The time was up; so many calls waited or were on their way.
    Cut(u64),
}

impl Models {
    /// Starts the engines of the models and the watches of their instances.
    ///
    /// Must be called within a tokio runtime.
    pub fn start(setups: Vec<ModelSetup>, telemetry: &Telemetry) -> Self {
        let clock = Clock::start();
        let tasks = TaskTracker::new();
        let mut watches = Vec::new();
        let by_name = setups
            .into_iter()
            .map(|setup| {
                let model = start_model(setup, telemetry, clock, &tasks, &mut watches);
                (model.name().to_owned(), Arc::new(model))
            })
            .collect();
        Self { by_name, tasks, watches, draining: AtomicBool::new(false) }
    }

    /// A model by its name.
    pub fn get(&self, name: &str) -> Option<Arc<Model>> {
        self.by_name.get(name).map(Arc::clone)
    }

    /// The models, in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.by_name.values()
    }

    /// Whether the process is shutting down.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Whether any model has a usable instance.
    pub fn any_ready(&self) -> bool {
        self.iter().any(|model| model.is_ready())
    }

    /// Every model at this moment.
    pub async fn status(&self) -> Vec<ModelStatus> {
        let mut all = Vec::with_capacity(self.by_name.len());
        for model in self.iter() {
            all.extend(model.status().await);
        }
        all
    }

    /// From now on the process says that it is not ready; calls are still accepted.
    pub fn announce_drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Refuses new calls and waits until everything that was accepted is answered, but no longer
    /// than until `by`.
    pub async fn drain(&self, by: Instant) -> Drained {
        self.announce_drain();
        let mut waiters = Vec::new();
        for model in self.iter() {
            let (reply, idle) = oneshot::channel();
            drop(model.inbox.send(Message::Event(Event::Drain)).await);
            if model.inbox.send(Message::WhenIdle(reply)).await.is_ok() {
                waiters.push(idle);
            }
        }
        let all_idle = async {
            for waiter in waiters {
                // An engine that ended has nothing left either.
                drop(waiter.await);
            }
        };
        if tokio::time::timeout_at(by, all_idle).await.is_ok() {
            return Drained::Clean;
        }
        Drained::Cut(self.open_calls().await)
    }

    /// Calls that wait, and batches and streams that are on their way.
    pub async fn open_calls(&self) -> u64 {
        let mut open = 0;
        for status in self.status().await {
            let waiting: u64 = status.waiting.iter().copied().map(u64::from).sum();
            let in_flight: u32 = status.instances.iter().map(|instance| instance.in_flight).sum();
            open += waiting + u64::from(in_flight);
        }
        open
    }
}

impl Drop for Models {
    fn drop(&mut self) {
        // Engines end by themselves when the last handle of their inbox is gone.
        self.watches.iter().for_each(AbortHandle::abort);
        self.tasks.close();
    }
}

fn start_model(
    setup: ModelSetup,
    telemetry: &Telemetry,
    clock: Clock,
    tasks: &TaskTracker,
    watches: &mut Vec<AbortHandle>,
) -> Model {
    let ModelSetup { plan, instances } = setup;
    let names: Vec<String> = plan.instances.iter().map(|instance| instance.name.clone()).collect();
    let metrics = Arc::new(ModelMetrics::new(telemetry, &plan.name, plan.priority_levels, &names));
    let statistics = Arc::new(Mutex::new(ModelStatistics::default()));
    let (sender, inbox) = async_channel::unbounded();
    let mut lane = Lane::new(lane_plan(&plan), policy(&plan));
    if !plan.batching {
        lane.on(clock.now(), Event::NotBatchable);
    }
    let model: Arc<str> = plan.name.as_str().into();
    let named: Vec<(Arc<str>, Arc<dyn Instance>)> =
        names.iter().map(|name| name.as_str().into()).zip(instances).collect();
    let engine = Engine {
        model: Arc::clone(&model),
        lane,
        inbox,
        sender: sender.downgrade(),
        instances: named.clone(),
        clock,
        metrics: Arc::clone(&metrics),
        statistics: Arc::clone(&statistics),
        flights: FuturesUnordered::new(),
        alarm: Alarm::new(),
        calculations: JoinSet::new(),
        slots: BTreeMap::new(),
        idle_waiters: Vec::new(),
        drain_rate: DrainRate::default(),
    };
    tasks.spawn(engine.run());
    let description = Arc::new(ArcSwap::from_pointee(Description::default()));
    let descriptions = Arc::new(Descriptions::new(named.len(), Arc::clone(&description)));
    let states: Vec<_> =
        named.iter().map(|(name, _)| Arc::new(InstanceState::new(Arc::clone(name)))).collect();
    for (index, ((_, instance), state)) in named.into_iter().zip(&states).enumerate() {
        let watch = Watch {
            model: Arc::clone(&model),
            index,
            plan: plan.health.clone(),
            auto_slots: plan.max_concurrency.is_none(),
            instance,
            state: Arc::clone(state),
            descriptions: Arc::clone(&descriptions),
            metrics: Arc::clone(&metrics),
            inbox: sender.downgrade(),
        };
        watches.push(tasks.spawn(watch.run()).abort_handle());
    }
    Model {
        kind: Model::kind_of(&plan),
        plan,
        inbox: sender,
        clock,
        next_id: AtomicU64::new(0),
        metrics,
        statistics,
        description,
        instances: states,
    }
}

/// A delay that the user set is honoured; else the policy finds out by itself.
fn policy(plan: &ModelPlan) -> Box<dyn Policy> {
    let instances = u32::try_from(plan.instances.len()).unwrap_or(u32::MAX);
    match plan.max_queue_delay {
        Some(delay) => Box::new(FixedDelay::new(delay.into(), instances)),
        None => Box::new(Adaptive::new(instances)),
    }
}

fn lane_plan(plan: &ModelPlan) -> LanePlan {
    let attempts = if plan.retry.idempotent { plan.retry.attempts } else { 1 };
    let embedded = plan.protocol == Protocol::Embedded;
    LanePlan {
        instances: u32::try_from(plan.instances.len()).unwrap_or(u32::MAX),
        max_batch_rows: plan.max_batch_size,
        max_batch_bytes: plan.max_batch_bytes,
        max_batch_tokens: plan.max_batch_tokens.map(u64::from),
        objective: plan
            .slo
            .map(|slo| Objective { within: slo.into(), priority: plan.default_priority }),
        max_queue_rows: u64::from(plan.max_queue_size),
        max_queue_bytes: plan.max_queue_bytes,
        batch_slots: plan.max_concurrency.unwrap_or(1),
        learn_slots: plan.max_concurrency.is_none() && !embedded,
        alone_slots: plan.max_concurrency.unwrap_or(if embedded { 1 } else { ALONE_SLOTS }),
        early_slot: plan.max_concurrency.is_none() && !embedded,
        stream_slots: plan.max_concurrency.unwrap_or(STREAM_SLOTS),
        attempts: u8::try_from(attempts.clamp(1, 255)).unwrap_or(u8::MAX),
        breaker: breaker_plan(&plan.breaker),
    }
}

fn breaker_plan(plan: &config::BreakerPlan) -> BreakerPlan {
    BreakerPlan {
        window: plan.window.into(),
        minimum_volume: plan.minimum_volume,
        failure_ratio: plan.failure_ratio,
        consecutive_failures: plan.consecutive_failures,
        open_for: plan.open_for.into(),
        max_open_for: plan.max_open_for.into(),
        half_open_probes: plan.half_open_probes,
    }
}
