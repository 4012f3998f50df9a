//! Callers that have gone without the lane having heard of it yet.

use std::cell::Cell;
use std::rc::Rc;

use batchwise::lane::{
    Blame, CallId, Effect, Event, FixedDelay, Health, InstanceChange, InstanceId, Instant, Lane,
    LanePlan, Member, Outcome, Payload, ShapeKey, SlotId, Span, Ticket, Track,
};

struct Caller {
    gone: Rc<Cell<bool>>,
}

impl Payload for Caller {
    fn split_off(&mut self, _rows: u32) -> Self {
        Self { gone: Rc::clone(&self.gone) }
    }

    fn signature(&self) -> u64 {
        0
    }

    fn is_abandoned(&self) -> bool {
        self.gone.get()
    }
}

fn ticket(id: u64, shape: &[u8], now: Instant) -> Ticket {
    Ticket {
        id: CallId(id),
        track: Track::Batch,
        key: Some(ShapeKey::new(shape)),
        rows: 1,
        first_row: 0,
        bytes: 1,
        longest_tokens: 0,
        priority: 1,
        arrived: now,
        deadline: now + Span::from_secs(1),
        tenant: None,
        objective: None,
        put_off: Span::ZERO,
        affinity: None,
    }
}

/// A lane that sends batches of two, and less after 5 ms.
fn lane() -> Lane<Caller> {
    let plan = LanePlan { max_batch_rows: Some(2), ..LanePlan::default() };
    Lane::new(plan, Box::new(FixedDelay::new(Span::from_millis(5), 1)))
}

fn sent(lane: &mut Lane<Caller>, now: Instant) -> Option<(SlotId, Vec<Member<Caller>>)> {
    loop {
        match lane.next(now)? {
            Effect::Dispatch(slot, _, batch) => return Some((slot, batch.members)),
            Effect::Refuse(member, reason) => {
                unreachable!("{:?} is refused: {reason:?}", member.ticket)
            }
            _ => {}
        }
    }
}

/// The most urgent call waits for company, all callers of a full batch have gone, and another full
/// batch waits behind them: it goes at once.
#[test]
fn a_batch_without_callers_holds_up_no_other() {
    let now = Instant::default() + Span::from_millis(1);
    let mut lane = lane();
    let gone = Rc::new(Cell::new(false));
    for (id, shape) in (0..).zip([b"a", b"b", b"b", b"c", b"c"]) {
        let gone = if shape == b"b" { Rc::clone(&gone) } else { Rc::default() };
        lane.on(now, Event::Arrive(ticket(id, shape, now), Caller { gone }));
    }
    gone.set(true);
    lane.on(now, Event::Instance(InstanceId(0), InstanceChange::Health(Health::Up)));
    let Some(Effect::Dispatch(_, _, batch)) = lane.next(now) else {
        unreachable!("a full batch waits for a free slot");
    };
    let calls: Vec<u64> = batch.members.iter().map(|member| member.ticket.id.0).collect();
    assert_eq!(calls, [3, 4]);
}

/// Of two calls in a batch that fails, the caller of one has gone: the other one may be as good as any.
#[test]
fn who_is_left_of_a_batch_that_failed_is_run_by_itself() {
    for blame in [Blame::Refused, Blame::Broken] {
        let now = Instant::default() + Span::from_millis(1);
        let mut lane = lane();
        lane.on(now, Event::Instance(InstanceId(0), InstanceChange::Health(Health::Up)));
        let gone = Rc::new(Cell::new(false));
        lane.on(now, Event::Arrive(ticket(0, b"a", now), Caller { gone: Rc::default() }));
        lane.on(now, Event::Arrive(ticket(1, b"a", now), Caller { gone: Rc::clone(&gone) }));
        let (slot, members) = sent(&mut lane, now).expect("a full batch");
        assert_eq!(members.len(), 2);
        gone.set(true);
        lane.on(now, Event::Done(slot, Outcome::Failed(members, blame)));
        let (_, members) = sent(&mut lane, now).expect("it is run by itself");
        assert_eq!(members.iter().map(|it| it.ticket.id).collect::<Vec<_>>(), [CallId(0)]);
    }
}
