"""The files of deploy/ fit the program and each other."""

import pathlib
import re
import shutil
import subprocess

import pytest
import yaml

from support.batchwise import REPOSITORY, program

DEPLOY = REPOSITORY / "deploy"
PORTS = {"http": 8000, "grpc": 8001, "admin": 8002}


def manifests():
    """All Kubernetes objects by kind."""
    found = {}
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            found[document["kind"]] = document
    return found


@pytest.fixture(scope="module")
def kubernetes():
    return manifests()


@pytest.fixture(scope="module")
def container(kubernetes):
    return kubernetes["Deployment"]["spec"]["template"]["spec"]["containers"][0]


def test_every_manifest_is_listed(kubernetes):
    listed = set(kubernetes["Kustomization"]["resources"])
    there = {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")}
    assert listed == there - {"kustomization.yaml"}


def test_ports_agree(kubernetes, container):
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == PORTS
    service = kubernetes["Service"]["spec"]
    assert {port["targetPort"]: port["port"] for port in service["ports"]} == PORTS
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == "admin"
    exposed = re.search(r"^EXPOSE (.*)$", (DEPLOY / "Containerfile").read_text(), re.MULTILINE)
    assert [int(port) for port in exposed[1].split()] == list(PORTS.values())


def test_selectors_find_the_pods(kubernetes):
    labels = kubernetes["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert kubernetes["Deployment"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert kubernetes["Service"]["spec"]["selector"].items() <= labels.items()
    assert kubernetes["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_the_pods_configuration_is_valid(kubernetes, container, tmp_path):
    (name,) = kubernetes["ConfigMap"]["data"]
    assert container["args"][:3] == ["serve", "--config", f"/etc/batchwise/{name}"]
    text = kubernetes["ConfigMap"]["data"][name]
    for door, port in PORTS.items():
        assert f'{door} = "0.0.0.0:{port}"' in text
    config = pathlib.Path(tmp_path / name)
    config.write_text(text)
    done = subprocess.run(
        [program(), "check", "--config", config], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_pod_has_time_to_drain(kubernetes):
    text = kubernetes["ConfigMap"]["data"]["models.toml"]
    grace = int(re.search(r'shutdown_grace = "(\d+)s"', text)[1])
    assert kubernetes["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > grace


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_accepts_the_unit(tmp_path):
    unit = (DEPLOY / "batchwise.service").read_text()
    (tmp_path / "batchwise.service").write_text(unit.replace("/usr/local/bin/batchwise", str(program())))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / "batchwise.service"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and "batchwise.service" not in done.stderr, done.stderr
