//! Tensors of the wire to tensors of the runtime, and back.

use tract_onnx::prelude::{DatumType, Tensor as TractTensor};

use super::{RunError, TensorSignature};
use crate::tensor::{DataType, Rope, Shape, Tensor};

// The wire is little-endian and the runtime computes in the machine's order; bytes are copied as
// they are.
const _: () = assert!(cfg!(target_endian = "little"));

/// The datatypes that both sides have. The runtime has no BF16, and its strings are no flat bytes.
const PAIRS: [(DataType, DatumType); 12] = [
    (DataType::Bool, DatumType::Bool),
    (DataType::Uint8, DatumType::U8),
    (DataType::Uint16, DatumType::U16),
    (DataType::Uint32, DatumType::U32),
    (DataType::Uint64, DatumType::U64),
    (DataType::Int8, DatumType::I8),
    (DataType::Int16, DatumType::I16),
    (DataType::Int32, DatumType::I32),
    (DataType::Int64, DatumType::I64),
    (DataType::Fp16, DatumType::F16),
    (DataType::Fp32, DatumType::F32),
    (DataType::Fp64, DatumType::F64),
];

/// The wire's name of the runtime's type.
pub(super) fn wire_type(datum: DatumType) -> Option<DataType> {
    PAIRS.iter().find(|(_, theirs)| *theirs == datum).map(|(ours, _)| *ours)
}

/// The runtime's name of the wire's type.
pub(super) fn tract_type(datatype: DataType) -> Option<DatumType> {
    PAIRS.iter().find(|(ours, _)| *ours == datatype).map(|(_, theirs)| *theirs)
}

/// Copies a checked input into the runtime's memory.
pub(super) fn to_tract(tensor: &Tensor) -> Result<TractTensor, RunError> {
    let failed = |reason: String| RunError::Failed(format!("input '{}': {reason}", tensor.name()));
    let datum = tract_type(tensor.datatype())
        .ok_or_else(|| failed(format!("{} is not supported", tensor.datatype())))?;
    if tensor.datatype() == DataType::Bool {
        check_booleans(tensor)?;
    }
    let extents = tensor
        .shape()
        .axes()
        .iter()
        .map(|&extent| usize::try_from(extent))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failed(error.to_string()))?;
    let mut copy = TractTensor::zero_dt(datum, &extents).map_err(|e| failed(format!("{e:#}")))?;
    let mut plain = copy.try_as_plain_ram_mut().map_err(|e| failed(format!("{e:#}")))?;
    let mut room = plain.as_bytes_mut();
    for segment in tensor.data().segments() {
        let Some((part, rest)) = room.split_at_mut_checked(segment.len()) else {
            return Err(failed("more bytes than the shape needs".to_owned()));
        };
        part.copy_from_slice(segment);
        room = rest;
    }
    Ok(copy)
}

/// A boolean that is neither 0 nor 1 would be undefined behaviour in the runtime.
fn check_booleans(tensor: &Tensor) -> Result<(), RunError> {
    let bytes = tensor.data().segments().iter().flatten();
    match bytes.enumerate().find(|(_, byte)| **byte > 1) {
        None => Ok(()),
        Some((index, &got)) => {
            Err(RunError::Boolean { name: tensor.name().to_owned(), index, got })
        }
    }
}

/// Copies an answer out of the runtime's memory.
pub(super) fn from_tract(
    described: &TensorSignature,
    answer: &TractTensor,
) -> Result<Tensor, RunError> {
    let name = described.name();
    let failed = |reason: String| RunError::Failed(format!("output '{name}': {reason}"));
    if wire_type(answer.datum_type()) != Some(described.datatype()) {
        return Err(failed(format!("came as {:?}", answer.datum_type())));
    }
    let plain = answer.try_as_plain_ram().map_err(|error| failed(format!("{error:#}")))?;
    let extents: Vec<u64> = answer.shape().iter().map(|&extent| extent as u64).collect();
    let data = Rope::from(plain.as_bytes().to_vec());
    Tensor::new(name, described.datatype(), Shape::from(extents.as_slice()), data)
        .map_err(|error| failed(error.to_string()))
}
