//! How admin pages and signals ask for a reload. Who does it stands above the fronts.

use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};

/// Requests that may wait while a reload runs. Whoever comes beyond that finds enough of them there.
const WAITING_REQUESTS: usize = 16;

/// What a reload changed; names are those of models.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// Served from now on.
    pub added: Vec<String>,
    /// Not served any more.
    pub removed: Vec<String>,
    /// Served in another way from now on.
    pub changed: Vec<String>,
    /// How many go on as they are.
    pub unchanged: usize,
    /// Keys of `[server]` whose new value holds from now on.
    pub applied: Vec<&'static str>,
    /// Keys of `[server]` whose new value takes a start of the process.
    pub needs_restart: Vec<&'static str>,
    /// Those of the changed models that had a usable instance, and have none just now.
    pub not_ready: Vec<String>,
}

/// Why a reload changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    /// The process runs without a file.
    #[error("there is no configuration file: the process runs with the built-in configuration")]
    NoFile,
    /// The configuration cannot be used, for this reason.
    #[error("{0}")]
    Refused(String),
    /// Nothing changes any more.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// Where the configuration that runs is from, and how the last reload went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConfigStatus {
    /// The file; `None`: what is built in.
    pub path: Option<String>,
    /// When it was taken over, in seconds since 1970.
    pub loaded_at: u64,
    /// Why the last reload was refused; `None` when it was not.
    pub last_error: Option<String>,
}

/// Somebody who waits for a reload.
pub type ReloadRequest = oneshot::Sender<Result<Reloaded, ReloadError>>;

/// Asks for reloads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reloads {
    requests: mpsc::Sender<ReloadRequest>,
    status: watch::Receiver<ConfigStatus>,
}

impl Reloads {
    /// A way to ask for reloads, and where the requests arrive.
    pub fn new(status: watch::Receiver<ConfigStatus>) -> (Self, mpsc::Receiver<ReloadRequest>) {
        let (requests, arriving) = mpsc::channel(WAITING_REQUESTS);
        (Self { requests, status }, arriving)
    }

    /// Reloads the configuration. The reload goes on when the future is dropped.
    ///
    /// # Errors
    /// Why nothing has changed.
    pub async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let (reply, outcome) = oneshot::channel();
        self.requests.send(reply).await.map_err(|_| ReloadError::ShuttingDown)?;
        outcome.await.unwrap_or(Err(ReloadError::ShuttingDown))
    }

    /// Reloads the configuration soon, without waiting for it.
    pub fn trigger(&self) {
        let (nobody, _) = oneshot::channel();
        // Full: a reload that has not begun yet sees what this one would see. Closed: too late.
        drop(self.requests.try_send(nobody));
    }

    /// Where the configuration that runs is from.
    pub fn status(&self) -> ConfigStatus {
        self.status.borrow().clone()
    }
}
