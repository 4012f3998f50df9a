//! Rerank, scores, classes and the routes of Text Embeddings Inference: batched, cut and put together.

use std::time::Duration;

use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};

use crate::everything::{Everything, Reply};
use crate::model_server::{
    FaultStatus, ModelServer, Options, ServiceTime, Settings, Trigger, embedding_of, relevance_of,
};
use crate::stage::{eventually, proxy};

const SLOW: ServiceTime =
    ServiceTime { base: Duration::from_millis(10), per_row: Duration::ZERO, pad_rows_to: 0 };

fn slow() -> Settings {
    Settings { service: SLOW, ..Settings::default() }
}

fn texts(from: usize, count: usize) -> Vec<String> {
    (from..from + count).map(|number| format!("text number {number}")).collect()
}

/// The ranking that a rerank call must get: index and relevance, best first.
fn ranking(query: &str, documents: &[String]) -> Vec<(u64, f64)> {
    let documents = documents.iter().zip(0..);
    let mut ranking: Vec<_> =
        documents.map(|(text, index)| (index, relevance_of(query, text))).collect();
    ranking.sort_by(|one, two| two.1.total_cmp(&one.1));
    ranking
}

fn told(results: &Value, score: &str) -> Vec<(u64, f64)> {
    let result = |it: &Value| (it["index"].as_u64().unwrap(), it[score].as_f64().unwrap());
    results.as_array().unwrap().iter().map(result).collect()
}

fn tokens(reply: &Reply) -> u64 {
    reply.json()["usage"]["total_tokens"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn rerank_calls_of_one_query_share_batches() {
    let everything = Everything::new(slow()).await;
    for path in ["/v1/rerank", "/v2/rerank", "/rerank"] {
        everything.server.reset_statistics();
        let calls = (0..24).map(|index| {
            let everything = &everything;
            async move {
                let documents = texts(10 * index, 3);
                let query = if index % 2 == 0 { "even" } else { "odd" };
                let mut body = json!({
                    "model": "embed", "query": query, "documents": documents, "return_documents": true,
                });
                let mut expected = ranking(query, &documents);
                if index % 3 == 0 {
                    body["top_n"] = json!(2);
                    expected.truncate(2);
                }
                let reply = everything.post(path, &body).await;
                assert_eq!(reply.status, 200, "{:?}", reply.body);
                let results = &reply.json()["results"];
                assert_eq!(told(results, "relevance_score"), expected);
                let best = usize::try_from(expected[0].0).unwrap();
                assert_eq!(results[0]["document"]["text"], json!(documents[best]));
                assert_eq!(reply.json()["model"], "embed");
                tokens(&reply)
            }
        });
        let tokens: u64 = join_all(calls).await.into_iter().sum();
        let seen = everything.server.statistics();
        assert_eq!(seen.rows, 72);
        assert!(seen.largest_batch > 6, "{:?}", seen.batch_sizes);
        assert!(seen.seen.iter().all(|seen| seen.path == path));
        // Each document has three words, and each batch its query.
        assert_eq!(tokens, 3 * 72 + seen.executions, "what callers pay adds up");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_longer_than_a_batch_is_cut_and_put_together() {
    let settings = Settings { max_batch_size: 4, ..Settings::default() };
    let everything = Everything::with("max_batch_size = 4", settings).await;
    let documents = texts(0, 30);
    let body = json!({"model": "embed", "query": "q", "documents": documents, "top_n": 11});
    let reply = everything.post("/v1/rerank", &body).await;
    let expected = ranking("q", &documents);
    assert_eq!(told(&reply.json()["results"], "relevance_score"), expected[..11]);
    let batches = everything.server.statistics().executions;
    assert_eq!(tokens(&reply), 3 * 30 + batches);
    assert!(batches >= 8, "{batches}");
    for (path, body) in [
        ("/v1/score", json!({"model": "embed", "text_1": "q", "text_2": documents})),
        ("/score", json!({"model": "embed", "text_1": vec!["q"; 30], "text_2": documents})),
    ] {
        let reply = everything.post(path, &body).await;
        let scores = documents.iter().zip(0..);
        let scores: Vec<_> = scores.map(|(text, index)| (index, relevance_of("q", text))).collect();
        assert_eq!(told(&reply.json()["data"], "score"), scores, "{path}");
        assert_eq!(reply.json()["object"], "list");
    }
    let body = json!({"model": "embed", "input": documents, "encoding_format": "float"});
    let reply = everything.post("/v1/embeddings", &body).await;
    for (index, text) in documents.iter().enumerate() {
        let data = &reply.json()["data"][index];
        let vector: Vec<f32> = serde_json::from_value(data["embedding"].clone()).unwrap();
        assert_eq!((&data["index"], vector), (&json!(index), embedding_of(text, 8)));
    }
    assert_eq!(tokens(&reply), 3 * 30);
    assert_eq!(everything.server.statistics().largest_batch, 4);
}

/// A model server that stands in for Text Embeddings Inference, alone behind a proxy.
async fn text_embeddings_inference(settings: Settings) -> (ModelServer, Everything) {
    let other = Everything::new(Settings::default()).await;
    let server = ModelServer::start(Options { settings, ..Options::default() }).await.unwrap();
    let model = format!(
        "[[model]]\nname = \"texts\"\nprotocol = \"openai\"\ninstances = [\"http://{}\"]\n",
        server.http_address()
    );
    let everything = Everything { server: other.server, proxy: proxy(&model).await };
    eventually(async || everything.proxy.models.get("texts").unwrap().is_ready()).await;
    (server, everything)
}

#[tokio::test(flavor = "multi_thread")]
async fn native_routes_are_batched_for_the_one_model_that_there_is() {
    let (server, everything) = text_embeddings_inference(slow()).await;
    let calls = (0..24).map(|index| {
        let everything = &everything;
        async move {
            let texts = texts(10 * index, 2);
            let vectors = json!([embedding_of(&texts[0], 8), embedding_of(&texts[1], 8)]);
            let reply =
                everything.post("/embed", &json!({"inputs": texts, "truncate": true})).await;
            assert_eq!(reply.json(), vectors);
            let named = json!({"inputs": texts[0], "truncate": true, "model": "texts"});
            let reply = everything.post("/embed", &named).await;
            assert_eq!(reply.json(), json!([vectors[0]]));
            let class = |text: &str| json!([{"label": "LABEL_0", "score": relevance_of("", text)}]);
            let pair = texts.join("\n");
            for (inputs, expected) in [
                (json!(texts[0]), class(&texts[0])),
                (json!(texts), class(&pair)),
                (json!([texts, [texts[1]]]), json!([class(&pair), class(&texts[1])])),
            ] {
                let reply = everything.post("/predict", &json!({"inputs": inputs})).await;
                assert_eq!(reply.json(), expected, "{inputs}");
            }
            let body = json!({"query": "q", "texts": texts, "return_text": true});
            let reply = everything.post("/rerank", &body).await.json();
            assert_eq!(told(&reply, "score"), ranking("q", &texts));
            let best = usize::try_from(reply[0]["index"].as_u64().unwrap()).unwrap();
            assert_eq!(reply[0]["text"], json!(texts[best]));
        }
    });
    join_all(calls).await;
    let seen = server.statistics();
    assert_eq!(seen.rows, 24 * (2 + 1 + 1 + 1 + 2 + 2));
    assert!(seen.largest_batch > 6, "{:?}", seen.batch_sizes);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_native_routes_have_their_form() {
    let (server, everything) = text_embeddings_inference(Settings::default()).await;
    for body in [json!({}), json!({"inputs": []}), json!({"inputs": "a", "model": "none"})] {
        let reply = everything.post("/embed", &body).await;
        assert!(reply.status.is_client_error() && reply.json()["error"].is_string(), "{body}");
    }
    server.switches().set(|settings| {
        settings.fail = Trigger::Next(1);
        settings.fail_with = FaultStatus::new(tonic::Code::InvalidArgument, 422, "too long");
    });
    let reply = everything.post("/embed", &json!({"inputs": "a"})).await;
    let expected = json!({"error": "too long", "error_type": "Validation"});
    assert_eq!((reply.status.as_u16(), reply.json()), (422, expected));
    let several = Everything::new(Settings::default()).await;
    let reply = several.post("/embed", &json!({"inputs": "a"})).await;
    assert!(reply.json()["error"].as_str().unwrap().contains("'model'"), "{:?}", reply.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_and_scores_ride_in_batches() {
    let everything = Everything::new(slow()).await;
    let calls = (0..24).map(|index| {
        let everything = &everything;
        async move {
            let texts = texts(10 * index, 2);
            let body = json!({"model": "embed", "input": texts});
            let reply = everything.post("/classify", &body).await;
            let classes = reply.json()["data"].clone();
            for (place, text) in texts.iter().enumerate() {
                assert_eq!(classes[place]["index"], json!(place));
                assert_eq!(classes[place]["probs"][1], json!(relevance_of("", text)));
            }
            let queries = [format!("query {index}"), "other".to_owned()];
            let body = json!({"model": "embed", "text_1": queries, "text_2": texts});
            let reply = everything.post("/v1/score", &body).await;
            let scores: Vec<_> = (0..2_u64)
                .zip(queries.iter().zip(&texts))
                .map(|(place, (query, text))| (place, relevance_of(query, text)))
                .collect();
            assert_eq!(told(&reply.json()["data"], "score"), scores);
        }
    });
    join_all(calls).await;
    let seen = everything.server.statistics();
    assert_eq!(seen.rows, 96);
    assert!(seen.largest_batch > 4, "{:?}", seen.batch_sizes);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_document_does_not_spoil_the_rankings_of_others() {
    let everything = Everything::new(Settings { poison: true, ..slow() }).await;
    let calls = (0..16).map(|index| {
        let everything = &everything;
        async move {
            let mut documents = texts(10 * index, 2);
            if index == 5 {
                documents.push("some poison".to_owned());
            }
            let body = json!({"model": "embed", "query": "q", "documents": documents});
            let reply = everything.post("/v1/rerank", &body).await;
            (index, reply)
        }
    });
    for (index, reply) in join_all(calls).await {
        assert_eq!(reply.status, if index == 5 { 400 } else { 200 }, "call {index}");
        if index == 5 {
            assert_eq!(reply.json()["error"]["message"], "the batch contains poison");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_alone_goes_byte_for_byte_both_ways() {
    let everything = Everything::new(Settings::default()).await;
    let body = r#"{ "query":"q", "documents":[{"text" : "a"},"b"],"model":"embed","x":1.00}"#;
    let request = everything.request(Method::POST, "/v2/rerank", body.into());
    let reply = everything.send(request).await;
    assert_eq!(everything.server.statistics().seen[0].body, body);
    let mut direct = everything.request(Method::POST, "/", body.into());
    let uri = format!("http://{}/v2/rerank", everything.server.http_address());
    *direct.uri_mut() = uri.parse().unwrap();
    assert_eq!(everything.send(direct).await.body, reply.body);
    let odd = json!({"model": "alias", "text_1": ["q"], "text_2": ["a", "b"]});
    let reply = everything.post("/score", &odd).await;
    assert_eq!(reply.status, 200, "{:?}", reply.body);
    let seen = everything.server.statistics().seen.pop_back().unwrap();
    assert_eq!(seen.body, odd.to_string().replace("alias", "chat"));
}
