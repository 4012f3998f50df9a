//! Two proxies behind a balancer are restarted in turn, as a deployment does.

use std::time::{Duration, Instant};

use super::options::Arguments;
use super::relay::{Backend, Relay};
use super::report::Report;
use super::scene::{CONNECTIONS, configuration, first_answer, load};
use crate::support::Failure;
use crate::support::asker::Asker;
use crate::support::batchwise::Batchwise;
use crate::support::directory::Directory;
use crate::support::process::Tell;
use crate::support::servers::ModelServers;

const INSTANCES: usize = 2;
const CALLS_PER_SECOND: f64 = 500.0;
const BETWEEN: Duration = Duration::from_secs(2);
const SERVER: &str = "[server]\nshutdown_delay = \"500ms\"\n\n";

pub(crate) async fn run(arguments: &Arguments) -> Result<Report, Failure> {
    let model = arguments.model(1.0);
    let directory = Directory::create()?;
    let servers = ModelServers::start(INSTANCES, &model.settings(), &directory).await?;
    let addresses: Vec<_> = servers.iter().map(|server| server.grpc).collect();
    // The balancer asks every 20 ms who is ready; until it knows, calls keep coming.
    let text = format!("{SERVER}{}", configuration(arguments, &addresses, &[]));
    let mut proxies = Vec::new();
    for name in ["first", "second"] {
        let mut proxy = Batchwise::start(&arguments.batchwise, name, &text, &directory).await?;
        proxy.wait_until_ready().await?;
        proxies.push(proxy);
    }
    let backends: Vec<Backend> =
        proxies.iter().map(|proxy| Backend { address: proxy.grpc, admin: proxy.admin }).collect();
    let relay = Relay::start(&backends).await?;
    let asker = Asker::new(relay.address, CONNECTIONS)?;
    first_answer(&asker).await?;
    load(&asker, CALLS_PER_SECOND, BETWEEN, !arguments.seed).await?;

    let counted = servers.counted().await?;
    let length = arguments.length(20);
    let load = load(&asker, CALLS_PER_SECOND, length, arguments.seed);
    let (records, restarts) = tokio::join!(load, restart_in_turn(&mut proxies, length));
    let (records, restarts) = (records?, restarts?);

    let setting = format!(
        "{}, {CALLS_PER_SECOND}/s through 2 proxies, which SIGTERM ends in turn",
        model.describe(INSTANCES)
    );
    let mut report = Report::new("rolling", setting);
    report.totals(&records, servers.counted().await?.since(counted));
    if let Some(first) = restarts.first() {
        report.phase("before", &records.before(first.from));
    }
    let during = records.those(|call| {
        restarts.iter().any(|one| call.ended() >= one.from && call.intended < one.ready)
    });
    report.phase("while one ends and starts", &during);
    let unclean = restarts.iter().filter(|one| !one.clean).count() as u64;
    let took = restarts.iter().map(|one| one.ended - one.from).max().unwrap_or_default();
    report.note(format!("{} restarts; the longest drain took {took:.0?}", restarts.len()));
    report.at_least("restarts", restarts.len() as f64, 2.0, "");
    report.none("proxies that did not exit with 0", unclean);
    report.none("calls without the right answer", records.all().not_right());
    Ok(report)
}

struct Restart {
    from: Instant,
    ended: Instant,
    ready: Instant,
    clean: bool,
}

async fn restart_in_turn(
    proxies: &mut [Batchwise],
    length: Duration,
) -> Result<Vec<Restart>, Failure> {
    let ends = Instant::now() + length;
    let mut restarts = Vec::new();
    let mut turn = 0;
    tokio::time::sleep(BETWEEN).await;
    while Instant::now() + 2 * BETWEEN < ends {
        let turns = proxies.len().max(1);
        let proxy = proxies.get_mut(turn % turns).ok_or("no proxies")?;
        let from = Instant::now();
        proxy.tell(Tell::Terminate)?;
        let clean = proxy.wait_until_ended().await?.success();
        let ended = Instant::now();
        proxy.start_again().await?;
        proxy.wait_until_ready().await?;
        restarts.push(Restart { from, ended, ready: Instant::now(), clean });
        turn += 1;
        tokio::time::sleep(BETWEEN).await;
    }
    Ok(restarts)
}
