//! What models have done, in the form of Triton's statistics extension.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

use super::super::find::{ModelPath, model_of_path};
use super::super::problem::KserveFault;
use super::super::{HttpState, reply};
use super::describe::versions;
use crate::engine::{Counted, Model, ModelStatistics};
use crate::instance::Description;

#[derive(Serialize)]
struct All {
    model_stats: Vec<One>,
}

/// Clients want every field, also those that a proxy has nothing to say of.
#[derive(Serialize)]
struct One {
    name: String,
    version: String,
    last_inference: u64,
    inference_count: u64,
    execution_count: u64,
    inference_stats: Times,
    response_stats: Empty,
    batch_stats: Vec<Batch>,
    memory_usage: [u8; 0],
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct Times {
    success: Counted,
    fail: Counted,
    queue: Counted,
    compute_input: Counted,
    compute_infer: Counted,
    compute_output: Counted,
    cache_hit: Counted,
    cache_miss: Counted,
}

#[derive(Serialize)]
struct Batch {
    batch_size: u32,
    compute_input: Counted,
    compute_infer: Counted,
    compute_output: Counted,
}

pub(super) async fn all(State(state): State<Arc<HttpState>>) -> Response {
    let models = state.models.current();
    reply::json(&All { model_stats: models.values().map(|model| one_of(model)).collect() })
}

pub(super) async fn one(
    State(state): State<Arc<HttpState>>,
    path: ModelPath,
) -> Result<Response, KserveFault> {
    let model = model_of_path(&state.models, &path)?;
    Ok(reply::json(&All { model_stats: vec![one_of(&model)] }))
}

/// The version that things are counted under: the latest that the model has.
pub(super) fn version_of(description: &Description) -> String {
    let versions = versions(description);
    let latest = versions.iter().max_by_key(|version| version.parse::<u64>().unwrap_or(0));
    latest.map(|version| (*version).to_owned()).unwrap_or_default()
}

fn one_of(model: &Model) -> One {
    let ModelStatistics {
        last_inference,
        inference_count,
        execution_count,
        success,
        fail,
        queue,
        compute_input,
        compute_infer,
        compute_output,
        batches,
    } = model.statistics();
    let none = Counted::default();
    One {
        name: model.name().to_owned(),
        version: version_of(&model.description()),
        last_inference,
        inference_count,
        execution_count,
        inference_stats: Times {
            success,
            fail,
            queue,
            compute_input,
            compute_infer,
            compute_output,
            cache_hit: none,
            cache_miss: none,
        },
        response_stats: Empty {},
        batch_stats: batches
            .into_iter()
            .map(|(batch_size, times)| Batch {
                batch_size,
                compute_input: times.compute_input,
                compute_infer: times.compute_infer,
                compute_output: times.compute_output,
            })
            .collect(),
        memory_usage: [],
    }
}
