//! A network of its own whose packets get lost: a network namespace, and rules of nftables in it.
//!
//! Nothing of the host's network is touched. This program runs itself anew in a namespace that ends with
//! it, and starts everything else from there. Packets are dropped where they come in, so that their
//! senders do not hear of it. Where the kernel can delay packets, it does so.

use std::net::SocketAddr;
use std::process::{Output, Stdio};
use std::{env, io};

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::report::Report;
use crate::support::Failure;

/// The first argument that makes the bench play its part inside a namespace.
pub(crate) const NAMESPACE_ROLE: &str = "network-namespace";

/// Of a thousand packets of a lossy port, in either direction, so many are lost.
const LOST_OF_1000: u32 = 10;
/// Each way, where the kernel can.
const DELAY: &str = "2ms";

/// How a namespace is entered: by root, or by whoever may be root in a namespace of users.
const WAYS_IN: [&[&str]; 2] = [&["--net"], &["--map-root-user", "--net"]];

/// A network whose packets get lost.
#[derive(Debug)]
pub(crate) struct LossyNetwork {
    delays: bool,
}

/// What became of packets since the beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packets {
    /// Those of lossy ports.
    pub(crate) sent: u64,
    /// Those of them that were lost by chance.
    pub(crate) lost: u64,
    /// Those of dark ports: all were lost.
    pub(crate) swallowed: u64,
}

/// Runs this program anew in a namespace, with the same arguments; its report, or why that cannot be.
pub(crate) async fn play_inside() -> Result<Result<Report, String>, Failure> {
    let mut reasons = Vec::new();
    for way in WAYS_IN {
        match run("unshare", &[way, &["nft", "-f", "-"]].concat(), &rules()).await {
            Ok(_) => return report_from_inside(way).await.map(Ok),
            Err(reason) => reasons.push(reason.to_string()),
        }
    }
    Ok(Err(reasons.join("; ")))
}

async fn report_from_inside(way: &[&str]) -> Result<Report, Failure> {
    let inside = Command::new("unshare")
        .args(way)
        .arg(env::current_exe()?)
        .arg(NAMESPACE_ROLE)
        .args(env::args_os().skip(1))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await?;
    if !inside.status.success() {
        return Err(format!("inside the namespace: {}", inside.status).into());
    }
    Ok(serde_json::from_slice(&inside.stdout)?)
}

impl LossyNetwork {
    /// Sets up the namespace that this process is in: no packet is lost yet.
    pub(crate) async fn set_up() -> Result<Self, Failure> {
        run("ip", &["link", "set", "lo", "up"], "").await?;
        run("nft", &["-f", "-"], &rules()).await?;
        let delay = ["qdisc", "add", "dev", "lo", "root", "netem", "delay", DELAY];
        let delays = run("tc", &delay, "").await.is_ok();
        Ok(Self { delays })
    }

    /// What it does, in words.
    pub(crate) fn describe(&self) -> String {
        let share = f64::from(LOST_OF_1000) / 10.0;
        let delays = match self.delays {
            true => format!("every packet takes {DELAY}"),
            false => "this kernel delays none".to_owned(),
        };
        format!("{share} % of the packets of a lossy port are dropped; {delays}")
    }

    /// From now on packets from and to these addresses get lost now and then.
    pub(crate) async fn lose_some(&self, addresses: &[SocketAddr]) -> Result<(), Failure> {
        change("add", "lossy", addresses).await
    }

    /// From now on every packet from and to this address is lost.
    pub(crate) async fn lose_all(&self, address: SocketAddr) -> Result<(), Failure> {
        change("add", "dark", &[address]).await
    }

    /// Ends what [`Self::lose_all`] began.
    pub(crate) async fn lose_no_longer_all(&self, address: SocketAddr) -> Result<(), Failure> {
        change("delete", "dark", &[address]).await
    }

    /// What became of packets.
    pub(crate) async fn packets(&self) -> Result<Packets, Failure> {
        let listed = run("nft", &["-j", "list", "counters"], "").await?;
        let listed: Value = serde_json::from_slice(&listed.stdout)?;
        let entries = listed.get("nftables").and_then(Value::as_array);
        let counted = |name: &str| {
            let mut counters =
                entries.into_iter().flatten().filter_map(|entry| entry.get("counter"));
            let counter = counters.find(|counter| counter.get("name").is_some_and(|is| is == name));
            let packets = counter.and_then(|counter| counter.get("packets")?.as_u64());
            packets.ok_or_else(|| format!("nft does not show the counter {name}"))
        };
        let (sent, lost, swallowed) = (counted("sent")?, counted("lost")?, counted("swallowed")?);
        Ok(Packets { sent, lost, swallowed })
    }
}

fn rules() -> String {
    let counters: String =
        ["sent", "lost", "swallowed"].map(|name| format!("counter {name} {{ }}\n")).concat();
    let sets: String =
        ["lossy", "dark"].map(|name| format!("set {name} {{ type inet_service; }}\n")).concat();
    let lines: String = ["sport", "dport"]
        .map(|port| {
            format!(
                "tcp {port} @dark counter name swallowed drop\n\
                 tcp {port} @lossy counter name sent\n\
                 tcp {port} @lossy numgen random mod 1000 < {LOST_OF_1000} counter name lost drop\n"
            )
        })
        .concat();
    format!(
        "table inet faults {{\n{counters}{sets}chain input {{\n\
         type filter hook input priority 0; policy accept;\n{lines}}}\n}}\n"
    )
}

async fn change(what: &str, set: &str, addresses: &[SocketAddr]) -> Result<(), Failure> {
    let ports: Vec<String> = addresses.iter().map(|address| address.port().to_string()).collect();
    let line = format!("{what} element inet faults {set} {{ {} }}\n", ports.join(", "));
    run("nft", &["-f", "-"], &line).await.map(drop)
}

/// Runs a program to its end and wants a success.
async fn run(program: &str, arguments: &[&str], input: &str) -> Result<Output, Failure> {
    let said = format!("{program} {}", arguments.join(" "));
    let told = |error: io::Error| Failure::from(format!("{said}: {error}"));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(told)?;
    if let Some(mut stdin) = child.stdin.take() {
        // Whoever ends without reading says why by its status.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(told)?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("{said}: {}", errors.trim()).into());
    }
    Ok(output)
}
