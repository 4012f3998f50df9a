//! Requests to the built-in text models: the input is the body, or the other fields of one.

use batchwise::embedded::{BadRequest, Echo, embed_items};
use serde_json::Value;

use super::check;
use super::events::events;

/// See the module.
pub fn embedded_text(data: &[u8]) {
    for (echo, place) in
        [(Echo::chat(data, "1", 7), "/delta/content"), (Echo::completion(data, "1", 7), "/text")]
    {
        match echo {
            Ok(echo) => answered(echo, place),
            Err(error) => refused(&error),
        }
    }
    let items = [b"\"a text\"".as_slice(), b"[1,2,3]"];
    match embed_items(items, data) {
        Ok(embeddings) => {
            assert_eq!(embeddings.items.len(), items.len());
            embeddings.items.iter().for_each(|item| check::is_json(item));
        }
        Err(error) => refused(&error),
    }
    match embed_items([data], b"") {
        Ok(embeddings) => check::is_json(&embeddings.items[0]),
        Err(error) => refused(&error),
    }
}

fn refused(error: &BadRequest) {
    assert!(!error.to_string().is_empty());
    assert_eq!(error.param().is_none(), matches!(error, BadRequest::Body(_)), "{error:?}");
    assert_ne!(error.param(), Some(""));
}

/// The events of an answer say what the whole says.
fn answered(echo: Echo, place: &str) {
    let whole: Value = serde_json::from_slice(&echo.whole()).expect("an answer in JSON");
    let choices = whole["choices"].as_array().expect("choices").clone();
    let mut said = vec![String::new(); choices.len()];
    let mut finished = 0;
    let stream: Vec<u8> = echo.events().flat_map(|event| event.to_vec()).collect();
    let mut told = events(&stream);
    assert_eq!(told.pop().as_deref(), Some(b"[DONE]".as_slice()));
    for event in told {
        let event: Value = serde_json::from_slice(&event).expect("an event in JSON");
        let Some(choice) = event["choices"].get(0) else { continue };
        let index = choice["index"].as_u64().and_then(|it| usize::try_from(it).ok());
        let index = index.expect("the index of the choice");
        said[index].push_str(choice.pointer(place).and_then(Value::as_str).unwrap_or_default());
        finished += usize::from(choice["finish_reason"].is_string());
    }
    assert_eq!(finished, choices.len());
    for (choice, said) in choices.iter().zip(said) {
        let whole = choice.pointer("/message/content").or(choice.get("text"));
        assert_eq!(whole.and_then(Value::as_str), Some(said.as_str()));
    }
}
