//! The balance rule: several instances are kept out of step.
//!
//! Instances that take whatever waits fall into step: one takes much, the next little. What arrives
//! waits for the next *start*; starts at gaps g cost lambda g^2 / 2 in waiting each and, service
//! times being nearly linear, b lambda^2 g^2 in service: both are least for equal gaps. So a batch
//! is sent when at least as many rows wait as the next batch would get.
//!
//! With k free instances and the busy ones free again after r_1 <= r_2 <= ..., the next start in the
//! evenest plan that the completions allow (the taut string over the points (k - 1 + j, r_j)) comes
//! after max_j r_j / (k - 1 + j).

/// The evenest gap between starts: the largest of `remaining[j] / (free + j)`, `remaining` ascending.
pub(super) fn even_gap(remaining: &[f64], free: usize) -> f64 {
    (free..).zip(remaining).map(|(starts, r)| r / starts as f64).fold(0.0, f64::max)
}

/// How long to hold `waiting` rows (one half and a reluctance to idle added by the caller) when they
/// arrive at `rate`; zero: send.
///
/// With one free instance and the next completion in r, holding for x costs
/// q x + rate x^2 / 2 + rate (r - x)^2 / 2, whose derivative at 0 is q - rate r: hold while that is
/// negative. A busy instance whose remaining time is longer than `service` does not count: a batch
/// sent now would overtake it.
pub(super) fn hold(remaining: &[f64], free: usize, waiting: f64, rate: f64, service: f64) -> f64 {
    if rate <= 0.0 {
        return 0.0;
    }
    (free..)
        .zip(remaining)
        .filter(|&(_, &r)| r <= service)
        .map(|(starts, &r)| r - waiting * starts as f64 / rate)
        .fold(0.0, f64::max)
}

/// Rows by which an idle millisecond is dear where rows cost nearly as much together as alone
/// (`base` + `per_row` n, high load): there the rule must hold less. Zero on curves that batch well.
pub(super) fn reluctance(rate: f64, servers: f64, base: f64, per_row: f64) -> f64 {
    let busy = rate * per_row / servers;
    if !(0.7..1.0).contains(&busy) {
        return 0.0;
    }
    let share = 0.25 * ((busy - 0.7) / 0.3).min(1.0);
    let spare = servers - rate * per_row;
    share * (rate * per_row + 0.5) * rate * base / (spare * spare)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sends_when_as_many_wait_as_the_next_batch_would_get() {
        assert_eq!(hold(&[10.0], 1, 5.0, 0.5, 20.0), 0.0);
        assert_eq!(hold(&[10.0], 1, 4.0, 0.5, 20.0), 2.0);
    }

    #[test]
    fn more_free_instances_hold_less() {
        assert_eq!(hold(&[10.0], 2, 4.0, 0.5, 20.0), 0.0);
        assert_eq!(hold(&[2.0, 18.0], 1, 3.0, 0.5, 20.0), 6.0);
    }

    #[test]
    fn what_would_be_overtaken_does_not_count() {
        assert_eq!(hold(&[30.0], 1, 1.0, 0.5, 20.0), 0.0);
    }

    #[test]
    fn nobody_busy_is_no_reason_to_hold() {
        assert_eq!(hold(&[], 4, 1.0, 100.0, 20.0), 0.0);
        assert_eq!(even_gap(&[4.0, 12.0], 1), 6.0);
    }
}
