//! Instances that speak the Open Inference Protocol over gRPC.

use std::time::Duration;

use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderValue, Request, StatusCode, Uri, Version};
use prost::Message;
use tokio::time::Instant;
use tonic::Code;

use super::channel::Channel;
use super::connection::{MAX_REPLY_BYTES, chain, insert_context};
use super::describe::{Configuration, DeclaredTensor, Metadata, describe};
use super::grpc_status::GrpcError;
use super::{BatchContext, BoxFuture, Description, Failure, Instance, Network, NotUp};
use crate::call::{Answer, Fault, FaultKind, InferRequest, Work};
use crate::config::InstanceUrl;
use crate::tensor::Rope;
use crate::wire::body::RopeBody;
use crate::wire::frame::{FrameError, Unary, envelop, format_timeout, read_unary};
use crate::wire::pb;
use crate::wire::pb::model_metadata_response::TensorMetadata;
use crate::wire::v2::{decode_infer_reply, encode_infer_request};

/// How long the small questions of probes may take; whoever asks may give up sooner.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);

/// The most bytes of the answer to such a question.
const MAX_ANSWER_BYTES: usize = 16 << 20;

const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("batchwise/", env!("CARGO_PKG_VERSION")));

/// An instance that speaks the Open Inference Protocol over gRPC, on one HTTP/2 connection.
#[derive(Debug)]
pub struct KserveGrpc {
    channel: Channel,
    model: String,
}

impl KserveGrpc {
    /// The instance at `url` that knows the model as `model`; connects when it is first needed.
    pub fn new(url: InstanceUrl, model: impl Into<String>) -> Self {
        Self::over(&Network::Tcp, url, model)
    }

    /// The same, reached over `network`.
    pub fn over(network: &Network, url: InstanceUrl, model: impl Into<String>) -> Self {
        Self { channel: Channel::new(network.clone(), url), model: model.into() }
    }

    async fn infer(
        &self,
        request: &InferRequest,
        context: &BatchContext,
    ) -> Result<Answer, Failure> {
        let message = encode_infer_request(request, &self.model, &context.request_id);
        if u32::try_from(message.len()).is_err() {
            return Err(Failure::refused(Fault::new(
                FaultKind::TooLarge,
                "the batch is larger than a gRPC message can be (4 GiB)",
            )));
        }
        let mut request = self.request("ModelInfer", &message)?;
        let left = context.deadline.saturating_duration_since(Instant::now());
        request.headers_mut().insert("grpc-timeout", format_timeout(left));
        insert_context(request.headers_mut(), context);
        let reply = match self.unary(request, MAX_REPLY_BYTES).await? {
            Ok(reply) => reply,
            Err(status) => return Err(status.into_failure()),
        };
        decode_infer_reply(&reply).map(Answer::Infer).map_err(Failure::broken)
    }

    fn request(&self, method: &str, message: &Rope) -> Result<Request<RopeBody>, Failure> {
        let url = self.channel.url();
        let uri = Uri::builder()
            .scheme("http")
            .authority(url.authority())
            .path_and_query(format!("{}/inference.GRPCInferenceService/{method}", url.path_prefix))
            .build()
            .map_err(|error| Failure::broken(format!("{url} is no address: {error}")))?;
        let mut request = Request::post(uri);
        if let Some(headers) = request.headers_mut() {
            headers.insert(TE, HeaderValue::from_static("trailers"));
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert(USER_AGENT, AGENT);
        }
        request
            .version(Version::HTTP_2)
            .body(RopeBody::new(envelop(message)))
            .map_err(|error| Failure::broken(error.to_string()))
    }

    /// Sends a request and reads the reply: a message, or a status that says why there is none.
    async fn unary(
        &self,
        request: Request<RopeBody>,
        max: usize,
    ) -> Result<Result<Rope, GrpcError>, Failure> {
        let (response, _connection) = self.channel.send(request).await?;
        let (head, body) = response.into_parts();
        if let Some(Err(status)) = GrpcError::read(&head.headers) {
            return Ok(Err(status));
        }
        if head.status != StatusCode::OK {
            return Ok(Err(GrpcError::of_http(head.status)));
        }
        let Unary { message, trailers } =
            read_unary(body, &head.headers, max).await.map_err(|error| match error {
                FrameError::Body(cause) => {
                    Failure::lost(format!("the reply broke off: {}", chain(cause.as_ref())))
                }
                garbage => Failure::broken(format!("the reply is malformed: {garbage}")),
            })?;
        match trailers.as_ref().and_then(GrpcError::read) {
            Some(Err(status)) => return Ok(Err(status)),
            Some(Ok(())) => {}
            None if GrpcError::read(&head.headers).is_some() => {}
            None => return Err(Failure::broken("the reply ended without a status")),
        }
        message.map(Ok).ok_or_else(|| Failure::broken("the reply holds no message"))
    }

    /// Asks one of the small questions.
    async fn ask<Reply: Message + Default>(
        &self,
        method: &str,
        question: &impl Message,
    ) -> Result<Reply, Refused> {
        let mut request = self.request(method, &question.encode_to_vec().into())?;
        request.headers_mut().insert("grpc-timeout", format_timeout(QUESTION_TIMEOUT));
        match self.unary(request, MAX_ANSWER_BYTES).await? {
            Err(status) => Err(Refused::Status(status)),
            Ok(reply) => Reply::decode(reply.reader()).map_err(|error| {
                Refused::Other(format!("{method}: the reply is malformed: {error}"))
            }),
        }
    }

    async fn ask_ready(&self) -> Result<(), NotUp> {
        let question = pb::ModelReadyRequest { name: self.model.clone(), version: String::new() };
        let ready = match self.ask::<pb::ModelReadyResponse>("ModelReady", &question).await {
            Ok(reply) => reply.ready,
            Err(Refused::Status(status)) if status.code == Code::Unimplemented => {
                return self.ask_server_ready().await;
            }
            Err(refused) => return Err(refused.to_string().into()),
        };
        let words = || format!("model '{}' is not ready", self.model);
        if ready { Ok(()) } else { Err(NotUp::Loading(words())) }
    }

    async fn ask_server_ready(&self) -> Result<(), NotUp> {
        let question = pb::ServerReadyRequest {};
        match self.ask::<pb::ServerReadyResponse>("ServerReady", &question).await {
            Ok(reply) if reply.ready => Ok(()),
            Ok(_) => Err(NotUp::Loading("the server is not ready".to_owned())),
            // A server that can only infer is up when it answers at all.
            Err(Refused::Status(status)) if status.code == Code::Unimplemented => Ok(()),
            Err(refused) => Err(refused.to_string().into()),
        }
    }

    async fn ask_description(&self) -> Result<Description, String> {
        let (name, version) = (self.model.clone(), String::new());
        let question = pb::ModelMetadataRequest { name: name.clone(), version: version.clone() };
        let metadata = match self.ask::<pb::ModelMetadataResponse>("ModelMetadata", &question).await
        {
            Ok(reply) => metadata(reply),
            Err(Refused::Status(status)) if status.code == Code::Unimplemented => {
                Metadata::default()
            }
            Err(refused) => return Err(refused.to_string()),
        };
        let question = pb::ModelConfigRequest { name, version };
        let configuration =
            match self.ask::<pb::ModelConfigResponse>("ModelConfig", &question).await {
                Ok(reply) => reply.config.map(|config| configuration(&config)),
                Err(Refused::Status(status)) if status.code == Code::Unimplemented => None,
                Err(refused) => return Err(refused.to_string()),
            };
        Ok(describe(&self.model, metadata, configuration.as_ref()))
    }
}

/// Why a question was not answered.
#[derive(Debug)]
enum Refused {
    Status(GrpcError),
    Other(String),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refused::Status(status) => f.write_str(&status.described()),
            Refused::Other(text) => f.write_str(text),
        }
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Refused::Other(failure.fault.message.into_owned())
    }
}

fn metadata(reply: pb::ModelMetadataResponse) -> Metadata {
    let declared = |tensors: Vec<TensorMetadata>| {
        let declare =
            |TensorMetadata { name, datatype, shape }| DeclaredTensor { name, datatype, shape };
        tensors.into_iter().map(declare).collect()
    };
    Metadata {
        platform: reply.platform,
        versions: reply.versions,
        inputs: declared(reply.inputs),
        outputs: declared(reply.outputs),
    }
}

fn configuration(config: &pb::ModelConfig) -> Configuration {
    let executions = |group: &pb::ModelInstanceGroup| {
        u64::try_from(group.count).unwrap_or(0).saturating_mul(group.gpus.len().max(1) as u64)
    };
    Configuration {
        max_batch_size: Some(config.max_batch_size.into()),
        executions: config.instance_group.iter().map(executions).fold(0, u64::saturating_add),
        decoupled: config.model_transaction_policy.is_some_and(|policy| policy.decoupled),
        sequences: matches!(
            config.scheduling_choice,
            Some(pb::model_config::SchedulingChoice::SequenceBatching(_))
        ),
    }
}

impl Instance for KserveGrpc {
    fn run(&self, work: Work, context: BatchContext) -> BoxFuture<'_, Result<Answer, Failure>> {
        Box::pin(async move {
            match work {
                Work::Infer(request) => self.infer(&request, &context).await,
                Work::Items(_) | Work::Relay(_) => Err(super::wrong_kind("tensors")),
            }
        })
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), NotUp>> {
        Box::pin(async {
            let doubt = self.channel.doubt();
            let outcome = self.ask_ready().await;
            doubt.dispel();
            outcome
        })
    }

    fn describe(&self) -> BoxFuture<'_, Result<Description, String>> {
        Box::pin(self.ask_description())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_are_counted_over_groups_and_devices() {
        let group = |count, gpus| pb::ModelInstanceGroup { count, gpus, ..Default::default() };
        let config = pb::ModelConfig {
            max_batch_size: 8,
            instance_group: vec![group(2, vec![0, 1]), group(1, Vec::new()), group(-1, Vec::new())],
            ..Default::default()
        };
        let read = configuration(&config);
        assert_eq!((read.max_batch_size, read.executions), (Some(8), 5));
        assert!(!read.decoupled && !read.sequences);
    }

    #[test]
    fn decoupled_and_stateful_models_are_recognized() {
        use pb::model_config::SchedulingChoice;
        let policy = pb::ModelTransactionPolicy { decoupled: true };
        let sequences = SchedulingChoice::SequenceBatching(pb::ModelSequenceBatching::default());
        let config = pb::ModelConfig {
            model_transaction_policy: Some(policy),
            scheduling_choice: Some(sequences),
            ..Default::default()
        };
        let read = configuration(&config);
        assert!(read.decoupled && read.sequences);
    }
}
