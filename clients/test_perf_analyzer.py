"""NVIDIA's perf_analyzer measures batchwise as it measures Triton."""

import json

import pytest

from support import perf_analyzer
from support.digits import MODEL
from support.models import CHAT

WINDOW = ["--measurement-mode", "count_windows", "--measurement-request-count", 100]
WINDOW += ["--measurement-interval", 1000, "--stability-percentage", 999, "--max-trials", 3]


@pytest.mark.parametrize(
    ("protocol", "options"),
    [
        pytest.param("grpc", [], id="grpc"),
        pytest.param("http", [], id="http"),
        pytest.param("grpc", ["--streaming"], id="grpc streaming"),
        pytest.param("grpc", ["--async"], id="grpc asynchronous"),
        pytest.param("grpc", ["-b", 4], id="grpc with four rows a call"),
        pytest.param("grpc", ["--grpc-compression-algorithm", "gzip"], id="grpc gzip"),
    ],
)
def test_closed_loop(batchwise, tmp_path, protocol, options):
    address = batchwise.grpc if protocol == "grpc" else batchwise.http
    text, rows = perf_analyzer.run(
        *["-m", MODEL, "-i", protocol, "-u", address, "--concurrency-range", 4],
        *WINDOW,
        *options,
        report=tmp_path / "report.csv",
    )
    assert float(rows[0]["Inferences/Second"]) > 0
    assert "Failed" not in text, text
    # The server's own statistics are part of its report.
    assert "Inference count" in text


def test_open_loop_with_poisson_arrivals(batchwise, tmp_path):
    _, rows = perf_analyzer.run(
        *["-m", MODEL, "-i", "grpc", "-u", batchwise.grpc],
        *["--request-rate-range", 200, "--request-distribution", "poisson"],
        *WINDOW,
        report=tmp_path / "report.csv",
    )
    assert float(rows[0]["Inferences/Second"]) > 100


def test_openai_chat(batchwise, tmp_path):
    body = {"model": CHAT, "messages": [{"role": "user", "content": "a few words"}]}
    data = tmp_path / "input.json"
    data.write_text(json.dumps({"data": [{"payload": [body]}]}))
    _, rows = perf_analyzer.run(
        *["-m", CHAT, "--service-kind", "openai", "--endpoint", "v1/chat/completions"],
        *["-u", batchwise.http, "--input-data", data, "--concurrency-range", 4, "--async"],
        *WINDOW,
        report=tmp_path / "report.csv",
    )
    assert float(rows[0]["Inferences/Second"]) > 0
