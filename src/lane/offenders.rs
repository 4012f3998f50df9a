//! Who spoiled batches lately, and rides alone for a while.
//!
//! Finding one bad call among n costs some 2 log2(n) batches. A client that sends the same bad input
//! again and again, as many do when they hear of an error, should pay that once: what is known to
//! have spoiled a batch goes alone. So does every call of a tenant most of whose calls do.

use std::collections::{BTreeMap, VecDeque};

use super::ticket::TenantId;
use super::{Instant, Span};

/// How long they are remembered.
const MEMORY: Span = Span::from_secs(60);
/// Inputs and tenants that are remembered.
const REMEMBERED: usize = 256;
/// A tenant with so many bad calls, and at least one bad call in so many, rides alone: below that
/// its good calls would pay more than its bad ones cost.
const BAD_CALLS: u32 = 3;
const ONE_IN: u32 = 4;

/// A call that spoiled a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offender {
    /// What it asked for, as a hash.
    pub(super) signature: u64,
    pub(super) tenant: Option<TenantId>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Record {
    calls: u32,
    bad: u32,
    since: Instant,
}

/// Who spoiled batches lately.
#[derive(Clone, Debug, Default)]
pub(super) struct Offenders {
    signatures: VecDeque<(Instant, u64)>,
    tenants: BTreeMap<TenantId, Record>,
}

impl Offenders {
    /// Whether nobody has spoiled anything, so that there is nothing to compare with.
    pub(super) fn is_empty(&self) -> bool {
        self.signatures.is_empty() && self.tenants.is_empty()
    }

    pub(super) fn remember(&mut self, now: Instant, offender: Offender) {
        self.forget(now);
        if !self.signatures.iter().any(|&(_, known)| known == offender.signature) {
            if self.signatures.len() >= REMEMBERED {
                self.signatures.pop_front();
            }
            self.signatures.push_back((now, offender.signature));
        }
        let Some(tenant) = offender.tenant else { return };
        if let Some(record) = self.tenants.get_mut(&tenant) {
            record.bad += 1;
        } else if self.tenants.len() < REMEMBERED {
            self.tenants.insert(tenant, Record { calls: 1, bad: 1, since: now });
        }
    }

    /// A call has come: whether it is to ride alone.
    pub(super) fn rides_alone(&mut self, now: Instant, call: Offender) -> bool {
        self.forget(now);
        let known = self.signatures.iter().any(|&(_, known)| known == call.signature);
        let record = call.tenant.and_then(|tenant| self.tenants.get_mut(&tenant));
        let often = record.is_some_and(|record| {
            record.calls = record.calls.saturating_add(1);
            record.bad >= BAD_CALLS && record.bad.saturating_mul(ONE_IN) >= record.calls
        });
        known || often
    }

    fn forget(&mut self, now: Instant) {
        while self.signatures.front().is_some_and(|&(at, _)| at + MEMORY <= now) {
            self.signatures.pop_front();
        }
        self.tenants.retain(|_, record| record.since + MEMORY > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(signature: u64, tenant: u64) -> Offender {
        Offender { signature, tenant: Some(TenantId(tenant)) }
    }

    #[test]
    fn the_same_input_rides_alone_for_a_while() {
        let mut offenders = Offenders::default();
        let now = Instant::default();
        offenders.remember(now, call(7, 1));
        assert!(offenders.rides_alone(now, call(7, 2)));
        assert!(!offenders.rides_alone(now, call(8, 1)));
        assert!(!offenders.rides_alone(now + MEMORY, call(7, 2)));
        assert!(offenders.is_empty());
    }

    #[test]
    fn a_tenant_rides_alone_when_much_of_what_it_sends_is_bad() {
        let now = Instant::default();
        for (bad_every, alone) in [(2, true), (100, false)] {
            let mut offenders = Offenders::default();
            let mut last = false;
            for number in 0..400 {
                if number % bad_every == 0 {
                    offenders.remember(now, call(number, 1));
                }
                last = offenders.rides_alone(now, call(1_000 + number, 1));
            }
            assert_eq!(last, alone, "one in {bad_every}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut offenders = Offenders::default();
        for number in 0..10_000 {
            offenders.remember(Instant::default(), call(number, number));
        }
        assert!(offenders.signatures.len() <= REMEMBERED && offenders.tenants.len() <= REMEMBERED);
    }
}
