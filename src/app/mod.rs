//! The command line and the commands behind it: start, drain, check.

pub mod check;
pub mod cli;
mod instances;
mod listeners;
mod model_files;
pub mod offline;
mod reload;
mod run;
mod schema;
mod serve;

pub use instances::{SetupError, UnusableInstances, set_up};
pub use listeners::Listeners;
pub use reload::Origin;
pub use run::run;
pub use serve::{Running, Shutdown, StartError, start, start_from, start_on};
