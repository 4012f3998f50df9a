//! Parameters of requests: those that steer batchwise are taken out, the others are the model's.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

use crate::call::{Fault, FaultKind, Parameter, Parameters};

/// What a request's parameters say to batchwise and not to the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scheduling {
    /// 1 is the most urgent; `None` for the model's default. Not yet checked against its levels.
    pub priority: Option<u64>,
    /// How long the caller waits, in microseconds; `None` for the model's time-out.
    pub timeout_us: Option<u64>,
    /// Whether outputs are wanted as binary where they do not say themselves (HTTP only).
    pub binary_data_output: bool,
}

/// Whether a tensor's parameter only says how its data travels, which is settled between two
/// neighbours and not between caller and instance.
pub(crate) fn is_about_transport(name: &str) -> bool {
    matches!(name, "binary_data" | "binary_data_size")
}

/// Whether a tensor's parameter places its data in shared memory, which only its own host can read.
pub(crate) fn is_about_shared_memory(name: &str) -> bool {
    name.starts_with("shared_memory_")
}

/// Takes the parameters out that are meant for batchwise: `priority`, `timeout` (microseconds),
/// `binary_data_output`, `sequence_*` and `triton_enable_empty_final_response`.
///
/// # Errors
/// When one of them has a value of the wrong type, or the call belongs to a stateful sequence.
pub fn take_scheduling(parameters: &mut Parameters) -> Result<Scheduling, Fault> {
    if parameters.is_empty() {
        return Ok(Scheduling::default());
    }
    refuse_sequence(parameters)?;
    parameters.remove("triton_enable_empty_final_response");
    let binary_data_output = match parameters.remove("binary_data_output") {
        None => false,
        Some(Parameter::Bool(wanted)) => wanted,
        Some(_) => return Err(wrong_type("binary_data_output", "true or false")),
    };
    Ok(Scheduling {
        priority: take_count(parameters, "priority")?,
        timeout_us: take_count(parameters, "timeout")?,
        binary_data_output,
    })
}

/// A whole number; 0 stands for "not said", as in Triton.
fn take_count(parameters: &mut Parameters, name: &'static str) -> Result<Option<u64>, Fault> {
    let count = match parameters.remove(name) {
        None => return Ok(None),
        Some(Parameter::Uint64(count)) => Some(count),
        Some(Parameter::Int64(count)) => u64::try_from(count).ok(),
        Some(_) => None,
    };
    match count {
        Some(0) => Ok(None),
        Some(count) => Ok(Some(count)),
        None => Err(wrong_type(name, "a whole number of 0 or more")),
    }
}

fn refuse_sequence(parameters: &mut Parameters) -> Result<(), Fault> {
    parameters.remove("sequence_start");
    parameters.remove("sequence_end");
    match parameters.remove("sequence_id") {
        None | Some(Parameter::Int64(0) | Parameter::Uint64(0)) => Ok(()),
        Some(Parameter::String(id)) if id.is_empty() => Ok(()),
        Some(_) => Err(Fault::new(
            FaultKind::Unimplemented,
            "parameter 'sequence_id': stateful sequences are not supported yet; leave it out or 0",
        )
        .with_field("sequence_id")),
    }
}

fn wrong_type(name: &'static str, right: &str) -> Fault {
    Fault::invalid(name, format!("parameter '{name}' must be {right}"))
}

/// A parameter's value as JSON.
#[derive(Debug)]
pub(crate) struct ParameterDocument(pub(crate) Parameter);

impl<'de> Deserialize<'de> for ParameterDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ParameterVisitor).map(Self)
    }
}

struct ParameterVisitor;

impl Visitor<'_> for ParameterVisitor {
    type Value = Parameter;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a parameter that is true, false, a number or a string")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Parameter, E> {
        Ok(Parameter::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Parameter, E> {
        Ok(Parameter::Int64(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Parameter, E> {
        Ok(i64::try_from(value).map_or(Parameter::Uint64(value), Parameter::Int64))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Parameter, E> {
        Ok(Parameter::Double(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Parameter, E> {
        Ok(Parameter::String(value.to_owned()))
    }
}

/// A parameter's value, borrowed, as JSON.
pub(crate) struct ParameterText<'a>(pub(crate) &'a Parameter);

impl Serialize for ParameterText<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Parameter::Bool(value) => serializer.serialize_bool(*value),
            Parameter::Int64(value) => serializer.serialize_i64(*value),
            Parameter::Uint64(value) => serializer.serialize_u64(*value),
            Parameter::Double(value) => serializer.serialize_f64(*value),
            Parameter::String(value) => serializer.serialize_str(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(list: &[(&str, Parameter)]) -> Parameters {
        list.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    #[test]
    fn scheduling_is_taken_out_and_the_rest_stays() {
        let mut all = parameters(&[
            ("priority", Parameter::Uint64(2)),
            ("timeout", Parameter::Int64(1500)),
            ("binary_data_output", Parameter::Bool(true)),
            ("sequence_id", Parameter::Int64(0)),
            ("sequence_start", Parameter::Bool(false)),
            ("sequence_end", Parameter::Bool(false)),
            ("triton_enable_empty_final_response", Parameter::Bool(true)),
            ("temperature", Parameter::Double(0.5)),
        ]);
        let scheduling = take_scheduling(&mut all).unwrap();
        let expected =
            Scheduling { priority: Some(2), timeout_us: Some(1500), binary_data_output: true };
        assert_eq!(scheduling, expected);
        assert_eq!(all, parameters(&[("temperature", Parameter::Double(0.5))]));
    }

    #[test]
    fn wrong_values_name_the_parameter() {
        for (name, value) in [
            ("priority", Parameter::Int64(-1)),
            ("timeout", Parameter::String("5".into())),
            ("binary_data_output", Parameter::Int64(1)),
        ] {
            let fault = take_scheduling(&mut parameters(&[(name, value)])).unwrap_err();
            assert_eq!(
                (fault.kind, fault.field.as_deref()),
                (FaultKind::InvalidRequest, Some(name))
            );
        }
        for id in [Parameter::Int64(7), Parameter::String("s".into())] {
            let fault = take_scheduling(&mut parameters(&[("sequence_id", id)])).unwrap_err();
            assert_eq!(fault.kind, FaultKind::Unimplemented);
        }
    }
}
