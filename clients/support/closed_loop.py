"""A closed loop of embedding calls on raw sockets, by processes of its own: nothing is decoded, so that it is not what limits.

As a program: `closed_loop.py ADDRESS MODEL CALLERS SECONDS` prints a JSON object with the calls answered with 200, those
answered otherwise, and the seconds that they took.
"""

import asyncio
import json
import subprocess
import sys
import time

WORDS = ("batch", "queue", "request", "proxy", "model", "vector", "sentence", "number")


def request(address, model, index):
    """One text of eight words and a number: all of a length, each different."""
    text = " ".join(WORDS[(index + shift) % len(WORDS)] for shift in range(len(WORDS))) + f" {index:06d}"
    body = json.dumps({"model": model, "input": text, "encoding_format": "base64"})
    head = f"POST /v1/embeddings HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()


class Caller(asyncio.Protocol):
    """One connection that asks again as soon as it was answered, until the time is over."""

    def __init__(self, requests, until, done):
        self.requests, self.until, self.done = requests, until, done
        self.buffer, self.answered, self.failed, self.next = bytearray(), 0, 0, 0

    def connection_made(self, transport):
        self.transport = transport
        self.ask()

    def ask(self):
        if time.monotonic() >= self.until:
            self.transport.close()
            return
        self.transport.write(self.requests[self.next % len(self.requests)])
        self.next += 1

    def data_received(self, data):
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self.buffer[:end]).lower()
        length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        if len(self.buffer) < end + 4 + length:
            return
        self.answered += head.startswith(b"http/1.1 200")
        self.failed += not head.startswith(b"http/1.1 200")
        self.buffer.clear()
        self.ask()

    def connection_lost(self, error):
        if not self.done.done():
            self.done.set_result(None) if error is None else self.done.set_exception(error)


async def loop(address, model, callers, seconds):
    host, port = address.split(":")
    running = asyncio.get_running_loop()
    began = time.monotonic()
    made = []
    for caller in range(callers):
        requests = [request(address, model, 1000 * caller + index) for index in range(100)]
        done = running.create_future()
        _, protocol = await running.create_connection(
            lambda requests=requests, done=done: Caller(requests, began + seconds, done), host, int(port)
        )
        made.append(protocol)
    await asyncio.gather(*(protocol.done for protocol in made))
    return {
        "answered": sum(protocol.answered for protocol in made),
        "failed": sum(protocol.failed for protocol in made),
        "seconds": time.monotonic() - began,
    }


def calls_per_second(address, model, callers, seconds, processes=2):
    """Runs the loop in `processes` that share `callers`; fails when any call did."""
    arguments = [sys.executable, __file__, address, model, str(callers // processes), str(seconds)]
    children = [subprocess.Popen(arguments, stdout=subprocess.PIPE) for _ in range(processes)]
    reports = [json.loads(child.communicate(timeout=seconds + 60)[0]) for child in children]
    failed = sum(report["failed"] for report in reports)
    assert failed == 0, f"{failed} calls failed"
    return sum(report["answered"] / report["seconds"] for report in reports)


if __name__ == "__main__":
    address, model, callers, seconds = sys.argv[1:]
    print(json.dumps(asyncio.run(loop(address, model, int(callers), float(seconds)))))
