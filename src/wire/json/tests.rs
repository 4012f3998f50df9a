//! Requests and replies, both ways.

use bytes::Bytes;
use http::HeaderMap;

use super::*;
use crate::call::{FaultKind, InferAnswer, InferRequest, Parameter, Parameters, RequestedOutput};
use crate::tensor::{DataType, Rope, Shape, Tensor};

fn headers(length: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(HEADER_LENGTH, length.parse().unwrap());
    headers
}

/// A body of `json` and `binary` in segments of three bytes, and the headers that go with it.
fn with_binary(json: &str, binary: &[u8]) -> (HeaderMap, Rope) {
    let whole = [json.as_bytes(), binary].concat();
    let body = whole.chunks(3).map(Bytes::copy_from_slice).collect();
    (headers(&json.len().to_string()), body)
}

fn tensor(name: &str, datatype: DataType, axes: &[u64], data: &[u8]) -> Tensor {
    Tensor::new(name, datatype, Shape::from(axes), data.to_vec().into()).unwrap()
}

fn fault(json: &str, binary: &[u8]) -> crate::call::Fault {
    let (headers, body) = with_binary(json, binary);
    parse_infer_request(&headers, body).unwrap_err()
}

const BINARY_INPUT: &str = r#"{"inputs":[{"name":"x","datatype":"INT8","shape":[2],
    "parameters":{"binary_data_size":2}}]}"#;

#[test]
fn json_and_binary_inputs_mix() {
    let json = r#"{"id":"7","parameters":{"priority":1,"timeout":5000,"beam":4,"cut":"x"},
        "inputs":[
            {"name":"a","datatype":"INT8","shape":[1,2],"data":[[1,2]]},
            {"name":"b","shape":[1,2],"datatype":"UINT16","parameters":{"binary_data_size":4}},
            {"data":["hi"],"name":"c","datatype":"BYTES","shape":[1],"parameters":null},
            {"name":"d","shape":[3],"datatype":"BOOL","parameters":{"binary_data_size":3}}],
        "outputs":[{"name":"y","parameters":{"binary_data":true,"classification":2}},{"name":"z"}],
        "unknown":[[[]]]}"#;
    let (headers, body) = with_binary(json, &[1, 0, 2, 0, 1, 0, 1]);
    let parsed = parse_infer_request(&headers, body).unwrap();
    assert_eq!(parsed.id, "7");
    assert_eq!((parsed.scheduling.priority, parsed.scheduling.timeout_us), (Some(1), Some(5000)));
    let expected = [
        tensor("a", DataType::Int8, &[1, 2], &[1, 2]),
        tensor("b", DataType::Uint16, &[1, 2], &[1, 0, 2, 0]),
        tensor("c", DataType::Bytes, &[1], b"\x02\0\0\0hi"),
        tensor("d", DataType::Bool, &[3], &[1, 0, 1]),
    ];
    assert_eq!(parsed.request.inputs, expected);
    let custom = [("beam", Parameter::Int64(4)), ("cut", Parameter::String("x".into()))];
    assert_eq!(parsed.request.parameters, custom.map(|(name, it)| (name.to_owned(), it)).into());
    let names: Vec<_> = parsed.request.outputs.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["y", "z"]);
    assert_eq!(parsed.request.outputs[0].parameters["classification"], Parameter::Int64(2));
    assert!(parsed.binary_outputs.is_binary("y") && !parsed.binary_outputs.is_binary("z"));
}

#[test]
fn binary_inputs_are_slices_of_the_body() {
    let text = [BINARY_INPUT.as_bytes(), &[8, 9]].concat();
    let body = Bytes::from(text);
    let headers = headers(&BINARY_INPUT.len().to_string());
    let parsed = parse_infer_request(&headers, body.clone()).unwrap();
    let data = parsed.request.inputs[0].data();
    assert_eq!(data.segments()[0].as_ptr(), body[BINARY_INPUT.len()..].as_ptr());
}

#[test]
fn the_request_wide_wish_for_binary_yields_to_the_outputs_own() {
    let json = r#"{"parameters":{"binary_data_output":true},"inputs":[{"name":"x",
        "datatype":"INT8","shape":[0],"data":[]}],
        "outputs":[{"name":"y","parameters":{"binary_data":false}},{"name":"z"}]}"#;
    let form = parse_infer_request(&HeaderMap::new(), Bytes::from_static(json.as_bytes()))
        .unwrap()
        .binary_outputs;
    assert!(!form.is_binary("y") && form.is_binary("z"));
}

#[test]
fn missing_and_left_over_bytes_are_refused() {
    assert!(fault(BINARY_INPUT, &[1]).message.contains("only 1 bytes"));
    assert!(fault(BINARY_INPUT, &[1, 2, 3]).message.contains("1 bytes of the body"));
    let short = parse_infer_request(&headers("999"), Bytes::from_static(b"{}")).unwrap_err();
    assert!(short.message.contains("999") && short.message.contains("2 bytes"));
    let nonsense = parse_infer_request(&headers("-1"), Bytes::new()).unwrap_err();
    assert_eq!(nonsense.field.as_deref(), Some("Inference-Header-Content-Length"));
    let without =
        parse_infer_request(&HeaderMap::new(), Bytes::from_static(BINARY_INPUT.as_bytes()));
    assert!(without.unwrap_err().message.contains("Inference-Header-Content-Length"));
}

#[test]
fn malformed_requests_name_what_is_wrong() {
    let input = |rest: &str| format!(r#"{{"inputs":[{{"name":"x",{rest}}}]}}"#);
    for (json, word) in [
        ("[".repeat(5000), "not an inference request"),
        ("{}".into(), "inputs"),
        (r#"{"id":5,"inputs":[]}"#.into(), "'id': invalid type"),
        (r#"{"inputs":[{"name":"x","shape":[1,"a"]}]}"#.into(), "'inputs[0].shape[1]'"),
        (r#"{"inputs":[]} x"#.into(), "more after"),
        (r#"["7",null,[],null]"#.into(), "a list, not an object"),
        (r#"{"parameters":{"a":[1]},"inputs":[]}"#.into(), "parameter"),
        (input(r#""datatype":"FLOAT","shape":[1],"data":[1]"#), "FP32"),
        (input(r#""datatype":"FP32","shape":[-1],"data":[1]"#), "shape[0]"),
        (input(r#""datatype":"FP32","shape":[1],"data":5"#), "must be a list"),
        (input(r#""datatype":"FP32","shape":[1],"data":[1,2]"#), "input 'x'"),
        (input(r#""datatype":"FP32","shape":[1]"#), "no data"),
        (
            input(r#""datatype":"INT8","shape":[1],"data":[1],"parameters":{"k":{"a":1}}"#),
            "input 'x': parameter 'k'",
        ),
        (
            input(r#""datatype":"INT8","shape":[1],"parameters":{"binary_data_size":"1"}"#),
            "'inputs[0].parameters.binary_data_size'",
        ),
        (
            input(r#""datatype":"INT8","shape":[1],"data":[1]"#)
                .replace("]}]}", r#"]},{"name":"x","datatype":"INT8","shape":[1],"data":[1]}]}"#),
            "given twice",
        ),
        (input(r#""datatype":"FP16","shape":[1],"data":[1]"#), "binary"),
        (
            input(
                r#""datatype":"FP32","shape":[1],"data":[1],"parameters":{"binary_data_size":4}"#,
            ),
            "both",
        ),
        (
            input(r#""datatype":"INT8","shape":[1],"data":[1]"#)
                .replace("]}]}", r#"]}],"outputs":[{"name":"y","parameters":{"binary_data":1}}]}"#),
            "true or false",
        ),
    ] {
        let fault = fault(&json, &[]);
        assert_eq!(fault.kind, FaultKind::InvalidRequest, "{json:.80}");
        assert!(fault.message.contains(word), "{json:.80}: {fault}");
    }
}

#[test]
fn a_parameter_keeps_its_last_digit() {
    // Read with a rounding error of one place, as a parser in a hurry does, each is another number.
    for exact in [0.099_999_999_999_996_44, 0.100_000_000_000_113_68, 9.703_780_804_762_003e189] {
        let json = format!(r#"{{"parameters":{{"heat":{exact:?}}},"inputs":[]}}"#);
        let parsed = parse_infer_request(&HeaderMap::new(), Bytes::from(json)).unwrap();
        assert_eq!(parsed.request.parameters["heat"], Parameter::Double(exact));
    }
}

#[test]
fn how_an_output_travels_is_not_passed_on() {
    let json = br#"{"inputs":[],"outputs":[{"name":"y","parameters":
        {"binary_data":true,"binary_data_size":4,"top":1}}]}"#;
    let parsed = parse_infer_request(&HeaderMap::new(), Bytes::from_static(json)).unwrap();
    let top = [("top".to_owned(), Parameter::Int64(1))];
    assert_eq!(parsed.request.outputs[0].parameters, top.into());
    assert!(parsed.binary_outputs.is_binary("y"));
}

fn content_type(name: &str) -> Parameters {
    [("content_type".to_owned(), Parameter::String(name.to_owned()))].into()
}

#[test]
fn an_inputs_own_parameters_are_kept_without_the_protocols() {
    let json = r#"{"inputs":[
        {"name":"a","datatype":"INT8","shape":[1],"data":[1],"parameters":{"content_type":"np"}},
        {"name":"b","datatype":"INT8","shape":[1],
         "parameters":{"headers":null,"binary_data_size":1,"content_type":"str"}},
        {"name":"c","datatype":"INT8","shape":[1],"parameters":{"binary_data_size":1}}]}"#;
    let (headers, body) = with_binary(json, &[2, 3]);
    let kept = parse_infer_request(&headers, body).unwrap().request.input_parameters;
    let expected = [("a", content_type("np")), ("b", content_type("str"))];
    assert_eq!(kept, expected.map(|(name, it)| (name.to_owned(), it)).into());
}

#[test]
fn shared_memory_is_refused() {
    let region = r#""parameters":{"shared_memory_region":"r","shared_memory_byte_size":4}"#;
    for json in [
        format!(r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1],{region}}}]}}"#),
        format!(
            r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1],"data":[1]}}],
                "outputs":[{{"name":"y",{region}}}]}}"#
        ),
    ] {
        assert_eq!(fault(&json, &[]).kind, FaultKind::Unimplemented);
    }
}

#[test]
fn what_a_client_writes_a_front_reads() {
    let request = InferRequest {
        version: String::new(),
        parameters: [("beam".to_owned(), Parameter::Uint64(u64::MAX))].into(),
        inputs: vec![
            tensor("x", DataType::Fp16, &[1, 2], &[1, 2, 3, 4]),
            tensor("s", DataType::Bytes, &[1], b"\x02\0\0\0hi"),
        ],
        input_parameters: [("s".to_owned(), content_type("str"))].into(),
        outputs: Vec::new(),
    };
    let (headers, body) = write_infer_request(&request, "id\"1");
    assert_eq!(body.segments()[1].as_ptr(), request.inputs[0].data().segments()[0].as_ptr());
    let parsed = parse_infer_request(&headers, body).unwrap();
    assert_eq!((parsed.id.as_str(), &parsed.request.inputs), ("id\"1", &request.inputs));
    assert_eq!(parsed.request.parameters, request.parameters);
    assert_eq!(parsed.request.input_parameters, request.input_parameters);
    assert!(parsed.binary_outputs.is_binary("anything"));

    let outputs = vec![RequestedOutput {
        name: "y".into(),
        parameters: [("classification".to_owned(), Parameter::Int64(2))].into(),
    }];
    let (headers, body) = write_infer_request(&InferRequest { outputs, ..request }, "");
    let parsed = parse_infer_request(&headers, body).unwrap();
    assert!(parsed.binary_outputs.is_binary("y") && !parsed.binary_outputs.is_binary("z"));
    assert_eq!(parsed.request.outputs[0].parameters.len(), 1);
}

fn answer() -> InferAnswer {
    InferAnswer {
        version: "3".into(),
        parameters: [("cached".to_owned(), Parameter::Bool(true))].into(),
        outputs: vec![
            tensor("y", DataType::Fp32, &[1, 2], &[0, 0, 0, 63, 0, 0, 128, 191]),
            tensor("s", DataType::Bytes, &[1], b"\x02\0\0\0h\""),
        ],
    }
}

#[test]
fn what_a_front_writes_a_client_reads_in_every_form() {
    let json = OutputForm::default();
    let mixed = OutputForm { all: false, named: vec![("s".into(), true)] };
    let binary = OutputForm { all: true, named: Vec::new() };
    for (form, has_binary) in [(json, false), (mixed, true), (binary, true)] {
        let (headers, body) = write_infer_reply("m", "7", &answer(), &form).unwrap();
        assert_eq!(headers.contains_key(HEADER_LENGTH), has_binary);
        let back = parse_infer_reply(&headers, body).unwrap();
        assert_eq!(
            (back.version, back.parameters, back.outputs),
            (answer().version, answer().parameters, answer().outputs)
        );
    }
}

#[test]
fn a_json_reply_is_as_clients_know_it() {
    let (_, body) = write_infer_reply("m", "7", &answer(), &OutputForm::default()).unwrap();
    let expected = r#"{"model_name":"m","model_version":"3","id":"7","parameters":{"cached":true},"outputs":[{"name":"y","datatype":"FP32","shape":[1,2],"data":[0.5,-1.0]},{"name":"s","datatype":"BYTES","shape":[1],"data":["h\""]}]}"#;
    assert_eq!(body.to_bytes(), expected);
}

#[test]
fn an_output_that_json_cannot_write_asks_for_binary() {
    let outputs = vec![tensor("y", DataType::Bytes, &[1], b"\x01\0\0\0\xff")];
    let answer = InferAnswer { outputs, ..InferAnswer::default() };
    let fault = write_infer_reply("m", "", &answer, &OutputForm::default()).unwrap_err();
    assert!(fault.message.contains("'y'") && fault.message.contains("binary_data"), "{fault}");
}

#[test]
fn replies_that_break_the_protocol_are_errors() {
    for (json, binary, word) in [
        ("{", [].as_slice(), "JSON"),
        (r#"{"outputs":[{"name":"y","datatype":"INT8","shape":[2],"data":[1]}]}"#, &[], "'y'"),
        (r#"{"outputs":[]}"#, &[1], "no output"),
        (r#"["1",null,[]]"#, &[], "a list, not an object"),
    ] {
        let (headers, body) = with_binary(json, binary);
        let error = parse_infer_reply(&headers, body).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    let nested = br#"{"model_name":"m","outputs":[{"name":"y","datatype":"INT8","shape":[1,2],"data":[[1,2]],"parameters":{"k":[{}]}}]}"#;
    let answer = parse_infer_reply(&HeaderMap::new(), Bytes::from_static(nested)).unwrap();
    assert_eq!(answer.outputs, [tensor("y", DataType::Int8, &[1, 2], &[1, 2])]);
}

const EVERYTHING: &str = r#"{"id":"7","parameters":{"a":1},"inputs":[
    {"name":"a","datatype":"INT8","shape":[1,2],"data":[[1,2]]},
    {"name":"s","datatype":"BYTES","shape":[2],"data":["h\u00e9","\\"]},
    {"name":"b","shape":[1,2],"datatype":"UINT16","parameters":{"binary_data_size":4}}]}"#;

proptest::proptest! {
    /// Malformed bodies of every kind are answered, never a panic, and what is accepted is sound.
    #[test]
    fn a_damaged_request_is_refused_or_understood(
        damage in proptest::collection::vec((0_usize..400, proptest::prelude::any::<u8>()), 0..4),
        length in 0_usize..400,
        cut in 0_usize..400,
    ) {
        let mut whole = [EVERYTHING.as_bytes(), &[1, 0, 2, 0]].concat();
        for (place, byte) in damage {
            let place = place % whole.len();
            whole[place] = byte;
        }
        whole.truncate(whole.len().saturating_sub(cut % 8));
        let length = if length % 3 == 0 { length } else { EVERYTHING.len() };
        let body = Bytes::from(whole);
        if let Ok(parsed) = parse_infer_request(&headers(&length.to_string()), body) {
            let (headers, body) = write_infer_request(&parsed.request, &parsed.id);
            let again = parse_infer_request(&headers, body).unwrap();
            proptest::prop_assert_eq!(again.request.inputs, parsed.request.inputs);
        }
    }
}
