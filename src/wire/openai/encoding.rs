//! The two forms of an embedding: a JSON list of numbers, or base64 of little-endian 32-bit floats.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::tensor::{DataType, Shape, Tensor};
use crate::wire::ReplyError;
use crate::wire::json::elements_in::{Strings, measure, read_elements};
use crate::wire::json::elements_out::write_flat;

/// Appends an embedding, the text of a JSON list or string, in the form that is wanted.
///
/// # Errors
/// When the text is neither form of an embedding.
pub(super) fn append_embedding(
    out: &mut Vec<u8>,
    embedding: &[u8],
    wants_base64: bool,
) -> Result<(), ReplyError> {
    match (embedding.first(), wants_base64) {
        (Some(b'['), false) | (Some(b'"'), true) => out.extend_from_slice(embedding),
        (Some(b'['), true) => {
            let floats = floats_of_list(embedding).ok_or_else(not_an_embedding)?;
            out.push(b'"');
            out.extend_from_slice(STANDARD.encode(floats).as_bytes());
            out.push(b'"');
        }
        (Some(b'"'), false) => {
            let vector = vector_of_base64(embedding).ok_or_else(not_an_embedding)?;
            write_flat(out, &vector)
                .map_err(|error| ReplyError(format!("the instance's embedding: {error}")))?;
        }
        _ => return Err(not_an_embedding()),
    }
    Ok(())
}

fn floats_of_list(list: &[u8]) -> Option<Vec<u8>> {
    let list = std::str::from_utf8(list).ok()?;
    let mut floats = Vec::new();
    let axes = measure(list);
    read_elements(&mut floats, list, DataType::Fp32, &axes, Strings::Plain).ok()?;
    (axes.len() == 1).then_some(floats)
}

fn vector_of_base64(text: &[u8]) -> Option<Tensor> {
    let text: String = serde_json::from_slice(text).ok()?;
    let floats = STANDARD.decode(text).ok()?;
    let shape = Shape::from([floats.len() as u64 / 4].as_slice());
    Tensor::new("embedding", DataType::Fp32, shape, floats.into()).ok()
}

fn not_an_embedding() -> ReplyError {
    ReplyError(
        "the instance's embedding is neither a list of numbers nor base64 of 32-bit floats".into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(text: &str, wants_base64: bool) -> Result<String, ReplyError> {
        let mut out = Vec::new();
        append_embedding(&mut out, text.as_bytes(), wants_base64)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn each_form_becomes_the_other_and_its_own_stays_as_it_is() {
        let list = "[0.5, -1.0, 2.5e-1]";
        let base64 = convert(list, true).unwrap();
        assert_eq!(base64, "\"AAAAPwAAgL8AAIA+\"");
        assert_eq!(convert(&base64, false).unwrap(), "[0.5,-1.0,0.25]");
        assert_eq!(convert(list, false).unwrap(), list);
        assert_eq!(convert(&base64, true).unwrap(), base64);
    }

    #[test]
    fn refuses_what_is_no_embedding() {
        for (text, wants_base64) in
            [("5", true), ("null", false), ("[\"a\"]", true), ("\"AAA=\"", false), ("[[1]]", true)]
        {
            assert!(convert(text, wants_base64).is_err(), "{text}");
        }
    }
}
