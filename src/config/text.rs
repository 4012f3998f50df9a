//! The text of a configuration file, read at one moment.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::explain::{ConfigError, Problem};
use super::{Loaded, Overrides};

/// The largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The text of a configuration file, read at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigText {
    path: PathBuf,
    text: String,
}

impl ConfigText {
    /// Reads a file, through whatever links lead to it.
    ///
    /// # Errors
    /// What the system says, or that the file is far too large for a configuration.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut text = String::new();
        std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        if u64::try_from(text.len()).is_ok_and(|length| length <= FILE_BYTES_MAX) {
            Ok(Self { path: path.to_owned(), text })
        } else {
            Err(io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes")))
        }
    }

    /// The error of a file that cannot be read.
    pub fn unreadable(path: &Path, error: &io::Error) -> ConfigError {
        let problem = Problem::Unreadable { reason: error.to_string() };
        ConfigError { file: path.display().to_string(), problems: vec![(None, problem)] }
    }

    /// A number that another text does not have, but by a chance of one to 2^64.
    #[must_use]
    pub fn digest(&self) -> u64 {
        digest(&self.text)
    }

    /// What the text means.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem that it has.
    pub fn parse(&self, overrides: &Overrides) -> Result<Loaded, ConfigError> {
        super::parse(&self.text, &self.path.display().to_string(), Some(&self.path), overrides)
    }
}

pub(super) fn digest(text: &str) -> u64 {
    twox_hash::XxHash3_64::oneshot(text.as_bytes())
}
