//! A message as its head, which protobuf's codec reads and writes, and its raw contents, which it
//! must not touch.

use bytes::{Bytes, BytesMut};
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint,
    encoded_len_varint, skip_field,
};
use prost::{DecodeError, Message};

use crate::tensor::{Rope, Tensor};

/// The most fields that a message may have at its top: tensors, their raw contents, parameters.
/// An empty tensor takes two bytes on the wire and hundreds here.
const MAX_FIELDS: usize = 16 * 1024;

/// A message whose raw contents were cut out.
pub(super) struct Separated<M> {
    pub(super) head: M,
    pub(super) raw: Vec<Rope>,
}

/// Why bytes are not the message that they should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum MessageError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("it has more than {MAX_FIELDS} tensors, raw contents and parameters")]
    TooManyFields,
    #[error("its field {field} says {length} bytes, {left} are left")]
    CutShort { field: u32, length: u64, left: usize },
}

/// Decodes a message, cutting out the raw contents in field `raw_field` without copying them.
///
/// Protobuf lets fields come in any order and pieces, so decoding the rest as if the raw contents
/// had never been there gives the same message.
pub(super) fn separate<M: Message + Default>(
    message: &Rope,
    raw_field: u32,
) -> Result<Separated<M>, MessageError> {
    let mut rest = message.reader();
    let mut head = Rope::new();
    let mut raw = Vec::new();
    let mut fields = 0;
    loop {
        let (run, next) = {
            let mut ahead = rest.clone();
            let next = skip_to(&mut ahead, raw_field, &mut fields)?;
            (bytes::Buf::remaining(&rest) - bytes::Buf::remaining(&ahead), next)
        };
        head.append(&rest.take_rope(run));
        if !next {
            break;
        }
        decode_key(&mut rest)?;
        let length = decode_varint(&mut rest)?;
        let left = bytes::Buf::remaining(&rest);
        let length = usize::try_from(length)
            .ok()
            .filter(|&length| length <= left)
            .ok_or(MessageError::CutShort { field: raw_field, length, left })?;
        raw.push(rest.take_rope(length));
    }
    Ok(Separated { head: M::decode(head.reader())?, raw })
}

/// Moves over fields until one is `field` as a length-delimited one; `false` at the end.
fn skip_to(
    reader: &mut crate::tensor::RopeReader<'_>,
    field: u32,
    fields: &mut usize,
) -> Result<bool, MessageError> {
    while bytes::Buf::has_remaining(reader) {
        *fields += 1;
        if *fields > MAX_FIELDS {
            return Err(MessageError::TooManyFields);
        }
        let mut ahead = reader.clone();
        let (tag, wire_type) = decode_key(&mut ahead)?;
        if tag == field && wire_type == WireType::LengthDelimited {
            return Ok(true);
        }
        skip_field(wire_type, tag, &mut ahead, DecodeContext::default())?;
        *reader = ahead;
    }
    Ok(false)
}

/// Encodes a message and appends each tensor's bytes as an entry of field `raw_field`.
///
/// `wrapper` is the field of an outer message that this one is to stand in, if any.
pub(super) fn assemble<'a>(
    head: &impl Message,
    raw_field: u32,
    tensors: impl Iterator<Item = &'a Tensor> + Clone,
    wrapper: Option<u32>,
) -> Rope {
    let entry = |length: usize| 1 + encoded_len_varint(length as u64);
    let raw_length: usize =
        tensors.clone().map(|tensor| entry(tensor.data().len()) + tensor.data().len()).sum();
    let length = head.encoded_len() + raw_length;
    let entries: usize = tensors.clone().map(|tensor| entry(tensor.data().len())).sum();
    let mut buffer = BytesMut::with_capacity(head.encoded_len() + entries + 16);
    if let Some(field) = wrapper {
        encode_key(field, WireType::LengthDelimited, &mut buffer);
        encode_varint(length as u64, &mut buffer);
    }
    head.encode_raw(&mut buffer);
    let mut rope = Rope::new();
    for tensor in tensors {
        encode_key(raw_field, WireType::LengthDelimited, &mut buffer);
        encode_varint(tensor.data().len() as u64, &mut buffer);
        if !tensor.data().is_empty() {
            rope.push(buffer.split().freeze());
            rope.append(tensor.data());
        }
    }
    rope.push(Bytes::from(buffer));
    rope
}
