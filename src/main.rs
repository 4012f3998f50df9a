//! The `batchwise` binary.
fn main() {}
