//! `ModelInferRequest`s: the input is the message.

use batchwise::tensor::Rope;
use batchwise::wire::json::{parse_infer_request, write_infer_request, write_plain_infer_request};
use batchwise::wire::v2::{DecodedInfer, decode_infer_request, encode_infer_request};

use super::{check, input};

/// Beyond so many inputs, or half as many on the other wire, a request that was taken in its shortest
/// form is too long in its usual one.
const MANY_INPUTS: usize = 4000;

/// See the module.
pub fn kserve_grpc_request(data: &[u8]) {
    let outcome = decode_infer_request(&input::whole(data));
    for cut in input::cuts(data) {
        match (&outcome, decode_infer_request(&cut)) {
            (Ok(one), Ok(other)) => same(one, &other),
            (Err(one), Err(other)) => check::same_fault(one, &other),
            (one, other) => panic!("{one:?} in one slice, {other:?} in several"),
        }
    }
    let decoded = match outcome {
        Ok(decoded) => decoded,
        Err(fault) => return check::fault(&fault),
    };
    let DecodedInfer { model_name, id, request, .. } = &decoded;
    check::tensors(&request.inputs);
    check::batches(&request.inputs, data);
    if request.inputs.len() > MANY_INPUTS {
        return;
    }
    let message = encode_infer_request(request, model_name, id);
    let again = decode_infer_request(&message).expect("what is written can be read");
    check::same_request(&again.request, request);
    let names =
        |it: &DecodedInfer| (it.model_name.clone(), it.id.clone(), it.request.version.clone());
    assert_eq!(names(&again), names(&decoded));
    over_http(&decoded);
}

fn same(one: &DecodedInfer, other: &DecodedInfer) {
    check::same_request(&one.request, &other.request);
    let rest = |it: &DecodedInfer| {
        let names = (it.model_name.clone(), it.id.clone(), it.request.version.clone());
        (names, it.scheduling, it.wants_empty_final_response)
    };
    assert_eq!(rest(one), rest(other));
}

/// The same request for an instance that speaks HTTP.
fn over_http(decoded: &DecodedInfer) {
    let DecodedInfer { id, request, .. } = decoded;
    if !check::json_can_write(request) {
        return;
    }
    let read = |headers: &http::HeaderMap, body: Rope| {
        let parsed = parse_infer_request(headers, body).expect("what is written can be read");
        check::same_request(&parsed.request, request);
        assert_eq!(&parsed.id, id);
    };
    let (headers, body) = write_infer_request(request, id);
    read(&headers, body);
    match write_plain_infer_request(request, id) {
        Ok((headers, body)) if check::plain_booleans(&request.inputs) => read(&headers, body),
        Ok(_) => {}
        Err(fault) => check::fault(&fault),
    }
}
