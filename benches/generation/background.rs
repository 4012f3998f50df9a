//! A batch of OpenAI's Batch API in what live calls leave of an engine: they hardly notice.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};

use super::caller::{Caller, Question, percentile};
use super::{Arguments, Scene, Verdicts, WARM_UP};
use crate::support::Failure;
use crate::support::directory::Directory;

const LIVE: Question = Question { priority: 2, tokens: 30, stream: true };
/// Of the engine's tokens.
const LIVE_SHARE: f64 = 0.5;
/// Of a line of the batch.
const LINE_TOKENS: usize = 60;
const RATIO: f64 = 1.1;
const BOUNDARY: &str = "the-boundary-of-this-form";

pub(crate) async fn run(
    arguments: &Arguments,
    verdicts: &mut Verdicts,
    best: f64,
) -> Result<(), Failure> {
    let directory = Directory::create()?;
    let kept = directory.file("batches");
    let keys = format!("[batch_api]\ndirectory = {:?}", kept.display().to_string());
    let scene = Scene::start(arguments, &keys).await?;
    let length = arguments.length() * 2;
    let capacity = arguments.engine().tokens_per_second();
    let rate = LIVE_SHARE * capacity / LIVE.tokens as f64;
    scene.caller.arrivals(rate, 2, WARM_UP, LIVE).await;
    scene.engine.done();
    let alone = scene.caller.arrivals(rate, 1, length, LIVE).await;
    let live_tokens = scene.engine.done().tokens;

    // More than it can do meanwhile, so that it runs all the time.
    let seconds = (WARM_UP * 3 + length + Duration::from_secs(10)).as_secs_f64();
    let lines = (capacity * seconds / LINE_TOKENS as f64) as usize;
    let batch = begin(&scene.caller, lines).await?;
    scene.caller.arrivals(rate, 2, WARM_UP * 3, LIVE).await;
    scene.engine.done();
    let beside = scene.caller.arrivals(rate, 1, length, LIVE).await;
    let done = scene.engine.done();
    let status = scene.caller.send(Request::get(scene.caller.at(&batch)), Bytes::new()).await?;
    if status["status"] != "in_progress" {
        return Err(format!("the batch did not run all the time: {status}").into());
    }
    verdicts.note(&format!(
        "        live calls at {LIVE_SHARE} of the engine: {:.0} tokens/s without a batch; {:.0} with one, of which {} lines are done",
        live_tokens as f64 / length.as_secs_f64(),
        done.tokens as f64 / length.as_secs_f64(),
        status["request_counts"]["completed"],
    ))?;
    for (what, before, now) in [
        ("first event", &alone.first, &beside.first),
        ("whole answer", &alone.whole, &beside.whole),
    ] {
        let (before, now) = (percentile(before, 99), percentile(now, 99));
        verdicts.note(&format!("        {what}: p99 {before:.0} and {now:.0} ms"))?;
        let ratio = now / before;
        let what = format!("live {what} beside a batch, p99");
        verdicts.hold(&what, ratio, RATIO, ratio <= RATIO)?;
    }
    let use_ = done.tokens as f64 / length.as_secs_f64() / best;
    verdicts.note(&format!("        use of the best fixed limit: {use_:.2}"))?;
    let failed = alone.failed + beside.failed;
    verdicts.hold("live calls failed", failed as f64, 0.0, failed == 0)
}

/// Hands a batch in. Returns the path of its page.
async fn begin(caller: &Caller, lines: usize) -> Result<String, Failure> {
    let path = "/v1/chat/completions";
    let messages = json!([{"role": "user", "content": "hi"}]);
    let body = json!({"model": "m", "messages": messages, "max_tokens": LINE_TOKENS});
    let line = |number: usize| json!({"custom_id": format!("line-{number}"), "method": "POST", "url": path, "body": body});
    let file: String = (0..lines).map(|number| format!("{}\n", line(number))).collect();
    let form = format!(
        "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n\
         --{BOUNDARY}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"lines.jsonl\"\r\n\r\n\
         {file}\r\n--{BOUNDARY}--\r\n"
    );
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    let upload = Request::post(caller.at("/v1/files")).header("content-type", kind);
    let file = caller.send(upload, form.into()).await?;
    let wish = json!({"input_file_id": file["id"], "endpoint": path, "completion_window": "24h"});
    let create = Request::post(caller.at("/v1/batches")).header("content-type", "application/json");
    let batch = caller.send(create, wish.to_string().into()).await?;
    let id = batch["id"].as_str().ok_or_else(|| format!("a batch without a name: {batch}"))?;
    Ok(format!("/v1/batches/{id}"))
}

impl Caller {
    /// A page of the proxy.
    fn at(&self, path: &str) -> String {
        format!("http://{}{path}", self.proxy)
    }

    /// Sends a request and wants JSON.
    async fn send(&self, request: http::request::Builder, body: Bytes) -> Result<Value, Failure> {
        let response = self.client.request(request.body(Full::new(body))?).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            return Err(format!("status {status}: {}", String::from_utf8_lossy(&body)).into());
        }
        Ok(serde_json::from_slice(&body)?)
    }
}
