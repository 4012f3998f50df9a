//! The Open Inference Protocol (KServe v2) over HTTP: JSON with the binary tensor data extension.
//!
//! A body is a JSON document and, when the header `Inference-Header-Content-Length` tells the
//! document's length, the raw bytes of the binary tensors after it in the order of the tensors.
//! Binary tensors stay slices of the body. JSON tensors are scanned as text and written straight
//! into the tensor's bytes: no tree of values is ever built of tensor data.
//!
//! Both sides are here: a front parses requests and writes replies, a client of an instance writes
//! requests and parses replies.

mod document;
pub(crate) mod elements_in;
pub(crate) mod elements_out;
mod plain;
mod raw;
mod reply;
mod request;
mod tensor_parameters;
#[cfg(test)]
mod tests;
mod token;

pub use plain::write_plain_infer_request;
pub use raw::parse_raw_infer_request;
pub use reply::{parse_infer_reply, write_infer_reply};
pub use request::{OutputForm, ParsedInfer, parse_infer_request, write_infer_request};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::call::Fault;

/// The header that tells how many bytes of the body are JSON.
pub const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const BINARY: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// How many bytes of the body are JSON, where the headers say it; 0 for a body that is one raw
/// tensor.
///
/// # Errors
/// When the header is not a whole number.
pub fn json_length(headers: &HeaderMap) -> Result<Option<usize>, Fault> {
    let Some(value) = headers.get(HEADER_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    length.map(Some).ok_or_else(|| {
        Fault::invalid(
            "Inference-Header-Content-Length",
            "header Inference-Header-Content-Length must be the number of bytes of JSON at the \
             start of the body, a whole number",
        )
    })
}
