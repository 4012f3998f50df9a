//! OpenAI embedding calls, answered by feature hashing.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use super::bad_request::{self, BadRequest};
use super::hashing::{HashingEmbedder, MAX_DIMENSIONS, approximate_tokens};

const ITEM: &str = "a string or a list of token ids";
const TOKEN: &str = "token ids from 0 to 4294967295";

/// What the items of an embedding call come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Embeddings {
    /// For each item the JSON of its vector: a list of numbers, or a base64 string of
    /// little-endian FP32.
    pub items: Vec<Bytes>,
    /// Tokens read; approximate for texts.
    pub prompt_tokens: u64,
}

#[derive(Deserialize)]
struct Options {
    dimensions: Option<Value>,
    encoding_format: Option<Value>,
}

/// Embeds the items of `input`, each the JSON of a string or of a list of token ids.
///
/// `options` are the other fields of the request as `"key":value` pairs joined by commas:
/// `dimensions` (default 256) and `encoding_format` (`float`, the default, or `base64`) are
/// honoured, all others are skipped.
///
/// # Errors
/// When an item or an option is not as it should be; the error names the field. It does not tell
/// which item: the items may be those of several callers.
pub fn embed_items<'a>(
    items: impl IntoIterator<Item = &'a [u8]>,
    options: &[u8],
) -> Result<Embeddings, BadRequest> {
    let options: Options = bad_request::parse_object(&[b"{", options, b"}"].concat())?;
    let embedder = embedder(options.dimensions.as_ref())?;
    let base64 = wants_base64(options.encoding_format.as_ref())?;
    let mut embeddings = Embeddings { items: Vec::new(), prompt_tokens: 0 };
    for item in items {
        let (vector, tokens) = embed(embedder, &bad_request::parse(item)?)?;
        embeddings.items.push(if base64 { encoded(&vector) } else { super::json(&vector) });
        embeddings.prompt_tokens = embeddings.prompt_tokens.saturating_add(tokens as u64);
    }
    Ok(embeddings)
}

/// The vector of an item, and its tokens.
fn embed(embedder: HashingEmbedder, item: &Value) -> Result<(Vec<f32>, usize), BadRequest> {
    let embedded = match item {
        Value::String(text) => (embedder.embed(text), approximate_tokens(text)),
        Value::Array(ids) => {
            let ids = token_ids(ids)?;
            (embedder.embed_tokens(&ids), ids.len())
        }
        other => return Err(BadRequest::wrong_type("input", other, ITEM)),
    };
    let (vector, tokens) = embedded;
    let vector = vector
        .map_err(|error| BadRequest::out_of_range("input", &"too long", error.to_string()))?;
    Ok((vector, tokens))
}

fn token_ids(list: &[Value]) -> Result<Vec<u32>, BadRequest> {
    if list.is_empty() {
        return Err(BadRequest::out_of_range("input", &"an empty list", ITEM));
    }
    let id = |value: &Value| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| BadRequest::out_of_range("input", &format!("a list with {value}"), TOKEN))
    };
    list.iter().map(id).collect()
}

fn embedder(dimensions: Option<&Value>) -> Result<HashingEmbedder, BadRequest> {
    let Some(dimensions) = bad_request::count("dimensions", dimensions)? else {
        return Ok(HashingEmbedder::default());
    };
    HashingEmbedder::new(dimensions).map_err(|_| {
        let expected = format!("1 to {MAX_DIMENSIONS}");
        BadRequest::out_of_range("dimensions", &dimensions, expected)
    })
}

fn wants_base64(format: Option<&Value>) -> Result<bool, BadRequest> {
    const PARAM: &str = "encoding_format";
    const EXPECTED: &str = "\"float\" or \"base64\"";
    match format {
        None | Some(Value::Null) => Ok(false),
        Some(Value::String(format)) if format == "float" => Ok(false),
        Some(Value::String(format)) if format == "base64" => Ok(true),
        Some(Value::String(other)) => Err(BadRequest::out_of_range(PARAM, &other, EXPECTED)),
        Some(other) => Err(BadRequest::wrong_type(PARAM, other, EXPECTED)),
    }
}

fn encoded(vector: &[f32]) -> Bytes {
    let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
    super::json(&BASE64_STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embed_texts(items: &[&str], options: &str) -> Result<Embeddings, BadRequest> {
        embed_items(items.iter().map(|item| item.as_bytes()), options.as_bytes())
    }

    #[test]
    fn vectors_come_as_numbers_or_as_base64() {
        let numbers = embed_texts(&["\"a cat\""], "\"dimensions\":8").unwrap();
        let numbers: Vec<f32> = serde_json::from_slice(&numbers.items[0]).unwrap();
        assert_eq!(numbers, HashingEmbedder::new(8).unwrap().embed("a cat").unwrap());

        let options = "\"user\":\"u\",\"encoding_format\":\"base64\",\"dimensions\":8";
        let base64 = embed_texts(&["\"a cat\""], options).unwrap();
        let base64: String = serde_json::from_slice(&base64.items[0]).unwrap();
        let bytes = BASE64_STANDARD.decode(base64).unwrap();
        let decoded: Vec<f32> =
            bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
        assert_eq!(decoded, numbers);
    }

    #[test]
    fn every_item_has_its_own_vector_and_its_tokens() {
        let embeddings = embed_texts(&["\"four\"", "[1, 2, 3]", "\"\""], "").unwrap();
        assert_eq!(embeddings.prompt_tokens, 1 + 3);
        let alone = embed_texts(&["[1,2,3]"], "").unwrap();
        assert_eq!(embeddings.items[1], alone.items[0]);
        assert_eq!(embeddings.items.len(), 3);
    }

    #[test]
    fn a_wrong_field_is_named() {
        let refused = |items: &[&str], options: &str| embed_texts(items, options).unwrap_err();
        let param = |error: BadRequest| error.param().map(str::to_owned);
        for options in ["\"dimensions\":0", "\"dimensions\":1537", "\"dimensions\":\"8\""] {
            assert_eq!(param(refused(&["\"a\""], options)).as_deref(), Some("dimensions"));
        }
        for options in ["\"encoding_format\":\"hex\"", "\"encoding_format\":1"] {
            assert_eq!(param(refused(&["\"a\""], options)).as_deref(), Some("encoding_format"));
        }
        for item in ["7", "null", "{}", "[]", "[\"a\"]", "[-1]", "[4294967296]", "[1.5]"] {
            assert_eq!(param(refused(&[item], "")).as_deref(), Some("input"), "{item}");
        }
        let long = format!("\"{}\"", "a".repeat(super::super::MAX_TEXT_BYTES + 1));
        assert_eq!(param(refused(&[&long], "")).as_deref(), Some("input"));
        assert_eq!(
            refused(&["7"], "").to_string(),
            "'input' is a number; it must be a string or a list of token ids"
        );
        assert_eq!(param(refused(&["\"a\""], "\"dimensions\":")), None);
    }
}
