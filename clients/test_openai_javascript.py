"""The official openai package for JavaScript, unmodified: runs javascript/openai.test.mjs with node."""

import os
import pathlib
import re
import subprocess

from support.batchwise import REPOSITORY
from support.models import CHAT, EMBEDDINGS

SCRIPT = pathlib.Path(__file__).parent / "javascript" / "openai.test.mjs"
TESTS = len(re.findall(r'^test\("', SCRIPT.read_text(), re.MULTILINE))


def test_openai_for_javascript(batchwise):
    packages = os.environ.get("NODE_PACKAGES", REPOSITORY / "target" / "clients-node")
    environment = {
        "BATCHWISE_URL": f"http://{batchwise.http}",
        "CHAT_MODEL": CHAT,
        "EMBEDDING_MODEL": EMBEDDINGS,
        "NODE_PACKAGES": str(packages),
    }
    done = subprocess.run(
        ["node", "--test", "--test-reporter=tap", str(SCRIPT)],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"# pass {TESTS}\n" in done.stdout, done.stdout
