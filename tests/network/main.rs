//! The whole proxy in a simulated world: callers of every protocol before it, model servers behind
//! it, and between them a network that delays, cuts, garbles and falls silent.
//!
//! Everything runs in one thread, in the time of a clock that jumps, over connections that are queues
//! of bytes: no socket, no timer of the kernel, no waiting. What happens is drawn from a seed, so that
//! a seed tells it all: two runs of one have the same history, event for event.
//!
//! `SEED=7 cargo test --test network` replays one run and shows its history; `SEEDS=1000 cargo test
//! --test network` plays a thousand.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../support/model_server/mod.rs"]
pub mod model_server;
#[path = "../simulation/random.rs"]
mod random;

mod caller;
mod checks;
mod client;
mod history;
mod host;
mod ledger;
mod line;
mod network;
mod road;
mod scenario;
mod speech;
mod teeth;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use world::{Report, replay, run};

/// So many runs take some twenty seconds.
const SEEDS: u64 = 30;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Runs the seeds on all processors; the reports of those that went wrong.
fn play(seeds: std::ops::Range<u64>, fails: impl Fn(&Report) -> bool + Sync) -> Vec<Report> {
    let next = AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut failed = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return failed;
            }
            // A panic has been shown by then; what is missing is its seed.
            let report = std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|_| Report {
                seed,
                broken: vec!["it panicked".to_owned()],
                ..Report::default()
            });
            if fails(&report) {
                failed.push(report);
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}

#[test]
fn every_promise_is_kept_whatever_goes_wrong() {
    if let Some(seed) = number("SEED") {
        let report = replay(seed);
        println!("{}", report.history.join("\n"));
        assert!(report.broken.is_empty(), "seed {seed}: {:#?}", report.broken);
        return;
    }
    let mut failed = play(0..number("SEEDS").unwrap_or(SEEDS), |report| !report.broken.is_empty());
    failed.sort_by_key(|report| report.seed);
    for report in &failed {
        println!("SEED={} cargo test --test network # {:#?}", report.seed, report.broken);
    }
    assert!(failed.is_empty(), "{} seeds failed", failed.len());
}

#[test]
fn a_seed_has_one_history() {
    let seeds = number("SEED").map_or(0..number("SEEDS").unwrap_or(SEEDS) / 10, |one| one..one + 1);
    let differs = |report: &Report| {
        let again = run(report.seed);
        let is_new = |line: &&String| !report.history.contains(line);
        again.history.iter().filter(is_new).take(9).for_each(|line| println!("{line}"));
        again.hash != report.hash
    };
    let differing: Vec<u64> = play(seeds, differs).iter().map(|report| report.seed).collect();
    assert!(differing.is_empty(), "two runs of these seeds differ: {differing:?}");
}
