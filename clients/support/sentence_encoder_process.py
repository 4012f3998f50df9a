"""The embedding server of sentence_encoder.py as a process of its own."""

import json
import os
import pathlib
import sys
import urllib.request

from .batchwise import REPOSITORY, http_status
from .processes import Process, free_ports

PROGRAM = pathlib.Path(__file__).with_name("sentence_encoder.py")
MODEL = "paraphrase-MiniLM-L3-v2"
LARGEST = 32


class SentenceEncoder:
    """A running encoder; `flags` are those of its command line."""

    def __init__(self, directory, *flags):
        model = os.environ.get("EMBEDDING_MODEL_PACKAGES", REPOSITORY / "target" / "clients-embedding-model")
        [port] = free_ports(1)
        self.http = f"127.0.0.1:{port}"
        self.process = Process(
            [sys.executable, PROGRAM, "--model", model, "--port", port, *flags],
            pathlib.Path(directory) / f"sentence-encoder-{port}.log",
            {"PYTHONDONTWRITEBYTECODE": "1"},
        )
        self.process.wait_ready(lambda: http_status(f"http://{self.http}/health") == 200)

    def statistics(self):
        """How many calls, executions, texts and tokens it has seen."""
        with urllib.request.urlopen(f"http://{self.http}/statistics", timeout=10) as response:
            return json.load(response)

    def stop(self):
        self.process.stop()
