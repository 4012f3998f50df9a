//! What a model server's metadata and configuration say, whichever wire they came by.

use super::{BatchLimit, Description, TensorDescription};

/// A model's metadata.
#[derive(Clone, Debug, Default)]
pub(super) struct Metadata {
    pub(super) platform: String,
    pub(super) versions: Vec<String>,
    pub(super) inputs: Vec<DeclaredTensor>,
    pub(super) outputs: Vec<DeclaredTensor>,
}

/// A tensor as metadata writes it.
#[derive(Clone, Debug, Default)]
pub(super) struct DeclaredTensor {
    pub(super) name: String,
    pub(super) datatype: String,
    pub(super) shape: Vec<i64>,
}

/// What a Triton model configuration says about batches.
#[derive(Clone, Debug, Default)]
pub(super) struct Configuration {
    /// 0 for a model that does not batch; `None` where the configuration says nothing.
    pub(super) max_batch_size: Option<i64>,
    /// Executions at once: the instances of all groups, on every device of theirs.
    pub(super) executions: u64,
    /// Whether a request may have any number of replies.
    pub(super) decoupled: bool,
    /// Whether requests of a sequence must go to one instance in order.
    pub(super) sequences: bool,
}

/// Puts together what a model server says.
pub(super) fn describe(
    model: &str,
    metadata: Metadata,
    configuration: Option<&Configuration>,
) -> Description {
    let batch_limit = match configuration {
        Some(configuration) => configured_limit(model, configuration, &metadata.inputs),
        None => declared_limit(&metadata.inputs),
    };
    let parallel_batches = configuration
        .and_then(|configuration| u32::try_from(configuration.executions).ok())
        .filter(|&executions| executions > 0);
    // Clients look into the parts of an ensemble, which are not to be had here.
    let platform = Some(metadata.platform).filter(|platform| platform != "ensemble");
    Description {
        platform: platform.unwrap_or_default(),
        versions: metadata.versions,
        inputs: tensors(model, metadata.inputs),
        outputs: tensors(model, metadata.outputs),
        batch_limit,
        parallel_batches,
    }
}

fn configured_limit(
    model: &str,
    configuration: &Configuration,
    inputs: &[DeclaredTensor],
) -> BatchLimit {
    if configuration.decoupled || configuration.sequences {
        let why = if configuration.decoupled {
            "is decoupled: it may answer a request any number of times"
        } else {
            "keeps state between the requests of a sequence"
        };
        tracing::warn!(model, "the model {why}; its calls are sent one by one");
        return BatchLimit::NotBatchable;
    }
    match configuration.max_batch_size.map(u32::try_from) {
        Some(Ok(rows)) if rows > 0 => BatchLimit::Rows(rows),
        Some(_) => BatchLimit::NotBatchable,
        None => declared_limit(inputs),
    }
}

/// Without a configuration, metadata tells only one thing for sure: inputs whose first extents are
/// all fixed leave no axis along which calls could be joined. Joining them nevertheless might even
/// be answered, with nonsense. A first extent of -1 may be the batch axis, or not; that is left to
/// be learned.
fn declared_limit(inputs: &[DeclaredTensor]) -> BatchLimit {
    let fixed = |input: &DeclaredTensor| input.shape.first().is_some_and(|&extent| extent > 0);
    if !inputs.is_empty() && inputs.iter().all(fixed) {
        BatchLimit::NotBatchable
    } else {
        BatchLimit::Unknown
    }
}

/// All tensors, or none when one of them cannot be understood: half a list would be taken for all.
fn tensors(model: &str, declared: Vec<DeclaredTensor>) -> Vec<TensorDescription> {
    let read = |tensor: DeclaredTensor| {
        let datatype = tensor.datatype.strip_prefix("TYPE_").unwrap_or(&tensor.datatype);
        let datatype = if datatype == "STRING" { "BYTES" } else { datatype };
        let datatype = datatype.parse()?;
        Ok(TensorDescription { name: tensor.name, datatype, shape: tensor.shape })
    };
    let all: Result<_, crate::tensor::UnknownDataType> = declared.into_iter().map(read).collect();
    all.unwrap_or_else(|error| {
        tracing::debug!(model, %error, "the model's metadata is not understood");
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DataType;

    fn input(datatype: &str, shape: &[i64]) -> DeclaredTensor {
        let (name, datatype) = ("x".to_owned(), datatype.to_owned());
        DeclaredTensor { name, datatype, shape: shape.to_vec() }
    }

    fn metadata(inputs: Vec<DeclaredTensor>) -> Metadata {
        Metadata { inputs, ..Metadata::default() }
    }

    #[test]
    fn the_configuration_sets_limit_and_parallelism() {
        let configuration =
            |max_batch_size| Configuration { max_batch_size, executions: 3, ..Default::default() };
        let silent = describe("m", metadata(Vec::new()), Some(&configuration(None)));
        assert_eq!(silent.batch_limit, BatchLimit::Unknown);
        let configuration = |max_batch_size| configuration(Some(max_batch_size));
        let described = describe("m", metadata(Vec::new()), Some(&configuration(16)));
        assert_eq!(described.batch_limit, BatchLimit::Rows(16));
        assert_eq!(described.parallel_batches, Some(3));
        let described = describe("m", metadata(Vec::new()), Some(&configuration(0)));
        assert_eq!(described.batch_limit, BatchLimit::NotBatchable);
        let stateful = Configuration { sequences: true, ..configuration(16) };
        let described = describe("m", metadata(Vec::new()), Some(&stateful));
        assert_eq!(described.batch_limit, BatchLimit::NotBatchable);
        let decoupled = Configuration { decoupled: true, ..configuration(16) };
        let described = describe("m", metadata(Vec::new()), Some(&decoupled));
        assert_eq!(described.batch_limit, BatchLimit::NotBatchable);
    }

    #[test]
    fn without_configuration_only_fixed_first_extents_forbid_batches() {
        let limit = |inputs| describe("m", metadata(inputs), None).batch_limit;
        assert_eq!(
            limit(vec![input("FP32", &[1, 3]), input("FP32", &[4])]),
            BatchLimit::NotBatchable
        );
        assert_eq!(limit(vec![input("FP32", &[1, 3]), input("FP32", &[-1])]), BatchLimit::Unknown);
        assert_eq!(limit(vec![input("FP32", &[])]), BatchLimit::Unknown);
        assert_eq!(limit(Vec::new()), BatchLimit::Unknown);
    }

    #[test]
    fn tensors_are_listed_all_or_none() {
        let known = describe("m", metadata(vec![input("TYPE_STRING", &[-1])]), None);
        assert_eq!(known.inputs[0].datatype, DataType::Bytes);
        let odd = vec![input("FP32", &[-1]), input("COMPLEX64", &[-1])];
        assert!(describe("m", metadata(odd), None).inputs.is_empty());
    }

    #[test]
    fn an_ensemble_is_not_called_one() {
        let ensemble = Metadata { platform: "ensemble".to_owned(), ..Metadata::default() };
        assert_eq!(describe("m", ensemble, None).platform, "");
    }
}
