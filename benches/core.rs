//! The pure core: what a call costs in the lane at some depth, and what a megabyte costs to join
//! and split.
//!
//! `cargo bench --bench core`

use std::hint::black_box;

use batchwise::lane::{
    Adaptive, CallId, Effect, Event, Health, InstanceChange, InstanceId, Instant, Lane, LanePlan,
    Outcome, Payload, ShapeKey, SlotId, Span, Ticket, Track,
};
use batchwise::tensor::{DataType, Shape, Tensor, join, split};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

struct Nothing;

impl Payload for Nothing {
    fn split_off(&mut self, _: u32) -> Self {
        Nothing
    }

    fn signature(&self) -> u64 {
        0
    }

    fn is_abandoned(&self) -> bool {
        false
    }
}

const BATCH: u32 = 32;

/// A lane with one instance and `depth` calls that wait, over eight shapes and three priorities.
struct Filled {
    lane: Lane<Nothing>,
    now: Instant,
    next: u64,
    keys: Vec<ShapeKey>,
    flying: Option<SlotId>,
}

impl Filled {
    fn new(depth: u64) -> Self {
        let plan = LanePlan {
            max_batch_rows: Some(BATCH),
            max_queue_rows: u64::MAX,
            max_queue_bytes: u64::MAX,
            early_slot: true,
            ..LanePlan::default()
        };
        let mut filled = Self {
            lane: Lane::new(plan, Box::new(Adaptive::new(1))),
            now: Instant::default(),
            next: 0,
            keys: (0..8_u64).map(|key| ShapeKey::new(&[key as u8; 64])).collect(),
            flying: None,
        };
        let up = InstanceChange::Health(Health::Up);
        filled.lane.on(filled.now, Event::Instance(InstanceId(0), up));
        for _ in 0..depth {
            filled.arrive();
        }
        filled.dispatch();
        filled
    }

    fn arrive(&mut self) {
        self.now = self.now + Span::from_nanos(1000);
        let ticket = Ticket {
            id: CallId(self.next),
            track: Track::Batch,
            key: self.keys.get(self.next as usize % 8).cloned(),
            rows: 1,
            first_row: 0,
            bytes: 1000,
            longest_tokens: 0,
            priority: 1 + (self.next % 3) as u8,
            arrived: self.now,
            deadline: self.now + Span::from_secs(1000),
            tenant: None,
            objective: None,
            put_off: Span::ZERO,
            affinity: None,
        };
        self.next += 1;
        self.lane.on(self.now, Event::Arrive(ticket, Nothing));
    }

    fn dispatch(&mut self) {
        while let Some(effect) = self.lane.next(self.now) {
            if let Effect::Dispatch(slot, _, batch) = effect {
                black_box(batch.rows);
                self.flying = Some(slot);
            }
        }
    }

    /// A batch's worth of calls comes, and a batch goes.
    fn turn(&mut self) {
        for _ in 0..BATCH {
            self.arrive();
        }
        if let Some(slot) = self.flying.take() {
            self.lane.on(self.now, Event::Done(slot, Outcome::Served { batched: true }));
        }
        self.dispatch();
    }
}

fn lane(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lane: arrive and leave, per call");
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    for depth in [10_u64, 1_000, 100_000] {
        let mut filled = Filled::new(depth);
        group.bench_function(BenchmarkId::from_parameter(depth), |bencher| {
            bencher.iter(|| filled.turn());
        });
    }
    group.finish();
}

fn calls(count: u64, bytes: usize, datatype: DataType) -> Vec<Vec<Tensor>> {
    let one = || {
        let (data, columns) = match datatype {
            DataType::Bytes => {
                let element: Vec<u8> =
                    12_u32.to_le_bytes().into_iter().chain(*b"twelve bytes").collect();
                (element.repeat(bytes / 16), bytes as u64 / 16)
            }
            _ => (vec![1; bytes], bytes as u64 / 4),
        };
        let shape = Shape::from(&[1, columns][..]);
        Tensor::new("x", datatype, shape, data.into()).ok().into_iter().collect()
    };
    (0..count).map(|_| one()).collect()
}

fn ropes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tensor: join and split, per megabyte");
    for (name, datatype) in [("FP32", DataType::Fp32), ("BYTES", DataType::Bytes)] {
        for (count, bytes) in [(32, 32 << 10), (1024, 1 << 10)] {
            let calls = calls(count, bytes, datatype);
            let rows = vec![1_u32; calls.len()];
            group.throughput(Throughput::Bytes(count * bytes as u64));
            let id = BenchmarkId::new(name, format!("{count} calls of {bytes} bytes"));
            group.bench_function(id, |bencher| {
                bencher.iter(|| {
                    let joined = join(calls.iter().map(Vec::as_slice));
                    black_box(split(&joined, &rows).map(|parts| parts.len()))
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, lane, ropes);
criterion_main!(benches);
