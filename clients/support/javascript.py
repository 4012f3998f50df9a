"""Tests in JavaScript, run by node with the official openai package for it."""

import os
import pathlib
import re
import subprocess

from .batchwise import REPOSITORY

SCRIPTS = pathlib.Path(__file__).resolve().parents[1] / "javascript"


def run(script, proxy, **environment):
    """Runs every test of a script against `proxy`; all have to pass. `environment` tells the script what is there."""
    path = SCRIPTS / script
    tests = len(re.findall(r'^test\("', path.read_text(), re.MULTILINE))
    packages = os.environ.get("NODE_PACKAGES", REPOSITORY / "target" / "clients-node")
    done = subprocess.run(
        ["node", "--test", "--test-reporter=tap", str(path)],
        env={
            **os.environ,
            "BATCHWISE_URL": f"http://{proxy.http}",
            "NODE_PACKAGES": str(packages),
            **environment,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"# pass {tests}\n" in done.stdout, done.stdout
