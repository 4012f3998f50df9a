"""NVIDIA's Triton Inference Server, from the package nvidia-pytriton, on a machine without a GPU."""

import os
import pathlib
import shutil
import sys
import sysconfig

import tritonclient.grpc as triton

from .batchwise import http_status
from .processes import Process, free_ports

MODELS = pathlib.Path(__file__).resolve().parents[1] / "triton_models"


class TritonServer:
    """A running `tritonserver` with the Python models of a repository, which see `environment`."""

    def __init__(self, directory, models=MODELS, environment=None):
        packages = pathlib.Path(sysconfig.get_path("purelib"))
        shipped = packages / "pytriton" / "tritonserver"
        directory = pathlib.Path(directory)
        self._lay_out_backend(shipped, directory / "backends" / "python")
        http, grpc, metrics = free_ports(3)
        self.http, self.grpc = f"127.0.0.1:{http}", f"127.0.0.1:{grpc}"
        addresses = [("http", http), ("grpc", grpc), ("metrics", metrics)]
        self.process = Process(
            [shipped / "bin" / "tritonserver", f"--model-repository={models}"]
            + [f"--backend-directory={directory / 'backends'}"]
            + [f"--{name}-port={port}" for name, port in addresses]
            + [f"--{name}-address=127.0.0.1" for name, _ in addresses],
            directory / "tritonserver.log",
            {**self._environment(packages), **(environment or {})},
        )
        self.process.wait_ready(lambda: http_status(f"http://{self.http}/v2/health/ready") == 200)

    @staticmethod
    def _lay_out_backend(shipped, backend):
        """The Python backend expects the stub for the interpreter's version beside its library."""
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        shutil.copytree(shipped / "backends" / "python", backend)
        shutil.copy(shipped / "python_backend_stubs" / version / "triton_python_backend_stub", backend)

    @staticmethod
    def _environment(packages):
        libraries = [packages / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR")]
        # The stub is isolated: it finds numpy through the first python3 of PATH, this environment's.
        return {
            "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
            "PATH": os.pathsep.join([str(pathlib.Path(sys.prefix) / "bin"), os.environ["PATH"]]),
        }

    def statistics(self, model):
        """Triton's own count of a model: rows, executions, and executions by batch size."""
        with triton.InferenceServerClient(self.grpc) as client:
            found = client.get_inference_statistics(model).model_stats[0]
        sizes = {batch.batch_size: batch.compute_infer.count for batch in found.batch_stats}
        return found.inference_count, found.execution_count, sizes

    def busy_seconds(self, model):
        """By batch size: how many batches there were and how long they kept the instance, by Triton's own clock."""
        with triton.InferenceServerClient(self.grpc) as client:
            found = client.get_inference_statistics(model).model_stats[0]
        return {
            batch.batch_size: (
                batch.compute_infer.count,
                (batch.compute_input.ns + batch.compute_infer.ns + batch.compute_output.ns) / 1e9,
            )
            for batch in found.batch_stats
        }

    def stop(self):
        self.process.stop()
