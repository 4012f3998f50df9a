//! Urgent calls among bulk: batches that end often, and not all at the same time.
//!
//! Where bulk keeps every instance busy, an urgent call waits for the next one that is done and then
//! as long as its own batch takes. Batches somewhat smaller than the most efficient cost little
//! throughput and shorten both; and instances that have fallen into step, so that all of them are
//! done at once and then none for long, are brought out of it by batches smaller still. Each goes for
//! the middle between the neighbours before and after it, which spreads them evenly in the end.

use super::classes::sizes;

/// Of the best throughput, what batches are to have at least where they all take as long as expected.
const USUALLY: f64 = 0.953;
/// The more times vary the more it costs to keep instances apart: about so much of the variation. That
/// much less is spent on small batches.
const NOISE_SHARE: f64 = 0.75;
/// The same while an instance is in step with another.
const IN_STEP: f64 = 0.93;
/// And for a batch with an urgent call that has waited long.
const LATE: f64 = 0.8;
/// Of the even distance between the ends of two batches, what is too little to mend.
const TOLERANCE: f64 = 0.05;

/// How many rows the next batch gets when bulk waits for as many as there could be.
///
/// `time`: milliseconds that a batch of so many rows takes; `noise`: the spread of that about its mean,
/// as a share of it; `best`: the rows with most throughput; `remaining`: milliseconds until each of the busy servers is done, ascending; `servers`: all of
/// them; `waited`: milliseconds that the most urgent call has waited.
pub(super) fn rows(
    time: impl Fn(u32) -> f64,
    noise: f64,
    best: u32,
    remaining: &[f64],
    servers: f64,
    waited: f64,
) -> u32 {
    let throughput = |rows: u32| f64::from(rows) / time(rows).max(1e-9);
    let least = |share: f64| {
        sizes(best).find(|&rows| throughput(rows) >= share * throughput(best)).unwrap_or(best)
    };
    let usually = least((USUALLY + NOISE_SHARE * noise).min(1.0));
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

    #[test]
    fn one_instance_has_batches_that_cost_little_throughput() {
        let rows = rows(time, 0.0, 32, &[], 1.0, 0.0);
        let throughput = |rows: u32| f64::from(rows) / time(rows);
        assert!(rows < 32 && throughput(rows) >= USUALLY * throughput(32), "{rows}");
    }

    #[test]
    fn who_is_just_behind_another_ends_sooner_and_who_is_between_does_not() {
        let between = rows(time, 0.0, 32, &[6.0, 13.0, 19.0], 4.0, 0.0);
        let behind = rows(time, 0.0, 32, &[1.0, 13.0, 19.0], 4.0, 0.0);
        let in_step = rows(time, 0.0, 32, &[0.1, 0.2, 0.3], 4.0, 0.0);
        assert!(in_step < between && behind <= between, "{in_step} {behind} {between}");
        assert_eq!(between, rows(time, 0.0, 32, &[], 4.0, 0.0));
    }

    #[test]
    fn instances_in_step_spread_evenly() {
        let mut ends: Vec<f64> = vec![0.0; 4];
        for _ in 0..400 {
            ends.sort_unstable_by(f64::total_cmp);
            let now = ends[0];
            let remaining: Vec<f64> = ends[1..].iter().map(|end| end - now).collect();
            ends[0] = now + time(rows(time, 0.0, 32, &remaining, 4.0, 0.0));
        }
        ends.sort_unstable_by(f64::total_cmp);
        let gaps: Vec<f64> = ends.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let even = time(30) / 4.0;
        assert!(gaps.iter().all(|gap| (gap / even - 1.0).abs() < 0.35), "{gaps:?}");
    }
}
