//! OpenAI requests for text: the input is the body.

use batchwise::wire::openai::parse_generation;
use bytes::Bytes;

use super::check;

/// See the module.
pub fn generation_request(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    let parsed = match parse_generation(&body) {
        Ok(parsed) => parsed,
        Err(fault) => return check::fault(&fault),
    };
    check::is_object(&body);
    check::is_json(&body);
    assert!(!parsed.model.is_empty());
    let long = "n".repeat(300);
    for name in ["other", "a \"quoted\\ nämé\n", long.as_str()] {
        let renamed = parsed.with_model(&body, name);
        let again = parse_generation(&renamed).expect("only the name is another");
        assert_eq!((again.model.as_str(), again.stream), (name, parsed.stream));
        // Back under the first name, every byte around it is as it was.
        let back = again.with_model(&renamed, &parsed.model);
        let plain = parsed.with_model(&body, &parsed.model);
        assert_eq!(back, plain);
    }
}
