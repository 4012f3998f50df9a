//! Callers that have gone without the lane having heard of it yet.

use std::cell::Cell;
use std::rc::Rc;

use batchwise::lane::{
    CallId, Effect, Event, FixedDelay, Health, InstanceChange, InstanceId, Instant, Lane, LanePlan,
    Payload, ShapeKey, Span, Ticket, Track,
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

/// The most urgent call waits for company, all callers of a full batch have gone, and another full
/// batch waits behind them: it goes at once.
#[test]
fn a_batch_without_callers_holds_up_no_other() {
    let plan = LanePlan { max_batch_rows: Some(2), ..LanePlan::default() };
    let policy = FixedDelay::new(Span::from_millis(5), 1);
    let mut lane = Lane::new(plan, Box::new(policy));
    let now = Instant::default() + Span::from_millis(1);
    let gone = Rc::new(Cell::new(false));
    for (id, shape) in (0..).zip([b"a", b"b", b"b", b"c", b"c"]) {
        let ticket = Ticket {
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
        };
        let gone = if shape == b"b" { Rc::clone(&gone) } else { Rc::default() };
        lane.on(now, Event::Arrive(ticket, Caller { gone }));
    }
    gone.set(true);
    lane.on(now, Event::Instance(InstanceId(0), InstanceChange::Health(Health::Up)));
    let Some(Effect::Dispatch(_, _, batch)) = lane.next(now) else {
        unreachable!("a full batch waits for a free slot");
    };
    let calls: Vec<u64> = batch.members.iter().map(|member| member.ticket.id.0).collect();
    assert_eq!(calls, [3, 4]);
}
