//! ModelStreamInfer: many requests on one stream, each a call like any other.
//!
//! Calls of one stream are answered as they are done, not in the order that they came, so that they
//! can share batches; ids correlate. An error is a message in the stream, which stays open, unless
//! the caller asked for a real status with the metadata `triton_grpc_error: true`.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::{Body as HttpBody, Frame};
use tokio::time::Instant;

use super::super::Front;
use super::super::visit::Visit;
use super::{infer, terms};
use crate::call::Fault;
use crate::telemetry::Via;
use crate::tensor::Rope;
use crate::wire::frame::{self, CONTENT_TYPE, FrameError, MessageReader, envelop, ok_trailers};
use crate::wire::intake::Lease;
use crate::wire::status;
use crate::wire::v2::{
    decode_infer_request, decoded_bytes, encode_stream_error, encode_stream_reply,
};

/// Calls of one stream under way at once; more are read when some are answered.
const MAX_CALLS: usize = 1024;

type Read<B> = (MessageReader<B>, Result<Option<(Rope, Lease)>, FrameError>);
type BodyError = Box<dyn std::error::Error + Send + Sync>;

pub(super) fn serve<B>(front: &Front, headers: &HeaderMap, body: B) -> Response<Body>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    let real_status = headers.get("triton_grpc_error").is_some_and(|value| value == "true");
    // The deadline of the stream is that of its calls, too.
    let deadline = match terms::deadline(headers, Instant::now()) {
        Ok(deadline) => deadline,
        Err(fault) => return infer::refusal(headers, "", &fault),
    };
    let reader = MessageReader::new(body, headers, front.max_request_bytes)
        .guarded(front.intake(deadline), true);
    let replies = Replies {
        front: front.clone(),
        headers: headers.clone(),
        deadline,
        read: Some(read(reader)),
        parked: None,
        calls: FuturesUnordered::new(),
        segments: Rope::new().into_iter(),
        real_status,
        ended: false,
    };
    let mut response = Response::new(Body::new(replies));
    response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
    terms::echo_request_id(headers, response.headers_mut());
    response
}

/// The body of the reply: reads requests, runs their calls and writes what they answer. Dropping
/// it, which happens when the caller goes, cancels all of them.
struct Replies<B> {
    front: Front,
    headers: HeaderMap,
    deadline: Option<Instant>,
    /// The next message being read; `None` while too many calls are under way, or after the last.
    read: Option<BoxFuture<'static, Read<B>>>,
    /// The reader, while too many calls are under way.
    parked: Option<MessageReader<B>>,
    calls: FuturesUnordered<BoxFuture<'static, Result<Rope, Fault>>>,
    segments: <Rope as IntoIterator>::IntoIter,
    real_status: bool,
    ended: bool,
}

fn read<B>(mut reader: MessageReader<B>) -> BoxFuture<'static, Read<B>>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    Box::pin(async move {
        let message = reader.next().await;
        let message = message.map(|message| message.map(|message| (message, reader.take_lease())));
        (reader, message)
    })
}

/// Answers one request of a stream with a message for it. Errors are messages too, unless
/// `real_status`.
async fn answer(
    front: Front,
    headers: HeaderMap,
    deadline: Option<Instant>,
    (message, mut lease): (Rope, Lease),
    real_status: bool,
) -> Result<Rope, Fault> {
    let visit = Visit::new(&front, Via::Grpc);
    let room = lease.grow_by(decoded_bytes(&message));
    let (outcome, model, id) = match room.and_then(|()| decode_infer_request(&message)) {
        Err(fault) => (Err(visit.refused(fault)), String::new(), String::new()),
        Ok(decoded) => {
            let (model, id) = (decoded.model_name.clone(), decoded.id.clone());
            let mut request_id = String::new();
            let outcome =
                infer::answer(&front, &headers, decoded, visit, deadline, &mut request_id).await;
            (outcome.map(|(answer, _)| encode_stream_reply(&answer, &model, &id)), model, id)
        }
    };
    match outcome {
        Err(fault) if !real_status => Ok(encode_stream_error(&fault.message, &model, &id)),
        outcome => outcome,
    }
}

impl<B> Replies<B>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    /// Takes in messages until none is there or too many calls are under way.
    fn poll_requests(&mut self, context: &mut Context<'_>) -> Result<(), Fault> {
        loop {
            if self.calls.len() >= MAX_CALLS {
                return Ok(());
            }
            if let Some(reader) = self.parked.take() {
                self.read = Some(read(reader));
            }
            let Some(reading) = &mut self.read else { return Ok(()) };
            let Poll::Ready((reader, message)) = reading.as_mut().poll(context) else {
                return Ok(());
            };
            self.read = None;
            let message = message.map_err(Fault::from).inspect_err(|fault| {
                self.front.strays.ended(Via::Grpc, status::of_kind(fault.kind).reason);
            });
            match message? {
                None => return Ok(()),
                Some(message) => {
                    self.parked = Some(reader);
                    let (front, headers) = (self.front.clone(), self.headers.clone());
                    let call = answer(front, headers, self.deadline, message, self.real_status);
                    self.calls.push(Box::pin(call));
                }
            }
        }
    }

    fn end(&mut self, fault: Option<&Fault>) -> Frame<Bytes> {
        self.ended = true;
        self.read = None;
        self.parked = None;
        self.calls.clear();
        let mut trailers = ok_trailers();
        if let Some(fault) = fault {
            let code = status::grpc_code(fault);
            let refused = frame::status(code, &fault.message);
            // Fails only for a message that no header can carry; the code is what matters.
            if refused.add_header(&mut trailers).is_err() {
                trailers.insert("grpc-status", HeaderValue::from(code as i32));
            }
        }
        Frame::trailers(trailers)
    }
}

impl<B> HttpBody for Replies<B>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        loop {
            if let Some(segment) = this.segments.next() {
                return Poll::Ready(Some(Ok(Frame::data(segment))));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            if let Err(fault) = this.poll_requests(context) {
                return Poll::Ready(Some(Ok(this.end(Some(&fault)))));
            }
            match ready!(this.calls.poll_next_unpin(context)) {
                Some(Ok(message)) => this.segments = envelop(&message).into_iter(),
                Some(Err(fault)) => return Poll::Ready(Some(Ok(this.end(Some(&fault))))),
                // Nothing is under way: wait for the next request, or end after the last.
                None if this.read.is_some() || this.parked.is_some() => return Poll::Pending,
                None => return Poll::Ready(Some(Ok(this.end(None)))),
            }
        }
    }
}
