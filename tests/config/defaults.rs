//! The default `models.toml` cannot rot: its active part serves, and every option that its comments
//! show exists, is valid, and has the default that the table of keys and the plan have.

use std::path::Path;

use batchwise::config::keys::{Key, ROOT, Table};
use batchwise::config::{DEFAULT_TEXT, EmbeddedKind, ModelPlan, Plan, Protocol};

/// The default file with its option lines in use: those that begin with `#` and no blank.
fn with_options_in_use() -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(option) if option.starts_with(|c: char| !c.is_whitespace()) => format!("{option}\n"),
        _ => format!("{line}\n"),
    };
    DEFAULT_TEXT.lines().map(line).collect()
}

fn parse(text: &str) -> Plan {
    Plan::parse(text, Path::new("models.toml")).unwrap_or_else(|error| panic!("{error}"))
}

/// The smallest file with `line` in `table`.
fn file_with(table: &Table, line: &str) -> String {
    let model = "[[model]]\nname = 'm'\nprotocol = 'embedded'\ninstances = ['echo']\n";
    match table.path {
        "server" => format!("[server]\n{line}\n{model}"),
        "model" => format!("{model}{line}\n"),
        "" => format!("{line}\n{model}"),
        "batch_api" if !line.starts_with("directory") => {
            format!("[batch_api]\ndirectory = 'd'\n{line}\n{model}")
        }
        "batch_api" => format!("[batch_api]\n{line}\n{model}"),
        path => format!("{model}[{path}]\n{line}\n"),
    }
}

fn keys() -> Vec<(&'static Table, &'static Key)> {
    let tables = ROOT.all().into_iter();
    tables.flat_map(|table| table.keys.iter().map(move |key| (table, key))).collect()
}

#[test]
fn the_default_serves_three_embedded_models_with_two_instances_each() {
    let plan = Plan::builtin().unwrap();
    let models: Vec<_> = plan
        .models
        .iter()
        .map(|model| (model.name.as_str(), model.embedded.clone(), model.instances.len()))
        .collect();
    let expected = [
        ("digits", Some(EmbeddedKind::Digits), 2),
        ("embedding", Some(EmbeddedKind::Embedding), 2),
        ("echo", Some(EmbeddedKind::Echo), 2),
    ];
    assert_eq!(models, expected);
}

#[test]
fn the_options_in_the_comments_are_valid() {
    let plan = parse(&with_options_in_use());
    let shows = |protocol: Protocol| plan.models.iter().any(|model| model.protocol == protocol);
    for protocol in Protocol::ALL {
        assert!(shows(protocol), "no example of {protocol}");
    }
    assert_eq!(plan.server, Plan::builtin().unwrap().server, "the server options show defaults");
}

#[test]
fn the_model_with_every_option_shows_defaults() {
    let plan = parse(&with_options_in_use());
    let shown = plan.models.iter().find(|model| model.name == "resnet50").unwrap().clone();
    let text = "[[model]]\nname = 'resnet50'\nprotocol = 'kserve-grpc'\n\
                instances = ['http://10.0.0.1:8001', 'http://10.0.0.2:8001']\n";
    let plain = parse(text).models.remove(0);
    // These have no default but absence, so the file shows an example.
    let expected = ModelPlan {
        max_batch_size: shown.max_batch_size,
        max_batch_bytes: shown.max_batch_bytes,
        max_batch_tokens: shown.max_batch_tokens,
        slo: shown.slo,
        ..plain
    };
    assert_eq!(shown, expected);
}

#[test]
fn every_key_is_shown_with_its_default() {
    let text = with_options_in_use();
    let mut table_path = "";
    let mut shown: Vec<(String, String, String)> = Vec::new();
    for line in text.lines() {
        let code = line.split(" #").next().unwrap_or_default().trim();
        if code.starts_with('[') && code.ends_with(']') {
            table_path = code.trim_matches(['[', ']']);
        } else if let Some((key, value)) = code.split_once(" = ") {
            shown.push((table_path.into(), key.into(), value.into()));
        }
    }
    for (table, key) in keys() {
        let here = shown.iter().filter(|(path, name, _)| path == table.path && name == key.name);
        let values: Vec<&str> = here.map(|(_, _, value)| value.as_str()).collect();
        let expected = match key.default {
            Some(default) => values.contains(&default),
            None => !values.is_empty(),
        };
        assert!(expected, "{}.{} is shown as {values:?}", table.path, key.name);
    }
}

#[test]
fn the_default_of_every_key_is_the_default_of_the_plan() {
    let mut compared = 0;
    for (table, key) in keys() {
        if let Some(default) = key.default {
            let line = format!("{} = {default}", key.name);
            let plain = parse(&file_with(table, ""));
            assert_eq!(parse(&file_with(table, &line)), plain, "{}.{}", table.path, key.name);
            compared += 1;
        }
    }
    assert!(compared > 20, "only {compared} keys have defaults");
}

#[test]
fn every_key_is_explained_in_one_sentence() {
    for (table, key) in keys() {
        assert!(key.about.ends_with('.'), "{}.{}: {}", table.path, key.name, key.about);
    }
}
