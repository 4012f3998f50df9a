//! Tensors as the wire carries them: a datatype, a shape and little-endian, row-major bytes.
//!
//! Nothing here copies tensor bytes. A [`Rope`] is a list of reference-counted slices, so joining
//! the inputs of many calls along the batch axis is appending lists, and splitting an answer is
//! slicing them.
//!
//! This room is pure: it knows no wire format, no clock and no task.

mod datatype;
mod join;
mod rope;
mod shape;
mod split;
#[expect(clippy::module_inception, reason = "the room is named after its main type")]
mod tensor;

pub use datatype::{DataType, UnknownDataType};
pub use join::join;
pub use rope::{Rope, RopeReader};
pub use shape::{Shape, ShapeError};
pub use split::{NotBatched, split, split_rows};
pub use tensor::{Tensor, TensorError};
