//! `ModelInferResponse` to an answer and back.

use super::contents::{Head, tensor_from_contents, tensor_from_raw};
use super::message::{Separated, assemble, separate};
use super::parameters::{from_wire, to_wire};
use crate::call::InferAnswer;
use crate::tensor::{Rope, Tensor};
use crate::wire::pb;
use crate::wire::pb::model_infer_response::InferOutputTensor;

/// The field of a reply that holds raw contents.
const RAW_OUTPUT_CONTENTS: u32 = 6;

/// The field of a stream's reply that holds the reply.
const INFER_RESPONSE: u32 = 2;

/// Encodes a `ModelInferResponse`, always with raw contents, which is all that some clients read;
/// the tensors' segments are not copied.
pub fn encode_infer_reply(answer: &InferAnswer, model_name: &str, id: &str) -> Rope {
    assemble(&head(answer, model_name, id), RAW_OUTPUT_CONTENTS, answer.outputs.iter(), None)
}

/// Encodes a `ModelStreamInferResponse` that holds an answer.
pub fn encode_stream_reply(answer: &InferAnswer, model_name: &str, id: &str) -> Rope {
    let head = head(answer, model_name, id);
    assemble(&head, RAW_OUTPUT_CONTENTS, answer.outputs.iter(), Some(INFER_RESPONSE))
}

/// Encodes a `ModelStreamInferResponse` that says why one request of the stream failed; the reply
/// in it only says which.
pub fn encode_stream_error(message: &str, model_name: &str, id: &str) -> Rope {
    let reply = pb::ModelStreamInferResponse {
        error_message: message.to_owned(),
        infer_response: Some(head(&InferAnswer::default(), model_name, id)),
    };
    prost::Message::encode_to_vec(&reply).into()
}

fn head(answer: &InferAnswer, model_name: &str, id: &str) -> pb::ModelInferResponse {
    pb::ModelInferResponse {
        model_name: model_name.to_owned(),
        model_version: answer.version.clone(),
        id: id.to_owned(),
        parameters: to_wire(&answer.parameters),
        outputs: answer.outputs.iter().map(output_head).collect(),
        raw_output_contents: Vec::new(),
    }
}

fn output_head(tensor: &Tensor) -> InferOutputTensor {
    InferOutputTensor {
        name: tensor.name().to_owned(),
        datatype: tensor.datatype().name().to_owned(),
        shape: tensor.shape().to_wire().collect(),
        ..InferOutputTensor::default()
    }
}

/// Decodes a `ModelInferResponse` with raw or typed contents; raw ones are not copied.
///
/// # Errors
/// What is wrong with the message.
pub fn decode_infer_reply(message: &Rope) -> Result<InferAnswer, String> {
    let Separated { head, raw } = separate::<pb::ModelInferResponse>(message, RAW_OUTPUT_CONTENTS)
        .map_err(|error| format!("the reply is no ModelInferResponse: {error}"))?;
    if !raw.is_empty() && raw.len() != head.outputs.len() {
        return Err(format!(
            "the reply has {} raw_output_contents for {} outputs",
            raw.len(),
            head.outputs.len()
        ));
    }
    let mut raw = raw.into_iter();
    let outputs = head
        .outputs
        .into_iter()
        .map(|output| {
            let InferOutputTensor { name, datatype, shape, contents, .. } = output;
            let head = Head { name, datatype: &datatype, shape: &shape };
            match (raw.next(), contents) {
                (Some(raw), _) => tensor_from_raw(head, raw),
                (None, Some(contents)) => tensor_from_contents(head, &contents),
                (None, None) => tensor_from_raw(head, Rope::new()),
            }
        })
        .collect::<Result<_, _>>()
        .map_err(|error| format!("the reply is malformed: {error}"))?;
    let parameters = from_wire(head.parameters).map_err(|fault| fault.to_string())?;
    Ok(InferAnswer { version: head.model_version, parameters, outputs })
}
