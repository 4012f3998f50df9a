"""batchwise in front of a real MLServer: the same bits as direct calls, and MLServer sees the batches."""

import numpy as np
import pytest
import tritonclient.grpc as triton

from support.load import in_parallel
from support.mlserver_process import MODEL, MLServer
from support.tensors import inputs, same_bits

CALLERS = 16
CALLS = 300


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory):
    server = MLServer(tmp_path_factory.mktemp("mlserver"))
    yield server
    server.stop()


@pytest.fixture(params=["kserve-grpc", "kserve-http"])
def proxy(request, mlserver, start_batchwise):
    address = mlserver.grpc if request.param == "kserve-grpc" else mlserver.http
    return start_batchwise(
        f"""
        [[model]]
        name = "{MODEL}"
        protocol = "{request.param}"
        instances = ["http://{address}"]
        max_batch_size = 32
        """
    )


def arrays(random, rows):
    notes = [f"nöte {random.integers(1 << 30)}".encode() for _ in range(rows)]
    return {
        "x": random.normal(size=(rows, 4)).astype(np.float32),
        "note": np.array(notes, np.object_).reshape(rows, 1),
    }


def infer(client, call):
    result = client.infer(MODEL, inputs(triton, **call))
    return {name: result.as_numpy(name) for name in ("y", "rank", "note")}


def test_bit_for_bit(mlserver, proxy):
    random = np.random.default_rng(4)
    with (
        triton.InferenceServerClient(mlserver.grpc) as direct,
        triton.InferenceServerClient(proxy.grpc) as through,
    ):
        for rows in (1, 2, 7):
            call = arrays(random, rows)
            expected, found = infer(direct, call), infer(through, call)
            for name in expected:
                assert same_bits(found[name].reshape(rows, -1), expected[name].reshape(rows, -1)), name


def test_parallel_callers_get_their_own_rows_and_mlserver_sees_batches(mlserver, proxy):
    random = np.random.default_rng(5)
    calls = [arrays(random, 1) for _ in range(CALLS)]
    executions_before, rows_before = mlserver.executions_and_rows()
    with triton.InferenceServerClient(proxy.grpc) as client:
        answers = in_parallel(CALLERS, lambda call: infer(client, call), calls)
    for call, answer in zip(calls, answers, strict=True):
        assert same_bits(answer["y"], call["x"] * np.float32(2) + np.float32(1))
        assert answer["rank"].ravel().tolist() == [call["x"].argmax()]
        assert answer["note"].ravel().tolist() == call["note"].ravel().tolist()
    executions, rows = mlserver.executions_and_rows()
    executions, rows = executions - executions_before, rows - rows_before
    assert rows == CALLS
    assert executions < CALLS / 2, f"{rows} rows in {executions} executions"
