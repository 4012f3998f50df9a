//! `ModelInferRequest` to a call's work and back.

use std::collections::{BTreeMap, BTreeSet};

use super::contents::{Head, filled_fields, tensor_from_contents, tensor_from_raw};
use super::message::{Separated, assemble, separate};
use super::parameters::{from_wire, of_tensor, take_empty_final_response, to_wire};
use crate::call::{Fault, InferRequest, Parameters, RequestedOutput};
use crate::tensor::{Rope, Tensor};
use crate::wire::parameters::{Scheduling, take_scheduling};
use crate::wire::pb;
use crate::wire::pb::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};

/// The field of a request that holds raw contents.
const RAW_INPUT_CONTENTS: u32 = 7;

/// A request, sorted into what each part of the proxy needs.
#[derive(Clone, Debug)]
pub struct DecodedInfer {
    /// The model that is asked.
    pub model_name: String,
    /// The caller's name for the request; empty when it gave none.
    pub id: String,
    /// The work; its tensors are slices of the message.
    pub request: InferRequest,
    /// When it is to be served.
    pub scheduling: Scheduling,
    /// Whether a stream's caller wants an empty reply after the last one.
    pub wants_empty_final_response: bool,
}

/// Decodes a `ModelInferRequest`. Raw contents are not copied, whatever frames they arrived in.
///
/// # Errors
/// When the message is malformed or asks for what is not served; the fault names the field.
pub fn decode_infer_request(message: &Rope) -> Result<DecodedInfer, Fault> {
    let Separated { mut head, raw } =
        separate::<pb::ModelInferRequest>(message, RAW_INPUT_CONTENTS).map_err(|error| {
            Fault::invalid("ModelInferRequest", format!("this is no ModelInferRequest: {error}"))
        })?;
    let mut parameters = from_wire(head.parameters)?;
    let wants_empty_final_response = take_empty_final_response(&mut parameters);
    let scheduling = take_scheduling(&mut parameters)?;
    let input_parameters = take_input_parameters(&mut head.inputs)?;
    let request = InferRequest {
        version: head.model_version,
        parameters,
        input_parameters,
        inputs: inputs(head.inputs, raw)?,
        outputs: head.outputs.into_iter().map(requested_output).collect::<Result<_, _>>()?,
    };
    Ok(DecodedInfer {
        model_name: head.model_name,
        id: head.id,
        request,
        scheduling,
        wants_empty_final_response,
    })
}

fn take_input_parameters(
    inputs: &mut [InferInputTensor],
) -> Result<BTreeMap<String, Parameters>, Fault> {
    let mut all = BTreeMap::new();
    for input in inputs {
        let parameters = of_tensor("input", &input.name, std::mem::take(&mut input.parameters))?;
        if !parameters.is_empty() {
            all.insert(input.name.clone(), parameters);
        }
    }
    Ok(all)
}

fn inputs(inputs: Vec<InferInputTensor>, raw: Vec<Rope>) -> Result<Vec<Tensor>, Fault> {
    let mut names = BTreeSet::new();
    for input in &inputs {
        if !names.insert(input.name.as_str()) {
            let message = format!("input '{}' is given twice; give it once", input.name);
            return Err(Fault::invalid(input.name.clone(), message));
        }
    }
    if raw.is_empty() {
        return inputs.into_iter().map(typed_input).collect();
    }
    if raw.len() != inputs.len() {
        return Err(Fault::invalid(
            "raw_input_contents",
            format!(
                "raw_input_contents has {} entries for {} inputs; it needs one for each, in order",
                raw.len(),
                inputs.len()
            ),
        ));
    }
    inputs.into_iter().zip(raw).map(|(input, raw)| raw_input(input, raw)).collect()
}

fn typed_input(input: InferInputTensor) -> Result<Tensor, Fault> {
    let InferInputTensor { name, datatype, shape, contents, .. } = input;
    let head = Head { name: name.clone(), datatype: &datatype, shape: &shape };
    match contents {
        Some(contents) => tensor_from_contents(head, &contents),
        None => tensor_from_raw(head, Rope::new()),
    }
    .map_err(|message| Fault::invalid(name, message))
}

fn raw_input(input: InferInputTensor, raw: Rope) -> Result<Tensor, Fault> {
    let InferInputTensor { name, datatype, shape, contents, .. } = input;
    if let Some(field) = contents.as_ref().and_then(|contents| filled_fields(contents).next()) {
        return Err(Fault::invalid(
            name.clone(),
            format!(
                "tensor '{name}': '{field}' must be empty when raw_input_contents is used; send \
                 one or the other"
            ),
        ));
    }
    tensor_from_raw(Head { name: name.clone(), datatype: &datatype, shape: &shape }, raw)
        .map_err(|message| Fault::invalid(name, message))
}

fn requested_output(output: InferRequestedOutputTensor) -> Result<RequestedOutput, Fault> {
    let parameters = of_tensor("output", &output.name, output.parameters)?;
    Ok(RequestedOutput { name: output.name, parameters })
}

/// Encodes a `ModelInferRequest` with raw contents; the tensors' segments are not copied.
pub fn encode_infer_request(request: &InferRequest, model_name: &str, id: &str) -> Rope {
    let head = pb::ModelInferRequest {
        model_name: model_name.to_owned(),
        model_version: request.version.clone(),
        id: id.to_owned(),
        parameters: to_wire(&request.parameters),
        inputs: request
            .inputs
            .iter()
            .map(|input| input_head(input, request.input_parameters.get(input.name())))
            .collect(),
        outputs: request
            .outputs
            .iter()
            .map(|output| InferRequestedOutputTensor {
                name: output.name.clone(),
                parameters: to_wire(&output.parameters),
            })
            .collect(),
        raw_input_contents: Vec::new(),
    };
    assemble(&head, RAW_INPUT_CONTENTS, request.inputs.iter(), None)
}

fn input_head(tensor: &Tensor, parameters: Option<&Parameters>) -> InferInputTensor {
    InferInputTensor {
        name: tensor.name().to_owned(),
        datatype: tensor.datatype().name().to_owned(),
        shape: tensor.shape().to_wire().collect(),
        parameters: parameters.map(to_wire).unwrap_or_default(),
        contents: None,
    }
}
