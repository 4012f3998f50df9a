//! The loop: drains the inbox, feeds the lane, does what it wants, sleeps until something is due.
//!
//! The batches on their way are polled here and not in tasks of their own. A call already passes
//! through a handful of tasks; each further one is a wake-up, and the runtime moves work to another
//! thread when too many follow one another, which costs more than everything that a batch needs
//! besides its instance. What computes for long does so on threads of its own.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_channel::Receiver;
use futures_util::FutureExt as _;
use futures_util::future::{AbortHandle, abortable};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::alarm::Alarm;
use super::clock::Clock;
use super::door::{Door, draining, no_instance, queue_full};
use super::guard::SlotGuard;
use super::race::{Second, Signals, Target};
use super::slot::{self, Landing, SlotContext};
use super::statistics::ModelStatistics;
use crate::call::{Call, Fault, FaultKind};
use crate::instance::Instance;
use crate::lane::{
    Blame, BreakerState, Calculated, Calculation, Effect, Event, Experience, InstanceId, Lane,
    Member, Notice, Outcome, RefuseReason, SlotId, Snapshot, Unshared,
};
use crate::telemetry::ModelMetrics;

/// Events taken in before effects are carried out again.
const BULK: usize = 256;

/// What reaches an engine.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are events; a box each would cost more")]
pub(super) enum Message {
    Event(Event<Call>),
    Inspect(oneshot::Sender<Snapshot>),
    /// Answers what the lane has learned.
    Experience(oneshot::Sender<Experience>),
    /// Answers once the lane is empty.
    WhenIdle(oneshot::Sender<()>),
}

/// A batch on its way: its slot, and how it landed.
pub(super) type Flight = Pin<Box<dyn Future<Output = (SlotId, Landing)> + Send + 'static>>;

/// What to steer a batch on its way by.
pub(super) struct Controls {
    instance: InstanceId,
    /// Absent where it is part of another one's way.
    abort: Option<AbortHandle>,
    /// Asks for its calls; taken once that is done.
    recall: Option<oneshot::Sender<()>>,
    /// Names a second instance to ask; taken once that is done.
    hedge: Option<oneshot::Sender<Second>>,
}

/// What ends the engine's sleep.
#[expect(clippy::large_enum_variant, reason = "taken apart at once; a box would cost more")]
enum Woken {
    Message(Message),
    Landed(SlotId, Landing),
    Calculated(Calculated),
    Due,
    Closed,
}

/// What the engine of one model works with.
pub(super) struct Engine {
    pub(super) model: Arc<str>,
    pub(super) lane: Lane<Call>,
    pub(super) inbox: Receiver<Message>,
    pub(super) sender: async_channel::WeakSender<Message>,
    pub(super) instances: Vec<(Arc<str>, Arc<dyn Instance>)>,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<ModelMetrics>,
    pub(super) statistics: Arc<Mutex<ModelStatistics>>,
    pub(super) flights: FuturesUnordered<Flight>,
    pub(super) alarm: Alarm,
    pub(super) calculations: JoinSet<Calculated>,
    pub(super) slots: BTreeMap<SlotId, Controls>,
    pub(super) idle_waiters: Vec<oneshot::Sender<()>>,
    pub(super) door: Arc<Door>,
    /// How fast the queue drains, for `retry-after`.
    pub(super) drain_rate: DrainRate,
}

impl Engine {
    /// Runs until the inbox is closed and empty.
    pub(super) async fn run(mut self) {
        loop {
            let woken = self.sleep().await;
            let now = self.clock.now();
            match woken {
                Woken::Message(message) => self.take_in(now, message),
                Woken::Landed(slot, landing) => self.land(now, slot, landing),
                Woken::Calculated(calculated) => self.lane.on(now, Event::Calculated(calculated)),
                Woken::Due => {}
                Woken::Closed => break,
            }
            for _ in 0..BULK {
                let Ok(message) = self.inbox.try_recv() else { break };
                self.take_in(now, message);
            }
            self.obey();
        }
    }

    async fn sleep(&mut self) -> Woken {
        let wake_at = self.lane.wake_at().map(|at| self.clock.to_runtime(at));
        let due = async {
            match wake_at {
                Some(at) => self.alarm.at(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some((slot, landing)) = self.flights.next(), if !self.flights.is_empty() => {
                Woken::Landed(slot, landing)
            }
            message = self.inbox.recv() => message.map_or(Woken::Closed, Woken::Message),
            Some(Ok(calculated)) = self.calculations.join_next(), if !self.calculations.is_empty() => {
                Woken::Calculated(calculated)
            }
            () = due => Woken::Due,
        }
    }

    fn take_in(&mut self, now: crate::lane::Instant, message: Message) {
        match message {
            Message::Event(event) => {
                if let Event::Done(slot, outcome) = &event {
                    self.landed(*slot, outcome);
                }
                self.lane.on(now, event);
            }
            Message::Inspect(reply) => drop(reply.send(self.lane.snapshot(now))),
            Message::Experience(reply) => drop(reply.send(self.lane.experience())),
            Message::WhenIdle(reply) => self.idle_waiters.push(reply),
        }
    }

    fn land(&mut self, now: crate::lane::Instant, slot: SlotId, landing: Landing) {
        match landing {
            Landing::Done(outcome) => {
                self.take_in(now, Message::Event(Event::Done(slot, outcome)));
            }
            Landing::Streaming => {}
            Landing::Recalled(members, rest) => {
                self.fly(slot, rest.map(Landing::Done));
                self.lane.on(now, Event::Recalled(slot, members));
            }
        }
    }

    fn landed(&mut self, slot: SlotId, outcome: &Outcome<Call>) {
        if let Some(controls) = self.slots.remove(&slot) {
            let index = controls.instance.0 as usize;
            if let Some(instance) = self.metrics.instances.get(index) {
                instance.inflight.decrement();
            }
            if let Outcome::Failed(_, blame) = outcome {
                self.metrics.batch_failed(index, blame_label(*blame));
            }
        }
    }

    fn obey(&mut self) {
        let now = self.clock.now();
        while let Some(effect) = self.lane.next(now) {
            match effect {
                Effect::Dispatch(slot, instance, batch) => {
                    self.drain_rate.cut(now, batch.rows);
                    self.dispatch(slot, instance, batch);
                }
                Effect::Refuse(member, reason) => self.refuse(member, reason),
                Effect::Abort(slot) => {
                    let controls = self.slots.get(&slot);
                    if let Some(abort) = controls.and_then(|controls| controls.abort.as_ref()) {
                        abort.abort();
                    }
                }
                Effect::Recall(slot) => {
                    let controls = self.slots.get_mut(&slot);
                    if let Some(recall) = controls.and_then(|controls| controls.recall.take()) {
                        // Fails when the batch is back already: then its calls are answered.
                        let _ = recall.send(());
                    }
                }
                Effect::Hedge { slot, second, instance } => self.hedge(slot, second, instance),
                Effect::Notice(notice) => self.note(notice),
                Effect::Calculate(calculation) => {
                    calculate(&mut self.calculations, calculation);
                }
            }
        }
        self.metrics.set_queue_depth(self.lane.waiting_by_priority());
        let advice = || self.drain_rate.advice(self.lane.waiting_rows());
        self.door.set(self.lane.turns_away(now), advice);
        if !self.idle_waiters.is_empty() && self.lane.is_idle() {
            // Who waits no longer need not hear of it.
            self.idle_waiters.drain(..).for_each(|waiter| {
                let _ = waiter.send(());
            });
        }
    }

    fn dispatch(&mut self, slot: SlotId, id: InstanceId, batch: crate::lane::Batch<Call>) {
        // The model is gone, and with it whoever could wait for the answer.
        let Some(sender) = self.sender.upgrade() else { return };
        let Some(target) = self.target(id) else { return };
        self.metrics.batch_size.record(f64::from(batch.rows));
        self.metrics.batch_cut(batch.cause);
        let context = SlotContext {
            slot,
            inbox: sender,
            target,
            clock: self.clock,
            model: Arc::clone(&self.model),
            metrics: Arc::clone(&self.metrics),
            statistics: Arc::clone(&self.statistics),
        };
        let (recall, recalled) = oneshot::channel();
        let (hedge, hedged) = oneshot::channel();
        let abort = self.fly(slot, slot::carry(context, batch, Signals { recalled, hedged }));
        let (recall, hedge) = (Some(recall), Some(hedge));
        self.slots.insert(slot, Controls { instance: id, abort: Some(abort), recall, hedge });
    }

    /// Has a batch ask a second instance, too. Should the batch be back already, or end first, the
    /// slot of the second one is free at once.
    fn hedge(&mut self, slot: SlotId, second: SlotId, id: InstanceId) {
        let Some(sender) = self.sender.upgrade() else { return };
        let Some(target) = self.target(id) else { return };
        let controls = Controls { instance: id, abort: None, recall: None, hedge: None };
        self.slots.insert(second, controls);
        let first = self.slots.get_mut(&slot).and_then(|controls| controls.hedge.take());
        let second = Second { target, guard: SlotGuard::new(sender, second) };
        drop(first.map(|first| first.send(second)));
    }

    /// An instance that is about to get a batch.
    fn target(&self, id: InstanceId) -> Option<Target> {
        let index = id.0 as usize;
        let (name, instance) = self.instances.get(index)?;
        if let Some(metrics) = self.metrics.instances.get(index) {
            metrics.inflight.increment();
        }
        Some(Target { instance: Arc::clone(instance), name: Arc::clone(name), index })
    }

    /// Lets a batch go its way. A defect that panics costs its batch and not the model.
    fn fly(
        &mut self,
        slot: SlotId,
        flight: impl Future<Output = Landing> + Send + 'static,
    ) -> AbortHandle {
        let (flight, abort) = abortable(AssertUnwindSafe(flight).catch_unwind());
        if let Some(controls) = self.slots.get_mut(&slot) {
            controls.abort = Some(abort.clone());
        }
        let model = Arc::clone(&self.model);
        self.flights.push(Box::pin(async move {
            match flight.await {
                Ok(Ok(landing)) => (slot, landing),
                Ok(Err(_)) => {
                    tracing::error!(model = &*model, "a batch was lost to a defect of batchwise");
                    (slot, Landing::Done(Outcome::Cancelled))
                }
                Err(_) => (slot, Landing::Done(Outcome::Cancelled)),
            }
        }));
        abort
    }

    fn refuse(&mut self, member: Member<Call>, reason: RefuseReason) {
        let Member { ticket, payload: call, .. } = member;
        let advice = || self.drain_rate.advice(self.lane.waiting_rows());
        let fault = match reason {
            RefuseReason::QueueFull => {
                self.metrics.shed(ticket.priority, "queue_full");
                queue_full(&self.model, advice())
            }
            RefuseReason::Shed => {
                self.metrics.shed(ticket.priority, "shed");
                let message = format!(
                    "the queue of model '{}' is full and more urgent calls needed the room",
                    self.model
                );
                Fault::new(FaultKind::Shed, message).with_retry_after(advice())
            }
            RefuseReason::Standing => {
                self.metrics.shed(ticket.priority, "standing");
                let message = format!(
                    "the queue of model '{}' has been standing for a while: a call would wait too long in it",
                    self.model
                );
                Fault::new(FaultKind::QueueFull, message).with_retry_after(advice())
            }
            RefuseReason::Deadline => {
                Fault::deadline(Duration::from(self.clock.now().since(ticket.arrived)))
            }
            RefuseReason::Draining => draining(),
            RefuseReason::NoInstance(after) => no_instance(&self.model, after.into()),
            RefuseReason::Spent => call.last_fault.clone().unwrap_or_else(|| {
                Fault::new(FaultKind::Upstream, "the instances failed, and the retries are spent")
            }),
        };
        call.reply.send(Err(fault));
    }

    fn note(&self, notice: Notice) {
        let model = &*self.model;
        let name =
            |id: InstanceId| self.instances.get(id.0 as usize).map_or("", |(name, _)| &**name);
        match notice {
            Notice::Breaker(id, state) => {
                if let Some(metrics) = self.metrics.instances.get(id.0 as usize) {
                    metrics.breaker_state.set(breaker_number(state));
                }
                match state {
                    BreakerState::Open => {
                        tracing::warn!(model, instance = name(id), "circuit breaker opened");
                    }
                    _ => {
                        tracing::info!(model, instance = name(id), ?state, "circuit breaker moved");
                    }
                }
            }
            Notice::Retried(blame) => self.metrics.retried(blame_label(blame)),
            Notice::Bisected(rows) => {
                self.metrics.retried("bisect");
                tracing::debug!(model, rows, "a batch failed and is tried in parts");
            }
            Notice::Recalled(id, rows) => {
                self.metrics.retried("overdue");
                let instance = name(id);
                tracing::warn!(model, instance, rows, "a batch is overdue; others serve its calls");
            }
            Notice::Hedged(id, rows) => {
                self.metrics.retried("hedge");
                tracing::debug!(model, instance = name(id), rows, "a slow batch is hedged");
            }
            Notice::Answered(id) => {
                tracing::info!(model, instance = name(id), "the instance answers again");
            }
            Notice::LimitLearned(id, rows) => tracing::warn!(
                model,
                instance = name(id),
                rows,
                "the instance refuses batches of so many rows though it serves their parts; \
                 batches will be smaller"
            ),
            Notice::NotBatchable(Unshared::Told) => tracing::info!(
                model,
                "by its configuration the model does not take batches; its calls are served one at a time"
            ),
            Notice::NotBatchable(Unshared::Seen) => tracing::warn!(
                model,
                "the model's outputs do not have the rows of its inputs; \
                 its calls are served one at a time from now on"
            ),
        }
    }
}

/// Calculates beside everything else: on another thread, or in a task where the runtime has one thread
/// only, as in tests, which rely on what follows what.
fn calculate(calculations: &mut JoinSet<Calculated>, calculation: Calculation) {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => calculations.spawn(async { calculation.run() }),
        _ => calculations.spawn_blocking(|| calculation.run()),
    };
}

/// How many rows a second leave the queue, smoothed over about a second.
#[derive(Debug, Default)]
pub(super) struct DrainRate {
    rows_per_second: f64,
    last: Option<crate::lane::Instant>,
}

impl DrainRate {
    fn cut(&mut self, now: crate::lane::Instant, rows: u32) {
        let Some(last) = self.last.replace(now) else { return };
        let seconds = Duration::from(now.since(last)).as_secs_f64().max(1e-6);
        let weight = 1.0 - (-seconds).exp();
        self.rows_per_second += weight * (f64::from(rows) / seconds - self.rows_per_second);
    }

    /// When the rows that wait now will have left.
    fn advice(&self, waiting_rows: u64) -> Duration {
        let seconds = waiting_rows as f64 / self.rows_per_second.max(1e-3);
        Duration::from_secs_f64(seconds.clamp(0.05, 60.0))
    }
}

pub(super) fn blame_label(blame: Blame) -> &'static str {
    match blame {
        Blame::Connection => "connection",
        Blame::Lost => "connection_lost",
        Blame::Overload { .. } => "overload",
        Blame::Refused => "refused",
        Blame::Broken => "broken",
        Blame::TooSlow => "too_slow",
        Blame::NotBatched => "not_batched",
    }
}

fn breaker_number(state: BreakerState) -> f64 {
    match state {
        BreakerState::Closed => 0.0,
        BreakerState::HalfOpen => 1.0,
        BreakerState::Open => 2.0,
    }
}

/// Adds a batch to what the model has done.
pub(super) fn with_statistics(
    statistics: &Mutex<ModelStatistics>,
    change: impl FnOnce(&mut ModelStatistics),
) {
    change(&mut statistics.lock().unwrap_or_else(PoisonError::into_inner));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::Instant;

    #[test]
    fn advice_is_the_time_that_the_queue_needs() {
        let mut rate = DrainRate::default();
        for batch in 0..200 {
            rate.cut(Instant::from_nanos(batch * 50_000_000), 10);
        }
        let advice = rate.advice(400).as_secs_f64();
        assert!((advice - 2.0).abs() < 0.1, "200 rows a second, 400 wait: {advice}");
        assert_eq!(DrainRate::default().advice(10), Duration::from_secs(60));
    }
}
