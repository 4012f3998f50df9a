//! The machine made of the queue, the fleet, the limits and the trials.

use std::collections::{BTreeMap, VecDeque};

use super::breaker::Admission;
use super::budget::Budget;
use super::event::{
    Batch, Cause, Effect, Event, InstanceChange, LanePlan, Notice, RefuseReason, SlotId, Snapshot,
    Unshared,
};
use super::fleet::{Early, Fleet, Health, Prospect};
use super::limit::SizeLimit;
use super::policy::{Decision, Policy, View};
use super::queue::Queue;
use super::ticket::{Member, Payload, Place, Ticket, Track};
use super::trial::{CaseId, Trials};
use super::{InstanceId, Instant};

/// The policy of one model. See the [module](super) for how it is driven.
///
/// # Invariants
/// - An accepted call leaves exactly once: dispatched, refused, or dropped when nobody waits for it.
/// - A batch has one shape key and at most the rows of the cap; a call without a key rides alone.
/// - No call past its deadline enters a batch.
/// - No free, admitted slot while a due batch waits.
/// - Slots in use never exceed the plan, but for one full batch sent early where it allows that; an open breaker gets nothing, a half-open one its probes.
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
    pub(super) limit: SizeLimit,
    pub(super) budget: Budget,
    pub(super) flights: BTreeMap<SlotId, Flight>,
    pub(super) effects: VecDeque<Effect<P>>,
    pub(super) batchable: bool,
    draining: bool,
    waiting: Waiting,
    next_slot: u64,
    wake_at: Option<Instant>,
}

/// A batch on its way.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) instance: InstanceId,
    pub(super) track: Track,
    pub(super) rows: u32,
    pub(super) sent: Instant,
    pub(super) probe: bool,
    pub(super) case: Option<CaseId>,
    /// Its calls, or the calls whose parts it has.
    pub(super) members: Vec<Place>,
    pub(super) left: usize,
}

/// What waits in all queues together.
#[derive(Debug, Default)]
struct Waiting {
    rows: u64,
    bytes: u64,
    by_priority: Vec<u32>,
}

impl Waiting {
    fn add(&mut self, ticket: &Ticket) {
        self.rows += u64::from(ticket.rows);
        self.bytes += ticket.bytes;
        let level = usize::from(ticket.priority.max(1));
        if self.by_priority.len() < level {
            self.by_priority.resize(level, 0);
        }
        if let Some(count) = self.by_priority.get_mut(level - 1) {
            *count += 1;
        }
    }

    fn remove(&mut self, ticket: &Ticket, whole: bool) {
        self.rows = self.rows.saturating_sub(u64::from(ticket.rows));
        self.bytes = self.bytes.saturating_sub(ticket.bytes);
        if whole
            && let Some(count) = self.by_priority.get_mut(usize::from(ticket.priority.max(1)) - 1)
        {
            *count = count.saturating_sub(1);
        }
    }
}

impl<P: Payload> Lane<P> {
    /// A lane with nothing in it, whose instances are not known to be up yet.
    pub fn new(plan: LanePlan, policy: Box<dyn Policy>) -> Self {
        Self {
            fleet: Fleet::new(plan.instances, plan.breaker, plan.batch_slots, plan.stream_slots),
            limit: SizeLimit::new(plan.max_batch_rows),
            plan,
            policy,
            batches: Queue::new(),
            streams: Queue::new(),
            trials: Trials::new(),
            budget: Budget::new(),
            flights: BTreeMap::new(),
            effects: VecDeque::new(),
            batchable: true,
            draining: false,
            waiting: Waiting::default(),
            next_slot: 0,
            wake_at: None,
        }
    }

    /// Takes in what happened at `now`.
    pub fn on(&mut self, now: Instant, event: Event<P>) {
        match event {
            Event::Arrive(ticket, payload) => self.arrive(now, Member::new(ticket, payload)),
            Event::Leave(track, place) => self.leave(track, place),
            Event::Done(slot, outcome) => self.done(now, slot, outcome),
            Event::Instance(id, change) => self.change(now, id, change),
            Event::LimitTold(rows) => self.limit.tell(self.plan.max_batch_rows.or(rows)),
            Event::NotBatchable => self.stop_sharing(Unshared::Told),
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
            batch_cap: if self.batchable { self.limit.cap(now) } else { 1 },
            batchable: self.batchable,
            instances: self.fleet.views().collect(),
        }
    }

    fn arrive(&mut self, now: Instant, member: Member<P>) {
        if self.draining {
            return self.refuse(member, RefuseReason::Draining);
        }
        if let Prospect::None(retry_after) = self.fleet.prospect(now) {
            return self.refuse(member, RefuseReason::NoInstance(retry_after));
        }
        while !self.has_room(&member.ticket) {
            let queue = if self.batches.is_empty() { &self.streams } else { &self.batches };
            let victim = queue.last().map(|last| (&last.ticket, last.ticket.place()));
            match victim {
                Some((ticket, place)) if ticket.priority > member.ticket.priority => {
                    let track = ticket.track;
                    if let Some(victim) = self.take_waiting(track, place) {
                        self.refuse(victim, RefuseReason::Shed);
                    }
                }
                _ => return self.refuse(member, RefuseReason::QueueFull),
            }
        }
        self.enqueue(member);
    }

    /// The first call always fits: one that is larger than the whole bound would else never be
    /// served, and its size was bounded at the door.
    fn has_room(&self, ticket: &Ticket) -> bool {
        self.waiting.rows == 0
            || self.waiting.rows + u64::from(ticket.rows) <= self.plan.max_queue_rows
                && self.waiting.bytes + ticket.bytes <= self.plan.max_queue_bytes
    }

    pub(super) fn enqueue(&mut self, member: Member<P>) {
        self.waiting.add(&member.ticket);
        self.queue(member.ticket.track).push(member);
    }

    fn take_waiting(&mut self, track: Track, place: Place) -> Option<Member<P>> {
        let member = self.queue(track).remove(place)?;
        self.waiting.remove(&member.ticket, true);
        Some(member)
    }

    fn queue(&mut self, track: Track) -> &mut Queue<P> {
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

    fn leave(&mut self, track: Track, place: Place) {
        for member in self.queue(track).remove_call(place) {
            self.waiting.remove(&member.ticket, true);
        }
        while self.trials.remove(|member| member.ticket.id == place.id()).is_some() {}
        for (&slot, flight) in &mut self.flights {
            let parts = flight.members.iter().filter(|member| member.id() == place.id()).count();
            flight.left += parts;
            if parts > 0 && flight.left == flight.members.len() {
                self.effects.push_back(Effect::Abort(slot));
            }
        }
    }

    fn change(&mut self, now: Instant, id: InstanceId, change: InstanceChange) {
        match change {
            InstanceChange::Health(health) => {
                self.fleet.set_health(id, health);
                if health == Health::Down {
                    self.refuse_hopeless(now);
                }
            }
            InstanceChange::Drained(drained) => self.fleet.set_drained(id, drained),
            InstanceChange::BatchSlots(slots) => self.fleet.set_batch_slots(id, slots),
        }
    }

    /// From now on every call rides alone, several at once.
    pub(super) fn stop_sharing(&mut self, why: Unshared) {
        if std::mem::replace(&mut self.batchable, false) {
            let ids: Vec<_> = self.fleet.views().map(|view| view.id).collect();
            for id in ids {
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

    /// Cuts one batch if one is due, and notes when to look again.
    fn cut(&mut self, now: Instant) {
        self.wake_at = None;
        self.drop_abandoned(now);
        if !self.effects.is_empty() {
            return;
        }
        let cut = self.cut_trial(now) || self.cut_stream(now) || self.cut_batch(now);
        let waits = !self.batches.is_empty() || !self.streams.is_empty() || !self.trials.is_empty();
        if !cut && waits {
            let fleet = self.fleet.wake_at(now);
            self.wake_at = [self.wake_at, fleet].into_iter().flatten().min();
        }
    }

    /// Looks at the head of each queue for callers that have gone and deadlines that have passed.
    fn drop_abandoned(&mut self, now: Instant) {
        for track in [Track::Stream, Track::Batch] {
            while let Some(place) = self.queue(track).first(|_| true).and_then(|head| {
                let stale = head.payload.is_abandoned() || head.ticket.deadline <= now;
                stale.then(|| head.ticket.place())
            }) {
                let Some(member) = self.take_waiting(track, place) else { break };
                if !member.payload.is_abandoned() {
                    self.refuse(member, RefuseReason::Deadline);
                }
            }
        }
    }

    fn cut_trial(&mut self, now: Instant) -> bool {
        while let Some(mut trial) = self.trials.pop() {
            trial.members = self.still_due(now, trial.members);
            if trial.members.is_empty() {
                let verdict = self.trials.given_up(trial.case, false);
                self.judge(now, verdict);
                continue;
            }
            let Some((instance, _)) = self.fleet.choose(now, Track::Batch, None) else {
                self.trials.put_back(trial);
                return false;
            };
            self.dispatch(now, instance, trial.members, Cause::Trial, Some(trial.case));
            return true;
        }
        false
    }

    fn cut_stream(&mut self, now: Instant) -> bool {
        let Some(head) = self.streams.first(|_| true) else { return false };
        let (place, avoid) = (head.ticket.place(), head.avoid);
        let Some((instance, _)) = self.fleet.choose(now, Track::Stream, avoid) else {
            return false;
        };
        let members = self.take_waiting(Track::Stream, place).into_iter().collect();
        self.dispatch(now, instance, members, Cause::Alone, None);
        true
    }

    fn cut_batch(&mut self, now: Instant) -> bool {
        let Some(avoid) = self.batches.first(|_| true).map(|head| head.avoid) else {
            return false;
        };
        // The head waits for another instance; who does not mind this one may have it.
        let choose = |avoid| self.fleet.choose(now, Track::Batch, avoid);
        let free = choose(avoid).or_else(|| choose(None));
        let Some((instance, admission)) = free.or_else(|| self.choose_early(now)) else {
            return false;
        };
        let cap = match admission {
            Admission::Batches(ramp) => self.limit.cap(now).min(ramp),
            Admission::Probe | Admission::Nothing(_) => 1,
        };
        let other = self.fleet.has_other(now, instance);
        let eligible = |member: &Member<P>| !(other && member.avoid == Some(instance));
        let Some(head) = self.batches.first(eligible) else { return false };
        let Some((place, rows)) = self.decide(now, head.ticket.place(), cap, admission) else {
            return false;
        };
        let members = self.take_batch(place, rows, instance);
        let shared = members.first().is_some_and(|first| first.ticket.key.is_some());
        let total: u32 = members.iter().map(|member| member.ticket.rows).sum();
        let cause = match (shared && self.batchable, total >= cap) {
            (false, _) => Cause::Alone,
            (true, true) => Cause::Full,
            (true, false) => Cause::Idle,
        };
        let fresh = self.still_due(now, members);
        if !fresh.is_empty() {
            self.dispatch(now, instance, fresh, cause, None);
        }
        true
    }

    /// Where a full batch waits and no slot is free: an instance whose running batch is about to
    /// end, so that it does not idle while the next one travels. Nothing is lost by binding a full
    /// batch that early but a moment in which a more urgent call might have come.
    fn choose_early(&mut self, now: Instant) -> Option<(InstanceId, Admission)> {
        // While the limit is being learned, one batch at a time finds it out.
        if !self.plan.early_slot || !self.batchable || !self.limit.is_told() {
            return None;
        }
        let head = self.batches.first(|_| true)?;
        let full = self.batches.company(head).rows >= u64::from(self.limit.cap(now));
        if head.ticket.key.is_none() || head.avoid.is_some() || !full {
            return None;
        }
        match self.fleet.early(now) {
            Early::Now(instance) => Some((instance, Admission::Batches(u32::MAX))),
            Early::At(at) => {
                self.wake_at = Some(at);
                None
            }
            Early::Never => None,
        }
    }

    /// Asks the policy about the most urgent call; where it holds, about the most urgent call of
    /// each other shape, so that one that waits for company does not hold up a full batch.
    fn decide(
        &mut self,
        now: Instant,
        first: Place,
        cap: u32,
        admission: Admission,
    ) -> Option<(Place, u32)> {
        let free_instances = self.fleet.free(now);
        let mut view = |member: &Member<P>| {
            if member.ticket.key.is_none() || !self.batchable || admission == Admission::Probe {
                return Decision::Send(cap);
            }
            self.policy.decide(&View {
                now,
                waiting_rows: self.batches.company(member).rows,
                oldest: member.ticket.arrived,
                cap,
                free_instances,
                draining: self.draining,
            })
        };
        let head = self.batches.first(|member| member.ticket.place() == first)?;
        let mut wake_at = match view(head) {
            Decision::Send(rows) => return Some((first, rows)),
            Decision::Hold(until) => until,
        };
        for head in self.batches.heads() {
            match view(head) {
                Decision::Send(rows) => return Some((head.ticket.place(), rows)),
                Decision::Hold(until) => wake_at = wake_at.min(until),
            }
        }
        self.wake_at = Some(wake_at);
        None
    }

    /// Keeps those that somebody still waits for.
    fn still_due(&mut self, now: Instant, members: Vec<Member<P>>) -> Vec<Member<P>> {
        let mut due = Vec::with_capacity(members.len());
        for member in members {
            if member.payload.is_abandoned() {
                continue;
            }
            if member.ticket.deadline > now {
                due.push(member);
            } else {
                self.refuse(member, RefuseReason::Deadline);
            }
        }
        due
    }

    fn take_batch(&mut self, place: Place, rows: u32, instance: InstanceId) -> Vec<Member<P>> {
        let before = self.batches.len();
        let members = self.batches.take(place, rows, self.batchable, instance);
        let whole = before - self.batches.len() == members.len();
        for member in &members {
            self.waiting.remove(&member.ticket, whole);
        }
        members
    }

    fn dispatch(
        &mut self,
        now: Instant,
        instance: InstanceId,
        members: Vec<Member<P>>,
        cause: Cause,
        case: Option<CaseId>,
    ) {
        let Some(first) = members.first() else { return };
        let track = first.ticket.track;
        let rows = members.iter().map(|member| member.ticket.rows).sum();
        let slot = SlotId(self.next_slot);
        self.next_slot += 1;
        let before = self.fleet.breaker(instance).map(|breaker| breaker.state());
        let probe = self.fleet.sent(now, instance, track, rows);
        self.notice_breaker(instance, before);
        let places = members.iter().map(|member| member.ticket.place()).collect();
        self.flights.insert(
            slot,
            Flight { instance, track, rows, sent: now, probe, case, members: places, left: 0 },
        );
        self.effects.push_back(Effect::Dispatch(slot, instance, Batch { members, rows, cause }));
    }
}
