//! What is wrong with a JSON request to an embedded model, and readers that say so.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// A request that cannot be answered; [`BadRequest::param`] is OpenAI's `param`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// The body is not the JSON that it should be.
    #[error("the body cannot be read as a JSON object: {0}")]
    Body(String),
    /// A field that must be there is not.
    #[error("'{param}' is missing; it must be {expected}")]
    Missing {
        /// Path of the field, for example `messages[0].content`.
        param: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A field has the wrong type.
    #[error("'{param}' is {got}; it must be {expected}")]
    WrongType {
        /// Path of the field.
        param: String,
        /// What came.
        got: &'static str,
        /// What would be right.
        expected: &'static str,
    },
    /// A field has the right type and a value that cannot be used.
    #[error("'{param}' is {got}; it must be {expected}")]
    OutOfRange {
        /// Path of the field.
        param: String,
        /// What came, shortened.
        got: String,
        /// What would be right.
        expected: String,
    },
}

impl BadRequest {
    /// The path of the field that is wrong; `None` when it is the body as a whole.
    pub fn param(&self) -> Option<&str> {
        match self {
            BadRequest::Body(_) => None,
            BadRequest::Missing { param, .. }
            | BadRequest::WrongType { param, .. }
            | BadRequest::OutOfRange { param, .. } => Some(param),
        }
    }

    pub(super) fn wrong_type(param: &str, got: &Value, expected: &'static str) -> Self {
        BadRequest::WrongType { param: param.to_owned(), got: kind(got), expected }
    }

    pub(super) fn out_of_range(
        param: &str,
        got: &dyn ToString,
        expected: impl Into<String>,
    ) -> Self {
        // A caller's value is repeated to them, but not at any length.
        let got = got.to_string().chars().take(64).collect();
        BadRequest::OutOfRange { param: param.to_owned(), got, expected: expected.into() }
    }
}

/// A JSON object as one of the request types; keys that the type lacks are skipped.
pub(super) fn parse_object<T: DeserializeOwned>(body: &[u8]) -> Result<T, BadRequest> {
    // Left to itself the parser would also take a list of the fields' values.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(BadRequest::Body("it does not begin with '{'".to_owned()));
    }
    parse(body)
}

/// Any JSON.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, BadRequest> {
    serde_json::from_slice(body).map_err(|error| BadRequest::Body(error.to_string()))
}

/// A field that must be there and not null.
pub(super) fn required<'a>(
    param: &str,
    value: Option<&'a Value>,
    expected: &'static str,
) -> Result<&'a Value, BadRequest> {
    match value {
        None => Err(BadRequest::Missing { param: param.to_owned(), expected }),
        Some(value) => Ok(value),
    }
}

/// A string that must be there.
pub(super) fn required_string(param: &str, value: Option<&Value>) -> Result<String, BadRequest> {
    let value = required(param, value, "a string")?;
    let text = value.as_str().ok_or_else(|| BadRequest::wrong_type(param, value, "a string"))?;
    Ok(text.to_owned())
}

/// A flag that is false when it is absent or null.
pub(super) fn flag(param: &str, value: Option<&Value>) -> Result<bool, BadRequest> {
    match value {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(set)) => Ok(*set),
        Some(other) => Err(BadRequest::wrong_type(param, other, "true or false")),
    }
}

/// An integer of 1 or more, when it is there.
pub(super) fn count(param: &str, value: Option<&Value>) -> Result<Option<usize>, BadRequest> {
    let value = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value,
    };
    let Value::Number(number) = value else {
        return Err(BadRequest::wrong_type(param, value, "an integer of 1 or more"));
    };
    number
        .as_u64()
        .filter(|count| *count > 0)
        .map(|count| Some(usize::try_from(count).unwrap_or(usize::MAX)))
        .ok_or_else(|| BadRequest::out_of_range(param, &number, "an integer of 1 or more"))
}

/// What a JSON value is, in words.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
