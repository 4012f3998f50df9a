//! Bodies that are one raw tensor: the first line of the input is what the model declares (see
//! `declared`), the rest the body. A model's description is the word of an instance, too.

use batchwise::wire::json::parse_raw_infer_request;

use super::declared::{Declared, declared};
use super::{check, input};

/// See the module.
pub fn raw_tensor(data: &[u8]) {
    let (line, body) = input::first_line_text(data);
    let declared = declared(line);
    let inputs: Vec<_> = declared.iter().map(Declared::as_input).collect();
    for batched in [true, false] {
        let outcome = parse_raw_infer_request(&inputs, batched, input::whole(body));
        for cut in input::cuts(body) {
            let other = parse_raw_infer_request(&inputs, batched, cut);
            match (&outcome, other) {
                (Ok(one), Ok(other)) => check::same_request(&one.request, &other.request),
                (Err(one), Err(other)) => check::same_fault(one, &other),
                (one, other) => panic!("{one:?} in one slice, {other:?} in several"),
            }
        }
        match outcome {
            Ok(parsed) => {
                check::tensors(&parsed.request.inputs);
                check::batches(&parsed.request.inputs, data);
                let bytes: Vec<u8> = parsed.request.inputs[0].data().to_bytes().to_vec();
                assert!(bytes.ends_with(body), "the body is the tensor's data");
            }
            Err(fault) => check::fault(&fault),
        }
    }
}
