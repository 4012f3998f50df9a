//! How much memory a request takes that protobuf's codec decodes: an empty string is two bytes on the
//! wire and more than thirty here, and a small number one byte there and eight here.

use bytes::Buf as _;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::tensor::{Rope, RopeReader};

/// Bytes of an entry that has a name: a tensor, a parameter.
const NAMED: usize = 256;
/// Bytes of an element of bytes.
const ELEMENT: usize = 32;
/// Lists grow by doubling.
const SLACK: usize = 2;

const INPUTS: u32 = 5;
const RAW_INPUT_CONTENTS: u32 = 7;
const SHAPE: u32 = 3;
const CONTENTS: u32 = 5;

/// At most how many bytes the decoded head of a `ModelInferRequest` takes. Where the message is
/// malformed, what comes before: decoding does not get further.
pub fn decoded_bytes(message: &Rope) -> usize {
    let mut bytes = 0;
    each_field(message.reader(), |tag, field| match (tag, field) {
        (RAW_INPUT_CONTENTS, _) => {}
        (INPUTS, Field::Bytes(input)) => bytes += NAMED + input_bytes(&input),
        (_, Field::Bytes(other)) => bytes += NAMED + entries(&other) * NAMED + other.len(),
        (_, Field::Number) => bytes += 8,
    });
    bytes * SLACK
}

fn input_bytes(input: &Rope) -> usize {
    let mut bytes = 0;
    each_field(input.reader(), |tag, field| match (tag, field) {
        (SHAPE, Field::Bytes(packed)) => bytes += varints(&packed) * 8,
        (CONTENTS, Field::Bytes(contents)) => bytes += contents_bytes(&contents),
        (_, Field::Bytes(other)) => bytes += NAMED + other.len(),
        (_, Field::Number) => bytes += 8,
    });
    bytes
}

fn contents_bytes(contents: &Rope) -> usize {
    let mut bytes = 0;
    each_field(contents.reader(), |tag, field| {
        bytes += match (tag, field) {
            (1, Field::Bytes(packed)) => packed.len(),
            (2 | 4, Field::Bytes(packed)) => varints(&packed) * 4,
            (3 | 5, Field::Bytes(packed)) => varints(&packed) * 8,
            // Elements stay slices of the message.
            (8, Field::Bytes(_)) => ELEMENT,
            (_, Field::Bytes(other)) => other.len(),
            (_, Field::Number) => 8,
        };
    });
    bytes
}

enum Field {
    Bytes(Rope),
    Number,
}

fn each_field(mut reader: RopeReader<'_>, mut look: impl FnMut(u32, Field)) {
    while reader.has_remaining() {
        let Ok((tag, wire_type)) = decode_key(&mut reader) else { return };
        if wire_type != WireType::LengthDelimited {
            if skip_field(wire_type, tag, &mut reader, DecodeContext::default()).is_err() {
                return;
            }
            look(tag, Field::Number);
            continue;
        }
        let Ok(length) = decode_varint(&mut reader) else { return };
        let Some(length) = usize::try_from(length).ok().filter(|it| *it <= reader.remaining())
        else {
            return;
        };
        look(tag, Field::Bytes(reader.take_rope(length)));
    }
}

/// Length-delimited fields of a message.
fn entries(message: &Rope) -> usize {
    let mut count = 0;
    each_field(message.reader(), |_, field| count += usize::from(matches!(field, Field::Bytes(_))));
    count
}

/// Each ends with a byte below 128.
fn varints(packed: &Rope) -> usize {
    let ends = |segment: &bytes::Bytes| segment.iter().filter(|&&byte| byte < 0x80).count();
    packed.segments().iter().map(ends).sum()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use pb::model_infer_request::InferInputTensor;
    use prost::Message as _;

    use super::*;
    use crate::wire::pb;

    fn request(contents: pb::InferTensorContents, raw: Vec<Bytes>) -> Rope {
        let input = InferInputTensor {
            name: "x".to_owned(),
            shape: vec![1; 10],
            contents: Some(contents),
            ..InferInputTensor::default()
        };
        let request = pb::ModelInferRequest {
            inputs: vec![input],
            raw_input_contents: raw,
            ..pb::ModelInferRequest::default()
        };
        Rope::from(request.encode_to_vec())
    }

    #[test]
    fn what_grows_when_it_is_decoded_weighs_what_it_grows_to() {
        let few = pb::InferTensorContents::default;
        let strings =
            pb::InferTensorContents { bytes_contents: vec![Bytes::new(); 10_000], ..few() };
        let strings = request(strings, Vec::new());
        assert!(strings.len() < 21_000 && decoded_bytes(&strings) >= 320_000);
        let numbers = pb::InferTensorContents { int64_contents: vec![1; 10_000], ..few() };
        let numbers = request(numbers, Vec::new());
        assert!(numbers.len() < 11_000 && decoded_bytes(&numbers) >= 80_000);
        let raw = request(few(), vec![vec![0; 1 << 20].into()]);
        assert!(decoded_bytes(&raw) < 2000);
    }

    #[test]
    fn a_parameter_of_an_input_weighs_what_an_entry_does() {
        let parameters = (0..1000).map(|name| (name.to_string(), pb::InferParameter::default()));
        let input =
            InferInputTensor { parameters: parameters.collect(), ..InferInputTensor::default() };
        let request = pb::ModelInferRequest { inputs: vec![input], ..Default::default() };
        assert!(decoded_bytes(&Rope::from(request.encode_to_vec())) >= 1000 * NAMED);
    }

    #[test]
    fn noise_weighs_something_or_nothing_and_never_panics() {
        for noise in [&b"\xff\xff\xff"[..], b"\x2a\xff\xff\xff\xff\x0f", b"", b"\x2a\x02\x1a\x05"] {
            assert!(decoded_bytes(&Rope::from(noise.to_vec())) < 2000);
        }
    }
}
