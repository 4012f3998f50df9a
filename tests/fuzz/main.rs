//! Every fuzz target on its corpus and on mutations of it, without a fuzzer: what `scripts/fuzz` once
//! found stays mended, and a target that a change breaks is noticed at once.
//!
//! `SEED=7 cargo test --test fuzz` tries other mutations.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails panics"
)]

#[path = "../support/fuzz/mod.rs"]
pub mod fuzz;
mod mutate;
mod seeds;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use fuzz::{Random, TARGETS};

/// Mutations of each corpus.
const MUTATIONS: u64 = 2000;
/// The targets that go through the whole front or over the loopback, of which fewer are tried.
const SLOW: [&str; 4] = ["event_stream", "front_grpc", "front_http", "instance_reply"];
const SLOW_MUTATIONS: u64 = 400;

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(path)
}

/// The names of the files in a folder, without the ending of a source.
fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.map(|name| name.trim_end_matches(".rs").to_owned()).collect()
}

/// The inputs of a corpus, with their names, in order.
fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = folder("corpus").join(name);
    let read = |file: String| {
        let input = std::fs::read(folder.join(&file)).unwrap();
        (file, input)
    };
    names(&folder).into_iter().map(read).collect()
}

/// Runs each target on the inputs that are made for it, each with what brings it back; tells of the
/// first of each target that does not hold. What a target panicked of is printed where it does.
fn hold<I: Display>(inputs: impl Fn(&'static str) -> Vec<(I, Vec<u8>)>) {
    let failures = TARGETS.into_iter().filter_map(|(name, target)| {
        let mut inputs = inputs(name).into_iter();
        let (what, input) =
            inputs.find(|(_, input)| catch_unwind(AssertUnwindSafe(|| target(input))).is_err())?;
        Some(format!("{name} fails on {what}: \"{}\"", input.escape_ascii()))
    });
    let failures: Vec<String> = failures.collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn every_target_has_a_corpus_and_a_binary() {
    let known: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&folder("corpus")), known);
    assert_eq!(names(&folder("fuzz_targets")), known);
    let manifest = std::fs::read_to_string(folder("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is no [[bin]]");
        let code = std::fs::read_to_string(folder("fuzz_targets").join(format!("{name}.rs")));
        assert!(
            code.unwrap().contains(&format!("batchwise_fuzz::{name}(")),
            "{name}.rs runs another"
        );
        assert!(!corpus(name).is_empty(), "the corpus of {name} is empty");
    }
}

#[test]
fn every_input_of_the_corpora_holds() {
    hold(|name| {
        let inputs = corpus(name).into_iter();
        inputs.map(|(file, input)| (format!("fuzz/corpus/{name}/{file}"), input)).collect()
    });
}

#[test]
fn mutations_of_the_corpora_hold() {
    let first = std::env::var("SEED").ok().and_then(|seed| seed.parse::<u64>().ok()).unwrap_or(1);
    hold(|name| {
        let inputs: Vec<Vec<u8>> = corpus(name).into_iter().map(|(_, input)| input).collect();
        let count = if SLOW.contains(&name) { SLOW_MUTATIONS } else { MUTATIONS };
        let mutation = |index: u64| {
            let seed = first.wrapping_mul(1_000_003).wrapping_add(index);
            let input = mutate::mutated(&inputs, &mut Random::new(seed));
            (format!("mutation {index} of SEED={first}"), input)
        };
        (0..count).map(mutation).collect()
    });
}
