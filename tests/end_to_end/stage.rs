//! A proxy, model servers behind it and a gRPC client in front of it.

use std::path::Path;
use std::time::Duration;

use batchwise::app::{Running, start};
use batchwise::config::Plan;
use batchwise::wire::pb;
use pb::grpc_inference_service_client::GrpcInferenceServiceClient;
use pb::model_infer_request::InferInputTensor;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::model_server::{ModelServer, Options, Settings};

pub(crate) type Client = GrpcInferenceServiceClient<Channel>;

/// Longer than anything here takes unless it hangs.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

/// A proxy in front of some model servers that serve the model `linear`.
pub(crate) struct Stage {
    pub(crate) proxy: Running,
    pub(crate) servers: Vec<ModelServer>,
}

impl Stage {
    /// One proxy over gRPC with `keys` in its `[[model]]`, and a server for each of `settings`.
    pub(crate) async fn new(keys: &str, settings: impl IntoIterator<Item = Settings>) -> Self {
        Self::with("", keys, settings).await
    }

    /// A stage whose proxy reads requests up to this size.
    pub(crate) async fn bounded(max_request_bytes: &str) -> Self {
        let server = format!("max_request_bytes = \"{max_request_bytes}\"");
        Self::with(&server, "", [Settings::default()]).await
    }

    /// The same with keys in `[server]`.
    pub(crate) async fn with(
        server: &str,
        keys: &str,
        settings: impl IntoIterator<Item = Settings>,
    ) -> Self {
        let mut servers = Vec::new();
        for settings in settings {
            let options = Options { settings, ..Options::default() };
            servers.push(ModelServer::start(options).await.unwrap());
        }
        let addresses: Vec<_> =
            servers.iter().map(|server| format!("\"http://{}\"", server.grpc_address())).collect();
        let text = format!(
            "{server}\n[[model]]\nname = \"linear\"\nprotocol = \"kserve-grpc\"\ninstances = [{}]\n{keys}\n",
            addresses.join(", ")
        );
        Self { proxy: proxy(&text).await, servers }
    }

    /// A stage with one server that does nothing special.
    pub(crate) async fn plain() -> Self {
        Self::new("", [Settings::default()]).await
    }

    pub(crate) async fn client(&self) -> Client {
        client(&self.proxy).await
    }
}

/// Starts a proxy on free ports.
pub(crate) async fn proxy(models: &str) -> Running {
    let any = "127.0.0.1:0";
    let text = format!("[server]\nhttp = \"{any}\"\ngrpc = \"{any}\"\nadmin = \"{any}\"\n{models}");
    let plan = Plan::parse(&text, Path::new("models.toml")).unwrap();
    start(&plan).await.unwrap()
}

pub(crate) async fn client(proxy: &Running) -> Client {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", proxy.grpc));
    let channel = endpoint.unwrap().connect().await.unwrap();
    GrpcInferenceServiceClient::new(channel)
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX)
}

pub(crate) fn fp32(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A request for the model `linear`: `rows` x `columns` values, counted up from `from`.
pub(crate) fn request(rows: usize, columns: usize, from: f32) -> pb::ModelInferRequest {
    let values: Vec<f32> = (0..rows * columns).map(|index| from + index as f32).collect();
    let extent = |count| i64::try_from(count).unwrap();
    raw("FP32", &[extent(rows), extent(columns)], fp32(&values))
}

pub(crate) fn raw(datatype: &str, shape: &[i64], data: Vec<u8>) -> pb::ModelInferRequest {
    pb::ModelInferRequest {
        model_name: "linear".to_owned(),
        inputs: vec![InferInputTensor {
            name: "x".to_owned(),
            datatype: datatype.to_owned(),
            shape: shape.to_vec(),
            ..InferInputTensor::default()
        }],
        raw_input_contents: vec![data.into()],
        ..pb::ModelInferRequest::default()
    }
}

/// Whether a reply is 2x + 1 of its request.
pub(crate) fn is_answer_to(
    request: &pb::ModelInferRequest,
    reply: &pb::ModelInferResponse,
) -> bool {
    let read = |bytes: &[u8]| -> Vec<f32> {
        bytes.chunks_exact(4).map(|chunk| f32::from_le_bytes(chunk.try_into().unwrap())).collect()
    };
    let asked: Vec<f32> =
        read(&request.raw_input_contents[0]).iter().map(|value| 2.0 * value + 1.0).collect();
    reply.outputs[0].shape == request.inputs[0].shape
        && read(&reply.raw_output_contents[0]) == asked
}

/// Sends a request and checks the answer.
pub(crate) async fn ask(client: &mut Client, request: pb::ModelInferRequest) -> Result<(), Status> {
    let reply = client.model_infer(Request::new(request.clone())).await?.into_inner();
    assert!(is_answer_to(&request, &reply), "{request:?} -> {reply:?}");
    Ok(())
}

/// Sends `count` one-row requests at once and returns the codes of those that failed.
pub(crate) async fn ask_many(client: &Client, count: usize) -> Vec<Code> {
    let calls: Vec<_> = (0..count)
        .map(|index| {
            let mut client = client.clone();
            tokio::spawn(async move { ask(&mut client, request(1, 4, index as f32 * 10.0)).await })
        })
        .collect();
    let mut failed = Vec::new();
    for call in calls {
        if let Err(status) = tokio::time::timeout(BOUND, call).await.unwrap().unwrap() {
            failed.push(status.code());
        }
    }
    failed
}

/// Polls `condition` until it holds.
pub(crate) async fn eventually(mut condition: impl AsyncFnMut() -> bool) {
    let poll = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, poll).await.expect("it never came about");
}
