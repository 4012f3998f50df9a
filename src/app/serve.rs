//! Running the proxy: start, wait for a signal, drain.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::instances::{SetupError, set_up};
use crate::config::{Plan, ServerPlan};
use crate::engine::{Drained, Models};
use crate::front::{Acceptor, Front};
use crate::telemetry::Telemetry;

/// How often histograms are moved into their buckets.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Time kept back from the grace period for connections to flush what was answered.
const FLUSH_TIME: Duration = Duration::from_secs(2);

/// Why the proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A model cannot be set up.
    #[error(transparent)]
    Setup(#[from] SetupError),
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
    /// The metrics cannot be set up.
    #[error("cannot set up the metrics")]
    Telemetry(#[from] metrics_exporter_prometheus::BuildError),
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
    telemetry: Telemetry,
    stop: CancellationToken,
    listeners: JoinSet<()>,
    connection_tasks: TaskTracker,
    upkeep: JoinSet<()>,
}

/// Starts a proxy. Must be called within a tokio runtime.
///
/// # Errors
/// When a model cannot be loaded or an address cannot be listened on.
pub async fn start(plan: &Plan) -> Result<Running, StartError> {
    let telemetry = Telemetry::new()?;
    let setups = plan.models.iter().map(set_up).collect::<Result<Vec<_>, _>>()?;
    let ServerPlan { http, grpc, admin, max_connections, .. } = plan.server;
    let http = listen(http, "HTTP").await?;
    let grpc = listen(grpc, "gRPC").await?;
    let admin = listen(admin, "admin").await?;
    let models = Arc::new(Models::start(setups, &telemetry));
    let front = Front {
        models: Arc::clone(&models),
        max_request_bytes: usize::try_from(plan.server.max_request_bytes).unwrap_or(usize::MAX),
        trust_tenant_header: plan.server.trust_tenant_header,
    };
    let stop = CancellationToken::new();
    let connection_tasks = TaskTracker::new();
    let connections = Arc::new(Semaphore::new(max_connections as usize));
    let acceptor = || Acceptor {
        connections: Arc::clone(&connections),
        tasks: connection_tasks.clone(),
        stop: stop.clone(),
    };
    let mut running = Running {
        http: http.1,
        grpc: grpc.1,
        admin: admin.1,
        models,
        telemetry: telemetry.clone(),
        stop: stop.clone(),
        listeners: JoinSet::new(),
        connection_tasks: connection_tasks.clone(),
        upkeep: JoinSet::new(),
    };
    let routes = front.routes();
    for (listener, _) in [http, grpc] {
        let (front, routes) = (front.clone(), routes.clone());
        let service = move |request| call(front.clone(), routes.clone(), request);
        let acceptor = acceptor();
        running.listeners.spawn(acceptor.serve(listener, service));
    }
    let pages = front.admin_routes(telemetry.clone());
    let service = move |request: Request<Incoming>| {
        let pages = pages.clone();
        async move { into_response(pages.oneshot(request).await) }
    };
    let acceptor = acceptor();
    running.listeners.spawn(acceptor.serve(admin.0, service));
    running.upkeep.spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP_INTERVAL).await;
            telemetry.upkeep();
        }
    });
    Ok(running)
}

impl Running {
    /// The metrics page.
    pub fn metrics(&self) -> String {
        self.telemetry.render()
    }

    /// Refuses new calls, answers what was accepted, closes the connections; all within `grace`.
    pub async fn drain(mut self, grace: Duration) -> Drained {
        let by = Instant::now() + grace;
        let calls_by = Instant::now() + grace.saturating_sub(FLUSH_TIME.min(grace / 2));
        let drained = self.models.drain(calls_by).await;
        self.stop.cancel();
        let closed = async {
            while self.listeners.join_next().await.is_some() {}
            self.connection_tasks.close();
            self.connection_tasks.wait().await;
        };
        // A client that does not close its connection does not keep the process alive.
        drop(tokio::time::timeout_at(by, closed).await);
        self.upkeep.abort_all();
        drained
    }
}

async fn call(front: Front, routes: axum::Router, request: Request<Incoming>) -> Response<Body> {
    if front.is_inference(&request) {
        return crate::front::grpc::serve(&front, request).await;
    }
    into_response(routes.oneshot(request).await)
}

fn into_response(outcome: Result<Response<Body>, std::convert::Infallible>) -> Response<Body> {
    match outcome {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

async fn listen(
    address: SocketAddr,
    purpose: &'static str,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, purpose, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}
