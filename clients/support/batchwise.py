"""The program under test, started as a user starts it."""

import json
import os
import pathlib
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from .processes import Process, free_ports

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
START_ATTEMPTS = 3


def program(variable="BATCHWISE_BIN", default="release/batchwise"):
    """The path of a binary of this project: what the environment variable says, else the one below target/."""
    found = pathlib.Path(os.environ.get(variable, REPOSITORY / "target" / default)).resolve()
    if not found.exists():
        raise FileNotFoundError(f"{found} is not built: `scripts/test build` does it")
    return found


def http_status(url):
    """The status of a GET, or None when nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


class Batchwise:
    """A running `batchwise serve` on ports of its own."""

    # What a test that cuts calls on purpose says instead.
    expected_exit_code = 0
    expected_complaints = 0

    def __init__(self, config, log_directory, directory=None, environment=None):
        """`config` None: it finds ./models.toml in `directory`, or goes by what is built in."""
        self.config = config
        flags = [] if config is None else ["--config", config]
        for attempt in range(START_ATTEMPTS):
            http, grpc, admin = free_ports(3)
            self.http, self.grpc, self.admin = (f"127.0.0.1:{port}" for port in (http, grpc, admin))
            self.process = Process(
                [program(), "serve", *flags, "--log-format", "json"]
                + ["--http", self.http, "--grpc", self.grpc, "--admin", self.admin],
                pathlib.Path(log_directory) / f"batchwise-{admin}.log",
                environment=environment,
                directory=directory,
            )
            try:
                self.process.wait_ready(lambda: http_status(f"http://{self.admin}/readyz") == 200)
                return
            except RuntimeError as error:
                # Another process may have taken a port between its choice and its use.
                if "in use" not in str(error) or attempt == START_ATTEMPTS - 1:
                    raise
            except TimeoutError:
                self.process.kill()
                raise

    def samples(self):
        """All metrics: (sample name, labels as a sorted tuple of pairs) -> value."""
        with urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=10) as response:
            text = response.read().decode()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def total(self, name, **labels):
        """The sum of a metric over all series that carry `labels`."""
        wanted = set(labels.items())
        return sum(
            value
            for (sample, pairs), value in self.samples().items()
            if sample == name and wanted <= set(pairs)
        )

    def status(self):
        with urllib.request.urlopen(f"http://{self.admin}/api/status", timeout=10) as response:
            return json.load(response)

    def post(self, route):
        """The status and the JSON body of a POST to the admin port."""
        request = urllib.request.Request(f"http://{self.admin}{route}", method="POST")
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def complaints(self):
        """Log lines that must not be there: errors and panics."""
        return [
            line
            for line in self.process.log().splitlines()
            if "panicked at" in line or '"level":"ERROR"' in line.replace(" ", "")
        ]

    def stop(self):
        """Ends the server with SIGTERM, unless it has ended; it must obey, and must not have complained."""
        code = self.process.stop()
        assert code == self.expected_exit_code, f"exit code {code}:\n{self.process.log()[-4000:]}"
        complaints = self.complaints()
        assert len(complaints) == self.expected_complaints, "\n".join(complaints[:20])
