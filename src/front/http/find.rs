//! From a path or a body to the model that is meant.

use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;

use super::problem::KserveFault;
use crate::call::{Fault, FaultKind};
use crate::engine::{Model, Models, WorkKind};
use crate::instance::Description;
use crate::wire::DeclaredInput;

/// Names listed when there is no such model.
const LISTED: usize = 5;

/// The model, and perhaps the version, that a path names.
#[derive(Debug)]
pub(super) struct ModelPath {
    pub(super) model: String,
    /// Empty when the path names none.
    pub(super) version: String,
}

impl<S: Send + Sync> FromRequestParts<S> for ModelPath {
    type Rejection = KserveFault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, KserveFault> {
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|error| Fault::invalid("path", format!("the path is malformed: {error}")))?;
        let mut path = Self { model: String::new(), version: String::new() };
        for (name, value) in &params {
            match name {
                "version" => value.clone_into(&mut path.version),
                _ => value.clone_into(&mut path.model),
            }
        }
        Ok(path)
    }
}

/// The model of a name.
///
/// # Errors
/// When there is none; the fault lists some that there are.
pub(super) fn model(models: &Models, name: &str) -> Result<Arc<Model>, Fault> {
    models.get(name).ok_or_else(|| {
        let mut known: Vec<_> =
            models.iter().map(|it| it.name().to_owned()).take(LISTED + 1).collect();
        if known.len() > LISTED {
            known.truncate(LISTED);
            known.push("...".to_owned());
        }
        let message = format!("there is no model '{name:.100}'; there are: {}", known.join(", "));
        Fault::new(FaultKind::UnknownModel, message).with_field("model")
    })
}

/// The model of a path, whose version must be one that it has, where that is known.
///
/// # Errors
/// When there is no such model or version.
pub(super) fn model_of_path(models: &Models, path: &ModelPath) -> Result<Arc<Model>, Fault> {
    let found = model(models, &path.model)?;
    let version = path.version.as_str();
    if !version.is_empty() {
        let description = found.description();
        let known = &description.versions;
        if !known.is_empty() && !known.iter().any(|it| it == version) {
            let message = format!(
                "model '{}' has no version '{version:.100}'; it has: {}",
                path.model,
                known.join(", ")
            );
            return Err(Fault::new(FaultKind::UnknownModel, message).with_field("version"));
        }
    }
    Ok(found)
}

/// A call that came by a route that its model does not answer; says which it does.
pub(super) fn wrong_route(model: &Model) -> Fault {
    let name = model.name();
    let right = match model.kind() {
        WorkKind::Tensors => {
            format!("POST /v2/models/{name}/infer or /v1/models/{name}:predict")
        }
        WorkKind::Predict => format!("POST /v1/models/{name}:predict"),
        WorkKind::OpenAi { embeddings: true, generation: true } => {
            "POST /v1/chat/completions, /v1/completions or /v1/embeddings".to_owned()
        }
        WorkKind::OpenAi { embeddings: true, .. } => "POST /v1/embeddings".to_owned(),
        WorkKind::OpenAi { .. } => "POST /v1/chat/completions or /v1/completions".to_owned(),
    };
    Fault::invalid("model", format!("model '{name}' does not answer this route; use {right}"))
}

/// The inputs that a model declares.
pub(super) fn declared_inputs(description: &Description) -> Vec<DeclaredInput<'_>> {
    description
        .inputs
        .iter()
        .map(|input| DeclaredInput {
            name: &input.name,
            datatype: input.datatype,
            shape: &input.shape,
        })
        .collect()
}
