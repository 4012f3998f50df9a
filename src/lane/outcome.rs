//! What becomes of a batch that is back.

use super::breaker::BreakerState;
use super::event::{Blame, Notice, Outcome, RefuseReason, SlotId, Unshared};
use super::machine::{Flight, Lane, Overlap, Role, offender};
use super::overdue::Recall;
use super::streams::Found;
use super::ticket::{Member, Payload, Track};
use super::trial::Verdict;
use super::{InstanceId, Instant, Span};

/// Instances that may be lost with one call on board.
const MAX_LOSSES: u8 = 2;
/// Times that instances may be too busy for one call, or not reached, before its caller is told.
const MAX_BOUNCES: u8 = 8;

impl<P: Payload> Lane<P> {
    pub(super) fn done(&mut self, now: Instant, slot: SlotId, outcome: Outcome<P>) {
        let Some(flight) = self.flights.remove(&slot) else { return };
        let before = self.fleet.returned(now, flight.instance, flight.track, flight.rows);
        let served = matches!(outcome, Outcome::Served { .. });
        if flight.track == Track::Batch {
            self.policy.back(now, slot, served);
            self.learn_lead(now, &flight, before, served);
        }
        self.overdue.remove(&(flight.overdue_at.unwrap_or_default(), slot));
        self.hedges.remove(&(flight.hedge_at.unwrap_or_default(), slot));
        // One that was overtaken would have taken longer still.
        let overtaken = matches!(outcome, Outcome::Overtaken);
        if let (Some(expected), true) = (flight.expected, served || overtaken) {
            self.lateness.observe(expected, now.since(flight.sent));
            self.usual.observe(expected, now.since(flight.sent));
        }
        if flight.recall != Recall::No && self.fleet.stalls_no_more(flight.instance) && served {
            self.notice(Notice::Answered(flight.instance));
        }
        match outcome {
            Outcome::Served { batched } => self.served(now, &flight, batched),
            Outcome::Failed(members, blame) => self.failed(now, &flight, members, blame),
            Outcome::Overtaken => {
                self.fleet.was_overtaken(flight.instance);
                self.tell_breaker(now, flight.instance, flight.probe, Told::Neutral);
            }
            Outcome::Cancelled if flight.recall == Recall::Gone => {
                self.tell_breaker(now, flight.instance, flight.probe, Told::Unreachable);
            }
            Outcome::Cancelled => {
                self.tell_breaker(now, flight.instance, flight.probe, Told::Neutral);
                if let Some(case) = flight.case {
                    let verdict = self.trials.given_up(case, false);
                    self.judge(now, verdict);
                }
            }
        }
    }

    fn served(&mut self, now: Instant, flight: &Flight, batched: bool) {
        self.tell_breaker(now, flight.instance, flight.probe, Told::Success);
        self.fleet.served(flight.instance);
        self.budget.earn();
        if flight.track == Track::Stream && !flight.begun {
            self.found_place(now, flight, None);
        }
        if !batched {
            self.stop_sharing(Unshared::Seen);
        } else if self.batchable && flight.track == Track::Batch {
            if let Some(limit) = self.fleet.limit(flight.instance) {
                limit.served(flight.rows);
            }
            self.learn_width(now, flight);
        }
        if let Some(case) = flight.case {
            let verdict = self.trials.served(case, flight.instance);
            self.judge(now, verdict);
        }
    }

    /// A stream has begun: how long that took shows whether its instance had a place for it. As a probe
    /// it has shown what it was to show; its end may be minutes away.
    pub(super) fn first_event(&mut self, now: Instant, slot: SlotId) {
        let Some(mut flight) = self.flights.remove(&slot) else { return };
        flight.begun = true;
        if std::mem::take(&mut flight.probe) {
            self.tell_breaker(now, flight.instance, true, Told::Success);
        }
        self.found_place(now, &flight, Some(now.since(flight.sent)));
        self.flights.insert(slot, flight);
    }

    fn found_place(&mut self, now: Instant, flight: &Flight, first_event: Option<Span>) {
        if let Some(limit) = self.fleet.stream_limit(flight.instance) {
            let found = Found { sent: flight.sent, streams: flight.streams, first_event };
            limit.answered(now, found);
        }
    }

    /// A batch that was sent before the one before it was back shows how long the way is; and the one
    /// behind it begins only now, as if it had been sent when the way was still before it.
    fn learn_lead(&mut self, now: Instant, flight: &Flight, before: Option<Instant>, served: bool) {
        let Some(lead) = self.fleet.lead(flight.instance) else { return };
        let is_ahead = |overlap: &Overlap| overlap.role == Role::Ahead;
        if let (Some(overlap), Some(before)) = (flight.overlap.filter(is_ahead), before)
            && served
            && before > flight.sent
        {
            let (expected, gap) = (overlap.expected.as_nanos(), now.since(before).as_nanos());
            lead.saved(Span::from_nanos(expected.saturating_sub(gap)));
        }
        let way = lead.known_way();
        if self.fleet.batches(flight.instance) != 1 {
            return;
        }
        let is_beside =
            |other: &&Flight| other.instance == flight.instance && other.track == Track::Batch;
        let mut others = self.flights.values().filter(is_beside);
        let (Some(behind), None) = (others.next(), others.next()) else { return };
        let begun = match behind.overlap.map(|overlap| overlap.role) {
            Some(Role::Ahead) => way,
            // If it was worked on at once it is back sooner, and nothing was counted on meanwhile.
            Some(Role::Look) => Some(way.unwrap_or_default()),
            Some(Role::Unproven) | None => None,
        };
        if let Some(way) = begun {
            self.policy.begun(flight.instance, now - way);
        }
    }

    /// How late a batch was for sharing its instance tells how many the instance works on at once.
    fn learn_width(&mut self, now: Instant, flight: &Flight) {
        let Some(Overlap { expected, remaining, role }) = flight.overlap else { return };
        let Some(width) = self.fleet.width(flight.instance) else { return };
        // A batch that had to wait for next to nothing says nothing.
        if remaining.times(4 * u64::from(width.slots())) < expected {
            return;
        }
        let took = now.since(flight.sent).as_nanos() as f64;
        let late = (took - expected.as_nanos() as f64) / remaining.as_nanos() as f64;
        match role {
            Role::Look => width.looked(late),
            Role::Unproven => width.tried(late),
            Role::Ahead => {}
        }
    }

    fn failed(&mut self, now: Instant, flight: &Flight, members: Vec<Member<P>>, blame: Blame) {
        match blame {
            Blame::Connection => {
                self.tell_breaker(now, flight.instance, flight.probe, Told::Unreachable);
                self.wait_out(now, flight, members, blame);
            }
            Blame::Lost => {
                self.tell_breaker(now, flight.instance, flight.probe, Told::Unreachable);
                self.after_loss(now, flight, members);
            }
            Blame::Overload { retry_after } => {
                self.tell_breaker(now, flight.instance, flight.probe, Told::Neutral);
                if flight.track == Track::Stream
                    && let Some(limit) = self.fleet.stream_limit(flight.instance)
                {
                    limit.refused(now, flight.streams.saturating_sub(1));
                }
                self.fleet.pause(now, flight.instance, retry_after);
                self.wait_out(now, flight, members, blame);
            }
            Blame::Refused | Blame::Broken => self.search(now, flight, members, blame),
            Blame::TooSlow => {
                self.tell_breaker(now, flight.instance, flight.probe, Told::Failure);
                self.give_up(now, flight, members, RefuseReason::Spent, false);
            }
            // Nobody rides with it whose rows could be missing: it may be the instance.
            Blame::NotBatched if self.may_try_elsewhere(flight, &members, blame) => {
                self.try_elsewhere(now, flight, members, blame);
            }
            Blame::NotBatched => {
                self.tell_breaker(now, flight.instance, flight.probe, Told::Success);
                self.stop_sharing(Unshared::Seen);
                if let Some(case) = flight.case {
                    let verdict = self.trials.given_up(case, true);
                    self.judge(now, verdict);
                }
                let alone = members.len() == 1;
                for member in members {
                    if alone {
                        self.refuse(member, RefuseReason::Spent);
                    } else {
                        self.enqueue(member);
                    }
                }
            }
        }
        self.refuse_hopeless(now);
    }

    /// The instance was lost, and any of the calls may have been the cause: smaller parts go elsewhere,
    /// one at a time. A call that lost two instances, the second one by itself, is given up: no input
    /// may walk through the fleet.
    fn after_loss(&mut self, now: Instant, flight: &Flight, mut members: Vec<Member<P>>) {
        let alone = members.len() == 1;
        members.retain(|member| !member.payload.is_abandoned());
        let mut losses = 0;
        for member in &mut members {
            member.losses = member.losses.saturating_add(1);
            member.avoid = Some(flight.instance);
            losses = losses.max(member.losses);
        }
        let culprit = alone && losses >= MAX_LOSSES;
        if members.is_empty() || culprit || self.plan.attempts < 2 || !self.budget.take() {
            return self.give_up(now, flight, members, RefuseReason::Spent, culprit);
        }
        self.notice(Notice::Retried(Blame::Lost));
        let case = flight.case.unwrap_or_else(|| self.trials.open(flight.instance, flight.rows));
        let size = if losses < MAX_LOSSES { members.len().div_ceil(2) } else { 1 };
        let mut parts = Vec::new();
        while !members.is_empty() {
            let rest = members.split_off(size.min(members.len()));
            parts.push(std::mem::replace(&mut members, rest));
        }
        self.trials.split(case, parts);
    }

    /// The instance was not even reached, or is busy: its calls go back to where they stood. That
    /// costs them no attempt, for nothing was attempted: where many instances were just lost, those
    /// that are not back yet are found one by one.
    fn wait_out(&mut self, now: Instant, flight: &Flight, members: Vec<Member<P>>, blame: Blame) {
        let affordable = blame != Blame::Connection || self.budget.take();
        let mut again = Vec::new();
        for mut member in members {
            member.bounces = member.bounces.saturating_add(1);
            if blame == Blame::Connection {
                member.avoid = Some(flight.instance);
            }
            if affordable && member.bounces < MAX_BOUNCES {
                self.notice(Notice::Retried(blame));
                again.push(member);
            } else {
                self.refuse(member, RefuseReason::Spent);
            }
        }
        self.go_back(now, flight, again);
    }

    /// Calls of a batch that was not even tried stand where they stood; but those that may have cost
    /// an instance do not mix with others.
    fn go_back(&mut self, now: Instant, flight: &Flight, members: Vec<Member<P>>) {
        match flight.case {
            Some(case) if flight.suspect && !members.is_empty() => self.trials.again(case, members),
            case => {
                members.into_iter().for_each(|member| self.enqueue(member));
                if let Some(case) = case {
                    let verdict = self.trials.given_up(case, true);
                    self.judge(now, verdict);
                }
            }
        }
    }

    /// The instance answered with an error: which call is it?
    fn search(&mut self, now: Instant, flight: &Flight, mut members: Vec<Member<P>>, blame: Blame) {
        let rode = members.len();
        members.retain(|member| !member.payload.is_abandoned());
        let told = if blame == Blame::Refused { Told::Neutral } else { Told::Failure };
        if rode > 1 && members.len() == 1 && self.budget.take() {
            return self.run_alone(now, flight, members, told);
        }
        if told == Told::Failure && self.may_try_elsewhere(flight, &members, blame) {
            return self.try_elsewhere(now, flight, members, blame);
        }
        let Some((one, two, depth)) = self.halves(members) else {
            return self.give_up_culprit(now, flight, told);
        };
        let (one, two) = match (one, two) {
            (one, Some(two)) => (one, two),
            (culprit, None) => {
                for member in culprit {
                    if let Some(case) = flight.case {
                        self.trials.blame(case, offender(&member));
                    }
                    self.refuse(member, RefuseReason::Spent);
                }
                return self.give_up_culprit(now, flight, told);
            }
        };
        // A breaker's probe must come to a verdict: the probe is one call, so it seldom gets here.
        self.tell_breaker(now, flight.instance, flight.probe, Told::Neutral);
        self.notice(Notice::Bisected(flight.rows));
        let case = flight.case.unwrap_or_else(|| self.trials.open(flight.instance, flight.rows));
        if told == Told::Failure {
            let verdict = self.trials.accuse(case, flight.instance);
            self.judge(now, verdict);
        }
        self.trials.halve(case, one, two, depth);
    }

    /// The callers of all others on board have gone: whether it was this call shows once it runs by
    /// itself.
    fn run_alone(&mut self, now: Instant, flight: &Flight, members: Vec<Member<P>>, told: Told) {
        self.tell_breaker(now, flight.instance, flight.probe, Told::Neutral);
        self.notice(Notice::Bisected(flight.rows));
        let case = flight.case.unwrap_or_else(|| self.trials.open(flight.instance, flight.rows));
        if told == Told::Failure {
            let verdict = self.trials.accuse(case, flight.instance);
            self.judge(now, verdict);
        }
        self.trials.again(case, members);
    }

    /// Whether a call that failed by itself should be run by another instance: it may be the call, or
    /// this instance.
    fn may_try_elsewhere(&mut self, flight: &Flight, members: &[Member<P>], blame: Blame) -> bool {
        let [member] = members else { return false };
        // An instance that serves the others is not what is wrong.
        let works = |case| self.trials.has_served(case, flight.instance);
        if flight.case.is_some_and(works) {
            return false;
        }
        let in_time = member.attempts.saturating_add(1) < self.plan.attempts;
        in_time
            && (blame == Blame::NotBatched || !self.is_too_large(member))
            && self.fleet.has_other_up(flight.instance)
            && self.budget.take()
    }

    fn try_elsewhere(
        &mut self,
        now: Instant,
        flight: &Flight,
        mut members: Vec<Member<P>>,
        blame: Blame,
    ) {
        for member in &mut members {
            member.attempts = member.attempts.saturating_add(1);
            member.avoid = Some(flight.instance);
        }
        self.notice(Notice::Retried(blame));
        let case = flight.case.unwrap_or_else(|| self.trials.open(flight.instance, flight.rows));
        if flight.probe {
            // What a probe shows is said at once.
            self.tell_breaker(now, flight.instance, true, Told::Failure);
        } else {
            let verdict = self.trials.accuse(case, flight.instance);
            self.judge(now, verdict);
        }
        self.trials.again(case, members);
    }

    /// One call may be larger than anything that has worked: then its parts are tried.
    fn is_too_large(&self, member: &Member<P>) -> bool {
        let alone = member.ticket.key.is_none() || !self.batchable;
        let rows = member.ticket.rows;
        rows > 1 && rows > self.fleet.worked() && !alone
    }

    /// Two halves to be tried, where there is something to halve and the budget allows it; one
    /// list when these are the culprits.
    #[expect(clippy::type_complexity, reason = "read where it is taken apart")]
    fn halves(
        &mut self,
        mut members: Vec<Member<P>>,
    ) -> Option<(Vec<Member<P>>, Option<Vec<Member<P>>>, bool)> {
        let first = members.first()?;
        let (rows, too_large) = (first.ticket.rows, self.is_too_large(first));
        let single = members.len() == 1;
        if single && !too_large || !self.budget.take() {
            return Some((members, None, false));
        }
        if single {
            let head = members.first_mut()?.split_off(rows / 2);
            return Some((vec![head], Some(members), true));
        }
        let two = members.split_off(members.len() / 2);
        Some((members, Some(two), false))
    }

    fn give_up_culprit(&mut self, now: Instant, flight: &Flight, told: Told) {
        match flight.case {
            None => self.tell_breaker(now, flight.instance, flight.probe, told),
            Some(case) => {
                self.tell_breaker(now, flight.instance, flight.probe, Told::Neutral);
                if told == Told::Failure {
                    let verdict = self.trials.accuse(case, flight.instance);
                    self.judge(now, verdict);
                }
                let verdict = self.trials.given_up(case, true);
                self.judge(now, verdict);
            }
        }
    }

    fn give_up(
        &mut self,
        now: Instant,
        flight: &Flight,
        members: Vec<Member<P>>,
        reason: RefuseReason,
        culprit: bool,
    ) {
        for member in members {
            self.refuse(member, reason);
        }
        if let Some(case) = flight.case {
            let verdict = self.trials.given_up(case, culprit);
            self.judge(now, verdict);
        }
    }

    pub(super) fn judge(&mut self, now: Instant, verdict: Verdict) {
        for offender in verdict.offenders {
            self.offenders.remember(now, offender);
        }
        for instance in verdict.convicted {
            self.tell_breaker(now, instance, false, Told::Failure);
        }
        if let Some((instance, rows)) = verdict.too_many_rows
            && let Some(limit) = self.fleet.limit(instance)
            && rows > limit.worked()
        {
            limit.refused(now, rows);
            self.notice(Notice::LimitLearned(instance, rows));
        }
    }

    fn tell_breaker(&mut self, now: Instant, id: InstanceId, probe: bool, told: Told) {
        let Some(breaker) = self.fleet.breaker(id) else { return };
        let before = breaker.state();
        match told {
            Told::Success => breaker.succeeded(now, probe),
            Told::Neutral => breaker.neutral(probe),
            Told::Failure => drop(breaker.failed(now, probe)),
            Told::Unreachable => drop(breaker.trip(now)),
        }
        if breaker.state() != before {
            self.fleet.count_out();
        }
        self.notice_breaker(id, Some(before));
    }

    pub(super) fn notice_breaker(&mut self, id: InstanceId, before: Option<BreakerState>) {
        let Some(after) = self.fleet.breaker(id).map(|breaker| breaker.state()) else { return };
        if before.is_some_and(|before| before != after) {
            self.notice(Notice::Breaker(id, after));
        }
    }
}

/// What a breaker hears of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Success,
    Neutral,
    Failure,
    Unreachable,
}
