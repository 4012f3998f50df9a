//! The command line: commands, flags and the environment variables that stand in for them.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::Overrides;

/// A request-batching inference proxy: single calls in, adaptive batches out.
#[derive(Clone, Debug, Parser)]
#[command(name = "batchwise", version, arg_required_else_help = true)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run the proxy
    Serve(ServeArguments),
    /// What runs without a proxy.
    #[command(flatten)]
    Offline(OfflineCommand),
}

/// Commands that neither serve nor contact anything.
#[derive(Clone, Debug, Subcommand)]
pub enum OfflineCommand {
    /// Validate the configuration, and say what is unsafe or missing for production
    Check(CheckArguments),
    /// Print the JSON Schema of models.toml
    Schema,
    /// Print the completions of a shell
    Completions(CompletionsArguments),
}

/// Where the configuration is.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfigArguments {
    /// Configuration file [default: ./models.toml if there is one, else the embedded models]
    #[arg(long, value_name = "FILE", env = "BATCHWISE_CONFIG")]
    pub config: Option<PathBuf>,
}

/// Addresses that come before those of the configuration.
#[derive(Args, Clone, Debug, Default)]
pub struct ListenArguments {
    /// Address for KServe v2 and v1 over HTTP, and OpenAI [default: as configured]
    #[arg(long, value_name = "ADDR", env = "BATCHWISE_HTTP")]
    pub http: Option<SocketAddr>,
    /// Address for KServe v2 over gRPC [default: as configured]
    #[arg(long, value_name = "ADDR", env = "BATCHWISE_GRPC")]
    pub grpc: Option<SocketAddr>,
    /// Address for metrics, health, status and control [default: as configured]
    #[arg(long, value_name = "ADDR", env = "BATCHWISE_ADMIN")]
    pub admin: Option<SocketAddr>,
}

impl ListenArguments {
    /// What they say in place of the file.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        Overrides { http: self.http, grpc: self.grpc, admin: self.admin }
    }
}

/// Flags of `batchwise serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeArguments {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArguments,
    /// Where to listen.
    #[command(flatten)]
    pub listen: ListenArguments,
    /// Form of the log
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT", env = "BATCHWISE_LOG_FORMAT")]
    pub log_format: Format,
}

/// Flags of `batchwise check`.
#[derive(Args, Clone, Debug)]
pub struct CheckArguments {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArguments,
    /// Where `batchwise serve` is going to listen.
    #[command(flatten)]
    pub listen: ListenArguments,
    /// Form of the findings
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

/// Arguments of `batchwise completions`.
#[derive(Args, Clone, Debug)]
pub struct CompletionsArguments {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// For whom something is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did what it was asked.
    Done,
    /// It failed.
    Failed,
    /// Wrong usage, or an invalid configuration.
    Usage,
}

impl Exit {
    /// The exit code of the process: 0, 1 or 2.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
