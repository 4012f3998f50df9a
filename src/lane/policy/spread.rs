//! Urgent calls among bulk: batches that end often, and not all at the same time.
//!
//! Where bulk keeps every instance busy, an urgent call waits for the next one that is done and then
//! as long as its own batch takes. Batches somewhat smaller than the most efficient cost little
//! throughput and shorten both; and instances that have fallen into step, so that all of them are
//! done at once and then none for long, are brought out of it by batches smaller still. Each goes for
//! the middle between the neighbours before and after it, which spreads them evenly in the end.

use super::classes::sizes;

/// Of the best throughput, what may be spent on urgent calls.
const BUDGET: f64 = 0.042;
/// What can be saved up of that, in batches.
const SAVINGS: f64 = 1.0;
/// Of the best throughput, what a batch has at least while its instance is in step with another.
const IN_STEP: f64 = 0.93;
/// And one with an urgent call that has waited long.
const LATE: f64 = 0.8;
/// Of the even distance between the ends of two batches, what is too little to mend.
const TOLERANCE: f64 = 0.05;

/// What the throughput is spent on while urgent calls come among bulk.
///
/// The more times vary, and the less a smaller batch saves, the more it costs to keep instances apart.
/// So there is one account for all of it: what is left of it goes into smaller batches throughout.
#[derive(Clone, Debug)]
pub(super) struct Spread {
    /// What was saved up: shares of the throughput of one batch.
    savings: f64,
}

impl Default for Spread {
    fn default() -> Self {
        Self { savings: SAVINGS }
    }
}

impl Spread {
    /// How many rows the next batch gets when bulk waits for as many as there could be, and it is sent.
    ///
    /// `time`: milliseconds that a batch of so many rows takes; `best`: the rows with most throughput;
    /// `remaining`: milliseconds until each of the busy servers is done, ascending; `servers`: all of
    /// them; `waited`: milliseconds that the most urgent call has waited.
    pub(super) fn next(
        &mut self,
        time: impl Fn(u32) -> f64,
        best: u32,
        remaining: &[f64],
        servers: f64,
        waited: f64,
    ) -> u32 {
        let throughput = |rows: u32| f64::from(rows) / time(rows).max(1e-9);
        let share = |rows: u32| throughput(rows) / throughput(best);
        let may_spend = BUDGET + self.savings;
        let least = |wanted: f64| {
            let enough = wanted.max(1.0 - may_spend);
            sizes(best).find(|&rows| share(rows) >= enough).unwrap_or(best)
        };
        let usually = least(1.0 - BUDGET * self.savings / SAVINGS);
        let rows = between(&time, usually, least, remaining, servers, waited);
        self.savings = (may_spend - (1.0 - share(rows))).clamp(0.0, SAVINGS);
        rows
    }
}

/// Up to `usually` rows, so that the batch ends between those before and after it. `least`: the rows
/// that have a share of the best throughput.
fn between(
    time: &impl Fn(u32) -> f64,
    usually: u32,
    least: impl Fn(f64) -> u32,
    remaining: &[f64],
    servers: f64,
    waited: f64,
) -> u32 {
    let (Some(next), Some(last)) = (remaining.first(), remaining.last()) else { return usually };
    let takes = time(usually);
    let even = takes / servers.max(1.0);
    // The most rows that take no longer, but for a share of the throughput.
    let in_time = |longest: f64, share: f64| {
        let fits = |rows: &u32| time(*rows) <= longest;
        sizes(usually).filter(fits).last().unwrap_or(1).max(least(share)).min(usually)
    };
    // The one that ends after all others ended for the last time before this one, too.
    let middle = f64::midpoint(*next, last - takes);
    let ahead = if -middle < TOLERANCE * even { 0.0 } else { -middle };
    let spread = in_time(takes - ahead, IN_STEP);
    // Who has waited longer than instances evenly out of step let anybody wait is made up for it.
    let late = if waited < takes { (waited - even).max(0.0) } else { 0.0 };
    if late > 0.0 { spread.min(in_time(takes - late, LATE)) } else { spread }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(rows: u32) -> f64 {
        10.0 + 0.5 * f64::from(rows)
    }

    fn first(remaining: &[f64], servers: f64) -> u32 {
        Spread::default().next(time, 32, remaining, servers, 0.0)
    }

    #[test]
    fn one_instance_has_batches_that_cost_little_throughput() {
        let rows = first(&[], 1.0);
        let throughput = |rows: u32| f64::from(rows) / time(rows);
        assert!(rows < 32 && throughput(rows) >= (1.0 - BUDGET) * throughput(32), "{rows}");
    }

    #[test]
    fn who_is_just_behind_another_ends_sooner_and_who_is_between_does_not() {
        let between = first(&[6.0, 13.0, 19.0], 4.0);
        let behind = first(&[1.0, 13.0, 19.0], 4.0);
        let in_step = first(&[0.1, 0.2, 0.3], 4.0);
        assert!(in_step < between && behind <= between, "{in_step} {behind} {between}");
        assert_eq!(between, first(&[], 4.0));
    }

    #[test]
    fn instances_in_step_spread_evenly() {
        let mut spread = Spread::default();
        let mut ends: Vec<f64> = vec![0.0; 4];
        for _ in 0..400 {
            ends.sort_unstable_by(f64::total_cmp);
            let now = ends[0];
            let remaining: Vec<f64> = ends[1..].iter().map(|end| end - now).collect();
            ends[0] = now + time(spread.next(time, 32, &remaining, 4.0, 0.0));
        }
        ends.sort_unstable_by(f64::total_cmp);
        let gaps: Vec<f64> = ends.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let even = time(30) / 4.0;
        assert!(gaps.iter().all(|gap| (gap / even - 1.0).abs() < 0.35), "{gaps:?}");
    }
}
