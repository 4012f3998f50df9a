//! Sizes under a latency objective.

use super::classes::sizes;
use super::curve::Curve;

/// The largest batch, up to `cap`, with which (almost) the most calls make the objective; `None` where
/// no batch makes it, so that it is no guide.
///
/// With an objective of `millis`, those are in time that arrive within `millis` - T(n) before a start,
/// and starts come every T(n) / servers. So V(n) = min(n, rate (millis - T(n)), rate T(n) / servers) /
/// T(n) is what an instance answers in time; the largest n within a hundredth of the best is taken,
/// because a larger batch costs least where all of them are in time anyway.
pub(super) fn cap_for(
    curve: &Curve,
    usual: f64,
    millis: f64,
    cap: u32,
    rate: f64,
    servers: f64,
) -> Option<u32> {
    // Noise makes half of the batches take longer than expected.
    let millis = millis * (1.0 - 0.5 * curve.noise());
    let value = |rows: u32| {
        let time = curve.time(rows) * usual;
        let window = millis - time;
        f64::from(rows).min(rate * window).min(rate * time / servers) / time
    };
    let best = sizes(cap).map(value).fold(0.0, f64::max);
    if curve.time(1) * usual >= millis || best <= 0.0 {
        return None;
    }
    sizes(cap).filter(|&rows| value(rows) >= 0.99 * best).last()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::InstanceId;

    fn line() -> Curve {
        let mut curve = Curve::new(1);
        for rows in [1, 8, 32, 1, 8, 32] {
            curve.observe(InstanceId(0), rows, 10.0 + 0.5 * f64::from(rows));
        }
        curve
    }

    #[test]
    fn a_tight_objective_makes_batches_smaller() {
        let cap = |millis, rate| cap_for(&line(), 1.0, millis, 32, rate, 1.0);
        assert_eq!(cap(200.0, 1.2), Some(32));
        assert!(cap(30.0, 1.2).is_some_and(|rows| (4..24).contains(&rows)), "{:?}", cap(30.0, 1.2));
    }

    #[test]
    fn an_objective_that_nothing_makes_is_no_guide() {
        assert_eq!(cap_for(&line(), 1.0, 10.0, 32, 1.0, 1.0), None);
    }
}
