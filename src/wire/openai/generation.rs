//! Requests for text: forwarded whole, so that only the model's name and the wish for a stream are
//! looked at.

use std::borrow::Cow;
use std::fmt::Display;
use std::ops::Range;

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::call::Fault;
use crate::wire::depth::{MAX_DEPTH, is_too_deep};
use crate::wire::fields::from_object;

/// What matters of a request for chat or completions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedGeneration {
    /// The model that the caller names.
    pub model: String,
    /// Whether the caller wants a stream of events.
    pub stream: bool,
    /// Where in the body the model's name is, with its quotes.
    model_at: Range<usize>,
}

/// Reads the model's name and the wish for a stream; the rest is only checked to be JSON.
///
/// # Errors
/// When the body is not a JSON object with a string `model`; the fault names the field.
pub fn parse_generation(body: &Bytes) -> Result<ParsedGeneration, Fault> {
    #[derive(Deserialize)]
    struct Document<'a> {
        #[serde(borrow)]
        model: Option<&'a RawValue>,
        stream: Option<&'a RawValue>,
    }
    let wrong =
        |why: &dyn Display| Fault::invalid("body", format!("the body is not valid JSON: {why}"));
    // The parser does not look into what it skips, but an instance will.
    std::str::from_utf8(body).map_err(|error| wrong(&error))?;
    let document: Document<'_> = from_object(body).map_err(|error| wrong(&error))?;
    if is_too_deep(body) {
        let message = format!("the body is nested deeper than {MAX_DEPTH} levels");
        return Err(Fault::invalid("body", message));
    }
    let model = document.model.ok_or_else(missing_model)?.get();
    let name = model_name(model)?;
    let stream = match document.stream.map(RawValue::get) {
        None | Some("null" | "false") => false,
        Some("true") => true,
        Some(_) => return Err(Fault::invalid("stream", "'stream' must be true or false")),
    };
    Ok(ParsedGeneration { model: name.into_owned(), stream, model_at: place_of(model, body) })
}

impl ParsedGeneration {
    /// The body with another name for the model and every other byte as it was.
    #[must_use]
    pub fn with_model(&self, body: &Bytes, name: &str) -> Bytes {
        splice(body, &self.model_at, name)
    }
}

/// Where in `body` a part of it is.
pub(super) fn place_of(part: &str, body: &Bytes) -> Range<usize> {
    let start = (part.as_ptr() as usize).saturating_sub(body.as_ptr() as usize);
    start..start + part.len()
}

/// The body with a JSON string in the place of what is there, and every other byte as it was.
pub(super) fn splice(body: &Bytes, place: &Range<usize>, text: &str) -> Bytes {
    let before = body.get(..place.start).unwrap_or_default();
    let after = body.get(place.end..).unwrap_or_default();
    let mut spliced = BytesMut::with_capacity(body.len() + text.len() + 2);
    spliced.put_slice(before);
    // A string into memory: nothing that can fail.
    drop(serde_json::to_writer((&mut spliced).writer(), text));
    spliced.put_slice(after);
    spliced.freeze()
}

/// The name in a raw `model` value.
pub(super) fn model_name(text: &str) -> Result<Cow<'_, str>, Fault> {
    let name: String = serde_json::from_str(text)
        .map_err(|_| Fault::invalid("model", "'model' must be a string: the model's name"))?;
    if name.is_empty() {
        return Err(missing_model());
    }
    Ok(name.into())
}

pub(super) fn missing_model() -> Fault {
    Fault::invalid("model", "field 'model' is missing; it names the model that is to answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_is_spliced() {
        let text = r#"{"messages":[{"model":"no"}], "model" : "a\u0062" ,"x":1.00,"stream":true}"#;
        let body = Bytes::from_static(text.as_bytes());
        let parsed = parse_generation(&body).unwrap();
        assert_eq!((parsed.model.as_str(), parsed.stream), ("ab", true));
        let spliced = parsed.with_model(&body, "other\"name");
        assert_eq!(spliced, text.replace(r#""a\u0062""#, r#""other\"name""#));
    }

    #[test]
    fn wrong_requests_name_the_field() {
        for (text, field) in [
            ("", "body"),
            ("[]", "body"),
            (r#" ["a",true]"#, "body"),
            (
                &format!("{{\"model\":\"a\",\"x\":{}{}}}", "[".repeat(1000), "]".repeat(1000)),
                "body",
            ),
            (r#"{"model":"a","model":"b"}"#, "body"),
            ("{}", "model"),
            (r#"{"model":null}"#, "model"),
            (r#"{"model":""}"#, "model"),
            (r#"{"model":5}"#, "model"),
            (r#"{"model":"a","stream":"yes"}"#, "stream"),
        ] {
            let fault = parse_generation(&Bytes::copy_from_slice(text.as_bytes())).unwrap_err();
            assert_eq!(fault.field.as_deref(), Some(field), "{text}");
        }
        let latin = Bytes::from_static(b"{\"model\":\"a\",\"user\":\"\xe9\"}");
        assert!(parse_generation(&latin).unwrap_err().message.contains("utf-8"));
        let quiet = br#"{"model":"a","stream":null}"#;
        assert!(!parse_generation(&Bytes::from_static(quiet)).unwrap().stream);
    }
}
