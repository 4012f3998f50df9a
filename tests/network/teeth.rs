//! The checks find what they are there to find.

use batchwise::engine::Drained;
use batchwise::wire::pb;
use bytes::Bytes;
use http::HeaderMap;
use pb::model_infer_response::InferOutputTensor;
use prost::Message as _;
use serde_json::json;

use crate::checks::{Run, judge};
use crate::ledger::Entry;
use crate::model_server::{embedding_of, reply_to};
use crate::scenario::{Fault, Manners, Phase, Scenario, Trouble};
use crate::speech::{Call, DataType, Heard, Speech, framed};

fn call(id: u64, speech: Speech) -> Call {
    let datatype = DataType::Int64;
    let model = "m".to_owned();
    let (rows, poison, priority, tenant, timeout_ms) = (1, false, 1, 1, None);
    Call { id, model, speech, datatype, rows, poison, priority, tenant, timeout_ms }
}

/// What a server answers to a call with this id.
fn reply(id: u64, speech: Speech) -> Bytes {
    let answer = 2 * (1000 + 64 * i64::try_from(id).unwrap()) + 1;
    let text = format!("call {id} row 0");
    match speech {
        Speech::Grpc | Speech::Binary => {
            let reply = pb::ModelInferResponse {
                model_name: "m".to_owned(),
                id: "call-7".to_owned(),
                outputs: vec![InferOutputTensor {
                    name: "y".to_owned(),
                    datatype: "INT64".to_owned(),
                    shape: vec![1, 1],
                    ..InferOutputTensor::default()
                }],
                raw_output_contents: vec![answer.to_le_bytes().to_vec().into()],
                ..pb::ModelInferResponse::default()
            };
            framed(&reply.encode_to_vec())
        }
        Speech::Json => {
            let output =
                json!({ "name": "y", "datatype": "INT64", "shape": [1, 1], "data": [answer] });
            json!({ "id": "call-7", "outputs": [output] }).to_string().into()
        }
        Speech::Predict => json!({ "predictions": [answer] }).to_string().into(),
        Speech::Embed => {
            let item = json!({ "index": 0, "embedding": embedding_of(&text, 8) });
            json!({ "data": [item] }).to_string().into()
        }
        Speech::Chat => {
            let choice = json!({ "message": { "content": reply_to(&text) } });
            json!({ "choices": [choice] }).to_string().into()
        }
        Speech::ChatEvents => {
            let event = json!({ "choices": [{ "delta": { "content": reply_to(&text) } }] });
            format!("data: {event}\n\ndata: [DONE]\n\n").into()
        }
    }
}

#[test]
fn an_answer_to_another_call_is_found_out() {
    for speech in [
        Speech::Grpc,
        Speech::Json,
        Speech::Predict,
        Speech::Embed,
        Speech::Chat,
        Speech::ChatEvents,
    ] {
        let call = call(7, speech);
        let hear = |id| call.hear(&HeaderMap::new(), &reply(id, speech));
        assert_eq!(hear(7), Heard::Right, "{speech:?}");
        assert!(matches!(hear(8), Heard::Wrong(_)), "{speech:?}: {:?}", hear(8));
    }
}

/// A run of one call, in a phase with this fault at the second host.
fn verdict(fault: Option<Fault>, change: impl FnOnce(&mut Entry)) -> Vec<String> {
    let mut scenario = Scenario::draw(0);
    let trouble = fault.map(|fault| Trouble { host: 1, at_ms: 0, for_ms: 1, fault });
    scenario.phases = vec![Phase { trouble, order: None, ..scenario.phases[0].clone() }];
    let mut entry = Entry {
        call: call(7, Speech::Grpc),
        manners: Manners::Good,
        phase: 0,
        began: 1_000,
        ended: Some(9_000),
        heard: vec![Heard::Right],
        arrivals: vec![(5_000, "north")],
    };
    change(&mut entry);
    let mut run = Run { drained: Some(Drained::Clean), ..Run::default() };
    judge(&mut run, &scenario, &[entry]);
    run.broken
}

#[test]
fn whatever_becomes_of_a_call_that_should_not_is_found_out() {
    assert_eq!(verdict(None, |_| ()), [""; 0]);
    let found = |fault, change: fn(&mut Entry)| !verdict(fault, change).is_empty();
    assert!(found(None, |entry| entry.heard.clear()), "no answer");
    assert!(found(None, |entry| entry.heard.push(Heard::Right)), "two answers");
    assert!(found(None, |entry| entry.call.poison = true), "poison was served");
    assert!(found(None, |entry| entry.heard = vec![Heard::RowMissing]));
    for fault in [None, Some(Fault::Down), Some(Fault::Fails), Some(Fault::Garbles)] {
        assert!(found(fault, |entry| entry.heard = vec![Heard::Refused("503".to_owned())]));
        assert!(found(fault, |entry| entry.heard = vec![Heard::Broken("reset".to_owned())]));
        assert!(found(fault, |entry| entry.heard = vec![Heard::Wrong(String::new())]));
    }
    let left = |entry: &mut Entry, arrived| {
        (entry.heard, entry.arrivals) = (vec![Heard::Nothing], vec![(arrived, "north")]);
    };
    assert_eq!(verdict(None, |entry| left(entry, 10_000)), [""; 0]);
    assert!(found(None, |entry| {
        (entry.heard, entry.arrivals) = (vec![Heard::Nothing], vec![(30_000, "north")]);
    }));
}
