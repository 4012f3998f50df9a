//! Model servers in processes of their own, and what can befall them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use std::{env, ops};

use serde::Deserialize;
use serde_json::{Value, json};

use super::Failure;
use super::directory::Directory;
use super::process::{Process, Tell, free_addresses};
use super::web::Web;
use crate::model_server::{ModelServer, Options, Settings, Visit};

/// The first argument that makes a bench's program a model server.
pub const MODEL_SERVER_ROLE: &str = "model-server";

/// Model servers that began with the same settings.
#[derive(Debug)]
pub struct ModelServers(Vec<Server>);

/// A model server at addresses that it keeps when it is started again.
#[derive(Debug)]
pub struct Server {
    process: Process,
    settings: Settings,
    log: PathBuf,
    web: Web,
    /// What earlier processes at these addresses had counted when last asked.
    earlier: Counted,
    /// Where it speaks gRPC.
    pub grpc: SocketAddr,
    /// Where it speaks HTTP.
    pub http: SocketAddr,
}

/// What a model server has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Counted {
    /// Inference calls received, whatever became of them: a batch is one.
    pub calls: u64,
    /// Batches executed.
    pub executions: u64,
    /// Their rows.
    pub rows: u64,
    /// Inference calls under way now.
    pub concurrency: u64,
}

impl ops::Add for Counted {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            calls: self.calls + other.calls,
            executions: self.executions + other.executions,
            rows: self.rows + other.rows,
            concurrency: self.concurrency + other.concurrency,
        }
    }
}

impl Counted {
    /// What has been added since `earlier`; what is under way stays what it is now.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            calls: self.calls.saturating_sub(earlier.calls),
            executions: self.executions.saturating_sub(earlier.executions),
            rows: self.rows.saturating_sub(earlier.rows),
            concurrency: self.concurrency,
        }
    }
}

impl ModelServers {
    /// Starts `count` of them.
    pub async fn start(
        count: usize,
        settings: &Settings,
        directory: &Directory,
    ) -> Result<Self, Failure> {
        let mut servers = Vec::with_capacity(count);
        for index in 0..count {
            let log = directory.file(&format!("model-server-{index}.log"));
            servers.push(Server::start(settings, log).await?);
        }
        Ok(Self(servers))
    }

    /// One of them.
    pub fn get(&self, index: usize) -> Result<&Server, Failure> {
        self.0.get(index).ok_or_else(|| format!("there is no model server {index}").into())
    }

    /// One of them.
    pub fn get_mut(&mut self, index: usize) -> Result<&mut Server, Failure> {
        self.0.get_mut(index).ok_or_else(|| format!("there is no model server {index}").into())
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Server> {
        self.0.iter()
    }

    /// All of them.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = &mut Server> {
        self.0.iter_mut()
    }

    /// The sum of what they have counted.
    pub async fn counted(&self) -> Result<Counted, Failure> {
        let mut sum = Counted::default();
        for server in &self.0 {
            sum = sum + server.counted().await?;
        }
        Ok(sum)
    }

    /// Changes the settings of all.
    pub async fn control(&self, patch: &Value) -> Result<(), Failure> {
        for server in &self.0 {
            server.control(patch).await?;
        }
        Ok(())
    }
}

impl Server {
    async fn start(settings: &Settings, log: PathBuf) -> Result<Self, Failure> {
        let [grpc, http] = free_addresses()?;
        let process = launch(settings, [grpc, http], &log).await?;
        let settings = settings.clone();
        let (web, earlier) = (Web::default(), Counted::default());
        Ok(Self { process, settings, log, web, earlier, grpc, http })
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Sends the process a signal.
    pub fn tell(&self, what: Tell) -> Result<(), Failure> {
        self.process.tell(what)
    }

    /// Processor time of the process.
    pub fn processor_time(&self) -> Result<Duration, Failure> {
        self.process.processor_time()
    }

    /// Ends the process at once.
    pub async fn kill(&mut self) -> Result<(), Failure> {
        self.earlier = Counted { concurrency: 0, ..self.counted().await? };
        self.process.kill()
    }

    /// Starts it again after its end, at the same addresses and with the settings of the beginning.
    pub async fn start_again(&mut self) -> Result<(), Failure> {
        let mut attempts_left = 50;
        loop {
            match launch(&self.settings, [self.grpc, self.http], &self.log).await {
                Ok(process) => {
                    self.process = process;
                    return Ok(());
                }
                // Somebody's outgoing connection may have been given the port meanwhile.
                Err(failure) if attempts_left == 0 => return Err(failure),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
            attempts_left -= 1;
        }
    }

    /// Merges a JSON object into the settings.
    pub async fn control(&self, patch: &Value) -> Result<(), Failure> {
        self.web.post(&self.url("control"), patch).await
    }

    /// What it has counted, earlier processes included as far as they were asked.
    pub async fn counted(&self) -> Result<Counted, Failure> {
        let now: Counted = self.web.json(&self.url("statistics")).await?;
        Ok(self.earlier + now)
    }

    /// The latest batches; none unless the settings say how many.
    pub async fn journal(&self) -> Result<Vec<Visit>, Failure> {
        self.web.json(&self.url("journal")).await
    }

    fn url(&self, page: &str) -> String {
        format!("http://{}/{page}", self.http)
    }
}

async fn launch(
    settings: &Settings,
    [grpc, http]: [SocketAddr; 2],
    log: &std::path::Path,
) -> Result<Process, Failure> {
    let arguments = [
        MODEL_SERVER_ROLE.to_owned(),
        grpc.to_string(),
        http.to_string(),
        json!(settings).to_string(),
    ];
    let mut process = Process::start("the model server", &env::current_exe()?, arguments, log)?;
    process.wait_until_listening(&[grpc, http]).await?;
    Ok(process)
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
