//! Whole gRPC calls: the input is the name of the call, lines of metadata, an empty line and the
//! body of the stream.

use axum::body::Body;
use batchwise::tensor::Rope;
use batchwise::wire::body::RopeBody;
use batchwise::wire::frame::{MessageReader, envelop};
use batchwise::wire::pb;
use batchwise::wire::v2::{decode_infer_reply, decode_infer_request};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use prost::Message as _;

use super::{check, input, site};

/// Longer statuses do not fit in the headers that clients read.
const LONGEST_STATUS: usize = 4096;

/// See the module.
pub fn front_grpc(data: &[u8]) {
    let (method, rest) = input::first_line_text(data);
    // What follows belongs to no path.
    if method.contains(['?', '#']) {
        return;
    }
    let (headers, body) = input::headers(rest);
    let request = |rope: Rope| -> Option<Request<Body>> {
        let path = format!("{}{method}", batchwise::front::grpc::SERVICE_PATH);
        let mut request = Request::post(path).body(Body::new(RopeBody::new(rope))).ok()?;
        *request.headers_mut() = headers.clone();
        Some(request)
    };
    let Some(first) = request(input::whole(body)) else { return };
    let (response, trailers) = site::grpc(first);
    let code = answered(&response, &trailers);
    let messages = messages(&response);
    if method == "ModelStreamInfer" {
        return streamed(&headers, body, &messages);
    }
    assert_eq!(messages.len(), usize::from(code == "0"), "a message or a status");
    if method == "ModelInfer" {
        for cut in input::cuts(body) {
            let (again, trailers) = site::grpc(request(cut).expect("it was one before"));
            assert_eq!(answered(&again, &trailers), code);
            let same =
                again.headers().get("grpc-message") == response.headers().get("grpc-message");
            assert!(same && again.body() == response.body());
        }
    }
    if let ("ModelInfer", [reply]) = (method, messages.as_slice()) {
        mirrored(&read(&headers, body)[0], reply);
    }
}

/// The status, which is one that a request can earn.
fn answered(response: &Response<Bytes>, trailers: &HeaderMap) -> String {
    assert_eq!(response.status(), 200);
    let id = response.headers().get("x-request-id").expect("every reply has an id");
    assert!(!id.is_empty() && id.len() <= 128);
    let status = response.headers().get("grpc-status").or(trailers.get("grpc-status"));
    let code = status.and_then(|it| it.to_str().ok()).expect("every reply has a status").to_owned();
    // OK, InvalidArgument, DeadlineExceeded (of 0 s), NotFound, ResourceExhausted, Unimplemented,
    // Unavailable (for too many rows).
    let known = ["0", "3", "4", "5", "8", "12", "14"];
    assert!(known.contains(&code.as_str()), "{response:?} {trailers:?}");
    let message = response.headers().get("grpc-message").or(trailers.get("grpc-message"));
    assert_eq!(message.is_some(), code != "0");
    assert!(message.is_none_or(|it| !it.is_empty() && it.len() < LONGEST_STATUS), "{message:?}");
    code
}

/// Every message of a stream has an answer, unless the stream itself broke.
fn streamed(headers: &HeaderMap, body: &[u8], replies: &[Rope]) {
    let asked = read(headers, body);
    assert!(replies.len() <= asked.len());
    let mut failed = 0;
    for reply in replies {
        let reply = pb::ModelStreamInferResponse::decode(reply.reader()).expect("a reply");
        failed += usize::from(!reply.error_message.is_empty());
        assert!(reply.infer_response.is_some());
    }
    let wrong = asked.iter().filter(|message| decode_infer_request(message).is_err()).count();
    assert!(failed >= wrong || replies.len() < asked.len());
}

/// The instance answers with its inputs: they must come back, in whatever parts they were sent.
fn mirrored(request: &Rope, reply: &Rope) {
    let asked = decode_infer_request(request).expect("it was served");
    let answer = decode_infer_reply(reply).expect("a reply as the protocol says");
    check::tensors(&answer.outputs);
    assert_eq!(answer.outputs, asked.request.inputs);
}

fn messages(response: &Response<Bytes>) -> Vec<Rope> {
    let all = read(&HeaderMap::new(), response.body());
    let enveloped: usize = all.iter().map(|message| envelop(message).len()).sum();
    assert_eq!(enveloped, response.body().len(), "the reply is messages and nothing else");
    all
}

/// The messages of a body up to what is none.
fn read(headers: &HeaderMap, body: &[u8]) -> Vec<Rope> {
    let mut reader = MessageReader::new(RopeBody::new(input::whole(body)), headers, site::MOST);
    site::block_on(async {
        let mut messages = Vec::new();
        while let Ok(Some(message)) = reader.next().await {
            messages.push(message);
        }
        messages
    })
}
