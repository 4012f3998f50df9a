"""The project's own model server (`y = 2x + 1`, a known service time), as a process of its own."""

import json
import pathlib
import urllib.request

from .batchwise import program
from .processes import Process

MODEL = "linear"
CHAT = "chat"


class ModelServer:
    """A running `model_server`; options are those of its command line."""

    def __init__(self, directory, **options):
        arguments = ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]
        for name, value in options.items():
            arguments += ["--" + name.replace("_", "-"), str(value)]
        log = pathlib.Path(directory) / f"model-server-{id(self)}.log"
        self.process = Process([program("MODEL_SERVER_BIN", "debug/examples/model_server"), *arguments], log)
        self.process.wait_ready(lambda: self.process.log().endswith("\n"))
        addresses = json.loads(self.process.log().splitlines()[0])
        self.grpc, self.http = addresses["grpc"], addresses["http"]

    def statistics(self):
        """What it has seen so far; `rows` are those of the batches executed or under way."""
        with urllib.request.urlopen(f"http://{self.http}/statistics", timeout=5) as response:
            return json.load(response)

    def control(self, **settings):
        """Changes how it behaves: `fail="next:3"` and whatever else `GET /control` shows."""
        body = json.dumps(settings).encode()
        request = urllib.request.Request(f"http://{self.http}/control", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=5) as response:
            return json.load(response)

    def stop(self):
        self.process.stop()
