//! The keys of `[[model]]` and of its tables.

use std::time::Duration;

use super::{COUNT_MAX, DURATION_MAX, DURATION_MIN, Key, Kind, PROTOCOLS, Table};

pub(super) static MODEL: Table = Table {
    name: "model",
    place: "in [[model]]",
    path: "model",
    list: true,
    about: "A model: its instances and how its calls are queued, batched and protected.",
    keys: &[
        Key::required("name", Kind::Text, "The name that callers use."),
        Key::required("protocol", Kind::Choice(&PROTOCOLS), "What the instances speak."),
        Key::required(
            "instances",
            Kind::TextList,
            "URLs of the servers; for `embedded`: `digits`, `embedding`, `echo` or `onnx:PATH`, once per instance.",
        ),
        Key::absent(
            "upstream_name",
            Kind::Text,
            "The model's name on its instances, when it is another.",
        ),
        Key::absent(
            "max_batch_size",
            Kind::Integer(0, 1_000_000),
            "Rows in one batch; without it asked of the instance, else learned. 1: every call alone; 0: the model has no batch axis, as in Triton.",
        ),
        Key::absent(
            "max_batch_bytes",
            Kind::Size(1, 1 << 40),
            "Bytes in one batch; a call with more is split, or sent alone.",
        ),
        Key::absent(
            "max_batch_tokens",
            Kind::Integer(1, COUNT_MAX),
            "Tokens in one batch of texts, all counted as long as the longest.",
        ),
        Key::new(
            "max_queue_delay",
            Kind::DurationOrAuto(Duration::ZERO, DURATION_MAX),
            "\"auto\"",
            "How long a call may wait for company.",
        ),
        Key::absent(
            "slo",
            Kind::Duration(DURATION_MIN, DURATION_MAX),
            "Latency to keep at the 99th percentile.",
        ),
        Key::new(
            "max_queue_size",
            Kind::Integer(1, COUNT_MAX),
            "4096",
            "Rows that may wait; beyond it a call is refused or one of lower priority is shed.",
        ),
        Key::new(
            "max_queue_bytes",
            Kind::Size(1, 1 << 40),
            "\"256MiB\"",
            "Bytes that may wait; beyond it the same happens.",
        ),
        Key::new(
            "priority_levels",
            Kind::Integer(1, 16),
            "3",
            "Number of priorities; 1 is the most urgent.",
        ),
        Key::new(
            "default_priority",
            Kind::Integer(1, 16),
            "2",
            "Priority of a call that names none; never above `priority_levels`.",
        ),
        Key::new(
            "timeout",
            Kind::Duration(DURATION_MIN, DURATION_MAX),
            "\"30s\"",
            "Deadline of a call; the call's own wins when it is sooner.",
        ),
        Key::new(
            "max_concurrency",
            Kind::IntegerOrAuto(1, 65_536),
            "\"auto\"",
            "Batches in flight per instance.",
        ),
        Key::new(
            "stream_heartbeat",
            Kind::Duration(Duration::ZERO, DURATION_MAX),
            "\"15s\"",
            "How long a stream of events may be silent before the caller gets a comment, so that nothing in between cuts it; 0s: no comments.",
        ),
        Key::new(
            "stream_idle_timeout",
            Kind::Duration(DURATION_MIN, DURATION_MAX),
            "\"5m\"",
            "How long an instance may be silent in the middle of a reply that is relayed.",
        ),
        Key::new(
            "stream_usage",
            Kind::Boolean,
            "false",
            "Whether instances are asked for the usage of streams whose callers did not ask, to count their tokens; callers do not see it.",
        ),
    ],
    tables: &[&HEALTH, &BREAKER, &RETRY, &HEDGE, &CONTROLLED_DELAY, &ROUTING],
    unsupported: &["discovery", "cache"],
};

static HEALTH: Table = Table {
    name: "health",
    place: "in [model.health]",
    path: "model.health",
    list: false,
    about: "How the instances are probed.",
    keys: &[
        Key::new(
            "interval",
            Kind::Duration(DURATION_MIN, DURATION_MAX),
            "\"2s\"",
            "Time between two probes of an instance.",
        ),
        Key::new(
            "timeout",
            Kind::Duration(DURATION_MIN, DURATION_MAX),
            "\"1s\"",
            "Time after which a probe has failed; never above `interval`.",
        ),
        Key::new(
            "unhealthy_after",
            Kind::Integer(1, 1_000),
            "2",
            "Failed probes in a row that make an instance unhealthy.",
        ),
        Key::new(
            "healthy_after",
            Kind::Integer(1, 1_000),
            "1",
            "Good probes in a row that make it healthy again.",
        ),
        Key::new(
            "loading_hold",
            Kind::Duration(Duration::ZERO, DURATION_MAX),
            "\"30s\"",
            "How long calls wait, within their deadlines, for an instance that answers that it is not ready yet, where no other is up.",
        ),
        Key::absent(
            "path",
            Kind::Text,
            "Path of the probe, for protocols over HTTP; without it the protocol's own.",
        ),
    ],
    tables: &[],
    unsupported: &[],
};

static BREAKER: Table = Table {
    name: "breaker",
    place: "in [model.breaker]",
    path: "model.breaker",
    list: false,
    about: "When an instance is left alone after faults, and how it is tried again.",
    keys: &[
        Key::new(
            "window",
            Kind::Duration(DURATION_MIN, DURATION_MAX),
            "\"10s\"",
            "Time over which the ratio of faults is taken.",
        ),
        Key::new(
            "minimum_volume",
            Kind::Integer(1, COUNT_MAX),
            "5",
            "Batches in the window below which the ratio says nothing.",
        ),
        Key::new(
            "failure_ratio",
            Kind::Ratio,
            "0.5",
            "Ratio of failed batches that opens the breaker.",
        ),
        Key::new(
            "consecutive_failures",
            Kind::Integer(1, COUNT_MAX),
            "3",
            "Failed batches in a row that open it, whatever the ratio.",
        ),
        Key::new(
            "open_for",
            Kind::Duration(DURATION_MIN, DURATION_MAX),
            "\"250ms\"",
            "How long it stays open at least; a quarter of the time that the instance has been out, if longer.",
        ),
        Key::new(
            "max_open_for",
            Kind::Duration(DURATION_MIN, DURATION_MAX),
            "\"10s\"",
            "The longest that it stays open; never below `open_for`.",
        ),
        Key::new(
            "half_open_probes",
            Kind::Integer(1, 1_000),
            "1",
            "Batches admitted at once while it is half open.",
        ),
        Key::new(
            "panic_threshold",
            Kind::Ratio,
            "0.5",
            "Where fewer of the instances than this ratio are let through, those that are out are probed every `open_for`, however long they have been out.",
        ),
    ],
    tables: &[],
    unsupported: &[],
};

static RETRY: Table = Table {
    name: "retry",
    place: "in [model.retry]",
    path: "model.retry",
    list: false,
    about: "Whether a batch that an instance failed is sent to another.",
    keys: &[
        Key::new(
            "attempts",
            Kind::Integer(1, 10),
            "2",
            "Times a batch is sent in all; 1: never again.",
        ),
        Key::new(
            "idempotent",
            Kind::Boolean,
            "true",
            "Whether a batch may be sent again after an instance may have begun it.",
        ),
    ],
    tables: &[],
    unsupported: &[],
};

static ROUTING: Table = Table {
    name: "routing",
    place: "in [model.routing]",
    path: "model.routing",
    list: false,
    about: "Which models answer chats and completions in its place.",
    keys: &[
        Key::absent(
            "fallback",
            Kind::TextList,
            "Models that are asked in turn where this one has no room, or no instance that serves.",
        ),
        Key::absent(
            "canary",
            Kind::Text,
            "A model that is asked first for a share of the callers; where it cannot serve, this one does.",
        ),
        Key::new(
            "canary_share",
            Kind::Ratio,
            "0.05",
            "That share; calls that name the same `x-session-id` are all in it, or none.",
        ),
    ],
    tables: &[],
    unsupported: &[],
};

static CONTROLLED_DELAY: Table = Table {
    name: "controlled_delay",
    place: "in [model.controlled_delay]",
    path: "model.controlled_delay",
    list: false,
    about: "Whether calls are refused at once that would wait too long in a queue which has been standing for a while.",
    keys: &[
        Key::new(
            "enabled",
            Kind::Boolean,
            "false",
            "Whether they are; else they wait as long as their deadlines and the size of the queue allow.",
        ),
        Key::new(
            "target",
            Kind::DurationOrAuto(DURATION_MIN, DURATION_MAX),
            "\"auto\"",
            "How long is too long; auto: longer than two of the largest batches take.",
        ),
    ],
    tables: &[],
    unsupported: &[],
};

static HEDGE: Table = Table {
    name: "hedge",
    place: "in [model.hedge]",
    path: "model.hedge",
    list: false,
    about: "Whether a batch that is slow to come back is sent to a second, idle instance as well.",
    keys: &[
        Key::new(
            "enabled",
            Kind::Boolean,
            "false",
            "Whether it is; the first answer counts. Needs a model that may do the same work twice.",
        ),
        Key::new(
            "delay",
            Kind::DurationOrAuto(DURATION_MIN, DURATION_MAX),
            "\"auto\"",
            "After how long; auto: once it takes longer than 95 % of batches.",
        ),
    ],
    tables: &[],
    unsupported: &[],
};
