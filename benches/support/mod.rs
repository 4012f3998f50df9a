//! The parts of the benches with real processes: processes, load, measurements, tables.

pub mod asker;
pub mod batchwise;
pub mod bounds;
pub mod caller;
pub mod directory;
pub mod envoy;
pub mod load;
pub mod measured;
pub mod pace;
pub mod process;
pub mod records;
pub mod report;
pub mod servers;
pub mod stage;
pub mod web;

/// What a bench can fail with: it prints it and ends.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
