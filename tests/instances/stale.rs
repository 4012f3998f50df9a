//! Servers that close a connection which they were to keep, just as the next request comes.
#![expect(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use batchwise::call::{Answer, RelayRequest, Work};
use batchwise::instance::{Instance as _, OpenAi};
use batchwise::lane::Blame;
use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::scripted::Scripted;
use crate::support::{bounded, context, failure, url};

const REPLY: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\n{}";

fn chat() -> Work {
    Work::Relay(RelayRequest {
        affinity: None,
        path: "/v1/chat/completions",
        headers: HeaderMap::new(),
        body: Bytes::from_static(b"{}"),
        stream: false,
        can_be_named: true,
        with_usage: None,
    })
}

/// Answers so many requests of each connection, and closes it when the next one has come.
async fn answers(requests: usize, mut stream: TcpStream, came: Arc<AtomicUsize>) {
    let mut buffer = [0; 4096];
    for number in 0.. {
        if !matches!(stream.read(&mut buffer).await, Ok(1..)) {
            return;
        }
        came.fetch_add(1, Ordering::SeqCst);
        if number == requests || stream.write_all(REPLY).await.is_err() {
            return;
        }
    }
}

async fn server(requests: usize) -> (Scripted, Arc<AtomicUsize>) {
    let came = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&came);
    let server = Scripted::raw(move |stream| answers(requests, stream, Arc::clone(&counted)));
    (server.await, came)
}

async fn ask(instance: &OpenAi) -> Result<Bytes, Blame> {
    match bounded(instance.run(chat(), context())).await {
        Ok(Answer::Relay(answer)) => Ok(bounded(answer.body.collect()).await.unwrap().to_bytes()),
        other => Err(failure(other).blame),
    }
}

#[tokio::test]
async fn a_kept_connection_that_turns_out_to_be_closed_costs_nobody_an_answer() {
    let (server, came) = server(1).await;
    let instance = OpenAi::new(url(server.address), "m", None);
    for number in 1..=4 {
        assert_eq!(ask(&instance).await, Ok(Bytes::from_static(b"{}")), "{number}");
        assert_eq!(server.connections(), number);
    }
    assert_eq!(came.load(Ordering::SeqCst), 4 + 3);
}

#[tokio::test]
async fn what_must_not_be_repeated_is_not() {
    let (server, came) = server(1).await;
    let instance = OpenAi::new(url(server.address), "m", None).repeating(false);
    assert!(ask(&instance).await.is_ok());
    assert_eq!(ask(&instance).await, Err(Blame::Lost));
    assert_eq!(came.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_new_connection_that_breaks_is_the_request_that_is_lost() {
    let (server, came) = server(0).await;
    let instance = OpenAi::new(url(server.address), "m", None);
    assert_eq!(ask(&instance).await, Err(Blame::Lost));
    assert_eq!(came.load(Ordering::SeqCst), 1);
}

/// A request that ends its server is not taken for one that nobody has looked at.
#[tokio::test]
async fn a_server_that_is_gone_then_was_lost() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let instance = OpenAi::new(url(listener.local_addr().unwrap()), "m", None);
    let came = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&came);
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        drop(listener);
        answers(1, stream, counted).await;
    });
    assert!(ask(&instance).await.is_ok());
    assert_eq!(ask(&instance).await, Err(Blame::Lost));
    server.await.unwrap();
    assert_eq!(came.load(Ordering::SeqCst), 2);
}
