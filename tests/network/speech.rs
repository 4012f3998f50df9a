//! What callers say and what they hear: requests with inputs that nobody else has, and whether an
//! answer is the one for just these inputs.
//!
//! Nothing here is shared with the proxy but the generated messages.

use batchwise::wire::pb;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Method, Request};
use pb::model_infer_request::InferInputTensor;
use prost::Message as _;
use serde_json::{Value, json};

use crate::model_server::{embedding_of, reply_to};

/// Where the numbers of calls begin: clear of what poisons.
const FIRST_NUMBER: i64 = 1000;
/// No call has more rows.
const MOST_ROWS: i64 = 64;
/// Numbers and texts that the model servers choke on.
const POISON: i64 = 666;

/// What a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    /// KServe v2 over gRPC, or in one of its streams.
    Grpc,
    /// KServe v2 over HTTP, all of it in JSON.
    Json,
    /// KServe v2 over HTTP, with binary tensors.
    Binary,
    /// KServe v1.
    Predict,
    /// OpenAI's embeddings.
    Embed,
    /// OpenAI's chat, whole.
    Chat,
    /// The same as a stream of events.
    ChatEvents,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataType {
    Fp32,
    Int64,
    Bytes,
}

impl DataType {
    fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "FP32",
            Self::Int64 => "INT64",
            Self::Bytes => "BYTES",
        }
    }
}

/// One call: what it asks and what else it says.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) id: u64,
    pub(crate) model: String,
    pub(crate) speech: Speech,
    pub(crate) datatype: DataType,
    pub(crate) rows: i64,
    /// Its last row is poison.
    pub(crate) poison: bool,
    pub(crate) priority: u8,
    pub(crate) tenant: u8,
    pub(crate) timeout_ms: Option<u64>,
}

/// What came of a call, as its caller sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The answer for just its inputs.
    Right,
    /// The same without its last row, which is what a server answered that leaves rows out.
    RowMissing,
    /// An error, with the proxy's reason for it.
    Refused(String),
    /// The connection broke, or never came about.
    Broken(String),
    /// Something else.
    Wrong(String),
    /// Nothing: its caller went away.
    Nothing,
}

/// The call that an element of an input belongs to; `None` for poison.
pub(crate) fn call_of(element: &str) -> Option<u64> {
    if let Some((_, rest)) = element.trim_matches('"').split_once("call ") {
        return rest.split(' ').next()?.parse().ok();
    }
    let number = element.parse::<f64>().ok()? as i64;
    u64::try_from(number.checked_sub(FIRST_NUMBER).filter(|number| *number >= 0)? / MOST_ROWS).ok()
}

impl Call {
    fn number(&self, row: i64) -> i64 {
        let id = i64::try_from(self.id).unwrap();
        let poison = self.poison && row + 1 == self.rows;
        if poison { POISON } else { FIRST_NUMBER + MOST_ROWS * id + row }
    }

    fn text(&self, row: i64) -> String {
        let poison = if self.poison && row + 1 == self.rows { " poison" } else { "" };
        format!("call {} row {row}{poison}", self.id)
    }

    fn texts(&self) -> Vec<String> {
        (0..self.rows).map(|row| self.text(row)).collect()
    }

    /// The elements as JSON, as they are asked or answered.
    fn elements(&self, answered: bool) -> Vec<Value> {
        let twice = |number: i64| if answered { 2 * number + 1 } else { number };
        let reversed = |text: String| if answered { text.chars().rev().collect() } else { text };
        let element = |row| match self.datatype {
            DataType::Fp32 => json!(twice(self.number(row)) as f64),
            DataType::Int64 => json!(twice(self.number(row))),
            DataType::Bytes => json!(reversed(self.text(row))),
        };
        (0..self.rows).map(element).collect()
    }

    /// The elements as raw bytes.
    fn raw(&self, answered: bool) -> Vec<u8> {
        let mut raw = Vec::new();
        for element in self.elements(answered) {
            match (self.datatype, element) {
                (DataType::Fp32, Value::Number(number)) => {
                    raw.put_f32_le(number.as_f64().unwrap() as f32);
                }
                (_, Value::Number(number)) => raw.put_i64_le(number.as_i64().unwrap()),
                (_, Value::String(text)) => {
                    raw.put_u32_le(u32::try_from(text.len()).unwrap());
                    raw.put_slice(text.as_bytes());
                }
                _ => unreachable!("elements are numbers or texts"),
            }
        }
        raw
    }

    fn named(&self) -> String {
        format!("call-{}", self.id)
    }

    /// The message of a call over gRPC.
    pub(crate) fn message(&self) -> Bytes {
        let message = pb::ModelInferRequest {
            model_name: self.model.clone(),
            id: self.named(),
            inputs: vec![InferInputTensor {
                name: "x".to_owned(),
                datatype: self.datatype.name().to_owned(),
                shape: vec![self.rows, 1],
                ..InferInputTensor::default()
            }],
            raw_input_contents: vec![self.raw(false).into()],
            ..pb::ModelInferRequest::default()
        };
        framed(&message.encode_to_vec())
    }

    /// The whole request.
    pub(crate) fn request(&self) -> Request<Bytes> {
        let model = &self.model;
        let (path, body) = match self.speech {
            Speech::Grpc => {
                ("/inference.GRPCInferenceService/ModelInfer".to_owned(), self.message())
            }
            Speech::Json => (format!("/v2/models/{model}/infer"), self.json().to_string().into()),
            Speech::Binary => (format!("/v2/models/{model}/infer"), self.binary().1),
            Speech::Predict => {
                let body = json!({ "instances": self.elements(false) });
                (format!("/v1/models/{model}:predict"), body.to_string().into())
            }
            Speech::Embed => {
                let body = json!({ "model": model, "input": self.texts() });
                ("/v1/embeddings".to_owned(), body.to_string().into())
            }
            Speech::Chat | Speech::ChatEvents => {
                let messages = [json!({ "role": "user", "content": self.text(0) })];
                let stream = self.speech == Speech::ChatEvents;
                let body = json!({ "model": model, "messages": messages, "stream": stream });
                ("/v1/chat/completions".to_owned(), body.to_string().into())
            }
        };
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = format!("http://proxy{path}").parse().unwrap();
        let headers = request.headers_mut();
        self.say(headers);
        if self.speech == Speech::Binary {
            headers.insert("inference-header-content-length", self.binary().0.into());
        }
        request
    }

    /// Headers that all calls have.
    pub(crate) fn say(&self, headers: &mut HeaderMap) {
        let kind =
            if self.speech == Speech::Grpc { "application/grpc" } else { "application/json" };
        headers.insert("content-type", kind.parse().unwrap());
        headers.insert("host", "proxy".parse().unwrap());
        headers.insert("x-request-id", self.named().parse().unwrap());
        headers.insert("x-request-priority", u16::from(self.priority).into());
        headers.insert("x-tenant-id", format!("tenant-{}", self.tenant).parse().unwrap());
        if let Some(timeout) = self.timeout_ms {
            headers.insert("x-request-timeout-ms", timeout.into());
        }
    }

    fn json(&self) -> Value {
        let input = json!({
            "name": "x", "datatype": self.datatype.name(), "shape": [self.rows, 1],
            "data": self.elements(false),
        });
        json!({ "id": self.named(), "inputs": [input] })
    }

    /// The length of the head, and head and tensor.
    fn binary(&self) -> (usize, Bytes) {
        let raw = self.raw(false);
        let input = json!({
            "name": "x", "datatype": self.datatype.name(), "shape": [self.rows, 1],
            "parameters": { "binary_data_size": raw.len() },
        });
        let head = json!({
            "id": self.named(), "inputs": [input], "parameters": { "binary_data_output": true },
        });
        let head = head.to_string();
        (head.len(), [head.as_bytes(), &raw].concat().into())
    }

    /// What a reply means whose status is success.
    pub(crate) fn hear(&self, headers: &HeaderMap, body: &Bytes) -> Heard {
        let heard = match self.speech {
            Speech::Grpc => unframed(body).and_then(|message| {
                let reply = pb::ModelInferResponse::decode(message).ok()?;
                Some(self.hear_message(&reply))
            }),
            Speech::Json | Speech::Binary => self.hear_kserve(headers, body),
            Speech::Predict => serde_json::from_slice(body).ok().and_then(|reply: Value| {
                Self::compare(reply.get("predictions")?.as_array()?, &self.elements(true))
            }),
            Speech::Embed => self.hear_embeddings(body),
            Speech::Chat => self.hear_chat(body),
            Speech::ChatEvents => self.hear_events(body),
        };
        heard.unwrap_or_else(|| Heard::Wrong(String::from_utf8_lossy(body).into_owned()))
    }

    pub(crate) fn hear_message(&self, reply: &pb::ModelInferResponse) -> Heard {
        let is_mine = reply.id == self.named() && reply.model_name == self.model;
        let output = reply.outputs.first().zip(reply.raw_output_contents.first());
        let heard = output.filter(|_| is_mine).and_then(|(output, raw)| {
            let shape = (output.name.as_str(), output.datatype.as_str(), output.shape.as_slice());
            self.hear_tensor(shape, raw)
        });
        heard.unwrap_or_else(|| Heard::Wrong(format!("{reply:?}")))
    }

    fn hear_tensor(
        &self,
        (name, datatype, shape): (&str, &str, &[i64]),
        raw: &[u8],
    ) -> Option<Heard> {
        if name != "y" || datatype != self.datatype.name() {
            return None;
        }
        if shape == [self.rows, 1] && raw == self.raw(true) {
            return Some(Heard::Right);
        }
        let shorter = Self { rows: self.rows - 1, poison: false, ..self.clone() };
        let missing = shape == [self.rows - 1, 1] && raw == shorter.raw(true);
        missing.then_some(Heard::RowMissing)
    }

    fn hear_kserve(&self, headers: &HeaderMap, body: &Bytes) -> Option<Heard> {
        let length = headers.get("inference-header-content-length");
        let length = match length {
            Some(length) => length.to_str().ok()?.parse().ok()?,
            None => body.len(),
        };
        let head: Value = serde_json::from_slice(body.get(..length)?).ok()?;
        let output = head.get("outputs")?.get(0)?;
        let shape: Vec<i64> = serde_json::from_value(output.get("shape")?.clone()).ok()?;
        let (name, datatype) = (output.get("name")?.as_str()?, output.get("datatype")?.as_str()?);
        if head.get("id")? != &json!(self.named()) {
            return None;
        }
        if self.speech == Speech::Binary {
            return self.hear_tensor((name, datatype, &shape), body.get(length..)?);
        }
        let heard = Self::compare(output.get("data")?.as_array()?, &self.elements(true))?;
        let rows = if heard == Heard::Right { self.rows } else { self.rows - 1 };
        (name == "y" && datatype == self.datatype.name() && shape == [rows, 1]).then_some(heard)
    }

    fn hear_embeddings(&self, body: &Bytes) -> Option<Heard> {
        let reply: Value = serde_json::from_slice(body).ok()?;
        let data = reply.get("data")?.as_array()?;
        let vectors: Option<Vec<Value>> =
            data.iter().map(|item| item.get("embedding").cloned()).collect();
        let indices = data.iter().map(|item| item.get("index").and_then(Value::as_u64));
        if !indices.eq((0..data.len() as u64).map(Some)) {
            return None;
        }
        let expected: Vec<Value> =
            self.texts().iter().map(|text| json!(embedding_of(text, 8))).collect();
        Self::compare(&vectors?, &expected)
    }

    fn hear_chat(&self, body: &Bytes) -> Option<Heard> {
        let reply: Value = serde_json::from_slice(body).ok()?;
        let content = reply.get("choices")?.get(0)?.get("message")?.get("content")?;
        (content == &json!(reply_to(&self.text(0)))).then_some(Heard::Right)
    }

    fn hear_events(&self, body: &Bytes) -> Option<Heard> {
        let text = std::str::from_utf8(body).ok()?;
        let events: Vec<&str> =
            text.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect();
        let (last, events) = events.split_last()?;
        if last.starts_with("{\"error\"") {
            return Some(Heard::Broken((*last).to_owned()));
        }
        let mut said = String::new();
        for event in events {
            let event: Value = serde_json::from_str(event).ok()?;
            let delta = event.get("choices")?.get(0)?.get("delta")?;
            said.push_str(delta.get("content").and_then(Value::as_str).unwrap_or_default());
        }
        (*last == "[DONE]" && said == reply_to(&self.text(0))).then_some(Heard::Right)
    }

    fn compare(answered: &[Value], expected: &[Value]) -> Option<Heard> {
        let same = |one: &[Value], two: &[Value]| {
            one.len() == two.len() && one.iter().zip(two).all(|(one, two)| is_same(one, two))
        };
        if same(answered, expected) {
            return Some(Heard::Right);
        }
        let (_, shorter) = expected.split_last()?;
        same(answered, shorter).then_some(Heard::RowMissing)
    }
}

/// Whether two elements are equal; a whole number may be written with a fraction or without.
fn is_same(one: &Value, two: &Value) -> bool {
    one == two || one.as_f64().is_some_and(|one| two.as_f64() == Some(one))
}

/// A message with the prefix that gRPC gives it.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap());
    framed.put_slice(message);
    framed.freeze()
}

/// The one message of a body.
fn unframed(body: &Bytes) -> Option<Bytes> {
    let mut rest = body.clone();
    let message = next_message(&mut rest)?;
    rest.is_empty().then_some(message)
}

/// Takes a message off the front of what has come of a stream, once it is whole.
pub(crate) fn next_message(rest: &mut Bytes) -> Option<Bytes> {
    let [flag, length @ ..] = *rest.first_chunk::<5>()?;
    let length = u32::from_be_bytes(length) as usize;
    if flag != 0 || rest.len() < 5 + length {
        return None;
    }
    rest.advance(5);
    Some(rest.split_to(length))
}
