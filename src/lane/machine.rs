//! The machine made of the queue, the fleet, the limits and the trials.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::budget::Budget;
use super::event::{
    Cause, Effect, Event, InstanceChange, LanePlan, Notice, RefuseReason, SlotId, Snapshot,
    Unshared,
};
use super::fleet::{Fleet, Health, Prospect};
use super::offenders::{Offender, Offenders};
use super::overdue::{Lateness, Recall};
use super::policy::{Policy, Server};
use super::queue::Queue;
use super::standing::Standing;
use super::ticket::{CallId, Member, Payload, Place, ShapeKey, Ticket, Track};
use super::trial::{CaseId, Trials};
use super::waiting::Waiting;
use super::{InstanceId, Instant, Span};

/// The policy of one model. See the [module](super) for how it is driven.
///
/// # Invariants
/// - An accepted call leaves exactly once: dispatched, refused, or dropped when nobody waits for it.
/// - A batch has one shape key and at most the rows of the cap; a call without a key rides alone.
/// - No call past its deadline enters a batch.
/// - No free, admitted slot while a due batch waits.
/// - Slots in use never exceed the plan, but for one batch sent shortly ahead where it allows that; an open breaker gets nothing, a half-open one its probes.
/// - The queue is bounded in rows and bytes.
/// - After `next` has returned `None`, `wake_at` is in the future or absent.
/// - The same events at the same times have the same effects.
#[derive(Debug)]
pub struct Lane<P> {
    pub(super) plan: LanePlan,
    pub(super) policy: Box<dyn Policy>,
    pub(super) batches: Queue<P>,
    pub(super) streams: Queue<P>,
    pub(super) trials: Trials<P>,
    pub(super) fleet: Fleet,
    pub(super) budget: Budget,
    pub(super) flights: BTreeMap<SlotId, Flight>,
    /// When the batches on their way are overdue.
    pub(super) overdue: BTreeSet<(Instant, SlotId)>,
    pub(super) lateness: Lateness,
    /// When the batches on their way are sent to a second instance.
    pub(super) hedges: BTreeSet<(Instant, SlotId)>,
    pub(super) usual: Lateness,
    pub(super) effects: VecDeque<Effect<P>>,
    pub(super) batchable: bool,
    pub(super) draining: bool,
    pub(super) waiting: Waiting,
    pub(super) standing: Standing,
    /// Rows that are owed to the least urgent level, for what more urgent ones had.
    pub(super) owed_rows: f64,
    /// When calls of several priorities waited last.
    pub(super) mixed_at: Option<Instant>,
    /// When a stream of each priority came last.
    pub(super) stream_levels: BTreeMap<u8, Instant>,
    pub(super) next_slot: u64,
    pub(super) wake_at: Option<Instant>,
    /// The usable instances as the policy sees them, kept to be filled anew.
    pub(super) servers: Vec<Server>,
    pub(super) cuts: BTreeMap<Cause, u64>,
    pub(super) offenders: Offenders,
    /// Rows a nanosecond that all instances together can serve, as far as is known.
    pub(super) capacity: f64,
}

/// A batch on its way.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) instance: InstanceId,
    pub(super) track: Track,
    pub(super) rows: u32,
    pub(super) key: Option<ShapeKey>,
    /// The streams on their way to its instance, if it is one: itself among them.
    pub(super) streams: u32,
    /// Whether the first event of the stream has come.
    pub(super) begun: bool,
    pub(super) sent: Instant,
    pub(super) probe: bool,
    pub(super) case: Option<CaseId>,
    /// Set for a batch that took a slot which is not proven, or one too many.
    pub(super) overlap: Option<Overlap>,
    /// What it should take, where that is known and it has a slot to itself.
    pub(super) expected: Option<Span>,
    /// When it is overdue; once it was called back, when it is given up.
    pub(super) overdue_at: Option<Instant>,
    pub(super) recall: Recall,
    /// When it is sent to a second instance, too.
    pub(super) hedge_at: Option<Instant>,
    /// Whether its calls were lost with an instance before.
    pub(super) suspect: bool,
    /// Its calls, or the calls whose parts it has.
    pub(super) members: Vec<CallId>,
    pub(super) left: usize,
}

/// What to measure a batch by that is not alone on its instance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Overlap {
    /// What it would take by itself.
    pub(super) expected: Span,
    /// What the first of the others still needed when it was sent.
    pub(super) remaining: Span,
    /// Why it is not alone.
    pub(super) role: Role,
}

/// Why a batch is not alone on its instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It has a slot that is not proven yet.
    Unproven,
    /// The one before it was expected to be done in a moment.
    Ahead,
    /// To see whether the instance takes one more.
    Look,
}

impl<P: Payload> Lane<P> {
    /// A lane with nothing in it, whose instances are not known to be up yet.
    pub fn new(plan: LanePlan, policy: Box<dyn Policy>) -> Self {
        Self {
            fleet: Fleet::new(&plan),
            plan,
            policy,
            batches: Queue::new(),
            streams: Queue::new(),
            trials: Trials::new(),
            budget: Budget::new(),
            flights: BTreeMap::new(),
            overdue: BTreeSet::new(),
            lateness: Lateness::of_slowest(),
            hedges: BTreeSet::new(),
            usual: Lateness::of_usual(),
            effects: VecDeque::new(),
            batchable: true,
            draining: false,
            waiting: Waiting::default(),
            standing: Standing::default(),
            owed_rows: 0.0,
            mixed_at: None,
            stream_levels: BTreeMap::new(),
            next_slot: 0,
            wake_at: None,
            servers: Vec::new(),
            cuts: BTreeMap::new(),
            offenders: Offenders::default(),
            capacity: 0.0,
        }
    }

    /// Takes in what happened at `now`.
    pub fn on(&mut self, now: Instant, event: Event<P>) {
        match event {
            Event::Arrive(ticket, payload) => self.arrive(now, Member::new(ticket, payload)),
            Event::Leave(track, id) => self.leave(track, id),
            Event::Done(slot, outcome) => self.done(now, slot, outcome),
            Event::Recalled(slot, members) => self.recalled(now, slot, members),
            Event::FirstEvent(slot) => self.first_event(now, slot),
            Event::Instance(id, change) => self.change(now, id, change),
            Event::LimitTold(rows) => self.fleet.tell_limit(self.plan.max_batch_rows.or(rows)),
            Event::NotBatchable => self.stop_sharing(Unshared::Told),
            Event::Calculated(calculated) => self.policy.calculated(calculated),
            Event::Drain => self.draining = true,
        }
    }

    /// The next thing to be done; `None` when all is done that can be done at `now`.
    pub fn next(&mut self, now: Instant) -> Option<Effect<P>> {
        if self.effects.is_empty() {
            self.cut(now);
        }
        self.effects.pop_front()
    }

    /// When to call [`Lane::next`] again though nothing has happened.
    pub fn wake_at(&self) -> Option<Instant> {
        self.wake_at
    }

    /// Whether nothing waits and nothing is on its way.
    pub fn is_idle(&self) -> bool {
        self.flights.is_empty()
            && self.batches.is_empty()
            && self.streams.is_empty()
            && self.trials.is_empty()
            && self.effects.is_empty()
    }

    /// Calls that wait, by priority; index 0 is priority 1.
    pub fn waiting_by_priority(&self) -> &[u32] {
        &self.waiting.by_priority
    }

    /// Rows that wait.
    pub fn waiting_rows(&self) -> u64 {
        self.waiting.rows
    }

    /// The lane at this moment.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        Snapshot {
            waiting: self.waiting.by_priority.clone(),
            waiting_rows: self.waiting.rows,
            waiting_bytes: self.waiting.bytes,
            batch_cap: if self.batchable { self.fleet.cap(now) } else { 1 },
            batchable: self.batchable,
            instances: self.fleet.views(now).collect(),
            cuts: self.cuts.clone(),
            learned: self.policy.learned(now),
        }
    }

    fn arrive(&mut self, now: Instant, mut member: Member<P>) {
        member.ticket.objective = self
            .plan
            .objective
            .filter(|_| member.ticket.track == Track::Batch)
            .filter(|objective| member.ticket.priority <= objective.priority)
            .map(|objective| member.ticket.arrived + objective.within);
        if self.draining {
            return self.refuse(member, RefuseReason::Draining);
        }
        if let Prospect::None(retry_after) = self.fleet.prospect(now) {
            return self.refuse(member, RefuseReason::NoInstance(retry_after));
        }
        // Without a key it could not be cut, and one with more rows than a batch has to be. What has
        // worked is what is known of that.
        let fits = member.ticket.rows <= self.fleet.cap(now).min(self.fleet.worked().max(1));
        if !self.offenders.is_empty() && member.ticket.key.is_some() && fits {
            let call = offender(&member);
            if self.offenders.rides_alone(now, call) {
                member.ticket.key = None;
            }
        }
        let before = self.time_for(self.waiting.of(member.ticket.tenant));
        member.ticket.put_off = self.waiting.put_off(now, member.ticket.tenant, before);
        if self.comes_too_late(now, &member.ticket) {
            return self.refuse(member, RefuseReason::Deadline);
        }
        if self.waits_too_long(now, &member.ticket) {
            return self.refuse(member, RefuseReason::Standing);
        }
        if !self.make_room(now, &member.ticket) {
            return self.refuse(member, RefuseReason::QueueFull);
        }
        if member.ticket.track == Track::Stream {
            self.stream_levels.insert(member.ticket.priority, now);
        }
        self.policy.arrived(now, member.ticket.key.as_ref(), member.ticket.rows);
        self.enqueue(member);
    }

    /// How long the instances need for so many rows at least.
    pub(super) fn time_for(&self, rows: u64) -> Span {
        if self.capacity > 0.0 && rows > 0 {
            Span::from_nanos((rows as f64 / self.capacity) as u64)
        } else {
            Span::ZERO
        }
    }

    /// Whether a call could not be answered before its deadline even if everything before it went at
    /// full speed. One that could not even without them is tried all the same: it is as likely that
    /// what is known is wrong, and what is never tried is never learned.
    fn comes_too_late(&self, now: Instant, ticket: &Ticket) -> bool {
        let due = ticket.deadline;
        if due <= now {
            return true;
        }
        let least = self.policy.least_time(ticket.key.as_ref());
        let late_behind = |rows: u64| now + self.time_for(rows).plus(least) > due;
        // Those before it are only counted where they can matter.
        ticket.track == Track::Batch
            && now + least < due
            && late_behind(self.waiting.rows)
            && late_behind(self.waiting.rows_before(ticket.place()))
    }

    pub(super) fn enqueue(&mut self, member: Member<P>) {
        self.waiting.add(&member.ticket);
        self.queue(member.ticket.track).push(member);
    }

    pub(super) fn take_waiting(&mut self, track: Track, place: Place) -> Option<Member<P>> {
        let member = self.queue(track).remove(place)?;
        self.waiting.remove(&member.ticket, true);
        Some(member)
    }

    pub(super) fn queue(&mut self, track: Track) -> &mut Queue<P> {
        match track {
            Track::Batch => &mut self.batches,
            Track::Stream => &mut self.streams,
        }
    }

    pub(super) fn refuse(&mut self, member: Member<P>, reason: RefuseReason) {
        self.effects.push_back(Effect::Refuse(member, reason));
    }

    pub(super) fn notice(&mut self, notice: Notice) {
        self.effects.push_back(Effect::Notice(notice));
    }

    fn leave(&mut self, track: Track, id: CallId) {
        for member in self.queue(track).remove_call(id) {
            self.waiting.remove(&member.ticket, true);
        }
        while self.trials.remove(|member| member.ticket.id == id).is_some() {}
        for (&slot, flight) in &mut self.flights {
            let parts = flight.members.iter().filter(|&&member| member == id).count();
            flight.left += parts;
            if parts > 0 && flight.left == flight.members.len() {
                self.effects.push_back(Effect::Abort(slot));
            }
        }
    }

    fn change(&mut self, now: Instant, id: InstanceId, change: InstanceChange) {
        match change {
            InstanceChange::Health(health) => {
                self.fleet.set_health(now, id, health);
                if matches!(health, Health::Down | Health::Loading) {
                    self.refuse_hopeless(now);
                }
            }
            InstanceChange::Drained(drained) => {
                let before = self.fleet.breaker(id).map(|breaker| breaker.state());
                self.fleet.set_drained(now, id, drained);
                self.notice_breaker(id, before);
            }
            InstanceChange::Load(load) => self.fleet.tell_load(now, id, load),
            InstanceChange::BatchSlots(slots) => self.fleet.set_batch_slots(id, slots),
        }
    }

    /// From now on every call rides alone, several at once.
    pub(super) fn stop_sharing(&mut self, why: Unshared) {
        if std::mem::replace(&mut self.batchable, false) {
            for id in (0..self.plan.instances).map(InstanceId) {
                self.fleet.set_batch_slots(id, self.plan.alone_slots);
            }
            self.notice(Notice::NotBatchable(why));
        }
    }

    /// Refuses everything that waits when no instance is left to wait for.
    pub(super) fn refuse_hopeless(&mut self, now: Instant) {
        let Prospect::None(retry_after) = self.fleet.prospect(now) else { return };
        let mut hopeless: Vec<_> = self.batches.drain().chain(self.streams.drain()).collect();
        for member in &hopeless {
            self.waiting.remove(&member.ticket, true);
        }
        for trial in self.trials.drain() {
            hopeless.extend(trial.members);
            self.trials.given_up(trial.case, false);
        }
        for member in hopeless {
            // A call that was tried hears of what went wrong, not of what did not.
            let reason = match member.attempts {
                0 => RefuseReason::NoInstance(retry_after),
                _ => RefuseReason::Spent,
            };
            self.refuse(member, reason);
        }
    }
}

/// What is remembered of a call that spoils a batch.
pub(super) fn offender<P: Payload>(member: &Member<P>) -> Offender {
    Offender { signature: member.payload.signature(), tenant: member.ticket.tenant }
}
