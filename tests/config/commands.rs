//! `check`, `schema` and `completions`, and what the command line accepts.

use std::path::Path;

use batchwise::app::cli::{Command, CommandLine, Exit, Format};
use batchwise::app::offline;
use batchwise::config::keys::ROOT;
use clap::Parser as _;
use serde_json::{Value, json};

use crate::{assert_expected, folder};

fn run(arguments: &[&str]) -> (Exit, String) {
    let line = CommandLine::try_parse_from([&["batchwise"], arguments].concat()).unwrap();
    let Command::Offline(command) = line.command else { panic!("{arguments:?} is served") };
    let mut out = Vec::new();
    let exit = offline::run(&command, &mut out).unwrap();
    (exit, String::from_utf8(out).unwrap())
}

fn check(file: &Path, format: &str) -> (Exit, String) {
    run(&["check", "--config", &file.display().to_string(), "--format", format])
}

#[test]
fn check_reports_errors_with_their_lines_and_exits_with_2() {
    let file = folder("bad").join("unknown_keys.toml");
    let (exit, said) = check(&file, "text");
    assert_eq!(exit.code(), 2);
    let first = format!(
        "{}:2: error: unknown key `htpp` in [server]; did you mean `http`?\n",
        file.display()
    );
    assert!(said.starts_with(&first), "{said}");
    assert!(said.ends_with("not valid: 8 errors, 0 warnings\n"), "{said}");
}

#[test]
fn check_warns_of_what_production_needs_and_exits_with_0() {
    let file = folder("good").join("risky.toml");
    let (exit, said) = check(&file, "text");
    assert_eq!(exit, Exit::Done);
    let said = said.replace(&file.display().to_string(), "risky.toml");
    assert_expected(&said, &folder("good").join("risky.txt"));
}

#[test]
fn check_finds_nothing_in_a_sound_file() {
    let file = folder("good").join("sound.toml");
    let (exit, said) = check(&file, "text");
    let expected = format!("{}: valid: 0 errors, 0 warnings\n", file.display());
    assert_eq!((exit, said), (Exit::Done, expected));
}

#[test]
fn check_looks_at_the_addresses_that_serve_would_get() {
    let file = folder("good").join("sound.toml").display().to_string();
    let (exit, said) = run(&["check", "--config", &file, "--admin", "0.0.0.0:8002"]);
    assert_eq!(exit, Exit::Done);
    let admin = format!("{file}: warning: the admin listener 0.0.0.0:8002 can be reached");
    assert!(said.starts_with(&admin), "{said}");
    let (exit, said) = run(&["check", "--config", &file, "--admin", "0.0.0.0:8000"]);
    assert_eq!(exit, Exit::Usage);
    assert!(said.contains("command line: error: `admin` in [server]"), "{said}");
}

#[test]
fn check_misses_an_onnx_file_that_is_not_there() {
    let file = folder("good").join("protocols.toml");
    let (exit, said) = check(&file, "json");
    assert_eq!(exit, Exit::Usage);
    let report: Value = serde_json::from_str(&said).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let error = findings.iter().find(|finding| finding["severity"] == "error").unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    let line = 1 + text.lines().position(|line| line.contains("onnx:")).unwrap();
    assert_eq!(error["line"], json!(line));
    assert_eq!((&report["valid"], &report["errors"]), (&json!(false), &json!(1)));
}

#[test]
fn check_tells_programs_the_same() {
    let file = folder("good").join("risky.toml");
    let (exit, said) = check(&file, "json");
    assert_eq!(exit, Exit::Done);
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(report["valid"], json!(true));
    let findings = report["findings"].as_array().unwrap();
    assert_eq!(report["warnings"], json!(findings.len()));
    for key in ["file", "line", "severity", "key", "message", "mend"] {
        for finding in findings {
            assert!(!finding[key].is_null(), "{key} in {finding}");
        }
    }
}

#[test]
fn the_schema_describes_every_key() {
    let (exit, said) = run(&["schema"]);
    assert_eq!(exit, Exit::Done);
    let schema: Value = serde_json::from_str(&said).unwrap();
    for table in ROOT.all() {
        let mut node = &schema;
        for name in table.path.split('.').filter(|name| !name.is_empty()) {
            node = &node["properties"][name];
            node = node.get("items").unwrap_or(node);
        }
        assert_eq!(node["additionalProperties"], json!(false), "[{}]", table.path);
        for key in table.keys {
            let property = &node["properties"][key.name];
            assert_eq!(property["description"], json!(key.about), "{}.{}", table.path, key.name);
            let default = key.default.map(|text| serde_json::from_str::<Value>(text).unwrap());
            assert_eq!(property.get("default"), default.as_ref(), "{}.{}", table.path, key.name);
        }
    }
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let (exit, script) = run(&["completions", shell]);
        assert_eq!(exit, Exit::Done);
        assert!(script.contains("serve") && script.contains("check"), "{shell}: {script}");
    }
}

#[test]
fn serve_takes_addresses_and_the_form_of_the_log() {
    let line = CommandLine::try_parse_from([
        "batchwise",
        "serve",
        "--http",
        "0.0.0.0:80",
        "--grpc",
        "[::1]:81",
        "--log-format",
        "json",
    ])
    .unwrap();
    let Command::Serve(arguments) = line.command else { panic!("{line:?}") };
    assert_eq!(arguments.log_format, Format::Json);
    let overrides = arguments.listen.overrides();
    assert_eq!(overrides.http, Some("0.0.0.0:80".parse().unwrap()));
    assert_eq!(overrides.grpc, Some("[::1]:81".parse().unwrap()));
    assert_eq!(overrides.admin, None);
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in
        [&["serve", "--http", "nowhere"][..], &["sreve"], &["check", "--format", "xml"]]
    {
        let error = CommandLine::try_parse_from([&["batchwise"], arguments].concat()).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{arguments:?}");
    }
}

#[test]
fn the_command_line_is_consistent() {
    use clap::CommandFactory as _;
    CommandLine::command().debug_assert();
}
