//! The OpenAI API: models and embeddings; text generation is in `generation`, what others have added in
//! `texts`.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, Response, StatusCode, Uri};
use serde::Deserialize;
use serde_json::{Value, json};

use super::engine::Engine;
use super::faults::{headers_as_text, json_response, kserve_error, openai_error};
use super::settings::FaultStatus;
use super::statistics::Seen;
use super::{generation, texts, v1};

type Answer = Result<Response<Body>, FaultStatus>;

pub(super) fn router(engine: &Arc<Engine>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/v1/models", get(models))
        // KServe v1 puts its `:predict` behind the name of the model.
        .route("/v1/models/{target}", get(model).post(predict))
        .route("/v1/embeddings", post(embeddings))
        .route("/v1/chat/completions", post(generation::chat))
        .route("/v1/completions", post(generation::completions))
        .merge(texts::router())
        .with_state(Arc::clone(engine))
}

/// The vector that stands for a text.
///
/// With h the 64-bit FNV-1a hash of the UTF-8 text, element i is byte i mod 8 of h (0 the least
/// significant), divided by 128, minus 1: exact in single precision. A list of token ids stands
/// for the text of its numbers joined by commas.
pub fn embedding_of(text: &str, dimensions: usize) -> Vec<f32> {
    let bytes = fnv1a(text).to_le_bytes();
    bytes.iter().cycle().take(dimensions).map(|byte| f32::from(*byte) / 128.0 - 1.0).collect()
}

/// The relevance that [`ModelServer`](super::ModelServer) gives a document: the hash of
/// [`embedding_of`] over query, line feed and document, modulo 1000, divided by 1000.
pub fn relevance_of(query: &str, document: &str) -> f64 {
    (fnv1a(&format!("{query}\n{document}")) % 1000) as f64 / 1000.0
}

fn fnv1a(text: &str) -> u64 {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// Answers in OpenAI's form, whatever came out.
pub(super) fn answered(answer: Answer) -> Response<Body> {
    answer.unwrap_or_else(|fault| openai_error(&fault))
}

pub(super) fn parse<'a, T: Deserialize<'a>>(body: &'a Bytes) -> Result<T, FaultStatus> {
    serde_json::from_slice(body)
        .map_err(|error| FaultStatus::invalid(format!("wrong body: {error}")))
}

pub(super) fn seen(
    engine: &Engine,
    path: &str,
    headers: &HeaderMap,
    body: &Bytes,
    call: (&str, &[String]),
) -> Option<Seen> {
    let (model, texts) = call;
    engine.records().then(|| Seen {
        model: model.to_owned(),
        path: path.to_owned(),
        rows: texts.len(),
        first: texts.first().cloned().unwrap_or_default(),
        headers: headers_as_text(headers),
        body: body.clone(),
        ..Seen::default()
    })
}

pub(super) fn poisoned(engine: &Engine, texts: &[String]) -> bool {
    engine.poison().is_some_and(|poison| texts.iter().any(|text| text.contains(&poison.text)))
}

/// Words, which this server takes for tokens.
pub(super) fn count_tokens<'a>(texts: impl IntoIterator<Item = &'a String>) -> usize {
    texts.into_iter().map(|text| text.split_whitespace().count()).sum()
}

async fn health(State(engine): State<Arc<Engine>>) -> StatusCode {
    let ready = engine.switches.read(|settings| settings.ready);
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn models(State(engine): State<Arc<Engine>>) -> Response<Body> {
    let list: Vec<Value> = engine.models.iter().map(|name| described(&engine, name)).collect();
    json_response(StatusCode::OK, json!({ "object": "list", "data": list }).to_string())
}

/// Both an OpenAI model object and KServe v1's readiness.
fn described(engine: &Engine, name: &str) -> Value {
    let ready = engine.switches.read(|settings| settings.ready);
    json!({
        "id": name, "object": "model", "created": 0, "owned_by": "model-server",
        "name": name, "ready": ready,
    })
}

async fn model(State(engine): State<Arc<Engine>>, Path(name): Path<String>) -> Response<Body> {
    let known = engine.find(&name, "");
    answered(known.map(|()| json_response(StatusCode::OK, described(&engine, &name).to_string())))
}

async fn predict(
    State(engine): State<Arc<Engine>>,
    Path(target): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let answer = match target.strip_suffix(":predict") {
        Some(model) => v1::predict(&engine, model, &headers, &body).await,
        None => Err(FaultStatus::not_found("a model can only be asked to :predict")),
    };
    answer.unwrap_or_else(|fault| kserve_error(&fault))
}

#[derive(Debug, Deserialize)]
struct EmbeddingRequest {
    model: String,
    input: Texts,
    #[serde(default)]
    encoding_format: EncodingFormat,
    #[serde(default)]
    dimensions: Option<usize>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum EncodingFormat {
    #[default]
    Float,
    Base64,
}

/// What OpenAI takes where texts are wanted.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Texts {
    One(String),
    Many(Vec<String>),
    Tokens(Vec<i64>),
    ManyTokens(Vec<Vec<i64>>),
}

impl Texts {
    pub(super) fn into_list(self) -> Vec<String> {
        let joined =
            |tokens: Vec<i64>| tokens.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
            Self::Tokens(tokens) => vec![joined(tokens)],
            Self::ManyTokens(lists) => lists.into_iter().map(joined).collect(),
        }
    }
}

async fn embeddings(
    State(engine): State<Arc<Engine>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    answered(embed(&engine, uri.path(), &headers, &body).await)
}

async fn embed(engine: &Engine, path: &str, headers: &HeaderMap, body: &Bytes) -> Answer {
    let request: EmbeddingRequest = parse(body)?;
    engine.find(&request.model, "")?;
    let texts = request.input.into_list();
    let record = seen(engine, path, headers, body, (&request.model, &texts));
    engine.tell(&request.model, || texts.clone());
    let executed = engine.execute(texts.len(), poisoned(engine, &texts), record).await?;
    let dimensions = request.dimensions.unwrap_or(engine.embedding_dimensions);
    let one = |(index, text): (usize, &String)| {
        let vector = embedding_of(text, dimensions);
        let embedding = match request.encoding_format {
            EncodingFormat::Float => json!(vector),
            EncodingFormat::Base64 => {
                let raw: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                json!(STANDARD.encode(raw))
            }
        };
        json!({ "object": "embedding", "index": index, "embedding": embedding })
    };
    let mut data: Vec<Value> = texts.iter().enumerate().map(one).collect();
    if executed.wrong_rows {
        data.pop();
    }
    let tokens = count_tokens(&texts);
    let answer = json!({
        "object": "list", "data": data, "model": request.model,
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
    });
    Ok(json_response(StatusCode::OK, answer.to_string()))
}
