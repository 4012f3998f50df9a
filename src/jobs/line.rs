//! A line of an input: one request.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::endpoint::Endpoint;
use super::record::LineError;

/// Characters of the longest `custom_id`.
const LONGEST_CUSTOM_ID: usize = 512;
/// How much of a caller's own text a message repeats.
const QUOTED: usize = 100;

/// A request of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RequestLine<'a> {
    pub(super) custom_id: Cow<'a, str>,
    pub(super) model: Cow<'a, str>,
    /// What is sent to the endpoint, as it was written.
    pub(super) body: &'a str,
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    custom_id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<&'a RawValue>,
    #[serde(borrow)]
    url: Option<&'a RawValue>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct BodyDocument<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    stream: Option<&'a RawValue>,
}

impl<'a> RequestLine<'a> {
    /// Reads a line of an input for `endpoint`.
    pub(super) fn parse(text: &'a [u8], endpoint: Endpoint) -> Result<Self, LineError> {
        let text = std::str::from_utf8(text)
            .map_err(|error| invalid_json(&format!("it is not UTF-8: {error}")))?;
        if !text.trim_ascii_start().starts_with('{') {
            return Err(invalid_json("it is not an object"));
        }
        let document: Document<'_> =
            serde_json::from_str(text).map_err(|error| invalid_json(&error.to_string()))?;
        let custom_id = custom_id(document.custom_id)?;
        let method = required_text(document.method, "method")?;
        if method != "POST" {
            let message = format!("method is {}, but must be \"POST\"", quoted(&method));
            return Err(wrong("invalid_method", message, "method"));
        }
        let url = required_text(document.url, "url")?;
        let path = endpoint.path();
        if url != path {
            let message =
                format!("url is {}, but the endpoint of the batch is {path}", quoted(&url));
            return Err(wrong("url_mismatch", message, "url"));
        }
        let body = document.body.ok_or_else(|| missing("body"))?.get();
        if !body.starts_with('{') {
            let message = "body must be an object: the request to the endpoint".to_owned();
            return Err(wrong("invalid_type", message, "body"));
        }
        let document: BodyDocument<'_> =
            serde_json::from_str(body).map_err(|error| invalid_json(&error.to_string()))?;
        let model = required_text(document.model, "body.model")?;
        match document.stream.map(RawValue::get) {
            None | Some("null" | "false") => Ok(Self { custom_id, model, body }),
            Some(_) => {
                let message = "'stream' must be false in a batch".to_owned();
                Err(wrong("invalid_parameter", message, "body.stream"))
            }
        }
    }
}

fn custom_id(value: Option<&RawValue>) -> Result<Cow<'_, str>, LineError> {
    let custom_id = required_text(value, "custom_id")?;
    if custom_id.is_empty() || custom_id.chars().count() > LONGEST_CUSTOM_ID {
        let message = format!("custom_id must have 1 to {LONGEST_CUSTOM_ID} characters");
        return Err(wrong("invalid_custom_id", message, "custom_id"));
    }
    Ok(custom_id)
}

fn required_text<'a>(
    value: Option<&'a RawValue>,
    param: &'static str,
) -> Result<Cow<'a, str>, LineError> {
    let value = value.ok_or_else(|| missing(param))?.get();
    // Borrowed where there is nothing to unescape.
    #[derive(Deserialize)]
    struct Text<'t>(#[serde(borrow)] Cow<'t, str>);
    let text: Result<Text<'a>, _> = serde_json::from_str(value);
    text.map(|text| text.0)
        .map_err(|_| wrong("invalid_type", format!("{param} must be a string"), param))
}

fn missing(param: &str) -> LineError {
    wrong("missing_required_parameter", format!("{param} is missing"), param)
}

fn invalid_json(why: &str) -> LineError {
    LineError {
        code: "invalid_json_line".into(),
        message: format!("the line cannot be read as a JSON object: {why}"),
        param: None,
        line: None,
    }
}

pub(super) fn wrong(code: &str, message: String, param: &str) -> LineError {
    LineError { code: code.into(), message, param: Some(param.into()), line: None }
}

/// A caller's own text, fit for a message.
pub(super) fn quoted(text: &str) -> String {
    let shown: String = text.chars().take(QUOTED).flat_map(char::escape_debug).collect();
    let more = if text.chars().nth(QUOTED).is_some() { "..." } else { "" };
    format!("\"{shown}{more}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: Endpoint = Endpoint::Embeddings;

    #[test]
    fn a_request_is_read_with_its_body_as_it_was_written() {
        let text = br#" {"custom_id":"a\u0062","method":"POST","url":"/v1/embeddings","more":[1],
            "body": {"model":"m" ,"input": [1.00], "stream":null}} "#;
        let line = RequestLine::parse(text, ENDPOINT).unwrap();
        assert_eq!((line.custom_id.as_ref(), line.model.as_ref()), ("ab", "m"));
        assert_eq!(line.body, r#"{"model":"m" ,"input": [1.00], "stream":null}"#);
    }

    #[test]
    fn every_mistake_has_its_code() {
        let line = |id: &str, method: &str, url: &str, body: &str| {
            format!(r#"{{"custom_id":{id},"method":{method},"url":{url},"body":{body}}}"#)
        };
        let (id, post, url, body) =
            ("\"a\"", "\"POST\"", "\"/v1/embeddings\"", "{\"model\":\"m\"}");
        assert!(RequestLine::parse(line(id, post, url, body).as_bytes(), ENDPOINT).is_ok());
        let long = format!("\"{}\"", "x".repeat(513));
        let cases = [
            (b"{".to_vec(), "invalid_json_line"),
            (b"[1]".to_vec(), "invalid_json_line"),
            (b"\xff".to_vec(), "invalid_json_line"),
            (br#"{"custom_id":"a","custom_id":"b"}"#.to_vec(), "invalid_json_line"),
            (b"{}".to_vec(), "missing_required_parameter"),
            (line("null", post, url, body).into(), "missing_required_parameter"),
            (line("7", post, url, body).into(), "invalid_type"),
            (line("\"\"", post, url, body).into(), "invalid_custom_id"),
            (line(&long, post, url, body).into(), "invalid_custom_id"),
            (line(id, "\"GET\"", url, body).into(), "invalid_method"),
            (line(id, post, "\"/v1/files\"", body).into(), "url_mismatch"),
            (line(id, post, "\"/v1/completions\"", body).into(), "url_mismatch"),
            (line(id, post, url, "[]").into(), "invalid_type"),
            (line(id, post, url, "{}").into(), "missing_required_parameter"),
            (line(id, post, url, "{\"model\":1}").into(), "invalid_type"),
            (line(id, post, url, r#"{"model":"m","stream":true}"#).into(), "invalid_parameter"),
        ];
        for (text, code) in cases {
            let error = RequestLine::parse(&text, ENDPOINT).unwrap_err();
            assert_eq!(error.code, code, "{}", String::from_utf8_lossy(&text));
        }
    }
}
