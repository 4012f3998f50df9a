//! The world: a clock, callers and instances around one lane.

mod flights;

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::rc::Rc;

use batchwise::lane::{
    Adaptive, Blame, CallId, Effect, Event, FixedDelay, Health, HedgeDelay, InstanceChange,
    InstanceId, Instant, Lane, LanePlan, Member, Objective, Policy, RefuseReason, ShapeKey, SlotId,
    Span, Ticket, Track,
};

use self::flights::rows_of;
use crate::oracle::{Entry, Fate, Ledger, Part, settle_accounts};
use crate::random::Random;

/// The habits of a world.
#[derive(Clone, Debug)]
pub(crate) struct Habits {
    pub(crate) calls: usize,
    pub(crate) instances: u32,
    pub(crate) max_batch_rows: Option<u32>,
    /// Rows beyond which an instance refuses a batch.
    pub(crate) real_limit: u32,
    pub(crate) mean_gap: Span,
    pub(crate) shapes: u64,
    pub(crate) max_rows: u64,
    pub(crate) cancels: f64,
    pub(crate) poison: f64,
    pub(crate) resets: f64,
    pub(crate) overloads: f64,
    /// The share of batches that an instance answers after `freeze`, if at all.
    pub(crate) freezes: f64,
    pub(crate) freeze: Span,
    /// The share of calls that end the instance that works on them.
    pub(crate) killers: f64,
    pub(crate) alone: f64,
    pub(crate) deadline: Span,
    pub(crate) queue_rows: u64,
    /// Instances that may be down at the same time.
    pub(crate) outages: usize,
    /// What every batch and every row of it takes.
    pub(crate) service: (Span, Span),
    pub(crate) max_queue_delay: Option<Span>,
    pub(crate) max_batch_bytes: Option<u64>,
    pub(crate) objective: Option<Span>,
    /// Batches that are slow to come back are sent to a second instance, too.
    pub(crate) hedges: bool,
    /// Instances work on everything at once, so with this they get ever more batches.
    pub(crate) learn_slots: bool,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            calls: 10_000,
            instances: 3,
            max_batch_rows: Some(32),
            real_limit: u32::MAX,
            mean_gap: Span::from_nanos(500_000),
            shapes: 3,
            max_rows: 4,
            cancels: 0.0,
            poison: 0.0,
            resets: 0.0,
            overloads: 0.0,
            freezes: 0.0,
            freeze: Span::from_secs(5),
            killers: 0.0,
            alone: 0.0,
            deadline: Span::from_secs(30),
            queue_rows: 4096,
            outages: 0,
            service: (Span::from_millis(10), Span::from_nanos(500_000)),
            max_queue_delay: None,
            max_batch_bytes: None,
            objective: None,
            hedges: false,
            learn_slots: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Arrival,
    Cancel(usize),
    Finish(SlotId),
    Restart(InstanceId),
    Health(InstanceId, bool),
}

/// What a world has shown.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Report {
    pub(crate) answered: usize,
    pub(crate) refused: usize,
    pub(crate) cancelled: usize,
    pub(crate) poisoned: usize,
    pub(crate) killers: usize,
    /// Instances that were lost, the killers' part.
    pub(crate) killed: usize,
    pub(crate) recalled: usize,
    pub(crate) hedged: usize,
    /// Batches that the second instance answered first.
    pub(crate) overtaken: usize,
    /// Calls that waited longer than half the time after which a frozen instance goes on.
    pub(crate) late: usize,
    /// The longest that a call waited for its answer.
    pub(crate) longest: Span,
    pub(crate) batches: usize,
    pub(crate) failed_batches: usize,
    pub(crate) batched_rows: u64,
    pub(crate) reasons: BTreeMap<String, usize>,
    pub(crate) hash: u64,
}

struct Flying {
    instance: InstanceId,
    members: Vec<Member<Part>>,
    aborted: bool,
    /// Its instance was dead when it was sent, or died since.
    unreached: bool,
    lost: bool,
    /// The second request for the same calls, or the first one if this is the second.
    twin: Option<SlotId>,
    is_second: bool,
    /// It failed, but its twin may still answer.
    failed: Option<Blame>,
}

pub(crate) struct World {
    habits: Habits,
    random: Random,
    now: Instant,
    lane: Lane<Part>,
    ledger: Ledger,
    /// The rows that waited when each call came.
    backlogs: Vec<u64>,
    agenda: BinaryHeap<Reverse<(Instant, u64, Happening)>>,
    sequence: u64,
    flying: BTreeMap<SlotId, Flying>,
    broken: Vec<bool>,
    /// Killed, and not restarted yet.
    dead: Vec<bool>,
    report: Report,
}

impl World {
    pub(crate) fn run(habits: Habits, seed: u64) -> Report {
        let plan = LanePlan {
            instances: habits.instances,
            max_batch_rows: habits.max_batch_rows,
            max_batch_bytes: habits.max_batch_bytes,
            objective: habits.objective.map(|within| Objective { within, priority: 2 }),
            max_queue_rows: habits.queue_rows,
            max_queue_bytes: 1 << 40,
            hedge: habits.hedges.then_some(HedgeDelay::Learned),
            learn_slots: habits.learn_slots,
            alone_slots: 4,
            early_slot: true,
            ..LanePlan::default()
        };
        let policy: Box<dyn Policy> = match habits.max_queue_delay {
            Some(delay) => Box::new(FixedDelay::new(delay, habits.instances)),
            None => Box::new(Adaptive::new(habits.instances)),
        };
        let mut world = World {
            random: Random::new(seed),
            now: Instant::default(),
            lane: Lane::new(plan, policy),
            ledger: Rc::new(RefCell::new(Vec::new())),
            backlogs: Vec::new(),
            agenda: BinaryHeap::new(),
            sequence: 0,
            flying: BTreeMap::new(),
            broken: vec![false; habits.instances as usize],
            dead: vec![false; habits.instances as usize],
            report: Report::default(),
            habits,
        };
        world.live();
        let ledger = Rc::clone(&world.ledger);
        let mut report = std::mem::take(&mut world.report);
        assert!(world.lane.is_idle(), "seed {seed}: something is left in the lane");
        drop(world);
        (report.answered, report.refused, report.cancelled) = settle_accounts(&ledger);
        report
    }

    fn live(&mut self) {
        for id in 0..self.habits.instances {
            self.at(Span::from_millis(1), Happening::Health(InstanceId(id), true));
        }
        self.at(Span::ZERO, Happening::Arrival);
        loop {
            self.obey();
            let next = self.agenda.peek().map(|Reverse((at, ..))| *at);
            let wake = self.lane.wake_at();
            let Some(at) = [next, wake].into_iter().flatten().min() else { break };
            assert!(wake.is_none_or(|wake| wake > self.now), "the lane would spin");
            self.now = self.now.max(at);
            while let Some(Reverse((at, _, _))) = self.agenda.peek()
                && *at <= self.now
                && let Some(Reverse((_, _, happening))) = self.agenda.pop()
            {
                self.happen(happening);
            }
        }
    }

    fn at(&mut self, after: Span, happening: Happening) {
        self.sequence += 1;
        self.agenda.push(Reverse((self.now + after, self.sequence, happening)));
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrival => self.arrive(),
            Happening::Cancel(call) => {
                self.ledger.borrow_mut()[call].cancelled = true;
                self.lane.on(self.now, Event::Leave(Track::Batch, CallId(call as u64)));
            }
            Happening::Finish(slot) => self.finish(slot),
            Happening::Restart(id) => self.dead[id.0 as usize] = false,
            Happening::Health(id, up) => {
                self.broken[id.0 as usize] = !up;
                let health = if up { Health::Up } else { Health::Down };
                self.lane.on(self.now, Event::Instance(id, InstanceChange::Health(health)));
            }
        }
    }

    fn arrive(&mut self) {
        let call = self.backlogs.len();
        let rows = 1 + self.random.below(self.habits.max_rows) as u32;
        let shape = self.random.below(self.habits.shapes);
        let alone = self.random.chance(self.habits.alone);
        let key = (!alone).then(|| ShapeKey::new(&shape.to_le_bytes()));
        let ticket = Ticket {
            id: CallId(call as u64),
            track: Track::Batch,
            key: key.clone(),
            rows,
            first_row: 0,
            bytes: u64::from(rows) * 100,
            longest_tokens: 0,
            priority: 1 + self.random.below(3) as u8,
            arrived: self.now,
            deadline: self.now + self.habits.deadline,
            tenant: None,
            objective: None,
            put_off: Span::ZERO,
            affinity: None,
        };
        let poison = self.random.chance(self.habits.poison);
        self.report.poisoned += usize::from(poison);
        let killer = self.random.chance(self.habits.killers);
        self.report.killers += usize::from(killer);
        self.backlogs.push(self.lane.waiting_rows());
        self.ledger.borrow_mut().push(Entry {
            rows: vec![Fate::Waiting; rows as usize],
            cancelled: false,
            poison,
            killer,
            key,
        });
        let part = Part { call, rows: 0..rows, ledger: Rc::clone(&self.ledger) };
        self.lane.on(self.now, Event::Arrive(ticket, part));
        if self.random.chance(self.habits.cancels) {
            let after = self.random.exponential(20e6) as u64;
            self.at(Span::from_nanos(after), Happening::Cancel(call));
        }
        let down = self.broken.iter().filter(|&&broken| broken).count();
        if down < self.habits.outages && self.random.chance(0.001) {
            let id = InstanceId(self.random.below(u64::from(self.habits.instances)) as u32);
            self.at(Span::ZERO, Happening::Health(id, false));
            self.at(Span::from_millis(300), Happening::Health(id, true));
        }
        if call + 1 < self.habits.calls {
            let mean = self.habits.mean_gap.as_nanos() as f64;
            let gap = self.random.exponential(mean) as u64;
            self.at(Span::from_nanos(gap), Happening::Arrival);
        }
    }

    /// Does what the lane wants, and checks that it wants nothing that it must not.
    fn obey(&mut self) {
        while let Some(effect) = self.lane.next(self.now) {
            match effect {
                Effect::Dispatch(slot, instance, batch) => {
                    self.check(instance, &batch.members, batch.rows);
                    self.note(slot.0 ^ u64::from(batch.rows) << 32);
                    self.report.batches += 1;
                    self.report.batched_rows += u64::from(batch.rows);
                    self.fly(slot, instance, batch.rows, batch.members);
                }
                Effect::Hedge { slot, second, instance } => {
                    let Some(first) = self.flying.get_mut(&slot) else { continue };
                    assert!(first.instance != instance, "asked the same instance twice");
                    first.twin = Some(second);
                    let rows = rows_of(&first.members);
                    self.report.hedged += 1;
                    self.fly(second, instance, rows, Vec::new());
                    if let Some(flying) = self.flying.get_mut(&second) {
                        flying.twin = Some(slot);
                        flying.is_second = true;
                    }
                }
                Effect::Refuse(member, reason) => {
                    self.note(member.ticket.id.0);
                    if reason == RefuseReason::Deadline {
                        let given = member.ticket.objective.is_some();
                        assert!(
                            given || self.is_hopeless(&member),
                            "refused {:?} before its deadline with {} rows waiting",
                            member.ticket.deadline.since(self.now),
                            self.backlogs[member.payload.call].max(self.lane.waiting_rows())
                        );
                    }
                    let name =
                        format!("{reason:?}").split('(').next().unwrap_or_default().to_owned();
                    *self.report.reasons.entry(name).or_default() += 1;
                    let call = member.payload.call;
                    let gone = self.ledger.borrow()[call].cancelled;
                    member.payload.settle(if gone { Fate::Dropped } else { Fate::Refused });
                }
                Effect::Abort(slot) => {
                    if let Some(flying) = self.flying.get_mut(&slot) {
                        flying.aborted = true;
                        self.at(Span::ZERO, Happening::Finish(slot));
                    }
                }
                Effect::Recall(slot) => {
                    self.report.recalled += 1;
                    let flying = self.flying.get_mut(&slot);
                    let members = flying.map(|flying| std::mem::take(&mut flying.members));
                    self.lane.on(self.now, Event::Recalled(slot, members.unwrap_or_default()));
                    self.part(slot);
                }
                Effect::Notice(_) => {}
                Effect::Calculate(calculation) => {
                    self.lane.on(self.now, Event::Calculated(calculation.run()));
                }
            }
        }
    }

    /// Whether a call that comes behind everything may be too late even if all usable instances work
    /// at full speed.
    fn is_hopeless(&self, member: &Member<Part>) -> bool {
        let (base, per_row) = self.habits.service;
        let rows = f64::from(self.habits.max_batch_rows.unwrap_or(32).min(self.habits.real_limit));
        let batch = base.as_nanos() as f64 + rows * per_row.as_nanos() as f64;
        let waiting = self.backlogs[member.payload.call].max(self.lane.waiting_rows());
        let most = batch * (1.0 + 1.3 * waiting as f64 / rows);
        member.ticket.deadline <= self.now + Span::from_nanos(most as u64)
    }

    fn note(&mut self, value: u64) {
        let hash = &mut self.report.hash;
        *hash = (*hash ^ value ^ self.now.as_nanos()).wrapping_mul(0x0100_0000_01b3);
    }

    fn check(&self, instance: InstanceId, members: &[Member<Part>], rows: u32) {
        assert!(!members.is_empty());
        let sum: u32 = members.iter().map(|member| member.ticket.rows).sum();
        assert_eq!(sum, rows);
        let keys: Vec<_> = members
            .iter()
            .map(|part| self.ledger.borrow()[part.payload.call].key.clone())
            .collect();
        if members.len() > 1 {
            assert!(keys[0].is_some(), "a call without a key must ride alone");
        }
        assert!(keys.iter().all(|key| *key == keys[0]), "two shapes in one batch");
        if let (Some(max), Some(_)) = (self.habits.max_batch_rows, &keys[0]) {
            assert!(rows <= max, "{rows} rows in a batch of at most {max}");
        }
        if let Some(most) = self.habits.max_batch_bytes {
            let bytes: u64 = members.iter().map(|member| member.ticket.bytes).sum();
            // One row cannot be cut, and neither can a call without rows in common.
            let whole = members.len() == 1 && (rows == 1 || keys[0].is_none());
            assert!(bytes <= most || whole, "{bytes} bytes in a batch of at most {most}");
        }
        for member in members {
            assert_eq!(member.ticket.rows as usize, member.payload.rows.len());
            assert!(member.ticket.deadline > self.now, "too late to be sent");
        }
        let batches = self.flying.values().filter(|flying| flying.instance == instance);
        let most = if self.habits.learn_slots { 33 } else { 4 };
        assert!(batches.count() < most, "more batches on their way than slots");
    }
}
