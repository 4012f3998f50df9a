//! The parts of the proxy bench: processes, load, measurements, tables.

pub mod bounds;
pub mod caller;
pub mod envoy;
pub mod load;
pub mod measured;
pub mod pace;
pub mod process;
pub mod report;
pub mod stage;

/// What a bench can fail with: it prints it and ends.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
