//! A queueing simulator: calls arrive by a random process, wait in a batcher, are served together
//! by instances whose time depends on the number of rows, and leave. A million calls take about a
//! second, so that a batching policy can be held against what is known to be best, at every load
//! and for every curve, before it meets a real server.
//!
//! - [`arrivals`]: when calls come. [`service`]: how long batches take and which of them fail.
//! - [`system`]: what a batcher is to the simulator. [`lane`]: the lane that ships, as one.
//!   [`reference`]: how the well-known batchers do it.
//! - [`run`]: the clock and the statistics. [`disturbances`]: what goes wrong in mid-run.
//! - [`optimum`]: the exact optimum for one instance. [`search`]: the best that full knowledge of
//!   rate and curve finds for several. [`known`]: figures from elsewhere to check all this.
//!
//! Every call has one row. Times are nanoseconds on the clock of the simulation, and milliseconds
//! as [`f64`] wherever people read or write them (names end in `_ms`). The same seed gives the
//! same run.

pub mod arrivals;
pub mod disturbances;
pub mod known;
pub mod lane;
pub mod optimum;
pub mod random;
pub mod reference;
pub mod run;
pub mod search;
pub mod service;
pub mod system;

pub use arrivals::{Arrivals, Process};
pub use random::Random;
pub use run::{Outcome, Run, simulate};
pub use service::{Curve, Service};
pub use system::{Dispatch, Refusal, System};

use batchwise::lane::Span;

/// A length of time in milliseconds as one on the clock; a negative one is zero.
#[must_use]
pub fn span_from_ms(milliseconds: f64) -> Span {
    // A float becomes an integer by saturation, which is what is wanted at both ends.
    Span::from_nanos((milliseconds * 1e6).round() as u64)
}

/// A length of time on the clock in milliseconds.
#[must_use]
pub fn ms(span: Span) -> f64 {
    span.as_nanos() as f64 / 1e6
}
