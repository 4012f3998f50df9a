//! Which models answer in place of which.

use std::collections::BTreeMap;

use super::explain::{Problem, quote};
use super::file::{ModelWritten, RoutingWritten};
use super::plan::RoutingPlan;
use super::written::{Reading, Written};

const PLACE: &str = "in [model.routing]";
/// Those that answer JSON of OpenAI, whole and streamed.
const PROTOCOLS: [&str; 2] = ["openai", "embedded"];

pub(super) fn resolve_routing(written: &RoutingWritten) -> RoutingPlan {
    let default = RoutingPlan::default();
    let fallback = written.fallback.value().into_iter().flatten();
    RoutingPlan {
        fallback: fallback.map(|(name, _)| name.clone()).collect(),
        canary: written.canary.value().cloned(),
        canary_share: written.canary_share.or(default.canary_share),
    }
}

/// Every model that is named must be there, be another one, and answer the same requests.
pub(super) fn check_routing(models: &[ModelWritten], reading: &mut Reading) {
    let protocols: BTreeMap<&str, &str> = models
        .iter()
        .filter_map(|model| Some((model.name.value()?.as_str(), model.protocol.value()?.as_str())))
        .collect();
    for model in models {
        let own = model.name.value().map_or("", String::as_str);
        let fallback = model.routing.fallback.value().into_iter().flatten();
        let mut named: Vec<_> =
            fallback.map(|(name, line)| ("fallback", name.as_str(), *line)).collect();
        if let Written::Given(name, line) = &model.routing.canary {
            named.push(("canary", name, *line));
        }
        for (key, name, line) in named {
            let reason = match protocols.get(name) {
                None => "there is no such model".to_owned(),
                Some(_) if name == own => "it is this model itself".to_owned(),
                Some(protocol) if !PROTOCOLS.contains(protocol) => {
                    format!("its protocol is `{protocol}`, which has no chat")
                }
                Some(_) => continue,
            };
            let expected = "the name of another model that answers chats".to_owned();
            let found = quote(name);
            let problem = Problem::BadValue { key, place: PLACE, found, reason, expected };
            reading.report(Some(line), problem);
        }
    }
}
