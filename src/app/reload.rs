//! Reloads: read the file again, compare, and change what is different, one reload at a time.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::instances::{Places, set_up_all};
use super::model_files::ModelFiles;
use super::serve::{LiveSite, Shutdown};
use crate::config::{ConfigText, Difference, Loaded, ModelPlan, Overrides, Plan};
use crate::engine::{ModelSetup, Models};
use crate::front::{ConfigStatus, ReloadError, ReloadRequest, Reloaded};
use crate::instance::Network;
use crate::telemetry::ReloadMetrics;

/// How often the file is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Where the configuration came from, and comes from again.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    path: Option<PathBuf>,
    overrides: Overrides,
    digest: Option<u64>,
    pub(super) places: Places,
}

impl Origin {
    /// The origin of what was loaded. Without a file, a reload looks for `file`.
    pub fn of(loaded: &Loaded, file: &Path, overrides: Overrides) -> Self {
        let digest = loaded.path.is_some().then_some(loaded.digest);
        let path = loaded.path.clone().unwrap_or_else(|| file.to_owned());
        Self { path: Some(path), overrides, digest, places: Places::of(loaded) }
    }

    pub(super) fn status(&self) -> ConfigStatus {
        let path = self.path.as_ref().filter(|_| self.digest.is_some());
        let path = path.map(|path| path.display().to_string());
        ConfigStatus { path, loaded_at: seconds_since_1970(), last_error: None }
    }
}

/// Reloads when it is asked to, and when the file has changed.
pub(super) struct Reloader {
    pub(super) origin: Origin,
    /// What runs.
    pub(super) plan: Plan,
    pub(super) files: ModelFiles,
    pub(super) models: Arc<Models>,
    /// How the instances of new models are reached.
    pub(super) network: Network,
    pub(super) site: LiveSite,
    pub(super) metrics: ReloadMetrics,
    pub(super) requests: mpsc::Receiver<ReloadRequest>,
    pub(super) status: watch::Sender<ConfigStatus>,
    pub(super) shutdown: watch::Sender<Shutdown>,
}

/// A new configuration with everything that may fail behind it.
struct Prepared {
    loaded: Loaded,
    difference: Difference,
    files: ModelFiles,
    setups: Vec<ModelSetup>,
}

impl Reloader {
    /// Runs until nobody can ask any more.
    pub(super) async fn run(mut self) {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sight = Sight::default();
        loop {
            tokio::select! {
                request = self.requests.recv() => {
                    let Some(request) = request else { return };
                    let outcome = self.reload().await;
                    // Who asked may have gone; the outcome is logged as well.
                    drop(request.send(outcome));
                }
                _ = looks.tick() => {
                    if sight.is_news(self.origin.digest, self.look().await) {
                        tracing::info!("the configuration file has changed");
                        drop(self.reload().await);
                    }
                }
            }
        }
    }

    /// The digest of the file as it is now. `None` when it cannot be read, as while it is replaced.
    async fn look(&self) -> Option<u64> {
        let path = self.origin.path.clone().filter(|_| self.origin.digest.is_some())?;
        Some(read(path).await.ok()?.digest())
    }

    async fn reload(&mut self) -> Result<Reloaded, ReloadError> {
        let outcome = self.attempt().await;
        match &outcome {
            Ok(reloaded) => {
                tracing::info!(
                    added = ?reloaded.added, removed = ?reloaded.removed,
                    changed = ?reloaded.changed, unchanged = reloaded.unchanged,
                    applied = ?reloaded.applied, "the configuration was reloaded"
                );
                if !reloaded.needs_restart.is_empty() {
                    let keys = &reloaded.needs_restart;
                    tracing::warn!(?keys, "these keys change when the process starts anew");
                }
                if !reloaded.not_ready.is_empty() {
                    let models = &reloaded.not_ready;
                    tracing::warn!(?models, "these models have no usable instance any more");
                }
                self.metrics.reloaded(true);
                self.status.send_replace(self.origin.status());
            }
            Err(ReloadError::Refused(error)) => {
                tracing::warn!(error, "the reload was refused; the old configuration goes on");
                self.metrics.reloaded(false);
                self.status.send_modify(|status| status.last_error = Some(error.clone()));
            }
            Err(error) => tracing::warn!(%error, "no reload"),
        }
        outcome
    }

    async fn attempt(&mut self) -> Result<Reloaded, ReloadError> {
        let path = self.origin.path.clone().ok_or(ReloadError::NoFile)?;
        let text = match read(path.clone()).await {
            Ok(text) => text,
            Err(error)
                if self.origin.digest.is_none() && error.kind() == io::ErrorKind::NotFound =>
            {
                return Err(ReloadError::NoFile);
            }
            Err(error) => {
                let error = ConfigText::unreadable(&path, &error);
                return Err(ReloadError::Refused(error.to_string()));
            }
        };
        // The same text is not tried again before it changes.
        self.origin.digest = Some(text.digest());
        let overrides = self.origin.overrides;
        let running = (self.plan.clone(), self.files.clone());
        let network = self.network.clone();
        let prepared = blocking(move || prepare(&text, &overrides, &running, &network)).await;
        let prepared = prepared.unwrap_or_else(|error| Err(error.to_string()));
        let Prepared { loaded, difference, files, setups } =
            prepared.map_err(ReloadError::Refused)?;
        for finding in &loaded.warnings {
            tracing::warn!(key = finding.key, mend = finding.mend, "{}", finding.message);
        }
        let removed = difference.removed.iter().cloned().collect();
        let changed = self.models.change(&removed, setups).await;
        let not_ready = changed.map_err(|_| ReloadError::ShuttingDown)?;
        let server = self.plan.server.taking_over(&loaded.plan.server);
        self.shutdown.send_replace(Shutdown::of(&server));
        self.site.change(&server);
        let batch_api = self.plan.batch_api.take();
        let telemetry = self.plan.telemetry.clone();
        self.plan = Plan { server, telemetry, batch_api, models: loaded.plan.models };
        self.files = files;
        Ok(Reloaded {
            added: difference.added,
            removed: difference.removed,
            changed: difference.changed,
            unchanged: difference.unchanged.len(),
            applied: difference.applicable,
            needs_restart: difference.needs_restart,
            not_ready,
        })
    }
}

/// Does everything of a reload that may fail, and changes nothing.
fn prepare(
    text: &ConfigText,
    overrides: &Overrides,
    (running, files_before): &(Plan, ModelFiles),
    network: &Network,
) -> Result<Prepared, String> {
    let loaded = text.parse(overrides).map_err(|error| error.to_string())?;
    let mut difference = Difference::between(running, &loaded.plan);
    let files = ModelFiles::of(&loaded.plan);
    let differs = |model: &&ModelPlan| files.differ(files_before, model);
    for model in loaded.plan.models.iter().filter(differs) {
        difference.note_changed(&model.name);
    }
    let new = loaded.plan.models.iter().filter(|model| !difference.unchanged.contains(&model.name));
    let setups = set_up_all(new, &Places::of(&loaded), network);
    let setups = setups.map_err(|error| super::run::chain(&error))?;
    Ok(Prepared { loaded, difference, files, setups })
}

async fn read(path: PathBuf) -> io::Result<ConfigText> {
    blocking(move || ConfigText::read(&path)).await?
}

/// Runs what takes long without the help of the runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    Ok(tokio::task::spawn_blocking(work).await?)
}

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What was seen of the file last.
#[derive(Debug, Default)]
struct Sight {
    /// The digest of a text that was not tried yet.
    last: Option<u64>,
}

impl Sight {
    /// Whether the file has a text that was not `tried` yet. It must be seen twice: half of a file
    /// that is being written may well be valid, and lack the models of the other half.
    fn is_news(&mut self, tried: Option<u64>, seen: Option<u64>) -> bool {
        let untried = seen.filter(|_| seen != tried);
        let news = untried.is_some() && untried == self.last;
        self.last = untried.filter(|_| !news);
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_news_once_it_was_seen_twice_in_a_row() {
        let looks = [
            (Some(1), false),
            (Some(2), false),
            (Some(3), false),
            (Some(3), true),
            (Some(1), false),
            (None, false),
            (Some(2), false),
            (None, false),
            (Some(2), false),
            (Some(2), true),
        ];
        let mut sight = Sight::default();
        for (seen, expected) in looks {
            assert_eq!(sight.is_news(Some(1), seen), expected, "{seen:?}");
        }
        assert!(!sight.is_news(Some(2), Some(2)), "it was tried");
    }
}
