"""NVIDIA's perf_analyzer, unmodified."""

import csv
import os
import pathlib
import subprocess
import sys
import sysconfig

from .batchwise import REPOSITORY


def program():
    default = REPOSITORY / "target" / "clients-perf-analyzer" / "bin" / "perf_analyzer"
    return pathlib.Path(os.environ.get("PERF_ANALYZER", default))


def environment():
    """It is linked with the CUDA runtime, which the package nvidia-cuda-runtime-cu12 ships; no GPU is used."""
    libraries = pathlib.Path(sysconfig.get_path("purelib")) / "nvidia" / "cuda_runtime" / "lib"
    return {**os.environ, "LD_LIBRARY_PATH": str(libraries)}


def run(*arguments, report, timeout_seconds=120, attempts=1):
    """Runs perf_analyzer and returns (its text, the rows of its CSV report).

    Now and then one of its threads never begins to send, and it waits for that thread for ever; whoever runs it often
    allows it a second attempt.
    """
    for left in reversed(range(attempts)):
        try:
            done = subprocess.run(
                [program(), *map(str, arguments), "-f", report],
                env=environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_seconds,
            )
            break
        except subprocess.TimeoutExpired:
            if not left:
                raise
            print("perf_analyzer hung and is run again", file=sys.stderr)
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    with open(report, newline="") as lines:
        return done.stdout, list(csv.DictReader(lines))
