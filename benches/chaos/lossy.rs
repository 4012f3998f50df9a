//! Packets get lost: some between the proxy and its model servers, then some between callers and the
//! proxy as well, and for a while every one from and to a model server, whose connections stay open.

use std::time::{Duration, Instant};

use super::namespace::{LossyNetwork, Packets, play_inside};
use super::options::Arguments;
use super::report::Report;
use super::scene::{Scene, until};
use crate::model_server::{Settings, Visit, unix_time_us};
use crate::support::Failure;

const SCENARIO: &str = "lossy";
const INSTANCES: usize = 3;
const LOAD: f64 = 0.7;
const LOSSY_CALLS: f64 = 50_000.0;
/// The shares of the whole time at whose ends packets between the proxy and model servers begin to be
/// lost, those between callers and the proxy, and all of one model server.
const BEGIN: [f64; 3] = [0.2, 0.4, 0.6];
/// So long that the kernel, which doubles its pauses, would send again only 4 s after the end.
const BLACK_HOLE: Duration = Duration::from_secs(8);
/// A model server that can be reached again is given work within so long: a breaker waits for up to a
/// quarter of the time that it was gone, a probe takes up to 1 s, and half a second is between them.
const BACK_WITHIN: Duration = Duration::from_millis(3500);
/// And then gets this share of its part of the load.
const SHARE_OF_WORK: f64 = 0.5;
/// While only packets to and from model servers are lost, 99 % of the calls take no longer than this
/// many times what they do without. It is less than the 200 ms after which a kernel sends again.
const LONGER: f64 = 5.0;
/// Nobody waits for as long as TCP is patient.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
const JOURNAL: usize = 1 << 18;

/// When what began.
struct Moments {
    instances_lossy: Instant,
    all_lossy: Instant,
    dark: Instant,
    light: Instant,
    light_us: u64,
}

/// Plays it in a network namespace, or says why there can be none.
pub(crate) async fn run() -> Result<Report, Failure> {
    Ok(match play_inside().await? {
        Ok(report) => report.named(SCENARIO),
        Err(why) => Report::skipped(SCENARIO, format!("no network to lose packets in: {why}")),
    })
}

/// The scenario itself, in a namespace that it has to itself.
pub(crate) async fn inside(arguments: &Arguments) -> Result<Report, Failure> {
    let network = LossyNetwork::set_up().await?;
    let model = arguments.model(1.0);
    let rate = model.capacity(INSTANCES) * LOAD;
    let settings = Settings { journal: JOURNAL, ..model.settings() };
    let scene = Scene::start(arguments, INSTANCES, &settings, &[]).await?;
    scene.warm_up(rate).await?;
    let least = Duration::from_secs_f64(LOSSY_CALLS / rate / (1.0 - BEGIN[0])) + BLACK_HOLE * 2;
    let length = arguments.length(50).max(least);
    let began = Instant::now();
    let counted = scene.servers.counted().await?;
    let (records, moments) =
        tokio::join!(scene.load(rate, length), lose_packets(&scene, &network, began, length));
    let (records, moments) = (records?, moments?);

    let setting = format!(
        "{}, {rate:.0}/s, {} % of the capacity; packets get lost, for {BLACK_HOLE:?} all of one",
        model.describe(INSTANCES),
        LOAD * 100.0
    );
    let mut report = Report::new(SCENARIO, setting);
    report.totals(&records, scene.servers.counted().await?.since(counted));
    let Moments { instances_lossy, all_lossy, dark, light, .. } = moments;
    let without = records.before(instances_lossy);
    report.phase("no loss", &without);
    let to_instances =
        records.those(|call| call.intended >= instances_lossy && call.ended() < all_lossy);
    report.phase("loss to model servers", &to_instances);
    let everywhere = records.those(|call| call.intended >= all_lossy && call.ended() < dark);
    report.phase("and to callers", &everywhere);
    report.phase("and a black hole", &records.during(dark, light));
    report.phase("after the black hole", &records.after(light));
    report.note(network.describe());
    report.note(format!(
        "the others can do {:.0} % of the load while one is in the black hole: calls have to wait",
        100.0 * (INSTANCES - 1) as f64 / INSTANCES as f64 / LOAD
    ));

    let with_loss = records.those(|call| call.ended() >= instances_lossy);
    report.at_least("calls while packets were lost", with_loss.calls as f64, LOSSY_CALLS, "");
    report.none("calls without the right answer", records.all().not_right());
    let [p99_ms, bound_ms] = [to_instances.quantile_ms(0.99), LONGER * without.quantile_ms(0.99)];
    report.at_most("p99 with loss to model servers alone", p99_ms, bound_ms, " ms");
    let longest_ms = LONGEST_WAIT.as_secs_f64() * 1e3;
    report.at_most("longest wait of all", records.all().max_ms(), longest_ms, " ms");
    hold_network(&mut report, network.packets().await?);
    hold_return(&mut report, &scene, &moments, rate).await?;
    Ok(report)
}

async fn lose_packets(
    scene: &Scene,
    network: &LossyNetwork,
    began: Instant,
    length: Duration,
) -> Result<Moments, Failure> {
    let [instances, callers, hole] = BEGIN.map(|share| length.mul_f64(share));
    until(began, instances).await;
    let instances_lossy = Instant::now();
    network.lose_some(&scene.addresses).await?;
    until(began, callers).await;
    let all_lossy = Instant::now();
    network.lose_some(&[scene.proxy.grpc]).await?;
    until(began, hole).await;
    let address = *scene.addresses.first().ok_or("no model server")?;
    let dark = Instant::now();
    network.lose_all(address).await?;
    until(began, hole + BLACK_HOLE).await;
    network.lose_no_longer_all(address).await?;
    let (light, light_us) = (Instant::now(), unix_time_us());
    Ok(Moments { instances_lossy, all_lossy, dark, light, light_us })
}

/// That packets were lost at all.
fn hold_network(report: &mut Report, packets: Packets) {
    let Packets { sent, lost, swallowed } = packets;
    let percent = 100.0 * lost as f64 / sent.max(1) as f64;
    report.note(format!("{lost} of {sent} packets lost ({percent:.2} %), {swallowed} in the hole"));
    report.at_least("packets lost", lost as f64, 1000.0, "");
    report.at_least("packets that the black hole swallowed", swallowed as f64, 10.0, "");
}

/// That the model server in the black hole is in use again afterwards.
async fn hold_return(
    report: &mut Report,
    scene: &Scene,
    moments: &Moments,
    rate: f64,
) -> Result<(), Failure> {
    let journal = scene.servers.get(0)?.journal().await?;
    let since: Vec<&Visit> =
        journal.iter().filter(|visit| visit.arrived_us >= moments.light_us).collect();
    let back_us = since.iter().map(|visit| visit.arrived_us).min();
    let back_ms = back_us.map_or(f64::INFINITY, |at| (at - moments.light_us) as f64 / 1e3);
    report.at_most(
        "first batch at the model server after the black hole",
        back_ms,
        BACK_WITHIN.as_secs_f64() * 1e3,
        " ms",
    );
    // From then on until the end of the load, in which the last batches of it are.
    let settled_us = moments.light_us + u64::try_from(BACK_WITHIN.as_micros())?;
    let last_us = since.iter().map(|visit| visit.arrived_us).max().unwrap_or(settled_us);
    let rows: usize = since
        .iter()
        .filter(|visit| visit.arrived_us >= settled_us)
        .map(|visit| visit.values.len())
        .sum();
    let seconds = last_us.saturating_sub(settled_us) as f64 / 1e6;
    let share = rows as f64 / (rate / INSTANCES as f64 * seconds).max(1.0);
    report.at_least("its part of the load from then on", share, SHARE_OF_WORK, "");
    Ok(())
}
