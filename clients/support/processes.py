"""Child processes: ports from the operating system, bounded waits, a log on disk, an end by process id."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import time

POLL_INTERVAL_SECONDS = 0.02


def free_ports(count):
    """`count` different TCP ports of the loopback interface that nothing listens on just now."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_until(condition, what, timeout_seconds=30):
    """Returns the first true value of `condition`; fails with `what` when the time has passed."""
    deadline = time.monotonic() + timeout_seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_seconds} s")
        time.sleep(POLL_INTERVAL_SECONDS)
    return value


class Process:
    """One child process whose standard output and error go to a file."""

    def __init__(self, arguments, log_path, environment=None, directory=None):
        self.log_path = pathlib.Path(log_path)
        self.arguments = [str(argument) for argument in arguments]
        with self.log_path.open("wb") as log:
            self.child = subprocess.Popen(
                self.arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                cwd=directory,
            )

    @property
    def process_id(self):
        return self.child.pid

    def log(self):
        return self.log_path.read_text(errors="replace")

    def running(self):
        return self.child.poll() is None

    def wait_ready(self, condition, timeout_seconds=60):
        """Waits for `condition` as long as the process lives."""

        def ready_or_gone():
            return not self.running() or condition()

        wait_until(ready_or_gone, f"{self.arguments[0]} is ready", timeout_seconds)
        if not self.running():
            raise RuntimeError(f"{self.arguments[0]} ended with {self.child.returncode}:\n{self.log()}")

    def signal(self, number):
        self.child.send_signal(number)

    def wait(self, timeout_seconds=60):
        """The exit code, once the process has ended by itself."""
        return self.child.wait(timeout_seconds)

    def stop(self, timeout_seconds=60):
        """Asks the process to end; kills it when it does not. Returns the exit code."""
        if self.running():
            self.signal(signal.SIGTERM)
            try:
                self.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        return self.child.returncode

    def kill(self):
        self.child.kill()
        self.child.wait()
