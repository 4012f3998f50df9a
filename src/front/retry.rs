//! Whether and when to come back, as headers and metadata alike.

use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};

use crate::call::Fault;
use crate::wire::status::{RetryAdvice, retry_advice, retry_helps};

const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Writes what there is to say about coming back. Returns when, where that is said.
pub(super) fn write(headers: &mut HeaderMap, fault: &Fault) -> Option<RetryAdvice> {
    if !retry_helps(fault) {
        headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    let advice = retry_advice(fault)?;
    headers.insert(RETRY_AFTER, advice.seconds.into());
    headers.insert(RETRY_AFTER_MS, advice.millis.into());
    Some(advice)
}
