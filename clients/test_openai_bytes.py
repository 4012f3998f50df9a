"""Bodies and streams through the proxy equal the engine's byte for byte, however small the pieces in which they travel."""

import http.client
import json

import openai
import pytest

from support.trickle import FRAMINGS, MODEL, TrickleServer, call_bytewise

WORDS = ["naïve ", "日本語 ", "🦀🦀 ", "e\u0301 ", "end"]
MESSAGES = [{"role": "user", "content": "".join(WORDS)}]
ENDS = {"lf": "\n", "crlf": "\r\n"}
# Odd spacing, a key twice, a number that no float holds, raw and escaped letters, an end of line after the last brace.
ODD_JSON = (
    '{ "id":"chatcmpl-1" ,"object" : "chat.completion","created":1, "model":"%s", "x_big": 12345678901234567890123,\n'
    '\t"x_float": 1.0E+2, "x_twice": 1, "x_twice": 2, "choices":[{"index":0,"finish_reason":"stop", "message":'
    '{"role":"assistant","content":"na\\u00efve 日本語 🦀 \\ud83e\\udd80 \\/"}}] ,"usage":null}\r\n\n'
) % MODEL


def chunk(text, finish=None):
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}
    # Raw letters, so that an event has some of two, three and four bytes.
    fields = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": [choice]}
    return json.dumps(fields, ensure_ascii=False)


def plain(line):
    return "".join(f"data: {chunk(word)}{line}{line}" for word in WORDS) + f"data: [DONE]{line}{line}"


def no_space(line):
    return "".join(f"data:{chunk(word)}{line}{line}" for word in WORDS) + f"data:[DONE]{line}{line}"


def comments(line):
    between = f": a comment{line}:{line}{line}:another, 日本語{line}"
    return between + between.join(f"data: {chunk(word)}{line}{line}" for word in WORDS) + f"data: [DONE]{line}{line}"


def data_of_several_lines(line):
    """Line ends within the JSON text, where it allows them: the lines of one event are joined by the decoder."""

    def event(word):
        first, comma, rest = chunk(word).partition(", ")
        return f"data: {first}{comma}{line}data:{rest}{line}{line}"

    return "".join(event(word) for word in WORDS) + f"data: [DONE]{line}{line}"


def other_fields(line):
    events = [
        f"id: {index}{line}retry: 3000{line}x-unknown: 1{line}id{line}data: {chunk(word)}{line}{line}"
        for index, word in enumerate(WORDS)
    ]
    return "".join(events) + f"data: [DONE]{line}{line}"


SHAPES = [plain, no_space, comments, data_of_several_lines, other_fields]


@pytest.fixture(scope="module")
def upstream():
    server = TrickleServer()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def proxy(upstream, start_batchwise_for_module):
    return start_batchwise_for_module(
        f"""
        [[model]]
        name = "{MODEL}"
        protocol = "openai"
        instances = ["http://{upstream.http}"]
        """
    )


@pytest.fixture(scope="module")
def client(proxy):
    with openai.OpenAI(base_url=f"http://{proxy.http}/v1", api_key="any", max_retries=0, timeout=60) as client:
        yield client


def post(address, body):
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read()
    finally:
        connection.close()


def request(**fields):
    return json.dumps({"model": MODEL, "messages": MESSAGES, **fields}, ensure_ascii=False).encode()


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("line", ENDS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_a_stream_in_single_bytes(upstream, proxy, shape, line, framing):
    sent = shape(ENDS[line]).encode()
    upstream.reply(FRAMINGS[framing](sent, "text/event-stream; charset=utf-8"))
    status, headers, body = post(proxy.http, request(stream=True))
    assert status == 200
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert body == sent
    assert upstream.asked() == request(stream=True)


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_body_in_single_bytes(upstream, proxy, framing):
    upstream.reply(FRAMINGS[framing](ODD_JSON.encode(), "application/json"))
    status, headers, body = post(proxy.http, request())
    assert (status, headers["content-type"], body) == (200, "application/json", ODD_JSON.encode())
    assert upstream.asked() == request()


@pytest.mark.parametrize("line", ENDS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_the_official_client_reads_it(upstream, client, shape, line):
    upstream.reply(FRAMINGS["chunks-of-one"](shape(ENDS[line]).encode(), "text/event-stream"))
    chunks = list(client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True))
    assert [chunk.choices[0].delta.content for chunk in chunks] == WORDS
    upstream.asked()


@pytest.mark.parametrize("in_chunks", [False, True], ids=["content-length", "chunked"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_request_in_single_bytes(upstream, proxy, in_chunks, stream):
    sent = plain("\n").encode() if stream else ODD_JSON.encode()
    content_type = "text/event-stream" if stream else "application/json"
    upstream.reply(FRAMINGS["chunks-of-one"](sent, content_type))
    asked = b' \n{"x_unknown" : [1E2, "\\u00e9"],' + request(stream=stream)[1:] + b"\r\n "
    first, headers, body = call_bytewise(proxy.http, "/v1/chat/completions", asked, in_chunks)
    assert first == "HTTP/1.1 200 OK"
    assert headers["content-type"] == content_type
    assert body == sent
    assert upstream.asked() == asked


def test_a_refusal_in_single_bytes(upstream, client):
    text = '{"error":{"message":"zu lang, 日本語","type":"exceed_context_size_error","param":null,"code":400}}'
    reply = FRAMINGS["content-length"](text.encode(), "application/json")
    upstream.reply(reply.replace(b"200 OK", b"400 Bad Request", 1))
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert "zu lang, 日本語" in caught.value.message
    assert caught.value.type == "exceed_context_size_error"
    upstream.asked()


def test_an_event_of_half_a_megabyte_and_a_body_of_one(upstream, proxy):
    word = "日本語🦀" * 40_000
    for framing in ("content-length", "chunks-of-many"):
        sent = f"data: {chunk(word)}\n\ndata: [DONE]\n\n".encode()
        upstream.reply(FRAMINGS[framing](sent, "text/event-stream"), 1001)
        assert post(proxy.http, request(stream=True))[2] == sent
        sent = json.dumps({"choices": [{"message": {"content": word * 2}}]}, ensure_ascii=False).encode()
        upstream.reply(FRAMINGS[framing](sent, "application/json"), 1001)
        assert post(proxy.http, request())[2] == sent
