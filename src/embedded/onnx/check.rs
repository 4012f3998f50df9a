//! Whether what came is what the model takes.

use std::collections::BTreeMap;
use std::fmt;

use super::{Axis, TensorSignature};
use crate::tensor::{DataType, Shape, Tensor};

/// Why a run gave no answer. All but [`RunError::Failed`] are the caller's to mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// An input that the model does not have.
    #[error("input '{name}' is unknown; the model takes {expected}")]
    Unknown {
        /// The name that came.
        name: String,
        /// The inputs that the model has.
        expected: String,
    },
    /// An input of the model that did not come.
    #[error("input '{name}' is missing; the model takes {expected}")]
    Missing {
        /// The name of the input.
        name: String,
        /// The inputs that the model has.
        expected: String,
    },
    /// An input that came more than once.
    #[error("input '{name}' came more than once; send it once, with all its rows")]
    Repeated {
        /// The name of the input.
        name: String,
    },
    /// Elements of another type.
    #[error("input '{name}' has datatype {got}; the model takes {expected}")]
    Datatype {
        /// The name of the input.
        name: String,
        /// What came.
        got: DataType,
        /// What would be right.
        expected: DataType,
    },
    /// Another number of axes, or an axis of another extent.
    #[error(
        "input '{name}' has shape {got}; the model takes {expected}, where -1 is any extent of 1 \
         or more"
    )]
    Shape {
        /// The name of the input.
        name: String,
        /// What came.
        got: Shape,
        /// What would be right.
        expected: String,
    },
    /// Two axes that the model takes to be equal differ.
    #[error(
        "input '{name}' has shape {got}, but axis {axis} must be {expected}, as in input '{other}'"
    )]
    Disagreement {
        /// The name of the input.
        name: String,
        /// Its shape.
        got: Shape,
        /// The axis that differs.
        axis: usize,
        /// The extent that the other input has set.
        expected: u64,
        /// The other input.
        other: String,
    },
    /// A BOOL byte that is neither 0 nor 1.
    #[error("input '{name}' has {got} as element {index}; a BOOL is 0 or 1")]
    Boolean {
        /// The name of the input.
        name: String,
        /// The index of the element, row-major.
        index: usize,
        /// What came.
        got: u8,
    },
    /// The model failed on these values.
    #[error("the model failed: {0}")]
    Failed(String),
}

impl RunError {
    /// The input that is wrong; `None` when the model failed.
    pub fn input(&self) -> Option<&str> {
        match self {
            RunError::Unknown { name, .. }
            | RunError::Missing { name, .. }
            | RunError::Repeated { name }
            | RunError::Datatype { name, .. }
            | RunError::Shape { name, .. }
            | RunError::Disagreement { name, .. }
            | RunError::Boolean { name, .. } => Some(name),
            RunError::Failed(_) => None,
        }
    }
}

/// The inputs in the model's order, once they are known to be what it takes.
pub(super) fn in_order<'a>(
    described: &[TensorSignature],
    inputs: &'a [Tensor],
) -> Result<Vec<&'a Tensor>, RunError> {
    if let Some(stranger) =
        inputs.iter().find(|input| described.iter().all(|known| known.name() != input.name()))
    {
        return Err(RunError::Unknown {
            name: stranger.name().chars().take(MAX_ECHOED_NAME).collect(),
            expected: list(described),
        });
    }
    let mut open = OpenAxes::new();
    described
        .iter()
        .map(|wanted| {
            let mut named = inputs.iter().filter(|input| input.name() == wanted.name());
            let Some(input) = named.next() else {
                return Err(RunError::Missing {
                    name: wanted.name.clone(),
                    expected: list(described),
                });
            };
            if named.next().is_some() {
                return Err(RunError::Repeated { name: wanted.name.clone() });
            }
            check_one(wanted, input, &mut open)?;
            Ok(input)
        })
        .collect()
}

/// A caller's name is cut to this many characters before it is repeated to them.
const MAX_ECHOED_NAME: usize = 64;

/// By name of the axis: its extent, and the input that set it.
type OpenAxes<'a> = BTreeMap<&'a str, (u64, &'a str)>;

fn check_one<'a>(
    wanted: &'a TensorSignature,
    input: &Tensor,
    open: &mut OpenAxes<'a>,
) -> Result<(), RunError> {
    if input.datatype() != wanted.datatype {
        return Err(RunError::Datatype {
            name: wanted.name.clone(),
            got: input.datatype(),
            expected: wanted.datatype,
        });
    }
    let wrong_shape = || RunError::Shape {
        name: wanted.name.clone(),
        got: input.shape().clone(),
        expected: format!("{:?}", wanted.shape()),
    };
    let extents = input.shape().axes();
    if extents.len() != wanted.axes.len() {
        return Err(wrong_shape());
    }
    for (index, (&got, axis)) in extents.iter().zip(&wanted.axes).enumerate() {
        match axis {
            Axis::Fixed(expected) if got != *expected => return Err(wrong_shape()),
            Axis::Open(_) if got == 0 => return Err(wrong_shape()),
            Axis::Open(symbol) => {
                let (expected, other) =
                    *open.entry(symbol.as_str()).or_insert((got, wanted.name.as_str()));
                if got != expected {
                    return Err(RunError::Disagreement {
                        name: wanted.name.clone(),
                        got: input.shape().clone(),
                        axis: index,
                        expected,
                        other: other.to_owned(),
                    });
                }
            }
            Axis::Fixed(_) | Axis::Derived => {}
        }
    }
    Ok(())
}

fn list(described: &[TensorSignature]) -> String {
    described.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for TensorSignature {
    /// For example `'image' FP32 [-1, 64]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' {} {:?}", self.name, self.datatype, self.shape())
    }
}
