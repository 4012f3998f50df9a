//! Who watches what comes to a server, as it comes.

use std::fmt;
use std::sync::Arc;

/// A batch that has come, before it is executed.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrival {
    /// The model's name in the request.
    pub model: String,
    /// The elements of the first input (KServe v2), the instances (v1), the texts (OpenAI), as text.
    pub elements: Vec<String>,
}

/// Is told of every batch.
#[derive(Clone)]
pub struct Witness(Arc<dyn Fn(&Arrival) + Send + Sync>);

impl Witness {
    /// A witness that does this.
    pub fn new(see: impl Fn(&Arrival) + Send + Sync + 'static) -> Self {
        Self(Arc::new(see))
    }

    pub(super) fn tell(&self, arrival: &Arrival) {
        (self.0)(arrival);
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Witness")
    }
}
