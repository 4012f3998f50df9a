//! Tensor elements as JSON, flat or nested as KServe v2 allows.

use bytes::{Bytes, BytesMut};
use serde_json::Value;

use super::tensor::{Tensor, join_bytes, split_bytes};

/// Raw bytes of JSON elements.
///
/// # Errors
/// An element that is none of the datatype, or a datatype that JSON cannot carry.
pub(super) fn from_json(datatype: &str, data: &Value) -> Result<Bytes, String> {
    let mut elements = Vec::new();
    flatten(data, &mut elements);
    if datatype == "BYTES" {
        let texts: Option<Vec<&str>> = elements.iter().map(|element| element.as_str()).collect();
        return texts.map(join_bytes).ok_or_else(|| "BYTES data has to be strings".to_owned());
    }
    let mut raw = BytesMut::new();
    for element in elements {
        push(&mut raw, datatype, element)
            .ok_or_else(|| format!("{element} is no {datatype} that JSON can carry"))?;
    }
    Ok(raw.freeze())
}

fn flatten<'a>(data: &'a Value, into: &mut Vec<&'a Value>) {
    match data {
        Value::Array(items) => items.iter().for_each(|item| flatten(item, into)),
        element => into.push(element),
    }
}

fn push(raw: &mut BytesMut, datatype: &str, element: &Value) -> Option<()> {
    fn integer<T: TryFrom<i64>>(element: &Value) -> Option<T> {
        element.as_i64()?.try_into().ok()
    }
    match datatype {
        "BOOL" => raw.extend([u8::from(element.as_bool()?)]),
        "INT8" => raw.extend(integer::<i8>(element)?.to_le_bytes()),
        "INT16" => raw.extend(integer::<i16>(element)?.to_le_bytes()),
        "INT32" => raw.extend(integer::<i32>(element)?.to_le_bytes()),
        "INT64" => raw.extend(element.as_i64()?.to_le_bytes()),
        "UINT8" => raw.extend(integer::<u8>(element)?.to_le_bytes()),
        "UINT16" => raw.extend(integer::<u16>(element)?.to_le_bytes()),
        "UINT32" => raw.extend(integer::<u32>(element)?.to_le_bytes()),
        "UINT64" => raw.extend(element.as_u64()?.to_le_bytes()),
        "FP32" => raw.extend((element.as_f64()? as f32).to_le_bytes()),
        "FP64" => raw.extend(element.as_f64()?.to_le_bytes()),
        _ => return None,
    }
    Some(())
}

/// The elements as one flat JSON list.
///
/// # Errors
/// FP16 and BF16, and BYTES that are not UTF-8: JSON cannot carry them.
pub(super) fn to_json(tensor: &Tensor) -> Result<Value, String> {
    fn list<const N: usize, T: Into<Value>>(data: &[u8], item: impl Fn([u8; N]) -> T) -> Value {
        data.as_chunks::<N>().0.iter().map(|bytes| item(*bytes).into()).collect()
    }
    let data = &tensor.data;
    Ok(match tensor.datatype.as_str() {
        "BOOL" => list(data, |[x]: [u8; 1]| x != 0),
        "INT8" => list(data, i8::from_le_bytes),
        "INT16" => list(data, i16::from_le_bytes),
        "INT32" => list(data, i32::from_le_bytes),
        "INT64" => list(data, i64::from_le_bytes),
        "UINT8" => list(data, u8::from_le_bytes),
        "UINT16" => list(data, u16::from_le_bytes),
        "UINT32" => list(data, u32::from_le_bytes),
        "UINT64" => list(data, u64::from_le_bytes),
        "FP32" => list(data, f32::from_le_bytes),
        "FP64" => list(data, f64::from_le_bytes),
        "BYTES" => {
            let parts = split_bytes(data).unwrap_or_default();
            let text = |part: Bytes| Some(Value::from(std::str::from_utf8(&part).ok()?));
            let texts: Option<Vec<Value>> = parts.into_iter().map(text).collect();
            texts.ok_or("JSON carries only UTF-8: ask for binary data")?.into()
        }
        other => return Err(format!("JSON cannot carry {other}: ask for binary data")),
    })
}
