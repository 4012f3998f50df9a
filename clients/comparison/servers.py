"""What is compared: Triton with one model for every queue delay, batchwise in front of model servers."""

import pathlib
import shutil
import string

from support.balancers import balancer
from support.batchwise import Batchwise
from support.model_server import MODEL, ModelServer
from support.triton_server import TritonServer

HERE = pathlib.Path(__file__).resolve().parent


def triton_model(delay):
    """The name of the model whose calls wait `delay` seconds for company."""
    return f"{MODEL}_{microseconds(delay)}"


def microseconds(seconds):
    return round(seconds * 1e6)


def write_repository(directory, delays, max_rows):
    """Writes a Triton model repository that differs in the queue delay only."""
    template = string.Template((HERE / "triton_config.pbtxt").read_text())
    for delay in delays:
        model = directory / triton_model(delay)
        (model / "1").mkdir(parents=True)
        shutil.copy(HERE / "triton_model.py", model / "1" / "model.py")
        config = template.substitute(delay=microseconds(delay), max_rows=max_rows)
        (model / "config.pbtxt").write_text(config)
    return directory


class Stage:
    """Starts servers in directories of their own and ends all of them, the last one first."""

    def __init__(self, directory):
        self.directory = directory
        self.running = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        while self.running:
            self.running.pop().stop()

    def keep(self, server):
        self.running.append(server)
        return server

    def fresh_directory(self):
        directory = self.directory / f"server-{len(list(self.directory.iterdir()))}"
        directory.mkdir()
        return directory

    def triton(self, repository, curve):
        environment = {
            "LINEAR_BATCH_SECONDS": str(curve.batch_seconds),
            "LINEAR_ROW_SECONDS": str(curve.row_seconds),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return self.keep(TritonServer(self.fresh_directory(), repository, environment))

    def model_server(self, curve):
        a, b = f"{curve.batch_seconds * 1e3:g}ms", f"{curve.row_seconds * 1e3:g}ms"
        return self.keep(ModelServer(self.fresh_directory(), a=a, b=b, max_batch=curve.max_rows))

    def batchwise(self, model_servers, curve):
        directory = self.fresh_directory()
        instances = ", ".join(f'"http://{server.grpc}"' for server in model_servers)
        config = directory / "models.toml"
        config.write_text(
            f'[[model]]\nname = "{MODEL}"\nprotocol = "kserve-grpc"\n'
            f"instances = [{instances}]\nmax_batch_size = {curve.max_rows}\n"
        )
        return self.keep(Batchwise(config, directory))

    def balancer(self, envoy, policies, servers):
        addresses = [server.grpc for server in servers]
        return self.keep(balancer(envoy, self.fresh_directory(), policies, addresses))
