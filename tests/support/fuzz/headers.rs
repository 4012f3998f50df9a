//! Headers that say something on their own: the input is lines of `name: value`.

use std::time::Duration;

use batchwise::wire::frame::{Encoding, format_timeout, parse_timeout};
use batchwise::wire::json::{HEADER_LENGTH, json_length};
use http::HeaderValue;

use super::{check, input};

/// See the module.
pub fn headers(data: &[u8]) {
    let (headers, _) = input::headers(data);
    for value in headers.values() {
        timeout(value);
        if let Ok(text) = value.to_str() {
            let encoding = Encoding::from_name(text);
            assert!(encoding.is_none() || text.len() >= text.trim().len());
            assert_eq!(encoding, Encoding::from_name(text.trim()));
        }
    }
    match json_length(&headers) {
        Ok(None) => assert!(!headers.contains_key(HEADER_LENGTH)),
        Ok(Some(length)) => {
            let text = headers[HEADER_LENGTH].to_str().expect("a number is text").trim();
            assert_eq!(text.trim_start_matches(['+', '0']).parse().unwrap_or(0), length);
        }
        Err(fault) => check::fault(&fault),
    }
}

/// A deadline is passed on never shorter than it came, and hardly longer.
fn timeout(value: &HeaderValue) {
    let Some(told) = parse_timeout(value) else { return };
    let passed_on = parse_timeout(&format_timeout(told)).expect("what is written can be read");
    assert!(passed_on >= told, "{told:?} became {passed_on:?}");
    assert!(passed_on <= told + told / 1_000_000 + Duration::from_nanos(1));
}
