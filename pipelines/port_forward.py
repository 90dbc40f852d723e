"""A service of a cluster on a port of this machine, through kubectl and with the rights of its kubeconfig."""

import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from components.errors import PrerequisiteError
from components.serving import lease
from components.serving.local import exit_status, start_guard

FORWARDS = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")
READY_S, POLL_S, STOPPED_WITHIN_S = 30.0, 0.1, 20.0


@contextmanager
def forwarded(service: str, port: int, namespace: str) -> Iterator[str]:
    """The service's address on this machine for as long as the block lasts; kubectl ends with this process.

    Raises PrerequisiteError with what kubectl said where it does not forward.
    """
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise PrerequisiteError("--port-forward needs kubectl, which is not on the PATH. Install it, or give --host.")
    command = [kubectl, "port-forward", "--namespace", namespace, "--address", "127.0.0.1", service, f":{port}"]
    with tempfile.TemporaryDirectory(prefix="quantgate-forward-") as scratch:
        folder = Path(scratch)
        with lease.hold(folder / "lease"):
            guard = start_guard(command, {}, lease=folder / "lease", log=folder / "log")
            try:
                yield f"http://127.0.0.1:{local_port(guard, folder / 'log', ' '.join(command))}"
            finally:
                if exit_status(guard) is None:
                    guard.terminate()
                    guard.wait(STOPPED_WITHIN_S)


def local_port(guard: psutil.Process, log: Path, command: str) -> str:
    """The port that kubectl has chosen, once it says so."""
    deadline = time.monotonic() + READY_S
    while True:
        ended = exit_status(guard) is not None
        said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        if found := FORWARDS.search(said):
            return found[1]
        if ended or time.monotonic() > deadline:
            last = " ".join(said.split())[-500:] or "it said nothing"
            raise PrerequisiteError(f"kubectl does not forward: {last}\nTo try it by hand:\n  {command}")
        time.sleep(POLL_S)
