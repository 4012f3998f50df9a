//! The configuration: the input is `models.toml`.

use std::collections::BTreeSet;
use std::path::Path;

use batchwise::config::units::{format_duration, format_size, parse_duration, parse_size};
use batchwise::config::{ConfigError, InstanceAddress, InstanceUrl, ModelPlan, Plan, Protocol};

/// See the module.
pub fn models_toml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    units(text);
    urls(text);
    let file = Path::new("models.toml");
    let outcome = Plan::parse(text, file);
    // A comment changes nothing, but for a text that it cuts in two.
    let commented = Plan::parse(&format!("{text}\n# the end\n"), file);
    match (outcome, commented) {
        (Ok(plan), Ok(again)) => {
            assert_eq!(plan, again);
            accepted(&plan);
        }
        (Err(error), _) => refused(&error, text),
        (Ok(plan), Err(error)) => panic!("{plan:?}, but with a comment {error}"),
    }
}

fn accepted(plan: &Plan) {
    assert!(!plan.models.is_empty());
    let names: BTreeSet<&str> = plan.models.iter().map(|model| model.name.as_str()).collect();
    assert_eq!(names.len(), plan.models.len(), "a name stands twice");
    assert!(plan.server.max_request_bytes > 0 && plan.server.max_connections > 0);
    plan.models.iter().for_each(model);
}

fn model(model: &ModelPlan) {
    assert!(!model.name.is_empty() && !model.instances.is_empty(), "{model:?}");
    assert_eq!(model.embedded.is_some(), model.protocol == Protocol::Embedded);
    assert!((1..=model.priority_levels).contains(&model.default_priority), "{model:?}");
    assert!(model.max_batch_size != Some(0) && model.max_concurrency != Some(0), "{model:?}");
    assert!(model.health.timeout <= model.health.interval, "{model:?}");
    assert!(model.breaker.open_for <= model.breaker.max_open_for, "{model:?}");
    let ratio = model.breaker.failure_ratio;
    assert!(ratio > 0.0 && ratio <= 1.0, "{model:?}");
    assert!(model.max_queue_delay.is_none_or(|delay| delay < model.timeout), "{model:?}");
    assert!(model.retry.attempts >= 1 && model.max_queue_size >= 1, "{model:?}");
    let instances: BTreeSet<&str> = model.instances.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(instances.len(), model.instances.len(), "an instance stands twice: {model:?}");
    for instance in &model.instances {
        let InstanceAddress::Url(url) = &instance.address else { continue };
        reads_back(url, model.protocol);
        let uri = format!("{url}/v2/models/m");
        assert!(uri.parse::<http::Uri>().is_ok(), "{uri} cannot be asked for");
    }
}

fn refused(error: &ConfigError, text: &str) {
    assert!(!error.problems.is_empty());
    let lines = 1 + text.matches('\n').count();
    for finding in error.findings() {
        assert!(finding.line.is_none_or(|line| (1..=lines).contains(&line)), "{finding}");
        assert!(!finding.message.is_empty() && !finding.mend.is_empty(), "{finding:?}");
        let said = finding.to_string();
        assert!(!said.chars().any(char::is_control), "more than a line: {said:?}");
        assert!(said.len() < 4000, "a message of {} bytes", said.len());
        let secret = said.split("://").skip(1).any(|rest| {
            rest.split(['/', '"', '?']).next().is_some_and(|authority| authority.contains('@'))
        });
        assert!(!secret || !text.contains("instances"), "it repeats a credential: {said}");
    }
}

fn units(text: &str) {
    let line = text.lines().next().unwrap_or_default();
    match parse_duration(line) {
        Ok(duration) => assert_eq!(parse_duration(&format_duration(duration)), Ok(duration)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    match parse_size(line) {
        Ok(bytes) => assert_eq!(parse_size(&format_size(bytes)), Ok(bytes)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn urls(text: &str) {
    let line = text.lines().next().unwrap_or_default();
    for protocol in Protocol::ALL {
        match InstanceUrl::parse(line, protocol) {
            Ok(url) => reads_back(&url, protocol),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

fn reads_back(url: &InstanceUrl, protocol: Protocol) {
    assert!(!url.path_prefix.ends_with('/') && url.port > 0, "{url:?}");
    // Of two versions at the end one is the protocol's own, which is left out each time.
    if !url.path_prefix.ends_with("/v1") && !url.path_prefix.ends_with("/v2") {
        assert_eq!(InstanceUrl::parse(&url.to_string(), protocol).as_ref(), Ok(url));
    }
}
