//! OpenAI replies of instances to requests for embeddings: the first line of the input is the number
//! of texts that were sent, the rest the body.

use std::time::Duration;

use batchwise::call::{Answer, ItemsAnswer, Served, Timing, Usage};
use batchwise::wire::openai::{parse_embeddings_reply, write_embeddings_reply};
use bytes::Bytes;

use super::{check, input};

/// See the module.
pub fn embeddings_reply(data: &[u8]) {
    let (rows, body) = input::first_line_text(data);
    let rows: u16 = rows.parse().unwrap_or(1);
    let rows = usize::from(rows);
    let body = Bytes::copy_from_slice(body);
    let (items, usage) = match parse_embeddings_reply(&body, rows) {
        Ok(reply) => reply,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    check::is_object(&body);
    assert_eq!(items.len(), rows);
    items.iter().for_each(|item| check::is_json(item));
    let whole = ItemsAnswer { items, usage, body: Some(body) };
    forwarded(&whole);
    let parts = ItemsAnswer { body: None, ..whole };
    forwarded(&parts);
    rejoined(&parts);
}

/// The answer for its caller, in either form.
fn forwarded(answer: &ItemsAnswer) {
    let rows = answer.items.len();
    for wants_base64 in [false, true] {
        let written = match write_embeddings_reply("theirs", "m", answer, wants_base64) {
            Ok(written) => written.to_bytes(),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                continue;
            }
        };
        let (items, usage) =
            parse_embeddings_reply(&written, rows).expect("what is written can be read");
        assert_eq!(usage.unwrap_or_default(), answer.usage.unwrap_or_default());
        let start = if wants_base64 { b'"' } else { b'[' };
        assert!(items.iter().all(|item| item.first() == Some(&start)), "not as asked for");
        let same = answer.items.iter().zip(&items);
        for (had, written) in same.filter(|(had, _)| had.first() == Some(&start)) {
            assert_eq!(had, written);
        }
        there_and_back(&ItemsAnswer { items, usage, body: None }, wants_base64);
    }
}

/// What was converted once gives the same floats in the other form and back.
fn there_and_back(answer: &ItemsAnswer, is_base64: bool) {
    let rows = answer.items.len();
    let convert = |answer: &ItemsAnswer, wants_base64| {
        let written = write_embeddings_reply("m", "m", answer, wants_base64).ok()?.to_bytes();
        let (items, usage) = parse_embeddings_reply(&written, rows).expect("what is written");
        Some(ItemsAnswer { items, usage, body: None })
    };
    let Some(other) = convert(answer, !is_base64) else { return };
    let back = convert(&other, is_base64).expect("a form that was made can be read");
    let again = convert(&back, !is_base64).expect("a form that was made can be read");
    assert_eq!(other.items, again.items);
}

/// The answers to both halves of a call are the answer to the whole.
fn rejoined(whole: &ItemsAnswer) {
    let mut head = whole.clone();
    let tail = ItemsAnswer { items: head.items.split_off(head.items.len() / 2), ..whole.clone() };
    let served = |answer| Served {
        answer: Answer::Items(answer),
        timing: Timing {
            queue: Duration::ZERO,
            batch: Duration::ZERO,
            rows: 1,
            instance: "a".into(),
        },
    };
    let joined = Served::rejoin([served(head), served(tail)]).expect("two parts of one kind");
    let Answer::Items(joined) = joined.answer else { panic!("items became {joined:?}") };
    assert_eq!(joined.items, whole.items);
    let twice = |usage: Usage| Usage {
        prompt_tokens: usage.prompt_tokens.saturating_mul(2),
        total_tokens: usage.total_tokens.saturating_mul(2),
    };
    assert_eq!(joined.usage, whole.usage.map(twice));
}
