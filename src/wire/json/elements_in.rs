//! The elements of a tensor from JSON text, straight into the tensor's bytes.
//!
//! The text is known to be valid JSON (it comes out of a `serde_json` raw value), so the scan here
//! has only to find the tokens, check the nesting and convert.

use smallvec::{SmallVec, smallvec};

use super::token::{boolean, number, string, string_or_base64};
use crate::tensor::DataType;

/// One list per axis, and one around them for good measure.
const MAX_DEPTH: usize = 65;

/// JSON data that is not what the datatype and the shape ask for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ElementError {
    /// An element has a value that the datatype does not know.
    #[error("data[{index}] is {found}, but {datatype} needs {right}")]
    Value { index: u64, found: String, datatype: DataType, right: &'static str },
    /// Too few or too many elements.
    #[error("data holds {found} elements, but the shape asks for {expected}")]
    Count { found: String, expected: u64 },
    /// Lists whose lengths differ from the shape, or from one another.
    #[error("data is nested unlike the shape: {0}")]
    Nesting(String),
    /// A datatype that JSON cannot carry.
    #[error("{0} cannot be sent as JSON; send it as binary data (parameter 'binary_data_size')")]
    NeedsBinary(DataType),
}

/// Whether BYTES elements may also be `{"b64": "..."}` objects, as in TensorFlow Serving's REST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strings {
    Plain,
    OrBase64,
}

/// Appends the elements in `text`, valid JSON, to `out` as little-endian bytes.
///
/// `text` may be nested as `axes` says, or flat; a bare value is one element.
///
/// # Errors
/// When an element, the number of elements or the nesting is not what was asked for.
pub(crate) fn read_elements(
    out: &mut Vec<u8>,
    text: &str,
    datatype: DataType,
    axes: &[u64],
    strings: Strings,
) -> Result<(), ElementError> {
    if let Some(size) = datatype.element_size() {
        // What the shape claims is the caller's word; what the text can hold is not.
        let elements = elements(axes).min(text.len() as u64 / 2 + 1);
        out.reserve(usize::try_from(elements).unwrap_or(0) * size);
    }
    let mut scan = Scan { text, datatype, axes, out };
    match datatype {
        DataType::Bool => scan.run(boolean),
        DataType::Uint8 => scan.run(number::<u8>),
        DataType::Uint16 => scan.run(number::<u16>),
        DataType::Uint32 => scan.run(number::<u32>),
        DataType::Uint64 => scan.run(number::<u64>),
        DataType::Int8 => scan.run(number::<i8>),
        DataType::Int16 => scan.run(number::<i16>),
        DataType::Int32 => scan.run(number::<i32>),
        DataType::Int64 => scan.run(number::<i64>),
        DataType::Fp32 => scan.run(number::<f32>),
        DataType::Fp64 => scan.run(number::<f64>),
        DataType::Bytes if strings == Strings::Plain => scan.run(string),
        DataType::Bytes => scan.run(string_or_base64),
        DataType::Fp16 | DataType::Bf16 => Err(ElementError::NeedsBinary(datatype)),
    }
}

/// The extents of the lists in `text`, valid JSON, along the first element of each.
pub(crate) fn measure(text: &str) -> SmallVec<[u64; 4]> {
    let bytes = text.as_bytes();
    let mut extents: SmallVec<[u64; 4]> = SmallVec::new();
    // The first list of each depth is counted until it closes; those after it are not.
    let mut counted: SmallVec<[bool; 4]> = SmallVec::new();
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b',') {
            at += 1;
            continue;
        }
        if byte == b']' {
            depth = depth.saturating_sub(1);
            if let Some(counted) = counted.get_mut(depth) {
                *counted = false;
            }
            at += 1;
            continue;
        }
        let outer = depth.wrapping_sub(1);
        if let (Some(extent), Some(true)) = (extents.get_mut(outer), counted.get(outer)) {
            *extent += 1;
        }
        if byte != b'[' {
            at = token_end(bytes, at);
            continue;
        }
        if depth == extents.len() && depth < MAX_DEPTH {
            extents.push(0);
            counted.push(true);
        }
        depth += 1;
        at += 1;
    }
    extents
}

/// The elements of a shape that is nobody's yet: more than can be counted are the most that can be.
fn elements(axes: &[u64]) -> u64 {
    if axes.contains(&0) { 0 } else { axes.iter().copied().fold(1, u64::saturating_mul) }
}

struct Scan<'a> {
    text: &'a str,
    datatype: DataType,
    axes: &'a [u64],
    out: &'a mut Vec<u8>,
}

impl Scan<'_> {
    fn run(
        &mut self,
        convert: impl Fn(&str, &mut Vec<u8>) -> Result<(), &'static str>,
    ) -> Result<(), ElementError> {
        let bytes = self.text.as_bytes();
        let expected = elements(self.axes);
        let mut index = 0_u64;
        // How many members each open list has so far; the first entry counts what is outside.
        let mut members: SmallVec<[u64; 8]> = smallvec![0];
        let mut leaf_depth = None;
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' | b',' => at += 1,
                b'[' => {
                    members.push(0);
                    if members.len() > MAX_DEPTH {
                        let message = format!("more than {MAX_DEPTH} lists deep");
                        return Err(ElementError::Nesting(message));
                    }
                    at += 1;
                }
                b']' => {
                    self.close(&mut members, leaf_depth)?;
                    at += 1;
                }
                _ => {
                    let end = token_end(bytes, at);
                    let token = self.text.get(at..end).unwrap_or_default();
                    if index == expected {
                        let found = format!("more than {index}");
                        return Err(ElementError::Count { found, expected });
                    }
                    let depth = members.len() - 1;
                    if *leaf_depth.get_or_insert(depth) != depth {
                        let message = format!("data[{index}] is deeper or less deep than data[0]");
                        return Err(ElementError::Nesting(message));
                    }
                    convert(token, self.out).map_err(|right| self.wrong(index, token, right))?;
                    if let Some(count) = members.last_mut() {
                        *count += 1;
                    }
                    index += 1;
                    at = end;
                }
            }
        }
        if index == expected {
            return Ok(());
        }
        Err(ElementError::Count { found: index.to_string(), expected })
    }

    /// Lists that are nested as deep as the shape must also be as long as it says: `[[1, 2, 3],
    /// [4]]` has the elements of shape `[2, 2]`, but surely not what its sender meant.
    fn close(
        &self,
        members: &mut SmallVec<[u64; 8]>,
        leaf_depth: Option<usize>,
    ) -> Result<(), ElementError> {
        let Some(count) = members.pop() else { return Ok(()) };
        let axis = members.len().saturating_sub(1);
        if self.axes.len() > 1
            && leaf_depth == Some(self.axes.len())
            && let Some(&extent) = self.axes.get(axis)
            && extent != count
        {
            return Err(ElementError::Nesting(format!(
                "a list along axis {axis} has {count} members, but the shape asks for {extent}"
            )));
        }
        if let Some(outer) = members.last_mut() {
            *outer += 1;
        }
        Ok(())
    }

    fn wrong(&self, index: u64, token: &str, right: &'static str) -> ElementError {
        let mut found: String = token.chars().take(40).collect();
        if found.len() < token.len() {
            found.push_str("...");
        }
        ElementError::Value { index, found, datatype: self.datatype, right }
    }
}

/// Where the value that begins at `start` ends: strings and objects are whole, other tokens run up
/// to the next delimiter.
fn token_end(bytes: &[u8], start: usize) -> usize {
    let rest = bytes.get(start..).unwrap_or_default();
    match rest.first() {
        Some(b'"') => start + string_length(rest),
        Some(b'{') => start + object_length(rest),
        _ => {
            let delimiter = |byte: &u8| matches!(byte, b',' | b']' | b' ' | b'\t' | b'\n' | b'\r');
            // At least one byte, so that the scan always moves on.
            start + rest.iter().position(delimiter).unwrap_or(rest.len()).max(1)
        }
    }
}

fn string_length(text: &[u8]) -> usize {
    let mut escaped = false;
    let close = text.iter().skip(1).position(|&byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    });
    close.map_or(text.len(), |inside| inside + 2)
}

fn object_length(text: &[u8]) -> usize {
    let mut open = 0_usize;
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => {
                at += string_length(text.get(at..).unwrap_or_default());
                continue;
            }
            b'{' => open += 1,
            b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        at += 1;
        if open == 0 {
            return at;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, datatype: DataType, axes: &[u64]) -> Result<Vec<u8>, ElementError> {
        let mut out = Vec::new();
        read_elements(&mut out, text, datatype, axes, Strings::OrBase64).map(|()| out)
    }

    fn message(text: &str, datatype: DataType, axes: &[u64]) -> String {
        read(text, datatype, axes).unwrap_err().to_string()
    }

    #[test]
    fn nested_and_flat_give_the_same_bytes() {
        let flat = read("[1,2,3,4,5,6]", DataType::Int16, &[2, 3]).unwrap();
        assert_eq!(flat, [1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0]);
        let nested = read(" [ [1, 2 ,3],\n[4,5,6] ] ", DataType::Int16, &[2, 3]).unwrap();
        assert_eq!(nested, flat);
        assert_eq!(read("[[1,2,3],[4,5,6]]", DataType::Int16, &[2, 3, 1]).unwrap(), flat);
        assert_eq!(read("[]", DataType::Fp32, &[0, 4]).unwrap(), [0_u8; 0]);
    }

    #[test]
    fn each_datatype_has_its_bytes() {
        assert_eq!(read("[-1]", DataType::Int8, &[1]).unwrap(), [255]);
        assert_eq!(read("[true,false,1]", DataType::Bool, &[3]).unwrap(), [1, 0, 1]);
        assert_eq!(read("[-2.5e-1]", DataType::Fp32, &[1]).unwrap(), (-0.25_f32).to_le_bytes());
        assert_eq!(read("[3]", DataType::Fp64, &[1]).unwrap(), 3_f64.to_le_bytes());
        let most = u64::MAX.to_string();
        assert_eq!(read(&format!("[{most}]"), DataType::Uint64, &[1]).unwrap(), [255; 8]);
        let strings = r#"["a,]","\"\\é\u00e9",{"b64":"//8="}]"#;
        assert_eq!(
            read(strings, DataType::Bytes, &[3]).unwrap(),
            [b"\x03\0\0\0a,]".as_slice(), b"\x06\0\0\0\"\\\xc3\xa9\xc3\xa9", b"\x02\0\0\0\xff\xff"]
                .concat()
        );
    }

    #[test]
    fn a_wrong_element_is_named_with_what_would_be_right() {
        let text = message("[1, 3.5]", DataType::Int32, &[2]);
        assert!(text.contains("data[1] is 3.5") && text.contains("whole number"), "{text}");
        assert!(message("[300]", DataType::Uint8, &[1]).contains("from 0 to 255"));
        assert!(message("[-1]", DataType::Uint32, &[1]).contains("data[0] is -1"));
        assert!(message("[null]", DataType::Fp32, &[1]).contains("null"));
        assert!(message("[\"1\"]", DataType::Fp32, &[1]).contains("\"1\""));
        assert!(message("[1e39]", DataType::Fp32, &[1]).contains("3.4028235e38"));
        assert!(message("[{\"a\":[1,2]}]", DataType::Fp32, &[1]).contains("{\"a\":[1,2]}"));
        assert!(message("[5]", DataType::Bytes, &[1]).contains("string"));
        assert!(message("[\"\\ud800\"]", DataType::Bytes, &[1]).contains("Unicode"));
        assert!(message("[{\"b64\":\"?\"}]", DataType::Bytes, &[1]).contains("base64"));
        assert!(message("[1]", DataType::Fp16, &[1]).contains("binary"));
    }

    #[test]
    fn the_number_of_elements_and_the_nesting_must_fit() {
        assert!(message("[1,2]", DataType::Fp32, &[3]).contains("holds 2"));
        assert!(message("[1,2,3,4]", DataType::Fp32, &[3]).contains("more than 3"));
        assert!(message("[[1,2,3],[4]]", DataType::Fp32, &[2, 2]).contains("axis 1 has 3"));
        assert!(message("[1,[2]]", DataType::Fp32, &[2]).contains("deep"));
        let deep = "[".repeat(100) + &"]".repeat(100);
        assert!(message(&deep, DataType::Fp32, &[1]).contains("lists deep"));
    }

    #[test]
    fn a_shape_that_claims_much_reserves_little() {
        let mut out = Vec::new();
        let claimed = [1 << 40];
        read_elements(&mut out, "[1]", DataType::Fp64, &claimed, Strings::Plain).unwrap_err();
        assert!(out.capacity() < 100);
    }

    #[test]
    fn a_shape_beyond_counting_has_too_few_elements() {
        let text = message("[1]", DataType::Int8, &[1 << 32, 1 << 32]);
        assert!(text.contains("holds 1 elements"), "{text}");
        assert_eq!(read("[]", DataType::Int8, &[1 << 32, 1 << 32, 0]).unwrap(), [0_u8; 0]);
    }

    #[test]
    fn measures_along_the_first_elements() {
        assert_eq!(measure("[[1,2],[3]]").as_slice(), [2, 2]);
        assert_eq!(measure(" [ [[\"]\", 2, 3]], [[4]] ] ").as_slice(), [2, 1, 3]);
        assert_eq!(measure("5").as_slice(), [0_u64; 0]);
        assert_eq!(measure("[]").as_slice(), [0]);
    }
}
