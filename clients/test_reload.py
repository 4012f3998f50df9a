"""The configuration changes under load, and nobody notices but the operator."""

import json
import signal
import threading

import numpy as np
import pytest
import tritonclient.grpc as triton

from support.batchwise import Batchwise
from support.load import in_parallel
from support.model_server import MODEL, ModelServer
from support.processes import wait_until
from support.tensors import inputs, same_bits

CALLERS = 16
CALLS_BETWEEN_RELOADS = 300


@pytest.fixture
def model_servers(tmp_path):
    servers = [ModelServer(tmp_path, a="3ms", b="0.1ms", max_batch=8) for _ in range(2)]
    yield servers
    for server in servers:
        server.process.kill()


def model(name, servers, keys=""):
    instances = json.dumps([f"http://{server.grpc}" for server in servers])
    return f"""
        [[model]]
        name = "{name}"
        protocol = "kserve-grpc"
        upstream_name = "{MODEL}"
        instances = {instances}
        {keys}
    """


def replace(path, text):
    """As an editor does it: there is no moment without the file."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def reloads(server, outcome="ok"):
    return server.total("batchwise_reloads_total", outcome=outcome)


def hang_up(server):
    """Sends SIGHUP and waits until it was heeded."""
    before = reloads(server)
    server.process.signal(signal.SIGHUP)
    wait_until(lambda: reloads(server) > before, "the configuration is reloaded")


def test_a_hang_up_changes_models_and_instances_under_load(start_batchwise, model_servers):
    first, second = model_servers
    stays = model("stays", [first])
    server = start_batchwise(stays + model("changes", [first]))
    versions = [
        ["changes", [first, second], "max_batch_size = 4"],
        ["changes", [second], 'timeout = "20s"'],
        ["changes", [second, first], 'max_queue_delay = "1ms"'],
        ["changes", [first], "priority_levels = 4"],
    ]
    calls = CALLS_BETWEEN_RELOADS * (len(versions) + 1)
    answered = threading.Semaphore(0)

    def change():
        for version in versions:
            for _ in range(CALLS_BETWEEN_RELOADS):
                assert answered.acquire(timeout=60)
            replace(server.config, stays + model(*version))
            hang_up(server)

    changes = threading.Thread(target=change)
    changes.start()
    with triton.InferenceServerClient(server.grpc) as client:

        def call(number):
            name = "stays" if number % 4 == 0 else "changes"
            tensors = inputs(triton, x=np.full((1, 4), number, np.float32))
            answer = client.infer(name, tensors).as_numpy("y")
            answered.release()
            return answer

        answers = in_parallel(CALLERS, call, range(calls))
    changes.join(60)
    assert not changes.is_alive()
    for number, answer in enumerate(answers):
        assert same_bits(answer, np.full((1, 4), 2 * number + 1, np.float32))
    assert reloads(server) == len(versions) and reloads(server, "refused") == 0
    assert server.total("batchwise_requests_total", outcome="ok") == calls
    assert server.total("batchwise_requests_total") == calls
    changed = next(model for model in server.status()["models"] if model["name"] == "changes")
    assert changed["statistics"]["success"]["count"] == calls - calls // 4
    assert [instance["name"] for instance in changed["instances"]] == [first.grpc]


def test_a_hang_up_with_a_mistake_in_the_file_changes_nothing(start_batchwise, model_servers):
    server = start_batchwise(model(MODEL, model_servers))
    replace(server.config, model(MODEL, model_servers, "max_batch_sise = 4"))
    server.process.signal(signal.SIGHUP)
    wait_until(lambda: reloads(server, "refused") >= 1, "the file is refused")
    assert server.total("batchwise_config_last_reload_success") == 0
    error = server.status()["config"]["last_error"]
    assert str(server.config) in error and "`max_batch_size`" in error
    assert server.post("/api/reload") == (400, {"error": error})
    with triton.InferenceServerClient(server.grpc) as client:
        assert client.is_model_ready(MODEL)


def test_a_start_without_a_file_may_find_one_later(model_servers, tmp_path):
    server = Batchwise(None, tmp_path, directory=tmp_path)
    try:
        assert server.status()["config"]["path"] is None
        status, reply = server.post("/api/reload")
        assert status == 409 and "no configuration file" in reply["error"]
        replace(tmp_path / "models.toml", model(MODEL, model_servers))
        status, reply = server.post("/api/reload")
        assert status == 200 and reply["added"] == [MODEL] and "digits" in reply["removed"]
        assert server.status()["config"]["path"] == "models.toml"
    finally:
        server.stop()
