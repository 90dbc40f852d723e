"""Run hostile programs as they are contained on one machine, or in a stand-in for the pod of programs.

The pod is bubblewrap: process 1 is this module, without capabilities, as an ordinary user of a user namespace, with a
read-only root, a /tmp and a /proc of its own. As in pod.py, this process is not dumpable.
"""

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from quantgate.components.sandbox.contained_run import run_contained
from quantgate.components.sandbox.containment import Containment, Limits, Program, find_bubblewrap
from quantgate.components.sandbox.refused_calls import (
    ALLOW,
    AT_NUMBER,
    EQUALS,
    LOAD,
    PR_SET_DUMPABLE,
    RETURN,
    UNKNOWN,
    control,
)

ROOT = Path(__file__).parents[2]
LANDLOCK_CREATE_RULESET = 444


@dataclass(frozen=True)
class Seen:
    """How a program ended, and what it printed."""

    reason: str
    output: str
    seconds: float


def run_here(programs: Sequence[Program], limits: Limits, containment: Containment, at_once: int) -> list[Seen]:
    """What was seen of each program."""

    def see(program: Program) -> Seen:
        started = time.monotonic()
        run = run_contained(program, limits, containment)
        return Seen(run.reason(), run.output.decode(errors="replace"), time.monotonic() - started)

    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(see, programs))


def run_in_pod(programs: Sequence[Program], limits: Limits, at_once: int, *, landlock: bool = True) -> list[Seen]:
    """What was seen of each program in a pod, whose kernel may lack Landlock."""
    job = {"programs": [asdict(program) for program in programs], "limits": asdict(limits), "at_once": at_once}
    with without_landlock() as filter_file:
        options = ["--unshare-all", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL", "--as-pid-1"]
        options += [
            "--ro-bind",
            "/",
            "/",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--size",
            "268435456",
            "--tmpfs",
            "/tmp",
            "--ro-bind",  # the checkout may lie in /tmp
            str(ROOT),
            str(ROOT),
            "--chdir",
            str(ROOT),
        ]
        options += [] if landlock else ["--seccomp", str(filter_file)]
        command = [find_bubblewrap(), *options, "--", sys.executable, "-m", "tests.support.hostile_run"]
        ran = subprocess.run(
            command, input=json.dumps(job), capture_output=True, text=True, check=True, pass_fds=(filter_file,)
        )
    return [Seen(**seen) for seen in json.loads(ran.stdout)]


@contextmanager
def without_landlock() -> Iterator[int]:
    """A file with a filter of system calls, for which the kernel does not know Landlock."""
    instructions = [(LOAD, 0, 0, AT_NUMBER), (EQUALS, 0, 1, LANDLOCK_CREATE_RULESET)]
    instructions += [(RETURN, 0, 0, UNKNOWN), (RETURN, 0, 0, ALLOW)]
    read, write = os.pipe()
    os.write(write, b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions))
    os.close(write)
    yield read
    os.close(read)


def main() -> None:
    """Be the pod: run the job on standard input and print what was seen."""
    control(PR_SET_DUMPABLE, 0)
    job = json.load(sys.stdin)
    programs = [Program(**program) for program in job["programs"]]
    seen = run_here(programs, Limits(**job["limits"]), Containment.POD, job["at_once"])
    print(json.dumps([asdict(one) for one in seen]))


if __name__ == "__main__":
    main()
