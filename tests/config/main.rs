//! The configuration as its users meet it: files that are good, files that are bad and what is said of
//! them, the default file, and the commands that run without a proxy.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod bad;
mod commands;
mod defaults;
mod good;
mod listeners;

use std::path::{Path, PathBuf};

/// The folder of the files that the tests read.
fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(name)
}

/// The `.toml` files of a folder, in the order of their names; never none.
fn files(name: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder(name)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    assert!(!files.is_empty(), "no files in {name}");
    files
}

/// Compares with the text of a file; `BATCHWISE_UPDATE_EXPECTED=1` writes the file anew instead.
fn assert_expected(said: &str, expected_path: &Path) {
    if std::env::var_os("BATCHWISE_UPDATE_EXPECTED").is_some() {
        std::fs::write(expected_path, said).unwrap();
    }
    let expected = std::fs::read_to_string(expected_path).unwrap_or_default();
    assert_eq!(said, expected, "{}", expected_path.display());
}
