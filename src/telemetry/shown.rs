//! Which instances the metrics page shows. The registry cannot forget those that are not served any
//! more, so the page leaves them out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How many engines serve each instance, or have served it.
///
/// An instance that is gone is not one that is down: at 0 it would ring the same bell forever.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown(Arc<Mutex<BTreeMap<String, u32>>>);

impl Shown {
    /// One more serves the instance. Returns whether nobody else does.
    pub(super) fn enter(&self, model: &str, instance: &str) -> bool {
        let mut served = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = served.entry(labels(model, instance)).or_default();
        *count += 1;
        *count == 1
    }

    /// One less serves the instance.
    pub(super) fn leave(&self, model: &str, instance: &str) {
        let mut served = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = served.get_mut(&labels(model, instance)) {
            *count = count.saturating_sub(1);
        }
    }

    /// The page without the series of instances that nobody serves any more.
    pub(super) fn leave_out(&self, page: String) -> String {
        let served = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if served.values().all(|&count| count > 0) {
            return page;
        }
        let shown =
            |line: &&str| instance_labels(line).is_none_or(|labels| served.get(labels) != Some(&0));
        page.split_inclusive('\n').filter(shown).collect()
    }
}

/// The labels with which every series of an instance begins.
fn labels(model: &str, instance: &str) -> String {
    let escaped =
        |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("model=\"{}\",instance=\"{}\"", escaped(model), escaped(instance))
}

/// The labels `model` and `instance` of a series that begins with them.
fn instance_labels(line: &str) -> Option<&str> {
    let (_, labels) = line.split_once("{model=\"")?;
    let model = value_length(labels)?;
    let instance = labels.get(model..)?.strip_prefix("\",instance=\"")?;
    let whole = "model=\"".len() + model + "\",instance=\"".len() + value_length(instance)? + 1;
    line.get(line.find("model=\"")?..)?.get(..whole)
}

/// The bytes up to the quotation mark that ends a value.
fn value_length(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

#[cfg(test)]
mod tests {
    use crate::telemetry::{ModelMetrics, Telemetry};

    #[test]
    fn an_instance_is_shown_while_somebody_serves_it() {
        let telemetry = Telemetry::new().unwrap();
        let names = ["plain:1".to_owned(), "with \"quotes\\:2".to_owned()];
        let serve = || ModelMetrics::new(&telemetry, "a \"model\"", 1, &names);
        let shown = |instance: &str| {
            let page = telemetry.render();
            page.lines().filter(|line| line.contains(instance) && line.contains("healthy")).count()
        };
        let first = serve();
        assert_eq!((shown("plain:1"), shown(":2")), (1, 1), "{}", telemetry.render());
        let second = serve();
        first.hand_over_to(&second);
        drop(first);
        assert_eq!((shown("plain:1"), shown(":2")), (1, 1));
        drop(second);
        assert_eq!((shown("plain:1"), shown(":2")), (0, 0), "{}", telemetry.render());
        assert!(telemetry.render().contains("batchwise_build_info"));
        let _again = serve();
        assert_eq!((shown("plain:1"), shown(":2")), (1, 1));
    }
}
