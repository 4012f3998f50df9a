//! A scripted instance, and a model in front of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use batchwise::call::{Answer, Fault, FaultKind, InferAnswer, InferRequest, Served, Terms, Work};
use batchwise::config::Plan;
use batchwise::engine::{Model, ModelSetup, Models};
use batchwise::instance::{
    BatchContext, BatchLimit, BoxFuture, Description, Failure, Instance, NotUp,
};
use batchwise::telemetry::{Telemetry, Via};
use batchwise::tensor::{DataType, Shape, Tensor};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// What an instance does with one batch.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Doubles every element after so many milliseconds.
    Serve(u64),
    /// Says no.
    Fail(Failure),
    /// Says no after so many milliseconds.
    FailAfter(u64, Failure),
    /// Says no to every batch until then.
    FailUntil(Instant),
    /// Never answers.
    Stall,
    /// Answers with one row, whatever came.
    OneRow,
    /// Comes upon a defect of its own.
    Panic,
}

/// An instance that follows a script, then serves in 10 ms. Any batch with a value of 666 fails.
#[derive(Debug)]
pub(crate) struct Scripted {
    script: Mutex<VecDeque<Act>>,
    /// The rows of the batches that came.
    pub(crate) batches: Mutex<Vec<u64>>,
    /// Batches whose future was dropped before it was done.
    pub(crate) cancelled: Mutex<usize>,
    pub(crate) up: Mutex<bool>,
    /// Whether it answers that it is not ready yet.
    pub(crate) loads: Mutex<bool>,
    limit: BatchLimit,
    /// Adds a permit whenever a batch comes.
    pub(crate) arrivals: Semaphore,
}

impl Scripted {
    pub(crate) fn new(script: impl IntoIterator<Item = Act>) -> Arc<Self> {
        Self::limited(BatchLimit::Rows(4), script)
    }

    pub(crate) fn limited(limit: BatchLimit, script: impl IntoIterator<Item = Act>) -> Arc<Self> {
        Arc::new(Self {
            script: Mutex::new(script.into_iter().collect()),
            batches: Mutex::new(Vec::new()),
            cancelled: Mutex::new(0),
            up: Mutex::new(true),
            loads: Mutex::new(false),
            limit,
            arrivals: Semaphore::new(0),
        })
    }

    fn next(&self) -> Act {
        let mut script = self.script.lock().unwrap();
        if let Some(Act::FailUntil(until)) = script.front()
            && Instant::now() >= *until
        {
            script.pop_front();
        }
        match script.front() {
            Some(Act::FailUntil(until)) => Act::FailUntil(*until),
            _ => script.pop_front().unwrap_or(Act::Serve(10)),
        }
    }

    pub(crate) fn batches(&self) -> Vec<u64> {
        self.batches.lock().unwrap().clone()
    }

    /// Waits until one more batch has come.
    pub(crate) async fn arrival(&self) {
        self.arrivals.acquire().await.unwrap().forget();
    }
}

struct NoteCancel<'a> {
    cancelled: &'a Mutex<usize>,
    done: bool,
}

impl Drop for NoteCancel<'_> {
    fn drop(&mut self) {
        if !self.done {
            *self.cancelled.lock().unwrap() += 1;
        }
    }
}

impl Instance for Scripted {
    fn run(&self, work: Work, _: BatchContext) -> BoxFuture<'_, Result<Answer, Failure>> {
        let Work::Infer(request) = work else { panic!("only tensors are scripted") };
        let rows = request.inputs[0].shape().rows().unwrap();
        self.batches.lock().unwrap().push(rows);
        self.arrivals.add_permits(1);
        let act = self.next();
        Box::pin(async move {
            let mut note = NoteCancel { cancelled: &self.cancelled, done: false };
            let values = values(&request.inputs[0]);
            let outcome = match act {
                Act::Serve(millis) => {
                    tokio::time::sleep(Duration::from_millis(millis)).await;
                    if values.contains(&666) {
                        Err(Failure::broken("poisoned"))
                    } else {
                        Ok(answer(&values.iter().map(|value| value * 2).collect::<Vec<_>>()))
                    }
                }
                Act::Fail(failure) => Err(failure),
                Act::FailAfter(millis, failure) => {
                    tokio::time::sleep(Duration::from_millis(millis)).await;
                    Err(failure)
                }
                Act::FailUntil(_) => Err(Failure::broken("not yet")),
                Act::Stall => std::future::pending().await,
                Act::OneRow => Ok(answer(&[7])),
                Act::Panic => panic!("a defect"),
            };
            note.done = true;
            outcome
        })
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), NotUp>> {
        let loads = *self.loads.lock().unwrap();
        let trouble = if loads { NotUp::Loading } else { NotUp::Down };
        let up = *self.up.lock().unwrap() && !loads;
        Box::pin(async move { up.then_some(()).ok_or_else(|| trouble("not up".to_owned())) })
    }

    fn describe(&self) -> BoxFuture<'_, Result<Description, String>> {
        let batch_limit = self.limit;
        Box::pin(async move { Ok(Description { batch_limit, ..Description::default() }) })
    }
}

pub(crate) fn tensor(name: &str, values: &[i64]) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let shape = Shape::from(&[values.len() as u64, 1][..]);
    Tensor::new(name, DataType::Int64, shape, bytes.into()).unwrap()
}

pub(crate) fn values(tensor: &Tensor) -> Vec<i64> {
    let bytes = tensor.data().to_bytes();
    bytes.chunks_exact(8).map(|chunk| i64::from_le_bytes(chunk.try_into().unwrap())).collect()
}

fn answer(values: &[i64]) -> Answer {
    Answer::Infer(InferAnswer { outputs: vec![tensor("y", values)], ..InferAnswer::default() })
}

/// The model `m`, configured by `keys` and served by these instances.
pub(crate) fn setup(keys: &str, instances: &[Arc<Scripted>]) -> ModelSetup {
    let urls: Vec<_> =
        (0..instances.len()).map(|index| format!("\"grpc://127.0.0.1:{}\"", index + 1)).collect();
    let text = format!(
        "[[model]]\nname = \"m\"\nprotocol = \"kserve-grpc\"\ninstances = [{}]\n{keys}\n",
        urls.join(", ")
    );
    let plan = Plan::parse(&text, std::path::Path::new("models.toml")).unwrap();
    ModelSetup {
        plan: plan.models[0].clone(),
        instances: instances.iter().map(|one| Arc::clone(one) as Arc<dyn Instance>).collect(),
    }
}

/// [`setup`], started.
pub(crate) fn models(keys: &str, instances: &[Arc<Scripted>]) -> (Models, Arc<Model>) {
    let models = Models::start(vec![setup(keys, instances)], &Telemetry::new().unwrap());
    let model = models.get("m").unwrap();
    (models, model)
}

pub(crate) fn terms() -> Terms {
    Terms { request_id: "r".to_owned(), priority: None, deadline: None, trace: None, tenant: None }
}

pub(crate) fn work(values: &[i64]) -> Work {
    Work::Infer(InferRequest { inputs: vec![tensor("x", values)], ..InferRequest::default() })
}

/// Calls with these values and returns what came back.
pub(crate) async fn call(model: &Model, values: &[i64]) -> Result<Vec<i64>, FaultKind> {
    call_on(model, values, terms()).await
}

pub(crate) async fn call_on(
    model: &Model,
    asked: &[i64],
    terms: Terms,
) -> Result<Vec<i64>, FaultKind> {
    outputs(model.call(work(asked), terms, Via::Grpc).await).map_err(|fault| fault.kind)
}

pub(crate) type Outcome = Result<Vec<i64>, FaultKind>;

pub(crate) fn spawn(model: &Arc<Model>, values: &[i64]) -> JoinHandle<Outcome> {
    spawn_on(model, values, terms())
}

pub(crate) fn spawn_on(model: &Arc<Model>, values: &[i64], terms: Terms) -> JoinHandle<Outcome> {
    let (model, values) = (Arc::clone(model), values.to_vec());
    tokio::spawn(async move { call_on(&model, &values, terms).await })
}

/// Waits until nothing is on its way any more.
pub(crate) async fn idle(models: &Models) {
    loop {
        let status = models.status().await;
        let instances = status.iter().flat_map(|model| &model.instances);
        if instances.map(|instance| instance.in_flight).sum::<u32>() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(crate) fn outputs(outcome: Result<Served, Fault>) -> Result<Vec<i64>, Fault> {
    match outcome?.answer {
        Answer::Infer(answer) => Ok(values(&answer.outputs[0])),
        other => panic!("not tensors: {other:?}"),
    }
}
