//! The configuration: the file as written, the plan as meant, and what is wrong with it.
//!
//! The text of `models.toml` goes through four steps: [`keys`] says what may stand in it, the file is
//! read key by key with the line of each, the rules between keys are checked while defaults are filled
//! in, and out comes a [`Plan`], or a [`ConfigError`] that tells *every* problem with file, line, key and
//! mend. Serde's derive would stop at the first problem and could not name the nearest key, so the
//! tree with its positions is walked here instead.
//!
//! Only [`load`] and [`ConfigText::read`] touch the file system.

mod address;
mod audit;
mod diff;
mod explain;
mod file;
mod instances;
pub mod keys;
mod plan;
mod read;
mod resolve;
mod routing;
mod text;
pub mod units;
mod value;
mod written;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use address::{AddressError, GRPC_PORT, HTTP_PORT};
pub use diff::Difference;
pub use explain::{ConfigError, Finding, Meant, Problem, Severity};
pub use plan::{
    BatchApiPlan, BreakerPlan, ControlledDelayPlan, EmbeddedKind, HealthPlan, HedgePlan,
    InstanceAddress, InstancePlan, InstanceUrl, ModelPlan, Plan, Protocol, RetryPlan, RoutingPlan,
    ServerPlan, StreamPlan, TelemetryPlan,
};
pub use text::ConfigText;

/// The default configuration, with every option described in its comments.
pub const DEFAULT_TEXT: &str = include_str!("../../models.toml");

/// The file that is read when none is named.
pub const DEFAULT_FILE: &str = "models.toml";

/// How the default configuration is called in messages.
const BUILTIN_NAME: &str = "built-in models.toml";

/// What flags and environment say in place of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// In place of `server.http`.
    pub http: Option<SocketAddr>,
    /// In place of `server.grpc`.
    pub grpc: Option<SocketAddr>,
    /// In place of `server.admin`.
    pub admin: Option<SocketAddr>,
}

/// Where a model stands in its file; lines count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelLines {
    /// Line of its `[[model]]`.
    pub model: usize,
    /// Line of each of its instances, in the order of [`ModelPlan::instances`].
    pub instances: Vec<usize>,
}

/// A configuration that can be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// What to do.
    pub plan: Plan,
    /// The file that it came from; `None`: the default that is compiled in.
    pub path: Option<PathBuf>,
    /// The [digest](ConfigText::digest) of the text.
    pub digest: u64,
    /// How messages call the file.
    pub name: String,
    /// Where the models of the plan stand in the file.
    pub lines: Vec<ModelLines>,
    /// What is unsafe or missing for production, in the order of the file.
    pub warnings: Vec<Finding>,
}

impl Plan {
    /// Reads a plan from the text of a file; `file` stands in messages and is where relative paths start.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem of the text.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let name = file.display().to_string();
        parse(text, &name, Some(file), &Overrides::default()).map(|loaded| loaded.plan)
    }

    /// The plan of the default configuration that is compiled in.
    ///
    /// # Errors
    /// None in a build whose tests pass; the type spares callers an assertion.
    pub fn builtin() -> Result<Self, ConfigError> {
        parse(DEFAULT_TEXT, BUILTIN_NAME, None, &Overrides::default()).map(|loaded| loaded.plan)
    }
}

/// Reads the configuration: the named file; else `./models.toml`; else the default that is compiled in.
///
/// # Errors
/// [`ConfigError`] when the named file cannot be read, or with every problem that its text has.
pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Loaded, ConfigError> {
    let file = path.unwrap_or_else(|| Path::new(DEFAULT_FILE));
    match ConfigText::read(file) {
        Ok(text) => text.parse(overrides),
        Err(error) if path.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            parse(DEFAULT_TEXT, BUILTIN_NAME, None, overrides)
        }
        Err(error) => Err(ConfigText::unreadable(file, &error)),
    }
}

fn parse(
    text: &str,
    name: &str,
    path: Option<&Path>,
    overrides: &Overrides,
) -> Result<Loaded, ConfigError> {
    let mut reading = written::Reading::new(text);
    let file = file::read_file(text, &mut reading);
    let base = path.and_then(Path::parent);
    let plan = file.as_ref().map(|file| resolve::resolve(file, base, &mut reading));
    let problems = reading.into_problems();
    let (Some(file), Some(mut plan), true) = (file, plan, problems.is_empty()) else {
        return Err(ConfigError { file: name.to_owned(), problems });
    };
    override_listeners(&mut plan.server, overrides)?;
    let warnings = audit::audit(&file, &plan, overrides, name);
    let lines = file.models.iter().flatten().map(file::ModelWritten::lines).collect();
    let (path, digest) = (path.map(Path::to_owned), text::digest(text));
    Ok(Loaded { plan, path, digest, name: name.to_owned(), lines, warnings })
}

/// Puts the addresses of the command line into the plan and looks again whether they get along.
fn override_listeners(server: &mut ServerPlan, overrides: &Overrides) -> Result<(), ConfigError> {
    server.http = overrides.http.unwrap_or(server.http);
    server.grpc = overrides.grpc.unwrap_or(server.grpc);
    server.admin = overrides.admin.unwrap_or(server.admin);
    let conflicts = resolve::listener_conflicts(server);
    if conflicts.is_empty() {
        return Ok(());
    }
    let problems = conflicts.into_iter().map(|(_, problem)| (None, problem)).collect();
    Err(ConfigError { file: "command line".into(), problems })
}
