//! The elements of a tensor as JSON text.

use bytes::{Buf as _, TryGetError};
use serde::Serialize;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::elements_in::Strings;
use crate::tensor::{DataType, RopeReader, Tensor};

/// An element that JSON cannot write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnwritableElement {
    /// JSON has no such number. Writing `null` would make infinities and NaN the same, and zero to
    /// some readers, without anybody noticing.
    #[error("an element is {0}, which JSON cannot write")]
    NotFinite(String),
    /// JSON strings are Unicode.
    #[error("an element is not UTF-8, which JSON strings have to be")]
    NotUtf8,
    /// A datatype that JSON cannot carry.
    #[error("{0} cannot be sent as JSON")]
    NeedsBinary(DataType),
    /// The tensor's bytes end early.
    #[error("the data ends early")]
    Short,
}

impl From<TryGetError> for UnwritableElement {
    fn from(_: TryGetError) -> Self {
        UnwritableElement::Short
    }
}

/// Appends all elements of `tensor` as one flat list, row-major.
///
/// # Errors
/// When JSON cannot write one of them.
pub(crate) fn write_flat(out: &mut Vec<u8>, tensor: &Tensor) -> Result<(), UnwritableElement> {
    let mut rows = RowWriter::new(tensor, Strings::Plain);
    out.push(b'[');
    rows.write_run(out, tensor.shape().elements())?;
    out.push(b']');
    Ok(())
}

/// Writes a tensor row by row.
#[derive(Debug)]
pub(crate) struct RowWriter<'a> {
    datatype: DataType,
    axes: &'a [u64],
    reader: RopeReader<'a>,
    strings: Strings,
}

impl<'a> RowWriter<'a> {
    pub(crate) fn new(tensor: &'a Tensor, strings: Strings) -> Self {
        Self {
            datatype: tensor.datatype(),
            axes: tensor.shape().axes().get(1..).unwrap_or_default(),
            reader: tensor.data().reader(),
            strings,
        }
    }

    /// Appends the next row, nested as the shape after axis 0 says.
    ///
    /// # Errors
    /// When JSON cannot write one of its elements.
    pub(crate) fn write_row(&mut self, out: &mut Vec<u8>) -> Result<(), UnwritableElement> {
        let axes = self.axes;
        if axes.contains(&0) {
            // Extents beside a zero may be as large as they like: writing them out could last.
            out.extend_from_slice(b"[]");
            return Ok(());
        }
        self.write_nested(out, axes)
    }

    fn write_nested(&mut self, out: &mut Vec<u8>, axes: &[u64]) -> Result<(), UnwritableElement> {
        match axes {
            [] => return self.write_run(out, 1),
            [extent] => {
                out.push(b'[');
                self.write_run(out, *extent)?;
            }
            [extent, inner @ ..] => {
                out.push(b'[');
                for index in 0..*extent {
                    if index > 0 {
                        out.push(b',');
                    }
                    self.write_nested(out, inner)?;
                }
            }
        }
        out.push(b']');
        Ok(())
    }

    /// Appends `count` elements with commas between.
    fn write_run(&mut self, out: &mut Vec<u8>, count: u64) -> Result<(), UnwritableElement> {
        let (reader, strings) = (&mut self.reader, self.strings);
        match self.datatype {
            DataType::Bool => list(out, count, |out| {
                out.extend_from_slice(if reader.try_get_u8()? == 0 { b"false" } else { b"true" });
                Ok(())
            }),
            DataType::Uint8 => list(out, count, |out| json(out, reader.try_get_u8()?)),
            DataType::Uint16 => list(out, count, |out| json(out, reader.try_get_u16_le()?)),
            DataType::Uint32 => list(out, count, |out| json(out, reader.try_get_u32_le()?)),
            DataType::Uint64 => list(out, count, |out| json(out, reader.try_get_u64_le()?)),
            DataType::Int8 => list(out, count, |out| json(out, reader.try_get_i8()?)),
            DataType::Int16 => list(out, count, |out| json(out, reader.try_get_i16_le()?)),
            DataType::Int32 => list(out, count, |out| json(out, reader.try_get_i32_le()?)),
            DataType::Int64 => list(out, count, |out| json(out, reader.try_get_i64_le()?)),
            DataType::Fp32 => list(out, count, |out| {
                let value = reader.try_get_f32_le()?;
                finite(value.is_finite(), value.into())?;
                json(out, value)
            }),
            DataType::Fp64 => list(out, count, |out| {
                let value = reader.try_get_f64_le()?;
                finite(value.is_finite(), value)?;
                json(out, value)
            }),
            DataType::Bytes => list(out, count, |out| string(out, reader, strings)),
            DataType::Fp16 | DataType::Bf16 => Err(UnwritableElement::NeedsBinary(self.datatype)),
        }
    }
}

fn list(
    out: &mut Vec<u8>,
    count: u64,
    mut write: impl FnMut(&mut Vec<u8>) -> Result<(), UnwritableElement>,
) -> Result<(), UnwritableElement> {
    for index in 0..count {
        if index > 0 {
            out.push(b',');
        }
        write(out)?;
    }
    Ok(())
}

fn finite(is_finite: bool, value: f64) -> Result<(), UnwritableElement> {
    if is_finite { Ok(()) } else { Err(UnwritableElement::NotFinite(value.to_string())) }
}

fn json(out: &mut Vec<u8>, value: impl Serialize) -> Result<(), UnwritableElement> {
    // Numbers and strings into memory: nothing that can fail.
    serde_json::to_writer(out, &value).map_err(|_| UnwritableElement::Short)
}

fn string(
    out: &mut Vec<u8>,
    reader: &mut RopeReader<'_>,
    strings: Strings,
) -> Result<(), UnwritableElement> {
    let length = reader.try_get_u32_le()? as usize;
    if reader.remaining() < length {
        return Err(UnwritableElement::Short);
    }
    let element = reader.copy_to_bytes(length);
    match (std::str::from_utf8(&element), strings) {
        (Ok(text), _) => json(out, text),
        (Err(_), Strings::Plain) => Err(UnwritableElement::NotUtf8),
        (Err(_), Strings::OrBase64) => {
            out.extend_from_slice(b"{\"b64\":\"");
            out.extend_from_slice(STANDARD.encode(&element).as_bytes());
            out.extend_from_slice(b"\"}");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::super::elements_in::read_elements;
    use super::*;
    use crate::tensor::{Rope, Shape};

    fn tensor(datatype: DataType, axes: &[u64], bytes: &[u8]) -> Tensor {
        // One byte a segment: elements lie across borders.
        let rope: Rope = bytes.iter().map(|&byte| Bytes::from(vec![byte])).collect();
        Tensor::new("t", datatype, Shape::from(axes), rope).unwrap()
    }

    fn flat(tensor: &Tensor) -> Result<String, UnwritableElement> {
        let mut out = Vec::new();
        write_flat(&mut out, tensor).map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn rows_are_nested_as_the_shape_says() {
        let tensor = tensor(DataType::Uint8, &[2, 2, 2], &[1, 2, 3, 4, 5, 6, 7, 8]);
        let mut rows = RowWriter::new(&tensor, Strings::Plain);
        let mut out = Vec::new();
        rows.write_row(&mut out).unwrap();
        rows.write_row(&mut out).unwrap();
        assert_eq!(out, b"[[1,2],[3,4]][[5,6],[7,8]]");
        assert_eq!(flat(&tensor).unwrap(), "[1,2,3,4,5,6,7,8]");
    }

    #[test]
    fn rows_without_elements_end_at_once() {
        let tensor = tensor(DataType::Fp32, &[2, 1 << 62, 0], &[]);
        let mut out = Vec::new();
        RowWriter::new(&tensor, Strings::Plain).write_row(&mut out).unwrap();
        assert_eq!(out, b"[]");
        assert_eq!(flat(&tensor).unwrap(), "[]");
    }

    #[test]
    fn what_json_cannot_write_is_an_error() {
        let nan = tensor(DataType::Fp32, &[1], &f32::NAN.to_le_bytes());
        assert!(flat(&nan).unwrap_err().to_string().contains("NaN"));
        let infinite = tensor(DataType::Fp64, &[1], &f64::NEG_INFINITY.to_le_bytes());
        assert!(flat(&infinite).unwrap_err().to_string().contains("-inf"));
        let binary = tensor(DataType::Bytes, &[1], b"\x01\0\0\0\xff");
        assert_eq!(flat(&binary), Err(UnwritableElement::NotUtf8));
        let mut out = Vec::new();
        RowWriter::new(&binary, Strings::OrBase64).write_row(&mut out).unwrap();
        assert_eq!(out, br#"{"b64":"/w=="}"#);
        let half = tensor(DataType::Fp16, &[1], &[0, 0]);
        assert_eq!(flat(&half), Err(UnwritableElement::NeedsBinary(DataType::Fp16)));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_bit_for_bit(
            floats in prop::collection::vec(any::<f32>().prop_filter("finite", |it| it.is_finite()), 0..20),
            longs in prop::collection::vec(any::<i64>(), 0..20),
            texts in prop::collection::vec(".*", 0..8),
        ) {
            let float_bytes: Vec<u8> = floats.iter().flat_map(|it| it.to_le_bytes()).collect();
            let long_bytes: Vec<u8> = longs.iter().flat_map(|it| it.to_le_bytes()).collect();
            let text_bytes: Vec<u8> = texts
                .iter()
                .flat_map(|it| [&(it.len() as u32).to_le_bytes(), it.as_bytes()].concat())
                .collect();
            for (datatype, count, bytes) in [
                (DataType::Fp32, floats.len(), float_bytes),
                (DataType::Int64, longs.len(), long_bytes),
                (DataType::Bytes, texts.len(), text_bytes),
            ] {
                let axes = [count as u64];
                let text = flat(&tensor(datatype, &axes, &bytes)).unwrap();
                let mut back = Vec::new();
                read_elements(&mut back, &text, datatype, &axes, Strings::Plain).unwrap();
                prop_assert_eq!(back, bytes);
            }
        }
    }
}
