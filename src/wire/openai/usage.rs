//! What a generation cost, read from a reply that passes by.

use serde::Deserialize;

/// Tokens of one generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenUsage {
    /// Tokens read.
    pub prompt: u64,
    /// Tokens written.
    pub completion: u64,
}

impl TokenUsage {
    /// What a `usage` object says; `None` when it is none.
    pub(super) fn parse(json: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Document {
            prompt_tokens: Option<u64>,
            completion_tokens: Option<u64>,
        }
        let document: Option<Document> = serde_json::from_slice(json).ok()?;
        let Document { prompt_tokens, completion_tokens } = document?;
        if prompt_tokens.is_none() && completion_tokens.is_none() {
            return None;
        }
        Some(Self {
            prompt: prompt_tokens.unwrap_or_default(),
            completion: completion_tokens.unwrap_or_default(),
        })
    }
}

/// The longest `usage` that is looked at.
const LONGEST_USAGE: usize = 4096;
/// `"usage"`, without its quotes.
const KEY: &[u8] = b"usage";

/// Finds `usage` at the top level of a JSON object that passes by in pieces. Keeps nothing but that
/// value, however long the object is.
#[derive(Clone, Debug, Default)]
pub struct UsageScan {
    depth: u32,
    in_string: bool,
    escaped: bool,
    /// The bytes of `usage` that the string at the top level has matched so far; `None` once it is
    /// another.
    matched: Option<usize>,
    /// Whether the last string at the top level was `usage`.
    is_key: bool,
    value: Option<Vec<u8>>,
    found: Option<TokenUsage>,
}

impl UsageScan {
    /// Looks at the next piece.
    pub fn feed(&mut self, piece: &[u8]) {
        for &byte in piece {
            if let Some(value) = &mut self.value {
                let ends = !self.in_string && self.depth == 1 && matches!(byte, b',' | b'}');
                if ends || value.len() >= LONGEST_USAGE {
                    let value = self.value.take().unwrap_or_default();
                    self.found = TokenUsage::parse(&value).or(self.found);
                } else {
                    value.push(byte);
                }
            }
            if self.in_string { self.in_string(byte) } else { self.outside(byte) }
        }
    }

    /// What it was, once all pieces have passed; of several the last.
    #[must_use]
    pub fn found(&self) -> Option<TokenUsage> {
        self.found
    }

    fn in_string(&mut self, byte: u8) {
        match byte {
            _ if self.escaped => {
                self.escaped = false;
                self.matched = None;
            }
            b'\\' => self.escaped = true,
            b'"' => {
                self.in_string = false;
                self.is_key = self.depth == 1 && self.matched == Some(KEY.len());
            }
            _ => {
                let next = self.matched.filter(|&at| KEY.get(at) == Some(&byte));
                self.matched = next.map(|at| at + 1);
            }
        }
    }

    fn outside(&mut self, byte: u8) {
        match byte {
            b'"' => {
                self.in_string = true;
                self.matched = Some(0);
            }
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            b':' if self.is_key && self.depth == 1 => self.value = Some(Vec::new()),
            _ => {}
        }
        if !byte.is_ascii_whitespace() {
            self.is_key = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str) -> Option<TokenUsage> {
        let whole = {
            let mut scan = UsageScan::default();
            scan.feed(text.as_bytes());
            scan.found()
        };
        let mut scan = UsageScan::default();
        text.as_bytes().chunks(1).for_each(|byte| scan.feed(byte));
        assert_eq!(scan.found(), whole, "{text}");
        whole
    }

    #[test]
    fn usage_is_found_at_the_top_level_wherever_it_stands() {
        let usage =
            r#"{"prompt_tokens":3, "completion_tokens": 4,"details":{"x":[1]},"total_tokens":7}"#;
        let expected = Some(TokenUsage { prompt: 3, completion: 4 });
        for text in [
            format!(r#"{{"usage":{usage}}}"#),
            format!(r#"{{ "choices":[{{"usage":null}}] , "usage" : {usage} , "z":"}}" }}"#),
            format!(r#"{{"usage":{usage},"choices":[{{"text":"\"usage\":{{}}"}}]}}"#),
        ] {
            assert_eq!(scan(&text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_the_usage_is_not_taken_for_it() {
        let usage = r#"{"prompt_tokens":3,"completion_tokens":4}"#;
        for text in [
            format!(r#"{{"choices":[{{"usage":{usage}}}]}}"#),
            format!(r#"{{"usages":{usage},"usag":{usage},"\u0075sage":{usage},"x":"usage"}}"#),
            r#"{"x":"\"usage\":{\"prompt_tokens\":3}"}"#.to_owned(),
            r#"{"usage":null}"#.to_owned(),
            r#"{"usage":"none"}"#.to_owned(),
            r#"{"usage":{"prompt_tokens":-1}}"#.to_owned(),
            format!(r#"{{"usage":{{"prompt_tokens":1,"x":"{}"}}}}"#, "x".repeat(LONGEST_USAGE)),
            r#"{"usage":{"prompt_tokens":1"#.to_owned(),
            format!("[\"usage\",{usage}]"),
        ] {
            assert_eq!(scan(&text), None, "{text}");
        }
    }
}
