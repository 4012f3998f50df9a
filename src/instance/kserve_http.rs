//! Instances that speak the Open Inference Protocol over HTTP.

use std::sync::atomic::{AtomicU8, Ordering};

use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::connection::{HttpClient, HttpReply, MAX_REPLY_BYTES, insert_http_context};
use super::describe::{Configuration, DeclaredTensor, Metadata, describe};
use super::http_paths::{get, get_ready, get_success, segment};
use super::http_status::failure_of;
use super::{BatchContext, BoxFuture, Description, Failure, Instance, Network, NotUp};
use crate::call::{Answer, InferRequest, Work};
use crate::config::InstanceUrl;
use crate::lane::Blame;
use crate::tensor::Rope;
use crate::wire::json::{parse_infer_reply, write_infer_request, write_plain_infer_request};

/// An instance that speaks the Open Inference Protocol over pooled HTTP/1.1 connections.
///
/// Tensors travel as binary data. An instance that does not know that extension is found out by its
/// first refusal, and gets JSON from then on.
#[derive(Debug)]
pub struct KserveHttp {
    client: HttpClient,
    model: String,
    model_path: String,
    probe_path: Option<String>,
    form: LearnedForm,
}

/// In which form an instance takes tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Unknown,
    Binary,
    Json,
}

#[derive(Debug, Default)]
struct LearnedForm(AtomicU8);

impl LearnedForm {
    fn get(&self) -> Form {
        match self.0.load(Ordering::Relaxed) {
            0 => Form::Unknown,
            1 => Form::Binary,
            _ => Form::Json,
        }
    }

    fn learn(&self, form: Form) {
        self.0.store(form as u8, Ordering::Relaxed);
    }
}

impl KserveHttp {
    /// The instance at `url` that knows the model as `model`. `probe_path` is asked instead of the
    /// model's own readiness, and only its status counts.
    pub fn new(url: InstanceUrl, model: &str, probe_path: Option<String>) -> Self {
        Self::over(&Network::Tcp, url, model, probe_path)
    }

    /// The same; `repeats`: whether a request may be sent again over a new connection when the one that
    /// it went over turns out to be closed.
    #[must_use]
    pub fn repeating(self, repeats: bool) -> Self {
        Self { client: self.client.repeating(repeats), ..self }
    }

    /// The same, reached over `network`.
    pub fn over(
        network: &Network,
        url: InstanceUrl,
        model: &str,
        probe_path: Option<String>,
    ) -> Self {
        Self {
            client: HttpClient::new(network, url),
            model: model.to_owned(),
            model_path: format!("/v2/models/{}", segment(model)),
            probe_path,
            form: LearnedForm::default(),
        }
    }

    async fn infer(
        &self,
        request: &InferRequest,
        context: &BatchContext,
    ) -> Result<Answer, Failure> {
        let form = self.form.get();
        if form == Form::Json {
            return self.infer_plain(request, context).await;
        }
        let (headers, body) = write_infer_request(request, &context.request_id);
        let failure = match self.exchange(request, context, headers, body).await {
            Ok(answer) => {
                self.form.learn(Form::Binary);
                return Ok(answer);
            }
            Err(failure) => failure,
        };
        if form == Form::Binary || !may_be_about_the_form(&failure) {
            return Err(failure);
        }
        let answer = self.infer_plain(request, context).await?;
        tracing::info!(
            instance = ?self.client,
            "the instance does not take binary tensor data; it gets JSON from now on"
        );
        self.form.learn(Form::Json);
        Ok(answer)
    }

    async fn infer_plain(
        &self,
        request: &InferRequest,
        context: &BatchContext,
    ) -> Result<Answer, Failure> {
        let (headers, body) =
            write_plain_infer_request(request, &context.request_id).map_err(Failure::refused)?;
        self.exchange(request, context, headers, body).await
    }

    async fn exchange(
        &self,
        request: &InferRequest,
        context: &BatchContext,
        mut headers: HeaderMap,
        body: Rope,
    ) -> Result<Answer, Failure> {
        insert_http_context(&mut headers, context);
        let version = match request.version.as_str() {
            "" => String::new(),
            version => format!("/versions/{}", segment(version)),
        };
        let path = format!("{}{version}/infer", self.model_path);
        let reply =
            self.client.exchange(Method::POST, &path, headers, body, MAX_REPLY_BYTES).await?;
        if !reply.status.is_success() {
            return Err(failure_of(&reply));
        }
        let HttpReply { headers, body, .. } = reply;
        parse_infer_reply(&headers, body)
            .map(Answer::Infer)
            .map_err(|error| Failure::broken(error.to_string()))
    }

    async fn ask_ready(&self) -> Result<(), NotUp> {
        let path = match &self.probe_path {
            Some(path) => path.clone(),
            None => format!("{}/ready", self.model_path),
        };
        get_ready(&self.client, &path).await.map(drop)
    }

    /// Learns from the server's own words whether it takes binary tensor data. Some that do not
    /// break over it instead of refusing it, which nothing could be learned from.
    async fn ask_form(&self) {
        if self.form.get() != Form::Unknown {
            return;
        }
        let Ok(reply) = get_success(&self.client, "/v2").await else { return };
        let Ok(server) = document::<ServerDocument>(&reply) else { return };
        let Some(extensions) = server.extensions else { return };
        let binary = extensions.iter().any(|extension| extension == "binary_tensor_data");
        self.form.learn(if binary { Form::Binary } else { Form::Json });
    }

    async fn ask_description(&self) -> Result<Description, String> {
        self.ask_form().await;
        let reply = get_success(&self.client, &self.model_path).await?;
        let metadata: MetadataDocument = document(&reply)?;
        let reply = get(&self.client, &format!("{}/config", self.model_path)).await?;
        let configuration = match reply.status {
            status if status.is_success() => {
                Some(Configuration::from(document::<ConfigurationDocument>(&reply)?))
            }
            // Not every server has such a thing; one that is busy is to be asked again.
            status if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => None,
            StatusCode::NOT_IMPLEMENTED => None,
            status => return Err(format!("the configuration: status {}", status.as_u16())),
        };
        Ok(describe(&self.model, metadata.into(), configuration.as_ref()))
    }
}

/// Whether an instance may have refused because it does not know the binary form. Those that do not
/// fail at reading the body: a malformed or unprocessable request, or a media type that they do not
/// take. It may just as well be the request, which the attempt with JSON will tell.
fn may_be_about_the_form(failure: &Failure) -> bool {
    let status = failure.fault.refusal.as_ref().and_then(|refusal| refusal.http);
    failure.blame == Blame::Refused
        && matches!(
            status,
            Some(
                StatusCode::BAD_REQUEST
                    | StatusCode::NOT_ACCEPTABLE
                    | StatusCode::UNSUPPORTED_MEDIA_TYPE
                    | StatusCode::UNPROCESSABLE_ENTITY
            )
        )
}

/// What a server says of itself.
#[derive(Deserialize)]
struct ServerDocument {
    extensions: Option<Vec<String>>,
}

fn document<T: DeserializeOwned>(reply: &HttpReply) -> Result<T, String> {
    serde_json::from_slice(&reply.bytes())
        .map_err(|error| format!("the model's description is malformed: {error}"))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MetadataDocument {
    platform: String,
    versions: Vec<String>,
    inputs: Vec<TensorDocument>,
    outputs: Vec<TensorDocument>,
}

#[derive(Deserialize)]
struct TensorDocument {
    name: String,
    datatype: String,
    #[serde(default)]
    shape: Vec<i64>,
}

impl From<MetadataDocument> for Metadata {
    fn from(document: MetadataDocument) -> Self {
        let declared = |tensors: Vec<TensorDocument>| {
            let declare =
                |TensorDocument { name, datatype, shape }| DeclaredTensor { name, datatype, shape };
            tensors.into_iter().map(declare).collect()
        };
        Metadata {
            platform: document.platform,
            versions: document.versions,
            inputs: declared(document.inputs),
            outputs: declared(document.outputs),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ConfigurationDocument {
    max_batch_size: Option<i64>,
    instance_group: Vec<GroupDocument>,
    model_transaction_policy: PolicyDocument,
    sequence_batching: Option<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct GroupDocument {
    count: i64,
    gpus: Vec<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PolicyDocument {
    decoupled: bool,
}

impl From<ConfigurationDocument> for Configuration {
    fn from(document: ConfigurationDocument) -> Self {
        let executions = |group: &GroupDocument| {
            u64::try_from(group.count).unwrap_or(0).saturating_mul(group.gpus.len().max(1) as u64)
        };
        Configuration {
            max_batch_size: document.max_batch_size,
            executions: document.instance_group.iter().map(executions).fold(0, u64::saturating_add),
            decoupled: document.model_transaction_policy.decoupled,
            sequences: document.sequence_batching.is_some(),
        }
    }
}

impl Instance for KserveHttp {
    fn run(&self, work: Work, context: BatchContext) -> BoxFuture<'_, Result<Answer, Failure>> {
        Box::pin(async move {
            match work {
                Work::Infer(request) => self.infer(&request, &context).await,
                Work::Items(_) | Work::Relay(_) => Err(super::wrong_kind("tensors")),
            }
        })
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), NotUp>> {
        Box::pin(self.ask_ready())
    }

    fn describe(&self) -> BoxFuture<'_, Result<Description, String>> {
        Box::pin(self.ask_description())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read_as_triton_writes_it() {
        let text = r#"{"name":"m","platform":"onnx","max_batch_size":8,"input":[{"name":"x"}],
            "instance_group":[{"name":"g","kind":"KIND_GPU","count":2,"gpus":[0,1]},{"count":1}],
            "model_transaction_policy":{"decoupled":false},"dynamic_batching":{}}"#;
        let read =
            Configuration::from(serde_json::from_str::<ConfigurationDocument>(text).unwrap());
        assert_eq!((read.max_batch_size, read.executions), (Some(8), 5));
        assert!(!read.decoupled && !read.sequences);
        let text = r#"{"sequence_batching":{},"model_transaction_policy":{"decoupled":true}}"#;
        let read =
            Configuration::from(serde_json::from_str::<ConfigurationDocument>(text).unwrap());
        assert!(read.decoupled && read.sequences);
    }
}
