//! The engine: one task per model that drives its lane, and the tasks that carry its batches.
//!
//! `run` is the only loop: it drains its inbox, feeds the lane, does what the lane wants and polls the
//! batches on their way (`slot`: join, send, split, reply). Each
//! instance has a `watch` that probes it. Everything that runs is owned by the [`Models`], which
//! waits for it or aborts it.

mod alarm;
mod change;
mod clock;
mod door;
mod guard;
mod model;
mod race;
mod registry;
mod run;
mod shape;
mod slot;
mod spans;
mod statistics;
mod status;
mod stream;
mod watch;

pub use change::ShuttingDown;
pub use door::draining;
pub use model::{Model, WorkKind};
pub use registry::{ByName, Drained, ModelSetup, Models};
pub use statistics::{BatchStatistics, Counted, ModelStatistics};
pub use status::{InstanceStatus, ModelStatus};
