//! Owns the tasks of all batches, and clears away what is not to be kept any more.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::job::Job;
use super::requests::Jobs;
use super::{disk, run};

/// How often it is looked for what is not to be kept any more.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Runs batches until [`Jobs::stop`]; dropping it ends them at once, as a crash would.
#[derive(Debug)]
pub struct Runner {
    jobs: Arc<Jobs>,
    inbox: mpsc::Receiver<Arc<Job>>,
    unfinished: Vec<Arc<Job>>,
}

impl Runner {
    pub(super) fn new(
        jobs: Arc<Jobs>,
        inbox: mpsc::Receiver<Arc<Job>>,
        mut unfinished: Vec<Arc<Job>>,
    ) -> Self {
        unfinished.sort_by_key(|job| job.record().created_us);
        Self { jobs, inbox, unfinished }
    }

    /// Runs until it is told to stop, and then until what runs has ended.
    pub async fn run(mut self) {
        let mut tasks = JoinSet::new();
        for job in std::mem::take(&mut self.unfinished) {
            tasks.spawn(run::run(Arc::clone(&self.jobs), job));
        }
        let mut sweeps = tokio::time::interval(SWEEP_INTERVAL);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = self.jobs.stop.clone();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(job) = self.inbox.recv() => {
                    tasks.spawn(run::run(Arc::clone(&self.jobs), job));
                }
                Some(ended) = tasks.join_next() => note(ended),
                _ = sweeps.tick() => self.sweep().await,
            }
        }
        let by = self.jobs.cut_at.get().copied().unwrap_or_else(Instant::now);
        let ended = async {
            while let Some(ended) = tasks.join_next().await {
                note(ended);
            }
        };
        tokio::pin!(ended);
        if tokio::time::timeout_at(by, &mut ended).await.is_err() {
            self.jobs.cut.cancel();
            ended.await;
        }
    }

    async fn sweep(&self) {
        let jobs = Arc::clone(&self.jobs);
        if let Err(error) = disk::blocking(move || jobs.sweep()).await {
            tracing::error!(%error, "what is not kept any more cannot be removed");
        }
    }
}

fn note(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "the task of a batch broke; the batch goes on at the next start");
    }
}
