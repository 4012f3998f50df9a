//! The queueing simulator against what is known, and the policy that ships against the simulator.

#[path = "../support/simulator/mod.rs"]
pub mod simulator;

mod arrivals;
mod checks;
mod crooked;
mod disturbances;
mod lead;
mod objective;
mod ratios;
mod row;
mod standing;
mod urgent;
