//! A chat and completion model that says its prompt again.
//!
//! It stands in for a language model wherever the way of a call matters more than what is said:
//! every piece of the contract is there (roles, finish reasons, limits, usage, streaming), and the
//! right answer is known beforehand. A token is a word with the white space around it.

mod events;
mod pieces;
mod reply;
mod request;

use bytes::Bytes;

use super::bad_request::BadRequest;
use pieces::Pieces;
use reply::{ChatMessage, Choice, FinishReason, Head, Reply, Usage};

pub use events::EchoEvents;

/// A call to the echo model, understood and ready to be answered, whole or streamed.
///
/// A chat is answered with its last user message, a completion with its prompt (one choice for
/// each prompt). `max_tokens` and `max_completion_tokens` are honoured; sampling options, `n` and
/// `stop` are not.
#[derive(Clone, Debug)]
pub struct Echo {
    route: Route,
    id: String,
    created: u64,
    model: String,
    streamed: bool,
    include_usage: bool,
    prompt_tokens: usize,
    answers: Vec<Answer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Chat,
    Completion,
}

/// What one choice says.
#[derive(Clone, Debug)]
struct Answer {
    text: String,
    tokens: usize,
    finish_reason: FinishReason,
}

impl Echo {
    /// Understands the JSON body of a `POST /v1/chat/completions`.
    ///
    /// `id` is what makes the reply's id unique, `created` the time as Unix seconds.
    ///
    /// # Errors
    /// When the body is not such a request; the error names the field.
    pub fn chat(body: &[u8], id: &str, created: u64) -> Result<Self, BadRequest> {
        let request = request::chat(body)?;
        Ok(Self::new(Route::Chat, request, format!("chatcmpl-{id}"), created))
    }

    /// Understands the JSON body of a `POST /v1/completions`.
    ///
    /// `id` is what makes the reply's id unique, `created` the time as Unix seconds.
    ///
    /// # Errors
    /// When the body is not such a request; the error names the field.
    pub fn completion(body: &[u8], id: &str, created: u64) -> Result<Self, BadRequest> {
        let request = request::completion(body)?;
        Ok(Self::new(Route::Completion, request, format!("cmpl-{id}"), created))
    }

    fn new(route: Route, request: request::Request, id: String, created: u64) -> Self {
        let limit = request.max_tokens.unwrap_or(usize::MAX);
        Self {
            route,
            id,
            created,
            model: request.model,
            streamed: request.stream,
            include_usage: request.include_usage,
            prompt_tokens: request.prompt_tokens,
            answers: request.answers.into_iter().map(|text| Answer::new(text, limit)).collect(),
        }
    }

    /// Whether the caller asked for events ([`Echo::events`]) rather than one body
    /// ([`Echo::whole`]).
    pub fn is_streamed(&self) -> bool {
        self.streamed
    }

    /// The whole reply as a JSON body.
    pub fn whole(&self) -> Bytes {
        let choices = self.answers.iter().enumerate().map(|(index, answer)| {
            let finish_reason = Some(answer.finish_reason);
            let text = answer.text.as_str();
            match self.route {
                Route::Chat => Choice::message(index, ChatMessage::of(text), finish_reason),
                Route::Completion => Choice::text(index, text, finish_reason),
            }
        });
        let object = match self.route {
            Route::Chat => "chat.completion",
            Route::Completion => "text_completion",
        };
        super::json(&Reply {
            head: self.head(object),
            choices: choices.collect(),
            usage: Some(Some(self.usage())),
        })
    }

    /// The reply as server-sent events, one word at a time, `data: [DONE]` last.
    pub fn events(self) -> EchoEvents {
        EchoEvents::new(self)
    }

    fn head(&self, object: &'static str) -> Head<'_> {
        Head { id: &self.id, object, created: self.created, model: &self.model }
    }

    fn usage(&self) -> Usage {
        let completion_tokens = self.answers.iter().map(|answer| answer.tokens).sum();
        Usage {
            prompt_tokens: self.prompt_tokens,
            completion_tokens,
            total_tokens: self.prompt_tokens.saturating_add(completion_tokens),
        }
    }
}

impl Answer {
    /// The text, cut after `limit` pieces.
    fn new(mut text: String, limit: usize) -> Self {
        let (tokens, end) = Pieces::new(&text)
            .take(limit)
            .fold((0, 0), |(tokens, end), piece| (tokens + 1, end + piece.len()));
        let finish_reason =
            if end < text.len() { FinishReason::Length } else { FinishReason::Stop };
        text.truncate(end);
        Self { text, tokens, finish_reason }
    }
}

#[cfg(test)]
mod tests;
