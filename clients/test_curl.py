"""Plain HTTP: every protocol and every refusal, as a person with curl sees them."""

import base64
import json
import struct

import numpy as np
import pytest

from support.curl import curl
from support.models import CHAT, DIGITS, EMBEDDINGS

PIXELS = 64
MEBIBYTE = 1 << 20


@pytest.fixture
def url(batchwise):
    return f"http://{batchwise.http}"


def image_tensor(rows, **changes):
    tensor = {"name": "image", "shape": [rows, PIXELS], "datatype": "FP32"}
    return {**tensor, "data": [0.0] * (rows * PIXELS), **changes}


def infer(url, body, *arguments, model=DIGITS):
    text = body if isinstance(body, (str, bytes)) else json.dumps(body)
    return curl(f"{url}/v2/models/{model}/infer", *arguments, body=text)


def test_v2_infer_classifies_a_digit(url, held_out):
    images, labels = held_out
    tensor = image_tensor(3, data=images[:3].ravel().tolist())
    reply = infer(url, {"id": "three", "inputs": [tensor]})
    assert reply.status == 200
    answer = reply.json()
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert answer["id"] == "three"
    assert answer["model_name"] == DIGITS
    assert outputs["label"]["datatype"] == "INT64"
    assert outputs["label"]["shape"] == [3]
    assert outputs["label"]["data"] == labels[:3].tolist()
    assert outputs["scores"]["shape"] == [3, 10]
    assert np.isclose(np.reshape(outputs["scores"]["data"], (3, 10)).sum(axis=1), 1, atol=1e-4).all()


def test_v2_binary_tensors_both_ways(url, held_out):
    images, labels = held_out
    raw = images[:2].tobytes()
    tensor = image_tensor(2, parameters={"binary_data_size": len(raw)})
    del tensor["data"]
    output = {"name": "label", "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [tensor], "outputs": [output]}).encode()
    reply = infer(url, head + raw, "--header", f"inference-header-content-length: {len(head)}")
    assert reply.status == 200
    length = int(reply.headers["inference-header-content-length"])
    described = json.loads(reply.body[:length])["outputs"]
    assert [entry["name"] for entry in described] == ["label"]
    assert described[0]["parameters"]["binary_data_size"] == 16
    assert struct.unpack("<2q", reply.body[length:]) == tuple(labels[:2])


def test_v1_predict(url, held_out):
    images, labels = held_out
    body = json.dumps({"instances": images[:4].tolist()})
    reply = curl(f"{url}/v1/models/{DIGITS}:predict", body=body)
    assert reply.status == 200
    predictions = reply.json()["predictions"]
    assert [prediction["label"] for prediction in predictions] == labels[:4].tolist()


def test_v1_model_status(url):
    reply = curl(f"{url}/v1/models/{DIGITS}")
    assert reply.status == 200


def test_openai_embeddings(url):
    def embed(**options):
        body = {"model": EMBEDDINGS, "input": ["a cat", "a cat", "tax law"], **options}
        reply = curl(f"{url}/v1/embeddings", body=json.dumps(body))
        assert reply.status == 200, reply.body
        return reply.json()

    whole = embed()
    assert whole["object"] == "list"
    assert [item["index"] for item in whole["data"]] == [0, 1, 2]
    first, second, third = (np.array(item["embedding"]) for item in whole["data"])
    assert np.array_equal(first, second)
    assert not np.array_equal(first, third)
    assert whole["usage"]["prompt_tokens"] > 0
    packed = base64.b64decode(embed(encoding_format="base64")["data"][0]["embedding"])
    assert np.allclose(np.frombuffer(packed, "<f4"), first, atol=1e-6)


def test_openai_chat(url):
    body = {"model": CHAT, "messages": [{"role": "user", "content": "good morning"}]}
    reply = curl(f"{url}/v1/chat/completions", body=json.dumps(body))
    assert reply.status == 200
    choice = reply.json()["choices"][0]
    assert "good morning" in choice["message"]["content"]
    assert choice["finish_reason"] == "stop"


def test_openai_chat_streamed(url):
    body = {
        "model": CHAT,
        "messages": [{"role": "user", "content": "good morning to you"}],
        "stream": True,
    }
    reply = curl(f"{url}/v1/chat/completions", "--no-buffer", body=json.dumps(body))
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/event-stream")
    # Chunked framing stays in curl's output only with --raw; what is left is lines of events.
    events = [
        line.removeprefix("data: ") for line in reply.body.decode().splitlines() if line.startswith("data: ")
    ]
    assert events[-1] == "[DONE]"
    pieces = [
        choice["delta"].get("content") or ""
        for event in events[:-1]
        for choice in json.loads(event)["choices"]
    ]
    assert len([piece for piece in pieces if piece]) > 1
    assert "good morning to you" in "".join(pieces)


@pytest.mark.parametrize("path", ["/v2", "/v2/health/live", "/v2/health/ready", f"/v2/models/{DIGITS}"]
                         + [f"/v2/models/{DIGITS}/{part}" for part in ("ready", "config", "stats")])
def test_v2_pages(url, path):
    assert curl(url + path).status == 200


def test_admin_pages(batchwise):
    for path in ("/healthz", "/readyz", "/metrics", "/api/status"):
        assert curl(f"http://{batchwise.admin}{path}").status == 200, path


def test_a_reply_carries_id_and_timing(url):
    reply = infer(url, {"inputs": [image_tensor(1)]}, "--header", "x-request-id: mine-17")
    assert reply.headers["x-request-id"] == "mine-17"
    timing = reply.headers["server-timing"]
    assert "queue;dur=" in timing and "batch;dur=" in timing and 'desc="' in timing


MALFORMED = [
    pytest.param('{"inputs": [', "JSON", id="malformed JSON"),
    pytest.param('{"inputs": 7}', "inputs", id="inputs is no list"),
    pytest.param({"inputs": []}, "image", id="missing tensor"),
    pytest.param({"inputs": [image_tensor(1, name="picture")]}, "picture", id="unknown tensor"),
    pytest.param({"inputs": [image_tensor(1, datatype="FP64")]}, "image", id="wrong datatype"),
    pytest.param({"inputs": [image_tensor(1, datatype="FLOAT")]}, "FLOAT", id="no datatype at all"),
    pytest.param({"inputs": [image_tensor(2, data=[0.0] * PIXELS)]}, "image", id="too few numbers"),
    pytest.param({"inputs": [image_tensor(1, data=[0.0] * (PIXELS + 1))]}, "image", id="too many"),
    pytest.param({"inputs": [image_tensor(1, shape=[-1, PIXELS])]}, "shape", id="negative shape"),
    pytest.param({"inputs": [image_tensor(1, shape=[2**40, 2**40])]}, "image", id="huge shape"),
    pytest.param({"inputs": [image_tensor(1, shape=[1, 63], data=[0.0] * 63)]}, "image", id="width"),
    pytest.param({"inputs": [image_tensor(0)]}, "image", id="no rows"),
    pytest.param({"inputs": [image_tensor(1, data=["a"] * PIXELS)]}, "image", id="text for numbers"),
    pytest.param({"inputs": [image_tensor(1)] * 2}, "image", id="tensor twice"),
    pytest.param({"inputs": [image_tensor(1)], "outputs": [{"name": "size"}]}, "size", id="unknown output"),
]


@pytest.mark.parametrize(("body", "named"), MALFORMED)
def test_a_malformed_call_is_told_which_field(url, body, named):
    reply = infer(url, body)
    assert reply.status == 400, reply.body
    assert reply.headers["x-batchwise-reason"] == "invalid_request"
    assert reply.headers["x-request-id"]
    assert named in reply.json()["error"]


@pytest.mark.parametrize("path", ["/v2/models/nothing/infer", "/v1/models/nothing:predict"])
def test_an_unknown_model(url, path):
    reply = curl(url + path, body=json.dumps({"inputs": [image_tensor(1)], "instances": [[0.0]]}))
    assert reply.status == 404
    assert reply.headers["x-batchwise-reason"] == "unknown_model"
    assert reply.headers["x-request-id"]
    assert "nothing" in reply.json()["error"]


def test_an_unknown_version(url):
    reply = curl(f"{url}/v2/models/{DIGITS}/versions/77/infer", body=json.dumps({"inputs": [image_tensor(1)]}))
    assert reply.status == 404
    assert reply.headers["x-batchwise-reason"] == "unknown_model"
    assert "77" in reply.json()["error"]


def test_too_large_a_body(url):
    reply = infer(url, b" " * (65 * MEBIBYTE))
    assert reply.status == 413
    assert reply.headers["x-batchwise-reason"] == "too_large"
    assert reply.headers["x-request-id"]
    assert "64" in reply.json()["error"]


def test_too_large_a_body_of_unknown_length(url):
    reply = infer(url, b" " * (65 * MEBIBYTE), "--header", "transfer-encoding: chunked")
    assert reply.status == 413
    assert reply.headers["x-batchwise-reason"] == "too_large"


def test_v1_instances_of_the_wrong_width(url):
    reply = curl(f"{url}/v1/models/{DIGITS}:predict", body=json.dumps({"instances": [[1.0, 2.0]]}))
    assert reply.status == 400
    assert reply.headers["x-batchwise-reason"] == "invalid_request"
    assert "instances" in reply.json()["error"] or "image" in reply.json()["error"]


def test_a_deadline_that_has_passed(url):
    body = {"inputs": [image_tensor(1)], "parameters": {"timeout": 1}}
    reply = infer(url, body)
    assert reply.status == 504
    assert reply.headers["x-batchwise-reason"] == "deadline"


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "code"),
    [
        ("/v1/chat/completions", {"model": "nothing", "messages": []}, 404, "model", "model_not_found"),
        ("/v1/chat/completions", {"messages": []}, 400, "model", None),
        ("/v1/chat/completions", {"model": CHAT}, 400, "messages", None),
        ("/v1/embeddings", {"model": EMBEDDINGS}, 400, "input", None),
        ("/v1/embeddings", {"model": EMBEDDINGS, "input": []}, 400, "input", None),
    ],
)
def test_openai_errors(url, path, body, status, param, code):
    reply = curl(url + path, body=json.dumps(body))
    assert reply.status == status, reply.body
    assert reply.headers["x-request-id"]
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert (error["param"], error["code"]) == (param, code)
    assert param in error["message"] or (code and "nothing" in error["message"])


def test_openai_malformed_json(url):
    reply = curl(f"{url}/v1/chat/completions", body='{"model": ')
    assert reply.status == 400
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


def test_the_server_goes_on_after_all_this(url, held_out):
    images, labels = held_out
    reply = infer(url, {"inputs": [image_tensor(1, data=images[0].tolist())]})
    outputs = {output["name"]: output["data"] for output in reply.json()["outputs"]}
    assert outputs["label"] == [labels[0]]
