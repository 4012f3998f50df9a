//! The extent of a tensor along each axis.

use std::fmt;

use smallvec::SmallVec;

/// The most axes that a tensor may have.
const MAX_AXES: usize = 64;

/// The extent of a tensor along each axis; axis 0 is the batch axis.
///
/// A `Shape` has at most 64 axes and its element count fits `u64`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Shape(SmallVec<[u64; 4]>);

/// A shape that no tensor can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// An axis of a concrete tensor is negative.
    #[error("shape[{axis}] is {extent}; a tensor that is sent needs extents of 0 or more")]
    Negative {
        /// The index of the axis.
        axis: usize,
        /// What was given.
        extent: i64,
    },
    /// The element count does not fit 63 bits.
    #[error("shape {0:?} has more elements than can be counted")]
    Overflow(Vec<i64>),
    /// More axes than any tensor needs.
    #[error("a shape has at most {MAX_AXES} axes, this one has {0}")]
    TooManyAxes(usize),
}

impl Shape {
    /// A shape from the wire's signed extents.
    ///
    /// # Errors
    /// When an extent is negative, the element count overflows or there are too many axes.
    pub fn from_wire(extents: &[i64]) -> Result<Self, ShapeError> {
        if extents.len() > MAX_AXES {
            return Err(ShapeError::TooManyAxes(extents.len()));
        }
        let mut axes = SmallVec::with_capacity(extents.len());
        for (axis, &extent) in extents.iter().enumerate() {
            let extent =
                u64::try_from(extent).map_err(|_| ShapeError::Negative { axis, extent })?;
            axes.push(extent);
        }
        // Zero extents must not hide an overflow of the others: they would surface when sliced.
        axes.iter()
            .filter(|&&extent| extent > 0)
            .try_fold(1_i64, |product, &extent| product.checked_mul(i64::try_from(extent).ok()?))
            .ok_or_else(|| ShapeError::Overflow(extents.to_vec()))?;
        Ok(Self(axes))
    }

    /// The extents as the wire writes them.
    pub fn to_wire(&self) -> impl Iterator<Item = i64> + '_ {
        self.0.iter().map(|&extent| i64::try_from(extent).unwrap_or(i64::MAX))
    }

    /// The extents, axis 0 first.
    pub fn axes(&self) -> &[u64] {
        &self.0
    }

    /// The extent of axis 0: the rows; `None` for a scalar.
    pub fn rows(&self) -> Option<u64> {
        self.0.first().copied()
    }

    /// The number of elements; 1 for a scalar.
    pub fn elements(&self) -> u64 {
        self.0.iter().product()
    }

    /// The number of elements in one row; 1 for a scalar.
    pub fn elements_per_row(&self) -> u64 {
        self.0.iter().skip(1).product()
    }

    /// The same shape with another number of rows; a scalar stays a scalar.
    #[must_use]
    pub fn with_rows(&self, rows: u64) -> Self {
        let mut axes = self.0.clone();
        if let Some(first) = axes.first_mut() {
            *first = rows;
        }
        Self(axes)
    }
}

impl From<&[u64]> for Shape {
    fn from(axes: &[u64]) -> Self {
        Self(SmallVec::from_slice(axes))
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (axis, extent) in self.0.iter().enumerate() {
            if axis > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{extent}")?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_no_tensor_can_have() {
        assert_eq!(Shape::from_wire(&[2, -1]), Err(ShapeError::Negative { axis: 1, extent: -1 }));
        assert!(matches!(Shape::from_wire(&[i64::MAX, 2]), Err(ShapeError::Overflow(_))));
        assert!(matches!(Shape::from_wire(&[0, i64::MAX, 2]), Err(ShapeError::Overflow(_))));
        assert!(matches!(Shape::from_wire(&[1; 65]), Err(ShapeError::TooManyAxes(65))));
    }

    #[test]
    fn counts_elements_and_rows() {
        let shape = Shape::from_wire(&[3, 2, 4]).unwrap();
        assert_eq!((shape.rows(), shape.elements(), shape.elements_per_row()), (Some(3), 24, 8));
        assert_eq!(Shape::default().elements(), 1);
        assert_eq!(shape.with_rows(5).axes(), [5, 2, 4]);
    }
}
