//! The JSON documents of the protocol as they are written.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::elements_in::{ElementError, Strings, read_elements};
use super::tensor_parameters::{BinaryParameters, TensorParameters};
use crate::call::Parameters;
use crate::tensor::{DataType, Rope, Shape, Tensor};
use crate::wire::parameters::{ParameterDocument, ParameterText};

#[derive(Debug, Deserialize)]
pub(super) struct RequestDocument<'a> {
    pub(super) id: Option<String>,
    pub(super) parameters: Option<ParametersDocument>,
    #[serde(borrow)]
    pub(super) inputs: Vec<TensorDocument<'a>>,
    pub(super) outputs: Option<Vec<RequestedOutputDocument>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ReplyDocument<'a> {
    pub(super) model_version: Option<String>,
    pub(super) parameters: Option<ParametersDocument>,
    #[serde(borrow)]
    pub(super) outputs: Vec<TensorDocument<'a>>,
}

/// A tensor that is sent, in either direction.
#[derive(Debug, Deserialize)]
pub(super) struct TensorDocument<'a> {
    pub(super) name: String,
    #[serde(borrow)]
    pub(super) datatype: Cow<'a, str>,
    pub(super) shape: Vec<i64>,
    #[serde(borrow, default)]
    pub(super) parameters: Option<TensorParameters<'a>>,
    #[serde(borrow, default)]
    pub(super) data: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RequestedOutputDocument {
    pub(super) name: String,
    pub(super) parameters: Option<ParametersDocument>,
}

#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct ParametersDocument(BTreeMap<String, ParameterDocument>);

impl ParametersDocument {
    pub(super) fn into_parameters(self) -> Parameters {
        self.0.into_iter().map(|(name, value)| (name, value.0)).collect()
    }
}

/// What is wrong with a tensor.
#[derive(Debug, thiserror::Error)]
pub(super) enum TensorFault {
    #[error(transparent)]
    DataType(#[from] crate::tensor::UnknownDataType),
    #[error(transparent)]
    Shape(#[from] crate::tensor::ShapeError),
    #[error(transparent)]
    Tensor(#[from] crate::tensor::TensorError),
    #[error(transparent)]
    Element(#[from] ElementError),
    #[error("it has both 'data' and parameter 'binary_data_size'; send one of them")]
    Both,
    #[error("it has no data: send 'data', or binary data and parameter 'binary_data_size'")]
    Neither,
    #[error("'data' must be a list")]
    NotAList,
    #[error(
        "parameter 'binary_data_size' is {size}, but only {left} bytes of binary data are left \
         after the JSON (header Inference-Header-Content-Length tells where it ends)"
    )]
    Missing { size: usize, left: usize },
}

/// The binary data after the JSON, taken tensor by tensor.
#[derive(Debug)]
pub(super) struct BinaryData<'a> {
    body: &'a Rope,
    at: usize,
}

impl<'a> BinaryData<'a> {
    /// The bytes of `body` from `start`; `start` is cut to the body's length.
    pub(super) fn new(body: &'a Rope, start: usize) -> Self {
        Self { body, at: start.min(body.len()) }
    }

    /// How many bytes nobody has taken.
    pub(super) fn left(&self) -> usize {
        self.body.len() - self.at
    }

    fn take(&mut self, size: usize) -> Result<Rope, TensorFault> {
        if size > self.left() {
            return Err(TensorFault::Missing { size, left: self.left() });
        }
        let start = self.at;
        self.at += size;
        Ok(self.body.slice(start..self.at))
    }
}

impl TensorDocument<'_> {
    /// The tensor, with its data from the document or from what follows it.
    pub(super) fn into_tensor(self, binary: &mut BinaryData<'_>) -> Result<Tensor, TensorFault> {
        let datatype: DataType = self.datatype.parse()?;
        let shape = Shape::from_wire(&self.shape)?;
        let size = self.parameters.and_then(|parameters| parameters.binary_data_size);
        let data = match (self.data, size) {
            (Some(_), Some(_)) => return Err(TensorFault::Both),
            (None, None) => return Err(TensorFault::Neither),
            (None, Some(size)) => binary.take(size)?,
            (Some(text), None) => {
                let text = text.get();
                if !text.starts_with('[') {
                    return Err(TensorFault::NotAList);
                }
                let mut out = Vec::new();
                read_elements(&mut out, text, datatype, shape.axes(), Strings::Plain)?;
                Rope::from(out)
            }
        };
        Ok(Tensor::new(self.name, datatype, shape, data)?)
    }
}

// ---- writing ----

pub(super) fn is_empty(map: &ParametersText<'_>) -> bool {
    map.0.is_empty() && map.1.is_none()
}

/// Parameters, and one more that is true.
#[derive(Debug, Clone, Copy)]
pub(super) struct ParametersText<'a>(pub(super) &'a Parameters, pub(super) Option<&'static str>);

impl Serialize for ParametersText<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let custom = self.0.iter().map(|(name, value)| (name.as_str(), ParameterText(value)));
        let flag = self.1.map(|name| (name, ParameterText(&crate::call::Parameter::Bool(true))));
        serializer.collect_map(custom.chain(flag))
    }
}

#[derive(Debug, Serialize)]
pub(super) struct RequestText<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) id: &'a str,
    #[serde(skip_serializing_if = "is_empty")]
    pub(super) parameters: ParametersText<'a>,
    pub(super) inputs: Vec<BinaryTensorText<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) outputs: Vec<RequestedOutputText<'a>>,
}

/// The head of a tensor whose data follows the document.
#[derive(Debug, Serialize)]
pub(super) struct BinaryTensorText<'a> {
    pub(super) name: &'a str,
    pub(super) datatype: &'static str,
    pub(super) shape: &'a [u64],
    pub(super) parameters: BinaryParameters<'a>,
}

#[derive(Debug, Serialize)]
pub(super) struct RequestedOutputText<'a> {
    pub(super) name: &'a str,
    pub(super) parameters: ParametersText<'a>,
}

impl<'a> BinaryTensorText<'a> {
    /// The head of a tensor, with parameters of its own where it has any.
    pub(super) fn new(tensor: &'a Tensor, own: Option<&'a Parameters>) -> Self {
        Self {
            name: tensor.name(),
            datatype: tensor.datatype().name(),
            shape: tensor.shape().axes(),
            parameters: BinaryParameters { size: tensor.data().len(), own },
        }
    }
}

/// The document's own bytes, in one piece.
pub(super) fn document_bytes(body: &Rope, length: usize) -> Bytes {
    if length >= body.len() { body.to_bytes() } else { body.slice(0..length).to_bytes() }
}
