"""NVIDIA's tritonclient over HTTP, unmodified: JSON and binary tensors."""

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from support.digits import MODEL, REQUIRED_ACCURACY
from support.load import in_parallel
from support.tensors import inputs, same_bits

CONNECTIONS = 16


@pytest.fixture
def client(batchwise):
    with triton.InferenceServerClient(batchwise.http, concurrency=CONNECTIONS) as client:
        yield client


def json_inputs(images):
    tensor = triton.InferInput("image", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images, binary_data=False)
    return [tensor]


def json_outputs():
    return [triton.InferRequestedOutput(name, binary_data=False) for name in ("label", "scores")]


def test_health_and_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert not client.is_model_ready("nothing")
    assert client.get_server_metadata()["name"] == "batchwise"
    metadata = client.get_model_metadata(MODEL)
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 64]}]


def test_config_statistics_and_repository(client, held_out):
    images, _ = held_out
    assert client.get_model_config(MODEL)["max_batch_size"] > 1
    before = client.get_inference_statistics(MODEL)["model_stats"][0]["inference_count"]
    client.infer(MODEL, inputs(triton, image=images[:3]))
    assert client.get_inference_statistics(MODEL)["model_stats"][0]["inference_count"] == before + 3
    index = {model["name"]: model for model in client.get_model_repository_index()}
    assert index[MODEL]["state"] == "READY"


def test_json_and_binary_give_the_same_answer(client, held_out):
    images, labels = held_out
    binary = client.infer(MODEL, inputs(triton, image=images[:20]))
    text = client.infer(MODEL, json_inputs(images[:20]), outputs=json_outputs())
    assert "data" in text.get_output("scores")
    assert same_bits(binary.as_numpy("label"), text.as_numpy("label"))
    assert same_bits(binary.as_numpy("scores"), text.as_numpy("scores"))
    assert np.mean(binary.as_numpy("label") == labels[:20]) >= 0.9


def test_held_out_digits_in_parallel(client, held_out):
    images, labels = held_out

    def classify(image):
        return client.async_infer(MODEL, inputs(triton, image=image[None]))

    pending = [classify(image) for image in images]
    found = np.array([result.get_result().as_numpy("label").item() for result in pending])
    assert np.mean(found == labels) >= REQUIRED_ACCURACY


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression(client, held_out, algorithm):
    images, _ = held_out
    plain = client.infer(MODEL, inputs(triton, image=images[:20]))
    packed = client.infer(
        MODEL,
        inputs(triton, image=images[:20]),
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert same_bits(plain.as_numpy("scores"), packed.as_numpy("scores"))


def test_requested_outputs_id_priority_and_timeout(client, held_out):
    images, _ = held_out
    result = client.infer(
        MODEL,
        inputs(triton, image=images[:1]),
        outputs=[triton.InferRequestedOutput("label")],
        request_id="mine-19",
        priority=1,
        timeout=10_000_000,
    )
    response = result.get_response()
    assert response["id"] == "mine-19"
    assert [output["name"] for output in response["outputs"]] == ["label"]
    with pytest.raises(InferenceServerException) as caught:
        client.infer(MODEL, inputs(triton, image=images[:1]), timeout=1)
    assert caught.value.status() == "504"


def test_asyncio_client(batchwise, held_out):
    import asyncio

    images, labels = held_out

    async def classify():
        async with triton_aio.InferenceServerClient(batchwise.http) as client:
            calls = [client.infer(MODEL, inputs(triton, image=image[None])) for image in images[:50]]
            return [result.as_numpy("label").item() for result in await asyncio.gather(*calls)]

    assert np.mean(np.array(asyncio.run(classify())) == labels[:50]) >= 0.9


@pytest.mark.parametrize(
    ("model", "change", "status", "named"),
    [
        (MODEL, lambda images: inputs(triton, image=images.astype(np.float64)), "400", "image"),
        (MODEL, lambda images: inputs(triton, image=images[:, :63].copy()), "400", "image"),
        (MODEL, lambda images: inputs(triton, picture=images), "400", "picture"),
        ("nothing", lambda images: inputs(triton, image=images), "404", "nothing"),
    ],
)
def test_a_refused_call_leaves_the_connection_usable(batchwise, held_out, model, change, status, named):
    images, labels = held_out
    with triton.InferenceServerClient(batchwise.http, concurrency=1) as client:
        with pytest.raises(InferenceServerException) as caught:
            client.infer(model, change(images[:1]))
        assert caught.value.status() == status
        assert named in caught.value.message()
        again = client.infer(MODEL, inputs(triton, image=images[:1]))
        assert again.as_numpy("label").tolist() == [labels[0]]


def test_many_threads(batchwise, held_out):
    images, labels = held_out

    def classify(image):
        # The HTTP client is built on gevent: one client for each thread's use.
        with triton.InferenceServerClient(batchwise.http) as client:
            return client.infer(MODEL, inputs(triton, image=image[None])).as_numpy("label").item()

    found = np.array(in_parallel(CONNECTIONS, classify, images[:200]))
    assert np.mean(found == labels[:200]) >= 0.95
