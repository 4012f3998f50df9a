"""llama.cpp's server behind the proxy: what the official clients get is what it says itself, and its queue stays empty."""

import asyncio
import http.client
import json
import re
import threading
import time

import openai
import pytest

from support import javascript, rest
from support.llama_server import CONTEXT_TOKENS_PER_SLOT, MODEL, SLOTS, LlamaServer
from support.processes import wait_until

PROMPT = "Once upon a time"
MESSAGES = [{"role": "user", "content": "Tell me of the sea."}]
# The same words each time: no chance in sampling, nothing left over from an earlier prompt.
EXACTLY = {"temperature": 0, "seed": 7}
UNCACHED = {"cache_prompt": False}
TOKENS = 12


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    server = LlamaServer(tmp_path_factory.mktemp("llama"))
    yield server
    server.stop()


def configured(engine, more=""):
    return f"""
        [[model]]
        name = "{MODEL}"
        protocol = "openai"
        instances = ["http://{engine.http}"]
        {more}
        """


@pytest.fixture(scope="module")
def proxy(engine, start_batchwise_for_module):
    return start_batchwise_for_module(configured(engine))


def client_of(server, cls=openai.OpenAI, max_retries=0):
    return cls(base_url=f"http://{server.http}/v1", api_key="any", max_retries=max_retries, timeout=60)


@pytest.fixture(scope="module")
def client(proxy):
    with client_of(proxy) as client:
        yield client


def chat(client, **fields):
    return client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=TOKENS, extra_body=UNCACHED, **EXACTLY, **fields
    )


def complete(client, **fields):
    return client.completions.create(
        model=MODEL, prompt=PROMPT, max_tokens=TOKENS, extra_body=UNCACHED, **EXACTLY, **fields
    )


def text_of(chunks, of_choice):
    return "".join(of_choice(chunk.choices[0]) or "" for chunk in chunks if chunk.choices)


def test_it_is_found(client):
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL


def test_a_streamed_chat_says_what_the_whole_one_says(client):
    whole = chat(client)
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert whole.choices[0].message.content == text_of(chunks, lambda choice: choice.delta.content) != ""
    assert whole.usage.completion_tokens == chunks[-1].usage.completion_tokens == TOKENS
    assert whole.usage.prompt_tokens == chunks[-1].usage.prompt_tokens
    assert whole.choices[0].finish_reason == "length"
    assert len(chunks) >= TOKENS


def test_a_streamed_completion_says_what_the_whole_one_says(client):
    whole = complete(client)
    chunks = list(complete(client, stream=True))
    assert whole.choices[0].text == text_of(chunks, lambda choice: choice.text) != ""
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"


def test_the_asynchronous_client_gets_the_same(proxy, client):
    async def talk():
        async with client_of(proxy, openai.AsyncOpenAI) as client:
            whole = await chat(client)
            chunks = [chunk async for chunk in await chat(client, stream=True)]
            plain = await complete(client)
            return whole, chunks, plain

    whole, chunks, plain = asyncio.run(talk())
    assert whole.choices[0].message.content == text_of(chunks, lambda choice: choice.delta.content)
    assert whole.choices[0].message.content == chat(client).choices[0].message.content
    assert plain.choices[0].text == complete(client).choices[0].text


def test_the_client_for_javascript(engine, proxy):
    javascript.run("llama.test.mjs", proxy, ENGINE_URL=f"http://{engine.http}", CHAT_MODEL=MODEL)
    wait_until(engine.idle, "the engine is idle")


def sent(address, path, body):
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        reply = connection.getresponse()
        return reply.status, reply.headers["content-type"], reply.read()
    finally:
        connection.close()


def without_what_differs_by_call(body):
    """llama.cpp gives each call an id, the second it came in, and how long its parts took."""
    body = re.sub(rb'"id":"(chatcmpl|cmpl)-\w+"', b'"id":""', body)
    body = re.sub(rb'"created":\d+', b'"created":0', body)
    return re.sub(rb'"timings":\{[^{}]*\}', b'"timings":{}', body)


@pytest.mark.parametrize("usage", [None, True], ids=["", "with-usage"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_bytes_are_those_of_the_engine(engine, proxy, path, stream, usage):
    asked = {"messages": MESSAGES} if "chat" in path else {"prompt": PROMPT}
    body = {"model": MODEL, **asked, "max_tokens": TOKENS, "stream": stream, **EXACTLY, **UNCACHED}
    if stream and usage:
        body["stream_options"] = {"include_usage": True}
    direct, proxied = (sent(server.http, path, body) for server in (engine, proxy))
    assert direct[0] == proxied[0] == 200
    assert direct[1] == proxied[1]
    assert without_what_differs_by_call(direct[2]) == without_what_differs_by_call(proxied[2])
    # What is left out of the comparison is there.
    assert proxied[2].count(b'"created":') == direct[2].count(b'"created":') > 0
    assert b'"timings":{"' in proxied[2]


LONG = [{"role": "user", "content": "word " * 2 * CONTEXT_TOKENS_PER_SLOT}]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("fields", "type_", "says"),
    [
        ({"messages": LONG}, "exceed_context_size_error", "exceeds the available context size"),
        ({"messages": MESSAGES, "max_tokens": "many"}, "invalid_request_error", "max_tokens"),
        ({"messages": MESSAGES, "response_format": {"type": "song"}}, "invalid_request_error", "response_format"),
    ],
    ids=["context", "field", "form"],
)
def test_what_the_engine_refuses_arrives_as_an_error_of_the_api(engine, proxy, client, stream, fields, type_, says):
    body = {"model": MODEL, "stream": stream, **fields}
    direct, proxied = (rest.post(server.http, "/v1/chat/completions", **body) for server in (engine, proxy))
    error = proxied.json()["error"]
    assert proxied.status == direct.status == 400
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] == direct.json()["error"]["message"]
    assert error["type"] == type_ and says in error["message"]
    assert all(value is None or isinstance(value, str) for value in error.values())
    assert proxied.headers["x-batchwise-reason"] == "upstream_refused"
    extra = {key: value for key, value in fields.items() if key != "messages"}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=fields["messages"], stream=stream, extra_body=extra)
    assert caught.value.type == type_ and says in caught.value.message


class Sampler:
    """Asks the engine for its gauges over and over while the block runs."""

    def __init__(self, engine):
        self.engine, self.samples, self.done = engine, [], threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self.sample)
        self.thread.start()
        return self

    def sample(self):
        while not self.done.wait(0.05):
            self.samples.append(self.engine.gauges())

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()

    def mean(self, which):
        return sum(sample[which] for sample in self.samples) / len(self.samples)


def stream_from(server, callers, calls, tokens):
    """`callers` that stream one answer after the other and repeat nothing; how many tokens each got."""

    async def caller(client, name):
        pieces = 0
        for call in range(calls):
            stream = await client.completions.create(
                model=MODEL,
                prompt=f"{name} said in {call}:",
                max_tokens=tokens,
                stream=True,
                extra_body={"ignore_eos": True},
            )
            async for chunk in stream:
                pieces += bool(chunk.choices and chunk.choices[0].finish_reason is None)
        return pieces

    async def all_callers():
        async with client_of(server, openai.AsyncOpenAI, max_retries=0) as client:
            return await asyncio.gather(*(caller(client, f"Caller {index}") for index in range(callers)))

    return asyncio.run(all_callers())


def all_slots_work(engine, proxy, callers):
    with Sampler(engine) as wave:
        stream_from(proxy, callers, 1, 16)
    return max(running for running, _ in wave.samples) == SLOTS


def test_the_engines_own_queue_stays_empty_while_all_its_slots_work(engine, proxy):
    callers = 3 * SLOTS
    with Sampler(engine) as direct:
        stream_from(engine, callers, 1, 16)
    # The proxy learns how many streams the engine takes: it has to try one too many now and then.
    stream_from(proxy, callers, 1, 8)
    with Sampler(engine) as proxied:
        streamed = stream_from(proxy, callers, 2, 16)
    print(
        f"direct: {direct.mean(0):.2f} running, {direct.mean(1):.2f} deferred; "
        f"proxied: {proxied.mean(0):.2f} running, {proxied.mean(1):.2f} deferred"
    )
    assert min(streamed) > 0
    assert direct.mean(1) > 1
    assert proxied.mean(1) < 0.5
    assert proxied.mean(0) > 0.4 * SLOTS
    # What it has learned may be one slot too few for a while, but not for long.
    assert any(all_slots_work(engine, proxy, callers) for _ in range(6))
    wait_until(engine.idle, "the engine is idle")


def test_an_engine_that_closes_after_each_stream_is_not_lost(engine, start_batchwise):
    """llama.cpp ends the connection with each streamed reply though its head says that it keeps it."""
    proxy = start_batchwise(configured(engine))
    for _ in range(4):
        stream_from(proxy, 3 * SLOTS, 2, 3)
    assert proxy.total("batchwise_batch_failures_total") == 0


def open_call(address, body):
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    return connection


def endless(prompt=PROMPT, **fields):
    """A stream that keeps a slot for many seconds."""
    asked = {"model": MODEL, "prompt": prompt, "stream": True, "max_tokens": 400, "ignore_eos": True}
    return {**asked, **UNCACHED, **fields}


def nothing_under_way(proxy):
    return proxy.total("batchwise_instance_inflight") == proxy.total("batchwise_queue_depth") == 0


def seconds_until(condition, what, timeout_seconds):
    began = time.monotonic()
    wait_until(condition, what, timeout_seconds)
    return time.monotonic() - began


@pytest.fixture(scope="module")
def eager_proxy(engine, start_batchwise_for_module):
    """Sends the head of a stream and a comment before the engine has said anything."""
    return start_batchwise_for_module(configured(engine, 'stream_heartbeat = "50ms"'))


# A prompt that takes the engine several batches.
LONG_PROMPT = "word " * (CONTEXT_TOKENS_PER_SLOT - 100)


def test_a_reader_that_leaves_a_stream_frees_its_slot_at_once(engine, proxy):
    connection = open_call(proxy.http, endless())
    reply = connection.getresponse()
    assert [reply.readline()[:6] for _ in range(4)] == [b"data: ", b"\n", b"data: ", b"\n"]
    assert engine.running() == 1
    # A reply holds its connection open by itself.
    reply.close()
    connection.close()
    took = seconds_until(engine.idle, "the engine is idle", 10)
    print(f"idle {took:.3f} s after the close")
    assert took < 1
    wait_until(lambda: nothing_under_way(proxy), "the proxy counts nothing", 1)


@pytest.mark.parametrize("moment", ["before-headers", "before-first-token", "whole"])
def test_a_caller_that_leaves_before_the_first_token_is_passed_on(engine, proxy, eager_proxy, moment):
    """The proxy hangs up at once. The engine looks whether its caller is there when it has something to send, or when it
    has said nothing to anybody for a second, so how soon it stops is its own affair."""
    server = eager_proxy if moment == "before-first-token" else proxy
    body = endless(stream=False, max_tokens=60) if moment == "whole" else endless(LONG_PROMPT)
    connection = open_call(server.http, body)
    wait_until(lambda: server.total("batchwise_instance_inflight") == 1, "the call is under way")
    wait_until(lambda: engine.running() == 1, "the engine has begun")
    if moment == "before-first-token":
        reply = connection.getresponse()
        assert reply.readline() == b": keep-alive\n"
        reply.close()
    connection.close()
    hung_up = seconds_until(engine.has_lost_a_caller, "the proxy hangs up", 10)
    wait_until(lambda: nothing_under_way(server), "the proxy counts nothing", 1)
    took = hung_up + seconds_until(engine.idle, "the engine is idle", 30)
    print(f"{moment}: proxy hung up {hung_up:.3f} s and engine idle {took:.3f} s after the close")
    assert hung_up < 1


def test_callers_that_leave_the_queue_never_reach_the_engine(engine, start_batchwise):
    # What it learns of the engine may be one slot too few or too many for a while.
    proxy = start_batchwise(configured(engine, f"max_concurrency = {SLOTS}"))
    running = [open_call(proxy.http, endless()) for _ in range(SLOTS)]
    wait_until(lambda: engine.running() == SLOTS, "all slots work")
    waiting = [open_call(proxy.http, endless()) for _ in range(8)]
    wait_until(lambda: proxy.total("batchwise_queue_depth") >= 6, "calls wait")
    for connection in waiting:
        connection.close()
    left = seconds_until(lambda: proxy.total("batchwise_queue_depth") == 0, "nobody waits", 5)
    # Those who still read are served on.
    replies = [connection.getresponse() for connection in running]
    assert all(reply.readline().startswith(b"data: ") for reply in replies)
    for connection, reply in zip(running, replies, strict=True):
        reply.close()
        connection.close()
    took = seconds_until(engine.idle, "the engine is idle", 10)
    print(f"queue empty {left:.3f} s after the close of its callers, engine idle {took:.3f} s after the readers'")
    assert left < 1
    # One of those who waited may have been let into the engine to see whether it takes more; it is heard of at its turn.
    assert took < 2
