//! Bodies that are one raw tensor: no JSON, `Inference-Header-Content-Length: 0`.

use bytes::Bytes;

use super::{OutputForm, ParsedInfer};
use crate::call::{Fault, InferRequest};
use crate::tensor::{Rope, Shape, Tensor};
use crate::wire::DeclaredInput;
use crate::wire::parameters::Scheduling;

/// Reads a body that is the data of a model's only input; all outputs are wanted as binary.
///
/// `inputs` are those that the model declares, `batched` whether axis 0 of them is its batch axis,
/// which is then 1 row. One more axis may be of any extent: it follows from the body's size. A
/// BYTES input is one element, the whole body, without a length before it.
///
/// # Errors
/// When the model has not exactly one input, more than one axis is open, or the size does not fit.
pub fn parse_raw_infer_request(
    inputs: &[DeclaredInput<'_>],
    batched: bool,
    body: impl Into<Rope>,
) -> Result<ParsedInfer, Fault> {
    let [input] = inputs else {
        return Err(Fault::invalid(
            "inputs",
            format!(
                "a body that is one raw tensor (header Inference-Header-Content-Length 0) needs a \
                 model that declares exactly one input; this one declares {}",
                inputs.len()
            ),
        ));
    };
    let body = body.into();
    let tensor = match input.datatype.element_size() {
        Some(size) => fixed_size(input, batched, size, body)?,
        None => one_string(input, batched, &body)?,
    };
    Ok(ParsedInfer {
        id: String::new(),
        request: InferRequest { inputs: vec![tensor], ..InferRequest::default() },
        scheduling: Scheduling { binary_data_output: true, ..Scheduling::default() },
        binary_outputs: OutputForm { all: true, named: Vec::new() },
    })
}

fn fixed_size(
    input: &DeclaredInput<'_>,
    batched: bool,
    element_size: usize,
    body: Rope,
) -> Result<Tensor, Fault> {
    let mut extents = one_row(input, batched);
    let known: i64 = extents
        .iter()
        .filter(|&&extent| extent >= 0)
        .try_fold(i64::try_from(element_size).unwrap_or(1), |product, &extent| {
            product.checked_mul(extent)
        })
        .unwrap_or(i64::MAX);
    let mut open = extents.iter_mut().filter(|extent| **extent < 0);
    if let Some(extent) = open.next() {
        if open.next().is_some() {
            return Err(unfit(input, "more than one axis of its shape is open"));
        }
        let size = i64::try_from(body.len()).unwrap_or(i64::MAX);
        if known == 0 || size % known != 0 {
            return Err(unfit(input, &format!("{size} bytes do not divide into its open axis")));
        }
        *extent = size / known;
    }
    tensor(input, &extents, body)
}

fn one_string(input: &DeclaredInput<'_>, batched: bool, body: &Rope) -> Result<Tensor, Fault> {
    let declared = one_row(input, batched);
    if declared.iter().any(|&extent| extent > 1 || extent == 0) {
        return Err(unfit(input, "a raw BYTES tensor is one element, but its shape is not"));
    }
    let extents = vec![1; declared.len()];
    let length = u32::try_from(body.len()).map_err(|_| unfit(input, "it is 4 GiB or longer"))?;
    let mut data = Rope::from(Bytes::copy_from_slice(&length.to_le_bytes()));
    data.append(body);
    tensor(input, &extents, data)
}

fn one_row(input: &DeclaredInput<'_>, batched: bool) -> Vec<i64> {
    let mut extents = input.shape.to_vec();
    match extents.first_mut() {
        Some(first) if batched && *first < 0 => *first = 1,
        _ => {}
    }
    extents
}

fn tensor(input: &DeclaredInput<'_>, extents: &[i64], data: Rope) -> Result<Tensor, Fault> {
    let shape = Shape::from_wire(extents).map_err(|error| unfit(input, &error.to_string()))?;
    Tensor::new(input.name, input.datatype, shape, data)
        .map_err(|error| Fault::invalid(input.name.to_owned(), error.to_string()))
}

fn unfit(input: &DeclaredInput<'_>, why: &str) -> Fault {
    let DeclaredInput { name, datatype, shape } = input;
    let message = format!(
        "the body as raw data of input '{name}' ({datatype}, shape {shape:?}): {why}; send a JSON \
         request that gives the shape"
    );
    Fault::invalid((*name).to_owned(), message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DataType;

    fn shape_of(
        datatype: DataType,
        shape: &[i64],
        batched: bool,
        body: &[u8],
    ) -> Result<Vec<u64>, String> {
        let input = DeclaredInput { name: "x", datatype, shape };
        parse_raw_infer_request(&[input], batched, Rope::from(body.to_vec()))
            .map(|parsed| parsed.request.inputs[0].shape().axes().to_vec())
            .map_err(|fault| fault.to_string())
    }

    #[test]
    fn the_open_axis_follows_from_the_size() {
        let floats =
            |shape: &[i64], batched, size| shape_of(DataType::Fp32, shape, batched, &vec![0; size]);
        assert_eq!(floats(&[-1, -1, 2], true, 24).unwrap(), [1, 3, 2]);
        assert!(floats(&[-1, -1, 2], true, 25).unwrap_err().contains("do not divide"));
        assert_eq!(floats(&[-1, 2], true, 8).unwrap(), [1, 2]);
        assert!(floats(&[-1, 2], true, 12).unwrap_err().contains("needs 8 bytes"));
        assert_eq!(floats(&[-1, 2], false, 24).unwrap(), [3, 2]);
        assert!(floats(&[-1, -1, -1], true, 8).unwrap_err().contains("more than one axis"));
        assert!(floats(&[i64::MAX, -1], true, 8).unwrap_err().contains("do not divide"));
    }

    #[test]
    fn a_string_is_the_whole_body() {
        let input = DeclaredInput { name: "x", datatype: DataType::Bytes, shape: &[-1, 1] };
        let parsed =
            parse_raw_infer_request(&[input], true, Rope::from(b"hello".to_vec())).unwrap();
        assert_eq!(parsed.request.inputs[0].shape().axes(), [1, 1]);
        assert_eq!(parsed.request.inputs[0].data().to_bytes(), "\x05\0\0\0hello".as_bytes());
        assert!(parsed.binary_outputs.is_binary("y"));
        let error = shape_of(DataType::Bytes, &[-1, 2], true, b"hello").unwrap_err();
        assert!(error.contains("one element"), "{error}");
        let open = shape_of(DataType::Bytes, &[-1, i64::MIN], true, b"hello").unwrap();
        assert_eq!(open, [1, 1]);
        let none = parse_raw_infer_request(&[], true, Rope::new()).unwrap_err();
        assert!(none.message.contains("declares 0"));
    }
}
