//! KServe v2 over gRPC.
#![expect(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use batchwise::call::{FaultKind, InferAnswer, TraceContext};
use batchwise::instance::{BatchLimit, Instance, KserveGrpc};
use batchwise::lane::Blame;
use batchwise::tensor::Rope;
use batchwise::wire::frame::{envelop, ok_trailers, status_response};
use batchwise::wire::v2::encode_infer_reply;
use http::{HeaderMap, Response};
use http_body_util::{BodyExt as _, StreamBody};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tonic::Code;

use crate::model_server::{
    DropMoment, FaultStatus, ModelServer, Options, OutputContents, ServiceTime, Settings, Trigger,
};
use crate::scripted::{Body, Scripted, body, nobody};
use crate::support::{
    BOUND, blame, bounded, context, failure, floats, floats_of, infer_answer, url, work,
};

/// How long a probe is waited for that may have no answer.
const SHORT: Duration = Duration::from_millis(100);

async fn server_with(settings: Settings) -> (ModelServer, Arc<dyn Instance>) {
    let server = ModelServer::start(Options { settings, ..Options::default() }).await.unwrap();
    let instance = Arc::new(KserveGrpc::new(url(server.grpc_address()), "linear"));
    (server, instance)
}

/// A reply with one output of these floats.
fn reply(values: &[f32]) -> Response<Body> {
    let answer = InferAnswer { outputs: floats(values).inputs, ..InferAnswer::default() };
    message_reply(&encode_infer_reply(&answer, "m", ""), Some(ok_trailers()))
}

fn message_reply(message: &Rope, trailers: Option<HeaderMap>) -> Response<Body> {
    let mut frames = vec![Ok(http_body::Frame::data(envelop(message).to_bytes()))];
    frames.extend(trailers.map(|trailers| Ok(http_body::Frame::trailers(trailers))));
    let frames = futures_util::stream::iter(frames);
    Response::new(StreamBody::new(frames).boxed_unsync())
}

#[tokio::test]
async fn answers_batches_with_raw_and_typed_contents() {
    for output_contents in [OutputContents::Raw, OutputContents::Typed] {
        let (server, instance) =
            server_with(Settings { output_contents, ..Settings::default() }).await;
        let answer = infer_answer(bounded(instance.run(work(&[1.0, -2.5]), context())).await);
        assert_eq!(floats_of(&answer), [3.0, -4.0]);
        assert_eq!(answer.outputs[0].name(), "y");
        server.shutdown().await;
    }
}

#[tokio::test]
async fn a_batch_carries_its_id_its_trace_and_its_deadline() {
    let (server, instance) = server_with(Settings::default()).await;
    let trace = TraceContext { parent: "00-aa-bb-01".to_owned(), state: Some("k=v".to_owned()) };
    let context = batchwise::instance::BatchContext { trace: Some(trace), ..context() };
    infer_answer(bounded(instance.run(work(&[1.0]), context)).await);
    let seen = server.statistics().seen.pop_back().unwrap();
    assert_eq!(seen.id, "batch-1");
    let header = |name: &str| seen.headers.get(name).map(String::as_str);
    assert_eq!(header("x-request-id"), Some("batch-1"));
    assert_eq!((header("traceparent"), header("tracestate")), (Some("00-aa-bb-01"), Some("k=v")));
    assert_eq!(header("te"), Some("trailers"));
    assert!(header("grpc-timeout").is_some());
    server.shutdown().await;
}

#[tokio::test]
async fn calls_share_one_connection_however_many_start_at_once() {
    let (server, instance) = server_with(Settings::default()).await;
    let calls = (0..32_u8).map(|number| {
        let instance = Arc::clone(&instance);
        async move {
            let answer = infer_answer(instance.run(work(&[f32::from(number)]), context()).await);
            assert_eq!(floats_of(&answer), [2.0 * f32::from(number) + 1.0]);
        }
    });
    bounded(futures_util::future::join_all(calls)).await;
    assert_eq!(server.statistics().connections, 1);
    server.shutdown().await;
}

#[tokio::test]
async fn a_large_batch_goes_through_whole() {
    let (server, instance) = server_with(Settings::default()).await;
    let values: Vec<f32> = (0..2_000_000_u32).map(|value| (value % 1000) as f32).collect();
    let answer = infer_answer(bounded(instance.run(work(&values), context())).await);
    let expected: Vec<f32> = values.iter().map(|value| 2.0 * value + 1.0).collect();
    assert_eq!(floats_of(&answer), expected);
    server.shutdown().await;
}

#[tokio::test]
async fn statuses_are_sorted_by_whose_fault_they_are() {
    let cases = [
        (Code::InvalidArgument, Blame::Refused),
        (Code::NotFound, Blame::Refused),
        (Code::Internal, Blame::Broken),
        (Code::DeadlineExceeded, Blame::TooSlow),
    ];
    for (code, expected) in cases {
        let fail_with = FaultStatus::new(code, 500, "its own words");
        let settings = Settings { fail: Trigger::Always, fail_with, ..Settings::default() };
        let (server, instance) = server_with(settings).await;
        let failure = failure(bounded(instance.run(work(&[1.0]), context())).await);
        assert_eq!(failure.blame, expected, "{code:?}");
        assert!(failure.fault.message.contains("its own words"), "{}", failure.fault);
        server.shutdown().await;
    }
    let settings = Settings { overload: Trigger::Always, ..Settings::default() };
    let (server, instance) = server_with(settings).await;
    let blame = blame(bounded(instance.run(work(&[1.0]), context())).await);
    let after = Duration::from_secs(1).into();
    assert_eq!(blame, Blame::Overload { retry_after: Some(after) });
    server.shutdown().await;
}

#[tokio::test]
async fn an_unknown_model_is_refused_in_the_instances_words() {
    let (server, _) = server_with(Settings::default()).await;
    let instance = KserveGrpc::new(url(server.grpc_address()), "absent");
    let failure = failure(bounded(instance.run(work(&[1.0]), context())).await);
    assert_eq!((failure.blame, failure.fault.kind), (Blame::Refused, FaultKind::Refused));
    assert_eq!(failure.fault.refusal.unwrap().grpc, Some(Code::NotFound as i32));
    assert!(bounded(instance.probe()).await.is_err());
    server.shutdown().await;
}

#[tokio::test]
async fn a_dropped_connection_is_the_connections_fault_and_made_again() {
    for drop_moment in [DropMoment::AtOnce, DropMoment::BeforeReply, DropMoment::MidReply] {
        let drop_connection = Trigger::Next(1);
        let settings = Settings { drop_connection, drop_moment, ..Settings::default() };
        let (server, instance) = server_with(settings).await;
        let first = bounded(instance.run(work(&[1.0; 1000]), context())).await;
        assert_eq!(blame(first), Blame::Lost, "{drop_moment:?}");
        let second = infer_answer(bounded(instance.run(work(&[1.0]), context())).await);
        assert_eq!(floats_of(&second), [3.0]);
        assert_eq!(server.statistics().connections, 2);
        server.shutdown().await;
    }
}

#[tokio::test]
async fn garbage_is_the_instances_fault() {
    let settings = Settings { garbage: Trigger::Always, ..Settings::default() };
    let (server, instance) = server_with(settings).await;
    assert_eq!(blame(bounded(instance.run(work(&[1.0]), context())).await), Blame::Broken);
    server.shutdown().await;
}

#[tokio::test]
async fn an_instance_that_vanishes_and_comes_back_is_found_again() {
    let (server, instance) = server_with(Settings::default()).await;
    let grpc = server.grpc_address();
    infer_answer(bounded(instance.run(work(&[1.0]), context())).await);
    server.shutdown().await;
    assert_eq!(blame(bounded(instance.run(work(&[1.0]), context())).await), Blame::Connection);
    assert!(bounded(instance.probe()).await.is_err());
    let server = ModelServer::start(Options { grpc, ..Options::default() }).await.unwrap();
    infer_answer(bounded(instance.run(work(&[1.0]), context())).await);
    server.shutdown().await;
}

#[tokio::test]
async fn a_dropped_call_is_reset() {
    let base = Duration::from_secs(60);
    let service = ServiceTime::linear(base, Duration::ZERO);
    let (server, instance) = server_with(Settings { service, ..Settings::default() }).await;
    let running = tokio::spawn(async move { instance.run(work(&[1.0]), context()).await.is_ok() });
    server.wait_until(|seen| seen.concurrency == 1, BOUND).await.unwrap();
    running.abort();
    let seen = server.wait_until(|seen| seen.cancelled == 1, BOUND).await.unwrap();
    assert_eq!(seen.concurrency, 0);
    server.shutdown().await;
}

#[tokio::test]
async fn connections_end_with_their_instance() {
    let (server, instance) = server_with(Settings::default()).await;
    infer_answer(bounded(instance.run(work(&[1.0]), context())).await);
    assert_eq!(server.statistics().open_connections, 1);
    drop(instance);
    server.wait_until(|seen| seen.open_connections == 0, BOUND).await.unwrap();
    server.shutdown().await;
}

#[tokio::test]
async fn the_model_is_described_and_probed() {
    let (server, instance) =
        server_with(Settings { max_batch_size: 8, ..Settings::default() }).await;
    let description = bounded(instance.describe()).await.unwrap();
    assert_eq!(description.batch_limit, BatchLimit::Rows(8));
    assert!(!description.platform.is_empty() && !description.versions.is_empty());
    assert!(description.inputs.iter().any(|input| input.name == "x"));
    assert_eq!(bounded(instance.probe()).await, Ok(()));
    server.switches().set(|settings| settings.ready = false);
    assert!(bounded(instance.probe()).await.is_err());
    server.shutdown().await;
}

#[tokio::test]
async fn nobody_there_is_the_connections_fault() {
    let instance = KserveGrpc::new(url(nobody().await), "m");
    let failure = failure(bounded(instance.run(work(&[1.0]), context())).await);
    assert_eq!(failure.blame, Blame::Connection);
    assert!(failure.fault.message.contains("refused"), "{}", failure.fault);
}

#[tokio::test]
async fn a_server_that_closes_without_a_word_is_the_connections_fault() {
    let server = Scripted::raw(|mut stream| async move {
        let mut byte = [0; 1];
        drop(stream.read(&mut byte).await);
    })
    .await;
    let instance = KserveGrpc::new(url(server.address), "m");
    assert_eq!(blame(bounded(instance.run(work(&[1.0]), context())).await), Blame::Lost);
}

#[tokio::test]
async fn a_call_under_way_survives_going_away_and_the_next_one_gets_a_new_connection() {
    let (asked, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (Arc::clone(&asked), Arc::clone(&release));
    let server = Scripted::http(move |request| {
        let (tell, wait) = (Arc::clone(&tell), Arc::clone(&wait));
        async move {
            drop(request.into_body().collect().await);
            tell.notify_one();
            wait.notified().await;
            reply(&[7.0])
        }
    })
    .await;
    let instance = Arc::new(KserveGrpc::new(url(server.address), "m"));
    let run = |values: &'static [f32]| {
        let instance = Arc::clone(&instance);
        tokio::spawn(async move { instance.run(work(values), context()).await })
    };
    let first = run(&[1.0]);
    bounded(asked.notified()).await;
    server.go_away();
    // The server closes the connection for new streams when the client has heard of it.
    let second = run(&[2.0]);
    bounded(asked.notified()).await;
    release.notify_one();
    release.notify_one();
    assert_eq!(floats_of(&infer_answer(bounded(first).await.unwrap())), [7.0]);
    release.notify_one();
    assert_eq!(floats_of(&infer_answer(bounded(second).await.unwrap())), [7.0]);
    release.notify_one();
    let third = run(&[3.0]);
    bounded(asked.notified()).await;
    assert_eq!(floats_of(&infer_answer(bounded(third).await.unwrap())), [7.0]);
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn replies_that_are_no_grpc_are_sorted_too() {
    let answered = async |answer: fn() -> Response<Body>| {
        let server = Scripted::http(move |_| async move { answer() }).await;
        let instance = KserveGrpc::new(url(server.address), "m");
        blame(bounded(instance.run(work(&[1.0]), context())).await)
    };
    let unavailable = || Response::builder().status(503).body(body("no")).unwrap();
    assert_eq!(answered(unavailable).await, Blame::Overload { retry_after: None });
    let page = || Response::builder().status(200).body(body("<html>")).unwrap();
    assert_eq!(answered(page).await, Blame::Broken);
    let statusless = || message_reply(&Rope::new(), None);
    assert_eq!(answered(statusless).await, Blame::Broken);
    let empty = || status_response(Code::Ok, "").map(|_| body(""));
    assert_eq!(answered(empty).await, Blame::Broken);
}

#[tokio::test]
async fn a_server_that_only_infers_is_up_and_undescribed() {
    let unimplemented = |_| async { status_response(Code::Unimplemented, "no").map(|_| body("")) };
    let server = Scripted::http(unimplemented).await;
    let instance = KserveGrpc::new(url(server.address), "m");
    assert_eq!(bounded(instance.probe()).await, Ok(()));
    let description = bounded(instance.describe()).await.unwrap();
    assert_eq!(description, batchwise::instance::Description::default());
}

#[tokio::test]
async fn a_connection_that_leaves_a_probe_without_an_answer_gets_nothing_new() {
    let (server, _) = server_with(Settings::default()).await;
    let (address, back) = (server.grpc_address(), Arc::new(Notify::new()));
    let (connections, network_is_back) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&back));
    let host = Scripted::raw(move |mut near| {
        let number = connections.fetch_add(1, Ordering::Relaxed);
        let network_is_back = Arc::clone(&network_is_back);
        async move {
            if number == 0 {
                network_is_back.notified().await;
            }
            let mut far = TcpStream::connect(address).await.unwrap();
            drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
        }
    })
    .await;
    let instance = KserveGrpc::new(url(host.address), "linear");
    let mut under_way = instance.run(work(&[1.0]), context());
    let probes = async {
        while !matches!(tokio::time::timeout(SHORT, instance.probe()).await, Ok(Ok(()))) {}
    };
    bounded(async {
        tokio::select! {
            answer = &mut under_way => panic!("{answer:?} from nobody"),
            () = probes => {}
        }
    })
    .await;
    back.notify_one();
    assert_eq!(floats_of(&infer_answer(bounded(under_way).await)), [3.0]);
    server.shutdown().await;
}
