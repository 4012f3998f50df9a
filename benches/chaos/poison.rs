//! Calls that make the whole batch fail that they are in.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::options::{Arguments, MAX_BATCH};
use super::report::Report;
use super::scene::{Scene, marked, plain};
use crate::model_server::Settings;
use crate::support::Failure;
use crate::support::asker::Outcome;
use crate::support::load::offer;
use crate::support::pace::{Gaps, Random};
use crate::support::records::Records;
use crate::support::servers::Counted;

const INSTANCES: usize = 2;
const LOAD: f64 = 0.7;
const SHARE: f64 = 1e-3;
/// The second column of poisonous calls, which are all different in their first: a proxy that
/// remembers bad inputs has not met them.
const POISON: f32 = -1.0;
/// A batch, its halves, their halves ..., down to single calls: 1 + 2 * log2(32).
const UPSTREAM_CALLS: u64 = 11;

const GOOD: u8 = 0;
const POISONOUS: u8 = 1;

fn poisonable(settings: Settings) -> Settings {
    Settings { poison: true, poison_number: f64::from(POISON), ..settings }
}

pub(crate) async fn one_in_a_thousand(arguments: &Arguments) -> Result<Report, Failure> {
    let model = arguments.model(1.0);
    let rate = model.capacity(INSTANCES) * LOAD;
    let scene = Scene::start(arguments, INSTANCES, &poisonable(model.settings()), &[]).await?;
    scene.warm_up(rate).await?;
    let counted = scene.servers.counted().await?;
    let mut random = Random::new(!arguments.seed);
    let next = |index| {
        if random.unit() < SHARE {
            (marked(index, POISON), POISONOUS)
        } else {
            (plain(index), GOOD)
        }
    };
    let length = arguments.length(20);
    let records = offer(&scene.asker, Gaps::new(rate, arguments.seed), length, next).await?;

    let setting = format!(
        "{}, {rate:.0}/s, {} % of the capacity; 1 call in 1000 fails its batch",
        model.describe(INSTANCES),
        LOAD * 100.0
    );
    let mut report = Report::new("poison", setting);
    report.totals(&records, scene.servers.counted().await?.since(counted));
    let (good, poisonous) = (records.of_kind(GOOD), records.of_kind(POISONOUS));
    report.phase("good", &good);
    report.phase("poisonous", &poisonous);
    report.none("good calls without the right answer", good.not_right());
    report.none("poisonous calls that were answered", poisonous.calls - poisonous.failed);
    report.at_least("poisonous calls", poisonous.calls as f64, 1.0, "");
    Ok(report)
}

pub(crate) async fn one_in_a_batch(arguments: &Arguments) -> Result<Report, Failure> {
    let model = arguments.model(1.0);
    let settings = Settings { journal: 64, ..poisonable(model.settings()) };
    // Nothing but a full batch is sent, so that the calls do travel together.
    let lines = ["max_queue_delay = \"2s\""];
    let scene = Scene::start(arguments, INSTANCES, &settings, &lines).await?;
    let rounds = arguments.length(20).as_secs().max(1);
    let mut random = Random::new(arguments.seed);
    let mut records = Records::default();
    let (mut most_upstream, mut apart, mut wrong_rounds) = (0, 0, 0);
    let began = scene.servers.counted().await?;
    for round_number in 0..rounds {
        let before = scene.servers.counted().await?;
        let place = ((random.unit() * f64::from(MAX_BATCH)) as u32).min(MAX_BATCH - 1);
        let round = ask_together(&scene, round_number, place).await?;
        let upstream = counted_when_quiet(&scene).await?.since(before).calls;
        most_upstream = most_upstream.max(upstream);
        let (good, bad) = (round.of_kind(GOOD), round.of_kind(POISONOUS));
        let as_wanted = good.right == u64::from(MAX_BATCH - 1) && bad.failed == 1;
        wrong_rounds += u64::from(!as_wanted);
        apart += u64::from(!travelled_together(&scene, round_number, place).await?);
        records.extend(round);
    }

    let setting = format!(
        "{}; {} good calls and 1 poisonous one as one batch, {rounds} times",
        model.describe(INSTANCES),
        MAX_BATCH - 1
    );
    let mut report = Report::new("poison-batch", setting);
    report.totals(&records, scene.servers.counted().await?.since(began));
    report.phase("good", &records.of_kind(GOOD));
    report.phase("poisonous", &records.of_kind(POISONOUS));
    report.none("rounds without 31 right answers and 1 error", wrong_rounds);
    report.none("rounds that were not one batch at first", apart);
    report.at_most("upstream calls of a round", most_upstream as f64, UPSTREAM_CALLS as f64, "");
    Ok(report)
}

/// Asks 32 questions at the same moment, the one of number `place` poisonous.
async fn ask_together(scene: &Scene, round: u64, place: u32) -> Result<Records, Failure> {
    let mut calls = JoinSet::new();
    let intended = std::time::Instant::now();
    for number in 0..MAX_BATCH {
        let asker = Arc::clone(&scene.asker);
        let index = number_of(round, number);
        let (question, kind) =
            if number == place { (marked(index, POISON), POISONOUS) } else { (plain(index), GOOD) };
        calls.spawn(async move { (kind, asker.ask(question, 0).await, intended.elapsed()) });
    }
    let mut records = Records::default();
    while let Some(ended) = calls.join_next().await {
        let (kind, outcome, latency): (u8, Outcome, Duration) = ended?;
        records.push(intended, latency, kind, outcome);
    }
    Ok(records)
}

fn number_of(round: u64, place: u32) -> usize {
    (round * u64::from(MAX_BATCH) + u64::from(place)) as usize
}

/// What the model servers have counted once nothing is under way.
async fn counted_when_quiet(scene: &Scene) -> Result<Counted, Failure> {
    loop {
        let counted = scene.servers.counted().await?;
        if counted.concurrency == 0 {
            return Ok(counted);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether the poisonous call of a round was in a full batch.
async fn travelled_together(scene: &Scene, round: u64, place: u32) -> Result<bool, Failure> {
    let poisonous = plain(number_of(round, place)).x;
    let mut full = Vec::new();
    for server in scene.servers.iter() {
        let journal = server.journal().await?;
        full.extend(journal.into_iter().filter(|visit| visit.values.len() == MAX_BATCH as usize));
    }
    Ok(full.iter().any(|visit| visit.values.contains(&poisonous)))
}
