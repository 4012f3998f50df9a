//! Who watches what comes to a server, as it comes.

use std::fmt;
use std::sync::Arc;

/// What has come.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrival {
    /// A batch that is about to be executed.
    Batch {
        /// The model's name in the request.
        model: String,
        /// The elements of the first input (KServe v2), the instances (v1), the texts (OpenAI), as
        /// text.
        elements: Vec<String>,
    },
    /// A call that a fault strikes, and which: it may never be read.
    Struck {
        /// The path of the request.
        path: String,
        /// The fault.
        fault: &'static str,
    },
}

/// Is told of everything that comes.
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
