//! Request bodies: bounded, counted, kept in the buffers that they arrived in, decompressed where
//! needed.

use std::io::Read;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::{Buf as _, Bytes, BytesMut};
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, EXPECT};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Version};
use http_body_util::BodyExt as _;

use crate::call::{Fault, FaultKind};
use crate::tensor::Rope;
use crate::wire::intake::{Intake, Lease};

/// Bytes decompressed before other tasks get a turn.
const STEP: usize = 64 << 10;
/// Pieces of a body that are shorter than this are copied together, so that a caller who sends a body
/// byte by byte cannot make us keep a segment for each.
const SMALL_PIECE: usize = 512;
/// What is left of a refused request is read and thrown away when it is not more than this, so that
/// the connection goes on.
const SMALL_REST: usize = 64 << 10;
/// No refusal waits longer for such a rest.
const REST_TIMEOUT: Duration = Duration::from_millis(500);

/// The body of a request, until it is read.
#[derive(Debug)]
pub(super) struct Unread {
    body: Option<Body>,
    /// Whether nothing of it is left on the connection.
    is_through: bool,
}

impl Unread {
    /// A request's head and its body.
    pub(super) fn of(request: Request) -> (Parts, Self) {
        let (parts, body) = request.into_parts();
        (parts, Self { body: Some(body), is_through: false })
    }

    /// The body itself, for who reads it as it comes.
    pub(super) fn take(&mut self) -> Body {
        self.body.take().unwrap_or_default()
    }

    /// Reads it, at most `most` bytes, also after decompression. What comes with it is the memory
    /// that it takes, to be held as long as it is.
    ///
    /// A body that announces to be larger, or larger than there is memory for, is refused unread.
    ///
    /// # Errors
    /// When it is too large, breaks off, stalls or does not decompress.
    pub(super) async fn read(
        &mut self,
        headers: &HeaderMap,
        most: usize,
        intake: &Intake,
    ) -> Result<(Rope, Lease), Fault> {
        let mut lease = intake.budget.lease();
        let announced = headers.get(CONTENT_LENGTH);
        let announced = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if let Some(announced) = announced {
            let announced = usize::try_from(announced).unwrap_or(usize::MAX);
            if announced > most {
                return Err(too_large(most));
            }
            lease.grow_to(announced)?;
        }
        let coding = Coding::of(headers)?;
        let body = self.body.take().unwrap_or_default();
        let rope = collect(body, most, intake, &mut lease).await?;
        self.is_through = true;
        let rope = match coding {
            Coding::Identity => rope,
            Coding::Gzip => {
                inflate(MultiGzDecoder::new(rope.reader().reader()), most, &mut lease).await?
            }
            Coding::Deflate => {
                inflate(ZlibDecoder::new(rope.reader().reader()), most, &mut lease).await?
            }
        };
        Ok((rope, lease))
    }

    /// The same in one piece, for bodies that are JSON.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(super) async fn read_whole(
        &mut self,
        headers: &HeaderMap,
        most: usize,
        intake: &Intake,
    ) -> Result<(Bytes, Lease), Fault> {
        let (rope, lease) = self.read(headers, most, intake).await?;
        Ok((rope.to_bytes(), lease))
    }

    /// Sends the reply to a request that is refused. Where a little of the body is still to come it
    /// is thrown away, where much of it is the connection does not go on.
    pub(super) async fn dismiss(self, parts: &Parts, mut response: Response) -> Response {
        // Streams of HTTP/2 end one by one.
        if self.is_through || parts.version >= Version::HTTP_2 {
            return response;
        }
        let rest = match self.body {
            // To ask for the rest of a body would be to accept it.
            Some(body) if !parts.headers.contains_key(EXPECT) => body,
            Some(body) if http_body::Body::is_end_stream(&body) => return response,
            _ => {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                return response;
            }
        };
        let thrown_away = tokio::time::timeout(REST_TIMEOUT, throw_away(rest)).await;
        if thrown_away != Ok(true) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Whether the whole body came and was small.
async fn throw_away(mut body: Body) -> bool {
    let announced = http_body::Body::size_hint(&body).lower();
    let mut left = SMALL_REST;
    if announced > left as u64 {
        return false;
    }
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        let length = frame.data_ref().map_or(0, Bytes::len);
        if length > left {
            return false;
        }
        left -= length;
    }
    true
}

async fn collect(
    mut body: Body,
    most: usize,
    intake: &Intake,
    lease: &mut Lease,
) -> Result<Rope, Fault> {
    let mut rope = Rope::new();
    let mut small = BytesMut::new();
    let mut patience = intake.patience();
    loop {
        let Some(frame) = patience.wait(body.frame()).await? else {
            rope.push(small.freeze());
            return Ok(rope);
        };
        let frame = frame
            .map_err(|error| Fault::invalid("body", format!("the body broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let before = rope.len() + small.len();
        if data.len() > most - before {
            return Err(too_large(most));
        }
        patience.got(data.len());
        lease.grow_to(before + data.len())?;
        if data.len() < SMALL_PIECE {
            small.extend_from_slice(&data);
        } else {
            rope.push(small.split().freeze());
            rope.push(data);
        }
    }
}

async fn inflate(mut decoder: impl Read, most: usize, lease: &mut Lease) -> Result<Rope, Fault> {
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
        lease.grow_by(count)?;
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
    use crate::wire::intake::Budget;

    fn headers(name: http::HeaderName, value: &str) -> HeaderMap {
        [(name, value.parse().unwrap())].into_iter().collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn intake(room: usize) -> Intake {
        Intake { budget: Budget::new(room), idle: Duration::from_secs(30), deadline: None }
    }

    async fn read(
        headers: &HeaderMap,
        body: Body,
        most: usize,
        intake: &Intake,
    ) -> Result<(Bytes, Lease), Fault> {
        let mut unread = Unread { body: Some(body), is_through: false };
        unread.read_whole(headers, most, intake).await
    }

    async fn decoded(coding: &str, bytes: Vec<u8>, most: usize) -> Result<Bytes, FaultKind> {
        let headers = headers(CONTENT_ENCODING, coding);
        let read = read(&headers, Body::from(bytes), most, &intake(usize::MAX)).await;
        read.map(|(bytes, _)| bytes).map_err(|fault| fault.kind)
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
    struct Untouched;

    impl http_body::Body for Untouched {
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
        let untouched = || Body::new(Untouched);
        let fault = read(&announced, untouched(), 999, &intake(9999)).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::TooLarge);
        let fault = read(&announced, untouched(), 9999, &intake(999)).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::TooLarge);
        let room = intake(1500);
        let mut others = room.budget.lease();
        others.grow_by(501).unwrap();
        let fault = read(&announced, untouched(), 9999, &room).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::BuffersFull);
        let (none, plain) = (HeaderMap::new(), Body::from(vec![0; 1000]));
        let fault = read(&none, plain, 999, &intake(9999)).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::TooLarge);
    }

    #[tokio::test]
    async fn a_body_sent_byte_by_byte_is_gathered() {
        let pieces: Vec<_> = (0..=255).cycle().take(5000).map(|byte| vec![byte]).collect();
        let whole = pieces.concat();
        let long = vec![7; SMALL_PIECE];
        let pieces = pieces.into_iter().chain([long.clone(), vec![1]]);
        let pieces = futures_util::stream::iter(pieces.map(Ok::<_, std::io::Error>));
        let mut unread = Unread { body: Some(Body::from_stream(pieces)), is_through: false };
        let (rope, _) = unread.read(&HeaderMap::new(), 9999, &intake(9999)).await.unwrap();
        assert_eq!(rope.segments().len(), 3);
        assert_eq!(rope.to_bytes(), [whole, long, vec![1]].concat());
    }

    #[tokio::test]
    async fn bodies_are_counted_as_long_as_they_are_held() {
        let room = intake(10_000);
        let none = HeaderMap::new();
        let (_, lease) = read(&none, Body::from(vec![0; 6000]), 9999, &room).await.unwrap();
        assert_eq!(room.budget.held(), 6000);
        let second = read(&none, Body::from(vec![0; 6000]), 9999, &room).await;
        assert_eq!(second.unwrap_err().kind, FaultKind::BuffersFull);
        assert_eq!(room.budget.held(), 6000);
        drop(lease);
        let bomb = gzip(&vec![0; 20_000]);
        let packed = headers(CONTENT_ENCODING, "gzip");
        let bomb = read(&packed, Body::from(bomb), 99_999, &room).await;
        assert_eq!(bomb.unwrap_err().kind, FaultKind::TooLarge);
        assert_eq!(room.budget.held(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_body_is_given_up() {
        let silence = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
        let body = Body::from_stream(silence);
        let room = intake(10);
        let announced = headers(CONTENT_LENGTH, "10");
        let fault = read(&announced, body, 10, &room).await.unwrap_err();
        assert!(fault.message.contains("stalled"));
        assert_eq!(room.budget.held(), 0);
    }
}
