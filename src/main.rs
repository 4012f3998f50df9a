//! The `batchwise` binary: parse, run, exit code.

use std::process::ExitCode;

use batchwise::app::cli::CommandLine;
use clap::Parser as _;

fn main() -> ExitCode {
    batchwise::app::run(CommandLine::parse()).into()
}
