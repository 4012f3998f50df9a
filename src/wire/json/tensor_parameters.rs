//! Parameters of a tensor that is sent: what they say of its data, and what is the model's.

use std::fmt;

use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::call::{Fault, Parameters};
use crate::wire::parameters::{
    ParameterDocument, ParameterText, is_about_shared_memory, is_about_transport,
};

const BINARY_DATA_SIZE: &str = "binary_data_size";

/// Parameters of a tensor as they came in.
#[derive(Debug, Default)]
pub(super) struct TensorParameters<'a> {
    /// How many bytes after the document are the tensor's.
    pub(super) binary_data_size: Option<usize>,
    /// Whether the data is said to lie in shared memory.
    pub(super) in_shared_memory: bool,
    /// The others, unread: those of an output have no meaning to batchwise.
    own: Vec<(String, &'a RawValue)>,
}

impl TensorParameters<'_> {
    /// Takes out those that are for the model; `null` is as good as none.
    pub(super) fn take_own(&mut self, tensor: &str) -> Result<Parameters, Fault> {
        let mut parameters = Parameters::new();
        for (name, text) in std::mem::take(&mut self.own) {
            match serde_json::from_str::<Option<ParameterDocument>>(text.get()) {
                Ok(None) => {}
                Ok(Some(ParameterDocument(value))) => drop(parameters.insert(name, value)),
                Err(_) => {
                    let right = "true, false, a number or a string";
                    let message = format!("input '{tensor}': parameter '{name}' must be {right}");
                    return Err(Fault::invalid(name, message));
                }
            }
        }
        Ok(parameters)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for TensorParameters<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ParametersVisitor)
    }
}

/// A parameter's name, owned only where it is the model's.
#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Name {
    BinaryDataSize,
    Other(String),
}

struct ParametersVisitor;

impl<'de> Visitor<'de> for ParametersVisitor {
    type Value = TensorParameters<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("parameters by their names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut parameters = TensorParameters::default();
        while let Some(name) = map.next_key()? {
            match name {
                Name::BinaryDataSize if parameters.binary_data_size.is_some() => {
                    return Err(A::Error::duplicate_field(BINARY_DATA_SIZE));
                }
                Name::BinaryDataSize => parameters.binary_data_size = map.next_value()?,
                Name::Other(name) if is_about_shared_memory(&name) => {
                    parameters.in_shared_memory |=
                        map.next_value::<Option<IgnoredAny>>()?.is_some();
                }
                Name::Other(name) if is_about_transport(&name) => {
                    map.next_value::<IgnoredAny>()?;
                }
                Name::Other(name) => parameters.own.push((name, map.next_value()?)),
            }
        }
        Ok(parameters)
    }
}

/// Parameters of a tensor whose data follows the document.
#[derive(Debug)]
pub(super) struct BinaryParameters<'a> {
    pub(super) size: usize,
    pub(super) own: Option<&'a Parameters>,
}

impl Serialize for BinaryParameters<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in self.own.into_iter().flatten() {
            map.serialize_entry(name, &ParameterText(value))?;
        }
        map.serialize_entry(BINARY_DATA_SIZE, &self.size)?;
        map.end()
    }
}
