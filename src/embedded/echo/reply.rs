//! The JSON of replies, key for key as the OpenAI API writes it.

use serde::Serialize;

/// A whole reply, or one event of a streamed one.
#[derive(Serialize)]
pub(super) struct Reply<'a> {
    #[serde(flatten)]
    pub(super) head: Head<'a>,
    pub(super) choices: Vec<Choice<'a>>,
    /// Absent, null or given: with usage wanted, all events but the one that carries it say null.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Option<Usage>>,
}

#[derive(Clone, Copy, Serialize)]
pub(super) struct Head<'a> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: &'a str,
}

#[derive(Serialize)]
pub(super) struct Choice<'a> {
    index: usize,
    #[serde(flatten)]
    said: Said<'a>,
    logprobs: Option<()>,
    finish_reason: Option<FinishReason>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Said<'a> {
    Message(ChatMessage<'a>),
    Delta(Delta<'a>),
    Text(&'a str),
}

#[derive(Serialize)]
pub(super) struct ChatMessage<'a> {
    role: &'static str,
    content: &'a str,
    refusal: Option<()>,
}

/// What an event adds to the message.
#[derive(Default, Serialize)]
pub(super) struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

/// Why a choice ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum FinishReason {
    /// Everything was said.
    Stop,
    /// The caller's limit of tokens was reached.
    Length,
}

#[derive(Clone, Copy, Serialize)]
pub(super) struct Usage {
    pub(super) prompt_tokens: usize,
    pub(super) completion_tokens: usize,
    pub(super) total_tokens: usize,
}

impl<'a> Choice<'a> {
    pub(super) fn message(
        index: usize,
        message: ChatMessage<'a>,
        finish_reason: Option<FinishReason>,
    ) -> Self {
        Self { index, said: Said::Message(message), logprobs: None, finish_reason }
    }

    pub(super) fn delta(
        index: usize,
        delta: Delta<'a>,
        finish_reason: Option<FinishReason>,
    ) -> Self {
        Self { index, said: Said::Delta(delta), logprobs: None, finish_reason }
    }

    pub(super) fn text(index: usize, text: &'a str, finish_reason: Option<FinishReason>) -> Self {
        Self { index, said: Said::Text(text), logprobs: None, finish_reason }
    }
}

impl<'a> ChatMessage<'a> {
    pub(super) fn of(content: &'a str) -> Self {
        Self { role: "assistant", content, refusal: None }
    }
}

impl<'a> Delta<'a> {
    /// The first of a choice.
    pub(super) fn role() -> Self {
        Self { role: Some("assistant"), content: Some("") }
    }

    pub(super) fn content(piece: &'a str) -> Self {
        Self { role: None, content: Some(piece) }
    }
}
