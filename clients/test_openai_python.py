"""The official openai package for Python, unmodified."""

import asyncio

import numpy as np
import openai
import pytest

from support.load import in_parallel
from support.models import CHAT, EMBEDDINGS

SENTENCE = "the quick brown fox jumps over the lazy dog"


@pytest.fixture
def client(batchwise):
    with openai.OpenAI(
        base_url=f"http://{batchwise.http}/v1", api_key="any", max_retries=0, timeout=30
    ) as client:
        yield client


def messages(text=SENTENCE):
    return [{"role": "user", "content": text}]


def test_models(client):
    names = [model.id for model in client.models.list()]
    assert {CHAT, EMBEDDINGS} <= set(names)
    assert client.models.retrieve(CHAT).id == CHAT


def test_embeddings_in_base64_and_float_are_equal(client):
    # The client asks for base64 unless told otherwise, and decodes it itself.
    packed = client.embeddings.create(model=EMBEDDINGS, input=SENTENCE)
    plain = client.embeddings.create(model=EMBEDDINGS, input=SENTENCE, encoding_format="float")
    left, right = (np.array(reply.data[0].embedding, np.float32) for reply in (packed, plain))
    assert left.size > 0 and np.array_equal(left, right)
    assert packed.usage.prompt_tokens == plain.usage.prompt_tokens > 0


def test_a_list_of_inputs_keeps_its_order(client):
    texts = [f"sentence number {index}" for index in range(40)]
    together = client.embeddings.create(model=EMBEDDINGS, input=texts)
    assert [item.index for item in together.data] == list(range(len(texts)))
    for index in (0, 17, 39):
        alone = client.embeddings.create(model=EMBEDDINGS, input=texts[index])
        assert alone.data[0].embedding == together.data[index].embedding


def test_near_texts_have_near_vectors(client):
    texts = ["the cat sat on the mat", "the cat sat on a mat", "quarterly tax law"]
    reply = client.embeddings.create(model=EMBEDDINGS, input=texts)
    first, second, third = (np.array(item.embedding) for item in reply.data)

    def cosine(left, right):
        return left @ right / np.linalg.norm(left) / np.linalg.norm(right)

    assert cosine(first, second) > cosine(first, third)


def test_parallel_embeddings_share_batches(batchwise, client):
    rows_before = batchwise.total("batchwise_batch_size_sum", model=EMBEDDINGS)
    batches_before = batchwise.total("batchwise_batch_size_count", model=EMBEDDINGS)
    texts = [f"text {index} " * 50 for index in range(400)]

    def embed(text):
        return client.embeddings.create(model=EMBEDDINGS, input=text).data[0].embedding

    vectors = in_parallel(16, embed, texts)
    assert len({tuple(vector) for vector in vectors}) >= len(set(texts)) * 0.9
    rows = batchwise.total("batchwise_batch_size_sum", model=EMBEDDINGS) - rows_before
    batches = batchwise.total("batchwise_batch_size_count", model=EMBEDDINGS) - batches_before
    assert rows == len(texts)
    assert batches <= rows


def test_chat_whole(client):
    reply = client.chat.completions.create(model=CHAT, messages=messages())
    assert SENTENCE in reply.choices[0].message.content
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_chat_streamed(client):
    whole = client.chat.completions.create(model=CHAT, messages=messages())
    chunks = list(client.chat.completions.create(model=CHAT, messages=messages(), stream=True))
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert len([piece for piece in pieces if piece]) > 1
    assert "".join(piece or "" for piece in pieces) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1


def test_chat_streamed_with_usage(client):
    chunks = list(
        client.chat.completions.create(
            model=CHAT, messages=messages(), stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens > 0
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_completions_whole_and_streamed(client):
    whole = client.completions.create(model=CHAT, prompt=SENTENCE)
    assert SENTENCE in whole.choices[0].text
    stream = client.completions.create(model=CHAT, prompt=SENTENCE, stream=True)
    pieces = [chunk.choices[0].text for chunk in stream if chunk.choices]
    assert "".join(pieces) == whole.choices[0].text


def test_a_reader_that_leaves_a_stream_harms_nobody(client):
    with client.chat.completions.create(model=CHAT, messages=messages(), stream=True) as stream:
        next(iter(stream))
    assert client.chat.completions.create(model=CHAT, messages=messages()).choices


def test_async_client(batchwise):
    async def talk():
        async with openai.AsyncOpenAI(
            base_url=f"http://{batchwise.http}/v1", api_key="any", max_retries=0, timeout=30
        ) as client:

            async def streamed(text):
                pieces = []
                async for chunk in await client.chat.completions.create(
                    model=CHAT, messages=messages(text), stream=True
                ):
                    pieces += [choice.delta.content or "" for choice in chunk.choices]
                return "".join(pieces)

            texts = [f"caller number {index}" for index in range(30)]
            return texts, await asyncio.gather(*(streamed(text) for text in texts))

    texts, answers = asyncio.run(talk())
    assert all(text in answer for text, answer in zip(texts, answers, strict=True))


def test_raw_response_headers(client):
    raw = client.chat.completions.with_raw_response.create(
        model=CHAT, messages=messages(), extra_headers={"x-request-id": "mine-20"}
    )
    assert raw.headers["x-request-id"] == "mine-20"
    assert raw.parse().choices


def test_unknown_model(client):
    for call in (
        lambda: client.chat.completions.create(model="nothing", messages=messages()),
        lambda: client.completions.create(model="nothing", prompt="a"),
        lambda: client.embeddings.create(model="nothing", input="a"),
        lambda: client.models.retrieve("nothing"),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            call()
        assert caught.value.code == "model_not_found"
        assert caught.value.type == "invalid_request_error"
        assert "nothing" in caught.value.message
        assert caught.value.request_id


@pytest.mark.parametrize(
    ("call", "param"),
    [
        (lambda client: client.chat.completions.create(model=CHAT, messages="text"), "messages"),
        (lambda client: client.chat.completions.create(model=CHAT, messages=[]), "messages"),
        (lambda client: client.embeddings.create(model=EMBEDDINGS, input=[]), "input"),
        (lambda client: client.embeddings.create(model=EMBEDDINGS, input={"a": 1}), "input"),
        (
            lambda client: client.embeddings.create(
                model=EMBEDDINGS, input="a", encoding_format="hexadecimal"
            ),
            "encoding_format",
        ),
    ],
)
def test_bad_requests_name_the_parameter(client, call, param):
    with pytest.raises(openai.BadRequestError) as caught:
        call(client)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


def test_unknown_fields_do_not_disturb(client):
    reply = client.chat.completions.create(
        model=CHAT, messages=messages(), extra_body={"field_of_another_server": {"deep": [1, 2]}}
    )
    assert SENTENCE in reply.choices[0].message.content
