//! KServe v2 replies of instances over HTTP: the first line of the input is
//! `Inference-Header-Content-Length` (empty: there is none), the rest the body.

use batchwise::wire::json::{json_length, parse_infer_reply};

use super::kserve_grpc_reply::{forwarded, same_answer};
use super::kserve_http_request::length_header;
use super::{check, input};

/// See the module.
pub fn kserve_http_reply(data: &[u8]) {
    let (length, body) = input::first_line(data);
    let headers = length_header(length);
    let outcome = parse_infer_reply(&headers, input::whole(body));
    for cut in input::cuts(body) {
        match (&outcome, parse_infer_reply(&headers, cut)) {
            (Ok(one), Ok(other)) => same_answer(one, &other),
            (Err(one), Err(other)) => assert_eq!(one, &other),
            (one, other) => panic!("{one:?} in one slice, {other:?} in several"),
        }
    }
    let answer = match outcome {
        Ok(answer) => answer,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let length = json_length(&headers).expect("a reply was read").unwrap_or(body.len());
    check::is_object(&body[..length]);
    check::tensors(&answer.outputs);
    check::batches(&answer.outputs, data);
    forwarded(&answer);
}
