//! The targets of `tests/support/fuzz`, for the binaries of `fuzz_targets/`.

#[path = "../../tests/support/fuzz/mod.rs"]
mod targets;

pub use targets::*;
