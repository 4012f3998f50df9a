//! The models that are served, and everything that runs for them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwap;
use async_channel::{Sender, WeakSender};
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::alarm::Alarm;
use super::change::Inheritance;
use super::clock::Clock;
use super::door::Door;
use super::model::{LoudLines, Model};
use super::run::{DrainRate, Engine, Message};
use super::status::ModelStatus;
use super::watch::{Descriptions, InstanceState, Watch};
use crate::call::Call;
use crate::config::{self, ModelPlan, Protocol};
use crate::instance::{Description, Instance};
use crate::lane::{
    Adaptive, BreakerPlan, ControlledDelay, Event, FixedDelay, HedgeDelay, InstanceChange,
    InstanceId, Lane, LanePlan, Objective, Policy,
};
use crate::telemetry::{ModelMetrics, Telemetry};

/// Calls in flight to an instance whose model shares no batches: waiting for an answer gains
/// nothing there.
const ALONE_SLOTS: u32 = 16;

/// A model and whoever answers its batches.
#[derive(Debug)]
pub struct ModelSetup {
    /// How it is configured.
    pub plan: ModelPlan,
    /// Its instances, in the order of the plan.
    pub instances: Vec<Arc<dyn Instance>>,
}

/// The models that are served at one moment, by their names.
pub type ByName = BTreeMap<String, Arc<Model>>;

/// The models that are served, and everything that runs for them.
#[derive(Debug)]
pub struct Models {
    pub(super) current: ArcSwap<ByName>,
    /// Whoever may still run, whether its model is served or not.
    engines: Mutex<Vec<RunningEngine>>,
    telemetry: Telemetry,
    clock: Clock,
    tasks: TaskTracker,
    draining: AtomicBool,
    closed: AtomicBool,
}

/// An engine that may still run. It ends when all others have let go of its inbox.
#[derive(Debug)]
struct RunningEngine {
    model: Arc<str>,
    inbox: WeakSender<Message>,
    metrics: Weak<ModelMetrics>,
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
        let models = Self {
            current: ArcSwap::default(),
            engines: Mutex::default(),
            telemetry: telemetry.clone(),
            clock: Clock::start(),
            tasks: TaskTracker::new(),
            draining: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        };
        let by_name = setups.into_iter().map(|setup| {
            let model = models.start_model(setup, None, None);
            (model.name().to_owned(), Arc::new(model))
        });
        models.current.store(Arc::new(by_name.collect()));
        models
    }

    /// A model by its name.
    pub fn get(&self, name: &str) -> Option<Arc<Model>> {
        self.current.load().get(name).map(Arc::clone)
    }

    /// The models that are served now, in order of their names.
    pub fn current(&self) -> Arc<ByName> {
        self.current.load_full()
    }

    /// Whether the process is shutting down.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Whether new calls are refused.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Whether any model has a usable instance.
    pub fn any_ready(&self) -> bool {
        self.current().values().any(|model| model.is_ready())
    }

    /// Every model at this moment.
    pub async fn status(&self) -> Vec<ModelStatus> {
        let current = self.current();
        let mut all = Vec::with_capacity(current.len());
        for model in current.values() {
            all.extend(model.status().await);
        }
        all
    }

    /// From now on the process says that it is not ready; calls are still accepted.
    pub fn announce_drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Refuses new calls and waits until everything that was accepted is answered, but no longer
    /// than until `by`.
    pub async fn drain(&self, by: Instant) -> Drained {
        self.announce_drain();
        self.closed.store(true, Ordering::Relaxed);
        let mut waiters = Vec::new();
        for inbox in self.inboxes() {
            let (reply, idle) = oneshot::channel();
            drop(inbox.try_send(Message::Event(Event::Drain)));
            if inbox.try_send(Message::WhenIdle(reply)).is_ok() {
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

    /// Calls that wait, and batches and streams that are on their way; also of models that are not
    /// served any more.
    pub async fn open_calls(&self) -> u64 {
        let mut open = 0;
        for inbox in self.inboxes() {
            let (reply, snapshot) = oneshot::channel();
            drop(inbox.try_send(Message::Inspect(reply)));
            drop(inbox);
            let Ok(snapshot) = snapshot.await else { continue };
            let waiting: u64 = snapshot.waiting.iter().copied().map(u64::from).sum();
            let in_flight: u32 = snapshot.instances.iter().map(|one| one.in_flight).sum();
            open += waiting + u64::from(in_flight);
        }
        open
    }

    /// The inboxes of whoever runs.
    fn inboxes(&self) -> Vec<Sender<Message>> {
        let engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        engines.iter().filter_map(|engine| engine.inbox.upgrade()).collect()
    }

    /// Starts the engine of a model and the watches of its instances. It takes over from `before`
    /// what an operator and the statistics say, and what was learned.
    pub(super) fn start_model(
        &self,
        setup: ModelSetup,
        before: Option<&Model>,
        inheritance: Option<&Inheritance>,
    ) -> Model {
        let ModelSetup { plan, instances } = setup;
        let clock = self.clock;
        let names: Vec<String> =
            plan.instances.iter().map(|instance| instance.name.clone()).collect();
        let metrics = ModelMetrics::new(&self.telemetry, &plan.name, plan.priority_levels, &names);
        let metrics = Arc::new(metrics);
        let statistics = before.map(|model| Arc::clone(&model.statistics)).unwrap_or_default();
        let (sender, inbox) = async_channel::unbounded();
        let comes_up = Arc::new(Notify::new());
        let state = |name: &String| {
            let drained = before.is_some_and(|model| model.is_drained(name));
            Arc::new(InstanceState::new(name.as_str().into(), drained, Arc::clone(&comes_up)))
        };
        let states: Vec<_> = names.iter().map(state).collect();
        let mut lane = new_lane(&plan, &states, clock.now());
        if let Some(Inheritance { experience, before }) = inheritance {
            lane.succeed(clock.now(), experience, before);
        }
        let model: Arc<str> = plan.name.as_str().into();
        let named: Vec<(Arc<str>, Arc<dyn Instance>)> =
            states.iter().map(|state| Arc::clone(&state.name)).zip(instances).collect();
        let door = Arc::new(Door::default());
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
            door: Arc::clone(&door),
            drain_rate: DrainRate::default(),
        };
        let description = Arc::new(ArcSwap::from_pointee(Description::default()));
        let descriptions = Arc::new(Descriptions::new(named.len(), Arc::clone(&description)));
        let watch = |(index, ((_, instance), state))| Watch {
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
        let watches = named.into_iter().zip(&states).enumerate().map(watch);
        let mut watches: JoinSet<()> = watches.map(Watch::run).collect();
        self.enlist(model, &sender, &metrics);
        self.tasks.spawn(async move {
            engine.run().await;
            watches.shutdown().await;
        });
        Model {
            kind: Model::kind_of(&plan),
            plan,
            inbox: sender,
            door,
            loud: LoudLines::new(),
            clock,
            next_id: AtomicU64::new(0),
            metrics,
            statistics,
            description,
            instances: states,
            comes_up,
        }
    }

    /// Remembers a new engine, and forgets those that have ended.
    fn enlist(&self, model: Arc<str>, inbox: &Sender<Message>, metrics: &Arc<ModelMetrics>) {
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        engines.retain(|engine| engine.inbox.upgrade().is_some());
        for engine in engines.iter().filter(|engine| engine.model == model) {
            if let Some(before) = engine.metrics.upgrade() {
                before.hand_over_to(metrics);
            }
        }
        let (inbox, metrics) = (inbox.downgrade(), Arc::downgrade(metrics));
        engines.push(RunningEngine { model, inbox, metrics });
    }
}

impl Drop for Models {
    fn drop(&mut self) {
        // Engines end by themselves when the last handle of their inbox is gone, and the watches
        // of their instances with them.
        self.tasks.close();
    }
}

/// A lane that knows what is known before any call.
fn new_lane(
    plan: &ModelPlan,
    states: &[Arc<InstanceState>],
    now: crate::lane::Instant,
) -> Lane<Call> {
    let mut lane = Lane::new(lane_plan(plan), policy(plan));
    if !plan.batching {
        lane.on(now, Event::NotBatchable);
    }
    for (id, state) in (0..).map(InstanceId).zip(states) {
        lane.on(now, Event::Instance(id, InstanceChange::Drained(state.is_drained())));
    }
    lane
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
        stream_slots: plan.max_concurrency,
        attempts: u8::try_from(attempts.clamp(1, 255)).unwrap_or(u8::MAX),
        hedge: plan.hedge.enabled.then(|| match plan.hedge.delay {
            None => HedgeDelay::Learned,
            Some(delay) => HedgeDelay::Fixed(delay.into()),
        }),
        controlled_delay: plan.controlled_delay.enabled.then(|| {
            match plan.controlled_delay.target {
                None => ControlledDelay::Learned,
                Some(target) => ControlledDelay::Fixed(target.into()),
            }
        }),
        loading_hold: plan.health.loading_hold.into(),
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
        panic_threshold: plan.panic_threshold,
    }
}
