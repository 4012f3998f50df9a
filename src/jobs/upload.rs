//! A file on its way in: to a name of its own, then to the disk, and only then to its place.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::OwnedSemaphorePermit;

use super::files::{FileRecord, FileStore, INCOMING};
use super::object::FileObject;
use super::owner::Owner;
use super::requests::internal;
use super::{disk, id};
use crate::call::{Fault, FaultKind};

/// Seconds that a file may be asked to be kept: an hour to 30 days, as OpenAI has it.
pub const KEEP_SECONDS: std::ops::RangeInclusive<u64> = 3600..=2_592_000;
/// Characters of the longest name that is kept of a file.
const LONGEST_NAME: usize = 255;

/// What a caller says of a file that it sends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileTerms {
    /// What the caller calls it.
    pub filename: String,
    /// How many seconds it is to be kept; `None`: as long as others.
    pub keep_seconds: Option<u64>,
}

/// A file on its way in. What is dropped unfinished leaves nothing behind.
#[derive(Debug)]
pub struct Upload {
    store: Arc<FileStore>,
    owner: Owner,
    id: String,
    file: File,
    path: PathBuf,
    bytes: u64,
    most: u64,
    retention: u64,
    is_kept: bool,
    _room: OwnedSemaphorePermit,
}

impl Upload {
    pub(super) async fn begin(
        store: Arc<FileStore>,
        owner: Owner,
        (most, retention): (u64, u64),
        room: OwnedSemaphorePermit,
    ) -> Result<Self, Fault> {
        let id = id::fresh(id::FILE).map_err(|error| internal("name a file", &error))?;
        let path = store.path(&id).with_extension(INCOMING);
        let file = File::create_new(&path).await;
        let file = file.map_err(|error| internal("make a file", &error))?;
        let (bytes, is_kept) = (0, false);
        Ok(Self { store, owner, id, file, path, bytes, most, retention, is_kept, _room: room })
    }

    /// Adds what comes next.
    ///
    /// # Errors
    /// When the file becomes larger than a file may be, or there is no more room for files.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let count = bytes.len() as u64;
        if self.bytes + count > self.most {
            let most = self.most;
            let message = format!("the file is larger than {most} bytes (max_file_bytes)");
            return Err(Fault::new(FaultKind::TooLarge, message).with_field("file"));
        }
        if !self.store.reserve(count) {
            let message = "there is no room for more files (max_stored_bytes); delete some";
            return Err(Fault::new(FaultKind::TooLarge, message).with_field("file"));
        }
        self.bytes += count;
        self.file.write_all(bytes).await.map_err(|error| internal("write a file", &error))
    }

    /// Makes it a file, once it is safe on the disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn finish(mut self, terms: FileTerms) -> Result<FileObject, Fault> {
        let written = async {
            self.file.flush().await?;
            self.file.sync_all().await
        };
        written.await.map_err(|error| internal("write a file", &error))?;
        let created_us = disk::now_us();
        let keep = terms.keep_seconds.unwrap_or(self.retention);
        let record = FileRecord {
            id: self.id.clone(),
            owner: self.owner.clone(),
            created_us,
            filename: plain(&terms.filename),
            purpose: "batch".to_owned(),
            bytes: self.bytes,
            expires_at: Some((created_us / 1_000_000).saturating_add(keep)),
        };
        let (store, path) = (Arc::clone(&self.store), self.path.clone());
        let kept = disk::blocking(move || store.adopt(&path, record)).await;
        let record = kept.map_err(|error| internal("keep a file", &error))?;
        self.is_kept = true;
        Ok(FileObject::from(&*record))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        self.store.give_back(self.bytes);
        let path = std::mem::take(&mut self.path);
        // Without a runtime the process ends, and the next one removes it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || {
                if let Err(error) = disk::remove(&path) {
                    tracing::warn!(%error, "an unfinished file cannot be removed");
                }
            });
        }
    }
}

/// A name fit for headers and logs: the last part of a path, without control characters.
fn plain(filename: &str) -> String {
    let name = filename.rsplit(['/', '\\']).next().unwrap_or_default();
    let name: String = name.chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect();
    if name.is_empty() { "upload".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_last_part_of_what_was_sent() {
        for (sent, kept) in [
            ("a.jsonl", "a.jsonl"),
            ("../../etc/passwd", "passwd"),
            ("C:\\x\\y\r\n.jsonl", "y.jsonl"),
            ("/", "upload"),
            ("", "upload"),
        ] {
            assert_eq!(plain(sent), kept);
        }
        assert_eq!(plain(&"x".repeat(1000)).len(), LONGEST_NAME);
    }
}
