//! Over HTTP: KServe v2 and v1, OpenAI; and across protocols.

use std::collections::BTreeMap;
use std::time::Duration;

use batchwise::wire::pb;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use pb::infer_parameter::ParameterChoice;
use serde_json::{Value, json};

use crate::everything::Everything;
use crate::model_server::{ServiceTime, Settings, Trigger, embedding_of, reply_to};
use crate::stage::{BOUND, ask, ask_many, client, eventually, request};

fn infer(values: &Value) -> Value {
    json!({"id": "7", "inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": values}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn tensors_are_the_same_over_every_pair_of_protocols() {
    let everything = Everything::new(Settings::default()).await;
    for model in ["by-grpc", "linear"] {
        let path = format!("/v2/models/{model}/infer");
        let reply = everything.post(&path, &infer(&json!([[1, 2], [3, 4.5]]))).await;
        assert_eq!(reply.status, 200, "{:?}", reply.body);
        let body = reply.json();
        assert_eq!(body["outputs"][0]["data"], json!([3.0, 5.0, 7.0, 10.0]), "{model}");
        assert_eq!((&body["id"], &body["model_name"]), (&json!("7"), &json!(model)));
        assert!(reply.headers.contains_key("x-request-id"));
        let timing = reply.headers["server-timing"].to_str().unwrap();
        assert!(timing.starts_with("queue;dur=") && timing.contains("batch;dur="), "{timing}");
        let path = format!("/v1/models/{model}:predict");
        let predicted = everything.post(&path, &json!({"instances": [[1.0, 2.5]]})).await;
        assert_eq!(predicted.json(), json!({"predictions": [[3.0, 6.0]]}), "{model}");
    }
    assert_eq!(ask_many(&client(&everything.proxy).await, 20).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_tensors_pass_both_ways() {
    let everything = Everything::new(Settings::default()).await;
    let head = json!({
        "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32",
                    "parameters": {"binary_data_size": 8}}],
        "parameters": {"binary_data_output": true}
    });
    let head = head.to_string();
    let mut body = head.clone().into_bytes();
    body.extend([1.5_f32, -2.0].iter().flat_map(|value| value.to_le_bytes()));
    for model in ["by-grpc", "linear"] {
        let path = format!("/v2/models/{model}/infer");
        let mut request = everything.request(Method::POST, &path, body.clone().into());
        request.headers_mut().insert("inference-header-content-length", head.len().into());
        let reply = everything.send(request).await;
        assert_eq!(reply.status, 200, "{:?}", reply.body);
        let length: usize =
            reply.headers["inference-header-content-length"].to_str().unwrap().parse().unwrap();
        let tail: Vec<u8> = [4.0_f32, -3.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(reply.body[length..], tail);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inputs_own_parameters_reach_the_model_though_calls_are_joined_and_split() {
    let service = ServiceTime::linear(Duration::from_millis(10), Duration::ZERO);
    let everything =
        Everything::new(Settings { service, max_batch_size: 4, ..Settings::default() }).await;
    let mut in_json = infer(&json!([[1, 2], [3, 4]]));
    in_json["inputs"][0]["parameters"] = json!({"content_type": "np"});
    let mut in_grpc = request(5, 2, 1.0);
    let content_type = ParameterChoice::StringParam("pd".to_owned());
    let content_type = pb::InferParameter { parameter_choice: Some(content_type) };
    in_grpc.inputs[0].parameters.insert("content_type".to_owned(), content_type);
    for model in ["by-grpc", "linear"] {
        in_grpc.model_name = model.to_owned();
        let path = format!("/v2/models/{model}/infer");
        let calls = (0..10).map(async |_| {
            let mut grpc = client(&everything.proxy).await;
            let (reply, asked) =
                tokio::join!(everything.post(&path, &in_json), ask(&mut grpc, in_grpc.clone()));
            assert_eq!(reply.status, 200, "{:?}", reply.body);
            asked.unwrap();
        });
        futures_util::future::join_all(calls).await;
    }
    let mut rows = BTreeMap::new();
    let mut joined = false;
    for seen in everything.server.statistics().seen {
        let protocol = if seen.path.starts_with("/v2") { "http" } else { "grpc" };
        let content_type = seen.input_parameters["x"]["content_type"].clone();
        joined |= content_type == "np" && seen.rows == 4;
        *rows.entry((protocol, content_type)).or_insert(0) += seen.rows;
    }
    let rows_of = [("np", 20), ("pd", 50)];
    let expected = ["grpc", "http"].into_iter().flat_map(|protocol| {
        rows_of.map(|(content_type, rows)| ((protocol, content_type.to_owned()), rows))
    });
    assert_eq!(rows, expected.collect());
    assert!(joined, "calls of two rows shared no batch");
}

#[tokio::test(flavor = "multi_thread")]
async fn predictions_ride_in_batches() {
    let service = ServiceTime::linear(Duration::from_millis(10), Duration::ZERO);
    let everything = Everything::new(Settings { service, ..Settings::default() }).await;
    let calls = (0..40).map(|index| {
        let everything = &everything;
        async move {
            let body = json!({"instances": [index, [index, index]]});
            let reply = everything.post("/v1/models/by-v1:predict", &body).await;
            let doubled = 2 * index + 1;
            let doubled = f64::from(doubled);
            let expected = json!({"predictions": [doubled, [doubled, doubled]]});
            let floats = |value: &Value| -> Vec<f64> {
                let flat = value.to_string().replace(['[', ']'], "");
                flat.split(&[':', ',', '}'][..]).filter_map(|part| part.parse().ok()).collect()
            };
            assert_eq!(floats(&reply.json()), floats(&expected), "{:?}", reply.body);
        }
    });
    futures_util::future::join_all(calls).await;
    let seen = everything.server.statistics();
    assert_eq!(seen.rows, 80);
    assert!(seen.largest_batch > 4, "{:?}", seen.batch_sizes);
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_ride_in_batches_and_come_back_as_asked() {
    let service = ServiceTime::linear(Duration::from_millis(10), Duration::ZERO);
    let everything = Everything::new(Settings { service, ..Settings::default() }).await;
    let calls = (0..30).map(|index| {
        let everything = &everything;
        async move {
            let texts = [format!("text {index}"), format!("other {index}")];
            let body = json!({"model": "embed", "input": texts});
            let reply = everything.post("/v1/embeddings", &body).await;
            assert_eq!(reply.status, 200, "{:?}", reply.body);
            let reply = reply.json();
            for (position, text) in texts.iter().enumerate() {
                let data = &reply["data"][position];
                assert_eq!(data["index"], json!(position));
                let vector: Vec<f32> = serde_json::from_value(data["embedding"].clone()).unwrap();
                assert_eq!(vector, embedding_of(text, 8));
            }
            assert_eq!(reply["data"].as_array().map(Vec::len), Some(2));
            assert!(reply["usage"]["total_tokens"].as_u64().is_some_and(|tokens| tokens > 0));
        }
    });
    futures_util::future::join_all(calls).await;
    let seen = everything.server.statistics();
    assert_eq!(seen.rows, 60);
    assert!(seen.largest_batch > 2, "{:?}", seen.batch_sizes);
}

#[tokio::test(flavor = "multi_thread")]
async fn generation_is_relayed_byte_for_byte() {
    let everything = Everything::new(Settings::default()).await;
    let body =
        json!({"model": "chat", "messages": [{"role": "user", "content": "hi"}], "top_k": 3});
    let reply = everything.post("/v1/chat/completions", &body).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()["choices"][0]["message"]["content"], json!(reply_to("hi")));
    let seen = everything.server.statistics().seen.pop_back().unwrap();
    assert_eq!(seen.body, body.to_string());
    let aliased = json!({"model": "alias", "messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(everything.post("/v1/chat/completions", &aliased).await.status, 200);
    let seen = everything.server.statistics().seen.pop_back().unwrap();
    assert_eq!(seen.model, "chat");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_arrives_event_by_event_and_ends_with_its_reader() {
    let settings = Settings { token_interval: Duration::from_millis(50), ..Settings::default() };
    let everything = Everything::new(settings).await;
    let body = json!({"model": "chat", "stream": true,
                      "messages": [{"role": "user", "content": "a b c d e f g h i j k l m n"}]});
    let request = everything.request(Method::POST, "/v1/chat/completions", body.to_string().into());
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let response = client.request(request).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut stream = response.into_body();
    let first = stream.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b"data: ") && first.ends_with(b"\n\n"), "{first:?}");
    let seen = everything.server.statistics();
    assert_eq!((seen.concurrency, seen.cancelled), (1, 0), "the server is still at it");
    drop(stream);
    drop(client);
    everything.server.wait_until(|seen| seen.cancelled == 1, BOUND).await.unwrap();
    eventually(async || {
        let status = everything.proxy.models.get("chat").unwrap().status().await.unwrap();
        status.instances[0].in_flight == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_says_so() {
    let everything = Everything::new(Settings::default()).await;
    everything.server.switches().set(|settings| {
        settings.drop_connection = Trigger::Next(1);
        settings.drop_moment = crate::model_server::DropMoment::MidReply;
    });
    let body = json!({"model": "chat", "stream": true,
                      "messages": [{"role": "user", "content": "a b c d e f g h"}]});
    let reply = everything.post("/v1/chat/completions", &body).await;
    let text = String::from_utf8(reply.body.to_vec()).unwrap();
    assert!(text.contains("\"error\"") && !text.contains("[DONE]"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_text_does_not_spoil_the_others() {
    let service = ServiceTime::linear(Duration::from_millis(10), Duration::ZERO);
    let everything =
        Everything::new(Settings { service, poison: true, ..Settings::default() }).await;
    let calls = (0..16).map(|index| {
        let everything = &everything;
        async move {
            let text = if index == 5 { "some poison".to_owned() } else { format!("text {index}") };
            let body = json!({"model": "embed", "input": text});
            everything.post("/v1/embeddings", &body).await.status
        }
    });
    let statuses = futures_util::future::join_all(calls).await;
    for (index, status) in statuses.into_iter().enumerate() {
        assert_eq!(status, if index == 5 { 400 } else { 200 }, "call {index}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_the_form_of_their_protocol() {
    let everything = Everything::new(Settings::default()).await;
    let kserve = everything.post("/v2/models/nope/infer", &infer(&json!([1, 2, 3, 4]))).await;
    assert_eq!((kserve.status, kserve.json()["error"].is_string()), (StatusCode::NOT_FOUND, true));
    assert_eq!(kserve.headers["x-batchwise-reason"], "unknown_model");
    let openai = everything.post("/v1/embeddings", &json!({"model": "nope", "input": "a"})).await;
    let error = openai.json()["error"].clone();
    assert_eq!((openai.status, &error["code"]), (StatusCode::NOT_FOUND, &json!("model_not_found")));
    let keys: Vec<_> = error.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["code", "message", "param", "type"]);
    let bad = everything.post("/v2/models/linear/infer", &infer(&json!([1, 2, 3]))).await;
    assert_eq!(bad.status, 400);
    assert!(bad.json()["error"].as_str().unwrap().contains('x'), "{:?}", bad.body);
    let route = everything.get("/nope").await;
    assert_eq!((route.status, route.json().is_object()), (StatusCode::NOT_FOUND, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_tells_how_things_are() {
    let everything = Everything::new(Settings::default()).await;
    let admin = |path: &str| {
        let uri = format!("http://{}{path}", everything.proxy.admin);
        everything.send(Request::get(uri).body(Full::default()).unwrap())
    };
    assert_eq!(admin("/healthz").await.status, 200);
    assert_eq!(admin("/readyz").await.status, 200);
    assert!(admin("/").await.body.starts_with(b"<!"));
    let status = admin("/api/status").await.json();
    assert!(status.to_string().contains("by-grpc"), "{status}");
    let metrics = admin("/metrics").await;
    assert!(metrics.body.windows(22).any(|w| w == b"batchwise_queue_depth{"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_soonest_deadline_is_passed_on_shrunk() {
    let everything = Everything::new(Settings::default()).await;
    let chat = json!({"model": "chat", "messages": [{"role": "user", "content": "hi"}]});
    let mut hasty = infer(&json!([1, 2, 3, 4]));
    hasty["parameters"] = json!({"timeout": 3_000_000});
    let tensors = infer(&json!([1, 2, 3, 4]));
    for (path, body, header, most) in [
        ("/v2/models/by-grpc/infer", &tensors, "grpc-timeout", 8000),
        ("/v2/models/by-grpc/infer", &hasty, "grpc-timeout", 3000),
        ("/v2/models/linear/infer", &tensors, "x-request-timeout-ms", 8000),
        ("/v2/models/linear/infer", &hasty, "x-request-timeout-ms", 3000),
        ("/v1/models/by-v1:predict", &json!({"instances": [1]}), "x-request-timeout-ms", 8000),
        ("/v1/embeddings", &json!({"model": "embed", "input": "a"}), "x-request-timeout-ms", 8000),
        ("/v1/chat/completions", &chat, "x-request-timeout-ms", 8000),
    ] {
        let mut request = everything.request(Method::POST, path, body.to_string().into());
        request.headers_mut().insert("x-request-timeout-ms", 8000.into());
        let reply = everything.send(request).await;
        assert_eq!(reply.status, 200, "{path}: {:?}", reply.body);
        let seen = everything.server.statistics().seen.pop_back().unwrap();
        let told = &seen.headers[header];
        let told = match header {
            "grpc-timeout" => {
                let told = batchwise::wire::frame::parse_timeout(&told.parse().unwrap()).unwrap();
                u64::try_from(told.as_millis()).unwrap()
            }
            _ => told.parse().unwrap(),
        };
        assert!((1..=most).contains(&told), "{path}: {told} ms");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_that_make_no_sense_are_refused_or_stand_for_none() {
    let everything = Everything::new(Settings::default()).await;
    let tensors = infer(&json!([1, 2, 3, 4]));
    let path = "/v2/models/linear/infer";
    for (value, status) in
        [("0", 400), ("-5", 400), ("1.5", 400), ("soon", 400), ("18446744073709551615", 200)]
    {
        let mut request = everything.request(Method::POST, path, tensors.to_string().into());
        request.headers_mut().insert("x-request-timeout-ms", value.parse().unwrap());
        assert_eq!(everything.send(request).await.status, status, "{value}");
    }
    for (timeout, status) in
        [(json!(0), 200), (json!(u64::MAX), 200), (json!(-1), 400), (json!("1s"), 400)]
    {
        let mut body = tensors.clone();
        body["parameters"] = json!({"timeout": timeout});
        assert_eq!(everything.post(path, &body).await.status, status, "{timeout}");
    }
}
