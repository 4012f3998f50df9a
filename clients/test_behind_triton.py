"""batchwise in front of a real Triton: the same bits as direct calls, and Triton sees the batches."""

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from support.load import in_parallel
from support.tensors import inputs, same_bits
from support.triton_server import TritonServer

MODEL = "datatypes"
CALLERS = 32
COLUMNS = 6
NUMERIC = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
FRONTS = [pytest.param(tritonclient.grpc, id="by gRPC"), pytest.param(tritonclient.http, id="by HTTP")]


@pytest.fixture(scope="module")
def triton(tmp_path_factory):
    server = TritonServer(tmp_path_factory.mktemp("triton"))
    yield server
    server.stop()


@pytest.fixture(params=["kserve-grpc", "kserve-http"])
def proxy(request, triton, start_batchwise):
    address = triton.grpc if request.param == "kserve-grpc" else triton.http
    return start_batchwise(
        "\n".join(
            f"""
            [[model]]
            name = "{model}"
            protocol = "{request.param}"
            instances = ["http://{address}"]
            """
            for model in (MODEL, "picky")
        )
    )


def connect(module, server):
    return module.InferenceServerClient(server.grpc if module is tritonclient.grpc else server.http)


def any_bits(name, random, rows):
    """Random bit patterns: for floats with NaNs, infinities and subnormals among them."""
    if name == "BYTES":
        lengths = random.integers(0, 40, rows * COLUMNS)
        return np.array([random.bytes(length) for length in lengths], np.object_).reshape(rows, COLUMNS)
    datatype = np.dtype(NUMERIC[name])
    if name == "BOOL":
        return random.integers(0, 2, (rows, COLUMNS)).astype(np.bool_)
    return np.frombuffer(random.bytes(rows * COLUMNS * datatype.itemsize), datatype).reshape(rows, COLUMNS)


@pytest.mark.parametrize("front", FRONTS)
def test_every_datatype_bit_for_bit(triton, proxy, front):
    random = np.random.default_rng(1)
    with connect(front, triton) as direct, connect(front, proxy) as through:
        for name in [*NUMERIC, "BYTES"]:
            for rows in (1, 3):
                tensors = inputs(front, **{name: any_bits(name, random, rows)})
                expected = direct.infer(MODEL, tensors).as_numpy(f"OUT_{name}")
                found = through.infer(MODEL, tensors).as_numpy(f"OUT_{name}")
                assert same_bits(found, expected), name


def test_several_tensors_at_once(triton, proxy):
    random = np.random.default_rng(2)
    arrays = {name: any_bits(name, random, 2) for name in ("FP32", "INT64", "BYTES")}
    module = tritonclient.grpc
    with connect(module, triton) as direct, connect(module, proxy) as through:
        expected = direct.infer(MODEL, inputs(module, **arrays))
        found = through.infer(MODEL, inputs(module, **arrays))
    for name in arrays:
        assert same_bits(found.as_numpy(f"OUT_{name}"), expected.as_numpy(f"OUT_{name}"))


def test_parallel_callers_get_their_own_rows_and_triton_sees_batches(triton, proxy):
    random = np.random.default_rng(3)
    names = ("FP32", "INT64", "BYTES")
    calls = [(name, any_bits(name, random, 1 + index % 2)) for index in range(150) for name in names]
    rows_before, executions_before, sizes_before = triton.statistics(MODEL)
    module = tritonclient.grpc
    with connect(module, proxy) as client:

        def call(item):
            name, array = item
            return client.infer(MODEL, inputs(module, **{name: array})).as_numpy(f"OUT_{name}")

        answers = in_parallel(CALLERS, call, calls)
    for (name, array), answer in zip(calls, answers, strict=True):
        assert same_bits(answer, np.ascontiguousarray(array[:, ::-1])), name
    rows, executions, sizes = triton.statistics(MODEL)
    rows, executions = rows - rows_before, executions - executions_before
    assert rows == sum(len(array) for _, array in calls)
    assert executions < rows / 2, f"{rows} rows in {executions} executions"
    made = {size for size, count in sizes.items() if count > sizes_before.get(size, 0)}
    assert max(made) > 4, made


def test_metadata_and_config_come_from_triton(triton, proxy):
    module = tritonclient.grpc
    with connect(module, triton) as direct, connect(module, proxy) as through:
        expected, found = (client.get_model_metadata("picky") for client in (direct, through))
        assert [(t.name, t.datatype, t.shape) for t in found.inputs] == [
            (t.name, t.datatype, t.shape) for t in expected.inputs
        ]
        assert through.get_model_config("picky").config.max_batch_size == 32


def test_one_refused_row_does_not_harm_its_neighbours(proxy):
    module = tritonclient.grpc
    calls = [np.full((1, 4), -1 if index % 40 == 17 else index, np.float32) for index in range(200)]
    with connect(module, proxy) as client:

        def call(array):
            try:
                return client.infer("picky", inputs(module, x=array)).as_numpy("y")
            except InferenceServerException as error:
                return error

        answers = in_parallel(CALLERS, call, calls)
    for array, answer in zip(calls, answers, strict=True):
        if (array < 0).any():
            assert isinstance(answer, InferenceServerException), answer
            assert answer.status() == "StatusCode.INVALID_ARGUMENT"
            assert "x must not be negative" in answer.message()
        else:
            assert same_bits(answer, array * 2), answer
