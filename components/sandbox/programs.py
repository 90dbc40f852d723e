"""Run programs that a language model wrote, always in a sandbox, for pass@1 of HumanEval and MBPP."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from quantgate.components.errors import PrerequisiteError
from quantgate.components.sandbox.contained_run import run_contained
from quantgate.components.sandbox.containment import (
    Containment,
    Limits,
    NoBubblewrapError,
    Outcome,
    Program,
    chosen_containment,
)

__all__ = ["Containment", "Limits", "Outcome", "Program", "check_sandbox", "run_programs"]

TRIVIAL = Program("def zeros(count):\n    return bytearray(count)", "assert len(zeros(1 << 20)) == 1 << 20")
PAUSES_S = (1.0, 5.0)
"""Before a program that something else killed runs again; if it is killed each time, it is the cause itself."""


def ignore(_number: int, _outcome: Outcome) -> None:
    """The default callback: do nothing."""


def run_programs(
    programs: Sequence[Program],
    on_done: Callable[[int, Outcome], None] = ignore,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    workers: int | None = None,
    containment: Containment | None = None,
    purpose: str = "programs",
) -> list[Outcome]:
    """Each program's outcome, in the given order; `on_done` gets the number and the outcome of each program that ends.

    `workers` programs run at the same time, by default one for each processor; in a pod one. `containment` defaults to
    `QUANTGATE_CONTAINMENT`. On a cluster `purpose` (the variant) is a part of the Job's name. Raises PrerequisiteError
    if there is no sandbox: a program that did not run has no outcome.
    """
    sandbox = containment or chosen_containment()
    if not programs:
        return []
    if sandbox is Containment.JOB:
        from quantgate.components.sandbox.job import run_in_job

        return run_in_job(programs, on_done, limits, purpose)
    check_sandbox(sandbox, limits)

    def outcome(program: Program) -> Outcome:
        run = run_contained(program, limits, sandbox)
        for pause_s in PAUSES_S if run.killed else ():
            time.sleep(pause_s)
            run = run_contained(program, limits, sandbox)
            if not run.killed:
                break
        reason = run.reason()
        return Outcome(passed=not reason, reason=reason)

    at_once = 1 if sandbox is Containment.POD else workers or processors()
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="execute")
    try:
        running = {pool.submit(outcome, program): number for number, program in enumerate(programs)}
        for future in as_completed(running):
            on_done(running[future], future.result())
        return [future.result() for future in running]
    finally:
        pool.shutdown(cancel_futures=True)


def processors(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """How many processors this process may use: those that it is bound to, at most the container's quota."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        most, period = quota.read_text(encoding="ascii").split()
        return max(1, min(available, int(most) // int(period)))
    except (OSError, ValueError):  # not in a container, or "max"
        return available


def check_sandbox(containment: Containment | None = None, limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
    """Run a trivial program; raises PrerequisiteError that says what to install or to allow if that fails."""
    sandbox = containment or chosen_containment()
    try:
        if sandbox is Containment.JOB:
            reason = run_programs([TRIVIAL], limits=limits, containment=sandbox, purpose="check")[0].reason
        else:
            reason = run_contained(TRIVIAL, limits, sandbox).reason()
    except NoBubblewrapError:
        raise
    except PrerequisiteError as error:
        if sandbox is not Containment.BUBBLEWRAP:
            raise
        raise PrerequisiteError(
            f"{error}\nPrograms that a model wrote run only in a sandbox, which needs bubblewrap 0.7 or newer and"
            " user namespaces. To allow these: `sysctl -w kernel.unprivileged_userns_clone=1` (Debian), `sysctl -w"
            " kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu), `sysctl -w user.max_user_namespaces=10000`"
            " (Red Hat). Start a container with user namespaces allowed."
        ) from error
    if reason:
        raise PrerequisiteError(f"A trivial program fails in the sandbox: {reason}. Are the limits too small? {limits}")
