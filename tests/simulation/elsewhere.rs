//! Where a call goes that did not get its answer where it went first.

#![expect(clippy::expect_used, reason = "a test that cannot go on fails")]

use std::collections::VecDeque;

use batchwise::lane::{
    Adaptive, Blame, CallId, Effect, Event, Health, InstanceChange, InstanceId, Instant, Lane,
    LanePlan, Member, Outcome, Payload, ShapeKey, SlotId, Span, Ticket, Track,
};

const BATCH: Span = Span::from_millis(10);
/// Calls that an instance gets at a time when they ride alone.
const ALONE: u32 = 16;

#[derive(Debug)]
struct Call;

impl Payload for Call {
    fn split_off(&mut self, _rows: u32) -> Self {
        Self
    }

    fn is_abandoned(&self) -> bool {
        false
    }

    fn signature(&self) -> u64 {
        0
    }
}

/// Three instances behind a lane, which knows that a batch takes 10 ms.
struct Three {
    lane: Lane<Call>,
    now: Instant,
    calls: u64,
}

struct Sent {
    slot: SlotId,
    instance: InstanceId,
    members: Vec<Member<Call>>,
}

impl Three {
    fn new() -> Self {
        let plan = LanePlan {
            instances: 3,
            max_batch_rows: Some(4),
            alone_slots: ALONE,
            ..LanePlan::default()
        };
        let lane = Lane::new(plan, Box::new(Adaptive::new(3)));
        let mut three = Self { lane, now: Instant::default(), calls: 0 };
        for id in 0..3 {
            let up = InstanceChange::Health(Health::Up);
            three.lane.on(three.now, Event::Instance(InstanceId(id), up));
        }
        for _ in 0..60 {
            let sent = three.call();
            three.now = three.now + BATCH;
            three.lane.on(three.now, Event::Done(sent.slot, Outcome::Served { batched: true }));
        }
        three
    }

    fn call(&mut self) -> Sent {
        self.calls += 1;
        let ticket = Ticket {
            id: CallId(self.calls),
            track: Track::Batch,
            key: Some(ShapeKey::new(b"row")),
            rows: 1,
            first_row: 0,
            bytes: 1,
            longest_tokens: 0,
            priority: 2,
            arrived: self.now,
            deadline: self.now + Span::from_secs(30),
            tenant: None,
            objective: None,
            put_off: Span::ZERO,
            affinity: None,
        };
        self.lane.on(self.now, Event::Arrive(ticket, Call));
        self.sent().expect("an instance is free")
    }

    /// What is sent now.
    fn sent(&mut self) -> Option<Sent> {
        let mut sent = None;
        while let Some(effect) = self.lane.next(self.now) {
            match effect {
                Effect::Dispatch(slot, instance, batch) => {
                    sent = Some(Sent { slot, instance, members: batch.members });
                }
                Effect::Calculate(calculation) => {
                    self.lane.on(self.now, Event::Calculated(calculation.run()));
                }
                _ => {}
            }
        }
        sent
    }

    fn is_called_back(&mut self, slot: SlotId) -> bool {
        while let Some(effect) = self.lane.next(self.now) {
            if let Effect::Recall(recalled) = effect {
                return recalled == slot;
            }
        }
        false
    }
}

/// One instance failed it, another does not answer: neither gets it again while a third one serves.
#[test]
fn a_call_that_is_called_back_does_not_return_to_who_failed_it() {
    let mut three = Three::new();
    let first = three.call();
    let failed = Outcome::Failed(first.members, Blame::Broken);
    three.lane.on(three.now, Event::Done(first.slot, failed));
    let second = three.sent().expect("another instance is tried");
    assert_ne!(second.instance, first.instance);
    three.now = moment_before_overdue(&three);
    let other = three.call();
    assert!(![first.instance, second.instance].contains(&other.instance));
    while !three.is_called_back(second.slot) {
        three.now = three.now + Span::from_millis(1);
        assert!(three.now < Instant::default() + Span::from_secs(10), "never called back");
    }
    three.lane.on(three.now, Event::Recalled(second.slot, second.members));
    assert!(three.sent().is_none(), "it waits for the third");
    three.lane.on(three.now, Event::Done(other.slot, Outcome::Served { batched: true }));
    let third = three.sent().expect("the third is free");
    assert_eq!(third.instance, other.instance);
}

/// One call by itself whose answer lacks rows may be as good as any other, and its instance broken.
#[test]
fn a_call_alone_whose_answer_lacks_rows_is_tried_elsewhere_once() {
    let mut three = Three::new();
    let first = three.call();
    let failed =
        |sent: Sent| Event::Done(sent.slot, Outcome::Failed(sent.members, Blame::NotBatched));
    let instance = first.instance;
    three.lane.on(three.now, failed(first));
    let second = three.sent().expect("another instance is tried");
    assert_ne!(second.instance, instance);
    three.lane.on(three.now, failed(second));
    assert!(three.sent().is_none(), "then it is the call");
    assert!(three.lane.is_idle());
}

/// Calls that ride alone are sent many at a time, to an instance that may serve one after the other:
/// who waits for its turn there does not hang.
#[test]
fn who_waits_for_its_turn_among_calls_that_ride_alone_is_not_called_back() {
    let mut three = Three::new();
    three.lane.on(three.now, Event::NotBatchable);
    let mut queues = [(); 3].map(|()| VecDeque::new());
    for _ in 0..3 * ALONE {
        let sent = three.call();
        queues[sent.instance.0 as usize].push_back(sent.slot);
    }
    for _ in 0..ALONE {
        three.now = three.now + BATCH;
        let effect = three.lane.next(three.now);
        assert!(effect.is_none(), "{effect:?}");
        for queue in &mut queues {
            let slot = queue.pop_front().expect("every instance has its share");
            three.lane.on(three.now, Event::Done(slot, Outcome::Served { batched: true }));
        }
        assert!(three.sent().is_none());
    }
    assert!(three.lane.is_idle());
}

/// A moment before the batch that is on its way is overdue.
fn moment_before_overdue(three: &Three) -> Instant {
    let overdue = three.lane.wake_at().expect("a batch is on its way");
    Instant::from_nanos(overdue.as_nanos() - 1_000_000)
}
