"""Streams through the proxy: each event arrives before the next one is sent, and a lost reader is passed on."""

import functools
import http.client
import json

import openai
import pytest

from support.gated_openai import END, MODEL, GatedOpenAI, event
from support.processes import wait_until

MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture
def upstream():
    server = GatedOpenAI()
    yield server
    server.stop()


@pytest.fixture
def proxy(upstream, start_batchwise):
    return start_batchwise(
        f"""
        [[model]]
        name = "{MODEL}"
        protocol = "openai"
        instances = ["http://{upstream.http}"]
        """
    )


@pytest.fixture
def client(proxy):
    with openai.OpenAI(
        base_url=f"http://{proxy.http}/v1", api_key="any", max_retries=0, timeout=20
    ) as client:
        yield client


def test_each_event_arrives_before_the_next_is_sent(upstream, client):
    words = [f"word-{index} " for index in range(20)]
    upstream.send(event(words[0]))
    received = []
    with client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True) as stream:
        for chunk in stream:
            received.append(chunk.choices[0].delta.content)
            upstream.send(event(words[len(received)]) if len(received) < len(words) else END)
    assert received == words


def test_the_body_goes_through_byte_for_byte(upstream, proxy):
    # Odd spacing, an unknown field, a number that no float holds, an escaped letter: all survive.
    body = (
        '{ "model":"%s",  "stream":true, "x_unknown": {"big": 12345678901234567890123, "e": 1E2},'
        ' "messages": [{"role":"user","content":"h\\u00e9llo"}] }'
    ) % MODEL
    raw = event("as is").replace(b'"created": 1', b'"created":   1.0e0')
    upstream.send(raw)
    upstream.send(END)
    connection = http.client.HTTPConnection(proxy.http, timeout=20)
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    answer = connection.getresponse().read()
    connection.close()
    assert upstream.requests.get(timeout=10) == body.encode()
    assert answer == raw + b"data: [DONE]\n\n"


def test_a_reader_that_leaves_cancels_the_call_to_the_model_server(upstream, client):
    upstream.send(event("first "))
    with client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True) as stream:
        assert next(iter(stream)).choices[0].delta.content == "first "
    assert upstream.reader_left.wait(20)


def test_usage_and_unknown_fields_of_events_survive(upstream, proxy):
    extra = json.dumps({"id": "1", "choices": [], "usage": {"x_cached": 3}, "x_new": [1, None]})
    upstream.send(b": a comment\n\n")
    upstream.send(f"event: odd\ndata: {extra}\n\n".encode())
    upstream.send(END)
    connection = http.client.HTTPConnection(proxy.http, timeout=20)
    body = json.dumps({"model": MODEL, "messages": MESSAGES, "stream": True})
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    answer = connection.getresponse().read().decode()
    connection.close()
    assert f"event: odd\ndata: {extra}\n\n" in answer


def test_comments_keep_a_silent_stream_open_and_no_client_minds(upstream, start_batchwise):
    proxy = start_batchwise(
        f"""
        [[model]]
        name = "{MODEL}"
        protocol = "openai"
        instances = ["http://{upstream.http}"]
        stream_heartbeat = "20ms"
        """
    )
    body = json.dumps({"model": MODEL, "messages": MESSAGES, "stream": True})
    connection = http.client.HTTPConnection(proxy.http, timeout=20)
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    answer = connection.getresponse()
    # Nothing was sent yet, and still something comes.
    assert answer.readline() == b": keep-alive\n"
    connection.close()
    assert upstream.reader_left.wait(20)
    upstream.reader_left.clear()
    with openai.OpenAI(base_url=f"http://{proxy.http}/v1", api_key="any", max_retries=0, timeout=20) as client:
        upstream.send(event("first "))
        with client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True) as stream:
            chunks = iter(stream)
            assert next(chunks).choices[0].delta.content == "first "
            upstream.send(event("second"))
            upstream.send(END)
            assert [chunk.choices[0].delta.content for chunk in chunks] == ["second"]


def test_a_server_that_falls_silent_within_an_event_raises_an_error_of_the_api(upstream, start_batchwise):
    proxy = start_batchwise(
        f"""
        [[model]]
        name = "{MODEL}"
        protocol = "openai"
        instances = ["http://{upstream.http}"]
        stream_idle_timeout = "300ms"
        """
    )
    whole, half = event("whole"), event("half")[:40]
    upstream.send(whole + half)
    with openai.OpenAI(base_url=f"http://{proxy.http}/v1", api_key="any", max_retries=0, timeout=20) as client:
        with client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True) as stream:
            chunks = iter(stream)
            assert next(chunks).choices[0].delta.content == "whole"
            with pytest.raises(openai.APIError) as caught:
                next(chunks)
    assert caught.value.code == "upstream_error"
    assert "nothing came for 300 ms" in caught.value.message
    assert upstream.reader_left.wait(20)


def test_usage_that_only_the_proxy_asks_for_is_counted_and_not_shown(upstream, start_batchwise):
    proxy = start_batchwise(
        f"""
        [[model]]
        name = "{MODEL}"
        protocol = "openai"
        instances = ["http://{upstream.http}"]
        stream_usage = true
        """
    )
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    first = event("only")
    told = json.dumps({"id": "chatcmpl-1", "choices": [], "usage": usage})
    upstream.send(first.replace(b"}\n\n", b', "usage": null}\n\n'))
    upstream.send(f"data: {told}\n\n".encode())
    upstream.send(END)
    body = {"model": MODEL, "messages": MESSAGES, "stream": True}
    connection = http.client.HTTPConnection(proxy.http, timeout=20)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    assert connection.getresponse().read() == first + b"data: [DONE]\n\n"
    connection.close()
    asked = json.loads(upstream.requests.get(timeout=10))
    assert asked == {**body, "stream_options": {"include_usage": True}}
    total = functools.partial(proxy.total, "batchwise_tokens_total", model=MODEL)
    wait_until(lambda: total(direction="prompt") == 3, "the prompt is counted")
    wait_until(lambda: total(direction="completion") == 4, "the answer is counted")
