//! The routes whose requests a batch may hold.

use serde::{Deserialize, Serialize};

use crate::engine::WorkKind;

/// A route whose requests a batch may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Endpoint {
    #[serde(rename = "/v1/chat/completions")]
    ChatCompletions,
    #[serde(rename = "/v1/completions")]
    Completions,
    #[serde(rename = "/v1/embeddings")]
    Embeddings,
}

impl Endpoint {
    pub(super) const ALL: [Self; 3] = [Self::ChatCompletions, Self::Completions, Self::Embeddings];

    /// Its path.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
        }
    }

    /// The endpoint of a path.
    pub(super) fn of_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|endpoint| endpoint.path() == path)
    }

    /// Whether its requests share batches that are put together here.
    pub(super) const fn shares_batches(self) -> bool {
        matches!(self, Self::Embeddings)
    }

    /// Whether a model of this kind answers it.
    pub(super) fn is_answered_by(self, kind: WorkKind) -> bool {
        match (self, kind) {
            (Self::Embeddings, WorkKind::OpenAi { embeddings, .. }) => embeddings,
            (_, WorkKind::OpenAi { generation, .. }) => generation,
            _ => false,
        }
    }
}
