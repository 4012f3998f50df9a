//! What goes into a lane and what comes out of it.

use std::collections::BTreeMap;

use super::breaker::{BreakerPlan, BreakerState};
use super::fleet::{Health, InstanceView};
use super::hedge::HedgeDelay;
use super::policy::{Calculated, Calculation, Learned};
use super::standing::ControlledDelay;
use super::streams::EngineLoad;
use super::ticket::{CallId, Member, TenantId, Ticket, Track};
use super::{InstanceId, Span};

/// Names a batch on its way, and so the slot that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub u64);

/// The bounds and habits of a lane.
#[derive(Clone, Debug)]
pub struct LanePlan {
    /// The number of instances.
    pub instances: u32,
    /// Rows in one batch, where the user or the instance has said so.
    pub max_batch_rows: Option<u32>,
    /// Bytes in one batch; a call with more rides alone.
    pub max_batch_bytes: Option<u64>,
    /// Tokens in one batch of texts, all padded to the longest of them.
    pub max_batch_tokens: Option<u64>,
    /// Within which time calls are to be answered; those that cannot make it are refused.
    pub objective: Option<Objective>,
    /// Rows that may wait.
    pub max_queue_rows: u64,
    /// Bytes that may wait.
    pub max_queue_bytes: u64,
    /// Batches that an instance may run at once, unless changed for one of them.
    pub batch_slots: u32,
    /// Whether more than `batch_slots` at once may be tried, to learn how many an instance takes.
    pub learn_slots: bool,
    /// Batches that an instance may run at once when nothing is shared, so that there is nothing
    /// to gain by waiting for an answer.
    pub alone_slots: u32,
    /// Whether a batch may be sent shortly before the running one ends, to an instance with one slot.
    pub early_slot: bool,
    /// Streams that an instance may run at once; `None`: to be learned.
    pub stream_slots: Option<u32>,
    /// Batches that may break under one call before it is given up; at least 1.
    pub attempts: u8,
    /// When a batch that is slow to come back is sent to a second instance; `None`: never.
    pub hedge: Option<HedgeDelay>,
    /// How long calls may wait once their queue stands; `None`: as long as their deadlines allow.
    pub controlled_delay: Option<ControlledDelay>,
    /// For how long after an instance began to load calls wait for it.
    pub loading_hold: Span,
    /// When a breaker opens and for how long.
    pub breaker: BreakerPlan,
}

impl Default for LanePlan {
    /// One instance, one batch at a time, nothing learned that may cost something.
    fn default() -> Self {
        Self {
            instances: 1,
            max_batch_rows: None,
            max_batch_bytes: None,
            max_batch_tokens: None,
            objective: None,
            max_queue_rows: 4096,
            max_queue_bytes: 256 << 20,
            batch_slots: 1,
            learn_slots: false,
            alone_slots: 1,
            early_slot: false,
            stream_slots: Some(1),
            attempts: 2,
            hedge: None,
            controlled_delay: None,
            loading_hold: Span::ZERO,
            breaker: BreakerPlan::default(),
        }
    }
}

/// A latency objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Objective {
    /// From a call's arrival to its answer.
    pub within: Span,
    /// Calls of this and more urgent priorities have it; the others may take as long as they like.
    pub priority: u8,
}

/// What happens to a lane.
#[derive(Debug)]
pub enum Event<P> {
    /// A call came.
    Arrive(Ticket, P),
    /// The caller of a call went.
    Leave(Track, CallId),
    /// A batch is back.
    Done(SlotId, Outcome<P>),
    /// The calls of a batch that was called back; its instance still works on it, and what becomes
    /// of that is told by `Done`.
    Recalled(SlotId, Vec<Member<P>>),
    /// The first event of a stream has come.
    FirstEvent(SlotId),
    /// Something is new about an instance.
    Instance(InstanceId, InstanceChange),
    /// An instance said how many rows a batch may have; `None` when it has no say any more.
    LimitTold(Option<u32>),
    /// The model has no batch axis: every call rides alone from now on.
    NotBatchable,
    /// What was to be calculated.
    Calculated(Calculated),
    /// Nothing more is accepted; what waits is sent without delay.
    Drain,
}

/// What is new about an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceChange {
    /// What the health checks say.
    Health(Health),
    /// An operator takes it out (`true`), or puts it back and closes its breaker.
    Drained(bool),
    /// Batches that it may run at once.
    BatchSlots(u32),
    /// What it says of its load.
    Load(EngineLoad),
}

/// What became of a batch.
#[derive(Debug)]
pub enum Outcome<P> {
    /// Every member was answered.
    Served {
        /// Whether the outputs had the batch's rows. A batch of one call is answered even when
        /// they had not, but the lane learns from it.
        batched: bool,
    },
    /// No member was answered; here they all are.
    Failed(Vec<Member<P>>, Blame),
    /// Another instance was asked as well, and answered every member first.
    Overtaken,
    /// Nobody waits for any member any more.
    Cancelled,
}

/// Whose fault it is that a batch has no answer, which decides what becomes of its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The connection could not be made: the instance has seen nothing of it.
    Connection,
    /// The connection broke before the reply was whole: the instance may have died of it.
    Lost,
    /// The instance said that it has too much to do: back-pressure, not a fault.
    Overload {
        /// When it wants to be asked again, where it said so.
        retry_after: Option<Span>,
    },
    /// The instance answered that the request is wrong.
    Refused,
    /// The instance answered that it failed.
    Broken,
    /// No reply within the deadline of every member.
    TooSlow,
    /// An answer whose outputs do not have the batch's rows.
    NotBatched,
}

/// What a lane wants done.
#[derive(Debug)]
pub enum Effect<P> {
    /// Send a batch to an instance and tell what became of it.
    Dispatch(SlotId, InstanceId, Batch<P>),
    /// Tell the caller that there will be no answer.
    Refuse(Member<P>, RefuseReason),
    /// Give a batch up: nobody waits for any member any more.
    Abort(SlotId),
    /// Take the calls of a batch back, for it is overdue and another instance could serve them. What
    /// its instance still answers goes to nobody.
    Recall(SlotId),
    /// Ask a second instance for the answer to a batch, too. The first good answer counts, and what
    /// becomes of each request is told by a [`Event::Done`] of its own; the calls stay with the first.
    Hedge {
        /// The batch.
        slot: SlotId,
        /// The name of the second request.
        second: SlotId,
        /// Who is asked.
        instance: InstanceId,
    },
    /// Something that an operator wants to know.
    Notice(Notice),
    /// Run it where it holds nobody up, and tell what came of it.
    Calculate(Calculation),
}

/// Calls that ride together.
#[derive(Debug)]
pub struct Batch<P> {
    /// Its calls; at least one, all of one shape key.
    pub members: Vec<Member<P>>,
    /// Their rows in all.
    pub rows: u32,
    /// Why it was cut.
    pub cause: Cause,
}

/// Why a batch was cut when it was, and with the rows that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// It has all the rows that it may have.
    Full,
    /// A slot was free, nothing more waited and nothing was worth waiting for.
    Idle,
    /// It was held to keep the instances out of step.
    Balance,
    /// It was held to collect a clump of arrivals.
    Gather,
    /// It was held for the fixed delay that the user set.
    Delay,
    /// More waited, but so many rows are served best.
    Size,
    /// Bulk waits for more, but so many rows let urgent calls in sooner.
    Spread,
    /// To see how long so many rows take.
    Explore,
    /// To see how many batches the instance takes at once.
    Width,
    /// A call's deadline allowed no more waiting.
    Deadline,
    /// More rows would have missed the latency objective.
    Slo,
    /// It has all the bytes or tokens that it may have.
    Budget,
    /// Nothing more is accepted.
    Drain,
    /// Its call shares with nobody.
    Alone,
    /// To see whether the instance works again, or is fast again.
    Probe,
    /// It is a part of a batch that failed.
    Bisect,
}

impl Cause {
    /// Each cause, at the place of its number.
    pub const ALL: [Cause; 16] = [
        Cause::Full,
        Cause::Idle,
        Cause::Balance,
        Cause::Gather,
        Cause::Delay,
        Cause::Size,
        Cause::Spread,
        Cause::Explore,
        Cause::Width,
        Cause::Deadline,
        Cause::Slo,
        Cause::Budget,
        Cause::Drain,
        Cause::Alone,
        Cause::Probe,
        Cause::Bisect,
    ];

    /// As metrics and the status write it.
    pub const fn label(self) -> &'static str {
        match self {
            Cause::Full => "full",
            Cause::Idle => "idle",
            Cause::Balance => "balance",
            Cause::Gather => "gather",
            Cause::Delay => "delay",
            Cause::Size => "size",
            Cause::Spread => "spread",
            Cause::Explore => "explore",
            Cause::Width => "width",
            Cause::Deadline => "deadline",
            Cause::Slo => "slo",
            Cause::Budget => "budget",
            Cause::Drain => "drain",
            Cause::Alone => "alone",
            Cause::Probe => "probe",
            Cause::Bisect => "bisect",
        }
    }
}

/// Why a call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefuseReason {
    /// The queue is full.
    QueueFull,
    /// A more urgent call needed its place.
    Shed,
    /// The queue stands, and it would have waited too long.
    Standing,
    /// Its deadline passed while it waited.
    Deadline,
    /// Nothing is accepted any more.
    Draining,
    /// No instance is usable; the span says when it is worth asking again.
    NoInstance(Span),
    /// Its instances failed it as often as the plan allows; the last fault says how.
    Spent,
}

/// Calls that a lane refuses at this moment, whatever they ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnedAway {
    /// Of this priority, and of all that are less urgent down to the next.
    pub from_priority: u8,
    /// The least urgent priority that is meant.
    pub to_priority: u8,
    /// Of the first priority itself only those that are of the same tenant, where one is named here.
    pub tenant: Option<Option<TenantId>>,
    /// Why.
    pub reason: RefuseReason,
}

/// Something that an operator wants to know.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Notice {
    /// A breaker changed its state.
    Breaker(InstanceId, BreakerState),
    /// A call is tried again, for this blame.
    Retried(Blame),
    /// A batch failed and is tried in parts; so many rows.
    Bisected(u32),
    /// A batch is overdue; so many rows go to another instance.
    Recalled(InstanceId, u32),
    /// A batch of so many rows is slow to come back, and is sent to this instance as well.
    Hedged(InstanceId, u32),
    /// An instance answers again that had been too slow to wait for.
    Answered(InstanceId),
    /// An instance refuses batches of so many rows though their parts are served.
    LimitLearned(InstanceId, u32),
    /// Every call rides alone from now on.
    NotBatchable(Unshared),
}

/// How it came out that calls cannot share batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unshared {
    /// The configuration or an instance says so.
    Told,
    /// The outputs do not have the batch's rows.
    Seen,
}

/// A lane at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Calls that wait, by priority; index 0 is priority 1.
    pub waiting: Vec<u32>,
    /// Rows that wait.
    pub waiting_rows: u64,
    /// Bytes that wait.
    pub waiting_bytes: u64,
    /// The most rows that the next batch may have.
    pub batch_cap: u32,
    /// Whether calls share batches.
    pub batchable: bool,
    /// The instances.
    pub instances: Vec<InstanceView>,
    /// Batches cut so far, by cause.
    pub cuts: BTreeMap<Cause, u64>,
    /// What the policy has learned.
    pub learned: Learned,
}
