//! Request bodies: bounded, kept in the buffers that they arrived in, decompressed where needed.

use std::io::Read;
use std::time::Duration;

use axum::body::Body;
use bytes::{Buf as _, Bytes};
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http_body_util::BodyExt as _;

use crate::call::{Fault, FaultKind};
use crate::tensor::Rope;

/// A body of which nothing arrives for so long has been given up by its sender.
const STALLED: Duration = Duration::from_secs(60);
/// Bytes decompressed before other tasks get a turn.
const STEP: usize = 64 << 10;

/// Reads a body of at most `most` bytes, also after decompression.
///
/// A body that announces to be larger is refused unread.
///
/// # Errors
/// When it is too large, breaks off, stalls or does not decompress.
pub(super) async fn read(headers: &HeaderMap, body: Body, most: usize) -> Result<Rope, Fault> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > most as u64) {
        return Err(too_large(most));
    }
    let coding = Coding::of(headers)?;
    let rope = collect(body, most).await?;
    match coding {
        Coding::Identity => Ok(rope),
        Coding::Gzip => inflate(MultiGzDecoder::new(rope.reader().reader()), most).await,
        Coding::Deflate => inflate(ZlibDecoder::new(rope.reader().reader()), most).await,
    }
}

/// The same in one piece, for bodies that are JSON.
///
/// # Errors
/// As [`read`].
pub(super) async fn read_whole(
    headers: &HeaderMap,
    body: Body,
    most: usize,
) -> Result<Bytes, Fault> {
    read(headers, body, most).await.map(|rope| rope.to_bytes())
}

async fn collect(mut body: Body, most: usize) -> Result<Rope, Fault> {
    let mut rope = Rope::new();
    loop {
        let Ok(frame) = tokio::time::timeout(STALLED, body.frame()).await else {
            let seconds = STALLED.as_secs();
            let message = format!("the body stalled: nothing arrived for {seconds} s");
            return Err(Fault::invalid("body", message));
        };
        let Some(frame) = frame else { return Ok(rope) };
        let frame = frame
            .map_err(|error| Fault::invalid("body", format!("the body broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > most - rope.len() {
            return Err(too_large(most));
        }
        rope.push(data);
    }
}

async fn inflate(mut decoder: impl Read, most: usize) -> Result<Rope, Fault> {
    let mut out = Vec::new();
    let mut chunk = vec![0; STEP];
    loop {
        let count = decoder.read(&mut chunk).map_err(|error| {
            let message =
                format!("the body does not decompress as its content-encoding says: {error}");
            Fault::invalid("content-encoding", message)
        })?;
        if count == 0 {
            return Ok(Rope::from(out));
        }
        if count > most - out.len() {
            return Err(too_large(most));
        }
        out.extend_from_slice(chunk.get(..count).unwrap_or_default());
        tokio::task::yield_now().await;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Identity,
    Gzip,
    Deflate,
}

impl Coding {
    fn of(headers: &HeaderMap) -> Result<Self, Fault> {
        let Some(value) = headers.get(CONTENT_ENCODING) else { return Ok(Coding::Identity) };
        let name = value.as_bytes().trim_ascii().to_ascii_lowercase();
        match name.as_slice() {
            b"" | b"identity" => Ok(Coding::Identity),
            b"gzip" | b"x-gzip" => Ok(Coding::Gzip),
            b"deflate" => Ok(Coding::Deflate),
            _ => Err(Fault::invalid(
                "content-encoding",
                "header content-encoding must be gzip, deflate or identity",
            )),
        }
    }
}

fn too_large(most: usize) -> Fault {
    let message = format!(
        "the request is larger than {most} bytes, the most that is read \
                           (max_request_bytes)"
    );
    Fault::new(FaultKind::TooLarge, message).with_field("body")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;

    fn headers(name: http::HeaderName, value: &str) -> HeaderMap {
        [(name, value.parse().unwrap())].into_iter().collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    async fn decoded(coding: &str, bytes: Vec<u8>, most: usize) -> Result<Bytes, FaultKind> {
        let headers = headers(CONTENT_ENCODING, coding);
        read_whole(&headers, Body::from(bytes), most).await.map_err(|fault| fault.kind)
    }

    #[tokio::test]
    async fn bodies_are_decompressed_within_the_bound() {
        let text = vec![b'a'; 200_000];
        let compressed = gzip(&text);
        assert!(compressed.len() < 2000);
        assert_eq!(decoded("GZIP", compressed.clone(), 200_000).await.unwrap(), text);
        assert_eq!(decoded("gzip", compressed.clone(), 199_999).await, Err(FaultKind::TooLarge));
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(&text).unwrap();
        assert_eq!(decoded("deflate", zlib.finish().unwrap(), 200_000).await.unwrap(), text);
        let cut = compressed[..compressed.len() / 2].to_vec();
        assert_eq!(decoded("gzip", cut, 200_000).await, Err(FaultKind::InvalidRequest));
        assert_eq!(decoded("br", text, 200_000).await, Err(FaultKind::InvalidRequest));
    }

    /// A body that fails the test when it is read.
    struct Unread;

    impl http_body::Body for Unread {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
            panic!("the body was read");
        }
    }

    #[tokio::test]
    async fn a_body_that_announces_too_much_is_not_read() {
        let announced = headers(CONTENT_LENGTH, "1000");
        let fault = read(&announced, Body::new(Unread), 999).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::TooLarge);
        let unannounced = read(&HeaderMap::new(), Body::from(vec![0; 1000]), 999).await;
        assert_eq!(unannounced.unwrap_err().kind, FaultKind::TooLarge);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_body_is_given_up() {
        let silence = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
        let body = Body::from_stream(silence);
        let fault = read(&HeaderMap::new(), body, 10).await.unwrap_err();
        assert!(fault.message.contains("stalled"));
    }
}
