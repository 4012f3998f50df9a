//! Files that are good, and the plan that each means.

use std::path::Path;
use std::time::Duration;

use batchwise::config::{
    BatchApiPlan, BreakerPlan, ControlledDelayPlan, EmbeddedKind, HealthPlan, HedgePlan,
    InstanceAddress, InstancePlan, InstanceUrl, ModelPlan, Plan, Protocol, RetryPlan, RoutingPlan,
    ServerPlan, StreamPlan, TelemetryPlan, load,
};

use crate::{files, folder};

fn plan(name: &str) -> Plan {
    let path = folder("good").join(name);
    load(Some(&path), &Default::default()).unwrap_or_else(|error| panic!("{error}")).plan
}

fn url(host: &str, port: u16, path_prefix: &str) -> InstancePlan {
    let url = InstanceUrl { host: host.into(), port, path_prefix: path_prefix.into() };
    let name = format!("{}{path_prefix}", url.authority());
    InstancePlan { name, address: InstanceAddress::Url(url) }
}

#[test]
fn every_good_file_is_accepted() {
    for path in files("good") {
        if let Err(error) = load(Some(&path), &Default::default()) {
            panic!("{error}");
        }
    }
}

#[test]
fn a_minimal_file_gets_every_default() {
    let expected = Plan {
        server: ServerPlan {
            http: "127.0.0.1:8000".parse().unwrap(),
            grpc: "127.0.0.1:8001".parse().unwrap(),
            admin: "127.0.0.1:8002".parse().unwrap(),
            shutdown_delay: Duration::ZERO,
            shutdown_grace: Duration::from_secs(30),
            max_request_bytes: 64 * 1024 * 1024,
            max_connections: 16_384,
            max_buffered_bytes: 1 << 30,
            read_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            trust_tenant_header: false,
            worker_threads: None,
        },
        telemetry: TelemetryPlan::default(),
        batch_api: None,
        models: vec![ModelPlan {
            name: "m".into(),
            protocol: Protocol::Embedded,
            instances: vec![InstancePlan {
                name: "embedded/0".into(),
                address: InstanceAddress::Embedded { index: 0 },
            }],
            upstream_name: "m".into(),
            embedded: Some(EmbeddedKind::Echo),
            batching: true,
            max_batch_size: None,
            max_batch_bytes: None,
            max_batch_tokens: None,
            max_queue_delay: None,
            slo: None,
            max_queue_size: 4_096,
            max_queue_bytes: 256 * 1024 * 1024,
            priority_levels: 3,
            default_priority: 2,
            timeout: Duration::from_secs(30),
            max_concurrency: None,
            health: HealthPlan {
                interval: Duration::from_secs(2),
                timeout: Duration::from_secs(1),
                unhealthy_after: 2,
                healthy_after: 1,
                loading_hold: Duration::from_secs(30),
                path: None,
            },
            breaker: BreakerPlan {
                window: Duration::from_secs(10),
                minimum_volume: 5,
                failure_ratio: 0.5,
                consecutive_failures: 3,
                open_for: Duration::from_millis(250),
                max_open_for: Duration::from_secs(10),
                half_open_probes: 1,
                panic_threshold: 0.5,
            },
            retry: RetryPlan { attempts: 2, idempotent: true },
            hedge: HedgePlan { enabled: false, delay: None },
            routing: RoutingPlan::default(),
            controlled_delay: ControlledDelayPlan { enabled: false, target: None },
            stream: StreamPlan {
                heartbeat: Some(Duration::from_secs(15)),
                idle_timeout: Duration::from_secs(300),
                usage: false,
            },
        }],
    };
    assert_eq!(plan("minimal.toml"), expected);
}

#[test]
fn every_option_reaches_its_place_in_the_plan() {
    let expected = Plan {
        server: ServerPlan {
            http: "0.0.0.0:9000".parse().unwrap(),
            grpc: "[::1]:9001".parse().unwrap(),
            admin: "127.0.0.1:9002".parse().unwrap(),
            shutdown_delay: Duration::from_secs(5),
            shutdown_grace: Duration::from_secs(90),
            max_request_bytes: 1_000_000_000,
            max_connections: 12,
            max_buffered_bytes: 3 << 30,
            read_timeout: Duration::from_secs(7),
            write_timeout: Duration::from_secs(8),
            trust_tenant_header: true,
            worker_threads: Some(3),
        },
        telemetry: TelemetryPlan {
            otlp_endpoint: Some("http://10.0.0.7:4317".into()),
            sample_ratio: Some(0.25),
        },
        batch_api: Some(BatchApiPlan {
            directory: "/srv/batches".into(),
            max_file_bytes: 1_000_000,
            max_stored_bytes: 1 << 30,
            max_lines: 77,
            max_concurrent_lines: 5,
            retention: Duration::from_secs(48 * 3600),
            completion_window: Duration::from_secs(86_400),
        }),
        models: vec![ModelPlan {
            name: "team/resnet50".into(),
            protocol: Protocol::KserveHttp,
            instances: vec![url("10.0.0.1", 8000, ""), url("::1", 80, "/models")],
            upstream_name: "resnet".into(),
            embedded: None,
            batching: true,
            max_batch_size: Some(32),
            max_batch_bytes: None,
            max_batch_tokens: None,
            max_queue_delay: Some(Duration::from_micros(250)),
            slo: Some(Duration::from_millis(50)),
            max_queue_size: 100,
            max_queue_bytes: 2 << 30,
            priority_levels: 5,
            default_priority: 4,
            timeout: Duration::from_millis(1_500),
            max_concurrency: Some(7),
            health: HealthPlan {
                interval: Duration::from_secs(3),
                timeout: Duration::from_millis(200),
                unhealthy_after: 4,
                healthy_after: 5,
                loading_hold: Duration::from_secs(15),
                path: Some("/ready".into()),
            },
            breaker: BreakerPlan {
                window: Duration::from_secs(6),
                minimum_volume: 7,
                failure_ratio: 0.25,
                consecutive_failures: 8,
                open_for: Duration::from_secs(9),
                max_open_for: Duration::from_secs(11),
                half_open_probes: 12,
                panic_threshold: 0.75,
            },
            retry: RetryPlan { attempts: 3, idempotent: false },
            hedge: HedgePlan { enabled: true, delay: Some(Duration::from_millis(13)) },
            routing: RoutingPlan::default(),
            controlled_delay: ControlledDelayPlan {
                enabled: true,
                target: Some(Duration::from_millis(14)),
            },
            stream: StreamPlan {
                heartbeat: Some(Duration::from_secs(13)),
                idle_timeout: Duration::from_secs(840),
                usage: true,
            },
        }],
    };
    assert_eq!(plan("every_option.toml"), expected);
}

#[test]
fn each_protocol_takes_its_instances() {
    let plan = plan("protocols.toml");
    let instances = |name: &str| {
        let model = plan.models.iter().find(|model| model.name == name).unwrap();
        (model.protocol, model.instances.clone())
    };
    assert_eq!(
        instances("triton"),
        (Protocol::KserveGrpc, vec![url("10.0.0.1", 8001, ""), url("triton", 8001, "")])
    );
    assert_eq!(instances("mlserver"), (Protocol::KserveHttp, vec![url("mlserver", 8080, "")]));
    assert_eq!(instances("tfserving"), (Protocol::KserveV1, vec![url("tfserving", 8501, "")]));
    assert_eq!(
        instances("vllm"),
        (Protocol::OpenAi, vec![url("vllm", 8000, ""), url("gateway", 80, "/llm")])
    );
    let digits = plan.models.iter().find(|model| model.name == "digits").unwrap();
    assert_eq!(digits.embedded, Some(EmbeddedKind::Digits));
    let names: Vec<&str> = digits.instances.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["embedded/0", "embedded/1", "embedded/2"]);
    let onnx = plan.models.iter().find(|model| model.name == "onnx").unwrap();
    assert_eq!(onnx.embedded, Some(EmbeddedKind::Onnx { path: folder("good").join("own.onnx") }));
}

#[test]
fn models_answer_in_place_of_each_other() {
    let model = |name: &str, keys: &str| {
        format!("[[model]]\nname = '{name}'\nprotocol = 'embedded'\ninstances = ['echo']\n{keys}\n")
    };
    let routing = "[model.routing]\nfallback = ['b', 'c']\ncanary = 'c'\ncanary_share = 0.25";
    let text = model("a", routing) + &model("b", "") + &model("c", "");
    let plan = Plan::parse(&text, Path::new("models.toml")).unwrap();
    let expected = RoutingPlan {
        fallback: vec!["b".into(), "c".into()],
        canary: Some("c".into()),
        canary_share: 0.25,
    };
    assert_eq!(plan.models[0].routing, expected);
    assert_eq!(plan.models[1].routing, RoutingPlan::default());
    let digits = "[[model]]\nname = 'd'\nprotocol = 'kserve-grpc'\ninstances = ['grpc://t']\n";
    for (keys, found) in [
        ("fallback = ['nobody']", "there is no such model"),
        ("canary = 'a'", "it is this model itself"),
        ("fallback = ['b', 'd']", "which has no chat"),
    ] {
        let text = model("a", &format!("[model.routing]\n{keys}")) + &model("b", "") + digits;
        let error = Plan::parse(&text, Path::new("models.toml")).unwrap_err().to_string();
        assert!(error.contains(found) && error.contains("models.toml:6"), "{error}");
    }
}

#[test]
fn a_batch_size_of_zero_means_no_batch_axis_as_in_triton() {
    let model = |size: u32| {
        let text = format!(
            "[[model]]\nname = 'm'\nprotocol = 'embedded'\ninstances = ['echo']\nmax_batch_size = {size}\n"
        );
        Plan::parse(&text, Path::new("models.toml")).unwrap().models.remove(0)
    };
    assert_eq!((model(0).batching, model(0).max_batch_size), (false, Some(1)));
    assert_eq!((model(1).batching, model(1).max_batch_size), (true, Some(1)));
    assert_eq!((model(8).batching, model(8).max_batch_size), (true, Some(8)));
}

#[test]
fn a_relative_directory_starts_at_the_folder_of_the_file() {
    let text = "[batch_api]\ndirectory = 'kept'\nmax_file_bytes = '30GiB'\n[[model]]\n\
                name = 'm'\nprotocol = 'embedded'\ninstances = ['echo']\n";
    let plan = Plan::parse(text, Path::new("/etc/batchwise/models.toml")).unwrap();
    let plan = plan.batch_api.unwrap();
    assert_eq!(plan.directory, Path::new("/etc/batchwise/kept"));
    assert_eq!(plan.max_stored_bytes, 30 << 30, "room for the largest file");
}

#[test]
fn defaults_give_way_to_what_is_written_beside_them() {
    let model = plan("dependent_defaults.toml").models.remove(0);
    assert_eq!((model.priority_levels, model.default_priority), (1, 1));
    assert_eq!(model.health.timeout, Duration::from_millis(500));
    assert_eq!(model.breaker.max_open_for, Duration::from_secs(60));
}
