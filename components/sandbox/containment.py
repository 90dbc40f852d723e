"""What holds a program that a language model wrote: what stands inside the sandbox and what it may take.

Bubblewrap gives the program its own user, process, network, IPC and host name space, an empty environment, no
capability, and a read-only file system with the Python interpreter and the system's libraries: no home, no /proc, no
/sys. Only /tmp can be written, a file system in memory with a size limit. Whoever runs this needs no privilege; for
root the same holds.
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
"""A program whose result depends on the order of a set gives the same verdict each time."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
SYSTEM = ("/lib", "/lib32", "/lib64", "/bin")
VARIABLE = "QUANTGATE_CONTAINMENT"


class Containment(StrEnum):
    """What holds a program."""

    BUBBLEWRAP = "bubblewrap"
    POD = "pod"
    """The pod that this process runs in: no secret, no network, an ordinary user, nothing of value, limits on memory,
    disk and processes. The limits and refused system calls of inside.py hold as ever, but a program sees this
    process's files and writes what it may write."""
    JOB = "job"
    """Such a pod, which this process starts on the cluster that it is on: see job.py."""


def chosen_containment() -> Containment:
    """What QUANTGATE_CONTAINMENT says, else bubblewrap; raises PrerequisiteError for another word."""
    word = os.environ.get(VARIABLE, Containment.BUBBLEWRAP.value)
    if word not in list(Containment):
        raise PrerequisiteError(
            f"{VARIABLE} is {word!r}. Set it to job on a cluster, to pod where this process runs in a locked-down pod, "
            "else unset it."
        )
    return Containment(word)


@dataclass(frozen=True)
class Outcome:
    """How one program ended."""

    passed: bool
    """Its last statement was reached: what it asserts held."""
    reason: str
    """Empty when it passed, else the name of what it raised or the limit that it went over."""


@dataclass(frozen=True)
class Limits:
    """What one program may take; it is one process, and starting another is refused."""

    seconds: float = 10.0
    """Of processor time, rounded up; on the clock PATIENCE times as long, as others may be computing beside it."""
    memory_bytes: int = 1 << 30
    """Of address space, some 50 MB for the interpreter itself included."""
    threads: int = 16
    output_bytes: int = 1 << 20
    """Dropped; an honest program that prints a lot is not failed for it, an endless one is stopped."""
    scratch_bytes: int = 16 << 20
    scratch_files: int = 1000


def command(channel: int, limits: Limits, containment: Containment) -> list[str]:
    """What starts inside.py with that file descriptor; PrerequisiteError where bubblewrap is not installed."""
    interpreter = str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())
    python = [interpreter, "-s", "-S", "-B", "-P", "-X", "utf8"]
    if containment is Containment.POD:
        return [*python, str(INSIDE), str(channel)]
    installed = shutil.which("bwrap")
    if installed is None:
        raise PrerequisiteError(
            "Programs that a model wrote are only run in a sandbox, and bubblewrap is not installed."
            " Install it: `apt-get install bubblewrap` or `dnf install bubblewrap`."
        )
    spaces = [f"--unshare-{each}" for each in ("user", "pid", "ipc", "net", "uts", "cgroup-try")]
    shut = ["--uid", NOBODY, "--gid", NOBODY, "--hostname", "sandbox", "--new-session", "--die-with-parent"]
    emptied = [
        "--cap-drop",
        "ALL",
        "--clearenv",
        *(word for pair in ENVIRONMENT.items() for word in ("--setenv", *pair)),
    ]
    room = ["--size", str(limits.scratch_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp", "--remount-ro", "/"]
    return [installed, *spaces, *shut, *emptied, *mounts(), *room, "--", *python, "/inside.py", str(channel)]


def mounts() -> Iterator[str]:
    """The options that put the interpreter, the system's libraries and four devices there, all but these read-only."""
    yield from ("--ro-bind", "/usr", "/usr")
    for each in map(Path, SYSTEM):
        if each.is_symlink():
            yield from ("--symlink", str(each.readlink()), str(each))
        elif each.exists():
            yield from ("--ro-bind", str(each), str(each))
    yield from ("--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache")
    prefix = Path(sys.base_prefix).resolve()
    if not prefix.is_relative_to("/usr"):
        yield from ("--ro-bind", str(prefix), str(prefix))
    yield from ("--ro-bind", str(INSIDE), "/inside.py")
    for device in DEVICES:
        yield from ("--dev-bind", device, device)
