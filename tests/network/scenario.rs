//! What happens in a run, drawn from its seed: who calls whom how often, and what goes wrong when.

use std::fmt::Write as _;

use crate::client::Carrier;
use crate::random::Random;
use crate::road::{Direction, Silence};
use crate::speech::{DataType, Speech};

/// The model servers; each has every model.
pub(crate) const HOSTS: [&str; 3] = ["north", "east", "south"];
/// Where their gRPC and HTTP are.
pub(crate) const GRPC_PORT: u16 = 8001;
pub(crate) const HTTP_PORT: u16 = 8000;

/// Everything about a run.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) models: Vec<Model>,
    pub(crate) servers: Servers,
    pub(crate) callers: Vec<Caller>,
    pub(crate) phases: Vec<Phase>,
}

/// A model, by what its instances speak.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) name: &'static str,
    protocol: &'static str,
    keys: Vec<String>,
    /// Whether nothing may be sent again that a server may have begun.
    pub(crate) once: bool,
}

/// How the model servers are.
#[derive(Clone, Debug)]
pub(crate) struct Servers {
    /// Milliseconds that a batch takes, and microseconds that each row adds.
    pub(crate) service: (u64, u64),
    pub(crate) parallelism: usize,
    pub(crate) max_batch_size: u32,
    pub(crate) delay: (u64, u64),
    pub(crate) token_interval_ms: u64,
}

/// Somebody who calls one model.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) model: usize,
    pub(crate) speech: Speech,
    pub(crate) carrier: Carrier,
    /// Makes its calls in one stream.
    pub(crate) streams: bool,
    pub(crate) manners: Manners,
    pub(crate) delay: (u64, u64),
}

/// How a caller treats its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manners {
    Good,
    /// Its bytes come one by one.
    Slow,
    /// Its connections break, in the middle of whatever is on them.
    Reckless,
}

/// A while in which callers call; then everything comes to rest.
#[derive(Clone, Debug)]
pub(crate) struct Phase {
    /// Calls of each caller.
    pub(crate) calls: u64,
    pub(crate) mean_gap_ms: u64,
    /// The share of calls that are poison, whose callers go away, and whose callers cannot wait.
    pub(crate) poison: f64,
    pub(crate) leaves: f64,
    pub(crate) hurries: f64,
    pub(crate) trouble: Option<Trouble>,
    pub(crate) order: Option<(u64, Order)>,
}

/// One host is bad for a while.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    pub(crate) host: usize,
    pub(crate) at_ms: u64,
    pub(crate) for_ms: u64,
    pub(crate) fault: Fault,
}

/// What is wrong with a host, or with the road to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Its process has ended.
    Down,
    /// Its process ends and starts again, over and over, after so many milliseconds each time.
    Flaps(u64),
    /// All its connections are reset, at the beginning and at the end.
    Resets,
    /// The next connection on which something goes that way is cut so many bytes later.
    Cut(Direction, usize),
    Silent(Silence),
    Crumbles,
    /// Every piece takes so many milliseconds.
    Far(u64),
    Fails,
    Garbles,
    LeavesRowsOut,
    Overloaded,
    Unready,
    /// Batches begin and do not end.
    Hangs,
    /// Calls are taken and never answered.
    Stalls,
    /// The connection of the next calls is dropped: before they are executed, after it, or in the
    /// middle of the reply.
    Drops(u8, u64),
}

impl Fault {
    /// Whether it only shows in that nothing comes back.
    pub(crate) fn is_quiet(self) -> bool {
        matches!(self, Self::Silent(_) | Self::Hangs | Self::Stalls)
    }
}

/// What an operator does.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    /// The configuration changes to these models.
    Reload(Vec<Model>),
    /// A host is out of service until the phase ends.
    OutOfService(usize),
    /// The proxy is told to stop.
    Stop,
}

impl Scenario {
    /// The scenario of a seed.
    pub(crate) fn draw(seed: u64) -> Self {
        let random = &mut Random::new(seed);
        let models = models(random);
        let servers = Servers {
            service: (1 + random.below(15), 50 + random.below(500)),
            parallelism: 1 + random.below(3) as usize,
            max_batch_size: 4 << random.below(4),
            delay: (random.below(2), random.below(3)),
            token_interval_ms: random.below(4),
        };
        let mut callers = Vec::new();
        for (index, model) in models.iter().enumerate() {
            for _ in 0..1 + random.below(3) {
                callers.push(Caller::draw(random, index, model.protocol));
            }
        }
        let mut phases = vec![Phase::calm(random)];
        let mut now = models.clone();
        for _ in 0..1 + random.below(2) {
            let phase = Phase::draw(random, &mut now);
            let reloads = phase.reloads();
            phases.push(phase);
            if reloads {
                phases.push(Phase::calm(random));
            }
        }
        let mut last = Phase::draw(random, &mut now);
        last.order = Some((20 + random.below(600), Order::Stop));
        phases.push(last);
        Self { models, servers, callers, phases }
    }

    /// What goes wrong in a phase.
    pub(crate) fn fault_of(&self, phase: usize) -> Option<Fault> {
        self.phases[phase].trouble.as_ref().map(|trouble| trouble.fault)
    }

    /// Whether batches of a model may be sent to a second instance, at any time.
    pub(crate) fn hedges(&self, model: &str) -> bool {
        let reloads = self.phases.iter().filter_map(|phase| match &phase.order {
            Some((_, Order::Reload(models))) => Some(models),
            _ => None,
        });
        let models = std::iter::once(&self.models).chain(reloads).flatten();
        models
            .filter(|it| it.name == model)
            .any(|it| it.keys.iter().any(|key| key.starts_with("[model.hedge]")))
    }

    /// The configuration of some models, as a file has it.
    pub(crate) fn configuration(models: &[Model]) -> String {
        let mut text = "[server]\ntrust_tenant_header = true\n".to_owned();
        for Model { name, protocol, keys, once } in models {
            let (scheme, port) = match *protocol {
                "kserve-grpc" => ("grpc", GRPC_PORT),
                _ => ("http", HTTP_PORT),
            };
            let instances = HOSTS.map(|host| format!("\"{scheme}://{host}:{port}\"")).join(", ");
            let keys = keys.join("\n");
            let retry = format!("[model.retry]\nidempotent = {}", !once);
            write!(
                text,
                "\n[[model]]\nname = \"{name}\"\nprotocol = \"{protocol}\"\ninstances = [{instances}]\n{keys}\n{retry}\n"
            )
            .unwrap();
        }
        text
    }
}

fn models(random: &mut Random) -> Vec<Model> {
    let all = [
        ("tensors", "kserve-grpc"),
        ("arrays", "kserve-http"),
        ("lists", "kserve-v1"),
        ("texts", "openai"),
    ];
    let mut models = Vec::new();
    while models.is_empty() {
        for (name, protocol) in all {
            if random.chance(0.6) {
                models.push(Model {
                    name,
                    protocol,
                    keys: keys(random),
                    once: random.chance(0.15),
                });
            }
        }
    }
    models
}

/// What a model is configured with.
fn keys(random: &mut Random) -> Vec<String> {
    let mut keys = Vec::new();
    if random.chance(0.3) {
        keys.push(format!("max_batch_size = {}", 2 + random.below(4)));
    }
    if random.chance(0.3) {
        keys.push(format!("max_queue_delay = \"{}ms\"", random.below(8)));
    }
    if random.chance(0.3) {
        keys.push(format!("max_concurrency = {}", 1 + random.below(4)));
    }
    if random.chance(0.25) {
        keys.push("[model.hedge]\nenabled = true".to_owned());
    }
    let health = ["1s", "3s", "5s"][random.below(3) as usize];
    keys.push(format!("[model.health]\ninterval = \"{health}\""));
    keys
}

impl Caller {
    fn draw(random: &mut Random, model: usize, protocol: &str) -> Self {
        let http = if random.chance(0.5) { Carrier::Http1 } else { Carrier::Http2 };
        let (speech, carrier) = match (protocol, random.below(4)) {
            ("kserve-grpc" | "kserve-http", 0 | 1) => (Speech::Grpc, Carrier::Http2),
            ("kserve-grpc" | "kserve-http", 2) => (Speech::Json, http),
            ("kserve-grpc" | "kserve-http", _) => (Speech::Binary, http),
            ("kserve-v1", _) => (Speech::Predict, http),
            (_, 0 | 1) => (Speech::Embed, http),
            (_, 2) => (Speech::Chat, http),
            _ => (Speech::ChatEvents, http),
        };
        let manners = match random.below(8) {
            0 => Manners::Slow,
            1 => Manners::Reckless,
            _ => Manners::Good,
        };
        let streams = speech == Speech::Grpc && random.chance(0.4);
        let delay = (random.below(2), random.below(3));
        Self { model, speech, carrier, streams, manners, delay }
    }

    /// The datatype of its next call.
    pub(crate) fn datatype(&self, random: &mut Random) -> DataType {
        match random.below(8) {
            0 => DataType::Bytes,
            1 | 2 => DataType::Int64,
            _ => DataType::Fp32,
        }
    }
}

impl Phase {
    /// Nothing goes wrong, and instances are learned.
    fn calm(random: &mut Random) -> Self {
        Self {
            calls: 15 + random.below(15),
            mean_gap_ms: 2 + random.below(20),
            poison: 0.0,
            leaves: 0.0,
            hurries: 0.0,
            trouble: None,
            order: None,
        }
    }

    pub(crate) fn reloads(&self) -> bool {
        matches!(self.order, Some((_, Order::Reload(_))))
    }

    fn draw(random: &mut Random, models: &mut Vec<Model>) -> Self {
        let share = |random: &mut Random, most: f64| {
            if random.chance(0.5) { most * random.unit() } else { 0.0 }
        };
        let trouble = random.chance(0.8).then(|| Trouble::draw(random));
        let order = if random.chance(0.3) {
            Some(Order::Reload(change(random, models)))
        } else if trouble.is_none() && random.chance(0.5) {
            Some(Order::OutOfService(random.below(HOSTS.len() as u64) as usize))
        } else {
            None
        };
        Self {
            calls: 10 + random.below(20),
            mean_gap_ms: 2 + random.below(50),
            poison: share(random, 0.05),
            leaves: share(random, 0.2),
            hurries: share(random, 0.1),
            trouble,
            order: order.map(|order| (20 + random.below(600), order)),
        }
    }
}

/// Another configuration than that of `models`, which it becomes.
fn change(random: &mut Random, models: &mut Vec<Model>) -> Vec<Model> {
    const EXTRA: &str = "extra";
    match random.below(3) {
        0 if models.iter().any(|model| model.name == EXTRA) => {
            models.retain(|model| model.name != EXTRA);
        }
        0 => {
            let (protocol, keys) = ("kserve-grpc", keys(random));
            models.push(Model { name: EXTRA, protocol, keys, once: false });
        }
        _ => {
            let index = random.below(models.len() as u64) as usize;
            models[index].keys = keys(random);
        }
    }
    models.clone()
}

impl Trouble {
    fn draw(random: &mut Random) -> Self {
        let direction = if random.chance(0.5) { Direction::Out } else { Direction::Back };
        let fault = match random.below(15) {
            0 => Fault::Down,
            1 => Fault::Flaps(20 + random.below(300)),
            2 => Fault::Resets,
            3 | 4 => Fault::Cut(direction, random.below(400) as usize),
            5 => Fault::Silent(Silence::Lost),
            6 => Fault::Silent(Silence::Frozen),
            7 => Fault::Crumbles,
            8 => Fault::Far(20 + random.below(200)),
            9 => Fault::Fails,
            10 => Fault::Garbles,
            11 => Fault::LeavesRowsOut,
            12 => match random.below(2) {
                0 => Fault::Overloaded,
                _ => Fault::Unready,
            },
            13 => match random.below(2) {
                0 => Fault::Hangs,
                _ => Fault::Stalls,
            },
            _ => Fault::Drops(random.below(3) as u8, 1 + random.below(4)),
        };
        Self {
            host: random.below(HOSTS.len() as u64) as usize,
            at_ms: 10 + random.below(500),
            for_ms: 50 + random.below(3000),
            fault,
        }
    }
}
