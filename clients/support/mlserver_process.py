"""Seldon's MLServer with the custom runtime of mlserver_models/."""

import pathlib
import sys
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from .batchwise import http_status
from .processes import Process, free_ports

MODELS = pathlib.Path(__file__).resolve().parents[1] / "mlserver_models"
MODEL = "affine"


class MLServer:
    """A running `mlserver start`."""

    def __init__(self, directory):
        http, grpc, metrics = free_ports(3)
        self.http, self.grpc = f"127.0.0.1:{http}", f"127.0.0.1:{grpc}"
        self.metrics_url = f"http://127.0.0.1:{metrics}/metrics"
        self.process = Process(
            [pathlib.Path(sys.prefix) / "bin" / "mlserver", "start", MODELS],
            pathlib.Path(directory) / "mlserver.log",
            {
                "MLSERVER_HTTP_PORT": str(http),
                "MLSERVER_GRPC_PORT": str(grpc),
                "MLSERVER_METRICS_PORT": str(metrics),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            directory,
        )
        self.process.wait_ready(
            lambda: http_status(f"http://{self.http}/v2/models/{MODEL}/ready") == 200
        )

    def executions_and_rows(self):
        """How often the model ran and how many rows it saw, from MLServer's own metrics."""
        with urllib.request.urlopen(self.metrics_url, timeout=10) as response:
            text = response.read().decode()
        samples = {
            sample.name: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name.startswith("affine_rows_") and "le" not in sample.labels
        }
        return samples.get("affine_rows_count", 0), samples.get("affine_rows_sum", 0)

    def stop(self):
        self.process.stop()
