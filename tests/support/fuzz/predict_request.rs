//! KServe v1 requests: the first line of the input is what the model declares (see `declared`), the
//! rest the body.

use batchwise::call::{InferAnswer, ItemsRequest};
use batchwise::tensor::{DataType, Tensor};
use batchwise::wire::predict::tensors::{instances_to_request, outputs_to_reply};
use batchwise::wire::predict::{parse_reply, parse_request, write_request};
use bytes::Bytes;

use super::declared::{Declared, declared};
use super::{check, input};

/// See the module.
pub fn predict_request(data: &[u8]) {
    let (line, body) = input::first_line_text(data);
    let body = Bytes::copy_from_slice(body);
    let request = match parse_request(body.clone()) {
        Ok(request) => request,
        Err(fault) => return check::fault(&fault),
    };
    check::is_object(&body);
    check::items(&request, &body);
    assert_eq!(write_request(&request).to_bytes(), body);
    let read = |written: Bytes| parse_request(written).expect("what is written can be read");
    check::items_batches(&request, |part| read(write_request(part).to_bytes()));

    let declared = declared(line);
    let inputs: Vec<_> = declared.iter().map(Declared::as_input).collect();
    let converted = match instances_to_request(&request, &inputs) {
        Ok(converted) => converted,
        Err(fault) => return check::fault(&fault),
    };
    let rows = request.items.len();
    assert_eq!(converted.inputs.len(), inputs.len());
    assert!(converted.inputs.iter().all(|it| it.shape().rows() == Some(rows as u64)));
    check::tensors(&converted.inputs);
    check::batches(&converted.inputs, data);

    // A model that answers with its inputs: its predictions are its instances.
    let answer = InferAnswer { outputs: converted.inputs, ..InferAnswer::default() };
    let reply = outputs_to_reply(&answer, rows as u64).expect("what came as JSON can go as JSON");
    let items = parse_reply(&reply.to_bytes(), rows).expect("a prediction each");
    if answer.outputs.iter().any(is_ambiguous) {
        return;
    }
    let request = ItemsRequest { items, body: None, options: Bytes::new(), ..request };
    let again = instances_to_request(&request, &inputs).expect("predictions are instances");
    assert_eq!(again.inputs, answer.outputs);
}

/// An empty row is `[]` whatever its shape; base64 is an object, which may seem to name an input.
fn is_ambiguous(tensor: &Tensor) -> bool {
    let base64 = tensor.name() == "b64" && tensor.datatype() == DataType::Bytes;
    base64 || tensor.shape().axes().contains(&0)
}
