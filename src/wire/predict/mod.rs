//! KServe v1, which is TensorFlow Serving's REST: `instances` in, `predictions` out.
//!
//! Both sides are here: a front parses requests and writes replies, a client of an instance writes
//! requests and parses replies. [`tensors`] lets models that speak tensors answer this protocol.

pub mod tensors;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::ReplyError;
use super::fields::{Fields, bounded_items, from_object, list_items};
use crate::call::{Fault, ItemsAnswer, ItemsRequest, ItemsRoute};
use crate::tensor::Rope;

/// Reads a request.
///
/// # Errors
/// When it is not a JSON object with a list `instances` of at least one item.
pub fn parse_request(body: Bytes) -> Result<ItemsRequest, Fault> {
    let fields = Fields::parse(&body).map_err(|error| {
        Fault::invalid("body", format!("the body is not a prediction request in JSON: {error}"))
    })?;
    let Some(instances) = fields.get("instances") else {
        let message = if fields.get("inputs").is_some() {
            "'inputs' (the column format) is not supported; send the list 'instances', one item \
             for each row"
        } else {
            "field 'instances' is missing; send {\"instances\": [...]}, one item for each row"
        };
        return Err(Fault::invalid("instances", message));
    };
    let items = list_items(instances)
        .map_err(|error| Fault::invalid("instances", format!("'instances' {error}")))?;
    let items = items.into_iter().map(|item| body.slice_ref(item.as_bytes())).collect();
    let options = fields.without(&["instances", "model"]);
    Ok(ItemsRequest { route: ItemsRoute::Predict, items, options, body: Some(body) })
}

/// Writes a request for an instance: the body as it came while it still says the same.
pub fn write_request(request: &ItemsRequest) -> Rope {
    if let Some(body) = &request.body {
        return Rope::from(body.clone());
    }
    let mut body = list_body("{\"instances\":[", &request.items);
    body.push(Bytes::from_static(b"]"));
    if !request.options.is_empty() {
        body.push(Bytes::from_static(b","));
        body.push(request.options.clone());
    }
    body.push(Bytes::from_static(b"}"));
    body
}

/// Reads an instance's reply: the text of each prediction.
///
/// # Errors
/// When it is not a JSON object with a list `predictions` of `rows` members.
pub fn parse_reply(body: &Bytes, rows: usize) -> Result<Vec<Bytes>, ReplyError> {
    #[derive(Deserialize)]
    struct Reply<'a> {
        #[serde(borrow)]
        predictions: &'a RawValue,
    }
    let reply: Reply<'_> = from_object(body).map_err(|error| ReplyError::json(&error))?;
    let predictions = bounded_items(reply.predictions.get(), rows)
        .map_err(|_| ReplyError(format!("'predictions' is not a list of {rows} members")))?;
    if predictions.len() != rows {
        let got = predictions.len();
        return Err(ReplyError(format!("{got} predictions for {rows} instances")));
    }
    Ok(predictions.into_iter().map(|item| body.slice_ref(item.as_bytes())).collect())
}

/// Writes the reply to a caller: the instance's own body when it was this call's alone.
pub fn write_reply(answer: &ItemsAnswer) -> Rope {
    if let Some(body) = &answer.body {
        return Rope::from(body.clone());
    }
    let mut body = list_body("{\"predictions\":[", &answer.items);
    body.push(Bytes::from_static(b"]}"));
    body
}

/// Short items are copied into one segment: a segment for each would cost more than the copy.
const SHORT: usize = 4096;

/// `start`, then the items with commas between.
pub(in crate::wire) fn list_body(start: &str, items: &[Bytes]) -> Rope {
    let mut body = Rope::new();
    let mut pending = Vec::with_capacity(256);
    pending.extend_from_slice(start.as_bytes());
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            pending.push(b',');
        }
        if item.len() <= SHORT {
            pending.extend_from_slice(item);
        } else {
            body.push(std::mem::take(&mut pending).into());
            body.push(item.clone());
        }
    }
    body.push(pending.into());
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &'static str) -> Result<ItemsRequest, Fault> {
        parse_request(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn a_request_goes_through_byte_for_byte_or_is_put_together_again() {
        let text = r#"{"signature_name" : "serving", "instances":[ {"a": 1.0}, [2]], "x":null}"#;
        let mut request = parse(text).unwrap();
        assert_eq!(request.items, [r#"{"a": 1.0}"#, "[2]"]);
        assert_eq!(write_request(&request).to_bytes(), text);
        request.body = None;
        let written = write_request(&request).to_bytes();
        let expected = r#"{"instances":[{"a": 1.0},[2]],"signature_name":"serving","x":null}"#;
        assert_eq!(written, expected);
        let again = parse_request(written).unwrap();
        assert_eq!((again.items, again.options), (request.items, request.options));
    }

    #[test]
    fn long_items_stay_slices_of_the_body() {
        let text = format!("{{\"instances\":[\"{}\"]}}", "x".repeat(SHORT));
        let mut request = parse_request(Bytes::from(text.clone())).unwrap();
        request.body = None;
        let written = write_request(&request);
        assert_eq!(written.segments()[1].as_ptr(), request.items[0].as_ptr());
        assert_eq!(written.to_bytes(), text);
    }

    #[test]
    fn wrong_requests_name_the_field() {
        for (text, field, word) in [
            ("[1]", "body", "object"),
            ("{}", "instances", "missing"),
            (r#"{"inputs":[1]}"#, "instances", "column"),
            (r#"{"instances":[]}"#, "instances", "empty"),
            (r#"{"instances":5}"#, "instances", "list"),
        ] {
            let fault = parse(text).unwrap_err();
            assert_eq!(fault.field.as_deref(), Some(field), "{text}");
            assert!(fault.message.contains(word), "{text}: {fault}");
        }
    }

    #[test]
    fn a_reply_needs_a_prediction_for_each_row() {
        let body = Bytes::from_static(br#"{"predictions": [ [1.50], {"a":2} ], "extra": 1}"#);
        let items = parse_reply(&body, 2).unwrap();
        assert_eq!(items, ["[1.50]", r#"{"a":2}"#]);
        let answer = ItemsAnswer { items, ..ItemsAnswer::default() };
        assert_eq!(write_reply(&answer).to_bytes(), r#"{"predictions":[[1.50],{"a":2}]}"#);
        let whole = ItemsAnswer { body: Some(body.clone()), ..answer };
        assert_eq!(write_reply(&whole).to_bytes(), body);
        for rows in [1, 3] {
            assert!(parse_reply(&body, rows).is_err());
        }
        assert!(parse_reply(&Bytes::from_static(b"{\"error\":\"x\"}"), 1).is_err());
        assert!(parse_reply(&Bytes::from_static(b"[[1]]"), 1).is_err());
    }
}
