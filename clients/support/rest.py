"""JSON over plain HTTP, as a caller without a client library speaks it."""

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.message import Message


@dataclass
class Reply:
    status: int
    headers: Message
    body: bytes

    def json(self):
        return json.loads(self.body)


def post(address, path, **fields):
    """The reply to a POST of `fields` as a JSON object, whatever its status."""
    request = urllib.request.Request(
        f"http://{address}{path}", json.dumps(fields).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return Reply(response.status, response.headers, response.read())
    except urllib.error.HTTPError as error:
        return Reply(error.code, error.headers, error.read())
