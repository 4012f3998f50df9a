//! One JSON token to the bytes of one element.
//!
//! The functions here append the bytes, or say what would have been right.

use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// An element that is a JSON number.
pub(super) trait Number: FromStr {
    /// What a number has to be.
    const RIGHT: &'static str;
    fn is_finite(&self) -> bool;
    fn append(self, out: &mut Vec<u8>);
}

macro_rules! numbers {
    ($($type:ty => $right:literal, $finite:expr;)*) => {$(
        impl Number for $type {
            const RIGHT: &'static str = $right;
            fn is_finite(&self) -> bool {
                ($finite)(*self)
            }
            fn append(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

numbers! {
    u8 => "a whole number from 0 to 255", |_| true;
    u16 => "a whole number from 0 to 65535", |_| true;
    u32 => "a whole number from 0 to 4294967295", |_| true;
    u64 => "a whole number from 0 to 18446744073709551615", |_| true;
    i8 => "a whole number from -128 to 127", |_| true;
    i16 => "a whole number from -32768 to 32767", |_| true;
    i32 => "a whole number from -2147483648 to 2147483647", |_| true;
    i64 => "a whole number from -9223372036854775808 to 9223372036854775807", |_| true;
    f32 => "a number of at most 3.4028235e38 either way", f32::is_finite;
    f64 => "a number of at most 1.7976931348623157e308 either way", f64::is_finite;
}

pub(super) fn number<T: Number>(token: &str, out: &mut Vec<u8>) -> Result<(), &'static str> {
    // A valid JSON token that begins so is a number, and none of Rust's own spellings of one.
    if !token.starts_with(|first: char| first.is_ascii_digit() || first == '-') {
        return Err(T::RIGHT);
    }
    match token.parse::<T>() {
        Ok(value) if value.is_finite() => {
            value.append(out);
            Ok(())
        }
        _ => Err(T::RIGHT),
    }
}

pub(super) fn boolean(token: &str, out: &mut Vec<u8>) -> Result<(), &'static str> {
    match token {
        "true" | "1" => out.push(1),
        "false" | "0" => out.push(0),
        _ => return Err("true or false"),
    }
    Ok(())
}

pub(super) fn string(token: &str, out: &mut Vec<u8>) -> Result<(), &'static str> {
    let inside = token
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .ok_or("a string (or send it as binary data)")?;
    if inside.contains('\\') {
        let text =
            serde_json::from_str::<String>(token).map_err(|_| "a string of valid Unicode")?;
        return element(text.as_bytes(), out);
    }
    element(inside.as_bytes(), out)
}

pub(super) fn string_or_base64(token: &str, out: &mut Vec<u8>) -> Result<(), &'static str> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Encoded {
        b64: String,
    }
    const RIGHT: &str = "a string, or {\"b64\": \"...\"} with standard base64";
    if !token.starts_with('{') {
        return string(token, out);
    }
    let encoded: Encoded = serde_json::from_str(token).map_err(|_| RIGHT)?;
    let bytes = STANDARD.decode(encoded.b64).map_err(|_| RIGHT)?;
    element(&bytes, out)
}

fn element(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    let length = u32::try_from(bytes.len()).map_err(|_| "a string shorter than 4 GiB")?;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}
