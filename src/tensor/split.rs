//! One batch's outputs to each call's own, and one call's inputs to parts.

use bytes::Buf as _;

use super::tensor::skip_element;
use super::{Rope, RopeReader, Shape, Tensor};

/// An output that does not have the batch's rows along axis 0, so that nobody can say whose it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("output '{name}' has shape {shape}, which does not begin with the batch's {rows} rows")]
pub struct NotBatched {
    /// The output's name.
    pub name: String,
    /// Its shape.
    pub shape: Shape,
    /// The rows that the batch had.
    pub rows: u64,
}

/// Cuts a batch's tensors into runs of rows, in order, without copying.
///
/// Returns one list of tensors for each entry of `rows_of_calls`.
///
/// # Errors
/// When a tensor's rows are not the sum of `rows_of_calls`.
pub fn split(tensors: &[Tensor], rows_of_calls: &[u32]) -> Result<Vec<Vec<Tensor>>, NotBatched> {
    let rows: u64 = rows_of_calls.iter().copied().map(u64::from).sum();
    if let Some(odd) = tensors.iter().find(|tensor| tensor.shape().rows() != Some(rows)) {
        return Err(NotBatched { name: odd.name().to_owned(), shape: odd.shape().clone(), rows });
    }
    let mut readers: Vec<_> = tensors.iter().map(|tensor| tensor.data().reader()).collect();
    Ok(rows_of_calls
        .iter()
        .map(|&rows| {
            tensors
                .iter()
                .zip(&mut readers)
                .map(|(tensor, reader)| take_rows(tensor, reader, u64::from(rows)))
                .collect()
        })
        .collect())
}

/// Cuts the first `rows` rows off `tensors`; what remains stays in place.
///
/// A tensor with fewer rows gives all that it has.
pub fn split_rows(tensors: &mut [Tensor], rows: u32) -> Vec<Tensor> {
    tensors
        .iter_mut()
        .map(|tensor| {
            let all = tensor.shape().rows().unwrap_or(1);
            let taken = u64::from(rows).min(all);
            let mut reader = tensor.data().reader();
            let head = take_rows(tensor, &mut reader, taken);
            let tail = take_rows(tensor, &mut reader, all - taken);
            *tensor = tail;
            head
        })
        .collect()
}

fn take_rows(tensor: &Tensor, reader: &mut RopeReader<'_>, rows: u64) -> Tensor {
    let data = match tensor.datatype().element_size() {
        Some(size) => {
            let bytes = rows * tensor.shape().elements_per_row() * size as u64;
            reader.take_rope(usize::try_from(bytes).unwrap_or(usize::MAX))
        }
        None => take_elements(reader, rows * tensor.shape().elements_per_row()),
    };
    let shape = tensor.shape().with_rows(rows);
    Tensor::trusted(tensor.name().to_owned(), tensor.datatype(), shape, data)
}

fn take_elements(reader: &mut RopeReader<'_>, elements: u64) -> Rope {
    let mut ahead = reader.clone();
    let before = ahead.remaining();
    for _ in 0..elements {
        if skip_element(&mut ahead).is_none() {
            break;
        }
    }
    reader.take_rope(before - ahead.remaining())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::super::{DataType, join};
    use super::*;

    fn call(datatype: DataType, rows: u32, seed: u8) -> Vec<Tensor> {
        let mut data = Rope::new();
        for row in 0..rows * 2 {
            let byte = seed.wrapping_add(u8::try_from(row % 251).unwrap());
            match datatype.element_size() {
                Some(size) => data.push(Bytes::from(vec![byte; size])),
                None => {
                    let length = usize::from(byte % 5);
                    let mut element = u32::try_from(length).unwrap().to_le_bytes().to_vec();
                    element.extend(std::iter::repeat_n(byte, length));
                    data.push(Bytes::from(element));
                }
            }
        }
        let shape = Shape::from(&[u64::from(rows), 2][..]);
        vec![Tensor::new("x", datatype, shape, data).unwrap()]
    }

    proptest! {
        #[test]
        fn what_was_joined_splits_back(
            parts in prop::collection::vec((0_u32..5, any::<u8>()), 1..9),
            datatype in prop::sample::select(DataType::ALL.to_vec()),
        ) {
            let calls: Vec<_> =
                parts.iter().map(|&(rows, seed)| call(datatype, rows, seed)).collect();
            let joined = join(calls.iter().map(Vec::as_slice));
            let rows: Vec<_> = parts.iter().map(|&(rows, _)| rows).collect();
            prop_assert_eq!(split(&joined, &rows).unwrap(), calls);
        }

        #[test]
        fn a_head_and_its_tail_join_to_the_whole(
            rows in 0_u32..9,
            head in 0_u32..12,
            seed: u8,
            datatype in prop::sample::select(DataType::ALL.to_vec()),
        ) {
            let whole = call(datatype, rows, seed);
            let mut tail = whole.clone();
            let head = split_rows(&mut tail, head);
            prop_assert_eq!(join([head.as_slice(), tail.as_slice()].into_iter()), whole);
        }
    }

    #[test]
    fn an_output_without_the_rows_is_refused() {
        let outputs = call(DataType::Fp32, 3, 0);
        let error = split(&outputs, &[1, 1]).unwrap_err();
        assert_eq!((error.name.as_str(), error.rows), ("x", 2));
    }
}
