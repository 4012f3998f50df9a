"""perf_analyzer's open loop: one-row calls at Poisson times, the same times for everyone in a repetition."""

import dataclasses
import random
import re

from support import perf_analyzer

LATE = re.compile(r"([\d.]+)% of the requests were delayed")


@dataclasses.dataclass(frozen=True)
class Target:
    """A model somewhere; Triton's carry their queue delay in seconds and how calls get to the instance."""

    model: str
    address: str
    delay: float | None = None
    route: str = "direct"


@dataclasses.dataclass(frozen=True)
class Latency:
    """Of all calls of one run, in milliseconds; `late` is the share of calls sent later than planned, in percent."""

    mean: float
    p99: float
    late: float


def poisson(rate, seconds, seed, path):
    """Writes the times between calls in microseconds, one a line; returns how many.

    perf_analyzer's own Poisson arrivals begin from the same seed in every run, so that repetitions would repeat them.
    """
    generator = random.Random(seed)
    count = max(1, round(rate * seconds))
    with open(path, "w") as lines:
        lines.writelines(f"{max(1, round(generator.expovariate(rate) * 1e6))}\n" for _ in range(count))
    return count


def one_row_calls(target):
    """perf_analyzer's arguments for them."""
    arguments = ["-m", target.model, "-u", target.address, "-i", "grpc", "--shape", "x:4"]
    return [*arguments, "--async", "--max-threads", 2]


def run(target, rate, seconds, seed, directory):
    """Sends `rate` calls a second for about `seconds`."""
    intervals = directory / "intervals"
    count = poisson(rate, seconds, seed, intervals)
    text, rows = perf_analyzer.run(
        *one_row_calls(target),
        *["--request-intervals", intervals, "--request-count", count, "--verbose-csv"],
        report=directory / "report.csv",
        timeout_seconds=seconds * 3 + 20,
        attempts=3,
    )
    late = LATE.search(text)
    return Latency(
        mean=float(rows[0]["Avg latency"]) / 1000,
        p99=float(rows[0]["p99 latency"]) / 1000,
        late=float(late[1]) if late else 0.0,
    )
