//! From the bytes of an ONNX file to a plan.

use std::io::Cursor;
use std::sync::Arc;

use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::{
    DatumType, Framework, InferenceFact, InferenceModel, InferenceModelExt, IntoRunnable,
    SpecialOps, Symbol, TDim, TractResult, TypedFact, TypedModel, onnx,
};
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_hir::infer::{Factoid, GenericFactoid, ShapeFactoid};

use super::{Axis, OnnxModel, TensorSignature, datatype};

/// Why a file cannot serve as a model.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not ONNX, or with operators or shapes that the runtime does not know.
    #[error("the ONNX model cannot be {step}: {reason}")]
    Unusable {
        /// What was being done: read, understood, optimised or planned.
        step: &'static str,
        /// The runtime's words.
        reason: String,
    },
    /// The file contradicts itself.
    #[error("the ONNX model contradicts itself: {0}")]
    Inconsistent(String),
    /// A node reads a tensor that nothing produces.
    #[error("the ONNX model uses tensors that nothing produces: {0:?}")]
    Unresolved(Vec<String>),
    /// An input or output whose elements cannot be carried.
    #[error(
        "tensor '{name}' of the ONNX model has elements of type {datatype}; supported are BOOL, \
         integers, FP16, FP32 and FP64"
    )]
    Datatype {
        /// The tensor's name.
        name: String,
        /// The runtime's name of the type.
        datatype: String,
    },
    /// An input that does not even say how many axes it has.
    #[error("input '{0}' of the ONNX model does not say how many axes it has")]
    UnknownRank(String),
}

pub(super) fn load(bytes: &[u8]) -> Result<OnnxModel, LoadError> {
    let proto = onnx().proto_model_for_read(&mut Cursor::new(bytes)).or_unusable("read")?;
    let parsed = onnx().parse(&proto, None).or_unusable("understood")?;
    if !parsed.unresolved_inputs.is_empty() {
        return Err(LoadError::Unresolved(parsed.unresolved_inputs));
    }
    let mut model = parsed.model;
    let inputs = name_open_axes(&mut model)?;
    let mut typed = model.into_typed().or_unusable("understood")?;
    resolve_shape_outputs(&mut typed).or_unusable("understood")?;
    let typed = typed.into_optimized().or_unusable("optimised")?;
    let outlets = typed.output_outlets().or_unusable("optimised")?;
    let outputs = output_names(&proto)
        .zip(outlets)
        .map(|(name, outlet)| {
            let fact = typed.outlet_fact(*outlet).or_unusable("understood")?;
            describe_output(name, fact)
        })
        .collect::<Result<Vec<_>, LoadError>>()?;
    let plan = typed.into_runnable().or_unusable("planned")?;
    Ok(OnnxModel { inputs: Arc::from(inputs), outputs: Arc::from(outputs), plan })
}

/// Gives a symbol to every axis whose extent the file leaves open, so that the plan holds for all
/// extents, and describes the inputs.
///
/// An open first axis without a name is taken to be the batch axis, one for all inputs.
fn name_open_axes(model: &mut InferenceModel) -> Result<Vec<TensorSignature>, LoadError> {
    let batch = model.symbols.new_with_prefix("batch");
    let mut inputs = Vec::new();
    for outlet in model.input_outlets().or_unusable("understood")?.to_vec() {
        let name = model.node(outlet.node).name.clone();
        let fact = model.outlet_fact(outlet).or_unusable("understood")?.clone();
        if fact.shape.is_open() {
            return Err(LoadError::UnknownRank(name));
        }
        let datatype = carried(&name, fact.datum_type.concretize())?;
        let mut dims = Vec::new();
        for (index, dim) in fact.shape.dims().enumerate() {
            dims.push(match dim {
                GenericFactoid::Only(dim) => dim.clone(),
                GenericFactoid::Any if index == 0 => TDim::Sym(batch.clone()),
                GenericFactoid::Any => TDim::Sym(new_symbol(model)),
            });
        }
        let axes = dims.iter().map(axis).collect();
        let shape = ShapeFactoid::closed(dims.into_iter().map(GenericFactoid::Only).collect());
        let fact = InferenceFact::default()
            .with_datum_type(datatype::tract_type(datatype).ok_or_else(|| unsupported(&name))?)
            .with_shape(shape);
        model.set_outlet_fact(outlet, fact).or_unusable("understood")?;
        inputs.push(TensorSignature { name, datatype, axes });
    }
    Ok(inputs)
}

/// Casts outputs that are integers about shapes, which the runtime keeps as expressions of the
/// open axes, to numbers: only inside a run are the axes known.
fn resolve_shape_outputs(model: &mut TypedModel) -> TractResult<()> {
    let mut outlets = model.output_outlets()?.to_vec();
    for outlet in &mut outlets {
        if model.outlet_fact(*outlet)?.datum_type.is_tdim() {
            let name = format!("{}.resolved", model.node(outlet.node).name);
            let resolved = model.wire_node(name, cast(DatumType::I64), &[*outlet])?;
            *outlet = resolved.first().copied().unwrap_or(*outlet);
        }
    }
    model.select_output_outlets(&outlets)
}

fn new_symbol(model: &InferenceModel) -> Symbol {
    model.symbols.new_with_prefix("extent")
}

fn output_names(proto: &ModelProto) -> impl Iterator<Item = &str> {
    proto.graph.iter().flat_map(|graph| &graph.output).map(|output| output.name.as_str())
}

fn describe_output(name: &str, fact: &TypedFact) -> Result<TensorSignature, LoadError> {
    let datatype = carried(name, Some(fact.datum_type))?;
    let axes = fact.shape.iter().map(axis).collect();
    Ok(TensorSignature { name: name.to_owned(), datatype, axes })
}

fn axis(dim: &TDim) -> Axis {
    match dim {
        TDim::Sym(symbol) => Axis::Open(symbol.to_string()),
        dim => dim
            .as_i64()
            .and_then(|extent| u64::try_from(extent).ok())
            .map_or(Axis::Derived, Axis::Fixed),
    }
}

fn carried(name: &str, found: Option<DatumType>) -> Result<crate::tensor::DataType, LoadError> {
    found.and_then(datatype::wire_type).ok_or_else(|| LoadError::Datatype {
        name: name.to_owned(),
        datatype: found.map_or_else(|| "unknown".to_owned(), |found| format!("{found:?}")),
    })
}

fn unsupported(name: &str) -> LoadError {
    LoadError::Datatype { name: name.to_owned(), datatype: "unknown".to_owned() }
}

trait OrUnusable<T> {
    fn or_unusable(self, step: &'static str) -> Result<T, LoadError>;
}

impl<T> OrUnusable<T> for TractResult<T> {
    fn or_unusable(self, step: &'static str) -> Result<T, LoadError> {
        self.map_err(|error| LoadError::Unusable { step, reason: format!("{error:#}") })
    }
}
