//! gRPC's framing: the first line of the input is `grpc-encoding`, the rest the body of a stream.

use batchwise::tensor::Rope;
use batchwise::wire::body::RopeBody;
use batchwise::wire::frame::{FrameError, MessageReader, envelop, read_unary};
use http::{HeaderMap, HeaderValue};

use super::{input, site};

/// Bytes of the longest message that is read here.
const MOST: usize = 1 << 16;

/// See the module.
pub fn grpc_frames(data: &[u8]) {
    let (encoding, body) = input::first_line(data);
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(encoding)
        && !value.is_empty()
    {
        headers.insert("grpc-encoding", value);
    }
    let (messages, error) = read(input::whole(body), &headers);
    for cut in input::cuts(body) {
        let (others, other) = read(cut, &headers);
        assert_eq!(messages, others);
        assert!(alike(error.as_deref(), other.as_deref()), "{error:?} and {other:?}");
    }
    assert!(messages.iter().all(|message| message.len() <= MOST));
    assert!(error.as_ref().is_none_or(|error| !error.is_empty()));
    let unary = read_unary(RopeBody::new(input::whole(body)), &headers, MOST);
    match (site::block_on(unary), messages.as_slice(), &error) {
        (Ok(unary), [], None) => assert!(unary.message.is_none()),
        (Ok(unary), [only], None) => assert_eq!(unary.message.as_ref(), Some(only)),
        (Err(FrameError::Trailing), [_, ..], _) => {}
        (Err(one), [], Some(other)) => assert_eq!(&one.to_string(), other),
        (unary, messages, error) => panic!("{unary:?}, but {messages:?} and {error:?}"),
    }
    let enveloped: Rope = messages.iter().flat_map(envelop).collect();
    assert_eq!(read(enveloped, &HeaderMap::new()), (messages, None));
}

/// Whether two errors are the same. Of a message that is too long and corrupt besides it depends on its
/// pieces what is seen first.
fn alike(one: Option<&str>, other: Option<&str>) -> bool {
    let either = |error: &str| error.contains("too many bytes") || error.contains("decompress");
    one == other || one.is_some_and(either) && other.is_some_and(either)
}

/// The messages of a body, and what ended them when it was not the body's end.
fn read(body: Rope, headers: &HeaderMap) -> (Vec<Rope>, Option<String>) {
    let mut reader = MessageReader::new(RopeBody::new(body), headers, MOST);
    site::block_on(async {
        let mut messages = Vec::new();
        loop {
            match reader.next().await {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => return (messages, None),
                Err(error) => return (messages, Some(error.to_string())),
            }
        }
    })
}
