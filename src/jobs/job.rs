//! A batch that is kept: its record, how far it is, and the wish to end it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::disk;
use super::object::BatchObject;
use super::record::Record;
use super::requests::Jobs;
use super::state::{Happening, Status};

/// A batch that is kept. Only the task that runs it changes its record.
#[derive(Debug)]
pub(super) struct Job {
    record: watch::Sender<Arc<Record>>,
    completed: AtomicU32,
    failed: AtomicU32,
    /// Its owner does not want it any more.
    pub(super) cancel: CancellationToken,
}

/// Why something about a batch does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interrupt {
    /// The process takes no more lines.
    Stopped,
    Cancelled,
    Expired,
}

impl Job {
    pub(super) fn new(record: Record) -> Self {
        let (record, _) = watch::channel(Arc::new(record));
        let (completed, failed) = (AtomicU32::new(0), AtomicU32::new(0));
        Self { record, completed, failed, cancel: CancellationToken::new() }
    }

    pub(super) fn record(&self) -> Arc<Record> {
        Arc::clone(&self.record.borrow())
    }

    pub(super) fn status(&self) -> Status {
        self.record.borrow().state.status
    }

    /// How many requests were answered with success, and how many ended in an error.
    pub(super) fn counts(&self) -> (u32, u32) {
        (self.completed.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }

    pub(super) fn set_counts(&self, (completed, failed): (u32, u32)) {
        self.completed.store(completed, Ordering::Relaxed);
        self.failed.store(failed, Ordering::Relaxed);
    }

    pub(super) fn object(&self) -> BatchObject {
        BatchObject::of(&self.record(), self.counts())
    }

    /// Something has happened: the record says so, on the disk and then to everybody.
    pub(super) async fn on(
        &self,
        jobs: &Jobs,
        happening: Happening,
        change: impl FnOnce(&mut Record),
    ) -> io::Result<()> {
        let Some(mut record) = self.record().on(happening, disk::now()) else { return Ok(()) };
        change(&mut record);
        let (before, after) = (self.status(), record.state.status);
        let folder = jobs.folder(&record.id);
        let record = disk::blocking(move || {
            write(&folder, &record)?;
            Ok(record)
        });
        self.record.send_replace(Arc::new(record.await?));
        jobs.metrics.left(before.name());
        jobs.metrics.entered(after.name());
        tracing::info!(batch = self.record().id, status = after.name(), "a batch goes on");
        Ok(())
    }

    /// Waits until it is neither validated nor run any more.
    pub(super) async fn until_ending(&self) {
        let mut seen = self.record.subscribe();
        let is_ending = |record: &Arc<Record>| {
            !matches!(record.state.status, Status::Validating | Status::InProgress)
        };
        // The sender is this very job.
        drop(seen.wait_for(is_ending).await);
    }

    /// Waits until it must not go on.
    pub(super) async fn interrupted(&self, jobs: &Jobs) -> Interrupt {
        let left = self.record().state.expires_at.saturating_sub(disk::now());
        let end = Instant::now() + Duration::from_secs(left);
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Interrupt::Cancelled,
            () = tokio::time::sleep_until(end) => Interrupt::Expired,
            () = jobs.stop.cancelled() => Interrupt::Stopped,
        }
    }
}

/// Where the record of a batch is.
fn record_path(folder: &Path) -> PathBuf {
    folder.join("batch.json")
}

/// Writes the record of a batch. Waits for the disk.
pub(super) fn write(folder: &Path, record: &Record) -> io::Result<()> {
    let document = serde_json::to_vec(record).map_err(io::Error::other)?;
    disk::replace(&record_path(folder), &document)
}

/// Reads the record of a batch; `None` when there is none, or none that can be read. Waits for the
/// disk.
pub(super) fn read(folder: &Path) -> io::Result<Option<Record>> {
    match std::fs::read(record_path(folder)) {
        Ok(document) => Ok(serde_json::from_slice(&document)
            .map_err(|error| tracing::error!(?folder, %error, "a batch cannot be read"))
            .ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
