//! Inference requests.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::document::{
    BinaryData, BinaryTensorText, ParametersDocument, ParametersText, RequestDocument, RequestText,
    RequestedOutputDocument, RequestedOutputText, TensorDocument, TensorFault, document_bytes,
};
use super::{BINARY, HEADER_LENGTH, json_length};
use crate::call::{Fault, FaultKind, InferRequest, Parameter, Parameters, RequestedOutput};
use crate::tensor::{Rope, Tensor};
use crate::wire::fields::from_object;
use crate::wire::parameters::{
    Scheduling, is_about_shared_memory, is_about_transport, take_scheduling,
};

/// More tensors than any model has.
const MAX_TENSORS: usize = 4096;

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct ParsedInfer {
    /// The caller's id for it; empty when it has none.
    pub id: String,
    /// What is to be inferred; without a version, which is part of the path.
    pub request: InferRequest,
    /// What the parameters say about when.
    pub scheduling: Scheduling,
    /// Which outputs are wanted as binary.
    pub binary_outputs: OutputForm,
}

/// Which outputs are wanted as binary; the others are JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputForm {
    /// Whether those are that do not say themselves.
    pub all: bool,
    /// What outputs say themselves, by name.
    pub named: Vec<(String, bool)>,
}

impl OutputForm {
    /// Whether an output is wanted as binary.
    pub fn is_binary(&self, name: &str) -> bool {
        let own = self.named.iter().find(|(named, _)| named == name);
        own.map_or(self.all, |(_, binary)| *binary)
    }
}

/// Reads a request: JSON, with or without binary data after it.
///
/// A body that is one raw tensor ([`json_length`] 0) is for
/// [`parse_raw_infer_request`](super::parse_raw_infer_request).
///
/// # Errors
/// When the request is malformed; the fault names the field and says what would be right.
pub fn parse_infer_request(
    headers: &HeaderMap,
    body: impl Into<Rope>,
) -> Result<ParsedInfer, Fault> {
    let body = body.into();
    let length = match json_length(headers)? {
        None => body.len(),
        Some(length) if length <= body.len() => length,
        Some(length) => return Err(document_too_short(length, body.len())),
    };
    let text = document_bytes(&body, length);
    let mut document: RequestDocument<'_> =
        from_object(&text).map_err(|error| not_a_request(&text, &error))?;
    let mut parameters =
        document.parameters.map(ParametersDocument::into_parameters).unwrap_or_default();
    let scheduling = take_scheduling(&mut parameters)?;
    let input_parameters = take_input_parameters(&mut document.inputs)?;
    let inputs = read_inputs(document.inputs, &body, length)?;
    let mut named = Vec::new();
    let outputs = document
        .outputs
        .unwrap_or_default()
        .into_iter()
        .map(|output| read_requested_output(output, &mut named))
        .collect::<Result<_, _>>()?;
    Ok(ParsedInfer {
        id: document.id.unwrap_or_default(),
        request: InferRequest {
            version: String::new(),
            parameters,
            inputs,
            input_parameters,
            outputs,
        },
        scheduling,
        binary_outputs: OutputForm { all: scheduling.binary_data_output, named },
    })
}

/// Writes a request for an instance: the inputs as binary, all outputs asked for as binary.
pub fn write_infer_request(request: &InferRequest, id: &str) -> (HeaderMap, Rope) {
    let all_outputs = request.outputs.is_empty();
    let document = RequestText {
        id,
        parameters: ParametersText(
            &request.parameters,
            all_outputs.then_some("binary_data_output"),
        ),
        inputs: request
            .inputs
            .iter()
            .map(|input| BinaryTensorText::new(input, request.input_parameters.get(input.name())))
            .collect(),
        outputs: request
            .outputs
            .iter()
            .map(|output| RequestedOutputText {
                name: &output.name,
                parameters: ParametersText(&output.parameters, Some("binary_data")),
            })
            .collect(),
    };
    // Strings and numbers into memory: nothing that can fail.
    let json = serde_json::to_vec(&document).unwrap_or_default();
    let mut headers = HeaderMap::with_capacity(2);
    headers.insert(CONTENT_TYPE, BINARY);
    headers.insert(HEADER_LENGTH, json.len().into());
    let mut body = Rope::from(Bytes::from(json));
    for input in &request.inputs {
        body.append(input.data());
    }
    (headers, body)
}

fn take_input_parameters(
    documents: &mut [TensorDocument<'_>],
) -> Result<BTreeMap<String, Parameters>, Fault> {
    let mut all = BTreeMap::new();
    for document in documents {
        let Some(parameters) = &mut document.parameters else { continue };
        if parameters.in_shared_memory {
            return Err(shared_memory(&format!("input '{}'", document.name)));
        }
        let own = parameters.take_own(&document.name)?;
        if !own.is_empty() {
            all.insert(document.name.clone(), own);
        }
    }
    Ok(all)
}

fn read_inputs(
    documents: Vec<TensorDocument<'_>>,
    body: &Rope,
    start: usize,
) -> Result<Vec<Tensor>, Fault> {
    if documents.len() > MAX_TENSORS {
        let message = format!("inputs has {} entries; at most {MAX_TENSORS}", documents.len());
        return Err(Fault::invalid("inputs", message));
    }
    let mut names = BTreeSet::new();
    if let Some(twice) = documents.iter().find(|document| !names.insert(&document.name)) {
        let message = format!("input '{}' is given twice; give it once", twice.name);
        return Err(Fault::invalid(twice.name.clone(), message));
    }
    let mut binary = BinaryData::new(body, start);
    let mut inputs = Vec::with_capacity(documents.len());
    for document in documents {
        let name = document.name.clone();
        let tensor =
            document.into_tensor(&mut binary).map_err(|fault| wrong_input(name, &fault))?;
        inputs.push(tensor);
    }
    match binary.left() {
        0 => Ok(inputs),
        left => Err(Fault::invalid(
            "binary_data_size",
            format!(
                "{left} bytes of the body belong to no input: the binary data after the JSON must \
                 be as long as the inputs' 'binary_data_size' together"
            ),
        )),
    }
}

fn read_requested_output(
    output: RequestedOutputDocument,
    named: &mut Vec<(String, bool)>,
) -> Result<RequestedOutput, Fault> {
    let name = output.name;
    let mut parameters =
        output.parameters.map(ParametersDocument::into_parameters).unwrap_or_default();
    if parameters.keys().any(|name| is_about_shared_memory(name)) {
        return Err(shared_memory(&format!("output '{name}'")));
    }
    if let Some(binary) = take_binary_data(&name, &mut parameters)? {
        named.push((name.clone(), binary));
    }
    parameters.retain(|name, _| !is_about_transport(name));
    Ok(RequestedOutput { name, parameters })
}

fn take_binary_data(name: &str, parameters: &mut Parameters) -> Result<Option<bool>, Fault> {
    match parameters.remove("binary_data") {
        None => Ok(None),
        Some(Parameter::Bool(binary)) => Ok(Some(binary)),
        Some(_) => Err(Fault::invalid(
            "binary_data",
            format!("output '{name}': parameter 'binary_data' must be true or false"),
        )),
    }
}

fn wrong_input(name: String, fault: &TensorFault) -> Fault {
    let text = fault.to_string();
    // Tensor errors name the tensor themselves.
    let message = match fault {
        TensorFault::Tensor(_) => text,
        _ => format!("input '{name}': {text}"),
    };
    Fault::invalid(name, message)
}

fn shared_memory(what: &str) -> Fault {
    let message = format!("{what}: shared memory is not supported; send the data in the body");
    Fault::new(FaultKind::Unimplemented, message).with_field("shared_memory_region")
}

fn document_too_short(length: usize, body: usize) -> Fault {
    Fault::invalid(
        "Inference-Header-Content-Length",
        format!(
            "header Inference-Header-Content-Length is {length}, but the body has {body} bytes"
        ),
    )
}

/// Says what is wrong with a document, and where: read once more, as only this reading keeps track.
fn not_a_request(text: &[u8], error: &serde_json::Error) -> Fault {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let outcome = serde_path_to_error::deserialize::<_, RequestDocument<'_>>(&mut deserializer);
    let (field, error) = match outcome {
        Err(error) => (error.path().to_string(), error.into_inner().to_string()),
        // It was the document's end that was wrong, or that it is a list of the fields' values.
        Ok(_) if error.is_syntax() => (".".to_owned(), "there is more after the JSON".to_owned()),
        Ok(_) => (".".to_owned(), error.to_string()),
    };
    let start = "the body is not an inference request in JSON";
    if field == "." {
        return Fault::invalid("body", format!("{start}: {error}"));
    }
    let message = format!("{start}: '{field}': {error}");
    Fault::invalid(field, message)
}
