//! Parameters: the protocol's to ours and back, and those that speak to the scheduler.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::call::{Fault, FaultKind, Parameter, Parameters};
use crate::wire::pb;
use crate::wire::pb::infer_parameter::ParameterChoice;

/// What a request's parameters say about when it is to be served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scheduling {
    /// 1 is the most urgent; `None` for the model's default.
    pub priority: Option<u64>,
    /// How long the caller waits; `None` for no bound of its own.
    pub timeout: Option<Duration>,
}

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

/// Takes `priority` and `timeout` (microseconds) out of a request's parameters; 0 is as if absent.
///
/// # Errors
/// When one of them is no whole number of 0 or more.
pub fn take_scheduling(parameters: &mut Parameters) -> Result<Scheduling, Fault> {
    Ok(Scheduling {
        priority: take_count(parameters, "priority", "1 is the most urgent, 0 the default")?,
        timeout: take_count(parameters, "timeout", "in microseconds, 0 for none")?
            .map(Duration::from_micros),
    })
}

fn take_count(
    parameters: &mut Parameters,
    name: &'static str,
    meaning: &str,
) -> Result<Option<u64>, Fault> {
    let count = match parameters.remove(name) {
        None => return Ok(None),
        Some(Parameter::Uint64(value)) => Some(value),
        Some(Parameter::Int64(value)) => u64::try_from(value).ok(),
        Some(_) => None,
    };
    match count {
        Some(0) => Ok(None),
        Some(count) => Ok(Some(count)),
        None => Err(Fault::invalid(
            field(name),
            format!("parameter '{name}' must be a whole number of 0 or more ({meaning})"),
        )),
    }
}

/// Takes out the parameters of sequences, which are not served: an id of 0 means none.
pub(super) fn refuse_sequences(parameters: &mut Parameters) -> Result<(), Fault> {
    match parameters.remove("sequence_id") {
        None | Some(Parameter::Uint64(0) | Parameter::Int64(0)) => {}
        Some(Parameter::String(id)) if id.is_empty() => {}
        Some(_) => {
            return Err(Fault::new(
                FaultKind::Unimplemented,
                "sequences are not served: they bind calls to one instance; leave out parameter \
                 'sequence_id' or send it as 0",
            )
            .with_field(field("sequence_id")));
        }
    }
    parameters.remove("sequence_start");
    parameters.remove("sequence_end");
    Ok(())
}

/// Takes out `triton_enable_empty_final_response` and says whether it was set.
pub(super) fn take_empty_final_response(parameters: &mut Parameters) -> bool {
    parameters.remove("triton_enable_empty_final_response") == Some(Parameter::Bool(true))
}

/// Refuses a tensor whose data is said to be in shared memory, which only its own host can read.
pub(super) fn refuse_shared_memory(
    kind: &str,
    tensor: &str,
    parameters: &BTreeMap<String, pb::InferParameter>,
) -> Result<(), Fault> {
    let Some(name) = parameters.keys().find(|name| name.starts_with("shared_memory_")) else {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, value: Parameter) -> Parameters {
        Parameters::from([(name.to_owned(), value), ("mine".to_owned(), Parameter::Bool(true))])
    }

    #[test]
    fn scheduling_is_taken_out_and_the_rest_is_kept() {
        let mut parameters = with("priority", Parameter::Uint64(2));
        parameters.insert("timeout".to_owned(), Parameter::Int64(1500));
        let scheduling = take_scheduling(&mut parameters).unwrap();
        let timeout = Some(Duration::from_micros(1500));
        assert_eq!(scheduling, Scheduling { priority: Some(2), timeout });
        assert_eq!(parameters.keys().collect::<Vec<_>>(), ["mine"]);
        let none = take_scheduling(&mut with("priority", Parameter::Int64(0))).unwrap();
        assert_eq!(none, Scheduling::default());
    }

    #[test]
    fn scheduling_that_is_no_count_is_refused_by_name() {
        for value in [Parameter::Int64(-1), Parameter::Double(1.0), Parameter::Bool(true)] {
            let fault = take_scheduling(&mut with("timeout", value)).unwrap_err();
            assert_eq!(fault.field.as_deref(), Some("parameters.timeout"));
            assert!(fault.message.contains("microseconds"), "{fault}");
        }
    }

    #[test]
    fn only_a_sequence_id_of_zero_passes() {
        let mut none = with("sequence_id", Parameter::Uint64(0));
        none.insert("sequence_start".to_owned(), Parameter::Bool(false));
        refuse_sequences(&mut none).unwrap();
        assert_eq!(none.keys().collect::<Vec<_>>(), ["mine"]);
        for id in [Parameter::Uint64(7), Parameter::String("a".to_owned())] {
            let fault = refuse_sequences(&mut with("sequence_id", id)).unwrap_err();
            assert_eq!(fault.kind, FaultKind::Unimplemented);
        }
    }
}
