//! A fault-injecting model server: the backend of tests and benches.
//!
//! It speaks KServe v2 over gRPC and HTTP, KServe v1 and OpenAI, computes answers that can be
//! checked (`y = 2x + 1`), takes an exactly known time per batch, counts what it executes and
//! misbehaves on command. It shares no code with the proxy but the generated protobuf types, so
//! the two cannot agree on a mistake.
//!
//! Include it by `#[path = ".../model_server/mod.rs"] pub mod model_server;` (`pub`, so that parts
//! which one test binary does not need are no dead code there).
//!
//! ```ignore
//! let server = ModelServer::start(Options::default()).await?;
//! server.switches().set(|settings| settings.fail = Trigger::Next(3));
//! let statistics = server.wait_until(|seen| seen.executions >= 1, Duration::from_secs(5)).await;
//! server.shutdown().await;
//! ```
//!
//! # Models
//! Every name in [`Options::models`] serves every protocol.
//! - KServe v2: FP32, INT32 and INT64 inputs give 2x + 1, BYTES elements come back reversed, other
//!   datatypes unchanged; shape and datatype stay. Input `x` gives `y`, any other `name` gives
//!   `name_out`. Rows are dimension 0 of the first input. A ModelStreamInfer request is answered as
//!   often as its int64 parameter `repeat` says.
//! - KServe v1: numbers in `instances` give 2x + 1, strings come back reversed.
//! - OpenAI: [`embedding_of`] each input, [`relevance_of`] each document, and [`reply_to`] the last
//!   message or each prompt, whole or streamed a word at a time. So do rerank (in either form), scores,
//!   classes and the routes of Text Embeddings Inference.
//!
//! # Faults
//! [`Settings`] lists them. They strike inference calls only; health, metadata, `/control` and
//! `/statistics` (see `control`) always answer. `lethal` ends the whole process: it is for servers
//! that have one of their own.

mod control;
mod engine;
mod faults;
mod generation;
mod grpc;
mod journal;
mod kserve;
mod listen;
mod openai;
mod settings;
mod statistics;
mod tensor;
mod tensor_json;
mod texts;
mod timer;
mod trigger;
mod v1;
mod v2;
mod witness;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use batchwise::wire::pb;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use generation::reply_to;
pub use journal::{Visit, unix_time_us};
pub use listen::{Listener, Reset};
pub use openai::{embedding_of, relevance_of};
pub use settings::{
    DropMoment, FaultStatus, OutputContents, ServiceTime, Settings, SettingsError, Switches,
};
pub use statistics::{Seen, Statistics};
pub use timer::{Clock, sharpen_this_thread};
pub use trigger::{Trigger, TriggerError};
pub use witness::{Arrival, Witness};

use engine::Engine;

/// What is fixed for the life of a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where gRPC listens; port 0 lets the system choose.
    pub grpc: SocketAddr,
    /// Where HTTP listens; port 0 lets the system choose.
    pub http: SocketAddr,
    /// The names of the models.
    pub models: Vec<String>,
    /// Batches executed at the same time; 1 and 0 are the same.
    pub parallelism: usize,
    /// Length of an embedding unless the call asks for another.
    pub embedding_dimensions: usize,
    /// Not ready for this long after the start, whatever the settings say.
    pub unready_for: Duration,
    /// The settings to begin with.
    pub settings: Settings,
    /// Whose time it keeps.
    pub clock: Clock,
    /// Is told of every batch that comes.
    pub witness: Option<Witness>,
}

impl Default for Options {
    fn default() -> Self {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            grpc: any_port,
            http: any_port,
            models: ["linear", "embed", "chat"].map(str::to_owned).into(),
            parallelism: 1,
            embedding_dimensions: 8,
            unready_for: Duration::ZERO,
            settings: Settings::default(),
            clock: Clock::default(),
            witness: None,
        }
    }
}

/// A running server. Dropping it ends it at once, as a crash would.
#[derive(Debug)]
pub struct ModelServer {
    grpc: SocketAddr,
    http: SocketAddr,
    engine: Arc<Engine>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl ModelServer {
    /// Binds both ports and serves.
    ///
    /// # Errors
    /// A port cannot be bound, or the timer's thread not be started.
    pub async fn start(mut options: Options) -> std::io::Result<Self> {
        let grpc = listen::bind(&mut options.grpc).await?;
        let http = listen::bind(&mut options.http).await?;
        Self::start_on(grpc, http, &options)
    }

    /// Serves those who come to these listeners, for gRPC and for HTTP.
    ///
    /// # Errors
    /// The timer's thread cannot be started.
    pub fn start_on<L: Listener>(
        grpc_listener: L,
        http_listener: L,
        options: &Options,
    ) -> std::io::Result<Self> {
        let engine = Arc::new(Engine::new(options)?);
        let mut tasks = JoinSet::new();
        let stop = CancellationToken::new();
        if !options.unready_for.is_zero() {
            let (ready, unready_for) = (options.settings.ready, options.unready_for);
            engine.switches.set(|settings| settings.ready = false);
            let (engine, stop) = (Arc::clone(&engine), stop.clone());
            tasks.spawn(async move {
                let slept = tokio::time::sleep(unready_for);
                if stop.run_until_cancelled(slept).await.is_some() {
                    engine.switches.set(|settings| settings.ready = ready);
                }
            });
        }
        let routers =
            [(grpc_listener, grpc::router(&engine)), (http_listener, http_router(&engine))];
        for (listener, router) in routers {
            tasks.spawn(listen::serve(listener, Arc::clone(&engine), router, stop.clone()));
        }
        Ok(Self { grpc: options.grpc, http: options.http, engine, stop, tasks })
    }

    /// Where gRPC listens.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc
    }

    /// Where HTTP listens.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// The settings, to change while the server runs.
    pub fn switches(&self) -> Arc<Switches> {
        Arc::clone(&self.engine.switches)
    }

    /// What the server has seen so far.
    pub fn statistics(&self) -> Statistics {
        self.engine.counters.snapshot()
    }

    /// The latest KServe v2 batches, oldest first; as many as the setting `journal` says.
    pub fn journal(&self) -> Vec<Visit> {
        self.engine.journal.visits()
    }

    /// Starts counting anew; what is open or under way stays counted.
    pub fn reset_statistics(&self) {
        self.engine.counters.reset();
    }

    /// Waits until the statistics satisfy `condition`, without polling on a clock.
    ///
    /// # Errors
    /// The last statistics, when `bound` has passed before.
    pub async fn wait_until(
        &self,
        condition: impl FnMut(&Statistics) -> bool,
        bound: Duration,
    ) -> Result<Statistics, Statistics> {
        self.engine.counters.wait_until(condition, bound).await
    }

    /// Closes both ports and all connections at once, and returns when everything has ended, so
    /// that the addresses can be bound again.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// The services of an HTTP port.
fn http_router(engine: &Arc<Engine>) -> axum::Router {
    openai::router(engine)
        .merge(v2::router(engine))
        .merge(control::router(engine))
        .layer(axum::extract::DefaultBodyLimit::disable())
}
