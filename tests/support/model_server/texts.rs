//! What others have added to OpenAI's API: rerank as Cohere and Jina have it, vLLM's scores and classes,
//! and the routes of Text Embeddings Inference, which know no model's name.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::routing::post;
use http::{HeaderMap, Response, StatusCode, Uri};
use serde::Deserialize;
use serde_json::{Value, json};

use super::engine::Engine;
use super::faults::{inference_error, json_response};
use super::openai::{
    Texts, answered, count_tokens, embedding_of, parse, poisoned, relevance_of, seen,
};
use super::settings::FaultStatus;

/// Every path here.
pub(super) const PATHS: [&str; 8] = [
    "/v1/rerank",
    "/v2/rerank",
    "/rerank",
    "/v1/score",
    "/score",
    "/classify",
    "/embed",
    "/predict",
];

/// Those of Text Embeddings Inference.
pub(super) const NATIVE: [&str; 2] = ["/embed", "/predict"];

pub(super) fn router() -> Router<Arc<Engine>> {
    Router::new()
        .route("/v1/rerank", post(rerank))
        .route("/v2/rerank", post(rerank))
        .route("/rerank", post(any_rerank))
        .route("/v1/score", post(score))
        .route("/score", post(score))
        .route("/classify", post(classify))
        .route("/embed", post(embed))
        .route("/predict", post(predict))
}

type Answer = Result<Value, FaultStatus>;

/// A call as it came.
struct Call<'a> {
    engine: &'a Engine,
    path: &'a str,
    headers: &'a HeaderMap,
    body: &'a Bytes,
}

impl Call<'_> {
    /// Takes the batch's time; `rows` are texts that may be poison. Whether a row is to be left out.
    async fn execute(&self, model: &str, rows: &[String]) -> Result<bool, FaultStatus> {
        let record = seen(self.engine, self.path, self.headers, self.body, (model, rows));
        let poison = poisoned(self.engine, rows);
        Ok(self.engine.execute(rows.len(), poison, record).await?.wrong_rows)
    }
}

fn replied(answer: Answer) -> Response<Body> {
    answered(answer.map(|answer| json_response(StatusCode::OK, answer.to_string())))
}

fn native(answer: Answer) -> Response<Body> {
    let reply = answer.map(|answer| json_response(StatusCode::OK, answer.to_string()));
    reply.unwrap_or_else(|fault| inference_error(&fault))
}

fn usage(texts: &[String], query: &str) -> Value {
    let tokens = count_tokens(texts) + query.split_whitespace().count();
    json!({ "prompt_tokens": tokens, "total_tokens": tokens })
}

#[derive(Debug, Deserialize)]
struct RerankRequest {
    model: String,
    query: String,
    documents: Vec<Document>,
    #[serde(default)]
    top_n: Option<usize>,
    #[serde(default)]
    return_documents: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Document {
    Text(String),
    Object { text: String },
}

/// The documents by their relevance, best first: place, relevance and text.
fn ranked<'a>(query: &str, texts: &'a [String]) -> Vec<(usize, f64, &'a String)> {
    let score = |(index, text): (usize, &'a String)| (index, relevance_of(query, text), text);
    let mut ranked: Vec<_> = texts.iter().enumerate().map(score).collect();
    ranked.sort_by(|left, right| right.1.total_cmp(&left.1));
    ranked
}

async fn rerank(
    State(engine): State<Arc<Engine>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let (path, headers) = (uri.path(), &headers);
    replied(rank(Call { engine: &engine, path, headers, body: &body }).await)
}

async fn rank(call: Call<'_>) -> Answer {
    let request: RerankRequest = parse(call.body)?;
    call.engine.find(&request.model, "")?;
    let text = |document| match document {
        Document::Text(text) | Document::Object { text } => text,
    };
    let texts: Vec<String> = request.documents.into_iter().map(text).collect();
    let leave_out = call.execute(&request.model, &texts).await?;
    let mut ranked = ranked(&request.query, &texts);
    ranked.truncate(request.top_n.unwrap_or(usize::MAX));
    if leave_out {
        ranked.pop();
    }
    let result = |(index, score, text): (usize, f64, &String)| {
        let mut result = json!({ "index": index, "relevance_score": score });
        if request.return_documents {
            result["document"] = json!({ "text": text });
        }
        result
    };
    let results: Vec<Value> = ranked.into_iter().map(result).collect();
    Ok(json!({
        "id": "rerank-1", "model": request.model, "results": results,
        "usage": usage(&texts, &request.query),
    }))
}

/// In the form of Text Embeddings Inference where there are `texts`.
async fn any_rerank(
    State(engine): State<Arc<Engine>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let (path, headers) = (uri.path(), &headers);
    let call = Call { engine: &engine, path, headers, body: &body };
    let has_texts = parse::<Value>(&body).is_ok_and(|body| body.get("texts").is_some());
    if has_texts { native(rank_texts(call).await) } else { replied(rank(call).await) }
}

async fn rank_texts(call: Call<'_>) -> Answer {
    #[derive(Deserialize)]
    struct Request {
        query: String,
        texts: Vec<String>,
        #[serde(default)]
        return_text: bool,
    }
    let request: Request = parse(call.body)?;
    let leave_out = call.execute("", &request.texts).await?;
    let mut ranked = ranked(&request.query, &request.texts);
    if leave_out {
        ranked.pop();
    }
    let result = |(index, score, text): (usize, f64, &String)| {
        let mut result = json!({ "index": index, "score": score });
        if request.return_text {
            result["text"] = json!(text);
        }
        result
    };
    Ok(ranked.into_iter().map(result).collect())
}

async fn score(
    State(engine): State<Arc<Engine>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let (path, headers) = (uri.path(), &headers);
    replied(scores(Call { engine: &engine, path, headers, body: &body }).await)
}

async fn scores(call: Call<'_>) -> Answer {
    #[derive(Deserialize)]
    struct Request {
        model: String,
        text_1: Texts,
        text_2: Texts,
    }
    let Request { model, text_1, text_2 } = parse(call.body)?;
    call.engine.find(&model, "")?;
    let (mut ones, twos) = (text_1.into_list(), text_2.into_list());
    if let ([one], true) = (ones.as_slice(), twos.len() > 1) {
        ones = vec![one.clone(); twos.len()];
    }
    if ones.len() != twos.len() {
        return Err(FaultStatus::invalid("text_1 and text_2 have different lengths"));
    }
    let leave_out = call.execute(&model, &twos).await?;
    let pairs = ones.iter().zip(&twos).enumerate();
    let mut data: Vec<Value> = pairs
        .map(|(index, (one, two))| {
            json!({ "index": index, "object": "score", "score": relevance_of(one, two) })
        })
        .collect();
    if leave_out {
        data.pop();
    }
    let usage = usage(&twos, &ones.join(" "));
    Ok(json!({
        "id": "score-1", "object": "list", "created": 0, "model": model, "data": data,
        "usage": usage,
    }))
}

async fn classify(
    State(engine): State<Arc<Engine>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let (path, headers) = (uri.path(), &headers);
    replied(classes(Call { engine: &engine, path, headers, body: &body }).await)
}

async fn classes(call: Call<'_>) -> Answer {
    #[derive(Deserialize)]
    struct Request {
        model: String,
        input: Texts,
    }
    let Request { model, input } = parse(call.body)?;
    call.engine.find(&model, "")?;
    let texts = input.into_list();
    let leave_out = call.execute(&model, &texts).await?;
    let class = |(index, text): (usize, &String)| {
        let probability = relevance_of("", text);
        let label = if probability < 0.5 { "low" } else { "high" };
        json!({
            "index": index, "label": label, "probs": [1.0 - probability, probability],
            "num_classes": 2,
        })
    };
    let mut data: Vec<Value> = texts.iter().enumerate().map(class).collect();
    if leave_out {
        data.pop();
    }
    Ok(json!({
        "id": "classify-1", "object": "list", "created": 0, "model": model, "data": data,
        "usage": usage(&texts, ""),
    }))
}

async fn embed(
    State(engine): State<Arc<Engine>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let (path, headers) = (uri.path(), &headers);
    native(vectors(Call { engine: &engine, path, headers, body: &body }).await)
}

async fn vectors(call: Call<'_>) -> Answer {
    #[derive(Deserialize)]
    struct Request {
        inputs: Texts,
    }
    let Request { inputs } = parse(call.body)?;
    let texts = inputs.into_list();
    let leave_out = call.execute("", &texts).await?;
    let dimensions = call.engine.embedding_dimensions;
    let mut vectors: Vec<_> = texts.iter().map(|text| embedding_of(text, dimensions)).collect();
    if leave_out {
        vectors.pop();
    }
    Ok(json!(vectors))
}

/// A text, a pair of texts, or a batch of lists of one or two.
#[derive(Deserialize)]
#[serde(untagged)]
enum Sequences {
    Text(String),
    Sequence(Vec<String>),
    Batch(Vec<Vec<String>>),
}

async fn predict(
    State(engine): State<Arc<Engine>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let (path, headers) = (uri.path(), &headers);
    native(predictions(Call { engine: &engine, path, headers, body: &body }).await)
}

async fn predictions(call: Call<'_>) -> Answer {
    #[derive(Deserialize)]
    struct Request {
        inputs: Sequences,
    }
    let Request { inputs } = parse(call.body)?;
    let (batch, is_single) = match inputs {
        Sequences::Text(text) => (vec![vec![text]], true),
        Sequences::Sequence(texts) => (vec![texts], true),
        Sequences::Batch(batch) => (batch, false),
    };
    let texts: Vec<String> = batch.iter().map(|texts| texts.join("\n")).collect();
    let leave_out = call.execute("", &texts).await?;
    let class = |text: &String| json!([{ "score": relevance_of("", text), "label": "LABEL_0" }]);
    let mut answers: Vec<Value> = texts.iter().map(class).collect();
    if leave_out {
        answers.pop();
    }
    Ok(if is_single { answers.pop().unwrap_or_default() } else { json!(answers) })
}
