"""Load balancers in front of gRPC servers that share out calls, not connections: Envoy, or else HAProxy.

Every policy listens on a port of its own: `addresses` maps its name to it.
"""

import json
import pathlib
import shutil
import socket
import urllib.parse

from .processes import Process, free_ports

POLICIES = ("least-request", "round-robin")
HAPROXY_ALGORITHMS = {"least-request": "leastconn", "round-robin": "roundrobin"}
HTTP2 = {
    "initial_stream_window_size": 16 << 20,
    "initial_connection_window_size": 16 << 20,
    "max_concurrent_streams": 65_536,
}
UNLIMITED = 1_000_000


def balancer(envoy, directory, policies, backends):
    """A running Envoy when its program is given, else the HAProxy of this machine."""
    if envoy:
        return Envoy(envoy, directory, policies, backends)
    if program := shutil.which("haproxy"):
        return HAProxy(program, directory, policies, backends)
    raise FileNotFoundError("no load balancer: name Envoy with --envoy, or install haproxy")


def accepts(address):
    host, port = address.rsplit(":", 1)
    with socket.socket() as attempt:
        return attempt.connect_ex((host, int(port))) == 0


class Balancer:
    """A process that listens on one port for every policy."""

    def __init__(self, directory, policies, backends):
        ports = free_ports(len(policies))
        self.addresses = {policy: f"127.0.0.1:{port}" for policy, port in zip(policies, ports, strict=True)}
        directory = pathlib.Path(directory)
        self.process = Process(self.command(directory, backends), directory / "balancer.log")
        self.process.wait_ready(lambda: all(map(accepts, self.addresses.values())))

    def stop(self):
        self.process.stop()


class Envoy(Balancer):
    """As benches/support/envoy.rs sets it up: no access log, windows and limits that nobody hits."""

    def __init__(self, program, *arguments):
        self.program = program
        super().__init__(*arguments)

    def command(self, directory, backends):
        resources = {
            "listeners": [self.listener(policy, address) for policy, address in self.addresses.items()],
            "clusters": [self.cluster(policy, backends) for policy in self.addresses],
        }
        config = directory / "envoy.json"
        config.write_text(json.dumps({"static_resources": resources}))
        return [
            self.program,
            "--config-path",
            config,
            "--concurrency",
            1,
            "--disable-hot-restart",
            "--log-level",
            "error",
        ]

    @staticmethod
    def socket_address(address):
        parsed = urllib.parse.urlsplit(f"//{address}")
        return {"socket_address": {"address": parsed.hostname, "port_value": parsed.port}}

    @classmethod
    def cluster(cls, policy, backends):
        package = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
        options = {
            "@type": f"type.googleapis.com/{package}",
            "explicit_http_config": {"http2_protocol_options": HTTP2},
        }
        limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), UNLIMITED)
        endpoints = [{"endpoint": {"address": cls.socket_address(backend)}} for backend in backends]
        return {
            "name": policy,
            "type": "STATIC",
            "lb_policy": policy.replace("-", "_").upper(),
            "connect_timeout": "1s",
            "circuit_breakers": {"thresholds": [limits]},
            "typed_extension_protocol_options": {package: options},
            "load_assignment": {"cluster_name": policy, "endpoints": [{"lb_endpoints": endpoints}]},
        }

    @classmethod
    def listener(cls, policy, address):
        filters = "type.googleapis.com/envoy.extensions.filters"
        router = {"@type": f"{filters}.http.router.v3.Router"}
        manager = {
            "@type": f"{filters}.network.http_connection_manager.v3.HttpConnectionManager",
            "codec_type": "AUTO",
            "stat_prefix": policy,
            "http2_protocol_options": HTTP2,
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "all",
                        "domains": ["*"],
                        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": policy, "timeout": "0s"}}],
                    }
                ]
            },
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
        }
        name = "envoy.filters.network.http_connection_manager"
        return {
            "name": policy,
            "address": cls.socket_address(address),
            "filter_chains": [{"filters": [{"name": name, "typed_config": manager}]}],
        }


class HAProxy(Balancer):
    """HTTP/2 on both sides; its leastconn counts the calls under way, as Envoy's LEAST_REQUEST does."""

    def __init__(self, program, *arguments):
        self.program = program
        super().__init__(*arguments)

    def command(self, directory, backends):
        lines = [
            "global",
            "  nbthread 1",
            f"  tune.h2.max-concurrent-streams {HTTP2['max_concurrent_streams']}",
            "defaults",
            "  mode http",
            "  http-reuse always",
            "  timeout connect 1s",
            "  timeout client 10m",
            "  timeout server 10m",
        ]
        for policy, address in self.addresses.items():
            lines += [
                f"listen {policy}",
                f"  bind {address} proto h2",
                f"  balance {HAPROXY_ALGORITHMS[policy]}",
            ]
            lines += [f"  server s{index} {backend} proto h2" for index, backend in enumerate(backends)]
        config = directory / "haproxy.cfg"
        config.write_text("\n".join(lines) + "\n")
        return [self.program, "-db", "-f", config]
