//! A temporary directory for configurations and logs.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs};

use super::Failure;

/// A directory that is removed with everything in it.
#[derive(Debug)]
pub struct Directory(PathBuf);

/// Tells apart the directories of one process.
static NEXT: AtomicU32 = AtomicU32::new(0);

impl Directory {
    /// Makes a new one.
    pub fn create() -> Result<Self, Failure> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("batchwise-bench-{}-{number}", std::process::id());
        let path = env::temp_dir().join(name);
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// A path in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
