//! Requests for text: forwarded whole, so that only the model's name, the wish for a stream and what
//! is said of urgency and usage are looked at.

use std::borrow::Cow;
use std::fmt::Display;
use std::ops::Range;

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::Deserialize;
use serde::de::{Deserializer as _, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;
use twox_hash::XxHash3_64;

use crate::call::Fault;
use crate::wire::depth::{MAX_DEPTH, is_too_deep};
use crate::wire::fields::{Fields, also_null, from_object};

/// What matters of a request for chat or completions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedGeneration {
    /// The model that the caller names.
    pub model: String,
    /// Whether the caller wants a stream of events.
    pub stream: bool,
    /// How urgent the caller says that it is; `None` for the default, and where that says nothing.
    pub service_tier: Option<ServiceTier>,
    /// The same for requests that begin alike, so that one engine's cache serves them; `None` for what
    /// is too short to be worth it.
    pub affinity: Option<u64>,
    /// Whether it asks for one text only and gives it no name.
    pub can_be_named: bool,
    /// Where in the body the model's name is, with its quotes.
    model_at: Range<usize>,
    /// What makes a stream tell its usage, and where it goes; `None` when it does so anyway, or cannot
    /// be made to.
    usage_wish: Option<(Range<usize>, &'static str)>,
}

/// How urgent a caller says that a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceTier {
    /// `flex`: it can wait.
    Flex,
    /// `priority`: it cannot.
    Priority,
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
        service_tier: Option<&'a RawValue>,
        messages: Option<&'a RawValue>,
        prompt: Option<&'a RawValue>,
        n: Option<&'a RawValue>,
        best_of: Option<&'a RawValue>,
        rid: Option<&'a RawValue>,
        #[serde(borrow, default, deserialize_with = "also_null")]
        stream_options: Option<&'a RawValue>,
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
    let service_tier = match document.service_tier.map(RawValue::get) {
        Some("\"flex\"") => Some(ServiceTier::Flex),
        Some("\"priority\"") => Some(ServiceTier::Priority),
        _ => None,
    };
    let is_one =
        |count: Option<&RawValue>| matches!(count.map(RawValue::get), None | Some("null" | "1"));
    let asks_for_one = is_one(document.n)
        && is_one(document.best_of)
        && document.prompt.is_none_or(|prompt| prompt.get().starts_with('"'));
    let options = document.stream_options.map(RawValue::get);
    let usage_wish = if stream { usage_wish(body, options) } else { None };
    Ok(ParsedGeneration {
        model: name.into_owned(),
        stream,
        service_tier,
        can_be_named: asks_for_one && document.rid.is_none(),
        affinity: match (document.messages, document.prompt) {
            (Some(messages), _) => affinity(first_messages(messages.get()).iter().copied()),
            (None, Some(prompt)) => affinity([prompt.get()].into_iter()),
            (None, None) => None,
        },
        model_at: place_of(model, body),
        usage_wish,
    })
}

/// So many bytes of what requests begin with tell where they are best served.
const TELLING_BYTES: usize = 512;
/// What begins with less is not worth a cache.
const LEAST_TELLING_BYTES: usize = 64;

/// The first two messages: a conversation that goes on still begins with them.
fn first_messages(list: &str) -> Vec<&str> {
    struct First;
    impl<'de> Visitor<'de> for First {
        type Value = Vec<&'de str>;

        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("a list of messages")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut first = Vec::with_capacity(2);
            while first.len() < 2
                && let Some(message) = list.next_element::<&RawValue>()?
            {
                first.push(message.get());
            }
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(first)
        }
    }
    // What is no list is the engine's to refuse.
    serde_json::Deserializer::from_str(list).deserialize_seq(First).unwrap_or_default()
}

/// A hash of what a request begins with.
fn affinity<'a>(texts: impl Iterator<Item = &'a str>) -> Option<u64> {
    let beginning: Vec<u8> = texts.flat_map(str::bytes).take(TELLING_BYTES).collect();
    (beginning.len() >= LEAST_TELLING_BYTES).then(|| XxHash3_64::oneshot(&beginning))
}

/// What has to be written where, so that a stream tells its usage.
///
/// Options that are not known may be about usage, too: they are left alone.
fn usage_wish(body: &Bytes, options: Option<&str>) -> Option<(Range<usize>, &'static str)> {
    let Some(options) = options else {
        let inside = body.iter().position(|&byte| byte == b'{')? + 1;
        return Some((inside..inside, "\"stream_options\":{\"include_usage\":true},"));
    };
    let place = place_of(options, body);
    if options == "null" {
        return Some((place, "{\"include_usage\":true}"));
    }
    let fields = Fields::parse(options.as_bytes()).ok()?;
    if fields.names().any(|name| !matches!(name, "include_usage" | "include_obfuscation")) {
        return None;
    }
    let inside = place.start + 1..place.start + 1;
    match fields.raw("include_usage") {
        Some("true") => None,
        Some(other) => Some((place_of(other, body), "true")),
        None if fields.names().next().is_none() => Some((inside, "\"include_usage\":true")),
        None => Some((inside, "\"include_usage\":true,")),
    }
}

impl ParsedGeneration {
    /// The body with another name for the model and every other byte as it was.
    #[must_use]
    pub fn with_model(&self, body: &Bytes, name: &str) -> Bytes {
        splice(body, &self.model_at, name)
    }

    /// The body with another name for the model, if one is given, and the wish that the stream tells its
    /// usage; every other byte as it was. `None` when that need not or cannot be wished for.
    #[must_use]
    pub fn with_usage(&self, body: &Bytes, name: Option<&str>) -> Option<Bytes> {
        let (place, wish) = self.usage_wish.as_ref()?;
        let name = name.map(|name| serde_json::Value::from(name).to_string());
        let mut edits = vec![(place, *wish)];
        edits.extend(name.as_deref().map(|name| (&self.model_at, name)));
        edits.sort_by_key(|(place, _)| place.start);
        let more: usize = edits.iter().map(|(_, text)| text.len()).sum();
        let mut edited = BytesMut::with_capacity(body.len() + more);
        let mut from = 0;
        for (place, text) in edits {
            edited.put_slice(body.get(from..place.start)?);
            edited.put_slice(text.as_bytes());
            from = place.end;
        }
        edited.put_slice(body.get(from..)?);
        Some(edited.freeze())
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
    fn what_begins_alike_has_the_same_affinity() {
        let affinity = |text: &str| {
            parse_generation(&Bytes::copy_from_slice(text.as_bytes())).unwrap().affinity
        };
        let chat =
            |messages: &str| affinity(&format!(r#"{{"model":"m","messages":[{messages}]}}"#));
        let message = |role: &str, text: &str| format!(r#"{{"role":"{role}","content":"{text}"}}"#);
        let (system, first) = (message("system", &"be kind ".repeat(8)), message("user", "hello"));
        let turn = chat(&format!("{system},{first}"));
        assert!(turn.is_some());
        let later = message("assistant", "hm");
        assert_eq!(chat(&format!("{system}, {first}, {later}, {first}")), turn);
        assert_ne!(chat(&format!("{system},{later}")), turn);
        assert_eq!(chat(&first), None, "too short to be worth it");
        let long = "once upon a time ".repeat(40);
        let prompt = |text: &str| affinity(&format!(r#"{{"model":"m","prompt":"{text}"}}"#));
        assert!(prompt(&long).is_some());
        assert_eq!(prompt(&format!("{long} there")), prompt(&format!("{long} here")));
        assert_eq!(affinity(r#"{"model":"m","messages":"no list"}"#), None);
    }

    #[test]
    fn one_text_without_a_name_can_be_named() {
        for (fields, expected) in [
            ("\"messages\":[]", true),
            ("\"prompt\":\"a\",\"n\":1,\"best_of\":null", true),
            ("\"n\":2", false),
            ("\"best_of\":2", false),
            ("\"prompt\":[\"a\",\"b\"]", false),
            ("\"prompt\":[1,2]", false),
            ("\"rid\":\"mine\"", false),
        ] {
            let body = Bytes::from(format!("{{\"model\":\"m\",{fields}}}"));
            assert_eq!(parse_generation(&body).unwrap().can_be_named, expected, "{fields}");
        }
    }

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
    fn parsed(text: &str) -> (Bytes, ParsedGeneration) {
        let body = Bytes::copy_from_slice(text.as_bytes());
        let parsed = parse_generation(&body).unwrap();
        (body, parsed)
    }

    #[test]
    fn usage_is_asked_for_with_every_other_byte_as_it_was() {
        const WISH: &str = r#""stream_options":{"include_usage":true},"#;
        let asked = |text: &str, name| {
            let (body, parsed) = parsed(text);
            let asked = parsed.with_usage(&body, name)?;
            assert!(serde_json::from_slice::<serde_json::Value>(&asked).is_ok(), "{asked:?}");
            Some(String::from_utf8(asked.to_vec()).unwrap())
        };
        for (text, expected) in [
            (r#" { "stream":true,"model":"m" }"#, format!(r#" {{{WISH} "stream":true,"model":"m" }}"#)),
            (
                r#"{"model":"m","stream":true,"stream_options" : null}"#,
                r#"{"model":"m","stream":true,"stream_options" : {"include_usage":true}}"#.to_owned(),
            ),
            (
                r#"{"stream_options":{ },"stream":true,"model":"m"}"#,
                r#"{"stream_options":{"include_usage":true },"stream":true,"model":"m"}"#.to_owned(),
            ),
            (
                r#"{"model":"m","stream":true,"stream_options":{"include_obfuscation":false}}"#,
                r#"{"model":"m","stream":true,"stream_options":{"include_usage":true,"include_obfuscation":false}}"#
                    .to_owned(),
            ),
            (
                r#"{"model":"m","stream":true,"stream_options":{"include_usage":false}}"#,
                r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#.to_owned(),
            ),
        ] {
            assert_eq!(asked(text, None).as_deref(), Some(expected.as_str()));
            let renamed = expected.replace(r#""m""#, r#""n\"""#);
            assert_eq!(asked(text, Some("n\"")), Some(renamed));
        }
        for text in [
            r#"{"model":"m"}"#,
            r#"{"model":"m","stream":false}"#,
            r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#,
            r#"{"model":"m","stream":true,"stream_options":{"continuous_usage_stats":true}}"#,
            r#"{"model":"m","stream":true,"stream_options":7}"#,
            r#"{"model":"m","stream":true,"stream_options":{"include_usage":false,"include_usage":false}}"#,
        ] {
            assert_eq!(asked(text, None), None, "{text}");
        }
    }

    #[test]
    fn service_tiers_are_read_and_others_left_to_the_instance() {
        let tier = |value: &str| {
            parsed(&format!(r#"{{"model":"m","service_tier":{value}}}"#)).1.service_tier
        };
        assert_eq!(tier("\"flex\""), Some(ServiceTier::Flex));
        assert_eq!(tier("\"priority\""), Some(ServiceTier::Priority));
        for other in ["\"auto\"", "\"default\"", "\"scale\"", "null", "7"] {
            assert_eq!(tier(other), None);
        }
    }
}
