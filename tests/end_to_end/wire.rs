//! What goes in comes out right: datatypes, sizes, streams, parameters.

use batchwise::tensor::DataType;
use batchwise::wire::pb;
use futures_util::StreamExt as _;
use pb::infer_parameter::ParameterChoice;
use tonic::Request;

use crate::model_server::{OutputContents, ServiceTime, Settings};
use crate::stage::{Stage, ask, ask_many, is_answer_to, raw, request};

#[tokio::test(flavor = "multi_thread")]
async fn one_row_calls_ride_in_batches_and_each_gets_its_own_answer() {
    let millis = std::time::Duration::from_millis;
    let service = ServiceTime::linear(millis(5), millis(0));
    let stage =
        Stage::new("", [Settings { service, max_batch_size: 32, ..Settings::default() }]).await;
    assert_eq!(ask_many(&stage.client().await, 200).await, []);
    let seen = stage.servers[0].statistics();
    assert_eq!(seen.rows, 200);
    assert!(seen.largest_batch > 8 && seen.largest_batch <= 32, "{:?}", seen.batch_sizes);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_datatype_passes_unchanged() {
    let stage = Stage::plain().await;
    let mut client = stage.client().await;
    for datatype in DataType::ALL {
        let data: Vec<u8> = match datatype.element_size() {
            Some(size) => (0..6 * size).map(|byte| u8::from(byte % 2 == 0)).collect(),
            None => (1..=6_u32)
                .flat_map(|n| [n.to_le_bytes().to_vec(), vec![b'a'; n as usize]].concat())
                .collect(),
        };
        let sent = raw(datatype.name(), &[2, 3], data);
        let direct =
            crate::stage::Client::connect(format!("http://{}", stage.servers[0].grpc_address()));
        let direct = direct.await.unwrap().model_infer(sent.clone()).await.unwrap().into_inner();
        let reply = client.model_infer(sent).await.unwrap().into_inner();
        assert_eq!(reply.outputs, direct.outputs, "{datatype}");
        assert_eq!(reply.raw_output_contents, direct.raw_output_contents, "{datatype}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn typed_contents_of_a_server_come_back_raw() {
    let typed = Settings { output_contents: OutputContents::Typed, ..Settings::default() };
    let stage = Stage::new("", [typed]).await;
    ask(&mut stage.client().await, request(2, 3, 1.0)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn megabytes_and_nothing_at_all_pass() {
    let stage = Stage::plain().await;
    let mut client = stage.client().await;
    ask(&mut client, request(4, 1_000_000, 0.0)).await.unwrap();
    ask(&mut client, request(0, 5, 0.0)).await.unwrap();
    ask(&mut client, request(3, 0, 0.0)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_more_rows_than_a_batch_is_split_and_rejoined() {
    let stage = Stage::new("", [Settings { max_batch_size: 8, ..Settings::default() }]).await;
    ask(&mut stage.client().await, request(50, 3, 0.0)).await.unwrap();
    let seen = stage.servers[0].statistics();
    assert_eq!((seen.rows, seen.largest_batch, seen.failed), (50, 8, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_parameters_and_ids_reach_the_model_and_scheduling_ones_do_not() {
    let stage = Stage::plain().await;
    let mut sent = request(1, 2, 3.0);
    sent.id = "my-id".to_owned();
    let parameter = |choice| pb::InferParameter { parameter_choice: Some(choice) };
    let custom = ParameterChoice::StringParam("warm".to_owned());
    sent.parameters.insert("temperature".to_owned(), parameter(custom));
    sent.parameters.insert("priority".to_owned(), parameter(ParameterChoice::Uint64Param(1)));
    sent.parameters.insert("timeout".to_owned(), parameter(ParameterChoice::Int64Param(5_000_000)));
    let reply = stage.client().await.model_infer(sent).await.unwrap();
    assert!(reply.metadata().get("server-timing").is_some());
    assert_eq!(reply.metadata().get("x-request-id").unwrap(), "my-id");
    assert_eq!(reply.into_inner().id, "my-id");
    let seen = stage.servers[0].statistics().seen.pop_back().unwrap();
    assert_eq!(seen.parameters.keys().collect::<Vec<_>>(), ["temperature"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_one_stream_share_batches_and_errors_leave_it_open() {
    let millis = std::time::Duration::from_millis;
    let service = ServiceTime::linear(millis(5), millis(0));
    let stage =
        Stage::new("", [Settings { service, max_batch_size: 16, ..Settings::default() }]).await;
    let mut requests: Vec<_> = (0..40)
        .map(|index| pb::ModelInferRequest { id: index.to_string(), ..request(1, 2, index as f32) })
        .collect();
    requests[7].model_name = "nope".to_owned();
    let outbound = Request::new(futures_util::stream::iter(requests.clone()));
    let mut replies = stage.client().await.model_stream_infer(outbound).await.unwrap().into_inner();
    let mut answered = 0;
    while let Some(reply) = replies.next().await {
        let reply = reply.unwrap();
        let response = reply.infer_response.unwrap();
        let index: usize = response.id.parse().unwrap();
        if index == 7 {
            assert!(reply.error_message.contains("nope"), "{}", reply.error_message);
        } else {
            assert!(is_answer_to(&requests[index], &response));
        }
        answered += 1;
    }
    assert_eq!(answered, 40);
    assert!(stage.servers[0].statistics().largest_batch > 4);
}
