//! The stage of a scenario: model servers and proxies in processes of their own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{env, fs};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::caller::{Caller, Protocol};
use super::load::{self, Load};
use super::measured::{Batches, Measured};
use super::process::{Process, free_addresses, processor_time};
use super::{Failure, envoy};
use crate::model_server::{ModelServer, Options, ServiceTime, Settings};

/// The first argument that makes this program a model server.
pub const MODEL_SERVER_ROLE: &str = "model-server";

/// How the scenarios are set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What is spoken to proxies and model servers.
    pub protocol: Protocol,
    /// Connections of the load generator to each target (gRPC).
    pub connections: usize,
    /// FP32 columns of the one row in a call.
    pub columns: usize,
    /// Lines added to the model's table in models.toml.
    pub model_settings: Vec<String>,
    /// Envoy's program and its worker threads.
    pub envoy: Option<(PathBuf, u32)>,
}

/// Running model servers, all with the same service time.
#[derive(Debug)]
pub struct Stage {
    setup: Setup,
    backends: Vec<Backend>,
    http: Client<HttpConnector, Full<Bytes>>,
    max_batch: u32,
    directory: Directory,
}

#[derive(Debug)]
struct Backend {
    process: Process,
    grpc: SocketAddr,
    http: SocketAddr,
}

/// What load is put on: the first model server itself, or a proxy before all of them.
#[derive(Debug)]
pub struct Target {
    /// The name in tables.
    pub name: &'static str,
    caller: Arc<Caller>,
    proxy: Option<Process>,
}

impl Stage {
    /// Starts model servers in processes of their own.
    pub async fn start(
        setup: &Setup,
        instances: usize,
        service: ServiceTime,
        max_batch: u32,
    ) -> Result<Self, Failure> {
        let directory = Directory::create()?;
        let mut backends = Vec::with_capacity(instances);
        for index in 0..instances {
            let [grpc, http] = free_addresses()?;
            let settings =
                Settings { service, max_batch_size: max_batch, record: 0, ..Settings::default() };
            let arguments = [
                MODEL_SERVER_ROLE.to_owned(),
                grpc.to_string(),
                http.to_string(),
                serde_json::to_string(&settings)?,
            ];
            let log = directory.file(&format!("model-server-{index}.log"));
            let program = env::current_exe()?;
            let mut process = Process::start("the model server", &program, arguments, &log)?;
            process.wait_until_listening(&[grpc, http], &log)?;
            backends.push(Backend { process, grpc, http });
        }
        let http = Client::builder(TokioExecutor::new()).build_http();
        Ok(Self { setup: setup.clone(), backends, http, max_batch, directory })
    }

    /// The first model server itself.
    pub async fn direct(&self) -> Result<Target, Failure> {
        let backend = self.backends.first().ok_or("no model server")?;
        let address = match self.setup.protocol {
            Protocol::Grpc => backend.grpc,
            Protocol::Http => backend.http,
        };
        self.target("direct", address, None).await
    }

    /// batchwise before all model servers.
    pub async fn batchwise(&self) -> Result<Target, Failure> {
        let [http, grpc, admin] = free_addresses()?;
        let (protocol, address) = match self.setup.protocol {
            Protocol::Grpc => ("kserve-grpc", grpc),
            Protocol::Http => ("kserve-http", http),
        };
        let urls: Vec<String> =
            self.backend_addresses().iter().map(|at| format!("\"http://{at}\"")).collect();
        let configuration = format!(
            "[[model]]\nname = \"linear\"\nprotocol = \"{protocol}\"\ninstances = [{}]\n\
             max_batch_size = {}\n{}\n",
            urls.join(", "),
            self.max_batch,
            self.setup.model_settings.join("\n"),
        );
        let file = self.directory.file("models.toml");
        fs::write(&file, configuration)?;
        let mut arguments = vec!["serve".to_owned(), "--config".to_owned(), path_text(&file)?];
        for (flag, address) in [("--http", http), ("--grpc", grpc), ("--admin", admin)] {
            arguments.extend([flag.to_owned(), address.to_string()]);
        }
        let log = self.directory.file("batchwise.log");
        let program = PathBuf::from(env!("CARGO_BIN_EXE_batchwise"));
        let mut proxy = Process::start("batchwise", &program, arguments, &log)?;
        proxy.wait_until_listening(&[http, grpc, admin], &log)?;
        self.target("batchwise", address, Some(proxy)).await
    }

    /// Envoy before all model servers, when its program was given.
    pub async fn envoy(&self) -> Result<Option<Target>, Failure> {
        let Some((program, workers)) = &self.setup.envoy else {
            return Ok(None);
        };
        let [address] = free_addresses()?;
        let file = self.directory.file("envoy.json");
        let http2 = self.setup.protocol == Protocol::Grpc;
        fs::write(&file, envoy::configuration(address, &self.backend_addresses(), http2))?;
        let arguments = [
            "--config-path".to_owned(),
            path_text(&file)?,
            "--concurrency".to_owned(),
            workers.to_string(),
            "--log-level".to_owned(),
            "error".to_owned(),
            "--disable-hot-restart".to_owned(),
        ];
        let log = self.directory.file("envoy.log");
        let mut proxy = Process::start("Envoy", program, arguments, &log)?;
        proxy.wait_until_listening(&[address], &log)?;
        self.target("envoy", address, Some(proxy)).await.map(Some)
    }

    async fn target(
        &self,
        name: &'static str,
        address: SocketAddr,
        proxy: Option<Process>,
    ) -> Result<Target, Failure> {
        let Setup { protocol, connections, columns, .. } = self.setup;
        let caller = Caller::connect(protocol, address, connections, columns).await?;
        // A proxy may listen before it knows that its model servers are well.
        let give_up = tokio::time::Instant::now() + Duration::from_secs(20);
        while let Err(reason) = caller.call(0).await {
            if tokio::time::Instant::now() > give_up {
                return Err(format!("{name} does not answer: {reason}").into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Target { name, caller, proxy })
    }

    fn backend_addresses(&self) -> Vec<SocketAddr> {
        let address = |backend: &Backend| match self.setup.protocol {
            Protocol::Grpc => backend.grpc,
            Protocol::Http => backend.http,
        };
        self.backends.iter().map(address).collect()
    }

    /// Puts load on one target and measures it together with the model servers behind it.
    pub async fn measure(
        &self,
        target: &Target,
        load: Load,
        length: Duration,
        seed: u64,
    ) -> Result<Measured, Failure> {
        let batches = self.batches().await?;
        let processor = self.processor_time(target)?;
        let own_processor = processor_time("self")?;
        let mut measured = load::run(&target.caller, load, length, seed).await?;
        measured.processor = self.processor_time(target)?.saturating_sub(processor);
        measured.own_processor = processor_time("self")?.saturating_sub(own_processor);
        let now = self.batches().await?;
        measured.batches = Batches {
            executions: now.executions - batches.executions,
            rows: now.rows - batches.rows,
        };
        Ok(measured)
    }

    /// Of the proxy; of the model server, where load goes to it directly.
    fn processor_time(&self, target: &Target) -> Result<Duration, Failure> {
        match (&target.proxy, self.backends.first()) {
            (Some(proxy), _) => proxy.processor_time(),
            (None, Some(backend)) => backend.process.processor_time(),
            (None, None) => Ok(Duration::ZERO),
        }
    }

    async fn batches(&self) -> Result<Batches, Failure> {
        let mut sum = Batches::default();
        for backend in &self.backends {
            let uri = format!("http://{}/statistics", backend.http).parse()?;
            let body = self.http.get(uri).await?.into_body().collect().await?.to_bytes();
            let statistics: serde_json::Value = serde_json::from_slice(&body)?;
            let count = |name: &str| statistics.get(name).and_then(serde_json::Value::as_u64);
            sum.executions += count("executions").ok_or("no count of executions")?;
            sum.rows += count("rows").ok_or("no count of rows")?;
        }
        Ok(sum)
    }
}

/// The life of a model server process: until it is killed.
pub async fn serve_model(arguments: &[String]) -> Result<(), Failure> {
    let [grpc, http, settings] = arguments else {
        return Err(format!("{MODEL_SERVER_ROLE} takes GRPC HTTP SETTINGS").into());
    };
    let options = Options {
        grpc: grpc.parse()?,
        http: http.parse()?,
        settings: serde_json::from_str(settings)?,
        ..Options::default()
    };
    let _server = ModelServer::start(options).await?;
    std::future::pending().await
}

fn path_text(path: &std::path::Path) -> Result<String, Failure> {
    Ok(path.to_str().ok_or("a temporary path that is not UTF-8")?.to_owned())
}

/// A directory that is removed with everything in it.
#[derive(Debug)]
struct Directory(PathBuf);

impl Directory {
    fn create() -> Result<Self, Failure> {
        let path = env::temp_dir().join(format!("batchwise-bench-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
