//! Tensors of any datatype as raw little-endian bytes, and the function that the model computes.

use bytes::{BufMut, Bytes, BytesMut};

use super::engine::Poison;
use super::pb::InferTensorContents;

/// One input or output, its elements in the protocol's raw form.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) datatype: String,
    pub(super) shape: Vec<i64>,
    /// Little-endian, row-major; BYTES elements each follow their length as 4 bytes.
    pub(super) data: Bytes,
}

/// Bytes of one element; `None` for BYTES, whose elements vary, and for unknown datatypes.
pub(super) fn element_size(datatype: &str) -> Option<usize> {
    match datatype {
        "BOOL" | "INT8" | "UINT8" => Some(1),
        "INT16" | "UINT16" | "FP16" | "BF16" => Some(2),
        "INT32" | "UINT32" | "FP32" => Some(4),
        "INT64" | "UINT64" | "FP64" => Some(8),
        _ => None,
    }
}

impl Tensor {
    /// Checks that the bytes are exactly the elements that the shape tells of.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self { name, datatype, shape, data } = self;
        let elements = self.elements().ok_or_else(|| {
            format!("input '{name}' has shape {shape:?}: it needs dimensions of 0 or more")
        })?;
        match element_size(datatype) {
            Some(size) if elements.checked_mul(size) == Some(data.len()) => Ok(()),
            Some(size) => Err(format!(
                "input '{name}' holds {} bytes, but {datatype} {shape:?} takes {elements} x {size}",
                data.len()
            )),
            None if datatype == "BYTES" => match split_bytes(data) {
                Some(parts) if parts.len() == elements => Ok(()),
                _ => Err(format!("input '{name}' does not hold {elements} BYTES elements")),
            },
            None => Err(format!("input '{name}' has the unknown datatype '{datatype}'")),
        }
    }

    /// Dimension 0; 1 for a scalar.
    pub(super) fn rows(&self) -> usize {
        self.shape.first().and_then(|rows| usize::try_from(*rows).ok()).unwrap_or(1)
    }

    fn elements(&self) -> Option<usize> {
        let mut dimensions = self.shape.iter().map(|dimension| usize::try_from(*dimension).ok());
        dimensions.try_fold(1usize, |product, dimension| product.checked_mul(dimension?))
    }

    /// The model: FP32, INT32 and INT64 give 2x + 1 (integers wrap around), BYTES elements come
    /// back reversed, everything else unchanged. `x` gives `y`, any other `name` gives `name_out`.
    pub(super) fn linear(&self) -> Self {
        let data = match self.datatype.as_str() {
            "FP32" => {
                map_elements(&self.data, |x| (2.0 * f32::from_le_bytes(x) + 1.0).to_le_bytes())
            }
            "INT32" => map_elements(&self.data, |x: [u8; 4]| {
                i32::from_le_bytes(x).wrapping_mul(2).wrapping_add(1).to_le_bytes()
            }),
            "INT64" => map_elements(&self.data, |x: [u8; 8]| {
                i64::from_le_bytes(x).wrapping_mul(2).wrapping_add(1).to_le_bytes()
            }),
            "BYTES" => {
                let parts = split_bytes(&self.data).unwrap_or_default();
                join_bytes(parts.iter().map(|part| reversed(part)))
            }
            _ => self.data.clone(),
        };
        Self { name: output_name(&self.name), data, ..self.clone() }
    }

    pub(super) fn without_last_row(self) -> Self {
        let rows = self.rows();
        let Some((first, rest)) = self.shape.split_first().filter(|_| rows > 0) else {
            return self;
        };
        let mut shape = vec![first - 1];
        shape.extend(rest);
        let data = match element_size(&self.datatype) {
            Some(_) => self.data.slice(..self.data.len() / rows * (rows - 1)),
            None => {
                let parts = split_bytes(&self.data).unwrap_or_default();
                let kept = parts.len() / rows * (rows - 1);
                join_bytes(parts.into_iter().take(kept).map(|part| part.to_vec()))
            }
        };
        Self { shape, data, ..self }
    }

    pub(super) fn poisoned(&self, poison: &Poison) -> bool {
        match self.datatype.as_str() {
            "BYTES" => {
                let text = poison.text.as_bytes();
                let parts = split_bytes(&self.data).unwrap_or_default();
                let holds = |part: &Bytes| part.windows(text.len().max(1)).any(|w| w == text);
                parts.iter().any(holds)
            }
            _ => self.holds(poison.number),
        }
    }

    /// Whether an element of a numeric tensor is this number.
    pub(super) fn holds(&self, number: f64) -> bool {
        match self.datatype.as_str() {
            "FP32" => any_element(&self.data, |x| f64::from(f32::from_le_bytes(x)) == number),
            "FP64" => any_element(&self.data, |x| f64::from_le_bytes(x) == number),
            "INT32" => any_element(&self.data, |x| f64::from(i32::from_le_bytes(x)) == number),
            "INT64" => any_element(&self.data, |x| i64::from_le_bytes(x) as f64 == number),
            _ => false,
        }
    }

    /// The first element of each row of an FP32 tensor; nothing for other datatypes.
    pub(super) fn first_of_rows(&self) -> Vec<f32> {
        let (rows, floats) = (self.rows(), self.data.as_chunks::<4>().0);
        if self.datatype != "FP32" || rows == 0 {
            return Vec::new();
        }
        let columns = (floats.len() / rows).max(1);
        floats.iter().step_by(columns).map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    /// The first element as text, to recognise a call by.
    pub(super) fn first(&self) -> String {
        self.texts(1).pop().unwrap_or_default()
    }

    /// Up to `most` elements as text; none of other datatypes than those that the model computes.
    pub(super) fn texts(&self, most: usize) -> Vec<String> {
        fn texts<T: ToString, const N: usize>(
            data: &[u8],
            most: usize,
            element: impl Fn([u8; N]) -> T,
        ) -> Vec<String> {
            let chunks = data.as_chunks::<N>().0;
            chunks.iter().take(most).map(|bytes| element(*bytes).to_string()).collect()
        }
        match self.datatype.as_str() {
            "FP32" => texts(&self.data, most, f32::from_le_bytes),
            "FP64" => texts(&self.data, most, f64::from_le_bytes),
            "INT32" => texts(&self.data, most, i32::from_le_bytes),
            "INT64" => texts(&self.data, most, i64::from_le_bytes),
            "BYTES" => {
                let parts = split_bytes(&self.data).unwrap_or_default();
                let text = |part: &Bytes| String::from_utf8_lossy(part).into_owned();
                parts.iter().take(most).map(text).collect()
            }
            _ => Vec::new(),
        }
    }
}

fn output_name(input: &str) -> String {
    if input == "x" { "y".to_owned() } else { format!("{input}_out") }
}

/// By characters where the element is UTF-8, so that it stays UTF-8; by bytes otherwise.
fn reversed(element: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(element) {
        Ok(text) => text.chars().rev().collect::<String>().into_bytes(),
        Err(_) => element.iter().rev().copied().collect(),
    }
}

fn map_elements<const N: usize>(data: &[u8], function: impl Fn([u8; N]) -> [u8; N]) -> Bytes {
    let mut mapped = Vec::with_capacity(data.len());
    for element in data.as_chunks::<N>().0 {
        mapped.extend_from_slice(&function(*element));
    }
    mapped.into()
}

fn any_element<const N: usize>(data: &[u8], mut matches: impl FnMut([u8; N]) -> bool) -> bool {
    data.as_chunks::<N>().0.iter().any(|element| matches(*element))
}

/// The elements of raw BYTES; `None` when the lengths do not add up.
pub(super) fn split_bytes(data: &Bytes) -> Option<Vec<Bytes>> {
    let mut parts = Vec::new();
    let mut at = 0usize;
    while at < data.len() {
        let length = u32::from_le_bytes(*data.get(at..)?.first_chunk()?) as usize;
        let end = at.checked_add(4)?.checked_add(length)?;
        if end > data.len() {
            return None;
        }
        parts.push(data.slice(at + 4..end));
        at = end;
    }
    Some(parts)
}

pub(super) fn join_bytes<T: AsRef<[u8]>>(parts: impl IntoIterator<Item = T>) -> Bytes {
    let mut joined = BytesMut::new();
    for part in parts {
        let part = part.as_ref();
        joined.put_u32_le(u32::try_from(part.len()).unwrap_or(u32::MAX));
        joined.put_slice(part);
    }
    joined.freeze()
}

/// Raw bytes of gRPC's typed form. Narrow integers travel widened and are narrowed here.
pub(super) fn from_typed(datatype: &str, typed: &InferTensorContents) -> Result<Bytes, String> {
    fn raw<T: Copy, const N: usize>(items: &[T], bytes: impl Fn(T) -> [u8; N]) -> Bytes {
        items.iter().flat_map(|item| bytes(*item)).collect::<Vec<u8>>().into()
    }
    Ok(match datatype {
        "BOOL" => raw(&typed.bool_contents, |x| [u8::from(x)]),
        "INT8" => raw(&typed.int_contents, |x| (x as i8).to_le_bytes()),
        "INT16" => raw(&typed.int_contents, |x| (x as i16).to_le_bytes()),
        "INT32" => raw(&typed.int_contents, i32::to_le_bytes),
        "INT64" => raw(&typed.int64_contents, i64::to_le_bytes),
        "UINT8" => raw(&typed.uint_contents, |x| (x as u8).to_le_bytes()),
        "UINT16" => raw(&typed.uint_contents, |x| (x as u16).to_le_bytes()),
        "UINT32" => raw(&typed.uint_contents, u32::to_le_bytes),
        "UINT64" => raw(&typed.uint64_contents, u64::to_le_bytes),
        "FP32" => raw(&typed.fp32_contents, f32::to_le_bytes),
        "FP64" => raw(&typed.fp64_contents, f64::to_le_bytes),
        "BYTES" => join_bytes(&typed.bytes_contents),
        other => return Err(format!("datatype '{other}' has no typed contents")),
    })
}

/// gRPC's typed form of a tensor; `None` for FP16 and BF16, which have none.
pub(super) fn to_typed(tensor: &Tensor) -> Option<InferTensorContents> {
    fn items<T, const N: usize>(data: &[u8], item: impl Fn([u8; N]) -> T) -> Vec<T> {
        data.as_chunks::<N>().0.iter().map(|bytes| item(*bytes)).collect()
    }
    let data = &tensor.data;
    let mut typed = InferTensorContents::default();
    match tensor.datatype.as_str() {
        "BOOL" => typed.bool_contents = items(data, |[x]: [u8; 1]| x != 0),
        "INT8" => typed.int_contents = items(data, |x| i8::from_le_bytes(x).into()),
        "INT16" => typed.int_contents = items(data, |x| i16::from_le_bytes(x).into()),
        "INT32" => typed.int_contents = items(data, i32::from_le_bytes),
        "INT64" => typed.int64_contents = items(data, i64::from_le_bytes),
        "UINT8" => typed.uint_contents = items(data, |x| u8::from_le_bytes(x).into()),
        "UINT16" => typed.uint_contents = items(data, |x| u16::from_le_bytes(x).into()),
        "UINT32" => typed.uint_contents = items(data, u32::from_le_bytes),
        "UINT64" => typed.uint64_contents = items(data, u64::from_le_bytes),
        "FP32" => typed.fp32_contents = items(data, f32::from_le_bytes),
        "FP64" => typed.fp64_contents = items(data, f64::from_le_bytes),
        "BYTES" => typed.bytes_contents = split_bytes(data)?,
        _ => return None,
    }
    Some(typed)
}
