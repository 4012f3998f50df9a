//! Other models from now on, without losing a call.
//!
//! A model is a handle, and its engine ends once nobody holds one any more and everything that it
//! accepted is answered. So a change is no more than another map: who looked a model up before goes on
//! with what it holds, who comes later gets the new one. An engine that is not served any more is
//! told nothing, least of all to refuse calls: a call may have found its model a moment before.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::model::Model;
use super::registry::{ByName, ModelSetup, Models};
use crate::config::{ModelPlan, Protocol};
use crate::lane::{Experience, InstanceId};

/// The longest that a changed model is waited for before it is served.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The process is shutting down: the models stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server is shutting down")]
pub struct ShuttingDown;

impl Models {
    /// From now on serves the models of `setups`, new or in place of those of the same names, and
    /// not those that are `removed`. All other models go on as they are.
    ///
    /// A model in place of one that has a usable instance is served once it has one, too, but at the
    /// latest after two probes. Returns the names of those that were not usable by then.
    ///
    /// # Errors
    /// When the process is shutting down; nothing has changed then.
    pub async fn change(
        &self,
        removed: &BTreeSet<String>,
        setups: Vec<ModelSetup>,
    ) -> Result<Vec<String>, ShuttingDown> {
        let before = self.current();
        let mut started: Vec<Arc<Model>> = Vec::with_capacity(setups.len());
        for setup in setups {
            let predecessor = before.get(&setup.plan.name).map(|model| &**model);
            let inheritance = match predecessor {
                Some(predecessor) => predecessor.bequeath(&setup.plan).await,
                None => None,
            };
            let model = self.start_model(setup, predecessor, inheritance.as_ref());
            started.push(Arc::new(model));
        }
        let succeed = started
            .iter()
            .filter(|model| before.get(model.name()).is_some_and(|before| before.is_up()));
        drop(join_all(succeed.clone().map(|model| wait_for(model))).await);
        let not_ready = succeed.filter(|model| !model.is_up());
        let not_ready = not_ready.map(|model| model.name().to_owned()).collect();
        // A drain tells every engine that runs by then, and so those that were just started.
        if self.is_draining() {
            return Err(ShuttingDown);
        }
        self.current.rcu(|current| {
            let kept = current.iter().filter(|(name, _)| !removed.contains(*name));
            let mut next: ByName =
                kept.map(|(name, model)| (name.clone(), Arc::clone(model))).collect();
            next.extend(started.iter().map(|model| (model.name().to_owned(), Arc::clone(model))));
            next
        });
        for model in &started {
            if let Some(before) = before.get(model.name()) {
                model.follow_operator(before).await;
            }
        }
        Ok(not_ready)
    }

    /// Takes an instance of a model out of service, or puts it back. `false` when there is no such
    /// instance or model any more.
    pub async fn set_drained(&self, model: &str, instance: &str, drained: bool) -> bool {
        let mut told: Option<Arc<Model>> = None;
        // Told once more if another model has taken its place meanwhile.
        while let Some(served) = self.get(model) {
            if told.as_ref().is_some_and(|told| Arc::ptr_eq(told, &served)) {
                return true;
            }
            if !served.set_drained(instance, drained).await {
                return false;
            }
            told = Some(served);
        }
        false
    }
}

/// What a lane has learned, and what the instances of its successor were called in it.
#[derive(Debug)]
pub(super) struct Inheritance {
    pub(super) experience: Experience,
    pub(super) before: Vec<Option<InstanceId>>,
}

impl Model {
    /// What its lane has learned, if that holds under another plan: for the same work, done by at least
    /// one of the same instances.
    async fn bequeath(&self, plan: &ModelPlan) -> Option<Inheritance> {
        let own = self.plan();
        let same_work = plan.protocol == own.protocol
            && plan.upstream_name == own.upstream_name
            && plan.batching == own.batching;
        // What runs within the process starts anew, and its files may be others.
        if !same_work || plan.protocol == Protocol::Embedded {
            return None;
        }
        let index = |instance| own.instances.iter().position(|known| known == instance);
        let id = |index| u32::try_from(index).ok().map(InstanceId);
        let before: Vec<_> =
            plan.instances.iter().map(|instance| index(instance).and_then(id)).collect();
        if before.iter().all(Option::is_none) {
            return None;
        }
        Some(Inheritance { experience: self.experience().await?, before })
    }

    /// Takes over what an operator has decided meanwhile over the instances of the model before.
    async fn follow_operator(&self, before: &Self) {
        for instance in &before.plan().instances {
            let drained = before.is_drained(&instance.name);
            if self.is_drained(&instance.name) != drained {
                // There may be no such instance any more.
                self.set_drained(&instance.name, drained).await;
            }
        }
    }
}

/// Waits until a model is usable, but no longer than two probes of an instance may take.
async fn wait_for(model: &Model) {
    let health = &model.plan().health;
    let bound = health.interval.saturating_add(health.timeout).min(LONGEST_WAIT);
    drop(tokio::time::timeout(bound, model.until_up()).await);
}
