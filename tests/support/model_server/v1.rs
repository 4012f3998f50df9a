//! KServe v1 (TensorFlow Serving REST): `instances` to `predictions`.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Map, Number, Value, json};

use super::engine::{Engine, Poison};
use super::faults::{headers_as_text, json_response};
use super::settings::FaultStatus;
use super::statistics::Seen;

/// `POST /v1/models/{model}:predict`
pub(super) async fn predict(
    engine: &Arc<Engine>,
    model: &str,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Response<Body>, FaultStatus> {
    engine.find(model, "")?;
    let request: Value = serde_json::from_slice(body)
        .map_err(|error| FaultStatus::invalid(format!("wrong body: {error}")))?;
    let Some(instances) = request.get("instances").and_then(Value::as_array) else {
        return Err(FaultStatus::invalid("the body needs a list named 'instances'"));
    };
    let poisoned =
        engine.poison().is_some_and(|poison| instances.iter().any(|it| is_poison(it, &poison)));
    let seen = engine.records().then(|| Seen {
        model: model.to_owned(),
        path: format!("/v1/models/{model}:predict"),
        rows: instances.len(),
        first: instances.first().map(Value::to_string).unwrap_or_default(),
        headers: headers_as_text(headers),
        body: body.clone(),
        ..Seen::default()
    });
    engine.tell(model, || instances.iter().map(Value::to_string).collect());
    let executed = engine.execute(instances.len(), poisoned, seen).await?;
    let mut predictions: Vec<Value> = instances.iter().map(linear).collect();
    if executed.wrong_rows {
        predictions.pop();
    }
    Ok(json_response(StatusCode::OK, json!({ "predictions": predictions }).to_string()))
}

/// Numbers give 2x + 1 (whole ones stay whole), strings come back reversed, at any depth.
fn linear(instance: &Value) -> Value {
    match instance {
        Value::Number(number) => match number.as_i64() {
            Some(whole) => whole.wrapping_mul(2).wrapping_add(1).into(),
            None => number.as_f64().map_or(Value::Null, |x| Value::from(2.0 * x + 1.0)),
        },
        Value::String(text) => text.chars().rev().collect::<String>().into(),
        Value::Array(items) => items.iter().map(linear).collect(),
        Value::Object(fields) => {
            let entry = |(name, value): (&String, &Value)| (name.clone(), linear(value));
            Value::Object(fields.iter().map(entry).collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

fn is_poison(instance: &Value, poison: &Poison) -> bool {
    match instance {
        Value::Number(number) => Number::as_f64(number) == Some(poison.number),
        Value::String(text) => text.contains(&poison.text),
        Value::Array(items) => items.iter().any(|item| is_poison(item, poison)),
        Value::Object(fields) => fields.values().any(|value| is_poison(value, poison)),
        _ => false,
    }
}
