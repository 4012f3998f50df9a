//! What engines publish of their load, in Prometheus's text format.

use std::collections::BTreeMap;

/// How much an engine has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadGauges {
    /// Sequences that it works on.
    pub running: u32,
    /// Requests that wait inside it.
    pub waiting: u32,
    /// Whether asking it keeps it from noticing callers that have gone: before its first token llama.cpp
    /// looks for them only after a second in which it has answered nobody.
    pub wants_quiet: bool,
}

const LLAMA_CPP_WAITING: &str = "llamacpp:requests_deferred";

/// Names of the gauges: what runs, what waits.
const ENGINES: [(&str, &str); 5] = [
    ("vllm:num_requests_running", "vllm:num_requests_waiting"),
    ("sglang:num_running_reqs", "sglang:num_queue_reqs"),
    ("llamacpp:requests_processing", LLAMA_CPP_WAITING),
    ("tgi_batch_current_size", "tgi_queue_size"),
    ("te_batch_current_size", "te_queue_size"),
];

/// Reads how much an engine has to do from what it publishes: that of vLLM, SGLang, llama.cpp, TGI and
/// TEI. Series that differ in labels, as those of several workers do, are added up.
///
/// `None` when it does not say how many requests wait.
pub fn read_load(text: &str) -> Option<LoadGauges> {
    let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
    for (name, value) in text.lines().filter_map(sample) {
        *sums.entry(name).or_default() += value;
    }
    let count = |name: &str| sums.get(name).map(|&sum| sum.clamp(0.0, f64::from(u32::MAX)) as u32);
    ENGINES.iter().find_map(|&(running, name)| {
        let (waiting, running) = (count(name)?, count(running).unwrap_or_default());
        Some(LoadGauges { running, waiting, wants_quiet: name == LLAMA_CPP_WAITING })
    })
}

/// The name and value of a line, where it is a sample of a gauge that matters.
fn sample(line: &str) -> Option<(&str, f64)> {
    let end = line.find(['{', ' ', '\t'])?;
    let (name, rest) = line.split_at(end);
    let known = ENGINES.iter().any(|(running, waiting)| name == *running || name == *waiting);
    if !known {
        return None;
    }
    // A label's value may hold anything, the closing brace too; a time may follow the value.
    let values = if rest.starts_with('{') { &rest[rest.rfind('}')? + 1..] } else { rest };
    let value: f64 = values.split_ascii_whitespace().next()?.parse().ok()?;
    value.is_finite().then_some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gauges_of_every_engine_are_read() {
        for (running, waiting) in ENGINES {
            let text = format!(
                "# HELP {running} x\n# TYPE {running} gauge\n{running}{{engine=\"0\",m=\"a}} 9\"}} 3.0\n\
                 {running}{{engine=\"1\"}} 2\n{waiting} 7.0 1700000000\nother 5\n"
            );
            let wants_quiet = running.starts_with("llamacpp");
            let expected = LoadGauges { running: 5, waiting: 7, wants_quiet };
            assert_eq!(read_load(&text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_says_nothing_of_a_queue_is_no_load() {
        for text in
            ["", "vllm:num_requests_running 3", "vllm:num_requests_waiting NaN", "a{b 1", "{} 1"]
        {
            assert_eq!(read_load(text), None, "{text}");
        }
        let odd = "vllm:num_requests_waiting -3\nvllm:num_requests_waiting";
        assert_eq!(read_load(odd), Some(LoadGauges::default()));
    }
}
