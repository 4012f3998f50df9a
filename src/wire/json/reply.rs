//! Inference replies.

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde::Serialize;

use super::document::{
    BinaryData, BinaryTensorText, ParametersDocument, ParametersText, ReplyDocument,
    document_bytes, is_empty,
};
use super::elements_out::write_flat;
use super::{BINARY, HEADER_LENGTH, JSON, OutputForm, json_length};
use crate::call::{Fault, InferAnswer};
use crate::tensor::{Rope, Tensor};
use crate::wire::ReplyError;
use crate::wire::fields::from_object;

/// Reads an instance's reply: JSON, with or without binary data after it.
///
/// # Errors
/// When it is not what the protocol says.
pub fn parse_infer_reply(
    headers: &HeaderMap,
    body: impl Into<Rope>,
) -> Result<InferAnswer, ReplyError> {
    let body = body.into();
    let length = match json_length(headers).map_err(|fault| ReplyError(fault.to_string()))? {
        None => body.len(),
        Some(length) if length <= body.len() => length,
        Some(length) => {
            let got = body.len();
            return Err(ReplyError(format!(
                "the instance's reply has {got} bytes, but says that {length} are JSON"
            )));
        }
    };
    let text = document_bytes(&body, length);
    let document: ReplyDocument<'_> =
        from_object(&text).map_err(|error| ReplyError::json(&error))?;
    let mut binary = BinaryData::new(&body, length);
    let mut outputs = Vec::with_capacity(document.outputs.len().min(64));
    for output in document.outputs {
        let name = output.name.clone();
        let tensor = output
            .into_tensor(&mut binary)
            .map_err(|fault| ReplyError(format!("the instance's output '{name}': {fault}")))?;
        outputs.push(tensor);
    }
    if binary.left() > 0 {
        let left = binary.left();
        return Err(ReplyError(format!("{left} bytes of the instance's reply are no output's")));
    }
    Ok(InferAnswer {
        version: document.model_version.unwrap_or_default(),
        parameters: document
            .parameters
            .map(ParametersDocument::into_parameters)
            .unwrap_or_default(),
        outputs,
    })
}

/// Writes the reply to a caller, each output as it was asked for.
///
/// An output in JSON carries no `parameters`: clients take them for a sign of binary data.
///
/// # Errors
/// When an output was asked for as JSON, which cannot say it.
pub fn write_infer_reply(
    model: &str,
    id: &str,
    answer: &InferAnswer,
    form: &OutputForm,
) -> Result<(HeaderMap, Rope), Fault> {
    let mut json = Vec::with_capacity(256);
    write_head(&mut json, model, id, answer);
    json.extend_from_slice(b"\"outputs\":[");
    let mut tail = Rope::new();
    let mut any_binary = false;
    for (index, output) in answer.outputs.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        if form.is_binary(output.name()) {
            any_binary = true;
            append(&mut json, &BinaryTensorText::new(output, None));
            tail.append(output.data());
        } else {
            write_json_output(&mut json, output)?;
        }
    }
    json.extend_from_slice(b"]}");
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(CONTENT_TYPE, if any_binary { BINARY } else { JSON });
    if any_binary {
        headers.insert(HEADER_LENGTH, json.len().into());
    }
    let mut body = Rope::from(Bytes::from(json));
    body.append(&tail);
    Ok((headers, body))
}

/// Everything before `outputs`, with the opening brace and the comma.
fn write_head(json: &mut Vec<u8>, model: &str, id: &str, answer: &InferAnswer) {
    json.extend_from_slice(b"{\"model_name\":");
    append(json, model);
    json.extend_from_slice(b",\"model_version\":");
    append(json, &answer.version);
    json.push(b',');
    if !id.is_empty() {
        json.extend_from_slice(b"\"id\":");
        append(json, id);
        json.push(b',');
    }
    let parameters = ParametersText(&answer.parameters, None);
    if !is_empty(&parameters) {
        json.extend_from_slice(b"\"parameters\":");
        append(json, &parameters);
        json.push(b',');
    }
}

fn write_json_output(json: &mut Vec<u8>, output: &Tensor) -> Result<(), Fault> {
    json.extend_from_slice(b"{\"name\":");
    append(json, output.name());
    json.extend_from_slice(b",\"datatype\":");
    append(json, output.datatype().name());
    json.extend_from_slice(b",\"shape\":");
    append(json, output.shape().axes());
    json.extend_from_slice(b",\"data\":");
    write_flat(json, output).map_err(|error| {
        let name = output.name();
        let message = format!(
            "output '{name}': {error}; ask for it as binary data (output parameter 'binary_data' \
             or request parameter 'binary_data_output': true)"
        );
        Fault::invalid("binary_data", message)
    })?;
    json.push(b'}');
    Ok(())
}

fn append(json: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    // Strings and numbers into memory: nothing that can fail.
    drop(serde_json::to_writer(json, value));
}
