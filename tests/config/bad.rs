//! Every file of `bad/` is refused with exactly the messages of the `.txt` file beside it.
//!
//! `BATCHWISE_UPDATE_EXPECTED=1 cargo test --test config` writes the messages anew; read the difference.

use std::path::Path;

use batchwise::config::{Plan, Problem};
use proptest::prelude::*;

use crate::{assert_expected, files, folder};

fn messages(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    match Plan::parse(&text, Path::new("models.toml")) {
        Ok(plan) => panic!("{} was accepted as {plan:#?}", path.display()),
        Err(error) => format!("{error}\n"),
    }
}

#[test]
fn every_bad_file_is_refused_with_the_expected_messages() {
    for path in files("bad") {
        assert_expected(&messages(&path), &path.with_extension("txt"));
    }
}

/// A bad file marks each line that is wrong with a comment `# bad`; the messages name those lines.
#[test]
fn the_messages_name_exactly_the_lines_that_are_wrong() {
    for path in files("bad") {
        let text = std::fs::read_to_string(&path).unwrap();
        let marked: Vec<usize> = (1..)
            .zip(text.lines())
            .filter(|(_, line)| line.contains("# bad"))
            .map(|(number, _)| number)
            .collect();
        let error = Plan::parse(&text, Path::new("models.toml")).unwrap_err();
        let mut named: Vec<usize> = error.problems.iter().filter_map(|(line, _)| *line).collect();
        named.dedup();
        assert_eq!(named, marked, "{}", path.display());
    }
}

#[test]
fn what_may_be_secret_in_a_url_is_not_repeated() {
    let said = messages(&folder("bad").join("instances.toml"));
    assert!(said.contains("credentials"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let path = folder("bad").join("no-such-file.toml");
    let error = batchwise::config::load(Some(&path), &Default::default()).unwrap_err();
    assert!(matches!(error.problems.as_slice(), [(None, Problem::Unreadable { .. })]));
    assert!(error.to_string().starts_with(&path.display().to_string()));
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC*") {
        let _ = Plan::parse(&text, Path::new("models.toml"));
    }

    #[test]
    fn no_value_of_a_key_makes_the_parser_panic_or_pass_unsaid(
        key in prop::sample::select(vec![
            "name", "protocol", "instances", "upstream_name", "max_batch_size", "max_queue_delay",
            "max_batch_bytes", "max_batch_tokens",
            "slo", "max_queue_size", "max_queue_bytes", "priority_levels", "default_priority",
            "timeout", "max_concurrency", "health", "breaker", "retry", "hedge", "controlled_delay",
        ]),
        value in prop::sample::select(vec![
            "-1", "1.5", "nan", "inf", "true", "[]", "[1]", "[[]]", "{}", "{ x = 1 }", "\"\"",
            "1979-05-27", "0xffffffffffffffffff", "9223372036854775808", "\"\\u0000\"",
        ]),
    ) {
        let mut text = String::from("[[model]]\n");
        for (name, good) in [("name", "\"m\""), ("protocol", "\"embedded\""), ("instances", "[\"echo\"]")] {
            if name != key {
                text.push_str(&format!("{name} = {good}\n"));
            }
        }
        text.push_str(&format!("{key} = {value}\n"));
        let empty_table = ["health", "breaker", "retry", "hedge", "controlled_delay"].contains(&key) && value == "{}";
        // A control character is a legal part of this text only.
        let result = Plan::parse(&text, Path::new("models.toml"));
        let odd_but_legal = key == "upstream_name" && value.contains("u0000");
        prop_assert_eq!(result.is_ok(), empty_table || odd_but_legal, "{}: {:?}", text, result);
    }
}
