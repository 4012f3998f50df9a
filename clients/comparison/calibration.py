"""Takes the costs of Triton's Python backend off the service time of its model.

The backend copies tensors to a process of its own and back, outside of the function that sleeps; our model server does
nothing like it. Without a correction Triton would serve a slower model, and at nine tenths of the highest rate that
alone decides. So both servers are timed from outside, without batchwise, and Triton's model sleeps less by what it took
more: so much for one row, so much for a full batch, in between by the line through both. Our model server stays as it is.

One row is timed by one caller. There are two ways to time a full batch. One call that carries all rows is the plain one.
But the dynamic batcher makes its batches of one-row calls, whose copies cost the backend far more: `batches` times those,
with enough callers that batches are always full and always waiting. It is the default, and the kinder one to Triton: what
its own front end spends on the calls of a full batch is taken off as well.
"""

import dataclasses
import statistics
import threading
import time

import numpy as np
import tritonclient.grpc as triton

from comparison.load import one_row_calls
from support import perf_analyzer
from support.tensors import inputs

KINDS = ("batches", "calls", "none")
CALLS = 300
FULL_CALLS = 120
BLOCK_CALLS = 20
WAITING_BATCHES = 3
SATURATING_BATCHES = 120
MOST_CORRECTIONS = 2
TOLERANCE_SECONDS = 0.0001


@dataclasses.dataclass(frozen=True)
class Times:
    """Medians in seconds: a one-row call, a call with all rows, a full batch while others wait."""

    one_row: float
    full_call: float
    full_batch: float

    def full(self, kind):
        return self.full_batch if kind == "batches" else self.full_call

    def beside(self, other):
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return "".join(f"{ours * 1e3:8.2f} /{theirs * 1e3:6.2f}" for ours, theirs in pairs)


def timed(client, model, rows):
    """Seconds that one call takes."""
    tensors = inputs(triton, x=np.zeros((rows, 4), np.float32))
    begun = time.perf_counter()
    client.infer(model, tensors)
    return time.perf_counter() - begun


def in_turns(targets, rows, calls):
    """The median time of a call to each target, which take turns so that both see the same machine."""
    clients = [triton.InferenceServerClient(target.address) for target in targets]
    found = [[] for _ in targets]
    for _ in range(max(1, round(calls / BLOCK_CALLS))):
        for target, client, times in zip(targets, clients, found, strict=True):
            timed(client, target.model, rows)
            times += [timed(client, target.model, rows) for _ in range(BLOCK_CALLS)]
    for client in clients:
        client.close()
    return [statistics.median(times) for times in found]


def full_batch_of_calls(target, rows, batches, report):
    """Time between full batches of one-row calls: by Little's law the latency over the batches in the system."""
    _, lines = perf_analyzer.run(
        *one_row_calls(target),
        *["--concurrency-range", WAITING_BATCHES * rows, "--request-count", batches * rows],
        report=report,
        timeout_seconds=60,
        attempts=3,
    )
    return float(lines[0]["p50 latency"]) / 1e6 / WAITING_BATCHES


def full_batch_of_rows(target, rows, batches):
    """The same for a server that is sent whole batches, as batchwise sends them."""
    times = []

    def caller():
        with triton.InferenceServerClient(target.address) as client:
            times.extend(timed(client, target.model, rows) for _ in range(batches // WAITING_BATCHES))

    callers = [threading.Thread(target=caller) for _ in range(WAITING_BATCHES)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    return statistics.median(times) / WAITING_BATCHES


def measure(model_server, server, rows, scale, report):
    """The `Times` of both; fewer calls when each of them takes longer."""
    one = in_turns([model_server, server], 1, CALLS / scale)
    full = in_turns([model_server, server], rows, FULL_CALLS / scale)
    batches = max(30, round(SATURATING_BATCHES / scale))
    saturated = (
        full_batch_of_rows(model_server, rows, batches),
        full_batch_of_calls(server, rows, batches, report),
    )
    return [Times(*each) for each in zip(one, full, saturated, strict=True)]


def calibrate(kind, curve, scale, start_triton, model_server, report):
    """The curve that Triton's model has to sleep; prints every step, the last one as it will be used.

    `start_triton(curve)` is a context of the `Target` of a quiet Triton whose model sleeps that curve.
    """
    print("calibration, ms                  one-row call  full-row call  full batch   Triton's model sleeps")
    sleeping = curve
    for corrections_left in reversed(range(1 + MOST_CORRECTIONS)):
        with start_triton(sleeping) as server:
            ours, theirs = measure(model_server, server, curve.max_rows, scale, report)
        print(f"model server / Triton {ours.beside(theirs)}   {sleeping}", flush=True)
        excess = theirs.one_row - ours.one_row, theirs.full(kind) - ours.full(kind)
        if kind == "none" or not corrections_left or max(map(abs, excess)) <= TOLERANCE_SECONDS * scale:
            return sleeping
        sleeping = sleeping.shorter(*excess)


def print_check(curve, servers, models):
    """How far Triton's own clock was from the curve while it was compared: the calibration under real load."""
    print(
        "\nTriton's own clock while it was compared: batches, rows a batch, ms a batch, ms that the curve gives"
    )
    for model in models:
        batches = [
            (size, *busy)
            for server in servers
            for size, busy in server.busy_seconds(model).items()
            if busy[0]
        ]
        count = sum(count for _, count, _ in batches)
        rows = sum(size * count for size, count, _ in batches)
        busy = sum(seconds for _, _, seconds in batches)
        print(f"{model:<16}{count:8}{rows / count:8.2f}{busy / count * 1e3:8.2f}", end="")
        print(f"{curve.seconds(rows / count) * 1e3:8.2f}")
