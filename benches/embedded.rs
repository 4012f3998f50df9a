//! What the embedded models cost, and what a batch saves.

#![expect(clippy::expect_used, reason = "a benchmark may panic")]

use std::hint::black_box;

use batchwise::embedded::{Echo, HashingEmbedder, digits};
use batchwise::tensor::{DataType, Shape, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn digits_by_batch_size(criterion: &mut Criterion) {
    let model = digits().expect("the built-in model loads");
    let mut group = criterion.benchmark_group("digits");
    for rows in [1_u64, 8, 32, 64, 256] {
        let pixels: Vec<u8> =
            (0..rows * 64).flat_map(|index| ((index % 17) as f32).to_le_bytes()).collect();
        let shape = Shape::from(&[rows, 64][..]);
        let image = Tensor::new("image", DataType::Fp32, shape, pixels.into()).expect("it fits");
        group.throughput(Throughput::Elements(rows));
        group.bench_function(rows.to_string(), |bencher| {
            bencher.iter(|| model.run(black_box(std::slice::from_ref(&image))));
        });
    }
    group.finish();
}

fn embedding_by_text_length(criterion: &mut Criterion) {
    let embedder = HashingEmbedder::default();
    let mut group = criterion.benchmark_group("embedding");
    for words in [1, 16, 256] {
        let text = "embarrassingly parallel requests ".repeat(words);
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(words.to_string(), |bencher| {
            bencher.iter(|| embedder.embed(black_box(&text)));
        });
    }
    group.finish();
}

fn echo_by_event(criterion: &mut Criterion) {
    let text = "word ".repeat(1000);
    let body = format!(r#"{{"model":"echo","messages":[{{"role":"user","content":"{text}"}}]}}"#);
    let echo = Echo::chat(body.as_bytes(), "1", 0).expect("the request is right");
    let mut group = criterion.benchmark_group("echo");
    group.throughput(Throughput::Elements(1003));
    group.bench_function("events", |bencher| {
        bencher.iter_batched(
            || echo.clone(),
            |echo| echo.events().map(|event| event.len()).sum::<usize>(),
            criterion::BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, digits_by_batch_size, embedding_by_text_length, echo_by_event);
criterion_main!(benches);
