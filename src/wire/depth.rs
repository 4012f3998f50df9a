//! How deep JSON is nested, for what is passed on without being read.

/// As deep as a JSON reader commonly goes: what is deeper would break the next one.
pub(crate) const MAX_DEPTH: usize = 128;

/// Whether lists and objects of `text`, valid JSON, are nested deeper than [`MAX_DEPTH`].
pub(crate) fn is_too_deep(text: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for &byte in text {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = byte == b'\\' && !escaped;
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_lists_and_objects_and_not_what_strings_hold() {
        let nested = |depth: usize| format!("{}1{}", "[{\"a\":".repeat(depth), "}]".repeat(depth));
        assert!(!is_too_deep(nested(MAX_DEPTH / 2).as_bytes()));
        assert!(is_too_deep(nested(MAX_DEPTH / 2 + 1).as_bytes()));
        let wide = format!("[{}1]", "[[]],".repeat(1000));
        assert!(!is_too_deep(wide.as_bytes()));
        let escapes = format!(r#""\\",{}"#, "[".repeat(MAX_DEPTH + 1));
        assert!(is_too_deep(escapes.as_bytes()));
        let escaped = format!(r#""\"{}""#, "[".repeat(MAX_DEPTH + 1));
        assert!(!is_too_deep(escaped.as_bytes()));
    }
}
