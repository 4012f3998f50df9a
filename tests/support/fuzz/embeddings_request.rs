//! OpenAI requests for embeddings: the input is the body.

use batchwise::wire::openai::{parse_embeddings, write_embeddings_request};
use bytes::Bytes;

use super::check;

/// See the module.
pub fn embeddings_request(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    let parsed = match parse_embeddings(body.clone()) {
        Ok(parsed) => parsed,
        Err(fault) => return check::fault(&fault),
    };
    check::is_object(&body);
    assert!(!parsed.model.is_empty() && !parsed.request.items.is_empty());
    check::items(&parsed.request, &body);
    assert_eq!(write_embeddings_request(&parsed.request, "other").to_bytes(), body);
    let wants_base64 = parsed.wants_base64;
    check::items_batches(&parsed.request, |part| {
        let written = write_embeddings_request(part, "other \"name\"").to_bytes();
        let again = parse_embeddings(written).expect("what is written can be read");
        assert_eq!((again.model.as_str(), again.wants_base64), ("other \"name\"", wants_base64));
        again.request
    });
}
