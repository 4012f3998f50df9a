//! A model server to try batchwise against, and the backend of its benches.
//!
//! ```text
//! cargo run --example model_server -- --a 10ms --b 0.5ms --max-batch 32
//! ```
//! Once it listens it prints one JSON line with its addresses and process id. `GET` and
//! `POST /control` on its HTTP port show and change how it behaves; `GET /statistics` tells what it
//! has seen. It ends on SIGTERM and SIGINT.

#[path = "../tests/support/model_server/mod.rs"]
pub mod model_server;

use std::error::Error;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use model_server::{ModelServer, Options, ServiceTime, Switches};

/// A model server that takes a + b * rows for a batch and misbehaves on command.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where gRPC listens; port 0 lets the system choose.
    #[arg(long, default_value = "127.0.0.1:0")]
    grpc: SocketAddr,
    /// Where HTTP listens; port 0 lets the system choose.
    #[arg(long, default_value = "127.0.0.1:0")]
    http: SocketAddr,
    /// The part of the service time that every batch costs.
    #[arg(long, default_value = "0ms", value_parser = duration)]
    a: Duration,
    /// The part of the service time that every row costs.
    #[arg(long, default_value = "0ms", value_parser = duration)]
    b: Duration,
    /// Refuse larger batches; 0: no limit.
    #[arg(long, default_value_t = 0)]
    max_batch: u32,
    /// Batches executed at the same time.
    #[arg(long, default_value_t = 1)]
    parallelism: usize,
    /// Model names, separated by commas.
    #[arg(long, value_delimiter = ',')]
    models: Option<Vec<String>>,
    /// Length of an embedding unless the call asks for another.
    #[arg(long, default_value_t = 8)]
    embedding_dimensions: usize,
    /// Time between two pieces of a streamed answer.
    #[arg(long, default_value = "0ms", value_parser = duration)]
    token_interval: Duration,
    /// Not ready for this long after the start.
    #[arg(long, default_value = "0ms", value_parser = duration)]
    unready_for: Duration,
    /// Further settings as a JSON object, as for `POST /control`: '{"fail": "fraction:0.1"}'.
    #[arg(long, default_value = "{}", value_parser = json)]
    control: serde_json::Value,
    /// Executions described in full; costs time, so none by default.
    #[arg(long, default_value_t = 0)]
    record: usize,
    /// Worker threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

impl Arguments {
    fn into_options(self) -> Result<Options, Box<dyn Error>> {
        let mut options = Options {
            grpc: self.grpc,
            http: self.http,
            parallelism: self.parallelism,
            embedding_dimensions: self.embedding_dimensions,
            unready_for: self.unready_for,
            ..Options::default()
        };
        if let Some(models) = self.models {
            options.models = models;
        }
        let settings = &mut options.settings;
        settings.service = ServiceTime::linear(self.a, self.b);
        settings.max_batch_size = self.max_batch;
        settings.token_interval = self.token_interval;
        settings.record = self.record;
        options.settings = Switches::new(options.settings).merge(&self.control)?;
        Ok(options)
    }
}

/// Reads `500us`, `0.5ms` or `2s`.
fn duration(text: &str) -> Result<Duration, String> {
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    let seconds = units.iter().find_map(|(unit, seconds)| {
        let number: f64 = text.strip_suffix(unit)?.trim().parse().ok()?;
        Some(number * seconds)
    });
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| format!("`{text}` is no duration such as 500us, 0.5ms or 2s"))
}

fn json(text: &str) -> Result<serde_json::Value, serde_json::Error> {
    serde_json::from_str(text)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    // One thread has no work to hand around: cheaper for whoever measures beside it.
    let mut runtime = match arguments.threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.worker_threads(arguments.threads.max(1)).enable_all().build()?;
    runtime.block_on(run(arguments.into_options()?))
}

async fn run(options: Options) -> Result<(), Box<dyn Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let server = ModelServer::start(options).await?;
    let listening = serde_json::json!({
        "grpc": server.grpc_address(), "http": server.http_address(), "pid": std::process::id(),
    });
    let mut out = std::io::stdout();
    writeln!(out, "{listening}")?;
    out.flush()?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    server.shutdown().await;
    Ok(())
}
