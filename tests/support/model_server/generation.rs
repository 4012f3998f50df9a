//! Text generation in OpenAI's form, whole or as a stream of server-sent events.
//!
//! A prompt is answered by [`reply_to`] it, one word a piece. The slot of the engine is held for
//! the service time only, before the first piece; the pieces follow at the token interval without
//! it, as on a server with continuous batching.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::engine::Engine;
use super::faults::json_response;
use super::openai::{Texts, answered, count_tokens, parse, poisoned, seen};
use super::settings::FaultStatus;

/// What the server generates for a prompt (of a chat: the content of its last message).
pub fn reply_to(prompt: &str) -> String {
    format!("You said: {prompt}")
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Chat,
    Text,
}

#[derive(Debug, Default, Deserialize)]
struct GenerationOptions {
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    max_tokens: Option<usize>,
    #[serde(default)]
    max_completion_tokens: Option<usize>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Debug, Deserialize)]
struct ChatRequest {
    model: String,
    messages: Vec<Message>,
    #[serde(flatten)]
    options: GenerationOptions,
}

#[derive(Debug, Deserialize)]
struct Message {
    #[serde(default)]
    content: Value,
}

#[derive(Debug, Deserialize)]
struct CompletionRequest {
    model: String,
    prompt: Texts,
    #[serde(flatten)]
    options: GenerationOptions,
}

/// A request of either kind.
struct Generation {
    kind: Kind,
    model: String,
    prompts: Vec<String>,
    options: GenerationOptions,
}

/// `POST /v1/chat/completions`
pub(super) async fn chat(
    State(engine): State<Arc<Engine>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let generation = parse(&body).map(|ChatRequest { model, messages, options }| {
        let prompts = vec![messages.last().map(Message::text).unwrap_or_default()];
        Generation { kind: Kind::Chat, model, prompts, options }
    });
    answered(generate(engine, uri.path(), &headers, &body, generation).await)
}

/// `POST /v1/completions`
pub(super) async fn completions(
    State(engine): State<Arc<Engine>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let generation = parse(&body).map(|CompletionRequest { model, prompt, options }| Generation {
        kind: Kind::Text,
        model,
        prompts: prompt.into_list(),
        options,
    });
    answered(generate(engine, uri.path(), &headers, &body, generation).await)
}

impl Message {
    /// The content, its text parts joined when it has parts.
    fn text(&self) -> String {
        let part = |part: &Value| part.get("text").and_then(Value::as_str).map(str::to_owned);
        match &self.content {
            Value::String(text) => text.clone(),
            Value::Array(parts) => parts.iter().filter_map(part).collect(),
            _ => String::new(),
        }
    }
}

async fn generate(
    engine: Arc<Engine>,
    path: &str,
    headers: &HeaderMap,
    body: &Bytes,
    generation: Result<Generation, FaultStatus>,
) -> Result<Response<Body>, FaultStatus> {
    let generation = generation?;
    engine.find(&generation.model, "")?;
    let has_options = generation.options.stream_options.is_some();
    if has_options && engine.switches.read(|settings| settings.refuse_stream_options) {
        return Err(FaultStatus::invalid("unknown field: stream_options"));
    }
    let prompts = &generation.prompts;
    let record = seen(&engine, path, headers, body, (&generation.model, prompts));
    engine.tell(&generation.model, || prompts.clone());
    engine.execute(prompts.len(), poisoned(&engine, prompts), record).await?;
    let streamed = generation.options.stream.unwrap_or(false);
    let replies: Vec<Reply> = prompts.iter().map(|it| generation.reply(it)).collect();
    if streamed {
        return Ok(event_stream(engine, generation.events(&replies)));
    }
    for _ in 1..replies.iter().map(|reply| reply.pieces.len()).max().unwrap_or_default() {
        engine.token_interval().await;
    }
    Ok(json_response(StatusCode::OK, generation.whole(&replies).to_string()))
}

/// The answer to one prompt.
struct Reply {
    pieces: Vec<String>,
    finish_reason: &'static str,
}

impl Generation {
    fn reply(&self, prompt: &str) -> Reply {
        let text = reply_to(prompt);
        let mut pieces: Vec<String> = text.split_inclusive(' ').map(str::to_owned).collect();
        let limit = self.options.max_completion_tokens.or(self.options.max_tokens);
        let finish_reason = match limit {
            Some(limit) if limit < pieces.len() => {
                pieces.truncate(limit);
                "length"
            }
            _ => "stop",
        };
        Reply { pieces, finish_reason }
    }

    fn usage(&self, replies: &[Reply]) -> Value {
        let prompt_tokens = count_tokens(&self.prompts);
        let completion_tokens: usize = replies.iter().map(|reply| reply.pieces.len()).sum();
        json!({
            "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        })
    }

    fn whole(&self, replies: &[Reply]) -> Value {
        let choice = |(index, reply): (usize, &Reply)| {
            let text = reply.pieces.concat();
            let mut choice = json!({
                "index": index, "finish_reason": reply.finish_reason, "logprobs": null,
            });
            match self.kind {
                Kind::Chat => choice["message"] = json!({ "role": "assistant", "content": text }),
                Kind::Text => choice["text"] = json!(text),
            }
            choice
        };
        let choices: Vec<Value> = replies.iter().enumerate().map(choice).collect();
        let (id, object) = match self.kind {
            Kind::Chat => ("chatcmpl-1", "chat.completion"),
            Kind::Text => ("cmpl-1", "text_completion"),
        };
        json!({
            "id": id, "object": object, "created": 0, "model": self.model,
            "choices": choices, "usage": self.usage(replies),
        })
    }

    /// The events of a stream in order, `[DONE]` not among them.
    fn events(&self, replies: &[Reply]) -> VecDeque<Event> {
        let mut events = VecDeque::new();
        for (index, reply) in replies.iter().enumerate() {
            if self.kind == Kind::Chat {
                let role = json!({ "role": "assistant", "content": "" });
                events.push_back(self.event(index, &role, None, false));
            }
            for (at, piece) in reply.pieces.iter().enumerate() {
                let delta = json!({ "content": piece });
                events.push_back(self.event(index, &delta, None, at > 0));
            }
            let reason = Some(reply.finish_reason);
            events.push_back(self.event(index, &json!({}), reason, false));
        }
        if self.tells_usage() {
            let mut last = self.chunk(&json!([]));
            last["usage"] = self.usage(replies);
            events.push_back(Event { data: last.to_string(), paced: false });
        }
        events
    }

    fn tells_usage(&self) -> bool {
        self.options.stream_options.as_ref().is_some_and(|options| options.include_usage)
    }

    fn event(&self, index: usize, delta: &Value, reason: Option<&str>, paced: bool) -> Event {
        let mut choice = json!({ "index": index, "finish_reason": reason, "logprobs": null });
        match self.kind {
            Kind::Chat => choice["delta"] = delta.clone(),
            Kind::Text => choice["text"] = delta.get("content").cloned().unwrap_or(json!("")),
        }
        let mut chunk = self.chunk(&json!([choice]));
        if self.tells_usage() {
            chunk["usage"] = Value::Null;
        }
        Event { data: chunk.to_string(), paced }
    }

    fn chunk(&self, choices: &Value) -> Value {
        let (id, object) = match self.kind {
            Kind::Chat => ("chatcmpl-1", "chat.completion.chunk"),
            Kind::Text => ("cmpl-1", "text_completion"),
        };
        let model = &self.model;
        json!({ "id": id, "object": object, "created": 0, "model": model, "choices": choices })
    }
}

/// One server-sent event.
struct Event {
    data: String,
    /// Follows the event before it at the token interval.
    paced: bool,
}

fn event_stream(engine: Arc<Engine>, mut events: VecDeque<Event>) -> Response<Body> {
    events.push_back(Event { data: "[DONE]".to_owned(), paced: false });
    let pieces = stream::unfold((engine, events), |(engine, mut events)| async move {
        let Event { data, paced } = events.pop_front()?;
        if paced {
            engine.token_interval().await;
        }
        let piece = Ok::<_, Infallible>(Bytes::from(format!("data: {data}\n\n")));
        Some((piece, (engine, events)))
    });
    let mut response = Response::new(Body::from_stream(pieces));
    let event_stream = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, event_stream);
    response
}
