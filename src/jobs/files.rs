//! The files that callers sent and that batches left: contents as they are, with a document beside
//! each that says what it is. A content without its document is not there yet, or not any more.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::owner::Owner;
use super::{disk, id};

/// Contents that are being sent.
pub(super) const INCOMING: &str = "incoming";

/// What is known of a file beside its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its name in requests.
    pub id: String,
    pub(super) owner: Owner,
    /// Microseconds since 1970.
    pub(super) created_us: u64,
    /// What its owner calls it.
    pub filename: String,
    /// `batch` or `batch_output`.
    pub purpose: String,
    /// How long it is.
    pub bytes: u64,
    /// Seconds since 1970, from when on it is not kept any more.
    pub(super) expires_at: Option<u64>,
}

type ById = BTreeMap<String, Arc<FileRecord>>;

/// The files of one directory.
#[derive(Debug)]
pub(super) struct FileStore {
    folder: PathBuf,
    files: Mutex<ById>,
    /// Bytes of all files, and of what is being sent.
    stored: AtomicU64,
    most_stored: u64,
}

impl FileStore {
    /// Opens a folder of files, or makes it. Contents without a document are removed but for those
    /// that are `awaited`: they are about to get one.
    pub(super) fn open(
        folder: &Path,
        most_stored: u64,
        awaited: &BTreeSet<String>,
    ) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let (mut records, mut contents) = (ById::new(), BTreeMap::new());
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            match path.extension().and_then(OsStr::to_str) {
                None if id::is_id(name, id::FILE) => {
                    contents.insert(name.to_owned(), fs::metadata(&path)?.len());
                }
                Some("json") => match read_record(&path)? {
                    Some(record) => drop(records.insert(record.id.clone(), Arc::new(record))),
                    None => tracing::error!(?path, "what stands of a file here cannot be read"),
                },
                // What a crash left of a write.
                Some("new" | INCOMING) => disk::remove(&path)?,
                _ => {}
            }
        }
        records.retain(|id, record| {
            let is_whole = contents.get(id) == Some(&record.bytes);
            if !is_whole {
                tracing::warn!(id, "the content of a file is not there, or not whole");
            }
            is_whole
        });
        let orphans = contents.keys().filter(|id| !records.contains_key(*id));
        for orphan in orphans.filter(|id| !awaited.contains(*id)) {
            disk::remove(&folder.join(orphan))?;
            disk::remove(&folder.join(orphan).with_extension("json"))?;
        }
        let stored = records.values().map(|record| record.bytes).sum();
        let folder = folder.to_owned();
        let (files, stored) = (Mutex::new(records), AtomicU64::new(stored));
        Ok(Self { folder, files, stored, most_stored })
    }

    /// Where the content of a file is, or will be.
    pub(super) fn path(&self, id: &str) -> PathBuf {
        self.folder.join(id)
    }

    /// The file of this id, whoever asks.
    pub(super) fn any(&self, id: &str) -> Option<Arc<FileRecord>> {
        self.lock().get(id).cloned()
    }

    /// The file of this id, if it is the owner's.
    pub(super) fn get(&self, id: &str, owner: &Owner) -> Option<Arc<FileRecord>> {
        self.any(id).filter(|file| file.owner == *owner)
    }

    /// All files that are the owner's.
    pub(super) fn all_of(&self, owner: &Owner) -> Vec<Arc<FileRecord>> {
        self.lock().values().filter(|file| file.owner == *owner).cloned().collect()
    }

    /// The files that are not to be kept any more.
    pub(super) fn expired(&self, now: u64) -> Vec<String> {
        let files = self.lock();
        let expired = files.values().filter(|file| file.expires_at.is_some_and(|at| at <= now));
        expired.map(|file| file.id.clone()).collect()
    }

    /// How many files there are.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Keeps room for so many bytes more; `false` when there is none.
    pub(super) fn reserve(&self, bytes: u64) -> bool {
        let grown = |now: u64| now.checked_add(bytes).filter(|sum| *sum <= self.most_stored);
        self.stored.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok()
    }

    /// Gives back room.
    pub(super) fn give_back(&self, bytes: u64) {
        self.stored.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Makes a file of a content that lies elsewhere in the directory, or that was brought here
    /// before: after a crash it is done again. Waits for the disk. Its room must be reserved.
    pub(super) fn adopt(&self, content: &Path, record: FileRecord) -> io::Result<Arc<FileRecord>> {
        let path = self.path(&record.id);
        match fs::rename(content, &path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(error) if !path.exists() => return Err(error),
            _ => {}
        }
        disk::sync_folder_of(&path)?;
        let document = serde_json::to_vec(&record).map_err(io::Error::other)?;
        disk::replace(&path.with_extension("json"), &document)?;
        let record = Arc::new(record);
        self.lock().insert(record.id.clone(), Arc::clone(&record));
        Ok(record)
    }

    /// Counts what is there without having been reserved: what batches leave is never refused.
    pub(super) fn count_in(&self, bytes: u64) {
        self.stored.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Removes a file. Who reads its content reads it to the end. Waits for the disk.
    pub(super) fn remove(&self, id: &str) -> io::Result<()> {
        // Without its document it is no file any more, whatever happens next.
        disk::remove(&self.path(id).with_extension("json"))?;
        if let Some(file) = self.lock().remove(id) {
            self.give_back(file.bytes);
        }
        disk::remove(&self.path(id))?;
        disk::sync_folder_of(&self.path(id))
    }

    fn lock(&self) -> MutexGuard<'_, ById> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The record of a file; `None` when it is damaged.
fn read_record(path: &Path) -> io::Result<Option<FileRecord>> {
    let record: Option<FileRecord> = serde_json::from_slice(&fs::read(path)?).ok();
    let named = path.file_stem().and_then(OsStr::to_str);
    Ok(record.filter(|record| named == Some(&record.id) && id::is_id(&record.id, id::FILE)))
}
