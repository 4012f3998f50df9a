//! Envoy as a plain HTTP/2 proxy, tuned: no access log, request ids and statistics on, windows for
//! large tensors, no limit that a bench would hit.

use std::net::SocketAddr;

/// The configuration file (JSON, which Envoy reads as well as YAML).
pub fn configuration(listen: SocketAddr, backends: &[SocketAddr], http2: bool) -> String {
    let protocol = |options: serde_json::Value| {
        let name = if http2 { "http2_protocol_options" } else { "http_protocol_options" };
        serde_json::json!({ name: options })
    };
    let windows = serde_json::json!({
        "initial_stream_window_size": 16 << 20,
        "initial_connection_window_size": 16 << 20,
        "max_concurrent_streams": 65_536,
    });
    let options = if http2 { windows.clone() } else { serde_json::json!({}) };
    let upstream = serde_json::json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type":
                "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": protocol(options),
        },
    });
    let endpoint =
        |address: &SocketAddr| serde_json::json!({ "endpoint": { "address": socket(*address) } });
    let endpoints: Vec<_> = backends.iter().map(endpoint).collect();
    let many = 1_000_000;
    let cluster = serde_json::json!({
        "name": "models", "type": "STATIC", "lb_policy": "LEAST_REQUEST",
        "connect_timeout": "1s",
        "circuit_breakers": { "thresholds": [{
            "max_connections": many, "max_pending_requests": many, "max_requests": many,
        }] },
        "typed_extension_protocol_options": upstream,
        "load_assignment": {
            "cluster_name": "models", "endpoints": [{ "lb_endpoints": endpoints }],
        },
    });
    let manager = serde_json::json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.\
                  http_connection_manager.v3.HttpConnectionManager",
        "codec_type": "AUTO", "stat_prefix": "models", "generate_request_id": true,
        "http2_protocol_options": windows,
        "route_config": { "virtual_hosts": [{
            "name": "all", "domains": ["*"],
            "routes": [{
                "match": { "prefix": "/" }, "route": { "cluster": "models", "timeout": "0s" },
            }],
        }] },
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            },
        }],
    });
    let listener = serde_json::json!({
        "name": "front", "address": socket(listen),
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager", "typed_config": manager,
        }] }],
    });
    let resources = serde_json::json!({ "listeners": [listener], "clusters": [cluster] });
    serde_json::json!({ "static_resources": resources }).to_string()
}

fn socket(address: SocketAddr) -> serde_json::Value {
    serde_json::json!({
        "socket_address": { "address": address.ip().to_string(), "port_value": address.port() },
    })
}
