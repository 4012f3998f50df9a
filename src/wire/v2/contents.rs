//! Typed tensor contents to raw bytes.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::tensor::{DataType, Rope, Shape, Tensor};
use crate::wire::pb::InferTensorContents;

/// What a tensor says of itself on the wire, before anything of it is believed.
pub(super) struct Head<'a> {
    pub(super) name: String,
    pub(super) datatype: &'a str,
    pub(super) shape: &'a [i64],
}

/// A tensor from its head and raw bytes.
pub(super) fn tensor_from_raw(head: Head<'_>, raw: Rope) -> Result<Tensor, String> {
    let (name, datatype, shape) = parse(head)?;
    Tensor::new(name, datatype, shape, raw).map_err(|error| error.to_string())
}

/// A tensor from its head and typed contents.
pub(super) fn tensor_from_contents(
    head: Head<'_>,
    contents: &InferTensorContents,
) -> Result<Tensor, String> {
    let (name, datatype, shape) = parse(head)?;
    let expected = shape.elements();
    let (field, got) = elements(datatype, contents).ok_or_else(|| {
        format!("tensor '{name}': {datatype} has no typed contents; send raw contents")
    })?;
    if let Some(filled) = filled_fields(contents).find(|&filled| filled != field) {
        return Err(format!(
            "tensor '{name}': {datatype} takes its elements from '{field}', but '{filled}' is filled"
        ));
    }
    if got as u64 != expected {
        return Err(format!(
            "tensor '{name}': '{field}' has {got} elements, shape {shape} needs {expected}"
        ));
    }
    let raw = to_raw(datatype, contents).map_err(|OutOfRange { index, value }| {
        format!("tensor '{name}': {field}[{index}] is {value}, which is no {datatype}")
    })?;
    Tensor::new(name, datatype, shape, raw.into()).map_err(|error| error.to_string())
}

fn parse(head: Head<'_>) -> Result<(String, DataType, Shape), String> {
    let Head { name, datatype, shape } = head;
    let datatype = datatype.parse().map_err(|error| format!("tensor '{name}': {error}"))?;
    let shape = Shape::from_wire(shape).map_err(|error| format!("tensor '{name}': {error}"))?;
    Ok((name, datatype, shape))
}

/// The field that holds the elements of a datatype, and how many it holds.
fn elements(datatype: DataType, contents: &InferTensorContents) -> Option<(&'static str, usize)> {
    Some(match datatype {
        DataType::Bool => ("bool_contents", contents.bool_contents.len()),
        DataType::Int8 | DataType::Int16 | DataType::Int32 => {
            ("int_contents", contents.int_contents.len())
        }
        DataType::Int64 => ("int64_contents", contents.int64_contents.len()),
        DataType::Uint8 | DataType::Uint16 | DataType::Uint32 => {
            ("uint_contents", contents.uint_contents.len())
        }
        DataType::Uint64 => ("uint64_contents", contents.uint64_contents.len()),
        DataType::Fp32 => ("fp32_contents", contents.fp32_contents.len()),
        DataType::Fp64 => ("fp64_contents", contents.fp64_contents.len()),
        DataType::Bytes => ("bytes_contents", contents.bytes_contents.len()),
        DataType::Fp16 | DataType::Bf16 => return None,
    })
}

/// The names of the fields that hold any element.
pub(super) fn filled_fields(
    contents: &InferTensorContents,
) -> impl Iterator<Item = &'static str> + use<> {
    [
        ("bool_contents", contents.bool_contents.len()),
        ("int_contents", contents.int_contents.len()),
        ("int64_contents", contents.int64_contents.len()),
        ("uint_contents", contents.uint_contents.len()),
        ("uint64_contents", contents.uint64_contents.len()),
        ("fp32_contents", contents.fp32_contents.len()),
        ("fp64_contents", contents.fp64_contents.len()),
        ("bytes_contents", contents.bytes_contents.len()),
    ]
    .into_iter()
    .filter_map(|(name, count)| (count > 0).then_some(name))
}

/// An element that its datatype cannot hold.
struct OutOfRange {
    index: usize,
    value: String,
}

fn to_raw(datatype: DataType, contents: &InferTensorContents) -> Result<Bytes, OutOfRange> {
    let c = contents;
    match datatype {
        DataType::Bool => Ok(c.bool_contents.iter().map(|&value| u8::from(value)).collect()),
        DataType::Int8 => {
            narrowed(&c.int_contents, |value| Some([i8::try_from(value).ok()? as u8]))
        }
        DataType::Int16 => {
            narrowed(&c.int_contents, |value| Some(i16::try_from(value).ok()?.to_le_bytes()))
        }
        DataType::Int32 => Ok(flat(&c.int_contents, i32::to_le_bytes)),
        DataType::Int64 => Ok(flat(&c.int64_contents, i64::to_le_bytes)),
        DataType::Uint8 => narrowed(&c.uint_contents, |value| Some([u8::try_from(value).ok()?])),
        DataType::Uint16 => {
            narrowed(&c.uint_contents, |value| Some(u16::try_from(value).ok()?.to_le_bytes()))
        }
        DataType::Uint32 => Ok(flat(&c.uint_contents, u32::to_le_bytes)),
        DataType::Uint64 => Ok(flat(&c.uint64_contents, u64::to_le_bytes)),
        DataType::Fp32 => Ok(flat(&c.fp32_contents, f32::to_le_bytes)),
        DataType::Fp64 => Ok(flat(&c.fp64_contents, f64::to_le_bytes)),
        DataType::Bytes => prefixed(&c.bytes_contents),
        // They have no typed form; a tensor of them has no elements here.
        DataType::Fp16 | DataType::Bf16 => Ok(Bytes::new()),
    }
}

fn flat<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Bytes {
    let mut raw = BytesMut::with_capacity(values.len() * N);
    values.iter().for_each(|&value| raw.put_slice(&bytes(value)));
    raw.freeze()
}

fn narrowed<T: Copy + ToString, const N: usize>(
    values: &[T],
    bytes: impl Fn(T) -> Option<[u8; N]>,
) -> Result<Bytes, OutOfRange> {
    let mut raw = BytesMut::with_capacity(values.len() * N);
    for (index, &value) in values.iter().enumerate() {
        let bytes = bytes(value).ok_or_else(|| OutOfRange { index, value: value.to_string() })?;
        raw.put_slice(&bytes);
    }
    Ok(raw.freeze())
}

fn prefixed(elements: &[Bytes]) -> Result<Bytes, OutOfRange> {
    let mut raw = BytesMut::with_capacity(elements.iter().map(|element| 4 + element.len()).sum());
    for (index, element) in elements.iter().enumerate() {
        let length = u32::try_from(element.len())
            .map_err(|_| OutOfRange { index, value: format!("{} bytes long", element.len()) })?;
        raw.put_u32_le(length);
        raw.put_slice(element);
    }
    Ok(raw.freeze())
}
