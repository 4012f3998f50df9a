//! One of two model servers does nothing for a while: neither does it refuse, nor does it end.

use std::time::{Duration, Instant};

use serde_json::json;

use super::options::Arguments;
use super::report::Report;
use super::scene::{Scene, until};
use crate::model_server::{Settings, Visit, unix_time_us};
use crate::support::Failure;
use crate::support::process::Tell;
use crate::support::servers::Server;

const INSTANCES: usize = 2;
const CALLS_PER_SECOND: f64 = 500.0;
const OUTAGE: Duration = Duration::from_secs(5);
/// No call may wait longer than this many times what 99 % did before.
const LONGEST_WAIT: f64 = 5.0;
const JOURNAL: usize = 65_536;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outage {
    /// The whole process stands still; its sockets stay open.
    Frozen,
    /// Inference alone stands still; health is green.
    Hanging,
}

pub(crate) async fn frozen(arguments: &Arguments) -> Result<Report, Failure> {
    run(arguments, Outage::Frozen, "frozen").await
}

pub(crate) async fn hanging(arguments: &Arguments) -> Result<Report, Failure> {
    run(arguments, Outage::Hanging, "hanging").await
}

async fn run(
    arguments: &Arguments,
    outage: Outage,
    scenario: &'static str,
) -> Result<Report, Failure> {
    let model = arguments.model(1.0);
    let settings = Settings { journal: JOURNAL, ..model.settings() };
    let scene = Scene::start(arguments, INSTANCES, &settings, &[]).await?;
    scene.warm_up(CALLS_PER_SECOND).await?;
    let length = arguments.length(15).max(OUTAGE * 2);
    let began = Instant::now();
    let begins = (length - OUTAGE) / 2;
    let counted = scene.servers.counted().await?;
    let server = scene.servers.get(0)?;
    let script = async {
        until(began, begins).await;
        let (from, from_us) = (Instant::now(), unix_time_us());
        strike(server, outage, true).await?;
        until(began, begins + OUTAGE).await;
        let to_us = unix_time_us();
        strike(server, outage, false).await?;
        Ok::<_, Failure>((from, Instant::now(), from_us, to_us))
    };
    let (records, script) = tokio::join!(scene.load(CALLS_PER_SECOND, length), script);
    let (records, (from, to, from_us, to_us)) = (records?, script?);

    let setting = format!(
        "{}, {CALLS_PER_SECOND}/s; one does nothing for {OUTAGE:?}",
        model.describe(INSTANCES)
    );
    let mut report = Report::new(scenario, setting);
    report.totals(&records, scene.servers.counted().await?.since(counted));
    let before = records.before(from);
    let since = records.those(|call| call.ended() >= from);
    report.phase("before", &before);
    report.phase("during", &records.during(from, to));
    report.phase("after", &records.after(to));
    let bound_ms = LONGEST_WAIT * before.quantile_ms(0.99);
    report.none("calls without the right answer", records.all().not_right());
    report.at_most("longest wait since", since.max_ms(), bound_ms, " ms");
    if outage == Outage::Hanging {
        // What was sent before the proxy could notice is no probe: it is given the time that a
        // call may take.
        let noticed_us = from_us + (bound_ms * 1e3) as u64;
        let journal = server.journal().await?;
        let within = |from: u64| {
            let visits =
                journal.iter().filter(move |visit| (from..to_us).contains(&visit.arrived_us));
            visits.collect::<Vec<_>>()
        };
        let all = within(from_us);
        let rows: usize = all.iter().map(|visit| visit.values.len()).sum();
        report.note(format!("{rows} calls in {} batches were sent to it while it hung", all.len()));
        let most = most_at_once(&within(noticed_us));
        report.at_most("calls at it at once, once noticed", most as f64, 1.0, "");
    }
    Ok(report)
}

async fn strike(server: &Server, outage: Outage, on: bool) -> Result<(), Failure> {
    match (outage, on) {
        (Outage::Frozen, true) => server.tell(Tell::Freeze),
        (Outage::Frozen, false) => server.tell(Tell::Thaw),
        (Outage::Hanging, on) => server.control(&json!({ "hang": on })).await,
    }
}

/// The most rows that were at a model server at the same moment.
fn most_at_once(visits: &[&Visit]) -> usize {
    let there = |now: u64| {
        let there = visits
            .iter()
            .filter(|visit| visit.arrived_us <= now && visit.left_us.is_none_or(|left| left > now));
        there.map(|visit| visit.values.len()).sum()
    };
    visits.iter().map(|visit| there(visit.arrived_us)).max().unwrap_or(0)
}
