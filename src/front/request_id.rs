//! The id that a call is known by in its reply, in logs and in traces.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderName;

/// The header, or metadata, that carries the id, both ways.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A longer id is no id but an attempt to fill the log.
const LONGEST: usize = 128;

/// Whether a caller's id is one to repeat: visible ASCII, as it goes into logs and headers.
pub(super) fn is_sane(id: &[u8]) -> bool {
    (1..=LONGEST).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// An id that is unique in this process and unlikely to meet one of another.
pub(super) fn fresh_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0));
    format!("{:016x}{:012x}", *PROCESS, NEXT.fetch_add(1, Ordering::Relaxed))
}
