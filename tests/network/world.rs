//! A run: the proxy between its callers and its instances, from the start to the end of every task.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use batchwise::app::{Listeners, Origin, Running, start_on};
use batchwise::config::{self, Overrides};
use batchwise::engine::Drained;
use batchwise::instance;
use tokio::runtime::{Builder, Handle};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::caller::Visitor;
use crate::checks::{Run, judge};
use crate::history::History;
use crate::host::Host;
use crate::ledger::Ledger;
use crate::network::Network;
use crate::random::Random;
use crate::road::Road;
use crate::scenario::{Fault, GRPC_PORT, HOSTS, HTTP_PORT, Order, Phase, Scenario, Trouble};

const ADMIN_PORT: u16 = 8002;
/// Longer than breakers stay open and gauges take.
const REST: Duration = Duration::from_secs(12);
/// Longer than a phase may take, whatever goes wrong in it.
const LONGEST_PHASE: Duration = Duration::from_secs(240);
const GRACE: Duration = Duration::from_secs(60);

/// What a run has shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) hash: u64,
    pub(crate) history: Vec<String>,
    /// Promises that were not kept.
    pub(crate) broken: Vec<String>,
}

/// Runs the scenario of a seed.
pub(crate) fn run(seed: u64) -> Report {
    play(seed, false)
}

/// The same, with the proxy's own log in its history.
pub(crate) fn replay(seed: u64) -> Report {
    play(seed, true)
}

fn play(seed: u64, logs: bool) -> Report {
    // No sockets and no timers of the kernel: these would need more of the runtime.
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(World::live(seed, logs))
}

struct World {
    scenario: Scenario,
    network: Network,
    ledger: Ledger,
    hosts: Vec<Host>,
    visitors: Vec<Arc<Visitor>>,
    file: ConfigurationFile,
    proxy: Option<Running>,
    stopping: JoinSet<Drained>,
    run: Run,
}

impl World {
    async fn live(seed: u64, logs: bool) -> Report {
        let scenario = Scenario::draw(seed);
        let history = History::begin();
        let _log = logs.then(|| history.listen());
        for line in format!("{scenario:#?}").lines() {
            history.note(line);
        }
        let mut random = Random::new(seed ^ 0x5eed);
        let mut world = Self::build(scenario, history.clone(), &mut random).await;
        for number in 0..world.scenario.phases.len() {
            if !world.phase(number, &mut random).await {
                break;
            }
        }
        world.end().await;
        let World { ledger, mut run, scenario, .. } = world;
        sleep(REST).await;
        let left = Handle::current().metrics().num_alive_tasks();
        run.demand(left == 0, || format!("{left} tasks are left at the end"));
        let entries = ledger.all();
        judge(&mut run, &scenario, &entries);
        history.note(format!("{run:?}"));
        let (hash, history) = (history.hash(), history.lines());
        Report { seed, hash, history, broken: run.broken }
    }

    async fn build(scenario: Scenario, history: History, random: &mut Random) -> Self {
        let network = Network::default();
        let ledger = Ledger::new(history);
        let hosts = HOSTS
            .map(|name| Host::new(name, random.next(), &network, &scenario.servers, &ledger))
            .into();
        let file = ConfigurationFile::new(&Scenario::configuration(&scenario.models));
        let loaded = config::load(Some(&file.path), &Overrides::default()).unwrap();
        let origin = Origin::of(&loaded, &file.path, Overrides::default());
        network.pave("proxy", Road::new(random.next(), (0, 0)));
        let listeners = Listeners {
            http: network.listen("proxy", HTTP_PORT),
            grpc: network.listen("proxy", GRPC_PORT),
            admin: network.listen("proxy", ADMIN_PORT),
        };
        let reached_over = instance::Network::Other(Arc::new(network.clone()));
        let proxy = start_on(listeners, reached_over, origin, &loaded.plan).await.unwrap();
        let ids = Arc::default();
        let visitor = |caller: &crate::scenario::Caller| {
            let model = scenario.models[caller.model].name;
            let visitor =
                Visitor::new(caller.clone(), model, random.next(), &network, &ids, &ledger);
            Arc::new(visitor)
        };
        let visitors = scenario.callers.iter().map(visitor).collect();
        Self {
            visitors,
            scenario,
            network,
            ledger,
            hosts,
            file,
            proxy: Some(proxy),
            stopping: JoinSet::new(),
            run: Run::default(),
        }
    }

    /// Lives through a phase. `false` when the run cannot go on.
    async fn phase(&mut self, number: usize, random: &mut Random) -> bool {
        sleep(REST).await;
        self.check_gauges(number);
        self.ledger.history.note(format!("phase {number} begins"));
        let phase = self.scenario.phases[number].clone();
        let mut callers = JoinSet::new();
        for visitor in &self.visitors {
            let (visitor, phase) = (Arc::clone(visitor), phase.clone());
            let random = Random::new(random.next());
            callers.spawn(async move { visitor.call(number, &phase, random).await });
        }
        let mut reloads = JoinSet::new();
        self.direct(&phase, &mut reloads).await;
        let all = async {
            while callers.join_next().await.is_some() {}
            reloads.join_all().await
        };
        let outcomes = timeout(LONGEST_PHASE, all).await;
        self.put_back(&phase).await;
        let Ok(outcomes) = outcomes else {
            self.run.demand(false, || format!("phase {number} does not end"));
            return false;
        };
        for outcome in outcomes {
            self.run.demand(outcome.is_ok(), || format!("phase {number}: {outcome:?}"));
        }
        true
    }

    /// Lets happen what is to happen in a phase, when its time has come.
    async fn direct(
        &mut self,
        phase: &Phase,
        reloads: &mut JoinSet<Result<(), batchwise::front::ReloadError>>,
    ) {
        let began = Instant::now();
        let mut agenda: Vec<(u64, Turn)> = Vec::new();
        if let Some(trouble) = &phase.trouble {
            let end = trouble.at_ms + trouble.for_ms;
            agenda.push((trouble.at_ms, Turn::Begin(trouble.clone())));
            if let Fault::Flaps(every) = trouble.fault {
                let times = (1..).map(|times| trouble.at_ms + times * every);
                let turns = times.take_while(|at| *at < end);
                agenda.extend(turns.map(|at| (at, Turn::Flap(trouble.host))));
            }
            agenda.push((end, Turn::End(trouble.clone())));
        }
        if let Some((at, order)) = &phase.order {
            agenda.push((*at, Turn::Order(order.clone())));
        }
        agenda.sort_by_key(|(at, _)| *at);
        for (at, turn) in agenda {
            sleep_until(began + Duration::from_millis(at)).await;
            // Whoever is woken at the same moment goes first, always.
            settle().await;
            self.turn(turn, reloads).await;
        }
    }

    async fn turn(
        &mut self,
        turn: Turn,
        reloads: &mut JoinSet<Result<(), batchwise::front::ReloadError>>,
    ) {
        let history = &self.ledger.history;
        match turn {
            Turn::Begin(Trouble { host, fault, .. }) => {
                history.note(format!("{} suffers: {fault:?}", HOSTS[host]));
                self.hosts[host].suffers(fault);
            }
            Turn::Flap(host) => {
                history.note(format!("{} flaps", HOSTS[host]));
                self.hosts[host].flaps();
            }
            Turn::End(Trouble { host, fault, .. }) => {
                history.note(format!("{} recovers: {fault:?}", HOSTS[host]));
                self.hosts[host].recovers(fault);
            }
            Turn::Order(Order::Reload(models)) => {
                history.note(format!("reload: {models:?}"));
                self.file.write(&Scenario::configuration(&models));
                if let Some(proxy) = &self.proxy {
                    let (reloader, history) = (proxy.reloads.clone(), history.clone());
                    reloads.spawn(async move {
                        let reloaded = reloader.reload().await;
                        history.note(format!("reloaded: {reloaded:?}"));
                        reloaded.map(drop)
                    });
                }
            }
            Turn::Order(Order::OutOfService(host)) => {
                history.note(format!("{} is taken out of service", HOSTS[host]));
                self.set_drained(host, true).await;
            }
            Turn::Order(Order::Stop) => {
                history.note("the proxy is told to stop");
                self.run.stopped_at = Some(history.now());
                if let Some(proxy) = self.proxy.take() {
                    self.stopping.spawn(proxy.drain(GRACE));
                }
            }
        }
    }

    async fn set_drained(&self, host: usize, drained: bool) {
        let Some(proxy) = &self.proxy else { return };
        for model in proxy.models.current().values() {
            for instance in &model.plan().instances {
                if instance.name.starts_with(HOSTS[host]) {
                    proxy.models.set_drained(model.name(), &instance.name, drained).await;
                }
            }
        }
    }

    async fn put_back(&self, phase: &Phase) {
        if let Some((_, Order::OutOfService(host))) = phase.order {
            self.set_drained(host, false).await;
        }
    }

    /// Whatever is counted must be at zero when nobody calls.
    fn check_gauges(&mut self, number: usize) {
        let Some(proxy) = &self.proxy else { return };
        let page = proxy.metrics();
        let names = ["queue_depth", "instance_inflight", "buffered_bytes"];
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let is_gauge = names.iter().any(|name| line.starts_with(&format!("batchwise_{name}")));
            let at_zero = line.ends_with(" 0");
            self.run.demand(!is_gauge || at_zero, || format!("before phase {number}: {line}"));
        }
        let held = proxy.buffered_bytes();
        self.run.demand(held == 0, || format!("before phase {number}: {held} bytes are held"));
    }

    /// Ends the proxy, if nobody has yet, and then everything else.
    async fn end(&mut self) {
        if let Some(proxy) = self.proxy.take() {
            self.stopping.spawn(proxy.drain(GRACE));
        }
        let began = Instant::now();
        while let Some(drained) = self.stopping.join_next().await {
            self.ledger.history.note(format!("the proxy has stopped: {drained:?}"));
            self.run.drained = drained.ok();
        }
        let took = began.elapsed();
        self.run.demand(took < GRACE, || format!("the proxy took {took:?} to stop"));
        for visitor in self.visitors.drain(..) {
            visitor.go().await;
        }
        for host in self.hosts.drain(..) {
            host.stop().await;
        }
        self.network.close();
    }
}

/// Something that happens in a phase.
enum Turn {
    Begin(Trouble),
    Flap(usize),
    End(Trouble),
    Order(Order),
}

/// Lets every task go as far as it can without time passing.
async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

/// A configuration file of this run alone, removed at its end.
struct ConfigurationFile {
    folder: PathBuf,
    path: PathBuf,
}

impl ConfigurationFile {
    fn new(text: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("batchwise-network-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let file = Self { path: folder.join("models.toml"), folder };
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        std::fs::write(Path::new(&self.path), text).unwrap();
    }
}

impl Drop for ConfigurationFile {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}
