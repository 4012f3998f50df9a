//! Replies to lists of items.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::Failure;
use crate::wire::ReplyError;

/// What a batch failed of whose reply was not one output for each of `rows` items.
///
/// A list of another length says that the model does not answer item by item, which the lane has
/// to know; anything else is a broken instance.
pub(super) fn items_failure(
    error: &ReplyError,
    body: &Bytes,
    key: Option<&str>,
    rows: usize,
) -> Failure {
    match list_length(body, key) {
        Some(length) if length != rows => Failure::not_batched(error.to_string()),
        _ => Failure::broken(error.to_string()),
    }
}

/// The length of the list in a field of a JSON object, or of the list that the document is.
fn list_length(body: &[u8], key: Option<&str>) -> Option<usize> {
    let Some(key) = key else {
        let list: Vec<&RawValue> = serde_json::from_slice(body).ok()?;
        return Some(list.len());
    };
    let fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(body).ok()?;
    let list: Vec<&RawValue> = serde_json::from_str(fields.get(key)?.get()).ok()?;
    Some(list.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::Blame;

    #[test]
    fn a_wrong_count_is_told_from_garbage() {
        let blame = |body: &'static str| {
            let body = Bytes::from_static(body.as_bytes());
            items_failure(&ReplyError("odd".to_owned()), &body, Some("data"), 2).blame
        };
        let bare = |body: &'static str| {
            let body = Bytes::from_static(body.as_bytes());
            items_failure(&ReplyError("odd".to_owned()), &body, None, 2).blame
        };
        assert_eq!(bare("[[1]]"), Blame::NotBatched);
        assert_eq!(bare("[[1],[2]]"), Blame::Broken);
        assert_eq!(bare(r#"{"data":[1,2,3]}"#), Blame::Broken);
        assert_eq!(blame(r#"{"data":[1,2,3],"x":{}}"#), Blame::NotBatched);
        assert_eq!(blame(r#"{"data":[]}"#), Blame::NotBatched);
        assert_eq!(blame(r#"{"data":[1,2]}"#), Blame::Broken);
        assert_eq!(blame(r#"{"error":"x"}"#), Blame::Broken);
        assert_eq!(blame("<html>"), Blame::Broken);
    }
}
