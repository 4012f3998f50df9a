//! What happened in a run, and when: what two runs of one seed are compared by.
//!
//! Of what happened at the same moment the order does not count: connections that are told to end are
//! woken in an order that the runtime draws for itself.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// What happened, in order. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct History {
    began: Instant,
    lines: Arc<Mutex<Vec<String>>>,
}

impl History {
    pub(crate) fn begin() -> Self {
        Self { began: Instant::now(), lines: Arc::default() }
    }

    /// Microseconds since the beginning.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(crate) fn note(&self, what: impl AsRef<str>) {
        let line = format!("{:>12.3} ms  {}", self.now() as f64 / 1e3, what.as_ref());
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes the proxy's own log, too, for as long as the guard lives.
    pub(crate) fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let history = self.clone();
        let log = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::new("batchwise=debug"))
            .with_ansi(false)
            .without_time()
            .with_writer(move || Log(history.clone()));
        tracing::subscriber::set_default(log.finish())
    }

    pub(crate) fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let lines = self.lines();
        // In what words a connection broke depends on which of its ends was woken first.
        let mut lines: Vec<_> = lines.iter().map(|line| line.split("Broken(").next()).collect();
        lines.sort_unstable();
        lines.hash(&mut hasher);
        hasher.finish()
    }
}

/// Writes the lines of a log into a history.
struct Log(History);

impl std::io::Write for Log {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.note(String::from_utf8_lossy(line).trim_end());
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
