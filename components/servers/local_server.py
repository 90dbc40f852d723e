"""Start a model's server as a process on this machine, wait until it answers, and stop it again.

`local_vllm` and `local_llama` say how their engine is started. A guard process owns each server and stops it when the
run that started it has ended, see `guard.py`.
"""

import os
import re
import shlex
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from quantgate.components.processes.guarded import exit_status, start_guard
from quantgate.components.run.artifacts import Server
from quantgate.components.run.results import RunResults
from quantgate.components.run.server_identity import ServerIdentity
from quantgate.components.servers import access
from quantgate.components.servers.first_cause import advice, described, first_cause, name_of
from quantgate.components.servers.probes import lists_our_model, status_with
from quantgate.components.storage.cache import cache_dir

READY_WITHIN_S = 600.0
STOPPED_WITHIN_S = 20.0
POLL_S = 0.5
PORTS_TRIED = 3
LAST_LINES = 12
COMPILED = "TORCHINDUCTOR_CACHE_DIR"
HEADERS = "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS"
"""By default PyTorch compiles its headers beside the temporary files, so at each start: 7 s of a core before the first
answer, for two small kernels that lie compiled in the cache."""
PORT_TAKEN = re.compile("address already in use|couldn't bind", re.IGNORECASE)

PASSED_ON = re.compile(
    r"(?!.*_(?:KEY|TOKEN|SECRET|PASSWORD)$)(PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|TZ|TMPDIR|TEMP|TMP|PYTHONPATH|PYTHONUNBUFFERED|HF_HOME|HF_HUB_CACHE|"
    r"(LC|LD|XDG|VLLM|CUDA|NVIDIA|NCCL|GLOO|OMP|KMP|MKL|OPENBLAS|MALLOC|TORCH|TORCHINDUCTOR|PYTORCH|TRITON|FLASHINFER|"
    r"ROCR|HIP|HSA|ONEAPI|ZE|GGML)_.*)"
)
"""The variables that a server gets from this process: no credentials of S3, MLflow, a hub or a cluster."""


@dataclass(frozen=True)
class Launch:
    """How a server is started: all but its name and port."""

    program: str
    """Names the log, e.g. `vllm`."""
    identity: ServerIdentity
    window: int
    """The most tokens of a prompt and its answer."""
    command: Callable[[str, int], list[str]]
    """The command, from the served name and the port."""
    settings: Mapping[str, str]
    """The environment variables that the engine needs."""
    key_variable: str
    """The variable from which the engine reads the API key that it demands."""
    slots: int = 0
    """See `Server.slots`."""


def start(variant: str, model_path: Path, results: Path, launch: Launch, ready_within_s: float) -> Server:
    """Start the server and wait until it answers.

    When it does not start, the returned Server has a `failure`: what happened, the last lines of its log, and the
    command to try by hand. The log stays in `results`.
    """
    files = RunResults(str(results))
    log, key_file = files.log(f"{launch.program}-{variant}"), files.variant(variant).server_key.path
    served_name = f"quantgate-{variant}"
    for _ in range(PORTS_TRIED):
        port = free_port()
        command = launch.command(served_name, port)
        server = Server(
            variant=variant,
            url=f"http://127.0.0.1:{port}/v1",
            served_name=served_name,
            model_path=str(model_path),
            max_model_len=launch.window,
            slots=launch.slots,
            log=str(log),
            key_file=str(key_file),
            command=shlex.join([*(f"{name}={value}" for name, value in launch.settings.items()), *command]),
            engine=launch.identity.engine,
            identity=launch.identity,
        )
        log.unlink(missing_ok=True)
        started = time.monotonic()
        given = environment(launch.settings) | {launch.key_variable: access.new_key(key_file)}
        guard = start_guard(command, given, lease=files.lease, log=log)
        server = server.model_copy(update={"pid": guard.pid})
        failure = wait_until_ready(server, guard, launch.key_variable, ready_within_s)
        server = server.model_copy(update={"startup_s": time.monotonic() - started, "failure": failure})
        if not PORT_TAKEN.search(failure):
            break
    if server.failure:
        undeploy(server)
    return server


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """A server's environment: what it needs of this process's, and the settings."""
    passed_on = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
    return {HEADERS: "0"} | passed_on | {COMPILED: compiled_folder()} | dict(settings)


def compiled_folder() -> str:
    """Where PyTorch keeps what it compiles for vLLM: not with the temporary files, where PyTorch puts it by default.

    PyTorch writes its default into the environment of the process that imports it.
    """
    chosen = os.environ.get(COMPILED, "")
    by_default = not chosen or Path(chosen).is_relative_to(tempfile.gettempdir())
    return str(cache_dir() / "torchinductor") if by_default else chosen


def free_port() -> int:
    """A port of the loopback interface on which no process listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_ready(server: Server, guard: psutil.Process, key_variable: str, within_s: float) -> str:
    """Wait until the server lists our model; returns "" then, and otherwise the reason why it is not ready."""
    deadline, engine = time.monotonic() + within_s, server.engine_name
    while time.monotonic() < deadline:
        if (status := exit_status(guard)) is not None:
            how = name_of(status - 128) if status > 128 else f"exit status {status}"
            return explain(server, f"{engine} ended ({how}) before it was ready.")
        listens = access.listener(guard.pid, access.port_of(server))
        if listens and lists_our_model(server) and (status := status_with(server, "")):
            if status in access.REFUSED:
                return ""
            return explain(server, f"{engine} answers without the key in ${key_variable}, which it should demand.")
        time.sleep(POLL_S)
    return explain(server, f"{engine} was not ready after {within_s:.0f} s.")


def undeploy(server: Server) -> None:
    """Stop the server and its guard, and remove its key; do nothing when they have ended already."""
    if server.key_file:
        Path(server.key_file).unlink(missing_ok=True)
    guard = find_guard(server)
    if guard is None:
        return
    guard.terminate()
    try:
        guard.wait(STOPPED_WITHIN_S)
    except psutil.TimeoutExpired:
        guard.kill()  # the kernel then kills the server: PR_SET_PDEATHSIG
        guard.wait(STOPPED_WITHIN_S)


def find_guard(server: Server) -> psutil.Process | None:
    """The running guard of this server; None when it has ended, also when another process has its id now."""
    if not server.pid:
        return None
    try:
        process = psutil.Process(server.pid)
        is_ours = "quantgate.components.processes.guard" in process.cmdline() and server.log in process.cmdline()
        return process if is_ours and process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return None


def why_it_ended(server: Server) -> str:
    """Why a server that had been ready ended; "" while it runs, or when it was started on another machine."""
    if not server.pid or find_guard(server) is not None:
        return ""
    return f"{server.engine_name} ended: {described(first_cause(log_lines(server))) or 'its log does not say why.'}"


def explain(server: Server, event: str) -> str:
    """The event, the first cause in the log, its last lines, and the command to try by hand."""
    lines = log_lines(server)
    cause = described(first_cause(lines)) or advice(event)
    last_lines = "\n".join(f"  {line}" for line in lines[-LAST_LINES:]) or "  (the log is empty)"
    return (
        f"{f'{event} {cause}'.strip()}\nLast lines of {server.log}:\n{last_lines}\n"
        f"To try it by hand:\n  {server.command}"
    )


def log_lines(server: Server) -> list[str]:
    """The server's log."""
    log = Path(server.log)
    return log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
