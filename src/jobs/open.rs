//! Opening the directory: one process at a time, and from where the last one stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::files::FileStore;
use super::gate::Gates;
use super::job::{self, Job};
use super::owner::OwnerKey;
use super::requests::{Jobs, MOST_BATCHES};
use super::runner::Runner;
use super::{disk, id};
use crate::config::{BatchApiPlan, ServerPlan};
use crate::engine::Models;
use crate::telemetry::{BatchApiMetrics, Telemetry};

/// Bytes that are read at once of an input, but for a longer line.
pub(super) const CHUNK: u64 = 256 << 10;
/// What bytes of memory are counted in.
pub(super) const UNIT: u64 = 1 << 10;
/// Uploads at once.
const UPLOADS_AT_ONCE: usize = 64;
/// Inputs that are looked through at once: that takes a processor.
const VALIDATIONS_AT_ONCE: usize = 2;

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses it.
    #[error("the directory {0} of the Batch API is used by another process")]
    InUse(PathBuf),
    /// The disk says no.
    #[error("cannot use the directory {path} of the Batch API")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the disk says.
        #[source]
        source: io::Error,
    },
}

impl Jobs {
    /// Opens the directory of `plan`. The runner goes on with what is not done there.
    ///
    /// # Errors
    /// When another process uses the directory, or the disk fails.
    pub fn open(
        plan: &BatchApiPlan,
        server: &ServerPlan,
        models: Arc<Models>,
        telemetry: &Telemetry,
    ) -> Result<(Arc<Self>, Runner), OpenError> {
        let failed = |source| OpenError::Io { path: plan.directory.clone(), source };
        fs::create_dir_all(&plan.directory).map_err(failed)?;
        let lock = File::create(plan.directory.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(plan.directory.clone())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let key = OwnerKey::open(&plan.directory.join("key")).map_err(failed)?;
        let batches = plan.directory.join("batches");
        let jobs = read_jobs(&batches).map_err(failed)?;
        let awaited = awaited(jobs.values());
        let files = plan.directory.join("files");
        let files = FileStore::open(&files, plan.max_stored_bytes, &awaited).map_err(failed)?;
        let metrics = BatchApiMetrics::new(telemetry);
        for job in jobs.values() {
            metrics.entered(job.status().name());
        }
        let (wake, inbox) = mpsc::channel(MOST_BATCHES);
        let unfinished = jobs.values().filter(|job| !job.status().is_final());
        let unfinished = unfinished.cloned().collect();
        // A line is an object around what a live call may send.
        let max_line_bytes = server.max_request_bytes.saturating_add(4 * UNIT);
        let memory = (server.max_buffered_bytes / 4).max(max_line_bytes + CHUNK);
        let jobs = Arc::new(Self {
            plan: plan.clone(),
            max_line_bytes,
            models,
            metrics,
            files: Arc::new(files),
            batches,
            key,
            jobs: Mutex::new(jobs),
            wake,
            gates: Gates::new(plan.max_concurrent_lines),
            memory: Arc::new(Semaphore::new(units(memory) as usize)),
            memory_units: units(memory),
            uploads: Arc::new(Semaphore::new(UPLOADS_AT_ONCE)),
            validations: Semaphore::new(VALIDATIONS_AT_ONCE),
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
            cut_at: OnceLock::new(),
            _lock: lock,
        });
        let runner = Runner::new(Arc::clone(&jobs), inbox, unfinished);
        Ok((jobs, runner))
    }
}

/// So many bytes in units of memory.
pub(super) fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX >> 4).min(u32::MAX >> 4)
}

/// The batches of a folder. One that was only about to be made is removed.
fn read_jobs(folder: &Path) -> io::Result<BTreeMap<String, Arc<Job>>> {
    fs::create_dir_all(folder)?;
    let mut jobs = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if !id::is_id(name, id::BATCH) {
            continue;
        }
        disk::remove(&path.join("batch.new"))?;
        match job::read(&path)? {
            Some(record) if record.id == name => {
                jobs.insert(name.to_owned(), Arc::new(Job::new(record)));
            }
            Some(_) => tracing::error!(?path, "a batch is in the folder of another"),
            // Only an empty folder can be removed so: what cannot be read stays.
            None => drop(fs::remove_dir(&path)),
        }
    }
    Ok(jobs)
}

/// The files that batches are about to leave.
fn awaited<'a>(jobs: impl Iterator<Item = &'a Arc<Job>>) -> BTreeSet<String> {
    let unfinished = jobs.filter(|job| !job.status().is_final());
    let files = unfinished.flat_map(|job| {
        let record = job.record();
        [record.output_id.clone(), record.error_id.clone()]
    });
    files.collect()
}
