//! Bad input gets a clear error and loses nothing.

use batchwise::wire::pb;
use tonic::Code;

use crate::model_server::Settings;
use crate::stage::{Stage, ask, raw, request};

/// A change to a good request, the code that it earns, and what the message must name.
type Case = (&'static str, fn(&mut pb::ModelInferRequest), Code, &'static str);

const CASES: [Case; 12] = [
    ("unknown model", |r| r.model_name = "nope".to_owned(), Code::NotFound, "nope"),
    (
        "unknown datatype",
        |r| r.inputs[0].datatype = "FP33".to_owned(),
        Code::InvalidArgument,
        "FP33",
    ),
    ("too many bytes", |r| r.inputs[0].shape = vec![1, 1], Code::InvalidArgument, "'x'"),
    ("too few bytes", |r| r.inputs[0].shape = vec![9, 9], Code::InvalidArgument, "'x'"),
    ("negative shape", |r| r.inputs[0].shape = vec![-1, 4], Code::InvalidArgument, "shape[0]"),
    (
        "overflowing shape",
        |r| r.inputs[0].shape = vec![i64::MAX, i64::MAX],
        Code::InvalidArgument,
        "'x'",
    ),
    ("no contents", |r| r.raw_input_contents.clear(), Code::InvalidArgument, "'x'"),
    (
        "contents without an input",
        |r| r.raw_input_contents.push(vec![0].into()),
        Code::InvalidArgument,
        "raw_input_contents",
    ),
    ("no input", |r| r.inputs.clear(), Code::InvalidArgument, "raw_input_contents"),
    (
        "both kinds of contents",
        |r| {
            r.inputs[0].contents =
                Some(pb::InferTensorContents { fp32_contents: vec![1.0], ..Default::default() });
        },
        Code::InvalidArgument,
        "'x'",
    ),
    (
        "a priority that does not exist",
        |r| {
            let choice = pb::infer_parameter::ParameterChoice::Uint64Param(9);
            let parameter = pb::InferParameter { parameter_choice: Some(choice) };
            r.parameters.insert("priority".to_owned(), parameter);
        },
        Code::InvalidArgument,
        "priority",
    ),
    (
        "bytes that do not add up",
        |r| *r = raw("BYTES", &[1], b"\xff\xff\xff\xff!".to_vec()),
        Code::InvalidArgument,
        "'x'",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_bad_input_is_named_and_the_connection_goes_on() {
    let stage = Stage::plain().await;
    let mut client = stage.client().await;
    for (what, spoil, code, named) in CASES {
        let mut bad = request(1, 4, 0.0);
        spoil(&mut bad);
        let status = client.model_infer(bad).await.unwrap_err();
        assert_eq!(status.code(), code, "{what}: {}", status.message());
        assert!(status.message().contains(named), "{what}: {}", status.message());
        ask(&mut client, request(1, 4, 0.0)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_beyond_the_bound_is_refused_and_the_connection_goes_on() {
    let stage = Stage::bounded("1MiB").await;
    let mut client = stage.client().await;
    let status = client.model_infer(request(1, 300_000, 0.0)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{}", status.message());
    assert!(status.message().contains("1048576"), "{}", status.message());
    ask(&mut client, request(1, 4, 0.0)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_refuses_is_passed_on() {
    let stage = Stage::new("max_batch_size = 8", [Settings::default()]).await;
    let mut client = stage.client().await;
    let mut other = request(1, 4, 0.0);
    other.model_version = "77".to_owned();
    let status = client.model_infer(other).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}
