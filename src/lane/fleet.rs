//! The instances of a model: who is up, who has a free slot, who gets the next batch.

mod route;

use super::breaker::{Admission, Breaker, BreakerState};
use super::event::LanePlan;
use super::lead::Lead;
use super::limit::SizeLimit;
use super::policy::Server;
use super::streams::{EngineLoad, StreamLimit};
use super::width::Width;
use super::{InstanceId, Instant, Span, Track};

pub(super) use self::route::StreamAsk;

/// How long an instance that is too busy is left alone the first time.
const FIRST_PAUSE: Span = Span::from_millis(20);
const LONGEST_PAUSE: Span = Span::from_secs(2);
/// A wait that is still better than telling the callers that there is nobody.
const BEARABLE: Span = Span::from_secs(1);

/// What the health checks say of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Nothing yet.
    Unknown,
    /// It answers.
    Up,
    /// It answers that it is not ready yet: it loads the model.
    Loading,
    /// It does not.
    Down,
}

/// What others may know of an instance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InstanceView {
    /// Its name.
    pub id: InstanceId,
    /// What the health checks say.
    pub health: Health,
    /// Its circuit breaker.
    pub breaker: BreakerState,
    /// Batches and streams on their way.
    pub in_flight: u32,
    /// Batches that it may run at once.
    pub batch_slots: u32,
    /// The most rows that its next batch may have.
    pub batch_cap: u32,
    /// Streams that it may run at once.
    pub stream_slots: u32,
    /// What it said of its load, unless that is too long ago.
    pub load: Option<EngineLoad>,
    /// Whether an operator has taken it out.
    pub drained: bool,
    /// Whether it does not answer a batch that is long overdue, and gets nothing meanwhile.
    pub stalled: bool,
}

#[derive(Clone, Debug)]
struct Member {
    health: Health,
    /// Since when it has said that it loads.
    loading_since: Instant,
    breaker: Breaker,
    /// How many rows it takes.
    limit: SizeLimit,
    /// How many batches it takes at once.
    width: Width,
    /// How many streams it takes at once.
    stream_limit: StreamLimit,
    batches: u32,
    streams: u32,
    rows: u64,
    drained: bool,
    /// Batches that were called back and are not answered yet.
    stalled: u32,
    /// Whether it is kept for calls that were lost with an instance, and gets nothing else.
    reserved: bool,
    paused_until: Instant,
    pauses: u32,
    last_sent: u64,
    /// How long before it is done it gets its next batch.
    lead: Lead,
    /// Batches, one after the other, that another instance answered first.
    overtaken: u32,
    /// When the last batch came back.
    last_back: Instant,
}

/// What a lane may hope for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prospect {
    /// Somebody will serve, sooner or later.
    Some,
    /// Nobody will; the span says when it is worth asking again.
    None(Span),
}

/// The instances of a model.
#[derive(Clone, Debug)]
pub(super) struct Fleet {
    members: Vec<Member>,
    sent: u64,
    panic_threshold: f64,
    /// For how long after an instance began to load calls wait for it.
    loading_hold: Span,
}

impl Fleet {
    pub(super) fn new(plan: &LanePlan) -> Self {
        let member = || Member {
            health: Health::Unknown,
            loading_since: Instant::default(),
            breaker: Breaker::new(plan.breaker),
            limit: SizeLimit::new(plan.max_batch_rows),
            width: Width::new(plan.batch_slots, plan.learn_slots),
            stream_limit: StreamLimit::new(plan.stream_slots),
            batches: 0,
            streams: 0,
            rows: 0,
            drained: false,
            stalled: 0,
            reserved: false,
            paused_until: Instant::default(),
            pauses: 0,
            last_sent: 0,
            lead: Lead::default(),
            overtaken: 0,
            last_back: Instant::default(),
        };
        let members = (0..plan.instances).map(|_| member()).collect();
        Self {
            members,
            sent: 0,
            panic_threshold: plan.breaker.panic_threshold,
            loading_hold: plan.loading_hold,
        }
    }

    /// Knows what another fleet has learned of the instances that it had, too; `before`: what each
    /// was called there.
    pub(super) fn succeed(&mut self, now: Instant, other: &Self, before: &[Option<InstanceId>]) {
        for (member, before) in self.members.iter_mut().zip(before) {
            let Some(known) = before.and_then(|id| other.members.get(id.0 as usize)) else {
                continue;
            };
            member.limit.succeed(&known.limit);
            member.width.succeed(&known.width);
            member.stream_limit.succeed(&known.stream_limit);
            member.lead.clone_from(&known.lead);
            member.breaker.succeed(now, &known.breaker);
            // The batch that it does not answer is not there to be its probe.
            if known.stalled > 0 {
                member.breaker.trip(now);
            }
            (member.paused_until, member.pauses) = (known.paused_until, known.pauses);
        }
        self.count_out();
    }

    pub(super) fn views(&self, now: Instant) -> impl Iterator<Item = InstanceView> + '_ {
        self.members.iter().zip(0..).map(move |(member, index)| InstanceView {
            id: InstanceId(index),
            health: member.health,
            breaker: member.breaker.state(),
            in_flight: member.batches + member.streams,
            batch_slots: member.width.slots(),
            batch_cap: member.limit.cap(now),
            stream_slots: member.stream_limit.limit(),
            load: member.stream_limit.load(now),
            drained: member.drained,
            stalled: member.stalled > 0,
        })
    }

    /// The least loaded usable instance with a free slot, and what its breaker lets through.
    /// `avoid` is chosen only when no other instance is usable at all, busy ones included.
    pub(super) fn choose(
        &self,
        now: Instant,
        track: Track,
        avoid: Option<InstanceId>,
    ) -> Option<(InstanceId, Admission)> {
        let shunned = avoid.filter(|&avoid| self.has_other(now, avoid));
        self.members
            .iter()
            .zip((0..).map(InstanceId))
            .filter(|&(member, id)| {
                Some(id) != shunned && member.is_usable(now) && member.has_slot(track)
            })
            .min_by_key(|(member, _)| {
                (member.batches + member.streams, member.rows, member.last_sent)
            })
            .map(|(member, id)| (id, member.breaker.admission(now)))
    }

    /// An instance that does nothing else, for calls that may be the end of it: it is kept free of others
    /// until [`Fleet::release`]. Not `avoid` where there is another instance, and none whose breaker
    /// wants a probe unless these calls are to be the `probe`. `None` while it is not idle yet, or none
    /// is usable.
    pub(super) fn reserve(
        &mut self,
        now: Instant,
        avoid: Option<InstanceId>,
        probe: bool,
    ) -> Option<InstanceId> {
        let reserved = self.members.iter().position(|member| member.reserved);
        self.release();
        let shunned = avoid.filter(|&avoid| self.has_other(now, avoid));
        let open = |member: &Member| matches!(member.breaker.admission(now), Admission::Batches(_));
        let best = self
            .members
            .iter()
            .zip((0..).map(InstanceId))
            .filter(|&(member, id)| Some(id) != shunned && member.is_usable(now))
            .filter(|&(member, _)| probe || open(member))
            .min_by_key(|&(member, id)| {
                let kept = reserved == Some(id.0 as usize);
                (!open(member), !kept, member.batches, member.last_sent)
            });
        let id = best.map(|(_, id)| id)?;
        let member = self.member(id)?;
        member.reserved = true;
        (member.batches == 0).then_some(id)
    }

    /// No instance is kept for anything any more.
    pub(super) fn release(&mut self) {
        self.members.iter_mut().for_each(|member| member.reserved = false);
    }

    /// A usable instance whose breaker wants a probe; not `avoid` where there is another instance.
    pub(super) fn probe(&self, now: Instant, avoid: Option<InstanceId>) -> Option<InstanceId> {
        let shunned = avoid.filter(|&avoid| self.has_other(now, avoid));
        self.members.iter().zip((0..).map(InstanceId)).find_map(|(member, id)| {
            let wants = member.breaker.admission(now) == Admission::Probe;
            (wants && Some(id) != shunned && member.is_usable(now) && member.has_slot(Track::Batch))
                .then_some(id)
        })
    }

    /// The usable instances that no probe is needed for. A slot whose batch is back in a moment counts
    /// as free; returns when the next one will, given when each instance is expected to be done.
    pub(super) fn servers(
        &self,
        now: Instant,
        waiting: u64,
        done: impl Fn(InstanceId) -> Option<(Instant, Span)>,
        servers: &mut Vec<Server>,
    ) -> Option<Instant> {
        servers.clear();
        let mut soonest: Option<Instant> = None;
        for (member, id) in self.members.iter().zip((0..).map(InstanceId)) {
            let Admission::Batches(ramp) = member.breaker.admission(now) else { continue };
            if !member.is_usable(now) {
                continue;
            }
            let mut free = member.width.slots().saturating_sub(member.batches);
            let mut soon = false;
            // While the limit is being learned, one batch at a time finds it out.
            let ahead = free == 0 && member.width.slots() == 1 && member.batches == 1;
            if ahead
                && ramp == u32::MAX
                && member.limit.is_told()
                && let Some((at, expected)) = done(id)
                && let Some(lead) =
                    member.lead.of(expected, waiting >= u64::from(member.limit.cap(now)))
            {
                let at = at - lead;
                free = u32::from(at <= now);
                soon = at <= now;
                if at > now {
                    soonest = Some(soonest.map_or(at, |soonest| soonest.min(at)));
                }
            }
            servers.push(Server {
                id,
                slots: member.width.slots(),
                free,
                cap: member.limit.cap(now).min(ramp).max(1),
                ahead: soon,
                last_sent: member.last_sent,
            });
        }
        soonest
    }

    pub(super) fn has_other(&self, now: Instant, than: InstanceId) -> bool {
        self.members
            .iter()
            .zip((0..).map(InstanceId))
            .any(|(member, id)| id != than && member.is_usable(now))
    }

    /// Whether another instance is up, if it is not usable just now.
    pub(super) fn has_other_up(&self, than: InstanceId) -> bool {
        let mut members = self.members.iter().zip((0..).map(InstanceId));
        members.any(|(member, id)| id != than && member.health == Health::Up && !member.drained)
    }

    /// A batch goes out. Returns whether it is a breaker's probe.
    pub(super) fn sent(&mut self, now: Instant, id: InstanceId, track: Track, rows: u32) -> bool {
        self.sent += 1;
        let sent = self.sent;
        let Some(member) = self.member(id) else { return false };
        *member.in_flight(track) += 1;
        member.rows += u64::from(rows);
        member.last_sent = sent;
        if track == Track::Stream {
            member.stream_limit.sent(member.streams);
        }
        if track == Track::Batch {
            member.width.sent();
            // It counts among them already.
            member.lead.sent(member.batches > member.width.slots());
        }
        let probe = member.breaker.sent(now);
        if probe {
            self.count_out();
        }
        probe
    }

    /// Instances are out, or back: whether too few are left.
    pub(super) fn count_out(&mut self) {
        let members = || self.members.iter().filter(|member| !member.drained);
        let closed = |member: &&Member| member.breaker.state() == BreakerState::Closed;
        let left = members().filter(|member| member.health == Health::Up).filter(closed).count();
        let panic = (left as f64) < self.panic_threshold * members().count() as f64;
        self.members.iter_mut().for_each(|member| member.breaker.set_panic(panic));
    }

    /// A batch is back: its slot is free again. Returns when the one before came back.
    pub(super) fn returned(
        &mut self,
        now: Instant,
        id: InstanceId,
        track: Track,
        rows: u32,
    ) -> Option<Instant> {
        let member = self.member(id)?;
        let in_flight = member.in_flight(track);
        *in_flight = in_flight.saturating_sub(1);
        member.rows = member.rows.saturating_sub(u64::from(rows));
        match track {
            Track::Batch => Some(std::mem::replace(&mut member.last_back, now)),
            Track::Stream => None,
        }
    }

    /// The most rows that any instance's next batch may have; at least 1.
    pub(super) fn cap(&self, now: Instant) -> u32 {
        self.members.iter().map(|member| member.limit.cap(now)).max().unwrap_or(1)
    }

    /// The most rows that the next batch of an instance may have.
    pub(super) fn cap_of(&self, now: Instant, id: InstanceId) -> u32 {
        self.members.get(id.0 as usize).map_or(1, |member| member.limit.cap(now))
    }

    /// Batches that the usable instances may run at once.
    pub(super) fn usable_slots(&self, now: Instant) -> u32 {
        let usable = self.members.iter().filter(|member| member.is_usable(now));
        usable.map(|member| member.width.slots()).sum()
    }

    /// The largest batch that has worked on any instance.
    pub(super) fn worked(&self) -> u32 {
        self.members.iter().map(|member| member.limit.worked()).max().unwrap_or(0)
    }

    pub(super) fn limit(&mut self, id: InstanceId) -> Option<&mut SizeLimit> {
        self.member(id).map(|member| &mut member.limit)
    }

    /// Somebody has said how many rows a batch may have, or has taken that back.
    pub(super) fn tell_limit(&mut self, told: Option<u32>) {
        for member in &mut self.members {
            member.limit.tell(told);
        }
    }

    /// An instance whose slots are all in use, of which one more batch would show whether it could
    /// have more of them.
    pub(super) fn wants_look(
        &self,
        now: Instant,
        backlog: bool,
        mixed: bool,
    ) -> Option<InstanceId> {
        let mut members = self.members.iter().zip((0..).map(InstanceId));
        members.find_map(|(member, id)| {
            let trusted = member.breaker.admission(now) == Admission::Batches(u32::MAX);
            let full = member.batches == member.width.slots();
            (member.width.wants_look(backlog, mixed) && trusted && full && member.is_usable(now))
                .then_some(id)
        })
    }

    pub(super) fn width(&mut self, id: InstanceId) -> Option<&mut Width> {
        self.member(id).map(|member| &mut member.width)
    }

    /// A stream is about to go out that less urgent ones leave places to.
    pub(super) fn led(&mut self, id: InstanceId) {
        if let Some(member) = self.member(id) {
            member.stream_limit.led(member.streams);
        }
    }

    pub(super) fn stream_limit(&mut self, id: InstanceId) -> Option<&mut StreamLimit> {
        self.member(id).map(|member| &mut member.stream_limit)
    }

    /// Streams on their way to an instance.
    pub(super) fn streams(&self, id: InstanceId) -> u32 {
        self.members.get(id.0 as usize).map_or(0, |member| member.streams)
    }

    /// An instance says how much it has to do.
    pub(super) fn tell_load(&mut self, now: Instant, id: InstanceId, load: EngineLoad) {
        if let Some(member) = self.member(id) {
            member.stream_limit.tell_load(now, load, member.streams);
        }
    }

    /// Batches on their way to an instance.
    pub(super) fn batches(&self, id: InstanceId) -> u32 {
        self.members.get(id.0 as usize).map_or(0, |member| member.batches)
    }

    pub(super) fn lead(&mut self, id: InstanceId) -> Option<&mut Lead> {
        self.member(id).map(|member| &mut member.lead)
    }

    pub(super) fn breaker(&mut self, id: InstanceId) -> Option<&mut Breaker> {
        self.member(id).map(|member| &mut member.breaker)
    }

    pub(super) fn served(&mut self, id: InstanceId) {
        if let Some(member) = self.member(id) {
            member.pauses = 0;
            member.overtaken = 0;
        }
    }

    /// Another instance answered one of its batches first.
    pub(super) fn was_overtaken(&mut self, id: InstanceId) {
        if let Some(member) = self.member(id) {
            member.overtaken = member.overtaken.saturating_add(1);
        }
    }

    /// Batches, one after the other, that another instance answered first.
    pub(super) fn overtaken(&self, id: InstanceId) -> u32 {
        self.members.get(id.0 as usize).map_or(0, |member| member.overtaken)
    }

    /// The instance said that it has too much to do. Of what it asked for, the latest end counts.
    pub(super) fn pause(&mut self, now: Instant, id: InstanceId, retry_after: Option<Span>) {
        let Some(member) = self.member(id) else { return };
        let own = FIRST_PAUSE.times(1 << member.pauses.min(16)).min(LONGEST_PAUSE);
        member.pauses += 1;
        let until = now + retry_after.map_or(own, |asked| asked.min(LONGEST_PAUSE));
        member.paused_until = member.paused_until.max(until);
    }

    /// One of its batches was called back: it gets nothing more until that is back.
    pub(super) fn stalls(&mut self, id: InstanceId) {
        if let Some(member) = self.member(id) {
            member.stalled += 1;
        }
    }

    /// A batch that was called back is back. Returns whether it was the last one.
    pub(super) fn stalls_no_more(&mut self, id: InstanceId) -> bool {
        let Some(member) = self.member(id) else { return false };
        member.stalled = member.stalled.saturating_sub(1);
        member.stalled == 0
    }

    pub(super) fn set_health(&mut self, now: Instant, id: InstanceId, health: Health) -> bool {
        let Some(member) = self.member(id) else { return false };
        if health == Health::Loading && member.health != health {
            member.loading_since = now;
        }
        let changed = std::mem::replace(&mut member.health, health) != health;
        self.count_out();
        changed
    }

    /// An operator takes an instance out, or puts it back: then whatever spoke against it is forgotten.
    pub(super) fn set_drained(&mut self, now: Instant, id: InstanceId, drained: bool) {
        let Some(member) = self.member(id) else { return };
        member.drained = drained;
        if !drained {
            member.breaker.reset();
            member.paused_until = now;
        }
        self.count_out();
    }

    pub(super) fn set_batch_slots(&mut self, id: InstanceId, slots: u32) {
        if let Some(member) = self.member(id) {
            member.width.tell(slots);
        }
    }

    /// Whether waiting makes sense. An instance whose first checks are pending, that is paused, that
    /// loads, or whose breaker lets a probe through soon, is worth waiting for.
    pub(super) fn prospect(&self, now: Instant) -> Prospect {
        let mut soonest = LONGEST_PAUSE;
        for member in &self.members {
            if member.drained || member.health == Health::Down {
                continue;
            }
            if member.health == Health::Loading {
                if now < member.loading_since + self.loading_hold {
                    return Prospect::Some;
                }
                continue;
            }
            if member.batches + member.streams > 0 {
                return Prospect::Some;
            }
            match member.breaker.admission(now) {
                Admission::Nothing(until) => {
                    let wait = until.since(now);
                    if wait <= BEARABLE && member.breaker.out_for(now) <= BEARABLE {
                        return Prospect::Some;
                    }
                    soonest = soonest.min(wait);
                }
                Admission::Batches(_) | Admission::Probe => return Prospect::Some,
            }
        }
        Prospect::None(soonest)
    }

    /// Whether calls may be waiting for no more than an instance that loads.
    pub(super) fn is_loading(&self) -> bool {
        let is = |health| move |member: &Member| member.health == health;
        self.members.iter().any(is(Health::Loading)) && !self.members.iter().any(is(Health::Up))
    }

    /// When an instance that nobody holds up becomes usable by itself, or has loaded for too long.
    pub(super) fn wake_at(&self, now: Instant) -> Option<Instant> {
        self.members
            .iter()
            .filter(|member| !member.drained && member.health != Health::Down)
            .map(|member| match member.breaker.admission(now) {
                _ if member.health == Health::Loading => member.loading_since + self.loading_hold,
                Admission::Nothing(until) => until.max(member.paused_until),
                _ => member.paused_until,
            })
            .filter(|&at| at > now)
            .min()
    }

    fn member(&mut self, id: InstanceId) -> Option<&mut Member> {
        self.members.get_mut(id.0 as usize)
    }
}

impl Member {
    fn is_usable(&self, now: Instant) -> bool {
        self.health == Health::Up
            && !self.drained
            && self.stalled == 0
            && !self.reserved
            && self.paused_until <= now
            && !matches!(self.breaker.admission(now), Admission::Nothing(_))
    }

    fn has_slot(&self, track: Track) -> bool {
        match track {
            Track::Batch => self.batches < self.width.slots(),
            Track::Stream => self.streams < self.stream_limit.limit(),
        }
    }

    fn in_flight(&mut self, track: Track) -> &mut u32 {
        match track {
            Track::Batch => &mut self.batches,
            Track::Stream => &mut self.streams,
        }
    }
}
