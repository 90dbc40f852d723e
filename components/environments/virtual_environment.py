"""Build a virtual environment from a lock, and rebuild it when its pins change.

Every file that pip downloads is compared with the sha256 in the lock, but for PyTorch's CPU build, which the package
index does not have. A finished environment gets a stamp: a fingerprint of everything that it is built from. An
interrupted installation has no stamp and is rebuilt.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantgate.components.errors import PrerequisiteError

PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
TORCH_FOR_CUDA = Path(__file__).with_name("locks") / "torch-cuda.txt"
"""The package index's build of torch, and the CUDA libraries that it needs."""
HASHED = ("--no-deps", "--require-hashes")
"""pip's options for a lock: install what it lists and nothing else, and only files with its hashes."""
LAST_LINES = 20
STOPPED_WITHIN_S = 5.0
ACCELERATORS = ("cpu", "cuda")

DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded")
NO_NETWORK = re.compile(r"connection broken by|Max retries exceeded|Temporary failure in name resolution")
"""pip's message for an unreachable index. Its last line names only the missing package."""
OTHER_FILES = re.compile(r"DO NOT MATCH THE HASHES")
OTHER_FILE = re.compile(r"^ +(\S+) from (\S+)")
"""pip's message for a file with another hash than the lock's, and its line that names package and address."""


class InstallError(PrerequisiteError):
    """An environment could not be made; the message says which stage failed, why, and where the log is."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment: its folder, its lock, and its build of torch."""

    name: str
    folder: Path
    accelerator: str
    """`cuda` or `cpu`."""
    lock: Path
    """The file with the exact version of every package."""
    command: str = "make"
    """The user's command that makes it."""
    checkout: Path | None = None
    """The sources of quantgate that are installed into it, editable; None for an environment without quantgate."""

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.folder / "bin" / "python"

    @property
    def log(self) -> Path:
        """The installation's output."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def stamp(self) -> Path:
        """The file with the fingerprint; it exists only in a finished environment."""
        return self.folder / "quantgate-environment"

    def fingerprint(self) -> str:
        """A hash of everything that the environment is built from; the sources and the tools' settings do not count."""
        parts: list[object] = [str(self.folder), *rests_on(self.accelerator, self.lock)]
        if self.checkout:
            pyproject = tomllib.loads((self.checkout / "pyproject.toml").read_text())
            parts += [pyproject["project"], pyproject["build-system"], pyproject["tool"]["setuptools"]]
        return sha256_of(parts)

    def is_current(self) -> bool:
        """Whether the environment is complete and was built from the current lock and settings."""
        return self.python.exists() and self.stamp.exists() and self.stamp.read_text() == self.fingerprint()

    def say(self, sentence: str) -> None:
        """Print one line of progress."""
        print(f"{self.folder.name}: {sentence}", flush=True)


def rests_on(accelerator: str, lock: Path) -> list[object]:
    """The values that determine which files pip installs: accelerator, Python, machine and lock."""
    cuda = [TORCH_FOR_CUDA.read_text()] if accelerator == "cuda" else []
    return [accelerator, *sys.version_info[:2], platform.machine(), lock.read_text(), *cuda]


def sha256_of(parts: list[object]) -> str:
    """The hash of the values, written as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def pins_in(lock: Path) -> dict[str, str]:
    """Each package of a lock and its version."""
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", lock.read_text(), re.MULTILINE))


def part_of(lock: Path, *packages: str) -> str:
    """The lines of a lock for these packages, with their hashes."""
    entries = re.findall(r"^([\w.-]+)(==.*(?:\n +--hash=.*)*\n)", lock.read_text(), re.MULTILINE)
    return "".join(f"{name}{rest}" for name, rest in entries if name in packages)


def accelerator_here(remembered: str = "") -> str:
    """The value of $ACCELERATOR, else the stored choice, else `cuda` on a machine with an NVIDIA GPU, else `cpu`."""
    chosen = os.environ.get("ACCELERATOR", "")
    if chosen not in ("", *ACCELERATORS):
        raise InstallError(f"ACCELERATOR is {chosen!r}. Choose from: {', '.join(ACCELERATORS)}; or leave it out.")
    if chosen or remembered:
        return chosen or remembered
    listed = shutil.which("nvidia-smi") and subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False)
    return "cuda" if listed and listed.returncode == 0 else "cpu"


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Interrupt the process, if Ctrl-C did not, and wait until pip has removed its downloads."""
    for number in (0, signal.SIGINT):  # 0 does nothing: a second SIGINT would cut pip's tidying short
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOPPED_WITHIN_S)
            return
    process.kill()


@contextlib.contextmanager
def only_one(lock: Path, waiting: str) -> Iterator[int]:
    """Lock the file; print `waiting` if another process has locked it. Yields the file's descriptor."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(waiting, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def make(environment: Environment, held: int) -> None:
    """Make the environment unless it is current; raises InstallError. `held` is the lock file's descriptor."""
    if environment.is_current():
        return
    check_venv(environment)
    began = time.monotonic()
    environment.say(f"making the {environment.name} environment for {environment.accelerator}; log: {environment.log}")
    shutil.rmtree(environment.folder, ignore_errors=True)
    environment.log.write_text("")
    stage = Stage(environment, held)
    stage.run("an empty environment", [sys.executable, "-m", "venv", str(environment.folder)])
    pins = pins_in(environment.lock)
    # Without isolation the few source packages are built by this setuptools: one download instead of one a package.
    tools = environment.folder / "tools.txt"
    tools.write_text(part_of(environment.lock, "pip", "setuptools"))
    stage.pip("pip and setuptools", *HASHED, "-r", str(tools))
    install_torch(stage, pins["torch"])
    stage.pip(f"{len(pins)} packages", *HASHED, "--no-build-isolation", "-r", str(environment.lock))
    if environment.checkout:  # by itself, as pip has no hash for a folder
        stage.pip("quantgate itself", "--no-deps", "--no-build-isolation", "-e", str(environment.checkout))
    environment.stamp.write_text(environment.fingerprint())
    environment.say(f"ready after {time.monotonic() - began:.0f} s")


def check_venv(environment: Environment) -> None:
    """Raise InstallError if this Python cannot make a virtual environment, e.g. Debian's without python3-venv."""
    missing = [module for module in ("venv", "ensurepip") if importlib.util.find_spec(module) is None]
    if missing:
        raise InstallError(
            f"{sys.executable} has no module {' nor '.join(missing)}, so it cannot make a virtual environment. "
            f"Debian, Ubuntu: apt-get install python3-venv. Then run `{environment.command}` again."
        )


def install_torch(stage: "Stage", version: str) -> None:
    """Install torch's CUDA build from its lock, or its CPU build.

    The lock has no hash of the CPU build: the package index does not have it, so the file comes from pip's own sources
    on this machine, or from PyTorch.
    """
    if stage.environment.accelerator == "cuda":
        # Resolved and installed from, but never run: there was no GPU to run it on.
        return stage.pip(f"torch {version} for CUDA", *HASHED, "-r", str(TORCH_FOR_CUDA))
    cpu_build = f"torch=={version}+cpu"
    for where, options in (
        ("from pip's own sources", []),
        # Only this command may look there: where it is unreachable pip loses 8 s on every package it asks for.
        ("from PyTorch", ["--extra-index-url", PYTORCH_CPU_INDEX, "--retries", "1", "--timeout", "15"]),
    ):
        try:
            return stage.pip(f"{cpu_build} {where}", "--no-deps", *options, cpu_build)
        except DiskFullError:
            raise
        except InstallError:
            continue
    stage.environment.say(f"no {cpu_build} there nor at {PYTORCH_CPU_INDEX}: taking the CUDA build, 4 GB larger")
    return stage.pip(f"torch {version}", *HASHED, "-r", str(TORCH_FOR_CUDA))


class DiskFullError(InstallError):
    """The disk is full, so another build of the package would not fit either."""


@dataclass(frozen=True)
class Stage:
    """Runs the commands that make an environment; prints a line for each, and writes its output to the log."""

    environment: Environment
    held: int

    def pip(self, what: str, *arguments: str) -> None:
        """Install with the environment's own pip."""
        install = [str(self.environment.python), "-m", "pip", "install", "--disable-pip-version-check"]
        self.run(what, [*install, *arguments])

    def run(self, what: str, command: Sequence[str]) -> None:
        """Run the command; raises InstallError with the cause, or with the last lines of its output."""
        began = time.monotonic()
        with self.environment.log.open("a+") as log:
            log.write(f"\n$ {' '.join(command)}\n")
            log.flush()
            start = log.tell()
            # The child holds the lock too: as long as it lives, no other process touches this folder.
            where, nothing = self.environment.folder.parent, subprocess.DEVNULL
            with subprocess.Popen(
                command, stdin=nothing, stdout=log, stderr=log, pass_fds=[self.held], cwd=where
            ) as process:
                try:
                    status = process.wait()
                except KeyboardInterrupt:
                    stop(process)
                    raise
            log.seek(start)
            lines = log.readlines()
        if status != 0:
            raise self.failure(what, lines)
        self.environment.say(f"{what}, {time.monotonic() - began:.0f} s")

    def failure(self, what: str, lines: list[str]) -> InstallError:
        """The error of a command that printed these lines."""
        environment = self.environment
        happened = f"{environment.folder.name}: {what} failed."
        again = f"then run `{environment.command}` again. Log: {environment.log}"
        if any(DISK_FULL.search(line) for line in lines):
            where = f"the disk of {environment.folder.parent} or of {tempfile.gettempdir()}"
            return DiskFullError(f"{happened} No space is left on {where}. Make room, {again}")
        if any(OTHER_FILES.search(line) for line in lines):
            others = ", ".join(f"{match[1]} ({match[2]})" for line in lines if (match := OTHER_FILE.match(line)))
            return InstallError(
                f"{happened} The index has other files than those that the lock {environment.lock.name} was made of: "
                f"{others}. Nobody should install them: find out who changed them, or use another index "
                f"(PIP_INDEX_URL); {again}"
            )
        if any(NO_NETWORK.search(line) for line in lines):
            index = "The package index is unreachable."
            return InstallError(f"{happened} {index} Check the network, or set PIP_INDEX_URL to a mirror; {again}")
        return InstallError(f"{happened}\n{''.join(lines[-LAST_LINES:])}Log: {environment.log}")
