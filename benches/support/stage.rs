//! The stage of a scenario: model servers and proxies in processes of their own.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::batchwise::Batchwise;
use super::caller::{Caller, Protocol};
use super::directory::Directory;
use super::load::{self, Load};
use super::measured::{Batches, Measured};
use super::process::{Process, free_addresses, processor_time};
use super::servers::{ModelServers, Server};
use super::{Failure, envoy};
use crate::model_server::{ServiceTime, Settings};

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
    servers: ModelServers,
    max_batch: u32,
    directory: Directory,
}

/// What load is put on: the first model server itself, or a proxy before all of them.
#[derive(Debug)]
pub struct Target {
    /// The name in tables.
    pub name: &'static str,
    caller: Arc<Caller>,
    proxy: Option<ProxyProcess>,
}

#[derive(Debug)]
enum ProxyProcess {
    Batchwise(Box<Batchwise>),
    Envoy(Process),
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
        let settings =
            Settings { service, max_batch_size: max_batch, record: 0, ..Settings::default() };
        let servers = ModelServers::start(instances, &settings, &directory).await?;
        Ok(Self { setup: setup.clone(), servers, max_batch, directory })
    }

    /// The first model server itself.
    pub async fn direct(&self) -> Result<Target, Failure> {
        let server = self.servers.get(0)?;
        let address = match self.setup.protocol {
            Protocol::Grpc => server.grpc,
            Protocol::Http => server.http,
        };
        self.target("direct", address, None).await
    }

    /// batchwise before all model servers.
    pub async fn batchwise(&self) -> Result<Target, Failure> {
        let protocol = match self.setup.protocol {
            Protocol::Grpc => "kserve-grpc",
            Protocol::Http => "kserve-http",
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
        let program = PathBuf::from(env!("CARGO_BIN_EXE_batchwise"));
        let proxy =
            Batchwise::start(&program, "batchwise", &configuration, &self.directory).await?;
        let address = match self.setup.protocol {
            Protocol::Grpc => proxy.grpc,
            Protocol::Http => proxy.http,
        };
        self.target("batchwise", address, Some(ProxyProcess::Batchwise(Box::new(proxy)))).await
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
            file.to_str().ok_or("a temporary path that is not UTF-8")?.to_owned(),
            "--concurrency".to_owned(),
            workers.to_string(),
            "--log-level".to_owned(),
            "error".to_owned(),
            "--disable-hot-restart".to_owned(),
        ];
        let log = self.directory.file("envoy.log");
        let mut proxy = Process::start("Envoy", program, arguments, &log)?;
        proxy.wait_until_listening(&[address]).await?;
        self.target("envoy", address, Some(ProxyProcess::Envoy(proxy))).await.map(Some)
    }

    async fn target(
        &self,
        name: &'static str,
        address: SocketAddr,
        proxy: Option<ProxyProcess>,
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
        let address = |server: &Server| match self.setup.protocol {
            Protocol::Grpc => server.grpc,
            Protocol::Http => server.http,
        };
        self.servers.iter().map(address).collect()
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
        match &target.proxy {
            Some(ProxyProcess::Batchwise(proxy)) => proxy.processor_time(),
            Some(ProxyProcess::Envoy(proxy)) => proxy.processor_time(),
            None => self.servers.get(0)?.processor_time(),
        }
    }

    async fn batches(&self) -> Result<Batches, Failure> {
        let counted = self.servers.counted().await?;
        Ok(Batches { executions: counted.executions, rows: counted.rows })
    }
}
