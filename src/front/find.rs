//! From a name to the model that is meant.

use std::sync::Arc;

use crate::call::{Fault, FaultKind};
use crate::engine::{Model, Models, WorkKind};

/// Names listed when there is no such model.
const LISTED: usize = 5;

/// The model of a name. A version that is not empty must be one that the model has, where that is
/// known.
///
/// # Errors
/// When there is no such model or version; the fault lists some that there are.
pub(super) fn find_model(models: &Models, name: &str, version: &str) -> Result<Arc<Model>, Fault> {
    let Some(model) = models.get(name) else {
        let current = models.current();
        let mut known: Vec<_> = current.keys().map(String::as_str).take(LISTED + 1).collect();
        if let Some(last) = known.get_mut(LISTED) {
            *last = "...";
        }
        let message = format!("there is no model '{name:.100}'; there are: {}", known.join(", "));
        return Err(Fault::new(FaultKind::UnknownModel, message).with_field("model"));
    };
    if version.is_empty() {
        return Ok(model);
    }
    let description = model.description();
    let known = &description.versions;
    if !known.is_empty() && !known.iter().any(|known| known == version) {
        let known = known.join(", ");
        let message = format!("model '{name}' has no version '{version:.100}'; it has: {known}");
        return Err(Fault::new(FaultKind::UnknownModel, message).with_field("version"));
    }
    Ok(model)
}

/// A call that came by a route that its model does not answer; says which it does.
pub(super) fn wrong_route(model: &Model) -> Fault {
    let name = model.name();
    let right = match model.kind() {
        WorkKind::Tensors => {
            format!("POST /v2/models/{name}/infer or /v1/models/{name}:predict")
        }
        WorkKind::Predict => format!("POST /v1/models/{name}:predict"),
        WorkKind::OpenAi { embeddings: true, generation: true, .. } => {
            "POST /v1/chat/completions, /v1/completions, /v1/embeddings or /v1/rerank".to_owned()
        }
        WorkKind::OpenAi { embeddings: true, .. } => "POST /v1/embeddings".to_owned(),
        WorkKind::OpenAi { .. } => "POST /v1/chat/completions or /v1/completions".to_owned(),
    };
    Fault::invalid("model", format!("model '{name}' does not answer this route; use {right}"))
}
