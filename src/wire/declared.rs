//! What the wire has to know of a model to read bodies that do not say everything themselves.

use crate::tensor::DataType;

/// An input as the model declares it.
#[derive(Clone, Copy, Debug)]
pub struct DeclaredInput<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its element type.
    pub datatype: DataType,
    /// Its extents with the batch axis; -1 where any extent will do.
    pub shape: &'a [i64],
}
