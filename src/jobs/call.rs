//! From the body of a line to its answer: through the same parsers, queues and writers as a live
//! call, without a connection.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::result_line::on_one_line;
use crate::call::{
    Answer, Fault, FaultKind, Refusal, RelayAnswer, RelayBody, RelayRequest, Served, SharedSpan,
    Terms, Timing, Usage, Work,
};
use crate::engine::{Model, Models};
use crate::telemetry::Via;
use crate::wire::openai::{
    ParsedEmbeddings, UsageScan, parse_embeddings, parse_generation, write_embeddings_reply,
};

/// How long a line may wait and run in one call. Even the least urgent call is cut within a minute,
/// so that a call which takes longer hangs.
const LONGEST_CALL: Duration = Duration::from_secs(600);
/// Bytes of the longest answer.
const LONGEST_ANSWER: usize = 64 << 20;

/// An answer to a line.
#[derive(Debug)]
pub(super) struct LineAnswer {
    pub(super) status: StatusCode,
    /// JSON on one line.
    pub(super) body: Bytes,
    /// How long it waited.
    pub(super) waited: Duration,
    /// How long it took from then on.
    pub(super) took: Duration,
}

/// Asks the model that `body` names, with the lowest priority that it has.
///
/// # Errors
/// Why there is no answer.
pub(super) async fn ask(
    models: &Models,
    endpoint: Endpoint,
    body: Bytes,
    mut terms: Terms,
) -> Result<LineAnswer, Fault> {
    let asked = match endpoint {
        Endpoint::Embeddings => Asked::embeddings(models, body)?,
        path => Asked::text(models, path.path(), body)?,
    };
    let model = &asked.model;
    if !endpoint.is_answered_by(model.kind()) {
        let message = format!("model '{}' does not answer {}", model.name(), endpoint.path());
        return Err(Fault::invalid("model", message));
    }
    terms.priority = Some(model.plan().priority_levels);
    let began = Instant::now();
    let longest = LONGEST_CALL.max(model.plan().timeout);
    let served = model.call_within(longest, asked.work, terms, Via::BatchApi).await?;
    let Served { answer, timing: Timing { queue: waited, .. } } = served;
    let (status, body) = match answer {
        Answer::Items(answer) => {
            let known_as = &model.plan().upstream_name;
            if let Some(Usage { prompt_tokens, total_tokens }) = answer.usage {
                let completion = total_tokens.saturating_sub(prompt_tokens);
                model.metrics().count_tokens(prompt_tokens, completion);
            }
            let body = write_embeddings_reply(&asked.name, known_as, &answer, asked.wants_base64);
            let body = body.map_err(|error| Fault::new(FaultKind::Upstream, error.to_string()))?;
            (StatusCode::OK, body.to_bytes())
        }
        Answer::Relay(answer) => {
            let (left, span) = (longest.saturating_sub(began.elapsed()), answer.span.clone());
            let read = tokio::time::timeout(left, read_relayed(answer)).await;
            let (status, body) = read.map_err(|_| Fault::deadline(began.elapsed()))??;
            count_tokens(model, &span, &body);
            (status, body)
        }
        Answer::Infer(_) => return Err(not_json()),
    };
    let body = on_one_line(&body).ok_or_else(not_json)?;
    Ok(LineAnswer { status, body, waited, took: began.elapsed().saturating_sub(waited) })
}

/// A call that is ready to be made.
struct Asked {
    model: std::sync::Arc<Model>,
    /// As the line names it.
    name: String,
    work: Work,
    wants_base64: bool,
}

impl Asked {
    fn embeddings(models: &Models, body: Bytes) -> Result<Self, Fault> {
        let ParsedEmbeddings { model: name, mut request, wants_base64 } = parse_embeddings(body)?;
        let model = find(models, &name)?;
        if model.plan().upstream_name != name {
            // The body names the model as the caller does.
            request.body = None;
        }
        Ok(Self { model, name, work: Work::Items(request), wants_base64 })
    }

    fn text(models: &Models, path: &'static str, body: Bytes) -> Result<Self, Fault> {
        let parsed = parse_generation(&body)?;
        let model = find(models, &parsed.model)?;
        let known_as = &model.plan().upstream_name;
        let body =
            if *known_as == parsed.model { body } else { parsed.with_model(&body, known_as) };
        let json = HeaderValue::from_static("application/json");
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, json)]);
        let work = Work::Relay(RelayRequest {
            path,
            headers,
            body,
            stream: parsed.stream,
            can_be_named: parsed.can_be_named,
            affinity: parsed.affinity,
            with_usage: None,
        });
        Ok(Self { model, name: parsed.model, work, wants_base64: false })
    }
}

fn find(models: &Models, name: &str) -> Result<std::sync::Arc<Model>, Fault> {
    models.get(name).ok_or_else(|| {
        let message = format!("there is no model '{name:.100}' any more");
        Fault::new(FaultKind::UnknownModel, message).with_field("model")
    })
}

/// Counts what a whole answer cost, where it says so.
fn count_tokens(model: &Model, span: &SharedSpan, body: &[u8]) {
    let mut scan = UsageScan::default();
    scan.feed(body);
    if let Some(usage) = scan.found() {
        model.metrics().count_tokens(usage.prompt, usage.completion);
        span.note_usage(usage.prompt, usage.completion);
    }
}

async fn read_relayed(answer: RelayAnswer) -> Result<(StatusCode, Bytes), Fault> {
    let RelayAnswer { status, headers, body, .. } = answer;
    let body = read_whole(body).await?;
    if status.is_success() {
        return Ok((status, body));
    }
    let message = format!("the instance answered with status {status}");
    if !status.is_client_error() && status != StatusCode::SERVICE_UNAVAILABLE {
        return Err(Fault::new(FaultKind::Upstream, message));
    }
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let mut fault = Fault::new(FaultKind::Refused, message).with_refusal(Refusal {
        http: Some(status),
        grpc: None,
        body: Some(body),
        content_type: text(CONTENT_TYPE).map(str::to_owned),
    });
    let seconds = text(RETRY_AFTER).and_then(|text| text.trim().parse().ok());
    fault.retry_after = seconds.map(Duration::from_secs);
    Err(fault)
}

async fn read_whole(mut body: RelayBody) -> Result<Bytes, Fault> {
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Fault::new(FaultKind::Upstream, format!("the instance's answer broke off: {error}"))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > LONGEST_ANSWER {
            let message = format!("the instance's answer is longer than {LONGEST_ANSWER} bytes");
            return Err(Fault::new(FaultKind::Upstream, message));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.into())
}

fn not_json() -> Fault {
    Fault::new(FaultKind::Upstream, "the instance's answer is not JSON")
}
