use serde_json::{Value, json};

use super::*;

const CREATED: u64 = 1_700_000_000;

fn chat(body: &Value) -> Result<Echo, BadRequest> {
    Echo::chat(body.to_string().as_bytes(), "1", CREATED)
}

fn completion(body: &Value) -> Result<Echo, BadRequest> {
    Echo::completion(body.to_string().as_bytes(), "1", CREATED)
}

fn say(text: &str) -> Value {
    json!({"model": "echo", "messages": [{"role": "user", "content": text}]})
}

fn with(mut body: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

fn whole(echo: &Echo) -> Value {
    serde_json::from_slice(&echo.whole()).unwrap()
}

/// The JSON of every event; the last must be `[DONE]` and is left out.
fn events(echo: Echo) -> Vec<Value> {
    let mut datas: Vec<String> = echo
        .events()
        .map(|event| {
            let event = String::from_utf8(event.to_vec()).unwrap();
            event.strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap().to_owned()
        })
        .collect();
    assert_eq!(datas.pop().as_deref(), Some("[DONE]"));
    datas.iter().map(|data| serde_json::from_str(data).unwrap()).collect()
}

// === whole ===

#[test]
fn a_chat_is_answered_with_its_last_user_message() {
    let body = json!({"model": "echo", "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": null, "tool_calls": []},
        {"role": "user", "content": [{"type": "text", "text": "hello "}, {"type": "text", "text": "big world"}]},
        {"role": "assistant", "content": "said"},
    ]});
    let echo = chat(&body).unwrap();
    assert!(!echo.is_streamed());
    assert_eq!(
        whole(&echo),
        json!({
            "id": "chatcmpl-1", "object": "chat.completion", "created": CREATED, "model": "echo",
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": "hello big world", "refusal": null},
                "logprobs": null,
                "finish_reason": "stop",
            }],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        })
    );
}

#[test]
fn without_a_user_the_last_message_is_said() {
    let body = json!({"model": "echo", "messages": [{"role": "system", "content": "one two"}]});
    assert_eq!(whole(&chat(&body).unwrap())["choices"][0]["message"]["content"], "one two");
}

#[test]
fn a_completion_has_a_choice_for_each_prompt() {
    let one = completion(&json!({"model": "echo", "prompt": "once upon"})).unwrap();
    assert_eq!(
        whole(&one),
        json!({
            "id": "cmpl-1", "object": "text_completion", "created": CREATED, "model": "echo",
            "choices": [{"index": 0, "text": "once upon", "logprobs": null, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4},
        })
    );
    let two = completion(&json!({"model": "echo", "prompt": ["a b c", "d"], "max_tokens": 2}));
    let two = whole(&two.unwrap());
    assert_eq!(two["choices"][0]["text"], "a b");
    assert_eq!(two["choices"][0]["finish_reason"], "length");
    assert_eq!(two["choices"][1]["text"], "d");
    assert_eq!(two["choices"][1]["index"], 1);
    assert_eq!(two["choices"][1]["finish_reason"], "stop");
    assert_eq!(
        two["usage"],
        json!({"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7})
    );
}

#[test]
fn the_limit_cuts_words_and_is_the_reason() {
    let limited = |more| whole(&chat(&with(say("one two three"), &more)).unwrap());
    let cut = limited(json!({"max_tokens": 2}));
    assert_eq!(cut["choices"][0]["message"]["content"], "one two");
    assert_eq!(cut["choices"][0]["finish_reason"], "length");
    assert_eq!(cut["usage"]["completion_tokens"], 2);

    let exact = limited(json!({"max_tokens": 3}));
    assert_eq!(exact["choices"][0]["finish_reason"], "stop");

    let newer = limited(json!({"max_tokens": 3, "max_completion_tokens": 1}));
    assert_eq!(newer["choices"][0]["message"]["content"], "one");
    let null = limited(json!({"max_tokens": null}));
    assert_eq!(null["choices"][0]["finish_reason"], "stop");
}

#[test]
fn an_empty_message_is_answered_with_nothing() {
    let empty = chat(&say("")).unwrap();
    assert_eq!(whole(&empty)["choices"][0]["message"]["content"], "");
    assert_eq!(whole(&empty)["choices"][0]["finish_reason"], "stop");
    assert_eq!(events(empty).len(), 2);
}

// === streamed ===

#[test]
fn a_streamed_chat_is_role_words_finish_done() {
    let echo = chat(&with(say("hello big  world"), &json!({"stream": true}))).unwrap();
    assert!(echo.is_streamed());
    let events = events(echo);
    let deltas: Vec<&Value> = events.iter().map(|event| &event["choices"][0]["delta"]).collect();
    assert_eq!(
        deltas,
        [
            &json!({"role": "assistant", "content": ""}),
            &json!({"content": "hello"}),
            &json!({"content": " big"}),
            &json!({"content": "  world"}),
            &json!({}),
        ]
    );
    assert_eq!(
        events[1],
        json!({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": CREATED,
            "model": "echo",
            "choices": [
                {"index": 0, "delta": {"content": "hello"}, "logprobs": null, "finish_reason": null},
            ],
        })
    );
    let (last, others) = events.split_last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert!(others.iter().all(|event| event["choices"][0]["finish_reason"].is_null()));
    assert!(events.iter().all(|event| event.get("usage").is_none()));
}

#[test]
fn usage_is_one_more_event_without_choices() {
    let more = json!({"stream": true, "stream_options": {"include_usage": true}, "max_tokens": 1});
    let events = events(chat(&with(say("hello world"), &more)).unwrap());
    let (last, others) = events.split_last().unwrap();
    assert_eq!(
        *last,
        json!({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": CREATED,
            "model": "echo", "choices": [],
            "usage": {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3},
        })
    );
    assert!(others.iter().all(|event| event.get("usage") == Some(&Value::Null)));
    assert_eq!(others.last().unwrap()["choices"][0]["finish_reason"], "length");
}

#[test]
fn a_streamed_completion_is_words_finish_for_each_prompt() {
    let more = json!({
        "model": "echo", "prompt": ["a b", "c"], "stream": true,
        "stream_options": {"include_usage": true},
    });
    let events = events(completion(&more).unwrap());
    let said: Vec<(u64, &str, Option<&str>)> = events
        .iter()
        .filter_map(|event| event["choices"].get(0))
        .map(|choice| {
            let index = choice["index"].as_u64().unwrap();
            (index, choice["text"].as_str().unwrap(), choice["finish_reason"].as_str())
        })
        .collect();
    assert_eq!(
        said,
        [
            (0, "a", None),
            (0, " b", None),
            (0, "", Some("stop")),
            (1, "c", None),
            (1, "", Some("stop"))
        ]
    );
    assert!(events.iter().all(|event| event["object"] == "text_completion"));
    assert_eq!(events.last().unwrap()["usage"]["total_tokens"], 6);
}

#[test]
fn streamed_and_whole_say_the_same() {
    let text = "Ünïcode \"quoted\"\n\n\tlines \u{2028} and 字字字 🦀  ";
    let echo = chat(&with(say(text), &json!({"stream": true}))).unwrap();
    assert_eq!(whole(&echo)["choices"][0]["message"]["content"], text);
    let said: String = events(echo)
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(said, text);
}

#[test]
fn events_are_made_one_at_a_time_and_end() {
    let echo = chat(&with(say(&"word ".repeat(1000)), &json!({"stream": true}))).unwrap();
    let mut events = echo.events();
    assert!(events.next().is_some_and(|event| event.len() < 250));
    assert_eq!(events.by_ref().count(), 1000 + 2);
    assert_eq!(events.next(), None);
}

// === errors ===

#[test]
fn a_wrong_field_is_named() {
    let user =
        |content: Value| json!({"model": "m", "messages": [{"role": "user", "content": content}]});
    let cases = [
        (json!({"model": "m"}), "messages"),
        (json!({"model": "m", "messages": "hi"}), "messages"),
        (json!({"model": "m", "messages": []}), "messages"),
        (json!({"model": "m", "messages": ["hi"]}), "messages[0]"),
        (json!({"model": "m", "messages": [{"content": "hi"}]}), "messages[0].role"),
        (json!({"model": "m", "messages": [{"role": 1, "content": "hi"}]}), "messages[0].role"),
        (json!({"model": "m", "messages": [{"role": "user"}]}), "messages[0].content"),
        (user(json!(null)), "messages[0].content"),
        (user(json!(7)), "messages[0].content"),
        (user(json!(["hi"])), "messages[0].content[0]"),
        (user(json!([{"text": "hi"}])), "messages[0].content[0].type"),
        (user(json!([{"type": "image_url"}])), "messages[0].content[0].type"),
        (user(json!([{"type": "text", "text": 1}])), "messages[0].content[0].text"),
        (with(say("hi"), &json!({"model": null})), "model"),
        (with(say("hi"), &json!({"stream": "yes"})), "stream"),
        (with(say("hi"), &json!({"stream_options": {}})), "stream_options"),
        (with(say("hi"), &json!({"stream": true, "stream_options": 1})), "stream_options"),
        (
            with(say("hi"), &json!({"stream": true, "stream_options": {"include_usage": 1}})),
            "stream_options.include_usage",
        ),
        (with(say("hi"), &json!({"max_tokens": 0})), "max_tokens"),
        (with(say("hi"), &json!({"max_tokens": 1.5})), "max_tokens"),
        (with(say("hi"), &json!({"max_tokens": "1"})), "max_tokens"),
        (with(say("hi"), &json!({"max_completion_tokens": -1})), "max_completion_tokens"),
    ];
    for (body, param) in cases {
        let error = chat(&body).unwrap_err();
        assert_eq!(error.param(), Some(param), "{body}");
        assert!(error.to_string().contains(param), "{error}");
    }
}

#[test]
fn a_wrong_prompt_is_named() {
    let cases = [
        (json!({"model": "m"}), "prompt"),
        (json!({"model": "m", "prompt": 1}), "prompt"),
        (json!({"model": "m", "prompt": []}), "prompt"),
        (json!({"model": "m", "prompt": [1, 2]}), "prompt[0]"),
        (json!({"model": "m", "prompt": vec!["a"; 129]}), "prompt"),
    ];
    for (body, param) in cases {
        assert_eq!(completion(&body).unwrap_err().param(), Some(param), "{body}");
    }
}

#[test]
fn a_body_that_is_no_object_is_refused() {
    for body in [
        "",
        "{",
        "[]",
        "[null, [], null, null, null, null, null]",
        "{\"model\":\"m\",\"model\":\"m\"}",
        "{\"messages\":\"\\ud800\"}",
    ] {
        let error = Echo::chat(body.as_bytes(), "1", CREATED).unwrap_err();
        assert!(matches!(error, BadRequest::Body(_)), "{body}");
        assert_eq!(error.param(), None);
    }
    let deep = format!("{{\"messages\":{}", "[".repeat(100_000));
    assert!(Echo::chat(deep.as_bytes(), "1", CREATED).is_err());
}

#[test]
fn messages_say_what_would_be_right() {
    assert_eq!(
        chat(&json!({"model": "m"})).unwrap_err().to_string(),
        "'messages' is missing; it must be a list of messages, each with a role and content"
    );
    assert_eq!(
        chat(&with(say("hi"), &json!({"max_tokens": 0}))).unwrap_err().to_string(),
        "'max_tokens' is 0; it must be an integer of 1 or more"
    );
}
