//! Works and contexts, and a bound for every test.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helpers may fail the test"
)]

use std::net::SocketAddr;
use std::time::Duration;

use batchwise::call::{Answer, InferAnswer, InferRequest, Work};
use batchwise::config::InstanceUrl;
use batchwise::instance::{BatchContext, Failure};
use batchwise::lane::Blame;
use batchwise::tensor::{DataType, Rope, Shape, Tensor};
use tokio::time::Instant;

pub(crate) const BOUND: Duration = Duration::from_secs(20);

/// Runs a test's body under a bound, so that a hang is a failure.
pub(crate) async fn bounded<T>(body: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, body).await.expect("the test hangs")
}

pub(crate) fn url(address: SocketAddr) -> InstanceUrl {
    let (host, port) = (address.ip().to_string(), address.port());
    InstanceUrl { host, port, path_prefix: String::new() }
}

pub(crate) fn context() -> BatchContext {
    BatchContext { request_id: "batch-1".to_owned(), deadline: Instant::now() + BOUND, trace: None }
}

/// One column of FP32, named `x`.
pub(crate) fn floats(values: &[f32]) -> InferRequest {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let shape = Shape::from(&[values.len() as u64, 1][..]);
    let tensor = Tensor::new("x", DataType::Fp32, shape, Rope::from(data)).unwrap();
    InferRequest { inputs: vec![tensor], ..InferRequest::default() }
}

pub(crate) fn work(values: &[f32]) -> Work {
    Work::Infer(floats(values))
}

pub(crate) fn infer_answer(outcome: Result<Answer, Failure>) -> InferAnswer {
    match outcome {
        Ok(Answer::Infer(answer)) => answer,
        other => panic!("no answer with tensors: {other:?}"),
    }
}

pub(crate) fn floats_of(answer: &InferAnswer) -> Vec<f32> {
    let bytes = answer.outputs[0].data().to_bytes();
    bytes.as_chunks().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
}

pub(crate) fn blame(outcome: Result<Answer, Failure>) -> Blame {
    failure(outcome).blame
}

pub(crate) fn failure(outcome: Result<Answer, Failure>) -> Failure {
    match outcome {
        Ok(answer) => panic!("an answer where a failure was due: {answer:?}"),
        Err(failure) => failure,
    }
}
