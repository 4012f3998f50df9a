//! Load on a target: open loop (calls at their times, whatever happens) or closed loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::Failure;
use super::asker::{Asker, Outcome as Answer, Question};
use super::caller::Caller;
use super::measured::Measured;
use super::pace::{Gaps, Pacer};
use super::records::Records;

/// Calls under way beyond this are not sent but counted as failed: the target is lost.
const MAX_UNDER_WAY: usize = 20_000;

/// How to call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// Poisson arrivals at this rate a second; latency counts from the intended time of sending.
    Open {
        /// Calls a second.
        rate: f64,
    },
    /// This many callers, each of whom calls again when answered.
    Closed {
        /// Callers.
        callers: usize,
    },
}

/// Puts `load` on the target for `length` and waits for the last answers.
pub async fn run(
    caller: &Arc<Caller>,
    load: Load,
    length: Duration,
    seed: u64,
) -> Result<Measured, Failure> {
    match load {
        Load::Open { rate } => open_loop(caller, Gaps::new(rate, seed), length).await,
        Load::Closed { callers } => closed_loop(caller, callers, length).await,
    }
}

type Outcome = (Duration, Result<(), String>);

async fn open_loop(
    caller: &Arc<Caller>,
    gaps: Gaps,
    length: Duration,
) -> Result<Measured, Failure> {
    let mut measured = Measured::new()?;
    let mut pacer = Pacer::start(gaps, length)?;
    let mut under_way = JoinSet::new();
    let mut index = 0;
    while let Some(intended) = pacer.due.recv().await {
        while let Some(ended) = under_way.try_join_next() {
            record(&mut measured, ended?);
        }
        if under_way.len() >= MAX_UNDER_WAY {
            measured.record(Duration::ZERO, Err("too many calls under way".to_owned()));
            continue;
        }
        let caller = Arc::clone(caller);
        under_way.spawn(async move {
            let outcome = caller.call(index).await;
            (intended.elapsed(), outcome)
        });
        index += 1;
    }
    while let Some(ended) = under_way.join_next().await {
        record(&mut measured, ended?);
    }
    measured.elapsed = length;
    Ok(measured)
}

/// Asks in an open loop: `next` says what the call of each number asks, and of which kind it is.
pub async fn offer(
    asker: &Arc<Asker>,
    gaps: Gaps,
    length: Duration,
    mut next: impl FnMut(usize) -> (Question, u8),
) -> Result<Records, Failure> {
    let mut records = Records::default();
    let mut pacer = Pacer::start(gaps, length)?;
    let mut under_way = JoinSet::new();
    let mut index = 0;
    while let Some(intended) = pacer.due.recv().await {
        while let Some(ended) = under_way.try_join_next() {
            let (intended, latency, kind, outcome) = ended?;
            records.push(intended, latency, kind, outcome);
        }
        let (question, kind) = next(index);
        if under_way.len() >= MAX_UNDER_WAY {
            let outcome = Answer::failed("not sent", "too many calls under way");
            records.push(intended, Duration::ZERO, kind, outcome);
            continue;
        }
        records.lags.push(intended.elapsed());
        let asker = Arc::clone(asker);
        under_way.spawn(async move {
            let outcome = asker.ask(question, index).await;
            (intended, intended.elapsed(), kind, outcome)
        });
        index += 1;
    }
    while let Some(ended) = under_way.join_next().await {
        let (intended, latency, kind, outcome) = ended?;
        records.push(intended, latency, kind, outcome);
    }
    Ok(records)
}

async fn closed_loop(
    caller: &Arc<Caller>,
    callers: usize,
    length: Duration,
) -> Result<Measured, Failure> {
    let mut measured = Measured::new()?;
    let began = Instant::now();
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let (caller, next) = (Arc::clone(caller), Arc::clone(&next));
        tasks.spawn(async move {
            let mut outcomes: Vec<Outcome> = Vec::new();
            while began.elapsed() < length {
                let sent = Instant::now();
                let outcome = caller.call(next.fetch_add(1, Ordering::Relaxed)).await;
                outcomes.push((sent.elapsed(), outcome));
            }
            outcomes
        });
    }
    while let Some(outcomes) = tasks.join_next().await {
        outcomes?.into_iter().for_each(|outcome| record(&mut measured, outcome));
    }
    measured.elapsed = began.elapsed();
    Ok(measured)
}

fn record(measured: &mut Measured, (latency, outcome): Outcome) {
    measured.record(latency, outcome);
}
