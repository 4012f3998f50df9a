//! An instance's reply that cannot be understood.

/// An instance's reply that is not what the protocol says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ReplyError(pub String);

impl ReplyError {
    /// A reply that is not the JSON that it should be.
    pub(crate) fn json(error: &serde_json::Error) -> Self {
        Self(format!("the instance's reply is not the JSON that was expected: {error}"))
    }
}

impl From<ReplyError> for String {
    fn from(error: ReplyError) -> Self {
        error.0
    }
}
