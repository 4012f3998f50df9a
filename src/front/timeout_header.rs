//! The header that says how long a caller waits.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use tokio::time::Instant;

use crate::call::Fault;

const X_REQUEST_TIMEOUT_MS: HeaderName = HeaderName::from_static("x-request-timeout-ms");

/// When the caller of a call that arrived at `arrived` stops waiting; `None` when it does not say so,
/// or when that is beyond what a clock can tell.
///
/// # Errors
/// When the header is not a number of milliseconds, at least 1.
pub(super) fn deadline(headers: &HeaderMap, arrived: Instant) -> Result<Option<Instant>, Fault> {
    let Some(value) = headers.get(X_REQUEST_TIMEOUT_MS) else { return Ok(None) };
    let millis = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    let Some(millis) = millis.filter(|&millis| millis > 0) else {
        let name = "x-request-timeout-ms";
        let message = format!("header {name} must be a whole number of milliseconds, at least 1");
        return Err(Fault::invalid(name, message));
    };
    Ok(arrived.checked_add(Duration::from_millis(millis)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_whole_number_of_milliseconds() {
        let now = Instant::now();
        let of = |value: &str| {
            let headers = [(X_REQUEST_TIMEOUT_MS, value.parse().unwrap())].into_iter().collect();
            deadline(&headers, now).map(|at| at.map(|at| at - now)).map_err(|fault| fault.field)
        };
        assert_eq!(of(" 250 "), Ok(Some(Duration::from_millis(250))));
        assert!(of(&u64::MAX.to_string()).is_ok());
        for bad in ["0", "-1", "1.5", "1e3", "soon", "", "99999999999999999999999"] {
            assert_eq!(of(bad), Err(Some("x-request-timeout-ms".into())), "{bad}");
        }
        assert_eq!(deadline(&HeaderMap::new(), now).unwrap(), None);
    }
}
