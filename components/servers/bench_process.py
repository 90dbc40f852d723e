"""A load test as a process on this machine: in vLLM's environment, under a guard as the server is."""

import tempfile
import time
from pathlib import Path

import psutil

from quantgate.components.errors import PrerequisiteError
from quantgate.components.processes.guarded import exit_status, start_guard
from quantgate.components.run.artifacts import Server
from quantgate.components.run.load_results import LoadSettings
from quantgate.components.run.results import RunResults
from quantgate.components.servers import local_server, local_vllm
from quantgate.components.servers.access import key_of
from quantgate.components.servers.bench_command import BENCH_KEY_VARIABLE, arguments, saved_in
from quantgate.components.servers.vllm_options import OFFLINE

POLL_S = 0.5


def measured_here(server: Server, settings: LoadSettings, results: str, within_s: float) -> tuple[dict[int, str], int]:
    """What vLLM saved by the seed of the run, and the most memory that the server had meanwhile, see `memory_of`.

    Raises PrerequisiteError when the load test fails or takes too long; it has ended then.
    """
    log = RunResults(results).log(f"speed-{server.variant}")
    with tempfile.TemporaryDirectory() as folder:
        command = [str(local_vllm.serving_python()), *arguments(server, settings, folder)]
        variables = local_server.environment(OFFLINE) | {BENCH_KEY_VARIABLE: key_of(server)}
        log.unlink(missing_ok=True)
        guard = start_guard(command, variables, lease=RunResults(results).lease, log=log)
        memory_bytes = watched(guard, server, within_s, log)
    return saved_in(lines_of(log)), memory_bytes


def watched(guard: psutil.Process, server: Server, within_s: float, log: Path) -> int:
    """Wait for the end of the load test; returns the most memory that the server had meanwhile, see `memory_of`.

    Raises PrerequisiteError when the load test fails or takes too long; it has ended then.
    """
    most, deadline = 0, time.monotonic() + within_s
    try:
        while (status := exit_status(guard)) is None:
            if time.monotonic() > deadline:
                raise PrerequisiteError(f"The load test took more than {within_s:g} s. Its log: {log}")
            most = max(most, memory_of(server))
            time.sleep(POLL_S)
    finally:
        if exit_status(guard) is None:
            guard.terminate()
            guard.wait()
    if status:
        last = next((line for line in reversed(lines_of(log)) if line.strip()), "its log is empty")
        raise PrerequisiteError(f"The load test ended with exit status {status}: {last.strip()} Its log: {log}")
    return most


def lines_of(log: Path) -> list[str]:
    """The lines of the log; none if it does not exist."""
    return log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []


def memory_of(server: Server) -> int:
    """The resident memory of the server's processes together; 0 where they are not on this machine.

    It is 0 on a GPU: vLLM reserves the same share of the GPU's memory for every variant, which compares nothing.
    """
    guard = local_server.find_guard(server)
    if guard is None or not (server.identity and server.identity.on_cpu):
        return 0
    total = 0
    for process in guard.children(recursive=True):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
