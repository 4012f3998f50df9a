//! The entries of `instances`: URLs of servers, or embedded models.

use std::collections::HashMap;
use std::path::Path;

use super::address::{AddressError, InstanceAddress, InstanceUrl, parse_embedded};
use super::explain::{Problem, clip, quote};
use super::plan::{EmbeddedKind, InstancePlan, Protocol};
use super::resolve::{IN_MODEL, report_range};
use super::written::Reading;

/// The most instances of one model.
const INSTANCES_MAX: usize = 1_024;

/// Reads the entries of `instances`; also gives what runs, when the model is embedded.
pub(super) fn resolve_instances(
    protocol: Protocol,
    list: &[(String, usize)],
    line: usize,
    base: Option<&Path>,
    reading: &mut Reading,
) -> (Vec<InstancePlan>, Option<EmbeddedKind>) {
    if list.is_empty() {
        let (what, expected) = ("an entry of `instances`".to_owned(), "at least one".to_owned());
        reading.report(Some(line), Problem::Missing { what, place: IN_MODEL, expected });
    }
    if let Some((_, beyond)) = list.get(INSTANCES_MAX) {
        let found = format!("a list of {}", list.len());
        report_range(reading, *beyond, "instances", IN_MODEL, found, INSTANCES_MAX);
        return (Vec::new(), None);
    }
    if protocol == Protocol::Embedded {
        resolve_embedded(list, base, reading)
    } else {
        (resolve_urls(protocol, list, reading), None)
    }
}

fn resolve_urls(
    protocol: Protocol,
    list: &[(String, usize)],
    reading: &mut Reading,
) -> Vec<InstancePlan> {
    let mut instances: Vec<InstancePlan> = Vec::with_capacity(list.len());
    let mut lines: HashMap<InstanceUrl, usize> = HashMap::new();
    for (text, line) in list {
        let url = match InstanceUrl::parse(text, protocol) {
            Ok(url) => url,
            Err(error) => {
                report_instance(reading, *line, text, &error, expected_url(protocol, text, &error));
                continue;
            }
        };
        if let Some(first_line) = lines.get(&url) {
            let problem = Problem::Duplicate {
                what: "instance",
                found: quote(text),
                place: IN_MODEL,
                first_line: *first_line,
                expected: "raise `max_concurrency` to send one instance more at once".into(),
            };
            reading.report(Some(*line), problem);
            continue;
        }
        lines.insert(url.clone(), *line);
        let name = format!("{}{}", url.authority(), url.path_prefix);
        instances.push(InstancePlan { name, address: InstanceAddress::Url(url) });
    }
    instances
}

fn expected_url(protocol: Protocol, text: &str, error: &AddressError) -> String {
    let port = if protocol == Protocol::KserveGrpc { 8001 } else { 8000 };
    match error {
        AddressError::NoScheme
            if InstanceUrl::parse(&format!("http://{text}"), protocol).is_ok() =>
        {
            quote(&format!("http://{text}"))
        }
        AddressError::Tls => "an http:// URL, and keep that network private".into(),
        _ => format!("a URL such as \"http://10.0.0.1:{port}\""),
    }
}

fn resolve_embedded(
    list: &[(String, usize)],
    base: Option<&Path>,
    reading: &mut Reading,
) -> (Vec<InstancePlan>, Option<EmbeddedKind>) {
    const EXPECTED: &str = "\"digits\", \"embedding\", \"echo\" or \"onnx:PATH\"";
    let mut embedded: Option<EmbeddedKind> = None;
    for (text, line) in list {
        match (parse_embedded(text, base), &embedded) {
            (Err(error), _) => report_instance(reading, *line, text, &error, EXPECTED.to_owned()),
            (Ok(kind), None) => embedded = Some(kind),
            (Ok(kind), Some(first)) if kind == *first => {}
            (Ok(_), Some(first)) => {
                let problem = Problem::Conflict {
                    key: "instances",
                    place: IN_MODEL,
                    found: quote(text),
                    conflict: format!(
                        "but another instance of this model is \"{}\"",
                        clip(&first.to_string())
                    ),
                    expected: "the instances of one model are the same; make it a model of its own"
                        .into(),
                };
                reading.report(Some(*line), problem);
            }
        }
    }
    let instance = |index| InstancePlan {
        name: format!("embedded/{index}"),
        address: InstanceAddress::Embedded { index },
    };
    ((0..list.len()).map(instance).collect(), embedded)
}

fn report_instance(
    reading: &mut Reading,
    line: usize,
    text: &str,
    error: &AddressError,
    expected: String,
) {
    // What may be a secret must not be repeated in a log.
    let found = match error {
        AddressError::Credentials => "a URL with credentials".to_owned(),
        AddressError::QueryOrFragment => "a URL with a query or fragment".to_owned(),
        _ => quote(text),
    };
    let reason = error.to_string();
    let problem = Problem::BadValue { key: "instances", place: IN_MODEL, found, reason, expected };
    reading.report(Some(line), problem);
}
