//! A caller's connections to the proxy.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::mpsc;

use crate::network::Network;
use crate::road::Road;
use crate::speech::{Call, Heard, Speech, next_message};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The protocol of a caller's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// A connection for each call that is under way; idle ones are used again.
    Http1,
    /// One connection for all calls.
    Http2,
}

/// A caller's connections to one port of the proxy.
pub(crate) struct Client {
    network: Network,
    road: Road,
    port: u16,
    carrier: Carrier,
    idle: Mutex<Vec<http1::SendRequest<Body>>>,
    shared: tokio::sync::Mutex<Option<http2::SendRequest<Body>>>,
}

/// A reply that was read whole.
struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
    trailers: HeaderMap,
}

impl Client {
    pub(crate) fn new(network: &Network, road: Road, port: u16, carrier: Carrier) -> Self {
        Self {
            network: network.clone(),
            road,
            port,
            carrier,
            idle: Mutex::default(),
            shared: tokio::sync::Mutex::default(),
        }
    }

    /// Makes a call and waits for what comes of it.
    pub(crate) async fn call(&self, call: &Call) -> Heard {
        match self.exchange(call.request()).await {
            Ok(reply) => reply.means(call),
            Err(error) => Heard::Broken(error),
        }
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Reply, String> {
        match self.carrier {
            Carrier::Http1 => {
                let (reply, sender) = self.exchange_alone(request).await?;
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
                Ok(reply)
            }
            Carrier::Http2 => {
                let response = self.send_among_others(request.map(whole)).await?;
                read(response).await
            }
        }
    }

    async fn exchange_alone(
        &self,
        request: Request<Bytes>,
    ) -> Result<(Reply, http1::SendRequest<Body>), String> {
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let fresh = idle.is_none();
            let mut sender = match idle {
                Some(sender) => sender,
                None => self.connect_alone().await?,
            };
            if sender.ready().await.is_err() && !fresh {
                continue;
            }
            match sender.try_send_request(request.clone().map(whole)).await {
                Ok(response) => return Ok((read(response).await?, sender)),
                // The proxy had closed it, and the request never left.
                Err(error) if error.message().is_some() && !fresh => {}
                Err(error) => return Err(error.into_error().to_string()),
            }
        }
    }

    async fn connect_alone(&self) -> Result<http1::SendRequest<Body>, String> {
        let end = self.network.connect(&self.road, "proxy", self.port).await;
        let io = TokioIo::new(end.map_err(|error| error.to_string())?);
        let (sender, connection) = http1::handshake(io).await.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn send_among_others(
        &self,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, String> {
        loop {
            let (mut sender, fresh) = self.connection().await?;
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !fresh => {
                        *self.shared.lock().await = None;
                        request = unsent;
                    }
                    _ => return Err(error.into_error().to_string()),
                },
            }
        }
    }

    async fn connection(&self) -> Result<(http2::SendRequest<Body>, bool), String> {
        let mut shared = self.shared.lock().await;
        if let Some(sender) = shared.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok((sender.clone(), false));
        }
        let end = self.network.connect(&self.road, "proxy", self.port).await;
        let io = TokioIo::new(end.map_err(|error| error.to_string())?);
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new());
        let (sender, connection) = builder.handshake(io).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        Ok((shared.insert(sender).clone(), true))
    }

    /// Opens a stream of calls over gRPC; its end is heard for those that were not answered.
    pub(crate) async fn open_stream(&self, first: &Call) -> Result<CallStream, String> {
        let (calls, receiver) = mpsc::unbounded_channel::<Bytes>();
        let frames = stream::unfold(receiver, |mut receiver| async move {
            let message = receiver.recv().await?;
            Some((Ok::<_, Infallible>(Frame::data(message)), receiver))
        });
        let mut request = Request::new(StreamBody::new(frames).boxed_unsync());
        *request.method_mut() = Method::POST;
        let uri = "http://proxy/inference.GRPCInferenceService/ModelStreamInfer";
        *request.uri_mut() = uri.parse().unwrap();
        first.say(request.headers_mut());
        let response = self.send_among_others(request).await?;
        Ok(CallStream { calls: Some(calls), response, rest: BytesMut::new() })
    }

    /// Closes what is idle.
    pub(crate) async fn close(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        *self.shared.lock().await = None;
    }
}

/// A stream of calls over gRPC.
pub(crate) struct CallStream {
    calls: Option<mpsc::UnboundedSender<Bytes>>,
    response: Response<Incoming>,
    rest: BytesMut,
}

impl CallStream {
    /// Sends one more call.
    pub(crate) fn send(&self, call: &Call) {
        if let Some(calls) = &self.calls {
            // Fails when the stream has ended, which is heard when it is read.
            drop(calls.send(call.message()));
        }
    }

    /// No more calls come.
    pub(crate) fn finish(&mut self) {
        self.calls = None;
    }

    /// The next answer; at the end of the stream, what it was.
    pub(crate) async fn next(
        &mut self,
    ) -> Result<batchwise::wire::pb::ModelStreamInferResponse, String> {
        use prost::Message as _;
        loop {
            let mut rest = self.rest.clone().freeze();
            if let Some(message) = next_message(&mut rest) {
                self.rest = BytesMut::from(&rest[..]);
                return batchwise::wire::pb::ModelStreamInferResponse::decode(message)
                    .map_err(|error| format!("a malformed answer in a stream: {error}"));
            }
            match self.response.frame().await {
                None => return Err("the stream ended without a status".to_owned()),
                Some(Err(error)) => return Err(error.to_string()),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest.extend_from_slice(&data),
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        let status = trailers.get("grpc-status").cloned();
                        return Err(format!("the stream ended: {status:?}"));
                    }
                },
            }
        }
    }
}

impl Reply {
    fn means(&self, call: &Call) -> Heard {
        let text = |name: &str| {
            let value = self.trailers.get(name).or_else(|| self.headers.get(name))?;
            value.to_str().ok().map(str::to_owned)
        };
        let status = if call.speech == Speech::Grpc {
            text("grpc-status").unwrap_or_else(|| format!("HTTP {}", self.status))
        } else {
            self.status.to_string()
        };
        if self.status == 200 && (call.speech != Speech::Grpc || status == "0") {
            return call.hear(&self.headers, &self.body);
        }
        let reason = text("x-batchwise-reason").unwrap_or_default();
        Heard::Refused(format!("{status} {reason}"))
    }
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).boxed_unsync()
}

async fn read(response: Response<Incoming>) -> Result<Reply, String> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| format!("the reply broke off: {error}"))?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    Ok(Reply {
        status: head.status.as_u16(),
        headers: head.headers,
        body: body.to_bytes(),
        trailers,
    })
}
