//! The least mean latency that any policy has with one instance, Poisson arrivals and any T(n).
//!
//! The queue length at the moments when the instance is free is a semi-Markov decision process:
//! with q calls waiting, serve n of them, which takes T(n) and leaves q - n plus a Poisson number
//! of arrivals, or wait for the next arrival. Its cost is the number of calls in the system over
//! time, which by Little's law is the rate times the mean latency. It is solved by policy iteration
//! (Howard 1960; Jewell 1963 for the semi-Markov case). For holding costs Deb and Serfozo (1973)
//! show the optimum to be a control limit when T does not depend on n.

use super::service::Curve;

/// Rounds of policy iteration; a handful suffices, and the last policy is good in any case.
const MOST_ROUNDS: usize = 50;
/// Differences in cost (calls x milliseconds) below this are rounding errors.
const TOLERANCE: f64 = 1e-9;

/// An optimal policy and what it achieves.
#[derive(Clone, Debug)]
pub struct Optimum {
    /// The least mean latency.
    pub mean_ms: f64,
    /// Rows to send by the number of calls that wait, index 0 for none; 0 rows is to wait for the
    /// next arrival.
    pub sizes: Vec<usize>,
}

/// Solves the process for `rate` calls a millisecond, batches up to `cap` rows.
///
/// Queues are cut off at ten largest batches; up to 90 % load three would give the same mean.
#[must_use]
pub fn optimum(curve: &Curve, cap: usize, rate: f64) -> Optimum {
    let process = Process::new(curve, cap.min(curve.largest()), rate);
    let best = curve.most_efficient().min(process.cap());
    // Serving the most efficient size is stable whenever anything is.
    let mut sizes: Vec<usize> = (0..process.states).map(|waiting| waiting.min(best)).collect();
    let mut gain = f64::INFINITY;
    for _ in 0..MOST_ROUNDS {
        let values;
        (gain, values) = process.evaluate(&sizes);
        let better = process.improve(&sizes, gain, &values);
        if better == sizes {
            break;
        }
        sizes = better;
    }
    Optimum { mean_ms: gain / rate, sizes }
}

struct Process {
    rate: f64,
    /// Queue lengths 0 to states - 1.
    states: usize,
    /// T(n) at index n - 1.
    times: Vec<f64>,
    /// The probability of k arrivals during T(n) at index k of element n - 1.
    arrivals: Vec<Vec<f64>>,
}

impl Process {
    fn new(curve: &Curve, cap: usize, rate: f64) -> Self {
        let times: Vec<f64> = (1..=cap).map(|rows| curve.time_ms(rows)).collect();
        let arrivals = times.iter().map(|time| poisson(rate * time)).collect();
        Self { rate, states: (10 * cap).max(200), times, arrivals }
    }

    fn cap(&self) -> usize {
        self.times.len()
    }

    /// How long a decision lasts and the calls x milliseconds meanwhile; 0 rows is to wait.
    fn stay(&self, waiting: usize, rows: usize) -> (f64, f64) {
        let time = if rows == 0 { 1.0 / self.rate } else { self.times[rows - 1] };
        // While nothing is served the stay ends with the arrival, which then costs nothing yet.
        let newcomers = if rows == 0 { 0.0 } else { self.rate * time * time / 2.0 };
        (time, waiting as f64 * time + newcomers)
    }

    /// Calls `visit` with each next queue length and its probability.
    fn follow(&self, waiting: usize, rows: usize, mut visit: impl FnMut(usize, f64)) {
        let last = self.states - 1;
        if rows == 0 {
            return visit((waiting + 1).min(last), 1.0);
        }
        for (arrivals, &probability) in self.arrivals[rows - 1].iter().enumerate() {
            visit((waiting - rows + arrivals).min(last), probability);
        }
    }

    /// The cost a millisecond of a policy and the relative value of each state, that of 0 being 0:
    /// v(q) + gain x time = cost + sum of p v(next), by elimination.
    fn evaluate(&self, sizes: &[usize]) -> (f64, Vec<f64>) {
        let states = self.states;
        // Unknowns: the gain in the place of v(0), then v(1), v(2) and so on.
        let mut rows = vec![vec![0.0; states + 1]; states];
        for (waiting, row) in rows.iter_mut().enumerate() {
            let (time, cost) = self.stay(waiting, sizes[waiting]);
            row[waiting] += 1.0;
            self.follow(waiting, sizes[waiting], |next, probability| row[next] -= probability);
            (row[0], row[states]) = (time, cost);
        }
        let mut values = eliminate(rows);
        let gain = std::mem::take(&mut values[0]);
        (gain, values)
    }

    /// In each state the decision that is best if the values hold; the old one where it is as good.
    fn improve(&self, sizes: &[usize], gain: f64, values: &[f64]) -> Vec<usize> {
        let test = |waiting: usize, rows: usize| {
            let (time, cost) = self.stay(waiting, rows);
            let mut sum = cost - gain * time;
            self.follow(waiting, rows, |next, probability| sum += probability * values[next]);
            sum
        };
        let choose = |waiting: usize| {
            let mut best = (test(waiting, sizes[waiting]) - TOLERANCE, sizes[waiting]);
            // With a queue that is cut off, waiting at its end would look free of charge.
            let least = usize::from(waiting + 1 == self.states);
            for rows in least..=waiting.min(self.cap()) {
                let value = test(waiting, rows);
                if value < best.0 {
                    best = (value, rows);
                }
            }
            best.1
        };
        (0..self.states).map(choose).collect()
    }
}

/// The Poisson probabilities of 0, 1, 2 ... up to where they are negligible; they sum up to 1.
fn poisson(mean: f64) -> Vec<f64> {
    let most = (mean + 10.0 * mean.sqrt() + 20.0) as usize;
    let mut logarithm = -mean;
    let mut probabilities = Vec::with_capacity(most + 1);
    for count in 1..=most + 1 {
        probabilities.push(logarithm.exp());
        logarithm += (mean / count as f64).ln();
    }
    let sum: f64 = probabilities.iter().sum();
    probabilities.iter().map(|probability| probability / sum).collect()
}

/// Solves linear equations, each a row of coefficients with the right side last (Gauss, with the
/// largest pivot of each column).
fn eliminate(mut rows: Vec<Vec<f64>>) -> Vec<f64> {
    let count = rows.len();
    for column in 0..count {
        let largest = |&a: &usize, &b: &usize| {
            let (a, b): (f64, f64) = (rows[a][column], rows[b][column]);
            a.abs().total_cmp(&b.abs())
        };
        let pivot = (column..count).max_by(largest).unwrap_or(column);
        rows.swap(column, pivot);
        let (done, rest) = rows.split_at_mut(column + 1);
        let pivot = &done[column];
        for row in rest {
            let factor = row[column] / pivot[column];
            if factor == 0.0 {
                continue;
            }
            for (value, of_pivot) in row[column..].iter_mut().zip(&pivot[column..]) {
                *value -= factor * of_pivot;
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
