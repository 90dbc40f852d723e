"""Find vLLM's environment, or make it in the cache.

vLLM's compressed-tensors contradicts llm-compressor's, so vLLM has an environment of its own. Its Python is the first
of these that exists:

    $QUANTGATE_SERVING_PYTHON
    .venv-serving                       beside the environment that quantgate runs in: `make` makes it in a checkout
    CACHE/serving-ACCELERATOR-HASH      `quantgate setup` and the first `quantgate run` make it
"""

import errno
import os
import shutil
import sys
from pathlib import Path

from quantgate.components.environments.virtual_environment import (
    Environment,
    InstallError,
    accelerator_here,
    make,
    only_one,
    rests_on,
    sha256_of,
)
from quantgate.components.storage.cache import cache_dir

LOCKS = Path(__file__).with_name("locks")
VARIABLE = "QUANTGATE_SERVING_PYTHON"
COMMAND = "quantgate setup"
DOWNLOAD = {"cpu": "about 1 GB to download, 2.5 GB on the disk", "cuda": "several GB to download, 10 GB on the disk"}
NEEDED_BYTES = {"cpu": 4_000_000_000, "cuda": 15_000_000_000}
"""Of the disk, while pip unpacks."""
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
"""The errors of a cache folder that is another user's, read-only, or a file."""


def serving_lock(accelerator: str) -> Path:
    """The lock of vLLM's environment for this accelerator."""
    return LOCKS / f"serving-{accelerator}.txt"


def serving_environment(folder: Path, accelerator: str, command: str = "make") -> Environment:
    """vLLM's environment in this folder."""
    return Environment("serving", folder, accelerator, serving_lock(accelerator), command)


def environment_in_cache(accelerator: str = "") -> Environment:
    """vLLM's environment in the cache, even if it does not exist yet; by default for this machine's accelerator."""
    chosen = accelerator or accelerator_here(remembered_accelerator())
    recipe = sha256_of(rests_on(chosen, serving_lock(chosen)))
    return serving_environment(cache_dir() / f"serving-{chosen}-{recipe[:12]}", chosen, COMMAND)


def accelerator_file() -> Path:
    """The file with the accelerator of `quantgate setup --accelerator`, for later runs."""
    return cache_dir() / "serving-accelerator"


def remembered_accelerator() -> str:
    """The accelerator that was chosen on this machine; empty if nvidia-smi decides."""
    file = accelerator_file()
    return file.read_text().strip() if file.exists() else ""


def python_beside() -> Path:
    """Where `make` puts vLLM's Python in a checkout."""
    return Path(sys.prefix).parent / ".venv-serving" / "bin" / "python"


def python_outside_cache() -> Path | None:
    """The Python that $VARIABLE names, which may not exist, or the one that `make` installed."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen)
    return python_beside() if python_beside().exists() else None


def find_python() -> Path | None:
    """vLLM's Python; None if its environment does not exist yet."""
    if python := python_outside_cache():
        return python
    environment = environment_in_cache()
    return environment.python if environment.is_current() else None


def how_to_get_vllm(python: Path) -> str:
    """What a user does when this Python is missing or has no vLLM."""
    if os.environ.get(VARIABLE):
        return f"Set {VARIABLE} to a Python that has vLLM, or unset it and run `{COMMAND}`."
    if python == python_outside_cache():
        return f"Run `make environments`, or remove {python.parents[1]} and run `{COMMAND}`."
    return f"Run `{COMMAND}`, or set {VARIABLE} to a Python that has vLLM."


def how_to_change_accelerator(python: Path, accelerator: str) -> str:
    """How to change the accelerator of vLLM's Python, which is outside the cache."""
    if os.environ.get(VARIABLE):
        return f"Unset {VARIABLE}, then run `{COMMAND} --accelerator {accelerator}` again."
    return f"Run `make environments ACCELERATOR={accelerator}`, or remove {python.parents[1]} and run this again."


def make_in_cache(accelerator: str = "") -> None:
    """Make vLLM's environment in the cache, unless it is complete, and store the accelerator; raises InstallError.

    If another process is making it, wait and use the result. An incomplete environment is removed.
    """
    environment = environment_in_cache(accelerator)
    folder = environment.folder
    try:
        if not environment.is_current():
            folder.parent.mkdir(parents=True, exist_ok=True)
            waiting = f"Another process is making {folder}; waiting for it."
            with only_one(folder.with_name(f"{folder.name}.lock"), waiting) as held:
                if not environment.is_current():
                    announce(environment)
                    make_or_remove(environment, held)
        if accelerator:
            accelerator_file().write_text(f"{accelerator}\n")
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise InstallError(
            f"Cannot write to {error.filename}: {error.strerror}. Set QUANTGATE_CACHE to a folder that you may write "
            f"to, then run `{COMMAND}` again."
        ) from None


def announce(environment: Environment) -> None:
    """Print where the environment is made, how large it is and how to stop; raises InstallError on a small disk."""
    accelerator, folder = environment.accelerator, environment.folder
    shutil.rmtree(folder, ignore_errors=True)  # an interrupted one takes space
    free = shutil.disk_usage(folder.parent).free
    if free < NEEDED_BYTES[accelerator]:
        raise InstallError(
            f"The disk of {folder.parent} has {free / 1e9:.1f} GB free; vLLM's environment needs "
            f"{NEEDED_BYTES[accelerator] / 1e9:.0f} GB. Make room, or set QUANTGATE_CACHE to a folder on another disk; "
            f"then run `{COMMAND}` again."
        )
    print(f"Making vLLM's environment in {folder}: {DOWNLOAD[accelerator]}, once.", flush=True)
    print(f"Ctrl-C stops it. To use a vLLM that is installed already, set {VARIABLE}.", flush=True)
    for other in sorted(path for path in folder.parent.glob(f"serving-{accelerator}-*") if path.is_dir()):
        print(f"This version of quantgate does not use {other}: remove it if no other one does.", flush=True)


def make_or_remove(environment: Environment, held: int) -> None:
    """Make the environment; after a failure or Ctrl-C its folder is removed, and its log stays."""
    try:
        make(environment, held)
    finally:
        if not environment.is_current():
            shutil.rmtree(environment.folder, ignore_errors=True)
