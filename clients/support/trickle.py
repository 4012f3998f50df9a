"""An OpenAI server and a caller on raw sockets, which write one byte at a time."""

import asyncio
import json
import queue
import socket
import threading

MODEL = "trickle"
MODELS = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode()


def head(status="200 OK", **headers):
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def with_length(body, content_type):
    return head(content_type=content_type, content_length=len(body)) + body


def chunked(body, content_type, size):
    """Chunks of `size` bytes, each size in capitals with leading zeros, which HTTP allows."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    framed = b"".join(b"%04X\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return head(content_type=content_type, transfer_encoding="chunked") + framed + b"0\r\n\r\n"


def until_closed(body, content_type):
    return head(content_type=content_type, connection="close") + body


FRAMINGS = {
    "content-length": with_length,
    "chunks-of-one": lambda body, content_type: chunked(body, content_type, 1),
    "chunks-of-many": lambda body, content_type: chunked(body, content_type, 1000),
    "until-closed": until_closed,
}


async def send_in_pieces(writer, data, size=1):
    """Hands over each piece by itself; without Nagle's algorithm each becomes a segment."""
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for start in range(0, len(data), size):
        writer.write(data[start : start + size])
        await writer.drain()
        await asyncio.sleep(0)


async def read_message(reader):
    """The head and the body of one HTTP message whose body has a length, chunks or no end but the connection's."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if "content-length" in headers:
        return lines[0], headers, await reader.readexactly(int(headers["content-length"]))
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
        return lines[0], headers, body
    return lines[0], headers, b"" if lines[0].startswith("GET") else await reader.read()


class TrickleServer:
    """Answers each POST with what `reply` was given next; `requests` holds the bodies that came."""

    def __init__(self):
        self.replies = queue.Queue()
        self.requests = queue.Queue()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self.thread.start()
        assert self.ready.wait(10)

    async def _serve(self):
        self.loop, self.stopping = asyncio.get_running_loop(), asyncio.Event()
        self.connections = set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.http = "127.0.0.1:%d" % server.sockets[0].getsockname()[1]
        self.ready.set()
        await self.stopping.wait()
        server.close()
        for connection in tuple(self.connections):
            connection.cancel()
        await asyncio.gather(*self.connections, return_exceptions=True)

    async def _accept(self, reader, writer):
        task = asyncio.current_task()
        self.connections.add(task)
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.connections.discard(task)
            writer.close()

    async def _answer(self, reader, writer):
        """Whether the connection goes on."""
        first, _, body = await read_message(reader)
        if first.startswith("GET"):
            known = first.split()[1] == "/v1/models"
            found = with_length(MODELS, "application/json") if known else head("404 Not Found", content_length=0)
            writer.write(found)
            await writer.drain()
            return True
        self.requests.put(body)
        reply, size = self.replies.get_nowait()
        await send_in_pieces(writer, reply, size)
        return b"connection: close" not in reply

    def reply(self, message, size=1):
        """The next answer, sent in pieces of `size` bytes."""
        self.replies.put((message, size))

    def asked(self):
        return self.requests.get(timeout=5)

    def stop(self):
        self.loop.call_soon_threadsafe(self.stopping.set)
        self.thread.join()


def call_bytewise(address, path, body, in_chunks=False):
    """POSTs `body` one byte at a time; the status line, the headers and the body of the reply."""

    async def call():
        host, port = address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        request = f"POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n"
        if in_chunks:
            framed = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
            data = f"{request}transfer-encoding: chunked\r\n\r\n".encode() + framed
        else:
            data = f"{request}content-length: {len(body)}\r\n\r\n".encode() + body
        try:
            await send_in_pieces(writer, data)
            return await asyncio.wait_for(read_message(reader), 60)
        finally:
            writer.close()

    return asyncio.run(call())
