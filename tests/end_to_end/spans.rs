//! What calls and batches leave in traces, as a collector of OpenTelemetry gets it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tonic::{Request, Response, Status};

use crate::everything::Everything;
use crate::model_server::{DropMoment, Settings, Trigger};
use crate::stage::{ask, client, eventually, request};

/// Keeps what it is sent.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    services: Arc<Mutex<Vec<String>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.map(|it| it.attributes).unwrap_or_default();
            let name = attributes.into_iter().find(|it| it.key == "service.name");
            if let Some(Any::StringValue(name)) = name.and_then(|it| it.value?.value) {
                self.services.lock().unwrap().push(name);
            }
            let all = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.spans.lock().unwrap().extend(all);
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn listen(&self, tasks: &mut JoinSet<()>) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = TraceServiceServer::new(self.clone());
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        tasks.spawn(async move {
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        address
    }

    /// Everything that was sent once the proxy has ended.
    fn trace(&self) -> Trace {
        Trace(self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

struct Trace(Vec<Span>);

impl Trace {
    fn of_kind(&self, kind: SpanKind) -> Vec<&Span> {
        self.0.iter().filter(|span| span.kind == kind as i32).collect()
    }

    fn only(&self, kind: SpanKind) -> &Span {
        let found = self.of_kind(kind);
        assert_eq!(found.len(), 1, "{:#?}", self.0);
        found[0]
    }

    fn children(&self, parent: &Span, kind: SpanKind) -> Vec<&Span> {
        let mut found = self.of_kind(kind);
        found.retain(|span| {
            span.parent_span_id == parent.span_id && span.trace_id == parent.trace_id
        });
        found
    }
}

fn attributes(span: &Span) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for attribute in &span.attributes {
        let value = match attribute.value.clone().and_then(|it| it.value).unwrap() {
            Any::StringValue(text) => json!(text),
            Any::IntValue(number) => json!(number),
            Any::DoubleValue(number) => json!(number),
            Any::BoolValue(truth) => json!(truth),
            other => panic!("{other:?}"),
        };
        let before = all.insert(attribute.key.clone(), value);
        assert_eq!(before, None, "{} is there twice", attribute.key);
    }
    all
}

fn has(span: &Span, expected: &Value) {
    let attributes = attributes(span);
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(attributes.get(key), Some(value), "{key} of {attributes:#?}");
    }
}

fn is_failed(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code == StatusCode::Error as i32)
}

/// A caller's place in a trace of its own.
fn traceparent(number: u8, sampled: bool) -> String {
    format!("00-{:032x}-{:016x}-{:02x}", 1000 + u32::from(number), 77, u8::from(sampled))
}

fn written(trace_id: &[u8]) -> String {
    trace_id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where a span stands, as the next one in the line is told.
fn told(span: &Span) -> String {
    format!("00-{}-{}-01", written(&span.trace_id), written(&span.span_id))
}

struct Scene {
    everything: Everything,
    collector: Collector,
    tasks: JoinSet<()>,
}

impl Scene {
    async fn new(keys: &str, settings: Settings) -> Self {
        let (collector, mut tasks) = (Collector::default(), JoinSet::new());
        let address = collector.listen(&mut tasks).await;
        let tables = format!("[telemetry]\notlp_endpoint = \"http://{address}\"\n");
        let everything = Everything::with_tables(&tables, keys, settings).await;
        Self { everything, collector, tasks }
    }

    /// Ends the proxy, which sends what is left before it does.
    async fn end(self) -> Trace {
        let Self { everything, collector, tasks } = self;
        everything.proxy.drain(Duration::from_secs(10)).await;
        drop(tasks);
        assert!(collector.services.lock().unwrap().iter().all(|name| name == "batchwise"));
        collector.trace()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_has_a_trace_of_its_own_that_links_to_its_calls() {
    let settings = Settings { hang: true, max_batch_size: 8, ..Settings::default() };
    let scene = Scene::new("max_concurrency = 1", settings).await;
    let proxy = &scene.everything.proxy;
    let mut calls = JoinSet::new();
    let call = async |calls: &mut JoinSet<()>, number: u8, sampled: bool| {
        let mut client = client(proxy).await;
        calls.spawn(async move {
            let mut asked = Request::new(pb_request(number));
            asked
                .metadata_mut()
                .insert("traceparent", traceparent(number, sampled).parse().unwrap());
            client.model_infer(asked).await.unwrap();
        });
    };
    let statistics = || scene.everything.server.statistics();
    call(&mut calls, 0, true).await;
    eventually(async || statistics().calls > 0).await;
    for (number, sampled) in [(1, true), (2, true), (3, false)] {
        call(&mut calls, number, sampled).await;
    }
    let waiting = "batchwise_queue_depth{model=\"by-grpc\",priority=\"2\"} 3\n";
    eventually(async || proxy.metrics().contains(waiting)).await;
    scene.everything.server.switches().set(|settings| settings.hang = false);
    while let Some(done) = calls.join_next().await {
        done.unwrap();
    }
    let seen = statistics().seen;
    let headers: Vec<_> = seen.iter().map(|seen| &seen.headers["traceparent"]).collect();
    let trace = scene.end().await;

    let asked = trace.of_kind(SpanKind::Client);
    let [lone, joint] = asked.as_slice() else { panic!("{asked:#?}") };
    assert_eq!(headers, [&told(lone), &told(joint)]);
    has(
        joint,
        &json!({
            "batchwise.model": "by-grpc", "batchwise.batch.rows": 3, "batchwise.batch.calls": 3,
            "server.address": "127.0.0.1",
        }),
    );
    assert_eq!(joint.name, "infer by-grpc");
    assert_eq!((joint.parent_span_id.len(), joint.links.len()), (0, 3));

    let calls = trace.of_kind(SpanKind::Server);
    assert_eq!(calls.len(), 3, "who is not recorded by its caller is not recorded here");
    for span in calls {
        assert_eq!(written(&span.parent_span_id), format!("{:016x}", 77));
        has(span, &json!({"batchwise.outcome": "ok", "batchwise.priority": 2}));
        let [queue] = trace.children(span, SpanKind::Internal)[..] else { panic!("{span:#?}") };
        assert_eq!(queue.name, "queue");
        assert!(queue.start_time_unix_nano + 1_000_000 >= span.start_time_unix_nano);
        assert!(queue.end_time_unix_nano <= span.end_time_unix_nano);
        let batch = if span.trace_id == lone.trace_id { lone } else { joint };
        assert_eq!(queue.links.iter().map(|it| &it.span_id).collect::<Vec<_>>(), [&batch.span_id]);
        assert!(
            std::ptr::eq(batch, lone) && lone.parent_span_id == span.span_id
                || joint.links.iter().any(|link| link.span_id == span.span_id),
            "{span:#?}"
        );
    }
}

fn pb_request(number: u8) -> batchwise::wire::pb::ModelInferRequest {
    let mut request = request(1, 4, f32::from(number));
    "by-grpc".clone_into(&mut request.model_name);
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn every_instance_that_was_asked_has_its_span() {
    let settings = Settings { fail: Trigger::Next(1), ..Settings::default() };
    let scene = Scene::new("", settings).await;
    let mut client = client(&scene.everything.proxy).await;
    let mut asked = pb_request(0);
    asked.id = "the-first".to_owned();
    assert!(client.model_infer(asked).await.is_err());
    assert!(client.model_infer(pb_request(1)).await.is_ok());
    let trace = scene.end().await;
    let [failed, served] = trace.of_kind(SpanKind::Server)[..] else { panic!("{:#?}", trace.0) };
    let [attempt] = trace.children(failed, SpanKind::Client)[..] else { panic!("{failed:#?}") };
    assert!(is_failed(attempt) && is_failed(failed) && !is_failed(served));
    assert!(attempt.status.as_ref().unwrap().message.contains("injected failure"), "{attempt:#?}");
    has(
        failed,
        &json!({
            "batchwise.outcome": "upstream_error", "error.type": "upstream_error",
            "batchwise.request_id": "the-first", "batchwise.protocol": "kserve-grpc",
        }),
    );
    let [attempt] = trace.children(served, SpanKind::Client)[..] else { panic!("{served:#?}") };
    assert!(!is_failed(attempt));
}

fn chat(more: &Value) -> Value {
    let mut body = json!({"model": "alias", "messages": [{"role": "user", "content": "a b c"}]});
    body.as_object_mut().unwrap().append(&mut more.as_object().unwrap().clone());
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn chats_and_embeddings_speak_the_conventions_for_generative_models() {
    let scene = Scene::new("stream_usage = true", Settings::default()).await;
    let path = "/v1/chat/completions";
    for stream in [true, false] {
        let reply = scene.everything.post(path, &chat(&json!({"stream": stream}))).await;
        assert_eq!(reply.status, 200, "{:?}", reply.body);
    }
    let embed = json!({"model": "embed", "input": ["a", "b c"]});
    assert_eq!(scene.everything.post("/v1/embeddings", &embed).await.status, 200);
    let seen = scene.everything.server.statistics().seen;
    let trace = scene.end().await;
    let calls = trace.of_kind(SpanKind::Server);
    let [streamed, whole, embedded] = calls[..] else { panic!("{calls:#?}") };
    for (span, stream) in [(streamed, true), (whole, false)] {
        assert_eq!(span.name, "chat alias");
        has(
            span,
            &json!({
                "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai",
                "gen_ai.request.model": "alias", "gen_ai.request.stream": stream,
                "gen_ai.usage.input_tokens": 3, "gen_ai.usage.output_tokens": 5,
                "batchwise.outcome": "ok", "batchwise.protocol": "openai",
            }),
        );
        let first = attributes(span).get("gen_ai.response.time_to_first_chunk").cloned();
        assert_eq!(first.is_some(), stream, "{first:?}");
        let [asked] = trace.children(span, SpanKind::Client)[..] else { panic!("{span:#?}") };
        // It lasts until the last byte is here, and the call until it is gone.
        assert!(asked.end_time_unix_nano <= span.end_time_unix_nano);
        assert!(seen.iter().any(|call| call.headers["traceparent"] == told(asked)), "{seen:#?}");
    }
    assert_eq!(embedded.name, "embeddings embed");
    has(embedded, &json!({"gen_ai.operation.name": "embeddings", "gen_ai.usage.output_tokens": 0}));
    assert!(attributes(embedded)["gen_ai.usage.input_tokens"].as_i64() > Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_is_no_success() {
    let settings = Settings {
        drop_connection: Trigger::Always,
        drop_moment: DropMoment::MidReply,
        ..Settings::default()
    };
    let scene = Scene::new("", settings).await;
    let reply =
        scene.everything.post("/v1/chat/completions", &chat(&json!({"stream": true}))).await;
    assert!(String::from_utf8_lossy(&reply.body).contains("broke off"), "{:?}", reply.body);
    let trace = scene.end().await;
    let call = trace.only(SpanKind::Server);
    has(call, &json!({"batchwise.outcome": "upstream_error", "error.type": "upstream_error"}));
    assert!(is_failed(call) && is_failed(trace.only(SpanKind::Client)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_own_fault_is_none_of_the_servers() {
    let scene = Scene::new("", Settings { poison: true, ..Settings::default() }).await;
    let mut asked = request(1, 4, 666.0);
    "by-grpc".clone_into(&mut asked.model_name);
    let refused = client(&scene.everything.proxy).await.model_infer(asked).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    let trace = scene.end().await;
    let call = trace.only(SpanKind::Server);
    let reason = "upstream_refused";
    has(call, &json!({"batchwise.outcome": reason, "error.type": reason}));
    assert!(!is_failed(call) && is_failed(trace.only(SpanKind::Client)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_that_is_refused_and_one_that_is_left_are_no_success() {
    let settings = Settings {
        refuse_stream_options: true,
        token_interval: Duration::from_secs(3600),
        ..Settings::default()
    };
    let scene = Scene::new("", settings).await;
    let path = "/v1/chat/completions";
    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    assert_eq!(scene.everything.post(path, &chat(&options)).await.status, 400);
    let stream = chat(&json!({"stream": true})).to_string();
    let asked = scene.everything.request(http::Method::POST, path, stream.into());
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new());
    let left = client.build_http().request(asked).await.unwrap();
    drop(left);
    let idle = "batchwise_instance_inflight{model=\"alias\"";
    let is_idle = |line: &str| line.starts_with(idle) && line.ends_with(" 0");
    let proxy = &scene.everything.proxy;
    eventually(async || proxy.metrics().lines().any(is_idle)).await;
    let trace = scene.end().await;
    let [refused, left] = trace.of_kind(SpanKind::Server)[..] else { panic!("{:#?}", trace.0) };
    let reason = "upstream_refused";
    has(refused, &json!({"batchwise.outcome": reason, "error.type": reason}));
    has(left, &json!({"batchwise.outcome": "cancelled"}));
    assert!(!is_failed(refused) && !is_failed(left));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_costs_no_call() {
    let (collector, mut tasks) = (Collector::default(), JoinSet::new());
    let address = collector.listen(&mut tasks).await;
    tasks.shutdown().await;
    let tables = format!("[telemetry]\notlp_endpoint = \"http://{address}\"\n");
    let everything = Everything::with_tables(&tables, "", Settings::default()).await;
    let mut client = client(&everything.proxy).await;
    for number in 0..1000_u32 {
        let mut asked = request(1, 4, number as f32);
        "by-grpc".clone_into(&mut asked.model_name);
        ask(&mut client, asked).await.unwrap();
    }
    drop(client);
    let grace = Duration::from_secs(10);
    let drained = tokio::time::timeout(2 * grace, everything.proxy.drain(grace)).await;
    assert_eq!(drained.unwrap(), batchwise::engine::Drained::Clean);
}
