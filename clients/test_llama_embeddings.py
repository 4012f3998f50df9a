"""llama.cpp's server as an engine that batches embeddings by itself, behind the proxy."""

import openai
import pytest

from support import javascript
from support.llama_server import MODEL, embedding_server
from support.load import in_parallel
from support.vectors import cosine_distance

CALLERS = 12
# It computes with weights of four bits, and its kernels differ by how many tokens are in a batch: what a text gets
# differs a little by its company, without any proxy.
LARGEST_COSINE_DISTANCE = 1e-4
TEXTS = [f"{'a short' if index % 3 else 'a rather longer'} text, number {index}" for index in range(CALLERS)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    server = embedding_server(tmp_path_factory.mktemp("llama"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def proxy(engine, start_batchwise_for_module):
    return start_batchwise_for_module(
        f"""
        [[model]]
        name = "{MODEL}"
        protocol = "openai"
        instances = ["http://{engine.http}"]
        """
    )


def client_of(server):
    return openai.OpenAI(base_url=f"http://{server.http}/v1", api_key="any", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def alone(engine):
    with client_of(engine) as client:
        return [client.embeddings.create(model=MODEL, input=text) for text in TEXTS]


def test_callers_that_share_calls_get_the_vectors_of_lone_calls(engine, proxy, alone):
    with client_of(engine) as client:
        listed = client.embeddings.create(model=MODEL, input=TEXTS)
    own = max(
        cosine_distance(item.embedding, reply.data[0].embedding)
        for item, reply in zip(listed.data, alone, strict=True)
    )
    with client_of(proxy) as client:
        replies = in_parallel(
            CALLERS, lambda text: client.embeddings.create(model=MODEL, input=text), TEXTS + TEXTS
        )
    distance = max(
        cosine_distance(reply.data[0].embedding, lone.data[0].embedding)
        for reply, lone in zip(replies, alone + alone, strict=True)
    )
    batches = proxy.total("batchwise_batch_size_count", model=MODEL)
    print(f"{len(replies)} texts in {batches:.0f} calls: cosine distance {distance:.1e}, of the engine's own list {own:.1e}")
    assert proxy.total("batchwise_batch_size_sum", model=MODEL) == len(replies) > batches
    assert distance <= LARGEST_COSINE_DISTANCE
    assert sum(reply.usage.prompt_tokens for reply in replies) == 2 * sum(one.usage.prompt_tokens for one in alone)


def test_lists_keep_their_order(proxy, alone):
    with client_of(proxy) as client:
        reply = client.embeddings.create(model=MODEL, input=TEXTS)
    assert [item.index for item in reply.data] == list(range(len(TEXTS)))
    for item, lone in zip(reply.data, alone, strict=True):
        assert cosine_distance(item.embedding, lone.data[0].embedding) <= LARGEST_COSINE_DISTANCE


def test_the_client_for_javascript(engine, proxy):
    javascript.run(
        "embeddings.test.mjs",
        proxy,
        EMBEDDING_MODEL=MODEL,
        ENGINE_URL=f"http://{engine.http}",
        CALLERS="10",
        # The engine's own lists of those texts are up to 1.5e-4 from its lone calls.
        LARGEST_COSINE_DISTANCE="5e-4",
    )
