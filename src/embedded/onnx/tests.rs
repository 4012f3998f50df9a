use prost::Message;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::type_proto::{Tensor as TensorType, Value};
use tract_onnx::pb::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto,
    ValueInfoProto, tensor_proto,
};

use super::*;
use crate::tensor::{Rope, Shape};

// === a small language for models ===

const FLOAT: tensor_proto::DataType = tensor_proto::DataType::Float;
const INT64: tensor_proto::DataType = tensor_proto::DataType::Int64;
const BOOL: tensor_proto::DataType = tensor_proto::DataType::Bool;
const STRING: tensor_proto::DataType = tensor_proto::DataType::String;

/// Shapes are written as `n 3`: names, numbers, and `?` for an axis without a name.
fn value(name: &str, datatype: tensor_proto::DataType, shape: &str) -> ValueInfoProto {
    let dimension = |word: &str| Dimension {
        value: match word.parse() {
            Ok(extent) => Some(dimension::Value::DimValue(extent)),
            Err(_) if word == "?" => None,
            Err(_) => Some(dimension::Value::DimParam(word.to_owned())),
        },
        ..Dimension::default()
    };
    let shape = TensorShapeProto { dim: shape.split_whitespace().map(dimension).collect() };
    let tensor = TensorType { elem_type: datatype.into(), shape: Some(shape) };
    let r#type = TypeProto { value: Some(Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.to_owned(), r#type: Some(r#type), ..ValueInfoProto::default() }
}

fn node(operator: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: operator.to_owned(),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}

fn onnx_bytes(
    inputs: &[ValueInfoProto],
    nodes: &[NodeProto],
    outputs: &[ValueInfoProto],
) -> Vec<u8> {
    let graph = GraphProto {
        name: "test".to_owned(),
        input: inputs.to_vec(),
        node: nodes.to_vec(),
        output: outputs.to_vec(),
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto { version: 17, ..OperatorSetIdProto::default() };
    ModelProto {
        ir_version: 8,
        opset_import: vec![opset],
        graph: Some(graph),
        ..ModelProto::default()
    }
    .encode_to_vec()
}

/// `sum = left + right`, for rows of three.
fn adder() -> OnnxModel {
    let bytes = onnx_bytes(
        &[value("left", FLOAT, "n 3"), value("right", FLOAT, "n 3")],
        &[node("Add", &["left", "right"], "sum")],
        &[value("sum", FLOAT, "n 3")],
    );
    OnnxModel::from_bytes(&bytes).unwrap()
}

fn tensor(name: &str, datatype: DataType, shape: &[u64], bytes: Vec<u8>) -> Tensor {
    Tensor::new(name, datatype, Shape::from(shape), Rope::from(bytes)).unwrap()
}

fn floats(name: &str, shape: &[u64], values: &[f32]) -> Tensor {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor(name, DataType::Fp32, shape, bytes)
}

fn integers(name: &str, shape: &[u64], values: &[i64]) -> Tensor {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor(name, DataType::Int64, shape, bytes)
}

// === what a model says of itself ===

#[test]
fn inputs_and_outputs_are_described() {
    let model = adder();
    let described = |signatures: &[TensorSignature]| -> Vec<String> {
        signatures.iter().map(ToString::to_string).collect()
    };
    assert_eq!(described(model.inputs()), ["'left' FP32 [-1, 3]", "'right' FP32 [-1, 3]"]);
    assert_eq!(described(model.outputs()), ["'sum' FP32 [-1, 3]"]);
    assert!(model.batches());
}

#[test]
fn a_model_batches_when_all_tensors_share_an_open_first_axis() {
    let batches = |inputs: &[ValueInfoProto], operator, output| {
        let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
        let bytes = onnx_bytes(inputs, &[node(operator, &names, "y")], &[output]);
        OnnxModel::from_bytes(&bytes).unwrap().batches()
    };
    let open = |name| value(name, FLOAT, "n 3");
    assert!(batches(&[open("a"), value("b", FLOAT, "n 1")], "Add", open("y")));
    assert!(batches(&[value("a", FLOAT, "? 3")], "Relu", value("y", FLOAT, "? 3")));
    assert!(!batches(&[open("a"), value("b", FLOAT, "1 3")], "Add", open("y")));
    assert!(!batches(&[open("a"), value("b", FLOAT, "3 m")], "MatMul", value("y", FLOAT, "n m")));
    assert!(!batches(&[open("a")], "Transpose", value("y", FLOAT, "3 n")));
    assert!(!batches(&[open("a")], "ReduceSum", value("y", FLOAT, "1 1")));
}

#[test]
fn axes_without_a_name_are_open_and_the_first_is_the_batch() {
    let bytes = onnx_bytes(
        &[value("left", FLOAT, "? ?"), value("right", FLOAT, "? 1")],
        &[node("Add", &["left", "right"], "sum")],
        &[value("sum", FLOAT, "? ?")],
    );
    let model = OnnxModel::from_bytes(&bytes).unwrap();
    assert_eq!(model.inputs()[0].shape(), [-1, -1]);
    assert_eq!(model.outputs()[0].shape(), [-1, -1]);
    for width in [2_u64, 5] {
        let left = floats("left", &[2, width], &vec![1.0; 2 * width as usize]);
        let outputs = model.run(&[left, floats("right", &[2, 1], &[1.0, 2.0])]).unwrap();
        assert_eq!(outputs[0].shape().axes(), [2, width]);
    }
}

#[test]
fn a_fixed_first_axis_does_not_batch() {
    let bytes = onnx_bytes(
        &[value("x", FLOAT, "1 2")],
        &[node("Relu", &["x"], "y")],
        &[value("y", FLOAT, "1 2")],
    );
    let model = OnnxModel::from_bytes(&bytes).unwrap();
    assert_eq!(model.inputs()[0].shape(), [1, 2]);
    assert!(!model.batches());
    assert!(model.run(&[floats("x", &[1, 2], &[1.0, -1.0])]).is_ok());
    assert!(model.run(&[floats("x", &[2, 2], &[0.0; 4])]).is_err());
}

// === running ===

#[test]
fn inputs_are_found_by_name_in_any_order_and_any_segments() {
    let model = adder();
    let mut left = Rope::new();
    for value in [1.0_f32, 2.0, 3.0] {
        left.push(value.to_le_bytes().to_vec().into());
    }
    let left = Tensor::new("left", DataType::Fp32, Shape::from(&[1, 3][..]), left).unwrap();
    let right = floats("right", &[1, 3], &[10.0, 20.0, 30.0]);
    let expected = floats("sum", &[1, 3], &[11.0, 22.0, 33.0]);
    assert_eq!(model.run(&[left.clone(), right.clone()]).unwrap(), std::slice::from_ref(&expected));
    assert_eq!(model.run(&[right, left]).unwrap(), [expected]);
}

#[test]
fn integers_and_booleans_pass_too() {
    let bytes = onnx_bytes(
        &[value("when", BOOL, "n"), value("then", INT64, "n"), value("else", INT64, "n")],
        &[node("Where", &["when", "then", "else"], "chosen")],
        &[value("chosen", INT64, "n")],
    );
    let model = OnnxModel::from_bytes(&bytes).unwrap();
    let run = |flags: Vec<u8>| {
        model.run(&[
            tensor("when", DataType::Bool, &[3], flags),
            integers("then", &[3], &[i64::MAX, 2, 3]),
            integers("else", &[3], &[-1, i64::MIN, -3]),
        ])
    };
    assert_eq!(run(vec![1, 0, 1]).unwrap(), [integers("chosen", &[3], &[i64::MAX, i64::MIN, 3])]);
    assert_eq!(
        run(vec![1, 0, 2]).unwrap_err().to_string(),
        "input 'when' has 2 as element 2; a BOOL is 0 or 1"
    );
}

#[test]
fn shapes_as_outputs_are_integers() {
    let bytes = onnx_bytes(
        &[value("x", FLOAT, "n 3")],
        &[node("Shape", &["x"], "shape")],
        &[value("shape", INT64, "2")],
    );
    let model = OnnxModel::from_bytes(&bytes).unwrap();
    assert_eq!(model.outputs()[0].datatype(), DataType::Int64);
    let outputs = model.run(&[floats("x", &[4, 3], &[0.0; 12])]).unwrap();
    assert_eq!(outputs, [integers("shape", &[2], &[4, 3])]);
}

#[test]
fn values_on_which_the_model_fails_fail_this_run_only() {
    let bytes = onnx_bytes(
        &[value("table", FLOAT, "4"), value("index", INT64, "n")],
        &[node("Gather", &["table", "index"], "found")],
        &[value("found", FLOAT, "n")],
    );
    let model = OnnxModel::from_bytes(&bytes).unwrap();
    let table = floats("table", &[4], &[1.0, 2.0, 3.0, 4.0]);
    let run = |index| model.run(&[table.clone(), integers("index", &[1], &[index])]);
    let error = run(99).unwrap_err();
    assert!(matches!(error, RunError::Failed(_)), "{error}");
    assert_eq!(error.input(), None);
    assert_eq!(run(2).unwrap(), [floats("found", &[1], &[3.0])]);
}

// === errors ===

#[test]
fn a_wrong_input_is_named_with_what_would_be_right() {
    let model = adder();
    let left = || floats("left", &[2, 3], &[0.0; 6]);
    let right = || floats("right", &[2, 3], &[0.0; 6]);
    let both = "the model takes 'left' FP32 [-1, 3], 'right' FP32 [-1, 3]";
    let open = "where -1 is any extent of 1 or more";
    let cases = [
        (vec![left()], format!("input 'right' is missing; {both}")),
        (
            vec![left(), right(), floats("up", &[1], &[0.0])],
            format!("input 'up' is unknown; {both}"),
        ),
        (
            vec![left(), right(), left()],
            "input 'left' came more than once; send it once, with all its rows".to_owned(),
        ),
        (
            vec![left(), integers("right", &[2, 3], &[0; 6])],
            "input 'right' has datatype INT64; the model takes FP32".to_owned(),
        ),
        (
            vec![left(), floats("right", &[2, 4], &[0.0; 8])],
            format!("input 'right' has shape [2, 4]; the model takes [-1, 3], {open}"),
        ),
        (
            vec![floats("left", &[6], &[0.0; 6]), right()],
            format!("input 'left' has shape [6]; the model takes [-1, 3], {open}"),
        ),
        (
            vec![floats("left", &[0, 3], &[]), right()],
            format!("input 'left' has shape [0, 3]; the model takes [-1, 3], {open}"),
        ),
        (
            vec![left(), floats("right", &[3, 3], &[0.0; 9])],
            "input 'right' has shape [3, 3], but axis 0 must be 2, as in input 'left'".to_owned(),
        ),
    ];
    for (inputs, message) in cases {
        let error = model.run(&inputs).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert!(error.input().is_some_and(|name| message.contains(&format!("'{name}'"))));
    }
}

#[test]
fn a_file_that_is_no_usable_model_is_refused() {
    let refused = |bytes: &[u8]| OnnxModel::from_bytes(bytes).unwrap_err();
    assert!(matches!(refused(b"not a model"), LoadError::Unusable { step: "read", .. }));
    assert!(matches!(refused(b""), LoadError::Unusable { step: "understood", .. }));

    let x = [value("x", FLOAT, "n 3")];
    let unknown = onnx_bytes(&x, &[node("Frobnicate", &["x"], "y")], &[value("y", FLOAT, "n 3")]);
    assert!(matches!(refused(&unknown), LoadError::Unusable { .. }));

    let dangling = onnx_bytes(&x, &[node("Add", &["x", "z"], "y")], &[value("y", FLOAT, "n 3")]);
    assert!(matches!(refused(&dangling), LoadError::Unresolved(names) if names == ["z"]));

    let absent = onnx_bytes(&x, &[node("Relu", &["x"], "y")], &[value("other", FLOAT, "n 3")]);
    assert!(matches!(refused(&absent), LoadError::Inconsistent(_)));

    let text = [value("x", STRING, "n")];
    let strings = onnx_bytes(&text, &[node("Identity", &["x"], "y")], &[value("y", STRING, "n")]);
    let error = refused(&strings);
    assert!(matches!(&error, LoadError::Datatype { name, .. } if name == "x"), "{error}");

    let whole = include_bytes!("../../../models/digits.onnx");
    for length in [1, 100, 10_000, whole.len() - 1] {
        assert!(OnnxModel::from_bytes(&whole[..length]).is_err(), "cut to {length} bytes");
    }
}
