//! KServe v2 requests over HTTP: the first line of the input is `Inference-Header-Content-Length`
//! (empty: there is none), the rest the body.

use batchwise::wire::json::{
    HEADER_LENGTH, ParsedInfer, json_length, parse_infer_request, write_infer_request,
};
use batchwise::wire::v2::{decode_infer_request, encode_infer_request};
use http::{HeaderMap, HeaderValue};

use super::{check, input};

/// See the module.
pub fn kserve_http_request(data: &[u8]) {
    let (length, body) = input::first_line(data);
    let headers = length_header(length);
    let outcome = parse_infer_request(&headers, input::whole(body));
    for cut in input::cuts(body) {
        match (&outcome, parse_infer_request(&headers, cut)) {
            (Ok(one), Ok(other)) => same(one, &other),
            (Err(one), Err(other)) => check::same_fault(one, &other),
            (one, other) => panic!("{one:?} in one slice, {other:?} in several"),
        }
    }
    let parsed = match outcome {
        Ok(parsed) => parsed,
        Err(fault) => return check::fault(&fault),
    };
    let length = json_length(&headers).expect("a request was read").unwrap_or(body.len());
    check::is_object(&body[..length]);
    let ParsedInfer { id, request, .. } = &parsed;
    check::tensors(&request.inputs);
    check::batches(&request.inputs, data);

    let (headers, written) = write_infer_request(request, id);
    let again = parse_infer_request(&headers, written).expect("what is written can be read");
    check::same_request(&again.request, request);
    assert_eq!(&again.id, id);
    let named = request.outputs.iter().map(|output| output.name.as_str());
    assert!(named.chain(["any"]).all(|name| {
        again.binary_outputs.is_binary(name) || !request.outputs.is_empty() && name == "any"
    }));

    let message = encode_infer_request(request, "m", id);
    let decoded = decode_infer_request(&message).expect("what is written can be read");
    check::same_request(&decoded.request, request);
    assert_eq!(&decoded.id, id);
}

fn same(one: &ParsedInfer, other: &ParsedInfer) {
    check::same_request(&one.request, &other.request);
    let rest = |it: &ParsedInfer| (it.id.clone(), it.scheduling, it.binary_outputs.clone());
    assert_eq!(rest(one), rest(other));
}

/// The header of this value; none when it is empty, or no value of a header.
pub(super) fn length_header(value: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(value)
        && !value.is_empty()
    {
        headers.insert(HEADER_LENGTH, value);
    }
    headers
}
