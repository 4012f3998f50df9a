//! Faults as bodies of replies over HTTP, in the form of each protocol.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::status::of_kind;
use crate::call::{Fault, Refusal};

/// How much of an instance's words that are no JSON is passed on.
const LONGEST_WORDS: usize = 1000;

#[derive(Deserialize, Serialize)]
struct KserveBody<T> {
    error: T,
}

/// `{"error": "..."}`, in the instance's own words where it refused the request.
pub fn kserve_body(fault: &Fault) -> Vec<u8> {
    if let Some(own) = own_body(fault)
        && serde_json::from_slice::<KserveBody<String>>(own).is_ok()
    {
        return own.to_vec();
    }
    let error = own_words(fault).unwrap_or_else(|| fault.message.clone().into_owned());
    serde_json::to_vec(&KserveBody { error }).unwrap_or_default()
}

/// What is inside `error`, with all four keys.
#[derive(Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

/// `{"error": {"message", "type", "param", "code"}}`, or the instance's own body of that form.
pub fn openai_body(fault: &Fault) -> Vec<u8> {
    if let Some(own) = own_body(fault)
        && serde_json::from_slice::<Value>(own).is_ok_and(|value| is_openai_error(&value))
    {
        return own.to_vec();
    }
    openai_error(fault)
}

/// The same, put together here.
pub fn openai_error(fault: &Fault) -> Vec<u8> {
    let table = of_kind(fault.kind);
    let words = own_words(fault);
    let own = own_body(fault).and_then(|body| serde_json::from_slice::<Value>(body).ok());
    let own = |key| own.as_ref()?.get("error")?.get(key)?.as_str();
    let error = OpenAiError {
        message: words.as_deref().unwrap_or(&fault.message),
        r#type: own("type").unwrap_or(table.openai_type),
        param: own("param").or(fault.field.as_deref()),
        code: own("code").or(table.openai_code),
    };
    serde_json::to_vec(&KserveBody { error }).unwrap_or_default()
}

/// Whether a body is an error with all four keys.
pub(crate) fn is_openai_error(value: &Value) -> bool {
    let Some(Value::Object(error)) = value.get("error") else { return false };
    let text_or_null =
        |key| error.get(key).is_some_and(|value| value.is_string() || value.is_null());
    ["message", "type"].iter().all(|key| error.get(*key).is_some_and(Value::is_string))
        && text_or_null("param")
        && text_or_null("code")
}

/// The body of an instance that refused the request.
fn own_body(fault: &Fault) -> Option<&[u8]> {
    let Refusal { body, .. } = fault.refusal.as_deref()?;
    body.as_deref()
}

/// What an instance said when it refused the request, out of whichever form it said it in.
fn own_words(fault: &Fault) -> Option<String> {
    let body = own_body(fault)?;
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        let text = String::from_utf8_lossy(body);
        let text = text.trim();
        return (!text.is_empty()).then(|| text.chars().take(LONGEST_WORDS).collect());
    };
    let places = ["/error/message", "/error", "/message", "/detail"];
    let words = places.iter().find_map(|place| value.pointer(place)?.as_str().map(str::to_owned));
    let words = words.or_else(|| validation_words(&value)).unwrap_or_else(|| value.to_string());
    Some(words.chars().take(LONGEST_WORDS).collect())
}

/// What is wrong by a list of mistakes, as servers made with `FastAPI` send it.
fn validation_words(value: &Value) -> Option<String> {
    let mistakes = value.get("detail")?.as_array()?;
    let words = mistakes.iter().map(|mistake| {
        let place = mistake.get("loc").and_then(Value::as_array).into_iter().flatten();
        let place: Vec<_> = place
            .map(|step| step.as_str().map_or_else(|| step.to_string(), str::to_owned))
            .collect();
        Some(format!("{}: {}", place.join("."), mistake.get("msg")?.as_str()?))
    });
    words
        .collect::<Option<Vec<_>>>()
        .filter(|words| !words.is_empty())
        .map(|words| words.join("; "))
}
