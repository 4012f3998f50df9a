//! The command line and the commands behind it.

pub mod check;
pub mod cli;
pub mod offline;
mod schema;
