//! The inputs of the corpora that are no text: `cargo test --test fuzz -- --ignored` writes them anew.

use std::io::Write as _;

use batchwise::call::InferAnswer;
use batchwise::tensor::{DataType, Rope, Shape, Tensor};
use batchwise::wire::frame::envelop;
use batchwise::wire::pb;
use batchwise::wire::v2::{encode_infer_reply, encode_stream_error};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use pb::infer_parameter::ParameterChoice;
use pb::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use prost::Message as _;

fn input(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
        ..InferInputTensor::default()
    }
}

fn request(inputs: &[InferInputTensor], raw: &[&'static [u8]]) -> pb::ModelInferRequest {
    pb::ModelInferRequest {
        model_name: "tensors".to_owned(),
        inputs: inputs.to_vec(),
        raw_input_contents: raw.iter().copied().map(Into::into).collect(),
        ..pb::ModelInferRequest::default()
    }
}

fn parameter(choice: ParameterChoice) -> pb::InferParameter {
    pb::InferParameter { parameter_choice: Some(choice) }
}

/// Raw, typed, of text, of nothing, with every kind of parameter.
fn requests() -> Vec<(&'static str, pb::ModelInferRequest)> {
    let typed = |datatype, contents| {
        let mut input = input("x", datatype, &[2, 1]);
        input.contents = Some(contents);
        request(&[input], &[])
    };
    let floats = pb::InferTensorContents { fp32_contents: vec![1.5, -2.0], ..Default::default() };
    let small = pb::InferTensorContents { int_contents: vec![7, -8], ..Default::default() };
    let texts = vec![b"a".as_slice().into(), b"\xff".as_slice().into()];
    let texts = pb::InferTensorContents { bytes_contents: texts, ..Default::default() };
    let mut all = request(
        &[input("x", "FP32", &[2, 1]), input("s", "BYTES", &[2])],
        &[&[0, 0, 128, 63, 0, 0, 0, 64], b"\x01\0\0\0a\0\0\0\0"],
    );
    all.id = "id-1".to_owned();
    all.model_version = "1".to_owned();
    all.parameters.extend([
        ("priority".to_owned(), parameter(ParameterChoice::Uint64Param(1))),
        ("timeout".to_owned(), parameter(ParameterChoice::Int64Param(5_000_000))),
        ("beam".to_owned(), parameter(ParameterChoice::DoubleParam(0.1))),
        ("flag".to_owned(), parameter(ParameterChoice::BoolParam(true))),
        ("text".to_owned(), parameter(ParameterChoice::StringParam("t".to_owned()))),
    ]);
    let content_type = parameter(ParameterChoice::StringParam("str".to_owned()));
    all.inputs[1].parameters.insert("content_type".to_owned(), content_type);
    let classification = parameter(ParameterChoice::Int64Param(2));
    all.outputs.push(InferRequestedOutputTensor {
        name: "y".to_owned(),
        parameters: [("classification".to_owned(), classification)].into(),
    });
    let many = vec![0_u8; 40].leak();
    vec![
        ("raw", request(&[input("x", "FP32", &[1, 2])], &[&[0, 0, 128, 63, 0, 0, 0, 64]])),
        ("rows", request(&[input("x", "INT16", &[20])], &[many])),
        ("half", request(&[input("x", "FP16", &[1, 1, 2])], &[&[0, 60, 0, 64]])),
        ("bool", request(&[input("x", "BOOL", &[3])], &[&[0, 1, 2]])),
        ("empty", request(&[input("x", "INT8", &[3, 0])], &[])),
        ("scalar", request(&[input("x", "UINT64", &[])], &[&[1, 0, 0, 0, 0, 0, 0, 0]])),
        ("typed_floats", typed("FP32", floats)),
        ("typed_small", typed("INT8", small)),
        ("typed_texts", typed("BYTES", texts)),
        ("everything", all),
        ("long_name", request(&[input(&"ü".repeat(1500), "FP33", &[1])], &[])),
    ]
}

fn replies() -> Vec<(&'static str, Rope)> {
    let tensor = |name: &str, datatype, axes: &[u64], data: &'static [u8]| {
        Tensor::new(name, datatype, Shape::from(axes), Rope::from(data.to_vec())).unwrap()
    };
    let answer = |outputs| InferAnswer { version: "1".to_owned(), outputs, ..Default::default() };
    let floats = tensor("y", DataType::Fp32, &[2, 1], &[0, 0, 128, 63, 0, 0, 192, 127]);
    let texts = tensor("s", DataType::Bytes, &[2], b"\x01\0\0\0a\x01\0\0\0\xff");
    let typed = pb::ModelInferResponse {
        outputs: vec![pb::model_infer_response::InferOutputTensor {
            name: "y".to_owned(),
            datatype: "INT64".to_owned(),
            shape: vec![2],
            contents: Some(pb::InferTensorContents {
                int64_contents: vec![1, -1],
                ..Default::default()
            }),
            ..Default::default()
        }],
        ..Default::default()
    };
    vec![
        ("raw", encode_infer_reply(&answer(vec![floats, texts]), "m", "id")),
        ("empty", encode_infer_reply(&answer(Vec::new()), "m", "")),
        ("typed", typed.encode_to_vec().into()),
    ]
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn deflated(plain: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn compressed_frame(packed: &[u8]) -> Vec<u8> {
    let mut frame = envelop(&Rope::from(packed.to_vec())).to_bytes().to_vec();
    frame[0] = 1;
    frame
}

fn write(target: &str, name: &str, input: &[u8]) {
    std::fs::write(super::folder("corpus").join(target).join(name), input).unwrap();
}

#[test]
#[ignore = "writes fuzz/corpus"]
fn write_seeds() {
    let frame = |message: &[u8]| envelop(&Rope::from(message.to_vec())).to_bytes().to_vec();
    let mut stream = b"ModelStreamInfer\n\n".to_vec();
    for (name, request) in requests() {
        let message = request.encode_to_vec();
        write("kserve_grpc_request", name, &message);
        let metadata = "x-request-id: a-1\ngrpc-timeout: 5S\nx-request-priority: 2\n\n";
        let call = [format!("ModelInfer\n{metadata}").as_bytes(), &frame(&message)].concat();
        write("front_grpc", name, &call);
        stream.extend(frame(&message));
    }
    write("front_grpc", "stream", &stream);
    let name = pb::ModelMetadataRequest { name: "tensors".to_owned(), version: String::new() };
    for method in
        ["ServerLive", "ModelMetadata", "ModelConfig", "ModelStatistics", "RepositoryIndex"]
    {
        let call = [format!("{method}\n\n").as_bytes(), &frame(&name.encode_to_vec())].concat();
        write("front_grpc", &method.to_lowercase(), &call);
    }
    let first = requests()[0].1.encode_to_vec();
    let head = b"ModelInfer\ngrpc-encoding: gzip\n\n".as_slice();
    write("front_grpc", "gzip", &[head, &compressed_frame(&gzip(&first))].concat());
    for (name, message) in replies() {
        write("kserve_grpc_reply", name, &message.to_bytes());
    }
    write("kserve_grpc_reply", "stream", &encode_stream_error("no", "m", "id").to_bytes());
    let two = [b"\n".as_slice(), &frame(b"one"), &frame(b""), &frame(&[7; 700])].concat();
    write("grpc_frames", "plain", &two);
    let long = vec![b'a'; 5000];
    write("grpc_frames", "gzip", &[b"gzip\n".as_slice(), &compressed_frame(&gzip(&long))].concat());
    let zlib =
        [b"deflate\n".as_slice(), &compressed_frame(&deflated(&long)), &frame(b"x")].concat();
    write("grpc_frames", "deflate", &zlib);
    let bomb = compressed_frame(&gzip(&vec![0; 100_000]));
    write("grpc_frames", "bomb", &[b"gzip\n".as_slice(), &bomb].concat());
    write("grpc_frames", "cut_short", b"\n\0\0\0\0\x09abc");
    write("grpc_frames", "too_long", b"\n\0\xff\xff\xff\xff");
    write("grpc_frames", "unknown", b"snappy\n\x01\0\0\0\x01a");
    let zipped = gzip(br#"{"instances":[[1,2]]}"#);
    let head = b"POST /v1/models/tensors:predict\ncontent-encoding: gzip\n\n".as_slice();
    write("front_http", "gzip", &[head, &zipped].concat());
}
