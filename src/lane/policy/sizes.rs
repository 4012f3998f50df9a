//! How many rows to take where time does not grow in a straight line.
//!
//! Padding, knees and cliffs make some sizes pay and others not, and how many to leave behind depends
//! on what waits and on the load. One instance with its share of the arrivals is a semi-Markov
//! decision process: the state is the number that waits when the instance is free, the action how
//! many are taken (or none), the cost the time that everybody spends in the system. It is solved by
//! policy iteration (Howard 1960; for batch queues see Xu, Zhou and Niu 2023, arXiv 2301.12865).

use crate::lane::ShapeKey;

/// Steps that the largest batch is divided into, at most.
const STEPS: u32 = 64;
/// The queue is looked at up to so many full batches.
const DEPTH: usize = 3;
/// Rounds of policy iteration; it takes four to eight.
const ROUNDS: usize = 20;
/// The loads that are solved for.
const LOADS: [f64; 12] = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98];

/// What is left to calculate by somebody who has the time: milliseconds of arithmetic, which the lane
/// must not wait for.
#[derive(Clone, Debug)]
pub struct Calculation {
    pub(super) key: Option<ShapeKey>,
    pub(super) level: usize,
    pub(super) cap: u32,
    pub(super) problem: Problem,
}

/// What came of a [`Calculation`].
#[derive(Clone, Debug)]
pub struct Calculated {
    pub(super) key: Option<ShapeKey>,
    pub(super) level: usize,
    pub(super) cap: u32,
    pub(super) table: SizeTable,
    /// The service times that it holds for.
    pub(super) times: Vec<f64>,
}

impl Calculation {
    /// Does it; takes some milliseconds.
    pub fn run(self) -> Calculated {
        let table = self.problem.solve();
        let Calculation { key, level, cap, problem } = self;
        Calculated { key, level, cap, table, times: problem.times }
    }
}

/// The place in [`LOADS`] nearest to `load`.
pub(super) fn level(load: f64) -> usize {
    let distance = |level: &usize| (LOADS[*level] - load).abs();
    (0..LOADS.len()).min_by(|one, other| distance(one).total_cmp(&distance(other))).unwrap_or(0)
}

/// The load at a level.
pub(super) fn load(level: usize) -> f64 {
    LOADS.get(level).copied().unwrap_or(0.5)
}

/// One instance, its service times and its share of the arrivals.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Problem {
    /// Rows in a step: sizes and queue lengths are counted in steps.
    step: u32,
    /// The time of a batch of 1, 2, ... steps, in milliseconds.
    times: Vec<f64>,
    /// Steps that arrive in a millisecond.
    rate: f64,
}

/// How many rows to take when so many wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SizeTable {
    step: u32,
    /// By steps that wait; 0: none yet.
    take: Vec<u32>,
}

impl Problem {
    /// Batches of up to `cap` rows that take `time` milliseconds, at a share `load` of what the
    /// instance can do with the sizes that pay most.
    pub(super) fn new(cap: u32, time: impl Fn(u32) -> f64, load: f64) -> Self {
        let step = cap.div_ceil(STEPS).max(1);
        let times: Vec<f64> =
            (1..=cap.div_ceil(step)).map(|steps| time((steps * step).min(cap))).collect();
        let capacity =
            (1..).zip(&times).map(|(steps, time)| f64::from(steps) / time).fold(0.0, f64::max);
        Self { step, times, rate: load * capacity }
    }

    /// Whether a time differs from `times` by more than a share.
    pub(super) fn differs(&self, times: &[f64], share: f64) -> bool {
        self.times.len() != times.len()
            || self.times.iter().zip(times).any(|(one, other)| (one / other - 1.0).abs() > share)
    }

    /// The policy with the least mean time in the system.
    pub(super) fn solve(&self) -> SizeTable {
        let largest = self.times.len();
        let states = DEPTH * largest + 1;
        let arrivals: Vec<Vec<f64>> =
            self.times.iter().map(|time| poisson(self.rate * time, states)).collect();
        let mut take: Vec<usize> = (0..states).map(|waiting| waiting.min(largest)).collect();
        for _ in 0..ROUNDS {
            let (values, gain) = self.evaluate(&take, &arrivals);
            let better = self.improve(&take, &values, gain, &arrivals);
            if better == take {
                break;
            }
            take = better;
        }
        let take = take.iter().map(|&steps| steps as u32).collect();
        SizeTable { step: self.step, take }
    }

    /// What a decision costs until the next one, and how long that is.
    fn cost(&self, waiting: usize, taken: usize) -> (f64, f64) {
        let Some(&time) = taken.checked_sub(1).and_then(|index| self.times.get(index)) else {
            return (waiting as f64 / self.rate, 1.0 / self.rate);
        };
        (waiting as f64 * time + self.rate * time * time / 2.0, time)
    }

    /// The expected value of where a decision leads. `values` beyond the last state are its own.
    fn next(waiting: usize, taken: usize, values: &[f64], arrivals: &[Vec<f64>]) -> f64 {
        let last = values.len() - 1;
        let Some(arrivals) = taken.checked_sub(1).and_then(|index| arrivals.get(index)) else {
            return values[(waiting + 1).min(last)];
        };
        let left = waiting - taken;
        let (within, beyond) = arrivals.split_at(arrivals.len().min(last - left));
        let sum: f64 = within.iter().zip(&values[left..]).map(|(share, value)| share * value).sum();
        sum + beyond.iter().sum::<f64>() * values[last]
    }

    /// Relative values and the mean cost of a policy: h(q) = c(q) - g t(q) + E h(q'), h(0) = 0.
    fn evaluate(&self, take: &[usize], arrivals: &[Vec<f64>]) -> (Vec<f64>, f64) {
        let states = take.len();
        // Unknowns: the gain in place of h(0), then h(1), ...
        let mut rows: Vec<Vec<f64>> = (0..states)
            .map(|waiting| {
                let taken = take[waiting];
                let (cost, time) = self.cost(waiting, taken);
                let mut row = vec![0.0; states + 1];
                let mut lead = |to: usize, share: f64| row[to.min(states - 1)] -= share;
                match taken.checked_sub(1).and_then(|index| arrivals.get(index)) {
                    None => lead(waiting + 1, 1.0),
                    Some(arrivals) => {
                        for (came, &share) in arrivals.iter().enumerate() {
                            lead(waiting - taken + came, share);
                        }
                    }
                }
                row[waiting] += 1.0;
                row[0] = time;
                row[states] = cost;
                row
            })
            .collect();
        let mut values = eliminate(&mut rows);
        let gain = std::mem::take(&mut values[0]);
        (values, gain)
    }

    fn improve(
        &self,
        take: &[usize],
        values: &[f64],
        gain: f64,
        arrivals: &[Vec<f64>],
    ) -> Vec<usize> {
        let worth = |waiting: usize, taken: usize| {
            let (cost, time) = self.cost(waiting, taken);
            cost - gain * time + Self::next(waiting, taken, values, arrivals)
        };
        let improved = take.iter().enumerate().map(|(waiting, &current)| {
            let most = waiting.min(self.times.len());
            // At the end of the states holding would seem to cost nothing.
            let least = usize::from(waiting >= self.times.len());
            let now = worth(waiting, current);
            // Equals must not take turns for ever.
            let mut best = (current, now - 1e-9 * (1.0 + now.abs()));
            for taken in least..=most {
                let worth = worth(waiting, taken);
                if worth < best.1 {
                    best = (taken, worth);
                }
            }
            best.0
        });
        improved.collect()
    }
}

impl SizeTable {
    /// How many of `waiting` rows to take; 0: none yet. `None` where more wait than it knows of.
    pub(super) fn take(&self, waiting: u32) -> Option<u32> {
        if self.step == 1 {
            return self.take.get(waiting as usize).copied();
        }
        let whole = (waiting / self.step) as usize;
        match *self.take.get(whole)? {
            // Less than a step waits, or just what is to be taken: the odd rows go along.
            0 => Some(if whole == 0 { waiting } else { 0 }),
            taken if taken as usize == whole => Some(waiting),
            taken => Some(taken * self.step),
        }
    }

    /// The number that must wait before any are taken, when fewer do.
    pub(super) fn awaits(&self, waiting: u32) -> Option<u32> {
        let whole = (waiting / self.step) as usize;
        let more = self.take.iter().skip(whole).position(|&taken| taken > 0)?;
        Some((whole + more) as u32 * self.step)
    }
}

/// The probabilities of 0, 1, ... arrivals, as far as they matter; they add up to 1.
fn poisson(mean: f64, longest: usize) -> Vec<f64> {
    let end = ((mean + 8.0 * mean.sqrt() + 8.0) as usize).min(longest);
    // From the mode outward: e^-mean is zero in floating point when the mean is large.
    let mode = (mean as usize).min(end);
    let mut weights = vec![0.0; end + 1];
    weights[mode] = 1.0;
    for count in mode + 1..=end {
        weights[count] = weights[count - 1] * mean / count as f64;
    }
    for count in (0..mode).rev() {
        weights[count] = weights[count + 1] * (count + 1) as f64 / mean;
    }
    let sum: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= sum);
    weights
}

/// Gaussian elimination with partial pivoting; each row ends with its right side.
fn eliminate(rows: &mut [Vec<f64>]) -> Vec<f64> {
    let count = rows.len();
    for column in 0..count {
        let pivot = (column..count)
            .max_by(|&one, &other| rows[one][column].abs().total_cmp(&rows[other][column].abs()))
            .unwrap_or(column);
        rows.swap(column, pivot);
        let (above, below) = rows.split_at_mut(column + 1);
        let pivot = &above[column];
        for row in below.iter_mut().filter(|row| row[column] != 0.0) {
            let factor = row[column] / pivot[column];
            for (value, by) in row[column..].iter_mut().zip(&pivot[column..]) {
                *value -= factor * by;
            }
        }
    }
    let mut solution = vec![0.0; count];
    for index in (0..count).rev() {
        let row = &rows[index];
        let known: f64 =
            row[index + 1..count].iter().zip(&solution[index + 1..]).map(|(a, x)| a * x).sum();
        solution[index] = (row[count] - known) / row[index];
    }
    solution
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(rows: u32) -> f64 {
        10.0 + 0.5 * f64::from(rows)
    }

    #[test]
    fn the_optimum_of_a_line_is_known() {
        // Mean time in the system, exact: 18.90, 22.28 and 27.07 ms.
        for (load, mean) in [(0.3, 18.90), (0.5, 22.28), (0.7, 27.07)] {
            let problem = Problem::new(32, line, load);
            let table = problem.solve();
            let take: Vec<usize> = table.take.iter().map(|&steps| steps as usize).collect();
            let arrivals: Vec<_> =
                problem.times.iter().map(|time| poisson(problem.rate * time, take.len())).collect();
            let (_, gain) = problem.evaluate(&take, &arrivals);
            assert!((gain / problem.rate / mean - 1.0).abs() < 0.002, "{}", gain / problem.rate);
        }
    }

    #[test]
    fn on_a_line_everybody_is_taken() {
        let table = Problem::new(32, line, 0.5).solve();
        assert!((8..=32).all(|waiting| table.take(waiting) == Some(waiting)));
        assert_eq!(table.take(60), Some(32));
        assert_eq!(table.take(1000), None);
    }

    #[test]
    fn padding_is_filled() {
        let padded = |rows: u32| 4.0 + f64::from(rows.div_ceil(16) * 16);
        let table = Problem::new(32, padded, 0.7).solve();
        assert_eq!(table.take(18), Some(16));
        assert_eq!(table.take(32), Some(32));
    }

    #[test]
    fn a_knee_is_not_passed() {
        let knee = |rows: u32| 10.0 + f64::from(rows.saturating_sub(16));
        let table = Problem::new(32, knee, 0.9).solve();
        assert!(table.take(32).is_some_and(|taken| taken <= 17));
    }

    #[test]
    fn large_batches_are_counted_in_steps() {
        let table = Problem::new(256, line, 0.9).solve();
        assert_eq!(table.take(101), Some(101));
        assert_eq!(table.take(300), Some(256));
    }
}
