//! The calls that wait on one track, most urgent first, and by shape key.
//!
//! A call stands in one ordered map, and by reference in the group of its shape key. Every
//! operation is logarithmic in the depth: a caller that leaves costs no walk, and neither does a
//! lane that interleaves many shapes.

use std::collections::{BTreeMap, BTreeSet};

use super::{CallId, InstanceId, Instant, Member, Payload, Place, ShapeKey, Ticket};

/// The calls that wait on one track.
#[derive(Debug)]
pub(super) struct Queue<P> {
    waiting: BTreeMap<Place, Member<P>>,
    /// Where the parts of each call stand, and how many there are.
    places: BTreeMap<CallId, (Place, u32)>,
    groups: BTreeMap<ShapeKey, Group>,
    /// Where the calls of each priority but the most urgent stand.
    levels: BTreeMap<u8, BTreeSet<Place>>,
}

#[derive(Debug, Default)]
struct Group {
    places: BTreeSet<Place>,
    rows: u64,
}

/// What was taken out of the queue.
#[derive(Debug)]
pub(super) struct Taken<P> {
    /// The calls of a batch.
    pub(super) members: Vec<Member<P>>,
    /// Calls that would be answered too late in it.
    pub(super) late: Vec<Member<P>>,
    /// Whether more would have joined, had there been bytes or tokens left.
    pub(super) short: bool,
}

/// How much a batch may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Rows that are wanted. A call that has more by itself goes whole nevertheless.
    pub(super) rows: u32,
    /// Rows that are possible: a call that has more is cut.
    pub(super) most_rows: u32,
    pub(super) bytes: u64,
    pub(super) tokens: u64,
}

/// What a batch holds.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    rows: u64,
    bytes: u64,
    longest_tokens: u64,
}

impl Load {
    fn with(self, ticket: &Ticket) -> Self {
        Self {
            rows: self.rows + u64::from(ticket.rows),
            bytes: self.bytes + ticket.bytes,
            longest_tokens: self.longest_tokens.max(u64::from(ticket.longest_tokens)),
        }
    }
}

impl Budget {
    fn bears(&self, load: &Load) -> bool {
        load.rows <= u64::from(self.rows)
            && load.bytes <= self.bytes
            && load.rows * load.longest_tokens <= self.tokens
    }

    /// How many rows of a call fit by themselves; at least 1.
    fn rows_of(&self, ticket: &Ticket) -> u32 {
        let fit = |budget: u64, each: u64| budget.checked_div(each).unwrap_or(u64::MAX);
        let by_bytes = fit(self.bytes, ticket.bytes.div_ceil(u64::from(ticket.rows.max(1))));
        let by_tokens = fit(self.tokens, u64::from(ticket.longest_tokens));
        let most = by_bytes.min(by_tokens).clamp(1, u64::from(self.most_rows.max(1)));
        u32::try_from(most).unwrap_or(u32::MAX)
    }
}

/// What can be said of the calls that could share the batch of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Company {
    /// The rows of all of them, the call's own among them.
    pub(super) rows: u64,
}

impl<P: Payload> Queue<P> {
    pub(super) fn new() -> Self {
        Self {
            waiting: BTreeMap::new(),
            places: BTreeMap::new(),
            groups: BTreeMap::new(),
            levels: BTreeMap::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn push(&mut self, member: Member<P>) {
        let place = member.ticket.place();
        if let Some(key) = &member.ticket.key {
            let group = match self.groups.get_mut(key) {
                Some(group) => group,
                None => self.groups.entry(key.clone()).or_default(),
            };
            group.places.insert(place);
            group.rows += u64::from(member.ticket.rows);
        }
        if member.ticket.priority > 1 {
            self.levels.entry(member.ticket.priority).or_default().insert(place);
        }
        self.places.entry(place.id()).or_insert((place, 0)).1 += 1;
        self.waiting.insert(place, member);
    }

    pub(super) fn remove(&mut self, place: Place) -> Option<Member<P>> {
        let member = self.waiting.remove(&place)?;
        if member.ticket.priority > 1
            && let Some(level) = self.levels.get_mut(&member.ticket.priority)
        {
            level.remove(&place);
        }
        if let Some((_, parts)) = self.places.get_mut(&place.id()) {
            *parts -= 1;
            if *parts == 0 {
                self.places.remove(&place.id());
            }
        }
        if let Some(key) = &member.ticket.key {
            self.forget(key, place, member.ticket.rows);
        }
        Some(member)
    }

    /// The most urgent call that `accepts` accepts. Few are ever refused: those that an instance
    /// just failed and that wait for another one.
    pub(super) fn first(&self, accepts: impl Fn(&Member<P>) -> bool) -> Option<&Member<P>> {
        self.waiting.values().find(|member| accepts(member))
    }

    /// The most urgent call of a priority below the first that `accepts` accepts.
    pub(super) fn first_of(
        &self,
        priority: u8,
        accepts: impl Fn(&Member<P>) -> bool,
    ) -> Option<&Member<P>> {
        let places = self.levels.get(&priority)?.iter();
        places.filter_map(|place| self.waiting.get(place)).find(|member| accepts(member))
    }

    /// The call that stands there.
    pub(super) fn get(&self, place: Place) -> Option<&Member<P>> {
        self.waiting.get(&place)
    }

    /// The least urgent call that `accepts` accepts.
    pub(super) fn last(&self, accepts: impl Fn(&Member<P>) -> bool) -> Option<&Member<P>> {
        self.waiting.values().rfind(|member| accepts(member))
    }

    /// The most urgent call of every shape key, and every call that rides alone.
    pub(super) fn heads(&self) -> impl Iterator<Item = &Member<P>> {
        let grouped =
            self.groups.values().filter_map(|group| self.waiting.get(group.places.first()?));
        let alone = self.waiting.values().filter(|member| member.ticket.key.is_none());
        grouped.chain(alone)
    }

    /// What could share a batch with `member`.
    pub(super) fn company(&self, member: &Member<P>) -> Company {
        let group = member.ticket.key.as_ref().and_then(|key| self.groups.get(key));
        Company { rows: group.map_or(u64::from(member.ticket.rows), |group| group.rows) }
    }

    /// Takes the call at `place` and, when it shares, the most urgent of its company that
    /// `instance` may serve, as long as they keep within `budget`.
    ///
    /// A first call that is beyond it by itself is cut, if it has several rows: the rest of it stays.
    /// Calls that would miss their objective, were the answer there when `expected`, are taken out,
    /// too, but apart.
    pub(super) fn take(
        &mut self,
        place: Place,
        budget: Budget,
        shared: bool,
        instance: InstanceId,
        expected: Option<Instant>,
    ) -> Taken<P> {
        let alone = |member: Option<Member<P>>| Taken {
            members: member.into_iter().collect(),
            late: Vec::new(),
            short: false,
        };
        let Some(first) = self.waiting.get(&place) else { return alone(None) };
        let key = first.ticket.key.clone().filter(|_| shared);
        let Some(key) = key else { return alone(self.remove(place)) };
        let most = budget.rows_of(&first.ticket);
        if first.ticket.rows > most {
            return Taken { short: most < budget.most_rows, ..alone(self.cut(place, most)) };
        }
        let Some(group) = self.groups.get(&key) else { return alone(None) };
        let mut load = Load::default();
        let (mut chosen, mut late, mut short) = (Vec::new(), Vec::new(), false);
        for &place in group.places.range(place..) {
            let Some(member) = self.waiting.get(&place) else { continue };
            if let (Some(due), Some(expected)) = (member.ticket.objective, expected)
                && due < expected
            {
                late.push(place);
                continue;
            }
            if member.avoid == Some(instance) && !chosen.is_empty() {
                continue;
            }
            let with = load.with(&member.ticket);
            // What is beyond the budget by itself, and cannot be cut, goes alone; but only the first
            // call was looked at for that.
            let is_first = chosen.is_empty() && late.is_empty();
            if !is_first && !budget.bears(&with) {
                short = !chosen.is_empty() && with.rows <= u64::from(budget.rows);
                break;
            }
            load = with;
            chosen.push(place);
            if load.rows >= u64::from(budget.rows) {
                break;
            }
        }
        let mut take = |places: Vec<Place>| {
            places.into_iter().filter_map(|place| self.remove(place)).collect()
        };
        Taken { members: take(chosen), late: take(late), short }
    }

    /// Cuts the first `rows` rows off the call at `place`.
    fn cut(&mut self, place: Place, rows: u32) -> Option<Member<P>> {
        let mut rest = self.remove(place)?;
        let head = rest.split_off(rows);
        self.push(rest);
        Some(head)
    }

    /// Takes every part of a call out.
    pub(super) fn remove_call(&mut self, id: CallId) -> Vec<Member<P>> {
        let Some(&(place, _)) = self.places.get(&id) else { return Vec::new() };
        let places: Vec<_> = self.waiting.range(place.parts()).map(|(&place, _)| place).collect();
        places.into_iter().filter_map(|place| self.remove(place)).collect()
    }

    fn forget(&mut self, key: &ShapeKey, place: Place, rows: u32) {
        let Some(group) = self.groups.get_mut(key) else { return };
        group.places.remove(&place);
        group.rows = group.rows.saturating_sub(u64::from(rows));
        if group.places.is_empty() {
            self.groups.remove(key);
        }
    }

    /// Empties the queue, most urgent first.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Member<P>> + use<P> {
        self.groups.clear();
        self.places.clear();
        self.levels.clear();
        std::mem::take(&mut self.waiting).into_values()
    }
}

impl<P: Payload> Member<P> {
    /// Cuts the first `rows` rows off into a member of their own.
    pub(super) fn split_off(&mut self, rows: u32) -> Self {
        let rows = rows.min(self.ticket.rows);
        let share = self.ticket.bytes * u64::from(rows) / u64::from(self.ticket.rows.max(1));
        let mut ticket = self.ticket.clone();
        ticket.rows = rows;
        ticket.bytes = share;
        self.ticket.rows -= rows;
        self.ticket.first_row += rows;
        self.ticket.bytes -= share;
        Self {
            ticket,
            payload: self.payload.split_off(rows),
            attempts: self.attempts,
            bounces: self.bounces,
            losses: self.losses,
            recalled: self.recalled,
            avoid: self.avoid,
        }
    }
}
