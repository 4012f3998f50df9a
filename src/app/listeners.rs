//! What a proxy listens on.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::StartError;
use crate::config::ServerPlan;
use crate::front::Listener;

/// What a proxy listens on.
#[derive(Debug)]
pub struct Listeners<L> {
    /// For KServe over HTTP and OpenAI.
    pub http: L,
    /// For KServe over gRPC.
    pub grpc: L,
    /// For metrics, health, status and control.
    pub admin: L,
}

impl Listeners<TcpListener> {
    /// Binds the ports of a plan.
    pub(super) async fn bind(server: &ServerPlan) -> Result<Self, StartError> {
        let listen = async |(purpose, address)| {
            TcpListener::bind(address).await.map_err(refused(purpose, address))
        };
        let [http, grpc, admin] = purposes(server);
        Ok(Self {
            http: listen(http).await?,
            grpc: listen(grpc).await?,
            admin: listen(admin).await?,
        })
    }
}

impl<L: Listener> Listeners<L> {
    /// Where callers find them, in the order of the fields.
    pub(super) fn addresses(&self, server: &ServerPlan) -> Result<[SocketAddr; 3], StartError> {
        let of = |listener: &L, (purpose, planned)| {
            listener.address().map_err(refused(purpose, planned))
        };
        let [http, grpc, admin] = purposes(server);
        Ok([of(&self.http, http)?, of(&self.grpc, grpc)?, of(&self.admin, admin)?])
    }
}

fn purposes(server: &ServerPlan) -> [(&'static str, SocketAddr); 3] {
    [("HTTP", server.http), ("gRPC", server.grpc), ("admin", server.admin)]
}

fn refused(purpose: &'static str, address: SocketAddr) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::Listen { address, purpose, source }
}
