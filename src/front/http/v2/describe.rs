//! What a model is: metadata, readiness, configuration.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

use super::super::find::{ModelPath, model_of_path};
use super::super::problem::KserveFault;
use super::super::{HttpState, reply};
use crate::call::{Fault, FaultKind};
use crate::engine::Model;
use crate::instance::{Description, TensorDescription};
use crate::tensor::DataType;

#[derive(Serialize)]
struct Metadata<'a> {
    name: &'a str,
    versions: Vec<&'a str>,
    platform: &'a str,
    inputs: Vec<TensorMetadata<'a>>,
    outputs: Vec<TensorMetadata<'a>>,
}

#[derive(Serialize)]
struct TensorMetadata<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: &'a [i64],
}

/// The versions of a model. Clients of Triton take a version for granted and read it as a number,
/// so that a model that does not tell its versions has one, `1`.
pub(in super::super) fn versions(description: &Description) -> Vec<&str> {
    if description.versions.is_empty() {
        return vec!["1"];
    }
    description.versions.iter().map(String::as_str).collect()
}

pub(super) async fn metadata(
    State(state): State<Arc<HttpState>>,
    path: ModelPath,
) -> Result<Response, KserveFault> {
    let model = model_of_path(&state.models, &path)?;
    let description = model.description();
    Ok(reply::json(&Metadata {
        name: model.name(),
        versions: versions(&description),
        platform: &description.platform,
        inputs: described(&description.inputs),
        outputs: described(&description.outputs),
    }))
}

fn described(list: &[TensorDescription]) -> Vec<TensorMetadata<'_>> {
    list.iter()
        .map(|it| TensorMetadata { name: &it.name, datatype: it.datatype.name(), shape: &it.shape })
        .collect()
}

#[derive(Serialize)]
struct Ready<'a> {
    name: &'a str,
    ready: bool,
}

pub(super) async fn ready(
    State(state): State<Arc<HttpState>>,
    path: ModelPath,
) -> Result<Response, KserveFault> {
    let model = model_of_path(&state.models, &path)?;
    let name = model.name();
    if state.models.is_draining() {
        return Err(super::server::not_ready(FaultKind::Draining, "the server is shutting down"));
    }
    if !model.is_ready() {
        let message = format!("model '{name}' has no usable instance");
        return Err(super::server::not_ready(FaultKind::NoInstance, message));
    }
    Ok(reply::json(&Ready { name, ready: true }))
}

/// Triton's model configuration, as far as it means something for a proxy.
#[derive(Serialize)]
struct Config<'a> {
    name: &'a str,
    platform: &'a str,
    backend: &'static str,
    version_policy: VersionPolicy,
    max_batch_size: u32,
    input: Vec<TensorConfig<'a>>,
    output: Vec<TensorConfig<'a>>,
    instance_group: Vec<InstanceGroup<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dynamic_batching: Option<DynamicBatching>,
    model_transaction_policy: TransactionPolicy,
}

#[derive(Serialize)]
struct VersionPolicy {
    latest: LatestVersions,
}

#[derive(Serialize)]
struct LatestVersions {
    num_versions: u32,
}

#[derive(Serialize)]
struct TensorConfig<'a> {
    name: &'a str,
    data_type: String,
    dims: &'a [i64],
}

#[derive(Serialize)]
struct InstanceGroup<'a> {
    name: &'a str,
    kind: &'static str,
    count: usize,
}

#[derive(Serialize)]
struct DynamicBatching {
    preferred_batch_size: [u32; 0],
    #[serde(skip_serializing_if = "Option::is_none")]
    max_queue_delay_microseconds: Option<u64>,
    priority_levels: u8,
    default_priority_level: u8,
}

#[derive(Serialize)]
struct TransactionPolicy {
    decoupled: bool,
}

pub(super) async fn config(
    State(state): State<Arc<HttpState>>,
    path: ModelPath,
) -> Result<Response, KserveFault> {
    let model = model_of_path(&state.models, &path)?;
    let description = model.description();
    if description.inputs.is_empty() && !model.is_ready() {
        let message = format!(
            "the configuration of model '{}' is not known yet: no instance has told it",
            model.name()
        );
        return Err(Fault::new(FaultKind::NoInstance, message).into());
    }
    Ok(reply::json(&configuration(&model, &description)))
}

fn configuration<'a>(model: &'a Model, description: &'a Description) -> Config<'a> {
    let plan = model.plan();
    // Clients strip axis 0 off the metadata exactly when this is above 0.
    let max_batch_size = model.max_batch_size();
    let delay = plan.max_queue_delay.map(|delay| delay.as_micros());
    Config {
        name: model.name(),
        platform: &description.platform,
        backend: "batchwise",
        version_policy: VersionPolicy { latest: LatestVersions { num_versions: 1 } },
        max_batch_size,
        input: tensors(&description.inputs, max_batch_size > 0),
        output: tensors(&description.outputs, max_batch_size > 0),
        instance_group: vec![InstanceGroup {
            name: model.name(),
            kind: "KIND_AUTO",
            count: plan.instances.len(),
        }],
        dynamic_batching: (max_batch_size > 0).then(|| DynamicBatching {
            preferred_batch_size: [],
            max_queue_delay_microseconds: delay.and_then(|micros| micros.try_into().ok()),
            priority_levels: plan.priority_levels,
            default_priority_level: plan.default_priority,
        }),
        model_transaction_policy: TransactionPolicy { decoupled: false },
    }
}

fn tensors(list: &[TensorDescription], without_batch_axis: bool) -> Vec<TensorConfig<'_>> {
    list.iter()
        .map(|tensor| TensorConfig {
            name: &tensor.name,
            data_type: match tensor.datatype {
                DataType::Bytes => "TYPE_STRING".to_owned(),
                other => format!("TYPE_{other}"),
            },
            dims: tensor.shape.get(usize::from(without_batch_axis)..).unwrap_or_default(),
        })
        .collect()
}
