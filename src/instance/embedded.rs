//! Models that run inside this process, behind the same trait as the remote ones.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};

use super::{
    BatchContext, BatchLimit, BoxFuture, Description, Failure, Instance, NotUp, TensorDescription,
};
use crate::call::{
    Answer, Fault, FaultKind, InferAnswer, InferRequest, ItemsAnswer, ItemsRequest, RelayAnswer,
    RelayRequest, Usage, Work,
};
use crate::embedded::{BadRequest, Echo, OnnxModel, RunError, TensorSignature, embed_items};

/// Larger batches gain nothing on a processor and hold up the next one.
const MAX_ROWS: u32 = 64;

/// A model of dense tensors.
#[derive(Debug)]
pub struct EmbeddedTensors {
    model: Arc<OnnxModel>,
}

impl EmbeddedTensors {
    /// One instance of a model; several can share it.
    pub fn new(model: Arc<OnnxModel>) -> Self {
        Self { model }
    }
}

/// The feature-hashing text embedder.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmbeddedEmbedding;

/// The model that says its prompt again.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmbeddedEcho;

// === impl EmbeddedTensors ===

impl Instance for EmbeddedTensors {
    fn run(&self, work: Work, _: BatchContext) -> BoxFuture<'_, Result<Answer, Failure>> {
        let model = Arc::clone(&self.model);
        Box::pin(async move {
            let Work::Infer(request) = work else { return Err(wrong_kind("tensors")) };
            compute(move || infer(&model, &request)).await
        })
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), NotUp>> {
        Box::pin(async { Ok(()) })
    }

    fn describe(&self) -> BoxFuture<'_, Result<Description, String>> {
        let describe = |signature: &TensorSignature| TensorDescription {
            name: signature.name().to_owned(),
            datatype: signature.datatype(),
            shape: signature.shape(),
        };
        let batches = self.model.batches();
        let description = Description {
            platform: "onnx".to_owned(),
            versions: vec!["1".to_owned()],
            inputs: self.model.inputs().iter().map(describe).collect(),
            outputs: self.model.outputs().iter().map(describe).collect(),
            batch_limit: if batches {
                BatchLimit::Rows(MAX_ROWS)
            } else {
                BatchLimit::NotBatchable
            },
            parallel_batches: Some(1),
        };
        Box::pin(async move { Ok(description) })
    }
}

fn infer(model: &OnnxModel, request: &InferRequest) -> Result<Answer, Failure> {
    let unknown = request
        .outputs
        .iter()
        .find(|wanted| model.outputs().iter().all(|known| known.name() != wanted.name));
    if let Some(unknown) = unknown {
        let known: Vec<_> = model.outputs().iter().map(TensorSignature::name).collect();
        return Err(refused(
            "outputs",
            format!("there is no output '{}'; there are: {}", unknown.name, known.join(", ")),
        ));
    }
    let outputs = model.run(&request.inputs).map_err(|error| match &error {
        RunError::Failed(_) => Failure::broken(error.to_string()),
        _ => refused("inputs", error.to_string()),
    })?;
    let wanted = |name: &str| {
        request.outputs.is_empty() || request.outputs.iter().any(|wanted| wanted.name == name)
    };
    Ok(Answer::Infer(InferAnswer {
        version: "1".to_owned(),
        outputs: outputs.into_iter().filter(|output| wanted(output.name())).collect(),
        ..InferAnswer::default()
    }))
}

// === impl EmbeddedEmbedding ===

impl Instance for EmbeddedEmbedding {
    fn run(&self, work: Work, _: BatchContext) -> BoxFuture<'_, Result<Answer, Failure>> {
        Box::pin(async move {
            let Work::Items(request) = work else { return Err(wrong_kind("embeddings")) };
            compute(move || embed(&request)).await
        })
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), NotUp>> {
        Box::pin(async { Ok(()) })
    }

    fn describe(&self) -> BoxFuture<'_, Result<Description, String>> {
        Box::pin(async {
            Ok(Description { batch_limit: BatchLimit::Rows(MAX_ROWS), ..Description::default() })
        })
    }
}

fn embed(request: &ItemsRequest) -> Result<Answer, Failure> {
    let items = request.items.iter().map(|item| &**item);
    let embeddings = embed_items(items, &request.options).map_err(|error| bad_request(&error))?;
    Ok(Answer::Items(ItemsAnswer {
        items: embeddings.items,
        usage: Some(Usage {
            prompt_tokens: embeddings.prompt_tokens,
            total_tokens: embeddings.prompt_tokens,
        }),
        body: None,
    }))
}

// === impl EmbeddedEcho ===

impl Instance for EmbeddedEcho {
    fn run(&self, work: Work, context: BatchContext) -> BoxFuture<'_, Result<Answer, Failure>> {
        Box::pin(async move {
            let Work::Relay(request) = work else { return Err(wrong_kind("chat and completions")) };
            echo(&request, &context.request_id)
        })
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), NotUp>> {
        Box::pin(async { Ok(()) })
    }

    fn describe(&self) -> BoxFuture<'_, Result<Description, String>> {
        Box::pin(async { Ok(Description::default()) })
    }
}

fn echo(request: &RelayRequest, id: &str) -> Result<Answer, Failure> {
    let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let echo = match request.path {
        "/v1/chat/completions" => Echo::chat(&request.body, id, created),
        _ => Echo::completion(&request.body, id, created),
    };
    let echo = echo.map_err(|error| bad_request(&error))?;
    let mut headers = HeaderMap::new();
    let (content_type, body) = if echo.is_streamed() {
        let events = echo.events().map(|event| Ok(Frame::data(event)));
        let events = StreamBody::new(futures_util::stream::iter(events));
        ("text/event-stream", events.boxed_unsync())
    } else {
        let body: Bytes = echo.whole();
        ("application/json", Full::new(body).map_err(|never| match never {}).boxed_unsync())
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(Answer::Relay(RelayAnswer::new(StatusCode::OK, headers, body)))
}

// === shared ===

/// Computes where blocking hurts nobody.
async fn compute(
    work: impl FnOnce() -> Result<Answer, Failure> + Send + 'static,
) -> Result<Answer, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Failure::broken(format!("the model broke off: {error}"))))
}

fn wrong_kind(takes: &str) -> Failure {
    refused("model", format!("this model answers {takes} only"))
}

fn refused(field: &'static str, message: String) -> Failure {
    Failure::refused(Fault::new(FaultKind::InvalidRequest, message).with_field(field))
}

fn bad_request(error: &BadRequest) -> Failure {
    let fault = Fault::new(FaultKind::InvalidRequest, error.to_string());
    Failure::refused(match error.param() {
        Some(param) => fault.with_field(param.to_owned()),
        None => fault,
    })
}
