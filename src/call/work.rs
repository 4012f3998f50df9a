//! What a call asks for.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use bytes::Bytes;
use http::HeaderMap;

use crate::tensor::{Tensor, split_rows};

/// What a call asks for.
#[derive(Debug)]
pub enum Work {
    /// An inference over tensors.
    Infer(InferRequest),
    /// An inference over the items of a JSON list.
    Items(ItemsRequest),
    /// A request that is forwarded whole and answered event by event.
    Relay(RelayRequest),
}

/// An inference over tensors (Open Inference Protocol).
#[derive(Clone, Debug, Default)]
pub struct InferRequest {
    /// The version asked for; empty for the instance's choice.
    pub version: String,
    /// Custom parameters for the model; the scheduling ones are taken out by the front.
    pub parameters: Parameters,
    /// The inputs; all have the call's rows along axis 0 when the call may share a batch.
    pub inputs: Vec<Tensor>,
    /// The inputs' own parameters for the model, for example `content_type`, by the inputs' names;
    /// an input without any is not in it.
    pub input_parameters: BTreeMap<String, Parameters>,
    /// The outputs wanted; empty for all.
    pub outputs: Vec<RequestedOutput>,
}

/// An output that the caller wants.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestedOutput {
    /// Its name.
    pub name: String,
    /// Parameters for the model, for example `classification`.
    pub parameters: Parameters,
}

/// Named parameters, in order of their names.
pub type Parameters = BTreeMap<String, Parameter>;

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names are the protocol's")]
pub enum Parameter {
    Bool(bool),
    Int64(i64),
    Uint64(u64),
    Double(f64),
    String(String),
}

/// Which list of items a call carries, and at which path instances take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ItemsRoute {
    /// KServe v1 `:predict`: `instances` in, `predictions` out.
    Predict,
    /// OpenAI embeddings: `input` in, `data` out.
    Embeddings,
    /// Rerank as Cohere and Jina have it, at this path: `documents` in, `results` out.
    Rerank(&'static str),
    /// `/rerank` of Text Embeddings Inference: `texts` in, a list out.
    RerankTexts,
    /// One text against many, at this path: `text_2` in, `data` out.
    Score(&'static str),
    /// Pairs of texts, at this path: `text_1` and `text_2` in, `data` out. An item is a list of two.
    ScorePairs(&'static str),
    /// `/classify`: `input` in, `data` out.
    Classify,
    /// Text Embeddings Inference at this path: `inputs` in, a list out.
    Inputs(&'static str),
    /// `/predict` of Text Embeddings Inference: `inputs` in, a list out. An item is a list of one text
    /// or two.
    PredictInputs,
}

impl ItemsRoute {
    /// The key of the list in the request body.
    pub fn items_key(self) -> &'static str {
        match self {
            ItemsRoute::Predict => "instances",
            ItemsRoute::Embeddings | ItemsRoute::Classify => "input",
            ItemsRoute::Rerank(_) => "documents",
            ItemsRoute::RerankTexts => "texts",
            ItemsRoute::Score(_) | ItemsRoute::ScorePairs(_) => "text_2",
            ItemsRoute::Inputs(_) | ItemsRoute::PredictInputs => "inputs",
        }
    }

    /// The path at which instances take it; empty where that depends on the model.
    pub fn path(self) -> &'static str {
        match self {
            ItemsRoute::Predict => "",
            ItemsRoute::Embeddings => "/v1/embeddings",
            ItemsRoute::Rerank(path)
            | ItemsRoute::Score(path)
            | ItemsRoute::ScorePairs(path)
            | ItemsRoute::Inputs(path) => path,
            ItemsRoute::RerankTexts => "/rerank",
            ItemsRoute::Classify => "/classify",
            ItemsRoute::PredictInputs => "/predict",
        }
    }

    /// Whether a request says in its body which model is meant.
    pub fn names_model(self) -> bool {
        match self {
            ItemsRoute::Predict
            | ItemsRoute::RerankTexts
            | ItemsRoute::Inputs(_)
            | ItemsRoute::PredictInputs => false,
            ItemsRoute::Embeddings
            | ItemsRoute::Rerank(_)
            | ItemsRoute::Score(_)
            | ItemsRoute::ScorePairs(_)
            | ItemsRoute::Classify => true,
        }
    }
}

/// An inference over the items of a JSON list.
#[derive(Clone, Debug)]
pub struct ItemsRequest {
    /// Which list.
    pub route: ItemsRoute,
    /// The raw JSON of each item, as slices of the body.
    pub items: Vec<Bytes>,
    /// Every other field of the body but `model`, as `"key":value` pairs with raw values, in the
    /// caller's order, joined by commas; empty when there is none.
    pub options: Bytes,
    /// The body as it came, while it still says the same as `items` and `options`.
    pub body: Option<Bytes>,
}

/// A request that is forwarded whole.
#[derive(Clone, Debug)]
pub struct RelayRequest {
    /// The path on the instance, for example `/v1/chat/completions`.
    pub path: &'static str,
    /// Headers that go with it.
    pub headers: HeaderMap,
    /// The body, naming the model as the instance knows it.
    pub body: Bytes,
    /// Whether the caller asked for a stream of events.
    pub stream: bool,
    /// The same for requests that are best served by the same instance; `None`: all alike.
    pub affinity: Option<u64>,
    /// Whether it may be given one more field: a name for the one text that it asks for.
    pub can_be_named: bool,
    /// The same body, asking for the usage of the stream, where the caller does not want it.
    pub with_usage: Option<Bytes>,
}

/// So many bytes of an input tell it from others.
const TELLING_BYTES: usize = 64 << 10;

impl Work {
    /// A hash of the inputs, whatever pieces their bytes are in.
    #[must_use]
    pub fn signature(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        match self {
            Work::Infer(request) => {
                for input in &request.inputs {
                    hasher.write(input.name().as_bytes());
                    hasher.write_usize(input.data().len());
                    let mut left = TELLING_BYTES;
                    for segment in input.data().segments() {
                        let telling = segment.get(..left.min(segment.len())).unwrap_or_default();
                        hasher.write(telling);
                        left -= telling.len();
                    }
                }
            }
            Work::Items(request) => request.items.hash(&mut hasher),
            Work::Relay(request) => request.body.hash(&mut hasher),
        }
        hasher.finish()
    }

    /// Cuts the first `rows` rows off; what remains stays in place.
    #[must_use]
    pub fn split_off(&mut self, rows: u32) -> Work {
        match self {
            Work::Infer(request) => Work::Infer(InferRequest {
                version: request.version.clone(),
                parameters: request.parameters.clone(),
                inputs: split_rows(&mut request.inputs, rows),
                input_parameters: request.input_parameters.clone(),
                outputs: request.outputs.clone(),
            }),
            Work::Items(request) => {
                let count = (rows as usize).min(request.items.len());
                let tail = request.items.split_off(count);
                let items = std::mem::replace(&mut request.items, tail);
                request.body = None;
                Work::Items(ItemsRequest {
                    route: request.route,
                    items,
                    options: request.options.clone(),
                    body: None,
                })
            }
            Work::Relay(request) => Work::Relay(request.clone()),
        }
    }
}
