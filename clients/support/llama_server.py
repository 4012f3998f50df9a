"""llama.cpp's own server with a small language model, compiled by scripts/lib/clients-environment."""

import os
import pathlib
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from .batchwise import REPOSITORY, http_status
from .processes import Process, free_ports

MODEL = "gemma-3-270m"
SLOTS = 4
CONTEXT_TOKENS_PER_SLOT = 512
# How the kernel's table of connections writes the state in which only the other side has closed.
CLOSE_WAIT = "08"


class LlamaServer:
    """A running `llama-server`; `flags` are added to those of every one."""

    def __init__(self, directory, *flags):
        built = REPOSITORY / "target" / "clients-llama-server" / "llama-server"
        model = REPOSITORY / "target" / "clients-language-model" / "model.gguf"
        [port] = free_ports(1)
        self.http = f"127.0.0.1:{port}"
        self.process = Process(
            [os.environ.get("LLAMA_SERVER_BIN", built), "--model", os.environ.get("LANGUAGE_MODEL", model)]
            + ["--alias", MODEL, "--host", "127.0.0.1", "--port", port, "--metrics", "--offline"]
            # One thread: two wait for each other actively, which costs more than it brings where others use the processors.
            + ["--parallel", SLOTS, "--ctx-size", SLOTS * CONTEXT_TOKENS_PER_SLOT, "--threads", 1]
            # It looks at its queue between two batches: small ones, or a long prompt would make it deaf for seconds.
            + ["--batch-size", 64, "--ubatch-size", 64, *flags],
            pathlib.Path(directory) / f"llama-server-{port}.log",
        )
        self.process.wait_ready(lambda: http_status(f"http://{self.http}/health") == 200, 120)

    def gauges(self):
        """(requests that it works on, requests that wait inside it), as it publishes them."""
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=30) as response:
            text = response.read().decode()
        samples = {
            sample.name: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        return samples["llamacpp:requests_processing"], samples["llamacpp:requests_deferred"]

    def running(self):
        return self.gauges()[0]

    def idle(self):
        return self.gauges() == (0, 0)

    def has_lost_a_caller(self):
        """Whether somebody hung up whom it has not noticed yet, or it is idle."""
        port = f":{int(self.http.rpartition(':')[2]):04X}"
        table = pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]
        lines = [line.split() for line in table]
        return any(line[1].endswith(port) and line[3] == CLOSE_WAIT for line in lines) or self.idle()

    def stop(self):
        self.process.stop()


def embedding_server(directory):
    """One that gives embeddings: the mean over the tokens of a text, all slots' texts in one batch.

    Without a unified cache its vectors of a text alone and in company are 0.15 apart by cosine.
    """
    batches = ["--batch-size", 512, "--ubatch-size", 512]
    return LlamaServer(directory, "--embeddings", "--pooling", "mean", "--kv-unified", *batches)
