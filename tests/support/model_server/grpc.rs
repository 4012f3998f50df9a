//! KServe v2 over gRPC, with Triton's extensions.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::{Request, Response, Status, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::engine::Engine;
use super::kserve;
use super::pb::grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer};
use super::pb::infer_parameter::ParameterChoice;
use super::pb::model_infer_request::InferInputTensor;
use super::pb::{self, InferParameter, ModelInferRequest, ModelInferResponse};
use super::settings::{FaultStatus, OutputContents};
use super::statistics::Seen;
use super::tensor::{self, Tensor};

const INFER_PATH: &str = "/inference.GRPCInferenceService/ModelInfer";
const STREAM_PATH: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

/// The services of a gRPC port.
pub(super) fn router(engine: &Arc<Engine>) -> axum::Router {
    let service = Service { engine: Arc::clone(engine) };
    let inference = GrpcInferenceServiceServer::new(service.clone())
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX);
    tonic::service::Routes::new(inference)
        .add_service(HealthServer::new(service))
        .into_axum_router()
}

#[derive(Clone, Debug)]
struct Service {
    engine: Arc<Engine>,
}

type Answer<T> = Result<Response<T>, Status>;
type StreamOf<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    fn ready(&self) -> bool {
        self.engine.switches.read(|settings| settings.ready)
    }

    async fn infer(
        &self,
        path: &str,
        metadata: &MetadataMap,
        request: ModelInferRequest,
    ) -> Result<ModelInferResponse, FaultStatus> {
        self.engine.find(&request.model_name, &request.model_version)?;
        let inputs = inputs_of(&request)?;
        let seen = self.engine.records().then(|| Seen {
            headers: ascii_headers(metadata),
            parameters: parameters_as_text(&request.parameters),
            input_parameters: request.inputs.iter().map(own_parameters).collect(),
            ..kserve::seen(path, &request.model_name, &request.id, &inputs)
        });
        let requested = request.outputs.iter().map(|output| output.name.as_str());
        let outputs =
            kserve::infer(&self.engine, &request.model_name, &inputs, requested.collect(), seen)
                .await?;
        let contents = self.engine.switches.read(|settings| settings.output_contents);
        Ok(response_of(&request, outputs, contents))
    }

    /// One request of a stream: as many answers as its parameter `repeat` says, one by default.
    async fn infer_streamed(
        self,
        metadata: Arc<MetadataMap>,
        request: ModelInferRequest,
    ) -> StreamOf<pb::ModelStreamInferResponse> {
        let repeat = match parameter(&request, "repeat") {
            Some(ParameterChoice::Int64Param(count)) => *count,
            _ => 1,
        };
        let id = request.id.clone();
        let answer = match self.infer(STREAM_PATH, &metadata, request).await {
            Ok(answer) => answer,
            Err(fault) => {
                let infer_response = Some(ModelInferResponse { id, ..Default::default() });
                let error_message = fault.message;
                let failed = pb::ModelStreamInferResponse { error_message, infer_response };
                return Box::pin(stream::once(async move { Ok(failed) }));
            }
        };
        Box::pin(stream::unfold((0, self, answer), move |(sent, service, answer)| async move {
            if sent >= repeat {
                return None;
            }
            if sent > 0 {
                service.engine.token_interval().await;
            }
            let mut piece = answer.clone();
            let last = InferParameter {
                parameter_choice: Some(ParameterChoice::BoolParam(sent + 1 == repeat)),
            };
            piece.parameters.insert("triton_final_response".to_owned(), last);
            let piece = pb::ModelStreamInferResponse {
                error_message: String::new(),
                infer_response: Some(piece),
            };
            Some((Ok(piece), (sent + 1, service, answer)))
        }))
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    async fn server_live(
        &self,
        _: Request<pb::ServerLiveRequest>,
    ) -> Answer<pb::ServerLiveResponse> {
        Ok(Response::new(pb::ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<pb::ServerReadyRequest>,
    ) -> Answer<pb::ServerReadyResponse> {
        Ok(Response::new(pb::ServerReadyResponse { ready: self.ready() }))
    }

    async fn model_ready(
        &self,
        request: Request<pb::ModelReadyRequest>,
    ) -> Answer<pb::ModelReadyResponse> {
        let pb::ModelReadyRequest { name, version } = request.into_inner();
        self.engine.find(&name, &version)?;
        Ok(Response::new(pb::ModelReadyResponse { ready: self.ready() }))
    }

    async fn server_metadata(
        &self,
        _: Request<pb::ServerMetadataRequest>,
    ) -> Answer<pb::ServerMetadataResponse> {
        Ok(Response::new(pb::ServerMetadataResponse {
            name: kserve::SERVER_NAME.to_owned(),
            version: kserve::SERVER_VERSION.to_owned(),
            extensions: kserve::EXTENSIONS.map(str::to_owned).into(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<pb::ModelMetadataRequest>,
    ) -> Answer<pb::ModelMetadataResponse> {
        let pb::ModelMetadataRequest { name, version } = request.into_inner();
        self.engine.find(&name, &version)?;
        let tensor = |name: &str| pb::model_metadata_response::TensorMetadata {
            name: name.to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![-1, -1],
        };
        Ok(Response::new(pb::ModelMetadataResponse {
            name,
            versions: vec!["1".to_owned()],
            platform: kserve::PLATFORM.to_owned(),
            inputs: vec![tensor("x")],
            outputs: vec![tensor("y")],
        }))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Answer<ModelInferResponse> {
        let (metadata, _, message) = request.into_parts();
        let answer = self.infer(INFER_PATH, &metadata, message).await?;
        Ok(Response::new(answer))
    }

    type ModelStreamInferStream = StreamOf<pb::ModelStreamInferResponse>;

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Answer<Self::ModelStreamInferStream> {
        let (metadata, _, requests) = request.into_parts();
        let metadata = Arc::new(metadata);
        let service = self.clone();
        let each = move |message: Result<ModelInferRequest, Status>| {
            let (service, metadata) = (service.clone(), Arc::clone(&metadata));
            async move {
                let message = message?;
                Ok::<_, Status>(service.infer_streamed(metadata, message).await)
            }
        };
        Ok(Response::new(Box::pin(requests.then(each).try_flatten())))
    }

    async fn model_config(
        &self,
        request: Request<pb::ModelConfigRequest>,
    ) -> Answer<pb::ModelConfigResponse> {
        let pb::ModelConfigRequest { name, version } = request.into_inner();
        self.engine.find(&name, &version)?;
        let limit = self.engine.switches.read(|settings| settings.max_batch_size);
        let data_type = pb::DataType::TypeFp32.into();
        let config = pb::ModelConfig {
            name,
            platform: kserve::PLATFORM.to_owned(),
            max_batch_size: limit.try_into().unwrap_or(i32::MAX),
            input: vec![pb::ModelInput { name: "x".to_owned(), data_type, dims: vec![-1] }],
            output: vec![pb::ModelOutput { name: "y".to_owned(), data_type, dims: vec![-1] }],
            ..Default::default()
        };
        Ok(Response::new(pb::ModelConfigResponse { config: Some(config) }))
    }

    async fn model_statistics(
        &self,
        request: Request<pb::ModelStatisticsRequest>,
    ) -> Answer<pb::ModelStatisticsResponse> {
        let pb::ModelStatisticsRequest { name, version } = request.into_inner();
        let first = self.engine.models.first().cloned().unwrap_or_default();
        let name = if name.is_empty() { first } else { name };
        self.engine.find(&name, &version)?;
        let model_stats = vec![statistics_of(&self.engine, name)];
        Ok(Response::new(pb::ModelStatisticsResponse { model_stats }))
    }

    async fn repository_index(
        &self,
        _: Request<pb::RepositoryIndexRequest>,
    ) -> Answer<pb::RepositoryIndexResponse> {
        let state = if self.ready() { "READY" } else { "UNAVAILABLE" };
        let index = |name: &String| pb::repository_index_response::ModelIndex {
            name: name.clone(),
            version: "1".to_owned(),
            state: state.to_owned(),
            reason: String::new(),
        };
        let models = self.engine.models.iter().map(index).collect();
        Ok(Response::new(pb::RepositoryIndexResponse { models }))
    }

    async fn system_shared_memory_status(
        &self,
        _: Request<pb::SystemSharedMemoryStatusRequest>,
    ) -> Answer<pb::SystemSharedMemoryStatusResponse> {
        Ok(Response::new(pb::SystemSharedMemoryStatusResponse {}))
    }

    async fn system_shared_memory_unregister(
        &self,
        _: Request<pb::SystemSharedMemoryUnregisterRequest>,
    ) -> Answer<pb::SystemSharedMemoryUnregisterResponse> {
        Ok(Response::new(pb::SystemSharedMemoryUnregisterResponse {}))
    }

    async fn cuda_shared_memory_status(
        &self,
        _: Request<pb::CudaSharedMemoryStatusRequest>,
    ) -> Answer<pb::CudaSharedMemoryStatusResponse> {
        Ok(Response::new(pb::CudaSharedMemoryStatusResponse {}))
    }

    async fn cuda_shared_memory_unregister(
        &self,
        _: Request<pb::CudaSharedMemoryUnregisterRequest>,
    ) -> Answer<pb::CudaSharedMemoryUnregisterResponse> {
        Ok(Response::new(pb::CudaSharedMemoryUnregisterResponse {}))
    }
}

#[tonic::async_trait]
impl Health for Service {
    async fn check(&self, _: Request<HealthCheckRequest>) -> Answer<HealthCheckResponse> {
        let status = if self.ready() { ServingStatus::Serving } else { ServingStatus::NotServing };
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    type WatchStream = StreamOf<HealthCheckResponse>;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Answer<Self::WatchStream> {
        Err(Status::unimplemented("ask with Check"))
    }
}

/// The inputs in raw form, from `raw_input_contents` or from each input's typed contents.
fn inputs_of(request: &ModelInferRequest) -> Result<Vec<Tensor>, FaultStatus> {
    let raw = &request.raw_input_contents;
    if !raw.is_empty() && raw.len() != request.inputs.len() {
        let (given, expected) = (raw.len(), request.inputs.len());
        let message = format!("raw_input_contents has {given} entries for {expected} inputs");
        return Err(FaultStatus::invalid(message));
    }
    let mut raw = raw.iter();
    let inputs = request.inputs.iter().map(|input| {
        let data = match (raw.next(), &input.contents) {
            (Some(data), _) => data.clone(),
            (None, Some(typed)) => {
                tensor::from_typed(&input.datatype, typed).map_err(FaultStatus::invalid)?
            }
            (None, None) => bytes::Bytes::new(),
        };
        let (name, datatype) = (input.name.clone(), input.datatype.clone());
        Ok(Tensor { name, datatype, shape: input.shape.clone(), data })
    });
    inputs.collect()
}

fn response_of(
    request: &ModelInferRequest,
    outputs: Vec<Tensor>,
    contents: OutputContents,
) -> ModelInferResponse {
    let mut response = ModelInferResponse {
        model_name: request.model_name.clone(),
        model_version: "1".to_owned(),
        id: request.id.clone(),
        ..Default::default()
    };
    // All raw or all typed, as the protocol asks: FP16 and BF16 only exist raw.
    let typed: Option<Vec<_>> = match contents {
        OutputContents::Raw => None,
        OutputContents::Typed => outputs.iter().map(tensor::to_typed).collect(),
    };
    let mut typed = typed.map(Vec::into_iter);
    for output in outputs {
        let contents = typed.as_mut().and_then(Iterator::next);
        if contents.is_none() {
            response.raw_output_contents.push(output.data);
        }
        response.outputs.push(pb::model_infer_response::InferOutputTensor {
            name: output.name,
            datatype: output.datatype,
            shape: output.shape,
            parameters: BTreeMap::new(),
            contents,
        });
    }
    response
}

fn parameter<'a>(request: &'a ModelInferRequest, name: &str) -> Option<&'a ParameterChoice> {
    request.parameters.get(name)?.parameter_choice.as_ref()
}

fn own_parameters(input: &InferInputTensor) -> (String, BTreeMap<String, String>) {
    (input.name.clone(), parameters_as_text(&input.parameters))
}

fn parameters_as_text(parameters: &BTreeMap<String, InferParameter>) -> BTreeMap<String, String> {
    let text = |choice: &ParameterChoice| match choice {
        ParameterChoice::BoolParam(value) => value.to_string(),
        ParameterChoice::Int64Param(value) => value.to_string(),
        ParameterChoice::StringParam(value) => value.clone(),
        ParameterChoice::DoubleParam(value) => value.to_string(),
        ParameterChoice::Uint64Param(value) => value.to_string(),
    };
    let entry = |(name, value): (&String, &InferParameter)| {
        (name.clone(), value.parameter_choice.as_ref().map(text).unwrap_or_default())
    };
    parameters.iter().map(entry).collect()
}

fn ascii_headers(metadata: &MetadataMap) -> BTreeMap<String, String> {
    let entry = |entry: KeyAndValueRef<'_>| match entry {
        KeyAndValueRef::Ascii(name, value) => {
            Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
        }
        KeyAndValueRef::Binary(..) => None,
    };
    metadata.iter().filter_map(entry).collect()
}

fn statistics_of(engine: &Engine, name: String) -> pb::ModelStatistics {
    let counted = engine.counters.snapshot();
    let duration = |count, ns| Some(pb::StatisticDuration { count, ns });
    let batch = |(batch_size, count, busy): (u64, u64, std::time::Duration)| {
        let ns = u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX);
        pb::InferBatchStatistics {
            batch_size,
            compute_infer: duration(count, ns),
            ..Default::default()
        }
    };
    pb::ModelStatistics {
        name,
        version: "1".to_owned(),
        inference_count: counted.rows,
        execution_count: counted.executions,
        inference_stats: Some(pb::InferStatistics {
            success: duration(counted.calls.saturating_sub(counted.failed), 0),
            fail: duration(counted.failed, 0),
            compute_infer: duration(counted.executions, counted.busy_nanoseconds),
            ..Default::default()
        }),
        batch_stats: engine.counters.by_size().into_iter().map(batch).collect(),
        ..Default::default()
    }
}
