//! What a lane has learned, for one that takes its place.
//!
//! When the configuration of a model changes, another lane takes the calls from then on. Without what
//! this one knew, it would feel its way up to the sizes and widths of instances that serve already,
//! could not tell which batches are overdue, and would ask again whoever was found to be broken.

use super::breaker::BreakerState;
use super::budget::Budget;
use super::fleet::Fleet;
use super::machine::Lane;
use super::offenders::Offenders;
use super::overdue::Lateness;
use super::policy::PolicyExperience;
use super::ticket::Payload;
use super::{InstanceId, Instant};

/// What a lane has learned of its instances and of its calls.
#[derive(Debug)]
pub struct Experience {
    policy: PolicyExperience,
    fleet: Fleet,
    lateness: Lateness,
    usual: Lateness,
    budget: Budget,
    offenders: Offenders,
}

impl<P: Payload> Lane<P> {
    /// What another lane for the same model would have to learn again.
    pub fn experience(&self) -> Experience {
        Experience {
            policy: self.policy.experience(),
            fleet: self.fleet.clone(),
            lateness: self.lateness,
            usual: self.usual,
            budget: self.budget,
            offenders: self.offenders.clone(),
        }
    }

    /// Begins with what another lane has learned, by the same clock. `before`: what each instance was
    /// called there, `None` for one that it had not.
    pub fn succeed(
        &mut self,
        now: Instant,
        experience: &Experience,
        before: &[Option<InstanceId>],
    ) {
        self.policy.succeed(&experience.policy, before);
        self.fleet.succeed(now, &experience.fleet, before);
        (self.lateness, self.usual) = (experience.lateness, experience.usual);
        self.budget = experience.budget;
        self.offenders.clone_from(&experience.offenders);
        for id in (0..self.plan.instances).map(InstanceId) {
            self.notice_breaker(id, Some(BreakerState::Closed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::breaker::Admission;
    use crate::lane::{Adaptive, EngineLoad, LanePlan, Policy, Span};

    const A: InstanceId = InstanceId(0);
    const B: InstanceId = InstanceId(1);

    #[derive(Debug)]
    struct Nobody;

    impl Payload for Nobody {
        fn split_off(&mut self, _: u32) -> Self {
            Self
        }

        fn is_abandoned(&self) -> bool {
            false
        }

        fn signature(&self) -> u64 {
            0
        }
    }

    fn lane(plan: LanePlan) -> Lane<Nobody> {
        let policy: Box<dyn Policy> = Box::new(Adaptive::new(plan.instances));
        Lane::new(plan, policy)
    }

    fn at(millis: u64) -> Instant {
        Instant::default() + Span::from_millis(millis)
    }

    /// Two instances, the first of which is known to take more streams and rows than at first.
    fn experienced() -> Lane<Nobody> {
        let mut lane = lane(LanePlan { instances: 2, stream_slots: None, ..LanePlan::default() });
        lane.fleet.limit(A).unwrap().served(32);
        let streams = lane.fleet.stream_limit(A).unwrap();
        for second in 0..20 {
            let limit = streams.limit();
            streams.sent(limit);
            let load = EngineLoad { running: limit, waiting: 0 };
            streams.tell_load(at(1_000 * second), load, limit);
            streams.tell_load(at(1_000 * second + 500), load, limit);
        }
        lane
    }

    #[test]
    fn limits_go_with_their_instances_and_what_the_plan_says_holds() {
        let mut before = experienced();
        let known = before.fleet.stream_limit(A).unwrap().limit();
        assert!(known > 16, "{known}");
        let plan = LanePlan { instances: 3, stream_slots: None, ..LanePlan::default() };
        let mut after = lane(plan.clone());
        after.succeed(at(20_000), &before.experience(), &[None, Some(A), Some(B)]);
        let fleet = &mut after.fleet;
        let limits = [0, 1, 2].map(|id| fleet.stream_limit(InstanceId(id)).unwrap().limit());
        assert_eq!(limits, [16, known, 16]);
        let caps = [0, 1, 2].map(|id| after.fleet.cap_of(at(20_000), InstanceId(id)));
        assert_eq!(caps, [4, 64, 4]);
        let told = LanePlan { stream_slots: Some(3), max_batch_rows: Some(8), ..plan };
        let mut after = lane(told);
        after.succeed(at(20_000), &before.experience(), &[Some(A), Some(B), None]);
        assert_eq!(after.fleet.stream_limit(A).unwrap().limit(), 3);
        assert_eq!(after.fleet.cap_of(at(20_000), A), 8);
    }

    #[test]
    fn who_does_not_answer_gets_a_probe_first_and_a_probe_on_its_way_is_sent_anew() {
        let mut before = lane(LanePlan { instances: 2, ..LanePlan::default() });
        before.fleet.stalls(A);
        let breaker = before.fleet.breaker(B).unwrap();
        breaker.trip(at(0));
        assert!(breaker.sent(at(300)), "it is a probe");
        let mut after = lane(LanePlan { instances: 2, ..LanePlan::default() });
        after.succeed(at(300), &before.experience(), &[Some(A), Some(B)]);
        let wants = |id| after.fleet.views(at(300)).nth(id).unwrap().breaker;
        assert_eq!([wants(0), wants(1)], [BreakerState::Open; 2]);
        let admission =
            |lane: &mut Lane<Nobody>, id| lane.fleet.breaker(id).unwrap().admission(at(300));
        assert!(matches!(admission(&mut after, A), Admission::Nothing(_)));
        assert_eq!(admission(&mut after, B), Admission::Probe);
    }
}
