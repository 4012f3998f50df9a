//! Instances: whoever answers batches, behind one trait.
//!
//! A client turns one joined [`Work`] into the protocol of its instance and the reply into an
//! [`Answer`] for the whole batch. It knows nothing of calls, members or queues: joining and
//! splitting are the engine's.

mod abort;
mod channel;
mod connection;
mod describe;
mod embedded;
mod failure;
mod grpc_status;
mod http_paths;
mod http_status;
mod items;
mod kserve_grpc;
mod kserve_http;
mod kserve_v1;
mod network;
mod openai;
mod relayed_body;

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use tokio::time::Instant;

pub use embedded::{EmbeddedEcho, EmbeddedEmbedding, EmbeddedTensors};
pub use failure::Failure;
pub(crate) use http_status::retry_after;
pub use kserve_grpc::KserveGrpc;
pub use kserve_http::KserveHttp;
pub use kserve_v1::KserveV1;
pub use network::{Connection, Dial, Network};
pub use openai::OpenAi;

use crate::call::{Answer, Fault, FaultKind, TraceContext, Work};
use crate::tensor::DataType;
pub use crate::wire::gauges::LoadGauges;

/// A future on the heap, so that instances of all protocols fit one type.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whoever answers batches of one model.
pub trait Instance: fmt::Debug + Send + Sync + 'static {
    /// Answers a batch. Dropping the future cancels the instance's work where its protocol can.
    fn run(&self, work: Work, context: BatchContext) -> BoxFuture<'_, Result<Answer, Failure>>;

    /// Asks whether the instance is up and has the model: cheap, never an inference.
    ///
    /// # Errors
    /// What is wrong.
    fn probe(&self) -> BoxFuture<'_, Result<(), NotUp>>;

    /// Asks how much the instance has to do. `None`: it does not say.
    ///
    /// # Errors
    /// What went wrong.
    fn load(&self) -> BoxFuture<'_, Result<Option<LoadGauges>, String>> {
        Box::pin(async { Ok(None) })
    }

    /// Asks what the instance knows of the model.
    ///
    /// # Errors
    /// What went wrong. A protocol that cannot tell answers with the default [`Description`].
    fn describe(&self) -> BoxFuture<'_, Result<Description, String>>;
}

/// Why an instance cannot be used; in words for the log and the status page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotUp {
    /// It answers that it is not ready: it loads the model.
    #[error("{0}")]
    Loading(String),
    /// It does not answer as it should.
    #[error("{0}")]
    Down(String),
}

impl From<String> for NotUp {
    fn from(words: String) -> Self {
        NotUp::Down(words)
    }
}

/// What goes with a batch besides its work.
#[derive(Clone, Debug)]
pub struct BatchContext {
    /// The request id of the batch: its call's when it is a batch of one.
    pub request_id: String,
    /// When the last of its callers stops waiting.
    pub deadline: Instant,
    /// The trace of its call when it is a batch of one.
    pub trace: Option<TraceContext>,
}

/// What an instance knows of its model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Description {
    /// The framework, for example `onnx`; never `ensemble`, which clients would look into.
    pub platform: String,
    /// The versions that it serves.
    pub versions: Vec<String>,
    /// Its inputs; empty when the protocol cannot tell.
    pub inputs: Vec<TensorDescription>,
    /// Its outputs; empty when the protocol cannot tell.
    pub outputs: Vec<TensorDescription>,
    /// How many rows one batch may have.
    pub batch_limit: BatchLimit,
    /// How many batches it runs at once, where it says so.
    pub parallel_batches: Option<u32>,
}

/// A tensor as a model declares it.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorDescription {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub datatype: DataType,
    /// Its extents with the batch axis; -1 where any extent will do.
    pub shape: Vec<i64>,
}

/// How many rows one batch may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BatchLimit {
    /// The protocol cannot tell: to be learned from refusals.
    #[default]
    Unknown,
    /// The model has no batch axis: every call goes alone.
    NotBatchable,
    /// So many.
    Rows(u32),
}

/// For a batch of a kind that the instance's protocol has no words for: fronts keep them apart, so
/// it is our own mistake and not the instance's.
fn wrong_kind(spoken: &str) -> Failure {
    let message = format!("the model's instances answer {spoken} only");
    Failure::refused(Fault::new(FaultKind::Internal, message))
}
