//! Who goes first: priorities, deadlines, tenants, and who gives way when there is no room.

use std::collections::VecDeque;

use batchwise::lane::{
    Adaptive, Blame, CallId, Effect, Event, Health, InstanceChange, InstanceId, Instant, Lane,
    LanePlan, Member, Outcome, Payload, RefuseReason, ShapeKey, SlotId, Span, TenantId, Ticket,
    Track,
};

/// What every batch takes, whatever it has.
const BATCH: Span = Span::from_millis(10);
/// Rows in a batch.
const ROWS: u32 = 4;

/// A call that asks for a number.
struct Asked(u64);

impl Payload for Asked {
    fn split_off(&mut self, _rows: u32) -> Self {
        Self(self.0)
    }

    fn is_abandoned(&self) -> bool {
        false
    }

    fn signature(&self) -> u64 {
        self.0
    }
}

/// What a call says of itself; its number is what it asks for.
#[derive(Clone, Copy)]
struct Terms {
    asks: u64,
    priority: u8,
    tenant: Option<u64>,
    within: Span,
}

const USUAL: Terms = Terms { asks: 0, priority: 2, tenant: None, within: Span::from_secs(30) };

/// One instance, known to take 10 ms for a batch of up to four, behind a lane.
struct Counter {
    lane: Lane<Asked>,
    now: Instant,
    calls: Vec<Terms>,
    running: VecDeque<(SlotId, Vec<Member<Asked>>)>,
    refused: Vec<(u64, RefuseReason)>,
    /// Batches that have one of these fail.
    bad: fn(u64) -> bool,
    /// And those with more rows.
    most_rows: u32,
}

impl Counter {
    fn open(max_queue_rows: u64) -> Self {
        Self::planned(LanePlan {
            max_batch_rows: Some(ROWS),
            max_queue_rows,
            ..LanePlan::default()
        })
    }

    fn planned(plan: LanePlan) -> Self {
        let mut counter = Self {
            lane: Lane::new(plan, Box::new(Adaptive::new(1))),
            now: Instant::default(),
            calls: Vec::new(),
            running: VecDeque::new(),
            refused: Vec::new(),
            bad: |_| false,
            most_rows: u32::MAX,
        };
        let up = InstanceChange::Health(Health::Up);
        counter.lane.on(counter.now, Event::Instance(InstanceId(0), up));
        for _ in 0..40 {
            counter.call(USUAL);
            counter.serve();
        }
        counter.refused.clear();
        counter
    }

    fn call(&mut self, terms: Terms) -> u64 {
        self.call_of(1, terms)
    }

    fn call_of(&mut self, rows: u32, terms: Terms) -> u64 {
        let id = self.calls.len() as u64;
        self.calls.push(terms);
        self.now = self.now + Span::from_nanos(1000);
        let ticket = Ticket {
            id: CallId(id),
            track: Track::Batch,
            key: Some(ShapeKey::new(b"row")),
            rows,
            first_row: 0,
            bytes: 1,
            longest_tokens: 0,
            priority: terms.priority,
            arrived: self.now,
            deadline: self.now + terms.within,
            tenant: terms.tenant.map(TenantId),
            objective: None,
            put_off: Span::ZERO,
            affinity: None,
        };
        self.lane.on(self.now, Event::Arrive(ticket, Asked(terms.asks)));
        self.obey();
        id
    }

    fn obey(&mut self) {
        while let Some(effect) = self.lane.next(self.now) {
            match effect {
                Effect::Dispatch(slot, _, batch) => self.running.push_back((slot, batch.members)),
                Effect::Refuse(member, reason) => self.refused.push((member.ticket.id.0, reason)),
                Effect::Calculate(calculation) => {
                    self.lane.on(self.now, Event::Calculated(calculation.run()));
                }
                Effect::Abort(_) | Effect::Recall(_) | Effect::Hedge { .. } | Effect::Notice(_) => {
                }
            }
        }
    }

    /// Lets the running batch end; returns what was in it.
    fn serve(&mut self) -> Vec<u64> {
        self.now = self.now + BATCH;
        let Some((slot, members)) = self.running.pop_front() else { return Vec::new() };
        let calls: Vec<u64> = members.iter().map(|member| member.ticket.id.0).collect();
        let rows: u32 = members.iter().map(|member| member.ticket.rows).sum();
        let spoiled =
            rows > self.most_rows || members.iter().any(|member| (self.bad)(member.payload.0));
        let outcome = if spoiled {
            Outcome::Failed(members, Blame::Broken)
        } else {
            Outcome::Served { batched: true }
        };
        self.lane.on(self.now, Event::Done(slot, outcome));
        self.obey();
        calls
    }

    /// Serves everything; returns it in the order in which it went.
    fn serve_all(&mut self) -> Vec<u64> {
        let mut order = Vec::new();
        while !self.running.is_empty() {
            order.extend(self.serve());
        }
        order
    }
}

#[test]
fn the_sooner_deadline_goes_first_within_a_priority_and_never_before_a_more_urgent_one() {
    let mut counter = Counter::open(1000);
    let running = counter.call(USUAL);
    let late = counter.call(USUAL);
    let soon = counter.call(Terms { within: Span::from_millis(200), ..USUAL });
    let bulk = counter.call(Terms { priority: 3, within: Span::from_millis(150), ..USUAL });
    let urgent = counter.call(Terms { priority: 1, ..USUAL });
    assert_eq!(counter.serve_all(), [running, urgent, soon, late, bulk]);
}

/// One tenant has four hundred calls waiting when another sends a few: these do not wait for all that.
#[test]
fn a_tenant_with_much_waiting_does_not_hold_up_another() {
    let mut counter = Counter::open(1000);
    let flood = Terms { tenant: Some(1), ..USUAL };
    for _ in 0..400 {
        counter.call(flood);
    }
    let few: Vec<u64> = (0..8).map(|_| counter.call(Terms { tenant: Some(2), ..USUAL })).collect();
    let order = counter.serve_all();
    let last = order.iter().rposition(|call| few.contains(call)).unwrap();
    assert!(last < 32, "the last of eight calls was the {last}th to be served");
}

/// Both send more than can be served, one of them nine times as much as the other.
#[test]
fn tenants_that_flood_share_alike() {
    let mut counter = Counter::open(200);
    let (mut served, mut meek) = (0, 0);
    for round in 0..600 {
        for call in 0..10 {
            let tenant = Some(u64::from((call + round) % 10 == 0));
            counter.call(Terms { tenant, ..USUAL });
        }
        for call in counter.serve() {
            let is_meek = counter.calls[call as usize].tenant == Some(1);
            served += u32::from(round > 200);
            meek += u32::from(round > 200 && is_meek);
        }
    }
    // It sends one call for each batch of four, and half of them would be its due.
    let share = f64::from(meek) / f64::from(served);
    assert!(share > 0.22, "{share} of what was served, though all that it sent is 0.25");
}

#[test]
fn bulk_does_not_starve() {
    let mut counter = Counter::open(200);
    let (mut served, mut bulk) = (0, 0);
    for _ in 0..1000 {
        for _ in 0..ROWS {
            counter.call(Terms { priority: 1, ..USUAL });
        }
        counter.call(Terms { priority: 3, ..USUAL });
        for call in counter.serve() {
            served += 1;
            bulk += u32::from(counter.calls[call as usize].priority == 3);
        }
    }
    let share = f64::from(bulk) / f64::from(served);
    assert!((0.05..0.08).contains(&share), "bulk has {share}");
}

/// A queue that the most urgent fill several times over still lets a batch of bulk in.
#[test]
fn bulk_is_let_in_however_full_the_queue_is() {
    let mut counter = Counter::open(200);
    let (mut served, mut bulk) = (0, 0);
    for _ in 0..1000 {
        for _ in 0..5 * ROWS {
            counter.call(Terms { priority: 1, ..USUAL });
            counter.call(Terms { priority: 3, ..USUAL });
        }
        for call in counter.serve() {
            served += 1;
            bulk += u32::from(counter.calls[call as usize].priority == 3);
        }
    }
    let share = f64::from(bulk) / f64::from(served);
    assert!((0.05..0.08).contains(&share), "bulk has {share}");
}

#[test]
fn what_cannot_be_answered_in_time_is_refused_at_once() {
    let mut counter = Counter::open(1000);
    // 100 batches of 10 ms.
    for _ in 0..400 {
        counter.call(USUAL);
    }
    // It goes before all others, so it is in time.
    counter.call(Terms { within: Span::from_millis(100), ..USUAL });
    assert!(counter.refused.is_empty());
    // This one does not.
    let bulk = counter.call(Terms { priority: 3, within: Span::from_millis(500), ..USUAL });
    assert_eq!(counter.refused.last(), Some(&(bulk, RefuseReason::Deadline)));
}

#[test]
fn who_has_most_gives_way_where_there_is_no_room() {
    let mut counter = Counter::open(100);
    counter.call(USUAL);
    for _ in 0..100 {
        counter.call(Terms { tenant: Some(1), ..USUAL });
    }
    assert!(counter.refused.is_empty());
    let mine = counter.call(Terms { tenant: Some(1), ..USUAL });
    assert_eq!(counter.refused.last(), Some(&(mine, RefuseReason::QueueFull)));
    counter.call(Terms { tenant: Some(2), ..USUAL });
    assert_eq!(counter.refused.last(), Some(&(mine - 1, RefuseReason::Shed)));
}

/// The same bad input comes again and again, as from a client that repeats what failed: it is looked
/// for once.
#[test]
fn an_input_that_has_spoiled_a_batch_rides_alone() {
    let mut counter = Counter::open(1000);
    counter.bad = |asks| asks == 666;
    let mut batches = 0;
    for _ in 0..10 {
        for _ in 0..7 {
            counter.call(USUAL);
        }
        counter.call(Terms { asks: 666, ..USUAL });
        while !counter.running.is_empty() {
            counter.serve();
            batches += 1;
        }
    }
    assert_eq!(counter.refused.len(), 10, "{:?}", counter.refused);
    // Three batches a round (1, 4, 2), one for the bad input, and the search in the first round.
    assert!(batches <= 10 * 4 + 6, "{batches} batches");
}

/// A call with more rows than a batch is cut, whatever its input has done before.
#[test]
fn an_offender_that_must_be_cut_is_cut() {
    let mut counter = Counter::open(1000);
    counter.bad = |asks| asks == 666;
    for _ in 0..3 {
        counter.call(USUAL);
    }
    counter.call(Terms { asks: 666, ..USUAL });
    counter.serve_all();
    counter.bad = |_| false;
    counter.call_of(3 * ROWS, Terms { asks: 666, ..USUAL });
    assert!(counter.running.iter().all(|(_, members)| members[0].ticket.rows <= ROWS));
    assert_eq!(counter.serve_all().len(), 3, "in three parts");
}

/// Nor can one be kept whole that has more rows than anything that has worked: what it is refused for may
/// be its size.
#[test]
fn an_offender_with_more_rows_than_have_worked_is_cut_when_it_is_refused() {
    let mut counter = Counter::planned(LanePlan::default());
    counter.bad = |asks| asks == 666;
    for _ in 0..3 {
        counter.call(USUAL);
    }
    counter.call(Terms { asks: 666, ..USUAL });
    counter.serve_all();
    (counter.bad, counter.most_rows) = (|_| false, 3);
    counter.refused.clear();
    let large = counter.call_of(4, Terms { asks: 666, ..USUAL });
    assert_eq!(counter.running[0].1[0].ticket.rows, 4, "nobody has said that it is too large");
    assert_eq!(counter.serve_all(), [large; 3], "the whole and its halves");
    assert_eq!(counter.refused, []);
}
