//! Far more calls than the model servers can answer, a few of which are urgent.

use std::time::{Duration, Instant};

use super::options::{Arguments, Model};
use super::report::Report;
use super::scene::{Scene, plain, until};
use crate::support::Failure;
use crate::support::asker::Question;
use crate::support::batchwise::Batchwise;
use crate::support::load::offer;
use crate::support::pace::{Gaps, Random};
use crate::support::records::{End, Record, Records};

const INSTANCES: usize = 4;
/// Of the capacity.
const OFFERED: f64 = 5.0;
/// Of the calls.
const URGENT_SHARE: f64 = 0.05;
const URGENT: u8 = 1;
const BULK: u8 = 3;
/// Slow enough that five times the capacity is no burden to two processors.
pub(crate) const SCALE: f64 = 4.0;
const ALONE: Duration = Duration::from_secs(15);
/// The queue fills up before anything is counted as goodput.
const RAMP: Duration = Duration::from_secs(2);

const GOODPUT_SHARE: f64 = 0.95;
const URGENT_P99_RATIO: f64 = 1.5;
/// Of what is possible at all with that goodput.
const URGENT_P99_FLOOR_RATIO: f64 = 1.1;
const BULK_SHARE: f64 = 0.05;
const MEMORY_RATIO: f64 = 1.1;
/// Less than this share of the intended calls, and it was no overload.
const OFFERED_SHARE: f64 = 0.97;
const LATE_MS: f64 = 20.0;

pub(crate) async fn run(
    arguments: &Arguments,
    name: &'static str,
    model: Model,
) -> Result<Report, Failure> {
    let capacity = model.capacity(INSTANCES);
    let rate = capacity * OFFERED;
    let scene = Scene::start(arguments, INSTANCES, &model.settings(), &[]).await?;
    scene.warm_up(capacity * 0.7).await?;
    let urgent = |index| (Question { priority: Some(URGENT), ..plain(index) }, URGENT);
    let gaps = Gaps::new(rate * URGENT_SHARE, arguments.seed);
    let alone = offer(&scene.asker, gaps, ALONE, urgent).await?;

    let length = arguments.length(60).max(RAMP * 2);
    let mut random = Random::new(!arguments.seed);
    let next = |index| {
        let priority = if random.unit() < URGENT_SHARE { URGENT } else { BULK };
        (Question { priority: Some(priority), ..plain(index) }, priority)
    };
    let counted = scene.servers.counted().await?;
    let began = Instant::now();
    let load = offer(&scene.asker, Gaps::new(rate, arguments.seed), length, next);
    let (records, memory) = tokio::join!(load, watch_memory(&scene.proxy, began, length));
    let (records, [first_half, second_half]) = (records?, memory?);

    let setting = format!(
        "{}, capacity {capacity:.0}/s; {rate:.0}/s offered for {length:?}, {} % of it urgent",
        model.describe(INSTANCES),
        URGENT_SHARE * 100.0
    );
    let mut report = Report::new(name, setting);
    report.totals(&records, scene.servers.counted().await?.since(counted));
    report.phase("priority 1 alone", &alone.all());
    let (urgent, bulk) = (records.of_kind(URGENT), records.of_kind(BULK));
    report.phase("priority 1", &urgent);
    report.phase("priority 3", &bulk);
    report.phase("priority 3, answered", &records.those(|call| call.kind == BULK && right(call)));
    let floor_ms = floor(model).as_secs_f64() * 1e3;
    report.note(format!(
        "where batches of one size have {} % of the capacity and end evenly one after the other, \
         99 % of urgent calls take {floor_ms:.0} ms or less",
        GOODPUT_SHARE * 100.0
    ));
    let offered = records.calls.len() as f64 / (rate * length.as_secs_f64());
    report.at_least("offered of what was meant", offered, OFFERED_SHARE, "");
    // Of this program: where it fails, the machine is too busy for the other figures to mean much.
    report.at_most("calls were sent late, p99", records.lag_ms(0.99), LATE_MS, " ms");
    let goodput = |kind: Option<u8>| goodput(&records, began + RAMP, began + length, kind);
    report.at_least("goodput of the capacity", goodput(None) / capacity, GOODPUT_SHARE, "");
    let bulk_share = goodput(Some(BULK)) / goodput(None).max(1.0);
    report.at_least("bulk of the goodput", bulk_share, BULK_SHARE, "");
    report.none("urgent calls without the right answer", urgent.not_right());
    let p99_ms = urgent.quantile_ms(0.99);
    let alone_p99_ms = alone.all().quantile_ms(0.99);
    report.note(format!("p99 of priority 1 is {:.2} x that alone", p99_ms / alone_p99_ms));
    let bound_ms = (URGENT_P99_RATIO * alone_p99_ms).max(URGENT_P99_FLOOR_RATIO * floor_ms);
    report.at_most("p99 of priority 1", p99_ms, bound_ms, " ms");
    report.at_most("memory in MiB, second half", second_half, MEMORY_RATIO * first_half, "");
    report.none("wrong answers", records.all().wrong);
    Ok(report)
}

/// What 99 of 100 urgent calls wait at least where every instance is always busy with batches of one size
/// that together have the goodput: for the next one to end, and then for their own.
fn floor(model: Model) -> Duration {
    let batch = model.batch(model.rows_for(GOODPUT_SHARE));
    batch.mul_f64(1.0 + 0.99 / INSTANCES as f64)
}

fn right(call: &Record) -> bool {
    call.end == End::Right
}

/// Right answers a second, of one kind or of all.
fn goodput(records: &Records, from: Instant, to: Instant, kind: Option<u8>) -> f64 {
    let within = |call: &Record| right(call) && (from..to).contains(&call.ended());
    let answered = records.those(|call| within(call) && kind.is_none_or(|kind| kind == call.kind));
    answered.calls as f64 / (to - from).as_secs_f64()
}

/// The most memory that the proxy had in use in either half, in MiB.
async fn watch_memory(
    proxy: &Batchwise,
    began: Instant,
    length: Duration,
) -> Result<[f64; 2], Failure> {
    let mut halves = [0.0_f64; 2];
    let [first, second] = &mut halves;
    let mut at = Duration::from_millis(250);
    while at < length {
        until(began, at).await;
        let now = proxy.resident_bytes()? as f64 / f64::from(1 << 20);
        let half = if at < length / 2 { &mut *first } else { &mut *second };
        *half = half.max(now);
        at += Duration::from_millis(250);
    }
    Ok(halves)
}
