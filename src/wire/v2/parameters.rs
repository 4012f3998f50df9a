//! Parameters: the protocol's to ours and back.

use std::collections::BTreeMap;

use crate::call::{Fault, FaultKind, Parameter, Parameters};
use crate::wire::parameters::{is_about_shared_memory, is_about_transport};
use crate::wire::pb;
use crate::wire::pb::infer_parameter::ParameterChoice;

/// The parameters of a message.
pub(super) fn from_wire(
    parameters: BTreeMap<String, pb::InferParameter>,
) -> Result<Parameters, Fault> {
    parameters
        .into_iter()
        .map(|(name, parameter)| match parameter.parameter_choice {
            Some(ParameterChoice::BoolParam(value)) => Ok((name, Parameter::Bool(value))),
            Some(ParameterChoice::Int64Param(value)) => Ok((name, Parameter::Int64(value))),
            Some(ParameterChoice::StringParam(value)) => Ok((name, Parameter::String(value))),
            Some(ParameterChoice::DoubleParam(value)) => Ok((name, Parameter::Double(value))),
            Some(ParameterChoice::Uint64Param(value)) => Ok((name, Parameter::Uint64(value))),
            None => Err(Fault::invalid(
                field(&name),
                format!(
                    "parameter '{name}' has no value; set one of the five kinds or leave it out"
                ),
            )),
        })
        .collect()
}

/// The parameters for a message.
pub(super) fn to_wire(parameters: &Parameters) -> BTreeMap<String, pb::InferParameter> {
    parameters
        .iter()
        .map(|(name, parameter)| {
            let choice = match parameter {
                Parameter::Bool(value) => ParameterChoice::BoolParam(*value),
                Parameter::Int64(value) => ParameterChoice::Int64Param(*value),
                Parameter::Uint64(value) => ParameterChoice::Uint64Param(*value),
                Parameter::Double(value) => ParameterChoice::DoubleParam(*value),
                Parameter::String(value) => ParameterChoice::StringParam(value.clone()),
            };
            (name.clone(), pb::InferParameter { parameter_choice: Some(choice) })
        })
        .collect()
}

/// Takes out `triton_enable_empty_final_response` and says whether it was set.
pub(super) fn take_empty_final_response(parameters: &mut Parameters) -> bool {
    parameters.remove("triton_enable_empty_final_response") == Some(Parameter::Bool(true))
}

/// The parameters of a tensor that are for the model.
pub(super) fn of_tensor(
    kind: &str,
    tensor: &str,
    parameters: BTreeMap<String, pb::InferParameter>,
) -> Result<Parameters, Fault> {
    if parameters.is_empty() {
        return Ok(Parameters::new());
    }
    refuse_shared_memory(kind, tensor, &parameters)?;
    let mut parameters = from_wire(parameters)?;
    parameters.retain(|name, _| !is_about_transport(name));
    Ok(parameters)
}

fn refuse_shared_memory(
    kind: &str,
    tensor: &str,
    parameters: &BTreeMap<String, pb::InferParameter>,
) -> Result<(), Fault> {
    let Some(name) = parameters.keys().find(|name| is_about_shared_memory(name)) else {
        return Ok(());
    };
    Err(Fault::new(
        FaultKind::Unimplemented,
        format!("{kind} '{tensor}': shared memory ('{name}') is not served; send the data itself"),
    )
    .with_field(tensor.to_owned()))
}

fn field(parameter: &str) -> String {
    format!("parameters.{parameter}")
}
