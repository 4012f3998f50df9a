"""What a process manager does to batchwise, and what a crash does to its model servers."""

import json
import signal
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from support.batchwise import http_status
from support.load import in_parallel
from support.model_server import MODEL, ModelServer
from support.processes import wait_until
from support.tensors import inputs, same_bits

CALLS_PER_PROTOCOL = 20
CALLERS = 16


@pytest.fixture
def start_model_server(tmp_path):
    started = []

    def start(**options):
        server = ModelServer(tmp_path, **options)
        started.append(server)
        return server

    yield start
    for server in started:
        server.process.kill()


def configuration(*servers):
    instances = json.dumps([f"http://{server.grpc}" for server in servers])
    return f"""
        [[model]]
        name = "{MODEL}"
        protocol = "kserve-grpc"
        instances = {instances}
        max_batch_size = 8
        max_queue_delay = "0ms"
    """


def call_grpc(client, number):
    result = client.infer(MODEL, inputs(triton, x=np.full((1, 4), number, np.float32)))
    return result.as_numpy("y").ravel().tolist()


def call_http(server, number):
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [float(number)] * 4}
    request = urllib.request.Request(
        f"http://{server.http}/v2/models/{MODEL}/infer",
        json.dumps({"inputs": [tensor]}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)["outputs"][0]["data"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_answers_everything_accepted(start_batchwise, start_model_server, number):
    # 40 calls in batches of at most 8, 500 ms each: most still wait when the signal comes.
    model_server = start_model_server(a="500ms", b="0ms", max_batch=8)
    server = start_batchwise(configuration(model_server))
    with (
        triton.InferenceServerClient(server.grpc) as client,
        ThreadPoolExecutor(2 * CALLS_PER_PROTOCOL) as pool,
    ):
        assert client.is_model_ready(MODEL)
        by_grpc = [pool.submit(call_grpc, client, index) for index in range(CALLS_PER_PROTOCOL)]
        by_http = [pool.submit(call_http, server, index) for index in range(CALLS_PER_PROTOCOL)]
        # The rows first: a batch that leaves the queue between the two readings counts in neither.
        wait_until(
            lambda: model_server.statistics()["rows"] + server.total("batchwise_queue_depth", model=MODEL)
            == 2 * CALLS_PER_PROTOCOL,
            "every call is accepted",
        )
        server.process.signal(number)
        wait_until(lambda: http_status(f"http://{server.admin}/readyz") != 200, "not ready any more")
        with pytest.raises(InferenceServerException) as caught:
            call_grpc(client, -1)
        assert caught.value.status() == "StatusCode.UNAVAILABLE"
        for index, future in enumerate(by_grpc + by_http):
            expected = [2.0 * (index % CALLS_PER_PROTOCOL) + 1] * 4
            assert future.result(timeout=60) == expected
    assert server.process.wait() == 0


def test_a_new_call_while_draining_is_told_so(start_batchwise, start_model_server):
    server = start_batchwise(configuration(start_model_server(a="1000ms", b="0ms", max_batch=8)))
    with ThreadPoolExecutor(1) as pool, triton.InferenceServerClient(server.grpc) as client:
        running = pool.submit(call_grpc, client, 3)
        wait_until(lambda: server.total("batchwise_instance_inflight", model=MODEL) == 1, "it runs")
        server.process.signal(signal.SIGTERM)
        wait_until(lambda: http_status(f"http://{server.admin}/readyz") != 200, "not ready any more")
        try:
            call_http(server, 1)
            pytest.fail("a draining server accepted a call")
        except urllib.error.HTTPError as error:
            assert error.code == 503
            assert error.headers["x-batchwise-reason"] == "draining"
            assert int(error.headers["retry-after"]) >= 1
        except urllib.error.URLError as error:
            assert isinstance(error.reason, ConnectionRefusedError)
        assert running.result(timeout=30) == [7.0] * 4
    assert server.process.wait() == 0


def test_a_second_signal_cuts_the_rest(start_batchwise, start_model_server):
    server = start_batchwise(configuration(start_model_server(a="20s", b="0ms", max_batch=8)))
    with ThreadPoolExecutor(1) as pool, triton.InferenceServerClient(server.grpc) as client:
        cut = pool.submit(call_grpc, client, 3)
        wait_until(lambda: server.total("batchwise_instance_inflight", model=MODEL) == 1, "it runs")
        server.process.signal(signal.SIGTERM)
        wait_until(lambda: http_status(f"http://{server.admin}/readyz") != 200, "not ready any more")
        server.process.signal(signal.SIGTERM)
        assert server.process.wait(10) == 1
        with pytest.raises(InferenceServerException):
            cut.result(timeout=30)
    server.expected_exit_code = 1
    server.expected_complaints = 1
    assert json.loads(server.complaints()[0])["calls"] == 1


def test_a_killed_model_server_fails_no_caller(start_batchwise, start_model_server):
    first, second = (start_model_server(a="5ms", b="0.1ms", max_batch=8) for _ in range(2))
    server = start_batchwise(configuration(first, second))
    calls = 3000
    kill_at = threading.Event()

    def kill_under_load():
        assert kill_at.wait(60)
        first.process.kill()

    killer = threading.Thread(target=kill_under_load)
    killer.start()
    with triton.InferenceServerClient(server.grpc) as client:

        def call(number):
            if number == calls // 3:
                kill_at.set()
            return client.infer(MODEL, inputs(triton, x=np.full((1, 4), number, np.float32))).as_numpy("y")

        answers = in_parallel(CALLERS, call, range(calls))
    killer.join()
    for number, answer in enumerate(answers):
        assert same_bits(answer, np.full((1, 4), 2 * number + 1, np.float32))
    assert not first.process.running()
    wait_until(
        lambda: server.total("batchwise_instance_healthy", model=MODEL) == 1, "its loss is noticed"
    )


def test_a_model_server_that_comes_back_is_used_again(start_batchwise, start_model_server):
    # SIGSTOP and SIGCONT keep its port, which a new process might not get again.
    first, second = (start_model_server(a="1ms", b="0ms", max_batch=8) for _ in range(2))
    server = start_batchwise(configuration(first, second))

    def healthy():
        return server.total("batchwise_instance_healthy", model=MODEL)

    assert healthy() == 2
    first.process.signal(signal.SIGSTOP)
    try:
        wait_until(lambda: healthy() == 1, "the stopped one is noticed", 60)
        with triton.InferenceServerClient(server.grpc) as client:
            assert in_parallel(4, lambda number: call_grpc(client, number), range(100))
    finally:
        first.process.signal(signal.SIGCONT)
    wait_until(lambda: healthy() == 2, "it is used again", 60)


def test_calls_are_accepted_while_load_balancers_notice_the_stop(start_batchwise, start_model_server):
    model_server = start_model_server(a="1ms", b="0ms", max_batch=8)
    server = start_batchwise('[server]\nshutdown_delay = "2s"\n' + configuration(model_server))
    with triton.InferenceServerClient(server.grpc) as client:
        assert client.is_model_ready(MODEL)
        server.process.signal(signal.SIGTERM)
        wait_until(lambda: http_status(f"http://{server.admin}/readyz") != 200, "not ready any more")
        for number in range(20):
            assert call_grpc(client, number) == [2.0 * number + 1] * 4
    assert server.process.wait(20) == 0
