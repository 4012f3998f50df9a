//! Runs the commands that neither serve nor contact anything.

use std::io::{self, Write};

use clap::CommandFactory as _;

use super::cli::{CommandLine, Exit, OfflineCommand};
use super::{check, schema};

/// Runs `command` and writes what it says to `out`.
///
/// # Errors
/// What writing to `out` gives.
pub fn run(command: &OfflineCommand, out: &mut impl Write) -> io::Result<Exit> {
    match command {
        OfflineCommand::Check(arguments) => return check::run(arguments, out),
        OfflineCommand::Schema => writeln!(out, "{:#}", schema::schema())?,
        OfflineCommand::Completions(arguments) => {
            let mut script = Vec::new();
            let mut command = CommandLine::command();
            clap_complete::generate(arguments.shell, &mut command, "batchwise", &mut script);
            out.write_all(&script)?;
        }
    }
    Ok(Exit::Done)
}
