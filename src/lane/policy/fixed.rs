//! The batcher that has a delay to tune.

use super::{Adaptive, Decision, Departure, Learned, Policy, PolicyExperience, View, least_loaded};
use crate::lane::{Cause, InstanceId, Instant, ShapeKey, SlotId, Span};

/// Takes whatever waits the moment a slot is free, once the oldest call has waited for a set time or
/// a full batch is there: what Triton's dynamic batcher does.
///
/// Without a delay it is the greedy policy. For one instance with linear service time that is within
/// 0.4 % of the optimal mean latency at every load (Deb and Serfozo 1973 show the optimum to be a
/// control limit; for T = a + b n that limit hardly matters, because more than it almost always wait
/// after a service).
///
/// What batches take is learned nevertheless: what is overdue is judged by it.
#[derive(Debug)]
pub struct FixedDelay {
    max_queue_delay: Span,
    learned: Adaptive,
}

impl FixedDelay {
    /// With this delay, for so many instances.
    pub fn new(max_queue_delay: Span, instances: u32) -> Self {
        Self { max_queue_delay, learned: Adaptive::new(instances) }
    }
}

impl Policy for FixedDelay {
    fn arrived(&mut self, now: Instant, key: Option<&ShapeKey>, rows: u32) {
        self.learned.arrived(now, key, rows);
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let Some(server) = least_loaded(view.servers, |_| true) else {
            return Decision::Hold(Instant::LAST);
        };
        let due = view.oldest + self.max_queue_delay;
        let full = view.waiting_rows >= u64::from(server.cap);
        let cause = match (full, view.draining) {
            (true, _) => Cause::Full,
            (false, true) => Cause::Drain,
            _ if due > view.now => return Decision::Hold(due),
            _ if self.max_queue_delay > Span::ZERO => Cause::Delay,
            _ => Cause::Idle,
        };
        Decision::Send { instance: server.id, rows: server.cap, cause, expected: None }
    }

    fn least_time(&self, key: Option<&ShapeKey>) -> Span {
        self.learned.least_time(key)
    }

    fn expected(&self, key: Option<&ShapeKey>, instance: InstanceId, rows: u32) -> Option<Span> {
        self.learned.expected(key, instance, rows)
    }

    fn first_back(&self, now: Instant, instance: InstanceId) -> Option<(Instant, Span)> {
        self.learned.first_back(now, instance)
    }

    fn begun(&mut self, instance: InstanceId, at: Instant) {
        self.learned.begun(instance, at);
    }

    fn sent(&mut self, now: Instant, departure: &Departure<'_>) {
        self.learned.sent(now, departure);
    }

    fn back(&mut self, now: Instant, slot: SlotId, served: bool) {
        self.learned.back(now, slot, served);
    }

    fn experience(&self) -> PolicyExperience {
        self.learned.experience()
    }

    fn succeed(&mut self, experience: &PolicyExperience, before: &[Option<InstanceId>]) {
        self.learned.succeed(experience, before);
    }

    fn learned(&self, now: Instant) -> Learned {
        self.learned.learned(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::policy::Server;

    const SERVER: Server =
        Server { id: InstanceId(0), slots: 1, free: 1, cap: 8, ahead: false, last_sent: 0 };

    fn decide(delay_millis: u64, now_millis: u64, waiting_rows: u64, draining: bool) -> Decision {
        let at = |millis| Instant::default() + Span::from_millis(millis);
        FixedDelay::new(Span::from_millis(delay_millis), 1).decide(&View {
            now: at(now_millis),
            key: &ShapeKey::new(b""),
            waiting_rows,
            all_waiting_rows: waiting_rows,
            mixed: false,
            oldest: at(0),
            deadline: at(1_000_000),
            servers: &[SERVER],
            objective: None,
            draining,
        })
    }

    fn send(cause: Cause) -> Decision {
        Decision::Send { instance: InstanceId(0), rows: 8, cause, expected: None }
    }

    #[test]
    fn without_a_delay_it_never_holds() {
        assert_eq!(decide(0, 0, 1, false), send(Cause::Idle));
    }

    #[test]
    fn a_delay_holds_until_full_or_due() {
        let due = Instant::default() + Span::from_millis(5);
        assert_eq!(decide(5, 4, 7, false), Decision::Hold(due));
        assert_eq!(decide(5, 4, 8, false), send(Cause::Full));
        assert_eq!(decide(5, 5, 1, false), send(Cause::Delay));
        assert_eq!(decide(5, 0, 1, true), send(Cause::Drain));
    }

    #[test]
    fn the_least_loaded_gets_it() {
        let busy = Server { slots: 2, free: 1, id: InstanceId(1), ..SERVER };
        let recent = Server { last_sent: 7, ..SERVER };
        let rested = Server { id: InstanceId(2), last_sent: 3, ..SERVER };
        assert_eq!(least_loaded(&[busy, recent, rested], |_| true), Some(&rested));
    }
}
