//! KServe v2 and v1.

use super::*;
use crate::call::{InferAnswer, ItemsAnswer, Parameter};

const INFER: &str = "/v2/models/adder/infer";
const BODY: &str =
    r#"{"id":"7","inputs":[{"name":"x","datatype":"INT32","shape":[1,2],"data":[3,4]}]}"#;

/// Answers with its input, as `y`.
fn echo(work: &Work) -> Result<Answer, Failure> {
    let Work::Infer(request) = work else { panic!("only tensors are expected") };
    let outputs = vec![request.inputs[0].clone().renamed("y")];
    Ok(Answer::Infer(InferAnswer { version: "2".into(), outputs, ..InferAnswer::default() }))
}

/// Answers with each instance in a list.
fn wrap(work: &Work) -> Result<Answer, Failure> {
    let Work::Items(request) = work else { panic!("only items are expected") };
    let items = request.items.iter();
    let items = items.map(|item| Bytes::from([b"[".as_slice(), item, b"]"].concat())).collect();
    Ok(Answer::Items(ItemsAnswer { items, ..ItemsAnswer::default() }))
}

#[tokio::test]
async fn an_inference_is_answered_in_the_form_that_was_asked_for() {
    let site = Site::new(echo).await;
    let reply = site.post(INFER, BODY).await;
    assert_eq!(
        reply.body,
        r#"{"model_name":"adder","model_version":"2","id":"7","outputs":[{"name":"y","datatype":"INT32","shape":[1,2],"data":[3,4]}]}"#
    );
    assert_eq!(reply.headers["x-request-id"], "7");
    let timing = reply.headers["server-timing"].to_str().unwrap();
    assert!(timing.starts_with("queue;dur=") && timing.ends_with(";desc=\"1\""), "{timing}");

    let binary = BODY.replace(r#""id":"7""#, r#""parameters":{"binary_data_output":true}"#);
    let reply = site.post(INFER, binary).await;
    let json: usize =
        reply.headers["inference-header-content-length"].to_str().unwrap().parse().unwrap();
    assert_eq!(reply.body[json..], [3, 0, 0, 0, 4, 0, 0, 0]);
    let raw = [("Inference-Header-Content-Length", "0")];
    let reply = site.post_with("/v2/models/adder/versions/2/infer", &raw, "abcdefgh").await;
    assert!(reply.body.ends_with(b"abcdefgh"));
    let (Work::Infer(asked), _) = site.last_asked() else { panic!() };
    assert_eq!((asked.version.as_str(), asked.inputs[0].shape().axes()), ("2", &[1, 2][..]));
}

#[tokio::test]
async fn terms_come_from_headers_and_parameters() {
    let site = Site::new(echo).await;
    let headers = [
        ("x-request-id", "mine"),
        ("x-request-timeout-ms", "5000"),
        ("x-request-priority", "1"),
        ("traceparent", "00-a-b-01"),
        ("tracestate", "k=v"),
    ];
    let custom = BODY.replace(r#""id""#, r#""parameters":{"beam":4,"timeout":900000},"id""#);
    let before = tokio::time::Instant::now();
    let reply = site.post_with(INFER, &headers, &custom).await;
    assert_eq!(
        (reply.status, &reply.headers["x-request-id"]),
        (StatusCode::OK, &"mine".parse().unwrap())
    );
    let (Work::Infer(asked), context) = site.last_asked() else { panic!() };
    assert_eq!(asked.parameters, [("beam".to_owned(), Parameter::Int64(4))].into());
    assert_eq!(context.request_id, "mine");
    let trace = context.trace.unwrap();
    assert_eq!((trace.parent.as_str(), trace.state.as_deref()), ("00-a-b-01", Some("k=v")));
    // The parameter's 0.9 s, not the header's 5 s.
    assert!(context.deadline < before + std::time::Duration::from_secs(4));

    for (name, value) in [
        ("x-request-timeout-ms", "0"),
        ("x-request-timeout-ms", "soon"),
        ("x-request-priority", "9"),
        ("x-request-priority", "-1"),
    ] {
        let reply = site.post_with(INFER, &[(name, value)], BODY).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        assert!(reply.error().contains(name), "{}", reply.error());
    }
    let urgent = BODY.replace(r#""id""#, r#""parameters":{"priority":300},"id""#);
    assert!(site.post(INFER, urgent).await.error().contains("priority is 300"));
}

#[tokio::test]
async fn what_is_wrong_is_said_in_json_without_asking_anybody() {
    let site = Site::new(never).await;
    let large = "x".repeat(MOST + 1);
    for (path, body, status, reason, word) in [
        (INFER, "{", 400, "invalid_request", "JSON"),
        (INFER, r#"{"inputs":7}"#, 400, "invalid_request", "'inputs'"),
        (INFER, large.as_str(), 413, "too_large", "1000 bytes"),
        ("/v2/models/none/infer", BODY, 404, "unknown_model", "adder, items, org/text"),
        ("/v2/models/adder/versions/3/infer", BODY, 404, "unknown_model", "1, 2"),
        ("/v2/models/items/infer", BODY, 400, "invalid_request", "/v1/models/items:predict"),
        ("/v2/models/org%2Ftext/infer", BODY, 400, "invalid_request", "/v1/chat/completions"),
        ("/v2/models/%ff/infer", BODY, 400, "invalid_request", "path"),
        ("/v1/models/none:predict", BODY, 404, "unknown_model", "none"),
        ("/v1/models/adder:classify", BODY, 404, "unknown_route", ":predict"),
        ("/v1/models/org/text:predict", BODY, 400, "invalid_request", "/v1/embeddings"),
        ("/v1/models/items/versions/1:predict", BODY, 400, "invalid_request", "version"),
        ("/v2/nothing", "", 404, "unknown_route", "/v2/nothing"),
        ("/v2/health/live", "", 405, "method_not_allowed", "POST"),
        ("/v2/systemsharedmemory/region/r/register", "{}", 501, "unsupported", "shared memory"),
        ("/v2/repository/models/adder/load", "{}", 501, "unsupported", "models.toml"),
    ] {
        let reply = site.post(path, body.to_owned()).await;
        assert_eq!(reply.status.as_u16(), status, "{path}: {}", reply.error());
        assert_eq!(reply.headers["x-batchwise-reason"], reason, "{path}");
        assert_eq!(reply.headers["x-should-retry"], "false", "{path}");
        assert!(reply.json()["error"].is_string(), "{path}: {}", reply.json());
        assert!(reply.error().contains(word), "{path}: {}", reply.error());
    }
    assert!(site.post("/v2/health/live", "").await.headers.contains_key("allow"));
}

#[tokio::test]
async fn an_unwritable_output_and_a_refusal_are_the_callers_to_mend() {
    let site = Site::new(|_| {
        let nan = f32::NAN.to_le_bytes().to_vec();
        let shape = crate::tensor::Shape::from(&[1][..]);
        let tensor = crate::tensor::Tensor::new("y", DataType::Fp32, shape, nan.into()).unwrap();
        Ok(Answer::Infer(InferAnswer { outputs: vec![tensor], ..InferAnswer::default() }))
    })
    .await;
    let reply = site.post(INFER, BODY).await;
    assert!(reply.status == 400 && reply.error().contains("binary_data"), "{}", reply.error());
    let reply = Site::new(refuse).await.post(INFER, BODY).await;
    assert_eq!((reply.status.as_u16(), reply.error().as_str()), (400, "not like this"));
    assert_eq!(reply.headers["x-request-id"], "7");
    assert_eq!(reply.headers["x-batchwise-reason"], "upstream_refused");
}

#[tokio::test]
async fn predictions_come_from_items_and_from_tensors() {
    let site = Site::new(|work| match work {
        Work::Infer(_) => echo(work),
        _ => wrap(work),
    })
    .await;
    let body = r#"{"instances":[[1,2],[3,4]]}"#;
    let reply = site.post("/v1/models/adder:predict", body).await;
    assert_eq!(reply.body, r#"{"predictions":[[1,2],[3,4]]}"#);
    assert!(reply.headers["server-timing"].to_str().unwrap().ends_with("desc=\"2\""));
    let reply = site.post("/v1/models/adder/versions/1:predict", body).await;
    assert_eq!(reply.status, StatusCode::OK);
    let reply = site.post("/v1/models/items:predict", r#"{"instances":["a", {"b":1}]}"#).await;
    assert_eq!(reply.body, r#"{"predictions":[["a"],[{"b":1}]]}"#);
    let wrong = site.post("/v1/models/adder:predict", r#"{"instances":[[1,2],[3,4.5]]}"#).await;
    assert!(wrong.error().contains("instances[1]") && wrong.error().contains("4.5"));
}

#[tokio::test]
async fn the_server_and_its_models_describe_themselves() {
    let site = Site::new(never).await;
    assert_eq!(site.get("/v2/health/live").await.status, StatusCode::OK);
    assert_eq!(site.get("/v2/health/ready").await.status, StatusCode::OK);
    assert_eq!(site.get("/v2/models/adder/ready").await.json()["ready"], true);
    let server = site.get("/v2").await.json();
    assert_eq!(server["name"], "batchwise");
    assert!(server["extensions"].as_array().unwrap().contains(&"binary_tensor_data".into()));
    let metadata = site.get("/v2/models/adder/versions/1").await.json();
    let tensor =
        |name: &str| serde_json::json!([{"name": name, "datatype": "INT32", "shape": [-1, 2]}]);
    assert_eq!(metadata["versions"], serde_json::json!(["1", "2"]));
    assert_eq!((&metadata["inputs"], &metadata["outputs"]), (&tensor("x"), &tensor("y")));
    let config = site.get("/v2/models/adder/config").await.json();
    assert_eq!(config["max_batch_size"], 8);
    let input = serde_json::json!([{"name": "x", "data_type": "TYPE_INT32", "dims": [2]}]);
    assert_eq!(config["input"], input);
    let index = site.post("/v2/repository/index", r#"{"ready":true}"#).await.json();
    assert_eq!(
        (index[0]["name"].as_str(), index[0]["state"].as_str()),
        (Some("adder"), Some("READY"))
    );
    assert_eq!(site.get("/v2/cudasharedmemory/status").await.json(), serde_json::json!([]));
    let unregister = site.post("/v2/systemsharedmemory/unregister", "").await;
    assert_eq!(unregister.status, StatusCode::OK);
    let v1 = site.get("/v1/models/adder/versions/2").await.json();
    assert_eq!((v1["id"].as_str(), v1["object"].as_str()), (Some("adder"), Some("model")));
    assert_eq!(v1["model_version_status"][0]["version"], "2");
    assert_eq!(v1["model_version_status"][0]["state"], "AVAILABLE");
}

#[tokio::test]
async fn statistics_count_what_was_done() {
    let site = Site::new(echo).await;
    site.post(INFER, BODY).await;
    let all = site.get("/v2/models/stats").await.json();
    assert_eq!(all["model_stats"].as_array().unwrap().len(), 3);
    let one = &site.get("/v2/models/adder/stats").await.json()["model_stats"][0];
    assert_eq!((&one["name"], &one["version"]), (&"adder".into(), &"2".into()));
    assert_eq!((&one["inference_count"], &one["execution_count"]), (&1.into(), &1.into()));
    for part in ["success", "fail", "queue", "compute_infer", "cache_hit", "cache_miss"] {
        assert!(one["inference_stats"][part]["count"].is_u64(), "{part} of {one}");
        assert!(one["inference_stats"][part]["ns"].is_u64(), "{part} of {one}");
    }
    assert_eq!(one["batch_stats"][0]["batch_size"], 1);
}

#[tokio::test]
async fn a_drain_shows_in_health_before_calls_are_refused() {
    let site = Site::new(echo).await;
    site.models.announce_drain();
    for path in ["/v2/health/ready", "/v2/models/adder/ready"] {
        let reply = site.get(path).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        assert_eq!(reply.headers["x-batchwise-reason"], "draining");
    }
    assert_eq!(site.post(INFER, BODY).await.status, StatusCode::OK);
}
