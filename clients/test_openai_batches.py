"""The Batch API with the official openai package for Python, unmodified: files in, batches run, files out."""

import io
import json
import os

import openai
import pytest

from support.model_server import ModelServer
from support.models import CHAT, EMBEDDINGS
from support.processes import wait_until

MODELS = f"""
    [[model]]
    name = "{EMBEDDINGS}"
    protocol = "embedded"
    instances = ["embedding"]

    [[model]]
    name = "{CHAT}"
    protocol = "embedded"
    instances = ["echo"]
"""


def batch_api(directory):
    return f'[batch_api]\ndirectory = "{directory}"\nmax_file_bytes = "10MB"\n'


@pytest.fixture
def office(start_batchwise, tmp_path):
    return start_batchwise(batch_api(tmp_path / "kept") + MODELS)


def client_of(server, api_key="any"):
    return openai.OpenAI(base_url=f"http://{server.http}/v1", api_key=api_key, max_retries=0, timeout=30)


@pytest.fixture
def client(office):
    with client_of(office) as client:
        yield client


def lines(url, bodies):
    requests = (
        {"custom_id": f"line-{index}", "method": "POST", "url": url, "body": body}
        for index, body in enumerate(bodies)
    )
    return "".join(json.dumps(request) + "\n" for request in requests).encode()


def embedding_lines(count, model=EMBEDDINGS):
    return lines("/v1/embeddings", ({"model": model, "input": f"text {index}"} for index in range(count)))


def create(client, content, endpoint="/v1/embeddings", **more):
    file = client.files.create(file=("input.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more
    )


def ended(client, batch):
    finals = {"completed", "failed", "expired", "cancelled"}

    def seen():
        batch_now = client.batches.retrieve(batch.id)
        return batch_now if batch_now.status in finals else None

    return wait_until(seen, f"{batch.id} ends")


def read(client, file_id):
    """The lines of a file by their custom ids."""
    by_id = {}
    for line in client.files.content(file_id).text.splitlines():
        line = json.loads(line)
        assert line["custom_id"] not in by_id
        by_id[line["custom_id"]] = line
    return by_id


def test_a_batch_of_embeddings(client, office):
    batch = create(client, embedding_lines(200), metadata={"team": "a"})
    assert (batch.object, batch.status in {"validating", "in_progress"}) == ("batch", True)
    done = ended(client, batch)
    assert done.status == "completed", done.errors
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (200, 200, 0)
    assert (done.metadata, done.model, done.error_file_id) == ({"team": "a"}, EMBEDDINGS, None)
    assert done.usage.input_tokens == done.usage.total_tokens > 0
    assert done.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at < done.expires_at
    answers = read(client, done.output_file_id)
    assert len(answers) == 200
    live = client.embeddings.create(model=EMBEDDINGS, input="text 7", encoding_format="float")
    assert answers["line-7"]["response"]["body"]["data"][0]["embedding"] == live.data[0].embedding
    assert office.total("batchwise_batch_api_lines_total", outcome="completed") == 200
    assert office.status()["batch_api"]["batches"] == {"completed": 1}


def test_a_batch_of_chats(client):
    bodies = [
        {"model": CHAT, "messages": [{"role": "user", "content": f"say {index}"}]} for index in range(20)
    ]
    done = ended(client, create(client, lines("/v1/chat/completions", bodies), "/v1/chat/completions"))
    assert done.status == "completed", done.errors
    for index in range(20):
        response = read(client, done.output_file_id)[f"line-{index}"]["response"]
        reply = openai.types.chat.ChatCompletion.model_validate(response["body"])
        assert (response["status_code"], reply.choices[0].message.content) == (200, f"say {index}")


def test_what_is_wrong_with_an_input_is_told_by_line(client):
    content = embedding_lines(1) + b"{no json\n" + embedding_lines(1)
    failed = ended(client, create(client, content))
    assert failed.status == "failed" and failed.failed_at
    told = [(error.code, error.line) for error in failed.errors.data]
    assert told == [("invalid_json_line", 2), ("duplicate_custom_id", 3)]


def test_one_wrong_line_does_not_hurt_the_others(client):
    bodies = [{"model": EMBEDDINGS, "input": "fine"}, {"model": EMBEDDINGS}, {"model": EMBEDDINGS, "input": []}]
    done = ended(client, create(client, lines("/v1/embeddings", bodies)))
    assert (done.request_counts.completed, done.request_counts.failed) == (1, 2)
    for line in read(client, done.error_file_id).values():
        error = line["response"]["body"]["error"]
        assert line["response"]["status_code"] == 400 and error["param"] == "input"


def test_files(client):
    content = os.urandom(3_000_000)
    file = client.files.create(
        file=("any.bin", io.BytesIO(content)), purpose="batch", expires_after={"anchor": "created_at", "seconds": 7200}
    )
    assert (file.bytes, file.filename, file.purpose, file.object) == (3_000_000, "any.bin", "batch", "file")
    assert file.expires_at == file.created_at + 7200
    assert client.files.wait_for_processing(file.id).status == "processed"
    assert client.files.content(file.id).read() == content
    others = [client.files.create(file=("x.jsonl", b"x"), purpose="batch").id for _ in range(5)]
    # The client asks for page after page by itself.
    assert [each.id for each in client.files.list(limit=2)] == [*reversed(others), file.id]
    assert [each.id for each in client.files.list(limit=2, order="asc")] == [file.id, *others]
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    with pytest.raises(openai.APIStatusError) as refused:
        client.files.create(file=("large.jsonl", bytes(10_000_001)), purpose="batch")
    assert refused.value.status_code == 413
    with pytest.raises(openai.BadRequestError):
        client.files.create(file=("x.jsonl", b"x"), purpose="fine-tune")


def test_batches_are_listed_page_by_page(client):
    batches = [create(client, embedding_lines(1)).id for _ in range(5)]
    assert [batch.id for batch in client.batches.list(limit=2)] == batches[::-1]
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_of_nobody")


def test_cancel(start_batchwise, tmp_path):
    server = ModelServer(tmp_path, a="20ms", max_batch=1)
    try:
        office = start_batchwise(
            batch_api(tmp_path / "kept")
            + f'[[model]]\nname = "embed"\nprotocol = "openai"\ninstances = ["http://{server.http}"]\nmax_batch_size = 1\n'
        )
        with client_of(office) as client:
            batch = create(client, embedding_lines(5000, "embed"))
            wait_until(lambda: client.batches.retrieve(batch.id).request_counts.completed > 3, "some lines")
            assert client.batches.cancel(batch.id).status in {"cancelling", "cancelled"}
            done = ended(client, batch)
            assert (done.status, done.request_counts.total) == ("cancelled", 5000)
            assert len(read(client, done.output_file_id)) == done.request_counts.completed < 5000
            with pytest.raises(openai.BadRequestError):
                client.batches.cancel(batch.id)
    finally:
        server.stop()


def test_what_somebody_else_has_is_not_there(office, client):
    batch = create(client, embedding_lines(1))
    with client_of(office, "another key") as other:
        with pytest.raises(openai.NotFoundError):
            other.batches.retrieve(batch.id)
        with pytest.raises(openai.NotFoundError):
            other.files.content(batch.input_file_id)
        assert list(other.files.list()) == [] == list(other.batches.list())


def test_it_is_off_unless_switched_on(batchwise):
    with client_of(batchwise) as client, pytest.raises(openai.NotFoundError, match="batch_api"):
        client.files.list()
