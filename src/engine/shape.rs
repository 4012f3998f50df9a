//! What the lane may know of a call: its track, its rows, its size, whom it may share a batch with.

use crate::call::{InferRequest, ItemsRequest, Parameter, Parameters, Work};
use crate::lane::{ShapeKey, Track};

/// What the lane may know of a call's work.
pub(super) struct Outline {
    pub(super) track: Track,
    pub(super) key: Option<ShapeKey>,
    pub(super) rows: u32,
    pub(super) bytes: u64,
}

pub(super) fn outline(work: &Work) -> Outline {
    match work {
        Work::Infer(request) => infer(request),
        Work::Items(request) => items(request),
        Work::Relay(request) => {
            Outline { track: Track::Stream, key: None, rows: 1, bytes: request.body.len() as u64 }
        }
    }
}

/// A call shares when all its inputs have the same rows, and at least one.
fn infer(request: &InferRequest) -> Outline {
    let mut all = request.inputs.iter().map(|tensor| tensor.shape().rows());
    let first = all.next().flatten().and_then(|rows| u32::try_from(rows).ok());
    let rows = first.filter(|&rows| rows > 0 && all.all(|other| other == Some(u64::from(rows))));
    let bytes = request.inputs.iter().map(|tensor| tensor.data().len() as u64).sum();
    Outline {
        track: Track::Batch,
        key: rows.map(|_| infer_key(request)),
        rows: rows.unwrap_or(1),
        bytes,
    }
}

fn items(request: &ItemsRequest) -> Outline {
    let rows = u32::try_from(request.items.len()).ok().filter(|&rows| rows > 0);
    let mut canonical = Canonical::new(match request.route {
        crate::call::ItemsRoute::Predict => 1,
        crate::call::ItemsRoute::Embeddings => 2,
    });
    canonical.bytes(&request.options);
    Outline {
        track: Track::Batch,
        key: rows.map(|_| canonical.finish()),
        rows: rows.unwrap_or(1),
        bytes: request.items.iter().map(|item| item.len() as u64).sum(),
    }
}

fn infer_key(request: &InferRequest) -> ShapeKey {
    let mut canonical = Canonical::new(0);
    canonical.bytes(request.version.as_bytes());
    canonical.count(request.inputs.len());
    for tensor in &request.inputs {
        canonical.bytes(tensor.name().as_bytes());
        canonical.0.push(tensor.datatype() as u8);
        let axes = tensor.shape().axes();
        canonical.count(axes.len());
        for extent in axes.iter().skip(1) {
            canonical.0.extend(extent.to_le_bytes());
        }
    }
    canonical.count(request.input_parameters.len());
    for (name, parameters) in &request.input_parameters {
        canonical.bytes(name.as_bytes());
        canonical.parameters(parameters);
    }
    canonical.count(request.outputs.len());
    for output in &request.outputs {
        canonical.bytes(output.name.as_bytes());
        canonical.parameters(&output.parameters);
    }
    canonical.parameters(&request.parameters);
    canonical.finish()
}

/// Writes fields so that different lists of fields never have the same bytes: every part is
/// preceded by its length.
struct Canonical(Vec<u8>);

impl Canonical {
    fn new(kind: u8) -> Self {
        let mut bytes = Vec::with_capacity(96);
        bytes.push(kind);
        Self(bytes)
    }

    fn count(&mut self, count: usize) {
        self.0.extend((count as u64).to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend(bytes);
    }

    fn parameters(&mut self, parameters: &Parameters) {
        self.count(parameters.len());
        for (name, value) in parameters {
            self.bytes(name.as_bytes());
            match value {
                Parameter::Bool(value) => self.0.extend([0, u8::from(*value)]),
                Parameter::Int64(value) => {
                    self.0.push(1);
                    self.0.extend(value.to_le_bytes());
                }
                Parameter::Uint64(value) => {
                    self.0.push(2);
                    self.0.extend(value.to_le_bytes());
                }
                Parameter::Double(value) => {
                    self.0.push(3);
                    self.0.extend(value.to_bits().to_le_bytes());
                }
                Parameter::String(value) => {
                    self.0.push(4);
                    self.bytes(value.as_bytes());
                }
            }
        }
    }

    fn finish(self) -> ShapeKey {
        ShapeKey::new(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::RequestedOutput;
    use crate::tensor::{DataType, Shape, Tensor};

    fn request(rows: u64, columns: u64) -> InferRequest {
        let shape = Shape::from(&[rows, columns][..]);
        let data = vec![0; usize::try_from(rows * columns).unwrap()];
        let input = Tensor::new("x", DataType::Uint8, shape, data.into()).unwrap();
        InferRequest { inputs: vec![input], ..InferRequest::default() }
    }

    fn key(request: InferRequest) -> Option<ShapeKey> {
        outline(&Work::Infer(request)).key
    }

    #[test]
    fn calls_share_whatever_their_rows() {
        assert_eq!(key(request(1, 4)), key(request(3, 4)));
        assert_eq!(outline(&Work::Infer(request(3, 4))).rows, 3);
    }

    #[test]
    fn calls_that_differ_in_anything_else_do_not() {
        let base = || request(1, 4);
        let mut others = vec![request(1, 5)];
        others.push(InferRequest { version: "2".to_owned(), ..base() });
        let parameter = ("k".to_owned(), Parameter::Bool(true));
        others.push(InferRequest { parameters: [parameter].into(), ..base() });
        let own = |name: &str, value: &Parameter| {
            let parameters = Parameters::from([("k".to_owned(), value.clone())]);
            InferRequest { input_parameters: [(name.to_owned(), parameters)].into(), ..base() }
        };
        others.push(own("x", &Parameter::Bool(true)));
        others.push(own("x", &Parameter::Bool(false)));
        others.push(own("y", &Parameter::Bool(true)));
        let text = Parameter::String("np".to_owned());
        assert_eq!(key(own("x", &text)), key(own("x", &text)));
        others.push(own("x", &text));
        let output = RequestedOutput { name: "y".to_owned(), parameters: Parameters::new() };
        others.push(InferRequest { outputs: vec![output], ..base() });
        others.push(InferRequest {
            inputs: vec![base().inputs.remove(0).renamed("z")],
            ..InferRequest::default()
        });
        let mut keys: Vec<_> = others.into_iter().map(key).collect();
        keys.push(key(base()));
        let distinct: std::collections::BTreeSet<_> = keys.iter().flatten().collect();
        assert_eq!(distinct.len(), keys.len());
    }

    #[test]
    fn calls_without_common_rows_ride_alone() {
        let mut odd = request(2, 1);
        odd.inputs.extend(request(3, 1).inputs);
        assert_eq!(key(odd), None);
        assert_eq!(key(request(0, 1)), None);
    }
}
