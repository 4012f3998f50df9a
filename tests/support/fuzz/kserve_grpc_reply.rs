//! `ModelInferResponse`s of instances: the input is the message.

use batchwise::call::InferAnswer;
use batchwise::wire::json::{OutputForm, parse_infer_reply, write_infer_reply};
use batchwise::wire::pb;
use batchwise::wire::predict::{parse_reply, tensors::outputs_to_reply};
use batchwise::wire::v2::{decode_infer_reply, encode_infer_reply, encode_stream_reply};
use prost::Message as _;

use super::{check, input};

/// Rows that need no bytes can be as many as a shape says; nobody sent so many items.
const MANY_ROWS: u32 = 10_000;

/// See the module.
pub fn kserve_grpc_reply(data: &[u8]) {
    let outcome = decode_infer_reply(&input::whole(data));
    for cut in input::cuts(data) {
        match (&outcome, decode_infer_reply(&cut)) {
            (Ok(one), Ok(other)) => same_answer(one, &other),
            (Err(one), Err(other)) => assert_eq!(one, &other),
            (one, other) => panic!("{one:?} in one slice, {other:?} in several"),
        }
    }
    let answer = match outcome {
        Ok(answer) => answer,
        Err(message) => return assert!(!message.is_empty()),
    };
    check::batches(&answer.outputs, data);
    check::tensors(&answer.outputs);
    forwarded(&answer);
}

/// An instance's answer on its way to callers of every protocol.
pub(super) fn forwarded(answer: &InferAnswer) {
    let message = encode_infer_reply(answer, "m", "id");
    let again = decode_infer_reply(&message).expect("what is written can be read");
    same_answer(&again, answer);
    let stream = encode_stream_reply(answer, "m", "id");
    let stream = pb::ModelStreamInferResponse::decode(stream.reader()).expect("a stream's reply");
    assert!(stream.error_message.is_empty());
    let inner = stream.infer_response.expect("the answer").encode_to_vec();
    assert_eq!(inner, message.to_bytes());
    if check::finite(&answer.parameters) {
        over_http(answer);
    }
    if let Some(rows) = check::common_rows(&answer.outputs).filter(|&rows| rows < MANY_ROWS) {
        match outputs_to_reply(answer, rows.into()) {
            Ok(body) => {
                let predictions = parse_reply(&body.to_bytes(), rows as usize);
                assert_eq!(predictions.expect("a prediction each").len(), rows as usize);
            }
            Err(fault) => assert!(!fault.message.is_empty()),
        }
    }
}

fn over_http(answer: &InferAnswer) {
    let binary = OutputForm { all: true, named: Vec::new() };
    let (headers, body) =
        write_infer_reply("m", "id", answer, &binary).expect("binary data can say everything");
    same_answer(&parse_infer_reply(&headers, body).expect("what is written can be read"), answer);
    match write_infer_reply("m", "id", answer, &OutputForm::default()) {
        Ok((headers, body)) => {
            let again = parse_infer_reply(&headers, body).expect("what is written can be read");
            if check::plain_booleans(&answer.outputs) {
                same_answer(&again, answer);
            }
        }
        Err(fault) => check::fault(&fault),
    }
}

pub(super) fn same_answer(one: &InferAnswer, other: &InferAnswer) {
    assert_eq!(one.version, other.version);
    assert_eq!(check::parameters(&one.parameters), check::parameters(&other.parameters));
    assert_eq!(one.outputs, other.outputs);
}
