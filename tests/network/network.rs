//! The simulated network: hosts with ports, roads to them, and nothing of the kernel.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use batchwise::front;
use batchwise::instance::{BoxFuture, Connection, Dial};
use tokio::sync::mpsc;

use crate::line::{End, Line};
use crate::model_server;
use crate::road::Road;

type Ports = BTreeMap<(String, u16), mpsc::UnboundedSender<End>>;

/// Hosts, their ports and the roads to them.
#[derive(Clone, Default)]
pub(crate) struct Network {
    ports: Arc<Mutex<Ports>>,
    roads: Arc<Mutex<BTreeMap<String, Road>>>,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Network")
    }
}

impl Network {
    /// Everybody reaches `host` by this road who brings no other.
    pub(crate) fn pave(&self, host: &str, road: Road) {
        lock(&self.roads).insert(host.to_owned(), road);
    }

    /// Opens a port, in place of one that was open.
    pub(crate) fn listen(&self, host: &str, port: u16) -> Port {
        let (sender, arrivals) = mpsc::unbounded_channel();
        lock(&self.ports).insert((host.to_owned(), port), sender);
        Port { arrivals, number: port }
    }

    /// Makes a connection along `road`.
    pub(crate) async fn connect(&self, road: &Road, host: &str, port: u16) -> io::Result<End> {
        let mut random = road.draw();
        tokio::time::sleep(road.delay(&mut random)).await;
        road.until_it_leads_somewhere().await;
        let listener = lock(&self.ports).get(&(host.to_owned(), port)).cloned();
        let (line, near, far) = Line::lay(road);
        road.carries(line);
        let accepted = listener.is_some_and(|listener| listener.send(far).is_ok());
        tokio::time::sleep(road.delay(&mut random)).await;
        if !accepted {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        Ok(near)
    }
}

impl Network {
    /// Closes every port.
    pub(crate) fn close(&self) {
        lock(&self.ports).clear();
    }
}

impl Dial for Network {
    fn dial(&self, host: &str, port: u16) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
        let (network, host) = (self.clone(), host.to_owned());
        Box::pin(async move {
            let road = lock(&network.roads).get(&host).cloned();
            let road = road.ok_or(ErrorKind::HostUnreachable)?;
            let end = network.connect(&road, &host, port).await?;
            Ok(Box::new(end) as Box<dyn Connection>)
        })
    }
}

/// An open port.
#[derive(Debug)]
pub(crate) struct Port {
    arrivals: mpsc::UnboundedReceiver<End>,
    number: u16,
}

impl Port {
    async fn next(&mut self) -> io::Result<End> {
        match self.arrivals.recv().await {
            Some(end) => Ok(end),
            // Another one took its place: nobody comes any more.
            None => std::future::pending().await,
        }
    }
}

impl front::Listener for Port {
    type Connection = End;

    async fn accept(&mut self) -> io::Result<End> {
        self.next().await
    }

    fn address(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from(([10, 0, 0, 1], self.number)))
    }
}

impl model_server::Listener for Port {
    type Stream = End;

    async fn accept(&mut self) -> io::Result<(End, model_server::Reset)> {
        let end = self.next().await?;
        let line = end.line();
        Ok((end, Box::new(move || line.reset())))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
