//! OpenAI.

use http_body_util::Full;

use super::*;
use crate::call::{ItemsAnswer, RelayAnswer, Usage};

fn relay(status: u16, content_type: &'static str, body: &'static str) -> Answer {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", content_type.parse().unwrap());
    let body = Full::new(Bytes::from_static(body.as_bytes()));
    let body = body.map_err(|never| match never {}).boxed_unsync();
    Answer::Relay(RelayAnswer::new(StatusCode::from_u16(status).unwrap(), headers, body))
}

fn embed(work: &Work) -> Result<Answer, Failure> {
    let Work::Items(request) = work else { panic!("only items are expected") };
    let items = request.items.iter().map(|_| Bytes::from_static(b"[0.5]")).collect();
    let usage = Some(Usage { prompt_tokens: 2, total_tokens: 3 });
    Ok(Answer::Items(ItemsAnswer { items, usage, body: None }))
}

#[tokio::test]
async fn embeddings_come_in_the_form_that_was_asked_for() {
    let site = Site::new(embed).await;
    let body = r#"{"model":"org/text","input":["a","b"],"dimensions":1}"#;
    let reply = site.post("/v1/embeddings", body).await.json();
    assert_eq!(reply["model"], "org/text");
    assert_eq!(reply["data"][1]["index"], 1);
    assert_eq!(reply["data"][1]["embedding"], serde_json::json!([0.5]));
    assert_eq!(reply["usage"]["total_tokens"], 3);
    let (Work::Items(asked), _) = site.last_asked() else { panic!() };
    assert_eq!((asked.body, asked.options.as_ref()), (None, br#""dimensions":1"#.as_slice()));
    let base64 = r#"{"model":"org/text","input":"a","encoding_format":"base64"}"#;
    let reply = site.post("/v1/embeddings", base64).await.json();
    assert_eq!(reply["data"][0]["embedding"], "AAAAPw==");
}

#[tokio::test]
async fn text_is_relayed_with_only_the_models_name_changed() {
    let answer = r#"{"id":"x",  "choices":[]}"#;
    let site = Site::new(|_| Ok(relay(200, "application/json", answer))).await;
    let headers = [("content-type", "application/json"), ("authorization", "Bearer secret")];
    let body = r#"{"model" : "org/text","messages":[ ],"top_p":1.0}"#;
    let reply = site.post_with("/v1/chat/completions", &headers, body).await;
    assert_eq!((reply.status, reply.body.as_ref()), (StatusCode::OK, answer.as_bytes()));
    let (Work::Relay(asked), _) = site.last_asked() else { panic!() };
    assert_eq!(asked.path, "/v1/chat/completions");
    assert_eq!(asked.body, r#"{"model" : "inner","messages":[ ],"top_p":1.0}"#);
    assert!(!asked.stream && !asked.headers.contains_key("authorization"));
}

#[tokio::test]
async fn a_stream_of_events_is_relayed_as_it_comes() {
    let events = "data: {}\n\ndata: [DONE]\n\n";
    let site = Site::new(|_| Ok(relay(200, "text/event-stream", events))).await;
    let body = r#"{"model":"org/text","stream":true}"#;
    let reply = site.post("/v1/completions", body).await;
    assert_eq!(reply.body, events);
    assert_eq!(reply.headers["x-accel-buffering"], "no");
    assert!(reply.headers.contains_key("server-timing"));
    let (Work::Relay(asked), _) = site.last_asked() else { panic!() };
    assert!(asked.stream && asked.path == "/v1/completions");
}

#[tokio::test]
async fn errors_have_all_four_keys() {
    let site = Site::new(never).await;
    let large = "x".repeat(MOST + 1);
    for (path, body, status, param, code) in [
        ("/v1/embeddings", "{", 400, Some("body"), None),
        ("/v1/embeddings", r#"{"model":"org/text"}"#, 400, Some("input"), None),
        ("/v1/chat/completions", "{}", 400, Some("model"), None),
        ("/v1/chat/completions", r#"{"model":"no"}"#, 404, Some("model"), Some("model_not_found")),
        ("/v1/completions", r#"{"model":"adder"}"#, 400, Some("model"), None),
        ("/v1/embeddings", r#"{"model":"items","input":"a"}"#, 400, Some("model"), None),
        ("/v1/embeddings", &large, 413, Some("body"), Some("request_too_large")),
        ("/v1/images", "", 404, None, Some("unknown_url")),
        ("/v1/models", "", 405, None, Some("method_not_allowed")),
    ] {
        let reply = site.post(path, body.to_owned()).await;
        assert_eq!(reply.status.as_u16(), status, "{path}: {}", reply.error());
        let error = &reply.json()["error"];
        assert!(error["message"].is_string() && error["type"].is_string(), "{error}");
        assert_eq!(error["param"].as_str(), param, "{error}");
        assert_eq!(error["code"].as_str(), code, "{error}");
        assert!(error.get("param").is_some() && error.get("code").is_some(), "{error}");
    }
}

#[tokio::test]
async fn an_instances_refusal_keeps_its_status_and_words() {
    let body = r#"{"error":{"message":"too long","type":"t","param":"messages","code":"c"}}"#;
    let site = Site::new(|_| Ok(relay(422, "application/json", body))).await;
    let reply = site.post("/v1/chat/completions", r#"{"model":"org/text"}"#).await;
    assert_eq!((reply.status.as_u16(), reply.body.as_ref()), (422, body.as_bytes()));
    assert_eq!(reply.headers["x-batchwise-reason"], "upstream_refused");
}

#[tokio::test]
async fn models_are_listed_and_retrieved_by_ids_with_slashes() {
    let site = Site::new(never).await;
    let list = site.get("/v1/models").await.json();
    assert_eq!(list["object"], "list");
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|it| &it["id"]).collect();
    assert_eq!(ids, ["adder", "items", "org/text"]);
    assert_eq!(list["models"], serde_json::json!(["adder", "items", "org/text"]));
    for path in ["/v1/models/org/text", "/v1/models/org%2Ftext"] {
        let model = site.get(path).await.json();
        let mut keys: Vec<_> = model.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        assert_eq!(keys, ["created", "id", "object", "owned_by"], "{path}");
        assert_eq!(model["id"], "org/text");
    }
    let unknown = site.get("/v1/models/org/none").await;
    assert_eq!(
        (unknown.status.as_u16(), &unknown.json()["error"]["code"]),
        (404, &"model_not_found".into())
    );
}

#[tokio::test]
async fn unknown_grpc_services_are_told_in_grpc() {
    let site = Site::new(never).await;
    let headers = [("content-type", "application/grpc")];
    let reply = site.post_with("/some.Service/Method", &headers, "").await;
    assert_eq!(
        (reply.status, &reply.headers["grpc-status"]),
        (StatusCode::OK, &"12".parse().unwrap())
    );
}
