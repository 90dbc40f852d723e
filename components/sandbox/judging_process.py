"""The script inside the sandbox, which runs one program that a model wrote and judges it with the benchmark's tests.

    python -s -S -B -P -X utf8 -c START ROOT CHANNEL < JOB

JOB is JSON: `program`, `tests`, `scratch` (a folder in a pod), and the limits `seconds`, `memory_bytes`, `file_bytes`.
CHANNEL is a pipe to the owner. This process forks before it reads JOB:

    the judge (judge.py)              has the tests and CHANNEL, runs the tests, and writes how they ended
    the program (served_program.py)   has two pipes to the judge, and answers its calls with values

The program's process never had the tests, the job or CHANNEL, so it has no verdict to write: it can only return wrong
values. It cannot reach the judge either: the judge is not dumpable, so no process of its user opens its memory or its
files, and a filter refuses the calls that act on another process, or start one. The kernel enforces the limits on each
of the two.
"""

import contextlib
import json
import os
import resource
import signal
import sys
from typing import Any, NoReturn

from quantgate.components.sandbox.judge import RemoteProgram, judge
from quantgate.components.sandbox.landlock import confine_files
from quantgate.components.sandbox.refused_calls import PR_SET_DUMPABLE, PR_SET_PDEATHSIG, control, refuse
from quantgate.components.sandbox.served_program import serve
from quantgate.components.sandbox.values import ClosedError, Conversation, InvalidMessageError, UnsentError

READY = b"ready\n"
PASSED, RAISED, INVALID, ENDED, UNSENT = "passed", "raised", "invalid", "ended", "unsent"
"""A verdict's first word; the second is the exception, the program's exit status, or what the tests could not send."""
PATIENCE = 3
"""A program's wall time limit, as a multiple of its processor time limit."""
OPEN_FILES = 64


def main() -> None:
    """Judge the job on standard input, write the verdict to the channel, and exit."""
    channel = int(sys.argv[1])
    die_with_parent()
    control(PR_SET_DUMPABLE, 0)
    (program_reads, judge_writes), (judge_reads, program_writes) = os.pipe(), os.pipe()
    process = os.fork()
    if not process:
        for number in (channel, judge_reads, judge_writes):
            os.close(number)
        be_program(Conversation(program_reads, program_writes))
    for number in (program_reads, program_writes):
        os.close(number)
    job = json.load(sys.stdin)
    be_confined(job["limits"])
    conversation = Conversation(judge_reads, judge_writes)
    conversation.send({name: job[name] for name in ("limits", "scratch")})
    conversation.receive()
    os.write(channel, READY)
    os.write(channel, f"{verdict(job, conversation, process)}\n".encode())
    conversation.close()  # at which the program leaves
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process, 0)
    os._exit(0)


def be_program(judge: Conversation) -> NoReturn:
    """Be the program's process: confined first, then at the judge's service."""
    die_with_parent()
    job = judge.receive()
    if job["scratch"]:
        confine_files(job["scratch"])
    be_confined(job["limits"])
    leave = os._exit  # saved, because the program can replace it
    judge.send("ready")
    try:
        serve(judge)
    finally:
        leave(1)  # at once: its atexit functions do not run and its threads end


def verdict(job: dict[str, Any], conversation: Conversation, process: int) -> str:
    """How the program and its tests ended."""
    try:
        judge(job["program"], job["tests"], RemoteProgram(conversation))
    except ClosedError:
        _, status = os.waitpid(process, 0)  # a program that closes its files and runs on meets the owner's time limit
        return f"{ENDED} {os.waitstatus_to_exitcode(status)}"
    except UnsentError as error:
        return f"{UNSENT} {error}"
    except InvalidMessageError:
        return INVALID
    except BaseException as error:  # noqa: BLE001 - whatever a test raises is the verdict
        return f"{RAISED} {type(error).__name__[:100]}"
    return PASSED


def be_confined(limits: dict[str, int]) -> None:
    """Confine this process: no input, no modules of this project, the limits, and the refused calls."""
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    sys.path.pop()
    for name in [name for name in sys.modules if name.partition(".")[0] == "quantgate"]:
        del sys.modules[name]
    limit(**limits)
    refuse()


def limit(seconds: int, memory_bytes: int, file_bytes: int) -> None:
    """Set this process's limits, which it cannot raise again."""
    # SIGXCPU comes first. The hard limit is so high that the owner's wall time stops a program that ignores SIGXCPU:
    # a SIGKILL then always has another cause.
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, PATIENCE * seconds * (os.cpu_count() or 1) + 1))
    for resource_kind, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        resource.setrlimit(resource_kind, (most, most))


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the one that started it ends."""
    control(PR_SET_PDEATHSIG, signal.SIGKILL)
