//! The calls that describe the server and its models.

use super::super::Front;
use super::super::find::find_model;
use crate::call::Fault;
use crate::engine::{Counted, Model};
use crate::instance::TensorDescription;
use crate::tensor::DataType;
use crate::wire::pb;

/// What is honoured, in Triton's names; its clients decide by them what to ask.
const EXTENSIONS: [&str; 6] = [
    "binary_tensor_data",
    "parameters",
    "schedule_policy",
    "model_configuration",
    "model_repository",
    "statistics",
];

#[expect(clippy::unnecessary_wraps, reason = "one form for all")]
pub(super) fn server_live(_: pb::ServerLiveRequest) -> Result<pb::ServerLiveResponse, Fault> {
    Ok(pb::ServerLiveResponse { live: true })
}

pub(super) fn server_ready(front: &Front, _: pb::ServerReadyRequest) -> pb::ServerReadyResponse {
    pb::ServerReadyResponse { ready: !front.models.is_draining() && front.models.any_ready() }
}

/// A model that there is not is not ready, as in Triton: clients ask for a yes or no.
pub(super) fn model_ready(
    front: &Front,
    request: &pb::ModelReadyRequest,
) -> pb::ModelReadyResponse {
    let found = find_model(&front.models, &request.name, &request.version);
    let ready = !front.models.is_draining() && found.is_ok_and(|model| model.is_ready());
    pb::ModelReadyResponse { ready }
}

#[expect(clippy::unnecessary_wraps, reason = "one form for all")]
pub(super) fn server_metadata(
    _: pb::ServerMetadataRequest,
) -> Result<pb::ServerMetadataResponse, Fault> {
    Ok(pb::ServerMetadataResponse {
        name: "batchwise".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: EXTENSIONS.map(str::to_owned).into(),
    })
}

pub(super) fn model_metadata(
    front: &Front,
    request: &pb::ModelMetadataRequest,
) -> Result<pb::ModelMetadataResponse, Fault> {
    let model = find_model(&front.models, &request.name, &request.version)?;
    let description = model.description();
    let tensor = |tensor: &TensorDescription| pb::model_metadata_response::TensorMetadata {
        name: tensor.name.clone(),
        datatype: tensor.datatype.name().to_owned(),
        shape: tensor.shape.clone(),
    };
    Ok(pb::ModelMetadataResponse {
        name: model.name().to_owned(),
        versions: versions(&model),
        platform: description.platform.clone(),
        inputs: description.inputs.iter().map(tensor).collect(),
        outputs: description.outputs.iter().map(tensor).collect(),
    })
}

pub(super) fn model_config(
    front: &Front,
    request: &pb::ModelConfigRequest,
) -> Result<pb::ModelConfigResponse, Fault> {
    let model = find_model(&front.models, &request.name, &request.version)?;
    let description = model.description();
    let max_batch_size = i32::try_from(model.max_batch_size()).unwrap_or(i32::MAX);
    // With a batch size the configuration leaves the batch axis out, which the metadata has.
    let batch_axes = usize::from(max_batch_size > 0);
    let dims = |tensor: &TensorDescription| tensor.shape.iter().copied().skip(batch_axes).collect();
    let config = pb::ModelConfig {
        name: model.name().to_owned(),
        platform: description.platform.clone(),
        max_batch_size,
        input: description
            .inputs
            .iter()
            .map(|tensor| pb::ModelInput {
                name: tensor.name.clone(),
                data_type: type_number(tensor.datatype),
                dims: dims(tensor),
            })
            .collect(),
        output: description
            .outputs
            .iter()
            .map(|tensor| pb::ModelOutput {
                name: tensor.name.clone(),
                data_type: type_number(tensor.datatype),
                dims: dims(tensor),
            })
            .collect(),
        instance_group: vec![pb::ModelInstanceGroup {
            name: model.name().to_owned(),
            count: i32::try_from(model.plan().instances.len()).unwrap_or(i32::MAX),
            ..pb::ModelInstanceGroup::default()
        }],
        scheduling_choice: (max_batch_size > 0).then(|| {
            pb::model_config::SchedulingChoice::DynamicBatching(pb::ModelDynamicBatching::default())
        }),
        backend: "batchwise".to_owned(),
        model_transaction_policy: Some(pb::ModelTransactionPolicy { decoupled: false }),
        response_cache: Some(pb::ModelResponseCache { enable: false }),
    };
    Ok(pb::ModelConfigResponse { config: Some(config) })
}

pub(super) fn model_statistics(
    front: &Front,
    request: &pb::ModelStatisticsRequest,
) -> Result<pb::ModelStatisticsResponse, Fault> {
    let model_stats = if request.name.is_empty() {
        front.models.current().values().map(|model| statistics(model)).collect()
    } else {
        vec![statistics(&*find_model(&front.models, &request.name, &request.version)?)]
    };
    Ok(pb::ModelStatisticsResponse { model_stats })
}

fn statistics(model: &Model) -> pb::ModelStatistics {
    let all = model.statistics();
    let duration =
        |counted: Counted| Some(pb::StatisticDuration { count: counted.count, ns: counted.ns });
    pb::ModelStatistics {
        name: model.name().to_owned(),
        version: versions(model).into_iter().next_back().unwrap_or_default(),
        last_inference: all.last_inference,
        inference_count: all.inference_count,
        execution_count: all.execution_count,
        inference_stats: Some(pb::InferStatistics {
            success: duration(all.success),
            fail: duration(all.fail),
            queue: duration(all.queue),
            compute_input: duration(all.compute_input),
            compute_infer: duration(all.compute_infer),
            compute_output: duration(all.compute_output),
            cache_hit: duration(Counted::default()),
            cache_miss: duration(Counted::default()),
        }),
        batch_stats: all
            .batches
            .iter()
            .map(|(&rows, batch)| pb::InferBatchStatistics {
                batch_size: u64::from(rows),
                compute_input: duration(batch.compute_input),
                compute_infer: duration(batch.compute_infer),
                compute_output: duration(batch.compute_output),
            })
            .collect(),
    }
}

pub(super) fn repository_index(
    front: &Front,
    request: &pb::RepositoryIndexRequest,
) -> pb::RepositoryIndexResponse {
    let models = front
        .models
        .current()
        .values()
        .filter(|model| !request.ready || model.is_ready())
        .map(|model| {
            let ready = model.is_ready();
            pb::repository_index_response::ModelIndex {
                name: model.name().to_owned(),
                version: versions(model).into_iter().next_back().unwrap_or_default(),
                state: if ready { "READY" } else { "UNAVAILABLE" }.to_owned(),
                reason: if ready { "" } else { "no instance is up" }.to_owned(),
            }
        })
        .collect();
    pb::RepositoryIndexResponse { models }
}

#[expect(clippy::unnecessary_wraps, reason = "one form for all")]
pub(super) fn system_shared_memory_status(
    _: pb::SystemSharedMemoryStatusRequest,
) -> Result<pb::SystemSharedMemoryStatusResponse, Fault> {
    Ok(pb::SystemSharedMemoryStatusResponse {})
}

#[expect(clippy::unnecessary_wraps, reason = "one form for all")]
pub(super) fn system_shared_memory_unregister(
    _: pb::SystemSharedMemoryUnregisterRequest,
) -> Result<pb::SystemSharedMemoryUnregisterResponse, Fault> {
    Ok(pb::SystemSharedMemoryUnregisterResponse {})
}

#[expect(clippy::unnecessary_wraps, reason = "one form for all")]
pub(super) fn cuda_shared_memory_status(
    _: pb::CudaSharedMemoryStatusRequest,
) -> Result<pb::CudaSharedMemoryStatusResponse, Fault> {
    Ok(pb::CudaSharedMemoryStatusResponse {})
}

#[expect(clippy::unnecessary_wraps, reason = "one form for all")]
pub(super) fn cuda_shared_memory_unregister(
    _: pb::CudaSharedMemoryUnregisterRequest,
) -> Result<pb::CudaSharedMemoryUnregisterResponse, Fault> {
    Ok(pb::CudaSharedMemoryUnregisterResponse {})
}

/// The versions of a model; `1` where its instances do not say, as clients want a number.
fn versions(model: &Model) -> Vec<String> {
    let known = model.description().versions.clone();
    if known.is_empty() { vec!["1".to_owned()] } else { known }
}

fn type_number(datatype: DataType) -> i32 {
    let number = match datatype {
        DataType::Bool => pb::DataType::TypeBool,
        DataType::Uint8 => pb::DataType::TypeUint8,
        DataType::Uint16 => pb::DataType::TypeUint16,
        DataType::Uint32 => pb::DataType::TypeUint32,
        DataType::Uint64 => pb::DataType::TypeUint64,
        DataType::Int8 => pb::DataType::TypeInt8,
        DataType::Int16 => pb::DataType::TypeInt16,
        DataType::Int32 => pb::DataType::TypeInt32,
        DataType::Int64 => pb::DataType::TypeInt64,
        DataType::Fp16 => pb::DataType::TypeFp16,
        DataType::Bf16 => pb::DataType::TypeBf16,
        DataType::Fp32 => pb::DataType::TypeFp32,
        DataType::Fp64 => pb::DataType::TypeFp64,
        DataType::Bytes => pb::DataType::TypeString,
    };
    number as i32
}
