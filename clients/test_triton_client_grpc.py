"""NVIDIA's tritonclient over gRPC, unmodified, and the plain gRPC services beside it."""

import queue

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from support.digits import MODEL, REQUIRED_ACCURACY
from support.load import in_parallel
from support.tensors import inputs, same_bits

CALLERS = 64


@pytest.fixture
def client(batchwise):
    with triton.InferenceServerClient(batchwise.grpc) as client:
        yield client


@pytest.fixture
def stub(batchwise):
    with grpc.insecure_channel(batchwise.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def label_of(result):
    return result.as_numpy("label")


def test_health_and_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert not client.is_model_ready("nothing")
    assert client.get_server_metadata().name == "batchwise"
    metadata = client.get_model_metadata(MODEL)
    assert [(i.name, i.datatype, list(i.shape)) for i in metadata.inputs] == [("image", "FP32", [-1, 64])]
    assert {(o.name, o.datatype, tuple(o.shape)) for o in metadata.outputs} == {
        ("label", "INT64", (-1,)),
        ("scores", "FP32", (-1, 10)),
    }


def test_config_and_repository(client):
    config = client.get_model_config(MODEL).config
    assert config.name == MODEL
    assert config.max_batch_size > 1
    index = {model.name: model for model in client.get_model_repository_index().models}
    assert index[MODEL].state == "READY"


def test_statistics_count_what_was_inferred(client, held_out):
    images, _ = held_out
    before = client.get_inference_statistics(MODEL).model_stats[0]
    client.infer(MODEL, inputs(triton, image=images[:5]))
    after = client.get_inference_statistics(MODEL).model_stats[0]
    assert after.inference_count == before.inference_count + 5
    assert after.execution_count == before.execution_count + 1
    assert after.inference_stats.success.count == before.inference_stats.success.count + 1


def test_held_out_digits_in_one_call(client, held_out):
    images, labels = held_out
    found = []
    for start in range(0, len(images), 32):
        result = client.infer(MODEL, inputs(triton, image=images[start : start + 32]))
        found.append(label_of(result))
    assert np.mean(np.concatenate(found) == labels) >= REQUIRED_ACCURACY


def test_parallel_one_row_calls_share_batches(batchwise, client, held_out):
    images, labels = held_out
    rows_before = batchwise.total("batchwise_batch_size_sum", model=MODEL)
    batches_before = batchwise.total("batchwise_batch_size_count", model=MODEL)

    def classify(image):
        result = client.infer(MODEL, inputs(triton, image=image[None]))
        assert result.as_numpy("scores").shape == (1, 10)
        return label_of(result).item()

    found = np.array(in_parallel(CALLERS, classify, np.tile(images, (4, 1))))
    assert np.mean(found == np.tile(labels, 4)) >= REQUIRED_ACCURACY
    # The same image gives the same answer, whoever shares its batch.
    assert (found.reshape(4, -1) == found[: len(labels)]).all()
    rows = batchwise.total("batchwise_batch_size_sum", model=MODEL) - rows_before
    batches = batchwise.total("batchwise_batch_size_count", model=MODEL) - batches_before
    assert rows == 4 * len(images)
    assert batches < rows, "no batch held more than one row"


def test_async_infer(client, held_out):
    images, labels = held_out
    results = queue.Queue()
    for index in range(50):
        client.async_infer(
            MODEL,
            inputs(triton, image=images[index][None]),
            request_id=str(index),
            callback=lambda result, error: results.put((result, error)),
        )
    seen = {}
    for _ in range(50):
        result, error = results.get(timeout=30)
        assert error is None
        seen[int(result.get_response().id)] = label_of(result).item()
    assert np.mean([seen[index] == labels[index] for index in range(50)]) >= 0.9


def test_streaming(client, held_out):
    images, labels = held_out
    results = queue.Queue()
    client.start_stream(lambda result, error: results.put((result, error)))
    for index in range(50):
        client.async_stream_infer(MODEL, inputs(triton, image=images[index][None]), request_id=str(index))
    seen = {}
    for _ in range(50):
        result, error = results.get(timeout=30)
        assert error is None
        seen[int(result.get_response().id)] = label_of(result).item()
    client.stop_stream()
    assert sorted(seen) == list(range(50))
    assert np.mean([seen[index] == labels[index] for index in range(50)]) >= 0.9


def test_an_error_in_a_stream_does_not_end_it(client, held_out):
    images, labels = held_out
    results = queue.Queue()
    client.start_stream(lambda result, error: results.put((result, error)))
    client.async_stream_infer("nothing", inputs(triton, image=images[:1]), request_id="bad")
    _, error = results.get(timeout=30)
    assert "nothing" in error.message()
    client.async_stream_infer(MODEL, inputs(triton, image=images[:1]), request_id="good")
    result, error = results.get(timeout=30)
    assert error is None
    assert label_of(result).tolist() == [labels[0]]
    client.stop_stream()


def test_requested_outputs(client, held_out):
    images, _ = held_out
    only = client.infer(
        MODEL, inputs(triton, image=images[:2]), outputs=[triton.InferRequestedOutput("scores")]
    )
    assert [output.name for output in only.get_response().outputs] == ["scores"]
    both = client.infer(MODEL, inputs(triton, image=images[:2]))
    assert same_bits(only.as_numpy("scores"), both.as_numpy("scores"))


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_compression(client, held_out, compression):
    images, labels = held_out
    result = client.infer(
        MODEL, inputs(triton, image=images[:20]), compression_algorithm=compression
    )
    assert np.mean(label_of(result) == labels[:20]) >= 0.9


def test_priority_and_timeout_parameters(batchwise, client, held_out):
    images, _ = held_out

    def urgent():
        return batchwise.total("batchwise_requests_total", model=MODEL, priority="1")

    before = urgent()
    client.infer(MODEL, inputs(triton, image=images[:1]), priority=1, timeout=10_000_000)
    assert urgent() == before + 1
    client.infer(MODEL, inputs(triton, image=images[:1]), headers={"x-request-priority": "1"})
    assert urgent() == before + 2
    with pytest.raises(InferenceServerException) as caught:
        client.infer(MODEL, inputs(triton, image=images[:1]), timeout=1)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def test_id_is_echoed(client, held_out):
    images, _ = held_out
    result = client.infer(MODEL, inputs(triton, image=images[:1]), request_id="echo me")
    assert result.get_response().id == "echo me"


def test_asyncio_client(batchwise, held_out):
    import asyncio

    images, labels = held_out

    async def classify():
        async with triton_aio.InferenceServerClient(batchwise.grpc) as client:
            calls = [client.infer(MODEL, inputs(triton, image=image[None])) for image in images[:100]]
            return [label_of(result).item() for result in await asyncio.gather(*calls)]

    assert np.mean(np.array(asyncio.run(classify())) == labels[:100]) >= 0.95


def image_request(images, **changes):
    """A raw ModelInferRequest with typed contents, as KServe's own examples send it."""
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    tensor = request.inputs.add(name="image", datatype="FP32", shape=images.shape)
    tensor.contents.fp32_contents.extend(images.ravel().tolist())
    for name, value in changes.items():
        setattr(tensor, name, value)
    return request


def test_typed_contents_give_the_same_answer(stub, client, held_out):
    images, _ = held_out
    typed = stub.ModelInfer(image_request(images[:3]))
    raw = client.infer(MODEL, inputs(triton, image=images[:3]))
    scores = {output.name: index for index, output in enumerate(typed.outputs)}["scores"]
    assert typed.raw_output_contents[scores] == raw.as_numpy("scores").tobytes()


def wrong_datatype(client, images):
    return client.infer(MODEL, inputs(triton, image=images.astype(np.float64)))


def wrong_width(client, images):
    return client.infer(MODEL, inputs(triton, image=images[:, :63].copy()))


def wrong_name(client, images):
    return client.infer(MODEL, inputs(triton, picture=images))


def no_tensor(client, images):
    return client.infer(MODEL, [])


def unknown_output(client, images):
    return client.infer(
        MODEL, inputs(triton, image=images), outputs=[triton.InferRequestedOutput("size")]
    )


def unknown_model(client, images):
    return client.infer("nothing", inputs(triton, image=images))


def unknown_version(client, images):
    return client.infer(MODEL, inputs(triton, image=images), model_version="77")


def shape_and_data_differ(client, images):
    tensor = inputs(triton, image=images)[0]
    tensor._get_tensor().shape[0] += 1
    return client.infer(MODEL, [tensor])


def negative_shape(client, images):
    tensor = inputs(triton, image=images)[0]
    tensor._get_tensor().shape[0] = -1
    return client.infer(MODEL, [tensor])


@pytest.mark.parametrize(
    ("call", "status", "named"),
    [
        (wrong_datatype, "INVALID_ARGUMENT", "image"),
        (wrong_width, "INVALID_ARGUMENT", "image"),
        (wrong_name, "INVALID_ARGUMENT", "picture"),
        (no_tensor, "INVALID_ARGUMENT", "image"),
        (shape_and_data_differ, "INVALID_ARGUMENT", "image"),
        (negative_shape, "INVALID_ARGUMENT", "image"),
        (unknown_output, "INVALID_ARGUMENT", "size"),
        (unknown_model, "NOT_FOUND", "nothing"),
        (unknown_version, "NOT_FOUND", "77"),
    ],
)
def test_a_refused_call_leaves_the_connection_usable(client, held_out, call, status, named):
    images, labels = held_out
    with pytest.raises(InferenceServerException) as caught:
        call(client, images[:1])
    assert caught.value.status() == f"StatusCode.{status}"
    assert named in caught.value.message()
    assert label_of(client.infer(MODEL, inputs(triton, image=images[:1]))).tolist() == [labels[0]]


def test_a_refusal_carries_its_reason(stub, held_out):
    images, _ = held_out
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(image_request(images[:1], datatype="FP64"))
    metadata = dict(caught.value.initial_metadata() or ()) | dict(caught.value.trailing_metadata())
    assert metadata["x-batchwise-reason"] == "invalid_request"
    assert metadata["x-request-id"]


def test_replies_carry_id_and_timing(stub, held_out):
    images, _ = held_out
    _, call = stub.ModelInfer.with_call(
        image_request(images[:1]), metadata=[("x-request-id", "mine-18")]
    )
    metadata = dict(call.initial_metadata()) | dict(call.trailing_metadata())
    assert metadata["x-request-id"] == "mine-18"
    assert "queue;dur=" in metadata["server-timing"]


def test_grpc_health_and_reflection(batchwise):
    with grpc.insecure_channel(batchwise.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        services = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert "inference.GRPCInferenceService" in services
