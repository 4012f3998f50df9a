//! The files of embedded models: a file may change though the configuration that names it does not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::config::{EmbeddedKind, ModelPlan, Plan};

/// The files that the models of a plan run, as they were at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ModelFiles(BTreeMap<PathBuf, Option<Stamp>>);

/// What changes when a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
}

impl ModelFiles {
    /// Looks at the files that the plan names.
    pub(super) fn of(plan: &Plan) -> Self {
        let paths = plan.models.iter().filter_map(path_of);
        Self(paths.map(|path| (path.to_owned(), Stamp::of(path))).collect())
    }

    /// Whether the model runs a file that is another one here than it was `before`.
    pub(super) fn differ(&self, before: &Self, model: &ModelPlan) -> bool {
        path_of(model).is_some_and(|path| self.0.get(path) != before.0.get(path))
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self { length: metadata.len(), modified: metadata.modified().ok() })
    }
}

fn path_of(model: &ModelPlan) -> Option<&Path> {
    match &model.embedded {
        Some(EmbeddedKind::Onnx { path }) => Some(path),
        _ => None,
    }
}
