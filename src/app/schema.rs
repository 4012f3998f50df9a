//! `batchwise schema`: the JSON Schema of `models.toml`, from the same table of keys that reads it.

use serde_json::{Map, Value, json};

use crate::config::keys::{Key, Kind, ROOT, Table};

/// What a duration looks like.
const DURATION_PATTERN: &str = r"^\s*([0-9]+(\.[0-9]{1,9})?\s*(h|min|m|s|ms|us|µs|ns)\s*)+$";
/// What a size looks like.
const SIZE_PATTERN: &str = r"^\s*[0-9]+(\.[0-9]{1,9})?\s*([KkMmGgTt][Ii]?)?[Bb]\s*$";

/// The schema of the whole file.
pub(super) fn schema() -> Value {
    let mut schema = table_schema(&ROOT);
    if let Value::Object(entries) = &mut schema {
        entries.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
        entries.insert("title".into(), json!("models.toml"));
        entries.insert("required".into(), json!(["model"]));
    }
    schema
}

fn table_schema(table: &'static Table) -> Value {
    let mut properties = Map::new();
    for key in table.keys {
        properties.insert(key.name.into(), key_schema(key));
    }
    for inner in table.tables {
        let schema = table_schema(inner);
        let schema = match inner.list {
            true => json!({ "type": "array", "minItems": 1, "items": schema }),
            false => schema,
        };
        properties.insert(inner.name.into(), schema);
    }
    let required: Vec<_> =
        table.keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    json!({
        "description": table.about,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn key_schema(key: &Key) -> Value {
    let mut schema = kind_schema(key.kind);
    if let Value::Object(entries) = &mut schema {
        entries.insert("description".into(), json!(key.about));
        // The defaults are written as TOML values that are JSON values, too.
        if let Some(default) = key.default.and_then(|text| serde_json::from_str(text).ok()) {
            entries.insert("default".into(), default);
        }
    }
    schema
}

fn kind_schema(kind: Kind) -> Value {
    let duration = json!({ "type": "string", "pattern": DURATION_PATTERN });
    let integer = |minimum: u64, maximum: u64| json!({ "type": "integer", "minimum": minimum, "maximum": maximum });
    match kind {
        Kind::Text => json!({ "type": "string", "minLength": 1 }),
        Kind::TextList => {
            json!({ "type": "array", "minItems": 1, "items": { "type": "string", "minLength": 1 } })
        }
        Kind::Choice(words) => json!({ "enum": words }),
        Kind::Address => {
            json!({ "type": "string", "pattern": r"^(\[[0-9A-Fa-f:.%]+\]|[0-9.]+):[0-9]{1,5}$" })
        }
        Kind::Duration(..) => duration,
        Kind::DurationOrAuto(..) => json!({ "anyOf": [{ "const": "auto" }, duration] }),
        Kind::Size(minimum, maximum) => json!({
            "anyOf": [{ "type": "string", "pattern": SIZE_PATTERN }, integer(minimum, maximum)]
        }),
        Kind::Integer(minimum, maximum) => integer(minimum, maximum),
        Kind::IntegerOrAuto(minimum, maximum) => {
            json!({ "anyOf": [{ "const": "auto" }, integer(minimum, maximum)] })
        }
        Kind::Ratio => json!({ "type": "number", "exclusiveMinimum": 0, "maximum": 1 }),
        Kind::Boolean => json!({ "type": "boolean" }),
    }
}
