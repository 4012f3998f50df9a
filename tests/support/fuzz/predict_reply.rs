//! KServe v1 replies of instances: the first line of the input is the number of instances that were
//! sent, the rest the body.

use batchwise::call::ItemsAnswer;
use batchwise::wire::predict::{parse_reply, write_reply};
use bytes::Bytes;

use super::{check, input};

/// See the module.
pub fn predict_reply(data: &[u8]) {
    let (rows, body) = input::first_line_text(data);
    let rows: u16 = rows.parse().unwrap_or(1);
    let rows = usize::from(rows);
    let body = Bytes::copy_from_slice(body);
    let items = match parse_reply(&body, rows) {
        Ok(items) => items,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    check::is_object(&body);
    assert_eq!(items.len(), rows);
    items.iter().for_each(|item| check::is_json(item));
    let whole = ItemsAnswer { items, usage: None, body: Some(body.clone()) };
    assert_eq!(write_reply(&whole).to_bytes(), body);
    let parts = ItemsAnswer { body: None, ..whole };
    let again = parse_reply(&write_reply(&parts).to_bytes(), rows);
    assert_eq!(again.expect("what is written can be read"), parts.items);
}
