//! Running the proxy: start, wait for a signal, drain.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::Body;
use futures_util::future::join_all;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::instances::{UnusableInstances, set_up_all};
use super::listeners::Listeners;
use super::model_files::ModelFiles;
use super::reload::{Origin, Reloader};
use crate::config::{Plan, ServerPlan, TelemetryPlan};
use crate::engine::{Drained, ModelSetup, Models};
use crate::front::{Acceptor, Front, Listener, ReloadError, Reloaded, Reloads};
use crate::instance::Network;
use crate::jobs::{Jobs, OpenError};
use crate::telemetry::{ExportError, ReloadMetrics, SpanExport, Telemetry};
use crate::wire::intake::Budget;

/// How often histograms are moved into their buckets.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Connections open at once to the admin listener.
const ADMIN_CONNECTIONS: usize = 256;
/// How long callers have to hear that their connection is to be closed.
const HEARING_TIME: Duration = Duration::from_secs(1);
/// Time kept back from the grace period for connections to flush what was answered.
const FLUSH_TIME: Duration = Duration::from_secs(2);

/// Why the proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A model cannot be set up.
    #[error(transparent)]
    Setup(#[from] UnusableInstances),
    /// An address cannot be listened on.
    #[error("cannot listen on {address} for {purpose}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What it is for.
        purpose: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The Batch API cannot be served.
    #[error(transparent)]
    BatchApi(#[from] OpenError),
    /// A part of the start broke.
    #[error("the start broke off")]
    Broken(#[source] tokio::task::JoinError),
    /// The metrics cannot be set up.
    #[error("cannot set up the metrics")]
    Telemetry(#[from] metrics_exporter_prometheus::BuildError),
    /// Spans cannot be exported.
    #[error(transparent)]
    Spans(#[from] ExportError),
}

/// How a proxy ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// How long calls are accepted after health checks have turned to not ready.
    pub delay: Duration,
    /// How long a drain may take.
    pub grace: Duration,
}

impl Shutdown {
    pub(super) fn of(server: &ServerPlan) -> Self {
        Self { delay: server.shutdown_delay, grace: server.shutdown_grace }
    }
}

/// A proxy that runs. Dropping it ends everything at once; [`Running::drain`] is the polite way.
#[derive(Debug)]
pub struct Running {
    /// Where KServe over HTTP and OpenAI are served.
    pub http: SocketAddr,
    /// Where KServe over gRPC is served.
    pub grpc: SocketAddr,
    /// Where metrics, health and status are served.
    pub admin: SocketAddr,
    /// The models.
    pub models: Arc<Models>,
    /// Asks for reloads.
    pub reloads: Reloads,
    shutdown: watch::Receiver<Shutdown>,
    reloader: JoinSet<()>,
    telemetry: Telemetry,
    span_export: Option<SpanExport>,
    /// Ends the listeners for calls.
    stop: CancellationToken,
    /// Ends the listener for operators, who want to see how a drain goes.
    stop_admin: CancellationToken,
    listeners: JoinSet<GracefulShutdown>,
    admin_listener: JoinSet<GracefulShutdown>,
    connection_tasks: TaskTracker,
    upkeep: JoinSet<()>,
    budget: Budget,
    jobs: Option<Arc<Jobs>>,
    job_runner: JoinSet<()>,
}

/// What answers the calls; another one when a reload changes its bounds.
#[derive(Clone)]
pub(super) struct LiveSite(Arc<ArcSwap<Site>>);

struct Site {
    front: Front,
    routes: axum::Router,
}

impl LiveSite {
    fn new(front: Front) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Site::new(front))))
    }

    /// From now on calls are read as `server` says; those that are being read go on.
    pub(super) fn change(&self, server: &ServerPlan) {
        let front = self.0.load().front.bounded_by(server);
        self.0.store(Arc::new(Site::new(front)));
    }

    async fn call(self, request: Request<Incoming>) -> Response<Body> {
        let site = self.0.load_full();
        if site.front.is_inference(&request) {
            return crate::front::grpc::serve(&site.front, request).await;
        }
        into_response(site.routes.clone().oneshot(request).await)
    }
}

impl Site {
    fn new(front: Front) -> Self {
        Self { routes: front.routes(), front }
    }
}

/// Starts a proxy with a plan that comes from no file. Must be called within a tokio runtime.
///
/// # Errors
/// When a model cannot be loaded or an address cannot be listened on.
pub async fn start(plan: &Plan) -> Result<Running, StartError> {
    start_from(Origin::default(), plan).await
}

/// Starts a proxy with a plan that can be had again from its origin. Must be called within a tokio
/// runtime.
///
/// # Errors
/// When a model cannot be loaded or an address cannot be listened on.
pub async fn start_from(origin: Origin, plan: &Plan) -> Result<Running, StartError> {
    let prepared = Prepared::of(plan, &origin, Network::Tcp)?;
    let listeners = Listeners::bind(&plan.server).await?;
    begin(listeners, prepared, origin, plan).await
}

/// Starts a proxy that callers reach by these listeners and that reaches its instances over
/// `network`. Must be called within a tokio runtime.
///
/// # Errors
/// When a model cannot be loaded or a listener has no address.
pub async fn start_on<L: Listener>(
    listeners: Listeners<L>,
    network: Network,
    origin: Origin,
    plan: &Plan,
) -> Result<Running, StartError> {
    begin(listeners, Prepared::of(plan, &origin, network)?, origin, plan).await
}

/// Everything that may fail of a start, but for the listeners.
struct Prepared {
    telemetry: Telemetry,
    span_export: Option<SpanExport>,
    files: ModelFiles,
    setups: Vec<ModelSetup>,
    network: Network,
}

impl Prepared {
    fn of(plan: &Plan, origin: &Origin, network: Network) -> Result<Self, StartError> {
        let TelemetryPlan { otlp_endpoint, sample_ratio } = &plan.telemetry;
        let span_export = SpanExport::begin(otlp_endpoint.as_deref(), *sample_ratio)?;
        let spans = span_export.as_ref().map(SpanExport::spans).unwrap_or_default();
        let telemetry = Telemetry::new()?.with_spans(spans);
        let files = ModelFiles::of(plan);
        let setups = set_up_all(&plan.models, &origin.places, &network)?;
        Ok(Self { telemetry, span_export, files, setups, network })
    }
}

async fn begin<L: Listener>(
    listeners: Listeners<L>,
    prepared: Prepared,
    origin: Origin,
    plan: &Plan,
) -> Result<Running, StartError> {
    let Prepared { telemetry, span_export, files, setups, network } = prepared;
    let [http, grpc, admin] = listeners.addresses(&plan.server)?;
    let models = Arc::new(Models::start(setups, &telemetry));
    let (jobs, job_runner) = open_jobs(plan, &models, &telemetry).await?;
    let front = Front::new(Arc::clone(&models), &plan.server, &telemetry).with_jobs(jobs.clone());
    let budget = front.budget.clone();
    let site = LiveSite::new(front);
    let (status, seen_status) = watch::channel(origin.status());
    let (reloads, requests) = Reloads::new(seen_status);
    let (told, shutdown) = watch::channel(Shutdown::of(&plan.server));
    let reloader = Reloader {
        origin,
        files,
        plan: plan.clone(),
        models: Arc::clone(&models),
        network,
        site: site.clone(),
        metrics: ReloadMetrics::new(&telemetry),
        requests,
        status,
        shutdown: told,
    };
    let mut running = Running {
        http,
        grpc,
        admin,
        models: Arc::clone(&models),
        reloads: reloads.clone(),
        shutdown,
        reloader: JoinSet::new(),
        telemetry: telemetry.clone(),
        span_export,
        stop: CancellationToken::new(),
        stop_admin: CancellationToken::new(),
        listeners: JoinSet::new(),
        admin_listener: JoinSet::new(),
        connection_tasks: TaskTracker::new(),
        upkeep: JoinSet::new(),
        budget: budget.clone(),
        jobs: jobs.clone(),
        job_runner,
    };
    let pages = crate::front::admin::router(models, telemetry.clone(), reloads, jobs);
    running.listen(&plan.server, &site, listeners, pages);
    let buffered = telemetry.buffered_bytes();
    running.upkeep.spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP_INTERVAL).await;
            telemetry.upkeep();
            buffered.set(budget.held() as f64);
        }
    });
    running.reloader.spawn(reloader.run());
    Ok(running)
}

impl Running {
    /// Serves calls on two listeners, and pages on the third.
    fn listen<L: Listener>(
        &mut self,
        server: &ServerPlan,
        site: &LiveSite,
        listeners: Listeners<L>,
        pages: axum::Router,
    ) {
        let given_up = self.telemetry.given_up();
        let acceptor =
            |running: &Self, connections: &Arc<Semaphore>, stop: &CancellationToken| Acceptor {
                connections: Arc::clone(connections),
                read_timeout: server.read_timeout,
                write_timeout: server.write_timeout,
                given_up: given_up.clone(),
                tasks: running.connection_tasks.clone(),
                stop: stop.clone(),
            };
        let connections = Arc::new(Semaphore::new(server.max_connections as usize));
        for listener in [listeners.http, listeners.grpc] {
            let site = site.clone();
            let service = move |request| site.clone().call(request);
            let acceptor = acceptor(self, &connections, &self.stop);
            self.listeners.spawn(acceptor.serve(listener, service));
        }
        // Whatever callers do, an operator can look.
        let acceptor =
            acceptor(self, &Arc::new(Semaphore::new(ADMIN_CONNECTIONS)), &self.stop_admin);
        let service = move |request: Request<Incoming>| {
            let pages = pages.clone();
            async move { into_response(pages.oneshot(request).await) }
        };
        self.admin_listener.spawn(acceptor.serve(listeners.admin, service));
    }

    /// The metrics page.
    pub fn metrics(&self) -> String {
        self.telemetry.render()
    }

    /// Reads the configuration again and changes what is different.
    ///
    /// # Errors
    /// Why nothing has changed.
    pub async fn reload(&self) -> Result<Reloaded, ReloadError> {
        self.reloads.reload().await
    }

    /// How to end, as the configuration says now.
    pub fn shutdown(&self) -> Shutdown {
        *self.shutdown.borrow()
    }

    /// Bytes of requests in memory.
    pub fn buffered_bytes(&self) -> usize {
        self.budget.held()
    }

    /// Takes no more connections, says that it is not ready, tells the connections that are open to go
    /// elsewhere, then refuses new calls, answers what was accepted and closes; all within `grace`.
    pub async fn drain(mut self, grace: Duration) -> Drained {
        let by = Instant::now() + grace;
        let calls_by = Instant::now() + grace.saturating_sub(FLUSH_TIME.min(grace / 2));
        // What a batch has not got an answer to by then it gets after the next start.
        if let Some(jobs) = &self.jobs {
            jobs.stop(Instant::now() + grace / 2);
        }
        // A reload that is under way changes nothing more.
        self.reloader.shutdown().await;
        self.stop.cancel();
        let callers = closed(&mut self.listeners).await;
        // Not before: who sees that the server is not ready knows that it takes no new call.
        self.models.announce_drain();
        // What a caller sent before it heard of it is a call like any other.
        drop(tokio::time::timeout(HEARING_TIME.min(grace / 4), farewell(callers)).await);
        let drained = self.models.drain(calls_by).await;
        self.stop_admin.cancel();
        let rest = async {
            while self.job_runner.join_next().await.is_some() {}
            farewell(closed(&mut self.admin_listener).await).await;
            self.connection_tasks.close();
            self.connection_tasks.wait().await;
        };
        // A client that does not close its connection does not keep the process alive.
        drop(tokio::time::timeout_at(by, rest).await);
        self.upkeep.abort_all();
        if let Some(span_export) = self.span_export {
            span_export.end().await;
        }
        drained
    }
}

/// Waits until listeners that have been told to stop are closed.
async fn closed(listeners: &mut JoinSet<GracefulShutdown>) -> Vec<GracefulShutdown> {
    let mut open = Vec::with_capacity(listeners.len());
    while let Some(listener) = listeners.join_next().await {
        open.extend(listener);
    }
    open
}

/// Tells connections to finish what they have begun, and waits until they have.
async fn farewell(connections: Vec<GracefulShutdown>) {
    join_all(connections.into_iter().map(GracefulShutdown::shutdown)).await;
}

/// Opens the Batch API if the plan has one, and starts what runs its batches.
async fn open_jobs(
    plan: &Plan,
    models: &Arc<Models>,
    telemetry: &Telemetry,
) -> Result<(Option<Arc<Jobs>>, JoinSet<()>), StartError> {
    let mut runners = JoinSet::new();
    let Some(batch_api) = plan.batch_api.clone() else { return Ok((None, runners)) };
    let (server, models, telemetry) = (plan.server.clone(), Arc::clone(models), telemetry.clone());
    let opened = move || Jobs::open(&batch_api, &server, models, &telemetry);
    let opened = tokio::task::spawn_blocking(opened).await;
    let (jobs, runner) = opened.map_err(StartError::Broken)??;
    runners.spawn(runner.run());
    Ok((Some(jobs), runners))
}

fn into_response(outcome: Result<Response<Body>, std::convert::Infallible>) -> Response<Body> {
    match outcome {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
