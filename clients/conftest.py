"""The server that most of the suite talks to: the release binary with the repository's own models.toml."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from support import digits  # noqa: E402
from support.batchwise import REPOSITORY, Batchwise  # noqa: E402


@pytest.fixture(scope="session")
def batchwise(tmp_path_factory):
    server = Batchwise(REPOSITORY / "models.toml", tmp_path_factory.mktemp("batchwise"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def held_out():
    return digits.held_out()


def starter(directory):
    """Starts servers from the text of a models.toml; each must end well, in the test or after it."""
    started = []

    def start(config_text, **options):
        config = directory / f"models-{len(started)}.toml"
        config.write_text(config_text)
        server = Batchwise(config, directory, **options)
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def start_batchwise(tmp_path):
    yield from starter(tmp_path)


@pytest.fixture(scope="module")
def start_batchwise_for_module(tmp_path_factory):
    yield from starter(tmp_path_factory.mktemp("batchwise"))
