//! Whole HTTP requests: the input is `METHOD path`, lines of headers, an empty line and the body.

use axum::body::Body;
use batchwise::wire::json::{parse_infer_reply, parse_infer_request};
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http::{HeaderMap, Method, Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::Value;

use super::{check, input, site};

/// See the module.
pub fn front_http(data: &[u8]) {
    let (line, rest) = input::first_line_text(data);
    let Some((method, path)) = line.split_once(' ') else { return };
    let (headers, body) = input::headers(rest);
    let request = |pieces: Vec<Bytes>| -> Option<Request<Body>> {
        let pieces =
            pieces.into_iter().map(|it| Ok::<_, std::convert::Infallible>(Frame::data(it)));
        let body = Body::new(StreamBody::new(futures_util::stream::iter(pieces)));
        let mut request = Request::builder().method(method).uri(path).body(body).ok()?;
        *request.headers_mut() = headers.clone();
        Some(request)
    };
    let Some(first) = request(vec![Bytes::copy_from_slice(body)]) else { return };
    // It may have been written with a scheme and a host.
    let route = first.uri().path().to_owned();
    site::set_stream(vec![Ok(Bytes::from_static(b"data: 1\n\n"))]);
    let response = site::http(first);
    answered(&response);
    // What is asked with other methods tells of what was done meanwhile.
    if method == Method::POST.as_str() {
        site::set_stream(vec![Ok(Bytes::from_static(b"data: 1\n\n"))]);
        let again = site::http(request(input::random_pieces(body)).expect("it was one before"));
        assert_eq!(again.status(), response.status());
        assert_eq!(again.body(), response.body());
    }
    if response.status() == 200 && method == Method::POST.as_str() && is_infer(&route) {
        mirrored(&headers, body, &response);
    }
}

fn is_infer(path: &str) -> bool {
    path == "/v2/models/tensors/infer"
}

fn answered(response: &Response<Bytes>) {
    let id = response.headers().get("x-request-id").expect("every reply has an id");
    assert!(!id.is_empty() && id.len() <= 128 && id.as_bytes().iter().all(u8::is_ascii_graphic));
    let status = response.status();
    if status.is_success() {
        return;
    }
    let reason = response.headers().get("x-batchwise-reason").map(|it| it.to_str());
    let reason = reason.and_then(Result::ok).unwrap_or_default();
    let ours = matches!(status.as_u16(), 400 | 404 | 405 | 413 | 501 | 504);
    assert!(ours || reason == "queue_full", "{status} {reason} {:?}", response.body());
    if response.headers().contains_key("grpc-status") {
        return;
    }
    let body: Value = serde_json::from_slice(response.body()).expect("an error in JSON");
    let message = if body["error"].is_object() {
        ["type", "param", "code"].iter().for_each(|key| assert!(body["error"].get(key).is_some()));
        &body["error"]["message"]
    } else {
        &body["error"]
    };
    assert!(message.as_str().is_some_and(|it| !it.is_empty()), "{body}");
}

/// The instance answers with its inputs: they must come back, in whatever parts they were sent.
fn mirrored(headers: &HeaderMap, body: &[u8], response: &Response<Bytes>) {
    let raw = headers.get("inference-header-content-length").is_some_and(|it| {
        it.to_str().is_ok_and(|text| text.trim().trim_start_matches('+').parse() == Ok(0))
    });
    if headers.contains_key(CONTENT_ENCODING) || headers.contains_key(CONTENT_LENGTH) || raw {
        return;
    }
    let asked = parse_infer_request(headers, input::whole(body)).expect("it was served");
    let reply = parse_infer_reply(response.headers(), response.body().clone());
    let reply = reply.expect("a reply as the protocol says");
    if check::plain_booleans(&asked.request.inputs) {
        assert_eq!(reply.outputs, asked.request.inputs);
    }
}
