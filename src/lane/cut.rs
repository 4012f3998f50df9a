//! Cutting batches: what is due, for whom, and how much of it.

use super::event::{Batch, Cause, Effect, RefuseReason, SlotId};
use super::fleet::StreamAsk;
use super::machine::{Flight, Lane, Overlap, Role};
use super::overdue::Recall;
use super::policy::{Decision, Departure, Server, View, least_loaded};
use super::queue::{Budget, Taken};
use super::streams::Rank;
use super::ticket::{Member, Payload, Place, ShapeKey, Ticket, Track};
use super::trial::CaseId;
use super::{InstanceId, Instant, Span};

/// So many full batches for each instance are a backlog.
const BACKLOG: u64 = 3;

/// How much of the capacity that was seen once remains after each batch.
const CAPACITY_MEMORY: f64 = 0.99;
/// Of so many rows one is of the least urgent level, so that nothing starves.
const FLOOR: u32 = 15;
/// So long after calls of several priorities waited more urgent ones are expected among bulk.
const MIXED_MEMORY: Span = Span::from_secs(1);

/// A batch that is to be cut.
struct Choice {
    /// Its most urgent call.
    place: Place,
    instance: InstanceId,
    /// The most rows.
    rows: u32,
    cause: Cause,
    /// When its answer is expected.
    expected: Option<Instant>,
}

impl<P: Payload> Lane<P> {
    /// Cuts one batch if one is due, and notes when to look again.
    pub(super) fn cut(&mut self, now: Instant) {
        self.wake_at = None;
        self.drop_abandoned(now);
        if self.fleet.is_loading() {
            self.refuse_hopeless(now);
        }
        self.recall_overdue(now);
        self.hedge_slow(now);
        if !self.effects.is_empty() {
            return;
        }
        let mut cut = true;
        // A batch whose callers have all gone is no reason to keep the others waiting.
        while cut && self.effects.is_empty() {
            self.wake_at = None;
            cut = self.cut_trial(now) || self.cut_stream(now) || self.cut_batch(now);
        }
        let waits = !self.batches.is_empty() || !self.streams.is_empty() || !self.trials.is_empty();
        self.effects.extend(self.policy.calculation().map(Effect::Calculate));
        if !cut {
            let times = [self.wake_at, self.fleet.wake_at(now), self.hopeless_at()];
            let times = times
                .into_iter()
                .filter(|_| waits)
                .chain([self.next_overdue(now), self.next_hedge(now)]);
            self.wake_at = times.flatten().filter(|&at| at > now).min();
        }
    }

    /// Looks at the head of each queue for callers that have gone, deadlines that have passed and
    /// objectives that cannot be met any more.
    fn drop_abandoned(&mut self, now: Instant) {
        for track in [Track::Stream, Track::Batch] {
            while let Some(head) = self.head(track) {
                let stale = head.payload.is_abandoned() || head.ticket.deadline <= now;
                if !stale && !self.is_hopeless(now, head) {
                    break;
                }
                let place = head.ticket.place();
                let Some(member) = self.take_waiting(track, place) else { break };
                if !member.payload.is_abandoned() {
                    self.refuse(member, RefuseReason::Deadline);
                }
            }
        }
    }

    fn head(&self, track: Track) -> Option<&Member<P>> {
        match track {
            Track::Batch => self.batches.first(|_| true),
            Track::Stream => self.streams.first(|_| true),
        }
    }

    /// When the most urgent call is hopeless.
    fn hopeless_at(&self) -> Option<Instant> {
        let ticket = &self.head(Track::Batch)?.ticket;
        let least = self.policy.least_time(ticket.key.as_ref());
        let dues = [Some(ticket.deadline), ticket.objective].into_iter().flatten();
        let due = dues.filter(|&due| ticket.arrived + least < due).min()?;
        Some(due - least + Span::from_nanos(1))
    }

    /// Whether even a batch of its own, sent now, would be too late for the call. What was never
    /// possible is not held against it: then its deadline says nothing about the load.
    fn is_hopeless(&self, now: Instant, member: &Member<P>) -> bool {
        let ticket = &member.ticket;
        let least = self.policy.least_time(ticket.key.as_ref());
        let mut dues = [Some(ticket.deadline), ticket.objective].into_iter().flatten();
        ticket.track == Track::Batch
            && dues.any(|due| ticket.arrived + least < due && due < now + least)
    }

    fn cut_trial(&mut self, now: Instant) -> bool {
        // One at a time, and by itself: each may cost an instance, and who is there with it.
        let suspect_aloft = self.flights.values().any(|flight| flight.suspect);
        if !suspect_aloft && !self.trials.has_suspects() {
            self.fleet.release();
        }
        while let Some(mut trial) = self.trials.pop(suspect_aloft) {
            trial.members = self.still_due(now, trial.members);
            if trial.members.is_empty() {
                let verdict = self.trials.given_up(trial.case, false);
                self.judge(now, verdict);
                continue;
            }
            let avoid = trial.members.first().and_then(|member| member.avoid);
            let instance = if trial.is_suspect() {
                // Any other call is a better probe: who is one and finds nobody has had its chance.
                self.fleet.reserve(now, avoid, self.batches.is_empty())
            } else {
                self.fleet.choose(now, Track::Batch, avoid).map(|(instance, _)| instance)
            };
            let Some(instance) = instance else {
                self.trials.put_back(trial);
                return false;
            };
            self.dispatch(now, instance, trial.members, Cause::Bisect, Some(trial.case));
            return true;
        }
        false
    }

    fn cut_stream(&mut self, now: Instant) -> bool {
        let Some(head) = self.streams.first(|_| true) else { return false };
        let Ticket { priority, affinity, .. } = head.ticket;
        let lately = |(_, &at): (_, &Instant)| now.since(at) < MIXED_MEMORY.times(10);
        let levels = &self.stream_levels;
        let rank = if levels.range(..priority).any(lately) {
            Rank::Yields
        } else if levels.range(priority + 1..).any(lately) {
            Rank::Leads
        } else {
            Rank::Alone
        };
        let (place, ask) = (head.ticket.place(), StreamAsk { avoid: head.avoid, affinity, rank });
        let Some(instance) = self.fleet.choose_stream(now, &ask) else { return false };
        if rank == Rank::Leads {
            self.fleet.led(instance);
        }
        let members = self.take_waiting(Track::Stream, place).into_iter().collect();
        self.dispatch(now, instance, members, Cause::Alone, None);
        true
    }

    fn cut_batch(&mut self, now: Instant) -> bool {
        let Some(avoid) = self.batches.first(|_| true).map(|head| head.avoid) else {
            return false;
        };
        if let Some(instance) = self.fleet.probe(now, avoid) {
            return self.cut_probe(now, instance);
        }
        let ahead = self.plan.early_slot && self.batchable;
        let done = |id| self.policy.first_back(now, id).filter(|_| ahead);
        // Among bulk something more urgent may come until the last moment.
        let waiting = match self.batches.first(|_| true) {
            Some(head) if !self.is_mixed(now) => self.batches.company(head).rows,
            _ => 0,
        };
        let soonest = self.fleet.servers(now, waiting, done, &mut self.servers);
        let chosen = if self.servers.iter().any(|server| server.free > 0) {
            self.choose(now)
        } else {
            self.choose_look(now)
        };
        self.wake_at = [self.wake_at, soonest].into_iter().flatten().min();
        let Some(Choice { place, instance, rows, cause, expected }) = chosen else { return false };
        // What pays best is no reason to cut a call in pieces.
        let most = self.servers.iter().find(|server| server.id == instance);
        let most = most.map_or(rows, |server| server.cap).max(rows);
        let (members, short) = self.take_batch(place, (rows, most), instance, expected);
        let members = self.still_due(now, members);
        self.note_floor(&members);
        if !members.is_empty() {
            let cause = if short { Cause::Budget } else { cause };
            self.dispatch(now, instance, members, cause, None);
        }
        true
    }

    /// One call to an instance that is to show whether it works again.
    fn cut_probe(&mut self, now: Instant, instance: InstanceId) -> bool {
        let other = self.fleet.has_other(now, instance);
        let eligible = |member: &Member<P>| !(other && member.avoid == Some(instance));
        let place = self.batches.first(eligible).map(|head| head.ticket.place());
        let Some(place) = place else { return false };
        let (members, _) = self.take_batch(place, (1, 1), instance, None);
        let members = self.still_due(now, members);
        if !members.is_empty() {
            self.dispatch(now, instance, members, Cause::Probe, None);
        }
        true
    }

    /// Where no slot is free: an instance of which one more batch would show whether it works on
    /// several at once. What the running one still needs must be long enough to tell. Where it does not, the
    /// calls wait twice as long as others: they are of the least urgent, and on one instance at a time.
    fn choose_look(&mut self, now: Instant) -> Option<Choice> {
        if !self.batchable {
            return None;
        }
        let least = self.batches.last(|_| true)?.ticket.priority;
        let head = self.batches.first_of(least, |_| true)?;
        let waiting = self.batches.company(head).rows;
        // Enough for every instance several times over: they do not keep up.
        let enough = u64::from(self.fleet.cap(now)) * u64::from(self.plan.instances) * BACKLOG;
        let backlog = waiting >= enough;
        let instance = self.fleet.wants_look(now, backlog, self.is_mixed(now))?;
        let is_look = |overlap: Overlap| overlap.role == Role::Look;
        if self.flights.values().any(|flight| flight.overlap.is_some_and(is_look)) {
            return None;
        }
        let ticket = &head.ticket;
        if ticket.key.is_none() || head.avoid.is_some() {
            return None;
        }
        let cap = self.fleet.cap_of(now, instance);
        let rows = u32::try_from(waiting).unwrap_or(u32::MAX).min(cap);
        let overlap = self.overlap(now, instance, ticket.key.as_ref(), rows, Role::Look)?;
        let place = ticket.place();
        let width = self.fleet.width(instance)?;
        // Of several on their way the first is soon back.
        if overlap.remaining.times(2 * u64::from(width.slots())) < overlap.expected {
            return None;
        }
        width.look();
        Some(Choice { place, instance, rows: cap, cause: Cause::Width, expected: None })
    }

    /// What a batch that shares its instance with others is measured by.
    fn overlap(
        &self,
        now: Instant,
        instance: InstanceId,
        key: Option<&ShapeKey>,
        rows: u32,
        role: Role,
    ) -> Option<Overlap> {
        let expected = self.policy.expected(key, instance, rows)?;
        let remaining = self.policy.first_back(now, instance)?.0.since(now);
        Some(Overlap { expected, remaining, role })
    }

    /// Asks the policy about the most urgent call; where it holds, about the most urgent call of
    /// each other shape, so that one that waits for company does not hold up a full batch.
    fn choose(&mut self, now: Instant) -> Option<Choice> {
        if self.waiting.levels() > 1 {
            self.mixed_at = Some(now);
        }
        let has_other = |than| self.servers.iter().any(|server| server.id != than);
        // A call that an instance just failed waits for another one; who does not mind may have it.
        let shuns = |member: &Member<P>, id| member.avoid == Some(id) && has_other(id);
        let has_server = |member: &Member<P>| {
            self.servers.iter().any(|server| server.free > 0 && !shuns(member, server.id))
        };
        let first = match self
            .batches
            .last(|_| true)
            .filter(|last| self.is_floor(now, last) && has_server(last))
        {
            Some(last) => self.batches.first_of(last.ticket.priority, has_server),
            None => self.batches.first(has_server),
        };
        let first = first?.ticket.place();
        let heads = std::iter::once(first).chain(
            self.batches.heads().map(|head| head.ticket.place()).filter(|&place| place != first),
        );
        let mixed = self.is_mixed(now);
        let mut wake_at = Instant::LAST;
        for place in heads {
            let Some(head) = self.batches.get(place).filter(|head| has_server(head)) else {
                continue;
            };
            let Some(key) = head.ticket.key.as_ref().filter(|_| self.batchable) else {
                let server = least_loaded(&self.servers, |id| !shuns(head, id))?;
                let (instance, rows) = (server.id, server.cap);
                let cause = Cause::Alone;
                return Some(Choice { place, instance, rows, cause, expected: None });
            };
            let shunned: Vec<Server>;
            let servers = match head.avoid.filter(|&id| has_other(id)) {
                None => &self.servers,
                Some(avoid) => {
                    let others = self.servers.iter().filter(|server| server.id != avoid);
                    shunned = others.copied().collect();
                    &shunned
                }
            };
            let view = View {
                now,
                key,
                waiting_rows: self.batches.company(head).rows,
                all_waiting_rows: self.waiting.rows,
                mixed,
                oldest: head.ticket.arrived,
                deadline: head.ticket.due(),
                servers,
                objective: head.ticket.objective.map(|due| due.since(head.ticket.arrived)),
                draining: self.draining,
            };
            match self.policy.decide(&view) {
                Decision::Send { instance, rows, cause, expected } => {
                    return Some(Choice { place, instance, rows, cause, expected });
                }
                Decision::Hold(until) => wake_at = wake_at.min(until),
            }
        }
        self.wake_at = Some(wake_at).filter(|&at| at < Instant::LAST);
        None
    }

    /// Whether calls of several priorities wait, or did a moment ago.
    fn is_mixed(&self, now: Instant) -> bool {
        self.mixed_at.is_some_and(|at| now.since(at) < MIXED_MEMORY)
    }

    /// Whether this is the turn of the least urgent level, whose last call is given: others had so
    /// many rows meanwhile that a whole batch is owed to it.
    fn is_floor(&self, now: Instant, last: &Member<P>) -> bool {
        let more_urgent = last.ticket.priority > 1 && self.waiting.levels() > 1;
        more_urgent && self.owed_rows >= f64::from(self.fleet.cap(now))
    }

    /// What a batch adds to the rows that are owed to the least urgent level. Where it rides along
    /// often enough, it needs no turn.
    fn note_floor(&mut self, members: &[Member<P>]) {
        let Some(least) = self.batches.last(|_| true).map(|last| last.ticket.priority) else {
            self.owed_rows = 0.0;
            return;
        };
        for Member { ticket, .. } in members {
            let rows = f64::from(ticket.rows);
            let owed = if ticket.priority >= least { -rows } else { 0.0 };
            self.owed_rows = (self.owed_rows + rows / f64::from(FLOOR) + owed).max(0.0);
        }
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

    fn take_batch(
        &mut self,
        place: Place,
        (rows, most_rows): (u32, u32),
        instance: InstanceId,
        expected: Option<Instant>,
    ) -> (Vec<Member<P>>, bool) {
        let before = self.batches.len();
        let budget = Budget {
            rows,
            most_rows,
            bytes: self.plan.max_batch_bytes.unwrap_or(u64::MAX),
            tokens: self.plan.max_batch_tokens.unwrap_or(u64::MAX),
        };
        let Taken { members, late, short } =
            self.batches.take(place, budget, self.batchable, instance, expected);
        let whole = before - self.batches.len() == members.len() + late.len();
        for member in members.iter().chain(&late) {
            self.waiting.remove(&member.ticket, whole);
        }
        for member in late {
            self.refuse(member, RefuseReason::Deadline);
        }
        (members, short)
    }

    /// What all usable instances could serve with the largest batches, by the one that gets the next.
    /// Kinds of batch differ: the fastest lately counts, for nobody is to be refused by mistake.
    fn learn_capacity(&mut self, now: Instant, instance: InstanceId, key: Option<&ShapeKey>) {
        let cap = self.fleet.cap_of(now, instance);
        let Some(takes) = self.policy.expected(key, instance, cap) else { return };
        let slots = f64::from(self.fleet.usable_slots(now).max(1));
        let capacity = slots * f64::from(cap) / takes.as_nanos().max(1) as f64;
        self.capacity = capacity.max(CAPACITY_MEMORY * self.capacity);
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
        let rows: u32 = members.iter().map(|member| member.ticket.rows).sum();
        let key = first.ticket.key.clone();
        let slot = SlotId(self.next_slot);
        self.next_slot += 1;
        let batches = self.fleet.batches(instance);
        let (slots, proven) =
            self.fleet.width(instance).map_or((1, 1), |width| (width.slots(), width.proven()));
        let role = match (cause, batches < slots) {
            (Cause::Width, _) => Role::Look,
            (_, true) => Role::Unproven,
            (_, false) => Role::Ahead,
        };
        let overlap = (track == Track::Batch && batches >= proven)
            .then(|| self.overlap(now, instance, key.as_ref(), rows, role))
            .flatten();
        let should_take = self.should_take(now, instance, key.as_ref(), rows);
        self.note_waits(now, &members);
        let overdue_at = self.overdue_at(now, &members, should_take);
        self.overdue.extend(overdue_at.map(|at| (at, slot)));
        let expected = self.policy.expected(key.as_ref(), instance, rows);
        self.learn_capacity(now, instance, key.as_ref());
        let before = self.fleet.breaker(instance).map(|breaker| breaker.state());
        let probe = self.fleet.sent(now, instance, track, rows);
        self.notice_breaker(instance, before);
        if track == Track::Batch {
            *self.cuts.entry(cause).or_default() += 1;
            let key = key.as_ref();
            let telling = batches < proven;
            self.policy.sent(now, &Departure { slot, instance, key, rows, telling });
        }
        let places = members.iter().map(|member| member.ticket.id).collect();
        let mut flight = Flight {
            instance,
            track,
            rows,
            key,
            streams: if track == Track::Stream { self.fleet.streams(instance) } else { 0 },
            begun: false,
            sent: now,
            probe,
            case,
            overlap,
            expected: expected.filter(|_| batches < proven),
            overdue_at,
            recall: Recall::No,
            hedge_at: None,
            suspect: members.iter().any(|member| member.losses > 0),
            members: places,
            left: 0,
        };
        flight.hedge_at = self.hedge_at(now, &flight, &members, should_take);
        self.hedges.extend(flight.hedge_at.map(|at| (at, slot)));
        self.flights.insert(slot, flight);
        self.effects.push_back(Effect::Dispatch(slot, instance, Batch { members, rows, cause }));
    }
}
