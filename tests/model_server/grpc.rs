//! KServe v2 over gRPC: answers, counting, timing and faults.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers may fail the test")]

use std::time::{Duration, Instant};

use batchwise::wire::pb;
use batchwise::wire::pb::grpc_inference_service_client::GrpcInferenceServiceClient;
use tonic::Code;
use tonic::transport::Channel;

use crate::model_server::{
    DropMoment, ModelServer, Options, OutputContents, ServiceTime, Settings, Trigger,
};

const BOUND: Duration = Duration::from_secs(20);

type Client = GrpcInferenceServiceClient<Channel>;

async fn server_with(settings: Settings) -> (ModelServer, Client) {
    let server = ModelServer::start(Options { settings, ..Options::default() }).await.unwrap();
    let client = client_of(&server).await;
    (server, client)
}

async fn client_of(server: &ModelServer) -> Client {
    Client::connect(format!("http://{}", server.grpc_address()))
        .await
        .unwrap()
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX)
}

fn raw_request(datatype: &str, shape: &[i64], data: Vec<u8>) -> pb::ModelInferRequest {
    pb::ModelInferRequest {
        model_name: "linear".to_owned(),
        id: "call-1".to_owned(),
        inputs: vec![pb::model_infer_request::InferInputTensor {
            name: "x".to_owned(),
            datatype: datatype.to_owned(),
            shape: shape.to_vec(),
            ..Default::default()
        }],
        raw_input_contents: vec![data.into()],
        ..Default::default()
    }
}

/// One column of FP32.
fn floats(values: &[f32]) -> pb::ModelInferRequest {
    let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    raw_request("FP32", &[i64::try_from(values.len()).unwrap(), 1], data)
}

fn floats_of(response: &pb::ModelInferResponse) -> Vec<f32> {
    let raw = &response.raw_output_contents[0];
    raw.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Runs a test's body under a bound, so that a hang is a failure.
async fn bounded<T>(body: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, body).await.expect("the test hangs")
}

#[tokio::test]
async fn linear_computes_every_datatype_and_keeps_shapes() {
    let (server, mut client) = server_with(Settings::default()).await;
    let answer = client.model_infer(floats(&[1.0, -2.5])).await.unwrap().into_inner();
    assert_eq!(floats_of(&answer), [3.0, -4.0]);
    assert_eq!((answer.outputs[0].name.as_str(), answer.id.as_str()), ("y", "call-1"));
    assert_eq!(answer.outputs[0].shape, [2, 1]);

    let data = [7i64, -1].iter().flat_map(|x| x.to_le_bytes()).collect();
    let answer = client.model_infer(raw_request("INT64", &[1, 2], data)).await.unwrap();
    let expected: Vec<u8> = [15i64, -1].iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(answer.into_inner().raw_output_contents, [expected]);

    let data = b"\x03\0\0\0abc\0\0\0\0\x04\0\0\0\xc3\xa9xy".to_vec();
    let answer = client.model_infer(raw_request("BYTES", &[3], data)).await.unwrap();
    let expected = b"\x03\0\0\0cba\0\0\0\0\x04\0\0\0yx\xc3\xa9".to_vec();
    assert_eq!(answer.into_inner().raw_output_contents, [expected]);

    let answer = client.model_infer(raw_request("FP16", &[1, 2], vec![1, 2, 3, 4])).await.unwrap();
    assert_eq!(answer.into_inner().raw_output_contents, [vec![1, 2, 3, 4]]);

    let statistics = server.statistics();
    assert_eq!((statistics.executions, statistics.rows), (4, 2 + 1 + 3 + 1));
    assert_eq!(statistics.largest_batch, 3);
    let firsts: Vec<_> = statistics.seen.iter().map(|seen| seen.first.as_str()).collect();
    assert_eq!(firsts, ["1", "7", "abc", ""]);
}

#[tokio::test]
async fn typed_contents_are_read_and_written_on_demand() {
    let (server, mut client) = server_with(Settings::default()).await;
    let mut request = floats(&[]);
    request.raw_input_contents.clear();
    request.inputs[0].shape = vec![2, 1];
    request.inputs[0].contents =
        Some(pb::InferTensorContents { fp32_contents: vec![0.5, 4.0], ..Default::default() });
    let raw = client.model_infer(request.clone()).await.unwrap().into_inner();
    assert_eq!(floats_of(&raw), [2.0, 9.0]);

    server.switches().set(|settings| settings.output_contents = OutputContents::Typed);
    let typed = client.model_infer(request).await.unwrap().into_inner();
    assert!(typed.raw_output_contents.is_empty());
    assert_eq!(typed.outputs[0].contents.as_ref().unwrap().fp32_contents, [2.0, 9.0]);
}

#[tokio::test]
async fn wrong_requests_are_refused_by_name() {
    let settings = Settings { max_batch_size: 2, ..Settings::default() };
    let (server, mut client) = server_with(settings).await;
    let mut unknown = floats(&[1.0]);
    unknown.model_name = "nobody".to_owned();
    let mut unknown_output = floats(&[1.0]);
    unknown_output.outputs = vec![pb::model_infer_request::InferRequestedOutputTensor {
        name: "z".to_owned(),
        ..Default::default()
    }];
    let cases = [
        (unknown, Code::NotFound, "nobody"),
        (unknown_output, Code::InvalidArgument, "'z'"),
        (floats(&[1.0, 2.0, 3.0]), Code::InvalidArgument, "max_batch_size 2"),
        (raw_request("FP32", &[1, 2], vec![0; 4]), Code::InvalidArgument, "4 bytes"),
        (raw_request("FP32", &[-1], vec![0; 4]), Code::InvalidArgument, "shape [-1]"),
        (raw_request("BYTES", &[1], vec![9, 0, 0, 0, 1]), Code::InvalidArgument, "BYTES"),
        (raw_request("QUX", &[1], vec![0; 4]), Code::InvalidArgument, "QUX"),
    ];
    for (request, code, part) in cases {
        let status = client.model_infer(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(part), "{status}");
    }
    let config = pb::ModelConfigRequest { name: "linear".to_owned(), ..Default::default() };
    let config = client.model_config(config).await.unwrap().into_inner().config.unwrap();
    assert_eq!(config.max_batch_size, 2);
    assert_eq!(server.statistics().failed, 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_take_their_time_one_after_another() {
    let service = ServiceTime::linear(Duration::from_millis(10), Duration::from_micros(500));
    let (server, client) = server_with(Settings { service, ..Settings::default() }).await;
    let began = Instant::now();
    let calls = (0..5).map(|_| {
        let mut client = client.clone();
        async move { client.model_infer(floats(&[1.0, 2.0])).await.unwrap() }
    });
    bounded(futures_util::future::join_all(calls)).await;
    assert!(began.elapsed() >= Duration::from_millis(55), "{:?}", began.elapsed());
    let statistics = server.statistics();
    assert_eq!(statistics.batch_sizes, [(2, 5)].into());
    assert_eq!(statistics.max_concurrency, 5);
    assert!(statistics.busy_nanoseconds >= 55_000_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_slots_work_at_the_same_time() {
    let service = ServiceTime::linear(Duration::from_millis(100), Duration::ZERO);
    let settings = Settings { service, ..Settings::default() };
    let options = Options { parallelism: 4, settings, ..Options::default() };
    let server = ModelServer::start(options).await.unwrap();
    let client = client_of(&server).await;
    let began = Instant::now();
    let calls = (0..4).map(|_| {
        let mut client = client.clone();
        async move { client.model_infer(floats(&[1.0])).await.unwrap() }
    });
    bounded(futures_util::future::join_all(calls)).await;
    assert!(began.elapsed() < Duration::from_millis(300), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_abandoned_call_frees_its_slot_and_is_counted() {
    let service = ServiceTime::linear(Duration::from_secs(3600), Duration::ZERO);
    let (server, client) = server_with(Settings { service, ..Settings::default() }).await;
    let call = tokio::spawn({
        let mut client = client.clone();
        async move { client.model_infer(floats(&[1.0])).await }
    });
    server.wait_until(|seen| seen.executions == 1, BOUND).await.unwrap();
    call.abort();
    let statistics = server.wait_until(|seen| seen.cancelled == 1, BOUND).await.unwrap();
    assert_eq!(statistics.concurrency, 0);
    server.switches().set(|settings| settings.service = ServiceTime::default());
    let mut client = client;
    bounded(client.model_infer(floats(&[1.0]))).await.unwrap();
    let statistics = server.wait_until(|seen| seen.concurrency == 0, BOUND).await.unwrap();
    assert_eq!((statistics.calls, statistics.cancelled), (2, 1));
}

#[tokio::test]
async fn refusals_strike_as_often_as_told() {
    let (server, mut client) = server_with(Settings::default()).await;
    server.switches().set(|settings| settings.fail = Trigger::Next(2));
    for _ in 0..2 {
        let status = client.model_infer(floats(&[1.0])).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal);
    }
    client.model_infer(floats(&[1.0])).await.unwrap();

    server.switches().set(|settings| settings.overload = Trigger::Always);
    let status = client.model_infer(floats(&[1.0])).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.metadata().get("retry-after").unwrap(), "1");
    server.switches().set(|settings| settings.overload = Trigger::Fraction(0.25));
    let mut refused = 0;
    for _ in 0..200 {
        refused += u32::from(client.model_infer(floats(&[1.0])).await.is_err());
    }
    assert!((25..=75).contains(&refused), "{refused} of 200 at a quarter");

    server.switches().set(|settings| {
        settings.overload = Trigger::Never;
        settings.ready = false;
    });
    let status = client.model_infer(floats(&[1.0])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(!client.server_ready(pb::ServerReadyRequest {}).await.unwrap().into_inner().ready);
    assert!(client.server_live(pb::ServerLiveRequest {}).await.unwrap().into_inner().live);
}

#[tokio::test]
async fn poison_fails_the_whole_batch_and_only_that() {
    let (_server, mut client) = server_with(Settings { poison: true, ..Settings::default() }).await;
    client.model_infer(floats(&[1.0, 665.0])).await.unwrap();
    let status = client.model_infer(floats(&[1.0, 666.0])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let text = b"\x08\0\0\0a poison".to_vec();
    let status = client.model_infer(raw_request("BYTES", &[1], text)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn wrong_rows_lose_the_last_row_of_every_output() {
    let wrong_rows = Trigger::Always;
    let (_server, mut client) = server_with(Settings { wrong_rows, ..Settings::default() }).await;
    let answer = client.model_infer(floats(&[1.0, 2.0, 3.0])).await.unwrap().into_inner();
    assert_eq!(answer.outputs[0].shape, [2, 1]);
    assert_eq!(floats_of(&answer), [3.0, 5.0]);
    let data = b"\x01\0\0\0a\x01\0\0\0b".to_vec();
    let answer = client.model_infer(raw_request("BYTES", &[2], data)).await.unwrap().into_inner();
    assert_eq!(answer.raw_output_contents, [b"\x01\0\0\0a".to_vec()]);
}

#[tokio::test]
async fn garbage_and_dropped_connections_are_no_answers() {
    let (server, mut client) = server_with(Settings::default()).await;
    server.switches().set(|settings| settings.garbage = Trigger::Next(1));
    let status = client.model_infer(floats(&[1.0])).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status}");

    for moment in [DropMoment::AtOnce, DropMoment::BeforeReply, DropMoment::MidReply] {
        server.switches().set(|settings| {
            settings.drop_connection = Trigger::Next(1);
            settings.drop_moment = moment;
        });
        let before = server.statistics();
        bounded(client.model_infer(floats(&[1.0]))).await.expect_err("the connection broke");
        let executed = u64::from(moment != DropMoment::AtOnce);
        let ended = |seen: &crate::model_server::Statistics| {
            seen.cancelled == before.cancelled + 1
                && seen.executions == before.executions + executed
                && seen.open_connections == 0
        };
        server.wait_until(ended, BOUND).await.unwrap();
        // The client's channel connects anew.
        bounded(client.model_infer(floats(&[1.0]))).await.unwrap();
    }
}

#[tokio::test]
async fn a_stalled_call_gets_no_answer_while_others_do() {
    let (server, client) = server_with(Settings::default()).await;
    server.switches().set(|settings| settings.stall = Trigger::Next(1));
    let stalled = tokio::spawn({
        let mut client = client.clone();
        async move { client.model_infer(floats(&[1.0])).await }
    });
    server.wait_until(|seen| seen.calls == 1, BOUND).await.unwrap();
    let mut client = client;
    bounded(client.model_infer(floats(&[2.0]))).await.unwrap();
    assert!(!stalled.is_finished());
    stalled.abort();
    server.wait_until(|seen| seen.cancelled == 1, BOUND).await.unwrap();
}

#[tokio::test]
async fn a_hanging_server_answers_once_it_hangs_no_more() {
    let (server, mut client) = server_with(Settings { hang: true, ..Settings::default() }).await;
    let hanging = tokio::spawn({
        let mut client = client.clone();
        async move { client.model_infer(floats(&[1.0])).await }
    });
    server.wait_until(|seen| seen.executions == 1, BOUND).await.unwrap();
    assert!(client.server_ready(pb::ServerReadyRequest {}).await.unwrap().into_inner().ready);
    assert!(!hanging.is_finished());
    server.switches().merge(&serde_json::json!({ "hang": false })).unwrap();
    let answer = bounded(hanging).await.unwrap().unwrap().into_inner();
    assert_eq!(floats_of(&answer), [3.0]);
}

#[tokio::test]
async fn the_journal_tells_who_came_with_whom_and_is_bounded() {
    let (server, mut client) = server_with(Settings { journal: 2, ..Settings::default() }).await;
    for values in [&[1.0][..], &[2.0, 3.0], &[4.0, 5.0, 6.0]] {
        client.model_infer(floats(values)).await.unwrap();
    }
    let journal = server.journal();
    let values: Vec<_> = journal.iter().map(|visit| visit.values.as_slice()).collect();
    assert_eq!(values, [&[2.0, 3.0][..], &[4.0, 5.0, 6.0]]);
    assert!(journal.iter().all(|visit| visit.left_us.is_some_and(|left| left >= visit.arrived_us)));

    server.switches().set(|settings| settings.hang = true);
    let given_up = tokio::spawn(async move { client.model_infer(floats(&[7.0])).await });
    server.wait_until(|seen| seen.executions == 4, BOUND).await.unwrap();
    assert_eq!(server.journal().last().unwrap().left_us, None);
    given_up.abort();
    server.wait_until(|seen| seen.cancelled == 1, BOUND).await.unwrap();
    assert!(server.journal().last().unwrap().left_us.is_some());
}

#[tokio::test]
async fn streams_repeat_and_report_errors_in_band() {
    let (_server, mut client) = server_with(Settings::default()).await;
    let mut repeated = floats(&[1.0]);
    let three = pb::infer_parameter::ParameterChoice::Int64Param(3);
    let three = pb::InferParameter { parameter_choice: Some(three) };
    repeated.parameters.insert("repeat".to_owned(), three);
    let mut wrong = floats(&[1.0]);
    wrong.model_name = "nobody".to_owned();
    let requests = futures_util::stream::iter([repeated, wrong, floats(&[5.0])]);
    let mut answers = client.model_stream_infer(requests).await.unwrap().into_inner();
    let mut got = Vec::new();
    while let Some(answer) = bounded(answers.message()).await.unwrap() {
        let values = answer.infer_response.as_ref().filter(|_| answer.error_message.is_empty());
        got.push(values.map_or_else(Vec::new, floats_of));
    }
    assert_eq!(got, [vec![3.0], vec![3.0], vec![3.0], vec![], vec![11.0]]);
}

#[tokio::test]
async fn megabytes_pass_whole() {
    let (_server, mut client) = server_with(Settings::default()).await;
    let values: Vec<f32> = (0..5_000_000u32).map(|x| (x % 1000) as f32).collect();
    let answer = bounded(client.model_infer(floats(&values))).await.unwrap().into_inner();
    assert!(floats_of(&answer).iter().zip(&values).all(|(y, x)| *y == 2.0 * x + 1.0));
    assert_eq!(answer.outputs[0].shape, [5_000_000, 1]);
}

#[tokio::test]
async fn a_shut_down_address_refuses_and_can_be_served_again() {
    let (server, mut client) = server_with(Settings::default()).await;
    client.model_infer(floats(&[1.0])).await.unwrap();
    let address = server.grpc_address();
    server.shutdown().await;
    let refused = tokio::net::TcpStream::connect(address).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    bounded(client.model_infer(floats(&[1.0]))).await.unwrap_err();
    let options = Options { grpc: address, ..Options::default() };
    let _again = ModelServer::start(options).await.unwrap();
    bounded(client.model_infer(floats(&[1.0]))).await.unwrap();
}

#[tokio::test]
async fn a_dropped_server_takes_its_connections_with_it() {
    let (server, client) = server_with(Settings::default()).await;
    server.switches().set(|settings| settings.stall = Trigger::Always);
    let call = tokio::spawn({
        let mut client = client.clone();
        async move { client.model_infer(floats(&[1.0])).await }
    });
    server.wait_until(|seen| seen.calls == 1, BOUND).await.unwrap();
    let address = server.grpc_address();
    drop(server);
    bounded(call).await.unwrap().unwrap_err();
    let refused = async { while tokio::net::TcpStream::connect(address).await.is_ok() {} };
    bounded(refused).await;
}
