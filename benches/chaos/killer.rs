//! Calls that make the process of their model server exit.

use std::time::{Duration, Instant};

use super::options::Arguments;
use super::report::Report;
use super::scene::{Scene, marked, plain};
use crate::model_server::Settings;
use crate::support::Failure;
use crate::support::load::offer;
use crate::support::pace::Gaps;
use crate::support::servers::ModelServers;

const INSTANCES: usize = 3;
const LOAD: f64 = 0.4;
/// The second column of lethal calls.
const LETHAL: f32 = -2.0;
const BETWEEN: Duration = Duration::from_secs(5);
/// How long it takes until somebody starts a dead model server again.
const ABSENCE: Duration = Duration::from_millis(300);
const DEATHS_PER_CALL: u64 = 3;

const INNOCENT: u8 = 0;
const KILLER: u8 = 1;

pub(crate) async fn run(arguments: &Arguments) -> Result<Report, Failure> {
    let model = arguments.model(1.0);
    let rate = model.capacity(INSTANCES) * LOAD;
    let lethal_number = f64::from(LETHAL);
    let settings = Settings { lethal: true, lethal_number, ..model.settings() };
    let mut scene = Scene::start(arguments, INSTANCES, &settings, &[]).await?;
    scene.warm_up(rate).await?;
    let length = arguments.length(31);
    let mut next_killer = Instant::now() + Duration::from_secs(1);
    let ends = Instant::now() + length;
    let next = |index| {
        let now = Instant::now();
        // The last one early enough that its deaths are counted.
        if now < next_killer || now + BETWEEN > ends {
            return (plain(index), INNOCENT);
        }
        next_killer = now + BETWEEN;
        (marked(index, LETHAL), KILLER)
    };
    let load = offer(&scene.asker, Gaps::new(rate, arguments.seed), length, next);
    let (records, deaths) = tokio::join!(load, supervise(&mut scene.servers, ends));
    let (records, deaths) = (records?, deaths?);

    let setting = format!(
        "{}, {rate:.0}/s, {} % of the capacity; every {BETWEEN:?} a call ends the process",
        model.describe(INSTANCES),
        LOAD * 100.0
    );
    let mut report = Report::new("killer", setting);
    report.totals(&records, scene.servers.counted().await?);
    report.note("upstream counts are those of processes that live at the end");
    let (innocent, killers) = (records.of_kind(INNOCENT), records.of_kind(KILLER));
    report.phase("innocent", &innocent);
    report.phase("killers", &killers);
    let sent: Vec<Instant> =
        records.calls.iter().filter(|call| call.kind == KILLER).map(|call| call.intended).collect();
    let deaths_of = |sent: &Instant| {
        deaths.iter().filter(|death| **death >= *sent && **death < *sent + BETWEEN).count() as u64
    };
    let most = sent.iter().map(deaths_of).max().unwrap_or(0);
    report.note(format!("{} deaths of {} killers", deaths.len(), sent.len()));
    report.at_most("deaths of one killer", most as f64, DEATHS_PER_CALL as f64, "");
    report.at_least("deaths", deaths.len() as f64, 1.0, "");
    report.none("other calls without the right answer", innocent.not_right());
    Ok(report)
}

/// Starts again whoever has died; the times of the deaths.
async fn supervise(servers: &mut ModelServers, ends: Instant) -> Result<Vec<Instant>, Failure> {
    let mut deaths = Vec::new();
    let mut due: Vec<Option<Instant>> = vec![None; servers.iter().len()];
    while Instant::now() < ends || due.iter().any(Option::is_some) {
        for (server, due) in servers.iter_mut().zip(&mut due) {
            match due {
                None => {
                    if server.process().ended()?.is_some() {
                        deaths.push(Instant::now());
                        *due = Some(Instant::now() + ABSENCE);
                    }
                }
                Some(at) if *at <= Instant::now() => {
                    server.start_again().await?;
                    *due = None;
                }
                Some(_) => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(deaths)
}
