"""Rerank, scores, classes and the routes of Text Embeddings Inference, over plain HTTP as their clients speak it."""

import functools

import numpy as np
import openai
import pytest

from support import rest
from support.load import in_parallel
from support.model_server import ModelServer

MODEL = "embed"
LARGEST = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = ModelServer(tmp_path_factory.mktemp("server"), a="10ms", max_batch=LARGEST)
    yield server
    server.stop()


@pytest.fixture
def proxy(server, start_batchwise):
    return start_batchwise(
        f"""
        [[model]]
        name = "{MODEL}"
        protocol = "openai"
        instances = ["http://{server.http}"]
        max_batch_size = {LARGEST}
        """
    )


@pytest.fixture
def post(proxy):
    return functools.partial(rest.post, proxy.http)


@pytest.fixture
def direct(server):
    """What the model server itself answers, which takes no more texts than fit one of its batches."""

    def direct(path, **body):
        return rest.post(server.http, path, **body).json()

    return direct


def scores(direct, query, texts):
    def one(text):
        return direct("/v1/score", model=MODEL, text_1=query, text_2=text)["data"][0]["score"]

    return [one(text) for text in texts]


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_a_ranking_longer_than_a_batch_is_that_of_all_its_documents(post, direct, path):
    documents = [f"document number {index}" for index in range(15)]
    expected = scores(direct, "a query", documents)
    order = sorted(range(len(documents)), key=lambda index: -expected[index])
    asked = {"model": MODEL, "query": "a query", "documents": documents}
    whole = post(path, **asked).json()["results"]
    assert [result["index"] for result in whole] == order
    assert [result["relevance_score"] for result in whole] == [expected[index] for index in order]
    best = post(path, **asked, top_n=3, return_documents=True).json()["results"]
    assert [result["index"] for result in best] == order[:3]
    assert [result["document"]["text"] for result in best] == [documents[index] for index in order[:3]]


def test_rankings_of_many_callers_share_batches_and_keep_apart(post, direct, server):
    before = server.statistics()
    documents = [[f"{index} a", f"{index} b"] for index in range(40)]

    def rerank(pair):
        return post("/v1/rerank", model=MODEL, query="q", documents=pair).json()["results"]

    replies = in_parallel(16, rerank, documents)
    after = server.statistics()
    assert after["rows"] - before["rows"] == 80
    assert after["executions"] - before["executions"] < 40
    for pair, results in zip(documents, replies, strict=True):
        told = {result["index"]: result["relevance_score"] for result in results}
        assert [told[0], told[1]] == scores(direct, "q", pair)


def test_embeddings_longer_than_a_batch_come_back_whole(proxy, direct):
    texts = [f"sentence number {index}" for index in range(23)]
    with openai.OpenAI(base_url=f"http://{proxy.http}/v1", api_key="any", max_retries=0, timeout=20) as client:
        reply = client.embeddings.create(model=MODEL, input=texts)
    assert [item.index for item in reply.data] == list(range(23))
    assert reply.usage.prompt_tokens == reply.usage.total_tokens == 3 * 23
    for index in (0, 4, 22):
        alone = direct("/embed", inputs=texts[index])[0]
        assert np.array_equal(np.float32(reply.data[index].embedding), np.float32(alone))


def test_the_native_routes_of_text_embeddings_inference(post, direct):
    texts = [f"text number {index}" for index in range(9)]
    assert post("/embed", inputs=texts).json() == [direct("/embed", inputs=text)[0] for text in texts]
    assert post("/embed", inputs=texts[0]).json() == direct("/embed", inputs=texts[0])
    assert post("/predict", inputs=texts[0]).json() == direct("/predict", inputs=texts[0])
    assert post("/predict", inputs=texts[:2]).json() == direct("/predict", inputs=texts[:2])
    many = [[text] for text in texts]
    assert post("/predict", inputs=many).json() == [direct("/predict", inputs=text) for text in texts]
    ranked = post("/rerank", query="q", texts=texts[:3], return_text=True).json()
    assert ranked == direct("/rerank", query="q", texts=texts[:3], return_text=True)


def test_classes_and_scores_are_the_servers_own(post, direct):
    texts = ["one", "two", "three"]
    for path, body in [
        ("/classify", {"model": MODEL, "input": texts}),
        ("/v1/score", {"model": MODEL, "text_1": "q", "text_2": texts}),
        ("/score", {"model": MODEL, "text_1": texts, "text_2": texts}),
    ]:
        assert post(path, **body).json() == direct(path, **body), path


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/v1/rerank", {"model": MODEL, "query": "q"}, 400, "documents"),
        ("/v1/rerank", {"model": MODEL, "query": "q", "documents": []}, 400, "documents"),
        ("/v2/rerank", {"model": MODEL, "documents": ["a"]}, 400, "query"),
        ("/v1/rerank", {"model": MODEL, "query": "q", "documents": ["a"], "top_n": "x"}, 400, "top_n"),
        ("/rerank", {"model": "none", "query": "q", "documents": ["a"]}, 404, "model"),
        ("/classify", {"input": ["a"]}, 400, "model"),
    ],
)
def test_wrong_requests_name_the_parameter(post, path, body, status, param):
    reply = post(path, **body)
    assert reply.status == status
    assert reply.json()["error"]["param"] == param
    assert reply.headers["x-request-id"] and int(reply.headers["openai-processing-ms"]) >= 0
