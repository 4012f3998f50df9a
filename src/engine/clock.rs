//! The lane's clock: the runtime's, as nanoseconds since the process began to serve.

use tokio::time::Instant as RuntimeInstant;

use crate::lane::Instant;

#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    origin: RuntimeInstant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { origin: RuntimeInstant::now() }
    }

    pub(super) fn now(self) -> Instant {
        self.to_lane(RuntimeInstant::now())
    }

    pub(super) fn to_lane(self, at: RuntimeInstant) -> Instant {
        let since = at.saturating_duration_since(self.origin);
        Instant::from_nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    pub(super) fn to_runtime(self, at: Instant) -> RuntimeInstant {
        self.origin + std::time::Duration::from_nanos(at.as_nanos())
    }
}
