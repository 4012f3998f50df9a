//! What every scenario begins with: model servers, a proxy before them, and who asks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::options::{Arguments, MAX_BATCH};
use super::slow_link::SlowLink;
use crate::model_server::Settings;
use crate::support::Failure;
use crate::support::asker::{Asker, Outcome, Question};
use crate::support::batchwise::Batchwise;
use crate::support::directory::Directory;
use crate::support::load::offer;
use crate::support::pace::Gaps;
use crate::support::records::Records;
use crate::support::servers::ModelServers;

/// Connections of the load generator.
pub(crate) const CONNECTIONS: usize = 4;
/// How long a proxy may take until it answers.
const FIRST_ANSWER_BOUND: Duration = Duration::from_secs(20);
const WARM_UP: Duration = Duration::from_millis(2500);
/// What warming up asks begins here, so that no scenario asks the same.
const WARM_UP_X: usize = 1 << 22;

/// A proxy with its model servers, all running.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) proxy: Batchwise,
    pub(crate) servers: ModelServers,
    pub(crate) asker: Arc<Asker>,
    pub(crate) seed: u64,
    /// Where the proxy reaches the model servers.
    pub(crate) addresses: Vec<SocketAddr>,
    _links: Vec<SlowLink>,
    _directory: Directory,
}

impl Scene {
    /// Starts everything and asks until there is an answer.
    pub(crate) async fn start(
        arguments: &Arguments,
        instances: usize,
        settings: &Settings,
        model_lines: &[&str],
    ) -> Result<Self, Failure> {
        let directory = Directory::create()?;
        let servers = ModelServers::start(instances, settings, &directory).await?;
        let mut addresses: Vec<SocketAddr> = servers.iter().map(|server| server.grpc).collect();
        let mut links = Vec::new();
        if arguments.network {
            for (number, address) in (0u64..).zip(&mut addresses) {
                let link = SlowLink::start(*address, arguments.seed ^ (number << 32)).await?;
                *address = link.address;
                links.push(link);
            }
        }
        let text = configuration(arguments, &addresses, model_lines);
        let proxy = Batchwise::start(&arguments.batchwise, "batchwise", &text, &directory).await?;
        let asker = Asker::new(proxy.grpc, CONNECTIONS)?;
        first_answer(&asker).await?;
        let seed = arguments.seed;
        Ok(Self { proxy, servers, asker, seed, addresses, _links: links, _directory: directory })
    }

    /// Load that nobody measures, until the proxy has learned what its model servers are like.
    pub(crate) async fn warm_up(&self, rate: f64) -> Result<(), Failure> {
        let next = |index| (plain(WARM_UP_X + index), 0);
        offer(&self.asker, Gaps::new(rate, !self.seed), WARM_UP, next).await?;
        Ok(())
    }

    /// Open-loop load of plain questions.
    pub(crate) async fn load(&self, rate: f64, length: Duration) -> Result<Records, Failure> {
        load(&self.asker, rate, length, self.seed).await
    }
}

/// Open-loop load of plain questions, each with an x of its own.
pub(crate) async fn load(
    asker: &Arc<Asker>,
    rate: f64,
    length: Duration,
    seed: u64,
) -> Result<Records, Failure> {
    offer(asker, Gaps::new(rate, seed), length, |index| (plain(index), 0)).await
}

/// The question of a number.
pub(crate) fn plain(index: usize) -> Question {
    // Below 2^23, so that 2x + 1 is exact.
    Question { x: (index % (1 << 23)) as f32, mark: 0.0, priority: None }
}

/// The question of a number, with a mark that model servers stumble over.
pub(crate) fn marked(index: usize, mark: f32) -> Question {
    Question { mark, ..plain(index) }
}

/// Asks until there is an answer: a proxy may listen before it knows that its servers are well.
pub(crate) async fn first_answer(asker: &Asker) -> Result<(), Failure> {
    let give_up = Instant::now() + FIRST_ANSWER_BOUND;
    loop {
        match asker.ask(plain(0), 0).await {
            Outcome::Right => return Ok(()),
            other if Instant::now() > give_up => {
                return Err(format!("batchwise does not answer: {other:?}").into());
            }
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// A models.toml with the model servers at these addresses.
pub(crate) fn configuration(
    arguments: &Arguments,
    addresses: &[SocketAddr],
    model_lines: &[&str],
) -> String {
    let urls: Vec<String> =
        addresses.iter().map(|address| format!("\"http://{address}\"")).collect();
    let own = arguments.model_setting.iter().map(String::as_str);
    let lines: Vec<&str> = model_lines.iter().copied().chain(own).collect();
    format!(
        "[[model]]\nname = \"linear\"\nprotocol = \"kserve-grpc\"\ninstances = [{}]\n\
         max_batch_size = {MAX_BATCH}\n{}\n",
        urls.join(", "),
        lines.join("\n"),
    )
}

/// Sleeps until a time after the beginning.
pub(crate) async fn until(began: Instant, offset: Duration) {
    tokio::time::sleep_until((began + offset).into()).await;
}
