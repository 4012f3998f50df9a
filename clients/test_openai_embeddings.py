"""A real sentence encoder behind the proxy: what many callers get together is what each gets alone."""

import asyncio

import openai
import pytest

from support import javascript, rest
from support.load import in_parallel
from support.sentence_encoder_process import LARGEST, MODEL, SentenceEncoder
from support.vectors import cosine_distance

CALLERS = 64
LARGEST_COSINE_DISTANCE = 1e-5
SUBJECTS = ["the cat", "quarterly tax law", "a request that waits", "naïve 日本語 text", "an orchestra"]
# Of many lengths, so that executions have to pad.
TEXTS = [f"{SUBJECTS[index % 5]} in sentence {index} " + "goes on " * (index % 7) for index in range(CALLERS)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    server = SentenceEncoder(tmp_path_factory.mktemp("encoder"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def engine_of_floats(tmp_path_factory):
    server = SentenceEncoder(tmp_path_factory.mktemp("encoder"), "--only-floats")
    yield server
    server.stop()


def configured(engine):
    return f"""
        [[model]]
        name = "{MODEL}"
        protocol = "openai"
        instances = ["http://{engine.http}"]
        max_batch_size = {LARGEST}
        """


@pytest.fixture(scope="module")
def proxy(engine, start_batchwise_for_module):
    return start_batchwise_for_module(configured(engine))


@pytest.fixture(scope="module")
def client(proxy):
    with openai.OpenAI(base_url=f"http://{proxy.http}/v1", api_key="any", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def unmerged(engine):
    """What the engine itself answers to a call with this text alone."""
    with openai.OpenAI(base_url=f"http://{engine.http}/v1", api_key="any", max_retries=0, timeout=60) as client:
        return [client.embeddings.create(model=MODEL, input=text) for text in TEXTS]


def largest_distance(replies, unmerged):
    pairs = zip(replies, unmerged, strict=True)
    return max(cosine_distance(left.data[0].embedding, right.data[0].embedding) for left, right in pairs)


@pytest.mark.parametrize("form", ["base64", "float"])
def test_callers_that_share_executions_get_the_vectors_of_lone_calls(engine, client, unmerged, form):
    before = engine.statistics()

    def embed(text):
        return client.embeddings.create(model=MODEL, input=text, encoding_format=form)

    replies = in_parallel(CALLERS, embed, TEXTS + TEXTS)
    after = engine.statistics()
    calls = after["calls"] - before["calls"]
    distance = largest_distance(replies, unmerged + unmerged)
    print(f"{len(replies)} texts in {calls} calls, largest cosine distance {distance:.2e}")
    assert after["texts"] - before["texts"] == len(replies)
    assert calls <= len(replies) / 2
    assert distance <= LARGEST_COSINE_DISTANCE
    assert sum(reply.usage.prompt_tokens for reply in replies) == after["tokens"] - before["tokens"]
    assert all(reply.usage.total_tokens == reply.usage.prompt_tokens > 0 for reply in replies)
    assert all([item.index for item in reply.data] == [0] for reply in replies)


def test_the_asynchronous_client_gets_the_same(engine, proxy, unmerged):
    async def embed_all():
        async with openai.AsyncOpenAI(
            base_url=f"http://{proxy.http}/v1", api_key="any", max_retries=0, timeout=60
        ) as client:
            return await asyncio.gather(*(client.embeddings.create(model=MODEL, input=text) for text in TEXTS))

    before = engine.statistics()
    replies = asyncio.run(embed_all())
    assert engine.statistics()["calls"] - before["calls"] <= len(TEXTS) / 2
    assert largest_distance(replies, unmerged) <= LARGEST_COSINE_DISTANCE


def test_lists_keep_their_order_and_are_cut_to_what_the_engine_takes(engine, client, unmerged):
    before = engine.statistics()
    reply = client.embeddings.create(model=MODEL, input=TEXTS)
    after = engine.statistics()
    assert [item.index for item in reply.data] == list(range(len(TEXTS)))
    for item, alone in zip(reply.data, unmerged, strict=True):
        assert cosine_distance(item.embedding, alone.data[0].embedding) <= LARGEST_COSINE_DISTANCE
    assert reply.usage.prompt_tokens == sum(alone.usage.prompt_tokens for alone in unmerged)
    assert after["largest_execution"] == LARGEST


def test_callers_with_lists_share_executions(engine, client, unmerged):
    before = engine.statistics()
    lists = [list(range(start, start + 3)) for start in range(0, 60, 3)]

    def embed(indices):
        return client.embeddings.create(model=MODEL, input=[TEXTS[index] for index in indices])

    replies = in_parallel(CALLERS, embed, lists)
    after = engine.statistics()
    assert after["calls"] - before["calls"] < len(lists)
    assert sum(reply.usage.prompt_tokens for reply in replies) == after["tokens"] - before["tokens"]
    for indices, reply in zip(lists, replies, strict=True):
        assert [item.index for item in reply.data] == [0, 1, 2]
        for index, item in zip(indices, reply.data, strict=True):
            assert cosine_distance(item.embedding, unmerged[index].data[0].embedding) <= LARGEST_COSINE_DISTANCE


def test_token_ids_are_inputs_too(client):
    ids = [[101, 1996, 4937, 102], [101, 8408, 4171, 2375, 102]]
    replies = in_parallel(2, lambda entry: client.embeddings.create(model=MODEL, input=entry), [ids[0], ids])
    assert [len(reply.data) for reply in replies] == [1, 2]
    alone, together = (reply.data[0].embedding for reply in replies)
    assert cosine_distance(alone, together) <= LARGEST_COSINE_DISTANCE


def test_near_texts_have_near_vectors(client):
    texts = ["the cat sat on the mat", "a kitten was sitting on a rug", "quarterly tax law"]
    cat, kitten, law = (item.embedding for item in client.embeddings.create(model=MODEL, input=texts).data)
    assert cosine_distance(cat, kitten) < 0.5 < cosine_distance(cat, law)


@pytest.mark.parametrize("form", ["base64", "float"])
def test_callers_get_the_form_that_they_ask_for(proxy, unmerged, form):
    reply = rest.post(proxy.http, "/v1/embeddings", model=MODEL, input=TEXTS[0], encoding_format=form).json()
    found = reply["data"][0]["embedding"]
    assert isinstance(found, str) == (form == "base64")
    assert cosine_distance(found, unmerged[0].data[0].embedding) <= LARGEST_COSINE_DISTANCE


def test_an_engine_that_knows_no_base64_serves_clients_that_ask_for_it(engine_of_floats, start_batchwise, unmerged):
    """Both official clients ask for base64 by themselves; the one for JavaScript takes nothing else."""
    proxy = start_batchwise(configured(engine_of_floats))
    before = engine_of_floats.statistics()
    with openai.OpenAI(base_url=f"http://{proxy.http}/v1", api_key="any", max_retries=0, timeout=60) as client:
        replies = in_parallel(
            CALLERS, lambda text: client.embeddings.create(model=MODEL, input=text, encoding_format="base64"), TEXTS
        )
    assert engine_of_floats.statistics()["calls"] - before["calls"] < len(TEXTS)
    assert all(isinstance(reply.data[0].embedding, str) for reply in replies)
    assert largest_distance(replies, unmerged) <= LARGEST_COSINE_DISTANCE
    javascript.run("embeddings.test.mjs", proxy, EMBEDDING_MODEL=MODEL, ENGINE_URL=f"http://{engine_of_floats.http}")


def test_the_client_for_javascript(engine, proxy):
    before = engine.statistics()
    javascript.run("embeddings.test.mjs", proxy, EMBEDDING_MODEL=MODEL, ENGINE_URL=f"http://{engine.http}")
    assert engine.statistics()["calls"] > before["calls"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [7, 99_999]}, "input"),
        ({"input": "a", "encoding_format": "hexadecimal"}, "encoding_format"),
    ],
)
def test_one_wrong_call_is_refused_alone(client, fields, param):
    """While others wait whose calls it could spoil."""

    def call(index):
        wrong = index == 5
        try:
            return client.embeddings.create(model=MODEL, **(fields if wrong else {"input": TEXTS[index]}))
        except openai.BadRequestError as error:
            return error

    replies = in_parallel(16, call, range(16))
    refused = replies.pop(5)
    assert isinstance(refused, openai.BadRequestError)
    assert refused.param == param and refused.type == "invalid_request_error"
    assert all(len(reply.data) == 1 for reply in replies)
