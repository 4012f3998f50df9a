//! Streams cut everywhere.

use proptest::prelude::*;

use super::*;

/// What goes on of a stream that comes in such pieces, and whether each step ended between events.
fn pass<'a>(hides: bool, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Events) {
    let (mut events, mut out) = (Events::new(hides), VecDeque::new());
    for piece in pieces {
        events.feed(&Bytes::copy_from_slice(piece), &mut out);
    }
    events.finish(&mut out);
    assert!(out.iter().all(|piece| !piece.is_empty()));
    (out.iter().flatten().copied().collect(), events)
}

fn text(hides: bool, stream: &str) -> String {
    String::from_utf8(pass(hides, [stream.as_bytes()]).0).unwrap()
}

const USAGE_EVENT: &str = "data: {\"id\":\"1\",\"choices\":[ ],\"usage\":{\"prompt_tokens\":3,\
    \"completion_tokens\":4,\"total_tokens\":7}}";

/// Everything that the format knows, with what is to be hidden in between.
fn stream(end: &str) -> String {
    let lines = [
        ": a comment",
        "",
        "event: odd",
        "id: 7",
        "data: {\"id\": \"1\", \"choices\": [{\"delta\": {\"content\": \"h\u{e9}\u{1f600}\"}}], \"usage\": null}",
        "",
        "",
        "data: {\"usage\":null,\"choices\":[{\"text\":\"\\\"usage\\\":null\"}]}",
        "",
        "data:{\"choices\":[{}],",
        "data: \"usage\" : null ,\"x\":1}",
        "retry: 5",
        "",
        USAGE_EVENT,
        "",
        "data: {\"choices\":[{}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":5}}",
        "",
        "data: [DONE]",
        "",
        "",
    ];
    lines.join(end)
}

fn hidden(end: &str) -> String {
    stream(end)
        .replace(", \"usage\": null", "")
        .replace("{\"usage\":null,", "{")
        .replace("\"usage\" : null ,", "")
        .replace(&format!("{USAGE_EVENT}{end}{end}"), "")
}

#[test]
fn a_stream_goes_on_as_it_came_however_it_is_cut() {
    for end in ["\n", "\r\n", "\r"] {
        let stream = stream(end);
        for hides in [false, true] {
            let expected = if hides { hidden(end) } else { stream.clone() };
            for cut in 0..=stream.len() {
                let (one, two) = stream.as_bytes().split_at(cut);
                let (went, events) = pass(hides, [one, two]);
                assert_eq!(String::from_utf8(went).unwrap(), expected, "{end:?} cut at {cut}");
                assert_eq!(events.usage(), Some(TokenUsage { prompt: 3, completion: 5 }));
            }
            let (went, _) = pass(hides, stream.as_bytes().chunks(1));
            assert_eq!(String::from_utf8(went).unwrap(), expected, "{end:?} byte by byte");
        }
    }
}

proptest! {
    #[test]
    fn how_any_bytes_are_cut_changes_nothing(
        stream in "(data: |[\\r\\n]|\\{\"usage\":null\\}|\\{\"choices\":\\[\\],\"usage\":\\{\\}\\}|,\"a\":1|:|x){0,40}",
        cuts in prop::collection::vec(0_usize..200, 0..8),
        hides in any::<bool>(),
    ) {
        let bytes = stream.as_bytes();
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
        let (cut, _) = pass(hides, pieces);
        let (whole, _) = pass(hides, [bytes]);
        prop_assert_eq!(&cut, &whole);
        if !hides {
            prop_assert_eq!(cut, bytes);
        }
    }
}

#[test]
fn an_event_goes_on_when_its_last_byte_has_come() {
    let (mut events, mut out) = (Events::new(false), VecDeque::new());
    assert!(events.is_between());
    events.feed(&Bytes::from_static(b"data: 1\n"), &mut out);
    assert!(out.is_empty() && events.is_between());
    let rest = Bytes::from_static(b"\ndata: 2\n\ndata: 3\n\ndata");
    events.feed(&rest, &mut out);
    assert_eq!(out, ["data: 1\n\n", "data: 2\n\ndata: 3\n\n"]);
    assert_eq!(out[1].as_ptr(), rest[1..].as_ptr(), "what came whole is not copied");
    assert!(!events.break_off() && events.is_between());
    events.finish(&mut out);
    assert_eq!(out.len(), 2, "what broke off is dropped");
}

#[test]
fn nothing_comes_between_a_carriage_return_and_its_line_feed() {
    let between = |pieces: &[&'static str]| {
        let (mut events, mut out) = (Events::new(false), VecDeque::new());
        pieces
            .iter()
            .for_each(|piece| events.feed(&Bytes::from_static(piece.as_bytes()), &mut out));
        events.is_between()
    };
    assert!(!between(&["data: 1\r\n\r"]));
    assert!(between(&["data: 1\r\n\r", "\n"]));
    assert!(between(&["data: 1\r\r"]));
}

#[test]
fn an_event_that_is_too_long_to_be_held_goes_on_in_parts() {
    let long =
        format!("data: {{\"choices\":[],\"usage\":null,\"x\":\"{}", "x".repeat(LONGEST_HELD));
    let (mut events, mut out) = (Events::new(true), VecDeque::new());
    events.feed(&Bytes::from(long.clone()), &mut out);
    assert_eq!(out.iter().map(Bytes::len).sum::<usize>(), long.len());
    assert!(!events.is_between());
    events.feed(&Bytes::from_static(b"\"}\n\ndata: {\"usage\":null,\"a\":1}\n\n"), &mut out);
    assert!(events.is_between());
    let end = out.iter().flatten().copied().skip(long.len()).collect::<Vec<u8>>();
    assert_eq!(end, b"\"}\n\ndata: {\"a\":1}\n\n");
    events.feed(&Bytes::from(long), &mut out);
    assert!(events.break_off());
}

#[test]
fn a_megabyte_in_one_event_comes_through_in_any_pieces() {
    let stream = format!("data: {{\"x\":\"{}\"}}\n\ndata: [DONE]\n\n", "\u{e9}".repeat(1 << 20));
    for size in [1, 7, 65_536, stream.len()] {
        let (went, _) = pass(true, stream.as_bytes().chunks(size));
        assert!(went == stream.as_bytes(), "in pieces of {size}");
    }
}

#[test]
fn only_what_was_asked_for_by_us_is_hidden() {
    let kept = [
        "data: {\"choices\":[],\"usage\":1",
        "data: {\"choices\":[{\"usage\":null}]}\n\n",
        "data: {\"usage\":null}\n\n",
        "data: {\"choices\":[{}],\"usage\":{\"prompt_tokens\":1}}\n\n",
        "data: {\"usage\":{\"prompt_tokens\":1}}\n\n",
        ": \"usage\":null\n\n",
        "data: {\"error\":{\"message\":\"\\\"usage\\\"\"}}\n\n",
        "data: [\"usage\",null]\n\n",
        "data: {\"a\":1,\ndata: \"usage\":null}\n\n",
    ];
    for stream in kept {
        assert_eq!(text(true, stream), stream);
    }
    assert_eq!(text(true, "data:{\"a\":1 , \"usage\" :  null }\n\n"), "data:{\"a\":1  }\n\n");
}

#[test]
fn events_that_tell_something_are_counted() {
    let stream = ": hi\n\ndata: {\"a\":1}\n\nevent: x\ndata:2\r\n\r\ndata:\n\ndata: [DONE]\n\n";
    for size in [1, 3, stream.len()] {
        let (mut events, mut out) = (Events::new(false), VecDeque::new());
        for piece in stream.as_bytes().chunks(size) {
            events.feed(&Bytes::copy_from_slice(piece), &mut out);
        }
        events.finish(&mut out);
        assert_eq!(events.told(), 2);
    }
}
