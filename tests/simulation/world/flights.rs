//! What becomes of the batches on their way.

use batchwise::lane::{Blame, Event, InstanceId, Member, Outcome, SlotId, Span};

use super::{Flying, Happening, World};
use crate::oracle::{Fate, Part};

impl World {
    /// Ends an instance and everything that it works on; another process takes its place soon.
    fn kill(&mut self, id: InstanceId) {
        self.dead[id.0 as usize] = true;
        self.at(Span::from_millis(400), Happening::Restart(id));
        let with_it = self.flying.iter_mut().filter(|(_, flying)| flying.instance == id);
        let slots: Vec<SlotId> = with_it
            .map(|(&slot, flying)| {
                flying.lost = true;
                slot
            })
            .collect();
        slots.into_iter().for_each(|slot| self.at(Span::ZERO, Happening::Finish(slot)));
    }

    pub(super) fn fly(
        &mut self,
        slot: SlotId,
        id: InstanceId,
        rows: u32,
        members: Vec<Member<Part>>,
    ) {
        let (base, per_row) = self.habits.service;
        let took = base.as_nanos() + per_row.as_nanos() * u64::from(rows);
        let freezes = self.random.chance(self.habits.freezes);
        let took = if freezes { self.habits.freeze } else { Span::from_nanos(took) };
        let unreached = self.dead[id.0 as usize];
        let took = if unreached { Span::from_nanos(100_000) } else { took };
        self.at(took, Happening::Finish(slot));
        let flying = Flying {
            instance: id,
            members,
            aborted: false,
            unreached,
            lost: false,
            twin: None,
            is_second: false,
            failed: None,
        };
        self.flying.insert(slot, flying);
    }

    /// The second request for the calls of a batch is given up.
    pub(super) fn part(&mut self, first: SlotId) {
        let second = self.flying.get_mut(&first).and_then(|flying| flying.twin.take());
        if let Some(second) = second
            && self.flying.remove(&second).is_some()
        {
            self.lane.on(self.now, Event::Done(second, Outcome::Cancelled));
        }
    }

    pub(super) fn finish(&mut self, slot: SlotId) {
        let Some(flying) = self.flying.get(&slot) else { return };
        if flying.failed.is_some() {
            return;
        }
        let twin = flying.twin.filter(|twin| self.flying.contains_key(twin));
        let failure = self.failure(slot);
        let second = self.flying.get(&slot).is_some_and(|flying| flying.is_second);
        let first = if second { twin } else { Some(slot) };
        match (failure, first) {
            (Some(Failure::Cancelled), _) => {
                self.part(slot);
                self.flying.remove(&slot);
                self.lane.on(self.now, Event::Done(slot, Outcome::Cancelled));
            }
            (Some(Failure::Of(blame)), Some(first)) if twin.is_some() => {
                // The other one may still answer, unless it failed before.
                self.report.failed_batches += 1;
                if second {
                    self.flying.remove(&slot);
                    self.lane.on(self.now, Event::Done(slot, Outcome::Failed(Vec::new(), blame)));
                    self.give_up(first);
                } else if let Some(flying) = self.flying.get_mut(&slot) {
                    flying.failed = Some(blame);
                }
            }
            (Some(Failure::Of(blame)), _) => {
                self.report.failed_batches += 1;
                let flying = self.flying.remove(&slot);
                let members = flying.map(|flying| flying.members).unwrap_or_default();
                self.lane.on(self.now, Event::Done(slot, Outcome::Failed(members, blame)));
            }
            (None, first) => {
                let answered = first.and_then(|first| self.flying.get_mut(&first));
                let members = answered.map(|first| std::mem::take(&mut first.members));
                self.answer(members.unwrap_or_default());
                if second {
                    self.report.overtaken += 1;
                    self.flying.remove(&slot);
                    let failed = first.and_then(|first| self.flying.remove(&first)?.failed);
                    let outcome = match failed {
                        Some(blame) => Outcome::Failed(Vec::new(), blame),
                        None => Outcome::Overtaken,
                    };
                    let served = Outcome::Served { batched: true };
                    self.lane.on(self.now, Event::Done(slot, served));
                    if let Some(first) = first {
                        self.lane.on(self.now, Event::Done(first, outcome));
                    }
                } else {
                    self.part(slot);
                    self.flying.remove(&slot);
                    let served = Outcome::Served { batched: true };
                    self.lane.on(self.now, Event::Done(slot, served));
                }
            }
        }
    }

    /// The second request failed: if the first one had, too, its calls have no answer.
    fn give_up(&mut self, first: SlotId) {
        let failed = self.flying.get_mut(&first).and_then(|first| {
            first.twin = None;
            first.failed
        });
        if let Some(blame) = failed
            && let Some(flying) = self.flying.remove(&first)
        {
            self.lane.on(self.now, Event::Done(first, Outcome::Failed(flying.members, blame)));
        }
    }

    /// What keeps an instance from answering, if anything does.
    fn failure(&mut self, slot: SlotId) -> Option<Failure> {
        let flying = self.flying.get(&slot)?;
        let twin = flying.twin.filter(|_| flying.is_second);
        let asked = twin.and_then(|first| self.flying.get(&first)).unwrap_or(flying);
        let ledger = self.ledger.borrow();
        let entries = || asked.members.iter().map(|member| &ledger[member.payload.call]);
        let poisoned = entries().any(|entry| entry.poison);
        let killing = entries().any(|entry| entry.killer);
        let rows = rows_of(&asked.members);
        drop(ledger);
        let (instance, lost) = (flying.instance, flying.lost);
        let (aborted, unreached) = (flying.aborted, flying.unreached);
        let kills = killing && !aborted && !unreached && !lost;
        if kills {
            self.report.killed += 1;
            self.kill(instance);
        }
        if kills || lost {
            Some(Failure::Of(Blame::Lost))
        } else if unreached {
            Some(Failure::Of(Blame::Connection))
        } else if aborted {
            Some(Failure::Cancelled)
        } else if self.broken[instance.0 as usize] || self.random.chance(self.habits.resets) {
            let lost = self.random.chance(0.5);
            Some(Failure::Of(if lost { Blame::Lost } else { Blame::Connection }))
        } else if self.random.chance(self.habits.overloads) {
            Some(Failure::Of(Blame::Overload { retry_after: None }))
        } else if poisoned {
            Some(Failure::Of(Blame::Broken))
        } else if rows > self.habits.real_limit {
            Some(Failure::Of(Blame::Refused))
        } else {
            None
        }
    }

    fn answer(&mut self, members: Vec<Member<Part>>) {
        for member in members {
            let waited = self.now.since(member.ticket.arrived);
            self.report.longest = self.report.longest.max(waited);
            self.report.late += usize::from(waited.times(2) > self.habits.freeze);
            let gone = member.payload.ledger.borrow()[member.payload.call].cancelled;
            member.payload.settle(if gone { Fate::Dropped } else { Fate::Answered });
        }
    }
}

/// Why a batch has no answer.
enum Failure {
    Of(Blame),
    Cancelled,
}

pub(super) fn rows_of(members: &[Member<Part>]) -> u32 {
    members.iter().map(|member| member.ticket.rows).sum()
}
