//! JSON objects of which one field matters and the others pass through as they are.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::depth::{MAX_DEPTH, is_too_deep};

/// More items than a caller can mean to send in one call; without a bound, a body of empty items
/// would take up many times its size.
pub(crate) const MAX_ITEMS: usize = 65_536;

/// The fields of a JSON object, in its order, with the text of their values.
#[derive(Debug)]
pub(crate) struct Fields<'a>(Vec<(Cow<'a, str>, &'a str)>);

/// More fields than any request has.
const MAX_FIELDS: usize = 4096;

impl<'a> Fields<'a> {
    /// # Errors
    /// When `text` is not a JSON object, is nested too deep, or names a field twice (which one counts depends on the
    /// reader, so that two servers would understand two things).
    pub(crate) fn parse(text: &'a [u8]) -> Result<Self, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        let fields = deserializer.deserialize_map(FieldsVisitor)?;
        deserializer.end()?;
        if is_too_deep(text) {
            return Err(serde::de::Error::custom(format!("nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(fields)
    }

    /// The text of a field's value; `None` when it is absent or `null`.
    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        self.raw(name).filter(|value| *value != "null")
    }

    /// The text of a field's value, `null` too.
    pub(crate) fn raw(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| *value)
    }

    /// The names of the fields, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| key.as_ref())
    }

    /// All fields but the named, as `"key":value` with commas between.
    pub(crate) fn without(&self, names: &[&str]) -> Bytes {
        let kept = || self.0.iter().filter(|(key, _)| !names.contains(&key.as_ref()));
        let length: usize = kept().map(|(key, value)| key.len() + value.len() + 4).sum();
        let mut text = Vec::with_capacity(length);
        for (key, value) in kept() {
            if !text.is_empty() {
                text.push(b',');
            }
            // A string into memory: nothing that can fail.
            drop(serde_json::to_writer(&mut text, key));
            text.push(b':');
            text.extend_from_slice(value.as_bytes());
        }
        text.into()
    }
}

/// Reads a struct from the text of a JSON object.
///
/// Left to itself the parser would also take a list of the fields' values, which nobody else would.
///
/// # Errors
/// When the text is not such an object.
pub(crate) fn from_object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, serde_json::Error> {
    if text.trim_ascii_start().first() == Some(&b'[') {
        return Err(serde::de::Error::custom("it is a list, not an object"));
    }
    serde_json::from_slice(text)
}

/// A field's value, `null` too, which an `Option` would take for an absent one.
pub(crate) fn also_null<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Vec::with_capacity(8);
        let mut seen = std::collections::HashSet::new();
        while let Some(Key(key)) = map.next_key()? {
            if fields.len() >= MAX_FIELDS {
                return Err(serde::de::Error::custom(format!("more than {MAX_FIELDS} fields")));
            }
            if !seen.insert(key.clone()) {
                return Err(serde::de::Error::custom(format!("field `{key}` is there twice")));
            }
            fields.push((key, map.next_value::<&RawValue>()?.get()));
        }
        Ok(Fields(fields))
    }
}

/// A key, borrowed where it holds no escapes.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// Why a list of items cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ItemsError {
    #[error("must be a list")]
    NotAList,
    #[error("is empty; it needs at least one item")]
    Empty,
    #[error("has more than {MAX_ITEMS} items; send them in several calls")]
    TooMany,
}

/// The texts of the members of a JSON list, valid JSON.
pub(crate) fn list_items(text: &str) -> Result<Vec<&str>, ItemsError> {
    let items = bounded_items(text, MAX_ITEMS)?;
    if items.is_empty() { Err(ItemsError::Empty) } else { Ok(items) }
}

/// The texts of the members of a JSON list, valid JSON; an empty list is fine.
pub(crate) fn bounded_items(text: &str, most: usize) -> Result<Vec<&str>, ItemsError> {
    if !text.starts_with('[') {
        return Err(ItemsError::NotAList);
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    // The text is valid: nothing but the bound can fail.
    ListSeed { most }.deserialize(&mut deserializer).map_err(|_| ItemsError::TooMany)
}

struct ListSeed {
    most: usize,
}

impl<'de> DeserializeSeed<'de> for ListSeed {
    type Value = Vec<&'de str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ListSeed {
    type Value = Vec<&'de str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element::<&RawValue>()? {
            if items.len() >= self.most {
                return Err(serde::de::Error::custom("too many items"));
            }
            items.push(item.get());
        }
        Ok(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_fields_keep_their_text_and_order() {
        let text = br#" {"z": 1.00 ,"in":[1, "a"], "\u0061\"": {"x" : null}, "no":null} "#;
        let fields = Fields::parse(text).unwrap();
        assert_eq!(fields.get("in"), Some(r#"[1, "a"]"#));
        assert_eq!(fields.get("no"), None);
        assert_eq!(fields.without(&["in", "no"]), r#""z":1.00,"a\"":{"x" : null}"#);
        assert_eq!(list_items(r#"[1, "a,]" ,[2]]"#).unwrap(), ["1", "\"a,]\"", "[2]"]);
    }

    #[test]
    fn refuses_what_is_ambiguous_or_boundless() {
        assert!(Fields::parse(br#"{"a":1,"a":2}"#).unwrap_err().to_string().contains("twice"));
        assert!(Fields::parse(b"[1]").is_err());
        assert!(Fields::parse(b"{} x").is_err());
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(1000), "]".repeat(1000));
        assert!(Fields::parse(deep.as_bytes()).unwrap_err().to_string().contains("deeper"));
        assert_eq!(list_items("[]"), Err(ItemsError::Empty));
        assert_eq!(list_items("{}"), Err(ItemsError::NotAList));
        let many = format!("[{}1]", "1,".repeat(MAX_ITEMS));
        assert_eq!(list_items(&many), Err(ItemsError::TooMany));
    }
}
