//! Properties that several targets share.

use std::collections::BTreeMap;

use batchwise::call::{
    Fault, FaultKind, InferRequest, ItemsRequest, Parameter, Parameters, RequestedOutput, Work,
};
use batchwise::tensor::{DataType, Tensor, join, split, split_rows};
use bytes::{Buf as _, Bytes};

use super::random::Random;

/// A fault says something, and names the field when the request is to be mended.
pub(super) fn fault(fault: &Fault) {
    assert!(!fault.message.is_empty(), "{fault:?}");
    assert!(
        matches!(
            fault.kind,
            FaultKind::InvalidRequest | FaultKind::Unimplemented | FaultKind::TooLarge
        ),
        "a decoder has no such fault: {fault:?}"
    );
    assert!(fault.field.is_some() || fault.kind == FaultKind::TooLarge, "{fault:?}");
}

/// Two faults say the same.
pub(super) fn same_fault(one: &Fault, other: &Fault) {
    let told = |it: &Fault| (it.kind, it.message.clone(), it.field.clone());
    assert_eq!(told(one), told(other));
}

/// Every tensor has the bytes that its datatype and shape ask for.
pub(super) fn tensors(tensors: &[Tensor]) {
    for tensor in tensors {
        let elements = tensor.shape().axes().iter().map(|&extent| u128::from(extent)).product();
        let got: u128 = match tensor.datatype().element_size() {
            Some(size) => {
                assert_eq!(tensor.data().len() % size, 0, "{tensor:?}");
                (tensor.data().len() / size) as u128
            }
            None => count_elements(tensor),
        };
        assert_eq!(got, elements, "{tensor:?}");
    }
}

fn count_elements(tensor: &Tensor) -> u128 {
    let mut bytes = tensor.data().to_bytes();
    let mut count = 0;
    while bytes.has_remaining() {
        let length = bytes.get_u32_le() as usize;
        bytes.advance(length);
        count += 1;
    }
    count
}

/// The rows that all tensors have, when they have the same, and at least one: then a call may share
/// a batch.
pub(super) fn common_rows(tensors: &[Tensor]) -> Option<u32> {
    let rows = tensors.first()?.shape().rows()?;
    let same = tensors.iter().all(|tensor| tensor.shape().rows() == Some(rows));
    u32::try_from(rows).ok().filter(|&rows| same && (1..u32::MAX / 2).contains(&rows))
}

/// A batch of the call and of its first rows gives back both; a call that is cut is whole again when
/// its parts are joined.
pub(super) fn batches(call: &[Tensor], data: &[u8]) {
    let Some(rows) = common_rows(call) else { return };
    let head_rows = u32::try_from(Random::of(data).below(rows as usize + 1)).unwrap_or(0);
    let mut tail = call.to_vec();
    let head = split_rows(&mut tail, head_rows);
    tensors(&head);
    tensors(&tail);
    assert_eq!(join([head.as_slice(), tail.as_slice()].into_iter()), call);

    let batch = join([call, head.as_slice(), call].into_iter());
    tensors(&batch);
    let parts = split(&batch, &[rows, head_rows, rows]).expect("a batch has the rows of its calls");
    assert_eq!(parts, [call.to_vec(), head, call.to_vec()]);
    assert!(split(&batch, &[rows, head_rows, rows, 1]).is_err(), "one row too many was found");
}

/// Two requests ask for the same, whatever the wires that they came by.
pub(super) fn same_request(one: &InferRequest, other: &InferRequest) {
    assert_eq!(one.inputs, other.inputs);
    assert_eq!(parameters(&one.parameters), parameters(&other.parameters));
    let own = |all: &BTreeMap<String, Parameters>| -> Vec<(String, String)> {
        all.iter().map(|(name, own)| (name.clone(), parameters(own))).collect()
    };
    assert_eq!(own(&one.input_parameters), own(&other.input_parameters));
    let outputs = |all: &[RequestedOutput]| -> Vec<(String, String)> {
        all.iter().map(|it| (it.name.clone(), parameters(&it.parameters))).collect()
    };
    assert_eq!(outputs(&one.outputs), outputs(&other.outputs));
}

/// Parameters as text: JSON has no unsigned numbers of its own, and no number equals NaN.
pub(super) fn parameters(parameters: &Parameters) -> String {
    let plain = |value: &Parameter| match value {
        Parameter::Uint64(count) => i64::try_from(*count).map_or(value.clone(), Parameter::Int64),
        _ => value.clone(),
    };
    let all: BTreeMap<_, _> = parameters.iter().map(|(name, value)| (name, plain(value))).collect();
    format!("{all:?}")
}

/// Whether JSON can write every parameter of a request.
pub(super) fn json_can_write(request: &InferRequest) -> bool {
    let own = request.input_parameters.values();
    let outputs = request.outputs.iter().map(|output| &output.parameters);
    own.chain(outputs).chain([&request.parameters]).all(finite)
}

/// Whether every number among the parameters is one to JSON.
pub(super) fn finite(parameters: &Parameters) -> bool {
    !parameters.values().any(|it| matches!(it, Parameter::Double(value) if !value.is_finite()))
}

/// Whether the elements of every BOOL tensor are 0 or 1: all others come back from JSON as 1.
pub(super) fn plain_booleans(tensors: &[Tensor]) -> bool {
    let mut booleans = tensors.iter().filter(|tensor| tensor.datatype() == DataType::Bool);
    booleans.all(|tensor| tensor.data().to_bytes().iter().all(|&byte| byte <= 1))
}

/// A body that is taken for an object is one: not a list of the values of its fields.
pub(super) fn is_object(text: &[u8]) {
    let start = text.trim_ascii_start().first();
    assert_eq!(start, Some(&b'{'), "not an object: {}", String::from_utf8_lossy(text));
}

/// Every item is whole JSON, a slice of the body; the other fields are as they were.
pub(super) fn items(request: &ItemsRequest, body: &Bytes) {
    let range = body.as_ptr_range();
    for item in &request.items {
        assert!(range.contains(&item.as_ptr()), "an item was copied");
        is_json(item);
    }
    is_json(&[b"{", request.options.as_ref(), b"}"].concat());
}

/// A batch of the items twice over, written and read, gives back each call's; so do its parts.
pub(super) fn items_batches(
    request: &ItemsRequest,
    written_and_read: impl Fn(&ItemsRequest) -> ItemsRequest,
) {
    let count = request.items.len();
    let cut = Random::of(&request.options).below(count + 1);
    let twice: Vec<Bytes> = request.items.iter().chain(&request.items).cloned().collect();
    let batch = written_and_read(&ItemsRequest { items: twice, body: None, ..request.clone() });
    assert_eq!(batch.options, request.options);
    assert_eq!(batch.items[..count], request.items);
    assert_eq!(batch.items[count..], request.items);

    let mut tail = Work::Items(request.clone());
    let head = tail.split_off(u32::try_from(cut).unwrap_or(u32::MAX));
    let mut whole = Vec::new();
    for part in [head, tail] {
        let Work::Items(part) = part else { panic!("items became {part:?}") };
        if part.items.is_empty() {
            continue;
        }
        let again = written_and_read(&part);
        assert_eq!(again.options, request.options);
        whole.extend(again.items);
    }
    assert_eq!(whole, request.items);
}

/// Any JSON, and nothing after it.
pub(super) fn is_json(text: &[u8]) {
    if let Err(error) = serde_json::from_slice::<&serde_json::value::RawValue>(text) {
        panic!("{error} in {}", String::from_utf8_lossy(text));
    }
}
