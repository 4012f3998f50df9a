//! A host: a model server, the road to it, and what can be wrong with either.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::ledger::Ledger;
use crate::model_server::{
    Clock, DropMoment, ModelServer, Options, ServiceTime, Settings, Trigger, Witness,
};
use crate::network::Network;
use crate::road::Road;
use crate::scenario::{Fault, GRPC_PORT, HTTP_PORT, Servers};

const MODELS: [&str; 5] = ["tensors", "arrays", "lists", "texts", "extra"];

pub(crate) struct Host {
    name: &'static str,
    network: Network,
    road: Road,
    delay: (u64, u64),
    options: Options,
    server: Option<ModelServer>,
}

impl Host {
    pub(crate) fn new(
        name: &'static str,
        seed: u64,
        network: &Network,
        servers: &Servers,
        ledger: &Ledger,
    ) -> Self {
        let road = Road::new(seed, servers.delay);
        network.pave(name, road.clone());
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let (base, per_row) = servers.service;
        let settings = Settings {
            service: ServiceTime::linear(
                Duration::from_millis(base),
                Duration::from_micros(per_row),
            ),
            token_interval: Duration::from_millis(servers.token_interval_ms),
            max_batch_size: servers.max_batch_size,
            poison: true,
            record: 0,
            ..Settings::default()
        };
        let (ledger, most) = (ledger.clone(), servers.max_batch_size as usize);
        let options = Options {
            grpc: nowhere,
            http: nowhere,
            models: MODELS.map(str::to_owned).into(),
            parallelism: servers.parallelism,
            embedding_dimensions: 8,
            settings,
            clock: Clock::Runtime,
            witness: Some(Witness::new(move |arrival| ledger.arrived(name, most, arrival))),
            ..Options::default()
        };
        let network = network.clone();
        let mut host = Self { name, network, road, delay: servers.delay, options, server: None };
        host.start();
        host
    }

    fn start(&mut self) {
        let grpc = self.network.listen(self.name, GRPC_PORT);
        let http = self.network.listen(self.name, HTTP_PORT);
        self.server = ModelServer::start_on(grpc, http, &self.options).ok();
    }

    pub(crate) fn suffers(&mut self, fault: Fault) {
        match fault {
            Fault::Down | Fault::Flaps(_) => {
                self.server = None;
                self.road.reset_lines();
            }
            Fault::Resets => self.road.reset_lines(),
            Fault::Cut(direction, after) => self.road.cut_next(direction, after),
            Fault::Silent(silence) => self.road.set_silence(Some(silence)),
            Fault::Crumbles => self.road.set_crumbles(true),
            Fault::Far(millis) => self.road.set_delay((millis, millis / 4)),
            Fault::Fails => self.set(|settings| settings.fail = Trigger::Always),
            Fault::Garbles => self.set(|settings| settings.garbage = Trigger::Always),
            Fault::LeavesRowsOut => self.set(|settings| settings.wrong_rows = Trigger::Always),
            Fault::Overloaded => self.set(|settings| settings.overload = Trigger::Always),
            Fault::Unready => self.set(|settings| settings.ready = false),
            Fault::Hangs => self.set(|settings| settings.hang = true),
            Fault::Stalls => self.set(|settings| settings.stall = Trigger::Always),
            Fault::Drops(moment, calls) => self.set(|settings| {
                settings.drop_connection = Trigger::Next(calls);
                settings.drop_moment = match moment {
                    0 => DropMoment::AtOnce,
                    1 => DropMoment::BeforeReply,
                    _ => DropMoment::MidReply,
                };
            }),
        }
    }

    /// Stops its process where it runs, or starts it where it does not.
    pub(crate) fn flaps(&mut self) {
        match self.server.take() {
            Some(_) => self.road.reset_lines(),
            None => self.start(),
        }
    }

    pub(crate) fn recovers(&mut self, fault: Fault) {
        match fault {
            Fault::Down | Fault::Flaps(_) if self.server.is_none() => self.start(),
            Fault::Resets => self.road.reset_lines(),
            _ => {}
        }
        self.road.cut_none();
        self.road.set_silence(None);
        self.road.set_crumbles(false);
        self.road.set_delay(self.delay);
        let settings = self.options.settings.clone();
        self.set(|now| *now = settings);
    }

    fn set(&self, change: impl FnOnce(&mut Settings)) {
        if let Some(server) = &self.server {
            server.switches().set(change);
        }
    }

    pub(crate) async fn stop(mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown().await;
        }
    }
}
