//! gRPC messages over HTTP/2 bodies, kept as ropes.
//!
//! A message travels as a flag, its length and its bytes. What arrives stays in the buffers that it
//! arrived in; what leaves is handed over segment by segment. Codecs that encode into one buffer
//! cannot do either, which is why this is not left to one.

mod compression;
mod reader;
mod timeout;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response, header};

pub use compression::{Encoding, decompress};
pub use reader::{MessageReader, Unary, read_request, read_unary};
pub use timeout::{format_timeout, parse_timeout};

use super::body::RopeBody;
use crate::call::{Fault, FaultKind};
use crate::tensor::Rope;

/// The bytes before each message: a flag and the length.
const PREFIX: usize = 5;

/// Segments shorter than this are copied together: each would cost a frame and a system call of its
/// own, which is dearer than moving a few kilobytes.
const SMALL_SEGMENT: usize = 8 * 1024;

/// Copied segments make buffers of about this size.
const GATHERED: usize = 64 * 1024;

/// Why no message could be read from a body.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The message is longer than it may be.
    #[error("the message has {} bytes; at most {max} are accepted", Count(*.got))]
    TooLarge {
        /// Its length; `None` when it turned out while decompressing.
        got: Option<usize>,
        /// The most that is accepted.
        max: usize,
    },
    /// The body ended inside a message.
    #[error("the body ended after {got} of the message's {expected} bytes")]
    CutShort {
        /// Bytes that the message should have, its prefix counted.
        expected: usize,
        /// Bytes that came.
        got: usize,
    },
    /// More than one message where the protocol has one.
    #[error("the body goes on after its one message")]
    Trailing,
    /// No message where the protocol has one.
    #[error("the body holds no message")]
    Missing,
    /// A flag byte other than 0 and 1.
    #[error("the message's compression flag is {0}; use 0 for plain, 1 for compressed")]
    Flag(u8),
    /// A compressed message without a `grpc-encoding`.
    #[error("the message is compressed, but no grpc-encoding says how")]
    Unannounced,
    /// A compression that is not known here.
    #[error("grpc-encoding {0:?} is unknown; use one of identity, gzip, deflate")]
    Encoding(String),
    /// Compressed bytes that do not decompress.
    #[error("the message does not decompress: {0}")]
    Decompress(String),
    /// The caller was too slow, or there was no room for the message.
    #[error(transparent)]
    Refused(#[from] Fault),
    /// The peer or the connection gave up.
    #[error("the body broke off: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
}

struct Count(Option<usize>);

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(count) => count.fmt(f),
            None => f.write_str("too many"),
        }
    }
}

impl From<FrameError> for Fault {
    fn from(error: FrameError) -> Self {
        let kind = match error {
            FrameError::Refused(fault) => return fault,
            FrameError::TooLarge { .. } => FaultKind::TooLarge,
            FrameError::Encoding(_) => FaultKind::Unimplemented,
            _ => FaultKind::InvalidRequest,
        };
        Fault::new(kind, error.to_string())
    }
}

/// A message as it travels: the prefix, then its segments; adjacent small ones copied together.
pub fn envelop(message: &Rope) -> Rope {
    let mut prefix = BytesMut::with_capacity(PREFIX);
    prefix.put_u8(0);
    // A longer message cannot be told on this wire; what builds messages keeps them below.
    prefix.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    let prefix = prefix.freeze();
    gather(std::iter::once(&prefix).chain(message.segments()))
}

fn gather<'a>(segments: impl Iterator<Item = &'a Bytes> + Clone) -> Rope {
    let mut rope = Rope::new();
    let mut rest = segments;
    loop {
        let run = rest
            .clone()
            .scan(0, |total, segment| {
                let fits = segment.len() < SMALL_SEGMENT && *total + segment.len() <= GATHERED;
                *total += segment.len();
                fits.then_some(segment.len())
            })
            .fold((0, 0), |(count, length), more| (count + 1, length + more));
        match run {
            (0, _) | (1, _) => match rest.next() {
                Some(segment) => rope.push(segment.clone()),
                None => return rope,
            },
            (count, length) => {
                let mut gathered = BytesMut::with_capacity(length);
                rest.by_ref().take(count).for_each(|segment| gathered.put_slice(segment));
                rope.push(gathered.freeze());
            }
        }
    }
}

/// Bytes of a status' text once it is percent-encoded: half of all headers that gRPC's C library
/// takes. A message repeats names that a caller chose, which may be of any length.
const LONGEST_STATUS: usize = 4000;

/// The content type of every gRPC message here.
pub const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// A reply of one message and a status of 0.
pub fn unary_response(message: &Rope) -> Response<RopeBody> {
    let mut response = Response::new(RopeBody::new(envelop(message)).with_trailers(ok_trailers()));
    response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
    response
}

/// A reply of no message: the status stands in the headers, the text percent-encoded.
pub fn status_response(code: tonic::Code, message: &str) -> Response<RopeBody> {
    status(code, message).into_http()
}

/// A status whose text fits in the headers, or trailers, that clients read.
pub fn status(code: tonic::Code, message: &str) -> tonic::Status {
    let mut room = LONGEST_STATUS;
    let end = message.char_indices().find_map(|(index, letter)| {
        let encoded = if letter.is_ascii_alphanumeric() { 1 } else { 3 * letter.len_utf8() };
        match room.checked_sub(encoded) {
            Some(left) => {
                room = left;
                None
            }
            None => Some(index),
        }
    });
    match end.and_then(|end| message.get(..end)) {
        None => tonic::Status::new(code, message),
        Some(start) => tonic::Status::new(code, format!("{start}...")),
    }
}

/// The trailers after the last message of a call that went well.
pub fn ok_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(rope: &Rope) -> Vec<usize> {
        rope.segments().iter().map(Bytes::len).collect()
    }

    #[test]
    fn a_small_message_leaves_in_one_segment() {
        let message: Rope = (0..20).map(|byte| Bytes::from(vec![byte; 100])).collect();
        let enveloped = envelop(&message);
        assert_eq!(lengths(&enveloped), [PREFIX + 2000]);
        assert_eq!(&enveloped.to_bytes()[..PREFIX], [0, 0, 0, 7, 208]);
        assert_eq!(enveloped.slice(PREFIX..PREFIX + 2000), message);
    }

    #[test]
    fn large_segments_are_not_copied() {
        let large = Bytes::from(vec![1; SMALL_SEGMENT]);
        let small = Bytes::from(vec![2; 10]);
        let message: Rope = [&small, &large, &small, &small, &large].into_iter().cloned().collect();
        let enveloped = envelop(&message);
        assert_eq!(lengths(&enveloped), [PREFIX + 10, SMALL_SEGMENT, 20, SMALL_SEGMENT]);
        assert_eq!(enveloped.segments()[1].as_ptr(), large.as_ptr());
        assert_eq!(enveloped.segments()[3].as_ptr(), large.as_ptr());
    }

    #[test]
    fn many_small_segments_make_buffers_of_bounded_size() {
        let message: Rope = (0..100).map(|_| Bytes::from(vec![3; SMALL_SEGMENT - 1])).collect();
        let enveloped = envelop(&message);
        assert!(lengths(&enveloped).iter().all(|&length| length <= GATHERED));
        assert!(enveloped.segments().len() < 20);
        assert_eq!(enveloped.slice(PREFIX..usize::MAX), message);
    }

    #[test]
    fn a_status_travels_in_the_headers_percent_encoded() {
        let response = status_response(tonic::Code::NotFound, "no model 'ü'\n");
        assert_eq!(response.headers()["grpc-status"], "5");
        let text = response.headers()["grpc-message"].to_str().unwrap();
        assert!(text.contains("%C3%BC") && text.contains("%0A"), "{text}");
    }

    #[test]
    fn a_status_is_no_longer_than_clients_read() {
        for name in ["x".repeat(50_000), "ü".repeat(50_000)] {
            let response = status_response(tonic::Code::InvalidArgument, &name);
            let text = response.headers()["grpc-message"].to_str().unwrap();
            assert!(text.len() < LONGEST_STATUS + 10 && text.ends_with("..."), "{}", text.len());
        }
        assert_eq!(status(tonic::Code::Internal, "why").message(), "why");
    }
}
