//! What a new plan changes of the one that runs.

use std::collections::BTreeMap;

use super::plan::{ModelPlan, Plan, ServerPlan};

/// What a new plan changes of an old one. Names are in the order of the alphabet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Models that only the new plan has.
    pub added: Vec<String>,
    /// Models that only the old plan has.
    pub removed: Vec<String>,
    /// Models that both have, with anything about them that is not the same.
    pub changed: Vec<String>,
    /// Models that are the same in both.
    pub unchanged: Vec<String>,
    /// Keys of `[server]` with another value that a running process can take over.
    pub applicable: Vec<&'static str>,
    /// Keys of `[server]` with another value, and other tables, that take a start of the process.
    pub needs_restart: Vec<&'static str>,
}

impl Difference {
    /// What `new` changes of `old`. The order of the models means nothing.
    #[must_use]
    pub fn between(old: &Plan, new: &Plan) -> Self {
        let mut difference = Self::default();
        let by_name = |plan: &Plan| -> BTreeMap<String, ModelPlan> {
            plan.models.iter().map(|model| (model.name.clone(), model.clone())).collect()
        };
        let (mut before, after) = (by_name(old), by_name(new));
        for (name, model) in after {
            match before.remove(&name) {
                None => difference.added.push(name),
                Some(same) if same == model => difference.unchanged.push(name),
                Some(_) => difference.changed.push(name),
            }
        }
        difference.removed = before.into_keys().collect();
        difference.compare_servers(&old.server, &new.server);
        if old.telemetry != new.telemetry {
            difference.needs_restart.push("telemetry");
        }
        if old.batch_api != new.batch_api {
            difference.needs_restart.push("batch_api");
        }
        difference
    }

    /// A model is not the same though its plan is: a file that it names is another.
    pub fn note_changed(&mut self, model: &str) {
        if let Some(index) = self.unchanged.iter().position(|name| name == model) {
            let name = self.unchanged.remove(index);
            let place = self.changed.partition_point(|before| *before < name);
            self.changed.insert(place, name);
        }
    }

    /// Taken apart field by field, so that a new one cannot be forgotten here.
    fn compare_servers(&mut self, old: &ServerPlan, new: &ServerPlan) {
        let ServerPlan {
            http,
            grpc,
            admin,
            shutdown_delay,
            shutdown_grace,
            max_request_bytes,
            max_connections,
            max_buffered_bytes,
            read_timeout,
            write_timeout,
            trust_tenant_header,
            worker_threads,
        } = old;
        let applicable = [
            ("server.shutdown_delay", *shutdown_delay != new.shutdown_delay),
            ("server.shutdown_grace", *shutdown_grace != new.shutdown_grace),
            ("server.max_request_bytes", *max_request_bytes != new.max_request_bytes),
            ("server.max_buffered_bytes", *max_buffered_bytes != new.max_buffered_bytes),
            ("server.trust_tenant_header", *trust_tenant_header != new.trust_tenant_header),
        ];
        let needs_restart = [
            ("server.http", *http != new.http),
            ("server.grpc", *grpc != new.grpc),
            ("server.admin", *admin != new.admin),
            ("server.max_connections", *max_connections != new.max_connections),
            ("server.read_timeout", *read_timeout != new.read_timeout),
            ("server.write_timeout", *write_timeout != new.write_timeout),
            ("server.worker_threads", *worker_threads != new.worker_threads),
        ];
        let differing = |keys: &[(&'static str, bool)]| {
            keys.iter().filter(|(_, differs)| *differs).map(|(key, _)| *key).collect()
        };
        self.applicable = differing(&applicable);
        self.needs_restart = differing(&needs_restart);
    }
}

impl ServerPlan {
    /// This plan with what `new` says of the keys that a running process can take over.
    #[must_use]
    pub fn taking_over(&self, new: &Self) -> Self {
        Self {
            http: self.http,
            grpc: self.grpc,
            admin: self.admin,
            max_connections: self.max_connections,
            read_timeout: self.read_timeout,
            write_timeout: self.write_timeout,
            worker_threads: self.worker_threads,
            ..new.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn model(name: &str, more: &str) -> String {
        let instances = "instances = [\"http://10.0.0.1:8001\", \"http://10.0.0.2:8001\"]";
        format!("[[model]]\nname = \"{name}\"\nprotocol = \"kserve-grpc\"\n{instances}\n{more}\n")
    }

    fn plan(text: &str) -> Plan {
        Plan::parse(text, Path::new("models.toml")).unwrap()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn models_are_told_apart_by_their_names_wherever_they_stand() {
        let old = plan(&[model("a", ""), model("b", ""), model("c", "")].concat());
        let new = plan(&[model("d", ""), model("c", "slo = \"50ms\""), model("a", "")].concat());
        let expected = Difference {
            added: names(&["d"]),
            removed: names(&["b"]),
            changed: names(&["c"]),
            unchanged: names(&["a"]),
            ..Difference::default()
        };
        assert_eq!(Difference::between(&old, &new), expected);
    }

    #[test]
    fn what_is_written_differently_but_means_the_same_is_no_change() {
        let old = plan(&model("a", "timeout = \"30s\""));
        let new = plan(&model("a", "# The default.\nmax_queue_delay = \"auto\""));
        let expected = Difference { unchanged: names(&["a"]), ..Difference::default() };
        assert_eq!(Difference::between(&old, &new), expected);
    }

    #[test]
    fn only_what_is_in_both_plans_can_be_noted_as_changed() {
        let old = plan(&[model("a", ""), model("b", ""), model("c", "")].concat());
        let new = plan(&[model("a", ""), model("b", "slo = \"1s\""), model("d", "")].concat());
        let mut difference = Difference::between(&old, &new);
        for name in ["a", "b", "c", "d"] {
            difference.note_changed(name);
        }
        assert_eq!((difference.changed, difference.added), (names(&["a", "b"]), names(&["d"])));
        assert_eq!((difference.removed, difference.unchanged), (names(&["c"]), names(&[])));
    }

    #[test]
    fn every_table_of_a_model_counts() {
        let old = plan(&model("a", ""));
        for change in [
            "max_batch_size = 4",
            "upstream_name = \"b\"",
            "[model.health]\ninterval = \"5s\"",
            "[model.breaker]\nconsecutive_failures = 9",
            "[model.retry]\nattempts = 1",
        ] {
            let difference = Difference::between(&old, &plan(&model("a", change)));
            assert_eq!(difference.changed, names(&["a"]), "{change}");
        }
    }

    #[test]
    fn the_keys_of_the_server_are_told_apart_by_whether_they_take_a_start() {
        let server = "[server]\nhttp = \"127.0.0.1:9000\"\nmax_connections = 7\n\
                      shutdown_grace = \"9s\"\nmax_request_bytes = \"1MiB\"\nworker_threads = 2\n";
        let (old, new) =
            (plan(&model("a", "")), plan(&[server.to_owned(), model("a", "")].concat()));
        let difference = Difference::between(&old, &new);
        assert_eq!(difference.applicable, ["server.shutdown_grace", "server.max_request_bytes"]);
        let needs_restart = ["server.http", "server.max_connections", "server.worker_threads"];
        assert_eq!(difference.needs_restart, needs_restart);
        let running = Plan { server: old.server.taking_over(&new.server), ..old };
        let again = Difference::between(&running, &new);
        assert!(again.applicable.is_empty());
        assert_eq!(again.needs_restart, needs_restart, "told until the process starts anew");
    }
}
