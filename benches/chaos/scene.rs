//! What every scenario begins with: model servers, a proxy before them, and who asks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::options::{Arguments, MAX_BATCH};
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
        let text = configuration(arguments, &servers, &all(&servers), model_lines);
        let proxy = Batchwise::start(&arguments.batchwise, "batchwise", &text, &directory).await?;
        let asker = Asker::new(proxy.grpc, CONNECTIONS)?;
        first_answer(&asker).await?;
        Ok(Self { proxy, servers, asker, seed: arguments.seed, _directory: directory })
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
    Question { x: (index % (1 << 23)) as f32, priority: None }
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

/// The numbers of all model servers.
pub(crate) fn all(servers: &ModelServers) -> Vec<usize> {
    (0..servers.iter().len()).collect()
}

/// A models.toml with those of the model servers that are listed.
pub(crate) fn configuration(
    arguments: &Arguments,
    servers: &ModelServers,
    listed: &[usize],
    model_lines: &[&str],
) -> String {
    let listed = servers.iter().enumerate().filter(|(index, _)| listed.contains(index));
    let urls: Vec<String> =
        listed.map(|(_, server)| format!("\"http://{}\"", server.grpc)).collect();
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
