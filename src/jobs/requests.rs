//! What callers can ask of the Batch API.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::disk;
use super::files::{FileRecord, FileStore};
use super::gate::Gates;
use super::job::Job;
use super::list::{List, Page, page};
use super::object::{BatchObject, Deleted, FileObject};
use super::owner::{Caller, Owner, OwnerKey};
use super::record::Record;
use super::state::Status;
use super::upload::Upload;
use crate::call::{Fault, FaultKind};
use crate::config::BatchApiPlan;
use crate::engine::Models;
use crate::telemetry::BatchApiMetrics;

/// Batches that are kept at once, ended or not.
pub(super) const MOST_BATCHES: usize = 10_000;
/// Files that are kept at once.
const MOST_FILES: usize = 100_000;
/// Unfinished batches that operators are shown.
const MOST_SHOWN: usize = 100;
/// How long a cancelled batch is waited for before its owner is answered.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

type ById = BTreeMap<String, Arc<Job>>;

/// The files and batches of the Batch API. Whoever asks sees only what is theirs.
#[derive(Debug)]
pub struct Jobs {
    pub(super) plan: BatchApiPlan,
    /// Bytes of the longest line of an input.
    pub(super) max_line_bytes: u64,
    pub(super) models: Arc<Models>,
    pub(super) metrics: BatchApiMetrics,
    pub(super) files: Arc<FileStore>,
    pub(super) batches: PathBuf,
    pub(super) key: OwnerKey,
    pub(super) jobs: Mutex<ById>,
    /// Tells the runner of a new batch.
    pub(super) wake: mpsc::Sender<Arc<Job>>,
    pub(super) gates: Gates,
    /// What the lines of batches may take of it.
    pub(super) memory: Arc<Semaphore>,
    pub(super) memory_units: u32,
    pub(super) uploads: Arc<Semaphore>,
    pub(super) validations: Semaphore,
    /// No more lines are taken.
    pub(super) stop: CancellationToken,
    /// Those that run are given up.
    pub(super) cut: CancellationToken,
    pub(super) cut_at: OnceLock<Instant>,
    /// Held as long as the directory is used.
    pub(super) _lock: File,
}

/// How the Batch API is, for operators.
#[derive(Clone, Debug, Serialize)]
pub struct JobsStatus {
    /// Files that are kept.
    files: usize,
    /// Batches that are kept, by their status.
    batches: BTreeMap<&'static str, usize>,
    /// Those that have not ended, or some of them.
    unfinished: Vec<Unfinished>,
}

#[derive(Clone, Debug, Serialize)]
struct Unfinished {
    id: String,
    status: &'static str,
    model: Option<String>,
    requests: u32,
    completed: u32,
    failed: u32,
    expires_at: u64,
}

impl Jobs {
    /// Who owns what a caller makes.
    pub fn owner(&self, caller: Caller<'_>) -> Owner {
        self.key.owner(caller)
    }

    /// Bytes of the largest file that is taken.
    pub fn max_file_bytes(&self) -> u64 {
        self.plan.max_file_bytes
    }

    /// Begins to take a file in.
    ///
    /// # Errors
    /// When too many are coming in, or there are too many.
    pub async fn upload(&self, owner: &Owner) -> Result<Upload, Fault> {
        let room = Arc::clone(&self.uploads).try_acquire_owned().map_err(|_| {
            let message = "too many files are being sent at once";
            Fault::new(FaultKind::BuffersFull, message).with_retry_after(Duration::from_secs(1))
        })?;
        if self.files.count() >= MOST_FILES {
            let message = format!("there are {MOST_FILES} files; delete some");
            return Err(Fault::new(FaultKind::TooLarge, message));
        }
        let bounds = (self.plan.max_file_bytes, self.plan.retention.as_secs());
        Upload::begin(Arc::clone(&self.files), owner.clone(), bounds, room).await
    }

    /// A file.
    ///
    /// # Errors
    /// When the owner has no such file.
    pub fn file(&self, owner: &Owner, id: &str) -> Result<FileObject, Fault> {
        self.file_record(owner, id).map(|file| FileObject::from(&*file))
    }

    pub(super) fn file_record(&self, owner: &Owner, id: &str) -> Result<Arc<FileRecord>, Fault> {
        self.files.get(id, owner).ok_or_else(|| unknown("file", id))
    }

    /// The files of an owner, perhaps only those of a purpose.
    ///
    /// # Errors
    /// When there is no such page.
    pub fn files(
        &self,
        owner: &Owner,
        purpose: Option<&str>,
        wanted: &Page,
    ) -> Result<List<FileObject>, Fault> {
        let mut all = self.files.all_of(owner);
        all.retain(|file| purpose.is_none_or(|purpose| file.purpose == purpose));
        page(all, wanted, |file| (file.created_us, &file.id), |file| FileObject::from(&**file))
    }

    /// The content of a file, from its beginning.
    ///
    /// # Errors
    /// When the owner has no such file, or the disk fails.
    pub async fn content(
        &self,
        owner: &Owner,
        id: &str,
    ) -> Result<(Arc<FileRecord>, tokio::fs::File), Fault> {
        let record = self.file_record(owner, id)?;
        match tokio::fs::File::open(self.files.path(&record.id)).await {
            Ok(content) => Ok((record, content)),
            // It was removed a moment ago.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(unknown("file", id)),
            Err(error) => Err(internal("open a file", &error)),
        }
    }

    /// Removes a file.
    ///
    /// # Errors
    /// When the owner has no such file, a batch needs it, or the disk fails.
    pub async fn delete_file(&self, owner: &Owner, id: &str) -> Result<Deleted, Fault> {
        let record = self.file_record(owner, id)?;
        if let Some(batch) = self.in_use(id) {
            let message = format!("file {id:.100} is read by batch {batch}; cancel that first");
            return Err(Fault::invalid("file_id", message));
        }
        let (files, name) = (Arc::clone(&self.files), record.id.clone());
        let removed = disk::blocking(move || files.remove(&name)).await;
        removed.map_err(|error| internal("remove a file", &error))?;
        Ok(Deleted::file(id))
    }

    /// The batch that still needs a file.
    pub(super) fn in_use(&self, file: &str) -> Option<String> {
        let jobs = self.lock();
        let user = jobs
            .values()
            .map(|job| job.record())
            .find(|record| record.input_file_id == file && !record.state.status.is_final());
        user.map(|record| record.id.clone())
    }

    /// A batch.
    ///
    /// # Errors
    /// When the owner has no such batch.
    pub fn batch(&self, owner: &Owner, id: &str) -> Result<BatchObject, Fault> {
        self.job(owner, id).map(|job| job.object())
    }

    /// The batches of an owner.
    ///
    /// # Errors
    /// When there is no such page.
    pub fn batches(&self, owner: &Owner, wanted: &Page) -> Result<List<BatchObject>, Fault> {
        let mut all: Vec<_> =
            self.lock().values().map(|job| (job.record(), Arc::clone(job))).collect();
        all.retain(|(record, _)| record.owner == *owner);
        page(all, wanted, |(record, _)| (record.created_us, &record.id), |(_, job)| job.object())
    }

    /// Ends a batch before its time. Its lines that run are given up; what was answered is kept.
    ///
    /// # Errors
    /// When the owner has no such batch, or it has ended. That is a 400, for the official clients
    /// repeat a 409 silently.
    pub async fn cancel(&self, owner: &Owner, id: &str) -> Result<BatchObject, Fault> {
        let job = self.job(owner, id)?;
        match job.status() {
            Status::Cancelling => {}
            Status::Validating | Status::InProgress => {
                job.cancel.cancel();
                drop(tokio::time::timeout(CANCEL_TIMEOUT, job.until_ending()).await);
            }
            status => {
                let status = status.name();
                let message = format!("a batch with status '{status}' cannot be cancelled");
                return Err(Fault::invalid("batch_id", message));
            }
        }
        Ok(job.object())
    }

    /// From now on no line is taken, and those that run have until `by`; the runner ends.
    pub fn stop(&self, by: Instant) {
        self.cut_at.get_or_init(|| by);
        self.stop.cancel();
    }

    /// How everything is.
    pub fn status(&self) -> JobsStatus {
        let jobs: Vec<_> = self.lock().values().cloned().collect();
        let mut batches = BTreeMap::new();
        let mut unfinished = Vec::new();
        for job in jobs {
            let record = job.record();
            let status = record.state.status;
            *batches.entry(status.name()).or_default() += 1;
            if !status.is_final() && unfinished.len() < MOST_SHOWN {
                let (completed, failed) = job.counts();
                unfinished.push(Unfinished {
                    id: record.id.clone(),
                    status: status.name(),
                    model: record.input.model.clone(),
                    requests: record.input.requests,
                    completed,
                    failed,
                    expires_at: record.state.expires_at,
                });
            }
        }
        JobsStatus { files: self.files.count(), batches, unfinished }
    }

    fn job(&self, owner: &Owner, id: &str) -> Result<Arc<Job>, Fault> {
        let job = self.lock().get(id).cloned();
        job.filter(|job| job.record().owner == *owner).ok_or_else(|| unknown("batch", id))
    }

    /// Where a batch is kept.
    pub(super) fn folder(&self, id: &str) -> PathBuf {
        self.batches.join(id)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, ById> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what is not to be kept any more. Waits for the disk.
    pub(super) fn sweep(&self) -> io::Result<()> {
        let now = disk::now();
        for file in self.files.expired(now) {
            if self.in_use(&file).is_none() {
                self.files.remove(&file)?;
            }
        }
        let keep = self.plan.retention.as_secs();
        let ended: Vec<_> = self.lock().values().map(|job| job.record()).collect();
        for record in ended {
            let over = record.state.ended_at().is_some_and(|at| at.saturating_add(keep) <= now);
            if over {
                disk::remove_folder(&self.folder(&record.id))?;
                self.forget(&record);
            }
        }
        Ok(())
    }

    /// A batch that has ended is no more.
    pub(super) fn forget(&self, record: &Record) {
        if self.lock().remove(&record.id).is_some() {
            self.metrics.left(record.state.status.name());
        }
    }
}

/// There is nothing of this name, or it is somebody else's: both are told alike.
fn unknown(what: &str, id: &str) -> Fault {
    let id: String = id.chars().take(100).flat_map(char::escape_debug).collect();
    Fault::new(FaultKind::UnknownObject, format!("there is no {what} '{id}'")).with_field("id")
}

/// The disk fails: that is logged, and not told in detail.
pub(super) fn internal(what: &str, error: &io::Error) -> Fault {
    tracing::error!(%error, "the Batch API cannot {what}");
    Fault::new(FaultKind::Internal, format!("batchwise cannot {what}; its log says why"))
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::{Path, PathBuf};

    use crate::jobs::id;

    /// A folder that is removed in the end.
    pub(in crate::jobs) struct Folder(PathBuf);

    impl Folder {
        pub(in crate::jobs) fn new() -> Self {
            let name = id::fresh("batchwise-test-").unwrap();
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        pub(in crate::jobs) fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }
}
