//! Lines and steps through measured times.

/// What was measured at one size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) rows: f64,
    pub(super) millis: f64,
    /// How much it counts.
    pub(super) weight: f64,
}

/// `base` + `per_row` n milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Line {
    pub(super) base: f64,
    pub(super) per_row: f64,
}

impl Line {
    pub(super) fn at(self, rows: f64) -> f64 {
        self.base + self.per_row * rows
    }
}

/// Weighted least squares; where only one size was seen, half of its time is taken for fixed.
pub(super) fn fit(seen: &[Point]) -> Line {
    let weight: f64 = seen.iter().map(|point| point.weight).sum();
    let mean = |value: &dyn Fn(&Point) -> f64| {
        seen.iter().map(|point| point.weight * value(point)).sum::<f64>() / weight
    };
    let (rows, time) = (mean(&|point| point.rows), mean(&|point| point.millis));
    let square = mean(&|point| (point.rows - rows).powi(2));
    if seen.len() < 2 || square < 1e-9 {
        return Line { base: time / 2.0, per_row: time / 2.0 / rows.max(1.0) };
    }
    let product = mean(&|point| (point.rows - rows) * (point.millis - time));
    let per_row = (product / square).max(0.0);
    let base = time - per_row * rows;
    if base < 0.0 { Line { base: 0.0, per_row: time / rows } } else { Line { base, per_row } }
}

/// Linear between the points, flat beyond them.
pub(super) fn interpolate(points: &[(f64, f64)], at: f64) -> f64 {
    let after = points.partition_point(|&(x, _)| x < at);
    match (after.checked_sub(1).and_then(|before| points.get(before)), points.get(after)) {
        (Some(&(x0, y0)), Some(&(x1, y1))) => y0 + (y1 - y0) * (at - x0) / (x1 - x0),
        (Some(&(_, y)), None) | (None, Some(&(_, y))) => y,
        (None, None) => 0.0,
    }
}

/// Pool adjacent violators: the nearest sequence that never falls.
pub(super) fn make_monotone(values: &mut [f64]) {
    let mut pools: Vec<(f64, usize)> = Vec::with_capacity(values.len());
    for &value in values.iter() {
        let mut pool = (value, 1);
        while let Some(&(before, count)) = pools.last()
            && before > pool.0
        {
            let sum = before * count as f64 + pool.0 * pool.1 as f64;
            pool = (sum / (count + pool.1) as f64, count + pool.1);
            pools.pop();
        }
        pools.push(pool);
    }
    let smooth = pools.iter().flat_map(|&(value, count)| std::iter::repeat_n(value, count));
    for (value, smooth) in values.iter_mut().zip(smooth) {
        *value = smooth;
    }
}
