//! A line of an output: the answer to one request, or why there is none.
//!
//! Its id says which request of the input it answers, which is what a restart goes by.

use std::io::Write as _;

use bytes::Bytes;
use http::StatusCode;

/// Hexadecimal digits of a batch's id in the ids of its lines.
pub(super) const TAG: usize = 24;
/// Hexadecimal digits of a request's number.
const NUMBER: usize = 8;
const ID: &str = "batch_req_";
const START: &str = "{\"id\":\"batch_req_";
/// Bytes at the start of a line that say which request it answers.
pub(super) const HEAD: usize = START.len() + TAG + NUMBER + 1;

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// An answer; JSON on one line.
    Answered(StatusCode, Bytes),
    /// An error with a status; JSON on one line.
    Failed(StatusCode, Bytes),
    /// The time of its batch was up before.
    Expired,
}

impl Outcome {
    /// Whether the line belongs to the output, and not to the errors.
    pub(super) fn is_success(&self) -> bool {
        matches!(self, Self::Answered(..))
    }
}

/// The id of a request: its number counts from 0.
pub(super) fn request_id(tag: &str, number: u32) -> String {
    format!("{ID}{tag}{number:08x}")
}

/// Appends the line that tells what became of a request.
pub(super) fn write(
    line: &mut Vec<u8>,
    tag: &str,
    number: u32,
    custom_id: &str,
    outcome: &Outcome,
) {
    let id = request_id(tag, number);
    let custom_id = serde_json::Value::from(custom_id);
    // Into memory: nothing that can fail.
    drop(write!(line, "{{\"id\":\"{id}\",\"custom_id\":{custom_id},\"response\":"));
    match outcome {
        Outcome::Answered(status, body) | Outcome::Failed(status, body) => {
            let status = status.as_u16();
            let head = format!("{{\"status_code\":{status},\"request_id\":\"{id}\",\"body\":");
            line.extend_from_slice(head.as_bytes());
            line.extend_from_slice(body);
            line.extend_from_slice(b"},\"error\":null}\n");
        }
        Outcome::Expired => line.extend_from_slice(
            b"null,\"error\":{\"code\":\"batch_expired\",\"message\":\"This request could not be \
              executed before the completion window expired.\"}}\n",
        ),
    }
}

/// The number of the request that a line answers, by its first [`HEAD`] bytes; `None` when it is no
/// line of this batch.
pub(super) fn number_of(head: &[u8], tag: &str) -> Option<u32> {
    let head = std::str::from_utf8(head).ok()?;
    let digits = head.strip_prefix(START)?.strip_prefix(tag)?.strip_suffix('"')?;
    let plain = digits.len() == NUMBER && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

/// JSON on one line, every other byte as it was; `None` when it is none.
pub(super) fn on_one_line(body: &Bytes) -> Option<Bytes> {
    let text = std::str::from_utf8(body).ok()?.trim_ascii();
    serde_json::from_str::<serde::de::IgnoredAny>(text).ok()?;
    if !text.bytes().any(|byte| byte < 0x20) {
        return Some(body.slice_ref(text.as_bytes()));
    }
    // Inside of strings a control character is not valid, and between values it is a blank.
    Some(text.bytes().map(|byte| if byte < 0x20 { b' ' } else { byte }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF: &str = "0123456789abcdef01234567";

    fn line(outcome: &Outcome) -> String {
        let mut line = Vec::new();
        write(&mut line, OF, 0x1f, "a \"quoted\"\nid", outcome);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn lines_have_the_form_that_clients_know_and_name_their_request() {
        let body = Bytes::from_static(b"{\"x\":1}");
        let text = line(&Outcome::Answered(StatusCode::OK, body.clone()));
        let id = format!("batch_req_{OF}0000001f");
        let expected = format!(
            "{{\"id\":\"{id}\",\"custom_id\":\"a \\\"quoted\\\"\\nid\",\"response\":\
             {{\"status_code\":200,\"request_id\":\"{id}\",\"body\":{{\"x\":1}}}},\"error\":null}}\n"
        );
        assert_eq!(text, expected);
        assert_eq!(number_of(&text.as_bytes()[..HEAD], OF), Some(0x1f));
        assert_eq!(number_of(&text.as_bytes()[..HEAD], &OF.replace('0', "1")), None);
        assert_eq!(number_of(&text.as_bytes()[..HEAD - 1], OF), None);
        let expired: serde_json::Value = serde_json::from_str(&line(&Outcome::Expired)).unwrap();
        assert_eq!(expired["error"]["code"], "batch_expired");
        assert!(expired["response"].is_null());
    }

    #[test]
    fn a_body_comes_on_one_line_or_not_at_all() {
        let one = |text: &'static str| on_one_line(&Bytes::from_static(text.as_bytes()));
        assert_eq!(one("{\"a\": 1.00}\n").unwrap(), "{\"a\": 1.00}");
        assert_eq!(one("{\n\t\"a\":\r\n \"b\\n\"}").unwrap(), "{  \"a\":   \"b\\n\"}");
        assert_eq!(one("not json"), None);
        assert_eq!(one("{\"a\":\"\n\"}"), None);
        assert_eq!(on_one_line(&Bytes::from_static(b"\"\xff\"")), None);
    }
}
