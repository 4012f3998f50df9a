//! Messages out of a body.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;

use super::{Encoding, FrameError, PREFIX, decompress};
use crate::call::Fault;
use crate::tensor::Rope;
use crate::wire::intake::{Intake, Lease, Patience};

/// Pieces of a message that are shorter than this are copied together, so that a peer who sends a
/// message byte by byte cannot make us keep a segment for each.
const SMALL_PIECE: usize = 512;

/// Reads the messages of a body one by one.
#[derive(Debug)]
pub struct MessageReader<B> {
    body: B,
    max: usize,
    encoding: Result<Option<Encoding>, String>,
    /// What came after the message that was read last.
    rest: Bytes,
    trailers: Option<HeaderMap>,
    guard: Option<Guard>,
}

/// What holds a caller to bounds while its messages are read.
#[derive(Debug)]
struct Guard {
    intake: Intake,
    /// Whether it may take its time between two messages.
    idles: bool,
    /// `None` while it may take its time.
    patience: Option<Patience>,
    lease: Lease,
}

impl<B> MessageReader<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin,
{
    /// A reader of `body`, whose `grpc-encoding` stands in `headers`; a message may have `max`
    /// bytes, packed and unpacked.
    pub fn new(body: B, headers: &HeaderMap, max: usize) -> Self {
        let encoding = headers
            .get("grpc-encoding")
            .map(|name| String::from_utf8_lossy(name.as_bytes()))
            .map(|name| Encoding::from_name(&name).ok_or_else(|| name.chars().take(64).collect()))
            .transpose();
        Self { body, max, encoding, rest: Bytes::new(), trailers: None, guard: None }
    }

    /// The same reader of what a caller sends, who must not stop in the middle of a message, nor
    /// before it unless `idles`, and whose messages are counted.
    #[must_use]
    pub fn guarded(mut self, intake: Intake, idles: bool) -> Self {
        let patience = (!idles).then(|| intake.patience());
        self.guard = Some(Guard { lease: intake.budget.lease(), intake, idles, patience });
        self
    }

    /// The memory of the message that was read last, to be held as long as the message is.
    pub fn take_lease(&mut self) -> Lease {
        match &mut self.guard {
            None => Lease::boundless(),
            Some(guard) => std::mem::replace(&mut guard.lease, guard.intake.budget.lease()),
        }
    }

    /// The next message; `None` when the body has ended between two.
    ///
    /// # Errors
    /// When the body is not what gRPC says, when a message is too large, or when the peer gave up.
    pub async fn next(&mut self) -> Result<Option<Rope>, FrameError> {
        let Some(prefix) = self.take_prefix().await? else { return Ok(None) };
        let (flag, length) = prefix;
        if flag > 1 {
            return Err(FrameError::Flag(flag));
        }
        if length > self.max {
            return Err(FrameError::TooLarge { got: Some(length), max: self.max });
        }
        if let Some(guard) = &mut self.guard {
            guard.lease.grow_by(length)?;
        }
        let message = self.take(length).await?;
        if let Some(guard) = self.guard.as_mut().filter(|guard| guard.idles) {
            guard.patience = None;
        }
        if flag == 0 {
            return Ok(Some(message));
        }
        match &self.encoding {
            Err(unknown) => Err(FrameError::Encoding(unknown.clone())),
            Ok(None | Some(Encoding::Identity)) => Err(FrameError::Unannounced),
            Ok(Some(encoding)) => {
                let encoding = *encoding;
                let lease = self.take_lease();
                let (message, lease) = decompress(message, encoding, self.max, lease).await?;
                if let Some(guard) = &mut self.guard {
                    guard.lease = lease;
                }
                Ok(Some(message))
            }
        }
    }

    /// The trailers, once the body has ended.
    pub fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }

    /// The only message, read to the end of the body.
    async fn only(&mut self) -> Result<Option<Rope>, FrameError> {
        let message = self.next().await?;
        if message.is_some() && (!self.rest.is_empty() || self.fill().await?) {
            return Err(FrameError::Trailing);
        }
        Ok(message)
    }

    async fn take_prefix(&mut self) -> Result<Option<(u8, usize)>, FrameError> {
        let mut prefix = BytesMut::new();
        while prefix.len() < PREFIX {
            if self.rest.is_empty() && !self.fill().await? {
                return match prefix.len() {
                    0 => Ok(None),
                    got => Err(FrameError::CutShort { expected: PREFIX, got }),
                };
            }
            let wanted = PREFIX - prefix.len();
            prefix.put(self.rest.split_to(wanted.min(self.rest.len())));
        }
        let flag = prefix.get_u8();
        Ok(Some((flag, usize::try_from(prefix.get_u32()).unwrap_or(usize::MAX))))
    }

    async fn take(&mut self, length: usize) -> Result<Rope, FrameError> {
        let mut message = Rope::new();
        let mut small = BytesMut::new();
        loop {
            let missing = length - message.len() - small.len();
            let piece = self.rest.split_to(missing.min(self.rest.len()));
            if piece.len() < SMALL_PIECE && piece.len() < missing {
                small.put_slice(&piece);
            } else {
                message.push(small.split().freeze());
                message.push(piece);
            }
            if message.len() == length {
                return Ok(message);
            }
            if !self.fill().await? {
                let got = PREFIX + message.len() + small.len();
                return Err(FrameError::CutShort { expected: PREFIX + length, got });
            }
        }
    }

    /// Waits for more bytes; `false` when there are none to come. Only called when `rest` is empty.
    async fn fill(&mut self) -> Result<bool, FrameError> {
        while let Some(frame) = self.frame().await? {
            match frame.map_err(|error| FrameError::Body(error.into()))?.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => {
                    if let Some(guard) = &mut self.guard {
                        let patience = &mut guard.patience;
                        patience.get_or_insert_with(|| guard.intake.patience()).got(data.len());
                    }
                    self.rest = data;
                    return Ok(true);
                }
                Err(frame) => self.trailers = frame.into_trailers().ok(),
            }
        }
        Ok(false)
    }

    async fn frame(&mut self) -> Result<Option<Result<Frame<Bytes>, B::Error>>, Fault> {
        match self.guard.as_ref().and_then(|guard| guard.patience.as_ref()) {
            Some(patience) => patience.wait(self.body.frame()).await,
            None => Ok(self.body.frame().await),
        }
    }
}

/// What a body of at most one message held.
#[derive(Debug)]
pub struct Unary {
    /// The message; a reply that failed has none.
    pub message: Option<Rope>,
    /// The trailers; a request has none.
    pub trailers: Option<HeaderMap>,
}

/// Reads a body of at most one message, which may have `max` bytes, to its end.
///
/// # Errors
/// When the body is not what gRPC says, when the message is too large, or when the peer gave up.
pub async fn read_unary<B>(body: B, headers: &HeaderMap, max: usize) -> Result<Unary, FrameError>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin,
{
    let mut reader = MessageReader::new(body, headers, max);
    let message = reader.only().await?;
    Ok(Unary { message, trailers: reader.trailers })
}

/// Reads the one message of a caller's request, and the memory that it takes.
///
/// # Errors
/// As [`read_unary`]; when there is no message, the caller is too slow or there is no room for it.
pub async fn read_request<B>(
    body: B,
    headers: &HeaderMap,
    max: usize,
    intake: Intake,
) -> Result<(Rope, Lease), FrameError>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin,
{
    let mut reader = MessageReader::new(body, headers, max).guarded(intake, false);
    let message = reader.only().await?.ok_or(FrameError::Missing)?;
    Ok((message, reader.take_lease()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use http::HeaderValue;
    use proptest::prelude::*;

    use super::super::{envelop, ok_trailers};
    use super::*;
    use crate::wire::body::RopeBody;
    use crate::wire::intake::Budget;

    fn pieces(bytes: &[u8], size: usize) -> Rope {
        bytes.chunks(size).map(Bytes::copy_from_slice).collect()
    }

    async fn unary(body: impl Into<RopeBody>, max: usize) -> Result<Unary, FrameError> {
        read_unary(body.into(), &HeaderMap::new(), max).await
    }

    async fn request(body: RopeBody, max: usize, room: usize) -> Result<(Rope, Lease), FrameError> {
        let idle = std::time::Duration::from_secs(30);
        let intake = Intake { budget: Budget::new(room), idle, deadline: None };
        read_request(body, &HeaderMap::new(), max, intake).await
    }

    #[tokio::test]
    async fn a_request_is_counted_before_it_is_read() {
        // The prefix alone: what follows would be waited for.
        let announced = Rope::from(vec![0, 0, 0, 0, 100]);
        let refused = request(announced.clone().into(), 100, 99).await.unwrap_err();
        assert_eq!(Fault::from(refused).kind, crate::call::FaultKind::TooLarge);
        assert!(matches!(
            request(announced.into(), 100, 100).await,
            Err(FrameError::CutShort { .. })
        ));
        let (message, _) = request(envelop(&vec![7; 100].into()).into(), 100, 100).await.unwrap();
        assert_eq!(message.len(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_may_pause_between_messages_and_not_within_one() {
        use futures_util::StreamExt as _;
        let envelope = envelop(&vec![7; 100].into()).to_bytes();
        let pieces = [envelope.clone(), envelope.slice(..50)];
        let slow = futures_util::stream::iter(pieces).then(async |piece| {
            tokio::time::sleep(std::time::Duration::from_secs(300)).await;
            Ok::<_, std::convert::Infallible>(http_body::Frame::data(piece))
        });
        let body = http_body_util::BodyExt::boxed_unsync(http_body_util::StreamBody::new(
            slow.chain(futures_util::stream::pending()),
        ));
        let idle = std::time::Duration::from_secs(30);
        let budget = Budget::new(100);
        let intake = Intake { budget: budget.clone(), idle, deadline: None };
        let mut reader = MessageReader::new(body, &HeaderMap::new(), 100).guarded(intake, true);
        assert_eq!(reader.next().await.unwrap().unwrap().len(), 100);
        drop(reader.take_lease());
        let fault = Fault::from(reader.next().await.unwrap_err());
        assert!(fault.message.contains("stalled"), "{fault}");
        drop(reader);
        assert_eq!(budget.held(), 0);
    }

    #[tokio::test]
    async fn a_message_stays_in_the_frames_that_it_came_in() {
        let frames = [vec![0, 0, 0, 7, 208], vec![1; 1000], vec![2; 1000]].map(Bytes::from);
        let body: Rope = frames.iter().cloned().collect();
        let body = RopeBody::new(body).with_trailers(ok_trailers());
        let read = read_unary(body, &HeaderMap::new(), 2000).await.unwrap();
        let message = read.message.unwrap();
        let pointers: Vec<_> = message.segments().iter().map(|s| s.as_ptr()).collect();
        assert_eq!(pointers, [frames[1].as_ptr(), frames[2].as_ptr()]);
        assert_eq!(read.trailers.unwrap()["grpc-status"], "0");
    }

    #[tokio::test]
    async fn a_message_sent_byte_by_byte_is_gathered() {
        let enveloped = envelop(&vec![9; 5000].into()).to_bytes();
        let message = unary(pieces(&enveloped, 1), 5000).await.unwrap().message.unwrap();
        assert_eq!(message, vec![9; 5000].into());
        assert!(message.segments().len() <= 2);
    }

    #[tokio::test]
    async fn what_is_not_grpc_is_refused_by_name() {
        let error = async |bytes: &[u8], max| unary(pieces(bytes, 3), max).await.unwrap_err();
        let message = [0, 0, 0, 0, 4, 1, 2, 3, 4];
        assert!(matches!(error(&message, 3).await, FrameError::TooLarge { got: Some(4), max: 3 }));
        assert!(matches!(
            error(&message[..7], 9).await,
            FrameError::CutShort { expected: 9, got: 7 }
        ));
        assert!(matches!(error(&message[..3], 9).await, FrameError::CutShort { got: 3, .. }));
        assert!(matches!(error(&message.repeat(2), 9).await, FrameError::Trailing));
        assert!(matches!(error(&[2, 0, 0, 0, 0], 9).await, FrameError::Flag(2)));
        assert!(matches!(error(&[1, 0, 0, 0, 0], 9).await, FrameError::Unannounced));
        assert!(unary(Rope::new(), 9).await.unwrap().message.is_none());
        let missing = request(RopeBody::default(), 9, 9).await.unwrap_err();
        assert!(matches!(missing, FrameError::Missing));
    }

    #[tokio::test]
    async fn compressed_messages_are_unpacked_within_the_bound() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&[5; 4000]).unwrap();
        let mut body = envelop(&encoder.finish().unwrap().into()).to_bytes().to_vec();
        body[0] = 1;
        let mut headers = HeaderMap::new();
        headers.insert("grpc-encoding", HeaderValue::from_static("gzip"));
        let read = async |max| read_unary(RopeBody::new(pieces(&body, 11)), &headers, max).await;
        assert_eq!(read(4000).await.unwrap().message.unwrap(), vec![5; 4000].into());
        assert!(matches!(read(3999).await, Err(FrameError::TooLarge { .. })));
        headers.insert("grpc-encoding", HeaderValue::from_static("snappy"));
        let unknown = read_unary(RopeBody::new(pieces(&body, 11)), &headers, 9999).await;
        assert!(matches!(unknown, Err(FrameError::Encoding(name)) if name == "snappy"));
    }

    proptest! {
        #[test]
        fn a_stream_gives_back_its_messages_however_it_is_cut(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 0..6),
            size in 1_usize..3000,
        ) {
            let wire: Vec<u8> = messages
                .iter()
                .flat_map(|message| envelop(&message.clone().into()).to_bytes())
                .collect();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let read = runtime.block_on(async {
                let body = RopeBody::new(pieces(&wire, size));
                let mut reader = MessageReader::new(body, &HeaderMap::new(), 2000);
                let mut read = Vec::new();
                while let Some(message) = reader.next().await.unwrap() {
                    read.push(message.to_bytes().to_vec());
                }
                read
            });
            prop_assert_eq!(read, messages);
        }
    }
}
