//! Which files are taken over, how a change is noticed, and what an operator sees of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use batchwise::front::ReloadError;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tonic::Code;

use super::{Configured, Load, ask_model, model, proxy_of, server, write};
use crate::model_server::{ModelServer, Settings};
use crate::stage::{BOUND, ask, client, eventually, proxy, request};

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_be_used_changes_nothing() {
    let server = server(Settings::default()).await;
    let good = model("linear", &[&server], "");
    let site = Configured::new("bad", &good).await;
    let mut client = client(&site.proxy).await;
    let same = site.proxy.models.get("linear").unwrap();
    let missing = "[[model]]\nname = \"onnx\"\nprotocol = \"embedded\"\n\
                   instances = [\"onnx:missing.onnx\"]\n";
    for (bad, expected) in [
        (model("linear", &[&server], "max_batch_sise = 2"), "models.toml:10: unknown key"),
        ("[[model]".to_owned(), "not valid TOML"),
        (
            [good.as_str(), missing].concat(),
            "models.toml:14: `instances` in [[model]] cannot be used",
        ),
    ] {
        write(&site.file, &bad);
        let (status, reply) = site.admin(Method::POST, "/api/reload").await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        let error = reply["error"].as_str().unwrap();
        assert!(error.contains(expected), "{error}");
        let (_, status) = site.admin(Method::GET, "/api/status").await;
        assert_eq!(status["config"]["last_error"], reply["error"]);
        assert!(Arc::ptr_eq(&same, &site.proxy.models.get("linear").unwrap()));
        assert_eq!(site.proxy.models.current().len(), 1);
        ask_model(&mut client, "linear", 1).await.unwrap();
    }
    let page = site.proxy.metrics();
    assert!(page.contains("batchwise_config_last_reload_success 0"), "{page}");
    std::fs::remove_file(&site.file).unwrap();
    let gone = site.proxy.reload().await.unwrap_err();
    assert!(matches!(&gone, ReloadError::Refused(why) if why.contains("cannot be read")), "{gone}");
    assert_eq!(site.reload(&good).await["unchanged"], 1);
    let (_, status) = site.admin(Method::GET, "/api/status").await;
    assert_eq!(status["config"]["last_error"], Value::Null);
    assert_eq!(status["config"]["path"], site.file.display().to_string());
    assert!(status["config"]["loaded_at"].as_u64().unwrap() > 0);
    assert!(site.proxy.metrics().contains("batchwise_config_last_reload_success 1"));
    assert!(Arc::ptr_eq(&same, &site.proxy.models.get("linear").unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_file_of_an_embedded_model_is_taken_over() {
    let digits = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits.onnx");
    let text = "[[model]]\nname = \"onnx\"\nprotocol = \"embedded\"\n\
                instances = [\"onnx:digits.onnx\"]\n";
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("onnx");
    std::fs::create_dir_all(&folder).unwrap();
    let copy = folder.join("digits.onnx");
    std::fs::copy(digits, &copy).unwrap();
    let site = Configured::new("onnx", text).await;
    let same = site.proxy.models.get("onnx").unwrap();
    assert_eq!(site.reload(text).await["unchanged"], 1);
    let written = std::fs::File::options().append(true).open(&copy).unwrap();
    written.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(site.reload(text).await["changed"], json!(["onnx"]));
    let changed = site.proxy.models.get("onnx").unwrap();
    assert!(!Arc::ptr_eq(&same, &changed));
    std::fs::write(&copy, "no model").unwrap();
    let refused = site.proxy.reload().await.unwrap_err();
    assert!(refused.to_string().contains("model 'onnx' does not load"), "{refused}");
    assert!(Arc::ptr_eq(&changed, &site.proxy.models.get("onnx").unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_file_there_is_nothing_to_reload() {
    let server = server(Settings::default()).await;
    let text = model("linear", &[&server], "");
    let site = Configured { proxy: proxy(&text).await, file: PathBuf::new() };
    let (status, reply) = site.admin(Method::POST, "/api/reload").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(reply["error"].as_str().unwrap().contains("no configuration file"), "{reply}");
    let (_, status) = site.admin(Method::GET, "/api/status").await;
    assert_eq!(status["config"]["path"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_file_is_noticed() {
    let server = server(Settings::default()).await;
    let (one, two) = (model("one", &[&server], ""), model("two", &[&server], ""));
    let site = Configured::new("noticed", &one).await;
    let serves = async |names: &[&str]| {
        eventually(async || site.proxy.models.current().keys().eq(names)).await;
    };
    write(&site.file, &[one.as_str(), &two].concat());
    serves(&["one", "two"]).await;
    // In place, as some editors do.
    std::fs::write(&site.file, std::fs::read_to_string(&site.file).unwrap() + "timeout = \"9s\"\n")
        .unwrap();
    eventually(async || site.proxy.models.get("two").unwrap().plan().timeout.as_secs() == 9).await;
    write(&site.file, "[[model]");
    eventually(async || site.proxy.metrics().contains("reload_success 0")).await;
    serves(&["one", "two"]).await;
    write(&site.file, &two);
    serves(&["two"]).await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_leads_elsewhere_is_noticed() {
    use std::os::unix::fs::symlink;
    let server = server(Settings::default()).await;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("link");
    drop(std::fs::remove_dir_all(&folder));
    // As Kubernetes mounts a ConfigMap: the file leads into a folder that is swapped whole.
    for (version, name) in [("v1", "one"), ("v2", "two")] {
        std::fs::create_dir_all(folder.join(version)).unwrap();
        write(&folder.join(version).join("models.toml"), &model(name, &[&server], ""));
    }
    symlink("v1", folder.join("..data")).unwrap();
    let file = folder.join("models.toml");
    symlink("..data/models.toml", &file).unwrap();
    let proxy = proxy_of(&file).await;
    assert!(proxy.models.get("one").is_some());
    symlink("v2", folder.join("..data_tmp")).unwrap();
    std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    eventually(async || proxy.models.current().keys().eq(["two"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_can_take_over_holds_at_once_and_the_rest_is_told() {
    let server = server(Settings::default()).await;
    let linear = model("linear", &[&server], "");
    let site = Configured::new("server_keys", &linear).await;
    let mut client = client(&site.proxy).await;
    ask(&mut client, request(1, 1000, 0.0)).await.unwrap();
    let keys = "max_request_bytes = \"1KiB\"\nshutdown_grace = \"3s\"\nmax_connections = 77\n";
    let reloaded = site.reload(&[keys, linear.as_str()].concat()).await;
    let applied = json!(["server.shutdown_grace", "server.max_request_bytes"]);
    assert_eq!(reloaded["applied"], applied);
    assert_eq!(reloaded["needs_restart"], json!(["server.max_connections"]));
    assert_eq!(site.proxy.shutdown().grace.as_secs(), 3);
    let status = ask(&mut client, request(1, 1000, 0.0)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    ask(&mut client, request(1, 10, 0.0)).await.unwrap();
    let again = site.reload(&[keys, linear.as_str()].concat()).await;
    assert_eq!(
        (&again["applied"], &again["needs_restart"]),
        (&json!([]), &reloaded["needs_restart"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_was_taken_out_stays_out_when_its_model_changes() {
    let servers = [server(Settings::default()).await, server(Settings::default()).await];
    let both = [&servers[0], &servers[1]];
    let site = Configured::new("taken_out", &model("linear", &both, "")).await;
    let address = servers[0].grpc_address().to_string().replace(':', "%3A");
    let route = format!("/api/models/linear/instances/{address}");
    let (status, reply) = site.admin(Method::POST, &format!("{route}/drain")).await;
    assert_eq!((status, &reply["drained"]), (StatusCode::OK, &json!(true)));
    site.reload(&model("linear", &both, "priority_levels = 4")).await;
    let load = Load::start(&site.proxy, "linear", 4).await;
    load.goes_on(50).await;
    assert_eq!(servers[0].statistics().executions, 0);
    let (status, _) = site.admin(Method::POST, &format!("{route}/resume")).await;
    assert_eq!(status, StatusCode::OK);
    servers[0].wait_until(|seen| seen.executions > 0, BOUND).await.unwrap();
    assert!(load.end().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn gauges_follow_what_is_served() {
    let servers = [server(Settings::default()).await, server(Settings::default()).await];
    let [first, second] = &servers;
    let other = model("other", &[first], "");
    let with = |changes: &str| [other.as_str(), changes].concat();
    let site = Configured::new("gauges", &with(&model("linear", &[first, second], ""))).await;
    let healthy = |model: &str, server: &ModelServer| {
        let address = server.grpc_address();
        let series =
            format!("batchwise_instance_healthy{{model=\"{model}\",instance=\"{address}\"}} ");
        let page = site.proxy.metrics();
        page.lines().find_map(|line| line.strip_prefix(&series)).unwrap_or("none").to_owned()
    };
    eventually(async || servers.iter().all(|server| healthy("linear", server) == "1")).await;
    site.reload(&with(&model("linear", &[second], ""))).await;
    eventually(async || healthy("linear", first) == "none").await;
    assert_eq!(healthy("linear", second), "1");
    site.reload(&other).await;
    eventually(async || healthy("linear", second) == "none").await;
    assert_eq!(healthy("other", first), "1");
}
