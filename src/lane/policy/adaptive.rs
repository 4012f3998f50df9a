//! The policy that learns: no setting, at every load.
//!
//! Every time a slot is free it weighs sending what waits against holding it, with what it has
//! learned: how long batches take ([`Curve`]), how fast rows arrive ([`Rate`]), whether they come in
//! clumps ([`Gaps`]). With one instance it sends; with several it keeps them out of step
//! ([`balance`](super::balance)); and it takes no more rows than pay.

use std::collections::BTreeMap;

use super::curve::Curve;
use super::explore::{self, explore, explore_above};
use super::gather::Gaps;
use super::objective::cap_for;
use super::outlook::{Outlook, Size};
use super::rate::Rate;
use super::sizes::{Calculated, Calculation};
use super::spread::Spread;
use super::tables::Tables;
use super::{
    Decision, Departure, Known, Learned, LearnedCurve, Policy, PolicyExperience, Server, View,
    least_loaded, millis, span,
};
use crate::lane::{Cause, InstanceId, Instant, ShapeKey, SlotId, Span};

/// Kinds of batch that are remembered; beyond it the one unused for longest is forgotten.
const FAMILIES: usize = 64;
/// Kinds of batch that the status shows.
const SHOWN: usize = 8;
/// Answers before anything is decided by them.
const ENOUGH: u64 = 3;
/// Answers before it is relied upon when an instance will be done.
const SETTLED: u64 = 16;
/// An instance that takes so many times the usual is slow.
const SLOW: f64 = 1.5;
/// How often a slow instance gets one call, to see whether it has recovered.
const SLOW_PROBE: Span = Span::from_secs(1);
/// A timer is not set for less, in milliseconds.
const MOMENT: f64 = 0.02;
/// Rounding, in milliseconds.
const NOTHING: f64 = 1e-3;
/// Instances whose factors differ by less are equally fast.
const ALIKE: f64 = 1.05;

/// Learns service times and arrival rates, and balances what waits against what will come.
#[derive(Debug)]
pub struct Adaptive {
    instances: usize,
    families: BTreeMap<Option<ShapeKey>, Family>,
    flights: Vec<Flight>,
    /// All arrivals: what the instances share, whatever its shape.
    rate: Rate,
    /// How long batches take, smoothed, in milliseconds.
    batch_millis: f64,
    /// When each instance last got a call because it is slow.
    slow_probes: Vec<Instant>,
    batches: u64,
    /// What is to be calculated; at most one for each kind of batch.
    calculations: Vec<Calculation>,
}

/// What is known of the calls of one shape key.
#[derive(Debug)]
struct Family {
    curve: Curve,
    tables: Tables,
    rate: Rate,
    gaps: Gaps,
    spread: Spread,
    last_arrival: Option<Instant>,
    /// Set while what waits is held.
    held: Option<Held>,
    last_used: Instant,
    /// Whether a batch that could have looked at another size would not have told what it costs.
    puts_off: bool,
    wanted: Option<Calculation>,
}

/// What waits is held.
#[derive(Clone, Copy, Debug)]
struct Held {
    since: Instant,
    cause: Cause,
    /// The rows that waited when it began.
    rows: u32,
}

/// A batch on its way.
#[derive(Debug)]
struct Flight {
    slot: SlotId,
    instance: InstanceId,
    key: Option<ShapeKey>,
    rows: u32,
    sent: Instant,
    /// Whether its time tells what a batch takes.
    telling: bool,
}

impl Adaptive {
    /// A policy for so many instances, of which nothing is known.
    pub fn new(instances: u32) -> Self {
        Self {
            instances: instances as usize,
            families: BTreeMap::new(),
            flights: Vec::new(),
            rate: Rate::default(),
            batch_millis: 0.0,
            slow_probes: vec![Instant::default(); instances as usize],
            batches: 0,
            calculations: Vec::new(),
        }
    }

    fn family(&mut self, now: Instant, key: Option<&ShapeKey>) -> &mut Family {
        let key = key.cloned();
        if !self.families.contains_key(&key) {
            self.forget_one();
        }
        let instances = self.instances;
        let family = self.families.entry(key).or_insert_with(|| Family::new(instances));
        family.last_used = now;
        family
    }

    fn forget_one(&mut self) {
        if self.families.len() < FAMILIES {
            return;
        }
        let oldest = self.families.iter().min_by_key(|(_, family)| family.last_used);
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            self.families.remove(&key);
        }
    }

    /// Remaining times of what is on its way to `servers`, ascending. Lost batches do not count.
    fn remaining(&self, now: Instant, servers: &[Server]) -> Vec<(f64, InstanceId)> {
        let mut remaining: Vec<(f64, InstanceId)> = self
            .flights
            .iter()
            // A server that is done in a moment counts as free, and not as busy besides.
            .filter(|flight| {
                servers.iter().any(|server| server.id == flight.instance && !server.ahead)
            })
            .filter_map(|flight| {
                let curve = &self.families.get(&flight.key)?.curve;
                let elapsed = millis(now.since(flight.sent));
                Some((curve.remaining(flight.instance, flight.rows, elapsed)?, flight.instance))
            })
            .collect();
        remaining.sort_unstable_by(|left, right| left.0.total_cmp(&right.0));
        remaining
    }
}

impl Policy for Adaptive {
    fn arrived(&mut self, now: Instant, key: Option<&ShapeKey>, rows: u32) {
        self.rate.arrived(now, rows);
        let batch_millis = self.batch_millis;
        let family = self.family(now, key);
        if key.is_none() {
            return;
        }
        let rate = family.rate.per_milli(now, batch_millis);
        if let Some(last) = family.last_arrival.replace(now) {
            let recent = family.rate.calls_within(now, span(family.curve.time(1)));
            family.gaps.arrived(millis(now.since(last)), rate, recent as f64);
        }
        family.rate.arrived(now, rows);
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let Some(idlest) = least_loaded(view.servers, |_| true) else {
            return Decision::Hold(Instant::LAST);
        };
        let waiting = u32::try_from(view.waiting_rows).unwrap_or(u32::MAX);
        let greedy = |server: &Server| Decision::Send {
            instance: server.id,
            rows: server.cap,
            expected: None,
            cause: match (waiting >= server.cap, view.draining) {
                (true, _) => Cause::Full,
                (false, true) => Cause::Drain,
                (false, false) => Cause::Idle,
            },
        };
        let remaining = self.remaining(view.now, view.servers);
        let rate = self.rate.per_milli(view.now, self.batch_millis);
        let batches = self.batches;
        let slow_probes = std::mem::take(&mut self.slow_probes);
        let family = self.family(view.now, Some(view.key));
        let decision = if family.curve.answers() < ENOUGH || view.draining {
            greedy(idlest)
        } else {
            family.decide(view, waiting, &remaining, rate, batches, &slow_probes)
        };
        if let Decision::Send { .. } = decision
            && let Some(held) = family.held.take()
            && held.cause == Cause::Gather
            && held.rows == waiting
        {
            family.gaps.missed();
        }
        let wanted = family.wanted.take();
        self.slow_probes = slow_probes;
        self.calculations.extend(wanted);
        if let Decision::Send { instance, cause: Cause::Probe, .. } = decision
            && let Some(probed) = self.slow_probes.get_mut(instance.0 as usize)
        {
            *probed = view.now;
        }
        decision
    }

    fn least_time(&self, key: Option<&ShapeKey>) -> Span {
        let family = self.families.get(&key.cloned());
        let known = family.filter(|family| family.curve.answers() >= ENOUGH);
        known.map_or(Span::ZERO, |Family { curve, .. }| {
            // Some are faster than most.
            let margin = (1.0 - 3.0 * curve.noise()).max(0.5);
            span(curve.time(1) * curve.least_factor() * margin)
        })
    }

    fn expected(&self, key: Option<&ShapeKey>, instance: InstanceId, rows: u32) -> Option<Span> {
        let curve = &self.families.get(&key.cloned())?.curve;
        let time = curve.time(rows) * curve.factor(instance);
        (curve.answers() >= ENOUGH).then(|| span(time))
    }

    fn first_back(&self, now: Instant, instance: InstanceId) -> Option<(Instant, Span)> {
        let mine = self.flights.iter().filter(|flight| flight.instance == instance);
        let remaining = mine.filter_map(|flight| {
            let curve = &self.families.get(&flight.key)?.curve;
            let left = curve.remaining(instance, flight.rows, millis(now.since(flight.sent)))?;
            let known = curve.answers() >= SETTLED;
            known.then(|| (left, curve.time(flight.rows) * curve.factor(instance)))
        });
        let (left, takes) = remaining.min_by(|one, other| one.0.total_cmp(&other.0))?;
        Some((now + span(left), span(takes)))
    }

    fn begun(&mut self, instance: InstanceId, at: Instant) {
        for flight in self.flights.iter_mut().filter(|flight| flight.instance == instance) {
            flight.sent = flight.sent.max(at);
        }
    }

    fn sent(&mut self, now: Instant, departure: &Departure<'_>) {
        self.batches += 1;
        self.flights.push(Flight {
            slot: departure.slot,
            instance: departure.instance,
            key: departure.key.cloned(),
            rows: departure.rows,
            sent: now,
            telling: departure.telling,
        });
    }

    fn back(&mut self, now: Instant, slot: SlotId, served: bool) {
        let Some(index) = self.flights.iter().position(|flight| flight.slot == slot) else {
            return;
        };
        let flight = self.flights.swap_remove(index);
        if !served || !flight.telling {
            return;
        }
        let took = millis(now.since(flight.sent));
        let smoothing = if self.batch_millis == 0.0 { 1.0 } else { 0.1 };
        self.batch_millis += smoothing * (took - self.batch_millis);
        self.family(now, flight.key.as_ref()).curve.observe(flight.instance, flight.rows, took);
    }

    fn calculation(&mut self) -> Option<Calculation> {
        self.calculations.pop()
    }

    fn calculated(&mut self, calculated: Calculated) {
        if let Some(family) = self.families.get_mut(&calculated.key) {
            family.tables.learn(calculated);
        }
    }

    fn experience(&self) -> PolicyExperience {
        let known = |(key, family): (&Option<ShapeKey>, &Family)| (key.clone(), family.known());
        let families = self.families.iter().map(known).collect();
        PolicyExperience { families, batch_millis: self.batch_millis }
    }

    fn succeed(&mut self, experience: &PolicyExperience, before: &[Option<InstanceId>]) {
        let family = |known: &Known| Family {
            curve: known.curve.of(before),
            tables: known.tables.clone(),
            gaps: known.gaps.clone(),
            last_used: known.last_used,
            ..Family::new(self.instances)
        };
        let families = experience.families.iter();
        self.families = families.map(|(key, known)| (key.clone(), family(known))).collect();
        self.batch_millis = experience.batch_millis;
    }

    fn learned(&self, now: Instant) -> Learned {
        let mut curves: Vec<LearnedCurve> =
            self.families.values().map(|family| family.curve.learned()).collect();
        curves.retain(|curve| curve.batches > 0);
        curves.sort_by_key(|curve| std::cmp::Reverse(curve.batches));
        curves.truncate(SHOWN);
        let rate = self.rate.per_milli(now, self.batch_millis);
        Learned { rows_per_second: rate * 1000.0, curves }
    }
}

impl Family {
    fn new(instances: usize) -> Self {
        Self {
            curve: Curve::new(instances),
            tables: Tables::default(),
            rate: Rate::default(),
            gaps: Gaps::default(),
            spread: Spread::default(),
            last_arrival: None,
            held: None,
            last_used: Instant::default(),
            puts_off: false,
            wanted: None,
        }
    }

    fn known(&self) -> Known {
        Known {
            curve: self.curve.clone(),
            tables: self.tables.handed_over(),
            gaps: self.gaps.clone(),
            last_used: self.last_used,
        }
    }

    fn decide(
        &mut self,
        view: &View<'_>,
        waiting: u32,
        remaining: &[(f64, InstanceId)],
        rate: f64,
        batches: u64,
        slow_probes: &[Instant],
    ) -> Decision {
        let curve = &self.curve;
        let usual = median(view.servers.iter().map(|server| curve.factor(server.id)));
        let is_slow = |id: InstanceId| curve.factor(id) > SLOW * usual;
        let fast = view.servers.iter().filter(|server| !is_slow(server.id));
        let (slots, free) =
            fast.fold((0, 0), |(slots, free), server| (slots + server.slots, free + server.free));
        let Some(server) = self.fastest(view.servers) else { return Decision::Hold(Instant::LAST) };
        let cap = server.cap;
        if is_slow(server.id)
            && let Some(soonest) = self.better_later(server, waiting, remaining, &is_slow)
        {
            let probed = slow_probes.get(server.id.0 as usize).copied().unwrap_or_default();
            if view.now >= probed + SLOW_PROBE {
                let (instance, cause) = (server.id, Cause::Probe);
                return Decision::Send { instance, rows: 1, cause, expected: None };
            }
            return Decision::Hold(view.now + span(soonest.max(MOMENT)));
        }
        let servers = f64::from(slots.max(1));
        let own_rate = self.rate.per_milli(view.now, curve.time(waiting));
        let told = cap;
        let objective = view.objective.and_then(|within| {
            let within = millis(within);
            let rows = cap_for(curve, usual, within, cap, own_rate, servers)?;
            Some((rows, within))
        });
        let cap = objective.map_or(cap, |(rows, _)| rows);
        let best = curve.most_efficient(cap);
        let load = own_rate * curve.time(best) * usual / f64::from(best) / servers;
        self.wanted = self.tables.wanted(Some(view.key), curve, cap, load);
        let outlook = Outlook {
            curve,
            table: self.tables.at(load, cap),
            waiting,
            // Under an objective only those count that a full batch would still answer in time.
            all_waiting: objective.map_or(view.all_waiting_rows as f64, |(rows, within)| {
                let window = (within - curve.time(rows) * usual).max(0.0);
                (view.all_waiting_rows as f64).min(rate * window)
            }),
            cap,
            best,
            // More than the instances can do does not count either.
            rate: objective.map_or(rate, |(rows, _)| {
                rate.min(servers * f64::from(rows) / (curve.time(rows) * usual))
            }),
            usual,
            servers,
            free: (free as usize).max(1),
            remaining: remaining.iter().map(|&(left, _)| left).collect(),
        };
        let send = |rows: u32, cause| Decision::Send {
            instance: server.id,
            rows,
            cause,
            expected: objective
                .map(|_| view.now + span(curve.time(rows.min(waiting)) * curve.factor(server.id))),
        };
        // What is sent ahead of the end of another batch does not tell how long it takes.
        let due = explore::is_due(curve, batches);
        let explores = !server.ahead && (due || self.puts_off);
        self.puts_off = server.ahead && (due || self.puts_off);
        if explores
            && waiting >= cap
            && let Some(rows) = explore(curve, cap)
        {
            return send(rows, Cause::Explore);
        }
        if view.mixed && objective.is_none() && waiting >= best {
            let waited = millis(view.now.since(view.oldest));
            let time = |rows| outlook.time(rows);
            let rows = self.spread.next(time, best, &outlook.remaining, servers, waited);
            return send(rows, if rows < told { Cause::Spread } else { Cause::Full });
        }
        let Size { rows, full, wanted } = outlook.size();
        if explores
            && rows < waiting.min(cap)
            && let Some(rows) = explore_above(curve, rows, waiting.min(cap))
        {
            return send(rows, Cause::Explore);
        }
        let whole = match rows {
            rows if rows >= told => Cause::Full,
            rows if rows >= cap => Cause::Slo,
            _ => Cause::Size,
        };
        if full && objective.is_none() {
            return send(rows, whole);
        }
        let balance = outlook.hold_for_balance();
        let since = self.last_arrival.map_or(0.0, |last| millis(view.now.since(last)));
        let horizon = self.gaps.horizon(f64::from(waiting), outlook.time(1), own_rate);
        // What comes at once still takes a moment to come.
        let gather = if horizon > 0.0 { horizon.max(MOMENT) - since } else { 0.0 };
        let held_for = self.held.map_or(0.0, |held| millis(view.now.since(held.since)));
        let missing = wanted.map_or(0.0, |wanted| f64::from(wanted.saturating_sub(waiting)));
        // Bounded, should fewer come than expected.
        let size = 2.0 * missing / own_rate.max(1e-9) - held_for;
        let (hold, cause) =
            [(balance, Cause::Balance), (gather, Cause::Gather), (size, Cause::Size)]
                .into_iter()
                .max_by(|one, other| one.0.total_cmp(&other.0))
                .unwrap_or((0.0, Cause::Idle));
        let latest =
            outlook.time(rows + 1) * curve.factor(server.id) / usual * (1.0 + 2.0 * curve.noise());
        let spare = millis(view.deadline.since(view.now)) - latest;
        if hold > NOTHING && spare <= NOTHING {
            return send(rows, Cause::Deadline);
        }
        let hold = hold.min(spare);
        if hold > NOTHING {
            let begun = Held { since: view.now, cause, rows: waiting };
            self.held = Some(self.held.map_or(begun, |held| Held { cause, ..held }));
            return Decision::Hold(view.now + span(hold));
        }
        let held = self.held.map(|held| held.cause);
        let cause =
            if full || rows < waiting.min(cap) { whole } else { held.unwrap_or(Cause::Idle) };
        send(rows, cause)
    }

    /// The free server expected to be done first; of equals the one with least to do.
    fn fastest<'a>(&self, servers: &'a [Server]) -> Option<&'a Server> {
        let free = || servers.iter().filter(|server| server.free > 0);
        let least = free().map(|server| self.curve.factor(server.id)).fold(f64::INFINITY, f64::min);
        free()
            .filter(|server| self.curve.factor(server.id) <= ALIKE * least)
            .min_by_key(|server| (server.slots - server.free.min(server.slots), server.last_sent))
    }

    /// When a slow server is all that is free: the remaining time of a busy one that would be done
    /// sooner nevertheless.
    fn better_later(
        &self,
        slow: &Server,
        waiting: u32,
        remaining: &[(f64, InstanceId)],
        is_slow: &dyn Fn(InstanceId) -> bool,
    ) -> Option<f64> {
        if waiting > slow.cap {
            return None;
        }
        let time = |id| self.curve.time(waiting) * self.curve.factor(id);
        remaining
            .iter()
            .filter(|&&(left, id)| !is_slow(id) && left + time(id) < time(slow.id))
            .map(|&(left, _)| left)
            .min_by(f64::total_cmp)
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    let middle = values.len() / 2;
    if values.is_empty() {
        return 1.0;
    }
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

#[cfg(test)]
mod tests;
