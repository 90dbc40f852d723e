"""Serve a GGUF variant with a llama.cpp process on this machine.

llama.cpp comes in the package xllamacpp, which has no dependencies: it is in quantgate's own environment (the extra
`gguf`). Its wheels from the package index compute on the CPU; its project has others for GPUs.
"""

import importlib.metadata
import platform
import sys
from collections.abc import Iterable
from pathlib import Path

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models import gguf_file
from quantgate.components.models.content import GGUF
from quantgate.components.run import machine
from quantgate.components.run.artifacts import Server
from quantgate.components.run.server_identity import LLAMA_CPP, ServerIdentity
from quantgate.components.servers.before_start import full_disk
from quantgate.components.servers.llama_options import KEY_VARIABLE, SLOTS, answering
from quantgate.components.servers.local_server import READY_WITHIN_S, Launch, start

PACKAGE = "xllamacpp"
PROGRAM = Path(__file__).with_name("llama_server.py")


def version() -> str:
    """The installed package's version, which names llama.cpp's build; raises PrerequisiteError without the package."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise PrerequisiteError(
            "A GGUF variant is served by llama.cpp, which is not installed. Install it: pip install 'quantgate[gguf]'"
        ) from None


def check_installed(checkpoints: Iterable[str]) -> None:
    """Raise PrerequisiteError if one of these checkpoints, NAME=SOURCE, is a GGUF file and llama.cpp is missing."""
    if any(gguf_file.is_gguf(entry) for entry in checkpoints):
        version()


def serves(model_path: Path) -> bool:
    """Whether this folder of a variant has a GGUF file for weights."""
    return (model_path / GGUF).exists()


def identity_here(digest: str, window: int) -> ServerIdentity:
    """The identity of the server that `deploy` would start for the weights with this digest."""
    return ServerIdentity(
        weights=digest,
        package=LLAMA_CPP,
        version=f"({PACKAGE} {version()})",
        place=place(),
        options=answering(window),
    )


def place() -> str:
    """The machine's architecture, and the GPUs that llama.cpp would use."""
    import xllamacpp

    gpus = [device["description"] for device in xllamacpp.get_device_info() if device["name"] != "CPU"]
    return ", ".join([platform.machine(), *gpus])


def deploy(
    variant: str, model_path: Path, results: Path, digest: str, window: int, ready_within_s: float = READY_WITHIN_S
) -> Server:
    """Start llama.cpp on the folder's GGUF file and wait until it answers.

    Chats are put into the chat template of the folder, which is the baseline's, and not into that of the file.
    `window` is the most tokens of a prompt and its answer. The returned Server has a `failure` if it does not start.
    """
    identity = identity_here(digest, window)
    if reason := obstacle(model_path, results):
        return Server(variant=variant, failure=f"llama.cpp was not started: {reason}")

    def command(served_name: str, port: int) -> list[str]:
        names = ["--folder", str(model_path), "--alias", served_name, "--port", str(port)]
        return [sys.executable, "-P", str(PROGRAM), *names, *identity.options]

    return start(
        variant,
        model_path,
        results,
        Launch("llama", identity, window, command, {}, KEY_VARIABLE, SLOTS),
        ready_within_s,
    )


def obstacle(model_path: Path, results: Path) -> str:
    """Why the server would end before it is ready; "" when no reason is known."""
    if full := full_disk(results):
        return full
    needed, available = (model_path / GGUF).stat().st_size, machine.memory_bytes()
    if needed <= available:
        return ""
    return f"its weights need {needed / 2**30:.1f} GiB, and this machine has {available / 2**30:.1f} GiB of memory."
