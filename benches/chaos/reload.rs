//! The configuration changes once a second under load: other model servers, and now and then a file
//! that is none.

use std::time::{Duration, Instant};

use super::options::Arguments;
use super::report::Report;
use super::scene::{Scene, configuration, until};
use crate::support::Failure;
use crate::support::process::Tell;
use crate::support::servers::ModelServers;

const INSTANCES: usize = 3;
const CALLS_PER_SECOND: f64 = 500.0;
const BETWEEN: Duration = Duration::from_secs(1);
/// A new configuration is in force by then.
const IN_FORCE: Duration = Duration::from_millis(500);
/// Every so many changes the file is broken; what was in force before has to stay.
const BROKEN_EVERY: usize = 4;

/// What the model servers got while it was clear which of them were configured.
#[derive(Debug, Default)]
struct Reloads {
    done: u64,
    /// Calls of model servers that were not listed.
    astray: u64,
    /// Listed model servers that got none.
    idle: u64,
    /// Why it stopped early.
    ended: Option<String>,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<Report, Failure> {
    let model = arguments.model(1.0);
    let mut scene = Scene::start(arguments, INSTANCES, &model.settings(), &[]).await?;
    scene.warm_up(CALLS_PER_SECOND).await?;
    let length = arguments.length(20);
    let counted = scene.servers.counted().await?;
    let asker = std::sync::Arc::clone(&scene.asker);
    let load = super::scene::load(&asker, CALLS_PER_SECOND, length, arguments.seed);
    let (records, reloads) = tokio::join!(load, reload(&mut scene, arguments, length));
    let (records, reloads) = (records?, reloads?);

    let setting = format!(
        "{}, {CALLS_PER_SECOND}/s; models.toml lists other two of them every {BETWEEN:?}, SIGHUP",
        model.describe(INSTANCES)
    );
    let mut report = Report::new("reload", setting);
    report.totals(&records, scene.servers.counted().await?.since(counted));
    report.phase("all", &records.all());
    report
        .note(format!("{} changes, every {BROKEN_EVERY}th of them to a broken file", reloads.done));
    let alive = reloads.ended.is_none();
    let fate = reloads.ended.unwrap_or_else(|| "lives".to_owned());
    report.hold("the proxy", fate, "lives", alive);
    report.none("calls of model servers that were not listed", reloads.astray);
    report.none("times that a listed model server got none", reloads.idle);
    report.none("calls without the right answer", records.all().not_right());
    Ok(report)
}

async fn reload(
    scene: &mut Scene,
    arguments: &Arguments,
    length: Duration,
) -> Result<Reloads, Failure> {
    let began = Instant::now();
    let mut reloads = Reloads::default();
    let mut listed: Vec<usize> = (0..INSTANCES).collect();
    let mut at = BETWEEN;
    for turn in 0.. {
        if at + BETWEEN > length {
            break;
        }
        until(began, at).await;
        if turn % BROKEN_EVERY == BROKEN_EVERY - 1 {
            scene.proxy.rewrite("[[model]]\nname = 7\n")?;
        } else {
            // Two of them, in turn: one leaves and one joins each time.
            listed = (0..INSTANCES).filter(|index| *index != turn % INSTANCES).collect();
            let addresses: Vec<_> =
                listed.iter().filter_map(|index| scene.addresses.get(*index).copied()).collect();
            scene.proxy.rewrite(&configuration(arguments, &addresses, &[]))?;
        }
        scene.proxy.tell(Tell::Reload)?;
        until(began, at + IN_FORCE).await;
        if let Some(status) = scene.proxy.process().ended()? {
            reloads.ended = Some(format!("ended with {status}"));
            break;
        }
        let before = calls(&scene.servers).await?;
        until(began, at + BETWEEN - Duration::from_millis(50)).await;
        let after = calls(&scene.servers).await?;
        for (index, (before, after)) in before.into_iter().zip(after).enumerate() {
            match (listed.contains(&index), after - before) {
                (true, 0) => reloads.idle += 1,
                (false, astray) => reloads.astray += astray,
                (true, _) => {}
            }
        }
        reloads.done += 1;
        at += BETWEEN;
    }
    Ok(reloads)
}

async fn calls(servers: &ModelServers) -> Result<Vec<u64>, Failure> {
    let mut calls = Vec::new();
    for server in servers.iter() {
        calls.push(server.counted().await?.calls);
    }
    Ok(calls)
}
