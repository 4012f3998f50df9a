"""The best of Triton's settings beside batchwise, load by load, and then everything that was measured."""

import statistics

LATE_PERCENT = 5
HEADING = (
    " load   calls/s  balancing         Triton's best mean ms (delay), p99 ms (delay)"
    "   batchwise mean    p99   ratio mean   p99"
)


def median(runs, quantity):
    return statistics.median(getattr(run, quantity) for run in runs)


def milliseconds(seconds):
    return f"{seconds * 1e3:g}"


class Table:
    """Collects the runs of every target and prints a load as soon as it is done."""

    def __init__(self, targets, batchwise):
        self.batchwise = batchwise
        self.routes = {}
        for target in targets:
            if target is not batchwise:
                self.routes.setdefault(target.route, []).append(target)
        self.loads = []
        print(HEADING, flush=True)

    def best(self, tritons, found, quantity):
        """(milliseconds, the delay in seconds that they belong to)"""
        return min((median(found[target], quantity), target.delay) for target in tritons)

    def add(self, share, rate, found):
        """`found` holds the runs of this load by target."""
        self.loads.append((share, found))
        ours = {quantity: median(found[self.batchwise], quantity) for quantity in ("mean", "p99")}
        for route, tritons in self.routes.items():
            mean, mean_delay = self.best(tritons, found, "mean")
            p99, p99_delay = self.best(tritons, found, "p99")
            print(
                f"{share:4g} %{rate:10.0f}  {route:<14}"
                f"{mean:21.2f} {f'({milliseconds(mean_delay)} ms)':<8}{p99:9.2f} {f'({milliseconds(p99_delay)} ms)':<8}"
                f"{ours['mean']:15.2f}{ours['p99']:9.2f}{ours['mean'] / mean:11.2f}{ours['p99'] / p99:8.2f}"
            )
        late = max(run.late for runs in found.values() for run in runs)
        if late > LATE_PERCENT:
            print(
                f"       perf_analyzer was late with up to {late:.0f} % of the calls of a run: the machine is too slow"
            )
        print(end="", flush=True)

    def print_all(self):
        """Mean and p99 of every delay."""
        for route, tritons in self.routes.items():
            names = [f"{milliseconds(target.delay)} ms" for target in tritons]
            print(f"\nTriton by delay, {route}: mean / p99 ms")
            print(" load " + "".join(f"{name:>20}" for name in [*names, "batchwise"]))
            for share, found in self.loads:
                cells = "".join(
                    f"{median(found[target], 'mean'):11.2f} /{median(found[target], 'p99'):7.2f}"
                    for target in [*tritons, self.batchwise]
                )
                print(f"{share:4g} %{cells}")
