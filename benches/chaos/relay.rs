//! A balancer of the plainest kind: it passes bytes on, and gives new connections only to who is
//! ready.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::support::Failure;
use crate::support::web::Web;

/// How often `/readyz` is asked.
const READINESS_INTERVAL: Duration = Duration::from_millis(20);

/// Who connections are given to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backend {
    /// Where the connections go.
    pub(crate) address: SocketAddr,
    /// Where `/readyz` is.
    pub(crate) admin: SocketAddr,
}

/// A running balancer; it ends when dropped, with its connections.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Watched {
    address: SocketAddr,
    ready: AtomicBool,
}

impl Relay {
    pub(crate) async fn start(backends: &[Backend]) -> Result<Self, Failure> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let mut tasks = JoinSet::new();
        let mut watched = Vec::new();
        for backend in backends {
            let one = Watched { address: backend.address, ready: AtomicBool::new(false) };
            let one = Arc::new(one);
            tasks.spawn(watch(Arc::clone(&one), format!("http://{}/readyz", backend.admin)));
            watched.push(one);
        }
        tasks.spawn(accept(listener, watched));
        Ok(Self { address, _tasks: tasks })
    }
}

async fn watch(backend: Arc<Watched>, page: String) {
    let web = Web::default();
    loop {
        let ready = web.get(&page).await.is_ok_and(|(status, _)| status.is_success());
        backend.ready.store(ready, Ordering::Relaxed);
        tokio::time::sleep(READINESS_INTERVAL).await;
    }
}

async fn accept(listener: TcpListener, backends: Vec<Arc<Watched>>) {
    let mut connections = JoinSet::new();
    let mut turn = 0;
    while let Ok((mut caller, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        turn += 1;
        let backends = backends.clone();
        connections.spawn(async move {
            let Some(mut proxy) = connect(&backends, turn).await else { return };
            let _ = (caller.set_nodelay(true), proxy.set_nodelay(true));
            let _ = tokio::io::copy_bidirectional(&mut caller, &mut proxy).await;
        });
    }
}

/// A connection to the next that is ready.
async fn connect(backends: &[Arc<Watched>], turn: usize) -> Option<TcpStream> {
    let in_turn = backends.iter().cycle().skip(turn % backends.len().max(1)).take(backends.len());
    for backend in in_turn.filter(|backend| backend.ready.load(Ordering::Relaxed)) {
        if let Ok(stream) = TcpStream::connect(backend.address).await {
            return Some(stream);
        }
    }
    None
}
