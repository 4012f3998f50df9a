//! A model as the fronts see it: what it is, and a way to call it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_channel::Sender;
use tokio::sync::{Notify, oneshot};

use super::clock::Clock;
use super::door::Door;
use super::guard::LeaveGuard;
use super::run::{Message, with_statistics};
use super::shape::{Outline, outline};
use super::spans;
use super::statistics::ModelStatistics;
use super::watch::InstanceState;
use crate::call::{Call, Fault, FaultKind, Reply, Served, SharedSpan, Terms, Work};
use crate::config::{ModelPlan, Protocol};
use crate::instance::{BatchLimit, Description};
use crate::lane::{
    CallId, Event, Experience, InstanceChange, InstanceId, Snapshot, Span, TenantId, Ticket,
};
use crate::telemetry::{ModelMetrics, Throttle, Via};

/// Messages that may wait for the engine; it takes in hundreds at a time, so more means that it is
/// far behind.
const INBOX_BOUND: usize = 1 << 16;

/// Lines in the log about calls of one model that failed for one reason.
const LOUD_LINES_PER_SECOND: u32 = 5;

/// What kind of work a model does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkKind {
    /// [`Work::Infer`].
    Tensors,
    /// [`Work::Items`] with KServe v1 `instances`.
    Predict,
    /// What OpenAI's routes ask for.
    OpenAi {
        /// [`Work::Items`] with embeddings `input`.
        embeddings: bool,
        /// [`Work::Relay`].
        generation: bool,
        /// [`Work::Items`] of rerank, scores, classes, and of Text Embeddings Inference.
        lists: bool,
    },
}

/// A model: what it is, and a way to call it.
///
/// Its engine ends when the last handle is gone and everything that was accepted is answered. Who
/// still holds a model that is not served any more may call it all the same.
#[derive(Debug)]
pub struct Model {
    pub(super) plan: ModelPlan,
    pub(super) kind: WorkKind,
    pub(super) inbox: Sender<Message>,
    pub(super) door: Arc<Door>,
    pub(super) loud: LoudLines,
    pub(super) clock: Clock,
    pub(super) next_id: AtomicU64,
    pub(super) metrics: Arc<ModelMetrics>,
    pub(super) statistics: Arc<Mutex<ModelStatistics>>,
    pub(super) description: Arc<ArcSwap<Description>>,
    pub(super) instances: Vec<Arc<InstanceState>>,
    /// Told when an instance comes up.
    pub(super) comes_up: Arc<Notify>,
}

impl Model {
    /// The name that callers use.
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// How it is configured.
    pub fn plan(&self) -> &ModelPlan {
        &self.plan
    }

    /// What kind of work it does.
    pub fn kind(&self) -> WorkKind {
        self.kind
    }

    /// What its instances say of it, as far as they have been asked.
    pub fn description(&self) -> Arc<Description> {
        self.description.load_full()
    }

    /// The most rows of one batch, as clients are told: 0 when the model has no batch axis; where
    /// nobody has said so, a bound that no batch ever exceeds.
    pub fn max_batch_size(&self) -> u32 {
        match (self.plan.batching, self.plan.max_batch_size, self.description().batch_limit) {
            (false, ..) | (_, None, BatchLimit::NotBatchable) => 0,
            (true, Some(rows), _) | (true, None, BatchLimit::Rows(rows)) => rows,
            (true, None, BatchLimit::Unknown) => crate::lane::LARGEST_BATCH,
        }
    }

    /// Whether an instance is up and in service, and not every one of them fails what it gets: probes may
    /// well pass where nothing else does.
    pub fn is_ready(&self) -> bool {
        self.is_up() && !self.door.is_without_instance()
    }

    /// Whether an instance is up and in service, by its probes.
    pub(super) fn is_up(&self) -> bool {
        self.instances.iter().any(|instance| instance.is_usable())
    }

    /// Waits until an instance is up and in service.
    pub(super) async fn until_up(&self) {
        loop {
            let mut comes_up = pin!(self.comes_up.notified());
            // From here on no news is missed.
            comes_up.as_mut().enable();
            if self.is_up() {
                return;
            }
            comes_up.await;
        }
    }

    /// What it has done.
    pub fn statistics(&self) -> ModelStatistics {
        self.statistics.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Answers a call. Dropping the future cancels the call.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn call(&self, work: Work, terms: Terms, via: Via) -> Result<Served, Fault> {
        self.call_within(self.plan.timeout, work, terms, via).await
    }

    /// The same for a caller who waits for as long as `longest`, whatever the model's time-out.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn call_within(
        &self,
        longest: Duration,
        work: Work,
        terms: Terms,
        via: Via,
    ) -> Result<Served, Fault> {
        let accepted = tokio::time::Instant::now();
        let terms = Arc::new(terms);
        let mut account = Account {
            model: self,
            terms: Arc::clone(&terms),
            priority: terms.priority.unwrap_or(self.plan.default_priority),
            via,
            accepted,
            span: SharedSpan::default(),
            settled: false,
        };
        account.span = spans::of_call(
            self.metrics.spans(),
            &self.plan.name,
            &work,
            &terms,
            via,
            account.priority,
        );
        let latest = accepted + longest;
        let outcome = self.answer(work, &account, latest).await;
        account.settle(&outcome);
        outcome
    }

    async fn answer(
        &self,
        work: Work,
        account: &Account<'_>,
        latest: tokio::time::Instant,
    ) -> Result<Served, Fault> {
        let Account { terms, priority, accepted, span, .. } = account;
        let (priority, accepted) = (*priority, *accepted);
        if priority == 0 || priority > self.plan.priority_levels {
            return Err(Fault::invalid(
                "priority",
                format!(
                    "priority {priority} is not among the levels of model '{}': 1 (the most \
                     urgent) to {}, or 0 for the default",
                    self.plan.name, self.plan.priority_levels
                ),
            ));
        }
        let deadline = terms.deadline.map_or(latest, |own| own.min(latest));
        let Outline { track, key, rows, bytes, longest_tokens, affinity } = outline(&work);
        let ticket = Ticket {
            id: CallId(self.next_id.fetch_add(1, Ordering::Relaxed)),
            track,
            key,
            rows,
            first_row: 0,
            bytes,
            longest_tokens,
            priority,
            arrived: self.clock.to_lane(accepted),
            deadline: self.clock.to_lane(deadline),
            tenant: terms.tenant.as_deref().map(tenant_id),
            objective: None,
            put_off: Span::ZERO,
            affinity,
        };
        let (reply, receiver) = Reply::new(rows);
        let guard = LeaveGuard::new(self.inbox.clone(), track, ticket.id);
        let call = Call::new(work, Arc::clone(terms), reply, span.clone());
        if self.inbox.len() >= INBOX_BOUND {
            guard.disarm();
            let message = format!("model '{}' has more calls than it can take in", self.plan.name);
            return Err(
                Fault::new(FaultKind::QueueFull, message).with_retry_after(Duration::from_secs(1))
            );
        }
        if self.inbox.try_send(Message::Event(Event::Arrive(ticket, call))).is_err() {
            guard.disarm();
            return Err(Fault::new(FaultKind::Draining, "the server has shut down"));
        }
        match tokio::time::timeout_at(deadline, receiver).await {
            Ok(answer) => {
                guard.disarm();
                answer.unwrap_or_else(|_| {
                    Err(Fault::new(FaultKind::Internal, "the call was lost without an answer"))
                })
            }
            // The guard tells the lane, which forgets the call or lets its batch-mates go on.
            Err(_) => Err(Fault::deadline(accepted.elapsed())),
        }
    }

    /// Whether a call would be taken in now, as far as that is known without it: `priority` is the
    /// most urgent that it may turn out to have, `None` for the default; `tenant` is as in [`Terms`].
    ///
    /// # Errors
    /// When it would be refused whatever it asks for.
    pub fn admits(&self, priority: Option<u8>, tenant: Option<&str>) -> Result<(), Fault> {
        let priority = priority.unwrap_or(self.plan.default_priority);
        let tenant = tenant.map(tenant_id);
        let Some(fault) = self.door.refusal(&self.plan.name, priority, tenant) else {
            return Ok(());
        };
        if fault.kind == FaultKind::QueueFull {
            self.metrics.shed(priority, "queue_full");
        }
        Err(fault)
    }

    /// Counts a call that ended before it could be made: refused at the door, or its caller went.
    pub fn count_uncalled(&self, via: Via, outcome: &'static str, took: Duration) {
        self.metrics.answered(via, self.plan.default_priority, outcome, took);
    }

    /// Its metrics, for what is known only where its answers are read.
    pub fn metrics(&self) -> &Arc<ModelMetrics> {
        &self.metrics
    }

    /// The lane at this moment; `None` once the engine has ended.
    pub(super) async fn snapshot(&self) -> Option<Snapshot> {
        let (reply, receiver) = oneshot::channel();
        self.inbox.send(Message::Inspect(reply)).await.ok()?;
        receiver.await.ok()
    }

    /// What its lane has learned; `None` once the engine has ended.
    pub(super) async fn experience(&self) -> Option<Experience> {
        let (reply, receiver) = oneshot::channel();
        self.inbox.send(Message::Experience(reply)).await.ok()?;
        receiver.await.ok()
    }

    /// Takes an instance out of service, or puts it back. `false` when there is no such instance.
    pub async fn set_drained(&self, instance: &str, drained: bool) -> bool {
        let Some(index) = self.plan.instances.iter().position(|known| known.name == instance)
        else {
            return false;
        };
        if let Some(state) = self.instances.get(index) {
            state.set_drained(drained);
        }
        let id = InstanceId(u32::try_from(index).unwrap_or(u32::MAX));
        let event = Event::Instance(id, InstanceChange::Drained(drained));
        self.inbox.send(Message::Event(event)).await.is_ok()
    }

    /// Whether an operator has taken an instance out of service.
    pub(super) fn is_drained(&self, instance: &str) -> bool {
        let state = self.instances.iter().find(|state| *state.name == *instance);
        state.is_some_and(|state| state.is_drained())
    }

    pub(super) fn kind_of(plan: &ModelPlan) -> WorkKind {
        use crate::config::EmbeddedKind;
        match (plan.protocol, &plan.embedded) {
            (Protocol::KserveGrpc | Protocol::KserveHttp, _) => WorkKind::Tensors,
            (Protocol::KserveV1, _) => WorkKind::Predict,
            (Protocol::OpenAi, _) => {
                WorkKind::OpenAi { embeddings: true, generation: true, lists: true }
            }
            (Protocol::Embedded, Some(EmbeddedKind::Embedding)) => {
                WorkKind::OpenAi { embeddings: true, generation: false, lists: false }
            }
            (Protocol::Embedded, Some(EmbeddedKind::Echo)) => {
                WorkKind::OpenAi { embeddings: false, generation: true, lists: false }
            }
            (Protocol::Embedded, _) => WorkKind::Tensors,
        }
    }
}

/// A hash is enough to tell tenants apart: should two meet, they share one share.
fn tenant_id(name: &str) -> TenantId {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    TenantId(hasher.finish())
}

/// Bounds the lines about calls that failed, for each reason, so that a flood of one hides no other.
#[derive(Debug)]
pub(super) struct LoudLines {
    upstream: Throttle,
    overloaded: Throttle,
    internal: Throttle,
}

impl LoudLines {
    pub(super) fn new() -> Self {
        let throttle = || Throttle::new(LOUD_LINES_PER_SECOND);
        Self { upstream: throttle(), overloaded: throttle(), internal: throttle() }
    }

    fn of(&self, kind: FaultKind) -> &Throttle {
        match kind {
            FaultKind::Upstream => &self.upstream,
            FaultKind::Overloaded => &self.overloaded,
            _ => &self.internal,
        }
    }
}

/// Counts and logs a call once, whatever becomes of it: a caller that goes away drops it.
struct Account<'a> {
    model: &'a Model,
    terms: Arc<Terms>,
    priority: u8,
    via: Via,
    accepted: tokio::time::Instant,
    span: SharedSpan,
    settled: bool,
}

impl Account<'_> {
    fn settle(&mut self, outcome: &Result<Served, Fault>) {
        self.settled = true;
        spans::settle(&self.span, outcome);
        let took = self.accepted.elapsed();
        let (label, queue) = match outcome {
            Ok(Served { timing, .. }) => {
                let overhead = took.saturating_sub(timing.queue).saturating_sub(timing.batch);
                self.model.metrics.overhead(self.priority, overhead);
                ("ok", Some(timing.queue))
            }
            Err(fault) => {
                let reason = crate::wire::status::of_kind(fault.kind).reason;
                self.log(fault, reason);
                (reason, None)
            }
        };
        if let Some(queue) = queue {
            self.model.metrics.queued(self.priority, queue);
        }
        self.model.metrics.answered(self.via, self.priority, label, took);
        with_statistics(&self.model.statistics, |all| all.call(outcome.is_ok(), queue, took));
    }

    /// Logs what is no fault of the caller: loudly where an instance or batchwise failed the call,
    /// quietly where none was tried to the end, which a busy server may say thousands of times.
    fn log(&self, fault: &Fault, reason: &'static str) {
        let model = self.model.name();
        let request_id = self.terms.request_id.as_str();
        match fault.kind {
            FaultKind::Upstream | FaultKind::Internal | FaultKind::Overloaded => {
                if let Some(left_out) = self.model.loud.of(fault.kind).admit() {
                    tracing::warn!(model, request_id, reason, left_out, %fault, "a call failed");
                }
            }
            FaultKind::BuffersFull
            | FaultKind::QueueFull
            | FaultKind::Shed
            | FaultKind::NoInstance
            | FaultKind::Deadline
            | FaultKind::Draining => {
                tracing::debug!(model, request_id, reason, %fault, "a call was not served");
            }
            FaultKind::InvalidRequest
            | FaultKind::UnknownModel
            | FaultKind::UnknownObject
            | FaultKind::UnknownRoute
            | FaultKind::MethodNotAllowed
            | FaultKind::Unimplemented
            | FaultKind::TooLarge
            | FaultKind::Refused => {}
        }
    }
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        if !self.settled {
            let took = self.accepted.elapsed();
            self.span.settle("cancelled");
            self.model.metrics.answered(self.via, self.priority, "cancelled", took);
        }
    }
}
