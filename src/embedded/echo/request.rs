//! What a chat or completion request asks of the echo model.

use serde::Deserialize;
use serde_json::Value;

use super::pieces::Pieces;
use crate::embedded::bad_request::{self, BadRequest};

/// The most prompts in one completion call.
const MAX_PROMPTS: usize = 128;

const MESSAGES: &str = "a list of messages, each with a role and content";
const CONTENT: &str = "a string or a list of text parts";
const PROMPT: &str = "a string or a list of strings";

/// A request of either kind, checked.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) model: String,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    pub(super) max_tokens: Option<usize>,
    pub(super) prompt_tokens: usize,
    /// The text of each choice, uncut.
    pub(super) answers: Vec<String>,
}

/// The fields as they came: any JSON, so that a wrong type can be named.
#[derive(Deserialize)]
struct Fields {
    model: Option<Value>,
    messages: Option<Value>,
    prompt: Option<Value>,
    stream: Option<Value>,
    stream_options: Option<Value>,
    max_tokens: Option<Value>,
    max_completion_tokens: Option<Value>,
}

pub(super) fn chat(body: &[u8]) -> Result<Request, BadRequest> {
    let fields: Fields = bad_request::parse_object(body)?;
    let messages =
        messages(bad_request::required("messages", fields.messages.as_ref(), MESSAGES)?)?;
    let prompt_tokens = messages.iter().map(|message| tokens(&message.text)).sum();
    let answered = messages.iter().rposition(|message| message.role == "user");
    let answer = answered.or(messages.len().checked_sub(1));
    let answer = answer.and_then(|index| messages.into_iter().nth(index)).map(|chosen| chosen.text);
    fields.into_request(prompt_tokens, answer.into_iter().collect())
}

pub(super) fn completion(body: &[u8]) -> Result<Request, BadRequest> {
    let fields: Fields = bad_request::parse_object(body)?;
    let prompts = prompts(bad_request::required("prompt", fields.prompt.as_ref(), PROMPT)?)?;
    let prompt_tokens = prompts.iter().map(|prompt| tokens(prompt)).sum();
    fields.into_request(prompt_tokens, prompts)
}

impl Fields {
    fn into_request(
        self,
        prompt_tokens: usize,
        answers: Vec<String>,
    ) -> Result<Request, BadRequest> {
        let stream = bad_request::flag("stream", self.stream.as_ref())?;
        let newer =
            bad_request::count("max_completion_tokens", self.max_completion_tokens.as_ref())?;
        let older = bad_request::count("max_tokens", self.max_tokens.as_ref())?;
        Ok(Request {
            model: bad_request::required_string("model", self.model.as_ref())?,
            stream,
            include_usage: include_usage(self.stream_options.as_ref(), stream)?,
            max_tokens: newer.or(older),
            prompt_tokens,
            answers,
        })
    }
}

fn include_usage(options: Option<&Value>, stream: bool) -> Result<bool, BadRequest> {
    match options {
        None | Some(Value::Null) => Ok(false),
        Some(_) if !stream => Err(BadRequest::out_of_range(
            "stream_options",
            &"set",
            "absent unless 'stream' is true",
        )),
        Some(Value::Object(options)) => {
            bad_request::flag("stream_options.include_usage", options.get("include_usage"))
        }
        Some(other) => Err(BadRequest::wrong_type("stream_options", other, "an object")),
    }
}

fn tokens(text: &str) -> usize {
    Pieces::new(text).count()
}

// === messages ===

struct Message {
    role: String,
    text: String,
}

fn messages(value: &Value) -> Result<Vec<Message>, BadRequest> {
    let list =
        value.as_array().ok_or_else(|| BadRequest::wrong_type("messages", value, MESSAGES))?;
    if list.is_empty() {
        return Err(BadRequest::out_of_range("messages", &"empty", "1 message or more"));
    }
    list.iter().enumerate().map(|(index, value)| message(index, value)).collect()
}

fn message(index: usize, value: &Value) -> Result<Message, BadRequest> {
    let param = format!("messages[{index}]");
    let fields = value
        .as_object()
        .ok_or_else(|| BadRequest::wrong_type(&param, value, "an object with role and content"))?;
    let role = bad_request::required_string(&format!("{param}.role"), fields.get("role"))?;
    let param = format!("{param}.content");
    let text = match fields.get("content") {
        // What an assistant said by calling a tool has no content.
        None | Some(Value::Null) if role == "assistant" => String::new(),
        content => text(&param, bad_request::required(&param, content, CONTENT)?)?,
    };
    Ok(Message { role, text })
}

fn text(param: &str, content: &Value) -> Result<String, BadRequest> {
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => {
            let part = |(index, value)| part(&format!("{param}[{index}]"), value);
            parts.iter().enumerate().map(part).collect()
        }
        other => Err(BadRequest::wrong_type(param, other, CONTENT)),
    }
}

fn part(param: &str, value: &Value) -> Result<String, BadRequest> {
    let fields = value
        .as_object()
        .ok_or_else(|| BadRequest::wrong_type(param, value, "an object with type and text"))?;
    let kind_param = format!("{param}.type");
    let kind = bad_request::required_string(&kind_param, fields.get("type"))?;
    if kind != "text" {
        return Err(BadRequest::out_of_range(&kind_param, &kind, "\"text\" for this model"));
    }
    bad_request::required_string(&format!("{param}.text"), fields.get("text"))
}

// === prompts ===

fn prompts(value: &Value) -> Result<Vec<String>, BadRequest> {
    let list = match value {
        Value::String(prompt) => return Ok(vec![prompt.clone()]),
        Value::Array(list) => list,
        other => return Err(BadRequest::wrong_type("prompt", other, PROMPT)),
    };
    if list.is_empty() || list.len() > MAX_PROMPTS {
        let got = format!("a list of {}", list.len());
        return Err(BadRequest::out_of_range(
            "prompt",
            &got,
            format!("1 to {MAX_PROMPTS} prompts"),
        ));
    }
    let prompt =
        |(index, value)| bad_request::required_string(&format!("prompt[{index}]"), Some(value));
    list.iter().enumerate().map(prompt).collect()
}
