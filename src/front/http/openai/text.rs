//! Requests for text, and the models that may answer them.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use twox_hash::XxHash3_64;

use super::super::request_id::RequestId;
use super::super::terms;
use super::relay;
use crate::call::{Fault, FaultKind, RelayRequest, Terms};
use crate::config::RoutingPlan;
use crate::engine::{Model, Models, WorkKind};
use crate::wire::intake::Lease;
use crate::wire::openai::{ParsedGeneration, ServiceTier};

/// Calls that name the same session go to the same instance.
const X_SESSION_ID: HeaderName = HeaderName::from_static("x-session-id");

/// A request that is forwarded whole, before it is known to whom.
pub(super) struct Text {
    path: &'static str,
    parsed: ParsedGeneration,
    body: Bytes,
    headers: HeaderMap,
    session: Option<u64>,
    names_a_priority: bool,
}

impl Text {
    pub(super) fn new(
        path: &'static str,
        parsed: ParsedGeneration,
        body: Bytes,
        headers: &HeaderMap,
    ) -> Self {
        Self {
            path,
            parsed,
            body,
            session: headers.get(X_SESSION_ID).map(|id| XxHash3_64::oneshot(id.as_bytes())),
            names_a_priority: terms::name_a_priority(headers),
            headers: relay::headers_for_instance(headers),
        }
    }

    /// The model as the caller names it.
    pub(super) fn model(&self) -> &str {
        &self.parsed.model
    }

    /// The terms of the call for one model: each has its own levels.
    pub(super) fn terms(&self, terms: &Terms, model: &Model) -> Terms {
        let mut terms = terms.clone();
        if !self.names_a_priority {
            terms.priority = self.parsed.service_tier.map(|tier| match tier {
                ServiceTier::Flex => model.plan().priority_levels,
                ServiceTier::Priority => 1,
            });
        }
        // What is one of the levels of the model that is named may be none of this one's.
        terms.priority = terms.priority.map(|level| level.min(model.plan().priority_levels));
        terms
    }

    /// The request as one model's instances are to get it.
    pub(super) fn request(&self, model: &Model, lease: &mut Lease) -> RelayRequest {
        let plan = model.plan();
        let known_as = Some(plan.upstream_name.as_str()).filter(|name| *name != self.parsed.model);
        let with_usage = plan.stream.usage.then_some(()).and_then(|()| {
            let with_usage = self.parsed.with_usage(&self.body, known_as)?;
            // Where there is no room for a second body, tokens are the lesser loss.
            lease.grow_by(with_usage.len()).is_ok().then_some(with_usage)
        });
        RelayRequest {
            path: self.path,
            headers: self.headers.clone(),
            body: match known_as {
                Some(known_as) => self.parsed.with_model(&self.body, known_as),
                None => self.body.clone(),
            },
            stream: self.parsed.stream,
            can_be_named: self.parsed.can_be_named,
            affinity: self.session.or(self.parsed.affinity),
            with_usage,
        }
    }

    /// The models that are asked, one after the other until one serves: for a share of the callers the
    /// canary of the one that is named, then that one, then those that step in for it.
    pub(super) fn candidates(
        &self,
        models: &Models,
        named: &Arc<Model>,
        id: &RequestId,
    ) -> Vec<Arc<Model>> {
        // Who names a session has all of it answered by the same model.
        let who = self.session.unwrap_or_else(|| XxHash3_64::oneshot(id.as_str().as_bytes()));
        let RoutingPlan { canary, canary_share, fallback } = &named.plan().routing;
        let other = |name: &String| models.get(name).filter(|model| generates(model));
        let canary = canary.as_ref().filter(|_| is_within(*canary_share, who)).and_then(other);
        let fallback = fallback.iter().filter_map(other);
        canary.into_iter().chain([Arc::clone(named)]).chain(fallback).collect()
    }
}

/// Whether a model answers requests for text.
pub(super) fn generates(model: &Model) -> bool {
    matches!(model.kind(), WorkKind::OpenAi { generation: true, .. })
}

/// Whether another model may do better: this one has no room, or nobody who could serve.
pub(super) fn may_be_served_elsewhere(fault: &Fault) -> bool {
    matches!(
        fault.kind,
        FaultKind::QueueFull
            | FaultKind::Shed
            | FaultKind::NoInstance
            | FaultKind::Upstream
            | FaultKind::Overloaded
    )
}

/// Whether a hash is in the first share of all hashes.
fn is_within(share: f64, hash: u64) -> bool {
    hash as f64 / u64::MAX as f64 <= share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_hashes_is_within_it() {
        let hashes = (0..10_000_u64).map(|number| XxHash3_64::oneshot(&number.to_le_bytes()));
        let within = hashes.filter(|&hash| is_within(0.05, hash)).count();
        assert!((400..600).contains(&within), "{within}");
        assert!(is_within(1.0, u64::MAX));
    }
}
