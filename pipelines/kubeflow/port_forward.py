"""Forward a service of a cluster to a port of this machine, with kubectl and the rights of its kubeconfig."""

import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from quantgate.components.errors import PrerequisiteError
from quantgate.components.processes import lease
from quantgate.components.processes.guarded import exit_status, start_guard

FORWARDS = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")
READY_S, POLL_S, AGAIN_S, STOPPED_WITHIN_S = 30.0, 0.1, 1.0, 20.0


@dataclass(frozen=True)
class Forward:
    """A command of kubectl that forwards a port, and the folder for its log and lease."""

    command: tuple[str, ...]
    port: int
    folder: Path

    @property
    def log(self) -> Path:
        """kubectl's output."""
        return self.folder / "log"

    def start(self, local: str = "") -> psutil.Process:
        """Start kubectl on this local port, or on a free one."""
        return start_guard(
            [*self.command, f"{local}:{self.port}"], os.environ, lease=self.folder / "lease", log=self.log
        )


@contextmanager
def forwarded(service: str, port: int, namespace: str) -> Iterator[str]:
    """The service's address on this machine, for the time of the block; kubectl ends with this process.

    kubectl ends when it loses the connection: the pod behind the service ends, or a laptop sleeps. Then it is started
    again on the same port. Raises PrerequisiteError with kubectl's output when the first start fails.
    """
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise PrerequisiteError("--port-forward needs kubectl, which is not on the PATH. Install it, or give --host.")
    command = (kubectl, "port-forward", "--namespace", namespace, "--address", "127.0.0.1", service)
    with tempfile.TemporaryDirectory(prefix="quantgate-forward-") as scratch:
        forward = Forward(command, port, Path(scratch))
        with lease.hold(forward.folder / "lease"):
            guard = forward.start()
            try:
                local = local_port(guard, forward)
            except BaseException:
                stop(guard)
                raise
            with restarted(forward, local, guard):
                yield f"http://127.0.0.1:{local}"


@contextmanager
def restarted(forward: Forward, local: str, guard: psutil.Process) -> Iterator[None]:
    """Start kubectl again each time it ends, until the block ends."""
    block_ended = threading.Event()

    def restart() -> None:
        running = guard
        while not block_ended.wait(AGAIN_S):
            if exit_status(running) is not None:
                running = forward.start(local)
        stop(running)

    thread = threading.Thread(target=restart, name="kubectl port-forward", daemon=True)
    thread.start()
    try:
        yield
    finally:
        block_ended.set()
        thread.join()


def stop(guard: psutil.Process) -> None:
    """End kubectl if it runs."""
    if exit_status(guard) is None:
        guard.terminate()
        guard.wait(STOPPED_WITHIN_S)


def local_port(guard: psutil.Process, forward: Forward) -> str:
    """The local port, from kubectl's output; raises PrerequisiteError when kubectl ends or takes over READY_S."""
    deadline = time.monotonic() + READY_S
    while True:
        ended = exit_status(guard) is not None
        output = forward.log.read_text(encoding="utf-8", errors="replace") if forward.log.exists() else ""
        if match := FORWARDS.search(output):
            return match[1]
        if ended or time.monotonic() > deadline:
            last_output = " ".join(output.split())[-500:] or "it printed nothing"
            command = " ".join((*forward.command, f":{forward.port}"))
            raise PrerequisiteError(f"kubectl does not forward: {last_output}\nTo try it by hand:\n  {command}")
        time.sleep(POLL_S)
