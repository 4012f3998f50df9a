//! The house rules that a compiler does not know: who may import whom, how long a file may be, what
//! must not stand anywhere.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms and those that each may import; a room may always import itself.
const ROOMS: [(&str, &[&str]); 12] = [
    ("lane", &[]),
    ("tensor", &[]),
    ("embedded", &["tensor"]),
    ("config", &["lane"]),
    ("call", &["lane", "tensor"]),
    ("telemetry", &["lane"]),
    ("wire", &["call", "tensor", "lane"]),
    ("instance", &["wire", "call", "tensor", "lane", "config", "embedded"]),
    ("engine", &["instance", "wire", "call", "tensor", "lane", "config", "telemetry"]),
    ("jobs", &["engine", "wire", "call", "config", "telemetry"]),
    (
        "front",
        &["jobs", "engine", "instance", "wire", "call", "tensor", "lane", "config", "telemetry"],
    ),
    (
        "app",
        &[
            "front",
            "jobs",
            "engine",
            "instance",
            "wire",
            "call",
            "tensor",
            "lane",
            "config",
            "telemetry",
            "embedded",
        ],
    ),
];

/// What the pure rooms must not touch, in code that is not a test.
const IMPURE: [&str; 10] = [
    "tokio",
    "tracing",
    "metrics::",
    "SystemTime",
    "time::Instant::now",
    "std::net",
    "std::fs",
    "std::thread",
    "HashMap",
    "rand::",
];

const LONGEST_FILE: usize = 600;

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The code of a file up to its unit tests, without comments.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The room of each file of the library but `lib.rs` and `main.rs`.
fn by_room() -> BTreeMap<String, Vec<PathBuf>> {
    let mut rooms = BTreeMap::<String, Vec<PathBuf>>::new();
    for file in rust_files(&source()) {
        let inside = file.strip_prefix(source()).unwrap();
        let mut parts = inside.components();
        let room = parts.next().unwrap().as_os_str().to_string_lossy().into_owned();
        if parts.next().is_some() {
            rooms.entry(room).or_default().push(file);
        }
    }
    rooms
}

#[test]
fn rooms_import_only_downwards() {
    let rooms = by_room();
    let known: Vec<_> = ROOMS.iter().map(|(room, _)| *room).collect();
    let found: Vec<_> = rooms.keys().map(String::as_str).collect();
    let mut sorted = known.clone();
    sorted.sort_unstable();
    assert_eq!(found, sorted, "every folder of src is a room of this list");
    for (room, allowed) in ROOMS {
        for file in &rooms[room] {
            for (index, _) in code(file).match_indices("crate::") {
                let code = code(file);
                let rest = &code[index + "crate::".len()..];
                let target: String =
                    rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let fine = target == room || allowed.contains(&target.as_str());
                assert!(fine, "{}: room {room} must not import {target}", file.display());
            }
        }
    }
}

#[test]
fn the_list_of_rooms_has_no_circle() {
    for (index, (room, allowed)) in ROOMS.iter().enumerate() {
        for below in *allowed {
            let position = ROOMS.iter().position(|(name, _)| name == below);
            assert!(position.is_some_and(|position| position < index), "{room} -> {below}");
        }
    }
}

#[test]
fn the_pure_rooms_are_pure() {
    let rooms = by_room();
    for file in rooms["lane"].iter().chain(&rooms["tensor"]) {
        for impure in IMPURE {
            assert!(!code(file).contains(impure), "{}: {impure}", file.display());
        }
    }
    for file in &rooms["lane"] {
        for line in code(file).lines().filter(|line| line.trim_start().starts_with("use ")) {
            let own = ["use super::", "use std::", "use crate::lane", "use self::"];
            let fine = own.iter().any(|start| line.trim_start().starts_with(start));
            assert!(fine, "{}: the lane needs only the standard library: {line}", file.display());
        }
    }
}

#[test]
fn tasks_are_spawned_where_something_waits_for_them() {
    // The executor of client connections: its tasks end when their client is dropped.
    let exempt = source().join("instance/connection.rs");
    for file in rust_files(&source()).into_iter().filter(|file| *file != exempt) {
        let code = code(&file);
        assert!(!code.contains("tokio::spawn("), "{}: use a tracker", file.display());
        assert!(!code.contains("task::spawn("), "{}: use a tracker", file.display());
    }
}

#[test]
fn sockets_are_opened_where_another_network_can_take_their_place() {
    let known = ["app/listeners.rs", "front/listener.rs", "instance/network.rs"];
    let known: Vec<_> = known.iter().map(|file| source().join(file)).collect();
    for file in rust_files(&source()).into_iter().filter(|file| !known.contains(file)) {
        for socket in ["TcpStream", "TcpListener", "UdpSocket", "UnixStream"] {
            assert!(!code(&file).contains(socket), "{}: {socket}", file.display());
        }
    }
}

#[test]
fn files_are_short_and_lints_are_expected_not_allowed() {
    for file in rust_files(&source()) {
        let text = fs::read_to_string(&file).unwrap();
        let lines = text.lines().count();
        assert!(lines <= LONGEST_FILE, "{} has {lines} lines", file.display());
        assert!(!text.contains("#[allow("), "{}: use expect with a reason", file.display());
        let inside = file.strip_prefix(source()).unwrap();
        let tests = inside
            .components()
            .any(|part| ["tests", "tests.rs"].map(OsStr::new).contains(&part.as_os_str()));
        assert!(tests || text.starts_with("//!"), "{} has no module docs", file.display());
    }
}

#[test]
fn every_metric_is_documented() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let page = fs::read_to_string(readme).unwrap();
    for metric in batchwise::telemetry::Metric::ALL {
        let name = metric.name();
        assert!(page.contains(&format!("`{name}`")), "docs/metrics.md does not explain {name}");
    }
}

/// The parts of a text that stand between backticks.
fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Whether a file has a test of this name: `FILE: NAME`, or `FILE::NAME` as pytest writes it.
fn is_a_test(named: &str) -> bool {
    let parts = named.split_once("::").or_else(|| named.split_once(": "));
    let Some((file, name)) = parts else { return false };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let Ok(text) = fs::read_to_string(&file) else { return false };
    if file.extension() == Some(OsStr::new("py")) {
        return name.starts_with("test_") && text.contains(&format!("\ndef {name}("));
    }
    let attributes = text
        .split_once(&format!("fn {name}("))
        .map(|(before, _)| before.rsplit_once('}').map_or(before, |(_, attributes)| attributes));
    attributes.is_some_and(|text| text.contains("#[test]") || text.contains("#[tokio::test"))
}

#[test]
fn every_complaint_names_tests_that_there_are() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/complaints.md");
    let page = fs::read_to_string(page).unwrap();
    let mut complaints = 0;
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 4, "{row}");
        if cells[3] == "shown by" || cells[3] == "---" {
            continue;
        }
        complaints += 1;
        assert!(cells[1].contains('/'), "nobody said so: {row}");
        assert!(code_spans(cells[3]).count() > 0, "no test: {row}");
        for named in code_spans(cells[3]) {
            assert!(is_a_test(named), "docs/complaints.md names a test that is not there: {named}");
        }
    }
    assert!(complaints > 80, "the tables are read wrongly: {complaints} complaints");
}
