//! Inference requests for instances that do not know the binary tensor data extension.

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde::Serialize;

use super::JSON;
use super::document::{ParametersText, is_empty};
use super::elements_out::write_flat;
use crate::call::{Fault, InferRequest, Parameters, RequestedOutput};
use crate::tensor::{Rope, Tensor};

/// Writes a request for an instance: everything as JSON, the outputs too.
///
/// # Errors
/// When JSON cannot write an input: it knows no infinities and no 16-bit floats.
pub fn write_plain_infer_request(
    request: &InferRequest,
    id: &str,
) -> Result<(HeaderMap, Rope), Fault> {
    let mut json = b"{".to_vec();
    if !id.is_empty() {
        field(&mut json, "id", id);
    }
    parameters(&mut json, &request.parameters);
    json.extend_from_slice(b"\"inputs\":[");
    for (index, input) in request.inputs.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        write_input(&mut json, input, request.input_parameters.get(input.name()))?;
    }
    json.push(b']');
    if !request.outputs.is_empty() {
        json.extend_from_slice(b",\"outputs\":[");
        for (index, output) in request.outputs.iter().enumerate() {
            if index > 0 {
                json.push(b',');
            }
            write_output(&mut json, output);
        }
        json.push(b']');
    }
    json.push(b'}');
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(CONTENT_TYPE, JSON);
    Ok((headers, Rope::from(Bytes::from(json))))
}

fn write_input(json: &mut Vec<u8>, input: &Tensor, own: Option<&Parameters>) -> Result<(), Fault> {
    json.push(b'{');
    field(json, "name", input.name());
    field(json, "datatype", input.datatype().name());
    field(json, "shape", input.shape().axes());
    if let Some(own) = own {
        parameters(json, own);
    }
    json.extend_from_slice(b"\"data\":");
    write_flat(json, input).map_err(|error| {
        let name = input.name();
        let message =
            format!("input '{name}': {error}, and the model's server takes tensors as JSON only");
        Fault::invalid(name.to_owned(), message)
    })?;
    json.push(b'}');
    Ok(())
}

fn write_output(json: &mut Vec<u8>, output: &RequestedOutput) {
    json.push(b'{');
    parameters(json, &output.parameters);
    json.extend_from_slice(b"\"name\":");
    append(json, output.name.as_str());
    json.push(b'}');
}

fn parameters(json: &mut Vec<u8>, parameters: &Parameters) {
    let text = ParametersText(parameters, None);
    if !is_empty(&text) {
        field(json, "parameters", &text);
    }
}

/// A key, its value and a comma.
fn field(json: &mut Vec<u8>, key: &str, value: &(impl Serialize + ?Sized)) {
    append(json, key);
    json.push(b':');
    append(json, value);
    json.push(b',');
}

fn append(json: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    // Strings and numbers into memory: nothing that can fail.
    drop(serde_json::to_writer(json, value));
}

#[cfg(test)]
mod tests {
    use super::super::parse_infer_request;
    use super::*;
    use crate::call::Parameter;
    use crate::tensor::{DataType, Shape};

    fn tensor(datatype: DataType, data: Vec<u8>) -> Tensor {
        Tensor::new("x", datatype, Shape::from(&[2][..]), data.into()).unwrap()
    }

    #[test]
    fn reads_back_as_the_same_request() {
        let custom = Parameters::from([("top".to_owned(), Parameter::Int64(3))]);
        let floats = [1.5_f32, -2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let request = InferRequest {
            parameters: custom.clone(),
            inputs: vec![
                tensor(DataType::Fp32, floats),
                tensor(DataType::Bytes, b"\x01\0\0\0a\0\0\0\0".to_vec()).renamed("y"),
            ],
            input_parameters: [("y".to_owned(), custom.clone())].into(),
            outputs: vec![RequestedOutput { name: "z".to_owned(), parameters: custom }],
            ..InferRequest::default()
        };
        let (headers, body) = write_plain_infer_request(&request, "7").unwrap();
        assert_eq!(headers[CONTENT_TYPE], "application/json");
        let parsed = parse_infer_request(&headers, body).unwrap();
        assert_eq!(parsed.id, "7");
        assert_eq!(parsed.request.inputs, request.inputs);
        assert_eq!(parsed.request.input_parameters, request.input_parameters);
        assert_eq!(parsed.request.outputs, request.outputs);
        assert_eq!(parsed.request.parameters, request.parameters);
    }

    #[test]
    fn what_json_cannot_say_is_refused_by_name() {
        let request =
            InferRequest { inputs: vec![tensor(DataType::Fp16, vec![0; 4])], ..Default::default() };
        let fault = write_plain_infer_request(&request, "").unwrap_err();
        assert_eq!(fault.field.as_deref(), Some("x"));
    }
}
