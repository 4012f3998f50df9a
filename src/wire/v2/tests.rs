//! Requests and replies there and back, held against the protobuf codec's own reading of them.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::call::{
    Fault, FaultKind, InferAnswer, InferRequest, Parameter, Parameters, RequestedOutput,
};
use crate::tensor::{DataType, Rope, Shape, Tensor};
use crate::wire::pb;
use crate::wire::pb::infer_parameter::ParameterChoice;
use crate::wire::pb::model_infer_request::InferInputTensor;
use crate::wire::pb::model_infer_response::InferOutputTensor;

fn tensor(name: String, datatype: DataType, axes: &[u64], seed: u8) -> Tensor {
    let shape = Shape::from(axes);
    let mut data = Rope::new();
    for element in 0..shape.elements() {
        let byte = seed.wrapping_add(u8::try_from(element % 251).unwrap());
        match datatype.element_size() {
            Some(size) => data.push(Bytes::from(vec![byte; size])),
            None => {
                let length = usize::from(byte % 5);
                let mut bytes = u32::try_from(length).unwrap().to_le_bytes().to_vec();
                bytes.extend(std::iter::repeat_n(byte, length));
                data.push(Bytes::from(bytes));
            }
        }
    }
    Tensor::new(name, datatype, shape, data).unwrap()
}

fn any_tensor() -> impl Strategy<Value = (DataType, Vec<u64>, u8)> {
    let datatypes = prop::sample::select(DataType::ALL.to_vec());
    (datatypes, prop::collection::vec(0_u64..5, 0..4), any::<u8>())
}

fn any_parameters() -> impl Strategy<Value = Parameters> {
    let value = prop_oneof![
        any::<bool>().prop_map(Parameter::Bool),
        any::<i64>().prop_map(Parameter::Int64),
        any::<u64>().prop_map(Parameter::Uint64),
        (-1e9..1e9_f64).prop_map(Parameter::Double),
        ".{0,9}".prop_map(Parameter::String),
    ];
    prop::collection::btree_map("custom_[a-z]{1,4}", value, 0..3)
}

fn tensors(specs: &[(DataType, Vec<u64>, u8)]) -> Vec<Tensor> {
    let named = specs.iter().enumerate();
    named
        .map(|(i, (datatype, axes, seed))| tensor(format!("t{i}"), *datatype, axes, *seed))
        .collect()
}

fn cut(message: &Rope, size: usize) -> Rope {
    message.to_bytes().chunks(size).map(Bytes::copy_from_slice).collect()
}

proptest! {
    #[test]
    fn a_request_survives_the_way_there_and_back(
        inputs in prop::collection::vec(any_tensor(), 0..4),
        own in prop::collection::btree_map("t[0-3]", any_parameters(), 0..3),
        parameters in any_parameters(),
        outputs in prop::collection::vec(("[a-z]{1,5}", any_parameters()), 0..3),
        size in 1_usize..99,
    ) {
        let outputs = outputs.into_iter();
        let sent = tensors(&inputs);
        let input_parameters = own
            .into_iter()
            .filter(|(name, own)| !own.is_empty() && sent.iter().any(|it| it.name() == name))
            .collect();
        let request = InferRequest {
            version: "3".to_owned(),
            parameters,
            inputs: sent,
            input_parameters,
            outputs: outputs.map(|(name, parameters)| RequestedOutput { name, parameters }).collect(),
        };
        let message = encode_infer_request(&request, "m", "id");
        let own = pb::ModelInferRequest::decode(message.reader()).unwrap();
        prop_assert_eq!(own.encode_to_vec(), message.to_bytes());
        let raw: Vec<_> = request.inputs.iter().map(|input| input.data().to_bytes()).collect();
        prop_assert_eq!(own.raw_input_contents, raw);

        let back = decode_infer_request(&cut(&message, size)).unwrap();
        prop_assert_eq!((back.model_name.as_str(), back.id.as_str()), ("m", "id"));
        prop_assert_eq!(back.request.version, request.version);
        prop_assert_eq!(back.request.parameters, request.parameters);
        prop_assert_eq!(back.request.inputs, request.inputs);
        prop_assert_eq!(back.request.input_parameters, request.input_parameters);
        prop_assert_eq!(back.request.outputs, request.outputs);
    }

    #[test]
    fn a_reply_survives_the_way_there_and_back(
        outputs in prop::collection::vec(any_tensor(), 0..4),
        parameters in any_parameters(),
        size in 1_usize..99,
    ) {
        let answer =
            InferAnswer { version: "1".to_owned(), parameters, outputs: tensors(&outputs) };
        let message = encode_infer_reply(&answer, "m", "id");
        let own = pb::ModelInferResponse::decode(message.reader()).unwrap();
        prop_assert_eq!(own.encode_to_vec(), message.to_bytes());
        let streamed = encode_stream_reply(&answer, "m", "id");
        let stream = pb::ModelStreamInferResponse::decode(streamed.reader()).unwrap();
        prop_assert_eq!(stream.infer_response, Some(own));

        let back = decode_infer_reply(&cut(&message, size)).unwrap();
        prop_assert_eq!(back.version, answer.version);
        prop_assert_eq!(back.parameters, answer.parameters);
        prop_assert_eq!(back.outputs, answer.outputs);
    }

    #[test]
    fn noise_is_an_error_and_no_panic(
        noise in prop::collection::vec(any::<u8>(), 0..300),
        size in 1_usize..40,
    ) {
        let noise = cut(&noise.into(), size);
        let _ = decode_infer_request(&noise);
        let _ = decode_infer_reply(&noise);
    }

    #[test]
    fn a_damaged_message_is_an_error_and_no_panic(
        inputs in prop::collection::vec(any_tensor(), 1..3),
        at: prop::sample::Index,
        byte: u8,
        keep: prop::sample::Index,
    ) {
        let request = InferRequest { inputs: tensors(&inputs), ..InferRequest::default() };
        let mut bytes = encode_infer_request(&request, "m", "").to_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.truncate(keep.index(bytes.len()) + 1);
        let _ = decode_infer_request(&bytes.clone().into());
        let _ = decode_infer_reply(&bytes.into());
    }
}

fn input(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
        ..InferInputTensor::default()
    }
}

fn typed(
    datatype: &str,
    shape: &[i64],
    contents: pb::InferTensorContents,
) -> pb::ModelInferRequest {
    let input = InferInputTensor { contents: Some(contents), ..input("x", datatype, shape) };
    pb::ModelInferRequest { inputs: vec![input], ..pb::ModelInferRequest::default() }
}

fn decode(request: &pb::ModelInferRequest) -> Result<DecodedInfer, Fault> {
    decode_infer_request(&request.encode_to_vec().into())
}

fn refusal(request: &pb::ModelInferRequest) -> String {
    let fault = decode(request).unwrap_err();
    assert!(matches!(fault.kind, FaultKind::InvalidRequest | FaultKind::Unimplemented));
    assert!(fault.field.is_some(), "{fault}");
    fault.message.into_owned()
}

#[test]
fn raw_contents_are_slices_of_the_received_buffers() {
    let request = InferRequest {
        inputs: vec![
            tensor("a".to_owned(), DataType::Fp32, &[4, 100], 1),
            tensor("b".to_owned(), DataType::Int64, &[4, 9], 2),
        ],
        ..InferRequest::default()
    };
    let flat = encode_infer_request(&request, "m", "").to_bytes();
    let frames: Rope = [flat.slice(..700), flat.slice(700..)].into_iter().collect();
    let decoded = decode_infer_request(&frames).unwrap();
    let buffer = flat.as_ptr_range();
    let segments: Vec<_> =
        decoded.request.inputs.iter().flat_map(|input| input.data().segments()).collect();
    assert_eq!(segments.len(), 3, "the first tensor lies in both frames");
    assert!(segments.iter().all(|segment| buffer.contains(&segment.as_ptr())));
}

#[test]
fn a_tensors_segments_are_appended_as_they_are() {
    let members: Rope = [vec![1; 4000], vec![2; 4000]].map(Bytes::from).into_iter().collect();
    let shape = Shape::from(&[2, 1000][..]);
    let joined = Tensor::new("x", DataType::Fp32, shape, members.clone()).unwrap();
    let request = InferRequest { inputs: vec![joined], ..InferRequest::default() };
    let message = encode_infer_request(&request, "m", "");
    let pointers = |rope: &Rope| -> Vec<_> { rope.segments().iter().map(|s| s.as_ptr()).collect() };
    assert_eq!(pointers(&message)[1..], pointers(&members));
}

#[test]
fn typed_contents_become_raw() {
    let cases = [
        (
            "BOOL",
            pb::InferTensorContents { bool_contents: vec![true, false], ..Default::default() },
            vec![1, 0],
        ),
        (
            "INT8",
            pb::InferTensorContents { int_contents: vec![-128, 127], ..Default::default() },
            vec![0x80, 0x7f],
        ),
        (
            "UINT16",
            pb::InferTensorContents { uint_contents: vec![1, 0xfffe], ..Default::default() },
            vec![1, 0, 0xfe, 0xff],
        ),
        (
            "FP32",
            pb::InferTensorContents { fp32_contents: vec![1.0, -2.0], ..Default::default() },
            [1_f32.to_le_bytes(), (-2_f32).to_le_bytes()].concat(),
        ),
        (
            "BYTES",
            pb::InferTensorContents {
                bytes_contents: vec![Bytes::from("ab"), Bytes::new()],
                ..Default::default()
            },
            b"\x02\0\0\0ab\0\0\0\0".to_vec(),
        ),
    ];
    for (datatype, contents, raw) in cases {
        let decoded = decode(&typed(datatype, &[2], contents.clone())).unwrap();
        assert_eq!(decoded.request.inputs[0].data(), &Rope::from(raw.clone()), "{datatype}");
        let reply = pb::ModelInferResponse {
            outputs: vec![InferOutputTensor {
                name: "y".to_owned(),
                datatype: datatype.to_owned(),
                shape: vec![2],
                contents: Some(contents),
                ..InferOutputTensor::default()
            }],
            ..pb::ModelInferResponse::default()
        };
        let answer = decode_infer_reply(&reply.encode_to_vec().into()).unwrap();
        assert_eq!(answer.outputs[0].data(), &Rope::from(raw), "{datatype}");
    }
}

#[test]
fn typed_contents_that_do_not_fit_are_refused_by_name() {
    let contents = |int_contents| pb::InferTensorContents { int_contents, ..Default::default() };
    let message = refusal(&typed("INT8", &[2], contents(vec![0, 128])));
    assert!(message.contains("int_contents[1] is 128") && message.contains("INT8"), "{message}");
    let message = refusal(&typed("INT32", &[3], contents(vec![0, 1])));
    assert!(message.contains("2 elements") && message.contains("needs 3"), "{message}");
    let message = refusal(&typed("INT64", &[2], contents(vec![0, 1])));
    assert!(
        message.contains("'int64_contents'") && message.contains("'int_contents'"),
        "{message}"
    );
    let message = refusal(&typed("FP16", &[2], contents(vec![0, 1])));
    assert!(message.contains("raw contents"), "{message}");
    let message = refusal(&typed("float", &[2], contents(vec![0, 1])));
    assert!(message.contains("FP32"), "{message}");
}

#[test]
fn raw_and_typed_contents_exclude_each_other() {
    let contents = pb::InferTensorContents { fp32_contents: vec![1.0], ..Default::default() };
    let mut request = typed("FP32", &[1], contents);
    request.raw_input_contents = vec![Bytes::from_static(&[0; 4])];
    let message = refusal(&request);
    assert!(message.contains("'x'") && message.contains("fp32_contents"), "{message}");
    request.inputs[0].contents = Some(pb::InferTensorContents::default());
    assert!(decode(&request).is_ok(), "an empty contents message is as good as none");
}

#[test]
fn raw_contents_come_one_for_each_input_and_fit_it() {
    let mut request = pb::ModelInferRequest {
        inputs: vec![input("x", "FP32", &[1]), input("y", "FP32", &[1])],
        raw_input_contents: vec![Bytes::from_static(&[0; 4])],
        ..pb::ModelInferRequest::default()
    };
    assert!(refusal(&request).contains("1 entries for 2 inputs"));
    request.raw_input_contents.push(Bytes::from_static(&[0; 3]));
    let message = refusal(&request);
    assert!(message.contains("'y'") && message.contains("4 bytes"), "{message}");
    request.raw_input_contents[1] = Bytes::from_static(&[0; 4]);
    request.inputs[1].name = "x".to_owned();
    assert!(refusal(&request).contains("given twice"));
    request.inputs[1] = input("y", "FP32", &[-1]);
    assert!(refusal(&request).contains("shape[0] is -1"));
}

fn parameter(choice: ParameterChoice) -> pb::InferParameter {
    pb::InferParameter { parameter_choice: Some(choice) }
}

#[test]
fn the_schedulers_parameters_are_taken_out() {
    let parameters = [
        ("priority", ParameterChoice::Uint64Param(2)),
        ("timeout", ParameterChoice::Int64Param(5000)),
        ("sequence_id", ParameterChoice::Int64Param(0)),
        ("triton_enable_empty_final_response", ParameterChoice::BoolParam(true)),
        ("temperature", ParameterChoice::DoubleParam(0.5)),
    ];
    let request = pb::ModelInferRequest {
        parameters: parameters.map(|(name, p)| (name.to_owned(), parameter(p))).into(),
        ..pb::ModelInferRequest::default()
    };
    let decoded = decode(&request).unwrap();
    assert_eq!(decoded.scheduling.priority, Some(2));
    assert_eq!(decoded.scheduling.timeout_us, Some(5000));
    assert!(decoded.wants_empty_final_response);
    assert_eq!(
        decoded.request.parameters,
        Parameters::from([("temperature".to_owned(), Parameter::Double(0.5))])
    );
}

#[test]
fn an_inputs_own_parameters_are_kept_without_the_protocols() {
    let mut request = typed("INT8", &[0], pb::InferTensorContents::default());
    request.inputs[0].parameters = [
        ("binary_data_size", ParameterChoice::Int64Param(0)),
        ("content_type", ParameterChoice::StringParam("np".to_owned())),
    ]
    .map(|(name, choice)| (name.to_owned(), parameter(choice)))
    .into();
    let own = [("content_type".to_owned(), Parameter::String("np".to_owned()))].into();
    let kept = decode(&request).unwrap().request.input_parameters;
    assert_eq!(kept, [("x".to_owned(), own)].into());
}

#[test]
fn what_is_not_served_is_refused() {
    let region = parameter(ParameterChoice::StringParam("r".to_owned()));
    let mut request =
        pb::ModelInferRequest { inputs: vec![input("x", "FP32", &[1])], ..Default::default() };
    request.inputs[0].parameters.insert("shared_memory_region".to_owned(), region.clone());
    assert!(refusal(&request).contains("shared memory"));
    request = pb::ModelInferRequest::default();
    request.parameters.insert("sequence_id".to_owned(), region);
    assert!(refusal(&request).contains("sequence"));
    request = pb::ModelInferRequest::default();
    request.parameters.insert("odd".to_owned(), pb::InferParameter::default());
    assert!(refusal(&request).contains("'odd' has no value"));
}

#[test]
fn a_requested_outputs_way_of_travel_is_not_passed_on() {
    let mut request = pb::ModelInferRequest::default();
    let mut output = pb::model_infer_request::InferRequestedOutputTensor::default();
    output.parameters.insert("binary_data".to_owned(), parameter(ParameterChoice::BoolParam(true)));
    output
        .parameters
        .insert("classification".to_owned(), parameter(ParameterChoice::Int64Param(3)));
    request.outputs.push(output);
    let outputs = decode(&request).unwrap().request.outputs;
    assert_eq!(outputs[0].parameters.keys().collect::<Vec<_>>(), ["classification"]);
}

#[test]
fn a_message_of_countless_empty_tensors_is_refused() {
    let request = [0x2a, 0].repeat(1 << 20);
    assert!(decode_infer_request(&request.into()).unwrap_err().message.contains("more than"));
}

#[test]
fn a_streams_error_says_which_request_it_means() {
    let message = encode_stream_error("too late", "m", "7");
    let reply = pb::ModelStreamInferResponse::decode(message.reader()).unwrap();
    assert_eq!(reply.error_message, "too late");
    assert_eq!(reply.infer_response.unwrap().id, "7");
}
