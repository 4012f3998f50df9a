//! The proxy of this project in a process of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, process};

use tokio::time::Instant;

use super::Failure;
use super::directory::Directory;
use super::process::{Process, Tell, free_addresses};
use super::web::Web;

/// How long a proxy may take to find its model servers, or to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(40);

/// A proxy at addresses that it keeps when it is started again.
#[derive(Debug)]
pub struct Batchwise {
    process: Process,
    program: PathBuf,
    configuration: PathBuf,
    log: PathBuf,
    web: Web,
    /// Where KServe over HTTP is served.
    pub http: SocketAddr,
    /// Where KServe over gRPC is served.
    pub grpc: SocketAddr,
    /// Where metrics and health are served.
    pub admin: SocketAddr,
}

impl Batchwise {
    /// Starts the proxy on free ports with this text as its models.toml.
    pub async fn start(
        program: &Path,
        name: &str,
        configuration: &str,
        directory: &Directory,
    ) -> Result<Self, Failure> {
        let file = directory.file(&format!("{name}.toml"));
        fs::write(&file, configuration)?;
        let addresses = free_addresses()?;
        let log = directory.file(&format!("{name}.log"));
        let process = launch(program, &file, addresses, &log).await?;
        let [http, grpc, admin] = addresses;
        let (program, web) = (program.to_owned(), Web::default());
        Ok(Self { process, program, configuration: file, log, web, http, grpc, admin })
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

    /// Memory that the process has in use now.
    pub fn resident_bytes(&self) -> Result<u64, Failure> {
        self.process.resident_bytes()
    }

    /// Waits until the process has ended; its status.
    pub async fn wait_until_ended(&mut self) -> Result<process::ExitStatus, Failure> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.ended()? {
                return Ok(status);
            }
            if Instant::now() > give_up {
                return Err("batchwise does not end".into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Starts it again after its end, at the same addresses.
    pub async fn start_again(&mut self) -> Result<(), Failure> {
        let addresses = [self.http, self.grpc, self.admin];
        self.process = launch(&self.program, &self.configuration, addresses, &self.log).await?;
        Ok(())
    }

    /// Replaces models.toml in one step, so that nobody reads half of it.
    pub fn rewrite(&self, configuration: &str) -> Result<(), Failure> {
        let new = self.configuration.with_extension("new");
        fs::write(&new, configuration)?;
        Ok(fs::rename(new, &self.configuration)?)
    }

    /// Whether `/readyz` says so.
    pub async fn is_ready(&self) -> bool {
        let page = self.web.get(&format!("http://{}/readyz", self.admin)).await;
        page.is_ok_and(|(status, _)| status.is_success())
    }

    /// Waits until `/readyz` says so.
    pub async fn wait_until_ready(&mut self) -> Result<(), Failure> {
        let give_up = Instant::now() + PATIENCE;
        while !self.is_ready().await {
            if Instant::now() > give_up || self.process.ended()?.is_some() {
                return Err(format!("batchwise is not ready:\n{}", self.process.output()).into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// The values on `/metrics` of every series of this name, with their labels.
    pub async fn metric(&self, name: &str) -> Result<Vec<(String, f64)>, Failure> {
        let (_, page) = self.web.get(&format!("http://{}/metrics", self.admin)).await?;
        let page = String::from_utf8_lossy(&page).into_owned();
        let series = page.lines().filter_map(|line| {
            let labels = line.strip_prefix(name)?;
            let (labels, value) = labels.rsplit_once(' ')?;
            let whole = labels.is_empty() || labels.starts_with('{');
            Some((labels.to_owned(), value.parse().ok()?)).filter(|_| whole)
        });
        Ok(series.collect())
    }
}

async fn launch(
    program: &Path,
    configuration: &Path,
    [http, grpc, admin]: [SocketAddr; 3],
    log: &Path,
) -> Result<Process, Failure> {
    let file = configuration.to_str().ok_or("a temporary path that is not UTF-8")?;
    let mut arguments = vec!["serve".to_owned(), "--config".to_owned(), file.to_owned()];
    for (flag, address) in [("--http", http), ("--grpc", grpc), ("--admin", admin)] {
        arguments.extend([flag.to_owned(), address.to_string()]);
    }
    let mut process = Process::start("batchwise", program, arguments, log)?;
    process.wait_until_listening(&[http, grpc, admin]).await?;
    Ok(process)
}
