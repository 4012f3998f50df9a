//! Answers of instances that are made up here.

use futures_util::StreamExt as _;
use http_body_util::StreamBody;

use super::*;
use crate::telemetry::Telemetry;

type Piece = Result<&'static str, &'static str>;

const BEAT: Duration = Duration::from_secs(15);

/// Relays for a model whose metrics are on the page.
fn site() -> (Telemetry, impl Fn() -> Relay) {
    let telemetry = Telemetry::new().unwrap();
    let metrics = Arc::new(ModelMetrics::new(&telemetry, "m", 1, &[]));
    (telemetry, move || Relay { heartbeat: Some(BEAT), metrics: Arc::clone(&metrics) })
}

fn relay() -> Relay {
    site().1()
}

fn frame(piece: Piece) -> Result<Frame<Bytes>, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Frame::data(Bytes::from_static(piece?.as_bytes())))
}

fn answer(status: u16, content_type: &str, pieces: Vec<Piece>) -> RelayAnswer {
    let body = StreamBody::new(futures_util::stream::iter(pieces.into_iter().map(frame)));
    let headers = [
        (CONTENT_TYPE, content_type.parse().unwrap()),
        (CONTENT_LENGTH, "999".parse().unwrap()),
        (HeaderName::from_static("openai-model"), "m".parse().unwrap()),
    ];
    let status = StatusCode::from_u16(status).unwrap();
    RelayAnswer::new(status, headers.into_iter().collect(), body.boxed_unsync())
}

async fn text(response: Response) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn a_stream_goes_through_untouched() {
    let pieces = vec![Ok("data: {\"a\""), Ok(":1}\r\n\r\n: hm\n\n"), Ok("data: [DONE]\n\n")];
    let answer = answer(200, "text/event-stream; charset=utf-8", pieces);
    let response = respond(answer, relay()).await.unwrap();
    let headers = response.headers();
    assert_eq!(headers[CACHE_CONTROL], "no-cache");
    assert_eq!(headers[X_ACCEL_BUFFERING], "no");
    assert_eq!(headers["openai-model"], "m");
    assert!(!headers.contains_key(CONTENT_LENGTH));
    let expected = "data: {\"a\":1}\r\n\r\n: hm\n\ndata: [DONE]\n\n";
    assert_eq!(text(response).await, expected);
}

#[tokio::test]
async fn a_broken_stream_ends_with_an_error_in_place_of_what_is_not_whole() {
    for (pieces, start) in [
        (vec![Ok("data: 1\n\n"), Err("reset")], "data: 1\n\ndata: {\"error\":{"),
        (vec![Ok("data: 1\n\ndata: {"), Err("reset"), Ok("more")], "data: 1\n\ndata: {\"error\":{"),
        (vec![Err("reset")], "data: {\"error\":{"),
    ] {
        let response = respond(answer(200, "text/event-stream", pieces), relay()).await.unwrap();
        let text = text(response).await;
        assert!(text.starts_with(start) && text.ends_with("}}\n\n"), "{text}");
        assert!(text.contains("reset") && !text.contains("[DONE]") && !text.contains("more"));
        let event = text.trim_end().rsplit_once("data: ").unwrap().1;
        let event: serde_json::Value = serde_json::from_str(event).unwrap();
        for key in ["message", "type", "param", "code"] {
            assert!(event["error"].get(key).is_some(), "{event}");
        }
    }
}

/// A stream of events each of whose pieces comes so many seconds after the one before.
fn slow(pieces: Vec<(u64, Piece)>) -> RelayAnswer {
    let pieces = futures_util::stream::iter(pieces).then(|(seconds, piece)| async move {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        frame(piece)
    });
    let body = StreamBody::new(pieces).boxed_unsync();
    RelayAnswer { body, ..answer(200, "text/event-stream", Vec::new()) }
}

#[tokio::test(start_paused = true)]
async fn comments_fill_the_silence_between_events() {
    let pieces = vec![
        (40, Ok("data: 1\n\n")),
        (14, Ok("data: 2\n\n")),
        (14, Ok("data: 3\n\n")),
        (16, Ok("data: [DONE]\n\n")),
    ];
    let start = tokio::time::Instant::now();
    let mut body = respond(slow(pieces), relay()).await.unwrap().into_body();
    let mut came = Vec::new();
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        came.push((start.elapsed().as_secs(), String::from_utf8(data.to_vec()).unwrap()));
    }
    let expected = [
        (15, ": keep-alive\n\n"),
        (30, ": keep-alive\n\n"),
        (40, "data: 1\n\n"),
        (54, "data: 2\n\n"),
        (68, "data: 3\n\n"),
        (83, ": keep-alive\n\n"),
        (84, "data: [DONE]\n\n"),
    ];
    assert_eq!(came, expected.map(|(at, text)| (at, text.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn no_comment_comes_within_an_event() {
    let pieces = vec![
        (1, Ok("data: 1\r\n\r")),
        (40, Ok("\ndata: {\"a\"")),
        (40, Ok(":1}\n")),
        (40, Ok("\n")),
        (40, Err("reset")),
    ];
    let text = text(respond(slow(pieces), relay()).await.unwrap()).await;
    let plain = text.replace(": keep-alive\n\n", "");
    assert!(plain.starts_with("data: 1\r\n\r\ndata: {\"a\":1}\n\ndata: {\"error\""), "{text:?}");
    assert!(text.starts_with("data: 1\r\n\r\n: keep-alive\n\n"), "{text:?}");
    let without = Relay { heartbeat: None, ..relay() };
    let quiet = respond(slow(vec![(90, Ok("data: 1\n\n"))]), without).await.unwrap();
    assert_eq!(self::text(quiet).await, "data: 1\n\n");
}

#[tokio::test]
async fn what_only_we_asked_for_is_counted_and_not_shown() {
    let (telemetry, relay) = site();
    let usage = r#"{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}"#;
    let whole = format!(r#"{{"choices":[],"usage":{usage}}}"#);
    let events = format!("data: {{\"a\":1,\"usage\":null}}\n\ndata: {whole}\n\ndata: [DONE]\n\n");
    let events: &'static str = events.leak();
    let whole: &'static str = whole.leak();
    let mut hidden = answer(200, "text/event-stream", vec![Ok(events)]);
    hidden.hides_usage = true;
    let hidden = respond(hidden, relay()).await.unwrap();
    assert_eq!(text(hidden).await, "data: {\"a\":1}\n\ndata: [DONE]\n\n");
    let shown = respond(answer(200, "text/event-stream", vec![Ok(events)]), relay()).await;
    assert_eq!(text(shown.unwrap()).await, events);
    let once = respond(answer(200, "application/json", vec![Ok(whole)]), relay()).await;
    assert_eq!(text(once.unwrap()).await, whole);
    let page = telemetry.render();
    for line in [
        r#"batchwise_tokens_total{model="m",direction="prompt"} 9"#,
        r#"batchwise_tokens_total{model="m",direction="completion"} 12"#,
    ] {
        assert!(page.contains(line), "{page}");
    }
}

#[tokio::test]
async fn what_is_compressed_is_not_looked_into() {
    let mut packed = answer(200, "text/event-stream", vec![Ok("data: half")]);
    packed.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    let response = respond(packed, relay()).await.unwrap();
    assert_eq!(response.headers()[CONTENT_LENGTH], "999");
    assert_eq!(text(response).await, "data: half");
}

#[tokio::test]
async fn an_error_of_the_instance_is_a_fault() {
    let fault = async |status, headers: &[(HeaderName, &'static str)]| {
        let mut answer = answer(status, "text/plain", vec![Ok("no")]);
        for (name, value) in headers {
            answer.headers.insert(name, HeaderValue::from_static(value));
        }
        respond(answer, relay()).await.unwrap_err()
    };
    let refused = fault(404, &[]).await;
    assert_eq!(refused.kind, FaultKind::Refused);
    assert_eq!(refused.refusal.unwrap().body.unwrap(), "no");
    assert_eq!(fault(302, &[]).await.kind, FaultKind::Upstream);
    let retry_after = (HeaderName::from_static("retry-after"), "7");
    for (status, kind) in [(429, FaultKind::Refused), (503, FaultKind::Overloaded)] {
        let busy = fault(status, std::slice::from_ref(&retry_after)).await;
        assert_eq!((busy.kind, busy.retry_after), (kind, Some(Duration::from_secs(7))));
        assert_eq!(busy.refusal.unwrap().http.unwrap().as_u16(), status);
    }
}

#[test]
fn secrets_and_connection_headers_stay_here() {
    let headers: HeaderMap = [
        ("authorization", "Bearer x"),
        ("cookie", "x"),
        ("host", "x"),
        ("content-type", "application/json"),
        ("openai-beta", "x"),
    ]
    .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
    .into_iter()
    .collect();
    let kept = headers_for_instance(&headers);
    let mut names: Vec<_> = kept.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-type", "openai-beta"]);
}
