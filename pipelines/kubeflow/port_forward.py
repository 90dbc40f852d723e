"""A service of a cluster on a port of this machine, through kubectl and with the rights of its kubeconfig."""

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

from components.errors import PrerequisiteError
from components.processes import lease
from components.processes.guarded import exit_status, start_guard

FORWARDS = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")
READY_S, POLL_S, AGAIN_S, STOPPED_WITHIN_S = 30.0, 0.1, 1.0, 20.0


@dataclass(frozen=True)
class Forward:
    """What kubectl is to forward, and the folder where it leaves its log."""

    command: tuple[str, ...]
    port: int
    folder: Path

    @property
    def log(self) -> Path:
        """What kubectl says."""
        return self.folder / "log"

    def start(self, local: str = "") -> psutil.Process:
        """Forward that port of this machine, or a free one."""
        return start_guard([*self.command, f"{local}:{self.port}"], {}, lease=self.folder / "lease", log=self.log)


@contextmanager
def forwarded(service: str, port: int, namespace: str) -> Iterator[str]:
    """The service's address on this machine for as long as the block lasts; kubectl ends with this process.

    kubectl ends where its connection is lost, with the pod behind the service or while a laptop sleeps; it is started
    again on the same port. Raises PrerequisiteError with what kubectl said where it does not forward at first.
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
            with kept(forward, local, guard):
                yield f"http://127.0.0.1:{local}"


@contextmanager
def kept(forward: Forward, local: str, guard: psutil.Process) -> Iterator[None]:
    """Start kubectl again each time it ends, until the block does."""
    over = threading.Event()

    def keep() -> None:
        running = guard
        while not over.wait(AGAIN_S):
            if exit_status(running) is not None:
                running = forward.start(local)
        stop(running)

    thread = threading.Thread(target=keep, name="kubectl port-forward", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def stop(guard: psutil.Process) -> None:
    """End kubectl, if it has not ended."""
    if exit_status(guard) is None:
        guard.terminate()
        guard.wait(STOPPED_WITHIN_S)


def local_port(guard: psutil.Process, forward: Forward) -> str:
    """The port that kubectl has chosen, once it says so."""
    deadline = time.monotonic() + READY_S
    while True:
        ended = exit_status(guard) is not None
        said = forward.log.read_text(encoding="utf-8", errors="replace") if forward.log.exists() else ""
        if found := FORWARDS.search(said):
            return found[1]
        if ended or time.monotonic() > deadline:
            last = " ".join(said.split())[-500:] or "it said nothing"
            by_hand = " ".join((*forward.command, f":{forward.port}"))
            raise PrerequisiteError(f"kubectl does not forward: {last}\nTo try it by hand:\n  {by_hand}")
        time.sleep(POLL_S)
