//! From a path to the model that is meant, and what a model declares.

use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;

use super::problem::KserveFault;
use crate::call::Fault;
use crate::engine::{Model, Models};
use crate::front::find::find_model;
use crate::instance::Description;
use crate::wire::DeclaredInput;

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

/// The model of a path, whose version must be one that it has, where that is known.
///
/// # Errors
/// When there is no such model or version.
pub(super) fn model_of_path(models: &Models, path: &ModelPath) -> Result<Arc<Model>, Fault> {
    find_model(models, &path.model, &path.version)
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
