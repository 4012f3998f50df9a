//! Child processes: started, waited for, measured, and ended by their id.

use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Failure;

/// How long a process may take until it listens.
const START_BOUND: Duration = Duration::from_secs(20);

/// The unit of processor time in `/proc/PID/stat`, part of Linux's interface to programs.
const TICKS_PER_SECOND: u64 = 100;

/// A child process, killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// What a process can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tell {
    /// SIGTERM: end in good order.
    Terminate,
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGSTOP: stand still; the kernel goes on accepting connections for it.
    Freeze,
    /// SIGCONT: go on.
    Thaw,
}

impl Process {
    /// Starts a program whose output goes to a file, which is told about when it fails.
    pub fn start<I, S>(
        name: &str,
        program: &Path,
        arguments: I,
        log: &Path,
    ) -> Result<Self, Failure>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let output = fs::File::create(log)?;
        let errors = output.try_clone()?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(|error| format!("{name} ({}) does not start: {error}", program.display()))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Waits until the process accepts connections at all of the addresses.
    pub async fn wait_until_listening(&mut self, addresses: &[SocketAddr]) -> Result<(), Failure> {
        let give_up = Instant::now() + START_BOUND;
        for address in addresses {
            while tokio::net::TcpStream::connect(address).await.is_err() {
                let ended = self.ended()?.map(|status| format!("ended with {status}"));
                let late = (Instant::now() > give_up).then(|| format!("is not at {address}"));
                if let Some(why) = ended.or(late) {
                    return Err(format!("{} {why}:\n{}", self.name, self.output()).into());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(())
    }

    /// Sends a signal.
    pub fn tell(&self, what: Tell) -> Result<(), Failure> {
        let signal = match what {
            Tell::Terminate => Signal::TERM,
            Tell::Reload => Signal::HUP,
            Tell::Freeze => Signal::STOP,
            Tell::Thaw => Signal::CONT,
        };
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Ends the process at once, by SIGKILL.
    pub fn kill(&mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// How the process has ended; `None`: it runs.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, Failure> {
        Ok(self.child.try_wait()?)
    }

    /// What the process has written.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Memory that the process has in use now.
    pub fn resident_bytes(&self) -> Result<u64, Failure> {
        let id = self.child.id();
        let status = fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Ok(kilobytes.ok_or_else(|| format!("cannot read VmRSS of process {id}"))? << 10)
    }

    /// Processor time used so far, user and system.
    pub fn processor_time(&self) -> Result<Duration, Failure> {
        processor_time(&self.child.id().to_string())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processor time of a process by its id, or of this one by `self`.
pub fn processor_time(process: &str) -> Result<Duration, Failure> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name in parentheses may hold spaces; user and system time are fields 14 and 15.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |field: usize| fields.get(field).and_then(|text| text.parse::<u64>().ok());
    match (ticks(11), ticks(12)) {
        (Some(user), Some(system)) => {
            Ok(Duration::from_secs(1) / TICKS_PER_SECOND as u32 * (user + system) as u32)
        }
        _ => Err(format!("cannot read /proc/{process}/stat").into()),
    }
}

/// Addresses on the loopback that nobody listens at.
pub fn free_addresses<const N: usize>() -> Result<[SocketAddr; N], Failure> {
    // All are held at the same time, so that no two are the same.
    let mut held = Vec::with_capacity(N);
    for _ in 0..N {
        held.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
    }
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    for (address, listener) in addresses.iter_mut().zip(&held) {
        *address = listener.local_addr()?;
    }
    Ok(addresses)
}
