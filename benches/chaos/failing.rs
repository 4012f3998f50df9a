//! Every model server fails every call: the proxy must not make it worse by trying again.

use std::time::{Duration, Instant};

use serde_json::json;

use super::options::Arguments;
use super::report::Report;
use super::scene::{Scene, until};
use crate::support::Failure;
use crate::support::records::End;

const INSTANCES: usize = 2;
const CALLS_PER_SECOND: f64 = 500.0;
const OUTAGE: Duration = Duration::from_secs(10);
const UPSTREAM_PER_ARRIVAL: f64 = 1.2;

pub(crate) async fn run(arguments: &Arguments) -> Result<Report, Failure> {
    let model = arguments.model(1.0);
    let scene = Scene::start(arguments, INSTANCES, &model.settings(), &[]).await?;
    scene.warm_up(CALLS_PER_SECOND).await?;
    let length = arguments.length(26).max(OUTAGE * 3 / 2);
    let began = Instant::now();
    let begins = Duration::from_secs(3);
    let counted = scene.servers.counted().await?;
    let script = async {
        until(began, begins).await;
        let from = Instant::now();
        let before = scene.servers.counted().await?;
        scene.servers.control(&json!({ "fail": "always" })).await?;
        until(began, begins + OUTAGE).await;
        let upstream = scene.servers.counted().await?.since(before);
        scene.servers.control(&json!({ "fail": "never" })).await?;
        Ok::<_, Failure>((from, Instant::now(), upstream))
    };
    let (records, script) = tokio::join!(scene.load(CALLS_PER_SECOND, length), script);
    let (records, (from, to, upstream)) = (records?, script?);

    let setting = format!(
        "{}, {CALLS_PER_SECOND}/s; all answer 500 for {OUTAGE:?}",
        model.describe(INSTANCES)
    );
    let mut report = Report::new("all-fail", setting);
    report.totals(&records, scene.servers.counted().await?.since(counted));
    report.phase("before", &records.before(from));
    report.phase("during", &records.during(from, to));
    report.phase("after", &records.after(to));
    let arrivals = records.those(|call| call.intended >= from && call.intended < to).calls;
    let again = records.calls.iter().filter(|call| call.intended >= to && call.end == End::Right);
    let again = again.map(|call| call.ended().duration_since(to)).min();
    report.note(match again {
        Some(again) => format!("first right answer {} ms after the end", again.as_millis()),
        None => "no right answer after the end".to_owned(),
    });
    let ratio = upstream.calls as f64 / arrivals.max(1) as f64;
    report.at_most(
        format!("upstream calls per arrival ({} for {arrivals})", upstream.calls),
        ratio,
        UPSTREAM_PER_ARRIVAL,
        "",
    );
    let all = records.all();
    report.none("wrong answers", all.wrong);
    report.none("calls that failed before", records.before(from).not_right());
    Ok(report)
}
