//! What the lane may know of a call: its track, its rows, its size, whom it may share a batch with.

use crate::call::{InferRequest, ItemsRequest, ItemsRoute, Parameter, Parameters, Work};
use crate::lane::{ShapeKey, Track};

/// What the lane may know of a call's work.
pub(super) struct Outline {
    pub(super) track: Track,
    pub(super) key: Option<ShapeKey>,
    pub(super) rows: u32,
    pub(super) bytes: u64,
    /// About how many tokens its longest text has; 0 when it has no texts.
    pub(super) longest_tokens: u32,
    /// The same for calls that are best served by the same instance.
    pub(super) affinity: Option<u64>,
}

pub(super) fn outline(work: &Work) -> Outline {
    match work {
        Work::Infer(request) => infer(request),
        Work::Items(request) => items(request),
        Work::Relay(request) => {
            let (bytes, affinity) = (request.body.len() as u64, request.affinity);
            let track = Track::Stream;
            Outline { track, key: None, rows: 1, bytes, longest_tokens: 0, affinity }
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
        longest_tokens: 0,
        affinity: None,
    }
}

fn items(request: &ItemsRequest) -> Outline {
    let rows = u32::try_from(request.items.len()).ok().filter(|&rows| rows > 0);
    let mut canonical = Canonical::new(match request.route {
        ItemsRoute::Predict => 1,
        ItemsRoute::Embeddings => 2,
        ItemsRoute::Rerank(_) => 3,
        ItemsRoute::RerankTexts => 4,
        ItemsRoute::Score(_) => 5,
        ItemsRoute::ScorePairs(_) => 6,
        ItemsRoute::Classify => 7,
        ItemsRoute::Inputs(_) => 8,
        ItemsRoute::PredictInputs => 9,
    });
    canonical.bytes(request.route.path().as_bytes());
    canonical.bytes(&request.options);
    let longest_tokens = match request.route {
        ItemsRoute::Predict => 0,
        _ => request.items.iter().map(|item| tokens(item)).max().unwrap_or(0),
    };
    canonical.0.push(length_class(longest_tokens));
    Outline {
        track: Track::Batch,
        key: rows.map(|_| canonical.finish()),
        rows: rows.unwrap_or(1),
        bytes: request.items.iter().map(|item| item.len() as u64).sum(),
        longest_tokens,
        affinity: None,
    }
}

/// About how many tokens a raw JSON item has: four bytes of text make one, of a list of numbers each.
fn tokens(item: &[u8]) -> u32 {
    let tokens = match item.first() {
        Some(b'[') if !item.contains(&b'"') => {
            1 + item.iter().filter(|&&byte| byte == b',').count()
        }
        _ => item.len().saturating_sub(2).div_ceil(4).max(1),
    };
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

/// Texts share batches with those that are at most about four times as long: an engine that pads all
/// to the longest would else do for 31 short ones what one long one needs.
fn length_class(tokens: u32) -> u8 {
    [64, 256, 1024, 4096, 16_384].iter().filter(|&&most| tokens > most).count() as u8
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

    fn embeddings(texts: &[String]) -> Outline {
        outline(&Work::Items(ItemsRequest {
            route: ItemsRoute::Embeddings,
            items: texts.iter().map(|text| format!("\"{text}\"").into()).collect(),
            options: bytes::Bytes::new(),
            body: None,
        }))
    }

    #[test]
    fn a_long_text_shares_no_batch_with_short_ones() {
        let [short, alike, long] = [3, 40, 4000].map(|length| embeddings(&["x".repeat(length)]));
        assert_eq!(short.key, alike.key);
        assert_ne!(short.key, long.key);
        assert_eq!(long.longest_tokens, 1000);
        assert_eq!(embeddings(&["x".into(), "y".repeat(4000)]).key, long.key);
        assert_eq!(tokens(b"[1,2,3]"), 3);
        assert_eq!(tokens(b"[\"a, b, c, d, e\"]"), 4);
    }

    #[test]
    fn lists_share_only_at_one_path_and_with_one_query() {
        let key = |route, options: &'static str| {
            let items = vec![bytes::Bytes::from_static(b"\"a\"")];
            let options = bytes::Bytes::from_static(options.as_bytes());
            outline(&Work::Items(ItemsRequest { route, items, options, body: None })).key
        };
        let query = "\"query\":\"q\"";
        let keys = [
            key(ItemsRoute::Rerank("/v1/rerank"), query),
            key(ItemsRoute::Rerank("/v2/rerank"), query),
            key(ItemsRoute::Rerank("/v1/rerank"), "\"query\":\"r\""),
            key(ItemsRoute::RerankTexts, query),
            key(ItemsRoute::Inputs("/embed"), ""),
            key(ItemsRoute::Inputs("/embed_all"), ""),
            key(ItemsRoute::Embeddings, ""),
        ];
        assert!(keys.iter().all(Option::is_some));
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
        assert_eq!(keys[0], key(ItemsRoute::Rerank("/v1/rerank"), query));
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
