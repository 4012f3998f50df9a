//! Many calls' inputs to one batch's inputs.

use super::{Rope, Tensor};

/// Joins the inputs of `calls` along the batch axis, in order, without copying.
///
/// The calls must agree in everything but their rows: names and their order, datatypes, shapes
/// after axis 0. Row-major data and length-prefixed elements both join by concatenation.
#[expect(clippy::needless_pass_by_value, reason = "an iterator is passed by value")]
pub fn join<'a>(calls: impl Iterator<Item = &'a [Tensor]> + Clone) -> Vec<Tensor> {
    let Some(first) = calls.clone().next() else { return Vec::new() };
    first
        .iter()
        .enumerate()
        .map(|(index, model)| {
            let mut data = Rope::new();
            let mut rows = 0;
            for part in calls.clone().filter_map(|inputs| inputs.get(index)) {
                debug_assert_eq!(
                    (part.name(), part.datatype(), part.shape().axes().get(1..)),
                    (model.name(), model.datatype(), model.shape().axes().get(1..)),
                );
                data.append(part.data());
                rows += part.shape().rows().unwrap_or(1);
            }
            let shape = model.shape().with_rows(rows);
            Tensor::trusted(model.name().to_owned(), model.datatype(), shape, data)
        })
        .collect()
}
