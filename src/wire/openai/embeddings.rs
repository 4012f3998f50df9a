//! Embeddings: `input` in, `data` out.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::encoding::append_embedding;
use super::generation::{missing_model, model_name, place_of, splice};
use crate::call::{Fault, ItemsAnswer, ItemsRequest, ItemsRoute, Usage};
use crate::tensor::Rope;
use crate::wire::ReplyError;
use crate::wire::fields::{Fields, bounded_items, from_object, list_items};
use crate::wire::predict::list_body;

/// A request for embeddings as it came in.
#[derive(Clone, Debug)]
pub struct ParsedEmbeddings {
    /// The model that the caller names.
    pub model: String,
    /// The texts, or lists of tokens, to be embedded.
    pub request: ItemsRequest,
    /// Whether the caller wants base64; otherwise lists of numbers.
    pub wants_base64: bool,
}

/// Reads a request.
///
/// `input` is a text, a list of tokens (one item each), or a list of either.
///
/// # Errors
/// When the body is not such a request; the fault names the field.
pub fn parse_embeddings(body: Bytes) -> Result<ParsedEmbeddings, Fault> {
    let fields = Fields::parse(&body).map_err(|error| {
        Fault::invalid("body", format!("the body is not a valid JSON object: {error}"))
    })?;
    let model = model_name(fields.get("model").ok_or_else(missing_model)?)?.into_owned();
    let wants_base64 = match fields.get("encoding_format") {
        None | Some("\"float\"") => false,
        Some("\"base64\"") => true,
        Some(_) => {
            let message = "'encoding_format' must be \"float\" or \"base64\"";
            return Err(Fault::invalid("encoding_format", message));
        }
    };
    let input = fields.get("input").ok_or_else(|| {
        Fault::invalid("input", "field 'input' is missing; send a text or a list of texts")
    })?;
    let items = input_items("input", input)?;
    let items = items.into_iter().map(|item| body.slice_ref(item.as_bytes())).collect();
    let options = fields.without(&["model", "input"]);
    let request = ItemsRequest { route: ItemsRoute::Embeddings, items, options, body: Some(body) };
    Ok(ParsedEmbeddings { model, request, wants_base64 })
}

/// The items of a text, a list of tokens (one item), or a list of either, in the field `name`.
pub(super) fn input_items<'a>(name: &'static str, input: &'a str) -> Result<Vec<&'a str>, Fault> {
    let wrong = |why: &str| Fault::invalid(name, format!("'{name}' {why}"));
    if input.starts_with('"') {
        return Ok(vec![input]);
    }
    let first = input.strip_prefix('[').map(str::trim_start).unwrap_or_default();
    if first.starts_with(is_number_start) {
        let mut tokens = serde_json::Deserializer::from_str(input);
        return match TokenList::deserialize(&mut tokens) {
            Ok(TokenList) => Ok(vec![input]),
            Err(_) => Err(wrong("begins with a number, so it must be a list of token numbers")),
        };
    }
    let items = list_items(input).map_err(|error| wrong(&error.to_string()))?;
    let odd = items.iter().position(|item| !item.starts_with(['"', '[', '{']));
    match odd {
        None => Ok(items),
        Some(index) => Err(Fault::invalid(
            format!("{name}[{index}]"),
            format!("'{name}[{index}]' must be a text or a list of token numbers"),
        )),
    }
}

fn is_number_start(first: char) -> bool {
    first.is_ascii_digit() || first == '-'
}

/// A list of whole numbers, looked through without keeping it.
struct TokenList;

impl<'de> Deserialize<'de> for TokenList {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tokens;
        impl<'de> serde::de::Visitor<'de> for Tokens {
            type Value = TokenList;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a list of token numbers")
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut list: A,
            ) -> Result<TokenList, A::Error> {
                while list.next_element::<u64>()?.is_some() {}
                Ok(TokenList)
            }
        }
        deserializer.deserialize_seq(Tokens)
    }
}

/// Writes a request for an instance that knows the model as `model`.
///
/// The body goes as it came while it still says the same; a front that serves the model under
/// another name has to take it out of `request`.
pub fn write_embeddings_request(request: &ItemsRequest, model: &str) -> Rope {
    if let Some(body) = &request.body {
        return Rope::from(body.clone());
    }
    let model = serde_json::Value::from(model);
    let mut body = list_body(&format!("{{\"model\":{model},\"input\":["), &request.items);
    body.push(Bytes::from_static(b"]"));
    if !request.options.is_empty() {
        body.push(Bytes::from_static(b","));
        body.push(request.options.clone());
    }
    body.push(Bytes::from_static(b"}"));
    body
}

#[derive(Deserialize)]
struct ReplyDocument<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
    usage: Option<UsageDocument>,
}

#[derive(Deserialize)]
struct UsageDocument {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    total_tokens: u64,
}

#[derive(Deserialize)]
struct EmbeddingDocument<'a> {
    index: Option<usize>,
    #[serde(borrow)]
    embedding: &'a RawValue,
}

/// Reads an instance's reply: the text of each embedding in the order of the request's items, and
/// what they cost.
///
/// # Errors
/// When it has not exactly one embedding for each of `rows` items.
pub fn parse_embeddings_reply(
    body: &Bytes,
    rows: usize,
) -> Result<(Vec<Bytes>, Option<Usage>), ReplyError> {
    let reply: ReplyDocument<'_> = from_object(body).map_err(|error| ReplyError::json(&error))?;
    let members = bounded_items(reply.data.get(), rows)
        .map_err(|_| ReplyError(format!("'data' is not a list of {rows} embeddings")))?;
    if members.len() != rows {
        return Err(ReplyError(format!("{} embeddings for {rows} inputs", members.len())));
    }
    let mut items = vec![Bytes::new(); rows];
    for (place, member) in members.into_iter().enumerate() {
        let member: EmbeddingDocument<'_> =
            serde_json::from_str(member).map_err(|error| ReplyError::json(&error))?;
        let index = member.index.unwrap_or(place);
        let slot = items.get_mut(index).filter(|slot| slot.is_empty()).ok_or_else(|| {
            ReplyError(format!(
                "'data[{place}]' has the index {index}, which is taken or too large"
            ))
        })?;
        *slot = body.slice_ref(member.embedding.get().as_bytes());
    }
    let usage = reply.usage.map(|usage| Usage {
        prompt_tokens: usage.prompt_tokens,
        total_tokens: usage.total_tokens,
    });
    Ok((items, usage))
}

/// Writes the reply to a caller who named the model `model`, which instances know as
/// `upstream_name`.
///
/// The instance's own body goes as it came, but for the model's name, when it was this call's alone
/// and its embeddings have the form that was asked for. Some instances ignore `encoding_format`,
/// and some clients decode what they asked for without looking, so a form that differs is
/// converted. A reply without usage gets zeros: clients read it unasked.
///
/// # Errors
/// When an embedding is in neither form.
pub fn write_embeddings_reply(
    model: &str,
    upstream_name: &str,
    answer: &ItemsAnswer,
    wants_base64: bool,
) -> Result<Rope, ReplyError> {
    let wanted_start = if wants_base64 { b'"' } else { b'[' };
    let as_wanted = answer.items.iter().all(|item| item.first() == Some(&wanted_start));
    if let Some(body) = answer.body.as_ref().filter(|_| as_wanted) {
        return Ok(Rope::from(renamed(body, model, upstream_name)));
    }
    let mut body = Rope::new();
    let mut pending = b"{\"object\":\"list\",\"data\":[".to_vec();
    for (index, item) in answer.items.iter().enumerate() {
        let start = if index > 0 { "," } else { "" };
        let start = format!("{start}{{\"object\":\"embedding\",\"index\":{index},\"embedding\":");
        pending.extend_from_slice(start.as_bytes());
        if item.first() == Some(&wanted_start) {
            body.push(std::mem::take(&mut pending).into());
            body.push(item.clone());
        } else {
            append_embedding(&mut pending, item, wants_base64)?;
        }
        pending.push(b'}');
    }
    let Usage { prompt_tokens, total_tokens } = answer.usage.unwrap_or_default();
    let model = serde_json::Value::from(model);
    let end = format!(
        "],\"model\":{model},\"usage\":{{\"prompt_tokens\":{prompt_tokens},\
         \"total_tokens\":{total_tokens}}}}}"
    );
    pending.extend_from_slice(end.as_bytes());
    body.push(pending.into());
    Ok(body)
}

/// The body with the model under the name that its caller uses.
pub(super) fn renamed(body: &Bytes, model: &str, upstream_name: &str) -> Bytes {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        model: &'a RawValue,
    }
    if model == upstream_name {
        return body.clone();
    }
    let Ok(Named { model: named }) = serde_json::from_slice(body) else { return body.clone() };
    let is_upstream_name =
        serde_json::from_str::<Cow<'_, str>>(named.get()).is_ok_and(|it| it == upstream_name);
    if !is_upstream_name {
        return body.clone();
    }
    splice(body, &place_of(named.get(), body), model)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &'static str) -> Result<ParsedEmbeddings, Fault> {
        parse_embeddings(Bytes::from_static(text.as_bytes()))
    }

    fn items(text: &'static str) -> Vec<Bytes> {
        parse(text).unwrap().request.items
    }

    #[test]
    fn every_form_of_input_has_its_items() {
        assert_eq!(items(r#"{"model":"m","input":"a b"}"#), ["\"a b\""]);
        assert_eq!(items(r#"{"model":"m","input":["a","b"]}"#), ["\"a\"", "\"b\""]);
        assert_eq!(items(r#"{"model":"m","input": [ 1,2 ]}"#), ["[ 1,2 ]"]);
        assert_eq!(items(r#"{"model":"m","input":[[1],[2,3]]}"#), ["[1]", "[2,3]"]);
    }

    #[test]
    fn a_request_goes_through_byte_for_byte_or_is_put_together_again() {
        let text =
            r#"{"input":"a", "model":"m","dimensions":3,"encoding_format":"base64","u":[1]}"#;
        let mut parsed = parse(text).unwrap();
        assert!(parsed.wants_base64);
        assert_eq!(write_embeddings_request(&parsed.request, "n").to_bytes(), text);
        parsed.request.body = None;
        let expected =
            r#"{"model":"n","input":["a"],"dimensions":3,"encoding_format":"base64","u":[1]}"#;
        assert_eq!(write_embeddings_request(&parsed.request, "n").to_bytes(), expected);
    }

    #[test]
    fn wrong_requests_name_the_field() {
        for (text, field) in [
            ("{", "body"),
            (r#"{"input":"a"}"#, "model"),
            (r#"{"model":"m"}"#, "input"),
            (r#"{"model":"m","input":[]}"#, "input"),
            (r#"{"model":"m","input":5}"#, "input"),
            (r#"{"model":"m","input":[1,"a"]}"#, "input"),
            (r#"{"model":"m","input":[1.5]}"#, "input"),
            (r#"{"model":"m","input":["a",1]}"#, "input[1]"),
            (r#"{"model":"m","input":["a",null]}"#, "input[1]"),
            (r#"{"model":"m","input":"a","encoding_format":"hex"}"#, "encoding_format"),
        ] {
            assert_eq!(parse(text).unwrap_err().field.as_deref(), Some(field), "{text}");
        }
    }

    #[test]
    fn a_reply_is_put_in_the_order_of_the_items() {
        let body = Bytes::from_static(
            br#"{"data":[{"index":1,"embedding":"AAAAPw=="},{"embedding":[1.50],"index":0}],
                "usage":{"prompt_tokens":3,"total_tokens":4}}"#,
        );
        let (items, usage) = parse_embeddings_reply(&body, 2).unwrap();
        assert_eq!(items, ["[1.50]", "\"AAAAPw==\""]);
        assert_eq!(usage, Some(Usage { prompt_tokens: 3, total_tokens: 4 }));
        assert!(parse_embeddings_reply(&body, 1).is_err());
        assert!(parse_embeddings_reply(&body, 3).is_err());
        let twice = br#"{"data":[{"index":0,"embedding":[1]},{"index":0,"embedding":[2]}]}"#;
        assert!(parse_embeddings_reply(&Bytes::from_static(twice), 2).is_err());
    }

    #[test]
    fn each_caller_gets_the_form_that_it_asked_for() {
        let answer = ItemsAnswer {
            items: vec![Bytes::from_static(b"[0.5]"), Bytes::from_static(b"\"AACAPw==\"")],
            usage: Some(Usage { prompt_tokens: 3, total_tokens: 4 }),
            body: None,
        };
        let text = |wants| write_embeddings_reply("m", "m", &answer, wants).unwrap().to_bytes();
        let usage = r#""model":"m","usage":{"prompt_tokens":3,"total_tokens":4}}"#;
        let expected = |one, two| {
            format!(
                r#"{{"object":"list","data":[{{"object":"embedding","index":0,"embedding":{one}}},{{"object":"embedding","index":1,"embedding":{two}}}],{usage}"#
            )
        };
        assert_eq!(text(false), expected("[0.5]", "[1.0]"));
        assert_eq!(text(true), expected("\"AAAAPw==\"", "\"AACAPw==\""));
    }

    #[test]
    fn an_own_body_goes_as_it_came_but_for_form_and_name() {
        let source = r#"{ "data":[{"embedding":[0.50],"index":0}], "model":"m" , "x":1}"#;
        let body = Bytes::from_static(source.as_bytes());
        let (items, usage) = parse_embeddings_reply(&body, 1).unwrap();
        let answer = ItemsAnswer { items, usage, body: Some(body) };
        let text = |model, upstream_name, wants| {
            write_embeddings_reply(model, upstream_name, &answer, wants).unwrap().to_bytes()
        };
        assert_eq!(text("m", "m", false), source);
        assert_eq!(text("n", "m", false), source.replace("\"m\"", "\"n\""));
        // A name that is neither is the instance's own business.
        assert_eq!(text("n", "o", false), source);
        assert!(String::from_utf8_lossy(&text("m", "m", true)).contains("AAAAPw=="));
    }
}
