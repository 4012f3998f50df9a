"""What the official clients repeat by themselves, and when: counted by the model server behind the proxy."""

import asyncio
import time

import openai
import pytest

from support import javascript
from support.cutting_relay import CuttingRelay
from support.model_server import CHAT, ModelServer
from support.processes import wait_until

MESSAGES = [{"role": "user", "content": "hello"}]
# Nobody listens on the port of its only instance.
GONE = "gone"
WELL = {
    "fail": "never",
    "overload": "never",
    "stall": "never",
    "drop_connection": "never",
    "drop_moment": "at_once",
    "token_interval_ms": 0,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = ModelServer(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def proxy(server, start_batchwise_for_module):
    return start_batchwise_for_module(
        f"""
        [[model]]
        name = "{CHAT}"
        protocol = "openai"
        instances = ["http://{server.http}"]
        timeout = "700ms"

        [[model]]
        name = "{GONE}"
        protocol = "openai"
        instances = ["http://127.0.0.1:9"]
        """
    )


@pytest.fixture(autouse=True)
def well(server, proxy):
    """Each test begins with a server that is well and known to be."""
    server.control(**WELL)
    with client_of(proxy, 0) as client:

        def answers():
            try:
                return ask(client)
            except openai.InternalServerError:
                return None

        wait_until(answers, "the instance is used again")


def client_of(server, max_retries, cls=openai.OpenAI, timeout=30):
    return cls(base_url=f"http://{server.http}/v1", api_key="any", max_retries=max_retries, timeout=timeout)


def ask(client, stream=False):
    return client.chat.completions.create(model=CHAT, messages=MESSAGES, stream=stream)


class Attempts:
    """Counts the calls that reach the model server while the block runs."""

    def __init__(self, server):
        self.server = server

    def __enter__(self):
        self.before, self.began = self.server.statistics(), time.monotonic()
        return self

    def __exit__(self, *_):
        self.seconds = time.monotonic() - self.began
        self.calls = self.server.statistics()["calls"] - self.before["calls"]


def fault(status, retry_after=None):
    return {"grpc": 13, "http": status, "message": f"injected {status}", "retry_after": retry_after}


def checked(error, code=None):
    assert set(error.body) == {"message", "type", "param", "code"}
    assert error.code == code and error.message and error.request_id
    assert all(value is None or isinstance(value, str) for value in error.body.values())


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_429_is_repeated_after_the_time_that_it_says(server, proxy, stream):
    server.control(overload="next:1", overload_with=fault(429, retry_after=1))
    with client_of(proxy, 2) as client, Attempts(server) as attempts:
        reply = ask(client, stream)
        assert list(reply) if stream else reply.choices
    assert attempts.calls == 2
    # The client's own pause is half a second at most.
    assert attempts.seconds >= 1


def test_the_asynchronous_client_repeats_429_too(server, proxy):
    server.control(overload="next:1", overload_with=fault(429, retry_after=1))

    async def asked():
        async with client_of(proxy, 2, openai.AsyncOpenAI) as client:
            return await ask(client)

    with Attempts(server) as attempts:
        assert asyncio.run(asked()).choices
    assert attempts.calls == 2 and attempts.seconds >= 1


def test_429_that_does_not_end_is_a_rate_limit_error(server, proxy):
    server.control(overload="always", overload_with=fault(429, retry_after=1))
    with client_of(proxy, 1) as client, Attempts(server) as attempts:
        with pytest.raises(openai.RateLimitError) as caught:
            ask(client)
    assert attempts.calls == 2
    checked(caught.value)
    assert int(caught.value.response.headers["retry-after"]) >= 1
    assert int(caught.value.response.headers["retry-after-ms"]) > 0


def test_503_without_an_instance_is_repeated(proxy):
    with client_of(proxy, 1) as client, pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model=GONE, messages=MESSAGES)
    checked(caught.value, "no_capacity")
    headers = caught.value.response.headers
    assert caught.value.status_code == 503
    assert 0 < int(headers["retry-after-ms"]) <= 1000 * int(headers["retry-after"]) <= 60_000
    assert headers.get("x-should-retry") != "false"
    assert proxy.total("batchwise_requests_total", model=GONE) == 2


def test_a_connection_that_the_engine_cuts_is_repeated_by_one_of_the_two(server, proxy):
    server.control(drop_connection="next:1")
    with client_of(proxy, 4) as client, Attempts(server) as attempts:
        assert ask(client).choices
    assert attempts.calls == 2


def test_503_of_the_engine_is_repeated_after_the_time_that_it_says(server, proxy):
    server.control(fail="next:1", fail_with=fault(503, retry_after=1))
    with client_of(proxy, 4) as client, Attempts(server) as attempts:
        assert ask(client).choices
    assert attempts.calls == 2 and attempts.seconds >= 1


def test_500_is_repeated_and_then_an_internal_server_error(server, proxy):
    server.control(fail="always", fail_with=fault(500))
    with client_of(proxy, 1) as client, Attempts(server) as attempts:
        with pytest.raises(openai.InternalServerError) as caught:
            ask(client)
    assert attempts.calls == 2
    checked(caught.value)
    assert "injected 500" in caught.value.message


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (422, openai.UnprocessableEntityError),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_refusals_are_not_repeated(server, proxy, status, expected, stream):
    server.control(fail="always", fail_with=fault(status))
    with client_of(proxy, 2) as client, Attempts(server) as attempts:
        with pytest.raises(expected) as caught:
            ask(client, stream)
    assert attempts.calls == 1
    assert caught.value.status_code == status
    checked(caught.value)
    assert f"injected {status}" in caught.value.message


@pytest.mark.parametrize("status", [408, 409])
def test_what_the_clients_repeat_unasked_is_not_repeated_where_it_cannot_help(server, proxy, status):
    server.control(fail="always", fail_with=fault(status))
    with client_of(proxy, 2) as client, Attempts(server) as attempts:
        with pytest.raises(openai.APIStatusError) as caught:
            ask(client)
    assert attempts.calls == 1
    assert caught.value.response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_deadline_that_passed_is_not_repeated(server, proxy, stream):
    """A 504 is what the clients repeat, unless `x-should-retry: false` forbids it."""
    server.control(stall="always")
    before = server.statistics()["cancelled"]
    with client_of(proxy, 2) as client, Attempts(server) as attempts:
        with pytest.raises(openai.InternalServerError) as caught:
            ask(client, stream)
    assert attempts.calls == 1
    assert caught.value.status_code == 504
    checked(caught.value, "deadline_exceeded")
    wait_until(lambda: server.statistics()["cancelled"] > before, "the call is taken back", 1)


def test_a_connection_that_is_cut_before_the_headers_is_repeated(server, proxy):
    relay = CuttingRelay(proxy.http)
    try:
        relay.cuts = 1
        with client_of(relay, 0) as client, Attempts(server) as none, pytest.raises(openai.APIConnectionError):
            ask(client)
        relay.cuts = 1
        with client_of(relay, 2) as client, Attempts(server) as attempts:
            assert ask(client).choices
    finally:
        relay.stop()
    assert none.calls == 0 and attempts.calls == 1
    assert relay.connections == 3


def test_a_proxy_that_is_not_there_is_a_connection_error(proxy):
    with openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="any", max_retries=0) as client:
        with pytest.raises(openai.APIConnectionError):
            ask(client)


def test_a_stream_that_breaks_raises_and_is_not_repeated(server, proxy):
    server.control(drop_connection="always", drop_moment="mid_reply")
    with client_of(proxy, 2) as client, Attempts(server) as attempts:
        with ask(client, stream=True) as stream, pytest.raises(openai.APIError) as caught:
            list(stream)
    assert attempts.calls == 1
    assert caught.value.code == "upstream_error"


def test_a_caller_that_runs_out_of_time_takes_its_call_along(server, proxy):
    server.control(stall="always")
    before = server.statistics()["cancelled"]
    with client_of(proxy, 0, timeout=0.2) as client, pytest.raises(openai.APITimeoutError):
        ask(client)
    wait_until(lambda: server.statistics()["cancelled"] > before, "the call is taken back", 1)


def test_the_client_for_javascript(server, proxy):
    javascript.run("retries.test.mjs", proxy, SERVER_URL=f"http://{server.http}", CHAT_MODEL=CHAT, GONE_MODEL=GONE)
