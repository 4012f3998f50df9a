"""The curl program, and what it got."""

import dataclasses
import json
import subprocess


@dataclasses.dataclass
class Reply:
    status: int
    headers: dict
    body: bytes

    def json(self):
        return json.loads(self.body)


def curl(url, *arguments, body=None):
    """Runs curl on `url`; `body` (text or bytes) is sent as JSON unless `arguments` say otherwise."""
    command = ["curl", "--silent", "--show-error", "--include", "--http1.1", "--max-time", "30"]
    # An `Expect: 100-continue` of a large body would put a second head into the output.
    command += ["--header", "expect:", *arguments]
    if body is not None:
        command += ["--header", "content-type: application/json", "--data-binary", "@-"]
        body = body.encode() if isinstance(body, str) else body
    done = subprocess.run([*command, url], input=body or b"", capture_output=True, timeout=60)
    head, separator, content = done.stdout.partition(b"\r\n\r\n")
    # A server may refuse a large body before it has read it all; curl then reports the reset after the reply.
    assert separator, f"curl exit {done.returncode}: {done.stderr.decode()}"
    first, *lines = head.decode().split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return Reply(int(first.split()[1]), headers, content)
