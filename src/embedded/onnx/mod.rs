//! ONNX models, run in process.
//!
//! The model is optimised and planned once, with its open axes as symbols; a run only binds the
//! symbols. A plan per batch size was measured to save a tenth at most (for `digits`), and would
//! need a cache with a bound.

mod check;
mod datatype;
mod load;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tract_onnx::prelude::{TValue, TVec, TypedRunnableModel};

use crate::tensor::{DataType, Tensor};

pub use check::RunError;
pub use load::LoadError;

/// A model that is ready to run; cheap to clone, and any number of threads may run it at once.
#[derive(Clone)]
pub struct OnnxModel {
    inputs: Arc<[TensorSignature]>,
    outputs: Arc<[TensorSignature]>,
    plan: Arc<TypedRunnableModel>,
}

/// What a model takes or gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSignature {
    name: String,
    datatype: DataType,
    axes: Vec<Axis>,
}

/// One axis of a described tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Axis {
    Fixed(u64),
    /// Any extent of 1 or more, the same wherever the name occurs.
    Open(String),
    /// An extent that follows from the open ones.
    Derived,
}

// === impl OnnxModel ===

impl OnnxModel {
    /// Reads, optimises and plans a model. Takes milliseconds for small models, seconds for large.
    ///
    /// # Errors
    /// When `bytes` is no ONNX model, or one that this runtime cannot run.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LoadError> {
        // The loader indexes by what the file says, and panics where the file contradicts itself.
        catch_unwind(AssertUnwindSafe(|| load::load(bytes)))
            .unwrap_or_else(|cause| Err(LoadError::Inconsistent(panic_message(&*cause))))
    }

    /// The inputs, in the model's order.
    pub fn inputs(&self) -> &[TensorSignature] {
        &self.inputs
    }

    /// The outputs, in the model's order.
    pub fn outputs(&self) -> &[TensorSignature] {
        &self.outputs
    }

    /// Whether the rows of several callers can share a run: axis 0 of every input and output is
    /// the same open axis.
    pub fn batches(&self) -> bool {
        let mut tensors = self.inputs.iter().chain(self.outputs.iter());
        let first = self.inputs.first().and_then(|input| input.axes.first());
        matches!(first, Some(Axis::Open(_))) && tensors.all(|tensor| tensor.axes.first() == first)
    }

    /// Runs the model on all rows at once and returns every output, in the model's order.
    ///
    /// The inputs may come in any order. Computes on the calling thread: an asynchronous caller
    /// uses a thread that may block.
    ///
    /// # Errors
    /// When the inputs are not what the model takes, or when it fails on their values.
    pub fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, RunError> {
        let ordered = check::in_order(&self.inputs, inputs)?;
        let values = ordered
            .into_iter()
            .map(|tensor| Ok(TValue::from(datatype::to_tract(tensor)?)))
            .collect::<Result<TVec<_>, RunError>>()?;
        // Kernels assert on values that the graph did not guard against, such as an index past the
        // end. The plan is not touched by a run and the state of this run dies with it.
        let answers = catch_unwind(AssertUnwindSafe(|| self.plan.run(values)))
            .map_err(|cause| RunError::Failed(panic_message(&*cause)))?
            .map_err(|error| RunError::Failed(format!("{error:#}")))?;
        self.outputs
            .iter()
            .zip(answers)
            .map(|(output, answer)| datatype::from_tract(output, &answer))
            .collect()
    }
}

impl fmt::Debug for OnnxModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnnxModel")
            .field("inputs", &self.inputs)
            .field("outputs", &self.outputs)
            .finish_non_exhaustive()
    }
}

fn panic_message(cause: &(dyn std::any::Any + Send)) -> String {
    let text = cause.downcast_ref::<&str>().copied();
    text.or_else(|| cause.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("the model runtime broke off")
        .to_owned()
}

// === impl TensorSignature ===

impl TensorSignature {
    /// The name by which requests and replies know the tensor.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type of its elements.
    pub fn datatype(&self) -> DataType {
        self.datatype
    }

    /// Its extents as model metadata writes them: -1 where any extent of 1 or more will do.
    pub fn shape(&self) -> Vec<i64> {
        let extent = |axis: &Axis| match axis {
            Axis::Fixed(extent) => i64::try_from(*extent).unwrap_or(i64::MAX),
            Axis::Open(_) | Axis::Derived => -1,
        };
        self.axes.iter().map(extent).collect()
    }

    /// Whether axis 0 is open; [`OnnxModel::batches`] says whether that makes the model one that
    /// batches.
    pub fn batches(&self) -> bool {
        matches!(self.axes.first(), Some(Axis::Open(_)))
    }
}

#[cfg(test)]
mod tests;
