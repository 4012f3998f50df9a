//! What is measured: metric names, handles that are registered once per model, spans, and the log.
//!
//! The hot path touches handles only; names and labels are put together when a model is set up.
//! Labels never carry what a caller chose freely.

mod batch_api;
mod export;
mod export_http;
mod log;
mod metric;
mod model;
mod owned;
mod reload;
mod shown;
mod stray;
mod throttle;

pub use batch_api::BatchApiMetrics;
pub use export::{ExportError, SpanExport, Spans};
pub use log::{LogFormat, init as init_log};
pub use metric::{GivenUp, Metric, Telemetry};
pub use model::{InstanceMetrics, ModelMetrics, OUTCOMES, Via};
pub use owned::{OwnedGauge, SharedGauge};
pub use reload::ReloadMetrics;
pub use stray::StrayMetrics;
pub use throttle::Throttle;
