"""Triton's dynamic batcher and batchwise under the same load, in one run.

Both serve a model that takes 10 ms for a batch and 0.5 ms for every row, at most 32 rows, one batch at a time. perf_analyzer
sends one-row gRPC calls with Poisson arrivals at shares of the highest rate that such a model can bear, first to one, then to
the other, several times over. The table shows the median of the repetitions; a ratio below 1 means that batchwise is faster.

    scripts/compare-triton [--seconds 10] [--repetitions 3] [--shares 10,30,50,70,90]
"""

import argparse
import pathlib
import statistics
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from support import perf_analyzer  # noqa: E402
from support.batchwise import Batchwise  # noqa: E402
from support.model_server import MODEL, ModelServer  # noqa: E402
from support.triton_server import TritonServer  # noqa: E402

BATCH_SECONDS = 0.010
ROW_SECONDS = 0.0005
MAX_BATCH_ROWS = 32
HIGHEST_RATE = MAX_BATCH_ROWS / (BATCH_SECONDS + ROW_SECONDS * MAX_BATCH_ROWS)
QUANTILES = ("p50", "p99")


def measure(address, rate, seconds, report):
    """Sends `rate` calls a second for `seconds`; returns the quantiles of their latency in milliseconds."""
    _, rows = perf_analyzer.run(
        *["-m", MODEL, "-i", "grpc", "-u", address, "--async", "--shape", "x:4"],
        *["--request-rate-range", f"{rate:.0f}", "--request-distribution", "poisson"],
        *["--request-count", int(rate * seconds), "--max-threads", 2],
        report=report,
        timeout_seconds=seconds * 10 + 60,
    )
    return {name: float(rows[0][f"{name} latency"]) / 1000 for name in QUANTILES}


def compare(addresses, shares, seconds, repetitions, report):
    """Yields (share, rate, {server: {quantile: milliseconds}}); the servers take turns."""
    for address in addresses.values():
        measure(address, HIGHEST_RATE / 2, 2, report)
    for share in shares:
        rate = HIGHEST_RATE * share / 100
        found = {name: [] for name in addresses}
        for repetition in range(repetitions):
            names = list(addresses) if repetition % 2 == 0 else list(reversed(addresses))
            for name in names:
                found[name].append(measure(addresses[name], rate, seconds, report))
        medians = {
            name: {q: statistics.median(run[q] for run in runs) for q in QUANTILES}
            for name, runs in found.items()
        }
        yield share, rate, medians


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--shares", default="10,30,50,70,90", help="percent of the highest rate")
    arguments = parser.parse_args()
    shares = [float(share) for share in arguments.shares.split(",")]

    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        running = []
        try:
            models = pathlib.Path(__file__).with_name("triton_comparison")
            running.append(triton := TritonServer(directory, models))
            running.append(model_server := ModelServer(directory, a="10ms", b="0.5ms", max_batch=MAX_BATCH_ROWS))
            config = directory / "models.toml"
            config.write_text(
                f'[[model]]\nname = "{MODEL}"\nprotocol = "kserve-grpc"\n'
                f'instances = ["http://{model_server.grpc}"]\nmax_batch_size = {MAX_BATCH_ROWS}\n'
            )
            running.append(batchwise := Batchwise(config, directory))
            print(f"highest rate {HIGHEST_RATE:.0f} calls/s; {arguments.repetitions} runs of {arguments.seconds:g} s each")
            print(" load   calls/s   triton p50 / p99 ms   batchwise p50 / p99 ms   ratio p50 / p99")
            addresses = {"triton": triton.grpc, "batchwise": batchwise.grpc}
            for share, rate, found in compare(
                addresses, shares, arguments.seconds, arguments.repetitions, directory / "report.csv"
            ):
                theirs, ours = found["triton"], found["batchwise"]
                print(
                    f"{share:4.0f} %{rate:10.0f}{theirs['p50']:13.2f} /{theirs['p99']:7.2f}"
                    f"{ours['p50']:16.2f} /{ours['p99']:7.2f}"
                    f"{ours['p50'] / theirs['p50']:10.2f} /{ours['p99'] / theirs['p99']:5.2f}",
                    flush=True,
                )
        finally:
            for server in reversed(running):
                server.stop()


if __name__ == "__main__":
    main()
