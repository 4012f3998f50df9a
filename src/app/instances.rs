//! From the plan of a model to the clients of its instances.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{EmbeddedKind, InstanceAddress, InstancePlan, Loaded, ModelPlan, Protocol};
use crate::embedded::{LoadError, OnnxModel, digits};
use crate::engine::ModelSetup;
use crate::instance::{
    EmbeddedEcho, EmbeddedEmbedding, EmbeddedTensors, Instance, KserveGrpc, KserveHttp, KserveV1,
    Network, OpenAi,
};

/// Why a model cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// An embedded model does not load.
    #[error("model '{model}' does not load")]
    Load {
        /// The model.
        model: String,
        /// What is wrong with it.
        #[source]
        source: LoadError,
    },
    /// The file of an embedded model cannot be read.
    #[error("model '{model}': {path} cannot be read")]
    Read {
        /// The model.
        model: String,
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A model of a configuration cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("{place}`instances` in [[model]] cannot be used")]
pub struct UnusableInstances {
    /// Where the file names them, with a colon and a space behind it; empty when there is no file.
    place: String,
    source: SetupError,
}

/// Where a file names the instances of its models: file and line, by the name of the model.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(BTreeMap<String, String>);

impl Places {
    pub(super) fn of(loaded: &Loaded) -> Self {
        let places = loaded.plan.models.iter().zip(&loaded.lines).map(|(model, lines)| {
            let line = lines.instances.first().copied().unwrap_or(lines.model);
            (model.name.clone(), format!("{}:{line}: ", loaded.name))
        });
        Self(places.collect())
    }
}

/// The models with the clients of their instances.
///
/// # Errors
/// When one of them cannot be set up; the error tells where it stands.
pub(super) fn set_up_all<'a>(
    models: impl IntoIterator<Item = &'a ModelPlan>,
    places: &Places,
    network: &Network,
) -> Result<Vec<ModelSetup>, UnusableInstances> {
    let place = |name: &str| places.0.get(name).cloned().unwrap_or_default();
    let one = |plan: &ModelPlan| {
        set_up(plan, network)
            .map_err(|source| UnusableInstances { place: place(&plan.name), source })
    };
    models.into_iter().map(one).collect()
}

/// A model with the clients of its instances, which are reached over `network`.
///
/// # Errors
/// When an embedded model cannot be loaded. A remote instance need not be up.
pub fn set_up(plan: &ModelPlan, network: &Network) -> Result<ModelSetup, SetupError> {
    let instances = match &plan.embedded {
        Some(kind) => embedded(plan, kind)?,
        None => {
            plan.instances.iter().filter_map(|instance| remote(plan, instance, network)).collect()
        }
    };
    Ok(ModelSetup { plan: plan.clone(), instances })
}

fn embedded(plan: &ModelPlan, kind: &EmbeddedKind) -> Result<Vec<Arc<dyn Instance>>, SetupError> {
    let load = |loaded: Result<OnnxModel, LoadError>| {
        loaded.map(Arc::new).map_err(|source| SetupError::Load { model: plan.name.clone(), source })
    };
    let one: Box<dyn Fn() -> Arc<dyn Instance>> = match kind {
        EmbeddedKind::Embedding => Box::new(|| Arc::new(EmbeddedEmbedding)),
        EmbeddedKind::Echo => Box::new(|| Arc::new(EmbeddedEcho)),
        EmbeddedKind::Digits => {
            let model = load(digits())?;
            Box::new(move || Arc::new(EmbeddedTensors::new(Arc::clone(&model))))
        }
        EmbeddedKind::Onnx { path } => {
            let bytes = std::fs::read(path).map_err(|source| SetupError::Read {
                model: plan.name.clone(),
                path: path.clone(),
                source,
            })?;
            let model = load(OnnxModel::from_bytes(&bytes))?;
            Box::new(move || Arc::new(EmbeddedTensors::new(Arc::clone(&model))))
        }
    };
    Ok(plan.instances.iter().map(|_| one()).collect())
}

fn remote(
    plan: &ModelPlan,
    instance: &InstancePlan,
    network: &Network,
) -> Option<Arc<dyn Instance>> {
    let InstanceAddress::Url(url) = &instance.address else { return None };
    let (url, name, probe_path) =
        (url.clone(), plan.upstream_name.as_str(), plan.health.path.clone());
    let repeats = plan.retry.idempotent;
    match plan.protocol {
        Protocol::KserveGrpc => Some(Arc::new(KserveGrpc::over(network, url, name))),
        Protocol::KserveHttp => {
            let instance = KserveHttp::over(network, url, name, probe_path);
            Some(Arc::new(instance.repeating(repeats)))
        }
        Protocol::KserveV1 => {
            let instance = KserveV1::over(network, url, name, probe_path);
            Some(Arc::new(instance.repeating(repeats)))
        }
        Protocol::OpenAi => {
            let instance = OpenAi::over(network, url, name, probe_path).repeating(repeats);
            Some(Arc::new(instance.with_idle_timeout(plan.stream.idle_timeout)))
        }
        Protocol::Embedded => None,
    }
}
