//! KServe v2 over HTTP, with the binary tensor data extension.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri, header};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::engine::Engine;
use super::faults::{headers_as_text, json_response, kserve_error};
use super::settings::FaultStatus;
use super::statistics::Seen;
use super::tensor::Tensor;
use super::{kserve, tensor_json};

/// Length of the JSON head before binary tensors.
const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

type Answer = Result<Response<Body>, FaultAnswer>;

/// A fault in KServe's form.
pub(super) struct FaultAnswer(FaultStatus);

impl From<FaultStatus> for FaultAnswer {
    fn from(fault: FaultStatus) -> Self {
        Self(fault)
    }
}

impl axum::response::IntoResponse for FaultAnswer {
    fn into_response(self) -> Response<Body> {
        kserve_error(&self.0)
    }
}

pub(super) fn router(engine: &Arc<Engine>) -> Router {
    let mut router = Router::new()
        .route("/v2", get(server))
        .route("/v2/health/live", get(|| async { StatusCode::OK }))
        .route("/v2/health/ready", get(ready))
        .route("/v2/repository/index", post(index));
    for model in ["/v2/models/{model}", "/v2/models/{model}/versions/{version}"] {
        router = router
            .route(model, get(metadata))
            .route(&format!("{model}/ready"), get(model_ready))
            .route(&format!("{model}/config"), get(config))
            .route(&format!("{model}/stats"), get(statistics))
            .route(&format!("{model}/infer"), post(infer));
    }
    router.with_state(Arc::clone(engine))
}

/// The model and, where the path has one, the version.
#[derive(Debug, Deserialize)]
struct Target {
    model: String,
    #[serde(default)]
    version: String,
}

async fn server() -> Json<Value> {
    Json(json!({
        "name": kserve::SERVER_NAME,
        "version": kserve::SERVER_VERSION,
        "extensions": kserve::EXTENSIONS,
    }))
}

async fn ready(State(engine): State<Arc<Engine>>) -> StatusCode {
    let ready = engine.switches.read(|settings| settings.ready);
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn model_ready(engine: State<Arc<Engine>>, Path(target): Path<Target>) -> Answer {
    engine.find(&target.model, &target.version)?;
    Ok(json_response(ready(engine).await, String::new()))
}

async fn metadata(State(engine): State<Arc<Engine>>, Path(target): Path<Target>) -> Answer {
    engine.find(&target.model, &target.version)?;
    let tensor = |name: &str| json!({ "name": name, "datatype": "FP32", "shape": [-1, -1] });
    let metadata = json!({
        "name": target.model, "versions": ["1"], "platform": kserve::PLATFORM,
        "inputs": [tensor("x")], "outputs": [tensor("y")],
    });
    Ok(json_response(StatusCode::OK, metadata.to_string()))
}

async fn config(State(engine): State<Arc<Engine>>, Path(target): Path<Target>) -> Answer {
    engine.find(&target.model, &target.version)?;
    let limit = engine.switches.read(|settings| settings.max_batch_size);
    let tensor = |name: &str| json!({ "name": name, "data_type": "TYPE_FP32", "dims": [-1] });
    let config = json!({
        "name": target.model, "platform": kserve::PLATFORM, "max_batch_size": limit,
        "input": [tensor("x")], "output": [tensor("y")],
    });
    Ok(json_response(StatusCode::OK, config.to_string()))
}

async fn statistics(State(engine): State<Arc<Engine>>, Path(target): Path<Target>) -> Answer {
    engine.find(&target.model, &target.version)?;
    let counted = engine.counters.snapshot();
    let model = json!({
        "name": target.model, "version": "1",
        "inference_count": counted.rows, "execution_count": counted.executions,
    });
    Ok(json_response(StatusCode::OK, json!({ "model_stats": [model] }).to_string()))
}

async fn index(State(engine): State<Arc<Engine>>) -> Json<Value> {
    let model = |name: &String| json!({ "name": name, "version": "1", "state": "READY" });
    Json(engine.models.iter().map(model).collect())
}

#[derive(Debug, Deserialize)]
struct Request {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    parameters: Map<String, Value>,
    inputs: Vec<Input>,
    #[serde(default)]
    outputs: Vec<Output>,
}

#[derive(Debug, Deserialize)]
struct Input {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    #[serde(default)]
    parameters: Map<String, Value>,
    #[serde(default)]
    data: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Output {
    name: String,
    #[serde(default)]
    parameters: Map<String, Value>,
}

async fn infer(
    State(engine): State<Arc<Engine>>,
    Path(target): Path<Target>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    engine.find(&target.model, &target.version)?;
    let (request, binary) = split_body(&headers, &body)?;
    let inputs = inputs_of(&request, binary)?;
    let id = request.id.as_deref().unwrap_or_default();
    let seen = engine.records().then(|| Seen {
        headers: headers_as_text(&headers),
        parameters: parameters_as_text(&request.parameters),
        input_parameters: request.inputs.iter().map(own_parameters).collect(),
        body: body.clone(),
        ..kserve::seen(uri.path(), &target.model, id, &inputs)
    });
    let requested = request.outputs.iter().map(|output| output.name.as_str()).collect();
    let outputs = kserve::infer(&engine, &target.model, &inputs, requested, seen).await?;
    Ok(response_of(&target.model, &request, outputs)?)
}

/// The JSON head and the binary tensors behind it.
fn split_body(headers: &HeaderMap, body: &Bytes) -> Result<(Request, Bytes), FaultStatus> {
    let head = match headers.get(HEADER_LENGTH) {
        None => body.len(),
        Some(length) => length
            .to_str()
            .ok()
            .and_then(|length| length.parse().ok())
            .filter(|length| *length <= body.len())
            .ok_or_else(|| FaultStatus::invalid(format!("wrong {HEADER_LENGTH}")))?,
    };
    let request = serde_json::from_slice(&body.slice(..head))
        .map_err(|error| FaultStatus::invalid(format!("wrong body: {error}")))?;
    Ok((request, body.slice(head..)))
}

fn inputs_of(request: &Request, mut binary: Bytes) -> Result<Vec<Tensor>, FaultStatus> {
    let mut inputs = Vec::with_capacity(request.inputs.len());
    for input in &request.inputs {
        let size = input.parameters.get("binary_data_size").and_then(Value::as_u64);
        let data = match (size.map(usize::try_from), &input.data) {
            (Some(Ok(size)), _) if size <= binary.len() => binary.split_to(size),
            (None, Some(data)) => {
                tensor_json::from_json(&input.datatype, data).map_err(FaultStatus::invalid)?
            }
            _ => {
                let message = format!("input '{}' has no data of the size told", input.name);
                return Err(FaultStatus::invalid(message));
            }
        };
        let (name, datatype) = (input.name.clone(), input.datatype.clone());
        inputs.push(Tensor { name, datatype, shape: input.shape.clone(), data });
    }
    if !binary.is_empty() {
        let message = format!("{} bytes behind the last binary input", binary.len());
        return Err(FaultStatus::invalid(message));
    }
    Ok(inputs)
}

fn response_of(
    model: &str,
    request: &Request,
    outputs: Vec<Tensor>,
) -> Result<Response<Body>, FaultStatus> {
    let is_true = |parameters: &Map<String, Value>, name| {
        parameters.get(name).and_then(Value::as_bool) == Some(true)
    };
    let all_binary = is_true(&request.parameters, "binary_data_output");
    let mut binary = BytesMut::new();
    let mut described = Vec::with_capacity(outputs.len());
    for output in outputs {
        let asked = request.outputs.iter().find(|asked| asked.name == output.name);
        let mut json = json!({
            "name": output.name, "datatype": output.datatype, "shape": output.shape,
        });
        if asked.map_or(all_binary, |asked| is_true(&asked.parameters, "binary_data")) {
            json["parameters"] = json!({ "binary_data_size": output.data.len() });
            binary.extend_from_slice(&output.data);
        } else {
            json["data"] = tensor_json::to_json(&output).map_err(FaultStatus::invalid)?;
        }
        described.push(json);
    }
    let mut head = json!({ "model_name": model, "model_version": "1", "outputs": described });
    if let Some(id) = &request.id {
        head["id"] = json!(id);
    }
    let head = head.to_string();
    if binary.is_empty() {
        return Ok(json_response(StatusCode::OK, head));
    }
    let length = head.len();
    let body = [head.as_bytes(), &binary].concat();
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(HEADER_LENGTH, length.into());
    let octets = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, octets);
    Ok(response)
}

fn own_parameters(input: &Input) -> (String, BTreeMap<String, String>) {
    (input.name.clone(), parameters_as_text(&input.parameters))
}

fn parameters_as_text(parameters: &Map<String, Value>) -> BTreeMap<String, String> {
    let entry = |(name, value): (&String, &Value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        (name.clone(), text)
    };
    parameters.iter().map(entry).collect()
}
