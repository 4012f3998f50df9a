//! How long a batch takes, learned from the batches themselves.
//!
//! There is a record for each size that was seen (sizes above 64 share records, 32 to the octave): a
//! mean that forgets, and the weight behind it. From the records comes a table of times for all
//! sizes: a straight line through them, corrected where a size differs by more than noise explains,
//! never falling. So pure noise gives a line, and steps, knees and cliffs come through.
//!
//! Instances differ by a factor each. Drift is judged only against the same size's own record, so
//! that a step in the curve is never blamed on an instance; and what several instances show at once
//! is a change of the curve, not of them.

use super::LearnedCurve;
use super::classes::{class, nominal, sizes};
use super::fit::{Line, Point, fit, interpolate, make_monotone};
use crate::lane::InstanceId;

/// The most that a record weighs, and the least that a new answer moves it.
const HEAVIEST: f64 = 40.0;
const FORGETTING: f64 = 0.08;
/// The noise that is taken for granted, as a share of the time.
const LEAST_NOISE: f64 = 0.02;
/// An answer off by so many times the noise is a miss, and so many misses in a row are a change.
const MISS: f64 = 3.0;
const RUN: i32 = 3;
/// How fast an instance's factor follows: as a rule, and when it has changed.
const FACTOR_GAIN: f64 = 0.05;
const FACTOR_GAIN_CHANGED: f64 = 0.5;
/// How far the median factor moves back to 1 with each answer, and how far off it never is by noise.
const CENTRING: f64 = 0.2;
const FAR_OFF: f64 = 0.1;
/// Answers between two looks at the table, once it has settled.
const SETTLED: u64 = 32;
/// The weight of a record that the next answer replaces.
const PROVISIONAL: f64 = 0.9;

/// Service times by batch size and instance.
#[derive(Clone, Debug)]
pub(super) struct Curve {
    records: Vec<Record>,
    peers: Vec<Peer>,
    table: Vec<f64>,
    line: Line,
    noise: f64,
    answers: u64,
    /// The count of answers at the last change.
    changed_at: u64,
    /// The count of answers when the table was made.
    tabled_at: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Record {
    mean: f64,
    weight: f64,
    /// Answers off in a row.
    misses: u32,
    /// Whether it was seen before the last change, and only scaled since.
    stale: bool,
    /// The only instance that it is from; its answers are as right as its factor is.
    only: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    factor: f64,
    /// Misses in a row; negative when the answers came too soon.
    run: i32,
    answers: u64,
}

impl Default for Peer {
    fn default() -> Self {
        Self { factor: 1.0, run: 0, answers: 0 }
    }
}

impl Curve {
    /// A curve of which nothing is known, for so many instances.
    pub(super) fn new(instances: usize) -> Self {
        Self {
            records: Vec::new(),
            peers: vec![Peer::default(); instances],
            table: Vec::new(),
            line: Line::default(),
            noise: 0.0,
            answers: 0,
            changed_at: 0,
            tabled_at: 0,
        }
    }

    /// The same for other instances; `before`: what each was called, if it was one of these.
    pub(super) fn of(&self, before: &[Option<InstanceId>]) -> Self {
        let index = |id: &Option<InstanceId>| id.map(|id| id.0 as usize);
        let peer = |id| index(id).and_then(|index| self.peers.get(index)).copied();
        let renamed = |only| before.iter().position(|id| index(id) == Some(only));
        let record = |record: &Record| Record { only: record.only.and_then(renamed), ..*record };
        Self {
            records: self.records.iter().map(record).collect(),
            peers: before.iter().map(|id| peer(id).unwrap_or_default()).collect(),
            ..self.clone()
        }
    }

    /// Answers so far.
    pub(super) fn answers(&self) -> u64 {
        self.answers
    }

    /// Answers since the curve last changed.
    pub(super) fn answers_since_change(&self) -> u64 {
        self.answers - self.changed_at
    }

    /// The spread of a time about its mean, as a share of it.
    pub(super) fn noise(&self) -> f64 {
        self.noise
    }

    /// The straight line nearest to the records.
    pub(super) fn line(&self) -> Line {
        self.line
    }

    /// The time of a batch by that line, in milliseconds.
    pub(super) fn line_at(&self, rows: u32) -> f64 {
        self.line.at(f64::from(rows))
    }

    /// The time of a batch on an instance like most, in milliseconds; at least something.
    pub(super) fn time(&self, rows: u32) -> f64 {
        match (self.table.get(class(rows)), self.table.last()) {
            (Some(&time), _) => time,
            (None, Some(&last)) => {
                let known = nominal(self.table.len() - 1);
                last + self.line.per_row * f64::from(rows.saturating_sub(known))
            }
            (None, None) => 0.0,
        }
    }

    /// How much longer than most this instance takes.
    pub(super) fn factor(&self, instance: InstanceId) -> f64 {
        self.peers.get(instance.0 as usize).map_or(1.0, |peer| peer.factor)
    }

    /// The factor of the fastest instance.
    pub(super) fn least_factor(&self) -> f64 {
        let seen = self.peers.iter().filter(|peer| peer.answers > 0);
        seen.map(|peer| peer.factor).reduce(f64::min).unwrap_or(1.0)
    }

    /// Whether a batch of such a size has been seen since the last change.
    pub(super) fn has_seen(&self, rows: u32) -> bool {
        self.records.get(class(rows)).is_some_and(|record| record.weight > 0.0 && !record.stale)
    }

    /// The sizes seen since the last change, ascending.
    pub(super) fn sizes_seen(&self) -> impl Iterator<Item = u32> + '_ {
        let fresh = |record: &Record| record.weight > 0.0 && !record.stale;
        self.records
            .iter()
            .enumerate()
            .filter(move |(_, record)| fresh(record))
            .map(|(class, _)| nominal(class))
    }

    /// The size up to `cap` that serves most rows a millisecond; the smallest of equals.
    pub(super) fn most_efficient(&self, cap: u32) -> u32 {
        let mut best = (1, 0.0);
        for rows in sizes(cap) {
            let efficiency = f64::from(rows) / self.time(rows).max(1e-9);
            if efficiency > best.1 * 1.000_001 {
                best = (rows, efficiency);
            }
        }
        best.0
    }

    /// Expected time until a batch is back that has been on its way for `elapsed`; `None` when it is
    /// so late that nothing can be said.
    pub(super) fn remaining(&self, instance: InstanceId, rows: u32, elapsed: f64) -> Option<f64> {
        let expected = self.time(rows) * self.factor(instance);
        let spread = self.noise.max(0.001) * expected;
        let late = (elapsed - expected) / spread.max(1e-9);
        if late > 6.0 && elapsed > 1.3 * expected {
            return None;
        }
        // The mean residual of a noisy time, by an approximation of the inverse Mills ratio.
        Some(spread * ((late * late + 2.55).sqrt() - late) / 2.0)
    }

    /// Takes in that a batch of `rows`, which had its slot of `instance` to itself, took `took`
    /// milliseconds. Returns whether the curve has just changed.
    pub(super) fn observe(&mut self, instance: InstanceId, rows: u32, took: f64) -> bool {
        let (class, index) = (class(rows), instance.0 as usize);
        if !(took.is_finite() && took >= 0.0) || index >= self.peers.len() {
            return false;
        }
        let took = took.max(1e-6);
        if self.records.len() <= class {
            self.records.resize(class + 1, Record::default());
        }
        self.answers += 1;
        self.peers[index].answers += 1;
        let noise = self.noise.max(LEAST_NOISE);
        let mut changed = false;
        let mut surprised = self.records[class].weight == 0.0;
        if self.records[class].weight > 0.0 {
            let error = took / (self.records[class].mean * self.peers[index].factor);
            let missed = (error - 1.0).abs() > MISS * noise;
            self.peers[index].run = match (missed, self.peers[index].run) {
                (false, _) => 0,
                (true, run) if error > 1.0 => run.max(0) + 1,
                (true, run) => run.min(0) - 1,
            };
            surprised |= missed;
            if self.peers[index].run.abs() >= RUN {
                if !self.is_shared(index) {
                    // This instance alone: its answers teach nothing about the others.
                    let gain = 1.0 + FACTOR_GAIN_CHANGED * (error - 1.0);
                    self.peers[index].factor = (self.peers[index].factor * gain).clamp(0.01, 100.0);
                    let slowness = error * self.peers[index].factor / gain;
                    if error > 1.0 && slowness > 1.0 + MISS * noise {
                        self.forget_slowness_of(index, slowness);
                    }
                    self.make_table();
                    return false;
                }
                self.change(error);
                changed = true;
            } else {
                let error = error.clamp(1.0 - MISS * noise, 1.0 + MISS * noise);
                self.peers[index].factor *= 1.0 + FACTOR_GAIN * (error - 1.0);
            }
            if !changed {
                let off = (error - 1.0).abs().min(2.0 * MISS * noise);
                self.noise += 0.02 * (1.25 * off - self.noise);
            }
            self.centre();
        }
        self.record(class, index, took);
        let young = self.answers_since_change() <= SETTLED;
        if surprised || young || self.answers - self.tabled_at >= SETTLED {
            self.make_table();
        }
        changed
    }

    /// What was learned, for people to look at.
    pub(super) fn learned(&self) -> LearnedCurve {
        let largest = self.sizes_seen().last().unwrap_or(1);
        LearnedCurve {
            batches: self.answers,
            base_ms: self.line.base,
            per_row_ms: self.line.per_row,
            noise: self.noise,
            most_efficient_rows: self.most_efficient(largest),
            points: self.sizes_seen().map(|rows| (rows, self.time(rows))).collect(),
            factors: self.peers.iter().map(|peer| peer.factor).collect(),
        }
    }

    /// Forgets what instance `index` alone has shown where that is nearer to `slowness` times what
    /// the others' sizes suggest than to what they suggest: it was taken for everybody's time, and a
    /// size that seems not to pay would never be looked at again.
    fn forget_slowness_of(&mut self, index: usize, slowness: f64) {
        let others = self.points(|record| !record.stale && record.only != Some(index));
        if others.is_empty() {
            return;
        }
        let line = fit(&others);
        for (class, record) in (0..).zip(&mut self.records) {
            let suggested = line.at(f64::from(nominal(class))).max(1e-6);
            let off = (record.mean / suggested).ln() / slowness.ln();
            if record.only == Some(index) && off > 0.5 {
                *record = Record::default();
            }
        }
    }

    /// Whether what instance `index` shows is shown by enough others, too.
    fn is_shared(&self, index: usize) -> bool {
        let sign = self.peers[index].run.signum();
        let active = self.peers.iter().filter(|peer| peer.answers > 0).count();
        let alike = self.peers.iter().filter(|peer| peer.run * sign >= RUN - 1).count();
        alike >= active.div_ceil(2).max(active.min(2))
    }

    /// All times are `error` times what they were, as far as one can tell.
    fn change(&mut self, error: f64) {
        for record in &mut self.records {
            record.mean *= error;
            record.weight = record.weight.min(PROVISIONAL);
            record.stale = true;
            record.misses = 0;
        }
        for peer in &mut self.peers {
            peer.run = 0;
        }
        self.changed_at = self.answers;
    }

    /// Keeps the median factor near 1, so that factors compare instances and records carry time. A
    /// median that is far off is a change of the curve that was taken for one slow instance after
    /// the other: what was known before is then known no more.
    fn centre(&mut self) {
        let mut factors: Vec<f64> =
            self.peers.iter().filter(|peer| peer.answers > 0).map(|peer| peer.factor).collect();
        if factors.is_empty() {
            return;
        }
        let middle = (factors.len() - 1) / 2;
        let (_, &mut median, _) = factors.select_nth_unstable_by(middle, f64::total_cmp);
        let far_off = (median - 1.0).abs() > FAR_OFF;
        let shift = if far_off { median } else { 1.0 + CENTRING * (median - 1.0) };
        for peer in self.peers.iter_mut().filter(|peer| peer.answers > 0) {
            peer.factor /= shift;
        }
        if far_off {
            self.change(shift);
        } else {
            self.records.iter_mut().for_each(|record| record.mean *= shift);
        }
    }

    fn record(&mut self, class: usize, index: usize, took: f64) {
        let noise = self.noise.max(LEAST_NOISE);
        let peer = self.peers[index];
        let time = took / peer.factor;
        let record = &mut self.records[class];
        let agrees = record.weight > 0.0 && (time / record.mean - 1.0).abs() <= 0.1;
        let off = record.weight > 0.0 && (time / record.mean - 1.0).abs() > MISS * noise;
        record.misses = if off { record.misses + 1 } else { 0 };
        // Of two instances that disagree about a size the slower one is the exception; a record that
        // is too high would besides never be looked at again.
        let contested = record.only.is_some_and(|only| only != index) && off && time < record.mean;
        if record.weight < 1.0 || record.misses >= RUN.unsigned_abs() || contested {
            // An instance that is about to be found slow must not set a record by itself.
            let doubtful = peer.run.abs() >= RUN - 1 && !agrees;
            let weight = if doubtful { PROVISIONAL } else { 1.0 };
            *record = Record { mean: time, weight, misses: 0, stale: false, only: Some(index) };
        } else {
            record.weight = (record.weight + 1.0).min(HEAVIEST);
            record.only = record.only.filter(|&only| only == index);
            let bound = 2.0 * MISS * noise * record.mean;
            let step = (time - record.mean).clamp(-bound, bound);
            record.mean += (1.0 / record.weight).max(FORGETTING) * step;
        }
    }

    /// Makes the table from the records.
    fn make_table(&mut self) {
        self.tabled_at = self.answers;
        let fresh =
            self.records.iter().filter(|record| record.weight > 0.0 && !record.stale).count();
        let seen = self.points(|record| !record.stale || fresh < 3);
        let Some(last) = seen.last().map(|point| point.rows) else { return };
        self.line = fit(&seen);
        let corrections = self.corrections(&seen);
        let mut table: Vec<f64> = (0..=class(last as u32))
            .map(|class| {
                let rows = f64::from(nominal(class));
                (self.line.at(rows) + interpolate(&corrections, rows)).max(1e-6)
            })
            .collect();
        make_monotone(&mut table);
        self.table = table;
    }

    /// The sizes whose records are wanted, ascending.
    fn points(&self, wanted: impl Fn(&Record) -> bool) -> Vec<Point> {
        let seen = |(_, record): &(usize, &Record)| record.weight > 0.0 && wanted(record);
        let point = |(class, record): (usize, &Record)| Point {
            rows: f64::from(nominal(class)),
            millis: record.mean,
            weight: record.weight,
        };
        self.records.iter().enumerate().filter(seen).map(point).collect()
    }

    /// How far each seen size lies off the line, as far as noise does not explain it.
    fn corrections(&self, seen: &[Point]) -> Vec<(f64, f64)> {
        let residual = |point: &Point| point.millis - self.line.at(point.rows);
        let by_noise = |point: &Point| {
            let spread = self.noise.max(0.001) * point.millis;
            spread * spread / point.weight.max(PROVISIONAL)
        };
        let count = seen.len() as f64;
        let found = seen.iter().map(|point| residual(point).powi(2)).sum::<f64>() / count;
        let explained = seen.iter().map(by_noise).sum::<f64>() / count;
        let between = (found - explained).max(0.0);
        seen.iter()
            .map(|point| {
                let share = between / (between + by_noise(point)).max(1e-12);
                (point.rows, residual(point) * share)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: InstanceId = InstanceId(0);

    fn learned(sizes: impl Iterator<Item = u32>, time: impl Fn(u32) -> f64) -> Curve {
        let mut curve = Curve::new(1);
        for rows in sizes {
            curve.observe(ONE, rows, time(rows));
        }
        curve
    }

    fn near(left: f64, right: f64, share: f64) -> bool {
        (left / right - 1.0).abs() <= share
    }

    #[test]
    fn a_line_is_found_from_two_sizes() {
        let curve = learned([1, 8, 1, 8].into_iter(), |n| 10.0 + 0.5 * f64::from(n));
        for rows in [1, 4, 8, 32, 300] {
            assert!(
                near(curve.time(rows), 10.0 + 0.5 * f64::from(rows), 0.02),
                "{rows}: {}",
                curve.time(rows)
            );
        }
    }

    #[test]
    fn what_is_known_of_instances_goes_with_them_to_another_place() {
        let mut curve = Curve::new(2);
        for round in 0..200 {
            let rows = 1 + round * 7 % 32;
            curve.observe(ONE, rows, 10.0 + f64::from(rows));
            curve.observe(InstanceId(1), rows, 1.3 * (10.0 + f64::from(rows)));
        }
        let factors = [1, 0].map(|index| curve.factor(InstanceId(index)));
        let other = curve.of(&[Some(InstanceId(1)), None, Some(ONE)]);
        assert_eq!([0, 2].map(|index| other.factor(InstanceId(index))), factors);
        assert!(near(factors[0] / factors[1], 1.3, 0.05));
        assert!(other.factor(InstanceId(1)) == 1.0 && other.time(8) == curve.time(8));
        assert_eq!(other.answers(), curve.answers());
    }

    #[test]
    fn one_size_alone_is_half_fixed() {
        let curve = learned([4; 3].into_iter(), |_| 12.0);
        assert!(near(curve.time(8), 18.0, 0.01));
    }

    #[test]
    fn a_cliff_comes_through() {
        let cliff = |n: u32| (10.0 + 0.5 * f64::from(n)) * if n > 20 { 1.7 } else { 1.0 };
        let curve = learned((0..200).map(|i| 1 + i * 7 % 32), cliff);
        assert_eq!(curve.most_efficient(32), 20);
        assert!(near(curve.time(21), cliff(21), 0.03));
    }

    #[test]
    fn noise_gives_a_line() {
        let mut seed = 1_u64;
        let mut noise = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            0.8 + 0.4 * (seed >> 40) as f64 / f64::from(1_u32 << 24)
        };
        let mut curve = Curve::new(1);
        for i in 0..400 {
            let rows = 1 + i * 7 % 32;
            curve.observe(ONE, rows, (10.0 + 0.5 * f64::from(rows)) * noise());
        }
        assert!(curve.noise() > 0.05 && curve.noise() < 0.25, "{}", curve.noise());
        for rows in 1..=32 {
            assert!(near(curve.time(rows), 10.0 + 0.5 * f64::from(rows), 0.12), "{rows}");
        }
    }

    #[test]
    fn a_change_of_the_curve_is_followed_at_once() {
        let mut curve = learned((0..200).map(|i| 1 + i * 7 % 32), |n| 10.0 + 0.5 * f64::from(n));
        let changed = (0..5).filter(|_| curve.observe(ONE, 8, 28.0)).count();
        assert_eq!(changed, 1);
        assert!(near(curve.time(32), 52.0, 0.05), "{}", curve.time(32));
        assert!(!curve.has_seen(32) && curve.has_seen(8));
    }

    #[test]
    fn one_slow_instance_is_not_the_curve() {
        let mut curve = Curve::new(4);
        for i in 0..400_u32 {
            let rows = 1 + i * 7 % 32;
            let slow = if i > 200 && i % 4 == 3 { 4.0 } else { 1.0 };
            curve.observe(InstanceId(i % 4), rows, slow * (10.0 + 0.5 * f64::from(rows)));
        }
        assert!(near(curve.factor(InstanceId(3)), 4.0, 0.05), "{}", curve.factor(InstanceId(3)));
        assert!(near(curve.factor(InstanceId(0)), 1.0, 0.05));
        assert!(near(curve.time(16), 18.0, 0.05));
    }

    #[test]
    fn what_is_late_is_given_up() {
        let curve = learned([1, 8, 1, 8].into_iter(), |n| 10.0 + 0.5 * f64::from(n));
        let left = |elapsed| curve.remaining(ONE, 8, elapsed);
        assert!(near(left(4.0).unwrap_or_default(), 10.0, 0.05));
        assert!(left(14.0).unwrap_or_default() < 0.2);
        assert_eq!(left(30.0), None);
    }
}
