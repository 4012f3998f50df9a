//! A named tensor whose bytes fit its shape.

use bytes::Buf;

use super::{DataType, Rope, Shape};

/// A named tensor. Its bytes are known to fit its datatype and shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    name: String,
    datatype: DataType,
    shape: Shape,
    data: Rope,
}

/// Bytes that do not fit the tensor's datatype and shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// A tensor of fixed-size elements with too many or too few bytes.
    #[error(
        "tensor '{name}': {datatype} with shape {shape} needs {expected} bytes of data, got {got}"
    )]
    Length {
        /// The tensor's name.
        name: String,
        /// Its datatype.
        datatype: DataType,
        /// Its shape.
        shape: Shape,
        /// Bytes that shape and datatype ask for.
        expected: u64,
        /// Bytes that came.
        got: u64,
    },
    /// BYTES data whose length prefixes do not add up.
    #[error(
        "tensor '{name}': BYTES with shape {shape} needs {expected} elements, each after its \
         length as 4 bytes little-endian; the data holds {got} whole elements and {rest} more bytes"
    )]
    Elements {
        /// The tensor's name.
        name: String,
        /// Its shape.
        shape: Shape,
        /// Elements that the shape asks for.
        expected: u64,
        /// Whole elements found (counting stops one after `expected`).
        got: u64,
        /// Bytes left over.
        rest: usize,
    },
}

impl Tensor {
    /// A tensor, once its bytes are known to fit.
    ///
    /// # Errors
    /// When `data` is not what `datatype` and `shape` ask for.
    pub fn new(
        name: impl Into<String>,
        datatype: DataType,
        shape: Shape,
        data: Rope,
    ) -> Result<Self, TensorError> {
        let tensor = Self { name: name.into(), datatype, shape, data };
        match datatype.element_size() {
            Some(size) => tensor.check_length(size)?,
            None => tensor.check_elements()?,
        }
        Ok(tensor)
    }

    /// For rows that were cut from, or joined out of, tensors that were checked before.
    pub(super) fn trusted(name: String, datatype: DataType, shape: Shape, data: Rope) -> Self {
        Self { name, datatype, shape, data }
    }

    /// The name by which the model knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type of its elements.
    pub fn datatype(&self) -> DataType {
        self.datatype
    }

    /// Its extents.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Its elements: little-endian, row-major.
    pub fn data(&self) -> &Rope {
        &self.data
    }

    /// Its elements, owned.
    pub fn into_data(self) -> Rope {
        self.data
    }

    /// The same tensor under another name.
    #[must_use]
    pub fn renamed(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    fn check_length(&self, element_size: usize) -> Result<(), TensorError> {
        let expected = self.shape.elements().saturating_mul(element_size as u64);
        let got = self.data.len() as u64;
        if expected == got {
            return Ok(());
        }
        Err(TensorError::Length {
            name: self.name.clone(),
            datatype: self.datatype,
            shape: self.shape.clone(),
            expected,
            got,
        })
    }

    fn check_elements(&self) -> Result<(), TensorError> {
        let expected = self.shape.elements();
        let mut reader = self.data.reader();
        let mut got = 0;
        while got < expected && skip_element(&mut reader).is_some() {
            got += 1;
        }
        if got == expected && !reader.has_remaining() {
            return Ok(());
        }
        Err(TensorError::Elements {
            name: self.name.clone(),
            shape: self.shape.clone(),
            expected,
            got,
            rest: reader.remaining(),
        })
    }
}

/// Moves past one length-prefixed element and returns its bytes with the prefix counted;
/// `None`, with the reader unmoved, when no whole element is left.
pub(super) fn skip_element(reader: &mut (impl Buf + Clone)) -> Option<usize> {
    if reader.remaining() < 4 {
        return None;
    }
    let mut ahead = reader.clone();
    let length = ahead.get_u32_le() as usize;
    if ahead.remaining() < length {
        return None;
    }
    reader.advance(4 + length);
    Some(4 + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(axes: &[u64]) -> Shape {
        Shape::from(axes)
    }

    #[test]
    fn bytes_must_fit_datatype_and_shape() {
        let tensor =
            |bytes| Tensor::new("x", DataType::Fp32, shape(&[2, 2]), vec![0; bytes].into());
        assert!(tensor(16).is_ok());
        let error = tensor(15).unwrap_err().to_string();
        assert!(error.contains("'x'") && error.contains("16") && error.contains("15"), "{error}");
    }

    #[test]
    fn byte_elements_are_counted() {
        let tensor =
            |bytes: &[u8]| Tensor::new("x", DataType::Bytes, shape(&[2]), bytes.to_vec().into());
        assert!(tensor(b"\x01\0\0\0a\0\0\0\0").is_ok());
        assert!(tensor(b"\x01\0\0\0a").is_err());
        assert!(tensor(b"\x01\0\0\0a\0\0\0\0\0").is_err());
        assert!(tensor(b"\xff\xff\xff\xffa\0\0\0\0").is_err());
    }
}
