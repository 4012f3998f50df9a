//! Streams of events that are relayed: the first line of the input says `broken` where the instance
//! breaks off at the end, the rest is what it streams.

use axum::body::Body;
use bytes::Bytes;
use http::Request;
use serde_json::Value;

use super::events::events;
use super::site::Piece;
use super::{input, site};

/// See the module.
pub fn event_stream(data: &[u8]) {
    let (line, stream) = input::first_line_text(data);
    let broken = line == "broken";
    let relayed = relay(vec![Bytes::copy_from_slice(stream)], broken);
    for pieces in [input::single_bytes(stream), input::random_pieces(stream)] {
        assert_eq!(relay(pieces, broken), relayed);
    }
    if !broken {
        return assert_eq!(relayed, stream);
    }
    // An event whose end did not come is no event: the error takes its place.
    let kept = stream.iter().zip(&relayed).take_while(|(came, went)| came == went).count();
    let longest = (0..=kept).rev().find(|&end| relayed[end..].starts_with(b"data: {\"error\""));
    let (kept, _) =
        relayed.split_at(longest.expect("what came goes on as it is, and then the error"));
    assert_eq!(events(kept), events(stream));
    let mut told = events(&relayed);
    let last: Value =
        serde_json::from_slice(&told.pop().expect("an event that tells of the break"))
            .expect("an error in JSON");
    assert!(last["error"]["message"].as_str().is_some_and(|message| message.contains("reset")));
    assert_eq!(told, events(stream));
}

fn relay(pieces: Vec<Bytes>, broken: bool) -> Bytes {
    let pieces = pieces.into_iter().map(Piece::Ok);
    site::set_stream(pieces.chain(broken.then_some(Err("reset"))).collect());
    let request = Request::post("/v1/completions")
        .body(Body::from(r#"{"model":"text","stream":true}"#))
        .expect("a request");
    let response = site::http(request);
    assert_eq!(response.status(), 200);
    response.into_body()
}
